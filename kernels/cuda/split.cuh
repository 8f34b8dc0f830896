/* split.cuh - matrix products on the tensor cores that keep 16 bits of each factor.
 *
 * A float32 is split into the nearest bf16 and the bf16 nearest to what is left: together 16
 * bits or more of its significand, and its whole range. Of the four products of the parts the
 * three largest are summed, in float32; what is left out is below 2^-16 of a term. A factor
 * for B lies in shared memory as two tiles of rows of ROW 16-bit elements: ROW / 8 is odd, or ROW
 * is 64 and place() swaps runs of eight, so that eight rows' parts never share a bank. */
#ifndef KERNELS_CUDA_SPLIT_CUH
#define KERNELS_CUDA_SPLIT_CUH

#include "kernels/cuda/ptx.cuh"

/* Two neighbouring floats, x in the lower halves. */
struct split_pair {
    unsigned hi, lo;
};

static __device__ __forceinline__ split_pair split(float x, float y)
{
    const unsigned hi = pack_bf16(x, y);

    return { hi, pack_bf16(x - __uint_as_float(hi << 16), y - __uint_as_float(hi & 0xffff0000u)) };
}

/* A 16 x 16 fragment of the left factor. */
struct split_left {
    unsigned hi[4], lo[4];
};

/* Part i of it holds columns 2c and 2c + 1, 8 further from i = 2; rows g, or g + 8 if odd. */
static __device__ __forceinline__ void set_left(split_left &a, int i, float x, float y)
{
    const split_pair s = split(x, y);

    a.hi[i] = s.hi;
    a.lo[i] = s.lo;
}

/* Two 16 x 8 fragments of the right factor, side by side. */
struct split_right {
    unsigned hi[4], lo[4];
};

/* A tile pair in shared memory. */
template <int ROW> struct split_tile {
    unsigned short *hi, *lo;
};

/* Where an element of a tile is; the rest of its run of eight follows. */
template <int ROW> static __device__ __forceinline__ int place(int row, int column)
{
    return row * ROW + (ROW == 64 ? column ^ row % 8 * 8 : column);
}

/* The fragments whose rows k.. and columns n.. lie in the tile as its rows n.. and columns k..
 * (BY_COLUMN), or as its rows k.. and columns n... */
template <bool BY_COLUMN, int ROW>
static __device__ __forceinline__ split_right load_right(const split_tile<ROW> &t, int k, int n)
{
    const int lane = (int)(threadIdx.x % 32), i = lane % 8, j = lane / 8;
    const int at = BY_COLUMN ? place<ROW>(n + j / 2 * 8 + i, k + j % 2 * 8)
                             : place<ROW>(k + j % 2 * 8 + i, n + j / 2 * 8);
    split_right b;

    load_matrices<!BY_COLUMN>(b.hi, t.hi + at);
    load_matrices<!BY_COLUMN>(b.lo, t.lo + at);
    return b;
}

/* A fragment of the left factor whose rows m.. and columns k.. lie in the tile as its rows k..
 * and columns m... */
template <int ROW>
static __device__ __forceinline__ split_left load_left_by_column(const split_tile<ROW> &t, int m,
                                                                 int k)
{
    const int lane = (int)(threadIdx.x % 32), i = lane % 8, j = lane / 8;
    const int at = place<ROW>(k + j / 2 * 8 + i, m + j % 2 * 8);
    split_left a;

    load_matrices<true>(a.hi, t.hi + at);
    load_matrices<true>(a.lo, t.lo + at);
    return a;
}

/* The same where they lie as its rows m.. and columns k... */
template <int ROW>
static __device__ __forceinline__ split_left load_left(const split_tile<ROW> &t, int m, int k)
{
    const int lane = (int)(threadIdx.x % 32), i = lane % 8, j = lane / 8;
    const int at = place<ROW>(m + j % 2 * 8 + i, k + j / 2 * 8);
    split_left a;

    load_matrices<false>(a.hi, t.hi + at);
    load_matrices<false>(a.lo, t.lo + at);
    return a;
}

/* The two 16 x 8 sums of a left fragment with two right ones. */
static __device__ __forceinline__ void multiply(float (&left)[4], float (&right)[4],
                                                const split_left &a, const split_right &b)
{
    mma_bf16(left, a.lo, b.hi[0], b.hi[1]);
    mma_bf16(right, a.lo, b.hi[2], b.hi[3]);
    mma_bf16(left, a.hi, b.lo[0], b.lo[1]);
    mma_bf16(right, a.hi, b.lo[2], b.lo[3]);
    mma_bf16(left, a.hi, b.hi[0], b.hi[1]);
    mma_bf16(right, a.hi, b.hi[2], b.hi[3]);
}

/* Four floats into a tile, at element `at`, a multiple of 4. */
template <int ROW>
static __device__ __forceinline__ void put4(const split_tile<ROW> &t, int at, float4 x)
{
    const split_pair a = split(x.x, x.y), b = split(x.z, x.w);

    *(uint2 *)(t.hi + at) = make_uint2(a.hi, b.hi);
    *(uint2 *)(t.lo + at) = make_uint2(a.lo, b.lo);
}

template <int ROW>
static __device__ __forceinline__ void put2(const split_tile<ROW> &t, int at, float x, float y)
{
    const split_pair a = split(x, y);

    *(unsigned *)(t.hi + at) = a.hi;
    *(unsigned *)(t.lo + at) = a.lo;
}

#endif
