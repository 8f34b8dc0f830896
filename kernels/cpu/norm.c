/* norm.c - the definitions of the norms: RMS, layer and gated, each over equal parts of a
 * row. */
#include "kernels/cpu/cpu.h"

#include <math.h>

#include "kernels/cpu/activation.h"

static float mean_of(const float *x, int n)
{
    float sum = 0.0f;

    for (int i = 0; i < n; i++)
        sum += x[i];
    return sum / (float)n;
}

static float mean_square(const float *x, int n, float mean)
{
    float sum = 0.0f;

    for (int i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum / (float)n;
}

void norm_plain(struct stream *q, const struct norm *p)
{
    const int n = p->dim / p->groups;

    complete_rows_cpu(q, p);
    for (int t = 0; t < p->T; t++) {
        for (int first = 0; first < p->dim; first += n) {
            const float *x = p->x + (size_t)t * p->x_ld + first;
            const size_t at = (size_t)t * p->y_ld + (size_t)first;
            float mean = p->kind == NORM_LAYER ? mean_of(x, n) : 0.0f;
            float scale = 1.0f / sqrtf(mean_square(x, n, mean) + p->eps);

            for (int i = 0; i < n; i++)
                store_number(p->y, p->y_bf16, at + (size_t)i,
                             (x[i] - mean) * scale * (p->weight ? p->weight[first + i] : 1.0f) +
                                 (p->bias ? p->bias[first + i] : 0.0f));
        }
    }
}

static float gated(float x, float z)
{
    return x * silu(z);
}

void gated_norm_plain(struct stream *q, const struct gated_norm *p)
{
    const int n = p->dim / p->groups;

    (void)q;
    for (int t = 0; t < p->T; t++) {
        for (int first = 0; first < p->dim; first += n) {
            const float *x = p->x + (size_t)t * p->x_ld + first;
            const float *z = p->z + (size_t)t * p->z_ld + first;
            const size_t at = (size_t)t * p->y_ld + (size_t)first;
            float scale = 1.0f, sum = 0.0f;

            for (int i = 0; p->weight && i < n; i++)
                sum += gated(x[i], z[i]) * gated(x[i], z[i]);
            if (p->weight)
                scale = 1.0f / sqrtf(sum / (float)n + p->eps);
            for (int i = 0; i < n; i++)
                store_number(p->y, p->y_bf16, at + (size_t)i,
                             gated(x[i], z[i]) * scale * (p->weight ? p->weight[first + i] : 1.0f));
        }
    }
}
