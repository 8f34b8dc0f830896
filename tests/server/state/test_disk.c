/* The durable tier on a good day: what goes in comes back, and nothing else. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/state/disk_file.h"
#include "server/state/disk_io.h"
#include "server/state/file_buffer.h"
#include "tests/server/state/disk_rig.h"

static struct rig rig;

static int nothing(int fd)
{
    (void)fd;
    return 0;
}

/* For tests that are about order and contents. */
static struct disk_io without_fsync(void)
{
    struct disk_io io = disk_io_system;

    io.fsync = nothing;
    io.syncfs = nothing;
    return io;
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static struct disk *reopen(struct disk *d, enum disk_mode mode, const struct disk_io *io)
{
    struct disk_options options = rig_options(&rig, mode, io);
    struct error err;

    disk_close(d);
    d = rig_open(&rig, &options, &err);
    if (!d)
        fail_msg("%s", err.message);
    return d;
}

static void path_of(char *path, size_t len, const char *checkpoint)
{
    snprintf(path, len, "%s/states/%02x/%s", rig.path, disk_folder_of(checkpoint), checkpoint);
}

static void a_session_comes_back_with_every_field(void **state)
{
    struct disk *d;
    struct disk_op *op;
    struct disk_record *r, *f;

    (void)state;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_ALWAYS, NULL);
    op = rig_set(DISK_SNAPSHOT_SET, "object-7", 3, "ckpt_a", true);
    r = &op->record;
    r->position = UINT64_MAX;
    r->seed = 42;
    r->flags = 7;
    r->created = 1.5;
    r->updated = 2.5;
    r->ttl = 3.5;
    strcpy(r->session.text, "a-session");
    strcpy(r->parent.text, "a-parent");
    assert_int_equal(rig_do(d, op).code, ERR_NONE);
    d = reopen(d, DISK_ALWAYS, NULL);
    f = &rig.found[7];
    assert_int_equal(f->kind, DISK_SNAPSHOT_SET);
    assert_int_equal(f->version, 3);
    assert_true(f->position == UINT64_MAX);
    assert_int_equal(f->seed, 42);
    assert_int_equal(f->flags, 7);
    assert_true(f->created == 1.5 && f->updated == 2.5 && f->ttl == 3.5);
    assert_string_equal(f->session.text, "a-session");
    assert_string_equal(f->parent.text, "a-parent");
    assert_string_equal(f->checkpoint.text, "ckpt_a");
    assert_int_equal(f->note_len, 6);
    assert_memory_equal(f->note, "note 3", 6);
    disk_close(d);
    rig_end(&rig);
}

static void random_histories_come_back_in_every_mode(void **state)
{
    struct disk_io io = without_fsync();

    (void)state;
    for (int mode = DISK_NONE; mode <= DISK_ALWAYS; mode++) {
        struct disk *d;

        rig_begin(&rig, (uint64_t)mode + 10);
        rig.strict = true;
        d = reopen(NULL, (enum disk_mode)mode, &io);
        for (int round = 0; round < 10; round++) {
            for (int i = 0; i < 200; i++) {
                struct disk_op *op = rig_next(&rig);

                while (!disk_submit(d, op))
                    disk_wait(d);
            }
            disk_wait(d);
            for (struct disk_op *op; (op = disk_receive(d)); disk_op_free(op)) {
                assert_int_equal(op->error.code, ERR_NONE);
                rig_acked(&rig, op);
            }
            if (round % 2 == 0)
                assert_true(disk_counts(d).compactions > 0);
            d = reopen(d, (enum disk_mode)mode, &io);
            rig_check(&rig, d, false);
            assert_int_equal(rig.reports, 0);
        }
        disk_close(d);
        rig_end(&rig);
    }
}

