/* linear_narrow.cu - the rows of x rounded to the weights' type, or copied to aligned places, for
 * the paths whose tensor cores take both sides in it. */
#include "kernels/cuda/linear.cuh"

enum { THREADS = 256 };

/* Columns j to j + 3 of row t, zeros beyond the last. */
template <typename E>
static __device__ __forceinline__ uint2 load_quad(const struct narrow &m, int t, int j)
{
    const bool whole = m.aligned && j + 4 <= m.cols;

    if (m.x_bf16) {
        const uint16_t *x = m.x_bf16 + t * m.x_ld + j;
        uint32_t v[4];

        if (whole)
            return *(const uint2 *)x;
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = j + i < m.cols ? x[i] : 0;
        return { v[0] | v[1] << 16, v[2] | v[3] << 16 };
    }

    const float *x = m.x + t * m.x_ld + j;
    float4 v;

    if (whole)
        v = *(const float4 *)x;
    else
        v = { j < m.cols ? x[0] : 0.0f, j + 1 < m.cols ? x[1] : 0.0f, j + 2 < m.cols ? x[2] : 0.0f,
              j + 3 < m.cols ? x[3] : 0.0f };
    return { narrow_pair<E>(v.x, v.y), narrow_pair<E>(v.z, v.w) };
}

/* Four columns a thread; blockIdx.y is the matrix. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    narrow_kernel(const __grid_constant__ struct narrow_group g)
{
    const struct narrow &m = g.m[blockIdx.y];
    const int quads = m.ld / 4, i = (int)(blockIdx.x * THREADS + threadIdx.x);
    const int t = i / quads, j = i % quads * 4;

    let_next_start();
    wait_for_inputs();
    if (t < g.T)
        *(uint2 *)((E *)m.to + (size_t)t * m.ld + j) = load_quad<E>(m, t, j);
}

/* The place of a product's x among the distinct ones, which it joins if it is new. */
static int join(struct narrow_group *g, const struct linear *p)
{
    const int cols = p->w->cols;
    int m = 0;

    while (m < g->n && (g->m[m].x != p->x || g->m[m].x_bf16 != p->x_bf16 ||
                        g->m[m].x_ld != p->x_ld || g->m[m].cols != cols))
        m++;
    if (m == g->n)
        g->m[g->n++] = { .to = NULL,
                         .x = p->x,
                         .x_bf16 = p->x_bf16,
                         .x_ld = p->x_ld,
                         .cols = cols,
                         .ld = matrix_ld(p->w->dtype, cols),
                         .aligned = x_is_aligned(p) };
    return m;
}

bool narrow_x(struct stream *q, struct narrow_group *g, const struct linear *p, int n,
              size_t reserved)
{
    const enum dtype dtype = p->w->dtype;
    size_t bytes = reserved;
    int source[GROUP_MAX], widest = 0;

    g->T = p->T;
    g->n = 0;
    for (int i = 0; i < n; i++) {
        const bool ready = p[i].x_bf16 && x_is_aligned(&p[i]);

        source[i] = ready ? -1 : join(g, &p[i]);
        if (ready)
            g->of[i] = { p[i].x_bf16, p[i].x_ld };
    }
    for (int m = 0; m < g->n; m++) {
        bytes += round_up((size_t)p->T * g->m[m].ld * dtype_size(dtype));
        widest = max(widest, g->m[m].ld);
    }

    char *at = (char *)stream_workspace(q, bytes, "linear");

    if (!at && bytes)
        return false;
    at += reserved;
    for (int m = 0; m < g->n; m++) {
        g->m[m].to = at;
        at += round_up((size_t)p->T * g->m[m].ld * dtype_size(dtype));
    }
    for (int i = 0; i < n; i++)
        if (source[i] >= 0)
            g->of[i] = { g->m[source[i]].to, (size_t)g->m[source[i]].ld };
    if (g->n == 0)
        return true;

    const dim3 grid((unsigned)(((size_t)p->T * widest / 4 + THREADS - 1) / THREADS),
                    (unsigned)g->n);

    launch(q, "linear", dtype == DTYPE_BF16 ? narrow_kernel<__nv_bfloat16> : narrow_kernel<__half>,
           grid, THREADS, 0, *g);
    return true;
}
