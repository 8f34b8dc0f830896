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

/* The paths. Those that take several products take up to GROUP_MAX of one T and dtype, as one
 * launch, if each of them can be taken. */
enum { GROUP_MAX = 8 };

enum { SKINNY_ROWS = 4 };

/* One row of a narrow dtype and not too many columns. */
bool linear_single_can(const struct linear *p);
void linear_single(struct stream *q, const struct linear *p, int n);

/* A few rows of any dtype, as many as x has room for in shared memory: SKINNY_ROWS at most. */
int linear_skinny_rows(const struct linear *p);
void linear_skinny(struct stream *q, const struct linear *p, int n);

/* Up to WIDE_ROWS rows of a narrow dtype, on a Hopper. */
enum { WIDE_ROWS = 256 };

bool linear_wide_can(const struct stream *q, const struct linear *p);
void linear_wide(struct stream *q, const struct linear *p, int n);

/* One product of any size by cuBLASLt, the algorithm timed once for each shape and range of T
 * and kept in q->plans. */
void linear_lt(struct stream *q, const struct linear *p);

/* The rows of x of several products as narrow numbers in the workspace, tight rows of
 * matrix_ld() each with zeros at the end. */
struct narrow {
    void *to;
    const float *x;
    size_t x_ld;
    int cols, ld;
    bool aligned; /* x can be read 16 bytes at a time */
};

struct narrow_group {
    int T, n;
    struct narrow m[GROUP_MAX]; /* the distinct ones */
    void *of[GROUP_MAX];        /* of each product */
};

enum { WORKSPACE_ALIGNMENT = 256 };

/* Enqueues it for n products of equal T and narrow dtype. The first `reserved` bytes of the
 * workspace are the caller's. false, with the fault noted, without room. */
bool narrow_x(struct stream *q, struct narrow_group *g, const struct linear *p, int n,
              size_t reserved);

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

template <typename E> static __device__ __forceinline__ float2 widen_pair(uint32_t pair)
{
    E h[2];

    memcpy(h, &pair, sizeof(pair));
    return { (float)h[0], (float)h[1] };
}

/* 16 bytes, or zeros where there is no row: one predicated load, as a branch around it would
 * make every warp wait for it where the ways meet. */
static __device__ __forceinline__ uint4 load_weights(const void *p, bool there)
{
    uint4 v = { 0, 0, 0, 0 };

    asm volatile("{.reg .pred there; setp.ne.u32 there, %5, 0;\n"
                 "@there ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];}"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "l"(p), "r"((uint32_t)there));
    return v;
}

/* The product of a group that this block works on. */
template <typename G> static __device__ __forceinline__ const auto &product_of(const G &g)
{
    int i = 0;

    while (i + 1 < g.n && (int)blockIdx.x >= g.p[i + 1].first_block)
        i++;
    return g.p[i];
}

/* The sum of a row of the matrix of product p with row t of x becomes, or is added to, its y. */
template <typename P>
static __device__ __forceinline__ void finish(const P &p, int t, int row, float v)
{
    float *y = p.y + (size_t)t * p.y_ld + row;

    v = activate(p.act, v + (p.bias ? p.bias[row] : 0.0f));
    *y = p.add ? *y + v : v;
}

#endif
