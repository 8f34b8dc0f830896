/* Servers on one Redis: a session is the same session on each of them, and never two. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <hiredis/hiredis.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"
#include "tests/server/state/redis_server.h"

enum { LEASE_MS = 2000, TURNS = 10, RACE_TURNS = 40 };

static struct redis_server redis;
static struct live pair[2], alone; /* alone: without Redis, what the pair must equal */
static int lease_ms = 600000;      /* none runs out, however slow the machine */

static void start(struct live *l, const char *model)
{
    char lease[16];

    snprintf(lease, sizeof(lease), "%d", lease_ms);
    live_start(l, model, "--state-redis", redis.url, "--state-lease", lease, NULL);
}

static void begin(const char *model)
{
    redis.keeps = true;
    redis_server_begin(&redis);
    start(&pair[0], model);
    start(&pair[1], model);
    live_start(&alone, model, NULL);
}

static void end(void)
{
    live_stop(&alone);
    redis_server_end(&redis);
}

/* A turn; its status. *text is from malloc, NULL unless it was answered 200. */
static int turn(int port, const char *session, int n, char **text, uint64_t *version)
{
    struct response r = call(port, "POST", "/v1/completions",
                             "{\"session_id\":\"%s\",\"prompt\":[%d,17],\"max_tokens\":%d,"
                             "\"temperature\":0.8,\"repetition_penalty\":1.1,"
                             "\"ignore_eos\":true}",
                             session, 5 + n % 50, 5 + n % 7);
    int status = r.status;

    *text = status == 200 ? answer_text(r.json) : NULL;
    if (status == 200 && version)
        *version = (uint64_t)number_of(item_of(r.json, "session"), "version");
    response_finish(&r);
    return status;
}

static void same_turn(int port, const char *session, const char *reference, int n)
{
    char *text, *expected;

    assert_int_equal(turn(port, session, n, &text, NULL), 200);
    assert_int_equal(turn(alone.port, reference, n, &expected, NULL), 200);
    assert_string_equal(text, expected);
    free(text);
    free(expected);
}

static void create(int port, const char *id)
{
    cJSON_Delete(ask(port, "POST", "/v1/sessions", "{\"id\":\"%s\",\"seed\":7}", id));
}

static void check_handover(const char *model)
{
    struct state here, expected;

    begin(model);
    create(pair[0].port, "s");
    create(alone.port, "s");
    refused(pair[1].port, 409, "session_exists", "POST", "/v1/sessions", "{\"id\":\"s\"}");
    for (int n = 0; n < TURNS; n++)
        same_turn(pair[n % 3 == 1].port, "s", "s", n);
    expected = state_of(alone.port, "s");
    for (int i = 0; i < 2; i++) {
        here = state_of(pair[i].port, "s");
        assert_same_state(&here, &expected, "after the turns");
        state_free(&here);
    }
    state_free(&expected);
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    /* They are there after every server is gone. */
    start(&pair[0], model);
    same_turn(pair[0].port, "s", "s", TURNS);
    live_stop(&pair[0]);
    end();
}

static void a_session_goes_from_server_to_server(void **state)
{
    (void)state;
    check_handover(DEMO);
    check_handover(MAMBA2);
    check_handover(RWKV7);
}

