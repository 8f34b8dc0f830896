/* disk_recover.c - from what a crash left in the folder to the index.
 *
 * The folders are listed first, then the log is read once: a record whose file is there takes
 * the head over, one whose file is gone leaves it where it was. That is right for the many
 * old records whose files were deleted since, and for the newest one of a session whose file
 * a power cut took: the state before it is still there, for its file is deleted only after
 * the newer record is durable.
 *
 * A file that is there may still be cut short after a power cut. So each one is opened and
 * looked at, unless the folder was closed in order with everything durable, which a mark in it
 * says: then a file that is damaged all the same shows when it is read. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "server/state/disk_internal.h"
#include "server/state/disk_io.h"

struct recovery {
    struct disk *disk;
    struct error *err;
    bool closed;     /* in order: no file needs to be looked at */
    bool incomplete; /* not every byte of the log was a record's */
    bool damaged;    /* and some must have been */
    bool lost;       /* a newest record was without its file */
    bool failed;     /* *err says why */
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

/* Reads the mark and removes it, durably: nothing may be changed under it. */
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

/* *file: NULL if it is not there, or damaged and now set aside. false: it cannot be known, and
 * guessing would cost a session. An older record of the same state may name another length: a
 * state that was deleted can be written again, with less of its history. */
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
    if (why.code != ERR_FORMAT || !disk_file_set_aside(&d->files, file->id, ".corrupt", &why)) {
        *rec->err = why;
        return false;
    }
    disk_report(d, "%s; set aside as %s.corrupt", why.message, file->id);
    disk_index_forget_file(&d->index, file);
    *out = NULL;
    return true;
}

static bool see_record(void *arg, const struct disk_record *r, uint64_t at, size_t len)
{
    struct recovery *rec = arg;
    struct disk *d = rec->disk;
    struct disk_file *file = NULL;
    struct disk_head *head;

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
    if (r->checkpoint.text[0] && !find_file(rec, r, &file)) {
        rec->failed = true;
        return false;
    }
    if (r->checkpoint.text[0] && !file) {
        head->lost = true;
        return true;
    }
    head->lost = false;
    disk_index_set(&d->index, head, file, at, len);
    return true;
}

static bool see_gap(void *arg, const struct disk_gap *gap)
{
    struct recovery *rec = arg;

    rec->incomplete = true;
    rec->damaged |= !gap->torn;
    disk_report(rec->disk,
                gap->torn ? "log: cut off %llu bytes at %llu, not written to their end"
                          : "log: %llu bytes at %llu are damaged; kept in log.corrupt",
                (unsigned long long)gap->len, (unsigned long long)gap->at);
    return true;
}

static void report_lost(struct recovery *rec, struct id_map *m, const char *noun)
{
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(m, &i)); i++) {
        struct disk_head *head = e->value;

        if (!head->lost)
            continue;
        rec->lost = true;
        head->lost = false;
        disk_report(rec->disk,
                    head->len ? "%s %s: its newest state is missing; it stands where it was before"
                              : "%s %s: its state is missing; it is lost",
                    noun, head->id);
        if (!head->len)
            free(id_map_remove(m, e->owner, head->id));
    }
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
        return error_set(err, ERR_IO, "%s: syncfs: %s", d->options.path, strerror(errno));
    if (rec->damaged || rec->lost)
        return disk_compact(d, rec->damaged, err);
    return end == d->log.len || disk_log_cut(&d->log, end, err);
}

bool disk_recover(struct disk *d, struct error *err)
{
    struct recovery rec = { .disk = d, .err = err };
    unsigned char *bytes = NULL;
    struct mark found, expected;
    uint64_t end;
    bool ok;

    if (!take_mark(d, &found, err) || !disk_files_list(&d->files, see_file, d, err) ||
        !disk_log_open(&d->log, d->io, d->dir, d->index.files.count == 0, &bytes, err))
        return false;
    expected = mark_of(d);
    rec.closed = memcmp(&found, &expected, sizeof(found)) == 0;
    end = disk_log_walk(bytes, d->log.len, see_record, see_gap, &rec);
    if (!rec.failed) {
        disk_anchors_recover(d);
        report_lost(&rec, &d->index.sessions, "session");
        report_lost(&rec, &d->index.snapshots, "snapshot");
    }
    ok = !rec.failed && announce(d, &d->index.sessions, bytes, err) &&
         announce(d, &d->index.snapshots, bytes, err) && mend(&rec, end, err);
    free(bytes);
    if (ok)
        clear_out(&rec);
    return ok;
}
