/* safetensors.c - the header of a safetensors file, by every rule of its reference reader.
 *
 *   u64 N, little endian | N bytes of JSON | the buffer
 *   JSON: { name: { "dtype": "F32", "shape": [..], "data_offsets": [begin, end] }, .. }
 *
 * Sorted by offset, the tensors must tile the buffer exactly: the first begins at 0, each
 * begins where the one before ends, the last ends with the file. Beyond the reference,
 * a dtype that no model here can use and more than TENSOR_MAX_RANK dimensions are refused.
 * Source: the README, section "Format", and safetensors/src/tensor.rs. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "config/limits.h"
#include "weights/json_pull.h"
#include "weights/weights_internal.h"

enum { LENGTH_BYTES = 8, TENSOR_VALUES = 18, METADATA_VALUES = 65536 };

struct place {
    uint64_t begin, end; /* from the start of the buffer */
};

static bool read_length(const struct source *s, uint64_t *length, struct error *err)
{
    unsigned char bytes[LENGTH_BYTES];
    uint64_t n = 0;

    if (s->size < LENGTH_BYTES)
        return error_set(err, ERR_FORMAT,
                         "%.200s: invalid header: expected at least 8 bytes, found %llu", s->path,
                         (unsigned long long)s->size);
    if (!source_read(s, bytes, sizeof(bytes), 0, err))
        return false;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        n = n << 8 | bytes[i];
    if (n > LIMIT_SAFETENSORS_HEADER_BYTES)
        return error_set(err, ERR_FORMAT,
                         "%.200s: invalid header: expected at most %d bytes, found %llu", s->path,
                         LIMIT_SAFETENSORS_HEADER_BYTES, (unsigned long long)n);
    if (n > s->size - LENGTH_BYTES)
        return error_set(err, ERR_FORMAT, "%.200s: invalid header: expected %llu bytes, found %llu",
                         s->path, (unsigned long long)n,
                         (unsigned long long)(s->size - LENGTH_BYTES));
    *length = n;
    return true;
}

static bool refuse(const char *path, const struct tensor *t, struct error *err, const char *fmt,
                   ...) __attribute__((format(printf, 4, 5)));

static bool refuse(const char *path, const struct tensor *t, struct error *err, const char *fmt,
                   ...)
{
    char why[160];
    va_list args;

    va_start(args, fmt);
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    return error_set(err, ERR_FORMAT, "%.200s: tensor %.100s: %s", path, t->name, why);
}

static bool parse_dtype(struct json_pull *p, struct tensor *t, const char *path, struct error *err)
{
    const char *name = json_pull_string(p);

    if (!name)
        return refuse(path, t, err, "expected a string as dtype, found another value");
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(name, dtype_name((enum dtype)i)) == 0) {
            t->dtype = (enum dtype)i;
            return true;
        }
    }
    return refuse(path, t, err, "dtype %.20s is not supported; F32, F16, BF16 and I64 are", name);
}

static bool parse_shape(struct json_pull *p, struct tensor *t, const char *path, struct error *err)
{
    bool first = true;
    uint64_t dim;

    if (!json_pull_mark(p, '['))
        return refuse(path, t, err, "expected a list as shape, found another value");
    while (json_pull_next(p, ']', &first)) {
        if (t->rank == TENSOR_MAX_RANK)
            return refuse(path, t, err, "expected at most %d dimensions, found more",
                          TENSOR_MAX_RANK);
        if (!json_pull_u64(p, &dim) || dim > INT64_MAX)
            return refuse(path, t, err,
                          "shape overflow: expected whole numbers from 0 to 2^63-1, found another "
                          "value");
        t->shape[t->rank++] = (int64_t)dim;
    }
    return true;
}

static bool parse_place(struct json_pull *p, struct place *at, const struct tensor *t,
                        const char *path, struct error *err)
{
    if (!json_pull_mark(p, '[') || !json_pull_u64(p, &at->begin) || !json_pull_mark(p, ',') ||
        !json_pull_u64(p, &at->end) || !json_pull_mark(p, ']'))
        return refuse(path, t, err,
                      "invalid offset: expected two whole numbers, found another value");
    return true;
}

static bool prove_size(struct tensor *t, const struct place *at, const char *path,
                       struct error *err)
{
    if (at->end < at->begin)
        return refuse(path, t, err, "invalid offset: expected an end from %llu on, found %llu",
                      (unsigned long long)at->begin, (unsigned long long)at->end);
    if (!tensor_bytes(t, &t->bytes))
        return refuse(path, t, err, "shape overflow: expected less than 2^64 bytes, found more");
    if (t->bytes != at->end - at->begin)
        return refuse(path, t, err,
                      "invalid offset: expected %zu bytes for its dtype and shape, found %llu",
                      t->bytes, (unsigned long long)(at->end - at->begin));
    return true;
}

