/* matrix_state.cu - the matrix state token by token (definition: cpu/matrix_state.c).
 *
 * For K = 64 and 128 a row of the state lies in the registers of K / 8 neighbouring threads.
 * A sequence of one row takes its vectors straight from memory, has all of the state on its way at
 * once, and the steps in its log; longer sequences take them through shared memory, the next
 * tokens' on their way while one is worked on. Any other K takes a warp a row with the state in
 * memory. */
#include "kernels/cuda/matrix_rows.cuh"
#include "kernels/cuda/parts.cuh"
#include "kernels/cuda/state_log.cuh"

enum { THREADS = 128 };

template <int K> struct shape {
    enum { LANES = K / 8, GROUPS = THREADS / LANES };
};

/* One token's vectors, a thread's columns of them. */
struct token_columns {
    step_columns in;
    columns q;
};

template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED>
static __device__ __forceinline__ token_columns load_token(const struct head_vectors &h, int lane)
{
    token_columns c;

    c.in = load_step<K, DELTA, PER_HEAD, ALIGNED>(h.k, h.a, h.b, h.w, lane);
    c.q = load_columns<K, ALIGNED>(h.q, lane);
    return c;
}

/* One token of ROWS rows: v is scaled, y without the skip. */
template <int K, bool DELTA, int ROWS>
static __device__ __forceinline__ void step(columns (&S)[ROWS], const token_columns &c,
                                            const float (&v)[ROWS], float (&y)[ROWS])
{
    take_in<shape<K>::LANES, DELTA>(S, c.in, v);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        y[r] = dot(S[r], c.q);
    sum_rows<shape<K>::LANES>(y);
}

/* One row of `width` floats on its way. */
template <bool ALIGNED>
static __device__ __forceinline__ void fetch(float *to, const float *from, int width, int thread,
                                             int threads)
{
    enum { RUN = ALIGNED ? 4 : 1 };

    for (int i = thread * RUN; i < width; i += threads * RUN)
        copy_async<4 * RUN>(to + i, from + i);
}

/* A step of a log, of one head and the values of a block's rows. */
template <int K, bool DELTA, bool PER_HEAD, int ROWS> struct alignas(16) logged_step {
    float k[K], w[PER_HEAD ? 4 : K]; /* 4: the rows stay aligned */
    float a[DELTA ? K : 4], b[DELTA ? K : 4];
    float v[ROWS];
};

template <int K, bool DELTA, bool PER_HEAD, int ROWS>
static __device__ __forceinline__ void fetch_step(logged_step<K, DELTA, PER_HEAD, ROWS> &to,
                                                  const struct log_entry &e, int V, int row)
{
    const int thread = (int)threadIdx.x;

    fetch<true>(to.k, e.k, K, thread, THREADS);
    fetch<!PER_HEAD>(to.w, e.w, PER_HEAD ? 1 : K, thread, THREADS);
    if (DELTA) {
        fetch<true>(to.a, e.a, K, thread, THREADS);
        fetch<true>(to.b, e.b, K, thread, THREADS);
    }
    fetch<true>(to.v, e.v + row, min(V - row, ROWS), thread, THREADS);
}

