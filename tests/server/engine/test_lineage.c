/* The tree of snapshots against the simplest model of one: an array of parents, in which what
 * was deleted stays and is looked through. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "server/state/disk.h"
#include "server/state/disk_io.h"
#include "server/state/disk_log.h"
#include "tests/server/engine/rig.h"
#include "tests/server/folder.h"

enum { SESSIONS = 12, SNAPSHOTS = 400, ROUNDS = 700, REOPEN_EVERY = 60, NONE = -1 };
enum { CHAIN = 16000, LISTS = 24 }; /* snapshots, each below the one before it */

static const char model[] = "tests/data/rwkv7-tiny-hf";
static const int32_t ids[] = { 5, 6, 7, 8, 9, 10, 11, 12 };

struct model_snapshot {
    struct id id;
    int parent; /* when it was taken; NONE: a root */
    uint64_t position;
    bool alive;
};

struct model_session {
    struct id id;
    int below; /* the newest snapshot on the way to its head, alive or not */
    uint64_t position;
    bool alive;
};

struct world {
    struct rig rig;
    struct engine_options options;
    struct model_snapshot snapshot[SNAPSHOTS];
    struct model_session session[SESSIONS];
    int snapshots;
    int done[COMMAND_SNAPSHOT_IMPORT + 1], cut, gone; /* so that it can fail */
};

static uint64_t seed = 20251126;

static int below(int n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (int)((seed >> 33) % (uint64_t)n);
}

static struct engine_options options(int slots, size_t host_bytes, bool store)
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

static int nearest(const struct world *w, int at)
{
    while (at != NONE && !w->snapshot[at].alive)
        at = w->snapshot[at].parent;
    return at;
}

static bool is_below(const struct world *w, int at, int root)
{
    while (at != NONE && at != root)
        at = w->snapshot[at].parent;
    return at == root;
}

static int find(const struct world *w, const struct id *id)
{
    for (int i = 0; i < w->snapshots; i++)
        if (strcmp(w->snapshot[i].id.text, id->text) == 0)
            return i;
    return NONE;
}

/* One of those that are alive; NONE: there is none. */
static int any_snapshot(const struct world *w)
{
    int from = w->snapshots ? below(w->snapshots) : 0;

    for (int i = 0; i < w->snapshots; i++)
        if (w->snapshot[(from + i) % w->snapshots].alive)
            return (from + i) % w->snapshots;
    return NONE;
}

static void obey(struct world *w, struct command *c)
{
    w->done[c->kind]++;
    if (rig_ask(&w->rig, c) != PROBLEM_NONE)
        fail_msg("command %d: %s", (int)c->kind, c->problem.message);
}

static void create(struct world *w, struct model_session *s, int from)
{
    struct command *c =
        rig_command(COMMAND_SESSION_CREATE, NULL, from == NONE ? NULL : w->snapshot[from].id.text);

    obey(w, c);
    *s = (struct model_session){
        .id = c->sessions[0].id, .below = from, .position = c->sessions[0].position, .alive = true
    };
    command_free(c);
}

static void append(struct world *w, struct model_session *s)
{
    size_t n = 1 + (size_t)below(8);

    free(rig_run_turn(&w->rig, rig_turn(s->id.text, ids, n, 0)));
    s->position += n;
}

static void take(struct world *w, const struct model_session *of, struct model_session *s)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_TAKE, of->id.text, NULL);
    struct model_snapshot *to = &w->snapshot[w->snapshots];

    obey(w, c);
    *to = (struct model_snapshot){ .id = c->snapshots[0].id,
                                   .parent = nearest(w, of->below),
                                   .position = of->position,
                                   .alive = true };
    s->below = w->snapshots++;
    command_free(c);
}

static void fork_session(struct world *w, const struct model_session *s, struct model_session *to)
{
    struct command *c = rig_command(COMMAND_SESSION_FORK, s->id.text, NULL);

    obey(w, c);
    *to = *s;
    to->id = c->sessions[0].id;
    command_free(c);
}

