/* The shared tier when Redis does not do its part: it says so in time, loses nothing that it
 * said was done, and goes on when Redis does. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <hiredis/hiredis.h>

#include "server/state/file_buffer.h"
#include "tests/server/state/redis_rig.h"

static struct redis_server server;

static enum redis_verdict look(struct redis *r)
{
    return rig_verdict(rig_do(r, rig_op(REDIS_LOOK, DISK_SESSION_SET, "s")));
}

static enum error_code read_state(struct redis *r, const char *checkpoint)
{
    struct error err = { .code = ERR_NONE };
    struct file_buffer file = { 0 };
    struct id id;

    assert_true(id_parse(&id, checkpoint));
    redis_read(r, &id, &file, &err);
    file_buffer_finish(&file);
    return err.code;
}

static void wait_until_it_serves(struct redis *r)
{
    double until = rig_seconds() + 10;

    while (look(r) == REDIS_AWAY) {
        assert_true(rig_seconds() < until);
        usleep(5000);
    }
}

static void an_url_says_where(void **state)
{
    static const struct {
        const char *text, *host, *user, *password;
        int port, db;
    } good[] = {
        { "redis://localhost", "localhost", "", "", 6379, 0 },
        { "redis://10.0.0.1:1/15", "10.0.0.1", "", "", 1, 15 },
        { "redis://[::1]:7000/", "::1", "", "", 7000, 0 },
        { "redis://:se%40c%2Fr:et@h", "h", "", "se@c/r:et", 6379, 0 },
        { "redis://me:p@h:65535/1", "h", "me", "p", 65535, 1 },
        { "redis://a@b:c@h", "h", "a@b", "c", 6379, 0 },
        { "unix:///run/redis%20x.sock", "/run/redis x.sock", "", "", 0, 0 },
        { "unix://:pw@/s?db=3", "/s", "", "pw", 0, 3 },
    };
    static const char *const bad[] = {
        "",
        "localhost",
        "http://h",
        "rediss://h",
        "redis://",
        "redis://:6379",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:x",
        "redis://h:",
        "redis://h/x",
        "redis://h/99999",
        "redis://[::1",
        "redis://[::1]x",
        "redis://:TOPSECRET%4@h",
        "redis://:TOPSECRET%00@h",
        "redis://user@h",
        "unix://socket",
        "unix:///",
        "unix:///s?x=1",
    };
    struct redis_url url;
    struct error err;
    char shown[REDIS_URL_BYTES + 32];

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (!redis_url_parse(&url, good[i].text, &err))
            fail_msg("%s: %s", good[i].text, err.message);
        assert_string_equal(url.host, good[i].host);
        assert_string_equal(url.user, good[i].user);
        assert_string_equal(url.password, good[i].password);
        assert_int_equal(url.port, good[i].port);
        assert_int_equal(url.db, good[i].db);
        redis_url_show(&url, shown);
        assert_true(!good[i].password[0] || !strstr(shown, good[i].password) ||
                    strlen(good[i].password) < 3);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (redis_url_parse(&url, bad[i], &err))
            fail_msg("%s was taken", bad[i]);
        assert_null(strstr(err.message, "TOPSECRET"));
    }
}

/* Also that it says so without the password. */
static void refuses_to_open(const char *url, const char *because)
{
    struct rig_reports reports = { 0 };
    struct redis_url parsed;
    struct redis_options options = rig_options(url, &parsed, &reports);
    struct error err;

    assert_null(redis_open(&options, &err));
    assert_int_equal(err.code, ERR_IO);
    if (!strstr(err.message, because))
        fail_msg("%s", err.message);
    assert_null(strstr(err.message, "SECRET"));
    assert_null(strstr(reports.newest, "SECRET"));
}

