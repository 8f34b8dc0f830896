/* format_numbers.c - the number formats of a record, and one file made of another.
 *
 * A record is all float32, as a server keeps it by default; or all bfloat16, which is a form to
 * carry and none to work in; or mixed, as a server keeps it whose large fields are bfloat16. The
 * first two have the layout of float32, and every number in the same order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/state/format_internal.h"

uint32_t format_numbers_of(const struct state_layout *layout)
{
    const size_t front = layout->bytes - layout->bf16_bytes;

    return layout->bf16_bytes ? NUMBERS_MIXED | (uint32_t)(front / NUMBERS_UNIT) << 8 : NUMBERS_F32;
}

const char *format_numbers_name(uint32_t numbers)
{
    return numbers == NUMBERS_F32 ? "F32" : numbers == NUMBERS_BF16 ? "BF16" : "F32 and BF16";
}

bool format_numbers_fit(const struct header *h)
{
    if ((h->numbers & 0xff) != NUMBERS_MIXED)
        return h->numbers <= NUMBERS_BF16 &&
               h->record_len % (h->numbers == NUMBERS_F32 ? sizeof(float) : sizeof(uint16_t)) == 0;
    return !h->record_len ||
           (format_f32_bytes(h) <= h->record_len && h->record_len % sizeof(uint16_t) == 0);
}

uint64_t format_f32_bytes(const struct header *h)
{
    if (h->numbers == NUMBERS_F32 || !h->record_len)
        return h->record_len;
    return (uint64_t)(h->numbers >> 8) * NUMBERS_UNIT;
}

struct state_layout format_other_layout(const struct state_layout *layout)
{
    struct state_layout other = *layout;

    state_layout_pack(&other, layout->bf16_bytes ? DTYPE_F32 : DTYPE_BF16);
    return other;
}

/* Pieces of two records: the same numbers. */
struct run {
    const unsigned char *from;
    unsigned char *to;
    enum dtype is, wanted;
};

static bool convert_run(const struct run *r, uint64_t numbers, struct problem *p)
{
    for (uint64_t i = 0; i < numbers; i++) {
        uint16_t half;
        float f;

        dtype_to_f32(&f, r->from + i * dtype_size(r->is), r->is, 1);
        if (r->wanted == DTYPE_F32) {
            memcpy(r->to + i * sizeof(f), &f, sizeof(f));
            continue;
        }
        half = f32_to_bf16(f);
        if (!isfinite(bf16_to_f32(half)))
            return problem_set(p, PROBLEM_SNAPSHOT_NOT_FINITE, NULL,
                               "number %llu of the snapshot's state is out of BF16's range",
                               (unsigned long long)i);
        memcpy(r->to + i * sizeof(half), &half, sizeof(half));
    }
    return true;
}

/* A record with the fields of layout a becomes one with those of layout b. */
static bool convert_fields(const struct state_layout *a, const struct state_layout *b,
                           const unsigned char *from, unsigned char *to, struct problem *p)
{
    for (int i = 0; i < a->fields; i++) {
        const struct state_field *x = &a->field[i], *y = &b->field[i];
        const uint64_t in_x = x->layer_bytes / dtype_size(x->dtype),
                       in_y = y->layer_bytes / dtype_size(y->dtype);

        for (size_t l = 0; l < (size_t)x->layers; l++) {
            const struct run r = { from + x->offset + l * x->layer_bytes,
                                   to + y->offset + l * y->layer_bytes, x->dtype, y->dtype };

            if (!convert_run(&r, in_x < in_y ? in_x : in_y, p))
                return false;
        }
    }
    return true;
}

/* The file's own parts with another record of `bytes`, zeroed. NULL: no memory. */
static unsigned char *with_record(const unsigned char *file, size_t front, size_t bytes,
                                  struct problem *p)
{
    unsigned char *copy = calloc(1, front + bytes);

    if (copy)
        memcpy(copy, file, front);
    else
        problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the converted snapshot");
    return copy;
}

