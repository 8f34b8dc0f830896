/* The engine over a state folder: what is answered is kept, a restart changes nothing, what
 * the disk refuses never happened, and what lies on it goes on bit for bit. */
#include <errno.h>
#include <fcntl.h>
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

#include "server/state/disk_io.h"
#include "tests/server/engine/store_rig.h"
#include "tests/server/said.h"

enum { EXPIRE = 1000 };

static struct id take_snapshot(struct rig *r, const char *session, const char *label)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_TAKE, session, NULL);
    struct id id;

    strcpy(c->label, label);
    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    id = c->snapshots[0].id;
    command_free(c);
    return id;
}

static void create_with_all(struct rig *r)
{
    struct command *c = rig_command(COMMAND_SESSION_CREATE, "a", NULL);

    c->has_seed = c->has_ttl = true;
    c->seed = 77;
    c->ttl = 5000;
    c->metadata = strdup("{\"who\":\"me\"}");
    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    command_free(c);
}

/* What its description says of where it comes from, too: a turn, or another server. */
static void a_state_from_the_disk_is_the_file_that_it_was(void **unused)
{
    const struct engine_options o = store_options(4, 1 << 20);
    unsigned char *before[2], *after;
    size_t before_len[2], len;
    struct rig r;

    (void)unused;
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    for (int i = 0; i < 2; i++)
        free(rig_run_turn(&r, store_turn("a", i, 5)));
    before[0] = rig_export(&r, "a", &before_len[0]);
    assert_non_null(memmem(before[0], before_len[0], "\"parent\":\"ckpt_", 15));
    assert_int_equal(rig_import(&r, "b", before[0], before_len[0]), PROBLEM_NONE);
    before[1] = rig_export(&r, "b", &before_len[1]);
    rig_close(&r);

    rig_open(&r, store_model, &o, 1);
    for (int i = 0; i < 2; i++) {
        after = rig_export(&r, i ? "b" : "a", &len);
        assert_int_equal(len, before_len[i]);
        assert_memory_equal(after, before[i], len);
        free(after);
        free(before[i]);
    }
    rig_close(&r);
}

static void a_restart_brings_everything_back(void **unused)
{
    const struct engine_options o = store_options(4, 1 << 20);
    struct rig r, plain;
    struct session_info before, *after;
    struct command *c;
    struct id snapshot;

    (void)unused;
    rig_open(&r, store_model, &o, 1);
    rig_open(&plain, store_model, &store_roomy, 1);
    create_with_all(&r);
    create_with_all(&plain);
    rig_do(&r, COMMAND_SESSION_CREATE, "gone");
    rig_do(&r, COMMAND_SESSION_CREATE, "empty");
    store_both(&r, &plain, "a", 0, 5);
    snapshot = take_snapshot(&r, "a", "first");
    store_both(&r, &plain, "a", 1, 4);
    rig_do(&r, COMMAND_SESSION_DELETE, "gone");
    before = *store_describe(&r, "a");
    before.metadata = NULL;
    rig_close(&r);

    rig_open(&r, store_model, &o, 1);
    assert_int_equal(engine_counters(r.engine).sessions, 2);
    assert_int_equal(engine_counters(r.engine).snapshots, 1);
    after = store_describe(&r, "a");
    assert_string_equal(after->metadata, "{\"who\":\"me\"}");
    assert_string_equal(after->residency, "disk");
    assert_string_equal(after->head.text, before.head.text);
    assert_true(after->version == before.version && after->position == before.position);
    assert_true(after->created == before.created && after->updated == before.updated);
    assert_true(after->expires == after->updated + 5000);
    c = rig_command(COMMAND_SNAPSHOT_GET, NULL, snapshot.text);
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    assert_string_equal(c->snapshots[0].label, "first");
    assert_string_equal(c->snapshots[0].session.text, "a");
    assert_string_equal(c->snapshots[0].tier, "disk");
    command_free(c);
    rig_assert_same_state(&r, "a", &plain, "a");
    store_both(&r, &plain, "a", 2, 6);
    rig_assert_same_state(&r, "a", &plain, "a");
    assert_int_equal(store_ask(&r, COMMAND_SESSION_RESTORE, "a", snapshot.text), PROBLEM_NONE);
    assert_int_equal(store_ask(&r, COMMAND_SNAPSHOT_DELETE, NULL, snapshot.text), PROBLEM_NONE);
    rig_close(&r);

    rig_open(&r, store_model, &o, 1);
    assert_int_equal(engine_counters(r.engine).snapshots, 0);
    assert_int_equal(store_describe(&r, "a")->position, STORE_PROMPT + 5);
    assert_int_equal(engine_counters(r.engine).store_reports, 0);
    rig_close(&r);
    rig_close(&plain);
}

