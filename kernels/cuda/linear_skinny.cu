/* linear_skinny.cu - products of a few rows: the weights are read once, straight into registers,
 * as fast as the memory gives them.
 *
 * Weights are the A side of mma.m16n8k16, the rows of x its n side. The order of k inside a
 * product is free as long as both sides agree, so a lane's 16 contiguous bytes of a weight row
 * and the same 8 elements of x serve as fragments without any shuffling. A float32 x takes part
 * as two narrow numbers, the rounded value and what is missing, so that 16 (bf16) or 22 (f16)
 * bits of its mantissa count; for 4 rows both fit the 8 columns of one product. Of an x that is
 * bf16, it holds 8 rows. A block brings x to shared memory once and goes over its rows of the
 * matrix in tiles; its warps share k, and are added in the order of the warps while the next
 * tile's weights are already on their way.
 *
 * float32 weights are multiplied in float32 by f32_kernel. */
#include "kernels/cuda/linear.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,
    TILE = 16,           /* weight rows of a warp */
    CHUNK = 64,          /* columns that a warp takes at a time */
    COLUMNS = 8,         /* of x in a product */
    BATCH = 4,           /* loads of x in flight for each thread */
    X_PAD = 32,          /* elements: neighbouring rows lie 64 bytes apart modulo all banks */
    X_BYTES = 88 << 10,  /* of x in shared memory */
    BLOCKS_OF_AN_SM = 2, /* what registers and shared memory allow */
    F32_COLUMNS = 128    /* of a warp's step in f32_kernel */
};

struct skinny {
    const void *w;
    const float *x;
    const uint16_t *x_bf16; /* or NULL: instead of x */
    size_t x_ld;
    struct output out;
    int rows, cols, ld;
    int split_bits; /* 2^split_bits warps share k: WARPS / 2^split_bits row groups a block */
    int rounds;     /* chunks of a warp, rounded up */
    int tile_rows;  /* of one row group */
    int tiles;      /* of a block, one after another */
    int first_block;
    bool aligned; /* x can be read 16 bytes at a time */
};

struct skinny_group {
    int T, n;
    struct skinny p[GROUP_MAX];
};

/* The sums of a block's warps for one tile. */
template <int ROWS> struct parts {
    float of[WARPS][TILE][ROWS + 1];
};

static __device__ __forceinline__ void mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                           uint32_t a3, uint32_t b0, uint32_t b1, __nv_bfloat16)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                           uint32_t a3, uint32_t b0, uint32_t b1, __half)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* A lane's share of a chunk: two steps of 32 columns, 8 columns of two weight rows in each. */
struct chunk {
    uint4 upper[2], lower[2];
};

/* Four columns of a row of x, zeros beyond the end. */
static __device__ __forceinline__ float4 load_x(const struct skinny &p, const float *x, int k)
{
    if (p.aligned && k + 4 <= p.cols)
        return *(const float4 *)(x + k);
    return { k < p.cols ? x[k] : 0.0f, k + 1 < p.cols ? x[k + 1] : 0.0f,
             k + 2 < p.cols ? x[k + 2] : 0.0f, k + 3 < p.cols ? x[k + 3] : 0.0f };
}

/* A float32 x. */
struct split_x {
    enum { ROWS = SKINNY_ROWS };

    /* Brings T rows of x to shared memory: their rounded values as rows 0 to T - 1, what those
     * miss as the next T rows. */
    template <typename E>
    static __device__ __forceinline__ void stage(E *high, int ld, const struct skinny &p, int T)
    {
        E *const low = high + T * ld;
        const int quads = p.ld / 4;
        int t = 0, j = threadIdx.x;

        while (t < T) {
            float4 v[BATCH];
            int at[BATCH];

#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                while (j >= quads && t < T) {
                    j -= quads;
                    t++;
                }
                at[i] = t < T ? t * ld + 4 * j : -1;
                if (t < T)
                    v[i] = load_x(p, p.x + t * p.x_ld, 4 * j);
                j += THREADS;
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                if (at[i] < 0)
                    break;

                const uint2 h = { narrow_pair<E>(v[i].x, v[i].y), narrow_pair<E>(v[i].z, v[i].w) };
                const float2 a = widen_pair<E>(h.x), b = widen_pair<E>(h.y);

                *(uint2 *)(high + at[i]) = h;
                *(uint2 *)(low + at[i]) = { narrow_pair<E>(v[i].x - a.x, v[i].y - a.y),
                                            narrow_pair<E>(v[i].z - b.x, v[i].w - b.y) };
            }
        }
    }

    /* The staged row of a column of the product, or -1 for zeros. */
    static __device__ __forceinline__ int row_of(int column, int T)
    {
        return column % ROWS < T ? column % ROWS + column / ROWS * T : -1;
    }
};

