#include "tests/server/engine/tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "server/state/disk.h"
#include "tests/server/folder.h"

static const int32_t ids[] = { 5, 6, 7, 8, 9, 10, 11, 12 };

uint64_t tree_seed = 20251126;

int tree_random(int n)
{
    tree_seed = tree_seed * 6364136223846793005u + 1442695040888963407u;
    return (int)((tree_seed >> 33) % (uint64_t)n);
}

struct engine_options tree_options(int slots, size_t host_bytes, bool store)
{
    return (struct engine_options){ .slots = slots,
                                    .max_batch = 4,
                                    .row_budget = 64,
                                    .max_queue = 64,
                                    .max_sessions = SESSIONS,
                                    .host_bytes = host_bytes,
                                    .spare_bytes = 1 << 20,
                                    .state_dir = store ? folder : NULL,
                                    .store_bytes = 1 << 28,
                                    .durability = DISK_NONE };
}

static int nearest(const struct tree *w, int at)
{
    while (at != NONE && !w->snapshot[at].alive)
        at = w->snapshot[at].parent;
    return at;
}

bool tree_is_below(const struct tree *w, int at, int root)
{
    while (at != NONE && at != root)
        at = w->snapshot[at].parent;
    return at == root;
}

static int find(const struct tree *w, const struct id *id)
{
    for (int i = 0; i < w->snapshots; i++)
        if (strcmp(w->snapshot[i].id.text, id->text) == 0)
            return i;
    return NONE;
}

int tree_any(const struct tree *w)
{
    int from = w->snapshots ? tree_random(w->snapshots) : 0;

    for (int i = 0; i < w->snapshots; i++)
        if (w->snapshot[(from + i) % w->snapshots].alive)
            return (from + i) % w->snapshots;
    return NONE;
}

static void obey(struct tree *w, struct command *c)
{
    w->done[c->kind]++;
    if (rig_ask(&w->rig, c) != PROBLEM_NONE)
        fail_msg("command %d: %s", (int)c->kind, c->problem.message);
}

void tree_create(struct tree *w, struct tree_session *s, int from)
{
    struct command *c =
        rig_command(COMMAND_SESSION_CREATE, NULL, from == NONE ? NULL : w->snapshot[from].id.text);

    obey(w, c);
    *s = (struct tree_session){
        .id = c->sessions[0].id, .below = from, .position = c->sessions[0].position, .alive = true
    };
    command_free(c);
}

void tree_append(struct tree *w, struct tree_session *s)
{
    size_t n = 1 + (size_t)tree_random(8);

    free(rig_run_turn(&w->rig, rig_turn(s->id.text, ids, n, 0)));
    s->position += n;
}

void tree_take(struct tree *w, const struct tree_session *of, struct tree_session *s)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_TAKE, of->id.text, NULL);
    struct tree_snapshot *to = &w->snapshot[w->snapshots];

    obey(w, c);
    *to = (struct tree_snapshot){ .id = c->snapshots[0].id,
                                  .parent = nearest(w, of->below),
                                  .position = of->position,
                                  .alive = true };
    s->below = w->snapshots++;
    command_free(c);
}

void tree_fork(struct tree *w, const struct tree_session *s, struct tree_session *to)
{
    struct command *c = rig_command(COMMAND_SESSION_FORK, s->id.text, NULL);

    obey(w, c);
    *to = *s;
    to->id = c->sessions[0].id;
    command_free(c);
}

void tree_restore(struct tree *w, struct tree_session *s, int from)
{
    struct command *c = rig_command(COMMAND_SESSION_RESTORE, s->id.text, w->snapshot[from].id.text);

    obey(w, c);
    s->below = from;
    s->position = w->snapshot[from].position;
    command_free(c);
}

static void roll_back(struct tree *w, struct tree_session *s)
{
    struct command *c = rig_command(COMMAND_SESSION_ROLLBACK, s->id.text, NULL);

    c->position = (uint64_t)tree_random((int)s->position + 1);
    obey(w, c);
    s->position = c->position;
    for (s->below = nearest(w, s->below);
         s->below != NONE && w->snapshot[s->below].position > s->position;)
        s->below = nearest(w, w->snapshot[s->below].parent);
    command_free(c);
}

void tree_delete(struct tree *w, int root, bool whole)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, w->snapshot[root].id.text);
    int n = 0;

    c->whole = whole;
    obey(w, c);
    for (int i = 0; i < w->snapshots; i++) {
        if (!w->snapshot[i].alive || !(i == root || (whole && tree_is_below(w, i, root))))
            continue;
        w->snapshot[i].alive = false;
        n++;
    }
    assert_int_equal(c->count, n);
    w->cut += n > 2;
    command_free(c);
}

void tree_delete_session(struct tree *w, struct tree_session *s)
{
    struct command *c = rig_command(COMMAND_SESSION_DELETE, s->id.text, NULL);

    obey(w, c);
    s->alive = false;
    command_free(c);
}

