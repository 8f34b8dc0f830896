#include "server/engine/engine.h"

#include <assert.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/clock.h"
#include "server/engine/engine_internal.h"
#include "server/engine/holds.h"
#include "server/engine/share.h"
#include "server/state/prefix.h"
#include "server/state/reader.h"
#include "server/state/tiers.h"

#define IDLE_SECONDS  0.1   /* the heartbeat of an engine with nothing to do */
#define BEAT_SECONDS  10.0  /* without a turn of its loop an engine has stopped, */
#define STEP_SECONDS  600.0 /* or in one step, which a slow machine may take minutes for */
#define SWEEP_SECONDS 1.0
#define REST_SECONDS  10.0
#define GIVE_BACK     (4u << 20) /* bytes of states gone that are worth a look at the heap */

const double engine_bucket_bound[ENGINE_BUCKETS] = { 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                     0.05,   0.1,   0.25,   0.5,   1,    2.5,
                                                     5,      10,    25,     60 };

void engine_observe(struct engine_histogram *h, double seconds)
{
    int i = 0;

    while (i < ENGINE_BUCKETS && seconds > engine_bucket_bound[i])
        i++;
    h->bucket[i]++;
    h->sum += seconds;
    h->count++;
}

struct event *engine_event(enum event_kind kind, struct command *c)
{
    struct event *event = calloc(1, sizeof(*event));

    if (!event)
        return NULL;
    event->kind = kind;
    event->command = c;
    return event;
}

void engine_post(struct engine *e, struct event *event)
{
    event_list_add(&e->events, event);
}

void engine_answer(struct engine *e, struct command *c)
{
    struct event *event = c->answer;

    share_leaves(e, c);
    c->answer = NULL;
    event->kind = EVENT_ANSWER;
    event->command = c;
    engine_post(e, event);
}

static void count_store(struct engine_counters *c, const struct journal_counts *n)
{
    c->store_ops = n->ops;
    c->store_failed = n->failed;
    c->store_commits = n->commits;
    c->store_reports = n->reports;
    c->store_waiting = n->waiting;
    c->anchors = n->anchors;
    c->anchor_bytes = n->anchor_bytes;
    c->anchors_dropped = n->anchors_dropped;
    c->redis = n->redis;
    c->shared = n->shared;
}

static void publish_counters(struct engine *e)
{
    struct journal_counts store = journal_counts(e);
    struct tiers_counts at = tiers_counts(e->tiers);
    struct engine_counters *c = &e->counters;

    c->queued = e->queued;
    c->running = e->running_count;
    c->sessions = (int)e->sessions.count;
    c->snapshots = (int)e->snapshots.count;
    c->slots = at.slots;
    c->slots_used = at.slots_used;
    c->devices = e->devices->count;
    memcpy(c->device, at.device, sizeof(c->device));
    c->spares = at.spares;
    c->spares_dropped = at.dropped;
    c->prefix_bytes = e->prefix ? prefix_bytes(e->prefix) : 0;
    c->slots_zeroed = at.zeroed;
    c->moves = at.moves;
    c->device_bytes = at.device_bytes;
    c->host_bytes = at.host_bytes;
    c->store_bytes = at.store_bytes;
    count_store(c, &store);
    c->lost = e->lost;
    c->heartbeat = clock_seconds();
    pthread_mutex_lock(&e->counters_lock);
    e->published = *c;
    pthread_mutex_unlock(&e->counters_lock);
}

void engine_computes(struct engine *e, bool begins)
{
    e->counters.computing = begins;
    e->counters.heartbeat = clock_seconds();
    pthread_mutex_lock(&e->counters_lock);
    e->published.computing = begins;
    e->published.heartbeat = e->counters.heartbeat;
    pthread_mutex_unlock(&e->counters_lock);
}

bool engine_is_well(const struct engine_counters *c, double now)
{
    return now - c->heartbeat < (c->computing ? STEP_SECONDS : BEAT_SECONDS);
}

static void publish(struct engine *e)
{
    publish_counters(e);
    if (mailbox_publish(&e->mailbox, &e->events))
        e->wake(e->wake_arg);
}

