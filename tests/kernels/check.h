/* check.h - what the kernel tests share: random data that is freed by itself, the backends of
 * this machine, and comparison with a derived tolerance.
 *
 * The seed is new in each run and printed; give it as the program's argument to repeat one. */
#ifndef TESTS_KERNELS_CHECK_H
#define TESTS_KERNELS_CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/backend.h"

void check_seed(int argc, char **argv);

/* Uniform in [lo, hi). */
double check_uniform(double lo, double hi);
/* Uniform in [lo, hi], whole. */
int check_int(int lo, int hi);

/* Memory of exactly this size, so that a sanitizer sees what is beyond; freed by
 * check_release(), which is every test's teardown. */
void *check_memory(size_t bytes);
float *check_floats(size_t n, double lo, double hi);
int check_release(void **state);

/* NULL if this machine lacks the instruction set or the GPU. Closed by check_release(), but for
 * the GPU's, which is one for all tests; threads are the CPU's. */
struct backend *check_backend(const char *name, int threads);

/* The backend whose name the test was given by ON_BOTH; NULL: it has nothing to do here. (A test
 * that skips itself counts as failed under TAP.) */
struct backend *check_backend_of(void **state);

/* One test on the definition's backend and on the GPU. */
#define ON_BOTH(test)                                                                              \
    { #test, test, NULL, check_release, "plain" },                                                 \
    {                                                                                              \
#test "_on_the_gpu", test, NULL, check_release, "cuda"                                     \
    }

/* Every instruction set with a table of its own, "plain" first, then "cuda"; NULL at the end. */
extern const char *const check_backends[];

/* How many random cases of something slow: all on a GPU, where a kernel has many ways to go, and
 * few on a CPU, where sanitizers take fifty times as long. */
int check_cases(const char *backend, int all);

/* Whether a row's results are promised to the last bit, whatever its company and the cut of
 * its sequence. On a GPU they are close. */
bool check_is_exact(const struct backend *be);

/* Where the backend may work on host memory: a copy on the device, or the memory itself. What
 * was lent is copied back and ends with check_return(), which waits for the backend. */
void *check_lend(struct backend *be, void *host, size_t bytes);
/* The same for what is only read: nothing is copied back. */
const void *check_show(struct backend *be, const void *host, size_t bytes);
void check_return(struct backend *be);

/* Operations on a batch stand between these two. */
const struct batch *check_begin(struct backend *be, const struct batch *in);
void check_end(struct backend *be);

/* Fails, naming `what` and the place, unless |a - b| <= tolerance everywhere. */
void check_close(const char *what, const float *a, const float *b, size_t n, double tolerance);
/* The same to the last bit. */
void check_equal(const char *what, const float *a, const float *b, size_t n);

/* How far two float32 sums of n terms may differ whose absolute values add up to
 * `magnitude`, when roundings are independent (Higham and Mary 2019): each is within
 * lambda * sqrt(n) * 2^-24 * magnitude but for a chance of 2 exp(-lambda^2 / 2), which is
 * below 1e-7 for lambda = 6. Eight more terms stand for the functions of a few roundings
 * that lie on the way. */
double check_tolerance(double terms, double magnitude);

#endif
