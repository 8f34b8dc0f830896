/* Everything a client can exhaust: bytes, counts, time, connections, descriptors. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "config/limits.h"
#include "tests/server/http/site.h"

#define GET_HEALTH "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
#define POST(path) "POST " path " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

/* Clock speeds where deadlines are waited for, and where they are to be kept: how fast what is sent
 * arrives is up to what else the machine does. */
enum { FAST = 100, BRISK = 10 };

static char *repeat(const char *piece, size_t times)
{
    size_t len = strlen(piece);
    char *text = malloc(len * times + 1);

    for (size_t i = 0; i < times; i++)
        memcpy(text + i * len, piece, len);
    text[len * times] = '\0';
    return text;
}

static long resident_kib(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long all = 0, resident = 0;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &all, &resident), 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

/* Sends before + times x piece, expects the refusal and the close, and that others are
 * still served. */
static void flood(struct site *s, const char *before, const char *piece, size_t times, int status,
                  const char *code)
{
    struct peer p = peer_dial(s), other;
    char *text = repeat(piece, times);
    struct answer a;

    peer_say(&p, before);
    peer_say(&p, text);
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, status);
    assert_true(answer_has_code(&a, code));
    assert_false(peer_read(&p, &a));
    assert_true(p.eof && !p.reset);
    peer_close(&p);
    free(text);

    other = peer_dial(s);
    peer_say(&other, GET_HEALTH);
    assert_true(peer_read(&other, &a));
    assert_int_equal(a.status, 200);
    peer_close(&other);
}

static void each_part_of_a_request_has_its_limit(void **state)
{
    static struct site s;
    char fields[200 * 16] = "";
    const char *chunked = POST("/echo") "Transfer-Encoding: chunked\r\n\r\n";
    double cpu;
    long memory;

    (void)state;
    site_start(&s, 100, 1);
    memory = resident_kib();
    cpu = cpu_seconds();
    for (int i = 0; i < 200; i++)
        sprintf(fields + strlen(fields), "h%d: v\r\n", i);

    flood(&s, "GET /", "a", 100000, 414, "uri_too_long");
    flood(&s, "GET /health HTTP/1.1\r\nHost: x\r\n", fields, 1, 431, "header_fields_too_large");
    flood(&s, "GET /health HTTP/1.1\r\nHost: x\r\nX: ", "a", 1 << 20, 431,
          "header_fields_too_large");
    flood(&s, "GET /health HTTP/1.1\r\nHost: x\r\n", "a", 1 << 20, 431, "header_fields_too_large");
    flood(&s, "GET /health HTTP/1.1\r\nHost: x\r\nX:", " ", 1 << 20, 431,
          "header_fields_too_large");
    flood(&s, "", "\r\n", 32 << 20, 400, "bad_request");
    flood(&s, chunked, "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nA\r\n", 1000, 413,
          "chunk_extension_too_large");
    flood(&s, POST("/echo") "Transfer-Encoding: chunked\r\n\r\n1;", "a", 5000000, 413,
          "chunk_extension_too_large");
    flood(&s, POST("/echo") "Transfer-Encoding: chunked\r\n\r\n", "0", 100000, 413,
          "chunk_extension_too_large");
    flood(&s, chunked, "1\r\nA\r\n", 1000000, 413, "payload_too_large");
    flood(&s, POST("/echo") "Transfer-Encoding: chunked\r\n\r\n0\r\n", "a:b\r\n", 100000, 431,
          "header_fields_too_large");
    flood(&s, POST("/echo") "Content-Length: 1048577\r\n\r\n", "a", 1048577, 413,
          "payload_too_large");
    flood(&s, POST("/echo") "Content-Length: 18446744073709551615\r\n\r\n", "a", 1, 413,
          "payload_too_large");

    assert_int_equal(s.handled, 13); /* the others' /health */
    cpu = cpu_seconds() - cpu;
    print_message("# floods: %.2f s of CPU, %ld KiB more resident\n", cpu, resident_kib() - memory);
    site_stop(&s);
}

