/* rows.c - operations that only fetch rows: token embeddings, and the rows whose logits are
 * wanted. Nothing is rounded: a narrow element widens exactly. */
#include "kernels/cpu/cpu.h"

#include <string.h>

/* A row of a packed matrix is one lane of its panel: PANEL elements apart. */
static void widen_row(float *x, const struct matrix *m, int row)
{
    const size_t first = matrix_index(m, row, 0);
    const float *f32 = m->data;
    const uint16_t *half = m->data;

    for (int j = 0; j < m->cols; j++) {
        size_t i = first + (size_t)j * PANEL;

        x[j] = m->dtype == DTYPE_F32   ? f32[i]
               : m->dtype == DTYPE_F16 ? f16_to_f32(half[i])
                                       : bf16_to_f32(half[i]);
    }
}

void embed_plain(struct stream *q, const struct batch *in, float *x, const struct matrix *table)
{
    (void)q;
    for (int t = 0; t < in->T; t++)
        widen_row(x + (size_t)t * (size_t)table->cols, table, in->token[t]);
}

void gather_plain(struct stream *q, float *y, const float *x, const int *rows, int n, int dim)
{
    (void)q;
    for (int i = 0; i < n; i++)
        memcpy(y + (size_t)i * (size_t)dim, x + (size_t)rows[i] * (size_t)dim,
               (size_t)dim * sizeof(*y));
}
