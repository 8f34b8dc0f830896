#include "server/api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/options.h"
#include "models/text/chat_template.h"
#include "models/text/tokenizer.h"
#include "server/api/pending.h"
#include "server/api/repeats.h"
#include "server/engine/engine.h"
#include "server/http/http.h"

static bool refuse_template(const char *name, struct error *err)
{
    const struct chat_template *t;
    char names[128] = "";
    size_t len = 0;

    for (size_t i = 0; len < sizeof(names) && (t = chat_template_at(i)); i++)
        len += (size_t)snprintf(names + len, sizeof(names) - len, "%s, ", t->name);
    return error_set(err, ERR_INPUT,
                     "there is no chat template \"%.64s\"; there are %snone and auto", name, names);
}

bool api_choose_template(struct api *api, struct error *err)
{
    const char *name = api->options->chat_template ? api->options->chat_template : "auto";

    if (strcmp(name, "auto") == 0) {
        if (strcmp(tokenizer_kind(api->tokenizer), "rwkv-world") == 0)
            name = "rwkv-world";
        else if (tokenizer_find(api->tokenizer, "<|im_start|>", 12) >= 0)
            name = "chatml";
        else
            name = "none";
    }
    if (strcmp(name, "none") == 0)
        return true;
    api->template = chat_template_find(name);
    if (!api->template)
        return refuse_template(name, err);
    return true;
}

void api_pump(struct api *api)
{
    struct event *e;
    struct pending *next;

    while ((e = engine_receive(api->engine))) {
        struct pending *p = e->command->waiter;

        p->take(p, e);
        event_free(e);
    }
    for (struct pending *p = api->pending; p; p = next) {
        next = p->next; /* a flush may find the client gone, which ends p alone */
        if (!p->dirty || !p->exchange || p->gone)
            continue;
        p->dirty = false;
        exchange_flush(p->exchange);
    }
    repeats_run(api->repeats);
}

void api_check_deadlines(struct api *api, double now)
{
    struct pending *next;

    for (struct pending *p = api->pending; p; p = next) {
        next = p->next;
        if (p->deadline == 0 || now < p->deadline)
            continue;
        p->deadline = 0;
        p->timed_out = true;
        p->cancel(p);
    }
    repeats_run(api->repeats);
}

void api_cancel_all(struct api *api)
{
    struct pending *next;

    for (struct pending *p = api->pending; p; p = next) {
        next = p->next;
        if (p->cancel)
            p->cancel(p);
    }
}

struct params_context api_params(const struct api *api, const struct exchange *x)
{
    return (struct params_context){
        .model = api->model_name,
        .vocab = tokenizer_size(api->tokenizer),
        .max_tokens = api->options->max_tokens,
        .session_header = exchange_header(x, "x-session-id"),
        .match_header = exchange_header(x, "if-match"),
        .none_header = exchange_header(x, "if-none-match"),
    };
}

void api_no_memory(struct exchange *x)
{
    struct problem problem;

    problem_set(&problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
    exchange_refuse(x, &problem);
}

void api_reply_json(struct pending *p, struct json_out *out)
{
    struct problem problem;

    if (!json_out_ok(out)) {
        problem_set(&problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the answer");
        pending_refuse(p, &problem);
        free(out->to->bytes);
        return;
    }
    pending_reply(p, "application/json", out->to);
}

void api_answer_json(struct exchange *x, int status, struct json_out *out)
{
    if (json_out_ok(out)) {
        exchange_reply_take(x, status, "application/json", out->to->bytes, out->to->len);
        return;
    }
    free(out->to->bytes);
    api_no_memory(x);
}
