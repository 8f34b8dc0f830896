/* matrix_state_scalar.cu - long sequences of a matrix state whose decay is one number a head
 * and token, on the tensor cores (Mamba-2's chunked form, arXiv 2405.21060, section 6).
 *
 * With L the running sum of log2 of the decays from a segment's beginning, S0 the state there
 * and x = v_raw * v_scale, a segment of R rows has
 *
 *   y[i] = 2^L[i] S0 q[i] + sum_{j <= i} 2^(L[i] - L[j]) (q[i] . k[j]) x[j] + skip v_raw[i]
 *   S1   = 2^L[R-1] S0 + sum_j 2^(L[R-1] - L[j]) x[j] k[j]^T
 *
 * in three launches: the scores q . k, which the heads of a group share, and what each segment adds
 * to the state, two heads a block; the states at the beginnings, in order; the outputs, one head a
 * block. L is kept as the sum of two floats: what counts is the difference of neighbours after
 * a long way down. A decay of 0 stands for 2^-FLOOR, which is none of a float either. */
#include "kernels/cuda/matrix_state.cuh"

#include <limits.h>

#include "kernels/cuda/split.cuh"

enum {
    THREADS = 256,
    LENGTH = 256, /* rows of a segment, half as many where there are few */
    BLOCK = 64,   /* rows in shared memory at a time */
    BLOCKS = LENGTH / BLOCK,
    V = 64,
    PAIR = 2 * V,
    LONGEST = 40, /* rows that go token by token */
    WAVE = 64,    /* segments worked on at a time: bounds the workspace */
    AHEAD = 4,    /* segments whose sums are on their way while the states are passed on */
    FLOOR = 150
};

/* The workspace of one wave, after the list. */
struct scalar_wave {
    struct segment_list list;
    int first;            /* of the list's */
    float *decay, *state; /* [WAVE, H], [WAVE, H, V, K] */
    float2 *L;            /* [WAVE, H, LENGTH] */
    float *scores;        /* [WAVE, k_heads, LENGTH, LENGTH], the lower blocks of 64 x 64 */
    float *carried;       /* [H, V, K], from one wave to the next */
};

static __device__ __forceinline__ bool find_segment(const struct scalar_wave &w, int i,
                                                    struct segment *s)
{
    if (w.first + i >= segment_count(w.list))
        return false;
    *s = segment_of(w.list, w.first + i);
    return true;
}

static __device__ __forceinline__ float4 scaled(float4 x, float by)
{
    return make_float4(x.x * by, x.y * by, x.z * by, x.w * by);
}

static __device__ __forceinline__ float2 load2(const float *p)
{
    return *(const float2 *)p;
}

/* Columns k and the next of row t of a segment, zero beyond its end. */
static __device__ __forceinline__ float2 row_pair(const float *rows, size_t ld, int t, int n, int k)
{
    return t < n ? load2(rows + (size_t)t * ld + (size_t)k) : make_float2(0.0f, 0.0f);
}

/* The pairs of a 16 x 16 fragment that a thread has, as they lie in memory. */
struct raw_left {
    float2 x[4];
};

/* Of rows m.. and columns k.., zero beyond row n. */
static __device__ __forceinline__ raw_left load_rows(const float *rows, size_t ld, int m, int n,
                                                     int k)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    raw_left a;

#pragma unroll
    for (int i = 0; i < 4; i++)
        a.x[i] = row_pair(rows, ld, m + g + i % 2 * 8, n, k + c + i / 2 * 8);
    return a;
}

static __device__ __forceinline__ split_left split_raw(const raw_left &raw)
{
    split_left a;

#pragma unroll
    for (int i = 0; i < 4; i++)
        set_left(a, i, raw.x[i].x, raw.x[i].y);
    return a;
}

/* A block has two tiles of the scores of a group, a warp 16 rows of one. */
enum { TILES = BLOCKS * (BLOCKS + 1) / 2, TILE_WARPS = BLOCK / 16, TILES_A_BLOCK = 2 };

static_assert(THREADS == TILES_A_BLOCK * TILE_WARPS * 32 && TILES % TILES_A_BLOCK == 0,
              "whole blocks of tiles");

