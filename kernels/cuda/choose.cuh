/* choose.cuh - how one block turns a row of logits into a token: the device's part of sample.cu.
 *
 * The candidates are a list in ascending id. Probabilities are float32, as in the definition;
 * their masses are added as whole multiples of 2^-44, so that a sum is the same in any order
 * and a draw the same in any company. Only what the first filter may keep gets into the list. A
 * filter finds the worst candidate that belongs to it by cutting the range of keys into eight
 * parts again and again, and keeps the list down to it. What takes a choose_shared is called by
 * all threads of a block of CHOOSE_THREADS. */
#ifndef KERNELS_CUDA_CHOOSE_CUH
#define KERNELS_CUDA_CHOOSE_CUH

#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/reduce.cuh"

enum { CHOOSE_THREADS = 1024, WAYS = 8, EACH = 4 };

/* How a row gets its token: by measure.cuh its largest logit, one that is given, or a draw from all
 * of it; or by what follows here, from the row as it is or adjusted. */
enum way { WAY_LARGEST, WAY_GIVEN, WAY_DRAWN, WAY_FILTERED, WAY_ADJUSTED };

/* One row of struct sample_row as it travels: the lists lie in `words` from `first` on. */
struct asked {
    float temperature, top_p, min_p, typical_p;
    float repetition, presence, frequency;
    int top_k, top, forced;
    int seen, biases, banned, holds;
    unsigned first;
    enum way way;
    uint64_t seed, position;
};

struct candidate {
    float p;
    int id;
};

/* What is known of a row of raw logits. */
struct measured {
    double log_sum;
    float max;
    int best; /* the lowest id of the largest */
    bool finite;
};

struct choose_shared {
    uint64_t mass[2][WARPS_MAX];
    uint64_t ways[WAYS - 1][WARPS_MAX];
    float most[CHOOSE_THREADS];
    double real[WARPS_MAX];
    float value[WARPS_MAX];
    int id[WARPS_MAX];
    int found;
};

static __device__ __forceinline__ uint64_t mass_of(float p)
{
    return (uint64_t)(p * 0x1p44f);
}

/* What follows of the row in `words`: seen ids, their weights, biased ids, their biases, banned
 * ids, and these. */
static __device__ __forceinline__ const int32_t *holds_of(const struct asked &ask,
                                                          const int32_t *words)
{
    return words + ask.first + 2 * ask.seen + 2 * ask.biases + ask.banned;
}

/* Orders like the number: the largest is the best. */
static __device__ __forceinline__ uint64_t order_of(double x)
{
    const uint64_t bits = (uint64_t)__double_as_longlong(x);

    return bits >> 63 ? ~bits : bits | 0x8000000000000000u;
}

static __device__ __forceinline__ uint64_t order_of(float x)
{
    const unsigned bits = __float_as_uint(x);

    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* The larger value, the lower id among equals. */
static __device__ __forceinline__ void take_better(float *value, int *id, float other, int other_id)
{
    if (other > *value || (other == *value && other_id < *id)) {
        *value = other;
        *id = other_id;
    }
}

static __device__ __forceinline__ void warp_best(float *value, int *id)
{
    for (int distance = WARP / 2; distance; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, *value, distance);
        const int other_id = __shfl_xor_sync(0xffffffffu, *id, distance);

        take_better(value, id, other, other_id);
    }
}

/* In every thread. */
static __device__ void block_best(float *value, int *id, struct choose_shared *s)
{
    const int lane = threadIdx.x % WARP;

    warp_best(value, id);
    __syncthreads();
    if (lane == 0) {
        s->value[threadIdx.x / WARP] = *value;
        s->id[threadIdx.x / WARP] = *id;
    }
    __syncthreads();
    *value = s->value[lane];
    *id = s->id[lane];
    warp_best(value, id);
}

static __device__ uint64_t block_mass(uint64_t x, struct choose_shared *s)
{
    __syncthreads();
    return block_sum(x, s->mass[0]);
}

/* Each of them over the block. */
static __device__ void block_masses(uint64_t (&x)[WAYS - 1], struct choose_shared *s)
{
    const int lane = threadIdx.x % WARP;

    __syncthreads();
#pragma unroll
    for (int w = 0; w < WAYS - 1; w++) {
        x[w] = warp_sum(x[w]);
        if (lane == 0)
            s->ways[w][threadIdx.x / WARP] = x[w];
    }
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WAYS - 1; w++)
        x[w] = warp_sum(s->ways[w][lane]);
}

