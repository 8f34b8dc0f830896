/* bench_sample.c - what draws take beside a step, by what is asked of them: rows of VOCAB logits
 * like a model's, each from the call to the token on the host, the median of RUNS.
 *
 * Logits are normal with a few far above the rest, so that half of the mass lies with some ten
 * tokens and 0.9 of it with some hundred. Usage: bench_sample [cpu|cuda] */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/error.h"
#include "kernels/backend.h"

enum { VOCAB = 65536, ROWS = 256, RUNS = 21, PEAKS = 64 };

static const struct {
    const char *name;
    struct sample_row row;
} asked[] = {
    { "greedy", { .top_p = 1, .typical_p = 1 } },
    { "temperature 1", { .temperature = 1, .top_p = 1, .typical_p = 1 } },
    { "top_p 0.9", { .temperature = 1, .top_p = 0.9f, .typical_p = 1 } },
    { "top_k 40", { .temperature = 1, .top_p = 1, .typical_p = 1, .top_k = 40 } },
    { "top_k 40, top_p 0.9", { .temperature = 1, .top_p = 0.9f, .typical_p = 1, .top_k = 40 } },
    { "min_p 0.05", { .temperature = 1, .top_p = 1, .typical_p = 1, .min_p = 0.05f } },
    { "typical_p 0.9", { .temperature = 1, .top_p = 1, .typical_p = 0.9f } },
    { "20 alternatives", { .top_p = 1, .typical_p = 1, .top = SAMPLE_TOP_MAX } },
};

static const int rows_of[] = { 1, 8, 64, 256 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double uniform(void)
{
    static uint64_t state;
    uint64_t z = state += 0x9e3779b97f4a7c15u; /* SplitMix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53 + 0x1p-54;
}

static double normal(void)
{
    const double r = sqrt(-2 * log(uniform()));

    return r * cos(6.283185307179586 * uniform());
}

static float *random_logits(struct backend *be)
{
    const size_t n = (size_t)ROWS * VOCAB;
    float *host = malloc(n * sizeof(*host)), *logits = be->alloc(be, n * sizeof(*logits));

    if (!host || !logits)
        exit(1);
    for (size_t i = 0; i < n; i++)
        host[i] = (float)normal();
    for (int t = 0; t < ROWS; t++)
        for (int i = 0; i < PEAKS; i++)
            host[(size_t)t * VOCAB + (size_t)(uniform() * VOCAB)] += (float)(14 - 0.12 * i);
    be->upload(be, logits, host, n * sizeof(*logits));
    free(host);
    return logits;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double measure(struct backend *be, const float *logits, const struct sample_row *how, int n)
{
    struct sample_row row[ROWS];
    static struct sample_result result[ROWS];
    double took[RUNS];
    struct error err;

    for (int run = 0; run < RUNS; run++) {
        for (int i = 0; i < n; i++) {
            row[i] = *how;
            row[i].repetition = 1;
            row[i].seed = (uint64_t)i;
            row[i].position = (uint64_t)run;
            row[i].forced = -1;
        }

        const double began = now();

        be->ops->sample(be->stream, &(struct sample){ .logits = logits,
                                                      .ld = VOCAB,
                                                      .rows = n,
                                                      .vocab = VOCAB,
                                                      .row = row,
                                                      .out = result });
        if (!be->sync(be, &err)) {
            fprintf(stderr, "%s\n", err.message);
            exit(1);
        }
        took[run] = now() - began;
    }
    qsort(took, RUNS, sizeof(*took), compare);
    return took[RUNS / 2];
}

int main(int argc, char **argv)
{
    const struct backend_options options = { .threads = 2 };
    const bool cpu = argc > 1 && strcmp(argv[1], "cpu") == 0;
    struct error err;
    struct backend *be = cpu ? backend_open_cpu(&options, &err) : backend_open_cuda(&options, &err);

    if (!be) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }

    float *logits = random_logits(be);

    printf("%s, us\n\n| rows |", be->detail);
    for (size_t k = 0; k < sizeof(asked) / sizeof(*asked); k++)
        printf(" %s |", asked[k].name);
    printf("\n|---|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof(rows_of) / sizeof(*rows_of); i++) {
        printf("| %d |", rows_of[i]);
        for (size_t k = 0; k < sizeof(asked) / sizeof(*asked); k++)
            printf(" %.0f |", measure(be, logits, &asked[k].row, rows_of[i]));
        printf("\n");
        fflush(stdout);
    }
    be->free(be, logits);
    backend_close(be);
    return 0;
}
