/* Every system call fails once: the operation says so, nothing else changes, work goes on. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/state/disk_io.h"
#include "tests/server/state/disk_rig.h"

enum { OPS = 40 };

static struct rig rig;
static atomic_int calls, fail_at; /* the call that fails, from 1; 0: none */
static int fail_with;             /* errno; 0: a short count */
static int full;                  /* failures that were said to be a full disk */

/* Whether this call is the one. */
static bool hit(void)
{
    if (atomic_fetch_add(&calls, 1) + 1 != atomic_load(&fail_at) || !fail_with)
        return false;
    errno = fail_with;
    return true;
}

static bool hit_short(void)
{
    return !fail_with && atomic_load(&calls) + 1 == atomic_load(&fail_at);
}

/* Of the 256 folders, which are all alike, three count. */
static bool is_ordinary_folder(const char *path)
{
    return strlen(path) == 2 && strcmp(path, "00") != 0 && strcmp(path, "80") != 0 &&
           strcmp(path, "ff") != 0;
}

static int try_openat(int dir, const char *path, int flags, mode_t mode)
{
    if ((flags & O_DIRECTORY) && is_ordinary_folder(path))
        return disk_io_system.openat(dir, path, flags, mode);
    return hit() ? -1 : disk_io_system.openat(dir, path, flags, mode);
}

static int try_close(int fd) /* closes, and may say that it failed */
{
    int rc = disk_io_system.close(fd);

    return hit() ? -1 : rc;
}

static ssize_t try_pread(int fd, void *bytes, size_t len, off_t at)
{
    if (hit_short() && len > 1)
        len /= 2;
    return hit() ? -1 : disk_io_system.pread(fd, bytes, len, at);
}

static ssize_t try_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    bool mine = hit_short(), fails = hit();

    if ((mine || fails) && len > 1) { /* a part may be there even if it fails */
        ssize_t n = disk_io_system.pwrite(fd, bytes, len / 2, at);

        if (fails)
            errno = fail_with;
        return fails ? -1 : n;
    }
    return fails ? -1 : disk_io_system.pwrite(fd, bytes, len, at);
}

static int try_fallocate(int fd, int mode, off_t at, off_t len)
{
    return hit() ? -1 : disk_io_system.fallocate(fd, mode, at, len);
}

static int try_ftruncate(int fd, off_t len)
{
    return hit() ? -1 : disk_io_system.ftruncate(fd, len);
}

static int try_fsync(int fd)
{
    (void)fd;
    return hit() ? -1 : 0;
}

static int try_mkdirat(int dir, const char *path, mode_t mode)
{
    if (is_ordinary_folder(path))
        return disk_io_system.mkdirat(dir, path, mode);
    return hit() ? -1 : disk_io_system.mkdirat(dir, path, mode);
}

static int try_linkat(int dir, const char *path, int new_dir, const char *new_path, int flags)
{
    return hit() ? -1 : disk_io_system.linkat(dir, path, new_dir, new_path, flags);
}

static int try_renameat(int dir, const char *path, int new_dir, const char *new_path)
{
    return hit() ? -1 : disk_io_system.renameat(dir, path, new_dir, new_path);
}

static int try_unlinkat(int dir, const char *path, int flags)
{
    return hit() ? -1 : disk_io_system.unlinkat(dir, path, flags);
}

static const struct disk_io faulty = {
    .openat = try_openat,
    .close = try_close,
    .pread = try_pread,
    .pwrite = try_pwrite,
    .fallocate = try_fallocate,
    .ftruncate = try_ftruncate,
    .fsync = try_fsync,
    .syncfs = try_fsync,
    .mkdirat = try_mkdirat,
    .linkat = try_linkat,
    .renameat = try_renameat,
    .unlinkat = try_unlinkat,
};

/* What comes after the call that failed may only miss a file. */
static bool is_expected(enum error_code code)
{
    full += code == ERR_SPACE;
    return code == ERR_IO || (code == ERR_SPACE && fail_with == ENOSPC);
}

static int receive_all(struct disk *d)
{
    int failed = 0;

    disk_wait(d);
    for (struct disk_op *op; (op = disk_receive(d)); disk_op_free(op)) {
        if (op->error.code == ERR_NONE) {
            rig_acked(&rig, op);
        } else {
            assert_true(is_expected(op->error.code));
            failed++;
        }
    }
    return failed;
}

/* A history of some operations, alone and together. Returns how many failed. */
static int run_ops(struct disk *d, int ops)
{
    int failed = 0;

    for (int i = 0; i < ops; i++) {
        assert_true(disk_submit(d, rig_next(&rig)));
        if (rig_random(&rig, 2))
            failed += receive_all(d);
    }
    return failed + receive_all(d);
}