/* Tiles of segment `at` for one group. */
template <int K>
static __device__ __forceinline__ void
score(const struct matrix_state &p, const struct scalar_wave &w, int at, int tiles, int group)
{
    const int warp = (int)threadIdx.x / 32 % TILE_WARPS;
    const int tile = tiles * TILES_A_BLOCK + (int)threadIdx.x / 32 / TILE_WARPS;
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    const int down = tile < 1 ? 0 : tile < 3 ? 1 : tile < 6 ? 2 : 3;
    const int m = down * BLOCK + warp * 16, n = (tile - down * (down + 1) / 2) * BLOCK;
    struct segment s;

    if (!find_segment(w, at, &s) || down * BLOCK >= s.rows)
        return;

    const size_t first = (size_t)s.begin * p.kq_ld + (size_t)(group * K);
    float *out = w.scores + ((size_t)at * (size_t)p.k_heads + (size_t)group) * LENGTH * LENGTH;
    float sum[BLOCK / 8][4] = {};

    for (int k = 0; k < K; k += 16) {
        const split_left a = split_raw(load_rows(p.q + first, p.kq_ld, m, s.rows, k));

#pragma unroll
        for (int j = 0; j < BLOCK / 8; j += 2) {
            split_right b;

            for (int i = 0; i < 4; i++) {
                const float2 x = row_pair(p.k + first, p.kq_ld, n + (j + i / 2) * 8 + g, s.rows,
                                          k + c + i % 2 * 8);
                const split_pair both = split(x.x, x.y);

                b.hi[i] = both.hi;
                b.lo[i] = both.lo;
            }
            multiply(sum[j], sum[j + 1], a, b);
        }
    }
    for (int j = 0; j < BLOCK / 8; j++)
        for (int i = 0; i < 2; i++)
            *(float2 *)(out + (m + g + 8 * i) * LENGTH + n + j * 8 + c) =
                make_float2(sum[j][2 * i], sum[j][2 * i + 1]);
}

/* L of one head, by one warp. */
static __device__ void sum_decays(const struct matrix_state &p, const struct segment &s, int head,
                                  float2 *L)
{
    enum { OWN = LENGTH / 32 };
    const int lane = (int)threadIdx.x % 32;
    double sum[OWN], before = 0.0;

    for (int i = 0; i < OWN; i++) {
        const int t = lane * OWN + i;
        float log = 0.0f;

        if (t < s.rows)
            log = log2f(p.w[(size_t)(s.begin + t) * p.w_ld + (size_t)head]);
        sum[i] = (i > 0 ? sum[i - 1] : 0.0) + (log < -FLOOR ? -FLOOR : log);
    }
    before = sum[OWN - 1];
    for (int d = 1; d < 32; d *= 2) {
        const double other = __shfl_up_sync(0xffffffffu, before, d);

        if (lane >= d)
            before += other;
    }
    before -= sum[OWN - 1];
    for (int i = 0; i < OWN; i++) {
        const double all = before + sum[i];

        L[lane * OWN + i].x = (float)all;
        L[lane * OWN + i].y = (float)(all - (double)L[lane * OWN + i].x);
    }
}

/* Those of a segment's heads from `head` on. */
static __device__ __forceinline__ float2 *L_of(const struct scalar_wave &w, int heads, int at,
                                               int head)
{
    return w.L + ((size_t)at * (size_t)heads + (size_t)head) * LENGTH;
}

/* 2^(a - b). */
static __device__ __forceinline__ float decay_between(float2 a, float2 b)
{
    return fast_exp2((a.x - b.x) + (a.y - b.y));
}

static __device__ __forceinline__ float scale_of(const struct matrix_state &p, int t, int head)
{
    return p.v_scale ? p.v_scale[(size_t)t * p.w_ld + (size_t)head] : 1.0f;
}

enum { X_ROW = PAIR + 8, V_ROW = V + 8 };

/* v_raw of BLOCK rows from `from`, COLUMNS of them, whole heads, into a tile, each times its
 * factor. */