/* An x that is bf16. */
struct bf16_x {
    enum { ROWS = SKINNY_ROWS_BF16 };

    template <typename E>
    static __device__ __forceinline__ void stage(E *to, int ld, const struct skinny &p, int T)
    {
        for (int t = 0; t < T; t++) {
            const uint16_t *x = p.x_bf16 + t * p.x_ld;

            if (p.aligned)
                for (int k = 8 * threadIdx.x; k < p.ld; k += 8 * THREADS)
                    copy_async_part(to + t * ld + k, x + k, 2 * max(min(p.cols - k, 8), 0));
            else
                for (int k = threadIdx.x; k < p.ld; k += THREADS)
                    ((uint16_t *)to)[t * ld + k] = k < p.cols ? x[k] : 0;
        }
        copies_commit();
        copies_wait<0>();
    }

    static __device__ __forceinline__ int row_of(int column, int T)
    {
        return column < T ? column : -1;
    }
};

/* x: this lane's first 8 columns of its row of x in shared memory, or NULL for zeros. */
template <typename E>
static __device__ __forceinline__ void multiply(float sum[4], const struct chunk &c, const E *x)
{
#pragma unroll
    for (int s = 0; s < 2; s++) {
        const uint4 b = x ? *(const uint4 *)(x + 32 * s) : uint4{ 0, 0, 0, 0 };

        mma(sum, c.upper[s].x, c.lower[s].x, c.upper[s].y, c.lower[s].y, b.x, b.y, E());
        mma(sum, c.upper[s].z, c.lower[s].z, c.upper[s].w, c.lower[s].w, b.z, b.w, E());
    }
}

/* What a lane reads of the matrix: rows id and id + 8 of its row group's tiles, from 8 columns
 * of every chunk of its warp. */
template <typename E> struct reader {
    const E *from; /* row id of the first tile */
    int row, rows; /* that row in the matrix; the matrix's */
    int ld, step, count, tile_rows, tile_step;

    __device__ __forceinline__ void load(struct chunk &c, int tile, int i) const
    {
        const int at = row + tile * tile_step, id = threadIdx.x % 32 / 4;
        const E *p = from + (size_t)tile * tile_step * ld + (size_t)i * step;
        const bool upper = id < tile_rows && at < rows, lower = id + 8 < tile_rows && at + 8 < rows;

        if (i >= count)
            return;
#pragma unroll
        for (int s = 0; s < 2; s++) {
            c.upper[s] = load_weights(p + 32 * s, upper);
            c.lower[s] = load_weights(p + (size_t)8 * ld + 32 * s, lower);
        }
    }
};

/* Adds and finishes a tile of all row groups; `first` is its first row in the matrix. */
template <int ROWS>
static __device__ __forceinline__ void end_tile(const struct skinny &p, const parts<ROWS> &part,
                                                int T, int first)
{
    const int groups = WARPS >> p.split_bits, splits = 1 << p.split_bits;

    for (int i = threadIdx.x; i < T * groups * TILE; i += THREADS) {
        const int r = i % TILE, group = i / TILE & (groups - 1);
        const int t = (i / TILE << p.split_bits) / WARPS, row = first + group * p.tile_rows + r;
        float v = 0.0f;

        if (r >= p.tile_rows || row >= p.rows)
            continue;
        for (int s = 0; s < splits; s++)
            v += part.of[group * splits + s][r][t];
        finish(p.out, t, row, v);
    }
}

/* X is split_x or bf16_x. DEPTH chunks of 2 KiB are in flight for each warp, those of the next
 * tile among them. */
