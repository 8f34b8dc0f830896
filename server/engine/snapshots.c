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

    *info = (struct snapshot_info){
        .id = s->id,
        .session = s->session,
        .parent = s->parent,
        .position = c->position,
        .bytes = c->position ? model_info(e->model)->layout.bytes : 0,
        .tier = checkpoint_tier(c),
        .pinned = true,
        .created = s->created,
    };
    memcpy(info->fingerprint, c->fingerprint, sizeof(info->fingerprint));
    memcpy(info->label, s->label, sizeof(info->label));
}

/* Before anything changes, so that what is done is also answered. */
static bool prepare(struct command *c)
{
    c->snapshots = malloc(sizeof(*c->snapshots));
    if (!c->snapshots)
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the answer");
    return true;
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
                                     struct checkpoint *checkpoint, struct past *past)
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
        id_generate(&s->id, "snap");
        s->owner = c->owner;
        s->checkpoint = checkpoint;
        s->past = past;
        s->created = checkpoint_clock();
        memcpy(s->label, c->label, sizeof(s->label));
        if (id_map_put(&e->snapshots, s->owner, s->id.text, s)) {
            tiers_pin(e->tiers, checkpoint);
            return s;
        }
    }
    free(s);
    tiers_release(e->tiers, checkpoint);
    past_release(e->tiers, past);
    problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for another snapshot");
    return NULL;
}

void snapshot_remove(struct engine *e, struct snapshot *s)
{
    id_map_remove(&e->snapshots, s->owner, s->id.text);
    tiers_unpin(e->tiers, s->checkpoint);
    tiers_release(e->tiers, s->checkpoint);
    past_release(e->tiers, s->past);
    free(s);
}

static void undone(struct engine *e, struct entry *x)
{
    (void)e;
    (void)x;
}

/* The session may have gone on meanwhile, or away. */
static void forget_link(struct engine *e, const struct snapshot *s)
{
    struct session *from = id_map_find(&e->sessions, s->owner, &s->session);

    if (from && id_equal(&from->snapshot, &s->id))
        from->snapshot = s->parent;
}

/* A new snapshot was kept, or was not and is no more. */
static void taken(struct engine *e, struct entry *x)
{
    struct command *c = x->command;
    struct entry *back;

    c->problem = x->problem;
    if (c->problem.what != PROBLEM_NONE) {
        back = entry_create(undone, NULL);
        if (back && entry_drop_snapshot(e, back, x->snapshot))
            journal_submit(e, back);
        else
            entry_free(e, back);
        forget_link(e, x->snapshot);
        snapshot_remove(e, x->snapshot);
    }
    engine_answer(e, c);
}

/* Takes a new snapshot to the journal, and the session that it was taken of, if any. */
static bool keep_new(struct engine *e, struct command *c, struct snapshot *s,
                     const struct session *from)
{
    struct entry *x = entry_create(taken, c);

    /* A shared session is written only by who moves it: the link to this one goes along then. */
    if (journal_shares(e))
        from = NULL;
    if (!x || !entry_put_snapshot(e, x, s) || (from && !entry_put_session(e, x, from))) {
        entry_free(e, x);
        forget_link(e, s);
        snapshot_remove(e, s);
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL,
                           "no memory for another snapshot");
    }
    x->snapshot = s;
    answer(e, c, s);
    journal_submit(e, x);
    return true;
}

/* A kept head needs room of its own as soon as the session moves on. */
static bool take(struct engine *e, struct command *c)
{
    struct session *from = session_find(e, c, &c->problem);
    struct snapshot *s;

    if (!from || !session_is_expected(from, c, &c->problem))
        return false;
    if (!tiers_has_room(e->tiers))
        return problem_set(&c->problem, PROBLEM_SNAPSHOT_QUOTA, NULL,
                           "no room for another state: delete snapshots or sessions");
    s = prepare(c) ? add_snapshot(e, c, tiers_keep(from->head), past_keep(from->past)) : NULL;
    if (!s)
        return false;
    s->seed = from->seed;
    s->session = from->id;
    s->parent = from->snapshot;
    from->snapshot = s->id;
    return keep_new(e, c, s, from);
}

static bool list(struct engine *e, struct command *c)
{
    struct id_entry *at = id_map_next(&e->snapshots, c->owner, &c->after);

    if (c->session.text[0] && !session_find(e, c, &c->problem))
        return false;
    c->snapshots = calloc((size_t)c->count + 1, sizeof(*c->snapshots));
    if (!c->snapshots)
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the list");
    for (const struct snapshot *s; at; at = id_map_next(&e->snapshots, c->owner, &s->id)) {
        s = at->value;

        if ((c->session.text[0] && !id_equal(&s->session, &c->session)) ||
            (c->label[0] && strcmp(s->label, c->label) != 0))
            continue;
        if (c->items == c->count) {
            c->more = true;
            break;
        }
        describe(e, s, &c->snapshots[c->items++]);
    }
    return true;
}

static bool get(struct engine *e, struct command *c)
{
    struct snapshot *s = snapshot_find(e, c, &c->problem);

    return s && prepare(c) && answer(e, c, s);
}

/* What could not be deleted in the store is still there. */
static void deleted(struct engine *e, struct entry *x)
{
    x->command->problem = x->problem;
    if (x->problem.what == PROBLEM_NONE)
        snapshot_remove(e, x->snapshot);
    engine_answer(e, x->command);
}

static bool forget(struct engine *e, struct command *c)
{
    struct snapshot *s = snapshot_find(e, c, &c->problem);
    struct entry *x = s ? entry_create(deleted, c) : NULL;

    if (!s)
        return false;
    if (!x || !entry_drop_snapshot(e, x, s)) {
        entry_free(e, x);
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the answer");
    }
    x->snapshot = s;
    journal_submit(e, x);
    return true;
}

static bool copy_out(struct engine *e, struct command *c)
{
    struct snapshot *s = snapshot_find(e, c, &c->problem);

    if (!s || !prepare(c))
        return false;
    answer(e, c, s);
    return command_export(e, c, s->checkpoint, s->past, s->seed);
}

static bool take_in(struct engine *e, struct command *c)
{
    struct checkpoint *checkpoint = c->checkpoint;
    struct snapshot *s;
    struct past *past;

    if (!prepare(c) || !checkpoint_take_past(e, c, &past))
        return false;
    if (!tiers_adopt(e->tiers, checkpoint)) {
        past_release(e->tiers, past);
        return problem_set(&c->problem, PROBLEM_SNAPSHOT_QUOTA, NULL,
                           "no room in host memory for another snapshot");
    }
    c->checkpoint = NULL;
    s = add_snapshot(e, c, checkpoint, past);
    if (!s)
        return false;
    s->seed = checkpoint->seed;
    return keep_new(e, c, s, NULL);
}

bool snapshot_command(struct engine *e, struct command *c)
{
    switch (c->kind) {
    case COMMAND_SNAPSHOT_TAKE:
        return take(e, c);
    case COMMAND_SNAPSHOT_LIST:
        return list(e, c);
    case COMMAND_SNAPSHOT_GET:
        return get(e, c);
    case COMMAND_SNAPSHOT_DELETE:
        return forget(e, c);
    case COMMAND_SNAPSHOT_EXPORT:
        return copy_out(e, c);
    default:
        return take_in(e, c);
    }
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
