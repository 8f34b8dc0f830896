/* lineage.h - which snapshot descends from which.
 *
 * Each snapshot has a place in a tree, below the newest snapshot on the way to the state that
 * it keeps. A session keeps the place of the newest snapshot on the way to its head.
 *
 * Names of snapshots outlive them: what was taken below a deleted one still names it in its
 * record. So the place of a deleted snapshot stays, gone, as long as somebody keeps it, and
 * the disk keeps a mark of it, which says what it was below. Nobody is shown a gone place;
 * what is below it counts as below the nearest one that is not. A gone place is never directly
 * below another, so there are no more of them than sessions and snapshots.
 *
 * A subtree is deleted by one record: the mark of its root says that what is below is deleted
 * too. The other records follow; when a crash comes before they are written, the next start
 * finishes the work. It finds what is below by following each record upwards: so a mark stays
 * until no record in the disk names it any more.
 *
 * With a Redis, a server learns of snapshots one by one: a place may be of one that this server
 * has not seen, and counts as there. Reference-counted. Engine thread only. */
#ifndef SERVER_ENGINE_LINEAGE_H
#define SERVER_ENGINE_LINEAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "server/state/id.h"

struct engine;
struct entry;
struct snapshot;

struct lineage {
    struct id id; /* the snapshot's */
    uint64_t owner;
    int refs;
    bool gone;
    bool marked;                           /* the disk has been given a mark of it */
    bool felled;                           /* by the mark everything below is deleted too */
    struct snapshot *snapshot;             /* borrowed; NULL: gone, or never seen here */
    struct lineage *parent;                /* kept, or NULL */
    struct lineage *child, *before, *next; /* before, next: of the same parent */
    uint64_t number;                       /* of the newest subtree that it was found in */
};

/* The place of this snapshot, kept; NULL for no id. false: no memory. */
bool lineage_find(struct engine *e, uint64_t owner, const struct id *id, struct lineage **out);
struct lineage *lineage_keep(struct lineage *n);           /* takes and returns NULL, too */
void lineage_release(struct engine *e, struct lineage *n); /* takes NULL */
void lineage_clear(struct engine *e);                      /* frees all that is left */

/* The nearest place upwards that is not gone, n itself if it is not; NULL: there is none. */
struct lineage *lineage_nearest(struct lineage *n);
/* Hangs it below a parent, or makes it a root (NULL). */
void lineage_hang(struct engine *e, struct lineage *n, struct lineage *parent);
/* Each place comes before those below it; starts with the root itself (at NULL). NULL: the end. */
struct lineage *lineage_next(struct lineage *root, struct lineage *at);
/* The snapshots below the root, those below others before these, and then `last`: a list by
 * their `along`. */
struct snapshot *lineage_list(struct lineage *root, struct snapshot *last);
/* The root and what is below it get this number, and nothing else has it. */
void lineage_number(struct lineage *root, uint64_t number);

/* Adds to the entry what deletes the place's snapshot: a mark if somebody else keeps the
 * place, or if everything below is deleted by it. false: no memory. */
bool lineage_fell(struct engine *e, struct entry *x, struct lineage *n, bool whole);
/* Its snapshot is deleted, and so says the store. */
void lineage_end(struct engine *e, struct lineage *n);
/* The same, as part of the subtree of a root that the store has a mark of, when everything below
 * it has ended. */
void lineage_end_below(struct engine *e, struct lineage *n, struct lineage *root);
/* Redis has no such snapshot, which this server has never seen. */
void lineage_lose(struct engine *e, uint64_t owner, const struct id *id);
/* Everything in the disk has been found: ends what a crash has left half-deleted. */
void lineage_settle(struct engine *e);

#endif
