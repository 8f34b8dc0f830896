/* Checkpoints that are not what they claim to be: each is refused with the tensor or the key,
 * what was expected and what was found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/made_model.h"
#include "tests/models/runner.h"

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static const char *const mamba_config =
    "{\"model_type\":\"mamba\",\"hidden_size\":64,\"num_hidden_layers\":3,\"vocab_size\":256}";
static const char *const mamba2_config =
    "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":3,\"vocab_size\":256,"
    "\"num_heads\":8,\"head_dim\":16,\"state_size\":32,\"n_groups\":2,"
    "\"tie_word_embeddings\":true}";

static struct made_model *mamba(void)
{
    struct made_model *m = made_create();

    made_copy(m, "tests/data/mamba-tiny");
    return m;
}

static void the_copies_are_accepted_as_they_are(void **state)
{
    const int32_t token[] = { 1, 2, 3 };
    struct made_model *m = mamba(), *m2 = made_create();

    (void)state;
    struct trace t = trace_of(made_write(m, mamba_config), token, 3);
    trace_finish(&t);
    made_copy(m2, "tests/data/mamba2-grouped");
    t = trace_of(made_write(m2, mamba2_config), token, 3);
    trace_finish(&t);
    made_destroy(m);
    made_destroy(m2);
}

/* One after the other, every tensor of the checkpoint. */
static void no_tensor_may_be_missing(void **state)
{
    int tensors = 1;

    (void)state;
    for (int i = 0; i < tensors; i++) {
        struct made_model *m = mamba();
        char name[sizeof(m->tensor[i].name)];

        tensors = m->tensors;
        strcpy(name, m->tensor[i].name);
        made_drop(m, name);
        assert_refused(made_write(m, mamba_config), WORDS(name, "is missing", "shape ["));
        made_destroy(m);
    }
}

static void a_missing_tensor_is_told_under_both_names(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/rwkv7-tiny-hf");
    made_drop(m, "model.layers.2.attn.w_lora.lora.0.weight");
    assert_refused(made_write(m, "{\"model_type\":\"rwkv7\"}"),
                   WORDS("model.layers.2.attn.w_lora.lora.0.weight", "blocks.2.att.w1", "missing",
                         "[32, 64]"));
    made_destroy(m);
}

static void no_tensor_may_be_surplus(void **state)
{
    struct made_model *m = mamba();

    (void)state;
    made_random(m, "backbone.layers.3.norm.weight", 64, 0, 0.0f, 1.0f);
    assert_refused(made_write(m, mamba_config),
                   WORDS("backbone.layers.3.norm.weight", "surplus", "mamba"));
    made_destroy(m);
}

static void one_weight_under_two_names_is_surplus(void **state)
{
    struct made_model *m = mamba();

    (void)state;
    made_random(m, "backbone.embedding.weight", 256, 64, 0.0f, 1.0f);
    assert_refused(made_write(m, mamba_config), WORDS("backbone.embedding.weight", "surplus"));
    made_destroy(m);
}

static void a_misshaped_tensor_is_named_with_both_shapes(void **state)
{
    struct made_model *m = mamba();

    (void)state;
    made_drop(m, "backbone.layers.1.mixer.A_log");
    made_random(m, "backbone.layers.1.mixer.A_log", 16, 128, 0.0f, 1.0f);
    assert_refused(made_write(m, mamba_config), WORDS("backbone.layers.1.mixer.A_log", "misshaped",
                                                      "expected [128, 16]", "found [16, 128]"));
    made_destroy(m);
}

static void a_tied_head_of_another_shape_is_refused(void **state)
{
    struct made_model *m = mamba();

    (void)state;
    made_random(m, "lm_head.weight", 255, 64, 0.0f, 1.0f);
    assert_refused(made_write(m, mamba_config),
                   WORDS("lm_head.weight", "expected [256, 64]", "found [255, 64]"));
    made_destroy(m);
}

