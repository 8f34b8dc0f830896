/* journal.h - the engine's way to the durable store, and back from it.
 *
 * What changes sessions and snapshots is an entry: the records (and files of states) to be
 * written, and what is done when they are kept, or are not. Entries are written in the order
 * in which they are submitted, while the engine goes on with its steps; whoever asked for the
 * change hears of it when it is kept. Without a store an entry is done as soon as it is
 * submitted.
 *
 * This is the only part of the engine that knows what the store is. Engine thread only. */
#ifndef SERVER_ENGINE_JOURNAL_H
#define SERVER_ENGINE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/problem.h"
#include "server/state/id.h"
#include "server/state/redis.h"

struct checkpoint;
struct command;
struct engine;
struct error;
struct event;
struct job;
struct journal;
struct lineage;
struct past;
struct recall;
struct session;
struct snapshot;
struct write;

/* A change on its way. Its maker fills in what done() needs. */
struct entry {
    /* problem is PROBLEM_NONE: kept. NULL: nobody needs to know */
    void (*done)(struct engine *e, struct entry *x);
    struct problem problem;
    struct command *command;   /* answered by done(); NULL: nobody asked */
    struct job *job;           /* whose turn ends by it */
    struct event *event;       /* and is told so */
    struct session *session;   /* which nothing else may change meanwhile */
    struct snapshot *snapshot; /* and those that go along with it */
    struct checkpoint *head;   /* what the session is to stand on; kept */
    struct past *past;         /* behind it; kept */
    struct lineage *parent;    /* the snapshot on the way there, or what was hung below; kept */
    uint64_t seed;             /* and its seed */
    double when;               /* seconds since 1970, as it is written */

    struct checkpoint *anchor; /* remembered; whose file the store is asked to keep */
    uint64_t bytes;            /* that file's, when it does */
    uint64_t leaving;          /* bytes of the file that nobody needs when this is done */
    bool reserved;             /* room for the file that it brings, until that is on its way */
    bool lost;                 /* the store has not got a file any more that we took to be there */

    struct command *deferred;         /* commands that wait for the session or snapshot */
    struct write *write, **write_end; /* not yet submitted, oldest first */
    int open;                         /* writes without an answer */
};

struct entry *entry_create(void (*done)(struct engine *e, struct entry *x),
                           struct command *command); /* NULL: no memory */
void entry_free(struct engine *e, struct entry *x);  /* one that was not submitted; takes NULL */
/* The command is obeyed again when the entry is done. */
void entry_defer(struct entry *x, struct command *c);

/* Adds a record: the session or snapshot as it is, with its checkpoint's file if that is not
 * in the store yet; or that it is no more. false: no memory. Without a store nothing is added. */
bool entry_put_session(struct engine *e, struct entry *x, const struct session *s);
bool entry_put_snapshot(struct engine *e, struct entry *x, const struct snapshot *s);
bool entry_drop_session(struct engine *e, struct entry *x, const struct session *s);
bool entry_drop_snapshot(struct engine *e, struct entry *x, const struct lineage *place);
/* A disk takes a mark of it instead (lineage.h); whole: all below it is no more, too. */
bool entry_mark_snapshot(struct engine *e, struct entry *x, const struct lineage *place,
                         bool whole);

/* The anchor's file is kept, if it is still there, as long as its checkpoint. With a disk only. */
bool entry_keep_anchor(struct engine *e, struct entry *x, struct checkpoint *anchor);
/* What the slot holds becomes the file of an anchor, which is kept as long as its checkpoint.
 * Returns its length; 0: no memory, no room, or too much on its way. With a disk only. */
uint64_t journal_put_anchor(struct engine *e, const struct checkpoint *c, int slot);
/* The store keeps the anchors that a head's file names. */
bool journal_has_anchors(const struct engine *e);
/* There is no place for the state that the command brings until one that is on its way to the
 * store has come there: true, and then it is obeyed again. */
bool journal_defer_upload(struct engine *e, struct command *c);

/* Moves the entry in; done() may be called at once. Afterwards, and after the commands that
 * were deferred have been given to the engine again, it is freed. */
void journal_submit(struct engine *e, struct entry *x);

/* Opens the store and brings back what is in it. true without a store, too. ERR_IO,
 * ERR_FORMAT, ERR_NOMEM. Before the engine's thread starts. */
bool journal_open(struct engine *e, struct error *err);
/* Everything was submitted and answered: makes it durable. Takes an engine without one. */
void journal_close(struct engine *e);

void journal_poll(struct engine *e); /* takes what the store has answered, and goes on */
/* Passes on what waited for its record to come from a device. */
void journal_go_on(struct engine *e);
bool journal_awaits_move(struct engine *e); /* there is such a thing, which has not come */
/* The store is a Redis. */
bool journal_shares(const struct engine *e);
/* Moves a question or a LEAVE to it in; its answer goes to share_answered(). false: too many
 * are waiting, which stops no LEAVE. */
bool journal_ask(struct engine *e, struct redis_op *op);
/* Nothing has come for a while: memory that is kept for the next state goes back. */
void journal_rest(struct engine *e);
bool journal_busy(const struct engine *e); /* something was asked and is not answered */
bool journal_lags(const struct engine *e); /* so much that what nobody waits for comes later */

/* Asks for a state that is in the store alone; its answer goes to sequence_recalled() or, for
 * a command, to recalled(). NULL: no memory. */
struct recall *journal_recall(struct engine *e, struct checkpoint *c, struct command *command);
/* tiers.h's: nothing in memory needs its file any more. */
void journal_dropped(void *engine, const struct checkpoint *c);

struct journal_counts {
    uint64_t ops, failed, commits, reports;
    int waiting;
    size_t anchors;
    uint64_t anchor_bytes, anchors_dropped;
    bool shared;
    struct redis_counts redis; /* when shared */
};
struct journal_counts journal_counts(const struct engine *e);

#endif
