/* matrix_state_delta.cu - long sequences of a matrix state with a decay per column and a delta
 * term, on the tensor cores (RWKV-7's chunked form; the algebra is that of arXiv 2412.06464,
 * section 3, for a full vector of decays).
 *
 * A chunk of 16 rows is one step. With P[t] the product of the decays up to row t counted from
 * row 7, where it is 1 (before it P is a reciprocal), so that neither P nor 1 / P leaves the
 * range of a float as long as no decay is below 2^-15 (a smaller one counts as that):
 *
 *   b' = b[t] * P[t - 1]   q' = q[t] * P[t]   k' = k[t] / P[t]   a' = a[t] / P[t]
 *   S  = S0 * P[-1]^-1                                   by columns, as all that follows
 *   U  = (I - tril(b' a'^T, -1))^-1 (b' S^T + tril(b' k'^T, -1) V)
 *   Y  = q' S^T + tril(q' k'^T) V + tril(q' a'^T) U
 *   S1 = (S + V^T k' + U^T a') * P[15]
 *
 * The inverse is found by forward substitution in float32: powers of its triangle can be
 * thousands of times larger than it where keys repeat. Rows of S never meet, so each warp
 * takes 16. A sequence alone has too few heads for the device: segments of it are worked on at
 * the same time, after a first pass has found what each does to a state, S1 = S0 M + N, by
 * starting M from the identity and N from zero, and a second has gone through them in order. */
#include "kernels/cuda/matrix_state.cuh"

#include <limits.h>

#include "kernels/cuda/split.cuh"

enum {
    THREADS = 128,
    CHUNK = 16,
    MIDDLE = CHUNK / 2, /* rows before it are counted back from it */
    K = 64,             /* V too */
    LONGEST = 64,       /* rows that go token by token */
    BLOCKS_WANTED = 4,  /* a multiprocessor */
    WAVE_BYTES = 64 << 20
};

static const float DECAY_MIN = 0x1p-15f;

enum { W, A, B, KEY, Q, VALUE, INPUTS }; /* of a chunk */
enum { BK, QK, QA, INVERSE, TRIANGLES }; /* [CHUNK, CHUNK] each */
enum { ROW = K + 8, TRIANGLE_ROW = CHUNK + 8 };

struct chunk_shared {
    float raw[INPUTS][CHUNK][K];
    unsigned short left[2][2 * CHUNK * ROW];  /* b' above q' */
    unsigned short right[2][2 * CHUNK * ROW]; /* k' above a' */
    unsigned short value[2][CHUNK * ROW];
    unsigned short triangle[TRIANGLES][2][CHUNK * TRIANGLE_ROW];
    float ba[CHUNK][CHUNK + 4];
    float enter[K], leave[K]; /* 1 / P[-1], P[15] */
};

/* The workspace of one wave: a segment's N, then the state at its beginning; and its M. */
struct delta_wave {
    struct segment_list list;
    int first;
    float *state, *matrix; /* [segments, H, K, K] */
    float *carried;        /* [H, K, K], from one wave to the next */
};

/* 16 rows of a state in a warp's registers: tile j has columns 8j to 8j + 7. */
typedef float state_rows[K / 8][4];

template <int LD = K>
static __device__ __forceinline__ void load_state(state_rows &S, const float *from, int row)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; j < K / 8; j++)
        for (int i = 0; i < 2; i++) {
            const float2 x = *(const float2 *)(from + (row + g + 8 * i) * LD + 8 * j + c);

            S[j][2 * i] = x.x;
            S[j][2 * i + 1] = x.y;
        }
}

static __device__ __forceinline__ void store_state(float *to, const state_rows &S, int row)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; j < K / 8; j++)
        for (int i = 0; i < 2; i++)
            *(float2 *)(to + (row + g + 8 * i) * K + 8 * j + c) =
                make_float2(S[j][2 * i], S[j][2 * i + 1]);
}

/* The same of a slot's. */
static __device__ __forceinline__ void load_slot(state_rows &S, const kept_state &from, bool narrow,
                                                 int row)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; j < K / 8; j++)
        for (int i = 0; i < 2; i++) {
            const size_t at = (size_t)((row + g + 8 * i) * K + 8 * j + c);
            const float2 x = from.at ? load_kept2(from, narrow, at) : float2{};

            S[j][2 * i] = x.x;
            S[j][2 * i + 1] = x.y;
        }
}

