/* ceiling_bf16.c - the bf16 dot product at full speed. */
#include "kernels/cpu/ceiling_loops.h"

#include "kernels/cpu/x86/simd.h"

enum { CHAINS = 16 };

double ISA_BF16(dot)(int rounds)
{
    const vw one = _mm512_set1_epi32(0x3f803f80);
    vf sum[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        sum[i] = v_set((float)i);
    for (int k = 0; k < rounds; k++)
        for (int i = 0; i < CHAINS; i++)
            sum[i] = v_dot_bf16(sum[i], one, one);
    for (int i = 1; i < CHAINS; i++)
        sum[0] = v_add(sum[0], sum[i]);
    ceiling_sink(v_sum(sum[0]));
    return 2.0 * 2 * VW * CHAINS * rounds;
}
