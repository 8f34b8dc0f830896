#include "server/state/redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/clock.h"
#include "server/state/redis_internal.h"

enum { PAUSE_MS = 20 };

struct redis_op *redis_op_create(enum redis_kind kind, enum disk_kind object, void *owner)
{
    struct redis_op *op = calloc(1, sizeof(*op));

    if (!op)
        return NULL;
    op->kind = kind;
    op->record.kind = object;
    op->owner = owner;
    return op;
}

void redis_op_free(struct redis_op *op)
{
    if (!op)
        return;
    free(op->record.note);
    if (!op->encode)
        free(op->file);
    free(op);
}

/* Under the mutex. false: it is later than `until` (monotonic seconds). */
static bool wait_until(struct redis_lane *lane, double until)
{
    struct timespec at = { .tv_sec = (time_t)until };

    at.tv_nsec = (long)((until - (double)at.tv_sec) * 1e9);
    return pthread_cond_timedwait(&lane->arrived, &lane->redis->mutex, &at) == 0;
}

bool redis_pause(struct redis_lane *lane)
{
    struct redis *r = lane->redis;
    double until = clock_seconds() + PAUSE_MS * 1e-3;
    bool stopping;

    pthread_mutex_lock(&r->mutex);
    while (!r->stopping && wait_until(lane, until))
        ;
    stopping = r->stopping;
    pthread_mutex_unlock(&r->mutex);
    return !stopping;
}

void redis_hold(struct redis *r, struct redis_lease *lease)
{
    pthread_mutex_lock(&r->mutex);
    lease->next = r->leases;
    r->leases = lease;
    r->counts.leases++;
    pthread_mutex_unlock(&r->mutex);
}

void redis_drop(struct redis *r, const struct id *token)
{
    struct redis_lease **at, *lease;

    pthread_mutex_lock(&r->mutex);
    for (at = &r->leases; *at && !id_equal(&(*at)->token, token);)
        at = &(*at)->next;
    lease = *at;
    if (lease) {
        *at = lease->next;
        r->counts.leases--;
    }
    while (lease && r->renewing == lease)
        pthread_cond_wait(&r->finished, &r->mutex);
    pthread_mutex_unlock(&r->mutex);
    free(lease);
}

void redis_noticed(struct redis *r, bool away, const char *why)
{
    char what[sizeof(((struct error *)0)->message) + REDIS_URL_BYTES + 64];
    char where[REDIS_URL_BYTES + 32];
    bool changed;

    pthread_mutex_lock(&r->mutex);
    changed = r->counts.away != away;
    r->counts.away = away;
    pthread_mutex_unlock(&r->mutex);
    if (!changed || !r->options.report)
        return;
    redis_url_show(&r->url, where);
    if (away)
        snprintf(what, sizeof(what), "Redis at %s does not serve: %s", where, why);
    else
        snprintf(what, sizeof(what), "Redis at %s serves again", where);
    r->options.report(r->options.arg, what);
}

/* Under the mutex. The lease that is due first, NULL when none is renewed. */
static struct redis_lease *next_due(const struct redis *r)
{
    struct redis_lease *first = NULL;

    for (struct redis_lease *l = r->leases; l; l = l->next)
        if (!l->lost && (!first || l->renew_at < first->renew_at))
            first = l;
    return first;
}

/* Under the mutex, which it lets go meanwhile. */
static void renew(struct redis_lane *lane, struct redis_lease *lease)
{
    struct redis *r = lane->redis;
    double asked = clock_seconds();
    enum redis_verdict v;
    struct error err;

    r->renewing = lease;
    pthread_mutex_unlock(&r->mutex);
    v = redis_renew(lane, lease, &err);
    pthread_mutex_lock(&r->mutex);
    r->renewing = NULL;
    lease->lost = v == REDIS_LOST;
    r->counts.lost += lease->lost;
    lease->renew_at = v == REDIS_DONE ? asked + r->options.lease_ms * 1e-3 / 3
                                      : clock_seconds() + PAUSE_MS * 1e-3;
    pthread_cond_broadcast(&r->finished);
}

/* Under the mutex. The next operation, NULL when the lane is to end. Renews what is due. */
static struct redis_op *take_op(struct redis_lane *lane)
{
    struct redis *r = lane->redis;
    struct redis_op *op;

