/* check.c - random data, backends and comparisons for the kernel tests. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/error.h"

enum { HELD_MAX = 4096 };

static uint64_t random_state;
static void *held[HELD_MAX];
static struct backend *opened[HELD_MAX];
static int holds, opens;

const char *const check_isas[] = { "plain", "avx2", "avx512", NULL };

void check_seed(int argc, char **argv)
{
    random_state = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
    fprintf(stderr, "# seed %llu\n", (unsigned long long)random_state);
}

/* SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t next_random(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double check_uniform(double lo, double hi)
{
    return lo + (hi - lo) * (double)(next_random() >> 11) * 0x1p-53;
}

int check_int(int lo, int hi)
{
    return lo + (int)(next_random() % (uint64_t)(hi - lo + 1));
}

void *check_memory(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);

    assert_non_null(p);
    assert_true(holds < HELD_MAX);
    return held[holds++] = p;
}

float *check_floats(size_t n, double lo, double hi)
{
    float *x = check_memory(n * sizeof(*x));

    for (size_t i = 0; i < n; i++)
        x[i] = (float)check_uniform(lo, hi);
    return x;
}

int check_release(void **state)
{
    (void)state;
    while (holds > 0)
        free(held[--holds]);
    while (opens > 0)
        backend_close(opened[--opens]);
    return 0;
}

struct backend *check_backend(const char *isa, int threads)
{
    const struct backend_options options = { .isa = isa, .threads = threads };
    struct error err;
    struct backend *be = backend_open_cpu(&options, &err);

    if (!be) {
        assert_int_equal(err.code, ERR_INPUT);
        return NULL;
    }
    assert_true(opens < HELD_MAX);
    return opened[opens++] = be;
}

void check_close(const char *what, const float *a, const float *b, size_t n, double tolerance)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= tolerance))
            fail_msg("%s: [%zu] is %.9g, defined as %.9g, tolerance %.3g", what, i, (double)a[i],
                     (double)b[i], tolerance);
}

void check_equal(const char *what, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof(*a)) != 0)
            fail_msg("%s: [%zu] is %.9g and %.9g", what, i, (double)a[i], (double)b[i]);
}

double check_tolerance(double terms, double magnitude)
{
    return 2.0 * 6.0 * sqrt(terms + 8.0) * 0x1p-24 * magnitude;
}
