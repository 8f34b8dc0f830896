/* The shared tier among several that write: no version is ever committed twice, and whoever
 * dies holds nobody up for longer than a lease. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <hiredis/hiredis.h>

#include "tests/server/state/redis_rig.h"

static struct redis_server server;

static struct redis_op *take(struct redis *r, enum redis_verdict verdict)
{
    struct redis_op *op = rig_do(r, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));

    if (op->verdict != verdict)
        fail_msg("verdict %d, not %d: %s", op->verdict, verdict, op->error.message);
    return op;
}

static void refused(struct redis *r, enum redis_verdict verdict)
{
    redis_op_free(take(r, verdict));
}

static void one_server_at_a_time_has_a_session(void **state)
{
    struct redis *here, *there;
    struct redis_op *taken, *op;

    (void)state;
    redis_server_begin(&server);
    here = rig_open_leasing(server.url, RIG_BRIEF_MS);
    there = rig_open_leasing(server.url, RIG_BRIEF_MS);
    assert_int_equal(rig_create(here, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    taken = take(here, REDIS_DONE);
    op = take(there, REDIS_BUSY);
    assert_in_range(op->wait_ms, 1, RIG_BRIEF_MS);
    redis_op_free(op);
    refused(here, REDIS_BUSY); /* a lease is a turn's, not a server's */
    usleep(2 * RIG_BRIEF_MS * 1000);
    refused(there, REDIS_BUSY); /* it was renewed */
    assert_int_equal(redis_counts(here).leases, 1);
    assert_int_equal(rig_commit(here, taken, "ckpt_a", 10), REDIS_DONE);
    assert_int_equal(redis_counts(here).leases, 0);
    redis_op_free(taken);
    taken = take(there, REDIS_DONE);
    assert_int_equal(taken->record.version, 1);
    assert_int_equal(rig_leave(there, taken), REDIS_DONE);
    redis_op_free(taken);
    taken = take(here, REDIS_DONE);
    assert_int_equal(taken->record.version, 1);
    redis_op_free(taken);
    redis_close(here); /* gives back what it has */
    taken = take(there, REDIS_DONE);
    redis_op_free(taken);
    redis_close(there);
    redis_server_end(&server);
}

/* The lease was lost: it ran out (a server that slept), and another server has it, had it, or
 * has moved the session with it. */
static void a_lost_lease_commits_nothing(void **state)
{
    struct redis *here, *there;

    (void)state;
    redis_server_begin(&server);
    here = rig_open(server.url);
    there = rig_open(server.url);
    assert_int_equal(rig_create(here, DISK_SESSION_SET, "s", "ckpt_0", 10, 0), REDIS_DONE);
    for (int moved = 0; moved < 2; moved++) {
        struct redis_op *slow = take(here, REDIS_DONE), *other;
        char checkpoint[16];

        snprintf(checkpoint, sizeof(checkpoint), "ckpt_%d", moved + 1);
        assert_int_equal(redis_server_count(&server, "DEL eddy:lease:0000000000000007:s"), 1);
        other = take(there, REDIS_DONE);
        if (moved)
            assert_int_equal(rig_commit(there, other, checkpoint, 10), REDIS_DONE);
        assert_int_equal(rig_commit(here, slow, "ckpt_late", 10), REDIS_LOST);
        if (!moved)
            assert_int_equal(rig_commit(there, other, checkpoint, 10), REDIS_DONE);
        redis_op_free(other);
        redis_op_free(slow);
        other = take(there, REDIS_DONE);
        assert_int_equal(other->record.version, moved + 1);
        assert_string_equal(other->record.checkpoint.text, checkpoint);
        rig_leave(there, other);
        redis_op_free(other);
    }
    assert_int_equal(redis_server_count(&server, "EXISTS eddy:state:ckpt_late"), 0);
    assert_true(redis_counts(here).lost >= 2);
    redis_close(here);
    redis_close(there);
    redis_server_end(&server);
}

