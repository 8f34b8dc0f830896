/* What clients get wrong, or try, against the real server.
 *
 * Each recipe has the status and the code it is promised; the server is well after each of
 * them, and a session beside them never notices (calm.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/calm.h"
#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"

#define COMPLETIONS "/v1/completions"

enum { MIB = 1 << 20 };

static struct live server;
static struct calm calm;

static void refuse(int status, const char *code, const char *body, size_t len, const char *where)
{
    refused_bytes(server.port, status, code, "POST", COMPLETIONS, body, len, where);
    live_is_well(&server);
}

/* head, then `unit` until there are `len` bytes in between, then tail. From malloc. */
static char *fill_body(const char *head, const char *unit, size_t len, const char *tail)
{
    size_t h = strlen(head), u = strlen(unit), t = strlen(tail), n = len / u * u;
    char *body = malloc(h + n + t + 1);

    assert_non_null(body);
    memcpy(body, head, h);
    for (size_t i = 0; i < n; i += u)
        memcpy(body + h + i, unit, u);
    memcpy(body + h + n, tail, t + 1);
    return body;
}

static char *nested(const char *head, int depth, const char *tail)
{
    char *open = fill_body(head, "[", (size_t)depth, ""), *all;

    all = fill_body(open, "]", (size_t)depth, tail);
    free(open);
    return all;
}

static void json_without_bounds_is_refused(void **state)
{
    char *body = nested("", 100000, "");

    (void)state;
    refuse(400, "json_too_deep", body, strlen(body), "39");
    free(body);
    body = nested("{\"metadata\":{\"a\":", 30, "}}"); /* with the two objects: 32 */
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "%s", body));
    free(body);
    body = nested("{\"metadata\":{\"a\":", 31, "}}");
    refused(server.port, 400, "json_too_deep", "POST", "/v1/sessions", "%s", body);
    free(body);
    body = fill_body("[0", ",0", MIB - 4, "]");
    refuse(400, "json_too_complex", body, strlen(body), "41");
    free(body);
}

static void what_is_no_json_object_is_refused(void **state)
{
    static const struct {
        const char *body, *code;
        size_t len;
    } recipes[] = {
#define RECIPE(code, body) { body, code, sizeof(body) - 1 }
        RECIPE("invalid_json", "{\"prompt\":\"a\"}xyz"),
        RECIPE("invalid_json", "{\"prompt\":\"a\"}{\"prompt\":\"b\"}"),
        RECIPE("duplicate_key", "{\"prompt\":\"a\",\"max_tokens\":1,\"max_tokens\":999}"),
        RECIPE("unknown_field", "{\"Prompt\":\"a\"}"),
        RECIPE("invalid_utf8", "{\"prompt\":\"\xff\xfe\"}"),
        RECIPE("invalid_utf8", "{\"prompt\":\"\xc0\xaf\"}"),
        RECIPE("invalid_json", "{\"prompt\":\"\x01\"}"),
        RECIPE("invalid_utf8", "{\"prompt\":\"\\ud800\"}"),
        RECIPE("invalid_json", "{\"prompt\":\"a\\u0000b\"}"),
        RECIPE("invalid_json", ""),
        RECIPE("invalid_json", "null"),
        RECIPE("invalid_json", "[]"),
        RECIPE("invalid_json", "\"x\""),
        RECIPE("invalid_json", "[1,\x00 2]"),
        RECIPE("invalid_json", "{\"prompt\":\"a\"}\x00"),
        RECIPE("invalid_json", "\xef\xbb\xbf{\"prompt\":\"a\"}"),
        RECIPE("invalid_json", "{\"prompt\":\"a\",\"max_tokens\":012}"),
#undef RECIPE
    };

    (void)state;
    for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++)
        refuse(400, recipes[i].code, recipes[i].body, recipes[i].len, recipes[i].body);
}

