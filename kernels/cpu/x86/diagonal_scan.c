/* diagonal_scan.c - the selective scan. A unit is some strips of VW channels of one sequence.
 * For many tokens the state of a strip and its A are turned on their sides, [N, VW], and stay
 * in the first-level cache: a token needs no sum across lanes, as each channel's runs over
 * ascending n in a lane of its own. One token alone is stepped where the state lies, and only
 * then turned for that same sum. */
#include "kernels/cpu/x86/x86.h"

#include "kernels/cpu/pool.h"

enum {
    STRIPS = 4,        /* of a unit: rows are far apart, so each visit should find a few lines */
    STRIPS_ALONE = 16, /* where every sequence has one token: the state should be one stream */
    AHEAD = 4096       /* bytes of that stream fetched ahead */
};

struct scan_job {
    struct stream *q;
    const struct batch *in;
    const struct diagonal_scan *p;
    int units, channels; /* units of one sequence, channels of a unit */
};

/* exp(dt * A) is a power of two of dt times this. */
INLINE vf to_base_two(vf A)
{
    return v_mul(A, v_set(0x1.715476p+0f));
}

INLINE vf next_state(vf state, vf dt, vf A2, vf dtx, vf B)
{
    return v_fma(v_exp2(v_mul(dt, A2)), state, v_mul(dtx, B));
}

/* The outputs of m channels from the sums of their states. */
INLINE void finish(const struct diagonal_scan *p, size_t t, size_t c, int m, vf x, vf sum)
{
    vf y = v_fma(v_load_n(p->D + c, m), x, sum);

    if (p->z)
        y = v_mul(y, v_silu(v_load_n(p->z + t * p->z_ld + c, m)));
    v_store_n(p->y + t * p->y_ld + c, y, m);
}

/* turned[n][k] = x[k][n] for m channels; 0 past them. */
static void turn_in(float *turned, const float *x, int m, int N)
{
    for (int n = 0; n < N; n += VW) {
        vf row[VW];

        UNROLL
        for (int k = 0; k < VW; k++)
            row[k] = k < m ? v_load_n(x + (size_t)k * (size_t)N + n, N - n) : v_zero();
        v_transpose(row);
        UNROLL
        for (int k = 0; k < VW; k++)
            v_store(turned + (n + k) * VW, row[k]);
    }
}

static void turn_out(float *x, const float *turned, int m, int N)
{
    for (int n = 0; n < N; n += VW) {
        vf row[VW];

        UNROLL
        for (int k = 0; k < VW; k++)
            row[k] = v_load(turned + (n + k) * VW);
        v_transpose(row);
        UNROLL
        for (int k = 0; k < VW; k++)
            if (k < m)
                v_store_n(x + (size_t)k * (size_t)N + n, row[k], N - n);
    }
}

/* One token of m channels from c on. A2: in base two. */
INLINE void scan_token(const struct diagonal_scan *p, float *h, const float *A2, size_t t, size_t c,
                       int m)
{
    const float *B = p->B + t * p->bc_ld, *C = p->C + t * p->bc_ld;
    const vf dt = v_load_n(p->dt + t * p->dt_ld + c, m), x = v_load_n(p->x + t * p->x_ld + c, m);
    const vf dtx = v_mul(dt, x);
    vf sum = v_zero();

    for (int n = 0; n < p->N; n++) {
        const vf state = next_state(v_load(h + n * VW), dt, v_load(A2 + n * VW), dtx, v_set(B[n]));

        v_store(h + n * VW, state);
        sum = v_fma(state, v_set(C[n]), sum);
    }
    finish(p, t, c, m, x, sum);
}

/* The same where the state lies: a vector along n. m and whole (N is a multiple of VW) are
 * constants in the instance that matters. */
