/* RWKV-7 "Goose" (arXiv 2503.14456; BlinkDL/RWKV-LM, RWKV-v7/rwkv_v7_numpy.py).
 *
 * x is the embedding after ln0. Each layer, with mix_i(u) = u + (u_before - u) * mu_i:
 *   u          = ln1(x)
 *   r, k, v    = W_r mix_r(u), W_k mix_k(u), W_v mix_v(u)
 *   w          = w0 + tanh(mix_w(u) w1) w2             decay = exp(-exp(-1/2) sigmoid(w))
 *   a          = sigmoid(a0 + mix_a(u) a1 a2)          g = sigmoid(mix_g(u) g1) g2
 *   v         += (v_first - v) * sigmoid(v0 + mix_v(u) v1 v2)     v_first is layer 0's v
 *   kk         = k * k_k of unit length per head       k = k * (1 + (a - 1) * k_a)
 *   S          = S diag(decay) - (S kk)(kk * a)^T + v k^T         per head [HEAD_DIM, HEAD_DIM]
 *   x         += W_o ((head_norm(S r) + (r . k r_k) v) * g)
 *   x         += W_V relu(W_K mix(ln2(x)))^2
 * Weights come under three namings: the author's .pth ("blocks.0.att.w1", low-rank matrices
 * stored [in, out]), the same with a prefix on the Hub, and flash-linear-attention's. */
#include <float.h>

#include "config/error.h"
#include "models/bind.h"
#include "models/hyper.h"
#include "weights/model_config.h"

enum {
    HEADS = OWN_DIMS, /* num_heads */
    HEAD_DIM,         /* head_dim */
    FFN,              /* intermediate_size */
    W_RANK,           /* decay_low_rank_dim */
    A_RANK,           /* a_low_rank_dim */
    V_RANK,           /* v_low_rank_dim */
    G_RANK,           /* gate_low_rank_dim */
    BIAS              /* norm_bias */
};

/* Of head_norm; 0: the author's, so that a model which says the same keeps its fingerprint. */
enum { HEAD_EPS = OWN_NUMBERS };

static float author_eps(const int *d)
{
    return (float)d[HEAD_DIM] * 1e-5f;
}

/* flash-linear-attention's is head_dim times what its other norms have, which it calls norm_eps.
 * layer_norm_epsilon is of the others alone: who calls it so has group_norm_epsilon beside it. */
static bool read_head_eps(const struct model_config *c, struct hyper *h, struct error *err)
{
    const float author = author_eps(h->dim);
    float eps = author;

    if (model_config_has(c, "norm_eps")) {
        if (!hyper_number(c, "norm_eps", &eps, err))
            return false;
        eps *= (float)h->dim[HEAD_DIM];
    }
    if (!hyper_number(c, "group_norm_epsilon", &eps, err))
        return false;
    h->number[HEAD_EPS] = eps == author ? 0.0f : eps > 0.0f ? eps : FLT_MIN;
    return true;
}

/* Every size is a tensor's dimension, so a .pth without a config.json tells them all. */
static bool configure(const struct model_arch *arch, const struct model_config *c,
                      const struct weights *w, struct hyper *h, struct error *err)
{
    int *d = h->dim, norm_first = 1;

    bind_infer(arch, w, h);
    if (d[LAYERS] == 1)
        d[V_RANK] = 1; /* only later layers have those matrices */
    d[BIAS] = 1;
    if (!hyper_common(c, h, err) || !hyper_dim(c, "head_dim", 1, &d[HEAD_DIM], err) ||
        !hyper_dim(c, "num_heads", 1, &d[HEADS], err) ||
        !hyper_dim(c, "intermediate_size", 1, &d[FFN], err) ||
        !hyper_dim(c, "decay_low_rank_dim", 1, &d[W_RANK], err) ||
        !hyper_dim(c, "a_low_rank_dim", 1, &d[A_RANK], err) ||
        !hyper_dim(c, "v_low_rank_dim", 1, &d[V_RANK], err) ||
        !hyper_dim(c, "gate_low_rank_dim", 1, &d[G_RANK], err) ||
        !hyper_flag(c, "norm_bias", &d[BIAS], err) ||
        !hyper_flag(c, "norm_first", &norm_first, err) ||
        !hyper_word(c, "hidden_act", "sqrelu", "relu2", err) || !read_head_eps(c, h, err))
        return false;
    if (!norm_first)
        return error_set(err, ERR_FORMAT, "config.json: norm_first: expected true, found false");
    if ((int64_t)d[HEADS] * d[HEAD_DIM] != d[HIDDEN])
        return error_set(
            err, ERR_FORMAT,
            "config.json: num_heads * head_dim: expected hidden_size %d, found %d * %d", d[HIDDEN],
            d[HEADS], d[HEAD_DIM]);
    return true;
}

