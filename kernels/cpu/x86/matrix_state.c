/* matrix_state.c - the matrix state with a vector along the keys. A unit is one head of one
 * sequence: its state stays in the cache for all tokens of the chunk.
 *
 * One token alone steps VW rows at once, so that the vectors of the token are loaded once for
 * all of them and the row sums come out of one reduction. Several tokens meet tiles of fewer
 * rows that stay in registers from token to token. Both do the same operations on an element,
 * in the same order, and add its lanes alike: the result is the same to the last bit. */
#include "kernels/cpu/x86/x86.h"

#include <math.h>

#include "kernels/cpu/pool.h"
#include "kernels/cpu/state.h"

enum {
    TILE = VW, /* vectors of a tile */
    BLOCK = 16 /* tokens whose vectors stay in the first-level cache for all tiles */
};

struct state_job {
    struct stream *q;
    const struct batch *in;
    const struct matrix_state *p;
};

/* The vectors of one head at one token. */
struct head {
    const float *w, *a, *b, *k, *q, *v;
    const float *scale; /* or NULL for 1 */
    float *y;
    float skip;
    int V, K;
};

/* sum[r] = S[r] . x over m rows. whole: K is a multiple of VW. */
INLINE vf rows_dot(const float *S, int K, int m, bool whole, const float *x)
{
    vf sum[VW];

    UNROLL
    for (int r = 0; r < VW; r++)
        sum[r] = v_zero();
    for (int j = 0; j < K; j += VW) {
        const int left = whole ? VW : K - j;
        const vf xj = v_load_n(x + j, left);

        UNROLL_IF_CONSTANT
        for (int r = 0; r < m; r++)
            sum[r] = v_fma(v_load_n(S + (size_t)r * (size_t)K + j, left), xj, sum[r]);
    }
    return v_reduce(sum);
}

/* Rows i to i + m. All but h, S and i are constants in the fast instance. */
INLINE void step_rows(const struct head *h, float *S, int i, int m, bool whole, bool scalar_w,
                      bool delta)
{
    const int K = h->K;
    const vf raw = v_load_n(h->v + i, m);
    float v[VW], u[VW];
    vf sum[VW];

    v_store(v, v_mul(raw, v_set(h->scale ? *h->scale : 1.0f)));
    if (delta)
        v_store(u, rows_dot(S, K, m, whole, h->b));
    UNROLL
    for (int r = 0; r < VW; r++)
        sum[r] = v_zero();
    for (int j = 0; j < K; j += VW) {
        const int left = whole ? VW : K - j;
        const vf w = scalar_w ? v_set(h->w[0]) : v_load_n(h->w + j, left);
        const vf k = v_load_n(h->k + j, left), q = v_load_n(h->q + j, left);
        const vf a = delta ? v_load_n(h->a + j, left) : v_zero();

        UNROLL_IF_CONSTANT
        for (int r = 0; r < m; r++) {
            float *at = S + (size_t)r * (size_t)K + j;
            vf s = v_fma(v_set(v[r]), k, v_mul(v_load_n(at, left), w));

            if (delta)
                s = v_fma(v_set(u[r]), a, s);
            v_store_n(at, s, left);
            sum[r] = v_fma(s, q, sum[r]);
        }
    }
    v_store_n(h->y + i, v_fma(v_set(h->skip), raw, v_reduce(sum)), m);
}

INLINE void step_head(const struct head *h, float *S, bool scalar_w, bool delta)
{
    for (int i = 0; i < h->V; i += VW) {
        float *rows = S + (size_t)i * (size_t)h->K;

        if (h->V - i >= VW && h->K % VW == 0)
            step_rows(h, rows, i, VW, true, scalar_w, delta);
        else
            step_rows(h, rows, i, h->V - i < VW ? h->V - i : VW, false, scalar_w, delta);
    }
}

/* The vectors of the token that follows. */
INLINE void next_token(struct head *h, const struct matrix_state *p)
{
    h->w += p->w_ld;
    h->k += p->kq_ld;
    h->q += p->kq_ld;
    h->v += p->v_ld;
    h->y += p->y_ld;
    if (h->a) {
        h->a += p->ab_ld;
        h->b += p->ab_ld;
    }
    if (h->scale)
        h->scale += p->w_ld;
}

/* One token meets a tile of m rows from i on, each of n vectors. */
INLINE void step_tile(const struct head *h, vf S[TILE], int i, int m, int n, bool scalar_w,
                      bool delta)
{
    const float scale = h->scale ? *h->scale : 1.0f;
    float u[4], y[4];
    vf sum[4];

    UNROLL
    for (int r = 0; r < 4; r++)
        sum[r] = v_zero();
    if (delta) {
        UNROLL
        for (int x = 0; x < TILE; x++)
            sum[x / n] = v_fma(S[x], v_load(h->b + x % n * VW), sum[x / n]);
        _mm_storeu_ps(u, v_reduce4(sum));
    }
    UNROLL
    for (int r = 0; r < 4; r++)
        sum[r] = v_zero();
    UNROLL
    for (int x = 0; x < TILE; x++) {
        const int r = x / n, j = x % n * VW;
        const vf w = scalar_w ? v_set(h->w[0]) : v_load(h->w + j);

        S[x] = v_fma(v_set(h->v[i + r] * scale), v_load(h->k + j), v_mul(S[x], w));
        if (delta)
            S[x] = v_fma(v_set(u[r]), v_load(h->a + j), S[x]);
        sum[r] = v_fma(S[x], v_load(h->q + j), sum[r]);
    }
    _mm_storeu_ps(y, v_reduce4(sum));
    for (int r = 0; r < m; r++)
        h->y[i + r] = fmaf(h->skip, h->v[i + r], y[r]);
}

