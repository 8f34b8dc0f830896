/* An allocation that fails anywhere in the engine gives an error, changes
 * nothing, and leaks nothing.
 *
 * Linked with --wrap: allocation number `left` of the program fails while it is armed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "config/error.h"
#include "server/state/checkpoint.h"
#include "server/state/record.h"
#include "server/state/redis_url.h"
#include "tests/server/engine/rig.h"
#include "tests/server/state/redis_server.h"

static atomic_long left = -1; /* allocations until one fails; below 0: none does */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);

static bool fails(void)
{
    return atomic_load(&left) >= 0 && atomic_fetch_sub(&left, 1) == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

static const char model[] = "tests/data/mamba-tiny";
static const int32_t prompt[] = { 5, 6, 7, 8, 9, 10, 11, 12 };
enum { PROMPT = 8 };

static const struct engine_options small = { .slots = 8,
                                             .max_batch = 2,
                                             .row_budget = 16,
                                             .max_queue = 8,
                                             .max_sessions = 100,
                                             .host_bytes = 1 << 24 };

/* What is there before each try: "a" with a few tokens, metadata and a snapshot. */
struct scene {
    struct rig rig;
    struct id snapshot;
    struct checkpoint *file;
};

static struct command *command(struct scene *s, enum command_kind kind)
{
    struct command *c = rig_command(kind, "a", s->snapshot.text);

    c->count = 3;
    c->has_seed = true;
    if (kind == COMMAND_SESSION_CREATE || kind == COMMAND_SESSION_IMPORT)
        strcpy(c->session.text, "new");
    if (kind == COMMAND_SESSION_CREATE)
        c->metadata = strdup("{}");
    if (kind == COMMAND_SNAPSHOT_LIST)
        c->session.text[0] = '\0';
    if (kind == COMMAND_SESSION_IMPORT || kind == COMMAND_SNAPSHOT_IMPORT) {
        c->checkpoint = checkpoint_create();
        c->checkpoint->position = s->file->position;
        c->checkpoint->layout = s->file->layout;
        memcpy(c->checkpoint->fingerprint, s->file->fingerprint, sizeof(s->file->fingerprint));
        c->checkpoint->record = record_create(1 << 20);
        memset(c->checkpoint->record, 0, 1 << 20);
    }
    return c;
}

static struct command *turn(int choices, const char *session)
{
    struct command *c = rig_turn(session, prompt, PROMPT, 6);

    c->turn.choices = choices;
    c->turn.score = true;
    c->turn.ignore_eos = true;
    c->turn.sampling.repetition = 1.1f;
    c->turn.stop = calloc(1, sizeof(*c->turn.stop));
    memset(c->turn.stop[0], 'q', 3); /* text is held back */
    c->turn.stops = 1;
    return c;
}

static void open_scene_with(struct scene *s, const struct engine_options *options)
{
    struct command *c;

    rig_open(&s->rig, model, options, 1);
    c = rig_command(COMMAND_SESSION_CREATE, "a", NULL);
    c->metadata = strdup("{\"k\":1}");
    assert_int_equal(rig_ask(&s->rig, c), PROBLEM_NONE);
    command_free(c);
    free(rig_run_turn(&s->rig, turn(1, "a")));
    s->snapshot = rig_snapshot(&s->rig, "a");
    c = rig_command(COMMAND_SESSION_EXPORT, "a", NULL);
    assert_int_equal(rig_ask(&s->rig, c), PROBLEM_NONE);
    s->file = c->checkpoint;
    c->checkpoint = NULL;
    command_free(c);
}

static void open_scene(struct scene *s)
{
    open_scene_with(s, &small);
}

static void close_scene(struct scene *s)
{
    checkpoint_destroy(s->file);
    rig_close(&s->rig);
}

static void assert_untouched(struct scene *s, const struct engine_counters *before,
                             const unsigned char *state, size_t len)
{
    struct engine_counters now = engine_counters(s->rig.engine);
    size_t len_now;
    unsigned char *state_now = rig_state(&s->rig, "a", &len_now);

    assert_int_equal(now.sessions, before->sessions);
    assert_int_equal(now.snapshots, before->snapshots);
    assert_int_equal(now.slots_used, before->slots_used);
    assert_int_equal(now.device_bytes, before->device_bytes);
    assert_int_equal(now.host_bytes, before->host_bytes);
    assert_int_equal(now.running + now.queued, 0);
    assert_int_equal(len, len_now);
    assert_memory_equal(state, state_now, len);
    free(state_now);
}

static bool try_once(struct scene *s, struct command *c, long n)
{
    bool done;

    atomic_store(&left, n);
    rig_run(&s->rig, &c, 1, NULL);
    done = atomic_exchange(&left, -1) >= 0;
    if (done)
        assert_int_equal(c->problem.what, PROBLEM_NONE);
    else
        assert_int_equal(c->problem.what, PROBLEM_OUT_OF_MEMORY);
    command_free(c);
    return done;
}

static void every_command_may_run_out_of_memory(void **unused)
{
    (void)unused;
    for (int kind = COMMAND_SESSION_CREATE; kind <= COMMAND_SNAPSHOT_IMPORT; kind++) {
        struct engine_counters before;
        struct scene s;
        unsigned char *state;
        size_t len;

        open_scene(&s);
        before = engine_counters(s.rig.engine);
        state = rig_state(&s.rig, "a", &len);
        for (long n = 0; !try_once(&s, command(&s, (enum command_kind)kind), n); n++)
            assert_untouched(&s, &before, state, len);
        free(state);
        close_scene(&s);
    }
}

static void run_out(const struct engine_options *options, int choices)
{
    struct engine_counters before;
    struct scene s;
    unsigned char *state;
    size_t len;
    long n = 0;

    open_scene_with(&s, options);
    rig_do(&s.rig, COMMAND_SESSION_CREATE, "b");
    free(rig_run_turn(&s.rig, turn(1, "b")));
    before = engine_counters(s.rig.engine);
    state = rig_state(&s.rig, "a", &len);
    for (; !try_once(&s, turn(choices, choices == 1 ? "a" : ""), n); n++)
        assert_untouched(&s, &before, state, len);
    assert_true(n > 20);
    free(state);
    close_scene(&s);
}

static void a_turn_may_run_out_of_memory_at_any_time(void **unused)
{
    struct engine_options least = small; /* a slot beside the sessions' */

    (void)unused;
    least.slots = 3;
    least.host_bytes = 0;
    run_out(&small, 1);
    run_out(&small, 4);
    run_out(&least, 4);
}

/* Runs the command with allocation n failing; false: that was one too many, and it is done. */
static bool fail_once(struct scene *s, struct command *c, long n)
{
    bool failed;

    atomic_store(&left, n);
    rig_run(&s->rig, &c, 1, NULL);
    failed = atomic_exchange(&left, -1) < 0;
    if (!failed)
        assert_int_equal(c->problem.what, PROBLEM_NONE);
    command_free(c);
    return failed;
}

/* Within far less time than a lease takes to run out. */
static void assert_free(struct rig *other)
{
    enum problem_code what = PROBLEM_SESSION_BUSY;

    for (int tries = 0; tries < 20000 && what == PROBLEM_SESSION_BUSY; tries++) {
        struct outcome *out = rig_run_turn(other, rig_turn("a", prompt, 2, 1));

        what = out->problem.what;
        free(out);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); /* it may be on its way */
    }
    assert_int_equal(what, PROBLEM_NONE);
}

