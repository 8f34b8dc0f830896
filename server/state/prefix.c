#include "server/state/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "server/state/checkpoint.h"
#include "server/state/tiers.h"

/* An edge and where it ends. The root of an owner has no ids and no parent. */
struct prefix_place {
    struct prefix_place *parent, *child, *before, *next; /* before, next: of the same parent */
    struct prefix_place *chain;                          /* of its bucket */
    uint64_t key;                                        /* its first id; a root's owner */
    int32_t *id;
    size_t len;
    struct checkpoint *checkpoint;        /* remembered; NULL: a branching, or a root */
    struct prefix_place *colder, *warmer; /* of those with a checkpoint */
};

struct prefix {
    struct tiers *tiers; /* borrowed */
    struct prefix_place **bucket;
    size_t buckets, nodes, places, bytes, limit;
    struct prefix_place *coldest, *warmest;
};

struct prefix *prefix_create(struct tiers *t, size_t bytes)
{
    struct prefix *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->tiers = t;
    p->limit = bytes;
    p->buckets = 64;
    p->bucket = calloc(p->buckets, sizeof(struct prefix_place *));
    if (!p->bucket) {
        free(p);
        return NULL;
    }
    return p;
}

static size_t cost(const struct prefix_place *n)
{
    return sizeof(*n) + n->len * sizeof(n->id[0]);
}

static struct prefix_place **bucket_of(const struct prefix *p, const struct prefix_place *parent,
                                       uint64_t key)
{
    uint64_t h = ((uint64_t)(uintptr_t)parent >> 4) * 0x9e3779b97f4a7c15u;

    h = (h ^ key) * 0xbf58476d1ce4e5b9u;
    return &p->bucket[(h ^ h >> 31) & (p->buckets - 1)];
}

static struct prefix_place *find_child(const struct prefix *p, const struct prefix_place *parent,
                                       uint64_t key)
{
    struct prefix_place *n = *bucket_of(p, parent, key);

    while (n && (n->parent != parent || n->key != key))
        n = n->chain;
    return n;
}

static void enlist(struct prefix *p, struct prefix_place *n)
{
    struct prefix_place **bucket = bucket_of(p, n->parent, n->key);

    n->chain = *bucket;
    *bucket = n;
}

static void delist(struct prefix *p, const struct prefix_place *n)
{
    struct prefix_place **at = bucket_of(p, n->parent, n->key);

    while (*at != n)
        at = &(*at)->chain;
    *at = n->chain;
}

/* Chains grow long when there is no memory for more buckets; that is all. */
static void grow(struct prefix *p)
{
    size_t buckets = p->buckets;
    struct prefix_place **old = p->bucket, **bucket;

    if (p->nodes < buckets)
        return;
    bucket = calloc(buckets * 2, sizeof(struct prefix_place *));
    if (!bucket)
        return;
    p->bucket = bucket;
    p->buckets = buckets * 2;
    for (size_t i = 0; i < buckets; i++)
        for (struct prefix_place *n = old[i], *next; n; n = next) {
            next = n->chain;
            enlist(p, n);
        }
    free(old);
}

/* Hangs it below a parent, which a root does not have. */
static void attach(struct prefix *p, struct prefix_place *n, struct prefix_place *parent)
{
    n->parent = parent;
    n->before = NULL;
    n->next = parent ? parent->child : NULL;
    if (n->next)
        n->next->before = n;
    if (parent)
        parent->child = n;
    enlist(p, n);
}

static void detach(struct prefix *p, struct prefix_place *n)
{
    delist(p, n);
    if (n->next)
        n->next->before = n->before;
    if (n->before)
        n->before->next = n->next;
    else if (n->parent)
        n->parent->child = n->next;
}

static struct prefix_place *create(struct prefix *p, struct prefix_place *parent, uint64_t key,
                                   const int32_t *id, size_t len)
{
    struct prefix_place *n = calloc(1, sizeof(*n));

    if (!n || (len && !(n->id = malloc(len * sizeof(*id))))) {
        free(n);
        return NULL;
    }
    if (len)
        memcpy(n->id, id, len * sizeof(*id));
    n->key = key;
    n->len = len;
    p->bytes += cost(n);
    p->nodes++;
    attach(p, n, parent);
    grow(p);
    return n;
}

static void destroy(struct prefix *p, struct prefix_place *n)
{
    p->bytes -= cost(n);
    p->nodes--;
    free(n->id);
    free(n);
}

static void unlink_place(struct prefix *p, struct prefix_place *n)
{
    *(n->colder ? &n->colder->warmer : &p->coldest) = n->warmer;
    *(n->warmer ? &n->warmer->colder : &p->warmest) = n->colder;
    p->places--;
}

