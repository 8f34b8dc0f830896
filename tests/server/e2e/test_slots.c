/* llama.cpp's calls on slots: its names in its answers, our sessions and snapshots behind. */
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

#define SAVE(name) "{\"filename\":\"" name "\"}"

static struct live server;

static cJSON *turn(const char *session)
{
    return ask(server.port, "POST", "/v1/completions",
               "{\"session_id\":\"%s\",\"prompt\":[5,6,7],\"max_tokens\":8,\"temperature\":1,"
               "\"seed\":3,\"ignore_eos\":true}",
               session);
}

static cJSON *action(int slot, const char *what, const char *body)
{
    char path[64];

    snprintf(path, sizeof(path), "/slots/%d?action=%s", slot, what);
    return ask(server.port, "POST", path, "%s", body);
}

static void assert_slot(int slot, double past, bool there)
{
    cJSON *slots = ask(server.port, "GET", "/slots", NULL);
    const cJSON *s = cJSON_GetArrayItem(slots, slot);

    assert_int_equal(cJSON_GetArraySize(slots), 4); /* --slots */
    assert_int_equal(number_of(s, "id"), slot);
    assert_int_equal(number_of(s, "n_past"), past);
    assert_false(flag_of(s, "is_processing"));
    assert_true(number_of(s, "n_ctx") > 0);
    assert_int_equal(cJSON_IsString(item_of(s, "session")), there);
    cJSON_Delete(slots);
}

static void what_is_saved_is_restored_and_goes_on_alike(void **unused)
{
    cJSON *model = ask(server.port, "GET", "/v1/models/demo", NULL);
    double bytes = number_of(model, "state_bytes");
    char *first, *again;
    cJSON *a;

    (void)unused;
    cJSON_Delete(model);
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"slot-0\"}"));
    cJSON_Delete(turn("slot-0"));
    assert_slot(0, 11, true);
    a = action(0, "save", SAVE("story.bin"));
    assert_int_equal(number_of(a, "id_slot"), 0);
    assert_string_equal(text_of(a, "filename"), "story.bin");
    assert_int_equal(number_of(a, "n_saved"), 11);
    assert_true(number_of(a, "n_written") == bytes);
    assert_true(number_of(item_of(a, "timings"), "save_ms") > 0);
    cJSON_Delete(a);
    a = turn("slot-0");
    first = answer_text(a);
    cJSON_Delete(a);

    /* Into a slot that has no session yet, and into one that has moved on. */
    for (int slot = 0; slot < 2; slot++) {
        char session[16];

        snprintf(session, sizeof(session), "slot-%d", slot);
        a = action(slot, "restore", SAVE("story.bin"));
        assert_int_equal(number_of(a, "id_slot"), slot);
        assert_int_equal(number_of(a, "n_restored"), 11);
        assert_true(number_of(a, "n_read") == bytes);
        assert_true(number_of(item_of(a, "timings"), "restore_ms") > 0);
        cJSON_Delete(a);
        assert_slot(slot, 11, true);
        a = turn(session);
        again = answer_text(a);
        assert_string_equal(first, again);
        free(again);
        cJSON_Delete(a);
    }
    free(first);
}

/* As a file is overwritten. */
static void a_name_holds_the_newest_state_only(void **unused)
{
    cJSON *a, *list;

    (void)unused;
    cJSON_Delete(action(0, "save", SAVE("again.bin")));
    cJSON_Delete(turn("slot-0"));
    list = ask(server.port, "GET", "/v1/snapshots", NULL);
    a = action(0, "save", SAVE("again.bin"));
    cJSON_Delete(action(0, "restore", SAVE("again.bin")));
    assert_slot(0, number_of(a, "n_saved"), true);
    cJSON_Delete(a);
    a = ask(server.port, "GET", "/v1/snapshots", NULL);
    assert_int_equal(cJSON_GetArraySize(item_of(a, "data")),
                     cJSON_GetArraySize(item_of(list, "data")));
    cJSON_Delete(a);
    cJSON_Delete(list);
}

static void an_erased_slot_is_empty(void **unused)
{
    cJSON *a;

    (void)unused;
    cJSON_Delete(action(2, "restore", SAVE("story.bin")));
    a = action(2, "erase", "");
    assert_int_equal(number_of(a, "id_slot"), 2);
    assert_int_equal(number_of(a, "n_erased"), 11);
    cJSON_Delete(a);
    assert_slot(2, 0, false);
    a = action(2, "erase", "");
    assert_int_equal(number_of(a, "n_erased"), 0);
    cJSON_Delete(a);
}

static void what_makes_no_sense_is_refused(void **unused)
{
    static const char *const names[] = {
        SAVE(""),    SAVE("../x"), SAVE("a/b"), SAVE("a\\\\b"), SAVE(".hidden"), SAVE("a\\u0001"),
        SAVE("c:x"), "{}",         "",
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        refused(server.port, 400, "invalid_parameter", "POST", "/slots/0?action=save", "%s",
                names[i]);
    refused(server.port, 400, "invalid_parameter", "POST", "/slots/4?action=save", SAVE("x"));
    refused(server.port, 400, "invalid_parameter", "POST", "/slots/-1?action=save", SAVE("x"));
    refused(server.port, 400, "invalid_parameter", "POST", "/slots/99999999999?action=erase", "{}");
    refused(server.port, 400, "invalid_parameter", "POST", "/slots/0?action=load", SAVE("x"));
    refused(server.port, 400, "invalid_parameter", "POST", "/slots/0", SAVE("x"));
    refused(server.port, 404, "session_not_found", "POST", "/slots/3?action=save", SAVE("x"));
    refused(server.port, 404, "snapshot_not_found", "POST", "/slots/0?action=restore", SAVE("x"));
}

static int start(void **unused)
{
    (void)unused;
    live_start(&server, MAMBA2, "--slots", "4", "--model-name", "demo", NULL);
    return 0;
}

static int stop(void **unused)
{
    (void)unused;
    return live_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_is_restored_and_goes_on_alike),
        cmocka_unit_test(a_name_holds_the_newest_state_only),
        cmocka_unit_test(an_erased_slot_is_empty),
        cmocka_unit_test(what_makes_no_sense_is_refused),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
