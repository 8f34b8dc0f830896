/* activation.cuh - the scalar nonlinearities on the device: the twins of cpu/activation.h. */
#ifndef KERNELS_CUDA_ACTIVATION_CUH
#define KERNELS_CUDA_ACTIVATION_CUH

#include "kernels/cuda/cuda.cuh"

static __device__ __forceinline__ float sigmoid(float x)
{
    return __fdividef(1.0f, 1.0f + __expf(-x));
}

static __device__ __forceinline__ float silu(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

/* x silu(z) */
static __device__ __forceinline__ float gated(float x, float z)
{
    return __fdividef(x * z, 1.0f + __expf(-z));
}

/* log(1 + exp(x)); torch returns x itself above 20. */
static __device__ __forceinline__ float softplus(float x)
{
    return x > 20.0f ? x : log1pf(__expf(x));
}

static __device__ __forceinline__ float activate(enum activation act, float x)
{
    switch (act) {
    case ACT_SILU:
        return silu(x);
    case ACT_SIGMOID:
        return sigmoid(x);
    case ACT_TANH:
        return tanhf(x);
    case ACT_RELU2:
        return x < 0.0f ? 0.0f : x * x; /* a NaN stays one */
    case ACT_SOFTPLUS:
        return softplus(x);
    case ACT_NONE:
        break;
    }
    return x;
}

#endif
