/* bench_linear.cu - the CUDA backend's matrix products: right on random shapes, and how near
 * they come to the memory's and the matrix units' rates on the published models' shapes.
 *
 * Each figure is the median of replays of one graph, which walks over matrices enough that the
 * L2 serves none twice. The floor is the larger of the bytes (weights, x, y) over the read
 * bandwidth measured by the same program and of the operations over MATRIX_RATE. Links the
 * products without the rest of the backend, whose part of the stream it plays itself.
 * x is bf16 where it is timed, and now and then where it is checked.
 * Usage: bench_linear [check|time|paths] [seed]; paths times every path that can. */
#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "kernels/cuda/linear.cuh"

enum { RUNS = 9, CHECKS = 200, POOL_MB = 1536, WALK_MB = 512, THREADS = 256 };

static const double MATRIX_RATE = 790e12; /* bf16, random data, an 8192^3 product */

static struct stream q;
static struct backend be;

static void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

static void finish(void)
{
    must(cudaStreamSynchronize(q.cuda), "stream");
    must(q.fault, q.where ? q.where : "");
}

void *stream_workspace(struct stream *s, size_t bytes, const char *where)
{
    if (bytes <= s->workspace_bytes)
        return s->workspace;
    if (s->recording)
        must(cudaErrorStreamCaptureUnsupported, where);
    must(cudaStreamSynchronize(s->cuda), where);
    must(cudaFree(s->workspace), where);
    must(cudaMalloc(&s->workspace, bytes), where);
    s->workspace_bytes = bytes;
    return s->workspace;
}

extern "C" bool error_set(struct error *err, enum error_code code, const char *fmt, ...)
{
    (void)err;
    (void)code;
    fprintf(stderr, "%s\n", fmt);
    exit(1);
}

static void *take(struct backend *, size_t bytes)
{
    void *p;

    must(cudaMalloc(&p, bytes), "alloc");
    must(cudaMemsetAsync(p, 0, bytes, q.cuda), "alloc");
    return p;
}

static void upload(struct backend *, void *dst, const void *src, size_t bytes)
{
    must(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, q.cuda), "upload");
    must(cudaStreamSynchronize(q.cuda), "upload");
}

static uint64_t seed = 1;

static uint32_t random_bits(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

static int pick(int lo, int hi)
{
    return lo + (int)(random_bits() % (uint32_t)(hi - lo + 1));
}

static float uniform(void)
{
    return (float)random_bits() * 0x1p-30f - 1.0f;
}

static float *random_floats(size_t n)
{
    std::vector<float> v(n);
    float *p = (float *)take(&be, n * sizeof(float));

    for (float &f : v)
        f = uniform();
    upload(&be, p, v.data(), n * sizeof(float));
    return p;
}

/* The definition in float64 beside the sum of absolute values, one thread an output. */
template <typename E>
static __global__ void define(double *want, double *magnitude, struct linear p, const E *w, int ld,
                              int rows, int cols, bool narrows)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, t = i / rows, r = i % rows;

    if (t >= p.T)
        return;

    double sum = p.bias ? p.bias[r] : 0.0, size = fabs(sum);

    for (int k = 0; k < cols; k++) {
        const size_t at = t * p.x_ld + k;
        const float x = p.x_bf16 ? __uint_as_float((uint32_t)p.x_bf16[at] << 16) : p.x[at];
        const double term =
            (double)(float)w[(size_t)r * ld + k] * (double)(narrows ? (float)(E)x : x);

        sum += term;
        size += fabs(term);
    }
    want[i] = sum;
    magnitude[i] = size;
}

static double exact(enum activation act, double x)
{
    switch (act) {
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    case ACT_TANH:
        return tanh(x);
    case ACT_RELU2:
        return x > 0 ? x * x : 0;
    case ACT_SOFTPLUS:
        return x > 20 ? x : log1p(exp(x));
    case ACT_NONE:
        break;
    }
    return x;
}

static struct matrix random_matrix(enum dtype dtype, int rows, int cols)
{
    const size_t n = (size_t)rows * (size_t)cols;
    std::vector<float> v(n);
    std::vector<uint16_t> half(n);
    struct matrix m;

