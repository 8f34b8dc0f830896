/* norm_shift.cu - a layer norm and the token shift of its rows as one kernel for decode, so that
 * the normed rows are never in memory (definition: cpu/fused.c). A thread owns four channels. A
 * row may be normed by several blocks, each of which mixes a part of it.
 *
 * Longer batches go through the parts: a block that takes a few rows and norms the one in front
 * of them again is 4 % slower in a prefill of 512 tokens and no faster in one of 4,096. */
#include "kernels/cuda/moments.cuh"
#include "kernels/cuda/token_shift.cuh"

enum { OWN = 4, MIXES = 6, PARTS_MAX = 8, THREADS_MAX = 1024 };

/* A thread's channels of the constants. */
struct own_weights {
    mixes<OWN, MIXES> mix;
    floats<OWN> weight, bias;
};

static __device__ __forceinline__ own_weights load_weights(const struct norm_shift &p, int c)
{
    own_weights w = { load_mixes<OWN, MIXES>(p.shift, c), { { 1, 1, 1, 1 } }, {} };

    if (p.norm.weight)
        w.weight = load<OWN>(p.norm.weight + c);
    if (p.norm.bias)
        w.bias = load<OWN>(p.norm.bias + c);
    return w;
}

/* Of a row that lies in the registers of a block. */
template <int PARTS>
static __device__ __forceinline__ moments row_moments(const floats<OWN> (&v)[PARTS],
                                                      moments *shared)
{
    const float size = OWN * PARTS;
    moments m = {};

    for (int i = 0; i < PARTS; i++)
        m.mean += (v[i].v[0] + v[i].v[1]) + (v[i].v[2] + v[i].v[3]);
    m.mean /= size;
    for (int i = 0; i < PARTS; i++)
        for (int j = 0; j < OWN; j++)
            m.square += (v[i].v[j] - m.mean) * (v[i].v[j] - m.mean);
    return join_warps(join_lanes(m, size), size * WARP, shared);
}

/* The thread's channels of row t, normed by all of its block, which has part `part` of it. */
template <int PARTS>
static __device__ __forceinline__ floats<OWN> norm_row(const struct norm &p, const own_weights &w,
                                                       int t, int part, moments *shared)
{
    const float *row = p.x + (size_t)t * p.x_ld + threadIdx.x * OWN;
    floats<OWN> v[PARTS], own;

#pragma unroll
    for (int i = 0; i < PARTS; i++)
        v[i] = load<OWN>(row + i * (int)blockDim.x * OWN);
    own = v[0];
#pragma unroll
    for (int i = 1; i < PARTS; i++)
        if (i == part)
            own = v[i];

    const moments m = row_moments(v, shared);
    const float scale = 1.0f / sqrtf(m.square / (float)p.dim + p.eps);

    for (int j = 0; j < OWN; j++)
        own.v[j] = (own.v[j] - m.mean) * scale * w.weight.v[j] + w.bias.v[j];
    return own;
}

/* Part blockIdx.y of the rows of sequence blockIdx.x, which is read before the wait with its
 * state (cuda.cuh). */
template <int PARTS>
static __global__ void __launch_bounds__(THREADS_MAX / PARTS)
    shift_sequences(const struct norm_shift p, const struct device_batch in)
{
    __shared__ moments shared[2][WARPS_MAX];
    const int part = (int)blockIdx.y, c = (part * (int)blockDim.x + (int)threadIdx.x) * OWN;
    floats<OWN> before = {};

    let_next_start();

    const own_weights w = load_weights(p, c);
    const struct sequence q = load_sequence(in, p.shift.state, (int)blockIdx.x);

    if (q.state)
        before = load<OWN>(q.state + c);
    wait_for_inputs();
    for (int t = q.begin; t < q.end; t++) {
        const floats<OWN> x = norm_row<PARTS>(p.norm, w, t, part, shared[t % 2]);

        mix_row(p.shift, w.mix, x, before, (size_t)t * (size_t)p.shift.dim + (size_t)c);
        before = x;
    }
    if (q.state && q.end > q.begin)
        store<OWN>(q.state + c, before);
}

/* A row's vectors in whole warps of the blocks that share it. */
static bool divides(const struct norm_shift *p, int parts)
{
    return p->norm.dim % (OWN * WARP * parts) == 0;
}

static bool fits(const struct norm_shift *p)
{
    return p->norm.kind == NORM_LAYER && p->norm.groups == 1 && !p->norm.y_bf16 &&
           p->shift.n <= MIXES && p->norm.dim <= OWN * THREADS_MAX && divides(p, 1) &&
           (off_grid(p->norm.x, p->norm.x_ld) | off_grid(p->norm.weight, 0) |
            off_grid(p->norm.bias, 0) | shift_off_grid(&p->shift)) == 0;
}

void norm_shift_cuda(struct stream *q, const struct batch *in, const struct norm_shift *p)
{
    void (*const kernel[])(struct norm_shift, struct device_batch) = {
        shift_sequences<1>, shift_sequences<2>, shift_sequences<4>, shift_sequences<PARTS_MAX>
    };
    const int threads = p->norm.dim / OWN;
    int i = 0;

    if (in->T > in->S || !fits(p)) {
        norm_cuda(q, &p->norm);
        token_shift_cuda(q, in, &p->shift);
        return;
    }
    while (1 << i < PARTS_MAX && in->S << i < q->sms && divides(p, 2 << i))
        i++;
    launch(q, "norm_shift", kernel[i], dim3((unsigned)in->S, 1u << i), threads >> i, 0, *p, q->in);
}
