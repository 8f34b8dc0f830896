/* steps.cu - what the device knows of a batch, and recorded decode steps.
 *
 * The arrays of a batch are laid out tightly, one behind the other, so that their addresses follow
 * from the sizes alone. A kernel brings them all, in its arguments or, if they are many, from
 * pinned memory, and puts in what sequences follow; so a step is recorded, and replayed, as if the
 * host had known it. A decode step (one row and one draw for each sequence) is filled up to one of
 * a few sizes. The first of a size runs as it is, the second is recorded, and from then on it is
 * one launch. */
#include "kernels/cuda/steps.cuh"

#include "kernels/cuda/sampling.cuh"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

const int steps_sizes[] = { 1,    2,    4,     8,     16,    24,    32,    48,    64,   96,   128,
                            160,  192,  256,   384,   512,   768,   1024,  1536,  2048, 3072, 4096,
                            6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 0 };

enum { STAGES = 2, ARRAYS = 8, FIRST_BYTES = 1 << 20, THREADS = 256 };

struct recorded {
    struct step_key key;
    int rows, runs;
    cudaGraphExec_t graph; /* NULL until it was recorded */
};

/* One of the places where batches wait to be brought, in turns. */
struct stage {
    char *host;          /* pinned */
    cudaEvent_t brought; /* the last one that was read from there */
};

/* A batch in a stage. A token below 0 is ~row of the draw that the sequence follows. */
struct laid {
    const int32_t *host;
    int32_t *device;
    const int32_t *drawn; /* sampling_drawn() */
    int numbers;          /* that the device gets */
    int T, S;
    int slot, follows; /* where these arrays begin; the second is not kept on the device */
};

struct steps {
    struct stream *q; /* borrowed: the backend that this belongs to */
    struct stage stage[STAGES];
    int next;
    char *device;
    size_t bytes; /* of device and of each stage */
    struct batch batch;
    struct recorded *list;
    int count, room;
    struct recorded *open; /* being recorded between begin and end */
};

static void free_buffers(struct steps *s)
{
    for (int i = 0; i < STAGES; i++) {
        cudaFreeHost(s->stage[i].host);
        s->stage[i].host = NULL;
    }
    cudaFree(s->device);
    s->device = NULL;
    s->bytes = 0;
}

static bool make_buffers(struct steps *s, size_t bytes)
{
    bool ok = cudaMalloc((void **)&s->device, bytes) == cudaSuccess;

    for (int i = 0; i < STAGES && ok; i++)
        ok = cudaMallocHost((void **)&s->stage[i].host, bytes) == cudaSuccess;
    s->bytes = bytes;
    return ok;
}

struct steps *steps_create(struct stream *q)
{
    struct steps *s = (struct steps *)calloc(1, sizeof(*s));
    bool ok = s != NULL;

    for (int i = 0; i < STAGES && ok; i++)
        ok = cudaEventCreateWithFlags(&s->stage[i].brought, cudaEventDisableTiming) == cudaSuccess;
    if (ok && make_buffers(s, FIRST_BYTES)) {
        s->q = q;
        return s;
    }
    steps_destroy(s);
    return NULL;
}

/* One of them may be running. */
static void await_graphs(struct steps *s)
{
    for (int i = 0; i < s->count; i++)
        if (s->list[i].graph) {
            stream_note(s->q, cudaStreamSynchronize(s->q->cuda), "recorded step");
            return;
        }
}

void steps_forget(struct steps *s)
{
    await_graphs(s);
    for (int i = 0; i < s->count; i++)
        if (s->list[i].graph)
            cudaGraphExecDestroy(s->list[i].graph);
    s->count = 0;
}

void steps_destroy(struct steps *s)
{
    if (!s)
        return;
    steps_forget(s);
    free_buffers(s);
    for (int i = 0; i < STAGES; i++)
        if (s->stage[i].brought)
            cudaEventDestroy(s->stage[i].brought);
    free(s->list);
    free(s);
}

/* Graphs know where the batch is: a larger one begins anew. */
static bool grow(struct steps *s, size_t bytes)
{
    if (bytes <= s->bytes)
        return true;
    stream_note(s->q, cudaStreamSynchronize(s->q->cuda), "batch");
    steps_forget(s);
    free_buffers(s);
    if (make_buffers(s, bytes * 2))
        return true;
    stream_note(s->q, cudaGetLastError(), "batch");
    free_buffers(s);
    return false;
}

/* How many sequences of one row the batch begins with. */
static int count_ones(const struct batch *in)
{
    int n = 0;

    while (n < in->S && in->begin[n + 1] == n + 1)
        n++;
    return n;
}

static bool has_logs_to_settle(const struct batch *in)
{
    for (int i = 0; in->logged && i < in->S; i++)
        if (in->logged[i] > 0 && in->begin[i + 1] - in->begin[i] > 1)
            return true;
    return false;
}

