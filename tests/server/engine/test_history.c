/* A session goes back over its history: what is there again is what was there, byte for byte,
 * whether its state was kept or is made again from the ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "tests/server/engine/rig.h"

static const char model[] = "tests/data/rwkv7-tiny-hf";

static const struct engine_options roomy = { .slots = 4,
                                             .max_batch = 2,
                                             .row_budget = 64,
                                             .max_queue = 16,
                                             .max_sessions = 1100,
                                             .host_bytes = 1 << 26 };

enum { TURNS = 12 };

static void open_windowed(struct rig *r, bool spares, size_t window)
{
    struct engine_options options = roomy;

    options.spare_bytes = spares ? 1 << 24 : 0;
    options.history_tokens = window;
    rig_open(r, model, &options, 2);
    rig_do(r, COMMAND_SESSION_CREATE, "a");
}

static void open_rig(struct rig *r, bool spares)
{
    open_windowed(r, spares, LIMIT_HISTORY_TOKENS);
}

/* A turn of a few ids that depend on i, drawn with every knob that looks at the past. */
static struct command *drawn(const char *session, int i, int prompt, int tokens)
{
    int32_t id[64];
    struct command *c;

    for (int k = 0; k < prompt; k++)
        id[k] = 1 + (i * 37 + k * 11) % 250;
    c = rig_turn(session, id, (size_t)prompt, tokens);
    c->turn.sampling.temperature = 1.3f;
    c->turn.sampling.seeded = true;
    c->turn.sampling.seed = 99;
    c->turn.sampling.repetition = 1.2f;
    c->turn.sampling.frequency = 0.3f;
    c->turn.sampling.presence = 0.2f;
    c->turn.chat = i % 2;
    return c;
}

static void turns_are_taken_back_one_by_one(void **unused)
{
    (void)unused;
    for (int spares = 0; spares < 2; spares++) {
        unsigned char *was[TURNS], *is;
        size_t len[TURNS], n;
        struct rig r;

        open_rig(&r, spares);
        for (int i = 0; i < TURNS; i++) {
            was[i] = rig_state(&r, "a", &len[i]);
            free(rig_run_turn(&r, drawn("a", i, 5 + i, 1 + i % 4)));
        }
        for (int i = TURNS - 1; i >= 0; i--) {
            assert_int_equal(rig_roll_back(&r, "a", 1, 0), PROBLEM_NONE);
            is = rig_state(&r, "a", &n);
            assert_int_equal(n, len[i]);
            assert_memory_equal(is, was[i], n);
            free(is);
            free(was[i]);
        }
        assert_int_equal(rig_roll_back(&r, "a", 1, 0), PROBLEM_HISTORY);
        assert_int_equal(engine_counters(r.engine).replayed_tokens != 0, !spares);
        rig_close(&r);
    }
}

static void several_turns_at_once_are_as_many_single_ones(void **unused)
{
    struct rig r;
    struct command *c;

    (void)unused;
    open_rig(&r, true);
    for (int i = 0; i < TURNS; i++)
        free(rig_run_turn(&r, drawn("a", i, 5, 3)));
    c = rig_command(COMMAND_SESSION_FORK, "a", NULL);
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    assert_int_equal(rig_roll_back(&r, c->sessions[0].id.text, 7, 0), PROBLEM_NONE);
    for (int i = 0; i < 7; i++)
        assert_int_equal(rig_roll_back(&r, "a", 1, 0), PROBLEM_NONE);
    rig_assert_same_state(&r, "a", &r, c->sessions[0].id.text);
    assert_int_equal(rig_roll_back(&r, "a", TURNS - 6, 0), PROBLEM_HISTORY);
    command_free(c);
    rig_close(&r);
}