static __device__ __forceinline__ void store_columns(float *p, int half, int lane, const columns &x)
{
    store4<true>(p + 4 * lane, make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
    store4<true>(p + half + 4 * lane, make_float4(x.v[4], x.v[5], x.v[6], x.v[7]));
}

/* The step becomes an entry: what does not depend on the row comes from the block's first row. */
template <int K, bool DELTA, bool PER_HEAD, int ROWS>
static __device__ __forceinline__ void put_step(const struct log_entry &e, const step_columns &c,
                                                const float (&v)[ROWS], int V, int row,
                                                bool first_of_k, int lane)
{
    if (row == 0 && first_of_k)
        store_columns(e.k, K / 2, lane, c.k);
    if (row == 0 && !PER_HEAD)
        store_columns(e.w, K / 2, lane, c.w);
    if (row == 0 && PER_HEAD && lane == 0)
        *e.w = c.w.v[0];
    if (row == 0 && DELTA) {
        store_columns(e.a, K / 2, lane, c.a);
        store_columns(e.b, K / 2, lane, c.b);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (lane == 0 && row + r * shape<K>::GROUPS < V)
            e.v[row + r * shape<K>::GROUPS] = v[r];
}

/* Block (x, y, z) has rows of head y of sequence z, if that has one row in the batch; a thread's
 * rows are GROUPS apart. */
template <int K, bool DELTA, bool PER_HEAD, bool ALIGNED, bool NARROW, int ROWS>
static __global__ void __launch_bounds__(THREADS)
    decode(const struct matrix_state p, const struct device_batch in)
{
    enum { LANES = shape<K>::LANES, GROUPS = shape<K>::GROUPS };
    __shared__ logged_step<K, DELTA, PER_HEAD, GROUPS * ROWS> logged[LOG_STEPS - 1];
    const int lane = (int)threadIdx.x % LANES, head = (int)blockIdx.y, s = (int)blockIdx.z;
    const int group = (int)threadIdx.x / LANES, row = (int)blockIdx.x * GROUPS * ROWS;
    const float skip = p.skip ? p.skip[head] : 0.0f;
    const struct log_shape sizes = { p.H, p.V, K, p.k_heads, PER_HEAD, DELTA };
    columns S[ROWS] = {};
    float raw[ROWS] = {}, v[ROWS], y[ROWS];

    let_next_start();
    wait_for_inputs();

    const int t = in.begin[s];

    if (in.begin[s + 1] - t != 1)
        return;

    const struct kept_state state = head_state(p, in, NARROW, s, head);
    const struct kept_log log = load_log(in, p.state, s);

    for (int e = 0; e < log.count; e++)
        fetch_step(logged[e], find_entry(sizes, log.at, e, head), p.V, row);
    copies_commit();
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (state.at && row + group + r * GROUPS < p.V)
            S[r] = load_row<K, ALIGNED>(state, NARROW, row + group + r * GROUPS, lane);

    const struct head_vectors h = find_vectors(p, t, head);
    const token_columns c = load_token<K, DELTA, PER_HEAD, ALIGNED>(h, lane);
    const float scale = p.v_scale ? p.v_scale[(size_t)t * p.w_ld + (size_t)head] : 1.0f;
    float *out = p.y + (size_t)t * p.y_ld + (size_t)head * (size_t)p.V;

#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (row + group + r * GROUPS < p.V)
            raw[r] = h.v[row + group + r * GROUPS];
    if (log.count > 0) {
        copies_wait<0>();
        __syncthreads();
    }
#pragma unroll 1
    for (int e = 0; e < log.count; e++) {
        const auto &from = logged[e];
        const step_columns step =
            load_step<K, DELTA, PER_HEAD, true>(from.k, from.a, from.b, from.w, lane);

#pragma unroll
        for (int r = 0; r < ROWS; r++)
            v[r] = row + group + r * GROUPS < p.V ? from.v[group + r * GROUPS] : 0.0f;
        take_in<LANES, DELTA>(S, step, v);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        v[r] = raw[r] * scale;
    step<K, DELTA>(S, c, v, y);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (lane == 0 && row + group + r * GROUPS < p.V)
            out[row + group + r * GROUPS] = y[r] + skip * raw[r];
    if (log.writes) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (row + group + r * GROUPS < p.V)
                store_row<K, ALIGNED>(state, NARROW, row + group + r * GROUPS, lane, S[r]);
    } else if (log.at) {
        put_step<K, DELTA, PER_HEAD>(find_entry(sizes, log.at, log.count, head), c.in, v, p.V,
                                     row + group, head % (p.H / p.k_heads) == 0, lane);
    }
}

/* Some tokens of one head in shared memory, with the values of a block's rows. */
template <int K, bool DELTA, bool PER_HEAD> struct alignas(16) stage {
    enum { TOKENS = 1024 / K, ROWS = shape<K>::GROUPS };
    float k[TOKENS][K], q[TOKENS][K];
    float w[TOKENS][PER_HEAD ? 4 : K]; /* 4: the rows stay aligned */
    float a[TOKENS][DELTA ? K : 4], b[TOKENS][DELTA ? K : 4];
    float v[TOKENS][ROWS], scale[TOKENS];
};

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

/* As decode() with one row a thread, for sequences of 2 to `longest` rows. */
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

    if (end - begin < 2 || end - begin > longest)
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
    if (!q->row_each)
        run_walk<K, DELTA, PER_HEAD, ALIGNED>(q, in, p, longest);
    if (in->S == 1 && in->T > 1) /* no sequence has one row */
        return;
    if (is_narrow(p->state))
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
    if (run_parts(q, p, false, matrix_state_cuda))
        return;

    const dim3 any((unsigned)ceil_div(p->V * 32, THREADS), (unsigned)p->H, (unsigned)in->S);
    int longest;

    settle_matrices(q, in, p);
    longest = p->a ? matrix_state_delta(q, in, p) : matrix_state_scalar(q, in, p);
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
