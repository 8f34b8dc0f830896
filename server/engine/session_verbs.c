/* session_verbs.c - what clients ask of sessions but for turns and going back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/format.h"
#include "server/state/tiers.h"

static bool answer(struct engine *e, struct command *c, const struct session *s)
{
    session_describe(e, s, c->sessions);
    return true;
}

/* A new session was kept, or was not and is no more. */
static void created(struct engine *e, struct entry *x)
{
    x->command->problem = x->problem;
    if (x->problem.what != PROBLEM_NONE)
        session_remove(e, x->session);
    engine_answer(e, x->command);
}

/* Takes a new session to the journal. */
static bool keep_new(struct engine *e, struct command *c, struct session *s)
{
    struct entry *x = entry_create(created, c);

    if (!x || !entry_put_session(e, x, s)) {
        entry_free(e, x);
        session_remove(e, s);
        return command_no_memory(c);
    }
    session_describe(e, s, c->sessions);
    x->session = s;
    journal_submit(e, x);
    return true;
}

bool obey_session_create(struct engine *e, struct command *c)
{
    struct snapshot *from = NULL;
    struct session *s;

    if (id_map_find(&e->sessions, c->owner, &c->session))
        return problem_set(&c->problem, PROBLEM_SESSION_EXISTS, "id",
                           "there is a session '%s' already", c->session.text);
    if (c->snapshot.text[0] && !(from = snapshot_find(e, c, &c->problem)))
        return false;
    s = session_prepare(c, c->metadata)
            ? session_add(e, c, &c->session, from ? from->checkpoint : NULL,
                          from ? from->past : NULL)
            : NULL;
    if (!s)
        return false;
    if (from) {
        s->snapshot = lineage_keep(from->place);
        s->seed = from->seed;
    }
    if (c->has_seed) {
        s->seed = c->seed;
        s->seeded = true;
    }
    if (c->has_ttl)
        s->ttl = c->ttl;
    s->metadata = c->metadata;
    c->metadata = NULL;
    return keep_new(e, c, s);
}

bool obey_session_get(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);

    return s && session_is_expected(s, c, &c->problem) && session_prepare(c, s->metadata) &&
           answer(e, c, s);
}

bool obey_session_list(struct engine *e, struct command *c)
{
    struct id_page page = { 0 };
    bool ok = true;

    if (!command_page(c, &e->sessions, &page))
        return false;
    c->sessions = calloc(page.count + 1, sizeof(*c->sessions));
    for (size_t i = 0; c->sessions && i < page.count && ok; i++) {
        struct session_info *info = &c->sessions[c->items++];
        const struct session *s = page.entry[i]->value;

        ok = !s->metadata || (info->metadata = strdup(s->metadata));
        session_describe(e, s, info);
    }
    free(page.entry);
    return (c->sessions && ok) || command_no_memory(c);
}

bool obey_session_delete(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);

    return s && session_is_expected(s, c, &c->problem) &&
           (session_drop(e, c, s) || command_no_memory(c));
}

static struct session *child_of(const struct engine *e, const struct command *c, int i)
{
    return id_map_find(&e->sessions, c->owner, &c->sessions[i].id);
}

/* Those that were kept go again. */
static void forget_children(struct engine *e, struct command *c)
{
    struct entry *x = entry_create(NULL, NULL);

    while (c->items) {
        struct session *child = child_of(e, c, --c->items);

        if (x)
            entry_drop_session(e, x, child);
        session_remove(e, child);
    }
    if (x)
        journal_submit(e, x);
}

static void forked(struct engine *e, struct entry *x)
{
    struct command *c = x->command;

    for (int i = 0; i < c->items; i++)
        child_of(e, c, i)->storing = NULL;
    c->problem = x->problem;
    if (c->problem.what != PROBLEM_NONE)
        forget_children(e, c);
    engine_answer(e, c);
}

static bool keep_children(struct engine *e, struct command *c)
{
    struct entry *x = entry_create(forked, c);

    for (int i = 0; x && i < c->items; i++) {
        struct session *child = child_of(e, c, i);

        if (!entry_put_session(e, x, child)) {
            entry_free(e, x);
            x = NULL;
        } else {
            child->storing = x;
        }
    }
    if (!x) {
        forget_children(e, c);
        return command_no_memory(c);
    }
    journal_submit(e, x);
    return true;
}

