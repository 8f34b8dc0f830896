/* linear_single.cu - products of one row of bf16: what a lone session decodes with.
 *
 * Weights come through the ring of linear_ring.cuh. The few warps beside the copying thread keep up
 * by tensor cores used for inner products: a warp has a piece of a row, 16 bytes a lane; the lanes'
 * eight runs of 64 bytes are the columns of the n side of mma.m16n8k16, the same runs of x the rows
 * of its tall side, and what counts of the product is its diagonal. The order of k is free as long
 * as both sides agree, so 16 bytes serve as fragments as they lie, and x stays in registers: one
 * half of a run's numbers in the upper eight rows, the other in the lower, each times its half of
 * the weights. */
#include "kernels/cuda/linear_ring.cuh"

enum {
    DIAGONAL = 8,
    CHUNK = 32 * RUN, /* columns of a warp's 16 bytes a lane */
    CHUNKS_GOOD = 5,  /* of a warp's piece of a row */
    CHUNKS_MAX = 8,
    CHUNKS_SHORT = 2, /* of so many or fewer a unit has SHORT_BATCH rows of each warp */
    SHORT_BATCH = 4,
    UNITS_MAX = 32 /* between two ends */
};

struct single {
    const uint16_t *w, *x;
    struct output out;
    int rows, cols, ld;
    int split_bits; /* 2^split_bits warps share a row */
    int row_bits;   /* 2^row_bits rows are a unit */
    int chunks;     /* of a warp's piece; the last warps of a row may have fewer */
    static constexpr int part_bits = 0; /* a unit comes as a whole */
    int units;
    int first_block, blocks;
};

struct single_group {
    int n;
    struct ring ring; /* a place is a unit */
    struct single p[GROUP_MAX];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* The diagonals of the warps that share the row. */
static __device__ __forceinline__ void finish(const struct output &o, const struct ending &ending,
                                              int row, const float *diagonals, int splits)
{
    float v = 0.0f;

#pragma unroll 4
    for (int i = 0; i < splits * DIAGONAL; i += 4) {
        const float4 part = *(const float4 *)(diagonals + i);

        v += part.x + part.y + (part.z + part.w);
    }
    ending.finish(o, 0, row, v);
}

/* This lane's numbers of x from column k on, zeros beyond the last: all loads are on their way
 * before a number that needs a loop of its own is waited for. */
template <int CHUNKS, bool EXACT>
static __device__ __forceinline__ void load_x(uint4 (&x)[CHUNKS], const struct single &p, int k)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        x[c] = EXACT || (c < p.chunks && k + c * CHUNK + RUN <= p.cols)
                   ? *(const uint4 *)(p.x + k + c * CHUNK)
                   : uint4{};
#pragma unroll
    for (int c = 0; !EXACT && p.cols % RUN && c < CHUNKS; c++) {
        const int there = p.cols - (k + c * CHUNK);

        if (c < p.chunks && there > 0 && there < RUN)
            x[c] = load_last(p.x + k + c * CHUNK, there);
    }
}

/* A lane's number of the diagonal, if it has one: rows and columns alike. */
template <int CHUNKS>
static __device__ __forceinline__ float multiply(const uint4 (&x)[CHUNKS], const uint4 (&w)[CHUNKS])
{
    float upper[2][4] = {}, lower[2][4] = {};

#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        mma_bf16(upper[c % 2], { x[c].x, x[c].z, x[c].y, x[c].w }, w[c].x, w[c].y);
        mma_bf16(lower[c % 2], { x[c].x, x[c].z, x[c].y, x[c].w }, w[c].z, w[c].w);
    }
    return threadIdx.x / 4 % 2 ? upper[0][1] + upper[1][1] + (lower[0][3] + lower[1][3])
                               : upper[0][0] + upper[1][0] + (lower[0][2] + lower[1][2]);
}
#endif

/* Pieces of up to CHUNKS, or all of them EXACTly so many and whole; BATCH rows a warp and unit.
 * Shared memory: the ring; a diagonal for each warp and row between two ends. */
