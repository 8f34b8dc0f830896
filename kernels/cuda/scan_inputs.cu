/* scan_inputs.cu - what leads into the scan of a wide Mamba, in a decode step of some sessions as
 * one kernel (definition: cpu/fused.c). Anything else takes the parts.
 *
 * A block has 64 rows of c's weights or 112 of z's, so that all 126 of Mamba 2.8B are on the device
 * at once; two are a cluster, and bring each other half of the rows of x. z has a short ring, as
 * what it asks for holds up the weights of c. A block of c convolves its channels and multiplies
 * them, rounded to bf16, by its columns of the next product; every such block adds a share of the
 * outputs over all of them, through memory. Nothing but the sums says that they are there: one that
 * has not come has all bits set, and who has taken it in sets them again, for the next launch. A
 * count, and its fences, would wait for every state that was written, too.
 *
 * So blocks wait for each other, and must all be on the device at some time: they are no more than
 * it has places for, all else that runs there ends by itself, and no other kernel waits so
 * (cuda.cuh, `waits`). A cooperative launch would not begin early: 1 to 3 % longer steps. */
#include "kernels/cuda/linear_tiles.cuh"
#include "kernels/cuda/short_conv.cuh"

enum {
    CONSUMERS = 256,          /* threads: two warpgroups, each with half of the rows of weights */
    THREADS = CONSUMERS + 32, /* and the warp that copies */
    CLUSTER = 2,              /* blocks */
    SIDE = 64,                /* rows of x in a tile, the last ones of which may be nobody's */
    ROWS_MIN = 9,             /* fewer are better off by the ring (linear_few.cu) */
    LINE = 2 * BLOCK_K,       /* bytes of a row of a tile */
    X_BYTES = SIDE * LINE,
    ROOM = 192 << 10, /* bytes of a block's stages, and of what it has beside them */
    SHARED = 1024 + ROOM,
    EARLY_BYTES = 50 << 10, /* of weights before x is there */
    STAGES_MAX = 10,
    Z_STAGES = 6,
    EIGHT = 8,                       /* columns of a fragment of sums */
    OUTPUTS_MAX = 12 * 16,           /* of the last product */
    SIXTEENS = OUTPUTS_MAX / 16 / 2, /* of them that a warpgroup has */
    GROUPS = 4,                      /* of threads: each adds the sums of a quarter of the blocks */
    LANES = CONSUMERS / GROUPS,
    AT_ONCE = 20 /* sums that a thread asks for: the quarter of Mamba 2.8B */
};

/* Tiles of TALL rows of weights. */
template <int TALL> struct tile_shape {
    enum {
        ROWS = TALL,
        W_BYTES = TALL * LINE,
        STAGE_BYTES = X_BYTES + W_BYTES,
        EARLY = EARLY_BYTES / W_BYTES, /* stages */
        SUMS = TALL / 4                /* of a thread: a warpgroup has half of the rows */
    };
};

/* A thread convolves four channels of every 16th row. */
enum {
    CHANNELS = BLOCK_K, /* a line of a tile of the last product */
    QUADS = CHANNELS / 4,
    APART = CONSUMERS / QUADS,
    MINE = SIDE / APART,
    SUMS_LD = CHANNELS + 8 /* floats: four rows' parts share no bank */
};

using c_shape = tile_shape<CHANNELS>;
using z_shape = tile_shape<112>;

/* Blocks of c whose sums there is memory for. */
enum { C_BLOCKS_MAX = WAITED_SUMS / (SIDE * OUTPUTS_MAX) };
static_assert(C_BLOCKS_MAX * CHANNELS >= 5120, "those of Mamba 2.8B");
static_assert(SIDE * SUMS_LD * 4 <= 2 * c_shape::STAGE_BYTES, "sums take the place of stages");
static_assert(Z_STAGES * z_shape::STAGE_BYTES <= ROOM && Z_STAGES <= STAGES_MAX, "a ring for z");

