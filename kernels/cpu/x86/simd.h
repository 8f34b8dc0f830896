/* simd.h - one vector of floats, as wide as the instruction set the file is compiled for.
 *
 * The sources of this folder are compiled once for AVX2 (with FMA and F16C) and once for
 * AVX-512 (F, BW, DQ, VL); ISA(name) is the symbol of this build. What is compiled once more for
 * AVX-512 with BF16 has the symbol ISA_BF16(name). `_n` loads read the first n floats and zero the
 * rest, `_n` stores write the first n; 0 < n. */
#ifndef KERNELS_CPU_X86_SIMD_H
#define KERNELS_CPU_X86_SIMD_H

#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

/* UNROLL stands before a loop of constant length whose array must become registers;
 * UNROLL_IF_CONSTANT where the length is constant in the instance that matters only, of which
 * clang would warn. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define UNROLL_IF_CONSTANT
#else
#define UNROLL             _Pragma("GCC unroll 24")
#define UNROLL_IF_CONSTANT UNROLL
#endif

#ifdef __AVX512F__
#define ISA(name) name##_avx512
#else
#define ISA(name) name##_avx2
#endif

#ifdef __AVX512BF16__
#define ISA_BF16(name) name##_avx512bf16
#else
#define ISA_BF16(name) ISA(name)
#endif

#ifdef __AVX512F__
typedef __m512 vf;
typedef __m512i vw; /* words of 32 bits */
enum { VW = 16 };

#define V(op) _mm512_##op##_ps
#else
typedef __m256 vf;
typedef __m256i vw;
enum { VW = 8 };

#define V(op) _mm256_##op##_ps
#endif

/* Stays in its register: compilers would rather load it again for each use. */
INLINE vw v_keep(vw w)
{
    __asm__("" : "+v"(w));
    return w;
}

INLINE vf v_zero(void)
{
    return V(setzero)();
}

INLINE vf v_set(float x)
{
    return V(set1)(x);
}

INLINE vf v_load(const float *p)
{
    return V(loadu)(p);
}

INLINE void v_store(float *p, vf a)
{
    V(storeu)(p, a);
}

/* The cache line of p comes near; it need not exist. */
INLINE void v_fetch(const void *p)
{
    _mm_prefetch((const char *)p, _MM_HINT_T0);
}

INLINE void v_fetch_to_write(const void *p)
{
    __builtin_prefetch(p, 1);
}

INLINE vf v_add(vf a, vf b)
{
    return V(add)(a, b);
}

INLINE vf v_sub(vf a, vf b)
{
    return V(sub)(a, b);
}

INLINE vf v_mul(vf a, vf b)
{
    return V(mul)(a, b);
}

INLINE vf v_div(vf a, vf b)
{
    return V(div)(a, b);
}

/* a * b + c, rounded once */
INLINE vf v_fma(vf a, vf b, vf c)
{
    return V(fmadd)(a, b, c);
}

/* c - a * b, rounded once */
INLINE vf v_fnma(vf a, vf b, vf c)
{
    return V(fnmadd)(a, b, c);
}

/* Of a NaN and a number both return the second operand, so v_max(limit, x) keeps a NaN x. */
INLINE vf v_min(vf a, vf b)
{
    return V(min)(a, b);
}

INLINE vf v_max(vf a, vf b)
{
    return V(max)(a, b);
}

#ifdef __AVX512F__
INLINE __mmask16 v_first(int n)
{
    return (__mmask16)(0xffffu >> (VW - n));
}

INLINE vf v_load_n(const float *p, int n)
{
    return n >= VW ? v_load(p) : _mm512_maskz_loadu_ps(v_first(n), p);
}

INLINE void v_store_n(float *p, vf a, int n)
{
    if (n >= VW)
        v_store(p, a);
    else
        _mm512_mask_storeu_ps(p, v_first(n), a);
}

INLINE vw v_words(const void *p)
{
    return _mm512_loadu_si512(p);
}

/* The low and the high halves of words of two bfloat16. */
INLINE vf v_bf16_low(vw w)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

INLINE vf v_bf16_high(vw w)
{
    return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)));
}

INLINE vf v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

INLINE vf v_abs(vf a)
{
    return _mm512_abs_ps(a);
}

/* a > b ? x : y, lane by lane */
INLINE vf v_where_greater(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}

/* |a| with the sign of b */
INLINE vf v_with_sign(vf a, vf b)
{
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);

    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(sign, _mm512_castps_si512(b), _mm512_castps_si512(a), 0xca));
}

INLINE vf v_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a * 2^n for an integral n */
INLINE vf v_scale(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}

INLINE float v_sum(vf a)
{
    return _mm512_reduce_add_ps(a);
}

/* In each 128-bit part: [a0 + a2, b0 + b2, a1 + a3, b1 + b3]. */
INLINE __m512 pair_rows(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}

