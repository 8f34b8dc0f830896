/* matrix_state.cu - the matrix state token by token (definition: cpu/matrix_state.c).
 *
 * For K = 64 and 128 a row of the state lies in the registers of K / 8 neighbouring threads.
 * A decode step takes its vectors straight from memory and has all of the state on its way at
 * once; longer sequences take them through shared memory, the next tokens' on their way while
 * one is worked on. Any other K takes a warp a row with the state in memory. */
#include "kernels/cuda/matrix_state.cuh"

enum { THREADS = 128 };

/* Of the K columns a thread has two runs of four: from 4 * lane and from K / 2 + 4 * lane. */
template <int K> struct shape {
    enum { OWN = 8, LANES = K / OWN, GROUPS = THREADS / LANES };
};

struct columns {
    float v[8];
};

template <int K, bool ALIGNED>
static __device__ __forceinline__ columns load_columns(const float *p, int lane)
{
    const float4 lo = load4<ALIGNED>(p + 4 * lane), hi = load4<ALIGNED>(p + K / 2 + 4 * lane);

    return { { lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w } };
}

/* The same of row `row` of a state. */
template <int K, bool ALIGNED>
static __device__ __forceinline__ columns load_row(const kept_state &s, bool narrow, int row,
                                                   int lane)
{
    const size_t at = (size_t)(row * K + 4 * lane);
    const float4 lo = load_kept4<ALIGNED>(s, narrow, at);
    const float4 hi = load_kept4<ALIGNED>(s, narrow, at + K / 2);

    return { { lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w } };
}