static void a_head_that_is_not_tied_must_be_there(void **state)
{
    struct made_model *m = mamba();

    (void)state;
    assert_refused(made_write(m, "{\"model_type\":\"mamba\",\"hidden_size\":64,"
                                 "\"num_hidden_layers\":3,\"vocab_size\":256,"
                                 "\"tie_word_embeddings\":false}"),
                   WORDS("lm_head.weight", "missing", "[256, 64]"));
    made_destroy(m);
}

static void whole_numbers_are_no_weights(void **state)
{
    struct made_model *m = mamba();
    struct made_tensor *t = made_find(m, "backbone.layers.0.mixer.in_proj.weight");

    (void)state;
    t->dtype = DTYPE_I64;
    t->rank = 3; /* the same bytes: 256 * 32 of 8 bytes each; then shaped as expected */
    t->shape[0] = 1;
    t->shape[1] = 256;
    t->shape[2] = 32;
    assert_refused(made_write(m, mamba_config), WORDS("in_proj.weight", "misshaped"));

    t = made_find(m, "backbone.layers.0.mixer.in_proj.weight");
    made_drop(m, t->name);
    t = made_random(m, "backbone.layers.0.mixer.in_proj.weight", 256, 2 * 64, 0.0f, 1.0f);
    t->dtype = DTYPE_I64;
    t->shape[1] = 64;
    assert_refused(made_write(m, mamba_config),
                   WORDS("in_proj.weight", "wrong type", "F32, F16 or BF16", "found I64"));
    made_destroy(m);
}

static void layers_of_the_config_and_of_the_file_must_agree(void **state)
{
    struct made_model *m = mamba();

    (void)state;
    assert_refused(made_write(m, "{\"model_type\":\"mamba\",\"hidden_size\":64,"
                                 "\"num_hidden_layers\":4,\"vocab_size\":256}"),
                   WORDS("backbone.layers.3.norm.weight", "missing"));
    assert_refused(made_write(m, "{\"model_type\":\"mamba\",\"hidden_size\":64,"
                                 "\"num_hidden_layers\":2,\"vocab_size\":256}"),
                   WORDS("backbone.layers.2.", "surplus"));
    made_destroy(m);
}

/* A mamba2 checkpoint with one key of its config changed. */
static void bad_settings_are_refused_by_their_key(void **state)
{
    static const struct {
        const char *from, *to, *word[3];
    } cases[] = {
        { "\"mamba2\"", "\"llama\"", { "model_type", "llama", "mamba2" } },
        { "\"vocab_size\":256", "\"vocab_size\":0", { "vocab_size", "0", "config.json" } },
        { "\"vocab_size\":256", "\"vocab_size\":\"many\"", { "vocab_size", "config.json", "" } },
        { "\"vocab_size\":256", "\"vocab\":256", { "vocab_size", "missing", "" } },
        { "\"hidden_size\":64", "\"hidden_size\":-64", { "hidden_size", "-64", "" } },
        { "\"num_heads\":8", "\"num_heads\":7", { "num_heads * head_dim", "128", "7 * 16" } },
        { "\"n_groups\":2", "\"n_groups\":3", { "n_groups", "divisor of num_heads 8", "3" } },
        { "\"n_groups\":2", "\"conv_kernel\":1", { "conv_kernel", "from 2 to", "found 1" } },
        { "\"n_groups\":2", "\"n_groups\":1", { "misshaped", "in_proj", "expected [328, 64]" } },
        { "\"n_groups\":2",
          "\"n_groups\":2,\"hidden_act\":\"gelu\"",
          { "hidden_act", "silu", "gelu" } },
        { "\"n_groups\":2",
          "\"n_groups\":2,\"time_step_limit\":[1.0,0.5]",
          { "time_step_limit", "[1, 0.5]", "" } },
        { "\"n_groups\":2",
          "\"n_groups\":2,\"ssm_cfg\":{\"norm_before_gate\":true}",
          { "norm_before_gate", "expected false", "" } },
        { "\"n_groups\":2", "\"n_groups\":2,\"bos_token_id\":256", { "bos_token_id", "256", "" } },
        { "\"n_groups\":2",
          "\"n_groups\":2,\"eos_token_id\":[1,2,3,4,5,6,7,8,9]",
          { "eos_token_id", "", "" } },
        { "\"n_groups\":2",
          "\"n_groups\":2,\"layer_norm_epsilon\":-1e-5",
          { "layer_norm_epsilon", "", "" } },
    };
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/mamba2-grouped");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *at = strstr(mamba2_config, cases[i].from);
        char config[512];

        assert_non_null(at);
        snprintf(config, sizeof(config), "%.*s%s%s", (int)(at - mamba2_config), mamba2_config,
                 cases[i].to, at + strlen(cases[i].from));
        assert_refused(made_write(m, config),
                       WORDS(cases[i].word[0], cases[i].word[1], cases[i].word[2]));
    }
    made_destroy(m);
}

