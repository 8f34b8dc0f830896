/* The shared tier on a good day: what goes in comes back, for every server, and what nobody
 * stands on any more is gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <hiredis/hiredis.h>

#include "tests/server/state/redis_rig.h"

enum { CHUNK = 4 << 20, LARGE = 170 << 20 };

static struct redis_server server;

static void a_session_comes_back_with_every_field(void **state)
{
    struct redis *here, *there;
    struct redis_op *op, *found;
    struct disk_record *r;

    (void)state;
    redis_server_begin(&server);
    here = rig_open(server.url);
    there = rig_open(server.url);
    op = rig_op(REDIS_CREATE, DISK_SNAPSHOT_SET, "a");
    r = &op->record;
    r->version = 3;
    r->position = UINT64_MAX;
    r->seed = 42;
    r->flags = 7;
    r->created = 1.1;
    r->updated = 2.2;
    r->ttl = 1000.3;
    strcpy(r->session.text, "a-session");
    strcpy(r->parent.text, "a-parent");
    strcpy(r->checkpoint.text, "ckpt_a");
    r->note = memcpy(malloc(6), "no\0te", 6);
    r->note_len = 6;
    op->file = rig_file("ckpt_a", 100);
    op->file_len = 100;
    assert_int_equal(rig_verdict(rig_do(here, op)), REDIS_DONE);
    found = rig_do(there, rig_op(REDIS_LOOK, DISK_SNAPSHOT_SET, "a"));
    assert_int_equal(found->verdict, REDIS_DONE);
    r = &found->record;
    assert_int_equal(r->version, 3);
    assert_true(r->position == UINT64_MAX && r->seed == 42 && r->flags == 7);
    assert_true(r->created == 1.1 && r->updated == 2.2 && r->ttl == 1000.3);
    assert_string_equal(r->session.text, "a-session");
    assert_string_equal(r->parent.text, "a-parent");
    assert_string_equal(r->checkpoint.text, "ckpt_a");
    assert_int_equal(r->bytes, 100);
    assert_int_equal(r->note_len, 6);
    assert_memory_equal(r->note, "no\0te", 6);
    redis_op_free(found);
    rig_check_file(there, "ckpt_a", 100);
    /* A session and a snapshot of the same name are two things, and so are two owners'. */
    assert_int_equal(rig_verdict(rig_do(there, rig_op(REDIS_LOOK, DISK_SESSION_SET, "a"))),
                     REDIS_ABSENT);
    op = rig_op(REDIS_LOOK, DISK_SNAPSHOT_SET, "a");
    op->record.owner = 8;
    assert_int_equal(rig_verdict(rig_do(there, op)), REDIS_ABSENT);
    redis_close(here);
    redis_close(there);
    redis_server_end(&server);
}

static void states_of_every_length_come_back(void **state)
{
    static const size_t len[] = { 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, LARGE };
    struct redis *r;

    (void)state;
    redis_server_begin(&server);
    r = rig_open(server.url);
    for (size_t i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
        char id[16];

        snprintf(id, sizeof(id), "ckpt_%zu", i);
        assert_int_equal(rig_create(r, DISK_SESSION_SET, id, id, len[i], 0), REDIS_DONE);
        rig_check_file(r, id, len[i]);
        assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_DELETE, DISK_SESSION_SET, id))),
                         REDIS_DONE);
    }
    assert_int_equal(redis_server_count(&server, "DBSIZE"), 0);
    redis_close(r);
    redis_server_end(&server);
}