template <int K, bool ALIGNED>
static __device__ __forceinline__ void store_row(const kept_state &s, bool narrow, int row,
                                                 int lane, const columns &x)
{
    const size_t at = (size_t)(row * K + 4 * lane);

    store_kept4<ALIGNED>(s, narrow, at, make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
    store_kept4<ALIGNED>(s, narrow, at + K / 2, make_float4(x.v[4], x.v[5], x.v[6], x.v[7]));
}

/* One token's vectors, a thread's columns of them. */
struct token_columns {
    columns w, a, b, k, q; /* w: one value in all if it is per head */
};

template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED>
static __device__ __forceinline__ token_columns load_token(const struct head_vectors &h, int lane)
{
    token_columns c;

    c.k = load_columns<K, ALIGNED>(h.k, lane);
    c.q = load_columns<K, ALIGNED>(h.q, lane);
    if (PER_HEAD)
        for (int j = 0; j < 8; j++)
            c.w.v[j] = *h.w;
    else
        c.w = load_columns<K, ALIGNED>(h.w, lane);
    if (DELTA) {
        c.a = load_columns<K, ALIGNED>(h.a, lane);
        c.b = load_columns<K, ALIGNED>(h.b, lane);
    }
    return c;
}

static __device__ __forceinline__ float dot(const columns &x, const columns &y)
{
    float even = 0.0f, odd = 0.0f;

    for (int j = 0; j < 8; j += 2) {
        even += x.v[j] * y.v[j];
        odd += x.v[j + 1] * y.v[j + 1];
    }
    return even + odd;
}

/* Sums over the threads of a row, in every one of them. */
template <int LANES, int ROWS> static __device__ __forceinline__ void sum_rows(float (&x)[ROWS])
{
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            x[r] += __shfl_xor_sync(0xffffffffu, x[r], d);
}

/* One token of ROWS rows: v is scaled, y without the skip. */
template <int K, bool DELTA, int ROWS>
static __device__ __forceinline__ void step(columns (&S)[ROWS], const token_columns &c,
                                            const float (&v)[ROWS], float (&y)[ROWS])
{
    float u[ROWS];

    if (DELTA) {
        for (int r = 0; r < ROWS; r++)
            u[r] = dot(S[r], c.b);
        sum_rows<shape<K>::LANES>(u);
    }
    for (int r = 0; r < ROWS; r++) {
        for (int j = 0; j < 8; j++) {
            float next = S[r].v[j] * c.w.v[j] + v[r] * c.k.v[j];

            if (DELTA)
                next += u[r] * c.a.v[j];
            S[r].v[j] = next;
        }
        y[r] = dot(S[r], c.q);
    }
    sum_rows<shape<K>::LANES>(y);
}

/* Block (x, y, z) has rows of head y of sequence z; a thread's are GROUPS apart. */
template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED, bool NARROW, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    decode(const struct matrix_state p, const struct device_batch in)
{
    enum { LANES = shape<K>::LANES, GROUPS = shape<K>::GROUPS };
    const int lane = (int)threadIdx.x % LANES, head = (int)blockIdx.y;
    const int first = (int)blockIdx.x * GROUPS * ROWS + (int)threadIdx.x / LANES;
    const float skip = p.skip ? p.skip[head] : 0.0f;
    columns S[ROWS] = {};

    let_next_start();
    wait_for_inputs();

    const struct kept_state state = head_state(p, in, NARROW, (int)blockIdx.z, head);

    for (int r = 0; r < ROWS; r++)
        if (state.at && first + r * GROUPS < p.V)
            S[r] = load_row<K, ALIGNED>(state, NARROW, first + r * GROUPS, lane);
    for (int t = in.begin[blockIdx.z], end = in.begin[blockIdx.z + 1]; t < end; t++) {
        const struct head_vectors h = find_vectors(p, t, head);
        const token_columns c = load_token<K, DELTA, PER_HEAD, ALIGNED>(h, lane);
        const float scale = p.v_scale ? p.v_scale[(size_t)t * p.w_ld + (size_t)head] : 1.0f;
        float *out = p.y + (size_t)t * p.y_ld + (size_t)head * (size_t)p.V;
        float raw[ROWS], v[ROWS], y[ROWS];

        for (int r = 0; r < ROWS; r++) {
            raw[r] = first + r * GROUPS < p.V ? h.v[first + r * GROUPS] : 0.0f;
            v[r] = raw[r] * scale;
        }
        step<K, DELTA>(S, c, v, y);
        for (int r = 0; r < ROWS; r++)
            if (lane == 0 && first + r * GROUPS < p.V)
                out[first + r * GROUPS] = y[r] + skip * raw[r];
    }
    for (int r = 0; r < ROWS; r++)
        if (state.at && first + r * GROUPS < p.V)
            store_row<K, ALIGNED>(state, NARROW, first + r * GROUPS, lane, S[r]);
}

/* Some tokens of one head in shared memory, with the values of a block's rows. */
template <int K, bool DELTA, bool PER_HEAD> struct alignas(16) stage {
    enum { TOKENS = 1024 / K, ROWS = shape<K>::GROUPS };
    float k[TOKENS][K], q[TOKENS][K];
    float w[TOKENS][PER_HEAD ? 4 : K]; /* 4: the rows stay aligned */
    float a[TOKENS][DELTA ? K : 4], b[TOKENS][DELTA ? K : 4];
    float v[TOKENS][ROWS], scale[TOKENS];
};

/* One row of `width` floats on its way. */
template <bool ALIGNED>
static __device__ __forceinline__ void fetch(float *to, const float *from, int width, int thread,
                                             int threads)
{
    enum { RUN = ALIGNED ? 4 : 1 };

    for (int i = thread * RUN; i < width; i += threads * RUN)
        copy_async<4 * RUN>(to + i, from + i);
}

/* A warp fetches a token. */
template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED>
static __device__ __forceinline__ void fetch_stage(const struct matrix_state &p,
                                                   stage<K, DELTA, PER_HEAD> &to, int t, int rows,
                                                   int head, int row)
{
    const int lane = (int)threadIdx.x % 32, width = p.V - row < to.ROWS ? p.V - row : to.ROWS;

    for (int i = (int)threadIdx.x / 32; i < rows; i += THREADS / 32) {
        const struct head_vectors h = find_vectors(p, t + i, head);

        fetch<ALIGNED>(to.k[i], h.k, K, lane, 32);
        fetch<ALIGNED>(to.q[i], h.q, K, lane, 32);
        if (PER_HEAD)
            fetch<false>(to.w[i], h.w, 1, lane, 32);
        else
            fetch<ALIGNED>(to.w[i], h.w, K, lane, 32);
        if (DELTA) {
            fetch<ALIGNED>(to.a[i], h.a, K, lane, 32);
            fetch<ALIGNED>(to.b[i], h.b, K, lane, 32);
        }
        fetch<false>(to.v[i], h.v + row, width, lane, 32);
        if (p.v_scale)
            fetch<false>(&to.scale[i], p.v_scale + (size_t)(t + i) * p.w_ld + (size_t)head, 1, lane,
                         32);
    }
}

/* As decode() with one row a thread, for sequences of at most `longest` rows. */
template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS)
    walk(const struct matrix_state p, const struct device_batch in, int longest)
{
    typedef stage<K, DELTA, PER_HEAD> stage_type;
    enum { LANES = shape<K>::LANES, ROWS = shape<K>::GROUPS, TOKENS = stage_type::TOKENS };
    extern __shared__ float4 shared[];
    stage_type *stages = (stage_type *)shared;
    __shared__ float y[TOKENS][ROWS];
    const int lane = (int)threadIdx.x % LANES, group = (int)threadIdx.x / LANES;
    const int head = (int)blockIdx.y, row = (int)blockIdx.x * ROWS;
    const bool mine = row + group < p.V;
    const float skip = p.skip ? p.skip[head] : 0.0f;
    columns S[1] = {};

    let_next_start();
    wait_for_inputs();

    const int begin = in.begin[blockIdx.z], end = in.begin[blockIdx.z + 1];
    const bool narrow = is_narrow(p.state);
    const struct kept_state state = head_state(p, in, narrow, (int)blockIdx.z, head);

    if (end - begin > longest)
        return;
    if (state.at && mine)
        S[0] = load_row<K, ALIGNED>(state, narrow, row + group, lane);
    fetch_stage<K, DELTA, PER_HEAD, ALIGNED>(
        p, stages[0], begin, end - begin < TOKENS ? end - begin : TOKENS, head, row);
    copies_commit();
    for (int t = begin, now = 0; t < end; t += TOKENS, now ^= 1) {
        const int left = end - t, rows = left < TOKENS ? left : TOKENS;
        const int next = left - rows < TOKENS ? left - rows : TOKENS;
        const stage_type &at = stages[now];

        fetch_stage<K, DELTA, PER_HEAD, ALIGNED>(p, stages[now ^ 1], t + TOKENS, next, head, row);
        copies_commit();
        copies_wait<1>();
        __syncthreads();
        for (int i = 0; i < rows; i++) {
            const struct head_vectors h = { at.w[i], at.a[i], at.b[i], at.k[i], at.q[i], at.v[i] };
            const token_columns c = load_token<K, DELTA, PER_HEAD, true>(h, lane);
            const float raw = mine ? h.v[group] : 0.0f;
            const float v[1] = { p.v_scale ? raw * at.scale[i] : raw };
            float sum[1];

            step<K, DELTA>(S, c, v, sum);
            if (lane == 0)
                y[i][group] = sum[0] + skip * raw;
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < rows * ROWS; i += THREADS)
            if (row + i % ROWS < p.V)
                p.y[(size_t)(t + i / ROWS) * p.y_ld + (size_t)(head * p.V + row + i % ROWS)] =
                    y[i / ROWS][i % ROWS];
    }
    if (state.at && mine)
        store_row<K, ALIGNED>(state, narrow, row + group, lane, S[0]);
}