/* What two lines say is one list of both (RFC 9110, 5.2), where only one value can be meant. */
static void a_header_that_is_there_twice_is_refused(void **state)
{
    static const struct {
        const char *headers, *code;
        int status;
    } recipes[] = {
        { "X-Session-Id: twice\r\nX-Session-Id: other\r\n", "invalid_parameter", 400 },
        { "X-Session-Id: twice\r\nX-Request-Id: a\r\nx-session-id: twice\r\n", "invalid_parameter",
          400 },
        { "X-Session-Id: twice\r\nIf-Match: *\r\nIf-Match: 7\r\n", "invalid_parameter", 400 },
        { "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
          "unsupported_media_type", 415 },
    };
    cJSON *s;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"twice\"}"));
    for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++) {
        struct response r = call_with(server.port, recipes[i].headers, "POST", COMPLETIONS,
                                      "{\"prompt\":\"a\",\"max_tokens\":1}");

        assert_refusal(&r, recipes[i].status, recipes[i].code, recipes[i].headers);
        response_finish(&r);
    }
    s = ask(server.port, "GET", "/v1/sessions/twice", NULL);
    assert_int_equal(number_of(s, "version"), 0);
    cJSON_Delete(s);
    cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/twice", NULL));
}

static void a_value_out_of_bounds_is_refused_by_name(void **state)
{
    static const struct {
        const char *field, *values; /* separated by spaces */
    } rows[] = {
        { "max_tokens", "-1 1e999 2147483648 9007199254740993 1.5 \"5\" true [] 65537 1e400 -0.5" },
        { "n", "1000000 -1 0 1.5 129" },
        { "temperature", "-0.1 1e308 \"hot\" 1e999" },
        { "top_p", "0 1.1 -1" },
        { "top_k", "-5 1e10 0.5" },
        { "min_p", "-0.1 2" },
        { "min_tokens", "17 1e9 -1" }, /* max_tokens is 16 */
        { "stop", "[\"\"] \"\" [[\"a\"]] 5 {}" },
        { "logit_bias",
          "{\"-1\":1} {\"99999999\":1} {\"0x1\":1} {\"5\":1e999} {\"5\":\"1\"} [] {\"5\":101}" },
        { "prompt", "[-1] [4096] [1.5] [2147483648] [] 5 {} [\"a\",1]" },
        { "seed", "-1 1e30 \"a\" 0.5" },
        { "stream", "\"yes\" 1" },
        { "logprobs", "21 -1 true" },
        { "session_id", "\"../x\" \"\" 5 \"a/b\" \".\" \"\\u0130\"" },
        { "repetition_penalty", "0 -1 11" },
        { "stop_token_ids", "[-1] [99999] 5" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *values = strdup(rows[i].values), *rest = values, *value;

        while ((value = strsep(&rest, " "))) {
            struct response r =
                call(server.port, "POST", COMPLETIONS, "{%s\"%s\":%s}",
                     strcmp(rows[i].field, "prompt") == 0 ? "" : "\"prompt\":\"a\",", rows[i].field,
                     value);
            char where[128];

            snprintf(where, sizeof(where), "%s %s", rows[i].field, value);
            assert_refusal(&r, 400, "invalid_parameter", where);
            assert_string_equal(text_of(item_of(r.json, "error"), "param"), rows[i].field);
            response_finish(&r);
        }
        free(values);
        live_is_well(&server);
    }
}

static void a_long_list_or_string_is_refused(void **state)
{
    char *body = fill_body("{\"prompt\":\"a\",\"stop\":[\"x\"", ",\"x\"", 4 * 999, "]}");

    (void)state;
    refuse(400, "invalid_parameter", body, strlen(body), "50: 1000 stop strings");
    free(body);
    body = fill_body("{\"prompt\":\"a\",\"stop\":\"", "x", MIB - 64, "\"}");
    refuse(400, "invalid_parameter", body, strlen(body), "50: a stop string of 1 MiB");
    free(body);
    body = fill_body("{\"prompt\":[[1]", ",[2]", 4 * 99999, "]}");
    refuse(400, "json_too_complex", body, strlen(body), "52: 100,000 prompts");
    free(body);
    body = fill_body("{\"prompt\":[[1]", ",[2]", 4 * 128, "]}");
    refuse(400, "invalid_parameter", body, strlen(body), "52: 129 prompts");
    free(body);
}

static void a_field_or_a_model_that_is_unknown_is_refused(void **state)
{
    (void)state;
    refused(server.port, 404, "model_not_found", "POST", COMPLETIONS,
            "{\"prompt\":\"a\",\"model\":\"../../x\"}");
    refused(server.port, 400, "unknown_field", "POST", COMPLETIONS,
            "{\"prompt\":\"a\",\"grammar\":\"x\"}");
    refused(server.port, 400, "unknown_field", "POST", COMPLETIONS,
            "{\"prompt\":\"a\",\"n_discard\":-5}");
    refused(server.port, 400, "missing_parameter", "POST", COMPLETIONS, "{}");
    refused(server.port, 400, "unknown_field", "POST", "/v1/sessions",
            "{\"filename\":\"../../etc/passwd\"}");
    refused(server.port, 400, "unknown_field", "GET", "/v1/sessions?limt=5", NULL);
    refused(server.port, 400, "unknown_field", "DELETE", "/v1/snapshots/s?subtre=true", NULL);
    refused(server.port, 400, "unknown_field", "POST", "/v1/completions?stream=true",
            "{\"prompt\":\"a\"}");
    cJSON_Delete(ask(server.port, "GET", "/health?_=1", NULL));
    live_is_well(&server);
    cJSON_Delete(ask(server.port, "POST", COMPLETIONS, "{\"prompt\":\"a\"}"));
}

static void a_body_that_is_not_taken_is_refused(void **state)
{
    char *body = fill_body("", " ", MIB + 1, "");
    struct client c = client_dial(server.port);
    struct response r;

    (void)state;
    refuse(413, "payload_too_large", body, MIB + 1, "34");
    free(body);
    assert_true(client_ask(&c, "POST", COMPLETIONS,
                           "Content-Type: application/json\r\nExpect: 100-continue\r\n"
                           "Content-Length: 1048577\r\n",
                           NULL, 0));
    assert_true(client_read(&c, &r));
    assert_refusal(&r, 413, "payload_too_large", "35");
    response_finish(&r);
    client_close(&c);
    c = client_dial(server.port);
    assert_true(client_ask(&c, "POST", COMPLETIONS,
                           "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
                           "\x1f\x8b", 2));
    assert_true(client_read(&c, &r));
    assert_refusal(&r, 415, "unsupported_content_encoding", "37");
    response_finish(&r);
    client_close(&c);
    c = client_dial(server.port);
    assert_true(client_ask(&c, "POST", COMPLETIONS, "Content-Type: text/plain\r\n", "{}", 2));
    assert_true(client_read(&c, &r));
    assert_refusal(&r, 415, "unsupported_media_type", "29");
    response_finish(&r);
    client_close(&c);
    live_is_well(&server);
}

static void half_a_body_is_not_handled(void **state)
{
    struct client c = client_dial(server.port);
    struct response r;

    (void)state;
    assert_true(client_ask(&c, "POST", COMPLETIONS,
                           "Content-Type: application/json\r\nContent-Length: 100\r\n", NULL, 0));
    assert_true(client_send(&c, "{\"prompt\":", 10));
    shutdown(c.fd, SHUT_WR);
    if (client_read(&c, &r)) /* or it is closed without a word */
        assert_refusal(&r, 400, "incomplete_body", "36");
    response_finish(&r);
    client_close(&c);
    live_is_well(&server);
}

/* Nothing is read before everything was sent. */
static void requests_in_one_segment_are_answered_in_order(void **state)
{
    const int requests = live_sanitized() ? 50 : 500;
    struct client c = client_dial(server.port);
    char *all = calloc((size_t)requests, 256);
    size_t len = 0;

    (void)state;
    assert_non_null(all);
    for (int i = 0; i < requests; i++) {
        char body[96];
        int n = snprintf(body, sizeof(body), "{\"prompt\":[%d],\"max_tokens\":1,\"seed\":%d}",
                         1 + i % 4000, i);

        len += (size_t)sprintf(all + len,
                               "POST " COMPLETIONS
                               " HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r%d\r\n"
                               "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                               i, n, body);
    }
    assert_true(client_send(&c, all, len));
    for (int i = 0; i < requests; i++) {
        struct response r;
        char want[16], id[256];

        assert_true(client_read(&c, &r));
        assert_int_equal(r.status, 200);
        snprintf(want, sizeof(want), "r%d", i);
        assert_true(response_header(&r, "x-request-id", id));
        assert_string_equal(id, want);
        response_finish(&r);
    }
    client_close(&c);
    free(all);
    live_is_well(&server);
}

/* The longest texts there may be, at once, beside the calm session. */
static void a_prompt_of_nine_hundred_kibibytes_is_refused_soon(void **state)
{
    static const char *const unit[] = { "a", " ", "\xf0\x9f\x8c\x8a", "supercalifragilistic" };
    enum { CLIENTS = 16 };
    const int clients = live_sanitized() ? 4 : CLIENTS;
    struct client client[CLIENTS];
    struct response r;
    char *body[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        double began;

        body[i] = fill_body("{\"prompt\":\"", unit[i], 900 * 1024, "\"}");
        began = seconds_now();
        refuse(400, "prompt_too_long", body[i], strlen(body[i]), "56");
        if (!live_sanitized())
            assert_true(seconds_now() - began < 15); /* a second; minutes were it quadratic */
    }
    for (int i = 0; i < clients; i++) {
        client[i] = client_dial(server.port);
        assert_true(
            client_ask(&client[i], "POST", COMPLETIONS, NULL, body[i % 4], strlen(body[i % 4])));
    }
    live_is_well(&server);
    for (int i = 0; i < clients; i++) {
        assert_true(client_read(&client[i], &r));
        assert_refusal(&r, 400, "prompt_too_long", "57");
        response_finish(&r);
        client_close(&client[i]);
    }
    for (int i = 0; i < 4; i++)
        free(body[i]);
}

static void clients_that_crash_leave_no_slot_taken(void **state)
{
    static const char body[] = "{\"prompt\":\"a\",\"max_tokens\":60000,\"stream\":true,"
                               "\"ignore_eos\":true}";

    (void)state;
    for (int i = 0; i < (live_sanitized() ? 20 : 200); i++) {
        struct client c = client_dial(server.port);
        struct response r;

        assert_true(client_ask(&c, "POST", COMPLETIONS, NULL, body, sizeof(body) - 1));
        assert_true(client_read_head(&c, &r));
        free(client_event(&c));
        client_reset(&c);
    }
    live_is_well(&server);
}

/* All that names no session looks the same from outside. */
static void an_id_that_names_nothing_is_not_found(void **state)
{
    static const char *const ids[] = { "nobody", "..%2fx",      "%2e%2e%2f", "0",
                                       "-1",     "%c3%a9",      "%ff",       "a%00b",
                                       "%20",    "sess_000000", "a%0d%0ab" };
    char *longest = fill_body("/v1/sessions/", "a", 10 * 1024, "");

    (void)state;
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        static const char *const call_of[][2] = {
            { "GET", "" },          { "DELETE", "" },         { "POST", "/fork" },
            { "GET", "/state" },    { "POST", "/snapshots" }, { "GET", "/snapshots" },
            { "POST", "/restore" }, { "POST", "/append" },
        };

        for (size_t k = 0; k < sizeof(call_of) / sizeof(call_of[0]); k++) {
            char path[128];
            struct response r;

            snprintf(path, sizeof(path), "/v1/sessions/%s%s", ids[i], call_of[k][1]);
            r = call(server.port, call_of[k][0], path,
                     strcmp(call_of[k][0], "POST") != 0       ? NULL
                     : strcmp(call_of[k][1], "/restore") == 0 ? "{\"snapshot\":\"none\"}"
                     : strcmp(call_of[k][1], "/append") == 0  ? "{\"text\":\"a\"}"
                                                              : "{}");
            if (r.status != 404 && r.status != 400)
                fail_msg("%s %s: %d %s", call_of[k][0], path, r.status, r.body);
            assert_non_null(r.json);
            response_finish(&r);
        }
        live_is_well(&server);
    }
    refused(server.port, 414, "uri_too_long", "GET", longest, NULL);
    free(longest);
    refused(server.port, 404, "session_not_found", "POST", COMPLETIONS,
            "{\"prompt\":\"a\",\"session_id\":\"nobody\"}");
    refused(server.port, 404, "snapshot_not_found", "GET", "/v1/snapshots/..%2e", NULL);
    refused(server.port, 404, "not_found", "GET", "/v1/../etc/passwd", NULL);
    refused(server.port, 405, "method_not_allowed", "PUT", "/v1/sessions", "{}");
}

/* Of two turns at once one is refused, or they came one after the other. */
static void two_turns_at_once_are_one_after_the_other_or_one(void **state)
{
    (void)state;
    for (int round = 0; round < (live_sanitized() ? 2 : 10); round++) {
        struct client c[2];
        struct response r[2];
        char name[32], body[192], path[64];
        int good = 0;
        cJSON *json;

        snprintf(name, sizeof(name), "both-%d", round);
        cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"%s\"}", name));
        for (int i = 0; i < 2; i++) {
            snprintf(body, sizeof(body),
                     "{\"session_id\":\"%s\",\"prompt\":[%d],\"max_tokens\":%d,"
                     "\"ignore_eos\":true}",
                     name, 5 + i, 10 + i);
            c[i] = client_dial(server.port);
            assert_true(client_ask(&c[i], "POST", COMPLETIONS, NULL, body, strlen(body)));
        }
        for (int i = 0; i < 2; i++) {
            char retry[256];

            assert_true(client_read(&c[i], &r[i]));
            good += r[i].status == 200;
            if (r[i].status == 200)
                continue;
            assert_refusal(&r[i], 409, "session_busy", "67");
            assert_true(response_header(&r[i], "x-should-retry", retry));
            assert_string_equal(retry, "false");
        }
        assert_true(good > 0);
        snprintf(path, sizeof(path), "/v1/sessions/%s", name);
        json = ask(server.port, "GET", path, NULL);
        assert_int_equal(number_of(json, "version"), good);
        assert_int_equal(number_of(json, "position"), good == 2            ? 23
                                                      : r[0].status == 200 ? 11
                                                                           : 12);
        cJSON_Delete(json);
        for (int i = 0; i < 2; i++) {
            response_finish(&r[i]);
            client_close(&c[i]);
        }
    }
}

