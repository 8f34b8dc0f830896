/* fused.c - the definitions of the fused operations: their parts, as this stream's table has
 * them. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pool.h"

void linear_split_cpu(struct stream *q, const struct linear *p, int now, int later)
{
    pool_ops(q)->linear(q, p, now + later);
}

void join_cpu(struct stream *q)
{
    (void)q;
}

void complete_rows_cpu(struct stream *q, const struct norm *p)
{
    if (p->added)
        pool_ops(q)->linear(q, p->added, 1);
}

void norm_shift_cpu(struct stream *q, const struct batch *in, const struct norm_shift *p)
{
    pool_ops(q)->norm(q, &p->norm);
    pool_ops(q)->token_shift(q, in, &p->shift);
}

void scan_inputs_cpu(struct stream *q, const struct batch *in, const struct scan_inputs *p)
{
    pool_ops(q)->linear(q, p->in, 2);
    pool_ops(q)->short_conv(q, in, &p->conv);
    pool_ops(q)->linear(q, &p->product, 1);
}

void dt_scan_cpu(struct stream *q, const struct batch *in, const struct dt_scan *p)
{
    pool_ops(q)->linear(q, &p->dt, 1);
    pool_ops(q)->diagonal_scan(q, in, &p->scan);
}

void scalar_state_cpu(struct stream *q, const struct batch *in, const struct scalar_state *p)
{
    pool_ops(q)->decay_gates(q, &p->gates);
    pool_ops(q)->matrix_state(q, in, &p->state);
}

void delta_state_cpu(struct stream *q, const struct batch *in, const struct delta_state *p)
{
    if (p->v.n)
        pool_ops(q)->lerp(q, &p->v);
    pool_ops(q)->delta_gates(q, &p->gates);
    pool_ops(q)->matrix_state(q, in, &p->state);
    pool_ops(q)->head_output(q, &p->out);
}