static __device__ __forceinline__ void store_slot(const kept_state &to, bool narrow,
                                                  const state_rows &S, int row)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; to.at && j < K / 8; j++)
        for (int i = 0; i < 2; i++)
            store_kept2(to, narrow, (size_t)((row + g + 8 * i) * K + 8 * j + c),
                        make_float2(S[j][2 * i], S[j][2 * i + 1]));
}

static __device__ __forceinline__ void scale_columns(state_rows &S, const float *by)
{
    const int c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; j < K / 8; j++) {
        const float2 x = *(const float2 *)(by + 8 * j + c);

        S[j][0] *= x.x;
        S[j][1] *= x.y;
        S[j][2] *= x.x;
        S[j][3] *= x.y;
    }
}

/* Two neighbouring tiles of sums as a left factor. */
static __device__ __forceinline__ split_left as_left(const float (&x)[4], const float (&y)[4])
{
    split_left a;

    set_left(a, 0, x[0], x[1]);
    set_left(a, 1, x[2], x[3]);
    set_left(a, 2, y[0], y[1]);
    set_left(a, 3, y[2], y[3]);
    return a;
}

/* Rows [t, t + CHUNK) of a segment on their way, as far as it goes. */
template <bool OUT>
static __device__ __forceinline__ void fetch_chunk(const struct matrix_state &p,
                                                   const struct segment &s, chunk_shared &sh, int t,
                                                   int head)
{
    const int row = (int)threadIdx.x / (K / 4), c = (int)threadIdx.x % (K / 4) * 4;

    for (int i = row; i < CHUNK && t + i < s.rows; i += THREADS / (K / 4)) {
        const struct head_vectors h = find_vectors(p, s.begin + t + i, head);

        copy_async<16>(&sh.raw[W][i][c], h.w + c);
        copy_async<16>(&sh.raw[A][i][c], h.a + c);
        copy_async<16>(&sh.raw[B][i][c], h.b + c);
        copy_async<16>(&sh.raw[KEY][i][c], h.k + c);
        copy_async<16>(&sh.raw[VALUE][i][c], h.v + c);
        if (OUT)
            copy_async<16>(&sh.raw[Q][i][c], h.q + c);
    }
    copies_commit();
}

static __device__ __forceinline__ float2 times(float2 x, float2 y)
{
    return make_float2(x.x * y.x, x.y * y.y);
}

static __device__ __forceinline__ float2 reciprocal(float2 x)
{
    return make_float2(__fdividef(1.0f, x.x), __fdividef(1.0f, x.y));
}

/* Two columns of one chunk. A row beyond the end changes nothing: decay 1, the rest 0. */
struct column_pair {
    const chunk_shared &sh;
    int c, rows;

    __device__ __forceinline__ float2 raw(int which, int t) const
    {
        return t < rows ? *(const float2 *)&sh.raw[which][t][c] : make_float2(0.0f, 0.0f);
    }

    __device__ __forceinline__ float2 decay(int t) const
    {
        const float2 w = t < rows ? *(const float2 *)&sh.raw[W][t][c] : make_float2(1.0f, 1.0f);

        return make_float2(w.x < DECAY_MIN ? DECAY_MIN : w.x, w.y < DECAY_MIN ? DECAY_MIN : w.y);
    }
};

/* Row t of the factors, with P[t - 1], P[t] and 1 / P[t]. */
template <bool OUT>
static __device__ __forceinline__ void put_row(chunk_shared &sh, const column_pair &x, int t,
                                               float2 before, float2 now, float2 inverse,
                                               float scale)
{
    const split_tile<ROW> left = { sh.left[0], sh.left[1] }, right = { sh.right[0], sh.right[1] };
    const split_tile<ROW> value = { sh.value[0], sh.value[1] };
    const float2 b = times(x.raw(B, t), before), k = times(x.raw(KEY, t), inverse);
    const float2 a = times(x.raw(A, t), inverse), v = x.raw(VALUE, t);

    put2(left, t * ROW + x.c, b.x, b.y);
    put2(right, t * ROW + x.c, k.x, k.y);
    put2(right, (CHUNK + t) * ROW + x.c, a.x, a.y);
    put2(value, t * ROW + x.c, v.x * scale, v.y * scale);
    if (OUT) {
        const float2 q = times(x.raw(Q, t), now);

        put2(left, (CHUNK + t) * ROW + x.c, q.x, q.y);
    }
}