static void a_wrong_password_or_place_is_known_at_once(void **state)
{
    char url[128];

    (void)state;
    server.password = "SECRET%";
    redis_server_begin(&server);
    snprintf(url, sizeof(url), "unix://:SECRET%%25@%s/socket?db=3", server.folder);
    redis_close(rig_open(url));
    snprintf(url, sizeof(url), "unix://:SECRETx@%s/socket", server.folder);
    refuses_to_open(url, "WRONGPASS");
    snprintf(url, sizeof(url), "unix://me:SECRET%%25@%s/socket", server.folder);
    refuses_to_open(url, "WRONGPASS");
    snprintf(url, sizeof(url), "unix://%s/socket", server.folder);
    refuses_to_open(url, "NOAUTH");
    snprintf(url, sizeof(url), "unix://:SECRET%%25@%s/socket?db=300", server.folder);
    refuses_to_open(url, "DB index");
    snprintf(url, sizeof(url), "unix://%s/nothing", server.folder);
    refuses_to_open(url, "No such file");
    refuses_to_open("redis://127.0.0.1:1", "refused");
    redis_server_end(&server);
    server.password = NULL;
}

/* Commits are killed in three ways in turn: long before they can be done, at a random moment, and
 * as soon as they are done. */
static void a_killed_redis_comes_back_with_all_that_was_done(void **state)
{
    enum { EARLY, RANDOMLY, DONE, WAYS, ROUNDS = 4 * WAYS };
    struct rig_reports reports = { 0 };
    struct redis_url url;
    struct redis_options options;
    struct error err;
    struct redis *r;
    uint64_t random = 4711, version = 0;
    char checkpoint[32] = "";
    int in_doubt = 0;
    double began, usual;

    (void)state;
    server.keeps = true;
    redis_server_begin(&server);
    options = rig_options(server.url, &url, &reports);
    options.lease_ms = 300; /* what the next round waits for; longer than a sync of the disk */
    r = redis_open(&options, &err);
    assert_non_null(r);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    began = rig_seconds();
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "other", "ckpt_x", 5 << 20, 0), REDIS_DONE);
    usual = rig_seconds() - began;
    for (int round = 0; round < ROUNDS; round++) {
        int way = round % WAYS;
        struct redis_op *taken, *op;
        enum redis_verdict v;
        char next[32];

        do {
            taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
            if (taken->verdict == REDIS_DONE)
                break;
            assert_int_equal(taken->verdict, REDIS_BUSY); /* an earlier round's has to run out */
            redis_op_free(taken);
            usleep(10000);
        } while (true);
        if (in_doubt && taken->record.version == version + 1) {
            version++; /* it was done after all, and wholly */
            snprintf(checkpoint, sizeof(checkpoint), "ckpt_%d", round - 1);
        }
        assert_int_equal(taken->record.version, version);
        assert_string_equal(taken->record.checkpoint.text, checkpoint);
        if (version)
            rig_check_file(r, checkpoint, 5 << 20);
        snprintf(next, sizeof(next), "ckpt_%d", round);
        op = rig_commit_op(taken, next, 5 << 20);
        redis_op_free(taken);
        assert_true(redis_submit(r, op));
        if (way == RANDOMLY)
            usleep((useconds_t)(usual * (double)rig_random(&random, 2000000)));
        if (way == DONE)
            redis_wait(r);
        redis_server_kill(&server);
        redis_wait(r);
        assert_ptr_equal(redis_receive(r), op);
        v = rig_verdict(op);
        assert_true(v == REDIS_DONE || (v == REDIS_AWAY && way != DONE));
        version += v == REDIS_DONE;
        in_doubt = v == REDIS_AWAY;
        if (v == REDIS_DONE)
            snprintf(checkpoint, sizeof(checkpoint), "%s", next);
        redis_server_start(&server);
        wait_until_it_serves(r);
    }
    assert_true(version >= ROUNDS / WAYS);
    assert_true(reports.count >= 2);
    assert_true(redis_counts(r).connects > 2);
    redis_close(r);
    redis_server_end(&server);
    server.keeps = false;
}

