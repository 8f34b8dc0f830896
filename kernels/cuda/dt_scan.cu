/* dt_scan.cu - the step sizes of Mamba and the scan that takes them (definition: cpu/fused.c),
 * in a decode step as one kernel.
 *
 * A block has 32 channels of `each` sequences. It multiplies first: weights, which came before
 * the wait, are the A side of the tensor cores' products, ROWS rows of r their other side. The
 * order of k inside a product is free as long as both sides agree, so a lane's 16 bytes of a
 * row serve as fragments as they lie. float32 rows take part as two bf16 numbers, the rounded
 * one and what is missing. Then every warp scans the 32 channels of every WARPS-th sequence,
 * what the next ones need on its way to shared memory. Anything else takes the parts. */
#include "kernels/cuda/diagonal_scan.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/parts.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    CHANNELS = 32,
    TILE = 16,     /* channels of a product */
    CHUNK = 32,    /* of the rank */
    ROWS = 8,      /* of r in a product */
    EACH_MAX = 96, /* sequences of a block: at most 32 a warp */
    AHEAD = 2,     /* sequences of a warp on their way */
    STAGES = AHEAD + 1,
    BESIDE_ROWS = 128,   /* of prompts: for fewer a branch costs more than it hides */
    SEQUENCES_MAX = 4096 /* rows are found by 32 bits */
};

static const size_t RECORD_MAX = (size_t)1 << 30, ROW_MAX = (size_t)1 << 20; /* numbers */

/* What the step sizes are made of. */
struct step_sizes {
    const uint16_t *w; /* [dim, ld] */
    const void *r;     /* [T, rank] of float or bf16 */
    size_t ld, r_ld;
    const float *bias;
    int rank;
};

/* Those that four lanes share (diagonal_scan.cuh) are next to each other, for one load. */
typedef float row_steps[CHANNELS];

static __device__ __forceinline__ int place_of(int channel)
{
    return channel % APART * SHARED + channel / APART;
}

/* A lane's weights: rows g and g + 8 of its warp's tile, 8 columns of every chunk. */
template <int CHUNKS> struct lane_weights {
    uint4 upper[CHUNKS], lower[CHUNKS];
};

static __device__ __forceinline__ int tile_of_warp(void)
{
    return (int)threadIdx.x / 32 % 2 * TILE;
}

static __device__ __forceinline__ int column_of(int chunk)
{
    return chunk * CHUNK + (int)threadIdx.x % 4 * 8;
}

template <int CHUNKS>
static __device__ __forceinline__ void load_lane_weights(const struct step_sizes &d, int first,
                                                         lane_weights<CHUNKS> &w)
{
    const uint16_t *row = d.w + (size_t)(first + tile_of_warp() + (int)threadIdx.x % 32 / 4) * d.ld;

#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        const bool there = column_of(i) < d.rank;

        w.upper[i] = load_weights(row + column_of(i), there);
        w.lower[i] = load_weights(row + 8 * d.ld + column_of(i), there);
    }
}

static __device__ __forceinline__ void multiply(float (&sum)[4], uint4 upper, uint4 lower, uint4 r)
{
    mma_bf16(sum, { upper.x, lower.x, upper.y, lower.y }, r.x, r.y);
    mma_bf16(sum, { upper.z, lower.z, upper.w, lower.w }, r.z, r.w);
}

/* Four numbers of r: rounded, and what that misses. */
static __device__ __forceinline__ void split_quad(float4 v, uint32_t *high, uint32_t *low)
{
    const uint32_t a = pack_bf16(v.x, v.y), b = pack_bf16(v.z, v.w);
    const float2 x = widen_pair<__nv_bfloat16>(a), y = widen_pair<__nv_bfloat16>(b);

    high[0] = a;
    high[1] = b;
    low[0] = pack_bf16(v.x - x.x, v.y - x.y);
    low[1] = pack_bf16(v.z - y.x, v.w - y.y);
}

