/* linear_wide.cu - products of up to 128 rows on Hopper: weights go by tensor copies into shared
 * memory and from there into warpgroup products.
 *
 * Operands are swapped: 128 rows of weights are the tall side of a tile, all rows of x its n
 * side, so that a tile reads its weights once; where that makes too few tiles, they are of 64 rows
 * of weights or of a part of x. There are fewer tiles than the device has room for blocks, so the
 * blocks of a cluster share a tile's k; each keeps its sums in its shared memory, and adds and
 * finishes its part of the columns over all of them in the order of k.
 * Weights depend on no other kernel: the first ones are on their way before the kernel in
 * front has ended.
 *
 * An x that is not bf16 is rounded to the weights' type by a kernel in front, one that is not
 * aligned copied. */
#include "kernels/cuda/linear_tiles.cuh"

#include <limits.h>

enum {
    SHARED_BYTES = 208 << 10, /* of a multiprocessor; the rest is for the kernel behind */
    SPLITS_MAX = 8,           /* blocks of a cluster, what every Hopper grants */
    SLIM = 64,                /* rows of weights of a tile where there are few, and up to 64 of x */
    SLIM_ROWS = 16,           /* of x or more; with fewer, the waits are all there is */
    PART_ROWS = 64,           /* of x, the least that a tile is cut to */
    SHARED_K = 6              /* stages, three for each of two blocks */
};

struct wide_group {
    struct tiled p[GROUP_MAX];
    int T, n;
    int sides;  /* tiles of x's rows */
    int splits; /* blocks, a cluster, that share a tile */
};