static void turns_go_from_server_to_server(void **state)
{
    struct redis *r[2];
    char checkpoint[32] = "";

    (void)state;
    redis_server_begin(&server);
    r[0] = rig_open(server.url);
    r[1] = rig_open(server.url);
    assert_int_equal(rig_create(r[0], DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    assert_int_equal(rig_create(r[1], DISK_SESSION_SET, "s", "", 0, 0), REDIS_EXISTS);
    for (uint64_t version = 0; version < 20; version++) {
        struct redis *turn = r[version % 2];
        struct redis_op *taken = rig_do(turn, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));

        assert_int_equal(taken->verdict, REDIS_DONE);
        assert_int_equal(taken->record.version, version);
        assert_string_equal(taken->record.checkpoint.text, checkpoint);
        if (version)
            rig_check_file(turn, checkpoint, 1000 + version - 1);
        snprintf(checkpoint, sizeof(checkpoint), "ckpt_%d", (int)version);
        assert_int_equal(rig_commit(turn, taken, checkpoint, 1000 + version), REDIS_DONE);
        redis_op_free(taken);
        /* The head, its state and the state's list of users: nothing else is left behind. */
        assert_int_equal(redis_server_count(&server, "DBSIZE"), 3);
    }
    redis_close(r[0]);
    redis_close(r[1]);
    redis_server_end(&server);
}

/* Another server may have moved it, or put another one there, since it was looked at. */
static void a_version_alone_can_be_deleted(void **state)
{
    struct redis *r;
    struct redis_op *looked, *taken;

    (void)state;
    redis_server_begin(&server);
    r = rig_open(server.url);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    looked = rig_do(r, rig_op(REDIS_LOOK, DISK_SESSION_SET, "s"));
    taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
    assert_int_equal(rig_commit(r, taken, "ckpt_a", 500), REDIS_DONE);
    assert_int_equal(rig_delete_version(r, looked), REDIS_LOST);
    redis_op_free(looked);
    looked = rig_do(r, rig_op(REDIS_LOOK, DISK_SESSION_SET, "s"));
    assert_int_equal(looked->record.version, 1);
    assert_int_equal(rig_delete_version(r, looked), REDIS_DONE);
    assert_int_equal(rig_delete_version(r, looked), REDIS_ABSENT);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    looked->record.version = 0;
    assert_int_equal(rig_delete_version(r, looked), REDIS_LOST);
    redis_op_free(looked);
    redis_op_free(taken);
    redis_close(r);
    redis_server_end(&server);
}

static void a_state_is_there_once_and_as_long_as_anyone_stands_on_it(void **state)
{
    struct redis *r;
    struct redis_op *taken;

    (void)state;
    redis_server_begin(&server);
    r = rig_open(server.url);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "ckpt_a", 500, 0), REDIS_DONE);
    assert_int_equal(rig_create(r, DISK_SNAPSHOT_SET, "snap", "ckpt_a", 0, 0), REDIS_DONE);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "fork", "ckpt_a", 500, 0), REDIS_DONE);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "none", "ckpt_b", 0, 0), REDIS_MISSING);
    assert_int_equal(redis_server_count(&server, "DBSIZE"), 3 + 2);
    taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
    assert_int_equal(rig_commit(r, taken, "ckpt_b", 600), REDIS_DONE);
    redis_op_free(taken);
    rig_check_file(r, "ckpt_a", 500);
    assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_DELETE, DISK_SESSION_SET, "fork"))),
                     REDIS_DONE);
    rig_check_file(r, "ckpt_a", 500);
    assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_DELETE, DISK_SNAPSHOT_SET, "snap"))),
                     REDIS_DONE);
    assert_int_equal(redis_server_count(&server, "EXISTS eddy:state:ckpt_a"), 0);
    assert_int_equal(redis_server_count(&server, "DBSIZE"), 3);
    rig_check_file(r, "ckpt_b", 600);
    redis_close(r);
    redis_server_end(&server);
}

