/* While a device computes, and while states move: commands are answered, others go on, and nothing
 * is different in the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "models/model.h"
#include "server/state/checkpoint.h"
#include "tests/server/engine/store_rig.h"
#include "tests/server/state/late.h"

static const char model[] = "tests/data/rwkv7-tiny-hf";
static const int32_t prompt[] = { 5, 6, 7, 8, 9, 10 };
enum { PROMPT = 6, TOKENS = 12, WAIT_MS = 60000 };

static const struct engine_options options = { .slots = 8,
                                               .max_batch = 3,
                                               .row_budget = 16,
                                               .max_queue = 8,
                                               .max_sessions = 32,
                                               .host_bytes = 1 << 26 };

static void wait_a_little(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* The next answer, and how many events of `of` came before it. It comes though something is held,
 * or never. */
static struct command *next_answer(struct rig *r, const struct command *of, int *events)
{
    struct command *c = NULL;
    struct event *e;

    for (int ms = 0; !c; ms++) {
        while (!c && (e = engine_receive(r->engine))) {
            *events += e->command == of;
            c = e->kind == EVENT_ANSWER ? e->command : NULL;
            event_free(e);
        }
        assert_true(ms < WAIT_MS);
        if (!c)
            wait_a_little();
    }
    return c;
}

static void send(struct rig *r, struct command *c)
{
    assert_true(engine_send(r->engine, c));
}

/* Sessions "a" and "b" with a turn behind them, and a snapshot of "a". */
static void open_late(struct rig *r, struct id *snapshot)
{
    rig_open_late(r, "cpu", model, &options, 1);
    rig_do(r, COMMAND_SESSION_CREATE, "a");
    rig_do(r, COMMAND_SESSION_CREATE, "b");
    free(rig_run_turn(r, rig_turn("a", prompt, PROMPT, TOKENS)));
    free(rig_run_turn(r, rig_turn("b", prompt + 1, PROMPT - 1, TOKENS)));
    *snapshot = rig_snapshot(r, "a");
}

/* What "a" or "b" is after another turn where nothing is late. */
static void assert_as_if_nothing_was_late(struct rig *late, const char *session, const char *like)
{
    const size_t skipped = *like == 'b';
    struct rig plain;

    rig_open(&plain, model, &options, 1);
    rig_do(&plain, COMMAND_SESSION_CREATE, like);
    for (int i = 0; i < 2; i++)
        free(rig_run_turn(&plain, rig_turn(like, prompt + skipped, PROMPT - skipped, TOKENS)));
    rig_assert_same_state(late, session, &plain, like);
    rig_close(&plain);
}

static void commands_are_answered_while_a_step_runs(void **unused)
{
    static const enum command_kind kinds[] = { COMMAND_SNAPSHOT_TAKE,   COMMAND_SESSION_RESTORE,
                                               COMMAND_SESSION_FORK,    COMMAND_SESSION_EXPORT,
                                               COMMAND_SNAPSHOT_EXPORT, COMMAND_SESSION_GET };
    struct command *turn = rig_turn("b", prompt + 1, PROMPT - 1, TOKENS), *c;
    struct backend *backend;
    struct id snapshot;
    struct rig r;
    uint64_t steps;
    int seen = 0;

    (void)unused;
    open_late(&r, &snapshot);
    backend = r.devices.at[0].backend;
    late_hold_step(backend, true);
    send(&r, turn);
    while (!late_is_held(backend))
        wait_a_little();
    steps = engine_counters(r.engine).steps;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        c = rig_command(kinds[i], "a", snapshot.text);
        if (kinds[i] != COMMAND_SESSION_RESTORE && kinds[i] != COMMAND_SNAPSHOT_EXPORT)
            c->snapshot.text[0] = '\0';
        send(&r, c);
        assert_ptr_equal(next_answer(&r, turn, &seen), c);
        assert_int_equal(c->problem.what, PROBLEM_NONE);
        command_free(c);
    }
    assert_int_equal(seen, 0);
    assert_int_equal(engine_counters(r.engine).steps, steps);
    late_hold_step(backend, false);
    assert_ptr_equal(next_answer(&r, turn, &seen), turn);
    assert_int_equal(turn->problem.what, PROBLEM_NONE);
    command_free(turn);
    assert_as_if_nothing_was_late(&r, "b", "b");
    rig_close(&r);
}

