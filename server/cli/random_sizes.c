/* random_sizes.c - the tensors of published models, by their sizes. */
#include "server/cli/random_model.h"

#define MATRIX(name, rows, cols, where)                                                            \
    {                                                                                              \
        name, { rows, cols }, where, 0.0f, 0.02f                                                   \
    }
#define VECTOR(name, size, where, center, deviation)                                               \
    {                                                                                              \
        name, { size }, where, center, deviation                                                   \
    }

#define MIXER(name) "backbone.layers.%d.mixer." name

/* dt_proj.bias: the softplus of -4.6 is 0.01, the middle of the steps training starts from. */
#define MAMBA(hidden, rank)                                                                        \
    MATRIX("backbone.embeddings.weight", 50280, hidden, RANDOM_ENDS),                              \
        VECTOR("backbone.layers.%d.norm.weight", hidden, RANDOM_EVERY_LAYER, 1, 0.02f),            \
        MATRIX(MIXER("in_proj.weight"), 4 * hidden, hidden, RANDOM_EVERY_LAYER),                   \
        { MIXER("conv1d.weight"), { 2 * hidden, 1, 4 }, RANDOM_EVERY_LAYER, 0, 0.3f },             \
        VECTOR(MIXER("conv1d.bias"), 2 * hidden, RANDOM_EVERY_LAYER, 0, 0.02f),                    \
        MATRIX(MIXER("x_proj.weight"), rank + 32, 2 * hidden, RANDOM_EVERY_LAYER),                 \
        MATRIX(MIXER("dt_proj.weight"), 2 * hidden, rank, RANDOM_EVERY_LAYER),                     \
        VECTOR(MIXER("dt_proj.bias"), 2 * hidden, RANDOM_EVERY_LAYER, -4.6f, 0.5f),                \
        { MIXER("A_log"), { 2 * hidden, 16 }, RANDOM_EVERY_LAYER, 0, RANDOM_A_LOG },               \
        VECTOR(MIXER("D"), 2 * hidden, RANDOM_EVERY_LAYER, 1, 0.02f),                              \
        MATRIX(MIXER("out_proj.weight"), hidden, 2 * hidden, RANDOM_EVERY_LAYER),                  \
        VECTOR("backbone.norm_f.weight", hidden, RANDOM_ENDS, 1, 0.02f)

#define MAMBA_CONFIG(hidden, inner, rank)                                                          \
    "{\"model_type\":\"mamba\",\"vocab_size\":50280,\"hidden_size\":" #hidden                      \
    ",\"state_size\":16,\"expand\":2,\"intermediate_size\":" #inner                                \
    ",\"conv_kernel\":4,\"time_step_rank\":" #rank                                                 \
    ",\"layer_norm_epsilon\":1e-05,\"use_bias\":false,\"use_conv_bias\":true,"                     \
    "\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"bos_token_id\":0,\"eos_token_id\":0}"

static const struct random_tensor mamba_130m[] = { MAMBA(768, 48), { 0 } };
static const struct random_tensor mamba_2_8b[] = { MAMBA(2560, 160), { 0 } };

const struct random_model random_mamba_130m = {
    .title = "Mamba 130M",
    .config = MAMBA_CONFIG(768, 1536, 48),
    .layers = 24,
    .vocab = 50280,
    .tensors = mamba_130m,
};
const struct random_model random_mamba_2_8b = {
    .title = "Mamba 2.8B",
    .config = MAMBA_CONFIG(2560, 5120, 160),
    .layers = 64,
    .vocab = 50280,
    .tensors = mamba_2_8b,
};

