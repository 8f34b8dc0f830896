/* fused.cu - the fused operations where no kernel of their own takes them: their parts. */
#include "kernels/cuda/cuda.cuh"

void norm_linear_cuda(struct stream *q, const struct norm_linear *p)
{
    norm_cuda(q, &p->norm);
    linear_cuda(q, p->p, p->n);
}