/* Forks, snapshots and deletions; the reference does the same. */
static void verbs_on_one_server_hold_on_the_other(void **state)
{
    static const char *const names[] = { "here", "there" };
    char *snapshot[2], *fork[2];
    char path[128];

    (void)state;
    begin(DEMO);
    create(pair[0].port, "s");
    create(alone.port, "s");
    same_turn(pair[0].port, "s", "s", 1);
    for (int i = 0; i < 2; i++) {
        int port = i ? alone.port : pair[1].port;
        cJSON *taken = ask(port, "POST", "/v1/sessions/s/snapshots", "{}");
        cJSON *forks = ask(port, "POST", "/v1/sessions/s/fork", "{\"n\":1}");

        snapshot[i] = strdup(text_of(taken, "id"));
        fork[i] = strdup(text_of(cJSON_GetArrayItem(item_of(forks, "data"), 0), "id"));
        cJSON_Delete(taken);
        cJSON_Delete(forks);
    }
    same_turn(pair[0].port, "s", "s", 2);
    same_turn(pair[0].port, fork[0], fork[1], 3);
    same_turn(pair[1].port, fork[0], fork[1], 4);
    cJSON_Delete(
        ask(pair[0].port, "POST", "/v1/sessions/s/restore", "{\"snapshot\":\"%s\"}", snapshot[0]));
    cJSON_Delete(
        ask(alone.port, "POST", "/v1/sessions/s/restore", "{\"snapshot\":\"%s\"}", snapshot[1]));
    same_turn(pair[1].port, "s", "s", 5);
    snprintf(path, sizeof(path), "/v1/snapshots/%s", snapshot[0]);
    cJSON_Delete(ask(pair[0].port, "DELETE", path, NULL));
    refused(pair[1].port, 404, "snapshot_not_found", "GET", path, NULL);
    cJSON_Delete(ask(pair[0].port, "DELETE", "/v1/sessions/s", NULL));
    refused(pair[1].port, 404, "session_not_found", "GET", "/v1/sessions/s", NULL);
    refused(pair[1].port, 404, "session_not_found", "POST", "/v1/completions",
            "{\"session_id\":\"s\",\"prompt\":\"a\"}");
    for (int i = 0; i < 2; i++)
        create(pair[i].port, names[i]);
    snprintf(path, sizeof(path), "/v1/sessions/%s", fork[0]);
    cJSON_Delete(ask(pair[1].port, "DELETE", path, NULL));
    /* Two sessions on the empty context, and no state any more. */
    assert_int_equal(redis_server_count(&redis, "DBSIZE"), 2);
    for (int i = 0; i < 2; i++) {
        free(snapshot[i]);
        free(fork[i]);
        live_stop(&pair[i]);
    }
    end();
}

static void same_rollback(int port, const char *body)
{
    struct state is, expected;

    cJSON_Delete(ask(port, "POST", "/v1/sessions/s/rollback", "%s", body));
    cJSON_Delete(ask(alone.port, "POST", "/v1/sessions/s/rollback", "%s", body));
    is = state_of(port, "s");
    expected = state_of(alone.port, "s");
    assert_same_state(&is, &expected, body);
    state_free(&is);
    state_free(&expected);
}

/* The starts of turns go with the session: also of turns that another server made, of some that
 * went and came again, through forks, and when whoever made them is gone. */
static void a_session_goes_back_over_the_turns_of_the_other_server(void **state)
{
    static const char *const model[] = { DEMO, RWKV7, MAMBA2 };

    (void)state;
    for (int i = 0; i < 3; i++) {
        begin(model[i]);
        create(pair[0].port, "s");
        create(alone.port, "s");
        for (int n = 0; n < 6; n++)
            same_turn(pair[0].port, "s", "s", n);
        same_rollback(pair[1].port, "{\"turns\":2}");
        same_turn(pair[1].port, "s", "s", 6);
        same_turn(pair[0].port, "s", "s", 7);
        same_rollback(pair[1].port, "{\"turns\":3}"); /* one of each, and one that was there */
        same_turn(pair[1].port, "s", "s", 8);
        same_rollback(pair[0].port, "{\"turns\":1}");
        same_turn(pair[0].port, "s", "s", 9);
        live_kill(&pair[0]);
        same_rollback(pair[1].port, "{\"turns\":2}");
        same_turn(pair[1].port, "s", "s", 10);
        live_stop(&pair[1]);
        start(&pair[0], model[i]);
        same_rollback(pair[0].port, "{\"turns\":2}"); /* behind the first one */
        refused(pair[0].port, 422, "history_unreachable", "POST", "/v1/sessions/s/rollback",
                "{\"turns\":2}");
        same_turn(pair[0].port, "s", "s", 11);
        live_stop(&pair[0]);
        end();
    }
}

/* A server goes back over what the other one drew, and the other one goes on from there. */
static void a_session_goes_back_after_it_was_handed_over(void **state)
{
    static const char *const model[] = { DEMO, RWKV7 };

    (void)state;
    for (int i = 0; i < 2; i++) {
        begin(model[i]);
        create(pair[0].port, "s");
        create(alone.port, "s");
        for (int n = 0; n < 4; n++)
            same_turn(pair[0].port, "s", "s", n);
        same_rollback(pair[1].port, "{\"position\":19}"); /* inside a turn */
        same_turn(pair[0].port, "s", "s", 5);
        same_turn(pair[1].port, "s", "s", 6);
        same_rollback(pair[1].port, "{\"turns\":1}"); /* its own */
        same_turn(pair[1].port, "s", "s", 7);
        same_rollback(pair[0].port, "{\"position\":7}"); /* the end of the first turn */
        live_kill(&pair[0]);
        same_turn(pair[1].port, "s", "s", 8);
        same_rollback(pair[1].port, "{\"position\":3}");
        same_turn(pair[1].port, "s", "s", 9);
        live_stop(&pair[1]);
        end();
    }
}

