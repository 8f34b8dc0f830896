/* disk_commit.c - a batch of operations becomes files and records.
 *
 * The order is the promise: files, their names, the log, and only then the files that the
 * log no longer refers to are deleted. DISK_ALWAYS fsyncs each of these before it begins the
 * next, once for the whole batch; DISK_INTERVAL does the same later, in disk_settle(), and
 * until then deletes nothing. So the log tells from there on which of its newest records a
 * power cut may have left without their files, and that no other is. An operation that fails on the
 * way leaves the others alone; its file is deleted like any other, once no durable log can refer to
 * it. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/state/disk_internal.h"
#include "server/state/disk_io.h"
#include "server/state/file_buffer.h"

enum {
    SLACK = 64, /* a part of the room more is made than needed, to look for it rarely */
    DELETED_BYTES = (DISK_HEAD_BYTES + LIMIT_ID_BYTES + 7) / 8 * 8, /* the longest such record */
    KEPT_BYTES = 4096, /* of the log, for what is no deletion */
};

/* One operation on its way. */
struct step {
    struct disk_op *op;
    struct disk_file *written; /* a new file, not yet in a list; NULL: none */
    struct disk_draft draft;
    struct format_marks marks; /* of that file */
    size_t at, len;            /* of its record in the buffer; len 0: none */
};

void disk_report(struct disk *d, const char *fmt, ...)
{
    struct error what;
    va_list args;
    int n;

    if (!d->options.report)
        return;
    n = snprintf(what.message, sizeof(what.message), "%.200s: ", d->options.path);
    va_start(args, fmt);
    vsnprintf(what.message + n, sizeof(what.message) - (size_t)n, fmt, args);
    va_end(args);
    d->options.report(d->options.arg, what.message);
}

static bool is_set(const struct disk_op *op)
{
    return op->record.kind == DISK_SESSION_SET || op->record.kind == DISK_SNAPSHOT_SET;
}

static bool is_deleted(const struct disk_op *op)
{
    return op->record.kind == DISK_SESSION_DELETED || op->record.kind == DISK_SNAPSHOT_DELETED;
}

static bool failed(const struct disk_op *op)
{
    return op->error.code != ERR_NONE;
}

static void check_op(struct disk_op *op)
{
    const struct disk_record *r = &op->record;

    if (r->note_len > DISK_NOTE_BYTES)
        error_set(&op->error, ERR_INPUT, "a note of %zu bytes", r->note_len);
    else if ((is_set(op) || is_deleted(op)) && !r->id.text[0])
        error_set(&op->error, ERR_INPUT, "a record without an id");
    else if (!is_set(op) && !is_deleted(op) && r->kind != DISK_KEEP && r->kind != DISK_RELEASE)
        error_set(&op->error, ERR_INPUT, "no operation has kind %d", (int)r->kind);
    else if (!is_deleted(op) && (r->checkpoint.text[0] || !is_set(op)) &&
             !disk_file_valid(r->checkpoint.text))
        error_set(&op->error, ERR_INPUT, "no file is called '%s'", r->checkpoint.text);
    else if ((op->file || op->encode) &&
             (is_deleted(op) || r->kind == DISK_RELEASE || !r->checkpoint.text[0]))
        error_set(&op->error, ERR_INPUT, "a file that nothing would refer to");
}

/* A new file that cannot be made, or not made durable. */
static void drop_written(struct disk *d, struct step *s)
{
    if (s->written)
        disk_index_forget_file(&d->index, s->written);
    s->written = NULL;
}

/* Anchors make way for what cannot be done without. */
static bool write_bytes(struct disk *d, struct step *s)
{
    struct disk_op *op = s->op;

    while (!disk_draft_write(&d->files, &s->draft, op->record.checkpoint.text, op->file,
                             op->file_len, &op->error)) {
        if (op->error.code != ERR_SPACE || !disk_anchors_yield(d, op->file_len))
            return false;
        disk_settle(d);
        op->error = (struct error){ .code = ERR_NONE };
    }
    return true;
}

