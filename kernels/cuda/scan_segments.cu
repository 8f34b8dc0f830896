/* scan_segments.cu - the selective scan of Mamba over long sequences, segments of which are
 * worked on at the same time (definition: cpu/diagonal_scan.c).
 *
 * The rows of a batch are cut into segments of one length, whatever sequences they belong to.
 * What a segment does to a state that goes through it is h1 = 2^(A t) h0 + add, with t the sum
 * of its step sizes. A first launch finds t and add of every segment that a sequence goes on
 * behind; in a second, each block makes the state at its segment's beginning from those in
 * front of it, and walks through the rows once more for the outputs. What bounds them are the
 * exponentials, 2 N for each channel and row: two threads share two channels, so that a number
 * of B or C is read from shared memory once for both channels. */
#include "kernels/cuda/diagonal_scan.cuh"

#include <limits.h>

enum {
    PAIRS = 32, /* of channels, in a block */
    CHANNELS = 2 * PAIRS,
    THREADS = CHANNELS, /* two threads share a pair: each has half of the states of both */
    HALF = N / 2,
    TOKENS = 8,   /* rows of a tile */
    STAGES = 3,   /* tiles in shared memory */
    LONGEST = 64, /* rows of a sequence that is not cut */
    AHEAD = 2,    /* segments whose effects are on their way */
    BLOCKS = 8,   /* on a multiprocessor: 128 registers a thread */
    LENGTH_MIN = 32,
    LENGTH_MAX = 192
};

/* The workspace: of each segment. */
struct segments {
    float *add;   /* [segments, dim, N] */
    float *begin; /* the same: where a sequence begins that goes on, its state there */
    float *time;  /* [segments, dim] */
    int length;
    bool raw; /* dt is what a softplus makes a step size of */
};

/* TOKENS rows of a sequence in shared memory. */
struct alignas(16) tile {
    float B[TOKENS][N], C[TOKENS][N];
    float dt[TOKENS][CHANNELS], x[TOKENS][CHANNELS], z[TOKENS][CHANNELS];
};

/* What a thread has of two neighbouring channels, a and b. */
struct lane {
    float h[2][HALF], A[2][HALF]; /* A times log2(e) */
    float time[2];                /* the sums of step sizes */
    float D;                      /* of the channel that it finishes */
    int channel;                  /* that one: a of an even thread, b of an odd one */
    size_t at;                    /* of its states of a; those of b are N further */
};

static __device__ __forceinline__ bool is_long(int begin, int end)
{
    return end - begin > LONGEST;
}

/* 16 bytes of a row on their way, or zeros beyond the last row. */
static __device__ __forceinline__ void fetch_run(float *to, const float *rows, size_t ld, int t,
                                                 int stop, int column)
{
    copy_async_part(to, rows + (size_t)min(t, stop - 1) * ld + column, t < stop ? 16 : 0);
}

/* Rows [t, t + TOKENS) of the block's channels, as far as `stop`. */
template <bool OUT>
static __device__ __forceinline__ void fetch_tile(const struct diagonal_scan &p, tile &to, int t,
                                                  int stop)
{
    enum { RUNS = CHANNELS / 4, STEP = THREADS / RUNS, STATE_RUNS = N / 4 };
    const int first = (int)blockIdx.x * CHANNELS, i = (int)threadIdx.x;

    if (t >= stop)
        return;
    if (i < TOKENS * STATE_RUNS) {
        const int row = i / STATE_RUNS, c = i % STATE_RUNS * 4;

        fetch_run(&to.B[row][c], p.B, p.bc_ld, t + row, stop, c);
        if (OUT)
            fetch_run(&to.C[row][c], p.C, p.bc_ld, t + row, stop, c);
    }
#pragma unroll
    for (int k = 0; k < TOKENS; k += STEP) {
        const int row = k + i / RUNS, c = i % RUNS * 4;

        fetch_run(&to.dt[row][c], p.dt, p.dt_ld, t + row, stop, first + c);
        fetch_run(&to.x[row][c], p.x, p.x_ld, t + row, stop, first + c);
        if (OUT && p.z)
            fetch_run(&to.z[row][c], p.z, p.z_ld, t + row, stop, first + c);
    }
}

