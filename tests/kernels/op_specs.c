/* op_specs.c - the operations on rows and states as the tests call them. */
#include "op_specs.h"

#include <math.h>

/* Where the rows of output i are wanted as float32 and as bf16; NULL: not. */
static float *f32_rows(const struct call *c, int i)
{
    return c->rows[i] == ROWS_BF16 ? NULL : c->y[i];
}

static uint16_t *bf16_rows(const struct call *c, int i)
{
    return c->rows[i] == ROWS_F32 ? NULL : c->y_bf16[i];
}

static void run_norm(const struct call *c)
{
    const int *d = c->spec->d;
    const bool in_place = d[3];
    const struct norm p = { .kind = (enum norm_kind)d[0],
                            .y = f32_rows(c, 0),
                            .y_bf16 = bf16_rows(c, 0),
                            .x = in_place ? c->y[0] : c->x[0],
                            .y_ld = c->y_ld[0],
                            .x_ld = in_place ? c->y_ld[0] : c->x_ld[0],
                            .weight = d[4] ? c->c[0] : NULL,
                            .bias = d[5] ? c->c[1] : NULL,
                            .T = c->in->T,
                            .dim = d[1],
                            .groups = d[2],
                            .eps = 1e-5f };

    c->ops->norm(c->q, &p);
}

/* A value is at most 6 deviations from the mean here; the scale carries the sum's error. */
static struct spec any_norm(void)
{
    const int groups = check_int(1, 4), n = check_int(8, 200), in_place = check_int(0, 1);
    const int dim = groups * n;

    return (struct spec){ .name = "norm",
                          .x = { { dim, -2, 2, 0 } },
                          .y = { { dim, -2, 2, 8 } },
                          .c = { { dim, -1, 1, 0 }, { dim, -1, 1, 0 } },
                          .terms = n,
                          .bf16 = 1,
                          .d = { check_int(0, 1), dim, groups, in_place, check_int(0, 1),
                                 check_int(0, 1) },
                          .run = run_norm };
}

static void run_gated_norm(const struct call *c)
{
    const int *d = c->spec->d;
    const struct gated_norm p = { .y = f32_rows(c, 0),
                                  .y_bf16 = bf16_rows(c, 0),
                                  .x = c->x[0],
                                  .z = c->x[1],
                                  .y_ld = c->y_ld[0],
                                  .x_ld = c->x_ld[0],
                                  .z_ld = c->x_ld[1],
                                  .weight = d[2] ? c->c[0] : NULL,
                                  .T = c->in->T,
                                  .dim = d[0],
                                  .groups = d[1],
                                  .eps = 1e-5f };

    c->ops->gated_norm(c->q, &p);
}

static struct spec any_gated_norm(void)
{
    const int groups = check_int(1, 4), n = check_int(8, 200), dim = groups * n;

    return (struct spec){ .name = "gated_norm",
                          .x = { { dim, -2, 2, 0 }, { dim, -4, 4, 0 } },
                          .y = { { dim, 0, 1, 8 } },
                          .c = { { dim, -1, 1, 0 } },
                          .terms = n,
                          .bf16 = 1,
                          .d = { dim, groups, check_int(0, 2) > 0 },
                          .run = run_gated_norm };
}

static void run_lerp(const struct call *c)
{
    const struct lerp p = { .y = c->y[0],
                            .target = c->x[0],
                            .mix = c->x[1],
                            .n = (size_t)c->in->T * (size_t)c->spec->d[0] };

    c->ops->lerp(c->q, &p);
}

static struct spec any_lerp(void)
{
    const int dim = check_int(1, 70);

    return (struct spec){ .name = "lerp",
                          .x = { { dim, -1, 1, 0 }, { dim, 0, 1, 0 } },
                          .y = { { dim, -1, 1, 3 } },
                          .terms = 2,
                          .tight_x = true,
                          .tight_y = true,
                          .d = { dim },
                          .run = run_lerp };
}

static void run_token_shift(const struct call *c)
{
    struct token_shift p = {
        .n = c->spec->d[1], .x = c->x[0], .dim = c->spec->d[0], .state = c->state
    };

    for (int i = 0; i < p.n; i++) {
        p.y[i] = f32_rows(c, i);
        p.y_bf16[i] = bf16_rows(c, i);
        p.mu[i] = c->c[i];
    }
    c->ops->token_shift(c->q, c->in, &p);
}