/* A commit bears a restart that is shorter than its lease. */
static void a_short_absence_costs_no_turn(void **state)
{
    struct redis_url url;
    struct redis_options options;
    struct redis_op *taken, *op;
    struct error err;
    struct redis *r;

    (void)state;
    server.keeps = true;
    redis_server_begin(&server);
    options = rig_options(server.url, &url, NULL);
    options.lease_ms = 60000;
    r = redis_open(&options, &err);
    assert_non_null(r);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
    assert_int_equal(taken->verdict, REDIS_DONE);
    redis_server_kill(&server);
    assert_int_equal(look(r), REDIS_AWAY);
    op = rig_commit_op(taken, "ckpt_a", 100);
    assert_true(redis_submit(r, op));
    usleep(300000);
    assert_null(redis_receive(r));
    redis_server_start(&server);
    redis_wait(r);
    assert_ptr_equal(redis_receive(r), op);
    assert_int_equal(rig_verdict(op), REDIS_DONE);
    redis_op_free(taken);
    rig_check_file(r, "ckpt_a", 100);
    redis_close(r);
    redis_server_end(&server);
    server.keeps = false;
}

/* Turns that end while Redis is away wait for it together, each as long as its own lease. */
static void an_absence_costs_many_turns_the_lease_of_one(void **state)
{
    enum { TURNS = 6 };
    struct redis_op *taken[TURNS];
    struct redis *r;
    double began;

    (void)state;
    redis_server_begin(&server);
    r = rig_open_leasing(server.url, RIG_BRIEF_MS);
    for (int i = 0; i < TURNS; i++) {
        char name[16];

        snprintf(name, sizeof(name), "s%d", i);
        assert_int_equal(rig_create(r, DISK_SESSION_SET, name, "", 0, 0), REDIS_DONE);
        taken[i] = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, name));
        assert_int_equal(taken[i]->verdict, REDIS_DONE);
    }
    redis_server_kill(&server);
    began = rig_seconds();
    for (int i = 0; i < TURNS; i++)
        assert_true(redis_submit(r, rig_commit_op(taken[i], "ckpt_a", 100)));
    redis_wait(r);
    assert_true(rig_seconds() - began > 0.9e-3 * RIG_BRIEF_MS);
    assert_true(rig_seconds() - began < 3e-3 * RIG_BRIEF_MS);
    for (int i = 0; i < TURNS; i++) {
        assert_int_equal(rig_verdict(redis_receive(r)), REDIS_AWAY);
        redis_op_free(taken[i]);
    }
    redis_close(r);
    redis_server_end(&server);
}

static void a_redis_that_hangs_is_given_up_in_time(void **state)
{
    enum { TIMEOUT_S = 1 };
    struct redis_url url;
    struct redis_options options;
    struct rig_reports reports = { 0 };
    struct error err;
    struct redis *r;
    double began;

    (void)state;
    redis_server_begin(&server);
    options = rig_options(server.url, &url, &reports);
    options.timeout_ms = TIMEOUT_S * 1000;
    r = redis_open(&options, &err);
    assert_non_null(r);
    assert_int_equal(look(r), REDIS_ABSENT);
    redis_server_signal(&server, SIGSTOP);
    began = rig_seconds();
    assert_int_equal(look(r), REDIS_AWAY);
    assert_true(rig_seconds() - began < 5 * TIMEOUT_S);
    began = rig_seconds();
    assert_int_equal(look(r), REDIS_AWAY); /* known by now */
    assert_true(rig_seconds() - began < 0.5 * TIMEOUT_S);
    assert_int_equal(read_state(r, "ckpt_a"), ERR_AWAY);
    assert_true(rig_seconds() - began < 5 * TIMEOUT_S);
    redis_server_signal(&server, SIGCONT);
    wait_until_it_serves(r);
    assert_int_equal(reports.count, 2);
    assert_non_null(strstr(reports.newest, "serves again"));
    redis_server_signal(&server, SIGSTOP);
    began = rig_seconds();
    assert_true(redis_submit(r, rig_op(REDIS_LOOK, DISK_SESSION_SET, "s")));
    redis_close(r);
    assert_true(rig_seconds() - began < 5 * TIMEOUT_S);
    redis_server_end(&server);
}

