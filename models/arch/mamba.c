/* Mamba, and Falcon-Mamba, which differs in three norms (arXiv 2312.00752, 2410.05355; the
 * conventions are those of transformers' MambaMixer and of state-spaces/mamba).
 *
 * Each layer adds to the residual stream x what its mixer makes of u = rms_norm(x):
 *   [c, z]     = W_in u
 *   c          = silu(conv(c))                     depthwise, causal, the last W inputs
 *   [r, B, C]  = W_x c                             Falcon-Mamba: each rms-normed, no weights
 *   dt         = softplus(W_dt r + b_dt)
 *   h          = exp(dt A) h + dt B c,  A = -exp(A_log)
 *   x         += W_out ((h . C + D c) * silu(z))
 * The convolution keeps its inputs from before the activation. */
#include <math.h>
#include <string.h>

#include "config/error.h"
#include "models/hyper.h"
#include "weights/model_config.h"

enum {
    INNER = OWN_DIMS, /* intermediate_size, or expand * hidden_size */
    STATE,            /* state_size */
    RANK,             /* time_step_rank, or hidden_size / 16 rounded up */
    CONV,             /* conv_kernel */
    TAIL,             /* CONV - 1 */
    IN_ROWS,          /* 2 INNER */
    X_ROWS,           /* RANK + 2 STATE */
    BIAS,             /* use_bias */
    CONV_BIAS,        /* use_conv_bias */
    MIXER_NORMS       /* the three norms of Falcon-Mamba */
};
enum { MIXER_EPS = OWN_NUMBERS }; /* mixer_rms_eps */

static bool read_rank(const struct model_config *c, struct hyper *h, struct error *err)
{
    const char *keys = "time_step_rank|ssm_cfg.dt_rank", *word = NULL;
    struct error not_a_word;

    h->dim[RANK] = (h->dim[HIDDEN] + 15) / 16;
    if (model_config_string(c, keys, &word, &not_a_word) && word && strcmp(word, "auto") == 0)
        return true;
    return hyper_dim(c, keys, 1, &h->dim[RANK], err);
}

static bool configure(const struct model_arch *arch, const struct model_config *c,
                      const struct weights *w, struct hyper *h, struct error *err)
{
    (void)w;
    h->dim[TIED] = 1;
    h->dim[STATE] = 16;
    h->dim[CONV] = 4;
    h->dim[CONV_BIAS] = 1;
    h->dim[MIXER_NORMS] = arch == &arch_falcon_mamba;
    h->number[MIXER_EPS] = h->dim[MIXER_NORMS] ? 1e-6f : 0.0f;
    if (!hyper_common(c, h, err) || !hyper_inner(c, h, &h->dim[INNER], err) ||
        !read_rank(c, h, err) ||
        !hyper_dim(c, "state_size|ssm_cfg.d_state", 1, &h->dim[STATE], err) ||
        !hyper_dim(c, "conv_kernel|ssm_cfg.d_conv", 2, &h->dim[CONV], err) ||
        !hyper_flag(c, "use_bias|ssm_cfg.bias", &h->dim[BIAS], err) ||
        !hyper_flag(c, "use_conv_bias|ssm_cfg.conv_bias", &h->dim[CONV_BIAS], err) ||
        !hyper_word(c, "hidden_act", "silu", "swish", err))
        return false;
    if (h->dim[MIXER_NORMS] && !hyper_number(c, "mixer_rms_eps", &h->number[MIXER_EPS], err))
        return false;
    h->dim[TAIL] = h->dim[CONV] - 1;
    h->dim[IN_ROWS] = 2 * h->dim[INNER];
    h->dim[X_ROWS] = h->dim[RANK] + 2 * h->dim[STATE];
    return true;
}

struct mamba {
    struct model_ends ends;
};

struct mamba_layer {
    const float *norm, *conv, *conv_bias, *in_bias, *out_bias, *dt_bias, *A, *D;
    struct matrix in[2], x, dt, out; /* in: of c, of z */
};

#define M(field)   offsetof(struct mamba, field)
#define L(field)   offsetof(struct mamba_layer, field)
#define NAME(name) "backbone.layers.%d." name

