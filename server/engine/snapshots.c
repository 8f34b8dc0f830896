/* snapshots.c - checkpoints that a client named, and the verbs on them. */
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

struct snapshot *snapshot_find(struct engine *e, const struct command *c, struct problem *p)
{
    struct snapshot *s = id_map_find(&e->snapshots, c->owner, &c->snapshot);

    if (!s)
        problem_set(p, PROBLEM_SNAPSHOT_NOT_FOUND, "snapshot", "there is no snapshot '%s'",
                    c->snapshot.text);
    return s;
}

static void describe(const struct engine *e, const struct snapshot *s, struct snapshot_info *info)
{
    const struct checkpoint *c = s->checkpoint;
    const struct lineage *parent = lineage_nearest(s->place->parent);

    *info = (struct snapshot_info){
        .id = s->id,
        .session = s->session,
        .position = c->position,
        .bytes = c->position ? model_info(e->model)->layout.bytes : 0,
        .tier = checkpoint_tier(e, c),
        .pinned = true,
        .created = s->created,
    };
    if (parent)
        info->parent = parent->id;
    memcpy(info->fingerprint, c->fingerprint, sizeof(info->fingerprint));
    memcpy(info->label, s->label, sizeof(info->label));
}

/* Before anything changes, so that what is done is also answered. */
static bool prepare(struct command *c)
{
    c->snapshots = malloc(sizeof(*c->snapshots));
    return c->snapshots || command_no_memory(c);
}

static bool answer(struct engine *e, struct command *c, const struct snapshot *s)
{
    describe(e, s, c->snapshots);
    c->items = 1;
    return true;
}

/* Takes one reference to the checkpoint and to its past over, also when it fails. Each
 * snapshot may need room of its own one day: there are never more of them than states. */
static struct snapshot *add_snapshot(struct engine *e, struct command *c,
                                     struct checkpoint *checkpoint, struct past *past,
                                     struct lineage *parent)
{
    struct snapshot *s;

    bool room = owner_has_room(e, c->owner, &c->problem);

    if (room && e->snapshots.count >= tiers_room(e->tiers))
        room =
            problem_set(&c->problem, PROBLEM_SNAPSHOT_QUOTA, NULL,
                        "there are %zu snapshots, the most there is room for", e->snapshots.count);
    if (!room) {
        tiers_release(e->tiers, checkpoint);
        past_release(e->tiers, past);
        return NULL;
    }
    s = calloc(1, sizeof(*s));
    if (s) {
        id_generate_next(&s->id, "snap");
        s->owner = c->owner;
        s->checkpoint = checkpoint;
        s->past = past;
        s->created = checkpoint_clock();
        memcpy(s->label, c->label, sizeof(s->label));
        if (lineage_find(e, s->owner, &s->id, &s->place) &&
            id_map_put(&e->snapshots, s->owner, s->id.text, s)) {
            s->place->snapshot = s;
            lineage_hang(e, s->place, parent);
            tiers_pin(e->tiers, checkpoint);
            return s;
        }
        lineage_release(e, s->place);
    }
    free(s);
    tiers_release(e->tiers, checkpoint);
    past_release(e->tiers, past);
    command_no_memory(c);
    return NULL;
}

void snapshot_remove(struct engine *e, struct snapshot *s)
{
    id_map_remove(&e->snapshots, s->owner, s->id.text);
    tiers_unpin(e->tiers, s->checkpoint);
    tiers_release(e->tiers, s->checkpoint);
    past_release(e->tiers, s->past);
    lineage_end(e, s->place);
    lineage_release(e, s->place);
    free(s);
}

static void set_link(struct engine *e, struct session *of, struct lineage *place)
{
    lineage_keep(place);
    lineage_release(e, of->snapshot);
    of->snapshot = place;
}

/* Back to the place before. The session may have gone on meanwhile, or away. */
static void forget_link(struct engine *e, const struct snapshot *s, struct lineage *before)
{
    struct session *from = id_map_find(&e->sessions, s->owner, &s->session);

    if (from && from->snapshot == s->place)
        set_link(e, from, before);
}

/* A new snapshot was kept, or was not and is no more. */
static void taken(struct engine *e, struct entry *x)
{
    struct command *c = x->command;
    struct entry *back;

    c->problem = x->problem;
    if (c->problem.what != PROBLEM_NONE) {
        forget_link(e, x->snapshot, x->parent);
        back = entry_create(NULL, NULL);
        if (back && lineage_fell(e, back, x->snapshot->place, false))
            journal_submit(e, back);
        else
            entry_free(e, back);
        snapshot_remove(e, x->snapshot);
    }
    engine_answer(e, c);
}

/* Takes a new snapshot to the journal, and the session that it was taken of, if any. That one
 * hangs below it at once, and in the store when the entry is there. */
static bool keep_new(struct engine *e, struct command *c, struct snapshot *s, struct session *from)
{
    struct entry *x = entry_create(taken, c);
    bool ok = x && entry_put_snapshot(e, x, s);

    if (ok && from) {
        x->parent = lineage_keep(from->snapshot);
        set_link(e, from, s->place);
        /* A shared session is written only by who moves it: the link goes along then. */
        ok = journal_shares(e) || entry_put_session(e, x, from);
    }
    if (!ok) {
        if (x)
            forget_link(e, s, x->parent);
        entry_free(e, x);
        snapshot_remove(e, s);
        return command_no_memory(c);
    }
    x->snapshot = s;
    answer(e, c, s);
    journal_submit(e, x);
    return true;
}

