/* matrix_state_delta.cu - the walk of a state through the chunks of a long sequence
 * (matrix_state_delta.cuh).
 *
 * A block has 16 rows of a head's state, four of its warps 16 columns each: they meet once a chunk
 * to sum up what they have of U. Four more warps bring the factors some chunks ahead, sum up Y and
 * write it. */
#include "kernels/cuda/matrix_state_delta.cuh"
#include "kernels/cuda/state_log.cuh"

#include <limits.h>

enum {
    LONGEST = 12, /* rows that go token by token */
    HELPERS = THREADS,
    LONG_RING = 6,  /* chunks */
    SHORT_RING = 4, /* two such blocks fit on a multiprocessor */
    Y_ROW = 16 + 4,
    WAVE_BYTES = 64 << 20
};

/* The sums of the warps lie there twice, so that one barrier a chunk is enough. */
template <int RING> struct walk_shared {
    struct {
        uint4 columns[SLABS][BY_COLUMN][WARP];
        uint4 rows[BY_ROW][WARP], tokens[BY_TOKEN][WARP];
        float enter[K], leave[K];
    } ring[RING];
    float4 u[2][SLABS][2][WARP];
    float y[2][SLABS][CHUNK][Y_ROW];
};

/* A helper's part of a chunk's factors, on its way. */
template <int RING>
static __device__ __forceinline__ void fetch_factors(walk_shared<RING> &sh, int at,
                                                     const struct factors &f, int slab, int i)
{
    auto &to = sh.ring[at];

#pragma unroll
    for (int j = 0; j < SLABS * BY_COLUMN * WARP; j += HELPERS)
        copy_async<16>(&to.columns[0][0][0] + j + i, &f.columns[0][0][0] + j + i);
    copy_async<16>(&to.tokens[0][0] + i, &f.tokens[0][0] + i);
    if (i < BY_ROW * WARP)
        copy_async<16>(&to.rows[0][0] + i, &f.rows[slab][0][0] + i);
    else if (i < BY_ROW * WARP + 2 * K / 4)
        copy_async<16>(to.enter + 4 * (i - BY_ROW * WARP), f.enter + 4 * (i - BY_ROW * WARP));
}

static_assert(BY_TOKEN * WARP == HELPERS && BY_ROW * WARP + 2 * K / 4 <= HELPERS,
              "a copy of each a helper");

/* Upper and lower parts of a factor. */
template <typename F>
static __device__ __forceinline__ void load_parts(F &to, const uint4 (*from)[WARP])
{
    const uint4 hi = from[0][threadIdx.x % WARP], lo = from[1][threadIdx.x % WARP];

    to.hi[0] = hi.x, to.hi[1] = hi.y, to.hi[2] = hi.z, to.hi[3] = hi.w;
    to.lo[0] = lo.x, to.lo[1] = lo.y, to.lo[2] = lo.z, to.lo[3] = lo.w;
}

/* Chunks [from, to) of the sequence of block z, of which `rows` rows are at `begin`. */
struct walk_range {
    int begin, rows, seq, from, to;
    bool first, last; /* of the sequence */
};

static __device__ __forceinline__ bool find_range(const struct delta_wave &w, int i,
                                                  struct walk_range *r)
{
    if (i >= segment_count(w.list))
        return false;

    const struct segment s = segment_of(w.list, i);
    const int before = w.first - first_place(s, i), chunks = (s.rows + CHUNK - 1) / CHUNK;

    r->begin = s.begin;
    r->rows = s.rows;
    r->seq = s.seq;
    r->from = max(before, 0);
    r->to = min(before + w.count, chunks);
    r->first = r->from == 0;
    r->last = r->to == chunks;
    return r->from < r->to;
}

