/* redis.h - the shared tier: sessions and snapshots in a Redis, for several servers.
 *
 * Each session has a head there: its record (disk_record.h), its version and the checkpoint it
 * stands on. A checkpoint's bytes are there once, however many sessions and snapshots stand on
 * it, and go with the last of them. What expires does so by Redis' own clock.
 *
 * No two servers write a session at once: a turn begins with a TAKE, which brings the newest
 * head and a lease that is renewed until the turn's COMMIT or LEAVE, and a COMMIT has effect
 * only while the lease and the version are what the TAKE brought. When a server dies its
 * leases run out. A checkpoint's bytes are sent ahead under a name of their own, so that the
 * COMMIT itself is one script: whole, or without effect.
 *
 *   eddy:session:OWNER:ID   version, created, state, model, record; token: who committed it
 *   eddy:snapshot:OWNER:ID  the same
 *   eddy:lease:OWNER:ID     the token of the server that runs a turn; runs out
 *   eddy:state:CHECKPOINT   format.h's bytes in chunks 0, 1, ...; bytes, chunks: how many
 *   eddy:users:CHECKPOINT   the sessions and snapshots that stand on it
 *   eddy:upload:TOKEN       a state on its way in; runs out
 *
 * Two threads do the talking, each on a connection of its own: one sends states, one all that
 * is small, so that a lease never waits behind a large state. Whoever reads a state waits for
 * it, on a third connection. Operations of different
 * sessions take effect in any order; those of one session are for its caller to submit one
 * after the other. */
#ifndef SERVER_STATE_REDIS_H
#define SERVER_STATE_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/error.h"
#include "server/state/disk_record.h"

struct file_buffer;
struct redis;
struct redis_url;

struct redis_options {
    const struct redis_url *url; /* copied */
    uint8_t fingerprint[16];     /* of the model: others' sessions are FOREIGN */
    uint64_t layout;
    size_t max_file;  /* bytes of the longest checkpoint */
    int lease_ms;     /* life of a lease that is not renewed */
    int timeout_ms;   /* of a call */
    int max_ops;      /* submitted and not yet received, but for LEAVE: there is one per lease */
    size_t max_bytes; /* of files not yet sent; one file alone may be larger */

    void *arg; /* of the two below */
    /* What an operator should know. From redis_open() and the tier's threads. */
    void (*report)(void *arg, const char *what);
    /* Operations wait to be received. From the tier's threads. */
    void (*wake)(void *arg);
};

enum redis_kind {
    REDIS_LOOK,   /* brings the record of what stands there */
    REDIS_TAKE,   /* brings a session's record and the lease on it, whose token is made here */
    REDIS_CREATE, /* puts a session or snapshot there that is not there yet */
    REDIS_COMMIT, /* moves a session from record.version - 1 on; ends the lease in any case */
    REDIS_LEAVE,  /* ends the lease, and has moved nothing */
    REDIS_DELETE, /* also what another server has a lease on: its turn will not commit; where
                   * record.created is given, only what was created then, at record.version */
};

enum redis_verdict {
    REDIS_DONE,
    REDIS_ABSENT,  /* no such session, snapshot or checkpoint (any more) */
    REDIS_EXISTS,  /* CREATE: it is there */
    REDIS_BUSY,    /* TAKE: another server runs a turn on it; wait_ms */
    REDIS_LOST,    /* COMMIT: the lease ran out, or another server has moved the session, which
                    * DELETE says, too */
    REDIS_MISSING, /* CREATE, COMMIT: came without a file, which is not there either */
    REDIS_FOREIGN, /* it is another model's */
    REDIS_DAMAGED, /* what is there is not what was put there */
    REDIS_FULL,    /* Redis is out of memory, or of disk */
    REDIS_AWAY,    /* no answer in time. CREATE, COMMIT, DELETE: it may turn out to be done */
    REDIS_FAILED,  /* no memory here, or Redis does not know what we say */
};

/* One operation. The record names the session (kind DISK_SESSION_SET) or snapshot
 * (DISK_SNAPSHOT_SET) by owner and id. CREATE and COMMIT name a checkpoint and bring its file,
 * unless its bytes are there already; "" is the empty context, which has no file. */
struct redis_op {
    enum redis_kind kind;
    struct disk_record record; /* its note is from malloc and the op's own */
    struct id token;           /* of the lease: TAKE brings it, COMMIT and LEAVE name it */
    void *file;                /* format.h's bytes, from malloc, or NULL; gone when received */
    size_t file_len;
    /* Makes the file, or fills error, on the tier's thread; NULL: there is none to make. What it
     * makes stays the caller's until the operation is received. file_len then says before how
     * much of the queue's bytes it takes. */
    void (*encode)(struct redis_op *op);
    void *owner; /* the caller's */

    enum redis_verdict verdict;
    int wait_ms;           /* BUSY: after which the lease has run out, unless it is renewed */
    struct error error;    /* says more, unless DONE */
    double since;          /* the tier's: when it was submitted, monotonic seconds */
    size_t queued;         /* the tier's: bytes of the queue */
    struct redis_op *next; /* the tier's */
};

struct redis_op *redis_op_create(enum redis_kind kind, enum disk_kind object,
                                 void *owner); /* NULL: no memory */
void redis_op_free(struct redis_op *op);       /* takes NULL */

/* Connects, then starts the threads. The process ignores SIGPIPE. ERR_IO: Redis cannot be
 * reached or does not let us in. ERR_NOMEM. */
struct redis *redis_open(const struct redis_options *options, struct error *err);
/* Tries once what was submitted, gives the leases back, and frees what was not received.
 * Takes NULL. */
void redis_close(struct redis *r);

/* Moves the operation in. false when the queue is full, which it never is for LEAVE: it stays the
 * caller's. Engine thread. */
bool redis_submit(struct redis *r, struct redis_op *op);
/* The next finished operation, moved to the caller; NULL when there is none now. Engine
 * thread. */
struct redis_op *redis_receive(struct redis *r);
/* Returns when everything that was submitted can be received. Engine thread. */
void redis_wait(struct redis *r);

/* The file of a checkpoint that something there stands on. ERR_AWAY; ERR_INPUT: it
 * is not there; ERR_FORMAT: damaged; ERR_IO, ERR_NOMEM. Waits for Redis. Any thread. */
bool redis_read(struct redis *r, const struct id *checkpoint, struct file_buffer *out,
                struct error *err);

struct redis_counts {
    uint64_t ops, failed;    /* failed: AWAY, FULL, FAILED, DAMAGED */
    uint64_t busy, lost;     /* turns refused, and turns and renewals that came too late */
    uint64_t sent, received; /* bytes of states */
    uint64_t connects;
    int leases;  /* held */
    int waiting; /* submitted and not yet received */
    bool away;
};
struct redis_counts redis_counts(struct redis *r); /* any thread */

#endif