/* Takes a snapshot, whose parent is said to be this one (NULL: none), and goes on, so that the
 * others learn where the session stands. */
static void take(int port, const char *parent, char id[80], int n)
{
    cJSON *r = ask(port, "POST", "/v1/sessions/s/snapshots", "{}");

    if (parent)
        assert_string_equal(text_of(r, "parent"), parent);
    else
        assert_true(cJSON_IsNull(item_of(r, "parent")));
    snprintf(id, 80, "%s", text_of(r, "id"));
    cJSON_Delete(r);
    same_turn(port, "s", "s", n);
}

static void snapshots_are_a_tree_of_what_a_server_has_seen(void **state)
{
    char id[3][80], path[128];
    cJSON *r;

    (void)state;
    begin(DEMO);
    create(pair[0].port, "s");
    create(alone.port, "s");
    for (int i = 0; i < 3; i++) {
        same_turn(pair[i % 2].port, "s", "s", 2 * i);
        take(pair[i % 2].port, i ? id[i - 1] : NULL, id[i], 2 * i + 1);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "/v1/snapshots?subtree=%s", id[1]);
        r = ask(pair[i].port, "GET", path, NULL); /* the second one is not asked for the third */
        assert_int_equal(cJSON_GetArraySize(item_of(r, "data")), i ? 1 : 2);
        cJSON_Delete(r);
    }
    snprintf(path, sizeof(path), "/v1/snapshots/%.79s?subtree=true", id[1]);
    r = ask(pair[0].port, "DELETE", path, NULL);
    assert_int_equal(number_of(r, "snapshots"), 2);
    cJSON_Delete(r);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "/v1/snapshots/%.79s", id[i]);
        if (i)
            refused(pair[1].port, 404, "snapshot_not_found", "GET", path, NULL);
        else
            cJSON_Delete(ask(pair[1].port, "GET", path, NULL));
    }
    same_turn(pair[0].port, "s", "s", 8);
    take(pair[0].port, id[0], id[1], 9);
    same_turn(pair[1].port, "s", "s", 10);
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
}

static void a_killed_servers_session_goes_on_from_its_last_commit(void **state)
{
    const int long_ms = lease_ms;
    double killed, asked;
    int busy = 0, status;
    char *text, *expected;

    (void)state;
    lease_ms = LEASE_MS;
    begin(DEMO);
    create(pair[0].port, "s");
    create(alone.port, "s");
    for (int round = 0; round < 3; round++) {
        struct client c = client_dial(pair[0].port);
        const char *body = "{\"session_id\":\"s\",\"prompt\":\"Once\",\"max_tokens\":60000,"
                           "\"ignore_eos\":true,\"stream\":true}";
        struct response r;

        same_turn(pair[0].port, "s", "s", 2 * round);
        assert_true(client_ask(&c, "POST", "/v1/completions", NULL, body, strlen(body)));
        assert_true(client_read_head(&c, &r));
        for (int i = 0; i < 5 * round + 1; i++) {
            char *event = client_event(&c);

            assert_non_null(event);
            free(event);
        }
        refused(pair[1].port, 409, "session_busy", "POST", "/v1/completions",
                "{\"session_id\":\"s\",\"prompt\":\"a\"}");
        live_kill(&pair[0]);
        client_close(&c);
        response_finish(&r);
        killed = seconds_now();
        for (;;) {
            asked = seconds_now();
            status = turn(pair[1].port, "s", 2 * round + 1, &text, NULL);
            if (status != 409)
                break;
            assert_true(asked - killed < 2e-3 * LEASE_MS); /* its holder's last word may be late */
            busy++;
            usleep(20000);
        }
        assert_int_equal(status, 200);
        assert_int_equal(turn(alone.port, "s", 2 * round + 1, &expected, NULL), 200);
        assert_string_equal(text, expected);
        free(text);
        free(expected);
        start(&pair[0], DEMO);
    }
    assert_true(busy > 0);
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
    lease_ms = long_ms;
}

