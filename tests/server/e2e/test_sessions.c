/* The sessions API, call by call and field by field (DESIGN, section 7). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"

#define COMPLETIONS "/v1/completions"

static struct live server;

static bool is_null(const cJSON *object, const char *key)
{
    return cJSON_IsNull(item_of(object, key));
}

static void assert_fields(const cJSON *object, const char *const names[])
{
    int n = 0;

    while (names[n])
        item_of(object, names[n++]);
    assert_int_equal(cJSON_GetArraySize(object), n);
}

static void assert_recent(double seconds)
{
    assert_true(seconds <= (double)time(NULL) + 1 && seconds > (double)time(NULL) - 600);
}

static const char *const session_fields[] = { "id",        "object",      "model",   "created",
                                              "updated",   "position",    "version", "head",
                                              "residency", "state_bytes", "busy",    "expires_at",
                                              "metadata",  NULL };

static void a_session_has_all_its_fields_and_no_more(void **state)
{
    cJSON *s =
        ask(server.port, "POST", "/v1/sessions",
            "{\"id\":\"tale\",\"model\":\"demo\",\"seed\":5,\"metadata\":{\"k\":[1,\"v\"]}}");
    cJSON *again, *model = ask(server.port, "GET", "/v1/models/demo", NULL);
    char *metadata;

    (void)state;
    assert_fields(s, session_fields);
    assert_string_equal(text_of(s, "id"), "tale");
    assert_string_equal(text_of(s, "object"), "session");
    assert_string_equal(text_of(s, "model"), "demo");
    assert_recent(number_of(s, "created"));
    assert_true(number_of(s, "updated") >= number_of(s, "created"));
    assert_int_equal(number_of(s, "position"), 0);
    assert_int_equal(number_of(s, "version"), 0);
    assert_true(is_null(s, "head"));
    assert_string_equal(text_of(s, "residency"), "empty");
    assert_true(number_of(s, "state_bytes") == number_of(model, "state_bytes"));
    assert_false(flag_of(s, "busy"));
    assert_true(is_null(s, "expires_at"));
    metadata = cJSON_PrintUnformatted(item_of(s, "metadata"));
    assert_string_equal(metadata, "{\"k\":[1,\"v\"]}");
    free(metadata);
    again = ask(server.port, "GET", "/v1/sessions/tale", NULL);
    assert_true(cJSON_Compare(s, again, true));
    cJSON_Delete(again);
    cJSON_Delete(s);
    cJSON_Delete(model);
    refused(server.port, 409, "session_exists", "POST", "/v1/sessions", "{\"id\":\"tale\"}");

    s = ask(server.port, "POST", "/v1/sessions/tale/append", "{\"text\":\"Once upon\"}");
    assert_int_equal(number_of(s, "version"), 1);
    assert_true(number_of(s, "position") > 0);
    assert_true(number_of(s, "position") == number_of(item_of(s, "usage"), "prompt_tokens"));
    assert_string_not_equal(text_of(s, "head"), "");
    assert_string_equal(text_of(s, "residency"), "device");
    cJSON_Delete(s);
    s = ask(server.port, "DELETE", "/v1/sessions/tale", NULL);
    assert_string_equal(text_of(s, "id"), "tale");
    assert_string_equal(text_of(s, "object"), "session.deleted");
    assert_true(flag_of(s, "deleted"));
    cJSON_Delete(s);
    refused(server.port, 404, "session_not_found", "DELETE", "/v1/sessions/tale", NULL);
}

static void a_completion_on_a_session_pays_for_its_new_text_only(void **state)
{
    cJSON *a, *b;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"pays\"}"));
    a = ask(server.port, "POST", COMPLETIONS,
            "{\"session_id\":\"pays\",\"prompt\":[5,6,7,8],\"max_tokens\":10,"
            "\"ignore_eos\":true}");
    b = ask(server.port, "POST", COMPLETIONS,
            "{\"session_id\":\"pays\",\"prompt\":[9],\"max_tokens\":2,\"ignore_eos\":true}");
    assert_string_equal(text_of(item_of(b, "session"), "id"), "pays");
    assert_int_equal(number_of(item_of(a, "session"), "version"), 1);
    assert_int_equal(number_of(item_of(b, "session"), "version"), 2);
    assert_int_equal(number_of(item_of(a, "session"), "position"), 14);
    assert_int_equal(number_of(item_of(b, "session"), "position"), 17);
    assert_int_equal(
        number_of(item_of(item_of(b, "usage"), "prompt_tokens_details"), "cached_tokens"), 14);
    cJSON_Delete(a);
    cJSON_Delete(b);
}

/* Where `tale` stands afterwards. */
static struct state rolled_back(const char *body, uint64_t position)
{
    cJSON *s = ask(server.port, "POST", "/v1/sessions/tale/rollback", "%s", body);

