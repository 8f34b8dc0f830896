/* matrix_state_segments.cu - which long sequences a batch has, found on the device: the host
 * knows no more of a batch than its sizes, which say all of one sequence. */
#include "kernels/cuda/matrix_state.cuh"

enum { THREADS = 256 };

/* The sum over the threads before this one; `total` becomes the sum over all. */
static __device__ int sum_before(int x, int *total)
{
    __shared__ int sums[THREADS];
    const int i = (int)threadIdx.x;

    sums[i] = x;
    __syncthreads();
    for (int d = 1; d < THREADS; d *= 2) {
        const int add = i >= d ? sums[i - d] : 0;

        __syncthreads();
        sums[i] += add;
        __syncthreads();
    }
    *total = sums[THREADS - 1];

    const int before = sums[i] - x;

    __syncthreads();
    return before;
}

static __global__ void __launch_bounds__(THREADS)
    find_segments(const struct device_batch in, int S, int length, int longest, int *count,
                  struct segment *at)
{
    int found = 0;

    let_next_start();
    wait_for_inputs();
    for (int base = 0; base < S; base += THREADS) {
        const int s = base + (int)threadIdx.x;
        const int begin = s < S ? in.begin[s] : 0, rows = s < S ? in.begin[s + 1] - begin : 0;
        const int own = rows > longest ? (rows + length - 1) / length : 0;
        int total;
        const int first = found + sum_before(own, &total);

        for (int i = 0; i < own; i++) {
            const int left = rows - i * length;

            at[first + i] = { s, begin + i * length, left < length ? left : length, i,
                              i == own - 1 };
        }
        found += total;
    }
    if (threadIdx.x == 0)
        *count = found;
}

struct segment_list list_segments(struct stream *q, const struct batch *in, void *memory,
                                  int length, int longest)
{
    int *count = (int *)memory;
    struct segment *at = (struct segment *)((char *)memory + 256);

    if (in->S == 1)
        return { nullptr, nullptr, in->T, length };
    launch(q, "matrix_state", find_segments, 1, THREADS, 0, q->in, in->S, length, longest, count,
           at);
    return { count, at, 0, length };
}