/* Step sizes of the thread's channel, none beyond the last row. */
static __device__ __forceinline__ void make_steps(tile &to, int rows)
{
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const float dt = softplus(to.dt[t][threadIdx.x]);

        to.dt[t][threadIdx.x] = t < rows ? dt : 0.0f;
    }
}

static __device__ __forceinline__ void load_half(float (&to)[HALF], const float *from)
{
    unpack(to, load4<true>(from));
    unpack(to + 4, load4<true>(from + 4));
}

static __device__ __forceinline__ void load_states(float (&h)[2][HALF], const float *from)
{
    load_half(h[0], from);
    load_half(h[1], from + N);
}

static __device__ __forceinline__ void store_states(float *to, const float (&h)[2][HALF])
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < HALF; n += 4)
            store4<true>(to + i * N + n,
                         make_float4(h[i][n], h[i][n + 1], h[i][n + 2], h[i][n + 3]));
}

/* One row of a tile; returns the sum over all states of the thread's channel, for outputs. */
template <bool OUT>
static __device__ __forceinline__ float advance_pair(struct lane &s, const tile &b, int t)
{
    const int pair = (int)threadIdx.x / 2 * 2, half = (int)threadIdx.x % 2 * HALF;
    const floats<2> dt = load<2>(&b.dt[t][pair]), x = load<2>(&b.x[t][pair]);
    float B[HALF], C[HALF], y[2] = {};

    load_half(B, &b.B[t][half]);
    if (OUT)
        load_half(C, &b.C[t][half]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float dx = dt.v[i] * x.v[i];
        float sum[2] = {};

#pragma unroll
        for (int n = 0; n < HALF; n++) {
            s.h[i][n] = fast_exp2(dt.v[i] * s.A[i][n]) * s.h[i][n] + dx * B[n];
            if (OUT)
                sum[n % 2] += s.h[i][n] * C[n];
        }
        y[i] = sum[0] + sum[1];
        if (!OUT)
            s.time[i] += dt.v[i];
    }
    return OUT ? sum_across<1>(y, (int)threadIdx.x) : 0.0f;
}

/* The outputs of rows t on, `rows` of them, at most TOKENS, of the thread's channel. Whether there
 * is a gate, and where they go, is asked once for all of them. */
static __device__ __forceinline__ void finish_rows(const struct diagonal_scan &p,
                                                   const struct lane &s, const tile &b,
                                                   float (&sum)[TOKENS], int t, int rows)
{
    const size_t at = (size_t)t * p.y_ld + s.channel;

#pragma unroll
    for (int i = 0; i < TOKENS; i++)
        sum[i] += s.D * b.x[i][threadIdx.x];
    if (p.z)
#pragma unroll
        for (int i = 0; i < TOKENS; i++)
            sum[i] = gated(sum[i], b.z[i][threadIdx.x]);
    if (p.y)
#pragma unroll
        for (int i = 0; i < TOKENS; i++)
            if (i < rows)
                store_numbers<1>(p.y, NULL, at + i * p.y_ld, { { sum[i] } });
    if (p.y_bf16)
#pragma unroll
        for (int i = 0; i < TOKENS; i++)
            if (i < rows)
                store_numbers<1>(NULL, p.y_bf16, at + i * p.y_ld, { { sum[i] } });
}

