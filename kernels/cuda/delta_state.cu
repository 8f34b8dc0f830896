/* delta_state.cu - a decode step of RWKV-7's heads of 64 in one pass: what leads into the state,
 * the state, and the way out of it (definition: cpu/fused.c, and the files of its parts).
 *
 * A block has one head of some sequences, one after another. Four warps have the state in
 * registers, four neighbouring rows to eight threads, which have two runs of four columns each; the
 * next state is on its way to shared memory meanwhile, and the first one before the kernel in front
 * has ended. A fifth warp goes ahead of them and comes behind: it makes of the next token's rows
 * what its state takes, and of the last one's outputs what leaves the block. What the parts would
 * write for one another stays here. The steps in a state's log come with it. */
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/matrix_rows.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/state_log.cuh"

enum {
    K = 64,
    STATE_THREADS = 128,
    THREADS = STATE_THREADS + WARP,
    BLOCKS_OF_AN_SM = 4,
    LANES = 8, /* of a row */
    ROWS = 4,  /* of a thread */
    RUN = 4,
    PAIR = 2,   /* columns of a lane of the fifth warp */
    STAGES = 2, /* states */
    TOKENS = 4  /* the last one's rows, this one's, the next one's, and those on their way */
};

/* A token's rows, as they come and as the state takes them: the first are those of a step. */
enum { RAW, RATE, KEY, VALUE, TARGET, TAKEN_IN, QUERY = TAKEN_IN, MIX, GATE, INPUTS };
enum { DECAY = RAW, DELTA = RATE, REMOVAL = TARGET };

typedef float token_rows[INPUTS][K];
typedef float step_rows[TAKEN_IN][K];
typedef step_rows logged_steps[LOG_STEPS - 1];

struct inputs {
    const float *of[INPUTS]; /* [T, H * K]; those of TARGET and MIX may be NULL */
};

/* Sums over the threads of a row, of row lane / 2 alone. */
static __device__ __forceinline__ float sum_own_row(const float (&x)[ROWS], int lane)
{
    const bool lower = lane & 4, odd = lane & 2;
    float a = lower ? x[2] : x[0], b = lower ? x[3] : x[1];

    a += __shfl_xor_sync(0xffffffffu, lower ? x[0] : x[2], 4);
    b += __shfl_xor_sync(0xffffffffu, lower ? x[1] : x[3], 4);
    a = (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, 2);
    return a + __shfl_xor_sync(0xffffffffu, a, 1);
}

/* A state on its way, each thread's pieces: rows four of them, in two runs each. */
typedef uint4 stage[2 * ROWS][STATE_THREADS]; /* half of each, if the state is narrow */

/* Of piece i, from the thread's first number. */
static __device__ __forceinline__ int place_of(int i)
{
    return i / 2 * K + i % 2 * (K / 2);
}

/* s begins with the thread's first number. */
static __device__ __forceinline__ void fetch_state(stage &to, const kept_state &s, bool narrow)
{
    uint4 *const piece = &to[0][threadIdx.x];

    if (!s.at) {
#pragma unroll
        for (int i = 0; i < 2 * ROWS; i++)
            piece[i * STATE_THREADS] = { 0, 0, 0, 0 };
        return;
    }
#pragma unroll
    for (int i = 0; i < 2 * ROWS; i++) {
        if (narrow)
            copy_async<8>(piece + i * STATE_THREADS, (const uint16_t *)s.at + place_of(i));
        else
            copy_async<16>(piece + i * STATE_THREADS, (const float *)s.at + place_of(i));
    }
}

static __device__ __forceinline__ columns load_row(const stage &from, bool narrow, int r)
{
    const uint4 a = from[2 * r][threadIdx.x], b = from[2 * r + 1][threadIdx.x];
    const float4 lo = narrow ? widen(make_uint2(a.x, a.y)) : *(const float4 *)&a;
    const float4 hi = narrow ? widen(make_uint2(b.x, b.y)) : *(const float4 *)&b;

    return { { lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w } };
}

static __device__ __forceinline__ struct log_shape sizes_of(int H)
{
    return { H, K, K, H, false, true };
}

