/* Slots and tiers: nothing changes a byte, nothing is left behind, bounds hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "server/state/checkpoint.h"
#include "server/state/record.h"
#include "server/state/tiers.h"
#include "tests/server/state/late.h"

enum { RECORD = 192, SLOTS = 3, PARKED = 4, SPARES = 5 };

static struct devices two, one;           /* one: the first of them */
static struct devices late_two, late_one; /* the same, with late moves */

static int open_devices(void **unused)
{
    const struct backend_options with = { .threads = 2, .isa = "plain" };
    struct error err;

    (void)unused;
    if (!devices_open(&two, "cpu,cpu", &with, &err) ||
        !devices_open(&late_two, "cpu,cpu", &with, &err))
        return -1;
    for (int i = 0; i < late_two.count; i++)
        late_make(late_two.at[i].backend, (uint64_t)i + 1);
    one = (struct devices){ .at = { two.at[0] }, .count = 1 };
    late_one = (struct devices){ .at = { late_two.at[0] }, .count = 1 };
    return 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    devices_close(&two);
    devices_close(&late_two);
    return 0;
}

static const struct devices *used; /* by the newest tiers */

static struct tiers *create_on(const struct devices *devices, int slots, int at_once)
{
    struct error err;
    const struct tiers_options options = { .record_bytes = RECORD,
                                           .slots = slots,
                                           .at_once = at_once,
                                           .host_bytes = PARKED * RECORD,
                                           .spare_bytes = SPARES * RECORD };
    struct tiers *t = tiers_create(devices, &options, &err);

    assert_non_null(t);
    used = devices;
    return t;
}

static struct tiers *create(void)
{
    return create_on(&one, SLOTS, SLOTS);
}

static void *record_of(struct tiers *t, int slot)
{
    struct slot_place at = tiers_place(t, slot);

    return (char *)tiers_records(t, at.device) + at.index * RECORD;
}

static struct backend *backend_of(struct tiers *t, int slot)
{
    return used->at[tiers_place(t, slot).device].backend;
}

static void write_slot(struct tiers *t, int slot, int byte)
{
    unsigned char bytes[RECORD];

    memset(bytes, byte, RECORD);
    while (!tiers_ready(t, slot))
        continue;
    backend_of(t, slot)->upload(backend_of(t, slot), record_of(t, slot), bytes, RECORD);
}

static bool slot_is(struct tiers *t, int slot, int byte)
{
    unsigned char bytes[RECORD];

    while (!tiers_ready(t, slot))
        continue;
    backend_of(t, slot)->download(backend_of(t, slot), bytes, record_of(t, slot), RECORD);
    for (int i = 0; i < RECORD; i++)
        if (bytes[i] != byte)
            return false;
    return true;
}

/* A turn on `from` that leaves a state of `byte`. NULL: no slot. */
static struct checkpoint *turn(struct tiers *t, struct checkpoint *from, int byte)
{
    int slot = tiers_start(t, from);
    struct checkpoint *c;

    if (slot < 0)
        return NULL;
    write_slot(t, slot, byte);
    c = checkpoint_create();
    assert_non_null(c);
    c->position = 1;
    c->pending = byte; /* what the record should hold */
    tiers_commit(t, c, slot);
    return c;
}

static void a_reused_slot_equals_a_fresh_one(void **unused)
{
    struct tiers *t = create();

    (void)unused;
    for (int round = 0; round < 10; round++) {
        int slot = tiers_start(t, NULL);

        assert_true(slot_is(t, slot, 0));
        write_slot(t, slot, 0xab);
        tiers_drop(t, slot);
    }
    tiers_destroy(t);
}

static void a_turn_that_is_dropped_has_moved_nothing(void **unused)
{
    struct tiers *t = create();
    struct checkpoint *c = turn(t, NULL, 5);
    int slot = tiers_start(t, c);

    (void)unused;
    assert_true(slot_is(t, slot, 5));
    write_slot(t, slot, 6);
    tiers_drop(t, slot);
    slot = tiers_start(t, c);
    assert_true(slot_is(t, slot, 5));
    tiers_drop(t, slot);
    tiers_release(t, c);
    tiers_destroy(t);
}

