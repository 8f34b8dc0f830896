/* sessions.c - the session verbs but for snapshots and state files. */
#include "server/api/api.h"
#include "server/api/generation.h"
#include "server/api/objects.h"
#include "server/api/verbs.h"
#include "server/http/http.h"

static void answer_session(struct api *api, const struct command *c, struct json_out *o)
{
    put_session(o, &c->sessions[0], api->model_name);
}

static void answer_list(struct api *api, const struct command *c, struct json_out *o)
{
    put_session_list(o, c, api->model_name);
}

static void answer_deleted(struct api *api, const struct command *c, struct json_out *o)
{
    (void)api;
    put_deleted(o, c->session.text, "session.deleted");
}

void sessions_post(struct exchange *x, void *app)
{
    struct command *c = verb_with_body(x, app, SESSION_CREATE, COMMAND_SESSION_CREATE);

    if (c)
        api_ask(app, x, c, answer_session);
}

void sessions_list(struct exchange *x, void *app)
{
    struct command *c = verb_list(x, COMMAND_SESSION_LIST);

    if (c)
        api_ask(app, x, c, answer_list);
}

void session_get(struct exchange *x, void *app)
{
    struct command *c = verb_of_session(x, COMMAND_SESSION_GET);

    if (c)
        api_ask(app, x, c, answer_session);
}

void session_delete(struct exchange *x, void *app)
{
    struct command *c = verb_of_session(x, COMMAND_SESSION_DELETE);

    if (c)
        api_ask(app, x, c, answer_deleted);
}

void session_fork(struct exchange *x, void *app)
{
    struct command *c = verb_with_body(x, app, SESSION_FORK, COMMAND_SESSION_FORK);

    if (c)
        api_ask(app, x, c, answer_list);
}

void session_restore(struct exchange *x, void *app)
{
    struct command *c = verb_with_body(x, app, SESSION_RESTORE, COMMAND_SESSION_RESTORE);

    if (c)
        api_ask(app, x, c, answer_session);
}

void session_rollback(struct exchange *x, void *app)
{
    struct command *c = verb_with_body(x, app, SESSION_ROLLBACK, COMMAND_SESSION_ROLLBACK);

    if (c)
        api_ask(app, x, c, answer_session);
}

/* An append answers with the session as it stands now, and what it cost. */
static void append_whole(struct reply *r, struct json_out *o)
{
    json_open(o, '{');
    if (r->session)
        put_session_fields(o, r->session, r->model);
    json_key(o, "usage");
    reply_usage(r, o);
    json_close(o, '}');
}

static const struct reply_shape reply_append = { .id_prefix = "append", .whole = append_whole };

void session_append(struct exchange *x, void *app)
{
    struct api *api = app;
    struct params_context context = api_params(api, x);
    struct generation *g = generation_create(api, x);
    struct problem problem;
    struct id id;
    size_t len;
    const char *body = exchange_body(x, &len);

    if (!g)
        return;
    if (!id_parse(&id, exchange_param(x, "id"))) {
        problem_set(&problem, PROBLEM_SESSION_NOT_FOUND, NULL, "there is no such session");
        generation_refuse(g, &problem);
        return;
    }
    context.session_header = id.text;
    if (!params_append(body, len, &context, &g->params, &problem))
        generation_refuse(g, &problem);
    else if (generation_begin(g))
        generation_start(g, &reply_append);
}
