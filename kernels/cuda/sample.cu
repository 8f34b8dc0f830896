/* sample.cu - sampling without a word from the host: it lays out what is asked of each row in
 * pinned memory, and finds the tokens there when the stream has been waited for. Two samples may be
 * on their way; the tokens of the last stay on the device as well, for a batch that follows.
 *
 * First a row is measured in CHUNKS pieces, each by a block, beside blocks that bring what is
 * asked: a copy by the device would take microseconds of its own. Where every row wants its largest
 * logit or a given token, a warp a row then finishes; else a block a row, see choose.cuh. Where all
 * tokens may be drawn, each piece is weighed by a block as well, and the draw walks one of them. */
#include "kernels/cuda/choose.cuh"
#include "kernels/cuda/sampling.cuh"

#include <stdlib.h>
#include <string.h>

enum { CHUNKS = 16, MEASURE_THREADS = 256, ROWS_A_BLOCK = 4, PLACES = 2 };

/* One chunk of a row. */
struct chunk {
    double sum; /* of exp(x - max) */
    float max;
    int best;
    bool bad; /* a NaN, or an infinity above */
};

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
    struct buffer asked, chunks, masses, scratch, drawn; /* the device's */
};

/* What is asked, a unit each thread. */
struct bringing {
    const int4 *from; /* host memory */
    int4 *to;
    unsigned units, blocks; /* blocks a row of the sample */
};

/* Where the tokens go. */
struct answers {
    struct sample_result *out; /* [rows], host memory */
    int32_t *drawn;            /* [rows], sampling_drawn() */
};

/* The ids of a chunk. */
static __device__ __forceinline__ int chunk_size(int vocab)
{
    return (vocab + CHUNKS - 1) / CHUNKS;
}

static __device__ void bring(const struct bringing &b)
{
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    const unsigned i = block * MEASURE_THREADS + threadIdx.x;
    const int4 unit = i < b.units ? __ldcv(b.from + i) : int4{};

    wait_for_inputs(); /* the sample in front may still read what was asked of it */
    if (i < b.units)
        b.to[i] = unit;
}

/* The first blocks of a row bring, the others have a chunk each. */
static __global__ void measure_chunks(const float *logits, size_t ld, int vocab,
                                      const struct bringing asked, struct chunk *chunks)
{
    __shared__ float values[WARPS_MAX];
    __shared__ int ids[WARPS_MAX];
    __shared__ double sums[WARPS_MAX];
    const int chunk = (int)blockIdx.y - (int)asked.blocks, each = chunk_size(vocab);
    const int first = chunk * each, end = min(first + each, vocab);
    const float *x = logits + blockIdx.x * ld;
    float max = -INFINITY, sum = 0.0f;
    int best = INT32_MAX, bad = 0;

    let_next_start();
    if (chunk < 0) {
        bring(asked);
        return;
    }
    wait_for_inputs();
    for (int i = first + threadIdx.x; i < end; i += MEASURE_THREADS) {
        bad |= !(x[i] < INFINITY);
        take_better(&max, &best, x[i], i);
    }
    bad = __syncthreads_or(bad);
    warp_best(&max, &best);
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = max;
        ids[threadIdx.x / WARP] = best;
    }
    __syncthreads();
    for (int w = 0; w < MEASURE_THREADS / WARP; w++)
        take_better(&max, &best, values[w], ids[w]);
    for (int i = first + threadIdx.x; i < end && max > -INFINITY; i += MEASURE_THREADS)
        sum += expf(x[i] - max);

    const double total = block_sum((double)sum, sums);

    if (threadIdx.x == 0)
        chunks[blockIdx.x * CHUNKS + chunk] = { total, max, best, bad != 0 };
}

/* In every lane of a warp. */
static __device__ struct measured join_chunks(const struct chunk *chunks, int row)
{
    const int lane = threadIdx.x % WARP;
    struct chunk own = { 0.0, -INFINITY, INT32_MAX, false };
    struct measured m;

    if (lane < CHUNKS)
        own = chunks[row * CHUNKS + lane];
    m.max = own.max;
    m.best = own.best;
    warp_best(&m.max, &m.best);
    m.finite = !__any_sync(0xffffffffu, own.bad) && m.max > -INFINITY;
    m.log_sum =
        log(warp_sum(own.max > -INFINITY ? own.sum * exp((double)own.max - (double)m.max) : 0.0));
    return m;
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

/* Of rows that are drawn from freely, the mass of each chunk (choose.cuh). */
static __global__ void weigh_chunks(const float *logits, size_t ld, int vocab,
                                    const struct chunk *chunks, const struct asked *asked,
                                    uint64_t *masses)
{
    __shared__ uint64_t sums[WARPS_MAX];
    const int each = chunk_size(vocab), first = blockIdx.y * each, end = min(first + each, vocab);
    const float *x = logits + blockIdx.x * ld;
    uint64_t sum = 0;

    let_next_start();
    wait_for_inputs();

    const struct asked &ask = asked[blockIdx.x];

    if (!is_free(ask))
        return;

    const struct measured m = join_chunks(chunks, blockIdx.x);

    for (int i = first + (int)threadIdx.x; i < end && m.finite; i += MEASURE_THREADS)
        sum += mass_of(probability(x[i], m.max, ask.temperature));
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0)
        masses[blockIdx.x * CHUNKS + blockIdx.y] = sum;
}