static void a_deleted_session_stays_deleted(void **state)
{
    struct redis *here, *there;
    struct redis_op *taken;

    (void)state;
    redis_server_begin(&server);
    here = rig_open_leasing(server.url, RIG_BRIEF_MS);
    there = rig_open_leasing(server.url, RIG_BRIEF_MS);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(rig_create(here, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
        taken = take(here, REDIS_DONE);
        assert_int_equal(rig_verdict(rig_do(there, rig_op(REDIS_DELETE, DISK_SESSION_SET, "s"))),
                         REDIS_DONE);
        if (again) /* as another one, at the same version */
            assert_int_equal(rig_create(there, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
        if (again)
            usleep(RIG_BRIEF_MS * 1000);
        assert_int_equal(rig_commit(here, taken, "ckpt_a", 10), REDIS_ABSENT);
        redis_op_free(taken);
    }
    redis_close(here);
    redis_close(there);
    redis_server_end(&server);
}

static void a_killed_servers_session_goes_on_elsewhere(void **state)
{
    struct redis *there;
    struct redis_op *taken;
    int ready[2], tries = 0;
    char byte;
    pid_t pid;

    (void)state;
    redis_server_begin(&server);
    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (!pid) {
        struct redis *here = rig_open_leasing(server.url, RIG_BRIEF_MS);
        struct redis_op *op;

        rig_create(here, DISK_SESSION_SET, "s", "ckpt_a", 10, 0);
        op = take(here, REDIS_DONE);
        op = rig_commit_op(op, "ckpt_b", 150 << 20);
        redis_submit(here, op); /* dies while it is sent */
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    there = rig_open_leasing(server.url, RIG_BRIEF_MS);
    refused(there, REDIS_BUSY);
    while (!redis_server_count(&server, "KEYS eddy:upload:*"))
        usleep(1000);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    for (;; tries++) {
        taken = rig_do(there, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
        if (taken->verdict != REDIS_BUSY)
            break;
        redis_op_free(taken);
        usleep(20000);
    }
    assert_in_range(tries, 1, RIG_BRIEF_MS / 20 + 10);
    assert_int_equal(taken->verdict, REDIS_DONE);
    assert_int_equal(taken->record.version, 0);
    rig_check_file(there, "ckpt_a", 10);
    assert_int_equal(rig_commit(there, taken, "ckpt_c", 10), REDIS_DONE);
    redis_op_free(taken);
    /* What it had sent goes by itself. */
    assert_int_equal(redis_server_count(&server, "DBSIZE"), 3 + 1);
    redis_close(there);
    close(ready[0]);
    close(ready[1]);
    redis_server_end(&server);
}

static void find_endless(redisContext *c)
{
    static const char count[] = "local n = 0\n"
                                "for _, key in ipairs(redis.call('KEYS', 'eddy:upload:*')) do\n"
                                "  if redis.call('PTTL', key) < 0 then n = n + 1 end\n"
                                "end\n"
                                "return n\n";
    redisReply *reply = redisCommand(c, "EVAL %s 0", count);

    assert_int_equal(reply->type, REDIS_REPLY_INTEGER);
    assert_int_equal(reply->integer, 0);
    freeReplyObject(reply);
}

/* Whenever a server dies, what it was sending has a time to go. */
static void an_upload_has_an_end_from_its_beginning(void **state)
{
    enum { STATES = 400 };
    char path[64];
    redisContext *c;
    struct redis *r;
    int done = 0;

    (void)state;
    redis_server_begin(&server);
    snprintf(path, sizeof(path), "%s/socket", server.folder);
    c = redisConnectUnix(path);
    assert_true(c && !c->err);
    r = rig_open(server.url);
    for (int i = 0; i < STATES; i++) {
        struct redis_op *op;
        char name[32];

        snprintf(name, sizeof(name), "ckpt_%d", i);
        op = rig_op(REDIS_CREATE, DISK_SESSION_SET, name);
        strcpy(op->record.checkpoint.text, name);
        op->file = rig_file(name, 30);
        op->file_len = 30;
        assert_true(redis_submit(r, op));
        if (i % 20 == 0)
            find_endless(c);
    }
    while (done < STATES) {
        find_endless(c);
        for (struct redis_op *op; (op = redis_receive(r)); done++)
            assert_int_equal(rig_verdict(op), REDIS_DONE);
    }
    redisFree(c);
    redis_close(r);
    redis_server_end(&server);
}

enum { RACERS = 4, COMMITS = 150, VERSIONS = RACERS * COMMITS + 1 };

struct racer {
    pthread_t thread;
    struct redis *redis;
    uint64_t random;
    int number, lost;
    struct id committed[VERSIONS]; /* the checkpoint that this racer put at a version, or "" */
    struct id before[VERSIONS];    /* and what it moved on from */
};

static void *race(void *arg)
{
    struct racer *me = arg;

    for (int done = 0, n = 0; done < COMMITS; n++) {
        struct redis_op *taken = rig_do(me->redis, rig_op(REDIS_TAKE, DISK_SESSION_SET, "s"));
        uint64_t version = taken->record.version + 1;
        char checkpoint[32];

        if (taken->verdict == REDIS_DONE) {
            enum redis_verdict v;

            snprintf(checkpoint, sizeof(checkpoint), "ckpt_%d_%d", me->number, n);
            usleep((useconds_t)rig_random(&me->random, 1000));
            v = rig_commit(me->redis, taken, checkpoint, 30);
            assert_true(v == REDIS_DONE || v == REDIS_LOST);
            if (v == REDIS_DONE) {
                assert_in_range(version, 1, VERSIONS - 1);
                assert_string_equal(me->committed[version].text, "");
                assert_true(id_parse(&me->committed[version], checkpoint));
                me->before[version] = taken->record.checkpoint;
                done++;
            }
            me->lost += v == REDIS_LOST;
        } else {
            assert_int_equal(taken->verdict, REDIS_BUSY);
            usleep((useconds_t)rig_random(&me->random, 500));
        }
        redis_op_free(taken);
    }
    return NULL;
}

/* While leases are torn from under the racers' feet. */
static void racing_servers_never_commit_one_version_twice(void **state)
{
    static struct racer racer[RACERS];
    struct id head = { "" };
    struct redis_op *last;
    int torn = 0, lost = 0;

    (void)state;
    redis_server_begin(&server);
    for (int i = 0; i < RACERS; i++) {
        racer[i].redis = rig_open(server.url);
        racer[i].random = (uint64_t)i + 99;
        racer[i].number = i;
    }
    assert_int_equal(rig_create(racer[0].redis, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    for (int i = 0; i < RACERS; i++)
        pthread_create(&racer[i].thread, NULL, race, &racer[i]);
    for (int i = 0; i < 400; i++, usleep(1000))
        torn += (int)redis_server_count(&server, "DEL eddy:lease:0000000000000007:s");
    for (int i = 0; i < RACERS; i++) {
        pthread_join(racer[i].thread, NULL);
        lost += racer[i].lost;
    }
    for (int v = 1; v < VERSIONS; v++) {
        int writers = 0;

        for (int i = 0; i < RACERS; i++) {
            if (!racer[i].committed[v].text[0])
                continue;
            writers++;
            assert_string_equal(racer[i].before[v].text, head.text);
            head = racer[i].committed[v];
        }
        if (writers != 1)
            fail_msg("version %d has %d writers", v, writers);
    }
    last = take(racer[0].redis, REDIS_DONE);
    assert_int_equal(last->record.version, VERSIONS - 1);
    assert_string_equal(last->record.checkpoint.text, head.text);
    redis_op_free(last);
    assert_true(torn > 0 && lost > 0);
    for (int i = 0; i < RACERS; i++)
        redis_close(racer[i].redis);
    redis_server_end(&server);
}

/* A large state on its way keeps nobody else waiting. */
static void a_lease_does_not_wait_behind_a_state(void **state)
{
    struct redis *r;
    struct redis_op *large;
    int small = 0;

    (void)state;
    redis_server_begin(&server);
    r = rig_open(server.url);
    assert_int_equal(rig_create(r, DISK_SESSION_SET, "s", "", 0, 0), REDIS_DONE);
    large = rig_op(REDIS_CREATE, DISK_SESSION_SET, "large");
    strcpy(large->record.checkpoint.text, "ckpt_large");
    large->file = rig_file("ckpt_large", 150 << 20);
    large->file_len = 150 << 20;
    assert_true(redis_submit(r, large));
    for (struct redis_op *op = NULL; op != large; usleep(100)) {
        if (!op)
            assert_true(redis_submit(r, rig_op(REDIS_LOOK, DISK_SESSION_SET, "s")));
        while (!(op = redis_receive(r)))
            usleep(100);
        small += op != large;
        if (op == large)
            break;
        redis_op_free(op);
        op = NULL;
    }
    assert_int_equal(large->verdict, REDIS_DONE);
    redis_op_free(large);
    assert_true(small >= 5);
    redis_close(r);
    redis_server_end(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_server_at_a_time_has_a_session),
        cmocka_unit_test(a_lost_lease_commits_nothing),
        cmocka_unit_test(a_deleted_session_stays_deleted),
        cmocka_unit_test(a_killed_servers_session_goes_on_elsewhere),
        cmocka_unit_test(an_upload_has_an_end_from_its_beginning),
        cmocka_unit_test(racing_servers_never_commit_one_version_twice),
        cmocka_unit_test(a_lease_does_not_wait_behind_a_state),
    };

    return redis_server_exists() ? cmocka_run_group_tests_name("redis_writers", tests, NULL, NULL)
                                 : 0;
}
