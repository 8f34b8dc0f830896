/* rounding.h - how numbers of a state are rounded to bf16: stochastically, so that the mean over
 * many steps is right where rounding to nearest would drop every small addition.
 *
 * 16 random bits are added below the cut, which then truncates: a number becomes the one of its
 * two neighbours with the probability of its nearness, and stays if it is bf16 already. What is
 * beyond the largest finite bf16 becomes that; infinities and NaN stay. The bits are a function of
 * the session's position behind the rounded step and of the number's place in the record, never
 * of the session: a fork, a restored state and a prompt met again are rounded as the origin was.
 *
 * One hash makes the bits of four neighbouring numbers: decode on a GPU has time for about ten
 * instructions a number, which Philox would take alone, and nobody has to fear an adversary
 * here. kernels/cuda/rounding.cuh is its twin. Any thread. */
#ifndef KERNELS_ROUNDING_H
#define KERNELS_ROUNDING_H

#include <stdint.h>
#include <string.h>

/* A bijection of 32 bits in which every bit of x moves every bit of the result: rounds of
 * multiplying by an odd number and folding the upper half down. position: the tokens in the
 * state, those of the rounded step included. */
static inline uint32_t rounding_key(uint32_t position)
{
    uint32_t x = position + 0x9e3779b9u;

    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* The bits of numbers 2 * pair, in the lower half, and 2 * pair + 1 of a record. The key is mixed
 * already; the second pair of four numbers has a multiple of the first one's bits. */
static inline uint32_t rounding_bits(uint32_t key, uint32_t pair)
{
    uint32_t x = (pair / 2 ^ key) * 0x7feb352du;

    x = (x ^ x >> 15) * 0x846ca68bu;
    x ^= x >> 16;
    return pair % 2 ? x * 0x9e3779b1u : x;
}

/* bits: 16 of them. */
static inline uint16_t round_to_bf16(float f, uint32_t bits)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));

    const uint32_t size = u & 0x7fffffffu;
    const uint32_t cut = (size < 0x7f7f0000u ? u + bits : u) >> 16;

    return (uint16_t)(size > 0x7f800000u ? cut | 0x40u : cut); /* a NaN stays one */
}

#endif
