/* Who sends a whole context again waits for its new part only; nobody else learns of it, and
 * nothing that is said changes. */
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
#include "tests/server/folder.h"

#define JSON        "Content-Type: application/json\r\n"
#define ALICE       "Authorization: Bearer alice-0123456789abcdef\r\n" JSON
#define BOB         "Authorization: Bearer bob-fedcba9876543210\r\n" JSON
#define COMPLETIONS "/v1/completions"
#define CHAT        "/v1/chat/completions"

enum { IDS = 120, BODY = 4096 };

static char key_file[64];

/* The ids of the context number `which`, as JSON. */
static void put_ids(char *out, int which)
{
    size_t len = (size_t)sprintf(out, "[");

    for (int i = 0; i < IDS; i++)
        len +=
            (size_t)sprintf(out + len, "%s%d", i ? "," : "", 5 + (i * 7 + which * 31 + i / 9) % 90);
    strcpy(out + len, "]");
}

/* A completion of a context, or what else is in it. */
static void put_body(char body[BODY], int which, const char *fields)
{
    char ids[BODY / 2];

    put_ids(ids, which);
    snprintf(body, BODY,
             "{\"prompt\":%s,\"max_tokens\":6,\"temperature\":0.9,\"seed\":4,\"logprobs\":2,"
             "\"ignore_eos\":true%s}",
             ids, fields);
}

static struct response post(const struct live *l, const char *who, const char *path,
                            const char *body)
{
    struct response r = call_with(l->port, who, "POST", path, body);

    if (r.status != 200)
        fail_msg("%d %s", r.status, r.body);
    return r;
}

static int cached_in(const cJSON *answer)
{
    return (int)number_of(item_of(item_of(answer, "usage"), "prompt_tokens_details"),
                          "cached_tokens");
}

/* How many tokens were spared. */
static int complete(const struct live *l, const char *who, int which, const char *fields)
{
    char body[BODY];
    struct response r;
    int cached;

    put_body(body, which, fields);
    r = post(l, who, COMPLETIONS, body);
    cached = cached_in(r.json);
    response_finish(&r);
    return cached;
}

static void begin(struct live *l)
{
    live_start(l, MAMBA2, "--api-keys", key_file, "--chat-template", "chatml", "--model-name",
               "demo", NULL);
}

/* The answer without what no two answers share. */
static char *plain_answer(const struct response *r)
{
    cJSON *copy = cJSON_Duplicate(r->json, true);
    char *text;

    cJSON_DeleteItemFromObject(copy, "id");
    cJSON_DeleteItemFromObject(copy, "created");
    text = cJSON_PrintUnformatted(copy);
    cJSON_Delete(copy);
    return text;
}

/* The names of its headers, in order. */
static void header_names(const struct response *r, char names[1024])
{
    names[0] = 0;
    for (const char *line = strstr(r->head, "\r\n"); line && line[2];
         line = strstr(line + 2, "\r\n")) {
        size_t len = strcspn(line + 2, ":\r\n"), used = strlen(names);

        snprintf(names + used, 1024 - used, "%.*s;", (int)len, line + 2);
    }
}

/* What bob is answered after alice has sent the same is what he is answered by a server that
 * she never came to; and every token of his is taken in. */
static void check_strangers(const char *path, const char *body)
{
    struct live shared, alone;
    struct response hers, again, his, expected;
    char names[2][1024], *text[2];
    double taken, spared;

    begin(&shared);
    begin(&alone);
    hers = post(&shared, ALICE, path, body);
    assert_int_equal(cached_in(hers.json), 0);
    again = post(&shared, ALICE, path, body);
    assert_true(cached_in(again.json) > 16);
    taken = live_metric(&shared, "eddy_prompt_tokens_total");
    spared = live_metric(&shared, "eddy_cached_tokens_total");
    his = post(&shared, BOB, path, body);
    expected = post(&alone, BOB, path, body);
    assert_int_equal(cached_in(his.json), 0);
    assert_true(live_metric(&shared, "eddy_prompt_tokens_total") - taken ==
                number_of(item_of(his.json, "usage"), "prompt_tokens"));
    assert_true(live_metric(&shared, "eddy_cached_tokens_total") == spared);
    text[0] = plain_answer(&his);
    text[1] = plain_answer(&expected);
    assert_string_equal(text[0], text[1]);
    header_names(&his, names[0]);
    header_names(&expected, names[1]);
    assert_string_equal(names[0], names[1]);
    free(text[0]);
    free(text[1]);
    response_finish(&his);
    his = post(&shared, BOB, path, body); /* his own he finds */
    assert_int_equal(cached_in(his.json), cached_in(again.json));
    response_finish(&hers);
    response_finish(&again);
    response_finish(&his);
    response_finish(&expected);
    assert_int_equal(live_stop(&shared), 0);
    assert_int_equal(live_stop(&alone), 0);
}