/* The factors of a chunk: a warp takes four rows, a thread two columns of them. */
template <bool OUT>
static __device__ __forceinline__ void
prepare(const struct matrix_state &p, const struct segment &s, chunk_shared &sh, int from, int head)
{
    enum { OWN = CHUNK / (THREADS / 32) };
    const int first = (int)threadIdx.x / 32 * OWN;
    const column_pair x = { sh, (int)threadIdx.x % 32 * 2, s.rows - from };
    float2 run = make_float2(1.0f, 1.0f);
    float scale[OWN];

    for (int i = 0; i < OWN; i++)
        scale[i] = p.v_scale && first + i < x.rows
                       ? p.v_scale[(size_t)(s.begin + from + first + i) * p.w_ld + (size_t)head]
                       : 1.0f;
    if (first >= MIDDLE) {
        for (int t = MIDDLE; t < first; t++)
            run = times(run, x.decay(t));
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const float2 now = times(run, x.decay(first + i));

            put_row<OUT>(sh, x, first + i, run, now, reciprocal(now), scale[i]);
            run = now;
        }
        if (first + OWN == CHUNK)
            *(float2 *)&sh.leave[x.c] = run;
    } else { /* run is 1 / P */
        for (int t = MIDDLE - 1; t >= first + OWN; t--)
            run = times(run, x.decay(t));
#pragma unroll
        for (int i = OWN - 1; i >= 0; i--) {
            const float2 before = times(run, x.decay(first + i));

            put_row<OUT>(sh, x, first + i, reciprocal(before), reciprocal(run), run, scale[i]);
            run = before;
        }
        if (first == 0)
            *(float2 *)&sh.enter[x.c] = run;
    }
}

static __device__ __forceinline__ split_tile<TRIANGLE_ROW> triangle(chunk_shared &sh, int which)
{
    return { sh.triangle[which][0], sh.triangle[which][1] };
}

/* (I - ba)^-1, ba strictly lower: half a warp, a column a thread. */
static __device__ __forceinline__ void invert(chunk_shared &sh)
{
    const int j = (int)threadIdx.x % 32;
    float x[CHUNK];

    if (j >= CHUNK)
        return;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        float even = i == j ? 1.0f : 0.0f, odd = 0.0f;

#pragma unroll
        for (int k = 0; k < i; k += 4) {
            const float4 row = load4<true>(&sh.ba[i][k]);

            even += row.x * x[k];
            odd += k + 1 < i ? row.y * x[k + 1] : 0.0f;
            even += k + 2 < i ? row.z * x[k + 2] : 0.0f;
            odd += k + 3 < i ? row.w * x[k + 3] : 0.0f;
        }
        x[i] = even + odd;

        const split_pair both = split(x[i], 0.0f);

        sh.triangle[INVERSE][0][i * TRIANGLE_ROW + j] = (unsigned short)both.hi;
        sh.triangle[INVERSE][1][i * TRIANGLE_ROW + j] = (unsigned short)both.lo;
    }
}

/* The triangles: warp w that of b' (even w) or q' with k' (w < 2) or a'. */
template <bool OUT> static __device__ __forceinline__ void correlate(chunk_shared &sh)
{
    const split_tile<ROW> left = { sh.left[0], sh.left[1] }, right = { sh.right[0], sh.right[1] };
    const int warp = (int)threadIdx.x / 32, query = warp % 2, delta = warp / 2;
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    float sum[2][4] = {};

    if (query && !OUT)
        return;
#pragma unroll
    for (int k = 0; k < K; k += 16)
        multiply(sum[0], sum[1], load_left(left, query * CHUNK, k),
                 load_right<true>(right, k, delta * CHUNK));
    for (int j = 0; j < 2; j++) {
        for (int i = 0; i < 2; i++) {
            const int t = g + 8 * i, s = 8 * j + c, end = t + query; /* columns s < end stay */
            const float x = s < end ? sum[j][2 * i] : 0.0f;
            const float y = s + 1 < end ? sum[j][2 * i + 1] : 0.0f;

            if (delta && !query)
                *(float2 *)&sh.ba[t][s] = make_float2(x, y);
            else
                put2(triangle(sh, delta ? QA : query ? QK : BK), t * TRIANGLE_ROW + s, x, y);
        }
    }
    if (delta && !query) {
        __syncwarp();
        invert(sh);
    }
}

