/* test_mamba.c - the scan with its step sizes (Mamba) and the matrix state with its decays
 * (Mamba-2) against their definitions: random sizes, those that a device takes as one kernel and
 * those that it does not, slots out of order, sequences that only fill a batch, float32 rows and
 * those of bf16, states of either. */
#include "check.h"

#include <string.h>

#include "fused.h"

/* Step sizes and scan. */
struct dt_case {
    struct layout l;
    int dim, N, rank;
    enum dtype dtype;
    bool narrow, aligned, gate, y, y_bf16;
    struct rows x, z, bc, r, out;
    uint16_t *r_bf16;
    float *A, *D, *bias, *w;
    struct states states;
};

struct dt_result {
    const struct dt_case *c;
    bool parts; /* made by the parts, one after the other */
    float *y;
    struct states states;
    uint16_t *y_bf16;
};

/* r and W are numbers of bf16, so that their products are exact however they are taken. */
static struct dt_case make_dt_case(bool bf16_rows)
{
    const enum shape shape = (enum shape)(check_int(0, 1) * check_int(ALL_OF_ONE, RAGGED));
    const bool fit = check_int(0, 3) > 0;
    const bool is_long = check_int(0, 3) == 0, beside = check_int(0, 3) == 0;
    /* So many channels that a device's blocks have tens of sequences, or take turns. */
    const bool wide = bf16_rows && fit && !is_long && !beside && check_int(0, 7) == 0;
    const int S = wide              ? check_int(100, 300)
                  : check_int(0, 2) ? check_int(1, 9)
                                    : check_int(1, S_MAX);
    struct dt_case c = { .l = is_long  ? make_layout(check_int(1, 2), LONG)
                              : beside ? make_layout(check_int(2, 40), BESIDE)
                                       : make_layout(S, wide ? ONE_EACH : shape),
                         .dim = wide  ? 32 * check_int(100, 160)
                                : fit ? 32 * check_int(1, 5)
                                      : check_int(1, 100),
                         .N = check_int(0, 5) ? 16 : 8,
                         .rank = fit ? 8 * check_int(1, 34) : check_int(1, 70),
                         .dtype = check_int(0, 3) ? DTYPE_BF16 : DTYPE_F32,
                         .aligned = fit || check_int(0, 1),
                         .gate = check_int(0, 3) > 0,
                         .y = check_int(0, 1) };
    const size_t dim = (size_t)c.dim;
    const int T = c.l.in.T;

    c.narrow = bf16_rows && c.dtype == DTYPE_BF16 && check_int(0, 1);
    c.y_bf16 = bf16_rows && (!c.y || check_int(0, 1));
    c.y = c.y || !c.y_bf16;
    c.x = make_rows(T, c.dim, c.aligned, -1, 1);
    c.z = make_rows(T, c.dim, c.aligned, -3, 3);
    c.bc = make_rows(T, 2 * c.N, c.aligned, -1, 1);
    c.r = make_rows(T, c.rank, c.aligned, -1, 1);
    c.out = make_rows(T, c.dim, c.aligned, 0, 1);
    c.r_bf16 = check_memory(c.r.n * sizeof(*c.r_bf16));
    for (size_t i = 0; i < c.r.n; i++) {
        c.r_bf16[i] = f32_to_bf16(c.r.x[i]);
        c.r.x[i] = bf16_to_f32(c.r_bf16[i]);
    }
    c.A = check_floats(dim * (size_t)c.N, -1.5, -0.1);
    c.D = check_floats(dim, -1, 1);
    c.bias = check_floats(dim, -4, 0);
    c.w = make_weights(c.dim, c.rank);
    c.states = make_states((dim * (size_t)c.N + 3) / 4 * 4 + (c.aligned ? 4 : 1), c.l.slots,
                           check_int(0, 1));
    return c;
}

