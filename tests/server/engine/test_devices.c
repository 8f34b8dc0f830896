/* One engine on several devices: what one device computes, to the last bit, wherever a turn works.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/server/engine/rig.h"

static const char model[] = "tests/data/mamba2-grouped";
static const int32_t prompt[] = { 5, 6, 7, 8, 9, 10, 11, 12 };
enum { PROMPT = 8, TOKENS = 24, FORKS = 8 };

static const struct engine_options roomy = { .slots = 12,
                                             .max_batch = 4,
                                             .row_budget = 16,
                                             .max_queue = 64,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

static void assert_same_answer(const struct outcome *a, const struct outcome *b)
{
    const size_t n = (size_t)a->choice[0].tokens;

    assert_int_equal(a->problem.what, PROBLEM_NONE);
    assert_int_equal(n, b->choice[0].tokens);
    assert_memory_equal(a->choice[0].id, b->choice[0].id, n * sizeof(int32_t));
    assert_memory_equal(a->choice[0].logprob, b->choice[0].logprob, n * sizeof(float));
}

/* A session with a past, and its forks. */
struct family {
    struct rig rig;
    struct id fork[FORKS];
    struct outcome out[FORKS];
};

/* Turns of different lengths and prompts at once, one on each fork. */
static void run_on_each(struct family *f)
{
    struct command *c[FORKS];

    for (int i = 0; i < FORKS; i++)
        c[i] = rig_turn(f->fork[i].text, prompt, (size_t)(i % PROMPT), TOKENS + i);
    rig_run(&f->rig, c, FORKS, f->out);
    for (int i = 0; i < FORKS; i++) {
        assert_int_equal(c[i]->problem.what, PROBLEM_NONE);
        command_free(c[i]);
    }
}

static struct family *family_open(const char *devices, int slots)
{
    struct engine_options options = roomy;
    struct command *c = rig_command(COMMAND_SESSION_FORK, "parent", NULL);
    struct family *f = calloc(1, sizeof(*f));

    options.slots = slots;
    rig_open_on(&f->rig, devices, model, &options, 2);
    rig_do(&f->rig, COMMAND_SESSION_CREATE, "parent");
    free(rig_run_turn(&f->rig, rig_turn("parent", prompt, PROMPT, TOKENS)));
    c->count = FORKS;
    assert_int_equal(rig_ask(&f->rig, c), PROBLEM_NONE);
    for (int i = 0; i < FORKS; i++)
        f->fork[i] = c->sessions[i].id;
    command_free(c);
    return f;
}

static void assert_same(struct family *a, struct family *b)
{
    for (int i = 0; i < FORKS; i++) {
        rig_assert_same_state(&a->rig, a->fork[i].text, &b->rig, b->fork[i].text);
        assert_same_answer(&a->out[i], &b->out[i]);
    }
}

/* The parent is on one device, which has no place for them all. */
static void forks_go_on_alike_on_any_device(void **unused)
{
    struct family *one = family_open("cpu", 12), *two = family_open("cpu,cpu", 3);
    struct engine_counters c;

    (void)unused;
    for (int round = 0; round < 3; round++) {
        run_on_each(one);
        run_on_each(two);
        assert_same(one, two);
    }
    c = engine_counters(two->rig.engine);
    assert_true(c.moves.device_device > 0);
    assert_true(c.device[0].resident > 0 && c.device[1].resident > 0);
    assert_int_equal(engine_counters(one->rig.engine).moves.device_device, 0);
    rig_close(&one->rig);
    rig_close(&two->rig);
    free(one);
    free(two);
}

/* One device, and two like it. A machine without two GPUs has the CPU alone. */
static const char *const kinds[][2] = { { "cpu", "cpu,cpu" }, { "cuda:0", "cuda:0,cuda:1" } };
enum { KINDS = 2 };

static bool is_there(const char *devices)
{
    const struct backend_options with = { .threads = 2, .isa = "auto" };
    struct devices probe;
    struct error err = { 0 };
    bool there = devices_open(&probe, devices, &with, &err);

    devices_close(&probe);
    if (!there && err.code != ERR_INPUT)
        fail_msg("%s", err.message);
    return there;
}

