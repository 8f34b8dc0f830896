/* linear_pairs.cu - several products, or one and its activation, or one in pieces, as one launch on
 * Hopper.
 *
 * A block has a tile of 128 rows of weights by ROWS rows of x, all of k or a piece's part of it,
 * and two warpgroups multiply it. Two blocks are a cluster: they have one operand in common, and
 * each brings half of its rows into the shared memory of both. That is the weights, so that they
 * leave the L2 once: of up to HALVED_ROWS rows of x either block has half, or pairs have fewer
 * where multiprocessors would be left idle. Of more rows it is x, and the blocks have neighbouring
 * tiles of one product, unless all pairs with weights in common are on the device at once; and of
 * COMMON_X_ROWS or fewer where those would take turns. A pair begins where two multiprocessors are
 * free, which larger clusters wait long for. Weights depend on no other kernel: the first ones are
 * on their way before the kernel in front has ended, though no more than EARLY_BYTES a block: what
 * that kernel reads would wait behind them. A block of short k asks for little shared memory, and
 * leaves room for the kernel behind. A library that takes one product a launch leaves most of the
 * device idle in each, and knows no activation.
 *
 * An x that is not bf16 is rounded to the weights' type by a kernel in front, one that is not
 * aligned copied. */
#include "kernels/cuda/linear_tiles.cuh"

enum {
    CONSUMERS = 256,          /* threads */
    THREADS = CONSUMERS + 32, /* and the warp that copies */
    PART_LD = TILE + 4,       /* floats; two of these rows differ by 4 banks */
    TILE_BYTES = TILE * BLOCK_K * 2,
    ROOM = 200 << 10,   /* bytes of a block's stages, which has a multiprocessor for itself */
    CLUSTER = 2,        /* blocks */
    COMMON_X_ROWS = 64, /* most of x that blocks have in common where weights take turns */
    HALVED_ROWS = 256,  /* most of x that a pair has with weights in common */
    LEAST_ROWS = 16,    /* of x, of a block that has weights in common */
    MOST_ROWS = HALVED_ROWS / CLUSTER,
    EARLY_BYTES = 80 << 10,
    COLUMNS = 4 /* of the sums that a warp finishes at a time */
};

/* Tiles of X_ROWS rows of x; what the two blocks have in common is the weights, or x. */
template <int X_ROWS, bool COMMON_WEIGHTS> struct pair_shape {
    enum {
        ROWS = X_ROWS,
        COMMON_W = COMMON_WEIGHTS,
        RUN = COMMON_W ? CLUSTER * ROWS : ROWS,   /* rows of x that a pair has */
        W_BOX = COMMON_W ? TILE / CLUSTER : TILE, /* rows that a block brings */
        X_BOX = COMMON_W ? ROWS : ROWS / CLUSTER,
        STAGE_BYTES = TILE_BYTES + ROWS * BLOCK_K * 2,
        STAGES = ROOM / STAGE_BYTES, /* at most */
        EARLY = STAGES < EARLY_BYTES / TILE_BYTES ? STAGES : EARLY_BYTES / TILE_BYTES,
        SUM_BYTES = ROWS * PART_LD * 4 /* which take the place of stages */
    };
    static_assert(STAGES * STAGE_BYTES >= SUM_BYTES, "the sums must fit");
};

struct pair_group {
    struct tiled p[GROUP_MAX];
    int T, n;
    int stages;        /* of a block: no more than it has to multiply */
    int pieces;        /* 1 if there are several products */
    size_t piece_size; /* floats */
};

