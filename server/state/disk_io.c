#include "server/state/disk_io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* openat() is variadic: not the type of the table. */
static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    return openat(dir, path, flags, mode);
}

const struct disk_io disk_io_system = {
    .openat = open_at,
    .close = close,
    .pread = pread,
    .pwrite = pwrite,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .fsync = fsync,
    .syncfs = syncfs,
    .mkdirat = mkdirat,
    .linkat = linkat,
    .renameat = renameat,
    .unlinkat = unlinkat,
};

enum error_code disk_error(void)
{
    return errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? ERR_SPACE : ERR_IO;
}

bool disk_write_all(const struct disk_io *io, int fd, const void *bytes, size_t len, off_t at)
{
    const char *from = bytes;

    while (len) {
        ssize_t n = io->pwrite(fd, from, len, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return false;
        from += n;
        len -= (size_t)n;
        at += n;
    }
    return true;
}

bool disk_read_all(const struct disk_io *io, int fd, void *bytes, size_t len, off_t at)
{
    char *to = bytes;

    while (len) {
        ssize_t n = io->pread(fd, to, len, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            return false;
        to += n;
        len -= (size_t)n;
        at += n;
    }
    return true;
}

bool disk_reserve(const struct disk_io *io, int fd, int mode, off_t at, off_t len)
{
    int rc;

    if (len == 0)
        return true;
    do
        rc = io->fallocate(fd, mode, at, len);
    while (rc < 0 && errno == EINTR);
    return rc == 0 || errno == EOPNOTSUPP || errno == ENOSYS;
}

bool disk_sync_path(const struct disk_io *io, int dir, const char *path)
{
    int fd = io->openat(dir, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0), saved;
    bool ok;

    if (fd < 0)
        return false;
    ok = io->fsync(fd) == 0;
    saved = errno;
    io->close(fd);
    errno = saved;
    return ok;
}
