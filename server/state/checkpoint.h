/* checkpoint.h - an immutable state, with everything that is needed to go on from it.
 *
 * Think of git: checkpoints are commits, sessions are branches (DESIGN section 3). The record
 * is the model's state after `position` tokens, except that the newest one may be `pending`:
 * sampled or appended, and not taken in yet. The next step takes it in and has the logits,
 * so none need to be kept. The record lies in a state slot (device), in host memory or in a
 * store alone.
 *
 * Reference-counted without atomics: a checkpoint belongs to one thread at a time. The
 * engine keeps the ones that are in use, each accounted for by a struct tiers; an exported
 * one is a copy in host memory that moves to the loop, an imported one moves to the engine
 * and is adopted. */
#ifndef SERVER_STATE_CHECKPOINT_H
#define SERVER_STATE_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/limits.h"
#include "server/state/id.h"

struct entry;
struct prefix_place;

/* The newest tokens of a context, oldest first: what penalties look at. */
struct recent {
    int count;
    uint32_t token[LIMIT_PENALTY_WINDOW]; /* RECENT_SAMPLED marks those the model drew */
};

#define RECENT_SAMPLED 0x80000000u

struct checkpoint {
    int refs;     /* of those that need the record */
    int memories; /* of those that can do without it: tiers_remember() */
    struct id id;
    bool answer_open;         /* the context ends inside an assistant's answer */
    bool anchor;              /* past.h's: its record may be had again when nobody keeps it */
    bool inside;              /* of a turn: none starts here */
    int slot;                 /* -1: not on the device */
    char *parent;             /* owned, an id; NULL: the first of a context, or not known */
    uint64_t owner;           /* whose sessions and snapshots may stand on it */
    void *record;             /* record.h's, kept; NULL: on the device, or at position 0 */
    uint64_t position;        /* tokens of the context, a pending one included */
    int32_t pending;          /* the newest token, not yet in the record, or -1 */
    int32_t stop;             /* the stop id that ended the newest turn and is not part of the
                               * context, or -1: a turn without a prompt goes on through it */
    uint64_t seed;            /* of the draws; said of a copy only: sessions own theirs */
    uint32_t *token;          /* the newest ids of the context, owned, as in struct recent; said of
                               * a copy only: a head has its past (past.h) */
    uint32_t tokens;          /* at most LIMIT_HISTORY_IDS */
    uint32_t marks;           /* at most LIMIT_HISTORY_MARKS */
    struct checkpoint **mark; /* the marks of the past, owned copies; said of a copy only */
    char *tail;               /* owned; text of the context that no client saw: the stop string that
                               * ended the newest turn. NULL: none */
    uint8_t fingerprint[16];  /* of the model */
    uint64_t layout;          /* struct state_layout id */
    double created;           /* seconds since 1970 */
    /* tiers.c */
    bool damaged;         /* its file could not be read back, and was set aside */
    unsigned char listed; /* which list it is in */
    uint32_t pins;        /* snapshots that stand on it */
    uint64_t stored;      /* bytes of its file in the store; 0: it is not there */
    uint64_t used;        /* when it was last the start of a turn */
    struct checkpoint *before, *next;
    struct entry *asked;        /* anchors.c's: the store is asked for its file, or NULL */
    struct prefix_place *place; /* prefix.c: where it is remembered, or NULL */
};

/* refs 1, no record, position 0, a fresh id or one that it has already. NULL: no memory. */
struct checkpoint *checkpoint_create(void);
struct checkpoint *checkpoint_create_as(const struct id *id);
/* Frees one that is in no slot and that nobody else keeps. Takes NULL. */
void checkpoint_destroy(struct checkpoint *c);

/* Gives a fresh one a copy of the tail; len 0: none. false: no memory. */
bool checkpoint_set_tail(struct checkpoint *c, const char *tail, size_t len);
/* The id of what it was made from; "": none. false: no memory. */
bool checkpoint_set_parent(struct checkpoint *c, const char *parent);
/* A copy in no slot, without a record, ids and marks; refs 1, the same id. NULL: no memory. */
struct checkpoint *checkpoint_copy(const struct checkpoint *c);
/* What only this server's store can give back goes from a copy: marks inside of turns, and the
 * names of anchors. */
void checkpoint_forget_anchors(struct checkpoint *copy);
/* How many tokens are in its record. */
uint64_t checkpoint_covers(const struct checkpoint *c);

/* One that is kept, and whose record is in the store alone. */
bool checkpoint_is_cold(const struct checkpoint *c);

/* Adds the newest token, dropping the oldest when the window is full. */
void recent_add(struct recent *r, int32_t id, bool sampled);

/* Seconds since 1970. */
double checkpoint_clock(void);

#endif
