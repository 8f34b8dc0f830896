/* The power goes: what is there afterwards was there at some moment, and not too long ago. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/state/disk_rig.h"
#include "tests/server/state/power.h"

enum { OPS_BEFORE = 20, OPS_AFTER = 30, SETTLE_SECONDS = 60 };

static struct rig rig;

/* The operations in the order in which they were submitted. */
static struct {
    int object;
    uint64_t version;
} order[OPS_BEFORE + OPS_AFTER];
static int ordered;

static void receive_all(struct disk *d)
{
    disk_wait(d);
    for (struct disk_op *op; (op = disk_receive(d)); disk_op_free(op))
        if (op->error.code == ERR_NONE)
            rig_acked(&rig, op);
}

static void run_ops(struct disk *d, int ops)
{
    for (int i = 0; i < ops; i++) {
        struct disk_op *op = rig_next(&rig);

        order[ordered].object = (int)((struct rig_object *)op->owner - rig.object);
        order[ordered++].version = op->record.version;
        assert_true(disk_submit(d, op));
        if (rig_random(&rig, 2))
            receive_all(d);
    }
    receive_all(d);
}

static void wait_until_settled(void)
{
    time_t until = time(NULL) + SETTLE_SECONDS;

    while (!power_is_settled() && time(NULL) < until)
        usleep(1000);
    assert_true(power_is_settled());
}

static bool is_at(int object, uint64_t version)
{
    const struct rig_object *o = &rig.object[object];
    const struct disk_record *f = &rig.found[object];
    bool set = o->at[version - o->base].set;

    return (f->kind != 0) == set && (!set || f->version == version);
}

/* All objects together are as they were after one of the operations. */
static void check_moment(uint64_t seed)
{
    uint64_t now[RIG_OBJECTS] = { 0 };
    bool is_now = false;

    for (int i = 0; i <= ordered && !is_now; i++) {
        is_now = true;
        for (int k = 0; k < RIG_OBJECTS; k++)
            is_now &= is_at(k, now[k]);
        if (i < ordered)
            now[order[i].object] = order[i].version;
    }
    if (!is_now)
        fail_msg("seed %d: what was found is old and new; %s", (int)seed, rig.report);
}

static void look_at_image(const struct disk_options *made, uint64_t seed)
{
    struct disk_options options = *made;
    char image[sizeof(rig.path)], old[sizeof(rig.path)];
    struct error err;
    struct disk *d;

    memcpy(old, rig.path, sizeof(old));
    snprintf(image, sizeof(image), "%.50s-image", old);
    assert_int_equal(mkdir(image, 0700), 0);
    power_make_image(image, seed);
    memcpy(rig.path, image, sizeof(rig.path));
    options.io = &disk_io_system;
    options.path = rig.path;
    d = rig_open(&rig, &options, &err);
    if (!d)
        fail_msg("seed %d: %s", (int)seed, err.message);
    if (options.mode == DISK_INTERVAL)
        check_moment(seed);
    rig_check(&rig, d, true);
    disk_close(d);
    rig_end(&rig);
    memset(rig.found, 0, sizeof(rig.found));
    memcpy(rig.path, old, sizeof(old));
}

/* With DISK_ALWAYS what was acknowledged is there; with DISK_INTERVAL, what was when the disk
 * had come to rest. */
static void cut_once(enum disk_mode mode, uint64_t seed)
{
    struct disk_io io = power_io();
    uint64_t acked[RIG_OBJECTS];
    struct disk_options options;
    struct error err;
    struct disk *d;

    rig_begin(&rig, seed);
    ordered = 0;
    options = rig_options(&rig, mode, &io);
    options.compact_bytes = 1024 << seed % 4;
    d = rig_open(&rig, &options, &err);
    assert_non_null(d);
    run_ops(d, OPS_BEFORE);
    if (mode == DISK_INTERVAL)
        wait_until_settled();
    for (int i = 0; i < RIG_OBJECTS; i++)
        acked[i] = rig.object[i].acked;
    power_cut_after(1 + (int)rig_random(&rig, mode == DISK_ALWAYS ? 200 : 120), true);
    run_ops(d, OPS_AFTER);
    for (int i = 0; i < RIG_OBJECTS && mode == DISK_INTERVAL; i++)
        rig.object[i].acked = acked[i];
    disk_close(d);
    look_at_image(&options, seed);
    rig_end(&rig);
    power_forget();
}

static void always_keeps_what_was_acknowledged(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++)
        cut_once(DISK_ALWAYS, seed);
}

static void interval_keeps_what_is_older_than_an_interval(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++)
        cut_once(DISK_INTERVAL, seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(always_keeps_what_was_acknowledged),
        cmocka_unit_test(interval_keeps_what_is_older_than_an_interval),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
