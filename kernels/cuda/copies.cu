/* copies.cu - every copy between host memory and the device's.
 *
 * Moves have a stream of their own: the copy engines work beside the kernels. Pinned memory
 * goes over the bus as it lies. Any other is copied through pinned buffers, two for each copier,
 * in turns, so that the bus works while the host copies. One thread copies slower than the bus
 * carries, so a large piece is cut among several. */
#include "kernels/cuda/copies.cuh"

#include "kernels/cuda/state_log.cuh"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <system_error>
#include <thread>

enum {
    STAGES = 2,
    COPIERS = 6,
    STAGE_BYTES = 2 << 20,
    MOVES = 1024, /* events; a move's is recorded again by the one that many later */
    PAGE_BYTES = 4096,
    HUGE_BYTES = 2 << 20
};

/* Its buffers carry one copy at a time. */
struct copier {
    char *stage[STAGES]; /* pinned */
    cudaEvent_t idle[STAGES];
    cudaError_t fault;
};

struct copies {
    struct stream *q; /* borrowed */
    cudaStream_t moves;
    cudaEvent_t enqueued;
    cudaEvent_t moved[MOVES];
    uint64_t newest; /* of the moves, which are numbered from 1 */
    struct copier copier[COPIERS];
};

struct copies *copies_create(struct stream *q)
{
    struct copies *c = (struct copies *)calloc(1, sizeof(*c));
    bool ok = c && cudaStreamCreateWithFlags(&c->moves, cudaStreamNonBlocking) == cudaSuccess &&
              cudaEventCreateWithFlags(&c->enqueued, cudaEventDisableTiming) == cudaSuccess;

    for (int i = 0; ok && i < MOVES; i++)
        ok = cudaEventCreateWithFlags(&c->moved[i], cudaEventDisableTiming) == cudaSuccess;
    for (int i = 0; ok && i < COPIERS * STAGES; i++) {
        struct copier *by = &c->copier[i / STAGES];

        ok = cudaMallocHost((void **)&by->stage[i % STAGES], STAGE_BYTES) == cudaSuccess &&
             cudaEventCreateWithFlags(&by->idle[i % STAGES], cudaEventDisableTiming) == cudaSuccess;
    }
    if (ok) {
        c->q = q;
        return c;
    }
    copies_destroy(c);
    return NULL;
}

static void destroy_event(cudaEvent_t e)
{
    if (e)
        cudaEventDestroy(e);
}

void copies_destroy(struct copies *c)
{
    if (!c)
        return;
    if (c->moves) {
        cudaStreamSynchronize(c->moves);
        cudaStreamDestroy(c->moves);
    }
    destroy_event(c->enqueued);
    for (int i = 0; i < MOVES; i++)
        destroy_event(c->moved[i]);
    for (int i = 0; i < COPIERS * STAGES; i++) {
        destroy_event(c->copier[i / STAGES].idle[i % STAGES]);
        cudaFreeHost(c->copier[i / STAGES].stage[i % STAGES]);
    }
    free(c);
}

/* Calls run(k, at, len) for equal parts of so many bytes, each in a thread but the first. A thread
 * that cannot be had leaves its part to this one. */
template <typename Run> static void in_parts(size_t bytes, Run run)
{
    const size_t wanted = bytes / STAGE_BYTES, n = wanted < 1         ? 1
                                                   : wanted > COPIERS ? (size_t)COPIERS
                                                                      : wanted;
    const size_t part = (bytes / n + 63) / 64 * 64;
    std::thread thread[COPIERS];

    for (size_t k = n; k-- > 0;) {
        const size_t at = k * part < bytes ? k * part : bytes;
        const size_t len = k + 1 < n && at + part < bytes ? part : bytes - at;

        try {
            if (k)
                thread[k] = std::thread(run, k, at, len);
            else
                run(k, at, len);
        } catch (const std::system_error &) {
            run(k, at, len);
        }
    }
    for (size_t k = 0; k < n; k++)
        if (thread[k].joinable())
            thread[k].join();
}

/* In huge pages where the system lends them: they are pinned in a fifth of the time. Every page is
 * written first, by several threads, for to pin it is to have it cleared by one. */
void *copies_alloc_host(size_t bytes)
{
    char *p = (char *)mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_HUGEPAGE);
    in_parts(bytes, [=](size_t, size_t at, size_t len) {
        for (size_t i = at; i < at + len; i += PAGE_BYTES)
            p[i] = 0;
    });
    if (cudaHostRegister(p, bytes, cudaHostRegisterPortable) == cudaSuccess)
        return p;
    cudaGetLastError(); /* it is answered here, and is no fault */
    munmap(p, bytes);
    return NULL;
}

void copies_free_host(struct copies *c, void *p, size_t bytes)
{
    if (!p)
        return;
    stream_note(c->q, cudaStreamSynchronize(c->moves), "moves");
    stream_note(c->q, cudaHostUnregister(p), "free host");
    munmap(p, bytes);
}

static bool is_pinned(const void *host)
{
    cudaPointerAttributes of;

    return cudaPointerGetAttributes(&of, host) == cudaSuccess && of.type == cudaMemoryTypeHost;
}