/* One chunk of 16 rows of the state; `row` is the first of them. values: V is not 0. y becomes
 * the outputs, transposed. */
template <bool OUT>
static __device__ __forceinline__ void advance(state_rows &S, chunk_shared &sh, int row,
                                               bool values, float (&y)[2][4])
{
    const split_tile<ROW> left = { sh.left[0], sh.left[1] }, right = { sh.right[0], sh.right[1] };
    const split_tile<ROW> value = { sh.value[0], sh.value[1] };
    float u[2][4] = {};
    split_left v = {};

    scale_columns(S, sh.enter);
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        const split_left a = as_left(S[k / 8], S[k / 8 + 1]);

        multiply(u[0], u[1], a, load_right<true>(left, k, 0));
        if (OUT)
            multiply(y[0], y[1], a, load_right<true>(left, k, CHUNK));
    }
    if (values) {
        v = load_left_by_column(value, row, 0);
        multiply(u[0], u[1], v, load_right<true>(triangle(sh, BK), 0, 0));
    }

    const split_left raw = as_left(u[0], u[1]);
    float solved[2][4] = {};

    multiply(solved[0], solved[1], raw, load_right<true>(triangle(sh, INVERSE), 0, 0));

    const split_left d = as_left(solved[0], solved[1]);

    if (OUT) {
        multiply(y[0], y[1], v, load_right<true>(triangle(sh, QK), 0, 0));
        multiply(y[0], y[1], d, load_right<true>(triangle(sh, QA), 0, 0));
    }
#pragma unroll
    for (int j = 0; j < K / 8; j += 2) {
        if (values)
            multiply(S[j], S[j + 1], v, load_right<false>(right, 0, j * 8));
        multiply(S[j], S[j + 1], d, load_right<false>(right, CHUNK, j * 8));
    }
    scale_columns(S, sh.leave);
}

static __device__ __forceinline__ bool find_segment(const struct delta_wave &w, int i,
                                                    struct segment *s)
{
    if (w.first + i >= segment_count(w.list))
        return false;
    *s = segment_of(w.list, w.first + i);
    return true;
}

static __device__ __forceinline__ size_t place_of(const struct matrix_state &p, int segment,
                                                  int head)
{
    return ((size_t)segment * (size_t)p.H + (size_t)head) * K * K;
}

/* What the segment of block x does to the state of head y: M and N. */
static __global__ void __launch_bounds__(THREADS)
    find_transfer(const struct matrix_state p, const struct delta_wave w)
{
    extern __shared__ float4 shared[];
    chunk_shared &sh = *(chunk_shared *)shared;
    const int head = (int)blockIdx.y, at = (int)blockIdx.x, row = (int)threadIdx.x / 32 * 16;
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    struct segment s;
    state_rows add = {}, map;
    float none[2][4];

    let_next_start();
    wait_for_inputs();
    if (!find_segment(w, at, &s) || s.last) /* nothing follows it */
        return;
    for (int j = 0; j < K / 8; j++)
        for (int i = 0; i < 4; i++)
            map[j][i] = row + g + i / 2 * 8 == 8 * j + c + i % 2 ? 1.0f : 0.0f;
    fetch_chunk<false>(p, s, sh, 0, head);
    for (int t = 0; t < s.rows; t += CHUNK) {
        copies_wait<0>();
        __syncthreads();
        prepare<false>(p, s, sh, t, head);
        __syncthreads();
        fetch_chunk<false>(p, s, sh, t + CHUNK, head);
        correlate<false>(sh);
        __syncthreads();
        advance<false>(add, sh, row, true, none);
        advance<false>(map, sh, row, false, none);
    }
    store_state(w.state + place_of(p, at, head), add, row);
    store_state(w.matrix + place_of(p, at, head), map, row);
}

enum { ADD_ROW = K + 4, LONG_RING = 6, SHORT_RING = 2 };

/* What the segments ahead do to the state of one head: M and N as they lie in the workspace; and
 * M of the next, split. */
template <int RING> struct pass_shared {
    float map[RING][K * K], add[RING][K * ADD_ROW];
    unsigned short tile[2][K * ROW];
};

enum { RUNS = K * K / 4 / THREADS };

