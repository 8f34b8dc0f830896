/* gates.c - what drives a matrix state, with a vector along the heads (Mamba-2) or along a
 * head's keys (RWKV-7). */
#include "kernels/cpu/x86/x86.h"

#include <math.h>

#include "kernels/cpu/pool.h"

static void decay_row(const void *arg, int t, int thread)
{
    const struct decay_gates *p = arg;
    const float *raw = p->raw + (size_t)t * p->raw_ld;
    const size_t at = (size_t)t * (size_t)p->H;

    (void)thread;
    for (int h = 0; h < p->H; h += VW) {
        const int m = p->H - h;
        vf dt = v_softplus(v_add(v_load_n(raw + h, m), v_load_n(p->bias + h, m)));

        dt = v_min(v_set(p->hi), v_max(v_set(p->lo), dt));
        v_store_n(p->dt + at + h, dt, m);
        v_store_n(p->decay + at + h, v_exp(v_mul(dt, v_load_n(p->A + h, m))), m);
    }
}

void ISA(decay_gates)(struct stream *q, const struct decay_gates *p)
{
    pool_run(q, p->T, (size_t)p->T * (size_t)p->H * 16, decay_row, p);
}

static void delta_head(const struct delta_gates *p, size_t at, size_t channel)
{
    float *k = p->k + at;
    vf square = v_zero();

    for (int j = 0; j < p->K; j += VW) {
        const int m = p->K - j;
        vf kk = v_mul(v_load_n(k + j, m), v_load_n(p->k_k + channel + j, m));

        square = v_fma(kk, kk, square);
    }

    const vf one = v_set(1.0f), length = v_set(fmaxf(sqrtf(v_sum(square)), 1e-12f));

    for (int j = 0; j < p->K; j += VW) {
        const int m = p->K - j;
        const vf a = v_load_n(p->a + at + j, m), kj = v_load_n(k + j, m);
        const vf unit = v_div(v_mul(kj, v_load_n(p->k_k + channel + j, m)), length);
        const vf gate = v_sigmoid(v_load_n(p->w + at + j, m));
        const vf grown = v_fma(v_sub(a, one), v_load_n(p->k_a + channel + j, m), one);

        v_store_n(p->decay + at + j, v_exp(v_mul(v_set(-0.60653066f), gate)), m);
        v_store_n(p->a_out + at + j, v_mul(unit, a), m);
        v_store_n(p->b + at + j, v_sub(v_zero(), unit), m);
        v_store_n(k + j, v_mul(kj, grown), m);
    }
}

static void delta_unit(const void *arg, int unit, int thread)
{
    const struct delta_gates *p = arg;
    const size_t K = (size_t)p->K;
    const int rows = unit_rows(p->H * p->K);

    (void)thread;
    for (int t = unit * rows; t < p->T && t < (unit + 1) * rows; t++)
        for (size_t h = 0; h < (size_t)p->H; h++)
            delta_head(p, ((size_t)t * (size_t)p->H + h) * K, h * K);
}

void ISA(delta_gates)(struct stream *q, const struct delta_gates *p)
{
    pool_run(q, unit_count(p->T, unit_rows(p->H * p->K)),
             (size_t)p->T * (size_t)p->H * (size_t)p->K * 8, delta_unit, p);
}
