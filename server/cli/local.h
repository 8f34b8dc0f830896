/* local.h - a model and its engine in this process, driven by the thread that opened them.
 *
 * What the loop thread is to the server, the caller is here: it sends commands and takes
 * events, and sleeps on a semaphore between them. */
#ifndef SERVER_CLI_LOCAL_H
#define SERVER_CLI_LOCAL_H

#include <semaphore.h>
#include <stdbool.h>

#include "server/cli/load.h"
#include "server/engine/command.h"
#include "server/engine/engine.h"

struct local {
    struct loaded parts;
    struct engine *engine; /* NULL until local_start() */
    struct engine_options limits;
    sem_t news; /* posted when events wait, and by whoever wants local_wait() to return */
};

/* Backend, model and tokenizer. false with *err set: close all the same. */
bool local_open(struct local *l, const struct options *o, const struct engine_options *limits,
                struct error *err);
/* The engine, which has the model and the backend to itself until local_stop(). */
bool local_start(struct local *l, struct error *err);
void local_stop(struct local *l);
void local_close(struct local *l); /* takes every state that local_open() can leave */

/* The next event, or NULL when there is none though something was posted. */
struct event *local_wait(struct local *l);

/* Sends c and waits for its answer; text on the way is dropped. true: c->problem is none. */
bool local_ask(struct local *l, struct command *c);

#endif
