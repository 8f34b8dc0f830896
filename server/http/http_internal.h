/* http_internal.h - what listener, connection and exchange know of each other.
 *
 * A server owns its connections; a connection owns the exchange that it reads. From the
 * moment a handler is called the exchange belongs to the handler, and the two only point at
 * each other: connection_fail() cuts both pointers, so that either may go first. Bytes to
 * the client are collected in the connection and leave in connection_flush(). */
#ifndef SERVER_HTTP_HTTP_INTERNAL_H
#define SERVER_HTTP_HTTP_INTERNAL_H

#include <stdint.h>
#include <time.h>

#include "server/http/http.h"
#include "server/http/reader.h"
#include "server/http/router.h"
#include "server/state/id.h"

enum {
    READ_BYTES = 64 * 1024, /* one buffer for all connections */
    TICK_MS = 500,          /* one timer looks at all deadlines */
    LINGER_SECONDS = 2,     /* what a closed client still sends is read away for so long */
    SURPLUS_ROOM = 64,      /* connections above the limit that get a 503 before the close */
    STATUS_GONE = 499,      /* what `answered` is told of a client that left */
};

struct http_server {
    uv_loop_t *loop;
    uv_tcp_t listener;
    uv_timer_t tick;
    struct http_options options;
    struct connection *connections; /* a list */
    struct claim *claims;           /* another one */
    struct http_counts counts;
    long surplus; /* connections that are open only to be told that there are too many */
    bool ready, draining, closing;
    bool local;      /* for this machine's own programs: host_check() */
    bool unaccepted; /* a client waits for memory */
    bool crowded;    /* a transfer was refused since the last tick */
    int handles;     /* listener and tick, until they are closed */
    int reserve;     /* a descriptor to give up when none is left */
    void (*drained)(void *arg);
    void *drained_arg;
    uint64_t speed; /* seconds pass so many times faster: tests */
    time_t date_at;
    char date[32];
    char read_buffer[READ_BYTES];
};

struct connection {
    uv_tcp_t tcp;
    struct http_server *server;
    struct connection *next, **link;
    struct exchange *x; /* being read, or with its handler; NULL: idle */
    enum {
        CONNECTION_READING,   /* waiting for or inside a request */
        CONNECTION_ANSWERING, /* a handler has it */
        CONNECTION_SENDING,   /* answered, not all of it taken by the client */
        CONNECTION_LINGERING, /* all is said: what still comes is dropped */
        CONNECTION_CLOSED,
    } state;
    bool close;     /* after what is being answered */
    bool eof;       /* the client's end came */
    bool broken;    /* a write failed, or memory for one */
    bool reset;     /* close so that the client sees an error */
    bool surplus;   /* above the limit */
    bool reading;   /* uv_read_start() is on */
    bool advancing; /* connection_take() is on the stack */

    struct buffer ahead; /* read behind the request being answered */
    struct buffer out;   /* collected for the next flush */
    char *body;          /* follows out; from malloc */
    size_t body_len;
    struct claim *claim;     /* for the body, a transfer's */
    struct sending *sending; /* given to libuv, or NULL */

    uint64_t deadline; /* ms; of the head, the body's window, the silence or the lingering */
    uint64_t stall_at; /* ms; while sending */
    uint64_t began;    /* ms; the body or the sending */
    size_t untaken;    /* as the last tick saw it */
    size_t window;     /* body bytes when the window began */
};

struct exchange {
    struct connection *c; /* NULL once the client is gone */
    struct http_server *server;
    struct request request;
    struct reader reader;
    const struct route *route; /* NULL: refused, or OPTIONS */
    bool refused;              /* reader.problem is the answer */
    bool refused_for_good;     /* and the connection cannot be kept */
    bool judged;               /* the head is complete and its text whole */
    bool graced;               /* the body's time without a rate is over */
    char allow[ALLOW_BYTES];
    uint64_t client;
    struct id id;          /* x-request-id */
    struct buffer headers; /* of the handler */
    void *owner;
    void (*gone)(struct exchange *x, void *owner);
    void (*drained)(struct exchange *x, void *owner);
    struct claim *claim; /* a transfer's */
    uint64_t started;    /* uv_hrtime() of its first byte */
    size_t bytes;        /* of the response */
    int status;
    const struct problem_row *problem; /* static: what exchange_problem() tells */
    bool handed;                       /* a handler has it */
    bool keep;                         /* the connection outlives the answer */
    bool bodyless;                     /* the answer is a head alone */
    bool chunked;                      /* a stream on HTTP/1.1 */
    bool over;                         /* the backlog went over its limit */
};

/* connection.c */
/* Takes the client that waits; false: no memory, it goes on waiting. */
bool connection_accept(struct http_server *s);
/* Everything collected goes to the socket, or waits in one uv_write(). */
void connection_flush(struct connection *c);
void connection_write(struct connection *c, const void *bytes, size_t len);
size_t connection_backlog(const struct connection *c);
/* Memory for its bytes was lacking: nothing more can be said. */
void connection_break(struct connection *c);
/* Its exchange was answered (and is freed by the caller). */
void connection_finish(struct connection *c, bool keep);
/* The client is lost, or shall be: tells the handler and closes. */
void connection_fail(struct connection *c);
void connection_check_deadlines(struct connection *c, uint64_t now);
bool connection_idle(const struct connection *c);

/* exchange.c */
struct exchange *exchange_create(struct connection *c);
void exchange_destroy(struct exchange *x);
/* Tells `answered`. */
void exchange_report(const struct exchange *x, int status);
/* Judges a complete head: READER_MORE, READER_DONE without a body, or READER_REFUSED. */
enum reader_event exchange_judge(struct exchange *x);
/* The client waits for "100 Continue" before it sends the body. */
bool exchange_expects(const struct exchange *x);
/* Hands the complete request to its route, or answers it here. */
void exchange_dispatch(struct exchange *x);
/* The client is gone: frees an exchange that no handler has, tells the others. */
void exchange_lose(struct exchange *x);
/* The client took bytes. */
void exchange_took(struct exchange *x);

/* claim.c */
/* So many bytes for a transfer of the client. NULL: others have them, or it has its share. */
struct claim *claim_take(struct http_server *s, uint64_t client, size_t bytes, struct problem *p);
/* It is for so many bytes at most from now on. Both take NULL. */
void claim_cut(struct claim *c, size_t bytes);
void claim_release(struct claim *c);

/* listener.c */
uint64_t server_now(const struct http_server *s); /* ms */
const char *server_date(struct http_server *s);
void server_connection_closed(struct http_server *s);
/* Makes every deadline come `speed` times sooner. */
void http_server_set_speed(struct http_server *s, unsigned speed);

#endif
