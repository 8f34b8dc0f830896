/* matrix_state.cuh - what the files of the matrix state share (definition:
 * cpu/matrix_state.c). */
#ifndef KERNELS_CUDA_MATRIX_STATE_CUH
#define KERNELS_CUDA_MATRIX_STATE_CUH

#include "kernels/cuda/state.cuh"

/* Where the vectors of one head at one token are. */
struct head_vectors {
    const float *w, *a, *b, *k, *q, *v;
};

static __device__ __forceinline__ struct head_vectors find_vectors(const struct matrix_state &p,
                                                                   int t, int head)
{
    const size_t row = (size_t)t, K = (size_t)p.K, at = (size_t)head;
    const size_t shared = (size_t)(head / (p.H / p.k_heads)) * K;

    return { p.w + row * p.w_ld + (p.w_per_head ? at : at * K),
             p.a ? p.a + row * p.ab_ld + at * K : nullptr,
             p.b ? p.b + row * p.ab_ld + at * K : nullptr,
             p.k + row * p.kq_ld + shared,
             p.q + row * p.kq_ld + shared,
             p.v + row * p.v_ld + at * (size_t)p.V };
}

static __device__ __forceinline__ float *head_state(const struct matrix_state &p,
                                                    const struct sequence &q, int head)
{
    return q.state ? q.state + (size_t)head * (size_t)p.V * (size_t)p.K : nullptr;
}

#endif