/* ?convert=true is for uploads. */
static void assert_waits_for(const struct command *c, const char *dtype)
{
    char advice[64];

    snprintf(advice, sizeof(advice), "with --state-dtype %s goes on with it", dtype);
    assert_int_equal(c->problem.what, PROBLEM_NUMBERS_MISMATCH);
    assert_non_null(strstr(c->problem.message, advice));
    assert_null(strstr(c->problem.message, "convert"));
}

/* With the other --state-dtype a state is refused by name, and is no damage: with its own it goes
 * on as if nothing had been. */
static void states_of_the_other_number_format_wait_for_their_own(void **unused)
{
    const struct engine_options o = store_options(4, 1 << 20);
    struct rig r, plain;
    struct command *c;
    unsigned char *file;
    size_t len;

    (void)unused;
    rig_open(&plain, store_model, &store_roomy, 1);
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    rig_do(&r, COMMAND_SESSION_CREATE, "empty");
    rig_do(&plain, COMMAND_SESSION_CREATE, "a");
    store_both(&r, &plain, "a", 0, 5);
    rig_close(&r);

    rig_open_narrow(&r, store_model, &o, 1);
    c = store_turn("a", 1, 4);
    rig_ask(&r, c);
    assert_waits_for(c, "f32");
    command_free(c);
    assert_int_equal(store_ask(&r, COMMAND_SESSION_EXPORT, "a", NULL), PROBLEM_NUMBERS_MISMATCH);
    rig_do(&r, COMMAND_SESSION_CREATE, "b");
    free(rig_run_turn(&r, store_turn("b", 0, 3)));
    file = rig_export(&r, "empty", &len); /* which is of either */
    assert_int_equal(rig_import(&r, "empty-too", file, len), PROBLEM_NONE);
    free(file);
    assert_int_equal(engine_counters(r.engine).store_reports, 1); /* at start, of all of them */
    rig_close(&r);

    rig_open(&r, store_model, &o, 1);
    c = store_turn("b", 1, 4);
    rig_ask(&r, c);
    assert_waits_for(c, "bf16");
    command_free(c);
    rig_assert_same_state(&r, "a", &plain, "a");
    store_both(&r, &plain, "a", 1, 4);
    rig_close(&r);
    rig_close(&plain);
}

/* No host memory at all: every turn reads its session back, by turns with its past in memory
 * and without. */
static void sessions_on_the_disk_go_on_exactly(void **unused)
{
    enum { SESSIONS = 5 };
    const struct engine_options o = store_options(2, 0);
    struct rig few, many;
    char name[16];

    (void)unused;
    rig_open(&few, store_model, &o, 1);
    rig_open(&many, store_model, &store_roomy, 1);
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        rig_do(&few, COMMAND_SESSION_CREATE, name);
        rig_do(&many, COMMAND_SESSION_CREATE, name);
    }
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < SESSIONS; i++) {
            snprintf(name, sizeof(name), "s%d", i);
            store_both(&few, &many, name, i + round, 3 + i % 2);
        }
        if (round == 1)
            nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 300000000 }, NULL); /* a sweep */
    }
    assert_true(engine_counters(few.engine).moves.store_device >= 3 * SESSIONS);
    assert_int_equal(engine_counters(few.engine).host_bytes, 0);
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        rig_assert_same_state(&few, name, &many, name);
    }
    rig_close(&few);
    rig_close(&many);
}

