/* ceiling_bf16.c - the bf16 dot product at full speed. It rounds activations, so no operation
 * uses it; the rate tells what that exactness costs. */
#include <immintrin.h>

#include "kernels/cpu/ceiling_loops.h"

enum { CHAINS = 16 };

double dot_bf16(int rounds)
{
    const __m512bh one = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    __m512 sum[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        sum[i] = _mm512_set1_ps((float)i);
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < CHAINS; i++)
            sum[i] = _mm512_dpbf16_ps(sum[i], one, one);
    for (int i = 1; i < CHAINS; i++)
        sum[0] = _mm512_add_ps(sum[0], sum[i]);
    ceiling_sink(_mm512_reduce_add_ps(sum[0]));
    return 2.0 * 32 * CHAINS * rounds;
}