static struct spec any_token_shift(void)
{
    const int dim = check_int(1, 100), n = check_int(1, SHIFT_MAX);
    struct spec s = { .name = "token_shift",
                      .x = { { dim, -1, 1, 0 } },
                      .state = { dim, -1, 1, 0 },
                      .terms = 2,
                      .bf16 = n,
                      .tight_x = true,
                      .tight_y = true,
                      .d = { dim, n },
                      .run = run_token_shift };

    for (int i = 0; i < n; i++) {
        s.y[i] = (struct array){ dim, 0, 1, 3 };
        s.c[i] = (struct array){ dim, 0, 1, 0 };
    }
    return s;
}

static void run_short_conv(const struct call *c)
{
    const int *d = c->spec->d;
    const struct short_conv p = { .y = f32_rows(c, 0),
                                  .y_bf16 = bf16_rows(c, 0),
                                  .x = c->x[0],
                                  .y_ld = c->y_ld[0],
                                  .x_ld = c->x_ld[0],
                                  .weight = c->c[0],
                                  .bias = d[2] ? c->c[1] : NULL,
                                  .dim = d[0],
                                  .W = d[1],
                                  .silu = d[3],
                                  .state = c->state };

    c->ops->short_conv(c->q, c->in, &p);
}

static struct spec any_short_conv(void)
{
    const int dim = check_int(1, 150), W = check_int(2, 9);

    return (struct spec){ .name = "short_conv",
                          .x = { { dim, -1, 1, 0 } },
                          .y = { { dim, 0, 1, W + 1 } },
                          .c = { { dim * W, -1, 1, 0 }, { dim, -1, 1, 0 } },
                          .state = { dim * (W - 1), -1, 1, 0 },
                          .terms = W,
                          .bf16 = 1,
                          .d = { dim, W, check_int(0, 1), check_int(0, 1) },
                          .run = run_short_conv };
}

static void run_diagonal_scan(const struct call *c)
{
    const struct diagonal_scan p = { .y = f32_rows(c, 0),
                                     .y_bf16 = bf16_rows(c, 0),
                                     .x = c->x[0],
                                     .dt = c->x[1],
                                     .z = c->spec->d[2] ? c->x[2] : NULL,
                                     .B = c->x[3],
                                     .C = c->x[4],
                                     .y_ld = c->y_ld[0],
                                     .x_ld = c->x_ld[0],
                                     .dt_ld = c->x_ld[1],
                                     .z_ld = c->x_ld[2],
                                     .bc_ld = c->x_ld[3],
                                     .A = c->c[0],
                                     .D = c->c[1],
                                     .dim = c->spec->d[0],
                                     .N = c->spec->d[1],
                                     .state = c->state };

    c->ops->diagonal_scan(c->q, c->in, &p);
}

/* |h| settles below |B x / A|, 1 on average, and the gate is below 3. */
struct spec diagonal_scan_of(int dim, int N)
{
    return (struct spec){ .name = "diagonal_scan",
                          .x = { { dim, -1, 1, 0 },
                                 { dim, 0.001f, 0.5f, 0 },
                                 { dim, -3, 3, 0 },
                                 { N, -1, 1, 0 },
                                 { N, -1, 1, 0 } },
                          .y = { { dim, 0, 1, 3.0 * N } },
                          .c = { { dim * N, -1.5f, -0.1f, 0 }, { dim, -1, 1, 0 } },
                          .state = { dim * N, -1, 1, 10 },
                          .terms = N,
                          .bf16 = 1,
                          .d = { dim, N, check_int(0, 1) },
                          .run = run_diagonal_scan };
}

static struct spec any_diagonal_scan(void)
{
    const int sizes[] = { 16, 16, 8, 5, 32, 37 };

    return diagonal_scan_of(check_int(0, 1) ? 64 * check_int(1, 3) : check_int(1, 100),
                            sizes[check_int(0, 5)]);
}

