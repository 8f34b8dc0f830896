/* redis_rig.h - a shared tier in a real Redis, and one operation on it at a time. */
#ifndef TESTS_SERVER_STATE_REDIS_RIG_H
#define TESTS_SERVER_STATE_REDIS_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/redis.h"
#include "server/state/redis_url.h"
#include "tests/server/state/redis_server.h"

/* A lease is far longer than a test; where it has to run out or to be renewed it is a brief one. */
enum { RIG_LEASE_MS = 600000, RIG_BRIEF_MS = 1000 };
enum { RIG_TIMEOUT_MS = 2000, RIG_MAX_FILE = 200 << 20 };

/* What the tier reports, from its threads. */
struct rig_reports {
    int count;
    char newest[1024];
};

/* Options for a server with this URL. */
struct redis_options rig_options(const char *url, struct redis_url *parsed,
                                 struct rig_reports *reports);
struct redis *rig_open(const char *url); /* fails the test when it does not open */
struct redis *rig_open_leasing(const char *url, int lease_ms);

/* Operations on session `id` of owner 7, done and received. What is returned is freed by
 * redis_op_free(). */
struct redis_op *rig_do(struct redis *r, struct redis_op *op);
struct redis_op *rig_op(enum redis_kind kind, enum disk_kind object, const char *id);
enum redis_verdict rig_verdict(struct redis_op *op); /* and frees it */
enum redis_verdict rig_create(struct redis *r, enum disk_kind object, const char *id,
                              const char *checkpoint, size_t bytes, double ttl);
/* The commit that moves on what `taken` brought. */
struct redis_op *rig_commit_op(const struct redis_op *taken, const char *checkpoint, size_t bytes);
enum redis_verdict rig_commit(struct redis *r, const struct redis_op *taken, const char *checkpoint,
                              size_t bytes);
/* What stands there as it was looked at. */
enum redis_verdict rig_delete_version(struct redis *r, const struct redis_op *looked);
enum redis_verdict rig_leave(struct redis *r, const struct redis_op *taken);

/* The bytes of a checkpoint's file; a function of its id and length. */
void *rig_file(const char *checkpoint, size_t len);
/* The checkpoint can be fetched, and is what it was. */
void rig_check_file(struct redis *r, const char *checkpoint, size_t len);

double rig_seconds(void); /* monotonic */
uint64_t rig_random(uint64_t *state, uint64_t below);

#endif