static void restore(struct world *w, struct model_session *s, int from)
{
    struct command *c = rig_command(COMMAND_SESSION_RESTORE, s->id.text, w->snapshot[from].id.text);

    obey(w, c);
    s->below = from;
    s->position = w->snapshot[from].position;
    command_free(c);
}

static void roll_back(struct world *w, struct model_session *s)
{
    struct command *c = rig_command(COMMAND_SESSION_ROLLBACK, s->id.text, NULL);

    c->position = (uint64_t)below((int)s->position + 1);
    obey(w, c);
    s->position = c->position;
    for (s->below = nearest(w, s->below);
         s->below != NONE && w->snapshot[s->below].position > s->position;)
        s->below = nearest(w, w->snapshot[s->below].parent);
    command_free(c);
}

static void delete_snapshot(struct world *w, int root, bool whole)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, w->snapshot[root].id.text);
    int n = 0;

    c->whole = whole;
    obey(w, c);
    for (int i = 0; i < w->snapshots; i++) {
        if (!w->snapshot[i].alive || !(i == root || (whole && is_below(w, i, root))))
            continue;
        w->snapshot[i].alive = false;
        n++;
    }
    assert_int_equal(c->count, n);
    w->cut += n > 2;
    command_free(c);
}

static void delete_session(struct world *w, struct model_session *s)
{
    struct command *c = rig_command(COMMAND_SESSION_DELETE, s->id.text, NULL);

    obey(w, c);
    s->alive = false;
    command_free(c);
}

/* All pages of a list, of `count` each; root NONE: of all snapshots. */
static int read_list(struct world *w, int root, int count, int seen[SNAPSHOTS])
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

