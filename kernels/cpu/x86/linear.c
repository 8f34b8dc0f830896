/* linear.c - matrix products in registers.
 *
 * Every output is one chain of fused multiply-adds over ascending columns, whatever T is: a
 * chain that is set aside between blocks of columns is stored as the float32 it already was.
 * So a row's result never depends on its company, to the last bit.
 *
 * A tile is NV vectors of outputs times NR rows of x, all in registers. Few rows (decode) are
 * bound by reading the weights: one tile runs over all columns and each weight is read once,
 * in 16-bit form, and widened in registers. Many rows (prefill) are bound by arithmetic: the
 * weights of a block of columns are widened once into the cache and met by all rows. */
#include "kernels/cpu/x86/x86.h"

#include <assert.h>
#include <string.h>

#include "kernels/cpu/pool.h"

enum {
    V_PER_PANEL = PANEL / VW,
    ROWS_MAX = VW == 16 ? 12 : 6, /* rows of the largest tile */
    PANELS_MAX = 8,               /* panels of the largest tile */
    BLOCK = 256,                  /* columns whose widened weights stay in the cache */
    X_LD = BLOCK + 16,            /* rows of a block of x must not share a cache set */
    AHEAD = 2048,                 /* bytes of a panel fetched ahead */
    PRODUCTS_MAX = 16,            /* of one phase */

    /* A unit of a product of few rows, and the distance between rows of its sums. */
    FEW_ROWS = 48,
    FEW_PANELS = 9,
    FEW_LD = (FEW_PANELS + PANELS_MAX) * PANEL,
    FEW_SUMS = (FEW_ROWS + ROWS_MAX) * FEW_LD,

    /* A unit of a product of many. The tile of 6 rows has the most multiply-adds a load. */
    MANY_ROWS = 192,
    MANY_PANELS = 16,
    MANY_TILE_ROWS = 6,
    MANY_TILE_PANELS = 4, /* or a divisor of it */
    MANY_LD = MANY_PANELS * PANEL,
    MANY_SUMS = (MANY_ROWS + MANY_TILE_ROWS) * MANY_LD,
    MANY_WEIGHTS = MANY_PANELS * PANEL * BLOCK
};

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

/* Some columns of some panels against some rows. */
struct tile {
    const void *w[PANELS_MAX]; /* each panel's first column here */
    const float *x;            /* blocks of [rows, X_LD], or plainly the row if there is but one */
    size_t x_block;            /* floats between blocks */
    int columns;
    float *sum; /* [rows, panels * PANEL], in and out */
    size_t sum_ld;
};

INLINE vf load_weights(const void *w, size_t at, enum dtype dtype)
{
    if (dtype == DTYPE_F32)
        return v_load((const float *)w + at);
    if (dtype == DTYPE_F16)
        return v_load_f16((const uint16_t *)w + at);
    return v_load_bf16((const uint16_t *)w + at);
}

/* NV, NR and dtype are constants where this is used: the sums become registers. */
INLINE void run_tile(const struct tile *tile, enum dtype dtype, int NV, int NR)
{
    const int columns = tile->columns;
    const size_t column_bytes = PANEL * (dtype == DTYPE_F32 ? 4 : 2);
    const char *w[PANELS_MAX];
    vf sum[24], weight[8];
    size_t at = 0;

    UNROLL
    for (int i = 0; i < NV / V_PER_PANEL; i++)
        w[i] = tile->w[i];
    UNROLL
    for (int i = 0; i < NR * NV; i++)
        sum[i] = v_load(tile->sum + (size_t)(i / NV) * tile->sum_ld + i % NV * VW);
    for (int first = 0; first < columns; first += BLOCK) {
        const float *x = tile->x + (size_t)(first / BLOCK) * tile->x_block;
        const float *end = x + (columns - first < BLOCK ? columns - first : BLOCK);

        for (; x < end; x++, at += column_bytes) {
            UNROLL
            for (int i = 0; i < NV / V_PER_PANEL; i++)
                _mm_prefetch(w[i] + at + AHEAD, _MM_HINT_T0);
            UNROLL
            for (int v = 0; v < NV; v++)
                weight[v] =
                    load_weights(w[v / V_PER_PANEL] + at, (size_t)(v % V_PER_PANEL) * VW, dtype);
            UNROLL
            for (int i = 0; i < NR * NV; i++)
                sum[i] = v_fma(weight[i % NV], v_set(x[i / NV * X_LD]), sum[i]);
        }
    }
    UNROLL
    for (int i = 0; i < NR * NV; i++)
        v_store(tile->sum + (size_t)(i / NV) * tile->sum_ld + i % NV * VW, sum[i]);
}

