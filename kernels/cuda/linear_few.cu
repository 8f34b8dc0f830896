/* linear_few.cu - products of a few rows of bf16: what some sessions decode with.
 *
 * Weights come through the ring of linear_ring.cuh. A warp beside the copying thread multiplies
 * four rows of weights at a time by its piece of up to eight rows of x, which stays in registers. A
 * segment of a row, 64 columns, is two runs of 32; the runs of the four rows are the columns of the
 * n side of mma.m16n8k16. The upper eight rows of its tall side are the first runs of x, the lower
 * ones the second: half of the product counts, a sum of the upper rows with a row's first run and
 * one of the lower rows with its second, which the same lane has. The order of k is free as long as
 * both sides agree, so the 16 bytes that a lane loads serve two products as they lie, and what
 * eight lanes load lies side by side. Rows of x that are not there are zeros: a row's sums are the
 * same whatever stands beside it. Rows too long for the registers of eight warps are taken a
 * stretch at a time. */
#include "kernels/cuda/linear_ring.cuh"

enum {
    ROWS_MAX = 8,      /* of x */
    STEP_BITS = 2,     /* 2^bits rows of weights at a time */
    SEGMENT = 64,      /* columns */
    SEGMENTS_MAX = 16, /* of a warp's piece of a row */
    ALL_SEGMENTS = SEGMENT << SPLIT_BITS_MAX,
    COLUMNS_MAX = SEGMENTS_MAX * ALL_SEGMENTS, /* of a stretch */
    UNIT_GOOD = 16 << 10,
    PART_MAX = 20 << 10
};

struct few {
    const uint16_t *w, *x;
    struct output out;
    size_t x_ld;
    int T, rows, cols, ld;
    int columns;    /* of a stretch of k */
    int split_bits; /* 2^split_bits warps share a row */
    int row_bits;   /* 2^row_bits rows are a unit: four for the warps that share them */
    int part_bits;  /* 2^part_bits parts of it are copied, a place of the ring each */
    int segments;   /* of a warp's piece of a stretch; the last warps of a row may have fewer */
    int units;
    int first_block, blocks;
    struct ring ring;
};

struct few_group {
    int n;
    struct few p[GROUP_MAX];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* The copying thread of a product of long rows: of the units between two ends a stretch of k comes,
 * then the next one; a part is of one row. One loop for this and copy_units() begins its copies
 * later, which takes 3 to 5 % of a step of one session. */
static __device__ __forceinline__ void copy_stretches(char *memory, struct ring_barriers &b,
                                                      const struct few &p, int first)
{
    const int step = p.blocks << p.split_bits, parts = 1 << p.part_bits;
    struct copier copier = { memory, b, p.ring, { 0, 1 }, { 0, 0 }, 0 };

    for (int batch = first; batch < p.units; batch += step)
        for (int column = 0; column < p.ld; column += p.columns)
            for (int u = batch; u < min(batch + step, p.units); u += p.blocks)
                for (int i = 0, row = u << p.row_bits; i < parts; i++, row++) {
                    const bool none = row >= p.rows;
                    const int bytes = none ? 0 : 2 * min(p.columns, p.ld - column);

                    copier.copy(p, row, column, bytes, none);
                }
}

/* This lane's numbers of row lane / 4 of x as left sides of two products a segment, from column k
 * of the segment on; zeros beyond the last row, the last column, and column `end`. */
template <int SEGMENTS, bool EXACT>
static __device__ __forceinline__ void load_x(unsigned (&a)[SEGMENTS][2][4], const struct few &p,
                                              int k, int end)
{
    const int t = threadIdx.x % 32 / 4, whole = p.cols / RUN * RUN;
    const bool there = t < p.T, cut = !EXACT && there && whole < min(p.cols, end);
    const uint16_t *const x = p.x + t * p.x_ld;
    const int last = there ? min(whole, end) : 0, tail_at = cut ? whole : INT_MAX;
    const uint4 tail = cut ? load_last(x + whole, p.cols - whole) : uint4{};

#pragma unroll
    for (int i = 0; i < SEGMENTS; i++) {
        uint4 run[2];

#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int at = k + i * SEGMENT + r * SEGMENT / 2;

            run[r] = (EXACT ? there : at < last) ? *(const uint4 *)(x + at) : uint4{};
            if (!EXACT && at == tail_at)
                run[r] = tail;
        }
        a[i][0][0] = run[0].x;
        a[i][0][1] = run[1].x;
        a[i][0][2] = run[0].y;
        a[i][0][3] = run[1].y;
        a[i][1][0] = run[0].z;
        a[i][1][1] = run[1].z;
        a[i][1][2] = run[0].w;
        a[i][1][3] = run[1].w;
    }
}

/* The piece of a step: row lane % 4 of the weights with row lane / 4 of x. own: this lane's first
 * 16 bytes. Calls taken() when the last weights are in registers. */