static void check(struct world *w)
{
    int seen[SNAPSHOTS], n, alive = 0, root = any_snapshot(w), part = 0, sessions = 0;

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
    n = read_list(w, root, 1 + below(5), seen);
    for (int i = 0; i < w->snapshots; i++)
        part += w->snapshot[i].alive && is_below(w, i, root);
    assert_int_equal(n, part);
    assert_int_equal(seen[0], root);
    for (int i = 1; i < n; i++) { /* no later one is above it */
        assert_true(is_below(w, seen[i], root));
        for (int k = i + 1; k < n; k++)
            assert_false(is_below(w, seen[i], seen[k]));
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

/* Records in the folder, which no engine has open. */
static int count_records(void)
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

/* What is gone costs the store no more than what is there. */
static void reopen(struct world *w)
{
    int heads = 0, records;

    rig_close(&w->rig);
    for (int i = 0; i < w->snapshots; i++)
        heads += w->snapshot[i].alive;
    for (int i = 0; i < SESSIONS; i++)
        heads += w->session[i].alive;
    records = count_records();
    assert_true(records >= heads && records <= 2 * heads);
    w->gone += records > heads;
    rig_open(&w->rig, model, &w->options, 1);
}

static struct model_session *any_session(struct world *w, bool alive)
{
    int from = below(SESSIONS);

    for (int i = 0; i < SESSIONS; i++)
        if (w->session[(from + i) % SESSIONS].alive == alive)
            return &w->session[(from + i) % SESSIONS];
    return NULL;
}

static void play(struct world *w)
{
    struct model_session *s = any_session(w, true), *free_one = any_session(w, false);
    int at = any_snapshot(w), dice = below(20);

    if (!s || (dice == 0 && free_one))
        create(w, free_one, at);
    else if (dice < 5)
        append(w, s);
    else if (dice < 11 && w->snapshots < SNAPSHOTS)
        take(w, s, s);
    else if (dice < 13 && free_one)
        fork_session(w, s, free_one);
    else if (dice == 13 && at != NONE)
        restore(w, s, at);
    else if (dice == 14)
        roll_back(w, s);
    else if (dice < 17 && at != NONE)
        delete_snapshot(w, at, false);
    else if (dice < 19 && at != NONE)
        delete_snapshot(w, at, true);
    else if (dice == 19)
        delete_session(w, s);
}

static void play_world(struct engine_options o)
{
    static struct world w;
    struct engine_counters left;

    w = (struct world){ .options = o };
    rig_open(&w.rig, model, &w.options, 1);
    for (int round = 1; round <= ROUNDS; round++) {
        play(&w);
        check(&w);
        if (o.state_dir && round % REOPEN_EVERY == 0)
            reopen(&w);
    }
    for (int i = 0; i < SESSIONS; i++)
        if (w.session[i].alive)
            delete_session(&w, &w.session[i]);
    for (int at; (at = any_snapshot(&w)) != NONE;)
        delete_snapshot(&w, at, below(2));
    left = engine_counters(w.rig.engine);
    assert_int_equal(left.sessions + left.snapshots, 0);
    rig_close(&w.rig);
    assert_true(w.cut >= 3);
    assert_true(w.done[COMMAND_SESSION_ROLLBACK] > 5 && w.done[COMMAND_SESSION_RESTORE] > 5);
    if (!o.state_dir)
        return;
    assert_true(w.gone > 2);
    assert_int_equal(count_records(), 0);
}

static void parents_are_the_nearest_that_are_left(void **unused)
{
    (void)unused;
    play_world(options(8, 1 << 24, false));
}

static void the_tree_outlives_parking_and_restarts(void **unused)
{
    (void)unused;
    play_world(options(8, 1 << 24, true));
    play_world(options(2, 0, true));
}

/* From call number fail_at on so many calls fail: all that come, which is what a crash leaves, or
 * one. */
static atomic_int calls, fail_at, fails;

static bool failing(void)
{
    int n = atomic_fetch_add(&calls, 1) + 1, from = atomic_load(&fail_at);

    errno = EIO;
    return from && n >= from && n - from < atomic_load(&fails);
}

static void fail_from(int call, int so_many)
{
    atomic_store(&calls, 0);
    atomic_store(&fails, so_many);
    atomic_store(&fail_at, call);
}

static ssize_t try_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    return failing() ? -1 : pwrite(fd, bytes, len, at);
}

static int try_fsync(int fd)
{
    return failing() ? -1 : fsync(fd);
}

static int try_unlinkat(int dir, const char *path, int flags)
{
    return failing() ? -1 : unlinkat(dir, path, flags);
}

static atomic_bool keeping;

/* States stay, whatever the log says. */
static int keep_states(int dir, const char *path, int flags)
{
    errno = EIO;
    return atomic_load(&keeping) && strstr(path, "ckpt_") ? -1 : unlinkat(dir, path, flags);
}

enum { ROOT = 1, CUT = 4, LEFT = 3 };

/* A tree in which ROOT has CUT snapshots, itself included, and as many that are gone; LEFT others
 * are outside. Sessions stand on both ends, one of them below a snapshot that is gone, and
 * outside.
 *
 *   0 - 1 - (2) - 5 - (6) - 7
 *    \       \
 *     8 - 9   3 - (4)
 */
static void grow(struct world *w)
{
    struct model_session *s = w->session;

    create(w, &s[0], NONE);
    for (int i = 0; i < 6; i++) {
        append(w, &s[0]);
        take(w, &s[0], &s[0]);
        if (i != 2)
            continue;
        fork_session(w, &s[0], &s[1]);
        append(w, &s[1]);
        take(w, &s[1], &s[1]);
        take(w, &s[1], &s[1]);
    }
    fork_session(w, &s[1], &s[2]);
    delete_snapshot(w, 4, false);
    delete_snapshot(w, 6, false);
    delete_snapshot(w, 2, false);
    restore(w, &s[1], 0);
    take(w, &s[1], &s[1]);
    take(w, &s[1], &s[1]);
}

static void open_grown(struct world *w, const struct disk_io *io)
{
    folder_remove(NULL);
    folder_make_in_memory(NULL);
    *w = (struct world){ .options = options(8, 1 << 24, true) };
    w->options.durability = DISK_ALWAYS;
    w->options.io = io;
    rig_open(&w->rig, model, &w->options, 1);
    grow(w);
}

static bool delete_below_root(struct world *w)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, w->snapshot[ROOT].id.text);
    bool answered;

    c->whole = true;
    answered = rig_ask(&w->rig, c) == PROBLEM_NONE;
    command_free(c);
    return answered;
}

