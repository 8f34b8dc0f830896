/* diagonal_scan.cu - the selective scan of Mamba (definition: cpu/diagonal_scan.c).
 *
 * For N = 16, which every published model has, LANES neighbouring threads share a channel and
 * keep its states and rates in registers. In decode a state is read and written once, 16 bytes
 * a thread. Longer sequences go through shared memory in blocks of TOKENS, the next on its way
 * while one is scanned; what bounds them is one exponential a state and token, so a scan in
 * two passes over parts of a sequence, which needs each twice, would not be faster: short of
 * channels, a channel is spread over more threads instead. Any other N takes a warp a channel
 * with the state in memory. */
#include "kernels/cuda/state.cuh"

enum {
    THREADS = 128,
    N = 16,
    TOKENS = 32,
    MANY = 4 /* sequences of a thread in decode */,
    MANY_CHANNELS = 1 << 19 /* of all sequences, from which that is faster */
};

static const float LOG2_E = 1.44269504f;

static __device__ __forceinline__ float gated(float y, float z)
{
    return __fdividef(y * z, 1.0f + __expf(-z));
}

/* The states of one channel that one thread holds. */
template <int OWN> struct part {
    float h[OWN], A[OWN]; /* A in powers of 2 */
};

template <int OWN>
static __device__ __forceinline__ float advance(part<OWN> &s, float dt, float dx, const float *B,
                                                const float *C)
{
    float y = 0.0f;

#pragma unroll
    for (int n = 0; n < OWN; n++) {
        s.h[n] = fast_exp2(dt * s.A[n]) * s.h[n] + dx * B[n];
        y += s.h[n] * C[n];
    }
    return y;
}

static __device__ __forceinline__ void unpack(float *to, float4 from)
{
    to[0] = from.x;
    to[1] = from.y;
    to[2] = from.z;
    to[3] = from.w;
}

/* Block (x, y): channels of SEQUENCES sequences, whose states are on their way together. */
template <bool ALIGNED, int SEQUENCES>
static __global__ void __launch_bounds__(THREADS)
    scan_decode(const struct diagonal_scan p, const struct device_batch in, int S)
{
    enum { LANES = 4, OWN = N / LANES };
    const int c = (int)(blockIdx.x * THREADS + threadIdx.x) / LANES;
    const int first = (int)threadIdx.x % LANES * OWN;
    const size_t at = (size_t)c * N + (size_t)first;
    struct sequence q[SEQUENCES];
    part<OWN> s = {};
    float h[SEQUENCES][OWN] = {};

    let_next_start();
    if (c >= p.dim) /* a whole group of lanes at a time */
        return;
    unpack(s.A, load4<ALIGNED>(p.A + at));
    for (int n = 0; n < OWN; n++)
        s.A[n] *= LOG2_E;

    const float D = p.D[c];

    wait_for_inputs();
#pragma unroll
    for (int i = 0; i < SEQUENCES; i++) {
        const int sequence = (int)blockIdx.y * SEQUENCES + i;

        q[i] = {};
        if (sequence < S)
            q[i] = load_sequence(in, p.state, sequence);
    }
#pragma unroll
    for (int i = 0; i < SEQUENCES; i++)
        if (q[i].state)
            unpack(h[i], load4<ALIGNED>(q[i].state + at));
#pragma unroll
    for (int i = 0; i < SEQUENCES; i++) {
        for (int n = 0; n < OWN; n++)
            s.h[n] = h[i][n];
        for (int t = q[i].begin; t < q[i].end; t++) {
            const size_t row = (size_t)t;
            const float dt = p.dt[row * p.dt_ld + (size_t)c], x = p.x[row * p.x_ld + (size_t)c];
            const float z = p.z ? p.z[row * p.z_ld + (size_t)c] : 0.0f;
            float B[OWN], C[OWN];

            unpack(B, load4<ALIGNED>(p.B + row * p.bc_ld + first));
            unpack(C, load4<ALIGNED>(p.C + row * p.bc_ld + first));

            float y = advance<OWN>(s, dt, dt * x, B, C);
            const unsigned group = 0xfu << (threadIdx.x % 32 / LANES * LANES);

            y += __shfl_xor_sync(group, y, 1);
            y += __shfl_xor_sync(group, y, 2);
            y += D * x;
            if (first == 0)
                p.y[row * p.y_ld + (size_t)c] = p.z ? gated(y, z) : y;
        }
        if (q[i].state)
            store4<ALIGNED>(q[i].state + at, make_float4(s.h[0], s.h[1], s.h[2], s.h[3]));
    }
}

/* A block of tokens in shared memory, for CHANNELS of one sequence. */
template <int CHANNELS> struct alignas(16) block {
    float B[TOKENS][N], C[TOKENS][N];
    float x[TOKENS][CHANNELS], dt[TOKENS][CHANNELS], z[TOKENS][CHANNELS];
};

