/* linear_skinny.cu - products of 1 to 8 rows: the weights are read once, straight into
 * registers, as fast as the memory gives them.
 *
 * Weights are the A side of mma.m16n8k16, the rows of x its n side. The order of k inside a
 * product is free as long as both sides agree, so a lane's 16 contiguous bytes of a weight row
 * and the same 8 elements of x serve as fragments without any shuffling. x takes part as two
 * narrow numbers, the rounded value and what is missing, so that 16 (bf16) or 22 (f16) bits of
 * its mantissa count; up to 4 rows both fit the 8 columns of one product. A block owns a few
 * rows of the matrix; its warps share k, and are added in the order of the warps.
 *
 * float32 weights are multiplied in float32 by f32_kernel. */
#include "kernels/cuda/linear.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,
    TILE = 16,           /* weight rows of a warp */
    CHUNK = 64,          /* columns that a warp takes at a time */
    DEPTH = 5,           /* chunks in flight: 10 KiB of weights for each warp */
    BATCH = 4,           /* loads of x in flight for each thread */
    X_BYTES = 80 << 10,  /* of x in shared memory at a time, or DEPTH rounds if that is more */
    X_PAD = 32,          /* elements: neighbouring rows lie 64 bytes apart modulo all banks */
    BLOCKS_OF_AN_SM = 2, /* what the registers allow */
    F32_COLUMNS = 128    /* of a warp's step in f32_kernel */
};

struct skinny {
    const void *w;
    const float *x, *bias;
    float *y;
    size_t x_ld, y_ld;
    int rows, cols, ld;
    int block_rows; /* of one row group */
    int splits;     /* warps that share k; WARPS / splits row groups a block */
    int first_block;
    int rounds, staged; /* chunks of a warp; those whose x is in shared memory at a time */
    enum activation act;
    bool add, aligned; /* x can be read 16 bytes at a time */
};

struct skinny_group {
    int T, n;
    struct skinny p[GROUP_MAX];
};

/* 16 bytes, or zeros where there is no row: one predicated load, as a branch around it would
 * make every warp wait for it where the ways meet. */
static __device__ __forceinline__ uint4 load_weights(const void *p, bool there)
{
    uint4 v = { 0, 0, 0, 0 };

    asm volatile("{.reg .pred there; setp.ne.u32 there, %5, 0;\n"
                 "@there ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];}"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "l"(p), "r"((uint32_t)there));
    return v;
}

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

template <typename E> static __device__ __forceinline__ float2 widen_pair(uint32_t pair)
{
    E h[2];

    memcpy(h, &pair, sizeof(pair));
    return { (float)h[0], (float)h[1] };
}

/* A lane's share of a chunk: two steps of 32 columns, 8 columns of two weight rows in each. */
struct chunk {
    uint4 upper[2], lower[2];
};

template <typename E>
static __device__ __forceinline__ void load_chunk(struct chunk &c, const E *upper, const E *lower,
                                                  int k)
{
#pragma unroll
    for (int s = 0; s < 2; s++) {
        c.upper[s] = load_weights(upper + k + 32 * s, upper != NULL);
        c.lower[s] = load_weights(lower + k + 32 * s, lower != NULL);
    }
}

/* Four columns of a row of x, zeros beyond the end. */
static __device__ __forceinline__ float4 load_x(const struct skinny &p, const float *x, int k)
{
    if (p.aligned && k + 4 <= p.cols)
        return *(const float4 *)(x + k);
    return { k < p.cols ? x[k] : 0.0f, k + 1 < p.cols ? x[k + 1] : 0.0f,
             k + 2 < p.cols ? x[k + 2] : 0.0f, k + 3 < p.cols ? x[k + 3] : 0.0f };
}

/* Brings `columns` columns of T rows of x from column k on to shared memory: their rounded
 * values as rows 0 to T - 1 of `high`, what those miss as the same rows of `low`. */
