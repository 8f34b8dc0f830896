/* A session whose context is longer than its window goes back over all of the window: with its
 * states in a folder or in memory, after parking and restarts, in forks and from snapshots, and
 * what is there again is what was there, bit for bit. */
#include <dirent.h>
#include <ftw.h>
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

#include "models/model.h"
#include "server/state/checkpoint.h"
#include "server/state/disk_io.h"
#include "server/state/record.h"
#include "tests/models/made_model.h"
#include "tests/server/engine/rig.h"
#include "tests/server/engine/store_rig.h"
#include "tests/server/folder.h"

enum {
    WINDOW = 2048,
    GAP = WINDOW / 2,      /* most tokens taken in again */
    FILES = 1 + 2 * 3 + 2, /* a head's and its anchors' at most */
    TURNS = 48,
    STARTS = 2 * TURNS,
    PLACES = 12,
    LAYERS = 1, /* what is tested is where states go, not what is in them */
};

static struct made_model *thin;
static const char *model;
static uint64_t seed;

static uint64_t random_below(uint64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

static int begin(void **state)
{
    seed = 12345;
    return folder_make_in_memory(state);
}

static int make_model(void **unused)
{
    (void)unused;
    thin = made_create();
    model = made_first_layers(thin, "tests/data/rwkv7-tiny-hf", LAYERS);
    return 0;
}

static int remove_model(void **unused)
{
    (void)unused;
    made_destroy(thin);
    return 0;
}

static struct engine_options with(bool store, size_t spares)
{
    struct engine_options o = { .slots = 4,
                                .max_batch = 3,
                                .row_budget = 256,
                                .max_queue = 16,
                                .max_sessions = 200,
                                .host_bytes = 1 << 26,
                                .history_tokens = WINDOW,
                                .spare_bytes = spares };

    if (store) {
        o.state_dir = folder;
        o.store_bytes = 1 << 28;
        o.durability = DISK_NONE; /* what is tested is what is kept, not how surely */
    }
    return o;
}

static int files;
static const char *but; /* of the files that are looked for: not this one */
static void (*what_to_do)(const char *path);

static int see(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    if (type != FTW_F || ftw->level != 3 || (but && strcmp(path + ftw->base, but) == 0))
        return 0;
    files++;
    if (what_to_do)
        what_to_do(path);
    return 0;
}

/* How many state files there are, but for the one of that name; does something to each. */
static int for_each_file(const char *except, void (*act)(const char *path))
{
    files = 0;
    but = except;
    what_to_do = act;
    nftw(folder, see, 16, FTW_PHYS);
    return files;
}

/* It may outlive the engine and the backend, to whom the record of an export belongs. */
static struct checkpoint *head_of(struct rig *r, const char *session)
{
    const size_t bytes = model_info(r->model)->layout.bytes;
    struct command *c = rig_command(COMMAND_SESSION_EXPORT, session, NULL);
    struct checkpoint *head;
    void *own = NULL;

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    head = c->checkpoint;
    c->checkpoint = NULL;
    command_free(c);
    if (head->record) {
        own = record_create(bytes);
        assert_non_null(own);
        memcpy(own, head->record, bytes);
    }
    record_release(head->record);
    head->record = own;
    return head;
}

static void assert_same_record(struct rig *r, const struct checkpoint *a,
                               const struct checkpoint *b)
{
    size_t ids = a->tokens < b->tokens ? a->tokens : b->tokens;

    assert_int_equal(a->position, b->position);
    assert_int_equal(a->pending, b->pending);
    assert_int_equal(!a->record, !b->record);
    if (a->record)
        assert_memory_equal(a->record, b->record, model_info(r->model)->layout.bytes);
    for (size_t i = 1; i <= ids; i++)
        assert_int_equal(a->token[a->tokens - i] & ~RECENT_SAMPLED,
                         b->token[b->tokens - i] & ~RECENT_SAMPLED);
}

/* Where a turn started, and what it drew. */
struct start {
    struct checkpoint *was;
    int nth, prompt, tokens;
    int drawn;
    int32_t id[16];
};

struct story {
    int32_t id[65536]; /* of the context */
    size_t len;
    struct start start[STARTS];
    int starts;
};

static struct command *turn(const char *session, const struct start *s)
{
    int32_t *id = malloc((size_t)(s->prompt + 1) * sizeof(*id));
    struct command *c;

    for (int k = 0; k < s->prompt; k++)
        id[k] = 1 + (s->nth * 37 + k * 11 + k / 250) % 250;
    c = rig_turn(session, id, (size_t)s->prompt, s->tokens);
    c->turn.sampling.temperature = 1.3f;
    c->turn.sampling.seeded = true;
    c->turn.sampling.seed = 99;
    c->turn.sampling.repetition = 1.2f;
    c->turn.sampling.frequency = 0.3f;
    c->turn.sampling.presence = 0.2f;
    c->turn.ignore_eos = true;
    c->turn.chat = s->nth % 2;
    free(id);
    return c;
}

static void tell(struct rig *r, struct story *t, const char *session, int prompt, int tokens)
{
    struct start *s = &t->start[t->starts];
    struct outcome *out;

    assert_true(t->starts < STARTS);
    *s = (struct start){
        .was = head_of(r, session), .nth = t->starts, .prompt = prompt, .tokens = tokens
    };
    t->starts++;
    out = rig_run_turn(r, turn(session, s));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    for (int k = 0; k < prompt; k++)
        t->id[t->len++] = 1 + (s->nth * 37 + k * 11 + k / 250) % 250;
    s->drawn = out->choice[0].tokens;
    assert_int_equal(s->drawn, tokens);
    for (int k = 0; k < s->drawn; k++)
        t->id[t->len++] = s->id[k] = out->choice[0].id[k];
    assert_int_equal(out->position, t->len);
    free(out);
}

/* Turns of all lengths; the longest are longer than the window. */
static struct story *tell_story(struct rig *r, const char *session)
{
    struct story *t = calloc(1, sizeof(*t));

    rig_do(r, COMMAND_SESSION_CREATE, session);
    for (int i = 0; i < TURNS; i++) {
        int prompt = i % 20 == 11 ? 3000 + (int)random_below(3000) : (int)random_below(400);

        tell(r, t, session, prompt, 1 + (int)random_below(12));
    }
    return t;
}

static void story_free(struct story *t)
{
    for (int i = 0; i < t->starts; i++)
        checkpoint_destroy(t->start[i].was);
    free(t);
}

/* What the context is after so many tokens, taken in by another engine. */
static void look_up(struct rig *plain, const struct story *t, const uint64_t *place,
                    struct checkpoint **is)
{
    size_t at = 0;

    rig_do(plain, COMMAND_SESSION_CREATE, "plain");
    for (int i = 0; i < PLACES; i++) {
        free(rig_run_turn(plain, rig_turn("plain", t->id + at, place[i] - at, 0)));
        at = place[i];
        is[i] = head_of(plain, "plain");
    }
    rig_do(plain, COMMAND_SESSION_DELETE, "plain");
}

static int ascending(const void *a, const void *b)
{
    return *(const uint64_t *)a < *(const uint64_t *)b ? -1 : 1;
}

/* The ends of the window, and places in it, all different. */
static void choose_places(uint64_t end, uint64_t *place)
{
    place[0] = end - WINDOW;
    place[1] = end - 1;
    for (int i = 2; i < PLACES; i++)
        place[i] = end - 2 - (uint64_t)i - random_below((WINDOW - PLACES) / PLACES) -
                   (uint64_t)(i - 2) * (WINDOW - PLACES) / PLACES;
    qsort(place, PLACES, sizeof(*place), ascending);
}

static void check_places(struct rig *r, struct rig *plain, const struct story *t,
                         const char *session, void (*between)(struct rig *r))
{
    struct checkpoint *was[PLACES], *is;
    uint64_t place[PLACES], replayed;

    choose_places(t->len, place);
    look_up(plain, t, place, was);
    for (int i = PLACES - 1; i >= 0; i--) {
        struct id child = rig_fork(r, session);

        if (between)
            between(r);
        replayed = engine_counters(r->engine).replayed_tokens;
        assert_int_equal(rig_roll_back(r, child.text, 0, place[i]), PROBLEM_NONE);
        rig_do(r, COMMAND_SESSION_GET, session); /* the counters are those of its step */
        assert_true(engine_counters(r->engine).replayed_tokens - replayed <= GAP);
        is = head_of(r, child.text);
        assert_same_record(r, was[i], is);
        checkpoint_destroy(was[i]);
        checkpoint_destroy(is);
        rig_do(r, COMMAND_SESSION_DELETE, child.text);
    }
}

/* A turn's start has all that it had, and the turn draws the same again. */
static void check_start(struct rig *r, const struct story *t, const char *session, int back)
{
    const struct start *s = &t->start[t->starts - back];
    struct checkpoint *is;
    struct outcome *out;

    assert_int_equal(rig_roll_back(r, session, (size_t)back, 0), PROBLEM_NONE);
    is = head_of(r, session);
    assert_same_record(r, s->was, is);
    assert_int_equal(is->stop, s->was->stop);
    assert_int_equal(is->answer_open, s->was->answer_open);
    assert_string_equal(is->tail ? is->tail : "", s->was->tail ? s->was->tail : "");
    checkpoint_destroy(is);
    out = rig_run_turn(r, turn(session, s));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    assert_memory_equal(out->choice[0].id, s->id, (size_t)s->drawn * sizeof(s->id[0]));
    free(out);
}

static void check_starts(struct rig *r, const struct story *t, const char *session,
                         void (*between)(struct rig *r))
{
    int within = 0;

    for (int back = 1; back <= t->starts; back++) {
        bool promised = t->start[t->starts - back].was->position + WINDOW >= t->len;
        struct id child;

        if (!promised)
            break;
        within++;
        if (back % 3 != 1)
            continue;
        child = rig_fork(r, session);
        if (between)
            between(r);
        check_start(r, t, child.text, back);
        rig_do(r, COMMAND_SESSION_DELETE, child.text);
    }
    assert_true(within > 0);
}

static struct engine_options options;

static void restart(struct rig *r)
{
    rig_close(r);
    rig_open(r, model, &options, 2);
}

/* Every session's state leaves the memory, and its past with it. */
static void park(struct rig *r)
{
    for (int i = 0; i < 4; i++) {
        struct command *c = rig_turn("", (const int32_t[]){ 1, 2, 3 }, 3, 2);

        c->turn.no_cache = true;
        free(rig_run_turn(r, c));
    }
    nanosleep(&(struct timespec){ .tv_sec = 2, .tv_nsec = 200000000 }, NULL);
}

static void wait_for_files(struct rig *r, int most)
{
    for (int i = 0; for_each_file(NULL, NULL) > most; i++) {
        assert_true(i < 3000);
        rig_do(r, COMMAND_SESSION_LIST, NULL);
        nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
    }
}

static void check_story(bool store, size_t spares, void (*between)(struct rig *r))
{
    struct engine_options simple = with(false, 0);
    struct rig r, plain;
    struct story *t;

    options = with(store, spares);
    if (between == park)
        options.host_bytes = 0;
    rig_open(&r, model, &options, 2);
    rig_open(&plain, model, &simple, 2);
    t = tell_story(&r, "a");
    assert_true(t->len > 3 * WINDOW);
    check_places(&r, &plain, t, "a", between);
    check_starts(&r, t, "a", between);
    for (int i = 0; i < 3; i++) /* a long turn leaves the newest behind it */
        tell(&r, t, "a", 5000, 3);
    check_places(&r, &plain, t, "a", between);
    if (store) {
        wait_for_files(&r, FILES);
        rig_do(&r, COMMAND_SESSION_DELETE, "a");
        wait_for_files(&r, 0);
        assert_int_equal(engine_counters(r.engine).anchors, 0);
    }
    story_free(t);
    rig_close(&r);
    rig_close(&plain);
}

static void with_a_folder(void **unused)
{
    (void)unused;
    check_story(true, 0, NULL);
}

static void with_a_folder_and_spares(void **unused)
{
    (void)unused;
    check_story(true, 1 << 22, NULL);
}

static void in_memory(void **unused)
{
    (void)unused;
    check_story(false, 1 << 26, NULL);
}

static void through_restarts(void **unused)
{
    (void)unused;
    check_story(true, 0, restart);
}

static void a_parked_session_goes_back_like_a_warm_one(void **unused)
{
    struct engine_options simple = with(false, 0);
    struct rig r, plain;
    struct story *t;

    (void)unused;
    options = with(true, 0);
    options.host_bytes = 0;
    options.slots = 2;
    options.max_batch = 2;
    rig_open(&r, model, &options, 2);
    rig_open(&plain, model, &simple, 2);
    t = tell_story(&r, "a");
    park(&r);
    check_start(&r, t, "a", 2);
    rig_close(&plain);
    story_free(t);
    rig_close(&r);
}

/* The snapshot has the window that its session had then. */
static void a_snapshot_keeps_its_window(void **unused)
{
    struct engine_options simple = with(false, 0);
    struct rig r, plain;
    struct command *c;
    struct story *t;
    struct id snapshot;

    (void)unused;
    options = with(true, 0);
    rig_open(&r, model, &options, 2);
    rig_open(&plain, model, &simple, 2);
    t = tell_story(&r, "a");
    snapshot = rig_snapshot(&r, "a");
    for (int i = 0; i < 3; i++) {
        struct start further = { .nth = i, .prompt = 3000, .tokens = 2 };

        free(rig_run_turn(&r, turn("a", &further)));
    }
    restart(&r);
    c = rig_command(COMMAND_SESSION_CREATE, "b", snapshot.text);
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    command_free(c);
    check_places(&r, &plain, t, "b", NULL);
    check_starts(&r, t, "b", restart);
    rig_do(&r, COMMAND_SESSION_DELETE, "a");
    rig_do(&r, COMMAND_SESSION_DELETE, "b");
    c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, snapshot.text);
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    command_free(c);
    wait_for_files(&r, 0);
    story_free(t);
    rig_close(&r);
    rig_close(&plain);
}