struct rwkv7 {
    struct model_ends ends;
    const float *ln0, *ln0_bias;
};

enum { R, W, K, V, A, G, MIXES }; /* order of the shifted inputs */

struct rwkv7_layer {
    const float *ln1, *ln1_bias, *ln2, *ln2_bias, *mu[MIXES], *mu_ffn;
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *head_norm, *head_norm_bias;
    struct matrix r, k, v, o, w1, w2, a1, a2, v1, v2, g1, g2, ffn_k, ffn_v;
};

#define M(field)            offsetof(struct rwkv7, field)
#define L(field)            offsetof(struct rwkv7_layer, field)
#define NAMES(fla, author)  "model.layers.%d." fla "|blocks.%d." author
#define WEIGHT(fla, author) NAMES(fla ".weight", author ".weight")
#define LORA_DOWN(x)        NAMES("attn." x "_lora.lora.0.weight", "att." x "1^T")
#define LORA_UP(x)          NAMES("attn." x "_lora.lora.2.weight", "att." x "2^T")
#define LORA_BIAS(x)        NAMES("attn." x "_lora.lora.2.bias", "att." x "0")

static const struct weight_row weights[] = {
    { "model.embeddings.weight|emb.weight", { VOCAB, HIDDEN }, MATRIX, M(ends.embed), 0, 0 },
    { "model.layers.0.pre_norm.weight|blocks.0.ln0.weight", { HIDDEN }, VECTOR, M(ln0), 0, 0 },
    { "model.layers.0.pre_norm.bias|blocks.0.ln0.bias", { HIDDEN }, VECTOR, M(ln0_bias), 0, BIAS },

    { WEIGHT("attn_norm", "ln1"), { HIDDEN }, VECTOR, L(ln1), 0, 0 },
    { NAMES("attn_norm.bias", "ln1.bias"), { HIDDEN }, VECTOR, L(ln1_bias), 0, BIAS },
    { NAMES("attn.x_r", "att.x_r"), { HIDDEN }, VECTOR, L(mu[R]), 0, 0 },
    { NAMES("attn.x_w", "att.x_w"), { HIDDEN }, VECTOR, L(mu[W]), 0, 0 },
    { NAMES("attn.x_k", "att.x_k"), { HIDDEN }, VECTOR, L(mu[K]), 0, 0 },
    { NAMES("attn.x_v", "att.x_v"), { HIDDEN }, VECTOR, L(mu[V]), 0, 0 },
    { NAMES("attn.x_a", "att.x_a"), { HIDDEN }, VECTOR, L(mu[A]), 0, 0 },
    { NAMES("attn.x_g", "att.x_g"), { HIDDEN }, VECTOR, L(mu[G]), 0, 0 },
    { WEIGHT("attn.r_proj", "att.receptance"), { HIDDEN, HIDDEN }, MATRIX, L(r), 0, 0 },
    { WEIGHT("attn.k_proj", "att.key"), { HIDDEN, HIDDEN }, MATRIX, L(k), 0, 0 },
    { WEIGHT("attn.v_proj", "att.value"), { HIDDEN, HIDDEN }, MATRIX, L(v), 0, 0 },
    { LORA_DOWN("w"), { W_RANK, HIDDEN }, MATRIX, L(w1), 0, 0 },
    { LORA_UP("w"), { HIDDEN, W_RANK }, MATRIX, L(w2), 0, 0 },
    { LORA_BIAS("w"), { HIDDEN }, VECTOR, L(w0), 0, 0 },
    { LORA_DOWN("a"), { A_RANK, HIDDEN }, MATRIX, L(a1), 0, 0 },
    { LORA_UP("a"), { HIDDEN, A_RANK }, MATRIX, L(a2), 0, 0 },
    { LORA_BIAS("a"), { HIDDEN }, VECTOR, L(a0), 0, 0 },
    { LORA_DOWN("v"), { V_RANK, HIDDEN }, MATRIX, L(v1), LATER_LAYERS, 0 },
    { LORA_UP("v"), { HIDDEN, V_RANK }, MATRIX, L(v2), LATER_LAYERS, 0 },
    { LORA_BIAS("v"), { HIDDEN }, VECTOR, L(v0), LATER_LAYERS, 0 },
    { LORA_DOWN("v"), { 0 }, IGNORED, 0, FIRST_LAYER, 0 }, /* the author's are dummies here */
    { LORA_UP("v"), { 0 }, IGNORED, 0, FIRST_LAYER, 0 },
    { LORA_BIAS("v"), { 0 }, IGNORED, 0, FIRST_LAYER, 0 },
    { LORA_DOWN("g"), { G_RANK, HIDDEN }, MATRIX, L(g1), 0, 0 },
    { LORA_UP("g"), { HIDDEN, G_RANK }, MATRIX, L(g2), 0, 0 },
    { NAMES("attn.k_k", "att.k_k"), { HIDDEN }, VECTOR, L(k_k), 0, 0 },
    { NAMES("attn.k_a", "att.k_a"), { HIDDEN }, VECTOR, L(k_a), 0, 0 },
    { NAMES("attn.r_k", "att.r_k"), { HEADS, HEAD_DIM }, VECTOR, L(r_k), 0, 0 },
    { WEIGHT("attn.g_norm", "att.ln_x"), { HIDDEN }, VECTOR, L(head_norm), 0, 0 },
    { NAMES("attn.g_norm.bias", "att.ln_x.bias"), { HIDDEN }, VECTOR, L(head_norm_bias), 0, 0 },
    { WEIGHT("attn.o_proj", "att.output"), { HIDDEN, HIDDEN }, MATRIX, L(o), 0, 0 },

    { WEIGHT("ffn_norm", "ln2"), { HIDDEN }, VECTOR, L(ln2), 0, 0 },
    { NAMES("ffn_norm.bias", "ln2.bias"), { HIDDEN }, VECTOR, L(ln2_bias), 0, BIAS },
    { NAMES("ffn.x_k", "ffn.x_k"), { HIDDEN }, VECTOR, L(mu_ffn), 0, 0 },
    { WEIGHT("ffn.key", "ffn.key"), { FFN, HIDDEN }, MATRIX, L(ffn_k), 0, 0 },
    { WEIGHT("ffn.value", "ffn.value"), { HIDDEN, FFN }, MATRIX, L(ffn_v), 0, 0 },

    { "model.norm.weight|ln_out.weight", { HIDDEN }, VECTOR, M(ends.norm), 0, 0 },
    { "model.norm.bias|ln_out.bias", { HIDDEN }, VECTOR, M(ends.norm_bias), 0, BIAS },
    { "lm_head.weight|head.weight", { VOCAB, HIDDEN }, MATRIX, M(ends.head), 0, UNTIED },
    { "lm_head.weight|head.weight", { VOCAB, HIDDEN }, IGNORED, 0, 0, TIED },
    { NULL, { 0 }, VECTOR, 0, 0, 0 },
};

