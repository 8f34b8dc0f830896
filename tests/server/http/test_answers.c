/* What comes back: heads, errors, streams, order, and what happens when a client leaves. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/limits.h"
#include "server/problem.h"
#include "tests/server/http/site.h"

#define REQUEST(line) line " HTTP/1.1\r\nHost: x\r\n\r\n"

static struct site s;

static struct answer ask(const char *request)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    peer_say(&p, request);
    assert_true(peer_read(&p, &a));
    peer_close(&p);
    return a;
}

static int start(void **state)
{
    (void)state;
    site_start(&s, 2000, 1);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    site_stop(&s);
    return 0;
}

static void a_json_answer_has_the_heads_a_client_relies_on(void **state)
{
    struct answer a = ask(REQUEST("GET /health"));

    (void)state;
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body, "{}");
    assert_string_equal(answer_header(&a, "Content-Type"), "application/json");
    assert_string_equal(answer_header(&a, "Content-Length"), "2");
    assert_string_equal(answer_header(&a, "Cache-Control"), "no-store");
    assert_int_equal(strlen(answer_header(&a, "Date")), strlen("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_memory_equal(answer_header(&a, "x-request-id"), "req_", 4);
    assert_null(answer_header(&a, "Connection"));
    assert_null(answer_header(&a, "Access-Control-Allow-Origin"));
}

static void a_request_id_comes_back_when_it_is_harmless(void **state)
{
    char head[256], id[80];
    struct answer a;

    (void)state;
    a = ask("GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: abc-1\r\n\r\n");
    assert_string_equal(answer_header(&a, "x-request-id"), "abc-1");
    a = ask("GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: a b\r\n\r\n");
    assert_memory_equal(answer_header(&a, "x-request-id"), "req_", 4);
    a = ask("GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\nX-Request-Id: b\r\n\r\n");
    assert_memory_equal(answer_header(&a, "x-request-id"), "req_", 4);
    memset(id, 'i', sizeof(id) - 1);
    id[LIMIT_ID_BYTES + 1] = '\0';
    sprintf(head, "GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n\r\n", id);
    a = ask(head);
    assert_memory_equal(answer_header(&a, "x-request-id"), "req_", 4);
}

static void head_is_get_without_the_body(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer get, head;

    (void)state;
    peer_say(&p, REQUEST("GET /items/1"));
    assert_true(peer_read(&p, &get));
    peer_say(&p, REQUEST("HEAD /health") REQUEST("HEAD /events") REQUEST("HEAD /nothing")
                     REQUEST("GET /items/1"));
    assert_true(peer_read_head_only(&p, &head));
    assert_string_equal(answer_header(&head, "Content-Length"), "2");
    assert_true(peer_read_head_only(&p, &head));
    assert_string_equal(answer_header(&head, "Content-Type"), "text/event-stream");
    assert_true(peer_read_head_only(&p, &head));
    assert_int_equal(head.status, 404);
    assert_true(peer_read(&p, &head));
    assert_string_equal(head.body, get.body);
    peer_close(&p);
}

static void options_and_405_name_the_methods(void **state)
{
    struct answer a = ask(REQUEST("OPTIONS /items/1"));

    (void)state;
    assert_int_equal(a.status, 204);
    assert_string_equal(answer_header(&a, "Allow"), "GET, HEAD, DELETE, OPTIONS");
    assert_null(answer_header(&a, "Content-Length"));
    a = ask(REQUEST("PUT /items/1"));
    assert_int_equal(a.status, 405);
    assert_string_equal(answer_header(&a, "Allow"), "GET, HEAD, DELETE, OPTIONS");
    assert_true(answer_has_code(&a, "method_not_allowed"));
    a = ask(REQUEST("OPTIONS /nothing"));
    assert_int_equal(a.status, 404);
}

static void routes_hand_out_decoded_parts(void **state)
{
    struct answer a = ask(REQUEST("GET /items/a%20b%C3%A9?q=x+y%26z&r=second"));

    (void)state;
    assert_string_equal(a.body, "GET /items/{id} [a b\xc3\xa9] q=x y&z");
    a = ask(REQUEST("GET /items/7/parts?r=1"));
    assert_string_equal(a.body, "GET /items/{id}/parts [7] q=none");
    a = ask(REQUEST("DELETE /items/7?q="));
    assert_string_equal(a.body, "DELETE /items/{id} [7] q=");
}

/* However its slashes are written; but for them it is a part as others are. */
static void a_route_may_take_the_rest_of_the_path(void **state)
{
    static const char *const rests[][2] = {
        { "/rests/a", "[a]" },
        { "/rests/a/b", "[a/b]" },
        { "/rests/a%2Fb/c", "[a/b/c]" },
        { "/rests/a%2fb%20c", "[a/b c]" },
        { "/rests/a//b/", "[a//b/]" },
        { "/rests//a", NULL },
        { "/rests/", NULL },
        { "/rests", NULL },
        { "/rests%2fa", NULL },
        { "/rests/a%00", NULL },
        { "/items/a%2fb", NULL },
        { "/rests/a?q=b/c", "[a]" },
    };
    char request[128];

    (void)state;
    for (size_t i = 0; i < sizeof(rests) / sizeof(rests[0]); i++) {
        struct answer a;

        snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", rests[i][0]);
        a = ask(request);
        assert_int_equal(a.status, rests[i][1] ? 200 : 404);
        if (rests[i][1] && !strstr(a.body, rests[i][1]))
            fail_msg("%s: %s", rests[i][0], a.body);
    }
}