/* Tiles of TALL rows of weights and ROWS of x. */
template <int TALL, int X_ROWS> struct wide_shape {
    enum {
        TALL_ROWS = TALL,
        ROWS = X_ROWS,
        CONSUMERS = 2 * TALL,          /* threads: a warpgroup for 64 rows */
        THREADS = CONSUMERS + 32,      /* and the warp that copies */
        BLOCKS = TALL == SLIM ? 3 : 2, /* of a multiprocessor */
        TALL_BYTES = TALL * BLOCK_K * 2,
        STAGE_BYTES = TALL_BYTES + ROWS * BLOCK_K * 2,
        STAGES = (SHARED_BYTES / BLOCKS - 2048) / STAGE_BYTES,
        SHARED = 1024 + STAGES * STAGE_BYTES,
        LD = TALL + 4 /* floats; two of these rows of sums differ by 4 banks */
    };
    static_assert(STAGES * STAGE_BYTES >= ROWS * LD * 4, "the sums must fit");
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* The copying thread: n stages from k0 on of the tile whose first row is `row`, and of x's rows
 * from t on. */
template <typename S>
static __device__ __forceinline__ void copy_stages(char *stages, uint64_t *full, uint64_t *empty,
                                                   const struct tiled &p, int row, int t, int k0,
                                                   int n)
{
    const int early = min(n, (int)S::STAGES);

    for (int i = 0; i < early; i++) {
        barrier_expect(&full[i], S::STAGE_BYTES);
        copy_box(stages + i * S::STAGE_BYTES, &p.w_map, (k0 + i) * BLOCK_K, row, &full[i],
                 L2_EVICT_FIRST);
    }
    wait_for_inputs();
    for (int i = 0; i < early; i++)
        copy_box(stages + i * S::STAGE_BYTES + S::TALL_BYTES, &p.x_map, (k0 + i) * BLOCK_K, t,
                 &full[i], L2_EVICT_LAST);
    for (int i = early, stage = 0, parity = 0; i < n; i++) {
        char *to = stages + stage * S::STAGE_BYTES;

        barrier_wait(&empty[stage], parity);
        barrier_expect(&full[stage], S::STAGE_BYTES);
        copy_box(to, &p.w_map, (k0 + i) * BLOCK_K, row, &full[stage], L2_EVICT_FIRST);
        copy_box(to + S::TALL_BYTES, &p.x_map, (k0 + i) * BLOCK_K, t, &full[stage], L2_EVICT_LAST);
        if (++stage == S::STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
}

/* A warpgroup: the sums of its 64 rows over n stages. */
template <typename E, typename S>
static __device__ __forceinline__ void multiply_stages(float (&sum)[S::ROWS / 2],
                                                       const char *stages, uint64_t *full,
                                                       uint64_t *empty, int n)
{
    for (int i = 0, stage = 0, before = 0, parity = 0; i < n; i++) {
        const char *tile = stages + stage * S::STAGE_BYTES;
        const uint64_t a = tile_descriptor(tile + threadIdx.x / 128 * (64 * BLOCK_K * 2));
        const uint64_t b = tile_descriptor(tile + S::TALL_BYTES);

        barrier_wait(&full[stage], parity);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < BLOCK_K / 16; k++)
            wgmma(sum, a + 2 * k, b + 2 * k, E());
        wgmma_end();
        wgmma_wait<1>(); /* the stage before is free */
        if (i > 0 && threadIdx.x % 32 == 0)
            barrier_arrive(&empty[before]);
        before = stage;
        if (++stage == S::STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
    wgmma_wait<0>();
    hold(sum);
}

/* This block's share of the tile's T columns, over all blocks of the cluster: lanes that cover a
 * column take COLUMNS at a time, each of them four rows. Another block's memory is far, so that
 * COLUMNS * RANKS parts are asked for before the first is used. */
template <typename S, int COLUMNS, int RANKS>
static __device__ __forceinline__ void add_parts(const struct wide_group &g, const struct tiled &p,
                                                 const float *part, int row, int first, int T,
                                                 int rank)
{
    enum { LANES = S::TALL_ROWS / 4 };
    const int splits = g.splits, share = (T + splits - 1) / splits;
    const int lane = threadIdx.x % LANES, rows = p.rows - row - 4 * lane;
    const int end = min(T, (rank + 1) * share);
    const float4 none = { 0, 0, 0, 0 };
    const struct output &o = p.out;
    const float4 bias = o.bias ? load_row(o.bias + row + 4 * lane, false, rows) : none;

    part += 4 * lane;
    for (int t = rank * share + (int)threadIdx.x / LANES * COLUMNS; t < end;
         t += S::CONSUMERS / LANES * COLUMNS) {
        const size_t at = (size_t)(first + t) * o.ld + row + 4 * lane;
        float4 old[COLUMNS], v[COLUMNS];

#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            old[i] = o.add && t + i < end ? load_row(o.y + at + i * o.ld, p.aligned, rows) : none;
            v[i] = bias;
        }
#pragma unroll 1
        for (int s = 0; s < splits; s += RANKS) {
            float4 of[COLUMNS][RANKS];

#pragma unroll
            for (int i = 0; i < COLUMNS * RANKS; i++)
                of[i / RANKS][i % RANKS] =
                    t + i / RANKS < end && s + i % RANKS < splits
                        ? RANKS == 1 ? *(const float4 *)(part + (t + i / RANKS) * S::LD)
                                     : load_of_block(part + (t + i / RANKS) * S::LD, s + i % RANKS)
                        : none;
#pragma unroll
            for (int i = 0; i < COLUMNS * RANKS; i++)
                v[i / RANKS] = sum_of(v[i / RANKS], of[i / RANKS][i % RANKS]);
        }
#pragma unroll 1
        for (int i = 0; o.act != ACT_NONE && i < 4; i++) { /* each element takes its turn as x */
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                v[j] = { v[j].y, v[j].z, v[j].w, activate(o.act, v[j].x) };
        }
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (t + i < end)
                store_row(o, at + i * o.ld, sum_of(v[i], old[i]), p.aligned, rows);
    }
}

#endif

template <typename E, typename S>
static __global__ void __launch_bounds__(S::THREADS, S::BLOCKS)
    wide_kernel(const __grid_constant__ struct wide_group g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char shared[];
    __shared__ uint64_t full[S::STAGES], empty[S::STAGES];
    char *stages = shared + (-shared_address(shared) & 1023);
    const int pair = (int)blockIdx.x / g.splits, rank = (int)blockIdx.x - pair * g.splits;
    const int tile = pair / g.sides, t = (pair - tile * g.sides) * S::ROWS;
    const struct tiled &p = product_of_tile(g, tile);
    const int row = (tile - p.first_tile) * S::TALL_ROWS;
    const int k0 = p.blocks_k * rank / g.splits, k1 = p.blocks_k * (rank + 1) / g.splits;
    float *part = (float *)stages;

    let_next_start();
    if (threadIdx.x == S::CONSUMERS) {
        prefetch_map(&p.w_map);
        prefetch_map(&p.x_map);
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], S::CONSUMERS / 32);
        }
        barriers_ready();
    }
    __syncthreads();
    if (threadIdx.x >= S::CONSUMERS) {
        if (threadIdx.x == S::CONSUMERS)
            copy_stages<S>(stages, full, empty, p, row, t, k0, k1 - k0);
        __syncwarp();
    } else {
        const int warp = threadIdx.x / 32, id = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
        float sum[S::ROWS / 2] = {};

        wait_for_inputs();
        multiply_stages<E, S>(sum, stages, full, empty, k1 - k0);
        /* The sums take the place of the stages, which both warpgroups are done with. */
        asm volatile("bar.sync 1, %0;" ::"r"(S::CONSUMERS) : "memory");
#pragma unroll
        for (int i = 0; i < S::ROWS / 2; i++)
            part[(i / 4 * 8 + quad * 2 + i % 2) * S::LD + warp * 16 + i % 4 / 2 * 8 + id] = sum[i];
    }
    cluster_barrier();
    if (threadIdx.x < S::CONSUMERS && g.splits == 1)
        add_parts<S, 4, 1>(g, p, part, row, t, min(g.T - t, (int)S::ROWS), rank);
    else if (threadIdx.x < S::CONSUMERS && g.splits < 4)
        add_parts<S, 4, 2>(g, p, part, row, t, min(g.T - t, (int)S::ROWS), rank);
    else if (threadIdx.x < S::CONSUMERS)
        add_parts<S, 2, 4>(g, p, part, row, t, min(g.T - t, (int)S::ROWS), rank);
    cluster_barrier(); /* a block's shared memory stays until all have read it */
#endif
}

