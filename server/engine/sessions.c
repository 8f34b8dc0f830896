/* sessions.c - the table of sessions and the verbs on them. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

struct session *session_find(struct engine *e, const struct command *c, struct problem *p)
{
    struct session *s = id_map_find(&e->sessions, c->owner, &c->session);

    if (!s)
        problem_set(p, PROBLEM_SESSION_NOT_FOUND, "session_id", "there is no session '%s'",
                    c->session.text);
    return s;
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
    if (c->has_expected_version && c->expected_version != s->version)
        return problem_set(p, PROBLEM_VERSION_MISMATCH, "expected_version",
                           "session '%s' is at version %llu, not %llu", s->id.text,
                           (unsigned long long)s->version, (unsigned long long)c->expected_version);
    *out = s;
    return true;
}

void session_move(struct engine *e, struct session *s, struct checkpoint *head, struct past *past)
{
    assert(past_end(past) == head->position);
    tiers_release(e->tiers, s->head);
    past_release(e->tiers, s->past);
    s->head = head;
    s->past = past;
    s->version++;
    s->updated = s->touched = checkpoint_clock();
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
        .residency = head->slot >= 0 ? "device"
                     : head->record  ? "host"
                                     : "empty",
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

static bool no_memory(struct command *c)
{
    return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the answer");
}

/* Before anything changes, so that what is done is also answered. */
static bool prepare(struct command *c, const char *metadata)
{
    c->sessions = calloc(1, sizeof(*c->sessions));
    if (!c->sessions)
        return no_memory(c);
    c->items = 1;
    if (metadata && !(c->sessions->metadata = strdup(metadata)))
        return no_memory(c);
    return true;
}

static bool answer(struct engine *e, struct command *c, const struct session *s)
{
    session_describe(e, s, c->sessions);
    return true;
}

static void session_free(struct engine *e, struct session *s)
{
    if (!s)
        return;
    tiers_release(e->tiers, s->head);
    past_release(e->tiers, s->past);
    free(s->metadata);
    free(s);
}

/* A head at position 0, for which no room is needed. */
static struct checkpoint *empty_head(struct engine *e, uint64_t owner)
{
    const struct model_info *info = model_info(e->model);
    struct checkpoint *c = checkpoint_create();

    if (!c)
        return NULL;
    c->owner = owner;
    memcpy(c->fingerprint, info->fingerprint, sizeof(c->fingerprint));
    c->layout = info->layout.id;
    tiers_adopt(e->tiers, c);
    return c;
}

/* Adds a session of the command's owner that stands on `head` (kept here, with its past), or
 * on nothing. */
static struct session *add_session(struct engine *e, struct command *c, const struct id *id,
                                   struct checkpoint *head, struct past *past)
{
    struct problem *p = &c->problem;
    struct session *s;

    if (e->sessions.count >= (size_t)e->options.max_sessions) {
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
        id_generate(&s->id, "sess");
    s->created = s->updated = s->touched = checkpoint_clock();
    s->ttl = e->options.session_ttl;
    s->seed = id_random();
    s->head = head ? tiers_keep(head) : empty_head(e, c->owner);
    s->past = past_keep(past);
    if (!s->head || !id_map_put(&e->sessions, s->owner, &s->id, s))
        goto no_memory;
    return s;

no_memory:
    session_free(e, s);
    problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for another session");
    return NULL;
}

static bool create(struct engine *e, struct command *c)
{
    struct snapshot *from = NULL;
    struct session *s;

    if (id_map_find(&e->sessions, c->owner, &c->session))
        return problem_set(&c->problem, PROBLEM_SESSION_EXISTS, "id",
                           "there is a session '%s' already", c->session.text);
    if (c->snapshot.text[0] && !(from = snapshot_find(e, c, &c->problem)))
        return false;
    s = prepare(c, c->metadata) ? add_session(e, c, &c->session, from ? from->checkpoint : NULL,
                                              from ? from->past : NULL)
                                : NULL;
    if (!s)
        return false;
    if (from) {
        s->snapshot = from->id;
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
    return answer(e, c, s);
}

static bool get(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);

    return s && prepare(c, s->metadata) && answer(e, c, s);
}

static bool list(struct engine *e, struct command *c)
{
    struct id_entry *at = id_map_next(&e->sessions, c->owner, &c->after);

    c->sessions = calloc((size_t)c->count + 1, sizeof(*c->sessions));
    if (!c->sessions)
        return no_memory(c);
    for (; at && c->items < c->count; at = id_map_next(&e->sessions, c->owner, &at->id)) {
        const struct session *s = at->value;
        struct session_info *info = &c->sessions[c->items++];

        if (s->metadata && !(info->metadata = strdup(s->metadata)))
            return no_memory(c);
        session_describe(e, s, info);
    }
    c->more = at != NULL;
    return true;
}

/* A running turn loses its session and ends. */
static void remove_session(struct engine *e, struct session *s)
{
    id_map_remove(&e->sessions, s->owner, &s->id);
    if (s->job) {
        s->job->session = NULL;
        job_fail(e, s->job, PROBLEM_SESSION_NOT_FOUND, "the session was deleted during the turn");
    }
    session_free(e, s);
}

static bool forget(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);

