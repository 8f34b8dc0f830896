/* linear_single.cu - products of one row: what a lone session decodes with.
 *
 * A lane keeps its columns of x in registers, and its columns of the next rows of weights are
 * on their way while it multiplies those that are there, the first of them before the kernel
 * in front has ended. Warps that share the columns of a row are added in their order. */
#include "kernels/cuda/linear.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,
    RUN = 8,             /* columns of a vector: 16 bytes of weights */
    VECTORS_MAX = 4,     /* of a lane */
    IN_FLIGHT = 15,      /* vectors of weights on their way to a lane */
    BLOCKS_OF_AN_SM = 2, /* what registers allow */
    SHORT_ROWS = 2,      /* of a warp, all on their way at once */
    SPLIT_BITS_MAX = 3
};

struct single {
    const void *w, *x;
    struct output out;
    int rows, cols, ld;
    int first_block;
};

struct single_group {
    int n;
    int split_bits; /* 2^split_bits warps share a row */
    int tile_rows;  /* of those, one after another */
    struct single p[GROUP_MAX];
};

/* RUN columns of x in a lane's registers, zeros beyond the last one. */
struct float_run {
    float v[RUN];

    __device__ __forceinline__ void load(const float *x, int left)
    {
        if (left >= RUN) {
            *(float4 *)&v[0] = *(const float4 *)x;
            *(float4 *)&v[4] = *(const float4 *)(x + 4);
        } else {
#pragma unroll
            for (int i = 0; i < RUN; i++)
                v[i] = i < left ? x[i] : 0.0f;
        }
    }

    __device__ __forceinline__ float2 pair(int i) const
    {
        return { v[2 * i], v[2 * i + 1] };
    }
};

struct bf16_run {
    uint32_t v[RUN / 2];

    __device__ __forceinline__ void load(const uint16_t *x, int left)
    {
        if (left >= RUN) {
            *(uint4 *)v = *(const uint4 *)x;
        } else {
#pragma unroll
            for (int i = 0; i < RUN / 2; i++)
                v[i] = (2 * i < left ? x[2 * i] : 0u) |
                       (2 * i + 1 < left ? (uint32_t)x[2 * i + 1] << 16 : 0u);
        }
    }

    __device__ __forceinline__ float2 pair(int i) const
    {
        return widen_pair<__nv_bfloat16>(v[i]);
    }
};

static __device__ __forceinline__ const float *place_of(const struct single &p, float_run)
{
    return (const float *)p.x;
}

static __device__ __forceinline__ const uint16_t *place_of(const struct single &p, bf16_run)
{
    return (const uint16_t *)p.x;
}

/* A lane's columns: `vectors` of 8, a stride apart. */
template <int VECTORS> struct columns {
    int first, stride, end;

    template <typename E>
    __device__ __forceinline__ void load(uint4 (&to)[VECTORS], const E *row, bool there) const
    {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            to[v] = load_weights(row + first + v * stride, there && first + v * stride < end);
    }

    template <typename X>
    __device__ __forceinline__ void load_x(X (&to)[VECTORS], const struct single &p) const
    {
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            to[v].load(place_of(p, X()) + first + v * stride, p.cols - first - v * stride);
    }
};

template <typename E, typename X, int VECTORS>
static __device__ __forceinline__ float dot(const uint4 (&w)[VECTORS], const X (&x)[VECTORS])
{
    float even = 0.0f, odd = 0.0f;

#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const uint32_t pair[4] = { w[v].x, w[v].y, w[v].z, w[v].w };

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 a = widen_pair<E>(pair[i]), b = x[v].pair(i);

            even = fmaf(a.x, b.x, even);
            odd = fmaf(a.y, b.y, odd);
        }
    }
    return even + odd;
}

/* The rows that a lane has on their way, and the registers that takes. A short product leaves
 * room for its neighbours, which are then there before it ends. */
template <int VECTORS, bool SHORT> struct ring_of {
    enum {
        DEPTH = SHORT          ? SHORT_ROWS
                : VECTORS == 1 ? 8
                               : IN_FLIGHT / VECTORS,
        REGISTERS = SHORT ? (VECTORS > 3 ? 104 : 88) : 128
    };
};

/* What the end of a row reads beside its sum. */
struct ending {
    float bias, y;

    __device__ __forceinline__ void load(const struct output &o, int row)
    {
        bias = o.bias ? o.bias[row] : 0.0f;
        y = o.add ? o.y[row] : 0.0f;
    }
};

