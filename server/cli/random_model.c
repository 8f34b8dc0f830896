#include "server/cli/random_model.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/dtype.h"
#include "config/error.h"

enum { RANK = 3, CHUNK = 8192, EVERY_LAYER = 1, LATER_LAYERS = 2, ENDS = 3 };

/* Values are normal around center with the deviation; A_LOG: log(1 + column) instead. */
struct random_tensor {
    const char *name; /* "%d" is the layer */
    int shape[RANK];  /* 0 ends it */
    int where;        /* EVERY_LAYER, LATER_LAYERS or ENDS; 0 ends the table */
    float center, deviation;
};

#define A_LOG (-1.0f)

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
static const struct random_tensor mamba_130m[] = {
    MATRIX("backbone.embeddings.weight", 50280, 768, ENDS),
    VECTOR("backbone.layers.%d.norm.weight", 768, EVERY_LAYER, 1, 0.02f),
    MATRIX(MIXER("in_proj.weight"), 3072, 768, EVERY_LAYER),
    { MIXER("conv1d.weight"), { 1536, 1, 4 }, EVERY_LAYER, 0, 0.3f },
    VECTOR(MIXER("conv1d.bias"), 1536, EVERY_LAYER, 0, 0.02f),
    MATRIX(MIXER("x_proj.weight"), 80, 1536, EVERY_LAYER),
    MATRIX(MIXER("dt_proj.weight"), 1536, 48, EVERY_LAYER),
    VECTOR(MIXER("dt_proj.bias"), 1536, EVERY_LAYER, -4.6f, 0.5f),
    { MIXER("A_log"), { 1536, 16 }, EVERY_LAYER, 0, A_LOG },
    VECTOR(MIXER("D"), 1536, EVERY_LAYER, 1, 0.02f),
    MATRIX(MIXER("out_proj.weight"), 768, 1536, EVERY_LAYER),
    VECTOR("backbone.norm_f.weight", 768, ENDS, 1, 0.02f),
    { 0 },
};

const struct random_model random_mamba_130m = {
    .title = "Mamba 130M",
    .config = "{\"model_type\":\"mamba\",\"vocab_size\":50280,\"hidden_size\":768,"
              "\"num_hidden_layers\":24,\"state_size\":16,\"expand\":2,"
              "\"intermediate_size\":1536,\"conv_kernel\":4,\"time_step_rank\":48,"
              "\"layer_norm_epsilon\":1e-05,\"use_bias\":false,\"use_conv_bias\":true,"
              "\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"bos_token_id\":0,"
              "\"eos_token_id\":0}",
    .layers = 24,
    .vocab = 50280,
    .tensors = mamba_130m,
};

#define LAYER(name) "model.layers.%d." name
#define ATTN(name)  LAYER("attn." name)
#define LORA(name, rank, where, center, deviation)                                                 \
    MATRIX(ATTN(name "_lora.lora.0.weight"), rank, 768, where),                                    \
        MATRIX(ATTN(name "_lora.lora.2.weight"), 768, rank, where),                                \
        VECTOR(ATTN(name "_lora.lora.2.bias"), 768, where, center, deviation)