struct scan_group {
    struct tiled c, z;
    CUtensorMap out_map; /* of the last product's weights */
    struct short_conv conv;
    struct device_batch in;
    struct output out;
    float4 *sums; /* [blocks of c, sixteens of rows, eights of outputs, 32], fragments */
    int T, outputs;
    int c_blocks, x_rows; /* x_rows: that a block brings */
    int sixteens;         /* of rows, the last of which may be of fewer */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static const uint32_t NOTHING = 0xffffffffu;

/* The copying thread. */
template <typename S>
static __device__ __forceinline__ void copy_stages(char *stages, uint64_t *full, uint64_t *empty,
                                                   const struct tiled &p, int row, int x_rows,
                                                   int ring)
{
    const int rank = rank_in_cluster(), early = min(min((int)S::EARLY, ring), p.blocks_k);
    const uint32_t bytes = (uint32_t)(S::W_BYTES + CLUSTER * x_rows * LINE);

    for (int i = 0; i < early; i++) {
        barrier_expect(&full[i], bytes);
        copy_box(stages + i * S::STAGE_BYTES + X_BYTES, &p.w_map, i * BLOCK_K, row, &full[i],
                 L2_EVICT_FIRST);
    }
    wait_for_inputs();
    for (int i = 0, stage = 0, parity = 1; i < p.blocks_k; i++) {
        char *const to = stages + stage * S::STAGE_BYTES;

        if (i >= early) {
            if (i >= ring)
                barrier_wait(&empty[stage], parity);
            barrier_expect(&full[stage], bytes);
            copy_box(to + X_BYTES, &p.w_map, i * BLOCK_K, row, &full[stage], L2_EVICT_FIRST);
        }
        copy_box_to(to + rank * x_rows * LINE, &p.x_map, i * BLOCK_K, rank * x_rows, &full[stage],
                    L2_EVICT_LAST, (1 << CLUSTER) - 1);
        if (++stage == ring) {
            stage = 0;
            parity ^= 1;
        }
    }
}

/* A warpgroup: all rows of x times its half of the rows of weights. A stage is free when the warps
 * of both blocks have said so; of those that nothing follows in nobody says it (linear_pairs.cu).
 */
template <typename S>
static __device__ __forceinline__ void multiply_stages(float (&sum)[S::SUMS], const char *stages,
                                                       uint64_t *full, uint64_t *empty, int n,
                                                       int ring)
{
    hold(sum);
    for (int i = 0, stage = 0, before = 0, parity = 0; i < n; i++) {
        const char *from = stages + stage * S::STAGE_BYTES;
        const uint64_t a = tile_descriptor(from);
        const uint64_t b = tile_descriptor(from + X_BYTES + threadIdx.x / 128 * (S::W_BYTES / 2));

        barrier_wait(&full[stage], parity);
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < BLOCK_K / 16; k++)
            wgmma(sum, a + 2 * k, b + 2 * k, __nv_bfloat16());
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

static __device__ __forceinline__ void consumers_barrier(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"((int)CONSUMERS) : "memory");
}

/* The row and the two columns of a warpgroup's fragment, of which a thread has two rows, 8 apart.
 */
static __device__ __forceinline__ int fragment_row(void)
{
    return (int)threadIdx.x / 32 % 4 * 16 + (int)threadIdx.x % 32 / 4;
}

static __device__ __forceinline__ int fragment_column(int i)
{
    return i * EIGHT + (int)threadIdx.x % 4 * 2;
}

/* What a thread convolves. */
struct windows {
    float4 x[MINE][WIDTH]; /* the newest input comes last */
    floats<4> y[MINE];
    int slot[MINE]; /* SLOT_NONE: the row is padding, or none */
    int line, c;    /* its first row and channel */
};

/* Four channels of a state. */
static __device__ __forceinline__ float *state_of(const struct scan_group &g, int slot, int c)
{
    return g.conv.state.base + (ptrdiff_t)slot * (ptrdiff_t)g.conv.state.stride + c;
}

static __device__ __forceinline__ void load_states(const struct scan_group &g, windows &in)
{
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int t = in.line + i * APART;

        in.slot[i] = t < g.T ? g.in.slot[t] : (int)SLOT_NONE;
#pragma unroll
        for (int j = 0; j < WIDTH - 1; j++)
            in.x[i][j] = load_far(state_of(g, in.slot[i], in.c) + (size_t)j * g.conv.dim,
                                  in.slot[i] != SLOT_NONE);
    }
}

/* A warpgroup's sums of c where threads with other rows and channels find them: in the place of
 * stages, which both warpgroups are done with. */
static __device__ __forceinline__ void share_sums(const float (&sum)[c_shape::SUMS], float *shared)
{
    float *const to = shared + fragment_row() * SUMS_LD + (int)threadIdx.x / 128 * (CHANNELS / 2);

    consumers_barrier();
#pragma unroll
    for (int i = 0; i < c_shape::SUMS; i += 2)
        *(float2 *)(to + i % 4 / 2 * 8 * SUMS_LD + fragment_column(i / 4)) = { sum[i], sum[i + 1] };
    consumers_barrier();
}

/* What was convolved becomes a tile of the next product. */
static __device__ __forceinline__ void convolve_rows(const struct taps &w, float4 c_bias,
                                                     const float *shared, windows &in, char *tile)
{
    const int at = in.c % CHANNELS;

#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int line = in.line + i * APART;
        float4(&x)[WIDTH] = in.x[i];
        floats<4> &y = in.y[i];

        x[3] = sum_of(*(const float4 *)(shared + line * SUMS_LD + at), c_bias);
        y = { { convolve(w.of[0], w.bias.x, x[0].x, x[1].x, x[2].x, x[3].x),
                convolve(w.of[1], w.bias.y, x[0].y, x[1].y, x[2].y, x[3].y),
                convolve(w.of[2], w.bias.z, x[0].z, x[1].z, x[2].z, x[3].z),
                convolve(w.of[3], w.bias.w, x[0].w, x[1].w, x[2].w, x[3].w) } };
        *(uint2 *)(tile + line * LINE + ((at / 8 ^ line) & 7) * 16 +
                   at % 8 * 2) = { pack_bf16(y.v[0], y.v[1]), pack_bf16(y.v[2], y.v[3]) };
    }
}

