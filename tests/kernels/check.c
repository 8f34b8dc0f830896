/* check.c - random data, backends and comparisons for the kernel tests. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/error.h"

enum { HELD_MAX = 1 << 14, LOANS_MAX = 128 };

static uint64_t random_state;
static void *held[HELD_MAX];
static struct backend *opened[HELD_MAX];
static struct backend *gpu;
static int holds, opens;

/* Device memory that stands in for host memory; to NULL: nothing to copy back. */
static struct loan {
    void *host, *device;
    size_t bytes;
} loan[LOANS_MAX];
static int loans;

const char *const check_backends[] = { "plain", "avx2", "avx512", "avx512bf16", "cuda", NULL };

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

static void close_gpu(void)
{
    backend_close(gpu);
}

static struct backend *open_gpu(void)
{
    static bool looked;
    struct error err;

    if (looked)
        return gpu;
    looked = true;
    gpu = backend_open_cuda(&(struct backend_options){ .device = 0 }, &err);
    if (!gpu && err.code != ERR_INPUT)
        fail_msg("%s", err.message);
    fprintf(stderr, "# %s\n", gpu ? gpu->detail : err.message);
    if (gpu)
        atexit(close_gpu);
    return gpu;
}

struct backend *check_backend(const char *name, int threads)
{
    const struct backend_options options = { .isa = name, .threads = threads };
    struct error err;
    struct backend *be;

    if (strcmp(name, "cuda") == 0)
        return open_gpu();
    be = backend_open_cpu(&options, &err);
    if (!be) {
        assert_int_equal(err.code, ERR_INPUT);
        return NULL;
    }
    assert_true(opens < HELD_MAX);
    return opened[opens++] = be;
}

struct backend *check_backend_of(void **state)
{
    return check_backend(*state, 1);
}

int check_cases(const char *backend, int all)
{
    return strcmp(backend, "cuda") == 0 ? all : all / 10;
}

bool check_is_exact(const struct backend *be)
{
    return strcmp(be->name, "cpu") == 0;
}

static void *borrow(struct backend *be, const void *host, size_t bytes, void *back)
{
    assert_true(loans < LOANS_MAX);

    struct loan *l = &loan[loans++];

    *l = (struct loan){ .host = back, .device = be->alloc(be, bytes), .bytes = bytes };
    assert_non_null(l->device);
    be->upload(be, l->device, host, bytes);
    return l->device;
}

void *check_lend(struct backend *be, void *host, size_t bytes)
{
    return host && !check_is_exact(be) ? borrow(be, host, bytes, host) : host;
}

const void *check_show(struct backend *be, const void *host, size_t bytes)
{
    return host && !check_is_exact(be) ? borrow(be, host, bytes, NULL) : host;
}

void check_return(struct backend *be)
{
    struct error err;

    if (!be->sync(be, &err))
        fail_msg("%s", err.message);
    while (loans > 0) {
        const struct loan *l = &loan[--loans];

        if (l->host)
            be->download(be, l->host, l->device, l->bytes);
        be->free(be, l->device);
    }
}

const struct batch *check_begin(struct backend *be, const struct batch *in)
{
    const struct step_key unrecorded = { 0 };
    const struct batch *batch = be->begin(be, &unrecorded, in);

    assert_non_null(batch);
    return batch;
}

void check_end(struct backend *be)
{
    be->end(be);
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
