/* activation.cuh - the scalar nonlinearities on the device: the twins of cpu/activation.h. */
#ifndef KERNELS_CUDA_ACTIVATION_CUH
#define KERNELS_CUDA_ACTIVATION_CUH

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ptx.cuh"

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

/* log(1 + exp(x)) = max(x, 0) + log(1 + u), u = exp(-|x|); the polynomial, log(1 + u) / u through
 * the Chebyshev nodes of [0, 1], is within 3e-7 of it. torch returns x itself above 20. */
static __device__ __forceinline__ float softplus(float x)
{
    const float u = fast_exp2(-1.44269504f * fabsf(x));
    float p = -0.00837115255f;

    p = p * u + 0.0434938998f;
    p = p * u - 0.106850029f;
    p = p * u + 0.176874767f;
    p = p * u - 0.244747742f;
    p = p * u + 0.332719284f;
    p = p * u - 0.499971745f;
    p = p * u + 0.999999781f;
    return fmaxf(x, 0.0f) + u * p;
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
