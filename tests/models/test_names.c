/* One model under all the names it goes by: the same fingerprint, the same logits and the
 * same state to the last bit; and Falcon-Mamba, which no small checkpoint shows, against the
 * equations. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "tests/models/oracle_mamba.h"
#include "tests/models/runner.h"

enum { TOKENS = 40 };

static const int32_t *some_tokens(void)
{
    static int32_t token[TOKENS];

    for (int i = 0; i < TOKENS; i++)
        token[i] = (i * 37 + 11) % 61;
    return token;
}

static void assert_same_model(const char *a, const char *b)
{
    const char *path[] = { a, b };
    struct model_info info[2];
    struct trace t[2];

    for (int i = 0; i < 2; i++) {
        struct runner r;

        assert_true(runner_init(&r, path[i], "plain"));
        info[i] = *r.info;
        runner_finish(&r);
        t[i] = trace_of(path[i], some_tokens(), TOKENS);
    }
    assert_memory_equal(info[0].fingerprint, info[1].fingerprint, sizeof(info[0].fingerprint));
    assert_true(info[0].layout.id == info[1].layout.id);
    assert_true(info[0].parameters == info[1].parameters);
    assert_traces_equal(&t[0], &t[1]);
    trace_finish(&t[0]);
    trace_finish(&t[1]);
}

static void mamba_under_its_authors_names(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/mamba-tiny");
    made_rename(m, "backbone.embeddings.", "backbone.embedding.");
    made_random(m, "lm_head.weight", 256, 64, 0.0f, 1.0f); /* tied: carried and not read */
    assert_same_model(
        "tests/data/mamba-tiny",
        made_write(m,
                   "{\"d_model\":64,\"n_layer\":3,\"vocab_size\":251,"
                   "\"ssm_cfg\":{\"dt_rank\":\"auto\"},\"rms_norm\":true,\"residual_in_fp32\":true,"
                   "\"fused_add_norm\":true}"));
    made_destroy(m);
}

static void mamba2_under_its_authors_names(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/mamba2-tiny");
    made_rename(m, "backbone.embeddings.", "backbone.embedding.");
    assert_same_model("tests/data/mamba2-tiny",
                      made_write(m, "{\"d_model\":96,\"n_layer\":4,\"vocab_size\":250,"
                                    "\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_state\":16,"
                                    "\"headdim\":32,\"bias\":true},\"tie_embeddings\":false,"
                                    "\"pad_vocab_size_multiple\":16}"));
    made_destroy(m);
}

static void tied_mamba2_under_its_authors_names(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/mamba2-grouped");
    made_rename(m, "backbone.embeddings.", "backbone.embedding.");
    assert_same_model("tests/data/mamba2-grouped",
                      made_write(m, "{\"d_model\":64,\"n_layer\":3,\"vocab_size\":249,"
                                    "\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_state\":32,"
                                    "\"headdim\":16,\"ngroups\":2}}"));
    made_destroy(m);
}

static void mamba2_under_codestrals_prefix(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/mamba2-grouped");
    made_rename(m, "backbone.", "model.backbone.");
    assert_same_model("tests/data/mamba2-grouped",
                      made_write(m, "{\"model_type\":\"mamba2\",\"hidden_size\":64,"
                                    "\"num_hidden_layers\":3,\"vocab_size\":256,\"num_heads\":8,"
                                    "\"head_dim\":16,\"state_size\":32,\"n_groups\":2,"
                                    "\"time_step_limit\":[0.0,Infinity],"
                                    "\"norm_before_gate\":true,\"tie_word_embeddings\":true}"));
    made_destroy(m);
}

/* flash-linear-attention's names to the author's, which store low-rank matrices [in, out]. */
static void rename_rwkv7(struct made_model *m, const char *prefix)
{
    static const char *const name[][2] = {
        { "model.layers.0.pre_norm.", "blocks.0.ln0." },
        { "model.layers.", "blocks." },
        { "model.embeddings.", "emb." },
        { "model.norm.", "ln_out." },
        { "lm_head.", "head." },
        { ".attn_norm.", ".ln1." },
        { ".ffn_norm.", ".ln2." },
        { ".attn.", ".att." },
        { ".g_norm.", ".ln_x." },
        { ".r_proj.", ".receptance." },
        { ".k_proj.", ".key." },
        { ".v_proj.", ".value." },
        { ".o_proj.", ".output." },
        { "_lora.lora.0.weight", "1" },
        { "_lora.lora.2.weight", "2" },
        { "_lora.lora.2.bias", "0" },
    };

    for (int i = 0; i < m->tensors; i++)
        if (strstr(m->tensor[i].name, "_lora.") && m->tensor[i].rank == 2)
            made_transpose(&m->tensor[i]);
    for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++)
        made_rename(m, name[i][0], name[i][1]);
    for (int i = 0; i < m->tensors; i++) {
        char old[sizeof(m->tensor[i].name)];

        strcpy(old, m->tensor[i].name);
        snprintf(m->tensor[i].name, sizeof(old), "%s%.*s", prefix, 80, old);
    }
}