/* A copy of "a" as another session, whose state is in host memory. */
static void park_copy(struct rig *r, const char *name)
{
    struct command *c = rig_command(COMMAND_SESSION_EXPORT, "a", NULL);
    struct checkpoint *copy;

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    copy = c->checkpoint;
    c->checkpoint = NULL;
    command_free(c);
    c = rig_command(COMMAND_SESSION_IMPORT, name, NULL);
    c->checkpoint = copy;
    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    assert_string_equal(c->sessions[0].residency, "host");
    command_free(c);
}

/* The same by way of a file, as clients do it. */
static void upload_copy(struct rig *r, const char *name)
{
    size_t len;
    unsigned char *file = rig_export(r, "a", &len);

    assert_int_equal(rig_import(r, name, file, len), PROBLEM_NONE);
    free(file);
}

static void expect_others_to_go_on(void (*park)(struct rig *r, const char *name))
{
    struct command *away = rig_turn("parked", prompt, PROMPT, TOKENS), *c;
    struct backend *backend;
    struct id snapshot;
    struct rig r;
    int seen = 0;

    open_late(&r, &snapshot);
    park(&r, "parked");
    backend = r.devices.at[0].backend;
    late_hold_moves(backend, true);
    send(&r, away);
    c = rig_turn("b", prompt + 1, PROMPT - 1, TOKENS);
    send(&r, c);
    assert_ptr_equal(next_answer(&r, away, &seen), c);
    assert_int_equal(c->problem.what, PROBLEM_NONE);
    command_free(c);
    assert_int_equal(seen, 0);
    assert_int_equal(engine_counters(r.engine).running, 1);
    assert_int_equal(engine_counters(r.engine).from_host.count, 0);
    late_hold_moves(backend, false);
    assert_ptr_equal(next_answer(&r, away, &seen), away);
    command_free(away);
    assert_int_equal(engine_counters(r.engine).from_host.count, 1);
    assert_as_if_nothing_was_late(&r, "parked", "a");
    assert_as_if_nothing_was_late(&r, "b", "b");
    rig_close(&r);
}

static void others_go_on_while_a_state_comes_back(void **unused)
{
    (void)unused;
    expect_others_to_go_on(park_copy);
}

static void others_go_on_while_an_uploaded_state_comes(void **unused)
{
    (void)unused;
    expect_others_to_go_on(upload_copy);
}

