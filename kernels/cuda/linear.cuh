/* linear.cuh - what the files linear*.cu share: the layout of a weight and the paths.
 *
 * A weight is row-major, its rows padded with zeros to a multiple of 128 bytes: every path
 * reads whole aligned lines, and no path needs another layout than the next. */
#ifndef KERNELS_CUDA_LINEAR_CUH
#define KERNELS_CUDA_LINEAR_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/state.cuh"

enum { MATRIX_LINE = 128 /* bytes */ };

/* Elements from one row to the next. */
static inline int matrix_ld(enum dtype dtype, int cols)
{
    const int line = MATRIX_LINE / (int)dtype_size(dtype);

    return (cols + line - 1) / line * line;
}

/* The paths. Those that take several products take up to GROUP_MAX of one T and dtype, as one
 * launch, if each of them can be taken and x is bf16 of all or of none. */
enum { GROUP_MAX = 8 };

/* Rows t to t + T - 1 of a product. */
static inline struct linear slice_of(const struct linear *p, int t, int T)
{
    struct linear part = *p;

    part.x = p->x ? p->x + t * p->x_ld : NULL;
    part.x_bf16 = p->x_bf16 ? p->x_bf16 + t * p->x_ld : NULL;
    part.y = p->y ? p->y + t * p->y_ld : NULL;
    part.y_bf16 = p->y_bf16 ? p->y_bf16 + t * p->y_ld : NULL;
    part.T = T;
    return part;
}

/* Whether every row of x begins on a grid of 16 bytes. */
static inline bool x_is_aligned(const struct linear *p)
{
    return p->x_bf16 ? ((uintptr_t)p->x_bf16 | p->x_ld * sizeof(*p->x_bf16)) % 16 == 0
                     : off_grid(p->x, p->x_ld) == 0;
}

/* One row of bf16 and weights of bf16 with not too many columns, on a Hopper. */
bool linear_single_can(const struct stream *q, const struct linear *p);
void linear_single(struct stream *q, const struct linear *p, int n);

/* Up to 8 rows of bf16, each on a grid of 16 bytes, and weights of bf16, on a Hopper. */
bool linear_few_can(const struct stream *q, const struct linear *p);
void linear_few(struct stream *q, const struct linear *p, int n);

/* A few rows of any dtype: SKINNY_ROWS, or SKINNY_ROWS_BF16 if x is bf16, or as many as x has
 * room for in shared memory. */
enum { SKINNY_ROWS = 4, SKINNY_ROWS_BF16 = 8 };

int linear_skinny_rows(const struct linear *p);
void linear_skinny(struct stream *q, const struct linear *p, int n);

/* By warpgroups, of a narrow dtype and on a Hopper: up to WIDE_ROWS rows, and any number. */
enum { WIDE_ROWS = 128 };

bool warpgroups_can(const struct stream *q, const struct linear *p);
/* Whether the wide path takes them in tiles of fewer weights, as they are few. */
bool linear_is_slim(const struct stream *q, const struct linear *p, int n);
void linear_wide(struct stream *q, const struct linear *p, int n);
/* Whether all blocks of the path of pairs are on the device at once. */
bool linear_pairs_fit(const struct stream *q, const struct linear *p, int n);
/* In how many pieces, `most` or fewer, it takes a product; 0 or 1: in none. */
int linear_pairs_count(const struct stream *q, const struct linear *p, int most);
/* Whether `sides` launches like this one are on the device at once, weights in common. */
bool linear_pairs_at_once(const struct stream *q, const struct linear *p, int n, int sides);
/* One of so many launches that share the device. */
void linear_pairs(struct stream *q, const struct linear *p, int n, int sides);

/* One product of any size by cuBLASLt, the algorithm timed once for each shape and range of T
 * and kept in q->plans. */
void linear_lt(struct stream *q, const struct linear *p);

/* What has yet to be added to the rows of a product's y: its sums over so many parts of the
 * columns, [T, rows] each, one behind the other, and its bias. */
