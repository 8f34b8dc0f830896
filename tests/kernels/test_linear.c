/* test_linear.c - matrix products of every backend, held to a float64 sum and, on the CPU, to
 * the promise that a row's result depends on nothing but the row. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/error.h"

/* A random matrix as its exact values and packed. */
struct weight {
    float *exact;
    struct matrix packed;
};

static uint16_t narrow(enum dtype dtype)
{
    /* f16: sign, exponent 2^-8 to 2^-1 and a few subnormals, any fraction */
    if (dtype == DTYPE_F16)
        return (uint16_t)(check_int(0, 1) << 15 | (check_int(0, 9) ? check_int(7, 14) : 0) << 10 |
                          check_int(0, 1023));
    return f32_to_bf16((float)check_uniform(-1, 1));
}

/* How the weights are stored and what becomes of x. */
static const struct kind {
    enum dtype dtype;
    bool round_x;
} kinds[] = {
    { DTYPE_F32, false }, { DTYPE_F16, false }, { DTYPE_BF16, false }, { DTYPE_BF16, true }
};

enum {
    KINDS = sizeof(kinds) / sizeof(kinds[0]),
    GROUP = 8 /* products that share a launch, at most */
};

static struct weight make_weight(struct backend *be, struct kind kind, int rows, int cols)
{
    const enum dtype dtype = kind.dtype;
    const size_t n = (size_t)rows * (size_t)cols, size = dtype_size(dtype);
    struct weight w = { .exact = check_floats(n, -1, 1) };
    char *raw = check_memory(n * size + 1);
    void *src = raw + 1; /* a file's bytes have any alignment */
    struct error err;

    for (size_t i = 0; i < n; i++) {
        uint16_t half = narrow(dtype);

        memcpy(raw + 1 + i * size, dtype == DTYPE_F32 ? (void *)&w.exact[i] : &half, size);
    }
    dtype_to_f32(w.exact, src, dtype, n);
    assert_true(be->pack_matrix(be, &w.packed, dtype, rows, cols, src, &err));
    assert_int_equal(w.packed.rows, rows);
    assert_int_equal(w.packed.cols, cols);
    assert_false(w.packed.round_x);
    w.packed.round_x = kind.round_x && check_is_exact(be); /* a GPU's matrix units round as ever */
    return w;
}

/* The places of a product in memory: rows of odd length, outputs preset. */
struct place {
    float *x, *y, *preset, *bias;
    size_t x_ld, y_ld;
};

static struct place make_place(const struct matrix *w, int T)
{
    struct place at = { .x_ld = (size_t)w->cols + 3, .y_ld = (size_t)w->rows + 5 };

    at.x = check_floats((size_t)T * at.x_ld, -1, 1);
    at.preset = check_floats((size_t)T * at.y_ld, -1, 1);
    at.y = check_memory((size_t)T * at.y_ld * sizeof(float));
    at.bias = check_floats((size_t)w->rows, -1, 1);
    memcpy(at.y, at.preset, (size_t)T * at.y_ld * sizeof(float));
    return at;
}

/* n products on the backend's memory; rows may begin `skew` numbers into what is allocated. */
static void run_skewed(struct backend *be, const struct linear *p, int n, size_t skew)
{
    struct linear on[20];

    assert_true(n <= 20);
    for (int i = 0; i < n; i++) {
        const size_t T = (size_t)p[i].T, rows = (size_t)p[i].w->rows;
        const size_t y_end = skew + (T - 1) * p[i].y_ld + rows;
        const size_t x_end = skew + (T - 1) * p[i].x_ld + (size_t)p[i].w->cols;

        on[i] = p[i];
        if (p[i].y)
            on[i].y = (float *)check_lend(be, p[i].y - skew, y_end * sizeof(float)) + skew;
        if (p[i].y_bf16)
            on[i].y_bf16 = (uint16_t *)check_lend(be, p[i].y_bf16 - skew, y_end * 2) + skew;
        if (p[i].x)
            on[i].x = (const float *)check_show(be, p[i].x - skew, x_end * sizeof(float)) + skew;
        if (p[i].x_bf16)
            on[i].x_bf16 = (const uint16_t *)check_show(be, p[i].x_bf16 - skew, x_end * 2) + skew;
        on[i].bias = check_show(be, p[i].bias, rows * sizeof(float));
    }
    be->ops->linear(be->stream, on, n);
    check_return(be);
}