/* The second time at the latest: the first may be the call that fails. */
static void check_usable(struct disk *d)
{
    struct error err = rig_do(d, rig_set(DISK_SESSION_SET, "extra", 1, "ckpt_extra", true));

    if (err.code != ERR_NONE)
        err = rig_do(d, rig_set(DISK_SESSION_SET, "extra", 1, "ckpt_extra", true));
    assert_int_equal(err.code, ERR_NONE);
    err = rig_do(d, rig_delete(DISK_SESSION_DELETED, "extra"));
    if (err.code != ERR_NONE)
        err = rig_do(d, rig_delete(DISK_SESSION_DELETED, "extra"));
    assert_int_equal(err.code, ERR_NONE);
}

/* One history with the k-th call failing; false when there were fewer calls. */
static bool run_once(enum disk_mode mode, int k, int with)
{
    struct disk_options options = rig_options(&rig, mode, &faulty);
    struct error err;
    struct disk *d;

    fail_with = with;
    calls = 0;
    fail_at = k;
    options.compact_bytes = k % 2 ? 1024 : 1 << 20;
    d = rig_open(&rig, &options, &err);
    if (!d) {
        assert_true(is_expected(err.code));
        d = rig_open(&rig, &options, &err); /* the call has failed once: now it works */
    }
    assert_non_null(d);
    rig_check(&rig, d, false);
    run_ops(d, OPS);
    check_usable(d);
    disk_close(d);
    fail_at = 0;
    options.io = &disk_io_system;
    d = rig_open(&rig, &options, &err);
    if (!d)
        fail_msg("call %d, errno %d: %s", k, with, err.message);
    if (rig.reports)
        fail_msg("call %d, errno %d: %s", k, with, rig.report);
    rig_check(&rig, d, false);
    disk_close(d);
    return calls >= k;
}

static void sweep(enum disk_mode mode, int with)
{
    int k = 1;

    rig_begin(&rig, 77);
    while (run_once(mode, k, with))
        k++;
    assert_true(k > 100);
    rig_end(&rig);
}

static void any_call_may_fail_with_an_io_error(void **state)
{
    (void)state;
    sweep(DISK_ALWAYS, EIO);
}

static void any_call_may_find_the_disk_full(void **state)
{
    (void)state;
    sweep(DISK_INTERVAL, ENOSPC);
    assert_true(full > 20);
}

static void any_transfer_may_be_short(void **state)
{
    (void)state;
    sweep(DISK_NONE, 0);
}

/* Of the log, whose place it takes a second state file to fill. */
static ssize_t crowded_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    char link[32], path[256] = "";

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof(path) - 1) > 4 &&
        strcmp(path + strlen(path) - 4, "/log") == 0 && rig_count_files(&rig, "") > 1) {
        errno = ENOSPC;
        return -1;
    }
    return disk_io_system.pwrite(fd, bytes, len, at);
}

static int unable_fallocate(int fd, int mode, off_t at, off_t len)
{
    (void)fd;
    (void)mode;
    (void)at;
    (void)len;
    errno = EOPNOTSUPP;
    return -1;
}

/* What was written for it goes at once, though the log has no record to be made durable: it may be
 * what the disk is full of. */
static void a_record_that_found_no_room_leaves_no_file_behind(void **state)
{
    struct disk_io io = disk_io_system;
    struct disk_options options;
    struct error err;
    struct disk *d;

    (void)state;
    io.fallocate = unable_fallocate;
    io.pwrite = crowded_pwrite;
    rig_begin(&rig, 1);
    options = rig_options(&rig, DISK_ALWAYS, &io);
    d = rig_open(&rig, &options, &err);
    assert_non_null(d);
    err = rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
    assert_int_equal(err.code, ERR_NONE);
    err = rig_do(d, rig_set(DISK_SESSION_SET, "object-1", 1, "ckpt_b", true));
    assert_int_equal(err.code, ERR_SPACE);
    assert_int_equal(rig_count_files(&rig, ""), 1);
    err = rig_do(d, rig_delete(DISK_SESSION_DELETED, "object-0"));
    assert_int_equal(err.code, ERR_NONE);
    assert_int_equal(rig_count_files(&rig, ""), 0);
    disk_close(d);
    rig_end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_call_may_fail_with_an_io_error),
        cmocka_unit_test(any_call_may_find_the_disk_full),
        cmocka_unit_test(any_transfer_may_be_short),
        cmocka_unit_test(a_record_that_found_no_room_leaves_no_file_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