static void a_body_at_the_limit_of_its_route_is_taken(void **state)
{
    static struct site s;
    struct answer a;
    char *body = repeat("b", 4 << 20);
    char head[128];

    (void)state;
    site_start(&s, 10, 1);
    struct peer p = peer_dial(&s);
    for (int over = 0; over < 2; over++) {
        sprintf(head, "PUT /blob HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
                (4 << 20) + over);
        peer_say(&p, head);
        peer_say(&p, body);
        assert_true(peer_read(&p, &a));
        assert_int_equal(a.status, over ? 413 : 201);
        if (!over)
            assert_string_equal(a.body, "4194304");
    }
    assert_true(peer_sees_end(&p));
    peer_close(&p);
    free(body);
    site_stop(&s);
}

static void a_client_that_asks_first_is_told_before_its_body(void **state)
{
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, 1);
    struct peer p = peer_dial(&s);
    peer_say(&p, POST("/echo") "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 100);
    peer_say(&p, "{}");
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 200);

    peer_say(&p, POST("/echo") "Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 413);
    assert_true(peer_sees_end(&p));
    peer_close(&p);

    p = peer_dial(&s);
    peer_say(&p, POST("/nowhere") "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 404);
    assert_true(peer_sees_end(&p));
    peer_close(&p);
    site_stop(&s);
}

static void a_body_that_ends_early_reaches_no_handler(void **state)
{
    static const char *const heads[] = { "Content-Length: 100\r\n\r\n0123456789",
                                         "Transfer-Encoding: chunked\r\n\r\n64\r\n0123456789",
                                         "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" };
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, 1);
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        struct peer p = peer_dial(&s);

        peer_say(&p, POST("/echo"));
        peer_say(&p, heads[i]);
        peer_half_close(&p);
        assert_true(peer_read(&p, &a));
        assert_int_equal(a.status, 400);
        assert_true(answer_has_code(&a, "incomplete_body"));
        assert_true(peer_sees_end(&p));
        peer_close(&p);
    }
    assert_int_equal(s.handled, 0);
    site_stop(&s);
}

static void a_head_that_drips_is_given_up_after_its_deadline(void **state)
{
    static struct site s;
    struct answer a;
    time_t before = time(NULL);

    (void)state;
    site_start(&s, 10, FAST);
    struct peer p = peer_dial(&s);
    peer_say(&p, "GET /health HTTP/1.1\r\n");
    for (int i = 0; i < 40; i++) {
        peer_say(&p, "X: y\r\n");
        usleep(10000);
    }
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 408);
    assert_true(answer_has_code(&a, "request_timeout"));
    assert_true(peer_sees_end(&p));
    peer_close(&p);
    assert_true(time(NULL) - before < LIMIT_HEADER_SECONDS);
    site_stop(&s);
}

static void a_body_that_drips_is_given_up(void **state)
{
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, FAST);
    struct peer p = peer_dial(&s);
    peer_say(&p, POST("/echo") "Content-Length: 100000\r\n\r\n");
    for (int i = 0; i < 50; i++) {
        peer_say(&p, "x");
        usleep(10000);
    }
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 408);
    assert_true(peer_sees_end(&p));
    peer_close(&p);
    assert_int_equal(s.handled, 0);
    site_stop(&s);
}

/* At that speed the rate asks for 5 KiB in each half second but the first. */
static void a_body_that_keeps_the_rate_is_taken(void **state)
{
    static struct site s;
    struct answer a;
    char *piece = repeat("x", 5000);

    (void)state;
    site_start(&s, 10, BRISK);
    struct peer p = peer_dial(&s);
    peer_say(&p, "PUT /blob HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n");
    for (int i = 0; i < 100; i++) {
        peer_say(&p, piece);
        usleep(8000);
    }
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 201);
    peer_close(&p);
    free(piece);
    site_stop(&s);
}

static void a_silent_connection_is_closed(void **state)
{
    static struct site s;
    struct answer a;

    (void)state;
    site_start(&s, 10, FAST);
    struct peer fresh = peer_dial(&s), used = peer_dial(&s);
    peer_say(&used, GET_HEALTH);
    assert_true(peer_read(&used, &a));
    assert_true(peer_sees_end(&fresh));
    assert_true(peer_sees_end(&used));
    peer_close(&fresh);
    peer_close(&used);
    site_stop(&s);
}

