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

/* The state of one head of sequence s. */
static __device__ __forceinline__ struct kept_state head_state(const struct matrix_state &p,
                                                               const struct device_batch &in,
                                                               bool narrow, int s, int head)
{
    return load_kept(in, p.state, narrow, s).from(narrow, (size_t)head * (size_t)p.V * (size_t)p.K);
}

/* Long sequences as they are listed on the device: Mamba-2's in segments that are worked on at the
 * same time, RWKV-7's as one each. */
struct segment {
    int seq, begin, rows;
    int index; /* among those of its sequence */
    bool last;
};

struct segment_list {
    const int *count;
    const struct segment *at; /* NULL: the batch is one sequence of `rows` */
    int rows, length;
};

static __device__ __forceinline__ int segment_count(const struct segment_list &l)
{
    return l.at ? *l.count : (l.rows + l.length - 1) / l.length;
}

static __device__ __forceinline__ struct segment segment_of(const struct segment_list &l, int i)
{
    const int begin = i * l.length, left = l.rows - begin;

    if (l.at)
        return l.at[i];
    return { 0, begin, left < l.length ? left : l.length, i, left <= l.length };
}

/* How many segments of `length` rows a batch can have whose sequences of more than `longest`
 * rows are cut. */
static inline int most_segments(const struct batch *in, int length, int longest)
{
    const int sequences = in->T / (longest + 1);

    return in->T / length + (sequences < in->S ? sequences : in->S);
}

static inline size_t segment_list_bytes(int most)
{
    return 256 + (size_t)most * sizeof(struct segment);
}

/* Fills memory of segment_list_bytes(), aligned to 256 bytes, in order of sequences and rows. */
struct segment_list list_segments(struct stream *q, const struct batch *in, void *memory,
                                  int length, int longest);

/* The forms for long sequences. Each takes those of more rows than what it returns, which is
 * INT_MAX if the operation's sizes are not its own or no sequence is that long. */
int matrix_state_scalar(struct stream *q, const struct batch *in, const struct matrix_state *p);
int matrix_state_delta(struct stream *q, const struct batch *in, const struct matrix_state *p);

/* All of it for one long sequence, whose parts read each other's rows and whose arrays are on the
 * grid, see off_grid(); false if it is not, and nothing is done. */
bool matrix_state_gated(struct stream *q, const struct batch *in, const struct delta_state *p);

/* head_output of heads of 64 on the grid, with the bonuses [T, H] found already. */
void head_output_with(struct stream *q, const struct head_output *p, const float *bonus);

#endif
