/* A full disk: what is there can be deleted, and then there is room again. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/state/disk_io.h"
#include "tests/server/state/disk_rig.h"

enum { DISK_BYTES = 24 * 1024, LEAST_SESSIONS = 40 };

static struct rig rig;
/* Of the log and of the one that is to replace it: all that this disk has room for. */
enum { LOG, DRAFT, FILES };
static uint64_t taken[FILES];

static int file_of(const char *path)
{
    size_t len = strlen(path);

    if (len >= 4 && strcmp(path + len - 4, "/log") == 0)
        return LOG;
    return len >= 8 && strcmp(path + len - 8, "/log.new") == 0 ? DRAFT : FILES;
}

static int file_behind(int fd)
{
    char link[32], path[256] = "";

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    assert_true(readlink(link, path, sizeof(path) - 1) > 0);
    return file_of(path);
}

static bool take(int fd, uint64_t end)
{
    int i = file_behind(fd);

    if (i == FILES || end <= taken[i])
        return true;
    if (taken[LOG] + taken[DRAFT] - taken[i] + end > DISK_BYTES) {
        errno = ENOSPC;
        return false;
    }
    taken[i] = end;
    return true;
}

static ssize_t small_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    return take(fd, (uint64_t)at + len) ? disk_io_system.pwrite(fd, bytes, len, at) : -1;
}

static int small_fallocate(int fd, int mode, off_t at, off_t len)
{
    assert_true((mode & FALLOC_FL_KEEP_SIZE) || file_behind(fd) == FILES);
    return take(fd, (uint64_t)(at + len)) ? 0 : -1;
}

static int small_ftruncate(int fd, off_t len)
{
    int i = file_behind(fd);

    if (i != FILES)
        taken[i] = (uint64_t)len;
    return disk_io_system.ftruncate(fd, len);
}

static int small_renameat(int dir, const char *path, int new_dir, const char *new_path)
{
    if (strcmp(path, "log.new") == 0) {
        taken[LOG] = taken[DRAFT];
        taken[DRAFT] = 0;
    }
    return disk_io_system.renameat(dir, path, new_dir, new_path);
}

static int small_unlinkat(int dir, const char *path, int flags)
{
    if (strcmp(path, "log.new") == 0)
        taken[DRAFT] = 0;
    return disk_io_system.unlinkat(dir, path, flags);
}

static struct disk *open_small(enum disk_mode mode)
{
    static struct disk_io io;
    struct disk_options options;
    struct error err;
    struct disk *d;

    io = disk_io_system;
    io.pwrite = small_pwrite;
    io.fallocate = small_fallocate;
    io.ftruncate = small_ftruncate;
    io.renameat = small_renameat;
    io.unlinkat = small_unlinkat;
    options = rig_options(&rig, mode, &io);
    options.interval_ms = 1;
    options.compact_bytes = 1 << 20;
    d = rig_open(&rig, &options, &err);
    if (!d)
        fail_msg("%s", err.message);
    return d;
}

static enum error_code set(struct disk *d, int i, uint64_t version)
{
    char name[32];

    snprintf(name, sizeof(name), "session-%d", i);
    return rig_do(d, rig_set(DISK_SESSION_SET, name, version, "", false)).code;
}

/* On the empty context: only the log grows. */
static int fill(struct disk *d)
{
    enum error_code code;
    int n = 0;

    while ((code = set(d, n, 1)) == ERR_NONE)
        n++;
    assert_int_equal(code, ERR_SPACE);
    for (int i = 0; i < 100; i++) { /* what is refused takes nothing from them */
        code = set(d, i % n, 2 + (uint64_t)i);
        assert_true(code == ERR_NONE || code == ERR_SPACE);
        if (i % 8 == 0)
            usleep(2000);
    }
    return n;
}

static void delete_all(struct disk *d, int n)
{
    for (int i = 0; i < n; i++) {
        char name[32];
        struct error err;

        snprintf(name, sizeof(name), "session-%d", i);
        err = rig_do(d, rig_delete(DISK_SESSION_DELETED, name));
        if (err.code != ERR_NONE)
            fail_msg("%d of %d: %s", i, n, err.message);
        if (i % 8 == 0)
            usleep(2000); /* it is settled */
    }
    assert_int_equal(disk_counts(d).sessions, 0);
}

static void check_full(enum disk_mode mode, bool restart)
{
    struct disk *d;
    int n;

    rig_begin(&rig, 1);
    taken[LOG] = taken[DRAFT] = 0;
    d = open_small(mode);
    n = fill(d);
    assert_true(n >= LEAST_SESSIONS);
    for (int again = 0; again < 3; again++) {
        if (restart) {
            disk_close(d);
            d = open_small(mode);
            assert_int_equal(disk_counts(d).sessions, n);
        }
        delete_all(d, n);
        n = fill(d);
        assert_true(n >= LEAST_SESSIONS);
    }
    disk_close(d);
    rig_end(&rig);
}

static void what_a_full_disk_holds_can_be_deleted(void **state)
{
    (void)state;
    for (enum disk_mode mode = DISK_NONE; mode <= DISK_ALWAYS; mode++)
        check_full(mode, false);
}

static void also_after_a_restart(void **state)
{
    (void)state;
    for (enum disk_mode mode = DISK_NONE; mode <= DISK_ALWAYS; mode++)
        check_full(mode, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_full_disk_holds_can_be_deleted),
        cmocka_unit_test(also_after_a_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