INLINE void scan_alone(const struct diagonal_scan *p, float *h, size_t t, size_t c, int m,
                       bool whole)
{
    const float *A = p->A + c * (size_t)p->N, *B = p->B + t * p->bc_ld, *C = p->C + t * p->bc_ld;
    const vf dt = v_load_n(p->dt + t * p->dt_ld + c, m), x = v_load_n(p->x + t * p->x_ld + c, m);
    float dts[VW], dtxs[VW];
    vf row[VW], sum = v_zero();

    v_store(dts, dt);
    v_store(dtxs, v_mul(dt, x));
    for (int n = 0; n < p->N; n += VW) {
        const int left = whole ? VW : p->N - n;
        const vf Bn = v_load_n(B + n, left);

        UNROLL
        for (int k = 0; k < VW; k++) {
            const size_t at = (size_t)k * (size_t)p->N + (size_t)n;

            row[k] = v_zero();
            if (k >= m)
                continue;
            _mm_prefetch((const char *)(h + at) + AHEAD, _MM_HINT_T0);
            row[k] = next_state(v_load_n(h + at, left), v_set(dts[k]),
                                to_base_two(v_load_n(A + at, left)), v_set(dtxs[k]), Bn);
            v_store_n(h + at, row[k], left);
        }
        v_transpose(row);
        UNROLL
        for (int k = 0; k < VW; k++)
            if (k < left)
                sum = v_fma(row[k], v_set(C[n + k]), sum);
    }
    finish(p, t, c, m, x, sum);
}

static void scan_strip_alone(const struct diagonal_scan *p, float *h, size_t t, size_t c, int m)
{
    if (m == VW && p->N % VW == 0)
        scan_alone(p, h, t, c, VW, true);
    else
        scan_alone(p, h, t, c, m, false);
}

static int strip_width(const struct diagonal_scan *p, int c)
{
    return p->dim - c < VW ? p->dim - c : VW;
}

/* Tokens [begin, end) of the channels [c, c_end). state: that of channel 0. */
static void scan_tokens(const struct diagonal_scan *p, float *state, int c, int c_end, int begin,
                        int end, float *scratch)
{
    const size_t N = (size_t)p->N, turned = (N + VW - 1) / VW * VW * VW;
    float *h[STRIPS], *A[STRIPS];

    for (int i = 0; c + i * VW < c_end; i++) {
        const size_t first = (size_t)(c + i * VW) * N;

        h[i] = scratch + (size_t)(2 * i) * turned;
        A[i] = h[i] + turned;
        turn_in(h[i], state + first, strip_width(p, c + i * VW), p->N);
        turn_in(A[i], p->A + first, strip_width(p, c + i * VW), p->N);
        for (size_t k = 0; k < turned; k += VW)
            v_store(A[i] + k, to_base_two(v_load(A[i] + k)));
    }
    for (int t = begin; t < end; t++)
        for (int i = 0; c + i * VW < c_end; i++) {
            const int at = c + i * VW;

            if (strip_width(p, at) == VW)
                scan_token(p, h[i], A[i], (size_t)t, (size_t)at, VW);
            else
                scan_token(p, h[i], A[i], (size_t)t, (size_t)at, strip_width(p, at));
        }
    for (int i = 0; c + i * VW < c_end; i++)
        turn_out(state + (size_t)(c + i * VW) * N, h[i], strip_width(p, c + i * VW), p->N);
}

static void scan_unit(const void *arg, int unit, int thread)
{
    const struct scan_job *job = arg;
    const struct diagonal_scan *p = job->p;
    const int s = unit / job->units, begin = job->in->begin[s], end = job->in->begin[s + 1];
    const int c = unit % job->units * job->channels;
    const int c_end = p->dim - c < job->channels ? p->dim : c + job->channels;
    const size_t N = (size_t)p->N, floats = 2 * STRIPS * VW * ((N + VW - 1) / VW * VW);
    float *state = p->state.base + (size_t)job->in->slot[s] * p->state.stride;

    if (end - begin == 1) {
        for (int i = c; i < c_end; i += VW)
            scan_strip_alone(p, state + (size_t)i * N, (size_t)begin, (size_t)i, strip_width(p, i));
        return;
    }

    float *scratch = pool_scratch(job->q, thread, floats * sizeof(*scratch));

    if (scratch)
        scan_tokens(p, state, c, c_end, begin, end, scratch);
}

static bool is_one_token_each(const struct batch *in)
{
    for (int s = 0; s < in->S; s++)
        if (in->begin[s + 1] - in->begin[s] != 1)
            return false;
    return true;
}

void ISA(diagonal_scan)(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    const int channels = (is_one_token_each(in) ? STRIPS_ALONE : STRIPS) * VW;
    const struct scan_job job = { q, in, p, (p->dim + channels - 1) / channels, channels };

    pool_run(q, in->S * job.units, (size_t)in->T * (size_t)p->dim * (size_t)p->N * 2, scan_unit,
             &job);
}
