#include "server/engine/lineage.h"

#include <assert.h>
#include <stdlib.h>

#include "server/engine/engine_internal.h"

bool lineage_find(struct engine *e, uint64_t owner, const struct id *id, struct lineage **out)
{
    struct lineage *n = id->text[0] ? id_map_find(&e->lineage, owner, id) : NULL;

    if (!n && id->text[0]) {
        n = calloc(1, sizeof(*n));
        if (!n)
            return false;
        n->id = *id;
        n->owner = owner;
        if (!id_map_put(&e->lineage, owner, n->id.text, n)) {
            free(n);
            return false;
        }
    }
    *out = lineage_keep(n);
    return true;
}

struct lineage *lineage_keep(struct lineage *n)
{
    if (n)
        n->refs++;
    return n;
}

static void unhang(struct lineage *n)
{
    if (n->before)
        n->before->next = n->next;
    else if (n->parent)
        n->parent->child = n->next;
    if (n->next)
        n->next->before = n->before;
    n->before = n->next = NULL;
}

/* Nobody waits for this record. When it fails, or is not made for want of memory or because the
 * server stops, the next start makes it. */
static void drop_mark(struct engine *e, const struct lineage *n)
{
    struct entry *x = e->closing ? NULL : entry_create(NULL, NULL);

    if (x && entry_drop_snapshot(e, x, n))
        journal_submit(e, x);
    else
        entry_free(e, x);
}

void lineage_release(struct engine *e, struct lineage *n)
{
    while (n && --n->refs == 0) {
        struct lineage *parent = n->parent;

        assert(!n->child && !n->snapshot);
        unhang(n);
        if (n->marked)
            drop_mark(e, n);
        id_map_remove(&e->lineage, n->owner, n->id.text);
        free(n);
        n = parent;
    }
}

void lineage_clear(struct engine *e)
{
    struct id_entry *at;

    for (size_t i = 0; (at = id_map_walk(&e->lineage, &i)); i++)
        free(at->value);
    id_map_finish(&e->lineage);
}

struct lineage *lineage_nearest(struct lineage *n)
{
    while (n && n->gone)
        n = n->parent;
    return n;
}

void lineage_hang(struct engine *e, struct lineage *n, struct lineage *parent)
{
    struct lineage *old = n->parent;

    if (parent == old)
        return;
    unhang(n);
    n->parent = lineage_keep(parent);
    n->next = parent ? parent->child : NULL;
    if (n->next)
        n->next->before = n;
    if (parent)
        parent->child = n;
    lineage_release(e, old);
}

struct lineage *lineage_next(struct lineage *root, struct lineage *at)
{
    if (!at)
        return root;
    if (at->child)
        return at->child;
    while (at != root && !at->next)
        at = at->parent;
    return at == root ? NULL : at->next;
}

struct snapshot *lineage_list(struct lineage *root, struct snapshot *last)
{
    for (struct lineage *at = root; (at = lineage_next(root, at));) {
        if (!at->snapshot)
            continue;
        at->snapshot->along = last;
        last = at->snapshot;
    }
    return last;
}

void lineage_number(struct lineage *root, uint64_t number)
{
    for (struct lineage *at = NULL; (at = lineage_next(root, at));)
        at->number = number;
}

bool lineage_fell(struct engine *e, struct entry *x, struct lineage *n, bool whole)
{
    if (journal_shares(e) || (n->refs == 1 && !whole))
        return entry_drop_snapshot(e, x, n);
    n->marked = true;
    return entry_mark_snapshot(e, x, n, whole || n->felled);
}

/* The disk may still say that something is below x->parent. */
static void moved(struct engine *e, struct entry *x)
{
    (void)e;
    if (x->problem.what != PROBLEM_NONE)
        lineage_keep(x->parent);
}

/* An entry that says where a place hangs now, or that it is gone. What it hung below keeps its
 * mark until the disk has the entry, to the next start if it never does: so the disk can follow
 * each place upwards whenever a crash comes. */
static struct entry *entry_away(const struct lineage *n)
{
    struct lineage *before = lineage_keep(n->parent);
    struct entry *x = entry_create(moved, NULL);

    if (x)
        x->parent = before;
    return x;
}

/* said: the entry is complete. */
static void submit_away(struct engine *e, struct entry *x, bool said)
{
    if (x && said) {
        journal_submit(e, x);
    } else if (x) {
        lineage_keep(x->parent);
        entry_free(e, x);
    }
}

/* A gone place, and its mark. */
static void hang_mark(struct engine *e, struct lineage *n, struct lineage *parent)
{
    struct entry *x = e->closing ? NULL : entry_away(n);

    lineage_hang(e, n, parent);
    submit_away(e, x, x && entry_mark_snapshot(e, x, n, n->felled));
}

/* It is gone, and hangs where it counts as being; so do the gone ones that hung below it. */
static void take_down(struct engine *e, struct lineage *n, struct lineage *up)
{
    n->gone = true;
    n->snapshot = NULL;
    lineage_hang(e, n, up);
    for (struct lineage *child = n->child, *next; child; child = next) {
        next = child->next;
        if (!child->gone)
            continue;
        child->felled |= n->felled;
        hang_mark(e, child, up);
    }
}

void lineage_end(struct engine *e, struct lineage *n)
{
    take_down(e, n, lineage_nearest(n->parent));
}

/* Its mark speaks for what is below, as the root's does, for the disk may hear of it first. */
void lineage_end_below(struct engine *e, struct lineage *n, struct lineage *root)
{
    struct entry *x = journal_shares(e) || e->closing ? NULL : entry_away(n);

    n->felled = true;
    take_down(e, n, lineage_nearest(root->parent));
    submit_away(e, x, x && lineage_fell(e, x, n, false));
}

void lineage_lose(struct engine *e, uint64_t owner, const struct id *id)
{
    struct lineage *n = id_map_find(&e->lineage, owner, id);

    if (n)
        n->gone = true;
}

void lineage_settle(struct engine *e)
{
    struct id_entry *at;

    /* Everything stays until the end: a mark is kept by what has found it. */
    for (size_t i = 0; (at = id_map_walk(&e->lineage, &i)); i++) {
        struct lineage *n = at->value;

        if (!n->gone)
            lineage_keep(n);
        n->gone = !n->snapshot;
    }
    for (size_t i = 0; (at = id_map_walk(&e->lineage, &i)); i++) {
        struct lineage *root = at->value;
        struct snapshot *s = root->felled ? lineage_list(root, NULL) : NULL, *then;

        for (; s; s = then) {
            then = s->along;
            lineage_end_below(e, s->place, root);
            snapshot_remove(e, s);
        }
    }
    for (size_t i = 0; (at = id_map_walk(&e->lineage, &i)); i++) {
        struct lineage *n = at->value;

        if (n->gone && n->parent && n->parent->gone)
            hang_mark(e, n, lineage_nearest(n->parent));
    }
    for (size_t i = 0; (at = id_map_walk(&e->lineage, &i)); i++)
        lineage_release(e, at->value);
}
