#include "server/state/past.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/limits.h"
#include "server/state/checkpoint.h"
#include "server/state/tiers.h"

enum { CHUNK = 256 };

/* Pasts that share a chunk each read up to their own end; only one of them ever wrote
 * further. */
struct chunk {
    int refs;
    size_t used;
    uint32_t token[CHUNK];
};

struct past {
    int refs;
    uint64_t begin, end;
    struct chunk **chunk; /* full, but for the last */
    size_t chunks, chunk_capacity;
    struct checkpoint **turn; /* remembered, oldest first */
    size_t turns, turn_capacity;
};

static size_t chunks_for(size_t tokens)
{
    return (tokens + CHUNK - 1) / CHUNK;
}

static bool grow(void *array, size_t *capacity, size_t n, size_t size)
{
    void **at = array, *grown;
    size_t wanted = *capacity ? *capacity : 4;

    if (n <= *capacity)
        return true;
    while (wanted < n)
        wanted *= 2;
    grown = realloc(*at, wanted * size);
    if (!grown)
        return false;
    *at = grown;
    *capacity = wanted;
    return true;
}

static void chunk_release(struct chunk *c)
{
    if (--c->refs == 0)
        free(c);
}

/* A copy of its first `used` ids, or an empty chunk. */
static struct chunk *chunk_create(const struct chunk *from, size_t used)
{
    struct chunk *c = malloc(sizeof(*c));

    if (!c)
        return NULL;
    c->refs = 1;
    c->used = used;
    if (used)
        memcpy(c->token, from->token, used * sizeof(c->token[0]));
    return c;
}

struct past *past_keep(struct past *p)
{
    if (p)
        p->refs++;
    return p;
}

void past_release(struct tiers *t, struct past *p)
{
    if (!p || --p->refs > 0)
        return;
    for (size_t i = 0; i < p->chunks; i++)
        chunk_release(p->chunk[i]);
    for (size_t i = 0; i < p->turns; i++)
        tiers_forget(t, p->turn[i]);
    free(p->chunk);
    free(p->turn);
    free(p);
}

/* One that nobody else has, with the same content. */
static struct past *own(struct tiers *t, struct past *p)
{
    struct past *copy;

    if (p && p->refs == 1)
        return past_keep(p);
    copy = calloc(1, sizeof(*copy));
    if (!copy)
        return NULL;
    copy->refs = 1;
    if (!p)
        return copy;
    copy->begin = p->begin;
    copy->end = p->end;
    if (!grow(&copy->chunk, &copy->chunk_capacity, p->chunks, sizeof(struct chunk *)) ||
        !grow(&copy->turn, &copy->turn_capacity, p->turns, sizeof(struct checkpoint *))) {
        past_release(t, copy);
        return NULL;
    }
    for (size_t i = 0; i < p->chunks; i++) {
        copy->chunk[copy->chunks++] = p->chunk[i];
        p->chunk[i]->refs++;
    }
    for (size_t i = 0; i < p->turns; i++)
        copy->turn[copy->turns++] = tiers_remember(p->turn[i]);
    return copy;
}

/* Room for n more ids: the last chunk is ours to write, and empty ones follow it. */
static bool make_room(struct past *p, size_t n)
{
    size_t fill = (size_t)(p->end - p->begin), last = fill % CHUNK, wanted = chunks_for(fill + n);
    struct chunk *c;

    if (!grow(&p->chunk, &p->chunk_capacity, wanted, sizeof(struct chunk *)))
        return false;
    if (last && n) {
        c = p->chunk[p->chunks - 1];
        if (c->refs > 1 && c->used > last) {
            if (!(c = chunk_create(c, last)))
                return false;
            chunk_release(p->chunk[p->chunks - 1]);
            p->chunk[p->chunks - 1] = c;
        }
        c->used = last;
    }
    for (size_t i = p->chunks; i < wanted; i++) {
        if (!(p->chunk[i] = chunk_create(NULL, 0))) {
            while (i > p->chunks)
                free(p->chunk[--i]);
            return false;
        }
    }
    p->chunks = wanted;
    return true;
}

static void put(struct past *p, uint32_t token)
{
    size_t at = (size_t)(p->end - p->begin);
    struct chunk *c = p->chunk[at / CHUNK];

    c->token[at % CHUNK] = token;
    c->used = at % CHUNK + 1;
    p->end++;
}