static void link_warmest(struct prefix *p, struct prefix_place *n)
{
    n->warmer = NULL;
    n->colder = p->warmest;
    *(p->warmest ? &p->warmest->warmer : &p->coldest) = n;
    p->warmest = n;
    p->places++;
}

/* A branching with one way out becomes part of that way. Without memory it stays. */
static void join(struct prefix *p, struct prefix_place *n)
{
    struct prefix_place *child = n->child;
    int32_t *id = malloc((n->len + child->len) * sizeof(*id));

    if (!id)
        return;
    memcpy(id, n->id, n->len * sizeof(*id));
    memcpy(id + n->len, child->id, child->len * sizeof(*id));
    detach(p, child);
    p->bytes += n->len * sizeof(*id);
    free(child->id);
    child->id = id;
    child->len += n->len;
    child->key = n->key;
    detach(p, n);
    attach(p, child, n->parent);
    destroy(p, n);
}

/* What leads nowhere goes. */
static void prune(struct prefix *p, struct prefix_place *n)
{
    while (n && !n->checkpoint && !n->child) {
        struct prefix_place *parent = n->parent;

        detach(p, n);
        destroy(p, n);
        n = parent;
    }
    if (n && n->parent && !n->checkpoint && !n->child->next)
        join(p, n);
}

static void forget(struct prefix *p, struct prefix_place *n)
{
    struct checkpoint *c = n->checkpoint;

    unlink_place(p, n);
    n->checkpoint = NULL;
    prune(p, n);
    c->place = NULL;
    tiers_forget(p->tiers, c);
}

void prefix_destroy(struct prefix *p)
{
    if (!p)
        return;
    while (p->coldest)
        forget(p, p->coldest);
    assert(p->nodes == 0 && p->bytes == 0);
    free(p->bucket);
    free(p);
}

static size_t common(const int32_t *a, const int32_t *b, size_t n)
{
    size_t i = 0;

    while (i < n && a[i] == b[i])
        i++;
    return i;
}

struct checkpoint *prefix_find(struct prefix *p, uint64_t owner, const int32_t *id, size_t n,
                               size_t *len)
{
    struct prefix_place *at = find_child(p, NULL, owner), *best = NULL;
    size_t depth = 0;

    while (at && depth < n) {
        at = find_child(p, at, (uint64_t)id[depth]);
        if (!at || at->len > n - depth || common(at->id, id + depth, at->len) < at->len)
            break;
        depth += at->len;
        if (at->checkpoint && tiers_has_record(at->checkpoint)) {
            best = at;
            *len = depth;
        }
    }
    if (!best)
        return NULL;
    unlink_place(p, best);
    link_warmest(p, best);
    return best->checkpoint;
}

/* Cuts an edge in two; returns the new, upper half. NULL: no memory. */
static struct prefix_place *split(struct prefix *p, struct prefix_place *n, size_t at)
{
    struct prefix_place *upper;

    detach(p, n);
    upper = create(p, n->parent, n->key, n->id, at);
    if (!upper) {
        attach(p, n, n->parent);
        return NULL;
    }
    p->bytes -= at * sizeof(n->id[0]);
    n->len -= at;
    memmove(n->id, n->id + at, n->len * sizeof(n->id[0]));
    n->key = (uint64_t)n->id[0];
    attach(p, n, upper);
    return upper;
}

/* The place after n ids; what is missing is made. NULL: no memory. */
static struct prefix_place *reach(struct prefix *p, uint64_t owner, const int32_t *id, size_t n)
{
    struct prefix_place *at = find_child(p, NULL, owner), *next;

    if (!at && !(at = create(p, NULL, owner, NULL, 0)))
        return NULL;
    for (size_t same; n; id += same, n -= same) {
        next = find_child(p, at, (uint64_t)id[0]);
        if (next) {
            same = common(next->id, id, next->len < n ? next->len : n);
            next = same < next->len ? split(p, next, same) : next;
        } else {
            next = create(p, at, (uint64_t)id[0], id, n);
            same = n;
        }
        if (!next) {
            prune(p, at);
            return NULL;
        }
        at = next;
    }
    return at;
}

void prefix_add(struct prefix *p, uint64_t owner, const int32_t *id, size_t n, struct checkpoint *c)
{
    struct prefix_place *at;

    assert(n > 0);
    if (c->place || n * sizeof(*id) > p->limit)
        return;
    at = reach(p, owner, id, n);
    if (!at || at->checkpoint)
        return;
    at->checkpoint = tiers_remember(c);
    c->place = at;
    link_warmest(p, at);
    while (p->bytes > p->limit)
        forget(p, p->coldest);
}

void prefix_lost(struct prefix *p, struct checkpoint *c)
{
    if (c->place)
        forget(p, c->place);
}

size_t prefix_bytes(const struct prefix *p)
{
    return p->bytes;
}

size_t prefix_places(const struct prefix *p)
{
    return p->places;
}
