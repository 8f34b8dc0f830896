/* Settings of config.json that none of the checkpoints in tests/data exercises, each against
 * a model that comes to the same by other means. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/models/made_model.h"
#include "tests/models/runner.h"

enum { TOKENS = 24 };

#define MAMBA                                                                                      \
    "{\"model_type\":\"mamba\",\"hidden_size\":64,\"num_hidden_layers\":3,\"vocab_size\":256"
#define MAMBA2                                                                                     \
    "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":3,\"vocab_size\":256,"    \
    "\"num_heads\":8,\"head_dim\":16,\"state_size\":32,\"n_groups\":2,"                            \
    "\"tie_word_embeddings\":true"

static struct trace trace_made(struct made_model *m, const char *config)
{
    int32_t token[TOKENS];

    for (int i = 0; i < TOKENS; i++)
        token[i] = (i * 53 + 17) % 256;
    return trace_of(made_write(m, config), token, TOKENS);
}

static struct made_model *copy_of(const char *path)
{
    struct made_model *m = made_create();

    made_copy(m, path);
    return m;
}

static float largest_difference(const struct trace *a, const struct trace *b)
{
    float worst = 0.0f;

    assert_int_equal(a->logit_bytes, b->logit_bytes);
    for (size_t i = 0; i < a->logit_bytes / sizeof(float); i++)
        worst = fmaxf(worst, fabsf(a->logits[i] - b->logits[i]));
    return worst;
}

/* The other way to a step size of 0.05: no input to it, and softplus(bias) = 0.05. */
static void fix_step_sizes(struct made_model *m)
{
    const int heads = 8, rows = 392, hidden = 64;
    char name[96];

    for (int l = 0; l < 3; l++) {
        snprintf(name, sizeof(name), "backbone.layers.%d.mixer.in_proj.weight", l);
        float *in = made_find(m, name)->data;
        memset(in + (rows - heads) * hidden, 0, (size_t)(heads * hidden) * sizeof(*in));
        snprintf(name, sizeof(name), "backbone.layers.%d.mixer.dt_bias", l);
        for (int h = 0; h < heads; h++)
            ((float *)made_find(m, name)->data)[h] = (float)log(expm1(0.05));
    }
}

static void time_step_limits_bound_the_step_size(void **state)
{
    static const char *const limits[] = { ",\"time_step_limit\":[0.05,0.05]}",
                                          ",\"ssm_cfg\":{\"dt_limit\":[0.05,0.05]}}" };
    struct made_model *fixed = copy_of("tests/data/mamba2-grouped");

    (void)state;
    fix_step_sizes(fixed);
    struct trace expected = trace_made(fixed, MAMBA2 "}");
    for (int i = 0; i < 2; i++) {
        struct made_model *m = copy_of("tests/data/mamba2-grouped");
        char config[512];

        snprintf(config, sizeof(config), "%s%s", MAMBA2, limits[i]);
        struct trace t = trace_made(m, config), free_running = trace_made(m, MAMBA2 "}");
        assert_true(largest_difference(&t, &expected) < 2e-5f);
        assert_true(largest_difference(&free_running, &expected) > 1e-2f);
        trace_finish(&t);
        trace_finish(&free_running);
        made_destroy(m);
    }
    trace_finish(&expected);
    made_destroy(fixed);
}

/* Drops every tensor whose name ends so, or fills it with zeros. */
static void remove_biases(struct made_model *m, const char *end, bool drop)
{
    for (int i = m->tensors - 1; i >= 0; i--) {
        struct made_tensor *t = &m->tensor[i];
        size_t len = strlen(t->name), n = strlen(end);
        char name[sizeof(t->name)];

        if (len < n || strcmp(t->name + len - n, end) != 0 || strstr(t->name, "g_norm"))
            continue;
        memset(t->data, 0, t->bytes);
        strcpy(name, t->name);
        if (drop)
            made_drop(m, name);
    }
}

static void a_bias_switched_off_is_a_bias_of_zero(void **state)
{
    static const struct {
        const char *model, *end, *with, *without;
    } cases[] = {
        { "tests/data/mamba-tiny", "conv1d.bias", MAMBA "}", MAMBA ",\"use_conv_bias\":false}" },
        { "tests/data/mamba2-grouped", "conv1d.bias", MAMBA2 "}",
          MAMBA2 ",\"use_conv_bias\":false}" },
        { "tests/data/rwkv7-tiny-hf", "norm.bias", "{\"model_type\":\"rwkv7\"}",
          "{\"model_type\":\"rwkv7\",\"norm_bias\":false}" },
    };

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct made_model *zero = copy_of(cases[i].model), *none = copy_of(cases[i].model);

        remove_biases(zero, cases[i].end, false);
        remove_biases(none, cases[i].end, true);
        assert_true(none->tensors < zero->tensors);
        struct trace a = trace_made(zero, cases[i].with), b = trace_made(none, cases[i].without);
        assert_traces_equal(&a, &b);
        trace_finish(&a);
        trace_finish(&b);
        made_destroy(zero);
        made_destroy(none);
    }
}

