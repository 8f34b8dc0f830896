/* rollback.c - a session goes back to where it was.
 *
 * To a snapshot or to the start of a turn whose state is still there by moving the head; to
 * any other token by taking the stored ids in again from the nearest state before it. On the
 * CPU that gives the bytes of the original run: how a context is cut changes nothing. The head
 * stays where it is until then. */
#include <stdlib.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

static bool unreachable(struct command *c, const struct session *s, const char *param)
{
    return problem_set(&c->problem, PROBLEM_HISTORY, param,
                       "session '%s' cannot go back that far: its history begins at token %llu",
                       s->id.text, (unsigned long long)past_reach(s->past));
}

static bool is_before(const struct snapshot *s, const struct checkpoint *aim)
{
    return s && s->checkpoint->position <= aim->position;
}

/* What the session becomes with the aim, which is kept, as its head: the newest snapshot is
 * one that is still on the way there. */
static struct session at_aim(struct engine *e, const struct session *s, struct checkpoint *aim,
                             struct past *past)
{
    struct session next = *s;

    next.head = aim;
    next.past = past;
    while (next.snapshot && !is_before(next.snapshot->snapshot, aim))
        next.snapshot = next.snapshot->parent;
    e->counters.rollbacks++;
    return next;
}

static bool move(struct engine *e, struct command *c, struct session *s, struct checkpoint *aim,
                 struct past *past)
{
    struct session next = at_aim(e, s, aim, past);

    return session_move(e, c, s, &next);
}

static bool no_memory(struct command *c)
{
    return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory to go back");
}

/* A checkpoint for a place inside a turn, without its record. The answer is open where the
 * model wrote, and where it was about to. */
static struct checkpoint *mark_place(struct engine *e, const struct session *s, uint64_t position)
{
    const struct checkpoint *after = past_find_after(s->past, position);
    struct checkpoint *c = checkpoint_at(e, s->owner, position);
    uint32_t around[2];

    if (!c)
        return NULL;
    past_read(s->past, position - 1, 2, around);
    c->pending = (int32_t)(around[0] & ~RECENT_SAMPLED);
    c->answer_open =
        (after ? after : s->head)->answer_open && (around[0] | around[1]) & RECENT_SAMPLED;
    return c;
}

/* The command is obeyed again when the state is known to be kept. */
static bool put_off(struct engine *e, struct command *c, struct session *s,
                    struct checkpoint *anchor)
{
    if (!anchor_ask(e, c, s, anchor))
        return false;
    command_take_back(c);
    return true;
}

/* The nearest state that holds at most `covered` tokens, kept; NULL: the empty one, where the
 * history begins at the beginning. false: none, or the command is put off. */
static bool find_base(struct engine *e, struct command *c, struct session *s, uint64_t covered,
                      struct checkpoint **base)
{
    *base = past_find_base(s->past, covered);
    if (*base && state_recall(e, *base))
        return true;
    if (*base && !tiers_has_record(*base)) {
        put_off(e, c, s, *base);
        return false;
    }
    if (past_begin(s->past))
        return *base ? state_refuse(e, PROBLEM_NO_SLOT, &c->problem) : unreachable(c, s, NULL);
    *base = NULL;
    return true;
}

/* The ids between a state before it and the aim are taken in; then the head moves. */
static bool replay(struct engine *e, struct command *c, struct session *s, struct checkpoint *aim)
{
    struct checkpoint *base;
    uint64_t from;
    bool ok;

    if (!find_base(e, c, s, checkpoint_covers(aim), &base))
        return c->later;
    from = base ? checkpoint_covers(base) : 0;
    ok = turn_replay(e, c, s, base, from, aim);
    tiers_release(e->tiers, base);
    e->counters.replayed_tokens += ok ? checkpoint_covers(aim) - from : 0;
    return ok;
}

/* A checkpoint without its record for the place to go to, remembered: what the start of a turn
 * says of it, under another name where that one is kept, for its state is lost. NULL: no memory. */
static struct checkpoint *place_of(struct engine *e, const struct session *s, uint64_t position,
                                   struct checkpoint *start)
{
    struct checkpoint *c;

    if (start && (!start->refs || tiers_has_record(start)))
        return tiers_remember(start);
    c = start ? checkpoint_copy(start) : mark_place(e, s, position);
    if (!c)
        return NULL;
    c->stored = 0;
    c->anchor = c->damaged = false;
    c->pins = 0;
    tiers_remember(c);
    tiers_release(e->tiers, c);
    return c;
}

static bool go_back(struct engine *e, struct command *c, struct session *s, uint64_t position,
                    struct checkpoint *aim)
{
    struct past *past;

    if (aim && !tiers_has_record(aim) && aim->anchor)
        return put_off(e, c, s, aim);
    if (aim && state_recall(e, aim)) {
        past = past_keep(s->past);
        if (past_cut(e->tiers, &past, aim))
            return move(e, c, s, aim, past);
        past_release(e->tiers, past);
        tiers_release(e->tiers, aim);
        return no_memory(c);
    }
    aim = place_of(e, s, position, aim);
    if (!aim)
        return no_memory(c);
    c->later = replay(e, c, s, aim);
    tiers_forget(e->tiers, aim);
    return c->later;
}

static bool begin(struct engine *e, struct command *c, struct session *s)
{
    struct checkpoint *aim;

    if (c->turns) {
        aim = past_find_turn(s->past, c->turns);
        return aim ? go_back(e, c, s, aim->position, aim) : unreachable(c, s, "turns");
    }
    if (c->position > s->head->position)
        return problem_set(&c->problem, PROBLEM_INVALID_PARAMETER, "position",
                           "session '%s' is at position %llu", s->id.text,
                           (unsigned long long)s->head->position);
    if (c->position == s->head->position)
        return go_back(e, c, s, c->position, s->head);
    if (c->position == 0) {
        aim = session_empty_head(e, s->owner);
        return aim ? move(e, c, s, aim, NULL) : no_memory(c);
    }
    if (c->position < past_reach(s->past))
        return unreachable(c, s, "position");
    return go_back(e, c, s, c->position, past_find_start(s->past, c->position));
}

bool obey_session_rollback(struct engine *e, struct command *c)
{
    struct session *s;

    if (atomic_load(&c->cancelled)) /* while it was put off */
        return problem_set(&c->problem, PROBLEM_CANCELLED, NULL, "the rollback was cancelled");
    if (c->snapshot.text[0])
        return obey_session_restore(e, c);
    return session_claim(e, c, &s, &c->problem) && session_has_past(e, c, s) &&
           session_prepare(c, s->metadata) && begin(e, c, s);
}

void rollback_end(struct engine *e, struct sequence *q)
{
    struct session *s = q->job->session;
    struct checkpoint *aim = q->job->aim;
    struct past *past = past_keep(s->past);
    struct session next;

    if (!past_cut(e->tiers, &past, aim)) {
        past_release(e->tiers, past);
        job_fail(e, q->job, PROBLEM_OUT_OF_MEMORY, "no memory to go back");
        return;
    }
    if (aim->refs) { /* another session was there first, and still is */
        if (!state_recall(e, aim)) {
            past_release(e->tiers, past);
            job_fail_no_room(e, q->job);
            return;
        }
    } else {
        if (!tiers_has_record(aim))
            id_generate(&aim->id, "ckpt"); /* no name is given to two files */
        tiers_revive(e->tiers, aim, q->slot);
        q->slot = -1;
    }
    next = at_aim(e, s, aim, past);
    job_commit(e, q->job, &next, NULL);
}
