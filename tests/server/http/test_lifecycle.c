/* How a server begins and ends, and that nothing of it is left: site_stop() fails a test
 * whose loop still has a handle. */
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/error.h"
#include "config/limits.h"
#include "tests/server/http/site.h"

#define REQUEST(line) line " HTTP/1.1\r\nHost: x\r\n\r\n"

static void a_server_that_served_nobody_is_freed(void **state)
{
    struct http_options o = { .host = "localhost", .max_connections = 10, .routes = site_routes };
    struct http_server *server;
    struct error err;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    server = http_server_open(&loop, &o, &err);
    assert_non_null(server);
    assert_true(http_server_port(server) > 0);
    http_server_close(server);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void ipv6_is_listened_on(void **state)
{
    struct http_options o = { .host = "::1", .max_connections = 10, .routes = site_routes };
    struct http_server *server;
    struct error err;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    server = http_server_open(&loop, &o, &err);
    if (server)
        assert_true(http_server_port(server) > 0);
    else
        assert_int_equal(err.code, ERR_IO); /* a machine without IPv6 */
    http_server_close(server);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void an_address_that_cannot_be_had_is_an_error(void **state)
{
    struct http_options o = { .host = "example.org", .max_connections = 10, .routes = site_routes };
    struct http_server *first;
    struct error err;
    uv_loop_t loop;

    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_null(http_server_open(&loop, &o, &err));
    assert_int_equal(err.code, ERR_INPUT);
    o.host = "127.0.0.1";
    o.port = 65536;
    assert_null(http_server_open(&loop, &o, &err));
    assert_int_equal(err.code, ERR_INPUT);
    o.port = 0;
    first = http_server_open(&loop, &o, &err);
    o.port = http_server_port(first);
    assert_null(http_server_open(&loop, &o, &err));
    assert_int_equal(err.code, ERR_IO);
    http_server_close(first);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void while_loading_only_plain_routes_are_served(void **state)
{
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, 1);
    site_set_ready(&s, false);
    struct peer p = peer_dial(&s);
    peer_say(&p, REQUEST("GET /health"));
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 200);
    peer_say(&p, REQUEST("GET /items/1"));
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 503);
    assert_true(answer_has_code(&a, "loading"));
    assert_string_equal(answer_header(&a, "Retry-After"), "1");
    site_set_ready(&s, true);
    peer_say(&p, REQUEST("GET /items/1"));
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 200);
    peer_close(&p);
    site_stop(&s);
}

static bool is_refused(const struct site *s)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)s->port),
                              .sin_addr = { htonl(INADDR_LOOPBACK) } };
    struct peer p = peer_open();
    bool refused = connect(p.fd, (struct sockaddr *)&to, sizeof(to)) < 0 && errno == ECONNREFUSED;

    peer_close(&p);
    return refused;
}

static void draining_finishes_what_runs_and_takes_nothing_new(void **state)
{
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, 1);
    s.later_waits = true;
    struct peer running = peer_dial(&s), idle = peer_dial(&s), late = peer_dial(&s);
    peer_say(&late, "GET /health HTTP/1.1\r\n");
    peer_say(&running, REQUEST("GET /later"));
    assert_true(site_reaches(&s.handled, 1));
    assert_true(site_settles(&s, 3));
    site_drain(&s);
    assert_true(peer_sees_end(&idle));
    assert_true(is_refused(&s));
    peer_say(&late, "Host: x\r\n\r\n");
    assert_true(peer_read(&late, &a));
    assert_int_equal(a.status, 503);
    assert_true(answer_has_code(&a, "shutting_down"));
    assert_true(peer_sees_end(&late));
    s.later_waits = false;
    assert_true(peer_read(&running, &a));
    assert_string_equal(a.body, "later");
    assert_string_equal(answer_header(&a, "Connection"), "close");
    assert_true(peer_sees_end(&running));
    peer_close(&running);
    peer_close(&idle);
    peer_close(&late);
    site_stop(&s);
}

static void aborting_ends_what_draining_waits_for(void **state)
{
    static struct site s;

    (void)state;
    for (int drained_first = 0; drained_first < 2; drained_first++) {
        site_start(&s, 10, 1);
        struct peer a = peer_dial(&s), b = peer_dial(&s), c = peer_dial(&s);
        peer_say(&a, REQUEST("GET /never"));
        peer_say(&b, REQUEST("GET /open"));
        peer_say(&c, "GET /he");
        assert_true(site_reaches(&s.handled, 2));
        if (drained_first)
            site_drain(&s);
        site_abort(&s);
        assert_int_equal(s.gone, 2);
        assert_true(peer_sees_end(&a));
        assert_true(peer_sees_end(&b));
        assert_true(peer_sees_end(&c));
        peer_close(&a);
        peer_close(&b);
        peer_close(&c);
    }
}

/* The clock runs fast: the client takes nothing for LIMIT_STALL_SECONDS of it. */
static void a_reader_that_stalls_is_given_up(void **state)
{
    static struct site s;

    (void)state;
    site_start(&s, 10, 100);
    struct peer p = peer_dial(&s);
    peer_say(&p, REQUEST("GET /flood"));
    assert_true(site_reaches(&s.gone, 1));
    assert_true(s.peak <= LIMIT_WRITE_QUEUE_BYTES + 17 * 1024);
    peer_close(&p);
    site_stop(&s);
}

static void a_client_that_does_not_close_is_closed(void **state)
{
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, 100);
    struct peer p = peer_dial(&s);
    peer_say(&p, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_true(site_settles(&s, 0));
    peer_close(&p);
    site_stop(&s);
}

static void every_answer_is_reported_once(void **state)
{
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, 1);
    struct peer p = peer_dial(&s);
    peer_say(&p, REQUEST("GET /health") REQUEST("GET /nothing") REQUEST("GET /events")
                     REQUEST("OPTIONS *") "nonsense\r\n\r\n");
    for (int i = 0; i < 5; i++)
        assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 400);
    assert_true(peer_sees_end(&p));
    peer_close(&p);
    p = peer_dial(&s);
    peer_say(&p, REQUEST("GET /never"));
    assert_true(site_reaches(&s.handled, 2));
    peer_close(&p);
    assert_true(site_settles(&s, 0));
    site_stop(&s);
    assert_int_equal(s.answered, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_server_that_served_nobody_is_freed),
        cmocka_unit_test(ipv6_is_listened_on),
        cmocka_unit_test(an_address_that_cannot_be_had_is_an_error),
        cmocka_unit_test(while_loading_only_plain_routes_are_served),
        cmocka_unit_test(draining_finishes_what_runs_and_takes_nothing_new),
        cmocka_unit_test(aborting_ends_what_draining_waits_for),
        cmocka_unit_test(a_reader_that_stalls_is_given_up),
        cmocka_unit_test(a_client_that_does_not_close_is_closed),
        cmocka_unit_test(every_answer_is_reported_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