static int padded(const struct step_key *key, int rows)
{
    for (const int *size = steps_sizes; *size; size++)
        if (*size >= rows)
            return *size <= key->rows ? *size : key->rows > rows ? key->rows : rows;
    return rows;
}

/* Copies n elements if they are given and fills up to `most`; returns the place behind. */
static int32_t *lay(int32_t *at, const int32_t *from, int n, int most, int fill)
{
    if (from && n)
        memcpy(at, from, (size_t)n * sizeof(*at));
    for (int i = from ? n : 0; i < most; i++)
        at[i] = fill;
    return at + most;
}

/* Lays out what is behind the first sequences of one row as a batch of its own, as far as it is not
 * the end of the whole one's arrays; returns the place behind. */
static int32_t *lay_rest(struct step_part *rest, const struct batch *whole, const int32_t *row_seq,
                         const struct device_batch *d, int first, int32_t *at, int32_t *device)
{
    const int S = whole->S - first, T = whole->T - first;

    *rest = { .in = { .S = S, .T = T },
              .at = { .token = d->token + first,
                      .begin = device,
                      .slot = d->slot + first,
                      .row_seq = device + S + 1,
                      .logit_row = NULL,
                      .position = d->position + first,
                      .logged = d->logged + first },
              .first = first };
    for (int i = 0; i <= S; i++)
        *at++ = whole->begin[first + i] - first;
    for (int t = 0; t < T; t++)
        *at++ = row_seq[first + t] - first;
    return at;
}

/* Lays the batch out in the stage, filled up to `rows` if that is above its own; the first `ones`
 * of its sequences have one row. */
static struct laid lay_batch(struct steps *s, int32_t *host, const struct batch *in, int rows,
                             int ones)
{
    const int more = rows > in->T ? rows - in->T : 0;
    struct batch *b = &s->batch;
    int32_t *at = host;
    int32_t *device = (int32_t *)s->device;
    struct device_batch *d = &s->q->in;

    *b = *in;
    b->T += more;
    b->S += more;
    b->L += in->L ? more : 0;
    b->token = at;
    at = lay(at, in->token, in->T, b->T, 0);
    for (int i = 0; in->follows && i < in->S; i++)
        if (in->follows[i] >= 0) {
            assert(in->begin[i + 1] == in->begin[i] + 1);
            host[in->begin[i]] = ~in->follows[i];
        }
    b->begin = at;
    at = lay(at, in->begin, in->S + 1, b->S + 1, 0);
    for (int i = 1; i <= more; i++)
        at[i - 1 - more] = in->T + i;
    b->slot = at;
    at = lay(at, in->slot, in->S, b->S, SLOT_NONE);
    int32_t *row_seq = at;
    for (int i = 0; in->begin && i < b->S; i++)
        for (int t = b->begin[i]; t < b->begin[i + 1]; t++)
            row_seq[t] = i;
    at += b->T;
    b->logit_row = at;
    at = lay(at, in->logit_row, in->L, b->L, 0);
    for (int i = in->L; i < b->L; i++)
        at[i - b->L] = in->T + i - in->L;
    b->position = (const uint32_t *)at;
    at = lay(at, (const int32_t *)in->position, in->S, b->S, 0);
    b->logged = at;
    at = lay(at, in->logged, in->S, b->S, -1);

    d->token = device;
    d->begin = device + (b->begin - host);
    d->slot = device + (b->slot - host);
    d->row_seq = device + (row_seq - host);
    d->logit_row = device + (b->logit_row - host);
    d->position = (const uint32_t *)device + (b->position - (const uint32_t *)host);
    d->logged = device + (b->logged - host);
    if (ones > 0 && ones < in->T)
        at = lay_rest(&s->q->rest, b, row_seq, d, ones, at, device + (at - host));

    int32_t *follows = at;
    lay(at, in->follows, in->S, b->S, -1);
    return { .host = host,
             .device = device,
             .drawn = sampling_drawn(s->q),
             .numbers = (int)(follows - host),
             .T = b->T,
             .S = b->S,
             .slot = (int)(b->slot - host),
             .follows = (int)(follows - host) };
}

/* -1: it is held, or there was no room for a draw, and the stream has that fault. */
static __device__ __forceinline__ int32_t drawn_in(const struct laid &l, int row)
{
    return l.drawn ? l.drawn[row] : -1;
}

/* How a batch's numbers travel to the device: in the arguments of a launch, which are there with
 * it, or left in host memory. */
template <int NUMBERS> struct carried {
    struct laid l;
    int32_t number[NUMBERS];

    __device__ __forceinline__ int32_t at(int i) const
    {
        return number[i];
    }
};

template <> struct carried<0> {
    struct laid l;

    __device__ __forceinline__ int32_t at(int i) const
    {
        return __ldcv(l.host + i);
    }
};

