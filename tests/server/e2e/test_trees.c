/* Snapshots as a tree: parents, subtrees, and what stands on a snapshot that is deleted; also
 * when states are parked and the server is killed. */
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

enum { NAME = 80, MOST = 32 };

/* The tree that plant() makes; sessions a, b and c end below 3, 5 and 6.
 *
 *   0 - 1 - 2 - 3        of a
 *        \    \
 *         4    6         of b, of c (a fork of a)
 *          \
 *           5            of b
 */
enum { SNAPSHOTS = 7 };
static const int planted_below[SNAPSHOTS] = { -1, 0, 1, 2, 1, 4, 2 };
static const char *const planted_of[SNAPSHOTS] = { "a", "a", "a", "a", "b", "b", "c" };

static void begin(struct live *l)
{
    live_start(l, RWKV7, "--state-dir", folder, "--slots", "2", "--max-batch", "2", "--host-memory",
               "0", NULL);
}

static void begin_again(struct live *l, bool kill)
{
    if (kill)
        live_kill(l);
    else
        assert_int_equal(live_stop(l), 0);
    begin(l);
}

/* A turn that draws; what it says, from malloc. */
static char *turn(const struct live *l, const char *session)
{
    cJSON *r = ask(l->port, "POST", "/v1/completions",
                   "{\"session_id\":\"%s\",\"prompt\":[5,6,7],\"max_tokens\":6,"
                   "\"temperature\":0.9,\"ignore_eos\":true}",
                   session);
    char *text = answer_text(r);

    cJSON_Delete(r);
    return text;
}

static void create(const struct live *l, const char *id, const char *snapshot)
{
    cJSON_Delete(snapshot ? ask(l->port, "POST", "/v1/sessions",
                                "{\"id\":\"%s\",\"seed\":3,\"snapshot\":\"%s\"}", id, snapshot)
                          : ask(l->port, "POST", "/v1/sessions", "{\"id\":\"%s\",\"seed\":3}", id));
}

static void take(const struct live *l, const char *session, char id[NAME])
{
    char path[NAME];
    cJSON *s;

    free(turn(l, session));
    snprintf(path, sizeof(path), "/v1/sessions/%s/snapshots", session);
    s = ask(l->port, "POST", path, "{}");
    snprintf(id, NAME, "%s", text_of(s, "id"));
    cJSON_Delete(s);
}

static void plant(const struct live *l, char id[SNAPSHOTS][NAME])
{
    create(l, "a", NULL);
    for (int i = 0; i < SNAPSHOTS; i++) {
        if (i == 4)
            create(l, "b", id[1]);
        if (i == 6)
            create(l, "c", id[2]);
        take(l, planted_of[i], id[i]);
    }
}

/* The ids of a list in one string each; how many. */
static int list(const struct live *l, const char *query, char id[MOST][NAME])
{
    char path[256];
    cJSON *r;
    int n;

    snprintf(path, sizeof(path), "/v1/snapshots?%s", query);
    r = ask(l->port, "GET", path, NULL);
    n = cJSON_GetArraySize(item_of(r, "data"));
    assert_true(n <= MOST);
    for (int i = 0; i < n; i++)
        snprintf(id[i], NAME, "%s", text_of(cJSON_GetArrayItem(item_of(r, "data"), i), "id"));
    cJSON_Delete(r);
    return n;
}

/* parent[i] is i's parent, -1 for none and -2 for a snapshot that is not there. */
static void assert_tree(const struct live *l, char id[][NAME], const int parent[], int n)
{
    char path[NAME + 32];

    for (int i = 0; i < n; i++) {
        cJSON *s;

        snprintf(path, sizeof(path), "/v1/snapshots/%s", id[i]);
        if (parent[i] == -2) {
            refused(l->port, 404, "snapshot_not_found", "GET", path, NULL);
            continue;
        }
        s = ask(l->port, "GET", path, NULL);
        if (parent[i] == -1)
            assert_true(cJSON_IsNull(item_of(s, "parent")));
        else
            assert_string_equal(text_of(s, "parent"), id[parent[i]]);
        cJSON_Delete(s);
    }
}

static int drop(const struct live *l, const char *id, const char *query)
{
    char path[2 * NAME];
    cJSON *r;
    int n;

    snprintf(path, sizeof(path), "/v1/snapshots/%s%s", id, query);
    r = ask(l->port, "DELETE", path, NULL);
    assert_string_equal(text_of(r, "id"), id);
    assert_string_equal(text_of(r, "object"), "snapshot.deleted");
    assert_true(flag_of(r, "deleted"));
    n = (int)number_of(r, "snapshots");
    cJSON_Delete(r);
    return n;
}

static bool has(char list[MOST][NAME], int n, const char *id)
{
    for (int i = 0; i < n; i++)
        if (strcmp(list[i], id) == 0)
            return true;
    return false;
}

