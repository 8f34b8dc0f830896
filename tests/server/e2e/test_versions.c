/* Calls that depend on the version a session is at: If-Match, If-None-Match, expected_version. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"

#define COMPLETIONS "/v1/completions"

static struct live server;

static void a_turn_may_insist_on_a_version(void **state)
{
    struct client c = client_dial(server.port);
    static const char body[] = "{\"session_id\":\"insists\",\"prompt\":\"a\",\"max_tokens\":1}";
    struct response r;
    char value[256];

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"insists\"}"));
    cJSON_Delete(ask(server.port, "POST", COMPLETIONS,
                     "{\"session_id\":\"insists\",\"prompt\":\"a\",\"max_tokens\":1,"
                     "\"expected_version\":0}"));
    refused(server.port, 412, "version_mismatch", "POST", COMPLETIONS,
            "{\"session_id\":\"insists\",\"prompt\":\"a\",\"expected_version\":0}");
    refused(server.port, 412, "version_mismatch", "POST", "/v1/sessions/insists/append",
            "{\"text\":\"a\",\"expected_version\":2}");
    assert_true(client_ask(&c, "POST", COMPLETIONS, "If-Match: \"1\"\r\n", body, sizeof(body) - 1));
    assert_true(client_read(&c, &r));
    assert_int_equal(r.status, 200);
    response_finish(&r);
    assert_true(client_ask(&c, "POST", COMPLETIONS, "If-Match: \"1\"\r\n", body, sizeof(body) - 1));
    assert_true(client_read(&c, &r));
    assert_refusal(&r, 412, "version_mismatch", "If-Match");
    assert_true(response_header(&r, "x-should-retry", value));
    assert_string_equal(value, "false");
    response_finish(&r);
    client_close(&c);
}

/* What changes a session, or depends on where it stands. */
static const char *const verbs[][3] = {
    { "POST", "/v1/sessions/verbs/fork", "{}" },
    { "POST", "/v1/sessions/verbs/snapshots", "{}" },
    { "POST", "/v1/sessions/verbs/append", "{\"text\":\"a\"}" },
    { "DELETE", "/v1/sessions/verbs", NULL },
    { "GET", "/v1/sessions/verbs", NULL },
    { "GET", "/v1/sessions/verbs/state", NULL },
    { "GET", "/v1/sessions/verbs/snapshots", NULL },
};
enum { VERBS = sizeof(verbs) / sizeof(verbs[0]), READS = 4 };

static void every_verb_may_insist_on_a_version(void **state)
{
    struct response r;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"verbs\"}"));
    for (int i = 0; i < VERBS; i++) {
        r = call_with(server.port, "If-Match: \"7\"\r\n", verbs[i][0], verbs[i][1], verbs[i][2]);
        assert_refusal(&r, 412, "version_mismatch", verbs[i][1]);
        response_finish(&r);
    }
    r = call_with(server.port, "If-Match: \"0\"\r\n", "POST", verbs[0][1], "{}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    for (int i = READS; i < VERBS; i++) {
        r = call_with(server.port, "If-Match: \"0\"\r\n", verbs[i][0], verbs[i][1], NULL);
        assert_int_equal(r.status, 200);
        response_finish(&r);
    }
    r = call_with(server.port, "If-Match: \"0\"\r\n", "DELETE", "/v1/sessions/verbs", NULL);
    assert_int_equal(r.status, 200);
    response_finish(&r);
}

/* A session that is not there is that, whatever was asked of its version (RFC 9110, 13.2.1). */
static void a_session_that_is_not_there_is_unknown(void **state)
{
    struct response r;

    (void)state;
    for (int i = 0; i < VERBS; i++) {
        r = call_with(server.port, "If-Match: *\r\n", verbs[i][0], verbs[i][1], verbs[i][2]);
        assert_refusal(&r, 404, "session_not_found", verbs[i][1]);
        response_finish(&r);
    }
}

static void what_changes_a_session_may_insist_on_it_having_moved(void **state)
{
    static const char *const none[] = { "If-None-Match: *\r\n", "If-None-Match: \"0\"\r\n",
                                        "If-None-Match: W/\"0\"\r\n" };
    struct response r;
    cJSON *s;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"verbs\"}"));
    for (int i = 0; i < 3 * READS; i++) {
        const char *const *verb = verbs[i / 3];

        r = call_with(server.port, none[i % 3], verb[0], verb[1], verb[2]);
        assert_refusal(&r, 412, "version_mismatch", verb[1]);
        response_finish(&r);
    }
    r = call_with(server.port, none[1], "POST", COMPLETIONS,
                  "{\"session_id\":\"verbs\",\"prompt\":\"a\",\"max_tokens\":1}");
    assert_int_equal(r.status, 412);
    response_finish(&r);
    s = ask(server.port, "GET", "/v1/sessions/verbs", NULL);
    assert_int_equal(number_of(s, "version"), 0);
    cJSON_Delete(s);
    r = call_with(server.port, "If-None-Match: \"1\"\r\n", "DELETE", "/v1/sessions/verbs", NULL);
    assert_int_equal(r.status, 200);
    response_finish(&r);
}