static void a_file_lives_as_long_as_something_refers_to_it(void **state)
{
    struct disk_io io = without_fsync();
    struct disk_op *keep = disk_op_create(DISK_KEEP, NULL);
    struct disk_op *release = disk_op_create(DISK_RELEASE, NULL);
    struct disk *d;

    (void)state;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_ALWAYS, &io);
    assert_int_equal(rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true)).code, 0);
    assert_int_equal(rig_do(d, rig_set(DISK_SESSION_SET, "object-1", 1, "ckpt_a", true)).code, 0);
    assert_int_equal(rig_do(d, rig_set(DISK_SNAPSHOT_SET, "object-7", 1, "ckpt_a", false)).code, 0);
    strcpy(keep->record.checkpoint.text, "ckpt_a");
    strcpy(release->record.checkpoint.text, "ckpt_a");
    assert_int_equal(rig_do(d, keep).code, 0);
    assert_int_equal(rig_count_files(&rig, ""), 1);
    rig_do(d, rig_delete(DISK_SESSION_DELETED, "object-0"));
    rig_do(d, rig_set(DISK_SESSION_SET, "object-1", 2, "", false));
    rig_do(d, rig_delete(DISK_SNAPSHOT_DELETED, "object-7"));
    assert_int_equal(rig_count_files(&rig, ""), 1);
    assert_int_equal(rig_do(d, release).code, 0);
    assert_int_equal(rig_count_files(&rig, ""), 0);
    assert_int_equal(disk_counts(d).files, 0);
    disk_close(d);
    rig_end(&rig);
}

static struct disk_op *set_naming(const char *id, const char *checkpoint, const char *a,
                                  const char *b)
{
    struct disk_op *op = rig_set(DISK_SESSION_SET, id, 1, checkpoint, false);
    struct id anchor[2];

    assert_true(id_parse(&anchor[0], a));
    assert_true(!b || id_parse(&anchor[1], b));
    op->file = rig_file_naming(4096, anchor, 1 + (b != NULL), &op->file_len);
    return op;
}

static bool has(const char *checkpoint)
{
    struct id id;

    return id_parse(&id, checkpoint) && rig_has_file(&rig, &id);
}

static struct error keep(struct disk *d, enum disk_kind kind, const char *checkpoint)
{
    struct disk_op *op = disk_op_create(kind, NULL);

    strcpy(op->record.checkpoint.text, checkpoint);
    return rig_do(d, op);
}

/* What a head's file names stays, also through restarts, and goes with it; what that names in
 * its turn does not. */
static void a_head_keeps_the_anchors_that_its_file_names(void **state)
{
    struct disk_io io = without_fsync();

    (void)state;
    for (int restart = 0; restart < 2; restart++) {
        struct disk *d;

        rig_begin(&rig, 5);
        d = reopen(NULL, DISK_ALWAYS, &io);
        rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
        rig_do(d, set_naming("object-0", "ckpt_b", "ckpt_a", NULL));
        rig_do(d, rig_set(DISK_SNAPSHOT_SET, "object-7", 1, "ckpt_b", false));
        rig_do(d, set_naming("object-0", "ckpt_c", "ckpt_b", "ckpt_missing"));
        d = restart ? reopen(d, DISK_ALWAYS, &io) : d;
        assert_true(has("ckpt_a") && has("ckpt_b") && has("ckpt_c"));
        assert_int_equal(disk_counts(d).files, 3);
        assert_int_equal(disk_counts(d).anchors, 1);
        rig_do(d, rig_delete(DISK_SNAPSHOT_DELETED, "object-7"));
        assert_true(!has("ckpt_a") && has("ckpt_b"));
        assert_int_equal(disk_counts(d).anchors, 1);
        /* A head that goes back to its anchor, and another that stands there, too. */
        assert_int_equal(keep(d, DISK_KEEP, "ckpt_b").code, ERR_NONE);
        assert_int_equal(keep(d, DISK_KEEP, "ckpt_a").code, ERR_IO);
        rig_do(d, rig_set(DISK_SESSION_SET, "object-1", 1, "ckpt_b", false));
        rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 2, "ckpt_b", false));
        assert_true(!has("ckpt_c") && has("ckpt_b"));
        assert_int_equal(keep(d, DISK_RELEASE, "ckpt_b").code, ERR_NONE);
        rig_do(d, rig_delete(DISK_SESSION_DELETED, "object-0"));
        d = restart ? reopen(d, DISK_ALWAYS, &io) : d;
        assert_true(has("ckpt_b"));
        rig_do(d, rig_delete(DISK_SESSION_DELETED, "object-1"));
        assert_int_equal(rig_count_files(&rig, ""), 0);
        assert_int_equal(disk_counts(d).files, 0);
        assert_int_equal(disk_counts(d).anchor_bytes, 0);
        disk_close(d);
        rig_end(&rig);
    }
}

