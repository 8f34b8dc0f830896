/* Mamba-2 (arXiv 2405.21060; the conventions are those of state-spaces/mamba's Mamba2).
 *
 * Each layer adds to the residual stream x what its mixer makes of u = rms_norm(x):
 *   [z, c, r]  = W_in u                 c is [x, B, C] side by side
 *   [x, B, C]  = silu(conv(c))          depthwise, causal, the last W inputs
 *   dt         = clamp(softplus(r + b_dt), limits)          one for each head
 *   S          = exp(dt A) S + (dt x) B^T,  A = -exp(A_log)  [HEAD_DIM, STATE] for each head
 *   y          = S C + D x              heads share B and C in GROUPS
 *   x         += W_out rms_norm(y * silu(z))
 * The gated norm is taken over each group by itself, as its authors do; transformers'
 * Mamba2ForCausalLM norms over all groups at once, which is another function. */
#include <math.h>

#include "config/error.h"
#include "models/hyper.h"
#include "weights/model_config.h"

enum {
    INNER = OWN_DIMS, /* intermediate_size, or expand * hidden_size: HEADS * HEAD_DIM */
    HEADS,            /* num_heads */
    HEAD_DIM,         /* head_dim */
    STATE,            /* state_size */
    GROUPS,           /* n_groups */
    CONV,             /* conv_kernel */
    TAIL,             /* CONV - 1 */
    BC,               /* GROUPS * STATE */
    CONV_DIM,         /* INNER + 2 BC */
    IN_ROWS,          /* 2 INNER + 2 BC + HEADS */
    BIAS,             /* use_bias */
    CONV_BIAS,        /* use_conv_bias */
    GATED_NORM        /* ssm_cfg.rmsnorm; without it only the gate */
};
enum { DT_LO = OWN_NUMBERS, DT_HI }; /* time_step_limit */

static bool read_limits(const struct model_config *c, struct hyper *h, struct error *err)
{
    const char *keys = "time_step_limit|ssm_cfg.dt_limit";
    double limit[2] = { 0.0, INFINITY };

    if (!model_config_numbers(c, keys, 2, limit, err))
        return false;
    if (!(limit[0] >= 0.0 && limit[0] <= limit[1]))
        return error_set(err, ERR_FORMAT,
                         "config.json: %s: expected 0 <= low <= high, found [%g, %g]", keys,
                         limit[0], limit[1]);
    h->number[DT_LO] = (float)limit[0];
    h->number[DT_HI] = (float)limit[1];
    return true;
}

static bool read_sizes(const struct model_config *c, struct hyper *h, struct error *err)
{
    int *d = h->dim;

    d[HEAD_DIM] = 64;
    if (!hyper_inner(c, h, &d[INNER], err) ||
        !hyper_dim(c, "head_dim|ssm_cfg.headdim", 1, &d[HEAD_DIM], err))
        return false;
    d[HEADS] = d[INNER] / d[HEAD_DIM];
    if (!hyper_dim(c, "num_heads", 1, &d[HEADS], err) ||
        !hyper_dim(c, "state_size|ssm_cfg.d_state", 1, &d[STATE], err) ||
        !hyper_dim(c, "n_groups|ssm_cfg.ngroups", 1, &d[GROUPS], err) ||
        !hyper_dim(c, "conv_kernel|ssm_cfg.d_conv", 2, &d[CONV], err))
        return false;
    if ((int64_t)d[HEADS] * d[HEAD_DIM] != d[INNER])
        return error_set(
            err, ERR_FORMAT,
            "config.json: num_heads * head_dim: expected the inner size %d, found %d * %d",
            d[INNER], d[HEADS], d[HEAD_DIM]);
    if (d[HEADS] % d[GROUPS])
        return error_set(err, ERR_FORMAT,
                         "config.json: n_groups: expected a divisor of num_heads %d, found %d",
                         d[HEADS], d[GROUPS]);
    if (d[STATE] > HYPER_DIM_MAX / d[GROUPS])
        return error_set(err, ERR_FORMAT,
                         "config.json: n_groups * state_size: %d * %d is too large", d[GROUPS],
                         d[STATE]);
    d[TAIL] = d[CONV] - 1;
    d[BC] = d[GROUPS] * d[STATE];
    d[CONV_DIM] = d[INNER] + 2 * d[BC];
    d[IN_ROWS] = d[INNER] + d[CONV_DIM] + d[HEADS];
    return true;
}

