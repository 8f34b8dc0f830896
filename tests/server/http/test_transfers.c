/* The bytes of states on their way: claimed before they are there, refused above the bound, given
 * back however a transfer ends. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/limits.h"
#include "tests/server/http/site.h"

#define REQUEST(line) line " HTTP/1.1\r\nHost: x\r\n\r\n"
#define PUSH          "PUT /push HTTP/1.1\r\nHost: x\r\n"

enum { PUSHED = SITE_BODY_BYTES + SITE_PUSH_BYTES };

/* On a clock that runs BRISK times faster: 20 KiB a second at most, which is more than each body
 * must keep, and less than a transfer must that others wait for. */
enum { BRISK = 10, DRIP = 2048, DRIP_US = 10000, DRIPS_A_SECOND = 1000000 / DRIP_US / BRISK };

static struct site s;
static struct answer a;

static struct peer ask(const char *text)
{
    struct peer p = peer_dial(&s);

    peer_say(&p, text);
    return p;
}

static void expect_refusal(struct peer *p)
{
    assert_true(peer_read(p, &a));
    assert_int_equal(a.status, 503);
    assert_true(answer_has_code(&a, "too_many_transfers"));
    assert_string_equal(answer_header(&a, "Retry-After"), "1");
}

/* Its connection goes on, and so does what is no transfer. */
static void expect_service(struct peer *p)
{
    peer_say(p, REQUEST("GET /health"));
    assert_true(peer_read(p, &a));
    assert_int_equal(a.status, 200);
}

static void expect_push(const char *head)
{
    struct peer p = ask(head);
    char *body = calloc(1, SITE_BODY_BYTES);

    peer_send(&p, body, SITE_BODY_BYTES);
    free(body);
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 201);
    peer_close(&p);
}

/* Sent in part: it stays with the server. */
static struct peer begin_push(const char *head)
{
    struct peer p = ask(head);

    peer_say(&p, "part");
    return p;
}

static int start(void **state)
{
    (void)state;
    site_start(&s, 64, 1);
    return 0;
}

static int start_brisk(void **state)
{
    (void)state;
    site_start(&s, 64, BRISK);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    assert_true(site_holds(&s, 0));
    site_stop(&s);
    return 0;
}

static void answers_that_nobody_reads_are_bounded(void **state)
{
    struct peer slow[2], p;

    (void)state;
    slow[0] = ask(REQUEST("GET /pull"));
    assert_true(site_holds(&s, SITE_BIG_BYTES)); /* the answer is all that is left of it */
    slow[1] = ask(REQUEST("GET /pull"));
    assert_true(site_holds(&s, 2 * SITE_BIG_BYTES));
    p = ask(REQUEST("GET /pull"));
    expect_refusal(&p);
    expect_service(&p);

    peer_close(&slow[0]);
    assert_true(site_holds(&s, SITE_BIG_BYTES));
    peer_say(&p, "GET /pull HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_true(site_holds(&s, 2 * SITE_BIG_BYTES));
    assert_true(peer_sees_end(&p));
    assert_true(site_holds(&s, SITE_BIG_BYTES)); /* what was read is not held */
    peer_close(&p);
    peer_close(&slow[1]);
}

static void a_body_is_claimed_before_it_comes(void **state)
{
    static const char head[] = PUSH "Content-Length: 4194304\r\n\r\n";
    struct peer slow[3], p;
    char *body = calloc(1, SITE_BODY_BYTES);

    (void)state;
    for (int i = 0; i < 3; i++)
        slow[i] = begin_push(head);
    assert_true(site_holds(&s, 3 * PUSHED));

    p = ask(PUSH "Content-Length: 4194304\r\nExpect: 100-continue\r\n\r\n");
    expect_refusal(&p); /* without a byte of it */
    peer_close(&p);
    p = ask(head);
    peer_send(&p, body, SITE_BODY_BYTES);
    expect_refusal(&p);
    expect_service(&p);
    peer_close(&p);
    free(body);

    peer_close(&slow[0]);
    assert_true(site_holds(&s, 2 * PUSHED));
    expect_push(head);
    assert_true(site_holds(&s, 2 * PUSHED));
    peer_close(&slow[1]);
    peer_close(&slow[2]);
}

static void a_body_claims_what_it_may_become(void **state)
{
    struct peer p = begin_push(PUSH "Content-Length: 100\r\n\r\n");

    (void)state;
    assert_true(site_holds(&s, 100 + SITE_PUSH_BYTES));
    peer_close(&p);
    assert_true(site_holds(&s, 0));
    p = begin_push(PUSH "Transfer-Encoding: chunked\r\n\r\n64\r\n");
    assert_true(site_holds(&s, PUSHED)); /* nobody said how long it is */
    peer_close(&p);
    p = ask(PUSH "Content-Length: 18446744073709551615\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 413);
    peer_close(&p);
}

static void one_that_is_alone_is_taken_whatever_it_weighs(void **state)
{
    struct peer p = ask(REQUEST("GET /pull-all")), slow;

    (void)state;
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 200);
    slow = begin_push(PUSH "Content-Length: 100\r\n\r\n");
    assert_true(site_holds(&s, 100 + SITE_PUSH_BYTES));
    peer_say(&p, REQUEST("GET /pull-all"));
    expect_refusal(&p);
    peer_close(&slow);
    assert_true(site_holds(&s, 0));
    peer_say(&p, REQUEST("GET /pull-all"));
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 200);
    peer_close(&p);
}

