/* The room of a state folder, and the slots above it: what is on its way counts once, what makes
 * way counts no longer, no byte is too many, and turns share the slots they have by time. */
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "models/model.h"
#include "tests/models/made_model.h"
#include "tests/server/engine/store_rig.h"

enum {
    LAYERS = 1,      /* what is tested is where states go, not what is in them */
    ROOM = 10,       /* records that fit into the folder */
    FIT = 9,         /* files: their descriptions take less than a record together */
    TOKENS = 60,     /* of a session's first turn */
    MOST = 1200,     /* of any prompt */
    NEVER = 1 << 20, /* tokens of a turn that is cancelled */
};

static struct made_model *thin;
static const char *model;

static int make_model(void **unused)
{
    (void)unused;
    thin = made_create();
    model = made_first_layers(thin, store_model, LAYERS);
    return 0;
}

static int remove_model(void **unused)
{
    (void)unused;
    made_destroy(thin);
    return 0;
}

static uint64_t file_bytes;

static int add_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)ftw;
    file_bytes += type == FTW_F ? (uint64_t)st->st_size : 0;
    return 0;
}

/* Of all states in the folder. */
static uint64_t bytes_on_disk(void)
{
    char states[160];

    snprintf(states, sizeof(states), "%s/states", folder);
    file_bytes = 0;
    assert_int_equal(nftw(states, add_file, 8, FTW_PHYS), 0);
    return file_bytes;
}

static const char *name_of(int i)
{
    static char name[16];

    snprintf(name, sizeof(name), "s%d", i);
    return name;
}

/* An engine whose folder has room for so many records, and sessions without a state. */
static void open_with(struct rig *r, struct engine_options *o, int records, int sessions)
{
    rig_open(r, model, o, 1);
    o->store_bytes = (uint64_t)records * model_info(r->model)->layout.bytes;
    rig_restart(r, o);
    for (int i = 0; i < sessions; i++)
        rig_do(r, COMMAND_SESSION_CREATE, name_of(i));
}

static struct command *turn_of(const char *session, size_t tokens, int max_tokens)
{
    struct command *c;
    int32_t id[MOST];

    for (size_t i = 0; i < tokens; i++)
        id[i] = 5 + (int32_t)i % 90;
    c = rig_turn(session, id, tokens, max_tokens);
    c->turn.logprobs = -1;
    c->turn.ignore_eos = true;
    return c;
}

/* What was sent and is not answered. */
struct flight {
    struct rig *rig;
    int turns, refused, texts;
    bool looked;
};

static void take_answer(struct flight *f, struct command *c)
{
    if (c->problem.what != PROBLEM_NONE && c->problem.what != PROBLEM_CANCELLED) {
        assert_int_equal(c->problem.what, PROBLEM_STORAGE_FULL);
        f->refused++;
    }
    if (c->kind == COMMAND_TURN)
        f->turns--;
    else
        f->looked = true;
    command_free(c);
}

static void take_event(struct flight *f)
{
    struct event *e = engine_receive(f->rig->engine);

    if (!e) {
        store_nap();
        return;
    }
    f->texts += e->kind == EVENT_TEXT;
    if (e->kind == EVENT_ANSWER)
        take_answer(f, e->command);
    event_free(e);
}

static void send(struct flight *f, struct command *c)
{
    f->turns += c->kind == COMMAND_TURN;
    assert_true(engine_send(f->rig->engine, c));
}

/* A turn of each of n sessions. */
static void send_turns(struct flight *f, int first, int n, size_t tokens)
{
    for (int i = first; i < first + n; i++)
        send(f, turn_of(name_of(i), tokens, 1));
}

/* Until what was sent has begun, or was refused. */
static void look(struct flight *f)
{
    f->looked = false;
    send(f, rig_command(COMMAND_SESSION_LIST, NULL, NULL));
    while (!f->looked)
        take_event(f);
}