/* A turn that drew its stop id at once is one that can be taken back, with the turn before it. */
static void a_turn_that_added_nothing_is_a_turn_to_take_back(void **unused)
{
    enum { SOME = 6 };
    struct outcome *out;
    struct command *c;
    struct rig r;

    (void)unused;
    for (int spares = 0; spares < 2; spares++) {
        uint64_t was[SOME];

        open_rig(&r, spares);
        for (int i = 0; i < SOME; i++) {
            c = drawn("a", i, i % 3 == 2 ? 0 : 5, 3);
            if (i % 3 == 2) {
                c->turn.stop_id = malloc(sizeof(int32_t));
                c->turn.sampling.bias = malloc(sizeof(struct bias));
                c->turn.stop_ids = c->turn.sampling.biases = 1;
                c->turn.stop_id[0] = 7;
                c->turn.sampling.bias[0] = (struct bias){ .id = 7, .value = 1000 };
            }
            out = rig_run_turn(&r, c);
            was[i] = out->position;
            free(out);
        }
        assert_true(was[1] == was[2] && was[4] == was[5]);
        c = rig_command(COMMAND_SESSION_FORK, "a", NULL);
        c->count = SOME;
        assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
        for (int n = 1; n < SOME; n++) {
            const char *fork = c->sessions[n].id.text;

            assert_int_equal(rig_roll_back(&r, "a", 1, 0), PROBLEM_NONE);
            assert_int_equal(rig_roll_back(&r, fork, (size_t)n, 0), PROBLEM_NONE);
            rig_assert_same_state(&r, "a", &r, fork);
            assert_int_equal(rig_roll_back(&r, fork, (size_t)(SOME - n), 0), PROBLEM_NONE);
            out = rig_run_turn(&r, drawn("a", n, 5, 3));
            assert_int_equal(out->position, was[SOME - 1 - n] + 8);
            free(out);
            assert_int_equal(rig_roll_back(&r, "a", 1, 0), PROBLEM_NONE);
        }
        command_free(c);
        rig_close(&r);
    }
}

/* The generator's numbers and the penalties' window are a function of the context. */
static void from_inside_an_answer_the_same_is_drawn_again(void **unused)
{
    struct outcome *first, *again;
    struct rig r;

    (void)unused;
    open_rig(&r, true);
    free(rig_run_turn(&r, drawn("a", 1, 30, 10)));
    first = rig_run_turn(&r, drawn("a", 2, 9, 24));
    for (int keep = 0; keep < 24; keep += 5) {
        assert_int_equal(rig_roll_back(&r, "a", 0, 49 + (uint64_t)keep), PROBLEM_NONE);
        again = rig_run_turn(&r, drawn("a", 0, 0, 24 - keep));
        assert_int_equal(again->choice[0].tokens, 24 - keep);
        assert_memory_equal(again->choice[0].id, first->choice[0].id + keep,
                            (size_t)(24 - keep) * sizeof(int32_t));
        assert_int_equal(again->position, first->position);
        free(again);
    }
    free(first);
    rig_close(&r);
}

static void a_turn_that_met_its_stop_comes_back_with_it(void **unused)
{
    (void)unused;
    for (int spares = 0; spares < 2; spares++) {
        struct rig r;
        struct command *c;
        struct outcome *out;
        unsigned char *was, *is;
        size_t len, n;

        open_rig(&r, spares);
        out = rig_run_turn(&r, drawn("a", 1, 12, 12));
        c = drawn("a", 0, 0, 12); /* as it was, but its ninth token now ends it */
        c->turn.stop_id = malloc(sizeof(int32_t));
        c->turn.stop_id[0] = out->choice[0].id[8];
        c->turn.stop_ids = 1;
        free(out);
        assert_int_equal(rig_roll_back(&r, "a", 0, 12), PROBLEM_NONE);
        out = rig_run_turn(&r, c);
        assert_int_equal(out->choice[0].finish, FINISH_STOP);
        free(out);
        was = rig_state(&r, "a", &len);
        free(rig_run_turn(&r, drawn("a", 3, 7, 5)));
        free(rig_run_turn(&r, drawn("a", 4, 7, 5)));
        assert_int_equal(rig_roll_back(&r, "a", 2, 0), PROBLEM_NONE);
        is = rig_state(&r, "a", &n);
        assert_int_equal(n, len);
        assert_memory_equal(is, was, len);
        free(was);
        free(is);
        rig_close(&r);
    }
}