static void nobody_hits_what_another_has_sent(void **unused)
{
    char body[BODY];

    (void)unused;
    put_body(body, 0, "");
    check_strangers(COMPLETIONS, body);
    check_strangers(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"Tell me of the king who "
                          "lived in the castle by the sea, and of his three daughters.\"}],"
                          "\"max_tokens\":6,\"temperature\":0.9,\"seed\":4,\"ignore_eos\":true}");
}

/* Nor by a session that begins with it. */
static void nobody_s_session_hits_what_another_has_sent(void **unused)
{
    struct live l;
    struct response r;
    char body[BODY];

    (void)unused;
    begin(&l);
    complete(&l, ALICE, 0, "");
    put_body(body, 0, ",\"session_id\":\"mine\"");
    for (int i = 0; i < 2; i++) {
        const char *who = i ? ALICE : BOB;

        r = post(&l, who, "/v1/sessions", "{\"id\":\"mine\"}");
        response_finish(&r);
        r = post(&l, who, COMPLETIONS, body);
        if (i)
            assert_true(cached_in(r.json) > 16);
        else
            assert_int_equal(cached_in(r.json), 0);
        response_finish(&r);
    }
    assert_true(complete(&l, BOB, 0, "") > 16); /* his session has left it */
    assert_int_equal(live_stop(&l), 0);
}

static void who_wants_no_cache_neither_uses_nor_leaves(void **unused)
{
    static const char none[] = ",\"cache\":false";
    struct live l;
    double index, spares;
    char body[BODY];
    struct response r;

    (void)unused;
    begin(&l);
    index = live_metric(&l, "eddy_prefix_index_bytes");
    spares = live_metric(&l, "eddy_spare_states");
    assert_int_equal(complete(&l, ALICE, 0, none), 0);
    put_body(body, 0, ",\"cache\":false,\"session_id\":\"mine\"");
    r = post(&l, ALICE, "/v1/sessions", "{\"id\":\"mine\"}");
    response_finish(&r);
    r = post(&l, ALICE, COMPLETIONS, body);
    assert_int_equal(cached_in(r.json), 0);
    response_finish(&r);
    assert_true(live_metric(&l, "eddy_prefix_index_bytes") == index);
    assert_true(live_metric(&l, "eddy_spare_states") == spares);
    assert_int_equal(complete(&l, ALICE, 0, ""), 0); /* nothing was left */
    assert_true(complete(&l, ALICE, 0, "") > 16);
    assert_int_equal(complete(&l, ALICE, 0, none), 0); /* and it is not used */
    assert_true(complete(&l, ALICE, 0, "") > 16);      /* nor taken away */
    assert_int_equal(live_stop(&l), 0);
}

/* bytes: of states in memory, and of such that spare work. */
static void begin_small(struct live *l, const char *bytes, const char *cache)
{
    live_start(l, RWKV7, "--state-dir", folder, "--slots", "2", "--max-batch", "2", "--host-memory",
               bytes, "--cache-memory", cache, NULL);
}

/* A session's turns; where it stood after each. */
enum { SESSIONS = 4, TURNS = 4 };

static void play_turn(int port, int session, int n)
{
    cJSON_Delete(ask(port, "POST", COMPLETIONS,
                     "{\"session_id\":\"s%d\",\"prompt\":[%d,6,%d,8],\"max_tokens\":7,"
                     "\"temperature\":0.9,\"ignore_eos\":true}",
                     session, 5 + n, 5 + session));
}

static struct state roll_back(int port, int session, const char *body)
{
    char path[64], name[16];

    snprintf(path, sizeof(path), "/v1/sessions/s%d/rollback", session);
    snprintf(name, sizeof(name), "s%d", session);
    cJSON_Delete(ask(port, "POST", path, "%s", body));
    return state_of(port, name);
}

/* Sessions that are parked on the disk, and those that a restart has brought back, go back to
 * the same bytes as ones that never left memory. */
