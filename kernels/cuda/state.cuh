/* state.cuh - what the operators that keep a state share: the sequences as kernels see them,
 * and runs of floats that are moved in one access where their addresses allow it. */
#ifndef KERNELS_CUDA_STATE_CUH
#define KERNELS_CUDA_STATE_CUH

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