/* Lane i of the result is the sum of row[i]'s lanes, each in one fixed order. */
INLINE vf v_reduce(const vf row[VW])
{
    __m512 quad[4];

    /* In each 128-bit part: [r0 + r0, r1 + r1, r2 + r2, r3 + r3]. */
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m512 lo = pair_rows(row[4 * i], row[4 * i + 1]);
        __m512 hi = pair_rows(row[4 * i + 2], row[4 * i + 3]);

        quad[i] = _mm512_add_ps(_mm512_shuffle_ps(lo, hi, 0x44), _mm512_shuffle_ps(lo, hi, 0xee));
    }

    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(quad[0], quad[1], 0x88),
                             _mm512_shuffle_f32x4(quad[0], quad[1], 0xdd));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(quad[2], quad[3], 0x88),
                             _mm512_shuffle_f32x4(quad[2], quad[3], 0xdd));

    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* The same for four rows. */
INLINE __m128 v_reduce4(const vf row[4])
{
    const __m512 lo = pair_rows(row[0], row[1]), hi = pair_rows(row[2], row[3]);
    const __m512 quad =
        _mm512_add_ps(_mm512_shuffle_ps(lo, hi, 0x44), _mm512_shuffle_ps(lo, hi, 0xee));
    const __m128 a = _mm_add_ps(_mm512_castps512_ps128(quad), _mm512_extractf32x4_ps(quad, 1));
    const __m128 b = _mm_add_ps(_mm512_extractf32x4_ps(quad, 2), _mm512_extractf32x4_ps(quad, 3));

    return _mm_add_ps(a, b);
}
#else
INLINE __m256i v_first(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE vf v_load_n(const float *p, int n)
{
    return n >= VW ? v_load(p) : _mm256_maskload_ps(p, v_first(n));
}

INLINE void v_store_n(float *p, vf a, int n)
{
    if (n >= VW)
        v_store(p, a);
    else
        _mm256_maskstore_ps(p, v_first(n), a);
}

INLINE vw v_words(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* The low and the high halves of words of two bfloat16. */
INLINE vf v_bf16_low(vw w)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

INLINE vf v_bf16_high(vw w)
{
    return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)));
}

INLINE vf v_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

INLINE vf v_abs(vf a)
{
    return _mm256_andnot_ps(v_set(-0.0f), a);
}

/* a > b ? x : y, lane by lane */
INLINE vf v_where_greater(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

/* |a| with the sign of b */
INLINE vf v_with_sign(vf a, vf b)
{
    return _mm256_or_ps(v_abs(a), _mm256_and_ps(v_set(-0.0f), b));
}

INLINE vf v_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE vf power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* a * 2^n for an integral n; in two steps, as 2^n alone may leave the range of floats. */
INLINE vf v_scale(vf a, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), part = _mm256_srai_epi32(whole, 1);

    return v_mul(v_mul(a, power_of_two(part)), power_of_two(_mm256_sub_epi32(whole, part)));
}

INLINE float v_sum(vf a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

/* Lane i of the result is the sum of row[i]'s lanes, each in one fixed order. */
INLINE vf v_reduce(const vf row[VW])
{
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(row[0], row[1]), _mm256_hadd_ps(row[2], row[3]));
    __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(row[4], row[5]), _mm256_hadd_ps(row[6], row[7]));

    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

/* The same for four rows. */
INLINE __m128 v_reduce4(const vf row[4])
{
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(row[0], row[1]), _mm256_hadd_ps(row[2], row[3]));

    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
#endif

#ifdef __AVX512BF16__
/* a and then b as bfloat16, two to a word, rounded to nearest even. */
INLINE vw v_to_bf16(vf a, vf b)
{
    return (vw)_mm512_cvtne2ps_pbh(b, a);
}