static const struct weight_row weights[] = {
    { "backbone.embeddings.weight|backbone.embedding.weight",
      { VOCAB, HIDDEN },
      MATRIX,
      M(ends.embed),
      0,
      0 },
    { NAME("norm.weight"), { HIDDEN }, VECTOR, L(norm), 0, 0 },
    { NAME("mixer.in_proj.weight"), { IN_ROWS, HIDDEN }, MATRIX, L(in), CUT_AT(INNER), 0 },
    { NAME("mixer.in_proj.bias"), { IN_ROWS }, VECTOR, L(in_bias), 0, BIAS },
    { NAME("mixer.conv1d.weight"), { INNER, CONV }, VECTOR, L(conv), 0, 0 },
    { NAME("mixer.conv1d.bias"), { INNER }, VECTOR, L(conv_bias), 0, CONV_BIAS },
    { NAME("mixer.x_proj.weight"), { X_ROWS, INNER }, MATRIX, L(x), 0, 0 },
    { NAME("mixer.dt_proj.weight"), { INNER, RANK }, MATRIX, L(dt), 0, 0 },
    { NAME("mixer.dt_proj.bias"), { INNER }, VECTOR, L(dt_bias), 0, 0 },
    { NAME("mixer.A_log"), { INNER, STATE }, VECTOR, L(A), NEGATE_EXP, 0 },
    { NAME("mixer.D"), { INNER }, VECTOR, L(D), 0, 0 },
    { NAME("mixer.out_proj.weight"), { HIDDEN, INNER }, MATRIX, L(out), 0, 0 },
    { NAME("mixer.out_proj.bias"), { HIDDEN }, VECTOR, L(out_bias), 0, BIAS },
    { "backbone.norm_f.weight", { HIDDEN }, VECTOR, M(ends.norm), 0, 0 },
    { "lm_head.weight", { VOCAB, HIDDEN }, MATRIX, M(ends.head), 0, UNTIED },
    { "lm_head.weight", { VOCAB, HIDDEN }, IGNORED, 0, 0, TIED },
    { NULL, { 0 }, VECTOR, 0, 0, 0 },
};

enum { STATE_CONV, STATE_SSM };

static const struct state_row state[] = {
    [STATE_CONV] = { "conv", { TAIL, INNER }, false },
    [STATE_SSM] = { "ssm", { INNER, STATE }, true },
    { NULL, { 0 }, false },
};

static void read_log(const struct hyper *h, struct state_log *log)
{
    log->dim = h->dim[INNER];
    log->N = h->dim[STATE];
}

struct mamba_scratch {
    float *xn;       /* [T, HIDDEN] */
    float *c_in, *z; /* [T, INNER] */
    float *c;        /* [T, INNER] */
    float *rbc;      /* [T, X_ROWS]: r, B, C */
    float *rx;       /* the same for W_dt, if that takes bf16 */
    float *dt;       /* [T, INNER] */
    float *y;        /* [T, INNER]; before the scan c for W_x, if that takes bf16 */
};

#define S(field) offsetof(struct mamba_scratch, field)

static const struct scratch_row scratch[] = {
    { S(xn), HIDDEN }, { S(c_in), INNER }, { S(z), INNER }, { S(c), INNER }, { S(rbc), X_ROWS },
    { S(rx), X_ROWS }, { S(dt), INNER },   { S(y), INNER }, { 0, 0 },
};

/* In place, if y_bf16 does not say otherwise. */
static void norm_part(const struct arch_step *a, float *x, uint16_t *y_bf16, int dim)
{
    const size_t ld = (size_t)a->hyper->dim[X_ROWS];

    a->ops->norm(a->stream, &(struct norm){ .kind = NORM_RMS,
                                            .y = y_bf16 ? NULL : x,
                                            .y_bf16 = y_bf16,
                                            .x = x,
                                            .y_ld = ld,
                                            .x_ld = ld,
                                            .T = a->in->T,
                                            .dim = dim,
                                            .groups = 1,
                                            .eps = a->hyper->number[MIXER_EPS] });
}

/* What it adds to the residual stream is left for the next, as it gets what the last one left. */
static struct linear block(const struct arch_step *a, int l, const struct linear *added)
{
    const struct ops *o = a->ops;
    struct stream *q = a->stream;
    const struct mamba_layer *w = (const struct mamba_layer *)a->layers + l;
    const struct mamba_scratch *s = a->scratch;
    const int *d = a->hyper->dim, R = d[RANK], N = d[STATE];
    const size_t inner = (size_t)d[INNER], rbc_ld = (size_t)d[X_ROWS];

