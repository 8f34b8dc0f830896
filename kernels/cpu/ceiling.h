/* ceiling.h - what the machine could do, measured: the bounds that kernels are compared with.
 *
 * Each call takes some tenths of a second on all threads of the backend and returns the best
 * of its runs. Only for a backend of backend_open_cpu(), while nothing else uses it. */
#ifndef KERNELS_CPU_CEILING_H
#define KERNELS_CPU_CEILING_H

struct backend;

/* Bytes a second read from memory, well beyond any cache; 0 without room for the buffer. That is
 * NULL at first and kept between calls, as giving it back would disturb what is measured next:
 * the caller frees it, with be->free(). */
double ceiling_read_bandwidth(struct backend *be, float **buffer);

/* float32 operations a second (a multiply-add is two) with the backend's instruction set. */
double ceiling_fma_rate(struct backend *be);

/* Operations a second of the bf16 dot product; 0 if the instruction set has none. */
double ceiling_bf16_rate(struct backend *be);

#endif
