/* backend_cuda.cu - an NVIDIA GPU as a device: its memory, its stream, and the table of its
 * operations; the module's door.
 *
 * Everything but moves (copies.cu) and branches of a step (branch.cu) happens on one stream. */
#include "kernels/cuda/cuda.cuh"

#include <atomic>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/ceiling.cuh"
#include "kernels/cuda/copies.cuh"
#include "kernels/cuda/sampling.cuh"
#include "kernels/cuda/state_log.cuh"
#include "kernels/cuda/steps.cuh"

enum { WORKSPACE_BYTES = 32 << 20, MARKS = 4 };

struct backend_cuda {
    struct backend base;
    struct stream stream;
    struct steps *steps;
    struct copies *copies;
    cudaEvent_t marked[MARKS]; /* a mark's is recorded again by the one that many later */
    size_t memory;             /* bytes of the device */
    char detail[320];
};

static const struct ops ops_cuda = {
    .embed = embed_cuda,
    .gather = gather_cuda,
    .linear = linear_cuda,
    .linear_split = linear_split_cuda,
    .join = join_cuda,
    .norm = norm_cuda,
    .gated_norm = gated_norm_cuda,
    .lerp = lerp_cuda,
    .token_shift = token_shift_cuda,
    .short_conv = short_conv_cuda,
    .diagonal_scan = diagonal_scan_cuda,
    .decay_gates = decay_gates_cuda,
    .delta_gates = delta_gates_cuda,
    .matrix_state = matrix_state_cuda,
    .head_output = head_output_cuda,
    .norm_shift = norm_shift_cuda,
    .scan_inputs = scan_inputs_cuda,
    .dt_scan = dt_scan_cuda,
    .scalar_state = scalar_state_cuda,
    .delta_state = delta_state_cuda,
    .sample = sample_cuda,
};

/* A thread that has not named its device would work on the first one. */
static struct backend_cuda *here(struct backend *be)
{
    struct backend_cuda *c = (struct backend_cuda *)be;

    stream_note(&c->stream, cudaSetDevice(c->stream.device), "device");
    return c;
}

static void *cuda_alloc(struct backend *be, size_t bytes)
{
    struct backend_cuda *c = here(be);
    void *p = NULL;

    if (bytes > c->memory)
        return NULL;
    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* it is answered here, and is no fault */
        return NULL;
    }
    stream_note(&c->stream, cudaMemsetAsync(p, 0, bytes, c->stream.cuda), "alloc");
    copies_hold_moves(c->copies);
    return p;
}

static void cuda_free(struct backend *be, void *p)
{
    struct backend_cuda *c = here(be);

    if (!p)
        return;
    steps_forget(c->steps);
    stream_note(&c->stream, cudaFree(p), "free");
}

static size_t cuda_room(struct backend *be)
{
    struct backend_cuda *c = here(be);
    size_t room = 0, total = 0;

    stream_note(&c->stream, cudaMemGetInfo(&room, &total), "room");
    return room;
}

static void cuda_upload(struct backend *be, void *dst, const void *src, size_t bytes)
{
    copies_upload(here(be)->copies, dst, src, bytes);
}

static void cuda_download(struct backend *be, void *dst, const void *src, size_t bytes)
{
    copies_download(here(be)->copies, dst, src, bytes);
}

static void cuda_copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct backend_cuda *c = here(be);
    struct stream *q = &c->stream;

    stream_note(q, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, q->cuda), "copy");
    copies_hold_moves(c->copies);
}

static void cuda_zero(struct backend *be, void *dst, size_t bytes)
{
    struct backend_cuda *c = here(be);

    stream_note(&c->stream, cudaMemsetAsync(dst, 0, bytes, c->stream.cuda), "zero");
    copies_hold_moves(c->copies);
}

static uint64_t cuda_move_in(struct backend *be, void *dst, const void *src, size_t bytes)
{
    return copies_move_in(here(be)->copies, dst, src, bytes);
}

static uint64_t cuda_move_out(struct backend *be, void *dst, const void *src, size_t bytes)
{
    return copies_move_out(here(be)->copies, dst, src, bytes);
}

static bool cuda_moved(struct backend *be, uint64_t move, bool wait)
{
    struct backend_cuda *c = here(be);
    const bool moved = copies_moved(c->copies, move, wait);

    be->lost |= c->stream.fault != cudaSuccess;
    return moved || be->lost;
}

static size_t cuda_log_numbers(struct backend *be, const struct state_log *log)
{
    (void)be;
    return log_numbers_cuda(log);
}

static uint64_t cuda_settle(struct backend *be, const struct state_log *log, int slot, int logged)
{
    return copies_move_logged(here(be)->copies, log, slot, logged);
}

static void cuda_follow(struct backend *be, uint64_t move)
{
    copies_follow(here(be)->copies, move);
}

/* The stream's faults are noted by the thread that drives it, and this may be another. */
static void *cuda_alloc_host(struct backend *be, size_t bytes)
{
    const struct backend_cuda *c = (struct backend_cuda *)be;

    if (cudaSetDevice(c->stream.device) == cudaSuccess)
        return copies_alloc_host(bytes);
    cudaGetLastError(); /* it is answered here */
    return NULL;
}