/* Any K: a warp takes one row of one head. */
static __global__ void __launch_bounds__(THREADS)
    walk_any(const struct matrix_state p, const struct device_batch in)
{
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x) / 32, lane = (int)threadIdx.x % 32;
    const int head = (int)blockIdx.y;
    extern __shared__ float rows[]; /* of narrow states: [warps, K] */

    let_next_start();
    if (i >= p.V)
        return;
    wait_for_inputs();

    const bool narrow = is_narrow(p.state);
    const struct kept_state state =
        head_state(p, in, narrow, (int)blockIdx.z, head).from(narrow, (size_t)i * (size_t)p.K);
    float *S = narrow ? rows + (int)threadIdx.x / 32 * p.K : (float *)state.at;

    for (int j = lane; narrow && j < p.K; j += 32)
        S[j] = state.at ? load_kept1(state, narrow, (size_t)j) : 0.0f;
    for (int t = in.begin[blockIdx.z]; t < in.begin[blockIdx.z + 1]; t++) {
        const struct head_vectors h = find_vectors(p, t, head);
        const float scale = p.v_scale ? p.v_scale[(size_t)t * p.w_ld + (size_t)head] : 1.0f;
        const float v = h.v[i] * scale;
        float u[1] = {}, y[1] = {};

        for (int j = lane; S && h.b && j < p.K; j += 32)
            u[0] += S[j] * h.b[j];
        sum_rows<32>(u);
        for (int j = lane; S && j < p.K; j += 32) {
            float next = S[j] * h.w[p.w_per_head ? 0 : j] + v * h.k[j];

            if (h.a)
                next += u[0] * h.a[j];
            y[0] += next * h.q[j];
            S[j] = next;
        }
        sum_rows<32>(y);
        if (lane == 0)
            p.y[(size_t)t * p.y_ld + (size_t)(head * p.V + i)] =
                p.skip ? y[0] + p.skip[head] * h.v[i] : y[0];
    }
    for (int j = lane; narrow && state.at && j < p.K; j += 32)
        store_kept1(state, narrow, (size_t)j, S[j]);
}

