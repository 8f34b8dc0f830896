#include "server/state/id_order.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "server/state/id_map.h"

enum { BLOCK = 255 };

struct id_block {
    uint32_t count, place[BLOCK];
};

void id_order_finish(struct id_order *o)
{
    for (size_t i = 0; i < o->blocks; i++)
        free(o->block[i]);
    free(o->block);
    *o = (struct id_order){ 0 };
}

static bool is_behind(const struct id_entry *entry, uint32_t place, const char *id)
{
    return strcmp(entry[place].id, id) > 0;
}

/* The last block that begins at or before the id, or the first one. */
static size_t find_block(const struct id_order *o, const struct id_entry *entry, const char *id)
{
    size_t low = 0, high = o->blocks;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (is_behind(entry, o->block[middle]->place[0], id))
            high = middle;
        else
            low = middle + 1;
    }
    return low ? low - 1 : 0;
}

struct id_spot id_order_seek(const struct id_order *o, const struct id_entry *entry, const char *id)
{
    struct id_spot s = { .block = find_block(o, entry, id) };
    size_t high;

    if (!o->blocks)
        return s;
    for (high = o->block[s.block]->count; s.i < high;) {
        size_t middle = (s.i + high) / 2;

        if (is_behind(entry, o->block[s.block]->place[middle], id))
            high = middle;
        else
            s.i = middle + 1;
    }
    return s;
}

bool id_order_next(const struct id_order *o, struct id_spot *s, uint32_t *place)
{
    if (s->block < o->blocks && s->i == o->block[s->block]->count)
        *s = (struct id_spot){ .block = s->block + 1 };
    if (s->block == o->blocks)
        return false;
    *place = o->block[s->block]->place[s->i++];
    return true;
}

/* An empty one before that one. NULL: no memory. */
static struct id_block *add_block(struct id_order *o, size_t before)
{
    struct id_block *b = malloc(sizeof(*b));

    if (b && o->blocks == o->room) {
        size_t room = o->room ? o->room * 2 : 4;
        struct id_block **grown = realloc(o->block, room * sizeof(o->block[0]));

        if (!grown) {
            free(b);
            return NULL;
        }
        o->block = grown;
        o->room = room;
    }
    if (!b)
        return NULL;
    b->count = 0;
    memmove(o->block + before + 1, o->block + before, (o->blocks - before) * sizeof(o->block[0]));
    o->block[before] = b;
    o->blocks++;
    return b;
}

/* Room for one more at the spot. Ids that are made one after the other leave full blocks. */
static bool split(struct id_order *o, struct id_spot *s)
{
    bool last = s->block + 1 == o->blocks && s->i == BLOCK;
    uint32_t kept = last ? BLOCK : BLOCK / 2;
    struct id_block *next = add_block(o, s->block + 1), *b;

    if (!next)
        return false;
    b = o->block[s->block];
    next->count = b->count - kept;
    memcpy(next->place, b->place + kept, next->count * sizeof(b->place[0]));
    b->count = kept;
    if (s->i >= kept)
        *s = (struct id_spot){ .block = s->block + 1, .i = s->i - kept };
    return true;
}

bool id_order_put(struct id_order *o, const struct id_entry *entry, uint32_t place)
{
    struct id_spot s = id_order_seek(o, entry, entry[place].id);
    struct id_block *b;

    if ((!o->blocks && !add_block(o, 0)) || (o->block[s.block]->count == BLOCK && !split(o, &s)))
        return false;
    b = o->block[s.block];
    memmove(b->place + s.i + 1, b->place + s.i, (b->count - s.i) * sizeof(b->place[0]));
    b->place[s.i] = place;
    b->count++;
    return true;
}

static void drop_block(struct id_order *o, size_t i)
{
    free(o->block[i]);
    o->blocks--;
    memmove(o->block + i, o->block + i + 1, (o->blocks - i) * sizeof(o->block[0]));
}

/* Two neighbours that fill half of a block, or less, become one: no two are nearly empty. */
static void join(struct id_order *o, size_t i)
{
    struct id_block *b, *next;

    if (i + 1 >= o->blocks)
        return;
    b = o->block[i];
    next = o->block[i + 1];
    if (b->count + next->count > BLOCK / 2)
        return;
    memcpy(b->place + b->count, next->place, next->count * sizeof(b->place[0]));
    b->count += next->count;
    drop_block(o, i + 1);
}

void id_order_remove(struct id_order *o, const struct id_entry *entry, uint32_t place)
{
    struct id_spot s = id_order_seek(o, entry, entry[place].id);
    struct id_block *b = o->block[s.block];

    assert(s.i && b->place[s.i - 1] == place);
    memmove(b->place + s.i - 1, b->place + s.i, (b->count - s.i) * sizeof(b->place[0]));
    if (--b->count == 0) {
        drop_block(o, s.block);
        return;
    }
    join(o, s.block);
    if (s.block)
        join(o, s.block - 1);
}

void id_order_move(struct id_order *o, const struct id_entry *entry)
{
    for (size_t i = 0; i < o->blocks; i++)
        for (uint32_t k = 0; k < o->block[i]->count; k++)
            o->block[i]->place[k] = entry[o->block[i]->place[k]].chain;
}
