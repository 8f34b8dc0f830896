/* On devices that keep logs of steps (logging.h), whatever comes of a session at any step of a log
 * is to the last bit what it is without logs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/server/engine/rig.h"
#include "tests/server/folder.h"
#include "tests/server/state/logging.h"

enum { PROMPT = 6, PHASES = 7, CONTEXT = 24, STRIDE = 7, LONG = 30, SEEN_MAX = 1 << 25 };

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/mamba2-tiny",
                                      "tests/data/rwkv7-tiny-hf" };

static const struct rig_cpus cpus[] = { { .log_steps = 3 },
                                        { .log_steps = 4 },
                                        { .late = true, .log_steps = 2 },
                                        { .late = true, .log_steps = 4 } };

enum { MODELS = sizeof(models) / sizeof(models[0]), CPUS = sizeof(cpus) / sizeof(cpus[0]) };

/* So few slots that states come and go. */
static const struct engine_options options = { .slots = 2,
                                               .max_batch = 2,
                                               .row_budget = 24,
                                               .max_queue = 32,
                                               .max_sessions = 32,
                                               .host_bytes = 1 << 26 };

/* All that an engine showed, in order. */
struct seen {
    unsigned char bytes[SEEN_MAX];
    size_t len;
};

static void see(struct seen *to, const void *bytes, size_t n)
{
    assert_true(n <= SEEN_MAX - to->len);
    memcpy(to->bytes + to->len, bytes, n);
    to->len += n;
}

static void see_state(struct seen *to, struct rig *r, const char *session)
{
    size_t len;
    unsigned char *state = rig_state(r, session, &len);

    see(to, state, len);
    free(state);
}

static void see_turn(struct seen *to, const struct outcome *out)
{
    const size_t n = (size_t)out->choice[0].tokens;

    assert_int_equal(out->problem.what, PROBLEM_NONE);
    see(to, &out->cached_tokens, sizeof(out->cached_tokens));
    see(to, out->choice[0].id, n * sizeof(out->choice[0].id[0]));
    see(to, out->choice[0].logprob, n * sizeof(out->choice[0].logprob[0]));
}

static struct command *make_turn(const char *session, size_t n, int tokens)
{
    int32_t prompt[CONTEXT];
    struct command *c;

    for (int i = 0; i < CONTEXT; i++)
        prompt[i] = 5 + i * 7 % 40;
    c = rig_turn(session, prompt, n, tokens);
    c->turn.ignore_eos = true;
    return c;
}

static void run_turn(struct seen *to, struct rig *r, const char *session, size_t n, int tokens)
{
    struct outcome *out = rig_run_turn(r, make_turn(session, n, tokens));

    see_turn(to, out);
    free(out);
}

static void name_session(char name[16], int phase)
{
    snprintf(name, 16, "s%d", phase);
}

/* A session with so many steps behind its prompt, and all that is made of it there. */
static void use_at(struct seen *to, struct rig *r, int phase)
{
    struct id snapshot, child;
    char name[16];

    name_session(name, phase);
    rig_do(r, COMMAND_SESSION_CREATE, name);
    run_turn(to, r, name, PROMPT, phase + 1);
    see_state(to, r, name);
    snapshot = rig_snapshot(r, name);
    child = rig_fork(r, name);
    run_turn(to, r, child.text, 0, 3);
    see_state(to, r, child.text);
    see_state(to, r, name);
    rig_restore(r, child.text, &snapshot);
    see_state(to, r, child.text);
    run_turn(to, r, child.text, 1, 2);
    assert_int_equal(rig_roll_back(r, child.text, 0, (uint64_t)(PROMPT + phase)), PROBLEM_NONE);
    see_state(to, r, child.text);
    run_turn(to, r, name, 1, 2);
    rig_restore(r, name, &snapshot);
}

/* Each works for a few steps, and makes way for another. */
static void use_all_at_once(struct seen *to, struct rig *r)
{
    struct outcome *out = calloc(PHASES, sizeof(*out));
    struct command *c[PHASES];
    char name[16];

    assert_non_null(out);
    for (int i = 0; i < PHASES; i++) {
        name_session(name, i);
        c[i] = make_turn(name, 1, PHASES + i);
    }
    rig_run(r, c, PHASES, out);
    for (int i = 0; i < PHASES; i++) {
        name_session(name, i);
        see_turn(to, &out[i]);
        see_state(to, r, name);
        command_free(c[i]);
    }
    free(out);
}