/* The sum of x over the lanes before this one; *total over all. */
static __device__ __forceinline__ uint64_t warp_before(uint64_t x, uint64_t *total)
{
    const int lane = threadIdx.x % WARP;
    uint64_t sum = x;

    for (int distance = 1; distance < WARP; distance *= 2) {
        const uint64_t other = __shfl_up_sync(0xffffffffu, sum, distance);

        sum += lane >= distance ? other : 0;
    }
    *total = __shfl_sync(0xffffffffu, sum, WARP - 1);
    return sum - x;
}

/* The same over the threads. */
static __device__ uint64_t block_before(uint64_t x, uint64_t *total, struct choose_shared *s)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint64_t sum, warps;
    const uint64_t before = warp_before(x, &sum);

    __syncthreads();
    if (lane == 0)
        s->mass[1][warp] = sum;
    __syncthreads();
    warps = warp_before(s->mass[1][lane], total);
    return before + __shfl_sync(0xffffffffu, warps, warp);
}

/* What a filter orders candidates by. */
struct by_probability {
    enum { BITS = 32 };
    __device__ uint64_t operator()(float p) const
    {
        return order_of(p);
    }
};

/* Locally typical sampling (arXiv 2202.00666): how near a surprise is to the entropy. */
struct by_typicality {
    enum { BITS = 64 };
    double sum, entropy;
    __device__ uint64_t operator()(float p) const
    {
        return order_of(-fabs(-log((double)p / sum) - entropy));
    }
};

/* What a filter counts: candidates, or their mass. */
struct counted {
    __device__ uint64_t operator()(float p) const
    {
        (void)p;
        return 1;
    }
};

struct weighed {
    __device__ uint64_t operator()(float p) const
    {
        return mass_of(p);
    }
};

/* Keeps what `keep` says of each, in order; returns how many. Safe in place: a tile is read
 * whole before any of it is written, and never lands behind where it came from. */
template <typename Source, typename Keep>
static __device__ int compact(struct candidate *to, int n, Source source, Keep keep,
                              struct choose_shared *s)
{
    int kept = 0;

    for (int tile = 0; tile < n; tile += EACH * CHOOSE_THREADS) {
        struct candidate c[EACH];
        bool stays[EACH];
        uint64_t mine = 0, total, at;

#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int from = tile + (int)threadIdx.x * EACH + i;

            stays[i] = false;
            if (from < n) {
                c[i] = source(from);
                stays[i] = keep(c[i]);
            }
            mine += stays[i];
        }
        at = block_before(mine, &total, s) + (uint64_t)kept;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (stays[i])
                to[at++] = c[i];
        kept += (int)total;
    }
    __syncthreads();
    return kept;
}

/* The id up to which candidates of the key `tied` are kept so that their sizes reach `limit`. */
template <typename Order, typename Size>
static __device__ int last_tie(const struct candidate *c, int n, uint64_t tied, uint64_t limit,
                               Order order, Size size, struct choose_shared *s)
{
    uint64_t before = 0, total;

    for (int tile = 0; tile < n; tile += CHOOSE_THREADS) {
        const int i = tile + (int)threadIdx.x;
        const bool is_tied = i < n && order(c[i].p) == tied;
        const uint64_t own = is_tied ? size(c[i].p) : 0;
        const uint64_t at = before + block_before(own, &total, s);

        if (is_tied && at < limit && at + own >= limit)
            s->found = c[i].id;
        before += total;
        __syncthreads();
        if (before >= limit)
            return s->found;
    }
    return INT32_MAX;
}

/* Keeps the smallest set of best candidates whose sizes add up to `limit`. */
template <typename Order, typename Size>
static __device__ int keep_best(struct candidate *c, int n, uint64_t limit, Order order, Size size,
                                struct choose_shared *s)
{
    uint64_t low = 0, above = 0; /* keys from low on reach the limit; above: sizes beyond range */

    limit = limit ? limit : 1;
    for (int shift = (Order::BITS + 2) / 3 * 3 - 3; shift >= 0; shift -= 3) {
        uint64_t sum[WAYS - 1] = {};

        for (int i = threadIdx.x; i < n; i += CHOOSE_THREADS) {
            const uint64_t key = order(c[i].p), own = size(c[i].p);
            const uint64_t part = key >= low ? (key - low) >> shift : 0;

#pragma unroll
            for (int w = 1; w < WAYS; w++)
                sum[w - 1] += part >= (uint64_t)w ? own : 0;
        }
        block_masses(sum, s);

        int way = 0;

#pragma unroll
        for (int w = 1; w < WAYS; w++)
            if (sum[w - 1] >= limit)
                way = w;
#pragma unroll
        for (int w = 1; w < WAYS; w++)
            if (w == way + 1)
                above = sum[w - 1];
        low += (uint64_t)way << shift;
    }

