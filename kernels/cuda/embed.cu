/* embed.cu - token embeddings. Nothing is rounded: a narrow element widens exactly. */
#include "kernels/cuda/linear.cuh"

enum { THREADS = 256 };

/* One block a row of x. */
template <typename E>
static __global__ void __launch_bounds__(THREADS)
    embed_kernel(float *x, const E *table, int ld, int cols, const int32_t *token)
{
    let_next_start();
    wait_for_inputs();

    const E *row = table + (size_t)token[blockIdx.x] * ld;

    x += (size_t)blockIdx.x * cols;
    for (int j = threadIdx.x; j < cols; j += THREADS)
        x[j] = (float)row[j];
}

void embed_cuda(struct stream *q, const struct batch *in, float *x, const struct matrix *table)
{
    const int cols = table->cols, ld = matrix_ld(table->dtype, cols);
    const int32_t *token = q->in.token;

    if (table->dtype == DTYPE_F32)
        launch(q, "embed", embed_kernel<float>, in->T, THREADS, 0, x, (const float *)table->data,
               ld, cols, token);
    else if (table->dtype == DTYPE_BF16)
        launch(q, "embed", embed_kernel<__nv_bfloat16>, in->T, THREADS, 0, x,
               (const __nv_bfloat16 *)table->data, ld, cols, token);
    else
        launch(q, "embed", embed_kernel<__half>, in->T, THREADS, 0, x, (const __half *)table->data,
               ld, cols, token);
}