template <int COLUMNS>
static __device__ __forceinline__ void
put_values(const struct matrix_state &p, const struct segment &s, const split_tile<COLUMNS + 8> &to,
           int from, int head, const float (*factor)[LENGTH])
{
    enum {
        ROW = COLUMNS + 8,
        RUNS = BLOCK * COLUMNS / 4 / THREADS,
        STEP = THREADS / (COLUMNS / 4)
    };
    const int row = (int)threadIdx.x / (COLUMNS / 4), c = (int)threadIdx.x % (COLUMNS / 4) * 4;
    const float *v = p.v + (size_t)(s.begin + from + row) * p.v_ld + (size_t)(head * V + c);
    float4 x[RUNS];

#pragma unroll
    for (int i = 0; i < RUNS; i++) /* all on their way before the first is used */
        x[i] = from + row + i * STEP < s.rows ? load4<true>(v + (size_t)(i * STEP) * p.v_ld)
                                              : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < RUNS; i++)
        put4(to, (row + i * STEP) * ROW + c, scaled(x[i], factor[c / V][from + row + i * STEP]));
}

/* BLOCK rows of K floats from row `from` of n into a tile. */
template <int K, int ROW>
static __device__ __forceinline__ void put_rows(const split_tile<ROW> &to, const float *rows,
                                                size_t ld, int from, int n)
{
    enum { RUNS = BLOCK * K / 4 / THREADS, STEP = THREADS / (K / 4) };
    const int row = (int)threadIdx.x / (K / 4), c = (int)threadIdx.x % (K / 4) * 4;
    float4 x[RUNS];

#pragma unroll
    for (int i = 0; i < RUNS; i++)
        x[i] = from + row + i * STEP < n
                   ? load4<true>(rows + (size_t)(from + row + i * STEP) * ld + c)
                   : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < RUNS; i++)
        put4(to, (row + i * STEP) * ROW + c, x[i]);
}

template <int K> struct add_shared {
    enum { K_ROW = K + 8 };
    unsigned short x[2][BLOCK * X_ROW], k[2][BLOCK * K_ROW];
    float2 L[2][LENGTH];
    float factor[2][LENGTH];
};

/* What segment `at` adds to the states of two heads. The sums are 128 rows, of both heads, by K;
 * a warp has 32 by K / 2 of them. */
template <int K>
static __device__ __forceinline__ void add_up(const struct matrix_state &p,
                                              const struct scalar_wave &w, int at, int head)
{
    enum { WIDE = K / 2 / 8, K_ROW = add_shared<K>::K_ROW };
    extern __shared__ float4 shared[];
    add_shared<K> &sh = *(add_shared<K> *)shared;
    const split_tile<X_ROW> x = { sh.x[0], sh.x[1] };
    const split_tile<K_ROW> k = { sh.k[0], sh.k[1] };
    const int warp = (int)threadIdx.x / 32;
    const int m = warp % 4 * 32, n = warp / 4 * (K / 2);
    struct segment s;
    float sum[2][WIDE][4] = {};

    if (!find_segment(w, at, &s))
        return;
    if (warp < 2)
        sum_decays(p, s, head + warp, sh.L[warp]);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < 2 * LENGTH; i += THREADS) {
        const int h = i / LENGTH, t = i % LENGTH;

        sh.factor[h][t] = t < s.rows ? decay_between(sh.L[h][s.rows - 1], sh.L[h][t]) *
                                           scale_of(p, s.begin + t, head + h)
                                     : 0.0f;
    }
    for (int i = (int)threadIdx.x; i < 2 * LENGTH; i += THREADS)
        L_of(w, p.H, at, head)[i] = sh.L[i / LENGTH][i % LENGTH];
    if (threadIdx.x < 2)
        w.decay[(size_t)at * (size_t)p.H + (size_t)(head + (int)threadIdx.x)] =
            fast_exp2(sh.L[threadIdx.x][s.rows - 1].x);

    const float *keys = p.k + (size_t)s.begin * p.kq_ld + (size_t)(head / (p.H / p.k_heads) * K);

    for (int from = 0; from < s.rows; from += BLOCK) {
        __syncthreads();
        put_values<PAIR>(p, s, x, from, head, sh.factor);
        put_rows<K>(k, keys, p.kq_ld, from, s.rows);
        __syncthreads();
        for (int t = 0; t < BLOCK; t += 16) {
            const split_left upper = load_left_by_column(x, m, t);
            const split_left lower = load_left_by_column(x, m + 16, t);

#pragma unroll
            for (int j = 0; j < WIDE; j += 2) {
                const split_right b = load_right<false>(k, t, n + j * 8);

                multiply(sum[0][j], sum[0][j + 1], upper, b);
                multiply(sum[1][j], sum[1][j + 1], lower, b);
            }
        }
    }

    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    float *out = w.state + ((size_t)at * (size_t)p.H + (size_t)head) * V * K;

    for (int i = 0; i < 4; i++)
        for (int j = 0; j < WIDE; j++)
            *(float2 *)(out + (m + i * 8 + g) * K + n + j * 8 + c) =
                make_float2(sum[i / 2][j][i % 2 * 2], sum[i / 2][j][i % 2 * 2 + 1]);
}

