/* state_log.cu - steps that wait in logs come into their states (state_log.cuh). */
#include "kernels/cuda/state_log.cuh"

#include "kernels/cuda/diagonal_scan.cuh"
#include "kernels/cuda/matrix_rows.cuh"

enum { THREADS = 128, ROWS = 4 }; /* ROWS: of a thread */

/* Which logs: of the sequences of several rows of a batch, or of one slot's layers. */
struct settling {
    struct device_batch in;
    bool rows;
    struct log_shape sizes;    /* of matrix states */
    int dim;                   /* of diagonal ones */
    const float *A;            /* [dim, N] of the batch's layer */
    const float *const *rates; /* of each layer */
    struct field state;        /* of layer 0 */
    int slot, logged;
    size_t state_distance, log_distance;
};

/* A state and what is in its log; count 0: nothing is to be done. */
struct pending {
    float *state, *log;
    int count;
};

static __device__ __forceinline__ struct pending find_pending(const struct settling &p, int i)
{
    const int slot = p.rows ? p.in.slot[i] : p.slot;
    const size_t layer = p.rows ? 0 : (size_t)i, at = (size_t)slot * p.state.stride;

    if (p.rows && (slot == SLOT_NONE || p.in.begin[i + 1] - p.in.begin[i] < 2))
        return {};
    return { p.state.base + at + layer * p.state_distance,
             p.state.log + at + layer * p.log_distance, p.rows ? p.in.logged[i] : p.logged };
}

/* Block (x, y, z) has rows of head y of sequence or layer z. */
template <int K, bool DELTA, bool PER_HEAD>
static __global__ void __launch_bounds__(THREADS) settle(const struct settling p)
{
    enum { LANES = K / 8, GROUPS = THREADS / LANES };
    const int lane = (int)threadIdx.x % LANES, head = (int)blockIdx.y, V = p.sizes.V;
    const int first = (int)blockIdx.x * GROUPS * ROWS + (int)threadIdx.x / LANES;
    columns S[ROWS] = {};

    let_next_start();
    wait_for_inputs();

    const struct pending at = find_pending(p, (int)blockIdx.z);
    const struct kept_state state = { at.state + (size_t)head * (size_t)V * K, 0, 0 };

    if (at.count <= 0)
        return;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (first + r * GROUPS < V)
            S[r] = load_row<K, true>(state, false, first + r * GROUPS, lane);
    for (int i = 0; i < at.count; i++) {
        const struct log_entry e = find_entry(p.sizes, at.log, i, head);
        const step_columns c = load_step<K, DELTA, PER_HEAD, true>(e.k, e.a, e.b, e.w, lane);
        float v[ROWS];

#pragma unroll
        for (int r = 0; r < ROWS; r++)
            v[r] = first + r * GROUPS < V ? e.v[first + r * GROUPS] : 0.0f;
        take_in<LANES, DELTA>(S, c, v);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (first + r * GROUPS < V)
            store_row<K, true>(state, false, first + r * GROUPS, lane, S[r]);
}

/* Four numbers of a diagonal state a thread; block (x, y) has some of sequence or layer y. */
static __global__ void __launch_bounds__(THREADS) settle_scan(const struct settling p)
{
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x), c = i / SHARED,
              part = i % SHARED * OWN;

    let_next_start();
    wait_for_inputs();

    const struct pending at = find_pending(p, (int)blockIdx.y);

    if (at.count <= 0 || c >= p.dim)
        return;

    const size_t first = (size_t)c * N + part;
    float h[OWN], A[OWN];

    unpack(A, load4<true>((p.rows ? p.A : p.rates[blockIdx.y]) + first));
    unpack(h, load4<true>(at.state + first));
    for (int k = 0; k < at.count; k++) {
        const struct scan_entry e = find_scan_entry(p.dim, N, at.log, k);

#pragma unroll
        for (int n = 0; n < OWN; n++)
            h[n] = scanned(h[n], A[n], e.time[c], e.add[c], e.B[part + n]);
    }
    store4<true>(at.state + first, make_float4(h[0], h[1], h[2], h[3]));
}

typedef void (*settle_kernel)(const struct settling);

/* NULL: no log is kept of such states. */
static settle_kernel kernel_of(const struct log_shape &s)
{
    if (s.V % 4 || (s.K != 64 && s.K != 128))
        return NULL;
    if (s.delta)
        return s.w_per_head ? NULL : s.K == 64 ? settle<64, true, false> : settle<128, true, false>;
    if (!s.w_per_head)
        return NULL;
    return s.K == 64 ? settle<64, false, true> : settle<128, false, true>;
}

static dim3 grid_of(const struct log_shape &s, int n)
{
    return dim3((unsigned)ceil_div(s.V, THREADS / (s.K / 8) * ROWS), (unsigned)s.H, (unsigned)n);
}

static struct log_shape shape_of(const struct state_log *log)
{
    return { log->H, log->V, log->K, log->k_heads, log->w_per_head, log->delta };
}

static bool keeps_scan(const struct state_log *log)
{
    return log->N == N && log->dim % 32 == 0;
}

size_t log_numbers_cuda(const struct state_log *log)
{
    const struct log_shape sizes = shape_of(log);

    if (log->dim)
        return keeps_scan(log) ? (LOG_STEPS - 1) * scan_entry_numbers(log->dim, log->N) : 0;
    return kernel_of(sizes) ? (LOG_STEPS - 1) * log_entry_numbers(sizes) : 0;
}

static dim3 grid_of(int dim, int n)
{
    return dim3((unsigned)ceil_div(dim * SHARED, THREADS), (unsigned)n);
}

/* false: there is nothing to bring. */
static bool has_rows_to_settle(struct stream *q, const struct field &state, struct settling *of)
{
    *of = {};
    of->in = q->in;
    of->rows = true;
    of->state = state;
    return q->settles && state.log;
}

void settle_matrices(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    struct settling of;

    if (!has_rows_to_settle(q, p->state, &of))
        return;
    of.sizes = shape_of(*p);
    launch(q, "settle", kernel_of(of.sizes), grid_of(of.sizes, in->S), THREADS, 0, of);
}

void settle_scans(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    struct settling of;

    if (!has_rows_to_settle(q, p->state, &of))
        return;
    of.dim = p->dim;
    of.A = p->A;
    launch(q, "settle", settle_scan, grid_of(p->dim, in->S), THREADS, 0, of);
}

void settle_slot(struct stream *q, cudaStream_t on, const struct state_log *log, int slot,
                 int logged)
{
    struct settling of = {};

    of.sizes = shape_of(log);
    of.dim = log->dim;
    of.rates = log->A;
    of.state = log->state;
    of.slot = slot;
    of.logged = logged;
    of.state_distance = log->state_distance;
    of.log_distance = log->log_distance;
    if (log->dim)
        settle_scan<<<grid_of(log->dim, log->layers), THREADS, 0, on>>>(of);
    else
        kernel_of(of.sizes)<<<grid_of(of.sizes, log->layers), THREADS, 0, on>>>(of);
    stream_note(q, cudaGetLastError(), "settle");
}