static void write_draft(struct disk *d, struct step *s)
{
    struct disk_op *op = s->op;
    const struct id *id = &op->record.checkpoint;
    const struct disk_file *there = id_map_find(&d->index.files, 0, id);

    if (failed(op) || (!op->file && !op->encode))
        return;
    if (there) {
        op->file_len = there->bytes;
        return;
    }
    if (op->encode) {
        op->encode(op);
        if (failed(op))
            return;
    }
    s->written = disk_index_add_file(&d->index, id->text, op->file_len);
    if (!s->written) {
        error_set(&op->error, ERR_NOMEM, "no memory for the name of a state");
        return;
    }
    s->written->checked = true;
    if (!write_bytes(d, s))
        drop_written(d, s);
    else if (op->file_len >= FORMAT_FRONT_BYTES && format_find_marks(op->file, &s->marks))
        s->written->names = (uint8_t)s->marks.anchors;
}

static void sync_folders(struct disk *d, struct step *step, int steps)
{
    bool touched[DISK_FOLDERS] = { false };
    struct error err;

    for (int i = 0; i < steps; i++)
        if (step[i].written)
            touched[disk_folder_of(step[i].written->id)] = true;
    for (unsigned f = 0; f < DISK_FOLDERS; f++) {
        if (!touched[f] || disk_files_sync_folder(&d->files, f, &err))
            continue;
        for (int i = 0; i < steps; i++) {
            if (!step[i].written || disk_folder_of(step[i].written->id) != f)
                continue;
            step[i].op->error = err;
            disk_file_remove(&d->files, step[i].written->id, &err);
            err = step[i].op->error;
            drop_written(d, &step[i]);
        }
    }
}

static void make_dirty(struct disk *d, struct disk_file *file)
{
    if (file->dirty)
        return;
    file->dirty = true;
    file->next_dirty = d->index.dirty;
    d->index.dirty = file;
}

static void write_files(struct disk *d, struct step *step, int steps)
{
    bool always = d->options.mode == DISK_ALWAYS;

    for (int i = 0; i < steps; i++)
        write_draft(d, &step[i]);
    for (int i = 0; i < steps && always; i++)
        if (step[i].written &&
            !disk_draft_sync(&d->files, &step[i].draft, step[i].written->id, &step[i].op->error))
            drop_written(d, &step[i]);
    for (int i = 0; i < steps; i++)
        if (step[i].written &&
            !disk_draft_name(&d->files, &step[i].draft, step[i].written->id, &step[i].op->error))
            drop_written(d, &step[i]);
    if (always)
        sync_folders(d, step, steps);
    if (d->options.mode != DISK_INTERVAL)
        return;
    for (int i = 0; i < steps; i++) {
        struct disk_file *file = step[i].written;

        if (!file)
            continue;
        make_dirty(d, file);
        d->dirty_folder[disk_folder_of(file->id)] = true;
    }
}

/* Bytes that the log needs for each session and snapshot to be deleted, alone and settled. */
static uint64_t deletions(const struct disk *d)
{
    size_t heads = d->index.sessions.count + d->index.snapshots.count,
           each = DELETED_BYTES + (d->options.mode == DISK_INTERVAL ? DISK_HEAD_BYTES : 0);

    return KEPT_BYTES + (uint64_t)heads * each;
}

bool disk_reserve_deletions(struct disk *d)
{
    return disk_log_reserve(&d->log, d->log.len + deletions(d));
}

static bool is_worth(const struct disk *d, uint64_t least)
{
    uint64_t dead = d->log.len - d->index.live_bytes;

    return !d->log.broken && dead >= least && dead >= d->index.live_bytes &&
           d->log.len >= d->compact_from;
}

static bool compact(struct disk *d, uint64_t worth)
{
    struct error err;

    if (disk_compact(d, false, &err))
        return true;
    disk_report(d, "%s; the log stays as it is", err.message);
    d->compact_from = d->log.len + worth;
    return false;
}

/* The new log is written where the old one had reserved space. */
static bool compact_in_place(struct disk *d)
{
    if (!is_worth(d, KEPT_BYTES))
        return false;
    disk_log_give_up_reserve(&d->log);
    if (compact(d, KEPT_BYTES))
        return true;
    disk_reserve_deletions(d);
    return false;
}

