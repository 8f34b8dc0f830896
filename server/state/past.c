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
    struct checkpoint **mark; /* remembered, oldest first */
    size_t marks, mark_capacity;
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
    for (size_t i = 0; i < p->marks; i++)
        tiers_forget(t, p->mark[i]);
    free(p->chunk);
    free(p->mark);
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
        !grow(&copy->mark, &copy->mark_capacity, p->marks, sizeof(struct checkpoint *))) {
        past_release(t, copy);
        return NULL;
    }
    for (size_t i = 0; i < p->chunks; i++) {
        copy->chunk[copy->chunks++] = p->chunk[i];
        p->chunk[i]->refs++;
    }
    for (size_t i = 0; i < p->marks; i++)
        copy->mark[copy->marks++] = tiers_remember(p->mark[i]);
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

/* What is out of reach is forgotten: the turns, and the anchors that lie before every id. */
static void drop_marks(struct tiers *t, struct past *p)
{
    size_t turns = 0, kept = 0;

    for (size_t i = 0; i < p->marks; i++)
        turns += !p->mark[i]->inside;
    for (size_t i = 0; i < p->marks; i++) {
        struct checkpoint *c = p->mark[i];
        bool turn = !c->inside && turns <= LIMIT_HISTORY_TURNS && c->position >= past_reach(p);

        turns -= !c->inside;
        if (turn || (c->anchor && checkpoint_covers(c) >= p->begin))
            p->mark[kept++] = c;
        else
            tiers_forget(t, c);
    }
    p->marks = kept;
}

/* Whole chunks go while enough remains. */
static void trim(struct tiers *t, struct past *p, size_t window)
{
    const size_t known = window + window / 2;
    size_t extra = 0;

    while (p->end - p->begin - extra * CHUNK >= known + CHUNK)
        chunk_release(p->chunk[extra++]);
    p->chunks -= extra;
    p->begin += extra * CHUNK;
    if (extra)
        memmove(p->chunk, p->chunk + extra, p->chunks * sizeof(struct chunk *));
    drop_marks(t, p);
}

static struct past *create(struct tiers *t, uint64_t position, const uint32_t *token, size_t n)
{
    struct past *p = own(t, NULL);