typedef void tile_kernel(const struct tile *tile);

#define TILE(dtype, NV, NR)                                                                        \
    static void tile_##dtype##_##NR(const struct tile *tile)                                       \
    {                                                                                              \
        run_tile(tile, DTYPE_##dtype, NV, NR);                                                     \
    }

/* Vectors times rows: as many sums as the registers hold beside the weights and one x, and
 * at least 8, which is what keeps two multiply-adds of 4 cycles in flight. */
#ifdef __AVX512F__
#define SHAPES(X, dtype)                                                                           \
    X(dtype, 8, 1)                                                                                 \
    X(dtype, 8, 2)                                                                                 \
    X(dtype, 8, 3)                                                                                 \
    X(dtype, 4, 4)                                                                                 \
    X(dtype, 4, 6)                                                                                 \
    X(dtype, 3, 8)                                                                                 \
    X(dtype, 2, 10)                                                                                \
    X(dtype, 2, 12)
#else
#define SHAPES(X, dtype)                                                                           \
    X(dtype, 8, 1)                                                                                 \
    X(dtype, 4, 2)                                                                                 \
    X(dtype, 4, 3)                                                                                 \
    X(dtype, 2, 4)                                                                                 \
    X(dtype, 2, 5)                                                                                 \
    X(dtype, 2, 6)
#endif

SHAPES(TILE, F32)
SHAPES(TILE, F16)
SHAPES(TILE, BF16)

static const struct shape {
    int rows, panels;
    tile_kernel *kernel[DTYPE_COUNT];
} shapes[] = {
#define SHAPE(dtype, NV, NR)                                                                       \
    { .rows = (NR),                                                                                \
      .panels = (NV) / V_PER_PANEL,                                                                \
      .kernel = { [DTYPE_F32] = tile_F32_##NR,                                                     \
                  [DTYPE_F16] = tile_F16_##NR,                                                     \
                  [DTYPE_BF16] = tile_BF16_##NR } },
    SHAPES(SHAPE, )
};

/* The smallest shape with room for `rows` rows; what is too much is computed and dropped. */
static const struct shape *shape_for(int rows)
{
    const struct shape *s = shapes;

    while (s->rows < rows)
        s++;
    return s;
}

INLINE vf activated(enum activation act, vf x)
{
    switch (act) {
    case ACT_SILU:
        return v_silu(x);
    case ACT_SIGMOID:
        return v_sigmoid(x);
    case ACT_TANH:
        return v_tanh(x);
    case ACT_RELU2:
        x = v_max(v_zero(), x);
        return v_mul(x, x);
    case ACT_SOFTPLUS:
        return v_softplus(x);
    case ACT_NONE:
        break;
    }
    return x;
}

/* From the sums of one row to its outputs [first, first + n). */
static void finish(const struct linear *p, int t, int first, int n, const float *sum)
{
    float *y = p->y + (size_t)t * p->y_ld + first;

    for (int i = 0; i < n; i += VW) {
        const int m = n - i;
        vf v = v_load(sum + i);

        if (p->bias)
            v = v_add(v, v_load_n(p->bias + first + i, m));
        v = activated(p->act, v);
        if (p->add)
            v = v_add(v_load_n(y + i, m), v);
        v_store_n(y + i, v, m);
    }
}

/* Part of a product: outputs of `panels` panels for `rows` rows. */
struct unit {
    const struct linear *p;
    int panel, panels, t, rows;
};

static const char *panel_at(const struct matrix *w, int panel, int column)
{
    return (const char *)w->data + matrix_index(w, panel * PANEL, column) * dtype_size(w->dtype);
}

static void finish_unit(const struct unit *u, const float *sum, size_t sum_ld)
{
    const int first = u->panel * PANEL;
    const int left = u->p->w->rows - first;
    const int n = left < u->panels * PANEL ? left : u->panels * PANEL;

    for (int r = 0; r < u->rows; r++)
        finish(u->p, u->t + r, first, n, sum + (size_t)r * sum_ld);
}

/* Rows r to r + n of a unit, as a tile wants them; those that there are not are zero. */
static void copy_block(float *dst, const struct unit *u, int r, int n, int column, int columns)
{
    for (int i = 0; i < n; i++) {
        if (r + i < u->rows)
            memcpy(dst + i * X_LD, u->p->x + (size_t)(u->t + r + i) * u->p->x_ld + column,
                   (size_t)columns * sizeof(*dst));
        else
            memset(dst + i * X_LD, 0, (size_t)columns * sizeof(*dst));
    }
}

static int block_columns(const struct matrix *w, int column)
{
    return w->cols - column < BLOCK ? w->cols - column : BLOCK;
}

/* How few rows are cut: equal tiles, as few as there can be. */
static const struct shape *few_shape(int rows)
{
    return shape_for(ceil_div(rows, ceil_div(rows, ROWS_MAX)));
}

/* The product of a few rows: all columns in one go, and all rows with one group of panels
 * before the next. A panel that a shape has too many is the last one again. */
static void run_few(const struct unit *u, float *scratch)
{
    const struct matrix *w = u->p->w;
    const struct shape *shape = few_shape(u->rows);
    const int last = u->panel + u->panels - 1, blocks = ceil_div(w->cols, BLOCK);
    const size_t tile_floats = (size_t)shape->rows * X_LD * (size_t)blocks;
    float *sum = scratch, *x = scratch + FEW_SUMS;
    struct tile tile = { .columns = w->cols, .sum_ld = FEW_LD };

    memset(sum, 0, (size_t)(u->rows + shape->rows) * FEW_LD * sizeof(*sum));
    tile.x_block = u->rows == 1 ? BLOCK : (size_t)shape->rows * X_LD;
    for (int r = 0; r < u->rows && u->rows > 1; r += shape->rows)
        for (int i = 0; i < blocks; i++)
            copy_block(x + (size_t)(r / shape->rows) * tile_floats + (size_t)i * tile.x_block, u, r,
                       shape->rows, i * BLOCK, block_columns(w, i * BLOCK));
    for (int i = 0; i < u->panels; i += shape->panels) {
        for (int k = 0; k < shape->panels; k++) {
            int panel = u->panel + i + k;

            tile.w[k] = panel_at(w, panel < last ? panel : last, 0);
        }
        for (int r = 0; r < u->rows; r += shape->rows) {
            tile.x = u->rows == 1 ? u->p->x + (size_t)u->t * u->p->x_ld
                                  : x + (size_t)(r / shape->rows) * tile_floats;
            tile.sum = sum + (size_t)r * FEW_LD + (size_t)i * PANEL;
            shape->kernel[w->dtype](&tile);
        }
    }
    finish_unit(u, sum, FEW_LD);
}

static void widen(float *dst, const struct matrix *w, int panel, int column, int columns)
{
    const char *src = panel_at(w, panel, column);

    for (size_t i = 0; i < (size_t)columns * PANEL; i += VW)
        v_store(dst + i, load_weights(src, i, w->dtype));
}

/* One block of columns of a unit: the widened weights meet every row. */
static void run_block(const struct unit *u, int column, int columns, float *sum, float *weights,
                      float *x)
{
    const struct matrix *w = u->p->w;
    const struct shape *shape = shape_for(MANY_TILE_ROWS);
    struct tile tile = { .x = x, .columns = columns, .sum_ld = MANY_LD };

    if (w->dtype != DTYPE_F32)
        for (int i = 0; i < u->panels; i++)
            widen(weights + (size_t)i * BLOCK * PANEL, w, u->panel + i, column, columns);
    for (int r = 0; r < u->rows; r += shape->rows) {
        copy_block(x, u, r, shape->rows, column, columns);
        for (int i = 0; i < u->panels; i += shape->panels) {
            for (int k = 0; k < shape->panels; k++) {
                int panel = i + k < u->panels ? i + k : u->panels - 1;

                tile.w[k] = w->dtype == DTYPE_F32
                                ? (const void *)panel_at(w, u->panel + panel, column)
                                : weights + (size_t)panel * BLOCK * PANEL;
            }
            tile.sum = sum + (size_t)r * tile.sum_ld + (size_t)i * PANEL;
            shape->kernel[DTYPE_F32](&tile);
        }
    }
}

static void run_many(const struct unit *u, float *scratch)
{
    float *sum = scratch, *weights = sum + MANY_SUMS, *x = weights + MANY_WEIGHTS;

    memset(sum, 0, (size_t)(u->rows + MANY_TILE_ROWS) * MANY_LD * sizeof(*sum));
    for (int column = 0; column < u->p->w->cols; column += BLOCK)
        run_block(u, column, block_columns(u->p->w, column), sum, weights, x);
    finish_unit(u, sum, MANY_LD);
}

static bool is_few(const struct linear *p)
{
    return p->T <= FEW_ROWS;
}

static size_t scratch_floats(const struct linear *p)
{
    const size_t blocks = (size_t)ceil_div(p->w->cols, BLOCK);

    if (is_few(p))
        return FEW_SUMS + (FEW_ROWS + ROWS_MAX) * X_LD * blocks;
    return MANY_SUMS + MANY_WEIGHTS + MANY_TILE_ROWS * X_LD;
}

/* A phase of products, cut into units: groups of panels times groups of rows. */
struct linear_job {
    struct stream *q;
    const struct linear *p;
    int n, group;
};

static int panel_groups(const struct linear_job *job, const struct linear *p)
{
    return ceil_div(matrix_panels(p->w), job->group);
}

static int row_groups(const struct linear *p)
{
    return is_few(p) ? 1 : ceil_div(p->T, MANY_ROWS);
}

/* Rows of one group, whole tiles but for the last. */
static int group_rows(const struct linear *p)
{
    const int rows = ceil_div(p->T, row_groups(p));

    return is_few(p) ? rows : ceil_div(rows, MANY_TILE_ROWS) * MANY_TILE_ROWS;
}

/* Units of one product lie in order of their panels, so that the row groups which share
 * weights run near each other. */
static struct unit find_unit(const struct linear_job *job, int index)
{
    const struct linear *p = job->p;

    while (index >= panel_groups(job, p) * row_groups(p)) {
        index -= panel_groups(job, p) * row_groups(p);
        p++;
    }

    const int rows = group_rows(p);
    struct unit u = { .p = p,
                      .panel = index / row_groups(p) * job->group,
                      .t = index % row_groups(p) * rows };

    u.panels =
        matrix_panels(p->w) - u.panel < job->group ? matrix_panels(p->w) - u.panel : job->group;
    u.rows = p->T - u.t < rows ? p->T - u.t : rows;
    return u;
}

static void run_unit(const void *arg, int index, int thread)
{
    const struct linear_job *job = arg;
    const struct unit u = find_unit(job, index);
    float *scratch = pool_scratch(job->q, thread, scratch_floats(u.p) * sizeof(*scratch));

    if (!scratch || u.rows <= 0)
        return;
    if (is_few(u.p))
        run_few(&u, scratch);
    else
        run_many(&u, scratch);
}

static int unit_count(const struct linear_job *job)
{
    int units = 0;

    for (int i = 0; i < job->n; i++)
        units += panel_groups(job, &job->p[i]) * row_groups(&job->p[i]);
    return units;
}

/* The number of panels a unit takes that leaves the slowest thread the least to do: whole tiles,
 * but that a wide tile of few rows may be used in part. */
static int balanced_group(struct linear_job job, int threads)
{
    const bool few = is_few(job.p);
    const int tile = few ? few_shape(job.p->T)->panels : MANY_TILE_PANELS;
    const int largest = few ? FEW_PANELS / tile * tile : MANY_PANELS;
    const int step = few && tile % 2 == 0 ? 2 : tile;
    int best = largest, least = INT32_MAX;

    for (job.group = largest; job.group >= step; job.group -= step) {
        int most = ceil_div(unit_count(&job), threads) * job.group;

        if (most < least) {
            least = most;
            best = job.group;
        }
    }
    return best;
}

/* Products of few rows and of many are cut differently: a change of kind ends a phase. */
void ISA(linear)(struct stream *q, const struct linear *p, int n)
{
    for (int phase; n > 0; p += phase, n -= phase) {
        struct linear_job job = { .q = q, .p = p };
        size_t cost = 0;

        for (phase = 0; phase < n && phase < PRODUCTS_MAX && is_few(&p[phase]) == is_few(p);
             phase++)
            cost += p[phase].w->bytes / 4 * (size_t)(p[phase].T + 1);
        job.n = phase;
        job.group = balanced_group(job, pool_threads(q));
        pool_run(q, unit_count(&job), cost, run_unit, &job);
    }
}