/* How many blocks share a tile's k, three stages or more for each, if they are all on the device at
 * once and leave places for the kernel behind. In microseconds, fitted to an H100: a stage while
 * every place is taken, a stage as fast as a block alone can have it, what a block gains by its
 * early copies and what one more part of a sum costs. */
static int choose_splits(int tiles, int blocks_k, int least_k, int sms, int rows)
{
    const int places = 2 * sms, limit = places * 17 / 20;
    const double shared = 1.3, alone = 0.45, early = 0.01, merge = 0.008 * rows;
    const int most = min((int)SPLITS_MAX, least_k / 3);
    double best = 0;
    int choice = 1;

    for (int s = 1; s == 1 || (s <= most && tiles * s <= limit); s++) {
        const double share = shared * tiles * s / places;
        const double us = (blocks_k + s - 1) / s * (share > alone ? share : alone) -
                          early * tiles * s + merge * (s - 1);

        if (s == 1 || us < best) {
            best = us;
            choice = s;
        }
    }
    return choice;
}

/* The same for slim tiles: as many as leave three stages of k for each. */
static int choose_slim_splits(int tiles, int least_k, int sms)
{
    int s = 1;

    while (2 * s <= SPLITS_MAX && least_k / (2 * s) >= 3 && tiles * s <= sms)
        s *= 2;
    return s;
}

/* What a group of products asks of the device. */
struct extent {
    int tiles;           /* of TILE rows of weights */
    int least_k, most_k; /* stages */
};

static struct extent extent_of(const struct linear *p, int n)
{
    struct extent e = { 0, INT_MAX, 0 };

    for (int i = 0; i < n; i++) {
        const int blocks_k = ceil_div(p[i].w->cols, BLOCK_K);

        e.tiles += ceil_div(p[i].w->rows, TILE);
        e.least_k = min(e.least_k, blocks_k);
        e.most_k = max(e.most_k, blocks_k);
    }
    return e;
}

bool linear_is_slim(const struct stream *q, const struct linear *p, int n)
{
    const struct extent e = extent_of(p, n);

    return p->T >= SLIM_ROWS && p->T <= SLIM &&
           2 * e.tiles * max(min((int)SPLITS_MAX, e.least_k / 3), 1) < q->sms;
}

/* The rows of x in a tile: all, filled up to a power of two; or where k is too short for blocks to
 * share it, as small a part as leaves room for all blocks at once. */
static int choose_rows(const struct stream *q, const struct extent &e, int T)
{
    int rows = 16;

    while (rows < T)
        rows *= 2;
    while (rows > PART_ROWS && e.least_k < SHARED_K &&
           e.tiles * ceil_div(T, rows / 2) <= 2 * q->sms)
        rows /= 2;
    return rows;
}

template <int TALL, int ROWS>
static void launch_wide(struct stream *q, struct wide_group *g, const struct extent &e, bool bf16)
{
    using S = wide_shape<TALL, ROWS>;
    int tiles = 0;

    for (int i = 0; i < g->n; i++) {
        g->p[i].first_tile = tiles;
        tiles += ceil_div(g->p[i].rows, TALL);
    }
    tiles *= g->sides;
    g->splits = TALL == SLIM ? choose_slim_splits(tiles, e.least_k, q->sms)
                             : choose_splits(tiles, e.most_k, e.least_k, q->sms, ROWS);
    launch_clusters(q, "linear", bf16 ? wide_kernel<__nv_bfloat16, S> : wide_kernel<__half, S>,
                    (unsigned)(tiles * g->splits), S::THREADS, S::SHARED, g->splits, *g);
}

void linear_wide(struct stream *q, const struct linear *p, int n)
{
    const bool slim = linear_is_slim(q, p, n), bf16 = p->w->dtype == DTYPE_BF16;
    const struct extent e = extent_of(p, n);
    const int rows = choose_rows(q, e, p->T);
    struct wide_group g = {
        .p = {}, .T = p->T, .n = n, .sides = ceil_div(p->T, rows), .splits = 1
    };
    struct narrow_group narrow;

    if (!narrow_x(q, &narrow, p, n, 0))
        return;
    make_tiled(q, g.p, p, n, &narrow, slim ? (int)SLIM : (int)TILE, rows);
    switch (rows) {
    case 16:
        return slim ? launch_wide<SLIM, 16>(q, &g, e, bf16) : launch_wide<TILE, 16>(q, &g, e, bf16);
    case 32:
        return slim ? launch_wide<SLIM, 32>(q, &g, e, bf16) : launch_wide<TILE, 32>(q, &g, e, bf16);
    case 64:
        return slim ? launch_wide<SLIM, 64>(q, &g, e, bf16) : launch_wide<TILE, 64>(q, &g, e, bf16);
    default:
        return launch_wide<TILE, WIDE_ROWS>(q, &g, e, bf16);
    }
}