static void run(struct backend *be, const struct linear *p, int n)
{
    run_skewed(be, p, n, 0);
}

static double exact_activation(enum activation act, double x)
{
    switch (act) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    case ACT_TANH:
        return tanh(x);
    case ACT_RELU2:
        return x > 0 ? x * x : 0;
    case ACT_SOFTPLUS:
        return x > 20 ? x : log1p(exp(x));
    case ACT_NONE:
        break;
    }
    return x;
}

static double exact_output(const struct weight *w, const struct linear *p, const float *preset,
                           int t, int row)
{
    double sum = p->bias ? (double)p->bias[row] : 0.0;

    for (int j = 0; j < w->packed.cols; j++) {
        const size_t at = (size_t)t * p->x_ld + (size_t)j;
        float x = p->x_bf16 ? bf16_to_f32(p->x_bf16[at]) : p->x[at];

        if (w->packed.round_x)
            x = bf16_to_f32(f32_to_bf16(x));
        sum += (double)w->exact[(size_t)row * (size_t)w->packed.cols + (size_t)j] * (double)x;
    }
    sum = exact_activation(p->act, sum);
    return p->add ? sum + (double)preset[(size_t)t * p->y_ld + (size_t)row] : sum;
}

/* |w x| averages 1/4 or less, so that the absolute values of a sum and its bias add up to at
 * most cols / 3 + 1 but for a vanishing chance. An activation's slope is at most 1.1; that of
 * relu^2 is 2 |x|, and sums of independent terms stay below 6 standard deviations. */
static double tolerance_of(const struct backend *be, const struct linear *p)
{
    const double cols = p->w->cols, sum = cols / 3 + 2;
    const double slope = p->act == ACT_RELU2 ? 2 * (1 + 6 * sqrt(cols / 9)) : 1.1;
    double rounding = 0;

    /* A GPU's matrix units take x as narrow as W: each product is off by a relative 2^-9
     * (bf16), independent of the others, so that a sum of products below 1, each 1/3 in the
     * square mean, is within 6 deviations of sqrt(cols) * 2^-9 / 3. */
    if (!check_is_exact(be) && p->w->dtype != DTYPE_F32 && !p->x_bf16)
        rounding = 6 * sqrt(cols) * 0x1p-9 / 3 * slope;
    return check_tolerance(cols, sum * slope) + rounding;
}

static void check_product(struct backend *be, const struct weight *w, int T, enum activation act,
                          bool bias, bool add)
{
    struct place at = make_place(&w->packed, T);
    const struct linear p = { .y = at.y,
                              .x = at.x,
                              .y_ld = at.y_ld,
                              .x_ld = at.x_ld,
                              .w = &w->packed,
                              .bias = bias ? at.bias : NULL,
                              .act = act,
                              .add = add,
                              .T = T };
    char what[128];

    run(be, &p, 1);
    snprintf(what, sizeof(what), "%s %s%s %dx%d T=%d act=%d", be->detail,
             dtype_name(w->packed.dtype), w->packed.round_x ? " by bf16" : "", w->packed.rows,
             w->packed.cols, T, (int)act);
    for (int t = 0; t < T; t++) {
        for (int r = 0; r < w->packed.rows; r++) {
            float want = (float)exact_output(w, &p, at.preset, t, r);

            check_close(what, &at.y[(size_t)t * at.y_ld + (size_t)r], &want, 1,
                        tolerance_of(be, &p));
        }
        check_equal(what, &at.y[(size_t)t * at.y_ld + (size_t)w->packed.rows],
                    &at.preset[(size_t)t * at.y_ld + (size_t)w->packed.rows], 5);
    }
}

