/* Verbs on sessions: what is refused has left nothing behind, what is restored goes on as
 * before, and room that was promised is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "models/model.h"
#include "server/state/checkpoint.h"
#include "server/state/format.h"
#include "tests/server/engine/rig.h"
#include "tests/server/folder.h"

static const char model[] = "tests/data/mamba-tiny";
static const int32_t prompt[] = { 5, 6, 7, 8, 9, 10, 11, 12 };
enum { PROMPT = 8 };

static const struct engine_options roomy = { .slots = 24,
                                             .max_batch = 20,
                                             .row_budget = 64,
                                             .max_queue = 64,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

static struct outcome *draw(struct rig *r, const char *session)
{
    struct command *c = rig_turn(session, prompt, PROMPT, 20);
    struct outcome *out;

    c->turn.sampling.temperature = 2;
    out = rig_run_turn(r, c);
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    return out;
}

static void assert_same_draws(struct outcome *a, struct outcome *b)
{
    assert_int_equal(a->choice[0].tokens, b->choice[0].tokens);
    assert_memory_equal(a->choice[0].id, b->choice[0].id,
                        (size_t)a->choice[0].tokens * sizeof(int32_t));
    free(a);
    free(b);
}

static enum problem_code get(struct rig *r, const char *session)
{
    struct command *c = rig_command(COMMAND_SESSION_GET, session, NULL);
    enum problem_code what = rig_ask(r, c);

    command_free(c);
    return what;
}

static void a_session_restored_to_its_beginning_draws_the_same(void **unused)
{
    struct outcome *first;
    struct id snapshot;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    snapshot = rig_snapshot(&r, "a");
    first = draw(&r, "a");
    rig_restore(&r, "a", &snapshot);
    assert_same_draws(first, draw(&r, "a"));
    rig_close(&r);
}

static void a_fork_restored_to_its_own_snapshot_draws_the_same(void **unused)
{
    struct outcome *first;
    struct id snapshot, child;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(draw(&r, "a"));
    child = rig_fork(&r, "a");
    snapshot = rig_snapshot(&r, child.text);
    first = draw(&r, child.text);
    rig_restore(&r, child.text, &snapshot);
    assert_same_draws(first, draw(&r, child.text));
    rig_close(&r);
}

static void an_exported_session_that_never_turned_draws_the_same(void **unused)
{
    unsigned char *file;
    size_t len;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    file = rig_export(&r, "a", &len);
    assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_NONE);
    assert_same_draws(draw(&r, "a"), draw(&r, "b"));
    free(file);
    rig_close(&r);
}

static void a_turn_of_nothing_keeps_the_session_at_its_beginning(void **unused)
{
    struct outcome *out;
    unsigned char *file;
    size_t len;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    out = rig_run_turn(&r, rig_turn("a", NULL, 0, 0));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    assert_int_equal(out->version, 1);
    free(out);
    assert_int_equal(engine_counters(r.engine).slots_used, 0);
    file = rig_export(&r, "a", &len);
    assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_NONE);
    free(file);
    rig_close(&r);
}

static void an_import_that_is_refused_makes_no_session(void **unused)
{
    struct engine_options options = roomy;
    struct rig big, small;
    unsigned char *file;
    size_t len;

    (void)unused;
    options.host_bytes = 0;
    rig_open(&big, model, &roomy, 1);
    rig_open(&small, model, &options, 1);
    rig_do(&big, COMMAND_SESSION_CREATE, "a");
    free(draw(&big, "a"));
    file = rig_export(&big, "a", &len);
    assert_int_equal(rig_import(&small, "b", file, len), PROBLEM_NO_SLOT);
    assert_int_equal(get(&small, "b"), PROBLEM_SESSION_NOT_FOUND);
    free(file);
    rig_close(&big);
    rig_close(&small);
}

/* Sessions "0" and on, in slots and in host memory, until there is no room; how many. */
static int fill(struct rig *r, const void *file, size_t len)
{
    char name[16] = "0";
    int n = 0;

    while (rig_import(r, name, file, len) == PROBLEM_NONE) {
        free(draw(r, name));
        assert_in_range(++n, 1, 8);
        snprintf(name, sizeof(name), "%d", n);
    }
    return n;
}