/* A turn that only takes in what was pending ends where it began: both states stand at one
 * position, and the later one holds a token more than the one to go back to. */
static void two_states_at_one_position_are_told_apart(void **unused)
{
    struct engine_options options = roomy;
    unsigned char *was, *is;
    struct outcome *out;
    struct command *c;
    size_t len, n;
    struct rig r;

    (void)unused;
    open_rig(&r, false);
    options.spare_bytes = model_info(r.model)->layout.bytes * 3 / 2; /* of one state */
    rig_close(&r);
    rig_open(&r, model, &options, 2);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(rig_run_turn(&r, drawn("a", 1, 6, 3)));
    was = rig_state(&r, "a", &len);
    out = rig_run_turn(&r, drawn("a", 0, 0, 1));
    assert_int_equal(rig_roll_back(&r, "a", 1, 0), PROBLEM_NONE);
    c = drawn("a", 0, 0, 1);
    c->turn.stop_id = malloc(sizeof(int32_t));
    c->turn.stop_id[0] = out->choice[0].id[0];
    c->turn.stop_ids = 1;
    free(out);
    out = rig_run_turn(&r, c);
    assert_int_equal(out->choice[0].finish, FINISH_STOP);
    assert_int_equal(out->position, 9);
    free(out);
    free(rig_run_turn(&r, drawn("a", 2, 6, 3)));
    assert_int_equal(rig_roll_back(&r, "a", 2, 0), PROBLEM_NONE);
    is = rig_state(&r, "a", &n);
    assert_int_equal(n, len);
    assert_memory_equal(is, was, len);
    free(was);
    free(is);
    rig_close(&r);
}

static void append(struct rig *r, const char *session, int n)
{
    int32_t *id = malloc((size_t)n * sizeof(*id));

    for (int i = 0; i < n; i++)
        id[i] = 1 + (i * 7) % 250;
    free(rig_run_turn(r, rig_turn(session, id, (size_t)n, 0)));
    free(id);
}

static void what_the_history_does_not_reach_is_refused_and_nothing_moves(void **unused)
{
    enum { PART = 3000, PARTS = 5, ALL = PART * PARTS, WINDOW = 4096 };
    unsigned char *was, *is, *file;
    size_t len, n, file_len;
    struct rig r;

    (void)unused;
    open_windowed(&r, false, WINDOW);
    for (int i = 0; i < PARTS; i++)
        append(&r, "a", PART);
    was = rig_state(&r, "a", &len);
    assert_int_equal(rig_roll_back(&r, "a", 0, ALL + 1), PROBLEM_INVALID_PARAMETER);
    assert_int_equal(rig_roll_back(&r, "a", 0, 1), PROBLEM_HISTORY);
    assert_int_equal(rig_roll_back(&r, "a", 0, ALL - 2 * WINDOW), PROBLEM_HISTORY);
    assert_int_equal(rig_roll_back(&r, "a", PARTS, 0), PROBLEM_HISTORY);
    /* The ids are known, but the state before them is gone. */
    assert_int_equal(rig_roll_back(&r, "a", 0, ALL - 1), PROBLEM_HISTORY);
    is = rig_state(&r, "a", &n);
    assert_int_equal(n, len);
    assert_memory_equal(is, was, len);
    assert_int_equal(rig_roll_back(&r, "a", 0, ALL), PROBLEM_NONE);
    assert_int_equal(rig_roll_back(&r, "a", 0, 0), PROBLEM_NONE);
    file = rig_export(&r, "a", &file_len);
    assert_int_equal(rig_import(&r, "b", file, file_len), PROBLEM_NONE);
    assert_int_equal(rig_roll_back(&r, "b", 1, 0), PROBLEM_HISTORY);
    free(file);
    free(was);
    free(is);
    rig_close(&r);
}

