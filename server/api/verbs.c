#include "server/api/verbs.h"

#include <string.h>

#include "server/api/api.h"
#include "server/api/entity_tags.h"
#include "server/http/http.h"

static struct command *refuse(struct exchange *x, const struct problem *problem, struct command *c)
{
    command_free(c);
    exchange_refuse(x, problem);
    return NULL;
}

struct command *verb_create(struct exchange *x, enum command_kind kind)
{
    struct command *c = command_create(kind, NULL);

    if (c)
        c->owner = exchange_client(x);
    else
        api_no_memory(x);
    return c;
}

/* What is only read is always sent: it changes where the version does not, and a session of the
 * same id that is made again counts its versions anew. */
static bool read_conditions(const struct exchange *x, struct command *c, struct problem *p)
{
    const bool reads = c->kind == COMMAND_SESSION_GET || c->kind == COMMAND_SESSION_EXPORT ||
                       c->kind == COMMAND_SNAPSHOT_LIST;

    return entity_tags_if_match(exchange_header(x, "if-match"), &c->expected, p) &&
           (reads ||
            entity_tags_if_none_match(exchange_header(x, "if-none-match"), &c->unwanted, p));
}

struct command *verb_of_session(struct exchange *x, enum command_kind kind)
{
    struct command *c = verb_create(x, kind);
    struct problem problem;

    if (!c)
        return NULL;
    /* No session can have a name that is none: the answer is that of an unknown one. */
    if (!id_parse(&c->session, exchange_param(x, "id"))) {
        problem_set(&problem, PROBLEM_SESSION_NOT_FOUND, NULL, "there is no such session");
        return refuse(x, &problem, c);
    }
    return read_conditions(x, c, &problem) ? c : refuse(x, &problem, c);
}

struct command *verb_of_snapshot(struct exchange *x, enum command_kind kind)
{
    struct command *c = verb_create(x, kind);
    struct problem problem;

    if (!c || id_parse(&c->snapshot, exchange_param(x, "id")))
        return c;
    problem_set(&problem, PROBLEM_SNAPSHOT_NOT_FOUND, NULL, "there is no such snapshot");
    return refuse(x, &problem, c);
}

struct command *verb_with_body(struct exchange *x, struct api *api, enum session_verb verb,
                               enum command_kind kind)
{
    struct params_context context = api_params(api, x);
    struct command *c = verb == SESSION_CREATE ? verb_create(x, kind) : verb_of_session(x, kind);
    struct session_params s;
    struct problem problem;
    const char *body;
    size_t len;

    if (!c) /* and the exchange is gone */
        return NULL;
    body = exchange_body(x, &len);
    if (!params_session(verb, body, len, &context, &s, &problem)) {
        session_params_finish(&s);
        return refuse(x, &problem, c);
    }
    if (verb == SESSION_CREATE)
        c->session = s.id;
    c->snapshot = s.snapshot;
    c->has_seed = s.has_seed;
    c->seed = s.seed;
    c->has_ttl = s.has_ttl;
    c->ttl = s.ttl;
    c->metadata = s.metadata; /* moved */
    c->count = s.n;
    c->position = s.position;
    c->turns = (size_t)s.turns;
    memcpy(c->label, s.label, sizeof(c->label));
    return c;
}

struct command *verb_list(struct exchange *x, enum command_kind kind)
{
    struct command *c = verb_create(x, kind);
    struct problem problem;

    if (!c || params_page(exchange_query(x, "limit"), exchange_query(x, "after"), &c->count,
                          &c->after, &problem))
        return c;
    return refuse(x, &problem, c);
}

bool verb_choose(struct exchange *x, const char *name, const char *no, const char *yes,
                 bool *chosen, struct problem *p)
{
    const char *value = exchange_query(x, name);

    *chosen = value && strcmp(value, yes) == 0;
    if (!value || *chosen || strcmp(value, no) == 0)
        return true;
    return problem_set(p, PROBLEM_INVALID_PARAMETER, name, "%s is %s or %s", name, no, yes);
}

static bool read_filter(struct exchange *x, const char *name, struct id *id, struct problem *p)
{
    const char *value = exchange_query(x, name);

    return !value || id_parse(id, value) ||
           problem_set(p, PROBLEM_INVALID_PARAMETER, name, "%s must be an id", name);
}

struct command *verb_list_snapshots(struct exchange *x)
{
    struct command *c = verb_list(x, COMMAND_SNAPSHOT_LIST);
    struct problem problem;

    if (!c || (read_filter(x, "session", &c->taken_of, &problem) &&
               read_filter(x, "subtree", &c->snapshot, &problem)))
        return c;
    return refuse(x, &problem, c);
}

struct command *verb_delete_snapshot(struct exchange *x)
{
    struct command *c = verb_of_snapshot(x, COMMAND_SNAPSHOT_DELETE);
    struct problem problem;

    if (!c || verb_choose(x, "subtree", "false", "true", &c->whole, &problem))
        return c;
    return refuse(x, &problem, c);
}
