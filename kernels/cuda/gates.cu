/* gates.cu - what drives a matrix state: the step sizes and decays of Mamba-2, a thread each,
 * and the decay, removal and replacement vectors of RWKV-7, a warp for each head. Heads of 64,
 * which every published model has, stay in registers, two numbers a lane. */
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/state.cuh"

enum { THREADS = 256, HEADS_A_BLOCK = 4, PAIR = 2 };

static __global__ void step_sizes(struct decay_gates p)
{
    const int i = blockIdx.x * THREADS + threadIdx.x, t = i / p.H, h = i % p.H;

    let_next_start();
    if (i >= p.T * p.H)
        return;

    const float bias = p.bias[h], A = p.A[h];

    wait_for_inputs();

    const struct step s = step_of(p, p.raw[(size_t)t * p.raw_ld + h], bias, A);

    p.dt[i] = s.dt;
    p.decay[i] = s.decay;
}

void decay_gates_cuda(struct stream *q, const struct decay_gates *p)
{
    if (p->T)
        launch(q, "decay_gates", step_sizes, (p->T * p->H + THREADS - 1) / THREADS, THREADS, 0, *p);
}

/* Head blockIdx.y of row blockIdx.x, and the next HEADS_A_BLOCK - 1; K is a PAIR a lane. */
static __global__ void __launch_bounds__(HEADS_A_BLOCK *WARP) delta_pairs(struct delta_gates p)
{
    const int head = blockIdx.y * HEADS_A_BLOCK + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int channel = head * PAIR * WARP + lane * PAIR;
    const size_t at = (size_t)blockIdx.x * p.H * PAIR * WARP + channel;

    let_next_start();
    if (head >= p.H)
        return;

    const floats<PAIR> k_k = load<PAIR>(p.k_k + channel), k_a = load<PAIR>(p.k_a + channel);

    wait_for_inputs();

    const floats<PAIR> a = load<PAIR>(p.a + at), w = load<PAIR>(p.w + at);
    floats<PAIR> k = load<PAIR>(p.k + at), kk, decay, b, a_out;
    float square = 0.0f;

    for (int j = 0; j < PAIR; j++) {
        kk.v[j] = k.v[j] * k_k.v[j];
        square += kk.v[j] * kk.v[j];
        decay.v[j] = decay_of(w.v[j]);
        k.v[j] = replacing(k.v[j], a.v[j], k_a.v[j]);
    }
    store<PAIR>(p.decay + at, decay);
    store<PAIR>(p.k + at, k);

    const float scale = inverse_length(square);

    for (int j = 0; j < PAIR; j++) {
        b.v[j] = -kk.v[j] * scale;
        a_out.v[j] = -b.v[j] * a.v[j];
    }
    store<PAIR>(p.b + at, b);
    store<PAIR>(p.a_out + at, a_out);
}

/* The same for any K and any alignment. */
static __global__ void __launch_bounds__(HEADS_A_BLOCK *WARP) delta_any(struct delta_gates p)
{
    const int head = blockIdx.y * HEADS_A_BLOCK + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int channel = head * p.K;
    const size_t at = (size_t)blockIdx.x * p.H * p.K + channel;
    float square = 0.0f;

    let_next_start();
    wait_for_inputs();
    if (head >= p.H)
        return;
    for (int j = lane; j < p.K; j += WARP) {
        const float kk = p.k[at + j] * p.k_k[channel + j];

        square += kk * kk;
    }

    const float scale = inverse_length(square);

    for (int j = lane; j < p.K; j += WARP) {
        const float k = p.k[at + j], a = p.a[at + j], unit = k * p.k_k[channel + j] * scale;

        p.decay[at + j] = decay_of(p.w[at + j]);
        p.a_out[at + j] = unit * a;
        p.b[at + j] = -unit;
        p.k[at + j] = replacing(k, a, p.k_a[channel + j]);
    }
}

void delta_gates_cuda(struct stream *q, const struct delta_gates *p)
{
    const uintptr_t off = off_grid(p->decay, 0) | off_grid(p->a_out, 0) | off_grid(p->b, 0) |
                          off_grid(p->k, 0) | off_grid(p->w, 0) | off_grid(p->a, 0) |
                          off_grid(p->k_k, 0) | off_grid(p->k_a, 0);
    const bool pairs = p->K == PAIR * WARP && off == 0;

    if (p->T)
        launch(q, "delta_gates", pairs ? delta_pairs : delta_any,
               dim3((unsigned)p->T, (unsigned)ceil_div(p->H, HEADS_A_BLOCK)), HEADS_A_BLOCK * WARP,
               0, *p);
}
