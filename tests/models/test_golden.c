/* The models of tests/data against what the reference implementations computed, on every
 * instruction set of the machine and on its GPU, in one piece and in several. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/runner.h"
#include "weights/weights.h"

/* tests/data/README.md: float32 sums in another order than the reference's. */
static const float TOLERANCE = 2e-4f;

/* A GPU's sums: 1e-3. Rounded activations, as narrow as the weights they meet: 0.25. */
static float tolerance_of(const struct runner *r)
{
    return r->rounds ? 0.25f : runner_is_exact(r) ? TOLERANCE : 1e-3f;
}

struct golden {
    const char *model, *expected;
    struct weights *file;
};

enum { MAMBA, MAMBA2, MAMBA2_GROUPED, RWKV7_HF, RWKV7_PTH, DEMO };

static struct golden goldens[] = {
    [MAMBA] = { "tests/data/mamba-tiny", "tests/data/mamba-tiny/expected.safetensors", NULL },
    [MAMBA2] = { "tests/data/mamba2-tiny", "tests/data/mamba2-tiny/expected.safetensors", NULL },
    [MAMBA2_GROUPED] = { "tests/data/mamba2-grouped",
                         "tests/data/mamba2-grouped/expected.safetensors", NULL },
    [RWKV7_HF] = { "tests/data/rwkv7-tiny-hf", "tests/data/rwkv7-tiny-hf/expected.safetensors",
                   NULL },
    [RWKV7_PTH] = { "tests/data/rwkv7-tiny-pth", "tests/data/rwkv7-tiny-pth/expected.safetensors",
                    NULL },
    [DEMO] = { "weights/demo", "tests/data/demo/expected.safetensors", NULL },
};

static int open_expected(void **state)
{
    struct golden *g = *state;
    struct error err;

    g->file = weights_open(g->expected, &err);
    return g->file ? 0 : -1;
}

static int close_expected(void **state)
{
    weights_close(((struct golden *)*state)->file);
    return 0;
}

/* The bytes of "caseN.what", or NULL; free them. */
static void *read_expected(const struct golden *g, int n, const char *what, size_t *count)
{
    char name[64];
    struct error err;

    snprintf(name, sizeof(name), "case%d.%s", n, what);
    const struct tensor *t = weights_find(g->file, name);
    if (!t)
        return NULL;
    void *data = malloc(t->bytes);
    assert_non_null(data);
    assert_true(weights_read(g->file, t, data, &err));
    *count = t->bytes / dtype_size(t->dtype);
    return data;
}

/* Token ids are int64 in the files. */
static int32_t *read_ids(const struct golden *g, int n, const char *what, int *count)
{
    size_t len = 0;
    int64_t *wide = read_expected(g, n, what, &len);
    int32_t *ids = calloc(len + 1, sizeof(*ids));

    assert_non_null(ids);
    for (size_t i = 0; i < len; i++)
        ids[i] = (int32_t)wide[i];
    free(wide);
    *count = (int)len;
    return ids;
}

static float max_difference(const float *a, const float *b, size_t n)
{
    float worst = 0.0f;

    for (size_t i = 0; i < n; i++)
        worst = fmaxf(worst, isnan(a[i]) ? INFINITY : fabsf(a[i] - b[i]));
    return worst;
}

/* Each instruction set and the GPU, without and with rounded activations, i below RUNS; false
 * when the machine lacks it. */
enum { RUNS = 2 * ISAS };

static bool init_run(struct runner *r, const struct golden *g, int i)
{
    return runner_init_with(r, g->model, isa_names[i / 2], i % 2);
}

static const int whole[] = { RUNNER_ROWS, 0 }, single[] = { 1, 0 };
static const int uneven[] = { 1, 2, 3, 5, 8, 13, 21, 34, 0 };

static void logits_are_the_references_on_every_isa(void **state)
{
    const struct golden *g = *state;
    struct runner r;

    for (int i = 0; i < RUNS; i++) {
        float worst = 0.0f;

        if (!init_run(&r, g, i))
            continue;
        for (int n = 0; n < 2; n++) {
            size_t count = 0;
            int T;
            int32_t *token = read_ids(g, n, "tokens", &T);
            float *expected = read_expected(g, n, "logits", &count);
            struct trace t = runner_trace(&r, token, T, whole);

            assert_int_equal(count * sizeof(float), t.logit_bytes);
            worst = fmaxf(worst, max_difference(t.logits, expected, count));
            trace_finish(&t);
            free(expected);
            free(token);
        }
        print_message("# %s %s: largest error %.2g\n", g->model, r.be->detail, (double)worst);
        assert_true(worst <= tolerance_of(&r));
        assert_true(!r.rounds || worst > TOLERANCE); /* it is no promise without effect */
        runner_finish(&r);
    }
}