/* The rows of this head in a log on their way, a piece of a row for each thread. */
static __device__ __forceinline__ void fetch_steps(logged_steps &to, const struct kept_log &log,
                                                   int H)
{
    enum { PIECES = K / RUN };
    const int n = log.count * TAKEN_IN * PIECES;

    for (int i = (int)threadIdx.x; i < n; i += STATE_THREADS) {
        const int run = i % PIECES * RUN, row = i / PIECES % TAKEN_IN, step = i / PIECES / TAKEN_IN;
        const struct log_entry e = find_entry(sizes_of(H), log.at, step, (int)blockIdx.x);
        const float *from = row == DECAY   ? e.w
                            : row == KEY   ? e.k
                            : row == VALUE ? e.v
                            : row == DELTA ? e.a
                                           : e.b;

        copy_async<16>(&to[step][row][run], from + run);
    }
}

/* One step, of a log or of a token. */
static __device__ __forceinline__ void take_in(columns (&S)[ROWS], const float (*step)[K], int row,
                                               int lane)
{
    const step_columns c = { load_columns<K, true>(step[DECAY], lane),
                             load_columns<K, true>(step[KEY], lane),
                             load_columns<K, true>(step[DELTA], lane),
                             load_columns<K, true>(step[REMOVAL], lane) };
    const floats<ROWS> v = load<ROWS>(step[VALUE] + row);

    take_in<LANES, true>(S, c, v.v);
}

/* What leaves the state: the sum of row lane / 2. */
static __device__ __forceinline__ float look_up(const columns (&S)[ROWS], const token_rows &token,
                                                int lane)
{
    const columns q = load_columns<K, true>(token[QUERY], lane);
    float y[ROWS];

    for (int r = 0; r < ROWS; r++)
        y[r] = dot(S[r], q);
    return sum_own_row(y, lane);
}

/* A head's constants, two columns or rows to a lane. */
struct head_weights {
    floats<PAIR> k_k, k_a, r_k, norm, bias;
};

/* Makes of the rows what the state takes, this lane's columns; returns the sum of r * k * r_k, the
 * bonus of the current token. v is blended with layer 0's from layer 1 on. */
static __device__ __forceinline__ float prepare(token_rows &token, const head_weights &w,
                                                bool blends, int own)
{
    const floats<PAIR> raw = load<PAIR>(token[RAW] + own), a = load<PAIR>(token[RATE] + own);
    const floats<PAIR> r = load<PAIR>(token[QUERY] + own);
    floats<PAIR> k = load<PAIR>(token[KEY] + own), v = load<PAIR>(token[VALUE] + own);
    floats<PAIR> kk, decay, b, delta;
    float square = 0.0f, bonus = 0.0f;

    for (int j = 0; j < PAIR; j++) {
        kk.v[j] = k.v[j] * w.k_k.v[j];
        square += kk.v[j] * kk.v[j];
        k.v[j] = replacing(k.v[j], a.v[j], w.k_a.v[j]);
        bonus += r.v[j] * k.v[j] * w.r_k.v[j];
        decay.v[j] = decay_of(raw.v[j]);
        if (blends)
            v.v[j] += (token[TARGET][own + j] - v.v[j]) * token[MIX][own + j];
    }

    const float scale = inverse_length(square);

    for (int j = 0; j < PAIR; j++) {
        b.v[j] = -kk.v[j] * scale;
        delta.v[j] = -b.v[j] * a.v[j];
    }
    store<PAIR>(token[DECAY] + own, decay);
    store<PAIR>(token[KEY] + own, k);
    store<PAIR>(token[VALUE] + own, v);
    store<PAIR>(token[REMOVAL] + own, b);
    store<PAIR>(token[DELTA] + own, delta);
    return warp_sum(bonus);
}

/* The outputs of row t, this lane's two. */
static __device__ __forceinline__ void put_out(const struct head_output &o, const token_rows &token,
                                               const head_weights &w, const float *outputs,
                                               float bonus, size_t at, int own)
{
    floats<PAIR> y = load<PAIR>(outputs + own);
    const floats<PAIR> v = load<PAIR>(token[VALUE] + own), g = load<PAIR>(token[GATE] + own);
    const float mean = warp_sum(y.v[0] + y.v[1]) / K;
    const float a = y.v[0] - mean, b = y.v[1] - mean;
    const float scale = 1.0f / sqrtf(warp_sum(a * a + b * b) / K + o.eps);

    for (int j = 0; j < PAIR; j++) {
        const float normed = (y.v[j] - mean) * scale * w.norm.v[j] + w.bias.v[j];

        y.v[j] = (normed + bonus * v.v[j]) * g.v[j];
    }
    store_numbers<PAIR>(o.y_bf16 ? nullptr : o.y, o.y_bf16, at + own, y);
}