static void what_does_not_fit_is_refused_and_nothing_is_lost(void **unused)
{
    struct tiers *t = create();
    struct checkpoint *all[SLOTS + PARKED + 1];
    int n = 0, slot;

    (void)unused;
    while (tiers_has_room(t)) {
        all[n] = turn(t, NULL, n + 1);
        assert_non_null(all[n]);
        n++;
    }
    assert_int_equal(n, SLOTS + PARKED - 1); /* one slot is left to work in */
    for (int i = 0; i < n; i++) {
        slot = tiers_start(t, all[i]);
        assert_true(slot >= 0 && slot_is(t, slot, i + 1));
        tiers_drop(t, slot);
    }
    for (int i = 0; i < n; i++)
        tiers_release(t, all[i]);
    assert_int_equal(tiers_counts(t).host_bytes, 0);
    assert_int_equal(tiers_counts(t).slots_used, 0);
    tiers_destroy(t);
}

static void an_export_is_a_copy_and_comes_back_by_adoption(void **unused)
{
    struct tiers *t = create();
    struct checkpoint *c = turn(t, NULL, 9), *copy = tiers_export(t, c);
    int slot;

    (void)unused;
    tiers_release(t, c);
    assert_true(tiers_adopt(t, copy));
    slot = tiers_start(t, copy);
    assert_true(slot_is(t, slot, 9));
    tiers_drop(t, slot);
    tiers_release(t, copy);
    assert_int_equal(tiers_counts(t).host_bytes, 0);
    tiers_destroy(t);
}

static uint64_t state = 88172645463325252u;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

/* A turn that made room in between, and did so before its state had come, finds it again. -1: there
 * was no room for it. */
static int lift_and_resume(struct tiers *t, int slot, const struct checkpoint *from)
{
    void *lifted = tiers_lift(t, slot);

    if (!lifted)
        return slot;
    slot = tiers_resume(t, lifted);
    if (slot < 0)
        tiers_discard(t, lifted);
    else
        assert_true(slot_is(t, slot, from ? from->pending : 0));
    return slot;
}

/* Once it is there, and gone. */
static void check_arrival(struct tiers *t, struct checkpoint *copy)
{
    while (tiers_arrival(t, copy->record) == ARRIVAL_AWAITED)
        continue;
    assert_int_equal(tiers_arrival(t, copy->record), ARRIVAL_HERE);
    for (int i = 0; i < RECORD; i++)
        assert_int_equal(((unsigned char *)copy->record)[i], copy->pending);
    checkpoint_destroy(copy);
}

/* What leaves is what is there, wherever that is, and stays that. */
static void check_copy(struct tiers *t, const struct checkpoint *c)
{
    struct checkpoint *copy = c && !below(4) ? tiers_export(t, c) : NULL;

    if (copy)
        check_arrival(t, copy);
}

/* Also while what it replaces leaves. Whoever else keeps that goes on keeping it. */
static struct checkpoint *replace(struct tiers *t, struct checkpoint *from, int byte)
{
    struct checkpoint *copy = tiers_export(t, from), *c = checkpoint_create();
    bool done;

    assert_true(copy && c);
    c->position = 1;
    c->pending = byte;
    c->record = record_create(RECORD);
    memset(c->record, byte, RECORD);
    done = tiers_replace(t, c, from);
    assert_true(done == (from->refs == 1));
    check_arrival(t, copy);
    if (!done) {
        checkpoint_destroy(c);
        return from;
    }
    tiers_release(t, from);
    return c;
}

