/* A request that comes again: under an Idempotency-Key, or as the OpenAI libraries count their
 * tries. However often it comes, its tokens are in the session once. */
#include <pthread.h>
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

#define KEY(key)    "Idempotency-Key: " key "\r\n"
#define TRY(count)  "X-Stainless-Retry-Count: " count "\r\n"
#define COMPLETIONS "/v1/completions"
#define TURN(session, more)                                                                        \
    "{\"session_id\":\"" session "\",\"prompt\":[5,6],\"max_tokens\":4,\"ignore_eos\":true" more "}"

static struct live server;

static struct response post(const char *headers, const char *path, const char *body)
{
    return call_with(server.port, headers, "POST", path, body);
}

static void create(const char *session)
{
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"%s\"}", session));
}

static double of_session(const char *session, const char *field)
{
    char path[128];
    cJSON *s;
    double n;

    snprintf(path, sizeof(path), "/v1/sessions/%s", session);
    s = ask(server.port, "GET", path, NULL);
    n = number_of(s, field);
    cJSON_Delete(s);
    return n;
}

static bool is_replay(const struct response *r)
{
    char value[256];

    return response_header(r, "idempotent-replayed", value) && strcmp(value, "true") == 0;
}

/* Twice: the second time it must be the first answer. Returns it. */
static struct response post_twice(const char *headers, const char *path, const char *body)
{
    struct response first = post(headers, path, body), again = post(headers, path, body);

    if (first.status != 200)
        fail_msg("%s: %d %s", path, first.status, first.body);
    assert_false(is_replay(&first));
    assert_int_equal(again.status, 200);
    assert_true(is_replay(&again));
    assert_string_equal(first.body, again.body);
    response_finish(&again);
    return first;
}

static void every_change_is_made_once(void **unused)
{
    struct response r;
    char body[160];

    (void)unused;
    create("once");
    r = post_twice(KEY("turn"), COMPLETIONS, TURN("once", ""));
    response_finish(&r);
    assert_int_equal(of_session("once", "version"), 1);
    assert_int_equal(of_session("once", "position"), 6);
    r = post_twice(KEY("append"), "/v1/sessions/once/append", "{\"ids\":[7,8,9]}");
    response_finish(&r);
    assert_int_equal(of_session("once", "version"), 2);
    assert_int_equal(of_session("once", "position"), 9);
    r = post_twice(KEY("snapshot"), "/v1/sessions/once/snapshots", "{}");
    snprintf(body, sizeof(body), "{\"snapshot\":\"%s\"}", text_of(r.json, "id"));
    response_finish(&r);
    r = call(server.port, "GET", "/v1/sessions/once/snapshots", NULL);
    assert_int_equal(cJSON_GetArraySize(item_of(r.json, "data")), 1);
    response_finish(&r);
    r = post_twice(KEY("restore"), "/v1/sessions/once/restore", body);
    response_finish(&r);
    assert_int_equal(of_session("once", "version"), 3);
    r = post_twice(KEY("fork"), "/v1/sessions/once/fork", "{\"n\":3}");
    response_finish(&r);
    r = post_twice(KEY("create"), "/v1/sessions", "{}");
    response_finish(&r);
    r = post_twice(KEY("chat"), "/v1/chat/completions",
                   "{\"session_id\":\"once\",\"max_tokens\":2,"
                   "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}");
    response_finish(&r);
    assert_int_equal(of_session("once", "version"), 4);
    r = post_twice(KEY("stateless"), COMPLETIONS, "{\"prompt\":[5],\"max_tokens\":3}");
    response_finish(&r);
}

static void a_stream_comes_again_event_for_event(void **unused)
{
    struct response r;

    (void)unused;
    create("streamed");
    r = post_twice(KEY("stream"), COMPLETIONS, TURN("streamed", ",\"stream\":true"));
    assert_non_null(strstr(r.body, "data: [DONE]\n\n"));
    response_finish(&r);
    assert_int_equal(of_session("streamed", "version"), 1);
}

