/* measure.cuh - rows of logits measured by clusters of blocks, and answered where that is enough:
 * the first of what sample.cu enqueues.
 *
 * Each warp of a row's blocks measures a part of it and sends what it found to one more warp of the
 * first block, which joins the parts. It has read meanwhile, in the host's memory, what is asked.
 * The largest logit or a given token is its answer then. For a draw from all of the row it tells
 * the others the maximum, gets the masses of their parts (choose.cuh), and walks the one in which
 * the draw falls. Other rows are left to choose_rows(), for which the last warps of all blocks
 * bring what is asked to the device: a copy by the device would take microseconds of its own. */
#ifndef KERNELS_CUDA_MEASURE_CUH
#define KERNELS_CUDA_MEASURE_CUH

#include "kernels/cuda/choose.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
    ROW_BLOCKS = 8, /* of a row: a cluster, or 1 where there are none */
    PART_WARPS = 8, /* that measure, of a block */
    PARTS_MAX = ROW_BLOCKS * PART_WARPS,
    MEASURE_THREADS = (PART_WARPS + 1) * WARP,
    MEASURES_OF_AN_SM = 4, /* so that 64 rows are on the device at once */
    OWN = 4,               /* neighbouring logits of a lane */
    STEP = OWN * WARP,
    LOADS = 4, /* of a lane that are on their way at once, STEP apart */
    BRING_AT_ONCE = 4,
    HOLDS_NEAR = 512 /* of a row's holds that are read while it is measured */
};

/* Where the tokens go. */
struct answers {
    struct sample_result *out; /* [rows], host memory */
    int32_t *drawn;            /* [rows], sampling_drawn() */
};

/* The rows as they are, and where the answers go. */
struct rows {
    const float *logits;
    size_t ld;
    int vocab, n;
    bool wide; /* four logits may be a load */
    struct answers to;
};

/* What is asked, as it travels. */
struct bringing {
    const int4 *from; /* host memory: struct asked of each row, and their lists */
    int4 *to;         /* NULL: the device does without */
    int units;
};

/* A warp's part of a row. */
struct part {
    double sum; /* of exp(x - max) */
    float max;
    int best; /* BAD: a NaN, or an infinity above */
};
enum { BAD = -1 };

/* What the others get to know of a row. */
struct alignas(float2) told {
    float max, temperature; /* 0: no masses are wanted */
};

/* What the warps of a row's blocks leave in each other's shared memory, and the counts of what
 * came: parts and masses in the first block, what is told in each. */
enum { PARTS, TOLD, MASSES, CAME };
struct exchange {
    struct part part[PARTS_MAX];
    uint64_t mass[PARTS_MAX];
    struct told told;
    uint64_t came[CAME];
};

/* Only arrives: nobody sends before the cluster_wait() behind it. */
static __device__ __forceinline__ void begin_exchange(struct exchange *e, int blocks)
{
#if __CUDA_ARCH__ >= 900
    if (blocks == 1)
        return;
    if (threadIdx.x == 0) {
        for (int i = 0; i < CAME; i++)
            barrier_init(&e->came[i], 1);
        barriers_ready();
        barrier_expect(&e->came[PARTS], (uint32_t)(blocks * PART_WARPS * sizeof(*e->part)));
        barrier_expect(&e->came[TOLD], (uint32_t)sizeof(e->told));
        barrier_expect(&e->came[MASSES], (uint32_t)(blocks * PART_WARPS * sizeof(*e->mass)));
    }
    __syncwarp();
    cluster_arrive();
#endif
}

/* v to the place of `to` in block `rank` of so many, by one thread. */
template <typename T>
static __device__ __forceinline__ void send(T *to, const T &v, uint64_t *came, int rank, int blocks)
{
    static_assert(sizeof(T) % sizeof(float2) == 0 && alignof(T) % alignof(float2) == 0,
                  "as it is sent");
    if (blocks == 1)
        *to = v;
#if __CUDA_ARCH__ >= 900
    else
        for (size_t i = 0; i < sizeof(T) / sizeof(float2); i++)
            store_at_block((float *)((float2 *)to + i), ((const float2 *)&v)[i], came, rank);
#endif
}

/* Every warp comes here; those that wait see what was sent. */
static __device__ __forceinline__ void await(uint64_t *came, bool waits, int blocks)
{
    if (blocks == 1)
        __syncthreads();
#if __CUDA_ARCH__ >= 900
    else if (waits)
        barrier_wait_cluster(came, 0);
#endif
}

