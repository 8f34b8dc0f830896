/* gates.cuh - the scalar functions of RWKV-7's gates on the device (definition: cpu/gates.c). */
#ifndef KERNELS_CUDA_GATES_CUH
#define KERNELS_CUDA_GATES_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/reduce.cuh"

/* Of a head whose lanes have a part of the sum of squares each. */
static __device__ __forceinline__ float inverse_length(float square)
{
    return 1.0f / fmaxf(sqrtf(warp_sum(square)), 1e-12f);
}

static __device__ __forceinline__ float decay_of(float w)
{
    return expf(-0.60653066f * sigmoid(w));
}

static __device__ __forceinline__ float replacing(float k, float a, float k_a)
{
    return k * (1.0f + (a - 1.0f) * k_a);
}

#endif
