/* chat.c - POST /v1/chat/completions.
 *
 * The messages are rendered by the model's template and go on as a completion whose answer
 * stays open. On a session the rendering depends on how its context ends, so the session is
 * asked first and the turn then insists on the version that was seen. */
#include <stdlib.h>
#include <string.h>

#include "models/text/chat_template.h"
#include "server/api/api.h"
#include "server/api/generation.h"
#include "server/http/http.h"

/* Adds the template's stop strings to the client's. */
static bool add_stops(struct turn *t, const struct chat_template *template)
{
    enum { TEMPLATE_STOPS = sizeof(template->stop) / sizeof(template->stop[0]) };
    char(*stop)[LIMIT_STOP_BYTES + 1] =
        realloc(t->stop, ((size_t)t->stops + TEMPLATE_STOPS) * sizeof(*stop));

    if (!stop)
        return false;
    t->stop = stop;
    for (int i = 0; i < TEMPLATE_STOPS && template->stop[i]; i++) {
        size_t len = strnlen(template->stop[i], LIMIT_STOP_BYTES);

        memcpy(stop[t->stops], template->stop[i], len);
        stop[t->stops++][len] = 0;
    }
    return true;
}

/* tail: what the context already holds of the rendering's beginning. */
static void render(struct generation *g, bool answer_open, const char *tail)
{
    const struct chat_template *template = g->base.api->template;
    struct generation_params *params = &g->params;
    struct text_buffer *to = &g->rendered;
    struct problem problem;
    size_t skip = strlen(tail);

    params->prompt = calloc(1, sizeof(*params->prompt));
    if (!params->prompt || !add_stops(&params->turn, template) ||
        !template->render(params->message, (size_t)params->messages, answer_open, true, to)) {
        problem_set(&problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
        generation_refuse(g, &problem);
        return;
    }
    if (skip > to->len || memcmp(to->bytes, tail, skip) != 0)
        skip = 0;
    params->prompt[0].text = to->len ? to->bytes + skip : "";
    params->prompt[0].len = to->len - skip;
    params->prompts = 1;
    generation_start(g, &reply_chat);
}

static void take_session(struct pending *p, struct event *e)
{
    struct generation *g = (struct generation *)p;
    struct command *c = e->command;
    struct generation_params *of = &g->params;
    struct session_info info;

    if (e->kind != EVENT_ANSWER)
        return;
    g->asking = false;
    if (!pending_heard(p) || c->problem.what != PROBLEM_NONE) {
        generation_refuse(g, &c->problem);
        command_free(c);
        return;
    }
    info = c->sessions[0];
    if ((of->expected.given && !version_set_has(&of->expected, info.version)) ||
        version_set_has(&of->unwanted, info.version)) {
        problem_set(&c->problem, PROBLEM_VERSION_MISMATCH, "expected_version",
                    "session %s is at version %llu", info.id.text,
                    (unsigned long long)info.version);
        generation_refuse(g, &c->problem);
        command_free(c);
        return;
    }
    command_free(c);
    g->seen_version = of->expected.count != 1;
    of->expected = version_set_of(info.version);
    p->take = generation_take;
    render(g, info.answer_open, info.tail);
}

static void ask_session(struct generation *g)
{
    struct command *c = command_create(COMMAND_SESSION_GET, &g->base);
    struct problem problem;

    if (!c) {
        problem_set(&problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
        generation_refuse(g, &problem);
        return;
    }
    c->owner = exchange_client(g->base.exchange);
    c->session = g->params.session;
    g->base.take = take_session;
    g->asking = pending_send(&g->base, c, &problem);
    if (!g->asking)
        generation_refuse(g, &problem);
}

void chat_post(struct exchange *x, void *app)
{
    struct api *api = app;
    struct params_context context = api_params(api, x);
    struct generation *g = generation_create(api, x);
    struct problem problem;
    size_t len;
    const char *body = exchange_body(x, &len);

    if (!g)
        return;
    if (!params_chat(body, len, &context, &g->params, &problem)) {
        generation_refuse(g, &problem);
    } else if (!api->template) {
        problem_set(&problem, PROBLEM_NO_CHAT_TEMPLATE, NULL,
                    "model %s has no chat template; use /v1/completions, or choose one with "
                    "--chat-template",
                    api->model_name);
        generation_refuse(g, &problem);
    } else if (!generation_begin(g)) {
        return;
    } else if (g->params.session.text[0]) {
        ask_session(g);
    } else {
        render(g, false, "");
    }
}
