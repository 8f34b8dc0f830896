/* anchors.c - states that outlast their turn, so that a session can go back over its window.
 *
 * What past.h asks for: while a turn takes in more tokens than lie between two anchors, its
 * state is kept on the way; the turn's own start becomes one when it ends. With a disk they
 * are files that the files of heads name; nothing of them stays in memory, and they may have
 * made way for others when they are wanted: so the store is asked to keep one before it is
 * used. Those of turns that run make way, too. Otherwise they are spares like others. */
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

enum { AGAIN = 64 }; /* tokens after one that found no room */

void anchor_plan(struct engine *e, struct sequence *s)
{
    s->anchor_at = s->fed + past_stride(e->options.history_tokens);
}

/* Its file is on its way to the disk, and stays while it is kept. */
static bool put_file(struct engine *e, struct checkpoint *c, int slot)
{
    uint64_t bytes = journal_put_anchor(e, c, slot);

    if (!bytes)
        return false;
    tiers_adopt(e->tiers, c); /* a cold one always has room */
    tiers_stored(e->tiers, c, bytes);
    return true;
}

/* Remembered, and with a disk also kept, which remembers its file. */
static struct checkpoint *take(struct engine *e, struct sequence *s)
{
    struct checkpoint *c = checkpoint_at(e, s->job->session->owner, sequence_covers(s));
    bool ok;

    if (!c)
        return NULL;
    tiers_remember(c);
    if (journal_has_anchors(e)) {
        ok = put_file(e, c, s->slot);
        if (!ok)
            tiers_release(e->tiers, c);
    } else {
        tiers_release(e->tiers, c);
        ok = tiers_copy(e->tiers, c, s->slot);
    }
    if (!ok) {
        tiers_forget(e->tiers, c);
        return NULL;
    }
    c->anchor = c->inside = true;
    return c;
}

static void let_go(struct engine *e, struct checkpoint *c)
{
    if (journal_has_anchors(e))
        tiers_release(e->tiers, c);
    tiers_forget(e->tiers, c);
}

static void drop_oldest(struct engine *e, struct sequence *s)
{
    let_go(e, s->anchor[0]);
    memmove(s->anchor, s->anchor + 1, (--s->anchors) * sizeof(s->anchor[0]));
}

void anchor_cut(struct engine *e, struct sequence *s)
{
    struct checkpoint *c = s->job->session ? take(e, s) : NULL;

    s->anchor_at = s->fed + AGAIN;
    if (!c)
        return;
    if (s->anchors == SEQUENCE_ANCHORS)
        drop_oldest(e, s);
    s->anchor[s->anchors++] = c;
    anchor_plan(e, s);
}

void anchors_finish(struct engine *e, struct sequence *s)
{
    while (s->anchors)
        let_go(e, s->anchor[--s->anchors]);
}

/* The one of the two whose first anchor was written first; either may be NULL. */
static struct sequence *elder(struct sequence *a, struct sequence *b)
{
    if (!a || !a->anchors)
        return b;
    return !b || a->anchor[0]->used < b->anchor[0]->used ? a : b;
}

bool anchors_yield(struct engine *e)
{
    struct sequence *of = NULL;

    if (!journal_has_anchors(e))
        return false;
    for (struct sequence *s = e->queue; s; s = s->next)
        of = elder(s, of);
    for (int i = 0; i < e->running_count; i++)
        of = elder(e->running[i], of);
    if (of)
        drop_oldest(e, of);
    return of != NULL;
}

bool anchors_leave_room(struct engine *e)
{
    while (!tiers_has_room(e->tiers))
        if (!anchors_yield(e))
            return false;
    return true;
}

void anchor_lost(struct engine *e, struct checkpoint *c)
{
    if (!journal_has_anchors(e))
        c->anchor = false;
}

/* The commands that wait for it are obeyed again: they find it kept, or no anchor any more. */
static void answered(struct engine *e, struct entry *x)
{
    struct checkpoint *c = x->anchor;

    c->asked = NULL;
    if (x->problem.what != PROBLEM_NONE) {
        c->anchor = false;
        return;
    }
    tiers_find(e->tiers, c, x->bytes);
    x->head = c; /* released with the entry */
}

bool anchor_ask(struct engine *e, struct command *c, struct session *s, struct checkpoint *anchor)
{
    struct entry *x = anchor->asked ? anchor->asked : entry_create(answered, NULL);

    if (!x || (!anchor->asked && !entry_keep_anchor(e, x, anchor))) {
        entry_free(e, x);
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory to go back");
    }
    c->later = true;
    entry_defer(x, c);
    if (anchor->asked)
        return true;
    anchor->asked = x;
    x->session = s; /* its past stays here meanwhile */
    journal_submit(e, x);
    return true;
}
