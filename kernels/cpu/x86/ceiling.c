/* ceiling.c - the loops of ceiling_loops.h with this instruction set. */
#include "kernels/cpu/ceiling_loops.h"

#include "kernels/cpu/x86/simd.h"

enum {
    CHAINS = 10,  /* more than two units of 4 cycles need, and few enough for registers */
    READ_SUMS = 4 /* with 8, 5 % less comes from memory */
};

double ISA(fma)(int rounds)
{
    const vf scale = v_set(0.999f), add = v_set(0.001f);
    vf sum[CHAINS];

    UNROLL
    for (int i = 0; i < CHAINS; i++)
        sum[i] = v_set((float)i);
    for (int k = 0; k < rounds; k++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++)
            sum[i] = v_fma(sum[i], scale, add);
    }
    UNROLL
    for (int i = 1; i < CHAINS; i++)
        sum[0] = v_add(sum[0], sum[i]);
    ceiling_sink(v_sum(sum[0]));
    return 2.0 * CHAINS * VW * rounds;
}

void ISA(read)(const float *p, size_t n)
{
    vf sum[READ_SUMS];

    UNROLL
    for (int i = 0; i < READ_SUMS; i++)
        sum[i] = v_zero();
    for (size_t at = 0; at < n; at += (size_t)READ_SUMS * VW) {
        UNROLL
        for (int i = 0; i < READ_SUMS; i++)
            sum[i] = v_add(sum[i], v_load(p + at + i * VW));
    }
    UNROLL
    for (int i = 1; i < READ_SUMS; i++)
        sum[0] = v_add(sum[0], sum[i]);
    ceiling_sink(v_sum(sum[0]));
}