struct pieces {
    float *y;
    const float *at, *bias; /* bias: or NULL */
    size_t size;            /* floats of one */
    int n;                  /* 0: it is complete */
};

enum { PIECES_MAX = 4 };

/* A product with `add` for an operation that goes on with all of y, and adds what is left in pieces
 * in the workspace. Few rows of weights, each of many columns, are so shared by all multiprocessors
 * without waiting for one another. */
struct pieces linear_pieces(struct stream *q, const struct linear *p);
/* By the path of pairs, in so many. */
struct pieces linear_pairs_pieces(struct stream *q, const struct linear *p, int n);

/* Rows of x that have to be brought into the workspace. */
struct narrow {
    void *to;
    const float *x;
    const uint16_t *x_bf16; /* or NULL: instead of x */
    size_t x_ld;
    int cols, ld;
    bool aligned; /* x can be read four numbers at a time */
};

/* The rows of x of several products as narrow numbers on a grid of 16 bytes: where they are, if
 * they are so, or in the workspace. */
struct narrow_group {
    int T, n;
    struct narrow m[GROUP_MAX]; /* the distinct ones */
    struct {
        const void *rows;
        size_t ld;
    } of[GROUP_MAX]; /* of each product */
};

enum { WORKSPACE_ALIGNMENT = 256 };

static inline size_t round_up(size_t bytes)
{
    return (bytes + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

/* Enqueues what has to be brought for n products of equal T and narrow dtype. The first
 * `reserved` bytes of the workspace are the caller's. false, with the fault noted, without
 * room. */
bool narrow_x(struct stream *q, struct narrow_group *g, const struct linear *p, int n,
              size_t reserved);

/* Two numbers rounded to E, the first in the low half. A float beyond the range of a half
 * becomes infinite. */
template <typename E> static __device__ __forceinline__ uint32_t narrow_pair(float a, float b);

template <> __device__ __forceinline__ uint32_t narrow_pair<__nv_bfloat16>(float a, float b)
{
    uint32_t pair;

    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}

template <> __device__ __forceinline__ uint32_t narrow_pair<__half>(float a, float b)
{
    uint32_t pair;

    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}

template <typename E> static __device__ __forceinline__ float2 widen_pair(uint32_t pair)
{
    E h[2];

    memcpy(h, &pair, sizeof(pair));
    return { (float)h[0], (float)h[1] };
}

/* 16 bytes, or zeros where there is no row: one predicated load, as a branch around it would
 * make every warp wait for it where the ways meet. */
static __device__ __forceinline__ uint4 load_weights(const void *p, bool there)
{
    uint4 v = { 0, 0, 0, 0 };

    asm volatile("{.reg .pred there; setp.ne.u32 there, %5, 0;\n"
                 "@there ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];}"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "l"(p), "r"((uint32_t)there));
    return v;
}

/* The product of a group that this block works on. */
template <typename G> static __device__ __forceinline__ const auto &product_of(const G &g)
{
    int i = 0;

    while (i + 1 < g.n && (int)blockIdx.x >= g.p[i + 1].first_block)
        i++;
    return g.p[i];
}

/* What becomes of a product's sums. */
struct output {
    const float *bias;
    float *y;
    uint16_t *y_bf16;
    size_t ld;
    enum activation act;
    bool add;
};

static inline struct output output_of(const struct linear *p)
{
    return { p->bias, p->y, p->y_bf16, p->y_ld, p->act, p->add };
}

/* Whether it takes four numbers at a time, if they begin at a multiple of four. */
static inline bool is_aligned(const struct output &o)
{
    return (off_grid(o.y, o.ld) | off_grid(o.y_bf16, o.ld)) == 0;
}

/* v: the sum of row `row` of the matrix with row t of x. */
static __device__ __forceinline__ void finish(const struct output &o, int t, int row, float v)
{
    const size_t at = (size_t)t * o.ld + row;

    v = activate(o.act, v + (o.bias ? o.bias[row] : 0.0f));
    store_numbers<1>(o.y, o.y_bf16, at, { { o.add ? o.y[at] + v : v } });
}

#endif