    assert_true(number_of(s, "position") == (double)position);
    cJSON_Delete(s);
    return state_of(server.port, "tale");
}

static void a_session_goes_back_by_turns_and_to_any_token(void **state)
{
    static const char turn[] = "{\"session_id\":\"tale\",\"prompt\":[5,6,7],\"max_tokens\":9,"
                               "\"ignore_eos\":true}";
    struct state was[3], is;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"tale\",\"seed\":4}"));
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions/tale/append", "{\"ids\":[1,2]}"));
    for (int i = 0; i < 3; i++) {
        was[i] = state_of(server.port, "tale");
        cJSON_Delete(ask(server.port, "POST", COMPLETIONS, "%s", turn));
    }
    for (int i = 2; i >= 0; i--) {
        is = rolled_back("{\"turns\":1}", 2 + (uint64_t)i * 12);
        assert_same_state(&is, &was[i], "a turn taken back");
        state_free(&is);
        if (i == 2) { /* into the turn before, and on from there to the same end */
            is = rolled_back("{\"position\":19}", 19);
            state_free(&is);
            cJSON_Delete(ask(server.port, "POST", COMPLETIONS,
                             "{\"session_id\":\"tale\",\"max_tokens\":7,"
                             "\"ignore_eos\":true}"));
            is = state_of(server.port, "tale");
            assert_same_state(&is, &was[2], "the end of a turn drawn again");
            state_free(&is);
            is = rolled_back("{\"turns\":1}", 19);
            state_free(&is);
        }
    }
    for (int i = 0; i < 3; i++)
        state_free(&was[i]);
    refused(server.port, 422, "history_unreachable", "POST", "/v1/sessions/tale/rollback",
            "{\"turns\":2}");
    refused(server.port, 400, "invalid_parameter", "POST", "/v1/sessions/tale/rollback",
            "{\"position\":3}");
    refused(server.port, 400, "invalid_parameter", "POST", "/v1/sessions/tale/rollback", "{}");
    refused(server.port, 400, "invalid_parameter", "POST", "/v1/sessions/tale/rollback",
            "{\"turns\":1,\"position\":0}");
    refused(server.port, 404, "snapshot_not_found", "POST", "/v1/sessions/tale/rollback",
            "{\"snapshot\":\"snap_none\"}");
    refused(server.port, 404, "session_not_found", "POST", "/v1/sessions/none/rollback",
            "{\"turns\":1}");
    cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/tale", NULL));
}

static void lists_come_in_pages(void **state)
{
    char after[80] = "", path[160];
    int seen = 0, pages = 0;
    bool more = true;

    (void)state;
    for (int i = 0; i < 23; i++)
        cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"page-%02d\"}", i));
    while (more) {
        cJSON *list;
        const cJSON *item, *data;

        snprintf(path, sizeof(path), "/v1/sessions?limit=7%s%s", *after ? "&after=" : "", after);
        list = ask(server.port, "GET", path, NULL);
        assert_string_equal(text_of(list, "object"), "list");
        data = item_of(list, "data");
        assert_true(cJSON_GetArraySize(data) >= 1 && cJSON_GetArraySize(data) <= 7);
        assert_string_equal(text_of(list, "first_id"), text_of(data->child, "id"));
        cJSON_ArrayForEach(item, data)
        {
            assert_fields(item, session_fields);
            seen += strncmp(text_of(item, "id"), "page-", 5) == 0;
            snprintf(after, sizeof(after), "%s", text_of(item, "id"));
        }
        assert_string_equal(text_of(list, "last_id"), after);
        more = flag_of(list, "has_more");
        pages++;
        cJSON_Delete(list);
    }
    assert_int_equal(seen, 23);
    assert_true(pages >= 4);
    refused(server.port, 400, "invalid_parameter", "GET", "/v1/sessions?limit=0", NULL);
    refused(server.port, 400, "invalid_parameter", "GET", "/v1/sessions?limit=1001", NULL);
    refused(server.port, 400, "invalid_parameter", "GET", "/v1/sessions?after=..%2f", NULL);
}

struct seen {
    char id[400][80];
    int count;
};

/* One page of seven, behind `after`, which becomes its last id. false: it was the last page. */
static bool read_page(const char *what, char after[80], struct seen *seen)
{
    const cJSON *item;
    char path[240];
    cJSON *list;
    bool more;

    snprintf(path, sizeof(path), "%s?limit=7%s%s", what, *after ? "&after=" : "", after);
    list = ask(server.port, "GET", path, NULL);
    cJSON_ArrayForEach(item, item_of(list, "data"))
    {
        assert_true(seen->count < 400);
        strcpy(seen->id[seen->count++], text_of(item, "id"));
    }
    if (text_of(list, "last_id"))
        strcpy(after, text_of(list, "last_id"));
    more = flag_of(list, "has_more");
    cJSON_Delete(list);
    return more;
}