static void going_back_is_exact_across_parking_and_restarts(void **unused)
{
    struct live l, kept;
    struct state is, was;
    char body[64];

    (void)unused;
    begin_small(&l, "0", "256K");
    live_start(&kept, RWKV7, NULL);
    for (int i = 0; i < SESSIONS; i++) {
        for (int k = 0; k < 2; k++)
            cJSON_Delete(ask(k ? kept.port : l.port, "POST", "/v1/sessions",
                             "{\"id\":\"s%d\",\"seed\":%d}", i, i));
    }
    for (int n = 0; n < TURNS; n++) {
        for (int i = 0; i < SESSIONS; i++) {
            play_turn(l.port, i, n);
            play_turn(kept.port, i, n);
        }
    }
    assert_true(live_metric(&l, "eddy_tier_sessions{tier=\"disk\"}") > 0 ||
                live_reaches(&l, "eddy_tier_sessions{tier=\"disk\"}", SESSIONS - 2, 10));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < SESSIONS; i++) {
            int position = 11 * (TURNS - round) - 2 - i;

            snprintf(body, sizeof(body), "{\"position\":%d}", position);
            is = roll_back(l.port, i, body);
            was = roll_back(kept.port, i, body);
            assert_same_state(&is, &was, body);
            state_free(&is);
            state_free(&was);
        }
        if (round == 0)
            assert_int_equal(live_stop(&l), 0);
        else
            live_kill(&l);
        begin_small(&l, "0", "256K");
    }
    for (int i = 0; i < SESSIONS; i++) { /* and they go on */
        char name[16];

        play_turn(l.port, i, 9);
        play_turn(kept.port, i, 9);
        snprintf(name, sizeof(name), "s%d", i);
        is = state_of(l.port, name);
        was = state_of(kept.port, name);
        assert_same_state(&is, &was, name);
        state_free(&is);
        state_free(&was);
    }
    assert_int_equal(live_stop(&l), 0);
    assert_int_equal(live_stop(&kept), 0);
}

static char *answer_to(int port, int which, const char *fields, int *cached)
{
    char body[BODY], *text;
    cJSON *r;

    put_body(body, which, fields);
    r = ask(port, "POST", COMPLETIONS, "%s", body);
    *cached = cached_in(r);
    text = answer_text(r);
    cJSON_Delete(r);
    return text;
}

/* A context that comes again is answered as one that never came before: while others push its
 * state about, and after a restart. */
static void hits_are_exact_across_parking_and_restarts(void **unused)
{
    struct live l;
    int cached, hits = 0;

    (void)unused;
    begin_small(&l, "4M", "4M");
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 8; i++) {
            char *cold = answer_to(l.port, i % 4, ",\"cache\":false", &cached);
            char *warm;

            assert_int_equal(cached, 0);
            warm = answer_to(l.port, i % 4, "", &cached);
            hits += cached > 16;
            assert_string_equal(cold, warm);
            free(cold);
            free(warm);
            cJSON_Delete(ask(l.port, "POST", "/v1/sessions", "{\"id\":\"s%d\"}", i));
            play_turn(l.port, i, i);
        }
        assert_true(hits >= 4);
        hits = 0;
        for (int i = 0; i < 8; i++) {
            char path[64];

            snprintf(path, sizeof(path), "/v1/sessions/s%d", i);
            cJSON_Delete(ask(l.port, "DELETE", path, NULL));
        }
        if (round)
            live_kill(&l);
        else
            assert_int_equal(live_stop(&l), 0);
        begin_small(&l, "4M", "4M");
    }
    assert_int_equal(live_stop(&l), 0);
}

static int make_files(void **unused)
{
    static const char keys[] = "alice-0123456789abcdef alice\nbob-fedcba9876543210\n";
    int fd;

    (void)unused;
    strcpy(key_file, "/tmp/eddy-prefix-keys-XXXXXX");
    fd = mkstemp(key_file);
    if (folder_make(NULL) != 0 || fd < 0 || write(fd, keys, sizeof(keys) - 1) != sizeof(keys) - 1)
        return -1;
    return close(fd);
}

static int remove_files(void **unused)
{
    (void)unused;
    return unlink(key_file) | folder_remove(NULL);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, make_files, remove_files)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(nobody_hits_what_another_has_sent),
        CASE(nobody_s_session_hits_what_another_has_sent),
        CASE(who_wants_no_cache_neither_uses_nor_leaves),
        CASE(going_back_is_exact_across_parking_and_restarts),
        CASE(hits_are_exact_across_parking_and_restarts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
