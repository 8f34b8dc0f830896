/* sampling.cuh - what sample_cuda() leaves to be done when the stream has been waited for.
 *
 * Private to kernels/cuda/. Results arrive in pinned memory of the stream's own. */
#ifndef KERNELS_CUDA_SAMPLING_CUH
#define KERNELS_CUDA_SAMPLING_CUH

#include "kernels/cuda/cuda.cuh"

/* Hands the results of every sample_cuda() since the last call to whoever asked; after the
 * stream was synchronised. */
void sampling_deliver(struct stream *q);
void sampling_finish(struct stream *q); /* takes a stream that never sampled */

#endif