static void a_key_is_for_one_request(void **unused)
{
    struct response r;

    (void)unused;
    create("other");
    r = post(KEY("mine"), COMPLETIONS, TURN("other", ""));
    assert_int_equal(r.status, 200);
    response_finish(&r);
    r = post(KEY("mine"), COMPLETIONS, TURN("other", ",\"seed\":1"));
    assert_refusal(&r, 422, "idempotency_key_reused", "another body");
    response_finish(&r);
    r = post(KEY("mine"), "/v1/chat/completions", TURN("other", ""));
    assert_int_equal(r.status, 400); /* judged as what it is, first */
    response_finish(&r);
    r = post(KEY("mine") "If-Match: \"0\"\r\n", COMPLETIONS, TURN("other", ""));
    assert_refusal(&r, 422, "idempotency_key_reused", "another condition");
    response_finish(&r);
    assert_int_equal(of_session("other", "version"), 1);
    r = post("Idempotency-Key: \r\n", COMPLETIONS, TURN("other", ""));
    assert_refusal(&r, 400, "invalid_parameter", "an empty key");
    response_finish(&r);
}

static void what_a_query_says_is_part_of_the_request(void **unused)
{
    struct response r;

    (void)unused;
    create("slot-0");
    r = post_twice(KEY("slot"), "/slots/0?action=save", "{\"filename\":\"x\"}");
    response_finish(&r);
    r = post(KEY("slot"), "/slots/0?action=restore", "{\"filename\":\"x\"}");
    assert_refusal(&r, 422, "idempotency_key_reused", "another query");
    response_finish(&r);
    assert_int_equal(of_session("slot-0", "version"), 0);
}

static void a_key_has_a_longest_length(void **unused)
{
    char headers[LIMIT_REPEAT_KEY_BYTES + 64];
    struct response r;
    int n;

    (void)unused;
    create("long");
    n = snprintf(headers, sizeof(headers), "Idempotency-Key: %0*d\r\n", LIMIT_REPEAT_KEY_BYTES, 1);
    assert_true(n > 0);
    r = post_twice(headers, COMPLETIONS, TURN("long", ""));
    response_finish(&r);
    snprintf(headers, sizeof(headers), "Idempotency-Key: %0*d\r\n", LIMIT_REPEAT_KEY_BYTES + 1, 1);
    r = post(headers, COMPLETIONS, TURN("long", ""));
    assert_refusal(&r, 400, "invalid_parameter", "a key too long");
    response_finish(&r);
}

/* A refusal has left nothing behind: the same key does it later. */
static void what_was_refused_is_not_kept(void **unused)
{
    struct response r = post(KEY("later"), COMPLETIONS, TURN("later", ""));

    (void)unused;
    assert_refusal(&r, 404, "session_not_found", "no session yet");
    response_finish(&r);
    create("later");
    r = post_twice(KEY("later"), COMPLETIONS, TURN("later", ""));
    response_finish(&r);
    assert_int_equal(of_session("later", "version"), 1);
}

/* Long enough to be met while it runs, also on a machine that is busy with other things. */
#define LONG(session)                                                                              \
    "{\"session_id\":\"" session "\",\"prompt\":[5],\"max_tokens\":12000,\"ignore_eos\":true}"

static struct client begin(const char *headers, const char *session, const char *body)
{
    struct client c = client_dial(server.port);
    double until = seconds_now() + 20;
    char path[128];

    snprintf(path, sizeof(path), "/v1/sessions/%s", session);
    assert_true(client_ask(&c, "POST", COMPLETIONS, headers, body, strlen(body)));
    for (bool busy = false; !busy;) {
        cJSON *s = ask(server.port, "GET", path, NULL);

        busy = flag_of(s, "busy");
        cJSON_Delete(s);
        assert_true(busy || seconds_now() < until);
    }
    return c;
}

static void a_repeat_waits_for_the_first(void **unused)
{
    struct client first;
    struct response a, b;

    (void)unused;
    create("waits");
    first = begin(KEY("waits"), "waits", LONG("waits"));
    b = post(KEY("waits"), COMPLETIONS, LONG("waits"));
    assert_int_equal(b.status, 200);
    assert_true(is_replay(&b));
    assert_true(client_read(&first, &a));
    assert_string_equal(a.body, b.body);
    response_finish(&a);
    response_finish(&b);
    client_close(&first);
    assert_int_equal(of_session("waits", "version"), 1);
}