static void a_head_that_goes_back_holds_what_its_own_file_names(void **state)
{
    struct disk_io io = without_fsync();
    struct disk *d;

    (void)state;
    rig_begin(&rig, 5);
    d = reopen(NULL, DISK_ALWAYS, &io);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
    rig_do(d, set_naming("object-0", "ckpt_b", "ckpt_a", NULL));
    rig_do(d, set_naming("object-0", "ckpt_c", "ckpt_b", "ckpt_a"));
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 2, "ckpt_b", false));
    assert_true(has("ckpt_a") && has("ckpt_b") && !has("ckpt_c"));
    d = reopen(d, DISK_ALWAYS, &io);
    assert_true(has("ckpt_a") && has("ckpt_b"));
    disk_close(d);
    rig_end(&rig);
}

static void wait_for_files(int n)
{
    for (int i = 0; i < 6000 && rig_count_files(&rig, "") != n; i++)
        usleep(10000);
    assert_int_equal(rig_count_files(&rig, ""), n);
}

/* The bound is on all files; what only serves to go back fills what the heads leave. */
static void anchors_make_way_for_heads(void **state)
{
    struct disk_options options;
    struct disk_io io = without_fsync();
    struct error err;
    struct disk *d;
    char name[32], before[32];

    (void)state;
    for (int mode = DISK_NONE; mode <= DISK_ALWAYS; mode++) {
        rig_begin(&rig, 5);
        options = rig_options(&rig, (enum disk_mode)mode, &io);
        options.max_file_bytes = 4 * 4096;
        d = rig_open(&rig, &options, &err);
        assert_non_null(d);
        rig_do(d, set_naming("object-0", "ckpt_0", "ckpt_none", NULL));
        for (int i = 1; i < 4; i++) { /* three heads with an anchor each */
            snprintf(name, sizeof(name), "object-%d", i);
            snprintf(before, sizeof(before), "ckpt_old_%d", i);
            rig_do(d, set_naming(name, before, "ckpt_none", NULL));
            snprintf(name + 7, sizeof(name) - 7, "%d", i);
            rig_do(d, set_naming(name,
                                 i == 1   ? "ckpt_1"
                                 : i == 2 ? "ckpt_2"
                                          : "ckpt_3",
                                 before, NULL));
        }
        wait_for_files(4); /* what is put off is done */
        assert_true(has("ckpt_0") && has("ckpt_1") && has("ckpt_2") && has("ckpt_3"));
        assert_int_equal(disk_counts(d).anchors_dropped, 3);
        assert_int_equal(disk_counts(d).anchors, 0);
        disk_close(d);
        rig_end(&rig);
    }
}

static void operations_that_make_no_sense_are_refused(void **state)
{
    struct disk_io io = without_fsync();
    struct disk_op *op;
    struct error err;
    struct disk *d;

    (void)state;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_ALWAYS, &io);
    err = rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", false));
    assert_int_equal(err.code, ERR_IO); /* a head never refers to a file that is not there */
    assert_int_equal(rig_do(d, rig_set(DISK_SESSION_SET, "", 1, "ckpt_a", true)).code, ERR_INPUT);
    assert_int_equal(rig_do(d, rig_set(DISK_SESSION_SET, "x", 1, "../a", true)).code, ERR_INPUT);
    assert_int_equal(rig_do(d, rig_set(DISK_SESSION_SET, "x", 1, "a.b", true)).code, ERR_INPUT);
    op = rig_set(DISK_SESSION_SET, "x", 1, "ckpt_a", true);
    op->record.note_len = DISK_NOTE_BYTES + 1;
    assert_int_equal(rig_do(d, op).code, ERR_INPUT);
    op = disk_op_create(DISK_RELEASE, NULL);
    strcpy(op->record.checkpoint.text, "ckpt_a");
    assert_int_equal(rig_do(d, op).code, ERR_NONE); /* it is gone already */
    assert_int_equal(rig_do(d, rig_delete(DISK_SESSION_DELETED, "nobody")).code, ERR_NONE);
    assert_int_equal(disk_counts(d).files, 0);
    assert_int_equal(disk_counts(d).sessions, 0);
    disk_close(d);
    rig_end(&rig);
}

