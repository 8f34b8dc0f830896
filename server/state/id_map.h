/* id_map.h - objects by owner and id, in the order they came.
 *
 * A hash map to pointers that it does not own, threaded by a list for paging. Two owners may
 * use the same id; where ids belong to nobody the owner is 0. One thread. */
#ifndef SERVER_STATE_ID_MAP_H
#define SERVER_STATE_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/id.h"

struct id_entry {
    uint64_t owner;
    struct id id;
    void *value;
    struct id_entry *chain;         /* of its bucket */
    struct id_entry *before, *next; /* by age */
};

/* How many entries an owner has. */
struct id_owner {
    uint64_t owner;
    size_t count;
};

struct id_map {
    struct id_owner *owner;
    size_t owners, owners_capacity;
    struct id_entry **bucket;
    size_t buckets, count;
    struct id_entry *first, *last;
};

void id_map_init(struct id_map *m);
void id_map_finish(struct id_map *m); /* the values are the caller's */

void *id_map_find(const struct id_map *m, uint64_t owner, const struct id *id); /* or NULL */
/* The id must not be there yet. false: no memory. */
bool id_map_put(struct id_map *m, uint64_t owner, const struct id *id, void *value);
/* Takes it out and returns its value; NULL when absent. */
void *id_map_remove(struct id_map *m, uint64_t owner, const struct id *id);

size_t id_map_count(const struct id_map *m, uint64_t owner);

/* The owner's entry that came next after `after` ("": the first); NULL at the end, or when
 * `after` is not there. Goes through the others' entries in between. */
struct id_entry *id_map_next(const struct id_map *m, uint64_t owner, const struct id *after);

#endif
