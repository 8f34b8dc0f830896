#include "server/state/record.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kernels/backend.h"

/* Records are got in pieces of about so many bytes, or one by one where one is larger. */
enum { SLAB_BYTES = 16 << 20, FRONT = 64 };

/* In front of the bytes, which begin FRONT bytes behind it. */
struct record {
    struct record_pool *pool; /* NULL: of no pool */
    struct record *next;      /* among the idle */
    struct record_move newest;
    atomic_int refs;
    struct slab *slab; /* it lies in; NULL: malloc's */
};

_Static_assert(sizeof(struct record) <= FRONT, "there is room for it");

struct slab {
    void *memory;
    size_t bytes, records;
    size_t free; /* during a rest: those that are idle, and that no move touches */
    struct slab *next;
};

struct record_pool {
    struct backend *backend; /* borrowed */
    size_t stride;
    pthread_mutex_t lock; /* of what follows */
    size_t room;          /* of the bound, what is not in slabs yet */
    struct slab *slabs;
    struct record *idle;  /* of slabs */
    struct record *spare; /* of malloc, or NULL */
    size_t out;           /* records that are not idle */
    bool closed;
};

/* So that the records of a slab are aligned to FRONT. */
static size_t stride_of(size_t record_bytes)
{
    return FRONT + (record_bytes + FRONT - 1) / FRONT * FRONT;
}

struct record_pool *record_pool_create(struct backend *backend, size_t record_bytes, size_t bound)
{
    struct record_pool *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->backend = backend;
    p->stride = stride_of(record_bytes);
    p->room = backend->alloc_host ? bound : 0;
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

static void destroy(struct record_pool *p)
{
    for (struct slab *s; (s = p->slabs);) {
        p->slabs = s->next;
        p->backend->free_host(p->backend, s->memory, s->bytes);
        free(s);
    }
    free(p->spare);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void record_pool_close(struct record_pool *p)
{
    bool last;

    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->closed = true;
    last = !p->out;
    pthread_mutex_unlock(&p->lock);
    if (last)
        destroy(p);
}

/* One that is idle, which is counted as out. Nobody moves what is idle: what touches it is said by
 * whoever had it. */
static struct record *take_idle(struct record_pool *p, bool still)
{
    struct record **from = &p->idle, *r;

    pthread_mutex_lock(&p->lock);
    while (still && *from && (*from)->newest.number)
        from = &(*from)->next;
    if (!*from)
        from = &p->spare;
    r = *from;
    if (r)
        *from = r->next;
    p->out += r != NULL;
    pthread_mutex_unlock(&p->lock);
    return r;
}

/* All but the first, which is out. */
static struct record *make_idle(struct record_pool *p, struct slab *s)
{
    struct record *r = NULL;

    pthread_mutex_lock(&p->lock);
    s->next = p->slabs;
    p->slabs = s;
    for (size_t i = s->records; i-- > 0;) {
        r = (struct record *)(void *)((char *)s->memory + i * p->stride);
        *r = (struct record){ .pool = p, .slab = s, .next = i ? p->idle : NULL };
        if (i)
            p->idle = r;
    }
    p->out++;
    pthread_mutex_unlock(&p->lock);
    return r;
}

/* The bound is kept though several grow the pool at once: room is taken first. */
static size_t take_room(struct record_pool *p)
{
    size_t fit, most = SLAB_BYTES / p->stride, records;

    pthread_mutex_lock(&p->lock);
    fit = p->room / p->stride;
    records = fit < 1 || most < 1 ? fit > 0 : fit < most ? fit : most;
    p->room -= records * p->stride;
    pthread_mutex_unlock(&p->lock);
    return records;
}

/* A backend that has no room for a piece is not asked again. NULL: no room. */
static struct record *grow(struct record_pool *p)
{
    const size_t records = take_room(p);
    struct slab *s = records ? malloc(sizeof(*s)) : NULL;

    if (s) {
        s->records = records;
        s->bytes = records * p->stride;
        s->memory = p->backend->alloc_host(p->backend, s->bytes);
        if (s->memory)
            return make_idle(p, s);
    }
    pthread_mutex_lock(&p->lock);
    p->room = s ? 0 : p->room + records * p->stride;
    pthread_mutex_unlock(&p->lock);
    free(s);
    return NULL;
}

static struct record *from_malloc(struct record_pool *p, size_t stride)
{
    struct record *r = malloc(stride);

    if (!r)
        return NULL;
    *r = (struct record){ .pool = p };
    if (p) {
        pthread_mutex_lock(&p->lock);
        p->out++;
        pthread_mutex_unlock(&p->lock);
    }
    return r;
}

static void *hand_out(struct record *r)
{
    if (!r)
        return NULL;
    atomic_init(&r->refs, 1);
    return (char *)r + FRONT;
}

static void *take(struct record_pool *p, bool still)
{
    struct record *r = take_idle(p, still);

    if (!r)
        r = grow(p);
    return hand_out(r ? r : from_malloc(p, p->stride));
}

void *record_take(struct record_pool *p)
{
    return take(p, false);
}

void *record_take_still(struct record_pool *p)
{
    return take(p, true);
}

void *record_create(size_t bytes)
{
    return hand_out(from_malloc(NULL, stride_of(bytes)));
}

static struct record *of(void *record)
{
    return (struct record *)(void *)((char *)record - FRONT);
}

void *record_keep(void *record)
{
    atomic_fetch_add(&of(record)->refs, 1);
    return record;
}

/* Takes back one that nobody has any more. */
static void give_back(struct record_pool *p, struct record *r)
{
    struct record **to = r->slab ? &p->idle : &p->spare;
    bool kept, last;

    pthread_mutex_lock(&p->lock);
    kept = r->slab || (!p->spare && !p->slabs);
    if (kept) {
        if (!r->slab)
            r->newest = (struct record_move){ 0 }; /* a move was done with it when it returned */
        r->next = *to;
        *to = r;
    }
    last = --p->out == 0 && p->closed;
    pthread_mutex_unlock(&p->lock);
    if (!kept)
        free(r);
    if (last)
        destroy(p);
}

void record_release(void *record)
{
    struct record *r = record ? of(record) : NULL;

    if (!r || atomic_fetch_sub(&r->refs, 1) > 1)
        return;
    if (r->pool)
        give_back(r->pool, r);
    else
        free(r);
}

static void count_free(struct record_pool *p)
{
    for (struct slab *s = p->slabs; s; s = s->next)
        s->free = 0;
    for (struct record *r = p->idle; r; r = r->next)
        r->slab->free += !r->newest.number;
}

void record_pool_rest(struct record_pool *p)
{
    pthread_mutex_lock(&p->lock);
    count_free(p);
    for (struct record **at = &p->idle, *r; (r = *at);) {
        if (r->slab->free == r->slab->records)
            *at = r->next;
        else
            at = &r->next;
    }
    for (struct slab **at = &p->slabs, *s; (s = *at);) {
        if (s->free < s->records) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        p->room += s->bytes;
        p->backend->free_host(p->backend, s->memory, s->bytes);
        free(s);
    }
    pthread_mutex_unlock(&p->lock);
}

struct record_move *record_newest_move(void *record)
{
    return &of(record)->newest;
}
