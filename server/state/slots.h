/* slots.h - the pool of state records on the device.
 *
 * `count` equal records in one piece of backend memory, so that an operation finds a
 * session's state by base and stride. A slot that is acquired is all zero bytes, the empty
 * state: nobody reads what another left (promise P4). Engine thread only. */
#ifndef SERVER_STATE_SLOTS_H
#define SERVER_STATE_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;
struct error;
struct slots;

/* The backend is borrowed. NULL and ERR_NOMEM, with the number of bytes it asked for and, where
 * the backend knows its room, how many slots fit. */
struct slots *slots_create(struct backend *backend, size_t record_bytes, int count,
                           struct error *err);
void slots_destroy(struct slots *s); /* takes NULL */

int slots_acquire(struct slots *s); /* -1 when all are taken */
void slots_release(struct slots *s, int slot);

void *slots_records(struct slots *s); /* slot 0's record */
/* Whole records, in stream order. */
void slots_copy(struct slots *s, int to, int from);
void slots_upload(struct slots *s, int to, const void *record);
/* false: the device failed, and the record is not what it held. */
bool slots_download(struct slots *s, int from, void *record);

int slots_count(const struct slots *s);
int slots_used(const struct slots *s);
uint64_t slots_zeroed(const struct slots *s); /* how many acquires there were */

#endif
