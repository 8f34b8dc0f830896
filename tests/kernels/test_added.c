/* test_added.c - norms whose rows a product completes first (norm.added), alone and with the token
 * shift behind them, against their definitions: sizes that a device leaves in pieces and those that
 * it does not, slots out of order, float32 rows and those of bf16. */
#include "check.h"

#include <string.h>

#include "config/error.h"

enum { T_MAX = 300, MIXES_MAX = 6 };

/* T sequences of a row each. What a product reads are numbers of bf16, so that products are exact
 * however they are taken. */
struct added_case {
    int T, dim, cols, mixes; /* mixes 0: no shift */
    enum norm_kind kind;
    enum dtype dtype;
    bool narrow, bias, weight;
    size_t x_ld, in_ld;
    int begin[T_MAX + 1], slot[T_MAX];
    float *x, *in, *w, *product_bias, *norm_weight, *norm_bias, *mu, *state;
    uint16_t *in_bf16;
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

static void shuffle(int *slot, int n)
{
    for (int i = 0; i < n; i++) {
        const int other = check_int(0, i);

        slot[i] = slot[other];
        slot[other] = i;
    }
}

static struct added_case make_case(bool bf16_rows)
{
    const bool fit = check_int(0, 3) > 0;
    struct added_case c = { .T = check_int(0, 2) ? check_int(1, 70) : check_int(1, T_MAX),
                            .dim = fit ? 128 * check_int(1, 12) : check_int(1, 300),
                            .cols = fit ? 64 * check_int(1, 40) : check_int(1, 600),
                            .mixes = check_int(0, 1) * check_int(1, MIXES_MAX),
                            .kind = check_int(0, 1) ? NORM_LAYER : NORM_RMS,
                            .dtype = check_int(0, 3) ? DTYPE_BF16 : DTYPE_F32,
                            .bias = check_int(0, 1),
                            .weight = check_int(0, 3) > 0 };
    const size_t dim = (size_t)c.dim, weights = dim * (size_t)c.cols;
    uint16_t *w_bf16 = check_memory(weights * sizeof(*w_bf16));

    c.narrow = bf16_rows && c.dtype == DTYPE_BF16 && check_int(0, 3);
    c.x_ld = fit ? dim + (size_t)check_int(0, 1) * 4 : dim + 3;
    c.in_ld = fit ? (size_t)c.cols : (size_t)c.cols + 3;
    c.x = check_floats((size_t)c.T * c.x_ld, -2, 2);
    c.in = check_floats((size_t)c.T * c.in_ld, -1, 1);
    c.in_bf16 = check_memory((size_t)c.T * c.in_ld * sizeof(*c.in_bf16));
    make_bf16(c.in, c.in_bf16, (size_t)c.T * c.in_ld);
    c.w = check_floats(weights, -0.1, 0.1);
    make_bf16(c.w, w_bf16, weights);
    c.product_bias = check_floats(dim, -1, 1);
    c.norm_weight = check_floats(dim, -1, 1);
    c.norm_bias = check_floats(dim, -1, 1);
    c.mu = check_floats(MIXES_MAX * dim, 0, 1);
    c.state = check_floats((size_t)c.T * dim, -1, 1);
    for (int t = 0; t < c.T; t++)
        c.begin[t + 1] = t + 1;
    shuffle(c.slot, c.T);
    return c;
}

static struct matrix pack(struct backend *be, const struct added_case *c)
{
    const size_t n = (size_t)c->dim * (size_t)c->cols;
    uint16_t *half = check_memory(n * sizeof(*half));
    struct matrix m;
    struct error err;

    for (size_t i = 0; i < n; i++)
        half[i] = f32_to_bf16(c->w[i]);
    assert_true(be->pack_matrix(be, &m, c->dtype, c->dim, c->cols,
                                c->dtype == DTYPE_F32 ? (const void *)c->w : half, &err));
    return m;
}

static struct added_result run(struct backend *be, const struct added_case *c)
{
    const size_t dim = (size_t)c->dim, T = (size_t)c->T, size = sizeof(float);
    const struct batch host = { .S = c->T, .T = c->T, .begin = c->begin, .slot = c->slot };
    struct added_result r = { .x = copy_of(c->x, T * c->x_ld),
                              .state = copy_of(c->state, T * dim) };
    float *normed = check_memory(T * dim * size),
          *mu = check_lend(be, c->mu, MIXES_MAX * dim * size);
    struct matrix w = pack(be, c);
    float *x = check_lend(be, r.x, T * c->x_ld * size);
    const struct linear product = {
        .y = x,
        .x = c->narrow ? NULL : check_show(be, c->in, T * c->in_ld * size),
        .x_bf16 = c->narrow ? check_show(be, c->in_bf16, T * c->in_ld * sizeof(uint16_t)) : NULL,
        .y_ld = c->x_ld,
        .x_ld = c->in_ld,
        .w = &w,
        .bias = c->bias ? check_show(be, c->product_bias, dim * size) : NULL,
        .add = true,
        .T = c->T
    };

    memset(normed, 0, T * dim * size);
    for (int i = 0; i < MIXES_MAX; i++)
        r.y[i] = check_floats(T * dim, 0, 0);

    struct norm_shift p = {
        .norm = { .kind = c->kind,
                  .added = &product,
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

    if (c->mixes)
        be->ops->norm_shift(be->stream, in, &p);
    else
        be->ops->norm(be->stream, &p.norm);
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
    for (int i = 1; check_backends[i]; i++) {
        for (int k = 0; k < 150; k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct added_case c = make_case(be->bf16_rows);
                const struct added_result a = run(be, &c), b = run(plain, &c);
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
