/* site.h - a server on its own thread with routes that show every kind of answer, and a
 * client of raw sockets to talk to it. */
#ifndef TESTS_SERVER_HTTP_SITE_H
#define TESTS_SERVER_HTTP_SITE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "server/http/http.h"

enum {
    SITE_TRANSFER_BYTES = 24 << 20, /* of all transfers */
    SITE_BIG_BYTES = 8 << 20,       /* the answer of /big and /pull */
    SITE_PULL_BYTES = 16 << 20,     /* what /pull claims before it */
    SITE_BODY_BYTES = 4 << 20,      /* the largest body of /push */
    SITE_PUSH_BYTES = 4 << 20,      /* what it claims beside it */
};

struct site {
    struct http_server *server;
    uv_loop_t loop;
    uv_thread_t thread;
    uv_async_t order;
    uv_sem_t done;
    atomic_int wanted; /* an order for the loop thread */
    int port, left;    /* left: what uv_loop_close() returned */
    bool stopped;
    atomic_int handled, gone, drains, answered, drained;
    atomic_size_t peak; /* largest backlog of /flood */
    atomic_long connections;
    atomic_size_t held;      /* by transfers */
    atomic_bool later_waits; /* while it is set, nobody gets the answer of /later */
};

extern const struct route site_routes[];

/* speed: how many times faster its clock runs. */
void site_start(struct site *s, int max_connections, unsigned speed);
/* Drains (or aborts), waits for the thread, and fails the test unless every handle is closed. */
void site_stop(struct site *s);
void site_abort(struct site *s);
void site_drain(struct site *s); /* begins it; site_stop() waits for the end */
void site_set_ready(struct site *s, bool ready);
/* Waits until the counter reaches n; false after 10 s. */
bool site_reaches(atomic_int *counter, int n);
/* Waits until the server has n connections open. */
bool site_settles(struct site *s, long n);
/* Waits until its transfers hold so many bytes. */
bool site_holds(struct site *s, size_t bytes);

struct peer {
    int fd;
    char *bytes; /* read, not yet consumed */
    size_t len, cap;
    bool eof, reset; /* reset: the end was an error */
};

struct answer {
    int status; /* 0: none came */
    char head[4096];
    char body[1 << 16];
    size_t len;
};

struct peer peer_open(void);
void peer_connect(struct peer *p, const struct site *s);
/* Both. */
struct peer peer_dial(const struct site *s);
void peer_close(struct peer *p);
/* What the server no longer takes is dropped silently. */
void peer_send(struct peer *p, const void *bytes, size_t len);
void peer_say(struct peer *p, const char *text);
void peer_half_close(struct peer *p);
/* One response; its body by Content-Length, chunks or end. false: none came. */
bool peer_read(struct peer *p, struct answer *a);
bool peer_read_head_only(struct peer *p, struct answer *a);
/* Reads and drops until the end; false when none came within 10 s. */
bool peer_sees_end(struct peer *p);
/* The value of a header in the answer's head, or NULL; static storage. */
const char *answer_header(const struct answer *a, const char *name);
/* The code of the error in the body. */
bool answer_has_code(const struct answer *a, const char *code);

#endif