static __device__ __forceinline__ void store_rows(const struct scan_group &g, const windows &in)
{
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        const int t = in.line + i * APART;

        if (t < g.T)
            store<4>(g.conv.y + (size_t)t * g.conv.y_ld + in.c, in.y[i]);
#pragma unroll
        for (int j = 0; in.slot[i] != SLOT_NONE && j < WIDTH - 1; j++)
            __stcs((float4 *)(state_of(g, in.slot[i], in.c) + (size_t)j * g.conv.dim),
                   in.x[i][j + 1]);
    }
}

/* A warpgroup has every other sixteen of the outputs. */
static __device__ __forceinline__ int sixteen_of(int i)
{
    return 2 * i + (int)threadIdx.x / 128;
}

/* What is beyond the last one is another's: no product waits for a branch. */
static __device__ __forceinline__ void multiply_outputs(const struct scan_group &g,
                                                        float (&sum)[SIXTEENS][8], const char *tile,
                                                        const char *weights)
{
    const int last = g.outputs / 16 - 1;

#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
        hold(sum[i]);
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int k = 0; k < CHANNELS / 16; k++)
            wgmma(sum[i], tile_descriptor(tile) + 2 * k,
                  tile_descriptor(weights + min(sixteen_of(i), last) * 16 * LINE) + 2 * k,
                  __nv_bfloat16());
    wgmma_end();
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
        hold(sum[i]);
}

/* As a sum that has come. What is no number has no sign then. */
static __device__ __forceinline__ float said(float v)
{
    return __float_as_uint(v) == NOTHING ? __uint_as_float(NOTHING >> 1) : v;
}

static __device__ __forceinline__ bool has_come(float4 v)
{
    return __float_as_uint(v.x) != NOTHING && __float_as_uint(v.y) != NOTHING &&
           __float_as_uint(v.z) != NOTHING && __float_as_uint(v.w) != NOTHING;
}

static __device__ __forceinline__ void put(float4 *to, float4 v)
{
    asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x),
                 "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
}

static __device__ __forceinline__ float4 look(const float4 *from, bool there)
{
    float4 v = { 0, 0, 0, 0 };

    asm volatile("{.reg .pred there; setp.ne.u32 there, %5, 0;\n"
                 "@there ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];}"
                 : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w)
                 : "l"(from), "r"((uint32_t)there)
                 : "memory");
    return v;
}

