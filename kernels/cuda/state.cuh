/* state.cuh - what the operators that keep a state share: the sequences as kernels see them,
 * and runs of floats that are moved in one access where their addresses allow it. */
#ifndef KERNELS_CUDA_STATE_CUH
#define KERNELS_CUDA_STATE_CUH

#include <cuda_bf16.h>

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ptx.cuh"

/* N floats at an address that is a multiple of their size. */
template <int N> struct alignas(4 * N) floats {
    float v[N];
};

template <int N> static __device__ __forceinline__ floats<N> load(const float *p)
{
    return *(const floats<N> *)p;
}

template <int N> static __device__ __forceinline__ void store(float *p, const floats<N> &x)
{
    *(floats<N> *)p = x;
}

/* N numbers of bf16 at an address that is a multiple of their size. */
template <int N> struct alignas(2 * N) rounded {
    __nv_bfloat16 v[N];
};

/* Numbers `at` to at + N - 1 of what an operation writes: either place may be NULL (ops.h). */
template <int N>
static __device__ __forceinline__ void store_numbers(float *y, uint16_t *y_bf16, size_t at,
                                                     const floats<N> &x)
{
    if (y)
        store<N>(y + at, x);
    if (!y_bf16)
        return;

    rounded<N> r;

    for (int i = 0; i < N; i++)
        r.v[i] = __float2bfloat16_rn(x.v[i]);
    *(rounded<N> *)(y_bf16 + at) = r;
}

/* Four floats at any address, in one access if ALIGNED says that it is a multiple of 16. */
template <bool ALIGNED> static __device__ __forceinline__ float4 load4(const float *p)
{
    return ALIGNED ? *(const float4 *)p : make_float4(p[0], p[1], p[2], p[3]);
}

template <bool ALIGNED> static __device__ __forceinline__ void store4(float *p, float4 x)
{
    if (ALIGNED) {
        *(float4 *)p = x;
    } else {
        p[0] = x.x;
        p[1] = x.y;
        p[2] = x.z;
        p[3] = x.w;
    }
}

/* Where a pointer and a distance between rows leave the 16-byte grid: 0 if nowhere. Those of
 * several arrays are joined by |. */
static inline uintptr_t off_grid(const float *p, size_t ld)
{
    return ((uintptr_t)p | ld * sizeof(*p)) % 16;
}

/* The same for four numbers of bf16, which are on a grid of 8 bytes. */
static inline uintptr_t off_grid(const uint16_t *p, size_t ld)
{
    return ((uintptr_t)p | ld * sizeof(*p)) % 8;
}

static inline uintptr_t off_grid(const struct field &state)
{
    return off_grid(state.base, state.stride);
}

/* One sequence of the batch. */
struct sequence {
    int begin, end; /* its rows */
    float *state;   /* NULL: it is padding, and begins from zeros */
};

static __device__ __forceinline__ struct sequence load_sequence(const struct device_batch &in,
                                                                const struct field &state, int s)
{
    const int begin = in.begin[s], end = in.begin[s + 1], slot = in.slot[s];
    float *base = slot == SLOT_NONE ? nullptr : state.base + (size_t)slot * state.stride;

    return { begin, end, base };
}

static inline int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

#endif
