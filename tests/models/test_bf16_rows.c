/* Rows that an operation writes as bf16 for the products behind it: how models/ leads them from
 * one to the other. A CPU's backend does not ask for them, but the definitions know them, so the
 * flag is set here. The measure is products that round what they read themselves: a number that
 * only products read is the same, whoever rounds it, and one that anything else reads too must
 * not be rounded for that. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/made_model.h"
#include "tests/models/oracle_mamba.h"
#include "tests/models/runner.h"

enum { TOKENS = 48 };

#define MADE_MAMBA(type)                                                                           \
    "{\"model_type\":\"" type "\",\"vocab_size\":61,\"hidden_size\":23,\"expand\":16,"             \
    "\"intermediate_size\":57,\"num_hidden_layers\":2,\"state_size\":7,\"time_step_rank\":3,"      \
    "\"conv_kernel\":3,\"use_bias\":true,\"tie_word_embeddings\":false}"

/* Every architecture, with each of its ways to a product; heads tied and not. */
static const struct subject {
    const char *folder; /* or NULL: made up, of this config.json */
    const char *config;
    int layers, chain; /* products of a layer that wait for one another */
    const char *matrix, *vector;
} subjects[] = {
    { "tests/data/mamba-tiny", NULL, 3, 4, "embeddings", "A_log" },
    { NULL, MADE_MAMBA("mamba"), 2, 4, "layers.1.mixer.x_proj", "dt_proj.bias" },
    { NULL, MADE_MAMBA("falcon_mamba"), 2, 4, "lm_head", "norm" },
    { "tests/data/mamba2-grouped", NULL, 3, 2, "layers.2.mixer.out_proj", "A_log" },
    { "tests/data/mamba2-tiny", NULL, 4, 2, "layers.0.mixer.in_proj", "mixer.D" },
    { "tests/data/rwkv7-tiny-hf", NULL, 6, 5, "layers.3.attn.g_lora.lora.2.weight", "attn.x_k" },
};

enum { SUBJECTS = sizeof(subjects) / sizeof(subjects[0]) };

/* A subject in bf16, but for the tensors whose name holds `but`. */
static struct made_model *make(const struct subject *s, const char *but)
{
    struct made_model *m = made_create();

    if (s->folder)
        made_first_layers(m, s->folder, s->layers);
    else
        oracle_mamba_make(m, &(struct oracle_mamba){ .vocab = 61,
                                                     .hidden = 23,
                                                     .layers = s->layers,
                                                     .inner = 57,
                                                     .state = 7,
                                                     .rank = 3,
                                                     .conv = 3 });
    made_narrow(m, but);
    made_write(m, s->config);
    return m;
}

enum rounding { NONE, IN_PRODUCTS, IN_ROWS };

static void init(struct runner *r, const struct made_model *m, enum rounding rounding)
{
    const struct backend_options options = { .threads = 2,
                                             .isa = "plain",
                                             .round_x = rounding == IN_PRODUCTS };
    struct error err = { 0 };
    struct backend *be = backend_open_cpu(&options, &err);

    assert_non_null(be);
    assert_false(be->bf16_rows);
    be->bf16_rows = rounding == IN_ROWS;
    runner_init_on(r, m->folder, be, DTYPE_F32);
}

static struct trace run(struct runner *r, const int *chunk)
{
    int32_t token[TOKENS];

    for (int i = 0; i < TOKENS; i++)
        token[i] = (i * 53 + 17) % r->info->vocab;
    return runner_trace(r, token, TOKENS, chunk);
}

static const int whole[] = { TOKENS, 0 }, single[] = { 1, 0 }, uneven[] = { 1, 5, 2, 13, 3, 8, 0 };

static struct trace trace_rounded(const struct made_model *m, enum rounding rounding)
{
    struct runner r;

    init(&r, m, rounding);
    struct trace t = run(&r, whole);
    runner_finish(&r);
    return t;
}

static void bf16_rows_are_what_rounding_products_read(void **state)
{
    (void)state;
    for (int i = 0; i < SUBJECTS; i++) {
        for (int wide = 0; wide < 2; wide++) { /* vectors may be float32 beside such matrices */
            struct made_model *m = make(&subjects[i], wide ? subjects[i].vector : NULL);
            struct trace rows = trace_rounded(m, IN_ROWS), products = trace_rounded(m, IN_PRODUCTS);

            assert_traces_equal(&rows, &products);
            trace_finish(&rows);
            trace_finish(&products);
            made_destroy(m);
        }
    }
}

/* How far a is from b, in the square mean, relative to b. */
static double distance(const void *a, const void *b, size_t bytes)
{
    const float *x = a, *y = b;
    double off = 0, all = 0;

    for (size_t i = 0; i < bytes / sizeof(*x); i++) {
        off += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        all += (double)y[i] * (double)y[i];
    }
    return sqrt(off / all);
}

/* The inputs of a product are off by a relative 2^-9 at most, and so, in the square mean over many
 * outputs, is what it adds to the residual stream. Passed on as it is, it is one of layers * chain
 * + 1 such parts, the head's being the last, that at worst all have one direction; products beside
 * one another do not add up. It bounds what rounding may cost; where it happens is told to the bit
 * by the test above. */
static void bf16_rows_stay_close_to_float32_and_are_not_it(void **state)
{
    (void)state;
    for (int i = 0; i < SUBJECTS; i++) {
        struct made_model *m = make(&subjects[i], NULL);
        const double tolerance = (subjects[i].layers * subjects[i].chain + 1) * 0x1p-9;
        struct trace rows = trace_rounded(m, IN_ROWS), exact = trace_rounded(m, NONE);
        const double logits = distance(rows.logits, exact.logits, exact.logit_bytes);
        const double states = distance(rows.state, exact.state, exact.state_bytes);

        print_message("# %d: %.2g logits, %.2g states, tolerance %.2g\n", i, logits, states,
                      tolerance);
        assert_true(logits > 0 && logits <= tolerance);
        assert_true(states > 0 && states <= tolerance);
        trace_finish(&rows);
        trace_finish(&exact);
        made_destroy(m);
    }
}

static void chunking_is_invisible_with_bf16_rows(void **state)
{
    (void)state;
    for (int i = 0; i < SUBJECTS; i++) {
        struct made_model *m = make(&subjects[i], NULL);
        struct runner r;

        init(&r, m, IN_ROWS);
        struct trace t[] = { run(&r, whole), run(&r, uneven), run(&r, single) };
        for (int k = 1; k < 3; k++)
            assert_traces_equal(&t[0], &t[k]);
        for (int k = 0; k < 3; k++)
            trace_finish(&t[k]);
        runner_finish(&r);
        made_destroy(m);
    }
}

/* A product of float32 weights cannot read bf16. */
static void one_matrix_of_another_type_keeps_all_rows_float32(void **state)
{
    (void)state;
    for (int i = 0; i < SUBJECTS; i++) {
        struct made_model *m = make(&subjects[i], subjects[i].matrix);
        struct trace rows = trace_rounded(m, IN_ROWS), exact = trace_rounded(m, NONE);

        assert_traces_equal(&rows, &exact);
        trace_finish(&rows);
        trace_finish(&exact);
        made_destroy(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_rows_are_what_rounding_products_read),
        cmocka_unit_test(bf16_rows_stay_close_to_float32_and_are_not_it),
        cmocka_unit_test(chunking_is_invisible_with_bf16_rows),
        cmocka_unit_test(one_matrix_of_another_type_keeps_all_rows_float32),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