/* An upload brings the turns along, and no state: nothing here is found by its names. */
static void an_upload_knows_its_turns(void **unused)
{
    unsigned char *file;
    struct story *t;
    size_t len;
    struct rig r;

    (void)unused;
    options = with(true, 0);
    rig_open(&r, model, &options, 2);
    t = calloc(1, sizeof(*t));
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    for (int i = 0; i < 12; i++)
        tell(&r, t, "a", 40 + i, 3 + i % 5);
    file = rig_export(&r, "a", &len);
    for (int back = 1; back <= 11; back += 2) {
        assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_NONE);
        if (back % 4 == 1)
            restart(&r);
        check_start(&r, t, "b", back);
        rig_do(&r, COMMAND_SESSION_DELETE, "b");
    }
    assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_NONE);
    assert_int_equal(rig_roll_back(&r, "b", 13, 0), PROBLEM_HISTORY);
    free(file);
    story_free(t);
    rig_close(&r);
}

static void append(struct rig *r, const char *session, size_t n)
{
    struct outcome *out = rig_run_turn(r, rig_turn(session, (const int32_t[]){ 1, 2, 3 }, n, 0));

    assert_int_equal(out->problem.what, PROBLEM_NONE);
    free(out);
}

/* In memory as in a file, which has no past of an empty context. */
static void a_turn_that_leaves_a_context_empty_is_none_to_go_back_over(void **unused)
{
    unsigned char *file;
    size_t len;
    struct rig r;

    (void)unused;
    options = with(true, 0);
    rig_open(&r, model, &options, 2);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    append(&r, "a", 0);
    file = rig_export(&r, "a", &len);
    assert_int_equal(rig_import(&r, "b", file, len), PROBLEM_NONE);
    free(file);
    for (const char *session = "a"; session; session = *session == 'a' ? "b" : NULL) {
        assert_int_equal(rig_roll_back(&r, session, 1, 0), PROBLEM_HISTORY);
        append(&r, session, 3);
        assert_int_equal(rig_roll_back(&r, session, 2, 0), PROBLEM_HISTORY);
        assert_int_equal(rig_roll_back(&r, session, 1, 0), PROBLEM_NONE);
    }
    rig_close(&r);
}