/* Rows [t, stop) of one sequence. */
template <bool OUT>
static __device__ __forceinline__ void walk(const struct diagonal_scan &p, bool raw,
                                            tile (&ring)[STAGES], struct lane &s, int t, int stop)
{
    for (int i = 0; i < STAGES - 1; i++) {
        fetch_tile<OUT>(p, ring[i], t + i * TOKENS, stop);
        copies_commit();
    }
#pragma unroll 1
    for (int now = 0; t < stop; t += TOKENS, now = now + 1 == STAGES ? 0 : now + 1) {
        tile &b = ring[now];

        copies_wait<STAGES - 2>();
        __syncthreads(); /* the tile is there, and the one before it has been read */
        fetch_tile<OUT>(p, ring[now == 0 ? STAGES - 1 : now - 1], t + (STAGES - 1) * TOKENS, stop);
        copies_commit();
        if (raw) {
            make_steps(b, stop - t);
            __syncwarp();
        }

        float sum[TOKENS];

#pragma unroll
        for (int i = 0; i < TOKENS; i++)
            sum[i] = advance_pair<OUT>(s, b, i);
        if (OUT)
            finish_rows(p, s, b, sum, t, stop - t);
    }
    copies_wait<0>();
    __syncthreads(); /* the ring is free */
}

/* The state of sequence q, from the lane's part on. */
static __device__ __forceinline__ struct kept_state
kept_of(const struct diagonal_scan &p, const struct device_batch &in, int q, const struct lane &s)
{
    const bool narrow = is_narrow(p.state);

    return load_kept(in, p.state, narrow, q).from(narrow, s.at);
}

static __device__ __forceinline__ void load_slot(struct lane &s, const struct kept_state &from,
                                                 bool narrow)
{
#pragma unroll
    for (int n = 0; n < 2 * HALF; n += 4)
        unpack(&s.h[n / HALF][n % HALF],
               from.at ? load_kept4<true>(from, narrow, (size_t)(n / HALF * N + n % HALF))
                       : float4{});
}

static __device__ __forceinline__ void store_slot(const struct kept_state &to, bool narrow,
                                                  const struct lane &s)
{
#pragma unroll
    for (int n = 0; to.at && n < 2 * HALF; n += 4) {
        const float *h = &s.h[n / HALF][n % HALF];

        store_kept4<true>(to, narrow, (size_t)(n / HALF * N + n % HALF),
                          make_float4(h[0], h[1], h[2], h[3]));
    }
}

static __device__ __forceinline__ struct lane begin_lane(const struct diagonal_scan &p)
{
    const int first = (int)blockIdx.x * CHANNELS, i = (int)threadIdx.x;
    struct lane s = {};

    s.channel = first + i;
    s.at = (size_t)(first + i / 2 * 2) * N + (size_t)(i % 2 * HALF);
    load_states(s.A, p.A + s.at);
#pragma unroll
    for (int n = 0; n < 2 * HALF; n++)
        s.A[n / HALF][n % HALF] *= LOG2_E;
    s.D = p.D[s.channel];
    return s;
}

/* Block (x, y): what segment y does to the states of CHANNELS channels, if the sequence of its
 * last row goes on behind it. */
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    find_effects(const struct diagonal_scan p, const struct device_batch in,
                 const struct segments w, int T)
{
    __shared__ tile ring[STAGES];
    const int first = (int)blockIdx.y * w.length, end = min(T, first + w.length);
    const size_t row = (size_t)blockIdx.y * p.dim;

    let_next_start();

    const int last = in.row_seq[end - 1], begin = in.begin[last], behind = in.begin[last + 1];
    struct lane s = begin_lane(p);

    wait_for_inputs();
    if (behind <= end || !is_long(begin, behind))
        return;
    if (begin >= first) {
        load_slot(s, kept_of(p, in, last, s), is_narrow(p.state));
        store_states(w.begin + row * N + s.at, s.h);
    }
    walk<false>(p, w.raw, ring, s, max(first, begin), end);
    store_states(w.add + row * N + s.at, s.h);
    w.time[row + s.channel] = threadIdx.x % 2 ? s.time[1] : s.time[0];
}

/* The states that the segments from `from` on, in the first of which the sequence begins, leave
 * to the segment `to`. */
