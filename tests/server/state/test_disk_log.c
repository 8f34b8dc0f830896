/* What a damaged log costs: the records that were hit, and nothing else. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/state/disk_io.h"
#include "server/state/disk_log.h"
#include "tests/server/state/disk_rig.h"

enum { RECORDS = 4, HEADER = 16 };

static struct rig rig;
static unsigned char image[8192];
static size_t image_len, record_end[RECORDS + 1];

static int nothing(int fd)
{
    (void)fd;
    return 0;
}

static bool mark(void *arg, const struct disk_record *r, uint64_t at, size_t len)
{
    (void)r;
    record_end[++*(int *)arg] = at + len;
    return true;
}

static bool no_gap(void *arg, const struct disk_gap *gap)
{
    (void)arg;
    (void)gap;
    fail_msg("there is no gap");
    return true;
}

static struct disk_io quick(void)
{
    struct disk_io io = disk_io_system;

    io.fsync = nothing;
    io.syncfs = nothing;
    return io;
}

static void log_path(char *path, size_t len)
{
    snprintf(path, len, "%s/log", rig.path);
}

static void write_image(const unsigned char *bytes, size_t len)
{
    char path[128];
    int fd;

    log_path(path, sizeof(path));
    fd = open(path, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    close(fd);
}

/* Four sessions on the empty context, so that only the log counts. */
static void make_log(void)
{
    struct disk_io io = quick();
    struct disk_options options;
    struct error err;
    struct disk *d;
    char path[128], name[32];
    int fd, n = 0;

    rig_begin(&rig, 1);
    options = rig_options(&rig, DISK_ALWAYS, &io);
    d = rig_open(&rig, &options, &err);
    assert_non_null(d);
    for (int i = 0; i < RECORDS; i++) {
        snprintf(name, sizeof(name), "object-%d", i);
        assert_int_equal(rig_do(d, rig_set(DISK_SESSION_SET, name, 1, "", false)).code, 0);
    }
    disk_close(d);
    log_path(path, sizeof(path));
    fd = open(path, O_RDONLY);
    image_len = (size_t)read(fd, image, sizeof(image));
    close(fd);
    record_end[0] = HEADER;
    assert_int_equal(disk_log_walk(image, image_len, mark, no_gap, &n), image_len);
    assert_int_equal(n, RECORDS);
}

static struct disk *open_log(struct error *err)
{
    static struct disk_io io;
    struct disk_options options;

    io = quick();
    options = rig_options(&rig, DISK_ALWAYS, &io);
    return rig_open(&rig, &options, err);
}

static void a_log_torn_at_any_byte_keeps_its_whole_records(void **state)
{
    (void)state;
    make_log();
    for (size_t len = 0; len <= image_len; len++) {
        struct error err;
        struct disk *d;
        bool between = false;

        write_image(image, len);
        d = open_log(&err);
        if (len < HEADER) { /* no crash leaves that: the log was renamed into place */
            assert_null(d);
            assert_int_equal(err.code, ERR_FORMAT);
            continue;
        }
        assert_non_null(d);
        for (int i = 0; i < RECORDS; i++)
            assert_int_equal(rig.found[i].kind != 0, record_end[i + 1] <= len);
        for (int i = 0; i <= RECORDS; i++)
            between |= record_end[i] == len;
        assert_int_equal(rig.reports, !between);
        /* What is cut off is gone for good, and the log takes records again. */
        assert_int_equal(rig_do(d, rig_set(DISK_SESSION_SET, "object-5", 9, "", false)).code, 0);
        disk_close(d);
        d = open_log(&err);
        assert_int_equal(rig.reports, 0);
        assert_int_equal(rig.found[5].version, 9);
        disk_close(d);
    }
    rig_end(&rig);
}

