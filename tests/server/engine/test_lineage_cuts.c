/* A subtree that is being deleted when the store fails, the process ends, or its log does: it is
 * whole or gone afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

#include "server/state/disk.h"
#include "server/state/disk_io.h"
#include "server/state/disk_log.h"
#include "tests/server/engine/tree.h"
#include "tests/server/folder.h"

/* From call number fail_at on so many calls fail: all that come, which is what a crash leaves, or
 * one. */
static atomic_int calls, fail_at, fails;

static bool failing(void)
{
    int n = atomic_fetch_add(&calls, 1) + 1, from = atomic_load(&fail_at);

    errno = EIO;
    return from && n >= from && n - from < atomic_load(&fails);
}

static void fail_from(int call, int so_many)
{
    atomic_store(&calls, 0);
    atomic_store(&fails, so_many);
    atomic_store(&fail_at, call);
}

static ssize_t try_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    return failing() ? -1 : pwrite(fd, bytes, len, at);
}

static int try_fsync(int fd)
{
    return failing() ? -1 : fsync(fd);
}

static int try_unlinkat(int dir, const char *path, int flags)
{
    return failing() ? -1 : unlinkat(dir, path, flags);
}

static atomic_bool keeping;

/* States stay, whatever the log says. */
static int keep_states(int dir, const char *path, int flags)
{
    errno = EIO;
    return atomic_load(&keeping) && strstr(path, "ckpt_") ? -1 : unlinkat(dir, path, flags);
}

static void open_grown(struct tree *w, const struct disk_io *io)
{
    folder_remove(NULL);
    folder_make_in_memory(NULL);
    *w = (struct tree){ .options = tree_options(8, 1 << 24, true) };
    w->options.durability = DISK_ALWAYS;
    w->options.io = io;
    rig_open(&w->rig, TREE_MODEL, &w->options, 1);
    tree_grow(w);
}

static bool delete_below_root(struct tree *w)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, w->snapshot[ROOT].id.text);
    bool answered;

    c->whole = true;
    answered = rig_ask(&w->rig, c) == PROBLEM_NONE;
    command_free(c);
    return answered;
}

static void forget_below_root(struct tree *w)
{
    for (int i = 0; i < w->snapshots; i++)
        w->snapshot[i].alive &= !tree_is_below(w, i, ROOT);
}

/* Everything is as expected, goes on, and is found again. */
static void check_and_go_on(struct tree *w)
{
    tree_check(w);
    for (int i = 0; i < 3; i++) {
        tree_append(w, &w->session[i]);
        tree_take(w, &w->session[i], &w->session[i]);
    }
    tree_check(w);
    tree_reopen(w);
    tree_check(w);
    assert_int_equal(engine_counters(w->rig.engine).store_reports, 0);
    rig_close(&w->rig);
}

/* A start after call number `call` and the next ones have failed: whether the subtree is there. */
static bool is_left(struct tree *w, const struct disk_io *io, int call, int so_many, bool *answered)
{
    int left;

    open_grown(w, io);
    fail_from(call, so_many);
    *answered = delete_below_root(w);
    if (*answered)
        forget_below_root(w);
    tree_check(w);
    rig_close(&w->rig);
    fail_from(0, 0);

    rig_open(&w->rig, TREE_MODEL, &w->options, 1);
    left = engine_counters(w->rig.engine).snapshots;
    if (!*answered && left != LEFT + CUT) /* it was done after all */
        forget_below_root(w);
    check_and_go_on(w);
    return left == LEFT + CUT;
}

static void check_failures(int so_many)
{
    static struct tree w;
    struct disk_io io = disk_io_system;
    bool answered = false;
    int whole = 0, gone = 0;

    io.pwrite = try_pwrite;
    io.fsync = try_fsync;
    io.unlinkat = try_unlinkat;
    for (int k = 1; !answered || k < 30; k++) {
        bool left = is_left(&w, &io, k, so_many, &answered);

        whole += left;
        gone += !left;
    }
    assert_true(whole >= 1 && gone >= 2);
}

static void a_crash_leaves_a_subtree_whole_or_gone(void **unused)
{
    (void)unused;
    check_failures(INT_MAX);
}

static void a_failure_leaves_a_subtree_whole_or_gone(void **unused)
{
    (void)unused;
    check_failures(1);
}

struct log {
    unsigned char *bytes; /* from malloc */
    size_t len;
};

static int open_log(void)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/log", folder);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    return fd;
}