enum { STATE_SHIFT, STATE_FFN_SHIFT, STATE_WKV };

static const struct state_row state[] = {
    [STATE_SHIFT] = { "shift", { HIDDEN }, false },
    [STATE_FFN_SHIFT] = { "ffn_shift", { HIDDEN }, false },
    [STATE_WKV] = { "wkv", { HEADS, HEAD_DIM, HEAD_DIM }, true },
    { NULL, { 0 }, false },
};

static void read_log(const struct hyper *h, struct state_log *log)
{
    log->H = log->k_heads = h->dim[HEADS];
    log->V = log->K = h->dim[HEAD_DIM];
    log->delta = true;
}

struct rwkv7_scratch {
    float *xn;         /* [T, HIDDEN]; behind the state y for W_o, if that takes bf16 */
    float *mix[MIXES]; /* [T, HIDDEN] */
    float *r, *w, *k, *v, *a, *g, *v_first, *v_mix; /* [T, HIDDEN] */
    float *decay, *b, *kk_a, *y;                    /* [T, HIDDEN] */
    float *w_low, *a_low, *v_low, *g_low;           /* [T, their rank] */
    float *ffn;                                     /* [T, FFN] */
};

#define S(field) offsetof(struct rwkv7_scratch, field)

static const struct scratch_row scratch[] = {
    { S(xn), HIDDEN },
    { S(mix[R]), HIDDEN },
    { S(mix[W]), HIDDEN },
    { S(mix[K]), HIDDEN },
    { S(mix[V]), HIDDEN },
    { S(mix[A]), HIDDEN },
    { S(mix[G]), HIDDEN },
    { S(r), HIDDEN },
    { S(w), HIDDEN },
    { S(k), HIDDEN },
    { S(v), HIDDEN },
    { S(a), HIDDEN },
    { S(g), HIDDEN },
    { S(v_first), HIDDEN },
    { S(v_mix), HIDDEN },
    { S(decay), HIDDEN },
    { S(b), HIDDEN },
    { S(kk_a), HIDDEN },
    { S(y), HIDDEN },
    { S(w_low), W_RANK },
    { S(a_low), A_RANK },
    { S(v_low), V_RANK },
    { S(g_low), G_RANK },
    { S(ffn), FFN },
    { 0, 0 },
};