/* tiers.h's: a remembered one has no record any more. */
static void lost(void *engine, struct checkpoint *c)
{
    struct engine *e = engine;

    anchor_lost(e, c);
    cache_lost(e, c);
}

/* Small states lie in the heap among what lives on, which keeps the allocator from giving their
 * pages back by itself. What is kept to be used again goes when nobody has come for a while. */
static void give_back(struct engine *e, bool busy)
{
    size_t held = tiers_counts(e->tiers).host_bytes;
    double now = clock_seconds();

    if (held > e->most_held)
        e->most_held = held;
    if (busy)
        e->worked = now;
    else if (now - e->worked > REST_SECONDS) {
        e->worked = now;
        journal_rest(e);
        tiers_rest(e->tiers);
    }
    if (busy || e->most_held - held < GIVE_BACK)
        return;
    malloc_trim(0);
    e->most_held = held;
}

/* Nothing that a command does touches the states that a step works on, or what it reads. */
void engine_attend(struct engine *e)
{
    struct command *c;

    while (mailbox_has_command(&e->mailbox) && (c = mailbox_take(&e->mailbox, 0)))
        engine_obey(e, c);
    exports_answer(e);
    journal_go_on(e);
    if (e->events.first)
        publish(e);
}

/* Everything that waits, then a step; sleeps only when there is nothing to run. */
static void turn_loop(struct engine *e, bool busy)
{
    struct command *c = mailbox_take(&e->mailbox, busy ? 0 : IDLE_SECONDS);

    for (; c; c = mailbox_take(&e->mailbox, 0))
        engine_obey(e, c);
    if (mailbox_take_nudge(&e->mailbox))
        turn_cancel_marked(e);
    journal_poll(e);
    exports_answer(e);
    give_back(e, busy || e->running_count);
    if (clock_seconds() >= e->next_sweep && sessions_sweep(e))
        e->next_sweep = clock_seconds() + SWEEP_SECONDS;
}

/* What was answered is kept, and whoever waits for the store hears of it. */
static void close_down(struct engine *e)
{
    scheduler_settle(e);
    e->closing = true;
    scheduler_fail_all(e, PROBLEM_SHUTTING_DOWN, "the server is stopping");
    while (journal_busy(e) || e->leaving) {
        struct command *c = mailbox_take(&e->mailbox, IDLE_SECONDS);

        if (c)
            engine_obey(e, c);
        mailbox_take_nudge(&e->mailbox);
        journal_poll(e);
        exports_answer(e);
        scheduler_fail_all(e, PROBLEM_SHUTTING_DOWN, "the server is stopping");
    }
    sessions_clear(e);
    snapshots_clear(e);
    publish(e);
}

static void *run(void *arg)
{
    struct engine *e = arg;
    bool busy = false;

    while (!atomic_load(&e->stopping)) {
        turn_loop(e, busy);
        if (e->events.first) /* an answer does not wait for the step behind it */
            publish(e);
        busy = (!e->lost && scheduler_step(e)) || e->leaving || journal_awaits_move(e);
        publish(e);
    }
    close_down(e);
    return NULL;
}

int engine_max_logits(const struct engine_options *options)
{
    return options->max_batch + ENGINE_SCORE_ROWS;
}

