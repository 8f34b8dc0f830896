/* sample.cu - sampling without a word from the host: it lays out what is asked of each row in
 * pinned memory, and finds the tokens there when the stream has been waited for. Two samples may be
 * on their way; the tokens of the last stay on the device as well, for a batch that follows.
 *
 * The rows are measured (measure.cuh), by which most have their tokens. Of the others, and of those
 * that want alternatives, a block a row finishes, see choose.cuh. */
#include "kernels/cuda/choose.cuh"
#include "kernels/cuda/measure.cuh"
#include "kernels/cuda/sampling.cuh"
#include "kernels/cuda/state.cuh"

#include <stdlib.h>
#include <string.h>

enum { PLACES = 2 };

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
    struct buffer asked, measured, scratch, drawn; /* the device's */
};

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
                             int vocab, const struct measured &m, struct candidate *c, float *own,
                             struct choose_shared *s)
{
    const float *z = x;
    float value = m.max;
    int best = m.best;

    if (ask.way == WAY_ADJUSTED) {
        adjust(ask, words, x, vocab, own);
        z = own;
        best = best_of(z, vocab, &value, s);
    }
    return best < 0 || ask.temperature <= 0.0f ? best : draw(ask, z, vocab, value, c, s);
}

static __global__ void __launch_bounds__(CHOOSE_THREADS, 1)
    choose_rows(const struct rows r, const struct measured *measured, const struct asked *asked,
                const int32_t *words, struct candidate *candidates, float *adjusted)
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

        if (ask.way >= WAY_FILTERED) {
            const int token =
                m.finite ? choose(ask, words, x, r.vocab, m, candidates, adjusted, &s) : -1;

            if (threadIdx.x < WARP)
                answer(r.to, row, is_held(holds_of(ask, words), 0, ask.holds, token), m, x, token);
        }
        if (m.finite)
            report_top(x, r.vocab, ask.top, m, &r.to.out[row], &s);
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

static bool is_adjusted(const struct sample_row *row)
{
    return row->biases > 0 || row->banned_count > 0 ||
           (row->seen > 0 &&
            (row->repetition != 1.0f || row->presence != 0.0f || row->frequency != 0.0f));
}

static enum way way_of(const struct sample_row *row)
{
    if (row->forced >= 0)
        return WAY_GIVEN;
    if (is_adjusted(row))
        return WAY_ADJUSTED;
    if (row->temperature <= 0.0f)
        return WAY_LARGEST;
    return row->top_k > 0 || row->typical_p < 1.0f || row->top_p < 1.0f || row->min_p > 0.0f
               ? WAY_FILTERED
               : WAY_DRAWN;
}

/* Writes a row and its lists, in the order in which choose.cuh finds them. */
static int32_t *pack_row(struct asked *a, const struct sample_row *row, int32_t *words, int32_t *at)
{
    *a = { row->temperature,  row->top_p,      row->min_p,
           row->typical_p,    row->repetition, row->presence,
           row->frequency,    row->top_k,      row->top,
           row->forced,       row->seen,       row->biases,
           row->banned_count, row->holds,      (unsigned)(at - words),
           way_of(row),       row->seed,       row->position };
    at = put(at, row->seen_id, row->seen);
    at = put(at, row->seen_weight, row->seen);
    at = put(at, row->bias_id, row->biases);
    at = put(at, row->bias, row->biases);
    at = put(at, row->banned, row->banned_count);
    return put(at, row->hold, row->holds);
}

/* What is asked of a sample. */
struct request {
    struct bringing brings;
    bool draws, chooses; /* for some rows: a draw from all; choose_rows() */
};

/* Lays it out; false when there is no memory. */
static bool pack(struct stream *q, struct sampling *s, struct place *place, const struct sample *p,
                 struct request *to)
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

    to->draws = to->chooses = false;
    for (int i = 0; i < p->rows; i++) {
        at = pack_row(&host[i], &p->row[i], words, at);
        to->draws = to->draws || host[i].way == WAY_DRAWN;
        to->chooses = to->chooses || host[i].way >= WAY_FILTERED || host[i].top > 0;
    }
    to->brings = { (const int4 *)host, to->chooses ? (int4 *)device : NULL, (int)units };
    return true;
}

static void measure_all(struct stream *q, const struct rows &r, const struct request &to,
                        struct measured *measured)
{
    const unsigned blocks = q->overlaps ? ROW_BLOCKS : 1;

    launch_as(q, "sample", true, dim3(1, blocks), measure_rows, dim3((unsigned)r.n, blocks),
              MEASURE_THREADS, 0, r, to.brings, to.draws, measured);
}

static void choose_all(struct stream *q, struct sampling *s, const struct rows &r,
                       const struct measured *measured, const struct asked *asked)
{
    const int blocks = r.n < q->sms ? r.n : q->sms;
    const size_t candidates = (size_t)blocks * (size_t)r.vocab;
    struct candidate *scratch = (struct candidate *)grow(
        q, &s->scratch, candidates * (sizeof(struct candidate) + sizeof(float)), false);

    if (scratch)
        launch(q, "sample", choose_rows, blocks, CHOOSE_THREADS, 0, r, measured, asked,
               (const int32_t *)(asked + r.n), scratch, (float *)(scratch + candidates));
}

void sample_cuda(struct stream *q, const struct sample *p)
{
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
    struct request to;

    if (!measured || !r.to.out || !r.to.drawn || !pack(q, s, place, p, &to))
        return;
    measure_all(q, r, to, measured);
    if (to.chooses)
        choose_all(q, s, r, measured, (const struct asked *)to.brings.to);
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
    cudaFree(s->scratch.memory);
    free(s);
    q->sampling = NULL;
}
