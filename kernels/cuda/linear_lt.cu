/* linear_lt.cu - products of many rows by cuBLASLt.
 *
 * Narrow weights meet x rounded to their type, float32 weights meet x itself, without TF32. Bias
 * and += ride on the product; an activation is a pass of its own, as the library knows none of
 * ours, and so is a y that is bf16. cuBLASLt is column-major: its A is W transposed, its B x, and
 * D [rows, T] is y.
 *
 * The best algorithm for a shape is not the one the library's heuristic names first, so a
 * shape that is new is timed once: over a cold cache, and into scratch memory, so that y is
 * only written by the real product. The algorithm then stays for as long as the stream lives:
 * the same shapes give the same bits. */
#include "kernels/cuda/linear.cuh"

#include <stdlib.h>
#include <string.h>

enum {
    PLANS_MAX = 1024,
    CANDIDATES = 8,
    TIMED_RUNS = 3,
    THREADS = 256,
};

static const size_t LT_BYTES = (size_t)32 << 20;     /* cuBLASLt's own workspace */
static const size_t SLICE_BYTES = (size_t)256 << 20; /* x and y of the rows taken at a time */
static const size_t COLD_BYTES = (size_t)128 << 20;  /* more than an L2 */

/* What the choice of an algorithm depends on. Zeroed before it is filled, to be compared as
 * bytes. */
struct shape {
    size_t y_ld;
    int rows, cols, T; /* T of the largest product of the range */
    int y_alignment, x_alignment;
    int32_t sms; /* for which to choose; 0: all */
    enum dtype dtype;
    bool bias, add;
};

struct lt_plan {
    struct shape shape;
    cublasLtMatmulAlgo_t algo;
};

struct linear_plans {
    int n;
    struct lt_plan plan[PLANS_MAX];
};

/* One product as cuBLASLt takes it. */
struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, d;
    const void *w, *x;
    float *y;
    float beta;
    void *workspace;
};

static void note(struct stream *q, cublasStatus_t s)
{
    if (s != CUBLAS_STATUS_SUCCESS)
        stream_note(q,
                    s == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaErrorUnknown,
                    "linear: cuBLASLt");
}

/* y = act(v), or y += act(v), for N numbers a thread of T rows of n N each; v may be y. */
template <int N>
static __global__ void __launch_bounds__(THREADS)
    finish_kernel(struct output o, const float *v, size_t v_ld, int n, int T)
{
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x), row = i / n, column = N * (i % n);
    const size_t at = (size_t)row * o.ld + column;

    let_next_start();
    wait_for_inputs();
    if (row >= T)
        return;

    floats<N> x = load<N>(v + (size_t)row * v_ld + column);
    const floats<N> old = o.add ? load<N>(o.y + at) : floats<N>{};

#pragma unroll
    for (int k = 0; k < N; k++)
        x.v[k] = old.v[k] + activate(o.act, x.v[k]);
    store_numbers<N>(o.y, o.y_bf16, at, x);
}

/* Four numbers at a time where everything is aligned. */
static void finish_rows(struct stream *q, const struct linear *p, const float *v, size_t v_ld)
{
    const int rows = p->w->rows;
    const struct output o = output_of(p);
    const bool wide = is_aligned(o) && off_grid(v, v_ld) == 0 && rows % 4 == 0;
    const int n = wide ? rows / 4 : rows;

    launch(q, "linear", wide ? finish_kernel<4> : finish_kernel<1>,
           (unsigned)ceil_div(p->T * n, THREADS), THREADS, 0, o, v, v_ld, n, p->T);
}

static int alignment_of(const void *p, size_t ld_bytes)
{
    const size_t bits = (size_t)(uintptr_t)p | ld_bytes | WORKSPACE_ALIGNMENT;

    return (int)(bits & -bits);
}

/* Ranges of T that share an algorithm: to 16, 32, 64, and from there in steps of half, as those of
 * the prompts that model_prepare() tries. */
static int range_of(int T)
{
    int top = 16;

    while (top < T)
        top *= 2;
    return top > 64 && T <= top / 4 * 3 ? top / 4 * 3 : top;
}