/* Block (x, y): of segment x, y heads in pairs, then the tiles of the scores of each group. Neither
 * needs the other. */
template <int K>
static __global__ void __launch_bounds__(THREADS, 2)
    prepare(const struct matrix_state p, const struct scalar_wave w)
{
    enum { SHARES = TILES / TILES_A_BLOCK };
    const int y = (int)blockIdx.y - p.H / 2;

    let_next_start();
    wait_for_inputs();
    if (y < 0)
        add_up<K>(p, w, (int)blockIdx.x, (int)blockIdx.y * 2);
    else
        score<K>(p, w, (int)blockIdx.x, y % SHARES, y / SHARES);
}

/* Puts the state at each segment's beginning in the place of what the segment adds to it, and
 * the last into the slot. A thread has four floats of every state. */
static __global__ void __launch_bounds__(THREADS)
    pass_on(const struct matrix_state p, const struct device_batch in, const struct scalar_wave w,
            int most)
{
    const size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    const size_t record = (size_t)p.H * V * (size_t)p.K;
    const int head = (int)(at / ((size_t)V * (size_t)p.K));
    const bool narrow = is_narrow(p.state);
    float4 now = {};

    let_next_start();
    if (at >= record)
        return;
    wait_for_inputs();
    for (int i = 0; i < most; i += AHEAD) {
        float4 add[AHEAD];
        float decay[AHEAD];
        struct segment s[AHEAD];
        bool there[AHEAD];

#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            there[j] = i + j < most && find_segment(w, i + j, &s[j]);
            if (there[j]) {
                add[j] = load4<true>(w.state + (size_t)(i + j) * record + at);
                decay[j] = w.decay[(size_t)(i + j) * (size_t)p.H + (size_t)head];
            }
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            if (!there[j])
                return;

            const struct kept_state slot = load_kept(in, p.state, narrow, s[j].seq);

            if (s[j].index == 0)
                now = slot.at ? load_kept4<true>(slot, narrow, at) : float4{};
            else if (i + j == 0)
                now = load4<true>(w.carried + at);
            store4<true>(w.state + (size_t)(i + j) * record + at, now);
            now = make_float4(now.x * decay[j] + add[j].x, now.y * decay[j] + add[j].y,
                              now.z * decay[j] + add[j].z, now.w * decay[j] + add[j].w);
            if (slot.at && s[j].last)
                store_kept4<true>(slot, narrow, at, now);
            else if (i + j == most - 1)
                store4<true>(w.carried + at, now);
        }
    }
}

template <int K> struct out_shared {
    enum { K_ROW = K + 8 };
    unsigned short state[2][V * K_ROW], x[2][BLOCK * V_ROW];
    float2 L[LENGTH];
    float scale[1][LENGTH]; /* of one head, as put_values() takes them */
};

/* The outputs of a warp's 16 rows from row m on. */
typedef float out_sums[V / 8][4];