static const struct random_tensor rwkv7_01b[] = {
    MATRIX("model.embeddings.weight", 65536, 768, ENDS),
    VECTOR("model.layers.0.pre_norm.weight", 768, ENDS, 1, 0.02f),
    VECTOR("model.layers.0.pre_norm.bias", 768, ENDS, 0, 0.02f),
    VECTOR(LAYER("attn_norm.weight"), 768, EVERY_LAYER, 1, 0.02f),
    VECTOR(LAYER("attn_norm.bias"), 768, EVERY_LAYER, 0, 0.02f),
    VECTOR(ATTN("x_r"), 768, EVERY_LAYER, 0.5f, 0.2f),
    VECTOR(ATTN("x_w"), 768, EVERY_LAYER, 0.5f, 0.2f),
    VECTOR(ATTN("x_k"), 768, EVERY_LAYER, 0.5f, 0.2f),
    VECTOR(ATTN("x_v"), 768, EVERY_LAYER, 0.5f, 0.2f),
    VECTOR(ATTN("x_a"), 768, EVERY_LAYER, 0.5f, 0.2f),
    VECTOR(ATTN("x_g"), 768, EVERY_LAYER, 0.5f, 0.2f),
    MATRIX(ATTN("r_proj.weight"), 768, 768, EVERY_LAYER),
    MATRIX(ATTN("k_proj.weight"), 768, 768, EVERY_LAYER),
    MATRIX(ATTN("v_proj.weight"), 768, 768, EVERY_LAYER),
    MATRIX(ATTN("o_proj.weight"), 768, 768, EVERY_LAYER),
    LORA("w", 64, EVERY_LAYER, -2, 1),
    LORA("a", 64, EVERY_LAYER, 0, 0.5f),
    LORA("v", 32, LATER_LAYERS, 1, 0.2f),
    MATRIX(ATTN("g_lora.lora.0.weight"), 128, 768, EVERY_LAYER),
    MATRIX(ATTN("g_lora.lora.2.weight"), 768, 128, EVERY_LAYER),
    VECTOR(ATTN("k_k"), 768, EVERY_LAYER, 0.85f, 0.05f),
    VECTOR(ATTN("k_a"), 768, EVERY_LAYER, 1, 0.02f),
    { ATTN("r_k"), { 12, 64 }, EVERY_LAYER, 0, 0.1f },
    VECTOR(ATTN("g_norm.weight"), 768, EVERY_LAYER, 1, 0.02f),
    VECTOR(ATTN("g_norm.bias"), 768, EVERY_LAYER, 0, 0.02f),
    VECTOR(LAYER("ffn_norm.weight"), 768, EVERY_LAYER, 1, 0.02f),
    VECTOR(LAYER("ffn_norm.bias"), 768, EVERY_LAYER, 0, 0.02f),
    VECTOR(LAYER("ffn.x_k"), 768, EVERY_LAYER, 0.5f, 0.2f),
    MATRIX(LAYER("ffn.key.weight"), 3072, 768, EVERY_LAYER),
    MATRIX(LAYER("ffn.value.weight"), 768, 3072, EVERY_LAYER),
    VECTOR("model.norm.weight", 768, ENDS, 1, 0.02f),
    VECTOR("model.norm.bias", 768, ENDS, 0, 0.02f),
    MATRIX("lm_head.weight", 65536, 768, ENDS),
    { 0 },
};

const struct random_model random_rwkv7_01b = {
    .title = "RWKV-7 0.1B",
    .config = "{\"model_type\":\"rwkv7\",\"vocab_size\":65536,\"hidden_size\":768,"
              "\"num_hidden_layers\":12,\"head_dim\":64,\"num_heads\":12,"
              "\"intermediate_size\":3072,\"decay_low_rank_dim\":64,\"a_low_rank_dim\":64,"
              "\"v_low_rank_dim\":32,\"gate_low_rank_dim\":128,\"hidden_act\":\"sqrelu\","
              "\"norm_first\":true,\"norm_bias\":true,\"norm_eps\":1e-05,"
              "\"tie_word_embeddings\":false,\"bos_token_id\":0,\"eos_token_id\":0}",
    .layers = 12,
    .vocab = 65536,
    .tensors = rwkv7_01b,
};

static const char *const file_names[] = { "config.json", "model.safetensors",
                                          "rwkv_vocab_random.txt" };

static size_t elements(const struct random_tensor *t)
{
    size_t n = 1;

    for (int i = 0; i < RANK && t->shape[i]; i++)
        n *= (size_t)t->shape[i];
    return n;
}

static int first_layer(const struct random_tensor *t)
{
    return t->where == LATER_LAYERS ? 1 : 0;
}

static int end_layer(const struct random_model *m, const struct random_tensor *t)
{
    return t->where == ENDS ? 1 : m->layers;
}

