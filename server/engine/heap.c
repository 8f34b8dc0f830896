#include "server/engine/heap.h"

#include <malloc.h>

#define REST_SECONDS 1.0

enum {
    MIB = 1024 * 1024,
    OWN_MAPPING = 32 * MIB, /* the most that glibc allows: larger ones come from mmap() */
    FREE_TOP = 64 * MIB,    /* of each of its arenas; what is above goes at once */
    MUCH = 64 * MIB,        /* of states gone: worth a look at the heap without a rest */
};

void heap_prepare(void)
{
    mallopt(M_MMAP_THRESHOLD, OWN_MAPPING);
    mallopt(M_TRIM_THRESHOLD, FREE_TOP);
}

bool heap_rests(struct heap *h, bool busy, double now)
{
    if (busy) {
        h->worked = now;
        h->given = false;
    }
    return !h->given && now - h->worked > REST_SECONDS;
}

bool heap_shrank(struct heap *h, size_t held)
{
    if (held > h->most)
        h->most = held;
    return h->most - held > MUCH;
}

void heap_give_back(struct heap *h, size_t held)
{
    malloc_trim(0);
    h->given = true;
    h->most = held;
}
