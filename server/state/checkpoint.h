/* checkpoint.h - an immutable state, with everything that is needed to go on from it.
 *
 * A model's state after `position` tokens is the record of its first position - 1 tokens and
 * the last token, `pending`, which the next step takes in: so no logits need to be kept, and
 * going on is one step. The record lies in a state slot (device), in host memory, or in
 * both. Think of git: checkpoints are commits, sessions are branches (DESIGN section 3).
 *
 * Reference-counted without atomics: a checkpoint belongs to one thread at a time. The
 * engine keeps the ones that are in use; an exported one is a copy in host memory that moves
 * to the loop, an imported one moves to the engine. */
#ifndef SERVER_STATE_CHECKPOINT_H
#define SERVER_STATE_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/limits.h"
#include "server/state/id.h"

struct slots;

/* The newest tokens, oldest first: what penalties look at. */
struct recent {
    int32_t id[LIMIT_PENALTY_WINDOW];
    bool sampled[LIMIT_PENALTY_WINDOW]; /* drawn by the model, not given in a prompt */
    int count;
};

struct checkpoint {
    int refs;
    struct id id, parent; /* parent: "" for the first of a context */
    int slot;             /* -1: not on the device */
    void *record;         /* host bytes or NULL; owned */
    size_t record_bytes;
    uint64_t position; /* tokens of the context; 0 has neither record nor pending */
    int32_t pending;   /* the newest token, not yet in the record; -1 at position 0 */
    uint64_t seed;     /* of the draws */
    struct recent recent;
    bool answer_open;
    char tail[LIMIT_STOP_BYTES + 1];
    uint8_t fingerprint[16]; /* of the model */
    uint64_t layout;         /* struct state_layout id */
    double created;          /* seconds since 1970 */
};

/* refs 1, no record, position 0, a fresh id. NULL: no memory. */
struct checkpoint *checkpoint_create(void);
struct checkpoint *checkpoint_keep(struct checkpoint *c); /* returns c */
/* The last release gives the slot back to `slots` (NULL where none can be held). Takes NULL. */
void checkpoint_release(struct checkpoint *c, struct slots *slots);

#endif