static cudaDataType_t type_of(enum dtype t)
{
    return t == DTYPE_F32 ? CUDA_R_32F : t == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/* T rows of the shape; the pointers are the caller's to fill. */
static void describe(struct product *c, const struct shape *s, const float *bias, int T,
                     size_t x_ld)
{
    const cublasOperation_t transpose = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = type_of(s->dtype);

    cublasLtMatmulDescInit(&c->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                   sizeof(transpose));
    if (s->sms)
        cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, &s->sms,
                                       sizeof(s->sms));
    if (bias) {
        cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                       sizeof(epilogue));
        cublasLtMatmulDescSetAttribute(&c->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                       sizeof(bias));
    }
    cublasLtMatrixLayoutInit(&c->a, type, s->cols, s->rows, matrix_ld(s->dtype, s->cols));
    cublasLtMatrixLayoutInit(&c->b, type, s->cols, T, (int64_t)x_ld);
    cublasLtMatrixLayoutInit(&c->d, CUDA_R_32F, s->rows, T, (int64_t)s->y_ld);
    c->beta = s->add ? 1.0f : 0.0f;
}

static cublasStatus_t run(struct stream *q, struct product *c, const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1.0f;

    return cublasLtMatmul(q->lt, &c->desc, &one, c->w, &c->a, c->x, &c->b, &c->beta, c->y, &c->d,
                          c->y, &c->d, algo, c->workspace, LT_BYTES, q->cuda);
}

static int find_candidates(struct stream *q, const struct shape *s, struct product *c,
                           cublasLtMatmulHeuristicResult_t found[CANDIDATES])
{
    cublasLtMatmulPreferenceOpaque_t want;
    const uint32_t w = WORKSPACE_ALIGNMENT, x = (uint32_t)s->x_alignment,
                   y = (uint32_t)s->y_alignment;
    int n = 0;

    cublasLtMatmulPreferenceInit(&want);
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &LT_BYTES,
                                         sizeof(LT_BYTES));
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w,
                                         sizeof(w));
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x,
                                         sizeof(x));
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y,
                                         sizeof(y));
    cublasLtMatmulPreferenceSetAttribute(&want, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y,
                                         sizeof(y));
    note(q, cublasLtMatmulAlgoGetHeuristic(q->lt, &c->desc, &c->a, &c->b, &c->d, &c->d, &want,
                                           CANDIDATES, found, &n));
    return n;
}

/* Milliseconds, the best of a few runs that each begin with nothing cached; negative if the
 * algorithm refuses. */
static float time_of(struct stream *q, struct product *c, const cublasLtMatmulAlgo_t *algo,
                     void *cold, cudaEvent_t from, cudaEvent_t to)
{
    float best = -1.0f;

    for (int i = 0; i <= TIMED_RUNS; i++) {
        float ms = 0.0f;

        stream_note(q, cudaMemsetAsync(cold, i, COLD_BYTES, q->cuda), "linear: timing");
        stream_note(q, cudaEventRecord(from, q->cuda), "linear: timing");
        if (run(q, c, algo) != CUBLAS_STATUS_SUCCESS)
            return -1.0f;
        stream_note(q, cudaEventRecord(to, q->cuda), "linear: timing");
        stream_note(q, cudaEventSynchronize(to), "linear: timing");
        cudaEventElapsedTime(&ms, from, to);
        if (i > 0 && (best < 0.0f || ms < best))
            best = ms;
    }
    return best;
}

