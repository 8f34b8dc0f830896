/* Web pages: which of them may call, and that the others can do nothing without being let in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "server/http/origin.h"
#include "tests/server/http/site.h"

#define FROM(origin)   "Host: x:80\r\nOrigin: " origin "\r\n"
#define PREFLIGHT      "OPTIONS /items/1 HTTP/1.1\r\n"
#define ASKS           "Access-Control-Request-Method: DELETE\r\n"
#define ALLOWED        "Access-Control-Allow-Origin"
#define ALLOWS(answer) answer_header(answer, ALLOWED)

static struct site site;

static struct answer ask(const char *request)
{
    struct peer p = peer_dial(&site);
    struct answer a;

    peer_say(&p, request);
    assert_true(peer_read(&p, &a));
    peer_close(&p);
    return a;
}

static void a_page_that_may_call_reads_its_answers(void **state)
{
    struct answer a = ask("GET /items/1 HTTP/1.1\r\n" FROM("https://b.example:8443") "\r\n");

    (void)state;
    assert_int_equal(a.status, 200);
    assert_string_equal(ALLOWS(&a), "https://b.example:8443");
    assert_string_equal(answer_header(&a, "Access-Control-Expose-Headers"), "*");
    assert_string_equal(answer_header(&a, "Vary"), "Origin");
    a = ask("GET /nothing HTTP/1.1\r\n" FROM("http://a.example") "\r\n"); /* refusals, too */
    assert_int_equal(a.status, 404);
    assert_string_equal(ALLOWS(&a), "http://a.example");
    a = ask("GET /events HTTP/1.1\r\n" FROM("http://a.example") "\r\n");
    assert_string_equal(ALLOWS(&a), "http://a.example");
}

static void a_page_that_may_call_is_told_so_before(void **state)
{
    struct answer a = ask(PREFLIGHT FROM("http://a.example") ASKS
                          "Access-Control-Request-Headers: authorization,x-session-id\r\n\r\n");

    (void)state;
    assert_int_equal(a.status, 204);
    assert_string_equal(ALLOWS(&a), "http://a.example");
    assert_string_equal(answer_header(&a, "Access-Control-Allow-Methods"),
                        "GET, HEAD, DELETE, OPTIONS");
    assert_string_equal(answer_header(&a, "Access-Control-Allow-Headers"),
                        "authorization,x-session-id");
    assert_string_equal(answer_header(&a, "Access-Control-Max-Age"), "600");
    a = ask(PREFLIGHT FROM("http://a.example") "\r\n"); /* asks nothing */
    assert_null(answer_header(&a, "Access-Control-Allow-Methods"));
}

static void others_are_allowed_nothing(void **state)
{
    static const char *const requests[] = {
        PREFLIGHT FROM("http://a.example.evil.com") ASKS "\r\n",
        PREFLIGHT FROM("http://a.exampl") ASKS "\r\n",
        PREFLIGHT FROM("https://a.example") ASKS "\r\n",
        PREFLIGHT FROM("http://a.example,https://b.example:8443") ASKS "\r\n",
        PREFLIGHT FROM("http://a.example") "Origin: http://c.example\r\n" ASKS "\r\n",
        PREFLIGHT FROM("null") ASKS "\r\n",
        PREFLIGHT FROM("") ASKS "\r\n",
        PREFLIGHT "Host: x\r\n" ASKS "\r\n",
        "GET /items/1 HTTP/1.1\r\n" FROM("http://c.example") "\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        struct answer a = ask(requests[i]);

        if (strstr(a.head, "Access-Control"))
            fail_msg("%s: %s", requests[i], a.head);
    }
}

/* A head that is refused before its end: without the header the page would see a failure of the
 * network, and try again. */