static void rwkv7_under_its_native_names_with_any_prefix(void **state)
{
    static const char *const prefix[] = { "", "model.", "rwkv7." };
    const char *config = "{\"model_type\":\"rwkv7\",\"vocab_size\":256,\"hidden_size\":64,"
                         "\"num_hidden_layers\":12,\"head_dim\":64,\"intermediate_size\":256}";

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct made_model *m = made_create();

        made_copy(m, "tests/data/rwkv7-tiny-hf");
        rename_rwkv7(m, prefix[i]);
        assert_same_model("tests/data/rwkv7-tiny-hf", made_write(m, i ? config : NULL));
        made_destroy(m);
    }
}

static void rwkv7_with_the_dummies_of_layer_0(void **state)
{
    struct made_model *m = made_create();

    (void)state;
    made_copy(m, "tests/data/rwkv7-tiny-hf");
    rename_rwkv7(m, "");
    made_random(m, "blocks.0.att.v0", 64, 0, 0.0f, 1.0f);
    made_random(m, "blocks.0.att.v1", 64, 32, 0.0f, 1.0f);
    made_random(m, "blocks.0.att.v2", 32, 64, 0.0f, 1.0f);
    assert_same_model("tests/data/rwkv7-tiny-hf", made_write(m, NULL));
    made_destroy(m);
}

static void rwkv7_as_pth(void **state)
{
    (void)state;
    assert_same_model("tests/data/rwkv7-tiny-hf", "tests/data/rwkv7-tiny-pth");
}

/* Of odd sizes. Float32 against float64, sums of up to 57 terms of order 1, two layers. */
static void mamba_and_falcon_mamba_are_their_equations(void **state)
{
    static const struct {
        const char *type, *setting;
        double mixer_eps; /* 0: none of the norms */
    } cases[] = {
        { "mamba", "", 0.0 },
        { "falcon_mamba", "", 1e-6 },
        { "falcon_mamba", ",\"mixer_rms_eps\":0.25", 0.25 },
    };
    const int whole[] = { TOKENS, 0 };
    struct oracle_mamba o = {
        .vocab = 61, .hidden = 23, .layers = 2, .inner = 57, .state = 7, .rank = 3, .conv = 3
    };
    double *expected = calloc((size_t)(TOKENS * o.vocab), sizeof(*expected));

    (void)state;
    assert_non_null(expected);
    for (int i = 0; i < 3; i++) {
        struct made_model *m = made_create();
        char config[512];

        o.mixer_norms = cases[i].mixer_eps > 0.0;
        o.mixer_eps = cases[i].mixer_eps;
        snprintf(config, sizeof(config),
                 "{\"model_type\":\"%s\",\"vocab_size\":61,\"hidden_size\":23,\"expand\":16,"
                 "\"intermediate_size\":57,\"num_hidden_layers\":2,\"state_size\":7,"
                 "\"time_step_rank\":3,\"conv_kernel\":3,\"use_bias\":true,"
                 "\"tie_word_embeddings\":false%s}",
                 cases[i].type, cases[i].setting);
        oracle_mamba_make(m, &o);
        oracle_mamba_run(m, &o, some_tokens(), TOKENS, expected);
        made_write(m, config);
        for (int isa = 0; isa < ISAS; isa++) {
            double worst = 0.0;
            struct runner r;

            if (!runner_init(&r, m->folder, isa_names[isa]))
                continue;
            struct trace t = runner_trace(&r, some_tokens(), TOKENS, whole);
            for (int k = 0; k < TOKENS * o.vocab; k++)
                worst = fmax(worst, fabs((double)t.logits[k] - expected[k]));
            print_message("# %s%s %s: largest error to float64 %.2g\n", cases[i].type,
                          cases[i].setting, isa_names[isa], worst);
            assert_true(worst < (runner_is_exact(&r) ? 2e-5 : 1e-3));
            for (int f = 0; f < r.info->layout.fields; f++)
                assert_int_equal(r.info->layout.field[f].layer_bytes % 64, 0);
            trace_finish(&t);
            runner_finish(&r);
        }
        made_destroy(m);
    }
    free(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mamba_under_its_authors_names),
        cmocka_unit_test(mamba2_under_its_authors_names),
        cmocka_unit_test(tied_mamba2_under_its_authors_names),
        cmocka_unit_test(mamba2_under_codestrals_prefix),
        cmocka_unit_test(rwkv7_under_its_native_names_with_any_prefix),
        cmocka_unit_test(rwkv7_with_the_dummies_of_layer_0),
        cmocka_unit_test(rwkv7_as_pth),
        cmocka_unit_test(mamba_and_falcon_mamba_are_their_equations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
