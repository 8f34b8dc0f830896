/* copies.cuh - between host memory and the device's: in the order of the operations, or beside
 * them as moves.
 *
 * Private to kernels/cuda/. The functions are those of struct backend; faults are noted in the
 * stream. */
#ifndef KERNELS_CUDA_COPIES_CUH
#define KERNELS_CUDA_COPIES_CUH

#include "kernels/cuda/cuda.cuh"

struct copies;

struct copies *copies_create(struct stream *q); /* q: borrowed. NULL: no memory, or a fault */
void copies_destroy(struct copies *c);          /* takes NULL */

void *copies_alloc_host(size_t bytes); /* any thread, on its device */
void copies_free_host(struct copies *c, void *p, size_t bytes);

void copies_upload(struct copies *c, void *dst, const void *src, size_t bytes);
void copies_download(struct copies *c, void *dst, const void *src, size_t bytes);

/* Something beside a step's operations was enqueued: moves come behind it. */
void copies_hold_moves(struct copies *c);
uint64_t copies_move_in(struct copies *c, void *dst, const void *src, size_t bytes);
uint64_t copies_move_out(struct copies *c, void *dst, const void *src, size_t bytes);
uint64_t copies_move_logged(struct copies *c, const struct state_log *log, int slot, int logged);
bool copies_moved(struct copies *c, uint64_t move, bool wait);
void copies_follow(struct copies *c, uint64_t move);

#endif
