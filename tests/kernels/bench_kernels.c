/* bench_kernels.c - how near the operations come to what the machine can do.
 *
 * Every figure is the best of several runs and stands beside a ceiling measured by the same
 * program, as the machine may be shared. Decode walks over many matrices, so that weights
 * come from memory and not from a cache. Usage: bench_kernels [isa] [threads] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/error.h"
#include "kernels/backend.h"

enum { RUNS = 7, WEIGHT_MB = 192 };

static struct backend *be;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static float *floats(size_t n)
{
    float *x = be->alloc(be, n * sizeof(*x));
    uint32_t r = 1;

    if (!x)
        exit(1);
    for (size_t i = 0; i < n; i++) {
        r = r * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)r * 0x1p-31f;
    }
    return x;
}

static struct matrix weights(enum dtype dtype, int rows, int cols)
{
    struct matrix m;
    struct error err;
    float *src = floats((size_t)rows * (size_t)cols);
    uint16_t *half = (uint16_t *)src;

    for (size_t i = 0; dtype != DTYPE_F32 && i < (size_t)rows * (size_t)cols; i++)
        half[i] = dtype == DTYPE_BF16 ? f32_to_bf16(src[i]) : (uint16_t)(0x2c00 + i % 1024);
    if (!be->pack_matrix(be, &m, dtype, rows, cols, src, &err))
        exit(1);
    be->free(be, src);
    return m;
}

/* Seconds of one product, the best of the runs over `count` equal matrices. */
static double time_linear(const struct matrix *m, int count, int T)
{
    float *x = floats((size_t)T * (size_t)m->cols), *y = floats((size_t)T * (size_t)m->rows);
    double best = 1e9;

    for (int run = 0; run < RUNS; run++) {
        double start = now();

        for (int i = 0; i < count; i++) {
            const struct linear p = {
                .y = y, .x = x, .y_ld = (size_t)m->rows, .x_ld = (size_t)m->cols, .w = &m[i], .T = T
            };

            be->ops->linear(be->stream, &p, 1);
        }

        double took = (now() - start) / count;

        best = took < best ? took : best;
    }
    be->free(be, x);
    be->free(be, y);
    return best;
}

/* Ceilings of this machine. */
struct machine {
    double bandwidth, fma, bf16; /* bf16 0: no such instruction */
};

static void bench_linear(enum dtype dtype, bool round_x, int rows, int cols,
                         const struct machine *machine)
{
    const double rate = round_x && machine->bf16 > 0 ? machine->bf16 : machine->fma;
    const int sizes[] = { 1, 2, 4, 8, 12, 16, 32, 64, 512 };
    struct matrix m[512];
    int count = 1;
    double one = 0.0;

    m[0] = weights(dtype, rows, cols);
    while (count < 512 && (double)m[0].bytes * (count + 1) <= WEIGHT_MB * 1e6) {
        m[count] = weights(dtype, rows, cols);
        count++;
    }
    for (int i = 0; i < count; i++)
        m[i].round_x = round_x;
    for (int i = 0; i < (int)(sizeof(sizes) / sizeof(sizes[0])); i++) {
        const int T = sizes[i];
        const double flop = 2.0 * rows * cols * T;
        int use = T > 16 ? 1 + count / T : count;
        double took = time_linear(m, use, T);

        one = T == 1 ? took : one;
        printf("linear %-4s%s %5dx%-5d T=%-3d %9.1f us  %5.1f GB/s (%3.0f %%)  %6.1f GFLOP/s "
               "(%3.0f %%)  %4.1fx of T=1\n",
               dtype_name(dtype), round_x ? " by bf16" : "", rows, cols, T, took * 1e6,
               (double)m[0].bytes / took * 1e-9,
               (double)m[0].bytes / took / machine->bandwidth * 100, flop / took * 1e-9,
               flop / took / rate * 100, one * T / took);
    }
    for (int i = 0; i < count; i++)
        be->free(be, m[i].data);
}

/* S sequences of T / S rows each, the slots in reverse. */
static struct batch make_batch(int S, int T, int *begin, int *slot)
{
    for (int s = 0; s <= S; s++)
        begin[s] = s * (T / S);
    for (int s = 0; s < S; s++)
        slot[s] = S - 1 - s;
    return (struct batch){ .S = S, .T = T, .begin = begin, .slot = slot };
}

