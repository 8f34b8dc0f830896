/* conv_linear.cu - the short convolution of Mamba and the product of its rows, in a decode step as
 * one kernel (definition: cpu/fused.c).
 *
 * A block has 64 channels, which are a line of each row of weights, and a tile of 16, 32 or 64 rows
 * of the batch: the smallest that leaves a place on the device for every block at once, 320 blocks
 * of 32 rows for 128 sessions of Mamba 2.8B, 384 of 16 for 256 of 130M. States and inputs are most
 * of what it reads, and come the sooner the more multiprocessors ask for them; weights, read once
 * for each tile, are on their way to shared memory before the wait, as the states are to registers.
 * A thread convolves four channels of every 16th row, and leaves them, rounded to bf16, for the
 * tensor cores.
 *
 * The sums of a block are those of all outputs over its channels. The blocks of a cluster share the
 * outputs: each sends the others their part, into their shared memory, and adds its own in the
 * order of the channels. Nothing but a count of bytes is waited for there: a barrier that makes
 * sums visible would wait for every state that was written, too. What several clusters have goes
 * through the workspace, where the last block to arrive at a part adds all clusters' in order, so
 * that results do not depend on who was last. No block waits for another cluster.
 *
 * A block of Mamba 2.8B takes 38, 52 or 80 KB of shared memory, one of 130M 20, 30 or 50: four,
 * three or two are on a multiprocessor, and begin where no block of pairs is, which has one for
 * itself. Anything else takes the parts. */
#include "kernels/cuda/linear_tiles.cuh"
#include "kernels/cuda/short_conv.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,
    CHANNELS = BLOCK_K,
    QUADS = CHANNELS / 4,       /* threads to a row */
    APART = THREADS / QUADS,    /* rows from one of a thread's to its next */
    SIDE = 16,                  /* rows of the batch, or of weights, in a product */
    EIGHT = 8,                  /* outputs of a row that are added together */
    ROWS_MAX = 4096 / CHANNELS, /* of a tile: what its states leave of the registers */
    LINE = 2 * CHANNELS,        /* bytes: of weights, and of a row for the tensor cores */
    UNITS = LINE / 16,          /* of a line */
    CLUSTER_MAX = 8,            /* blocks, what every Hopper grants */
    WEIGHTS = 12 * SIDE,        /* rows: up to Mamba 2.8B's */
    WEIGHTS_MAX = 18 * SIDE,    /* Falcon-Mamba's */
    SEQUENCES_MAX = 32 * SIDE,  /* more are not measured */
    CLUSTERS_MAX = 64,          /* more take long to be added */
    BATCH = 10,                 /* sums of clusters that are asked for at once: Mamba 2.8B's */
    SHARED_MAX = 100 << 10      /* bytes of a block, for two of them and a kernel beside */
};
static_assert(CLUSTER_MAX * SEQUENCES_MAX / SIDE <= ARRIVALS, "a count for every share");

/* How many blocks of so many rows a multiprocessor has registers for: 64, 80 or 128 a thread. */
static constexpr int places(int rows)
{
    return rows == SIDE ? 4 : rows == 2 * SIDE ? 3 : 2;
}

