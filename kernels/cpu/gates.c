/* gates.c - the definitions of what drives a matrix state: the step sizes and decays of
 * Mamba-2, and the decay, removal and replacement vectors of RWKV-7 (arXiv 2503.14456). */
#include "kernels/cpu/cpu.h"

#include <math.h>

#include "kernels/cpu/activation.h"

void decay_gates_plain(struct stream *q, const struct decay_gates *p)
{
    (void)q;
    for (int t = 0; t < p->T; t++) {
        for (int h = 0; h < p->H; h++) {
            const size_t at = (size_t)t * (size_t)p->H + (size_t)h;
            float dt = softplus(p->raw[(size_t)t * p->raw_ld + (size_t)h] + p->bias[h]);

            dt = dt < p->lo ? p->lo : dt > p->hi ? p->hi : dt;
            p->dt[at] = dt;
            p->decay[at] = expf(dt * p->A[h]);
        }
    }
}

static void delta_head(const struct delta_gates *p, size_t at, size_t channel)
{
    float *k = p->k + at, *kk = p->b + at, square = 0.0f;

    for (int j = 0; j < p->K; j++) {
        kk[j] = k[j] * p->k_k[channel + (size_t)j];
        square += kk[j] * kk[j];
    }

    const float length = fmaxf(sqrtf(square), 1e-12f);

    for (int j = 0; j < p->K; j++) {
        const float a = p->a[at + (size_t)j], unit = kk[j] / length;

        p->decay[at + (size_t)j] = expf(-0.60653066f * sigmoid(p->w[at + (size_t)j]));
        p->a_out[at + (size_t)j] = unit * a;
        p->b[at + (size_t)j] = -unit;
        k[j] *= 1.0f + (a - 1.0f) * p->k_a[channel + (size_t)j];
    }
}

void delta_gates_plain(struct stream *q, const struct delta_gates *p)
{
    const size_t row = (size_t)p->H * (size_t)p->K;

    (void)q;
    for (int t = 0; t < p->T; t++)
        for (int h = 0; h < p->H; h++)
            delta_head(p, (size_t)t * row + (size_t)h * (size_t)p->K, (size_t)h * (size_t)p->K);
}