static void chunking_is_invisible(void **state)
{
    const struct golden *g = *state;
    struct runner r;

    for (int i = 0; i < RUNS; i++) {
        if (!init_run(&r, g, i))
            continue;
        for (int n = 0; n < 2; n++) {
            int T;
            int32_t *token = read_ids(g, n, "tokens", &T);
            struct trace t[] = { runner_trace(&r, token, T, whole),
                                 runner_trace(&r, token, T, single),
                                 runner_trace(&r, token, T, uneven) };

            for (int k = 1; k < 3; k++) {
                runner_assert_alike(&r, t[0].logits, t[k].logits, t[0].logit_bytes,
                                    tolerance_of(&r));
                runner_assert_alike(&r, t[0].state, t[k].state, t[0].state_bytes, tolerance_of(&r));
            }
            for (int k = 0; k < 3; k++)
                trace_finish(&t[k]);
            free(token);
        }
        runner_finish(&r);
    }
}

static void last_logits_are_the_published_ones(void **state)
{
    const struct golden *g = *state;
    size_t count = 0;
    int T;
    int32_t *token = read_ids(g, 1, "tokens", &T);
    float *expected = read_expected(g, 1, "expected_last_logits_independent", &count);
    struct trace t = trace_of(g->model, token, T);

    assert_non_null(expected);
    float worst = max_difference(t.logits + (size_t)(T - 1) * count, expected, count);
    print_message("# %s: largest error to the published logits %.2g\n", g->model, (double)worst);
    assert_true(worst <= 1e-4f);
    trace_finish(&t);
    free(expected);
    free(token);
}

/* Where rounding leads to another token, the two were a tie within it. */
static void check_greedy(const struct runner *r, const float *logits, int32_t expected)
{
    const int32_t best = runner_greedy(r, logits);
    const float lead = logits[best] - logits[expected];

    if (best == expected)
        return;
    if (!r->rounds || lead > tolerance_of(r))
        fail_msg("%d was drawn, not %d, by %g", best, expected, (double)lead);
    print_message("# a tie: %d and %d, %.2g apart\n", best, expected, (double)lead);
}

static void greedy_tokens_are_the_references(void **state)
{
    const struct golden *g = *state;
    struct runner r;

    for (int i = 0; i < RUNS; i++) {
        if (!init_run(&r, g, i))
            continue;
        for (int n = 0; n < 2; n++) {
            int T, steps;
            int32_t *prompt = read_ids(g, n, "tokens", &T);
            int32_t *greedy = read_ids(g, n, "greedy", &steps);
            int32_t *token = calloc((size_t)(T + steps), sizeof(*token));

            memcpy(token, prompt, (size_t)T * sizeof(*token));
            memcpy(token + T, greedy, (size_t)steps * sizeof(*token));
            assert_int_equal(steps, 48);
            struct trace t = runner_trace(&r, token, T + steps, whole);
            for (int k = 0; k < steps; k++)
                check_greedy(&r, t.logits + (size_t)(T + k - 1) * (size_t)r.info->vocab, greedy[k]);
            trace_finish(&t);
            free(token);
            free(greedy);
            free(prompt);
        }
        runner_finish(&r);
    }
}

#define CASE(test, i)                                                                              \
    {                                                                                              \
#test "(" #i ")", test, open_expected, close_expected, &goldens[i]                         \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(logits_are_the_references_on_every_isa, MAMBA),
        CASE(logits_are_the_references_on_every_isa, MAMBA2),
        CASE(logits_are_the_references_on_every_isa, MAMBA2_GROUPED),
        CASE(logits_are_the_references_on_every_isa, RWKV7_HF),
        CASE(logits_are_the_references_on_every_isa, RWKV7_PTH),
        CASE(logits_are_the_references_on_every_isa, DEMO),
        CASE(chunking_is_invisible, MAMBA),
        CASE(chunking_is_invisible, MAMBA2),
        CASE(chunking_is_invisible, MAMBA2_GROUPED),
        CASE(chunking_is_invisible, RWKV7_HF),
        CASE(chunking_is_invisible, RWKV7_PTH),
        CASE(chunking_is_invisible, DEMO),
        CASE(last_logits_are_the_published_ones, RWKV7_HF),
        CASE(last_logits_are_the_published_ones, RWKV7_PTH),
        CASE(greedy_tokens_are_the_references, DEMO),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
