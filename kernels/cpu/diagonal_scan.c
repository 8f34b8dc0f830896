/* diagonal_scan.c - the definition of the selective scan (Mamba, arXiv 2312.00752, eq. 2 with
 * zero-order hold on A and Euler on B), token by token:
 *
 *   h[c,n] = exp(dt[c] * A[c,n]) * h[c,n] + dt[c] * x[c] * B[n]
 *   y[c]   = (sum_n h[c,n] * C[n] + D[c] * x[c]) * silu(z[c])
 */
#include "kernels/cpu/cpu.h"

#include <math.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/state.h"

static void scan_token(const struct diagonal_scan *p, float *h, size_t t)
{
    const float *B = p->B + t * p->bc_ld, *C = p->C + t * p->bc_ld;

    for (int c = 0; c < p->dim; c++) {
        const float dt = p->dt[t * p->dt_ld + (size_t)c], x = p->x[t * p->x_ld + (size_t)c];
        const float *A = p->A + (size_t)c * (size_t)p->N;
        float *hc = h + (size_t)c * (size_t)p->N, y = 0.0f;

        for (int n = 0; n < p->N; n++) {
            hc[n] = expf(dt * A[n]) * hc[n] + dt * x * B[n];
            y += hc[n] * C[n];
        }
        y += p->D[c] * x;
        store_number(p->y, p->y_bf16, t * p->y_ld + (size_t)c,
                     p->z ? y * silu(p->z[t * p->z_ld + (size_t)c]) : y);
    }
}

void diagonal_scan_plain(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    const size_t all = (size_t)p->dim * (size_t)p->N;
    void *wide = pool_scratch(q, 0, state_scratch(&p->state, all));

    for (int s = 0; s < in->S && (wide || !p->state.bf16); s++) {
        const struct state_part h = state_open(&p->state, in, s, 0, all, wide);

        for (int t = in->begin[s]; t < in->begin[s + 1]; t++)
            scan_token(p, h.f32, (size_t)t);
        state_close(&h);
    }
}
