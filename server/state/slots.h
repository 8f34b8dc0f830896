/* slots.h - the pools of state records, one on each device.
 *
 * A pool is `count` equal records in one piece of its backend's memory, so that an operation
 * finds a session's state by base and stride. Slots are numbered over all devices, the first
 * device's first. A slot that is acquired is all zero bytes, the empty state: nobody reads what
 * another left (promise P4). Engine thread only. */
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

/* count: on each of the devices, which are borrowed. NULL and ERR_NOMEM, with the number of bytes
 * it asked for and, where the backend knows its room, how many slots fit. */
struct slots *slots_create(const struct devices *devices, size_t record_bytes, int count,
                           struct error *err);
void slots_destroy(struct slots *s); /* takes NULL */

int slots_acquire(struct slots *s, int device); /* -1 when all of it are taken */
void slots_release(struct slots *s, int slot);

struct slot_place slots_place(const struct slots *s, int slot);
void *slots_records(struct slots *s, int device); /* its first record */
/* Whole records, in stream order; between devices by way of host memory. false: the device that
 * has `from` failed, and `to` is not what that held. */
bool slots_copy(struct slots *s, int to, int from);
void slots_upload(struct slots *s, int to, const void *record);
/* false: the device failed, and the record is not what it held. */
bool slots_download(struct slots *s, int from, void *record);

int slots_count(const struct slots *s); /* of all devices */
int slots_free(const struct slots *s, int device);
uint64_t slots_zeroed(const struct slots *s); /* how many acquires there were */

#endif