static void cut(const char *path)
{
    assert_int_equal(truncate(path, 10), 0);
}

static void take_away(const char *path)
{
    assert_int_equal(unlink(path), 0);
}

/* The session is whole, says what it cannot do, and a window later it can again. */
static void without_its_anchors_a_session_goes_on(void **unused)
{
    struct engine_options simple = with(false, 0);
    struct rig r, plain;

    (void)unused;
    rig_open(&plain, model, &simple, 2);
    for (int damage = 0; damage < 2; damage++) {
        struct story *t;
        struct command *c;

        options = with(true, 0);
        rig_open(&r, model, &options, 2);
        t = tell_story(&r, "a");
        c = rig_command(COMMAND_SESSION_GET, "a", NULL);
        assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
        rig_close(&r);
        assert_true(for_each_file(c->sessions[0].head.text, damage ? cut : take_away) >= 2);
        command_free(c);
        rig_open(&r, model, &options, 2);
        assert_int_equal(rig_roll_back(&r, "a", 0, t->len - 1), PROBLEM_HISTORY);
        assert_int_equal(rig_roll_back(&r, "a", 1, 0), PROBLEM_HISTORY);
        for (int i = 0; i < 6; i++)
            tell(&r, t, "a", 900, 3);
        check_places(&r, &plain, t, "a", restart);
        rig_do(&r, COMMAND_SESSION_DELETE, "a");
        story_free(t);
        rig_close(&r);
    }
    rig_close(&plain);
}

