/* What a turn owes its client in the corners: bursts, several choices, nothing to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/server/engine/rig.h"

static const char model[] = "tests/data/mamba-tiny";
static const int32_t prompt[] = { 5, 6, 7, 8, 9, 10, 11, 12 };
enum { PROMPT = 8 };

static const struct engine_options roomy = { .slots = 24,
                                             .max_batch = 20,
                                             .row_budget = 64,
                                             .max_queue = 64,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

static struct event *next_event(struct rig *r)
{
    struct event *e = engine_receive(r->engine);

    while (!e)
        e = engine_receive(r->engine);
    return e;
}

/* max_queue bounds those that wait, not those that come at once. */
static void a_burst_that_can_run_at_once_is_not_refused(void **unused)
{
    enum { BURST = 20 };
    struct engine_options options = roomy;
    struct command *c[BURST];
    struct rig r;

    (void)unused;
    options.max_queue = 1;
    rig_open(&r, model, &options, 1);
    for (int i = 0; i < BURST; i++)
        c[i] = rig_turn("", prompt, PROMPT, 20);
    rig_run(&r, c, BURST, NULL);
    for (int i = 0; i < BURST; i++) {
        assert_int_equal(c[i]->problem.what, PROBLEM_NONE);
        command_free(c[i]);
    }
    rig_close(&r);
}

static void a_full_queue_refuses(void **unused)
{
    enum { BURST = 5 };
    struct engine_options options = roomy;
    struct command *c[BURST];
    struct rig r;
    int refused = 0;

    (void)unused;
    options.max_queue = 4;
    options.max_batch = options.slots = 1;
    rig_open(&r, model, &options, 1);
    for (int i = 0; i < BURST; i++) {
        c[i] = rig_turn("", prompt, PROMPT, 1);
        c[i]->turn.choices = 4;
    }
    rig_run(&r, c, BURST, NULL);
    for (int i = 0; i < BURST; i++) {
        refused += c[i]->problem.what == PROBLEM_QUEUE_FULL;
        command_free(c[i]);
    }
    assert_in_range(refused, 0, BURST - 1);
    rig_close(&r);
}

static int finishes_of(struct rig *r, struct command *c, enum finish *finish)
{
    bool over = false;
    int n = 0;

    assert_true(engine_send(r->engine, c));
    while (!over) {
        struct event *e = next_event(r);

        over = e->kind == EVENT_ANSWER;
        if (e->kind == EVENT_FINISH) {
            finish[e->choice] = e->finish;
            n++;
        }
        event_free(e);
    }
    return n;
}