static void a_command_without_memory_leaves_a_shared_session_to_others(void **unused)
{
    static const enum command_kind kinds[] = { COMMAND_TURN, COMMAND_SESSION_RESTORE,
                                               COMMAND_SESSION_ROLLBACK };
    struct redis_server redis = { 0 };
    struct engine_options options = small;
    struct redis_url url;
    struct error err;
    struct scene s;
    const char *binary = getenv("REDIS_SERVER");
    struct rig other;

    (void)unused;
    if (!binary || !*binary)
        skip();
    redis_server_begin(&redis);
    assert_true(redis_url_parse(&url, redis.url, &err));
    options.redis = &url;
    options.lease_ms = 600000;
    options.store_bytes = 1 << 28;
    open_scene_with(&s, &options);
    rig_open(&other, model, &options, 1);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        bool failed = true;
        long n = 0;

        for (; failed; n++) {
            failed =
                fail_once(&s, kinds[i] == COMMAND_TURN ? turn(1, "a") : command(&s, kinds[i]), n);
            assert_free(&other);
        }
        assert_true(n > 10);
    }
    rig_close(&other);
    close_scene(&s);
    redis_server_end(&redis);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_command_may_run_out_of_memory),
        cmocka_unit_test(a_turn_may_run_out_of_memory_at_any_time),
        cmocka_unit_test(a_command_without_memory_leaves_a_shared_session_to_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
