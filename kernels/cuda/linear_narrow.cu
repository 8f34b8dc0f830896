/* linear_narrow.cu - the rows of x rounded to the weights' type, for the paths whose tensor
 * cores take both sides in it. */
#include "kernels/cuda/linear.cuh"

enum { THREADS = 256 };

static size_t round_up(size_t n)
{
    return (n + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

/* Four columns a thread; blockIdx.y is the matrix. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    narrow_kernel(const __grid_constant__ struct narrow_group g)
{
    const struct narrow &m = g.m[blockIdx.y];
    const int quads = m.ld / 4, i = (int)(blockIdx.x * THREADS + threadIdx.x);
    const int t = i / quads, j = i % quads * 4;
    const float *x = m.x + t * m.x_ld + j;
    float4 v;

    let_next_start();
    wait_for_inputs();
    if (t >= g.T)
        return;
    if (m.aligned && j + 4 <= m.cols)
        v = *(const float4 *)x;
    else
        v = { j < m.cols ? x[0] : 0.0f, j + 1 < m.cols ? x[1] : 0.0f, j + 2 < m.cols ? x[2] : 0.0f,
              j + 3 < m.cols ? x[3] : 0.0f };
    *(uint2 *)((E *)m.to + (size_t)t * m.ld + j) = { narrow_pair<E>(v.x, v.y),
                                                     narrow_pair<E>(v.z, v.w) };
}

bool narrow_x(struct stream *q, struct narrow_group *g, const struct linear *p, int n,
              size_t reserved)
{
    const enum dtype dtype = p->w->dtype;
    size_t at[GROUP_MAX], bytes = reserved;
    int source[GROUP_MAX], widest = 0;

    g->T = p->T;
    g->n = 0;
    for (int i = 0; i < n; i++) {
        const int cols = p[i].w->cols, ld = matrix_ld(dtype, cols);
        int m = 0;

        while (m < g->n &&
               (g->m[m].x != p[i].x || g->m[m].x_ld != p[i].x_ld || g->m[m].cols != cols))
            m++;
        source[i] = m;
        if (m < g->n)
            continue;
        g->m[g->n++] = { .to = NULL,
                         .x = p[i].x,
                         .x_ld = p[i].x_ld,
                         .cols = cols,
                         .ld = ld,
                         .aligned = (uintptr_t)p[i].x % 16 == 0 && p[i].x_ld % 4 == 0 };
        at[m] = bytes;
        bytes += round_up((size_t)p->T * ld * dtype_size(dtype));
        widest = max(widest, ld);
    }

    char *workspace = (char *)stream_workspace(q, bytes, "linear");

    if (!workspace)
        return false;
    for (int m = 0; m < g->n; m++)
        g->m[m].to = workspace + at[m];
    for (int i = 0; i < n; i++)
        g->of[i] = g->m[source[i]].to;

    const dim3 grid((unsigned)(((size_t)p->T * widest / 4 + THREADS - 1) / THREADS),
                    (unsigned)g->n);

    launch(q, "linear", dtype == DTYPE_BF16 ? narrow_kernel<__nv_bfloat16> : narrow_kernel<__half>,
           grid, THREADS, 0, *g);
    return true;
}