static int count_of(const struct seen *seen, const char *id)
{
    int n = 0;

    for (int i = 0; i < seen->count; i++)
        n += strcmp(seen->id[i], id) == 0;
    return n;
}

/* The last object of every page, and others, are deleted before the next page is asked for. */
static void check_pages(const char *what, const char *delete_from, const struct seen *all)
{
    bool gone[400] = { false };
    struct seen seen = { .count = 0 };
    char after[80] = "", path[160];

    for (bool more = true; more;) {
        more = read_page(what, after, &seen);
        for (int i = 0; i < all->count; i++) {
            if (gone[i] || (strcmp(all->id[i], after) != 0 && i % 5))
                continue;
            if (i % 5 == 0 && !count_of(&seen, all->id[i]))
                continue;
            snprintf(path, sizeof(path), "%s/%s", delete_from, all->id[i]);
            cJSON_Delete(ask(server.port, "DELETE", path, NULL));
            gone[i] = true;
        }
    }
    for (int i = 0; i < all->count; i++)
        assert_int_equal(count_of(&seen, all->id[i]), 1);
}

static void what_stays_is_listed_once_whatever_goes_meanwhile(void **state)
{
    static struct seen sessions, snapshots;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"paged\"}"));
    for (int i = 0; i < 40; i++) {
        cJSON *s = i % 2 ? ask(server.port, "POST", "/v1/sessions", "{\"id\":\"z%d\"}", 40 - i)
                         : ask(server.port, "POST", "/v1/sessions", "{}");
        cJSON *p = ask(server.port, "POST", "/v1/sessions/paged/snapshots", "{}");

        strcpy(sessions.id[sessions.count++], text_of(s, "id"));
        strcpy(snapshots.id[snapshots.count++], text_of(p, "id"));
        cJSON_Delete(s);
        cJSON_Delete(p);
        if (i)
            assert_true(strcmp(snapshots.id[i - 1], snapshots.id[i]) < 0);
    }
    check_pages("/v1/sessions/paged/snapshots", "/v1/snapshots", &snapshots);
    check_pages("/v1/sessions", "/v1/sessions", &sessions);
}

static void forks_begin_alike_and_go_their_own_ways(void **state)
{
    struct state parent, child;
    const cJSON *item;
    cJSON *list;
    int n = 0;

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"root\",\"seed\":3}"));
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions/root/append", "{\"text\":\"Once upon\"}"));
    parent = state_of(server.port, "root");
    list = ask(server.port, "POST", "/v1/sessions/root/fork", "{\"n\":5}");
    cJSON_ArrayForEach(item, item_of(list, "data"))
    {
        const char *id = text_of(item, "id");

        assert_int_equal(strlen(id), 5 + 14 + 32); /* sess_, when, and 128 bits */
        for (const cJSON *other = item->next; other; other = other->next)
            assert_string_not_equal(id, text_of(other, "id"));
        child = state_of(server.port, id);
        assert_same_state(&parent, &child, "a fork");
        state_free(&child);
        cJSON_Delete(ask(server.port, "POST", COMPLETIONS,
                         "{\"session_id\":\"%s\",\"prompt\":[%d],\"max_tokens\":4}", id, 9 + n++));
    }
    assert_int_equal(n, 5);
    child = state_of(server.port, "root");
    assert_same_state(&parent, &child, "the root, after its forks went on");
    state_free(&child);
    state_free(&parent);
    cJSON_Delete(list);
}