/* A product with rows that are bf16, NaN between those it reads. */
static struct linear make_bf16_product(const struct weight *w, int T, enum activation act,
                                       size_t skew)
{
    const size_t rows = (size_t)w->packed.rows, cols = (size_t)w->packed.cols, n = (size_t)T;
    struct linear p = { .w = &w->packed, .act = act, .T = T };

    p.x_ld = check_int(0, 2) ? (cols + 7) / 8 * 8 : cols + 3;
    p.y_ld = check_int(0, 2) ? (rows + 3) / 4 * 4 : rows + 5;
    if (check_int(0, 1))
        p.bias = check_floats(rows, -1, 1);
    if (check_int(0, 3) == 0) {
        p.x = check_floats(skew + (n - 1) * p.x_ld + cols, -1, 1) + skew;
    } else {
        uint16_t *x = (uint16_t *)check_memory((skew + (n - 1) * p.x_ld + cols) * 2) + skew;

        memset(x, 0xff, ((n - 1) * p.x_ld + cols) * 2);
        for (size_t t = 0; t < n; t++)
            for (size_t j = 0; j < cols; j++)
                x[t * p.x_ld + j] = f32_to_bf16((float)check_uniform(-1, 1));
        p.x_bf16 = x;
    }
    if (check_int(0, 2))
        p.y_bf16 = (uint16_t *)check_memory((skew + (n - 1) * p.y_ld + rows) * 2) + skew;
    if (!p.y_bf16 || check_int(0, 1))
        p.y = check_floats(skew + (n - 1) * p.y_ld + rows, -1, 1) + skew;
    p.add = !p.y_bf16 && check_int(0, 1);
    return p;
}

/* Where y ends, and what it is before. */
static size_t end_of(const struct linear *p)
{
    return (size_t)(p->T - 1) * p->y_ld + (size_t)p->w->rows;
}

static float *preset_of(const struct linear *p)
{
    float *preset = check_memory(end_of(p) * sizeof(float));

    if (p->y)
        memcpy(preset, p->y, end_of(p) * sizeof(float));
    return preset;
}

/* y_bf16 is y rounded to 8 bits: to the bit where there is y, else as exact as that can be. */
static void check_bf16_output(struct backend *be, const struct weight *w, const struct linear *p,
                              const float *preset)
{
    const double tolerance = tolerance_of(be, p);
    const size_t rows = (size_t)w->packed.rows;
    char what[128];

    snprintf(what, sizeof(what), "%s %dx%d T=%d act=%d x%s y%s%s", be->detail, w->packed.rows,
             w->packed.cols, p->T, (int)p->act, p->x_bf16 ? "_bf16" : "", p->y ? "" : " NULL",
             p->y_bf16 ? " y_bf16" : "");
    for (size_t at = 0; at < end_of(p); at++) {
        const size_t t = at / p->y_ld, r = at % p->y_ld;
        const float want = r < rows ? (float)exact_output(w, p, preset, (int)t, (int)r) : 0.0f;
        const float narrow = p->y_bf16 ? bf16_to_f32(p->y_bf16[at]) : 0.0f;

        if (r >= rows) {
            assert_true(!p->y_bf16 || p->y_bf16[at] == 0);
            assert_true(!p->y || memcmp(&p->y[at], &preset[at], sizeof(float)) == 0);
            continue;
        }
        if (p->y)
            check_close(what, &p->y[at], &want, 1, tolerance);
        if (p->y && p->y_bf16)
            assert_int_equal(p->y_bf16[at], f32_to_bf16(p->y[at]));
        else if (p->y_bf16)
            check_close(what, &narrow, &want, 1,
                        tolerance + 0x1p-8 * (fabs((double)want) + tolerance));
    }
}

static void check_bf16_product(struct backend *be, const struct weight *w, int T,
                               enum activation act)
{
    const size_t skew = (size_t)check_int(0, 5) / 5;
    const struct linear p = make_bf16_product(w, T, act, skew);
    const float *preset = preset_of(&p);

    run_skewed(be, &p, 1, skew);
    check_bf16_output(be, w, &p, preset);
}

/* Rows of x that are bf16 and on a grid of 16 bytes, which what steps of a few sessions are made of
 * has. */
static struct linear make_aligned_product(const struct weight *w, int T)
{
    struct linear p;

    do {
        p = make_bf16_product(w, T, (enum activation)check_int(0, 5), 0);
    } while (!p.x_bf16 || p.x_ld % 8);
    return p;
}

