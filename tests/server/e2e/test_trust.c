/* State files from elsewhere: sealed by us for their owner, or refused; narrow ones converted
 * when that is asked for, and only then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"

#define BINARY "Content-Type: application/octet-stream\r\n"
#define ALICE  "Authorization: Bearer alice-0123456789abcdef\r\n"
#define BOB    "Authorization: Bearer bob-fedcba9876543210\r\n"

enum { SEAL = 48 };

static struct live strict, lenient, other; /* other: another secret, and keys as the others */
static char keys[64], secret[64], another[64];

static void say(int port, const char *headers, const char *method, const char *path,
                const char *body)
{
    char all[256];
    struct response r;

    snprintf(all, sizeof(all), "%sContent-Type: application/json\r\n", headers);
    r = call_with(port, all, method, path, body);
    if (r.status != 200)
        fail_msg("%s %s: %d %s", method, path, r.status, r.body);
    response_finish(&r);
}

static struct state download(int port, const char *headers, const char *path)
{
    struct response r = call_with(port, headers, "GET", path, NULL);
    struct state s = { (unsigned char *)r.body, r.len };

    if (r.status != 200)
        fail_msg("%s: %d %s", path, r.status, r.body);
    r.body = NULL;
    response_finish(&r);
    return s;
}

static struct response upload(int port, const char *headers, const char *path,
                              const struct state *s)
{
    struct client c = client_dial(port);
    struct response r;
    char all[256];

    snprintf(all, sizeof(all), "%s" BINARY, headers);
    assert_true(client_ask(&c, "PUT", path, all, s->bytes, s->len));
    assert_true(client_read(&c, &r));
    client_close(&c);
    return r;
}

static void refuses(const struct live *l, const char *headers, const struct state *s, int status,
                    const char *code)
{
    struct response r = upload(l->port, headers, "/v1/sessions/refused/state", s);

    assert_refusal(&r, status, code, code);
    response_finish(&r);
}

static void takes(const struct live *l, const char *headers, const char *path,
                  const struct state *s)
{
    struct response r = upload(l->port, headers, path, s);

    if (r.status != 200)
        fail_msg("%s: %d %s", path, r.status, r.body);
    response_finish(&r);
}

static struct state alices(const struct live *l, const char *query)
{
    char path[96];

    snprintf(path, sizeof(path), "/v1/sessions/tale/state%s", query);
    return download(l->port, ALICE, path);
}

static void a_download_is_sealed_and_comes_back(void **unused)
{
    struct state s = alices(&strict, ""), again;

    (void)unused;
    assert_memory_equal(s.bytes + s.len - SEAL, "EDDYSEAL", 8);
    takes(&strict, ALICE, "/v1/sessions/back/state", &s);
    takes(&lenient, ALICE, "/v1/sessions/back/state", &s); /* the same secret elsewhere */
    again = download(strict.port, ALICE, "/v1/sessions/back/state");
    s.len -= SEAL;
    again.len -= SEAL;
    assert_same_state(&s, &again, "sealed");
    state_free(&s);
    state_free(&again);
}

static void what_is_not_sealed_by_us_is_refused(void **unused)
{
    struct state s = alices(&strict, ""), forged;

    (void)unused;
    refuses(&other, ALICE, &s, 403, "snapshot_seal");
    forged = state_copy(&s);
    forged.len -= SEAL;
    refuses(&strict, ALICE, &forged, 403, "snapshot_unsealed");
    takes(&lenient, ALICE, "/v1/sessions/unsealed/state", &forged);
    state_free(&forged);

    /* A change with its checksum made right again: only the seal tells. */
    forged = state_copy(&s);
    forged.bytes[forged.len - SEAL - 2] ^= 1;
    forged.len -= SEAL;
    state_seal(&forged);
    forged.len += SEAL;
    refuses(&strict, ALICE, &forged, 403, "snapshot_seal");
    refuses(&lenient, ALICE, &forged, 403, "snapshot_seal");
    forged.bytes[forged.len - 1] ^= 1;
    refuses(&strict, ALICE, &forged, 403, "snapshot_seal");
    state_free(&forged);
    state_free(&s);
}

static void another_owner_s_file_is_refused(void **unused)
{
    struct state s = alices(&strict, "");

    (void)unused;
    refuses(&strict, BOB, &s, 403, "snapshot_wrong_owner");
    state_set(&s, s.len - SEAL + 8, 7, 8);
    refuses(&strict, BOB, &s, 403, "snapshot_seal");
    state_free(&s);
}

/* A server without a secret cannot tell, and says nothing. */
static void without_a_secret_a_seal_is_no_hindrance(void **unused)
{
    struct state s = alices(&strict, ""), plain;
    struct live l;

    (void)unused;
    live_start(&l, MAMBA2, NULL);
    takes(&l, "", "/v1/sessions/here/state", &s);
    plain = state_of(l.port, "here");
    s.len -= SEAL;
    assert_same_state(&s, &plain, "carried over");
    refuses(&strict, ALICE, &plain, 403, "snapshot_unsealed");
    state_free(&plain);
    state_free(&s);
    assert_int_equal(live_stop(&l), 0);
}