static void report(const char *name, int S, int T, double took, double bytes, double flop)
{
    printf("%-28s S=%-3d T=%-4d %9.1f us  %6.1f GB/s  %6.1f GFLOP/s\n", name, S, T, took * 1e6,
           bytes / took * 1e-9, flop / took * 1e-9);
}

#define BEST_OF(took, call)                                                                        \
    do {                                                                                           \
        (took) = 1e9;                                                                              \
        for (int run_ = 0; run_ < 5 * RUNS; run_++) {                                              \
            double start_ = now();                                                                 \
            call;                                                                                  \
            double this_ = now() - start_;                                                         \
            (took) = this_ < (took) ? this_ : (took);                                              \
        }                                                                                          \
    } while (0)

static void bench_matrix_state(int S, int T, int H, int V, int K, bool delta)
{
    const size_t row = (size_t)H * (size_t)(V > K ? V : K), rows = (size_t)T * row;
    const size_t record = (size_t)H * (size_t)V * (size_t)K;
    float *y = floats(rows), *w = floats(rows), *x = floats(rows), *S0 = floats(record * (size_t)S);
    int begin[65], slot[64];
    const struct batch in = make_batch(S, T, begin, slot);
    const struct matrix_state p = { .y = y,
                                    .w = w,
                                    .a = delta ? x : NULL,
                                    .b = delta ? x : NULL,
                                    .k = x,
                                    .q = x,
                                    .v = x,
                                    .y_ld = row,
                                    .w_ld = row,
                                    .ab_ld = row,
                                    .kq_ld = row,
                                    .v_ld = row,
                                    .v_scale = delta ? NULL : w,
                                    .w_per_head = !delta,
                                    .H = H,
                                    .V = V,
                                    .K = K,
                                    .k_heads = delta ? H : 1,
                                    .state = { .base = S0, .stride = record } };
    double took;

    for (size_t i = 0; i < rows; i++) {
        w[i] = 0.95f + 0.04f * w[i];
        x[i] *= 0.1f;
    }
    BEST_OF(took, be->ops->matrix_state(be->stream, &in, &p));
    report(delta ? "matrix_state rwkv7" : "matrix_state mamba2", S, T, took,
           8.0 * (double)record * S, (delta ? 8.0 : 5.0) * (double)record * T);
    be->free(be, y);
    be->free(be, w);
    be->free(be, x);
    be->free(be, S0);
}

static void bench_scan(int S, int T, int dim, int N)
{
    const size_t rows = (size_t)T * (size_t)dim, record = (size_t)dim * (size_t)N;
    float *y = floats(rows), *x = floats(rows), *A = floats(record), *B = floats(rows);
    float *h = floats(record * (size_t)S);
    int begin[65], slot[64];
    const struct batch in = make_batch(S, T, begin, slot);
    const size_t ld = (size_t)dim;
    const struct diagonal_scan p = { .y = y,
                                     .x = x,
                                     .dt = x,
                                     .z = x,
                                     .B = B,
                                     .C = B,
                                     .y_ld = ld,
                                     .x_ld = ld,
                                     .dt_ld = ld,
                                     .z_ld = ld,
                                     .bc_ld = ld,
                                     .A = A,
                                     .D = x,
                                     .dim = dim,
                                     .N = N,
                                     .state = { .base = h, .stride = record } };
    double took;

    for (size_t i = 0; i < rows; i++)
        x[i] = 0.5f + 0.4f * x[i];
    for (size_t i = 0; i < record; i++)
        A[i] = -1.1f + A[i];
    BEST_OF(took, be->ops->diagonal_scan(be->stream, &in, &p));
    report("diagonal_scan", S, T, took, 8.0 * (double)record * S, 7.0 * (double)record * T);
    be->free(be, y);
    be->free(be, x);
    be->free(be, A);
    be->free(be, B);
    be->free(be, h);
}

