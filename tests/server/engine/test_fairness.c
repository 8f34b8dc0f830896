/* Nobody's turn waits for the end of everyone else's: what a short prompt gets beside long ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/error.h"
#include "tests/server/engine/rig.h"

static const char model[] = "tests/data/mamba-tiny";

static const struct engine_options roomy = { .slots = 24,
                                             .max_batch = 20,
                                             .row_budget = 64,
                                             .max_queue = 64,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

enum { LONG = 3000, SHORT = 20, MOST = 16 };

static int32_t text[LONG];

static int fill_text(void **unused)
{
    (void)unused;
    for (int i = 0; i < LONG; i++)
        text[i] = 1 + i * 7 % 255;
    return 0;
}

/* The newest of the commands is short: it has to be answered before any other. */
static void assert_newest_is_first(struct command **c, int n)
{
    struct event *event;
    struct rig r;
    int answers = 0;

    rig_open(&r, model, &roomy, 1);
    for (int i = 0; i < n; i++)
        assert_true(engine_send(r.engine, c[i]));
    while (answers < n) {
        if (!(event = engine_receive(r.engine)))
            continue;
        if (event->kind == EVENT_ANSWER) {
            assert_int_equal(event->command->problem.what, PROBLEM_NONE);
            if (!answers++)
                assert_ptr_equal(event->command, c[n - 1]);
        }
        event_free(event);
    }
    for (int i = 0; i < n; i++)
        command_free(c[i]);
    rig_close(&r);
}

static void a_short_prompt_does_not_wait_for_many_long_ones(void **unused)
{
    struct command *c[MOST];

    (void)unused;
    for (int i = 0; i < MOST; i++)
        c[i] = rig_turn("", text, i + 1 < MOST ? LONG : SHORT, 1);
    assert_newest_is_first(c, MOST);
}

static void scores_of_a_short_prompt_do_not_wait_for_those_of_a_long_one(void **unused)
{
    struct command *c[] = { rig_turn("", text, LONG, 1), rig_turn("", text, LONG, 1),
                            rig_turn("", text, SHORT, 1) };

    (void)unused;
    for (int i = 0; i < 3; i++)
        c[i]->turn.score = true;
    assert_newest_is_first(c, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_prompt_does_not_wait_for_many_long_ones),
        cmocka_unit_test(scores_of_a_short_prompt_do_not_wait_for_those_of_a_long_one),
    };
    return cmocka_run_group_tests(tests, fill_text, NULL);
}
