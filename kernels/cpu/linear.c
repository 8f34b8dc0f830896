/* linear.c - the definition of a matrix product: every output is one sum over ascending
 * columns, however many rows there are.
 *
 * A panel's PANEL outputs are summed side by side, which is how the matrix is laid out; each
 * keeps its own order. */
#include "kernels/cpu/cpu.h"

#include "kernels/cpu/activation.h"
#include "kernels/cpu/pool.h"

/* sum[r] = sum_j W[panel * PANEL + r, j] * x[j] */
static void panel_product(float sum[PANEL], const struct matrix *w, int panel, const float *x)
{
    const size_t first = matrix_index(w, panel * PANEL, 0);

    for (int r = 0; r < PANEL; r++)
        sum[r] = 0.0f;
    for (int j = 0; j < w->cols; j++) {
        float column[PANEL];

        dtype_to_f32(column, (char *)w->data + (first + (size_t)j * PANEL) * dtype_size(w->dtype),
                     w->dtype, PANEL);
        for (int r = 0; r < PANEL; r++)
            sum[r] += column[r] * x[j];
    }
}

/* PANEL outputs of every row. */
static void run_panel(const void *job, int panel, int thread)
{
    const struct linear *p = job;
    const int row = panel * PANEL;
    const int rows = p->w->rows - row < PANEL ? p->w->rows - row : PANEL;

    (void)thread;
    for (int t = 0; t < p->T; t++) {
        float *y = p->y + (size_t)t * p->y_ld + row, sum[PANEL];

        panel_product(sum, p->w, panel, p->x + (size_t)t * p->x_ld);
        for (int r = 0; r < rows; r++) {
            float v = activate(p->act, sum[r] + (p->bias ? p->bias[row + r] : 0.0f));

            y[r] = p->add ? y[r] + v : v;
        }
    }
}

void linear_plain(struct stream *q, const struct linear *p, int n)
{
    for (int i = 0; i < n; i++)
        pool_run(q, matrix_panels(p[i].w), p[i].w->bytes * (size_t)p[i].T, run_panel, &p[i]);
}
