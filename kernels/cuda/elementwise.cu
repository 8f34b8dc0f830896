/* elementwise.cu - operations that touch every number once: the rows whose logits are wanted,
 * and the blend of one row with another. Four numbers at a time where everything is aligned. */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256 };

static bool is_aligned(const void *p)
{
    return (uintptr_t)p % sizeof(float4) == 0;
}

template <typename V> static __global__ void gather_rows(V *y, const V *x, const int *rows, int dim)
{
    const size_t to = (size_t)blockIdx.x * dim;
    const int j = blockIdx.y * THREADS + threadIdx.x;

    let_next_start();
    wait_for_inputs();
    if (j < dim)
        y[to + j] = x[(size_t)rows[blockIdx.x] * dim + j];
}

void gather_cuda(struct stream *q, const struct batch *in, float *y, const float *x, int dim)
{
    if (!in->L)
        return;
    if (dim % 4 == 0 && is_aligned(y) && is_aligned(x))
        launch(q, "gather", gather_rows<float4>, dim3(in->L, (dim / 4 + THREADS - 1) / THREADS),
               THREADS, 0, (float4 *)y, (const float4 *)x, q->in.logit_row, dim / 4);
    else
        launch(q, "gather", gather_rows<float>, dim3(in->L, (dim + THREADS - 1) / THREADS), THREADS,
               0, y, x, q->in.logit_row, dim);
}

static __device__ __forceinline__ float blend(float y, float target, float mix)
{
    return y + (target - y) * mix;
}

static __device__ __forceinline__ float4 blend(float4 y, float4 target, float4 mix)
{
    return make_float4(blend(y.x, target.x, mix.x), blend(y.y, target.y, mix.y),
                       blend(y.z, target.z, mix.z), blend(y.w, target.w, mix.w));
}

template <typename V>
static __global__ void blend_all(V *y, const V *target, const V *mix, size_t n)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;

    let_next_start();
    wait_for_inputs();
    if (i < n)
        y[i] = blend(y[i], target[i], mix[i]);
}

void lerp_cuda(struct stream *q, const struct lerp *p)
{
    const bool wide =
        p->n % 4 == 0 && is_aligned(p->y) && is_aligned(p->target) && is_aligned(p->mix);
    const size_t n = wide ? p->n / 4 : p->n;
    const unsigned blocks = (unsigned)((n + THREADS - 1) / THREADS);

    if (!n)
        return;
    if (wide)
        launch(q, "lerp", blend_all<float4>, blocks, THREADS, 0, (float4 *)p->y,
               (const float4 *)p->target, (const float4 *)p->mix, n);
    else
        launch(q, "lerp", blend_all<float>, blocks, THREADS, 0, p->y, p->target, p->mix, n);
}