/* Children share the checkpoint; each gets a slot of its own when it is written. */
bool obey_session_fork(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);
    struct snapshot *from = NULL;
    const struct id none = { "" };

    if (!s || !session_is_expected(s, c, &c->problem) ||
        (c->snapshot.text[0] && !(from = snapshot_find(e, c, &c->problem))))
        return false;
    if (!from && !session_lend_head(e, s))
        return state_refuse(e, PROBLEM_NO_SLOT, &c->problem);
    c->sessions = calloc((size_t)c->count, sizeof(*c->sessions));
    if (!c->sessions)
        return command_no_memory(c);
    while (c->items < c->count) {
        struct session *child = session_add(e, c, &none, from ? from->checkpoint : s->head,
                                            from ? from->past : s->past);

        if (!child) {
            forget_children(e, c);
            return false;
        }
        child->snapshot = lineage_keep(from ? from->place : lineage_nearest(s->snapshot));
        child->ttl = s->ttl;
        if (s->seeded) {
            child->seeded = true;
            child->seed = s->seed;
        }
        session_describe(e, child, &c->sessions[c->items++]);
    }
    return keep_children(e, c);
}

/* The state to go to was in the store when this server last heard of it, and another has deleted
 * it since: now that this is known, it is brought from here, or made anew. */
static bool move_again(struct engine *e, struct entry *x)
{
    struct command *c = x->command;

    if (!x->lost || c->again)
        return false;
    c->again = true;
    c->asked_session = c->asked_snapshot = false;
    command_take_back(c);
    engine_obey(e, c);
    return true;
}

static void moved(struct engine *e, struct entry *x)
{
    struct command *c = x->command;

    if (move_again(e, x))
        return;
    c->problem = x->problem;
    if (c->problem.what == PROBLEM_NONE) {
        session_moved(e, x);
        answer(e, c, x->session);
    }
    engine_answer(e, c);
}

static bool move(struct engine *e, struct command *c, struct entry *x, struct session *s,
                 const struct session *next)
{
    x = session_moving(e, x, s, next);
    if (!x)
        return command_no_memory(c);
    journal_submit(e, x);
    return true;
}

bool session_move(struct engine *e, struct command *c, struct session *s,
                  const struct session *next)
{
    return move(e, c, entry_create(moved, c), s, next);
}

bool obey_session_restore(struct engine *e, struct command *c)
{
    struct snapshot *from = snapshot_find(e, c, &c->problem);
    struct session *s, next;

    if (!from || !format_fits(from->checkpoint, model_info(e->model), &c->problem) ||
        !session_claim(e, c, &s, &c->problem) || !session_prepare(c, s->metadata))
        return false;
    next = *s;
    next.head = tiers_keep(from->checkpoint);
    next.past = past_keep(from->past);
    next.snapshot = from->place;
    next.seed = from->seed;
    return session_move(e, c, s, &next);
}

bool obey_session_export(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);

    if (!s || !session_is_expected(s, c, &c->problem) || !session_prepare(c, s->metadata))
        return false;
    answer(e, c, s);
    return command_export(e, c, s->head, s->past, s->seed);
}

bool obey_session_import(struct engine *e, struct command *c)
{
    struct session *s = id_map_find(&e->sessions, c->owner, &c->session);
    struct checkpoint *head = c->checkpoint;
    struct entry *x = NULL;
    struct past *past;
    struct session next;

    if (!s && c->expected.given)
        return problem_set(&c->problem, PROBLEM_VERSION_MISMATCH, NULL, "there is no session '%s'",
                           c->session.text);
    if ((s && !session_claim(e, c, &s, &c->problem)) || journal_defer_upload(e, c) ||
        !session_prepare(c, s ? s->metadata : NULL) || !checkpoint_take_past(e, c, &past))
        return false;
    if (s && !(x = entry_create(moved, c))) { /* the last that can fail when a state was replaced */
        past_release(e->tiers, past);
        return command_no_memory(c);
    }
    if (!tiers_adopt(e->tiers, head) && !(s && tiers_replace(e->tiers, head, s->head))) {
        entry_free(e, x);
        past_release(e->tiers, past);
        return state_refuse(e, PROBLEM_NO_SLOT, &c->problem);
    }
    c->checkpoint = NULL;
    if (s) {
        next = *s;
        next.head = head;
        next.past = past;
        next.seed = head->seed;
        next.snapshot = NULL;
        return move(e, c, x, s, &next);
    }
    s = session_add(e, c, &c->session, head, past);
    if (s) {
        s->seed = head->seed;
        s->version++;
    }
    tiers_release(e->tiers, head);
    past_release(e->tiers, past);
    return s && keep_new(e, c, s);
}

bool obey_slot_list(struct engine *e, struct command *c)
{
    const struct session *s;
    struct id id;

    c->sessions = calloc((size_t)c->count + 1, sizeof(*c->sessions));
    if (!c->sessions)
        return command_no_memory(c);
    for (; c->items < c->count; c->items++) {
        snprintf(id.text, sizeof(id.text), "slot-%d", c->items);
        s = id_map_find(&e->sessions, c->owner, &id);
        if (s)
            session_describe(e, s, &c->sessions[c->items]);
    }
    return true;
}
