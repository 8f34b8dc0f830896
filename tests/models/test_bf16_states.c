/* States that are kept as bf16: what a model gives stays close to its references, and whoever goes
 * on from a state goes on as if nothing had been between. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/runner.h"

enum { LENGTH = 96, DEMO = 4 };

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/mamba2-tiny",
                                      "tests/data/mamba2-grouped", "tests/data/rwkv7-tiny-hf",
                                      "weights/demo" };
enum { MODELS = sizeof(models) / sizeof(models[0]) };

static const int whole[] = { RUNNER_ROWS, 0 }, single[] = { 1, 0 };

static void make_tokens(int32_t *token, int seed)
{
    for (int i = 0; i < LENGTH; i++)
        token[i] = (seed * 31 + i * (7 + seed) + i * i % 11) % 256;
}

static float largest(const float *x, size_t n)
{
    float most = 0.0f;

    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

/* One rounding a prompt, and nothing reads what it left: the same logits to the last bit, and the
 * same states but for it. */
static void a_prompt_in_one_piece_is_rounded_at_its_end(void **state)
{
    int32_t token[LENGTH];

    (void)state;
    make_tokens(token, 1);
    for (int m = 0; m < MODELS; m++) {
        for (int i = 0; i < ISAS; i++) {
            struct runner wide, narrow;

            if (!runner_init(&wide, models[m], isa_names[i]))
                continue;
            assert_true(runner_init_narrow(&narrow, models[m], isa_names[i]));
            struct trace a = runner_trace(&wide, token, LENGTH, whole);
            struct trace b = runner_trace(&narrow, token, LENGTH, whole);

            runner_assert_alike(&wide, a.logits, b.logits, a.logit_bytes, 1e-3f);
            for (int f = 0; f < wide.info->layout.fields && runner_is_exact(&wide); f++) {
                const struct state_field *x = &wide.info->layout.field[f];
                const struct state_field *y = &narrow.info->layout.field[f];
                const size_t n = x->layer_bytes / sizeof(float) * (size_t)x->layers;

                assert_int_equal(y->dtype, x->large ? DTYPE_BF16 : DTYPE_F32);
                if (!x->large) {
                    assert_memory_equal(a.state + x->offset, b.state + y->offset,
                                        n * sizeof(float));
                    continue;
                }
                assert_int_equal(2 * y->layer_bytes, x->layer_bytes);
                for (size_t k = 0; k < n; k++) {
                    const float exact = ((float *)(void *)(a.state + x->offset))[k];
                    const float kept = bf16_to_f32(((uint16_t *)(void *)(b.state + y->offset))[k]);

                    assert_true(fabsf(kept - exact) < 0x1p-7f * fabsf(exact) || kept == exact);
                }
            }
            trace_finish(&a);
            trace_finish(&b);
            runner_finish(&wide);
            runner_finish(&narrow);
        }
    }
}

/* Token by token every number is off by less than 2^-7 of it, to either side alike: what a layer
 * reads of a state by about 2^-9 of that, and of the layers and tokens before by as much again.
 * 2^-5 of the largest logit is several times what a few layers add up to. */
static void rounding_every_token_moves_logits_a_little(void **state)
{
    int32_t token[LENGTH];

    (void)state;
    make_tokens(token, 2);
    for (int m = 0; m < MODELS; m++) {
        for (int i = 0; i < ISAS; i++) {
            struct runner wide, narrow;
            float worst = 0.0f;

            if (!runner_init(&wide, models[m], isa_names[i]))
                continue;
            assert_true(runner_init_narrow(&narrow, models[m], isa_names[i]));
            struct trace a = runner_trace(&wide, token, LENGTH, single);
            struct trace b = runner_trace(&narrow, token, LENGTH, single);
            const size_t n = a.logit_bytes / sizeof(float);
            const float scale = largest(a.logits, n);

            for (size_t k = 0; k < n; k++)
                worst = fmaxf(worst, fabsf(a.logits[k] - b.logits[k]));
            print_message("# %s %s: %.2g of %.2g\n", models[m], narrow.be->detail, (double)worst,
                          (double)scale);
            assert_true(worst > 0 && worst <= 0x1p-5f * scale);
            trace_finish(&a);
            trace_finish(&b);
            runner_finish(&wide);
            runner_finish(&narrow);
        }
    }
}

static void step_one(struct runner *r, int32_t id, int slot, uint32_t position, float *logits)
{
    const int begin[] = { 0, 1 }, row = 0;
    const struct batch in = { .S = 1,
                              .T = 1,
                              .L = 1,
                              .token = &id,
                              .begin = begin,
                              .slot = &slot,
                              .logit_row = &row,
                              .position = &position };

    model_step(r->m, r->records, &in);
    runner_logits(r, 0, logits);
}

