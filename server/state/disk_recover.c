/* disk_recover.c - from what a crash left in the folder to the index.
 *
 * The folders are listed first, then the log is read once: the newest record of each session
 * and snapshot counts, and what its file is found to be does not change that. One whose file is
 * missing or damaged stays, without a state.
 *
 * A file that is there may still be cut short. So each one is opened and looked at, unless the
 * folder was closed in order with everything durable, which a mark in it says: then a file that
 * is damaged all the same shows when it is read.
 *
 * Behind the last record that says that all was durable, a power cut may have left anything of
 * the records of DISK_INTERVAL and of their files. There the log ends before the first record
 * that is not whole, or whose file is not: what is found is what was at some moment. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "server/state/disk_internal.h"
#include "server/state/disk_io.h"
#include "server/state/file_buffer.h"

struct recovery {
    struct disk *disk;
    struct error *err;
    struct file_buffer buffer; /* of a file that is looked at */
    bool closed;               /* in order: no file needs to be looked at */
    uint64_t durable;          /* bytes of the log that certainly are */
    uint64_t settled;          /* the files of records before this place are durable */
    struct disk_gap hole;      /* what may be records that a power cut took; len 0: none */
    bool after_settled;        /* the newest record that was seen is DISK_SETTLED */
    bool after_unsettled;      /* or is unsettled */
    bool unsettled;            /* one behind the last of these is */
    uint64_t cut;              /* what lies behind does not count; 0: all counts */
    bool incomplete;           /* not every byte of the log was a record's */
    bool damaged;              /* and some must have been */
    bool failed;               /* *err says why */
};

static const char mark_name[] = "closed";

/* Says of which log it is: another one may have been put in its place. */
struct mark {
    char magic[8];
    uint64_t log_bytes;
};

static struct mark mark_of(const struct disk *d)
{
    struct mark m = { .log_bytes = d->log.len };

    memcpy(m.magic, "EDDYSHUT", sizeof(m.magic));
    return m;
}

/* Reads the mark and removes it, durably, before a record or a file of one is changed; a log that
 * is refused leaves it to the server that can read it. */
static bool take_mark(struct disk *d, struct mark *m, struct error *err)
{
    int fd = d->io->openat(d->dir, mark_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);

    *m = (struct mark){ .magic = "" };
    if (fd < 0 && errno == ENOENT)
        return true;
    if (fd >= 0) {
        if (!disk_read_all(d->io, fd, m, sizeof(*m), 0))
            *m = (struct mark){ .magic = "" };
        d->io->close(fd);
    }
    return (d->io->unlinkat(d->dir, mark_name, 0) == 0 && d->io->fsync(d->dir) == 0) ||
           error_set(err, disk_error(), "%s: %s", mark_name, strerror(errno));
}

void disk_mark_closed(struct disk *d)
{
    const struct mark m = mark_of(d);
    bool ok;
    int fd;

    if (d->options.mode == DISK_NONE || d->dirty_log || d->log.broken || d->doubtful)
        return;
    fd = d->io->openat(d->dir, mark_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                       0600);
    if (fd < 0)
        return;
    ok = disk_write_all(d->io, fd, &m, sizeof(m), 0) && d->io->fsync(fd) == 0;
    d->io->close(fd);
    if (!ok)
        d->io->unlinkat(d->dir, mark_name, 0);
}

static bool see_file(void *arg, const char *id)
{
    struct disk *d = arg;

    return disk_index_add_file(&d->index, id, 0) != NULL;
}

/* The file of a record that was written without waiting for it. false: it cannot be known. */
static bool is_whole(struct recovery *rec, const struct disk_record *r, bool *whole)
{
    struct disk *d = rec->disk;
    struct disk_file *file = id_map_find(&d->index.files, 0, &r->checkpoint);
    struct file_buffer *b = &rec->buffer;
    struct error why;

    *whole = file && (!file->whole || file->bytes == r->bytes);
    if (!*whole || file->whole)
        return true;
    if (!disk_file_read(&d->files, file->id, b, &why)) {
        *whole = false;
        if (why.code != ERR_FORMAT)
            *rec->err = why;
        return why.code == ERR_FORMAT;
    }
    *whole =
        b->len == r->bytes &&
        (!d->options.whole || d->options.whole(d->options.arg, &r->checkpoint, b->bytes, b->len));
    file->whole = *whole;
    disk_index_measure(&d->index, file, b->len);
    return true;
}

/* What counts ends here. */
static bool cut_off(struct recovery *rec, uint64_t at)
{
    rec->cut = at;
    disk_report(rec->disk,
                "log: cut off at %llu of %llu bytes; what came after was not yet durable",
                (unsigned long long)at, (unsigned long long)rec->disk->log.len);
    return false;
}

