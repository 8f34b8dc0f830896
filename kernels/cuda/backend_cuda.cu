/* backend_cuda.cu - an NVIDIA GPU as a device: its memory, its stream, and the table of its
 * operations; the module's door.
 *
 * Everything happens on one stream. Host memory of any kind is copied through pinned buffers,
 * two for each copier, in turns, so that the bus works while the host copies. One thread copies
 * slower than the bus carries, so a large piece is cut among several. */
#include "kernels/cuda/cuda.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <system_error>
#include <thread>

#include "kernels/cuda/ceiling.cuh"
#include "kernels/cuda/sampling.cuh"
#include "kernels/cuda/steps.cuh"

enum { STAGES = 2, COPIERS = 6, STAGE_BYTES = 2 << 20, WORKSPACE_BYTES = 32 << 20 };

/* Its buffers carry one copy at a time. */
struct copier {
    char *stage[STAGES]; /* pinned */
    cudaEvent_t idle[STAGES];
    cudaError_t fault;
};

struct backend_cuda {
    struct backend base;
    struct stream stream;
    struct steps *steps;
    size_t memory; /* bytes of the device */
    struct copier copier[COPIERS];
    char detail[320];
};

static const struct ops ops_cuda = {
    .embed = embed_cuda,
    .gather = gather_cuda,
    .linear = linear_cuda,
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

static void keep(struct copier *c, cudaError_t e)
{
    if (c->fault == cudaSuccess)
        c->fault = e;
}

static void copy_in(struct copier *c, cudaStream_t stream, char *device, const char *host,
                    size_t bytes)
{
    for (size_t at = 0, n, i = 0; at < bytes; at += n, i ^= 1) {
        n = bytes - at < (size_t)STAGE_BYTES ? bytes - at : (size_t)STAGE_BYTES;
        keep(c, cudaEventSynchronize(c->idle[i]));
        memcpy(c->stage[i], host + at, n);
        keep(c, cudaMemcpyAsync(device + at, c->stage[i], n, cudaMemcpyHostToDevice, stream));
        keep(c, cudaEventRecord(c->idle[i], stream));
    }
}

/* Takes what arrived in a stage, while the other one is being filled. */
static void take(struct copier *c, size_t i, char *host, size_t bytes)
{
    keep(c, cudaEventSynchronize(c->idle[i]));
    memcpy(host, c->stage[i], bytes);
}

static void copy_out(struct copier *c, cudaStream_t stream, char *host, const char *device,
                     size_t bytes)
{
    size_t at = 0, n = 0, i = 0, before = 0;

    for (; at < bytes; at += n, i ^= 1) {
        n = bytes - at < (size_t)STAGE_BYTES ? bytes - at : (size_t)STAGE_BYTES;
        keep(c, cudaEventSynchronize(c->idle[i])); /* an upload may still use it */
        keep(c, cudaMemcpyAsync(c->stage[i], device + at, n, cudaMemcpyDeviceToHost, stream));
        keep(c, cudaEventRecord(c->idle[i], stream));
        if (at)
            take(c, i ^ 1, host + at - before, before);
        before = n;
    }
    if (bytes)
        take(c, i ^ 1, host + bytes - before, before);
}

/* Cuts a copy into equal parts, one for each copier that has enough to do. A thread that cannot
 * be had leaves its part to this one. */
template <typename Copy> static void share(struct backend_cuda *c, size_t bytes, Copy copy)
{
    const size_t wanted = bytes / STAGE_BYTES, n = wanted < 1         ? 1
                                                   : wanted > COPIERS ? (size_t)COPIERS
                                                                      : wanted;
    const size_t part = (bytes / n + 63) / 64 * 64;
    std::thread thread[COPIERS];

    for (size_t k = n; k-- > 0;) {
        const size_t at = k * part < bytes ? k * part : bytes;
        const size_t len = k + 1 < n && at + part < bytes ? part : bytes - at;
        const auto run = [=] {
            keep(&c->copier[k], cudaSetDevice(c->stream.device));
            copy(&c->copier[k], at, len);
        };

        try {
            if (k)
                thread[k] = std::thread(run);
            else
                run();
        } catch (const std::system_error &) {
            run();
        }
    }
    for (size_t k = 0; k < n; k++) {
        if (thread[k].joinable())
            thread[k].join();
        stream_note(&c->stream, c->copier[k].fault, "copy");
    }
}

static void cuda_upload(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct backend_cuda *c = here(be);

    share(c, bytes, [=](struct copier *by, size_t at, size_t len) {
        copy_in(by, c->stream.cuda, (char *)dst + at, (const char *)src + at, len);
    });
}

static void cuda_download(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct backend_cuda *c = here(be);

    share(c, bytes, [=](struct copier *by, size_t at, size_t len) {
        copy_out(by, c->stream.cuda, (char *)dst + at, (const char *)src + at, len);
    });
}

static void cuda_copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct stream *q = &here(be)->stream;

    stream_note(q, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, q->cuda), "copy");
}

static void cuda_zero(struct backend *be, void *dst, size_t bytes)
{
    struct stream *q = &here(be)->stream;

    stream_note(q, cudaMemsetAsync(dst, 0, bytes, q->cuda), "zero");
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

static bool cuda_sync(struct backend *be, struct error *err)
{
    struct stream *q = &here(be)->stream;

    stream_note(q, cudaStreamSynchronize(q->cuda), "step");
    if (q->fault != cudaSuccess) {
        be->lost = true;
        return error_set(err, ERR_DEVICE, "%s: %s: %s", be->detail, q->where,
                         cudaGetErrorString(q->fault));
    }
    sampling_deliver(q);
    return true;
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
    for (int i = 0; i < COPIERS * STAGES; i++) {
        struct copier *by = &c->copier[i / STAGES];

        if (by->idle[i % STAGES])
            cudaEventDestroy(by->idle[i % STAGES]);
        cudaFreeHost(by->stage[i % STAGES]);
    }
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
    for (int i = 0; i < COPIERS * STAGES && e == cudaSuccess; i++) {
        struct copier *by = &c->copier[i / STAGES];

        e = cudaMallocHost((void **)&by->stage[i % STAGES], STAGE_BYTES);
        if (e == cudaSuccess)
            e = cudaEventCreateWithFlags(&by->idle[i % STAGES], cudaEventDisableTiming);
    }
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
    c->base.sizes = steps_sizes;
    c->base.alloc = cuda_alloc;
    c->base.free = cuda_free;
    c->base.room = cuda_room;
    c->base.upload = cuda_upload;
    c->base.download = cuda_download;
    c->base.copy = cuda_copy;
    c->base.zero = cuda_zero;
    c->base.pack_matrix = pack_matrix_cuda;
    c->base.begin = cuda_begin;
    c->base.end = cuda_end;
    c->base.ceiling = cuda_ceiling;
    c->base.sync = cuda_sync;
    c->base.destroy = cuda_destroy;
    c->memory = found.totalGlobalMem;
    c->stream.device = options->device;
    c->stream.sms = found.multiProcessorCount;
    c->stream.block_memory = found.sharedMemPerBlockOptin;
    c->stream.overlaps = found.major >= 9;
    snprintf(c->detail, sizeof(c->detail), "cuda:%d, %s", options->device, found.name);
    if (open_stream(c, err))
        return &c->base;
    cuda_destroy(&c->base);
    return NULL;
}

extern "C" __attribute__((visibility("default"))) const struct backend_module eddy_backend_module;
const struct backend_module eddy_backend_module = { BACKEND_MODULE_INTERFACE, open_cuda };
