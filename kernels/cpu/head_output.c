/* head_output.c - the definition of RWKV-7's way out of the state (arXiv 2503.14456):
 *
 *   y = (layer_norm(y) * weight + bias + (sum_j r * k * r_k) * v) * g      per head
 */
#include "kernels/cpu/cpu.h"

#include <math.h>

static void output_head(const struct head_output *p, size_t at, size_t channel)
{
    const size_t V = (size_t)p->V;
    const float *y = p->y + at;
    float mean = 0.0f, var = 0.0f, bonus = 0.0f;

    for (size_t i = 0; i < V; i++)
        mean += y[i];
    mean /= (float)V;
    for (size_t i = 0; i < V; i++)
        var += (y[i] - mean) * (y[i] - mean);
    for (size_t i = 0; i < V; i++)
        bonus += p->r[at + i] * p->k[at + i] * p->r_k[channel + i];

    const float scale = 1.0f / sqrtf(var / (float)V + p->eps);

    for (size_t i = 0; i < V; i++) {
        float normed = (y[i] - mean) * scale * p->weight[channel + i] + p->bias[channel + i];

        store_number(p->y_bf16 ? NULL : p->y, p->y_bf16, at + i,
                     (normed + bonus * p->v[at + i]) * p->g[at + i]);
    }
}

void head_output_plain(struct stream *q, const struct head_output *p)
{
    const size_t V = (size_t)p->V, row = (size_t)p->H * V;

    (void)q;
    for (int t = 0; t < p->T; t++)
        for (int h = 0; h < p->H; h++)
            output_head(p, (size_t)t * row + (size_t)h * V, (size_t)h * V);
}