    for (size_t i = 0; i < n; i++) {
        v[i] = uniform();
        half[i] = dtype == DTYPE_BF16
                      ? f32_to_bf16(v[i])
                      : (uint16_t)(pick(0, 1) << 15 | pick(7, 14) << 10 | pick(0, 1023));
    }
    pack_matrix_cuda(&be, &m, dtype, rows, cols,
                     dtype == DTYPE_F32 ? (void *)v.data() : (void *)half.data(), NULL);
    return m;
}

static __global__ void fill(uint32_t *p, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u + 12345u;

        h ^= h >> 15;
        h *= 2246822519u;
        h ^= h >> 13;
        /* two bf16 of random sign and fraction, 2^-4 to 2^-1 */
        p[i] = (h & 0x81ff81ffu) | 0x3d803d80u;
    }
}

/* What a case is made of, its preset y, and where its exact values went. */
struct trial {
    struct matrix w;
    struct linear p;
    std::vector<float> preset;
    double *want, *magnitude;
    float *x, *source; /* x, which arrives late, and what it is then; perhaps of bf16 pairs */
    size_t x_bytes;
};

static void *slice(float *base, int offset)
{
    return base + offset;
}

/* On a grid: every row of x begins at a multiple of 16 bytes. */
static struct trial make_trial(enum dtype dtype, bool x_is_bf16, bool on_grid, int rows, int cols,
                               int T)
{
    struct trial c;
    const int loose = pick(0, 2);
    const size_t x_ld = on_grid ? (cols + 7) / 8 * 8 + 8 * pick(0, 2)
                                : (size_t)cols + (loose ? pick(0, 9) : 0),
                 y_ld = rows + (loose ? pick(0, 9) : 0);
    const int dx = loose == 2 && !on_grid ? pick(0, 3) : 0, dy = loose == 2 ? pick(0, 3) : 0;

    c.w = random_matrix(dtype, rows, cols);
    c.p = {};
    c.p.T = T;
    c.p.x_ld = x_ld;
    c.p.y_ld = y_ld;
    c.x = (float *)slice((float *)take(&be, (x_ld * T + 4) * sizeof(float)), dx);
    c.source = random_floats(x_ld * T);
    c.x_bytes = (x_ld * (T - 1) + cols) * sizeof(float);
    if (x_is_bf16 && dtype == DTYPE_BF16) {
        c.p.x_bf16 = (const uint16_t *)c.x;
        c.x_bytes /= 2;
        fill<<<64, THREADS, 0, q.cuda>>>((uint32_t *)c.source, x_ld * T);
    } else {
        c.p.x = c.x;
    }
    c.p.y = (float *)slice(random_floats(y_ld * T + 4), dy);
    c.p.bias = pick(0, 1) ? random_floats(rows) : NULL;
    c.p.act = (enum activation)pick(0, 5);
    c.p.add = pick(0, 1);
    c.preset.resize(y_ld * T);
    must(cudaMemcpy(c.preset.data(), c.p.y, y_ld * T * 4, cudaMemcpyDeviceToHost), "preset");
    c.want = (double *)take(&be, sizeof(double) * rows * T);
    c.magnitude = (double *)take(&be, sizeof(double) * rows * T);
    return c;
}

