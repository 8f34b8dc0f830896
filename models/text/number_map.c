/* number_map.c - growing and filling the map; finding is inline in the header. */
#include "models/text/number_map.h"

#include <stdlib.h>

void number_map_finish(struct number_map *m)
{
    free(m->slot);
    *m = (struct number_map){ 0 };
}

static void place(struct number_map *m, uint64_t key, uint64_t value)
{
    size_t i = number_map_home(m, key);

    while (m->slot[i].key != UINT64_MAX && m->slot[i].key != key)
        i = (i + 1) & (m->capacity - 1);
    m->count += m->slot[i].key != key;
    m->slot[i] = (struct number_map_slot){ key, value };
}

static bool grow(struct number_map *m)
{
    struct number_map bigger = { .capacity = m->capacity ? m->capacity * 2 : 64 };

    bigger.slot = malloc(bigger.capacity * sizeof(*bigger.slot));
    if (!bigger.slot)
        return false;
    for (size_t i = 0; i < bigger.capacity; i++)
        bigger.slot[i].key = UINT64_MAX;
    for (size_t i = 0; i < m->capacity; i++) {
        if (m->slot[i].key != UINT64_MAX)
            place(&bigger, m->slot[i].key, m->slot[i].value);
    }
    free(m->slot);
    *m = bigger;
    return true;
}

bool number_map_set(struct number_map *m, uint64_t key, uint64_t value)
{
    if (m->count * 2 >= m->capacity && !grow(m))
        return false;
    place(m, key, value);
    return true;
}
