#include "server/state/id_map.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { FIRST_BUCKETS = 64 };

void id_map_init(struct id_map *m)
{
    *m = (struct id_map){ 0 };
}

void id_map_finish(struct id_map *m)
{
    for (struct id_entry *e = m->first, *next; e; e = next) {
        next = e->next;
        free(e);
    }
    free(m->bucket);
    free(m->owner);
    id_map_init(m);
}

static struct id_entry **bucket_of(const struct id_map *m, uint64_t owner, const struct id *id)
{
    XXH64_hash_t hash = XXH3_64bits_withSeed(id->text, strlen(id->text), owner);

    return &m->bucket[hash & (m->buckets - 1)];
}

static struct id_entry *find_entry(const struct id_map *m, uint64_t owner, const struct id *id)
{
    if (!m->buckets)
        return NULL;
    for (struct id_entry *e = *bucket_of(m, owner, id); e; e = e->chain)
        if (e->owner == owner && id_equal(&e->id, id))
            return e;
    return NULL;
}

void *id_map_find(const struct id_map *m, uint64_t owner, const struct id *id)
{
    struct id_entry *e = find_entry(m, owner, id);

    return e ? e->value : NULL;
}

static bool grow(struct id_map *m)
{
    size_t buckets = m->buckets ? m->buckets * 2 : FIRST_BUCKETS;
    struct id_entry **bucket = calloc(buckets, sizeof(*bucket));

    if (!bucket)
        return false;
    free(m->bucket);
    m->bucket = bucket;
    m->buckets = buckets;
    for (struct id_entry *e = m->first; e; e = e->next) {
        struct id_entry **at = bucket_of(m, e->owner, &e->id);
        e->chain = *at;
        *at = e;
    }
    return true;
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

bool id_map_put(struct id_map *m, uint64_t owner, const struct id *id, void *value)
{
    struct id_owner *o = take_owner(m, owner);
    struct id_entry *e, **at;

    if (!o || (m->count >= m->buckets && !grow(m)))
        return false;
    e = malloc(sizeof(*e));
    if (!e)
        return false;
    at = bucket_of(m, owner, id);
    *e = (struct id_entry){
        .owner = owner, .id = *id, .value = value, .chain = *at, .before = m->last
    };
    *at = e;
    if (m->last)
        m->last->next = e;
    else
        m->first = e;
    m->last = e;
    m->count++;
    o->count++;
    return true;
}

void *id_map_remove(struct id_map *m, uint64_t owner, const struct id *id)
{
    struct id_entry *e = find_entry(m, owner, id), **at;
    void *value;

    if (!e)
        return NULL;
    for (at = bucket_of(m, owner, id); *at != e; at = &(*at)->chain)
        ;
    *at = e->chain;
    *(e->before ? &e->before->next : &m->first) = e->next;
    *(e->next ? &e->next->before : &m->last) = e->before;
    m->count--;
    find_owner(m, owner)->count--;
    value = e->value;
    free(e);
    return value;
}

struct id_entry *id_map_next(const struct id_map *m, uint64_t owner, const struct id *after)
{
    struct id_entry *e = after->text[0] ? find_entry(m, owner, after) : NULL;

    if (after->text[0] && !e)
        return NULL;
    for (e = e ? e->next : m->first; e && e->owner != owner; e = e->next)
        ;
    return e;
}
