/* test_scan_inputs.c - what leads into the scan of Mamba against its definition: random sizes,
 * those that a device takes as one kernel and those that it does not, slots out of order, sequences
 * that only fill a batch, float32 rows and those of bf16. */
#include "check.h"

#include <math.h>
#include <string.h>

#include "fused.h"

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

enum { MANY = 136 };

/* In half of the cases as many as a device has a kernel for, if they are of one row each; seldom
 * many. */
static int choose_sequences(void)
{
    const int kind = check_int(0, 7);

    if (kind == 0)
        return check_int(MANY, S_MAX);
    return kind > 3 ? check_int(9, 64) : kind > 1 ? check_int(1, 24) : check_int(1, MANY);
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
    const int S = choose_sequences();
    const bool fit = check_int(0, 5) > 0, few = S < MANY;
    const bool large = few && fit && check_int(0, bf16_rows ? 2 : 7) == 0;
    const bool aligned = fit || check_int(0, 1), deep = few && bf16_rows && check_int(0, 1);
    const enum shape shape = large || check_int(0, 5) ? ONE_EACH : RAGGED;
    struct inputs_case c = { .l = make_layout(S, shape),
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_leads_into_the_scan, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
