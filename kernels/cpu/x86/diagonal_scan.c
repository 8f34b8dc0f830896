/* diagonal_scan.c - the selective scan. A unit is some strips of VW channels of one sequence.
 * For many tokens the state of a strip and its A are turned on their sides, [N, VW], and stay
 * in the first-level cache: a token needs no sum across lanes, as each channel's runs over
 * ascending n in a lane of its own. One token alone is stepped where the state lies, and only
 * then turned for that same sum. */
#include "kernels/cpu/x86/x86.h"

#include "kernels/cpu/pool.h"
#include "kernels/cpu/state.h"

enum {
    TOGETHER = 4,     /* elements of a state whose exponentials are computed side by side */
    STRIPS = 4,       /* of a unit: rows are far apart, so each visit should find a few lines */
    TOKENS_AHEAD = 3, /* whose lines are fetched meanwhile */
    AHEAD = 4096      /* bytes fetched ahead of the state of a token alone, which is one stream */
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

INLINE vf next_state(vf decay, vf state, vf dtx, vf B)
{
    return v_fma(decay, state, v_mul(dtx, B));
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

/* Elements n to n + count of the states of VW channels; count is a constant. */
INLINE vf scan_elements(float *h, const float *A2, const float *B, const float *C, vf dt, vf dtx,
                        vf sum, int count)
{
    vf decay[TOGETHER];

    UNROLL
    for (int i = 0; i < count; i++)
        decay[i] = v_mul(dt, v_load(A2 + i * VW));
    v_exp2_each(decay, count);
    UNROLL
    for (int i = 0; i < count; i++) {
        const vf state = next_state(decay[i], v_load(h + i * VW), dtx, v_set(B[i]));

        v_store(h + i * VW, state);
        sum = v_fma(state, v_set(C[i]), sum);
    }
    return sum;
}

/* One token of m channels from c on. A2: in base two. */
INLINE void scan_token(const struct diagonal_scan *p, float *h, const float *A2, size_t t, size_t c,
                       int m)
{
    const float *B = p->B + t * p->bc_ld, *C = p->C + t * p->bc_ld;
    const vf dt = v_load_n(p->dt + t * p->dt_ld + c, m), x = v_load_n(p->x + t * p->x_ld + c, m);
    const vf dtx = v_mul(dt, x);
    const int whole = p->N - p->N % TOGETHER;
    vf sum = v_zero();

    for (int n = 0; n < whole; n += TOGETHER)
        sum = scan_elements(h + n * VW, A2 + n * VW, B + n, C + n, dt, dtx, sum, TOGETHER);
    for (int n = whole; n < p->N; n++)
        sum = scan_elements(h + n * VW, A2 + n * VW, B + n, C + n, dt, dtx, sum, 1);
    finish(p, t, c, m, x, sum);
}

/* The same of TOGETHER channels where their states lie, N apart: a vector along n. Channels from
 * m on, if any, become 0. */
INLINE void step_channels(vf *state, float *h, const float *A, const float *dt, const float *dtx,
                          vf B, int N, int m, int left)
{
    vf decay[TOGETHER];

    UNROLL
    for (int k = 0; k < TOGETHER; k++) {
        const size_t at = (size_t)k * (size_t)N;

        decay[k] = v_zero();
        state[k] = v_zero();
        if (k >= m)
            continue;
        v_fetch((const char *)(h + at) + AHEAD);
        v_fetch((const char *)(A + at) + AHEAD);
        decay[k] = v_mul(v_set(dt[k]), to_base_two(v_load_n(A + at, left)));
    }
    v_exp2_each(decay, TOGETHER);
    UNROLL
    for (int k = 0; k < TOGETHER; k++) {
        const size_t at = (size_t)k * (size_t)N;

        if (k >= m)
            continue;
        state[k] = next_state(decay[k], v_load_n(h + at, left), v_set(dtx[k]), B);
        v_store_n(h + at, state[k], left);
    }
}

/* One token of m channels from c on, where their states lie. m and whole (N is a multiple of VW)
 * are constants in the instance that matters. */
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
        for (int k = 0; k < VW; k += TOGETHER)
            step_channels(row + k, h + n + (size_t)k * (size_t)p->N,
                          A + n + (size_t)k * (size_t)p->N, dts + k, dtxs + k, Bn, p->N, m - k,
                          left);
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

static void fetch_token(const struct diagonal_scan *p, size_t t, size_t c)
{
    v_fetch(p->dt + t * p->dt_ld + c);
    v_fetch(p->x + t * p->x_ld + c);
    if (p->z)
        v_fetch(p->z + t * p->z_ld + c);
    v_fetch_to_write(p->y + t * p->y_ld + c);
}

/* Tokens [begin, end) of the channels [c, c_end). state: that of channel c. */
static void scan_tokens(const struct diagonal_scan *p, float *state, int c, int c_end, int begin,
                        int end, float *scratch)
{
    const size_t N = (size_t)p->N, turned = (N + VW - 1) / VW * VW * VW;
    float *h[STRIPS], *A[STRIPS];

    for (int i = 0; c + i * VW < c_end; i++) {
        const int m = strip_width(p, c + i * VW);

        h[i] = scratch + (size_t)(2 * i) * turned;
        A[i] = h[i] + turned;
        turn_in(h[i], state + (size_t)(i * VW) * N, m, p->N);
        turn_in(A[i], p->A + (size_t)(c + i * VW) * N, m, p->N);
        for (size_t k = 0; k < turned; k += VW)
            v_store(A[i] + k, to_base_two(v_load(A[i] + k)));
    }
    for (int t = begin; t < end; t++)
        for (int i = 0; c + i * VW < c_end; i++) {
            const int at = c + i * VW;

            if (t + TOKENS_AHEAD < end)
                fetch_token(p, (size_t)t + TOKENS_AHEAD, (size_t)at);

            if (strip_width(p, at) == VW)
                scan_token(p, h[i], A[i], (size_t)t, (size_t)at, VW);
            else
                scan_token(p, h[i], A[i], (size_t)t, (size_t)at, strip_width(p, at));
        }
    for (int i = 0; c + i * VW < c_end; i++)
        turn_out(state + (size_t)(i * VW) * N, h[i], strip_width(p, c + i * VW), p->N);
}

static void scan_unit(const void *arg, int unit, int thread)
{
    const struct scan_job *job = arg;
    const struct diagonal_scan *p = job->p;
    const int s = unit / job->units, begin = job->in->begin[s], end = job->in->begin[s + 1];
    const int c = unit % job->units * job->channels;
    const int c_end = p->dim - c < job->channels ? p->dim : c + job->channels;
    const size_t N = (size_t)p->N, n = (size_t)(c_end - c) * N;
    const bool alone = end - begin == 1;
    const size_t floats = alone ? 0 : 2 * STRIPS * VW * ((N + VW - 1) / VW * VW);
    const size_t bytes = floats * sizeof(float) + state_scratch(&p->state, n);
    float *scratch = pool_scratch(job->q, thread, bytes);

    if (!scratch && bytes)
        return;

    const struct state_part state =
        state_open(&p->state, job->in, s, (size_t)c * N, n, scratch ? scratch + floats : NULL);

    for (int i = c; alone && i < c_end; i += VW)
        scan_strip_alone(p, state.f32 + (size_t)(i - c) * N, (size_t)begin, (size_t)i,
                         strip_width(p, i));
    if (!alone)
        scan_tokens(p, state.f32, c, c_end, begin, end, scratch);
    state_close(&state);
}

static bool is_one_token_each(const struct batch *in)
{
    for (int s = 0; s < in->S; s++)
        if (in->begin[s + 1] - in->begin[s] != 1)
            return false;
    return true;
}

/* Strips of a unit. Where every sequence has one token, as many as leave each thread two units. */
static int choose_strips(const struct stream *q, const struct batch *in,
                         const struct diagonal_scan *p)
{
    const int all = (p->dim + VW - 1) / VW, parts = 2 * pool_threads(q) / in->S;

    if (!is_one_token_each(in))
        return STRIPS;
    return parts > 1 ? (all + parts - 1) / parts : all;
}

void ISA(diagonal_scan)(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    const int channels = choose_strips(q, in, p) * VW;
    const struct scan_job job = { q, in, p, (p->dim + channels - 1) / channels, channels };

    pool_run(q, in->S * job.units, (size_t)in->T * (size_t)p->dim * (size_t)p->N * 2, scan_unit,
             &job);
}