    const int last = last_tie(c, n, low, limit - above, order, size, s);

    return compact(
        c, n, [=](int i) { return c[i]; },
        [=](const struct candidate &x) {
            const uint64_t key = order(x.p);

            return key > low || (key == low && x.id <= last);
        },
        s);
}

static __device__ uint64_t total_mass(const struct candidate *c, int n, struct choose_shared *s)
{
    uint64_t sum = 0;

    for (int i = threadIdx.x; i < n; i += CHOOSE_THREADS)
        sum += mass_of(c[i].p);
    return block_mass(sum, s);
}

static __device__ uint64_t share_of(uint64_t mass, float share)
{
    return (uint64_t)ceil((double)share * (double)mass);
}

static __device__ int keep_typical(struct candidate *c, int n, float share, struct choose_shared *s)
{
    struct by_typicality order = {};
    double sum = 0.0, entropy = 0.0;

    for (int i = threadIdx.x; i < n; i += CHOOSE_THREADS)
        sum += (double)c[i].p;
    __syncthreads();
    sum = block_sum(sum, s->real);
    for (int i = threadIdx.x; i < n; i += CHOOSE_THREADS)
        entropy -= (double)c[i].p / sum * log((double)c[i].p / sum);
    __syncthreads();
    order.sum = sum;
    order.entropy = block_sum(entropy, s->real);
    return keep_best(c, n, share_of(total_mass(c, n, s), share), order, weighed(), s);
}

static __device__ int keep_min_p(struct candidate *c, int n, float min_p, struct choose_shared *s)
{
    float max = 0.0f;
    int id = 0;

    for (int i = threadIdx.x; i < n; i += CHOOSE_THREADS)
        max = fmaxf(max, c[i].p);
    block_best(&max, &id, s);

    const double least = (double)min_p * (double)max;

    return compact(
        c, n, [=](int i) { return c[i]; },
        [=](const struct candidate &x) { return (double)x.p >= least; }, s);
}

/* Philox 4x32-10: cpu/philox.h is the definition. */
static __device__ double uniform(uint64_t seed, uint64_t position)
{
    unsigned x[4] = { (unsigned)position, (unsigned)(position >> 32), 0, 0 };
    unsigned key0 = (unsigned)seed, key1 = (unsigned)(seed >> 32);

    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)x[0] * 0xD2511F53u, b = (uint64_t)x[2] * 0xCD9E8D57u;
        const unsigned y0 = (unsigned)(b >> 32) ^ x[1] ^ key0;
        const unsigned y2 = (unsigned)(a >> 32) ^ x[3] ^ key1;

        x[0] = y0;
        x[1] = (unsigned)b;
        x[2] = y2;
        x[3] = (unsigned)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return (double)(((uint64_t)x[1] << 32 | x[0]) >> 11) * 0x1p-53;
}

static __device__ __forceinline__ float probability(float z, float best, float temperature)
{
    return expf((z - best) / temperature);
}

/* Walks the cumulative sum up to where the draw falls. */
static __device__ int pick(const struct candidate *c, int n, double draw, struct choose_shared *s)
{
    const uint64_t target = (uint64_t)(draw * (double)total_mass(c, n, s));
    uint64_t before = 0, total;

    for (int tile = 0; tile < n; tile += CHOOSE_THREADS) {
        const int i = tile + (int)threadIdx.x;
        const uint64_t own = i < n ? mass_of(c[i].p) : 0;
        const uint64_t at = before + block_before(own, &total, s);

        if (at <= target && at + own > target)
            s->found = c[i].id;
        before += total;
        __syncthreads();
        if (before > target)
            return s->found;
    }
    return c[n - 1].id;
}

/* What at least k candidates reach, one each of k threads', and so the best k do. 0: there are too
 * few threads. */
static __device__ float bound_of_count(const float *z, int vocab, float best, float temperature,
                                       int k, struct choose_shared *s)
{
    const int me = (int)threadIdx.x;
    float most = 0.0f;

    if (k > CHOOSE_THREADS / 2)
        return 0.0f;
    for (int i = me; i < vocab; i += CHOOSE_THREADS)
        most = fmaxf(most, probability(z[i], best, temperature));
    __syncthreads();
    s->most[me] = most;
    __syncthreads();
    for (int size = 2; size <= CHOOSE_THREADS; size *= 2) /* bitonic, the largest first */
        for (int step = size / 2; step; step /= 2) {
            const int other = me ^ step;
            const float a = s->most[me], b = s->most[other];

            __syncthreads();
            if (other > me && (a < b) == ((me & size) == 0)) {
                s->most[me] = b;
                s->most[other] = a;
            }
            __syncthreads();
        }
    return s->most[k - 1];
}

