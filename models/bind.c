#include "models/bind.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/hyper.h"
#include "weights/weights.h"

enum { NAME_BYTES = 192, SHAPE_BYTES = 160 };

static bool per_layer(const struct weight_row *row)
{
    return strstr(row->names, "%d") != NULL;
}

static bool row_applies(const struct weight_row *row, const struct hyper *h, int layer)
{
    if (row->when && !h->dim[row->when])
        return false;
    return !((row->flags & FIRST_LAYER) && layer > 0) && !((row->flags & LATER_LAYERS) && !layer);
}

/* Writes out the first of the names, without its "^T", whose presence it returns; *names moves
 * on to the next one. */
static bool expand(char *out, const char *prefix, const char **names, int layer)
{
    const char *name = *names;
    size_t len = strcspn(name, "|");
    bool transposed = len > 2 && memcmp(name + len - 2, "^T", 2) == 0;
    const char *d = strstr(name, "%d"), *end = name + len - (transposed ? 2 : 0);

    if (d && d < end)
        snprintf(out, NAME_BYTES, "%s%.*s%d%.*s", prefix, (int)(d - name), name, layer,
                 (int)(end - d - 2), d + 2);
    else
        snprintf(out, NAME_BYTES, "%s%.*s", prefix, (int)(end - name), name);
    *names = name + len + (name[len] == '|');
    return transposed;
}

const struct tensor *bind_find(const struct model_arch *arch, const struct weights *w,
                               const char *names, int layer, bool *transposed)
{
    char full[NAME_BYTES];

    while (*names) {
        const char *next = names;

        for (int i = 0; i < PREFIXES_MAX && arch->prefix[i]; i++) {
            next = names;
            *transposed = expand(full, arch->prefix[i], &next, layer);
            const struct tensor *t = weights_find(w, full);

            if (t)
                return t;
        }
        names = next;
    }
    return NULL;
}

static int row_rank(const struct weight_row *row)
{
    int rank = 0;

    while (rank < WEIGHT_RANK && row->shape[rank])
        rank++;
    return rank;
}

void bind_infer(const struct model_arch *arch, const struct weights *w, struct hyper *h)
{
    int layers = 0;

    for (const struct weight_row *row = arch->weights; row->names; row++) {
        int rank = row_rank(row);
        bool transposed = false;

        for (int l = 0; l == 0 || per_layer(row); l++) {
            const struct tensor *t = bind_find(arch, w, row->names, l, &transposed);

            if (!t && l > 0)
                break;
            if (t && per_layer(row) && l >= layers)
                layers = l + 1;
            for (int i = 0; t && t->rank == rank && i < rank; i++) {
                int64_t n = t->shape[transposed ? rank - 1 - i : i];

                if (!h->dim[row->shape[i]] && n > 0 && n <= HYPER_DIM_MAX)
                    h->dim[row->shape[i]] = (int)n;
            }
        }
    }
    if (!h->dim[LAYERS])
        h->dim[LAYERS] = layers;
}

static void print_shape(char *out, const int64_t *shape, int rank)
{
    int len = snprintf(out, SHAPE_BYTES, "[");

    for (int i = 0; i < rank && len < SHAPE_BYTES; i++)
        len += snprintf(out + len, (size_t)(SHAPE_BYTES - len), i ? ", %lld" : "%lld",
                        (long long)shape[i]);
    if (len < SHAPE_BYTES)
        snprintf(out + len, (size_t)(SHAPE_BYTES - len), "]");
}

static int drop_ones(int64_t *out, const int64_t *shape, int rank)
{
    int n = 0;

    for (int i = 0; i < rank; i++)
        if (shape[i] != 1)
            out[n++] = shape[i];
    return n;
}

/* The shape the checkpoint should show: [out, in], or as a "^T" name stores it. */
static int expected_shape(int64_t *out, const struct weight_row *row, const struct hyper *h,
                          bool transposed)
{
    int rank = row_rank(row);

    for (int i = 0; i < rank; i++)
        out[i] = h->dim[row->shape[transposed ? rank - 1 - i : i]];
    return rank;
}