static struct answer ask_problem(enum problem_code what)
{
    char request[128];

    snprintf(request, sizeof(request), REQUEST("GET /problem?what=%d"), (int)what);
    return ask(request);
}

static void every_refusal_has_a_status_in_words(void **state)
{
    (void)state;
    for (int what = PROBLEM_NONE + 1; what < PROBLEM_COUNT; what++) {
        struct answer a = ask_problem((enum problem_code)what);

        assert_int_equal(a.status, problem_row((enum problem_code)what)->status);
        if (a.head[strlen("HTTP/1.1 400 ")] == '\r')
            fail_msg("%d is given no reason", a.status);
    }
}

static void a_refusal_is_json_and_says_whether_to_retry(void **state)
{
    struct answer a = ask_problem(PROBLEM_SESSION_BUSY);

    (void)state;
    assert_int_equal(a.status, 409);
    assert_string_equal(a.body, "{\"error\":{\"message\":\"bad \\\"text\\\"\\u000a\xef\xbf\xbd"
                                "\",\"type\":\"conflict_error\",\"param\":\"a.b\","
                                "\"code\":\"session_busy\"}}");
    assert_string_equal(answer_header(&a, "x-should-retry"), "false");
    assert_null(answer_header(&a, "Retry-After"));
    a = ask_problem(PROBLEM_QUEUE_FULL);
    assert_int_equal(a.status, 429);
    assert_string_equal(answer_header(&a, "Retry-After"), "1");
    assert_null(answer_header(&a, "x-should-retry"));
    a = ask_problem(PROBLEM_INTERNAL);
    assert_int_equal(a.status, 500);
    assert_string_equal(answer_header(&a, "x-should-retry"), "false");
    a = ask_problem(PROBLEM_NOT_FOUND);
    assert_null(answer_header(&a, "x-should-retry"));
    a = ask_problem(PROBLEM_SESSION_QUOTA);
    assert_int_equal(a.status, 429);
    assert_string_equal(answer_header(&a, "x-should-retry"), "false");
    assert_null(answer_header(&a, "Retry-After"));
    a = ask(REQUEST("GET /nothing"));
    assert_non_null(strstr(a.body, "\"param\":null"));
}

static void a_header_cannot_be_injected(void **state)
{
    struct answer a = ask(REQUEST("GET /inject?v=a%0d%0aSet-Cookie:%20b"));

    (void)state;
    assert_int_equal(a.status, 200);
    assert_string_equal(answer_header(&a, "X-Good"), "yes");
    assert_null(answer_header(&a, "X-Bad"));
    assert_null(answer_header(&a, "Set-Cookie"));
    a = ask(REQUEST("GET /inject?v=fine"));
    assert_string_equal(answer_header(&a, "X-Bad"), "fine");
}

static void media_types_are_checked_where_a_route_says_so(void **state)
{
    static const struct {
        const char *head;
        int status;
    } cases[] = {
        { "Content-Type: application/json\r\n", 200 },
        { "Content-Type: APPLICATION/JSON; charset=utf-8\r\n", 200 },
        { "Content-Type: application/json ;charset=utf-8\r\n", 200 },
        { "Content-Type: application/jsonp\r\n", 415 },
        { "Content-Type: text/plain\r\n", 415 },
        { "Content-Type: application/x-www-form-urlencoded\r\n", 415 },
        { "", 415 },
        { "Content-Type: application/json\r\nContent-Encoding: identity\r\n", 200 },
        { "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 415 },
    };
    char text[256];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sprintf(text, "POST /echo HTTP/1.1\r\nHost: x\r\n%sContent-Length: 2\r\n\r\n{}",
                cases[i].head);
        assert_int_equal(ask(text).status, cases[i].status);
    }
}

