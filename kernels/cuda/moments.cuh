/* moments.cuh - mean and spread of numbers that lie in the registers of blocks, in one go: those
 * of sets of equal size are joined, which is as exact as two passes (Chan, Golub and LeVeque
 * 1983). */
#ifndef KERNELS_CUDA_MOMENTS_CUH
#define KERNELS_CUDA_MOMENTS_CUH

#include "kernels/cuda/reduce.cuh"

struct moments {
    float mean, square; /* the sum of the squares of what is off the mean */
};

/* Of a warp's lanes, which have those of `size` numbers each. */
static __device__ __forceinline__ moments join_lanes(moments m, float size)
{
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, m.mean, distance);
        const float apart = other - m.mean;

        m.square += __shfl_xor_sync(0xffffffffu, m.square, distance) + apart * apart * (size / 2);
        m.mean = (m.mean + other) / 2;
        size *= 2;
    }
    return m;
}

/* Of n sets of `size` numbers each, in every lane. */
static __device__ __forceinline__ moments join_sets(const moments *m, int n, float size)
{
    const int lane = (int)threadIdx.x % WARP;
    moments all = {};

    for (int i = lane; i < n; i += WARP)
        all.mean += m[i].mean;
    all.mean = warp_sum(all.mean) / (float)n;
    for (int i = lane; i < n; i += WARP) {
        const float apart = m[i].mean - all.mean;

        all.square += m[i].square + size * apart * apart;
    }
    all.square = warp_sum(all.square);
    return all;
}

#endif