/* One tensor's object. e->offset is from the start of the buffer until prove_places(). */
static bool parse_tensor(struct json_pull *p, struct entry *e, const char *path, struct error *err)
{
    struct tensor *t = &e->tensor;
    struct place at = { 0, 0 };
    bool first = true, dtype = false, shape = false, place = false, ok = true;

    if (!json_pull_mark(p, '{'))
        return refuse(path, t, err, "expected an object, found another value");
    while (ok && json_pull_next(p, '}', &first)) {
        const char *key = json_pull_key(p);

        if (strcmp(key, "dtype") == 0)
            ok = dtype = parse_dtype(p, t, path, err);
        else if (strcmp(key, "shape") == 0)
            ok = shape = parse_shape(p, t, path, err);
        else if (strcmp(key, "data_offsets") == 0)
            ok = place = parse_place(p, &at, t, path, err);
        else
            json_pull_skip(p);
    }
    if (!ok)
        return false;
    if (!dtype || !shape || !place)
        return refuse(path, t, err, "expected dtype, shape and data_offsets, found no %s",
                      !dtype   ? "dtype"
                      : !shape ? "shape"
                               : "data_offsets");
    e->offset = at.begin;
    return prove_size(t, &at, path, err);
}

static bool parse_metadata(struct json_pull *p, const char *path, struct error *err)
{
    bool first = true, ok = json_pull_mark(p, '{');

    while (ok && json_pull_next(p, '}', &first)) {
        json_pull_key(p);
        ok = json_pull_string(p) != NULL;
    }
    return ok ||
           error_set(err, ERR_FORMAT,
                     "%.200s: __metadata__: expected an object of strings, found another value",
                     path);
}

static bool parse_header(struct weights *w, struct json_pull *p, const char *path,
                         struct error *err)
{
    bool first = true;

    if (p->at == p->end || *p->at != '{')
        return error_set(err, ERR_FORMAT,
                         "%.200s: invalid header: expected '{' as its first byte, found another",
                         path);
    p->at++;
    while (json_pull_next(p, '}', &first)) {
        const char *name = json_pull_key(p);
        struct entry *e;

        if (strcmp(name, "__metadata__") == 0) {
            if (!parse_metadata(p, path, err))
                return false;
            continue;
        }
        e = weights_add_entry(w, err);
        if (!e)
            return false;
        e->tensor.name = name;
        if (!parse_tensor(p, e, path, err))
            return false;
    }
    return true;
}

/* By (begin, end): empty tensors come before the one that begins at the same byte. */
static int compare_places(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;

    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return (a->tensor.bytes > b->tensor.bytes) - (a->tensor.bytes < b->tensor.bytes);
}

/* The entries from `first` on are those of the source s, whose buffer begins at `base`. */
static bool prove_places(struct weights *w, size_t first, uint64_t base, const struct source *s,
                         struct error *err)
{
    uint64_t at = 0;

    if (w->count > first)
        qsort(w->entries + first, w->count - first, sizeof(*w->entries), compare_places);
    for (size_t i = first; i < w->count; i++) {
        struct entry *e = &w->entries[i];

        if (e->offset != at)
            return refuse(s->path, &e->tensor, err,
                          "invalid offset: expected %llu (no hole, no overlap), found %llu",
                          (unsigned long long)at, (unsigned long long)e->offset);
        at += e->tensor.bytes; /* e->offset + bytes was read as a 64-bit end: no overflow */
        e->offset += base;
    }
    if (at != s->size - base)
        return error_set(
            err, ERR_FORMAT,
            "%.200s: invalid offset: expected %llu bytes of tensors, found %llu in the "
            "file",
            s->path, (unsigned long long)at, (unsigned long long)(s->size - base));
    return true;
}

bool safetensors_add(struct weights *w, const char *path, struct error *err)
{
    static const struct json_bounds bounds = {
        .max_depth = 32,
        .max_values = TENSOR_VALUES * (size_t)LIMIT_TENSORS + METADATA_VALUES,
    };
    size_t before = w->count;
    struct json_pull p;
    struct source *s;
    uint64_t length = 0;

    if (!weights_add_source(w, path, err))
        return false;
    s = &w->sources[w->source_count - 1];
    if (!read_length(s, &length, err))
        return false;
    s->text = malloc(length + 1);
    if (!s->text)
        return error_set(err, ERR_NOMEM, "%.200s: out of memory", path);
    return source_read(s, s->text, length, LENGTH_BYTES, err) &&
           json_pull_init(&p, s->text, length, &bounds, path, "header", err) &&
           parse_header(w, &p, path, err) && prove_places(w, before, LENGTH_BYTES + length, s, err);
}

bool safetensors_load(struct weights *w, const char *path, struct error *err)
{
    return safetensors_add(w, path, err) && weights_sort(w, err);
}