/* The sequences of a block: every gridDim.y-th from blockIdx.y on, a row of the batch each. */
static __device__ __forceinline__ int sequence_of(int i)
{
    return (int)blockIdx.y + i * (int)gridDim.y;
}

/* A sequence as the batch has it, before anything is made of that: it is loaded long before it is
 * looked at, so that nobody waits for it. */
struct sequence_slot {
    int slot, logged;
    uint32_t position;
};

static __device__ __forceinline__ struct sequence_slot slot_of(const struct device_batch &in,
                                                               bool narrow, int i, int count)
{
    if (i >= count)
        return { SLOT_NONE, -1, 0 };
    return { in.slot[sequence_of(i)], in.logged[sequence_of(i)],
             narrow ? in.position[sequence_of(i)] : 0 };
}

/* What the four warps do. */
template <bool NARROW>
static __device__ __forceinline__ void
go_through_states(const struct delta_state &p, const struct device_batch &in, int count,
                  stage *ring, logged_steps *logged, const token_rows *tokens, float (&y)[2][K])
{
    const struct field &field = p.state.state;
    const int lane = (int)threadIdx.x % LANES, row = (int)threadIdx.x / LANES * ROWS;
    const size_t first = ((size_t)blockIdx.x * K + row) * K + RUN * lane;
    const auto state_of = [&](const struct sequence_slot &s) {
        return find_kept(field, NARROW, s.slot, s.position + 1).from(NARROW, first);
    };
    const auto log_of = [&](const struct sequence_slot &s) {
        return find_log(field, s.slot, s.logged);
    };
    struct sequence_slot now = slot_of(in, NARROW, 0, count), next = slot_of(in, NARROW, 1, count);

    fetch_state(ring[0], state_of(now), NARROW);
    fetch_steps(logged[0], log_of(now), p.out.H);
    copies_commit();
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        const struct sequence_slot after = slot_of(in, NARROW, i + 2, count);
        columns S[ROWS];

        if (i + 1 < count)
            fetch_state(ring[(i + 1) % STAGES], state_of(next), NARROW);
        copies_commit();
        copies_wait<1>();
        for (int r = 0; r < ROWS; r++)
            S[r] = load_row(ring[i % STAGES], NARROW, r);
        __syncthreads(); /* the token's rows are ready, the log's are here, and the last one's free
                          */
        fetch_steps(logged[(i + 1) % STAGES], log_of(next), p.out.H);
        copies_commit();

        const struct kept_log log = log_of(now);

#pragma unroll 1
        for (int step = 0; step < log.count; step++)
            take_in(S, logged[i % STAGES][step], row, lane);
        take_in(S, tokens[i % TOKENS], row, lane);

        const float sum = look_up(S, tokens[i % TOKENS], lane);

        if (lane % 2 == 0)
            y[i % 2][row + lane / 2] = sum;
        if (log.writes) {
            const struct kept_state state = state_of(now);

#pragma unroll
            for (int r = 0; r < ROWS; r++)
                store_row<K, true>(state, NARROW, r, 0, S[r]);
        }
        now = next;
        next = after;
    }
    __syncthreads();
}

/* The token becomes an entry of the log, this lane's columns. */
static __device__ __forceinline__ void keep_rows(const struct kept_log &log,
                                                 const token_rows &token, int H, int own)
{
    if (!log.at || log.writes)
        return;

    const struct log_entry e = find_entry(sizes_of(H), log.at, log.count, (int)blockIdx.x);

    store<PAIR>(e.w + own, load<PAIR>(token[DECAY] + own));
    store<PAIR>(e.k + own, load<PAIR>(token[KEY] + own));
    store<PAIR>(e.v + own, load<PAIR>(token[VALUE] + own));
    store<PAIR>(e.a + own, load<PAIR>(token[DELTA] + own));
    store<PAIR>(e.b + own, load<PAIR>(token[REMOVAL] + own));
}