static void run_dt_scan(struct backend *be, const struct batch *in, void *arg)
{
    const struct dt_result *r = arg;
    const struct dt_case *c = r->c;
    const size_t dim = (size_t)c->dim, size = sizeof(float);
    const struct rows dt = make_rows(in->T, c->dim, c->aligned, 0, 0);
    struct matrix w = pack(be, c->dtype, c->dim, c->rank, c->w);
    float *steps = check_lend(be, dt.x, dt.n * size);
    const float *bc = show(be, &c->bc);
    const struct linear product = {
        .y = steps,
        .x = c->narrow ? NULL : show(be, &c->r),
        .x_bf16 = c->narrow ? check_show(be, c->r_bf16, c->r.n * sizeof(uint16_t)) : NULL,
        .y_ld = dt.ld,
        .x_ld = c->r.ld,
        .w = &w,
        .bias = check_show(be, c->bias, dim * size),
        .act = ACT_SOFTPLUS,
        .T = in->T
    };
    const struct diagonal_scan scan = {
        .y = c->y ? check_lend(be, r->y, c->out.n * size) : NULL,
        .y_bf16 = c->y_bf16 ? check_lend(be, r->y_bf16, c->out.n * sizeof(uint16_t)) : NULL,
        .x = show(be, &c->x),
        .dt = steps,
        .z = c->gate ? show(be, &c->z) : NULL,
        .B = bc,
        .C = bc + c->N,
        .y_ld = c->out.ld,
        .x_ld = c->x.ld,
        .dt_ld = dt.ld,
        .z_ld = c->z.ld,
        .bc_ld = c->bc.ld,
        .A = check_show(be, c->A, dim * (size_t)c->N * size),
        .D = check_show(be, c->D, dim * size),
        .dim = c->dim,
        .N = c->N,
        .state = lend_states(be, &r->states)
    };

    if (r->parts) {
        be->ops->linear(be->stream, &product, 1);
        be->ops->diagonal_scan(be->stream, in, &scan);
    } else {
        be->ops->dt_scan(be->stream, in, &(struct dt_scan){ product, scan });
    }
    check_return(be);
    be->free(be, w.data);
}

static struct dt_result dt_result_of(struct backend *be, const struct dt_case *c, bool parts)
{
    struct dt_result r = { .c = c,
                           .parts = parts,
                           .y = copy_of(c->out.x, c->out.n),
                           .states = copy_of_states(&c->states),
                           .y_bf16 = check_memory(c->out.n * sizeof(uint16_t)) };

    memset(r.y_bf16, 0, c->out.n * sizeof(uint16_t));
    run_on(be, &c->l, run_dt_scan, &r);
    return r;
}

/* |h| settles below |B x / A|, 1 on average, and the gate is below 3. A step size is off by the
 * rounding of its sum, whose terms add up to a fortieth of the rank; it moves a decay and what
 * is added by up to 4 times as much. */
static double dt_tolerance(const struct dt_case *c)
{
    const double steps = check_tolerance(c->rank, c->rank / 40.0 + 4);

    return check_tolerance(c->N + 8.0 * c->l.longest, 3.0 * c->N) + 3.0 * c->N * 4 * steps;
}

static void check_rounded(const char *what, const struct dt_case *c, const struct dt_result *r)
{
    for (int t = 0; t < c->l.in.T; t++)
        for (int j = 0; j < c->dim; j++) {
            const size_t i = (size_t)t * c->out.ld + (size_t)j;

            if (r->y_bf16[i] != f32_to_bf16(r->y[i]))
                fail_msg("%s: row %d, channel %d is not rounded", what, t, j);
        }
}

/* Rows as floats, whichever were written. */
static const float *written(const struct dt_case *c, const struct dt_result *r)
{
    float *y = copy_of(r->y, c->out.n);

    if (!c->y)
        for (size_t i = 0; i < c->out.n; i++)
            y[i] = bf16_to_f32(r->y_bf16[i]);
    return y;
}

static void a_scan_makes_its_own_step_sizes(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 120; k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct dt_case c = make_dt_case(be->bf16_rows);
                const struct dt_result a = dt_result_of(be, &c, false),
                                       b = dt_result_of(plain, &c, true);
                const double tolerance = dt_tolerance(&c);

                check_states("dt_scan: state", &a.states, &b.states, tolerance);
                /* a rounded number is off by 2^-9, and the largest is below 64 */
                check_close("dt_scan", written(&c, &a), written(&c, &b),
                            (size_t)c.l.in.T * c.out.ld, tolerance + (c.y ? 0 : 0x1p-2));
                if (c.y && c.y_bf16)
                    check_rounded("dt_scan", &c, &a);
            }
            check_release(NULL);
        }
    }
}

/* A state and its decays. */
struct state_case {
    struct layout l;
    int H, V, K, groups;
    bool aligned;
    struct rows raw, kq, v, out;
    float *bias, *A, *skip;
    struct states states;
};

struct state_result {
    const struct state_case *c;
    bool parts; /* made by the parts, one after the other */
    float *y;
    struct states states;
};

