/* matrix_state_factors.cu - what each chunk of a long sequence does to a state
 * (matrix_state_delta.cuh), a block for a chunk of a head.
 *
 * The inverse is found by forward substitution in float32: powers of its triangle can be thousands
 * of times larger than it where keys repeat. */
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/matrix_state_delta.cuh"

enum {
    MIDDLE = CHUNK / 2, /* rows before it are counted back from it */
    OWN = CHUNK / (THREADS / WARP)
};

static const float DECAY_MIN = 0x1p-15f;

enum { BK, QK, QA, INVERSE, TRIANGLES }; /* [CHUNK, CHUNK] each */
enum { ROW = K, TRIANGLE_ROW = CHUNK + 8 };

struct chunk_shared {
    unsigned short left[2][2 * CHUNK * ROW];  /* b' above q' */
    unsigned short right[2][2 * CHUNK * ROW]; /* k' above a' */
    unsigned short value[2][CHUNK * ROW];
    union {
        float decay[CHUNK][K]; /* until the factors are there */
        struct {
            unsigned short triangle[TRIANGLES][2][CHUNK * TRIANGLE_ROW];
            float ba[CHUNK][CHUNK + 4];
        };
    };
};

static __device__ __forceinline__ float2 times(float2 x, float2 y)
{
    return make_float2(x.x * y.x, x.y * y.y);
}

static __device__ __forceinline__ float2 reciprocal(float2 x)
{
    return make_float2(fast_reciprocal(x.x), fast_reciprocal(x.y));
}

/* Which sequence has the chunk at a place, and its first row there. Every thread of a block. */
static __device__ __forceinline__ bool find_chunk(const struct segment_list &l, int place,
                                                  struct segment *s, int *from)
{
    __shared__ int found;
    const int n = segment_count(l);

    if (!l.at) {
        *s = segment_of(l, 0);
        *from = place * CHUNK;
        return *from < s->rows;
    }
    if (threadIdx.x == 0)
        found = -1;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n; i += THREADS) {
        const int chunk = place - first_place(l.at[i], i);

        if (chunk >= 0 && chunk * CHUNK < l.at[i].rows)
            found = i;
    }
    __syncthreads();
    if (found < 0)
        return false;
    *s = l.at[found];
    *from = (place - first_place(*s, found)) * CHUNK;
    return true;
}

/* Two columns of one row. A row beyond the end changes nothing: decay 1, the rest 0. */
struct row_pair {
    float2 w, a, b, k, q, v;
};

static __device__ __forceinline__ row_pair load_pairs(const struct matrix_state &p, int t, int head,
                                                      int c)
{
    const struct head_vectors h = find_vectors(p, t, head);
    const float scale = p.v_scale ? p.v_scale[(size_t)t * p.w_ld + (size_t)head] : 1.0f;

    return { load_pair(h.w + c), load_pair(h.a + c),
             load_pair(h.b + c), load_pair(h.k + c),
             load_pair(h.q + c), times(load_pair(h.v + c), make_float2(scale, scale)) };
}

/* What leads into RWKV-7's state: the constants of a head, two columns a lane. */
struct gate_weights {
    float2 k_k, k_a, r_k;
};

/* v blended, and what is in front of the gates: the decay in w, and a. */
static __device__ __forceinline__ row_pair load_raw(const struct delta_state &p, size_t at)
{
    row_pair x = {
        load_pair(p.gates.w + at), load_pair(p.gates.a + at), {},
        load_pair(p.gates.k + at), load_pair(p.state.q + at), load_pair(p.state.v + at)
    };

    if (p.v.n) {
        const float2 target = load_pair(p.v.target + at), mix = load_pair(p.v.mix + at);

        x.v.x += (target.x - x.v.x) * mix.x;
        x.v.y += (target.y - x.v.y) * mix.y;
    }
    return x;
}

/* The gates of a row, by a warp; v goes back for the way out of the state. Returns the bonus. */
static __device__ __forceinline__ float open_gates(const struct delta_state &p, row_pair &x,
                                                   const gate_weights &g, size_t at)
{
    const float2 kk = times(x.k, g.k_k);
    const float scale = inverse_length(kk.x * kk.x + kk.y * kk.y);

    x.w = make_float2(decay_of(x.w.x), decay_of(x.w.y));
    x.k = make_float2(replacing(x.k.x, x.a.x, g.k_a.x), replacing(x.k.y, x.a.y, g.k_a.y));
    x.b = make_float2(-kk.x * scale, -kk.y * scale);
    x.a = make_float2(-x.b.x * x.a.x, -x.b.y * x.a.y);
    if (p.v.n)
        *(float2 *)(p.v.y + at) = x.v;
    return warp_sum(x.q.x * x.k.x * g.r_k.x + x.q.y * x.k.y * g.r_k.y);
}