static __device__ float logprob_of(const struct measured &m, float logit)
{
    return (float)((double)logit - (double)m.max - m.log_sum);
}

/* A warp's word on a row; the lists of alternatives are written apart. */
static __device__ void answer(const struct answers &to, int row, const struct asked &ask,
                              const int32_t *hold, const struct measured &m, const float *x,
                              int token)
{
    const int lane = threadIdx.x % WARP;
    const bool finite = m.finite && token >= 0;
    struct sample_result *out = &to.out[row];
    int held = !finite;

    for (int i = lane; i < ask.holds; i += WARP)
        held |= hold[i] == token;
    held = __any_sync(0xffffffffu, held);
    if (lane > 0)
        return;
    out->finite = finite;
    out->token = finite ? token : -1;
    if (finite)
        out->logprob = logprob_of(m, x[token]);
    to.drawn[row] = held ? -1 : token;
}

static __global__ void answer_rows(const float *logits, size_t ld, int rows,
                                   const struct chunk *chunks, const struct asked *asked,
                                   const int32_t *words, const struct answers to)
{
    const int row = blockIdx.x * ROWS_A_BLOCK + threadIdx.x / WARP;

    let_next_start();
    wait_for_inputs();
    if (row >= rows)
        return;

    const struct asked &ask = asked[row];
    const struct measured m = join_chunks(chunks, row);

    answer(to, row, ask, holds_of(ask, words), m, logits + row * ld,
           ask.forced >= 0 ? ask.forced : m.best);
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
    choose_rows(const float *logits, size_t ld, int rows, int vocab, const struct chunk *chunks,
                const struct asked *asked, const int32_t *words, const uint64_t *masses,
                struct candidate *candidates, float *adjusted, const struct answers to)
{
    __shared__ struct choose_shared s;

    let_next_start();
    wait_for_inputs();
    candidates += (size_t)blockIdx.x * vocab;
    adjusted += (size_t)blockIdx.x * vocab;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const struct asked ask = asked[row];
        const struct measured m = join_chunks(chunks, row);
        const float *x = logits + row * ld;
        int token = -1;

        if (m.finite) {
            token =
                choose(ask, words, x, vocab, m, masses + row * CHUNKS, candidates, adjusted, &s);
            report_top(x, vocab, ask.top, m, &to.out[row], &s);
        }
        if (threadIdx.x < WARP)
            answer(to, row, ask, holds_of(ask, words), m, x, token);
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
    *b = { (const int4 *)host, (int4 *)device, (unsigned)units,
           (unsigned)((units - 1) / (rows * MEASURE_THREADS) + 1) };
    return true;
}

static void choose_all(struct stream *q, struct sampling *s, const struct sample *p,
                       const struct chunk *chunks, const struct asked *asked,
                       const struct answers &to)
{
    const int blocks = p->rows < q->sms ? p->rows : q->sms;
    const size_t candidates = (size_t)blocks * (size_t)p->vocab;
    struct candidate *scratch = (struct candidate *)grow(
        q, &s->scratch, candidates * (sizeof(struct candidate) + sizeof(float)), false);
    uint64_t *masses =
        (uint64_t *)grow(q, &s->masses, (size_t)p->rows * CHUNKS * sizeof(*masses), false);

    if (!scratch || !masses)
        return;
    launch(q, "sample", weigh_chunks, dim3(p->rows, CHUNKS), MEASURE_THREADS, 0, p->logits, p->ld,
           p->vocab, chunks, asked, masses);
    launch(q, "sample", choose_rows, blocks, CHOOSE_THREADS, 0, p->logits, p->ld, p->rows, p->vocab,
           chunks, asked, (const int32_t *)(asked + p->rows), (const uint64_t *)masses, scratch,
           (float *)(scratch + candidates), to);
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

    struct chunk *chunks =
        (struct chunk *)grow(q, &s->chunks, rows * CHUNKS * sizeof(*chunks), false);
    const struct answers to = {
        (struct sample_result *)grow(q, &place->results, rows * sizeof(*to.out), true),
        (int32_t *)grow(q, &s->drawn, rows * sizeof(*to.drawn), false),
    };
    struct bringing b;

    if (!chunks || !to.out || !to.drawn || !pack(q, s, place, p, &b))
        return;

    const struct asked *asked = (const struct asked *)b.to;

    for (int i = 0; i < p->rows; i++)
        plain = plain && is_plain(&p->row[i]);
    launch(q, "sample", measure_chunks, dim3(p->rows, b.blocks + CHUNKS), MEASURE_THREADS, 0,
           p->logits, p->ld, p->vocab, b, chunks);
    if (plain)
        launch(q, "sample", answer_rows, (p->rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK,
               ROWS_A_BLOCK * WARP, 0, p->logits, p->ld, p->rows, (const struct chunk *)chunks,
               asked, (const int32_t *)(asked + rows), to);
    else
        choose_all(q, s, p, chunks, asked, to);
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
    cudaFree(s->chunks.memory);
    cudaFree(s->masses.memory);
    cudaFree(s->scratch.memory);
    free(s);
    q->sampling = NULL;
}
