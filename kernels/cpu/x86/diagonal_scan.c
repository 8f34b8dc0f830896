/* diagonal_scan.c - the selective scan with a vector along the state of a channel. A unit is
 * VW channels of one sequence; their state stays in the first-level cache for all tokens. */
#include "kernels/cpu/x86/x86.h"

#include "kernels/cpu/pool.h"

struct scan_job {
    const struct batch *in;
    const struct diagonal_scan *p;
    int blocks;
};

/* Adds a vector of the state of m channels, `left` floats at n of N, to sum: one token. */
INLINE void scan_vector(const struct diagonal_scan *p, float *h, const float *A, int m, int n,
                        int left, const float *dt, const float *dtx, vf B, vf C, vf sum[VW])
{
    UNROLL_IF_CONSTANT
    for (int r = 0; r < m; r++) {
        const size_t at = (size_t)r * (size_t)p->N + (size_t)n;
        vf decay = v_exp(v_mul(v_set(dt[r]), v_load_n(A + at, left)));
        vf state = v_fma(decay, v_load_n(h + at, left), v_mul(v_set(dtx[r]), B));

        v_store_n(h + at, state, left);
        sum[r] = v_fma(state, C, sum[r]);
    }
}

static void scan_token(const struct diagonal_scan *p, float *h, size_t t, size_t c, int m)
{
    const vf dt = v_load_n(p->dt + t * p->dt_ld + c, m), x = v_load_n(p->x + t * p->x_ld + c, m);
    float dts[VW], dtxs[VW];
    vf sum[VW];

    v_store(dts, dt);
    v_store(dtxs, v_mul(dt, x));
    UNROLL
    for (int r = 0; r < VW; r++)
        sum[r] = v_zero();
    for (int n = 0; n < p->N; n += VW) {
        const vf B = v_load_n(p->B + t * p->bc_ld + n, p->N - n);
        const vf C = v_load_n(p->C + t * p->bc_ld + n, p->N - n);
        const float *A = p->A + c * (size_t)p->N;

        if (m == VW && p->N % VW == 0)
            scan_vector(p, h, A, VW, n, VW, dts, dtxs, B, C, sum);
        else
            scan_vector(p, h, A, m, n, p->N - n, dts, dtxs, B, C, sum);
    }

    vf y = v_fma(v_load_n(p->D + c, m), x, v_reduce(sum));

    if (p->z)
        y = v_mul(y, v_silu(v_load_n(p->z + t * p->z_ld + c, m)));
    v_store_n(p->y + t * p->y_ld + c, y, m);
}

static void scan_unit(const void *arg, int unit, int thread)
{
    const struct scan_job *job = arg;
    const struct diagonal_scan *p = job->p;
    const int s = unit / job->blocks, c = unit % job->blocks * VW;
    const int m = p->dim - c < VW ? p->dim - c : VW;
    float *h =
        p->state.base + (size_t)job->in->slot[s] * p->state.stride + (size_t)c * (size_t)p->N;

    (void)thread;
    for (int t = job->in->begin[s]; t < job->in->begin[s + 1]; t++)
        scan_token(p, h, (size_t)t, (size_t)c, m);
}

void ISA(diagonal_scan)(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    const struct scan_job job = { in, p, (p->dim + VW - 1) / VW };

    pool_run(q, in->S * job.blocks, (size_t)in->T * (size_t)p->dim * (size_t)p->N * 2, scan_unit,
             &job);
}