/* The first client's connection breaks, its repeat is already there: nothing is lost, and
 * nothing is done again. */
static void the_repeat_gets_it_when_the_first_client_leaves(void **unused)
{
    struct client first, second;
    struct response r;

    (void)unused;
    create("leaves");
    first = begin(KEY("leaves"), "leaves", LONG("leaves"));
    second = begin(KEY("leaves"), "leaves", LONG("leaves"));
    usleep(20000); /* let it arrive */
    client_reset(&first);
    assert_true(client_read(&second, &r));
    assert_int_equal(r.status, 200);
    assert_true(is_replay(&r));
    response_finish(&r);
    client_close(&second);
    assert_int_equal(of_session("leaves", "version"), 1);
}

/* The client leaves in the middle of a stream whose part its session keeps: what is asked again
 * is in the session already, and its answer is what was kept. */
static void a_part_that_was_kept_is_not_run_again(void **unused)
{
    static const char body[] = "{\"session_id\":\"part\",\"prompt\":[5],\"max_tokens\":60000,"
                               "\"ignore_eos\":true,\"commit_partial\":true,\"stream\":true}";
    struct client first;
    struct response r;
    double position;

    (void)unused;
    create("part");
    first = begin(KEY("part"), "part", body);
    assert_true(client_read_head(&first, &r));
    for (int i = 0; i < 5; i++)
        free(client_event(&first));
    client_reset(&first);
    assert_true(live_reaches(&server, "eddy_turns_running", 0, 10));
    assert_int_equal(of_session("part", "version"), 1);
    position = of_session("part", "position");
    assert_true(position > 1 && position < 60001);
    r = post(KEY("part"), COMPLETIONS, body);
    assert_int_equal(r.status, 200);
    assert_true(is_replay(&r));
    assert_non_null(strstr(r.body, "\"finish_reason\":\"length\""));
    assert_non_null(strstr(r.body, "data: [DONE]\n\n"));
    response_finish(&r);
    assert_int_equal(of_session("part", "version"), 1);
    assert_int_equal(of_session("part", "position"), position);
}

/* With nobody left to hear it, it is cancelled as any other. */
static void without_anybody_waiting_it_is_cancelled(void **unused)
{
    struct client first, second;
    struct response r;

    (void)unused;
    create("alone");
    first = begin(KEY("alone"), "alone", LONG("alone"));
    second = begin(KEY("alone"), "alone", LONG("alone"));
    usleep(20000);
    client_reset(&first);
    client_reset(&second);
    assert_true(live_reaches(&server, "eddy_turns_running", 0, 10));
    r = post_twice(KEY("alone"), COMPLETIONS, LONG("alone"));
    response_finish(&r);
    assert_int_equal(of_session("alone", "version"), 1);
}

/* It runs by itself then, and so is refused for the same reason; the key is free again. */
static void a_repeat_takes_the_place_of_a_first_that_failed(void **unused)
{
    struct client first, second;
    struct response a, b;

    (void)unused;
    create("fails");
    first = begin(KEY("fails"), "fails", LONG("fails"));
    second = begin(KEY("fails"), "fails", LONG("fails"));
    usleep(20000);
    cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/fails", NULL));
    assert_true(client_read(&first, &a));
    assert_refusal(&a, 404, "session_not_found", "deleted under it");
    assert_true(client_read(&second, &b));
    assert_refusal(&b, 404, "session_not_found", "run by itself");
    assert_false(is_replay(&b));
    response_finish(&a);
    response_finish(&b);
    client_close(&first);
    client_close(&second);
    create("fails");
    a = post_twice(KEY("fails"), COMPLETIONS, LONG("fails"));
    response_finish(&a);
    assert_int_equal(of_session("fails", "version"), 1);
}