static void a_subtree_is_a_list_with_ancestors_first(void **unused)
{
    char id[SNAPSHOTS][NAME], found[MOST][NAME], page[MOST][NAME], query[3 * NAME];
    static const int below_2[] = { 2, 3, 6 };
    struct live l;
    int n, seen = 0;

    (void)unused;
    begin(&l);
    plant(&l, id);
    assert_tree(&l, id, planted_below, SNAPSHOTS);
    assert_int_equal(list(&l, "", found), SNAPSHOTS);
    snprintf(query, sizeof(query), "subtree=%s", id[2]);
    n = list(&l, query, found);
    assert_int_equal(n, 3);
    assert_string_equal(found[0], id[2]);
    for (int i = 0; i < n; i++)
        assert_true(has(found, n, id[below_2[i]]));
    snprintf(query, sizeof(query), "subtree=%s", id[0]);
    n = list(&l, query, found);
    assert_int_equal(n, SNAPSHOTS);
    for (int i = 0; i < n; i++) { /* the same, one by one */
        snprintf(query, sizeof(query), "subtree=%s&limit=1%s%s", id[0], i ? "&after=" : "",
                 i ? found[i - 1] : "");
        assert_int_equal(list(&l, query, page), 1);
        assert_string_equal(page[0], found[i]);
    }
    snprintf(query, sizeof(query), "subtree=%s&after=%s", id[2], id[2]);
    assert_int_equal(list(&l, query, page), 2); /* those below */

    /* Of one session, in a subtree or at all, and when it is gone. */
    snprintf(query, sizeof(query), "subtree=%s&session=a", id[1]);
    n = list(&l, query, found);
    for (int i = 0; i < n; i++)
        seen += strcmp(found[i], id[1]) == 0 || strcmp(found[i], id[2]) == 0 ||
                strcmp(found[i], id[3]) == 0;
    assert_true(n == 3 && seen == 3);
    cJSON_Delete(ask(l.port, "DELETE", "/v1/sessions/b", NULL));
    n = list(&l, "session=b", found);
    assert_int_equal(n, 2);
    assert_string_equal(found[0], id[4]);
    assert_string_equal(found[1], id[5]);
    assert_int_equal(list(&l, "session=nobody", found), 0);
    refused(l.port, 400, "invalid_parameter", "GET", "/v1/snapshots?session=a%20b", NULL);
    refused(l.port, 400, "invalid_parameter", "GET", "/v1/snapshots?subtree=.x", NULL);
    refused(l.port, 404, "snapshot_not_found", "GET", "/v1/snapshots?subtree=snap_none", NULL);
    snprintf(query, sizeof(query), "/v1/snapshots/%s?subtree=all", id[0]);
    refused(l.port, 400, "invalid_parameter", "DELETE", query, NULL);
    assert_int_equal(list(&l, "", found), SNAPSHOTS);
    assert_int_equal(drop(&l, id[0], "?subtree=true"), SNAPSHOTS);
    assert_int_equal(list(&l, "", found), 0);
    refused(l.port, 404, "snapshot_not_found", "DELETE", "/v1/snapshots/snap_none?subtree=true",
            NULL);
    assert_int_equal(live_stop(&l), 0);
}

/* A parent is the nearest ancestor that is left; so it is for what is taken later, too. */
static void check_parents(bool kill)
{
    static const int without_1[SNAPSHOTS] = { -1, -2, 0, 2, 0, 4, 2 };
    static const int without_both[SNAPSHOTS] = { -1, -2, -2, 0, 0, 4, 0 };
    static const int then[SNAPSHOTS + 3] = { -1, -2, -2, 0, 0, -2, 0, 4, 0, 3 };
    char id[SNAPSHOTS + 3][NAME];
    struct live l;

    begin(&l);
    plant(&l, id);
    begin_again(&l, kill);
    assert_tree(&l, id, planted_below, SNAPSHOTS);
    assert_int_equal(drop(&l, id[1], ""), 1);
    assert_tree(&l, id, without_1, SNAPSHOTS);
    begin_again(&l, kill);
    assert_tree(&l, id, without_1, SNAPSHOTS);
    assert_int_equal(drop(&l, id[2], "?subtree=false"), 1);
    begin_again(&l, kill);
    assert_tree(&l, id, without_both, SNAPSHOTS);
    assert_int_equal(drop(&l, id[5], "?subtree=true"), 1); /* on which b stands */
    begin_again(&l, kill);
    take(&l, "b", id[SNAPSHOTS]);
    cJSON_Delete(ask(l.port, "POST", "/v1/sessions/c/rollback", "{\"position\":12}"));
    take(&l, "c", id[SNAPSHOTS + 1]); /* back before the snapshot of its own, and before 2 */
    cJSON_Delete(ask(l.port, "POST", "/v1/sessions/c/restore", "{\"snapshot\":\"%s\"}", id[3]));
    take(&l, "c", id[SNAPSHOTS + 2]);
    assert_tree(&l, id, then, SNAPSHOTS + 3);
    begin_again(&l, kill);
    assert_tree(&l, id, then, SNAPSHOTS + 3);
    assert_int_equal(drop(&l, id[0], "?subtree=true"), SNAPSHOTS);
    live_kill(&l); /* at once: the rest of the work is the next start's */
    begin(&l);
    for (int i = 0; i < SNAPSHOTS + 3; i++)
        assert_tree(&l, &id[i], (const int[]){ -2 }, 1);
    for (const char *s = "abc"; *s; s++) {
        char name[2] = { *s, 0 };

        take(&l, name, id[0]);
        assert_tree(&l, id, (const int[]){ -1 }, 1);
        drop(&l, id[0], "");
    }
    assert_int_equal(live_metric(&l, "eddy_snapshots"), 0);
    assert_int_equal(live_metric(&l, "eddy_disk_reports_total"), 0);
    for (const char *s = "abc"; *s; s++) {
        char path[NAME];

        snprintf(path, sizeof(path), "/v1/sessions/%c", *s);
        cJSON_Delete(ask(l.port, "DELETE", path, NULL));
    }
    assert_int_equal(live_stop(&l), 0);
}