INLINE vf v_dot_bf16(vf sum, vw a, vw b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#else
/* sum + a * b of both bfloat16 of each word. */
INLINE vf v_dot_bf16(vf sum, vw a, vw b)
{
    sum = v_fma(v_bf16_low(a), v_bf16_low(b), sum);
    return v_fma(v_bf16_high(a), v_bf16_high(b), sum);
}
#endif

/* Four rows of 4 x 4 parts of 128 bits, each part transposed. */
INLINE void transpose_parts(vf row[4])
{
    const vf a = V(unpacklo)(row[0], row[1]), b = V(unpackhi)(row[0], row[1]);
    const vf c = V(unpacklo)(row[2], row[3]), d = V(unpackhi)(row[2], row[3]);

    row[0] = V(shuffle)(a, c, 0x44);
    row[1] = V(shuffle)(a, c, 0xee);
    row[2] = V(shuffle)(b, d, 0x44);
    row[3] = V(shuffle)(b, d, 0xee);
}

/* row[i][j] becomes row[j][i]. */
INLINE void v_transpose(vf row[VW])
{
    UNROLL
    for (int i = 0; i < VW; i += 4)
        transpose_parts(row + i);
    UNROLL
    for (int j = 0; j < 4; j++) {
#ifdef __AVX512F__
        const vf a = _mm512_shuffle_f32x4(row[j], row[4 + j], 0x88);
        const vf b = _mm512_shuffle_f32x4(row[8 + j], row[12 + j], 0x88);
        const vf c = _mm512_shuffle_f32x4(row[j], row[4 + j], 0xdd);
        const vf d = _mm512_shuffle_f32x4(row[8 + j], row[12 + j], 0xdd);

        row[j] = _mm512_shuffle_f32x4(a, b, 0x88);
        row[4 + j] = _mm512_shuffle_f32x4(c, d, 0x88);
        row[8 + j] = _mm512_shuffle_f32x4(a, b, 0xdd);
        row[12 + j] = _mm512_shuffle_f32x4(c, d, 0xdd);
#else
        const vf a = row[j], b = row[4 + j];

        row[j] = _mm256_permute2f128_ps(a, b, 0x20);
        row[4 + j] = _mm256_permute2f128_ps(a, b, 0x31);
#endif
    }
}

/* exp(x) = 2^n exp(r), |r| <= log(2) / 2, where the Taylor series to r^7 errs by less than
 * r^8 / 8! = 5.2e-9, a tenth of a unit in the last place; roundings add about one unit.
 * Below -104 the result is 0, above 88.8 infinity; a NaN stays one. */
INLINE vf v_exp(vf x)
{
    x = v_max(v_set(-104.0f), v_min(v_set(89.0f), x));

    const vf n = v_round(v_mul(x, v_set(0x1.715476p+0f)));
    const vf r = v_fnma(n, v_set(-0x1.05c610p-29f), v_fnma(n, v_set(0x1.62e430p-1f), x));
    vf p = v_set(1.0f / 5040);

    p = v_fma(p, r, v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(1.0f / 2));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_scale(p, n);
}

/* 2^x for n values x below 127: 2^k 2^r, |r| <= 1/2, with (2^r - 1) / r interpolated at the six
 * zeros of a Chebyshev polynomial: its f^(6) <= log(2)^7 / 7 * sqrt(2) makes 2^r err by less than
 * 1e-8, a tenth of a unit in the last place. Below -150 the result is 0; a NaN stays one. The
 * values go side by side, as each step of one waits for the step before. */
INLINE void v_exp2_each(vf *x, int n)
{
    static const float term[] = { 0x1.5f089p-10f, 0x1.3b2a54p-7f, 0x1.c6af6cp-5f,
                                  0x1.ebfbep-3f,  0x1.62e43p-1f,  1.0f };
    vf k[8], p[8];

    UNROLL
    for (int i = 0; i < n; i++)
        x[i] = v_max(v_set(-151.0f), x[i]);
    UNROLL
    for (int i = 0; i < n; i++)
        k[i] = v_round(x[i]);
    UNROLL
    for (int i = 0; i < n; i++)
        x[i] = v_sub(x[i], k[i]);
    UNROLL
    for (int i = 0; i < n; i++)
        p[i] = v_set(0x1.44138ap-13f);
    UNROLL
    for (int at = 0; at < 6; at++) {
        UNROLL
        for (int i = 0; i < n; i++)
            p[i] = v_fma(p[i], x[i], v_set(term[at]));
    }
    UNROLL
    for (int i = 0; i < n; i++)
        x[i] = v_scale(p[i], k[i]);
}

INLINE vf v_sigmoid(vf x)
{
    return v_div(v_set(1.0f), v_add(v_set(1.0f), v_exp(v_sub(v_zero(), x))));
}

INLINE vf v_silu(vf x)
{
    return v_div(x, v_add(v_set(1.0f), v_exp(v_sub(v_zero(), x))));
}

INLINE vf v_tanh(vf x)
{
    const vf one = v_set(1.0f), e = v_exp(v_mul(v_set(-2.0f), v_abs(x)));

    return v_with_sign(v_div(v_sub(one, e), v_add(one, e)), x);
}

/* log(1 + u), 0 <= u <= 1: twice the series of atanh(s) with s = u / (2 + u) <= 1/3, cut
 * where the rest is below s^17 / 17 = 4.6e-10 of s. */
INLINE vf v_log1p(vf u)
{
    const vf s = v_div(u, v_add(u, v_set(2.0f))), s2 = v_mul(s, s);
    vf p = v_set(2.0f / 15);

    p = v_fma(p, s2, v_set(2.0f / 13));
    p = v_fma(p, s2, v_set(2.0f / 11));
    p = v_fma(p, s2, v_set(2.0f / 9));
    p = v_fma(p, s2, v_set(2.0f / 7));
    p = v_fma(p, s2, v_set(2.0f / 5));
    p = v_fma(p, s2, v_set(2.0f / 3));
    p = v_fma(p, s2, v_set(2.0f));
    return v_mul(p, s);
}

INLINE vf v_softplus(vf x)
{
    const vf e = v_exp(v_sub(v_zero(), v_abs(x)));

    return v_where_greater(x, v_set(20.0f), x, v_add(v_max(v_zero(), x), v_log1p(e)));
}

#endif
