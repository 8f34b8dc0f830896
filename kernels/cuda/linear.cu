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

enum path { SKINNY, WIDE, LT };

/* What was fastest on an H100 over the shapes of the published models. For cuBLASLt a product
 * is one launch, an activation another: it wins with one plain product where there are rows of
 * x enough, or so few rows of the matrix that the wide path has to split k often. It is not for
 * very few rows: they are taken a few at a time instead. */
static enum path path_of(const struct stream *q, const struct linear *p, int n)
{
    const int skinny = linear_skinny_rows(p);

    if (p->T <= skinny)
        return SKINNY;
    if (!linear_wide_can(q, p))
        return p->T <= 2 * SKINNY_ROWS && skinny ? SKINNY : LT;
    if (n > 1 || p->T <= 16)
        return WIDE;
    if (p->act != ACT_NONE)
        return p->T <= 128 ? WIDE : LT;
    return p->T <= 64 && p->w->rows >= 8192 ? WIDE : LT;
}

/* How many products from p[0] on may share a launch. */
static int group_of(const struct stream *q, const struct linear *p, int n)
{
    const enum path path = path_of(q, p, n);
    int k = 1;

    while (k < n && k < GROUP_MAX && p[k].T == p->T && p[k].w->dtype == p->w->dtype &&
           path_of(q, p + k, n) == path)
        k++;
    return k;
}

/* Products of more rows than fit are taken in slices. */
static void skinny(struct stream *q, const struct linear *p, int n)
{
    struct linear part[GROUP_MAX];
    int rows = SKINNY_ROWS;

    for (int i = 0; i < n; i++)
        rows = min(rows, linear_skinny_rows(&p[i]));
    for (int t = 0; t < p->T; t += rows) {
        for (int i = 0; i < n; i++) {
            part[i] = p[i];
            part[i].x += (size_t)t * p[i].x_ld;
            part[i].y += (size_t)t * p[i].y_ld;
            part[i].T = min(rows, p->T - t);
        }
        linear_skinny(q, part, n);
    }
}

void linear_cuda(struct stream *q, const struct linear *p, int n)
{
    for (int i = 0, k; i < n; i += k) {
        const enum path path = path_of(q, p + i, n);

        k = group_of(q, p + i, n - i);
        if (path == SKINNY)
            skinny(q, p + i, k);
        else if (path == WIDE)
            linear_wide(q, p + i, k);
        else
            for (int j = 0; j < k; j++)
                linear_lt(q, p + i + j);
    }
}