/* Against the simplest model there is: a checkpoint is the byte its record was filled with. */
static void random_on(const struct devices *devices, int slots)
{
    struct tiers *t = create_on(devices, slots, slots);
    struct checkpoint *held[12] = { NULL };

    for (int round = 0; round < 20000; round++) {
        unsigned i = below(12), j = below(12);

        if (below(3) == 0) {
            tiers_release(t, held[i]);
            held[i] = NULL;
        } else if (held[i] && !held[j]) {
            held[j] = tiers_keep(held[i]);
        } else if (held[i] && !below(4)) {
            held[i] = replace(t, held[i], (int)below(255) + 1);
        } else if (tiers_has_room(t)) {
            int slot = tiers_start(t, held[i]);

            assert_true(slot >= 0);
            if (below(4)) /* else it goes while it is on its way */
                assert_true(slot_is(t, slot, held[i] ? held[i]->pending : 0));
            slot = below(4) ? slot : lift_and_resume(t, slot, held[i]);
            if (slot >= 0)
                tiers_drop(t, slot);
            check_copy(t, held[i]);
            tiers_release(t, held[j]);
            held[j] = turn(t, NULL, (int)below(255) + 1);
            assert_non_null(held[j]);
        }
    }
    for (int i = 0; i < 12; i++)
        tiers_release(t, held[i]);
    assert_int_equal(tiers_counts(t).checkpoints, 0);
    assert_int_equal(tiers_counts(t).slots_used, 0);
    assert_int_equal(tiers_counts(t).host_bytes, 0);
    tiers_destroy(t);
}

static void random_turns_forks_and_releases_never_mix_states(void **unused)
{
    (void)unused;
    random_on(&one, SLOTS);
}

/* Where one slot is left to work in on either device, what is on the other comes to it. */
static void nor_do_they_on_two_devices(void **unused)
{
    (void)unused;
    random_on(&two, 1);
    random_on(&two, 2);
}

/* One whose records in host memory would be used before they came, or given away before they went,
 * would find garbage. */
static void nor_do_they_when_moves_are_late(void **unused)
{
    (void)unused;
    random_on(&late_one, SLOTS);
    random_on(&late_two, 1);
    random_on(&late_two, 2);
    assert_true(late_moves() > 1000);
}

static void ignore_dropped(void *arg, const struct checkpoint *c)
{
    (void)arg;
    (void)c;
}

/* Two slots over a store, and nothing between them. */
static struct tiers *create_over_store(void)
{
    const struct tiers_options options = { .record_bytes = RECORD,
                                           .slots = 2,
                                           .at_once = 2,
                                           .spare_bytes = SPARES * RECORD,
                                           .store = true,
                                           .store_bytes = 1 << 20,
                                           .dropped = ignore_dropped };
    struct error err;
    struct tiers *t = tiers_create(&one, &options, &err);

    assert_non_null(t);
    return t;
}

static void a_spare_makes_way_before_what_the_store_has(void **unused)
{
    struct tiers *t = create_over_store();
    struct checkpoint *spare = tiers_remember(turn(t, NULL, 1)), *head = turn(t, NULL, 2);
    int slot;

    (void)unused;
    tiers_release(t, spare);
    tiers_stored(t, head, RECORD);
    slot = tiers_start(t, NULL);
    assert_true(slot >= 0);
    assert_true(head->slot >= 0);
    assert_false(tiers_has_record(spare));
    tiers_drop(t, slot);
    tiers_forget(t, spare);
    tiers_release(t, head);
    tiers_destroy(t);
}

static void what_the_store_has_makes_way_for_what_it_has_not(void **unused)
{
    struct tiers *t = create_over_store();
    struct checkpoint *coldest = turn(t, NULL, 1), *head = turn(t, NULL, 2);
    int slot;

    (void)unused;
    tiers_stored(t, head, RECORD);
    slot = tiers_start(t, NULL);
    assert_true(slot >= 0);
    assert_true(checkpoint_is_cold(head));
    tiers_drop(t, slot);
    slot = tiers_start(t, coldest);
    assert_true(slot_is(t, slot, 1));
    tiers_drop(t, slot);
    tiers_release(t, coldest);
    tiers_release(t, head);
    tiers_destroy(t);
}