static void run_decay_gates(const struct call *c)
{
    const struct decay_gates p = { .dt = c->y[0],
                                   .decay = c->y[1],
                                   .raw = c->x[0],
                                   .raw_ld = c->x_ld[0],
                                   .bias = c->c[0],
                                   .A = c->c[1],
                                   .T = c->in->T,
                                   .H = c->spec->d[0],
                                   .lo = 0.001f,
                                   .hi = 22.0f };

    c->ops->decay_gates(c->q, &p);
}

/* exp(-z) moves by at most z exp(-z) < 1/2 times the relative error of z. */
static struct spec any_decay_gates(void)
{
    const int H = check_int(1, 50);

    return (struct spec){ .name = "decay_gates",
                          .x = { { H, -12, 24, 0 } },
                          .y = { { H, 0, 1, 24 }, { H, 0, 1, 2 } },
                          .c = { { H, -1, 1, 0 }, { H, -4, -0.1f, 0 } },
                          .terms = 2,
                          .tight_y = true,
                          .d = { H },
                          .run = run_decay_gates };
}

static void run_delta_gates(const struct call *c)
{
    const struct delta_gates p = { .decay = c->y[0],
                                   .a_out = c->y[1],
                                   .b = c->y[2],
                                   .k = c->y[3],
                                   .w = c->x[0],
                                   .a = c->x[1],
                                   .k_k = c->c[0],
                                   .k_a = c->c[1],
                                   .T = c->in->T,
                                   .H = c->spec->d[0],
                                   .K = c->spec->d[1] };

    c->ops->delta_gates(c->q, &p);
}

static struct spec any_delta_gates(void)
{
    const int H = check_int(1, 5), K = check_int(0, 1) ? 64 : check_int(1, 70), D = H * K;

    return (struct spec){ .name = "delta_gates",
                          .x = { { D, -6, 6, 0 }, { D, 0, 1, 0 } },
                          .y = { { D, 0, 1, 2 }, { D, 0, 1, 2 }, { D, 0, 1, 2 }, { D, -1, 1, 2 } },
                          .c = { { D, 0.5f, 1.5f, 0 }, { D, 0, 1, 0 } },
                          .terms = K,
                          .tight_x = true,
                          .tight_y = true,
                          .d = { H, K },
                          .run = run_delta_gates };
}

static void run_matrix_state(const struct call *c)
{
    const int *d = c->spec->d;
    const bool delta = d[4], scale = d[5];
    const struct matrix_state p = { .y = c->y[0],
                                    .w = c->x[0],
                                    .a = delta ? c->x[1] : NULL,
                                    .b = delta ? c->x[2] : NULL,
                                    .k = c->x[3],
                                    .q = c->x[4],
                                    .v = c->x[5],
                                    .y_ld = c->y_ld[0],
                                    .w_ld = c->x_ld[0],
                                    .ab_ld = c->x_ld[1],
                                    .kq_ld = c->x_ld[3],
                                    .v_ld = c->x_ld[5],
                                    .v_scale = scale ? c->x[6] : NULL,
                                    .skip = scale ? c->c[0] : NULL,
                                    .w_per_head = c->spec->x[0].width == d[0],
                                    .H = d[0],
                                    .V = d[1],
                                    .K = d[2],
                                    .k_heads = d[3],
                                    .state = c->state };

    c->ops->matrix_state(c->q, c->in, &p);
}

/* The decay and the delta term (K |a| |b| <= 1/4) together contract, so that |S| stays below
 * about 1 / (1 - 0.95) of a step's |v k|, and far below on average. */
struct spec matrix_state_of(int H, int k_heads, int V, int K)
{
    const int delta = check_int(0, 1), per_head = check_int(0, 1);
    const float small = 0.5f / (float)(K > 64 ? 12 : K > 16 ? 8 : K > 8 ? 4 : 3);