/* Columns [0, width) of `rows` rows on their way to shared memory, ROW floats apart there. */
template <int ROW, bool ALIGNED>
static __device__ __forceinline__ void fetch_rows(float *to, const float *from, size_t ld, int rows,
                                                  int width)
{
    enum { RUN = ALIGNED ? 4 : 1, RUNS = ROW / RUN };

    for (int i = (int)threadIdx.x; i < rows * RUNS; i += THREADS) {
        const int t = i / RUNS, c = i % RUNS * RUN;

        if (c < width)
            copy_async<4 * RUN>(to + t * ROW + c, from + (size_t)t * ld + c);
    }
}

template <int CHANNELS, bool ALIGNED>
static __device__ __forceinline__ void
fetch_block(const struct diagonal_scan &p, block<CHANNELS> &to, int t, int rows, int channel)
{
    const size_t row = (size_t)t;
    const int width = p.dim - channel < CHANNELS ? p.dim - channel : CHANNELS;

    fetch_rows<N, ALIGNED>(to.B[0], p.B + row * p.bc_ld, p.bc_ld, rows, N);
    fetch_rows<N, ALIGNED>(to.C[0], p.C + row * p.bc_ld, p.bc_ld, rows, N);
    fetch_rows<CHANNELS, ALIGNED>(to.x[0], p.x + row * p.x_ld + channel, p.x_ld, rows, width);
    fetch_rows<CHANNELS, ALIGNED>(to.dt[0], p.dt + row * p.dt_ld + channel, p.dt_ld, rows, width);
    if (p.z)
        fetch_rows<CHANNELS, ALIGNED>(to.z[0], p.z + row * p.z_ld + channel, p.z_ld, rows, width);
}

/* The sums over LANES neighbouring threads of LANES values each: thread i gets value i's. In
 * each step a thread gives half of its values to the one HALF away and adds what it gets. */
template <int HALF>
static __device__ __forceinline__ float sum_across(const float (&v)[2 * HALF], int lane)
{
    const bool upper = lane & HALF;
    float sum[HALF];

#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const float keep = upper ? v[i + HALF] : v[i], give = upper ? v[i] : v[i + HALF];

        sum[i] = keep + __shfl_xor_sync(0xffffffffu, give, HALF);
    }
    if constexpr (HALF > 1)
        return sum_across<HALF / 2>(sum, lane);
    else
        return sum[0];
}

/* Rows [first, first + rows), at most TOKENS, of one channel a group of lanes. Beyond them the
 * block holds zeros, which leave the state alone. All sums come before all outputs, so that a
 * warp, often alone on its scheduler, has many tokens' loads and exponentials under way. */
template <int LANES>
static __device__ __forceinline__ void scan_block(const struct diagonal_scan &p, part<N / LANES> &s,
                                                  const block<THREADS / LANES> &b, int first,
                                                  int rows, int channel, float D)
{
    enum { OWN = N / LANES, SUMS = TOKENS / LANES };
    const int c = (int)threadIdx.x / LANES, lane = (int)threadIdx.x % LANES;
    float y[SUMS];

#pragma unroll
    for (int k = 0; k < SUMS; k++) {
        float sum[LANES];

#pragma unroll
        for (int i = 0; i < LANES; i++) {
            const int t = k * LANES + i;
            const floats<OWN> B = load<OWN>(&b.B[t][lane * OWN]);
            const floats<OWN> C = load<OWN>(&b.C[t][lane * OWN]);
            const float dt = b.dt[t][c];

            sum[i] = advance<OWN>(s, dt, dt * b.x[t][c], B.v, C.v);
        }
        y[k] = sum_across<LANES / 2>(sum, lane);
    }
#pragma unroll
    for (int k = 0; k < SUMS; k++) {
        const int t = k * LANES + lane;

        y[k] += D * b.x[t][c];
        if (p.z)
            y[k] = gated(y[k], b.z[t][c]);
        if (t < rows && channel + c < p.dim)
            p.y[(size_t)(first + t) * p.y_ld + (size_t)(channel + c)] = y[k];
    }
}

