/* delta_state.cu - a decode step of RWKV-7's heads of 64 in one pass: what leads into the state,
 * the state, and the way out of it (definition: cpu/fused.c, and the files of its parts).
 *
 * A block has one head of one sequence, with all of its state in registers: four neighbouring
 * rows to eight threads, which have two runs of four columns each. Its reads are under way before
 * the kernel in front has ended. Each warp finds the gates for itself, two columns a lane, and
 * hands them to its rows through memory of its own, so that only the norm of the outputs makes
 * the block's warps meet. What the parts would write for one another stays here. */
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/matrix_state.cuh"
#include "kernels/cuda/moments.cuh"

enum { K = 64, THREADS = 128, WARPS = THREADS / WARP, LANES = 8, ROWS = 4, PAIR = 2, RUN = 4 };

/* A head's constants, by columns two to a lane and by rows. */
struct head_weights {
    floats<PAIR> k_k, k_a, r_k;
    floats<ROWS> norm, bias;
};

/* What a warp's lanes have of all columns, for its threads' own ones. */
struct alignas(16) gate_rows {
    float decay[K], a[K], b[K], k[K];
};

struct columns {
    float v[2 * RUN];
};

static __device__ __forceinline__ columns load_columns(const float *p, int lane)
{
    const floats<RUN> lo = load<RUN>(p + RUN * lane), hi = load<RUN>(p + K / 2 + RUN * lane);

    return { { lo.v[0], lo.v[1], lo.v[2], lo.v[3], hi.v[0], hi.v[1], hi.v[2], hi.v[3] } };
}

/* The same of row `row` of a state. */
static __device__ __forceinline__ columns load_row(const kept_state &s, bool narrow, int row,
                                                   int lane)
{
    const size_t at = (size_t)(row * K + RUN * lane);
    const float4 lo = load_kept4<true>(s, narrow, at), hi = load_kept4<true>(s, narrow, at + K / 2);

    return { { lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w } };
}

