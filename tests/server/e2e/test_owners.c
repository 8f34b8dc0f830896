/* Keys own what they make: whoever has another key, or none, learns nothing of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/limits.h"
#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"

#define JSON "Content-Type: application/json\r\n"

#define ALICE "Authorization: Bearer alice-0123456789abcdef\r\n" JSON
#define BOB   "Authorization: Bearer bob-fedcba9876543210\r\n" JSON

static struct live server;
static char key_file[64];

static struct response send_as(const char *headers, const char *method, const char *path,
                               const char *body)
{
    return call_with(server.port, headers, method, path, body);
}

/* The same, answered 200; the JSON for cJSON_Delete(). */
static cJSON *ask_as(const char *headers, const char *method, const char *path, const char *body)
{
    struct response r = send_as(headers, method, path, body);
    cJSON *json = r.json;

    if (r.status != 200)
        fail_msg("%s %s: %d %s", method, path, r.status, r.body);
    r.json = NULL;
    response_finish(&r);
    return json;
}

static void do_as(const char *headers, const char *method, const char *path, const char *body)
{
    cJSON_Delete(ask_as(headers, method, path, body));
}

static void without_a_good_key_every_answer_is_the_same_401(void **unused)
{
    static const char *const bad[] = {
        "Authorization: Bearer wrong-0123456789abcdef\r\n" JSON,
        "Authorization: Bearer alice-0123456789abcdeF\r\n" JSON,
        "Authorization: Bearer alice-0123456789abcde\r\n" JSON,
        "Authorization: Basic alice-0123456789abcdef\r\n" JSON,
        "Authorization: Bearer\r\n" JSON,
        "X-Api-Key: alice-0123456789abcdef\r\n" JSON,
        "Authorization: Bearer bob-fedcba9876543210\r\n" ALICE,
    };
    static const char *const path[] = { "/v1/models", "/v1/sessions", "/v1/sessions/nobody",
                                        "/v1/snapshots" };
    struct response none = send_as(JSON, "GET", "/v1/models", NULL);
    char value[256];

    (void)unused;
    assert_refusal(&none, 401, "invalid_api_key", "no key");
    assert_true(response_header(&none, "www-authenticate", value));
    assert_string_equal(value, "Bearer");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (size_t k = 0; k < sizeof(path) / sizeof(path[0]); k++) {
            struct response r = send_as(bad[i], "GET", path[k], NULL);

            assert_refusal(&r, 401, "invalid_api_key", bad[i]);
            assert_string_equal(r.body, none.body);
            response_finish(&r);
        }
    }
    response_finish(&none);
}

static void no_body_is_read_from_the_unknown(void **unused)
{
    static const char head[] = "PUT /v1/sessions/a/state HTTP/1.1\r\nHost: localhost\r\n"
                               "Content-Length: 400000\r\n\r\n";
    struct client c = client_dial(server.port);
    double from = seconds_now();
    struct response r;

    (void)unused;
    assert_true(client_send(&c, head, sizeof(head) - 1));
    assert_true(client_read(&c, &r));
    assert_refusal(&r, 401, "invalid_api_key", "body to come");
    assert_true(seconds_now() - from < LIMIT_BODY_GRACE_SECONDS); /* it did not wait for one */
    response_finish(&r);
    assert_false(client_read(&c, &r)); /* closed */
    client_close(&c);
}

static void probes_need_no_key(void **unused)
{
    static const char *const path[] = { "/health", "/ready", "/version", "/metrics" };

    (void)unused;
    for (size_t i = 0; i < sizeof(path) / sizeof(path[0]); i++) {
        struct response r = send_as(NULL, "GET", path[i], NULL);

        assert_int_equal(r.status, 200);
        response_finish(&r);
    }
}

static void two_owners_use_one_name_apart(void **unused)
{
    cJSON *a, *b;

    (void)unused;
    do_as(ALICE, "POST", "/v1/sessions", "{\"id\":\"same\"}");
    do_as(BOB, "POST", "/v1/sessions", "{\"id\":\"same\"}");
    a = ask_as(ALICE, "POST", "/v1/sessions/same/append", "{\"ids\":[5,6,7,8]}");
    b = ask_as(BOB, "GET", "/v1/sessions/same", NULL);
    assert_int_equal(number_of(a, "position"), 4);
    assert_int_equal(number_of(b, "position"), 0);
    assert_int_equal(number_of(b, "version"), 0);
    cJSON_Delete(a);
    cJSON_Delete(b);
    do_as(BOB, "DELETE", "/v1/sessions/same", NULL);
    a = ask_as(ALICE, "GET", "/v1/sessions/same", NULL);
    assert_int_equal(number_of(a, "version"), 1);
    cJSON_Delete(a);
    do_as(ALICE, "DELETE", "/v1/sessions/same", NULL);
}

struct attempt {
    const char *method, *path, *body; /* %s in them: the snapshot's id */
};

