/* rows.c - operations that only fetch rows: token embeddings, and the rows whose logits are
 * wanted. Nothing is rounded: a narrow element widens exactly. */
#include "kernels/cpu/cpu.h"

#include <string.h>

#include "kernels/cpu/pool.h"

static void widen_row(float *x, const struct matrix *m, int row)
{
    const float *f32 = m->data;
    const uint16_t *half = m->data;

    for (int j = 0; j < m->cols; j++) {
        const size_t i = matrix_index(m, row, j);

        x[j] = m->dtype == DTYPE_F32   ? f32[i]
               : m->dtype == DTYPE_F16 ? f16_to_f32(half[i])
                                       : bf16_to_f32(half[i]);
    }
}

struct embed_job {
    const struct batch *in;
    const struct matrix *table;
    float *x;
};

static void embed_row(const void *arg, int t, int thread)
{
    const struct embed_job *job = arg;

    (void)thread;
    widen_row(job->x + (size_t)t * (size_t)job->table->cols, job->table, job->in->token[t]);
}

void embed_plain(struct stream *q, const struct batch *in, float *x, const struct matrix *table)
{
    const struct embed_job job = { in, table, x };

    pool_run(q, in->T, (size_t)in->T * (size_t)table->cols * 4, embed_row, &job);
}

void gather_plain(struct stream *q, const struct batch *in, float *y, const float *x, int dim)
{
    (void)q;
    for (int i = 0; i < in->L; i++)
        memcpy(y + (size_t)i * (size_t)dim, x + (size_t)in->logit_row[i] * (size_t)dim,
               (size_t)dim * sizeof(*y));
}