/* Whole chunks go while enough remains, and with them the turns that are out of reach. */
static void trim(struct tiers *t, struct past *p)
{
    size_t extra = 0, turns = 0;

    while (p->end - p->begin - extra * CHUNK >= LIMIT_HISTORY_TOKENS + CHUNK)
        chunk_release(p->chunk[extra++]);
    p->chunks -= extra;
    p->begin += extra * CHUNK;
    if (extra)
        memmove(p->chunk, p->chunk + extra, p->chunks * sizeof(struct chunk *));
    while (turns < p->turns &&
           (p->turns - turns > LIMIT_HISTORY_TURNS || p->turn[turns]->position < past_reach(p)))
        tiers_forget(t, p->turn[turns++]);
    p->turns -= turns;
    if (turns)
        memmove(p->turn, p->turn + turns, p->turns * sizeof(struct checkpoint *));
}

bool past_create(struct past **out, uint64_t position, const uint32_t *token, size_t n)
{
    struct past *p;

    assert(n <= position && n <= LIMIT_HISTORY_TOKENS);
    *out = NULL;
    if (!position)
        return true;
    p = own(NULL, NULL);
    if (!p)
        return false;
    p->begin = p->end = position - n;
    if (!make_room(p, n)) {
        past_release(NULL, p);
        return false;
    }
    for (size_t i = 0; i < n; i++)
        put(p, token[i]);
    *out = p;
    return true;
}

/* Gives *p what was made of it: a changed one of its own, or the same as before. */
static void replace(struct tiers *t, struct past **p, struct past *by)
{
    past_release(t, *p);
    *p = by;
}

bool past_take_turn(struct tiers *t, struct past **p, struct checkpoint *from, const int32_t *id,
                    size_t n, size_t sampled)
{
    struct past *next = own(t, *p);

    if (!next)
        return false;
    assert(past_end(next) == from->position);
    if (!grow(&next->turn, &next->turn_capacity, next->turns + 1, sizeof(struct checkpoint *)) ||
        !make_room(next, n)) {
        past_release(t, next);
        return false;
    }
    next->turn[next->turns++] = tiers_remember(from);
    for (size_t i = 0; i < n; i++)
        put(next, (uint32_t)id[i] | (i >= sampled ? RECENT_SAMPLED : 0));
    trim(t, next);
    replace(t, p, next);
    return true;
}

bool past_cut(struct tiers *t, struct past **p, uint64_t position)
{
    struct past *next;

    assert(position <= past_end(*p) && (position == 0 || position >= past_begin(*p)));
    if (position == 0) {
        replace(t, p, NULL);
        return true;
    }
    next = own(t, *p);
    if (!next)
        return false;
    while (next->chunks > chunks_for((size_t)(position - next->begin)))
        chunk_release(next->chunk[--next->chunks]);
    while (next->turns && next->turn[next->turns - 1]->position >= position)
        tiers_forget(t, next->turn[--next->turns]);
    next->end = position;
    replace(t, p, next);
    return true;
}

uint64_t past_end(const struct past *p)
{
    return p ? p->end : 0;
}

uint64_t past_begin(const struct past *p)
{
    return p ? p->begin : 0;
}

uint64_t past_reach(const struct past *p)
{
    return past_begin(p) ? p->begin + LIMIT_PENALTY_WINDOW : 0;
}

void past_read(const struct past *p, uint64_t from, size_t n, uint32_t *token)
{
    while (n) {
        size_t at = (size_t)(from - p->begin), some = CHUNK - at % CHUNK;

        if (some > n)
            some = n;
        assert(from >= p->begin && from + some <= p->end);
        memcpy(token, p->chunk[at / CHUNK]->token + at % CHUNK, some * sizeof(*token));
        token += some;
        from += some;
        n -= some;
    }
}

void past_recent(const struct past *p, struct recent *recent)
{
    uint64_t known = past_end(p) - past_begin(p);

    recent->count = known < LIMIT_PENALTY_WINDOW ? (int)known : LIMIT_PENALTY_WINDOW;
    if (recent->count)
        past_read(p, p->end - (uint64_t)recent->count, (size_t)recent->count, recent->token);
}

struct checkpoint *past_find_turn(const struct past *p, size_t n)
{
    return p && n && n <= p->turns ? p->turn[p->turns - n] : NULL;
}

struct checkpoint *past_find(const struct past *p, uint64_t position, bool exact)
{
    for (size_t i = p ? p->turns : 0; i-- > 0;) {
        struct checkpoint *c = p->turn[i];

        if (exact ? c->position == position : c->position <= position && tiers_has_record(c))
            return c;
    }
    return NULL;
}

struct checkpoint *past_find_after(const struct past *p, uint64_t position)
{
    for (size_t i = 0; i < (p ? p->turns : 0); i++)
        if (p->turn[i]->position > position)
            return p->turn[i];
    return NULL;
}