/* Until so many turns are left; how many were refused. */
static int land(struct flight *f, int left)
{
    int refused;

    while (f->turns > left)
        take_event(f);
    refused = f->refused;
    f->refused = 0;
    return refused;
}

static int turns_at_once(struct rig *r, int first, int n, size_t tokens)
{
    struct flight f = { .rig = r };

    send_turns(&f, first, n, tokens);
    return land(&f, 0);
}

static void the_disk_has_a_budget(void **unused)
{
    enum { FILES = 4, SPREAD = 64 }; /* the numbers in a description are of different lengths */
    struct engine_options o = store_options(8, 1 << 20);
    struct rig r;
    int i = 0;

    (void)unused;
    open_with(&r, &o, ROOM, 1);
    assert_int_equal(turns_at_once(&r, 0, 1, TOKENS), 0);
    o.store_bytes = FILES * (engine_counters(r.engine).store_bytes + SPREAD);
    rig_do(&r, COMMAND_SESSION_DELETE, "s0");
    rig_restart(&r, &o);
    do
        rig_do(&r, COMMAND_SESSION_CREATE, name_of(i));
    while (!turns_at_once(&r, i++, 1, TOKENS));
    assert_int_equal(i, FILES + 1);
    assert_true(engine_counters(r.engine).store_bytes <= o.store_bytes);
    rig_do(&r, COMMAND_SESSION_DELETE, "s0");
    assert_int_equal(turns_at_once(&r, FILES, 1, TOKENS), 0);
    rig_close(&r);
}

/* Ids and descriptions count: of sessions that come at once, and of those that grow. */
static void no_byte_of_a_file_is_beyond_the_budget(void **unused)
{
    enum { SESSIONS = 16, ROUNDS = 6, GROWTH = 120 };
    struct engine_options o = store_options(20, 1 << 20);
    int grown = 0;
    uint64_t file;
    struct rig r;

    (void)unused;
    open_with(&r, &o, ROOM, SESSIONS);
    assert_int_equal(turns_at_once(&r, 0, SESSIONS, TOKENS), SESSIONS - FIT);
    rig_restart(&r, &o); /* what was on its way out is gone */
    file = bytes_on_disk() / FIT;
    assert_true(FIT * file <= o.store_bytes && (FIT + 1) * file > o.store_bytes);
    for (int round = 0; round < ROUNDS; round++)
        grown += SESSIONS - turns_at_once(&r, 0, SESSIONS, GROWTH);
    assert_in_range(grown, FIT, ROUNDS * FIT - 1); /* not all had room to grow in the end */
    rig_restart(&r, &o);
    assert_true(bytes_on_disk() <= o.store_bytes);
    assert_int_equal(engine_counters(r.engine).store_bytes, bytes_on_disk());
    rig_close(&r);
}

/* What its turn was promised is not counted beside it. */
static void a_state_on_its_way_takes_the_room_of_one(void **unused)
{
    struct engine_options o = store_options(20, 1 << 20);
    struct rig r;
    struct flight f = { .rig = &r };

    (void)unused;
    o.io = store_held_io();
    open_with(&r, &o, ROOM, FIT + 1);
    store_hold();
    send_turns(&f, 0, FIT - 1, TOKENS);
    store_wait_waiting(&r, FIT - 1);
    send_turns(&f, FIT - 1, 1, TOKENS);
    look(&f);
    store_let_go();
    assert_int_equal(land(&f, 0), 0);
    assert_int_equal(turns_at_once(&r, FIT, 1, TOKENS), 1);
    rig_close(&r);
}