/* The safetensors header, without the length in front; *len is what was or would be written. */
static void write_header(const struct random_model *m, FILE *f, uint64_t *len)
{
    uint64_t at = 0, written = 1;

    if (f)
        fputc('{', f);
    for (const struct random_tensor *t = m->tensors; t->where; t++) {
        for (int l = first_layer(t); l < end_layer(m, t); l++) {
            const char *digits = strstr(t->name, "%d");
            uint64_t bytes = elements(t) * sizeof(uint16_t);
            char entry[512], name[128];

            if (digits)
                snprintf(name, sizeof(name), "%.*s%d%s", (int)(digits - t->name), t->name, l,
                         digits + 2);
            else
                snprintf(name, sizeof(name), "%s", t->name);
            int n = snprintf(entry, sizeof(entry), "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%d",
                             at ? "," : "", name, t->shape[0]);
            for (int i = 1; i < RANK && t->shape[i]; i++)
                n += snprintf(entry + n, sizeof(entry) - (size_t)n, ",%d", t->shape[i]);
            n += snprintf(entry + n, sizeof(entry) - (size_t)n,
                          "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + bytes);
            at += bytes;
            written += (uint64_t)n;
            if (f)
                fwrite(entry, 1, (size_t)n, f);
        }
    }
    if (f)
        fputc('}', f);
    *len = written + 1;
}

/* Nearly normal with deviation 1: the sum of four uniform numbers. */
static float draw(uint64_t *seed)
{
    uint64_t x = *seed += 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    float sum = (float)(x & 0xffff) + (float)(x >> 16 & 0xffff) + (float)(x >> 32 & 0xffff) +
                (float)(x >> 48);

    return (sum / 65536.0f - 2.0f) * 1.7320508f;
}

static void write_values(const struct random_tensor *t, uint64_t *seed, FILE *f)
{
    uint16_t chunk[CHUNK];
    const size_t n = elements(t);

    for (size_t done = 0; done < n;) {
        size_t take = n - done < CHUNK ? n - done : CHUNK;

        for (size_t i = 0; i < take; i++) {
            float value = t->deviation == A_LOG
                              ? logf(1.0f + (float)((done + i) % (size_t)t->shape[1]))
                              : t->center + t->deviation * draw(seed);

            chunk[i] = f32_to_bf16(value);
        }
        fwrite(chunk, sizeof(chunk[0]), take, f);
        done += take;
    }
}

static void write_weights(const struct random_model *m, FILE *f)
{
    uint64_t len, seed = 1;
    unsigned char prefix[8];

    write_header(m, NULL, &len);
    for (int i = 0; i < 8; i++)
        prefix[i] = (unsigned char)(len >> 8 * i);
    fwrite(prefix, 1, sizeof(prefix), f);
    write_header(m, f, &len);
    for (const struct random_tensor *t = m->tensors; t->where; t++)
        for (int l = first_layer(t); l < end_layer(m, t); l++)
            write_values(t, &seed, f);
}

static void write_config(const struct random_model *m, FILE *f)
{
    fputs(m->config, f);
}

/* Every byte, then words of hexadecimal digits, in the form of the RWKV World vocabulary. */
static void write_vocabulary(const struct random_model *m, FILE *f)
{
    char word[16];

    for (int id = 1; id < m->vocab; id++) {
        if (id <= 256) {
            fprintf(f, "%d b'\\x%02x' 1\n", id, (unsigned)(id - 1));
            continue;
        }
        snprintf(word, sizeof(word), " %x", (unsigned)id);
        fprintf(f, "%d '%s' %zu\n", id, word, strlen(word));
    }
}

bool random_model_write(const struct random_model *m, const char *folder, struct error *err)
{
    static void (*const write[])(const struct random_model *m,
                                 FILE *f) = { write_config, write_weights, write_vocabulary };
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof(write) / sizeof(write[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, file_names[i]);
        FILE *f = fopen(path, "wxe");

        if (!f)
            return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        write[i](m, f);
        bool ok = !ferror(f);

        if (fclose(f) != 0 || !ok)
            return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    }
    return true;
}

void random_model_remove(const char *folder)
{
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof(file_names) / sizeof(file_names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, file_names[i]);
        unlink(path);
    }
    rmdir(folder);
}
