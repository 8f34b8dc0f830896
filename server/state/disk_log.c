#include "server/state/disk_log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/error.h"
#include "server/state/disk_io.h"

enum {
    VERSION = 1,
    RESERVE_BYTES = 1024 * 1024, /* more than is needed, where there is plenty */
    RESERVE_LESS = 16 * 1024,
    BUFFER_BYTES = 1024 * 1024,
    OPEN_FLAGS = O_RDWR | O_NOFOLLOW | O_CLOEXEC,
};

static const char name[] = "log", draft_name[] = "log.new", kept_name[] = "log.corrupt";

struct header {
    char magic[8];
    uint32_t version, zero;
};

static const struct header first = { .magic = { 'E', 'D', 'D', 'Y', 'H', 'E', 'A', 'D' },
                                     .version = VERSION };

_Static_assert(sizeof(struct header) == DISK_LOG_BEGIN, "no padding");

static bool failed(struct error *err)
{
    return error_set(err, disk_error(), "log: %s", strerror(errno));
}

static bool load(struct disk_log *log, unsigned char **out, struct error *err)
{
    unsigned char *bytes;
    struct header h;
    struct stat st;

    if (fstat(log->fd, &st) < 0)
        return failed(err);
    if (!S_ISREG(st.st_mode) || st.st_size < DISK_LOG_BEGIN)
        return error_set(err, ERR_FORMAT, "log: not a log of sessions: it has %lld bytes",
                         (long long)st.st_size);
    bytes = malloc((size_t)st.st_size);
    if (!bytes)
        return error_set(err, ERR_NOMEM, "no memory for the log's %lld bytes",
                         (long long)st.st_size);
    if (!disk_read_all(log->io, log->fd, bytes, (size_t)st.st_size, 0)) {
        free(bytes);
        return failed(err);
    }
    memcpy(&h, bytes, sizeof(h));
    if (memcmp(&h, &first, sizeof(h)) != 0) {
        free(bytes);
        return error_set(err, ERR_FORMAT, "log: not a log of sessions that this server reads");
    }
    log->len = log->reserved = (uint64_t)st.st_size;
    *out = bytes;
    return true;
}

static bool make_empty(struct disk_log *log, struct error *err)
{
    struct disk_log_draft d;
    bool replaced;

    if (!disk_log_draft_open(&d, log, err))
        return false;
    return disk_log_draft_replace(&d, log, true, false, &replaced, err);
}

bool disk_log_open(struct disk_log *log, const struct disk_io *io, int dir, bool fresh,
                   unsigned char **bytes, struct error *err)
{
    *log = (struct disk_log){ .io = io, .dir = dir, .fd = -1 };
    if (io->unlinkat(dir, draft_name, 0) < 0 && errno != ENOENT)
        return failed(err);
    log->fd = io->openat(dir, name, OPEN_FLAGS, 0);
    if (log->fd < 0 && (errno != ENOENT || !fresh))
        return failed(err);
    if ((log->fd < 0 && !make_empty(log, err)) || !load(log, bytes, err)) {
        disk_log_close(log);
        return false;
    }
    return true;
}

void disk_log_close(struct disk_log *log)
{
    if (log->fd >= 0)
        log->io->close(log->fd);
    log->fd = -1;
}

/* A record that is longer than what there is, or no more than zeros, was on its way. */
static bool is_torn(const unsigned char *bytes, uint64_t len)
{
    uint32_t says = 0;

    for (uint64_t i = 0; i < len; i++) {
        if (bytes[i] != 0)
            break;
        if (i + 1 == len)
            return true;
    }
    if (len >= 8)
        memcpy(&says, bytes + 4, sizeof(says));
    return len < 8 || says > len;
}

uint64_t disk_log_walk(const unsigned char *bytes, uint64_t len,
                       bool (*record)(void *arg, const struct disk_record *r, uint64_t at,
                                      size_t len),
                       bool (*gap)(void *arg, const struct disk_gap *gap), void *arg)
{
    uint64_t at = DISK_LOG_BEGIN, end = DISK_LOG_BEGIN;
    struct disk_record r;

    while (at + 8 <= len) {
        size_t n = disk_record_decode(bytes + at, len - at, &r);

        if (!n) { /* records are aligned: the next one is at one of these places */
            at += 8;
            continue;
        }
        if (at > end && !gap(arg, &(struct disk_gap){ .at = end, .len = at - end }))
            return 0;
        if (!record(arg, &r, at, n))
            return 0;
        at += n;
        end = at;
    }
    if (end < len &&
        !gap(arg, &(struct disk_gap){
                      .at = end, .len = len - end, .torn = is_torn(bytes + end, len - end) }))
        return 0;
    return end;
}

