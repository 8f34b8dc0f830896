/* head_output.cu - RWKV-7's way out of the state, a warp for each head. Heads of 64, which every
 * published model has, stay in registers, two numbers a lane. */
#include "kernels/cuda/matrix_state.cuh"
#include "kernels/cuda/reduce.cuh"

enum { HEADS_A_BLOCK = 4, PAIR = 2 };

/* Head blockIdx.y of row blockIdx.x, and the next HEADS_A_BLOCK - 1; V is a PAIR a lane. KNOWN: the
 * bonuses are, so that neither r nor k is read. */
template <bool KNOWN>
static __global__ void __launch_bounds__(HEADS_A_BLOCK *WARP)
    output_pairs(struct head_output p, const float *bonuses)
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

    const floats<PAIR> v = load<PAIR>(p.v + at), g = load<PAIR>(p.g + at);
    floats<PAIR> y = load<PAIR>(p.y + at);
    float bonus;

    if (KNOWN) {
        bonus = bonuses[(size_t)blockIdx.x * p.H + head];
    } else {
        const floats<PAIR> r = load<PAIR>(p.r + at), k = load<PAIR>(p.k + at);

        bonus = warp_sum(r.v[0] * k.v[0] * r_k.v[0] + r.v[1] * k.v[1] * r_k.v[1]);
    }

    const float mean = warp_sum(y.v[0] + y.v[1]) / (PAIR * WARP);
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

static dim3 grid_of(const struct head_output *p)
{
    return dim3((unsigned)p->T, (unsigned)ceil_div(p->H, HEADS_A_BLOCK));
}

void head_output_with(struct stream *q, const struct head_output *p, const float *bonus)
{
    launch(q, "head_output", output_pairs<true>, grid_of(p), HEADS_A_BLOCK * WARP, 0, *p, bonus);
}

void head_output_cuda(struct stream *q, const struct head_output *p)
{
    const uintptr_t off = off_grid(p->y, 0) | off_grid(p->y_bf16, 0) | off_grid(p->r, 0) |
                          off_grid(p->k, 0) | off_grid(p->v, 0) | off_grid(p->g, 0) |
                          off_grid(p->r_k, 0) | off_grid(p->weight, 0) | off_grid(p->bias, 0);
    const bool pairs = p->V == PAIR * WARP && off == 0;

    if (p->T && pairs)
        launch(q, "head_output", output_pairs<false>, grid_of(p), HEADS_A_BLOCK * WARP, 0, *p,
               (const float *)NULL);
    else if (p->T)
        launch(q, "head_output", output_any, grid_of(p), HEADS_A_BLOCK * WARP, 0, *p);
}
