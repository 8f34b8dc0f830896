/* tiers.h - where checkpoints live: device slots, host memory below them, a store below that.
 *
 * Every checkpoint of the engine is created, kept and released through its tiers, which
 * bound them in bytes and move the least recently used one down when its place is needed,
 * snapshots last. Moving between tiers never changes a byte. A running turn works in a slot of
 * its own that starts as a copy of its checkpoint: so a checkpoint can be parked at any time,
 * and a turn that fails has moved nothing.
 *
 * The store (a disk) is written and read by others. What is in it needs no other place: its
 * record is dropped from memory for the asking, and the checkpoint is cold then.
 *
 * Heads and snapshots keep their checkpoint: its record stays. Who only remembers one may
 * find its record gone: a spare, which nobody keeps, lives within spare_bytes and goes when
 * its place is wanted, the one that was let go first before the others. Engine thread only, but for
 * tiers_take_record(). */
#ifndef SERVER_STATE_TIERS_H
#define SERVER_STATE_TIERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/devices.h"
#include "server/state/slots.h"

struct checkpoint;
struct error;
struct tiers;

struct tiers_options {
    size_t record_bytes;
    size_t log_bytes;     /* on a device, behind each record */
    int log_steps;        /* as in slots.h */
    int slots;            /* on each device */
    int at_once;          /* of those, worked in */
    size_t host_bytes;    /* of records in host memory */
    size_t spare_bytes;   /* of spares, wherever they are */
    bool store;           /* there is one, and every committed checkpoint is put there */
    uint64_t store_bytes; /* of files in it */
    /* A checkpoint that is in the store is kept no longer. */
    void (*dropped)(void *arg, const struct checkpoint *c);
    /* The record of one that is remembered is gone: it may be forgotten in here. May be NULL. */
    void (*lost)(void *arg, struct checkpoint *c);
    void *arg;
};

/* The devices are borrowed. Errors as of slots_create(). */
struct tiers *tiers_create(const struct devices *devices, const struct tiers_options *options,
                           struct error *err);
/* After every checkpoint was released and forgotten. Takes NULL. */
void tiers_destroy(struct tiers *t);

/* For model_step(): a device's records, and which of them a slot is. */
void *tiers_records(struct tiers *t, int device);
struct slot_place tiers_place(const struct tiers *t, int slot);

/* A slot to work in, on whichever device suits (placement.h), holding the state of `from` (NULL,
 * position 0 or cold: the empty state). -1 when each device has as many turns as it may, when
 * what would have to leave a slot has no place, or when the device that has the state, or that it
 * was coming from, failed. One that is kept by the caller alone may lose its record to it. */
int tiers_start(struct tiers *t, struct checkpoint *from);
/* A working slot may be on its way from or to host memory: it is not for a step until it is
 * ready. */
bool tiers_ready(struct tiers *t, int slot);
/* slots_advance(), slots_withdraw(). */
int tiers_advance(struct tiers *t, int slot, int rows);
void tiers_withdraw(struct tiers *t, int slot);
/* The working slot takes on a record that was read from the store, beside the steps of others if
 * it was copied to a landing, which is released with record_release() whenever its owner likes.
 * take: NULL: there is none, and mostly no gain by it. */
void *tiers_take_landing(struct tiers *t);
void tiers_fill(struct tiers *t, int slot, const void *record, void *landing);
void tiers_drop(struct tiers *t, int slot);
/* The working slot becomes the record of c, which is accounted for from now on. */
void tiers_commit(struct tiers *t, struct checkpoint *c, int slot);
/* The same of one that is remembered and that nobody keeps: it is kept. The record that it has
 * as a spare goes. */
void tiers_revive(struct tiers *t, struct checkpoint *c, int slot);
/* Host memory for the record of one that is to be adopted, of the kind that goes to a slot beside
 * the steps of others: to be written to at once, and not accounted for until then. It is released
 * with record_release(). Any thread. NULL: no memory. */
void *tiers_take_record(struct tiers *t);
/* Takes over a checkpoint whose record is in host memory, or in the store alone. false: no
 * room in memory (c stays the caller's). */
bool tiers_adopt(struct tiers *t, struct checkpoint *c);
/* Whether it would be taken now. What makes room for it may leave host memory at once. */
bool tiers_has_place(struct tiers *t, const struct checkpoint *c);
/* The same where the record of `from` is, which has none any more: whoever keeps it releases it
 * next. false: another keeps it, too, or what is in the store would have to stay there. */
bool tiers_replace(struct tiers *t, struct checkpoint *c, struct checkpoint *from);
/* It is in the store from now on, as a file of so many bytes; not twice. */
void tiers_stored(struct tiers *t, struct checkpoint *c, uint64_t bytes);
/* The store says that it has no such file: a record in memory is all that there is of it, and one
 * that was in the store alone is damaged. */
