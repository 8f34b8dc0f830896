#include "server/api/repeats.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "config/limits.h"
#include "models/text/text_buffer.h"
#include "server/api/api.h"
#include "server/api/pending.h"
#include "server/clock.h"
#include "server/http/http.h"

/* A later request with the key of one that runs. */
struct waiter {
    struct pending base;
    struct repeat *on; /* NULL: its turn has come, at the next repeats_run() */
    struct waiter *next;
};

struct repeat {
    struct keeper *keeper;
    struct repeat *next;   /* the next younger one */
    XXH128_hash_t request; /* what was asked */
    struct pending *first; /* NULL: done */
    struct waiter *waiters, **waiters_end;
    int waiting;
    bool lost;        /* its answer did not fit, or had to go */
    const char *type; /* static */
    struct text_buffer body;
    double expires;    /* monotonic seconds */
    struct id session; /* that it changes; "": none */
    char key[];        /* "" for a request that only its content names */
};

/* What is kept for one owner, oldest first. */
struct keeper {
    uint64_t owner;
    struct repeats *repeats;
    struct repeat *oldest, **newest_end;
    int done;
    size_t bytes;
    struct keeper *next;
};

struct repeats {
    struct keeper *keepers;
    struct waiter *ready, **ready_end;
};

struct repeats *repeats_create(void)
{
    struct repeats *r = calloc(1, sizeof(*r));

    if (r)
        r->ready_end = &r->ready;
    return r;
}

static void forget(struct repeat *e)
{
    struct keeper *k = e->keeper;
    struct repeat **at = &k->oldest;

    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    if (!e->next)
        k->newest_end = at;
    k->done -= e->first == NULL;
    k->bytes -= e->body.len;
    free(e->body.bytes);
    free(e);
}

void repeats_destroy(struct repeats *r)
{
    if (!r)
        return;
    for (struct keeper *k = r->keepers, *next; k; k = next) {
        next = k->next;
        while (k->oldest)
            forget(k->oldest);
        free(k);
    }
    free(r);
}

static struct keeper *keeper_of(struct repeats *r, uint64_t owner)
{
    struct keeper *k = r->keepers;

    while (k && k->owner != owner)
        k = k->next;
    if (k || !(k = calloc(1, sizeof(*k))))
        return k;
    *k = (struct keeper){ .owner = owner, .repeats = r, .next = r->keepers };
    k->newest_end = &k->oldest;
    r->keepers = k;
    return k;
}

static void expire(struct keeper *k, double now)
{
    struct repeat *next;

    for (struct repeat *e = k->oldest; e && e->expires <= now; e = next) {
        next = e->next;
        if (!e->first)
            forget(e);
    }
}

static void update(XXH3_state_t *state, const char *text)
{
    if (text)
        XXH3_128bits_update(state, text, strlen(text) + 1);
    else
        XXH3_128bits_update(state, "\0", 1);
}

/* Equal for requests that ask for the same. false: no memory. */
static bool hash_request(const struct exchange *x, XXH128_hash_t *out)
{
    XXH3_state_t *state = XXH3_createState();
    const char *query, *body;
    size_t len;

    if (!state)
        return false;
    XXH3_128bits_reset(state);
    update(state, exchange_method(x));
    update(state, exchange_path(x));
    query = exchange_queries(x, &len);
    XXH3_128bits_update(state, &len, sizeof(len));
    XXH3_128bits_update(state, query, len);
    update(state, exchange_header(x, "x-session-id"));
    update(state, exchange_header(x, "if-match"));
    update(state, exchange_header(x, "if-none-match"));
    body = exchange_body(x, &len);
    XXH3_128bits_update(state, body, len);
    *out = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    return true;
}

static struct repeat *find(const struct keeper *k, const char *key, const XXH128_hash_t *request)
{
    struct repeat *e = k->oldest;

    while (e && (strcmp(e->key, key) != 0 || (!*key && !XXH128_isEqual(e->request, *request))))
        e = e->next;
    return e;
}

static bool refuse(struct pending *p, enum problem_code what, const char *message)
{
    struct problem problem;

    problem_set(&problem, what, NULL, "%s", message);
    pending_refuse(p, &problem);
    return false;
}