static void rwkv7_heads_must_fill_the_hidden_size(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/rwkv7-tiny-hf");
    assert_refused(made_write(m, "{\"model_type\":\"rwkv7\",\"num_heads\":3}"),
                   WORDS("num_heads * head_dim", "hidden_size 64", "3 * 64"));
    assert_refused(made_write(m, "{\"model_type\":\"rwkv7\",\"norm_first\":false}"),
                   WORDS("norm_first", "expected true"));
    made_destroy(m);
}

static void tensors_of_no_known_architecture_are_refused(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_random(m, "transformer.h.0.attn.c_attn.weight", 8, 8, 0.0f, 1.0f);
    assert_refused(made_write(m, NULL), WORDS("model_type", "no tensor tells"));
    made_destroy(m);
}

static void *(*alloc_for_real)(struct backend *be, size_t bytes);
static int allocations_left;

static void *alloc_a_few(struct backend *be, size_t bytes)
{
    return allocations_left-- > 0 ? alloc_for_real(be, bytes) : NULL;
}

/* Whichever allocation of the backend fails first, nothing is left behind (as the address
 * sanitizer's build proves) and the message says why. */
static void running_out_of_memory_refuses_the_model(void **state)
{
    const struct model_options options = { .max_rows = 4, .max_logits = 4 };
    struct error err = { 0 };
    struct backend *be =
        backend_open_cpu(&(struct backend_options){ .threads = 1, .isa = "plain" }, &err);
    struct model *m = NULL;
    int failures = 0;

    (void)state;
    assert_non_null(be);
    alloc_for_real = be->alloc;
    be->alloc = alloc_a_few;
    while (!m) {
        allocations_left = failures;
        m = model_open("tests/data/mamba-tiny", be, &options, &err);
        if (!m) {
            assert_int_equal(err.code, ERR_NOMEM);
            assert_non_null(strstr(err.message, "out of memory"));
            failures++;
        }
    }
    assert_true(failures >= 3 * 6 + 2); /* the vectors of three layers, last norm, scratch */
    model_close(m);
    backend_close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_copies_are_accepted_as_they_are),
        cmocka_unit_test(no_tensor_may_be_missing),
        cmocka_unit_test(a_missing_tensor_is_told_under_both_names),
        cmocka_unit_test(no_tensor_may_be_surplus),
        cmocka_unit_test(one_weight_under_two_names_is_surplus),
        cmocka_unit_test(a_misshaped_tensor_is_named_with_both_shapes),
        cmocka_unit_test(a_tied_head_of_another_shape_is_refused),
        cmocka_unit_test(a_head_that_is_not_tied_must_be_there),
        cmocka_unit_test(whole_numbers_are_no_weights),
        cmocka_unit_test(layers_of_the_config_and_of_the_file_must_agree),
        cmocka_unit_test(bad_settings_are_refused_by_their_key),
        cmocka_unit_test(rwkv7_heads_must_fill_the_hidden_size),
        cmocka_unit_test(tensors_of_no_known_architecture_are_refused),
        cmocka_unit_test(running_out_of_memory_refuses_the_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