static void an_import_takes_the_place_of_the_state_it_replaces(void **unused)
{
    struct engine_options options = roomy;
    unsigned char *file;
    struct rig big, r;
    char name[16];
    size_t len;
    int held;

    (void)unused;
    rig_open(&big, model, &roomy, 1);
    rig_do(&big, COMMAND_SESSION_CREATE, "a");
    free(draw(&big, "a"));
    file = rig_export(&big, "a", &len);
    options.slots = options.max_batch = 3;
    options.host_bytes = 2 * model_info(big.model)->layout.bytes;
    rig_open(&r, model, &options, 1);
    held = fill(&r, file, len);
    assert_int_equal(held, 4);
    for (int i = 0; i < held; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_int_equal(rig_import(&r, name, file, len), PROBLEM_NONE);
        rig_assert_same_state(&r, name, &big, "a");
    }
    for (int i = 0; i < held; i++) {
        snprintf(name, sizeof(name), "%d", i);
        free(draw(&r, name));
    }
    rig_fork(&r, name); /* who needs the state, too */
    assert_int_equal(rig_import(&r, name, file, len), PROBLEM_NO_SLOT);
    free(draw(&r, "0"));
    rig_close(&big);
    free(file);
    rig_close(&r);
}

static void a_fork_that_is_refused_makes_no_children(void **unused)
{
    struct engine_options options = roomy;
    struct command *c;
    struct rig r;

    (void)unused;
    options.max_sessions = 3;
    rig_open(&r, model, &options, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    c = rig_command(COMMAND_SESSION_FORK, "a", NULL);
    c->count = 3;
    assert_int_equal(rig_ask(&r, c), PROBLEM_SESSION_QUOTA);
    assert_int_equal(c->items, 0);
    command_free(c);
    assert_int_equal(engine_counters(r.engine).sessions, 1);
    rig_close(&r);
}

/* Of one state that costs nothing, too. */
static void snapshots_are_bounded(void **unused)
{
    struct engine_options options = roomy;
    enum problem_code what = PROBLEM_NONE;
    struct rig r;

    (void)unused;
    options.slots = 4;
    options.host_bytes = 0;
    rig_open(&r, model, &options, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    for (int n = 0; what == PROBLEM_NONE; n++) {
        struct command *c = rig_command(COMMAND_SNAPSHOT_TAKE, "a", NULL);

        what = rig_ask(&r, c);
        command_free(c);
        assert_in_range(n, 0, options.slots);
    }
    assert_int_equal(what, PROBLEM_SNAPSHOT_QUOTA);
    rig_close(&r);
}

static enum problem_code import_snapshot(struct rig *r, const void *file, size_t len)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_IMPORT, NULL, NULL);
    const struct model_info *info = model_info(r->model);
    enum problem_code what;
    struct problem p;

    c->checkpoint = format_decode(file, len, info, info->vocab, &p);
    assert_non_null(c->checkpoint);
    what = rig_ask(r, c);
    command_free(c);
    return what;
}

/* Whatever would need the room, and again when there is some. */
static void a_used_up_folder_says_so(void **unused)
{
    struct engine_options options = roomy;
    struct command *take = rig_command(COMMAND_SNAPSHOT_TAKE, "a", NULL);
    struct outcome *out;
    unsigned char *file;
    struct rig r;
    size_t len;

    (void)unused;
    options.state_dir = folder;
    options.store_bytes = 1 << 28;
    rig_open(&r, model, &options, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(draw(&r, "a"));
    file = rig_export(&r, "a", &len);
    options.store_bytes = engine_counters(r.engine).store_bytes * 3 / 2;
    rig_restart(&r, &options);
    assert_int_equal(rig_ask(&r, take), PROBLEM_STORAGE_FULL);
    assert_int_equal(import_snapshot(&r, file, len), PROBLEM_STORAGE_FULL);
    assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_STORAGE_FULL);
    assert_int_equal(get(&r, "b"), PROBLEM_SESSION_NOT_FOUND);
    rig_do(&r, COMMAND_SESSION_CREATE, "b");
    out = rig_run_turn(&r, rig_turn("b", prompt, PROMPT, 1));
    assert_int_equal(out->problem.what, PROBLEM_STORAGE_FULL);
    rig_do(&r, COMMAND_SESSION_DELETE, "a");
    assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_NONE);
    options.host_bytes = 0;
    options.store_bytes = 1 << 28;
    rig_restart(&r, &options);
    assert_int_equal(rig_import(&r, "c", file, len), PROBLEM_NONE); /* it goes to the disk */
    command_free(take);
    free(file);
    free(out);
    rig_close(&r);
}

