/* matrix_state_delta.cuh - long sequences of a matrix state with a decay per column and a delta
 * term, on the tensor cores (RWKV-7's chunked form; the algebra is that of arXiv 2412.06464,
 * section 3, for a full vector of decays).
 *
 * A chunk of 16 rows is one step. With P[t] the product of the decays up to row t counted from
 * row 7, where it is 1 (before it P is a reciprocal), so that neither P nor 1 / P leaves the
 * range of a float as long as no decay is below 2^-15 (a smaller one counts as that):
 *
 *   b' = b[t] * P[t - 1]   q' = q[t] * P[t]   k' = k[t] / P[t]   a' = a[t] / P[t]
 *   S  = S0 * P[-1]^-1                                   by columns, as all that follows
 *   R  = (I - tril(b' a'^T, -1))^-1       G = tril(q' a'^T) R       E = tril(b' k'^T, -1)
 *   U  = (R b') S^T + (R E) V
 *   Y  = (q' + G b') S^T + (tril(q' k'^T) + G E) V
 *   S1 = (S + V^T k' + U^T a') * P[15]
 *
 * All but S is found for every chunk at the same time, and lies in memory as the tensor cores
 * take it; then blocks for some rows of a state, which never meet the others, go through the
 * chunks in order: two short products each. */
#ifndef KERNELS_CUDA_MATRIX_STATE_DELTA_CUH
#define KERNELS_CUDA_MATRIX_STATE_DELTA_CUH

#include "kernels/cuda/matrix_state.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/split.cuh"

enum {
    THREADS = 128,
    CHUNK = 16,
    K = 64,        /* V too */
    SLABS = K / 16 /* of 16 rows of a state or of 16 columns */
};

/* What a chunk does to the state of a head, as the lanes of a warp take it. */
enum { LEFT = 0, QUERY = 2, KEY = 4, DELTA = 6, BY_COLUMN = 8 }; /* R b', q' + G b', k', a' */
enum { VALUE = 0, BY_ROW = 2 };                                  /* V */
enum { TO_U = 0, TO_Y = 2, BY_TOKEN = 4 };                       /* R E, tril(q' k'^T) + G E */

struct factors {
    uint4 columns[SLABS][BY_COLUMN][WARP]; /* each as upper and lower parts */
    uint4 rows[SLABS][BY_ROW][WARP];
    uint4 tokens[BY_TOKEN][WARP];
    float enter[K], leave[K]; /* 1 / P[-1], P[15] */
};

/* The workspace of one wave: `count` places for the chunks from `first` on. */
struct delta_wave {
    struct segment_list list; /* the long sequences, each as a whole */
    int first, count;
    struct factors *factors; /* [count, H] */
    float *bonus;            /* [T, H]: head_output's, of rows with gates */
    float *from, *to;        /* [H, K, K]: what the waves before and after have of a sequence */
};

/* The place of chunk 0 of the list's sequence i: no two chunks share a place. */
static __device__ __forceinline__ int first_place(const struct segment &s, int i)
{
    return s.begin / CHUNK + i;
}

static __device__ __forceinline__ float2 load_pair(const float *p)
{
    return *(const float2 *)p;
}

/* Two neighbouring tiles of sums as a left factor. */
static __device__ __forceinline__ split_left as_left(const float (&x)[4], const float (&y)[4])
{
    split_left a;

    set_left(a, 0, x[0], x[1]);
    set_left(a, 1, x[2], x[3]);
    set_left(a, 2, y[0], y[1]);
    set_left(a, 3, y[2], y[3]);
    return a;
}

/* Fills w.factors. With `gates` from what is in front of them, v becoming what the way out of
 * the state takes, and w.bonus; else p.state is all there is. */
void launch_factors(struct stream *q, const struct delta_state *p, const struct delta_wave &w,
                    bool gates);

#endif
