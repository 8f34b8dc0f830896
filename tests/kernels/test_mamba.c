/* test_mamba.c - the fused operations of Mamba and Mamba-2 against their definitions: random
 * sizes, those that a device takes as one kernel and those that it does not, slots out of
 * order, sequences that only fill a batch, float32 rows and those of bf16, states of either. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/error.h"

enum { S_MAX = 200, EXTRA = 2, LONG_MAX = 700 };

/* A batch with slots out of order; where a backend knows them, its last sequence is padding. */
struct layout {
    struct batch in;
    int begin[S_MAX + 2], slot[S_MAX + 1], slots, longest;
};

/* How many rows its sequences have: as many as there are sequences, or any number in all; or many
 * in the first. */
enum shape { ONE_EACH, ALL_OF_ONE, RAGGED, LONG };

static struct layout make_layout(int S, enum shape shape)
{
    struct layout l = { .slots = S + EXTRA, .in = { .S = S } };
    const int one = check_int(0, S - 1);

    for (int s = 0; s < S; s++) {
        const int rows = shape == ONE_EACH ? 1
                         : shape == RAGGED ? check_int(0, 3)
                         : shape == LONG   ? check_int(0, s ? 3 : LONG_MAX)
                         : s == one        ? S
                                           : 0;

        l.slot[s] = S + EXTRA - 1 - s;
        l.begin[s + 1] = l.begin[s] + rows;
        l.longest = rows > l.longest ? rows : l.longest;
    }
    for (int s = S - 1; s > 0; s--) {
        const int other = check_int(0, s), slot = l.slot[s];

        l.slot[s] = l.slot[other];
        l.slot[other] = slot;
    }
    l.begin[S] += l.begin[S] == 0;
    l.in.T = l.begin[S];
    return l;
}

/* The batch with one more sequence of one row and no slot. */
static struct batch padded(const struct layout *l, struct layout *with)
{
    *with = *l;
    with->in.begin = with->begin;
    with->in.slot = with->slot;
    with->slot[l->in.S] = SLOT_NONE;
    with->begin[l->in.S + 1] = l->in.T + 1;
    with->in.S++;
    with->in.T++;
    return with->in;
}

/* Rows of `width` numbers, one more than the batch has. */
struct rows {
    float *x;
    size_t ld, n;
};

static struct rows make_rows(int T, int width, bool aligned, double lo, double hi)
{
    struct rows r = { .ld = aligned ? (size_t)(width + 7) / 8 * 8 + 8 : (size_t)width + 3 };

    r.n = (size_t)(T + 1) * r.ld;
    r.x = check_floats(r.n, lo, hi);
    return r;
}

static const float *show(struct backend *be, const struct rows *r)
{
    return check_show(be, r->x, r->n * sizeof(float));
}

static float *copy_of(const float *x, size_t n)
{
    float *copy = check_memory(n * sizeof(*copy));

    memcpy(copy, x, n * sizeof(*copy));
    return copy;
}

/* Records of states; narrow: numbers of bf16, which are lent as such. */
struct states {
    float *x;
    uint16_t *narrow; /* or NULL */
    size_t n, record;
};

static struct states make_states(size_t record, int slots, bool narrow)
{
    struct states s = { .n = record * (size_t)slots, .record = record };

    s.x = check_floats(s.n, -1, 1);
    if (!narrow)
        return s;
    s.narrow = check_memory(s.n * sizeof(*s.narrow));
    for (size_t i = 0; i < s.n; i++)
        s.x[i] = bf16_to_f32(s.narrow[i] = f32_to_bf16(s.x[i]));
    return s;
}

static struct states copy_of_states(const struct states *s)
{
    struct states copy = { .x = copy_of(s->x, s->n), .n = s->n, .record = s->record };

    if (s->narrow)
        copy.narrow =
            memcpy(check_memory(s->n * sizeof(*s->narrow)), s->narrow, s->n * sizeof(*s->narrow));
    return copy;
}

static struct field lend_states(struct backend *be, const struct states *s)
{
    struct field f = { .stride = s->record, .place = 4096 };

    if (s->narrow)
        f.bf16 = check_lend(be, s->narrow, s->n * sizeof(*s->narrow));
    else
        f.base = check_lend(be, s->x, s->n * sizeof(*s->x));
    return f;
}

/* What a sum in another order may move rounds to the other neighbour now and then, 2^-7 of a
 * number away; with other random bits it would be every third. */