static void see_damage(struct recovery *rec, const struct disk_gap *gap)
{
    rec->incomplete = true;
    rec->damaged |= !gap->torn;
    disk_report(rec->disk,
                gap->torn ? "log: cut off %llu bytes at %llu, not written to their end"
                          : "log: %llu bytes at %llu are damaged; kept in log.corrupt",
                (unsigned long long)gap->len, (unsigned long long)gap->at);
}

/* Among unsettled records it is a hole that a power cut left: the record behind it tells. */
static bool see_gap(void *arg, const struct disk_gap *gap)
{
    struct recovery *rec = arg;

    if (!gap->torn && gap->at >= rec->durable && (rec->after_settled || rec->after_unsettled))
        rec->hole = *gap;
    else
        see_damage(rec, gap);
    return true;
}

/* unsettled: what comes behind it is, or nothing does. */
static bool pass_hole(struct recovery *rec, bool unsettled)
{
    struct disk_gap hole = rec->hole;

    rec->hole.len = 0;
    if (hole.len && unsettled)
        return cut_off(rec, hole.at);
    if (hole.len)
        see_damage(rec, &hole);
    return true;
}

static bool see_unsettled(struct recovery *rec, const struct disk_record *r, uint64_t at)
{
    bool whole = true;

    rec->unsettled = true;
    if (r->checkpoint.text[0] && !is_whole(rec, r, &whole)) {
        rec->failed = true;
        return false;
    }
    return whole || cut_off(rec, at);
}

static bool see_record(void *arg, const struct disk_record *r, uint64_t at, size_t len)
{
    struct recovery *rec = arg;
    struct disk *d = rec->disk;
    struct disk_head *head;

    if (!pass_hole(rec, r->unsettled || r->kind == DISK_SETTLED))
        return false;
    rec->after_settled = r->kind == DISK_SETTLED;
    rec->after_unsettled = r->unsettled;
    if (rec->after_settled)
        return true;
    if (r->unsettled && at >= rec->settled && !see_unsettled(rec, r, at))
        return false;
    if (r->kind == DISK_SESSION_DELETED || r->kind == DISK_SNAPSHOT_DELETED) {
        head = id_map_remove(disk_index_map(&d->index, r->kind), r->owner, r->id.text);
        if (head)
            disk_index_clear(&d->index, head);
        free(head);
        return true;
    }
    head = disk_index_add_head(&d->index, r->kind, r->owner, &r->id);
    if (!head) {
        rec->failed = true;
        return error_set(rec->err, ERR_NOMEM, "no memory for the list of sessions");
    }
    disk_index_set(&d->index, head, NULL, at, len);
    return true;
}

/* The file of a record that counts; NULL if it is not there, or damaged and now set aside.
 * false: it cannot be known, and guessing would cost a session. */
static bool find_file(struct recovery *rec, const struct disk_record *r, struct disk_file **out)
{
    struct disk *d = rec->disk;
    struct disk_file *file = id_map_find(&d->index.files, 0, &r->checkpoint);
    struct disk_front front;
    struct error why;

    *out = file;
    if (!file || file->checked)
        return true;
    front = (struct disk_front){ .bytes = r->bytes, .marks.anchors = r->anchors };
    if (rec->closed || disk_file_look(&d->files, file->id, &front, &why)) {
        file->checked = !rec->closed; /* else the last record of it says what it is now */
        file->names = (uint8_t)front.marks.anchors;
        disk_index_measure(&d->index, file, front.bytes);
        return true;
    }
    if (why.code != ERR_FORMAT) {
        *rec->err = why;
        return false;
    }
    disk_report(d, "%s; set aside as %s.corrupt", why.message, file->id);
    disk_index_forget_file(&d->index, file);
    *out = NULL;
    return disk_file_set_aside(&d->files, r->checkpoint.text, ".corrupt", rec->err);
}

/* The records that count have come to be known: now their files. */
static bool find_files(struct recovery *rec, struct id_map *m, const unsigned char *bytes,
                       const char *noun)
{
    struct disk *d = rec->disk;
    struct disk_file *file;
    struct disk_record r;
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(m, &i)); i++) {
        struct disk_head *head = e->value;

        if (disk_record_decode(bytes + head->at, head->len, &r) != head->len)
            return error_set(rec->err, ERR_FORMAT, "log: a record changed while it was read");
        if (!r.checkpoint.text[0])
            continue;
        if (!find_file(rec, &r, &file))
            return false;
        if (file)
            disk_index_set(&d->index, head, file, head->at, head->len);
        else
            disk_report(d,
                        "%s %s: its state is missing or damaged; it can only be deleted or "
                        "replaced",
                        noun, e->id);
    }
    return true;
}

