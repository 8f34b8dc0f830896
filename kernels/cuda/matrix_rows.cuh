/* matrix_rows.cuh - rows of a matrix state in registers, and what a token does to them.
 *
 * Of the K columns of a row a thread has two runs of four: K / 8 neighbouring threads share a row.
 * Whether a step is written at once or waits in a log (state_log.cuh) must not be seen in a
 * number: every kernel that takes a token into a state that may have one does it by
 * advanced(), with sums u of dot() and sum_rows(). */
#ifndef KERNELS_CUDA_MATRIX_ROWS_CUH
#define KERNELS_CUDA_MATRIX_ROWS_CUH

#include "kernels/cuda/matrix_state.cuh"

/* A thread's columns of a row: from 4 * lane and K / 2 + 4 * lane. */
struct columns {
    float v[8];
};

template <int K, bool ALIGNED>
static __device__ __forceinline__ columns load_columns(const float *p, int lane)
{
    const float4 lo = load4<ALIGNED>(p + 4 * lane), hi = load4<ALIGNED>(p + K / 2 + 4 * lane);

    return { { lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w } };
}

/* The same of row `row` of a state. */
template <int K, bool ALIGNED>
static __device__ __forceinline__ columns load_row(const kept_state &s, bool narrow, int row,
                                                   int lane)
{
    const size_t at = (size_t)(row * K + 4 * lane);
    const float4 lo = load_kept4<ALIGNED>(s, narrow, at);
    const float4 hi = load_kept4<ALIGNED>(s, narrow, at + K / 2);

    return { { lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w } };
}

template <int K, bool ALIGNED>
static __device__ __forceinline__ void store_row(const kept_state &s, bool narrow, int row,
                                                 int lane, const columns &x)
{
    const size_t at = (size_t)(row * K + 4 * lane);

    store_kept4<ALIGNED>(s, narrow, at, make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
    store_kept4<ALIGNED>(s, narrow, at + K / 2, make_float4(x.v[4], x.v[5], x.v[6], x.v[7]));
}

static __device__ __forceinline__ float advanced(float state, float w, float v, float k)
{
    return __fmaf_rn(state, w, __fmul_rn(v, k));
}

static __device__ __forceinline__ float advanced(float state, float w, float v, float k, float u,
                                                 float a)
{
    return __fmaf_rn(state, w, __fmaf_rn(u, a, __fmul_rn(v, k)));
}

static __device__ __forceinline__ float dot(const columns &x, const columns &y)
{
    float even = 0.0f, odd = 0.0f;

#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        even = __fmaf_rn(x.v[j], y.v[j], even);
        odd = __fmaf_rn(x.v[j + 1], y.v[j + 1], odd);
    }
    return even + odd;
}

/* Sums over the LANES threads of a row, in every one of them. */
template <int LANES, int ROWS> static __device__ __forceinline__ void sum_rows(float (&x)[ROWS])
{
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            x[r] += __shfl_xor_sync(0xffffffffu, x[r], d);
}

/* A token's vectors as a state takes them, a thread's columns. */
struct step_columns {
    columns w, k, a, b; /* w: one value in all if it is per head */
};

template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED>
static __device__ __forceinline__ step_columns load_step(const float *k, const float *a,
                                                         const float *b, const float *w, int lane)
{
    step_columns c;

    c.k = load_columns<K, ALIGNED>(k, lane);
    if (PER_HEAD)
        for (int j = 0; j < 8; j++)
            c.w.v[j] = *w;
    else
        c.w = load_columns<K, ALIGNED>(w, lane);
    if (DELTA) {
        c.a = load_columns<K, ALIGNED>(a, lane);
        c.b = load_columns<K, ALIGNED>(b, lane);
    }
    return c;
}

/* ROWS rows of a state, of scaled values v, take a token in. */
template <int LANES, bool DELTA, int ROWS>
static __device__ __forceinline__ void take_in(columns (&S)[ROWS], const step_columns &c,
                                               const float (&v)[ROWS])
{
    float u[ROWS] = {};

    if constexpr (DELTA) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            u[r] = dot(S[r], c.b);
        sum_rows<LANES>(u);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < 8; j++)
            S[r].v[j] = DELTA ? advanced(S[r].v[j], c.w.v[j], v[r], c.k.v[j], u[r], c.a.v[j])
                              : advanced(S[r].v[j], c.w.v[j], v[r], c.k.v[j]);
}

#endif
