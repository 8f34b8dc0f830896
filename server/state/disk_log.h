/* disk_log.h - the append-only log of sessions and snapshots, as a file.
 *
 *   offset size
 *        0    8  magic "EDDYHEAD"
 *        8    4  version, 1
 *       12    4  zero
 *       16       records (disk_record.h)
 *
 * It is only ever appended to, or replaced as a whole by a file that was written beside it.
 * A log whose newest bytes are in doubt (a write could not be taken back, an fsync failed) is
 * `broken`: it takes no record before it was replaced, for what an fsync lost it does not say
 * again. One thread. */
#ifndef SERVER_STATE_DISK_LOG_H
#define SERVER_STATE_DISK_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/disk_record.h"

struct disk_io;
struct error;

enum { DISK_LOG_BEGIN = 16 }; /* where the first record is */

struct disk_log {
    const struct disk_io *io;
    int dir;           /* borrowed */
    int fd;            /* -1: not open */
    uint64_t len;      /* where the next record goes */
    uint64_t reserved; /* the file system has promised space up to here */
    bool broken;
};

/* Opens the log, or makes an empty one if `fresh`. *bytes: all of it, from malloc. ERR_IO;
 * ERR_FORMAT: not a log, or one of a later version; ERR_NOMEM. */
bool disk_log_open(struct disk_log *log, const struct disk_io *io, int dir, bool fresh,
                   unsigned char **bytes, struct error *err);
void disk_log_close(struct disk_log *log);

/* How disk_log_walk() sees a stretch of bytes that is no record. */
struct disk_gap {
    uint64_t at, len;
    bool torn; /* the log ends in it, with a record that was not written to its end */
};

/* Calls record() for each record with its place, and gap() for what lies in between. Either
 * may return false to end the walk. Returns where the last record ends, 0 when ended. */
uint64_t disk_log_walk(const unsigned char *bytes, uint64_t len,
                       bool (*record)(void *arg, const struct disk_record *r, uint64_t at,
                                      size_t len),
                       bool (*gap)(void *arg, const struct disk_gap *gap), void *arg);

/* Asks for the space of everything up to `end`, and for more where there is plenty. false: the disk
 * is full. true, too, where the file system cannot say. */
bool disk_log_reserve(struct disk_log *log, uint64_t end);
bool disk_log_give_up_reserve(struct disk_log *log); /* false with errno */

/* ERR_IO. Nothing of a failed append is taken as written, though it may be found after a
 * crash. */
bool disk_log_append(struct disk_log *log, const void *bytes, size_t len, struct error *err);
bool disk_log_sync(struct disk_log *log, struct error *err);
/* Cuts off what lies behind len. */
bool disk_log_cut(struct disk_log *log, uint64_t len, struct error *err);
/* A whole record. ERR_IO: also when it is damaged. */
bool disk_log_read(const struct disk_log *log, uint64_t at, size_t len, unsigned char *out,
                   struct error *err);

/* A log that will replace another. */
struct disk_log_draft {
    const struct disk_log *old; /* borrowed */
    int fd;
    uint64_t len; /* where the next record goes */
    unsigned char *buffer;
    size_t used;
};

bool disk_log_draft_open(struct disk_log_draft *d, const struct disk_log *old, struct error *err);
/* Adds a record's bytes at d->len. */
bool disk_log_draft_add(struct disk_log_draft *d, const unsigned char *record, size_t len,
                        struct error *err);
/* Moves the draft into the log's place; durably, if sync. keep: the old one stays as
 * "log.corrupt". *replaced: whether the log is the new one now, which a failure of the
 * folder's fsync leaves true and the log broken. */
bool disk_log_draft_replace(struct disk_log_draft *d, struct disk_log *log, bool sync, bool keep,
                            bool *replaced, struct error *err);
void disk_log_draft_drop(struct disk_log_draft *d);

#endif