static __device__ __forceinline__ void inherit(const struct segments &w, struct lane &s, size_t dim,
                                               int from, int to)
{
    load_states(s.h, w.add + (size_t)from * dim * N + s.at);
#pragma unroll 1
    for (int i = from + 1; i < to; i += AHEAD) {
        float add[AHEAD][2][HALF];
        floats<2> time[AHEAD];

#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (i + k < to) {
                load_states(add[k], w.add + (size_t)(i + k) * dim * N + s.at);
                time[k] = load<2>(w.time + (size_t)(i + k) * dim + s.channel / 2 * 2);
            }
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
#pragma unroll
            for (int n = 0; n < 2 * HALF; n++) {
                float &h = s.h[n / HALF][n % HALF];

                if (i + k < to)
                    h = fast_exp2(time[k].v[n / HALF] * s.A[n / HALF][n % HALF]) * h +
                        add[k][n / HALF][n % HALF];
            }
    }
}

/* Block (x, y): the outputs of the long sequences in segment y, and the states of those that end
 * there. */
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    put_out(const struct diagonal_scan p, const struct device_batch in, const struct segments w,
            int T)
{
    __shared__ tile ring[STAGES];
    __shared__ int sequence[LENGTH_MAX], from[LENGTH_MAX], to[LENGTH_MAX];
    const int first = (int)blockIdx.y * w.length, end = min(T, first + w.length);

    let_next_start();
    for (int i = (int)threadIdx.x; i < end - first; i += THREADS) {
        const int q = in.row_seq[first + i];

        sequence[i] = q;
        from[i] = in.begin[q];
        to[i] = in.begin[q + 1];
    }

    struct lane s = begin_lane(p);

    wait_for_inputs();
    __syncthreads();
    for (int t = first, stop; t < end; t = stop) {
        const int begin = from[t - first], behind = to[t - first];

        stop = min(end, behind);
        if (!is_long(begin, behind))
            continue;
        if (begin < first) {
            inherit(w, s, (size_t)p.dim, begin / w.length, (int)blockIdx.y);
        } else if (behind > end) {
            load_states(s.h, w.begin + (size_t)blockIdx.y * p.dim * N + s.at);
        } else {
            load_slot(s, kept_of(p, in, sequence[t - first], s), is_narrow(p.state));
        }
        walk<true>(p, w.raw, ring, s, t, stop);
        if (behind <= end)
            store_slot(kept_of(p, in, sequence[t - first], s), is_narrow(p.state), s);
    }
}

static bool fits(const struct diagonal_scan *p)
{
    const uintptr_t off = off_grid(p->B, p->bc_ld) | off_grid(p->C, p->bc_ld) | off_grid(p->A, 0) |
                          off_grid(p->dt, p->dt_ld) | off_grid(p->x, p->x_ld) |
                          off_grid(p->z, p->z_ld) | off_grid(p->state);

    return p->N == N && p->dim % CHANNELS == 0 && off == 0;
}

/* As many segments as give every multiprocessor all the blocks that it has room for, once. */
static int length_of(const struct stream *q, int T, int dim)
{
    const int wanted = max(1, BLOCKS * q->sms / (dim / CHANNELS));
    const int length = ceil_div(ceil_div(T, wanted), TOKENS) * TOKENS;

    return min(max(length, (int)LENGTH_MIN), (int)LENGTH_MAX);
}

bool diagonal_segments_take(const struct batch *in, const struct diagonal_scan *p)
{
    return in->S == 1 && in->T > LONGEST && fits(p);
}

int diagonal_segments(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                      bool raw)
{
    if (!fits(p) || in->T - in->S < LONGEST)
        return INT_MAX;

    struct segments w = { .length = length_of(q, in->T, p->dim), .raw = raw };
    const int count = ceil_div(in->T, w.length);
    const size_t channels = (size_t)count * p->dim;
    const dim3 grid((unsigned)(p->dim / CHANNELS), (unsigned)count);
    float *memory =
        (float *)stream_workspace(q, channels * (2 * N + 1) * sizeof(float), "diagonal_scan");

    if (!memory)
        return LONGEST;
    w.add = memory;
    w.begin = w.add + channels * N;
    w.time = w.begin + channels * N;
    if (count > 1)
        launch(q, "diagonal_scan", find_effects, grid, THREADS, 0, *p, q->in, w, in->T);
    launch(q, "diagonal_scan", put_out, grid, THREADS, 0, *p, q->in, w, in->T);
    return LONGEST;
}