static void a_flipped_bit_costs_one_record_and_is_kept(void **state)
{
    (void)state;
    make_log();
    for (size_t at = 0; at < image_len; at++) {
        int hit = -1, found = 0;
        struct error err;
        struct disk *d;

        image[at] ^= (unsigned char)(1 << at % 8);
        write_image(image, image_len);
        image[at] ^= (unsigned char)(1 << at % 8);
        d = open_log(&err);
        if (at < HEADER) {
            assert_null(d);
            assert_int_equal(err.code, ERR_FORMAT);
            continue;
        }
        assert_non_null(d);
        for (int i = 0; i < RECORDS; i++) {
            if (at >= record_end[i] && at < record_end[i + 1])
                hit = i;
            found += rig.found[i].kind != 0;
        }
        assert_int_equal(found, RECORDS - 1);
        assert_int_equal(rig.found[hit].kind, 0);
        assert_int_equal(rig.reports, 1);
        disk_close(d);
        d = open_log(&err);
        assert_int_equal(rig.reports, 0);
        disk_close(d);
    }
    rig_end(&rig);
}

static void files_are_not_deleted_after_a_log_that_could_not_be_read(void **state)
{
    unsigned char bytes[4096];
    struct error err;
    struct disk *d;
    char path[128];
    ssize_t len;
    int fd;

    (void)state;
    make_log();
    d = open_log(&err);
    assert_non_null(d);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 2, "ckpt_a", true));
    rig_do(d, rig_set(DISK_SESSION_SET, "object-1", 2, "ckpt_b", true));
    disk_close(d);
    log_path(path, sizeof(path));
    fd = open(path, O_RDWR);
    len = pread(fd, bytes, sizeof(bytes), 0);
    assert_true(len > 0);
    for (ssize_t i = HEADER; i + 6 < len; i++)
        if (memcmp(bytes + i, "ckpt_a", 6) == 0)
            assert_int_equal(pwrite(fd, "X", 1, i), 1);
    close(fd);
    d = open_log(&err);
    assert_non_null(d);
    assert_int_equal(rig.found[1].version, 2);
    assert_int_equal(rig.found[0].version, 1); /* as it was before the damaged record */
    assert_int_equal(rig_count_files(&rig, ".orphan"), 1);
    assert_int_equal(rig_count_files(&rig, ""), 1);
    snprintf(path, sizeof(path), "%s/log.corrupt", rig.path);
    assert_int_equal(access(path, F_OK), 0);
    disk_close(d);
    rig_end(&rig);
}

static bool give_note(void *arg, const struct disk_record *r, uint64_t at, size_t len)
{
    (void)r;
    (void)at;
    (void)len;
    ++*(int *)arg;
    return true;
}

static bool count_gap(void *arg, const struct disk_gap *gap)
{
    assert_false(gap->torn);
    *(int *)arg += 100;
    return true;
}

/* A note is a client's text: without the magic's first byte it is never taken for a record,
 * though the one around it is damaged. */
static void text_is_never_taken_for_a_record(void **state)
{
    static unsigned char log[2 * DISK_RECORD_BYTES];
    unsigned char inner[DISK_RECORD_BYTES];
    struct disk_record r = { .kind = DISK_SESSION_SET, .id = { "evil" } };
    size_t len;
    int seen = 0;

    (void)state;
    len = disk_record_encode(&r, inner);
    assert_true(inner[0] >= 0xf8); /* begins no character of UTF-8 */
    r.id = (struct id){ "12345678" };
    r.note = inner;
    r.note_len = len;
    len = disk_record_encode(&r, log + HEADER);
    assert_int_equal(disk_record_decode(log + HEADER, len, &r), len);
    assert_int_equal(r.note_len, disk_record_decode(r.note, r.note_len, NULL));
    ((unsigned char *)r.note)[0] = '?';
    log[HEADER + 20] ^= 1;
    assert_int_equal(disk_log_walk(log, HEADER + len, give_note, count_gap, &seen), HEADER);
    assert_int_equal(seen, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_torn_at_any_byte_keeps_its_whole_records),
        cmocka_unit_test(a_flipped_bit_costs_one_record_and_is_kept),
        cmocka_unit_test(files_are_not_deleted_after_a_log_that_could_not_be_read),
        cmocka_unit_test(text_is_never_taken_for_a_record),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