/* What nothing refers to is deleted only if the log was read to its last byte. */
static void clear_out(struct recovery *rec)
{
    struct disk *d = rec->disk;
    struct id_entry *e;
    struct error why;

    d->index.doomed = NULL; /* the loop finds those too */
    for (size_t i = 0; (e = id_map_walk(&d->index.files, &i)); i++) {
        struct disk_file *file = e->value;
        bool ok;

        file->doomed = false;
        if (file->heads || file->lists)
            continue;
        if (rec->incomplete) {
            ok = disk_file_set_aside(&d->files, file->id, ".orphan", &why);
            if (ok)
                disk_report(d, "state %s: nothing refers to it; set aside as %s.orphan", file->id,
                            file->id);
        } else {
            ok = disk_file_remove(&d->files, file->id, &why);
        }
        if (!ok)
            disk_report(d, "%s", why.message);
        disk_index_forget_file(&d->index, file);
    }
}

static bool announce(struct disk *d, struct id_map *m, const unsigned char *bytes,
                     struct error *err)
{
    struct disk_record r;
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(m, &i)); i++) {
        const struct disk_head *head = e->value;

        if (disk_record_decode(bytes + head->at, head->len, &r) != head->len)
            return error_set(err, ERR_FORMAT, "log: a record changed while it was read");
        r.damaged = r.checkpoint.text[0] && !head->file;
        if (head->file) {
            r.bytes = head->file->bytes;
            if (d->options.keep_found)
                disk_index_keep(&d->index, head->file, true);
        }
        if (d->options.found)
            d->options.found(d->options.arg, &r);
    }
    return true;
}

/* Order matters: what the log says must be durable before the files it no longer refers to
 * go, also if it was a process without fsync that wrote it. */
static bool mend(struct recovery *rec, uint64_t end, struct error *err)
{
    struct disk *d = rec->disk;

    if (d->options.mode != DISK_NONE && d->io->syncfs(d->dir) < 0)
        return error_set(err, ERR_IO, "syncfs: %s", strerror(errno));
    if (rec->damaged)
        return disk_compact(d, rec->damaged, err);
    return end == d->log.len || disk_log_cut(&d->log, end, err);
}

/* Before the first file goes that an unsettled record refers to. */
static bool settle_log(struct recovery *rec, struct error *err)
{
    struct disk *d = rec->disk;
    bool sync = d->options.mode != DISK_NONE;

    d->durable_log = sync ? d->log.len : rec->durable;
    if (!rec->unsettled && (d->options.mode != DISK_INTERVAL || rec->settled == d->log.len))
        return true;
    return disk_mark_settled(d, err) && (!sync || disk_sync_log(d, err));
}

/* The newest record that says so. When one is missing between what was durable as it was written
 * and itself, it has not come to be durable, and says nothing. */
static void find_settled(struct recovery *rec, const unsigned char *bytes)
{
    struct disk_record r;
    uint64_t at = disk_record_find_last(bytes, rec->disk->log.len, DISK_SETTLED, &r);

    if (!at)
        return;
    rec->durable = r.bytes;
    rec->settled = at + disk_record_decode(bytes + at, rec->disk->log.len - at, NULL);
    for (uint64_t to = r.bytes > DISK_LOG_BEGIN ? r.bytes : DISK_LOG_BEGIN, n; to < at; to += n) {
        n = disk_record_decode(bytes + to, at - to, NULL);
        if (!n) {
            rec->settled = rec->durable;
            return;
        }
    }
}

bool disk_recover(struct disk *d, struct error *err)
{
    struct recovery rec = { .disk = d, .err = err };
    unsigned char *bytes = NULL;
    struct mark found, expected;
    uint64_t end;
    bool ok;

    if (!disk_files_list(&d->files, see_file, d, err) ||
        !disk_log_open(&d->log, d->io, d->dir, d->index.files.count == 0, &bytes, err))
        return false;
    if (!take_mark(d, &found, err)) {
        free(bytes);
        return false;
    }
    expected = mark_of(d);
    rec.closed = memcmp(&found, &expected, sizeof(found)) == 0;
    find_settled(&rec, bytes);
    end = disk_log_walk(bytes, d->log.len, see_record, see_gap, &rec);
    pass_hole(&rec, rec.after_unsettled);
    if (rec.cut)
        end = rec.cut;
    ok = !rec.failed && find_files(&rec, &d->index.sessions, bytes, "session") &&
         find_files(&rec, &d->index.snapshots, bytes, "snapshot");
    if (ok)
        disk_anchors_recover(d);
    ok = ok && announce(d, &d->index.sessions, bytes, err) &&
         announce(d, &d->index.snapshots, bytes, err) && mend(&rec, end, err) &&
         settle_log(&rec, err);
    free(bytes);
    file_buffer_finish(&rec.buffer);
    if (ok) {
        clear_out(&rec);
        disk_reserve_deletions(d); /* a restart has let go of it */
    }
    return ok;
}
