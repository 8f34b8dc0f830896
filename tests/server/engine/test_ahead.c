/* Steps that start before the one in front has come: turns are what they are without, whatever ends
 * them, and only what the host has to see keeps a step back. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/server/engine/rig.h"
#include "tests/server/state/late.h"

struct job;

static const char model[] = "tests/data/mamba2-tiny";
enum { PROMPT = 6, LONG = 60, TOKENS = 24 };

static const struct engine_options options = { .slots = 24,
                                               .max_batch = 16,
                                               .row_budget = 24,
                                               .max_queue = 32,
                                               .max_sessions = 32,
                                               .host_bytes = 1 << 26 };

enum kind {
    GREEDY,
    DRAWN,   /* and scored */
    STOPPED, /* by an id that it draws */
    LATER,   /* by that, which min_tokens forbids at first */
    CHOICES,
    LONG_PROMPT,
    SCORED, /* its prompt, too */
    ONE,
    TWO,
    STOP_STRING, /* is completed */
    HELD,        /* could be, and is not */
    FOLLOWERS,   /* the host has to see what these draw: */
    PENALISED = FOLLOWERS,
    ANY_STOP,
    KINDS
};

/* GREEDY's, for the kinds whose ends depend on what is drawn; ids are bytes. */
static int32_t drawn[TOKENS];

/* One that is a character, and was not drawn before. */
static char find_letter(void)
{
    for (int i = 3; i < TOKENS; i++) {
        bool fresh = drawn[i] > ' ' && drawn[i] < 127;

        for (int k = 0; k < i; k++)
            fresh &= drawn[k] != drawn[i];
        if (fresh)
            return (char)drawn[i];
    }
    fail_msg("no letter is drawn");
    return 0;
}

static void add_stop(struct turn *t, const char *stop)
{
    t->stop = calloc(1, sizeof(*t->stop));
    assert_non_null(t->stop);
    strcpy(t->stop[0], stop);
    t->stops = 1;
}

static struct command *make(enum kind kind, bool session)
{
    int32_t prompt[LONG];
    char name[16] = "";
    struct command *c;
    struct turn *t;

    for (int i = 0; i < LONG; i++)
        prompt[i] = 5 + i * 7 % 40;
    if (session && kind != CHOICES)
        snprintf(name, sizeof(name), "s%d", (int)kind);
    c = rig_turn(name, prompt, kind == LONG_PROMPT ? LONG : PROMPT,
                 kind == ONE   ? 1
                 : kind == TWO ? 2
                               : TOKENS);
    t = &c->turn;
    t->ignore_eos = true;
    t->no_cache = true;
    if (kind == DRAWN || kind == CHOICES || kind == LONG_PROMPT || kind == SCORED) {
        t->sampling.temperature = 1;
        t->logprobs = kind == DRAWN ? 3 : 0;
        t->sampling.seeded = true;
        t->sampling.seed = 77;
    }
    t->choices = kind == CHOICES ? 3 : 1;
    t->score = kind == SCORED;
    if (kind == STOPPED || kind == LATER) {
        t->stop_id = malloc(sizeof(*t->stop_id));
        assert_non_null(t->stop_id);
        t->stop_id[0] = drawn[kind == STOPPED ? 6 : 2];
        t->stop_ids = 1;
        t->min_tokens = kind == LATER ? 5 : 0;
    }
    if (kind == PENALISED) {
        t->sampling.repetition = 1.3f;
        t->sampling.frequency = 0.5f;
    }
    if (kind == STOP_STRING)
        add_stop(t, (char[]){ find_letter(), 0 });
    if (kind == HELD)
        add_stop(t, (char[]){ 1, find_letter(), 0 });
    if (kind == ANY_STOP)
        add_stop(t, "\xef\xbf\xbd");
    return c;
}

static void create_sessions(struct rig *r)
{
    for (int i = 0; i < KINDS; i++) {
        char name[16];

        snprintf(name, sizeof(name), "s%d", i);
        rig_do(r, COMMAND_SESSION_CREATE, name);
    }
}