/* n of them as one phase. */
static void check_aligned_products(struct backend *be, const struct weight *w, int T, int n)
{
    struct linear p[GROUP] = { 0 };
    float *preset[GROUP];

    assert_in_range(n, 1, GROUP);
    for (int i = 0; i < n; i++) {
        p[i] = make_aligned_product(&w[i], T);
        preset[i] = preset_of(&p[i]);
    }
    run(be, p, n);
    for (int i = 0; i < n; i++)
        check_bf16_output(be, &w[i], &p[i], preset[i]);
}

static void rows_of_bf16_are_read_and_written_as_numbers_are(void **state)
{
    const int rows[] = { 1, 16, 33, 128, 150 }, cols[] = { 1, 64, 255, 264, 530 };
    const int sizes[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64, 100, 256, 300 };
    const struct kind bf16 = { DTYPE_BF16, false };
    struct backend *be = check_backend_of(state);

    for (int k = 0; be && k < 6 * (int)(sizeof(sizes) / sizeof(sizes[0])); k++) {
        struct weight w = make_weight(be, bf16, rows[check_int(0, 4)], cols[check_int(0, 4)]);

        check_bf16_product(be, &w, sizes[k / 6], (enum activation)(k % 6));
        be->free(be, w.packed.data);
    }
}

/* Among them more rows of weights than the blocks of a device have room for at once, so that their
 * rings go round; a GPU has a way of its own for a few rows of x. */
static void a_row_meets_a_matrix_of_any_size(void **state)
{
    const int sizes[][2] = { { 3000, 2560 }, { 1500, 5120 }, { 700, 8190 },  { 600, 16384 },
                             { 7000, 301 },  { 40000, 64 },  { 1100, 4096 }, { 2000, 768 },
                             { 9000, 2048 }, { 5000, 5120 }, { 3000, 8192 }, { 48000, 301 } };
    const struct kind bf16 = { DTYPE_BF16, false };
    struct backend *be = check_backend_of(state);

    for (size_t k = 0; be && k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        struct weight w = make_weight(be, bf16, sizes[k][0], sizes[k][1]);

        for (int i = 0; i < 2; i++) {
            check_bf16_product(be, &w, 1, (enum activation)check_int(0, 5));
            check_aligned_products(be, &w, 1, 1);
            if (check_is_exact(be))
                continue;
            check_bf16_product(be, &w, check_int(2, 8), (enum activation)check_int(0, 5));
            check_aligned_products(be, &w, check_int(2, 8), 1);
        }
        be->free(be, w.packed.data);
    }
}

static void a_few_rows_meet_matrices_of_mixed_sizes(void **state)
{
    const int many[] = { 320, 768, 1536, 2048, 2560, 4096, 5120, 8192 };
    const struct kind bf16 = { DTYPE_BF16, false };
    struct backend *be = check_backend_of(state);

    for (int k = 0; be && k < (check_is_exact(be) ? 7 : 70); k++) {
        const int n = check_int(1, GROUP), rows = check_int(1, 300);
        const int even = k % 3 ? 0 : many[check_int(0, 7)]; /* columns of all, if not 0 */
        struct weight w[GROUP];

        for (int i = 0; i < n; i++) {
            const int cols = even ? even : check_int(1, k % 2 ? 300 : 2600);

            w[i] = make_weight(be, bf16, check_int(1, rows), cols);
        }
        check_aligned_products(be, w, 2 + k % 7, n);
        for (int i = 0; i < n; i++)
            be->free(be, w[i].packed.data);
    }
}

/* Rows longer than the registers of a block hold of x, in a group with short ones; of some more
 * than a block has between two ends. */
static void a_few_rows_meet_long_rows(void **state)
{
    const int sizes[][2] = { { 40, 16384 }, { 33, 8193 }, { 300, 25000 }, { 4500, 8300 } };
    const struct kind bf16 = { DTYPE_BF16, false };
    struct backend *be = check_backend_of(state);

    for (int k = 0; be && k < (check_is_exact(be) ? 2 : 4); k++) {
        struct weight w[] = { make_weight(be, bf16, sizes[k][0], sizes[k][1]),
                              make_weight(be, bf16, check_int(1, 100), check_int(1, 300)) };

        for (int T = check_int(1, 2); T <= 8; T += 3)
            check_aligned_products(be, w, T, check_int(1, 2));
        for (int i = 0; i < 2; i++)
            be->free(be, w[i].packed.data);
    }
}