/* Sums of float32 roundings, and x in two narrow parts (2^-17 of each term at most). */
static int verify(const struct trial *c, const char *what, bool narrows)
{
    const int rows = c->w.rows, cols = c->w.cols, ld = matrix_ld(c->w.dtype, cols), T = c->p.T;
    const dim3 grid((unsigned)((size_t)rows * T + THREADS - 1) / THREADS);
    std::vector<double> want((size_t)rows * T), size((size_t)rows * T);
    std::vector<float> got(c->p.y_ld * T);
    double worst = 0;
    int wrong = 0;

    if (c->w.dtype == DTYPE_F32)
        define<<<grid, THREADS, 0, q.cuda>>>(c->want, c->magnitude, c->p, (const float *)c->w.data,
                                             ld, rows, cols, false);
    else if (c->w.dtype == DTYPE_BF16)
        define<<<grid, THREADS, 0, q.cuda>>>(
            c->want, c->magnitude, c->p, (const __nv_bfloat16 *)c->w.data, ld, rows, cols, narrows);
    else
        define<<<grid, THREADS, 0, q.cuda>>>(c->want, c->magnitude, c->p, (const __half *)c->w.data,
                                             ld, rows, cols, narrows);
    finish();
    must(cudaMemcpy(want.data(), c->want, want.size() * 8, cudaMemcpyDeviceToHost), "want");
    must(cudaMemcpy(size.data(), c->magnitude, size.size() * 8, cudaMemcpyDeviceToHost), "size");
    must(cudaMemcpy(got.data(), c->p.y, got.size() * 4, cudaMemcpyDeviceToHost), "got");
    for (int t = 0; t < T; t++) {
        for (size_t r = 0; r < c->p.y_ld && t * c->p.y_ld + r < got.size(); r++) {
            const size_t at = t * c->p.y_ld + r, i = (size_t)t * rows + r;

            if (r >= (size_t)rows) {
                wrong += t + 1 < T && memcmp(&got[at], &c->preset[at], 4) != 0;
                continue;
            }

            const double v = exact(c->p.act, want[i]);
            const double slope = c->p.act == ACT_RELU2 ? 2 * fabs(want[i]) + 1 : 1.1;
            const double off = fabs(got[at] - (c->p.add ? v + c->preset[at] : v));
            const double bound = (size[i] * 0x1p-16 + 0x1p-20) * slope + fabs(v) * 0x1p-21;

            if (!(off <= bound) && wrong++ < 3)
                printf("t=%d r=%zu: %.9g, not %.9g before act; %.3g of the bound\n", t, r, got[at],
                       want[i], off / bound);
            worst = std::max(worst, off / bound);
        }
    }
    if (wrong)
        printf("WRONG %s %s %dx%d T=%d x%s x_ld=%zu y_ld=%zu act=%d bias=%d add=%d: %d outputs, "
               "worst %.3g of the bound\n",
               what, dtype_name(c->w.dtype), rows, cols, T, c->p.x_bf16 ? "_bf16" : "", c->p.x_ld,
               c->p.y_ld, c->p.act, c->p.bias != NULL, c->p.add, wrong, worst);
    return wrong != 0;
}

static void release(struct trial *c)
{
    for (const void *p :
         { (const void *)c->w.data, (const void *)c->want, (const void *)c->magnitude,
           (const void *)c->p.bias, (const void *)c->source })
        must(cudaFree((void *)p), "free");
    must(cudaFree((void *)((uintptr_t)c->x & ~(uintptr_t)255)), "free");
    must(cudaFree((void *)((uintptr_t)c->p.y & ~(uintptr_t)255)), "free");
}

static int many_columns(void)
{
    const int cols[] = { 64, 250, 768, 1536, 2048, 2560, 3000, 4096, 5120, 6100, 8190, 8192 };

    return cols[pick(0, 11)];
}

static int size_of_side(int k)
{
    const int sides[] = {
        1, 7, 16, 33, 48, 63, 64, 65, 80, 96, 127, 160, 192, 255, 257, 768, 1000
    };

    return k % 5 == 0 ? pick(1, 700) : sides[pick(0, 16)];
}

/* The path of a case: what linear_cuda() takes, or another one that can. */
enum path { CHOSEN, SINGLE, FEW, SKINNY, WIDE, PAIRS, LT, PATHS };

static const char *const path_name[] = { "chosen", "single", "few",     "skinny",
                                         "wide",   "pairs",  "cublaslt" };

static bool can(enum path path, const struct linear *p, int n)
{
    bool all = true;

    for (int i = 0; i < n; i++)
        all = all && (path == SINGLE   ? linear_single_can(&q, &p[i])
                      : path == FEW    ? linear_few_can(&q, &p[i])
                      : path == SKINNY ? p[i].T <= linear_skinny_rows(&p[i])
                      : path == WIDE   ? p[i].T <= WIDE_ROWS && warpgroups_can(&q, &p[i])
                      : path == PAIRS  ? warpgroups_can(&q, &p[i])
                      : path == LT     ? p[i].T > 8
                                       : true);
    return all;
}

