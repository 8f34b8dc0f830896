#include "server/state/id_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { LEAST = 64 };

#define NOBODY UINT32_MAX /* ends a chain */

void id_map_init(struct id_map *m)
{
    *m = (struct id_map){ 0 };
}

void id_map_init_ordered(struct id_map *m)
{
    *m = (struct id_map){ .ordered = true };
}

void id_map_finish(struct id_map *m)
{
    for (size_t i = 0; i < m->owners; i++)
        id_order_finish(&m->owner[i].order);
    free(m->entry);
    free(m->bucket);
    free(m->owner);
    id_map_init(m);
}

static uint32_t hash_of(uint64_t owner, const char *id)
{
    return (uint32_t)XXH3_64bits_withSeed(id, strlen(id), owner);
}

static uint32_t *bucket_of(const struct id_map *m, uint32_t hash)
{
    return &m->bucket[hash & (m->capacity - 1)];
}

static struct id_entry *find_entry(const struct id_map *m, uint64_t owner, const char *id)
{
    uint32_t hash = hash_of(owner, id);
    struct id_entry *e;

    if (!m->count)
        return NULL;
    for (uint32_t at = *bucket_of(m, hash); at != NOBODY; at = e->chain) {
        e = &m->entry[at];
        if (e->hash == hash && e->owner == owner && strcmp(e->id, id) == 0)
            return e;
    }
    return NULL;
}

void *id_map_find(const struct id_map *m, uint64_t owner, const struct id *id)
{
    struct id_entry *e = find_entry(m, owner, id->text);

    return e ? e->value : NULL;
}

static void chain_up(struct id_map *m, size_t at)
{
    uint32_t *bucket = bucket_of(m, m->entry[at].hash);

    m->entry[at].chain = *bucket;
    *bucket = (uint32_t)at;
}

static void close_gaps(struct id_map *m)
{
    size_t kept = 0;

    for (size_t i = m->first; i < m->used; i++)
        if (m->entry[i].id)
            m->entry[i].chain = (uint32_t)kept++; /* where it will be */
    for (size_t i = 0; i < m->owners; i++)
        id_order_move(&m->owner[i].order, m->entry);
    kept = 0;
    for (size_t i = m->first; i < m->used; i++)
        if (m->entry[i].id)
            m->entry[kept++] = m->entry[i];
    m->first = 0;
    m->used = kept;
}

static void chain_all(struct id_map *m)
{
    if (m->bucket)
        memset(m->bucket, 0xff, m->capacity * sizeof(*m->bucket)); /* NOBODY */
    for (size_t i = 0; i < m->used; i++)
        chain_up(m, i);
}

/* Without gaps, and with room for one more. Half of a new array is free, so that this is rare. */
static bool make_room(struct id_map *m)
{
    struct id_entry *entry;
    size_t capacity = LEAST;
    uint32_t *bucket;

    while (capacity < 2 * m->count + 2)
        capacity *= 2;
    assert(capacity < NOBODY);
    if (!(bucket = malloc(capacity * sizeof(*bucket))))
        return false;
    close_gaps(m);
    entry = realloc(m->entry, capacity * sizeof(*entry));
    free(entry ? m->bucket : bucket);
    if (entry) {
        m->entry = entry;
        m->bucket = bucket;
        m->capacity = capacity;
    }
    chain_all(m); /* they have other places now, in the old array, too */
    return entry != NULL;
}

static struct id_owner *find_owner(const struct id_map *m, uint64_t owner)
{
    for (size_t i = 0; i < m->owners; i++)
        if (m->owner[i].owner == owner)
            return &m->owner[i];
    return NULL;
}

size_t id_map_count(const struct id_map *m, uint64_t owner)
{
    const struct id_owner *o = find_owner(m, owner);

    return o ? o->count : 0;
}

/* NULL: no memory. One without entries stays: there are few owners. */
static struct id_owner *take_owner(struct id_map *m, uint64_t owner)
{
    struct id_owner *o = find_owner(m, owner);

    if (o)
        return o;
    if (m->owners == m->owners_capacity) {
        size_t capacity = m->owners ? m->owners * 2 : 4;
        struct id_owner *grown = realloc(m->owner, capacity * sizeof(*grown));

        if (!grown)
            return NULL;
        m->owner = grown;
        m->owners_capacity = capacity;
    }
    m->owner[m->owners] = (struct id_owner){ .owner = owner };
    return &m->owner[m->owners++];
}

bool id_map_put(struct id_map *m, uint64_t owner, const char *id, void *value)
{
    struct id_owner *o = take_owner(m, owner);
    bool sparse = m->capacity > LEAST && m->count < m->capacity / 8;

    if (!o || ((m->used == m->capacity || sparse) && !make_room(m)))
        return false;
    m->entry[m->used] =
        (struct id_entry){ .owner = owner, .id = id, .value = value, .hash = hash_of(owner, id) };
    if (m->ordered && !id_order_put(&o->order, m->entry, (uint32_t)m->used))
        return false;
    chain_up(m, m->used++);
    m->count++;
    o->count++;
    return true;
}

void *id_map_remove(struct id_map *m, uint64_t owner, const char *id)
{
    struct id_entry *e = find_entry(m, owner, id);
    struct id_owner *o;
    uint32_t *at;

    if (!e)
        return NULL;
    for (at = bucket_of(m, e->hash); &m->entry[*at] != e; at = &m->entry[*at].chain)
        ;
    *at = e->chain;
    o = find_owner(m, owner);
    if (m->ordered)
        id_order_remove(&o->order, m->entry, (uint32_t)(e - m->entry));
    e->id = NULL;
    while (m->first < m->used && !m->entry[m->first].id)
        m->first++;
    m->count--;
    o->count--;
    return e->value;
}

struct id_entry *id_map_walk(const struct id_map *m, size_t *place)
{
    if (*place < m->first)
        *place = m->first;
    while (*place < m->used && !m->entry[*place].id)
        ++*place;
    return *place < m->used ? &m->entry[*place] : NULL;
}

void id_map_page(const struct id_map *m, struct id_page *page)
{
    const struct id_owner *o = find_owner(m, page->owner);
    struct id_spot spot;
    uint32_t place;

    assert(m->ordered);
    page->count = 0;
    if (!o)
        return;
    spot = id_order_seek(&o->order, m->entry, page->after->text);
    while (page->count < page->room && id_order_next(&o->order, &spot, &place)) {
        struct id_entry *e = &m->entry[place];

        if (!page->wants || page->wants(e->value, page->arg))
            page->entry[page->count++] = e;
    }
}