static void nor_does_what_it_takes_the_place_of(void **unused)
{
    enum { OLD = 5 };
    struct engine_options o = store_options(20, 1 << 20);
    struct rig r;
    struct flight f = { .rig = &r };

    (void)unused;
    o.io = store_held_io();
    open_with(&r, &o, ROOM, FIT + 1);
    assert_int_equal(turns_at_once(&r, 0, OLD, TOKENS), 0);
    store_hold();
    send_turns(&f, 0, OLD, 1);
    store_wait_waiting(&r, OLD);
    send_turns(&f, OLD, FIT - OLD, TOKENS);
    look(&f);
    store_let_go();
    assert_int_equal(land(&f, 0), 0);
    assert_int_equal(turns_at_once(&r, FIT, 1, TOKENS), 1);
    rig_restart(&r, &o);
    assert_true(bytes_on_disk() <= o.store_bytes);
    rig_close(&r);
}

/* A state that others left is in memory, and goes on from there: it takes no room in the folder,
 * and needs none. */
static void what_stays_in_memory_needs_no_room_on_the_disk(void **unused)
{
    struct engine_options o = store_options(20, 1 << 20);
    struct rig r;
    struct flight f = { .rig = &r };
    struct command *c;
    struct outcome *out;

    (void)unused;
    open_with(&r, &o, ROOM, FIT + 1);
    assert_int_equal(turns_at_once(&r, 0, FIT - 1, TOKENS), 0);
    free(rig_run_turn(&r, turn_of("", TOKENS, 1)));
    c = turn_of("", TOKENS, NEVER);
    send(&f, c);
    while (!f.texts)
        take_event(&f);
    assert_true(c->turn.cached_tokens > 0);
    send_turns(&f, FIT - 1, 1, TOKENS);
    assert_int_equal(land(&f, 1), 0);
    atomic_store(&c->cancelled, true);
    engine_nudge(r.engine);
    land(&f, 0);
    assert_int_equal(turns_at_once(&r, FIT, 1, TOKENS), 1);
    out = rig_run_turn(&r, turn_of("", TOKENS, 1));
    assert_true(out->cached_tokens > 0);
    free(out);
    rig_close(&r);
}

/* There is no other, and no memory to put it. */
static void a_state_that_others_left_in_the_only_slot_is_gone_on_from(void **unused)
{
    enum { DRAWN = 3, KNOWN = TOKENS + DRAWN - 1, MORE = 10 };
    struct engine_options o = store_options(1, 0);
    int32_t id[TOKENS + DRAWN + MORE] = { 0 };
    struct outcome *out, *expected;
    struct rig r, plain;

    (void)unused;
    rig_open(&r, model, &o, 1);
    rig_open(&plain, model, &store_roomy, 1);
    for (int i = 0; i < TOKENS; i++)
        id[i] = 5 + i;
    for (int round = 0; round < 2; round++) {
        out = rig_run_turn(&r, rig_turn("", id, TOKENS, DRAWN));
        assert_int_equal(out->choice[0].tokens, DRAWN);
        memcpy(id + TOKENS, out->choice[0].id, DRAWN * sizeof(id[0]));
        free(out);
        out = rig_run_turn(&r, rig_turn("", id, TOKENS + DRAWN + MORE, DRAWN));
        expected = rig_run_turn(&plain, rig_turn("", id, TOKENS + DRAWN + MORE, DRAWN));
        assert_int_equal(out->problem.what, PROBLEM_NONE);
        assert_int_equal(out->cached_tokens, KNOWN);
        assert_memory_equal(out->choice[0].id, expected->choice[0].id, DRAWN * sizeof(id[0]));
        free(expected);
        free(out);
    }
    rig_close(&r);
    rig_close(&plain);
}

/* Two prompts of several choices, and between them and their choices a session's turn. */
static void what_the_store_has_makes_way_for_choices(void **unused)
{
    enum { ROUNDS = 20 };
    struct engine_options o = store_options(3, 0);
    struct outcome *got = calloc(3, sizeof(*got));
    struct command *c[3];
    struct rig r;

    (void)unused;
    rig_open(&r, model, &o, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < 3; i++) {
            c[i] = store_turn(i < 2 ? "" : "a", i, i < 2 ? 4 : 1);
            c[i]->turn.choices = i < 2 ? 2 : 1;
        }
        rig_run(&r, c, 3, got);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(got[i].problem.what, PROBLEM_NONE);
            command_free(c[i]);
        }
    }
    free(got);
    rig_close(&r);
}

