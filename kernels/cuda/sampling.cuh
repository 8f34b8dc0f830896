/* sampling.cuh - what sample_cuda() leaves to be done when the stream has been waited for, and to
 * the batch that follows.
 *
 * Private to kernels/cuda/. Results arrive in pinned memory of the stream's own. */
#ifndef KERNELS_CUDA_SAMPLING_CUH
#define KERNELS_CUDA_SAMPLING_CUH

#include "kernels/cuda/cuda.cuh"

/* Hands the results of every sample_cuda() in front of the mark to whoever asked; after the
 * stream was waited for up to there. */
void sampling_deliver(struct stream *q, uint64_t mark);
/* Device memory: what each row of the last sample_cuda() drew, or -1 where that is held.
 * NULL: there was no room for it. */
const int32_t *sampling_drawn(const struct stream *q);
void sampling_finish(struct stream *q); /* takes a stream that never sampled */

#endif