static bool start(struct engine *e, struct error *err)
{
    const struct model_info *info = model_info(e->model);
    const struct engine_options *o = &e->options;
    const struct devices *devices = e->devices;
    const struct tiers_options options = { .record_bytes = info->layout.bytes,
                                           .log_bytes = info->log_bytes,
                                           .log_steps = info->log_steps,
                                           .slots = o->slots,
                                           .at_once = o->max_batch,
                                           .host_bytes = o->host_bytes,
                                           .spare_bytes = o->spare_bytes,
                                           .store = o->state_dir || o->redis,
                                           .store_bytes = o->store_bytes,
                                           .dropped = journal_dropped,
                                           .lost = lost,
                                           .arg = e };

    e->holds = holds_create(e->tokenizer);
    if (!e->holds)
        return error_set(err, ERR_NOMEM, "no memory for the engine");
    e->tiers = tiers_create(devices, &options, err);
    if (!e->tiers)
        return false;
    for (int i = 0; i < devices->count; i++)
        if (!model_prepare(devices->at[i].model, tiers_records(e->tiers, i), o->max_batch, err))
            return false;
    if (!cache_create(e) ||
        !mailbox_init(&e->mailbox, o->max_queue + devices->count * o->max_batch) ||
        !scheduler_init(e, engine_max_logits(o)))
        return error_set(err, ERR_NOMEM, "no memory for the engine's queues");
    if (!journal_open(e, err))
        return false;
    publish_counters(e);
    if (pthread_create(&e->thread, NULL, run, e) != 0)
        return error_set(err, ERR_NOMEM, "the engine's thread could not be started");
    e->started = true;
    return true;
}

struct engine *engine_create(const struct devices *devices, const struct tokenizer *tokenizer,
                             const struct engine_options *options, void (*wake)(void *arg),
                             void *arg, struct error *err)
{
    struct engine *e = calloc(1, sizeof(*e));
    const struct model *model = devices->at[0].model;
    int words = tokenizer_size(tokenizer), rows = model_info(model)->vocab;

    if (!e) {
        error_set(err, ERR_NOMEM, "no memory for the engine");
        return NULL;
    }
    assert(options->row_budget > options->max_batch && options->slots > 0);
    e->devices = devices;
    e->model = model;
    e->tokenizer = tokenizer;
    e->options = *options;
    if (!e->options.history_tokens)
        e->options.history_tokens = LIMIT_HISTORY_TOKENS;
    e->wake = wake;
    e->wake_arg = arg;
    e->vocab = words < rows ? words : rows;
    e->counters.state_bytes = model_info(model)->layout.bytes;
    e->counters.heartbeat = clock_seconds();
    e->published = e->counters;
    event_list_init(&e->events);
    e->leaving_end = &e->leaving;
    id_map_init_ordered(&e->sessions);
    id_map_init_ordered(&e->snapshots);
    id_map_init(&e->lineage);
    atomic_init(&e->stopping, false);
    pthread_mutex_init(&e->counters_lock, NULL);
    if (!start(e, err)) {
        engine_destroy(e);
        return NULL;
    }
    return e;
}

void engine_destroy(struct engine *e)
{
    if (!e)
        return;
    if (e->started) {
        atomic_store(&e->stopping, true);
        mailbox_nudge(&e->mailbox);
        pthread_join(e->thread, NULL);
    } else if (e->tiers) {
        e->closing = true;
        sessions_clear(e);
        snapshots_clear(e);
    }
    lineage_clear(e);
    journal_close(e);
    if (e->mailbox.command)
        mailbox_finish(&e->mailbox);
    scheduler_finish(e);
    prefix_destroy(e->prefix);
    tiers_destroy(e->tiers);
    holds_destroy(e->holds);
    pthread_mutex_destroy(&e->counters_lock);
    free(e);
}

bool engine_send(struct engine *e, struct command *c)
{
    return engine_send_all(e, &c, 1);
}

bool engine_send_all(struct engine *e, struct command *const *c, int n)
{
    return mailbox_put(&e->mailbox, c, n);
}

int engine_max_turns(const struct engine *e)
{
    const struct engine_options *o = &e->options;
    int at_once = o->slots < o->max_batch ? o->slots : o->max_batch;

    return o->max_queue + e->devices->count * at_once;
}

void engine_nudge(struct engine *e)
{
    mailbox_nudge(&e->mailbox);
}

struct event *engine_receive(struct engine *e)
{
    return mailbox_take_event(&e->mailbox);
}

bool engine_idle(struct engine *e)
{
    return mailbox_settled(&e->mailbox);
}

struct engine_counters engine_counters(struct engine *e)
{
    struct engine_counters c;

    pthread_mutex_lock(&e->counters_lock);
    c = e->published;
    pthread_mutex_unlock(&e->counters_lock);
    return c;
}
