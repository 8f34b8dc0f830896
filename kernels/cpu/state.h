/* state.h - a part of a sequence's state as float32, whatever it is kept as: widened into memory
 * of the caller's, and rounded back (ops.h). Private to kernels/cpu/; any thread. */
#ifndef KERNELS_CPU_STATE_H
#define KERNELS_CPU_STATE_H

#include "kernels/ops.h"
#include "kernels/rounding.h"

/* Numbers [at, at + n) of the state of sequence s. */
struct state_part {
    float *f32;
    uint16_t *bf16; /* where f32 is rounded to, or NULL: it is the state itself */
    uint32_t key, place;
    size_t n;
};

static inline size_t state_scratch(const struct field *f, size_t n)
{
    return f->bf16 ? n * sizeof(float) : 0;
}

/* wide: state_scratch() bytes, unused if that is 0. */
static inline struct state_part state_open(const struct field *f, const struct batch *in, int s,
                                           size_t at, size_t n, void *wide)
{
    const size_t first = (size_t)in->slot[s] * f->stride + at;
    const uint32_t before = in->position ? in->position[s] : 0;

    if (!f->bf16)
        return (struct state_part){ .f32 = f->base + first };

    const struct state_part p = {
        .f32 = (float *)wide,
        .bf16 = f->bf16 + first,
        .key = rounding_key(before + (uint32_t)(in->begin[s + 1] - in->begin[s])),
        .place = f->place + (uint32_t)at,
        .n = n,
    };

    for (size_t i = 0; i < n; i++)
        p.f32[i] = bf16_to_f32(p.bf16[i]);
    return p;
}

static inline void state_round_one(const struct state_part *p, size_t i)
{
    const uint32_t place = p->place + (uint32_t)i, bits = rounding_bits(p->key, place / 2);

    p->bf16[i] = round_to_bf16(p->f32[i], place % 2 ? bits >> 16 : bits & 0xffffu);
}

/* Puts it back; the memory of the part is the caller's again. */
static inline void state_close(const struct state_part *p)
{
    const size_t odd = p->place % 2;
    size_t i = 0;

    if (!p->bf16)
        return;
    if (odd && p->n)
        state_round_one(p, i++);
    for (; i + 2 <= p->n; i += 2) {
        const uint32_t bits = rounding_bits(p->key, (p->place + (uint32_t)i) / 2);

        p->bf16[i] = round_to_bf16(p->f32[i], bits & 0xffffu);
        p->bf16[i + 1] = round_to_bf16(p->f32[i + 1], bits >> 16);
    }
    if (i < p->n)
        state_round_one(p, i);
}

#endif