/* More rows of weights than a device takes at once in the tiles that it takes few in. */
static void many_rows_of_weights_are_multiplied_at_once(void **state)
{
    const struct kind bf16 = { DTYPE_BF16, false };
    struct backend *be = check_backend_of(state);

    for (int k = 0; be && k < (check_is_exact(be) ? 1 : 12); k++) {
        struct weight w = make_weight(be, bf16, check_int(8300, 9900), check_int(1, 200));
        struct linear p;

        do {
            p = make_bf16_product(&w, check_int(9, 64), ACT_RELU2, 0);
        } while (!p.x_bf16);

        float *preset = preset_of(&p);

        run(be, &p, 1);
        check_bf16_output(be, &w, &p, preset);
        be->free(be, w.packed.data);
    }
}

/* Products together, whose tiles a GPU does not have a place for each, or has places left over. */
static void products_of_one_group_share_the_device(void **state)
{
    const struct kind bf16 = { DTYPE_BF16, false };
    const int sizes[] = { 9, 30, 64, 100, 200, 300 };
    struct backend *be = check_backend_of(state);
    const bool small = be && check_is_exact(be);

    for (int k = 0; be && k < (small ? 1 : 18); k++) {
        const int n = check_int(3, 5), cols = check_int(330, 700);
        struct linear p[5];
        struct weight w[5];
        float *preset[5];

        for (int i = 0; i < n; i++) {
            const int rows = check_int(1, sizes[k % 6] == 300 ? 1400 : 2800);

            w[i] = make_weight(be, bf16, small ? rows / 20 + 1 : rows, cols);
            do {
                p[i] = make_bf16_product(&w[i], sizes[k % 6], (enum activation)check_int(0, 5), 0);
            } while (!p[i].x_bf16);
            preset[i] = preset_of(&p[i]);
        }
        run(be, p, n);
        for (int i = 0; i < n; i++) {
            check_bf16_output(be, &w[i], &p[i], preset[i]);
            be->free(be, w[i].packed.data);
        }
    }
}

/* Products that read bf16 and such that do not may stand side by side. */
static void kinds_of_rows_may_be_mixed_in_a_group(void **state)
{
    enum { N = 5 };
    const struct kind bf16 = { DTYPE_BF16, false };
    struct backend *be = check_backend_of(state);

    for (int T = 1; be && T <= 600; T = T * 2 + 1) {
        struct weight w[N];
        struct linear p[N];
        float *first[N];

        for (int k = 0; k < N; k++) {
            w[k] = make_weight(be, bf16, check_int(1, 400), 320);
            do {
                p[k] = make_bf16_product(&w[k], T, ACT_TANH, 0);
            } while (!p[k].y || p[k].add);
            run(be, &p[k], 1);
            first[k] = check_memory((size_t)T * p[k].y_ld * sizeof(float));
            memcpy(first[k], p[k].y,
                   ((size_t)(T - 1) * p[k].y_ld + (size_t)w[k].packed.rows) * sizeof(float));
            for (size_t t = 0; t < (size_t)T; t++) /* NaN: one left out of the group is seen */
                memset(p[k].y + t * p[k].y_ld, 0xff, (size_t)w[k].packed.rows * sizeof(float));
        }
        run(be, p, N);
        for (int k = 0; k < N; k++) {
            for (size_t t = 0; t < (size_t)T; t++)
                check_close(be->detail, p[k].y + t * p[k].y_ld, first[k] + t * p[k].y_ld,
                            (size_t)w[k].packed.rows, 2 * tolerance_of(be, &p[k]));
            be->free(be, w[k].packed.data);
        }
    }
}

static void a_product_is_the_exact_sum_within_rounding(void **state)
{
    const int rows[] = { 1, 15, 16, 33, 150 }, cols[] = { 1, 7, 255, 257, 530 };
    const int sizes[] = { 1, 2, 3, 5, 6, 7, 11, 12, 13, 24, 25, 61 };

    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *be = check_backend(check_backends[i], 1);

        for (int k = 0; be && k < 72; k++) {
            struct weight w =
                make_weight(be, kinds[k % KINDS], rows[check_int(0, 4)], cols[check_int(0, 4)]);

            check_product(be, &w, sizes[check_int(0, 11)], (enum activation)(k / KINDS % 6),
                          check_int(0, 1), check_int(0, 1));
            be->free(be, w.packed.data);
        }
    }
}