template <typename E, typename X, int DEPTH>
static __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    skinny_kernel(const __grid_constant__ struct skinny_group g)
{
    extern __shared__ __align__(16) char shared[];
    __shared__ parts<X::ROWS> part[2]; /* one tile's are read while the next one's come */
    const struct skinny &p = product_of(g);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int splits = 1 << p.split_bits, split = warp & (splits - 1);
    const int id = lane / 4, quad = lane % 4;
    const int tile_step = (WARPS >> p.split_bits) * p.tile_rows;
    const int first = ((int)blockIdx.x - p.first_block) * p.tiles * tile_step;
    const int row = first + (warp >> p.split_bits) * p.tile_rows + id;
    const struct reader<E> w = {
        .from = (const E *)p.w + (size_t)row * p.ld + CHUNK * split + 8 * quad, .row = row,
        .rows = p.rows, .ld = p.ld, .step = CHUNK << p.split_bits,
        .count = (p.ld / CHUNK - split + splits - 1) >> p.split_bits, .tile_rows = p.tile_rows,
        .tile_step = tile_step,
    };
    struct chunk ring[DEPTH];

    let_next_start();
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        w.load(ring[d], 0, d);
    wait_for_inputs();

    const int x_ld = p.ld + X_PAD, x_row = X::row_of(id, g.T);
    const E *x = x_row < 0 ? NULL : (E *)shared + x_row * x_ld + CHUNK * split + 8 * quad;

    X::stage((E *)shared, x_ld, p, g.T);
    __syncthreads();
    for (int tile = 0; tile < p.tiles && first + tile * tile_step < p.rows; tile++) {
        float sum[4] = { 0 };

        for (int i = 0; i < p.rounds; i += DEPTH) {
            const bool last = i + DEPTH == p.rounds;

#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                if (i + d < w.count)
                    multiply(sum, ring[d], x ? x + (i + d) * w.step : NULL);
                if (!last || tile + 1 < p.tiles)
                    w.load(ring[d], last ? tile + 1 : tile, last ? d : i + d + DEPTH);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (X::ROWS < COLUMNS)
                sum[i] += __shfl_xor_sync(~0u, sum[i], X::ROWS / 2);
            if (2 * quad < X::ROWS)
                part[tile % 2].of[warp][id + 8 * (i / 2)][2 * quad + i % 2] = sum[i];
        }
        __syncthreads();
        end_tile(p, part[tile % 2], g.T, first + tile * tile_step);
    }
}

/* A warp for each row of the matrix; lanes take four columns at a time. */
template <int ROWS>
static __global__ void __launch_bounds__(THREADS)
    f32_kernel(const __grid_constant__ struct skinny_group g)
{
    const struct skinny &p = product_of(g);
    const int lane = threadIdx.x % 32;
    const int row = ((int)blockIdx.x - p.first_block) * WARPS + (int)threadIdx.x / 32;
    float sum[ROWS] = { 0 };

    let_next_start();
    wait_for_inputs();
    if (row >= p.rows)
        return;

    const float *w = (const float *)p.w + (size_t)row * p.ld;

#pragma unroll 4
    for (int k = 4 * lane; k < p.ld; k += F32_COLUMNS) {
        const float4 v = *(const float4 *)(w + k);
        const float weight[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int t = 0; t < ROWS; t++)
                if (t < g.T && k + i < p.cols)
                    sum[t] = fmaf(weight[i], p.x[(size_t)t * p.x_ld + k + i], sum[t]);
    }
#pragma unroll
    for (int t = 0; t < ROWS; t++) {
        for (int offset = 16; offset; offset /= 2)
            sum[t] += __shfl_xor_sync(~0u, sum[t], offset);
        if (t < g.T && lane == 0)
            finish(p.out, t, row, sum[t]);
    }
}

static struct skinny describe(const struct linear *p)
{
    const struct matrix *w = p->w;
    const int ld = matrix_ld(w->dtype, w->cols), chunks = ld / CHUNK;
    int bits = 0;

