/* linear_tall.cu - several products of many rows at once on Hopper, as one launch.
 *
 * A block has a tile of 128 rows of weights by ROWS rows of x, all of k, and two warpgroups
 * multiply it. Two blocks with neighbouring tiles of one product are a cluster: each brings half
 * of the rows of x that both need, into the shared memory of both. Weights depend on no other
 * kernel: the first ones are on their way before the kernel in front has ended. A library that
 * takes one product a launch leaves most of the device idle in each, and knows no activation.
 *
 * An x that is not bf16 is rounded to the weights' type by a kernel in front, one that is not
 * aligned copied. */
#include "kernels/cuda/linear_tiles.cuh"

enum {
    CONSUMERS = 256,          /* threads */
    THREADS = CONSUMERS + 32, /* and the warp that copies */
    PART_LD = TILE + 4,       /* floats; two of these rows differ by 4 banks */
    TILE_BYTES = TILE * BLOCK_K * 2,
    ROWS = 256,  /* of x */
    CLUSTER = 2, /* blocks */
    HALF = ROWS / CLUSTER,
    STAGE_BYTES = TILE_BYTES + ROWS * BLOCK_K * 2,
    STAGES = 4,
    SHARED = 1024 + STAGES * STAGE_BYTES,
    COLUMNS = 4 /* of the sums that a warp finishes at a time */
};

static_assert(STAGES * STAGE_BYTES >= ROWS * PART_LD * 4, "the sums must fit");

struct tall {
    CUtensorMap w_map, x_map; /* x: boxes of HALF rows */
    struct output out;
    int rows, blocks_k; /* stages of k */
    int first_tile;
    bool aligned; /* out takes four numbers at a time */
};

