/* pending.h - a request that waits for the engine or for the libuv pool.
 *
 * It joins an exchange with its commands: events find it through command->waiter, and it
 * outlives a client that left until everything it sent has come back. Every kind of request
 * embeds it as its first member. Loop thread only, but for `work`. */
#ifndef SERVER_API_PENDING_H
#define SERVER_API_PENDING_H

#include <stdbool.h>
#include <uv.h>

#include "server/api/json_out.h"
#include "server/engine/command.h"

struct api;
struct exchange;

struct pending {
    struct api *api;           /* borrowed */
    struct exchange *exchange; /* NULL once answered */
    struct repeat *repeat;     /* repeats.c: its answer is kept for those who ask again */
    struct id session;         /* repeats.c: that it changes; "": none */
    bool gone;                 /* the client left: the exchange may only be abandoned */
    bool working;              /* in the pool */
    bool dirty;                /* a stream with bytes to flush */
    double deadline;           /* monotonic seconds; 0: none, or it is over */
    bool timed_out;            /* it is over */
    /* An event of one of its commands; the event is freed by the caller. */
    void (*take)(struct pending *p, struct event *e);
    /* The client left or time is up: ends what runs as soon as it can. */
    void (*cancel)(struct pending *p);
    /* A slow reader has caught up; NULL for answers in one piece. */
    void (*drained)(struct pending *p);
    void (*work)(struct pending *p);  /* in the pool */
    void (*after)(struct pending *p); /* back on the loop */
    uv_work_t request;
    struct pending *next, **link;
};

/* Joins the api's list and watches the exchange. take, cancel and drained are set before. */
void pending_init(struct pending *p, struct api *api, struct exchange *x);
/* Leaves the list, and the exchange if that was not answered. */
void pending_finish(struct pending *p);

/* Runs work(p) in the pool, then after(p) on the loop. */
void pending_work(struct pending *p, void (*work)(struct pending *p),
                  void (*after)(struct pending *p));

/* Whether anybody wants the answer: the client is there, or a repeat of the request waits. */
bool pending_heard(const struct pending *p);

/* Answers, and lets go of the exchange; nothing happens when the client has left. */
void pending_refuse(struct pending *p, const struct problem *problem);
/* The buffer's bytes move to the exchange; to->bytes is NULL afterwards. */
void pending_reply(struct pending *p, const char *type, struct text_buffer *body);

/* Why a request ends without an answer when its time is over, or the server's. */
void pending_late(const struct pending *p, struct problem *problem);

/* Moves a command down with p as its waiter. false: refused, the command freed, *problem set. */
bool pending_send(struct pending *p, struct command *c, struct problem *problem);

/* The common case: one command, and `answer` writes the JSON of its result. Takes c, which
 * may be NULL for want of memory. */
void api_ask(struct api *api, struct exchange *x, struct command *c,
             void (*answer)(struct api *api, const struct command *c, struct json_out *o));

#endif
