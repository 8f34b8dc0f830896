/* prefix.h - the states of contexts that may come again, found by their token ids.
 *
 * A radix tree over ids for each owner: at some places in it a checkpoint is remembered whose
 * record holds the state after exactly the ids that lead there. Whoever asks with the ids of
 * a context is given the longest prefix there is, so that only the rest has to be taken in:
 * since ids are compared and not text, a hit is never anything but a state of that context.
 *
 * A place goes when its record does (tiers.h), and the one that was looked at the longest ago
 * goes when the ids take more than their bytes. Engine thread only. */
#ifndef SERVER_STATE_PREFIX_H
#define SERVER_STATE_PREFIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct checkpoint;
struct prefix;
struct tiers;

/* bytes: of the tree; the records are the tiers'. NULL: no memory. */
struct prefix *prefix_create(struct tiers *t, size_t bytes);
void prefix_destroy(struct prefix *p); /* forgets all; takes NULL */

/* The checkpoint with a record for the longest prefix of n ids, and its length; NULL: there
 * is none. */
struct checkpoint *prefix_find(struct prefix *p, uint64_t owner, const int32_t *id, size_t n,
                               size_t *len);
/* c's record is the state after these n ids, n > 0. Remembers it, unless there is one already
 * or no memory. */
void prefix_add(struct prefix *p, uint64_t owner, const int32_t *id, size_t n,
                struct checkpoint *c);
/* Its record is gone; c may be freed in here. Takes one that has no place, too. */
void prefix_lost(struct prefix *p, struct checkpoint *c);

size_t prefix_bytes(const struct prefix *p);
size_t prefix_places(const struct prefix *p);

#endif