static void check_states(const char *what, const struct states *got, const struct states *want,
                         double tolerance)
{
    size_t other = 0;

    for (size_t i = 0; i < got->n; i++) {
        const double a = (double)(got->narrow ? bf16_to_f32(got->narrow[i]) : got->x[i]);
        const double b = (double)(got->narrow ? bf16_to_f32(want->narrow[i]) : want->x[i]);
        const double step = got->narrow ? 0x1p-7 * fabs(b) : 0;

        if (!(fabs(a - b) <= tolerance + step))
            fail_msg("%s: [%zu] is %.9g and %.9g, tolerance %.3g", what, i, a, b, tolerance + step);
        other += a != b;
    }
    if (got->narrow && other > 20 + got->n / 20)
        fail_msg("%s: %zu of %zu numbers are other neighbours", what, other, got->n);
}

static void run_on(struct backend *be, const struct layout *l,
                   void (*run)(struct backend *be, const struct batch *in, void *arg), void *arg)
{
    struct layout with;
    struct batch in = l->in;

    in.begin = l->begin;
    in.slot = l->slot;
    if (strcmp(be->name, "cuda") == 0 && check_int(0, 1))
        in = padded(l, &with);
    run(be, check_begin(be, &in), arg);
    check_end(be);
    check_return(be);
}

/* Weights that are numbers of bf16, as a matrix of either type. */
static struct matrix pack(struct backend *be, enum dtype dtype, int rows, int cols, const float *w)
{
    const size_t n = (size_t)rows * (size_t)cols;
    uint16_t *half = check_memory(n * sizeof(*half));
    struct matrix m;
    struct error err;

    for (size_t i = 0; i < n; i++)
        half[i] = f32_to_bf16(w[i]);
    assert_true(be->pack_matrix(be, &m, dtype, rows, cols,
                                dtype == DTYPE_F32 ? (const void *)w : half, &err));
    return m;
}