static void every_choice_finishes_when_nothing_is_sampled(void **unused)
{
    enum finish finish[3] = { FINISH_NONE };
    struct command *c = rig_turn("", prompt, PROMPT, 0);
    struct rig r;

    (void)unused;
    c->turn.choices = 3;
    rig_open(&r, model, &roomy, 1);
    assert_int_equal(finishes_of(&r, c, finish), 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(finish[i], FINISH_LENGTH);
    command_free(c);
    rig_close(&r);
}

static void every_choice_finishes_when_the_prompt_is_cancelled(void **unused)
{
    enum finish finish[3] = { FINISH_NONE };
    struct command *c = rig_turn("", prompt, PROMPT, 5);
    struct rig r;

    (void)unused;
    c->turn.choices = 3;
    atomic_store(&c->cancelled, true);
    rig_open(&r, model, &roomy, 1);
    assert_int_equal(finishes_of(&r, c, finish), 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(finish[i], FINISH_CANCELLED);
    command_free(c);
    rig_close(&r);
}

static void an_engine_that_owes_an_answer_is_not_idle(void **unused)
{
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    for (int round = 0; round < 300; round++) {
        bool over = false;
        struct command *c = rig_turn("", prompt, 1, 1);

        assert_true(engine_idle(r.engine));
        assert_true(engine_send(r.engine, c));
        while (!over) {
            struct event *e;

            assert_false(engine_idle(r.engine));
            e = engine_receive(r.engine);
            over = e && e->kind == EVENT_ANSWER;
            event_free(e);
        }
        command_free(c);
    }
    rig_close(&r);
}

static void scores_without_alternatives_name_none(void **unused)
{
    struct command *c = rig_turn("", prompt, PROMPT, 0);
    bool over = false;
    struct rig r;

    (void)unused;
    c->turn.logprobs = -1;
    c->turn.score = true;
    rig_open(&r, model, &roomy, 1);
    assert_true(engine_send(r.engine, c));
    while (!over) {
        struct event *e = next_event(&r);

        over = e->kind == EVENT_ANSWER;
        if (e->score)
            assert_int_equal(e->score->tops, 0);
        event_free(e);
    }
    command_free(c);
    rig_close(&r);
}

static void a_device_fault_fails_every_turn_and_moves_no_session(void **unused)
{
    struct command *c[3];
    struct outcome *out;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_may_break(&r);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    out = rig_run_turn(&r, rig_turn("a", prompt, PROMPT, 0));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    free(out);
    rig_break(true, false);
    c[0] = rig_turn("a", prompt, PROMPT, 5);
    c[1] = rig_turn("", prompt, PROMPT, 5);
    c[1]->turn.choices = 3;
    c[2] = rig_turn("", prompt, PROMPT, 0);
    rig_run(&r, c, 3, NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(c[i]->problem.what, PROBLEM_DEVICE_ERROR);
        command_free(c[i]);
    }
    rig_break(false, false);
    assert_int_equal(engine_counters(r.engine).slots_used, 1);
    out = rig_run_turn(&r, rig_turn("a", prompt, PROMPT, 1));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    assert_int_equal(out->cached_tokens, PROMPT);
    assert_int_equal(out->version, 2);
    free(out);
    rig_close(&r);
}

/* What a lost device held cannot be trusted: it is neither used nor handed out. */
static void a_lost_device_ends_turns_and_refuses_what_comes(void **unused)
{
    const enum command_kind kinds[] = { COMMAND_SESSION_EXPORT, COMMAND_SNAPSHOT_TAKE };
    struct outcome *out;
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    rig_may_break(&r);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    assert_null(engine_counters(r.engine).lost);
    rig_break(true, true);
    for (int i = 0; i < 2; i++) {
        out = rig_run_turn(&r, rig_turn("a", prompt, PROMPT, 5));
        assert_int_equal(out->problem.what, PROBLEM_DEVICE_ERROR);
        free(out);
    }
    for (int i = 0; i < 2; i++) {
        struct command *c = rig_command(kinds[i], "a", NULL);

        rig_run(&r, &c, 1, NULL);
        assert_int_equal(c->problem.what, PROBLEM_DEVICE_ERROR);
        command_free(c);
    }
    assert_string_equal(engine_counters(r.engine).lost, r.devices.at[0].backend->detail);
    rig_break(false, false);
    rig_close(&r);
}

/* Scores of one choice do not depend on how many there are, nor on the chunks. */
static void scores_are_the_same_for_any_number_of_choices(void **unused)
{
    enum { LONG = 300 };
    int32_t text[LONG];
    struct outcome *one, *three;
    struct command *c;
    struct rig r;

    (void)unused;
    for (int i = 0; i < LONG; i++)
        text[i] = 1 + i * 7 % 255;
    rig_open(&r, model, &roomy, 1);
    c = rig_turn("", text, LONG, 3);
    c->turn.score = true;
    one = rig_run_turn(&r, c);
    c = rig_turn("", text, LONG, 3);
    c->turn.score = true;
    c->turn.choices = 3;
    three = rig_run_turn(&r, c);
    assert_int_equal(one->choice[0].scored, LONG);
    assert_int_equal(three->choice[0].scored, LONG);
    for (int i = 0; i < LONG; i++)
        assert_int_equal(one->choice[0].scored_id[i], text[i]);
    assert_memory_equal(one->choice[0].scored_logprob, three->choice[0].scored_logprob,
                        LONG * sizeof(float));
    for (int i = 0; i < 3; i++)
        assert_memory_equal(one->choice[0].id, three->choice[i].id, 3 * sizeof(int32_t));
    free(one);
    free(three);
    rig_close(&r);
}

/* Nothing is kept beside them once the last has begun: they draw together. */
static void choices_take_a_slot_each_and_no_more(void **unused)
{
    enum { CHOICES = 3, DRAWN = 20 };
    struct engine_options few = roomy;
    struct command *c = rig_turn("", prompt, PROMPT, DRAWN);
    struct outcome *out;
    struct rig r;

    (void)unused;
    few.slots = few.max_batch = CHOICES;
    few.host_bytes = 0;
    rig_open(&r, model, &few, 1);
    c->turn.choices = CHOICES;
    c->turn.ignore_eos = true;
    out = rig_run_turn(&r, c);
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    for (int i = 0; i < CHOICES; i++) {
        assert_int_equal(out->choice[i].tokens, DRAWN);
        assert_memory_equal(out->choice[i].id, out->choice[0].id, DRAWN * sizeof(int32_t));
    }
    assert_true(engine_counters(r.engine).steps < 2 * DRAWN);
    assert_int_equal(engine_counters(r.engine).slots_used, 0);
    free(out);
    rig_close(&r);
}

static struct command *three_draws(void)
{
    struct command *c = rig_turn("", prompt, PROMPT, 12);

    c->turn.choices = 3;
    c->turn.ignore_eos = true;
    c->turn.score = true;
    c->turn.sampling.temperature = 1.5f;
    c->turn.sampling.presence = 1;
    c->turn.sampling.seeded = true;
    return c;
}

static void assert_same_draws(const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->problem.what, PROBLEM_NONE);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->completion_tokens, b->completion_tokens);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(a->choice[i].finish, b->choice[i].finish);
        assert_int_equal(a->choice[i].scored, b->choice[i].scored);
        assert_int_equal(a->choice[i].tokens, b->choice[i].tokens);
        assert_memory_equal(a->choice[i].id, b->choice[i].id,
                            (size_t)a->choice[i].tokens * sizeof(int32_t));
    }
}

