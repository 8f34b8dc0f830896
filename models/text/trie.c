/* trie.c - see trie.h. */
#include "models/text/trie.h"

#include <stdlib.h>

#include "models/text/text_buffer.h"

void trie_finish(struct trie *t)
{
    number_map_finish(&t->edge);
    free(t->id);
    *t = (struct trie){ 0 };
}

static bool add_node(struct trie *t)
{
    if (t->nodes == t->capacity) {
        size_t capacity = grown_capacity(t->capacity, t->nodes + 1);
        int32_t *id = capacity ? realloc(t->id, capacity * sizeof(*id)) : NULL;

        if (!id)
            return false;
        t->id = id;
        t->capacity = capacity;
    }
    t->id[t->nodes++] = -1;
    return true;
}

bool trie_add(struct trie *t, const char *text, size_t len, int32_t id)
{
    uint64_t node = 0, child;

    if (t->nodes == 0 && !add_node(t))
        return false;
    for (size_t i = 0; i < len; i++) {
        uint64_t key = node << 8 | (unsigned char)text[i];

        if (!number_map_find(&t->edge, key, &child)) {
            child = t->nodes;
            if (!add_node(t) || !number_map_set(&t->edge, key, child))
                return false;
        }
        node = child;
    }
    t->id[node] = id;
    t->begins[(unsigned char)text[0]] = true;
    return true;
}

int32_t trie_longest(const struct trie *t, const char *text, size_t len, size_t *matched)
{
    uint64_t node = 0;
    int32_t best = -1;

    if (len == 0 || !t->begins[(unsigned char)text[0]])
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (!number_map_find(&t->edge, node << 8 | (unsigned char)text[i], &node))
            break;
        if (t->id[node] >= 0) {
            best = t->id[node];
            *matched = i + 1;
        }
    }
    return best;
}