/* What counts no more makes way for records, and so do anchors. */
static void make_log_room(struct disk *d, const struct step *step, int steps)
{
    uint64_t more = 0;

    for (int i = 0; i < steps; i++)
        if (!failed(step[i].op) && is_set(step[i].op))
            more += DISK_RECORD_BYTES - DISK_NOTE_BYTES + step[i].op->record.note_len;
    more += deletions(d);
    while (!d->log.broken && !disk_log_reserve(&d->log, d->log.len + more)) {
        if (compact_in_place(d))
            continue;
        if (!disk_anchors_yield(d, more))
            break;
        disk_settle(d);
    }
}

/* The record ends there. */
static bool fits_log(struct disk *d, struct disk_op *op, uint64_t end)
{
    if (!is_set(op) || op->deletes || disk_log_reserve(&d->log, end + deletions(d)))
        return true;
    return error_set(&op->error, ERR_SPACE, "log: %s", strerror(ENOSPC));
}

/* Everything that can fail is done before the log is written. */
static size_t write_record(struct disk *d, struct step *s, size_t used)
{
    struct disk_op *op = s->op;
    struct disk_record *r = &op->record;
    struct disk_file *file = id_map_find(&d->index.files, 0, &r->checkpoint);

    if (failed(op))
        return used;
    if (!is_deleted(op) && r->kind != DISK_RELEASE && r->checkpoint.text[0] && !file) {
        error_set(&op->error, ERR_IO, "state %s is not on the disk", r->checkpoint.text);
        return used;
    }
    if (r->kind == DISK_KEEP)
        op->file_len = file->bytes;
    if (r->kind == DISK_KEEP || r->kind == DISK_RELEASE)
        return used;
    if (is_deleted(op) && !id_map_find(disk_index_map(&d->index, r->kind), r->owner, &r->id))
        return used;
    if (is_set(op) && !disk_index_add_head(&d->index, r->kind, r->owner, &r->id)) {
        error_set(&op->error, ERR_NOMEM, "no memory for the name of a session");
        return used;
    }
    r->bytes = is_set(op) && file ? file->bytes : 0;
    r->anchors = is_set(op) && file ? file->names : 0;
    r->unsettled = d->options.mode == DISK_INTERVAL;
    s->at = used;
    s->len = disk_record_encode(r, d->buffer + used);
    if (!fits_log(d, op, d->log.len + used + s->len))
        s->len = 0;
    return used + s->len;
}

bool disk_sync_log(struct disk *d, struct error *err)
{
    if (!disk_log_sync(&d->log, err))
        return false;
    d->dirty_log = false;
    d->durable_log = d->log.len;
    return true;
}

static void write_log(struct disk *d, struct step *step, int steps)
{
    struct error err;
    size_t used = 0;
    bool ok = true;
    uint64_t at;

    make_log_room(d, step, steps);
    at = d->log.len;
    for (int i = 0; i < steps; i++)
        used = write_record(d, &step[i], used);
    if (used && d->log.broken) {
        ok = error_set(&err, ERR_IO, "log: it could not be replaced");
    } else if (used) {
        ok = disk_log_append(&d->log, d->buffer, used, &err);
        d->dirty_log |= ok;
        if (!ok && !d->log.broken)
            disk_reserve_deletions(d); /* it has been cut off with what was written */
    }
    if (ok && d->dirty_log && !d->log.broken && d->options.mode == DISK_ALWAYS)
        ok = disk_sync_log(d, &err);
    for (int i = 0; i < steps; i++) {
        step[i].at += at;
        if (!ok && step[i].len)
            step[i].op->error = err;
    }
}

static void apply(struct disk *d, const struct step *s)
{
    struct disk_record *r = &s->op->record;
    struct disk_file *file = id_map_find(&d->index.files, 0, &r->checkpoint);
    struct disk_head *head;

    if (r->kind == DISK_RELEASE && !file)
        return; /* its file was damaged, or is gone */
    if (r->kind == DISK_RELEASE) {
        if (!file->kept)
            error_set(&s->op->error, ERR_INPUT, "state %s is not kept", r->checkpoint.text);
        disk_index_keep(&d->index, file, false);
        return;
    }
    if (r->kind == DISK_KEEP || (s->op->keep && file))
        disk_index_keep(&d->index, file, true);
    if (!s->len)
        return;
    head = id_map_find(disk_index_map(&d->index, r->kind), r->owner, &r->id);
    if (is_set(s->op) && file)
        disk_anchors_hold(d, file, s->written ? (char *)s->op->file + s->marks.at : NULL,
                          s->marks.len);
    if (is_set(s->op))
        disk_index_set(&d->index, head, file, s->at, s->len);
    else
        disk_index_clear(&d->index, head);
}

