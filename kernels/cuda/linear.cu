/* linear.cu - which path a product takes, and how a weight lies on the device. */
#include "kernels/cuda/linear.cuh"

bool pack_matrix_cuda(struct backend *be, struct matrix *m, enum dtype dtype, int rows, int cols,
                      const void *src, struct error *err)
{
    const size_t ld = (size_t)matrix_ld(dtype, cols), size = dtype_size(dtype);
    const size_t bytes = (size_t)rows * ld * size, width = (size_t)cols * size;
    struct stream *q = be->stream;
    void *data = be->alloc(be, bytes);

    if (!data)
        return error_set(err, ERR_NOMEM, "no room on the device for %zu bytes of weights", bytes);
    if (ld == (size_t)cols) {
        be->upload(be, data, src, bytes);
    } else {
        stream_note(q,
                    cudaMemcpy2DAsync(data, ld * size, src, width, width, (size_t)rows,
                                      cudaMemcpyHostToDevice, q->cuda),
                    "pack_matrix");
        stream_note(q, cudaStreamSynchronize(q->cuda), "pack_matrix");
    }
    *m =
        (struct matrix){ .rows = rows, .cols = cols, .dtype = dtype, .data = data, .bytes = bytes };
    return true;
}

/* How many products from p[0] on may share a launch. */
static int group_of(const struct linear *p, int n)
{
    int k = 1;

    while (k < n && k < GROUP_MAX && p[k].T == p->T && p[k].w->dtype == p->w->dtype)
        k++;
    return k;
}

void linear_cuda(struct stream *q, const struct linear *p, int n)
{
    for (int i = 0; i < n;) {
        if (p[i].T > SKINNY_ROWS) {
            linear_lt(q, &p[i++]);
            continue;
        }

        const int k = group_of(p + i, n - i);

        linear_skinny(q, p + i, k);
        i += k;
    }
}
