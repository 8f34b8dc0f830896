/* Many clients at once: each gets what it would get alone, and the idle ones cost little. */
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

enum { KINDS = 10, IDLE_BYTES = 4096 };

static struct live server;

static void put_body(char *body, size_t size, int kind, int tokens)
{
    snprintf(body, size,
             "{\"prompt\":[%d,%d,7],\"max_tokens\":%d,\"ignore_eos\":true,\"seed\":%d,"
             "\"stream\":true}",
             1 + kind, 20 + kind * 3, tokens, kind);
}

/* All are sent before any is read. */
static void stream_at_once(int streams, int tokens)
{
    struct client *client = calloc((size_t)streams, sizeof(*client));
    struct story alone[KINDS];
    char body[192];

    assert_non_null(client);
    for (int i = 0; i < KINDS; i++) {
        put_body(body, sizeof(body), i, tokens);
        stream_text(server.port, body, &alone[i]);
        assert_true(alone[i].done && !alone[i].invalid);
    }
    for (int i = 0; i < streams; i++) {
        put_body(body, sizeof(body), i % KINDS, tokens);
        client[i] = client_dial(server.port);
        assert_true(client_ask(&client[i], "POST", "/v1/completions", NULL, body, strlen(body)));
    }
    for (int i = 0; i < streams; i++) {
        struct response r;
        struct story s = { 0 };

        assert_true(client_read_head(&client[i], &r));
        assert_int_equal(r.status, 200);
        stream_rest(&client[i], &s);
        assert_true(s.done && s.whole && !s.invalid);
        assert_string_equal(s.error, "");
        assert_string_equal(s.finish[0], "length");
        assert_string_equal(s.text[0], alone[i % KINDS].text[0]);
        story_finish(&s);
        client_close(&client[i]);
    }
    for (int i = 0; i < KINDS; i++)
        story_finish(&alone[i]);
    free(client);
    assert_true(live_reaches(&server, "eddy_turns_running", 0, 10));
    assert_true(live_metric(&server, "eddy_turns_total{end=\"failed\"}") == 0);
}

static void two_hundred_streams_are_each_as_if_alone(void **state)
{
    (void)state;
    stream_at_once(200, 16);
}

static void a_thousand_streams_are_each_as_if_alone(void **state)
{
    (void)state;
    stream_at_once(live_sanitized() ? 300 : 1000, 8);
}

static void a_connection_that_waits_costs_little(void **state)
{
    int n = live_sanitized() ? 200 : 2000;
    struct client *client = calloc((size_t)n, sizeof(*client));
    struct response r;
    int fds = live_fds(&server);
    long rss = live_rss(&server);

    (void)state;
    assert_non_null(client);
    for (int i = 0; i < n; i++)
        client[i] = client_dial(server.port);
    assert_true(live_reaches(&server, "eddy_connections", n + 1, 30));
    if (!live_sanitized())
        assert_in_range(live_rss(&server), 0, rss + (long)n * IDLE_BYTES);
    live_is_well(&server);
    for (int i = 0; i < n; i += 100) { /* they do wait */
        assert_true(client_ask(&client[i], "GET", "/health", NULL, NULL, 0));
        assert_true(client_read(&client[i], &r));
        assert_int_equal(r.status, 200);
        response_finish(&r);
    }
    for (int i = 0; i < n; i++)
        client_close(&client[i]);
    assert_true(live_reaches(&server, "eddy_connections", 1, 10));
    assert_int_equal(live_fds(&server), fds);
    free(client);
}

/* Who comes when the queue is full is told so at once, and when to come again. */
static void beyond_the_queue_clients_are_told_to_come_again(void **state)
{
    enum { STREAMS = 40 };
    struct client client[STREAMS];
    struct live small;
    int good = 0, full = 0;

    (void)state;
    live_start(&small, DEMO, "--slots", "2", "--max-batch", "2", "--max-queue", "4", NULL);
    for (int i = 0; i < STREAMS; i++) {
        char body[192];

        put_body(body, sizeof(body), i, 64);
        client[i] = client_dial(small.port);
        assert_true(client_ask(&client[i], "POST", "/v1/completions", NULL, body, strlen(body)));
    }
    for (int i = 0; i < STREAMS; i++) {
        struct client *c = &client[i];
        struct response r;
        struct story s = { 0 };

        /* An answer that is refused is whole, a stream is not: the head tells. */
        assert_true(client_read_head(c, &r));
        if (r.status == 200) {
            stream_rest(c, &s);
            assert_true(s.done && !s.error[0]);
            good++;
        } else {
            char value[256];

            assert_int_equal(r.status, 429);
            assert_true(response_header(&r, "retry-after", value));
            assert_false(
                response_header(&r, "x-should-retry", value)); /* clients do by themselves */
            full++;
        }
        story_finish(&s);
        client_close(c);
    }
    assert_true(good >= 4 && full > 0);
    assert_int_equal(live_stop(&small), 0);
}

static struct client begin_prompts(const struct live *l, int prompts, int tokens)
{
    struct client c = client_dial(l->port);
    char body[512];
    int len = snprintf(body, sizeof(body),
                       "{\"max_tokens\":%d,\"ignore_eos\":true,\"stream\":true,"
                       "\"prompt\":[\"a\"",
                       tokens);

    while (--prompts)
        len += snprintf(body + len, sizeof(body) - (size_t)len, ",\"a\"");
    len += snprintf(body + len, sizeof(body) - (size_t)len, "]}");
    assert_true(client_ask(&c, "POST", "/v1/completions", NULL, body, (size_t)len));
    return c;
}

/* Nothing of it is streamed: the refusal is one that libraries try again after. */
static void a_request_whose_prompts_do_not_all_fit_is_refused_as_one(void **state)
{
    enum { SLOTS = 2, QUEUE = 4, ROUNDS = 10 };
    struct client first, other;
    struct response r;
    struct live small;

    (void)state;
    live_start(&small, DEMO, "--slots", "2", "--max-batch", "2", "--max-queue", "4", NULL);
    first = begin_prompts(&small, 1, 60000);
    assert_true(client_read_head(&first, &r));
    for (int round = 0; round < ROUNDS; round++) {
        /* To come again helps only where there could be room. */
        for (int more = 0; more < 2; more++) {
            other = begin_prompts(&small, SLOTS + QUEUE + more, 16);
            assert_true(client_read(&other, &r));
            assert_refusal(&r, more ? 400 : 429, more ? "invalid_parameter" : "queue_full",
                           "prompts");
            response_finish(&r);
            client_close(&other);
        }
        other = begin_prompts(&small, SLOTS, 4);
        assert_true(client_read_head(&other, &r));
        assert_int_equal(r.status, 200);
        client_close(&other);
        assert_true(live_reaches(&small, "eddy_turns_running", 1, 10));
    }
    client_close(&first);
    assert_int_equal(live_stop(&small), 0);
}

static int start(void **state)
{
    (void)state;
    live_start(&server, MAMBA, NULL);
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
        cmocka_unit_test(two_hundred_streams_are_each_as_if_alone),
        cmocka_unit_test(a_thousand_streams_are_each_as_if_alone),
        cmocka_unit_test(a_connection_that_waits_costs_little),
        cmocka_unit_test(beyond_the_queue_clients_are_told_to_come_again),
        cmocka_unit_test(a_request_whose_prompts_do_not_all_fit_is_refused_as_one),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