    return (struct spec){ .name = "matrix_state",
                          .x = { { per_head ? H : H * K, 0.5f, 0.7f, 0 },
                                 { H * K, -small, small, 0 },
                                 { H * K, -small, small, 0 },
                                 { k_heads * K, -1, 1, 0 },
                                 { k_heads * K, -1, 1, 0 },
                                 { H * V, -1, 1, 0 },
                                 { per_head ? H : H * K, 0, 1, 0 } },
                          .y = { { H * V, 0, 1, 1.0 * K } },
                          .c = { { H, -1, 1, 0 } },
                          .state = { H * V * K, -1, 1, 4 },
                          .terms = K,
                          .d = { H, V, K, k_heads, delta, check_int(0, 1) },
                          .run = run_matrix_state };
}

static struct spec any_matrix_state(void)
{
    const int sizes[][2] = { { 64, 64 }, { 64, 128 }, { 24, 32 }, { 7, 64 },
                             { 16, 16 }, { 20, 8 },   { 7, 5 },   { 64, 40 } };
    const int *VK = sizes[check_int(0, 7)], k_heads = check_int(1, 2);

    return matrix_state_of(k_heads * check_int(1, 3), k_heads, VK[0], VK[1]);
}

static void run_head_output(const struct call *c)
{
    const struct head_output p = { .y = c->y[0],
                                   .y_bf16 = bf16_rows(c, 0),
                                   .r = c->x[0],
                                   .k = c->x[1],
                                   .v = c->x[2],
                                   .g = c->x[3],
                                   .r_k = c->c[0],
                                   .weight = c->c[1],
                                   .bias = c->c[2],
                                   .T = c->in->T,
                                   .H = c->spec->d[0],
                                   .V = c->spec->d[1],
                                   .eps = 64e-5f };

    c->ops->head_output(c->q, &p);
}

static struct spec any_head_output(void)
{
    const int H = check_int(1, 4), V = check_int(0, 1) ? 64 : check_int(8, 70), D = H * V;

    return (
        struct spec){ .name = "head_output",
                      .x = { { D, -1, 1, 0 }, { D, -1, 1, 0 }, { D, -1, 1, 0 }, { D, -1, 1, 0 } },
                      .y = { { D, -2, 2, 8 + V / 4.0 } },
                      .c = { { D, -1, 1, 0 }, { D, -1, 1, 0 }, { D, -1, 1, 0 } },
                      .terms = V,
                      .bf16 = 1,
                      .bf16_alone = true,
                      .tight_x = true,
                      .tight_y = true,
                      .d = { H, V },
                      .run = run_head_output };
}

static void run_norm_shift(const struct call *c)
{
    const int *d = c->spec->d, dim = d[0], n = d[1];
    struct norm_shift p = {
        .norm = { .kind = (enum norm_kind)d[2],
                  .y = c->y[n],
                  .x = c->x[0],
                  .y_ld = (size_t)dim,
                  .x_ld = c->x_ld[0],
                  .weight = d[3] ? c->c[n] : NULL,
                  .bias = d[4] ? c->c[n + 1] : NULL,
                  .T = c->in->T,
                  .dim = dim,
                  .groups = 1,
                  .eps = 1e-5f },
        .shift = { .n = n, .x = c->y[n], .dim = dim, .state = c->state },
    };

    for (int i = 0; i < n; i++) {
        p.shift.y[i] = f32_rows(c, i);
        p.shift.y_bf16[i] = bf16_rows(c, i);
        p.shift.mu[i] = c->c[i];
    }
    c->ops->norm_shift(c->q, c->in, &p);
}

/* The normed rows, behind the mixes, are scratch memory. */
struct spec norm_shift_of(int dim, int n)
{
    struct spec s = { .name = "norm_shift",
                      .x = { { dim, -2, 2, 0 } },
                      .state = { dim, -1, 1, 8 },
                      .terms = dim,
                      .bf16 = n,
                      .tight_y = true,
                      .d = { dim, n, check_int(0, 3) ? NORM_LAYER : NORM_RMS, check_int(0, 3) > 0,
                             check_int(0, 1) },
                      .run = run_norm_shift };

    for (int i = 0; i < n; i++) {
        s.y[i] = (struct array){ dim, 0, 1, 24 };
        s.c[i] = (struct array){ dim, 0, 1, 0 };
    }
    s.y[n] = (struct array){ dim, 0, 1, INFINITY };
    s.c[n] = s.c[n + 1] = (struct array){ dim, -1, 1, 0 };
    return s;
}

