/* disk_io.h - the system calls that the durable tier stands on.
 *
 * Everything that can lose data goes through one table, so that the tests can let any call
 * fail and can play a power cut. The functions mean what the calls of the same name mean:
 * -1 and errno. Any thread. */
#ifndef SERVER_STATE_DISK_IO_H
#define SERVER_STATE_DISK_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "config/error.h"

struct disk_io {
    int (*openat)(int dir, const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *bytes, size_t len, off_t at);
    ssize_t (*pwrite)(int fd, const void *bytes, size_t len, off_t at);
    int (*fallocate)(int fd, int mode, off_t at, off_t len);
    int (*ftruncate)(int fd, off_t len);
    int (*fsync)(int fd);
    int (*syncfs)(int fd);
    int (*mkdirat)(int dir, const char *path, mode_t mode);
    int (*linkat)(int dir, const char *path, int new_dir, const char *new_path, int flags);
    int (*renameat)(int dir, const char *path, int new_dir, const char *new_path);
    int (*unlinkat)(int dir, const char *path, int flags);
};

extern const struct disk_io disk_io_system;

/* What errno means: ERR_SPACE for a full disk, else ERR_IO. */
enum error_code disk_error(void);

/* All bytes or false with errno; short counts and EINTR are gone on with. A file that ends
 * early is EIO to disk_read_all(). */
bool disk_write_all(const struct disk_io *io, int fd, const void *bytes, size_t len, off_t at);
bool disk_read_all(const struct disk_io *io, int fd, void *bytes, size_t len, off_t at);

/* Asks for the space of [at, at + len) early. A file system that cannot say is no failure. */
bool disk_reserve(const struct disk_io *io, int fd, int mode, off_t at, off_t len);

/* fsync of a folder or file by name. */
bool disk_sync_path(const struct disk_io *io, int dir, const char *path);

#endif