/* M and N of one segment on their way. */
static __device__ __forceinline__ void fetch_transfer(const struct matrix_state &p,
                                                      const struct delta_wave &w, int segment,
                                                      int head, float *map, float *add)
{
    const size_t from = place_of(p, segment, head);

#pragma unroll
    for (int i = 0; i < RUNS; i++) {
        const int at = i * THREADS + (int)threadIdx.x;

        copy_async<16>(map + at * 4, w.matrix + from + at * 4);
        copy_async<16>(add + at / (K / 4) * ADD_ROW + at % (K / 4) * 4, w.state + from + at * 4);
    }
}

/* S = S M + N. */
static __device__ __forceinline__ void apply(state_rows &S, const split_tile<ROW> &map,
                                             const float *add, int row)
{
    state_rows next;

    load_state<ADD_ROW>(next, add, row);
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        const split_left a = as_left(S[k / 8], S[k / 8 + 1]);

#pragma unroll
        for (int j = 0; j < K / 8; j += 2)
            multiply(next[j], next[j + 1], a, load_right<false>(map, k, j * 8));
    }
    for (int j = 0; j < K / 8; j++)
        for (int i = 0; i < 4; i++)
            S[j][i] = next[j][i];
}

/* Puts the state at each segment's beginning in the place of N: block x has head x. */
template <int RING>
static __global__ void __launch_bounds__(THREADS)
    pass_on(const struct matrix_state p, const struct device_batch in, const struct delta_wave w,
            int most)
{
    extern __shared__ float4 shared[];
    pass_shared<RING> &sh = *(pass_shared<RING> *)shared;
    const split_tile<ROW> tile = { sh.tile[0], sh.tile[1] };
    const int head = (int)blockIdx.x, row = (int)threadIdx.x / 32 * 16;
    const bool narrow = is_narrow(p.state);
    float *carried = w.carried + (size_t)head * K * K;
    state_rows S = {};

    let_next_start();
    wait_for_inputs();

    const int count = min(segment_count(w.list) - w.first, most);
    struct segment s, next, ahead;

    for (int i = 0; i < RING; i++) {
        /* the last of a sequence does nothing to a state */
        if (i < count && !segment_of(w.list, w.first + i).last)
            fetch_transfer(p, w, i, head, sh.map[i], sh.add[i]);
        copies_commit();
    }
    if (count > 0)
        s = segment_of(w.list, w.first);
    if (count > RING)
        ahead = segment_of(w.list, w.first + RING);
    for (int i = 0, at = 0; i < count; i++, s = next, at = at + 1 == RING ? 0 : at + 1) {
        if (i + 1 < count)
            next = segment_of(w.list, w.first + i + 1);
        if (s.index == 0)
            load_slot(S, head_state(p, in, narrow, s.seq, head), narrow, row);
        else if (i == 0)
            load_state(S, carried, row);
        copies_wait<RING - 1>();
        __syncthreads();
#pragma unroll
        for (int k = 0; k < RUNS; k++) {
            const int n = k * THREADS + (int)threadIdx.x;

            put4(tile, n / (K / 4) * ROW + n % (K / 4) * 4, load4<true>(sh.map[at] + n * 4));
        }
        __syncthreads();
        store_state(w.state + place_of(p, i, head), S, row);
        if (!s.last)
            apply(S, tile, sh.add[at], row);
        if (!s.last && i == most - 1)
            store_state(carried, S, row);
        __syncthreads(); /* nobody reads this place of the ring any more */
        if (i + RING < count && !ahead.last)
            fetch_transfer(p, w, i + RING, head, sh.map[at], sh.add[at]);
        copies_commit();
        if (i + RING + 1 < count)
            ahead = segment_of(w.list, w.first + i + RING + 1);
    }
}

/* Outputs of a chunk, of a warp's rows of the state, to where they belong. */
static __device__ __forceinline__ void put_outputs(const struct matrix_state &p,
                                                   const struct segment &s, int from, int head,
                                                   int row, const float (&y)[2][4])
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    const float skip = p.skip ? p.skip[head] : 0.0f;

#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int t = from + i / 4 * 8 + c + i % 2, column = head * K + row + g + i % 4 / 2 * 8;

        if (t < s.rows) {
            const size_t at = (size_t)(s.begin + t);
            float out = y[i / 4][i % 4];

            if (p.skip)
                out += skip * p.v[at * p.v_ld + (size_t)column];
            p.y[at * p.y_ld + (size_t)column] = out;
        }
    }
}

