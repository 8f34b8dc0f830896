/* test_added.c - norms whose rows a product completes first (norm.added), alone and with the token
 * shift behind them, against their parts one after another: sizes that a device leaves in pieces
 * and those that it does not, slots out of order, sequences of no row and of several, float32 rows
 * and those of bf16. */
#include "check.h"

#include <string.h>

#include "config/error.h"

enum { T_MAX = 300, MIXES_MAX = 6 };

/* As many sequences as rows. What a product reads are numbers of bf16, or weights of half, so that
 * products are exact however they are taken; but for an x below 2^-14, which half cuts short. */
struct added_case {
    int T, dim, cols, mixes; /* mixes 0: no shift */
    int bias_at;             /* the first number of product_bias */
    enum norm_kind kind;
    enum dtype dtype;
    bool narrow, bias, weight;
    size_t x_ld, in_ld;
    int begin[T_MAX + 1], slot[T_MAX];
    float *x, *in, *w, *product_bias, *norm_weight, *norm_bias, *mu, *state;
    uint16_t *in_bf16, *w_narrow;
};

/* Everything that is written. */
struct added_result {
    float *x, *y[MIXES_MAX], *state;
};

static float *copy_of(const float *x, size_t n)
{
    return memcpy(check_memory(n * sizeof(*x)), x, n * sizeof(*x));
}

static void make_bf16(float *x, uint16_t *narrow, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_to_f32(narrow[i] = f32_to_bf16(x[i]));
}

/* Weights of half, up to 1/8. */
static void make_f16(float *w, uint16_t *narrow, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        narrow[i] = (uint16_t)(check_int(0, 1) << 15 | check_int(7, 11) << 10 | check_int(0, 1023));
        w[i] = f16_to_f32(narrow[i]);
    }
}

static void shuffle(int *slot, int n)
{
    for (int i = 0; i < n; i++) {
        const int other = check_int(0, i);

        slot[i] = slot[other];
        slot[other] = i;
    }
}

/* Any, or one beside which a device may do something else. */
static int choose_rows(void)
{
    static const int limits[] = { 1, 2, 8, 9, 32, 33, 64, 65, 128, 129, 256, 257 };

    switch (check_int(0, 3)) {
    case 0:
        return check_int(1, T_MAX);
    case 1:
        return limits[check_int(0, sizeof(limits) / sizeof(limits[0]) - 1)];
    default:
        return check_int(1, 70);
    }
}

/* A row for each sequence, or up to three. */
static void share_rows(struct added_case *c)
{
    const bool one_each = check_int(0, 2);

    for (int t = 0; t < c->T; t++) {
        const int left = c->T - c->begin[t], most = left < 3 ? left : 3;

        c->begin[t + 1] = c->begin[t] + (one_each ? 1 : t + 1 == c->T ? left : check_int(0, most));
    }
}

/* More rows of weights than a device takes at once in several pieces. */
static void make_wide(struct added_case *c)
{
    c->T = check_int(9, 64);
    c->dim = 128 * check_int(23, 32);
    c->cols = 64 * check_int(4, 10);
    c->dtype = DTYPE_BF16;
}

/* The bias of the product may lie anywhere. */
static struct added_case make_case(bool bf16_rows)
{
    static const enum dtype dtypes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16 };
    const bool wide = bf16_rows && check_int(0, 9) == 0, fit = wide || check_int(0, 3) > 0;
    struct added_case c = { .T = choose_rows(),
                            .dim = fit ? 128 * check_int(1, 12) : check_int(1, 300),
                            .cols = fit ? 64 * check_int(1, 40) : check_int(1, 600),
                            .mixes = check_int(0, 1) * check_int(1, MIXES_MAX),
                            .kind = check_int(0, 1) ? NORM_LAYER : NORM_RMS,
                            .dtype = dtypes[check_int(0, 4)],
                            .bias_at = check_int(0, 7) ? 0 : 1,
                            .bias = check_int(0, 1),
                            .weight = check_int(0, 3) > 0 };

    if (wide)
        make_wide(&c);

    const size_t dim = (size_t)c.dim, weights = dim * (size_t)c.cols;

    c.narrow = bf16_rows && c.dtype == DTYPE_BF16 && check_int(0, 3);
    c.x_ld = fit ? dim + (size_t)check_int(0, 1) * 4 : dim + 3;
    c.in_ld = fit ? (size_t)c.cols : (size_t)c.cols + 3;
    c.x = check_floats((size_t)c.T * c.x_ld, -2, 2);
    c.in = check_floats((size_t)c.T * c.in_ld, -1, 1);
    c.in_bf16 = check_memory((size_t)c.T * c.in_ld * sizeof(*c.in_bf16));
    make_bf16(c.in, c.in_bf16, (size_t)c.T * c.in_ld);
    c.w = check_floats(weights, -0.1, 0.1);
    c.w_narrow = check_memory(weights * sizeof(*c.w_narrow));
    if (c.dtype == DTYPE_F16)
        make_f16(c.w, c.w_narrow, weights);
    else
        make_bf16(c.w, c.w_narrow, weights);
    c.product_bias = check_floats(dim + 1, -1, 1);
    c.norm_weight = check_floats(dim, -1, 1);
    c.norm_bias = check_floats(dim, -1, 1);
    c.mu = check_floats(MIXES_MAX * dim, 0, 1);
    c.state = check_floats((size_t)c.T * dim, -1, 1);
    share_rows(&c);
    shuffle(c.slot, c.T);
    return c;
}