/* Two turns of each of the first `kinds`, the second one going on where the first ended. */
static void run_all(struct rig *r, int kinds, struct outcome *out)
{
    for (int round = 0; round < 2; round++) {
        struct command *c[KINDS];

        for (int i = 0; i < kinds; i++)
            c[i] = make((enum kind)i, true);
        rig_run(r, c, kinds, out + round * kinds);
        for (int i = 0; i < kinds; i++)
            command_free(c[i]);
    }
}

static void assert_same(const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->problem.what, PROBLEM_NONE);
    assert_int_equal(b->problem.what, PROBLEM_NONE);
    assert_int_equal(a->completion_tokens, b->completion_tokens);
    for (int i = 0; i < RIG_CHOICES_MAX; i++) {
        assert_int_equal(a->choice[i].tokens, b->choice[i].tokens);
        assert_int_equal(a->choice[i].finish, b->choice[i].finish);
        assert_int_equal(a->choice[i].scored, b->choice[i].scored);
        assert_memory_equal(a->choice[i].id, b->choice[i].id, sizeof(a->choice[i].id));
        assert_memory_equal(a->choice[i].logprob, b->choice[i].logprob,
                            sizeof(a->choice[i].logprob));
        assert_memory_equal(a->choice[i].scored_logprob, b->choice[i].scored_logprob,
                            sizeof(a->choice[i].scored_logprob));
        assert_string_equal(a->choice[i].text, b->choice[i].text);
    }
}

static void learn_what_is_drawn(void)
{
    struct rig r;
    struct outcome *out;

    rig_open(&r, model, &options, 1);
    out = rig_run_turn(&r, make(GREEDY, false));
    assert_int_equal(out->choice[0].tokens, TOKENS);
    memcpy(drawn, out->choice[0].id, sizeof(drawn));
    free(out);
    rig_close(&r);
}

static void turns_are_what_they_are_without(void **unused)
{
    struct outcome *out = calloc(2 * 2 * KINDS, sizeof(*out));

    (void)unused;
    assert_non_null(out);
    for (int kinds = FOLLOWERS; kinds <= KINDS; kinds += KINDS - FOLLOWERS) {
        const uint64_t followed = late_followed(), held = late_held_back();
        struct rig plain, ahead;

        rig_open(&plain, model, &options, 1);
        rig_open_late(&ahead, "cpu", model, &options, 1);
        create_sessions(&plain);
        create_sessions(&ahead);
        run_all(&plain, kinds, out);
        assert_int_equal(late_followed(), followed);
        run_all(&ahead, kinds, out + 2 * kinds);
        for (int i = 0; i < 2 * kinds; i++)
            assert_same(&out[i], &out[2 * kinds + i]);
        for (int i = 0; i < kinds; i++) {
            char name[16];

            snprintf(name, sizeof(name), "s%d", i);
            rig_assert_same_state(&plain, name, &ahead, name);
        }
        assert_true(out[STOPPED].choice[0].finish == FINISH_STOP);
        assert_true(out[STOP_STRING].choice[0].finish == FINISH_STOP);
        assert_true(out[HELD].choice[0].finish == FINISH_LENGTH);
        assert_true(kinds == KINDS || late_followed() - followed > TOKENS * KINDS);
        assert_true(kinds == KINDS || late_held_back() > held);
        rig_close(&plain);
        rig_close(&ahead);
    }
    free(out);
}

/* While its first step is on its way, the next one has started if it can. */
static uint64_t starts_behind(enum kind kind)
{
    const uint64_t followed = late_followed();
    struct command *c = make(kind, false);
    bool over = false;
    struct event *e;
    struct rig r;
    uint64_t seen;

    rig_open_late(&r, "cpu", model, &options, 1);
    late_hold_step(r.devices.at[0].backend, true);
    assert_true(engine_send(r.engine, c));
    while (!late_is_held(r.devices.at[0].backend))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    seen = late_followed() - followed;
    assert_int_equal(engine_counters(r.engine).steps, 0);
    late_hold_step(r.devices.at[0].backend, false);
    while (!over)
        if ((e = engine_receive(r.engine))) {
            over = e->kind == EVENT_ANSWER;
            event_free(e);
        }
    assert_int_equal(c->problem.what, PROBLEM_NONE);
    command_free(c);
    rig_close(&r);
    return seen;
}