/* The path of the only file of a checkpoint. */
static void find_file(const struct id *checkpoint, char path[300])
{
    for (int i = 0; i < 256; i++) {
        snprintf(path, 300, "%s/states/%02x/%s", folder, i, checkpoint->text);
        if (access(path, F_OK) == 0)
            return;
    }
    fail_msg("there is no file of %s", checkpoint->text);
}

static void damage(const char *path)
{
    int fd = open(path, O_RDWR);
    char byte;

    assert_int_equal(pread(fd, &byte, 1, 3000), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 3000), 1);
    close(fd);
}

static void a_damaged_state_is_set_aside(void **unused)
{
    const struct engine_options o = store_options(1, 0);
    struct rig r;
    struct outcome *out;
    struct id head;
    char path[300], aside[320], log[4096];
    struct said said;

    (void)unused;
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "good");
    rig_do(&r, COMMAND_SESSION_CREATE, "bad");
    free(rig_run_turn(&r, store_turn("bad", 0, 3)));
    free(rig_run_turn(&r, store_turn("good", 0, 3)));
    head = store_describe(&r, "bad")->head;
    assert_string_equal(store_describe(&r, "bad")->residency, "disk");
    find_file(&head, path);
    damage(path);
    said = said_begin();
    for (int i = 0; i < 2; i++) {
        out = rig_run_turn(&r, store_turn("bad", 1, 3));
        assert_int_equal(out->problem.what, PROBLEM_STATE_DAMAGED);
        free(out);
        assert_int_equal(store_ask(&r, COMMAND_SESSION_EXPORT, "bad", NULL), PROBLEM_STATE_DAMAGED);
        out = rig_run_turn(&r, store_turn("good", 1, 3));
        assert_int_equal(out->problem.what, PROBLEM_NONE);
        free(out);
    }
    assert_int_equal(store_describe(&r, "bad")->version, 1);
    assert_string_equal(store_describe(&r, "bad")->residency, "damaged");
    snprintf(aside, sizeof(aside), "%s.corrupt", path);
    assert_int_equal(access(aside, F_OK), 0);
    said_end(&said, log, sizeof(log));
    assert_non_null(strstr(log, strrchr(aside, '/') + 1)); /* where it went, to the end */
    assert_int_equal(engine_counters(r.engine).store_reports, 1);
    rig_restart(&r, &o); /* it does not go back to what it was before */
    assert_int_equal(store_describe(&r, "bad")->version, 1);
    assert_string_equal(store_describe(&r, "bad")->residency, "damaged");
    out = rig_run_turn(&r, store_turn("bad", 1, 3));
    assert_int_equal(out->problem.what, PROBLEM_STATE_DAMAGED);
    free(out);
    assert_int_equal(engine_counters(r.engine).store_reports, 1);
    rig_do(&r, COMMAND_SESSION_DELETE, "bad");
    rig_restart(&r, &o);
    assert_int_equal(engine_counters(r.engine).store_reports, 0);
    assert_int_equal(engine_counters(r.engine).sessions, 1);
    rig_close(&r);
}

/* A turn of a context whose beginning sessions of the store have taken in. */
static struct outcome *begin_alike(struct rig *r, const char *session, size_t n, int tokens)
{
    int32_t context[64];

    for (size_t i = 0; i < n; i++)
        context[i] = 5 + (int32_t)i;
    return rig_run_turn(r, rig_turn(session, context, n, tokens));
}