static bool configure(const struct model_arch *arch, const struct model_config *c,
                      const struct weights *w, struct hyper *h, struct error *err)
{
    int norm_first = 0;

    (void)arch;
    (void)w;
    h->dim[STATE] = 128;
    h->dim[GROUPS] = model_config_has(c, "hidden_size") ? 8 : 1; /* transformers' default: 8 */
    h->dim[CONV] = 4;
    h->dim[CONV_BIAS] = 1;
    h->dim[GATED_NORM] = 1;
    if (!hyper_common(c, h, err) || !read_sizes(c, h, err) || !read_limits(c, h, err) ||
        !hyper_flag(c, "use_bias|ssm_cfg.bias", &h->dim[BIAS], err) ||
        !hyper_flag(c, "use_conv_bias|ssm_cfg.conv_bias", &h->dim[CONV_BIAS], err) ||
        !hyper_flag(c, "ssm_cfg.rmsnorm", &h->dim[GATED_NORM], err) ||
        !hyper_flag(c, "ssm_cfg.norm_before_gate", &norm_first, err) ||
        !hyper_word(c, "hidden_act", "silu", "swish", err))
        return false;
    /* The same key outside ssm_cfg is decoration: Codestral's says true, nothing reads it. */
    if (norm_first)
        return error_set(err, ERR_FORMAT,
                         "config.json: ssm_cfg.norm_before_gate: expected false, found true");
    return true;
}

struct mamba2 {
    struct model_ends ends;
};

struct mamba2_layer {
    const float *norm, *conv, *conv_bias, *in_bias, *out_bias, *dt_bias, *A, *D, *gated_norm;
    struct matrix in[2], out; /* in: of z, of c and r */
};

#define M(field)   offsetof(struct mamba2, field)
#define L(field)   offsetof(struct mamba2_layer, field)
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
    { NAME("mixer.conv1d.weight"), { CONV_DIM, CONV }, VECTOR, L(conv), 0, 0 },
    { NAME("mixer.conv1d.bias"), { CONV_DIM }, VECTOR, L(conv_bias), 0, CONV_BIAS },
    { NAME("mixer.dt_bias"), { HEADS }, VECTOR, L(dt_bias), 0, 0 },
    { NAME("mixer.A_log"), { HEADS }, VECTOR, L(A), NEGATE_EXP, 0 },
    { NAME("mixer.D"), { HEADS }, VECTOR, L(D), 0, 0 },
    { NAME("mixer.norm.weight"), { INNER }, VECTOR, L(gated_norm), 0, GATED_NORM },
    { NAME("mixer.out_proj.weight"), { HIDDEN, INNER }, MATRIX, L(out), 0, 0 },
    { NAME("mixer.out_proj.bias"), { HIDDEN }, VECTOR, L(out_bias), 0, BIAS },
    { "backbone.norm_f.weight", { HIDDEN }, VECTOR, M(ends.norm), 0, 0 },
    { "lm_head.weight", { VOCAB, HIDDEN }, MATRIX, M(ends.head), 0, UNTIED },
    { "lm_head.weight", { VOCAB, HIDDEN }, IGNORED, 0, 0, TIED },
    { NULL, { 0 }, VECTOR, 0, 0, 0 },
};

enum { STATE_CONV, STATE_SSM };

static const struct state_row state[] = {
    [STATE_CONV] = { "conv", { TAIL, CONV_DIM }, false },
    [STATE_SSM] = { "ssm", { HEADS, HEAD_DIM, STATE }, true },
    { NULL, { 0 }, false },
};

static void read_log(const struct hyper *h, struct state_log *log)
{
    log->H = h->dim[HEADS];
    log->V = h->dim[HEAD_DIM];
    log->K = h->dim[STATE];
    log->k_heads = h->dim[GROUPS];
    log->w_per_head = true;
}

struct mamba2_scratch {
    float *xn;         /* [T, HIDDEN] */
    float *in;         /* [T, IN_ROWS]: z, c, r */
    float *xbc;        /* [T, CONV_DIM]: x, B, C */
    float *dt, *decay; /* [T, HEADS] */
    float *y, *gated;  /* [T, INNER] */
};

#define S(field) offsetof(struct mamba2_scratch, field)

static const struct scratch_row scratch[] = {
    { S(xn), HIDDEN },   { S(in), IN_ROWS }, { S(xbc), CONV_DIM }, { S(dt), HEADS },
    { S(decay), HEADS }, { S(y), INNER },    { S(gated), INNER },  { 0, 0 },
};