static struct spec any_norm_shift(void)
{
    return norm_shift_of(check_int(0, 1) ? 128 * check_int(1, 12) : check_int(8, 200),
                         check_int(1, ARRAYS - 2));
}

static void run_delta_state(const struct call *c)
{
    enum { OUT, KEY, VALUE, DECAY, SCALED, REMOVED };
    const int H = c->spec->d[0], K = c->spec->d[1], T = c->in->T;
    const size_t row = (size_t)H * (size_t)K;
    const bool blend = c->spec->d[2];

    c->ops->delta_state(c->q, c->in,
                        &(struct delta_state){
                            .v = { .y = c->y[VALUE],
                                   .target = c->x[4],
                                   .mix = c->x[5],
                                   .n = blend ? (size_t)T * row : 0 },
                            .gates = { .decay = c->y[DECAY],
                                       .a_out = c->y[SCALED],
                                       .b = c->y[REMOVED],
                                       .k = c->y[KEY],
                                       .w = c->x[0],
                                       .a = c->x[1],
                                       .k_k = c->c[0],
                                       .k_a = c->c[1],
                                       .T = T,
                                       .H = H,
                                       .K = K },
                            .state = { .y = c->y[OUT],
                                       .w = c->y[DECAY],
                                       .a = c->y[SCALED],
                                       .b = c->y[REMOVED],
                                       .k = c->y[KEY],
                                       .q = c->x[2],
                                       .v = c->y[VALUE],
                                       .y_ld = row,
                                       .w_ld = row,
                                       .ab_ld = row,
                                       .kq_ld = row,
                                       .v_ld = row,
                                       .H = H,
                                       .V = K,
                                       .K = K,
                                       .k_heads = H,
                                       .state = c->state },
                            .out = { .y = c->y[OUT],
                                     .y_bf16 = bf16_rows(c, OUT),
                                     .r = c->x[2],
                                     .k = c->y[KEY],
                                     .v = c->y[VALUE],
                                     .g = c->x[3],
                                     .r_k = c->c[2],
                                     .weight = c->c[3],
                                     .bias = c->c[4],
                                     .T = T,
                                     .H = H,
                                     .V = K,
                                     .eps = 64e-5f },
                        });
}

/* With decays below 0.85 a state stays below about 1 / (1 - 0.85) of a step's |v k|. Only the
 * output, and v where it is not blended, mean anything afterwards. */
struct spec delta_state_of(int H, int K)
{
    const int D = H * K, blend = check_int(0, 1);
    const struct array scratch = { D, 0, 1, INFINITY };

    return (struct spec){ .name = "delta_state",
                          .x = { { D, -1, 3, 0 },
                                 { D, 0, 1, 0 },
                                 { D, -1, 1, 0 },
                                 { D, -1, 1, 0 },
                                 { D, -1, 1, 0 },
                                 { D, 0, 1, 0 } },
                          .y = { { D, 0, 1, 8 + 1.25 * K },
                                 { D, -1, 1, INFINITY },
                                 { D, -1, 1, blend ? (double)INFINITY : 0 },
                                 scratch,
                                 scratch,
                                 scratch },
                          .c = { { D, 0.5f, 1.5f, 0 },
                                 { D, 0, 1, 0 },
                                 { D, -1, 1, 0 },
                                 { D, -1, 1, 0 },
                                 { D, -1, 1, 0 } },
                          .state = { D * K, -1, 1, 7 },
                          .terms = K,
                          .bf16 = 1,
                          .bf16_alone = true,
                          .tight_x = true,
                          .tight_y = true,
                          .d = { H, K, blend },
                          .run = run_delta_state };
}

static struct spec any_delta_state(void)
{
    return delta_state_of(check_int(1, 4), check_int(0, 2) ? 64 : check_int(32, 70));
}

struct spec (*const any_spec[])(void) = {
    any_norm,         any_gated_norm,    any_lerp,        any_token_shift,
    any_short_conv,   any_diagonal_scan, any_decay_gates, any_delta_gates,
    any_matrix_state, any_head_output,   any_norm_shift,  any_delta_state,
};

const int any_specs = sizeof(any_spec) / sizeof(any_spec[0]);
