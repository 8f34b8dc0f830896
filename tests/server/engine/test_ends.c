/* Turns and rollbacks that end before their time: what is kept of them is what an undisturbed
 * one would have left, and what is not kept has moved nothing. */
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
#include "server/state/format.h"
#include "tests/server/engine/rig.h"

static const char model[] = "tests/data/rwkv7-tiny-hf";
enum { PROMPT = 6, KNOWN = 24, LONG = 1000000 };
static const int32_t prompt[KNOWN] = { 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

static const struct engine_options roomy = { .slots = 4,
                                             .max_batch = 4,
                                             .row_budget = 64,
                                             .max_queue = 16,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

/* A command on its way. */
struct flight {
    struct command *command;
    bool over;
    size_t tokens;
    enum finish finish;
};

static void take_off(struct rig *r, struct flight *f, struct command *c)
{
    *f = (struct flight){ .command = c };
    c->waiter = f;
    assert_true(engine_send(r->engine, c));
}

/* Takes one event of any flight, or rests. */
static void look(struct rig *r)
{
    struct event *e = engine_receive(r->engine);
    struct flight *f;

    if (!e) {
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
        return;
    }
    f = e->command->waiter;
    f->tokens += e->kind == EVENT_TEXT && e->score;
    if (e->kind == EVENT_FINISH)
        f->finish = e->finish;
    f->over |= e->kind == EVENT_ANSWER;
    event_free(e);
}

static void end(struct rig *r, struct flight *f, bool cut)
{
    atomic_store(&f->command->cut, cut);
    atomic_store(&f->command->cancelled, true);
    engine_nudge(r->engine);
}

static enum problem_code land(struct rig *r, struct flight *f)
{
    while (!f->over)
        look(r);
    return f->command->problem.what;
}

/* The same, and frees the command. */
static enum problem_code finish(struct rig *r, struct flight *f)
{
    enum problem_code what = land(r, f);

    command_free(f->command);
    return what;
}

static enum problem_code fly(struct rig *r, struct command *c)
{
    struct flight f;

    take_off(r, &f, c);
    return finish(r, &f);
}

static struct command *endless(const char *session)
{
    struct command *c = rig_turn(session, prompt, PROMPT, LONG);

    c->turn.ignore_eos = true;
    return c;
}

static struct command *way_back(const char *session, size_t turns, uint64_t position)
{
    struct command *c = rig_command(COMMAND_SESSION_ROLLBACK, session, NULL);

    c->turns = turns;
    c->position = position;
    return c;
}

static void run_turn(struct rig *r, const char *session, size_t n, int tokens)
{
    struct command *c = rig_turn(session, prompt, n, tokens);

    c->turn.ignore_eos = true;
    assert_int_equal(fly(r, c), PROBLEM_NONE);
}

static void assert_at(struct rig *r, const char *session, uint64_t version, uint64_t position)
{
    struct flight f;

    take_off(r, &f, rig_command(COMMAND_SESSION_GET, session, NULL));
    assert_int_equal(land(r, &f), PROBLEM_NONE);
    assert_int_equal(f.command->sessions[0].version, version);
    assert_int_equal(f.command->sessions[0].position, position);
    assert_false(f.command->sessions[0].busy);
    command_free(f.command);
}

/* The session has what was drawn, as if that were all that was asked for. */
static void assert_kept(struct rig *r, const char *session, size_t tokens)
{
    struct rig plain;

    assert_at(r, session, 1, PROMPT + tokens);
    rig_open(&plain, model, &roomy, 1);
    rig_do(&plain, COMMAND_SESSION_CREATE, "plain");
    run_turn(&plain, "plain", PROMPT, (int)tokens);
    rig_assert_same_state(r, session, &plain, "plain");
    rig_close(&plain);
}

/* With one slot two turns take it from each other: the one that is ended mostly waits. */
static void what_a_turn_drew_is_kept_while_it_waits_for_its_slot(void **unused)
{
    struct engine_options options = roomy;
    struct rig r;

    (void)unused;
    options.slots = 1;
    options.quantum = 4;
    rig_open(&r, model, &options, 1);
    for (int round = 0; round < 8; round++) {
        bool cut = round % 2;
        struct flight kept, other;
        char name[16];

        snprintf(name, sizeof(name), "a%d", round);
        rig_do(&r, COMMAND_SESSION_CREATE, name);
        take_off(&r, &kept, endless(name));
        kept.command->turn.commit_partial = !cut;
        take_off(&r, &other, endless(""));
        while (other.tokens < (size_t)(5 + round))
            look(&r);
        end(&r, &kept, cut);
        assert_int_equal(land(&r, &kept), cut ? PROBLEM_NONE : PROBLEM_CANCELLED);
        assert_int_equal(kept.finish, cut ? FINISH_LENGTH : FINISH_CANCELLED);
        assert_true(kept.command->turn.committed);
        assert_int_equal(kept.command->turn.completion_tokens, kept.tokens);
        end(&r, &other, false);
        assert_int_equal(finish(&r, &other), PROBLEM_CANCELLED);
        assert_kept(&r, name, kept.tokens);
        command_free(kept.command);
    }
    assert_true(engine_counters(r.engine).slices > 0);
    rig_close(&r);
}

static void a_running_turn_that_is_cut_is_kept(void **unused)
{
    struct flight f;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    take_off(&r, &f, endless("a"));
    while (f.tokens < 9)
        look(&r);
    end(&r, &f, true);
    assert_int_equal(land(&r, &f), PROBLEM_NONE);
    assert_int_equal(f.finish, FINISH_LENGTH);
    assert_true(f.command->turn.committed);
    assert_kept(&r, "a", f.tokens);
    command_free(f.command);
    rig_close(&r);
}

static void a_turn_that_is_cut_before_it_draws_is_cancelled(void **unused)
{
    struct flight f;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    for (int tokens = 0; tokens < 2; tokens++) {
        struct command *c = rig_turn("a", prompt, PROMPT, tokens);

        atomic_store(&c->cut, true);
        atomic_store(&c->cancelled, true);
        take_off(&r, &f, c);
        assert_int_equal(land(&r, &f), PROBLEM_CANCELLED);
        assert_false(c->turn.committed);
        command_free(c);
        assert_at(&r, "a", 0, 0);
    }
    rig_close(&r);
}

/* Before it begins, or while it waits for a slot. */
static void a_rollback_that_is_cancelled_moves_nothing(void **unused)
{
    struct engine_options options = roomy;
    struct flight running, back;
    unsigned char *was, *is;
    struct command *c;
    size_t len, n;
    struct rig r;

    (void)unused;
    options.max_batch = 1;
    rig_open(&r, model, &options, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    run_turn(&r, "a", PROMPT, 300);
    was = rig_state(&r, "a", &len);
    c = way_back("a", 0, 200);
    atomic_store(&c->cancelled, true);
    assert_int_equal(fly(&r, c), PROBLEM_CANCELLED);
    assert_at(&r, "a", 1, PROMPT + 300);
    take_off(&r, &running, endless(""));
    while (!running.tokens)
        look(&r);
    take_off(&r, &back, way_back("a", 0, 200));
    end(&r, &back, false);
    assert_int_equal(finish(&r, &back), PROBLEM_CANCELLED);
    assert_false(running.over);
    assert_at(&r, "a", 1, PROMPT + 300);
    end(&r, &running, false);
    assert_int_equal(finish(&r, &running), PROBLEM_CANCELLED);
    is = rig_state(&r, "a", &n);
    assert_int_equal(n, len);
    assert_memory_equal(is, was, len);
    assert_int_equal(fly(&r, way_back("a", 0, 200)), PROBLEM_NONE);
    assert_at(&r, "a", 2, 200);
    free(was);
    free(is);
    rig_close(&r);
}

static enum problem_code import(struct rig *r, const char *session, const void *file, size_t len)
{
    struct command *c = rig_command(COMMAND_SESSION_IMPORT, session, NULL);
    struct problem p;

    c->checkpoint = format_decode(file, len, model_info(r->model), model_info(r->model)->vocab, &p);
    assert_non_null(c->checkpoint);
    return fly(r, c);
}

/* Room for five states and for one spare; a and its fork b stand two turns on, and nobody has
 * the state that the second of them started from any more. */
static unsigned char *crowd(struct rig *r, struct id *fork, size_t *len)
{
    struct engine_options options = roomy;
    unsigned char *start;

    rig_open(r, model, &roomy, 1);
    options.spare_bytes = model_info(r->model)->layout.bytes * 3 / 2;
    options.host_bytes = model_info(r->model)->layout.bytes * 4;
    options.slots = 2;
    options.max_batch = 1;
    rig_close(r);
    rig_open(r, model, &options, 1);
    rig_do(r, COMMAND_SESSION_CREATE, "a");
    run_turn(r, "a", PROMPT, 3);
    start = rig_state(r, "a", len);
    run_turn(r, "a", PROMPT, 3);
    *fork = rig_fork(r, "a");
    rig_do(r, COMMAND_SESSION_CREATE, "other"); /* whose spare takes the place of a's */
    run_turn(r, "other", PROMPT, 3);
    run_turn(r, "other", PROMPT, 3);
    rig_do(r, COMMAND_SESSION_DELETE, "other");
    return start;
}

/* Both make the same lost state again. The first leaves it, then the room is used up. */
static void a_rollback_has_the_room_that_it_was_promised(void **unused)
{
    unsigned char *start, *is, *file;
    size_t len, n, file_len;
    struct flight first, second, back_a, back_b;
    struct id b;
    char name[16];
    struct rig r;

    (void)unused;
    start = crowd(&r, &b, &len);
    file = rig_export(&r, "a", &file_len);
    take_off(&r, &first, endless(""));
    take_off(&r, &back_a, way_back("a", 1, 0));
    take_off(&r, &second, endless(""));
    take_off(&r, &back_b, way_back(b.text, 1, 0));
    while (!first.tokens)
        look(&r);
    end(&r, &first, false);
    assert_int_equal(finish(&r, &first), PROBLEM_CANCELLED);
    assert_int_equal(finish(&r, &back_a), PROBLEM_NONE);
    assert_at(&r, "a", 3, PROMPT + 3);
    assert_int_equal(fly(&r, way_back("a", 0, 0)), PROBLEM_NONE);
    for (int i = 0;; i++) {
        snprintf(name, sizeof(name), "more%d", i);
        if (import(&r, name, file, file_len) != PROBLEM_NONE)
            break;
    }
    assert_string_equal(name, "more3");
    assert_false(second.over);
    end(&r, &second, false);
    assert_int_equal(finish(&r, &second), PROBLEM_CANCELLED);
    assert_int_equal(finish(&r, &back_b), PROBLEM_NONE);
    is = rig_state(&r, b.text, &n);
    assert_int_equal(n, len);
    assert_memory_equal(is, start, len);
    free(start);
    free(file);
    free(is);
    rig_close(&r);
}

/* Room for five states, of which a's is one. One turn runs at a time. */
static void open_little_room(struct rig *r, unsigned char **file, size_t *len)
{
    struct engine_options options = roomy;

    rig_open(r, model, &roomy, 1);
    options.host_bytes = model_info(r->model)->layout.bytes * 4;
    options.spare_bytes = model_info(r->model)->layout.bytes * 3 / 2;
    options.slots = 2;
    options.max_batch = 1;
    rig_close(r);
    rig_open(r, model, &options, 1);
    rig_do(r, COMMAND_SESSION_CREATE, "a");
    run_turn(r, "a", KNOWN, 0);
    *file = rig_export(r, "a", len);
}

/* a's turn runs until it is ended. */
static void run_on(struct rig *r, struct flight *running)
{
    take_off(r, running, endless("a"));
    while (!running->tokens)
        look(r);
}

/* It was not over before, and what it said is kept. */
static void end_well(struct rig *r, struct flight *running)
{
    assert_false(running->over);
    end(r, running, true);
    assert_int_equal(land(r, running), PROBLEM_NONE);
    assert_at(r, "a", 2, KNOWN + PROMPT + running->tokens);
    command_free(running->command);
}

/* How many more states find room. */
static int fill_up(struct rig *r, const void *file, size_t len)
{
    char name[16];

    for (int n = 0;; n++) {
        snprintf(name, sizeof(name), "more%d", n);
        if (import(r, name, file, len) != PROBLEM_NONE)
            return n;
    }
}

/* Whoever shares the head that a turn will leave does not take the room for the new one. */
static void a_turn_whose_head_is_shared_has_room_at_its_end(void **unused)
{
    static const enum command_kind kinds[] = { COMMAND_SESSION_FORK, COMMAND_SNAPSHOT_TAKE };
    struct flight running;
    unsigned char *file;
    struct rig r;
    size_t len;

    (void)unused;
    for (int i = 0; i < 2; i++) {
        open_little_room(&r, &file, &len);
        run_on(&r, &running);
        assert_int_equal(fly(&r, rig_command(kinds[i], "a", NULL)), PROBLEM_NONE);
        assert_int_equal(fill_up(&r, file, len), 3);
        end_well(&r, &running);
        free(file);
        rig_close(&r);
    }
}

static void nobody_shares_the_head_of_a_turn_without_room(void **unused)
{
    struct flight running;
    unsigned char *file;
    struct rig r;
    size_t len;

    (void)unused;
    open_little_room(&r, &file, &len);
    run_on(&r, &running);
    assert_int_equal(fill_up(&r, file, len), 4);
    assert_int_equal(fly(&r, rig_command(COMMAND_SESSION_FORK, "a", NULL)), PROBLEM_NO_SLOT);
    assert_int_equal(fly(&r, rig_command(COMMAND_SNAPSHOT_TAKE, "a", NULL)),
                     PROBLEM_SNAPSHOT_QUOTA);
    end_well(&r, &running);
    free(file);
    rig_close(&r);
}

/* It waits for its slot, and keeps the state that it will start from. */
static void a_turn_whose_head_another_begins_from_has_room_at_its_end(void **unused)
{
    struct flight running, waiting;
    unsigned char *file;
    struct rig r;
    size_t len;

    (void)unused;
    for (int full = 0; full < 2; full++) {
        open_little_room(&r, &file, &len);
        run_on(&r, &running);
        if (full)
            assert_int_equal(fill_up(&r, file, len), 4);
        take_off(&r, &waiting, rig_turn("", prompt, KNOWN, 1));
        if (!full)
            assert_int_equal(fill_up(&r, file, len), 3);
        end_well(&r, &running);
        assert_int_equal(land(&r, &waiting), PROBLEM_NONE);
        assert_int_equal(waiting.command->turn.cached_tokens, full ? 0 : KNOWN - 1);
        command_free(waiting.command);
        free(file);
        rig_close(&r);
    }
}

/* b's old head leaves the room that a needs, or b waits until a has left. */
static void a_turn_whose_head_another_session_goes_back_to_has_room_at_its_end(void **unused)
{
    struct flight running, back;
    unsigned char *file;
    struct rig r;
    struct id b;
    size_t len;

    (void)unused;
    for (int full = 0; full < 2; full++) {
        open_little_room(&r, &file, &len);
        b = rig_fork(&r, "a");
        run_turn(&r, b.text, PROMPT, 3);
        run_on(&r, &running);
        if (full)
            assert_int_equal(fill_up(&r, file, len), 3);
        take_off(&r, &back, way_back(b.text, 1, 0));
        if (!full)
            assert_int_equal(fill_up(&r, file, len), 3);
        end_well(&r, &running);
        assert_int_equal(finish(&r, &back), PROBLEM_NONE);
        assert_at(&r, b.text, 2, KNOWN);
        free(file);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_turn_drew_is_kept_while_it_waits_for_its_slot),
        cmocka_unit_test(a_running_turn_that_is_cut_is_kept),
        cmocka_unit_test(a_turn_that_is_cut_before_it_draws_is_cancelled),
        cmocka_unit_test(a_rollback_that_is_cancelled_moves_nothing),
        cmocka_unit_test(a_rollback_has_the_room_that_it_was_promised),
        cmocka_unit_test(a_turn_whose_head_is_shared_has_room_at_its_end),
        cmocka_unit_test(nobody_shares_the_head_of_a_turn_without_room),
        cmocka_unit_test(a_turn_whose_head_another_begins_from_has_room_at_its_end),
        cmocka_unit_test(a_turn_whose_head_another_session_goes_back_to_has_room_at_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
