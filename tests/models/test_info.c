/* What a model says about itself: sizes, text ends, fingerprint. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "tests/models/made_model.h"
#include "tests/models/runner.h"

/* Saved states outlive the program: how it keeps a model's sizes and matrices to itself must not
 * show. The values are those of 9529823. */
static void a_model_keeps_its_fingerprint(void **state)
{
    static const struct {
        const char *model, *hex;
    } cases[] = {
        { "tests/data/mamba-tiny", "6985a7eca46956a92565f0bdeb236806" },
        { "tests/data/mamba2-tiny", "a61ee849fb7017a75156ecd919882a45" },
        { "tests/data/mamba2-grouped", "37fff3573b36f8e60e658a88ba0f72a4" },
        { "tests/data/rwkv7-tiny-hf", "b35df494957154776a38963cb625dd74" },
        { "tests/data/rwkv7-tiny-pth", "b35df494957154776a38963cb625dd74" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char hex[33];
        struct runner r;

        assert_true(runner_init(&r, cases[i].model, "plain"));
        for (int k = 0; k < 16; k++)
            snprintf(hex + 2 * k, 3, "%02x", r.info->fingerprint[k]);
        assert_string_equal(hex, cases[i].hex);
        runner_finish(&r);
    }
}

static void one_changed_weight_is_another_fingerprint(void **state)
{
    struct made_model *m = made_create();
    struct runner a, b;

    (void)state;
    made_copy(m, "tests/data/mamba2-tiny");
    ((unsigned char *)made_find(m, "backbone.layers.3.mixer.D")->data)[0] ^= 1;
    assert_true(runner_init(&a, "tests/data/mamba2-tiny", "plain"));
    assert_true(runner_init(
        &b,
        made_write(m, "{\"model_type\":\"mamba2\",\"hidden_size\":96,\"num_hidden_layers\":4,"
                      "\"vocab_size\":256,\"num_heads\":6,\"head_dim\":32,\"state_size\":16,"
                      "\"n_groups\":1,\"use_bias\":true,\"tie_word_embeddings\":false}"),
        "plain"));
    assert_memory_not_equal(a.info->fingerprint, b.info->fingerprint, 16);
    assert_true(a.info->layout.id == b.info->layout.id);
    runner_finish(&a);
    runner_finish(&b);
    made_destroy(m);
}

static void another_setting_is_another_fingerprint(void **state)
{
    static const struct {
        const char *model, *config;
    } cases[] = {
        { "tests/data/mamba-tiny", "{\"model_type\":\"mamba\",\"hidden_size\":64,"
                                   "\"num_hidden_layers\":3,\"vocab_size\":256,"
                                   "\"layer_norm_epsilon\":1e-6}" },
        { "tests/data/mamba-tiny", "{\"model_type\":\"falcon_mamba\",\"hidden_size\":64,"
                                   "\"num_hidden_layers\":3,\"vocab_size\":256}" },
        { "tests/data/rwkv7-tiny-hf", "{\"model_type\":\"rwkv7\",\"norm_eps\":1e-6}" },
        { "tests/data/rwkv7-tiny-hf", "{\"model_type\":\"rwkv7\",\"group_norm_epsilon\":1e-5}" },
    };

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct made_model *m = made_create();
        struct runner a, b;

        made_copy(m, cases[i].model);
        assert_true(runner_init(&a, cases[i].model, "plain"));
        assert_true(runner_init(&b, made_write(m, cases[i].config), "plain"));
        assert_memory_not_equal(a.info->fingerprint, b.info->fingerprint, 16);
        runner_finish(&a);
        runner_finish(&b);
        made_destroy(m);
    }
}

static void a_description_says_what_loading_finds(void **state)
{
    static const char *const path[] = { "tests/data/mamba-tiny", "tests/data/mamba2-grouped/",
                                        "tests/data/rwkv7-tiny-hf", "weights/demo" };
    static const char *const name[] = { "mamba-tiny", "mamba2-grouped", "rwkv7-tiny-hf", "demo" };
    /* the files' shapes multiplied and summed by another program */
    static const uint64_t parameters[] = { 114560, 120776, 829888, 7944940 };

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct model_info info = { 0 };
        struct runner r;

        assert_true(runner_init(&r, path[i], "plain"));
        assert_true(model_describe(path[i], &info, &(struct error){ 0 }));
        assert_string_equal(info.name, name[i]);
        assert_string_equal(r.info->name, name[i]);
        assert_string_equal(info.architecture, r.info->architecture);
        assert_true(info.parameters == parameters[i]);
        assert_true(r.info->parameters == parameters[i]);
        assert_true(info.layout.id == r.info->layout.id);
        assert_int_equal(info.layout.bytes, r.info->layout.bytes);
        assert_int_equal(info.bos, 0);
        assert_int_equal(info.stops, 1);
        assert_int_equal(info.stop[0], 0);
        assert_true(info.dtype == (i == 3 ? DTYPE_BF16 : DTYPE_F32));
        runner_finish(&r);
    }
}

