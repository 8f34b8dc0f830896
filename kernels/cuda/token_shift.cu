/* token_shift.cu - the token shift of RWKV (definition: cpu/mix.c).
 *
 * A thread owns N channels. In decode it walks the rows of one sequence; in longer batches it
 * takes a few rows of whatever sequence they belong to, and the one with a sequence's first
 * row, the only one that reads the state, also moves it. */
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/token_shift.cuh"

enum { THREADS = 128, ROWS = 4 };

template <int N>
static __global__ void __launch_bounds__(THREADS)
    shift_sequences(const struct token_shift p, const struct device_batch in)
{
    const int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N;

    let_next_start();
    if (c >= p.dim)
        return;

    const mixes<N, SHIFT_MAX> m = load_mixes<N, SHIFT_MAX>(p, c);

    wait_for_inputs();

    const struct sequence q = load_sequence(in, p.state, (int)blockIdx.x);
    floats<N> before = {};

    if (q.state)
        before = load<N>(q.state + c);
    for (int t = q.begin; t < q.end; t++) {
        const size_t at = (size_t)t * (size_t)p.dim + (size_t)c;
        const floats<N> x = load<N>(p.x + at);

        mix_row(p, m, x, before, at);
        before = x;
    }
    if (q.state && q.end > q.begin)
        store<N>(q.state + c, before);
}

/* What came before the first row of sequence s, whose state then becomes its last row. */
template <int N>
static __device__ __forceinline__ floats<N> move_state(const struct token_shift &p,
                                                       const struct device_batch &in, int s, int c)
{
    const struct sequence q = load_sequence(in, p.state, s);
    floats<N> before = {};

    if (q.state) {
        before = load<N>(q.state + c);
        store<N>(q.state + c, load<N>(p.x + (size_t)(q.end - 1) * (size_t)p.dim + (size_t)c));
    }
    return before;
}

template <int N>
static __global__ void __launch_bounds__(THREADS)
    shift_rows(const struct token_shift p, const struct device_batch in, int T)
{
    const int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N, first = (int)blockIdx.x * ROWS;

    let_next_start();
    if (c >= p.dim)
        return;

    const mixes<N, SHIFT_MAX> m = load_mixes<N, SHIFT_MAX>(p, c);
    floats<N> before = {};

    wait_for_inputs();
    if (first > 0)
        before = load<N>(p.x + (size_t)(first - 1) * (size_t)p.dim + (size_t)c);
    for (int t = first; t < first + ROWS && t < T; t++) {
        const size_t at = (size_t)t * (size_t)p.dim + (size_t)c;
        const floats<N> x = load<N>(p.x + at);
        const int s = in.row_seq[t];

        if (in.begin[s] == t)
            before = move_state<N>(p, in, s, c);
        mix_row(p, m, x, before, at);
        before = x;
    }
}

template <int N>
static void shift(struct stream *q, const struct batch *in, const struct token_shift *p)
{
    const unsigned columns = (unsigned)ceil_div(p->dim, THREADS * N);

    if (in->T == in->S)
        launch(q, "token_shift", shift_sequences<N>, dim3((unsigned)in->S, columns), THREADS, 0, *p,
               q->in);
    else
        launch(q, "token_shift", shift_rows<N>, dim3((unsigned)ceil_div(in->T, ROWS), columns),
               THREADS, 0, *p, q->in, in->T);
}

void token_shift_cuda(struct stream *q, const struct batch *in, const struct token_shift *p)
{
    if (run_parts(q, p, false, token_shift_cuda))
        return;

    if ((off_grid(p->x, (size_t)p->dim) | shift_off_grid(p)) == 0)
        shift<4>(q, in, p);
    else
        shift<1>(q, in, p);
}