static __device__ __forceinline__ void put_sums(const struct scan_group &g,
                                                const float (&sum)[SIXTEENS][8])
{
    const int eights = g.outputs / EIGHT, sixteen = (int)threadIdx.x / 32 % 4;
    float4 *const to =
        g.sums + ((size_t)blockIdx.x * g.sixteens + sixteen) * eights * 32 + threadIdx.x % 32;

    if (sixteen >= g.sixteens)
        return;
#pragma unroll
    for (int i = 0; i < SIXTEENS; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            if (sixteen_of(i) * 16 < g.outputs)
                put(to + (2 * sixteen_of(i) + j) * 32,
                    { said(sum[i][4 * j]), said(sum[i][4 * j + 1]), said(sum[i][4 * j + 2]),
                      said(sum[i][4 * j + 3]) });
}

/* The sum over n blocks of the fragment at `at`, which is `items` further for the next, in their
 * order; none of them has come then, for the next launch. */
static __device__ __forceinline__ float4 take_sums(float4 *at, size_t items, int n)
{
    const float none = __uint_as_float(NOTHING);
    float4 v = { 0, 0, 0, 0 };

#pragma unroll 1
    for (int k = 0; k < n; k += AT_ONCE, at += AT_ONCE * items) {
        float4 of[AT_ONCE];
        bool all;

        do {
            all = true;
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++)
                of[j] = look(at + j * items, k + j < n);
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++)
                all = all && has_come(of[j]);
        } while (!all);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            v = sum_of(v, of[j]);
            if (k + j < n)
                put(at + j * items, { none, none, none, none });
        }
    }
    return v;
}

static __device__ __forceinline__ void finish_two(const struct scan_group &g, int t, int column,
                                                  float a, float b)
{
    const struct output &o = g.out;

    if (t >= g.T)
        return;
    if (o.bias) {
        a += o.bias[column];
        b += o.bias[column + 1];
    }
    store_numbers<2>(o.y, o.y_bf16, (size_t)t * o.ld + column, { { a, b } });
}

/* The block's share of the fragments of outputs, over all blocks of c: each group of threads adds
 * some blocks in order, and the first one what the groups have. */
static __device__ __forceinline__ void add_sums(const struct scan_group &g, float4 *shared)
{
    const int eights = g.outputs / EIGHT, items = g.sixteens * eights * 32;
    const int share = (items + g.c_blocks - 1) / g.c_blocks;
    const int first = (int)blockIdx.x * share, end = min(items, first + share);
    const int group = (int)threadIdx.x / LANES, lane = (int)threadIdx.x % LANES;
    const int each = (g.c_blocks + GROUPS - 1) / GROUPS, begin = group * each;

    for (int top = first; top < end; top += LANES) {
        const int item = top + lane, sixteen = item / 32 / eights, eight = item / 32 % eights;
        const int t = sixteen * 16 + item % 32 / 4, column = eight * EIGHT + item % 4 * 2;
        float4 v = { 0, 0, 0, 0 };

        if (item < end)
            v = take_sums(g.sums + (size_t)begin * items + item, (size_t)items,
                          min(each, g.c_blocks - begin));
        shared[threadIdx.x] = v;
        consumers_barrier();
        if (group == 0 && item < end) {
#pragma unroll
            for (int j = 1; j < GROUPS; j++)
                v = sum_of(v, shared[j * LANES + lane]);
            finish_two(g, t, column, v.x, v.y);
            finish_two(g, t + 8, column, v.z, v.w);
        }
        consumers_barrier();
    }
}

/* Where what a block of c has beside its stages is. */
struct beside {
    char *tile, *weights; /* of the last product */
    uint64_t *came;       /* weights */
};

