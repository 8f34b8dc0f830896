#include "server/engine/share.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "server/engine/engine_internal.h"
#include "server/engine/heads.h"
#include "server/state/redis.h"

enum { LOOKS = 32 }; /* of sessions and of snapshots, each second */

static void ask(struct engine *e, struct command *c, enum redis_kind kind, enum disk_kind object,
                const struct id *id)
{
    struct redis_op *op = redis_op_create(kind, object, c);

    c->later = true;
    if (op) {
        op->record.owner = c->owner;
        op->record.id = *id;
    }
    if (op && journal_ask(e, op))
        return;
    redis_op_free(op);
    problem_set(&c->problem, PROBLEM_QUEUE_FULL, NULL, "too much waits for Redis already");
    engine_answer(e, c);
}

/* What a change of ours is on its way for needs no look: Redis learns it from here. */
static bool ask_session(struct engine *e, struct command *c)
{
    const struct session *s = id_map_find(&e->sessions, c->owner, &c->session);

    c->asked_session = true;
    if ((s && (s->job || s->storing)) || (!s && c->kind == COMMAND_SESSION_CREATE))
        return false;
    ask(e, c, command_use(c) == USE_MOVES ? REDIS_TAKE : REDIS_LOOK, DISK_SESSION_SET, &c->session);
    return true;
}

static bool ask_snapshot(struct engine *e, struct command *c)
{
    const struct snapshot *s = id_map_find(&e->snapshots, c->owner, &c->snapshot);

    c->asked_snapshot = true;
    if (s && s->storing)
        return false;
    ask(e, c, REDIS_LOOK, DISK_SNAPSHOT_SET, &c->snapshot);
    return true;
}

bool share_asks(struct engine *e, struct command *c)
{
    if (!journal_shares(e))
        return false;
    if (c->session.text[0] && !c->asked_session && ask_session(e, c))
        return true;
    return c->snapshot.text[0] && !c->asked_snapshot && ask_snapshot(e, c);
}

/* What stands in Redis is all that there is of it. */
static bool rests(const struct session *s)
{
    return !s->job && !s->storing && !s->mover;
}

static bool is_named(const struct session *s, const struct command *c)
{
    return c && s->owner == c->owner && id_equal(&s->id, &c->session);
}

bool share_makes_room(struct engine *e, const struct command *c, const struct checkpoint *head)
{
    struct id_entry *at;

    if (!journal_shares(e))
        return false;
    for (size_t i = 0; (at = id_map_walk(&e->sessions, &i)); i++) {
        struct session *s = at->value;

        if (!rests(s) || is_named(s, c) || s->head == head)
            continue;
        session_remove(e, s);
        return true;
    }
    return false;
}

static bool make_room(struct engine *e)
{
    return e->sessions.count < (size_t)e->options.max_sessions || share_makes_room(e, NULL, NULL);
}

static bool take_in(struct engine *e, const struct disk_record *r)
{
    struct heads *h = heads_create();
    bool ok = h && heads_found(e, h, r);

    heads_destroy(h);
    return ok;
}

static bool is_same(const struct session *s, const struct disk_record *r)
{
    const struct id none = { "" };

    return s->created == r->created && s->version == r->version &&
           id_equal(s->head->position ? &s->head->id : &none, &r->checkpoint);
}

/* What Redis says holds, even where it has less: what it has lost, other servers go on without.
 * false: no memory or no room. */
static bool adopt_session(struct engine *e, const struct disk_record *r)
{
    struct session *s = id_map_find(&e->sessions, r->owner, &r->id);

    if (s && (!rests(s) || is_same(s, r)))
        return true;
    if (s)
        session_remove(e, s);
    return make_room(e) && take_in(e, r);
}

static bool adopt(struct engine *e, const struct disk_record *r)
{
    if (r->kind == DISK_SESSION_SET)
        return adopt_session(e, r);
    return id_map_find(&e->snapshots, r->owner, &r->id) || take_in(e, r);
}

static void forget(struct engine *e, const struct disk_record *r)
{
    struct session *s =
        r->kind == DISK_SESSION_SET ? id_map_find(&e->sessions, r->owner, &r->id) : NULL;
    struct snapshot *snapshot =
        r->kind == DISK_SNAPSHOT_SET ? id_map_find(&e->snapshots, r->owner, &r->id) : NULL;

    if (s && rests(s))
        session_remove(e, s);
    if (snapshot && !snapshot->storing)
        snapshot_remove(e, snapshot);
    else if (!snapshot && r->kind == DISK_SNAPSHOT_SET)
        lineage_lose(e, r->owner, &r->id);
}

void share_leaves(struct engine *e, struct command *c)
{
    struct session *s = id_map_find(&e->sessions, c->owner, &c->session);

    if (s && s->mover == c)
        s->mover = NULL;
    if (c->lease)
        journal_ask(e, c->lease);
    c->lease = NULL;
}

static bool take_over(struct engine *e, struct command *c, const struct redis_op *op)
{
    struct session *s;

    if (op->verdict == REDIS_ABSENT) {
        forget(e, &op->record);
        return true;
    }
    if (op->verdict != REDIS_DONE) {
        share_refused(op, &c->problem);
        return false;
    }
    if (op->record.position && !op->record.bytes)
        return problem_set(&c->problem, PROBLEM_STATE_DAMAGED, NULL,
                           "'%s' stands on a state without a length", op->record.id.text);
    if (!adopt(e, &op->record))
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL,
                           "no memory or room for a session of another server");
    s = op->kind == REDIS_TAKE ? id_map_find(&e->sessions, c->owner, &op->record.id) : NULL;
    if (s && !s->mover)
        s->mover = c;
    return true;
}

