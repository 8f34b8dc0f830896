/* DNS rebinding: a page whose own name was made to mean this machine says so in Host alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"

#define KEY     "Authorization: Bearer alice-0123456789abcdef\r\n"
#define ORIGINS "https://chat.example:8443,http://[fd00::1],http://b.example"

static struct live bare, naming, any, keyed;
static char key_file[64];

/* headers: Host among them. */
static struct response send_to(const struct live *l, const char *line, const char *headers)
{
    struct client c = client_dial(l->port);
    struct response r;
    char head[512];
    int n = snprintf(head, sizeof(head), "%s\r\n%s\r\n", line, headers);

    assert_true(client_send(&c, head, (size_t)n));
    assert_true(client_read(&c, &r));
    client_close(&c);
    return r;
}

static void takes(const struct live *l, const char *headers)
{
    struct response r = send_to(l, "GET /v1/sessions HTTP/1.1", headers);

    if (r.status != 200)
        fail_msg("%s: %d", headers, r.status);
    response_finish(&r);
}

static void refuses(const struct live *l, const char *line, const char *headers)
{
    struct response r = send_to(l, line, headers);

    assert_refusal(&r, 403, "host_not_allowed", headers);
    response_finish(&r);
}

static void names_of_this_machine_are_taken(void **unused)
{
    static const char *const hosts[] = {
        "Host: localhost\r\n",      "Host: localhost:8080\r\n",
        "Host: LocalHost:1\r\n",    "Host: a.b.localhost:1\r\n",
        "Host: 127.0.0.1:8080\r\n", "Host: 127.255.0.9\r\n",
        "Host: [::1]\r\n",          "Host: [::1]:8080\r\n",
        "Host: [0:0::0:1]:80\r\n",  "Host: [::ffff:127.0.0.1]\r\n",
    };
    struct response r = send_to(&bare, "GET /v1/sessions HTTP/1.0", ""); /* no browser */

    (void)unused;
    assert_int_equal(r.status, 200);
    response_finish(&r);
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++)
        takes(&bare, hosts[i]);
}

static const char *const others[] = {
    "Host: evil.example\r\n",
    "Host: evil.example:8080\r\nOrigin: http://evil.example:8080\r\n",
    "Host: localhost.evil.example\r\n",
    "Host: notlocalhost\r\n",
    "Host: .localhost\r\n",
    "Host: 127.0.0.1.evil.example\r\n",
    "Host: 127.0.0.1:80.evil.example\r\n",
    "Host: 127.1\r\n",
    "Host: 0.0.0.0:8080\r\n",
    "Host: 10.0.0.1\r\n",
    "Host: [::]\r\n",
    "Host: [::1\r\n",
    "Host: [::1].evil.example\r\n",
    "Host: [::2]\r\n",
    "Host: ::1\r\n",
    "Host: :8080\r\n",
};
enum { OTHERS = sizeof(others) / sizeof(others[0]) };

static void other_names_are_refused(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < OTHERS; i++) {
        refuses(&bare, "GET /v1/sessions HTTP/1.1", others[i]);
        refuses(&naming, "GET /v1/sessions HTTP/1.1", others[i]);
    }
    refuses(&bare, "GET /v1/sessions HTTP/1.0", others[0]);
    refuses(&bare, "POST /v1/sessions HTTP/1.1", others[1]);
    refuses(&bare, "DELETE /v1/sessions/a HTTP/1.1", others[0]);
    refuses(&bare, "GET /metrics HTTP/1.1", others[0]);
}

/* What a target names is whom it asks for, whatever Host says beside it. */
static void a_targets_host_counts_before_host(void **unused)
{
    struct response r = send_to(&bare, "GET http://localhost:1/v1/sessions HTTP/1.1", others[0]);

    (void)unused;
    assert_int_equal(r.status, 200);
    response_finish(&r);
    refuses(&bare, "GET http://evil.example/v1/sessions HTTP/1.1", "Host: localhost\r\n");
    refuses(&bare, "GET http://evil.example:80/v1/sessions HTTP/1.0", "");
}

/* Whoever has such a page's name could call through the page. */
static void hosts_of_pages_that_may_call_are_taken(void **unused)
{
    static const char *const hosts[] = { "Host: chat.example\r\n", "Host: Chat.Example:80\r\n",
                                         "Host: [fd00::1]:8080\r\n", "Host: b.example\r\n",
                                         "Host: localhost\r\n" };

    (void)unused;
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++)
        takes(&naming, hosts[i]);
    refuses(&naming, "GET /v1/sessions HTTP/1.1", "Host: chat.exampl\r\n");
    refuses(&naming, "GET /v1/sessions HTTP/1.1", "Host: chat.example.evil\r\n");
    refuses(&naming, "GET /v1/sessions HTTP/1.1", "Host: https\r\n");
    takes(&any, others[0]);
}

/* Where any page may call, whose head was refused before its Origin came reads why. */
static void any_page_reads_why_its_head_was_refused(void **unused)
{
    struct response r = send_to(&any, "GET / HTTP/1.1", "Host: localhost\r\nX\x01Y: z\r\n");
    char value[256];

    (void)unused;
    assert_int_equal(r.status, 400);
    assert_true(response_header(&r, "access-control-allow-origin", value));
    assert_string_equal(value, "*");
    response_finish(&r);
}

/* A page has no key. */
static void with_keys_any_name_is_taken(void **unused)
{
    (void)unused;
    takes(&keyed, "Host: eddy.example\r\n" KEY);
}

static int start(void **unused)
{
    static const char key[] = "alice-0123456789abcdef\n";
    int fd;

    (void)unused;
    snprintf(key_file, sizeof(key_file), "/tmp/eddy-hosts-XXXXXX");
    fd = mkstemp(key_file);
    if (fd < 0 || write(fd, key, sizeof(key) - 1) != sizeof(key) - 1)
        return -1;
    close(fd);
    live_start(&bare, MAMBA2, NULL);
    live_start(&naming, MAMBA2, "--allow-origin", ORIGINS, NULL);
    live_start(&any, MAMBA2, "--allow-origin", "*", NULL);
    live_start(&keyed, MAMBA2, "--api-keys", key_file, NULL);
    return 0;
}

static int stop(void **unused)
{
    (void)unused;
    unlink(key_file);
    return live_stop(&bare) || live_stop(&naming) || live_stop(&any) || live_stop(&keyed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_this_machine_are_taken),
        cmocka_unit_test(other_names_are_refused),
        cmocka_unit_test(a_targets_host_counts_before_host),
        cmocka_unit_test(hosts_of_pages_that_may_call_are_taken),
        cmocka_unit_test(any_page_reads_why_its_head_was_refused),
        cmocka_unit_test(with_keys_any_name_is_taken),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
