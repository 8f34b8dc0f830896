/* slots.h - the pools of state records, one on each device.
 *
 * A pool is `count` equal slots in one piece of its backend's memory, so that an operation
 * finds a session's state by base and stride. Slots are numbered over all devices, the first
 * device's first. A slot that is acquired still holds what another left: whoever takes it clears
 * it, or has all of it overwritten, before anything else (promise P4).
 *
 * A slot is a record and, where the device keeps logs of steps (model.h), the log behind it. Only
 * records are copied, fetched and overwritten: what is in the log comes into the record before it
 * is read, and goes when it is overwritten. Whoever has it read waited for the steps that worked in
 * it.
 *
 * Records go to host memory and come from there beside the operations (moves, backend.h). All
 * that is done to slots and records in here happens in the order of the calls; a slot is ready for
 * a step, and the bytes of a record for the host, when the moves that touch it are done.
 * Engine thread only. */
#ifndef SERVER_STATE_SLOTS_H
#define SERVER_STATE_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct devices;
struct error;
struct slots;

/* Which record of which device's pool a slot is. */
struct slot_place {
    int device, index;
};

struct slots_options {
    size_t record_bytes, log_bytes;
    int log_steps; /* a log has fewer (model.h); 1, or 0: there are none */
    int count;     /* on each device */
};

/* The devices are borrowed, and have their models if there are logs. NULL and ERR_NOMEM, with the
 * number of bytes it asked for and, where the backend knows its room, how many slots fit. */
struct slots *slots_create(const struct devices *devices, const struct slots_options *options,
                           struct error *err);
void slots_destroy(struct slots *s); /* takes NULL */

int slots_acquire(struct slots *s, int device); /* -1 when all of it are taken */
void slots_clear(struct slots *s, int slot);    /* all zero bytes, the empty state */
void slots_release(struct slots *s, int slot);

struct slot_place slots_place(const struct slots *s, int slot);
void *slots_records(struct slots *s, int device); /* its first record */
bool slots_ready(struct slots *s, int slot);      /* a step may work in it */
/* A step takes so many rows in there: returned is how many are in its log before. */
int slots_advance(struct slots *s, int slot, int rows);
/* It did not take the one row in that it was to, and was the newest. */
void slots_withdraw(struct slots *s, int slot);
/* No step works in it any more: what is in its log comes into the record now, so that nobody waits
 * for that when the record is read. */
void slots_settle(struct slots *s, int slot);
/* Whole records; between devices by two moves, to a record of the pool and from there. The first is
 * waited for. What was in that record is lost, and it may serve the next copy at once. false: the
 * device that has `from` failed, and `to` is not what that held. */
bool slots_copy(struct slots *s, int to, int from, void *by);
bool slots_are_late(const struct slots *s); /* moves take time of others than the caller */
/* By moves. The records are a pool's (record.h) of the first device. Of bring, false: the record
 * never came from the device that it was fetched from, which failed. */
bool slots_bring(struct slots *s, int to, void *record);
void slots_fetch(struct slots *s, int from, void *record);
enum arrival {
    ARRIVAL_AWAITED,
    ARRIVAL_HERE,
    ARRIVAL_FAILED, /* the device failed on the way */
};
/* Of what was fetched last into the record. wait: until it is not awaited any more. */
enum arrival slots_arrival(struct slots *s, void *record, bool wait);
/* The same with any host memory, done on return. */
void slots_upload(struct slots *s, int to, const void *host);
/* false: the device failed, and the memory is not what the slot held. */
bool slots_download(struct slots *s, int from, void *host);

int slots_count(const struct slots *s); /* of all devices */
int slots_free(const struct slots *s, int device);
uint64_t slots_zeroed(const struct slots *s); /* how often one was cleared */

#endif