static void every_slot_of_every_device_is_had_and_is_zero(void **unused)
{
    enum { ALL = 2 * SLOTS };
    struct tiers *t = create_on(&two, SLOTS, SLOTS);
    int slot[ALL];

    (void)unused;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < ALL; i++) {
            slot[i] = tiers_start(t, NULL);
            assert_true(slot[i] >= 0 && slot_is(t, slot[i], 0));
            for (int k = 0; k < i; k++)
                assert_int_not_equal(slot[k], slot[i]);
            write_slot(t, slot[i], 0xa0 + i);
        }
        assert_int_equal(tiers_start(t, NULL), -1);
        for (int i = 0; i < ALL; i++) {
            assert_true(slot_is(t, slot[i], 0xa0 + i));
            tiers_drop(t, slot[i]);
        }
    }
    tiers_destroy(t);
}

static void no_device_has_more_turns_than_it_may(void **unused)
{
    struct tiers *t = create_on(&two, SLOTS, 2);
    int slot[4];

    (void)unused;
    for (int i = 0; i < 4; i++)
        assert_true((slot[i] = tiers_start(t, NULL)) >= 0);
    assert_int_equal(tiers_start(t, NULL), -1);
    assert_int_equal(tiers_counts(t).device[0].worked, 2);
    assert_int_equal(tiers_counts(t).device[1].worked, 2);
    tiers_drop(t, slot[0]);
    assert_int_equal(tiers_place(t, slot[0] = tiers_start(t, NULL)).device, 0);
    for (int i = 0; i < 4; i++)
        tiers_drop(t, slot[i]);
    tiers_destroy(t);
}

/* The first device is full of turns but for the state that they all could start from. */
static void a_state_comes_to_where_its_turn_works(void **unused)
{
    struct tiers *t = create_on(&two, 2, 2);
    struct checkpoint *c = turn(t, NULL, 7);
    const int home = tiers_place(t, c->slot).device;
    int slot[3];

    (void)unused;
    for (int i = 0; i < 3; i++) {
        slot[i] = tiers_start(t, c);
        assert_true(slot[i] >= 0 && slot_is(t, slot[i], 7) && slot_is(t, c->slot, 7));
        write_slot(t, slot[i], i);
    }
    assert_int_equal(tiers_counts(t).device[home].worked, 1);
    assert_int_equal(tiers_counts(t).device[!home].worked, 2);
    assert_int_equal(tiers_counts(t).moves.device_device, 2);
    assert_int_equal(tiers_counts(t).host_bytes, 0);
    for (int i = 0; i < 3; i++) {
        assert_true(slot_is(t, slot[i], i));
        tiers_drop(t, slot[i]);
    }
    tiers_release(t, c);
    tiers_destroy(t);
}

/* A device that knows its room, of which operations keep 1 GiB. */
static size_t little_room(struct backend *be)
{
    (void)be;
    return ((size_t)1 << 30) + 10 * RECORD + RECORD / 2;
}

static void more_slots_than_fit_are_refused_with_the_number_that_does(void **unused)
{
    struct tiers_options options = { .record_bytes = RECORD, .slots = 11, .at_once = 11 };
    struct backend *backend = one.at[0].backend;
    size_t (*room)(struct backend * be) = backend->room;
    struct error err = { 0 };
    struct tiers *t;

    (void)unused;
    backend->room = little_room;
    assert_null(tiers_create(&one, &options, &err));
    assert_int_equal(err.code, ERR_NOMEM);
    assert_non_null(strstr(err.message, "11 state slots"));
    assert_non_null(strstr(err.message, ": 10 do"));
    options.slots = 10;
    t = tiers_create(&one, &options, &err);
    assert_non_null(t);
    tiers_destroy(t);
    backend->room = room;
}