static void multiply(enum path path, const struct linear *p, int n)
{
    if (path == SINGLE)
        linear_single(&q, p, n);
    else if (path == FEW)
        linear_few(&q, p, n);
    else if (path == SKINNY)
        linear_skinny(&q, p, n);
    else if (path == WIDE)
        linear_wide(&q, p, n);
    else if (path == PAIRS)
        linear_pairs(&q, p, n, 1);
    else if (path == CHOSEN)
        linear_cuda(&q, p, n);
    else
        for (int i = 0; i < n; i++)
            linear_lt(&q, &p[i]);
}

/* Lets the next kernel start at once, but writes only after a while. */
static __global__ void copy_late(uint16_t *dst, const uint16_t *src, size_t n)
{
    const long long start = clock64();

    let_next_start();
    wait_for_inputs();
    while (clock64() - start < 20000)
        ;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x)
        dst[i] = src[i];
}

/* Whether the chosen path rounds x. */
static bool narrows(const struct linear *p)
{
    return p->w->dtype != DTYPE_F32 && p->T > linear_skinny_rows(p) && !p->x_bf16;
}

/* Groups of one to five products of any dtype and equal T, over and again. Every fourth is of up to
 * eight rows of bf16 on a grid, and half of these of many columns. */
static int check(void)
{
    const int many[] = { 9,  12, 16,  17,  24,  31,  32,  33,  48,  61,
                         64, 65, 100, 128, 129, 200, 256, 257, 300, 513 };
    const enum dtype dtypes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_BF16 };
    int wrong = 0, products[PATHS] = { 0 };

    for (int k = 0; k < CHECKS; k++) {
        const int n = pick(1, 5), T = k % 2 ? pick(1, 8) : many[pick(0, 19)];
        const bool on_grid = k % 4 == 1, one_type = on_grid || pick(0, 1);
        const enum dtype type = on_grid ? DTYPE_BF16 : dtypes[pick(0, 3)];
        enum path path = (enum path)pick(0, PATHS - 1);
        std::vector<struct trial> trials;
        std::vector<struct linear> p;
        char what[64];

        for (int i = 0; i < n; i++)
            trials.push_back(make_trial(one_type ? type : dtypes[pick(0, 3)],
                                        on_grid || (one_type ? k % 3 > 0 : pick(0, 1) > 0), on_grid,
                                        size_of_side(k + i),
                                        k % 8 == 1 ? many_columns() : size_of_side(pick(0, 9)), T));
        for (struct trial &c : trials) {
            c.p.w = &c.w;
            p.push_back(c.p);
            launch(&q, "late", copy_late, 1, 1024, 0, (uint16_t *)c.x, (const uint16_t *)c.source,
                   c.x_bytes / 2);
        }
        if (!one_type || !can(path, p.data(), n))
            path = CHOSEN;
        multiply(path, p.data(), n);
        finish();
        snprintf(what, sizeof(what), "case %d, %s", k, path_name[path]);
        for (struct trial &c : trials) {
            wrong +=
                verify(&c, what, path == CHOSEN ? narrows(&c.p) : path > SKINNY && !c.p.x_bf16);
            release(&c);
        }
        products[path] += n;
    }
    printf("check:");
    for (int path = 0; path < PATHS; path++)
        printf(" %d products %s,", products[path], path_name[path]);
    printf(" %d wrong\n", wrong);
    return wrong;
}

static __global__ void read_all(const uint4 *p, size_t n, uint32_t *out)
{
    uint32_t sum = 0;

#pragma unroll 8
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        const uint4 v = __ldcs(p + i);

        sum += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 0x12345678u)
        *out = sum;
}

static void *pool;

/* Median milliseconds of a graph's replays. */
static double replay(cudaGraphExec_t graph)
{
    std::vector<float> ms;
    cudaEvent_t from, to;

    must(cudaEventCreate(&from), "event");
    must(cudaEventCreate(&to), "event");
    for (int i = 0; i <= RUNS; i++) {
        float t;

        must(cudaEventRecord(from, q.cuda), "event");
        must(cudaGraphLaunch(graph, q.cuda), "graph");
        must(cudaEventRecord(to, q.cuda), "event");
        must(cudaEventSynchronize(to), "graph");
        must(cudaEventElapsedTime(&t, from, to), "event");
        if (i)
            ms.push_back(t);
    }
    std::sort(ms.begin(), ms.end());
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    return ms[ms.size() / 2];
}