/* The warp's tile times row t of r, if it is `there`. */
template <bool NARROW, int CHUNKS>
static __device__ __forceinline__ void multiply_rows(const struct step_sizes &d,
                                                     const lane_weights<CHUNKS> &w, int t,
                                                     bool there, float (&sum)[4])
{
    const size_t row = (size_t)t * d.r_ld;

#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        const bool inside = there && column_of(i) < d.rank;
        uint4 high, low;

        if (NARROW) {
            const uint4 *from = (const uint4 *)((const uint16_t *)d.r + row + column_of(i));

            high = inside ? *from : uint4{};
        } else {
            const float4 *from = (const float4 *)((const float *)d.r + row + column_of(i));

            split_quad(inside ? from[0] : float4{}, &high.x, &low.x);
            split_quad(inside ? from[1] : float4{}, &high.z, &low.z);
            multiply(sum, w.upper[i], w.lower[i], low);
        }
        multiply(sum, w.upper[i], w.lower[i], high);
    }
}

/* The step sizes of the block's channels at n rows from `top` on. Warps share the tiles and the
 * rows. */
template <bool NARROW, int CHUNKS>
static __device__ __forceinline__ void make_steps(const struct step_sizes &d,
                                                  const lane_weights<CHUNKS> &w, int first,
                                                  row_steps *steps, int top, int n)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    const int channel = tile_of_warp() + g;
    const float upper = d.bias ? d.bias[first + channel] : 0.0f;
    const float lower = d.bias ? d.bias[first + channel + 8] : 0.0f;

#pragma unroll 1
    for (int t = (int)threadIdx.x / 64 * ROWS; t < n; t += 2 * ROWS) {
        float sum[4] = {};

        multiply_rows<NARROW>(d, w, top + t + g, t + g < n, sum);
#pragma unroll
        for (int i = 0; i < 4; i++)
            steps[t + c + i % 2][place_of(channel + i / 2 * 8)] =
                softplus(sum[i] + (i < 2 ? upper : lower));
    }
}

/* Four numbers of a state as it is kept. */
template <bool KEPT_NARROW> struct kept_quarter {
    typedef float4 type;
};

template <> struct kept_quarter<true> {
    typedef uint2 type;
};

static __device__ __forceinline__ float4 widen(float4 x)
{
    return x;
}

/* What a warp needs of a sequence and of its row: each lane brings its own states, input and gate,
 * some lanes B and C; and of the steps in its log. */
template <bool KEPT_NARROW> struct stage {
    typename kept_quarter<KEPT_NARROW>::type h[SHARED][32];
    float x[32], z[32], B[N], C[N];
    struct {
        float time[32], add[32], B[N];
    } logged[KEPT_NARROW ? 1 : LOG_STEPS - 1];
};

/* The block's part of the scan, as one lane sees it. */
struct scan_lane {
    quarters A;
    float D;
    int own;          /* its channel */
    uint32_t at;      /* of its quarters in a state */
    int first, count; /* rows: the warp's first, and how many of every WARPS-th */
    /* Of the warp's sequence whose number is the lane's. */
    int kept; /* slot and steps in its log */
    uint32_t key;
};

/* Row `row` of a batch, of which there are SEQUENCES_MAX of fewer than ROW_MAX numbers: a product
 * of 32 bits is one instruction, one of 64 several, which takes half a per cent of a step of 2.8B.
 */
template <typename E>
static __device__ __forceinline__ E *row_at(E *rows, int row, size_t ld, int column)
{
    return rows + column + (uint32_t)row * (uint32_t)ld;
}

/* A slot's numbers, of which there may be more; a record has fewer than RECORD_MAX. */
template <typename E>
static __device__ __forceinline__ E *record_at(E *base, int slot, size_t stride)
{
    return (E *)((char *)base + (uint64_t)(uint32_t)slot * (uint32_t)(stride * sizeof(E)));
}

/* A slot and what is in its log, -1 or more, as one number. */
static __device__ __forceinline__ int pack_kept(int slot, int logged)
{
    static_assert(LOG_STEPS <= 3, "two bits");
    return slot * 4 + logged + 1;
}

/* The warp's sequence k. */
struct turn {
    int row;
    struct kept_state state; /* its quarters */
    struct kept_log log;
};

