#include "server/engine/command.h"

#include <stdlib.h>

#include "server/state/checkpoint.h"

struct version_set version_set_of(uint64_t version)
{
    return (struct version_set){ .given = true, .count = 1, .version = { version } };
}

bool version_set_has(const struct version_set *s, uint64_t version)
{
    for (int i = 0; i < s->count; i++)
        if (s->version[i] == version)
            return true;
    return s->all;
}

struct command *command_create(enum command_kind kind, void *waiter)
{
    struct command *c = calloc(1, sizeof(*c));

    if (!c || !(c->answer = calloc(1, sizeof(*c->answer)))) {
        free(c);
        return NULL;
    }
    c->kind = kind;
    c->waiter = waiter;
    atomic_init(&c->cancelled, false);
    atomic_init(&c->cut, false);
    c->turn.choices = 1;
    c->turn.logprobs = -1;
    c->turn.sampling = (struct sampling){
        .temperature = 1, .top_p = 1, .typical_p = 1, .repetition = 1, .penalty_decay = 1
    };
    return c;
}

void command_free(struct command *c)
{
    if (!c)
        return;
    event_free(c->answer);
    free(c->turn.prompt);
    free(c->turn.sampling.bias);
    free(c->turn.stop);
    free(c->turn.stop_id);
    free(c->turn.info.metadata);
    free(c->metadata);
    checkpoint_destroy(c->checkpoint);
    for (int i = 0; c->sessions && i < c->items; i++)
        free(c->sessions[i].metadata);
    free(c->sessions);
    free(c->snapshots);
    free(c);
}

void event_free(struct event *e)
{
    if (!e)
        return;
    free(e->text.bytes);
    free(e->score);
    free(e);
}
