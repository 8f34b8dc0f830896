/* state.cuh - what the operators that keep a state share: the sequences as kernels see them,
 * and runs of floats that are moved in one access where their addresses allow it. */
#ifndef KERNELS_CUDA_STATE_CUH
#define KERNELS_CUDA_STATE_CUH

#include <cuda_bf16.h>

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/rounding.cuh"

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
    return state.bf16 ? off_grid(state.bf16, state.stride) : off_grid(state.base, state.stride);
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

/* The state of one sequence, or a part of it, as it is kept: float32, or narrow, as bf16. Kernels
 * of decode know which when they are compiled; where a state is read and written once in many
 * tokens, they ask. */
struct kept_state {
    void *at;       /* NULL: it is padding, and begins from zeros */
    uint32_t key;   /* rounding.cuh's; if narrow */
    uint32_t place; /* of its first number in the record; the same */

    __device__ __forceinline__ struct kept_state from(bool narrow, size_t number) const
    {
        const size_t bytes = number * (narrow ? sizeof(uint16_t) : sizeof(float));

        return { at ? (char *)at + bytes : nullptr, key, place + (uint32_t)number };
    }
};

static __host__ __device__ __forceinline__ bool is_narrow(const struct field &state)
{
    return state.bf16 != nullptr;
}

/* In this slot, after so many tokens. */
static __device__ __forceinline__ struct kept_state
find_kept(const struct field &state, bool narrow, int slot, uint32_t position)
{
    const size_t first = (size_t)slot * state.stride;
    struct kept_state kept = {};

    if (slot == SLOT_NONE)
        return kept;
    kept.at = narrow ? (void *)(state.bf16 + first) : (void *)(state.base + first);
    if (narrow) {
        kept.key = rounding_key(position);
        kept.place = state.place;
    }
    return kept;
}

static __device__ __forceinline__ struct kept_state
load_kept(const struct device_batch &in, const struct field &state, bool narrow, int s)
{
    const uint32_t rows = narrow ? (uint32_t)(in.begin[s + 1] - in.begin[s]) : 0;

    return find_kept(state, narrow, in.slot[s], narrow ? in.position[s] + rows : 0);
}

static __device__ __forceinline__ float4 widen(uint2 x)
{
    return make_float4(__uint_as_float(x.x << 16), __uint_as_float(x.x & 0xffff0000u),
                       __uint_as_float(x.y << 16), __uint_as_float(x.y & 0xffff0000u));
}

/* Numbers i to i + 3 of a state that is there, in one access if ALIGNED; none is met again soon. */
template <bool ALIGNED>
static __device__ __forceinline__ float4 load_kept4(const kept_state &s, bool narrow, size_t i)
{
    if (!narrow) {
        const float *p = (const float *)s.at + i;

        return ALIGNED ? __ldcs((const float4 *)p) : load4<false>(p);
    }

    const uint16_t *p = (const uint16_t *)s.at + i;

    return widen(ALIGNED ? __ldcs((const uint2 *)p)
                         : make_uint2(p[0] | (uint32_t)p[1] << 16, p[2] | (uint32_t)p[3] << 16));
}

/* place + i is a multiple of 4. */
template <bool ALIGNED>
static __device__ __forceinline__ void store_kept4(const kept_state &s, bool narrow, size_t i,
                                                   float4 x)
{
    if (!narrow) {
        float *p = (float *)s.at + i;

        if (ALIGNED)
            __stcs((float4 *)p, x);
        else
            store4<false>(p, x);
        return;
    }

    const uint2 r = round4(x, s.key, s.place + (uint32_t)i);
    uint16_t *p = (uint16_t *)s.at + i;

    if (ALIGNED) {
        __stcs((uint2 *)p, r);
    } else {
        p[0] = (uint16_t)r.x;
        p[1] = (uint16_t)(r.x >> 16);
        p[2] = (uint16_t)r.y;
        p[3] = (uint16_t)(r.y >> 16);
    }
}

/* Numbers i and i + 1 of one that is on the grid, i and the place being even. */
static __device__ __forceinline__ float2 load_kept2(const kept_state &s, bool narrow, size_t i)
{
    if (!narrow)
        return *(const float2 *)((const float *)s.at + i);

    const uint32_t x = *(const uint32_t *)((const uint16_t *)s.at + i);

    return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}

static __device__ __forceinline__ void store_kept2(const kept_state &s, bool narrow, size_t i,
                                                   float2 x)
{
    if (narrow)
        *(uint32_t *)((uint16_t *)s.at + i) = round2(x, s.key, s.place + (uint32_t)i);
    else
        *(float2 *)((float *)s.at + i) = x;
}

/* One number. */
static __device__ __forceinline__ float load_kept1(const kept_state &s, bool narrow, size_t i)
{
    return narrow ? __uint_as_float((uint32_t)((const uint16_t *)s.at)[i] << 16)
                  : ((const float *)s.at)[i];
}

static __device__ __forceinline__ void store_kept1(const kept_state &s, bool narrow, size_t i,
                                                   float x)
{
    const uint32_t place = s.place + (uint32_t)i;

    if (narrow)
        ((uint16_t *)s.at)[i] =
            (uint16_t)(round2(make_float2(x, x), s.key, place & ~1u) >> (place % 2 ? 16 : 0));
    else
        ((float *)s.at)[i] = x;
}

static inline int ceil_div(int a, int b)
{
    return (a + b - 1) / b;
}

#endif
