/* ceiling_loops.h - loops that do nothing but keep one resource of a core busy. */
#ifndef KERNELS_CPU_CEILING_LOOPS_H
#define KERNELS_CPU_CEILING_LOOPS_H

#include <stddef.h>

/* Returns the operations done. */
typedef double fma_loop(int rounds);
/* n is a multiple of 128. */
typedef void read_loop(const float *p, size_t n);

fma_loop fma_avx2, fma_avx512, dot_avx512bf16;
read_loop read_avx2, read_avx512;

/* The compiler must believe that x is needed. */
static inline void ceiling_sink(float x)
{
    __asm__ volatile("" : : "m"(x));
}

#endif