/* What the fifth one does. */
static __device__ __forceinline__ void go_ahead_and_behind(const struct delta_state &p,
                                                           const struct inputs &inputs,
                                                           const struct device_batch &in, int count,
                                                           token_rows *tokens,
                                                           const float (&y)[2][K])
{
    const int channel = (int)blockIdx.x * K, lane = (int)threadIdx.x % WARP, own = lane * PAIR;
    const size_t width = (size_t)p.out.H * K;
    const head_weights w = { load<PAIR>(p.gates.k_k + channel + own),
                             load<PAIR>(p.gates.k_a + channel + own),
                             load<PAIR>(p.out.r_k + channel + own),
                             load<PAIR>(p.out.weight + channel + own),
                             load<PAIR>(p.out.bias + channel + own) };
    const auto fetch_rows = [&](int i) {
        const size_t at = sequence_of(i) * width + channel + lane % (K / RUN) * RUN;

#pragma unroll
        for (int j = 0; i < count && j < INPUTS; j += 2) { /* two rows at a time */
            const float *from = lane < K / RUN ? inputs.of[j] : inputs.of[j + 1];

            if (from)
                copy_async<16>(&tokens[i % TOKENS][j + lane / (K / RUN)][lane % (K / RUN) * RUN],
                               from + at);
        }
        copies_commit();
    };
    struct sequence_slot slot = slot_of(in, false, 0, count);
    float last = 0.0f, bonus;

    wait_for_inputs();
    fetch_rows(0);
    fetch_rows(1);
    copies_wait<1>();
    __syncwarp();
    bonus = prepare(tokens[0], w, p.v.n > 0, own);
#pragma unroll 1
    for (int i = 0; i <= count; i++) {
        __syncthreads(); /* this token's rows are ready, and the last one's outputs */
        if (i > 0)
            put_out(p.out, tokens[(i - 1) % TOKENS], w, y[(i - 1) % 2], last,
                    sequence_of(i - 1) * width + channel, own);
        last = bonus;
        if (i < count)
            keep_rows(find_log(p.state.state, slot.slot, slot.logged), tokens[i % TOKENS], p.out.H,
                      own);
        slot = slot_of(in, false, i + 1, count);
        fetch_rows(i + 2);
        copies_wait<1>();
        __syncwarp();
        if (i + 1 < count)
            bonus = prepare(tokens[(i + 1) % TOKENS], w, p.v.n > 0, own);
    }
}

/* Head blockIdx.x of some sequences, which are read before the wait with the first state
 * (cuda.cuh). */
template <bool NARROW>
static __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    decode(const struct delta_state p, const struct inputs inputs, const struct device_batch in,
           int sequences)
{
    extern __shared__ __align__(16) char shared[];
    __shared__ alignas(8) float y[2][K];
    const int most = (sequences + (int)gridDim.y - 1) / (int)gridDim.y;
    const int count = (sequences - (int)blockIdx.y + (int)gridDim.y - 1) / (int)gridDim.y;
    stage *const ring = (stage *)shared;
    token_rows *const tokens = (token_rows *)(ring + min(most, (int)STAGES));
    logged_steps *const logged = (logged_steps *)(tokens + min(most, (int)TOKENS));

    let_next_start();
    if (threadIdx.x < STATE_THREADS)
        go_through_states<NARROW>(p, in, count, ring, logged, tokens, y);
    else
        go_ahead_and_behind(p, inputs, in, count, tokens, y);
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
    if (run_parts(q, p, true, delta_state_cuda))
        return;

    const bool fit = fits(p);

    if (fit && q->row_each) {
        const int most = max(q->sms * BLOCKS_OF_AN_SM / p->out.H, 1); /* blocks of a head */
        const int each = ceil_div(in->S, most);
        const size_t logged = p->state.state.log ? STAGES * sizeof(logged_steps) : 0;
        const struct inputs inputs = { { p->gates.w, p->gates.a, p->gates.k, p->state.v,
                                         p->v.n ? p->v.target : NULL, p->out.r,
                                         p->v.n ? p->v.mix : NULL, p->out.g } };

        launch(q, "delta_state", is_narrow(p->state.state) ? decode<true> : decode<false>,
               dim3((unsigned)p->out.H, (unsigned)ceil_div(in->S, each)), THREADS,
               min(each, (int)STAGES) * sizeof(stage) +
                   min(each, (int)TOKENS) * sizeof(token_rows) + logged,
               *p, inputs, q->in, in->S);
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
