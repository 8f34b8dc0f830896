/* matrix_state.c - the matrix state with a vector along the keys. A unit is one head of one
 * sequence: its state stays in the cache for all tokens of the chunk. VW rows are stepped at
 * once, so that the vectors of the token are loaded once for all of them and the row sums
 * come out of one reduction. */
#include "kernels/cpu/x86/x86.h"

#include "kernels/cpu/pool.h"

struct state_job {
    const struct batch *in;
    const struct matrix_state *p;
};

/* The vectors of one head at one token. */
struct head {
    const float *w, *a, *b, *k, *q, *v;
    float *y;
    float scale, skip;
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

    v_store(v, v_mul(raw, v_set(h->scale)));
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

static void step_scalar(const struct head *h, float *S)
{
    step_head(h, S, true, false);
}

static void step_vector(const struct head *h, float *S)
{
    step_head(h, S, false, false);
}

static void step_scalar_delta(const struct head *h, float *S)
{
    step_head(h, S, true, true);
}

static void step_vector_delta(const struct head *h, float *S)
{
    step_head(h, S, false, true);
}

static void state_unit(const void *arg, int unit, int thread)
{
    const struct state_job *job = arg;
    const struct matrix_state *p = job->p;
    const int s = unit / p->H, head = unit % p->H;
    const size_t K = (size_t)p->K, V = (size_t)p->V, at = (size_t)head;
    const size_t shared = (size_t)(head / (p->H / p->k_heads)) * K;
    float *S = p->state.base + (size_t)job->in->slot[s] * p->state.stride + at * V * K;
    void (*step)(const struct head *, float *) =
        p->a ? (p->w_per_head ? step_scalar_delta : step_vector_delta)
             : (p->w_per_head ? step_scalar : step_vector);

    (void)thread;
    for (int row = job->in->begin[s]; row < job->in->begin[s + 1]; row++) {
        const size_t t = (size_t)row;
        const struct head h = {
            .w = p->w + t * p->w_ld + (p->w_per_head ? at : at * K),
            .a = p->a ? p->a + t * p->ab_ld + at * K : NULL,
            .b = p->a ? p->b + t * p->ab_ld + at * K : NULL,
            .k = p->k + t * p->kq_ld + shared,
            .q = p->q + t * p->kq_ld + shared,
            .v = p->v + t * p->v_ld + at * V,
            .y = p->y + t * p->y_ld + at * V,
            .scale = p->v_scale ? p->v_scale[t * p->w_ld + at] : 1.0f,
            .skip = p->skip ? p->skip[head] : 0.0f,
            .V = p->V,
            .K = p->K,
        };

        step(&h, S);
    }
}

void ISA(matrix_state)(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    const struct state_job job = { in, p };
    const size_t elements = (size_t)p->H * (size_t)p->V * (size_t)p->K;

    pool_run(q, in->S * p->H, (size_t)in->T * elements, state_unit, &job);
}
