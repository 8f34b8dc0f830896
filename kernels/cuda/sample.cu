/* sample.cu - sampling without a word from the host: it lays out what is asked of each row in
 * pinned memory, and finds the tokens there when the stream has been waited for. Two samples may be
 * on their way; the tokens of the last stay on the device as well, for a batch that follows.
 *
 * First a row is measured by the warps of a cluster of blocks, each of which sends what it found to
 * the last warp of the first block. Where every row wants its largest logit or a given token, that
 * warp finishes: what is asked it reads from the host's memory meanwhile. Else the last warps bring
 * what is asked, as a copy by the device would take microseconds of its own, and a block a row
 * finishes, see choose.cuh. Where all tokens may be drawn, each chunk of a row is weighed by a
 * block as well, and the draw walks one of them. */
#include "kernels/cuda/choose.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sampling.cuh"
#include "kernels/cuda/state.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <stdlib.h>
#include <string.h>

enum {
    ROW_BLOCKS = 8, /* that measure a row: a cluster, or 1 where there are none */
    PART_WARPS = 8, /* that measure, of a block */
    PARTS_MAX = ROW_BLOCKS * PART_WARPS,
    PART_STEP = 4 * WARP, /* logits of a warp's load */
    LOADS = 4,
    MEASURE_THREADS = (PART_WARPS + 1) * WARP,
    MEASURES_OF_AN_SM = 4, /* so that 64 rows are on the device at once */
    BRING_AT_ONCE = 4,
    CHUNKS = 16,
    WEIGH_THREADS = 256,
    PLACES = 2
};

/* A warp's part of a row. */
struct part {
    double sum; /* of exp(x - max) */
    float max;
    int best; /* BAD: a NaN, or an infinity above */
};
enum { BAD = -1 };

struct buffer {
    void *memory;
    size_t bytes;
};

/* Of a sample on its way; they are used in turns. */
struct place {
    struct buffer asked, results; /* pinned */
    struct sample_result *out;    /* the caller's */
    int rows;                     /* 0: they were delivered */
    uint64_t mark;                /* the first behind it */
};

struct sampling {
    struct place place[PLACES];
    int next;
    struct buffer asked, measured, masses, scratch, drawn; /* the device's */
};