/* From the device where it lies to another one, for a turn that finds that one full. */
static void others_go_on_while_a_state_goes_to_another_device(void **unused)
{
    struct command *away = rig_turn("a", prompt, PROMPT, TOKENS), *other;
    struct engine_options narrow = options;
    struct backend *from, *to;
    struct rig r;
    int seen = 0, home;

    (void)unused;
    narrow.slots = 2;
    narrow.max_batch = 1;
    rig_open_late(&r, "cpu,cpu", model, &narrow, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(rig_run_turn(&r, rig_turn("a", prompt, PROMPT, TOKENS)));
    other = rig_turn(rig_fork(&r, "a").text, prompt, PROMPT, TOKENS);
    home = engine_counters(r.engine).device[1].resident;
    from = r.devices.at[home].backend;
    to = r.devices.at[!home].backend;
    late_hold_moves(to, true);
    late_hold_step(from, true);
    send(&r, other);
    while (!late_is_held(from))
        wait_a_little();
    send(&r, away);
    late_hold_step(from, false);
    assert_ptr_equal(next_answer(&r, away, &seen), other);
    assert_int_equal(other->problem.what, PROBLEM_NONE);
    command_free(other);
    assert_int_equal(seen, 0);
    assert_int_equal(engine_counters(r.engine).moves.device_device, 1);
    late_hold_moves(to, false);
    assert_ptr_equal(next_answer(&r, away, &seen), away);
    assert_int_equal(away->problem.what, PROBLEM_NONE);
    command_free(away);
    assert_as_if_nothing_was_late(&r, "a", "a");
    rig_close(&r);
}

/* Fresh memory of the kind that is copied fast is costly. */
static void an_upload_uses_the_memory_of_the_one_before(void **unused)
{
    const void *before = NULL;
    struct id snapshot;
    unsigned char *file;
    struct problem p;
    struct rig r;
    size_t len;

    (void)unused;
    open_late(&r, &snapshot);
    file = rig_export(&r, "a", &len);
    for (int i = 0; i < 20; i++) {
        struct command *c = rig_command(COMMAND_SESSION_IMPORT, "up", NULL);

        c->checkpoint = engine_decode(r.engine, file, len, &p);
        assert_non_null(c->checkpoint);
        assert_true(!before || c->checkpoint->record == before);
        before = c->checkpoint->record;
        assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
        command_free(c);
        free(rig_run_turn(&r, rig_turn("up", prompt, PROMPT, TOKENS)));
    }
    assert_as_if_nothing_was_late(&r, "up", "a");
    free(file);
    rig_close(&r);
}

/* The same, of one that only the store has. */
static void others_go_on_while_a_state_comes_from_the_store(void **unused)
{
    const struct engine_options o = store_options(8, 1 << 26);
    struct command *away = store_turn("a", 1, TOKENS), *other = store_turn("", 0, TOKENS);
    struct rig r, plain;
    int seen = 0;

    (void)unused;
    rig_open(&plain, store_model, &store_roomy, 1);
    rig_open_late(&r, "cpu", store_model, &o, 1);
    rig_do(&plain, COMMAND_SESSION_CREATE, "a");
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    store_both(&r, &plain, "a", 0, TOKENS);
    rig_restart(&r, &o);
    late_hold_moves(r.devices.at[0].backend, true);
    send(&r, away);
    while (!engine_counters(r.engine).moves.store_device)
        wait_a_little();
    send(&r, other);
    assert_ptr_equal(next_answer(&r, away, &seen), other);
    assert_int_equal(other->problem.what, PROBLEM_NONE);
    command_free(other);
    assert_int_equal(seen, 0);
    assert_int_equal(engine_counters(r.engine).running, 1);
    assert_int_equal(engine_counters(r.engine).from_store.count, 0);
    late_hold_moves(r.devices.at[0].backend, false);
    assert_ptr_equal(next_answer(&r, away, &seen), away);
    assert_int_equal(away->problem.what, PROBLEM_NONE);
    command_free(away);
    assert_int_equal(engine_counters(r.engine).from_store.count, 1);
    free(rig_run_turn(&plain, store_turn("a", 1, TOKENS)));
    rig_assert_same_state(&r, "a", &plain, "a");
    rig_close(&r);
    rig_close(&plain);
}

/* Whose slot and place in the batch others have from then on. */
static void a_turn_can_be_cancelled_while_its_state_comes(void **unused)
{
    struct command *away = rig_turn("parked", prompt, PROMPT, TOKENS);
    struct id snapshot;
    struct rig r;
    int seen = 0;

    (void)unused;
    open_late(&r, &snapshot);
    park_copy(&r, "parked");
    late_hold_moves(r.devices.at[0].backend, true);
    send(&r, away);
    atomic_store(&away->cancelled, true);
    engine_nudge(r.engine);
    assert_ptr_equal(next_answer(&r, away, &seen), away);
    assert_int_equal(away->problem.what, PROBLEM_CANCELLED);
    command_free(away);
    late_hold_moves(r.devices.at[0].backend, false);
    free(rig_run_turn(&r, rig_turn("b", prompt + 1, PROMPT - 1, TOKENS)));
    assert_as_if_nothing_was_late(&r, "b", "b");
    rig_assert_same_state(&r, "parked", &r, "a");
    rig_close(&r);
}

static void a_device_that_fails_on_the_way_hands_out_nothing(void **unused)
{
    struct command *away = rig_command(COMMAND_SESSION_EXPORT, "a", NULL), *turn;
    struct backend *backend;
    struct id snapshot;
    struct rig r;
    int seen = 0;

    (void)unused;
    open_late(&r, &snapshot);
    backend = r.devices.at[0].backend;
    late_hold_moves(backend, true);
    send(&r, away);
    for (int i = 0; i < 50; i++) { /* it is not answered with what has not come */
        assert_null(engine_receive(r.engine));
        wait_a_little();
    }
    late_lose(backend);
    assert_ptr_equal(next_answer(&r, away, &seen), away);
    assert_int_equal(away->problem.what, PROBLEM_DEVICE_ERROR);
    assert_null(away->checkpoint);
    command_free(away);
    turn = rig_turn("b", prompt, PROMPT, TOKENS);
    assert_int_equal(rig_ask(&r, turn), PROBLEM_DEVICE_ERROR);
    command_free(turn);
    rig_close(&r);
}

/* It went from there to host memory, and cannot be copied to the device that is left. Nothing else
 * runs that would see it. */
static void a_turn_that_cannot_start_for_a_lost_device_says_so(void **unused)
{
    static const char *const sessions[] = { "a", "b", "c" };
    struct engine_options narrow = options;
    struct command *c;
    struct rig r;

    (void)unused;
    narrow.slots = narrow.max_batch = 1;
    rig_open_late(&r, "cpu,cpu", model, &narrow, 1);
    for (int i = 0; i < 3; i++) { /* the third on the first's device, from which that goes */
        rig_do(&r, COMMAND_SESSION_CREATE, sessions[i]);
        free(rig_run_turn(&r, rig_turn(sessions[i], prompt, PROMPT, 1)));
    }
    assert_string_equal(store_describe(&r, "a")->residency, "host");
    rig_do(&r, COMMAND_SESSION_DELETE, "b");
    late_lose(r.devices.at[0].backend);
    c = rig_turn("a", prompt, PROMPT, 1);
    assert_int_equal(rig_ask(&r, c), PROBLEM_DEVICE_ERROR);
    command_free(c);
    assert_ptr_equal(engine_counters(r.engine).lost, r.devices.at[0].backend->detail);
    rig_close(&r);
}

/* Its state was on its way to the store. Others have gone on meanwhile. */
static void a_turn_whose_state_never_came_to_the_store_did_not_happen(void **unused)
{
    const struct engine_options o = store_options(8, 1 << 26);
    struct command *turn = store_turn("a", 1, TOKENS), *other = store_turn("", 0, TOKENS);
    struct rig r, plain;
    struct engine_counters now;
    uint64_t steps;
    int seen = 0;

    (void)unused;
    rig_open(&plain, store_model, &store_roomy, 1);
    rig_open_late(&r, "cpu", store_model, &o, 1);
    rig_do(&plain, COMMAND_SESSION_CREATE, "a");
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    store_both(&r, &plain, "a", 0, TOKENS);
    late_hold_moves(r.devices.at[0].backend, true);
    steps = engine_counters(r.engine).steps;
    send(&r, turn);
    do { /* until it has had its last step */
        wait_a_little();
        now = engine_counters(r.engine);
    } while (now.steps == steps || now.running);
    send(&r, other);
    assert_ptr_equal(next_answer(&r, turn, &seen), other);
    assert_int_equal(other->problem.what, PROBLEM_NONE);
    command_free(other);
    late_lose(r.devices.at[0].backend);
    assert_ptr_equal(next_answer(&r, turn, &seen), turn);
    assert_int_equal(turn->problem.what, PROBLEM_DEVICE_ERROR);
    command_free(turn);
    rig_close(&r);

    rig_open(&r, store_model, &o, 1);
    rig_assert_same_state(&r, "a", &plain, "a");
    store_both(&r, &plain, "a", 1, TOKENS);
    rig_close(&r);
    rig_close(&plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_are_answered_while_a_step_runs),
        cmocka_unit_test(others_go_on_while_a_state_comes_back),
        cmocka_unit_test(others_go_on_while_an_uploaded_state_comes),
        cmocka_unit_test(others_go_on_while_a_state_goes_to_another_device),
        cmocka_unit_test(an_upload_uses_the_memory_of_the_one_before),
        cmocka_unit_test_setup_teardown(others_go_on_while_a_state_comes_from_the_store,
                                        store_setup, folder_remove),
        cmocka_unit_test(a_turn_can_be_cancelled_while_its_state_comes),
        cmocka_unit_test(a_device_that_fails_on_the_way_hands_out_nothing),
        cmocka_unit_test(a_turn_that_cannot_start_for_a_lost_device_says_so),
        cmocka_unit_test_setup_teardown(a_turn_whose_state_never_came_to_the_store_did_not_happen,
                                        store_setup, folder_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
