/* linear.c - matrix products in registers.
 *
 * Every output is one chain of fused multiply-adds over ascending columns, whatever T is: a
 * chain that is set aside between blocks of columns is stored as the float32 it already was.
 * So a row's result never depends on its company, to the last bit. Where x is rounded to bfloat16
 * the links of the chain are dot products of pairs of columns.
 *
 * A tile is a group of outputs (or some panels of it) times up to ROWS_MAX rows, its sums all
 * in registers. Weights are read as they are stored and widened in registers. One tile of rows
 * runs over all columns: it is bound by reading the weights, which are one stream. More rows
 * take the columns in blocks, whose weights stay in the first-level cache for all of them, and
 * each tile fetches its part of the next block: memory is read while there is work for it.
 *
 * Few rows take the groups of a whole phase as one line, of which each thread has an equal share
 * in units that become smaller: its stream breaks off seldom, and the last one to end is waited
 * for no longer than a group takes. */
#include "kernels/cpu/x86/x86.h"

#include <string.h>

#include "kernels/cpu/pool.h"

enum {
    V_PER_PANEL = PANEL / VW,
    ROWS_MAX = 6,              /* rows of the largest tile */
    BLOCK_BYTES = 24 << 10,    /* weights of a group that meet all rows of a unit, */
    FEW_BYTES = 12 << 10,      /* or few: the next block comes while these are in use, */
    FEW_ROWS = 4 * ROWS_MAX,   /* at most */
    AHEAD = 4096,              /* bytes that the only tile of a group fetches ahead; pairs leave
                                * it to the machine, which keeps up with them (measured: 4 %) */
    UNIT_GROUPS = 4,           /* at most, of a unit */
    UNIT_ROWS = 20 * ROWS_MAX, /* at most, of a unit, */
    UNIT_X_BYTES = 384 << 10,  /* and what its x may take of the second-level cache */
    PRODUCTS_MAX = 16          /* of one phase */
};

static int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Some columns, from an even one on, of some panels of a group against the rows of a tile. */
struct tile {
    const char *w;  /* the first panel's first pair */
    const float *x; /* or its pairs, see factors_of() */
    size_t x_ld;
    int columns;
    float *sum;        /* [rows, GROUP_ROWS], in and out */
    size_t ahead;      /* what is fetched, from w on; 0: nothing */
    size_t fetch_step; /* and bytes from one pair's to the next one's */
};

/* What a kernel multiplies: weights of a dtype with float32, or bf16 pairs with bf16 pairs. */
enum factors { F32 = DTYPE_F32, F16 = DTYPE_F16, BF16 = DTYPE_BF16, PAIRS, FACTORS };

/* Bytes of a pair of columns of a group. */
INLINE int pair_bytes(enum dtype dtype)
{
    return 2 * GROUP_ROWS * (dtype == DTYPE_F32 ? 4 : 2);
}

/* Vector v of an even (odd 0) or odd column of a pair. */
INLINE vf load_weights(const char *pair, int v, int odd, enum dtype dtype)
{
    const int at = odd * GROUP_ROWS + v * VW;

    if (dtype == DTYPE_F32)
        return v_load((const float *)(const void *)pair + at);
    if (dtype == DTYPE_F16)
        return v_load_f16((const uint16_t *)(const void *)pair + at);
    return odd ? v_bf16_high(v_words(pair + 4 * v * VW)) : v_bf16_low(v_words(pair + 4 * v * VW));
}

/* A pair of bf16 columns meets columns j and j + 1 of the only row. The tile waits for memory:
 * each word is loaded once. */
INLINE void add_words(vf *sum, const char *w, int NV, const float *x, int j)
{
    vw pair[8];

    UNROLL
    for (int v = 0; v < NV; v++)
        pair[v] = v_keep(v_words(w + 4 * v * VW));
    UNROLL
    for (int v = 0; v < NV; v++)
        sum[v] = v_fma(v_bf16_low(pair[v]), v_set(x[j]), sum[v]);
    UNROLL
    for (int v = 0; v < NV; v++)
        sum[v] = v_fma(v_bf16_high(pair[v]), v_set(x[j + 1]), sum[v]);
}

/* One column of a pair meets column j of every row. */
INLINE void add_column(vf *sum, const char *w, int odd, enum dtype dtype, int NV, int NR,
                       const float *const *x, int j)
{
    vf weight[8];

    UNROLL
    for (int v = 0; v < NV; v++)
        weight[v] = load_weights(w, v, odd, dtype);
    UNROLL
    for (int i = 0; i < NR * NV; i++)
        sum[i] = v_fma(weight[i % NV], v_set(x[i / NV][j]), sum[i]);
}

