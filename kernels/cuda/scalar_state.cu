/* scalar_state.cu - the matrix state of Mamba-2 with its decays (definition: cpu/fused.c), in a
 * decode step as one kernel.
 *
 * K / 4 neighbouring threads share a row of the state, and a thread has ROWS rows: all are on
 * their way before the wait. Every thread makes the two gates of its head by itself. Anything
 * else takes the parts. */
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/matrix_rows.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/state_log.cuh"

enum { THREADS = 128 };

static __device__ __forceinline__ float dot(float4 a, float4 b)
{
    return (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
}

/* A row's columns of a thread take a token in (matrix_rows.cuh). */
static __device__ __forceinline__ float4 take_in(float4 S, float decay, float v, float4 k)
{
    return make_float4(advanced(S.x, decay, v, k.x), advanced(S.y, decay, v, k.y),
                       advanced(S.z, decay, v, k.z), advanced(S.w, decay, v, k.w));
}

/* Block (x, y, z) has rows of head y of sequence z, which is read before the wait with its state
 * and its log (cuda.cuh); a thread's rows are GROUPS apart. */
template <int K, bool NARROW, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    decay_and_add(const struct matrix_state p, const struct decay_gates g,
                  const struct device_batch in)
{
    enum { LANES = K / 4, GROUPS = THREADS / LANES };
    const int lane = (int)threadIdx.x % LANES, head = (int)blockIdx.y, t = (int)blockIdx.z;
    const int first = (int)blockIdx.x * GROUPS * ROWS + (int)threadIdx.x / LANES;
    const float skip = p.skip ? p.skip[head] : 0.0f, bias = g.bias[head], A = g.A[head];
    const struct log_shape sizes = { p.H, p.V, K, p.k_heads, true, false };
    float4 S[ROWS] = {}, k_of[LOG_STEPS - 1];
    float v_of[LOG_STEPS - 1][ROWS], w_of[LOG_STEPS - 1], v[ROWS], y[ROWS];

    let_next_start();

    const struct kept_log log = load_log(in, p.state, t);
    const struct kept_state state =
        head_state(p, in, NARROW, t, head).from(NARROW, (size_t)(first * K + 4 * lane));

#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (state.at)
            S[r] = load_kept4<true>(state, NARROW, (size_t)(r * GROUPS * K));
#pragma unroll
    for (int i = 0; i < LOG_STEPS - 1; i++)
        if (i < log.count) {
            const struct log_entry e = find_entry(sizes, log.at, i, head);

            k_of[i] = load4<true>(e.k + 4 * lane);
            w_of[i] = *e.w;
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                v_of[i][r] = e.v[first + r * GROUPS];
        }
#pragma unroll
    for (int i = 0; i < LOG_STEPS - 1; i++)
        if (i < log.count)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                S[r] = take_in(S[r], w_of[i], v_of[i][r], k_of[i]);
    wait_for_inputs();

    const struct head_vectors h = find_vectors(p, t, head);
    const float4 k = load4<true>(h.k + 4 * lane), query = load4<true>(h.q + 4 * lane);
    const float raw = g.raw[(size_t)t * g.raw_ld + (size_t)head];
    float *out = p.y + (size_t)t * p.y_ld + (size_t)(head * p.V);

#pragma unroll
    for (int r = 0; r < ROWS; r++)
        v[r] = h.v[first + r * GROUPS];

    const struct step now = step_of(g, raw, bias, A);

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        S[r] = take_in(S[r], now.decay, v[r] * now.dt, k);
        y[r] = dot(S[r], query);
    }
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            y[r] += __shfl_xor_sync(0xffffffffu, y[r], d);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (lane == 0)
            out[first + r * GROUPS] = y[r] + skip * v[r];
    if (log.writes) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            store_kept4<true>(state, NARROW, (size_t)(r * GROUPS * K), S[r]);
    } else if (log.at) {
        const struct log_entry e = find_entry(sizes, log.at, log.count, head);

        if (first == 0 && head % (p.H / p.k_heads) == 0)
            store4<true>(e.k + 4 * lane, k);
        if (first == 0 && lane == 0)
            *e.w = now.decay;
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (lane == 0)
                e.v[first + r * GROUPS] = v[r] * now.dt;
    }
}

enum { FEW = 4, MANY = 8 };

static bool fits(const struct stream *q, const struct decay_gates *g, const struct matrix_state *p)
{
    const uintptr_t off = off_grid(p->k, p->kq_ld) | off_grid(p->q, p->kq_ld) | off_grid(p->state);

    return q->row_each && p->w_per_head && !p->a && (p->K == 64 || p->K == 128) &&
           p->V % (THREADS * 4 / p->K * MANY) == 0 && p->v_scale == g->dt && p->w == g->decay &&
           off == 0;
}

template <int K>
static void launch_state(struct stream *q, const struct batch *in, const struct scalar_state *p)
{
    const int groups = THREADS * 4 / K, blocks = p->state.V / groups / MANY;
    const bool few = (long)blocks * p->state.H * in->S < 4L * q->sms;

    launch(
        q, "scalar_state",
        is_narrow(p->state.state) ? few ? decay_and_add<K, true, FEW> : decay_and_add<K, true, MANY>
        : few ? decay_and_add<K, false, FEW>
                                  : decay_and_add<K, false, MANY>,
        dim3((unsigned)(few ? blocks * MANY / FEW : blocks), (unsigned)p->state.H, (unsigned)in->S),
        THREADS, 0, p->state, p->gates, q->in);
}

void scalar_state_cuda(struct stream *q, const struct batch *in, const struct scalar_state *p)
{
    if (run_parts(q, p, true, scalar_state_cuda))
        return;

    if (!fits(q, &p->gates, &p->state)) {
        decay_gates_cuda(q, &p->gates);
        matrix_state_cuda(q, in, &p->state);
    } else if (p->state.K == 64) {
        launch_state<64>(q, in, p);
    } else {
        launch_state<128>(q, in, p);
    }
}