static void a_counted_retry_is_a_repeat_and_a_first_try_is_not(void **unused)
{
    struct response r, again;

    (void)unused;
    create("counted");
    r = post(TRY("0"), COMPLETIONS, TURN("counted", ""));
    response_finish(&r);
    r = post(TRY("0"), COMPLETIONS, TURN("counted", ""));
    assert_int_equal(number_of(item_of(r.json, "session"), "version"), 2);
    again = post(TRY("1"), COMPLETIONS, TURN("counted", ""));
    assert_true(is_replay(&again));
    assert_string_equal(again.body, r.body);
    response_finish(&again);
    again = post(TRY("2"), COMPLETIONS, TURN("counted", ""));
    assert_string_equal(again.body, r.body);
    response_finish(&again);
    response_finish(&r);
    assert_int_equal(of_session("counted", "version"), 2);
    r = post(TRY("1"), COMPLETIONS, TURN("counted", ",\"seed\":9")); /* its first try never came */
    assert_false(is_replay(&r));
    response_finish(&r);
    assert_int_equal(of_session("counted", "version"), 3);
}

/* The oldest key is forgotten, the newest never. */
static void the_store_is_bounded(void **unused)
{
    char headers[64];
    struct response r;

    (void)unused;
    create("many");
    for (int i = 0; i <= LIMIT_REPEATS; i++) {
        snprintf(headers, sizeof(headers), "Idempotency-Key: many-%d\r\n", i);
        r = post(headers, "/v1/sessions/many/append", "{\"ids\":[5]}");
        assert_int_equal(r.status, 200);
        response_finish(&r);
    }
    r = post(headers, "/v1/sessions/many/append", "{\"ids\":[5]}");
    assert_true(is_replay(&r));
    response_finish(&r);
    assert_int_equal(of_session("many", "position"), LIMIT_REPEATS + 1);
    r = post(KEY("many-0"), "/v1/sessions/many/append", "{\"ids\":[5]}");
    assert_false(is_replay(&r));
    response_finish(&r);
}

enum { HASTY = 6, TURNS_EACH = 12 };

struct hasty {
    pthread_t thread;
    unsigned seed;
    int number, tries;
    bool failed;
};

/* A client that loses patience after a moment, again and again, and asks for the same until
 * it has an answer. Sends as a library does: with a key, or counting. */
static bool try_once(struct hasty *h, const char *headers, const char *body, int count)
{
    struct client c = client_dial(server.port);
    struct response r;
    bool done;

    h->tries++;
    client_ask(&c, "POST", COMPLETIONS, headers, body, strlen(body));
    if (count < 20 && rand_r(&h->seed) % 3) {
        usleep((unsigned)rand_r(&h->seed) % 12000);
        client_reset(&c);
        return false;
    }
    h->failed = !client_read(&c, &r);
    client_close(&c);
    if (h->failed)
        return false;
    done = r.status == 200;
    h->failed = !done && (r.status != 409 || count > 1000); /* busy: its last try is being ended */
    response_finish(&r);
    if (!done)
        usleep(1000);
    return done;
}

static void *ask_hastily(void *arg)
{
    struct hasty *h = arg;
    char body[160], headers[160];

    snprintf(body, sizeof(body),
             "{\"session_id\":\"hasty-%d\",\"prompt\":[5,6],\"max_tokens\":40,\"ignore_eos\":true"
             ",\"stream\":%s}",
             h->number, h->number % 3 ? "false" : "true");
    for (int turn = 0; turn < TURNS_EACH && !h->failed; turn++) {
        bool done = false;

        for (int count = 0; !done && !h->failed; count++) {
            if (h->number % 2)
                snprintf(headers, sizeof(headers), "Idempotency-Key: %d-%d\r\n", h->number, turn);
            else
                snprintf(headers, sizeof(headers), "X-Stainless-Retry-Count: %d\r\n", count);
            done = try_once(h, headers, body, count);
        }
    }
    return NULL;
}