static bool open_entry(struct pending *p, struct keeper *k, const char *key,
                       const XXH128_hash_t *request)
{
    size_t len = strlen(key);
    struct repeat *e = calloc(1, sizeof(*e) + len + 1);

    if (!e)
        return refuse(p, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
    e->keeper = k;
    e->request = *request;
    e->first = p;
    e->waiters_end = &e->waiters;
    e->expires = clock_seconds() + LIMIT_REPEAT_SECONDS;
    memcpy(e->key, key, len + 1);
    *k->newest_end = e;
    k->newest_end = &e->next;
    p->repeat = e;
    return true;
}

/* The kept answer once more. */
static bool answer(struct pending *p, const struct repeat *e)
{
    struct text_buffer body = { 0 };

    if (e->lost)
        return refuse(p, PROBLEM_ANSWER_GONE,
                      "this request was done already; its answer is no longer kept");
    if (!text_buffer_append(&body, e->body.bytes, e->body.len))
        return refuse(p, PROBLEM_OUT_OF_MEMORY, "no memory for the answer");
    exchange_set_header(p->exchange, "idempotent-replayed", "true");
    pending_reply(p, e->type, &body);
    return false;
}

static void unlink_waiter(struct waiter *w)
{
    struct waiter **at = &w->on->waiters;

    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    if (!w->next)
        w->on->waiters_end = at;
    w->on->waiting--;
}

static void finish_waiter(struct waiter *w)
{
    pending_finish(&w->base);
    free(w);
}

/* Nothing of it runs: only a client that leaves ends it. Those whose turn has come are looked
 * at by repeats_run(). */
static void cancel_waiter(struct pending *p)
{
    struct waiter *w = (struct waiter *)p;
    struct pending *first;

    if (!p->gone || !w->on)
        return;
    first = w->on->first;
    unlink_waiter(w);
    finish_waiter(w);
    if (first->gone && !repeats_awaited(first) && first->cancel)
        first->cancel(first);
}

/* p's exchange moves to a waiter. */
static bool wait_for(struct pending *p, struct repeat *e)
{
    struct waiter *w;

    if (e->waiting == LIMIT_REPEAT_WAITERS)
        return refuse(p, PROBLEM_REPEAT_RUNS, "the first request with this key is still running");
    w = calloc(1, sizeof(*w));
    if (!w)
        return refuse(p, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
    w->base.cancel = cancel_waiter;
    w->on = e;
    pending_init(&w->base, p->api, p->exchange);
    p->exchange = NULL;
    *e->waiters_end = w;
    e->waiters_end = &w->next;
    e->waiting++;
    return false;
}

/* What the OpenAI libraries call a try of one request. */
static bool begin_counted(struct pending *p, struct keeper *k, const XXH128_hash_t *request,
                          bool retried)
{
    struct repeat *e = find(k, "", request);

    if (!retried && e && !e->first) {
        forget(e);
        e = NULL;
    }
    if (!e)
        return open_entry(p, k, "", request);
    if (!retried)
        return true; /* asked twice at once, on purpose */
    return e->first ? wait_for(p, e) : answer(p, e);
}

static bool begin_keyed(struct pending *p, struct keeper *k, const char *key,
                        const XXH128_hash_t *request)
{
    struct repeat *e = find(k, key, request);

    if (!e)
        return open_entry(p, k, key, request);
    if (!XXH128_isEqual(e->request, *request))
        return refuse(p, PROBLEM_KEY_REUSED,
                      "the Idempotency-Key was used for another request before");
    return e->first ? wait_for(p, e) : answer(p, e);
}

static bool is_key(const char *key)
{
    size_t len = strnlen(key, LIMIT_REPEAT_KEY_BYTES + 1);

    for (size_t i = 0; i < len; i++)
        if (key[i] < ' ' || key[i] > '~')
            return false;
    return len > 0 && len <= LIMIT_REPEAT_KEY_BYTES;
}

static bool begin(struct pending *p, bool changes)
{
    struct exchange *x = p->exchange;
    const char *key = exchange_header(x, "idempotency-key");
    const char *count = exchange_header(x, "x-stainless-retry-count");
    XXH128_hash_t request;
    struct problem problem;
    struct keeper *k;

    if ((!key && !(changes && count)) || strcmp(exchange_method(x), "POST") != 0)
        return true;
    if (key && !is_key(key)) {
        problem_set(&problem, PROBLEM_INVALID_PARAMETER, "Idempotency-Key",
                    "Idempotency-Key must be 1 to %d printable characters", LIMIT_REPEAT_KEY_BYTES);
        pending_refuse(p, &problem);
        return false;
    }
    k = keeper_of(p->api->repeats, exchange_client(x));
    if (!k || !hash_request(x, &request))
        return refuse(p, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
    expire(k, clock_seconds());
    return key ? begin_keyed(p, k, key, &request)
               : begin_counted(p, k, &request, strcmp(count, "0") != 0);
}

bool repeats_begin(struct pending *p, bool changes, const struct id *session)
{
    const char *method;

    if (!begin(p, changes))
        return false;
    method = exchange_method(p->exchange);
    if (changes && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        p->session = *session;
    if (p->repeat)
        p->repeat->session = p->session;
    return true;
}

static void lose_body(struct repeat *e)
{
    e->keeper->bytes -= e->body.len;
    free(e->body.bytes);
    e->body = (struct text_buffer){ 0 };
    e->lost = true;
}

/* Makes room for so many bytes more by what is done, the oldest first. */
static void press(struct keeper *k, size_t more)
{
    struct repeat *e, *next;

    for (e = k->oldest; e && k->bytes + more > LIMIT_REPEAT_BYTES; e = e->next)
        if (!e->first)
            lose_body(e);
    for (e = k->oldest; e && k->done > LIMIT_REPEATS; e = next) {
        next = e->next;
        if (!e->first)
            forget(e);
    }
}

void repeats_add(struct pending *p, const void *bytes, size_t len)
{
    struct repeat *e = p->repeat;

    if (!e || e->lost)
        return;
    if (e->body.len + len <= LIMIT_REPEAT_BYTES)
        press(e->keeper, len);
    /* Others that run may hold the rest. */
    if (e->keeper->bytes + len > LIMIT_REPEAT_BYTES || !text_buffer_append(&e->body, bytes, len))
        lose_body(e);
    else
        e->keeper->bytes += len;
}

void repeats_spoil(struct pending *p)
{
    if (p->repeat)
        lose_body(p->repeat);
}

/* The session has gone on since those that only their content names: who asks for the same from
 * now on, at whatever try, means something new. */
static void forget_older(const struct pending *p)
{
    const struct keeper *k = p->api->repeats->keepers;

    while (k && k->owner != exchange_client(p->exchange))
        k = k->next;
    for (struct repeat *e = k ? k->oldest : NULL, *next; e; e = next) {
        next = e->next;
        if (!e->first && !e->key[0] && id_equal(&e->session, &p->session))
            forget(e);
    }
}

void repeats_keep(struct pending *p, const char *type)
{
    struct repeat *e = p->repeat;

    if (p->session.text[0])
        forget_older(p);
    if (!e)
        return;
    p->repeat = NULL;
    e->first = NULL;
    e->type = type;
    e->keeper->done++;
    for (struct waiter *w; (w = e->waiters);) {
        unlink_waiter(w);
        answer(&w->base, e);
        finish_waiter(w);
    }
    press(e->keeper, 0);
}

void repeats_drop(struct pending *p)
{
    struct repeat *e = p->repeat;
    struct repeats *r;

    if (!e)
        return;
    r = e->keeper->repeats;
    p->repeat = NULL;
    for (struct waiter *w; (w = e->waiters);) {
        unlink_waiter(w);
        w->on = NULL;
        w->next = NULL;
        *r->ready_end = w;
        r->ready_end = &w->next;
    }
    forget(e);
}

void repeats_run(struct repeats *r)
{
    for (struct waiter *w; (w = r->ready);) {
        struct exchange *x = w->base.gone ? NULL : w->base.exchange;

        r->ready = w->next;
        if (!r->ready)
            r->ready_end = &r->ready;
        if (x) {
            exchange_watch(x, NULL, NULL, NULL);
            w->base.exchange = NULL;
        }
        finish_waiter(w);
        if (x)
            exchange_again(x);
    }
}

bool repeats_awaited(const struct pending *p)
{
    return p->repeat && p->repeat->waiting > 0;
}
