/* mix.c - the definitions of the operations that blend a row with another: lerp, the token
 * shift of RWKV and the short convolution of Mamba. The last two keep the newest inputs of a
 * sequence as its state. */
#include "kernels/cpu/cpu.h"

#include <string.h>

#include "kernels/cpu/activation.h"

void lerp_plain(struct stream *q, const struct lerp *p)
{
    (void)q;
    for (size_t i = 0; i < p->n; i++)
        p->y[i] += (p->target[i] - p->y[i]) * p->mix[i];
}

void token_shift_plain(struct stream *q, const struct batch *in, const struct token_shift *p)
{
    const size_t dim = (size_t)p->dim;

    (void)q;
    for (int s = 0; s < in->S; s++) {
        float *state = p->state.base + (size_t)in->slot[s] * p->state.stride;
        const float *before = state;

        for (int t = in->begin[s]; t < in->begin[s + 1]; t++) {
            const float *x = p->x + (size_t)t * dim;

            for (int i = 0; i < p->n; i++) {
                for (size_t j = 0; j < dim; j++)
                    store_number(p->y[i], p->y_bf16[i], (size_t)t * dim + j,
                                 x[j] + (before[j] - x[j]) * p->mu[i][j]);
            }
            before = x;
        }
        if (before != state)
            memcpy(state, before, dim * sizeof(*state));
    }
}

/* The inputs of one output, oldest first: the state's rows, then x. Row t - W + 1 + i, seen
 * from the sequence's first row. */
static const float *conv_input(const struct short_conv *p, const float *state, const float *x,
                               int row)
{
    if (row < 0)
        return state + (size_t)(p->W - 1 + row) * (size_t)p->dim;
    return x + (size_t)row * p->x_ld;
}

/* Row t of a sequence; its outputs begin at y[at]. */
static void conv_row(const struct short_conv *p, const float *state, const float *x, int t,
                     size_t at)
{
    for (int c = 0; c < p->dim; c++) {
        float sum = 0.0f;

        for (int i = 0; i < p->W; i++)
            sum += p->weight[c * p->W + i] * conv_input(p, state, x, t - p->W + 1 + i)[c];
        if (p->bias)
            sum += p->bias[c];
        store_number(p->y, p->y_bf16, at + (size_t)c, p->silu ? silu(sum) : sum);
    }
}

void short_conv_plain(struct stream *q, const struct batch *in, const struct short_conv *p)
{
    (void)q;
    for (int s = 0; s < in->S; s++) {
        const int T = in->begin[s + 1] - in->begin[s];
        const size_t first = (size_t)in->begin[s];
        const float *x = p->x + first * p->x_ld;
        float *state = p->state.base + (size_t)in->slot[s] * p->state.stride;

        for (int t = 0; t < T; t++)
            conv_row(p, state, x, t, (first + (size_t)t) * p->y_ld);
        for (int i = 0; i < p->W - 1; i++) /* ascending: a row moves before it is overwritten */
            memmove(state + (size_t)i * (size_t)p->dim, conv_input(p, state, x, T - p->W + 1 + i),
                    (size_t)p->dim * sizeof(*state));
    }
}
