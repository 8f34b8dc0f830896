/* diagonal_scan.cu - the selective scan of Mamba (definition: cpu/diagonal_scan.c).
 *
 * For N = 16, which every published model has, neighbouring threads share a channel and keep
 * its states and rates in registers. In decode a warp has 32 channels and walks a few
 * sequences: a state is read and written once, all that a row needs is on its way at once, and
 * as many sequences as it takes for one wave of blocks share the loads of the rates. Longer
 * sequences, but for the very long ones (scan_segments.cu), go through shared memory in blocks of
 * TOKENS, the next on its way while one is scanned: short of channels, a channel is spread over
 * more threads. What bounds them is shared memory and the few warps there are, not the
 * exponentials. Any other N takes a warp a channel with the state in memory. */
#include "kernels/cuda/diagonal_scan.cuh"
#include "kernels/cuda/parts.cuh"

#include <limits.h>

enum {
    THREADS = 128,
    TOKENS = 32,
    DECODE_BLOCKS = 7 /* of decode on a multiprocessor: 72 registers a thread */
};

/* Row t, of which this lane brings and finishes channel c; it goes to `entry` of a log, if that is
 * somewhere. raw: dt is what a softplus makes a step size of. */
template <bool ALIGNED>
static __device__ __forceinline__ void decode_row(const struct diagonal_scan &p, bool raw,
                                                  quarters &h, const quarters &A, int t, int c,
                                                  float D, const struct scan_entry &entry)
{
    const size_t row = (size_t)t;
    const unsigned lane = threadIdx.x % SHARED;
    const bool inside = c < p.dim;
    const float x = inside ? p.x[row * p.x_ld + c] : 0.0f;
    const float z = inside && p.z ? p.z[row * p.z_ld + c] : 0.0f;
    float dt = inside ? p.dt[row * p.dt_ld + c] : 0.0f, C[OWN];
    struct step_inputs s;

    unpack(s.B, load4<ALIGNED>(p.B + row * p.bc_ld + lane * OWN));
    unpack(C, load4<ALIGNED>(p.C + row * p.bc_ld + lane * OWN));
    if (raw)
        dt = softplus(dt);
    share(s.time, dt * LOG2_E);
    share(s.add, dt * x);

    const float y = advance_row(h, A, s, C) + D * x;

    if (inside)
        store_numbers<1>(p.y, p.y_bf16, row * p.y_ld + c, { p.z ? gated(y, z) : y });
    if (entry.time)
        put_step(entry, dt * LOG2_E, dt * x, s.B, c,
                 blockIdx.x * blockDim.x + threadIdx.x < SHARED);
}

/* The steps of a log, of channel c and of the others whose states this lane shares. */
static __device__ __forceinline__ void take_log_in(const struct diagonal_scan &p, quarters &h,
                                                   const quarters &A, const struct kept_log &log,
                                                   int c)
{
    for (int i = 0; i < log.count; i++) {
        const struct scan_entry e = find_scan_entry(p.dim, N, log.at, i);
        struct step_inputs s;

        share(s.time, e.time[c]);
        share(s.add, e.add[c]);
        unpack(s.B, load4<true>(e.B + threadIdx.x % SHARED * OWN));
        take_in(h, A, s);
    }
}

/* Block (x, y): 32 channels a warp of those of `each` sequences that have one row, the first of
 * which is read before the wait with its states (cuda.cuh). */