/* A kept head needs room of its own as soon as the session moves on. */
bool obey_snapshot_take(struct engine *e, struct command *c)
{
    struct session *from = session_find(e, c, &c->problem);
    struct snapshot *s;

    if (!from || !session_is_expected(from, c, &c->problem))
        return false;
    if (!anchors_leave_room(e) || !session_lend_head(e, from))
        return state_refuse(e, PROBLEM_SNAPSHOT_QUOTA, &c->problem);
    s = prepare(c) ? add_snapshot(e, c, tiers_keep(from->head), past_keep(from->past),
                                  lineage_nearest(from->snapshot))
                   : NULL;
    if (!s)
        return false;
    s->seed = from->seed;
    s->session = from->id;
    return keep_new(e, c, s, from);
}

/* What a list is of. */
struct asked {
    const struct command *command;
    uint64_t subtree; /* its number; 0: all */
};

static bool is_asked_for(const void *value, const void *arg)
{
    const struct snapshot *s = value;
    const struct asked *a = arg;
    const struct command *c = a->command;

    return (!c->session.text[0] || id_equal(&s->session, &c->session)) &&
           (!c->taken_of.text[0] || id_equal(&s->session, &c->taken_of)) &&
           (!c->label[0] || strcmp(s->label, c->label) == 0) &&
           (!a->subtree || s->place->number == a->subtree);
}

bool obey_snapshot_list(struct engine *e, struct command *c)
{
    struct asked asked = { .command = c };
    struct id_page page = { .wants = is_asked_for, .arg = &asked };
    const struct snapshot *root = NULL;
    const struct session *of = NULL;

    if ((c->session.text[0] && !(of = session_find(e, c, &c->problem))) ||
        (of && !session_is_expected(of, c, &c->problem)) ||
        (c->snapshot.text[0] && !(root = snapshot_find(e, c, &c->problem))))
        return false;
    if (root) {
        asked.subtree = ++e->subtrees;
        lineage_number(root->place, asked.subtree);
    }
    if (!command_page(c, &e->snapshots, &page))
        return false;
    c->snapshots = calloc(page.count + 1, sizeof(*c->snapshots));
    for (size_t i = 0; c->snapshots && i < page.count; i++)
        describe(e, page.entry[i]->value, &c->snapshots[c->items++]);
    free(page.entry);
    return c->snapshots || command_no_memory(c);
}

bool obey_snapshot_get(struct engine *e, struct command *c)
{
    struct snapshot *s = snapshot_find(e, c, &c->problem);

    return s && prepare(c) && answer(e, c, s);
}

/* What could not be deleted in the store is still there. */
static void deleted(struct engine *e, struct entry *x)
{
    struct snapshot *s = x->snapshot, *next, *root = s;

    x->command->problem = x->problem;
    while (root->along)
        root = root->along;
    if (x->problem.what == PROBLEM_NONE)
        root->place->felled = root != s;
    for (; s && x->problem.what == PROBLEM_NONE; s = next) {
        next = s->along;
        if (next)
            lineage_end_below(e, s->place, root->place);
        snapshot_remove(e, s);
    }
    engine_answer(e, x->command);
}

/* The disk takes it as one record, or not at all. Redis takes one after the other, those below
 * first: what is left after a failure is a tree, and can be deleted again. */
static bool add_deleted(struct engine *e, struct entry *x, struct command *c, struct snapshot *root)
{
    root->along = NULL;
    x->snapshot = c->whole ? lineage_list(root->place, root) : root;
    c->count = 0;
    for (struct snapshot *s = x->snapshot; s; s = s->along) {
        if (journal_shares(e) && !entry_drop_snapshot(e, x, s->place))
            return false;
        c->count++;
    }
    return journal_shares(e) || lineage_fell(e, x, root->place, c->count > 1);
}

bool obey_snapshot_delete(struct engine *e, struct command *c)
{
    struct snapshot *s = snapshot_find(e, c, &c->problem);
    struct entry *x = s ? entry_create(deleted, c) : NULL;

    if (!s)
        return false;
    if (!x || !add_deleted(e, x, c, s)) {
        entry_free(e, x);
        return command_no_memory(c);
    }
    journal_submit(e, x);
    return true;
}

bool obey_snapshot_export(struct engine *e, struct command *c)
{
    struct snapshot *s = snapshot_find(e, c, &c->problem);

    if (!s || !prepare(c))
        return false;
    answer(e, c, s);
    return command_export(e, c, s->checkpoint, s->past, s->seed);
}

bool obey_snapshot_import(struct engine *e, struct command *c)
{
    struct checkpoint *checkpoint = c->checkpoint;
    struct snapshot *s;
    struct past *past;

    if (journal_defer_upload(e, c) || !prepare(c) || !checkpoint_take_past(e, c, &past))
        return false;
    if (!tiers_adopt(e->tiers, checkpoint)) {
        past_release(e->tiers, past);
        return state_refuse(e, e->journal ? PROBLEM_NO_SLOT : PROBLEM_SNAPSHOT_QUOTA, &c->problem);
    }
    c->checkpoint = NULL;
    s = add_snapshot(e, c, checkpoint, past, NULL);
    if (!s)
        return false;
    s->seed = checkpoint->seed;
    return keep_new(e, c, s, NULL);
}

void snapshots_cool(struct engine *e)
{
    struct id_entry *at;

    for (size_t i = 0; (at = id_map_walk(&e->snapshots, &i)); i++) {
        struct snapshot *s = at->value;

        if (!s->storing)
            past_cool(e, &s->past, s->checkpoint);
    }
}

void snapshots_clear(struct engine *e)
{
    struct id_entry *at;

    for (size_t i = 0; (at = id_map_walk(&e->snapshots, &i)); i++)
        snapshot_remove(e, at->value);
    id_map_finish(&e->snapshots);
}