/* All its records, which no other byte follows. */
static struct log read_log(void)
{
    int fd = open_log();
    size_t len = (size_t)lseek(fd, 0, SEEK_END), n;
    struct log log = { .bytes = malloc(len), .len = DISK_LOG_BEGIN };

    assert_true(pread(fd, log.bytes, len, 0) == (ssize_t)len);
    close(fd);
    while ((n = disk_record_decode(log.bytes + log.len, len - log.len, NULL)))
        log.len += n;
    return log;
}

/* Where the record behind `at` begins. */
static size_t next_record(const struct log *log, size_t at)
{
    size_t n = disk_record_decode(log->bytes + at, log->len - at, NULL);

    assert_true(n > 0);
    return at + n;
}

static void write_log(const struct log *log, size_t len)
{
    int fd = open_log();

    assert_true(pwrite(fd, log->bytes, len, 0) == (ssize_t)len);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
}

/* Nothing is on its way to the folder any more. */
static void settle(struct tree *w)
{
    rig_do(&w->rig, COMMAND_SESSION_LIST, NULL);
    while (engine_counters(w->rig.engine).store_waiting)
        usleep(100);
}

/* The work behind the answer may stop at any record. */
static void a_log_that_ends_early_leaves_a_subtree_whole_or_gone(void **unused)
{
    static struct tree w;
    struct disk_io io = disk_io_system;
    int records = 0;

    (void)unused;
    io.unlinkat = keep_states;
    for (bool more = true; more; records++) {
        struct log before, log;
        size_t end;

        open_grown(&w, &io);
        before = read_log();
        atomic_store(&keeping, true);
        assert_true(delete_below_root(&w));
        settle(&w);
        rig_close(&w.rig);
        atomic_store(&keeping, false);

        log = read_log();
        end = before.len;
        for (int i = 0; i < records && end < log.len; i++)
            end = next_record(&log, end);
        more = end < log.len;
        write_log(&log, end);
        free(before.bytes);
        free(log.bytes);
        if (records)
            forget_below_root(&w);
        w.options.io = NULL;
        rig_open(&w.rig, TREE_MODEL, &w.options, 1);
        check_and_go_on(&w);
    }
    assert_true(records > CUT + 2);
}

/* Shows what each session hangs below. */
static void take_of_all(struct tree *w)
{
    for (int i = 0; i < SESSIONS && w->snapshots < SNAPSHOTS; i++)
        if (w->session[i].alive)
            tree_take(w, &w->session[i], &w->session[i]);
    tree_check(w);
}

/* The log of some verbs, cut behind each record: what is found is what was before a verb, or
 * what it made, whatever part of the work behind the answer is there. Taking is two records. */
static void every_beginning_of_a_log_is_a_moment(void **unused)
{
    enum { VERBS = 90 };
    static struct tree at[VERBS + 1], w;
    struct disk_io io = disk_io_system;
    size_t len[VERBS + 1], end = 0;
    int cuts = 0;
    struct log log;

    (void)unused;
    io.unlinkat = keep_states;
    atomic_store(&keeping, true);
    w = (struct tree){ .options = tree_options(8, 1 << 24, true) };
    w.options.io = &io;
    rig_open(&w.rig, TREE_MODEL, &w.options, 1);
    for (int i = 0; i <= VERBS; i++) {
        if (i)
            tree_play(&w);
        settle(&w);
        log = read_log();
        len[i] = log.len;
        at[i] = w;
        free(log.bytes);
    }
    rig_close(&w.rig);
    log = read_log();
    for (int i = 0; i < VERBS; i++)
        for (end = len[i]; end < len[i + 1]; end = next_record(&log, end)) {
            w = at[end == len[i] ? i : i + 1];
            write_log(&log, end);
            rig_open(&w.rig, TREE_MODEL, &w.options, 1);
            tree_check(&w);
            if (end == len[i] || at[i].done[COMMAND_SNAPSHOT_TAKE] == w.done[COMMAND_SNAPSHOT_TAKE])
                take_of_all(&w);
            rig_close(&w.rig);
            cuts++;
        }
    atomic_store(&keeping, false);
    free(log.bytes);
    assert_true(cuts > VERBS && w.done[COMMAND_SNAPSHOT_DELETE] > 5 && w.cut > 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, folder_make_in_memory, folder_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_crash_leaves_a_subtree_whole_or_gone),
        CASE(a_failure_leaves_a_subtree_whole_or_gone),
        CASE(a_log_that_ends_early_leaves_a_subtree_whole_or_gone),
        CASE(every_beginning_of_a_log_is_a_moment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