/* Where their prompt's state has no place of its own, one draws after the other. */
static void choices_fit_wherever_a_turn_does(void **unused)
{
    enum { SLOTS = 4, AT_ONCE = 2 };
    struct outcome *want, *got = calloc(AT_ONCE, sizeof(*got));
    struct command *c[AT_ONCE];
    struct rig r;

    (void)unused;
    rig_open(&r, model, &roomy, 1);
    want = rig_run_turn(&r, three_draws());
    rig_close(&r);
    for (int slots = 1; slots <= SLOTS; slots++) {
        for (int held = 0; held < slots; held++) {
            struct engine_options few = roomy;

            few.slots = few.max_batch = slots;
            few.host_bytes = 0;
            rig_open(&r, model, &few, 1);
            for (int i = 0; i < held; i++) {
                const char id[] = { (char)('a' + i), '\0' };

                rig_do(&r, COMMAND_SESSION_CREATE, id);
                free(rig_run_turn(&r, rig_turn(id, prompt, PROMPT, 1)));
            }
            assert_int_equal(engine_counters(r.engine).slots_used, held);
            for (int i = 0; i < AT_ONCE; i++)
                c[i] = three_draws();
            rig_run(&r, c, AT_ONCE, got);
            for (int i = 0; i < AT_ONCE; i++) {
                assert_same_draws(&got[i], want);
                command_free(c[i]);
            }
            assert_int_equal(engine_counters(r.engine).slots_used, held);
            if (slots == 1) /* each choice took it in */
                assert_int_equal(engine_counters(r.engine).prompt_tokens, AT_ONCE * 3 * PROMPT);
            rig_close(&r);
        }
    }
    free(got);
    free(want);
}

static void choices_that_have_not_begun_when_time_is_up_never_do(void **unused)
{
    enum { MANY = 1000 };
    struct engine_options least = roomy;
    struct outcome *out = calloc(1, sizeof(*out));
    struct command *c = rig_turn("", prompt, PROMPT, MANY);
    struct rig r;

    (void)unused;
    least.slots = least.max_batch = 1;
    least.host_bytes = 0;
    rig_open(&r, model, &least, 1);
    c->turn.choices = 3;
    c->turn.ignore_eos = true;
    atomic_store(&c->cut, true);
    rig_run_cancelled(&r, c, 1, out);
    assert_int_equal(c->problem.what, PROBLEM_CANCELLED);
    assert_int_equal(out->choice[0].finish, FINISH_LENGTH);
    assert_in_range(out->choice[0].tokens, 1, MANY - 1);
    for (int i = 1; i < 3; i++) {
        assert_int_equal(out->choice[i].finish, FINISH_CANCELLED);
        assert_int_equal(out->choice[i].tokens, 0);
    }
    assert_int_equal(engine_counters(r.engine).slots_used, 0);
    command_free(c);
    free(out);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_burst_that_can_run_at_once_is_not_refused),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(every_choice_finishes_when_nothing_is_sampled),
        cmocka_unit_test(every_choice_finishes_when_the_prompt_is_cancelled),
        cmocka_unit_test(an_engine_that_owes_an_answer_is_not_idle),
        cmocka_unit_test(a_device_fault_fails_every_turn_and_moves_no_session),
        cmocka_unit_test(a_lost_device_ends_turns_and_refuses_what_comes),
        cmocka_unit_test(scores_without_alternatives_name_none),
        cmocka_unit_test(scores_are_the_same_for_any_number_of_choices),
        cmocka_unit_test(choices_take_a_slot_each_and_no_more),
        cmocka_unit_test(choices_fit_wherever_a_turn_does),
        cmocka_unit_test(choices_that_have_not_begun_when_time_is_up_never_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
