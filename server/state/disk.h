/* disk.h - the durable tier: sessions and snapshots in a folder, through every crash.
 *
 * The folder holds each checkpoint as a file (disk_file.h) and one log that says which
 * sessions and snapshots there are and on which checkpoint each stands (disk_log.h). What
 * the log says after a crash is one of the states that were submitted, whole:
 *  - a record is written after the file it refers to, and in DISK_ALWAYS after that file and
 *    its name are durable;
 *  - a file is deleted after the log that no longer refers to it is, except in DISK_NONE,
 *    as durable as the mode makes it;
 *  - what a power cut leaves of an interval is a beginning of it: behind the first record that
 *    is missing, or whose file is, nothing counts.
 *
 * A thread of its own does the writing. The engine thread submits and receives; the disk
 * commits what has gathered in one go, so that a slow fsync is shared by all that wait for
 * it. Operations take effect in the order of their submission. */
#ifndef SERVER_STATE_DISK_H
#define SERVER_STATE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/error.h"
#include "server/state/disk_record.h"

struct disk;
struct disk_io;
struct file_buffer;

enum disk_mode {
    DISK_NONE,     /* written, never fsynced: survives kill -9 */
    DISK_INTERVAL, /* and a power cut loses at most the newest interval */
    DISK_ALWAYS,   /* an operation is done when it is durable */
};

struct disk_options {
    const char *path; /* the folder, made if it is missing; its parent must be there */
    enum disk_mode mode;
    int interval_ms;          /* of DISK_INTERVAL */
    int max_ops;              /* submitted and not yet received */
    size_t max_bytes;         /* of their files; one file alone may be larger */
    uint64_t max_file_bytes;  /* of files in the folder: anchors yield to the others; 0: no bound */
    size_t compact_bytes;     /* dead bytes of the log worth a new one; 0: a MiB */
    bool keep_found;          /* every checkpoint that found() names is kept, as by DISK_KEEP */
    const struct disk_io *io; /* NULL: the system's */

    void *arg; /* of the four below */
    /* Called by disk_open() once for each session and snapshot, oldest first, with a SET
     * record that is valid during the call. */
    void (*found)(void *arg, const struct disk_record *record);
    /* Whether these are all bytes of the checkpoint's file; NULL: they always are. From
     * disk_open(), of files that a power cut may have left half-written. */
    bool (*whole)(void *arg, const struct id *checkpoint, const void *bytes, size_t len);
    /* What an operator should know: something was damaged, set aside, lost, or could not be
     * made durable after its operation was done. From disk_open() and the disk's thread. */
    void (*report)(void *arg, const char *what);
    /* Operations wait to be received. From the disk's thread. */
    void (*wake)(void *arg);
};

/* One commit. A SET names a checkpoint and brings its file, unless the file is there already
 * or an earlier operation brings it. Deleting what is not there does nothing.
 *
 * A checkpoint's file is deleted when the last session, snapshot and DISK_KEEP that refers to
 * it goes: whoever wants to move a checkpoint from one to the other submits the new reference
 * before the old one is dropped. Keeping what is kept does nothing.
 *
 * However full the disk is, what is there can be deleted, if the file system can reserve space for
 * the records of that: a SET that leaves too little for them is ERR_SPACE.
 *
 * A file that a session or snapshot refers to keeps the files that it names as anchors
 * (format.h), if they are there when it becomes so: they may be kept again as long as that
 * lasts, and as they have not made way for others. */
struct disk_op {
    struct disk_record record; /* its note is from malloc and the op's own */
    void *file;                /* format.h's bytes, from malloc, or NULL; gone when received */
    size_t file_len;           /* received: of the file that it brought, found or keeps */
    /* Makes the file, or fills error, on the disk's thread; NULL: the file is there already.
     * What it makes stays the caller's until the operation is received. file_len then says
     * before how much of the queue's bytes it takes. */
    void (*encode)(struct disk_op *op);
    bool keep;            /* a SET also keeps its checkpoint, as DISK_KEEP does */
    bool deletes;         /* a SET that is part of a deletion */
    void *owner;          /* the caller's */
    struct error error;   /* ERR_NONE: done. ERR_SPACE, ERR_IO, ERR_NOMEM, ERR_INPUT: it had no
                           * effect, but after a crash it may turn out to have had */
    size_t queued;        /* the disk's: bytes of the queue */
    struct disk_op *next; /* the disk's */
};

struct disk_op *disk_op_create(enum disk_kind kind, void *owner); /* NULL: no memory */
void disk_op_free(struct disk_op *op);                            /* takes NULL */

/* Brings the folder in order and starts the thread. ERR_IO: also when another process has the
 * folder. ERR_FORMAT: the folder holds something else. ERR_NOMEM. */
struct disk *disk_open(const struct disk_options *options, struct error *err);
/* Finishes what was submitted, makes everything durable that the mode promises, and frees
 * what was not received. Takes NULL. */
void disk_close(struct disk *d);

/* Moves the operation in. false when the queue is full: it stays the caller's. Engine thread. */
bool disk_submit(struct disk *d, struct disk_op *op);
/* The next finished operation, moved to the caller; NULL when there is none now. Engine
 * thread. */
struct disk_op *disk_receive(struct disk *d);
/* Returns when everything that was submitted can be received. Engine thread. */
void disk_wait(struct disk *d);

/* The file of a checkpoint whose operation was received and that something still refers to.
 * ERR_IO, ERR_NOMEM; ERR_FORMAT: damaged. Any thread. */
bool disk_read(struct disk *d, const struct id *checkpoint, struct file_buffer *out,
               struct error *err);
/* Renames a damaged checkpoint's file to ID.corrupt, out of everyone's way. Any thread. */
bool disk_set_aside(struct disk *d, const struct id *checkpoint, struct error *err);

struct disk_counts {
    size_t sessions, snapshots, files;
    uint64_t log_bytes, live_bytes; /* live: of records that still count */
    uint64_t ops, failed, commits, compactions;
    size_t anchors;           /* files that are only there to go back to them */
    uint64_t anchor_bytes;    /* of those */
    uint64_t anchors_dropped; /* that made way */
    int waiting;              /* submitted and not yet received */
};
struct disk_counts disk_counts(struct disk *d); /* any thread */

#endif
