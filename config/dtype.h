/* dtype.h - the number formats of tensors, in files, in memory and in kernels.
 *
 * The conversions are exact where the target is wider, and round to nearest even where it
 * is narrower; NaN stays NaN. Any thread. C++ reads this header too, as nvcc takes no C. */
#ifndef CONFIG_DTYPE_H
#define CONFIG_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The order of the tables below. */
enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I64, DTYPE_COUNT };

static inline size_t dtype_size(enum dtype t)
{
    static const size_t size[DTYPE_COUNT] = { 4, 2, 2, 8 };

    return size[t];
}

static inline const char *dtype_name(enum dtype t)
{
    static const char *const name[DTYPE_COUNT] = { "F32", "F16", "BF16", "I64" };

    return name[t];
}

static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u); /* keep a NaN a NaN */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* IEEE half, subnormals included. */
static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu, u;
    float f;

    if (rest >= 0x7c00u) { /* infinity, NaN */
        u = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
    } else if (rest >= 0x400u) {
        u = sign | ((rest << 13) + (112u << 23));
    } else { /* zero, subnormal: rest units of 2^-24 */
        f = (float)rest * 0x1p-24f;
        memcpy(&u, &f, sizeof(u));
        u |= sign;
    }
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* n elements of type t at src, which need not be aligned, as float32. */
static inline void dtype_to_f32(float *dst, const void *src, enum dtype t, size_t n)
{
    const unsigned char *p = (const unsigned char *)src;
    uint16_t h;
    int64_t i64;

    if (t == DTYPE_F32) {
        memcpy(dst, src, n * sizeof(*dst));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (t == DTYPE_I64) {
            memcpy(&i64, p + i * sizeof(i64), sizeof(i64));
            dst[i] = (float)i64;
            continue;
        }
        memcpy(&h, p + i * sizeof(h), sizeof(h));
        dst[i] = t == DTYPE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
    }
}

#endif