    const struct norm norm = arch_norm(a, s->xn, w->norm, NULL, added);
    const float *c_bias = w->in_bias, *z_bias = c_bias ? c_bias + inner : NULL;
    struct linear x = arch_linear(a, s->rbc, a->bf16_rows ? s->y : s->c, &w->x, NULL, ACT_NONE);
    x.y_bf16 = d[MIXER_NORMS] ? NULL : arch_bf16_rows(a, s->rx);

    o->norm(q, &norm);
    o->scan_inputs(
        q, a->in,
        &(struct scan_inputs){ .in = { arch_linear(a, s->c_in, s->xn, &w->in[0], c_bias, ACT_NONE),
                                       arch_linear(a, s->z, s->xn, &w->in[1], z_bias, ACT_NONE) },
                               .conv = { .y = s->c,
                                         .y_bf16 = arch_bf16_rows(a, s->y),
                                         .x = s->c_in,
                                         .y_ld = inner,
                                         .x_ld = inner,
                                         .weight = w->conv,
                                         .bias = w->conv_bias,
                                         .dim = d[INNER],
                                         .W = d[CONV],
                                         .silu = true,
                                         .state = arch_state(a, STATE_CONV, l) },
                               .product = x });
    if (d[MIXER_NORMS]) {
        norm_part(a, s->rbc, arch_bf16_rows(a, s->rx), R);
        norm_part(a, s->rbc + R, NULL, N);
        norm_part(a, s->rbc + R + N, NULL, N);
    }
    struct linear dt =
        arch_linear(a, s->dt, a->bf16_rows ? s->rx : s->rbc, &w->dt, w->dt_bias, ACT_SOFTPLUS);
    dt.x_ld = rbc_ld;
    o->join(q);
    o->dt_scan(q, a->in,
               &(struct dt_scan){ .dt = dt,
                                  .scan = { .y = arch_f32_rows(a, s->y),
                                            .y_bf16 = arch_bf16_rows(a, s->y),
                                            .x = s->c,
                                            .dt = s->dt,
                                            .z = s->z,
                                            .B = s->rbc + R,
                                            .C = s->rbc + R + N,
                                            .y_ld = inner,
                                            .x_ld = inner,
                                            .dt_ld = inner,
                                            .z_ld = inner,
                                            .bc_ld = rbc_ld,
                                            .A = w->A,
                                            .D = w->D,
                                            .dim = d[INNER],
                                            .N = N,
                                            .state = arch_state(a, STATE_SSM, l) } });
    return arch_added(a, s->y, &w->out, w->out_bias);
}

static struct linear step(const struct arch_step *a)
{
    const struct mamba *m = a->model;
    struct linear added = { .w = NULL };

    a->ops->embed(a->stream, a->in, a->x, &m->ends.embed);
    for (int l = 0; l < a->hyper->dim[LAYERS]; l++)
        added = block(a, l, &added);
    return added;
}

const struct model_arch arch_mamba = {
    .name = "mamba",
    .model_type = "mamba",
    .signature = "backbone.layers.0.mixer.x_proj.weight",
    .prefix = { "", "model." },
    .text_end = -1,
    .norm = NORM_RMS,
    .configure = configure,
    .weights = weights,
    .model_size = sizeof(struct mamba),
    .layer_size = sizeof(struct mamba_layer),
    .state = state,
    .log = read_log,
    .rates = L(A),
    .scratch = scratch,
    .scratch_size = sizeof(struct mamba_scratch),
    .step = step,
};

const struct model_arch arch_falcon_mamba = {
    .name = "falcon_mamba",
    .model_type = "falcon_mamba",
    .prefix = { "", "model." },
    .text_end = -1,
    .norm = NORM_RMS,
    .configure = configure,
    .weights = weights,
    .model_size = sizeof(struct mamba),
    .layer_size = sizeof(struct mamba_layer),
    .state = state,
    .log = read_log,
    .rates = L(A),
    .scratch = scratch,
    .scratch_size = sizeof(struct mamba_scratch),
    .step = step,
};
