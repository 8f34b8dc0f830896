/* moments.cuh - mean and spread of numbers that lie in the registers of a block, in one go: those
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

/* Of the block's warps, which have those of `size` numbers each. shared: one for each warp, free
 * again at the next barrier. */
static __device__ __forceinline__ moments join_warps(moments m, float size, moments *shared)
{
    const int warps = (int)blockDim.x / WARP;
    moments all = {};

    if (threadIdx.x % WARP == 0)
        shared[threadIdx.x / WARP] = m;
    __syncthreads();
    for (int i = 0; i < warps; i++)
        all.mean += shared[i].mean;
    all.mean /= (float)warps;
    for (int i = 0; i < warps; i++) {
        const float apart = shared[i].mean - all.mean;

        all.square += shared[i].square + size * apart * apart;
    }
    return all;
}

#endif
