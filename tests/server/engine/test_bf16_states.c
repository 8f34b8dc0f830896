/* The engine's promises with large states that are kept as bf16. The cut of a prompt can be seen
 * then, by a rounding; everything else goes on to the last bit as if it had never been touched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "tests/server/engine/rig.h"

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/mamba2-grouped",
                                      "tests/data/rwkv7-tiny-hf", "weights/demo" };
enum { MODELS = 4, PROMPT = 40 };

static const struct engine_options roomy = { .slots = 24,
                                             .max_batch = 20,
                                             .row_budget = 64,
                                             .max_queue = 64,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

static void fill_prompt(int32_t *prompt, int n, int seed)
{
    for (int i = 0; i < n; i++)
        prompt[i] = 1 + (seed * 37 + i * (5 + seed) + i * i % 13) % 250;
}

static struct outcome *turn(struct rig *r, const char *session, const int32_t *prompt, size_t n,
                            int max_tokens)
{
    struct command *c = rig_turn(session, prompt, n, max_tokens);

    c->turn.ignore_eos = true;

    struct outcome *out = rig_run_turn(r, c);

    assert_int_equal(out->problem.what, PROBLEM_NONE);
    return out;
}

static void assert_same_tokens(const struct outcome *a, int from, const struct outcome *b, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(a->choice[0].id[from + i], b->choice[0].id[i]);
}

static void answers_in_several_turns_equal_one(void **unused)
{
    int32_t prompt[PROMPT];

    (void)unused;
    fill_prompt(prompt, PROMPT, 1);
    for (int m = 0; m < MODELS; m++) {
        struct rig r;
        struct outcome *whole, *part;

        rig_open_narrow(&r, models[m], &roomy, 2);
        rig_do(&r, COMMAND_SESSION_CREATE, "whole");
        rig_do(&r, COMMAND_SESSION_CREATE, "cut");
        whole = turn(&r, "whole", prompt, PROMPT, 30);
        part = turn(&r, "cut", prompt, PROMPT, 7);
        assert_same_tokens(whole, 0, part, 7);
        free(part);
        part = turn(&r, "cut", NULL, 0, 1);
        assert_same_tokens(whole, 7, part, 1);
        free(part);
        part = turn(&r, "cut", NULL, 0, 22);
        assert_same_tokens(whole, 8, part, 22);
        rig_assert_same_state(&r, "whole", &r, "cut");
        free(part);
        free(whole);
        rig_close(&r);
    }
}

/* Prompts of one token, which nothing cuts: alone, in a crowd, and parked time and again for want
 * of slots. */
static void company_and_parking_are_invisible(void **unused)
{
    enum { CROWD = 9, TOKENS = 40 };

    (void)unused;
    for (int m = 0; m < MODELS; m++) {
        struct engine_options tight = roomy;
        struct command *c[CROWD];
        struct outcome *many = malloc(CROWD * sizeof(*many));
        struct rig alone, crowd;
        int32_t prompt[CROWD];
        char name[16];

        tight.slots = 4;
        tight.max_batch = 3;
        tight.quantum = 5;
        rig_open_narrow(&alone, models[m], &roomy, 1);
        rig_open_narrow(&crowd, models[m], &tight, 2);
        for (int i = 0; i < CROWD; i++) {
            snprintf(name, sizeof(name), "s%d", i);
            prompt[i] = 3 + 20 * i;
            rig_do(&alone, COMMAND_SESSION_CREATE, name);
            rig_do(&crowd, COMMAND_SESSION_CREATE, name);
            c[i] = rig_turn(name, &prompt[i], 1, TOKENS);
            c[i]->turn.ignore_eos = true;
        }
        rig_run(&crowd, c, CROWD, many);
        for (int i = 0; i < CROWD; i++) {
            snprintf(name, sizeof(name), "s%d", i);

            struct outcome *one = turn(&alone, name, &prompt[i], 1, TOKENS);

            assert_same_tokens(one, 0, &many[i], TOKENS);
            rig_assert_same_state(&alone, name, &crowd, name);
            command_free(c[i]);
            free(one);
        }
        free(many);
        rig_close(&alone);
        rig_close(&crowd);
    }
}