/* What a list says holds wherever the version stands in it, and in several lines as in one. */
static void a_list_names_versions(void **state)
{
    static const struct {
        const char *headers;
        int status;
    } recipes[] = {
        { "If-Match: \"7\", \"0\"\r\n", 200 },
        { "If-Match: \"0\",\"7\"\r\n", 200 },
        { "If-Match: \"7\"\r\nIf-Match: \"0\"\r\n", 200 },
        { "If-Match: \"7\", \"8\"\r\n", 412 },
        { "If-Match: \"another\"\r\n", 412 },
        { "If-Match: W/\"0\"\r\n", 412 }, /* compared strongly */
        { "If-Match: W/\"0\", \"0\"\r\n", 200 },
        { "If-None-Match: \"7\", W/\"0\"\r\n", 412 }, /* weakly */
        { "If-None-Match: \"7\", \"another\"\r\n", 200 },
        { "If-Match: \"7\" \"0\"\r\n", 400 },
        { "If-Match: *, \"0\"\r\n", 400 },
    };
    static const char *const calls[][2] = {
        { "/v1/sessions/listed/fork", "{}" },
        { COMPLETIONS, "{\"session_id\":\"listed\",\"prompt\":\"a\",\"max_tokens\":1}" },
        { "/v1/chat/completions", "{\"session_id\":\"listed\",\"max_tokens\":1,"
                                  "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}" },
    };

    (void)state;
    for (size_t i = 0; i < 3 * sizeof(recipes) / sizeof(recipes[0]); i++) {
        const char *const *ask_for = calls[i % 3], *headers = recipes[i / 3].headers;
        struct response r;

        cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"listed\"}"));
        r = call_with(server.port, headers, "POST", ask_for[0], ask_for[1]);
        if (r.status != recipes[i / 3].status)
            fail_msg("%s %s: %d %s", ask_for[0], headers, r.status, r.body);
        response_finish(&r);
        cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/listed", NULL));
    }
}

/* Only an upload could make one. */
static void an_upload_may_insist_on_a_session_that_is_there(void **state)
{
    struct response file, r;
    struct client c = client_dial(server.port);

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"there\"}"));
    file = call(server.port, "GET", "/v1/sessions/there/state", NULL);
    for (int i = 0; i < 2; i++) {
        const char *path = i ? "/v1/sessions/there/state" : "/v1/sessions/nowhere/state";

        assert_true(client_ask(&c, "PUT", path, "If-Match: *\r\n", file.body, file.len));
        assert_true(client_read(&c, &r));
        if (i)
            assert_int_equal(r.status, 200);
        else
            assert_refusal(&r, 412, "version_mismatch", path);
        response_finish(&r);
    }
    response_finish(&file);
    client_close(&c);
}

/* And on one that is not: what is there is not replaced. */
static void an_upload_may_insist_on_making_its_session(void **state)
{
    static const struct {
        const char *path, *headers, *code;
        int status;
    } recipes[] = {
        { "/v1/sessions/made/state", "If-None-Match: *\r\n", NULL, 200 },
        { "/v1/sessions/made/state", "If-None-Match: *\r\n", "version_mismatch", 412 },
        { "/v1/sessions/made/state", "If-Match: *\r\nIf-None-Match: *\r\n", "version_mismatch",
          412 },
        { "/v1/sessions/made/state", "If-None-Match: \"1\"\r\n", "version_mismatch", 412 },
        { "/v1/sessions/made/state", "If-None-Match: W/\"1\"\r\n", "version_mismatch", 412 },
        { "/v1/sessions/unmade/state", "If-Match: *\r\nIf-None-Match: *\r\n", "version_mismatch",
          412 },
        { "/v1/sessions/unmade/state", "If-Match: \"1\"\r\n", "version_mismatch", 412 },
        { "/v1/sessions/made/state", "If-None-Match: \"2\", \"1\"\r\n", "version_mismatch", 412 },
        { "/v1/sessions/unmade/state", "If-Match: \"1\", \"2\"\r\n", "version_mismatch", 412 },
        { "/v1/sessions/unmade/state", "If-None-Match: x\r\n", "invalid_parameter", 400 },
        { "/v1/sessions/unmade/state", "If-None-Match: *, \"1\"\r\n", "invalid_parameter", 400 },
    };
    struct response file, r;
    struct client c = client_dial(server.port);
    cJSON *s;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"first\"}"));
    file = call(server.port, "GET", "/v1/sessions/first/state", NULL);
    for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++) {
        assert_true(
            client_ask(&c, "PUT", recipes[i].path, recipes[i].headers, file.body, file.len));
        assert_true(client_read(&c, &r));
        if (recipes[i].code)
            assert_refusal(&r, recipes[i].status, recipes[i].code, recipes[i].headers);
        else
            assert_int_equal(r.status, recipes[i].status);
        response_finish(&r);
    }
    s = ask(server.port, "GET", "/v1/sessions/made", NULL);
    assert_int_equal(number_of(s, "version"), 1);
    cJSON_Delete(s);
    refused(server.port, 404, "session_not_found", "GET", "/v1/sessions/unmade", NULL);
    response_finish(&file);
    client_close(&c);
}

static int start(void **state)
{
    (void)state;
    live_start(&server, DEMO, "--chat-template", "plain", NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    assert_int_equal(live_stop(&server), 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_may_insist_on_a_version),
        cmocka_unit_test(every_verb_may_insist_on_a_version),
        cmocka_unit_test(a_session_that_is_not_there_is_unknown),
        cmocka_unit_test(what_changes_a_session_may_insist_on_it_having_moved),
        cmocka_unit_test(a_list_names_versions),
        cmocka_unit_test(an_upload_may_insist_on_a_session_that_is_there),
        cmocka_unit_test(an_upload_may_insist_on_making_its_session),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