/* Row t of the factors, with P[t - 1], P[t] and 1 / P[t]. */
static __device__ __forceinline__ void put_row(chunk_shared &sh, const row_pair &x, int t, int c,
                                               float2 before, float2 now, float2 inverse)
{
    const split_tile<ROW> left = { sh.left[0], sh.left[1] }, right = { sh.right[0], sh.right[1] };
    const split_tile<ROW> value = { sh.value[0], sh.value[1] };
    const float2 b = times(x.b, before), q = times(x.q, now);
    const float2 k = times(x.k, inverse), a = times(x.a, inverse);

    put2(left, place<ROW>(t, c), b.x, b.y);
    put2(left, place<ROW>(CHUNK + t, c), q.x, q.y);
    put2(right, place<ROW>(t, c), k.x, k.y);
    put2(right, place<ROW>(CHUNK + t, c), a.x, a.y);
    put2(value, place<ROW>(t, c), x.v.x, x.v.y);
}

/* The factors of a chunk: a warp has OWN rows, a thread two columns of them. */
static __device__ __forceinline__ void prepare(chunk_shared &sh, const row_pair (&x)[OWN],
                                               struct factors &out)
{
    const int first = (int)threadIdx.x / WARP * OWN, c = (int)threadIdx.x % WARP * 2;
    float2 run = make_float2(1.0f, 1.0f);

