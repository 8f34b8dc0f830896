/* What a sequence gives does not depend on who shares its steps, nor on where its record
 * lies; and a step touches the records of its own sequences only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/runner.h"

enum { SEQUENCES = 16, PROMPT = 15, DECODES = 4, LENGTH = PROMPT + DECODES };

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/mamba2-grouped",
                                      "tests/data/rwkv7-tiny-hf" };

/* On a GPU, of float32 weights: sums in another order. */
static const float TOLERANCE = 1e-3f;

static int32_t token_of(int sequence, int i)
{
    return (sequence * 29 + i * (7 + sequence) + 3) % 256;
}

/* Sequence s has s % PROMPT + 1 tokens of prompt, so that a batch is ragged. */
static int prompt_of(int sequence)
{
    return sequence % PROMPT + 1;
}

/* Distinct, and neither ascending nor dense. */
static int slot_of(int sequence)
{
    return (sequence * 7 + 5) % 23;
}

static void step(struct runner *r, const struct batch *in)
{
    struct error err = { 0 };

    model_step(r->m, r->records, in);
    assert_true(r->be->sync(r->be, &err));
}

/* Row i of the result is the logits after token i of the sequence, run alone. */
static struct trace alone(struct runner *r, int sequence)
{
    const int single[] = { 4, 3, 1, 0 };
    int32_t token[LENGTH];

    for (int i = 0; i < LENGTH; i++)
        token[i] = token_of(sequence, i);
    return runner_trace(r, token, prompt_of(sequence) + DECODES, single);
}

/* Steps every sequence by its prompt, or by the token `decode` after it, all in one batch, and
 * holds the last logits of each to what it gave alone. */
static void step_together(struct runner *r, const struct trace *expected, bool prompts, int decode,
                          bool backwards)
{
    int32_t token[RUNNER_ROWS];
    int begin[SEQUENCES + 1] = { 0 }, slot[SEQUENCES], last[SEQUENCES];

    for (int i = 0; i < SEQUENCES; i++) {
        int s = backwards ? SEQUENCES - 1 - i : i;
        int from = prompts ? 0 : prompt_of(s) + decode, count = prompts ? prompt_of(s) : 1;

        for (int k = 0; k < count; k++)
            token[begin[i] + k] = token_of(s, from + k);
        begin[i + 1] = begin[i] + count;
        slot[i] = slot_of(s);
        last[i] = begin[i + 1] - 1;
    }
    step(r, &(struct batch){ .S = SEQUENCES,
                             .T = begin[SEQUENCES],
                             .L = SEQUENCES,
                             .token = token,
                             .begin = begin,
                             .slot = slot,
                             .logit_row = last });
    const size_t row = (size_t)r->info->vocab;
    float *logits = malloc(row * sizeof(*logits));

    assert_non_null(logits);
    for (int i = 0; i < SEQUENCES; i++) {
        int s = backwards ? SEQUENCES - 1 - i : i,
            at = prompt_of(s) - 1 + (prompts ? 0 : decode + 1);

        runner_logits(r, i, logits);
        runner_assert_alike(r, logits, expected[s].logits + (size_t)at * row, row * sizeof(float),
                            TOLERANCE);
    }
    free(logits);
}

static void a_batch_gives_what_each_sequence_gives_alone(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        for (int isa = 0; isa < ISAS; isa++) {
            struct trace expected[SEQUENCES];
            struct runner r;

            if (!runner_init(&r, models[m], isa_names[isa]))
                continue;
            const size_t bytes = r.info->layout.bytes;
            for (int s = 0; s < SEQUENCES; s++)
                expected[s] = alone(&r, s);
            r.be->zero(r.be, r.records, RUNNER_SLOTS * bytes);
            step_together(&r, expected, true, 0, false);
            for (int d = 0; d < DECODES; d++)
                step_together(&r, expected, false, d, d % 2);
            char *state_now = malloc(bytes);
            for (int s = 0; s < SEQUENCES; s++) {
                r.be->download(r.be, state_now, r.records + (size_t)slot_of(s) * bytes, bytes);
                runner_assert_alike(&r, state_now, expected[s].state, bytes, TOLERANCE);
                trace_finish(&expected[s]);
            }
            free(state_now);
            runner_finish(&r);
        }
    }
}