static void verbs_during_a_turn_see_the_session_as_it_was(void **state)
{
    static const char body[] = "{\"session_id\":\"during\",\"prompt\":\"on\",\"max_tokens\":60000,"
                               "\"stream\":true,\"ignore_eos\":true}";
    struct client c = client_dial(server.port);
    struct response r;
    struct state before, after;
    struct story s = { 0 };
    cJSON *json;
    char id[80], path[128];

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"during\"}"));
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions/during/append", "{\"text\":\"Once\"}"));
    before = state_of(server.port, "during");
    assert_true(client_ask(&c, "POST", COMPLETIONS, NULL, body, sizeof(body) - 1));
    assert_true(client_read_head(&c, &r));
    json = ask(server.port, "POST", "/v1/sessions/during/snapshots", "{}");
    snprintf(id, sizeof(id), "%s", text_of(json, "id"));
    cJSON_Delete(json);
    snprintf(path, sizeof(path), "/v1/snapshots/%s/data", id);
    after = state_download(server.port, path);
    assert_same_state(&before, &after, "a snapshot during a turn");
    state_free(&after);
    after = state_of(server.port, "during");
    assert_same_state(&before, &after, "the head during a turn");
    state_free(&after);
    refused(server.port, 409, "session_busy", "POST", "/v1/sessions/during/restore",
            "{\"snapshot\":\"%s\"}", id);
    refused(server.port, 409, "session_busy", "POST", "/v1/sessions/during/append",
            "{\"text\":\"a\"}");
    json = ask(server.port, "GET", "/v1/sessions/during", NULL);
    assert_true(flag_of(json, "busy"));
    cJSON_Delete(json);
    cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/during", NULL));
    stream_rest(&c, &s);
    assert_string_equal(s.error, "session_not_found");
    assert_true(s.whole && !s.done);
    story_finish(&s);
    client_close(&c);
    snprintf(path, sizeof(path), "/v1/snapshots/%s", id);
    cJSON_Delete(ask(server.port, "DELETE", path, NULL));
    state_free(&before);
    live_is_well(&server);
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    calm_end(&calm);
}