static void keep(struct copier *by, cudaError_t e)
{
    if (by->fault == cudaSuccess)
        by->fault = e;
}

static void copy_in(struct copier *by, cudaStream_t stream, char *device, const char *host,
                    size_t bytes)
{
    for (size_t at = 0, n, i = 0; at < bytes; at += n, i ^= 1) {
        n = bytes - at < (size_t)STAGE_BYTES ? bytes - at : (size_t)STAGE_BYTES;
        keep(by, cudaEventSynchronize(by->idle[i]));
        memcpy(by->stage[i], host + at, n);
        keep(by, cudaMemcpyAsync(device + at, by->stage[i], n, cudaMemcpyHostToDevice, stream));
        keep(by, cudaEventRecord(by->idle[i], stream));
    }
}

/* Takes what arrived in a stage, while the other one is being filled. */
static void take(struct copier *by, size_t i, char *host, size_t bytes)
{
    keep(by, cudaEventSynchronize(by->idle[i]));
    memcpy(host, by->stage[i], bytes);
}

static void copy_out(struct copier *by, cudaStream_t stream, char *host, const char *device,
                     size_t bytes)
{
    size_t at = 0, n = 0, i = 0, before = 0;

    for (; at < bytes; at += n, i ^= 1) {
        n = bytes - at < (size_t)STAGE_BYTES ? bytes - at : (size_t)STAGE_BYTES;
        keep(by, cudaEventSynchronize(by->idle[i])); /* an upload may still use it */
        keep(by, cudaMemcpyAsync(by->stage[i], device + at, n, cudaMemcpyDeviceToHost, stream));
        keep(by, cudaEventRecord(by->idle[i], stream));
        if (at)
            take(by, i ^ 1, host + at - before, before);
        before = n;
    }
    if (bytes)
        take(by, i ^ 1, host + bytes - before, before);
}

/* Through the copiers; the host's side is finished with. */
static void stage(struct copies *c, cudaStream_t stream, void *dst, const void *src, size_t bytes,
                  bool in)
{
    const int device = c->q->device;

    in_parts(bytes, [=](size_t k, size_t at, size_t len) {
        struct copier *by = &c->copier[k];

        keep(by, cudaSetDevice(device));
        (in ? copy_in : copy_out)(by, stream, (char *)dst + at, (char *)src + at, len);
    });
    for (int k = 0; k < COPIERS; k++)
        stream_note(c->q, c->copier[k].fault, "copy");
}

/* Whether the host's side is finished with. */
static bool copy(struct copies *c, cudaStream_t stream, void *dst, const void *src, size_t bytes,
                 bool in)
{
    if (!is_pinned(in ? src : dst)) {
        stage(c, stream, dst, src, bytes, in);
        return true;
    }
    stream_note(c->q, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream), "copy");
    return false;
}

void copies_upload(struct copies *c, void *dst, const void *src, size_t bytes)
{
    if (!copy(c, c->q->cuda, dst, src, bytes, true))
        stream_note(c->q, cudaStreamSynchronize(c->q->cuda), "copy");
    copies_hold_moves(c);
}

void copies_download(struct copies *c, void *dst, const void *src, size_t bytes)
{
    if (!copy(c, c->q->cuda, dst, src, bytes, false))
        stream_note(c->q, cudaStreamSynchronize(c->q->cuda), "copy");
}

void copies_hold_moves(struct copies *c)
{
    stream_note(c->q, cudaEventRecord(c->enqueued, c->q->cuda), "moves");
}

static void begin_move(struct copies *c)
{
    stream_note(c->q, cudaStreamWaitEvent(c->moves, c->enqueued, 0), "moves");
}

static uint64_t end_move(struct copies *c)
{
    c->newest++;
    stream_note(c->q, cudaEventRecord(c->moved[c->newest % MOVES], c->moves), "moves");
    return c->newest;
}

static uint64_t move(struct copies *c, void *dst, const void *src, size_t bytes, bool in)
{
    begin_move(c);
    copy(c, c->moves, dst, src, bytes, in);
    return end_move(c);
}

uint64_t copies_move_logged(struct copies *c, const struct state_log *log, int slot, int logged)
{
    begin_move(c);
    settle_slot(c->q, c->moves, log, slot, logged);
    return end_move(c);
}

uint64_t copies_move_in(struct copies *c, void *dst, const void *src, size_t bytes)
{
    return move(c, dst, src, bytes, true);
}

uint64_t copies_move_out(struct copies *c, void *dst, const void *src, size_t bytes)
{
    return move(c, dst, src, bytes, false);
}

bool copies_moved(struct copies *c, uint64_t move, bool wait)
{
    const cudaEvent_t moved = c->moved[move % MOVES];
    const cudaError_t e = wait ? cudaEventSynchronize(moved) : cudaEventQuery(moved);

    if (e == cudaErrorNotReady) {
        cudaGetLastError(); /* it is an answer, and no fault */
        return false;
    }
    stream_note(c->q, e, "moves");
    return true;
}

void copies_follow(struct copies *c, uint64_t move)
{
    stream_note(c->q, cudaStreamWaitEvent(c->q->cuda, c->moved[move % MOVES], 0), "moves");
}