/* The only slot of a device holds the session's state, so that its turn works on the other. */
static void a_session_changes_devices_with_every_turn(void **unused)
{
    enum { ROUNDS = 6 };
    struct engine_options few = roomy;

    (void)unused;
    few.slots = 1;
    for (int k = 0; k < KINDS; k++) {
        struct rig one, two;

        if (!is_there(kinds[k][1]))
            continue;
        rig_open_on(&one, kinds[k][0], model, &roomy, 1);
        rig_open_on(&two, kinds[k][1], model, &few, 2);
        rig_do(&one, COMMAND_SESSION_CREATE, "a");
        rig_do(&two, COMMAND_SESSION_CREATE, "a");
        for (int round = 0; round < ROUNDS; round++) {
            struct outcome *x = rig_run_turn(&one, rig_turn("a", prompt + round, 2, TOKENS));
            struct outcome *y = rig_run_turn(&two, rig_turn("a", prompt + round, 2, TOKENS));

            assert_same_answer(x, y);
            free(x);
            free(y);
        }
        assert_int_equal(engine_counters(two.engine).moves.device_device, ROUNDS - 1);
        rig_assert_same_state(&one, "a", &two, "a");
        rig_close(&one);
        rig_close(&two);
    }
}

/* Each alone in its batch. */
static void turns_side_by_side_are_what_each_is_alone(void **unused)
{
    struct outcome *out = calloc(2, sizeof(*out));

    (void)unused;
    for (int k = 0; k < KINDS; k++) {
        struct rig r;

        if (!is_there(kinds[k][1]))
            continue;
        rig_open_on(&r, kinds[k][1], model, &roomy, 2);
        for (int round = 0; round < 4; round++) {
            struct command *c[2];
            struct outcome *alone = rig_run_turn(&r, rig_turn("", prompt, PROMPT, TOKENS));

            for (int i = 0; i < 2; i++)
                c[i] = rig_turn("", prompt, PROMPT, TOKENS);
            rig_run(&r, c, 2, out);
            for (int i = 0; i < 2; i++) {
                assert_same_answer(&out[i], alone);
                command_free(c[i]);
            }
            free(alone);
        }
        rig_close(&r);
    }
    free(out);
}

/* What was on one device goes back to where it was, on the other: alone, a turn works where most
 * slots are free. */
static void snapshots_and_rollbacks_hold_on_any_device(void **unused)
{
    struct engine_options few = roomy;
    struct rig one, two;

    (void)unused;
    few.slots = 1;
    few.spare_bytes = 1 << 20;
    rig_open(&one, model, &roomy, 1);
    rig_open_on(&two, "cpu,cpu", model, &few, 2);
    for (int k = 0; k < 2; k++) {
        struct rig *r = k ? &two : &one;

        rig_do(r, COMMAND_SESSION_CREATE, "a");
        rig_do(r, COMMAND_SESSION_CREATE, "b");
        for (int round = 0; round < 4; round++) {
            struct command *snapshot, *restore;

            free(rig_run_turn(r, rig_turn("a", prompt, PROMPT, TOKENS)));
            snapshot = rig_command(COMMAND_SNAPSHOT_TAKE, "a", NULL);
            assert_int_equal(rig_ask(r, snapshot), PROBLEM_NONE);
            free(rig_run_turn(r, rig_turn("a", prompt, 3, 5)));
            free(rig_run_turn(r, rig_turn("b", prompt + 1, 5, 5)));
            restore = rig_command(COMMAND_SESSION_RESTORE, "a", snapshot->snapshots[0].id.text);
            assert_int_equal(rig_ask(r, restore), PROBLEM_NONE);
            assert_int_equal(rig_roll_back(r, "b", 0, (uint64_t)(round * 10 + 4)), PROBLEM_NONE);
            free(rig_run_turn(r, rig_turn("b", prompt, 1, 5)));
            command_free(snapshot);
            command_free(restore);
        }
    }
    rig_assert_same_state(&one, "a", &two, "a");
    rig_assert_same_state(&one, "b", &two, "b");
    rig_close(&one);
    rig_close(&two);
}

/* Three sessions in one slot, each alone in its batch: their turns make way for each other after
 * every step, and states go to host memory and come back all the time. */