/* Through the host into another slot, as a fork, a snapshot and a move to another server do. */
static void a_copied_state_goes_on_to_the_last_bit(void **state)
{
    enum { FROM = 3, TO = 11, MORE = 20 };
    int32_t token[LENGTH];

    (void)state;
    make_tokens(token, 3);
    for (int m = 0; m < MODELS; m++) {
        for (int i = 0; i < ISAS; i++) {
            struct runner r;

            if (!runner_init_narrow(&r, models[m], isa_names[i]))
                continue;
            const size_t bytes = r.info->layout.bytes, row = (size_t)r.info->vocab * sizeof(float);
            struct trace t = runner_trace(&r, token, LENGTH - MORE, single);
            float *a = malloc(row), *b = malloc(row);
            char *left[] = { malloc(bytes), malloc(bytes) };
            struct error err = { 0 };

            assert_true(a && b && left[0] && left[1]);
            r.be->upload(r.be, r.records + TO * bytes, t.state, bytes);
            for (int k = LENGTH - MORE; k < LENGTH; k++) {
                step_one(&r, token[k], FROM, (uint32_t)k, a);
                step_one(&r, token[k], TO, (uint32_t)k, b);
                assert_memory_equal(a, b, row);
            }
            r.be->download(r.be, left[0], r.records + FROM * bytes, bytes);
            r.be->download(r.be, left[1], r.records + TO * bytes, bytes);
            assert_true(r.be->sync(r.be, &err));
            assert_memory_equal(left[0], left[1], bytes);
            free(left[0]);
            free(left[1]);
            free(a);
            free(b);
            trace_finish(&t);
            runner_finish(&r);
        }
    }
}

/* Four sequences in each step, and each alone. */
static void who_shares_a_step_is_invisible(void **state)
{
    enum { S = 4, STEPS = 12 };
    int32_t token[S][LENGTH];

    (void)state;
    for (int s = 0; s < S; s++)
        make_tokens(token[s], s);
    for (int m = 0; m < MODELS; m++) {
        for (int i = 0; i < ISAS; i++) {
            const int begin[] = { 0, 1, 2, 3, 4 }, slot[S] = { 9, 2, 17, 5 };
            struct runner r;

            if (!runner_init_narrow(&r, models[m], isa_names[i]))
                continue;
            const size_t bytes = r.info->layout.bytes;
            char *together = malloc(bytes);
            struct error err = { 0 };

            for (int k = 0; k < STEPS; k++) {
                const uint32_t at = (uint32_t)k, position[] = { at, at, at, at };
                const int32_t now[] = { token[0][k], token[1][k], token[2][k], token[3][k] };

                model_step(r.m, r.records,
                           &(struct batch){ .S = S,
                                            .T = S,
                                            .L = S,
                                            .token = now,
                                            .begin = begin,
                                            .slot = slot,
                                            .logit_row = begin,
                                            .position = position });
            }
            for (int s = 0; s < S && runner_is_exact(&r); s++) {
                struct trace t = runner_trace(&r, token[s], STEPS, single);

                r.be->download(r.be, together, r.records + (size_t)slot[s] * bytes, bytes);
                assert_true(r.be->sync(r.be, &err));
                assert_memory_equal(t.state, together, bytes);
                trace_finish(&t);
            }
            assert_true(r.be->sync(r.be, &err));
            free(together);
            runner_finish(&r);
        }
    }
}

/* Where the demonstration model draws another token, the two were a tie within 2^-5 of the largest
 * logit. */
static void greedy_tokens_are_those_of_float32_states(void **state)
{
    int32_t token[LENGTH] = { 1 };

    (void)state;
    for (int i = 0; i < ISAS; i++) {
        struct runner wide, narrow;
        int other = 0;

        if (!runner_init(&wide, models[DEMO], isa_names[i]))
            continue;
        assert_true(runner_init_narrow(&narrow, models[DEMO], isa_names[i]));
        const int vocab = wide.info->vocab;
        float *a = malloc((size_t)vocab * sizeof(*a)), *b = malloc((size_t)vocab * sizeof(*b));

        for (int k = 0; k + 1 < LENGTH; k++) {
            step_one(&wide, token[k], 3, (uint32_t)k, a);
            step_one(&narrow, token[k], 3, (uint32_t)k, b);
            token[k + 1] = runner_greedy(&wide, a);

            const int32_t best = runner_greedy(&narrow, b);

            other += best != token[k + 1];
            assert_true(b[best] - b[token[k + 1]] <= 0x1p-5f * largest(a, (size_t)vocab));
        }
        assert_true(other <= LENGTH / 10);
        free(a);
        free(b);
        runner_finish(&wide);
        runner_finish(&narrow);
    }
}

static void a_session_takes_about_half(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        struct model_info info;
        struct error err = { 0 };

        assert_true(model_describe(models[m], &info, &err));
        const struct state_layout wide = info.layout;

        assert_int_equal(wide.bf16_bytes, 0);
        state_layout_pack(&info.layout, DTYPE_BF16);
        assert_true(info.layout.id != wide.id);
        assert_int_equal(wide.bytes - info.layout.bytes, info.layout.bf16_bytes);
        assert_true(info.layout.bf16_bytes * 2 >= wide.bytes / 2);
        state_layout_pack(&info.layout, DTYPE_F32);
        assert_memory_equal(&info.layout, &wide, sizeof(wide));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_takes_about_half),
        cmocka_unit_test(a_prompt_in_one_piece_is_rounded_at_its_end),
        cmocka_unit_test(rounding_every_token_moves_logits_a_little),
        cmocka_unit_test(a_copied_state_goes_on_to_the_last_bit),
        cmocka_unit_test(who_shares_a_step_is_invisible),
        cmocka_unit_test(greedy_tokens_are_those_of_float32_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
