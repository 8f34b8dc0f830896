/* tiers.h - where checkpoints live: device slots, and host memory below them.
 *
 * Every checkpoint of the engine is created, kept and released through its tiers, which
 * bound them in bytes and park the least recently used one in host memory when a slot is
 * needed. Moving between tiers never changes a byte. A running turn works in a slot of its
 * own that starts as a copy of its checkpoint: so a checkpoint can be parked at any time, and
 * a turn that fails has moved nothing.
 *
 * Heads and snapshots keep their checkpoint: its record stays. Who only remembers one may
 * find its record gone: a spare, which nobody keeps, lives within spare_bytes and goes when
 * its place is wanted, the one that was let go first before the others. Engine thread only. */
#ifndef SERVER_STATE_TIERS_H
#define SERVER_STATE_TIERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;
struct checkpoint;
struct error;
struct slots;
struct tiers;

struct tiers_options {
    size_t record_bytes;
    int slots;
    size_t host_bytes;  /* of records in host memory */
    size_t spare_bytes; /* of spares, wherever they are */
};

struct tiers *tiers_create(struct backend *backend, const struct tiers_options *options,
                           struct error *err);
/* After every checkpoint was released and forgotten. Takes NULL. */
void tiers_destroy(struct tiers *t);

void *tiers_records(struct tiers *t); /* for model_step() */

/* A slot to work in, holding the state of `from` (NULL or position 0: the empty state). -1
 * when every slot is worked in, or when host memory has no room for what would be parked. */
int tiers_start(struct tiers *t, struct checkpoint *from);
void tiers_drop(struct tiers *t, int slot);
/* The working slot becomes the record of c, which is accounted for from now on. */
void tiers_commit(struct tiers *t, struct checkpoint *c, int slot);
/* Takes over a checkpoint whose record is in host memory. false: no room (c stays the
 * caller's). */
bool tiers_adopt(struct tiers *t, struct checkpoint *c);

struct checkpoint *tiers_keep(struct checkpoint *c);       /* one that is kept; returns c */
void tiers_release(struct tiers *t, struct checkpoint *c); /* takes NULL */
struct checkpoint *tiers_remember(struct checkpoint *c);   /* returns c */
void tiers_forget(struct tiers *t, struct checkpoint *c);
/* Keeps one that is remembered. false: its record is gone, or there is no room for it beside
 * what else is kept. */
bool tiers_recall(struct tiers *t, struct checkpoint *c);
bool tiers_has_record(const struct checkpoint *c); /* the empty state always has */
/* A copy of the slot that is worked in becomes the record of c, which must be remembered and
 * not kept: a spare. false: spares are off, or there is no memory. */
bool tiers_copy(struct tiers *t, struct checkpoint *c, int slot);
/* A copy with its record in host memory that is not accounted for: its owner frees it with
 * checkpoint_destroy(). NULL: no memory. */
struct checkpoint *tiers_export(struct tiers *t, const struct checkpoint *c);

/* The most checkpoints that can be held with one slot left to work in. */
size_t tiers_room(const struct tiers *t);
/* Whether one further checkpoint could be held beside those there are and those for which
 * room is reserved. */
bool tiers_has_room(const struct tiers *t);
bool tiers_reserve(struct tiers *t); /* false: no room */
void tiers_unreserve(struct tiers *t);

struct tiers_counts {
    int slots, slots_used, checkpoints, spares; /* checkpoints: kept; spares: beside them */
    size_t device_bytes, host_bytes;
    uint64_t parks, unparks, zeroed, dropped; /* dropped: spares, for want of room */
};
struct tiers_counts tiers_counts(const struct tiers *t);

#endif
