/* http.h - the HTTP floor: sockets and framing below, exchanges above.
 *
 * A server listens on one loop and parses with llhttp under the limits of config/limits.h
 * and the rules of RFC 9110 and 9112, the strict side of each. For every complete request it calls
 * the route's handler with an exchange: the request and the place to answer it. A handler
 * answers at once or later, whole or as a stream, exactly once. Requests of one connection
 * are answered in order; the next one is handed out when the one before is finished.
 * HEAD is answered by the GET route without its body; OPTIONS with the Allow header. The
 * process must ignore SIGPIPE.
 *
 * Loop thread only. */
#ifndef SERVER_HTTP_HTTP_H
#define SERVER_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "server/problem.h"

struct error;
struct exchange;
struct http_server;

enum http_method { METHOD_GET, METHOD_POST, METHOD_PUT, METHOD_DELETE, METHOD_COUNT };

enum { ROUTE_PARAMS_MAX = 2 };

/* "/v1/sessions/{id}/fork": a part in braces matches one segment, which reaches the handler
 * percent-decoded (a NUL or a slash in it is 404); "{id*}", the last, all that is left, with its
 * slashes. */
struct route {
    enum http_method method;
    const char *pattern;
    void (*handle)(struct exchange *x, void *app);
    size_t max_body;   /* 0: LIMIT_BODY_BYTES */
    const char *takes; /* media type a body must have, "application/json"; NULL: any */
    const char *query; /* the names that a query may give, as in "limit,after"; NULL: none */
    bool plain; /* also served while not ready, to anybody, with any query (health, metrics) */
    /* A transfer: the bytes that it will hold at once at most, beside its request's body. They are
     * claimed before the body is read, and let go when the answer was taken. NULL: it is none. */
    size_t (*weigh)(const struct exchange *x, const void *app);
};

struct http_options {
    const char *host;           /* a literal address, or "localhost"; nothing is looked up */
    int port;                   /* 0: any; http_server_port() tells */
    int max_connections;        /* beyond it: 503 and close */
    size_t transfer_bytes;      /* of all transfers; beyond it: 503, but for one that is alone */
    const struct route *routes; /* borrowed; ended by a NULL pattern */
    const char *origins;        /* borrowed; of web pages that may call (origin.h), NULL: none */
    bool keyless; /* anybody may call: on loopback, only by a host that host_check() knows */
    void *app;    /* given to the handlers */
    /* Says of every complete head whose it is, before its body is looked at; false: it is
     * refused, and the connection closed if a body was to come. Not asked about `plain`
     * routes. NULL: all are client 0, and have no shares. */
    bool (*admit)(void *app, const struct exchange *x, uint64_t *client, struct problem *p);
    /* Called when a request was answered, for logs and metrics; may be NULL. status: 499 when
     * the client left first. seconds: from its first byte. bytes: of the response. */
    void (*answered)(void *app, const struct exchange *x, int status, double seconds, size_t bytes);
};

/* The listener is bound when this returns. ERR_INPUT: not an address. ERR_IO: in use. */
struct http_server *http_server_open(uv_loop_t *loop, const struct http_options *options,
                                     struct error *err);
int http_server_port(const struct http_server *s);
/* Until it is true, routes that are not `plain` answer 503 loading (the default is true). */
void http_server_set_ready(struct http_server *s, bool ready);

/* Graceful stop: no new connections, idle ones close, a request that still arrives is
 * answered 503 shutting_down, running exchanges finish. drained(arg) is called once nothing
 * is left. http_server_abort() closes what is left at once. */
void http_server_drain(struct http_server *s, void (*drained)(void *arg), void *arg);
void http_server_abort(struct http_server *s);
/* After drained was called or before anything was accepted; frees. */
void http_server_close(struct http_server *s);

struct http_counts {
    long connections; /* open now */
    unsigned long accepted, refused;
    size_t transfer_bytes; /* claimed now */
    unsigned long transfers_refused;
};
struct http_counts http_server_counts(const struct http_server *s);

/* The request. Everything is borrowed until the exchange is answered. */
const char *exchange_method(const struct exchange *x); /* "POST" */
const char *exchange_path(const struct exchange *x);   /* decoded, without the query */
const char *exchange_route(const struct exchange *x);  /* the pattern, or "" */
const char *exchange_param(const struct exchange *x, const char *name);
/* The query's value of that name, decoded; NULL when absent. Only `plain` routes see a query that
 * gives a name twice, and they get the first. */
const char *exchange_query(const struct exchange *x, const char *name);
/* All of the query, decoded: name NUL value NUL ... */
const char *exchange_queries(const struct exchange *x, size_t *len);
/* Value of a header, name in lower case; NULL when absent. "x-request-id" is always there:
 * the client's, or ours where it sent none that can be echoed. */
const char *exchange_header(const struct exchange *x, const char *name);
uint64_t exchange_client(const struct exchange *x); /* as `admit` said */
const char *exchange_body(const struct exchange *x, size_t *len);
/* For `answered`: the problem that it was refused with, or that ended its stream, or NULL. */
const struct problem_row *exchange_problem(const struct exchange *x);

/* The answer. */
/* Adds a header to the answer; before it begins. Both are copied. */
void exchange_set_header(struct exchange *x, const char *name, const char *value);
/* type "application/json" etc.; the body is copied. The exchange is gone afterwards. */
void exchange_reply(struct exchange *x, int status, const char *type, const void *body, size_t len);
/* The same, with a body from malloc that is freed once it was sent. */
void exchange_reply_take(struct exchange *x, int status, const char *type, void *body, size_t len);
/* JSON error body; status, type and code from the table; retry-after where it helps and
 * x-should-retry. */
void exchange_refuse(struct exchange *x, const struct problem *p);

/* A stream of unknown length (chunked; until close on HTTP/1.0). Written bytes are collected
 * and sent once per exchange_flush(). */
void exchange_stream(struct exchange *x, int status, const char *type);
void exchange_write(struct exchange *x, const void *bytes, size_t len);
/* One server-sent event: "data: " + bytes (no newline in them) + "\n\n". */
void exchange_event(struct exchange *x, const void *data, size_t len);
void exchange_flush(struct exchange *x);
/* A stream that has begun tells of a problem. */
void exchange_fail(struct exchange *x, const struct problem *p);
/* Ends a stream. whole false: closes without the last chunk, so that the client can tell. */
void exchange_end(struct exchange *x, bool whole);
/* Bytes accepted but not yet taken by the client. Above LIMIT_WRITE_QUEUE_BYTES the writer
 * must wait for `drained`. */
size_t exchange_backlog(const struct exchange *x);

/* The handler's own object. `gone` is called if the client disconnects (or stalls for
 * LIMIT_STALL_SECONDS) before the answer is complete: the exchange may then only be given to
 * exchange_abandon(), at once or later. `drained` is called when a backlog that went over
 * the limit fell below half of it. Either may be NULL. */
void exchange_watch(struct exchange *x, void *owner, void (*gone)(struct exchange *x, void *owner),
                    void (*drained)(struct exchange *x, void *owner));
void *exchange_owner(const struct exchange *x);
/* Calls the route's handler again, for a request that a handler put aside. */
void exchange_again(struct exchange *x);
void exchange_abandon(struct exchange *x);

#endif