template <int LANES, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS)
    scan_blocks(const struct diagonal_scan p, const struct device_batch in)
{
    enum { OWN = N / LANES, CHANNELS = THREADS / LANES };
    __shared__ block<CHANNELS> blocks[2];
    const int channel = (int)blockIdx.x * CHANNELS, c = channel + (int)threadIdx.x / LANES;
    const size_t at = (size_t)c * N + (size_t)(threadIdx.x % LANES * OWN);
    part<OWN> s = {};
    float D = 0.0f;

    let_next_start();
    if (c < p.dim) {
        for (int n = 0; n < OWN; n++)
            s.A[n] = p.A[at + n] * LOG2_E;
        D = p.D[c];
    }
    wait_for_inputs();

    const struct sequence q = load_sequence(in, p.state, (int)blockIdx.y);

    if (q.state && c < p.dim)
        for (int n = 0; n < OWN; n++)
            s.h[n] = q.state[at + n];
    fetch_block<CHANNELS, ALIGNED>(p, blocks[0], q.begin,
                                   q.end - q.begin < TOKENS ? q.end - q.begin : TOKENS, channel);
    copies_commit();
    for (int t = q.begin, now = 0; t < q.end; t += TOKENS, now ^= 1) {
        const int left = q.end - t, rows = left < TOKENS ? left : TOKENS;
        const int next = left - rows < TOKENS ? left - rows : TOKENS;

        fetch_block<CHANNELS, ALIGNED>(p, blocks[now ^ 1], t + TOKENS, next, channel);
        copies_commit();
        copies_wait<1>();
        for (int i = rows * CHANNELS + (int)threadIdx.x; i < TOKENS * CHANNELS; i += THREADS)
            blocks[now].dt[i / CHANNELS][i % CHANNELS] = blocks[now].x[i / CHANNELS][i % CHANNELS] =
                0.0f;
        for (int i = rows * N + (int)threadIdx.x; i < TOKENS * N; i += THREADS)
            blocks[now].B[i / N][i % N] = blocks[now].C[i / N][i % N] = 0.0f;
        __syncthreads();
        scan_block<LANES>(p, s, blocks[now], t, rows, channel, D);
        __syncthreads();
    }
    if (q.state && c < p.dim)
        for (int n = 0; n < OWN; n++)
            q.state[at + n] = s.h[n];
}

/* Any N: a warp takes one channel of one sequence. */
static __global__ void __launch_bounds__(THREADS)
    scan_any(const struct diagonal_scan p, const struct device_batch in)
{
    const int c = (int)(blockIdx.x * THREADS + threadIdx.x) / 32, lane = (int)threadIdx.x % 32;

    let_next_start();
    if (c >= p.dim)
        return;
    wait_for_inputs();

    const struct sequence q = load_sequence(in, p.state, (int)blockIdx.y);
    float *h = q.state ? q.state + (size_t)c * (size_t)p.N : nullptr;

    for (int t = q.begin; t < q.end; t++) {
        const size_t row = (size_t)t;
        const float dt = p.dt[row * p.dt_ld + (size_t)c], x = p.x[row * p.x_ld + (size_t)c];
        float y = 0.0f;

        for (int n = lane; h && n < p.N; n += 32) {
            const float decay = fast_exp2(dt * p.A[(size_t)c * (size_t)p.N + n] * LOG2_E);
            const float now = decay * h[n] + dt * x * p.B[row * p.bc_ld + n];

            y += now * p.C[row * p.bc_ld + n];
            h[n] = now;
        }
        for (int d = 16; d > 0; d /= 2)
            y += __shfl_xor_sync(0xffffffffu, y, d);
        y += p.D[c] * x;
        if (lane == 0)
            p.y[row * p.y_ld + (size_t)c] = p.z ? gated(y, p.z[row * p.z_ld + (size_t)c]) : y;
    }
}

template <int LANES, bool ALIGNED>
static void launch_blocks(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    launch(q, "diagonal_scan", scan_blocks<LANES, ALIGNED>,
           dim3((unsigned)ceil_div(p->dim * LANES, THREADS), (unsigned)in->S), THREADS, 0, *p,
           q->in);
}

/* The fewest threads a channel that give every scheduler, four a multiprocessor, two warps. */
template <bool ALIGNED>
static void scan(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    const long warps = (long)in->S * p->dim / 32, wanted = 8L * q->sms;

    if (in->T == in->S && (long)in->S * p->dim < MANY_CHANNELS)
        launch(q, "diagonal_scan", scan_decode<ALIGNED, 1>,
               dim3((unsigned)ceil_div(p->dim * 4, THREADS), (unsigned)in->S), THREADS, 0, *p,
               q->in, in->S);
    else if (in->T == in->S)
        launch(q, "diagonal_scan", scan_decode<ALIGNED, MANY>,
               dim3((unsigned)ceil_div(p->dim * 4, THREADS), (unsigned)ceil_div(in->S, MANY)),
               THREADS, 0, *p, q->in, in->S);
    else if (warps * 4 >= wanted)
        launch_blocks<4, ALIGNED>(q, in, p);
    else if (warps * 8 >= wanted)
        launch_blocks<8, ALIGNED>(q, in, p);
    else
        launch_blocks<16, ALIGNED>(q, in, p);
}

void diagonal_scan_cuda(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    const uintptr_t off = off_grid(p->x, p->x_ld) | off_grid(p->dt, p->dt_ld) |
                          off_grid(p->B, p->bc_ld) | off_grid(p->C, p->bc_ld) |
                          off_grid(p->A, (size_t)p->dim) | off_grid(p->z, p->z_ld) |
                          off_grid(p->state);

    if (p->N != N)
        launch(q, "diagonal_scan", scan_any,
               dim3((unsigned)ceil_div(p->dim * 32, THREADS), (unsigned)in->S), THREADS, 0, *p,
               q->in);
    else if (off == 0)
        scan<true>(q, in, p);
    else
        scan<false>(q, in, p);
}