static void a_page_reads_why_its_head_was_too_large(void **state)
{
    enum { LARGE = 64 * 1024, MANY = 200 };
    static char request[LARGE + 256];
    struct answer a;
    int n = snprintf(request, sizeof(request),
                     "GET /items/1 HTTP/1.1\r\n%sX-Large: ", FROM("http://a.example"));

    (void)state;
    memset(request + n, 'x', LARGE);
    memcpy(request + n + LARGE, "\r\n\r\n", 5);
    a = ask(request);
    assert_int_equal(a.status, 431);
    assert_string_equal(ALLOWS(&a), "http://a.example");
    assert_string_equal(answer_header(&a, "Vary"), "Origin");
    memcpy(strstr(request, "a.example"), "c.example", 9);
    a = ask(request);
    assert_int_equal(a.status, 431);
    assert_null(ALLOWS(&a));
    n = snprintf(request, sizeof(request), "GET /items/1 HTTP/1.1\r\n%s", FROM("http://a.example"));
    for (int i = 0; i < MANY; i++)
        n += snprintf(request + n, sizeof(request) - (size_t)n, "X-%d: y\r\n", i);
    snprintf(request + n, sizeof(request) - (size_t)n, "\r\n");
    a = ask(request);
    assert_int_equal(a.status, 431);
    assert_string_equal(ALLOWS(&a), "http://a.example");
    /* What is not whole is nobody's, however it begins. */
    a = ask("GET /items/1 HTTP/1.1\r\nHost: x\r\nOrigin: http://a.example\x01\r\n\r\n");
    assert_int_equal(a.status, 400);
    assert_null(ALLOWS(&a));
    a = ask("GET /items/1 HTTP/1.1\r\n" FROM("http://a.example") "Origin: http://c.example\r\n"
                                                                 "X: \x01\r\n\r\n");
    assert_int_equal(a.status, 400);
    assert_null(ALLOWS(&a));
}

/* Of all that changes something, a POST without a body alone needs no leave from a browser. */
static void a_post_of_nothing_is_not_done_for_others(void **state)
{
    static const struct {
        const char *head;
        int status;
    } recipes[] = {
        { FROM("http://c.example"), 403 },
        { FROM("http://x"), 403 }, /* another port */
        { FROM("null"), 403 },
        { FROM("http://c.example") "Content-Length: 0\r\n", 403 },
        { FROM("http://a.example"), 200 },
        { FROM("http://x:80"), 200 }, /* a page of our own host, behind TLS or not */
        { FROM("https://X:80"), 200 },
        { "Host: x:80\r\n", 200 },
    };
    char request[256];

    (void)state;
    for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++) {
        struct answer a;

        snprintf(request, sizeof(request), "POST /echo HTTP/1.1\r\n%s\r\n", recipes[i].head);
        a = ask(request);
        if (a.status != recipes[i].status)
            fail_msg("%s got %d", recipes[i].head, a.status);
        if (a.status == 403)
            assert_true(answer_has_code(&a, "origin_not_allowed"));
    }
}

static void any_may_be_allowed_and_none_is(void **state)
{
    (void)state;
    assert_string_equal(origin_allow("*", "http://c.example"), "*");
    assert_null(origin_allow("*", NULL));
    assert_null(origin_allow(NULL, "http://c.example"));
    assert_null(origin_allow("", "http://c.example"));
    assert_null(origin_allow("http://a,http://b", "http://"));
    assert_null(origin_allow("http://a,http://b", ""));
    assert_string_equal(origin_allow("http://a,http://b", "http://b"), "http://b");
}

static void a_list_names_origins_as_browsers_send_them(void **state)
{
    static const char *const good[] = { "*",
                                        "",
                                        "null",
                                        "https://a.example",
                                        "http://localhost:3000,https://b-c.example:8443",
                                        "http://[::1]:8080",
                                        "http://127.0.0.1",
                                        "chrome-extension://abcdefghijklmnop",
                                        "tauri://localhost" };
    static const char *const bad[] = { "a.example",
                                       "https://",
                                       "://a.example",
                                       "https://a.example/",
                                       "https://A.example",
                                       "https://*.a.example",
                                       "http://a.example, http://b.example",
                                       "http://a.example,,http://b.example",
                                       "http://a.example,*",
                                       "http://a.example http://b.example",
                                       "*,http://a.example",
                                       "https://m\xc3\xbc.example" };
    struct error err = { 0 };

    (void)state;
    assert_true(origin_list_check(NULL, &err));
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(origin_list_check(good[i], &err));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(origin_list_check(bad[i], &err));
        assert_int_equal(err.code, ERR_INPUT);
    }
}

static int start(void **state)
{
    (void)state;
    site_start(&site, 1000, 1);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    site_stop(&site);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_that_may_call_reads_its_answers),
        cmocka_unit_test(a_page_that_may_call_is_told_so_before),
        cmocka_unit_test(others_are_allowed_nothing),
        cmocka_unit_test(a_page_reads_why_its_head_was_too_large),
        cmocka_unit_test(a_post_of_nothing_is_not_done_for_others),
        cmocka_unit_test(any_may_be_allowed_and_none_is),
        cmocka_unit_test(a_list_names_origins_as_browsers_send_them),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
