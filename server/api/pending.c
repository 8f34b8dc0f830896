#include "server/api/pending.h"

#include <stdlib.h>

#include "config/options.h"
#include "server/api/api.h"
#include "server/api/repeats.h"
#include "server/clock.h"
#include "server/engine/engine.h"
#include "server/http/http.h"

static void client_gone(struct exchange *x, void *owner)
{
    struct pending *p = owner;

    (void)x;
    p->gone = true;
    if (p->cancel && !repeats_awaited(p))
        p->cancel(p);
}

static void client_drained(struct exchange *x, void *owner)
{
    struct pending *p = owner;

    (void)x;
    if (p->drained)
        p->drained(p);
}

void pending_init(struct pending *p, struct api *api, struct exchange *x)
{
    p->api = api;
    p->exchange = x;
    p->next = api->pending;
    p->link = &api->pending;
    if (p->next)
        p->next->link = &p->next;
    api->pending = p;
    exchange_watch(x, p, client_gone, client_drained);
}

void pending_finish(struct pending *p)
{
    repeats_drop(p);
    *p->link = p->next;
    if (p->next)
        p->next->link = p->link;
    if (p->exchange)
        exchange_abandon(p->exchange);
    p->exchange = NULL;
}

bool pending_heard(const struct pending *p)
{
    return !p->gone || repeats_awaited(p);
}

static void run_work(uv_work_t *request)
{
    struct pending *p = request->data;

    p->work(p);
}

static void after_work(uv_work_t *request, int status)
{
    struct pending *p = request->data;

    (void)status; /* nothing is ever uv_cancel()led */
    p->working = false;
    p->after(p);
}

void pending_work(struct pending *p, void (*work)(struct pending *p),
                  void (*after)(struct pending *p))
{
    p->work = work;
    p->after = after;
    p->request.data = p;
    p->working = true;
    uv_queue_work(p->api->loop, &p->request, run_work, after_work);
}

/* The exchange, if it can still be answered; it is no longer p's then. */
static struct exchange *take_exchange(struct pending *p)
{
    struct exchange *x = p->exchange;

    if (!x || p->gone)
        return NULL;
    p->exchange = NULL;
    exchange_watch(x, NULL, NULL, NULL);
    return x;
}

void pending_refuse(struct pending *p, const struct problem *problem)
{
    struct exchange *x = take_exchange(p);

    if (x)
        exchange_refuse(x, problem);
}

void pending_reply(struct pending *p, const char *type, struct text_buffer *body)
{
    struct exchange *x;

    repeats_add(p, body->bytes, body->len);
    repeats_keep(p, type);
    x = take_exchange(p);
    if (x)
        exchange_reply_take(x, 200, type, body->bytes, body->len);
    else
        free(body->bytes);
    *body = (struct text_buffer){ 0 };
}

bool pending_send(struct pending *p, struct command *c, struct problem *problem)
{
    c->waiter = p;
    if (engine_send(p->api->engine, c))
        return true;
    command_free(c);
    return problem_set(problem, PROBLEM_QUEUE_FULL, NULL, "the queue is full");
}

void pending_late(const struct pending *p, struct problem *problem)
{
    if (p->timed_out)
        problem_set(problem, PROBLEM_DEADLINE, NULL,
                    "nothing was done in the %d seconds that a request may take",
                    p->api->options->request_seconds);
    else
        problem_set(problem, PROBLEM_SHUTTING_DOWN, NULL,
                    "the server is shutting down and had no time for the request");
}

struct ask {
    struct pending base;
    struct command *command; /* the engine's, until it is answered */
    bool late;               /* over its time, or the server drains */
    void (*answer)(struct api *api, const struct command *c, struct json_out *o);
};

static void ask_take(struct pending *p, struct event *e)
{
    struct ask *a = (struct ask *)p;
    struct command *c = e->command;
    struct text_buffer body = { 0 };
    struct json_out out;

    if (e->kind != EVENT_ANSWER)
        return;
    if (c->problem.what == PROBLEM_CANCELLED && a->late)
        pending_late(p, &c->problem);
    if (c->problem.what != PROBLEM_NONE) {
        pending_refuse(p, &c->problem);
    } else {
        json_out_init(&out, &body);
        a->answer(p->api, c, &out);
        api_reply_json(p, &out);
    }
    command_free(c);
    pending_finish(p);
    free(a);
}

/* Ends what takes long, which is a way back; the rest is answered as ever. */
static void ask_cancel(struct pending *p)
{
    struct ask *a = (struct ask *)p;

    a->late = pending_heard(p);
    atomic_store(&a->command->cancelled, true);
    engine_nudge(p->api->engine);
}

void api_ask(struct api *api, struct exchange *x, struct command *c,
             void (*answer)(struct api *api, const struct command *c, struct json_out *o))
{
    struct ask *a = calloc(1, sizeof(*a));
    struct problem problem;

    if (!a || !c) {
        free(a);
        command_free(c);
        api_no_memory(x);
        return;
    }
    a->base.take = ask_take;
    a->base.cancel = ask_cancel;
    a->command = c;
    a->answer = answer;
    if (api->options->request_seconds > 0)
        a->base.deadline = clock_seconds() + api->options->request_seconds;
    pending_init(&a->base, api, x);
    if (!repeats_begin(&a->base, true, &c->session))
        command_free(c);
    else if (pending_send(&a->base, c, &problem))
        return;
    else
        pending_refuse(&a->base, &problem);
    pending_finish(&a->base);
    free(a);
}