static void a_snapshot_has_all_its_fields_and_brings_a_session_back(void **state)
{
    static const char *const fields[] = { "id",       "object", "session",     "parent",
                                          "position", "bytes",  "fingerprint", "label",
                                          "tier",     "pinned", "created",     NULL };
    struct state before, after;
    cJSON *s, *again, *session;
    char path[128], id[80];

    (void)state;
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions", "{\"id\":\"kept\",\"seed\":3}"));
    cJSON_Delete(ask(server.port, "POST", "/v1/sessions/kept/append", "{\"ids\":[4,5,6]}"));
    before = state_of(server.port, "kept");
    s = ask(server.port, "POST", "/v1/sessions/kept/snapshots", "{\"label\":\"here\"}");
    assert_fields(s, fields);
    snprintf(id, sizeof(id), "%s", text_of(s, "id"));
    assert_string_equal(text_of(s, "object"), "snapshot");
    assert_string_equal(text_of(s, "session"), "kept");
    assert_true(is_null(s, "parent"));
    assert_int_equal(number_of(s, "position"), 3);
    assert_true(number_of(s, "bytes") > 0);
    assert_int_equal(strlen(text_of(s, "fingerprint")), 32);
    assert_string_equal(text_of(s, "label"), "here");
    assert_true(flag_of(s, "pinned"));
    assert_recent(number_of(s, "created"));
    snprintf(path, sizeof(path), "/v1/snapshots/%s", id);
    again = ask(server.port, "GET", path, NULL);
    assert_string_equal(text_of(again, "id"), id);
    cJSON_Delete(again);
    again = ask(server.port, "GET", "/v1/sessions/kept/snapshots", NULL);
    assert_int_equal(cJSON_GetArraySize(item_of(again, "data")), 1);
    cJSON_Delete(again);

    cJSON_Delete(ask(server.port, "POST", COMPLETIONS,
                     "{\"session_id\":\"kept\",\"prompt\":\"on\",\"max_tokens\":9}"));
    again = ask(server.port, "POST", "/v1/sessions/kept/snapshots", "{}");
    assert_string_equal(text_of(again, "parent"), id);
    assert_true(is_null(again, "label"));
    cJSON_Delete(again);
    session = ask(server.port, "POST", "/v1/sessions/kept/restore", "{\"snapshot\":\"%s\"}", id);
    assert_int_equal(number_of(session, "position"), 3);
    assert_int_equal(number_of(session, "version"), 3); /* moving back is a change too */
    after = state_of(server.port, "kept");
    assert_same_state(&before, &after, "after restore");
    cJSON_Delete(session);
    cJSON_Delete(ask(server.port, "DELETE", "/v1/sessions/kept", NULL));
    session = ask(server.port, "POST", "/v1/sessions", "{\"snapshot\":\"%s\"}", id);
    assert_int_equal(number_of(session, "position"), 3); /* it outlives its session */
    cJSON_Delete(session);
    again = ask(server.port, "DELETE", path, NULL);
    assert_string_equal(text_of(again, "object"), "snapshot.deleted");
    cJSON_Delete(again);
    refused(server.port, 404, "snapshot_not_found", "GET", path, NULL);
    cJSON_Delete(s);
    state_free(&before);
    state_free(&after);
}

static void a_session_expires(void **state)
{
    double until = seconds_now() + 10;
    cJSON *s = ask(server.port, "POST", "/v1/sessions", "{\"id\":\"brief\",\"ttl\":1}");
    int status = 200;

    (void)state;
    assert_true(number_of(s, "expires_at") >= number_of(s, "created") + 1);
    cJSON_Delete(s);
    while (status == 200 && seconds_now() < until) {
        struct response r = call(server.port, "GET", "/v1/sessions/brief", NULL);

        status = r.status;
        response_finish(&r);
        usleep(50000);
    }
    assert_int_equal(status, 404);
    assert_true(seconds_now() > until - 10 + 0.9); /* not before its time */
}

static void what_is_served_is_said(void **state)
{
    cJSON *json = ask(server.port, "GET", "/v1/models", NULL);
    const cJSON *model = item_of(json, "data")->child;

    (void)state;
    assert_string_equal(text_of(model, "id"), "demo");
    assert_string_equal(text_of(model, "object"), "model");
    assert_string_equal(text_of(model, "architecture"), "mamba2");
    assert_true(number_of(model, "state_bytes") > 0 && number_of(model, "parameters") > 0);
    cJSON_Delete(json);
    json = ask(server.port, "GET", "/version", NULL);
    assert_string_equal(text_of(json, "model"), "demo");
    cJSON_Delete(json);
    json = ask(server.port, "GET", "/ready", NULL);
    assert_string_equal(text_of(json, "status"), "ready");
    cJSON_Delete(json);
    refused(server.port, 404, "model_not_found", "GET", "/v1/models/other", NULL);
}

static int start(void **state)
{
    (void)state;
    live_start(&server, DEMO, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    assert_int_equal(live_stop(&server), 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_has_all_its_fields_and_no_more),
        cmocka_unit_test(a_completion_on_a_session_pays_for_its_new_text_only),
        cmocka_unit_test(a_session_goes_back_by_turns_and_to_any_token),
        cmocka_unit_test(lists_come_in_pages),
        cmocka_unit_test(what_stays_is_listed_once_whatever_goes_meanwhile),
        cmocka_unit_test(forks_begin_alike_and_go_their_own_ways),
        cmocka_unit_test(a_snapshot_has_all_its_fields_and_brings_a_session_back),
        cmocka_unit_test(a_session_expires),
        cmocka_unit_test(what_is_served_is_said),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
