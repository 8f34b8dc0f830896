/* ceiling.c - times the loops of ceiling_loops.h on every thread of the pool. */
#include "kernels/cpu/ceiling.h"

#include <stdint.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"
#include "kernels/cpu/ceiling_loops.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pool.h"

enum { RUNS = 8, BUFFER_MB = 256, FMA_ROUNDS = 1 << 18 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct loops {
    const struct ops *ops;
    fma_loop *fma, *dot; /* dot: of bf16, or NULL */
    read_loop *read;
};

static double fma_plain(int rounds)
{
    float sum[32];

    for (int i = 0; i < 32; i++)
        sum[i] = (float)i;
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < 32; i++)
            sum[i] = sum[i] * 0.999f + 0.001f;
    for (int i = 1; i < 32; i++)
        sum[0] += sum[i];
    ceiling_sink(sum[0]);
    return 2.0 * 32 * rounds;
}

static void read_plain(const float *p, size_t n)
{
    float sum[32] = { 0 };

    for (size_t i = 0; i < n; i += 32)
        for (int k = 0; k < 32; k++)
            sum[k] += p[i + (size_t)k];
    for (int i = 1; i < 32; i++)
        sum[0] += sum[i];
    ceiling_sink(sum[0]);
}

static const struct loops loops[] = {
#ifdef KERNELS_X86
    { &ops_cpu_avx512bf16, fma_avx512, dot_avx512bf16, read_avx512 },
    { &ops_cpu_avx512, fma_avx512, NULL, read_avx512 },
    { &ops_cpu_avx2, fma_avx2, NULL, read_avx2 },
#endif
    { &ops_cpu_plain, fma_plain, NULL, read_plain },
};

static const struct loops *loops_of(const struct backend *be)
{
    const struct loops *l = loops;

    while (l->ops != be->ops)
        l++;
    return l;
}

struct read_job {
    read_loop *read;
    const float *data;
};

enum { CHUNK = 1 << 18 }; /* floats of one unit */

static void read_unit(const void *arg, int unit, int thread)
{
    const struct read_job *job = arg;

    (void)thread;
    job->read(job->data + (size_t)unit * CHUNK, CHUNK);
}

double ceiling_read_bandwidth(struct backend *be, float **buffer)
{
    const size_t bytes = (size_t)BUFFER_MB << 20;
    struct read_job job = { .read = loops_of(be)->read };
    double best = 0.0;

    if (!*buffer) {
        *buffer = be->alloc(be, bytes);
        if (!*buffer)
            return 0.0;
        memset(*buffer, 1, bytes); /* pages never written would all be the one page of zeros */
    }
    job.data = *buffer;
    for (int i = 0; i < RUNS; i++) {
        double start = now();

        pool_run(be->stream, (int)(bytes / sizeof(float) / CHUNK), bytes, read_unit, &job);

        double rate = (double)bytes / (now() - start);

        best = rate > best ? rate : best;
    }
    return best;
}

static void fma_unit(const void *arg, int unit, int thread)
{
    fma_loop *const *fma = arg;

    (void)unit;
    (void)thread;
    (*fma)(FMA_ROUNDS);
}

static double loop_rate(struct backend *be, fma_loop *loop)
{
    const int units = 4 * pool_threads(be->stream);
    const double work = loop(1) * FMA_ROUNDS * units;
    double best = 0.0;

    for (int i = 0; i < RUNS; i++) {
        double start = now();

        pool_run(be->stream, units, (size_t)work, fma_unit, &loop);

        double rate = work / (now() - start);

        best = rate > best ? rate : best;
    }
    return best;
}

double ceiling_fma_rate(struct backend *be)
{
    return loop_rate(be, loops_of(be)->fma);
}

double ceiling_bf16_rate(struct backend *be)
{
    fma_loop *dot = loops_of(be)->dot;

    return dot ? loop_rate(be, dot) : 0.0;
}
