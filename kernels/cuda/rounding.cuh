/* rounding.cuh - how a GPU rounds the numbers of a state to bf16: the twin of kernels/rounding.h,
 * bit for bit. */
#ifndef KERNELS_CUDA_ROUNDING_CUH
#define KERNELS_CUDA_ROUNDING_CUH

#include <stdint.h>

static __device__ __forceinline__ uint32_t rounding_mix(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static __device__ __forceinline__ uint32_t rounding_key(uint32_t position)
{
    return rounding_mix(position + 0x9e3779b9u);
}

/* The number with its cut in the upper half. A NaN that a GPU made has all bits of the upper half
 * set but the sign's: cutting it is enough. */
static __device__ __forceinline__ uint32_t add_below_the_cut(float x, uint32_t bits)
{
    const uint32_t u = __float_as_uint(x);

    return fabsf(x) < __uint_as_float(0x7f7f0000u) ? u + bits : u;
}

/* Numbers 2 * pair and 2 * pair + 1 of a record as they lie in memory. */
static __device__ __forceinline__ uint32_t round_pair(float x, float y, uint32_t key, uint32_t pair)
{
    const uint32_t bits = rounding_mix(pair ^ key);

    return __byte_perm(add_below_the_cut(x, bits & 0xffffu), add_below_the_cut(y, bits >> 16),
                       0x7632);
}

#endif
