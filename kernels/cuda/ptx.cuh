/* ptx.cuh - the machine's instructions that CUDA C++ has no name for, as functions.
 *
 * The tensor cores' fragments are those of PTX's mma.m16n8k16: with g = lane / 4 and
 * c = lane % 4, A holds rows g and g + 8 in columns 2c, 2c + 1, 2c + 8 and 2c + 9, B holds
 * column g in rows 2c, 2c + 1, 2c + 8, 2c + 9, and the sums rows g and g + 8 in columns 2c and
 * 2c + 1. */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <stdint.h>

/* 2^x and log2(x) within 2 and 1 units in the last place; subnormal results are zero. */
static __device__ __forceinline__ float fast_exp2(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ float fast_log2(float x)
{
    float y;

    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Copies to shared memory that go on by themselves: BYTES is 4 or 16 and both sides are
 * aligned to it. copies_commit() closes a group; copies_wait<N>() waits until at most the N
 * newest groups of this thread are under way. */
template <int BYTES>
static __device__ __forceinline__ void copy_async(void *shared, const void *global)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);

    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(global) : "memory");
}

static __device__ __forceinline__ void copies_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
