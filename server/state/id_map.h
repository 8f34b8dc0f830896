/* id_map.h - objects by owner and id.
 *
 * A hash map to pointers that it does not own; ids are the objects' own, too, so that an entry
 * is small. Two owners may use the same id; where ids belong to nobody the owner is 0. The
 * entries lie in one array, oldest first, in which what was removed leaves a gap until the array
 * is made anew. A map that is asked for pages keeps the order of ids beside it. One thread. */
#ifndef SERVER_STATE_ID_MAP_H
#define SERVER_STATE_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/id.h"
#include "server/state/id_order.h"

struct id_entry {
    uint64_t owner;
    const char *id; /* borrowed; NULL: a gap */
    void *value;
    uint32_t hash;
    uint32_t chain; /* the next one of its bucket */
};

/* How many entries an owner has, and their order if the map keeps it. */
struct id_owner {
    uint64_t owner;
    size_t count;
    struct id_order order;
};

struct id_map {
    struct id_owner *owner;
    size_t owners, owners_capacity;
    struct id_entry *entry;
    uint32_t *bucket;             /* [capacity] its newest entry */
    size_t capacity, first, used; /* gaps only before first, nothing from used on */
    size_t count;
    bool ordered;
};

void id_map_init(struct id_map *m);
void id_map_init_ordered(struct id_map *m); /* for pages */
void id_map_finish(struct id_map *m);       /* the values are the caller's */

void *id_map_find(const struct id_map *m, uint64_t owner, const struct id *id); /* or NULL */
/* The id must not be there yet, and stay where it is until it is removed. false: no memory. */
bool id_map_put(struct id_map *m, uint64_t owner, const char *id, void *value);
/* Takes it out and returns its value; NULL when absent. */
void *id_map_remove(struct id_map *m, uint64_t owner, const char *id);

size_t id_map_count(const struct id_map *m, uint64_t owner);

/* The first entry at *place or behind it, NULL at the end; *place becomes its own. To go through
 * all of them begin with 0 and add 1; removing on the way is fine. Putting may move entries to
 * lower places. */
struct id_entry *id_map_walk(const struct id_map *m, size_t *place);

/* A part of a list in the order of ids' bytes, which what comes and goes meanwhile does not
 * change: neither `after` nor anything else needs to be there still. */
struct id_page {
    uint64_t owner;
    const struct id *after;                            /* "": from the first on */
    bool (*wants)(const void *value, const void *arg); /* NULL: all of them */
    const void *arg;
    struct id_entry **entry; /* [room], the caller's */
    size_t room, count;      /* room: at least 1; count is filled */
};

/* The first ones behind `after`, of a map that is ordered. Looks at these alone, and at those
 * between them that are not wanted. */
void id_map_page(const struct id_map *m, struct id_page *page);

#endif
