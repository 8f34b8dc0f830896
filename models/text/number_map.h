/* number_map.h - a hash map from 64-bit numbers to 64-bit numbers.
 *
 * Open addressing, grows by doubling, never shrinks. It holds a tokenizer's merges (pair of
 * ids to rank and id) and a trie's edges. Zero-initialise. Writing: one thread; finding in a
 * map that is no longer written: any. */
#ifndef MODELS_TEXT_NUMBER_MAP_H
#define MODELS_TEXT_NUMBER_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct number_map {
    struct number_map_slot {
        uint64_t key; /* UINT64_MAX: free, so it cannot be a key */
        uint64_t value;
    } * slot;
    size_t capacity; /* 0 or a power of two */
    size_t count;
};

void number_map_finish(struct number_map *m);

/* false when memory ran out. A key that is there gets the new value. */
bool number_map_set(struct number_map *m, uint64_t key, uint64_t value);

static inline size_t number_map_home(const struct number_map *m, uint64_t key)
{
    key ^= key >> 32;
    key *= 0x9e3779b97f4a7c15u;
    return (size_t)(key ^ key >> 29) & (m->capacity - 1);
}

static inline bool number_map_find(const struct number_map *m, uint64_t key, uint64_t *value)
{
    if (m->capacity == 0)
        return false;
    for (size_t i = number_map_home(m, key);; i = (i + 1) & (m->capacity - 1)) {
        if (m->slot[i].key == key) {
            *value = m->slot[i].value;
            return true;
        }
        if (m->slot[i].key == UINT64_MAX)
            return false;
    }
}

#endif