    while (1 << bits < WARPS && 2 << bits <= chunks)
        bits++;
    return { .w = w->data,
             .x = p->x,
             .x_bf16 = p->x_bf16,
             .x_ld = p->x_ld,
             .out = output_of(p),
             .rows = w->rows,
             .cols = w->cols,
             .ld = ld,
             .split_bits = bits,
             .rounds = (chunks + (1 << bits) - 1) >> bits,
             .tile_rows = 1,
             .tiles = 1,
             .first_block = 0,
             .aligned = x_is_aligned(p) };
}

/* Gives every row group the work of `rows` rows of the first product, as equally tall tiles.
 * Returns the number of blocks. */
static int deal_rows(struct skinny_group *g, int rows)
{
    int blocks = 0;

    for (int i = 0; i < g->n; i++) {
        struct skinny *p = &g->p[i];
        const int part = max(rows * g->p[0].rounds / p->rounds, 1);

        p->tiles = (part + TILE - 1) / TILE;
        p->tile_rows = (part + p->tiles - 1) / p->tiles;
        p->first_block = blocks;

        const int block_rows = p->tiles * p->tile_rows * (WARPS >> p->split_bits);

        blocks += (p->rows + block_rows - 1) / block_rows;
    }
    return blocks;
}

/* All blocks are on the device at once, and their parts as small as that allows: they end
 * together. */
static int place_blocks(struct skinny_group *g, int places)
{
    int rows = 1, blocks;

    while ((blocks = deal_rows(g, rows)) > places)
        rows++;
    return blocks;
}

/* A float32 row is staged as two. */
static size_t x_bytes(int T, int ld, bool is_bf16)
{
    return (size_t)(is_bf16 ? 2 : 4) * T * (ld + X_PAD);
}

template <typename E, typename X, int DEPTH>
static void launch_depth(struct stream *q, struct skinny_group *g)
{
    const int blocks = place_blocks(g, q->sms * BLOCKS_OF_AN_SM);
    size_t shared = 0;

    for (int i = 0; i < g->n; i++) {
        g->p[i].rounds = (g->p[i].rounds + DEPTH - 1) / DEPTH * DEPTH;
        shared = max(shared, x_bytes(g->T, g->p[i].ld, g->p[i].x_bf16 != NULL));
    }
    stream_note(q,
                cudaFuncSetAttribute(skinny_kernel<E, X, DEPTH>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, X_BYTES),
                "linear");
    launch(q, "linear", skinny_kernel<E, X, DEPTH>, blocks, THREADS, shared, *g);
}

/* A depth that divides the chunks of a warp leaves none of it empty. */
template <typename E, typename X>
static void launch_narrow(struct stream *q, struct skinny_group *g)
{
    g->p[0].rounds % 5 ? launch_depth<E, X, 4>(q, g) : launch_depth<E, X, 5>(q, g);
}

static void launch_f32(struct stream *q, struct skinny_group *g)
{
    int blocks = 0;

    for (int i = 0; i < g->n; i++) {
        g->p[i].first_block = blocks;
        blocks += (g->p[i].rows + WARPS - 1) / WARPS;
    }
    launch(q, "linear",
           g->T == 1   ? f32_kernel<1>
           : g->T == 2 ? f32_kernel<2>
                       : f32_kernel<SKINNY_ROWS>,
           blocks, THREADS, 0, *g);
}

int linear_skinny_rows(const struct linear *p)
{
    const int ld = matrix_ld(p->w->dtype, p->w->cols);
    int rows = p->x_bf16 ? SKINNY_ROWS_BF16 : SKINNY_ROWS;

    while (rows > 0 && p->w->dtype != DTYPE_F32 && x_bytes(rows, ld, p->x_bf16) > X_BYTES)
        rows--;
    return rows;
}

void linear_skinny(struct stream *q, const struct linear *p, int n)
{
    struct skinny_group g = { .T = p->T, .n = n, .p = {} };

    for (int i = 0; i < n; i++)
        g.p[i] = describe(&p[i]);
    if (p->x_bf16)
        launch_narrow<__nv_bfloat16, bf16_x>(q, &g);
    else if (p->w->dtype == DTYPE_BF16)
        launch_narrow<__nv_bfloat16, split_x>(q, &g);
    else if (p->w->dtype == DTYPE_F16)
        launch_narrow<__half, split_x>(q, &g);
    else
        launch_f32(q, &g);
}