static void remove_doomed(struct disk *d)
{
    struct disk_file *file;
    struct error err;

    if (d->options.mode != DISK_NONE && (d->dirty_log || d->log.broken))
        return;
    while ((file = d->index.doomed)) {
        d->index.doomed = file->next_doomed;
        file->doomed = false;
        if (file->heads || file->kept || file->lists)
            continue;
        if (!disk_file_remove(&d->files, file->id, &err))
            disk_report(d, "%s; it is removed at the next start", err.message);
        disk_index_forget_file(&d->index, file);
    }
}

/* What is only there to go back to it gets what the others leave of the room. */
static void tidy(struct disk *d)
{
    const uint64_t most = d->options.max_file_bytes;

    remove_doomed(d);
    if (most && d->index.file_bytes > most && !d->index.doomed &&
        disk_anchors_yield(d, d->index.file_bytes - most + most / SLACK))
        remove_doomed(d);
}

static bool copy_records(struct disk *d, struct disk_log_draft *draft, struct id_map *m,
                         struct error *err)
{
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(m, &i)); i++) {
        const struct disk_head *head = e->value;

        if (!head->len)
            continue;
        if (!disk_log_read(&d->log, head->at, head->len, d->buffer, err)) {
            disk_log_draft_drop(draft);
            return false;
        }
        if (!disk_log_draft_add(draft, d->buffer, head->len, err))
            return false;
    }
    return true;
}

/* What a failed fsync lost is not written by the next one: the bytes go to the disk anew. */
static bool write_again(struct disk *d, struct disk_file *file, struct error *err)
{
    struct file_buffer buffer = { 0 };
    struct disk_draft draft;
    bool ok = disk_file_read(&d->files, file->id, &buffer, err) &&
              disk_draft_write(&d->files, &draft, file->id, buffer.bytes, buffer.len, err) &&
              disk_draft_sync(&d->files, &draft, file->id, err) &&
              disk_draft_name(&d->files, &draft, file->id, err);

    file_buffer_finish(&buffer);
    d->dirty_folder[disk_folder_of(file->id)] = true;
    return ok;
}

static bool settle_file(struct disk *d, struct disk_file *file, struct error *err)
{
    if (file->unsure ? write_again(d, file, err) : disk_file_sync(&d->files, file->id, err)) {
        file->unsure = false;
        return true;
    }
    file->unsure = true;
    return false;
}

/* false: some could not be made durable. They stay what they are to the next time; until then
 * nothing is deleted that they take the place of. */
static bool settle_files(struct disk *d)
{
    struct disk_file *file = d->index.dirty;
    struct error err;
    bool ok = true;

    d->index.dirty = NULL;
    for (struct disk_file *next; file; file = next) {
        next = file->next_dirty;
        file->dirty = false;
        if (settle_file(d, file, &err))
            continue;
        make_dirty(d, file);
        ok = false;
    }
    for (unsigned f = 0; f < DISK_FOLDERS; f++)
        if (d->dirty_folder[f])
            d->dirty_folder[f] = !disk_files_sync_folder(&d->files, f, &err);
    for (unsigned f = 0; f < DISK_FOLDERS; f++)
        ok &= !d->dirty_folder[f];
    if (!ok && !d->doubtful)
        disk_report(d, "%s; a power cut may take what is newer than this", err.message);
    d->doubtful = !ok;
    return ok;
}

/* Where copy_records() has put them, from `at` on. Returns where the last one ends. */
static uint64_t move_heads(struct id_map *m, uint64_t at)
{
    struct id_entry *e;

    for (size_t i = 0; (e = id_map_walk(m, &i)); i++) {
        struct disk_head *head = e->value;

        head->at = at;
        at += head->len;
    }
    return at;
}

bool disk_mark_settled(struct disk *d, struct error *err)
{
    const struct disk_record r = { .kind = DISK_SETTLED, .bytes = d->durable_log };

    if (d->settled_log == d->log.len)
        return true;
    d->dirty_log = true;
    if (!disk_log_append(&d->log, d->buffer, disk_record_encode(&r, d->buffer), err))
        return false;
    d->settled_log = d->log.len;
    return true;
}