/* One row, alone, must come out as it does among any number of others. */
static void a_row_does_not_depend_on_its_company(void **state)
{
    const int sizes[] = { 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 24, 25, 48, 97, 130 };

    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *be = check_backend(check_backends[i], 2);

        for (int k = 0; be && k < (int)(sizeof(sizes) / sizeof(sizes[0])) * KINDS; k++) {
            const int T = sizes[k / KINDS];
            struct weight w =
                make_weight(be, kinds[k % KINDS], check_int(17, 200), check_int(250, 600));
            struct place at = make_place(&w.packed, T);
            float *alone = check_memory((size_t)w.packed.rows * sizeof(float));
            struct linear p = { .y = at.y,
                                .x = at.x,
                                .y_ld = at.y_ld,
                                .x_ld = at.x_ld,
                                .w = &w.packed,
                                .bias = at.bias,
                                .act = ACT_SILU,
                                .T = T };

            run(be, &p, 1);
            for (int t = 0; t < T; t++) {
                const float *among = at.y + (size_t)t * at.y_ld;

                p.x = at.x + (size_t)t * at.x_ld;
                p.y = alone;
                p.T = 1;
                run(be, &p, 1);
                if (check_is_exact(be))
                    check_equal(be->detail, alone, among, (size_t)w.packed.rows);
                else
                    check_close(be->detail, alone, among, (size_t)w.packed.rows,
                                2 * tolerance_of(be, &p));
            }
            be->free(be, w.packed.data);
        }
    }
}

static void the_number_of_threads_and_the_grouping_of_products_are_invisible(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *one = check_backend(check_backends[i], 1), *four;

        if (!one)
            continue;
        four = check_backend(check_backends[i], 4);
        for (int T = 1; T <= 50; T += 7) {
            enum { N = 19 };
            struct weight w[N];
            struct linear p[N];
            float *first[N];

            for (int k = 0; k < N; k++) {
                w[k] = make_weight(one, kinds[KINDS - 1 - k % 2], check_int(1, 100), 300);

                struct place at = make_place(&w[k].packed, T);

                p[k] = (struct linear){ .y = at.y,
                                        .x = at.x,
                                        .y_ld = at.y_ld,
                                        .x_ld = at.x_ld,
                                        .w = &w[k].packed,
                                        .T = T };
                first[k] = check_memory((size_t)T * at.y_ld * sizeof(float));
                run(one, &p[k], 1);
                memcpy(first[k], at.y, (size_t)T * at.y_ld * sizeof(float));
                memset(at.y, 0xff, (size_t)T * at.y_ld * sizeof(float));
            }
            run(four, p, N);
            for (int k = 0; k < N; k++) {
                for (int t = 0; t < T; t++) {
                    const float *grouped = p[k].y + (size_t)t * p[k].y_ld;
                    const float *single = first[k] + (size_t)t * p[k].y_ld;

                    if (check_is_exact(one))
                        check_equal(four->detail, grouped, single, (size_t)p[k].w->rows);
                    else
                        check_close(four->detail, grouped, single, (size_t)p[k].w->rows,
                                    2 * tolerance_of(one, &p[k]));
                }
                one->free(one, w[k].packed.data);
            }
        }
    }
}

static void embedding_a_token_returns_its_row_exactly(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *be = check_backend(check_backends[i], 2);

        for (int k = 0; be && k < 8; k++) {
            const int rows = check_int(1, 80), cols = check_int(1, 70), T = check_int(1, 90);
            struct weight w = make_weight(be, kinds[k % KINDS], rows, cols);
            int32_t *token = check_memory((size_t)T * sizeof(*token));
            float *x = check_floats((size_t)T * (size_t)cols, 0, 1);
            const struct batch in = { .S = 1, .T = T, .token = token, .begin = (int[]){ 0, T } };

            for (int t = 0; t < T; t++)
                token[t] = check_int(0, rows - 1);
            be->ops->embed(be->stream, check_begin(be, &in),
                           check_lend(be, x, (size_t)T * (size_t)cols * sizeof(*x)), &w.packed);
            check_end(be);
            check_return(be);
            for (int t = 0; t < T; t++)
                check_equal("embed", x + (size_t)t * (size_t)cols,
                            w.exact + (size_t)token[t] * (size_t)cols, (size_t)cols);
            be->free(be, w.packed.data);
        }
    }
}