template <int SEGMENTS, bool EXACT, typename F>
static __device__ __forceinline__ float multiply(const unsigned (&a)[SEGMENTS][2][4],
                                                 const char *own, int there, F &&taken)
{
    constexpr int LOADS = SEGMENTS <= 10 ? SEGMENTS : EXACT ? 4 : 1; /* there are registers */
    float sum[2][4] = {};

    if (LOADS < SEGMENTS)
        __syncwarp(); /* else taken() comes before all products */
#pragma unroll
    for (int first = 0; first < SEGMENTS; first += LOADS) {
        uint4 w[LOADS];

#pragma unroll
        for (int i = 0; i < LOADS; i++)
            w[i] = EXACT || first + i < there ? *(const uint4 *)(own + (first + i) * 2 * SEGMENT)
                                              : uint4{};
        if (first + LOADS == SEGMENTS)
            taken();
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            mma_bf16(sum[0], a[first + i][0], w[i].x, w[i].y);
            mma_bf16(sum[1], a[first + i][1], w[i].z, w[i].w);
        }
    }
    return sum[0][0] + sum[1][0] + (sum[0][3] + sum[1][3]);
}
#endif

/* Pieces of up to SEGMENTS, or all of them EXACTly so many and whole. As many units as give every
 * consumer an output lie between two ends: warp i ends the i-th step of a warp that is shared, and
 * its lanes have the outputs that they had sums of. */
template <int SEGMENTS, bool EXACT, bool LONG>
static __global__ void __launch_bounds__(THREADS, SEGMENTS > 5 ? 1 : 2)
    few_kernel(const __grid_constant__ struct few_group g)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(128) char ring[];
    __shared__ struct ring_barriers barriers;
    __shared__ float sums[WARPS][WARPS][32]; /* of each unit and warp */
    const struct few &p = product_of(g);
    const int first = (int)blockIdx.x - p.first_block;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    let_next_start();
    ring_init(barriers, p.ring);
    if (warp == WARPS) {
        if (lane == 0 && LONG && p.columns < p.ld)
            copy_stretches(ring, barriers, p, first);
        else if (lane == 0)
            copy_units(ring, barriers, p.ring, p, first);
        return;
    }

    const int splits = 1 << p.split_bits, split = warp & (splits - 1);
    const int sharing = WARPS >> p.split_bits; /* groups of warps that share rows */
    const int begin = split * p.segments * SEGMENT;
    const int parts = 1 << p.part_bits, unit_bytes = p.ring.bytes << p.part_bits;
    const int own_row = (warp >> p.split_bits << STEP_BITS) + lane / 8;
    const char *const own = ring + 2 * (own_row * p.columns + begin) + lane % 8 * 16;
    const int own_part = lane >> (5 - p.part_bits); /* a unit in parts is of four rows */
    const int ring_units = p.ring.places >> p.part_bits;
    const int units = (p.units - first + p.blocks - 1) / p.blocks;
    const int ending_unit = warp / sharing, t = lane / 4;
    const int ending_row = (warp % sharing << STEP_BITS) + lane % 4;
    struct place from = { 0, 0 };
    unsigned a[SEGMENTS][2][4];

    wait_for_inputs();
    if (threadIdx.x == 0)
        barrier_arrive(&barriers.x_came);
    if (!LONG)
        load_x<SEGMENTS, EXACT>(a, p, begin + lane % 4 * RUN, begin + p.segments * SEGMENT);
    for (int done = 0; done < units; done += splits) {
        const int now = min(splits, units - done);
        const int row = ((first + (done + ending_unit) * p.blocks) << p.row_bits) + ending_row;
        const bool ends = ending_unit < now && row < p.rows && t < p.T;
        struct ending ending = {};

        if (ends)
            ending.load(p.out, t, row);
#pragma unroll 1
        for (int column = 0; LONG ? column < p.ld : column == 0; column += p.columns) {
            const int k = column + begin;
            const int there = min(p.segments, (min(p.columns, p.ld - column) - begin) / SEGMENT);
            float *sum = &sums[0][warp][lane];

            if (LONG)
                load_x<SEGMENTS, EXACT>(a, p, k + lane % 4 * RUN, k + p.segments * SEGMENT);
#pragma unroll 1
            for (int u = 0; u < now; u++, sum += WARPS * 32) {
                const int place = from.i << p.part_bits;
                const float before = LONG && column ? *sum : 0.0f;

                barrier_wait(&barriers.full[place + own_part], from.parity);

                const auto taken = [&] {
                    __syncwarp();
                    if (lane < parts)
                        barrier_arrive(&barriers.empty[place + lane]);
                };

                *sum =
                    before + multiply<SEGMENTS, EXACT>(a, own + from.i * unit_bytes, there, taken);
                from.advance(ring_units);
            }
        }
        consumers_barrier();
        if (ends) {
            const float *const part = &sums[ending_unit][warp % sharing << p.split_bits][lane];
            float v = 0.0f;

            for (int i = 0; i < splits; i++)
                v += part[i * 32];
            ending.finish(p.out, t, row, v);
        }
        if (done + splits < units)
            consumers_barrier();
    }
