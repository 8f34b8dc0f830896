/* State files that are damaged, forged or of another model, and readers that stall, against the
 * real server.
 *
 * The files are mutations of a good one; calm.h watches over the rest. */
#include <math.h>
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

#define COMPLETIONS "/v1/completions"
#define BINARY      "Content-Type: application/octet-stream\r\n"

static struct live server;
static struct calm calm;
static struct state good; /* of a session that has said something */

static struct response put(struct client *c, const void *bytes, size_t len)
{
    struct response r;

    assert_true(client_ask(c, "PUT", "/v1/sessions/forged/state", BINARY, bytes, len));
    assert_true(client_read(c, &r));
    return r;
}

/* What fits another server is 422, what fits none 400. */
static int status_of(const char *code)
{
    bool elsewhere = !strcmp(code, "model_mismatch") || !strcmp(code, "unsupported_version");

    return elsewhere ? 422 : 400;
}

/* Refused, on a connection that is kept. code NULL: any. */
static void refuse(struct client *c, const struct state *s, size_t len, const char *code,
                   const char *where)
{
    struct response r = put(c, s->bytes, len);
    char kept[128];

    snprintf(kept, sizeof(kept), "%s", code ? code : text_of(item_of(r.json, "error"), "code"));
    assert_refusal(&r, status_of(kept), kept, where);
    response_finish(&r);
}

/* A copy with one number changed, sealed again, is refused. */
static void refuse_number(struct client *c, size_t at, uint64_t value, size_t bytes,
                          const char *code)
{
    struct state s = state_copy(&good);
    char where[64];

    snprintf(where, sizeof(where), "at %zu: %llx", at, (unsigned long long)value);
    state_set(&s, at, value, bytes);
    state_seal(&s);
    refuse(c, &s, s.len, code, where);
    state_free(&s);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    struct client c = client_dial(server.port);

    (void)state;
    for (size_t len = 0; len < good.len; len += len < STATE_HEADER ? 1 : 997)
        refuse(&c, &good, len, "snapshot_invalid", "69");
    refuse(&c, &good, good.len - 1, "snapshot_invalid", "69");
    client_close(&c);
    live_is_well(&server);
}

static void a_file_that_goes_on_is_refused(void **state)
{
    static char mebibyte[1 << 20];
    struct client c = client_dial(server.port);
    struct state longer = { calloc(1, good.len + 1), good.len + 1 };
    struct response r;

    (void)state;
    assert_non_null(longer.bytes);
    memcpy(longer.bytes, good.bytes, good.len);
    refuse(&c, &longer, longer.len, "snapshot_invalid", "70: one byte more");
    state_set(&longer, STATE_LENGTH_AT, longer.len, 8);
    state_seal(&longer);
    refuse(&c, &longer, longer.len, "snapshot_invalid", "70: one byte more, and said so");
    state_free(&longer);

    /* A gibibyte in chunks: refused long before its end. */
    assert_true(client_ask(&c, "PUT", "/v1/sessions/forged/state",
                           BINARY "Transfer-Encoding: chunked\r\n", NULL, 0));
    for (int i = 0; i < 1024; i++)
        if (!client_send(&c, "100000\r\n", 8) || !client_send(&c, mebibyte, sizeof(mebibyte)) ||
            !client_send(&c, "\r\n", 2))
            break;
    if (client_read(&c, &r)) /* a reset may overtake the answer */
        assert_refusal(&r, 413, "payload_too_large", "70: 1 GiB");
    response_finish(&r);
    client_close(&c);
    live_is_well(&server);
}

static void a_flipped_bit_is_refused(void **state)
{
    struct client c = client_dial(server.port);
    uint32_t seed = 71;

    (void)state;
    for (size_t bit = 0; bit < (size_t)8 * STATE_HEADER; bit++) {
        struct state s = state_copy(&good);

        s.bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        refuse(&c, &s, s.len, NULL, "71: header");
        state_free(&s);
    }
    for (int i = 0; i < 300; i++) {
        struct state s = state_copy(&good);
        size_t at;

        seed = seed * 1664525u + 1013904223u;
        at = STATE_HEADER + (seed >> 3) % (s.len - STATE_HEADER);
        s.bytes[at] ^= (unsigned char)(1u << (seed & 7));
        refuse(&c, &s, s.len, "snapshot_checksum", "71: body");
        state_free(&s);
    }
    client_close(&c);
    live_is_well(&server);
}

