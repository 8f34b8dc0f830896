/* norm.cu - the norms: a block for each part of a row, whose numbers stay in registers where
 * they are few enough and aligned. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/reduce.cuh"

enum { VECTORS = 4, THREADS_MAX = 1024 };

/* What both norms do with a part of a row, as the kernels take it. */
struct part {
    float *y;
    const float *x, *z, *weight, *bias;
    size_t y_ld, x_ld, z_ld;
    int n; /* numbers in a part */
    float eps;
    bool centered, gated, normed;
};

static __device__ __forceinline__ float finish(const struct part &p, float x, float mean,
                                               float scale, float weight, float bias)
{
    return p.normed ? (x - mean) * scale * weight + bias : x;
}

/* Part blockIdx.y of row blockIdx.x, four numbers a load, up to VECTORS loads a thread. */
static __global__ void norm_in_registers(struct part p)
{
    __shared__ float shared[2][WARPS_MAX];
    const int vectors = p.n / 4;
    const size_t first = (size_t)blockIdx.y * p.n;
    const float4 *weight = (const float4 *)(p.weight + first);
    const float4 *bias = (const float4 *)(p.bias + first);
    float4 v[VECTORS];
    float sum = 0.0f, mean = 0.0f;

    let_next_start();
    wait_for_inputs();

    const float4 *x = (const float4 *)(p.x + blockIdx.x * p.x_ld + first);
    const float4 *z = (const float4 *)(p.z + blockIdx.x * p.z_ld + first);
    float4 *y = (float4 *)(p.y + blockIdx.x * p.y_ld + first);

#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = i * blockDim.x + threadIdx.x;

        v[i] = at < vectors ? x[at] : make_float4(0, 0, 0, 0);
        if (p.gated && at < vectors) {
            const float4 g = z[at];

            v[i] = make_float4(v[i].x * silu(g.x), v[i].y * silu(g.y), v[i].z * silu(g.z),
                               v[i].w * silu(g.w));
        }
        sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    }
    if (p.centered)
        mean = block_sum(sum, shared[0]) / (float)p.n;

    float square = 0.0f;

#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if (i * blockDim.x + threadIdx.x < vectors) {
            const float a = v[i].x - mean, b = v[i].y - mean, c = v[i].z - mean, d = v[i].w - mean;

            square += (a * a + b * b) + (c * c + d * d);
        }
    }

    const float scale =
        p.normed ? 1.0f / sqrtf(block_sum(square, shared[1]) / (float)p.n + p.eps) : 1.0f;

#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = i * blockDim.x + threadIdx.x;

        if (at < vectors) {
            const float4 w = p.weight ? weight[at] : make_float4(1, 1, 1, 1);
            const float4 b = p.bias ? bias[at] : make_float4(0, 0, 0, 0);

            y[at] = make_float4(
                finish(p, v[i].x, mean, scale, w.x, b.x), finish(p, v[i].y, mean, scale, w.y, b.y),
                finish(p, v[i].z, mean, scale, w.z, b.z), finish(p, v[i].w, mean, scale, w.w, b.w));
        }
    }
}

/* The same for any size and any alignment: reads the row again for each sum. */
static __global__ void norm_any(struct part p)
{
    __shared__ float shared[2][WARPS_MAX];
    const size_t first = (size_t)blockIdx.y * p.n;
    const float *x = p.x + blockIdx.x * p.x_ld + first, *z = p.z + blockIdx.x * p.z_ld + first;
    float *y = p.y + blockIdx.x * p.y_ld + first, sum = 0.0f, mean = 0.0f, square = 0.0f;

    let_next_start();
    wait_for_inputs();
    if (p.centered) {
        for (int i = threadIdx.x; i < p.n; i += blockDim.x)
            sum += x[i];
        mean = block_sum(sum, shared[0]) / (float)p.n;
    }
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) {
        const float v = (p.gated ? x[i] * silu(z[i]) : x[i]) - mean;

        square += v * v;
    }

    const float scale =
        p.normed ? 1.0f / sqrtf(block_sum(square, shared[1]) / (float)p.n + p.eps) : 1.0f;

    for (int i = threadIdx.x; i < p.n; i += blockDim.x)
        y[i] = finish(p, p.gated ? x[i] * silu(z[i]) : x[i], mean, scale,
                      p.weight ? p.weight[first + i] : 1.0f, p.bias ? p.bias[first + i] : 0.0f);
}

static bool is_aligned(const void *p, size_t ld)
{
    return (uintptr_t)p % sizeof(float4) == 0 && ld % 4 == 0;
}

static void run(struct stream *q, const char *where, const struct part *p, int groups, int T)
{
    const bool wide = p->n % 4 == 0 && p->n <= 4 * VECTORS * THREADS_MAX &&
                      is_aligned(p->x, p->x_ld) && is_aligned(p->y, p->y_ld) &&
                      is_aligned(p->z, p->z_ld) && is_aligned(p->weight, 0) &&
                      is_aligned(p->bias, 0);
    const int each = wide ? 4 : 1, wanted = (p->n + each - 1) / each;
    const int threads = wanted > THREADS_MAX ? THREADS_MAX : (wanted + WARP - 1) / WARP * WARP;

    if (T)
        launch(q, where, wide ? norm_in_registers : norm_any, dim3(T, groups), threads, 0, *p);
}

void norm_cuda(struct stream *q, const struct norm *p)
{
    const struct part part = { p->y,
                               p->x,
                               NULL,
                               p->weight,
                               p->bias,
                               p->y_ld,
                               p->x_ld,
                               0,
                               p->dim / p->groups,
                               p->eps,
                               p->kind == NORM_LAYER,
                               false,
                               true };

    run(q, "norm", &part, p->groups, p->T);
}

void gated_norm_cuda(struct stream *q, const struct gated_norm *p)
{
    const struct part part = {
        p->y,   p->x,  p->z, p->weight,        NULL, p->y_ld, p->x_ld, p->z_ld, p->dim / p->groups,
        p->eps, false, true, p->weight != NULL
    };

    run(q, "gated_norm", &part, p->groups, p->T);
}
