/* disk_internal.h - what the durable tier's own files share.
 *
 * The index says what the log says: which record is the newest of each session and snapshot,
 * and how many of them refer to each file. It belongs to whoever opens the folder and then to
 * the disk's thread. */
#ifndef SERVER_STATE_DISK_INTERNAL_H
#define SERVER_STATE_DISK_INTERNAL_H

#include <pthread.h>

#include "server/state/disk.h"
#include "server/state/disk_file.h"
#include "server/state/disk_log.h"
#include "server/state/id_map.h"

enum { DISK_BATCH = 64 }; /* operations of one commit */

struct disk_file {
    uint64_t bytes;
    struct disk_file *next_dirty, *next_doomed;
    struct disk_file **name; /* the anchors that it names and, under a head, holds; owned */
    uint32_t heads;          /* sessions and snapshots that refer to it */
    uint32_t lists;          /* files under a head that hold it as an anchor */
    uint8_t names;           /* how many anchors its bytes name */
    uint8_t holds;           /* how many of them it holds */
    bool kept : 1;           /* by whoever submits operations */
    bool anchor : 1;         /* only lists refer to it */
    bool yields : 1;         /* disk_anchors.c has chosen it */
    bool dirty : 1;          /* in the list of files to fsync */
    bool doomed : 1;         /* in the list of files to delete unless something refers to it */
    bool checked : 1;        /* disk_open() has looked at it */
    bool whole : 1;          /* and read it to its end */
    bool unsure : 1;         /* an fsync of it has failed: only a copy can be made durable */
    char id[];
};

/* The newest record of a session or snapshot. */
struct disk_head {
    struct disk_file *file; /* NULL: the empty context */
    uint64_t at;            /* where in the log */
    uint32_t len;           /* 0: no record counts */
    char id[];
};

struct disk_index {
    struct id_map sessions, snapshots; /* struct disk_head, owned */
    struct id_map files;               /* struct disk_file, owned */
    struct disk_file *dirty, *doomed;
    uint64_t live_bytes;
    size_t anchors;
    uint64_t file_bytes, anchor_bytes; /* of all files; of those that only lists refer to */
};

struct disk {
    struct disk_options options;
    const struct disk_io *io;
    int dir, lock; /* -1: not open */
    struct disk_files files;
    struct disk_log log;
    struct disk_index index;
    bool dirty_folder[DISK_FOLDERS], dirty_log;
    bool doubtful;             /* some files or their names could not be made durable */
    uint64_t durable_log;      /* bytes of it that are */
    double settle_by;          /* monotonic seconds; 0: nothing is put off */
    struct disk_counts counts; /* the writer's */
    unsigned char *buffer;     /* records of one commit */
    uint64_t compact_from;     /* no new log before this one is so long */
    uint64_t settled_log;      /* where the newest record that says so ends */

    pthread_t thread;
    bool started;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t arrived, finished;
    struct disk_op *queue, **queue_end, *done, **done_end;
    int waiting;         /* submitted and not yet received */
    size_t queued_bytes; /* of files not yet written */
    bool stopping, busy;
    struct disk_counts published;
};

/* disk_index.c */
void disk_index_init(struct disk_index *x);
void disk_index_finish(struct disk_index *x);
struct id_map *disk_index_map(struct disk_index *x, enum disk_kind kind);
struct disk_file *disk_index_add_file(struct disk_index *x, const char *id, uint64_t bytes);
void disk_index_forget_file(struct disk_index *x, struct disk_file *file); /* in no list */
/* The head there is, or a new one without a record. NULL: no memory. */
struct disk_head *disk_index_add_head(struct disk_index *x, enum disk_kind kind, uint64_t owner,
                                      const struct id *id);
/* The head stands on the file (or NULL) from now on; what it stood on may be doomed. */
void disk_index_set(struct disk_index *x, struct disk_head *head, struct disk_file *file,
                    uint64_t at, size_t len);
void disk_index_clear(struct disk_index *x, struct disk_head *head);
/* Frees the head if it is there and has no record. */
void disk_index_prune(struct disk_index *x, enum disk_kind kind, uint64_t owner,
                      const struct id *id);
void disk_index_doom(struct disk_index *x, struct disk_file *file); /* if nothing refers to it */
void disk_index_measure(struct disk_index *x, struct disk_file *file, uint64_t bytes);
void disk_index_keep(struct disk_index *x, struct disk_file *file, bool kept);
/* The file holds the anchor, one that it names. It has room for it. */
void disk_index_hold(struct disk_index *x, struct disk_file *file, struct disk_file *anchor);
/* The file holds none of its anchors any more. */
void disk_index_let_go(struct disk_index *x, struct disk_file *file);

/* disk_anchors.c: a file is about to be a head's: what it names lives as long. marks: NULL when
 * they have to be read from it. What is not there is not missed. */
void disk_anchors_hold(struct disk *d, struct disk_file *file, const void *marks, size_t len);
/* Dooms anchors of so many bytes, those written first before the others. false: there are
 * none. */
bool disk_anchors_yield(struct disk *d, uint64_t bytes);
/* What the files under the log's heads name is held. */
void disk_anchors_recover(struct disk *d);

/* disk_recover.c: the log and the files become the index; calls found() and report(). */
bool disk_recover(struct disk *d, struct error *err);
/* The next disk_recover() need not look at the files, if they are durable. */
void disk_mark_closed(struct disk *d);

/* disk_commit.c */
void disk_report(struct disk *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Says in the log that what came before is settled; durably only with the next fsync of it. */
bool disk_mark_settled(struct disk *d, struct error *err);
bool disk_sync_log(struct disk *d, struct error *err);
bool disk_compact(struct disk *d, bool keep_old, struct error *err);
/* Takes the space that the deletion of everything will need in the log. false: there is less. */
bool disk_reserve_deletions(struct disk *d);
void disk_commit(struct disk *d, struct disk_op *batch);
/* Makes durable what DISK_INTERVAL has put off, and deletes what waits for that. */
void disk_settle(struct disk *d);

#endif
