/* sessions.c - the table of sessions, and how one of them moves. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/engine/share.h"
#include "server/state/format.h"
#include "server/state/tiers.h"

enum { SWEEP_PIECE = 1024 }; /* sessions looked at in one go */

struct session *session_find(struct engine *e, const struct command *c, struct problem *p)
{
    struct session *s = id_map_find(&e->sessions, c->owner, &c->session);

    if (!s)
        problem_set(p, PROBLEM_SESSION_NOT_FOUND, "session_id", "there is no session '%s'",
                    c->session.text);
    return s;
}

bool session_is_expected(const struct session *s, const struct command *c, struct problem *p)
{
    if (version_set_has(&c->unwanted, s->version))
        return problem_set(p, PROBLEM_VERSION_MISMATCH, NULL,
                           "there is a session '%s', and it is at version %llu", s->id.text,
                           (unsigned long long)s->version);
    if (!c->expected.given || version_set_has(&c->expected, s->version))
        return true;
    return problem_set(p, PROBLEM_VERSION_MISMATCH, "expected_version",
                       "session '%s' is at version %llu, which is not an expected one", s->id.text,
                       (unsigned long long)s->version);
}

bool session_claim(struct engine *e, const struct command *c, struct session **out,
                   struct problem *p)
{
    struct session *s = session_find(e, c, p);

    if (!s)
        return false;
    if (s->job)
        return problem_set(p, PROBLEM_SESSION_BUSY, "session_id",
                           "session '%s' has a turn running; it takes one at a time", s->id.text);
    if (!session_is_expected(s, c, p))
        return false;
    *out = s;
    return true;
}

bool owner_has_room(const struct engine *e, uint64_t owner, struct problem *p)
{
    size_t heads = id_map_count(&e->sessions, owner) + id_map_count(&e->snapshots, owner);

    if (!e->options.owner_bytes ||
        (heads + 1) * model_info(e->model)->layout.bytes <= e->options.owner_bytes)
        return true;
    return problem_set(p, PROBLEM_STATE_QUOTA, NULL,
                       "you have %zu sessions and snapshots, and no room for another state: "
                       "delete some",
                       heads);
}

bool state_refuse(const struct engine *e, enum problem_code otherwise, struct problem *p)
{
    if (e->journal && !tiers_has_room(e->tiers))
        return problem_set(p, PROBLEM_STORAGE_FULL, NULL,
                           "no room for another state: delete sessions or snapshots, or give the "
                           "server more room to store them");
    return problem_set(p, otherwise, NULL,
                       "no room for another state: delete sessions or snapshots, or give the "
                       "server more slots or host memory");
}

/* Takes the references to both over. */
static void set_head(struct engine *e, struct session *s, struct checkpoint *head,
                     struct past *past, double when)
{
    assert(past_end(past) == head->position || (!past && checkpoint_is_cold(head)));
    tiers_release(e->tiers, s->head);
    past_release(e->tiers, s->past);
    s->head = head;
    s->past = past;
    s->version++;
    s->updated = s->touched = when;
}

struct entry *session_moving(struct engine *e, struct entry *x, struct session *s,
                             const struct session *next)
{
    struct session then = *next;

    if (!x) {
        tiers_release(e->tiers, next->head);
        past_release(e->tiers, next->past);
        return NULL;
    }
    x->session = s;
    x->head = next->head;
    x->past = next->past;
    x->parent = then.snapshot = lineage_keep(lineage_nearest(next->snapshot));
    x->seed = next->seed;
    then.version++;
    then.updated = x->when;
    if (entry_put_session(e, x, &then))
        return x;
    entry_free(e, x);
    return NULL;
}

void session_moved(struct engine *e, struct entry *x)
{
    struct session *s = x->session;

    set_head(e, s, x->head, x->past, x->when);
    x->head = NULL;
    x->past = NULL;
    lineage_release(e, s->snapshot);
    s->snapshot = x->parent;
    x->parent = NULL;
    s->seed = x->seed;
}