/* Ids of a part. */
struct range {
    int first, end;
};

static __device__ __forceinline__ struct range range_of(int vocab, int part, int parts)
{
    const int each = (vocab + parts * STEP - 1) / (parts * STEP) * STEP;

    return { part * each, min((part + 1) * each, vocab) };
}

/* LOADS times OWN logits from i on, those of a lane. What is not there is -INFINITY. */
static __device__ __forceinline__ void load_logits(float (&to)[LOADS][OWN], const float *x, int i,
                                                   int end, bool wide)
{
#pragma unroll
    for (int j = 0; j < LOADS; j++) {
        const int at = i + j * STEP;

        if (wide && at + OWN <= end) {
            *(float4 *)to[j] = *(const float4 *)(x + at);
            continue;
        }
#pragma unroll
        for (int k = 0; k < OWN; k++)
            to[j][k] = at + k < end ? x[at + k] : -INFINITY;
    }
}

/* A lane's logits so far. exp() is by powers of two, as the device has them. */
struct lane_part {
    float sum; /* of exp(x - max) */
    float max;
    int best;
};

static __device__ __forceinline__ float power_below(float x, float max)
{
    return max > -INFINITY ? fast_exp2((x - max) * (float)M_LOG2E) : 0.0f;
}

/* More logits, from id i on and above all before. A NaN or an infinity above makes the sum a
 * NaN. */
static __device__ __forceinline__ void take_logits(struct lane_part *m,
                                                   const float (&x)[LOADS][OWN], int i)
{
    float max = m->max;

#pragma unroll
    for (int j = 0; j < LOADS; j++)
#pragma unroll
        for (int k = 0; k < OWN; k++)
            max = fmaxf(max, x[j][k]);

    const float from = max > -INFINITY ? max : 0.0f;
    float sum = m->sum * power_below(m->max, max);
    int best = INT32_MAX;

#pragma unroll
    for (int j = LOADS - 1; j >= 0; j--)
#pragma unroll
        for (int k = OWN - 1; k >= 0; k--) {
            sum += fast_exp2((x[j][k] - from) * (float)M_LOG2E);
            best = x[j][k] == max ? i + j * STEP + k : best;
        }
    *m = { sum, max, max > m->max ? best : m->best };
}

/* Of the warp, in every lane. */
static __device__ __forceinline__ struct part measure_part(const float *x, struct range ids,
                                                           bool wide)
{
    struct lane_part own = { 0.0f, -INFINITY, INT32_MAX };

    for (int i = ids.first + OWN * ((int)threadIdx.x % WARP); i < ids.end; i += LOADS * STEP) {
        float v[LOADS][OWN];

        load_logits(v, x, i, ids.end, wide);
        take_logits(&own, v, i);
    }

    struct part m = { 0.0, own.max, own.best };

    warp_best(&m.max, &m.best);
    m.sum = warp_sum((double)(own.sum * power_below(own.max, m.max)));
    if (__any_sync(0xffffffffu, isnan(own.sum)))
        m.best = BAD;
    return m;
}

/* In every lane of a warp. */
static __device__ __forceinline__ struct measured join_parts(const struct part *part, int parts)
{
    const int lane = (int)threadIdx.x % WARP;
    struct measured m = { 0.0, -INFINITY, INT32_MAX, true };
    double sum = 0.0;

    for (int i = lane; i < parts; i += WARP) {
        m.finite &= part[i].best != BAD;
        take_better(&m.max, &m.best, part[i].max, part[i].best);
    }
    warp_best(&m.max, &m.best);
    m.finite = __all_sync(0xffffffffu, m.finite) && m.max > -INFINITY;
    for (int i = lane; i < parts; i += WARP)
        if (part[i].max > -INFINITY)
            sum += part[i].sum * exp((double)part[i].max - (double)m.max);
    m.log_sum = log(warp_sum(sum));
    return m;
}

/* Of the warp, in every lane. */
static __device__ __forceinline__ uint64_t weigh_part(const float *x, struct range ids, bool wide,
                                                      struct told told)
{
    uint64_t sum = 0;