static void other_records_are_untouched(void **state)
{
    const int begin[] = { 0, 3, 4 }, slot[] = { 7, 2 }, wanted[] = { 3 };
    const int32_t token[] = { 5, 6, 7, 8 };

    (void)state;
    for (int m = 0; m < 3; m++) {
        struct runner r;

        assert_true(runner_init(&r, models[m], "plain"));
        const size_t bytes = r.info->layout.bytes;
        char *pattern = malloc(bytes);
        memset(pattern, 0x5a, bytes);
        for (int s = 0; s < RUNNER_SLOTS; s++)
            if (s != 7 && s != 2)
                r.be->upload(r.be, r.records + (size_t)s * bytes, pattern, bytes);
        step(&r, &(struct batch){ .S = 2,
                                  .T = 4,
                                  .L = 1,
                                  .token = token,
                                  .begin = begin,
                                  .slot = slot,
                                  .logit_row = wanted });
        for (int s = 0; s < RUNNER_SLOTS; s++)
            if (s != 7 && s != 2)
                assert_memory_equal(r.records + (size_t)s * bytes, pattern, bytes);
            else
                assert_memory_not_equal(r.records + (size_t)s * bytes, pattern, bytes);
        free(pattern);
        runner_finish(&r);
    }
}

/* runner_trace() zeroes its slot, nothing else: the second run starts from a used record. */
static void a_zeroed_record_is_the_empty_state(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        struct runner r;

        assert_true(runner_init(&r, models[m], "plain"));
        struct trace fresh = alone(&r, 1), other = alone(&r, 2), again = alone(&r, 1);
        assert_traces_equal(&fresh, &again);
        assert_memory_not_equal(fresh.state, other.state, fresh.state_bytes);
        trace_finish(&fresh);
        trace_finish(&other);
        trace_finish(&again);
        runner_finish(&r);
    }
}

static void a_record_moved_to_another_slot_goes_on_the_same(void **state)
{
    const int begin[] = { 0, 1 }, here[] = { 3 }, there[] = { 19 }, wanted[] = { 0 };
    const int32_t token[] = { 42 };

    (void)state;
    for (int m = 0; m < 3; m++) {
        struct runner r;

        assert_true(runner_init(&r, models[m], "plain"));
        const size_t bytes = r.info->layout.bytes, row = (size_t)r.info->vocab * sizeof(float);
        struct trace t = alone(&r, 4);
        struct batch in = { .S = 1,
                            .T = 1,
                            .L = 1,
                            .token = token,
                            .begin = begin,
                            .slot = here,
                            .logit_row = wanted };
        float *logits = malloc(row);

        r.be->copy(r.be, r.records + 19 * bytes, r.records + 3 * bytes, bytes);
        step(&r, &in);
        memcpy(logits, model_logits(r.m), row);
        in.slot = there;
        step(&r, &in);
        assert_memory_equal(logits, model_logits(r.m), row);
        assert_memory_equal(r.records + 19 * bytes, r.records + 3 * bytes, bytes);
        free(logits);
        trace_finish(&t);
        runner_finish(&r);
    }
}

static void wanting_no_logits_changes_no_state(void **state)
{
    const int begin[] = { 0, 4 }, slot[] = { 0 };
    const int32_t token[] = { 9, 8, 7, 6 };
    const int whole[] = { 4, 0 };

    (void)state;
    for (int m = 0; m < 3; m++) {
        struct runner r;

        assert_true(runner_init(&r, models[m], "plain"));
        struct trace t = runner_trace(&r, token, 4, whole);
        step(&r, &(struct batch){
                     .S = 1, .T = 4, .L = 0, .token = token, .begin = begin, .slot = slot });
        assert_memory_equal(r.records, t.state, t.state_bytes);
        trace_finish(&t);
        runner_finish(&r);
    }
}

static void fields_of_a_record_do_not_overlap_and_fill_it(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        struct model_info info;
        struct error err;
        size_t at = 0;

        assert_true(model_describe(models[m], &info, &err));
        for (int i = 0; i < info.layout.fields; i++) {
            const struct state_field *f = &info.layout.field[i];
            size_t floats = 1;

            for (int k = 0; k < f->rank; k++)
                floats *= (size_t)f->shape[k];
            assert_int_equal(f->offset, at);
            assert_int_equal(f->offset % 64, 0);
            assert_int_equal(f->layer_bytes % 64, 0);
            assert_true(f->layer_bytes >= floats * sizeof(float));
            assert_int_equal(f->layers, info.layers);
            at += f->layer_bytes * (size_t)f->layers;
        }
        assert_int_equal(info.layout.bytes, at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_gives_what_each_sequence_gives_alone),
        cmocka_unit_test(other_records_are_untouched),
        cmocka_unit_test(a_zeroed_record_is_the_empty_state),
        cmocka_unit_test(a_record_moved_to_another_slot_goes_on_the_same),
        cmocka_unit_test(wanting_no_logits_changes_no_state),
        cmocka_unit_test(fields_of_a_record_do_not_overlap_and_fill_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
