/* fused.cu - the fused operations where no kernel of their own takes them: their parts. */
#include "kernels/cuda/cuda.cuh"

void norm_linear_cuda(struct stream *q, const struct norm_linear *p)
{
    norm_cuda(q, &p->norm);
    linear_cuda(q, p->p, p->n);
}

void dt_scan_cuda(struct stream *q, const struct batch *in, const struct dt_scan *p)
{
    linear_cuda(q, &p->dt, 1);
    diagonal_scan_cuda(q, in, &p->scan);
}

void scalar_state_cuda(struct stream *q, const struct batch *in, const struct scalar_state *p)
{
    decay_gates_cuda(q, &p->gates);
    matrix_state_cuda(q, in, &p->state);
}