static void a_prefix_that_cannot_be_read_costs_its_tokens_and_no_answer(void **unused)
{
    static const struct {
        size_t short_one, long_one; /* what is damaged of the two that are there */
        size_t cached;              /* of the second turn that is begun like them */
    } rows[] = { { false, true, 20 }, { true, true, 0 }, { true, false, 40 } };

    (void)unused;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct engine_options o = store_options(1, 0);
        struct outcome *expected, *out;
        struct rig r, plain;
        char path[300];
        struct id head;

        rig_open(&r, store_model, &o, 1);
        rig_open(&plain, store_model, &store_roomy, 1);
        for (int k = 0; k < 2; k++) {
            const char *name = k ? "long" : "short";

            rig_do(&r, COMMAND_SESSION_CREATE, name);
            free(begin_alike(&r, name, k ? 40 : 20, 1));
        }
        rig_do(&r, COMMAND_SESSION_CREATE, "other");
        free(rig_run_turn(&r, store_turn("other", 3, 3)));
        for (int k = 0; k < 2; k++) {
            head = store_describe(&r, k ? "long" : "short")->head;
            find_file(&head, path);
            if (k ? rows[i].long_one : rows[i].short_one)
                damage(path);
        }
        expected = begin_alike(&plain, "", 60, 3);
        for (int k = 0; k < 3; k++) {
            out = begin_alike(&r, "", 60, 3);
            assert_int_equal(out->problem.what, PROBLEM_NONE);
            if (k == 1)
                assert_int_equal(out->cached_tokens, rows[i].cached);
            assert_memory_equal(out->choice[0].id, expected->choice[0].id, 3 * sizeof(int32_t));
            free(out);
        }
        free(expected);
        rig_close(&plain);
        rig_close(&r);
        folder_remove(NULL);
        folder_make(NULL);
    }
}

/* Calls that write fail from number fail_at on, `fails` of them. */
static atomic_int calls, fail_at, fails, fail_with;

static bool hit(void)
{
    int n = atomic_fetch_add(&calls, 1) + 1, from = atomic_load(&fail_at);

    if (!from || n < from || n >= from + atomic_load(&fails))
        return false;
    errno = atomic_load(&fail_with);
    return true;
}

static ssize_t try_pwrite(int fd, const void *bytes, size_t len, off_t at)
{
    if (!hit())
        return pwrite(fd, bytes, len, at);
    if (atomic_load(&fail_with)) /* a full disk takes what it has room for */
        return len > 100 && errno == ENOSPC ? pwrite(fd, bytes, 100, at) : -1;
    return pwrite(fd, bytes, len / 2 + 1, at);
}

static int try_fallocate(int fd, int mode, off_t at, off_t len)
{
    return hit() && atomic_load(&fail_with) ? -1 : fallocate(fd, mode, at, len);
}

static int try_fsync(int fd)
{
    return hit() && atomic_load(&fail_with) ? -1 : fsync(fd);
}

static int try_renameat(int from, const char *path, int to, const char *new_path)
{
    return hit() && atomic_load(&fail_with) ? -1 : renameat(from, path, to, new_path);
}

static struct disk_io faulty_io(void)
{
    struct disk_io io = disk_io_system;

    io.pwrite = try_pwrite;
    io.fallocate = try_fallocate;
    io.fsync = try_fsync;
    io.renameat = try_renameat;
    return io;
}

static int count_drafts(void)
{
    char command[160], line[16] = "";
    FILE *f;

    snprintf(command, sizeof(command), "find %s -name '.tmp.*' | wc -l", folder);
    f = popen(command, "r");
    assert_non_null(fgets(line, sizeof(line), f));
    pclose(f);
    return (int)strtol(line, NULL, 10);
}

static bool is_refusal(enum problem_code what, int with)
{
    return what == PROBLEM_STORAGE_ERROR || (with == ENOSPC && what == PROBLEM_STORAGE_FULL);
}

/* Each call of a turn's commit fails once: the turn happened, or it did not and can be had
 * again; the restarted engine agrees. */