/* A warp's 16 rows and columns of a state as sums: two tiles of 8 columns. */
static __device__ __forceinline__ void load_tiles(float (&S)[2][4], const kept_state &from,
                                                  bool narrow, int row, int column)
{
    const int g = (int)threadIdx.x % WARP / 4, c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 2; i++) {
            const size_t at = (size_t)((row + g + 8 * i) * K + column + 8 * j + c);
            const float2 x = from.at ? load_kept2(from, narrow, at) : float2{};

            S[j][2 * i] = x.x;
            S[j][2 * i + 1] = x.y;
        }
}

static __device__ __forceinline__ void store_tiles(const kept_state &to, bool narrow,
                                                   const float (&S)[2][4], int row, int column)
{
    const int g = (int)threadIdx.x % WARP / 4, c = (int)threadIdx.x % 4 * 2;

    for (int j = 0; to.at && j < 2; j++)
        for (int i = 0; i < 2; i++)
            store_kept2(to, narrow, (size_t)((row + g + 8 * i) * K + column + 8 * j + c),
                        make_float2(S[j][2 * i], S[j][2 * i + 1]));
}

/* S by columns, those of the slab. */
static __device__ __forceinline__ void scale_tiles(float (&S)[2][4], float2 x, float2 y)
{
    S[0][0] *= x.x, S[0][1] *= x.y, S[0][2] *= x.x, S[0][3] *= x.y;
    S[1][0] *= y.x, S[1][1] *= y.y, S[1][2] *= y.x, S[1][3] *= y.y;
}

/* All of the block, of which one half walks and the other helps. */
static __device__ __forceinline__ void meet(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS + HELPERS) : "memory");
}

/* A warp that walks: its 16 rows and columns of the state, and the factors of its columns. */
template <int RING> struct walker {
    walk_shared<RING> &sh;
    int slab, column; /* the slab, and the lane's first column */
    float S[2][4];
    split_right left, key, query, delta;

    /* Chunk number i of n, at place `at` of the ring. */
    __device__ __forceinline__ void step(int i, int n, int at)
    {
        const int lane = (int)threadIdx.x % WARP, g = lane / 4, c = lane % 4 * 2;
        const auto &now = sh.ring[at], &next = sh.ring[at + 1 == RING ? 0 : at + 1];
        const float2 leave[2] = { load_pair(&now.leave[column]),
                                  load_pair(&now.leave[column + 8]) };
        float u[2][4] = {}, y[2][4] = {};
        split_left v;

        load_parts(v, &now.rows[VALUE]);
        if (slab < 2) { /* one warp adds what V does to U, one what it does to Y */
            split_right e;

            load_parts(e, &now.tokens[slab ? TO_Y : TO_U]);
            slab ? multiply(y[0], y[1], v, e) : multiply(u[0], u[1], v, e);
        }

        const split_left s = as_left(S[0], S[1]);

        multiply(u[0], u[1], s, left);
        multiply(S[0], S[1], v, key);
        for (int j = 0; j < 2; j++)
            sh.u[i % 2][slab][j][lane] = make_float4(u[j][0], u[j][1], u[j][2], u[j][3]);
        meet();
        for (int other = 1; other < SLABS; other++)
            for (int j = 0; j < 2; j++) {
                const float4 f = sh.u[i % 2][(slab + other) % SLABS][j][lane];

                u[j][0] += f.x, u[j][1] += f.y, u[j][2] += f.z, u[j][3] += f.w;
            }
        multiply(y[0], y[1], s, query);
        multiply(S[0], S[1], as_left(u[0], u[1]), delta);
        scale_tiles(S, leave[0], leave[1]);
        if (i + 1 < n)
            enter(at + 1 == RING ? 0 : at + 1);
        load_columns(next.columns[slab]);
        for (int j = 0; j < 8; j++)
            sh.y[i % 2][slab][j / 4 * 8 + c + j % 2][g + j % 4 / 2 * 8] = y[j / 4][j % 4];
    }

    __device__ __forceinline__ void enter(int at)
    {
        const float *by = sh.ring[at].enter + column;

        scale_tiles(S, load_pair(by), load_pair(by + 8));
    }

    __device__ __forceinline__ void load_columns(const uint4 (*from)[WARP])
    {
        load_parts(left, from + LEFT);
        load_parts(key, from + KEY);
        load_parts(query, from + QUERY);
        load_parts(delta, from + DELTA);
    }

    __device__ __forceinline__ void walk(int n)
    {
        meet();
        enter(0);
        load_columns(sh.ring[0].columns[slab]);
        for (int i = 0, at = 0; i < n; i++, at = at + 1 == RING ? 0 : at + 1)
            step(i, n, at);
        meet();
    }
};

