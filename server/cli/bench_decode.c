/* bench_decode.c - tokens a second of 1 to 64 sessions that all generate.
 *
 * Once as model_step() alone, once through the engine on as many resident sessions: the
 * difference is sampling, text, events and the threads' hand-over. */
#include "server/cli/bench.h"

#include <assert.h>
#include <stdio.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "server/clock.h"

#define RUN_SECONDS 0.3 /* one run of one row */
enum { ROUNDS = 9, STEPS_MIN = 4, STEPS_MAX = 256, BATCH_MAX = 64, ROWS_MAX = 8 };

/* The slots that steps are taken in without the engine. */
struct slots {
    void *records;
    int logged[BATCH_MAX];
};

/* Seconds of one of `steps` steps with one row for each of n sequences, or -1. */
static double time_steps(struct bench *b, struct slots *slots, int n, int steps)
{
    struct backend *be = b->local.parts.backend;
    int32_t token[BATCH_MAX];
    int begin[BATCH_MAX + 1], index[BATCH_MAX];
    const struct batch in = { .S = n,
                              .T = n,
                              .L = n,
                              .token = token,
                              .begin = begin,
                              .slot = index,
                              .logit_row = index,
                              .logged = slots->logged };
    struct error err;
    double began;

    for (int i = 0; i <= n; i++)
        begin[i] = i;
    bench_stagger(b, slots->records, slots->logged, n);
    if (!be->sync(be, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return -1;
    }
    began = clock_seconds();
    for (int k = 0; k < steps; k++) {
        for (int i = 0; i < n; i++) {
            token[i] = bench_token(b, (size_t)(k * n + i));
            index[i] = i;
        }
        model_step(b->local.parts.model, slots->records, &in);
        bench_logged(b, slots->logged, n);
        if (!be->sync(be, &err)) {
            fprintf(stderr, "eddy: %s\n", err.message);
            return -1;
        }
    }
    return (clock_seconds() - began) / steps;
}

static int steps_for(double seconds)
{
    double steps = RUN_SECONDS / seconds;

    return steps < STEPS_MIN ? STEPS_MIN : steps > STEPS_MAX ? STEPS_MAX : (int)steps;
}

/* One run of every row: steps[i] steps of row i, seconds[i] each. */
static bool time_model(struct bench *b, struct slots *slots, const struct decode_row *row, int rows,
                       const int *steps, double *seconds)
{
    for (int i = 0; i < rows; i++) {
        seconds[i] = time_steps(b, slots, row[i].sessions, steps[i]);
        if (seconds[i] < 0)
            return false;
    }
    return true;
}

static bool time_turns(struct bench *b, const struct decode_row *row, int rows, const int *steps,
                       double *seconds)
{
    const int most = row[rows - 1].sessions;
    struct turns turns = { .prefix = "decode", .n = most, .prompt = 1, .tokens = 1 };

    /* Twice: heads and working slots change places, and each page is touched once before. */
    if (!bench_sessions(b, COMMAND_SESSION_CREATE, turns.prefix, most) ||
        bench_turns(b, &turns) < 0 || bench_turns(b, &turns) < 0)
        return false;
    turns.prompt = 0; /* a turn goes on where the one before ended: a row a step */
    for (int i = 0; i < rows; i++) {
        turns.n = row[i].sessions;
        turns.tokens = steps[i];
        seconds[i] = bench_turns(b, &turns) / steps[i];
        if (seconds[i] < 0)
            return false;
    }
    return true;
}

static bool time_engine(struct bench *b, const struct decode_row *row, int rows, const int *steps,
                        double *seconds)
{
    struct error err;
    bool ok = local_start(&b->local, &err);

    if (!ok)
        fprintf(stderr, "eddy: %s\n", err.message);
    ok = ok && time_turns(b, row, rows, steps, seconds);
    local_stop(&b->local);
    return ok;
}

static double bytes_a_step(const struct bench *b)
{
    return b->cost.weight_bytes + b->cost.moved_bytes;
}

/* A round is short, and every ratio is of one round: a host's other guests come and go. The
 * read bandwidth of a round is the mean of one before and one after it. */
static bool measure(struct bench *b, struct slots *slots, struct decode_row *row, int rows)
{
    double model[ROWS_MAX], engine[ROWS_MAX], before, after = bench_ceiling(b, CEILING_READ);
    int steps[ROWS_MAX];

    assert(rows <= ROWS_MAX && row[0].sessions == 1);
    /* The longest row first: the first steps with a state fault its memory in. */
    for (int i = rows; i-- > 0;) {
        time_steps(b, slots, row[i].sessions, 2);
        steps[i] = steps_for(time_steps(b, slots, row[i].sessions, 2));
    }
    for (int k = 0; k < ROUNDS; k++) {
        before = after;
        if (!time_model(b, slots, row, rows, steps, model) ||
            !time_engine(b, row, rows, steps, engine))
            return false;
        after = bench_ceiling(b, CEILING_READ);
        for (int i = 0; i < rows; i++) {
            samples_add(&row[i].step, model[i]);
            samples_add(&row[i].engine, engine[i]);
            samples_add(&row[i].gain, row[i].sessions * engine[0] / engine[i]);
        }
        samples_add(&row[0].bandwidth, (before + after) / 2);
        samples_add(&row[0].step_share, 2 * bytes_a_step(b) / model[0] / (before + after));
        samples_add(&row[0].engine_share, 2 * bytes_a_step(b) / engine[0] / (before + after));
    }
    return true;
}

static void print(struct bench *b, struct decode_row *row, int rows)
{
    struct samples *bandwidth = &row->bandwidth;

    printf("\n| decode: sessions | tokens/s | against one | ms a step | model_step alone, ms | "
           "the rest |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < rows; i++) {
        struct samples *e = &row[i].engine, *m = &row[i].step, *g = &row[i].gain;
        double n = row[i].sessions, engine = samples_median(e), model = samples_median(m);

        printf("| %d | %.0f (%.0f to %.0f) | %.2f x (%.2f to %.2f) | %.2f | %.2f (%.2f to %.2f) | "
               "%.1f %% |\n",
               row[i].sessions, n / engine, n / samples_most(e), n / samples_least(e),
               samples_median(g), samples_least(g), samples_most(g), engine * 1e3, model * 1e3,
               samples_least(m) * 1e3, samples_most(m) * 1e3, 100 * (engine - model) / engine);
    }
    printf("\n%d rounds of %.2f s a row, each between two measurements of the read bandwidth: "
           "%.1f GB/s (%.1f to\n%.1f). ",
           ROUNDS, RUN_SECONDS, samples_median(bandwidth) / 1e9, samples_least(bandwidth) / 1e9,
           samples_most(bandwidth) / 1e9);
    printf("One session moves %.2f MB a token: %.2f MB of weights (%s), %.2f MB of state read "
           "and written:\n%.1f GB/s, %.0f %% (%.0f to %.0f) of the read bandwidth through the "
           "engine, %.0f %% (%.0f to %.0f) in\nmodel_step alone.\n",
           bytes_a_step(b) / 1e6, b->cost.weight_bytes / 1e6,
           "each once, without a table of embeddings that is not the head too",
           b->cost.moved_bytes / 1e6, bytes_a_step(b) / samples_median(&row->engine) / 1e9,
           100 * samples_median(&row->engine_share), 100 * samples_least(&row->engine_share),
           100 * samples_most(&row->engine_share), 100 * samples_median(&row->step_share),
           100 * samples_least(&row->step_share), 100 * samples_most(&row->step_share));
}

bool bench_decode(struct bench *b, struct decode_row *row, int rows)
{
    struct backend *be = b->local.parts.backend;
    struct slots slots = { 0 };
    bool ok;

    while (rows > 1 && 2 * row[rows - 1].sessions + 1 > b->local.limits.slots)
        rows--; /* states too large for that many */
    slots.records =
        be->alloc(be, model_slot_bytes(b->local.parts.model) * (size_t)row[rows - 1].sessions);
    if (!slots.records) {
        fprintf(stderr, "eddy: no memory for %d states\n", row[rows - 1].sessions);
        return false;
    }
    ok = measure(b, &slots, row, rows);
    be->free(be, slots.records);
    if (ok)
        print(b, row, rows);
    fflush(stdout);
    return ok;
}
