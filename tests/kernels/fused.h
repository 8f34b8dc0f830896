/* fused.h - what the random cases of fused operations are made of: batches, rows with room between
 * them, states, weights. All memory is check.h's, until check_release(). */
#ifndef TESTS_KERNELS_FUSED_H
#define TESTS_KERNELS_FUSED_H

#include "kernels/backend.h"

enum { S_MAX = 600, EXTRA = 2, LONG_MAX = 700 };

/* A batch with slots out of order; where a backend knows them, its last sequence is padding. */
struct layout {
    struct batch in;
    int begin[S_MAX + 2], slot[S_MAX + 1], slots, longest;
};

/* How many rows its sequences have: as many as there are sequences, or any number in all; many in
 * the first; or one each in the first ones, as in decode steps, and many in the last. */
enum shape { ONE_EACH, ALL_OF_ONE, RAGGED, LONG, BESIDE };

struct layout make_layout(int S, enum shape shape);

/* run(be, the batch on it, arg) in a step of its own. */
void run_on(struct backend *be, const struct layout *l,
            void (*run)(struct backend *be, const struct batch *in, void *arg), void *arg);

/* Rows of `width` numbers, one more than the batch has. */
struct rows {
    float *x;
    size_t ld, n;
};

struct rows make_rows(int T, int width, bool aligned, double lo, double hi);
const float *show(struct backend *be, const struct rows *r);
float *copy_of(const float *x, size_t n);

/* Records of states; narrow: numbers of bf16, which are lent as such. */
struct states {
    float *x;
    uint16_t *narrow; /* or NULL */
    size_t n, record;
};

struct states make_states(size_t record, int slots, bool narrow);
struct states copy_of_states(const struct states *s);
struct field lend_states(struct backend *be, const struct states *s);

/* What a sum in another order may move rounds to the other neighbour now and then, 2^-7 of a
 * number away; with other random bits it would be every third. */
void check_states(const char *what, const struct states *got, const struct states *want,
                  double tolerance);

/* Weights that are numbers of bf16, and as a matrix of either type. */
float *make_weights(int rows, int cols);
struct matrix pack(struct backend *be, enum dtype dtype, int rows, int cols, const float *w);

#endif