static void a_narrow_file_comes_in_only_when_asked_for(void **unused)
{
    struct state wide = alices(&strict, "?dtype=f32"), narrow = alices(&strict, "?dtype=bf16");
    struct state first, second;
    size_t record;
    struct response r;

    (void)unused;
    state_record(&wide, &record);
    assert_int_equal(narrow.len, wide.len - record / 2);
    refuses(&strict, ALICE, &narrow, 422, "model_mismatch");
    takes(&strict, ALICE, "/v1/sessions/narrow/state?convert=true", &narrow);
    takes(&strict, ALICE, "/v1/sessions/wide/state?convert=true", &wide); /* nothing to convert */

    /* What was rounded once is not rounded again. */
    first = download(strict.port, ALICE, "/v1/sessions/narrow/state?dtype=bf16");
    narrow.len -= SEAL;
    first.len -= SEAL;
    assert_same_state(&narrow, &first, "narrow");
    second = download(strict.port, ALICE, "/v1/sessions/wide/state");
    second.len -= SEAL;
    wide.len -= SEAL;
    assert_same_state(&wide, &second, "wide");
    say(strict.port, ALICE, "POST", "/v1/sessions/narrow/append", "{\"ids\":[5,6]}");
    r = call_with(strict.port, ALICE, "GET", "/v1/sessions/tale/state?dtype=f16", NULL);
    assert_refusal(&r, 400, "invalid_parameter", "dtype");
    response_finish(&r);
    r = upload(strict.port, ALICE, "/v1/sessions/x/state?convert=yes", &wide);
    assert_refusal(&r, 400, "invalid_parameter", "convert");
    response_finish(&r);
    r = upload(strict.port, ALICE, "/v1/sessions/x/state?convert=true&convert=false", &wide);
    assert_refusal(&r, 400, "duplicate_key", "convert twice");
    assert_string_equal(text_of(item_of(r.json, "error"), "param"), "convert");
    response_finish(&r);
    state_free(&wide);
    state_free(&narrow);
    state_free(&first);
    state_free(&second);
}

/* In either direction, though one's file is twice as long as the other's. */
static void servers_of_both_state_formats_take_each_others_when_asked(void **unused)
{
    static const char *const dtype[] = { "f32", "bf16" };
    struct live l[2];

    (void)unused;
    for (int i = 0; i < 2; i++) {
        live_start(&l[i], "weights/demo", "--state-dtype", dtype[i], NULL);
        say(l[i].port, "", "POST", "/v1/sessions", "{\"id\":\"tale\"}");
        say(l[i].port, "", "POST", "/v1/sessions/tale/append", "{\"ids\":[5,6,7]}");
    }
    for (int i = 0; i < 2; i++) {
        struct state s = state_of(l[i].port, "tale");
        struct response r;

        r = upload(l[1 - i].port, "", "/v1/sessions/taken/state", &s);
        assert_refusal(&r, 422, "model_mismatch", dtype[i]);
        assert_non_null(strstr(r.body, "?convert=true"));
        response_finish(&r);
        takes(&l[1 - i], "", "/v1/sessions/taken/state?convert=true", &s);
        say(l[1 - i].port, "", "POST", "/v1/sessions/taken/append", "{\"ids\":[8]}");
        state_free(&s);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(live_stop(&l[i]), 0);
}

static int make_file(char path[64], const char *text)
{
    int fd;

    snprintf(path, 64, "/tmp/eddy-trust-XXXXXX");
    fd = mkstemp(path);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return -1;
    return close(fd);
}

static int start(void **unused)
{
    (void)unused;
    if (make_file(keys, "alice-0123456789abcdef alice\nbob-fedcba9876543210\n") ||
        make_file(secret, "a secret of at least thirty-two bytes\n") ||
        make_file(another, "one of more than thirty-two bytes, but not that\n"))
        return -1;
    live_start(&strict, MAMBA2, "--api-keys", keys, "--state-key", secret, NULL);
    live_start(&lenient, MAMBA2, "--api-keys", keys, "--state-key", secret, "--allow-unsealed",
               NULL);
    live_start(&other, MAMBA2, "--api-keys", keys, "--state-key", another, NULL);
    say(strict.port, ALICE, "POST", "/v1/sessions", "{\"id\":\"tale\"}");
    say(strict.port, ALICE, "POST", "/v1/sessions/tale/append", "{\"ids\":[5,6,7,8,9]}");
    return 0;
}

static int stop(void **unused)
{
    (void)unused;
    unlink(keys);
    unlink(secret);
    unlink(another);
    return live_stop(&strict) | live_stop(&lenient) | live_stop(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_download_is_sealed_and_comes_back),
        cmocka_unit_test(what_is_not_sealed_by_us_is_refused),
        cmocka_unit_test(another_owner_s_file_is_refused),
        cmocka_unit_test(without_a_secret_a_seal_is_no_hindrance),
        cmocka_unit_test(a_narrow_file_comes_in_only_when_asked_for),
        cmocka_unit_test(servers_of_both_state_formats_take_each_others_when_asked),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
