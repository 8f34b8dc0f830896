/* op_specs.h - how the operations on rows and states are called with random sizes: what each
 * reads and writes, in which ranges, for the tests that hold all of them to the same promises. */
#ifndef TESTS_KERNELS_OP_SPECS_H
#define TESTS_KERNELS_OP_SPECS_H

#include "check.h"

enum { ARRAYS = 8 };

/* Rows or constants of `width` floats in [lo, hi). For outputs it is what they hold before;
 * magnitude bounds the absolute values that add up to one of them; INFINITY: scratch memory. */
struct array {
    int width;
    float lo, hi;
    double magnitude;
};

/* How the rows of an output are asked for: see y_bf16 in ops.h. */
enum rows { ROWS_F32, ROWS_BF16, ROWS_BOTH };

struct call;

struct spec {
    char name[64];
    struct array x[ARRAYS], y[ARRAYS], c[ARRAYS]; /* row inputs, row outputs, constants */
    struct array state;
    double terms;    /* of the longest sum; a state adds its steps */
    int bf16;        /* the first so many outputs can be asked for as bf16 */
    bool bf16_alone; /* but not as both, and the float32 rows mean nothing then */
    bool tight_x, tight_y;
    bool decode; /* all five sequences have one row */
    int d[6];    /* sizes for run() */
    void (*run)(const struct call *c);
};

struct call {
    const struct spec *spec;
    const struct ops *ops;
    struct stream *q;
    const struct batch *in;
    const float *x[ARRAYS], *c[ARRAYS];
    float *y[ARRAYS];
    uint16_t *y_bf16[ARRAYS];
    enum rows rows[ARRAYS];
    size_t x_ld[ARRAYS], y_ld[ARRAYS];
    struct field state;
};

/* One of each operation; its sizes are random. */
extern struct spec (*const any_spec[])(void);
extern const int any_specs;

struct spec diagonal_scan_of(int dim, int N);
struct spec matrix_state_of(int H, int k_heads, int V, int K);
struct spec norm_shift_of(int dim, int n);
struct spec delta_state_of(int H, int K);

#endif