    if (first >= MIDDLE) {
        for (int t = MIDDLE; t < first; t++)
            run = times(run, load_pair(&sh.decay[t][c]));
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const float2 now = times(run, load_pair(&sh.decay[first + i][c]));

            put_row(sh, x[i], first + i, c, run, now, reciprocal(now));
            run = now;
        }
        if (first + OWN == CHUNK)
            *(float2 *)&out.leave[c] = run;
    } else { /* run is 1 / P */
        for (int t = MIDDLE - 1; t >= first + OWN; t--)
            run = times(run, load_pair(&sh.decay[t][c]));
#pragma unroll
        for (int i = OWN - 1; i >= 0; i--) {
            const float2 before = times(run, load_pair(&sh.decay[first + i][c]));

            put_row(sh, x[i], first + i, c, reciprocal(before), reciprocal(run), run);
            run = before;
        }
        if (first == 0)
            *(float2 *)&out.enter[c] = run;
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
static __device__ __forceinline__ void correlate(chunk_shared &sh)
{
    const split_tile<ROW> left = { sh.left[0], sh.left[1] }, right = { sh.right[0], sh.right[1] };
    const int warp = (int)threadIdx.x / 32, query = warp % 2, delta = warp / 2;
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    float sum[2][4] = {};

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

/* Sums [16, 16] as the right factor that is their transpose. */
static __device__ __forceinline__ split_right as_right(const float (&x)[2][4])
{
    split_right b;

    for (int i = 0; i < 4; i++) {
        const split_pair s = split(x[i % 2][i / 2 * 2], x[i % 2][i / 2 * 2 + 1]);

        b.hi[i] = s.hi;
        b.lo[i] = s.lo;
    }
    return b;
}

/* The 16 x 16 numbers of a tile from row m, column n on, as sums. */
template <int R>
static __device__ __forceinline__ void load_sums(float (&x)[2][4], const split_tile<R> &t, int m,
                                                 int n)
{
    const int g = (int)threadIdx.x % WARP / 4, c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 2; i++) {
            const int at = place<R>(m + g + 8 * i, n + 8 * j + c);
            const unsigned hi = *(const unsigned *)(t.hi + at), lo = *(const unsigned *)(t.lo + at);

            x[j][2 * i] = __uint_as_float(hi << 16) + __uint_as_float(lo << 16);
            x[j][2 * i + 1] = __uint_as_float(hi & 0xffff0000u) + __uint_as_float(lo & 0xffff0000u);
        }
}

static __device__ __forceinline__ void store_parts(uint4 (*to)[WARP], const unsigned (&hi)[4],
                                                   const unsigned (&lo)[4])
{
    const int lane = (int)threadIdx.x % WARP;

    to[0][lane] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
    to[1][lane] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
}

/* What the chunk does to a state: a warp finds it for 16 columns and for 16 rows. */
static __device__ __forceinline__ void put_factors(chunk_shared &sh, struct factors &out)
{
    const split_tile<ROW> left = { sh.left[0], sh.left[1] }, right = { sh.right[0], sh.right[1] };
    const split_tile<ROW> value = { sh.value[0], sh.value[1] };
    const int slab = (int)threadIdx.x / WARP, at = slab * 16;
    const split_left inverse = load_left(triangle(sh, INVERSE), 0, 0);
    const split_right k = load_right<false>(right, 0, at), a = load_right<false>(right, CHUNK, at);
    const split_left v = load_left_by_column(value, at, 0);
    const split_right b = load_right<false>(left, 0, at);
    float g[2][4] = {}, rb[2][4] = {}, query[2][4];

    store_parts(&out.columns[slab][KEY], k.hi, k.lo);
    store_parts(&out.columns[slab][DELTA], a.hi, a.lo);
    store_parts(&out.rows[slab][VALUE], v.hi, v.lo);
    multiply(g[0], g[1], load_left(triangle(sh, QA), 0, 0),
             load_right<false>(triangle(sh, INVERSE), 0, 0));
    multiply(rb[0], rb[1], inverse, b);

    const split_right rb_parts = as_right(rb);

    store_parts(&out.columns[slab][LEFT], rb_parts.hi, rb_parts.lo);
    load_sums(query, left, CHUNK, at);

    const split_left G = as_left(g[0], g[1]);

    multiply(query[0], query[1], G, b);

    const split_right query_parts = as_right(query);

    store_parts(&out.columns[slab][QUERY], query_parts.hi, query_parts.lo);
    if (slab < 2) {
        const split_right bk = load_right<false>(triangle(sh, BK), 0, 0);
        float e[2][4] = {};

        if (slab) {
            load_sums(e, triangle(sh, QK), 0, 0);
            multiply(e[0], e[1], G, bk);
        } else {
            multiply(e[0], e[1], inverse, bk);
        }

        const split_right parts = as_right(e);

        store_parts(&out.tokens[slab ? TO_Y : TO_U], parts.hi, parts.lo);
    }
}

/* A NaN stays one. */
static __device__ __forceinline__ float at_least_min(float decay)
{
    return decay < DECAY_MIN ? DECAY_MIN : decay;
}

/* The factors of the chunk at place x of the wave for head y. GATES: from what is in front of the
 * gates; else p.state is all there is. */
template <bool GATES>
static __global__ void __launch_bounds__(THREADS, 8)
    find_factors(const struct delta_state p, const struct delta_wave w)
{
    __shared__ alignas(16) chunk_shared sh;
    const int head = (int)blockIdx.y, first = (int)threadIdx.x / WARP * OWN;
    const int c = (int)threadIdx.x % WARP * 2;
    gate_weights weights = {};
    row_pair x[OWN];
    struct segment s;
    int from;

    let_next_start();
    if (GATES)
        weights = { load_pair(p.gates.k_k + head * K + c), load_pair(p.gates.k_a + head * K + c),
                    load_pair(p.out.r_k + head * K + c) };
    wait_for_inputs();
    if (!find_chunk(w.list, w.first + (int)blockIdx.x, &s, &from))
        return;

    const int rows = s.rows - from - first, t = s.begin + from + first;
    struct factors &out = w.factors[(size_t)blockIdx.x * (size_t)p.state.H + (size_t)head];
    const size_t ld = (size_t)p.state.H * K, at = (size_t)t * ld + (size_t)(head * K + c);

#pragma unroll
    for (int i = 0; i < OWN; i++) {
        x[i] = { { 1.0f, 1.0f }, {}, {}, {}, {}, {} };
        if (i < rows)
            x[i] = GATES ? load_raw(p, at + i * ld) : load_pairs(p.state, t + i, head, c);
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        if (GATES && i < rows) {
            const float bonus = open_gates(p, x[i], weights, at + i * ld);

            if (c == 0)
                w.bonus[(size_t)(t + i) * (size_t)p.state.H + (size_t)head] = bonus;
        }
        *(float2 *)&sh.decay[first + i][c] =
            make_float2(at_least_min(x[i].w.x), at_least_min(x[i].w.y));
    }
    __syncthreads();
    prepare(sh, x, out);
    __syncthreads();
    correlate(sh);
    __syncthreads();
    put_factors(sh, out);
}

void launch_factors(struct stream *q, const struct delta_state *p, const struct delta_wave &w,
                    bool gates)
{
    launch(q, "matrix_state", gates ? find_factors<true> : find_factors<false>,
           dim3((unsigned)w.count, (unsigned)p->state.H), THREADS, 0, *p, w);
}