static void use_sessions(struct seen *to, struct rig *r)
{
    for (int i = 0; i < PHASES; i++)
        use_at(to, r, i);
    use_all_at_once(to, r);
}

/* Contexts that go on where others ended. */
static void use_contexts(struct seen *to, struct rig *r)
{
    for (int i = 0; i < PHASES; i++) {
        struct outcome *out = rig_run_turn(r, make_turn("", (size_t)(CONTEXT - i), i + 1)), *next;
        const size_t n = (size_t)(CONTEXT - i), drawn = (size_t)out->choice[0].tokens;
        int32_t more[CONTEXT + PHASES + 1] = { [CONTEXT] = 0 };

        see_turn(to, out);
        for (size_t k = 0; k < n; k++)
            more[k] = 5 + (int32_t)k * 7 % 40;
        memcpy(more + n, out->choice[0].id, drawn * sizeof(more[0]));
        more[n + drawn] = 9;
        next = rig_run_turn(r, rig_turn("", more, n + drawn + 1, 3));
        see_turn(to, next);
        assert_true(next->cached_tokens >= n);
        free(out);
        free(next);
    }
}

/* States are kept on the way, at every step of a log. */
static void use_the_past(struct seen *to, struct rig *r)
{
    rig_do(r, COMMAND_SESSION_CREATE, "s");
    run_turn(to, r, "s", PROMPT, LONG);
    for (uint64_t at = PROMPT + LONG - 1; at > PROMPT + LONG - 2 * STRIDE; at--) {
        assert_int_equal(rig_roll_back(r, "s", 0, at), PROBLEM_NONE);
        see_state(to, r, "s");
    }
}

static void run(struct seen *to, void (*use)(struct seen *to, struct rig *r), const char *model,
                const struct engine_options *o, const struct rig_cpus *how)
{
    struct engine_options own = *o;
    struct rig r;

    to->len = 0;
    if (o->state_dir)
        folder_make_in_memory(NULL);
    own.state_dir = o->state_dir ? folder : NULL;
    rig_open_as(&r, "cpu", model, &own, 1, how);
    use(to, &r);
    rig_close(&r);
    if (o->state_dir)
        folder_remove(NULL);
}

static void compare(void (*use)(struct seen *to, struct rig *r), const struct engine_options *o)
{
    struct seen *without = malloc(sizeof(*without)), *with = malloc(sizeof(*with));

    assert_true(without && with);
    for (int m = 0; m < MODELS; m++) {
        run(without, use, models[m], o, &(struct rig_cpus){ .log_steps = 0 });
        for (int i = 0; i < CPUS; i++) {
            const uint64_t rows = logging_rows(), settled = logging_settled();

            run(with, use, models[m], o, &cpus[i]);
            assert_int_equal(with->len, without->len);
            assert_memory_equal(with->bytes, without->bytes, with->len);
            assert_true(logging_rows() > rows && logging_settled() > settled);
        }
    }
    free(without);
    free(with);
}

static void sessions_are_what_they_are_without(void **unused)
{
    struct engine_options o = options;

    (void)unused;
    compare(use_sessions, &o);
    o.quantum = 1;
    compare(use_sessions, &o);
}

static void so_are_those_on_disk(void **unused)
{
    struct engine_options o = options;

    (void)unused;
    o.state_dir = folder;
    o.store_bytes = 1 << 28;
    o.durability = DISK_NONE;
    compare(use_sessions, &o);
}

static void so_are_contexts_that_come_again(void **unused)
{
    struct engine_options o = options;

    (void)unused;
    o.spare_bytes = 1 << 24;
    compare(use_contexts, &o);
}

static void so_is_a_session_that_goes_back(void **unused)
{
    struct engine_options o = options;

    (void)unused;
    o.slots = 8;
    o.history_tokens = 2 * (STRIDE + 1);
    o.spare_bytes = 1 << 24;
    compare(use_the_past, &o);
}

static void and_one_with_a_disk(void **unused)
{
    struct engine_options o = options;

    (void)unused;
    o.history_tokens = 2 * (STRIDE + 1);
    o.state_dir = folder;
    o.store_bytes = 1 << 28;
    o.durability = DISK_NONE;
    compare(use_the_past, &o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_are_what_they_are_without),
        cmocka_unit_test(so_are_those_on_disk),
        cmocka_unit_test(so_are_contexts_that_come_again),
        cmocka_unit_test(so_is_a_session_that_goes_back),
        cmocka_unit_test(and_one_with_a_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