const char *checkpoint_tier(const struct engine *e, const struct checkpoint *c)
{
    if (!c->position)
        return "empty";
    if (c->slot >= 0 || c->record)
        return c->slot >= 0 ? "device" : "host";
    return c->damaged ? "damaged" : format_is_of(c, model_info(e->model)) ? "disk" : "foreign";
}

void session_describe(const struct engine *e, const struct session *s, struct session_info *info)
{
    const struct checkpoint *head = s->head;

    *info = (struct session_info){
        .id = s->id,
        .created = s->created,
        .updated = s->updated,
        .expires = s->ttl > 0 ? s->touched + s->ttl : 0,
        .position = head->position,
        .version = s->version,
        .residency = checkpoint_tier(e, head),
        .state_bytes = model_info(e->model)->layout.bytes,
        .busy = s->job != NULL,
        .answer_open = head->answer_open,
        .metadata = info->metadata,
    };
    if (head->position)
        info->head = head->id;
    if (head->tail)
        memcpy(info->tail, head->tail, strlen(head->tail) + 1);
}

bool session_prepare(struct command *c, const char *metadata)
{
    c->sessions = calloc(1, sizeof(*c->sessions));
    if (!c->sessions)
        return command_no_memory(c);
    c->items = 1;
    if (metadata && !(c->sessions->metadata = strdup(metadata)))
        return command_no_memory(c);
    return true;
}

static void session_free(struct engine *e, struct session *s)
{
    if (!s)
        return;
    tiers_release(e->tiers, s->head);
    past_release(e->tiers, s->past);
    lineage_release(e, s->snapshot);
    free(s->metadata);
    free(s);
}

struct checkpoint *checkpoint_at(const struct engine *e, uint64_t owner, uint64_t position)
{
    const struct model_info *info = model_info(e->model);
    struct checkpoint *c = checkpoint_create();

    if (!c)
        return NULL;
    c->owner = owner;
    c->position = position;
    memcpy(c->fingerprint, info->fingerprint, sizeof(c->fingerprint));
    c->layout = info->layout.id;
    return c;
}

struct checkpoint *session_empty_head(struct engine *e, uint64_t owner)
{
    struct checkpoint *c = checkpoint_at(e, owner, 0);

    if (c)
        tiers_adopt(e->tiers, c);
    return c;
}

struct session *session_add(struct engine *e, struct command *c, const struct id *id,
                            struct checkpoint *head, struct past *past)
{
    struct problem *p = &c->problem;
    struct session *s;