static void a_client_that_leaves_gives_back_what_a_handler_worked_with(void **state)
{
    struct peer p = ask(REQUEST("GET /pull-never"));

    (void)state;
    assert_true(site_holds(&s, SITE_PULL_BYTES));
    peer_close(&p);
    assert_true(site_reaches(&s.gone, 1));
}

/* So little is under way in the kernel that the server sees each drip being taken. */
static struct peer begin_slow_pull(void)
{
    const int segment = 1400, window = 8192;
    struct peer p = peer_open();

    setsockopt(p.fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof(segment));
    setsockopt(p.fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof(window));
    peer_connect(&p, &s);
    peer_say(&p, REQUEST("GET /pull"));
    return p;
}

/* What has come, a drip at most. */
static size_t take_drip(struct peer *p)
{
    char drip[DRIP];
    const ssize_t n = recv(p->fd, drip, sizeof(drip), MSG_DONTWAIT);

    return n > 0 ? (size_t)n : 0;
}

static size_t take_rest(struct peer *p)
{
    static char bytes[1 << 16];
    size_t all = 0;
    ssize_t n;

    while ((n = recv(p->fd, bytes, sizeof(bytes), 0)) > 0)
        all += (size_t)n;
    return all;
}

static void slow_readers_go_on_until_others_want_the_room(void **state)
{
    struct peer slow[2] = { begin_slow_pull(), begin_slow_pull() }, p;
    size_t got = 0;

    (void)state;
    assert_true(site_holds(&s, 2 * SITE_BIG_BYTES));
    for (int i = 0; i < 3 * LIMIT_STALL_SECONDS / 2 * DRIPS_A_SECOND; i++) {
        got += take_drip(&slow[0]) + take_drip(&slow[1]);
        usleep(DRIP_US);
    }
    assert_true(site_holds(&s, 2 * SITE_BIG_BYTES));

    p = peer_dial(&s);
    do {
        got += take_drip(&slow[0]) + take_drip(&slow[1]);
        usleep(DRIP_US);
        peer_say(&p, REQUEST("GET /pull"));
        assert_true(peer_read(&p, &a));
    } while (a.status == 503);
    assert_int_equal(a.status, 200);
    for (int i = 0; i < 2; i++) {
        peer_half_close(&slow[i]);
        got += take_rest(&slow[i]);
        peer_close(&slow[i]);
    }
    assert_true(got < 2 * SITE_BIG_BYTES);
    peer_close(&p);
}

static void slow_senders_make_room_and_quick_ones_go_on(void **state)
{
    static const char head[] = PUSH "Content-Length: 4194304\r\n\r\n";
    struct peer slow[2] = { ask(head), ask(head) }, quick = ask(head), p = peer_dial(&s);
    char *body = calloc(1, SITE_BODY_BYTES);
    size_t sent = 0;

    (void)state;
    peer_send(&quick, body, SITE_BODY_BYTES / 2);
    assert_true(site_holds(&s, 3 * PUSHED));
    do {
        peer_send(&slow[0], body, DRIP);
        peer_send(&slow[1], body, DRIP);
        peer_send(&quick, body, DRIP);
        sent += DRIP;
        usleep(DRIP_US);
        peer_say(&p, PUSH "Content-Length: 0\r\n\r\n");
        assert_true(peer_read(&p, &a));
    } while (a.status == 503);
    assert_int_equal(a.status, 201);
    assert_true(sent < SITE_BODY_BYTES / 2);

    peer_send(&quick, body, SITE_BODY_BYTES / 2 - sent);
    assert_true(peer_read(&quick, &a));
    assert_int_equal(a.status, 201);
    for (int i = 0; i < 2; i++)
        peer_close(&slow[i]);
    peer_close(&quick);
    peer_close(&p);
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers_that_nobody_reads_are_bounded, start, stop),
        cmocka_unit_test_setup_teardown(a_body_is_claimed_before_it_comes, start, stop),
        cmocka_unit_test_setup_teardown(a_body_claims_what_it_may_become, start, stop),
        cmocka_unit_test_setup_teardown(one_that_is_alone_is_taken_whatever_it_weighs, start, stop),
        cmocka_unit_test_setup_teardown(a_client_that_leaves_gives_back_what_a_handler_worked_with,
                                        start, stop),
        cmocka_unit_test_setup_teardown(slow_readers_go_on_until_others_want_the_room, start_brisk,
                                        stop),
        cmocka_unit_test_setup_teardown(slow_senders_make_room_and_quick_ones_go_on, start_brisk,
                                        stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
