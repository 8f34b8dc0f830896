/* short_conv.cuh - a convolution of width 4 as the kernels see it that multiply what comes of it at
 * once. */
#ifndef KERNELS_CUDA_SHORT_CONV_CUH
#define KERNELS_CUDA_SHORT_CONV_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/state.cuh"

enum { WIDTH = 4 };

/* 16 bytes, or zeros if they are not there, not kept near: one predicated load that no branch waits
 * for (linear.cuh). */
static __device__ __forceinline__ float4 load_far(const float *p, bool there)
{
    float4 v = { 0, 0, 0, 0 };

    asm volatile("{.reg .pred there; setp.ne.u32 there, %5, 0;\n"
                 "@there ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];}"
                 : "+f"(v.x), "+f"(v.y), "+f"(v.z), "+f"(v.w)
                 : "l"(p), "r"((uint32_t)there));
    return v;
}

/* The weights of four channels, a channel's in each. */
struct taps {
    float4 of[4];
    float4 bias;
};

static __device__ __forceinline__ float4 load_bias(const float *bias, int c)
{
    return bias ? *(const float4 *)(bias + c) : float4{ 0, 0, 0, 0 };
}

static __device__ __forceinline__ struct taps load_taps(const struct short_conv &p, int c)
{
    struct taps w;

#pragma unroll
    for (int i = 0; i < 4; i++)
        w.of[i] = *(const float4 *)(p.weight + (size_t)(c + i) * WIDTH);
    w.bias = load_bias(p.bias, c);
    return w;
}

/* One channel's, as short_conv.cu has it. */
static __device__ __forceinline__ float convolve(float4 w, float bias, float a, float b, float c,
                                                 float d)
{
    return silu(w.w * d + (w.z * c + (w.y * b + (w.x * a + 0.0f))) + bias);
}

#endif