static void a_full_queue_takes_nothing(void **state)
{
    struct disk_io io = without_fsync();
    struct disk_options options;
    struct disk_op *op[4];
    struct error err;
    struct disk *d;

    (void)state;
    rig_begin(&rig, 1);
    options = rig_options(&rig, DISK_ALWAYS, &io);
    options.max_ops = 3;
    d = rig_open(&rig, &options, &err);
    assert_non_null(d);
    for (int i = 0; i < 4; i++)
        op[i] = rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true);
    for (int i = 0; i < 3; i++)
        assert_true(disk_submit(d, op[i]));
    assert_false(disk_submit(d, op[3]));
    disk_wait(d);
    assert_false(disk_submit(d, op[3])); /* what was not received takes its place */
    assert_ptr_equal(disk_receive(d), op[0]);
    assert_true(disk_submit(d, op[3]));
    disk_op_free(op[0]);
    disk_close(d); /* frees the rest */
    rig_end(&rig);
}

static void two_servers_cannot_share_a_folder(void **state)
{
    struct disk_options options;
    struct disk *d, *second;
    struct error err;
    int status;
    pid_t child;

    (void)state;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_NONE, NULL);
    options = rig_options(&rig, DISK_NONE, NULL);
    second = disk_open(&options, &err);
    assert_null(second);
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.message, "another server"));
    child = fork();
    if (child == 0)
        _exit(disk_open(&options, &err) ? 1 : 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    d = reopen(d, DISK_NONE, NULL);
    disk_close(d);
    rig_end(&rig);
}

/* Cut short, of another kind, of another length, gone. */
static void damage(const char *checkpoint, int kind)
{
    char path[256];
    int fd;

    path_of(path, sizeof(path), checkpoint);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    if (kind == 0)
        assert_int_equal(ftruncate(fd, 10), 0);
    else if (kind == 1)
        assert_int_equal(pwrite(fd, "X", 1, 3), 1);
    else if (kind == 2)
        assert_int_equal(pwrite(fd, "\xff", 1, 20), 1);
    else
        assert_int_equal(unlink(path), 0);
    close(fd);
}

static bool has_mark(void)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/closed", rig.path);
    return access(path, F_OK) == 0;
}

static void remove_mark(void)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/closed", rig.path);
    assert_int_equal(unlink(path), 0);
}

static void begin_with_two(const struct disk_io *io)
{
    struct disk *d;

    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_ALWAYS, io);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
    rig_do(d, rig_set(DISK_SESSION_SET, "object-1", 1, "ckpt_b", true));
    assert_false(has_mark());
    disk_close(d);
}