static bool finish(bool ok, struct header *h, unsigned char *file, size_t len, void **out,
                   size_t *out_len)
{
    if (!ok) {
        free(file);
        return false;
    }
    format_finish_header(h, file, len);
    *out = file;
    *out_len = len;
    return true;
}

/* Between the layouts of float32 and of bfloat16. */
static bool convert_layout(const void *file, size_t len, const struct state_layout *a,
                           const struct state_layout *b, void **out, size_t *out_len,
                           struct problem *p)
{
    const unsigned char *bytes = file;
    unsigned char *to;
    struct header h;
    size_t front;

    memcpy(&h, file, sizeof(h));
    front = len - h.record_len;
    if (h.record_len && h.record_len != a->bytes)
        return problem_set(p, PROBLEM_SNAPSHOT_SHAPE, NULL,
                           "the snapshot's state has %llu bytes; this model's has %zu",
                           (unsigned long long)h.record_len, a->bytes);

    const size_t record = h.record_len ? b->bytes : 0;

    to = with_record(bytes, front, record, p);
    if (!to)
        return false;
    h.numbers = format_numbers_of(b);
    h.layout = b->id;
    h.record_len = record;
    return finish(!record || convert_fields(a, b, bytes + front, to + front, p), &h, to,
                  front + record, out, out_len);
}

/* Between all float32 and all bfloat16. */
static bool convert_all(const void *file, size_t len, enum dtype to, void **out, size_t *out_len,
                        struct problem *p)
{
    const unsigned char *bytes = file;
    unsigned char *copy;
    struct header h;

    memcpy(&h, file, sizeof(h));

    const enum dtype is = h.numbers == NUMBERS_BF16 ? DTYPE_BF16 : DTYPE_F32;
    const size_t front = len - h.record_len, numbers = h.record_len / dtype_size(is);

    h.numbers = to == DTYPE_BF16 ? NUMBERS_BF16 : NUMBERS_F32;
    h.record_len = numbers * dtype_size(to);
    copy = with_record(bytes, front, h.record_len, p);
    return copy &&
           finish(convert_run(&(struct run){ bytes + front, copy + front, is, to }, numbers, p), &h,
                  copy, front + h.record_len, out, out_len);
}

bool format_convert(const void *file, size_t len, const struct state_layout *layout, enum dtype to,
                    void **out, size_t *out_len, struct problem *p)
{
    struct state_layout mixed = { 0 }, wide = { 0 };
    struct header h;
    void *between;
    bool ok;

    memcpy(&h, file, sizeof(h));
    if (h.numbers <= NUMBERS_BF16)
        return convert_all(file, len, to, out, out_len, p);
    if (layout) {
        mixed = wide = *layout;
        state_layout_pack(&mixed, DTYPE_BF16);
        state_layout_pack(&wide, DTYPE_F32);
    }
    if (h.layout != mixed.id || h.numbers != format_numbers_of(&mixed))
        return problem_set(p, PROBLEM_MODEL_MISMATCH, NULL,
                           "the state's numbers are F32 and BF16, and only its model says where");
    if (to == DTYPE_F32)
        return convert_layout(file, len, &mixed, &wide, out, out_len, p);
    if (!convert_layout(file, len, &mixed, &wide, &between, &len, p))
        return false;
    ok = convert_all(between, len, to, out, out_len, p);
    free(between);
    return ok;
}

bool format_adopt(const void *file, size_t len, const struct state_layout *layout, void **out,
                  size_t *out_len, struct problem *p)
{
    const struct state_layout other = format_other_layout(layout);
    struct header h;
    void *between;
    bool ok;

    memcpy(&h, file, sizeof(h));
    if (!layout->bf16_bytes)
        return format_convert(file, len, layout, DTYPE_F32, out, out_len, p);
    if (h.layout != other.id || h.numbers > NUMBERS_BF16) {
        *out = with_record(file, len, 0, p);
        *out_len = len;
        return *out != NULL;
    }
    if (!convert_all(file, len, DTYPE_F32, &between, &len, p))
        return false;
    ok = convert_layout(between, len, &other, layout, out, out_len, p);
    free(between);
    return ok;
}