/* S0 q, each row times 2^L. */
template <int K>
static __device__ __forceinline__ void
add_inherited(out_sums &sum, const struct matrix_state &p, const struct segment &s,
              const out_shared<K> &sh, const float *queries, int m)
{
    enum { K_ROW = out_shared<K>::K_ROW };
    const split_tile<K_ROW> state = { (unsigned short *)sh.state[0],
                                      (unsigned short *)sh.state[1] };
    const int g = (int)threadIdx.x % 32 / 4;

    raw_left next = load_rows(queries, p.kq_ld, m, s.rows, 0);

    for (int k = 0; k < K; k += 16) {
        const split_left a = split_raw(next);

        if (k + 16 < K)
            next = load_rows(queries, p.kq_ld, m, s.rows, k + 16);
#pragma unroll
        for (int j = 0; j < V / 8; j += 2)
            multiply(sum[j], sum[j + 1], a, load_right<true>(state, k, j * 8));
    }

    const float upper = fast_exp2(sh.L[m + g].x), lower = fast_exp2(sh.L[m + g + 8].x);

#pragma unroll
    for (int j = 0; j < V / 8; j++) {
        sum[j][0] *= upper;
        sum[j][1] *= upper;
        sum[j][2] *= lower;
        sum[j][3] *= lower;
    }
}

/* The scores of rows m.. with rows n.. times the decays between them. */
static __device__ __forceinline__ split_left decay_scores(const raw_left &scores, const float2 *L,
                                                          int m, int n)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    split_left a;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = m + g + i % 2 * 8, column = n + c + i / 2 * 8;
        const float2 x = scores.x[i];

        set_left(a, i, row >= column ? x.x * decay_between(L[row], L[column]) : 0.0f,
                 row > column ? x.y * decay_between(L[row], L[column + 1]) : 0.0f);
    }
    return a;
}

/* A warp's outputs, with what skips the state; all of a row's inputs are on their way at once. */
static __device__ __forceinline__ void put_sums(const struct matrix_state &p,
                                                const struct segment &s, const out_sums &sum,
                                                int head, int m)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    const float skip = p.skip ? p.skip[head] : 0.0f;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const size_t t = (size_t)(s.begin + m + g + 8 * i), column = (size_t)(head * V + c);
        const bool there = m + g + 8 * i < s.rows;
        float2 v[V / 8];

#pragma unroll
        for (int j = 0; j < V / 8; j++)
            v[j] = there && p.skip ? load2(p.v + t * p.v_ld + column + j * 8)
                                   : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int j = 0; j < V / 8; j++)
            if (there)
                *(float2 *)(p.y + t * p.y_ld + column + j * 8) =
                    make_float2(sum[j][2 * i] + skip * v[j].x, sum[j][2 * i + 1] + skip * v[j].y);
    }
}

/* Block (x, y): rows x % 2 * 128.. of segment x / 2, head y. */
template <int K>
static __global__ void __launch_bounds__(THREADS, 3)
    put_out(const struct matrix_state p, const struct scalar_wave w)
{
    enum { K_ROW = out_shared<K>::K_ROW };
    extern __shared__ float4 shared[];
    out_shared<K> &sh = *(out_shared<K> *)shared;
    const split_tile<V_ROW> x = { sh.x[0], sh.x[1] };
    const int at = (int)blockIdx.x / 2, head = (int)blockIdx.y;
    const int top = (int)blockIdx.x % 2 * (LENGTH / 2), warp = (int)threadIdx.x / 32;
    const int group = head / (p.H / p.k_heads), m = top + warp * 16;
    struct segment s;
    out_sums sum = {};

    let_next_start();
    wait_for_inputs();
    if (!find_segment(w, at, &s) || top >= s.rows)
        return;
    for (int t = (int)threadIdx.x; t < LENGTH; t += THREADS) {
        sh.L[t] = L_of(w, p.H, at, head)[t];
        sh.scale[0][t] = t < s.rows ? scale_of(p, s.begin + t, head) : 0.0f;
    }
    static_assert(V == BLOCK, "a state is a block of rows");
    put_rows<K>(split_tile<K_ROW>{ sh.state[0], sh.state[1] },
                w.state + ((size_t)at * (size_t)p.H + (size_t)head) * V * K, K, 0, V);
    __syncthreads();
    add_inherited<K>(sum, p, s, sh, p.q + (size_t)s.begin * p.kq_ld + (size_t)(group * K), m);

    const float *scores =
        w.scores + ((size_t)at * (size_t)p.k_heads + (size_t)group) * LENGTH * LENGTH;
    const int end = s.rows < top + LENGTH / 2 ? s.rows : top + LENGTH / 2;

    raw_left next = load_rows(scores, LENGTH, m, LENGTH, 0);

    for (int from = 0; from < end; from += BLOCK) {
        __syncthreads();
        put_values<V>(p, s, x, from, head, sh.scale);
        __syncthreads();
        for (int n = from; n < from + BLOCK && n <= m && m < s.rows; n += 16) {
            const raw_left now = next;

            if (n < m)
                next = load_rows(scores, LENGTH, m, LENGTH, n + 16);

            const split_left a = decay_scores(now, sh.L, m, n);

#pragma unroll
            for (int j = 0; j < V / 8; j += 2)
                multiply(sum[j], sum[j + 1], a, load_right<false>(x, n - from, j * 8));
        }
    }
    put_sums(p, s, sum, head, m);
}