/* The outputs of block x's segment for head y, and the state at the end of a sequence. */
static __global__ void __launch_bounds__(THREADS)
    put_out(const struct matrix_state p, const struct device_batch in, const struct delta_wave w)
{
    extern __shared__ float4 shared[];
    chunk_shared &sh = *(chunk_shared *)shared;
    const int head = (int)blockIdx.y, at = (int)blockIdx.x, row = (int)threadIdx.x / 32 * 16;
    struct segment s;
    state_rows S;

    let_next_start();
    wait_for_inputs();
    if (!find_segment(w, at, &s))
        return;
    fetch_chunk<true>(p, s, sh, 0, head);
    load_state(S, w.state + place_of(p, at, head), row);
    for (int t = 0; t < s.rows; t += CHUNK) {
        float y[2][4] = {};

        copies_wait<0>();
        __syncthreads();
        prepare<true>(p, s, sh, t, head);
        __syncthreads();
        fetch_chunk<true>(p, s, sh, t + CHUNK, head);
        correlate<true>(sh);
        __syncthreads();
        advance<true>(S, sh, row, true, y);
        put_outputs(p, s, t, head, row, y);
    }

    const bool narrow = is_narrow(p.state);

    if (s.last)
        store_slot(head_state(p, in, narrow, s.seq, head), narrow, S, row);
}

static bool fits(const struct matrix_state *p)
{
    const uintptr_t off = off_grid(p->w, p->w_ld) | off_grid(p->a, p->ab_ld) |
                          off_grid(p->b, p->ab_ld) | off_grid(p->k, p->kq_ld) |
                          off_grid(p->q, p->kq_ld) | off_grid(p->v, p->v_ld) | off_grid(p->state);

    return !p->w_per_head && p->a && p->V == K && p->K == K && off == 0;
}

template <int RING>
static void launch_pass(struct stream *q, const struct matrix_state *p, const struct delta_wave &w,
                        int n)
{
    const size_t bytes = sizeof(pass_shared<RING>);

    stream_note(q,
                cudaFuncSetAttribute(pass_on<RING>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)bytes),
                "matrix_state");
    launch(q, "matrix_state", pass_on<RING>, (unsigned)p->H, THREADS, bytes, *p, q->in, w, n);
}

static void run_wave(struct stream *q, const struct matrix_state *p, const struct delta_wave &w,
                     int n)
{
    const char *where = "matrix_state";
    const dim3 grid((unsigned)n, (unsigned)p->H);
    const size_t bytes = sizeof(chunk_shared);

    launch(q, where, find_transfer, grid, THREADS, bytes, *p, w);
    if (q->block_memory >= sizeof(pass_shared<LONG_RING>))
        launch_pass<LONG_RING>(q, p, w, n);
    else
        launch_pass<SHORT_RING>(q, p, w, n);
    launch(q, where, put_out, grid, THREADS, bytes, *p, q->in, w);
}

int matrix_state_delta(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    if (!fits(p) || in->T - in->S < LONGEST)
        return INT_MAX;

    const int even = ceil_div(in->T * p->H, BLOCKS_WANTED * q->sms);
    const int length = even < LONGEST ? LONGEST : ceil_div(even, CHUNK) * CHUNK;
    const int most = most_segments(in, length, LONGEST);
    const size_t floats = (size_t)p->H * K * K, bytes = 2 * floats * sizeof(float);
    const int fit = (int)(WAVE_BYTES / bytes) + 1, wave = most < fit ? most : fit;
    const size_t list = (segment_list_bytes(most) + 255) / 256 * 256;
    char *memory =
        (char *)stream_workspace(q, list + (size_t)wave * bytes + bytes / 2, "matrix_state");
    struct delta_wave w = {};

    if (!memory)
        return LONGEST;
    stream_note(q,
                cudaFuncSetAttribute(find_transfer, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)sizeof(chunk_shared)),
                "matrix_state");
    stream_note(q,
                cudaFuncSetAttribute(put_out, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)sizeof(chunk_shared)),
                "matrix_state");
    w.list = list_segments(q, in, memory, length, LONGEST);
    w.carried = (float *)(memory + list);
    w.state = w.carried + floats;
    w.matrix = w.state + (size_t)wave * floats;
    for (w.first = 0; w.first < most; w.first += wave)
        run_wave(q, p, w, most - w.first < wave ? most - w.first : wave);
    return LONGEST;
}