template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED, bool NARROW>
static void run_decode(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    enum { MANY = 4, GROUPS = shape<K>::GROUPS };
    const unsigned H = (unsigned)p->H, S = (unsigned)in->S;
    const dim3 one((unsigned)ceil_div(p->V, GROUPS), H, S);
    const dim3 many((unsigned)ceil_div(p->V, GROUPS * MANY), H, S);

    if ((long)many.x * many.y * many.z >= 2L * q->sms)
        launch(q, "matrix_state", decode<K, DELTA, PER_HEAD, ALIGNED, NARROW, MANY>, many, THREADS,
               0, *p, q->in);
    else
        launch(q, "matrix_state", decode<K, DELTA, PER_HEAD, ALIGNED, NARROW, 1>, one, THREADS, 0,
               *p, q->in);
}

template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED>
static void run_walk(struct stream *q, const struct batch *in, const struct matrix_state *p,
                     int longest)
{
    const size_t bytes = 2 * sizeof(stage<K, DELTA, PER_HEAD>);
    const dim3 grid((unsigned)ceil_div(p->V, shape<K>::GROUPS), (unsigned)p->H, (unsigned)in->S);

    stream_note(q,
                cudaFuncSetAttribute(walk<K, DELTA, PER_HEAD, ALIGNED>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                "matrix_state");
    launch(q, "matrix_state", walk<K, DELTA, PER_HEAD, ALIGNED>, grid, THREADS, bytes, *p, q->in,
           longest);
}

template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED>
static void run(struct stream *q, const struct batch *in, const struct matrix_state *p, int longest)
{
    if (in->T > in->S)
        run_walk<K, DELTA, PER_HEAD, ALIGNED>(q, in, p, longest);
    else if (is_narrow(p->state))
        run_decode<K, DELTA, PER_HEAD, ALIGNED, true>(q, in, p);
    else
        run_decode<K, DELTA, PER_HEAD, ALIGNED, false>(q, in, p);
}

template <int K, bool DELTA, bool PER_HEAD>
static void run_shape(struct stream *q, const struct batch *in, const struct matrix_state *p,
                      int longest)
{
    const uintptr_t off = (PER_HEAD ? 0 : off_grid(p->w, p->w_ld)) | off_grid(p->a, p->ab_ld) |
                          off_grid(p->b, p->ab_ld) | off_grid(p->k, p->kq_ld) |
                          off_grid(p->q, p->kq_ld) | off_grid(p->state);

    if (off == 0)
        run<K, DELTA, PER_HEAD, true>(q, in, p, longest);
    else
        run<K, DELTA, PER_HEAD, false>(q, in, p, longest);
}

template <int K>
static void run_columns(struct stream *q, const struct batch *in, const struct matrix_state *p,
                        int longest)
{
    if (p->a && p->w_per_head)
        run_shape<K, true, true>(q, in, p, longest);
    else if (p->a)
        run_shape<K, true, false>(q, in, p, longest);
    else if (p->w_per_head)
        run_shape<K, false, true>(q, in, p, longest);
    else
        run_shape<K, false, false>(q, in, p, longest);
}

void matrix_state_cuda(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    const dim3 any((unsigned)ceil_div(p->V * 32, THREADS), (unsigned)p->H, (unsigned)in->S);
    const int longest = p->a ? matrix_state_delta(q, in, p) : matrix_state_scalar(q, in, p);

    if (in->S == 1 && in->T > longest)
        return;
    if (p->K == 64)
        run_columns<64>(q, in, p, longest);
    else if (p->K == 128)
        run_columns<128>(q, in, p, longest);
    else
        launch(q, "matrix_state", walk_any, any, THREADS,
               is_narrow(p->state) ? THREADS / 32 * (size_t)p->K * sizeof(float) : 0, *p, q->in);
}