/* Their prompt's state is no file: it may take no place that a turn needs. */
static void choices_fit_wherever_a_turn_does(void **unused)
{
    enum { SLOTS = 3, RECORDS = 2, SESSIONS = 3, AT_ONCE = 3, CHOICES = 3, DRAWN = 8 };
    struct outcome *got = calloc(AT_ONCE, sizeof(*got)), *want[AT_ONCE];
    struct command *c[AT_ONCE];
    struct rig r;

    (void)unused;
    rig_open(&r, model, &store_roomy, 1);
    for (int i = 0; i < AT_ONCE; i++)
        want[i] = rig_run_turn(&r, store_turn("", i, DRAWN));
    for (int slots = 1; slots <= SLOTS; slots++) {
        for (int records = 0; records <= RECORDS; records++) {
            struct engine_options o =
                store_options(slots, (size_t)records * model_info(r.model)->layout.bytes);
            struct rig few;

            rig_open(&few, model, &o, 1);
            for (int i = 0; i < SESSIONS; i++) {
                store_ask(&few, COMMAND_SESSION_CREATE, name_of(i), NULL);
                free(rig_run_turn(&few, store_turn(name_of(i), i, 1)));
            }
            for (int i = 0; i < AT_ONCE; i++) {
                c[i] = store_turn("", i, DRAWN);
                c[i]->turn.choices = CHOICES;
            }
            rig_run(&few, c, AT_ONCE, got);
            for (int i = 0; i < AT_ONCE; i++) {
                assert_int_equal(got[i].problem.what, PROBLEM_NONE);
                for (int k = 0; k < CHOICES; k++)
                    assert_memory_equal(got[i].choice[k].id, want[i]->choice[0].id,
                                        DRAWN * sizeof(int32_t));
                command_free(c[i]);
            }
            rig_close(&few);
        }
    }
    for (int i = 0; i < AT_ONCE; i++)
        free(want[i]);
    free(got);
    rig_close(&r);
}

/* Behind a context that begins wait others that go on from all that is in the slots. */
static void states_that_turns_wait_with_hold_up_none_before_them(void **unused)
{
    enum { ROUNDS = 100, LEFT = 2, AT_ONCE = LEFT + 1, LENGTH = 20 };
    struct engine_options o = store_options(LEFT, 0);
    struct outcome *got = calloc(AT_ONCE, sizeof(*got));
    struct rig r;

    (void)unused;
    rig_open(&r, model, &o, 1);
    for (int round = 0; round < ROUNDS; round++) {
        struct command *c[AT_ONCE];

        for (int i = 0; i < AT_ONCE; i++) {
            int32_t id[LENGTH + 1];

            for (int k = 0; k <= LENGTH; k++)
                id[k] = 5 + (round * AT_ONCE + i + k * (i + 1)) % 90;
            if (i)
                free(rig_run_turn(&r, rig_turn("", id, LENGTH, 1)));
            c[i] = rig_turn("", id, LENGTH + 1, 1);
        }
        rig_run(&r, c, AT_ONCE, got);
        for (int i = 0; i < AT_ONCE; i++) {
            assert_int_equal(got[i].problem.what, PROBLEM_NONE);
            command_free(c[i]);
        }
    }
    free(got);
    rig_close(&r);
}