struct conv_sums {
    struct short_conv conv;
    struct device_batch in;
    const uint16_t *w; /* [rows, ld] */
    size_t ld;
    struct output out;
    float *partial;    /* [clusters, T, rows], or NULL: there is one cluster */
    unsigned *arrived; /* [tiles of the batch's rows, blocks of a cluster] */
    int rows, T;
    int blocks;  /* of a cluster */
    int each;    /* eights of a block, but for the last ones */
    int inverse; /* 2^16 / each, rounded up */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* Unit `unit` of a line in shared memory. Units of 8 lines next to each other never share
 * banks. */
static __device__ __forceinline__ char *unit_at(char *lines, int line, int unit)
{
    return lines + line * LINE + ((unit ^ line) & (UNITS - 1)) * 16;
}

static __device__ __forceinline__ void fetch_weights(const struct conv_sums &g, char *weights)
{
    const uint16_t *from = g.w + blockIdx.x * CHANNELS + threadIdx.x % UNITS * 8;

#pragma unroll 4
    for (int i = (int)threadIdx.x / UNITS; i < g.rows; i += THREADS / UNITS)
        copy_async<16>(unit_at(weights, i, (int)threadIdx.x % UNITS), from + (size_t)i * g.ld);
    copies_commit();
}

/* The inputs of a thread's rows, the newest of which comes after the wait. */
template <int ROWS> struct windows {
    enum { N = ROWS / APART };
    float4 x[N][WIDTH];
    int slot[N]; /* SLOT_NONE: the row is padding, or none */
};

template <int ROWS>
static __device__ __forceinline__ void load_slots(const struct conv_sums &g, int t,
                                                  windows<ROWS> &in)
{
#pragma unroll
    for (int i = 0; i < windows<ROWS>::N; i++)
        in.slot[i] = t + i * APART < g.T ? g.in.slot[t + i * APART] : (int)SLOT_NONE;
}

/* Four channels of row i's state. */
template <int ROWS>
static __device__ __forceinline__ float *state_of(const struct conv_sums &g,
                                                  const windows<ROWS> &in, int i, int c)
{
    return g.conv.state.base + (ptrdiff_t)in.slot[i] * (ptrdiff_t)g.conv.state.stride + c;
}

template <int ROWS>
static __device__ __forceinline__ void load_states(const struct conv_sums &g, int c,
                                                   windows<ROWS> &in)
{
#pragma unroll
    for (int i = 0; i < windows<ROWS>::N; i++)
#pragma unroll
        for (int j = 0; j < WIDTH - 1; j++)
            in.x[i][j] = load_far(state_of<ROWS>(g, in, i, c) + (size_t)j * g.conv.dim,
                                  in.slot[i] != SLOT_NONE);
}

/* The thread's rows from t on, which are the tile's from `line` on. */
template <int ROWS>
static __device__ __forceinline__ void convolve_rows(const struct conv_sums &g,
                                                     const struct taps &w, int t, int c, int line,
                                                     windows<ROWS> &in, char *lines)
{
    const struct short_conv &p = g.conv;
    const int quad = (int)threadIdx.x % QUADS;

#pragma unroll
    for (int i = 0; i < windows<ROWS>::N; i++)
        in.x[i][WIDTH - 1] =
            load_far(p.x + (size_t)(t + i * APART) * p.x_ld + c, t + i * APART < g.T);
#pragma unroll
    for (int i = 0; i < windows<ROWS>::N; i++) {
        const float4(&x)[WIDTH] = in.x[i];
        const floats<4> y = { { convolve(w.of[0], w.bias.x, x[0].x, x[1].x, x[2].x, x[3].x),
                                convolve(w.of[1], w.bias.y, x[0].y, x[1].y, x[2].y, x[3].y),
                                convolve(w.of[2], w.bias.z, x[0].z, x[1].z, x[2].z, x[3].z),
                                convolve(w.of[3], w.bias.w, x[0].w, x[1].w, x[2].w, x[3].w) } };

        *(uint2 *)(unit_at(lines, line + i * APART, quad / 2) +
                   quad % 2 * 8) = { pack_bf16(y.v[0], y.v[1]), pack_bf16(y.v[2], y.v[3]) };
        if (t + i * APART < g.T)
            store<4>(p.y + (size_t)(t + i * APART) * p.y_ld + c, y);
#pragma unroll
        for (int j = 0; in.slot[i] != SLOT_NONE && j < WIDTH - 1; j++)
            __stcs((float4 *)(state_of<ROWS>(g, in, i, c) + (size_t)j * p.dim), x[j + 1]);
    }
}

/* How the warps share a block's products: each has SIDE rows of the batch, and every STEP-th SIDE
 * rows of weights. */
template <int ROWS, int WEIGHTS> struct warp_tiles {
    enum { SIDES = ROWS / SIDE, STEP = WARPS / SIDES * SIDE, N = (WEIGHTS + STEP - 1) / STEP };
    float sum[N][2][4]; /* fragments of SIDE times 8 */
    int line, row;      /* the first of each */

    __device__ __forceinline__ warp_tiles()
        : sum(), line((int)threadIdx.x / 32 % SIDES * SIDE),
          row((int)threadIdx.x / 32 / SIDES * SIDE)
    {
    }
};

/* What is beyond the last row of weights is multiplied by others: no load waits for a branch. */
template <int ROWS, int WEIGHTS>
static __device__ __forceinline__ void multiply(warp_tiles<ROWS, WEIGHTS> &to, char *lines,
                                                char *weights, int rows)
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int k = 0; k < CHANNELS / 16; k++) {
        unsigned a[4];

        load_matrices<false>(a, unit_at(lines + to.line * LINE, lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int i = 0; i < to.N; i++) {
            char *const from = weights + min(to.row + i * to.STEP, rows - SIDE) * LINE;
            unsigned b[4];

            load_matrices<false>(b, unit_at(from, lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            mma_bf16(to.sum[i][0], a, b[0], b[1]);
            mma_bf16(to.sum[i][1], a, b[2], b[3]);
        }
    }
}

/* The blocks of a cluster share the outputs, EIGHT of a row at a time: each is sent the sums of its
 * eights by all, [blocks, each, ROWS, EIGHT], of as many rows as there are, filled up to 8. */
template <int ROWS> static __device__ __forceinline__ int place_of(int eight, int line)
{
    return (eight * ROWS + line) * EIGHT;
}

template <int ROWS, int WEIGHTS>
static __device__ __forceinline__ void send_sums(const struct conv_sums &g,
                                                 const warp_tiles<ROWS, WEIGHTS> &from,
                                                 float *parts, uint64_t *sent, int rank, int left)
{
    const int lane = (int)threadIdx.x % 32, line = from.line + lane / 4;

#pragma unroll
    for (int i = 0; i < from.N; i++) {
        const int row = from.row + i * from.STEP;

        if (row >= g.rows)
            break;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int eight = row / EIGHT + j, to = eight * g.inverse >> 16;
            float *at =
                parts + place_of<ROWS>(rank * g.each + eight - to * g.each, line) + lane % 4 * 2;
            const float(&sum)[4] = from.sum[i][j];

            if (from.line < left)
                store_at_block(at, make_float2(sum[0], sum[1]), sent, to);
            if (from.line + 8 < left)
                store_at_block(at + 8 * EIGHT, make_float2(sum[2], sum[3]), sent, to);
        }
    }
}

/* How many eights are the block's. */
static __device__ __forceinline__ int eights_of(const struct conv_sums &g, int rank)
{
    return min(max(g.rows / EIGHT - rank * g.each, 0), g.each);
}

/* Four of the block's outputs: of row t of the batch, from `row` on. */
struct four {
    int eight, line, half;
    int t, row;
};

template <int ROWS>
static __device__ __forceinline__ struct four four_of(const struct conv_sums &g, int i, int rank)
{
    const int half = i % 2, line = i / 2 % ROWS, eight = i / 2 / ROWS;

    return { eight, line, half, (int)blockIdx.y * ROWS + line,
             (rank * g.each + eight) * EIGHT + half * 4 };
}

static __device__ __forceinline__ void finish(const struct conv_sums &g, const struct four &at,
                                              float4 v)
{
    const struct output &o = g.out;

    if (o.bias)
        v = sum_of(v, *(const float4 *)(o.bias + at.row));
    store_numbers<4>(o.y, o.y_bf16, (size_t)at.t * o.ld + at.row, { { v.x, v.y, v.z, v.w } });
}

/* Over the blocks of the cluster. */
template <int ROWS>
static __device__ __forceinline__ void add_blocks(const struct conv_sums &g, const float *parts,
                                                  int rank, int eights, int cluster)
{
    const int apart = place_of<ROWS>(g.each, 0), last = g.blocks - 1;
    float *const partial = g.partial + cluster * g.T * g.rows;

#pragma unroll 1
    for (int i = (int)threadIdx.x; i < eights * ROWS * 2; i += THREADS) {
        const struct four at = four_of<ROWS>(g, i, rank);
        const float *from = parts + place_of<ROWS>(at.eight, at.line) + at.half * 4;
        float4 of[CLUSTER_MAX], v;

        if (at.t >= g.T)
            continue;
#pragma unroll
        for (int k = 0; k < CLUSTER_MAX; k++)
            of[k] = *(const float4 *)(from + min(k, last) * apart);
        v = of[0];
#pragma unroll
        for (int k = 1; k < CLUSTER_MAX; k++)
            v = k <= last ? sum_of(v, of[k]) : v;
        if (g.partial)
            __stcg((float4 *)(partial + at.t * g.rows + at.row), v);
        else
            finish(g, at, v);
    }
}

/* Over the clusters. */
template <int ROWS>
static __device__ __forceinline__ void add_clusters(const struct conv_sums &g, int rank, int eights,
                                                    int clusters)
{
    const int apart = g.T * g.rows;

#pragma unroll 1
    for (int i = (int)threadIdx.x; i < eights * ROWS * 2; i += THREADS) {
        const struct four at = four_of<ROWS>(g, i, rank);
        const float *from = g.partial + at.t * g.rows + at.row;
        float4 v = { 0, 0, 0, 0 };

        if (at.t >= g.T)
            continue;
#pragma unroll 1
        for (int k = 0; k < clusters; k += BATCH, from += BATCH * apart) {
            float4 of[BATCH];

#pragma unroll
            for (int j = 0; j < BATCH; j++)
                of[j] = load_far(from + j * apart, k + j < clusters);
#pragma unroll
            for (int j = 0; j < BATCH; j++)
                v = sum_of(v, of[j]);
        }
        finish(g, at, v);
    }
}

/* Whether all clusters but this one had arrived at the share, whose sums the block then sees. The
 * last one leaves the count at zero. */
static __device__ __forceinline__ bool arrives_last(unsigned *count, int clusters)
{
    __shared__ bool last;

    __syncthreads();
    if (threadIdx.x == 0)
        last = arrive_in_turn(count, (unsigned)clusters) == (unsigned)clusters - 1;
    __syncthreads();
    return last;
}

#endif

/* Block (x, y): channels from CHANNELS x on, the batch's rows from ROWS y on. Sequences and their
 * states are read before the wait (cuda.cuh). */
template <int ROWS, int WEIGHTS>
static __global__ void __launch_bounds__(THREADS, places(ROWS))
    conv_products(const __grid_constant__ struct conv_sums g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(128) char shared[];
    __shared__ uint64_t sent;
    char *const weights = shared, *const lines = weights + g.rows * LINE;
    float *const parts = (float *)(lines + ROWS * LINE);
    const int line = (int)threadIdx.x / QUADS, t = (int)blockIdx.y * ROWS + line;
    const int c = (int)blockIdx.x * CHANNELS + (int)threadIdx.x % QUADS * 4;
    const int rank = rank_in_cluster(), clusters = clusters_along_x();
    const int eights = eights_of(g, rank), left = min(g.T - (int)blockIdx.y * ROWS, (int)ROWS);
    windows<ROWS> in;

    let_next_start();
    if (threadIdx.x == 0) {
        barrier_init(&sent, 1);
        barriers_ready();
        barrier_expect(&sent,
                       (uint32_t)(g.blocks * eights * ((left + 7) & ~7) * EIGHT) * sizeof(float));
    }
    __syncwarp();
    cluster_arrive();
    load_slots<ROWS>(g, t, in);
    fetch_weights(g, weights);
    load_states<ROWS>(g, c, in);

    const struct taps taps = load_taps(g.conv, c);

    wait_for_inputs();
    convolve_rows<ROWS>(g, taps, t, c, line, in, lines);
    copies_wait<0>();
    __syncthreads();

    warp_tiles<ROWS, WEIGHTS> tiles;

    multiply<ROWS, WEIGHTS>(tiles, lines, weights, g.rows);
    cluster_wait(); /* all blocks are there, and their barriers */
    send_sums<ROWS, WEIGHTS>(g, tiles, parts, &sent, rank, left);
    if (eights == 0)
        return;
    barrier_wait_cluster(&sent, 0);
    add_blocks<ROWS>(g, parts, rank, eights, place_of_cluster());
    if (g.partial && arrives_last(g.arrived + blockIdx.y * CLUSTER_MAX + rank, clusters))
        add_clusters<ROWS>(g, rank, eights, clusters);
#endif
}

static bool conv_fits(const struct short_conv *p)
{
    const uintptr_t off = off_grid(p->x, p->x_ld) | off_grid(p->y, p->y_ld) | off_grid(p->bias, 0) |
                          off_grid(p->weight, 0) | off_grid(p->state);

    return p->W == WIDTH && p->silu && p->y && p->state.base && p->dim % CHANNELS == 0 && off == 0;
}

/* Clusters of as many blocks as can be, all alike. */
static int cluster_of(int columns)
{
    int blocks = min(columns, (int)CLUSTER_MAX);

    while (columns % blocks)
        blocks--;
    return blocks;
}

static bool fits(const struct stream *q, const struct batch *in, const struct short_conv *conv,
                 const struct linear *p)
{
    const struct matrix *w = p->w;
    const struct output out = output_of(p);

    return in->T > 1 && in->T == in->S && q->row_each && in->T <= SEQUENCES_MAX &&
           conv_fits(conv) && p->T == in->T && p->x_bf16 && p->x_bf16 == conv->y_bf16 &&
           p->x_ld == conv->y_ld && w->dtype == DTYPE_BF16 && w->cols == conv->dim &&
           w->rows % SIDE == 0 && w->rows <= WEIGHTS_MAX && p->act == ACT_NONE && !p->add &&
           is_aligned(out) && off_grid(p->bias, 0) == 0 && warpgroups_can(q, p) &&
           cluster_of(conv->dim / CHANNELS) > 1 &&
           conv->dim / CHANNELS <= CLUSTERS_MAX * cluster_of(conv->dim / CHANNELS);
}

/* Bytes of shared memory of a block: weights, rows and the parts that it is sent. */
static int shared_of(const struct conv_sums &g, int rows)
{
    return (g.rows + rows) * (int)LINE + g.blocks * g.each * rows * EIGHT * (int)sizeof(float);
}

/* Whether tiles of so many rows leave a place on the device for every block at once. */
static bool at_once(const struct stream *q, const struct conv_sums &g, int rows)
{
    const int blocks = g.conv.dim / CHANNELS * ceil_div(g.T, rows);
    const int by_memory = (int)q->block_memory / (shared_of(g, rows) + 1024);

    return blocks <= min(places(rows), by_memory) * q->sms;
}

/* The rows of a tile. */
static int choose_rows(const struct stream *q, const struct conv_sums &g)
{
    int rows = SIDE;

    while (rows < g.T && rows < ROWS_MAX && !at_once(q, g, rows))
        rows *= 2;
    return rows;
}

template <int ROWS> static void launch_rows(struct stream *q, const struct conv_sums &g)
{
    const dim3 grid((unsigned)(g.conv.dim / CHANNELS), (unsigned)ceil_div(g.T, ROWS));

    launch_clusters(q, "conv_linear",
                    g.rows <= WEIGHTS ? conv_products<ROWS, WEIGHTS>
                                      : conv_products<ROWS, WEIGHTS_MAX>,
                    grid, THREADS, shared_of(g, ROWS), g.blocks, g, SHARED_MAX);
}

static struct conv_sums sums_of(const struct stream *q, const struct short_conv &conv,
                                const struct linear *p)
{
    const struct matrix *w = p->w;
    const int blocks = cluster_of(conv.dim / CHANNELS), each = ceil_div(w->rows / EIGHT, blocks);

    return { conv,
             q->in,
             (const uint16_t *)w->data,
             (size_t)matrix_ld(DTYPE_BF16, w->cols),
             output_of(p),
             NULL,
             q->arrived,
             w->rows,
             p->T,
             blocks,
             each,
             ceil_div(1 << 16, each) };
}

/* Whether it was enqueued, or failed to be. */
static bool enqueue(struct stream *q, struct conv_sums g)
{
    const int columns = g.conv.dim / CHANNELS, rows = choose_rows(q, g);
    const size_t bytes = (size_t)(columns / g.blocks) * g.T * g.rows * sizeof(float);

    if (shared_of(g, rows) > SHARED_MAX || !at_once(q, g, rows))
        return false;
    if (columns > g.blocks) {
        g.partial = (float *)stream_workspace(q, bytes, "conv_linear");
        if (!g.partial)
            return true;
    }
    if (rows == SIDE)
        launch_rows<SIDE>(q, g);
    else if (rows == 2 * SIDE)
        launch_rows<2 * SIDE>(q, g);
    else
        launch_rows<ROWS_MAX>(q, g);
    return true;
}

void conv_linear(struct stream *q, const struct batch *in, const struct short_conv *conv,
                 const struct linear *product)
{
    if (fits(q, in, conv, product) && enqueue(q, sums_of(q, *conv, product)))
        return;
    short_conv_cuda(q, in, conv);
    linear_cuda(q, product, 1);
}