static __device__ __forceinline__ void store_row(const kept_state &s, bool narrow, int row,
                                                 int lane, const columns &x)
{
    const size_t at = (size_t)(row * K + RUN * lane);

    store_kept4<true>(s, narrow, at, make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
    store_kept4<true>(s, narrow, at + K / 2, make_float4(x.v[4], x.v[5], x.v[6], x.v[7]));
}

static __device__ __forceinline__ float dot(const columns &x, const columns &y)
{
    float even = 0.0f, odd = 0.0f;

    for (int j = 0; j < 2 * RUN; j += 2) {
        even += x.v[j] * y.v[j];
        odd += x.v[j + 1] * y.v[j + 1];
    }
    return even + odd;
}

/* Sums over the threads of a row, in every one of them. */
static __device__ __forceinline__ void sum_rows(floats<ROWS> &x)
{
#pragma unroll
    for (int distance = LANES / 2; distance; distance /= 2)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            x.v[r] += __shfl_xor_sync(0xffffffffu, x.v[r], distance);
}

/* The gates of the token at `at`, by this warp for its own threads; returns the sum of
 * r * k * r_k, the bonus of the current token. */
static __device__ __forceinline__ float find_gates(const struct delta_state &p,
                                                   const head_weights &w, size_t at, gate_rows &out)
{
    const int own = (int)threadIdx.x % WARP * PAIR;
    const floats<PAIR> raw = load<PAIR>(p.gates.w + at + own), a = load<PAIR>(p.gates.a + at + own);
    const floats<PAIR> r = load<PAIR>(p.out.r + at + own);
    floats<PAIR> k = load<PAIR>(p.gates.k + at + own), kk, decay, b, scaled;
    float square = 0.0f, bonus = 0.0f;

    for (int j = 0; j < PAIR; j++) {
        kk.v[j] = k.v[j] * w.k_k.v[j];
        square += kk.v[j] * kk.v[j];
        k.v[j] = replacing(k.v[j], a.v[j], w.k_a.v[j]);
        bonus += r.v[j] * k.v[j] * w.r_k.v[j];
        decay.v[j] = decay_of(raw.v[j]);
    }

    const float scale = inverse_length(square);

    for (int j = 0; j < PAIR; j++) {
        b.v[j] = -kk.v[j] * scale;
        scaled.v[j] = -b.v[j] * a.v[j];
    }
    __syncwarp(); /* the token before was read */
    store<PAIR>(out.decay + own, decay);
    store<PAIR>(out.k + own, k);
    store<PAIR>(out.b + own, b);
    store<PAIR>(out.a + own, scaled);
    __syncwarp();
    return warp_sum(bonus);
}

/* v of a thread's rows, at `at`: blended with layer 0's from layer 1 on. */
static __device__ __forceinline__ floats<ROWS> load_values(const struct delta_state &p, size_t at)
{
    floats<ROWS> v = load<ROWS>(p.state.v + at);

    if (p.v.n) {
        const floats<ROWS> target = load<ROWS>(p.v.target + at), mix = load<ROWS>(p.v.mix + at);

        for (int r = 0; r < ROWS; r++)
            v.v[r] += (target.v[r] - v.v[r]) * mix.v[r];
    }
    return v;
}

/* One token; returns the outputs. */
static __device__ __forceinline__ floats<ROWS>
advance(columns (&S)[ROWS], const gate_rows &g, const float *query, const floats<ROWS> &v, int lane)
{
    const columns b = load_columns(g.b, lane), decay = load_columns(g.decay, lane);
    const columns k = load_columns(g.k, lane), a = load_columns(g.a, lane);
    const columns q = load_columns(query, lane);
    floats<ROWS> u, y;

    for (int r = 0; r < ROWS; r++)
        u.v[r] = dot(S[r], b);
    sum_rows(u);
    for (int r = 0; r < ROWS; r++) {
        for (int j = 0; j < 2 * RUN; j++)
            S[r].v[j] = S[r].v[j] * decay.v[j] + v.v[r] * k.v[j] + u.v[r] * a.v[j];
        y.v[r] = dot(S[r], q);
    }
    sum_rows(y);
    return y;
}

/* Of a head's K outputs. */
static __device__ __forceinline__ moments head_moments(const floats<ROWS> &y,
                                                       moments (&shared)[WARPS])
{
    moments m = { ((y.v[0] + y.v[1]) + (y.v[2] + y.v[3])) / ROWS, 0.0f };

    for (int r = 0; r < ROWS; r++)
        m.square += (y.v[r] - m.mean) * (y.v[r] - m.mean);
    return join_warps(join_lanes(m, ROWS, LANES), K / WARPS, shared);
}

/* Head blockIdx.x of sequence blockIdx.y, which is read before the wait with its state
 * (cuda.cuh). */
template <bool NARROW>
static __global__ void __launch_bounds__(THREADS)
    decode(const struct delta_state p, const struct device_batch in)
{
    __shared__ gate_rows gates[WARPS];
    __shared__ moments shared[2][WARPS];
    const int head = (int)blockIdx.x, warp = (int)threadIdx.x / WARP;
    const int lane = (int)threadIdx.x % LANES, row = (int)threadIdx.x / LANES * ROWS;
    const int channel = head * K, own = channel + (int)threadIdx.x % WARP * PAIR;
    columns S[ROWS] = {};

    let_next_start();

    const int begin = in.begin[blockIdx.y], end = in.begin[blockIdx.y + 1];
    const struct kept_state state = load_kept(in, p.state.state, NARROW, (int)blockIdx.y)
                                        .from(NARROW, (size_t)((channel + row) * K));

    for (int r = 0; state.at && r < ROWS; r++)
        S[r] = load_row(state, NARROW, r, lane);

    const head_weights w = { load<PAIR>(p.gates.k_k + own), load<PAIR>(p.gates.k_a + own),
                             load<PAIR>(p.out.r_k + own), load<ROWS>(p.out.weight + channel + row),
                             load<ROWS>(p.out.bias + channel + row) };

    wait_for_inputs();
    for (int t = begin; t < end; t++) {
        const size_t at = (size_t)t * (size_t)p.out.H * K + (size_t)channel;
        const floats<ROWS> v = load_values(p, at + row), g = load<ROWS>(p.out.g + at + row);
        const float bonus = find_gates(p, w, at, gates[warp]);
        floats<ROWS> y = advance(S, gates[warp], p.out.r + at, v, lane);

        for (int r = 0; state.at && t + 1 == end && r < ROWS; r++)
            store_row(state, NARROW, r, lane, S[r]);

        const moments m = head_moments(y, shared[t % 2]);
        const float scale = 1.0f / sqrtf(m.square / K + p.out.eps);

        for (int r = 0; r < ROWS; r++) {
            const float normed = (y.v[r] - m.mean) * scale * w.norm.v[r] + w.bias.v[r];

            y.v[r] = (normed + bonus * v.v[r]) * g.v[r];
        }
        if (lane == 0)
            store_numbers<ROWS>(p.out.y_bf16 ? nullptr : p.out.y, p.out.y_bf16, at + row, y);
    }
}

/* Whether each part reads what the one before it writes, in rows without gaps. */
static bool is_chain(const struct delta_state *p)
{
    const struct matrix_state *s = &p->state;
    const size_t row = (size_t)s->H * K;

    return s->w == p->gates.decay && s->a == p->gates.a_out && s->b == p->gates.b &&
           s->k == p->gates.k && p->out.k == s->k && p->out.r == s->q && p->out.v == s->v &&
           p->out.y == s->y && (!p->v.n || p->v.y == s->v) && s->y_ld == row && s->w_ld == row &&
           s->ab_ld == row && s->kq_ld == row && s->v_ld == row;
}

static bool fits(const struct delta_state *p)
{
    const struct matrix_state *s = &p->state;
    const uintptr_t off =
        off_grid(p->v.target, 0) | off_grid(p->v.mix, 0) | off_grid(p->gates.k, 0) |
        off_grid(p->gates.w, 0) | off_grid(p->gates.a, 0) | off_grid(p->gates.k_k, 0) |
        off_grid(p->gates.k_a, 0) | off_grid(s->q, 0) | off_grid(s->v, 0) | off_grid(s->state) |
        off_grid(p->out.y, 0) | off_grid(p->out.y_bf16, 0) | off_grid(p->out.g, 0) |
        off_grid(p->out.r_k, 0) | off_grid(p->out.weight, 0) | off_grid(p->out.bias, 0);

    return s->K == K && s->V == K && s->k_heads == s->H && !s->w_per_head && !s->v_scale &&
           !s->skip && is_chain(p) && off == 0;
}

void delta_state_cuda(struct stream *q, const struct batch *in, const struct delta_state *p)
{
    const bool fit = fits(p);

    if (fit && in->T == in->S) {
        launch(q, "delta_state", is_narrow(p->state.state) ? decode<true> : decode<false>,
               dim3((unsigned)p->out.H, (unsigned)in->S), THREADS, 0, *p, q->in);
        return;
    }
    if (fit && matrix_state_gated(q, in, p))
        return;
    if (p->v.n)
        lerp_cuda(q, &p->v);
    delta_gates_cuda(q, &p->gates);
    matrix_state_cuda(q, in, &p->state);
    head_output_cuda(q, &p->out);
}
