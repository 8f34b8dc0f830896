/* short_conv.cu - the short causal convolution of Mamba (definition: cpu/mix.c).
 *
 * A thread owns N channels. A decode step of width 4, which every published model has, walks
 * the rows of one sequence with the window in registers. Anything else is two launches: the
 * outputs, each from the inputs it meets, and then the states. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/state.cuh"

enum { THREADS = 128, ROWS = 8, WIDTH = 4 };

/* One output of N channels: of the sum over the taps, bias and activation. */
template <int N>
static __device__ __forceinline__ void finish(const struct short_conv &p, const floats<N> &bias,
                                              floats<N> sum, int t, int c)
{
    for (int j = 0; j < N; j++) {
        const float y = sum.v[j] + bias.v[j];

        sum.v[j] = p.silu ? silu(y) : y;
    }
    store_numbers<N>(p.y, p.y_bf16, (size_t)t * p.y_ld + (size_t)c, sum);
}

template <int N>
static __device__ __forceinline__ floats<N> load_bias(const struct short_conv &p, int c)
{
    return p.bias ? load<N>(p.bias + c) : floats<N>{};
}

/* The weights of N channels, tap by tap. */
template <int N> struct taps {
    floats<N> v[WIDTH];
};

template <int N>
static __device__ __forceinline__ taps<N> load_taps(const struct short_conv &p, int c)
{
    taps<N> w;

    for (int j = 0; j < N; j++) {
        const float4 row = load4<(N == 4)>(p.weight + (size_t)(c + j) * WIDTH);

        w.v[0].v[j] = row.x;
        w.v[1].v[j] = row.y;
        w.v[2].v[j] = row.z;
        w.v[3].v[j] = row.w;
    }
    return w;
}

/* The sequence is read before the wait with its state (cuda.cuh). */
template <int N>
static __global__ void __launch_bounds__(THREADS)
    conv_sequences(const struct short_conv p, const struct device_batch in)
{
    const int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N;

    let_next_start();
    if (c >= p.dim)
        return;

    const struct sequence q = load_sequence(in, p.state, (int)blockIdx.x);
    taps<N> x = {};

    for (int i = 0; i < WIDTH - 1; i++)
        if (q.state)
            x.v[i] = load<N>(q.state + (size_t)i * (size_t)p.dim + (size_t)c);

    const taps<N> w = load_taps<N>(p, c);
    const floats<N> bias = load_bias<N>(p, c);

    wait_for_inputs();
    for (int t = q.begin; t < q.end; t++) {
        floats<N> sum = {};

        x.v[WIDTH - 1] = load<N>(p.x + (size_t)t * p.x_ld + (size_t)c);
        for (int i = 0; i < WIDTH; i++)
            for (int j = 0; j < N; j++)
                sum.v[j] += w.v[i].v[j] * x.v[i].v[j];
        finish<N>(p, bias, sum, t, c);
        for (int i = 0; i < WIDTH - 1; i++)
            x.v[i] = x.v[i + 1];
    }
    for (int i = 0; i < WIDTH - 1; i++)
        if (q.state)
            store<N>(q.state + (size_t)i * (size_t)p.dim + (size_t)c, x.v[i]);
}

/* Where input `row` of a sequence is, counted from its first; the state holds those before. NULL:
 * it is zeros. */
static __device__ __forceinline__ const float *place_of(const struct short_conv &p,
                                                        const struct sequence &q, int row, int c)
{
    const float *const state = q.state + (size_t)(p.W - 1 + row) * (size_t)p.dim + (size_t)c;
    const float *const x = p.x + (size_t)(q.begin + row) * p.x_ld + (size_t)c;

    return row >= 0 ? x : q.state ? state : nullptr;
}

/* Chosen by its address: a load in a branch would be waited for where the ways meet. */
template <int N> static __device__ __forceinline__ floats<N> load_if(const float *p)
{
    return p ? load<N>(p) : floats<N>{};
}

template <int N>
static __device__ __forceinline__ floats<N> input(const struct short_conv &p,
                                                  const struct sequence &q, int row, int c)
{
    return load_if<N>(place_of(p, q, row, c));
}

/* What the rows of a sequence leave in its state. A row that moves within it is read before another
 * is written over it. */
template <int N>
static __device__ __forceinline__ void move_state(const struct short_conv &p,
                                                  const struct sequence &q, int c)
{
    const int rows = q.end - q.begin;

    if (!q.state)
        return;
    for (int first = 0; first < p.W - 1; first += WIDTH - 1) {
        floats<N> x[WIDTH - 1];

#pragma unroll
        for (int i = 0; i < WIDTH - 1; i++)
            if (first + i < p.W - 1)
                x[i] = input<N>(p, q, rows - p.W + 1 + first + i, c);
#pragma unroll
        for (int i = 0; i < WIDTH - 1; i++)
            if (first + i < p.W - 1)
                store<N>(q.state + (size_t)(first + i) * (size_t)p.dim + (size_t)c, x[i]);
    }
}

template <int N>
static __global__ void __launch_bounds__(THREADS)
    conv_rows(const struct short_conv p, const struct device_batch in, int T)
{
    const int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N, first = (int)blockIdx.x * ROWS;

    let_next_start();
    if (c >= p.dim)
        return;

    const floats<N> bias = load_bias<N>(p, c);

    wait_for_inputs();
    for (int t = first; t < first + ROWS && t < T; t++) {
        const struct sequence q = load_sequence(in, p.state, in.row_seq[t]);
        floats<N> sum = {};

        for (int i = 0; i < p.W; i++) {
            const floats<N> x = input<N>(p, q, t - q.begin - p.W + 1 + i, c);

            for (int j = 0; j < N; j++)
                sum.v[j] += p.weight[(size_t)(c + j) * (size_t)p.W + (size_t)i] * x.v[j];
        }
        finish<N>(p, bias, sum, t, c);
    }
}