static int sweep_turns(int with, int how_many)
{
    const struct disk_io io = faulty_io();
    struct engine_options o = store_options(2, 0);
    struct rig r, plain;
    struct outcome *out;
    int refused = 0;

    o.io = &io;
    rig_open(&plain, store_model, &store_roomy, 1);
    rig_do(&plain, COMMAND_SESSION_CREATE, "a");
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    for (int k = 1; k <= 14; k++) {
        uint64_t version = store_describe(&r, "a")->version;

        atomic_store(&fail_with, with);
        atomic_store(&fails, how_many);
        atomic_store(&calls, 0);
        atomic_store(&fail_at, k);
        out = rig_run_turn(&r, store_turn("a", k, 2));
        atomic_store(&fail_at, 0);
        assert_int_equal(count_drafts(), 0);
        if (out->problem.what == PROBLEM_NONE) {
            free(out);
            free(rig_run_turn(&plain, store_turn("a", k, 2)));
        } else {
            assert_true(is_refusal(out->problem.what, with));
            assert_int_equal(out->choice[0].finish, FINISH_FAILED);
            free(out);
            assert_int_equal(store_describe(&r, "a")->version, version);
            refused++;
            store_both(&r, &plain, "a", k, 2);
        }
        if (k % 5 == 0) {
            rig_close(&r);
            rig_open(&r, store_model, &o, 1);
        }
        rig_assert_same_state(&r, "a", &plain, "a");
    }
    assert_int_equal(engine_counters(r.engine).store_reports, 0);
    rig_do(&r, COMMAND_SESSION_DELETE, "a");
    rig_close(&r);
    rig_close(&plain);
    return refused;
}

static void a_full_disk_refuses_and_keeps_the_session(void **unused)
{
    (void)unused;
    assert_true(sweep_turns(ENOSPC, 1) >= 2);
    assert_true(sweep_turns(ENOSPC, 1000) >= 5);
}

static void a_failing_disk_refuses_and_keeps_the_session(void **unused)
{
    (void)unused;
    assert_true(sweep_turns(EIO, 1) >= 4);
    assert_true(sweep_turns(EIO, 2) >= 4);
}

static void a_short_write_is_gone_on_with(void **unused)
{
    (void)unused;
    assert_int_equal(sweep_turns(0, 3), 0);
}

/* The verbs undo what the disk refuses. */
static void verbs_that_are_not_kept_did_not_happen(void **unused)
{
    const struct disk_io io = faulty_io();
    struct engine_options o = store_options(2, 0);
    struct command *c;
    struct id snapshot;
    struct rig r;

    (void)unused;
    o.io = &io;
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(rig_run_turn(&r, store_turn("a", 0, 3)));
    snapshot = take_snapshot(&r, "a", "");
    free(rig_run_turn(&r, store_turn("a", 1, 3)));
    atomic_store(&fail_with, EIO);
    atomic_store(&fails, 1 << 20);
    atomic_store(&calls, 0);
    atomic_store(&fail_at, 1);
    assert_int_equal(store_ask(&r, COMMAND_SESSION_CREATE, "new", NULL), PROBLEM_STORAGE_ERROR);
    assert_int_equal(store_ask(&r, COMMAND_SESSION_DELETE, "a", NULL), PROBLEM_STORAGE_ERROR);
    assert_int_equal(store_ask(&r, COMMAND_SESSION_RESTORE, "a", snapshot.text),
                     PROBLEM_STORAGE_ERROR);
    assert_int_equal(store_ask(&r, COMMAND_SNAPSHOT_TAKE, "a", NULL), PROBLEM_STORAGE_ERROR);
    assert_int_equal(store_ask(&r, COMMAND_SNAPSHOT_DELETE, NULL, snapshot.text),
                     PROBLEM_STORAGE_ERROR);
    c = rig_command(COMMAND_SESSION_FORK, "a", NULL);
    c->count = 3;
    assert_int_equal(rig_ask(&r, c), PROBLEM_STORAGE_ERROR);
    command_free(c);
    atomic_store(&fail_at, 0);
    assert_int_equal(store_describe(&r, "a")->version, 2);
    assert_int_equal(engine_counters(r.engine).sessions, 1);
    assert_int_equal(engine_counters(r.engine).snapshots, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "new");
    rig_close(&r);
    rig_open(&r, store_model, &o, 1);
    assert_int_equal(engine_counters(r.engine).sessions, 2);
    assert_int_equal(engine_counters(r.engine).snapshots, 1);
    assert_int_equal(store_describe(&r, "a")->version, 2);
    rig_close(&r);
}

