/* linear_ring.cuh - what the paths of one row and of a few share: weights that come through a ring.
 *
 * One thread of a block copies its units, some whole rows of weights each, to a ring in shared
 * memory, the first ones before the kernel in front has ended: what fits the ring comes while the
 * short kernels in front run. No more are on their way at a time than keep the memory busy, as what
 * those kernels read would have to queue behind them, and fewer yet while they run: a large unit
 * comes in parts, so that these limits are kept. Units go round the blocks, so that at any time all
 * blocks read neighbouring memory. */
#ifndef KERNELS_CUDA_LINEAR_RING_CUH
#define KERNELS_CUDA_LINEAR_RING_CUH

#include <limits.h>

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
    WARPS = 8,
    CONSUMERS = WARPS * 32,
    THREADS = CONSUMERS + 32, /* the last warp copies */
    RUN = 8,                  /* columns of 16 bytes */
    SPLIT_BITS_MAX = 3,       /* 2^bits warps share a row */
    PLACES_MAX = 32,          /* of a ring */
    RING_BYTES = 192 << 10,   /* of a multiprocessor; the rest is for the short kernels behind */
    RING_SHORT = 160 << 10,   /* where the kernel behind needs more */
    BYTES_EARLY = 50 << 10,   /* on their way to a multiprocessor before x is there */
    BYTES_AHEAD = 80 << 10    /* and behind that */
};

/* A place holds a part of a unit. */
struct ring {
    int places, bytes; /* bytes: of a place */
    int early, ahead;  /* most on their way before x is there, and then */
};

/* What has come, what was taken, and whether x is there. */
struct ring_barriers {
    uint64_t full[PLACES_MAX], empty[PLACES_MAX], x_came;
};

/* A place in a ring of n and the parity of the phase that it is in. */
struct place {
    int i;
    uint32_t parity;

    __device__ __forceinline__ void advance(int n)
    {
        if (++i == n) {
            i = 0;
            parity ^= 1;
        }
    }
};

/* What the end of an output reads beside its sum. */
struct ending {
    float bias, y;

    __device__ __forceinline__ void load(const struct output &o, int t, int row)
    {
        bias = o.bias ? o.bias[row] : 0.0f;
        y = o.add ? o.y[(size_t)t * o.ld + row] : 0.0f;
    }

    __device__ __forceinline__ void finish(const struct output &o, int t, int row, float v) const
    {
        v = activate(o.act, v + bias);
        store_numbers<1>(o.y, o.y_bf16, (size_t)t * o.ld + row, { { o.add ? y + v : v } });
    }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static __device__ __forceinline__ void consumers_barrier(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"((int)CONSUMERS) : "memory");
}

/* By all threads; every consumer warp arrives at `empty`. */
static __device__ __forceinline__ void ring_init(struct ring_barriers &b, const struct ring &r)
{
    if (threadIdx.x == 0)
        barrier_init(&b.x_came, 1);
    if ((int)threadIdx.x < r.places) {
        barrier_init(&b.full[threadIdx.x], 1);
        barrier_init(&b.empty[threadIdx.x], WARPS);
        barriers_ready();
    }
    __syncthreads();
}

/* The copying thread and its ring: `ahead` places are on their way, from `landing` on. */
struct copier {
    char *memory;
    struct ring_barriers &b;
    const struct ring &r;
    struct place to, landing;
    int ahead;

    /* The next place gets so many bytes of weights from a row and column on, or none. */
    template <typename P>
    __device__ __forceinline__ void copy(const P &p, int row, int column, uint32_t bytes, bool none)
    {
        barrier_wait(&b.empty[to.i], to.parity);
        while (ahead >= (barrier_passed(&b.x_came, 0) ? r.ahead : r.early)) {
            barrier_wait(&b.full[landing.i], landing.parity);
            landing.advance(r.places);
            ahead--;
        }
        ahead++;
        barrier_expect(&b.full[to.i], bytes);
        if (!none)
            copy_bytes(memory + to.i * r.bytes, p.w + (size_t)row * p.ld + column, bytes,
                       &b.full[to.i], L2_EVICT_FIRST);
        to.advance(r.places);
    }
};

/* The copying thread: every blocks-th unit of 2^row_bits rows from `first` on, each in 2^part_bits
 * parts, the last one's perhaps empty. P: struct single or few. */
template <typename P>
static __device__ __forceinline__ void copy_units(char *memory, struct ring_barriers &b,
                                                  const struct ring &r, const P &p, int first)
{
    struct copier copier = { memory, b, r, { 0, 1 }, { 0, 0 }, 0 };

    for (int u = first; u < p.units; u += p.blocks) {
        for (int part = 0; part < 1 << p.part_bits; part++) {
            const int most = 1 << (p.row_bits - p.part_bits);
            const int row = (u << p.row_bits) + part * most, rows = min(most, p.rows - row);
            const bool none = p.part_bits && rows <= 0;
            const uint32_t bytes = none ? 0 : 2 * (uint32_t)(rows * p.ld);

            copier.copy(p, row, 0, bytes, none);
        }
    }
}

/* Eight numbers of x of which fewer are there. */
static __device__ __forceinline__ uint4 load_last(const uint16_t *x, int there)
{
    uint32_t pair[RUN / 2] = {};

#pragma unroll
    for (int i = 0; i < RUN; i++)
        if (i < there)
            pair[i / 2] |= (uint32_t)x[i] << 16 * (i % 2);
    return { pair[0], pair[1], pair[2], pair[3] };
}

#endif

/* A block a multiprocessor, and the largest of them as small as that allows; those that are left
 * are the last product's. Returns the units of the largest. */
template <typename G> static int place_blocks(G *g, int places)
{
    for (int units = 1;; units++) {
        auto *p = g->p;
        int blocks = 0;

        for (int i = 0; i < g->n; i++, p++) {
            p->first_block = blocks;
            p->blocks = ceil_div(p->units, units);
            blocks += p->blocks;
        }
        if (blocks <= places) {
            p[-1].blocks = min(p[-1].units, p[-1].blocks + places - blocks);
            return units;
        }
    }
}

/* Places of so many bytes on their way; INT_MAX if the ring is the bound. */
static inline int at_once(int most, int places, int bytes)
{
    const int n = max(most / bytes, 2);

    return n < places ? n : INT_MAX;
}

/* For whole units of so many bytes and parts, not more than there are nor than `most` bytes and the
 * room allow. */
static inline struct ring ring_of(int unit_bytes, int parts, int units, int most, int room)
{
    const int fit = min(min(room, most) / unit_bytes, PLACES_MAX / parts);
    const int places = min(fit, units) * parts, bytes = unit_bytes / parts;

    return { places, bytes, at_once(BYTES_EARLY, places, bytes),
             at_once(BYTES_AHEAD, places, bytes) };
}

#endif