/* Up to ROWS rows of one sequence, all of whose inputs are on their way at once; or ROWS of its
 * MIDDLE, none of whose inputs is in the state. */
template <int N, bool MIDDLE>
static __device__ __forceinline__ void
conv_within(const struct short_conv &p, const struct sequence &q, const taps<N> &w,
            const floats<N> &bias, int first, int rows, int c)
{
    floats<N> x[ROWS + WIDTH - 1];

#pragma unroll
    for (int i = 0; i < ROWS + WIDTH - 1; i++)
        x[i] = MIDDLE ? load<N>(p.x + (size_t)(first - WIDTH + 1 + i) * p.x_ld + (size_t)c)
               : i < rows + WIDTH - 1 ? input<N>(p, q, first - q.begin - WIDTH + 1 + i, c)
                                      : floats<N>{};
#pragma unroll
    for (int t = 0; t < ROWS; t++) {
        floats<N> sum = {};

#pragma unroll
        for (int i = 0; i < WIDTH; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                sum.v[j] += w.v[i].v[j] * x[t + i].v[j];
        if (MIDDLE || t < rows)
            finish<N>(p, bias, sum, first + t, c);
    }
}

/* As conv_rows() for width 4, with weights and window in registers. If the batch is one sequence,
 * none but the first block reads its state, which it then moves on. */
template <int N>
static __global__ void __launch_bounds__(THREADS)
    conv_rows_4(const struct short_conv p, const struct device_batch in, int T, bool one)
{
    const int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N, first = (int)blockIdx.x * ROWS;

    let_next_start();
    if (c >= p.dim)
        return;

    const taps<N> w = load_taps<N>(p, c);
    const floats<N> bias = load_bias<N>(p, c);
    const struct sequence own = load_sequence(in, p.state, in.row_seq[first]);
    taps<N> x = {};
    int now = -1;

    const int end = min(first + ROWS, T);

    wait_for_inputs();
    if (own.begin + WIDTH - 1 <= first && first + ROWS <= own.end) {
        conv_within<N, true>(p, own, w, bias, first, ROWS, c);
        return;
    }
    if (end <= own.end)
        conv_within<N, false>(p, own, w, bias, first, end - first, c);
    /* Those of several sequences, one after another. */
    for (int t = end <= own.end ? end : first; t < end; t++) {
        const int s = in.row_seq[t];
        floats<N> sum = {};

        if (s != now) {
            const struct sequence q = load_sequence(in, p.state, s);

            for (int i = 0; i < WIDTH - 1; i++)
                x.v[i] = input<N>(p, q, t - q.begin - WIDTH + 1 + i, c);
            now = s;
        }
        x.v[WIDTH - 1] = load<N>(p.x + (size_t)t * p.x_ld + (size_t)c);
        for (int i = 0; i < WIDTH; i++)
            for (int j = 0; j < N; j++)
                sum.v[j] += w.v[i].v[j] * x.v[i].v[j];
        finish<N>(p, bias, sum, t, c);
        for (int i = 0; i < WIDTH - 1; i++)
            x.v[i] = x.v[i + 1];
    }
    if (one && first == 0)
        move_state<N>(p, load_sequence(in, p.state, 0), c);
}

template <int N>
static __global__ void __launch_bounds__(THREADS)
    move_states(const struct short_conv p, const struct device_batch in)
{
    const int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N;

    let_next_start();
    if (c >= p.dim)
        return;
    wait_for_inputs();

    move_state<N>(p, load_sequence(in, p.state, (int)blockIdx.x), c);
}

template <int N>
static void conv(struct stream *q, const struct batch *in, const struct short_conv *p)
{
    const unsigned columns = (unsigned)ceil_div(p->dim, THREADS * N);
    const dim3 sequences((unsigned)in->S, columns);
    const dim3 rows((unsigned)ceil_div(in->T, ROWS), columns);

    if (in->T == in->S && p->W == WIDTH) {
        launch(q, "short_conv", conv_sequences<N>, sequences, THREADS, 0, *p, q->in);
        return;
    }
    if (p->W == WIDTH)
        launch(q, "short_conv", conv_rows_4<N>, rows, THREADS, 0, *p, q->in, in->T, in->S == 1);
    else
        launch(q, "short_conv", conv_rows<N>, rows, THREADS, 0, *p, q->in, in->T);
    if (p->W != WIDTH || in->S > 1)
        launch(q, "short_conv", move_states<N>, sequences, THREADS, 0, *p, q->in);
}

void short_conv_cuda(struct stream *q, const struct batch *in, const struct short_conv *p)
{
    if (run_parts(q, p, false, short_conv_cuda))
        return;

    const uintptr_t off = off_grid(p->x, p->x_ld) | off_grid(p->y, p->y_ld) |
                          off_grid(p->y_bf16, p->y_ld) | off_grid(p->bias, (size_t)p->dim) |
                          off_grid(p->weight, 0) | off_grid(p->state);

    if (off == 0)
        conv<4>(q, in, p);
    else
        conv<1>(q, in, p);
}
