/* head_output.cu - RWKV-7's way out of the state, a warp for each head. Heads of 64, which every
 * published model has, stay in registers, two numbers a lane. */
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/state.cuh"

enum { HEADS_A_BLOCK = 4, PAIR = 2 };

/* Head blockIdx.y of row blockIdx.x, and the next HEADS_A_BLOCK - 1; V is a PAIR a lane. */
static __global__ void __launch_bounds__(HEADS_A_BLOCK *WARP) output_pairs(struct head_output p)
{
    const int head = blockIdx.y * HEADS_A_BLOCK + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int channel = head * PAIR * WARP + lane * PAIR;
    const size_t at = (size_t)blockIdx.x * p.H * PAIR * WARP + channel;

    let_next_start();
    if (head >= p.H)
        return;

    const floats<PAIR> r_k = load<PAIR>(p.r_k + channel), weight = load<PAIR>(p.weight + channel);
    const floats<PAIR> bias = load<PAIR>(p.bias + channel);

    wait_for_inputs();

    const floats<PAIR> r = load<PAIR>(p.r + at), k = load<PAIR>(p.k + at), v = load<PAIR>(p.v + at);
    const floats<PAIR> g = load<PAIR>(p.g + at);
    floats<PAIR> y = load<PAIR>(p.y + at);
    float sum = y.v[0] + y.v[1];
    float bonus = r.v[0] * k.v[0] * r_k.v[0] + r.v[1] * k.v[1] * r_k.v[1];

    for (int distance = WARP / 2; distance; distance /= 2) { /* warp_sum() of both at once */
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        bonus += __shfl_xor_sync(0xffffffffu, bonus, distance);
    }

    const float mean = sum / (PAIR * WARP);
    const float even = y.v[0] - mean, odd = y.v[1] - mean;
    const float square = warp_sum(even * even + odd * odd);
    const float scale = 1.0f / sqrtf(square / (PAIR * WARP) + p.eps);

    for (int j = 0; j < PAIR; j++) {
        const float normed = (y.v[j] - mean) * scale * weight.v[j] + bias.v[j];

        y.v[j] = (normed + bonus * v.v[j]) * g.v[j];
    }
    store_numbers<PAIR>(p.y_bf16 ? nullptr : p.y, p.y_bf16, at, y);
}

/* The same for any V and any alignment. */
static __global__ void __launch_bounds__(HEADS_A_BLOCK *WARP) output_any(struct head_output p)
{
    const int head = blockIdx.y * HEADS_A_BLOCK + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int channel = head * p.V;
    const size_t at = (size_t)blockIdx.x * p.H * p.V + channel;
    float sum = 0.0f, bonus = 0.0f, square = 0.0f;

    let_next_start();
    wait_for_inputs();
    if (head >= p.H)
        return;
    for (int i = lane; i < p.V; i += WARP) {
        sum += p.y[at + i];
        bonus += p.r[at + i] * p.k[at + i] * p.r_k[channel + i];
    }

    const float mean = warp_sum(sum) / (float)p.V;

    bonus = warp_sum(bonus);
    for (int i = lane; i < p.V; i += WARP)
        square += (p.y[at + i] - mean) * (p.y[at + i] - mean);

    const float scale = 1.0f / sqrtf(warp_sum(square) / (float)p.V + p.eps);

    for (int i = lane; i < p.V; i += WARP) {
        const float normed =
            (p.y[at + i] - mean) * scale * p.weight[channel + i] + p.bias[channel + i];
        const floats<1> y = { { (normed + bonus * p.v[at + i]) * p.g[at + i] } };

        store_numbers<1>(p.y_bf16 ? nullptr : p.y, p.y_bf16, at + i, y);
    }
}

void head_output_cuda(struct stream *q, const struct head_output *p)
{
    const uintptr_t off = off_grid(p->y, 0) | off_grid(p->y_bf16, 0) | off_grid(p->r, 0) |
                          off_grid(p->k, 0) | off_grid(p->v, 0) | off_grid(p->g, 0) |
                          off_grid(p->r_k, 0) | off_grid(p->weight, 0) | off_grid(p->bias, 0);
    const bool pairs = p->V == PAIR * WARP && off == 0;

    if (p->T)
        launch(q, "head_output", pairs ? output_pairs : output_any,
               dim3((unsigned)p->T, (unsigned)ceil_div(p->H, HEADS_A_BLOCK)), HEADS_A_BLOCK * WARP,
               0, *p);
}