static void a_full_redis_costs_the_turn_and_nothing_else(void **state)
{
    struct redis *r;
    struct redis_op *taken;

    (void)state;
    server.memory = "8mb";
    redis_server_begin(&server);
    r = rig_open(server.url);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "ckpt_a", 10, 0), REDIS_DONE);
    taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
    assert_int_equal(taken->verdict, REDIS_DONE);
    assert_int_equal(rig_commit(r, taken, "ckpt_b", 30 << 20), REDIS_FULL);
    redis_op_free(taken);
    assert_int_equal(redis_server_count(&server, "CONFIG SET maxmemory 0"), 0);
    taken = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
    assert_int_equal(taken->verdict, REDIS_DONE);
    assert_int_equal(taken->record.version, 0);
    rig_check_file(r, "ckpt_a", 10);
    assert_int_equal(rig_commit(r, taken, "ckpt_b", 30 << 20), REDIS_DONE);
    redis_op_free(taken);
    redis_close(r);
    redis_server_end(&server);
    server.memory = NULL;
}

static void what_was_tampered_with_is_not_taken(void **state)
{
    static const char *const length[] = {
        "", "0", "-1", "x", "9", "11", "99999999999999999999", "1000000000"
    };
    struct redis *r;

    (void)state;
    redis_server_begin(&server);
    r = rig_open(server.url);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "ckpt_a", 10, 0), REDIS_DONE);
    assert_int_equal(read_state(r, "ckpt_a"), ERR_NONE);
    for (size_t i = 0; i < sizeof(length) / sizeof(length[0]); i++) {
        redis_server_count(&server, "HSET eddy:state:ckpt_a bytes %b", length[i],
                           strlen(length[i]));
        assert_int_equal(read_state(r, "ckpt_a"), i == 5 ? ERR_INPUT : ERR_FORMAT);
    }
    redis_server_count(&server, "HSET eddy:state:ckpt_a bytes 10");
    assert_int_equal(read_state(r, "ckpt_a"), ERR_NONE);
    redis_server_count(&server, "HDEL eddy:state:ckpt_a 0");
    assert_int_equal(read_state(r, "ckpt_a"), ERR_INPUT);
    redis_server_count(&server, "SET eddy:state:ckpt_b x");
    assert_int_equal(read_state(r, "ckpt_b"), ERR_IO);
    redis_server_count(&server, "HSET eddy:session:0000000000000007:s record x");
    assert_int_equal(look(r), REDIS_DAMAGED);
    assert_int_equal(rig_verdict(rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"))),
                     REDIS_DAMAGED);
    assert_int_equal(redis_server_count(&server, "EXISTS eddy:lease:0000000000000007:s"), 0);
    redis_close(r);
    redis_server_end(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_url_says_where),
        cmocka_unit_test(a_wrong_password_or_place_is_known_at_once),
        cmocka_unit_test(a_killed_redis_comes_back_with_all_that_was_done),
        cmocka_unit_test(a_short_absence_costs_no_turn),
        cmocka_unit_test(an_absence_costs_many_turns_the_lease_of_one),
        cmocka_unit_test(a_redis_that_hangs_is_given_up_in_time),
        cmocka_unit_test(a_full_redis_costs_the_turn_and_nothing_else),
        cmocka_unit_test(what_was_tampered_with_is_not_taken),
    };

    return redis_server_exists() ? cmocka_run_group_tests_name("redis_faults", tests, NULL, NULL)
                                 : 0;
}