/* The stages of k that a block multiplies. */
struct stretch {
    int first, n;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* Rows from `row` on to `to`; of what the cluster has in common, this block's part of them, to both
 * blocks. */
template <bool COMMON, int BOX>
static __device__ __forceinline__ void copy_rows(char *to, const CUtensorMap *map, int k, int row,
                                                 int rank, uint64_t *full, uint64_t policy)
{
    enum { EVERY = (1 << CLUSTER) - 1 };

    if (COMMON)
        copy_box_to(to + rank * (BOX * BLOCK_K * 2), map, k, row + rank * BOX, full, policy, EVERY);
    else
        copy_box(to, map, k, row, full, policy);
}

/* The copying thread of block `rank` of the cluster, by a ring of so many stages: the tile whose
 * rows of weights begin at `row` and those of x at t. */
template <typename S>
static __device__ __forceinline__ void copy_stages(char *stages, uint64_t *full, uint64_t *empty,
                                                   const struct tiled &p, struct stretch k, int row,
                                                   int t, int rank, int ring)
{
    const int early = min(k.n, (int)S::EARLY);

    for (int i = 0; i < early; i++) {
        barrier_expect(&full[i], S::STAGE_BYTES);
        copy_rows<S::COMMON_W, S::W_BOX>(stages + i * S::STAGE_BYTES, &p.w_map,
                                         (k.first + i) * BLOCK_K, row, rank, &full[i],
                                         L2_EVICT_FIRST);
    }
    wait_for_inputs();
    for (int i = 0, stage = 0, parity = 1; i < k.n; i++) {
        const int column = (k.first + i) * BLOCK_K;
        char *to = stages + stage * S::STAGE_BYTES;

        if (i >= early) {
            if (i >= ring)
                barrier_wait(&empty[stage], parity);
            barrier_expect(&full[stage], S::STAGE_BYTES);
            copy_rows<S::COMMON_W, S::W_BOX>(to, &p.w_map, column, row, rank, &full[stage],
                                             L2_EVICT_FIRST);
        }
        copy_rows<!S::COMMON_W, S::X_BOX>(to + TILE_BYTES, &p.x_map, column, t, rank, &full[stage],
                                          L2_EVICT_LAST);
        if (++stage == ring) {
            stage = 0;
            parity ^= 1;
        }
    }
}

/* A warpgroup: the sums of its 64 rows over all stages. A stage is free when the warps of both
 * blocks have said so; of those that nothing follows in nobody says it: what is not waited for
 * could arrive when the other block is gone. */
template <typename E, typename S>
static __device__ __forceinline__ void multiply_stages(float (&sum)[S::ROWS / 2],
                                                       const char *stages, uint64_t *full,
                                                       uint64_t *empty, int n, int ring)
{
    hold(sum);
    for (int i = 0, stage = 0, before = 0, parity = 0; i < n; i++) {
        const char *tile = stages + stage * S::STAGE_BYTES;
        const uint64_t a = tile_descriptor(tile + threadIdx.x / 128 * (TILE_BYTES / 2));
        const uint64_t b = tile_descriptor(tile + TILE_BYTES);

        barrier_wait(&full[stage], parity);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < BLOCK_K / 16; k++)
            wgmma(sum, a + 2 * k, b + 2 * k, E());
        wgmma_end();
        wgmma_wait<1>(); /* the stage before is free */
        if (i > 0 && i <= n - ring && threadIdx.x % 32 < CLUSTER)
            barrier_arrive_at(&empty[before], threadIdx.x % 32);
        before = stage;
        if (++stage == ring) {
            stage = 0;
            parity ^= 1;
        }
    }
    wgmma_wait<0>();
    hold(sum);
}

template <enum activation ACT>
static __device__ __forceinline__ void activate_each(float4 (&v)[COLUMNS])
{
#pragma unroll
    for (int j = 0; j < COLUMNS; j++)
        v[j] = { activate(ACT, v[j].x), activate(ACT, v[j].y), activate(ACT, v[j].z),
                 activate(ACT, v[j].w) };
}

/* One branch for all: one for each number would take longer than what it decides. */
static __device__ __forceinline__ void activate_all(enum activation act, float4 (&v)[COLUMNS])
{
    switch (act) {
    case ACT_SILU:
        return activate_each<ACT_SILU>(v);
    case ACT_SIGMOID:
        return activate_each<ACT_SIGMOID>(v);
    case ACT_TANH:
        return activate_each<ACT_TANH>(v);
    case ACT_RELU2:
        return activate_each<ACT_RELU2>(v);
    case ACT_SOFTPLUS:
        return activate_each<ACT_SOFTPLUS>(v);
    case ACT_NONE:
        break;
    }
}