/* dt_bias as dt_proj.bias above. */
static const struct random_tensor mamba2_2_7b[] = {
    MATRIX("backbone.embeddings.weight", 50288, 2560, RANDOM_ENDS),
    VECTOR("backbone.layers.%d.norm.weight", 2560, RANDOM_EVERY_LAYER, 1, 0.02f),
    MATRIX(MIXER("in_proj.weight"), 10576, 2560, RANDOM_EVERY_LAYER),
    { MIXER("conv1d.weight"), { 5376, 1, 4 }, RANDOM_EVERY_LAYER, 0, 0.3f },
    VECTOR(MIXER("conv1d.bias"), 5376, RANDOM_EVERY_LAYER, 0, 0.02f),
    VECTOR(MIXER("dt_bias"), 80, RANDOM_EVERY_LAYER, -4.6f, 0.5f),
    VECTOR(MIXER("A_log"), 80, RANDOM_EVERY_LAYER, 1, 0.5f),
    VECTOR(MIXER("D"), 80, RANDOM_EVERY_LAYER, 1, 0.02f),
    VECTOR(MIXER("norm.weight"), 5120, RANDOM_EVERY_LAYER, 1, 0.02f),
    MATRIX(MIXER("out_proj.weight"), 2560, 5120, RANDOM_EVERY_LAYER),
    VECTOR("backbone.norm_f.weight", 2560, RANDOM_ENDS, 1, 0.02f),
    { 0 },
};

const struct random_model random_mamba2_2_7b = {
    .title = "Mamba-2 2.7B",
    .config = "{\"model_type\":\"mamba2\",\"vocab_size\":50288,\"hidden_size\":2560,"
              "\"state_size\":128,\"expand\":2,\"num_heads\":80,"
              "\"head_dim\":64,\"n_groups\":1,\"conv_kernel\":4,\"layer_norm_epsilon\":1e-05,"
              "\"use_bias\":false,\"use_conv_bias\":true,\"hidden_act\":\"silu\","
              "\"tie_word_embeddings\":true,\"bos_token_id\":0,\"eos_token_id\":0}",
    .layers = 64,
    .vocab = 50288,
    .tensors = mamba2_2_7b,
};

#define LAYER(name) "model.layers.%d." name
#define ATTN(name)  LAYER("attn." name)
#define LORA(name, hidden, rank, where, center, deviation)                                         \
    MATRIX(ATTN(name "_lora.lora.0.weight"), rank, hidden, where),                                 \
        MATRIX(ATTN(name "_lora.lora.2.weight"), hidden, rank, where),                             \
        VECTOR(ATTN(name "_lora.lora.2.bias"), hidden, where, center, deviation)

/* w and a: the ranks of the decay and of a; v and g: of theirs. */
#define RWKV7(hidden, wa, v, g)                                                                    \
    MATRIX("model.embeddings.weight", 65536, hidden, RANDOM_ENDS),                                 \
        VECTOR("model.layers.0.pre_norm.weight", hidden, RANDOM_ENDS, 1, 0.02f),                   \
        VECTOR("model.layers.0.pre_norm.bias", hidden, RANDOM_ENDS, 0, 0.02f),                     \
        VECTOR(LAYER("attn_norm.weight"), hidden, RANDOM_EVERY_LAYER, 1, 0.02f),                   \
        VECTOR(LAYER("attn_norm.bias"), hidden, RANDOM_EVERY_LAYER, 0, 0.02f),                     \
        VECTOR(ATTN("x_r"), hidden, RANDOM_EVERY_LAYER, 0.5f, 0.2f),                               \
        VECTOR(ATTN("x_w"), hidden, RANDOM_EVERY_LAYER, 0.5f, 0.2f),                               \
        VECTOR(ATTN("x_k"), hidden, RANDOM_EVERY_LAYER, 0.5f, 0.2f),                               \
        VECTOR(ATTN("x_v"), hidden, RANDOM_EVERY_LAYER, 0.5f, 0.2f),                               \
        VECTOR(ATTN("x_a"), hidden, RANDOM_EVERY_LAYER, 0.5f, 0.2f),                               \
        VECTOR(ATTN("x_g"), hidden, RANDOM_EVERY_LAYER, 0.5f, 0.2f),                               \
        MATRIX(ATTN("r_proj.weight"), hidden, hidden, RANDOM_EVERY_LAYER),                         \
        MATRIX(ATTN("k_proj.weight"), hidden, hidden, RANDOM_EVERY_LAYER),                         \
        MATRIX(ATTN("v_proj.weight"), hidden, hidden, RANDOM_EVERY_LAYER),                         \
        MATRIX(ATTN("o_proj.weight"), hidden, hidden, RANDOM_EVERY_LAYER),                         \
        LORA("w", hidden, wa, RANDOM_EVERY_LAYER, -2, 1),                                          \
        LORA("a", hidden, wa, RANDOM_EVERY_LAYER, 0, 0.5f),                                        \
        LORA("v", hidden, v, RANDOM_LATER_LAYERS, 1, 0.2f),                                        \
        MATRIX(ATTN("g_lora.lora.0.weight"), g, hidden, RANDOM_EVERY_LAYER),                       \
        MATRIX(ATTN("g_lora.lora.2.weight"), hidden, g, RANDOM_EVERY_LAYER),                       \
        VECTOR(ATTN("k_k"), hidden, RANDOM_EVERY_LAYER, 0.85f, 0.05f),                             \
        VECTOR(ATTN("k_a"), hidden, RANDOM_EVERY_LAYER, 1, 0.02f),                                 \
        { ATTN("r_k"), { hidden / 64, 64 }, RANDOM_EVERY_LAYER, 0, 0.1f },                         \
        VECTOR(ATTN("g_norm.weight"), hidden, RANDOM_EVERY_LAYER, 1, 0.02f),                       \
        VECTOR(ATTN("g_norm.bias"), hidden, RANDOM_EVERY_LAYER, 0, 0.02f),                         \
        VECTOR(LAYER("ffn_norm.weight"), hidden, RANDOM_EVERY_LAYER, 1, 0.02f),                    \
        VECTOR(LAYER("ffn_norm.bias"), hidden, RANDOM_EVERY_LAYER, 0, 0.02f),                      \
        VECTOR(LAYER("ffn.x_k"), hidden, RANDOM_EVERY_LAYER, 0.5f, 0.2f),                          \
        MATRIX(LAYER("ffn.key.weight"), 4 * hidden, hidden, RANDOM_EVERY_LAYER),                   \
        MATRIX(LAYER("ffn.value.weight"), hidden, 4 * hidden, RANDOM_EVERY_LAYER),                 \
        VECTOR("model.norm.weight", hidden, RANDOM_ENDS, 1, 0.02f),                                \
        VECTOR("model.norm.bias", hidden, RANDOM_ENDS, 0, 0.02f),                                  \
        MATRIX("lm_head.weight", 65536, hidden, RANDOM_ENDS)