static void a_damaged_file_is_set_aside_and_the_others_load(void **state)
{
    struct disk_io io = without_fsync();
    struct disk *d;

    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        begin_with_two(&io);
        remove_mark(); /* as a crash would have left it */
        damage("ckpt_a", kind);
        d = reopen(NULL, DISK_ALWAYS, &io);
        assert_true(rig.found[0].kind == DISK_SESSION_SET && rig.found[0].damaged);
        assert_true(rig.found[1].kind == DISK_SESSION_SET && !rig.found[1].damaged);
        assert_int_equal(rig.reports, kind < 3 ? 2 : 1); /* the file, and the session */
        assert_int_equal(rig_count_files(&rig, ".corrupt"), kind < 3);
        assert_int_equal(rig_count_files(&rig, ""), 1);
        d = reopen(d, DISK_ALWAYS, &io); /* the session stays, and it is said again */
        assert_int_equal(rig.reports, 1);
        assert_true(rig.found[0].kind == DISK_SESSION_SET && rig.found[0].damaged);
        assert_true(rig.found[1].kind == DISK_SESSION_SET && !rig.found[1].damaged);
        assert_int_equal(rig_do(d, rig_delete(DISK_SESSION_DELETED, "object-0")).code, 0);
        d = reopen(d, DISK_ALWAYS, &io);
        assert_int_equal(rig.reports, 0);
        assert_int_equal(rig.found[0].kind, 0);
        disk_close(d);
        rig_end(&rig);
    }
}

/* A state that was deleted and is written again may be shorter: what the log said of it before
 * is of no account, after a crash and without one. */
static void a_state_that_is_written_again_may_have_another_length(void **state)
{
    struct disk_io io = without_fsync();

    (void)state;
    for (int crash = 0; crash < 2; crash++) {
        struct disk_op *op = rig_set(DISK_SESSION_SET, "object-1", 1, "ckpt_a", true);
        uint64_t len = op->file_len - 8;
        struct disk *d;

        rig_begin(&rig, 1);
        d = reopen(NULL, DISK_ALWAYS, &io);
        rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
        rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 2, "ckpt_b", true));
        memcpy((char *)op->file + 16, &len, sizeof(len));
        op->file_len = len;
        rig_do(d, op);
        disk_close(d);
        if (crash)
            remove_mark();
        d = reopen(NULL, DISK_ALWAYS, &io);
        assert_int_equal(rig.reports, 0);
        assert_int_equal(rig.found[0].kind, DISK_SESSION_SET);
        assert_int_equal(rig.found[0].version, 2);
        assert_int_equal(rig.found[1].kind, DISK_SESSION_SET);
        assert_int_equal(rig.found[1].bytes, len);
        disk_close(d);
        rig_end(&rig);
    }
}

/* After a folder was closed in order only its names are read; what is in a file shows later. */
static void what_was_closed_in_order_is_looked_at_when_it_is_read(void **state)
{
    const struct id a = { "ckpt_a" };
    struct disk_io io = without_fsync();
    struct file_buffer file = { 0 };
    struct error err;
    struct disk *d;

    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        begin_with_two(&io);
        assert_true(has_mark());
        damage("ckpt_a", kind);
        d = reopen(NULL, DISK_ALWAYS, &io);
        assert_false(has_mark());
        assert_int_equal(rig.reports, 0);
        assert_int_equal(rig.found[0].kind, DISK_SESSION_SET);
        assert_false(disk_read(d, &a, &file, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_true(disk_set_aside(d, &a, &err));
        assert_int_equal(rig_count_files(&rig, ".corrupt"), 1);
        file_buffer_finish(&file);
        disk_close(d);
        rig_end(&rig);
    }
}

/* A mark is good for the log that it was made of, and for nothing else. */
static void a_mark_of_another_log_says_nothing(void **state)
{
    struct disk_io io = without_fsync();
    char path[256];
    struct disk *d;
    int fd;

    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        begin_with_two(&io);
        damage("ckpt_a", 1);
        snprintf(path, sizeof(path), "%s/closed", rig.path);
        fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        assert_int_equal(kind ? ftruncate(fd, 8) : (int)pwrite(fd, "\x11", 1, 8), kind ? 0 : 1);
        close(fd);
        d = reopen(NULL, DISK_ALWAYS, &io);
        assert_true(rig.found[0].damaged);
        assert_int_equal(rig_count_files(&rig, ".corrupt"), 1);
        disk_close(d);
        rig_end(&rig);
    }
}

