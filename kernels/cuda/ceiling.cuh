/* ceiling.cuh - what the device could do, measured; as ceiling() of struct backend. */
#ifndef KERNELS_CUDA_CEILING_CUH
#define KERNELS_CUDA_CEILING_CUH

#include "kernels/cuda/cuda.cuh"

double ceiling_cuda(struct stream *q, enum ceiling which);

#endif