static void events_arrive_whole_and_in_order(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    (void)state;
    peer_say(&p, REQUEST("GET /events?n=3"));
    assert_true(peer_read(&p, &a));
    assert_string_equal(answer_header(&a, "Content-Type"), "text/event-stream");
    assert_string_equal(answer_header(&a, "Cache-Control"), "no-store");
    assert_string_equal(answer_header(&a, "X-Accel-Buffering"), "no");
    assert_string_equal(answer_header(&a, "Transfer-Encoding"), "chunked");
    assert_null(answer_header(&a, "Content-Length"));
    assert_string_equal(a.body, "data: {\"i\":0}\n\ndata: {\"i\":1}\n\ndata: {\"i\":2}\n\n"
                                "data: [DONE]\n\n");
    peer_say(&p, "GET /events?n=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_null(answer_header(&a, "Transfer-Encoding"));
    assert_string_equal(answer_header(&a, "Connection"), "close");
    assert_string_equal(a.body, "data: {\"i\":0}\n\ndata: [DONE]\n\n");
    assert_true(p.eof);
    peer_close(&p);
}

static void a_stream_that_is_cut_shows_it(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    (void)state;
    peer_say(&p, REQUEST("GET /cut"));
    assert_false(peer_read(&p, &a));
    assert_string_equal(a.body, "data: one\n\n");
    assert_true(p.eof);
    peer_close(&p);
}

/* Without chunks only an error tells a cut from the end. */
static void a_cut_stream_of_http_1_0_ends_in_a_reset(void **state)
{
    struct peer p = peer_dial(&s);
    char piece[4096];
    ssize_t n;

    (void)state;
    peer_say(&p, "GET /cut HTTP/1.0\r\n\r\n");
    do
        n = recv(p.fd, piece, sizeof(piece), 0);
    while (n > 0);
    assert_int_equal(n, -1);
    assert_int_equal(errno, ECONNRESET);
    peer_close(&p);
}

static void an_abandoned_exchange_closes_its_connection(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    (void)state;
    peer_say(&p, REQUEST("GET /drop") REQUEST("GET /health"));
    assert_false(peer_read(&p, &a));
    assert_true(p.eof);
    peer_close(&p);
    assert_true(site_settles(&s, 0));
}

static void http_1_0_is_kept_only_when_asked(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    (void)state;
    peer_say(&p, "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_string_equal(answer_header(&a, "Connection"), "keep-alive");
    peer_say(&p, "GET /health HTTP/1.0\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_string_equal(answer_header(&a, "Connection"), "close");
    assert_true(peer_sees_end(&p));
    peer_close(&p);
}

static void an_upgrade_is_ignored_and_what_follows_is_served(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    (void)state;
    peer_say(&p, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 "\r\n" REQUEST("GET /health"));
    peer_say(
        &p, "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" REQUEST("GET /health"));
    for (int i = 0; i < 4; i++) {
        assert_true(peer_read(&p, &a));
        assert_int_equal(a.status, 200);
    }
    peer_close(&p);
}

/* 500 requests in one piece; the odd ones are answered later than the even ones behind them
 * could be. */
static void pipelined_requests_are_answered_in_order(void **state)
{
    enum { MANY = 500 };
    struct peer p = peer_dial(&s);
    char *text = calloc(MANY, 160);
    struct answer a;
    size_t at = 0;

    (void)state;
    for (int i = 0; i < MANY; i++) {
        char body[16];
        int len = sprintf(body, "[%d]", i);

        at += (size_t)(i % 50 == 1 ? sprintf(text + at, REQUEST("GET /later"))
                                   : sprintf(text + at,
                                             "POST /echo HTTP/1.1\r\nHost: x\r\n"
                                             "Content-Type: application/json\r\n"
                                             "Content-Length: %d\r\n\r\n%s",
                                             len, body));
    }
    peer_send(&p, text, at);
    for (int i = 0; i < MANY; i++) {
        char want[16];

        sprintf(want, "[%d]", i);
        assert_true(peer_read(&p, &a));
        assert_string_equal(a.body, i % 50 == 1 ? "later" : want);
    }
    peer_close(&p);
    free(text);
}

static void reading_ahead_is_bounded(void **state)
{
    struct peer p = peer_dial(&s);
    static char block[1 << 16];
    struct linger hard = { 1, 0 };
    size_t sent = 0;
    ssize_t n;

    (void)state;
    memset(block, '\n', sizeof(block));
    peer_say(&p, REQUEST("GET /never"));
    assert_true(site_reaches(&s.handled, 1));
    for (int idle = 0; idle < 20;) { /* until 200 ms pass without a byte taken */
        n = send(p.fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        idle = n > 0 ? 0 : idle + 1;
        if (n <= 0)
            usleep(10000);
    }
    assert_true(sent < 32u << 20); /* what the kernel's two buffers hold, not more */
    assert_int_equal(s.gone, 0);
    setsockopt(p.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    peer_close(&p);
    assert_true(site_reaches(&s.gone, 1));
}

static void a_pending_exchange_learns_at_once_that_its_client_left(void **state)
{
    struct linger hard = { 1, 0 };

    (void)state;
    for (int how = 0; how < 3; how++) {
        struct peer p = peer_dial(&s);

        peer_say(&p, how == 1 ? REQUEST("GET /open") : REQUEST("GET /never"));
        assert_true(site_reaches(&s.handled, how + 1));
        if (how == 2) /* RST instead of FIN */
            setsockopt(p.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
        peer_close(&p);
        assert_true(site_reaches(&s.gone, how + 1));
    }
    assert_true(site_settles(&s, 0));
}

static void an_answer_for_a_client_that_left_is_dropped(void **state)
{
    struct peer p = peer_dial(&s);

    (void)state;
    peer_say(&p, REQUEST("GET /later"));
    assert_true(site_reaches(&s.handled, 1));
    peer_close(&p);
    assert_true(site_reaches(&s.answered, 1));
    usleep(60000); /* the late answer comes and finds nobody */
    assert_int_equal(ask(REQUEST("GET /health")).status, 200);
}

static void a_half_closed_client_still_gets_what_is_answered_at_once(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    (void)state;
    peer_say(&p, REQUEST("GET /health"));
    peer_half_close(&p);
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 200);
    assert_true(peer_sees_end(&p));
    peer_close(&p);

    p = peer_dial(&s);
    peer_say(&p, REQUEST("GET /big"));
    peer_half_close(&p);
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.len, sizeof(a.body) - 1);
    peer_close(&p);
}

static void a_large_body_is_sent_whole_to_a_slow_reader(void **state)
{
    struct peer p = peer_dial(&s);
    struct answer a;

    (void)state;
    peer_say(&p, REQUEST("GET /big"));
    usleep(100000);
    assert_true(peer_read(&p, &a));
    peer_say(&p, REQUEST("GET /health"));
    assert_true(peer_read(&p, &a));
    assert_string_equal(a.body, "{}");
    peer_close(&p);
}

static void a_writer_waits_for_a_slow_reader(void **state)
{
    struct peer p = peer_dial(&s);
    char piece[65536];
    size_t got = 0;
    ssize_t n;

    (void)state;
    peer_say(&p, REQUEST("GET /flood"));
    while (s.peak <= LIMIT_WRITE_QUEUE_BYTES) /* the test has a time limit */
        usleep(1000);
    while (got < 40u << 20 && (n = recv(p.fd, piece, sizeof(piece), 0)) > 0)
        got += (size_t)n;
    assert_true(got >= 40u << 20);
    assert_true(s.drains > 0);
    assert_true(s.peak <= LIMIT_WRITE_QUEUE_BYTES + 17 * 1024);
    peer_close(&p);
    assert_true(site_reaches(&s.gone, 1));
}

static void a_thousand_streams_are_open_at_once(void **state)
{
    enum { MANY = 1000 };
    static struct peer peers[MANY];
    static struct answer a;

    (void)state;
    for (int i = 0; i < MANY; i++) {
        peers[i] = peer_dial(&s);
        peer_say(&peers[i], REQUEST("GET /open"));
    }
    for (int i = 0; i < MANY; i++) {
        assert_true(peer_read_head_only(&peers[i], &a));
        assert_int_equal(a.status, 200);
    }
    for (int i = 0; i < MANY; i++)
        peer_close(&peers[i]);
    assert_true(site_reaches(&s.gone, MANY));
    assert_true(site_settles(&s, 0));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, start, stop)
    const struct CMUnitTest tests[] = {
        CASE(a_json_answer_has_the_heads_a_client_relies_on),
        CASE(a_request_id_comes_back_when_it_is_harmless),
        CASE(head_is_get_without_the_body),
        CASE(options_and_405_name_the_methods),
        CASE(routes_hand_out_decoded_parts),
        CASE(a_route_may_take_the_rest_of_the_path),
        CASE(every_refusal_has_a_status_in_words),
        CASE(a_refusal_is_json_and_says_whether_to_retry),
        CASE(a_header_cannot_be_injected),
        CASE(media_types_are_checked_where_a_route_says_so),
        CASE(events_arrive_whole_and_in_order),
        CASE(a_stream_that_is_cut_shows_it),
        CASE(a_cut_stream_of_http_1_0_ends_in_a_reset),
        CASE(an_abandoned_exchange_closes_its_connection),
        CASE(http_1_0_is_kept_only_when_asked),
        CASE(an_upgrade_is_ignored_and_what_follows_is_served),
        CASE(pipelined_requests_are_answered_in_order),
        CASE(reading_ahead_is_bounded),
        CASE(a_pending_exchange_learns_at_once_that_its_client_left),
        CASE(an_answer_for_a_client_that_left_is_dropped),
        CASE(a_half_closed_client_still_gets_what_is_answered_at_once),
        CASE(a_large_body_is_sent_whole_to_a_slow_reader),
        CASE(a_writer_waits_for_a_slow_reader),
        CASE(a_thousand_streams_are_open_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
