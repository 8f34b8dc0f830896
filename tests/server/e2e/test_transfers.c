/* Many clients that take or send a state at once, and slowly: what the server holds for them is
 * bounded, the rest is refused, and a single transfer is always possible. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/calm.h"
#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"

#define STATE  "/v1/sessions/source/state"
#define BINARY "Content-Type: application/octet-stream\r\n"

enum { ROOM = 8 << 20, UNSENT = 1000 };

static struct live server;
static struct calm calm;
static struct state file; /* of "source" */

static void make_source(const struct live *l)
{
    cJSON_Delete(ask(l->port, "POST", "/v1/sessions", "{\"id\":\"source\"}"));
    cJSON_Delete(ask(l->port, "POST", "/v1/sessions/source/append", "{\"text\":\"once\"}"));
}

static void expect_busy(const struct response *r)
{
    char value[256];

    assert_refusal(r, 503, "too_many_transfers", "beyond the bound");
    assert_true(response_header(r, "retry-after", value));
    assert_string_equal(value, "1");
}

static void expect_bounded(long rss)
{
    assert_true(live_metric(&server, "eddy_transfer_bytes") > 0);
    assert_true(live_metric(&server, "eddy_transfer_bytes") <= ROOM);
    if (!live_sanitized())
        assert_in_range(live_rss(&server), 0, rss + 2 * ROOM);
}

/* Whether the server wants the body. */
static bool begin_upload_as(const char *key, struct client *c, int port, const char *method,
                            const char *path)
{
    char headers[256];
    struct response r;
    bool taken;

    snprintf(headers, sizeof(headers), BINARY "%sContent-Length: %zu\r\nExpect: 100-continue\r\n",
             key, file.len);
    *c = client_dial(port);
    assert_true(client_ask(c, method, path, headers, NULL, 0));
    assert_true(client_read(c, &r));
    taken = r.status == 100;
    if (!taken)
        expect_busy(&r);
    response_finish(&r);
    return taken;
}

static bool begin_upload(struct client *c, const char *method, const char *path)
{
    return begin_upload_as("", c, server.port, method, path);
}

static void uploads_that_stall_are_bounded(void **state)
{
    enum { CLIENTS = 64 };
    const long rss = live_rss(&server);
    struct client taken[CLIENTS], c;
    int n = 0;

    (void)state;
    for (int i = 0; i < CLIENTS; i++) {
        if (begin_upload(&c, i % 2 ? "POST" : "PUT",
                         i % 2 ? "/v1/snapshots" : "/v1/sessions/other/state")) {
            assert_true(client_send(&c, file.bytes, file.len - UNSENT));
            taken[n++] = c;
        } else {
            client_close(&c);
        }
    }
    assert_in_range(n, 1, ROOM / file.len);
    assert_int_equal(live_metric(&server, "eddy_transfers_refused_total"), CLIENTS - n);
    expect_bounded(rss);
    live_is_well(&server);

    for (int i = 0; i < n; i++) {
        struct response r;

        assert_true(client_send(&taken[i], file.bytes + file.len - UNSENT, UNSENT));
        assert_true(client_read(&taken[i], &r));
        assert_int_equal(r.status, 200);
        response_finish(&r);
        client_close(&taken[i]);
    }
    assert_true(live_reaches(&server, "eddy_transfer_bytes", 0, 10));
    assert_true(begin_upload(&c, "PUT", "/v1/sessions/other/state"));
    client_reset(&c);
    assert_true(live_reaches(&server, "eddy_transfer_bytes", 0, 10));
}

