/* row.cuh - norms of few rows: a row lies in the registers of a cluster of blocks, four numbers a
 * thread, so that few rows are read and written by all multiprocessors and no number twice. What a
 * product left in pieces is added on the way. On other devices than Hopper a row has one block. */
#ifndef KERNELS_CUDA_ROW_CUH
#define KERNELS_CUDA_ROW_CUH

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/moments.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
    ROW_OWN = 4,
    ROW_BLOCKS_MAX = 8,
    ROW_THREADS_MAX = 512, /* of a block */
    ROW_WARPS_MAX = ROW_BLOCKS_MAX * ROW_THREADS_MAX / WARP
};

/* How many blocks each of so many rows has: whole warps, and as many as give every multiprocessor
 * one. 0: they do not divide so. */
static inline int row_blocks(const struct stream *q, int rows, int dim)
{
    const int most = q->overlaps ? ROW_BLOCKS_MAX : 1, threads = dim / ROW_OWN;
    int blocks = 0;

    for (int n = 1; n <= most && threads % (WARP * n) == 0 && dim % ROW_OWN == 0; n *= 2)
        if (threads <= ROW_THREADS_MAX * n && (!blocks || rows * blocks < q->sms))
            blocks = n;
    return blocks;
}

static inline bool row_fits(const struct stream *q, const struct norm *p)
{
    const float *added_bias = p->added ? p->added->bias : NULL;

    return p->groups == 1 && row_blocks(q, p->T, p->dim) &&
           (off_grid(p->x, p->x_ld) | off_grid(p->weight, 0) | off_grid(p->bias, 0) |
            off_grid(added_bias, 0)) == 0;
}

/* Enqueues kernel<<<(rows, blocks of a row), threads>>>(args...). */
template <typename... P, typename... A>
static void launch_rows(struct stream *q, const char *where, void (*kernel)(P...), int rows,
                        int dim, A... args)
{
    const int blocks = row_blocks(q, rows, dim);

    launch_as(q, where, true, dim3(1, (unsigned)blocks), kernel,
              dim3((unsigned)rows, (unsigned)blocks), dim3((unsigned)(dim / ROW_OWN / blocks)), 0,
              args...);
}

/* The first of the thread's numbers. */
static __device__ __forceinline__ int row_place(void)
{
    return (int)(blockIdx.y * blockDim.x + threadIdx.x) * ROW_OWN;
}

/* Numbers c to c + 3 of row t, complete. */
static __device__ __forceinline__ floats<ROW_OWN> load_own(const struct norm &p,
                                                           const struct pieces &add, int t, int c)
{
    floats<ROW_OWN> x = load<ROW_OWN>(p.x + (size_t)t * p.x_ld + c), piece[PIECES_MAX], bias = {};

    if (add.n == 0)
        return x;
#pragma unroll
    for (int i = 0; i < PIECES_MAX; i++)
        if (i < add.n)
            piece[i] = load<ROW_OWN>(add.at + i * add.size + (size_t)t * p.dim + c);
    if (add.bias)
        bias = load<ROW_OWN>(add.bias + c);
    for (int j = 0; j < ROW_OWN; j++) {
        float sum = bias.v[j];

#pragma unroll
        for (int i = 0; i < PIECES_MAX; i++)
            if (i < add.n)
                sum += piece[i].v[j];
        x.v[j] += sum;
    }
    store<ROW_OWN>(add.y + (size_t)t * p.x_ld + c, x);
    return x;
}

/* The moments of a row's warps; of two rows in turn, as a block may be one ahead of another. Those
 * of other blocks are sent, and nothing but a count of their bytes is waited for: a barrier of the
 * cluster would wait for all that was written before. */
struct row_moments {
    moments of[2][ROW_WARPS_MAX];
    uint64_t sent[2];
};

/* Before the first row: every block is there. */
static __device__ __forceinline__ void begin_rows(struct row_moments *s)
{
#if __CUDA_ARCH__ >= 900
    if (gridDim.y == 1)
        return;
    if (threadIdx.x == 0) {
        barrier_init(&s->sent[0], 1);
        barrier_init(&s->sent[1], 1);
        barriers_ready();
    }
    __syncwarp();
    cluster_arrive();
    cluster_wait();
#endif
}

/* m of the warp, of all warps. Blocks that are alone are no cluster, and cannot send. */
static __device__ __forceinline__ void share_moments(moments m, moments *of, uint64_t *sent,
                                                     uint32_t parity)
{
    const int warps = (int)blockDim.x / WARP, lane = (int)threadIdx.x % WARP;
    moments *const place = of + (int)blockIdx.y * warps + (int)threadIdx.x / WARP;

    if (gridDim.y == 1) {
        if (lane == 0)
            *place = m;
        __syncthreads();
        return;
    }
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0)
        barrier_expect(sent, (uint32_t)(gridDim.y * warps * sizeof(m)));
    __syncwarp();
    if (lane < (int)gridDim.y)
        store_at_block(&place->mean, { m.mean, m.square }, sent, lane);
    barrier_wait_cluster(sent, parity);
#endif
}

/* Of the k-th row. */
static __device__ __forceinline__ moments join_row(const floats<ROW_OWN> &x, int k,
                                                   struct row_moments *s)
{
    const int warps = (int)(gridDim.y * blockDim.x) / WARP;
    moments m = { ((x.v[0] + x.v[1]) + (x.v[2] + x.v[3])) / ROW_OWN, 0.0f };

    for (int j = 0; j < ROW_OWN; j++)
        m.square += (x.v[j] - m.mean) * (x.v[j] - m.mean);
    share_moments(join_lanes(m, ROW_OWN), s->of[k % 2], &s->sent[k % 2], k / 2 % 2);
    return join_sets(s->of[k % 2], warps, ROW_OWN * WARP);
}

/* The thread's numbers of the k-th row, normed. */
static __device__ __forceinline__ floats<ROW_OWN> norm_own(const struct norm &p, floats<ROW_OWN> x,
                                                           const floats<ROW_OWN> &weight,
                                                           const floats<ROW_OWN> &bias, int k,
                                                           struct row_moments *s)
{
    const moments m = join_row(x, k, s);
    const float mean = p.kind == NORM_LAYER ? m.mean : 0.0f, off = m.mean - mean;
    const float scale = 1.0f / sqrtf(m.square / (float)p.dim + off * off + p.eps);

    for (int j = 0; j < ROW_OWN; j++)
        x.v[j] = (x.v[j] - mean) * scale * weight.v[j] + bias.v[j];
    return x;
}

/* The thread's weight or bias, or `none`. */
static __device__ __forceinline__ floats<ROW_OWN> load_constant(const float *p, int c, float none)
{
    return p ? load<ROW_OWN>(p + c) : floats<ROW_OWN>{ { none, none, none, none } };
}

#endif