/* What it adds to the residual stream is left for the next, as it gets what the last one left. */
static struct linear block(const struct arch_step *a, int l, const struct linear *added)
{
    const struct ops *o = a->ops;
    struct stream *q = a->stream;
    const struct mamba2_layer *w = (const struct mamba2_layer *)a->layers + l;
    const struct mamba2_scratch *s = a->scratch;
    const int *d = a->hyper->dim, T = a->in->T;
    const float *number = a->hyper->number;
    const size_t inner = (size_t)d[INNER], heads = (size_t)d[HEADS];
    const size_t in_ld = (size_t)d[IN_ROWS], xbc_ld = (size_t)d[CONV_DIM];

    const struct norm norm = arch_norm(a, s->xn, w->norm, NULL, added);
    const float *z_bias = w->in_bias, *c_bias = z_bias ? z_bias + inner : NULL;
    struct linear in[] = {
        arch_linear(a, s->in + inner, s->xn, &w->in[1], c_bias, ACT_NONE),
        arch_linear(a, s->in, s->xn, &w->in[0], z_bias, ACT_NONE),
    };

    in[0].y_ld = in[1].y_ld = in_ld;

    o->norm(q, &norm);
    o->linear_split(q, in, 1, 1); /* z: until the gate */
    o->short_conv(q, a->in,
                  &(struct short_conv){ .y = s->xbc,
                                        .x = s->in + inner,
                                        .y_ld = xbc_ld,
                                        .x_ld = in_ld,
                                        .weight = w->conv,
                                        .bias = w->conv_bias,
                                        .dim = d[CONV_DIM],
                                        .W = d[CONV],
                                        .silu = true,
                                        .state = arch_state(a, STATE_CONV, l) });
    o->scalar_state(q, a->in,
                    &(struct scalar_state){ .gates = { .dt = s->dt,
                                                       .decay = s->decay,
                                                       .raw = s->in + inner + xbc_ld,
                                                       .raw_ld = in_ld,
                                                       .bias = w->dt_bias,
                                                       .A = w->A,
                                                       .T = T,
                                                       .H = d[HEADS],
                                                       .lo = number[DT_LO],
                                                       .hi = number[DT_HI] },
                                            .state = { .y = s->y,
                                                       .w = s->decay,
                                                       .k = s->xbc + inner,
                                                       .q = s->xbc + inner + d[BC],
                                                       .v = s->xbc,
                                                       .y_ld = inner,
                                                       .w_ld = heads,
                                                       .kq_ld = xbc_ld,
                                                       .v_ld = xbc_ld,
                                                       .v_scale = s->dt,
                                                       .skip = w->D,
                                                       .w_per_head = true,
                                                       .H = d[HEADS],
                                                       .V = d[HEAD_DIM],
                                                       .K = d[STATE],
                                                       .k_heads = d[GROUPS],
                                                       .state = arch_state(a, STATE_SSM, l) } });
    o->join(q);
    o->gated_norm(q, &(struct gated_norm){ .y = arch_f32_rows(a, s->gated),
                                           .y_bf16 = arch_bf16_rows(a, s->gated),
                                           .x = s->y,
                                           .z = s->in,
                                           .y_ld = inner,
                                           .x_ld = inner,
                                           .z_ld = in_ld,
                                           .weight = w->gated_norm,
                                           .T = T,
                                           .dim = d[INNER],
                                           .groups = d[GROUPS],
                                           .eps = number[EPS] });
    return arch_added(a, s->gated, &w->out, w->out_bias);
}

static struct linear step(const struct arch_step *a)
{
    const struct mamba2 *m = a->model;
    struct linear added = { .w = NULL };

    a->ops->embed(a->stream, a->in, a->x, &m->ends.embed);
    for (int l = 0; l < a->hyper->dim[LAYERS]; l++)
        added = block(a, l, &added);
    return added;
}

const struct model_arch arch_mamba2 = {
    .name = "mamba2",
    .model_type = "mamba2",
    .signature = "backbone.layers.0.mixer.dt_bias",
    .prefix = { "", "model." }, /* "model.": Codestral */
    .text_end = -1,
    .norm = NORM_RMS,
    .configure = configure,
    .weights = weights,
    .model_size = sizeof(struct mamba2),
    .layer_size = sizeof(struct mamba2_layer),
    .state = state,
    .log = read_log,
    .scratch = scratch,
    .scratch_size = sizeof(struct mamba2_scratch),
    .step = step,
};