/* The tile's columns, rows t on of y: a warp takes COLUMNS at a time, a lane four rows. */
template <typename S>
static __device__ __forceinline__ void finish_tile(const struct tiled &p, const struct output &o,
                                                   const float *part, int row, int t, int end)
{
    const int lane = threadIdx.x % 32, rows = p.rows - row - 4 * lane;
    const float4 none = { 0, 0, 0, 0 };
    const float4 bias = o.bias ? load_row(o.bias + row + 4 * lane, false, rows) : none;

    for (int i = (int)threadIdx.x / 32 * COLUMNS; i < S::ROWS && t + i < end;
         i += CONSUMERS / 32 * COLUMNS) {
        const size_t at = (size_t)(t + i) * o.ld + row + 4 * lane;
        float4 old[COLUMNS], v[COLUMNS];

#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            old[j] =
                o.add && t + i + j < end ? load_row(o.y + at + j * o.ld, p.aligned, rows) : none;
            v[j] = sum_of(bias, *(const float4 *)(part + (i + j) * PART_LD + 4 * lane));
        }
        activate_all(o.act, v);
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
            if (t + i + j < end)
                store_row(o, at + j * o.ld, sum_of(v[j], old[j]), p.aligned, rows);
    }
}

#endif

/* Block (x, y): tile x, or where weights are common tile x / 2 and of a run that half of the rows;
 * piece y % pieces of the run of rows y / pieces. */
template <typename E, typename S>
static __global__ void __launch_bounds__(THREADS, 1)
    pair_kernel(const __grid_constant__ struct pair_group g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char shared[];
    __shared__ uint64_t full[S::STAGES], empty[S::STAGES];
    char *stages = shared + (-shared_address(shared) & 1023);
    const int rank = (int)blockIdx.x % CLUSTER;
    const int tile = S::COMMON_W ? (int)blockIdx.x / CLUSTER : (int)blockIdx.x;
    const struct tiled &p = product_of_tile(g, tile);
    const int row = (tile - p.first_tile) * TILE;
    const int run = (int)blockIdx.y / g.pieces, piece = (int)blockIdx.y % g.pieces;
    const int t = (S::COMMON_W ? CLUSTER * run + rank : run) * S::ROWS;
    const int first = p.blocks_k * piece / g.pieces;
    const struct stretch k = { first, p.blocks_k * (piece + 1) / g.pieces - first };
    float *part = (float *)stages;

    let_next_start();
    if (threadIdx.x == CONSUMERS) {
        prefetch_map(&p.w_map);
        prefetch_map(&p.x_map);
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], CLUSTER * CONSUMERS / 32);
        }
        barriers_ready();
    }
    cluster_barrier(); /* the other block's barriers are there */
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS)
            copy_stages<S>(stages, full, empty, p, k, row, t, rank, g.stages);
        __syncwarp();
    } else {
        const int warp = threadIdx.x / 32, id = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
        float sum[S::ROWS / 2] = {};

        wait_for_inputs();
        multiply_stages<E, S>(sum, stages, full, empty, k.n, g.stages);
        /* The sums take the place of the stages, which both warpgroups are done with. */
        asm volatile("bar.sync 1, %0;" ::"r"(CONSUMERS) : "memory");
#pragma unroll
        for (int i = 0; i < S::ROWS / 2; i++)
            part[(i / 4 * 8 + quad * 2 + i % 2) * PART_LD + warp * 16 + i % 4 / 2 * 8 + id] =
                sum[i];
        asm volatile("bar.sync 1, %0;" ::"r"(CONSUMERS) : "memory");

        struct output out = p.out;

        if (piece)
            out.y += piece * g.piece_size;
        finish_tile<S>(p, out, part, row, t, g.T);
    }
    cluster_leave(); /* a block stays until what it brings to both has come */
#endif
}

/* The tiles of a product, where its blocks have x in common as many as pairs need. */
static int tiles_of(int rows, bool common_w)
{
    const int tiles = ceil_div(rows, TILE);

    return common_w ? tiles : ceil_div(tiles, CLUSTER) * CLUSTER;
}

static int blocks_of(const struct linear *p, int n, bool common_w)
{
    int tiles = 0;

    for (int i = 0; i < n; i++)
        tiles += tiles_of(p[i].w->rows, common_w);
    return common_w ? tiles * CLUSTER : tiles;
}

/* Rows of x that a block has where weights are in common: as few as leave no multiprocessor two
 * blocks, or, if none do, half of all or of HALVED_ROWS. */
static int rows_of(const struct stream *q, const struct linear *p, int n, int pieces)
{
    const int launch = blocks_of(p, n, true) * pieces;
    int rows = LEAST_ROWS;

    while (rows < MOST_ROWS && rows * CLUSTER < p->T &&
           launch * ceil_div(p->T, rows * CLUSTER) > q->sms)
        rows *= 2;
    return rows;
}

