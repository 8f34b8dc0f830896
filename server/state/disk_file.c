#include "server/state/disk_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "config/error.h"
#include "server/state/disk_io.h"
#include "server/state/file_buffer.h"
#include "server/state/id.h"

/* Where format.h keeps the file's length. */
enum { PATH_BYTES = LIMIT_ID_BYTES + 24, LENGTH_AT = 16, LENGTH_END = 24 };

static const char magic[8] = "EDDYSTAT", temporary[] = ".tmp.";

unsigned disk_folder_of(const char *id)
{
    return (unsigned)(XXH3_64bits(id, strlen(id)) % DISK_FOLDERS);
}

static void path_of(char path[PATH_BYTES], const char *id, const char *suffix)
{
    snprintf(path, PATH_BYTES, "%02x/%s%s", disk_folder_of(id), id, suffix);
}

/* A dot begins the suffix of what was set aside. */
bool disk_file_valid(const char *id)
{
    return id[0] && !strpbrk(id, "./");
}

static bool make_folder(const struct disk_io *io, int dir, const char *name, bool *made)
{
    if (io->mkdirat(dir, name, 0700) == 0)
        *made = true;
    else if (errno != EEXIST)
        return false;
    return true;
}

bool disk_files_open(struct disk_files *f, const struct disk_io *io, int dir, struct error *err)
{
    bool made = false;
    char name[8];

    *f = (struct disk_files){ .io = io, .root = -1 };
    if (!make_folder(io, dir, "states", &made))
        goto fail;
    f->root = io->openat(dir, "states", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (f->root < 0)
        goto fail;
    for (unsigned i = 0; i < DISK_FOLDERS; i++) {
        snprintf(name, sizeof(name), "%02x", i);
        if (!make_folder(io, f->root, name, &made))
            goto fail;
    }
    if (made && (io->fsync(f->root) < 0 || io->fsync(dir) < 0))
        goto fail;
    return true;

fail:
    error_set(err, disk_error(), "states: %s", strerror(errno));
    disk_files_close(f);
    return false;
}

void disk_files_close(struct disk_files *f)
{
    if (f->root >= 0)
        f->io->close(f->root);
    f->root = -1;
}

static bool list_folder(const struct disk_files *f, DIR *folder,
                        bool (*seen)(void *arg, const char *id), void *arg, struct error *err)
{
    struct dirent *e;
    struct id id;

    while (errno = 0, (e = readdir(folder))) {
        if (strncmp(e->d_name, temporary, strlen(temporary)) == 0) {
            if (f->io->unlinkat(dirfd(folder), e->d_name, 0) < 0)
                return error_set(err, disk_error(), "states: %s: %s", e->d_name, strerror(errno));
        } else if (id_parse(&id, e->d_name) && disk_file_valid(id.text)) {
            if (!seen(arg, id.text))
                return error_set(err, ERR_NOMEM, "no memory for the list of states");
        }
    }
    return errno == 0 || error_set(err, disk_error(), "states: %s", strerror(errno));
}

bool disk_files_list(const struct disk_files *f, bool (*seen)(void *arg, const char *id), void *arg,
                     struct error *err)
{
    for (unsigned i = 0; i < DISK_FOLDERS; i++) {
        char name[8];
        DIR *folder;
        bool ok;
        int fd;

        snprintf(name, sizeof(name), "%02x", i);
        fd = f->io->openat(f->root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
        folder = fd < 0 ? NULL : fdopendir(fd);
        if (!folder) {
            error_set(err, disk_error(), "states/%s: %s", name, strerror(errno));
            if (fd >= 0)
                f->io->close(fd);
            return false;
        }
        ok = list_folder(f, folder, seen, arg, err);
        closedir(folder);
        if (!ok)
            return false;
    }
    return true;
}

static bool draft_failed(struct disk_files *f, struct disk_draft *d, const char *id,
                         struct error *err)
{
    error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
    if (d->fd >= 0)
        f->io->close(d->fd);
    d->fd = -1;
    f->io->unlinkat(f->root, d->name, 0);
    return false;
}

bool disk_draft_write(struct disk_files *f, struct disk_draft *d, const char *id, const void *bytes,
                      size_t len, struct error *err)
{
    snprintf(d->name, sizeof(d->name), "%02x/%s%llu", disk_folder_of(id), temporary,
             (unsigned long long)++f->drafts);
    d->fd =
        f->io->openat(f->root, d->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (d->fd < 0)
        return error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
    if (!disk_reserve(f->io, d->fd, 0, 0, (off_t)len) ||
        !disk_write_all(f->io, d->fd, bytes, len, 0))
        return draft_failed(f, d, id, err);
    return true;
}

bool disk_draft_sync(struct disk_files *f, struct disk_draft *d, const char *id, struct error *err)
{
    return f->io->fsync(d->fd) == 0 || draft_failed(f, d, id, err);
}

bool disk_draft_name(struct disk_files *f, struct disk_draft *d, const char *id, struct error *err)
{
    char path[PATH_BYTES];
    int fd = d->fd;

    path_of(path, id, "");
    d->fd = -1; /* closed even when close() fails */
    if (f->io->close(fd) < 0 || f->io->renameat(f->root, d->name, f->root, path) < 0)
        return draft_failed(f, d, id, err);
    return true;
}

bool disk_files_sync_folder(const struct disk_files *f, unsigned folder, struct error *err)
{
    char name[8];

    snprintf(name, sizeof(name), "%02x", folder);
    return disk_sync_path(f->io, f->root, name) ||
           error_set(err, disk_error(), "states/%s: %s", name, strerror(errno));
}

bool disk_file_sync(const struct disk_files *f, const char *id, struct error *err)
{
    char path[PATH_BYTES];

    path_of(path, id, "");
    return disk_sync_path(f->io, f->root, path) ||
           error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
}

bool disk_file_remove(const struct disk_files *f, const char *id, struct error *err)
{
    char path[PATH_BYTES];

    path_of(path, id, "");
    return f->io->unlinkat(f->root, path, 0) == 0 || errno == ENOENT ||
           error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
}

bool disk_file_set_aside(const struct disk_files *f, const char *id, const char *suffix,
                         struct error *err)
{
    char path[PATH_BYTES], aside[PATH_BYTES];

    path_of(path, id, "");
    path_of(aside, id, suffix);
    return f->io->renameat(f->root, path, f->root, aside) == 0 ||
           error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
}

/* Opens a file and proves its front. -1: not there, or not a checkpoint. */
static int open_checked(const struct disk_files *f, const char *id, struct disk_front *out,
                        struct error *err)
{
    unsigned char front[FORMAT_FRONT_BYTES] = { 0 };
    char path[PATH_BYTES];
    struct stat st;
    size_t len;
    int fd;

    path_of(path, id, "");
    *out = (struct disk_front){ 0 };
    fd = f->io->openat(f->root, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0);
    if (fd < 0 || fstat(fd, &st) < 0) {
        error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode) || st.st_size < LENGTH_END) {
        error_set(err, ERR_FORMAT, "state %s: cut short", id);
        goto fail;
    }
    len = st.st_size < FORMAT_FRONT_BYTES ? (size_t)st.st_size : FORMAT_FRONT_BYTES;
    if (!disk_read_all(f->io, fd, front, len, 0)) {
        error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
        goto fail;
    }
    memcpy(&out->bytes, front + LENGTH_AT, sizeof(out->bytes));
    if (memcmp(front, magic, sizeof(magic)) != 0 || out->bytes != (uint64_t)st.st_size) {
        error_set(err, ERR_FORMAT, "state %s: not a checkpoint of its %lld bytes", id,
                  (long long)st.st_size);
        goto fail;
    }
    if (len < FORMAT_FRONT_BYTES || !format_find_marks(front, &out->marks))
        out->marks.anchors = 0;
    return fd;

fail:
    if (fd >= 0)
        f->io->close(fd);
    return -1;
}

bool disk_file_look(const struct disk_files *f, const char *id, struct disk_front *front,
                    struct error *err)
{
    int fd = open_checked(f, id, front, err);

    if (fd < 0)
        return false;
    f->io->close(fd);
    return true;
}

bool disk_file_read_marks(const struct disk_files *f, const char *id, struct format_marks *marks,
                          void **bytes, struct error *err)
{
    struct disk_front front;
    int fd = open_checked(f, id, &front, err);

    if (fd < 0)
        return false;
    *marks = front.marks;
    *bytes = malloc(marks->len + 1);
    if (!*bytes) {
        error_set(err, ERR_NOMEM, "no memory for the marks of state %s", id);
    } else if (!disk_read_all(f->io, fd, *bytes, marks->len, (off_t)marks->at)) {
        error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
        free(*bytes);
        *bytes = NULL;
    }
    f->io->close(fd);
    return *bytes != NULL;
}

bool disk_file_read(const struct disk_files *f, const char *id, struct file_buffer *out,
                    struct error *err)
{
    struct disk_front front;
    uint64_t size;
    int fd = open_checked(f, id, &front, err);
    bool ok;

    if (fd < 0)
        return false;
    size = front.bytes;
    ok = file_buffer_begin(out, size, err);
    if (ok && !disk_read_all(f->io, fd, out->bytes, size, 0))
        ok = error_set(err, disk_error(), "state %s: %s", id, strerror(errno));
    f->io->close(fd);
    return ok;
}