static void run_three(struct rig *r, struct outcome *out)
{
    static const char *const names[] = { "a", "b", "c" };
    struct command *c[3];

    for (int i = 0; i < 3; i++)
        rig_do(r, COMMAND_SESSION_CREATE, names[i]);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 3; i++)
            c[i] = rig_turn(names[i], prompt + i, (size_t)(2 + round), TOKENS);
        rig_run(r, c, 3, out);
        for (int i = 0; i < 3; i++)
            command_free(c[i]);
    }
}

static void parked_sessions_go_on_as_resident_ones(void **unused)
{
    struct outcome *here = calloc(3, sizeof(*here)), *parked = calloc(3, sizeof(*parked));
    struct engine_options one = roomy, few = roomy;

    (void)unused;
    one.max_batch = few.max_batch = 1;
    few.slots = 1;
    few.quantum = 1;
    for (int k = 0; k < KINDS; k++) {
        struct rig a, b;

        if (!is_there(kinds[k][0]))
            continue;
        rig_open_on(&a, kinds[k][0], model, &one, 2);
        rig_open_on(&b, kinds[k][0], model, &few, 2);
        run_three(&a, here);
        run_three(&b, parked);
        assert_true(engine_counters(b.engine).moves.host_device > 3 * TOKENS);
        for (int i = 0; i < 3; i++)
            assert_same_answer(&here[i], &parked[i]);
        rig_assert_same_state(&a, "a", &b, "a");
        rig_assert_same_state(&a, "c", &b, "c");
        rig_close(&a);
        rig_close(&b);
    }
    free(here);
    free(parked);
}

static uint64_t steps_of(const char *devices)
{
    struct command *c = rig_turn("", prompt, 2, TOKENS);
    uint64_t steps;
    struct rig r;

    rig_open_on(&r, devices, model, &roomy, 1);
    c->turn.choices = FORKS; /* they begin together */
    c->turn.ignore_eos = true;
    free(rig_run_turn(&r, c));
    steps = engine_counters(r.engine).steps;
    rig_close(&r);
    return steps;
}

/* max_batch is of each device: twice as many turns need no more steps. */
static void devices_step_together(void **unused)
{
    (void)unused;
    assert_true(steps_of("cpu") >= 2 * TOKENS);
    assert_true(steps_of("cpu,cpu") < 2 * TOKENS);
}

static atomic_bool broken;

static bool break_down(struct backend *be, uint64_t mark, struct error *err)
{
    (void)mark;
    if (!atomic_load(&broken))
        return true;
    be->lost = true;
    return error_set(err, ERR_DEVICE, "pulled out");
}

/* Whichever it is, and though the turn that is seen to fail worked on the other. */
static void one_lost_device_ends_all_and_is_named(void **unused)
{
    (void)unused;
    for (int lost = 0; lost < 2; lost++) {
        struct command *c[2];
        struct rig r;

        atomic_store(&broken, false);
        rig_open_on(&r, "cpu,cpu", model, &roomy, 2);
        rig_do(&r, COMMAND_SESSION_CREATE, "a");
        r.devices.at[lost].backend->wait = break_down;
        atomic_store(&broken, true);
        for (int i = 0; i < 2; i++) { /* the first runs until the other one's device has failed */
            c[i] = rig_turn(i ? "" : "a", prompt, PROMPT, 1 << 24);
            c[i]->turn.ignore_eos = true;
        }
        rig_run(&r, c, 2, NULL);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(c[i]->problem.what, PROBLEM_DEVICE_ERROR);
            command_free(c[i]);
        }
        assert_ptr_equal(engine_counters(r.engine).lost, r.devices.at[lost].backend->detail);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forks_go_on_alike_on_any_device),
        cmocka_unit_test(a_session_changes_devices_with_every_turn),
        cmocka_unit_test(turns_side_by_side_are_what_each_is_alone),
        cmocka_unit_test(snapshots_and_rollbacks_hold_on_any_device),
        cmocka_unit_test(parked_sessions_go_on_as_resident_ones),
        cmocka_unit_test(devices_step_together),
        cmocka_unit_test(one_lost_device_ends_all_and_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