static float *make_weights(int rows, int cols)
{
    const size_t n = (size_t)rows * (size_t)cols;
    float *w = check_floats(n, -0.1, 0.1);

    for (size_t i = 0; i < n; i++)
        w[i] = bf16_to_f32(f32_to_bf16(w[i]));
    return w;
}

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
    const bool is_long = check_int(0, 3) == 0;
    const int S = check_int(0, 2) ? check_int(1, 9) : check_int(1, S_MAX);
    struct dt_case c = { .l = is_long ? make_layout(check_int(1, 2), LONG) : make_layout(S, shape),
                         .dim = fit ? 32 * check_int(1, 5) : check_int(1, 100),
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

/* What leads into a scan: two products of u, which are c_in and z, c_in convolved, and the product
 * of what comes of that. */
struct inputs_case {
    struct layout l;
    int hidden, dim, W, rows;
    enum dtype dtype;
    bool narrow, silu, y, y_bf16;
    struct rows u, c_in, z, c, out; /* c_in: scratch; c: what the convolution makes */
    uint16_t *u_bf16;               /* u, where that is narrow */
    float *w_in[2], *add_in[2];     /* of c_in and z */
    float *taps, *shift, *w, *add;  /* shift, add, add_in: or NULL */
    struct states states;
};

struct inputs_result {
    const struct inputs_case *c;
    bool parts; /* made by the parts, one after the other */
    float *z, *rows, *y;
    uint16_t *y_bf16;
    struct states states;
};

/* In half of the cases as many as a device has a kernel for, if they are of one row each. */
static int choose_sequences(void)
{
    const int kind = check_int(0, 3);

    return kind > 1 ? check_int(9, 64) : kind ? check_int(1, 24) : check_int(1, 136);
}

/* Large: as many channels as Mamba 2.8B has, or about as many. */
static int choose_dim(bool fit, bool large)
{
    if (large)
        return check_int(0, 1) ? 5120 : 64 * check_int(66, 84);
    return fit ? 64 * check_int(1, 24) : check_int(1, 200);
}

/* Deep: more than a device has the room to ask for at once; else few, as the definition is slow. */
static int choose_hidden(bool fit, bool large, bool deep)
{
    const int most = large ? 3 : 6;

    if (!fit)
        return check_int(1, 200);
    if (deep)
        return 64 * check_int(7, 30);
    return check_int(0, 3) ? 64 * check_int(1, most) : 8 * check_int(1, 8 * most);
}

static float *maybe_floats(int n, bool there)
{
    return there ? check_floats((size_t)n, -1, 1) : NULL;
}

/* Rounds rows that are given as numbers of bf16. */
static uint16_t *narrowed(struct rows *r)
{
    uint16_t *narrow = check_memory(r->n * sizeof(*narrow));

    for (size_t i = 0; i < r->n; i++)
        r->x[i] = bf16_to_f32(narrow[i] = f32_to_bf16(r->x[i]));
    return narrow;
}

/* Sizes that fit, some of them large, more of them where a device has a kernel for that, or any. */
static struct inputs_case make_inputs_case(bool bf16_rows)
{
    const bool fit = check_int(0, 5) > 0, large = fit && check_int(0, bf16_rows ? 2 : 7) == 0;
    const bool aligned = fit || check_int(0, 1), deep = bf16_rows && check_int(0, 1);
    const enum shape shape = large || check_int(0, 5) ? ONE_EACH : RAGGED;
    struct inputs_case c = { .l = make_layout(choose_sequences(), shape),
                             .hidden = choose_hidden(fit, large, deep),
                             .dim = choose_dim(fit, large),
                             .W = check_int(0, 15) ? 4 : check_int(2, 6),
                             .rows = fit ? 16 * check_int(1, check_int(0, 3) ? 12 : 18)
                                         : check_int(1, 70),
                             .dtype = check_int(0, 15) ? DTYPE_BF16 : DTYPE_F32,
                             .silu = check_int(0, 15) > 0,
                             .y = check_int(0, 2) > 0 };
    const int T = c.l.in.T;
    const size_t dim = (size_t)c.dim;

    c.narrow = bf16_rows && c.dtype == DTYPE_BF16 && check_int(0, 9) > 0;
    c.y_bf16 = bf16_rows && (!c.y || check_int(0, 1));
    c.y = c.y || !c.y_bf16;
    c.u = make_rows(T, c.hidden, aligned, -1, 1);
    c.u_bf16 = c.narrow ? narrowed(&c.u) : NULL;
    c.c_in = make_rows(T, c.dim, aligned, 0, 1);
    c.z = make_rows(T, c.dim, aligned, 0, 1);
    c.c = make_rows(T, c.dim, aligned, 0, 1);
    c.out = make_rows(T, c.rows, aligned, 0, 1);
    for (int i = 0; i < 2; i++) {
        c.w_in[i] = make_weights(c.dim, c.hidden);
        c.add_in[i] = maybe_floats(c.dim, check_int(0, 1));
    }
    c.taps = check_floats(dim * (size_t)c.W, -1, 1);
    c.shift = maybe_floats(c.dim, check_int(0, 3) > 0);
    c.w = make_weights(c.rows, c.dim);
    c.add = maybe_floats(c.rows, check_int(0, 1));
    c.states =
        make_states((dim * (size_t)(c.W - 1) + 3) / 4 * 4 + (aligned ? 4 : 1), c.l.slots, false);
    return c;
}

/* The weights of the first products and of the last one. */
struct inputs_weights {
    struct matrix in[2], out;
};

static struct scan_inputs lend_inputs(struct backend *be, const struct inputs_result *r, int T,
                                      const struct inputs_weights *w, float *c_in)
{
    const struct inputs_case *c = r->c;
    const size_t dim = (size_t)c->dim, size = sizeof(float), half = sizeof(uint16_t);
    const struct linear in = { .y = c_in,
                               .x = c->narrow ? NULL : show(be, &c->u),
                               .x_bf16 = check_show(be, c->u_bf16, c->u.n * half),
                               .y_ld = c->c_in.ld,
                               .x_ld = c->u.ld,
                               .w = &w->in[0],
                               .bias = check_show(be, c->add_in[0], dim * size),
                               .T = T };
    const struct short_conv conv = {
        .y = check_lend(be, r->rows, c->c.n * size),
        .y_bf16 = c->narrow ? check_lend(be, check_memory(c->c.n * half), c->c.n * half) : NULL,
        .x = c_in,
        .y_ld = c->c.ld,
        .x_ld = c->c_in.ld,
        .weight = check_show(be, c->taps, dim * (size_t)c->W * size),
        .bias = check_show(be, c->shift, dim * size),
        .dim = c->dim,
        .W = c->W,
        .silu = c->silu,
        .state = lend_states(be, &r->states)
    };
    struct scan_inputs p = {
        .in = { in, in },
        .conv = conv,
        .product = { .y = c->y ? check_lend(be, r->y, c->out.n * size) : NULL,
                     .y_bf16 = c->y_bf16 ? check_lend(be, r->y_bf16, c->out.n * half) : NULL,
                     .x = c->narrow ? NULL : conv.y,
                     .x_bf16 = conv.y_bf16,
                     .y_ld = c->out.ld,
                     .x_ld = c->c.ld,
                     .w = &w->out,
                     .bias = check_show(be, c->add, (size_t)c->rows * size),
                     .T = T }
    };

    p.in[1].y = check_lend(be, r->z, c->z.n * size);
    p.in[1].y_ld = c->z.ld;
    p.in[1].w = &w->in[1];
    p.in[1].bias = check_show(be, c->add_in[1], dim * size);
    return p;
}

/* Two of them, one right behind the other and with the same scratch rows; the parts but once. */
static void run_scan_inputs(struct backend *be, const struct batch *in, void *arg)
{
    const struct inputs_result *r = arg;
    const struct inputs_case *c = r->c;
    struct inputs_weights w = { .in = { pack(be, c->dtype, c->dim, c->hidden, c->w_in[0]),
                                        pack(be, c->dtype, c->dim, c->hidden, c->w_in[1]) },
                                .out = pack(be, c->dtype, c->rows, c->dim, c->w) };
    float *c_in = check_lend(be, c->c_in.x, c->c_in.n * sizeof(float));
    const struct scan_inputs p = lend_inputs(be, &r[0], in->T, &w, c_in);

    if (r->parts) {
        be->ops->linear(be->stream, p.in, 2);
        be->ops->short_conv(be->stream, in, &p.conv);
        be->ops->linear(be->stream, &p.product, 1);
    } else {
        const struct scan_inputs again = lend_inputs(be, &r[1], in->T, &w, c_in);

        be->ops->scan_inputs(be->stream, in, &p);
        be->ops->join(be->stream);
        be->ops->scan_inputs(be->stream, in, &again);
        be->ops->join(be->stream);
    }
    check_return(be);
    be->free(be, w.in[0].data);
    be->free(be, w.in[1].data);
    be->free(be, w.out.data);
}

static struct inputs_result make_inputs_result(const struct inputs_case *c, bool parts)
{
    return (struct inputs_result){ .c = c,
                                   .parts = parts,
                                   .z = copy_of(c->z.x, c->z.n),
                                   .rows = copy_of(c->c.x, c->c.n),
                                   .y = copy_of(c->out.x, c->out.n),
                                   .y_bf16 = check_memory(c->out.n * sizeof(uint16_t)),
                                   .states = copy_of_states(&c->states) };
}

/* Of c_in and z, as in test_linear.c, where a weight may be ten times as large. */
static double inputs_tolerance(const struct backend *be, const struct inputs_case *c)
{
    const double cols = c->hidden;
    const bool rounds = !check_is_exact(be) && c->dtype != DTYPE_F32 && !c->narrow;

    return check_tolerance(cols, cols / 30 + 2) + (rounds ? 6 * sqrt(cols) * 0x1p-9 / 30 : 0);
}

/* Of the rows of a convolution whose inputs are c_in. Those are sums of products whose square mean
 * is 1/900, below 6 standard deviations, with a bias below 1, as are the inputs of old. A tap is
 * below 1, and silu's slope below 1.1. */
static double rows_tolerance(const struct inputs_case *c, double c_in)
{
    const double largest = 1 + 6 * sqrt(c->hidden) / 30;

    return check_tolerance(c->W, c->W * largest + 1) + 1.1 * c->W * c_in;
}

/* An input that a state held before has only moved. */
static void check_inputs_of_states(const struct inputs_case *c, const struct inputs_result *got,
                                   const struct inputs_result *want, double tolerance)
{
    const size_t dim = (size_t)c->dim;
    float *old = copy_of(want->states.x, c->states.n);

    for (int s = 0; s < c->l.in.S; s++) {
        const int held = c->W - 1, rows = c->l.begin[s + 1] - c->l.begin[s];
        const int made = rows < held ? rows : held;
        const size_t n = (size_t)made * dim;
        const size_t at = (size_t)c->l.slot[s] * c->states.record + (size_t)(held - made) * dim;

        check_close("scan_inputs: new in a state", &got->states.x[at], &want->states.x[at], n,
                    tolerance);
        memcpy(&old[at], &got->states.x[at], n * sizeof(*old));
    }
    check_equal("scan_inputs: old in a state", got->states.x, old, c->states.n);
}

/* What the definition makes of the rows that were made, and the largest sum of absolute values
 * behind one of its numbers. */
static float *product_of(const struct inputs_case *c, struct backend *plain, const float *rows,
                         double *magnitude)
{
    float *x = copy_of(rows, c->c.n), *y = copy_of(c->out.x, c->out.n);
    struct matrix w = pack(plain, c->dtype, c->rows, c->dim, c->w);

    *magnitude = 0;
    for (int t = 0; t < c->l.in.T; t++) {
        double sum = 1;

        for (int j = 0; j < c->dim; j++) {
            float *number = &x[(size_t)t * c->c.ld + (size_t)j];

            *number = c->narrow ? bf16_to_f32(f32_to_bf16(*number)) : *number;
            sum += 0.1 * fabs((double)*number);
        }
        *magnitude = sum > *magnitude ? sum : *magnitude;
    }
    plain->ops->linear(plain->stream,
                       &(struct linear){ .y = y,
                                         .x = x,
                                         .y_ld = c->out.ld,
                                         .x_ld = c->c.ld,
                                         .w = &w,
                                         .bias = c->add,
                                         .T = c->l.in.T },
                       1);
    plain->free(plain, w.data);
    return y;
}

/* Rows that are not bf16 may be rounded on their way into a product on a device, each by up to 2^-9
 * of itself. */
static void check_product(const struct inputs_case *c, const struct inputs_result *r,
                          struct backend *plain)
{
    double magnitude;
    const float *y = product_of(c, plain, r->rows, &magnitude);
    const double rounding = c->narrow ? 0 : 0x1p-9 * magnitude;
    const double tolerance = check_tolerance(c->dim, magnitude) + rounding;

    for (int t = 0; t < c->l.in.T; t++)
        for (int j = 0; j < c->rows; j++) {
            const size_t i = (size_t)t * c->out.ld + (size_t)j;
            const float got = c->y ? r->y[i] : bf16_to_f32(r->y_bf16[i]);
            const double off = fabs((double)got - (double)y[i]);

            if (!(off <= tolerance + (c->y ? 0 : 0x1p-8 * fabs((double)y[i]))))
                fail_msg("scan_inputs: row %d, output %d is %.9g, defined as %.9g, tolerance %.3g",
                         t, j, (double)got, (double)y[i], tolerance);
            if (c->y && c->y_bf16 && r->y_bf16[i] != f32_to_bf16(r->y[i]))
                fail_msg("scan_inputs: row %d, output %d is not rounded", t, j);
        }
}

static void check_repeated(const struct inputs_result r[2])
{
    const struct inputs_case *c = r->c;
    const size_t T = (size_t)c->l.in.T;

    check_equal("scan_inputs again: z", r[1].z, r[0].z, T * c->z.ld);
    check_equal("scan_inputs again: rows", r[1].rows, r[0].rows, T * c->c.ld);
    check_equal("scan_inputs again", r[1].y, r[0].y, T * c->out.ld);
    check_equal("scan_inputs again: state", r[1].states.x, r[0].states.x, r->states.n);
    assert_memory_equal(r[1].y_bf16, r[0].y_bf16, T * c->out.ld * sizeof(uint16_t));
}

/* What is multiplied last is what the convolution wrote, to the last bit, so that its own rounding
 * moves no bound of that product's. */
static void what_leads_into_the_scan(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < check_cases(check_backends[i], 120); k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct inputs_case c = make_inputs_case(be->bf16_rows);
                const size_t T = (size_t)c.l.in.T;
                const double tolerance = inputs_tolerance(be, &c);
                struct inputs_result a[] = { make_inputs_result(&c, false),
                                             make_inputs_result(&c, false) };
                struct inputs_result b = make_inputs_result(&c, true);

                run_on(be, &c.l, run_scan_inputs, a);
                run_on(plain, &c.l, run_scan_inputs, &b);
                check_inputs_of_states(&c, a, &b, tolerance);
                check_close("scan_inputs: z", a->z, b.z, T * c.z.ld, tolerance);
                check_close("scan_inputs: rows", a->rows, b.rows, T * c.c.ld,
                            rows_tolerance(&c, tolerance));
                check_product(&c, a, plain);
                check_repeated(a);
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
    struct state_case c = { .l = make_layout(S, check_int(0, 3) ? ONE_EACH : RAGGED),
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
        cmocka_unit_test_teardown(what_leads_into_the_scan, check_release),
        cmocka_unit_test_teardown(a_scan_makes_its_own_step_sizes, check_release),
        cmocka_unit_test_teardown(a_state_makes_its_own_decays, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
