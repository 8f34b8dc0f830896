/* kill -9 at any moment: what was acknowledged is there, and every file is whole. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/state/disk_io.h"
#include "tests/server/state/disk_rig.h"

enum { ROUNDS = 240, DEPTH = 40 };

static struct rig rig;

/* From the child: one operation was submitted, or came back. */
struct message {
    int object;
    bool acked;
    uint64_t version;
    struct rig_version is;
};

static int nothing(int fd)
{
    (void)fd;
    return 0;
}

static void tell(int to, const struct disk_op *op, bool acked)
{
    const struct rig_object *o = op->owner;
    struct message m = { .object = (int)(o - rig.object), .acked = acked };

    m.version = op->record.version;
    m.is = o->at[m.version - o->base];
    if (write(to, &m, sizeof(m)) != sizeof(m))
        _exit(3);
}

/* Submits for ever; the pipe has no room for more than some thousand messages, but the parent
 * reads. */
static void load(const struct disk_options *options, int to)
{
    struct error err;
    struct disk *d = disk_open(options, &err);

    if (!d)
        _exit(2);
    for (int waiting = 0;;) {
        struct disk_op *op = waiting < DEPTH ? rig_next(&rig) : NULL;

        if (op) {
            tell(to, op, false);
            if (!disk_submit(d, op))
                _exit(4);
            waiting++;
        }
        while ((op = disk_receive(d))) {
            if (op->error.code != ERR_NONE)
                _exit(5);
            tell(to, op, true);
            disk_op_free(op);
            waiting--;
        }
    }
}

/* At most n messages; false: there are no more. */
static bool listen(int from, uint64_t n)
{
    struct message m;

    while (n--) {
        struct rig_object *o;

        if (read(from, &m, sizeof(m)) != sizeof(m))
            return false;
        o = &rig.object[m.object];
        if (m.acked) {
            o->acked = m.version;
        } else {
            o->newest = m.version;
            o->at[m.version - o->base] = m.is;
        }
    }
    return true;
}

/* After so many operations, or after some time, which may be while the folder is opened. Only
 * the first is sure to come to something on a machine that is busy elsewhere. */
static void kill_some_time(pid_t child, int from)
{
    uint64_t dice = rig_random(&rig, 4);

    if (dice)
        listen(from, rig_random(&rig, 400));
    usleep((useconds_t)rig_random(&rig, dice ? 1500 : 25000));
    kill(child, SIGKILL);
    while (listen(from, 1000))
        ;
}

static void kill_and_look(enum disk_mode mode, const struct disk_io *io)
{
    struct disk_options options = rig_options(&rig, mode, io);
    struct error err;
    int pipes[2], status;
    struct disk *d;
    pid_t child;

    assert_int_equal(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        options.found = NULL;
        load(&options, pipes[1]);
    }
    rig_random(&rig, 2);
    close(pipes[1]);
    kill_some_time(child, pipes[0]);
    close(pipes[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status))
        fail_msg("the child ended by itself with %d", WEXITSTATUS(status));
    d = rig_open(&rig, &options, &err);
    if (!d)
        fail_msg("%s", err.message);
    rig_check(&rig, d, true);
    /* A kill may come between two pages of one write to the log. */
    if (rig.reports && !strstr(rig.report, "cut off") && !strstr(rig.report, "nothing refers"))
        fail_msg("%s", rig.report);
    disk_close(d);
}

/* A process that is killed leaves the page cache as it is: fsync plays no part. */
static void what_was_acknowledged_survives_kill(void **state)
{
    struct disk_io io = disk_io_system;
    uint64_t acked = 0;

    (void)state;
    io.fsync = nothing;
    io.syncfs = nothing;
    for (int mode = DISK_NONE; mode <= DISK_ALWAYS; mode++) {
        rig_begin(&rig, (uint64_t)mode);
        rig.strict = true;
        for (int i = 0; i < (mode == DISK_ALWAYS ? ROUNDS : ROUNDS / 8); i++)
            kill_and_look((enum disk_mode)mode, &io);
        assert_int_equal(rig_count_files(&rig, ".tmp"), 0);
        for (int i = 0; i < RIG_OBJECTS; i++)
            acked += rig.object[i].acked;
        rig_end(&rig);
    }
    print_message("# about %llu operations\n", (unsigned long long)acked);
    assert_true(acked > ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_acknowledged_survives_kill),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
