/* linear.cuh - what the files linear*.cu share: the layout of a weight and the paths.
 *
 * A weight is row-major, its rows padded with zeros to a multiple of 128 bytes: every path
 * reads whole aligned lines, and no path needs another layout than the next. */
#ifndef KERNELS_CUDA_LINEAR_CUH
#define KERNELS_CUDA_LINEAR_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda.cuh"

enum { MATRIX_LINE = 128 /* bytes */ };

/* Elements from one row to the next. */
static inline int matrix_ld(enum dtype dtype, int cols)
{
    const int line = MATRIX_LINE / (int)dtype_size(dtype);

    return (cols + line - 1) / line * line;
}

/* The paths. Few rows: SKINNY_ROWS at most, up to GROUP_MAX products of one T and dtype as one
 * launch. */
enum { SKINNY_ROWS = 8, GROUP_MAX = 8 };

void linear_skinny(struct stream *q, const struct linear *p, int n);

/* One product of any size by cuBLASLt, the algorithm timed once for each shape and range of T
 * and kept in q->plans. */
void linear_lt(struct stream *q, const struct linear *p);

/* Two numbers rounded to E, the first in the low half. A float beyond the range of a half
 * becomes infinite. */
template <typename E> static __device__ __forceinline__ uint32_t narrow_pair(float a, float b);

template <> __device__ __forceinline__ uint32_t narrow_pair<__nv_bfloat16>(float a, float b)
{
    uint32_t pair;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}

template <> __device__ __forceinline__ uint32_t narrow_pair<__half>(float a, float b)
{
    uint32_t pair;

    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}

#endif
