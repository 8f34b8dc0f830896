/* steps.cu - what the device knows of a batch, and recorded decode steps.
 *
 * The arrays of a batch are laid out tightly, one behind the other, so that one copy brings
 * them all and their addresses follow from the sizes alone. A decode step (one row and one
 * draw for each sequence) is filled up to one of a few sizes. The first of a size runs as it
 * is, the second is recorded, and from then on it is one launch. */
#include "kernels/cuda/steps.cuh"

#include <stdlib.h>
#include <string.h>

const int steps_sizes[] = { 1,   2,   4,   8,   16,  24,  32,   48,   64,   96, 128,
                            160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 0 };

enum { STAGES = 2, ARRAYS = 6, FIRST_BYTES = 1 << 20 };

struct recorded {
    struct step_key key;
    int rows, runs;
    cudaGraphExec_t graph; /* NULL until it was recorded */
};

/* One of the places where batches wait for their copy, in turns. */
struct stage {
    char *host; /* pinned */
    cudaEvent_t copied;
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
        ok = cudaEventCreateWithFlags(&s->stage[i].copied, cudaEventDisableTiming) == cudaSuccess;
    if (ok && make_buffers(s, FIRST_BYTES)) {
        s->q = q;
        return s;
    }
    steps_destroy(s);
    return NULL;
}

void steps_forget(struct steps *s)
{
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
        if (s->stage[i].copied)
            cudaEventDestroy(s->stage[i].copied);
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

/* One row for each sequence, in order. */
static bool is_row_each(const struct batch *in)
{
    if (in->S != in->T)
        return false;
    for (int i = 0; i < in->T; i++)
        if (in->begin[i] != i)
            return false;
    return true;
}

/* One draw for each row, in order. */
static bool is_draw_each(const struct batch *in)
{
    if (in->L != in->T)
        return false;
    for (int i = 0; i < in->T; i++)
        if (in->logit_row[i] != i)
            return false;
    return in->T > 0;
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

/* Lays the batch out in the stage, filled up to `rows` if that is above its own. */
static size_t lay_batch(struct steps *s, int32_t *host, const struct batch *in, int rows)
{
    const int more = rows > in->T ? rows - in->T : 0;
    struct batch *b = &s->batch;
    int32_t *at = host;
    const int32_t *device = (const int32_t *)s->device;
    struct device_batch *d = &s->q->in;

    *b = *in;
    b->T += more;
    b->S += more;
    b->L += in->L ? more : 0;
    b->token = at;
    at = lay(at, in->token, in->T, b->T, 0);
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

    d->token = device;
    d->begin = device + (b->begin - host);
    d->slot = device + (b->slot - host);
    d->row_seq = device + (row_seq - host);
    d->logit_row = device + (b->logit_row - host);
    d->position = (const uint32_t *)device + (b->position - (const uint32_t *)host);
    return (size_t)(at - host) * sizeof(*at);
}

static bool bring(struct steps *s, const struct batch *in, int rows)
{
    const size_t more = rows > in->T ? (size_t)(rows - in->T) : 0;
    const size_t room =
        (2 * (size_t)in->T + 3 * (size_t)in->S + 1 + (size_t)in->L + ARRAYS * more) *
        sizeof(int32_t);
    struct stage *stage;

    if (!grow(s, room))
        return false;
    stage = &s->stage[s->next];
    s->next = (s->next + 1) % STAGES;
    stream_note(s->q, cudaEventSynchronize(stage->copied), "batch");

    const size_t bytes = lay_batch(s, (int32_t *)stage->host, in, rows);

    stream_note(s->q,
                cudaMemcpyAsync(s->device, stage->host, bytes, cudaMemcpyHostToDevice, s->q->cuda),
                "batch");
    stream_note(s->q, cudaEventRecord(stage->copied, s->q->cuda), "batch");
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
    const bool row_each = is_row_each(in), decode = key->model && row_each && is_draw_each(in);
    struct recorded *r;

    s->open = NULL;
    s->q->replayed = false;
    s->q->row_each = row_each;
    if (!bring(s, in, decode ? padded(key, in->T) : 0))
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
