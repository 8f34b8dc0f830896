/* matrix_state.c - the definition of the matrix state (Mamba-2, arXiv 2405.21060; RWKV-7,
 * arXiv 2503.14456). Per head, row i of S [V, K] belongs to value channel i:
 *
 *   u[i]   = S[i] . b                              before this token; only with a and b
 *   S[i,j] = S[i,j] * w[j] + v[i] * k[j] + u[i] * a[j]
 *   y[i]   = S[i] . q + skip * v_raw[i]
 *
 * Tokens of a sequence are processed in order and sums run over ascending j, so how a prompt
 * is cut into chunks cannot be seen. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/state.h"

/* The vectors of one head at one token. */
struct head {
    const float *w, *a, *b, *k, *q;
    int K;
    bool scalar_w;
};

static float step_row(const struct head *h, float *S, float v)
{
    float u = 0.0f, y = 0.0f;

    if (h->b)
        for (int j = 0; j < h->K; j++)
            u += S[j] * h->b[j];
    for (int j = 0; j < h->K; j++) {
        S[j] = S[j] * h->w[h->scalar_w ? 0 : j] + v * h->k[j];
        if (h->a)
            S[j] += u * h->a[j];
        y += S[j] * h->q[j];
    }
    return y;
}

static void step_head(const struct matrix_state *p, float *S, size_t t, int head)
{
    const size_t K = (size_t)p->K, V = (size_t)p->V, at = (size_t)head;
    const size_t shared = (size_t)(head / (p->H / p->k_heads)) * K;
    const float *v = p->v + t * p->v_ld + at * V;
    const float scale = p->v_scale ? p->v_scale[t * p->w_ld + at] : 1.0f;
    const struct head h = {
        .w = p->w + t * p->w_ld + (p->w_per_head ? at : at * K),
        .a = p->a ? p->a + t * p->ab_ld + at * K : NULL,
        .b = p->b ? p->b + t * p->ab_ld + at * K : NULL,
        .k = p->k + t * p->kq_ld + shared,
        .q = p->q + t * p->kq_ld + shared,
        .K = p->K,
        .scalar_w = p->w_per_head,
    };

    for (size_t i = 0; i < V; i++) {
        float y = step_row(&h, S + i * K, v[i] * scale);

        p->y[t * p->y_ld + at * V + i] = p->skip ? y + p->skip[head] * v[i] : y;
    }
}

void matrix_state_plain(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    const size_t own = (size_t)p->V * (size_t)p->K, all = (size_t)p->H * own;
    void *wide = pool_scratch(q, 0, state_scratch(&p->state, all));

    for (int s = 0; s < in->S && (wide || !p->state.bf16); s++) {
        const struct state_part S = state_open(&p->state, in, s, 0, all, wide);

        for (int head = 0; head < p->H; head++)
            for (int t = in->begin[s]; t < in->begin[s + 1]; t++)
                step_head(p, S.f32 + (size_t)head * own, (size_t)t, head);
        state_close(&S);
    }
}