/* All pages of a list, of `count` each; root NONE: of all snapshots. */
static int read_list(struct tree *w, int root, int count, int seen[SNAPSHOTS])
{
    struct id after = { "" };
    bool more = true;
    int n = 0;

    while (more) {
        struct command *c = rig_command(COMMAND_SNAPSHOT_LIST, NULL,
                                        root == NONE ? NULL : w->snapshot[root].id.text);

        c->count = count;
        c->after = after;
        obey(w, c);
        for (int i = 0; i < c->items; i++) {
            int at = find(w, &c->snapshots[i].id);
            int parent = at == NONE ? NONE : nearest(w, w->snapshot[at].parent);

            assert_true(at != NONE && w->snapshot[at].alive);
            assert_string_equal(c->snapshots[i].parent.text,
                                parent == NONE ? "" : w->snapshot[parent].id.text);
            assert_true(c->snapshots[i].position == w->snapshot[at].position);
            seen[n++] = at;
        }
        after = c->snapshots[c->items ? c->items - 1 : 0].id;
        more = c->more;
        command_free(c);
    }
    return n;
}

void tree_check(struct tree *w)
{
    int seen[SNAPSHOTS], n, alive = 0, root = tree_any(w), part = 0, sessions = 0;

    for (int i = 0; i < SESSIONS; i++)
        sessions += w->session[i].alive;
    assert_int_equal(engine_counters(w->rig.engine).sessions, sessions);
    for (int i = 0; i < w->snapshots; i++)
        alive += w->snapshot[i].alive;
    if (alive)
        assert_int_equal(read_list(w, NONE, SNAPSHOTS, seen), alive);
    assert_int_equal(engine_counters(w->rig.engine).snapshots, alive);
    if (root == NONE)
        return;
    n = read_list(w, root, 1 + tree_random(5), seen);
    for (int i = 0; i < w->snapshots; i++)
        part += w->snapshot[i].alive && tree_is_below(w, i, root);
    assert_int_equal(n, part);
    assert_int_equal(seen[0], root);
    for (int i = 1; i < n; i++) { /* no later one is above it */
        assert_true(tree_is_below(w, seen[i], root));
        for (int k = i + 1; k < n; k++)
            assert_false(tree_is_below(w, seen[i], seen[k]));
    }
}

static void count_record(void *arg, const struct disk_record *r)
{
    (void)r;
    ++*(int *)arg;
}

static void nothing_to_report(void *arg, const char *what)
{
    (void)arg;
    fail_msg("%s", what);
}

int tree_records(void)
{
    int n = 0;
    struct error err;
    struct disk *d = disk_open(&(struct disk_options){ .path = folder,
                                                       .mode = DISK_NONE,
                                                       .max_ops = 1,
                                                       .arg = &n,
                                                       .found = count_record,
                                                       .report = nothing_to_report },
                               &err);

    assert_non_null(d);
    disk_close(d);
    return n;
}

void tree_reopen(struct tree *w)
{
    int heads = 0, records;

    rig_close(&w->rig);
    for (int i = 0; i < w->snapshots; i++)
        heads += w->snapshot[i].alive;
    for (int i = 0; i < SESSIONS; i++)
        heads += w->session[i].alive;
    records = tree_records();
    assert_true(records >= heads && records <= 2 * heads);
    w->gone += records > heads;
    rig_open(&w->rig, TREE_MODEL, &w->options, 1);
}

static struct tree_session *any_session(struct tree *w, bool alive)
{
    int from = tree_random(SESSIONS);

    for (int i = 0; i < SESSIONS; i++)
        if (w->session[(from + i) % SESSIONS].alive == alive)
            return &w->session[(from + i) % SESSIONS];
    return NULL;
}

void tree_play(struct tree *w)
{
    struct tree_session *s = any_session(w, true), *free_one = any_session(w, false);
    int at = tree_any(w), dice = tree_random(20);

    if (!s || (dice == 0 && free_one))
        tree_create(w, free_one, at);
    else if (dice < 5)
        tree_append(w, s);
    else if (dice < 11 && w->snapshots < SNAPSHOTS)
        tree_take(w, s, s);
    else if (dice < 13 && free_one)
        tree_fork(w, s, free_one);
    else if (dice == 13 && at != NONE)
        tree_restore(w, s, at);
    else if (dice == 14)
        roll_back(w, s);
    else if (dice < 17 && at != NONE)
        tree_delete(w, at, false);
    else if (dice < 19 && at != NONE)
        tree_delete(w, at, true);
    else if (dice == 19)
        tree_delete_session(w, s);
}

void tree_grow(struct tree *w)
{
    struct tree_session *s = w->session;

    tree_create(w, &s[0], NONE);
    for (int i = 0; i < 6; i++) {
        tree_append(w, &s[0]);
        tree_take(w, &s[0], &s[0]);
        if (i != 2)
            continue;
        tree_fork(w, &s[0], &s[1]);
        tree_append(w, &s[1]);
        tree_take(w, &s[1], &s[1]);
        tree_take(w, &s[1], &s[1]);
    }
    tree_fork(w, &s[1], &s[2]);
    tree_delete(w, 4, false);
    tree_delete(w, 6, false);
    tree_delete(w, 2, false);
    tree_restore(w, &s[1], 0);
    tree_take(w, &s[1], &s[1]);
    tree_take(w, &s[1], &s[1]);
}
