/* mix.c - the blends, with a vector along the row. A unit is a row, except where a sequence
 * must be walked in order: its state is written after all its rows were read. */
#include "kernels/cpu/x86/x86.h"

#include <string.h>

#include "kernels/cpu/pool.h"

enum { LERP_FLOATS = 4096 }; /* of a unit, a multiple of VW */

static void lerp_unit(const void *arg, int unit, int thread)
{
    const struct lerp *p = arg;
    const size_t first = (size_t)unit * LERP_FLOATS;
    const size_t end = p->n - first < LERP_FLOATS ? p->n : first + LERP_FLOATS;

    (void)thread;
    for (size_t i = first; i < end; i += VW) {
        const int m = end - i < VW ? (int)(end - i) : VW;
        vf y = v_load_n(p->y + i, m);

        y = v_fma(v_sub(v_load_n(p->target + i, m), y), v_load_n(p->mix + i, m), y);
        v_store_n(p->y + i, y, m);
    }
}

void ISA(lerp)(struct stream *q, const struct lerp *p)
{
    pool_run(q, (int)((p->n + LERP_FLOATS - 1) / LERP_FLOATS), p->n * 2, lerp_unit, p);
}

struct shift_job {
    const struct batch *in;
    const struct token_shift *p;
};

/* One mix of one sequence. */
static void shift_unit(const void *arg, int unit, int thread)
{
    const struct shift_job *job = arg;
    const struct token_shift *p = job->p;
    const int s = unit / p->n, i = unit % p->n;
    const float *before = p->state.base + (size_t)job->in->slot[s] * p->state.stride;

    (void)thread;
    for (int t = job->in->begin[s]; t < job->in->begin[s + 1]; t++) {
        const float *x = p->x + (size_t)t * (size_t)p->dim;
        float *y = p->y[i] + (size_t)t * (size_t)p->dim;

        for (int j = 0; j < p->dim; j += VW) {
            const int m = p->dim - j;
            vf xj = v_load_n(x + j, m), d = v_sub(v_load_n(before + j, m), xj);

            v_store_n(y + j, v_fma(d, v_load_n(p->mu[i] + j, m), xj), m);
        }
        before = x;
    }
}

void ISA(token_shift)(struct stream *q, const struct batch *in, const struct token_shift *p)
{
    const struct shift_job job = { in, p };
    const size_t dim = (size_t)p->dim;

    pool_run(q, in->S * p->n, (size_t)in->T * (size_t)p->n * dim, shift_unit, &job);
    for (int s = 0; s < in->S; s++)
        if (in->begin[s + 1] > in->begin[s])
            memcpy(p->state.base + (size_t)in->slot[s] * p->state.stride,
                   p->x + (size_t)(in->begin[s + 1] - 1) * dim, dim * sizeof(float));
}

enum {
    CONV_W_MAX = 8,   /* wider ones go to the definition */
    CONV_STRIP = 256, /* channels of a unit at most, */
    CONV_LEAST = 64,  /* and at least where there are more threads; multiples of VW */
    CONV_AHEAD = 8    /* rows fetched ahead: a row's strip is too short for the machine to see */
};

struct conv_job {
    const struct batch *in;
    const struct short_conv *p;
    int strip; /* channels of a unit */
};

static const float *conv_input(const struct short_conv *p, const float *state, const float *x,
                               int row)
{
    if (row < 0)
        return state + (ptrdiff_t)(p->W - 1 + row) * p->dim;
    return x + (size_t)row * p->x_ld;
}

static void fetch_row(const struct short_conv *p, size_t row, int c, int m)
{
    for (int k = 0; k < m; k += 16) {
        v_fetch(p->x + row * p->x_ld + c + k);
        v_fetch_to_write(p->y + row * p->y_ld + c + k);
    }
}

