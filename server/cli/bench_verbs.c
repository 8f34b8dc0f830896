/* bench_verbs.c - what snapshots, restores, forks and exports take while other sessions decode,
 * and what they cost those.
 *
 * Some sessions generate without a pause; meanwhile one that stands still is snapshotted,
 * restored, forked and exported again and again. A verb is timed from sending it to its
 * answer. What the others feel of it is the time between two of their tokens, by the engine's
 * own count. */
#include "server/cli/bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "config/error.h"
#include "models/model.h"
#include "server/clock.h"
#include "server/engine/engine.h"

enum { SESSIONS = 64, ROUNDS = 200, TOKENS = 600 };

enum { SNAPSHOT, RESTORE, FORK, EXPORT, VERBS };

static const char *const names[VERBS] = { "snapshot", "restore", "fork", "export" };

struct times {
    double seconds[ROUNDS];
    int n;
};

/* Mean seconds from one token of a session to its next since the counters were `before`: the
 * step, and what the engine does between two steps. */
static double mean_gap(struct bench *b, const struct engine_counters *before)
{
    const struct engine_counters now = engine_counters(b->local.engine);
    const uint64_t gaps = now.between_tokens.count - before->between_tokens.count;

    return gaps ? (now.between_tokens.sum - before->between_tokens.sum) / (double)gaps : 0;
}

/* Sends a command on session "still0" and waits; *turns are those that still run. NULL: failed,
 * and said so. */
static struct command *ask(struct bench *b, enum command_kind kind, const struct id *snapshot,
                           int *turns, struct times *t)
{
    struct command *c = command_create(kind, NULL);
    const double began = clock_seconds();
    bool answered = false;

    if (!c)
        return NULL;
    snprintf(c->session.text, sizeof(c->session.text), "still0");
    if (snapshot)
        c->snapshot = *snapshot;
    c->count = 1;
    if (!engine_send(b->local.engine, c)) {
        command_free(c);
        return NULL;
    }
    while (!answered) {
        struct event *e = local_wait(&b->local);

        if (e && e->kind == EVENT_ANSWER && e->command != c) {
            command_free(e->command);
            --*turns;
        }
        answered = e && e->kind == EVENT_ANSWER && e->command == c;
        event_free(e);
    }
    if (t->n < ROUNDS)
        t->seconds[t->n++] = clock_seconds() - began;
    if (c->problem.what == PROBLEM_NONE)
        return c;
    fprintf(stderr, "eddy: %s\n", c->problem.message);
    command_free(c);
    return NULL;
}

static bool drop(struct bench *b, enum command_kind kind, const struct id *id, int *turns)
{
    struct command *c = command_create(kind, NULL);
    bool ok;

    if (!c)
        return false;
    c->session = kind == COMMAND_SESSION_DELETE ? *id : (struct id){ 0 };
    c->snapshot = *id;
    if (!engine_send(b->local.engine, c)) {
        command_free(c);
        return false;
    }
    for (bool answered = false; !answered;) {
        struct event *e = local_wait(&b->local);

        if (e && e->kind == EVENT_ANSWER) {
            answered = e->command == c;
            *turns -= !answered;
            if (!answered)
                command_free(e->command);
        }
        event_free(e);
    }
    ok = c->problem.what == PROBLEM_NONE;
    command_free(c);
    return ok;
}

/* Every verb once, and its traces removed. */
static bool round_of_verbs(struct bench *b, struct times t[VERBS], int *turns)
{
    struct command *c = ask(b, COMMAND_SNAPSHOT_TAKE, NULL, turns, &t[SNAPSHOT]);
    struct id snapshot, child;

    if (!c)
        return false;
    snapshot = c->snapshots[0].id;
    command_free(c);
    c = ask(b, COMMAND_SESSION_RESTORE, &snapshot, turns, &t[RESTORE]);
    command_free(c);
    if (!c || !(c = ask(b, COMMAND_SESSION_FORK, NULL, turns, &t[FORK])))
        return false;
    child = c->sessions[0].id;
    command_free(c);
    c = ask(b, COMMAND_SESSION_EXPORT, NULL, turns, &t[EXPORT]);
    command_free(c);
    return c && drop(b, COMMAND_SESSION_DELETE, &child, turns) &&
           drop(b, COMMAND_SNAPSHOT_DELETE, &snapshot, turns);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print(struct bench *b, struct times t[VERBS], int n, double quiet, double busy)
{
    const double bytes = (double)model_info(b->local.parts.model)->layout.bytes;

    printf("\n| beside %d sessions | p50, ms | p99, ms | |\n|---|---|---|---|\n", n);
    for (int v = 0; v < VERBS; v++) {
        qsort(t[v].seconds, (size_t)t[v].n, sizeof(t[v].seconds[0]), by_size);
        printf("| %s | %.2f | %.2f | ", names[v], t[v].seconds[t[v].n / 2] * 1e3,
               t[v].seconds[(t[v].n - 1) * 99 / 100] * 1e3);
        if (v == EXPORT)
            printf("%.1f MB, with the wait %.2f GB/s |\n", bytes / 1e6,
                   bytes / t[v].seconds[t[v].n / 2] / 1e9);
        else
            printf("|\n");
    }
    printf("\nBetween two tokens of the others: %.3f ms in peace, %.3f ms meanwhile.\n",
           quiet * 1e3, busy * 1e3);
}

static bool measure(struct bench *b, int n)
{
    struct turns others = { .prefix = "busy", .n = n, .prompt = 1, .tokens = 1 };
    struct turns still = { .prefix = "still", .n = 1, .prompt = 64, .tokens = 1 };
    struct times t[VERBS] = { 0 };
    struct engine_counters before;
    double quiet, busy;
    int running;

    if (!bench_sessions(b, COMMAND_SESSION_CREATE, others.prefix, n) ||
        !bench_sessions(b, COMMAND_SESSION_CREATE, still.prefix, 1) || bench_turns(b, &still) < 0 ||
        bench_turns(b, &others) < 0)
        return false;
    others.prompt = 0;
    others.tokens = TOKENS / 4;
    before = engine_counters(b->local.engine);
    if (bench_turns(b, &others) < 0)
        return false;
    quiet = mean_gap(b, &before);
    others.tokens = TOKENS;
    before = engine_counters(b->local.engine);
    running = bench_send(b, &others);
    for (int i = 0; i < ROUNDS && running == n; i++)
        if (!round_of_verbs(b, t, &running))
            return false;
    busy = mean_gap(b, &before);
    if (!bench_collect(b, running) || !t[EXPORT].n)
        return false;
    print(b, t, n, quiet, busy);
    return true;
}

bool bench_verbs(struct bench *b)
{
    const int slots = b->local.limits.slots, batch = b->local.limits.max_batch;
    struct error err;
    bool ok;

    b->local.limits.slots = 2 * SESSIONS + 8;
    b->local.limits.max_batch = SESSIONS;
    if (!local_start(&b->local, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return false;
    }
    ok = measure(b, SESSIONS);
    local_stop(&b->local);
    b->local.limits.slots = slots;
    b->local.limits.max_batch = batch;
    fflush(stdout);
    return ok;
}