/* More turns than one wait with each of the states that fill all places there are. */
static void a_state_that_two_turns_wait_with_holds_up_neither(void **unused)
{
    enum { ROUNDS = 30, SLOTS = 2, RECORDS = 1, LEFT = SLOTS + RECORDS, LENGTH = 20 };
    struct outcome *got = calloc(2 * LEFT, sizeof(*got)), *want[2 * LEFT];
    struct command *c[2 * LEFT];
    struct rig r;

    (void)unused;
    rig_open(&r, model, &store_roomy, 1);
    for (int shape = 0; shape < SLOTS * (RECORDS + 1); shape++) {
        int slots = 1 + shape % SLOTS, records = shape / SLOTS, left = slots + records;
        struct engine_options o =
            store_options(slots, (size_t)records * model_info(r.model)->layout.bytes);
        struct rig few;

        rig_open(&few, model, &o, 1);
        for (int round = 0; round < ROUNDS; round++) {
            for (int i = 0; i < 2 * left; i++) {
                int32_t id[LENGTH + 1];

                for (int k = 0; k <= LENGTH; k++)
                    id[k] = 5 + (round * LEFT + i / 2 + k * (i / 2 + 1)) % 90;
                if (i % 2 == 0)
                    free(rig_run_turn(&few, rig_turn("", id, LENGTH, 1)));
                c[i] = rig_turn("", id, LENGTH + 1, 1);
                want[i] = rig_run_turn(&r, rig_turn("", id, LENGTH + 1, 1));
            }
            rig_run(&few, c, 2 * left, got);
            for (int i = 0; i < 2 * left; i++) {
                assert_int_equal(got[i].problem.what, PROBLEM_NONE);
                assert_int_equal(got[i].choice[0].id[0], want[i]->choice[0].id[0]);
                free(want[i]);
                command_free(c[i]);
            }
        }
        rig_close(&few);
    }
    free(got);
    rig_close(&r);
}

/* While its turn runs, too. */
static void an_anchor_makes_way_for_a_state(void **unused)
{
    enum { WINDOW = 256, ANCHORS = 4, OTHERS = 4 };
    struct engine_options o = store_options(20, 1 << 20);
    struct rig r;
    struct flight f = { .rig = &r };
    struct command *c;
    uint64_t record;

    (void)unused;
    o.history_tokens = WINDOW;
    open_with(&r, &o, OTHERS + 2, OTHERS + 1);
    record = model_info(r.model)->layout.bytes;
    rig_do(&r, COMMAND_SESSION_CREATE, "long");
    c = turn_of("long", MOST, NEVER);
    c->turn.commit_partial = true;
    send(&f, c);
    while (!f.texts)
        take_event(&f);
    assert_in_range(engine_counters(r.engine).store_bytes, ANCHORS * record,
                    (ANCHORS + 1) * record);
    for (int i = 0; i < OTHERS; i++) {
        send_turns(&f, i, 1, TOKENS);
        assert_int_equal(land(&f, 1), 0);
    }
    send_turns(&f, OTHERS, 1, TOKENS);
    assert_int_equal(land(&f, 1), 1); /* the long one has its room */
    atomic_store(&c->cancelled, true);
    engine_nudge(r.engine);
    assert_int_equal(land(&f, 0), 0);
    assert_int_equal(store_describe(&r, "long")->version, 1);
    rig_restart(&r, &o);
    assert_true(bytes_on_disk() <= o.store_bytes);
    rig_close(&r);
}

enum { TURNS = 16, DRAWS = 400, QUANTUM = 4 };

/* Turns that all begin at once, however long it takes to send them: they wait for their
 * sessions, and all sessions but a first one for the same fsync. */
static void begin_at_once(struct rig *r, struct command *c[TURNS], int got[TURNS])
{
    store_hold();
    assert_true(engine_send(r->engine, rig_command(COMMAND_SESSION_CREATE, "first", NULL)));
    store_wait_held();
    for (int i = 0; i < TURNS; i++) {
        c[i] = store_turn(name_of(i), i, DRAWS);
        c[i]->waiter = &got[i];
        assert_true(engine_send(r->engine, rig_command(COMMAND_SESSION_CREATE, name_of(i), NULL)));
        assert_true(engine_send(r->engine, c[i]));
    }
    store_wait_waiting(r, TURNS + 1);
    store_let_go();
}

