/* parts.cuh - steps that take in prompts beside sequences of one row each, which most are while a
 * server is busy.
 *
 * An operation that keeps a state does such a step in two parts: the sequences of one row with
 * which it begins as it does a decode step, and what is behind them as a batch of its own, where a
 * lone prompt is the one sequence that long ones have forms for. Products have all rows at once. */
#ifndef KERNELS_CUDA_PARTS_CUH
#define KERNELS_CUDA_PARTS_CUH

#include "kernels/cuda/cuda.cuh"

template <typename T> static T *row_of(T *p, size_t ld, int row)
{
    return p ? p + (size_t)row * ld : NULL;
}

/* The same operation on `rows` rows from `first` on; of most the batch says how many. */
static inline struct linear rows_of(struct linear p, int first, int rows)
{
    p.y = row_of(p.y, p.y_ld, first);
    p.y_bf16 = row_of(p.y_bf16, p.y_ld, first);
    p.x = row_of(p.x, p.x_ld, first);
    p.x_bf16 = row_of(p.x_bf16, p.x_ld, first);
    p.T = rows;
    return p;
}

static inline struct token_shift rows_of(struct token_shift p, int first, int)
{
    const size_t dim = (size_t)p.dim;

    for (int i = 0; i < p.n; i++) {
        p.y[i] = row_of(p.y[i], dim, first);
        p.y_bf16[i] = row_of(p.y_bf16[i], dim, first);
    }
    p.x = row_of(p.x, dim, first);
    return p;
}

static inline struct short_conv rows_of(struct short_conv p, int first, int)
{
    p.y = row_of(p.y, p.y_ld, first);
    p.y_bf16 = row_of(p.y_bf16, p.y_ld, first);
    p.x = row_of(p.x, p.x_ld, first);
    return p;
}

static inline struct diagonal_scan rows_of(struct diagonal_scan p, int first, int)
{
    p.y = row_of(p.y, p.y_ld, first);
    p.y_bf16 = row_of(p.y_bf16, p.y_ld, first);
    p.x = row_of(p.x, p.x_ld, first);
    p.dt = row_of(p.dt, p.dt_ld, first);
    p.z = row_of(p.z, p.z_ld, first);
    p.B = row_of(p.B, p.bc_ld, first);
    p.C = row_of(p.C, p.bc_ld, first);
    return p;
}

static inline struct dt_scan rows_of(struct dt_scan p, int first, int rows)
{
    p.dt = rows_of(p.dt, first, rows);
    p.scan = rows_of(p.scan, first, rows);
    return p;
}

static inline struct matrix_state rows_of(struct matrix_state p, int first, int)
{
    p.y = row_of(p.y, p.y_ld, first);
    p.w = row_of(p.w, p.w_ld, first);
    p.a = row_of(p.a, p.ab_ld, first);
    p.b = row_of(p.b, p.ab_ld, first);
    p.k = row_of(p.k, p.kq_ld, first);
    p.q = row_of(p.q, p.kq_ld, first);
    p.v = row_of(p.v, p.v_ld, first);
    p.v_scale = row_of(p.v_scale, p.w_ld, first);
    return p;
}

static inline struct decay_gates rows_of(struct decay_gates p, int first, int rows)
{
    p.dt = row_of(p.dt, (size_t)p.H, first);
    p.decay = row_of(p.decay, (size_t)p.H, first);
    p.raw = row_of(p.raw, p.raw_ld, first);
    p.T = rows;
    return p;
}

static inline struct scalar_state rows_of(struct scalar_state p, int first, int rows)
{
    p.gates = rows_of(p.gates, first, rows);
    p.state = rows_of(p.state, first, rows);
    return p;
}

static inline struct delta_gates rows_of(struct delta_gates p, int first, int rows)
{
    const size_t ld = (size_t)p.H * (size_t)p.K;

    p.decay = row_of(p.decay, ld, first);
    p.a_out = row_of(p.a_out, ld, first);
    p.b = row_of(p.b, ld, first);
    p.k = row_of(p.k, ld, first);
    p.w = row_of(p.w, ld, first);
    p.a = row_of(p.a, ld, first);
    p.T = rows;
    return p;
}

static inline struct head_output rows_of(struct head_output p, int first, int rows)
{
    const size_t ld = (size_t)p.H * (size_t)p.V;

    p.y = row_of(p.y, ld, first);
    p.y_bf16 = row_of(p.y_bf16, ld, first);
    p.r = row_of(p.r, ld, first);
    p.k = row_of(p.k, ld, first);
    p.v = row_of(p.v, ld, first);
    p.g = row_of(p.g, ld, first);
    p.T = rows;
    return p;
}

static inline struct delta_state rows_of(struct delta_state p, int first, int rows)
{
    const size_t ld = p.v.n / (size_t)p.gates.T;

    p.v.y = row_of(p.v.y, ld, first);
    p.v.target = row_of(p.v.target, ld, first);
    p.v.mix = row_of(p.v.mix, ld, first);
    p.v.n = ld * (size_t)rows;
    p.gates = rows_of(p.gates, first, rows);
    p.state = rows_of(p.state, first, rows);
    p.out = rows_of(p.out, first, rows);
    return p;
}

/* Enqueues both parts of this step, if it has two; those of what takes long `beside` each other. */
template <typename P>
static bool run_parts(struct stream *q, const P *p, bool beside,
                      void (*op)(struct stream *, const struct batch *, const P *))
{
    const struct step_part rest = q->rest;
    const struct device_batch whole = q->in;
    const bool settles = q->settles;
    const struct batch ones = { .S = rest.first, .T = rest.first };

    if (!rest.in.S)
        return false;
    q->rest = {};
    q->in = rest.at;
    if (beside) {
        branch_fork(q);
        branch_begin(q);
    }
    P own = rows_of(*p, rest.first, rest.in.T);
    op(q, &rest.in, &own);
    if (beside)
        branch_end(q);
    q->in = whole;
    q->row_each = true;
    q->settles = false;
    own = rows_of(*p, 0, ones.T);
    op(q, &ones, &own);
    q->row_each = false;
    q->settles = settles;
    q->rest = rest;
    if (beside)
        join_cuda(q);
    return true;
}

#endif