template <typename F> static double time_graph(F &&enqueue)
{
    cudaGraph_t graph;
    cudaGraphExec_t ready;

    enqueue();
    finish();
    q.recording = true;
    must(cudaStreamBeginCapture(q.cuda, cudaStreamCaptureModeThreadLocal), "capture");
    enqueue();
    must(cudaStreamEndCapture(q.cuda, &graph), "capture");
    q.recording = false;
    must(q.fault, q.where ? q.where : "");
    must(cudaGraphInstantiate(&ready, graph, 0), "graph");

    const double ms = replay(ready);

    must(cudaGraphExecDestroy(ready), "graph");
    must(cudaGraphDestroy(graph), "graph");
    return ms;
}

static double read_bandwidth(void)
{
    const size_t n = ((size_t)POOL_MB << 20) / 16;

    const double ms = time_graph([&] {
        read_all<<<q.sms * 4, 512, 0, q.cuda>>>((const uint4 *)pool, n, (uint32_t *)q.workspace);
    });

    return n * 16.0 / (ms * 1e-3);
}

/* One phase of a model: products of one x each, or of the same x. */
struct phase {
    const char *name;
    int n;
    int size[7][2]; /* rows, cols */
};

static const struct phase phases[] = {
    { "130M in", 1, { { 3072, 768 } } },
    { "130M x", 1, { { 80, 1536 } } },
    { "130M dt", 1, { { 1536, 48 } } },
    { "130M out", 1, { { 768, 1536 } } },
    { "130M head", 1, { { 50280, 768 } } },
    { "2.8B in", 1, { { 10240, 2560 } } },
    { "2.8B c, z", 2, { { 5120, 2560 }, { 5120, 2560 } } },
    { "2.8B x", 1, { { 192, 5120 } } },
    { "2.8B dt", 1, { { 5120, 160 } } },
    { "2.8B out", 1, { { 2560, 5120 } } },
    { "2.8B head", 1, { { 50280, 2560 } } },
    { "M2 2.7B in", 1, { { 10576, 2560 } } },
    { "R7 1.5B rkv+",
      7,
      { { 2048, 2048 },
        { 2048, 2048 },
        { 2048, 2048 },
        { 96, 2048 },
        { 96, 2048 },
        { 256, 2048 },
        { 64, 2048 } } },
    { "R7 1.5B down", 4, { { 96, 2048 }, { 96, 2048 }, { 256, 2048 }, { 64, 2048 } } },
    { "R7 1.5B up", 4, { { 2048, 96 }, { 2048, 96 }, { 2048, 256 }, { 2048, 64 } } },
    { "R7 1.5B o", 1, { { 2048, 2048 } } },
    { "R7 1.5B key", 1, { { 8192, 2048 } } },
    { "R7 1.5B value", 1, { { 2048, 8192 } } },
    { "R7 1.5B head", 1, { { 65536, 2048 } } },
    { "R7 7.2B rkv+",
      7,
      { { 4096, 4096 },
        { 4096, 4096 },
        { 4096, 4096 },
        { 128, 4096 },
        { 128, 4096 },
        { 480, 4096 },
        { 96, 4096 } } },
    { "R7 7.2B up", 4, { { 4096, 128 }, { 4096, 128 }, { 4096, 480 }, { 4096, 96 } } },
    { "R7 7.2B o", 1, { { 4096, 4096 } } },
    { "R7 7.2B key", 1, { { 16384, 4096 } } },
    { "R7 7.2B value", 1, { { 4096, 16384 } } },
    { "R7 7.2B head", 1, { { 65536, 4096 } } },
};

static const int row_counts[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096 };

/* `walk` products of each shape over distinct matrices of the pool; x and y are each shape's
 * own. */
struct walk {
    std::vector<struct matrix> w;
    std::vector<struct linear> p;
    std::vector<float *> own;
    double floor; /* microseconds */
    int walk;
};