static struct state_case make_state_case(void)
{
    static const int sizes[][2] = { { 64, 128 }, { 64, 128 }, { 64, 64 }, { 128, 64 },
                                    { 24, 128 }, { 64, 32 },  { 7, 5 } };
    const int *VK = sizes[check_int(0, 6)], S = check_int(0, 3) ? check_int(1, 6) : 40;
    const int shape = check_int(0, 5);
    struct state_case c = { .l = make_layout(S, shape == 0   ? RAGGED
                                                : shape == 1 ? BESIDE
                                                             : ONE_EACH),
                            .V = VK[0],
                            .K = VK[1],
                            .groups = check_int(1, 2),
                            .aligned = check_int(0, 3) > 0 };
    const int T = c.l.in.T;

    c.H = c.groups * check_int(1, 4);
    c.raw = make_rows(T, c.H, c.aligned, -8, 3);
    c.kq = make_rows(T, 2 * c.groups * c.K, c.aligned, -1, 1);
    c.v = make_rows(T, c.H * c.V, c.aligned, -1, 1);
    c.out = make_rows(T, c.H * c.V, c.aligned, 0, 1);
    c.bias = check_floats((size_t)c.H, -1, 1);
    c.A = check_floats((size_t)c.H, -4, -1);
    c.skip = check_floats((size_t)c.H, -1, 1);
    c.states = make_states((size_t)(c.H * c.V * c.K + 3) / 4 * 4 + (c.aligned ? 4 : 1), c.l.slots,
                           check_int(0, 1));
    return c;
}

static void run_scalar_state(struct backend *be, const struct batch *in, void *arg)
{
    const struct state_result *r = arg;
    const struct state_case *c = r->c;
    const size_t H = (size_t)c->H, size = sizeof(float), gates = (size_t)in->T * H;
    const float *kq = show(be, &c->kq);
    float *dt = check_lend(be, check_floats(gates, 0, 0), gates * size);
    float *decay = check_lend(be, check_floats(gates, 0, 0), gates * size);
    const struct decay_gates g = { .dt = dt,
                                   .decay = decay,
                                   .raw = show(be, &c->raw),
                                   .raw_ld = c->raw.ld,
                                   .bias = check_show(be, c->bias, H * size),
                                   .A = check_show(be, c->A, H * size),
                                   .T = in->T,
                                   .H = c->H,
                                   .lo = 0.001f,
                                   .hi = 2.0f };
    const struct matrix_state s = { .y = check_lend(be, r->y, c->out.n * size),
                                    .w = decay,
                                    .k = kq,
                                    .q = kq + c->groups * c->K,
                                    .v = show(be, &c->v),
                                    .y_ld = c->out.ld,
                                    .w_ld = H,
                                    .kq_ld = c->kq.ld,
                                    .v_ld = c->v.ld,
                                    .v_scale = dt,
                                    .skip = check_show(be, c->skip, H * size),
                                    .w_per_head = true,
                                    .H = c->H,
                                    .V = c->V,
                                    .K = c->K,
                                    .k_heads = c->groups,
                                    .state = lend_states(be, &r->states) };

    if (r->parts) {
        be->ops->decay_gates(be->stream, &g);
        be->ops->matrix_state(be->stream, in, &s);
    } else {
        be->ops->scalar_state(be->stream, in, &(struct scalar_state){ g, s });
    }
}

static struct state_result state_result_of(struct backend *be, const struct state_case *c,
                                           bool parts)
{
    struct state_result r = { .c = c,
                              .parts = parts,
                              .y = copy_of(c->out.x, c->out.n),
                              .states = copy_of_states(&c->states) };

    run_on(be, &c->l, run_scalar_state, &r);
    return r;
}

/* What a step adds is dt |v k| <= 2 and what it keeps is exp(dt A) <= exp(-dt): together below
 * dt / (1 - exp(-dt)) < 3. A gate of a few roundings moves it by as many units. */
static void a_state_makes_its_own_decays(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 80; k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct state_case c = make_state_case();
                const struct state_result a = state_result_of(be, &c, false),
                                          b = state_result_of(plain, &c, true);
                const double terms = c.K + 8.0 * c.l.longest;

                check_states("scalar_state: state", &a.states, &b.states,
                             check_tolerance(terms, 3));
                check_close("scalar_state", a.y, b.y, (size_t)c.l.in.T * c.out.ld,
                            check_tolerance(terms, 3.0 * c.K));
            }
            check_release(NULL);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_scan_makes_its_own_step_sizes, check_release),
        cmocka_unit_test_teardown(a_state_makes_its_own_decays, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
