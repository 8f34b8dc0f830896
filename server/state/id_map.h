/* id_map.h - objects by id, in the order they came.
 *
 * A hash map from struct id to a pointer it does not own, threaded by a list for paging.
 * One thread. */
#ifndef SERVER_STATE_ID_MAP_H
#define SERVER_STATE_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>

#include "server/state/id.h"

struct id_entry {
    struct id id;
    void *value;
    struct id_entry *chain;         /* of its bucket */
    struct id_entry *before, *next; /* by age */
};

struct id_map {
    struct id_entry **bucket;
    size_t buckets, count;
    struct id_entry *first, *last;
};

void id_map_init(struct id_map *m);
void id_map_finish(struct id_map *m); /* the values are the caller's */

void *id_map_find(const struct id_map *m, const struct id *id); /* NULL when absent */
/* The id must not be there yet. false: no memory. */
bool id_map_put(struct id_map *m, const struct id *id, void *value);
/* Takes it out and returns its value; NULL when absent. */
void *id_map_remove(struct id_map *m, const struct id *id);

/* The entry that came next after `after` ("": the first); NULL at the end, or when `after` is
 * not there. */
struct id_entry *id_map_next(const struct id_map *m, const struct id *after);

#endif
