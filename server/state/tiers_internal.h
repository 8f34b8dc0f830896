/* tiers_internal.h - what the files of the tiers share: where each record is, and what makes way
 * for another one. Private to server/state/tiers*.c, the engine's thread. */
#ifndef SERVER_STATE_TIERS_INTERNAL_H
#define SERVER_STATE_TIERS_INTERNAL_H

#include "server/state/checkpoint.h"
#include "server/state/placement.h"
#include "server/state/record.h"
#include "server/state/tiers.h"

/* What may lose its record, each list coldest first. */
enum listed {
    UNLISTED,
    SPARE,  /* with a record anywhere in memory, and not kept */
    STORED, /* kept, in host memory and also in the store */
    PINNED, /* the same, under a snapshot */
    LISTS,
};

enum { HOST = -1 }; /* where others are on a device, by number */

struct list {
    struct checkpoint *first, *last;
    size_t count;
};

struct tiers {
    struct tiers_options options;
    struct slots *slots;
    int devices;
    struct checkpoint **resident; /* [all slots] whose record it holds; NULL: free or worked in */
    int residents[DEVICES_MAX];
    struct list list[LISTS];
    struct record_pool *pool; /* of the records in host memory */
    void *crossing;           /* one by which states go from device to device; NULL with one */
    size_t host_bytes;
    uint64_t store_bytes;       /* of the files of those that are kept */
    int64_t claimed;            /* what files on their way will add to that */
    size_t checkpoints, stored; /* kept ones that have a record; of them, in the store */
    size_t reserved, lifted;
    uint64_t clock, dropped;
    struct tiers_moves moves;
};

/* tiers_way.c */
int tiers_device_of(const struct tiers *t, int slot);
bool tiers_has_bytes(const struct checkpoint *c); /* its record is in memory */
void tiers_unlist(struct tiers *t, struct checkpoint *c);
/* Puts it at the end of the list where it belongs now. */
void tiers_relist(struct tiers *t, struct checkpoint *c);
/* Its slot, which is nobody's record any more. */
int tiers_take_slot(struct tiers *t, struct checkpoint *c);
/* It has no record in memory any more. */
void tiers_drop_record(struct tiers *t, struct checkpoint *c);
void tiers_bound_spares(struct tiers *t); /* to what they may take */
/* For one more record. false: nothing there can leave. */
bool tiers_make_host_room(struct tiers *t);
/* What the slot holds now is on its way to host memory. NULL: no room. */
void *tiers_fetch(struct tiers *t, int slot);
/* A slot to work in, for what starts from `from` or, NULL, from nothing. -1: none. */
int tiers_acquire(struct tiers *t, struct checkpoint *from);
void tiers_count_slots(const struct tiers *t, struct placement device[DEVICES_MAX]);

#endif
