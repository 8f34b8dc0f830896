/* The tree of snapshots against the simplest model of one (tree.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "tests/server/engine/tree.h"
#include "tests/server/folder.h"

enum { ROUNDS = 700, REOPEN_EVERY = 60 };
enum { CHAIN = 16000, LISTS = 24 }; /* snapshots, each below the one before it */

static const int32_t ids[] = { 5, 6, 7, 8, 9, 10, 11, 12 };

static void play_world(struct engine_options o)
{
    static struct tree w;
    struct engine_counters left;

    w = (struct tree){ .options = o };
    rig_open(&w.rig, TREE_MODEL, &w.options, 1);
    for (int round = 1; round <= ROUNDS; round++) {
        tree_play(&w);
        tree_check(&w);
        if (o.state_dir && round % REOPEN_EVERY == 0)
            tree_reopen(&w);
    }
    for (int i = 0; i < SESSIONS; i++)
        if (w.session[i].alive)
            tree_delete_session(&w, &w.session[i]);
    for (int at; (at = tree_any(&w)) != NONE;)
        tree_delete(&w, at, tree_random(2));
    left = engine_counters(w.rig.engine);
    assert_int_equal(left.sessions + left.snapshots, 0);
    rig_close(&w.rig);
    assert_true(w.cut >= 3);
    assert_true(w.done[COMMAND_SESSION_ROLLBACK] > 5 && w.done[COMMAND_SESSION_RESTORE] > 5);
    if (!o.state_dir)
        return;
    assert_true(w.gone > 2);
    assert_int_equal(tree_records(), 0);
}

static void parents_are_the_nearest_that_are_left(void **unused)
{
    (void)unused;
    play_world(tree_options(8, 1 << 24, false));
}

static void the_tree_outlives_parking_and_restarts(void **unused)
{
    (void)unused;
    play_world(tree_options(8, 1 << 24, true));
    play_world(tree_options(2, 0, true));
}

/* Three sessions stand on snapshots of a subtree, as they do on those of another engine, which
 * keeps its own. */
static void sessions_go_on_when_their_snapshots_are_gone(void **unused)
{
    static struct tree w, kept;

    (void)unused;
    w = (struct tree){ .options = tree_options(2, 0, true) };
    kept = (struct tree){ .options = tree_options(8, 1 << 24, false) };
    rig_open(&w.rig, TREE_MODEL, &w.options, 1);
    rig_open(&kept.rig, TREE_MODEL, &kept.options, 1);
    uint64_t from = tree_seed;

    tree_grow(&w);
    tree_seed = from;
    tree_grow(&kept);
    tree_delete(&w, ROOT, true);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            struct outcome *a =
                rig_run_turn(&w.rig, rig_turn(w.session[i].id.text, ids, 2 + (size_t)i, 6));
            struct outcome *b =
                rig_run_turn(&kept.rig, rig_turn(kept.session[i].id.text, ids, 2 + (size_t)i, 6));

            assert_int_equal(a->problem.what, PROBLEM_NONE);
            assert_memory_equal(a->choice[0].id, b->choice[0].id, 6 * sizeof(int32_t));
            rig_assert_same_state(&w.rig, w.session[i].id.text, &kept.rig, kept.session[i].id.text);
            free(a);
            free(b);
        }
        tree_reopen(&w);
    }
    rig_close(&w.rig);
    rig_close(&kept.rig);
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void list_subtree(struct rig *r, const struct id *root, int expected)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_LIST, NULL, root->text);

    c->count = 3;
    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    assert_int_equal(c->items, expected);
    command_free(c);
}

/* The engine does nothing else meanwhile. Its records are many more than may be on their way to
 * the disk at once. */
static void a_long_chain_is_listed_and_deleted_sooner_than_it_was_taken(void **unused)
{
    struct engine_options o = tree_options(8, 1 << 24, true);
    struct command *c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, NULL);
    struct id first, last;
    double began, took;
    struct rig r;

    (void)unused;
    o.store_bytes = (uint64_t)1 << 40;
    rig_open(&r, TREE_MODEL, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    began = seconds();
    first = rig_snapshot(&r, "a");
    for (int i = 1; i < CHAIN; i++)
        last = rig_snapshot(&r, "a");
    took = seconds() - began;
    began = seconds();
    for (int i = 0; i < LISTS; i++)
        list_subtree(&r, &last, 1);
    list_subtree(&r, &first, 3);
    assert_true(seconds() - began < took);
    c->snapshot = first;
    c->whole = true;
    began = seconds();
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    assert_int_equal(c->count, CHAIN);
    assert_true(seconds() - began < took);
    command_free(c);
    rig_close(&r);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, folder_make_in_memory, folder_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parents_are_the_nearest_that_are_left),
        CASE(the_tree_outlives_parking_and_restarts),
        CASE(sessions_go_on_when_their_snapshots_are_gone),
        CASE(a_long_chain_is_listed_and_deleted_sooner_than_it_was_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