static void an_imported_head_has_no_snapshot_on_its_way(void **unused)
{
    struct command *c;
    unsigned char *file;
    size_t len;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    rig_snapshot(&r, "a");
    file = rig_export(&r, "a", &len);
    assert_int_equal(rig_import(&r, "a", file, len), PROBLEM_NONE);
    c = rig_command(COMMAND_SNAPSHOT_TAKE, "a", NULL);
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    assert_string_equal(c->snapshots[0].parent.text, "");
    command_free(c);
    free(file);
    rig_close(&r);
}

/* Every slot could come to hold a session's state, with none left to work in for ever. */
static void sessions_that_begin_at_once_leave_a_slot_to_work_in(void **unused)
{
    struct engine_options options = roomy;
    struct command *c[2];
    struct outcome *out;
    struct rig r;

    (void)unused;
    options.slots = options.max_batch = 2;
    options.host_bytes = 0;
    rig_open(&r, model, &options, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    rig_do(&r, COMMAND_SESSION_CREATE, "b");
    for (int i = 0; i < 2; i++)
        c[i] = rig_turn(i ? "b" : "a", prompt, PROMPT, 50);
    rig_run(&r, c, 2, NULL);
    for (int i = 0; i < 2; i++)
        command_free(c[i]);
    out = rig_run_turn(&r, rig_turn("", prompt, PROMPT, 1));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    free(out);
    rig_close(&r);
}

/* A turn may last longer than a session that nobody touches. */
static void a_turn_that_fails_keeps_its_session_alive(void **unused)
{
    struct command *c, *made = rig_command(COMMAND_SESSION_CREATE, "a", NULL);
    double cancelled_at;
    bool over = false;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    made->has_ttl = true;
    made->ttl = 1;
    assert_true(engine_send(r.engine, made)); /* the turn has no more than that time to begin */
    c = rig_turn("a", prompt, PROMPT, 1000000);
    c->turn.logprobs = -1;
    c->turn.ignore_eos = true;
    assert_true(engine_send(r.engine, c));
    nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 100000000 }, NULL);
    cancelled_at = checkpoint_clock();
    atomic_store(&c->cancelled, true);
    engine_nudge(r.engine);
    while (!over) {
        struct event *e = engine_receive(r.engine);

        over = e && e->kind == EVENT_ANSWER && e->command == c;
        event_free(e);
    }
    assert_int_equal(c->problem.what, PROBLEM_CANCELLED);
    assert_true(c->turn.info.expires > cancelled_at);
    command_free(made);
    command_free(c);
    rig_close(&r);
}

static void a_session_that_nobody_touches_expires(void **unused)
{
    struct command *c;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "kept");
    c = rig_command(COMMAND_SESSION_CREATE, "a", NULL);
    c->has_ttl = true;
    c->ttl = 0.01;
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    command_free(c);
    for (int i = 0; get(&r, "a") == PROBLEM_NONE; i++) {
        assert_true(i < 1000);
        nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
    }
    assert_int_equal(get(&r, "a"), PROBLEM_SESSION_NOT_FOUND);
    assert_int_equal(get(&r, "kept"), PROBLEM_NONE);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_restored_to_its_beginning_draws_the_same),
        cmocka_unit_test(a_fork_restored_to_its_own_snapshot_draws_the_same),
        cmocka_unit_test(an_exported_session_that_never_turned_draws_the_same),
        cmocka_unit_test(a_turn_of_nothing_keeps_the_session_at_its_beginning),
        cmocka_unit_test(an_import_that_is_refused_makes_no_session),
        cmocka_unit_test(an_import_takes_the_place_of_the_state_it_replaces),
        cmocka_unit_test(a_fork_that_is_refused_makes_no_children),
        cmocka_unit_test(snapshots_are_bounded),
        cmocka_unit_test_setup_teardown(a_used_up_folder_says_so, folder_make, folder_remove),
        cmocka_unit_test(an_imported_head_has_no_snapshot_on_its_way),
        cmocka_unit_test(sessions_that_begin_at_once_leave_a_slot_to_work_in),
        cmocka_unit_test(a_session_that_nobody_touches_expires),
        cmocka_unit_test(a_turn_that_fails_keeps_its_session_alive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
