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

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    CHANNELS = 32,
    TILE = 16,   /* channels of a product */
    CHUNK = 32,  /* of the rank */
    ROWS = 8,    /* of r in a product */
    WINDOW = 96, /* rows whose step sizes are in shared memory; at most 32 sequences a warp */
    AHEAD = 2,   /* sequences of a warp on their way */
    STAGES = AHEAD + 1,
    SEQUENCES_MAX = 128 /* more do as well by the parts, or better */
};

/* What the step sizes are made of. */
struct step_sizes {
    const uint16_t *w; /* [dim, ld] */
    const void *r;     /* [T, rank] of float or bf16 */
    size_t ld, r_ld;
    const float *bias;
    int rank;
};

/* Four columns apart from whole banks, so that a product's sums never share one. */
typedef float row_steps[CHANNELS + 4];

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

/* The step sizes of the block's channels at rows [top, stop), at most WINDOW. Warps share the
 * tiles and the rows. */
template <bool NARROW, int CHUNKS>
static __device__ __forceinline__ void make_steps(const struct step_sizes &d,
                                                  const lane_weights<CHUNKS> &w, int first,
                                                  row_steps *steps, int top, int stop)
{
    const int g = (int)threadIdx.x % 32 / 4, c = (int)threadIdx.x % 4 * 2;
    const int channel = tile_of_warp() + g;
    const float upper = d.bias ? d.bias[first + channel] : 0.0f;
    const float lower = d.bias ? d.bias[first + channel + 8] : 0.0f;

    wait_for_inputs();
#pragma unroll 1
    for (int t = top + (int)threadIdx.x / 64 * ROWS; t < stop; t += 2 * ROWS) {
        float sum[4] = {};

        multiply_rows<NARROW>(d, w, t + g, t + g < stop, sum);
#pragma unroll
        for (int i = 0; i < 4; i++)
            steps[t - top + c + i % 2][channel + i / 2 * 8] =
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

/* What a warp needs of a sequence and of its row, if that is in the window: each lane brings its
 * own states, input and gate, some lanes B and C; and of the steps in its log. */
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
    int own;   /* its channel */
    size_t at; /* of its quarters in a state */
    /* Of the warp's sequence whose number is the lane's. */
    int count, begin, end, slot, logged;
    uint32_t key;
};

/* The warp's sequence k; end is 0 beyond the last. */
struct turn {
    int begin, end;
    struct kept_state state; /* its quarters */
    struct kept_log log;
};

template <bool KEPT_NARROW>
static __device__ __forceinline__ struct turn
find_turn(const struct diagonal_scan &p, const struct scan_lane &l, int k, int top, int stop)
{
    const int begin = __shfl_sync(0xffffffffu, l.begin, k);
    const int end = __shfl_sync(0xffffffffu, l.end, k);
    const int slot = __shfl_sync(0xffffffffu, l.slot, k);
    const size_t at = (size_t)slot * p.state.stride + l.at;
    struct turn turn = { max(begin, top), min(end, stop), {}, {} };

    if (KEPT_NARROW) {
        turn.state.key = __shfl_sync(0xffffffffu, l.key, k);
        turn.state.place = p.state.place + (uint32_t)l.at;
    }
    turn.log = find_log(p.state, slot, __shfl_sync(0xffffffffu, l.logged, k));
    if (slot != SLOT_NONE)
        turn.state.at = KEPT_NARROW ? (void *)(p.state.bf16 + at) : (void *)(p.state.base + at);
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
    const size_t row = (size_t)turn.begin, lane = threadIdx.x % 32, quarter = lane % SHARED * OWN;

    if (turn.begin >= turn.end)
        return;
    copy_async<4>(&to.x[lane], p.x + row * p.x_ld + l.own);
    if (p.z)
        copy_async<4>(&to.z[lane], p.z + row * p.z_ld + l.own);
    if (lane < SHARED)
        copy_async<16>(&to.B[quarter], p.B + row * p.bc_ld + quarter);
    else if (lane < 2 * SHARED)
        copy_async<16>(&to.C[quarter], p.C + row * p.bc_ld + quarter);
}

/* The row of a turn, if it is in the window from `top` on. */
template <bool KEPT_NARROW>
static __device__ __forceinline__ void
take_turn(const struct diagonal_scan &p, const struct scan_lane &l, const row_steps *steps, int top,
          const struct turn &turn, const stage<KEPT_NARROW> &from)
{
    const int lane = (int)threadIdx.x % 32, quarter = lane % SHARED * OWN;
    const int c = lane / SHARED + lane % SHARED * APART;
    struct row_inputs r;
    quarters h;

    if (turn.begin >= turn.end)
        return;
    r.x = from.x[lane];
    r.z = from.z[lane];
    unpack(r.B, *(const float4 *)&from.B[quarter]);
    unpack(r.C, *(const float4 *)&from.C[quarter]);
#pragma unroll
    for (int j = 0; j < SHARED; j++)
        unpack(h[j], turn.state.at ? widen(from.h[j][lane]) : float4{});
#pragma unroll 1
    for (int i = 0; !KEPT_NARROW && i < turn.log.count; i++) {
        struct step_inputs step = { from.logged[i].time[lane], from.logged[i].add[lane], {} };

        unpack(step.B, *(const float4 *)&from.logged[i].B[quarter]);
        take_in(h, l.A, step);
    }
    r.dt = steps[turn.begin - top][c];

    const size_t t = (size_t)turn.begin;
    const float y = advance_row(h, l.A, r, l.D);

    store_numbers<1>(p.y, p.y_bf16, t * p.y_ld + l.own, { p.z ? gated(y, r.z) : y });
    if (turn.log.writes)
        store_states<true>(h, turn.state, KEPT_NARROW, SHARED);
    else if (turn.log.at)
        put_step(find_scan_entry(p.dim, N, turn.log.at, turn.log.count), r, l.own,
                 blockIdx.x == 0 && lane < SHARED);
}

/* The turns of a warp in a window, the first AHEAD of which have their states on the way. */
template <bool KEPT_NARROW>
static __device__ __forceinline__ void take_turns(const struct diagonal_scan &p,
                                                  const struct scan_lane &l, const row_steps *steps,
                                                  int top, int stop, stage<KEPT_NARROW> *ring)
{
    int now = 0;

#pragma unroll 1
    for (int k = 0; k < l.count; k++) {
        const int ahead = now == 0 ? AHEAD : now - 1;

        __syncwarp(); /* the stage to be filled has been read by all lanes */
        if (k + AHEAD < l.count) {
            const struct turn next = find_turn<KEPT_NARROW>(p, l, k + AHEAD, top, stop);

            fetch_states(p, l, next, ring[ahead]);
            fetch_row(p, l, next, ring[ahead]);
        }
        copies_commit();
        copies_wait<AHEAD>();
        __syncwarp();
        take_turn(p, l, steps, top, find_turn<KEPT_NARROW>(p, l, k, top, stop), ring[now]);
        now = now == AHEAD ? 0 : now + 1;
    }
}

enum { FEW_CHUNKS = 5, MANY_CHUNKS = 8 }; /* of the rank */
enum { BLOCKS_OF_AN_SM = 3 };

enum { MOST_BYTES = WINDOW * sizeof(row_steps) + WARPS * STAGES * sizeof(stage<false>) };

/* What a block of `each` of S sequences, which have S rows, needs of shared memory: the less, the
 * earlier it finds a multiprocessor. */
struct room {
    int rows, warps, stages;
};

static __host__ __device__ __forceinline__ struct room room_for(int S, int each)
{
    return { (min(S, (int)WINDOW) + ROWS - 1) / ROWS * ROWS, min(each, (int)WARPS),
             min((each + WARPS - 1) / WARPS, (int)STAGES) };
}

/* Block (x, y): 32 channels of `each` sequences, which are read before the wait with the first
 * states (cuda.cuh). */
template <bool NARROW, bool KEPT_NARROW, int CHUNKS>
static __global__ void __launch_bounds__(THREADS, BLOCKS_OF_AN_SM)
    scan_products(const struct diagonal_scan p, const struct step_sizes d,
                  const struct device_batch in, int S, int each)
{
    extern __shared__ char shared[];
    const int first = (int)blockIdx.x * CHANNELS, begin = (int)blockIdx.y * each;
    const int end = min(S, begin + each), lane = (int)threadIdx.x % 32;
    const int c = first + lane / SHARED, i = begin + (int)threadIdx.x / 32 + lane * WARPS;
    const int top = in.begin[begin], bottom = in.begin[end];
    const struct room room = room_for(S, each);
    row_steps *const steps = (row_steps *)shared;
    stage<KEPT_NARROW> *const ring =
        (stage<KEPT_NARROW> *)(steps + room.rows) + (int)threadIdx.x / 32 * room.stages;
    struct scan_lane l;

    let_next_start();
    l.own = c + lane % SHARED * APART;
    l.at = (size_t)c * N + lane % SHARED * OWN;
    l.count = (end - begin - (int)threadIdx.x / 32 + WARPS - 1) / WARPS;
    l.begin = i < end ? in.begin[i] : 0;
    l.end = i < end ? in.begin[i + 1] : 0;
    l.slot = i < end ? in.slot[i] : SLOT_NONE;
    l.logged = i < end ? in.logged[i] : -1;
    if (KEPT_NARROW)
        l.key = i < end ? rounding_key(in.position[i] + (uint32_t)(l.end - l.begin)) : 0;
    load_rates<true>(l.A, p.A + l.at, SHARED);
    l.D = p.D[l.own];
#pragma unroll 1
    for (int t = top; t < bottom; t += WINDOW) {
        const int stop = min(bottom, t + WINDOW);
        lane_weights<CHUNKS> w;

        load_lane_weights(d, first, w);
        for (int k = 0; k < AHEAD && k < l.count; k++)
            fetch_states(p, l, find_turn<KEPT_NARROW>(p, l, k, t, stop), ring[k]);
        wait_for_inputs();
        for (int k = 0; k < AHEAD; k++) {
            if (k < l.count)
                fetch_row(p, l, find_turn<KEPT_NARROW>(p, l, k, t, stop), ring[k]);
            copies_commit();
        }
        make_steps<NARROW>(d, w, first, steps, t, stop);
        __syncthreads();
        take_turns(p, l, steps, t, stop, ring);
        __syncthreads();
    }
}

static bool fits(const struct stream *q, const struct batch *in, const struct linear *d,
                 const struct diagonal_scan *p)
{
    const uintptr_t off = off_grid(p->B, p->bc_ld) | off_grid(p->C, p->bc_ld) | off_grid(p->A, 0) |
                          off_grid(p->state) | off_grid(d->x, d->x_ld) |
                          ((uintptr_t)d->x_bf16 | (d->x_bf16 ? d->x_ld * 2 : 0)) % 16;

    /* A narrow state is rounded once: all its rows are in one window. */
    const int most = is_narrow(p->state) ? WINDOW : SEQUENCES_MAX;

    return q->row_each && in->S <= most && p->N == N && p->dim % CHANNELS == 0 &&
           d->w->rows == p->dim && d->w->dtype == DTYPE_BF16 && d->w->cols % 8 == 0 &&
           d->w->cols <= MANY_CHUNKS * CHUNK && d->act == ACT_SOFTPLUS && !d->add && off == 0;
}

/* As few waves of blocks as leave each no more rows than a window has, and no fewer than a
 * product. */
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
    const int waves = ceil_div(in->S, fit * WINDOW);
    const int each = min(in->S, max((int)ROWS, ceil_div(in->S, fit * waves)));

    const bool narrow = d->x_bf16 != NULL, kept_narrow = is_narrow(p->scan.state);
    const struct room room = room_for(in->S, each);
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