static void nothing_is_taken_from_a_device_that_fails(void **unused)
{
    struct tiers *t = create_on(&late_two, 2, 2);
    struct checkpoint *c = turn(t, NULL, 3), *copy;
    unsigned char bytes[RECORD];
    int slot;

    (void)unused;
    assert_int_equal(tiers_place(t, c->slot).device, 0);
    slot = tiers_start(t, c); /* beside it, so that the next one has to cross */
    copy = tiers_export(t, c);
    assert_non_null(copy);
    late_lose(late_two.at[0].backend);
    assert_int_equal(tiers_arrival(t, copy->record), ARRIVAL_FAILED);
    checkpoint_destroy(copy);
    assert_false(tiers_read(t, c, bytes));
    assert_int_equal(tiers_start(t, c), -1);
    assert_int_equal(tiers_counts(t).slots_used, 2);
    tiers_drop(t, slot);
    tiers_release(t, c);
    tiers_destroy(t);
}

/* A state that was on its way from a device that failed is not worked on where all is well, and
 * stays one that has failed. */
static void nor_is_what_never_came_from_it(void **unused)
{
    const struct backend_options with = { .threads = 1, .isa = "auto" };
    struct checkpoint *c = checkpoint_create(), *copy;
    unsigned char bytes[RECORD];
    struct devices devices;
    struct error err;
    struct tiers *t;
    void *lifted[2];
    int slot[4];

    (void)unused;
    assert_true(c && devices_open(&devices, "cpu,cpu", &with, &err));
    for (int i = 0; i < devices.count; i++)
        late_make(devices.at[i].backend, 1);
    t = create_on(&devices, 2, 2);
    for (int i = 0; i < 4; i++) {
        slot[i] = tiers_start(t, NULL);
        assert_int_equal(tiers_place(t, slot[i]).device, i % 2);
    }
    for (int i = 0; i < 2; i++) {
        tiers_drop(t, slot[2 * i]); /* which leaves the first device to whatever comes */
        lifted[i] = tiers_lift(t, slot[2 * i + 1]);
        assert_non_null(lifted[i]);
    }
    c->position = 1;
    tiers_commit_lifted(t, c, lifted[0]);
    copy = tiers_export(t, c);
    assert_non_null(copy);
    late_lose(devices.at[1].backend);
    assert_int_equal(tiers_start(t, c), -1);
    assert_int_equal(tiers_resume(t, lifted[1]), -1);
    assert_int_equal(tiers_counts(t).slots_used, 0);
    assert_int_equal(tiers_arrival(t, copy->record), ARRIVAL_FAILED);
    assert_false(tiers_read(t, c, bytes));
    checkpoint_destroy(copy);
    tiers_discard(t, lifted[1]);
    tiers_release(t, c);
    tiers_destroy(t);
    devices_close(&devices);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reused_slot_equals_a_fresh_one),
        cmocka_unit_test(a_turn_that_is_dropped_has_moved_nothing),
        cmocka_unit_test(what_does_not_fit_is_refused_and_nothing_is_lost),
        cmocka_unit_test(an_export_is_a_copy_and_comes_back_by_adoption),
        cmocka_unit_test(random_turns_forks_and_releases_never_mix_states),
        cmocka_unit_test(nor_do_they_on_two_devices),
        cmocka_unit_test(nor_do_they_when_moves_are_late),
        cmocka_unit_test(a_spare_makes_way_before_what_the_store_has),
        cmocka_unit_test(what_the_store_has_makes_way_for_what_it_has_not),
        cmocka_unit_test(every_slot_of_every_device_is_had_and_is_zero),
        cmocka_unit_test(no_device_has_more_turns_than_it_may),
        cmocka_unit_test(a_state_comes_to_where_its_turn_works),
        cmocka_unit_test(more_slots_than_fit_are_refused_with_the_number_that_does),
        cmocka_unit_test(nor_is_what_never_came_from_it),
        cmocka_unit_test(nothing_is_taken_from_a_device_that_fails), /* the last: it stays so */
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