/* What is asked. */
struct bringing {
    const int4 *from; /* host memory */
    int4 *to;
    int units;
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

/* Logits i to i + 3 of those before `end`. */
static __device__ __forceinline__ void load_logits(float (&to)[4], const float *x, int i, int end,
                                                   bool wide)
{
    if (wide && i + 4 <= end) {
        *(float4 *)to = *(const float4 *)(x + i);
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        to[k] = i + k < end ? x[i + k] : -INFINITY;
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

/* LOADS times four logits more, PART_STEP apart from i on and above all before. A NaN or an
 * infinity above makes the sum a NaN. */
static __device__ __forceinline__ void take_logits(struct lane_part *m, const float (&x)[LOADS][4],
                                                   int i)
{
    float max = m->max;

#pragma unroll
    for (int j = 0; j < LOADS; j++)
        max = fmaxf(max, fmaxf(fmaxf(x[j][0], x[j][1]), fmaxf(x[j][2], x[j][3])));

    const float from = max > -INFINITY ? max : 0.0f;
    float sum = m->sum * power_below(m->max, max);
    int best = INT32_MAX;

#pragma unroll
    for (int j = LOADS - 1; j >= 0; j--)
#pragma unroll
        for (int k = 3; k >= 0; k--) {
            sum += fast_exp2((x[j][k] - from) * (float)M_LOG2E);
            best = x[j][k] == max ? i + j * PART_STEP + k : best;
        }
    *m = { sum, max, max > m->max ? best : m->best };
}

/* Of the warp, in every lane. A lane has LOADS loads on their way at
 * once. */
static __device__ __forceinline__ struct part measure_part(const struct rows &r, int row, int part,
                                                           int parts)
{
    const float *x = r.logits + row * r.ld;
    const int each = (r.vocab + parts * PART_STEP - 1) / (parts * PART_STEP) * PART_STEP;
    const int first = part * each, end = min(first + each, r.vocab);
    struct lane_part own = { 0.0f, -INFINITY, INT32_MAX };

    for (int i = first + 4 * ((int)threadIdx.x % WARP); i < end; i += LOADS * PART_STEP) {
        float v[LOADS][4];

#pragma unroll
        for (int j = 0; j < LOADS; j++)
            load_logits(v[j], x, i + j * PART_STEP, end, r.wide);
        take_logits(&own, v, i);
    }

    struct part m = { 0.0, own.max, own.best };

    warp_best(&m.max, &m.best);
    m.sum = warp_sum((double)(own.sum * power_below(own.max, m.max)));
    if (__any_sync(0xffffffffu, isnan(own.sum)))
        m.best = BAD;
    return m;
}

/* To its place in the first block of so many. */
static __device__ __forceinline__ void send_part(struct part *to, const struct part &own,
                                                 uint64_t *sent, int blocks)
{
    if (blocks == 1)
        *to = own;
#if __CUDA_ARCH__ >= 900
    else
        for (size_t i = 0; i < sizeof(own) / sizeof(float2); i++)
            store_at_block((float *)((float2 *)to + i), ((const float2 *)&own)[i], sent, 0);
#endif
}

/* In every lane of a warp. */
static __device__ struct measured join_parts(const struct part *part, int parts)
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

/* All last warps of the grid. What was asked of the sample in front may still be read until that
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
    __syncwarp();
}

static __device__ float logprob_of(const struct measured &m, float logit)
{
    return (float)((double)logit - (double)m.max - m.log_sum);
}

/* A warp's word on a row; the lists of alternatives are written apart. `held`: of a lane whether
 * it is among what it has looked at of the holds. */
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

static __device__ __forceinline__ bool is_held(const int32_t *hold, int from, int holds, int token)
{
    bool held = false;

    for (int i = from + (int)threadIdx.x % WARP; i < holds; i += WARP)
        held |= hold[i] == token;
    return held;
}

/* What is asked of a plain row: the largest logit, or a token, is held or not. */
struct plain {
    const int32_t *hold; /* in the host's memory */
    int forced, holds;
    int first; /* the lane's own of the first holds */
};

/* Every number of it is of the same line: the lanes read it at once. */
static __device__ __forceinline__ struct plain ask_host(const struct asked *asked, int rows,
                                                        int row, struct asked *copy)
{
    enum { NUMBERS = sizeof(*asked) / sizeof(int) };
    const int lane = (int)threadIdx.x % WARP;
    struct plain p;

    static_assert(NUMBERS <= WARP, "a number a lane");
    if (lane < NUMBERS)
        ((int *)copy)[lane] = __ldcv((const int *)(asked + row) + lane);
    __syncwarp();
    p.hold = holds_of(*copy, (const int32_t *)(asked + rows));
    p.forced = copy->forced;
    p.holds = copy->holds;
    p.first = lane < p.holds ? __ldcv(p.hold + lane) : -1;
    return p;
}

/* Row blockIdx.x, by gridDim.y blocks, which are a cluster: plain ones, of which `asked` is in the
 * host's memory, are answered, others are measured, and what is asked of them brought. */
template <bool PLAIN>
static __global__ void __launch_bounds__(MEASURE_THREADS, MEASURES_OF_AN_SM)
    measure_rows(const struct rows r, const struct asked *asked, const struct bringing b,
                 struct measured *measured)
{
    __shared__ struct part part[PARTS_MAX];
    __shared__ struct asked copy;
    __shared__ uint64_t sent;
    const int warp = (int)threadIdx.x / WARP, blocks = (int)gridDim.y, row = (int)blockIdx.x;
    const bool ends = warp == PART_WARPS && blockIdx.y == 0;
    struct plain plain = {};

    let_next_start();
#if __CUDA_ARCH__ >= 900
    if (blocks > 1) {
        if (threadIdx.x == 0) {
            barrier_init(&sent, 1);
            barriers_ready();
            barrier_expect(&sent, (uint32_t)(blocks * PART_WARPS * sizeof(*part)));
        }
        __syncwarp();
        cluster_arrive();
    }
#endif
    if (PLAIN && ends)
        plain = ask_host(asked, r.n, row, &copy);
    if (!PLAIN && warp == PART_WARPS)
        bring(b);
    wait_for_inputs();
#if __CUDA_ARCH__ >= 900
    if (blocks > 1)
        cluster_wait(); /* the first block's barrier is there */
#endif
    if (warp < PART_WARPS) {
        const int at = (int)blockIdx.y * PART_WARPS + warp;
        const struct part own = measure_part(r, row, at, blocks * PART_WARPS);

        if (threadIdx.x % WARP == 0)
            send_part(&part[at], own, &sent, blocks);
    }
    if (blocks == 1)
        __syncthreads();
    if (!ends)
        return;
#if __CUDA_ARCH__ >= 900
    if (blocks > 1)
        barrier_wait_cluster(&sent, 0);
#endif

    const struct measured m = join_parts(part, blocks * PART_WARPS);

    if (PLAIN) {
        const int token = plain.forced >= 0 ? plain.forced : m.best;
        const bool held = plain.first == token || is_held(plain.hold, WARP, plain.holds, token);

        answer(r.to, row, held, m, r.logits + row * r.ld, token);
    } else if (threadIdx.x % WARP == 0) {
        measured[row] = m;
    }
}

static __device__ bool is_adjusted(const struct asked &ask)
{
    return ask.biases > 0 || ask.banned > 0 ||
           (ask.seen > 0 &&
            (ask.repetition != 1.0f || ask.presence != 0.0f || ask.frequency != 0.0f));
}

/* A draw from all of the row as it is. */
static __device__ bool is_free(const struct asked &ask)
{
    return ask.forced < 0 && ask.temperature > 0.0f && !is_adjusted(ask) && ask.top_k <= 0 &&
           ask.typical_p >= 1.0f && ask.top_p >= 1.0f && ask.min_p <= 0.0f;
}

/* The ids of a chunk. */
static __device__ __forceinline__ int chunk_size(int vocab)
{
    return (vocab + CHUNKS - 1) / CHUNKS;
}

/* Of rows that are drawn from freely, the mass of each chunk (choose.cuh). */
static __global__ void weigh_chunks(const struct rows r, const struct measured *measured,
                                    const struct asked *asked, uint64_t *masses)
{
    __shared__ uint64_t sums[WARPS_MAX];
    const int each = chunk_size(r.vocab), first = blockIdx.y * each;
    const int end = min(first + each, r.vocab);
    const float *x = r.logits + blockIdx.x * r.ld;
    uint64_t sum = 0;

    let_next_start();
    wait_for_inputs();

    const struct asked &ask = asked[blockIdx.x];

    if (!is_free(ask))
        return;

    const struct measured m = measured[blockIdx.x];

    for (int i = first + (int)threadIdx.x; i < end && m.finite; i += WEIGH_THREADS)
        sum += mass_of(probability(x[i], m.max, ask.temperature));
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0)
        masses[blockIdx.x * CHUNKS + blockIdx.y] = sum;
}

/* The `top` largest logits, one after the other. */
static __device__ void report_top(const float *x, int vocab, int top, const struct measured &m,
                                  struct sample_result *out, struct choose_shared *s)
{
    float last = INFINITY;
    int last_id = -1;

    for (int k = 0; k < top; k++) {
        float value = -INFINITY;
        int id = INT32_MAX;

        for (int i = threadIdx.x; i < vocab; i += CHOOSE_THREADS)
            if (x[i] < last || (x[i] == last && i > last_id))
                take_better(&value, &id, x[i], i);
        block_best(&value, &id, s);
        if (threadIdx.x == 0) {
            out->top_id[k] = id < vocab ? id : -1;
            out->top_logprob[k] = id < vocab ? logprob_of(m, value) : -INFINITY;
        }
        last = value;
        last_id = id;
    }
}

/* As draw() of a free row, whose chunks have these masses; -1: the draw is behind them all. */
static __device__ int draw_freely(const struct asked &ask, const float *x, int vocab, float best,
                                  const uint64_t *masses, struct choose_shared *s)
{
    const int each = chunk_size(vocab);
    uint64_t total = 0, before = 0, target;
    int chunk = 0;

    for (int i = 0; i < CHUNKS; i++)
        total += masses[i];
    target = (uint64_t)(uniform(ask.seed, ask.position) * (double)total);
    if (target >= total)
        return -1;
    while (before + masses[chunk] <= target)
        before += masses[chunk++];
    return pick_within(x, chunk * each, min((chunk + 1) * each, vocab), best, ask.temperature,
                       target - before, s);
}

/* The lowest id of the largest adjusted logit, or -1; *value is that logit. */
static __device__ int best_of(const float *z, int vocab, float *value, struct choose_shared *s)
{
    int id = INT32_MAX, bad = 0;

    *value = -INFINITY;
    for (int i = threadIdx.x; i < vocab; i += CHOOSE_THREADS) {
        bad |= !(z[i] < INFINITY);
        take_better(value, &id, z[i], i);
    }
    block_best(value, &id, s);
    return __syncthreads_or(bad) || !(*value > -INFINITY) ? -1 : id;
}

static __device__ int choose(const struct asked &ask, const int32_t *words, const float *x,
                             int vocab, const struct measured &m, const uint64_t *masses,
                             struct candidate *c, float *own, struct choose_shared *s)
{
    const float *z = x;
    float value = m.max;
    int best = m.best;

    if (ask.forced >= 0)
        return ask.forced;
    if (is_adjusted(ask)) {
        adjust(ask, words, x, vocab, own);
        z = own;
        best = best_of(z, vocab, &value, s);
    }
    if (best < 0 || ask.temperature <= 0.0f)
        return best;
    if (is_free(ask)) {
        const int token = draw_freely(ask, x, vocab, value, masses, s);

        if (token >= 0)
            return token;
    }
    return draw(ask, z, vocab, value, c, s);
}

static __global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    choose_rows(const struct rows r, const struct measured *measured, const struct asked *asked,
                const int32_t *words, const uint64_t *masses, struct candidate *candidates,
                float *adjusted)
{
    __shared__ struct choose_shared s;

    let_next_start();
    wait_for_inputs();
    candidates += (size_t)blockIdx.x * r.vocab;
    adjusted += (size_t)blockIdx.x * r.vocab;
    for (int row = blockIdx.x; row < r.n; row += gridDim.x) {
        const struct asked ask = asked[row];
        const struct measured m = measured[row];
        const float *x = r.logits + row * r.ld;
        int token = -1;

        if (m.finite) {
            token =
                choose(ask, words, x, r.vocab, m, masses + row * CHUNKS, candidates, adjusted, &s);
            report_top(x, r.vocab, ask.top, m, &r.to.out[row], &s);
        }
        if (threadIdx.x < WARP)
            answer(r.to, row, is_held(holds_of(ask, words), 0, ask.holds, token), m, x, token);
        __syncthreads();
    }
}

/* Pinned or device memory of at least `bytes`; what was in it is lost. What is on its way may still
 * use the old. */
static void *grow(struct stream *q, struct buffer *b, size_t bytes, bool pinned)
{
    if (bytes <= b->bytes)
        return b->memory;
    bytes += bytes / 2;
    stream_note(q, cudaStreamSynchronize(q->cuda), "sample");
    stream_note(q, pinned ? cudaFreeHost(b->memory) : cudaFree(b->memory), "sample");
    *b = { NULL, 0 };
    stream_note(q, pinned ? cudaMallocHost(&b->memory, bytes) : cudaMalloc(&b->memory, bytes),
                "sample");
    b->bytes = b->memory ? bytes : 0;
    return b->memory;
}

static size_t words_of(const struct sample_row *row)
{
    return 2 * (size_t)row->seen + 2 * (size_t)row->biases + (size_t)row->banned_count +
           (size_t)row->holds;
}

static int32_t *put(int32_t *at, const void *from, int n)
{
    if (n)
        memcpy(at, from, (size_t)n * sizeof(*at));
    return at + n;
}

/* Writes a row and its lists, in the order in which choose.cuh finds them. */
static int32_t *pack_row(struct asked *a, const struct sample_row *row, int32_t *words, int32_t *at)
{
    *a = { row->temperature,  row->top_p,      row->min_p,
           row->typical_p,    row->repetition, row->presence,
           row->frequency,    row->top_k,      row->top,
           row->forced,       row->seen,       row->biases,
           row->banned_count, row->holds,      (unsigned)(at - words),
           row->seed,         row->position };
    at = put(at, row->seen_id, row->seen);
    at = put(at, row->seen_weight, row->seen);
    at = put(at, row->bias_id, row->biases);
    at = put(at, row->bias, row->biases);
    at = put(at, row->banned, row->banned_count);
    return put(at, row->hold, row->holds);
}

/* The largest logit or a given token, and nothing to adjust or to list. */
static bool is_plain(const struct sample_row *row)
{
    return row->top == 0 && (row->forced >= 0 || (row->temperature <= 0.0f && row->seen == 0 &&
                                                  row->biases == 0 && row->banned_count == 0));
}

/* Lays out what is asked; false when there is no memory. */
static bool pack(struct stream *q, struct sampling *s, struct place *place, const struct sample *p,
                 struct bringing *b)
{
    const size_t rows = (size_t)p->rows;
    size_t bytes = rows * sizeof(struct asked);

    for (int i = 0; i < p->rows; i++)
        bytes += words_of(&p->row[i]) * sizeof(int32_t);

    const size_t units = (bytes + sizeof(int4) - 1) / sizeof(int4);
    struct asked *host = (struct asked *)grow(q, &place->asked, units * sizeof(int4), true);
    void *device = grow(q, &s->asked, units * sizeof(int4), false);

    if (!host || !device)
        return false;

    int32_t *words = (int32_t *)(host + rows), *at = words;

    for (int i = 0; i < p->rows; i++)
        at = pack_row(&host[i], &p->row[i], words, at);
    *b = { (const int4 *)host, (int4 *)device, (int)units };
    return true;
}

static void choose_all(struct stream *q, struct sampling *s, const struct rows &r,
                       const struct measured *measured, const struct asked *asked)
{
    const int blocks = r.n < q->sms ? r.n : q->sms;
    const size_t candidates = (size_t)blocks * (size_t)r.vocab;
    struct candidate *scratch = (struct candidate *)grow(
        q, &s->scratch, candidates * (sizeof(struct candidate) + sizeof(float)), false);
    uint64_t *masses =
        (uint64_t *)grow(q, &s->masses, (size_t)r.n * CHUNKS * sizeof(*masses), false);

    if (!scratch || !masses)
        return;
    launch(q, "sample", weigh_chunks, dim3(r.n, CHUNKS), WEIGH_THREADS, 0, r, measured, asked,
           masses);
    launch(q, "sample", choose_rows, blocks, CHOOSE_THREADS, 0, r, measured, asked,
           (const int32_t *)(asked + r.n), (const uint64_t *)masses, scratch,
           (float *)(scratch + candidates));
}

static void measure_all(struct stream *q, bool plain, const struct rows &r,
                        const struct bringing &b, struct measured *measured)
{
    const unsigned blocks = q->overlaps ? ROW_BLOCKS : 1;

    launch_as(q, "sample", true, dim3(1, blocks), plain ? measure_rows<true> : measure_rows<false>,
              dim3((unsigned)r.n, blocks), MEASURE_THREADS, 0, r, (const struct asked *)b.from, b,
              measured);
}

void sample_cuda(struct stream *q, const struct sample *p)
{
    bool plain = true;

    /* It is enqueued behind end(), when the thread may have turned to another device. */
    stream_note(q, cudaSetDevice(q->device), "sample");
    if (!q->sampling && !(q->sampling = (struct sampling *)calloc(1, sizeof(*q->sampling)))) {
        stream_note(q, cudaErrorMemoryAllocation, "sample");
        return;
    }

    struct sampling *s = q->sampling;
    struct place *place = &s->place[s->next];
    const size_t rows = (size_t)p->rows;

    s->next = (s->next + 1) % PLACES;
    if (place->rows) { /* its results were not asked for yet */
        stream_note(q, cudaStreamSynchronize(q->cuda), "sample");
        sampling_deliver(q, UINT64_MAX);
    }

    struct measured *measured =
        (struct measured *)grow(q, &s->measured, rows * sizeof(*measured), false);
    const struct rows r = {
        p->logits,
        p->ld,
        p->vocab,
        p->rows,
        off_grid(p->logits, p->ld) == 0,
        { (struct sample_result *)grow(q, &place->results, rows * sizeof(*r.to.out), true),
          (int32_t *)grow(q, &s->drawn, rows * sizeof(*r.to.drawn), false) },
    };
    struct bringing b;

    if (!measured || !r.to.out || !r.to.drawn || !pack(q, s, place, p, &b))
        return;
    for (int i = 0; i < p->rows; i++)
        plain = plain && is_plain(&p->row[i]);
    measure_all(q, plain, r, b, measured);
    if (!plain)
        choose_all(q, s, r, measured, (const struct asked *)b.to);
    place->out = p->out;
    place->rows = p->rows;
    place->mark = q->marks + 1;
}

void sampling_deliver(struct stream *q, uint64_t mark)
{
    struct sampling *s = q->sampling;

    for (int i = 0; s && i < PLACES; i++) {
        struct place *place = &s->place[i];

        if (!place->rows || place->mark > mark)
            continue;
        memcpy(place->out, place->results.memory, (size_t)place->rows * sizeof(*place->out));
        place->rows = 0;
    }
}

const int32_t *sampling_drawn(const struct stream *q)
{
    return q->sampling ? (const int32_t *)q->sampling->drawn.memory : NULL;
}

void sampling_finish(struct stream *q)
{
    struct sampling *s = q->sampling;

    if (!s)
        return;
    for (int i = 0; i < PLACES; i++) {
        cudaFreeHost(s->place[i].asked.memory);
        cudaFreeHost(s->place[i].results.memory);
    }
    cudaFree(s->drawn.memory);
    cudaFree(s->asked.memory);
    cudaFree(s->measured.memory);
    cudaFree(s->masses.memory);
    cudaFree(s->scratch.memory);
    free(s);
    q->sampling = NULL;
}