/* Without the gated norm its weight is surplus, and nothing bounds y * silu(z). */
static void the_gated_norm_can_be_absent(void **state)
{
    struct made_model *m = copy_of("tests/data/mamba2-grouped");
    const char *const refusal[] = { "mixer.norm.weight", "surplus", NULL };

    (void)state;
    struct trace with = trace_made(m, MAMBA2 "}");
    assert_refused(made_write(m, MAMBA2 ",\"ssm_cfg\":{\"rmsnorm\":false}}"), refusal);
    for (int l = 0; l < 3; l++) {
        char name[96];

        snprintf(name, sizeof(name), "backbone.layers.%d.mixer.norm.weight", l);
        made_drop(m, name);
    }
    struct trace without = trace_made(m, MAMBA2 ",\"ssm_cfg\":{\"rmsnorm\":false}}");
    assert_true(largest_difference(&with, &without) > 1e-2f);
    trace_finish(&with);
    trace_finish(&without);
    made_destroy(m);
}

/* A tied model is the untied one whose head is a copy of its embedding. */
static void a_tied_head_is_the_embedding(void **state)
{
    struct made_model *m = copy_of("tests/data/mamba-tiny");
    struct made_tensor *embed = made_find(m, "backbone.embeddings.weight");

    (void)state;
    struct trace tied = trace_made(m, MAMBA "}");
    memcpy(made_random(m, "lm_head.weight", 256, 64, 0.0f, 1.0f)->data, embed->data, embed->bytes);
    struct trace copied = trace_made(m, MAMBA ",\"tie_word_embeddings\":false}");
    assert_traces_equal(&tied, &copied);
    trace_finish(&tied);
    trace_finish(&copied);
    made_destroy(m);
}

/* Weights rounded to multiples of 1/32 are the same numbers in all three types. */
static void half_precision_weights_are_read_exactly(void **state)
{
    static const enum dtype type[] = { DTYPE_BF16, DTYPE_F16 };

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct made_model *wide = copy_of("tests/data/mamba-tiny"), *narrow = made_create();

        made_copy(narrow, "tests/data/mamba-tiny");
        for (int k = 0; k < narrow->tensors; k++) {
            struct made_tensor *t = &narrow->tensor[k];
            float *from = wide->tensor[k].data;
            uint16_t *to = t->data;

            for (size_t j = 0; j < wide->tensor[k].bytes / sizeof(float); j++) {
                from[j] = ldexpf(rintf(ldexpf(from[j], 5)), -5);
                uint32_t bits;
                memcpy(&bits, &from[j], sizeof(bits));
                uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
                uint16_t half = (uint16_t)(sign | ((bits >> 13 & 0x3ffffu) - (112u << 10)));

                to[j] = type[i] == DTYPE_BF16 ? f32_to_bf16(from[j])
                        : from[j] == 0.0f     ? sign
                                              : half;
            }
            t->dtype = type[i];
            t->bytes /= 2;
        }
        struct trace a = trace_made(wide, MAMBA "}"), b = trace_made(narrow, MAMBA "}");
        assert_true(largest_difference(&a, &b) < 2e-5f);
        trace_finish(&a);
        trace_finish(&b);
        made_destroy(wide);
        made_destroy(narrow);
    }
}

/* Heads of twice the output: what else depends on it is made up for. Powers of 2, so that all
 * else rounds as it did. */
static void double_heads(struct made_model *m)
{
    for (int i = 0; i < m->tensors; i++) {
        struct made_tensor *t = &m->tensor[i];
        const float by = strstr(t->name, "v_proj") ? 2.0f : strstr(t->name, ".r_k") ? 0.5f : 1.0f;

        assert_int_equal(t->dtype, DTYPE_F32);
        for (size_t j = 0; j < t->bytes / sizeof(float); j++)
            ((float *)t->data)[j] *= by;
    }
}

#define HF     "tests/data/rwkv7-tiny-hf"
#define RWKV7  "{\"model_type\":\"rwkv7\""
#define OTHERS ",\"layer_norm_epsilon\":4e-5" /* that of the other norms alone */

/* By config.json: what is given for it, else head_dim (64) times norm_eps, else the author's. */
static void the_head_norm_has_an_epsilon_of_its_own(void **state)
{
    static const struct {
        bool doubled;
        const char *a, *b;
    } same[] = {
        { true, RWKV7 "}", RWKV7 ",\"group_norm_epsilon\":256e-5}" },
        { true, RWKV7 OTHERS "}", RWKV7 OTHERS ",\"group_norm_epsilon\":256e-5}" },
        { false, RWKV7 "}", RWKV7 ",\"norm_eps\":1e-5}" },
        { false, RWKV7 ",\"norm_eps\":4e-5}", RWKV7 OTHERS ",\"group_norm_epsilon\":256e-5}" },
        { false, RWKV7 OTHERS ",\"group_norm_epsilon\":256e-5}",
          RWKV7 ",\"norm_eps\":4e-5,\"group_norm_epsilon\":256e-5}" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        struct made_model *m = copy_of(HF);
        struct trace a = trace_made(m, same[i].a), b, other;

        if (same[i].doubled)
            double_heads(m);
        b = trace_made(m, same[i].b);
        if (largest_difference(&a, &b) != 0.0f)
            fail_msg("%s and %s differ by %g", same[i].a, same[i].b,
                     (double)largest_difference(&a, &b));
        other = trace_made(m, RWKV7 ",\"group_norm_epsilon\":0}");
        assert_true(largest_difference(&other, &b) > 1e-3f);
        trace_finish(&a);
        trace_finish(&b);
        trace_finish(&other);
        made_destroy(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_step_limits_bound_the_step_size),
        cmocka_unit_test(a_bias_switched_off_is_a_bias_of_zero),
        cmocka_unit_test(the_gated_norm_can_be_absent),
        cmocka_unit_test(a_tied_head_is_the_embedding),
        cmocka_unit_test(half_precision_weights_are_read_exactly),
        cmocka_unit_test(the_head_norm_has_an_epsilon_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