struct tall_group {
    struct tall p[GROUP_MAX];
    int T, n;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static __device__ __forceinline__ const struct tall &product_of_tile(const struct tall_group &g)
{
    int i = 0;

    while (i + 1 < g.n && (int)blockIdx.x >= g.p[i + 1].first_tile)
        i++;
    return g.p[i];
}

/* The copying thread of block `rank` of the cluster: rows from `row` on of the weights, and the
 * block's half of the rows from t on of x. */
static __device__ __forceinline__ void copy_stages(char *stages, uint64_t *full, uint64_t *empty,
                                                   const struct tall &p, int row, int t, int rank)
{
    enum { EVERY = (1 << CLUSTER) - 1 };
    const int n = p.blocks_k, early = min(n, (int)STAGES);
    const int at = TILE_BYTES + rank * (HALF * BLOCK_K * 2);

    for (int i = 0; i < early; i++) {
        barrier_expect(&full[i], STAGE_BYTES);
        copy_box(stages + i * STAGE_BYTES, &p.w_map, i * BLOCK_K, row, &full[i], L2_EVICT_LAST);
    }
    wait_for_inputs();
    for (int i = 0, stage = 0, parity = 1; i < n; i++) {
        char *to = stages + stage * STAGE_BYTES;

        if (i >= early) {
            barrier_wait(&empty[stage], parity);
            barrier_expect(&full[stage], STAGE_BYTES);
            copy_box(to, &p.w_map, i * BLOCK_K, row, &full[stage], L2_EVICT_LAST);
        }
        copy_box_to(to + at, &p.x_map, i * BLOCK_K, t + rank * HALF, &full[stage], L2_EVICT_LAST,
                    EVERY);
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
}

/* Not to be moved across this place. */
static __device__ __forceinline__ void hold(float (&sum)[ROWS / 2])
{
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++)
        asm volatile("" : "+f"(sum[i])::"memory");
}

/* A warpgroup: the sums of its 64 rows over all stages. A stage is free when the warps of both
 * blocks have said so. */
template <typename E>
static __device__ __forceinline__ void multiply_stages(float (&sum)[ROWS / 2], const char *stages,
                                                       uint64_t *full, uint64_t *empty, int n)
{
    hold(sum);
    for (int i = 0, stage = 0, before = 0, parity = 0; i < n; i++) {
        const char *tile = stages + stage * STAGE_BYTES;
        const uint64_t a = tile_descriptor(tile + threadIdx.x / 128 * (TILE_BYTES / 2));
        const uint64_t b = tile_descriptor(tile + TILE_BYTES);

        barrier_wait(&full[stage], parity);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < BLOCK_K / 16; k++)
            wgmma(sum, a + 2 * k, b + 2 * k, E());
        wgmma_end();
        wgmma_wait<1>(); /* the stage before is free */
        if (i > 0 && threadIdx.x % 32 < CLUSTER)
            barrier_arrive_at(&empty[before], threadIdx.x % 32);
        before = stage;
        if (++stage == STAGES) {
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
static __device__ __forceinline__ void finish_tile(const struct tall &p, const float *part, int row,
                                                   int t, int end)
{
    const int lane = threadIdx.x % 32, rows = p.rows - row - 4 * lane;
    const float4 none = { 0, 0, 0, 0 };
    const struct output &o = p.out;
    const float4 bias = o.bias ? load_row(o.bias + row + 4 * lane, false, rows) : none;

    for (int i = (int)threadIdx.x / 32 * COLUMNS; i < ROWS && t + i < end;
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

/* Block (x, y): tile x, rows ROWS y on of x. */
template <typename E>
static __global__ void __launch_bounds__(THREADS, 1)
    tall_kernel(const __grid_constant__ struct tall_group g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char shared[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    char *stages = shared + (-shared_address(shared) & 1023);
    const struct tall &p = product_of_tile(g);
    const int row = ((int)blockIdx.x - p.first_tile) * TILE, t = (int)blockIdx.y * ROWS;
    float *part = (float *)stages;

    let_next_start();
    if (threadIdx.x == CONSUMERS) {
        prefetch_map(&p.w_map);
        prefetch_map(&p.x_map);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], CLUSTER * CONSUMERS / 32);
        }
        barriers_ready();
    }
    cluster_barrier(); /* the other block's barriers are there */
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS)
            copy_stages(stages, full, empty, p, row, t, (int)blockIdx.x % CLUSTER);
        __syncwarp();
    } else {
        const int warp = threadIdx.x / 32, id = threadIdx.x % 32 / 4, quad = threadIdx.x % 4;
        float sum[ROWS / 2] = {};

        wait_for_inputs();
        multiply_stages<E>(sum, stages, full, empty, p.blocks_k);
        /* The sums take the place of the stages, which both warpgroups are done with. */
        asm volatile("bar.sync 1, %0;" ::"r"(CONSUMERS) : "memory");
#pragma unroll
        for (int i = 0; i < ROWS / 2; i++)
            part[(i / 4 * 8 + quad * 2 + i % 2) * PART_LD + warp * 16 + i % 4 / 2 * 8 + id] =
                sum[i];
        asm volatile("bar.sync 1, %0;" ::"r"(CONSUMERS) : "memory");
        finish_tile(p, part, row, t, g.T);
    }
    cluster_leave(); /* a block's barriers stay until the other has arrived at them */
#endif
}

template <typename E>
static void launch_tall(struct stream *q, const struct tall_group &g, int tiles)
{
    cudaLaunchAttribute with[2] = {};
    cudaLaunchConfig_t config = {};

    with[0].id = cudaLaunchAttributeClusterDimension;
    with[0].val.clusterDim.x = CLUSTER;
    with[0].val.clusterDim.y = with[0].val.clusterDim.z = 1;
    with[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    with[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3((unsigned)tiles, (unsigned)ceil_div(g.T, ROWS));
    config.blockDim = THREADS;
    config.dynamicSmemBytes = SHARED;
    config.stream = q->cuda;
    config.attrs = with;
    config.numAttrs = 2;
    stream_note(
        q,
        cudaFuncSetAttribute(tall_kernel<E>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED),
        "linear");
    stream_note(q, cudaLaunchKernelEx(&config, tall_kernel<E>, g), "linear");
}

void linear_tall(struct stream *q, const struct linear *p, int n)
{
    const enum dtype dtype = p->w->dtype;
    struct tall_group g = { .p = {}, .T = p->T, .n = n };
    struct narrow_group narrow;
    int tiles = 0;

    if (!narrow_x(q, &narrow, p, n, 0))
        return;
    for (int i = 0; i < n; i++) {
        const struct matrix *w = p[i].w;
        struct tall *to = &g.p[i];
        const int ld = matrix_ld(dtype, w->cols);

        make_map(q, &to->w_map, dtype, w->data, w->rows, ld, ld, TILE);
        make_map(q, &to->x_map, dtype, narrow.of[i].rows, p->T, w->cols, narrow.of[i].ld, HALF);
        to->out = output_of(&p[i]);
        to->rows = w->rows;
        to->blocks_k = ld / BLOCK_K;
        to->first_tile = tiles;
        to->aligned = is_aligned(to->out);
        tiles += ceil_div(w->rows, TILE * CLUSTER) * CLUSTER;
    }
    dtype == DTYPE_BF16 ? launch_tall<__nv_bfloat16>(q, g, tiles)
                        : launch_tall<__half>(q, g, tiles);
}