static bool prove_tensor(const struct binding *b, const struct weight_row *row,
                         const struct hyper *h, const char *path, struct error *err)
{
    const struct tensor *t = b->tensor;
    int64_t want[WEIGHT_RANK], found[TENSOR_MAX_RANK], bare[WEIGHT_RANK];
    int rank = expected_shape(want, row, h, b->transposed);
    int n = drop_ones(found, t->shape, t->rank), m = drop_ones(bare, want, rank);
    char expected[SHAPE_BYTES], actual[SHAPE_BYTES];

    if (rank && (n != m || memcmp(found, bare, (size_t)n * sizeof(*found)) != 0)) {
        print_shape(expected, want, rank);
        print_shape(actual, t->shape, t->rank);
        return error_set(err, ERR_FORMAT, "%s: tensor %s is misshaped: expected %s, found %s", path,
                         t->name, expected, actual);
    }
    if (row->kind != IGNORED && t->dtype == DTYPE_I64)
        return error_set(err, ERR_FORMAT,
                         "%s: tensor %s has a wrong type: expected F32, F16 or BF16, found %s",
                         path, t->name, dtype_name(t->dtype));
    return true;
}

static bool refuse_missing(const struct model_arch *arch, const struct weight_row *row, int layer,
                           const struct hyper *h, const char *path, struct error *err)
{
    char name[NAME_BYTES], also[NAME_BYTES] = "", shape[SHAPE_BYTES];
    const char *names = row->names;
    int64_t want[WEIGHT_RANK];

    expand(name, "", &names, layer);
    if (*names)
        expand(also, " or ", &names, layer);
    print_shape(shape, want, expected_shape(want, row, h, false));
    return error_set(err, ERR_FORMAT, "%s: tensor %s%s is missing: %s expects it with shape %s",
                     path, name, also, arch->name, shape);
}

static bool refuse_surplus(const struct bindings *b, const char *path, struct error *err)
{
    const struct weights *w = b->weights;

    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        size_t j = 0;

        while (j < b->count && b->list[j].tensor != t)
            j++;
        if (j == b->count)
            return error_set(err, ERR_FORMAT,
                             "%s: tensor %s is surplus: expected nothing of that name in %s", path,
                             t->name, b->arch->name);
    }
    return true;
}

static uint64_t elements(const struct tensor *t)
{
    return t->bytes / dtype_size(t->dtype);
}

bool bind_resolve(struct bindings *b, const struct model_arch *arch, const struct hyper *h,
                  const struct weights *w, const char *path, struct error *err)
{
    uint64_t largest = 0;

    *b = (struct bindings){ .arch = arch, .hyper = h, .weights = w, .one_dtype = true };
    b->list = calloc(weights_count(w) + 1, sizeof(*b->list));
    if (!b->list)
        return error_set(err, ERR_NOMEM, "%s: out of memory", path);

    for (int r = 0; arch->weights[r].names; r++) {
        const struct weight_row *row = &arch->weights[r];

        for (int l = 0; l < (per_layer(row) ? h->dim[LAYERS] : 1); l++) {
            struct binding one = { .row = r, .layer = l };

            if (!row_applies(row, h, l))
                continue;
            one.tensor = bind_find(arch, w, row->names, l, &one.transposed);
            if (!one.tensor && row->kind == IGNORED)
                continue;
            if (!one.tensor)
                return refuse_missing(arch, row, l, h, path, err);
            if (!prove_tensor(&one, row, h, path, err))
                return false;
            assert(b->count < weights_count(w)); /* no two rows share a name */
            b->list[b->count++] = one;
            if (row->kind == IGNORED)
                continue;
            b->parameters += elements(one.tensor);
            b->one_dtype =
                b->one_dtype && (row->kind != MATRIX || !largest || one.tensor->dtype == b->dtype);
            if (row->kind == MATRIX && elements(one.tensor) > largest) {
                largest = elements(one.tensor);
                b->dtype = one.tensor->dtype;
            }
        }
    }
    return b->count == weights_count(w) || refuse_surplus(b, path, err);
}

void bind_finish(struct bindings *b)
{
    free(b->list);
    *b = (struct bindings){ 0 };
}

/* src is [rows, cols] and becomes [cols, rows]. NULL: no memory. */
static char *transpose(const char *src, int rows, int cols, size_t size)
{
    char *dst = malloc((size_t)rows * (size_t)cols * size);

    for (int i = 0; dst && i < rows; i++)
        for (int j = 0; j < cols; j++)
            memcpy(dst + ((size_t)j * (size_t)rows + (size_t)i) * size,
                   src + ((size_t)i * (size_t)cols + (size_t)j) * size, size);
    return dst;
}

static float *load_vector(const struct weight_row *row, const struct tensor *t, const void *raw,
                          struct backend *be)
{
    size_t n = elements(t);
    float *host = malloc(n * sizeof(*host));
    float *device = be->alloc(be, n * sizeof(*device));