    for (;;) {
        struct redis_lease *due = lane == &r->lane[LANE_SMALL] ? next_due(r) : NULL;

        if (due && due->renew_at <= clock_seconds())
            renew(lane, due);
        else if (lane->queue || r->stopping)
            break;
        else if (due)
            wait_until(lane, due->renew_at);
        else
            pthread_cond_wait(&lane->arrived, &r->mutex);
    }
    op = lane->queue;
    if (!op)
        return NULL;
    lane->queue = op->next;
    if (!lane->queue)
        lane->queue_end = &lane->queue;
    op->next = NULL;
    return op;
}

/* Under the mutex. */
static void count(struct redis *r, const struct redis_op *op)
{
    r->counts.ops++;
    r->counts.busy += op->verdict == REDIS_BUSY;
    r->counts.lost += op->verdict == REDIS_LOST;
    r->counts.failed += op->verdict >= REDIS_DAMAGED;
}

/* Under the mutex, by whom the link is. */
static void count_connects(struct redis_lane *lane)
{
    lane->redis->counts.connects += lane->link.connects - lane->connects;
    lane->connects = lane->link.connects;
}

/* A lease whose turn will not come back any more: the server is closing. */
static void give_leases_back(struct redis *r)
{
    struct redis_lane *lane = &r->lane[LANE_SMALL];
    struct redis_lease *lease;

    while ((lease = r->leases)) {
        r->leases = lease->next;
        redis_give_back(lane, lease);
        free(lease);
    }
}