    for (int i = ids.first + OWN * ((int)threadIdx.x % WARP); i < ids.end; i += LOADS * STEP) {
        float v[LOADS][OWN];

        load_logits(v, x, i, ids.end, wide);
#pragma unroll
        for (int j = 0; j < LOADS; j++)
#pragma unroll
            for (int k = 0; k < OWN; k++)
                sum += mass_of(probability(v[j][k], told.max, told.temperature));
    }
    return warp_sum(sum);
}

/* Of N masses a lane, in order: the place where they add up to more than *target, which becomes
 * what is left of it there; -1 if they do not, which takes them all off. Of the warp. */
template <int N>
static __device__ __forceinline__ int find_mass(const uint64_t (&mass)[N], uint64_t *target)
{
    uint64_t own = 0, before, total, left = 0;
    int place = -1;

#pragma unroll
    for (int k = 0; k < N; k++)
        own += mass[k];
    before = warp_before(own, &total);
    if (total <= *target) {
        *target -= total;
        return -1;
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        if (before <= *target && before + mass[k] > *target) {
            place = (int)threadIdx.x % WARP * N + k;
            left = *target - before;
        }
        before += mass[k];
    }

    const int lane = __ffs((int)__ballot_sync(0xffffffffu, place >= 0)) - 1;

    *target = __shfl_sync(0xffffffffu, left, lane);
    return __shfl_sync(0xffffffffu, place, lane);
}

/* A draw from all of the row, whose parts have these masses. */
static __device__ __forceinline__ int draw_from_parts(const struct rows &r, const float *x,
                                                      const uint64_t *mass, int parts,
                                                      const struct asked &ask, float max)
{
    enum { EACH_LANE = PARTS_MAX / WARP };
    const int lane = (int)threadIdx.x % WARP;
    uint64_t own[EACH_LANE], total = 0, target;

#pragma unroll
    for (int k = 0; k < EACH_LANE; k++) {
        own[k] = lane * EACH_LANE + k < parts ? mass[lane * EACH_LANE + k] : 0;
        total += own[k];
    }
    total = warp_sum(total);
    target = min((uint64_t)(uniform(ask.seed, ask.position) * (double)total), total - 1);

    const struct range ids = range_of(r.vocab, find_mass(own, &target), parts);

    for (int i = ids.first; i < ids.end; i += LOADS * STEP) {
        float v[LOADS][OWN];

        load_logits(v, x, i + OWN * lane, ids.end, r.wide);
#pragma unroll
        for (int j = 0; j < LOADS; j++) {
            uint64_t of[OWN];

#pragma unroll
            for (int k = 0; k < OWN; k++)
                of[k] = mass_of(probability(v[j][k], max, ask.temperature));

            const int place = find_mass(of, &target);

            if (place >= 0)
                return i + j * STEP + place;
        }
    }
    return -1; /* not reached: the part has that mass */
}

/* By all last warps of the grid. What was asked of the sample in front may still be read until that
 * has ended. */
static __device__ void bring(const struct bringing &b)
{
    const int threads = (int)(gridDim.x * gridDim.y) * WARP;
    const int thread = (int)(blockIdx.y * gridDim.x + blockIdx.x) * WARP + (int)threadIdx.x % WARP;

    for (int i = thread; i < b.units; i += BRING_AT_ONCE * threads) {
        int4 unit[BRING_AT_ONCE];

#pragma unroll
        for (int j = 0; j < BRING_AT_ONCE; j++)
            unit[j] = i + j * threads < b.units ? __ldcv(b.from + i + j * threads) : int4{};
        wait_for_inputs();
#pragma unroll
        for (int j = 0; j < BRING_AT_ONCE; j++)
            if (i + j * threads < b.units)
                b.to[i + j * threads] = unit[j];
    }
}

static __device__ float logprob_of(const struct measured &m, float logit)
{
    return (float)((double)logit - (double)m.max - m.log_sum);
}

/* A warp's word on a row; the lists of alternatives are written apart. `held`: of a lane, whether
 * the token is among what it has looked at of the holds. */
static __device__ void answer(const struct answers &to, int row, bool held,
                              const struct measured &m, const float *x, int token)
{
    const bool finite = m.finite && token >= 0;
    struct sample_result *out = &to.out[row];

    held = __any_sync(0xffffffffu, held) || !finite;
    if (threadIdx.x % WARP > 0)
        return;
    out->finite = finite;
    out->token = finite ? token : -1;
    if (finite)
        out->logprob = logprob_of(m, token == m.best ? m.max : x[token]);
    to.drawn[row] = held ? -1 : token;
}