static void bench_rows(int T, int dim)
{
    const size_t ld = (size_t)dim, rows = (size_t)T * ld;
    float *y = floats(rows), *x = floats(rows), *w = floats(4 * ld), *state = floats(64 * 3 * ld);
    int begin[65], slot[64];
    const int S = T < 64 ? T : 1;
    const struct batch in = make_batch(S, T, begin, slot);
    const struct norm norm = { .kind = NORM_RMS,
                               .y = y,
                               .x = x,
                               .y_ld = ld,
                               .x_ld = ld,
                               .weight = w,
                               .T = T,
                               .dim = dim,
                               .groups = 1,
                               .eps = 1e-5f };
    const struct gated_norm gated = { .y = y,
                                      .x = x,
                                      .z = x,
                                      .y_ld = ld,
                                      .x_ld = ld,
                                      .z_ld = ld,
                                      .weight = w,
                                      .T = T,
                                      .dim = dim,
                                      .groups = 1,
                                      .eps = 1e-5f };
    const struct short_conv conv = { .y = y,
                                     .x = x,
                                     .y_ld = ld,
                                     .x_ld = ld,
                                     .weight = w,
                                     .dim = dim,
                                     .W = 4,
                                     .silu = true,
                                     .state = { .base = state, .stride = 3 * ld } };
    double took;

    BEST_OF(took, be->ops->norm(be->stream, &norm));
    report("norm rms", S, T, took, 8.0 * (double)rows, 4.0 * (double)rows);
    BEST_OF(took, be->ops->gated_norm(be->stream, &gated));
    report("gated_norm", S, T, took, 12.0 * (double)rows, 20.0 * (double)rows);
    BEST_OF(took, be->ops->short_conv(be->stream, &in, &conv));
    report("short_conv", S, T, took, 8.0 * (double)rows, 24.0 * (double)rows);
    be->free(be, y);
    be->free(be, x);
    be->free(be, w);
    be->free(be, state);
}

static void bench_sample(int rows, float temperature, float top_p)
{
    enum { VOCAB = 50277 };
    float *logits = floats((size_t)rows * VOCAB);
    struct sample_row row[64];
    static struct sample_result out[64];
    const struct sample p = {
        .logits = logits, .ld = VOCAB, .rows = rows, .vocab = VOCAB, .row = row, .out = out
    };
    double took;

    for (size_t i = 0; i < (size_t)rows * VOCAB; i++)
        logits[i] *= 10.0f;
    for (int i = 0; i < rows; i++)
        row[i] = (struct sample_row){ .temperature = temperature,
                                      .top_p = top_p,
                                      .typical_p = 1.0f,
                                      .repetition = 1.0f,
                                      .forced = -1 };
    BEST_OF(took, be->ops->sample(be->stream, &p));
    report(temperature > 0.0f ? top_p < 1.0f ? "sample top_p" : "sample" : "sample greedy", rows,
           rows, took, 4.0 * VOCAB * rows, 0.0);
    be->free(be, logits);
}

int main(int argc, char **argv)
{
    const struct backend_options options = { .isa = argc > 1 ? argv[1] : "auto",
                                             .threads = argc > 2 ? atoi(argv[2]) : 0 };
    struct error err;
    struct machine machine;

    setvbuf(stdout, NULL, _IOLBF, 0);
    be = backend_open_cpu(&options, &err);
    if (!be) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    machine = (struct machine){ .bandwidth = be->ceiling(be, CEILING_READ),
                                .fma = be->ceiling(be, CEILING_FMA),
                                .bf16 = be->ceiling(be, CEILING_BF16) };
    printf("%s: reads %.1f GB/s, fp32 %.1f GFLOP/s, bf16 dot %.1f GFLOP/s\n", be->detail,
           machine.bandwidth * 1e-9, machine.fma * 1e-9, machine.bf16 * 1e-9);
    for (int round_x = 0; round_x <= 1; round_x++) {
        bench_linear(DTYPE_BF16, round_x, 3072, 768, &machine);
        bench_linear(DTYPE_BF16, round_x, 768, 3072, &machine);
        bench_linear(DTYPE_BF16, round_x, 50277, 768, &machine);
    }
    bench_linear(DTYPE_F16, false, 2048, 2048, &machine);
    bench_linear(DTYPE_F32, false, 1536, 768, &machine);
    for (int i = 0; i < 3; i++) {
        const int S = i == 1 ? 16 : 1, T = i == 0 ? 1 : i == 1 ? 16 : 512;

        bench_matrix_state(S, T, 12, 64, 64, true);
        bench_matrix_state(S, T, 24, 64, 128, false);
        bench_scan(S, T, 1536, 16);
        bench_rows(T, 1536);
    }
    bench_sample(1, 0.0f, 1.0f);
    bench_sample(1, 1.0f, 1.0f);
    bench_sample(1, 1.0f, 0.9f);
    bench_sample(16, 1.0f, 0.9f);
    backend_close(be);
    return 0;
}
