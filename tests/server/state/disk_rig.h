/* disk_rig.h - a folder, a random history of sessions and snapshots in it, and what a reader
 * of the folder may find after that history ended well or badly. */
#ifndef TESTS_SERVER_STATE_DISK_RIG_H
#define TESTS_SERVER_STATE_DISK_RIG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/disk.h"

enum { RIG_SESSIONS = 6, RIG_OBJECTS = 10, RIG_VERSIONS = 4096, RIG_FILE_MAX = 6000 };

/* What an operation on an object was to leave behind. */
struct rig_version {
    bool set;
    struct id checkpoint;
};

/* Version base + i is at[i]; at[0] is what the folder held when the history began. */
struct rig_object {
    uint64_t base, newest, acked;
    struct rig_version at[RIG_VERSIONS];
};

struct rig {
    char path[64];
    uint64_t random;
    atomic_int reports; /* the disk's thread makes them */
    char report[512];   /* the newest */
    struct rig_object object[RIG_OBJECTS];
    struct disk_record found[RIG_OBJECTS]; /* kind 0: not found */
    int strangers;                         /* found, and no object */
    bool strict;                           /* no anchor may be missing */
};

void rig_begin(struct rig *r, uint64_t seed); /* makes a folder */
void rig_end(struct rig *r);                  /* removes it */
uint64_t rig_random(struct rig *r, uint64_t below);

/* Options with this rig's callbacks. */
struct disk_options rig_options(struct rig *r, enum disk_mode mode, const struct disk_io *io);
/* Forgets what was found before. */
struct disk *rig_open(struct rig *r, const struct disk_options *options, struct error *err);

/* The bytes of a checkpoint's file; a function of its id. "ckpt_X_N" names the N % 4 before it as
 * anchors. */
void *rig_file(const struct id *id, size_t *len);
/* A SET of kind, with the file unless it is NULL'd by with_file. */
struct disk_op *rig_set(enum disk_kind kind, const char *id, uint64_t version,
                        const char *checkpoint, bool with_file);
struct disk_op *rig_delete(enum disk_kind kind, const char *id);
/* Submits, waits, receives, frees; its error. */
struct error rig_do(struct disk *d, struct disk_op *op);

/* The next operation of a random history; its owner is the object. NULL: too long. */
struct disk_op *rig_next(struct rig *r);
void rig_acked(struct rig *r, const struct disk_op *op); /* it came back without an error */
/* What was found is what was acknowledged last, or came after it if `after`; every file is
 * whole, and there are no others but anchors that such a file names. Then the history begins anew
 * from there. */
void rig_check(struct rig *r, struct disk *d, bool after);

/* A file of at least so many bytes that names n anchors; from malloc. */
void *rig_file_naming(size_t least, const struct id *anchor, int n, size_t *len);
/* Whether there is such a file. */
bool rig_has_file(const struct rig *r, const struct id *checkpoint);
/* Files in the folder whose name ends so ("": checkpoints). */
int rig_count_files(const struct rig *r, const char *suffix);

#endif