static __device__ uint64_t mass_of_all(const float *z, int vocab, float best, float temperature,
                                       struct choose_shared *s)
{
    uint64_t sum = 0;

    for (int i = threadIdx.x; i < vocab; i += CHOOSE_THREADS)
        sum += mass_of(probability(z[i], best, temperature));
    return block_mass(sum, s);
}

/* Whether the first filter is top_p. */
static __device__ __forceinline__ bool begins_by_mass(const struct asked &ask)
{
    return ask.top_k <= 0 && ask.typical_p >= 1.0f && ask.top_p < 1.0f;
}

/* Candidates below it are not kept by the first filter: top_p's best reach their part of `mass`,
 * which all have, without them, as they have no more than the rest of it. */
static __device__ float bound_of(const struct asked &ask, const float *z, int vocab, float best,
                                 uint64_t mass, struct choose_shared *s)
{
    const double almost = 1.0 - 0x1p-10; /* for what was rounded */

    if (ask.top_k > 0)
        return ask.top_k < vocab ? bound_of_count(z, vocab, best, ask.temperature, ask.top_k, s)
                                 : 0.0f;
    if (ask.typical_p < 1.0f)
        return 0.0f;
    if (ask.top_p < 1.0f)
        return (float)((1.0 - (double)ask.top_p) * 0x1p-44 * (double)mass / vocab * almost);
    return ask.min_p * (float)almost; /* the best one's is 1 */
}

static __device__ int draw(const struct asked &ask, const float *z, int vocab, float best,
                           struct candidate *c, struct choose_shared *s)
{
    const float temperature = ask.temperature;
    const bool whole = begins_by_mass(ask);
    const uint64_t mass = whole ? mass_of_all(z, vocab, best, temperature, s) : 0;
    const float least = bound_of(ask, z, vocab, best, mass, s);
    int n = compact(
        c, vocab,
        [=](int i) {
            return (struct candidate){ probability(z[i], best, temperature), i };
        },
        [=](const struct candidate &x) { return x.p >= least && x.p > 0.0f; }, s);

    if (ask.top_k > 0 && ask.top_k < n)
        n = keep_best(c, n, (uint64_t)ask.top_k, by_probability(), counted(), s);
    if (ask.typical_p < 1.0f)
        n = keep_typical(c, n, ask.typical_p, s);
    if (ask.top_p < 1.0f)
        n = keep_best(c, n, share_of(whole ? mass : total_mass(c, n, s), ask.top_p),
                      by_probability(), weighed(), s);
    if (ask.min_p > 0.0f)
        n = keep_min_p(c, n, ask.min_p, s);
    return pick(c, n, uniform(ask.seed, ask.position), s);
}

/* z becomes the row with biases, penalties and bans, in this order. */
static __device__ void adjust(const struct asked &ask, const int32_t *words, const float *x,
                              int vocab, float *z)
{
    const int32_t *seen_id = words + ask.first, *bias_id = seen_id + 2 * ask.seen;
    const float *weight = (const float *)(seen_id + ask.seen);
    const float *bias = (const float *)(bias_id + ask.biases);
    const int32_t *banned = bias_id + 2 * ask.biases;

    __syncthreads(); /* of the row before, nobody reads z any more */
    for (int i = threadIdx.x; i < vocab; i += CHOOSE_THREADS)
        z[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < ask.biases; i += CHOOSE_THREADS)
        if (bias_id[i] < vocab)
            atomicAdd(&z[bias_id[i]], bias[i]);
    __syncthreads();
    for (int i = threadIdx.x; i < ask.seen; i += CHOOSE_THREADS) {
        if (seen_id[i] >= vocab)
            continue;

        float v = z[seen_id[i]];

        v = v > 0.0f ? v / ask.repetition : v * ask.repetition;
        if (weight[i] > 0.0f)
            v -= ask.presence + ask.frequency * weight[i];
        z[seen_id[i]] = v;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ask.banned; i += CHOOSE_THREADS)
        if (banned[i] < vocab)
            z[banned[i]] = -INFINITY;
    __syncthreads();
}

#endif
