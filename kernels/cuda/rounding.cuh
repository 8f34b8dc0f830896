/* rounding.cuh - how a GPU rounds the numbers of a state to bf16: the twin of kernels/rounding.h,
 * bit for bit. */
#ifndef KERNELS_CUDA_ROUNDING_CUH
#define KERNELS_CUDA_ROUNDING_CUH

#include <stdint.h>

static __device__ __forceinline__ uint32_t rounding_key(uint32_t position)
{
    uint32_t x = position + 0x9e3779b9u;

    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* The bits of the first two of four numbers. */
static __device__ __forceinline__ uint32_t rounding_bits(uint32_t key, uint32_t four)
{
    uint32_t x = (four ^ key) * 0x7feb352du;

    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static const uint32_t SECOND_PAIR = 0x9e3779b1u; /* times the bits of the first */

/* The number with its cut in the upper half. A NaN that a GPU made has all bits of the upper half
 * set but the sign's: cutting it is enough. */
static __device__ __forceinline__ uint32_t add_below_the_cut(float x, uint32_t bits)
{
    const uint32_t u = __float_as_uint(x);

    return fabsf(x) < __uint_as_float(0x7f7f0000u) ? u + bits : u;
}

static __device__ __forceinline__ uint32_t round_pair(float x, float y, uint32_t bits)
{
    return __byte_perm(add_below_the_cut(x, bits & 0xffffu), add_below_the_cut(y, bits >> 16),
                       0x7632);
}

/* Numbers of a record from `place` on, a multiple of 4 or 2, as they lie in memory. */
static __device__ __forceinline__ uint2 round4(float4 x, uint32_t key, uint32_t place)
{
    const uint32_t bits = rounding_bits(key, place / 4);

    return make_uint2(round_pair(x.x, x.y, bits), round_pair(x.z, x.w, bits * SECOND_PAIR));
}

static __device__ __forceinline__ uint32_t round2(float2 x, uint32_t key, uint32_t place)
{
    const uint32_t bits = rounding_bits(key, place / 4);

    return round_pair(x.x, x.y, place % 4 ? bits * SECOND_PAIR : bits);
}

#endif