/* The server that wrote it starts again as it would have. */
static void a_log_that_is_refused_keeps_its_mark(void **state)
{
    static const char version[] = { 1, 2 };
    struct disk_io io = without_fsync();
    struct disk_options options;
    struct error err;
    char path[256];
    int fd;

    (void)state;
    begin_with_two(&io);
    assert_true(has_mark());
    snprintf(path, sizeof(path), "%s/log", rig.path);
    fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, version + 1, 1, 8), 1);
    options = rig_options(&rig, DISK_ALWAYS, &io);
    assert_null(disk_open(&options, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_true(has_mark());
    assert_int_equal(pwrite(fd, version, 1, 8), 1);
    close(fd);
    disk_close(reopen(NULL, DISK_ALWAYS, &io));
    rig_end(&rig);
}

static int refuse_unlink(int dir, const char *path, int flags)
{
    return strncmp(path, "log", 3) == 0 ? unlinkat(dir, path, flags) : 0;
}

/* What it was before is there, but it was not that any more. */
static void a_session_without_its_newest_file_does_not_go_back(void **state)
{
    struct disk_io io = without_fsync();
    char path[256];
    struct disk *d;

    (void)state;
    io.unlinkat = refuse_unlink;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_ALWAYS, &io);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 2, "ckpt_b", true));
    disk_close(d);
    path_of(path, sizeof(path), "ckpt_b");
    assert_int_equal(unlink(path), 0);
    for (int i = 0; i < 2; i++) {
        d = reopen(NULL, DISK_ALWAYS, NULL);
        assert_true(rig.found[0].version == 2 && rig.found[0].damaged);
        assert_int_equal(rig.reports, 1);
        disk_close(d);
    }
    rig_end(&rig);
}

static atomic_int failing, failed;

static int fail_fsync(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 24 || !atomic_load(&failing))
        return 0;
    atomic_fetch_add(&failed, 1);
    errno = EIO;
    return -1;
}

/* While the newest state cannot be made durable, the one before stays where it is. */
static void a_failed_fsync_deletes_nothing(void **state)
{
    struct disk_io io = without_fsync();
    struct disk *d;

    (void)state;
    io.fsync = fail_fsync;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_INTERVAL, &io);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 2, "ckpt_b", true));
    wait_for_files(1);
    atomic_store(&failed, 0);
    atomic_store(&failing, 1);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 3, "ckpt_c", true));
    for (int i = 0; i < 6000 && atomic_load(&failed) < 5; i++)
        usleep(10000);
    assert_true(atomic_load(&failed) >= 5); /* some intervals */
    assert_int_equal(rig_count_files(&rig, ""), 2);
    assert_true(rig.reports > 0);
    atomic_store(&failing, 0);
    wait_for_files(1);
    d = reopen(d, DISK_INTERVAL, &io);
    assert_int_equal(rig.reports, 0);
    assert_true(rig.found[0].version == 3 && !rig.found[0].damaged);
    disk_close(d);
    rig_end(&rig);
}

static void leftovers_are_swept(void **state)
{
    char path[256];
    struct disk *d;

    (void)state;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_NONE, NULL);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
    disk_close(d);
    snprintf(path, sizeof(path), "%s/states/07/.tmp.12", rig.path);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    path_of(path, sizeof(path), "ckpt_stray");
    close(open(path, O_CREAT | O_WRONLY, 0600));
    snprintf(path, sizeof(path), "%s/log.new", rig.path);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    d = reopen(NULL, DISK_NONE, NULL);
    assert_int_equal(rig_count_files(&rig, ""), 1);
    assert_int_equal(rig_count_files(&rig, ".tmp"), 0);
    assert_int_equal(access(path, F_OK), -1);
    disk_close(d);
    rig_end(&rig);
}