static void cuda_free_host(struct backend *be, void *p, size_t bytes)
{
    copies_free_host(here(be)->copies, p, bytes);
}

static const struct batch *cuda_begin(struct backend *be, const struct step_key *key,
                                      const struct batch *in)
{
    return steps_begin(here(be)->steps, key, in);
}

static void cuda_end(struct backend *be)
{
    steps_end(here(be)->steps);
}

static double cuda_ceiling(struct backend *be, enum ceiling which)
{
    return ceiling_cuda(&here(be)->stream, which);
}

static uint64_t cuda_mark(struct backend *be)
{
    struct backend_cuda *c = here(be);
    struct stream *q = &c->stream;

    q->marks++;
    stream_note(q, cudaEventRecord(c->marked[q->marks % MARKS], q->cuda), "mark");
    return q->marks;
}

static bool cuda_busy(struct backend *be, uint64_t mark)
{
    const bool busy = cudaEventQuery(here(be)->marked[mark % MARKS]) == cudaErrorNotReady;

    if (busy)
        cudaGetLastError(); /* it is an answer, and no fault */
    return busy;
}

/* The host was told this when it had waited up to a mark. */
static bool deliver(struct backend *be, cudaError_t told, uint64_t mark, struct error *err)
{
    struct stream *q = be->stream;

    stream_note(q, told, "step");
    if (q->fault != cudaSuccess) {
        be->lost = true;
        return error_set(err, ERR_DEVICE, "%s: %s: %s", be->detail, q->where,
                         cudaGetErrorString(q->fault));
    }
    sampling_deliver(q, mark);
    return true;
}

static bool cuda_wait(struct backend *be, uint64_t mark, struct error *err)
{
    return deliver(be, cudaEventSynchronize(here(be)->marked[mark % MARKS]), mark, err);
}

static bool cuda_sync(struct backend *be, struct error *err)
{
    return deliver(be, cudaStreamSynchronize(here(be)->stream.cuda), UINT64_MAX, err);
}

void *stream_workspace(struct stream *q, size_t bytes, const char *where)
{
    void *larger = NULL;

    if (bytes <= q->workspace_bytes)
        return q->workspace;
    if (q->recording) {
        stream_note(q, cudaErrorStreamCaptureUnsupported, where);
        return NULL;
    }
    bytes = bytes + bytes / 2 < WORKSPACE_BYTES ? WORKSPACE_BYTES : bytes + bytes / 2;
    steps_forget(q->steps);
    stream_note(q, cudaStreamSynchronize(q->cuda), where);
    stream_note(q, cudaFree(q->workspace), where);
    stream_note(q, cudaMalloc(&larger, bytes), where);
    q->workspace = larger;
    q->workspace_bytes = larger ? bytes : 0;
    return larger;
}

/* Devices where the blocks of a stream may wait for each other, a bit each. */
static std::atomic<uint64_t> waited_on;

/* Takes that right for the stream, if nobody else can have it: processes that share a device (MPS)
 * have kernels on it at the same time, those that take turns have not. */
static bool claim_waits(const struct stream *q)
{
    const uint64_t bit = q->device < 64 ? (uint64_t)1 << q->device : 0;
    int shared = 1;

    return q->overlaps &&
           cudaDeviceGetAttribute(&shared, cudaDevAttrMpsEnabled, q->device) == cudaSuccess &&
           !shared && bit && !(waited_on.fetch_or(bit) & bit);
}

/* Takes what open() can leave half done. A device that faulted answers every call with that
 * fault: nothing is left to be said here. */
static void cuda_destroy(struct backend *be)
{
    struct backend_cuda *c = here(be);
    struct stream *q = &c->stream;

    if (q->cuda)
        cudaStreamSynchronize(q->cuda);
    sampling_finish(q);
    linear_finish(q);
    if (q->lt)
        cublasLtDestroy(q->lt);
    steps_destroy(c->steps);
    cudaFree(q->workspace);
    cudaFree(q->branch_workspace);
    cudaFree(q->arrived);
    cudaFree(q->waited);
    if (q->waits)
        waited_on.fetch_and(~((uint64_t)1 << q->device));
    copies_destroy(c->copies);
    for (int i = 0; i < MARKS; i++)
        if (c->marked[i])
            cudaEventDestroy(c->marked[i]);
    if (q->branched)
        cudaEventDestroy(q->branched);
    if (q->branch)
        cudaStreamDestroy(q->branch);
    if (q->cuda)
        cudaStreamDestroy(q->cuda);
    free(c);
}