#endif
}

/* Everything of a product but its place among the blocks. */
static struct few few_of(const struct linear *p)
{
    const struct matrix *w = p->w;
    const int ld = matrix_ld(w->dtype, w->cols), stretches = ceil_div(ld, COLUMNS_MAX);
    const int columns =
        stretches == 1 ? ld : ceil_div(ld, stretches * ALL_SEGMENTS) * (int)ALL_SEGMENTS;
    int bits = 0, part_bits = 0;

    while (bits < SPLIT_BITS_MAX && 2 * columns * (WARPS >> bits << STEP_BITS) > UNIT_GOOD)
        bits++;
    while (part_bits < STEP_BITS &&
           (stretches > 1 || 2 * columns * (WARPS >> bits << STEP_BITS) >> part_bits > PART_MAX))
        part_bits++;

    const int row_bits = SPLIT_BITS_MAX - bits + STEP_BITS;

    return { .w = (const uint16_t *)w->data,
             .x = p->x_bf16,
             .out = output_of(p),
             .x_ld = p->x_ld,
             .T = p->T,
             .rows = w->rows,
             .cols = w->cols,
             .ld = ld,
             .columns = columns,
             .split_bits = bits,
             .row_bits = row_bits,
             .part_bits = part_bits,
             .segments = ceil_div(ceil_div(columns, SEGMENT), 1 << bits),
             .units = ceil_div(w->rows, 1 << row_bits),
             .first_block = 0,
             .blocks = 0,
             .ring = {} };
}

template <int SEGMENTS, bool EXACT, bool LONG = false>
static void launch_few(struct stream *q, struct few_group *g)
{
    auto *const kernel = few_kernel<SEGMENTS, EXACT, LONG>;
    const int own = WARPS * WARPS * 32 * (int)sizeof(float) + 1024; /* sums, barriers */
    const int room = (int)q->block_memory - own, most = place_blocks(g, q->sms);
    const int blocks = g->p[g->n - 1].first_block + g->p[g->n - 1].blocks;
    int bytes = 0;

    for (int i = 0; i < g->n; i++) {
        struct few *p = &g->p[i];
        const int stretches = ceil_div(p->ld, p->columns);
        /* Of rows of 8,192 columns two units are faster than three, which leave less room. */
        const bool large = p->part_bits == STEP_BITS && stretches == 1;

        p->ring = ring_of(2 * p->columns << p->row_bits, 1 << p->part_bits, most * stretches,
                          large ? RING_SHORT : RING_BYTES, room);
        bytes = max(bytes, p->ring.places * p->ring.bytes);
    }
    stream_note(q, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, room),
                "linear");
    launch(q, "linear", kernel, blocks, THREADS, (size_t)bytes, *g);
}

bool linear_few_can(const struct stream *q, const struct linear *p)
{
    return p->T <= ROWS_MAX && p->x_bf16 && x_is_aligned(p) && p->w->dtype == DTYPE_BF16 &&
           warpgroups_can(q, p);
}

void linear_few(struct stream *q, const struct linear *p, int n)
{
    struct few_group g = {};
    int longest = 0;
    bool exact = true, stretches = false;

    g.n = n;
    for (int i = 0; i < n; i++) {
        g.p[i] = few_of(&p[i]);
        longest = max(longest, g.p[i].segments);
        stretches = stretches || g.p[i].columns < g.p[i].ld;
        exact = exact && g.p[i].segments == g.p[0].segments &&
                g.p[i].cols % (g.p[i].segments * SEGMENT << g.p[i].split_bits) == 0;
    }
    if (stretches && exact && longest == SEGMENTS_MAX)
        launch_few<SEGMENTS_MAX, true, true>(q, &g);
    else if (stretches)
        launch_few<SEGMENTS_MAX, false, true>(q, &g);
    else if (exact && longest == 3)
        launch_few<3, true>(q, &g);
    else if (exact && longest == 4)
        launch_few<4, true>(q, &g);
    else if (exact && longest == 5)
        launch_few<5, true>(q, &g);
    else if (exact && longest == 8)
        launch_few<8, true>(q, &g);
    else if (exact && longest == 10)
        launch_few<10, true>(q, &g);
    else if (exact && longest == SEGMENTS_MAX)
        launch_few<SEGMENTS_MAX, true>(q, &g);
    else if (longest <= 4)
        launch_few<4, false>(q, &g);
    else if (longest <= 8)
        launch_few<8, false>(q, &g);
    else
        launch_few<SEGMENTS_MAX, false>(q, &g);
}