static void a_session_expires_with_its_state_but_not_under_a_turn(void **state)
{
    struct redis *r;
    struct redis_op *taken;

    (void)state;
    redis_server_begin(&server);
    r = rig_open_leasing(server.url, RIG_BRIEF_MS);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "ckpt_a", 500, 1), REDIS_DONE);
    taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
    assert_int_equal(taken->verdict, REDIS_DONE);
    usleep(2 * RIG_BRIEF_MS * 1000);
    rig_check_file(r, "ckpt_a", 500);
    assert_int_equal(rig_commit(r, taken, "ckpt_b", 500), REDIS_DONE);
    redis_op_free(taken);
    /* The longest life counts, in whichever order they come. */
    assert_int_equal(rig_create(r, DISK_SNAPSHOT_SET, "long", "ckpt_b", 0, 1000), REDIS_DONE);
    assert_int_equal(rig_create(r, DISK_SNAPSHOT_SET, "short", "ckpt_b", 0, 0.3), REDIS_DONE);
    while (rig_verdict(rig_do(r, rig_op(REDIS_LOOK, DISK_SESSION_SET, "s"))) == REDIS_DONE)
        usleep(20000); /* the test has a time limit */
    assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"))),
                     REDIS_ABSENT);
    rig_check_file(r, "ckpt_b", 500);
    assert_int_equal(rig_create(r, DISK_SNAPSHOT_SET, "ever", "ckpt_b", 0, 0), REDIS_DONE);
    assert_int_equal(redis_server_count(&server, "PTTL eddy:state:ckpt_b"), -1);
    assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_DELETE, DISK_SNAPSHOT_SET, "ever"))),
                     REDIS_DONE);
    assert_in_range(redis_server_count(&server, "PTTL eddy:state:ckpt_b"), 900000, 1000000);
    redis_close(r);
    redis_server_end(&server);
}

static void another_models_session_is_refused_with_both_names(void **state)
{
    static const enum redis_kind kinds[] = { REDIS_LOOK, REDIS_TAKE, REDIS_DELETE };
    struct redis_url url;
    struct redis_options options;
    struct error err;
    struct redis *r, *other;

    (void)state;
    redis_server_begin(&server);
    r = rig_open(server.url);
    options = rig_options(server.url, &url, NULL);
    options.layout = 6;
    other = redis_open(&options, &err);
    assert_non_null(other);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "ckpt_a", 500, 0), REDIS_DONE);
    for (int i = 0; i < 3; i++) {
        struct redis_op *op = rig_do(other, rig_op(kinds[i], DISK_SESSION_SET, "s"));

        assert_int_equal(op->verdict, REDIS_FOREIGN);
        assert_non_null(strstr(op->error.message, "/0000000000000005"));
        assert_non_null(strstr(op->error.message, "/0000000000000006"));
        redis_op_free(op);
    }
    assert_int_equal(rig_create(other, DISK_SESSION_SET, "s", "", 0, 0), REDIS_EXISTS);
    assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"))), REDIS_DONE);
    redis_close(other);
    redis_close(r);
    redis_server_end(&server);
}

enum { OBJECTS = 8, STEPS = 3000 };

/* What a random history has left: the checkpoint each object stands on, "" for the empty
 * context, and none where there is no object. */
struct object {
    bool there;
    char checkpoint[32];
    uint64_t version;
};

static enum disk_kind kind_of(int i)
{
    return i < OBJECTS / 2 ? DISK_SESSION_SET : DISK_SNAPSHOT_SET;
}

static void check_keys(const struct object *object)
{
    int heads = 0, states = 0;

    for (int i = 0; i < OBJECTS; i++) {
        bool first = object[i].there && object[i].checkpoint[0];

        heads += object[i].there;
        for (int j = 0; j < i; j++)
            if (object[j].there && strcmp(object[i].checkpoint, object[j].checkpoint) == 0)
                first = false;
        states += first;
    }
    assert_int_equal(redis_server_count(&server, "DBSIZE"), heads + 2 * states);
}

