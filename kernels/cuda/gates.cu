/* gates.cu - what drives a matrix state: the step sizes and decays of Mamba-2, a thread each,
 * and the decay, removal and replacement vectors of RWKV-7, a warp for each head. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/reduce.cuh"

enum { THREADS = 256, HEADS_A_BLOCK = 4 };

static __global__ void step_sizes(struct decay_gates p)
{
    const int i = blockIdx.x * THREADS + threadIdx.x, t = i / p.H, h = i % p.H;

    let_next_start();
    wait_for_inputs();
    if (i >= p.T * p.H)
        return;

    const float dt = softplus(p.raw[(size_t)t * p.raw_ld + h] + p.bias[h]);
    const float held = dt < p.lo ? p.lo : dt > p.hi ? p.hi : dt;

    p.dt[i] = held;
    p.decay[i] = expf(held * p.A[h]);
}

void decay_gates_cuda(struct stream *q, const struct decay_gates *p)
{
    if (p->T)
        launch(q, "decay_gates", step_sizes, (p->T * p->H + THREADS - 1) / THREADS, THREADS, 0, *p);
}

static __global__ void delta_heads(struct delta_gates p)
{
    const int head = blockIdx.x * HEADS_A_BLOCK + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const size_t at = (size_t)head * p.K;
    const int channel = head % p.H * p.K;
    float square = 0.0f;

    let_next_start();
    wait_for_inputs();
    if (head >= p.T * p.H)
        return;
    for (int j = lane; j < p.K; j += WARP) {
        const float kk = p.k[at + j] * p.k_k[channel + j];

        square += kk * kk;
    }

    const float length = fmaxf(sqrtf(warp_sum(square)), 1e-12f);

    for (int j = lane; j < p.K; j += WARP) {
        const float k = p.k[at + j], a = p.a[at + j], unit = k * p.k_k[channel + j] / length;

        p.decay[at + j] = expf(-0.60653066f * sigmoid(p.w[at + j]));
        p.a_out[at + j] = unit * a;
        p.b[at + j] = -unit;
        p.k[at + j] = k * (1.0f + (a - 1.0f) * p.k_a[channel + j]);
    }
}

void delta_gates_cuda(struct stream *q, const struct delta_gates *p)
{
    if (p->T)
        launch(q, "delta_gates", delta_heads, (p->T * p->H + HEADS_A_BLOCK - 1) / HEADS_A_BLOCK,
               HEADS_A_BLOCK * WARP, 0, *p);
}