static __device__ __forceinline__ void make_c(const struct scan_group &g, char *stages, int ring,
                                              const struct beside &at, uint64_t *full,
                                              uint64_t *empty)
{
    float sum[c_shape::SUMS] = {}, out[SIXTEENS][8] = {};
    windows in;

    in.line = (int)threadIdx.x / QUADS;
    in.c = (int)blockIdx.x * CHANNELS + (int)threadIdx.x % QUADS * 4;

    const struct taps taps = load_taps(g.conv, in.c);
    const float4 c_bias = load_bias(g.c.out.bias, in.c);

    wait_for_inputs();
    load_states(g, in); /* as fast in front of the wait, where it holds up the norm */
    multiply_stages<c_shape>(sum, stages, full, empty, g.c.blocks_k, ring);
    share_sums(sum, (float *)stages);
    convolve_rows(taps, c_bias, (const float *)stages, in, at.tile);
    tile_ready();
    consumers_barrier();
    barrier_wait(at.came, 0);
    multiply_outputs(g, out, at.tile, at.weights);
    put_sums(g, out);
    store_rows(g, in);
    add_sums(g, (float4 *)stages);
}

static __device__ __forceinline__ void make_z(const struct scan_group &g, const char *stages,
                                              int ring, int row, uint64_t *full, uint64_t *empty)
{
    const struct output &o = g.z.out;
    float sum[z_shape::SUMS] = {};

    wait_for_inputs();
    multiply_stages<z_shape>(sum, stages, full, empty, g.z.blocks_k, ring);
    row += (int)threadIdx.x / 128 * (z_shape::ROWS / 2);
#pragma unroll
    for (int i = 0; i < z_shape::SUMS; i += 2) {
        const int t = fragment_row() + i % 4 / 2 * 8, at = row + fragment_column(i / 4);

        if (t < g.T && at < g.z.rows)
            store<2>(o.y + (size_t)t * o.ld + at,
                     { { sum[i] + (o.bias ? o.bias[at] : 0.0f),
                         sum[i + 1] + (o.bias ? o.bias[at + 1] : 0.0f) } });
    }
}

/* Stages of c in what the last product's tiles leave of the room. */
static __device__ __forceinline__ int ring_of_c(int outputs)
{
    return min((int)STAGES_MAX, (ROOM - X_BYTES - outputs * LINE) / (int)c_shape::STAGE_BYTES);
}

#endif

/* Block x: tile x of c, or of z behind them. */
static __global__ void __launch_bounds__(THREADS, 1)
    inputs_kernel(const __grid_constant__ struct scan_group g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ char shared[];
    __shared__ uint64_t full[STAGES_MAX], empty[STAGES_MAX], came;
    char *const stages = shared + (-shared_address(shared) & 1023);
    const bool is_c = (int)blockIdx.x < g.c_blocks;
    const struct tiled &p = is_c ? g.c : g.z;
    const int row =
        is_c ? (int)blockIdx.x * CHANNELS : ((int)blockIdx.x - g.c_blocks) * z_shape::ROWS;
    const int ring = is_c ? ring_of_c(g.outputs) : (int)Z_STAGES;
    const struct beside at = { stages + ring * c_shape::STAGE_BYTES,
                               stages + ring * c_shape::STAGE_BYTES + X_BYTES, &came };

    let_next_start();
    if (threadIdx.x == CONSUMERS) {
        prefetch_map(&p.w_map);
        prefetch_map(&p.x_map);
        for (int i = 0; i < STAGES_MAX; i++) {
            barrier_init(&full[i], 1);
            barrier_init(&empty[i], CLUSTER * CONSUMERS / 32);
        }
        barrier_init(&came, 1);
        barriers_ready();
    }
    cluster_barrier(); /* the other block's barriers are there */
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS && is_c) {
            copy_stages<c_shape>(stages, full, empty, p, row, g.x_rows, ring);
            barrier_expect(&came, (uint32_t)(g.outputs * LINE));
            copy_box(at.weights, &g.out_map, row, 0, &came, L2_EVICT_FIRST);
        } else if (threadIdx.x == CONSUMERS) {
            copy_stages<z_shape>(stages, full, empty, p, row, g.x_rows, ring);
        }
        __syncwarp();
    } else if (is_c) {
        make_c(g, stages, ring, at, full, empty);
    } else {
        make_z(g, stages, ring, row, full, empty);
    }
    cluster_leave(); /* a block stays until what it brings to both has come */
#endif
}

static bool is_plain(const struct linear *p, const struct batch *in)
{
    return p->T == in->T && p->w->dtype == DTYPE_BF16 && p->act == ACT_NONE && !p->add &&
           off_grid(p->bias, 0) == 0;
}

