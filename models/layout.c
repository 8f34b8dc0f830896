/* layout.c - where the fields of a session's record are, and the number that says so. */
#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "models/model.h"

enum { ALIGN = 64 };

static size_t numbers_of(const struct state_field *f)
{
    size_t n = 1;

    for (int i = 0; i < f->rank; i++)
        n *= (size_t)f->shape[i];
    return n;
}

static uint64_t add_field(uint64_t id, const struct state_field *f)
{
    const uint64_t shape[] = { f->dtype,
                               (uint64_t)f->layers,
                               (uint64_t)f->rank,
                               (uint64_t)f->shape[0],
                               (uint64_t)f->shape[1],
                               (uint64_t)f->shape[2],
                               f->offset,
                               f->layer_bytes };

    id = XXH3_64bits_withSeed(f->name, strlen(f->name), id);
    return XXH3_64bits_withSeed(shape, sizeof(shape), id);
}

void state_layout_pack(struct state_layout *layout, enum dtype large)
{
    layout->bytes = layout->bf16_bytes = 0;
    layout->id = 0;
    for (int i = 0; i < layout->fields; i++) {
        struct state_field *f = &layout->field[i];

        assert(f->large || i == 0 || !layout->field[i - 1].large);
        f->dtype = f->large ? large : DTYPE_F32;
        f->offset = layout->bytes;
        f->layer_bytes = (numbers_of(f) * dtype_size(f->dtype) + ALIGN - 1) / ALIGN * ALIGN;

        const size_t bytes = f->layer_bytes * (size_t)f->layers;

        layout->bytes += bytes;
        layout->bf16_bytes += f->dtype == DTYPE_BF16 ? bytes : 0;
        layout->id = add_field(layout->id, f);
    }
}
