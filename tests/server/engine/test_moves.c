/* Commands that come while a session's last change is still on its way to the disk: of two that
 * name the same version exactly one is done, and what was answered is what a restart finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "models/model.h"
#include "server/state/disk_io.h"
#include "server/state/format.h"
#include "tests/server/engine/rig.h"
#include "tests/server/folder.h"

static const char model[] = "tests/data/rwkv7-tiny-hf";
static const int32_t prompt[] = { 5, 6, 7, 8, 9, 10 };
enum { PROMPT = 6, VERSION = 2 };

/* Every way in which a session moves, and its end. */
enum verb { TURN, RESTORE, TO_START, REPLAY, IMPORT, DELETE, VERBS };

static int slow_fsync(int fd)
{
    nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
    return fsync(fd);
}

static atomic_bool held;

static int held_fsync(int fd)
{
    while (atomic_load(&held))
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
    return fsync(fd);
}

/* What the verbs move a session to. */
struct goal {
    struct id snapshot;
    unsigned char *file;
    size_t len;
};

static struct goal make_goal(struct rig *r)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_TAKE, "goal", NULL);
    struct goal goal;

    rig_do(r, COMMAND_SESSION_CREATE, "goal");
    free(rig_run_turn(r, rig_turn("goal", prompt, PROMPT, 2)));
    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    goal.snapshot = c->snapshots[0].id;
    command_free(c);
    goal.file = rig_export(r, "goal", &goal.len);
    return goal;
}

static struct command *make_command(struct rig *r, enum verb verb, const char *session,
                                    const struct goal *goal)
{
    static const enum command_kind kinds[] = {
        [RESTORE] = COMMAND_SESSION_RESTORE, [TO_START] = COMMAND_SESSION_ROLLBACK,
        [REPLAY] = COMMAND_SESSION_ROLLBACK, [IMPORT] = COMMAND_SESSION_IMPORT,
        [DELETE] = COMMAND_SESSION_DELETE,
    };
    struct command *c;
    struct problem p;

    c = verb == TURN
            ? rig_turn(session, prompt, PROMPT, 2)
            : rig_command(kinds[verb], session, verb == RESTORE ? goal->snapshot.text : NULL);
    c->position = verb == REPLAY ? 3 : 0;
    if (verb == IMPORT)
        c->checkpoint = engine_decode(r->engine, goal->file, goal->len, &p);
    c->expected = version_set_of(VERSION);
    return c;
}

static bool lost(enum problem_code what)
{
    return what == PROBLEM_VERSION_MISMATCH || what == PROBLEM_SESSION_BUSY ||
           what == PROBLEM_SESSION_NOT_FOUND;
}

struct seen {
    enum problem_code problem;
    uint64_t version;
    unsigned char *state;
    size_t len;
};

static struct seen see(struct rig *r, const char *session)
{
    struct command *c = rig_command(COMMAND_SESSION_GET, session, NULL);
    struct seen s = { .problem = rig_ask(r, c) };

    if (s.problem == PROBLEM_NONE) {
        s.version = c->sessions[0].version;
        s.state = rig_state(r, session, &s.len);
    }
    command_free(c);
    return s;
}

static void name_pair(char *to, size_t len, enum verb first, enum verb second)
{
    snprintf(to, len, "pair-%d-%d", (int)first, (int)second);
}

static struct seen race(struct rig *r, enum verb first, enum verb second, const struct goal *goal)
{
    struct command *c[2];
    struct seen after;
    char name[32];
    int winner;

    name_pair(name, sizeof(name), first, second);
    rig_do(r, COMMAND_SESSION_CREATE, name);
    for (int i = 0; i < VERSION; i++)
        free(rig_run_turn(r, rig_turn(name, prompt, PROMPT, 3)));
    c[0] = make_command(r, first, name, goal);
    c[1] = make_command(r, second, name, goal);
    rig_run(r, c, 2, NULL);
    winner = c[1]->problem.what == PROBLEM_NONE;
    if (c[winner]->problem.what != PROBLEM_NONE || !lost(c[!winner]->problem.what))
        fail_msg("%s: %d and %d", name, c[0]->problem.what, c[1]->problem.what);
    after = see(r, name);
    if ((winner ? second : first) == DELETE) {
        assert_int_equal(after.problem, PROBLEM_SESSION_NOT_FOUND);
    } else {
        assert_int_equal(after.problem, PROBLEM_NONE);
        assert_int_equal(after.version, VERSION + 1);
    }
    command_free(c[0]);
    command_free(c[1]);
    return after;
}

