/* ceiling.cu - what the device could do, measured: a stream that is only read, a copy, bf16
 * products of the library's on random numbers, and float32 multiply-adds. */
#include "kernels/cuda/ceiling.cuh"

#include <cuda_bf16.h>

enum { THREADS = 512, RUNS = 7, MATRIX = 8192, CHAINS = 8, ROUNDS = 4096 };

static const size_t STREAM_BYTES = (size_t)4 << 30; /* far beyond an L2 */

static __global__ void read_all(const uint4 *x, size_t n, unsigned *sum)
{
    const size_t step = (size_t)gridDim.x * THREADS;
    unsigned own = 0;

#pragma unroll 8
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) {
        const uint4 v = __ldcs(&x[i]);

        own ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (own == 0x9e3779b9u) /* so that no load can be left out */
        *sum = own;
}

static __global__ void fill_random(__nv_bfloat16 *x, size_t n)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    if (i < n)
        x[i] = __float2bfloat16((float)(z >> 40) * 0x1p-23f - 1.0f);
}

static __global__ void multiply_add(float *out, float by)
{
    float x[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        x[i] = (float)(threadIdx.x + i);
#pragma unroll 16
    for (int k = 0; k < ROUNDS; k++)
        for (int i = 0; i < CHAINS; i++)
            x[i] = fmaf(x[i], by, 0.5f);
    for (int i = 1; i < CHAINS; i++)
        x[0] += x[i];
    if (x[0] == 0.25f) /* never: it is above 0.5 */
        *out = x[0];
}

/* What one run enqueues. */
struct work {
    struct stream *q;
    char *memory;
    size_t bytes;
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t in, out;
    cublasLtMatmulHeuristicResult_t found;
};

static void run_read(struct work *w)
{
    read_all<<<w->q->sms * 4, THREADS, 0, w->q->cuda>>>(
        (const uint4 *)w->memory, w->bytes / sizeof(uint4), (unsigned *)w->memory);
}

static void run_copy(struct work *w)
{
    stream_note(w->q,
                cudaMemcpyAsync(w->memory, w->memory + w->bytes / 2, w->bytes / 2,
                                cudaMemcpyDeviceToDevice, w->q->cuda),
                "ceiling");
}

static void run_multiply_add(struct work *w)
{
    multiply_add<<<w->q->sms * 4, THREADS, 0, w->q->cuda>>>((float *)w->memory, 0.999f);
}

static void run_product(struct work *w)
{
    const size_t one = (size_t)MATRIX * MATRIX * sizeof(__nv_bfloat16);
    const float alpha = 1.0f, beta = 0.0f;
    char *y = w->memory + 2 * one;

    if (cublasLtMatmul(w->q->lt, &w->desc, &alpha, w->memory, &w->in, w->memory + one, &w->in,
                       &beta, y, &w->out, y, &w->out, &w->found.algo, y + 2 * one, 32 << 20,
                       w->q->cuda) != CUBLAS_STATUS_SUCCESS)
        stream_note(w->q, cudaErrorUnknown, "ceiling");
}

/* Seconds of the fastest of some runs, and one to get warm. */
static double fastest(struct work *w, void (*run)(struct work *w))
{
    cudaEvent_t before, after;
    float best = INFINITY;

    stream_note(w->q, cudaEventCreate(&before), "ceiling");
    stream_note(w->q, cudaEventCreate(&after), "ceiling");
    for (int i = 0; i <= RUNS; i++) {
        float ms = INFINITY;

        stream_note(w->q, cudaEventRecord(before, w->q->cuda), "ceiling");
        run(w);
        stream_note(w->q, cudaGetLastError(), "ceiling");
        stream_note(w->q, cudaEventRecord(after, w->q->cuda), "ceiling");
        stream_note(w->q, cudaEventSynchronize(after), "ceiling");
        stream_note(w->q, cudaEventElapsedTime(&ms, before, after), "ceiling");
        best = i && ms < best ? ms : best;
    }
    cudaEventDestroy(before);
    cudaEventDestroy(after);
    return (double)best * 1e-3;
}

static bool plan_product(struct work *w)
{
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const size_t n = (size_t)MATRIX * MATRIX, room = 32 << 20;
    cublasLtMatmulPreferenceOpaque_t want;
    int found = 0;

    fill_random<<<(unsigned)(2 * n / THREADS), THREADS, 0, w->q->cuda>>>((__nv_bfloat16 *)w->memory,
                                                                         2 * n);
    cublasLtMatmulDescInit(&w->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(&w->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                   sizeof(transpose));
    cublasLtMatrixLayoutInit(&w->in, CUDA_R_16BF, MATRIX, MATRIX, MATRIX);
    cublasLtMatrixLayoutInit(&w->out, CUDA_R_32F, MATRIX, MATRIX, MATRIX);
    cublasLtMatmulPreferenceInit(&want);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                         sizeof(room));
    return cublasLtMatmulAlgoGetHeuristic(w->q->lt, &w->desc, &w->in, &w->in, &w->out, &w->out,
                                          &want, 1, &w->found, &found) == CUBLAS_STATUS_SUCCESS &&
           found == 1;
}

double ceiling_cuda(struct stream *q, enum ceiling which)
{
    struct work w = {};
    double rate = 0.0;

    w.q = q;
    w.bytes = STREAM_BYTES;
    if (cudaMalloc((void **)&w.memory, w.bytes) != cudaSuccess) {
        cudaGetLastError();
        return 0.0;
    }
    stream_note(q, cudaMemsetAsync(w.memory, 0x5a, w.bytes, q->cuda), "ceiling");
    switch (which) {
    case CEILING_READ:
        rate = (double)w.bytes / fastest(&w, run_read);
        break;
    case CEILING_COPY:
        rate = (double)w.bytes / fastest(&w, run_copy); /* half read, half written */
        break;
    case CEILING_FMA:
        rate = 2.0 * q->sms * 4 * THREADS * CHAINS * ROUNDS / fastest(&w, run_multiply_add);
        break;
    case CEILING_BF16:
        if (plan_product(&w))
            rate = 2.0 * MATRIX * MATRIX * MATRIX / fastest(&w, run_product);
        break;
    }
    stream_note(q, cudaFree(w.memory), "ceiling");
    return rate;
}