/* A helper's two outputs of chunk number i of this walk. */
template <int RING>
static __device__ __forceinline__ void
put_outputs(const struct matrix_state &p, const walk_shared<RING> &sh, const struct walk_range &r,
            int i, int helper, int column)
{
    const int token = helper / 8, own = helper % 8 * 2, from = (r.from + i) * CHUNK + token;
    const size_t t = (size_t)(r.begin + from), c = (size_t)(column + own);
    float2 y = {};

    for (int slab = 0; slab < SLABS; slab++) {
        const float2 x = load_pair(&sh.y[i % 2][slab][token][own]);

        y.x += x.x;
        y.y += x.y;
    }
    if (from >= r.rows)
        return;
    if (p.skip) {
        const float skip = p.skip[column / K];

        y.x += skip * p.v[t * p.v_ld + c];
        y.y += skip * p.v[t * p.v_ld + c + 1];
    }
    *(float2 *)(p.y + t * p.y_ld + c) = y;
}

/* The other half of the block; `column` is the first one of its outputs. */
template <int RING>
static __device__ __forceinline__ void help(const struct matrix_state &p, walk_shared<RING> &sh,
                                            const struct walk_range &r, const struct factors *f,
                                            int column)
{
    const int n = r.to - r.from, helper = (int)threadIdx.x - THREADS, slab = column % K / 16;
    const size_t H = (size_t)p.H;

    for (int i = 0; i < RING; i++) {
        if (i < n)
            fetch_factors(sh, i, f[(size_t)i * H], slab, helper);
        copies_commit();
    }
    copies_wait<RING - 1>();
    meet();
    for (int i = 0, at = 0; i < n; i++, at = at + 1 == RING ? 0 : at + 1) {
        copies_wait<RING - 2>();
        meet(); /* nobody reads this place of the ring any more */
        if (i + RING < n)
            fetch_factors(sh, at, f[(size_t)(i + RING) * H], slab, helper);
        copies_commit();
        if (i > 0)
            put_outputs(p, sh, r, i - 1, helper, column);
    }
    meet();
    put_outputs(p, sh, r, n - 1, helper, column);
}

/* Slab x of the rows of head y goes through the wave's chunks of sequence z. */
template <int RING>
static __global__ void __launch_bounds__(THREADS + HELPERS)
    walk_factors(const struct matrix_state p, const struct device_batch in,
                 const struct delta_wave w)
{
    extern __shared__ float4 shared[];
    walk_shared<RING> &sh = *(walk_shared<RING> *)shared;
    const int row = (int)blockIdx.x * 16, head = (int)blockIdx.y, i = (int)blockIdx.z;
    const bool narrow = is_narrow(p.state);
    const size_t carried = (size_t)head * K * K;
    struct walk_range r;

    let_next_start();
    wait_for_inputs();
    if (!find_range(w, i, &r))
        return;

    const int at = first_place(segment_of(w.list, i), i) + r.from - w.first;
    const struct factors *f = w.factors + (size_t)at * (size_t)p.H + (size_t)head;

    if (threadIdx.x >= THREADS) {
        help(p, sh, r, f, head * K + row);
        return;
    }

    const kept_state slot = head_state(p, in, narrow, r.seq, head);
    const int slab = (int)threadIdx.x / WARP;
    walker<RING> x = { sh, slab, slab * 16 + (int)threadIdx.x % 4 * 2, {}, {}, {}, {}, {} };

    load_tiles(x.S, r.first ? slot : kept_state{ w.from + carried, 0, 0 }, r.first && narrow, row,
               slab * 16);
    x.walk(r.to - r.from);
    store_tiles(r.last ? slot : kept_state{ w.to + carried, 0, 0 }, r.last && narrow, x.S, row,
                slab * 16);
}