/* As many sessions fit as if no session could go back. */
static void anchors_make_way_for_sessions(void **unused)
{
    struct outcome *out;
    struct story *t;
    size_t record;
    struct rig r;
    int made = 0;

    (void)unused;
    options = with(true, 0);
    rig_open(&r, model, &options, 2);
    record = model_info(r.model)->layout.bytes;
    rig_close(&r);
    options.store_bytes = 24 * record;
    rig_open(&r, model, &options, 2);
    t = tell_story(&r, "a");
    for (;; made++) {
        char name[16];

        snprintf(name, sizeof(name), "s%d", made);
        rig_do(&r, COMMAND_SESSION_CREATE, name);
        out = rig_run_turn(&r, rig_turn(name, (const int32_t[]){ 1, 2, 3 }, 3, 2));
        if (out->problem.what != PROBLEM_NONE)
            break;
        free(out);
    }
    assert_int_equal(out->problem.what, PROBLEM_STORAGE_FULL);
    free(out);
    print_message("# %d sessions beside the long one in the room of 24 states\n", made);
    assert_true(made >= 14);
    rig_do(&r, COMMAND_SESSION_LIST, NULL);
    assert_true(engine_counters(r.engine).anchors_dropped > 0);
    assert_int_equal(rig_roll_back(&r, "a", 0, t->len - WINDOW), PROBLEM_HISTORY);
    out = rig_run_turn(&r, turn("a", &t->start[3]));
    assert_int_equal(out->problem.what, PROBLEM_NONE);
    free(out);
    story_free(t);
    rig_close(&r);
}

