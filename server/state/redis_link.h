/* redis_link.h - one connection to a Redis: made when it is needed, made again when it broke.
 *
 * Every call ends within the timeout, or fails. What Redis answers is sorted by consequence:
 * a connection that broke and a Redis that cannot serve now are the same to the caller. After
 * a failed attempt to connect the next waits, twice as long each time, and calls in between
 * fail at once. Blocking; one thread. */
#ifndef SERVER_STATE_REDIS_LINK_H
#define SERVER_STATE_REDIS_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/redis_url.h"

struct error;
struct redisContext;
struct redisReply;

/* What a call came to; of a failure *err says more. */
enum redis_link_end {
    LINK_DONE,
    LINK_AWAY,    /* no connection, a timeout, or Redis is loading, read-only, ... */
    LINK_FULL,    /* out of memory or disk by its own limits */
    LINK_REFUSED, /* any other error: this call will never do */
};

struct redis_link {
    const struct redis_url *url; /* borrowed */
    int timeout_ms;
    struct redisContext *context; /* NULL: not connected */
    double retry_at;              /* monotonic seconds: no attempt to connect before */
    int backoff_ms;
    uint64_t connects;
};

void redis_link_init(struct redis_link *l, const struct redis_url *url, int timeout_ms);
void redis_link_finish(struct redis_link *l);

/* LINK_REFUSED: Redis does not let us in. */
enum redis_link_end redis_link_connect(struct redis_link *l, struct error *err);

/* A word of a command: len bytes that may hold anything. */
struct redis_word {
    const void *bytes;
    size_t len;
};

struct redis_word redis_word(const char *text);

/* Connects if need be. A call on a connection that turned out to be broken is made once more
 * on a new one: commands must bear being done twice. *reply is for freeReplyObject(). */
enum redis_link_end redis_link_call(struct redis_link *l, const struct redis_word *word, int words,
                                    struct redisReply **reply, struct error *err);

#endif