    if (!s)
        return false;
    remove_session(e, s);
    return true;
}

static void forget_children(struct engine *e, struct command *c)
{
    while (c->items)
        remove_session(e, id_map_find(&e->sessions, c->owner, &c->sessions[--c->items].id));
}

/* Children share the checkpoint; each gets a slot of its own when it is written. */
static bool branch(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);
    struct snapshot *from = NULL;
    const struct id none = { "" };

    if (!s || (c->snapshot.text[0] && !(from = snapshot_find(e, c, &c->problem))))
        return false;
    c->sessions = calloc((size_t)c->count, sizeof(*c->sessions));
    if (!c->sessions)
        return no_memory(c);
    while (c->items < c->count) {
        struct session *child = add_session(e, c, &none, from ? from->checkpoint : s->head,
                                            from ? from->past : s->past);

        if (!child) {
            forget_children(e, c);
            return false;
        }
        child->snapshot = from ? from->id : s->snapshot;
        child->ttl = s->ttl;
        if (s->seeded) {
            child->seeded = true;
            child->seed = s->seed;
        }
        session_describe(e, child, &c->sessions[c->items++]);
    }
    return true;
}

static bool restore(struct engine *e, struct command *c)
{
    struct snapshot *from = snapshot_find(e, c, &c->problem);
    struct session *s;

    if (!from || !session_claim(e, c, &s, &c->problem) || !prepare(c, s->metadata))
        return false;
    session_move(e, s, tiers_keep(from->checkpoint), past_keep(from->past));
    s->snapshot = from->id;
    s->seed = from->seed;
    return answer(e, c, s);
}

bool checkpoint_copy_out(struct engine *e, struct command *c, const struct checkpoint *from,
                         const struct past *past, uint64_t seed)
{
    uint64_t known = past_end(past) - past_begin(past);
    size_t n = known < LIMIT_HISTORY_TOKENS ? (size_t)known : LIMIT_HISTORY_TOKENS;
    struct checkpoint *copy = tiers_export(e->tiers, from);

    if (copy && n && !(copy->token = malloc(n * sizeof(*copy->token)))) {
        checkpoint_destroy(copy);
        copy = NULL;
    }
    if (!copy)
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL,
                           "no memory for a copy of the state");
    copy->tokens = n;
    if (n)
        past_read(past, past_end(past) - n, n, copy->token);
    copy->seed = seed;
    c->checkpoint = copy;
    return true;
}

bool checkpoint_take_past(struct command *c, struct past **past)
{
    struct checkpoint *from = c->checkpoint;

    if (!past_create(past, from->position, from->token, from->tokens))
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL,
                           "no memory for the context's tokens");
    free(from->token);
    from->token = NULL;
    from->tokens = 0;
    return true;
}

static bool copy_out(struct engine *e, struct command *c)
{
    struct session *s = session_find(e, c, &c->problem);

    if (!s || !prepare(c, s->metadata))
        return false;
    return checkpoint_copy_out(e, c, s->head, s->past, s->seed) && answer(e, c, s);
}

static bool take_in(struct engine *e, struct command *c)
{
    struct session *s = id_map_find(&e->sessions, c->owner, &c->session);
    struct checkpoint *head = c->checkpoint;
    struct past *past;

    if ((s && !session_claim(e, c, &s, &c->problem)) || !prepare(c, s ? s->metadata : NULL) ||
        !checkpoint_take_past(c, &past))
        return false;
    if (!tiers_adopt(e->tiers, head)) {
        past_release(e->tiers, past);
        return problem_set(&c->problem, PROBLEM_NO_SLOT, NULL,
                           "no room in host memory for another state");
    }
    c->checkpoint = NULL;
    if (!s && !(s = add_session(e, c, &c->session, NULL, NULL))) {
        tiers_release(e->tiers, head);
        past_release(e->tiers, past);
        return false;
    }
    head->owner = s->owner;
    s->seed = head->seed;
    s->snapshot.text[0] = '\0';
    session_move(e, s, head, past);
    return answer(e, c, s);
}

bool session_command(struct engine *e, struct command *c)
{
    switch (c->kind) {
    case COMMAND_SESSION_CREATE:
        return create(e, c);
    case COMMAND_SESSION_GET:
        return get(e, c);
    case COMMAND_SESSION_LIST:
        return list(e, c);
    case COMMAND_SESSION_DELETE:
        return forget(e, c);
    case COMMAND_SESSION_FORK:
        return branch(e, c);
    case COMMAND_SESSION_RESTORE:
        return restore(e, c);
    case COMMAND_SESSION_EXPORT:
        return copy_out(e, c);
    default:
        return take_in(e, c);
    }
}

void sessions_sweep(struct engine *e)
{
    double now = checkpoint_clock();

    for (struct id_entry *at = e->sessions.first, *next; at; at = next) {
        struct session *s = at->value;

        next = at->next;
        if (!s->job && s->ttl > 0 && s->touched + s->ttl < now)
            remove_session(e, s);
    }
}

void sessions_clear(struct engine *e)
{
    while (e->sessions.first)
        remove_session(e, e->sessions.first->value);
    id_map_finish(&e->sessions);
}