template <bool KEPT_NARROW>
static __device__ __forceinline__ struct turn find_turn(const struct diagonal_scan &p,
                                                        const struct scan_lane &l, int k)
{
    const int kept = __shfl_sync(0xffffffffu, l.kept, k), slot = kept >> 2;
    const int logged = (kept & 3) - 1;
    struct turn turn = { l.first + k * WARPS, {}, { NULL, 0, slot != SLOT_NONE } };

    if (KEPT_NARROW) {
        turn.state.key = __shfl_sync(0xffffffffu, l.key, k);
        turn.state.place = p.state.place + l.at;
        if (slot != SLOT_NONE)
            turn.state.at = record_at(p.state.bf16 + l.at, slot, p.state.stride);
        return turn;
    }
    if (slot != SLOT_NONE)
        turn.state.at = record_at(p.state.base + l.at, slot, p.state.stride);
    if (p.state.log && slot != SLOT_NONE && logged >= 0)
        turn.log = { record_at(p.state.log, slot, p.state.stride), logged,
                     logged + 1 == LOG_STEPS };
    return turn;
}

template <bool KEPT_NARROW>
static __device__ __forceinline__ void fetch_states(const struct diagonal_scan &p,
                                                    const struct scan_lane &l,
                                                    const struct turn &turn, stage<KEPT_NARROW> &to)
{
    const int lane = (int)threadIdx.x % 32;

    if (!turn.state.at)
        return;
#pragma unroll
    for (int i = 0; i < LOG_STEPS - 1; i++)
        if (!KEPT_NARROW && i < turn.log.count) {
            const struct scan_entry e = find_scan_entry(p.dim, N, turn.log.at, i);

            copy_async<4>(&to.logged[i].time[lane], e.time + l.own);
            copy_async<4>(&to.logged[i].add[lane], e.add + l.own);
            if (lane < SHARED)
                copy_async<16>(&to.logged[i].B[lane * OWN], e.B + lane * OWN);
        }
#pragma unroll
    for (int j = 0; j < SHARED; j++)
        copy_async<sizeof(to.h[0][0])>(&to.h[j][threadIdx.x % 32],
                                       turn.state.from(KEPT_NARROW, (size_t)(j * APART * N)).at);
}

template <bool KEPT_NARROW>
static __device__ __forceinline__ void fetch_row(const struct diagonal_scan &p,
                                                 const struct scan_lane &l, const struct turn &turn,
                                                 stage<KEPT_NARROW> &to)
{
    const int row = turn.row, lane = (int)threadIdx.x % 32, quarter = lane % SHARED * OWN;

    copy_async<4>(&to.x[lane], row_at(p.x, row, p.x_ld, l.own));
    if (p.z)
        copy_async<4>(&to.z[lane], row_at(p.z, row, p.z_ld, l.own));
    if (lane < SHARED)
        copy_async<16>(&to.B[quarter], row_at(p.B, row, p.bc_ld, quarter));
    else if (lane < 2 * SHARED)
        copy_async<16>(&to.C[quarter], row_at(p.C, row, p.bc_ld, quarter));
}

/* Of the channels that the lane shares. */
static __device__ __forceinline__ void load_shared(float (&to)[SHARED], const float *of_lanes)
{
    unpack(to, *(const float4 *)&of_lanes[threadIdx.x % 32 / SHARED * SHARED]);
}

/* `steps`: the row's. */
template <bool KEPT_NARROW>
static __device__ __forceinline__ void
take_turn(const struct diagonal_scan &p, const struct scan_lane &l, const row_steps &steps,
          const struct turn &turn, const stage<KEPT_NARROW> &from)
{
    const int lane = (int)threadIdx.x % 32, quarter = lane % SHARED * OWN;
    const float x = from.x[lane], dt = steps[lane];
    float dts[SHARED], xs[SHARED], C[OWN];
    struct step_inputs s;
    quarters h;

#pragma unroll
    for (int j = 0; j < SHARED; j++)
        unpack(h[j], turn.state.at ? widen(from.h[j][lane]) : float4{});
#pragma unroll 1
    for (int i = 0; !KEPT_NARROW && i < turn.log.count; i++) {
        load_shared(s.time, from.logged[i].time);
        load_shared(s.add, from.logged[i].add);
        unpack(s.B, *(const float4 *)&from.logged[i].B[quarter]);
        take_in(h, l.A, s);
    }
    load_shared(dts, steps);
    load_shared(xs, from.x);
    unpack(s.B, *(const float4 *)&from.B[quarter]);
    unpack(C, *(const float4 *)&from.C[quarter]);
#pragma unroll
    for (int k = 0; k < SHARED; k++) {
        s.time[k] = dts[k] * LOG2_E;
        s.add[k] = dts[k] * xs[k];
    }

    const float y = advance_row(h, l.A, s, C) + l.D * x;

    store_numbers<1>(p.y, p.y_bf16, (uint32_t)turn.row * (uint32_t)p.y_ld + l.own,
                     { p.z ? gated(y, from.z[lane]) : y });
    if (turn.log.writes)
        store_states<true>(h, turn.state, KEPT_NARROW, SHARED);
    else if (turn.log.at)
        put_step(find_scan_entry(p.dim, N, turn.log.at, turn.log.count), dt * LOG2_E, dt * x, s.B,
                 l.own, blockIdx.x == 0 && lane < SHARED);
}

