/* steps.cuh - a step's batch on the device, and decode steps recorded as graphs.
 *
 * Private to kernels/cuda/. A stream has one; its graphs hold addresses, so whoever frees
 * memory that an operation may have been given calls steps_forget(). */
#ifndef KERNELS_CUDA_STEPS_CUH
#define KERNELS_CUDA_STEPS_CUH

#include "kernels/cuda/cuda.cuh"

/* Ended by 0, for struct backend. */
extern const int steps_sizes[];

struct steps *steps_create(struct stream *q); /* NULL: no memory */
void steps_destroy(struct steps *s);          /* takes NULL */

/* As begin() and end() of struct backend. */
const struct batch *steps_begin(struct steps *s, const struct step_key *key,
                                const struct batch *in);
void steps_end(struct steps *s);
void steps_forget(struct steps *s);

#endif