#define RWKV7_CONFIG(hidden, heads, ffn, wa, v, g)                                                 \
    "{\"model_type\":\"rwkv7\",\"vocab_size\":65536,\"hidden_size\":" #hidden                      \
    ",\"head_dim\":64,\"num_heads\":" #heads ",\"intermediate_size\":" #ffn                        \
    ",\"decay_low_rank_dim\":" #wa ",\"a_low_rank_dim\":" #wa ",\"v_low_rank_dim\":" #v            \
    ",\"gate_low_rank_dim\":" #g ",\"hidden_act\":\"sqrelu\","                                     \
    "\"norm_first\":true,\"norm_bias\":true,\"norm_eps\":1e-05,"                                   \
    "\"tie_word_embeddings\":false,\"bos_token_id\":0,\"eos_token_id\":0}"

static const struct random_tensor rwkv7_0_1b[] = { RWKV7(768, 64, 32, 128), { 0 } };
static const struct random_tensor rwkv7_1_5b[] = { RWKV7(2048, 96, 64, 256), { 0 } };
static const struct random_tensor rwkv7_7_2b[] = { RWKV7(4096, 128, 96, 480), { 0 } };

const struct random_model random_rwkv7_0_1b = {
    .title = "RWKV-7 0.1B",
    .config = RWKV7_CONFIG(768, 12, 3072, 64, 32, 128),
    .layers = 12,
    .vocab = 65536,
    .tensors = rwkv7_0_1b,
};
const struct random_model random_rwkv7_1_5b = {
    .title = "RWKV-7 1.5B",
    .config = RWKV7_CONFIG(2048, 32, 8192, 96, 64, 256),
    .layers = 24,
    .vocab = 65536,
    .tensors = rwkv7_1_5b,
};
const struct random_model random_rwkv7_7_2b = {
    .title = "RWKV-7 7.2B",
    .config = RWKV7_CONFIG(4096, 64, 16384, 128, 96, 480),
    .layers = 32,
    .vocab = 65536,
    .tensors = rwkv7_7_2b,
};