/* The turns of a warp, the first AHEAD of which are on the way; `steps`: of its first row. */
template <bool KEPT_NARROW>
static __device__ __forceinline__ void take_turns(const struct diagonal_scan &p,
                                                  const struct scan_lane &l, const row_steps *steps,
                                                  stage<KEPT_NARROW> *ring)
{
    int now = 0;

#pragma unroll 1
    for (int k = 0; k < l.count; k++) {
        const int ahead = now == 0 ? AHEAD : now - 1;

        __syncwarp(); /* the stage to be filled has been read by all lanes */
        if (k + AHEAD < l.count) {
            const struct turn next = find_turn<KEPT_NARROW>(p, l, k + AHEAD);

            fetch_states(p, l, next, ring[ahead]);
            fetch_row(p, l, next, ring[ahead]);
        }
        copies_commit();
        copies_wait<AHEAD>();
        __syncwarp();
        take_turn(p, l, steps[k * WARPS], find_turn<KEPT_NARROW>(p, l, k), ring[now]);
        now = now == AHEAD ? 0 : now + 1;
    }
}

enum { FEW_CHUNKS = 5, MANY_CHUNKS = 8 }; /* of the rank */
enum { BLOCKS_OF_AN_SM = 4 };

enum { MOST_BYTES = EACH_MAX * sizeof(row_steps) + WARPS * STAGES * sizeof(stage<false>) };

/* What a block of `each` sequences needs of shared memory: the less, the earlier it finds a
 * multiprocessor. */
struct room {
    int rows, warps, stages;
};

static __host__ __device__ __forceinline__ struct room room_for(int each)
{
    return { (each + ROWS - 1) / ROWS * ROWS, min(each, (int)WARPS),
             min((each + WARPS - 1) / WARPS, (int)STAGES) };
}

/* Block (x, y): 32 channels of `each` of S sequences of one row each, which are read before the
 * wait with the first states (cuda.cuh). */
template <bool NARROW, bool KEPT_NARROW, int CHUNKS>
static __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    scan_products(const struct diagonal_scan p, const struct step_sizes d,
                  const struct device_batch in, int S, int each)
{
    extern __shared__ char shared[];
    const int first = (int)blockIdx.x * CHANNELS, begin = (int)blockIdx.y * each;
    const int end = min(S, begin + each), lane = (int)threadIdx.x % 32;
    const int warp = (int)threadIdx.x / 32, c = first + lane / SHARED;
    const int i = begin + warp + lane * WARPS;
    const struct room room = room_for(each);
    row_steps *const steps = (row_steps *)shared;
    stage<KEPT_NARROW> *const ring = (stage<KEPT_NARROW> *)(steps + room.rows) + warp * room.stages;
    lane_weights<CHUNKS> w;
    struct scan_lane l;

    let_next_start();
    l.own = c + lane % SHARED * APART;
    l.at = (uint32_t)(c * N + lane % SHARED * OWN);
    l.first = begin + warp;
    l.count = (end - begin - warp + WARPS - 1) / WARPS;
    l.kept = i < end ? pack_kept(in.slot[i], in.logged[i]) : 0;
    if (KEPT_NARROW)
        l.key = i < end ? rounding_key(in.position[i] + 1) : 0;
    load_rates<true>(l.A, p.A + l.at, SHARED);
    l.D = p.D[l.own];
    load_lane_weights(d, first, w);
    for (int k = 0; k < AHEAD && k < l.count; k++)
        fetch_states(p, l, find_turn<KEPT_NARROW>(p, l, k), ring[k]);
    wait_for_inputs();
    for (int k = 0; k < AHEAD; k++) {
        if (k < l.count)
            fetch_row(p, l, find_turn<KEPT_NARROW>(p, l, k), ring[k]);
        copies_commit();
    }
    make_steps<NARROW>(d, w, first, steps, begin, end - begin);
    __syncthreads();
    take_turns(p, l, steps + warp, ring);
}