static void a_nan_in_a_row_reaches_its_outputs_and_no_other_row(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *be = check_backend(check_backends[i], 1);

        for (int act = ACT_NONE; be && act <= ACT_SOFTPLUS; act++) {
            struct weight w = make_weight(be, kinds[act % KINDS], 40, 64);
            struct place at = make_place(&w.packed, 3);
            const struct linear p = { .y = at.y,
                                      .x = at.x,
                                      .y_ld = at.y_ld,
                                      .x_ld = at.x_ld,
                                      .w = &w.packed,
                                      .act = (enum activation)act,
                                      .T = 3 };

            at.x[at.x_ld + 5] = NAN;
            run(be, &p, 1);
            for (size_t r = 0; r < 40; r++) {
                assert_true(isfinite(at.y[r]));
                assert_true(isnan(at.y[at.y_ld + r]));
                assert_true(isfinite(at.y[2 * at.y_ld + r]));
            }
            be->free(be, w.packed.data);
        }
    }
}

/* A step whose products fork: y of `later` is long, and wanted behind the join alone. */
struct forked {
    struct backend *be;
    struct matrix now, later, chain, end;
    float *x, *y_now, *y_later, *y_chain, *y_end;
    const uint16_t *x_bf16; /* NULL, or x: its numbers are of bf16 */
};

static struct linear product(const struct matrix *w, float *y, const float *x, int T)
{
    return (struct linear){
        .y = y, .x = x, .y_ld = (size_t)w->rows, .x_ld = (size_t)w->cols, .w = w, .T = T
    };
}

static void take_forked(const struct forked *f, int T)
{
    const struct ops *o = f->be->ops;
    struct stream *q = f->be->stream;
    struct linear first[] = { product(&f->now, f->y_now, f->x, T),
                              product(&f->later, f->y_later, f->x, T) };
    const struct linear chain = product(&f->chain, f->y_chain, f->y_now, T);
    struct linear end = product(&f->end, f->y_end, f->y_later, T);

    end.x_ld = (size_t)f->later.rows; /* of which it takes the first columns */
    first[0].x_bf16 = first[1].x_bf16 = f->x_bf16;
    o->linear_split(q, first, 1, 1);
    o->linear(q, &chain, 1);
    o->join(q);
    o->linear(q, &end, 1);
    end.x = f->y_now;
    end.x_ld = (size_t)f->now.rows;
    end.add = true;
    o->linear(q, &end, 1);
}

/* The outputs of the whole step, once as it is and then as often as it takes to be recorded and
 * replayed, if it is. The first waits for the choice of algorithms, so that nothing of it is beside
 * anything. */
static void check_forked(const struct forked *f, int T, bool recorded)
{
    enum { RUNS = 4 };
    const size_t n = (size_t)T * (size_t)(f->end.rows + f->chain.rows);
    const size_t now = (size_t)T * (size_t)f->now.rows, later = (size_t)T * (size_t)f->later.rows;
    float *nans = check_memory((now > later ? now : later) * sizeof(float));
    int *ints = check_memory(((size_t)T + 1) * sizeof(int));
    float *got[RUNS];
    struct batch in = { .S = T, .T = T, .L = T, .begin = ints, .slot = ints };
    const struct step_key key = { .model = recorded ? f : NULL, .records = ints, .rows = T };
    struct error err;

    for (int i = 0; i <= T; i++)
        ints[i] = i;
    in.logit_row = ints;
    memset(nans, 0xff, (now > later ? now : later) * sizeof(float)); /* what no block writes */
    in.token = check_memory((size_t)T * sizeof(int32_t));
    memset((void *)in.token, 0, (size_t)T * sizeof(int32_t));
    for (int i = 0; i < RUNS; i++) {
        const size_t ends = (size_t)T * (size_t)f->end.rows;

        f->be->upload(f->be, f->y_now, nans, now * sizeof(float));
        f->be->upload(f->be, f->y_later, nans, later * sizeof(float));
        if (f->be->begin(f->be, &key, &in)) {
            take_forked(f, T);
            f->be->end(f->be);
        }
        assert_true(f->be->sync(f->be, &err));
        got[i] = check_memory(n * sizeof(float));
        f->be->download(f->be, got[i], f->y_end, ends * sizeof(float));
        f->be->download(f->be, got[i] + ends, f->y_chain, (n - ends) * sizeof(float));
        for (size_t k = 0; i == 0 && k < n; k++)
            assert_true(isfinite(got[0][k]));
        assert_true(got[i][0] != 0.0f);
        check_equal("a forked step", got[i], got[0], n);
    }
}

