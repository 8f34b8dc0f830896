/* gates.cuh - the scalar functions of the gates on the device (definition: cpu/gates.c). */
#ifndef KERNELS_CUDA_GATES_CUH
#define KERNELS_CUDA_GATES_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/reduce.cuh"

/* Mamba-2: the step size of a head, and how much of its state stays. */
struct step {
    float dt, decay;
};

static __device__ __forceinline__ struct step step_of(const struct decay_gates &g, float raw,
                                                      float bias, float A)
{
    const float dt = softplus(raw + bias), held = dt < g.lo ? g.lo : dt > g.hi ? g.hi : dt;

    return { held, expf(held * A) };
}

/* RWKV-7, of a head whose lanes have a part of the sum of squares each. */
static __device__ __forceinline__ float inverse_length(float square)
{
    return fminf(rsqrtf(warp_sum(square)), 1e12f);
}

static __device__ __forceinline__ float decay_of(float w)
{
    return fast_exp2(-0.875038775f * sigmoid(w)); /* -exp(-1/2) log2(e) */
}

static __device__ __forceinline__ float replacing(float k, float a, float k_a)
{
    return k * (1.0f + (a - 1.0f) * k_a);
}

#endif