/* The checksum is right, the numbers are not. */
static void a_forged_number_is_refused(void **state)
{
    static const uint64_t sizes[] = { 0,          1,          4,          0x7fffffff,
                                      0xffffffff, 1ull << 63, UINT64_MAX, UINT64_MAX - 3 };
    static const size_t length_at[] = { 12, STATE_LENGTH_AT, STATE_DESCRIPTION_AT, STATE_TOKENS_AT,
                                        STATE_RECORD_AT };
    struct client c = client_dial(server.port);

    (void)state;
    for (size_t i = 0; i < sizeof(length_at) / sizeof(length_at[0]); i++)
        for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
            refuse_number(&c, length_at[i], sizes[k], length_at[i] == 12 ? 4 : 8,
                          "snapshot_invalid");
    refuse_number(&c, STATE_TAIL_AT, 257, 4, "snapshot_invalid");
    refuse_number(&c, STATE_TAIL_AT, UINT32_MAX, 4, "snapshot_invalid");
    refuse_number(&c, STATE_POSITION_AT, 0, 8, NULL);
    refuse_number(&c, STATE_POSITION_AT, UINT64_MAX, 8, "snapshot_invalid");
    refuse_number(&c, 88, 256, 4,
                  "snapshot_invalid"); /* the pending token: not in the vocabulary */
    refuse_number(&c, 88, 0x80000000, 4, "snapshot_invalid");
    refuse_number(&c, 96, 2, 4, "snapshot_invalid");
    refuse_number(&c, 0, 0x5441545359444445 ^ 1, 8, "snapshot_invalid");
    refuse_number(&c, 8, 0, 4, "unsupported_version");
    refuse_number(&c, 8, 65535, 4, "unsupported_version");
    refuse_number(&c, STATE_LAYOUT_AT, 1, 8, "model_mismatch");
    refuse_number(&c, STATE_FINGERPRINT_AT, 1, 8, "model_mismatch");
    client_close(&c);
    live_is_well(&server);
}

/* A record of another length, in a file that is otherwise sound. */
static void a_record_of_another_length_is_refused(void **state)
{
    struct client c = client_dial(server.port);
    struct state s = state_copy(&good);

    (void)state;
    s.len -= 4;
    state_set(&s, STATE_LENGTH_AT, s.len, 8);
    state_set(&s, STATE_RECORD_AT, state_number(&s, STATE_RECORD_AT) - 4, 8);
    state_seal(&s);
    refuse(&c, &s, s.len, "snapshot_shape", "72");
    state_free(&s);
    client_close(&c);
}

static void a_number_that_is_none_is_refused(void **state)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    struct client c = client_dial(server.port);

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        for (int last = 0; last < 2; last++) {
            struct state s = state_copy(&good);
            size_t bytes;
            unsigned char *record = state_record(&s, &bytes);

            memcpy(record + (last ? bytes - sizeof(float) : 0), &bad[i], sizeof(float));
            state_seal(&s);
            refuse(&c, &s, s.len, "state_not_finite", "73");
            state_free(&s);
        }
    }
    client_close(&c);
    live_is_well(&server);
}

/* Finite, and far from anything a model makes. What comes of it is that session's alone:
 * any answer that is one, from a server that goes on. */
static void a_state_of_extremes_harms_nobody(void **state)
{
    static const float extreme[] = { 1e38f, -3.4e38f, 1e-45f, 0 };
    struct client c = client_dial(server.port);

    (void)state;
    for (size_t i = 0; i < sizeof(extreme) / sizeof(extreme[0]); i++) {
        struct state s = state_copy(&good);
        struct response r;
        size_t bytes;
        unsigned char *record = state_record(&s, &bytes);

        for (size_t at = 0; at < bytes; at += sizeof(float))
            memcpy(record + at, &extreme[i], sizeof(float));
        state_seal(&s);
        r = put(&c, s.bytes, s.len);
        assert_true(r.status == 200 || r.status == 400 || r.status == 422);
        if (r.status == 200) {
            struct response answer =
                call(server.port, "POST", COMPLETIONS,
                     "{\"session_id\":\"forged\",\"prompt\":\"a\",\"max_tokens\":8,"
                     "\"logprobs\":3}");

            assert_non_null(answer.json);
            assert_true(answer.status == 200 || answer.status == 422 || answer.status == 500);
            response_finish(&answer);
            cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/forged", NULL));
        }
        response_finish(&r);
        state_free(&s);
        live_is_well(&server);
    }
    client_close(&c);
}

static void a_state_of_another_model_is_refused(void **state)
{
    struct client c = client_dial(server.port);
    struct live other;
    struct state s;

    (void)state;
    live_start(&other, "tests/data/mamba2-tiny", NULL);
    cJSON_Delete(ask(other.port, "POST", "/v1/sessions", "{\"id\":\"foreign\"}"));
    cJSON_Delete(ask(other.port, "POST", "/v1/sessions/foreign/append", "{\"text\":\"abc\"}"));
    s = state_of(other.port, "foreign");
    refuse(&c, &s, s.len, s.len > good.len + (128 << 10) ? NULL : "model_mismatch", "74");
    state_free(&s);
    assert_int_equal(live_stop(&other), 0);
    client_close(&c);
}

/* Nothing that was refused made a session. */
static void what_was_refused_left_nothing(void **state)
{
    (void)state;
    refused(server.port, 404, "session_not_found", "GET", "/v1/sessions/forged", NULL);
}