    assert(n <= position && n <= LIMIT_HISTORY_IDS);
    if (!p)
        return NULL;
    p->begin = p->end = position - n;
    if (!make_room(p, n)) {
        past_release(t, p);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        put(p, token[i]);
    return p;
}

bool past_restore(struct tiers *t, struct past **out, struct checkpoint *copy)
{
    struct past *p;

    *out = NULL;
    if (!copy->position)
        return true;
    p = create(t, copy->position, copy->token, copy->tokens);
    if (!p || !grow(&p->mark, &p->mark_capacity, copy->marks, sizeof(struct checkpoint *))) {
        past_release(t, p);
        return false;
    }
    while (p->marks < copy->marks) {
        struct checkpoint *c = p->mark[p->marks] = copy->mark[p->marks];

        c->owner = copy->owner;
        tiers_remember(c);
        tiers_release(t, c);
        p->marks++;
    }
    copy->marks = 0;
    drop_marks(t, p);
    *out = p;
    return true;
}

bool past_describe(const struct past *p, struct checkpoint *copy)
{
    uint64_t known = past_end(p) - past_begin(p);
    size_t n = known < LIMIT_HISTORY_IDS ? (size_t)known : LIMIT_HISTORY_IDS;

    if (!p)
        return true;
    copy->token = malloc((n + 1) * sizeof(*copy->token));
    copy->mark = malloc((p->marks + 1) * sizeof(struct checkpoint *));
    if (!copy->token || !copy->mark)
        return false;
    copy->tokens = (uint32_t)n;
    past_read(p, p->end - n, n, copy->token);
    for (size_t i = p->marks > LIMIT_HISTORY_MARKS ? p->marks - LIMIT_HISTORY_MARKS : 0;
         i < p->marks; i++) {
        copy->mark[copy->marks] = checkpoint_copy(p->mark[i]);
        if (!copy->mark[copy->marks])
            return false;
        copy->marks++;
    }
    return true;
}

/* Gives *p what was made of it: a changed one of its own, or the same as before. */
static void replace(struct tiers *t, struct past **p, struct past *by)
{
    past_release(t, *p);
    *p = by;
}

size_t past_stride(size_t window)
{
    return window / 2 - 1;
}

/* Whether an anchor is due at `from`, for the next head will stand at `end`. */
static bool is_due(const struct past *p, const struct checkpoint *from, uint64_t end, size_t window)
{
    for (size_t i = p->marks; i-- > 0;)
        if (p->mark[i]->anchor)
            return end - p->mark[i]->position > past_stride(window);
    return from->position && (p->begin || end > past_stride(window));
}

bool past_take_turn(struct tiers *t, struct past **p, const struct past_turn *turn)
{
    struct past *next;

    if (!turn->n && !turn->from->position) /* an empty context has none */
        return true;
    next = own(t, *p);
    if (!next)
        return false;
    assert(past_end(next) == turn->from->position);
    if (!grow(&next->mark, &next->mark_capacity, next->marks + 1 + turn->anchors,
              sizeof(struct checkpoint *)) ||
        !make_room(next, turn->n)) {
        past_release(t, next);
        return false;
    }
    turn->from->anchor |= is_due(next, turn->from, next->end + turn->n, turn->window);
    next->mark[next->marks++] = tiers_remember(turn->from);
    for (size_t i = 0; i < turn->anchors; i++)
        next->mark[next->marks++] = tiers_remember(turn->anchor[i]);
    for (size_t i = 0; i < turn->n; i++)
        put(next, (uint32_t)turn->id[i] | (i >= turn->sampled ? RECENT_SAMPLED : 0));
    trim(t, next, turn->window);
    replace(t, p, next);
    return true;
}

/* How many marks lie before the place. */
static size_t marks_before(const struct past *p, const struct checkpoint *to)
{
    size_t n = p->marks;

    for (size_t i = 0; i < p->marks; i++)
        if (p->mark[i] == to || (to->id.text[0] && id_equal(&p->mark[i]->id, &to->id)))
            n = i;
    while (n && (p->mark[n - 1]->position > to->position ||
                 (p->mark[n - 1]->inside && p->mark[n - 1]->position == to->position)))
        n--;
    return n;
}

bool past_cut(struct tiers *t, struct past **p, const struct checkpoint *to)
{
    const uint64_t position = to->position;
    struct past *next;
    size_t marks;

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
    marks = marks_before(next, to);
    while (next->marks > marks)
        tiers_forget(t, next->mark[--next->marks]);
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

void past_read_ids(const struct past *p, uint64_t from, size_t n, int32_t *id)
{
    past_read(p, from, n, (uint32_t *)id);
    for (size_t i = 0; i < n; i++)
        id[i] = (int32_t)((uint32_t)id[i] & ~RECENT_SAMPLED);
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
    size_t i = p && n <= LIMIT_HISTORY_TURNS ? p->marks : 0;

    while (i && n)
        n -= !p->mark[--i]->inside;
    return i < (p ? p->marks : 0) && !n && p->mark[i]->position >= past_reach(p) ? p->mark[i]
                                                                                 : NULL;
}

struct checkpoint *past_find_start(const struct past *p, uint64_t position)
{
    for (size_t i = p ? p->marks : 0; i-- > 0;)
        if (p->mark[i]->position == position && !p->mark[i]->inside)
            return p->mark[i];
    return NULL;
}

struct checkpoint *past_find_base(const struct past *p, uint64_t covered)
{
    for (size_t i = p ? p->marks : 0; i-- > 0;) {
        struct checkpoint *c = p->mark[i];

        if (checkpoint_covers(c) <= covered && checkpoint_covers(c) >= p->begin &&
            (tiers_has_record(c) || c->anchor))
            return c;
    }
    return NULL;
}

struct checkpoint *past_find_after(const struct past *p, uint64_t position)
{
    for (size_t i = 0; i < (p ? p->marks : 0); i++)
        if (p->mark[i]->position > position && !p->mark[i]->inside)
            return p->mark[i];
    return NULL;
}