/* What brought the lease gives it back one day, so that this takes no memory. */
static void keep_lease(struct command *c, struct redis_op *take)
{
    free(take->record.note);
    take->record.note = NULL;
    take->kind = REDIS_LEAVE;
    take->owner = NULL;
    c->lease = take;
}

static void look(struct engine *e, enum disk_kind object, const struct id_entry *at, double created)
{
    struct redis_op *op = redis_op_create(REDIS_LOOK, object, NULL);

    if (!op)
        return;
    op->record.owner = at->owner;
    op->record.created = created;
    id_parse(&op->record.id, at->id);
    if (journal_ask(e, op))
        e->looks++;
    else
        redis_op_free(op);
}

void share_looks(struct engine *e)
{
    struct id_entry *at = NULL;

    if (!journal_shares(e) || e->looks)
        return;
    for (int i = 0; i < LOOKS && (at = id_map_walk(&e->sessions, &e->session_look)); i++) {
        const struct session *s = at->value;

        if (rests(s))
            look(e, DISK_SESSION_SET, at, s->created);
        e->session_look++;
    }
    if (!at)
        e->session_look = 0;
    for (int i = 0; i < LOOKS && (at = id_map_walk(&e->snapshots, &e->snapshot_look)); i++) {
        const struct snapshot *s = at->value;

        if (!s->storing)
            look(e, DISK_SNAPSHOT_SET, at, s->created);
        e->snapshot_look++;
    }
    if (!at)
        e->snapshot_look = 0;
}

/* Another one of that name may have come here meanwhile. */
static void looked(struct engine *e, const struct redis_op *op)
{
    const struct disk_record *r = &op->record;
    const struct session *s = id_map_find(&e->sessions, r->owner, &r->id);

    e->looks--;
    if (op->verdict == REDIS_ABSENT &&
        (r->kind == DISK_SNAPSHOT_SET || (s && s->created == r->created)))
        forget(e, r);
}

void share_answered(struct engine *e, struct redis_op *op)
{
    struct command *c = op->owner;
    bool known = c && take_over(e, c, op);

    if (!c && op->kind == REDIS_LOOK)
        looked(e, op);

    if (c && op->kind == REDIS_TAKE && op->verdict == REDIS_DONE)
        keep_lease(c, op);
    else
        redis_op_free(op);
    if (!c)
        return;
    if (!known) {
        engine_answer(e, c);
        return;
    }
    engine_obey(e, c);
}

static enum redis_kind kind_of(const struct disk_op *op, const struct session *moving)
{
    if (op->record.kind == DISK_SESSION_DELETED || op->record.kind == DISK_SNAPSHOT_DELETED)
        return REDIS_DELETE;
    return moving && moving->mover ? REDIS_COMMIT : REDIS_CREATE;
}

struct redis_op *share_change(const struct disk_op *op, struct session *moving, void *owner)
{
    const struct disk_record *r = &op->record;
    bool session = r->kind == DISK_SESSION_SET || r->kind == DISK_SESSION_DELETED;
    struct redis_op *change =
        redis_op_create(kind_of(op, moving), session ? DISK_SESSION_SET : DISK_SNAPSHOT_SET, owner);

    if (!change)
        return NULL;
    change->record = *r;
    change->record.kind = session ? DISK_SESSION_SET : DISK_SNAPSHOT_SET;
    change->record.note = malloc(r->note_len + 1);
    if (!change->record.note) {
        redis_op_free(change);
        return NULL;
    }
    if (r->note_len)
        memcpy(change->record.note, r->note, r->note_len);
    if (change->kind == REDIS_COMMIT) {
        change->token = moving->mover->lease->token;
        redis_op_free(moving->mover->lease);
        moving->mover->lease = NULL;
        moving->mover = NULL;
    }
    return change;
}

void share_refused(const struct redis_op *op, struct problem *p)
{
    static const enum problem_code of[] = {
        [REDIS_DONE] = PROBLEM_INTERNAL,          [REDIS_ABSENT] = PROBLEM_SESSION_NOT_FOUND,
        [REDIS_EXISTS] = PROBLEM_SESSION_EXISTS,  [REDIS_BUSY] = PROBLEM_SESSION_BUSY,
        [REDIS_LOST] = PROBLEM_SESSION_MOVED,     [REDIS_MISSING] = PROBLEM_SESSION_MOVED,
        [REDIS_FOREIGN] = PROBLEM_MODEL_MISMATCH, [REDIS_DAMAGED] = PROBLEM_STATE_DAMAGED,
        [REDIS_FULL] = PROBLEM_STORAGE_FULL,      [REDIS_AWAY] = PROBLEM_STORE_AWAY,
        [REDIS_FAILED] = PROBLEM_STORAGE_ERROR,
    };

    assert(op->verdict != REDIS_DONE);
    problem_set(p, of[op->verdict], op->record.kind == DISK_SESSION_SET ? "session_id" : "snapshot",
                "'%s': %.200s", op->record.id.text, op->error.message);
}
