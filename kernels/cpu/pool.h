/* pool.h - the CPU backend's stream: a few threads that share the units of one call.
 *
 * The caller works too, and pool_run() returns when every unit is done: a CPU operation has
 * happened when its call returns. Units are handed out one at a time, so a thread that the
 * system took away delays only the unit it holds; a sleeping thread is never waited for. Each
 * thread takes those of its own share from the first one on, and then helps the others: it
 * walks through memory in one direction, which is what prefetching hardware follows, and calls
 * whose units are in one order find in a core's cache what it wrote in the call before. Idle
 * threads spin for some microseconds and then sleep, so that they do not take the cores from
 * the threads that serve requests.
 *
 * What a unit computes must not depend on the thread that runs it, nor on other units. One
 * thread at a time calls pool_run(). */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H

#include <stdbool.h>
#include <stddef.h>

struct error;
struct ops;
struct stream;

typedef void pool_work(const void *job, int unit, int thread);

int pool_cores(void); /* that this process may use */

/* threads: the caller's included, at least 1. NULL and ERR_NOMEM or ERR_LIMIT. */
struct stream *pool_create(int threads, struct error *err);
void pool_destroy(struct stream *q); /* takes NULL */
int pool_threads(const struct stream *q);

/* The table whose operations run here, for those that are made of others. Set before the first;
 * borrowed. */
void pool_set_ops(struct stream *q, const struct ops *ops);
const struct ops *pool_ops(const struct stream *q);

/* Runs work(job, unit, thread) for each unit below `units`, 0 <= thread < pool_threads().
 * cost: about how many float operations or loads all units need; the caller does little
 * work alone, as waking the others would take longer. */
void pool_run(struct stream *q, int units, size_t cost, pool_work *work, const void *job);

/* Memory of one thread, aligned to 64 bytes, kept between calls; what it held may be lost
 * when a larger size is asked for. NULL when there is no room, which pool_take_fault() then
 * reports. Called by the owning thread inside work(). */
void *pool_scratch(struct stream *q, int thread, size_t bytes);

/* Whether a pool_scratch() failed since the last call. */
bool pool_take_fault(struct stream *q);

#endif