static void a_file_sent_again_and_again_meets_the_quota(void **state)
{
    enum { CLIENTS = 25, ROUNDS = 40 };
    struct client client[CLIENTS];
    int taken = 0, over = 0;
    char(*id)[80] = calloc(CLIENTS * ROUNDS, sizeof(*id));

    (void)state;
    assert_non_null(id);
    for (int i = 0; i < CLIENTS; i++)
        client[i] = client_dial(server.port);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CLIENTS; i++)
            assert_true(
                client_ask(&client[i], "POST", "/v1/snapshots", BINARY, good.bytes, good.len));
        for (int i = 0; i < CLIENTS; i++) {
            struct response r;

            assert_true(client_read(&client[i], &r));
            if (r.status == 200) {
                assert_string_equal(text_of(r.json, "object"), "snapshot");
                snprintf(id[taken++], sizeof(id[0]), "%s", text_of(r.json, "id"));
            } else {
                assert_refusal(&r, 429, "snapshot_quota", "76");
                over++;
            }
            response_finish(&r);
        }
    }
    assert_true(taken > 0 && over > 0);
    live_is_well(&server);
    for (int i = 0; i < taken; i++) {
        char path[128];

        snprintf(path, sizeof(path), "/v1/snapshots/%s", id[i]);
        cJSON_Delete(ask(server.port, "DELETE", path, NULL));
    }
    for (int i = 0; i < CLIENTS; i++)
        client_close(&client[i]);
    free(id);
    assert_true(live_metric(&server, "eddy_snapshots") == 0);
}

static void a_file_cannot_be_named(void **state)
{
    (void)state;
    refused(server.port, 400, "unknown_field", "POST", "/v1/sessions/source/snapshots",
            "{\"filename\":\"../../etc/passwd\"}");
    refused(server.port, 400, "unknown_field", "POST", "/v1/sessions/source/restore",
            "{\"filename\":\"a/b\"}");
    refused(server.port, 400, "invalid_parameter", "POST", "/v1/sessions/source/restore",
            "{\"snapshot\":\"../../etc/passwd\"}");
    refused(server.port, 415, "unsupported_media_type", "POST", "/v1/snapshots", "{}");
    live_is_well(&server);
}

/* Streams nobody reads. They are cut, and their sessions are where they were. */
static void a_reader_that_stalls_loses_its_stream_only(void **state)
{
    enum { READERS = 4 };
    struct client client[READERS];
    char body[160], path[64];

    (void)state;
    for (int i = 0; i < READERS; i++) {
        const int small = 4096;

        snprintf(path, sizeof(path), "stalled-%d", i);
        cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"%s\"}", path));
        snprintf(body, sizeof(body),
                 "{\"session_id\":\"%s\",\"prompt\":\"a\",\"max_tokens\":60000,\"stream\":true,"
                 "\"ignore_eos\":true,\"logprobs\":20}",
                 path);
        client[i] = client_dial(server.port);
        setsockopt(client[i].fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
        assert_true(client_ask(&client[i], "POST", COMPLETIONS, NULL, body, strlen(body)));
    }
    for (int i = 0; i < READERS; i++) {
        cJSON *json;
        bool busy;

        snprintf(path, sizeof(path), "/v1/sessions/stalled-%d", i);
        do {
            usleep(20000);
            json = ask(server.port, "GET", path, NULL);
            busy = flag_of(json, "busy");
            assert_int_equal(number_of(json, "version"), 0);
            cJSON_Delete(json);
        } while (busy); /* the test has a time limit */
        client_close(&client[i]);
        snprintf(path, sizeof(path), "stalled-%d", i);
        json = ask(server.port, "POST", COMPLETIONS,
                   "{\"session_id\":\"%s\",\"prompt\":\"a\",\"max_tokens\":4}", path);
        assert_int_equal(number_of(item_of(json, "session"), "version"), 1);
        cJSON_Delete(json);
    }
    live_is_well(&server);
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    calm_end(&calm);
}

static int start(void **state)
{
    (void)state;
    live_start(&server, MAMBA, "--host-memory", "8M", "--cache-memory", "0", NULL);
    calm_begin(&calm, &server);
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"source\"}"));
    cJSON_Delete(ask(server.port, "POST", COMPLETIONS,
                     "{\"session_id\":\"source\",\"prompt\":\"eddy\",\"max_tokens\":20,"
                     "\"ignore_eos\":true}"));
    good = state_of(server.port, "source");
    return 0;
}

static int stop(void **state)
{
    (void)state;
    state_free(&good);
    assert_int_equal(live_stop(&server), 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_file_that_goes_on_is_refused),
        cmocka_unit_test(a_flipped_bit_is_refused),
        cmocka_unit_test(a_forged_number_is_refused),
        cmocka_unit_test(a_record_of_another_length_is_refused),
        cmocka_unit_test(a_number_that_is_none_is_refused),
        cmocka_unit_test(a_state_of_another_model_is_refused),
        cmocka_unit_test(what_was_refused_left_nothing),
        cmocka_unit_test(a_state_of_extremes_harms_nobody),
        cmocka_unit_test(a_file_sent_again_and_again_meets_the_quota),
        cmocka_unit_test(a_file_cannot_be_named),
        cmocka_unit_test(a_reader_that_stalls_loses_its_stream_only),
        cmocka_unit_test(nothing_is_left_behind),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