/* `keys` goes into config.json, `generation` is generation_config.json or NULL. */
static struct model_info info_with(const char *keys, const char *generation)
{
    struct made_model *m = made_create();
    struct model_info info = { 0 };
    struct error err = { 0 };
    char config[256];

    snprintf(config, sizeof(config),
             "{\"model_type\":\"mamba\",\"hidden_size\":64,\"num_hidden_layers\":3,"
             "\"vocab_size\":256%s}",
             keys);
    made_copy(m, "tests/data/mamba-tiny");
    made_write(m, config);
    if (generation)
        made_put(m, "generation_config.json", generation);
    if (!model_describe(m->folder, &info, &err))
        fail_msg("%s", err.message);
    made_destroy(m);
    return info;
}

static void text_ends_come_from_generation_config_first(void **state)
{
    (void)state;
    struct model_info info = info_with("", NULL);
    assert_int_equal(info.bos, -1);
    assert_int_equal(info.stops, 0);

    info = info_with(",\"bos_token_id\":1,\"eos_token_id\":2", NULL);
    assert_int_equal(info.bos, 1);
    assert_int_equal(info.stops, 1);
    assert_int_equal(info.stop[0], 2);

    info = info_with(",\"bos_token_id\":1,\"eos_token_id\":2",
                     "{\"bos_token_id\":3,\"eos_token_id\":[5,4]}");
    assert_int_equal(info.bos, 3);
    assert_int_equal(info.stops, 2);
    assert_int_equal(info.stop[0], 5);
    assert_int_equal(info.stop[1], 4);

    info = info_with(",\"bos_token_id\":null,\"eos_token_id\":9", "{\"eos_token_id\":null}");
    assert_int_equal(info.bos, -1);
    assert_int_equal(info.stops, 1);
    assert_int_equal(info.stop[0], 9);
}

/* Without it the model would end its texts elsewhere, and say nothing. */
static void a_config_that_is_a_link_to_nowhere_is_not_absent(void **state)
{
    static const char *const names[] = { "config.json", "generation_config.json" };

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct made_model *m = made_create();
        struct model_info info = { 0 };
        struct error err = { 0 };
        char path[128];

        made_copy(m, "tests/data/rwkv7-tiny-hf");
        made_write(m, NULL);
        assert_true(model_describe(m->folder, &info, &err));
        snprintf(path, sizeof(path), "%s/%s", m->folder, names[i]);
        assert_int_equal(symlink("../blobs/gone", path), 0);
        assert_false(model_describe(m->folder, &info, &err));
        assert_int_equal(err.code, ERR_IO);
        assert_non_null(strstr(err.message, names[i]));
        made_destroy(m);
    }
}

/* The World vocabulary's 0, whatever a converter's defaults wrote. */
static void rwkv7_always_ends_at_id_0(void **state)
{
    struct made_model *m = made_create();
    struct model_info info = { 0 };
    struct error err = { 0 };

    (void)state;
    made_copy(m, "tests/data/rwkv7-tiny-hf");
    made_write(m, "{\"model_type\":\"rwkv7\",\"eos_token_id\":2}");
    assert_true(model_describe(m->folder, &info, &err));
    assert_int_equal(info.bos, 0);
    assert_int_equal(info.stops, 2);
    assert_int_equal(info.stop[0], 2);
    assert_int_equal(info.stop[1], 0);
    made_destroy(m);
}

static void a_folder_is_named_without_its_path(void **state)
{
    static const char *const path[] = { "tests/data/mamba-tiny", "tests/data/mamba-tiny/",
                                        "./tests/../tests/data/mamba-tiny/.",
                                        "tests/data/mamba-tiny/model.safetensors" };

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct model_info info = { 0 };
        struct error err = { 0 };

        assert_true(model_describe(path[i], &info, &err));
        assert_string_equal(info.name, i < 3 ? "mamba-tiny" : "model.safetensors");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_keeps_its_fingerprint),
        cmocka_unit_test(one_changed_weight_is_another_fingerprint),
        cmocka_unit_test(another_setting_is_another_fingerprint),
        cmocka_unit_test(a_description_says_what_loading_finds),
        cmocka_unit_test(text_ends_come_from_generation_config_first),
        cmocka_unit_test(a_config_that_is_a_link_to_nowhere_is_not_absent),
        cmocka_unit_test(rwkv7_always_ends_at_id_0),
        cmocka_unit_test(a_folder_is_named_without_its_path),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