template <typename E>
static __device__ __forceinline__ void stage_x(E *high, E *low, int ld, const struct skinny &p,
                                               int T, int k, int columns)
{
    const int quads = columns / 4;
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
                v[i] = load_x(p, p.x + t * p.x_ld, k + 4 * j);
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

static __device__ __forceinline__ void finish(const struct skinny &p, int t, int row, float v)
{
    float *y = p.y + (size_t)t * p.y_ld + row;

    v = activate(p.act, v + (p.bias ? p.bias[row] : 0.0f));
    *y = p.add ? *y + v : v;
}

static __device__ __forceinline__ const struct skinny &product_of(const struct skinny_group &g)
{
    int i = 0;

    while (i + 1 < g.n && (int)blockIdx.x >= g.p[i + 1].first_block)
        i++;
    return g.p[i];
}

/* SPLIT: column n < 4 of the product is the rounded row n of x, column n + 4 its rest. */
template <typename E, bool SPLIT>
static __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    skinny_kernel(const __grid_constant__ struct skinny_group g)
{
    extern __shared__ __align__(16) char shared[];
    const struct skinny &p = product_of(g);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, split = warp % p.splits;
    const int groups = WARPS / p.splits, id = lane / 4, quad = lane % 4;
    const int first = ((int)blockIdx.x - p.first_block) * groups * p.block_rows;
    const int row = first + warp / p.splits * p.block_rows;
    const int rows = min(p.block_rows, p.rows - row);
    const int step = CHUNK * p.splits, count = (p.ld / CHUNK - split + p.splits - 1) / p.splits;
    const size_t start = (size_t)row * p.ld + CHUNK * split + 8 * quad;
    const E *upper = id < rows ? (const E *)p.w + start + (size_t)id * p.ld : NULL;
    const E *lower = id + 8 < rows ? (const E *)p.w + start + (size_t)(id + 8) * p.ld : NULL;
    struct chunk ring[DEPTH];
    float sum[4] = { 0 };

    let_next_start();
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        if (d < count)
            load_chunk(ring[d], upper, lower, d * step);
    wait_for_inputs();

    const int x_ld = p.staged * step + X_PAD, column = SPLIT ? id % 4 : id;
    E *const high = (E *)shared, *const low = high + g.T * x_ld;
    const int mine = column * x_ld + CHUNK * split + 8 * quad;
    const E *x = column < g.T ? (SPLIT && id >= 4 ? low : high) + mine : NULL;

    for (int i = 0; i < p.rounds; i += DEPTH) {
        const int at = i % p.staged;

        if (at == 0) {
            __syncthreads();
            stage_x(high, low, x_ld, p, g.T, i * step, min(p.staged * step, p.ld - i * step));
            __syncthreads();
        }
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            if (i + d >= count)
                break;
            multiply(sum, ring[d], x ? x + (at + d) * step : NULL);
            if (!SPLIT)
                multiply(sum, ring[d], x ? x + (at + d) * step + g.T * x_ld : NULL);
            if (i + d + DEPTH < count)
                load_chunk(ring[d], upper, lower, (i + d + DEPTH) * step);
        }
    }

    __syncthreads();
    float(*part)[TILE][SKINNY_ROWS + 1] = (float(*)[TILE][SKINNY_ROWS + 1]) shared;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (SPLIT)
            sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
        part[warp][id + 8 * (i / 2)][2 * quad + i % 2] = sum[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < groups * p.block_rows * g.T; i += THREADS) {
        const int t = i / (groups * p.block_rows), r = i % (groups * p.block_rows);
        const int from = r / p.block_rows * p.splits;
        float v = 0.0f;

        for (int s = 0; s < p.splits; s++)
            v += part[from + s][r % p.block_rows][t];
        if (first + r < p.rows)
            finish(p, t, first + r, v);
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
            finish(p, t, row, sum[t]);
    }
}

static struct skinny describe(const struct linear *p)
{
    const struct matrix *w = p->w;

