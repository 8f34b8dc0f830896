/* redis_internal.h - what the shared tier's own files share. */
#ifndef SERVER_STATE_REDIS_INTERNAL_H
#define SERVER_STATE_REDIS_INTERNAL_H

#include <pthread.h>

#include "server/state/redis.h"
#include "server/state/redis_link.h"

enum {
    REDIS_CHUNK = 4 << 20,    /* bytes of a state in one call */
    REDIS_UPLOAD_MS = 120000, /* life of an upload that nothing is added to */
    REDIS_MODEL_BYTES = 64,
};

/* A lease that is renewed until it is taken out of the list. */
struct redis_lease {
    struct disk_record record; /* what the TAKE brought, without its note */
    struct id token;
    double renew_at; /* monotonic seconds */
    bool lost;
    struct redis_lease *next;
};

/* A connection, with a thread and a queue of its own but for the one that reads states. */
struct redis_lane {
    struct redis *redis;
    struct redis_link link; /* its thread's; LANE_READ's: whose has `reading` */
    pthread_t thread;
    uint64_t connects; /* of the link, as far as counted */
    bool started, busy;
    pthread_cond_t arrived;
    struct redis_op *queue, **queue_end;
};

enum { LANE_SMALL, LANE_STATES, LANE_READ, REDIS_LANES, REDIS_THREADS = LANE_READ };

struct redis {
    struct redis_options options;
    struct redis_url url;
    char model[REDIS_MODEL_BYTES]; /* fingerprint and layout, as the heads have it */
    struct redis_lane lane[REDIS_LANES];

    pthread_mutex_t reading; /* taken before the mutex */
    pthread_mutex_t mutex;   /* guards what follows, and the lanes' queues */
    pthread_cond_t finished;
    struct redis_op *done, **done_end;
    struct redis_lease *leases, *renewing; /* renewing: not to be freed now */
    size_t queued_bytes;
    int queued; /* of those that wait, the ones that max_ops counts */
    bool stopping;
    struct redis_counts counts;
};

/* redis.c */
/* Waits a little before another attempt. false: the tier is closing. */
bool redis_pause(struct redis_lane *lane);
/* Takes the lease into the list, from which it is renewed. */
void redis_hold(struct redis *r, struct redis_lease *lease);
/* Takes it out of the list and frees it; afterwards nothing renews it any more. */
void redis_drop(struct redis *r, const struct id *token);
/* Says so to the operator when Redis went away or came back. */
void redis_noticed(struct redis *r, bool away, const char *why);

/* redis_ops.c, with the lane's connection */
void redis_do(struct redis_lane *lane, struct redis_op *op);
bool redis_fetch(struct redis_lane *lane, const struct id *checkpoint, struct file_buffer *out,
                 struct error *err);
enum redis_verdict redis_renew(struct redis_lane *lane, const struct redis_lease *lease,
                               struct error *err);
void redis_give_back(struct redis_lane *lane, const struct redis_lease *lease);

#endif