/* Several at once on each connection: the kernel has room for the first of them. */
static void downloads_that_nobody_reads_are_bounded(void **state)
{
    enum { CLIENTS = 32, EACH = 6 };
    const long rss = live_rss(&server);
    struct client client[CLIENTS];
    int whole = 0, refused_ones = 0;

    (void)state;
    for (int i = 0; i < CLIENTS; i++) {
        client[i] = client_dial(server.port);
        for (int k = 0; k < EACH; k++)
            assert_true(client_ask(&client[i], "GET", STATE, NULL, NULL, 0));
    }
    for (int i = 0; i < CLIENTS; i++) { /* each has got something */
        char first;

        assert_int_equal(recv(client[i].fd, &first, 1, MSG_PEEK), 1);
    }
    expect_bounded(rss);
    live_is_well(&server);

    for (int i = 0; i < CLIENTS * EACH; i++) {
        struct response r;

        assert_true(client_read(&client[i / EACH], &r));
        if (r.status == 200) {
            const struct state got = { (unsigned char *)r.body, r.len };

            assert_same_state(&got, &file, "a slow download");
            whole++;
        } else {
            expect_busy(&r);
            refused_ones++;
        }
        response_finish(&r);
    }
    for (int i = 0; i < CLIENTS; i++)
        client_close(&client[i]);
    print_message("# %d downloads, %d refused\n", whole, refused_ones);
    assert_true(whole > 0 && refused_ones > 0);
    assert_true(live_reaches(&server, "eddy_transfer_bytes", 0, 10));
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    cJSON *list = ask(server.port, "GET", "/v1/snapshots", NULL);
    const cJSON *item;

    cJSON_ArrayForEach(item, item_of(list, "data"))
    {
        char path[128];

        snprintf(path, sizeof(path), "/v1/snapshots/%s", text_of(item, "id"));
        cJSON_Delete(ask(server.port, "DELETE", path, NULL));
    }
    cJSON_Delete(list);
    calm_end(&calm);
}

static struct response put(const struct live *l, const char *path, const struct state *s)
{
    struct client c = client_dial(l->port);
    struct response r;

    assert_true(client_ask(&c, "PUT", path, BINARY, s->bytes, s->len));
    assert_true(client_read(&c, &r));
    client_close(&c);
    return r;
}

static void a_transfer_that_is_alone_is_always_possible(void **state)
{
    struct live other;
    struct state wide, narrow;
    struct response r;

    (void)state;
    live_start(&other, DEMO, "--transfer-memory", "0", NULL);
    make_source(&other);
    wide = state_of(other.port, "source");
    narrow = state_download(other.port, STATE "?dtype=bf16");
    assert_true(narrow.len < wide.len);
    r = put(&other, "/v1/sessions/a/state", &wide);
    assert_int_equal(r.status, 200);
    response_finish(&r);
    r = put(&other, "/v1/sessions/b/state?convert=true", &narrow);
    assert_int_equal(r.status, 200);
    response_finish(&r);
    state_free(&wide);
    state_free(&narrow);
    assert_int_equal(live_metric(&other, "eddy_transfers_refused_total"), 0);
    assert_int_equal(live_stop(&other), 0);
}

/* Each takes all that it gets, and holds it. */
static void a_key_leaves_room_for_others(void **state)
{
    enum { KEYS = 4, MOST = 16 };
    char path[] = "/tmp/eddy-transfers-XXXXXX", key[64];
    struct client held[KEYS][MOST];
    int got[KEYS] = { 0 };
    struct live other;
    FILE *keys = fdopen(mkstemp(path), "w");

    (void)state;
    for (int i = 0; i < KEYS; i++)
        fprintf(keys, "key-%d-0123456789abcdef\n", i);
    fclose(keys);
    live_start(&other, DEMO, "--api-keys", path, "--transfer-memory", "32M", NULL);
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "Authorization: Bearer key-%d-0123456789abcdef\r\n", i);
        while (got[i] < MOST &&
               begin_upload_as(key, &held[i][got[i]], other.port, "POST", "/v1/snapshots"))
            got[i]++;
        assert_in_range(got[i], 1, MOST - 1);
        client_close(&held[i][got[i]]);
    }
    print_message("# uploads of the keys at once: %d %d %d %d\n", got[0], got[1], got[2], got[3]);
    assert_true(got[0] > 1);
    for (int i = 0; i < KEYS; i++)
        for (int k = 0; k < got[i]; k++)
            client_reset(&held[i][k]);
    assert_true(live_reaches(&other, "eddy_transfer_bytes", 0, 10));
    assert_int_equal(live_stop(&other), 0);
    unlink(path);
}

static int start(void **state)
{
    (void)state;
    live_start(&server, DEMO, "--transfer-memory", "8M", "--cache-memory", "0", NULL);
    make_source(&server);
    file = state_of(server.port, "source");
    calm_begin(&calm, &server);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    state_free(&file);
    assert_int_equal(live_stop(&server), 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uploads_that_stall_are_bounded),
        cmocka_unit_test(downloads_that_nobody_reads_are_bounded),
        cmocka_unit_test(nothing_is_left_behind),
        cmocka_unit_test(a_transfer_that_is_alone_is_always_possible),
        cmocka_unit_test(a_key_leaves_room_for_others),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