bool disk_log_reserve(struct disk_log *log, uint64_t end)
{
    static const uint64_t more[] = { RESERVE_BYTES, RESERVE_LESS, 0 };

    for (size_t i = 0; i < sizeof(more) / sizeof(more[0]) && end > log->reserved; i++) {
        uint64_t goal = end + more[i];

        if (disk_reserve(log->io, log->fd, FALLOC_FL_KEEP_SIZE, (off_t)log->len,
                         (off_t)(goal - log->len)))
            log->reserved = goal;
        else if (disk_error() != ERR_SPACE)
            return true;
    }
    return end <= log->reserved;
}

bool disk_log_give_up_reserve(struct disk_log *log)
{
    log->reserved = log->len;
    return log->io->ftruncate(log->fd, (off_t)log->len) == 0;
}

bool disk_log_append(struct disk_log *log, const void *bytes, size_t len, struct error *err)
{
    assert(!log->broken);
    if (!disk_write_all(log->io, log->fd, bytes, len, (off_t)log->len)) {
        failed(err);
        log->reserved = 0;
        log->broken = log->io->ftruncate(log->fd, (off_t)log->len) < 0;
        return false;
    }
    log->len += len;
    return true;
}

bool disk_log_sync(struct disk_log *log, struct error *err)
{
    if (log->io->fsync(log->fd) == 0)
        return true;
    log->broken = true;
    return failed(err);
}

bool disk_log_cut(struct disk_log *log, uint64_t len, struct error *err)
{
    if (log->io->ftruncate(log->fd, (off_t)len) < 0)
        return failed(err);
    log->len = len;
    log->reserved = 0;
    return disk_log_sync(log, err);
}

bool disk_log_read(const struct disk_log *log, uint64_t at, size_t len, unsigned char *out,
                   struct error *err)
{
    if (!disk_read_all(log->io, log->fd, out, len, (off_t)at))
        return failed(err);
    return disk_record_decode(out, len, NULL) == len ||
           error_set(err, ERR_IO, "log: the record at %llu is damaged", (unsigned long long)at);
}

bool disk_log_draft_open(struct disk_log_draft *d, const struct disk_log *old, struct error *err)
{
    *d = (struct disk_log_draft){ .old = old, .fd = -1, .len = DISK_LOG_BEGIN };
    if (old->io->unlinkat(old->dir, draft_name, 0) < 0 && errno != ENOENT)
        return failed(err);
    d->buffer = malloc(BUFFER_BYTES);
    if (!d->buffer)
        return error_set(err, ERR_NOMEM, "no memory for a new log");
    d->fd = old->io->openat(old->dir, draft_name, OPEN_FLAGS | O_CREAT | O_EXCL, 0600);
    if (d->fd < 0) {
        failed(err);
        disk_log_draft_drop(d);
        return false;
    }
    memcpy(d->buffer, &first, DISK_LOG_BEGIN);
    d->used = DISK_LOG_BEGIN;
    return true;
}

static bool flush(struct disk_log_draft *d, struct error *err)
{
    if (!disk_write_all(d->old->io, d->fd, d->buffer, d->used, (off_t)(d->len - d->used))) {
        failed(err);
        disk_log_draft_drop(d);
        return false;
    }
    d->used = 0;
    return true;
}

bool disk_log_draft_add(struct disk_log_draft *d, const unsigned char *record, size_t len,
                        struct error *err)
{
    if (d->used + len > BUFFER_BYTES && !flush(d, err))
        return false;
    memcpy(d->buffer + d->used, record, len);
    d->used += len;
    d->len += len;
    return true;
}

static bool keep_old(const struct disk_log *log)
{
    const struct disk_io *io = log->io;

    return (io->unlinkat(log->dir, kept_name, 0) == 0 || errno == ENOENT) &&
           io->linkat(log->dir, name, log->dir, kept_name, 0) == 0;
}

bool disk_log_draft_replace(struct disk_log_draft *d, struct disk_log *log, bool sync, bool keep,
                            bool *replaced, struct error *err)
{
    const struct disk_io *io = log->io;

    *replaced = false;
    if (!flush(d, err))
        return false;
    if ((sync && io->fsync(d->fd) < 0) || (keep && !keep_old(log)) ||
        io->renameat(log->dir, draft_name, log->dir, name) < 0) {
        failed(err);
        disk_log_draft_drop(d);
        return false;
    }
    disk_log_close(log);
    log->fd = d->fd;
    log->len = d->len;
    log->reserved = 0;
    log->broken = false;
    free(d->buffer);
    *replaced = true;
    if (sync && io->fsync(log->dir) < 0) {
        log->broken = true; /* a crash may still bring the old one back */
        return failed(err);
    }
    return true;
}

void disk_log_draft_drop(struct disk_log_draft *d)
{
    if (d->fd >= 0) {
        d->old->io->close(d->fd);
        d->old->io->unlinkat(d->old->dir, draft_name, 0);
    }
    d->fd = -1;
    free(d->buffer);
    d->buffer = NULL;
}