/* T tokens meet all rows, a tile of which has n vectors in a row. */
INLINE void run_tiles(const struct matrix_state *p, const struct head *first, float *state, int T,
                      int n, bool scalar_w, bool delta)
{
    const int m = TILE / n;

    for (int i = 0; i < p->V; i += m) {
        float *at = state + (size_t)i * (size_t)p->K;
        struct head h = *first;
        vf S[TILE];

        UNROLL
        for (int x = 0; x < TILE; x++)
            S[x] = v_load(at + x * VW);
        for (int t = 0; t < T; t++, next_token(&h, p))
            step_tile(&h, S, i, m, n, scalar_w, delta);
        UNROLL
        for (int x = 0; x < TILE; x++)
            v_store(at + x * VW, S[x]);
    }
}

/* A tile of one row would wait for its own sums (measured with 256-bit vectors: 0.86 of the
 * speed without tiles). */
static bool has_tiles(const struct matrix_state *p)
{
    const int rows = p->K == 4 * VW ? TILE / 4 : p->K == 8 * VW ? TILE / 8 : 0;

    return rows > 1 && p->V % rows == 0;
}

/* T tokens of one head. */
INLINE void run_head(const struct matrix_state *p, struct head *h, float *S, int T, bool scalar_w,
                     bool delta)
{
    if (T == 1 || !has_tiles(p)) {
        for (int t = 0; t < T; t++, next_token(h, p))
            step_head(h, S, scalar_w, delta);
        return;
    }
    for (int t = 0; t < T; t += BLOCK) {
        const int block = T - t < BLOCK ? T - t : BLOCK;

        if (p->K == 4 * VW)
            run_tiles(p, h, S, block, 4, scalar_w, delta);
        else
            run_tiles(p, h, S, block, 8, scalar_w, delta);
        for (int k = 0; k < block; k++)
            next_token(h, p);
    }
}

typedef void head_kernel(const struct matrix_state *p, struct head *h, float *S, int T);

#define HEAD(name, scalar_w, delta)                                                                \
    static void name(const struct matrix_state *p, struct head *h, float *S, int T)                \
    {                                                                                              \
        run_head(p, h, S, T, scalar_w, delta);                                                     \
    }

HEAD(run_scalar, true, false)
HEAD(run_vector, false, false)
HEAD(run_scalar_delta, true, true)
HEAD(run_vector_delta, false, true)

static void state_unit(const void *arg, int unit, int thread)
{
    const struct state_job *job = arg;
    const struct matrix_state *p = job->p;
    const int s = unit / p->H, head = unit % p->H;
    const size_t K = (size_t)p->K, V = (size_t)p->V, at = (size_t)head;
    const size_t shared = (size_t)(head / (p->H / p->k_heads)) * K;
    const size_t row = (size_t)job->in->begin[s];
    head_kernel *run = p->a ? (p->w_per_head ? run_scalar_delta : run_vector_delta)
                            : (p->w_per_head ? run_scalar : run_vector);
    struct head h = {
        .w = p->w + row * p->w_ld + (p->w_per_head ? at : at * K),
        .a = p->a ? p->a + row * p->ab_ld + at * K : NULL,
        .b = p->a ? p->b + row * p->ab_ld + at * K : NULL,
        .k = p->k + row * p->kq_ld + shared,
        .q = p->q + row * p->kq_ld + shared,
        .v = p->v + row * p->v_ld + at * V,
        .y = p->y + row * p->y_ld + at * V,
        .scale = p->v_scale ? p->v_scale + row * p->w_ld + at : NULL,
        .skip = p->skip ? p->skip[head] : 0.0f,
        .V = p->V,
        .K = p->K,
    };

    void *wide = pool_scratch(job->q, thread, state_scratch(&p->state, V * K));

    if (!wide && p->state.bf16)
        return;

    const struct state_part S = state_open(&p->state, job->in, s, at * V * K, V * K, wide);

    run(p, &h, S.f32, job->in->begin[s + 1] - job->in->begin[s]);
    state_close(&S);
}

void ISA(matrix_state)(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    const struct state_job job = { q, in, p };
    const size_t elements = (size_t)p->H * (size_t)p->V * (size_t)p->K;

    pool_run(q, in->S * p->H, (size_t)in->T * elements, state_unit, &job);
}
