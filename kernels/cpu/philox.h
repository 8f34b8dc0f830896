/* philox.h - Philox 4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw
 * (SC 2011): a random number is a function of a key and a counter, so a draw needs no state. */
#ifndef KERNELS_CPU_PHILOX_H
#define KERNELS_CPU_PHILOX_H

#include <stdint.h>

static inline void philox4x32(uint32_t x[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)x[0] * 0xD2511F53u, b = (uint64_t)x[2] * 0xCD9E8D57u;
        uint32_t y0 = (uint32_t)(b >> 32) ^ x[1] ^ key0, y2 = (uint32_t)(a >> 32) ^ x[3] ^ key1;

        x[0] = y0;
        x[1] = (uint32_t)b;
        x[2] = y2;
        x[3] = (uint32_t)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

/* Uniform in [0, 1), of 53 random bits: key = seed, counter = position. */
static inline double philox_uniform(uint64_t seed, uint64_t position)
{
    uint32_t x[4] = { (uint32_t)position, (uint32_t)(position >> 32), 0, 0 };

    philox4x32(x, (uint32_t)seed, (uint32_t)(seed >> 32));
    return (double)(((uint64_t)x[1] << 32 | x[0]) >> 11) * 0x1p-53;
}

#endif