/* What `now` and `later` read: n numbers, of bf16 if narrow. */
static void fill_rows(struct forked *f, size_t n, bool narrow)
{
    const float *x = check_floats(n, -1, 1);
    uint16_t *half = check_memory(n * sizeof(*half));

    for (size_t i = 0; i < n; i++)
        half[i] = f32_to_bf16(x[i]);
    f->x_bf16 = narrow ? (const uint16_t *)f->x : NULL;
    f->be->upload(f->be, f->x, narrow ? (const void *)half : x,
                  n * (narrow ? sizeof(*half) : sizeof(*x)));
}

/* The long way for a GPU alone: on a CPU nothing runs beside anything. The last size is a prompt.
 * Rows of bf16 may take another path. */
static void products_beside_others_are_those_in_order(void **state)
{
    const struct kind bf16 = { DTYPE_BF16, false };
    const int sizes[] = { 1, 2, 8, 64, 200, 300, 1500 };
    struct backend *be = check_backend_of(state);
    const int least = be && check_is_exact(be) ? 150 : 1500, count = least == 150 ? 3 : 7;

    for (int i = 0; be && i < (be->bf16_rows ? 4 : 2) * count; i++) {
        const int T = sizes[i / 2 % count];
        /* Of 300 rows so few that, if `now` is one of the small ones, all is on a device at once.
         */
        const int later = T == 300 ? least : 4 * least;
        const int now = i % 2 ? least : 6 * least; /* the later ones begin first, or not */
        struct forked f = { .be = be };
        float **const rows[] = { &f.x, &f.y_now, &f.y_later, &f.y_chain, &f.y_end };
        const int widths[] = { 256, now, later, 64, 32 };

        f.now = make_weight(be, bf16, now, 256).packed;
        f.later = make_weight(be, bf16, later, 256).packed;
        f.chain = make_weight(be, bf16, 64, now).packed;
        f.end = make_weight(be, bf16, 32, least).packed;
        for (int k = 0; k < 5; k++)
            assert_non_null(*rows[k] = be->alloc(be, (size_t)(T * widths[k]) * sizeof(float)));
        fill_rows(&f, (size_t)T * 256, i >= 2 * count);
        check_forked(&f, T, T < sizes[6]);
        for (int k = 0; k < 5; k++)
            be->free(be, *rows[k]);
        be->free(be, f.now.data);
        be->free(be, f.later.data);
        be->free(be, f.chain.data);
        be->free(be, f.end.data);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_product_is_the_exact_sum_within_rounding, check_release),
        ON_BOTH(rows_of_bf16_are_read_and_written_as_numbers_are),
        ON_BOTH(a_row_meets_a_matrix_of_any_size),
        ON_BOTH(a_few_rows_meet_matrices_of_mixed_sizes),
        ON_BOTH(a_few_rows_meet_long_rows),
        ON_BOTH(many_rows_of_weights_are_multiplied_at_once),
        ON_BOTH(products_of_one_group_share_the_device),
        ON_BOTH(kinds_of_rows_may_be_mixed_in_a_group),
        ON_BOTH(products_beside_others_are_those_in_order),
        cmocka_unit_test_teardown(a_row_does_not_depend_on_its_company, check_release),
        cmocka_unit_test_teardown(the_number_of_threads_and_the_grouping_of_products_are_invisible,
                                  check_release),
        cmocka_unit_test_teardown(embedding_a_token_returns_its_row_exactly, check_release),
        cmocka_unit_test_teardown(a_nan_in_a_row_reaches_its_outputs_and_no_other_row,
                                  check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
