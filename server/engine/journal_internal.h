/* journal_internal.h - what a journal is, for the files server/engine/journal*.c. */
#ifndef SERVER_ENGINE_JOURNAL_INTERNAL_H
#define SERVER_ENGINE_JOURNAL_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/engine/journal.h"
#include "server/state/file_buffer.h"

/* What may be on its way to the disk at once: copies of states, for the most part. */
enum { MAX_OPS = 4096, MAX_BYTES = 256 * 1024 * 1024 };
enum { ENOUGH_OPS = 128 }; /* that the disk is never without work */
enum { BUFFERS_KEPT = 2 };

/* One operation of an entry. */
struct write {
    struct engine *engine;         /* borrowed */
    struct entry *entry;           /* NULL: nobody waits for it */
    struct disk_op *op;            /* owned until it is submitted */
    struct checkpoint *checkpoint; /* kept; whose file it brings, or NULL: an anchor's */
    struct past *past;             /* kept; behind it */
    struct file_buffer file;       /* of it; the store's thread adds the checksum, */
    void *record;   /* and this record at its end; kept, or NULL: it has it already */
    int64_t growth; /* what is claimed for it; tiers.h */
    struct write *next;
};

struct journal {
    struct disk *disk;   /* either this */
    struct redis *redis; /* or this */
    int asked;           /* questions to Redis without an answer */
    struct reader *reader;
    struct write *queue, **queue_end;        /* the disk has no room for them yet */
    int fileless;                            /* of these, whose file is not laid out yet */
    int submitted;                           /* operations the disk has */
    size_t bytes;                            /* and of their files */
    int entries;                             /* not yet done */
    struct entry *upload;                    /* the newest of them that brings one; NULL: none */
    struct file_buffer buffer[BUFFERS_KEPT]; /* for the next files */
    struct heads *found;                     /* while it opens */
    bool no_memory;
    atomic_uint_fast64_t reports;
};

#endif
