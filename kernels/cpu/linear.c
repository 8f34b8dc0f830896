/* linear.c - the definition of a matrix product: every output is one sum over ascending
 * columns, however many rows there are.
 *
 * The outputs of a group are summed side by side, which is how the matrix is laid out; each
 * keeps its own order. */
#include "kernels/cpu/cpu.h"

#include "kernels/cpu/activation.h"
#include "kernels/cpu/pool.h"

/* Number i of x as it is multiplied. */
static float factor(const struct linear *p, size_t i)
{
    if (p->x_bf16)
        return bf16_to_f32(p->x_bf16[i]);
    return p->w->round_x ? bf16_to_f32(f32_to_bf16(p->x[i])) : p->x[i];
}

/* sum[r] = sum_j W[group * GROUP_ROWS + r, j] * x[at + j] */
static void group_product(float sum[GROUP_ROWS], const struct linear *p, int group, size_t at)
{
    const struct matrix *w = p->w;
    const size_t size = dtype_size(w->dtype), first = matrix_index(w, group * GROUP_ROWS, 0);
    const size_t lane = w->dtype == DTYPE_BF16 ? 2 : 1,
                 odd = w->dtype == DTYPE_BF16 ? 1 : GROUP_ROWS;

    for (int r = 0; r < GROUP_ROWS; r++)
        sum[r] = 0.0f;
    for (int j = 0; j < w->cols; j += 2) {
        const float even = factor(p, at + (size_t)j);
        const float next = j + 1 < w->cols ? factor(p, at + (size_t)j + 1) : 0.0f;
        float pair[2 * GROUP_ROWS];

        dtype_to_f32(pair, (char *)w->data + (first + (size_t)j * GROUP_ROWS) * size, w->dtype,
                     2 * GROUP_ROWS);
        for (size_t r = 0; r < GROUP_ROWS; r++)
            sum[r] += pair[r * lane] * even;
        if (j + 1 < w->cols)
            for (size_t r = 0; r < GROUP_ROWS; r++)
                sum[r] += pair[r * lane + odd] * next;
    }
}

/* The outputs of a group, of every row. */
static void run_group(const void *job, int group, int thread)
{
    const struct linear *p = job;
    const int row = group * GROUP_ROWS;
    const int rows = p->w->rows - row < GROUP_ROWS ? p->w->rows - row : GROUP_ROWS;

    (void)thread;
    for (int t = 0; t < p->T; t++) {
        const size_t at = (size_t)t * p->y_ld + (size_t)row;
        float sum[GROUP_ROWS];

        group_product(sum, p, group, (size_t)t * p->x_ld);
        for (int r = 0; r < rows; r++) {
            const float v = activate(p->act, sum[r] + (p->bias ? p->bias[row + r] : 0.0f));

            store_number(p->y, p->y_bf16, at + (size_t)r, p->add ? p->y[at + (size_t)r] + v : v);
        }
    }
}

void linear_plain(struct stream *q, const struct linear *p, int n)
{
    for (int i = 0; i < n; i++)
        pool_run(q, matrix_groups(p[i].w), p[i].w->bytes * (size_t)p[i].T, run_group, &p[i]);
}
