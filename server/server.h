/* server.h - the loop: engine, HTTP floor and API joined, from the first request to the drain.
 *
 * The first SIGTERM or SIGINT drains: nothing new is taken, running turns get drain_seconds,
 * then they are ended with what they have. A second one exits at once. Loop thread only. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <stdbool.h>

struct backend;
struct error;
struct model;
struct options;
struct server;
struct tokenizer;

/* Borrowed; they outlive the server. */
struct server_parts {
    const struct options *options;
    struct model *model;
    struct backend *backend;
    const struct tokenizer *tokenizer;
    const char *model_name;
};

/* Starts the engine and listens. NULL and ERR_INPUT, ERR_IO or ERR_NOMEM. */
struct server *server_open(const struct server_parts *parts, struct error *err);
int server_port(const struct server *s);
/* Serves until it is drained. false: because its device failed. */
bool server_run(struct server *s);
void server_close(struct server *s); /* takes NULL */

#endif
