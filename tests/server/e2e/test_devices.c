/* One server on several devices: what it answers is what one device does, turn by turn, and what
 * it keeps is no device's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"
#include "tests/server/folder.h"

enum { SESSIONS = 6, TURNS = 3, TOKENS = 16 };

/* All that sessions said, and where they are. */
struct tale {
    char *text[TURNS][SESSIONS];
    struct state state[SESSIONS];
};

static void create_all(int port)
{
    for (int i = 0; i < SESSIONS; i++)
        cJSON_Delete(ask(port, "POST", "/v1/sessions", "{\"id\":\"s%d\",\"seed\":%d}", i, 100 + i));
}

/* On every session at once. */
static void turn_on_all(int port, int turn, struct tale *t)
{
    struct client c[SESSIONS];
    struct response r;
    char body[256];

    for (int i = 0; i < SESSIONS; i++) {
        snprintf(body, sizeof(body),
                 "{\"session_id\":\"s%d\",\"prompt\":[%d,%d,7],\"max_tokens\":%d,"
                 "\"temperature\":0.9,\"ignore_eos\":true}",
                 i, 10 + i, 20 + turn, TOKENS + i);
        c[i] = client_dial(port);
        assert_true(client_ask(&c[i], "POST", "/v1/completions", NULL, body, strlen(body)));
    }
    for (int i = 0; i < SESSIONS; i++) {
        assert_true(client_read(&c[i], &r));
        assert_int_equal(r.status, 200);
        t->text[turn][i] = answer_text(r.json);
        response_finish(&r);
        client_close(&c[i]);
    }
}

static void look_at_states(int port, struct tale *t)
{
    char name[16];

    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        t->state[i] = state_of(port, name);
    }
}

static void assert_same_tale(struct tale *a, struct tale *b)
{
    for (int i = 0; i < SESSIONS; i++) {
        for (int k = 0; k < TURNS; k++) {
            assert_string_equal(a->text[k][i], b->text[k][i]);
            free(b->text[k][i]);
        }
        assert_same_state(&a->state[i], &b->state[i], "a session");
        state_free(&b->state[i]);
    }
}

static void tale_free(struct tale *t)
{
    for (int i = 0; i < SESSIONS; i++) {
        for (int k = 0; k < TURNS; k++)
            free(t->text[k][i]);
        state_free(&t->state[i]);
    }
}

static void tell_on_one(const char *model, struct tale *t)
{
    struct live l;

    live_start(&l, model, "--device", "cpu", NULL);
    create_all(l.port);
    for (int k = 0; k < TURNS; k++)
        turn_on_all(l.port, k, t);
    look_at_states(l.port, t);
    assert_int_equal(live_stop(&l), 0);
}

static void answers_are_those_of_one_device(void **unused)
{
    static const char *const models[] = { MAMBA, MAMBA2, RWKV7 };

    (void)unused;
    for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); m++) {
        struct tale one, two;
        struct live l;

        tell_on_one(models[m], &one);
        live_start(&l, models[m], "--device", "cpu,cpu", "--slots", "2", "--max-batch", "2",
                   "--row-budget", "16", "--time-slice", "5", NULL);
        create_all(l.port);
        for (int k = 0; k < TURNS; k++)
            turn_on_all(l.port, k, &two);
        look_at_states(l.port, &two);
        assert_same_tale(&one, &two);
        tale_free(&one);
        assert_int_equal(live_stop(&l), 0);
    }
}

static void devices_are_shown_and_used(void **unused)
{
    struct tale t;
    struct live l;
    cJSON *model;

    (void)unused;
    live_start(&l, RWKV7, "--device", "cpu,cpu", "--slots", "8", "--model-name", "made/m", NULL);
    create_all(l.port);
    for (int k = 0; k < TURNS; k++)
        turn_on_all(l.port, k, &t);
    look_at_states(l.port, &t);
    tale_free(&t);
    cJSON_Delete(ask(l.port, "GET", "/v1/models/made/m", NULL));
    model = ask(l.port, "GET", "/v1/models/made%2Fm", NULL); /* as some libraries write it */
    assert_string_equal(text_of(model, "id"), "made/m");
    assert_int_equal(number_of(model, "devices"), 2);
    assert_string_equal(text_of(model, "backend"), "cpu");
    assert_non_null(strstr(text_of(model, "backend_detail"), "; "));
    cJSON_Delete(model);
    assert_true(live_metric(&l, "eddy_slots") == 16);
    for (int i = 0; i < 2; i++) {
        char name[64];

        snprintf(name, sizeof(name), "eddy_device_slots_used{device=\"%d\",by=\"state\"}", i);
        assert_true(live_metric(&l, name) > 0);
    }
    assert_int_equal(live_stop(&l), 0);
}

/* Each turn is another process's, on other devices, and none of them ends in peace. */
static void a_folder_goes_on_on_any_number_of_devices(void **unused)
{
    static const char *const devices[TURNS] = { "cpu,cpu", "cpu", "cpu,cpu,cpu" };
    struct tale one, two;
    struct live l;

    (void)unused;
    tell_on_one(MAMBA2, &one);
    for (int k = 0; k < TURNS; k++) {
        live_start(&l, MAMBA2, "--device", devices[k], "--slots", "2", "--state-dir", folder, NULL);
        if (!k)
            create_all(l.port);
        turn_on_all(l.port, k, &two);
        if (k + 1 == TURNS)
            look_at_states(l.port, &two);
        live_kill(&l);
    }
    assert_same_tale(&one, &two);
    tale_free(&one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_one_device),
        cmocka_unit_test(devices_are_shown_and_used),
        cmocka_unit_test_setup_teardown(a_folder_goes_on_on_any_number_of_devices,
                                        folder_make_in_memory, folder_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