/* r, w, k, v, a, g of the shifted inputs: all products of one rank of dependence at once. */
static void project(const struct arch_step *a, const struct rwkv7_layer *w,
                    const struct rwkv7_scratch *s, float *v, bool blend_v)
{
    const int skipped = blend_v ? 0 : 1, low = 4 - skipped;
    const struct linear first[] = {
        arch_inner_linear(a, s->v_low, s->mix[V], &w->v1, NULL, ACT_NONE),
        arch_inner_linear(a, s->w_low, s->mix[W], &w->w1, NULL, ACT_TANH),
        arch_inner_linear(a, s->a_low, s->mix[A], &w->a1, NULL, ACT_NONE),
        arch_inner_linear(a, s->g_low, s->mix[G], &w->g1, NULL, ACT_SIGMOID),
        arch_linear(a, s->r, s->mix[R], &w->r, NULL, ACT_NONE),
        arch_linear(a, s->k, s->mix[K], &w->k, NULL, ACT_NONE),
        arch_linear(a, v, s->mix[V], &w->v, NULL, ACT_NONE),
    };
    const struct linear second[] = {
        arch_linear(a, s->v_mix, s->v_low, &w->v2, w->v0, ACT_SIGMOID),
        arch_linear(a, s->w, s->w_low, &w->w2, w->w0, ACT_NONE),
        arch_linear(a, s->a, s->a_low, &w->a2, w->a0, ACT_SIGMOID),
        arch_linear(a, s->g, s->g_low, &w->g2, NULL, ACT_NONE),
    };

    a->ops->linear_split(a->stream, first + skipped, low, 3);
    a->ops->linear(a->stream, second + skipped, low);
    a->ops->join(a->stream);
}

/* mix_i(ln(x)) for n mixes, into the first of s->mix; x with what the half in front left. */
static void shift(const struct arch_step *a, const float *ln, const float *ln_bias,
                  const float *const *mu, int n, struct field before, const struct linear *added)
{
    const struct rwkv7_scratch *s = a->scratch;
    struct norm_shift p = {
        .norm = arch_norm(a, NULL, ln, ln_bias, added),
        .shift = { .n = n, .x = s->xn, .dim = a->hyper->dim[HIDDEN], .state = before },
    };

    p.norm.y = s->xn;
    p.norm.y_bf16 = NULL;
    for (int i = 0; i < n; i++) {
        p.shift.y[i] = arch_f32_rows(a, s->mix[i]);
        p.shift.y_bf16[i] = arch_bf16_rows(a, s->mix[i]);
        p.shift.mu[i] = mu[i];
    }
    a->ops->norm_shift(a->stream, a->in, &p);
}