static void parents_are_true_after_restarts(void **unused)
{
    (void)unused;
    check_parents(false);
}

static void parents_are_true_after_kills(void **unused)
{
    (void)unused;
    check_parents(true);
}

/* Sessions below a subtree that is deleted say what they say on a server that keeps it. */
static void sessions_go_on_when_their_snapshots_are_gone(void **unused)
{
    char id[SNAPSHOTS][NAME], kept_id[SNAPSHOTS][NAME];
    struct live l, kept;

    (void)unused;
    begin(&l);
    live_start(&kept, RWKV7, NULL);
    plant(&l, id);
    plant(&kept, kept_id);
    assert_int_equal(drop(&l, id[1], "?subtree=true"), SNAPSHOTS - 1);
    for (int round = 0; round < 3; round++) {
        for (const char *s = "abc"; *s; s++) {
            const char name[2] = { *s, 0 };
            char *says = turn(&l, name), *expected = turn(&kept, name);
            struct state is = state_of(l.port, name), was = state_of(kept.port, name);

            assert_string_equal(says, expected);
            assert_same_state(&is, &was, name);
            state_free(&is);
            state_free(&was);
            free(says);
            free(expected);
        }
        begin_again(&l, round == 0);
    }
    assert_int_equal(live_stop(&l), 0);
    assert_int_equal(live_stop(&kept), 0);
}

/* What is said of session a and its snapshot where their model, or their numbers, are not those
 * that are served; and then that they are. */
static void check_foreign(struct live *l, const char *model, const char *dtype, bool ours)
{
    cJSON *s, *list;
    const cJSON *snapshot;

    live_start(l, model, "--state-dir", folder, "--state-dtype", dtype, NULL);
    s = ask(l->port, "GET", "/v1/sessions/a", NULL);
    list = ask(l->port, "GET", "/v1/snapshots", NULL);
    snapshot = cJSON_GetArrayItem(item_of(list, "data"), 0);
    assert_string_equal(text_of(s, "residency"), ours ? "disk" : "foreign");
    assert_string_equal(text_of(snapshot, "tier"), ours ? "disk" : "foreign");
    assert_int_equal(cJSON_IsNull(item_of(s, "model")), !ours);
    assert_int_equal(cJSON_IsNull(item_of(s, "state_bytes")), !ours);
    assert_int_equal(cJSON_IsNull(item_of(snapshot, "bytes")), !ours);
    assert_true(live_metric(l, "eddy_disk_reports_total") == (ours ? 0 : 1));
    cJSON_Delete(list);
    cJSON_Delete(s);
    assert_int_equal(live_stop(l), 0);
}

static void what_another_model_left_says_so(void **unused)
{
    struct live l;

    (void)unused;
    begin(&l);
    cJSON_Delete(ask(l.port, "POST", "/v1/sessions", "{\"id\":\"a\"}"));
    free(turn(&l, "a"));
    cJSON_Delete(ask(l.port, "POST", "/v1/sessions/a/snapshots", "{}"));
    assert_int_equal(live_stop(&l), 0);
    check_foreign(&l, MAMBA, "f32", false);
    check_foreign(&l, RWKV7, "bf16", false);
    check_foreign(&l, RWKV7, "f32", true);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_subtree_is_a_list_with_ancestors_first),
        CASE(parents_are_true_after_restarts),
        CASE(parents_are_true_after_kills),
        CASE(sessions_go_on_when_their_snapshots_are_gone),
        CASE(what_another_model_left_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