/* The turn's answer waits for its fsync; others' steps do not. */
static void a_slow_disk_holds_back_the_answer_alone(void **unused)
{
    struct engine_options o = store_options(4, 1 << 20);
    struct command *c;
    struct outcome *out;
    struct event *e;
    struct rig r;

    (void)unused;
    o.io = store_held_io();
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    store_hold();
    c = store_turn("a", 0, 3);
    assert_true(engine_send(r.engine, c));
    for (int text = 0; text < 3;) {
        e = engine_receive(r.engine);
        if (!e) {
            nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
            continue;
        }
        assert_int_equal(e->kind, EVENT_TEXT);
        text++;
        event_free(e);
    }
    for (int i = 0; i < 5; i++) { /* stateless turns: nothing of them is kept */
        out = rig_run_turn(&r, rig_turn("", store_prompt, STORE_PROMPT, 20));
        assert_int_equal(out->problem.what, PROBLEM_NONE);
        free(out);
    }
    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    assert_null(engine_receive(r.engine));
    assert_int_equal(store_describe(&r, "a")->version, 0);
    assert_true(store_describe(&r, "a")->busy);
    store_let_go();
    for (bool over = false; !over;) {
        e = engine_receive(r.engine);
        if (!e)
            continue;
        over = e->kind == EVENT_ANSWER;
        event_free(e);
    }
    assert_int_equal(c->problem.what, PROBLEM_NONE);
    assert_int_equal(c->turn.info.version, 1);
    command_free(c);
    rig_close(&r);
}

/* A thousand that expire at once, as after a night without the server. */
static void what_expires_leaves_the_disk_to_others(void **unused)
{
    struct engine_options o = store_options(4, 1 << 20);
    struct command *c = rig_command(COMMAND_SESSION_CREATE, "a", NULL);
    struct rig r;
    int waiting;

    (void)unused;
    o.max_sessions = 1 + EXPIRE;
    o.io = store_held_io();
    rig_open(&r, store_model, &o, 1);
    c->has_ttl = true;
    c->ttl = 1;
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    command_free(c);
    c = rig_command(COMMAND_SESSION_FORK, "a", NULL);
    c->count = EXPIRE;
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    command_free(c);
    store_hold();
    store_wait_waiting(&r, 1);
    for (int i = 0; i < 500; i++)
        store_nap(); /* it had time to give the disk all of them */
    waiting = engine_counters(r.engine).store_waiting;
    assert_true(waiting < EXPIRE / 4);
    for (int i = 0; i < 40; i++)
        store_describe(&r, "a");
    store_wait_waiting(&r, waiting + 10); /* but it ends, however busy the disk is */
    store_let_go();
    while (engine_counters(r.engine).sessions)
        store_nap();
    rig_close(&r);
}

/* One at a time is in host memory while it is on its way to the disk; the others wait for that. */
static void uploads_that_come_at_once_wait_for_one_another(void **unused)
{
    enum { UPLOADS = 6 };
    struct engine_options o = store_options(4, 0);
    struct problem p = { 0 };
    unsigned char *file;
    struct command *c;
    struct event *e;
    struct rig r;
    char name[16];
    size_t len;

    (void)unused;
    o.io = store_held_io();
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(rig_run_turn(&r, store_turn("a", 0, 3)));
    file = rig_export(&r, "a", &len);
    store_hold();
    for (int i = 0; i < UPLOADS; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        c = i % 2 ? rig_command(COMMAND_SESSION_IMPORT, name, NULL)
                  : rig_command(COMMAND_SNAPSHOT_IMPORT, NULL, NULL);
        c->checkpoint = engine_decode(r.engine, file, len, &p);
        assert_non_null(c->checkpoint);
        assert_true(engine_send(r.engine, c));
    }
    store_wait_held();
    assert_int_equal(store_ask(&r, COMMAND_SESSION_GET, "a", NULL), PROBLEM_NONE);
    store_let_go();
    for (int i = 0; i < UPLOADS;) {
        e = engine_receive(r.engine);
        if (!e) {
            store_nap();
            continue;
        }
        assert_int_equal(e->command->problem.what, PROBLEM_NONE);
        command_free(e->command);
        event_free(e);
        i++;
    }
    rig_assert_same_state(&r, "a", &r, "s5");
    free(file);
    rig_close(&r);
}

