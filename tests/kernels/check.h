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

/* NULL if this machine lacks the instruction set. Closed by check_release(). */
struct backend *check_backend(const char *isa, int threads);

/* Every instruction set with a table of its own, NULL at the end. */
extern const char *const check_isas[];

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