static void forget_below_root(struct world *w)
{
    for (int i = 0; i < w->snapshots; i++)
        w->snapshot[i].alive &= !is_below(w, i, ROOT);
}

/* Everything is as expected, goes on, and is found again. */
static void check_and_go_on(struct world *w)
{
    check(w);
    for (int i = 0; i < 3; i++) {
        append(w, &w->session[i]);
        take(w, &w->session[i], &w->session[i]);
    }
    check(w);
    reopen(w);
    check(w);
    assert_int_equal(engine_counters(w->rig.engine).store_reports, 0);
    rig_close(&w->rig);
}

/* A start after call number `call` and the next ones have failed: whether the subtree is there. */
static bool is_left(struct world *w, const struct disk_io *io, int call, int so_many,
                    bool *answered)
{
    int left;

    open_grown(w, io);
    fail_from(call, so_many);
    *answered = delete_below_root(w);
    if (*answered)
        forget_below_root(w);
    check(w);
    rig_close(&w->rig);
    fail_from(0, 0);

    rig_open(&w->rig, model, &w->options, 1);
    left = engine_counters(w->rig.engine).snapshots;
    if (!*answered && left != LEFT + CUT) /* it was done after all */
        forget_below_root(w);
    check_and_go_on(w);
    return left == LEFT + CUT;
}

static void check_failures(int so_many)
{
    static struct world w;
    struct disk_io io = disk_io_system;
    bool answered = false;
    int whole = 0, gone = 0;

    io.pwrite = try_pwrite;
    io.fsync = try_fsync;
    io.unlinkat = try_unlinkat;
    for (int k = 1; !answered || k < 30; k++) {
        bool left = is_left(&w, &io, k, so_many, &answered);

        whole += left;
        gone += !left;
    }
    assert_true(whole >= 1 && gone >= 2);
}

static void a_crash_leaves_a_subtree_whole_or_gone(void **unused)
{
    (void)unused;
    check_failures(INT_MAX);
}

static void a_failure_leaves_a_subtree_whole_or_gone(void **unused)
{
    (void)unused;
    check_failures(1);
}

struct log {
    unsigned char *bytes; /* from malloc */
    size_t len;
};

static int open_log(void)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/log", folder);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    return fd;
}

/* All its records, which no other byte follows. */
static struct log read_log(void)
{
    int fd = open_log();
    size_t len = (size_t)lseek(fd, 0, SEEK_END), n;
    struct log log = { .bytes = malloc(len), .len = DISK_LOG_BEGIN };

    assert_true(pread(fd, log.bytes, len, 0) == (ssize_t)len);
    close(fd);
    while ((n = disk_record_decode(log.bytes + log.len, len - log.len, NULL)))
        log.len += n;
    return log;
}

/* Where the record behind `at` begins. */
static size_t next_record(const struct log *log, size_t at)
{
    size_t n = disk_record_decode(log->bytes + at, log->len - at, NULL);

    assert_true(n > 0);
    return at + n;
}

static void write_log(const struct log *log, size_t len)
{
    int fd = open_log();

    assert_true(pwrite(fd, log->bytes, len, 0) == (ssize_t)len);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
}

/* Nothing is on its way to the folder any more. */
static void settle(struct world *w)
{
    rig_do(&w->rig, COMMAND_SESSION_LIST, NULL);
    while (engine_counters(w->rig.engine).store_waiting)
        usleep(100);
}