static bool fits(const struct stream *q, const struct batch *in, const struct linear *d,
                 const struct diagonal_scan *p)
{
    const uintptr_t off = off_grid(p->B, p->bc_ld) | off_grid(p->C, p->bc_ld) | off_grid(p->A, 0) |
                          off_grid(p->state) | off_grid(d->x, d->x_ld) |
                          ((uintptr_t)d->x_bf16 | (d->x_bf16 ? d->x_ld * 2 : 0)) % 16;

    return q->row_each && in->S <= SEQUENCES_MAX && p->state.stride < RECORD_MAX &&
           (p->x_ld | p->z_ld | p->bc_ld | p->y_ld) < ROW_MAX && p->N == N &&
           p->dim % CHANNELS == 0 && d->w->rows == p->dim && d->w->dtype == DTYPE_BF16 &&
           d->w->cols % 8 == 0 && d->w->cols <= MANY_CHUNKS * CHUNK && d->act == ACT_SOFTPLUS &&
           !d->add && off == 0;
}

/* As few waves of blocks as leave each no more than EACH_MAX sequences, and no fewer than a product
 * has rows. */
template <int CHUNKS>
static void launch_products(struct stream *q, const struct batch *in, const struct dt_scan *p)
{
    const struct linear *d = &p->dt;
    const struct step_sizes sizes = { (const uint16_t *)d->w->data,
                                      d->x_bf16 ? (const void *)d->x_bf16 : d->x,
                                      (size_t)matrix_ld(DTYPE_BF16, d->w->cols),
                                      d->x_ld,
                                      d->bias,
                                      d->w->cols };
    const int columns = p->scan.dim / CHANNELS;
    const int fit = max(1, BLOCKS_OF_AN_SM * q->sms / columns);
    const int waves = ceil_div(in->S, fit * EACH_MAX);
    const int each = min(in->S, max((int)ROWS, ceil_div(in->S, fit * waves)));

    const bool narrow = d->x_bf16 != NULL, kept_narrow = is_narrow(p->scan.state);
    const struct room room = room_for(each);
    const size_t stages = (size_t)room.warps * room.stages;

    const size_t bytes = room.rows * sizeof(row_steps) +
                         stages * (kept_narrow ? sizeof(stage<true>) : sizeof(stage<false>));
    void (*const kernel)(const struct diagonal_scan, const struct step_sizes,
                         const struct device_batch, int, int) =
        narrow
            ? kept_narrow ? scan_products<true, true, CHUNKS> : scan_products<true, false, CHUNKS>
        : kept_narrow ? scan_products<false, true, CHUNKS>
                      : scan_products<false, false, CHUNKS>;

    stream_note(
        q,
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)MOST_BYTES),
        "dt_scan");
    launch(q, "dt_scan", kernel, dim3((unsigned)columns, (unsigned)ceil_div(in->S, each)), THREADS,
           bytes, p->scan, sizes, q->in, in->S, each);
}

void dt_scan_cuda(struct stream *q, const struct batch *in, const struct dt_scan *p)
{
    if (run_parts(q, p, q->rest.in.T > BESIDE_ROWS, dt_scan_cuda))
        return;

    if (fits(q, in, &p->dt, &p->scan)) {
        if (p->dt.w->cols <= FEW_CHUNKS * CHUNK)
            launch_products<FEW_CHUNKS>(q, in, p);
        else
            launch_products<MANY_CHUNKS>(q, in, p);
        return;
    }

    const bool raw =
        p->dt.act == ACT_SOFTPLUS && !p->dt.add && diagonal_scan_takes_raw(q, in, &p->scan);
    struct linear dt = p->dt;

    if (raw)
        dt.act = ACT_NONE; /* the scan's, which has the time: no pass over the rows */
    linear_cuda(q, &dt, 1);
    diagonal_scan_of(q, in, &p->scan, raw);
}