static void however_often_it_is_asked_it_is_done_once(void **unused)
{
    struct hasty h[HASTY] = { 0 };
    char session[32];
    int tries = 0;

    (void)unused;
    for (int i = 0; i < HASTY; i++) {
        snprintf(session, sizeof(session), "hasty-%d", i);
        create(session);
        h[i].number = i;
        h[i].seed = (unsigned)i + 1;
        assert_int_equal(pthread_create(&h[i].thread, NULL, ask_hastily, &h[i]), 0);
    }
    for (int i = 0; i < HASTY; i++)
        pthread_join(h[i].thread, NULL);
    for (int i = 0; i < HASTY; i++) {
        snprintf(session, sizeof(session), "hasty-%d", i);
        assert_false(h[i].failed);
        assert_int_equal(of_session(session, "version"), TURNS_EACH);
        assert_int_equal(of_session(session, "position"), TURNS_EACH * 42);
        tries += h[i].tries;
    }
    assert_true(tries > HASTY * TURNS_EACH * 3 / 2);
}

/* A first try that never came here, as when a proxy or a connection failed. */
static void a_retry_is_no_repeat_of_what_the_session_has_gone_on_from(void **unused)
{
    struct response r;

    (void)unused;
    create("on");
    r = post(TRY("0"), COMPLETIONS, TURN("on", ""));
    response_finish(&r);
    r = post(TRY("0"), "/v1/sessions/other/append", "{\"ids\":[7]}");
    response_finish(&r); /* is refused */
    r = post(NULL, "/v1/sessions/on/append", "{\"ids\":[5000]}");
    response_finish(&r); /* this one, too */
    r = post(TRY("1"), COMPLETIONS, TURN("on", ""));
    assert_true(is_replay(&r));
    response_finish(&r);
    r = post(NULL, "/v1/sessions/on/append", "{\"ids\":[7]}");
    assert_int_equal(r.status, 200);
    response_finish(&r);
    r = post(TRY("1"), COMPLETIONS, TURN("on", ""));
    assert_int_equal(r.status, 200);
    assert_false(is_replay(&r));
    response_finish(&r);
    assert_int_equal(of_session("on", "version"), 3);
    r = post(TRY("2"), COMPLETIONS, TURN("on", ""));
    assert_true(is_replay(&r));
    response_finish(&r);
    r = post(KEY("on"), "/v1/sessions/on/append", "{\"ids\":[7]}");
    response_finish(&r);
    r = post(TRY("0"), COMPLETIONS, TURN("on", ""));
    response_finish(&r);
    r = post(KEY("on"), "/v1/sessions/on/append", "{\"ids\":[7]}");
    assert_true(is_replay(&r)); /* a key names one request however long ago */
    response_finish(&r);
    r = post(TRY("1"), COMPLETIONS, TURN("on", ""));
    assert_true(is_replay(&r));
    response_finish(&r);
    assert_int_equal(of_session("on", "version"), 5);
}

static int start(void **unused)
{
    (void)unused;
    live_start(&server, MAMBA2, "--chat-template", "chatml", NULL);
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
        cmocka_unit_test(every_change_is_made_once),
        cmocka_unit_test(a_stream_comes_again_event_for_event),
        cmocka_unit_test(a_key_is_for_one_request),
        cmocka_unit_test(what_a_query_says_is_part_of_the_request),
        cmocka_unit_test(a_key_has_a_longest_length),
        cmocka_unit_test(what_was_refused_is_not_kept),
        cmocka_unit_test(a_repeat_waits_for_the_first),
        cmocka_unit_test(the_repeat_gets_it_when_the_first_client_leaves),
        cmocka_unit_test(a_part_that_was_kept_is_not_run_again),
        cmocka_unit_test(without_anybody_waiting_it_is_cancelled),
        cmocka_unit_test(a_repeat_takes_the_place_of_a_first_that_failed),
        cmocka_unit_test(a_counted_retry_is_a_repeat_and_a_first_try_is_not),
        cmocka_unit_test(a_retry_is_no_repeat_of_what_the_session_has_gone_on_from),
        cmocka_unit_test(the_store_is_bounded),
        cmocka_unit_test(however_often_it_is_asked_it_is_done_once),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