/* What a stranger may try with the session "secret" and its snapshot. "mine" is his own. */
static const struct attempt attempts[] = {
    { "GET", "/v1/sessions/secret", NULL },
    { "DELETE", "/v1/sessions/secret", NULL },
    { "POST", "/v1/sessions/secret/append", "{\"ids\":[5]}" },
    { "POST", "/v1/sessions/secret/fork", "{}" },
    { "POST", "/v1/sessions/mine/fork", "{\"snapshot\":\"%s\"}" },
    { "POST", "/v1/sessions/secret/restore", "{\"snapshot\":\"%s\"}" },
    { "POST", "/v1/sessions/mine/restore", "{\"snapshot\":\"%s\"}" },
    { "POST", "/v1/sessions/secret/snapshots", "{}" },
    { "GET", "/v1/sessions/secret/snapshots", NULL },
    { "GET", "/v1/sessions/secret/state", NULL },
    { "POST", "/v1/sessions", "{\"snapshot\":\"%s\"}" },
    { "GET", "/v1/snapshots/%s", NULL },
    { "GET", "/v1/snapshots/%s/data", NULL },
    { "DELETE", "/v1/snapshots/%s", NULL },
    { "DELETE", "/v1/snapshots/%s?subtree=true", NULL },
    { "GET", "/v1/snapshots?subtree=%s", NULL },
    { "POST", "/v1/completions", "{\"session_id\":\"secret\",\"prompt\":[5],\"max_tokens\":1}" },
    { "POST", "/v1/completions",
      "{\"session_id\":\"secret\",\"prompt\":[5],\"max_tokens\":1,\"expected_version\":1}" },
    { "POST", "/v1/completions",
      "{\"session_id\":\"secret\",\"prompt\":[5],\"max_tokens\":1,\"stream\":true}" },
    { "POST", "/v1/chat/completions",
      "{\"session_id\":\"secret\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}" },
};

enum { ATTEMPTS = sizeof(attempts) / sizeof(attempts[0]) };

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static struct response try_as(const char *headers, const struct attempt *t, const char *snapshot)
{
    char path[160], body[256];

    snprintf(path, sizeof(path), t->path, snapshot);
    if (t->body)
        snprintf(body, sizeof(body), t->body, snapshot);
    return send_as(headers, t->method, path, t->body ? body : NULL);
}
#pragma GCC diagnostic pop

/* The answers to a stranger are those to somebody who made the names up, byte for byte but
 * for the name itself; and what was tried has changed nothing. */
static void what_is_another_s_is_as_unknown_as_what_is_not(void **unused)
{
    static const char invented[] = "snap_0000000000000000000000000000000000000000000000";
    char *before[ATTEMPTS], snapshot[80];
    char *print, *now;
    cJSON *s;

    (void)unused;
    do_as(BOB, "POST", "/v1/sessions", "{\"id\":\"mine\"}");
    for (int i = 0; i < ATTEMPTS; i++) {
        struct response r = try_as(BOB, &attempts[i], invented);

        if (r.status != 404)
            fail_msg("attempt %d: %d %s", i, r.status, r.body);
        before[i] = strdup(r.body);
        response_finish(&r);
    }
    do_as(ALICE, "POST", "/v1/sessions", "{\"id\":\"secret\"}");
    do_as(ALICE, "POST", "/v1/sessions/secret/append", "{\"ids\":[5,6,7,8]}");
    s = ask_as(ALICE, "POST", "/v1/sessions/secret/snapshots", "{}");
    snprintf(snapshot, sizeof(snapshot), "%s", text_of(s, "id"));
    cJSON_Delete(s);
    s = ask_as(ALICE, "GET", "/v1/sessions/secret", NULL);
    print = cJSON_PrintUnformatted(s);
    cJSON_Delete(s);
    for (int i = 0; i < ATTEMPTS; i++) {
        struct response r = try_as(BOB, &attempts[i], snapshot);
        char *name = strstr(before[i], invented);

        assert_int_equal(strlen(snapshot), strlen(invented));
        if (name)
            memcpy(name, snapshot, strlen(invented));
        if (r.status != 404 || strcmp(r.body, before[i]) != 0)
            fail_msg("attempt %d: %d %s instead of %s", i, r.status, r.body, before[i]);
        response_finish(&r);
        free(before[i]);
    }
    s = ask_as(ALICE, "GET", "/v1/sessions/secret", NULL);
    now = cJSON_PrintUnformatted(s);
    assert_string_equal(now, print);
    free(now);
    free(print);
    cJSON_Delete(s);
    s = ask_as(ALICE, "GET", "/v1/sessions/secret/snapshots", NULL);
    assert_int_equal(cJSON_GetArraySize(item_of(s, "data")), 1);
    cJSON_Delete(s);
}

static int count_of(const char *headers, const char *path)
{
    cJSON *list = ask_as(headers, "GET", path, NULL);
    int n = cJSON_GetArraySize(item_of(list, "data"));

    assert_false(flag_of(list, "has_more"));
    cJSON_Delete(list);
    return n;
}

