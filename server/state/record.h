/* record.h - host memory that holds the record of one state.
 *
 * Counted references: a state and the copies of it that leave for clients share the bytes, which
 * do not change. A pool's memory is of the kind that its backend copies fastest, where there
 * is one, up to a bound in bytes; that is costly to come by, pinned or not: in a virtual machine
 * the page faults of fresh memory take 80 times as long as the copy. So it is used again, and goes
 * at a rest or when the pool does. Beyond the bound, and where there is no such kind, records are
 * malloc's; one of those is used again, too.
 *
 * take_still, keep and release: any thread; the rest: the one that drives the backend. */
#ifndef SERVER_STATE_RECORD_H
#define SERVER_STATE_RECORD_H

#include <stddef.h>
#include <stdint.h>

struct backend;
struct record_pool;

/* The newest of the moves (backend.h) that touch a record, and the device that does it; 0: none.
 * Said of a pool's records, by the thread that drives the backend. */
struct record_move {
    uint64_t number;
    int device;
};

/* Of records of so many bytes. The backend is borrowed, until the last record is released. NULL:
 * no memory. */
struct record_pool *record_pool_create(struct backend *backend, size_t record_bytes, size_t bound);
/* Nothing is taken from it any more; it goes when its last record is released. Takes NULL. */
void record_pool_close(struct record_pool *p);

/* One reference; what is in it is undefined. NULL: no memory. A move may still touch it, behind
 * which any other of the same device comes. */
void *record_take(struct record_pool *p);
/* The same of what no move touches, to be written to at once. */
void *record_take_still(struct record_pool *p);
/* Memory in which there is nothing any more, and that no move may still touch, goes back. */
void record_pool_rest(struct record_pool *p);
void *record_create(size_t bytes); /* the same from malloc */
void *record_keep(void *record);   /* returns it */
void record_release(void *record); /* takes NULL */

struct record_move *record_newest_move(void *record);

#endif
