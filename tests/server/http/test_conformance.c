/* The framing rules of RFC 9112 as bytes and the status that they must get. Each vector is
 * sent to a server, and cut at every byte through the reader alone. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "server/http/reader.h"
#include "server/http/router.h"
#include "tests/server/http/site.h"

#define H             "Host: x\r\n"
#define J             H "Content-Type: application/json\r\n"
#define GET(target)   "GET " target " HTTP/1.1\r\n" H "\r\n"
#define HEADER(line)  "GET /health HTTP/1.1\r\n" H line "\r\n\r\n"
#define LENGTH(value) "POST /echo HTTP/1.1\r\n" J "Content-Length:" value "\r\n\r\n{}"
#define CODING(lines) "POST /echo HTTP/1.1\r\n" J lines "\r\n\r\n0\r\n\r\n"
#define CHUNKED(body) "POST /echo HTTP/1.1\r\n" J "Transfer-Encoding: chunked\r\n\r\n" body

/* More than one status: the rule leaves a choice. */
static const struct vector {
    const char *bytes;
    int status, or ;
} vectors[] = {
    /* Served. */
    { GET("/health"), 200, 0 },
    { "\r\n\r\n" GET("/health"), 200, 0 },
    { GET("/health?"), 200, 0 },
    { GET("/health?a=b&c&=&&d=%20+"), 200, 0 },
    { GET("/h%65alth"), 200, 0 },
    { "GET /health HTTP/1.0\r\n\r\n", 200, 0 },
    { "GET /health HTTP/1.0\r\n" H "\r\n", 200, 0 },
    { "GET http://x/health HTTP/1.1\r\n" H "\r\n", 200, 0 },
    { "GET HTTP://X/health HTTP/1.1\r\n" H "\r\n", 200, 0 },
    { GET("http://x:80/health"), 200, 0 }, /* RFC 9112, 3.2.2: Host is ignored */
    { GET("http://y/health"), 200, 0 },
    { GET("http://[::1]:8080/health"), 200, 0 },
    { GET("http://y"), 404, 0 },
    { "GET http://x/health HTTP/1.0\r\n\r\n", 200, 0 },
    { "OPTIONS * HTTP/1.1\r\n" H "\r\n", 204, 0 },
    { "OPTIONS /health HTTP/1.1\r\n" H "\r\n", 204, 0 },
    { "HEAD /health HTTP/1.1\r\n" H "\r\n", 200, 0 },
    { "GET /health HTTP/1.1\r\nhOsT: x\r\n\r\n", 200, 0 },
    { "GET /health HTTP/1.1\r\nHost:x\r\n\r\n", 200, 0 },
    { "GET /health HTTP/1.1\r\nHost: \t x \t \r\n\r\n", 200, 0 },
    { "GET /health HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 200, 0 },
    { HEADER("X-Empty:"), 200, 0 },
    { HEADER("X-Empty: \t"), 200, 0 },
    { HEADER("X-High: \x80\xff"), 200, 0 },
    { HEADER("X-Tab: a\tb"), 200, 0 },
    { HEADER("!#$%&'*+-.^_`|~09aZ: all token characters"), 200, 0 },
    { HEADER("Connection: Upgrade\r\nUpgrade: websocket"), 200, 0 },
    { HEADER("Connection: keep-alive, x-y"), 200, 0 },
    { HEADER("Content-Length: 0"), 200, 0 },
    { LENGTH(" 2"), 200, 0 },
    { LENGTH("2"), 200, 0 },
    { LENGTH(" 2 "), 200, 0 },
    { LENGTH(" 0002"), 200, 0 },
    { CHUNKED("2\r\n{}\r\n0\r\n\r\n"), 200, 0 },
    { CHUNKED("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), 200, 0 },
    { CHUNKED("002\r\n{}\r\n000\r\n\r\n"), 200, 0 },
    { CHUNKED("2;a=b\r\n{}\r\n0;c\r\n\r\n"), 200, 0 },
    { CHUNKED("2;a=\"b\"\r\n{}\r\n0\r\n\r\n"), 200, 400 },
    { CHUNKED("2\r\n{}\r\n0\r\nX-Trailer: a\r\n\r\n"), 200, 0 },
    { CHUNKED("A\r\n[\"\r\n\r\n\r\n\"]\r\n0\r\n\r\n"), 200, 0 },
    { CHUNKED("a\r\n0123456789\r\n0\r\n\r\n"), 200, 0 },
    { CODING("Transfer-Encoding: CHUNKED"), 200, 0 },
    { CODING("Transfer-Encoding:\tchunked "), 200, 0 },

    /* Well framed, refused, kept. */
    { GET("/"), 404, 0 },
    { GET("/nothing"), 404, 0 },
    { GET("/health/"), 404, 0 },
    { GET("//health"), 404, 0 },
    { GET("/../health"), 404, 0 },
    { GET("/Health"), 404, 0 },
    { GET("/health%00"), 404, 0 },
    { GET("/items/"), 404, 0 },
    { GET("/items/a%2fb"), 404, 0 },
    { GET("/a/b/c/d/e/f/g/h/i/j/k"), 404, 0 },
    { "POST /health HTTP/1.1\r\n" H "\r\n", 405, 0 },
    { "PATCH /health HTTP/1.1\r\n" H "\r\n", 405, 0 },
    { "TRACE /health HTTP/1.1\r\n" H "\r\n", 405, 0 },
    { "HEAD /echo HTTP/1.1\r\n" H "\r\n", 405, 0 },
    { "POST /echo HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\n{}", 415, 0 },
    { "POST /echo HTTP/1.1\r\n" J "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415, 0 },

    /* Request line. */
    { "GET /health\r\n\r\n", 400, 505 },
    { "GET /health HTTP/2.0\r\n" H "\r\n", 505, 0 },
    { "GET /health HTTP/1.2\r\n" H "\r\n", 505, 0 },
    { "GET /health HTTP/0.9\r\n" H "\r\n", 505, 0 },
    { "GET /health HTTP/9.9\r\n" H "\r\n", 505, 0 },
    { "GET /health HTTP/1.10\r\n" H "\r\n", 400, 505 },
    { "GET /health HTTP/1\r\n" H "\r\n", 400, 505 },
    { "GET /health HTTP/ 1.1\r\n" H "\r\n", 400, 505 },
    { "GET /health http/1.1\r\n" H "\r\n", 400, 505 },
    { "GET /health HTTPS/1.1\r\n" H "\r\n", 400, 505 },
    { "GET /health RTSP/1.1\r\n" H "\r\n", 400, 505 },
    { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, 0 },
    { "GET  /health HTTP/1.1\r\n" H "\r\n", 400, 0 },
    { "GET /health  HTTP/1.1\r\n" H "\r\n", 400, 505 },
    { "GET\t/health HTTP/1.1\r\n" H "\r\n", 400, 0 },
    { "GET /health\tHTTP/1.1\r\n" H "\r\n", 400, 505 },
    { "GET /health HTTP/1.1 \r\n" H "\r\n", 400, 505 },
    { " GET /health HTTP/1.1\r\n" H "\r\n", 400, 0 },
    { "get /health HTTP/1.1\r\n" H "\r\n", 400, 0 },
    { "GETT /health HTTP/1.1\r\n" H "\r\n", 400, 0 },
    { "G@T /health HTTP/1.1\r\n" H "\r\n", 400, 0 },
    { "/health HTTP/1.1\r\n" H "\r\n", 400, 0 },
    { "HTTP/1.1 200 OK\r\n" H "\r\n", 400, 0 },
    { "GET /health HTTP/1.1\n" H "\r\n", 400, 0 },
    { "GET /health HTTP/1.1\r" H "\r\n", 400, 505 },
    { "GET /health HTTP/1.1\r\r\n" H "\r\n", 400, 505 },
    { "\n" GET("/health"), 400, 0 },
    { "\r" GET("/health"), 400, 0 },
    { "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, 0 },
    { "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405, 0 },

    /* Target. */
    { GET("health"), 400, 0 },
    { GET("*"), 400, 0 },
    { GET("/health#part"), 400, 0 },
    { GET("/he\x80lth"), 400, 0 },
    { GET("/he\x7flth"), 400, 0 },
    { GET("/he\x01lth"), 400, 0 },
    { GET("/health%"), 400, 0 },
    { GET("/health%4"), 400, 0 },
    { GET("/health%zz"), 400, 0 },
    { GET("/health?a=%g0"), 400, 0 },
    { GET("/health?a=%00"), 400, 0 },
    { GET("http://x@y/health"), 400, 0 },
    { GET("http:///health"), 400, 0 },
    { GET("http://x\"y/health"), 400, 0 },
    { "GET http://x/health HTTP/1.1\r\n\r\n", 400, 0 },
    { GET("ftp://x/health"), 400, 0 },

    /* Host. */
    { "GET /health HTTP/1.1\r\n\r\n", 400, 0 },
    { "GET /health HTTP/1.1\r\nHost:\r\n\r\n", 400, 0 },
    { HEADER("Host: x"), 400, 0 },
    { HEADER("hoST: y"), 400, 0 },
    { "GET /health HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400, 0 },
    { "GET /health HTTP/1.1\r\nHost: a b\r\n\r\n", 400, 0 },
    { "GET /health HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, 0 },
    { "GET /health HTTP/1.1\r\nHost: u@b\r\n\r\n", 400, 0 },

    /* Header lines. */
    { HEADER("NoColon"), 400, 0 },
    { HEADER(": no name"), 400, 0 },
    { HEADER("X Space: a"), 400, 0 },
    { HEADER("X-Space : a"), 400, 0 },
    { HEADER("X-Tab\t: a"), 400, 0 },
    { HEADER("X(par): a"), 400, 0 },
    { HEADER("X\x80: a"), 400, 0 },
    { HEADER("X-Folded: a\r\n b"), 400, 0 },
    { HEADER("X-Folded: a\r\n\tb"), 400, 0 },
    { HEADER("X-Cr: a\rb"), 400, 0 },
    { HEADER("X-Bell: a\x07"), 400, 0 },
    { HEADER("X-Del: a\x7f"), 400, 0 },
    { HEADER("X-Lf: a\nX-B: b"), 400, 0 },
    { "GET /health HTTP/1.1\r\n" H "X: a\r\n\n", 400, 0 },
    { "GET /health HTTP/1.1\r\n X: first line folded\r\n" H "\r\n", 400, 0 },

    /* Content-Length. */
    { LENGTH(" 2, 2"), 400, 0 },
    { LENGTH(" +2"), 400, 0 },
    { LENGTH(" -1"), 400, 0 },
    { LENGTH(" 0x2"), 400, 0 },
    { LENGTH(""), 400, 0 },
    { LENGTH(" 2 2"), 400, 0 },
    { LENGTH(" 2.0"), 400, 0 },
    { LENGTH(" two"), 400, 0 },
    { LENGTH(" 2\r\nContent-Length: 2"), 400, 0 },
    { LENGTH(" 2\r\nContent-Length: 3"), 400, 0 },
    { LENGTH(" 18446744073709551616"), 400, 0 },
    { LENGTH(" 18446744073709551615"), 413, 0 },
    { LENGTH(" 1048577"), 413, 0 },
    { "POST /echo HTTP/1.1\r\n" J "Content-Length : 2\r\n\r\n{}", 400, 0 },

    /* Transfer-Encoding. */
    { CODING("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400, 0 },
    { CODING("Transfer-Encoding: chunked\r\nContent-Length: 5"), 400, 0 },
    { CODING("Transfer-Encoding: xchunked"), 400, 0 },
    { CODING("Transfer-Encoding: chunkedx"), 400, 0 },
    { CODING("Transfer-Encoding: identity"), 400, 0 },
    { CODING("Transfer-Encoding:"), 400, 0 },
    { CODING("Transfer-Encoding: chunked, gzip"), 400, 0 },
    { CODING("Transfer-Encoding: chunked, chunked"), 400, 0 },
    { CODING("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400, 0 },
    { CODING("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), 400, 0 },
    { CODING("Transfer-Encoding: chunked,"), 400, 0 },
    { CODING("Transfer-Encoding: \"chunked\""), 400, 0 },
    { CODING("Transfer-Encoding: chunked;q=1"), 400, 0 },
    { CODING("Transfer-Encoding : chunked"), 400, 0 },
    { CODING("Transfer-Encoding: gzip, chunked"), 501, 0 },
    { CODING("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"), 501, 400 },
    { "POST /echo HTTP/1.0\r\n" J "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 0 },

    /* Chunks. */
    { CHUNKED("0x3\r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("-1\r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("+3\r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED(" 3\r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("3 \r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("\r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("g\r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("10000000000000001\r\nabc\r\n0\r\n\r\n"), 400, 413 },
    { CHUNKED("ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), 400, 413 },
    { CHUNKED("100001\r\nabc"), 413, 0 },
    { CHUNKED("3\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("3\r\nabc\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("3\r\nabc0\r\n\r\n"), 400, 0 },
    { CHUNKED("3\r\nabcd\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("3\r\nabcXY0\r\n\r\n"), 400, 0 },
    { CHUNKED("3;a\rX\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("3;a\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("3;\x01\r\nabc\r\n0\r\n\r\n"), 400, 0 },
    { CHUNKED("0\n\r\n"), 400, 0 },
    { CHUNKED("0\r\n\n"), 400, 0 },
    { CHUNKED("0\r\nX: a\n\r\n"), 400, 0 },
    { CHUNKED("0\r\nX: a\r\n b\r\n\r\n"), 400, 0 },
};

enum { VECTORS = sizeof(vectors) / sizeof(vectors[0]) };

static bool fits(const struct vector *v, int status)
{
    return status == v->status || (v->or &&status == v->or);
}

static void every_vector_gets_its_status(void **state)
{
    static struct site s;
    int wrong = 0;

    (void)state;
    site_start(&s, 1000, 1);
    for (int i = 0; i < VECTORS; i++) {
        const struct vector *v = &vectors[i];
        bool kept = v->status < 400 || v->status == 404 || v->status == 415 ||
                    (v->status == 405 && v->bytes[0] != 'C');
        struct peer p = peer_dial(&s);
        struct answer a;

        peer_say(&p, v->bytes);
        if (strncmp(v->bytes, "HEAD", 4) == 0)
            assert_true(peer_read_head_only(&p, &a));
        else if (!peer_read(&p, &a))
            fail_msg("vector %d got no answer: %s", i, v->bytes);
        if (!fits(v, a.status)) {
            print_error("vector %d got %d: %s\n", i, a.status, v->bytes);
            wrong++;
        }
        if (!kept) {
            assert_string_equal(answer_header(&a, "Connection"), "close");
            if (peer_read(&p, &a) || !p.eof)
                fail_msg("vector %d: not closed after one answer: %s", i, v->bytes);
        } else if (!strstr(v->bytes, "HTTP/1.0")) {
            peer_say(&p, GET("/health"));
            if (!peer_read(&p, &a) || a.status != 200)
                fail_msg("vector %d: the connection was not kept: %s", i, v->bytes);
        }
        peer_close(&p);
    }
    site_stop(&s);
    assert_int_equal(wrong, 0);
}

/* The same through the reader alone, cut into pieces of `piece` bytes after a first one. */
static int status_of(const char *bytes, size_t first, size_t piece)
{
    struct request request = { 0 };
    struct reader r;
    struct problem p = { 0 };
    const struct route *route;
    char allow[ALLOW_BYTES];
    enum reader_event event = READER_MORE;
    size_t len = strlen(bytes), at = 0, end = first < len ? first : len;
    int status = 0;

    reader_init(&r, &request);
    while (event == READER_MORE && at < len) {
        size_t used;
        char *copy = test_malloc(end - at); /* its bounds are watched */

        memcpy(copy, bytes + at, end - at);
        event = reader_feed(&r, copy, end - at, &used);
        test_free(copy);
        at += used;
        if (event == READER_HEAD) {
            event = READER_MORE;
            r.max_body = LIMIT_BODY_BYTES;
            if (!request_check(&request, &r.problem) || request.content_length > r.max_body) {
                event = READER_REFUSED;
                if (r.problem.what == PROBLEM_NONE)
                    r.problem.what = PROBLEM_PAYLOAD_TOO_LARGE;
            } else if (!request_has_body(&request)) {
                event = READER_DONE;
            }
        }
        if (at == end)
            end = end + piece < len ? end + piece : len;
    }
    if (event == READER_REFUSED)
        status = problem_row(r.problem.what)->status;
    else if (event == READER_DONE)
        status = router_find(site_routes, &request, &route, allow, &p)
                     ? 200
                     : problem_row(p.what)->status;
    request_finish(&request);
    return status;
}

static void where_bytes_are_cut_is_invisible(void **state)
{
    (void)state;
    for (int i = 0; i < VECTORS; i++) {
        const char *bytes = vectors[i].bytes;
        size_t len = strlen(bytes);
        int whole = status_of(bytes, len, len);

        for (size_t cut = 1; cut < len; cut++)
            if (status_of(bytes, cut, len) != whole)
                fail_msg("vector %d: %d whole, %d when cut at %zu: %s", i, whole,
                         status_of(bytes, cut, len), cut, bytes);
        if (status_of(bytes, 1, 1) != whole)
            fail_msg("vector %d: %d whole, %d byte by byte: %s", i, whole, status_of(bytes, 1, 1),
                     bytes);
    }
}

/* Names are compared decoded; an empty one is none, and what is plain takes any. */
static void a_query_gives_names_that_are_known_and_each_once(void **state)
{
    static const struct {
        const char *target;
        int status;
        const char *code;
    } recipes[] = {
        { "/items/a?q=1&q=1", 400, "duplicate_key" },
        { "/items/a?q=1&r=2&q", 400, "duplicate_key" },
        { "/items/a?q=1&%71=2", 400, "duplicate_key" },
        { "/items/a?q=q&r=q", 200, NULL },
        { "/items/a?&&=1&=2&q", 200, NULL },
        { "/items/a?Q=q", 400, "unknown_field" },
        { "/items/a?q=1&x", 400, "unknown_field" },
        { "/items/a?qq=1", 400, "unknown_field" },
        { "/items/a?q%20r=1", 400, "unknown_field" },
        { "/items/a?%ff=1", 400, "unknown_field" },
        { "/later?q", 400, "unknown_field" },
        { "/later?&", 200, NULL },
        { "/health?a=1&a=2", 200, NULL },
        { "/nothing?a=1&a=2", 404, "not_found" },
    };
    static struct site s;
    char bytes[128];
    struct answer a;
    struct peer p;

    (void)state;
    site_start(&s, 1000, 1);
    p = peer_dial(&s);
    for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++) {
        snprintf(bytes, sizeof(bytes), "GET %s HTTP/1.1\r\n" H "\r\n", recipes[i].target);
        peer_say(&p, bytes);
        if (!peer_read(&p, &a) || a.status != recipes[i].status)
            fail_msg("%s got %d", recipes[i].target, a.status);
        if (recipes[i].code)
            assert_true(answer_has_code(&a, recipes[i].code));
    }
    peer_close(&p);
    site_stop(&s);
}

static void a_nul_in_the_head_is_refused(void **state)
{
    static const char bytes[] = "GET /health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n";
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, 1);
    struct peer p = peer_dial(&s);
    peer_send(&p, bytes, sizeof(bytes) - 1);
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 400);
    assert_true(peer_sees_end(&p));
    peer_close(&p);
    site_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_vector_gets_its_status),
        cmocka_unit_test(where_bytes_are_cut_is_invisible),
        cmocka_unit_test(a_query_gives_names_that_are_known_and_each_once),
        cmocka_unit_test(a_nul_in_the_head_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