static void a_list_shows_one_s_own_page_by_page(void **unused)
{
    char path[160] = "/v1/sessions?limit=1";
    int alice, seen = 0;
    bool more = true;

    (void)unused;
    for (int i = 0; i < 3; i++) { /* between each other's */
        do_as(ALICE, "POST", "/v1/sessions", "{}");
        do_as(BOB, "POST", "/v1/sessions", "{}");
    }
    alice = count_of(ALICE, "/v1/sessions");
    for (; more; seen++) {
        cJSON *page = ask_as(ALICE, "GET", path, NULL);

        assert_int_equal(cJSON_GetArraySize(item_of(page, "data")), 1);
        snprintf(path, sizeof(path), "/v1/sessions?limit=1&after=%s", text_of(page, "last_id"));
        more = flag_of(page, "has_more");
        cJSON_Delete(page);
    }
    assert_int_equal(seen, alice);
    assert_int_equal(count_of(BOB, "/v1/snapshots"), 0);
    assert_true(count_of(ALICE, "/v1/snapshots") > 0);
}

static void refused_as(int port, const char *headers, const char *path, const char *body,
                       int status, const char *code)
{
    struct response r = call_with(port, headers, "POST", path, body);

    assert_refusal(&r, status, code, path);
    response_finish(&r);
}

/* One owner's budget is no other's, and comes back with what is deleted. */
static void an_owner_has_a_budget(void **unused)
{
    struct live l;
    struct response r;

    (void)unused;
    live_start(&l, MAMBA2, "--api-keys", key_file, "--owner-sessions", "3", NULL);
    for (int i = 0; i < 2; i++) {
        r = call_with(l.port, ALICE, "POST", "/v1/sessions", "{}");
        assert_int_equal(r.status, 200);
        response_finish(&r);
    }
    r = call_with(l.port, ALICE, "POST", "/v1/sessions", "{\"id\":\"last\"}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    refused_as(l.port, ALICE, "/v1/sessions", "{}", 429, "session_quota");
    refused_as(l.port, ALICE, "/v1/sessions/last/fork", "{}", 429, "session_quota");
    r = call_with(l.port, BOB, "POST", "/v1/sessions", "{}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    r = call_with(l.port, ALICE, "DELETE", "/v1/sessions/last", NULL);
    response_finish(&r);
    r = call_with(l.port, ALICE, "POST", "/v1/sessions", "{}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    assert_int_equal(live_stop(&l), 0);
}

static void an_owner_s_states_are_bounded(void **unused)
{
    cJSON *model = ask_as(ALICE, "GET", "/v1/models/demo", NULL);
    char room[32];
    struct live l;
    struct response r;

    (void)unused;
    snprintf(room, sizeof(room), "%.0f", number_of(model, "state_bytes") * 2.5);
    cJSON_Delete(model);
    live_start(&l, MAMBA2, "--api-keys", key_file, "--owner-memory", room, NULL);
    r = call_with(l.port, ALICE, "POST", "/v1/sessions", "{\"id\":\"a\"}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    r = call_with(l.port, ALICE, "POST", "/v1/sessions/a/snapshots", "{}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    refused_as(l.port, ALICE, "/v1/sessions/a/snapshots", "{}", 507, "state_quota");
    refused_as(l.port, ALICE, "/v1/sessions", "{}", 507, "state_quota");
    r = call_with(l.port, BOB, "POST", "/v1/sessions", "{}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    r = call_with(l.port, ALICE, "POST", "/v1/sessions/a/append", "{\"ids\":[5,6]}");
    assert_int_equal(r.status, 200); /* what is there goes on */
    response_finish(&r);
    assert_int_equal(live_stop(&l), 0);
}

static int start(void **unused)
{
    static const char keys[] = "# two people\nalice-0123456789abcdef alice\n"
                               "bob-fedcba9876543210\n";
    int fd;

    (void)unused;
    snprintf(key_file, sizeof(key_file), "/tmp/eddy-owners-XXXXXX");
    fd = mkstemp(key_file);
    if (fd < 0 || write(fd, keys, sizeof(keys) - 1) != sizeof(keys) - 1)
        return -1;
    close(fd);
    live_start(&server, MAMBA2, "--api-keys", key_file, "--chat-template", "chatml", "--model-name",
               "demo", NULL);
    return 0;
}

static int stop(void **unused)
{
    (void)unused;
    unlink(key_file);
    return live_stop(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_good_key_every_answer_is_the_same_401),
        cmocka_unit_test(no_body_is_read_from_the_unknown),
        cmocka_unit_test(probes_need_no_key),
        cmocka_unit_test(two_owners_use_one_name_apart),
        cmocka_unit_test(what_is_another_s_is_as_unknown_as_what_is_not),
        cmocka_unit_test(a_list_shows_one_s_own_page_by_page),
        cmocka_unit_test(an_owner_has_a_budget),
        cmocka_unit_test(an_owner_s_states_are_bounded),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