template <int K>
static void run_wave(struct stream *q, const struct matrix_state *p, const struct scalar_wave &w,
                     int n)
{
    const char *where = "matrix_state";
    const unsigned segments = (unsigned)n, pairs = (unsigned)p->H / 2;
    const size_t add_bytes = sizeof(add_shared<K>), out_bytes = sizeof(out_shared<K>);

    stream_note(q,
                cudaFuncSetAttribute(prepare<K>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)add_bytes),
                where);
    stream_note(q,
                cudaFuncSetAttribute(put_out<K>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)out_bytes),
                where);
    launch(q, where, prepare<K>,
           dim3(segments, pairs + (unsigned)p->k_heads * TILES / TILES_A_BLOCK), THREADS, add_bytes,
           *p, w);
    launch(q, where, pass_on, (unsigned)ceil_div(p->H * V * K / 4, THREADS), THREADS, 0, *p, q->in,
           w, n);
    launch(q, where, put_out<K>, dim3(segments * 2, (unsigned)p->H), THREADS, out_bytes, *p, w);
}

static bool fits(const struct stream *q, const struct matrix_state *p)
{
    const uintptr_t off = off_grid(p->k, p->kq_ld) | off_grid(p->q, p->kq_ld) |
                          off_grid(p->v, p->v_ld) | off_grid(p->y, p->y_ld) | off_grid(p->state);

    const size_t bytes = p->K == 64 ? sizeof(add_shared<64>) : sizeof(add_shared<128>);

    static_assert(sizeof(out_shared<64>) <= sizeof(add_shared<64>) &&
                      sizeof(out_shared<128>) <= sizeof(add_shared<128>),
                  "the sums need most");

    return p->w_per_head && !p->a && p->V == V && (p->K == 64 || p->K == 128) &&
           bytes <= q->block_memory && p->H / p->k_heads % 2 == 0 && off == 0;
}

int matrix_state_scalar(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    if (!fits(q, p) || in->T - in->S < LONGEST)
        return INT_MAX;

    const bool few = (long)in->T * p->H < 5L * LENGTH * q->sms; /* measured on an H200 */
    const int length = few ? LENGTH / 2 : LENGTH;
    const int most = most_segments(in, length, LONGEST), wave = most < WAVE ? most : WAVE;
    const size_t heads = (size_t)p->H, state = heads * V * (size_t)p->K;
    const size_t list = (segment_list_bytes(most) + 255) / 256 * 256;
    const size_t floats =
        (heads + 63) / 64 * 64 + state + (size_t)p->k_heads * LENGTH * LENGTH + 2 * heads * LENGTH;
    char *memory = (char *)stream_workspace(
        q, list + ((size_t)wave * floats + state) * sizeof(float), "matrix_state");
    struct scalar_wave w = {};

    if (!memory)
        return LONGEST;
    w.list = list_segments(q, in, memory, length, LONGEST);
    w.carried = (float *)(memory + list);
    w.state = w.carried + state;
    w.scores = w.state + (size_t)wave * state;
    w.L = (float2 *)(w.scores + (size_t)wave * (size_t)p->k_heads * LENGTH * LENGTH);
    w.decay = (float *)(w.L + (size_t)wave * heads * LENGTH);
    for (w.first = 0; w.first < most; w.first += wave) {
        const int n = most - w.first < wave ? most - w.first : wave;

        if (p->K == 64)
            run_wave<64>(q, p, w, n);
        else
            run_wave<128>(q, p, w, n);
    }
    return LONGEST;
}