void tiers_lost(struct tiers *t, struct checkpoint *c);

/* What a working slot holds moves to host memory, and the slot is free: NULL when there is no
 * room. Later it goes on in another slot (-1: none), becomes a record, or is given up. */
void *tiers_lift(struct tiers *t, int slot);
int tiers_resume(struct tiers *t, void *lifted);
/* As tiers_commit(), where it lies. */
void tiers_commit_lifted(struct tiers *t, struct checkpoint *c, void *lifted);
void tiers_discard(struct tiers *t, void *lifted);

struct checkpoint *tiers_keep(struct checkpoint *c);       /* one that is kept; returns c */
void tiers_release(struct tiers *t, struct checkpoint *c); /* takes NULL */
/* A snapshot stands on it: it moves down after the others. */
void tiers_pin(struct tiers *t, struct checkpoint *c);
void tiers_unpin(struct tiers *t, struct checkpoint *c);
struct checkpoint *tiers_remember(struct checkpoint *c); /* returns c */
void tiers_forget(struct tiers *t, struct checkpoint *c);
/* Keeps one that is remembered. false: its record is gone, or, without a store, there is no room
 * for it beside what else is kept. */
bool tiers_recall(struct tiers *t, struct checkpoint *c);
/* Keeps one that is remembered, for the store still has its file, of so many bytes. */
void tiers_find(struct tiers *t, struct checkpoint *c, uint64_t bytes);
bool tiers_has_record(const struct checkpoint *c); /* the empty state always has */
/* A copy of the slot that is worked in becomes the record of c, which must be remembered and
 * not kept: a spare. false: spares are off, or there is no memory. */
bool tiers_copy(struct tiers *t, struct checkpoint *c, int slot);
/* A copy of one that is not cold, with its record in host memory, that is not accounted for:
 * its owner frees it with checkpoint_destroy(), when it has arrived. NULL: no memory. */
struct checkpoint *tiers_export(struct tiers *t, const struct checkpoint *c);
/* What is there now, as a record in host memory that is not accounted for: it is released with
 * record_release(), when it has arrived. NULL: there is none, and no gain over reading it. */
void *tiers_hold(struct tiers *t, const struct checkpoint *c);
void *tiers_hold_slot(struct tiers *t, int slot); /* of one that is worked in */
/* Of the bytes of such a record. */
enum arrival tiers_arrival(struct tiers *t, void *record);
/* Copies the record of one that is not cold, and not at position 0, to host memory. false: the
 * device failed. */
bool tiers_read(struct tiers *t, const struct checkpoint *c, void *record);
/* The same of the slot that is worked in. */
bool tiers_read_slot(struct tiers *t, int slot, void *record);

/* The most checkpoints that can be held. */
size_t tiers_room(const struct tiers *t);
/* Whether one further checkpoint could be held beside those there are and those for which
 * room is reserved. In a store room is bytes: of the files that are there, of those on their
 * way, and a record's for each reservation and for the one that is asked about. What stays in
 * memory needs none. */
bool tiers_has_room(const struct tiers *t);
/* The same of one that is to stay in memory. */
bool tiers_has_memory(const struct tiers *t);
bool tiers_reserve(struct tiers *t); /* false: no room */
void tiers_unreserve(struct tiers *t);
/* The bytes in the store will be so many more, or fewer, when a file on its way is there, and
 * what it takes the place of is gone. promised: it had a reservation, or takes a place; else it
 * leaves alone what is reserved. false: no room. */
bool tiers_claim(struct tiers *t, int64_t growth, bool promised);
void tiers_unclaim(struct tiers *t, int64_t growth); /* it is not on its way any more */

/* Nobody has come for a while: memory that states are gone from is kept no longer. */
void tiers_rest(struct tiers *t);

/* Moves from one tier to another since the start. */
struct tiers_moves {
    uint64_t device_host, device_store, host_store, host_device, store_device;
    uint64_t device_device; /* to the slot of a turn on another one; it is still there, too */
};

struct tiers_counts {
    int slots, slots_used;
    struct tiers_device {
        int worked, resident; /* slots, by what they are used for; the rest is free */
    } device[DEVICES_MAX];
    size_t checkpoints, stored, spares; /* kept; of them in the store; beside them */
    size_t device_bytes, host_bytes;
    uint64_t store_bytes;
    struct tiers_moves moves;
    uint64_t zeroed, dropped; /* dropped: spares, for want of room */
};
struct tiers_counts tiers_counts(const struct tiers *t);

#endif