bool linear_pairs_at_once(const struct stream *q, const struct linear *p, int n, int sides)
{
    const int run = rows_of(q, p, n, sides) * CLUSTER;

    return blocks_of(p, n, true) * sides * ceil_div(p->T, run) <= q->sms;
}

/* Whether it is x that the blocks have in common, of products in so many pieces. */
static bool is_common_x(const struct stream *q, const struct linear *p, int n, int pieces)
{
    return (p->T > HALVED_ROWS || p->T <= COMMON_X_ROWS) && !linear_pairs_at_once(q, p, n, pieces);
}

bool linear_pairs_fit(const struct stream *q, const struct linear *p, int n)
{
    return blocks_of(p, n, !is_common_x(q, p, n, 1)) <= q->sms;
}

int linear_pairs_count(const struct stream *q, const struct linear *p, int most)
{
    const int n = min(most, q->sms / blocks_of(p, 1, true));

    return p->T <= COMMON_X_ROWS && 2 * n <= most ? 2 * n : n;
}

template <typename S>
static void multiply(struct stream *q, struct pair_group *g, const struct linear *p,
                     const struct narrow_group *narrow)
{
    int tiles = 0, longest = 0;

    make_tiled(q, g->p, p, g->n, narrow, S::W_BOX, S::X_BOX);
    for (int i = 0; i < g->n; i++) {
        g->p[i].first_tile = tiles;
        tiles += tiles_of(g->p[i].rows, S::COMMON_W);
        longest = max(longest, ceil_div(g->p[i].blocks_k, g->pieces));
    }
    g->stages = min((int)S::STAGES, longest);
    launch_clusters(q, "linear",
                    p->w->dtype == DTYPE_BF16 ? pair_kernel<__nv_bfloat16, S>
                                              : pair_kernel<__half, S>,
                    dim3((unsigned)(S::COMMON_W ? tiles * CLUSTER : tiles),
                         (unsigned)(g->pieces * ceil_div(g->T, (int)S::RUN))),
                    THREADS, 1024 + max(g->stages * (int)S::STAGE_BYTES, (int)S::SUM_BYTES),
                    CLUSTER, *g, 1024 + S::STAGES * S::STAGE_BYTES);
}

/* One of so many launches like it that share the device. */
static void multiply_all(struct stream *q, struct pair_group *g, const struct linear *p,
                         const struct narrow_group *narrow, int sides)
{
    const int rows = rows_of(q, p, g->n, g->pieces * sides);

    if (is_common_x(q, p, g->n, g->pieces))
        g->T <= 32   ? multiply<pair_shape<32, false>>(q, g, p, narrow)
        : g->T <= 64 ? multiply<pair_shape<64, false>>(q, g, p, narrow)
                     : multiply<pair_shape<256, false>>(q, g, p, narrow);
    else if (rows == 16)
        multiply<pair_shape<16, true>>(q, g, p, narrow);
    else if (rows == 32)
        multiply<pair_shape<32, true>>(q, g, p, narrow);
    else if (rows == 64)
        multiply<pair_shape<64, true>>(q, g, p, narrow);
    else
        multiply<pair_shape<128, true>>(q, g, p, narrow);
}

void linear_pairs(struct stream *q, const struct linear *p, int n, int sides)
{
    struct pair_group g = { .p = {}, .T = p->T, .n = n, .stages = 0, .pieces = 1, .piece_size = 0 };
    struct narrow_group narrow;

    if (narrow_x(q, &narrow, p, n, 0))
        multiply_all(q, &g, p, &narrow, sides);
}

struct pieces linear_pairs_pieces(struct stream *q, const struct linear *p, int n)
{
    const size_t size = (size_t)p->T * p->w->rows;
    struct pair_group g = {
        .p = {}, .T = p->T, .n = 1, .stages = 0, .pieces = n, .piece_size = size
    };
    struct narrow_group narrow;
    struct linear piece = *p;

    if (!narrow_x(q, &narrow, p, 1, round_up(n * size * sizeof(float))))
        return {};
    piece.y = (float *)q->workspace;
    piece.y_ld = p->w->rows;
    piece.bias = NULL;
    piece.add = false;
    multiply_all(q, &g, &piece, &narrow, 1);
    return { p->y, piece.y, p->bias, size, n };
}