static bool fits(const struct matrix_state *p)
{
    const uintptr_t off = off_grid(p->w, p->w_ld) | off_grid(p->a, p->ab_ld) |
                          off_grid(p->b, p->ab_ld) | off_grid(p->k, p->kq_ld) |
                          off_grid(p->q, p->kq_ld) | off_grid(p->v, p->v_ld) |
                          off_grid(p->y, p->y_ld) | off_grid(p->state);

    return !p->w_per_head && p->a && p->V == K && p->K == K && off == 0;
}

template <int RING>
static void launch_walk(struct stream *q, const struct matrix_state *p, const struct delta_wave &w,
                        dim3 grid)
{
    const size_t bytes = sizeof(walk_shared<RING>);

    stream_note(q,
                cudaFuncSetAttribute(walk_factors<RING>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                "matrix_state");
    launch(q, "matrix_state", walk_factors<RING>, grid, THREADS + HELPERS, bytes, *p, q->in, w);
}

/* Sequences of more than LONGEST rows, with what leads into the state and out of it if
 * `gates`. */
static bool run_waves(struct stream *q, const struct batch *in, const struct delta_state *p,
                      bool gates)
{
    const int H = p->state.H, whole = in->T + 1, most = most_segments(in, whole, LONGEST);
    const int places = in->S == 1 ? ceil_div(in->T, CHUNK) : in->T / CHUNK + most;
    const size_t floats = (size_t)H * K * K, bytes = (size_t)H * sizeof(struct factors);
    const int fit = (int)(WAVE_BYTES / bytes) + 1, waves = ceil_div(places, fit);
    const int wave = ceil_div(places, waves);
    const size_t list = (segment_list_bytes(most) + 255) / 256 * 256;
    const size_t bonus = gates ? (size_t)(in->T * H + 63) / 64 * 64 : 0;
    char *memory = (char *)stream_workspace(
        q, list + (2 * floats + bonus) * sizeof(float) + (size_t)wave * bytes, "matrix_state");
    const dim3 grid(SLABS, (unsigned)H, (unsigned)most);
    const bool roomy =
        SLABS * H * most <= q->sms && q->block_memory >= sizeof(walk_shared<LONG_RING>);
    struct delta_wave w = {};

    if (!memory)
        return false;
    if (gates)
        settle_matrices(q, in, &p->state); /* else it is done */
    w.list = list_segments(q, in, memory, whole, LONGEST);
    w.from = (float *)(memory + list);
    w.to = w.from + floats;
    w.bonus = w.to + floats;
    w.factors = (struct factors *)(w.bonus + bonus);
    for (w.first = 0; w.first < places; w.first += wave) {
        float *const to = w.from;

        w.count = min(wave, places - w.first);
        launch_factors(q, p, w, gates);
        if (roomy)
            launch_walk<LONG_RING>(q, &p->state, w, grid);
        else
            launch_walk<SHORT_RING>(q, &p->state, w, grid);
        w.from = w.to;
        w.to = to;
    }
    if (gates)
        head_output_with(q, &p->out, w.bonus);
    return true;
}

int matrix_state_delta(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    struct delta_state d = {};

    if (!fits(p) || in->T - in->S < LONGEST)
        return INT_MAX;
    d.state = *p;
    run_waves(q, in, &d, false);
    return LONGEST;
}

bool matrix_state_gated(struct stream *q, const struct batch *in, const struct delta_state *p)
{
    if (in->S != 1 || in->T <= LONGEST || !fits(&p->state))
        return false;
    return run_waves(q, in, p, true);
}
