#include "server/cli/local.h"

#include "config/error.h"

static void wake(void *arg)
{
    sem_post(arg);
}

bool local_open(struct local *l, const struct options *o, const struct engine_options *limits,
                struct error *err)
{
    const struct model_options sizes = { .max_rows = limits->row_budget,
                                         .max_logits = engine_max_logits(limits),
                                         .logs = true };

    l->engine = NULL;
    l->limits = *limits;
    sem_init(&l->news, 0, 0); /* a private one at 0 cannot fail */
    if (!loaded_init(&l->parts, o, &sizes, limits->max_batch, err))
        return false;
    l->limits.row_budget = model_info(l->parts.model)->max_rows;
    return true;
}

bool local_start(struct local *l, struct error *err)
{
    l->engine =
        engine_create(&l->parts.devices, l->parts.tokenizer, &l->limits, wake, &l->news, err);
    return l->engine != NULL;
}

void local_stop(struct local *l)
{
    engine_destroy(l->engine);
    l->engine = NULL;
}

void local_close(struct local *l)
{
    local_stop(l);
    loaded_finish(&l->parts);
    sem_destroy(&l->news);
}

struct event *local_wait(struct local *l)
{
    struct event *e = engine_receive(l->engine);

    if (e)
        return e;
    sem_wait(&l->news); /* a signal ends it too: the caller looks again */
    return engine_receive(l->engine);
}

bool local_ask(struct local *l, struct command *c)
{
    struct event *e;
    bool answered = false;

    if (!engine_send(l->engine, c))
        return problem_set(&c->problem, PROBLEM_QUEUE_FULL, NULL, "the queue is full");
    while (!answered) {
        e = local_wait(l);
        answered = e && e->kind == EVENT_ANSWER && e->command == c;
        event_free(e);
    }
    return c->problem.what == PROBLEM_NONE;
}