/* X is how x is held. */
template <typename E, typename X, int VECTORS, bool SHORT>
static __global__ void __maxnreg__((ring_of<VECTORS, SHORT>::REGISTERS))
    single_kernel(const __grid_constant__ struct single_group g)
{
    enum { DEPTH = ring_of<VECTORS, SHORT>::DEPTH };
    extern __shared__ float part[]; /* [rows of the block][2^split_bits] */
    const struct single &p = product_of(g);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int splits = 1 << g.split_bits, split = warp & (splits - 1);
    const int block_rows = (WARPS >> g.split_bits) * g.tile_rows;
    const int block_first = ((int)blockIdx.x - p.first_block) * block_rows;
    const int tile = (warp >> g.split_bits) * g.tile_rows, first = block_first + tile;
    const int rows = min(g.tile_rows, p.rows - first);
    const columns<VECTORS> own = { RUN * (32 * split + lane), RUN * 32 * splits, p.ld };
    const E *w = (const E *)p.w + (size_t)first * p.ld;
    const int own_row = block_first + (int)threadIdx.x;
    uint4 ring[DEPTH][VECTORS];
    X x[VECTORS];
    struct ending ending = {};

    let_next_start();
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        own.load(ring[d], w + (size_t)d * p.ld, d < rows);
    wait_for_inputs();
    own.load_x(x, p);
    if ((int)threadIdx.x < block_rows && own_row < p.rows)
        ending.load(p.out, own_row);
    for (int i = 0; i < rows; i += DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float sum = dot<E>(ring[d], x);

            own.load(ring[d], w + (size_t)(i + d + DEPTH) * p.ld, i + d + DEPTH < rows);
#pragma unroll
            for (int offset = 16; offset; offset /= 2)
                sum += __shfl_xor_sync(~0u, sum, offset);
            if (lane == 0 && i + d < rows)
                part[(tile + i + d) * splits + split] = sum;
        }
    }
    __syncthreads();
    for (int r = threadIdx.x; r < block_rows && block_first + r < p.rows; r += THREADS) {
        float v = 0.0f;

        for (int s = 0; s < splits; s++)
            v += part[r * splits + s];
        if (r >= THREADS)
            ending.load(p.out, block_first + r);
        v = activate(p.out.act, v + ending.bias);
        store_numbers<1>(p.out.y, p.out.y_bf16, (size_t)(block_first + r),
                         { { p.out.add ? ending.y + v : v } });
    }
}

static int split_bits_of(int ld)
{
    int bits = 0;

    while (bits < SPLIT_BITS_MAX && ld > VECTORS_MAX * RUN * 32 << bits)
        bits++;
    return bits;
}

/* All blocks are on the device at once, and their parts as small as that allows. Returns their
 * number. */
static int place_blocks(struct single_group *g, int places)
{
    for (g->tile_rows = 1;; g->tile_rows++) {
        const int block_rows = (WARPS >> g->split_bits) * g->tile_rows;
        int blocks = 0;

        for (int i = 0; i < g->n; i++) {
            g->p[i].first_block = blocks;
            blocks += (g->p[i].rows + block_rows - 1) / block_rows;
        }
        if (blocks <= places)
            return blocks;
    }
}

template <typename E, typename X, bool SHORT>
static void launch_vectors(struct stream *q, struct single_group *g, int ld)
{
    void (*const kernels[])(const struct single_group) = { single_kernel<E, X, 1, SHORT>,
                                                           single_kernel<E, X, 2, SHORT>,
                                                           single_kernel<E, X, 3, SHORT>,
                                                           single_kernel<E, X, 4, SHORT> };
    const int blocks = place_blocks(g, q->sms * (SHORT ? 1 : BLOCKS_OF_AN_SM));
    const int lanes = RUN * 32 << g->split_bits, vectors = (ld + lanes - 1) / lanes;
    const size_t shared = (size_t)WARPS * g->tile_rows * sizeof(float);

    launch(q, "linear", kernels[vectors - 1], blocks, THREADS, shared, *g);
}

bool linear_single_can(const struct linear *p)
{
    const uintptr_t x = p->x_bf16 ? (uintptr_t)p->x_bf16 : (uintptr_t)p->x;

    return p->T == 1 && p->w->dtype != DTYPE_F32 && x % 16 == 0 &&
           matrix_ld(p->w->dtype, p->w->cols) <= VECTORS_MAX * RUN * 32 << SPLIT_BITS_MAX;
}

void linear_single(struct stream *q, const struct linear *p, int n)
{
    struct single_group g = { .n = n, .split_bits = 0, .tile_rows = 1, .p = {} };
    int widest = 0;

    for (int i = 0; i < n; i++) {
        const struct matrix *w = p[i].w;
        const int ld = matrix_ld(w->dtype, w->cols);

        g.p[i] = { .w = w->data,
                   .x = p[i].x_bf16 ? (const void *)p[i].x_bf16 : (const void *)p[i].x,
                   .out = output_of(&p[i]),
                   .rows = w->rows,
                   .cols = w->cols,
                   .ld = ld,
                   .first_block = 0 };
        widest = max(widest, ld);
    }
    g.split_bits = split_bits_of(widest);
    place_blocks(&g, q->sms);
    if (p->x_bf16 && g.tile_rows <= SHORT_ROWS)
        launch_vectors<__nv_bfloat16, bf16_run, true>(q, &g, widest);
    else if (p->x_bf16)
        launch_vectors<__nv_bfloat16, bf16_run, false>(q, &g, widest);
    else if (p->w->dtype == DTYPE_BF16)
        launch_vectors<__nv_bfloat16, float_run, false>(q, &g, widest);
    else
        launch_vectors<__half, float_run, false>(q, &g, widest);
}