/* A driver of version 0 is one that is not there. */
static bool find_device(int device, struct cudaDeviceProp *found, struct error *err)
{
    int devices = 0, driver = 0, runtime = 0;
    const cudaError_t e = cudaGetDeviceCount(&devices);

    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0 || e == cudaErrorNoDevice)
        return error_set(err, ERR_INPUT, "cuda: this machine has no NVIDIA GPU%s",
                         driver ? "" : ", or no driver for it");
    if (e == cudaErrorInsufficientDriver)
        return error_set(err, ERR_DEVICE,
                         "cuda: the driver supports CUDA up to %d.%d; this program needs %d.%d",
                         driver / 1000, driver % 100 / 10, runtime / 1000, runtime % 100 / 10);
    if (e != cudaSuccess)
        return error_set(err, ERR_DEVICE, "cuda: %s", cudaGetErrorString(e));
    if (device >= devices)
        return error_set(err, ERR_INPUT, "cuda:%d: this machine has %d GPU%s, counted from 0",
                         device, devices, devices == 1 ? "" : "s");
    const cudaError_t why = cudaGetDeviceProperties(found, device);
    if (why != cudaSuccess)
        return error_set(err, ERR_DEVICE, "cuda:%d: %s", device, cudaGetErrorString(why));
    if (found->major < 8)
        return error_set(err, ERR_INPUT,
                         "cuda:%d: %s has compute capability %d.%d; 8.0 or newer is needed", device,
                         found->name, found->major, found->minor);
    return true;
}

static bool open_stream(struct backend_cuda *c, struct error *err)
{
    struct stream *q = &c->stream;
    cudaError_t e = cudaSetDevice(q->device);

    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&q->cuda, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&q->branch, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&q->branched, cudaEventDisableTiming);
    for (int i = 0; i < MARKS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->marked[i], cudaEventDisableTiming);
    if (e == cudaSuccess)
        e = cudaMalloc(&q->arrived, ARRIVALS * sizeof(*q->arrived));
    if (e == cudaSuccess)
        e = cudaMemsetAsync(q->arrived, 0, ARRIVALS * sizeof(*q->arrived), q->cuda);
    if (e == cudaSuccess)
        q->waits = claim_waits(q);
    if (e == cudaSuccess && q->waits)
        e = cudaMalloc(&q->waited, WAITED_SUMS * sizeof(float));
    if (e == cudaSuccess && q->waits)
        e = cudaMemsetAsync(q->waited, 0xff, WAITED_SUMS * sizeof(float), q->cuda);
    if (e == cudaSuccess && !(c->copies = copies_create(q)))
        e = cudaErrorMemoryAllocation;
    if (e == cudaSuccess && !(c->steps = q->steps = steps_create(q)))
        e = cudaErrorMemoryAllocation;
    if (e == cudaSuccess && cublasLtCreate(&q->lt) != CUBLAS_STATUS_SUCCESS)
        return error_set(err, ERR_DEVICE, "cuda:%d: cuBLASLt cannot be used", q->device);
    if (e == cudaSuccess)
        return true;
    return error_set(err, e == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE, "cuda:%d: %s",
                     q->device, cudaGetErrorString(e));
}

static struct backend *open_cuda(const struct backend_options *options, struct error *err)
{
    struct cudaDeviceProp found;
    struct backend_cuda *c;

    if (!find_device(options->device, &found, err))
        return NULL;
    c = (struct backend_cuda *)calloc(1, sizeof(*c));
    if (!c) {
        error_set(err, ERR_NOMEM, "cuda: out of memory");
        return NULL;
    }
    c->base.name = "cuda";
    c->base.detail = c->detail;
    c->base.ops = &ops_cuda;
    c->base.stream = &c->stream;
    c->base.bf16_rows = true;
    c->base.follows = true;
    c->base.log_steps = LOG_STEPS;
    c->base.step_rows = 2048;
    c->base.log_numbers = cuda_log_numbers;
    c->base.settle = cuda_settle;
    c->base.sizes = steps_sizes;
    c->base.alloc = cuda_alloc;
    c->base.free = cuda_free;
    c->base.room = cuda_room;
    c->base.upload = cuda_upload;
    c->base.download = cuda_download;
    c->base.copy = cuda_copy;
    c->base.zero = cuda_zero;
    c->base.move_in = cuda_move_in;
    c->base.move_out = cuda_move_out;
    c->base.moved = cuda_moved;
    c->base.follow = cuda_follow;
    c->base.alloc_host = cuda_alloc_host;
    c->base.free_host = cuda_free_host;
    c->base.pack_matrix = pack_matrix_cuda;
    c->base.begin = cuda_begin;
    c->base.end = cuda_end;
    c->base.ceiling = cuda_ceiling;
    c->base.mark = cuda_mark;
    c->base.busy = cuda_busy;
    c->base.wait = cuda_wait;
    c->base.sync = cuda_sync;
    c->base.destroy = cuda_destroy;
    c->memory = found.totalGlobalMem;
    c->stream.device = options->device;
    c->stream.sms = found.multiProcessorCount;
    c->stream.block_memory = found.sharedMemPerBlockOptin;
    c->stream.overlaps = found.major == 9;
    snprintf(c->detail, sizeof(c->detail), "cuda:%d, %s", options->device, found.name);
    if (open_stream(c, err))
        return &c->base;
    cuda_destroy(&c->base);
    return NULL;
}

extern "C" __attribute__((visibility("default"))) const struct backend_module eddy_backend_module;
const struct backend_module eddy_backend_module = { BACKEND_MODULE_INTERFACE, open_cuda };