    if ((head && !format_fits(head, model_info(e->model), p)) || !owner_has_room(e, c->owner, p))
        return NULL;
    if (e->options.owner_sessions &&
        id_map_count(&e->sessions, c->owner) >= (size_t)e->options.owner_sessions) {
        problem_set(p, PROBLEM_SESSION_QUOTA, NULL, "you have %d sessions, the most allowed",
                    e->options.owner_sessions);
        return NULL;
    }
    if (e->sessions.count >= (size_t)e->options.max_sessions && !share_makes_room(e, c, head)) {
        problem_set(p, PROBLEM_SESSION_QUOTA, NULL, "there are %d sessions, the most allowed",
                    e->options.max_sessions);
        return NULL;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        goto no_memory;
    s->id = *id;
    s->owner = c->owner;
    if (!id->text[0])
        id_generate_next(&s->id, "sess");
    s->created = s->updated = s->touched = checkpoint_clock();
    s->ttl = e->options.session_ttl;
    s->seed = id_random();
    s->head = head ? tiers_keep(head) : session_empty_head(e, c->owner);
    s->past = past_keep(past);
    if (!s->head || !id_map_put(&e->sessions, s->owner, s->id.text, s))
        goto no_memory;
    return s;

no_memory:
    session_free(e, s);
    problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for another session");
    return NULL;
}

/* A running turn loses its session and ends. */
static void part_from_job(struct engine *e, struct session *s)
{
    if (!s->job)
        return;
    s->job->session = NULL;
    job_fail(e, s->job, PROBLEM_SESSION_NOT_FOUND, "the session was deleted during the turn");
    s->job = NULL;
}

void session_remove(struct engine *e, struct session *s)
{
    id_map_remove(&e->sessions, s->owner, s->id.text);
    part_from_job(e, s);
    session_free(e, s);
}

/* What could not be deleted in the store is still there. */
static void deleted(struct engine *e, struct entry *x)
{
    if (x->problem.what == PROBLEM_NONE)
        session_remove(e, x->session);
    if (!x->command)
        return;
    x->command->problem = x->problem;
    engine_answer(e, x->command);
}

bool session_drop(struct engine *e, struct command *c, struct session *s)
{
    struct entry *x = entry_create(deleted, c);

    if (!x || !entry_drop_session(e, x, s)) {
        entry_free(e, x);
        return false;
    }
    part_from_job(e, s);
    x->session = s;
    journal_submit(e, x);
    return true;
}

bool session_lend_head(struct engine *e, struct session *s)
{
    struct job *job = s->job;

    if (job && !job->reserved)
        job->reserved = anchors_leave_room(e) && tiers_reserve(e->tiers);
    return !job || job->reserved;
}

static struct session *leaver(const struct sequence *s, const struct checkpoint *head)
{
    struct session *of = s->job->session;

    return of && of->head == head && !s->job->reserved ? of : NULL;
}

/* The session whose turn is to leave that head without room of its own; NULL: there is none, and
 * there is never more than one. */
static struct session *find_leaver(const struct engine *e, const struct checkpoint *head)
{
    struct session *found = NULL;

    for (struct sequence *s = e->queue; s && !found; s = s->next)
        found = leaver(s, head);
    for (int i = 0; i < e->running_count && !found; i++)
        found = leaver(e->running[i], head);
    return found;
}

bool state_recall(struct engine *e, struct checkpoint *c)
{
    struct session *s = c->refs ? find_leaver(e, c) : NULL; /* a head is kept */

    return (!s || session_lend_head(e, s)) && tiers_recall(e->tiers, c);
}

static void count_session(struct tally *t, const struct session *s)
{
    const struct checkpoint *head = s->head;

    t->empty += !head->position;
    t->device += head->slot >= 0;
    t->host += head->record != NULL;
    t->store += checkpoint_is_cold(head);
}

bool sessions_sweep(struct engine *e)
{
    double now = checkpoint_clock();
    struct id_entry *at = NULL;

    for (int i = 0; i < SWEEP_PIECE && (at = id_map_walk(&e->sessions, &e->sweep)); i++) {
        struct session *s = at->value;
        bool rests = !s->job && !s->storing;
        bool over = rests && s->ttl > 0 && s->touched + s->ttl < now && !s->mover;

        if (over && i && journal_lags(e))
            return false; /* others wait for the store: one at a time */
        count_session(&e->tally, s);
        e->sweep++;
        if (rests)
            past_cool(e, &s->past, s->head);
        if (!over)
            continue;
        if (journal_shares(e))
            session_remove(e, s); /* Redis has a clock of its own, and may have a newer one */
        else
            session_drop(e, NULL, s);
    }
    if (at)
        return false;
    e->sweep = 0;
    snapshots_cool(e);
    share_looks(e);
    e->counters.sessions_device = e->tally.device;
    e->counters.sessions_host = e->tally.host;
    e->counters.sessions_store = e->tally.store;
    e->counters.sessions_empty = e->tally.empty;
    e->tally = (struct tally){ 0 };
    return true;
}

void sessions_clear(struct engine *e)
{
    struct id_entry *at;

    for (size_t i = 0; (at = id_map_walk(&e->sessions, &i)); i++)
        session_remove(e, at->value);
    id_map_finish(&e->sessions);
}