/* Turns of one client on a session, as fast as they go; what each version's turn was. */
struct racer {
    pthread_t thread;
    int port, number, conflicts, other;
    int turn[2 * RACE_TURNS + 2]; /* which turn made a version; 0: none of ours */
    char *text[2 * RACE_TURNS + 2];
};

static void *race(void *arg)
{
    struct racer *me = arg;
    uint64_t version = 0;

    for (int done = 0; done < RACE_TURNS && !me->other;) {
        int n = 1 + 2 * done + me->number;
        char *text;
        int status = turn(me->port, "s", n, &text, &version);

        if (status != 200) {
            me->conflicts += status == 409;
            me->other = status == 409 ? 0 : status;
            continue;
        }
        if (version > 2 * RACE_TURNS || me->turn[version])
            me->other = 1;
        else
            me->turn[version] = n;
        me->text[version] = text;
        done++;
    }
    return NULL;
}

static void racing_clients_never_commit_one_version_twice(void **state)
{
    static struct racer racer[2];
    cJSON *session;

    (void)state;
    begin(DEMO);
    create(pair[0].port, "s");
    create(alone.port, "s");
    for (int i = 0; i < 2; i++) {
        racer[i] = (struct racer){ .port = pair[i].port, .number = i };
        pthread_create(&racer[i].thread, NULL, race, &racer[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(racer[i].thread, NULL);
        assert_int_equal(racer[i].other, 0);
    }
    /* Every version has one turn, and the turns in their order are one session. */
    for (int v = 1; v <= 2 * RACE_TURNS; v++) {
        struct racer *by = &racer[racer[0].turn[v] ? 0 : 1];
        char *expected;

        assert_int_equal(!!racer[0].turn[v] + !!racer[1].turn[v], 1);
        assert_int_equal(turn(alone.port, "s", by->turn[v], &expected, NULL), 200);
        assert_string_equal(by->text[v], expected);
        free(by->text[v]);
        free(expected);
    }
    assert_true(racer[0].conflicts + racer[1].conflicts > 0);
    session = ask(pair[0].port, "GET", "/v1/sessions/s", NULL);
    assert_int_equal(number_of(session, "version"), 2 * RACE_TURNS);
    cJSON_Delete(session);
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
}

static void a_turn_without_its_lease_does_not_commit(void **state)
{
    struct story s = { 0 };
    struct response r;
    struct client c;
    const char *body = "{\"session_id\":\"s\",\"prompt\":\"Once\",\"max_tokens\":400,"
                       "\"ignore_eos\":true,\"stream\":true}";

    (void)state;
    begin(DEMO);
    create(pair[0].port, "s");
    create(alone.port, "s");
    same_turn(pair[0].port, "s", "s", 1);
    c = client_dial(pair[0].port);
    assert_true(client_ask(&c, "POST", "/v1/completions", NULL, body, strlen(body)));
    while (!redis_server_count(&redis, "DEL eddy:lease:0000000000000000:s"))
        usleep(100);
    same_turn(pair[1].port, "s", "s", 2);
    assert_true(client_read_head(&c, &r));
    stream_rest(&c, &s);
    response_finish(&r);
    assert_string_equal(s.error, "session_moved");
    story_finish(&s);
    client_close(&c);
    same_turn(pair[0].port, "s", "s", 3);
    same_turn(pair[1].port, "s", "s", 4);
    assert_true(live_metric(&pair[0], "eddy_redis_lost_total") >= 1);
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
}

/* Names everything in Redis anew: what begins with `from` begins with `to` then. */
static void rename_all(const char *verb, const char *from, const char *to)
{
    redisReply *keys = redis_server_ask(&redis, "KEYS %s*", from);

    for (size_t i = 0; i < keys->elements; i++) {
        const char *key = keys->element[i]->str;

        assert_true(redis_server_count(&redis, "%s %s %s%s", verb, key, to, key + strlen(from)) !=
                    0);
    }
    freeReplyObject(keys);
}

/* Redis forgets what it was told since, as one that does not fsync does when it crashes. */
static void lose_since(void)
{
    redisReply *keys = redis_server_ask(&redis, "KEYS eddy:*");

    for (size_t i = 0; i < keys->elements; i++)
        redis_server_count(&redis, "DEL %s", keys->element[i]->str);
    freeReplyObject(keys);
    rename_all("COPY", "kept:", "eddy:");
}

/* The servers that take the turns after the loss, in their order. */
static void check_loss(int lost_turns, const int *server, int turns)
{
    uint64_t version = 0;
    char *text;

    begin(DEMO);
    create(pair[0].port, "s");
    create(alone.port, "s");
    same_turn(pair[0].port, "s", "s", 1);
    rename_all("COPY", "eddy:", "kept:");
    for (int i = 0; i < lost_turns; i++) {
        assert_int_equal(turn(pair[0].port, "s", 20 + i, &text, &version), 200);
        free(text);
    }
    assert_int_equal(version, 1 + lost_turns);
    lose_since();
    for (int i = 0; i < turns; i++)
        same_turn(pair[server[i]].port, "s", "s", 2 + i);
    for (int i = 0; i < 2; i++) {
        cJSON *session = ask(pair[i].port, "GET", "/v1/sessions/s", NULL);

        assert_int_equal(number_of(session, "version"), 1 + turns);
        cJSON_Delete(session);
        live_stop(&pair[i]);
    }
    end();
}

static void what_redis_has_lost_is_lost_everywhere(void **state)
{
    static const int same[] = { 0, 0, 1 }, other[] = { 1, 0, 1 };

    (void)state;
    check_loss(1, same, 3);
    check_loss(1, other, 3); /* two servers have a version of their own of one number */
    check_loss(2, other, 3);
}

static void without_redis_everything_else_goes_on(void **state)
{
    struct response r;
    char after[256];
    double until;
    int status;

    (void)state;
    begin(DEMO);
    create(pair[0].port, "s");
    create(alone.port, "s");
    same_turn(pair[0].port, "s", "s", 1);
    redis_server_kill(&redis);
    r = call(pair[0].port, "POST", "/v1/completions", "{\"session_id\":\"s\",\"prompt\":\"a\"}");
    assert_refusal(&r, 503, "store_unavailable", "a turn");
    assert_true(response_header(&r, "retry-after", after));
    response_finish(&r);
    refused(pair[1].port, 503, "store_unavailable", "POST", "/v1/sessions", "{}");
    cJSON_Delete(
        ask(pair[0].port, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":5}"));
    live_is_well(&pair[0]);
    assert_int_equal(live_metric(&pair[0], "eddy_redis_up"), 0);
    redis_server_start(&redis);
    until = seconds_now() + 20;
    do {
        r = call(pair[0].port, "GET", "/v1/sessions/s", NULL);
        status = r.status;
        response_finish(&r);
        usleep(20000);
    } while (status != 200 && seconds_now() < until);
    assert_int_equal(status, 200);
    same_turn(pair[0].port, "s", "s", 2);
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
}

/* Asks until it is done, which a limit may refuse at first; the new object's id. */
static void make(const char *path, const char *body, char id[80])
{
    double until = seconds_now() + 20;
    struct response r;

    for (;;) {
        r = call(pair[0].port, "POST", path, "%s", body);
        if (r.status == 200)
            break;
        if (seconds_now() > until)
            fail_msg("POST %s: %d %s", path, r.status, r.body);
        response_finish(&r);
        usleep(50000);
    }
    snprintf(id, 80, "%s", text_of(r.json, "id"));
    response_finish(&r);
}

static void delete_on_the_other(const char *kind, const char *id)
{
    char path[128];

    snprintf(path, sizeof(path), "/v1/%s/%.79s", kind, id);
    cJSON_Delete(ask(pair[1].port, "DELETE", path, NULL));
}

/* Of one key's sessions, and of the states of its sessions and snapshots. */
static void what_another_server_deleted_counts_for_no_limit(void **state)
{
    char bytes[32], id[80], *text;
    cJSON *session;

    (void)state;
    begin(DEMO);
    create(alone.port, "s");
    session = ask(alone.port, "GET", "/v1/sessions/s", NULL);
    snprintf(bytes, sizeof(bytes), "%.0f", 3 * number_of(session, "state_bytes"));
    cJSON_Delete(session);
    live_stop(&pair[0]);
    live_start(&pair[0], DEMO, "--state-redis", redis.url, "--owner-sessions", "2",
               "--owner-memory", bytes, NULL);
    for (int i = 0; i < 5; i++) {
        make("/v1/sessions", "{}", id);
        delete_on_the_other("sessions", id);
    }
    make("/v1/sessions", "{\"id\":\"s\"}", id);
    assert_int_equal(turn(pair[0].port, "s", 1, &text, NULL), 200);
    free(text);
    for (int i = 0; i < 4; i++) {
        make("/v1/sessions/s/snapshots", "{}", id);
        delete_on_the_other("snapshots", id);
    }
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
}

/* More than a server keeps in mind are in Redis, and each is there when it is named. */
static void sessions_that_rest_make_room_for_new_ones(void **state)
{
    enum { SESSIONS = 5 };
    char id[80], path[128];

    (void)state;
    begin(DEMO);
    live_stop(&pair[0]);
    live_start(&pair[0], DEMO, "--state-redis", redis.url, "--max-sessions", "2", NULL);
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(path, sizeof(path), "s%d", i);
        create(pair[0].port, path);
    }
    cJSON_Delete(ask(pair[0].port, "POST", "/v1/sessions/s0/fork", "{\"n\":1}"));
    refused(pair[0].port, 429, "session_quota", "POST", "/v1/sessions/s1/fork", "{\"n\":2}");
    for (int i = 0; i < SESSIONS; i++) {
        char *text;

        snprintf(id, sizeof(id), "s%d", i);
        assert_int_equal(turn(pair[0].port, id, i, &text, NULL), 200);
        free(text);
    }
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
}

/* A server that still has a snapshot in mind takes its state to be in Redis. small: what it has
 * no room for in memory is in Redis alone, and so it is gone for good. */
static void check_deleted_start(bool small)
{
    char id[80];
    cJSON *r;

    begin(DEMO);
    if (small) {
        live_stop(&pair[0]);
        live_start(&pair[0], DEMO, "--state-redis", redis.url, "--slots", "1", "--host-memory", "0",
                   "--cache-memory", "0", NULL);
    }
    create(pair[0].port, "s");
    create(pair[0].port, "t");
    create(alone.port, "s");
    create(alone.port, "t");
    same_turn(pair[0].port, "s", "s", 1);
    r = ask(pair[0].port, "POST", "/v1/sessions/s/snapshots", "{}");
    snprintf(id, sizeof(id), "%s", text_of(r, "id"));
    cJSON_Delete(r);
    same_turn(pair[0].port, "s", "s", 2);
    same_turn(pair[0].port, "t", "t", 3);
    delete_on_the_other("snapshots", id);
    same_rollback(pair[0].port, "{\"turns\":1}");
    same_turn(pair[1].port, "s", "s", 4);
    same_rollback(pair[0].port, "{\"turns\":1}");
    same_turn(pair[0].port, "s", "s", 5);
    live_stop(&pair[0]);
    live_stop(&pair[1]);
    end();
}

static void a_session_goes_back_to_a_state_that_another_server_deleted(void **state)
{
    (void)state;
    check_deleted_start(false);
    check_deleted_start(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_goes_from_server_to_server),
        cmocka_unit_test(verbs_on_one_server_hold_on_the_other),
        cmocka_unit_test(a_session_goes_back_over_the_turns_of_the_other_server),
        cmocka_unit_test(a_session_goes_back_after_it_was_handed_over),
        cmocka_unit_test(snapshots_are_a_tree_of_what_a_server_has_seen),
        cmocka_unit_test(a_killed_servers_session_goes_on_from_its_last_commit),
        cmocka_unit_test(racing_clients_never_commit_one_version_twice),
        cmocka_unit_test(a_turn_without_its_lease_does_not_commit),
        cmocka_unit_test(what_redis_has_lost_is_lost_everywhere),
        cmocka_unit_test(without_redis_everything_else_goes_on),
        cmocka_unit_test(what_another_server_deleted_counts_for_no_limit),
        cmocka_unit_test(sessions_that_rest_make_room_for_new_ones),
        cmocka_unit_test(a_session_goes_back_to_a_state_that_another_server_deleted),
    };

    return redis_server_exists() ? cmocka_run_group_tests_name("shared", tests, NULL, NULL) : 0;
}