static void only_what_the_host_has_to_see_keeps_a_step_back(void **unused)
{
    (void)unused;
    assert_int_equal(starts_behind(GREEDY), 1);
    assert_int_equal(starts_behind(STOPPED), 1);
    assert_int_equal(starts_behind(ONE), 0);
    assert_int_equal(starts_behind(PENALISED), 0);
    assert_int_equal(starts_behind(STOP_STRING), 1);
    assert_int_equal(starts_behind(ANY_STOP), 0);
}

/* Turns of every kind at random, on few slots: also such as make way, and wait for others. */
static struct command *make_any(unsigned *seed, int i, bool session)
{
    static const int lengths[] = { 1, 2, 6, 30, LONG };
    int32_t prompt[LONG];
    char name[16] = "";
    struct command *c;
    struct turn *t;

    for (int k = 0; k < LONG; k++)
        prompt[k] = 5 + rand_r(seed) % 40;
    if (session)
        snprintf(name, sizeof(name), "s%d", i);
    c = rig_turn(name, prompt, (size_t)lengths[rand_r(seed) % 5], rand_r(seed) % 8);
    t = &c->turn;
    t->ignore_eos = rand_r(seed) % 2;
    t->no_cache = true;
    t->sampling.temperature = rand_r(seed) % 2 ? 1 : 0;
    t->sampling.seeded = true;
    t->sampling.seed = (uint64_t)rand_r(seed);
    t->logprobs = rand_r(seed) % 4;
    t->choices = session ? 1 : 1 + rand_r(seed) % 3;
    t->score = rand_r(seed) % 3 == 0;
    if (rand_r(seed) % 2) {
        t->stop_id = malloc(8 * sizeof(*t->stop_id));
        assert_non_null(t->stop_id);
        for (t->stop_ids = 0; t->stop_ids < 8; t->stop_ids++)
            t->stop_id[t->stop_ids] = drawn[rand_r(seed) % TOKENS];
        t->min_tokens = rand_r(seed) % 3;
        if (t->min_tokens > t->max_tokens)
            t->min_tokens = t->max_tokens;
    }
    if (rand_r(seed) % 3 == 0)
        add_stop(t, (char[]){ (char)('!' + rand_r(seed) % 94), '\0' });
    if (rand_r(seed) % 8 == 0)
        t->sampling.repetition = 1.3f;
    return c;
}

enum { ANY = 8, ROUNDS = 40 };

static void run_any(struct rig *r, struct outcome *out)
{
    unsigned seed = 7;

    create_sessions(r);
    for (int round = 0; round < ROUNDS; round++) {
        struct command *c[ANY];

        for (int i = 0; i < ANY; i++)
            c[i] = make_any(&seed, i, i % 2);
        rig_run(r, c, ANY, out + round * ANY);
        for (int i = 0; i < ANY; i++)
            command_free(c[i]);
    }
}

static void any_turns_are_what_they_are_without(void **unused)
{
    struct outcome *out = calloc((size_t)2 * ROUNDS * ANY, sizeof(*out));
    struct engine_options o = options;

    (void)unused;
    assert_non_null(out);
    for (int how = 0; how < 4; how++) {
        struct rig plain, ahead;
        const uint64_t followed = late_followed(), held = late_held_back();

        o.max_batch = how ? 3 : 16;
        o.slots = how ? 3 : 24;
        o.quantum = how == 1 ? 2 : 0;
        rig_open(&plain, model, &o, 1);
        run_any(&plain, out);
        rig_open_late(&ahead, how == 3 ? "cpu,cpu" : "cpu", model, &o, 1);
        run_any(&ahead, out + ROUNDS * ANY);
        for (int i = 0; i < ROUNDS * ANY; i++)
            assert_same(&out[i], &out[ROUNDS * ANY + i]);
        for (int i = 0; i < ANY; i++) {
            char name[16];

            snprintf(name, sizeof(name), "s%d", i);
            rig_assert_same_state(&plain, name, &ahead, name);
        }
        assert_true(late_followed() > followed && late_held_back() > held);
        assert_true(!o.quantum || engine_counters(ahead.engine).slices > ROUNDS);
        rig_close(&plain);
        rig_close(&ahead);
    }
    free(out);
}

