#include "server/state/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/state/disk_internal.h"
#include "server/state/disk_io.h"

enum { COMPACT_BYTES = 1024 * 1024 };

struct disk_op *disk_op_create(enum disk_kind kind, void *owner)
{
    struct disk_op *op = calloc(1, sizeof(*op));

    if (!op)
        return NULL;
    op->record.kind = kind;
    op->owner = owner;
    return op;
}

void disk_op_free(struct disk_op *op)
{
    if (!op)
        return;
    free(op->record.note);
    if (!op->encode)
        free(op->file);
    free(op);
}

/* The lock is the file's, not the process's: it goes with the descriptor, after every kind
 * of death. */
static bool open_folder(struct disk *d, struct error *err)
{
    const char *path = d->options.path;
    bool made = mkdir(path, 0700) == 0;

    if (!made && errno != EEXIST)
        return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    d->dir = d->io->openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (d->dir < 0)
        return error_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    if (made && !disk_sync_path(d->io, d->dir, ".."))
        return error_set(err, ERR_IO, "%s/..: %s", path, strerror(errno));
    d->lock = d->io->openat(d->dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (d->lock < 0)
        return error_set(err, ERR_IO, "%s/lock: %s", path, strerror(errno));
    if (flock(d->lock, LOCK_EX | LOCK_NB) < 0)
        return error_set(err, ERR_IO, "%s: %s", path,
                         errno == EWOULDBLOCK ? "another server uses this folder"
                                              : strerror(errno));
    return true;
}

/* Under the mutex. */
static struct disk_counts count(const struct disk *d)
{
    struct disk_counts c = d->counts;

    c.sessions = d->index.sessions.count;
    c.snapshots = d->index.snapshots.count;
    c.files = d->index.files.count;
    c.log_bytes = d->log.len;
    c.live_bytes = d->index.live_bytes;
    c.anchors = d->index.anchors;
    c.anchor_bytes = d->index.anchor_bytes;
    return c;
}

static bool puts_off(const struct disk *d)
{
    return d->options.mode == DISK_INTERVAL &&
           (d->dirty_log || d->log.broken || d->index.dirty || d->index.doomed);
}

/* Under the mutex. The first operations of the queue, NULL when it is time to settle or to
 * stop. */
static struct disk_op *take_batch(struct disk *d)
{
    struct disk_op *batch, **end = &d->queue;
    double whole = d->settle_by;
    struct timespec until = { .tv_sec = (time_t)whole };

    until.tv_nsec = (long)((whole - (double)until.tv_sec) * 1e9);
    while (!d->queue && !d->stopping) {
        if (!d->settle_by)
            pthread_cond_wait(&d->arrived, &d->mutex);
        else if (pthread_cond_timedwait(&d->arrived, &d->mutex, &until) != 0)
            break;
    }
    for (int n = 0; n < DISK_BATCH && *end; n++)
        end = &(*end)->next;
    batch = d->queue;
    if (!batch)
        return NULL;
    d->queue = *end;
    if (!d->queue)
        d->queue_end = &d->queue;
    *end = NULL;
    return batch;
}

/* Under the mutex. */
static void give_back(struct disk *d, struct disk_op *batch)
{
    *d->done_end = batch;
    while (*d->done_end) {
        d->queued_bytes -= (*d->done_end)->queued;
        d->done_end = &(*d->done_end)->next;
    }
}

static void work(struct disk *d, struct disk_op *batch)
{
    if (batch)
        disk_commit(d, batch);
    if (d->settle_by && clock_seconds() >= d->settle_by) {
        disk_settle(d);
        d->settle_by = 0;
    }
    if (!d->settle_by && puts_off(d))
        d->settle_by = clock_seconds() + d->options.interval_ms * 1e-3;
}

static void *run_thread(void *arg)
{
    struct disk *d = arg;
    struct disk_op *batch;
    bool over = false;

    pthread_mutex_lock(&d->mutex);
    while (!over) {
        batch = take_batch(d);
        over = !batch && d->stopping;
        d->busy = true;
        pthread_mutex_unlock(&d->mutex);
        if (over)
            disk_settle(d);
        else
            work(d, batch);
        pthread_mutex_lock(&d->mutex);
        d->busy = false;
        give_back(d, batch);
        d->published = count(d);
        pthread_cond_broadcast(&d->finished);
        if (!batch || !d->options.wake)
            continue;
        pthread_mutex_unlock(&d->mutex);
        d->options.wake(d->options.arg);
        pthread_mutex_lock(&d->mutex);
    }
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

static struct disk *create(const struct disk_options *options)
{
    struct disk *d = calloc(1, sizeof(*d));
    pthread_condattr_t monotonic;

    if (!d)
        return NULL;
    d->options = *options;
    if (!d->options.compact_bytes)
        d->options.compact_bytes = COMPACT_BYTES;
    d->io = options->io ? options->io : &disk_io_system;
    d->dir = d->lock = d->log.fd = d->files.root = -1;
    d->files.io = d->log.io = d->io;
    d->queue_end = &d->queue;
    d->done_end = &d->done;
    disk_index_init(&d->index);
    pthread_mutex_init(&d->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->arrived, &monotonic);
    pthread_cond_init(&d->finished, &monotonic);
    pthread_condattr_destroy(&monotonic);
    d->buffer = malloc((size_t)DISK_BATCH * DISK_RECORD_BYTES);
    if (!d->buffer) {
        disk_close(d);
        return NULL;
    }
    return d;
}

struct disk *disk_open(const struct disk_options *options, struct error *err)
{
    struct disk *d = create(options);

    if (!d) {
        error_set(err, ERR_NOMEM, "no memory for the state folder");
        return NULL;
    }
    if (!open_folder(d, err))
        goto fail;
    if (!disk_files_open(&d->files, d->io, d->dir, err) || !disk_recover(d, err)) {
        const struct error why = *err;

        error_set(err, why.code, "%s: %.400s", options->path, why.message);
        goto fail;
    }
    d->published = count(d);
    d->started = pthread_create(&d->thread, NULL, run_thread, d) == 0;
    if (!d->started) {
        error_set(err, ERR_NOMEM, "no thread for the state folder");
        goto fail;
    }
    return d;

fail:
    disk_close(d);
    return NULL;
}

static void free_ops(struct disk_op *op)
{
    for (struct disk_op *next; op; op = next) {
        next = op->next;
        disk_op_free(op);
    }
}

/* Accepts every half-opened state. */
void disk_close(struct disk *d)
{
    if (!d)
        return;
    if (d->started) {
        pthread_mutex_lock(&d->mutex);
        d->stopping = true;
        pthread_cond_signal(&d->arrived);
        pthread_mutex_unlock(&d->mutex);
        pthread_join(d->thread, NULL);
        disk_mark_closed(d);
    }
    free_ops(d->done);
    disk_log_close(&d->log);
    disk_files_close(&d->files);
    if (d->lock >= 0)
        d->io->close(d->lock);
    if (d->dir >= 0)
        d->io->close(d->dir);
    disk_index_finish(&d->index);
    pthread_cond_destroy(&d->finished);
    pthread_cond_destroy(&d->arrived);
    pthread_mutex_destroy(&d->mutex);
    free(d->buffer);
    free(d);
}

bool disk_submit(struct disk *d, struct disk_op *op)
{
    bool room;

    pthread_mutex_lock(&d->mutex);
    room = d->waiting < d->options.max_ops &&
           (!d->queued_bytes || d->queued_bytes + op->file_len <= d->options.max_bytes);
    if (room) {
        op->next = NULL;
        *d->queue_end = op;
        d->queue_end = &op->next;
        d->waiting++;
        d->queued_bytes += op->queued = op->file_len;
        pthread_cond_signal(&d->arrived);
    }
    pthread_mutex_unlock(&d->mutex);
    return room;
}

struct disk_op *disk_receive(struct disk *d)
{
    struct disk_op *op;

    pthread_mutex_lock(&d->mutex);
    op = d->done;
    if (op) {
        d->done = op->next;
        if (!d->done)
            d->done_end = &d->done;
        op->next = NULL;
        d->waiting--;
    }
    pthread_mutex_unlock(&d->mutex);
    return op;
}

void disk_wait(struct disk *d)
{
    pthread_mutex_lock(&d->mutex);
    while (d->queue || d->busy)
        pthread_cond_wait(&d->finished, &d->mutex);
    pthread_mutex_unlock(&d->mutex);
}

bool disk_read(struct disk *d, const struct id *checkpoint, struct file_buffer *out,
               struct error *err)
{
    if (!disk_file_valid(checkpoint->text))
        return error_set(err, ERR_IO, "no file is called '%s'", checkpoint->text);
    return disk_file_read(&d->files, checkpoint->text, out, err);
}

bool disk_set_aside(struct disk *d, const struct id *checkpoint, struct error *err)
{
    return disk_file_set_aside(&d->files, checkpoint->text, ".corrupt", err);
}

struct disk_counts disk_counts(struct disk *d)
{
    struct disk_counts c;

    pthread_mutex_lock(&d->mutex);
    c = d->published;
    c.waiting = d->waiting;
    pthread_mutex_unlock(&d->mutex);
    return c;
}
