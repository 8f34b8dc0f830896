/* cpu.h - what the files of the CPU backend share.
 *
 * Private to kernels/. The `_plain` functions are the definitions of the operations, in
 * baseline C; a table of another instruction set takes over those that need no twin. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/ops.h"

/* A packed matrix is a row of panels of PANEL output rows. Inside a panel the columns follow
 * one another and each holds its PANEL elements side by side, so that one vector load brings
 * the weights of PANEL outputs for one input. The last panel is padded with zeros. */
enum { PANEL = 16 };

static inline int matrix_panels(const struct matrix *m)
{
    return (m->rows + PANEL - 1) / PANEL;
}

/* Index of an element in the packed data. */
static inline size_t matrix_index(const struct matrix *m, int row, int col)
{
    size_t panel = (size_t)(row / PANEL);

    return (panel * (size_t)m->cols + (size_t)col) * PANEL + (size_t)(row % PANEL);
}

extern const struct ops ops_cpu_plain, ops_cpu_avx2, ops_cpu_avx512;

void embed_plain(struct stream *q, const struct batch *in, float *x, const struct matrix *table);
void gather_plain(struct stream *q, const struct batch *in, float *y, const float *x, int dim);
void linear_plain(struct stream *q, const struct linear *p, int n);
void norm_plain(struct stream *q, const struct norm *p);
void gated_norm_plain(struct stream *q, const struct gated_norm *p);
void lerp_plain(struct stream *q, const struct lerp *p);
void token_shift_plain(struct stream *q, const struct batch *in, const struct token_shift *p);
void short_conv_plain(struct stream *q, const struct batch *in, const struct short_conv *p);
void diagonal_scan_plain(struct stream *q, const struct batch *in, const struct diagonal_scan *p);
void decay_gates_plain(struct stream *q, const struct decay_gates *p);
void delta_gates_plain(struct stream *q, const struct delta_gates *p);
void matrix_state_plain(struct stream *q, const struct batch *in, const struct matrix_state *p);
void head_output_plain(struct stream *q, const struct head_output *p);
void sample_plain(struct stream *q, const struct sample *p);

/* What sampling does with every logit of a row: the part that has twins. */
struct sample_loops {
    float (*largest)(const float *x, int n); /* NaN if there is a NaN or an infinity above */
    double (*sum_exp)(const float *x, int n, float max); /* of exp(x - max); max is finite */
};

void sample_with(struct stream *q, const struct sample *p, const struct sample_loops *loops);

#endif