static struct id watched; /* a state whose file is */
static atomic_int opened;

static int watching_openat(int dir, const char *path, int flags, mode_t mode)
{
    if (watched.text[0] && strstr(path, watched.text))
        atomic_fetch_add(&opened, 1);
    return disk_io_system.openat(dir, path, flags, mode);
}

/* The rollback waits for its anchor behind what else the disk is to do: its answer is to come when
 * the disk is let go. */
static struct command *roll_back_behind(struct rig *r, uint64_t position, struct command *other)
{
    struct command *c = rig_command(COMMAND_SESSION_ROLLBACK, "a", NULL);

    c->position = position;
    store_hold();
    assert_true(engine_send(r->engine, other));
    store_wait_held();
    assert_true(engine_send(r->engine, c));
    store_wait_waiting(r, 2);
    return c;
}

static void await_answers(struct rig *r, int n)
{
    store_let_go();
    while (n) {
        struct event *e = engine_receive(r->engine);

        if (!e) {
            store_nap();
            continue;
        }
        n -= e->kind == EVENT_ANSWER;
        event_free(e);
    }
}

/* It is not begun again from its reading: the sweep leaves the session's past alone meanwhile. And
 * nobody who has left is waited for. */
static void a_rollback_keeps_what_it_read_while_it_waits_for_an_anchor(void **unused)
{
    struct command *c, *other = rig_command(COMMAND_SESSION_CREATE, "b", NULL);
    struct story *t = calloc(1, sizeof(*t));
    struct disk_io io = *store_held_io();
    struct command *get;
    uint64_t position;
    struct rig r;

    (void)unused;
    io.openat = watching_openat;
    options = with(true, 0);
    options.slots = 1;
    options.host_bytes = 0;
    options.durability = DISK_ALWAYS;
    options.io = &io;
    rig_open(&r, model, &options, 2);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    tell(&r, t, "a", 5000, 3);
    position = t->len - GAP;
    get = rig_command(COMMAND_SESSION_GET, "a", NULL);
    assert_int_equal(rig_ask(&r, get), PROBLEM_NONE);
    park(&r);
    watched = get->sessions[0].head;
    c = roll_back_behind(&r, position, other);
    nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 300000000 }, NULL);
    await_answers(&r, 2);
    watched.text[0] = '\0';
    assert_int_equal(c->problem.what, PROBLEM_NONE);
    assert_int_equal(c->sessions[0].position, position);
    assert_int_equal(opened, 1);
    command_free(c);
    command_free(other);
    command_free(get);

    other = rig_command(COMMAND_SESSION_CREATE, "c", NULL);
    c = roll_back_behind(&r, position - 10, other);
    atomic_store(&c->cancelled, true);
    await_answers(&r, 2);
    assert_int_equal(c->problem.what, PROBLEM_CANCELLED);
    assert_int_equal(rig_roll_back(&r, "a", 0, position), PROBLEM_NONE);
    command_free(c);
    command_free(other);
    story_free(t);
    rig_close(&r);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, folder_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(with_a_folder),
        CASE(with_a_folder_and_spares),
        CASE(in_memory),
        CASE(through_restarts),
        CASE(a_parked_session_goes_back_like_a_warm_one),
        CASE(a_snapshot_keeps_its_window),
        CASE(an_upload_knows_its_turns),
        CASE(a_turn_that_leaves_a_context_empty_is_none_to_go_back_over),
        CASE(without_its_anchors_a_session_goes_on),
        CASE(anchors_make_way_for_sessions),
        CASE(a_rollback_keeps_what_it_read_while_it_waits_for_an_anchor),
    };
    return cmocka_run_group_tests(tests, make_model, remove_model);
}
