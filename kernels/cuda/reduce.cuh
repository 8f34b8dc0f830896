/* reduce.cuh - sums over a warp and over a block, in an order that depends on the number of
 * threads only. */
#ifndef KERNELS_CUDA_REDUCE_CUH
#define KERNELS_CUDA_REDUCE_CUH

enum { WARP = 32, WARPS_MAX = 32 };

/* In every lane. */
template <typename T> static __device__ __forceinline__ T warp_sum(T x)
{
    for (int distance = WARP / 2; distance; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

/* In every thread of a block of whole warps. shared: WARPS_MAX of T, free again at the next
 * barrier. */
template <typename T> static __device__ __forceinline__ T block_sum(T x, T *shared)
{
    const int warps = (int)blockDim.x / WARP, lane = (int)threadIdx.x % WARP;

    x = warp_sum(x);
    if (warps == 1)
        return x;
    if (lane == 0)
        shared[threadIdx.x / WARP] = x;
    __syncthreads();
    x = lane < warps ? shared[lane] : T(0);
    return warp_sum(x);
}

#endif
