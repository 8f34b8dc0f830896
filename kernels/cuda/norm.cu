/* norm.cu - the norms: a block for each part of a row, whose numbers stay in registers where
 * they are few enough and aligned; of few rows several blocks a row (row.cuh). */
#include "kernels/cuda/row.cuh"

enum { VECTORS = 4, THREADS_MAX = 1024, FEW_ROWS = 256 };

/* What both norms do with a part of a row, as the kernels take it. Without norm there is no
 * weight either. */
struct part {
    float *y;
    uint16_t *y_bf16;
    const float *x, *z, *weight, *bias;
    size_t y_ld, x_ld, z_ld;
    int n; /* numbers in a part */
    float eps;
    bool centered, gated, normed;
};

/* A thread's vectors of a part, or `none` where there is nothing; all are on their way at once. */
static __device__ __forceinline__ void load_own(float4 (&v)[VECTORS], const float *from,
                                                int vectors, float none)
{
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = i * blockDim.x + threadIdx.x;

        v[i] = make_float4(none, none, none, none);
        if (from && at < vectors)
            v[i] = ((const float4 *)from)[at];
    }
}

static __device__ __forceinline__ float4 gated(float4 x, float4 z)
{
    return make_float4(gated(x.x, z.x), gated(x.y, z.y), gated(x.z, z.z), gated(x.w, z.w));
}

/* Takes the mean off; returns the sum of the squares that are left. */
static __device__ __forceinline__ float centre_own(float4 (&v)[VECTORS], float mean, int vectors)
{
    float square = 0.0f;

#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if (i * blockDim.x + threadIdx.x < vectors) {
            v[i] = make_float4(v[i].x - mean, v[i].y - mean, v[i].z - mean, v[i].w - mean);
            square += (v[i].x * v[i].x + v[i].y * v[i].y) + (v[i].z * v[i].z + v[i].w * v[i].w);
        }
    }
    return square;
}

static __device__ __forceinline__ float scale_of(const struct part &p, float square)
{
    return 1.0f / sqrtf(square / (float)p.n + p.eps);
}

/* Part blockIdx.y of row blockIdx.x, four numbers a load, up to VECTORS loads a thread. Gated
 * parts have no bias. */
template <bool GATED>
static __global__ void __launch_bounds__(THREADS_MAX) norm_in_registers(struct part p)
{
    __shared__ float shared[2][WARPS_MAX];
    const int vectors = p.n / 4;
    const size_t first = (size_t)blockIdx.y * p.n;
    float4 v[VECTORS], weight[VECTORS], other[VECTORS]; /* other: z, or the bias */
    float sum = 0.0f, mean = 0.0f, scale = 1.0f;

    let_next_start();
    load_own(weight, p.weight ? p.weight + first : nullptr, vectors, 1.0f);
    if (!GATED)
        load_own(other, p.bias ? p.bias + first : nullptr, vectors, 0.0f);
    wait_for_inputs();
    load_own(v, p.x + blockIdx.x * p.x_ld + first, vectors, 0.0f);
    if (GATED)
        load_own(other, p.z + blockIdx.x * p.z_ld + first, vectors, 0.0f);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if (GATED)
            v[i] = gated(v[i], other[i]);
        sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    }
    if (p.centered)
        mean = block_sum(sum, shared[0]) / (float)p.n;

    const float square = centre_own(v, mean, vectors);

    if (p.normed)
        scale = scale_of(p, block_sum(square, shared[1]));

    const size_t to = blockIdx.x * p.y_ld + first;

#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const float4 w = weight[i], b = GATED ? float4{} : other[i];
        const int at = i * blockDim.x + threadIdx.x;

        if (at < vectors)
            store_numbers<4>(p.y, p.y_bf16, to + 4 * at,
                             { { v[i].x * scale * w.x + b.x, v[i].y * scale * w.y + b.y,
                                 v[i].z * scale * w.z + b.z, v[i].w * scale * w.w + b.w } });
    }
}