static void step(struct redis *r, struct object *object, int i, uint64_t *random, int n)
{
    struct object *o = &object[i], *from = &object[rig_random(random, OBJECTS)];
    bool shared = from->there && rig_random(random, 2);
    char id[8], checkpoint[32] = "";

    snprintf(id, sizeof(id), "o%d", i);
    if (shared)
        strcpy(checkpoint, from->checkpoint);
    else if (rig_random(random, 8))
        snprintf(checkpoint, sizeof(checkpoint), "ckpt_%d", n);
    if (!o->there) {
        assert_int_equal(
            rig_create(r, kind_of(i), id, checkpoint, shared || !checkpoint[0] ? 0 : 50, 0),
            REDIS_DONE);
        *o = (struct object){ .there = true };
        strcpy(o->checkpoint, checkpoint);
    } else if (kind_of(i) == DISK_SNAPSHOT_SET || !rig_random(random, 4)) {
        assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_DELETE, kind_of(i), id))), REDIS_DONE);
        o->there = false;
    } else {
        struct redis_op *taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, id));

        assert_int_equal(taken->verdict, REDIS_DONE);
        assert_int_equal(taken->record.version, o->version);
        assert_string_equal(taken->record.checkpoint.text, o->checkpoint);
        if (rig_random(random, 4)) {
            assert_int_equal(rig_commit(r, taken, checkpoint, shared || !checkpoint[0] ? 0 : 50),
                             REDIS_DONE);
            strcpy(o->checkpoint, checkpoint);
            o->version++;
        } else {
            assert_int_equal(rig_leave(r, taken), REDIS_DONE);
        }
        redis_op_free(taken);
    }
}

static void random_histories_leave_what_is_stood_on_and_nothing_else(void **state)
{
    struct object object[OBJECTS] = { 0 };
    uint64_t random = 12345;
    struct redis *r[2];

    (void)state;
    redis_server_begin(&server);
    r[0] = rig_open(server.url);
    r[1] = rig_open(server.url);
    for (int n = 0; n < STEPS; n++) {
        step(r[rig_random(&random, 2)], object, (int)rig_random(&random, OBJECTS), &random, n);
        if (n % 20 == 0)
            check_keys(object);
    }
    for (int i = 0; i < OBJECTS; i++)
        if (object[i].there && object[i].checkpoint[0])
            rig_check_file(r[0], object[i].checkpoint, 50);
    redis_close(r[0]);
    redis_close(r[1]);
    redis_server_end(&server);
}

/* A lease that could not be given back would be renewed for ever. */
static void the_queue_is_bounded_but_for_leases_that_go_back(void **state)
{
    struct redis_url url;
    struct redis_options options;
    struct redis_op *op, *refused, *taken;
    struct error err;
    struct redis *r;
    int n = 0;

    (void)state;
    redis_server_begin(&server);
    options = rig_options(server.url, &url, NULL);
    options.max_ops = 10;
    r = redis_open(&options, &err);
    assert_non_null(r);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "t", "", 0, 0), REDIS_DONE);
    taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "t"));
    assert_int_equal(taken->verdict, REDIS_DONE);
    while (redis_submit(r, (op = rig_op(REDIS_LOOK, DISK_SESSION_SET, "s"))))
        n++;
    refused = op;
    assert_int_equal(n, 10);
    taken->kind = REDIS_LEAVE;
    assert_true(redis_submit(r, taken));
    assert_false(redis_submit(r, refused));
    assert_int_equal(redis_counts(r).waiting, 11);
    redis_wait(r);
    for (; (op = redis_receive(r)); n--)
        assert_int_equal(rig_verdict(op), n ? REDIS_ABSENT : REDIS_DONE);
    assert_int_equal(n, -1);
    assert_int_equal(redis_counts(r).leases, 0);
    assert_int_equal(rig_verdict(rig_do(r, refused)), REDIS_ABSENT);
    redis_close(r);
    redis_server_end(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_comes_back_with_every_field),
        cmocka_unit_test(states_of_every_length_come_back),
        cmocka_unit_test(turns_go_from_server_to_server),
        cmocka_unit_test(a_version_alone_can_be_deleted),
        cmocka_unit_test(a_state_is_there_once_and_as_long_as_anyone_stands_on_it),
        cmocka_unit_test(a_session_expires_with_its_state_but_not_under_a_turn),
        cmocka_unit_test(another_models_session_is_refused_with_both_names),
        cmocka_unit_test(random_histories_leave_what_is_stood_on_and_nothing_else),
        cmocka_unit_test(the_queue_is_bounded_but_for_leases_that_go_back),
    };

    return redis_server_exists() ? cmocka_run_group_tests_name("redis", tests, NULL, NULL) : 0;
}
