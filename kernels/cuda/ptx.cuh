/* ptx.cuh - the machine's instructions that CUDA C++ has no name for, as functions.
 *
 * The tensor cores' fragments are those of PTX's mma.m16n8k16: with g = lane / 4 and
 * c = lane % 4, A holds rows g and g + 8 in columns 2c, 2c + 1, 2c + 8 and 2c + 9, B holds
 * column g in rows 2c, 2c + 1, 2c + 8, 2c + 9, and the sums rows g and g + 8 in columns 2c and
 * 2c + 1. */
#ifndef KERNELS_CUDA_PTX_CUH
#define KERNELS_CUDA_PTX_CUH

#include <stdint.h>

/* 2^x within 2 units in the last place; subnormal results are zero. */
static __device__ __forceinline__ float fast_exp2(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / x within a unit in the last place; subnormal numbers count as zero. */
static __device__ __forceinline__ float fast_reciprocal(float x)
{
    float y;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Copies to shared memory that go on by themselves: BYTES is 4, 8 or 16 and both sides
 * are aligned to it. copies_commit() closes a group; copies_wait<N>() waits until at most the N
 * newest groups of this thread are under way. */
template <int BYTES>
static __device__ __forceinline__ void copy_async(void *shared, const void *global)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);

    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES)
                     : "memory");
}

/* The first `bytes` of 16, and zeros. */
static __device__ __forceinline__ void copy_async_part(void *shared, const void *global, int bytes)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void copies_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* sum += A B for 16-bit floats of the bf16 kind, two to a register. */
static __device__ __forceinline__ void mma_bf16(float (&sum)[4], const unsigned (&a)[4],
                                                unsigned b0, unsigned b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory; threads 8i to 8i + 7 give the
 * addresses of the rows of matrix i. Thread l gets elements 2 (l % 4) and the next of row
 * l / 4, or with TRANSPOSED of column l / 4. */
template <bool TRANSPOSED>
static __device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void *row)
{
    const unsigned at = (unsigned)__cvta_generic_to_shared(row);

    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

/* How many of `all` had arrived before; the last one leaves zero. What those wrote before, this
 * thread or one that it shared a barrier with, is seen after. */
static __device__ __forceinline__ unsigned arrive_in_turn(unsigned *count, unsigned all)
{
    unsigned before;

    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(count), "r"(all - 1)
                 : "memory");
    return before;
}

/* Two floats as bf16, rounded to nearest, x in the lower half. */
static __device__ __forceinline__ unsigned pack_bf16(float x, float y)
{
    unsigned r;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(y), "f"(x));
    return r;
}

#endif