static void forks_files_and_snapshots_go_on_alike(void **unused)
{
    int32_t prompt[PROMPT];

    (void)unused;
    fill_prompt(prompt, PROMPT, 2);
    for (int m = 0; m < MODELS; m++) {
        struct rig first, second;
        struct outcome *a, *b;
        unsigned char *file;
        size_t len;
        struct id child, snapshot;

        rig_open_narrow(&first, models[m], &roomy, 2);
        rig_open_narrow(&second, models[m], &roomy, 1);
        rig_do(&first, COMMAND_SESSION_CREATE, "trunk");
        free(turn(&first, "trunk", prompt, PROMPT, 11));
        file = rig_export(&first, "trunk", &len);
        snapshot = rig_snapshot(&first, "trunk");
        child = rig_fork(&first, "trunk");
        a = turn(&first, "trunk", prompt, 4, 25);
        assert_int_equal(rig_import(&second, "moved", file, len), PROBLEM_NONE);
        b = turn(&second, "moved", prompt, 4, 25);
        assert_same_tokens(a, 0, b, 25);
        rig_assert_same_state(&first, "trunk", &second, "moved");
        free(b);
        free(turn(&first, child.text, prompt + 9, 7, 5)); /* another way */
        rig_restore(&first, child.text, &snapshot);
        b = turn(&first, child.text, prompt, 4, 25);
        assert_same_tokens(a, 0, b, 25);
        rig_assert_same_state(&first, "trunk", &first, child.text);
        free(b);
        free(a);
        free(file);
        rig_close(&first);
        rig_close(&second);
    }
}

/* What a rollback takes in again is rounded as on the first way there: from the beginning, and from
 * where the turn began that it goes back into, with a token of the answer before still to come. */
static void a_rollback_rounds_as_the_way_there_did(void **unused)
{
    enum { CUT = 17, TOKENS = 8 };
    int32_t prompt[PROMPT];

    (void)unused;
    fill_prompt(prompt, PROMPT, 5);
    for (int m = 0; m < MODELS; m++) {
        for (int before = 0; before <= TOKENS; before += TOKENS) {
            const uint64_t aim = before ? 1 + TOKENS + CUT : CUT;
            struct engine_options spared = roomy;
            struct rig back, there;

            spared.spare_bytes = 1 << 26;
            rig_open_narrow(&back, models[m], &spared, 2);
            rig_open_narrow(&there, models[m], &spared, 1);
            rig_do(&back, COMMAND_SESSION_CREATE, "a");
            rig_do(&there, COMMAND_SESSION_CREATE, "a");
            if (before) {
                free(turn(&back, "a", prompt + 3, 1, before));
                free(turn(&there, "a", prompt + 3, 1, before));
            }
            free(turn(&back, "a", prompt, PROMPT, 0));
            free(turn(&there, "a", prompt, CUT, 0));
            assert_int_equal(rig_roll_back(&back, "a", 0, aim), PROBLEM_NONE);
            rig_assert_same_state(&back, "a", &there, "a");
            rig_close(&back);
            rig_close(&there);
        }
    }
}

/* What the cache gives back was rounded where the prompt was cut for it the first time. */
static void a_prompt_met_again_gives_the_same(void **unused)
{
    enum { LONG = 180 };
    int32_t prompt[LONG];

    (void)unused;
    fill_prompt(prompt, LONG, 3);
    for (int m = 0; m < MODELS; m++) {
        struct engine_options cached = roomy;
        struct outcome *a, *b;
        struct rig r;

        cached.spare_bytes = 1 << 26;
        cached.cache_every = 32;
        rig_open_narrow(&r, models[m], &cached, 2);
        rig_do(&r, COMMAND_SESSION_CREATE, "a");
        rig_do(&r, COMMAND_SESSION_CREATE, "b");
        a = turn(&r, "a", prompt, LONG, 20);
        b = turn(&r, "b", prompt, LONG, 20);
        assert_int_equal(a->cached_tokens, 0);
        assert_true(b->cached_tokens > 0);
        assert_same_tokens(a, 0, b, 20);
        rig_assert_same_state(&r, "a", &r, "b");
        free(a);
        free(b);
        rig_close(&r);
    }
}

static void a_file_of_float32_states_is_refused(void **unused)
{
    int32_t prompt[PROMPT];
    struct rig wide, narrow;
    unsigned char *file;
    size_t len;

    (void)unused;
    fill_prompt(prompt, PROMPT, 4);
    rig_open(&wide, models[0], &roomy, 1);
    rig_open_narrow(&narrow, models[0], &roomy, 1);
    for (int i = 0; i < 2; i++) {
        struct rig *from = i ? &narrow : &wide, *to = i ? &wide : &narrow;

        rig_do(from, COMMAND_SESSION_CREATE, "a");
        free(turn(from, "a", prompt, PROMPT, 3));
        file = rig_export(from, "a", &len);
        assert_int_equal(rig_import(to, "b", file, len), PROBLEM_NUMBERS_MISMATCH);
        free(file);
    }
    rig_close(&wide);
    rig_close(&narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_in_several_turns_equal_one),
        cmocka_unit_test(company_and_parking_are_invisible),
        cmocka_unit_test(forks_files_and_snapshots_go_on_alike),
        cmocka_unit_test(a_rollback_rounds_as_the_way_there_did),
        cmocka_unit_test(a_prompt_met_again_gives_the_same),
        cmocka_unit_test(a_file_of_float32_states_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
