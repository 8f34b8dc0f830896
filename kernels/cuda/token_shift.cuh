/* token_shift.cuh - what the token shifts share, alone and behind a norm (definition:
 * cpu/mix.c). A thread owns N channels. */
#ifndef KERNELS_CUDA_TOKEN_SHIFT_CUH
#define KERNELS_CUDA_TOKEN_SHIFT_CUH

#include "kernels/cuda/state.cuh"

/* The first MOST mixes, or all if there are fewer. */
template <int N, int MOST> struct mixes {
    floats<N> mu[MOST];
};

template <int N, int MOST>
static __device__ __forceinline__ mixes<N, MOST> load_mixes(const struct token_shift &p, int c)
{
    mixes<N, MOST> m;

#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (i < p.n)
            m.mu[i] = load<N>(p.mu[i] + c);
    return m;
}

/* Of row x, which `before` precedes: the numbers from `at` on. */
template <int N, int MOST>
static __device__ __forceinline__ void mix_row(const struct token_shift &p, const mixes<N, MOST> &m,
                                               const floats<N> &x, const floats<N> &before,
                                               size_t at)
{
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        if (i < p.n) {
            floats<N> y;

            for (int j = 0; j < N; j++)
                y.v[j] = x.v[j] + (before.v[j] - x.v[j]) * m.mu[i].v[j];
            store_numbers<N>(p.y[i], p.y_bf16[i], at, y);
        }
    }
}

/* Whether all rows and constants but x are on the grid, see off_grid(). */
static inline uintptr_t shift_off_grid(const struct token_shift *p)
{
    uintptr_t off = off_grid(p->state);

    for (int i = 0; i < p->n; i++)
        off |= off_grid(p->y[i], (size_t)p->dim) | off_grid(p->y_bf16[i], (size_t)p->dim) |
               off_grid(p->mu[i], 0);
    return off;
}

#endif