static struct matrix pack(struct backend *be, const struct added_case *c)
{
    struct matrix m;
    struct error err;

    assert_true(be->pack_matrix(be, &m, c->dtype, c->dim, c->cols,
                                c->dtype == DTYPE_F32 ? (const void *)c->w : c->w_narrow, &err));
    return m;
}

/* As one operation, or by its parts. */
static struct added_result run(struct backend *be, const struct added_case *c, bool parts)
{
    const size_t dim = (size_t)c->dim, T = (size_t)c->T, size = sizeof(float);
    const struct batch host = { .S = c->T, .T = c->T, .begin = c->begin, .slot = c->slot };
    struct added_result r = { .x = copy_of(c->x, T * c->x_ld),
                              .state = copy_of(c->state, T * dim) };
    float *normed = check_memory(T * dim * size),
          *mu = check_lend(be, c->mu, MIXES_MAX * dim * size);
    struct matrix w = pack(be, c);
    float *x = check_lend(be, r.x, T * c->x_ld * size);
    const float *bias = check_show(be, c->product_bias, (dim + 1) * size);
    const struct linear product = {
        .y = x,
        .x = c->narrow ? NULL : check_show(be, c->in, T * c->in_ld * size),
        .x_bf16 = c->narrow ? check_show(be, c->in_bf16, T * c->in_ld * sizeof(uint16_t)) : NULL,
        .y_ld = c->x_ld,
        .x_ld = c->in_ld,
        .w = &w,
        .bias = c->bias ? bias + c->bias_at : NULL,
        .add = true,
        .T = c->T
    };

    memset(normed, 0, T * dim * size);
    for (int i = 0; i < MIXES_MAX; i++)
        r.y[i] = check_floats(T * dim, 0, 0);

    struct norm_shift p = {
        .norm = { .kind = c->kind,
                  .added = parts ? NULL : &product,
                  .y = check_lend(be, c->mixes ? normed : r.y[0], T * dim * size),
                  .x = x,
                  .y_ld = dim,
                  .x_ld = c->x_ld,
                  .weight = c->weight ? check_show(be, c->norm_weight, dim * size) : NULL,
                  .bias = c->bias ? check_show(be, c->norm_bias, dim * size) : NULL,
                  .T = c->T,
                  .dim = c->dim,
                  .groups = 1,
                  .eps = 1e-5f },
        .shift = { .n = c->mixes, .dim = c->dim },
    };

    p.shift.x = p.norm.y;
    p.shift.state.base = check_lend(be, r.state, T * dim * size);
    p.shift.state.stride = dim;
    for (int i = 0; i < c->mixes; i++) {
        p.shift.y[i] = check_lend(be, r.y[i], T * dim * size);
        p.shift.mu[i] = mu + (size_t)i * dim;
    }

    const struct batch *in = check_begin(be, &host);

    if (parts)
        be->ops->linear(be->stream, &product, 1);
    if (parts || !c->mixes)
        be->ops->norm(be->stream, &p.norm);
    if (parts && c->mixes)
        be->ops->token_shift(be->stream, in, &p.shift);
    else if (c->mixes)
        be->ops->norm_shift(be->stream, in, &p);
    check_end(be);
    check_return(be);
    be->free(be, w.data);
    return r;
}

/* The deviation of a row is above 1 here, but for rows of few numbers: those are as sure as their
 * product, which is exact but for the order of the sum. */
static void rows_are_complete_before_they_are_normed(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < check_cases(check_backends[i], 150); k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct added_case c = make_case(be->bf16_rows);
                const struct added_result a = run(be, &c, false), b = run(plain, &c, true);
                const size_t n = (size_t)c.T * (size_t)c.dim;
                const double sum = check_tolerance(c.cols, c.cols / 20.0 + 4);
                const double tolerance = check_tolerance(c.dim, 24) + 8 * sum;

                check_close("added: x", a.x, b.x, (size_t)c.T * c.x_ld, sum);
                if (c.dim >= 100)
                    for (int m = 0; m < MIXES_MAX; m++)
                        check_close("added: y", a.y[m], b.y[m], n, tolerance);
                if (c.dim >= 100)
                    check_close("added: state", a.state, b.state, n, tolerance);
            }
            check_release(NULL);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(rows_are_complete_before_they_are_normed, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
