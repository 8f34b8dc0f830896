/* trie.h - longest match of a set of byte strings at a place in a text.
 *
 * Nodes are numbers, edges live in one hash map, so a step costs one look-up whatever the
 * fan-out. Zero-initialise. Writing: one thread; matching afterwards: any. */
#ifndef MODELS_TEXT_TRIE_H
#define MODELS_TEXT_TRIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/number_map.h"

struct trie {
    struct number_map edge; /* node << 8 | byte to the child; the root is 0 */
    int32_t *id;            /* [nodes] what ends at the node, -1 when nothing does */
    size_t nodes, capacity;
    bool begins[256]; /* some string begins with this byte */
};

void trie_finish(struct trie *t);
/* len > 0; a string that is there gets the new id. false when memory ran out. */
bool trie_add(struct trie *t, const char *text, size_t len, int32_t id);
/* The id of the longest string that text begins with and its length; -1 when there is none. */
int32_t trie_longest(const struct trie *t, const char *text, size_t len, size_t *matched);

#endif