static void start_walk(struct walk *k, const struct phase *f, int T, double bandwidth)
{
    double bytes = 0, moved = 0, flops = 0;
    char *at = (char *)pool;

    for (int i = 0; i < f->n; i++) {
        const double rows = f->size[i][0], cols = f->size[i][1];

        bytes += matrix_ld(DTYPE_BF16, f->size[i][1]) * 2.0 * rows;
        moved += T * (4.0 * rows + 2.0 * cols);
        flops += 2.0 * T * rows * cols;
        k->own.push_back((float *)take(&be, (size_t)(T * rows * 4)));
        k->own.push_back((float *)take(&be, (size_t)(T * cols * 4)));
        fill<<<256, THREADS, 0, q.cuda>>>((uint32_t *)k->own.back(), (size_t)(T * cols));
    }
    k->walk = std::max(1, std::min(200, (int)(WALK_MB * 1e6 / bytes)));
    k->floor = std::max((bytes + moved) / bandwidth, flops / MATRIX_RATE) * 1e6;
    k->w.resize((size_t)k->walk * f->n);
    k->p.resize(k->w.size());
    for (size_t i = 0; i < k->w.size(); i++) {
        const int *size = f->size[i % f->n];

        k->w[i] = { .rows = size[0],
                    .cols = size[1],
                    .dtype = DTYPE_BF16,
                    .round_x = false,
                    .data = at,
                    .bytes = (size_t)matrix_ld(DTYPE_BF16, size[1]) * 2 * size[0] };
        at += k->w[i].bytes;
        k->p[i] = {};
        k->p[i].y = k->own[i % f->n * 2];
        k->p[i].x_bf16 = (const uint16_t *)k->own[i % f->n * 2 + 1];
        k->p[i].y_ld = size[0];
        k->p[i].x_ld = size[1];
        k->p[i].w = &k->w[i];
        k->p[i].T = T;
    }
}

static void time_phase(const struct phase *f, enum path path, double bandwidth)
{
    printf("%-14s %-8s", f->name, path_name[path]);
    for (int T : row_counts) {
        struct walk k;

        start_walk(&k, f, T, bandwidth);
        if (can(path, k.p.data(), f->n)) {
            const double us = time_graph([&] {
                                  for (int i = 0; i < k.walk; i++)
                                      multiply(path, &k.p[(size_t)i * f->n], f->n);
                              }) *
                              1e3 / k.walk;

            printf(" |%7.1f %3.0f%%", us, 100 * k.floor / us);
        } else {
            printf(" |            ");
        }
        fflush(stdout);
        for (float *m : k.own)
            must(cudaFree(m), "free");
    }
    printf("\n");
}

static void measure(bool all)
{
    must(cudaMalloc(&pool, (size_t)POOL_MB << 20), "pool");
    fill<<<1024, 256, 0, q.cuda>>>((uint32_t *)pool, ((size_t)POOL_MB << 20) / 4);
    finish();

    const double bandwidth = read_bandwidth();

    printf("read bandwidth %.2f TB/s; us and share of the floor at rows", bandwidth * 1e-12);
    for (int T : row_counts)
        printf(" %d", T);
    printf("\n");
    for (const struct phase &f : phases)
        for (int path = all ? SINGLE : CHOSEN; path <= (all ? LT : CHOSEN); path++)
            time_phase(&f, (enum path)path, bandwidth);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    struct cudaDeviceProp found;
    int wrong = 0;

    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    must(cudaGetDeviceProperties(&found, 0), "device");
    must(cudaStreamCreateWithFlags(&q.cuda, cudaStreamNonBlocking), "stream");
    if (cublasLtCreate(&q.lt) != CUBLAS_STATUS_SUCCESS)
        return 1;
    q.sms = found.multiProcessorCount;
    q.block_memory = found.sharedMemPerBlockOptin;
    q.overlaps = found.major >= 9;
    be.alloc = take;
    be.upload = upload;
    be.stream = &q;
    stream_workspace(&q, (size_t)64 << 20, "workspace");
    printf("%s, seed %llu\n", found.name, (unsigned long long)seed);
    if (strcmp(what, "time") != 0 && strcmp(what, "paths") != 0)
        wrong = check();
    if (strcmp(what, "check") != 0)
        measure(strcmp(what, "paths") == 0);
    linear_finish(&q);
    return wrong != 0;
}
