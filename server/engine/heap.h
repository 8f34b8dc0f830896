/* heap.h - what the allocator keeps for the next state, and when it gives it back.
 *
 * States are large and come and go. Where each of them goes back to the system at once, the next
 * one pays a page fault for every 4 KiB, which takes longer than to read it from a disk; where
 * nothing ever does, a server keeps what its busiest minute took. So freed memory stays with the
 * process until the engine has rested for a while, or has let go of much. */
#ifndef SERVER_ENGINE_HEAP_H
#define SERVER_ENGINE_HEAP_H

#include <stdbool.h>
#include <stddef.h>

/* Zeroed storage is a fresh one. */
struct heap {
    double worked; /* monotonic seconds */
    bool given;    /* what there was to give back since then */
    size_t most;   /* bytes of states in memory, since anything was given back */
};

/* The rule above becomes the process's. Before memory is shared out to threads. */
void heap_prepare(void);
/* busy: the engine has something to do. true, once: it has rested for a while, and everything
 * that is of no use now is to be freed and given back. */
bool heap_rests(struct heap *h, bool busy, double now);
/* held: bytes of states in memory now. true: much less than before, and the same is due. */
bool heap_shrank(struct heap *h, size_t held);
void heap_give_back(struct heap *h, size_t held);

#endif