/* What either half of a layer adds to the residual stream is left for the next one. */
static struct linear time_mix(const struct arch_step *a, int l, const struct linear *added)
{
    const struct rwkv7_layer *w = (const struct rwkv7_layer *)a->layers + l;
    const struct rwkv7_scratch *s = a->scratch;
    const int *d = a->hyper->dim, T = a->in->T, H = d[HEADS], N = d[HEAD_DIM];
    const size_t hidden = (size_t)d[HIDDEN];
    const float eps = a->hyper->number[HEAD_EPS];
    float *v = l ? s->v : s->v_first; /* layer 0's stays for the others to blend towards */

    shift(a, w->ln1, w->ln1_bias, w->mu, MIXES, arch_state(a, STATE_SHIFT, l), added);
    project(a, w, s, v, l > 0);
    a->ops->delta_state(
        a->stream, a->in,
        &(struct delta_state){
            .v = { .y = v, .target = s->v_first, .mix = s->v_mix, .n = l ? (size_t)T * hidden : 0 },
            .gates = { .decay = s->decay,
                       .a_out = s->kk_a,
                       .b = s->b,
                       .k = s->k,
                       .w = s->w,
                       .a = s->a,
                       .k_k = w->k_k,
                       .k_a = w->k_a,
                       .T = T,
                       .H = H,
                       .K = N },
            .state = { .y = s->y,
                       .w = s->decay,
                       .a = s->kk_a,
                       .b = s->b,
                       .k = s->k,
                       .q = s->r,
                       .v = v,
                       .y_ld = hidden,
                       .w_ld = hidden,
                       .ab_ld = hidden,
                       .kq_ld = hidden,
                       .v_ld = hidden,
                       .H = H,
                       .V = N,
                       .K = N,
                       .k_heads = H,
                       .state = arch_state(a, STATE_WKV, l) },
            .out = { .y = s->y,
                     .y_bf16 = arch_bf16_rows(a, s->xn),
                     .r = s->r,
                     .k = s->k,
                     .v = v,
                     .g = s->g,
                     .r_k = w->r_k,
                     .weight = w->head_norm,
                     .bias = w->head_norm_bias,
                     .T = T,
                     .H = H,
                     .V = N,
                     .eps = eps > 0.0f ? eps : author_eps(d) } });
    return arch_added(a, a->bf16_rows ? s->xn : s->y, &w->o, NULL);
}

static struct linear channel_mix(const struct arch_step *a, int l, const struct linear *added)
{
    const struct rwkv7_layer *w = (const struct rwkv7_layer *)a->layers + l;
    const struct rwkv7_scratch *s = a->scratch;

    shift(a, w->ln2, w->ln2_bias, &w->mu_ffn, 1, arch_state(a, STATE_FFN_SHIFT, l), added);
    const struct linear up = arch_inner_linear(a, s->ffn, s->mix[0], &w->ffn_k, NULL, ACT_RELU2);
    a->ops->linear(a->stream, &up, 1);
    return arch_added(a, s->ffn, &w->ffn_v, NULL);
}

static struct linear step(const struct arch_step *a)
{
    const struct rwkv7 *m = a->model;
    struct linear added = { .w = NULL };

    a->ops->embed(a->stream, a->in, a->x, &m->ends.embed);
    struct norm ln0 = arch_norm(a, NULL, m->ln0, m->ln0_bias, NULL);
    ln0.y = a->x;
    ln0.y_bf16 = NULL;
    a->ops->norm(a->stream, &ln0);
    for (int l = 0; l < a->hyper->dim[LAYERS]; l++) {
        added = time_mix(a, l, &added);
        added = channel_mix(a, l, &added);
    }
    return added;
}

const struct model_arch arch_rwkv7 = {
    .name = "rwkv7",
    .model_type = "rwkv7",
    .signature = "model.layers.0.attn.r_k|blocks.0.att.r_k",
    .prefix = { "", "model.", "rwkv7." }, /* the Hub's native names have either */
    .text_end = 0,
    .norm = NORM_LAYER,
    .configure = configure,
    .weights = weights,
    .model_size = sizeof(struct rwkv7),
    .layer_size = sizeof(struct rwkv7_layer),
    .state = state,
    .log = read_log,
    .scratch = scratch,
    .scratch_size = sizeof(struct rwkv7_scratch),
    .step = step,
};