/* The work behind the answer may stop at any record. */
static void a_log_that_ends_early_leaves_a_subtree_whole_or_gone(void **unused)
{
    static struct world w;
    struct disk_io io = disk_io_system;
    int records = 0;

    (void)unused;
    io.unlinkat = keep_states;
    for (bool more = true; more; records++) {
        struct log before, log;
        size_t end;

        open_grown(&w, &io);
        before = read_log();
        atomic_store(&keeping, true);
        assert_true(delete_below_root(&w));
        settle(&w);
        rig_close(&w.rig);
        atomic_store(&keeping, false);

        log = read_log();
        end = before.len;
        for (int i = 0; i < records && end < log.len; i++)
            end = next_record(&log, end);
        more = end < log.len;
        write_log(&log, end);
        free(before.bytes);
        free(log.bytes);
        if (records)
            forget_below_root(&w);
        w.options.io = NULL;
        rig_open(&w.rig, model, &w.options, 1);
        check_and_go_on(&w);
    }
    assert_true(records > CUT + 2);
}

/* Shows what each session hangs below. */
static void take_of_all(struct world *w)
{
    for (int i = 0; i < SESSIONS && w->snapshots < SNAPSHOTS; i++)
        if (w->session[i].alive)
            take(w, &w->session[i], &w->session[i]);
    check(w);
}

/* The log of some verbs, cut behind each record: what is found is what was before a verb, or
 * what it made, whatever part of the work behind the answer is there. Taking is two records. */
static void every_beginning_of_a_log_is_a_moment(void **unused)
{
    enum { VERBS = 90 };
    static struct world at[VERBS + 1], w;
    struct disk_io io = disk_io_system;
    size_t len[VERBS + 1], end = 0;
    int cuts = 0;
    struct log log;

    (void)unused;
    io.unlinkat = keep_states;
    atomic_store(&keeping, true);
    w = (struct world){ .options = options(8, 1 << 24, true) };
    w.options.io = &io;
    rig_open(&w.rig, model, &w.options, 1);
    for (int i = 0; i <= VERBS; i++) {
        if (i)
            play(&w);
        settle(&w);
        log = read_log();
        len[i] = log.len;
        at[i] = w;
        free(log.bytes);
    }
    rig_close(&w.rig);
    log = read_log();
    for (int i = 0; i < VERBS; i++)
        for (end = len[i]; end < len[i + 1]; end = next_record(&log, end)) {
            w = at[end == len[i] ? i : i + 1];
            write_log(&log, end);
            rig_open(&w.rig, model, &w.options, 1);
            check(&w);
            if (end == len[i] || at[i].done[COMMAND_SNAPSHOT_TAKE] == w.done[COMMAND_SNAPSHOT_TAKE])
                take_of_all(&w);
            rig_close(&w.rig);
            cuts++;
        }
    atomic_store(&keeping, false);
    free(log.bytes);
    assert_true(cuts > VERBS && w.done[COMMAND_SNAPSHOT_DELETE] > 5 && w.cut > 0);
}

/* Three sessions stand on snapshots of a subtree, as they do on those of another engine, which
 * keeps its own. */
static void sessions_go_on_when_their_snapshots_are_gone(void **unused)
{
    static struct world w, kept;

    (void)unused;
    w = (struct world){ .options = options(2, 0, true) };
    kept = (struct world){ .options = options(8, 1 << 24, false) };
    rig_open(&w.rig, model, &w.options, 1);
    rig_open(&kept.rig, model, &kept.options, 1);
    uint64_t from = seed;

    grow(&w);
    seed = from;
    grow(&kept);
    delete_snapshot(&w, ROOT, true);
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
        reopen(&w);
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
    struct engine_options o = options(8, 1 << 24, true);
    struct command *c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, NULL);
    struct id first, last;
    double began, took;
    struct rig r;

    (void)unused;
    o.store_bytes = (uint64_t)1 << 40;
    rig_open(&r, model, &o, 1);
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
        CASE(a_crash_leaves_a_subtree_whole_or_gone),
        CASE(a_failure_leaves_a_subtree_whole_or_gone),
        CASE(a_log_that_ends_early_leaves_a_subtree_whole_or_gone),
        CASE(every_beginning_of_a_log_is_a_moment),
        CASE(sessions_go_on_when_their_snapshots_are_gone),
        CASE(a_long_chain_is_listed_and_deleted_sooner_than_it_was_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