/* 16 turns on 2 slots: nobody is far ahead, and each gets what it gets alone. */
static void turns_share_the_slots_by_time(void **unused)
{
    struct engine_options o = store_options(2, 1 << 26);
    struct command *c[TURNS];
    int got[TURNS] = { 0 }, least = DRAWS, open = TURNS;
    struct rig few, alone;
    bool first = true;

    (void)unused;
    o.quantum = QUANTUM;
    o.io = store_held_io();
    rig_open(&few, model, &o, 1);
    rig_open(&alone, model, &store_roomy, 1);
    begin_at_once(&few, c, got);
    while (open) {
        struct event *e = engine_receive(few.engine);

        if (!e) {
            store_nap();
            continue;
        }
        if (e->kind == EVENT_TEXT)
            *(int *)e->command->waiter += e->score != NULL;
        for (int i = 0; e->kind == EVENT_FINISH && first && i < TURNS; i++)
            least = got[i] < least ? got[i] : least;
        first &= e->kind != EVENT_FINISH;
        if (e->kind == EVENT_ANSWER) {
            assert_int_equal(e->command->problem.what, PROBLEM_NONE);
            open -= e->command->kind == COMMAND_TURN;
            command_free(e->command);
        }
        event_free(e);
    }
    assert_true(least >= DRAWS - 2 * QUANTUM);
    assert_true(engine_counters(few.engine).slices >= TURNS * (DRAWS / QUANTUM - 2));
    for (int i = 0; i < TURNS; i++) {
        rig_do(&alone, COMMAND_SESSION_CREATE, name_of(i));
        free(rig_run_turn(&alone, store_turn(name_of(i), i, DRAWS)));
        rig_assert_same_state(&few, name_of(i), &alone, name_of(i));
    }
    assert_int_equal(engine_counters(few.engine).slots_used, 2);
    rig_close(&few);
    rig_close(&alone);
}

/* Promise P4, with the only slot there is. */
static void a_slot_that_was_used_equals_a_fresh_one(void **unused)
{
    struct engine_options o = store_options(1, 0);
    struct rig used, fresh;

    (void)unused;
    rig_open(&used, model, &o, 1);
    rig_do(&used, COMMAND_SESSION_CREATE, "before");
    free(rig_run_turn(&used, store_turn("before", 3, 30)));
    rig_do(&used, COMMAND_SESSION_DELETE, "before");
    rig_open(&fresh, model, &store_roomy, 1);
    rig_do(&used, COMMAND_SESSION_CREATE, "a");
    rig_do(&fresh, COMMAND_SESSION_CREATE, "a");
    store_both(&used, &fresh, "a", 0, 8);
    rig_assert_same_state(&used, "a", &fresh, "a");
    rig_close(&used);
    rig_close(&fresh);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, store_setup, folder_remove)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        IN_FOLDER(the_disk_has_a_budget),
        IN_FOLDER(no_byte_of_a_file_is_beyond_the_budget),
        IN_FOLDER(a_state_on_its_way_takes_the_room_of_one),
        IN_FOLDER(nor_does_what_it_takes_the_place_of),
        IN_FOLDER(what_stays_in_memory_needs_no_room_on_the_disk),
        IN_FOLDER(a_state_that_others_left_in_the_only_slot_is_gone_on_from),
        IN_FOLDER(choices_fit_wherever_a_turn_does),
        IN_FOLDER(what_the_store_has_makes_way_for_choices),
        IN_FOLDER(states_that_turns_wait_with_hold_up_none_before_them),
        IN_FOLDER(a_state_that_two_turns_wait_with_holds_up_neither),
        IN_FOLDER(an_anchor_makes_way_for_a_state),
        IN_FOLDER(turns_share_the_slots_by_time),
        IN_FOLDER(a_slot_that_was_used_equals_a_fresh_one),
    };

    return cmocka_run_group_tests(tests, make_model, remove_model);
}