static void a_folder_without_its_log_is_left_alone(void **state)
{
    struct disk_options options;
    struct error err;
    char path[256];
    struct disk *d;

    (void)state;
    rig_begin(&rig, 1);
    d = reopen(NULL, DISK_NONE, NULL);
    rig_do(d, rig_set(DISK_SESSION_SET, "object-0", 1, "ckpt_a", true));
    disk_close(d);
    snprintf(path, sizeof(path), "%s/log", rig.path);
    assert_int_equal(unlink(path), 0);
    options = rig_options(&rig, DISK_NONE, NULL);
    assert_null(disk_open(&options, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_int_equal(rig_count_files(&rig, ""), 1);
    rig_end(&rig);
}

static void count_found(void *arg, const struct disk_record *record)
{
    *(size_t *)arg += record->kind == DISK_SESSION_SET;
}

static void receive_all(struct disk *d)
{
    for (struct disk_op *op; (op = disk_receive(d)); disk_op_free(op))
        assert_int_equal(op->error.code, ERR_NONE);
}

static double submit_many(struct disk *d, int count, size_t state_bytes)
{
    double begun = seconds();
    struct disk_op *op;

    for (int i = 0; i < count; i++) {
        uint64_t len = state_bytes;

        op = disk_op_create(DISK_SESSION_SET, NULL);
        id_generate(&op->record.id, "sess");
        id_generate(&op->record.checkpoint, "ckpt");
        op->file_len = state_bytes;
        op->file = calloc(1, state_bytes);
        memcpy(op->file, "EDDYSTAT", 8);
        memcpy((char *)op->file + 16, &len, sizeof(len));
        while (!disk_submit(d, op)) {
            disk_wait(d);
            receive_all(d);
        }
    }
    disk_wait(d);
    receive_all(d);
    return seconds() - begun;
}

static void a_hundred_thousand_sessions_open_fast(void **state)
{
    enum { COUNT = 100000 };
    struct disk_io io = without_fsync();
    struct disk_options options;
    struct mallinfo2 before;
    size_t found = 0, bytes;
    struct error err;
    struct disk *d;
    double begun;

    (void)state;
    rig_begin(&rig, 1);
    options = rig_options(&rig, DISK_NONE, &io);
    options.max_ops = 256;
    options.compact_bytes = 0;
    options.found = count_found;
    options.arg = &found;
    options.report = NULL;
    d = disk_open(&options, &err);
    assert_non_null(d);
    print_message("# written in %.2f s\n", submit_many(d, COUNT, 64));
    disk_close(d);
    before = mallinfo2();
    begun = seconds();
    d = disk_open(&options, &err);
    assert_non_null(d);
    bytes = mallinfo2().uordblks - before.uordblks;
    print_message("# opened in %.2f s, %zu bytes a session\n", seconds() - begun, bytes / COUNT);
    assert_int_equal(found, COUNT);
    assert_int_equal(disk_counts(d).sessions, COUNT);
    assert_true(bytes / COUNT < 1024);
    disk_close(d);
    rig_end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_comes_back_with_every_field),
        cmocka_unit_test(random_histories_come_back_in_every_mode),
        cmocka_unit_test(a_file_lives_as_long_as_something_refers_to_it),
        cmocka_unit_test(a_head_keeps_the_anchors_that_its_file_names),
        cmocka_unit_test(a_head_that_goes_back_holds_what_its_own_file_names),
        cmocka_unit_test(anchors_make_way_for_heads),
        cmocka_unit_test(operations_that_make_no_sense_are_refused),
        cmocka_unit_test(a_full_queue_takes_nothing),
        cmocka_unit_test(two_servers_cannot_share_a_folder),
        cmocka_unit_test(a_damaged_file_is_set_aside_and_the_others_load),
        cmocka_unit_test(a_state_that_is_written_again_may_have_another_length),
        cmocka_unit_test(what_was_closed_in_order_is_looked_at_when_it_is_read),
        cmocka_unit_test(a_mark_of_another_log_says_nothing),
        cmocka_unit_test(a_log_that_is_refused_keeps_its_mark),
        cmocka_unit_test(a_session_without_its_newest_file_does_not_go_back),
        cmocka_unit_test(a_failed_fsync_deletes_nothing),
        cmocka_unit_test(leftovers_are_swept),
        cmocka_unit_test(a_folder_without_its_log_is_left_alone),
        cmocka_unit_test(a_hundred_thousand_sessions_open_fast),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