/* Of a lane, among the holds from `from` on. */
static __device__ __forceinline__ bool is_held(const int32_t *hold, int from, int holds, int token)
{
    bool held = false;

    for (int i = from + (int)threadIdx.x % WARP; i < holds; i += WARP)
        held |= hold[i] == token;
    return held;
}

/* What is asked of a row, near the warp that answers. */
struct near_row {
    struct asked ask;
    int32_t hold[HOLDS_NEAR]; /* the first of its holds */
};

/* From the host's memory, all numbers of it at once, and then the holds. */
static __device__ __forceinline__ void ask_host(const struct asked *asked, int rows, int row,
                                                struct near_row *to)
{
    enum { NUMBERS = sizeof(*asked) / sizeof(int) };
    const int lane = (int)threadIdx.x % WARP;

    static_assert(NUMBERS <= WARP, "a number a lane");
    if (lane < NUMBERS)
        ((int *)&to->ask)[lane] = __ldcv((const int *)(asked + row) + lane);
    __syncwarp();

    const int32_t *hold = holds_of(to->ask, (const int32_t *)(asked + rows));
    const int n = min(to->ask.holds, (int)HOLDS_NEAR);

#pragma unroll 16
    for (int i = lane; i < n; i += WARP)
        to->hold[i] = __ldcv(hold + i);
    __syncwarp();
}

/* Row blockIdx.x, by gridDim.y blocks. `draws`: some rows are drawn from all that they have. */
static __global__ void __launch_bounds__(MEASURE_THREADS, MEASURES_OF_AN_SM)
    measure_rows(const struct rows r, const struct bringing b, bool draws,
                 struct measured *measured)
{
    __shared__ struct exchange e;
    __shared__ struct near_row near;
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    const int blocks = (int)gridDim.y, parts = blocks * PART_WARPS, row = (int)blockIdx.x;
    const int own = (int)blockIdx.y * PART_WARPS + warp;
    const bool measures = warp < PART_WARPS, ends = !measures && blockIdx.y == 0;
    const struct asked *const asked = (const struct asked *)b.from;
    const float *const x = r.logits + row * r.ld;
    struct measured m = {};
    struct told told = {};
    int token = -1;

    let_next_start();
    begin_exchange(&e, blocks);
    if (ends)
        ask_host(asked, r.n, row, &near);
    if (!measures && b.to)
        bring(b);
    wait_for_inputs();
    __syncwarp();
#if __CUDA_ARCH__ >= 900
    if (blocks > 1)
        cluster_wait(); /* the others' counts are there */
#endif
    if (measures) {
        const struct part part = measure_part(x, range_of(r.vocab, own, parts), r.wide);

        if (lane == 0)
            send(&e.part[own], part, &e.came[PARTS], 0, blocks);
    }
    await(&e.came[PARTS], ends, blocks);
    if (ends) {
        const struct asked &ask = near.ask;

        m = join_parts(e.part, parts);
        token = ask.way == WAY_GIVEN ? ask.forced : m.best;
        told = { m.max, m.finite && ask.way == WAY_DRAWN ? ask.temperature : 0.0f };
        if (lane == 0)
            measured[row] = m;
    }
    if (draws) {
        if (ends && lane < blocks)
            send(&e.told, told, &e.came[TOLD], lane, blocks);
        await(&e.came[TOLD], measures, blocks);
        if (measures && e.told.temperature > 0.0f) {
            const uint64_t mass = weigh_part(x, range_of(r.vocab, own, parts), r.wide, e.told);

            if (lane == 0)
                send(&e.mass[own], mass, &e.came[MASSES], 0, blocks);
        }
        await(&e.came[MASSES], told.temperature > 0.0f, blocks);
    }
    if (!ends)
        return;

    const struct asked &ask = near.ask;

    if (told.temperature > 0.0f)
        token = draw_from_parts(r, x, e.mass, parts, ask, m.max);
    if (ask.way < WAY_FILTERED) {
        const bool held =
            is_held(near.hold, 0, min(ask.holds, (int)HOLDS_NEAR), token) ||
            is_held(holds_of(ask, (const int32_t *)(asked + r.n)), HOLDS_NEAR, ask.holds, token);

        answer(r.to, row, held, m, x, token);
    }
}

#endif
