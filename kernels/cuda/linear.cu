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

enum path { SINGLE, FEW, SKINNY, WIDE, PAIRS, LT };

enum {
    SMALL_BATCH = 32,
    BRANCH_ROWS = 256,
    PAIRED_ROWS = 1024,
    PIECED_ROWS = 256,
    PIECE_COLUMNS = 128, /* at least */
    MOST = 3             /* times the others */
};

static const size_t LITTLE = (size_t)4 << 30; /* bytes of weights times rows */

/* How many products from p[0] on may share a launch. */
static int group_of(const struct linear *p, int n)
{
    int k = 1;

    while (k < n && k < GROUP_MAX && p[k].T == p->T && p[k].w->dtype == p->w->dtype &&
           !p[k].x_bf16 == !p->x_bf16)
        k++;
    return k;
}

/* What is compiled for sm_90a runs there and nowhere else. */
bool warpgroups_can(const struct stream *q, const struct linear *p)
{
    int major = 0;

    return p->w->dtype != DTYPE_F32 &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, q->device) ==
               cudaSuccess &&
           major == 9;
}

/* Whether the path of pairs is for them: several, or an activation, which cuBLASLt does not know.
 * Of more than PAIRED_ROWS rows it is 4 % slower for RWKV-7 7.2B; of few rows the wide path is
 * faster for what is too large to be on the device at once. */
static bool is_paired(const struct stream *q, const struct linear *p, int n)
{
    const bool fits = linear_pairs_fit(q, p, n), act = p->act != ACT_NONE;
    const int fewer = fits ? (int)SKINNY_ROWS_BF16 : act ? (int)SMALL_BATCH : (int)WIDE_ROWS;

    return (n > 2 || act) && p->T > fewer && p->T <= PAIRED_ROWS;
}

/* The path of a group. What was fastest in whole steps of the published models on an H200. One row
 * of bf16 has a path of its own, and so have a few on a grid. Others of bf16 need no rounding, so
 * that the wide path comes first. cuBLASLt takes one product a launch, so several go to the path of
 * pairs or the wide path, and with few rows of x each, or few of weights. cuBLASLt is not for very
 * few rows: they are taken a few at a time instead. */
static enum path path_of(const struct stream *q, const struct linear *p, int n)
{
    int skinny = SKINNY_ROWS_BF16;
    bool single = true, few = true;

    for (int i = 0; i < n; i++) {
        skinny = min(skinny, linear_skinny_rows(&p[i]));
        single = single && linear_single_can(q, &p[i]);
        few = few && linear_few_can(q, &p[i]);
    }
    if (single || few)
        return single ? SINGLE : FEW;

    const bool warpgroups = warpgroups_can(q, p), wide = warpgroups && p->T <= WIDE_ROWS;
    const bool wide_first = wide && p->x_bf16 && p->T > 1;

    if (p->T <= skinny && !wide_first)
        return SKINNY;
    if (warpgroups && is_paired(q, p, n))
        return PAIRS;
    if (!wide)
        return p->T <= 2 * SKINNY_ROWS && skinny ? SKINNY : LT;
    return n > 2 || p->T <= SMALL_BATCH || linear_is_slim(q, p, n) ? WIDE : LT;
}

/* Products of more rows than fit are taken in slices. */
static void skinny(struct stream *q, const struct linear *p, int n)
{
    struct linear part[GROUP_MAX];
    int rows = p->T;

    for (int i = 0; i < n; i++)
        rows = min(rows, linear_skinny_rows(&p[i]));
    for (int t = 0; t < p->T; t += rows) {
        for (int i = 0; i < n; i++)
            part[i] = slice_of(&p[i], t, min(rows, p->T - t));
        linear_skinny(q, part, n);
    }
}

void linear_cuda(struct stream *q, const struct linear *p, int n)
{
    for (int i = 0, k; i < n; i += k) {
        k = group_of(p + i, n - i);

        const enum path path = path_of(q, p + i, k);

        if (path == SINGLE)
            linear_single(q, p + i, k);
        else if (path == FEW)
            linear_few(q, p + i, k);
        else if (path == SKINNY)
            skinny(q, p + i, k);
        else if (path == WIDE)
            linear_wide(q, p + i, k);
        else if (path == PAIRS)
            linear_pairs(q, p + i, k, 1);
        else
            for (int j = 0; j < k; j++)
                linear_lt(q, p + i + j);
    }
}

/* As many pieces as give every multiprocessor a block. Few rows are no faster in pieces. */
struct pieces linear_pieces(struct stream *q, const struct linear *p)
{
    const bool fits = warpgroups_can(q, p) && p->act == ACT_NONE && p->T > SKINNY_ROWS_BF16 &&
                      p->T <= PIECED_ROWS;
    const int most = min((int)PIECES_MAX, p->w->cols / PIECE_COLUMNS);
    const int n = fits ? linear_pairs_count(q, p, most) : 1;

    if (n > 1)
        return linear_pairs_pieces(q, p, n);
    linear_cuda(q, p, 1);
    return {};
}

static size_t bytes_of(const struct linear *p, int n)
{
    size_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += p[i].w->bytes;
    return bytes;
}

/* Whether two products of the same rows run beside each other by the path of pairs, whose blocks
 * take their turns on the multiprocessors: none waits for another's end. Of many rows, in decode
 * alone, they do where there is a multiprocessor for each block. */
static bool takes_turns(const struct stream *q, const struct linear *p, int now, int later)
{
    return now == 1 && later == 1 && group_of(p, 2) == 2 && warpgroups_can(q, p) && p->x_bf16 &&
           p->T > SKINNY_ROWS_BF16 &&
           (p->T <= BRANCH_ROWS || (q->replayed && linear_pairs_at_once(q, p, 2, 1)));
}

/* Whether the later products run beside what follows. Not with a few, whose kernels wait for the
 * memory alone, nor where many rows or several products are better off as one launch, nor where
 * they are over before a stream beside has begun. */
static bool splits(const struct stream *q, const struct linear *p, int now, int later)
{
    const int n = now + later;

    if (q->replayed && group_of(p, n) == n && path_of(q, p, n) == PAIRS)
        return false;
    if (q->replayed)
        return p->T > SKINNY_ROWS_BF16 && (p->T <= BRANCH_ROWS || takes_turns(q, p, now, later));
    return now + later == 2 && (size_t)p->T * p[now].w->bytes > LITTLE;
}

static void multiply(struct stream *q, const struct linear *p, int n, bool turns)
{
    if (turns)
        linear_pairs(q, p, n, 2);
    else
        linear_cuda(q, p, n);
}

/* Products that take turns, and those of few rows, which hold no multiprocessor for long, all begin
 * at once. Else the later ones begin first where they are most of it, or else when the others have
 * ended: what is waited for does not share the memory's rate. */
void linear_split_cuda(struct stream *q, const struct linear *p, int now, int later)
{
    const bool turns = takes_turns(q, p, now, later), at_once = turns || p->T <= SMALL_BATCH;
    const bool later_first = !at_once && bytes_of(p + now, later) > MOST * bytes_of(p, now);

    if (!splits(q, p, now, later)) {
        linear_cuda(q, p, now + later);
        return;
    }
    if (!at_once && !later_first)
        linear_cuda(q, p, now);
    branch_fork(q);
    if (at_once)
        multiply(q, p, now, turns);
    branch_begin(q);
    multiply(q, p + now, later, turns);
    branch_end(q);
    if (later_first)
        linear_cuda(q, p, now);
}
