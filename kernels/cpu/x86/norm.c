/* norm.c - norms with a vector along the row. The sums keep one partial sum per lane and add
 * the lanes at the end, in an order that only the length decides. */
#include "kernels/cpu/x86/x86.h"

#include <math.h>

#include "kernels/cpu/pool.h"

static float sum_of(const float *x, int n)
{
    vf sum = v_zero();

    for (int i = 0; i < n; i += VW)
        sum = v_add(sum, v_load_n(x + i, n - i));
    return v_sum(sum);
}

/* The lanes past the end hold 0, not the mean: they are not summed. */
static float sum_squares(const float *x, int n, float mean)
{
    const int whole = n - n % VW;
    vf sum = v_zero();

    for (int i = 0; i < whole; i += VW) {
        vf d = v_sub(v_load(x + i), v_set(mean));

        sum = v_fma(d, d, sum);
    }

    float rest = v_sum(sum);

    for (int i = whole; i < n; i++)
        rest += (x[i] - mean) * (x[i] - mean);
    return rest;
}

/* y = (x - mean) * scale * weight + bias */
static void apply(float *y, const float *x, int n, float mean, float scale, const float *weight,
                  const float *bias)
{
    for (int i = 0; i < n; i += VW) {
        const int m = n - i;
        vf v = v_mul(v_sub(v_load_n(x + i, m), v_set(mean)), v_set(scale));

        if (weight)
            v = v_mul(v, v_load_n(weight + i, m));
        if (bias)
            v = v_add(v, v_load_n(bias + i, m));
        v_store_n(y + i, v, m);
    }
}

static void norm_row(const struct norm *p, int t)
{
    const int n = p->dim / p->groups;

    for (int at = 0; at < p->dim; at += n) {
        const float *x = p->x + (size_t)t * p->x_ld + at;
        float mean = p->kind == NORM_LAYER ? sum_of(x, n) / (float)n : 0.0f;
        float scale = 1.0f / sqrtf(sum_squares(x, n, mean) / (float)n + p->eps);

        apply(p->y + (size_t)t * p->y_ld + at, x, n, mean, scale, p->weight ? p->weight + at : NULL,
              p->bias ? p->bias + at : NULL);
    }
}

static void norm_unit(const void *arg, int unit, int thread)
{
    const struct norm *p = arg;
    const int rows = unit_rows(p->dim);

    (void)thread;
    for (int t = unit * rows; t < p->T && t < (unit + 1) * rows; t++)
        norm_row(p, t);
}

void ISA(norm)(struct stream *q, const struct norm *p)
{
    complete_rows_cpu(q, p);
    pool_run(q, unit_count(p->T, unit_rows(p->dim)), (size_t)p->T * (size_t)p->dim, norm_unit, p);
}

static void gated_row(const struct gated_norm *p, int t)
{
    const int n = p->dim / p->groups;

    for (int at = 0; at < p->dim; at += n) {
        const float *x = p->x + (size_t)t * p->x_ld + at, *z = p->z + (size_t)t * p->z_ld + at;
        float *y = p->y + (size_t)t * p->y_ld + at;

        for (int i = 0; i < n; i += VW)
            v_store_n(y + i, v_mul(v_load_n(x + i, n - i), v_silu(v_load_n(z + i, n - i))), n - i);
        if (p->weight)
            apply(y, y, n, 0.0f, 1.0f / sqrtf(sum_squares(y, n, 0.0f) / (float)n + p->eps),
                  p->weight + at, NULL);
    }
}

static void gated_unit(const void *arg, int unit, int thread)
{
    const struct gated_norm *p = arg;
    const int rows = unit_rows(p->dim);

    (void)thread;
    for (int t = unit * rows; t < p->T && t < (unit + 1) * rows; t++)
        gated_row(p, t);
}

void ISA(gated_norm)(struct stream *q, const struct gated_norm *p)
{
    pool_run(q, unit_count(p->T, unit_rows(p->dim)), (size_t)p->T * (size_t)p->dim * 8, gated_unit,
             p);
}

/* One head of head_output. */
static void output_head(const struct head_output *p, size_t at, size_t channel)
{
    const int V = p->V;
    float *y = p->y + at;
    const float mean = sum_of(y, V) / (float)V;
    const float scale = 1.0f / sqrtf(sum_squares(y, V, mean) / (float)V + p->eps);
    vf bonus = v_zero();

    for (int i = 0; i < V; i += VW)
        bonus = v_fma(v_mul(v_load_n(p->r + at + i, V - i), v_load_n(p->k + at + i, V - i)),
                      v_load_n(p->r_k + channel + i, V - i), bonus);

    const vf current = v_set(v_sum(bonus));

    apply(y, y, V, mean, scale, p->weight + channel, p->bias + channel);
    for (int i = 0; i < V; i += VW) {
        vf v = v_fma(current, v_load_n(p->v + at + i, V - i), v_load_n(y + i, V - i));

        v_store_n(y + i, v_mul(v, v_load_n(p->g + at + i, V - i)), V - i);
    }
}

static void output_unit(const void *arg, int unit, int thread)
{
    const struct head_output *p = arg;
    const size_t V = (size_t)p->V, row = (size_t)p->H * V;
    const int rows = unit_rows(p->H * p->V);

    (void)thread;
    for (int t = unit * rows; t < p->T && t < (unit + 1) * rows; t++)
        for (size_t h = 0; h < (size_t)p->H; h++)
            output_head(p, (size_t)t * row + h * V, h * V);
}

void ISA(head_output)(struct stream *q, const struct head_output *p)
{
    pool_run(q, unit_count(p->T, unit_rows(p->H * p->V)),
             (size_t)p->T * (size_t)p->H * (size_t)p->V * 4, output_unit, p);
}