/* Who starts the wrong model is told before a client is. */
static void states_of_another_model_are_reported_and_stay(void **unused)
{
    struct engine_options o = store_options(4, 1 << 20);
    struct outcome *out;
    struct rig r;

    (void)unused;
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "empty");
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(rig_run_turn(&r, store_turn("a", 0, 4)));
    rig_close(&r);
    rig_open(&r, "tests/data/mamba-tiny", &o, 1);
    assert_int_equal(engine_counters(r.engine).store_reports, 1);
    out = rig_run_turn(&r, store_turn("a", 0, 4));
    assert_int_equal(out->problem.what, PROBLEM_MODEL_MISMATCH);
    free(out);
    rig_close(&r);
    rig_open(&r, store_model, &o, 1);
    assert_int_equal(engine_counters(r.engine).store_reports, 0);
    out = rig_run_turn(&r, store_turn("a", 0, 4));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    assert_int_equal(out->version, 2);
    free(out);
    rig_close(&r);
}

/* Nothing could go on from there: a session that works is not moved to it, nor is one made. */
static void no_session_comes_to_stand_on_what_is_not_of_this_model(void **unused)
{
    const struct engine_options o = store_options(4, 1 << 20);
    enum problem_code no;
    struct id ours, empty;
    struct rig r;

    (void)unused;
    rig_open(&r, store_model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    empty = take_snapshot(&r, "a", "of any model");
    free(rig_run_turn(&r, store_turn("a", 0, 4)));
    ours = take_snapshot(&r, "a", "of this one");
    rig_close(&r);
    for (int narrow = 0; narrow < 2; narrow++) {
        no = narrow ? PROBLEM_NUMBERS_MISMATCH : PROBLEM_MODEL_MISMATCH;
        if (narrow)
            rig_open_narrow(&r, store_model, &o, 1);
        else
            rig_open(&r, "tests/data/mamba-tiny", &o, 1);
        rig_do(&r, COMMAND_SESSION_CREATE, "b");
        free(rig_run_turn(&r, store_turn("b", 0, 4)));
        assert_int_equal(store_ask(&r, COMMAND_SESSION_RESTORE, "b", ours.text), no);
        assert_int_equal(store_describe(&r, "b")->version, 1);
        assert_int_equal(store_ask(&r, COMMAND_SESSION_CREATE, "c", ours.text), no);
        assert_int_equal(store_ask(&r, COMMAND_SESSION_FORK, "b", ours.text), no);
        assert_int_equal(store_ask(&r, COMMAND_SESSION_FORK, "a", NULL), no);
        assert_int_equal(engine_counters(r.engine).sessions, 2);
        assert_int_equal(store_ask(&r, COMMAND_SESSION_RESTORE, "b", empty.text), PROBLEM_NONE);
        assert_int_equal(store_ask(&r, COMMAND_SESSION_DELETE, "b", NULL), PROBLEM_NONE);
        rig_close(&r);
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, store_setup, folder_remove)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        IN_FOLDER(a_restart_brings_everything_back),
        IN_FOLDER(a_state_from_the_disk_is_the_file_that_it_was),
        IN_FOLDER(states_of_the_other_number_format_wait_for_their_own),
        IN_FOLDER(sessions_on_the_disk_go_on_exactly),
        IN_FOLDER(a_damaged_state_is_set_aside),
        IN_FOLDER(a_prefix_that_cannot_be_read_costs_its_tokens_and_no_answer),
        IN_FOLDER(a_full_disk_refuses_and_keeps_the_session),
        IN_FOLDER(a_failing_disk_refuses_and_keeps_the_session),
        IN_FOLDER(a_short_write_is_gone_on_with),
        IN_FOLDER(verbs_that_are_not_kept_did_not_happen),
        IN_FOLDER(a_slow_disk_holds_back_the_answer_alone),
        IN_FOLDER(what_expires_leaves_the_disk_to_others),
        IN_FOLDER(uploads_that_come_at_once_wait_for_one_another),
        IN_FOLDER(states_of_another_model_are_reported_and_stay),
        IN_FOLDER(no_session_comes_to_stand_on_what_is_not_of_this_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