template <int CHUNKS, bool EXACT, int BATCH>
static __global__ void __launch_bounds__(THREADS, (CHUNKS * BATCH > CHUNKS_GOOD) ? 2 : 3)
    single_kernel(const __grid_constant__ struct single_group g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(128) char ring[];
    __shared__ struct ring_barriers barriers;
    float *const diagonals = (float *)(ring + g.ring.places * g.ring.bytes);
    const struct single &p = product_of(g);
    const int first = (int)blockIdx.x - p.first_block;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    let_next_start();
    ring_init(barriers, g.ring);
    if (warp == WARPS) {
        if (lane == 0)
            copy_units(ring, barriers, g.ring, p, first);
        return;
    }

    const int splits = 1 << p.split_bits, split = warp & (splits - 1);
    const int k = split * p.chunks * CHUNK + lane * RUN;
    const char *const own = ring + 2 * ((size_t)(warp >> p.split_bits) * p.ld + k);
    const int batch_bytes = 2 * p.ld * (WARPS >> p.split_bits);
    const int units = (p.units - first + p.blocks - 1) / p.blocks;
    const int most = min((int)UNITS_MAX, CONSUMERS >> p.row_bits); /* a thread ends a row */
    const int row_in_unit = (int)threadIdx.x & ((1 << p.row_bits) - 1);
    struct place from = { 0, 0 };
    uint4 x[CHUNKS];

    wait_for_inputs();
    if (threadIdx.x == 0)
        barrier_arrive(&barriers.x_came);
    load_x<CHUNKS, EXACT>(x, p, k);
    for (int done = 0; done < units; done += most) {
        const int there = min(most, units - done), ending_unit = (int)threadIdx.x >> p.row_bits;
        const int row = ((first + (done + ending_unit) * p.blocks) << p.row_bits) + row_in_unit;
        const bool ends = ending_unit < there && row < p.rows;
        struct ending ending = {};
        float *diagonal = diagonals + warp * DIAGONAL + lane / 4;

        if (ends)
            ending.load(p.out, 0, row);
#pragma unroll 1
        for (int u = 0; u < there; u++) {
            uint4 w[BATCH][CHUNKS];

            barrier_wait(&barriers.full[from.i], from.parity);
#pragma unroll
            for (int i = 0; i < BATCH; i++)
#pragma unroll
                for (int c = 0; c < CHUNKS; c++)
                    w[i][c] = EXACT || (c < p.chunks && k + c * CHUNK < p.ld)
                                  ? *(const uint4 *)(own + from.i * g.ring.bytes + i * batch_bytes +
                                                     2 * c * CHUNK)
                                  : uint4{};
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&barriers.empty[from.i]);
            from.advance(g.ring.places);
#pragma unroll
            for (int i = 0; i < BATCH; i++, diagonal += WARPS * DIAGONAL) {
                const float v = multiply(x, w[i]);

                if (lane % 4 == lane / 8)
                    *diagonal = v;
            }
        }
        consumers_barrier();
        if (ends)
            finish(p.out, ending, row, diagonals + ((int)threadIdx.x << p.split_bits) * DIAGONAL,
                   splits);
        if (done + most < units)
            consumers_barrier();
    }
#endif
}

/* Everything of a product but its units. */
static struct single single_of(const struct linear *p)
{
    const struct matrix *w = p->w;
    const int ld = matrix_ld(w->dtype, w->cols), chunks = ceil_div(ld, CHUNK);
    int bits = 0;

    while (bits < SPLIT_BITS_MAX && chunks > CHUNKS_GOOD << bits)
        bits++;
    return { .w = (const uint16_t *)w->data,
             .x = p->x_bf16,
             .out = output_of(p),
             .rows = w->rows,
             .cols = w->cols,
             .ld = ld,
             .split_bits = bits,
             .row_bits = 0,
             .chunks = ceil_div(chunks, 1 << bits),
             .units = 0,
             .first_block = 0,
             .blocks = 0 };
}

template <int CHUNKS, bool EXACT, int BATCH = 1>
static void launch_single(struct stream *q, struct single_group *g)
{
    auto *const kernel = single_kernel<CHUNKS, EXACT, BATCH>;
    const int room = (int)q->block_memory - 1024; /* there are barriers */
    int unit_bytes = 0;

    for (int i = 0; i < g->n; i++) {
        struct single *p = &g->p[i];
        const int unit_rows = BATCH * (WARPS >> p->split_bits);

        while (1 << p->row_bits < unit_rows)
            p->row_bits++;
        p->units = ceil_div(p->rows, unit_rows);
        unit_bytes = max(unit_bytes, 2 * p->ld * unit_rows);
    }

    const int most = place_blocks(g, q->sms);
    const int blocks = g->p[g->n - 1].first_block + g->p[g->n - 1].blocks;
    const int diagonals = min(most, (int)UNITS_MAX) * BATCH * WARPS * DIAGONAL * (int)sizeof(float);

    /* Several products have short ones behind them, whose ring then has room beside theirs. */
    g->ring = ring_of(unit_bytes, 1, most, g->n > 2 ? RING_SHORT : RING_BYTES, room - diagonals);
    stream_note(q, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, room),
                "linear");
    launch(q, "linear", kernel, blocks, THREADS,
           (size_t)(g->ring.places * g->ring.bytes + diagonals), *g);
}

bool linear_single_can(const struct stream *q, const struct linear *p)
{
    return p->T == 1 && p->x_bf16 && (uintptr_t)p->x_bf16 % 16 == 0 && p->w->dtype == DTYPE_BF16 &&
           warpgroups_can(q, p) &&
           matrix_ld(p->w->dtype, p->w->cols) <= CHUNKS_MAX * CHUNK << SPLIT_BITS_MAX;
}

void linear_single(struct stream *q, const struct linear *p, int n)
{
    struct single_group g = {};
    int longest = 0;
    bool exact = true;

    g.n = n;
    for (int i = 0; i < n; i++) {
        g.p[i] = single_of(&p[i]);
        longest = max(longest, g.p[i].chunks);
        exact = exact && g.p[i].chunks == g.p[0].chunks &&
                g.p[i].cols == g.p[i].chunks * CHUNK << g.p[i].split_bits;
    }
    if (longest == 1)
        launch_single<1, false, SHORT_BATCH>(q, &g);
    else if (longest <= CHUNKS_SHORT)
        launch_single<CHUNKS_SHORT, false, SHORT_BATCH>(q, &g);
    else if (exact && longest == 3)
        launch_single<3, true>(q, &g);
    else if (exact && longest == 4)
        launch_single<4, true>(q, &g);
    else if (exact && longest == 5)
        launch_single<5, true>(q, &g);
    else if (exact && longest == CHUNKS_MAX)
        launch_single<CHUNKS_MAX, true>(q, &g);
    else
        launch_single<CHUNKS_MAX, false>(q, &g);
}
