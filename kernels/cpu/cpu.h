/* cpu.h - what the files of the CPU backend share.
 *
 * Private to kernels/. The `_plain` functions are the definitions of the operations, in
 * baseline C; a table of another instruction set takes over those that need no twin. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/ops.h"

/* A packed matrix is a row of groups of GROUP panels of PANEL output rows, padded with zeros.
 * Inside a group the columns follow one another in pairs, so that a product reads one stream;
 * each column holds its elements of the group side by side, so that one vector load brings the
 * weights of many outputs for one input. Bfloat16 lies two columns to a 32-bit word, the even
 * one in the low half: either half widens by one operation. */
enum { PANEL = 16, GROUP = 4, GROUP_ROWS = GROUP * PANEL };

static inline int matrix_groups(const struct matrix *m)
{
    return m->rows / GROUP_ROWS + (m->rows % GROUP_ROWS != 0);
}

static inline int matrix_pairs(const struct matrix *m)
{
    return m->cols / 2 + m->cols % 2;
}

/* Index of an element in the packed data. */
static inline size_t matrix_index(const struct matrix *m, int row, int col)
{
    const size_t group = (size_t)(row / GROUP_ROWS), lane = (size_t)(row % GROUP_ROWS);
    const size_t pair = group * (size_t)matrix_pairs(m) + (size_t)(col / 2);
    const size_t odd = (size_t)(col % 2);

    return pair * 2 * GROUP_ROWS +
           (m->dtype == DTYPE_BF16 ? 2 * lane + odd : odd * GROUP_ROWS + lane);
}

/* Rows of a unit where each is little work: handing out a unit costs more than a short row. */
static inline int unit_rows(int dim)
{
    return dim < 6144 ? 6144 / dim : 1;
}

static inline int unit_count(int T, int rows)
{
    return (T + rows - 1) / rows;
}

/* Number i of what an operation writes: either place may be NULL (ops.h). */
static inline void store_number(float *y, uint16_t *y_bf16, size_t i, float v)
{
    if (y)
        y[i] = v;
    if (y_bf16)
        y_bf16[i] = f32_to_bf16(v);
}

extern const struct ops ops_cpu_plain, ops_cpu_avx2, ops_cpu_avx512, ops_cpu_avx512bf16;

void embed_plain(struct stream *q, const struct batch *in, float *x, const struct matrix *table);
void gather_plain(struct stream *q, const struct batch *in, float *y, const float *x, int dim);
void linear_plain(struct stream *q, const struct linear *p, int n);
void linear_split_cpu(struct stream *q, const struct linear *p, int now, int later);
void join_cpu(struct stream *q);
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

/* Of every table: made of its other operations (pool_ops()). */
void complete_rows_cpu(struct stream *q, const struct norm *p); /* what every norm begins with */
void norm_shift_cpu(struct stream *q, const struct batch *in, const struct norm_shift *p);
void scan_inputs_cpu(struct stream *q, const struct batch *in, const struct scan_inputs *p);
void dt_scan_cpu(struct stream *q, const struct batch *in, const struct dt_scan *p);
void scalar_state_cpu(struct stream *q, const struct batch *in, const struct scalar_state *p);
void delta_state_cpu(struct stream *q, const struct batch *in, const struct delta_state *p);

/* What sampling does with every logit of a row: the part that has twins. */
struct sample_loops {
    float (*largest)(const float *x, int n); /* NaN if there is a NaN or an infinity above */
    double (*sum_exp)(const float *x, int n, float max); /* of exp(x - max); max is finite */
    /* w[i] = exp((z[i] - best) / temperature) */
    void (*weigh)(float *w, const float *z, int n, float best, float temperature);
};

void sample_with(struct stream *q, const struct sample *p, const struct sample_loops *loops);

#endif