    return { .w = w->data,
             .x = p->x,
             .bias = p->bias,
             .y = p->y,
             .x_ld = p->x_ld,
             .y_ld = p->y_ld,
             .rows = w->rows,
             .cols = w->cols,
             .ld = matrix_ld(w->dtype, w->cols),
             .block_rows = 1,
             .splits = 1,
             .first_block = 0,
             .rounds = 0,
             .staged = 0,
             .act = p->act,
             .add = p->add,
             .aligned = (uintptr_t)p->x % 16 == 0 && p->x_ld % 4 == 0 };
}

/* Deals `block_rows` rows to every row group. Returns the number of blocks. */
static int place_blocks(struct skinny_group *g, int block_rows)
{
    int blocks = 0;

    for (int i = 0; i < g->n; i++) {
        struct skinny *p = &g->p[i];
        const int rows = block_rows * (WARPS / p->splits);

        p->block_rows = block_rows;
        p->first_block = blocks;
        blocks += (p->rows + rows - 1) / rows;
    }
    return blocks;
}

/* Rows are dealt so that the blocks fill whole waves of the device: the last one then ends
 * together. */
static int plan_blocks(struct skinny_group *g, int slots)
{
    for (int i = 0; i < g->n; i++) {
        const int chunks = g->p[i].ld / 64;

        struct skinny *p = &g->p[i];

        while (p->splits < WARPS && p->splits * 2 <= chunks)
            p->splits *= 2;
        p->rounds = (chunks + p->splits - 1) / p->splits;

        const int bytes = 4 * g->T * CHUNK * p->splits;
        const int fit = max(X_BYTES / bytes / DEPTH, 1) * DEPTH;

        p->staged = min(fit, (p->rounds + DEPTH - 1) / DEPTH * DEPTH);
    }
    for (int waves = 1;; waves++) {
        for (int rows = 1; rows <= TILE; rows++)
            if (place_blocks(g, rows) <= waves * slots)
                return place_blocks(g, rows);
    }
}

template <typename E, bool SPLIT>
static void launch_narrow(struct stream *q, struct skinny_group *g)
{
    const int blocks = plan_blocks(g, q->sms * BLOCKS_OF_AN_SM);
    size_t shared = sizeof(float) * WARPS * TILE * (SKINNY_ROWS + 1);

    for (int i = 0; i < g->n; i++) {
        const struct skinny *p = &g->p[i];
        const size_t x = sizeof(E) * 2 * g->T * (p->staged * p->splits * CHUNK + X_PAD);

        shared = x > shared ? x : shared;
    }
    stream_note(q,
                cudaFuncSetAttribute(skinny_kernel<E, SPLIT>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                "linear");
    launch(q, "linear", skinny_kernel<E, SPLIT>, blocks, THREADS, shared, *g);
}

static void launch_f32(struct stream *q, struct skinny_group *g)
{
    const int blocks = place_blocks(g, 1);

    launch(q, "linear",
           g->T == 1   ? f32_kernel<1>
           : g->T == 2 ? f32_kernel<2>
           : g->T <= 4 ? f32_kernel<4>
                       : f32_kernel<8>,
           blocks, THREADS, 0, *g);
}

void linear_skinny(struct stream *q, const struct linear *p, int n)
{
    struct skinny_group g = { .T = p->T, .n = n, .p = {} };

    for (int i = 0; i < n; i++)
        g.p[i] = describe(&p[i]);
    if (p->w->dtype == DTYPE_BF16)
        p->T <= SKINNY_ROWS / 2 ? launch_narrow<__nv_bfloat16, true>(q, &g)
                                : launch_narrow<__nv_bfloat16, false>(q, &g);
    else if (p->w->dtype == DTYPE_F16)
        p->T <= SKINNY_ROWS / 2 ? launch_narrow<__half, true>(q, &g)
                                : launch_narrow<__half, false>(q, &g);
    else
        launch_f32(q, &g);
}