static void *run_lane(void *arg)
{
    struct redis_lane *lane = arg;
    struct redis *r = lane->redis;
    struct redis_op *op;

    pthread_mutex_lock(&r->mutex);
    while ((op = take_op(lane))) {
        lane->busy = true;
        pthread_mutex_unlock(&r->mutex);
        redis_do(lane, op);
        pthread_mutex_lock(&r->mutex);
        lane->busy = false;
        r->queued_bytes -= op->queued;
        count(r, op);
        count_connects(lane);
        *r->done_end = op;
        r->done_end = &op->next;
        pthread_cond_broadcast(&r->finished);
        pthread_mutex_unlock(&r->mutex);
        if (r->options.wake)
            r->options.wake(r->options.arg);
        pthread_mutex_lock(&r->mutex);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static void name_model(struct redis *r)
{
    char *at = r->model;

    for (size_t i = 0; i < sizeof(r->options.fingerprint); i++, at += 2)
        snprintf(at, 3, "%02x", r->options.fingerprint[i]);
    snprintf(at, REDIS_MODEL_BYTES - (size_t)(at - r->model), "/%016llx",
             (unsigned long long)r->options.layout);
}

static struct redis *create(const struct redis_options *options)
{
    struct redis *r = calloc(1, sizeof(*r));
    pthread_condattr_t monotonic;

    if (!r)
        return NULL;
    r->options = *options;
    r->url = *options->url;
    r->options.url = &r->url;
    name_model(r);
    r->done_end = &r->done;
    pthread_mutex_init(&r->reading, NULL);
    pthread_mutex_init(&r->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&r->finished, &monotonic);
    for (int i = 0; i < REDIS_LANES; i++) {
        struct redis_lane *lane = &r->lane[i];

        lane->redis = r;
        lane->queue_end = &lane->queue;
        pthread_cond_init(&lane->arrived, &monotonic);
        redis_link_init(&lane->link, &r->url, options->timeout_ms);
    }
    pthread_condattr_destroy(&monotonic);
    return r;
}

static bool start(struct redis *r, struct error *err)
{
    for (int i = 0; i < REDIS_THREADS; i++)
        r->lane[i].started = pthread_create(&r->lane[i].thread, NULL, run_lane, &r->lane[i]) == 0;
    if (!r->lane[LANE_SMALL].started || !r->lane[LANE_STATES].started)
        return error_set(err, ERR_NOMEM, "no thread for Redis");
    return true;
}

struct redis *redis_open(const struct redis_options *options, struct error *err)
{
    struct redis *r = create(options);
    char where[REDIS_URL_BYTES + 32];
    struct error why;

    if (!r) {
        error_set(err, ERR_NOMEM, "no memory for the shared tier");
        return NULL;
    }
    for (int i = 0; i < REDIS_LANES; i++) {
        if (redis_link_connect(&r->lane[i].link, &why) == LINK_DONE)
            continue;
        redis_url_show(&r->url, where);
        error_set(err, ERR_IO, "Redis at %.200s: %.256s", where, why.message);
        redis_close(r);
        return NULL;
    }
    if (!start(r, err)) {
        redis_close(r);
        return NULL;
    }
    return r;
}

static void free_ops(struct redis_op *op)
{
    for (struct redis_op *next; op; op = next) {
        next = op->next;
        redis_op_free(op);
    }
}

/* Accepts every half-opened state. */
void redis_close(struct redis *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->mutex);
    r->stopping = true;
    for (int i = 0; i < REDIS_LANES; i++)
        pthread_cond_signal(&r->lane[i].arrived);
    pthread_mutex_unlock(&r->mutex);
    for (int i = 0; i < REDIS_LANES; i++)
        if (r->lane[i].started)
            pthread_join(r->lane[i].thread, NULL);
    give_leases_back(r);
    free_ops(r->done);
    for (int i = 0; i < REDIS_LANES; i++) {
        redis_link_finish(&r->lane[i].link);
        pthread_cond_destroy(&r->lane[i].arrived);
    }
    pthread_cond_destroy(&r->finished);
    pthread_mutex_destroy(&r->mutex);
    pthread_mutex_destroy(&r->reading);
    free(r);
}

static bool carries_state(const struct redis_op *op)
{
    return op->kind == REDIS_COMMIT || (op->kind == REDIS_CREATE && (op->file || op->encode));
}

/* A lease that could not be given back would be renewed for ever. */
static bool is_counted(const struct redis_op *op)
{
    return op->kind != REDIS_LEAVE;
}

bool redis_submit(struct redis *r, struct redis_op *op)
{
    struct redis_lane *lane = &r->lane[carries_state(op) ? LANE_STATES : LANE_SMALL];
    bool room;

    pthread_mutex_lock(&r->mutex);
    room = !is_counted(op) || (r->queued < r->options.max_ops &&
                               (!op->file_len || !r->queued_bytes ||
                                r->queued_bytes + op->file_len <= r->options.max_bytes));
    if (room) {
        op->next = NULL;
        op->since = clock_seconds();
        op->queued = op->file_len;
        *lane->queue_end = op;
        lane->queue_end = &op->next;
        r->counts.waiting++;
        r->queued += is_counted(op);
        r->queued_bytes += op->queued;
        pthread_cond_signal(&lane->arrived);
    }
    pthread_mutex_unlock(&r->mutex);
    return room;
}

struct redis_op *redis_receive(struct redis *r)
{
    struct redis_op *op;

    pthread_mutex_lock(&r->mutex);
    op = r->done;
    if (op) {
        r->done = op->next;
        if (!r->done)
            r->done_end = &r->done;
        op->next = NULL;
        r->counts.waiting--;
        r->queued -= is_counted(op);
    }
    pthread_mutex_unlock(&r->mutex);
    return op;
}

bool redis_read(struct redis *r, const struct id *checkpoint, struct file_buffer *out,
                struct error *err)
{
    struct redis_lane *lane = &r->lane[LANE_READ];
    bool ok;

    pthread_mutex_lock(&r->reading);
    ok = redis_fetch(lane, checkpoint, out, err);
    pthread_mutex_lock(&r->mutex);
    r->counts.failed += !ok && err->code != ERR_INPUT;
    count_connects(lane);
    pthread_mutex_unlock(&r->mutex);
    pthread_mutex_unlock(&r->reading);
    return ok;
}

static bool at_work(const struct redis *r)
{
    for (int i = 0; i < REDIS_LANES; i++)
        if (r->lane[i].queue || r->lane[i].busy)
            return true;
    return false;
}

void redis_wait(struct redis *r)
{
    pthread_mutex_lock(&r->mutex);
    while (at_work(r))
        pthread_cond_wait(&r->finished, &r->mutex);
    pthread_mutex_unlock(&r->mutex);
}

struct redis_counts redis_counts(struct redis *r)
{
    struct redis_counts c;

    pthread_mutex_lock(&r->mutex);
    c = r->counts;
    pthread_mutex_unlock(&r->mutex);
    return c;
}