static int start(void **state)
{
    (void)state;
    live_start(&server, DEMO, "--max-prompt", "4096", "--cache-memory", "0", NULL);
    calm_begin(&calm, &server);
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
        cmocka_unit_test(json_without_bounds_is_refused),
        cmocka_unit_test(what_is_no_json_object_is_refused),
        cmocka_unit_test(a_value_out_of_bounds_is_refused_by_name),
        cmocka_unit_test(a_header_that_is_there_twice_is_refused),
        cmocka_unit_test(a_long_list_or_string_is_refused),
        cmocka_unit_test(a_field_or_a_model_that_is_unknown_is_refused),
        cmocka_unit_test(a_body_that_is_not_taken_is_refused),
        cmocka_unit_test(half_a_body_is_not_handled),
        cmocka_unit_test(requests_in_one_segment_are_answered_in_order),
        cmocka_unit_test(a_prompt_of_nine_hundred_kibibytes_is_refused_soon),
        cmocka_unit_test(clients_that_crash_leave_no_slot_taken),
        cmocka_unit_test(an_id_that_names_nothing_is_not_found),
        cmocka_unit_test(two_turns_at_once_are_one_after_the_other_or_one),
        cmocka_unit_test(verbs_during_a_turn_see_the_session_as_it_was),
        cmocka_unit_test(nothing_is_left_behind),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
