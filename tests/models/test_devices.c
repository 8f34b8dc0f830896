/* test_devices.c - a state is the model's, not the device's: it moves between the CPU and the
 * GPU and back, and within a device it goes on to the last bit. And a recorded decode step
 * does what the same step does unrecorded. Where there is no GPU, the CPU alone is tested. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/runner.h"

enum { PREFIX = 37, MORE = 12, SLOT = 9, RUNS = 4 };

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/mamba2-grouped",
                                      "tests/data/rwkv7-tiny-hf" };
static const char *const devices[] = { "plain", "cuda" };

/* Float32 weights, sums in another order, some steps of a recurrence. */
static const float TOLERANCE = 1e-3f;

static int32_t token_of(int i)
{
    return (i * 37 + 11) % 251;
}

/* The logits after each of MORE tokens, decoded one by one from a state. */
static float *go_on(struct runner *r, const char *state, int slot, char *end)
{
    const size_t vocab = (size_t)r->info->vocab, bytes = r->info->layout.bytes;
    float *logits = malloc(MORE * vocab * sizeof(*logits));
    const int begin[] = { 0, 1 }, wanted[] = { 0 };

    assert_non_null(logits);
    r->be->upload(r->be, r->records + (size_t)slot * bytes, state, bytes);
    for (int i = 0; i < MORE; i++) {
        const int32_t token = token_of(PREFIX + i);

        model_step(r->m, r->records,
                   &(struct batch){ .S = 1,
                                    .T = 1,
                                    .L = 1,
                                    .token = &token,
                                    .begin = begin,
                                    .slot = &slot,
                                    .logit_row = wanted });
        runner_logits(r, 0, logits + (size_t)i * vocab);
    }
    r->be->download(r->be, end, r->records + (size_t)slot * bytes, bytes);
    return logits;
}

static struct trace prefix_of(struct runner *r)
{
    const int uneven[] = { 20, 1, 0 };
    int32_t token[PREFIX];

    for (int i = 0; i < PREFIX; i++)
        token[i] = token_of(i);
    return runner_trace(r, token, PREFIX, uneven);
}

static void move(struct runner *from, struct runner *to)
{
    const size_t bytes = from->info->layout.bytes;
    const size_t logits = MORE * (size_t)from->info->vocab * sizeof(float);
    struct trace prefix = prefix_of(from);
    char *end[] = { malloc(bytes), malloc(bytes) };
    float *here = go_on(from, prefix.state, SLOT, end[0]);
    float *there = go_on(to, prefix.state, SLOT + 1, end[1]);

    if (from == to) {
        assert_memory_equal(here, there, logits);
        assert_memory_equal(end[0], end[1], bytes);
    } else {
        struct runner any = *from; /* one of the two is a GPU: alike, not equal */

        any.be = runner_is_exact(from) ? to->be : from->be;
        runner_assert_alike(&any, here, there, logits, TOLERANCE);
        runner_assert_alike(&any, end[0], end[1], bytes, TOLERANCE);
    }
    free(here);
    free(there);
    free(end[0]);
    free(end[1]);
    trace_finish(&prefix);
}

static void a_state_moves_between_devices(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        struct runner r[2];
        bool there[2];

        for (int i = 0; i < 2; i++)
            there[i] = runner_init(&r[i], models[m], devices[i]);
        for (int i = 0; i < 4; i++)
            if (there[i / 2] && there[i % 2])
                move(&r[i / 2], &r[i % 2]);
        for (int i = 0; i < 2; i++)
            if (there[i])
                runner_finish(&r[i]);
    }
}

/* n sequences decode from the same states again and again: the first run of a size is
 * enqueued, the second recorded, the others replayed. */
static void repeat(struct runner *r, int n)
{
    const size_t bytes = r->info->layout.bytes, vocab = (size_t)r->info->vocab;
    const size_t row = vocab * sizeof(float);
    int32_t token[RUNNER_SLOTS];
    int begin[RUNNER_SLOTS + 1] = { 0 }, slot[RUNNER_SLOTS], wanted[RUNNER_SLOTS];
    struct trace prefix = prefix_of(r);
    float *first = malloc((size_t)n * row), *again = malloc((size_t)n * row);
    char *ends = malloc(RUNNER_SLOTS * bytes), *now = malloc(RUNNER_SLOTS * bytes);

    assert_true(first && again && ends && now);
    for (int i = 0; i < n; i++) {
        token[i] = token_of(i);
        begin[i + 1] = i + 1;
        slot[i] = (i * 5 + 2) % (RUNNER_SLOTS - 1);
        wanted[i] = i;
    }
    for (int run = 0; run < RUNS; run++) {
        for (int i = 0; i < RUNNER_SLOTS; i++)
            r->be->upload(r->be, r->records + (size_t)i * bytes, prefix.state, bytes);
        model_step(r->m, r->records,
                   &(struct batch){ .S = n,
                                    .T = n,
                                    .L = n,
                                    .token = token,
                                    .begin = begin,
                                    .slot = slot,
                                    .logit_row = wanted });
        for (int i = 0; i < n; i++)
            runner_logits(r, i, (run ? again : first) + (size_t)i * vocab);
        r->be->download(r->be, run ? now : ends, r->records, RUNNER_SLOTS * bytes);
        if (run) {
            assert_memory_equal(first, again, (size_t)n * row);
            assert_memory_equal(ends, now, RUNNER_SLOTS * bytes);
        }
    }
    /* The last slot belongs to no sequence: padding moves no state. */
    assert_memory_equal(ends + (RUNNER_SLOTS - 1) * bytes, prefix.state, bytes);
    free(first);
    free(again);
    free(ends);
    free(now);
    trace_finish(&prefix);
}

static void a_recorded_step_gives_what_it_gave_unrecorded(void **state)
{
    static const int sizes[] = { 1, 2, 3, 5, 8, 13, 21 };

    (void)state;
    for (int m = 0; m < 3; m++) {
        for (int d = 0; d < 2; d++) {
            struct runner r;

            if (!runner_init(&r, models[m], devices[d]))
                continue;
            for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
                repeat(&r, sizes[i]);
            runner_finish(&r);
        }
    }
}

static void decode_steps_are_recorded_before_they_are_needed(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        for (int d = 0; d < 2; d++) {
            struct error err = { 0 };
            struct runner r;
            char *now, *zeros;

            if (!runner_init(&r, models[m], devices[d]))
                continue;
            if (!model_prepare(r.m, r.records, 20, &err))
                fail_msg("%s", err.message);
            now = malloc(RUNNER_SLOTS * r.info->layout.bytes);
            zeros = calloc(RUNNER_SLOTS, r.info->layout.bytes);
            assert_true(now && zeros);
            r.be->download(r.be, now, r.records, RUNNER_SLOTS * r.info->layout.bytes);
            assert_memory_equal(now, zeros, RUNNER_SLOTS * r.info->layout.bytes);
            free(now);
            free(zeros);
            repeat(&r, 7);
            runner_finish(&r);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_state_moves_between_devices),
        cmocka_unit_test(a_recorded_step_gives_what_it_gave_unrecorded),
        cmocka_unit_test(decode_steps_are_recorded_before_they_are_needed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