/* A number a thread. What it reads of the host's memory takes two microseconds, and nothing that it
 * reads there depends on something read there before. Kernels behind this one read the batch
 * without a wait for it (cuda.cuh). They start when all blocks have ended, as none lets them start
 * before, and by then each has made what it wrote visible to the device. */
template <typename C>
static __global__ void __launch_bounds__(THREADS) bring_batch(const __grid_constant__ C c)
{
    const struct laid &l = c.l;
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x), seq = i - l.slot;

    if (i < l.numbers) {
        int32_t x = c.at(i);
        const int32_t row = seq >= 0 && seq < l.S ? c.at(l.follows + seq) : -1;

        if (i < l.T && x < 0)
            x = max(drawn_in(l, ~x), 0);
        if (row >= 0 && drawn_in(l, row) < 0)
            x = SLOT_NONE;
        l.device[i] = x;
    }
    __threadfence();
}

template <typename C> static void launch_bring(struct stream *q, const C &c)
{
    launch_apart(q, "batch", bring_batch<C>, (c.l.numbers + THREADS - 1) / THREADS, THREADS, 0, c);
}

template <int NUMBERS> static bool carry(struct stream *q, const struct laid &l)
{
    struct carried<NUMBERS> c;

    if (l.follows + l.S > NUMBERS)
        return false;
    c.l = l;
    memcpy(c.number, l.host, (size_t)(l.follows + l.S) * sizeof(*c.number));
    launch_bring(q, c);
    return true;
}

static bool bring(struct steps *s, const struct batch *in, int rows, int ones)
{
    const size_t more = rows > in->T ? (size_t)(rows - in->T) : 0;
    const size_t room =
        (3 * (size_t)in->T + 6 * (size_t)in->S + 2 + (size_t)in->L + ARRAYS * more) *
        sizeof(int32_t);
    struct stage *stage;

    if (!grow(s, room))
        return false;
    stage = &s->stage[s->next];
    s->next = (s->next + 1) % STAGES;
    stream_note(s->q, cudaEventSynchronize(stage->brought), "batch");

    const struct laid l = lay_batch(s, (int32_t *)stage->host, in, rows, ones);

    /* Of decode steps up to 16, 64 and 256 rows. */
    if (carry<ARRAYS * 16 + 1>(s->q, l) || carry<ARRAYS * 64 + 1>(s->q, l) ||
        carry<ARRAYS * 256 + 1>(s->q, l))
        return true;
    launch_bring(s->q, carried<0>{ l });
    stream_note(s->q, cudaEventRecord(stage->brought, s->q->cuda), "batch");
    return true;
}

/* NULL when there is no memory to remember one more. */
static struct recorded *find(struct steps *s, const struct step_key *key, int rows)
{
    for (int i = 0; i < s->count; i++) {
        struct recorded *r = &s->list[i];

        if (r->rows == rows && r->key.model == key->model && r->key.records == key->records)
            return r;
    }
    if (s->count == s->room) {
        const int room = s->room ? 2 * s->room : 32;
        void *list = realloc(s->list, (size_t)room * sizeof(*s->list));

        if (!list)
            return NULL;
        s->list = (struct recorded *)list;
        s->room = room;
    }
    s->list[s->count] = (struct recorded){ .key = *key, .rows = rows };
    return &s->list[s->count++];
}

const struct batch *steps_begin(struct steps *s, const struct step_key *key, const struct batch *in)
{
    const int ones = count_ones(in);
    const bool row_each = ones == in->S && ones == in->T,
               decode = key->model && row_each && in->T > 0 && batch_wants_all(in);
    struct recorded *r;

    s->open = NULL;
    s->q->replayed = false;
    s->q->row_each = row_each;
    s->q->settles = has_logs_to_settle(in);
    s->q->rest = {};
    if (!bring(s, in, decode ? padded(key, in->T) : 0, ones))
        return NULL;
    r = decode ? find(s, key, s->batch.T) : NULL;
    if (!r)
        return &s->batch;
    s->q->replayed = true;
    if (r->graph) {
        stream_note(s->q, cudaGraphLaunch(r->graph, s->q->cuda), "recorded step");
        return NULL;
    }
    if (r->runs++ > 0) {
        s->open = r;
        s->q->recording = true;
        stream_note(s->q, cudaStreamBeginCapture(s->q->cuda, cudaStreamCaptureModeThreadLocal),
                    "recording");
    }
    return &s->batch;
}

void steps_end(struct steps *s)
{
    cudaGraph_t graph = NULL;

    if (!s->open)
        return;
    stream_note(s->q, cudaStreamEndCapture(s->q->cuda, &graph), "recording");
    s->q->recording = false;
    if (graph) {
        stream_note(s->q, cudaGraphInstantiate(&s->open->graph, graph, 0), "recording");
        cudaGraphDestroy(graph);
    }
    if (s->open->graph)
        stream_note(s->q, cudaGraphLaunch(s->open->graph, s->q->cuda), "recorded step");
    s->open = NULL;
}
