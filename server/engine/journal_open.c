/* journal_open.c - the store of a journal: the state folder or Redis, and what it finds there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/log.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/engine/engine_internal.h"
#include "server/engine/heads.h"
#include "server/engine/journal_internal.h"
#include "server/state/disk.h"
#include "server/state/format.h"
#include "server/state/reader.h"
#include "server/state/redis.h"

enum { REDIS_TIMEOUT_MS = 5000 };

static void wake(void *arg)
{
    struct engine *e = arg;

    mailbox_nudge(&e->mailbox);
}

static void report(void *arg, const char *what)
{
    struct engine *e = arg;

    atomic_fetch_add(&e->journal->reports, 1);
    log_note(LOG_WARN, "state", "%s", what);
}

static bool is_whole(void *arg, const struct id *checkpoint, const void *bytes, size_t len)
{
    struct format_info info;
    struct problem p;

    (void)arg;
    (void)checkpoint;
    return format_check(bytes, len, &info, &p);
}

static void found(void *arg, const struct disk_record *r)
{
    struct engine *e = arg;

    if (!e->journal->no_memory && !heads_found(e, e->journal->found, r))
        e->journal->no_memory = true;
}

static void report_foreign(struct engine *e)
{
    const size_t n = heads_foreign(e->journal->found);
    char text[160];

    if (!n)
        return;
    snprintf(
        text, sizeof(text),
        "%zu of the sessions and snapshots are of another model or state dtype: they stay, and "
        "are refused until it is served again",
        n);
    report(e, text);
}

static bool read_disk(void *disk, const struct id *checkpoint, struct file_buffer *out,
                      struct error *err)
{
    return disk_read(disk, checkpoint, out, err);
}

static bool set_aside_on_disk(void *disk, const struct id *checkpoint, struct error *err)
{
    return disk_set_aside(disk, checkpoint, err);
}

static bool read_redis(void *redis, const struct id *checkpoint, struct file_buffer *out,
                       struct error *err)
{
    return redis_read(redis, checkpoint, out, err);
}

static bool open_disk(struct engine *e, struct reader_options *reader, struct error *err)
{
    const struct engine_options *o = &e->options;
    struct journal *j = e->journal;
    const struct disk_options disk = { .path = o->state_dir,
                                       .mode = o->durability,
                                       .interval_ms = o->interval_ms,
                                       .max_ops = MAX_OPS + 1,
                                       .max_bytes = 2 * (size_t)MAX_BYTES,
                                       .max_file_bytes = o->store_bytes,
                                       .keep_found = true,
                                       .io = o->io,
                                       .arg = e,
                                       .found = found,
                                       .whole = is_whole,
                                       .report = report,
                                       .wake = wake };

    if (!(j->found = heads_create()))
        return error_set(err, ERR_NOMEM, "no memory for the state folder");
    j->disk = disk_open(&disk, err);
    if (j->disk)
        report_foreign(e);
    heads_destroy(j->found);
    if (!j->disk)
        return false;
    if (j->no_memory)
        return error_set(err, ERR_NOMEM, "no memory for the sessions of the state folder");
    reader->store = j->disk;
    reader->read = read_disk;
    reader->set_aside = set_aside_on_disk;
    return true;
}

static bool open_redis(struct engine *e, struct reader_options *reader, struct error *err)
{
    const struct engine_options *o = &e->options;
    const struct model_info *model = model_info(e->model);
    struct redis_options redis = { .url = o->redis,
                                   .layout = model->layout.id,
                                   .max_file = format_max_bytes(model),
                                   .lease_ms = o->lease_ms,
                                   .timeout_ms = REDIS_TIMEOUT_MS,
                                   .max_ops = 2 * MAX_OPS, /* changes, questions */
                                   .max_bytes = 2 * (size_t)MAX_BYTES,
                                   .arg = e,
                                   .report = report,
                                   .wake = wake };

    memcpy(redis.fingerprint, model->fingerprint, sizeof(redis.fingerprint));
    e->journal->redis = redis_open(&redis, err);
    reader->store = e->journal->redis;
    reader->read = read_redis;
    return e->journal->redis != NULL;
}

bool journal_open(struct engine *e, struct error *err)
{
    const struct engine_options *o = &e->options;
    struct journal *j;
    struct reader_options reader = { .model = model_info(e->model),
                                     .vocab = tokenizer_size(e->tokenizer),
                                     .wake = wake,
                                     .report = report,
                                     .arg = e };

    if (!o->state_dir && !o->redis)
        return true;
    j = e->journal = calloc(1, sizeof(*j));
    if (!j)
        return error_set(err, ERR_NOMEM, "no memory for the store of states");
    j->queue_end = &j->queue;
    if (!(o->redis ? open_redis(e, &reader, err) : open_disk(e, &reader, err)))
        return false;
    j->reader = reader_create(&reader, err);
    if (!j->reader)
        return false;
    if (j->disk)
        lineage_settle(e);
    return true;
}