/* The same for any size and any alignment: reads the row again for each sum. */
static __global__ void norm_any(struct part p)
{
    __shared__ float shared[2][WARPS_MAX];
    const size_t first = (size_t)blockIdx.y * p.n;
    const float *x = p.x + blockIdx.x * p.x_ld + first, *z = p.z + blockIdx.x * p.z_ld + first;
    const size_t to = blockIdx.x * p.y_ld + first;
    float sum = 0.0f, mean = 0.0f, square = 0.0f, scale = 1.0f;

    let_next_start();
    wait_for_inputs();
    if (p.centered) {
        for (int i = threadIdx.x; i < p.n; i += blockDim.x)
            sum += x[i];
        mean = block_sum(sum, shared[0]) / (float)p.n;
    }
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) {
        const float v = (p.gated ? gated(x[i], z[i]) : x[i]) - mean;

        square += v * v;
    }
    if (p.normed)
        scale = scale_of(p, block_sum(square, shared[1]));
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) {
        const float v = (p.gated ? gated(x[i], z[i]) : x[i]) - mean;

        store_numbers<1>(p.y, p.y_bf16, to + i,
                         { { v * scale * (p.weight ? p.weight[first + i] : 1.0f) +
                             (p.bias ? p.bias[first + i] : 0.0f) } });
    }
}

/* Row blockIdx.x. */
static __global__ void __launch_bounds__(ROW_THREADS_MAX)
    norm_rows(const struct norm p, const struct pieces add)
{
    __shared__ struct row_moments shared;
    const int t = (int)blockIdx.x, c = row_place();

    let_next_start();

    const floats<ROW_OWN> weight = load_constant(p.weight, c, 1);
    const floats<ROW_OWN> bias = load_constant(p.bias, c, 0);

    begin_rows(&shared);
    wait_for_inputs();

    const floats<ROW_OWN> x = load_own(p, add, t, c);

    store_numbers<ROW_OWN>(p.y, p.y_bf16, (size_t)t * p.y_ld + c,
                           norm_own(p, x, weight, bias, 0, &shared));
}

static void run(struct stream *q, const char *where, const struct part *p, int groups, int T)
{
    const uintptr_t off = off_grid(p->x, p->x_ld) | off_grid(p->y, p->y_ld) |
                          off_grid(p->y_bf16, p->y_ld) | off_grid(p->z, p->z_ld) |
                          off_grid(p->weight, 0) | off_grid(p->bias, 0);
    const bool wide = p->n % 4 == 0 && p->n <= 4 * VECTORS * THREADS_MAX && off == 0;
    const int each = wide ? 4 * VECTORS : 1, wanted = (p->n + each - 1) / each;
    const int threads = wanted > THREADS_MAX ? THREADS_MAX : (wanted + WARP - 1) / WARP * WARP;
    void (*const in_registers)(struct part) =
        p->gated ? norm_in_registers<true> : norm_in_registers<false>;

    if (T)
        launch(q, where, wide ? in_registers : norm_any, dim3(T, groups), threads, 0, *p);
}

/* A lone row is as fast in one block, without a product in pieces. */
static bool has_few_rows(const struct stream *q, const struct norm *p)
{
    return p->T > 1 && p->T <= FEW_ROWS && row_fits(q, p) &&
           (off_grid(p->y, p->y_ld) | off_grid(p->y_bf16, p->y_ld)) == 0;
}

void norm_cuda(struct stream *q, const struct norm *p)
{
    if (has_few_rows(q, p)) {
        const struct pieces add = p->added ? linear_pieces(q, p->added) : pieces{};

        launch_rows(q, "norm", norm_rows, p->T, p->dim, *p, add);
        return;
    }
    if (p->added)
        linear_cuda(q, p->added, 1);

    const struct part part = {
        .y = p->y,
        .y_bf16 = p->y_bf16,
        .x = p->x,
        .z = NULL,
        .weight = p->weight,
        .bias = p->bias,
        .y_ld = p->y_ld,
        .x_ld = p->x_ld,
        .z_ld = 0,
        .n = p->dim / p->groups,
        .eps = p->eps,
        .centered = p->kind == NORM_LAYER,
        .gated = false,
        .normed = true,
    };

    run(q, "norm", &part, p->groups, p->T);
}

void gated_norm_cuda(struct stream *q, const struct gated_norm *p)
{
    const struct part part = {
        .y = p->y,
        .y_bf16 = p->y_bf16,
        .x = p->x,
        .z = p->z,
        .weight = p->weight,
        .bias = NULL,
        .y_ld = p->y_ld,
        .x_ld = p->x_ld,
        .z_ld = p->z_ld,
        .n = p->dim / p->groups,
        .eps = p->eps,
        .centered = false,
        .gated = true,
        .normed = p->weight != NULL,
    };

    run(q, "gated_norm", &part, p->groups, p->T);
}
