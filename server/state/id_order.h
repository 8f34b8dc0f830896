/* id_order.h - the entries of an id_map in the order of their ids' bytes.
 *
 * Places in the map's array, in blocks that are each in order and follow each other: what comes
 * or goes moves the places of one block, and a walk looks at nothing but what it passes. One
 * thread. */
#ifndef SERVER_STATE_ID_ORDER_H
#define SERVER_STATE_ID_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_block;
struct id_entry;

/* All zeros: empty. */
struct id_order {
    struct id_block **block; /* owned; none is empty */
    size_t blocks, room;
};

/* Where a walk is. */
struct id_spot {
    size_t block, i;
};

void id_order_finish(struct id_order *o);
/* entry: the map's array, whose entries at these places have their ids. false: no memory. */
bool id_order_put(struct id_order *o, const struct id_entry *entry, uint32_t place);
void id_order_remove(struct id_order *o, const struct id_entry *entry, uint32_t place);
/* The places become what the entries' `chain` says. */
void id_order_move(struct id_order *o, const struct id_entry *entry);

/* Before the first one behind this id, which need not be there. */
struct id_spot id_order_seek(const struct id_order *o, const struct id_entry *entry,
                             const char *id);
/* The next one on a walk; false: there is none. */
bool id_order_next(const struct id_order *o, struct id_spot *s, uint32_t *place);

#endif