static void a_long_session_goes_back_over_its_newest_turns(void **unused)
{
    enum { PART = 3000, PARTS = 18 };
    struct outcome *a, *b;
    struct rig r;

    (void)unused;
    open_rig(&r, true);
    for (int i = 0; i < PARTS; i++)
        append(&r, "a", PART);
    assert_int_equal(rig_roll_back(&r, "a", 0, 1), PROBLEM_HISTORY);
    assert_int_equal(rig_roll_back(&r, "a", 0, PART * PARTS - 100), PROBLEM_NONE);
    append(&r, "a", 10);
    rig_do(&r, COMMAND_SESSION_CREATE, "b");
    append(&r, "b", 3000);
    for (int i = 1; i < PARTS; i++)
        append(&r, "b", i == PARTS - 1 ? PART - 100 : PART);
    append(&r, "b", 10);
    a = rig_run_turn(&r, drawn("a", 5, 5, 20));
    b = rig_run_turn(&r, drawn("b", 5, 5, 20));
    assert_memory_equal(a->choice[0].id, b->choice[0].id, 20 * sizeof(int32_t));
    assert_memory_equal(a->choice[0].logprob, b->choice[0].logprob, 20 * sizeof(float));
    free(a);
    free(b);
    assert_int_equal(rig_roll_back(&r, "a", 5, 0), PROBLEM_NONE);
    rig_close(&r);
}

static void an_imported_session_goes_back_into_what_its_file_knows(void **unused)
{
    unsigned char *file;
    size_t len;
    struct rig r;

    (void)unused;
    open_rig(&r, true);
    free(rig_run_turn(&r, drawn("a", 1, 40, 20)));
    file = rig_export(&r, "a", &len);
    assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_NONE);
    assert_int_equal(rig_roll_back(&r, "a", 0, 51), PROBLEM_NONE);
    assert_int_equal(rig_roll_back(&r, "b", 0, 51), PROBLEM_NONE);
    rig_assert_same_state(&r, "a", &r, "b");
    free(file);
    rig_close(&r);
}

static void a_thousand_forks_take_no_slot_and_no_record_until_they_write(void **unused)
{
    struct engine_counters before, after;
    struct command *c;
    struct rig r;

    (void)unused;
    open_rig(&r, true);
    for (int i = 0; i < 3; i++)
        free(rig_run_turn(&r, drawn("a", i, 20, 10)));
    rig_do(&r, COMMAND_SESSION_GET, "a");
    before = engine_counters(r.engine);
    for (int i = 0; i < 5; i++) {
        c = rig_command(COMMAND_SESSION_FORK, "a", NULL);
        c->count = 200;
        assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
        if (i < 4)
            command_free(c);
    }
    rig_do(&r, COMMAND_SESSION_GET, "a");
    after = engine_counters(r.engine);
    assert_int_equal(after.sessions, 1001);
    assert_int_equal(after.slots_used, before.slots_used);
    assert_int_equal(after.device_bytes + after.host_bytes,
                     before.device_bytes + before.host_bytes);
    assert_int_equal(after.slots_zeroed, before.slots_zeroed);
    /* Each has the history of the first, and its own from then on. */
    assert_int_equal(rig_roll_back(&r, c->sessions[7].id.text, 2, 0), PROBLEM_NONE);
    free(rig_run_turn(&r, drawn(c->sessions[8].id.text, 9, 5, 5)));
    rig_assert_same_state(&r, "a", &r, c->sessions[9].id.text);
    assert_int_equal(rig_roll_back(&r, "a", 0, 90), PROBLEM_NONE);
    command_free(c);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_are_taken_back_one_by_one),
        cmocka_unit_test(several_turns_at_once_are_as_many_single_ones),
        cmocka_unit_test(a_turn_that_added_nothing_is_a_turn_to_take_back),
        cmocka_unit_test(from_inside_an_answer_the_same_is_drawn_again),
        cmocka_unit_test(a_turn_that_met_its_stop_comes_back_with_it),
        cmocka_unit_test(two_states_at_one_position_are_told_apart),
        cmocka_unit_test(what_the_history_does_not_reach_is_refused_and_nothing_moves),
        cmocka_unit_test(a_long_session_goes_back_over_its_newest_turns),
        cmocka_unit_test(an_imported_session_goes_back_into_what_its_file_knows),
        cmocka_unit_test(a_thousand_forks_take_no_slot_and_no_record_until_they_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
