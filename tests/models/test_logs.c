/* A model whose states have logs of steps computes what it would without, to the last bit: prompts,
 * decode steps as a device records and replays them, and records once their logs are settled. One
 * backend has both, as another one may have chosen another algorithm for a product. Where no
 * backend keeps logs there is nothing to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/runner.h"

enum { N = 5, PROMPT = 9, STEPS = 17 };

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/rwkv7-tiny-hf",
                                      "weights/demo" };

/* The same sequences in two pools. */
struct pair {
    struct runner plain, logs;
    int32_t token[N * PROMPT];
    int begin[N + 1], slot[N], last[N], logged[N];
    uint32_t position[N];
};

static int slot_of(int i)
{
    return (i * 7 + 5) % RUNNER_SLOTS;
}

/* The logits of the last rows. */
static float *step(struct pair *p, struct runner *r, const int *logged)
{
    const size_t vocab = (size_t)r->info->vocab;
    float *logits = malloc(N * vocab * sizeof(*logits));

    assert_non_null(logits);
    model_step(r->m, r->records,
               &(struct batch){ .S = N,
                                .T = p->begin[N],
                                .L = N,
                                .token = p->token,
                                .begin = p->begin,
                                .slot = p->slot,
                                .logit_row = p->last,
                                .position = p->position,
                                .logged = logged });
    for (int i = 0; i < N; i++)
        runner_logits(r, i, logits + (size_t)i * vocab);
    return logits;
}

static void settle(struct pair *p, int i)
{
    const struct runner *r = &p->logs;

    if (p->logged[i])
        r->be->moved(r->be, model_settle(r->m, r->records, slot_of(i), p->logged[i]), true);
    p->logged[i] = 0;
}

/* A prompt of i % PROMPT + 1 rows each, or a row each. */
static void lay(struct pair *p, const int32_t *next, bool prompt)
{
    for (int i = 0; i < N; i++) {
        const int rows = prompt ? i % PROMPT + 1 : 1;

        for (int t = 0; t < rows; t++)
            p->token[p->begin[i] + t] = prompt ? (i * 37 + t * 11 + 5) % 250 : next[i];
        p->slot[i] = slot_of(i);
        p->begin[i + 1] = p->begin[i] + rows;
        p->last[i] = p->begin[i + 1] - 1;
    }
}

static void take(struct pair *p, int32_t *next)
{
    const int vocab = p->plain.info->vocab, steps = p->logs.info->log_steps;
    float *want = step(p, &p->plain, NULL), *got = step(p, &p->logs, p->logged);

    assert_memory_equal(got, want, (size_t)(N * vocab) * sizeof(*got));
    for (int i = 0; i < N; i++) {
        const int rows = p->begin[i + 1] - p->begin[i];

        next[i] = runner_greedy(&p->plain, want + (size_t)i * (size_t)vocab);
        p->logged[i] = rows == 1 ? (p->logged[i] + 1) % steps : 0;
        p->position[i] += (uint32_t)rows;
    }
    free(want);
    free(got);
}

static void check_records(const struct pair *p, int slot)
{
    const size_t bytes = p->plain.info->layout.bytes;
    char *want = malloc(bytes), *got = malloc(bytes);

    assert_true(want && got);
    p->plain.be->download(p->plain.be, want, p->plain.records + (size_t)slot * bytes, bytes);
    p->logs.be->download(p->logs.be, got,
                         p->logs.records + (size_t)slot * model_slot_bytes(p->logs.m), bytes);
    assert_memory_equal(got, want, bytes);
    free(want);
    free(got);
}

static void check_model(struct backend *be, const char *path)
{
    struct pair p = { 0 };
    int32_t next[N] = { 0 };

    runner_init_on(&p.plain, path, be, DTYPE_F32);
    runner_init_logs(&p.logs, path, be);
    assert_true(p.logs.info->log_steps > 1 && p.logs.info->log_bytes > 0);
    for (int k = 0; k < STEPS; k++) {
        lay(&p, next, k == 0 || k == STEPS - 5);
        take(&p, next);
        if (k % 4 == 2)
            settle(&p, k % N);
    }
    for (int i = 0; i < N; i++) {
        settle(&p, i);
        check_records(&p, slot_of(i));
    }
    be->free(be, p.logs.records);
    model_close(p.logs.m);
    runner_finish(&p.plain);
}

static void logs_are_invisible(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        const struct backend_options options = { .threads = 1 };
        struct error err = { 0 };
        struct backend *be = backend_open_cuda(&options, &err);

        if (!be) {
            assert_int_equal(err.code, ERR_INPUT);
            return;
        }
        check_model(be, models[m]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(logs_are_invisible) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
