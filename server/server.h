/* server.h - the loop: engine, HTTP floor and API joined, from the first request to the drain.
 *
 * A server listens before it has a model, so that a probe is answered while gigabytes are
 * read. The first SIGTERM or SIGINT drains: nothing new is taken, running turns get
 * drain_seconds, then they are ended with what they have. A second one exits at once, and so
 * does the first while the model is loaded, with exit code 0. Loop thread only. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <stdbool.h>

struct devices;
struct error;
struct options;
struct server;
struct tokenizer;

/* What is served. Borrowed; they outlive the server. */
struct server_parts {
    const struct devices *devices; /* with their models */
    const struct tokenizer *tokenizer;
    const char *model_name;
};

/* Listens; but for probes, everything is answered 503 loading. options: borrowed. NULL and
 * ERR_INPUT, ERR_IO or ERR_NOMEM. */
struct server *server_open(const struct options *options, struct error *err);
/* Calls load(arg) and starts the engine with what it filled in, both on a thread of its own
 * while this one answers; then the server is ready. false: why it is not. Once. */
bool server_load(struct server *s,
                 bool (*load)(void *arg, struct server_parts *to, struct error *err), void *arg,
                 struct error *err);
int server_port(const struct server *s);
/* Serves until it is drained. false: because its device failed. */
bool server_run(struct server *s);
void server_close(struct server *s); /* takes NULL */

#endif