/* A pair of columns meets pair number `pair` of every row. */
INLINE void add_pair(vf *sum, const char *w, int NV, int NR, const float *const *x, int pair)
{
    vw weight[8];

    UNROLL
    for (int v = 0; v < NV; v++)
        weight[v] = v_words(w + 4 * v * VW);
    UNROLL
    for (int i = 0; i < NR * NV; i++)
        sum[i] = v_dot_bf16(sum[i], weight[i % NV], (vw)v_set(x[i / NV][pair]));
}

/* NV, NR and factors are constants where this is used: the sums become registers. */
INLINE void run_tile(const struct tile *tile, enum factors factors, int NV, int NR)
{
    const enum dtype dtype = factors == PAIRS ? DTYPE_BF16 : (enum dtype)factors;
    const int bytes = pair_bytes(dtype);
    const int lines = bytes / 64 * NV / (GROUP * V_PER_PANEL); /* of the cache, a pair */
    const int columns = tile->columns + (factors == PAIRS ? tile->columns % 2 : 0);
    const int pairs_end = columns & ~1;
    const char *w = tile->w, *next = tile->w + tile->ahead;
    const bool fetch = tile->ahead > 0;
    const float *x[ROWS_MAX];
    vf sum[24];

    UNROLL
    for (int r = 0; r < NR; r++)
        x[r] = tile->x + (size_t)r * tile->x_ld;
    UNROLL
    for (int i = 0; i < NR * NV; i++)
        sum[i] = v_load(tile->sum + i / NV * GROUP_ROWS + i % NV * VW);
    for (int j = 0; j < pairs_end; j += 2, w += bytes, next += tile->fetch_step) {
        if (fetch) {
            UNROLL
            for (int i = 0; i < lines; i++)
                v_fetch(next + i * 64);
        }
        if (factors == PAIRS) {
            add_pair(sum, w, NV, NR, x, j / 2);
        } else if (NR == 1 && dtype == DTYPE_BF16) {
            add_words(sum, w, NV, x[0], j);
        } else {
            add_column(sum, w, 0, dtype, NV, NR, x, j);
            add_column(sum, w, 1, dtype, NV, NR, x, j + 1);
        }
    }
    if (columns % 2)
        add_column(sum, w, 0, dtype, NV, NR, x, pairs_end);
    UNROLL
    for (int i = 0; i < NR * NV; i++)
        v_store(tile->sum + i / NV * GROUP_ROWS + i % NV * VW, sum[i]);
}

typedef void tile_kernel(const struct tile *tile);

#define TILE(factors, panels, rows)                                                                \
    static void tile_##factors##_##rows(const struct tile *tile)                                   \
    {                                                                                              \
        run_tile(tile, factors, (panels)*V_PER_PANEL, rows);                                       \
    }

/* Panels times rows: as many sums as the registers hold beside the weights of a column. */
#ifdef __AVX512F__
#define SHAPES(X, dtype)                                                                           \
    X(dtype, 4, 1)                                                                                 \
    X(dtype, 4, 2)                                                                                 \
    X(dtype, 4, 3)                                                                                 \
    X(dtype, 4, 4)                                                                                 \
    X(dtype, 4, 5)                                                                                 \
    X(dtype, 4, 6)
#else
#define SHAPES(X, dtype)                                                                           \
    X(dtype, 2, 1)                                                                                 \
    X(dtype, 2, 2)                                                                                 \
    X(dtype, 1, 3)                                                                                 \
    X(dtype, 1, 4)                                                                                 \
    X(dtype, 1, 5)                                                                                 \
    X(dtype, 1, 6)
#endif

SHAPES(TILE, F32)
SHAPES(TILE, F16)
SHAPES(TILE, BF16)
SHAPES(TILE, PAIRS)

