#include "server/engine/command.h"

#include <stdlib.h>

#include "server/state/checkpoint.h"

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

enum session_use command_use(const struct command *c)
{
    static const enum session_use of[] = {
        [COMMAND_TURN] = USE_MOVES,
        [COMMAND_SESSION_CREATE] = USE_CHANGES,
        [COMMAND_SESSION_DELETE] = USE_CHANGES,
        [COMMAND_SESSION_FORK] = USE_CHANGES,
        [COMMAND_SESSION_RESTORE] = USE_MOVES,
        [COMMAND_SESSION_ROLLBACK] = USE_MOVES,
        [COMMAND_SESSION_IMPORT] = USE_MOVES,
        [COMMAND_SNAPSHOT_TAKE] = USE_CHANGES,
        [COMMAND_SNAPSHOT_IMPORT] = USE_LOOKS, /* the last kind: the table has them all */
    };

    return of[c->kind];
}

bool command_exports(const struct command *c)
{
    return c->kind == COMMAND_SESSION_EXPORT || c->kind == COMMAND_SNAPSHOT_EXPORT;
}

void event_free(struct event *e)
{
    if (!e)
        return;
    free(e->text.bytes);
    free(e->score);
    free(e);
}