static int fastest_of(struct stream *q, struct product *c,
                      const cublasLtMatmulHeuristicResult_t *found, int n, void *cold)
{
    cudaEvent_t from, to;
    float best = -1.0f;
    int winner = 0;

    stream_note(q, cudaEventCreate(&from), "linear: timing");
    stream_note(q, cudaEventCreate(&to), "linear: timing");
    for (int i = 0; i < n; i++) {
        const float ms = time_of(q, c, &found[i].algo, cold, from, to);

        if (ms >= 0.0f && (best < 0.0f || ms < best)) {
            best = ms;
            winner = i;
        }
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    return winner;
}

/* Chooses for a shape that is new. The weights' own bytes serve as the x of the timed
 * products: they are of the type and look random. */
static void choose(struct stream *q, const struct shape *s, const struct linear *p,
                   cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    const size_t x_ld = (size_t)matrix_ld(s->dtype, s->cols);
    const size_t x_bytes = x_ld * (size_t)s->T * dtype_size(s->dtype);
    const size_t y_at = LT_BYTES + round_up(x_bytes);
    const size_t cold_at = y_at + round_up(s->y_ld * (size_t)s->T * sizeof(float));
    struct product c;

    describe(&c, s, p->bias, s->T, x_ld);

    const int n = find_candidates(q, s, &c, found);

    if (n == 0) {
        note(q, CUBLAS_STATUS_NOT_SUPPORTED);
        return;
    }
    *algo = found[0].algo;
    if (n == 1 || q->recording)
        return;

    char *workspace = (char *)stream_workspace(q, cold_at + COLD_BYTES, "linear: timing");

    if (!workspace)
        return;
    for (size_t at = 0; at < x_bytes; at += p->w->bytes)
        stream_note(q,
                    cudaMemcpyAsync(workspace + LT_BYTES + at, p->w->data,
                                    min(x_bytes - at, p->w->bytes), cudaMemcpyDeviceToDevice,
                                    q->cuda),
                    "linear: timing");
    stream_note(q, cudaMemsetAsync(workspace + y_at, 0, cold_at - y_at, q->cuda), "linear: timing");
    c.w = p->w->data;
    c.x = workspace + LT_BYTES;
    c.y = (float *)(workspace + y_at);
    c.workspace = workspace;
    *algo = found[fastest_of(q, &c, found, n, workspace + cold_at)].algo;
}

static cublasLtMatmulAlgo_t algorithm_for(struct stream *q, const struct shape *s,
                                          const struct linear *p)
{
    struct linear_plans *plans = q->plans;

    for (int i = 0; i < plans->n; i++)
        if (memcmp(&plans->plan[i].shape, s, sizeof(*s)) == 0)
            return plans->plan[i].algo;
    if (plans->n == PLANS_MAX)
        plans->n = 0; /* a server of one model has a tenth of that */

    struct lt_plan *plan = &plans->plan[plans->n++];

    plan->shape = *s;
    if (q->beside) /* whose own workspace is small */
        branch_swap_workspace(q);
    choose(q, s, p, &plan->algo);
    if (q->beside)
        branch_swap_workspace(q);
    return plan->algo;
}

/* As p, which is few enough rows. Where += or NULL forbids y to hold what the product is before
 * its activation and its rounding, that is in the workspace. */
static void multiply(struct stream *q, const struct linear *p)
{
    const enum dtype dtype = p->w->dtype;
    const int rows = p->w->rows;
    const bool narrows = dtype != DTYPE_F32;
    const bool finishes = p->act != ACT_NONE || p->y_bf16, apart = finishes && (p->add || !p->y);
    const size_t v_ld = apart ? ((size_t)rows + 3) / 4 * 4 : p->y_ld;
    const size_t v_bytes = apart ? (size_t)p->T * v_ld * sizeof(float) : 0;
    const size_t own_bytes = round_up(LT_BYTES + v_bytes);
    struct narrow_group x = { .T = 0, .n = 0, .m = {}, .of = { { p->x, p->x_ld } } };
    struct product c;
    struct shape s;

    memset(&s, 0, sizeof(s));
    s.y_ld = v_ld;
    s.rows = rows;
    s.cols = p->w->cols;
    s.T = range_of(p->T);
    s.y_alignment = apart ? 16 : alignment_of(p->y, v_ld * sizeof(float));
    s.x_alignment = narrows ? 16 : alignment_of(p->x, p->x_ld * sizeof(float));
    s.sms = q->beside && q->replayed ? q->sms * 2 / 3 : 0; /* the rest is for what it runs beside */
    s.dtype = dtype;
    s.bias = p->bias != NULL;
    s.add = p->add && !apart;

    const cublasLtMatmulAlgo_t algo = algorithm_for(q, &s, p);

    if (q->fault != cudaSuccess)
        return;
    if (narrows ? !narrow_x(q, &x, p, 1, own_bytes) : !stream_workspace(q, own_bytes, "linear"))
        return;
    describe(&c, &s, p->bias, p->T, x.of[0].ld);
    c.w = p->w->data;
    c.x = x.of[0].rows;
    c.y = apart ? (float *)((char *)q->workspace + LT_BYTES) : p->y;
    c.workspace = q->workspace;
    note(q, run(q, &c, &algo));
    if (finishes)
        finish_rows(q, p, c.y, v_ld);
}

void linear_lt(struct stream *q, const struct linear *p)
{
    const size_t row_bytes =
        (size_t)p->w->cols * sizeof(float) + (size_t)p->w->rows * sizeof(float);
    const size_t slice = max(SLICE_BYTES / row_bytes / 256, (size_t)1) * 256;

    if (!q->plans)
        q->plans = (struct linear_plans *)calloc(1, sizeof(*q->plans));
    if (!q->plans) {
        stream_note(q, cudaErrorMemoryAllocation, "linear");
        return;
    }
    for (size_t t = 0; t < (size_t)p->T; t += slice) {
        const struct linear part = slice_of(p, (int)t, (int)min(slice, (size_t)p->T - t));

        multiply(q, &part);
    }
}

void linear_finish(struct stream *q)
{
    free(q->plans);
    q->plans = NULL;
}