/* The inputs that sequence s has kept. */
static void fetch_state(const struct conv_job *job, int s, int c, int m)
{
    const struct short_conv *p = job->p;
    const float *state = p->state.base + (size_t)job->in->slot[s] * p->state.stride + c;

    for (int i = 0; i < p->W - 1; i++)
        for (int k = 0; k < m; k += 16)
            v_fetch_to_write(state + (ptrdiff_t)i * p->dim + k);
}

/* m channels from c on of one sequence, row by row. turned: their weights, newest input last. */
INLINE void conv_channels(const struct short_conv *p, const float turned[][CONV_STRIP],
                          const float *state, size_t first, int T, int c, int m, int W)
{
    const float *x = p->x + first * p->x_ld + c;

    for (int t = 0; t < T; t++) {
        const float *in[CONV_W_MAX];
        float *y = p->y + (first + (size_t)t) * p->y_ld + c;

        for (int i = 0; i < W; i++)
            in[i] = conv_input(p, state + c, x, t - W + 1 + i);
        if (t + CONV_AHEAD < T)
            fetch_row(p, first + (size_t)t + CONV_AHEAD, c, m);
        for (int k = 0; k < m; k += VW) {
            vf sum = v_zero();

            for (int i = 0; i < W; i++)
                sum = v_fma(v_load(turned[i] + k), v_load_n(in[i] + k, m - k), sum);
            if (p->bias)
                sum = v_add(sum, v_load_n(p->bias + c + k, m - k));
            v_store_n(y + k, p->silu ? v_silu(sum) : sum, m - k);
        }
    }
}

/* Ascending: a row moves before it is overwritten. */
static void keep_inputs(const struct short_conv *p, float *state, const float *x, int T, int n)
{
    for (int i = 0; i < p->W - 1; i++)
        memmove(state + (ptrdiff_t)i * p->dim, conv_input(p, state, x, T - p->W + 1 + i),
                (size_t)n * sizeof(*state));
}

/* A strip of channels of every sequence: the weights [dim, W] are turned once for all. */
INLINE void conv_strip(const struct conv_job *job, int unit, int W)
{
    const struct short_conv *p = job->p;
    const int c = unit * job->strip, m = p->dim - c < job->strip ? p->dim - c : job->strip;
    const float *weight = p->weight + (size_t)c * (size_t)W;
    float turned[CONV_W_MAX][CONV_STRIP] = { { 0 } };

    for (int k = 0; k < m; k++)
        for (int i = 0; i < W; i++)
            turned[i][k] = weight[k * W + i];
    for (int s = 0; s < job->in->S; s++) {
        const size_t first = (size_t)job->in->begin[s];
        const int T = job->in->begin[s + 1] - job->in->begin[s];
        float *state = p->state.base + (size_t)job->in->slot[s] * p->state.stride;

        if (s + 1 < job->in->S)
            fetch_state(job, s + 1, c, m);
        conv_channels(p, (const float(*)[CONV_STRIP])turned, state, first, T, c, m, W);
        keep_inputs(p, state + c, p->x + first * p->x_ld + c, T, m);
    }
}

/* Every published model has a width of 4, which unrolls. */
static void conv_unit(const void *arg, int unit, int thread)
{
    const struct conv_job *job = arg;

    (void)thread;
    if (job->p->W == 4)
        conv_strip(job, unit, 4);
    else
        conv_strip(job, unit, job->p->W);
}

static int choose_strip(const struct stream *q, int dim)
{
    const int share = dim / (2 * pool_threads(q)) / VW * VW;

    return share > CONV_STRIP ? CONV_STRIP : share < CONV_LEAST ? CONV_LEAST : share;
}

void ISA(short_conv)(struct stream *q, const struct batch *in, const struct short_conv *p)
{
    const struct conv_job job = { in, p, choose_strip(q, p->dim) };

    if (p->W > CONV_W_MAX) {
        short_conv_plain(q, in, p);
        return;
    }
    pool_run(q, (p->dim + job.strip - 1) / job.strip, (size_t)in->T * (size_t)p->dim * 16,
             conv_unit, &job);
}
