/* head_output.cu - RWKV-7's way out of the state, a warp for each head. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/reduce.cuh"

enum { HEADS_A_BLOCK = 4 };

static __global__ void output_heads(struct head_output p)
{
    const int head = blockIdx.x * HEADS_A_BLOCK + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const size_t at = (size_t)head * p.V;
    const int channel = head % p.H * p.V;
    float sum = 0.0f, bonus = 0.0f, square = 0.0f;

    let_next_start();
    wait_for_inputs();
    if (head >= p.T * p.H)
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

        p.y[at + i] = (normed + bonus * p.v[at + i]) * p.g[at + i];
    }
}

void head_output_cuda(struct stream *q, const struct head_output *p)
{
    if (p->T)
        launch(q, "head_output", output_heads, (p->T * p->H + HEADS_A_BLOCK - 1) / HEADS_A_BLOCK,
               HEADS_A_BLOCK * WARP, 0, *p);
}