static const struct shape {
    int panels;
    tile_kernel *kernel[FACTORS];
} shapes[ROWS_MAX + 1] = { /* by rows */
#define SHAPE(unused, count, rows)                                                                 \
    [rows] = { .panels = (count),                                                                  \
               .kernel = { [F32] = tile_F32_##rows,                                                \
                           [F16] = tile_F16_##rows,                                                \
                           [BF16] = tile_BF16_##rows,                                              \
                           [PAIRS] = tile_PAIRS_##rows } },
                           SHAPES(SHAPE, )
};

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

/* Part of a product: outputs of some groups for some rows. */
struct unit {
    const struct linear *p;
    int group, groups, t, rows;
    const float *x; /* of the unit's rows, as the kernels want it */
    size_t x_ld;
};

static enum factors factors_of(const struct matrix *w)
{
    return w->round_x ? PAIRS : (enum factors)w->dtype;
}

/* Floats that a row of x takes, or words of pairs, up to a whole vector of them. */
static int row_words(const struct matrix *w)
{
    return w->round_x ? ceil_div(matrix_pairs(w), VW) * VW : w->cols;
}

/* A row of x as pairs of bfloat16; the last may lack its second. */
static void round_row(float *pairs, const float *x, int cols)
{
#ifdef __AVX512BF16__
    for (int j = 0; j < cols; j += 2 * VW, pairs += VW) {
        const vf first = v_load_n(x + j, cols - j);
        const vf second = cols - j > VW ? v_load_n(x + j + VW, cols - j - VW) : v_zero();

        v_store(pairs, (vf)v_to_bf16(first, second));
    }
#else
    uint16_t half[2 * VW] = { 0 };

    for (int j = 0; j < cols; j += 2 * VW, pairs += VW) {
        const int n = smaller(cols - j, 2 * VW);

        for (int i = 0; i < n; i++)
            half[i] = f32_to_bf16(x[j + i]);
        if (n % 2)
            half[n] = 0;
        memcpy(pairs, half, sizeof(half));
    }
#endif
}

/* Rows of each tile but the last: equal tiles, as few as there can be. */
static int tile_rows(const struct unit *u)
{
    return ceil_div(u->rows, ceil_div(u->rows, ROWS_MAX));
}

/* Columns whose weights meet all rows before the next ones do. One tile of rows takes all at
 * once, which leaves the stream of weights whole. */
static int block_columns(const struct unit *u)
{
    const int bytes = u->rows <= FEW_ROWS ? FEW_BYTES : BLOCK_BYTES;

    return u->rows <= ROWS_MAX ? u->p->w->cols : bytes / pair_bytes(u->p->w->dtype) * 2;
}

static const char *panel_at(const struct matrix *w, int panel, int column)
{
    return (const char *)w->data + matrix_index(w, panel * PANEL, column) * dtype_size(w->dtype);
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

/* Outputs of different rows lie pages apart, often in another core's cache: they come while the
 * last columns of their tile are summed. */
static void fetch_outputs(const struct linear *p, int t, int rows, int first)
{
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < GROUP_ROWS; i += 16)
            v_fetch_to_write(p->y + (size_t)(t + r) * p->y_ld + first + i);
}

/* Some columns of a group for the rows of one tile, from the unit's row r on. */
static void sum_tile(const struct unit *u, int group, int r, int rows, int column, int columns,
                     float *sum)
{
    const struct matrix *w = u->p->w;
    const struct shape *shape = &shapes[rows];
    const int step = tile_rows(u), tiles = ceil_div(u->rows, step), bytes = pair_bytes(w->dtype);
    const int block = columns / 2 * bytes, alone = w->round_x ? 0 : AHEAD;
    struct tile tile = { .x = u->x + (size_t)r * u->x_ld + (w->round_x ? column / 2 : column),
                         .x_ld = u->x_ld,
                         .columns = columns,
                         .ahead = (size_t)(tiles == 1 ? alone : block + block / tiles * (r / step)),
                         .fetch_step = (size_t)(bytes / tiles) };

    for (int i = 0; i < GROUP; i += shape->panels) {
        tile.w = panel_at(w, group * GROUP + i, column);
        tile.sum = sum + r * GROUP_ROWS + i * PANEL;
        shape->kernel[factors_of(w)](&tile);
    }
}

static void run_group(const struct unit *u, int group, float *sum)
{
    const struct linear *p = u->p;
    const int block = block_columns(u), step = tile_rows(u), first = group * GROUP_ROWS;
    const int outputs = smaller(p->w->rows - first, GROUP_ROWS);

    memset(sum, 0, (size_t)u->rows * GROUP_ROWS * sizeof(*sum));
    for (int column = 0; column < p->w->cols; column += block)
        for (int r = 0; r < u->rows; r += step) {
            const int rows = smaller(step, u->rows - r);
            const bool last = p->w->cols - column <= block;

            if (last)
                fetch_outputs(p, u->t + r, rows, first);
            sum_tile(u, group, r, rows, column, smaller(block, p->w->cols - column), sum);
            for (int k = r; last && k < r + rows; k++)
                finish(p, u->t + k, first, outputs, sum + k * GROUP_ROWS);
        }
}

/* A phase of products, cut into units: some groups times some rows. */
struct linear_job {
    struct stream *q;
    const struct linear *p;
    int n;      /* products */
    int groups; /* many rows: of a unit */
    int all;    /* few rows: groups of all products, */
    int cuts;   /* and units of each thread's share; 0: many rows */
};

static int group_parts(const struct linear_job *job, const struct linear *p)
{
    return ceil_div(matrix_groups(p->w), job->groups);
}

static int row_parts(const struct linear *p)
{
    const int fit = UNIT_X_BYTES / ((int)sizeof(float) * row_words(p->w)) / ROWS_MAX * ROWS_MAX;

    return ceil_div(p->T, fit < ROWS_MAX ? ROWS_MAX : smaller(fit, UNIT_ROWS));
}

/* Rows of a unit: whole tiles but for the last unit. */
static int part_rows(const struct linear *p)
{
    return ceil_div(ceil_div(p->T, row_parts(p)), ROWS_MAX) * ROWS_MAX;
}

/* Units of one product lie in order of their groups, so that those which share weights run
 * near each other. */
static struct unit find_unit(const struct linear_job *job, int index)
{
    const struct linear *p = job->p;

    while (index >= group_parts(job, p) * row_parts(p)) {
        index -= group_parts(job, p) * row_parts(p);
        p++;
    }

    struct unit u = { .p = p,
                      .group = index / row_parts(p) * job->groups,
                      .t = index % row_parts(p) * part_rows(p),
                      .x_ld = p->x_ld };

    u.x = p->x + (size_t)u.t * p->x_ld;
    u.groups = smaller(matrix_groups(p->w) - u.group, job->groups);
    u.rows = smaller(p->T - u.t, part_rows(p));
    return u;
}

static void run_groups(const struct linear_job *job, struct unit u, int thread)
{
    const struct matrix *w = u.p->w;
    const size_t sums = (size_t)u.rows * GROUP_ROWS, words = (size_t)row_words(w);
    float *sum = pool_scratch(job->q, thread,
                              (sums + (w->round_x ? (size_t)u.rows * words : 0)) * sizeof(*sum));

    if (!sum)
        return;
    if (w->round_x) {
        for (int r = 0; r < u.rows; r++)
            round_row(sum + sums + (size_t)r * words, u.x + (size_t)r * u.x_ld, w->cols);
        u.x = sum + sums;
        u.x_ld = words;
    }
    for (int g = u.group; g < u.group + u.groups; g++)
        run_group(&u, g, sum);
}

/* Each unit of a share has half of what is left of it. */
static int cut(int left)
{
    return ceil_div(left, 2);
}

static int share_begin(const struct linear_job *job, int share)
{
    return (int)((int64_t)job->all * share / pool_threads(job->q));
}

static void run_cut(const struct linear_job *job, int index, int thread)
{
    const int share = index / job->cuts;
    int at = share_begin(job, share), end = share_begin(job, share + 1), first = 0;

    for (int i = index % job->cuts; i > 0; i--)
        at += cut(end - at);
    end = at + cut(end - at);
    for (const struct linear *p = job->p; first < end; first += matrix_groups(p++->w)) {
        struct unit u = { .p = p, .rows = p->T, .x = p->x, .x_ld = p->x_ld };

        u.group = at > first ? at - first : 0;
        u.groups = smaller(end - first, matrix_groups(p->w)) - u.group;
        if (u.groups > 0)
            run_groups(job, u, thread);
    }
}

static void run_unit(const void *arg, int index, int thread)
{
    const struct linear_job *job = arg;

    if (job->cuts)
        run_cut(job, index, thread);
    else
        run_groups(job, find_unit(job, index), thread);
}

/* Whether the rows of each product, if there are any, are those of one unit. */
static bool is_few(const struct linear_job *job)
{
    for (int i = 0; i < job->n; i++)
        if (row_parts(&job->p[i]) != 1)
            return false;
    return true;
}

static void cut_shares(struct linear_job *job)
{
    for (int i = 0; i < job->n; i++)
        job->all += matrix_groups(job->p[i].w);
    for (int left = ceil_div(job->all, pool_threads(job->q)); left > 0; left -= cut(left))
        job->cuts++;
}

static int count_units(const struct linear_job *job)
{
    if (job->cuts)
        return job->cuts * pool_threads(job->q);

    int units = 0;

    for (int i = 0; i < job->n; i++)
        units += group_parts(job, &job->p[i]) * row_parts(&job->p[i]);
    return units;
}

/* The number of groups a unit takes that leaves the slowest thread the least to do. */
static int balanced_groups(struct linear_job job, int threads)
{
    int best = UNIT_GROUPS, least = INT32_MAX;

    for (job.groups = UNIT_GROUPS; job.groups > 0; job.groups--) {
        int most = ceil_div(count_units(&job), threads) * job.groups;

        if (most < least) {
            least = most;
            best = job.groups;
        }
    }
    return best;
}

void ISA_BF16(linear)(struct stream *q, const struct linear *p, int n)
{
    for (int phase; n > 0; p += phase, n -= phase) {
        struct linear_job job = { .q = q, .p = p };
        size_t cost = 0;

        for (phase = 0; phase < n && phase < PRODUCTS_MAX; phase++)
            cost += p[phase].w->bytes / 4 * (size_t)(p[phase].T + 1);
        job.n = phase;
        if (is_few(&job))
            cut_shares(&job);
        else
            job.groups = balanced_groups(job, pool_threads(q));
        pool_run(q, count_units(&job), cost, run_unit, &job);
    }
}