static struct engine_options kept_by(struct disk_io *io)
{
    return (struct engine_options){ .slots = 4,
                                    .max_batch = 4,
                                    .row_budget = 64,
                                    .max_queue = 16,
                                    .max_sessions = 64,
                                    .host_bytes = 1 << 20,
                                    .state_dir = folder,
                                    .store_bytes = 1 << 28,
                                    .durability = DISK_ALWAYS,
                                    .io = io };
}

static void of_two_that_name_one_version_one_is_done_and_a_restart_agrees(void **unused)
{
    struct disk_io io = disk_io_system;
    const struct engine_options o = kept_by(&io);
    struct seen before[VERBS][VERBS];
    struct goal goal;
    struct rig r;

    (void)unused;
    io.fsync = slow_fsync;
    rig_open(&r, model, &o, 1);
    goal = make_goal(&r);
    for (int i = 0; i < VERBS; i++)
        for (int k = 0; k < VERBS; k++)
            before[i][k] = race(&r, (enum verb)i, (enum verb)k, &goal);
    rig_close(&r);
    rig_open(&r, model, &o, 1);
    for (int i = 0; i < VERBS * VERBS; i++) {
        struct seen *was = &before[i / VERBS][i % VERBS], is;
        char name[32];

        name_pair(name, sizeof(name), (enum verb)(i / VERBS), (enum verb)(i % VERBS));
        is = see(&r, name);
        assert_int_equal(is.problem, was->problem);
        assert_int_equal(is.version, was->version);
        assert_int_equal(is.len, was->len);
        if (is.len)
            assert_memory_equal(is.state, was->state, is.len);
        free(is.state);
        free(was->state);
    }
    free(goal.file);
    rig_close(&r);
}

/* Takes events until one of this kind; whoever is answered is told by its waiter. */
static void await(struct rig *r, enum event_kind kind)
{
    for (bool there = false; !there;) {
        struct event *e = engine_receive(r->engine);

        if (!e) {
            nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
            continue;
        }
        there = e->kind == kind || e->kind == EVENT_ANSWER;
        if (e->kind == EVENT_ANSWER)
            *(bool *)e->command->waiter = true;
        event_free(e);
    }
}

static void send(struct rig *r, struct command *c, bool *answered)
{
    *answered = false;
    c->waiter = answered;
    assert_true(engine_send(r->engine, c));
}

/* A turn of one token on "s", unless it is refused at once, and a fork that comes when the token
 * is drawn and not yet kept. */
static void fork_on_the_way(struct rig *r, struct command *turn, struct command *fork)
{
    struct command *after = rig_command(COMMAND_SESSION_LIST, NULL, NULL);
    bool turned, forked, looked;

    atomic_store(&held, true);
    send(r, turn, &turned);
    await(r, EVENT_TEXT);
    send(r, fork, &forked);
    send(r, after, &looked);
    while (!looked) /* and so was at the fork */
        await(r, EVENT_ANSWER);
    atomic_store(&held, false);
    while (!turned || !forked)
        await(r, EVENT_ANSWER);
    command_free(after);
}

static void a_fork_of_what_a_turn_leaves_takes_no_byte_beyond_the_budget(void **unused)
{
    enum { STATES = 4, ROUNDS = 3 * STATES };
    struct disk_io io = disk_io_system;
    struct engine_options o = kept_by(&io);
    int refused = 0;
    struct rig r;

    (void)unused;
    io.fsync = held_fsync;
    rig_open(&r, model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "s");
    free(rig_run_turn(&r, rig_turn("s", prompt, PROMPT, 1)));
    o.store_bytes = STATES * (engine_counters(r.engine).store_bytes + 1024);
    rig_restart(&r, &o);
    for (int i = 0; i < ROUNDS; i++) {
        struct command *turn = rig_turn("s", prompt, 1, 1);
        struct command *fork = rig_command(COMMAND_SESSION_FORK, "s", NULL);

        fork_on_the_way(&r, turn, fork);
        refused += turn->problem.what == PROBLEM_STORAGE_FULL;
        assert_int_equal(fork->problem.what, PROBLEM_NONE);
        assert_true(engine_counters(r.engine).store_bytes <= o.store_bytes);
        command_free(turn);
        command_free(fork);
    }
    assert_in_range(refused, 1, ROUNDS - STATES);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            of_two_that_name_one_version_one_is_done_and_a_restart_agrees, folder_make,
            folder_remove),
        cmocka_unit_test_setup_teardown(
            a_fork_of_what_a_turn_leaves_takes_no_byte_beyond_the_budget, folder_make,
            folder_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