    if (host && device) {
        dtype_to_f32(host, raw, t->dtype, n);
        for (size_t i = 0; i < n && (row->flags & NEGATE_EXP); i++)
            host[i] = -expf(host[i]);
        be->upload(be, device, host, n * sizeof(*host));
    } else {
        be->free(be, device);
        device = NULL;
    }
    free(host);
    return device;
}

static char *field_of(const struct bound *out, const struct model_arch *arch,
                      const struct weight_row *row, int layer)
{
    return (per_layer(row) ? out->layers + (size_t)layer * arch->layer_size : out->model) + row->at;
}

/* How many rows the first of two matrices has, or 0: there is one. */
static int cut_of(const struct weight_row *row, const struct hyper *h)
{
    return row->flags < CUT_AT(1) ? 0 : h->dim[row->flags / CUT_AT(1)];
}

static bool load_matrix(const struct binding *b, struct matrix *m, const void *raw, int rows,
                        int cols, struct backend *be, struct bound *out, struct error *err)
{
    if (!be->pack_matrix(be, m, b->tensor->dtype, rows, cols, raw, err))
        return false;
    out->bytes += m->bytes;
    return true;
}

static bool load_raw(const struct bindings *all, const struct binding *b, const void *raw,
                     const int64_t *shape, struct backend *be, struct bound *out, struct error *err)
{
    const struct weight_row *row = &all->arch->weights[b->row];
    char *field = field_of(out, all->arch, row, b->layer);

    if (row->kind == MATRIX) {
        struct matrix *m = (struct matrix *)field;
        const int rows = (int)shape[0], cols = (int)shape[1], cut = cut_of(row, all->hyper);
        const size_t row_bytes = (size_t)cols * dtype_size(b->tensor->dtype);

        if (!cut)
            return load_matrix(b, m, raw, rows, cols, be, out, err);
        return load_matrix(b, m, raw, cut, cols, be, out, err) &&
               load_matrix(b, m + 1, (const char *)raw + (size_t)cut * row_bytes, rows - cut, cols,
                           be, out, err);
    }
    float *v = load_vector(row, b->tensor, raw, be);

    if (!v)
        return error_set(err, ERR_NOMEM, "%s: out of memory", b->tensor->name);
    memcpy(field, &v, sizeof(v));
    out->bytes += elements(b->tensor) * sizeof(*v);
    return true;
}

/* Into the hash and onto the backend, in the orientation of the table. */
static bool load_one(const struct bindings *all, const struct binding *b, struct backend *be,
                     struct bound *out, XXH3_state_t *hash, struct error *err)
{
    const struct tensor *t = b->tensor;
    int64_t head[] = { b->row, b->layer, t->dtype, 1, 1 }, *shape = head + 3;
    char *raw = malloc(t->bytes);
    bool ok = raw || error_set(err, ERR_NOMEM, "%s: out of memory", t->name);

    expected_shape(shape, &all->arch->weights[b->row], all->hyper, false);
    ok = ok && weights_read(all->weights, t, raw, err);
    if (ok && b->transposed) {
        char *turned = transpose(raw, (int)shape[1], (int)shape[0], dtype_size(t->dtype));

        free(raw);
        raw = turned;
        ok = raw || error_set(err, ERR_NOMEM, "%s: out of memory", t->name);
    }
    if (ok) {
        XXH3_128bits_update(hash, head, sizeof(head));
        XXH3_128bits_update(hash, raw, t->bytes);
        ok = load_raw(all, b, raw, shape, be, out, err);
    }
    free(raw);
    return ok;
}

bool bind_load(const struct bindings *b, struct backend *be, struct bound *out, XXH3_state_t *hash,
               struct error *err)
{
    for (size_t i = 0; i < b->count; i++)
        if (b->arch->weights[b->list[i].row].kind != IGNORED &&
            !load_one(b, &b->list[i], be, out, hash, err))
            return false;
    return weights_unchanged(b->weights, err);
}

void bind_release(struct bound *out, const struct model_arch *arch, const struct hyper *h,
                  struct backend *be)
{
    for (const struct weight_row *row = arch->weights; row->names; row++) {
        for (int l = 0; l < (per_layer(row) ? h->dim[LAYERS] : 1); l++) {
            char *field = field_of(out, arch, row, l);
            float *v;

            if (row->kind == MATRIX) {
                be->free(be, ((struct matrix *)field)->data);
                if (cut_of(row, h))
                    be->free(be, ((struct matrix *)field)[1].data);
            } else if (row->kind == VECTOR) {
                memcpy(&v, field, sizeof(v));
                be->free(be, v);
            }
        }
    }
}