static void clients_above_the_limit_are_told_and_closed(void **state)
{
    static struct site s;
    struct peer in[8], out[100];
    struct answer a;

    (void)state;
    site_start(&s, 8, 1);
    for (int i = 0; i < 8; i++)
        in[i] = peer_dial(&s);
    assert_true(site_settles(&s, 8));
    for (int i = 0; i < 100; i++) {
        out[i] = peer_dial(&s);
        peer_say(&out[i], GET_HEALTH);
    }
    assert_true(peer_read(&out[0], &a));
    assert_int_equal(a.status, 503);
    assert_true(answer_has_code(&a, "too_many_connections"));
    assert_string_equal(answer_header(&a, "Retry-After"), "1");
    for (int i = 0; i < 100; i++) {
        assert_true(peer_sees_end(&out[i]));
        peer_close(&out[i]);
    }
    for (int i = 0; i < 8; i++) {
        peer_say(&in[i], GET_HEALTH);
        assert_true(peer_read(&in[i], &a));
        assert_int_equal(a.status, 200);
    }
    peer_close(&in[0]);
    assert_true(site_settles(&s, 7));
    in[0] = peer_dial(&s);
    peer_say(&in[0], GET_HEALTH);
    assert_true(peer_read(&in[0], &a));
    assert_int_equal(a.status, 200);
    for (int i = 0; i < 8; i++)
        peer_close(&in[i]);
    site_stop(&s);
}

static void running_out_of_descriptors_is_survived(void **state)
{
    enum { PEERS = 40, ROOM = 10 };
    static struct site s;
    struct rlimit old, low;
    struct peer peers[PEERS];
    struct answer a;
    double cpu;

    (void)state;
    site_start(&s, 1000, 1);
    for (int i = 0; i < PEERS; i++)
        peers[i] = peer_open();
    getrlimit(RLIMIT_NOFILE, &old);
    low = old;
    low.rlim_cur = (rlim_t)peers[PEERS - 1].fd + ROOM;
    setrlimit(RLIMIT_NOFILE, &low);
    for (int i = 0; i < PEERS; i++)
        peer_connect(&peers[i], &s);
    cpu = cpu_seconds();
    usleep(500000);
    assert_true(cpu_seconds() - cpu < 0.1);
    assert_true(site_settles(&s, ROOM - 1));
    peer_say(&peers[0], GET_HEALTH);
    assert_true(peer_read(&peers[0], &a));
    assert_int_equal(a.status, 200);
    for (int i = 0; i < PEERS; i++)
        peer_close(&peers[i]);
    setrlimit(RLIMIT_NOFILE, &old);

    assert_true(site_settles(&s, 0));
    struct peer p = peer_dial(&s);
    peer_say(&p, GET_HEALTH);
    assert_true(peer_read(&p, &a));
    assert_int_equal(a.status, 200);
    peer_close(&p);
    site_stop(&s);
}

static void two_thousand_connections_cost_little(void **state)
{
    enum { MANY = 2000 };
    static struct peer peers[MANY];
    static struct site s;
    static struct answer a;
    long before, after;

    (void)state;
    site_start(&s, 10000, 1);
    before = resident_kib();
    for (int i = 0; i < MANY; i++) {
        peers[i] = peer_dial(&s);
        peer_say(&peers[i], GET_HEALTH);
        assert_true(peer_read(&peers[i], &a));
        free(peers[i].bytes);
        peers[i].bytes = NULL;
        peers[i].len = peers[i].cap = 0;
    }
    assert_true(site_settles(&s, MANY));
    after = resident_kib();
    print_message("# %d idle connections: %ld bytes each\n", MANY, (after - before) * 1024 / MANY);
    for (int i = 0; i < MANY; i++)
        peer_close(&peers[i]);
    site_stop(&s);
    assert_true(after - before < MANY * 20); /* KiB: 10,000 may cost 200 MB */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_thousand_connections_cost_little), /* first: the heap is fresh */
        cmocka_unit_test(each_part_of_a_request_has_its_limit),
        cmocka_unit_test(a_body_at_the_limit_of_its_route_is_taken),
        cmocka_unit_test(a_client_that_asks_first_is_told_before_its_body),
        cmocka_unit_test(a_body_that_ends_early_reaches_no_handler),
        cmocka_unit_test(a_head_that_drips_is_given_up_after_its_deadline),
        cmocka_unit_test(a_body_that_drips_is_given_up),
        cmocka_unit_test(a_body_that_keeps_the_rate_is_taken),
        cmocka_unit_test(a_silent_connection_is_closed),
        cmocka_unit_test(clients_above_the_limit_are_told_and_closed),
        cmocka_unit_test(running_out_of_descriptors_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