/* Channels in whole clusters of tiles, and so many that c and z by the path of pairs, with two
 * blocks for a tile of either, would take turns. */
static bool conv_fits(const struct stream *q, const struct short_conv *p)
{
    const uintptr_t off = off_grid(p->y, p->y_ld) | off_grid(p->bias, 0) | off_grid(p->weight, 0) |
                          off_grid(p->state);

    return p->W == WIDTH && p->silu && p->y && p->state.base && off == 0 &&
           p->dim % (CLUSTER * CHANNELS) == 0 && p->dim <= C_BLOCKS_MAX * CHANNELS &&
           2 * CLUSTER * ceil_div(p->dim, TILE) > q->sms;
}

static bool fits(const struct stream *q, const struct batch *in, const struct scan_inputs *p)
{
    const struct linear *c = &p->in[0], *z = &p->in[1], *out = &p->product;
    const bool plain = is_plain(c, in) && is_plain(z, in) && is_plain(out, in);
    const int dim = p->conv.dim;
    const bool square = c->w->rows == dim && z->w->rows == dim && out->w->cols == dim;

    return q->waits && q->row_each && in->T >= ROWS_MIN && in->T <= SIDE && plain && square &&
           conv_fits(q, &p->conv) && c->x_bf16 && z->x_bf16 == c->x_bf16 && z->x_ld == c->x_ld &&
           z->y && !z->y_bf16 && off_grid(z->y, z->y_ld) == 0 && out->x_bf16 &&
           is_aligned(output_of(out)) && out->w->rows % 16 == 0 && out->w->rows <= OUTPUTS_MAX &&
           warpgroups_can(q, c);
}

/* Whether a launch of so many blocks is on the device at once. */
static bool all_at_once(struct stream *q, int blocks)
{
    cudaLaunchAttribute with = {};
    cudaLaunchConfig_t config = {};
    int clusters = 0;

    with.id = cudaLaunchAttributeClusterDimension;
    with.val.clusterDim = { CLUSTER, 1, 1 };
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SHARED;
    config.attrs = &with;
    config.numAttrs = 1;
    stream_note(
        q, cudaFuncSetAttribute(inputs_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED),
        "scan_inputs");
    stream_note(q, cudaOccupancyMaxActiveClusters(&clusters, inputs_kernel, &config),
                "scan_inputs");
    return clusters * CLUSTER >= blocks;
}

/* Whether it was enqueued, or failed to be. */
static bool enqueue(struct stream *q, const struct scan_inputs *p)
{
    const struct linear *out = &p->product;
    const int dim = p->conv.dim, outputs = out->w->rows, c_blocks = dim / CHANNELS;
    const int blocks = c_blocks + ceil_div(ceil_div(dim, (int)z_shape::ROWS), CLUSTER) * CLUSTER;
    struct scan_group g = {};
    struct narrow_group narrow;

    if (!all_at_once(q, blocks))
        return false;
    g.sixteens = ceil_div(out->T, 16);
    g.x_rows = ceil_div(g.sixteens * 16, CLUSTER);
    if (!narrow_x(q, &narrow, p->in, 1, 0))
        return true;
    make_tiled(q, &g.c, &p->in[0], 1, &narrow, CHANNELS, g.x_rows);
    make_tiled(q, &g.z, &p->in[1], 1, &narrow, z_shape::ROWS, g.x_rows);
    make_map(q, &g.out_map, DTYPE_BF16, out->w->data, outputs, dim, matrix_ld(DTYPE_BF16, dim),
             outputs);
    g.conv = p->conv;
    g.in = q->in;
    g.out = output_of(out);
    g.sums = q->waited;
    g.T = out->T;
    g.outputs = outputs;
    g.c_blocks = c_blocks;
    launch_clusters(q, "scan_inputs", inputs_kernel, dim3((unsigned)blocks), THREADS, SHARED,
                    CLUSTER, g);
    return true;
}

void scan_inputs_cuda(struct stream *q, const struct batch *in, const struct scan_inputs *p)
{
    if (fits(q, in, p) && enqueue(q, p))
        return;
    linear_split_cuda(q, p->in, 1, 1);
    conv_linear(q, in, &p->conv, &p->product);
}