static void wait_until_held(struct rig *r)
{
    while (!late_is_held(r->devices.at[0].backend))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

/* What came of each is in its problem. */
static void await_answers(struct rig *r, int n)
{
    struct event *e;

    while (n)
        if ((e = engine_receive(r->engine))) {
            n -= e->kind == EVENT_ANSWER;
            event_free(e);
        }
}

/* The loop may mark another turn when the engine has already looked at it: at the first one that
 * fails here. */
static struct {
    struct command *next;
    struct engine *engine;
    bool cut;
} marking;

void __real_job_fail(struct engine *e, struct job *job, enum problem_code what,
                     const char *message);
void __wrap_job_fail(struct engine *e, struct job *job, enum problem_code what,
                     const char *message);

void __wrap_job_fail(struct engine *e, struct job *job, enum problem_code what, const char *message)
{
    struct command *c = marking.next;

    marking.next = NULL;
    if (c) {
        atomic_store(&c->cut, marking.cut);
        atomic_store(&c->cancelled, true);
        engine_nudge(marking.engine);
    }
    __real_job_fail(e, job, what, message);
}

static void what_is_kept_of_a_turn_is_all_that_its_state_took_in(void **unused)
{
    struct engine_options o = options;

    (void)unused;
    o.max_batch = 1;
    for (int cut = 0; cut < 2; cut++) {
        struct command *kept, *other = make(GREEDY, false);
        struct rig plain, ahead;

        rig_open(&plain, model, &o, 1);
        rig_open_late(&ahead, "cpu", model, &o, 1);
        create_sessions(&plain);
        create_sessions(&ahead);
        kept = make(GREEDY, true);
        kept->turn.commit_partial = true;
        late_hold_step(ahead.devices.at[0].backend, true);
        assert_true(engine_send(ahead.engine, kept));
        wait_until_held(&ahead);
        assert_true(engine_send(ahead.engine, other));
        rig_do(&ahead, COMMAND_SESSION_CREATE, "behind it"); /* it is in the queue */
        marking.engine = ahead.engine;
        marking.cut = cut;
        marking.next = kept;
        atomic_store(&other->cancelled, true);
        engine_nudge(ahead.engine);
        late_hold_step(ahead.devices.at[0].backend, false);
        await_answers(&ahead, 2);
        assert_int_equal(other->problem.what, PROBLEM_CANCELLED);
        assert_int_equal(kept->problem.what, cut ? PROBLEM_NONE : PROBLEM_CANCELLED);
        assert_true(kept->turn.committed);
        assert_in_range(kept->turn.completion_tokens, 1, TOKENS - 1);
        command_free(other);
        other = make(GREEDY, true);
        other->turn.max_tokens = (int)kept->turn.completion_tokens;
        free(rig_run_turn(&plain, other));
        rig_assert_same_state(&plain, "s0", &ahead, "s0");
        command_free(kept);
        rig_close(&plain);
        rig_close(&ahead);
    }
}

/* A state is kept where the host has seen it; the others do not wait for that. */
static void a_place_that_is_kept_holds_back_its_own_turn_alone(void **unused)
{
    enum { STRIDE = 7, ANCHORS = (PROMPT + TOKENS - 2) / STRIDE };
    struct engine_options o = options;
    const uint64_t followed = late_followed();
    struct command *both[2] = { make(GREEDY, true), make(GREEDY, false) };
    struct rig plain, ahead;

    (void)unused;
    o.history_tokens = 2 * (STRIDE + 1);
    o.spare_bytes = 1 << 24;
    rig_open(&plain, model, &o, 1);
    rig_open_late(&ahead, "cpu", model, &o, 1);
    create_sessions(&plain);
    create_sessions(&ahead);
    free(rig_run_turn(&plain, make(GREEDY, true)));
    rig_run(&ahead, both, 2, NULL);
    assert_int_equal(late_followed() - followed, 2 * (TOKENS - 1) - ANCHORS);
    rig_assert_same_state(&plain, "s0", &ahead, "s0");
    for (uint64_t at = PROMPT + TOKENS - 1; at > PROMPT + TOKENS - 14; at--) {
        assert_int_equal(rig_roll_back(&plain, "s0", 0, at), PROBLEM_NONE);
        assert_int_equal(rig_roll_back(&ahead, "s0", 0, at), PROBLEM_NONE);
        rig_assert_same_state(&plain, "s0", &ahead, "s0");
    }
    for (int i = 0; i < 2; i++)
        command_free(both[i]);
    rig_close(&plain);
    rig_close(&ahead);
}

/* It gets half of the three rows that the other one leaves in each, rounded up. */
static void a_scored_prompt_has_a_part_in_every_step(void **unused)
{
    struct command *both[2] = { make(GREEDY, false), make(LONG_PROMPT, false) };
    struct engine_options o = options;
    struct rig r;

    (void)unused;
    both[1]->turn.score = true;
    both[1]->turn.max_tokens = 1;
    o.max_batch = 2;
    o.row_budget = 4;
    rig_open_late(&r, "cpu", model, &o, 1);
    assert_true(engine_send_all(r.engine, both, 2));
    await_answers(&r, 2);
    assert_in_range(engine_counters(r.engine).steps, LONG / 2, LONG / 2 + 2);
    for (int i = 0; i < 2; i++)
        command_free(both[i]);
    rig_close(&r);
}

static void a_fault_ends_both_steps_that_are_on_their_way(void **unused)
{
    (void)unused;
    for (int gone = 0; gone < 2; gone++) {
        struct command *c = make(GREEDY, true), *next = make(GREEDY, true);
        struct outcome *out = calloc(1, sizeof(*out));
        struct backend *be;
        struct rig r;

        assert_non_null(out);
        rig_open_late(&r, "cpu", model, &options, 1);
        create_sessions(&r);
        be = r.devices.at[0].backend;
        rig_may_break(&r);
        late_hold_step(be, true);
        assert_true(engine_send(r.engine, c));
        wait_until_held(&r);
        rig_break(true, gone);
        late_hold_step(be, false);
        await_answers(&r, 1);
        assert_int_equal(c->problem.what, PROBLEM_DEVICE_ERROR);
        rig_break(false, false);
        rig_run(&r, &next, 1, out);
        assert_int_equal(next->problem.what, gone ? PROBLEM_DEVICE_ERROR : PROBLEM_NONE);
        if (!gone)
            assert_memory_equal(out->choice[0].id, drawn, sizeof(drawn));
        command_free(c);
        command_free(next);
        free(out);
        rig_close(&r);
    }
}

static void *let_go(void *backend)
{
    nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    late_hold_step(backend, false);
    return NULL;
}

static void an_engine_ends_with_steps_on_their_way(void **unused)
{
    struct command *c = make(GREEDY, true);
    pthread_t thread;
    struct rig r;

    (void)unused;
    rig_open_late(&r, "cpu", model, &options, 1);
    create_sessions(&r);
    late_hold_step(r.devices.at[0].backend, true);
    assert_true(engine_send(r.engine, c));
    wait_until_held(&r);
    assert_int_equal(pthread_create(&thread, NULL, let_go, r.devices.at[0].backend), 0);
    rig_close(&r);
    pthread_join(thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_are_what_they_are_without),
        cmocka_unit_test(any_turns_are_what_they_are_without),
        cmocka_unit_test(what_is_kept_of_a_turn_is_all_that_its_state_took_in),
        cmocka_unit_test(a_place_that_is_kept_holds_back_its_own_turn_alone),
        cmocka_unit_test(a_scored_prompt_has_a_part_in_every_step),
        cmocka_unit_test(a_fault_ends_both_steps_that_are_on_their_way),
        cmocka_unit_test(an_engine_ends_with_steps_on_their_way),
        cmocka_unit_test(only_what_the_host_has_to_see_keeps_a_step_back),
    };

    learn_what_is_drawn();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
