/* disk_record.h - one line of the durable tier's log, and its bytes.
 *
 *   offset size
 *        0    4  magic FE 45 44 4C; FE is in no UTF-8 text, so no client can write a record
 *        4    4  length of the record, a multiple of 8
 *        8    8  XXH3-64 of the bytes from 16 on, seeded with the first 8 bytes
 *       16    8  version
 *       24    8  position
 *       32    8  seed
 *       40    8  length of the checkpoint's file
 *       48   24  created, updated, ttl (doubles)
 *       72    4  flags
 *       76    4  kind, lengths of id and checkpoint, anchors that its file names (a byte each)
 *       80    4  lengths of session and parent (a byte each), of the note (2 bytes)
 *       84    4  1 if it is unsettled
 *       88    8  owner
 *       96       id, checkpoint, session, parent, note, zeros
 *
 * All numbers are little-endian. The bytes are not trusted before the checksum is right. Any
 * thread. */
#ifndef SERVER_STATE_DISK_RECORD_H
#define SERVER_STATE_DISK_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/state/id.h"

enum disk_kind {
    DISK_SESSION_SET = 1,
    DISK_SESSION_DELETED,
    DISK_SNAPSHOT_SET,
    DISK_SNAPSHOT_DELETED,
    DISK_KEEP,    /* not logged: the file stays until DISK_RELEASE or the end of the process */
    DISK_RELEASE, /* not logged */
    DISK_SETTLED, /* the disk's: every file of the records before it is durable, and so were
                   * the log's first `bytes` bytes when it was written; it has no id */
};

enum {
    DISK_NOTE_BYTES = 16 * 1024,
    DISK_HEAD_BYTES = 96, /* before ids and note */
    DISK_RECORD_BYTES = DISK_HEAD_BYTES + 4 * LIMIT_ID_BYTES + DISK_NOTE_BYTES, /* the longest */
};

struct disk_record {
    enum disk_kind kind;
    uint64_t owner;       /* of the session or snapshot: its id is unique to this owner */
    struct id id;         /* of the session or snapshot; ignored for KEEP and RELEASE */
    struct id checkpoint; /* where it stands; "": on the empty context, which has no file */
    struct id session;    /* of a snapshot */
    struct id parent;     /* the snapshot before, of a snapshot or of a session's head */
    uint64_t version, position, seed;
    uint32_t flags; /* the caller's */
    double created, updated, ttl;
    uint64_t bytes;   /* of the checkpoint's file; the disk fills it in */
    unsigned anchors; /* that this file names; the disk, too */
    bool damaged;     /* the disk's, of a record that was found: its file is missing or damaged */
    bool unsettled;   /* the disk's: neither its file nor what was written before it was durable
                       * for certain */
    void *note;       /* label, metadata: the caller's, at most DISK_NOTE_BYTES */
    size_t note_len;
};

/* Writes the record's bytes to out (DISK_RECORD_BYTES, aligned to 8) and returns how many. */
size_t disk_record_encode(const struct disk_record *r, unsigned char *out);

/* The length of a whole and undamaged record at the beginning of the bytes, 0 if there is
 * none. Fills *r, whose note lies in the bytes; r may be NULL. */
size_t disk_record_decode(const unsigned char *bytes, size_t len, struct disk_record *r);

/* Where the last record of this kind begins, among records that begin at multiples of 8. 0:
 * there is none. Fills *r. */
size_t disk_record_find_last(const unsigned char *bytes, size_t len, enum disk_kind kind,
                             struct disk_record *r);

#endif
