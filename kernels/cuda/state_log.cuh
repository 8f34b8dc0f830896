/* state_log.cuh - the log of a state, as kernels see it (ops.h, state_log).
 *
 * A log has room for LOG_STEPS - 1 entries, one behind the other. An entry has what a token
 * brings: to a matrix state, of all heads, k [k_heads * K], v [H * V], scaled, with a delta term a
 * and b [H * K] each, then w [H * K], or [H] if it is per head; to a diagonal one dt log2(e) and
 * dt x [dim] each, and B [N].
 *
 * The idea is that of vLLM's ReplaySSM and, for RWKV-7, of Albatross. */
#ifndef KERNELS_CUDA_STATE_LOG_CUH
#define KERNELS_CUDA_STATE_LOG_CUH

#include "kernels/cuda/state.cuh"

/* Of 2, 3, 4, 6 and 8 it is 3 and 4 that make steps of Mamba-2 shortest, 2 and 3 those of RWKV-7,
 * whose states have more to compute with each entry (RESULTS.md). */
enum { LOG_STEPS = 3 };

/* The sizes of a matrix state's log. */
struct log_shape {
    int H, V, K, k_heads;
    bool w_per_head, delta;
};

static __host__ __device__ __forceinline__ struct log_shape shape_of(const struct matrix_state &p)
{
    return { p.H, p.V, p.K, p.k_heads, p.w_per_head, p.a != nullptr };
}

static __host__ __device__ __forceinline__ size_t log_entry_numbers(const struct log_shape &s)
{
    const int of_keys = s.H * s.K;
    const int n =
        s.k_heads * s.K + s.H * s.V + (s.delta ? 2 * of_keys : 0) + (s.w_per_head ? s.H : of_keys);

    return (size_t)(n + 15) / 16 * 16;
}

/* Where the vectors of one head are in an entry. */
struct log_entry {
    float *k, *v, *a, *b, *w;
};

static __device__ __forceinline__ struct log_entry find_entry(const struct log_shape &s, float *log,
                                                              int entry, int head)
{
    float *k = log + (size_t)entry * log_entry_numbers(s), *v = k + s.k_heads * s.K;
    float *a = v + s.H * s.V, *b = a + s.H * s.K;

    return { k + head / (s.H / s.k_heads) * s.K, v + head * s.V, a + head * s.K, b + head * s.K,
             (s.delta ? b + s.H * s.K : a) + (s.w_per_head ? head : head * s.K) };
}

static __host__ __device__ __forceinline__ size_t scan_entry_numbers(int dim, int N)
{
    return (size_t)(2 * dim + N + 15) / 16 * 16;
}

/* Where the parts of an entry of a diagonal state are. */
struct scan_entry {
    float *time, *add, *B; /* dt log2(e), dt x */
};

static __device__ __forceinline__ struct scan_entry find_scan_entry(int dim, int N, float *log,
                                                                    int entry)
{
    float *time = log + (size_t)entry * scan_entry_numbers(dim, N);

    return { time, time + dim, time + 2 * dim };
}

/* The log of a sequence of one row. */
struct kept_log {
    float *at;   /* NULL: it has none */
    int count;   /* steps in it, which the state has yet to take in */
    bool writes; /* this step writes the state; else it becomes entry `count` */
};

static __device__ __forceinline__ struct kept_log find_log(const struct field &state, int slot,
                                                           int logged)
{
    if (!state.log || slot == SLOT_NONE || logged < 0)
        return { nullptr, 0, slot != SLOT_NONE };
    return { state.log + (size_t)slot * state.stride, logged, logged + 1 == LOG_STEPS };
}

static __device__ __forceinline__ struct kept_log load_log(const struct device_batch &in,
                                                           const struct field &state, int s)
{
    return find_log(state, in.slot[s], in.logged[s]);
}

/* state_log.cu's: the numbers of a layer's log, 0 for states that it keeps none of; brings the
 * logs of the sequences of several rows into their states; and backend.h's settle(), on a stream
 * of the caller's. */
size_t log_numbers_cuda(const struct state_log *log);
void settle_matrices(struct stream *q, const struct batch *in, const struct matrix_state *p);
void settle_scans(struct stream *q, const struct batch *in, const struct diagonal_scan *p);
void settle_slot(struct stream *q, cudaStream_t on, const struct state_log *log, int slot,
                 int logged);

#endif