template <bool ALIGNED, bool NARROW>
static __global__ void __launch_bounds__(THREADS, DECODE_BLOCKS)
    scan_decode(const struct diagonal_scan p, bool raw, const struct device_batch in, int S,
                int each)
{
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, lane = thread % SHARED;
    const int first = (int)(thread / 32 * 32), c = first + (int)(thread % 32 / SHARED);
    const int own = c + (int)lane * APART, held = (p.dim - c + APART - 1) / APART;
    const size_t at = (size_t)c * N + lane * OWN;
    const int end = min(S, (int)(blockIdx.y + 1) * each);
    int i = (int)blockIdx.y * each;
    quarters h, A;

    let_next_start();
    if (first >= p.dim)
        return;
    load_rates<ALIGNED>(A, p.A + at, held);

    const float D = own < p.dim ? p.D[own] : 0.0f;
    struct kept_state kept = load_kept(in, p.state, NARROW, i).from(NARROW, at);

    load_states<ALIGNED>(h, kept, NARROW, held);
    wait_for_inputs();
    for (;;) {
        const int t = in.begin[i];

        if (in.begin[i + 1] - t == 1) {
            const struct kept_log log = load_log(in, p.state, i);

            take_log_in(p, h, A, log, own);

            decode_row<ALIGNED>(p, raw, h, A, t, own, D,
                                log.at && !log.writes ? find_scan_entry(p.dim, N, log.at, log.count)
                                                      : scan_entry{});
            if (log.writes)
                store_states<ALIGNED>(h, kept, NARROW, held);
        }
        if (++i >= end)
            break;
        kept = load_kept(in, p.state, NARROW, i).from(NARROW, at);
        load_states<ALIGNED>(h, kept, NARROW, held);
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

    for (int i = (int)threadIdx.x; i < rows * RUNS; i += (int)blockDim.x) {
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

/* The states of one channel that one thread holds. */
template <int OWN> struct part {
    float h[OWN], A[OWN];
};

/* Rows [first, first + rows), at most TOKENS, of one channel a group of lanes. Beyond them the
 * block holds zeros, which leave the state alone. All sums come before all outputs, so that a
 * warp, often alone on its scheduler, has many tokens' loads and exponentials under way. */
template <int LANES, int CHANNELS>
static __device__ __forceinline__ void scan_block(const struct diagonal_scan &p, part<N / LANES> &s,
                                                  const block<CHANNELS> &b, int first, int rows,
                                                  int channel, float D)
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

            sum[i] = advance<OWN>(s.h, s.A, dt, dt * b.x[t][c], B.v, C.v);
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
            store_numbers<1>(p.y, p.y_bf16, (size_t)(first + t) * p.y_ld + (size_t)(channel + c),
                             { y[k] });
    }
}

template <int LANES, int WARPS, bool ALIGNED>
static __global__ void __launch_bounds__(WARPS * 32)
    scan_blocks(const struct diagonal_scan p, const struct device_batch in, int longest)
{
    enum { OWN = N / LANES, CHANNELS = WARPS * 32 / LANES };
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

    const int begin = in.begin[blockIdx.y], end = in.begin[blockIdx.y + 1];
    const bool narrow = is_narrow(p.state);
    const struct kept_state kept = load_kept(in, p.state, narrow, (int)blockIdx.y).from(narrow, at);

    if (end - begin < 2 || end - begin > longest)
        return;
    if (kept.at && c < p.dim)
        for (int n = 0; n < OWN; n++)
            s.h[n] = load_kept1(kept, narrow, (size_t)n);
    fetch_block<CHANNELS, ALIGNED>(p, blocks[0], begin, end - begin < TOKENS ? end - begin : TOKENS,
                                   channel);
    copies_commit();
    for (int t = begin, now = 0; t < end; t += TOKENS, now ^= 1) {
        const int left = end - t, rows = left < TOKENS ? left : TOKENS;
        const int next = left - rows < TOKENS ? left - rows : TOKENS;

        fetch_block<CHANNELS, ALIGNED>(p, blocks[now ^ 1], t + TOKENS, next, channel);
        copies_commit();
        copies_wait<1>();
        for (int i = rows * CHANNELS + (int)threadIdx.x; i < TOKENS * CHANNELS;
             i += (int)blockDim.x)
            blocks[now].dt[i / CHANNELS][i % CHANNELS] = blocks[now].x[i / CHANNELS][i % CHANNELS] =
                0.0f;
        for (int i = rows * N + (int)threadIdx.x; i < TOKENS * N; i += (int)blockDim.x)
            blocks[now].B[i / N][i % N] = blocks[now].C[i / N][i % N] = 0.0f;
        __syncthreads();
        scan_block<LANES>(p, s, blocks[now], t, rows, channel, D);
        __syncthreads();
    }
    if (kept.at && c < p.dim)
        for (int n = 0; n < OWN; n++)
            store_kept1(kept, narrow, (size_t)n, s.h[n]);
}

/* Any N: a warp takes one channel of one sequence. */
static __global__ void __launch_bounds__(THREADS)
    scan_any(const struct diagonal_scan p, const struct device_batch in)
{
    const int c = (int)(blockIdx.x * THREADS + threadIdx.x) / 32, lane = (int)threadIdx.x % 32;
    extern __shared__ float states[]; /* of narrow ones: [warps, N] */

    let_next_start();
    if (c >= p.dim)
        return;
    wait_for_inputs();

    const bool narrow = is_narrow(p.state);
    const struct kept_state kept =
        load_kept(in, p.state, narrow, (int)blockIdx.y).from(narrow, (size_t)c * (size_t)p.N);
    float *h = narrow ? states + (int)threadIdx.x / 32 * p.N : (float *)kept.at;

    for (int n = lane; narrow && n < p.N; n += 32)
        h[n] = kept.at ? load_kept1(kept, narrow, (size_t)n) : 0.0f;
    for (int t = in.begin[blockIdx.y]; t < in.begin[blockIdx.y + 1]; t++) {
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
            store_numbers<1>(p.y, p.y_bf16, row * p.y_ld + (size_t)c,
                             { p.z ? gated(y, p.z[row * p.z_ld + (size_t)c]) : y });
    }
    for (int n = lane; narrow && kept.at && n < p.N; n += 32)
        store_kept1(kept, narrow, (size_t)n, h[n]);
}

template <int LANES, int WARPS, bool ALIGNED>
static void launch_warps(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                         int longest)
{
    launch_apart(q, "diagonal_scan", scan_blocks<LANES, WARPS, ALIGNED>,
                 dim3((unsigned)ceil_div(p->dim * LANES, WARPS * 32), (unsigned)in->S), WARPS * 32,
                 0, *p, q->in, longest);
}

/* How many warps the busiest multiprocessor gets in blocks of so many. */
static int most_warps(const struct stream *q, int warps, int S, int in_block)
{
    return ceil_div(ceil_div(warps, in_block) * S, q->sms) * in_block;
}

/* Large blocks fetch less, small ones spread better. */
template <int LANES, bool ALIGNED>
static void launch_blocks(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                          int longest)
{
    enum { LARGE = 4, SMALL = 2 };
    const int warps = ceil_div(p->dim * LANES, 32);

    if (most_warps(q, warps, in->S, SMALL) < most_warps(q, warps, in->S, LARGE))
        launch_warps<LANES, SMALL, ALIGNED>(q, in, p, longest);
    else
        launch_warps<LANES, LARGE, ALIGNED>(q, in, p, longest);
}

/* Blocks of one warp spread few of them over all multiprocessors. */
template <bool ALIGNED>
static void launch_decode(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                          bool raw)
{
    const int columns = ceil_div(p->dim, 32), warps = columns * in->S;
    const int threads = warps <= 16 * q->sms ? 32 : THREADS;
    const int each = ceil_div(warps, DECODE_BLOCKS * THREADS / 32 * q->sms);

    launch(q, "diagonal_scan",
           is_narrow(p->state) ? scan_decode<ALIGNED, true> : scan_decode<ALIGNED, false>,
           dim3((unsigned)ceil_div(columns * 32, threads), (unsigned)ceil_div(in->S, each)),
           (unsigned)threads, 0, *p, raw, q->in, in->S, each);
}

/* The fewest threads a channel that give every scheduler, four a multiprocessor, two warps. */
template <bool ALIGNED>
static void scan(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                 int longest)
{
    const long warps = (long)in->S * p->dim / 32, wanted = 8L * q->sms;

    if (warps * 4 >= wanted)
        launch_blocks<4, ALIGNED>(q, in, p, longest);
    else if (warps * 8 >= wanted)
        launch_blocks<8, ALIGNED>(q, in, p, longest);
    else
        launch_blocks<16, ALIGNED>(q, in, p, longest);
}

static bool is_aligned(const struct diagonal_scan *p)
{
    return (off_grid(p->x, p->x_ld) | off_grid(p->dt, p->dt_ld) | off_grid(p->B, p->bc_ld) |
            off_grid(p->C, p->bc_ld) | off_grid(p->A, (size_t)p->dim) | off_grid(p->z, p->z_ld) |
            off_grid(p->state)) == 0;
}

bool diagonal_scan_takes_raw(const struct stream *q, const struct batch *in,
                             const struct diagonal_scan *p)
{
    return (q->row_each && p->N == N) || diagonal_segments_take(in, p);
}

void diagonal_scan_of(struct stream *q, const struct batch *in, const struct diagonal_scan *p,
                      bool raw)
{
    const bool aligned = is_aligned(p);
    int longest;

    settle_scans(q, in, p);
    longest = q->row_each ? INT_MAX : diagonal_segments(q, in, p, raw);
    if (in->S == 1 && in->T > longest)
        return;
    if (p->N != N) {
        launch(q, "diagonal_scan", scan_any,
               dim3((unsigned)ceil_div(p->dim * 32, THREADS), (unsigned)in->S), THREADS,
               is_narrow(p->state) ? THREADS / 32 * (size_t)p->N * sizeof(float) : 0, *p, q->in);
        return;
    }
    if (!q->row_each)
        aligned ? scan<true>(q, in, p, longest) : scan<false>(q, in, p, longest);
    if (in->S > 1 || in->T == 1) /* there may be sequences of one row */
        aligned ? launch_decode<true>(q, in, p, raw) : launch_decode<false>(q, in, p, raw);
}

void diagonal_scan_cuda(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    if (run_parts(q, p, false, diagonal_scan_cuda))
        return;
    diagonal_scan_of(q, in, p, false);
}
