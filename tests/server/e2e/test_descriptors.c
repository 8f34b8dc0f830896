/* A server that may have few files open: its connections leave some to the sessions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/folder.h"

enum { FILES = 1024, IDLE = FILES - 16 }; /* as many systems have it, and what the test may open */

static void take_turn(struct client *c, const char *session)
{
    struct response r;
    char body[128];

    snprintf(body, sizeof(body),
             "{\"session_id\":\"%s\",\"prompt\":[5,6,7],\"max_tokens\":2,\"ignore_eos\":true}",
             session);
    assert_true(client_ask(c, "POST", "/v1/completions", NULL, body, strlen(body)));
    assert_true(client_read(c, &r));
    assert_int_equal(r.status, 200);
    response_finish(&r);
}

static void assert_on_the_disk(struct client *c, const char *path)
{
    struct response r;

    assert_true(client_ask(c, "GET", path, NULL, NULL, 0));
    assert_true(client_read(c, &r));
    assert_int_equal(r.status, 200);
    assert_string_equal(text_of(r.json, "residency"), "disk");
    response_finish(&r);
}

static void idle_connections_leave_files_to_sessions(void **unused)
{
    static struct client idle[IDLE];
    struct client c;
    struct live l;

    (void)unused;
    live_start(&l, RWKV7, "--state-dir", folder, "--slots", "1", "--max-batch", "1",
               "--host-memory", "0", "--cache-memory", "0", NULL);
    c = client_dial(l.port);
    for (int i = 0; i < 2; i++) {
        cJSON_Delete(ask(l.port, "POST", "/v1/sessions", "{\"id\":\"%s\"}", i ? "b" : "a"));
        take_turn(&c, i ? "b" : "a");
    }
    assert_on_the_disk(&c, "/v1/sessions/a");
    for (int i = 0; i < IDLE; i++)
        idle[i] = client_dial(l.port);
    take_turn(&c, "a");
    for (int i = 0; i < IDLE; i++)
        client_close(&idle[i]);
    assert_true(live_metric(&l, "eddy_connections_refused_total") > 0);
    client_close(&c);
    assert_int_equal(live_stop(&l), 0);
}

int main(void)
{
    const struct rlimit few = { FILES, FILES };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(idle_connections_leave_files_to_sessions, folder_make,
                                        folder_remove),
    };

    setrlimit(RLIMIT_NOFILE, &few); /* the server's, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