/* The new log is durable as a whole before it is the log. */
static bool mark_draft(struct disk *d, struct disk_log_draft *draft, struct error *err)
{
    const struct disk_record r = { .kind = DISK_SETTLED, .bytes = draft->len };

    return disk_log_draft_add(draft, d->buffer, disk_record_encode(&r, d->buffer), err);
}

bool disk_compact(struct disk *d, bool keep_old, struct error *err)
{
    bool sync = d->options.mode != DISK_NONE, replaced, ok;
    struct disk_log_draft draft;
    uint64_t first;

    if (!settle_files(d)) /* the new log has no older records to go back to */
        return error_set(err, ERR_IO, "log: states before it could not be made durable");
    if (!disk_log_draft_open(&draft, &d->log, err))
        return false;
    first = draft.len;
    if (!copy_records(d, &draft, &d->index.sessions, err) ||
        !copy_records(d, &draft, &d->index.snapshots, err) || !mark_draft(d, &draft, err))
        return false;
    ok = disk_log_draft_replace(&draft, &d->log, sync, keep_old, &replaced, err);
    if (!replaced)
        return false;
    move_heads(&d->index.snapshots, move_heads(&d->index.sessions, first));
    d->counts.compactions++;
    d->compact_from = 0;
    d->settled_log = d->log.len;
    d->dirty_log = !ok;
    d->durable_log = ok ? d->log.len : 0;
    disk_reserve_deletions(d);
    return ok;
}

static void compact_if_worth(struct disk *d)
{
    if (is_worth(d, d->options.compact_bytes))
        compact(d, d->options.compact_bytes);
}

/* Without a log nothing happens but what needs none. */
static void fail_all(struct disk_op *batch, const struct error *err)
{
    for (struct disk_op *op = batch; op; op = op->next)
        if (op->record.kind != DISK_KEEP && op->record.kind != DISK_RELEASE)
            op->error = *err;
}

static void run(struct disk *d, struct step *step, int steps)
{
    for (int i = 0; i < steps; i++)
        if (!failed(step[i].op))
            check_op(step[i].op);
    write_files(d, step, steps);
    write_log(d, step, steps);
    for (int i = 0; i < steps; i++)
        if (!failed(step[i].op))
            apply(d, &step[i]);
    for (int i = 0; i < steps; i++) {
        const struct disk_record *r = &step[i].op->record;
        struct disk_file *file = step[i].written;

        if (file)
            disk_index_doom(&d->index, file); /* unless its operation was done */
        if (r->kind != DISK_KEEP && r->kind != DISK_RELEASE)
            disk_index_prune(&d->index, r->kind, r->owner, &r->id);
    }
}

void disk_commit(struct disk *d, struct disk_op *batch)
{
    struct step step[DISK_BATCH];
    struct error err;
    int steps = 0;

    for (struct disk_op *op = batch; op; op = op->next) {
        op->error = (struct error){ .code = ERR_NONE };
        step[steps++] = (struct step){ .op = op };
    }
    d->counts.commits++;
    d->counts.ops += (uint64_t)steps;
    if (d->log.broken && !disk_compact(d, false, &err))
        fail_all(batch, &err);
    run(d, step, steps);
    if (d->options.mode != DISK_INTERVAL)
        tidy(d);
    compact_if_worth(d);
    for (struct disk_op *op = batch; op; op = op->next) {
        d->counts.failed += failed(op);
        if (!op->encode)
            free(op->file);
        op->file = NULL;
    }
}

void disk_settle(struct disk *d)
{
    bool settled = true;
    struct error err;

    if (d->options.mode != DISK_NONE) {
        settled = settle_files(d);
        if (d->options.mode == DISK_INTERVAL && settled && !d->log.broken)
            settled = disk_mark_settled(d, &err);
        if (d->dirty_log && !d->log.broken)
            disk_sync_log(d, &err);
        if (d->log.broken && !(settled = disk_compact(d, false, &err)))
            disk_report(d, "%s; the newest operations may not survive a power cut", err.message);
    }
    if (settled)
        tidy(d);
}
