#include "tests/server/engine/store_rig.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/state/disk_io.h"

const char store_model[] = "tests/data/rwkv7-tiny-hf";
const int32_t store_prompt[2 * STORE_PROMPT] = { 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

const struct engine_options store_roomy = { .slots = 24,
                                            .max_batch = 20,
                                            .row_budget = 64,
                                            .max_queue = 64,
                                            .max_sessions = 64,
                                            .host_bytes = 1 << 26,
                                            .spare_bytes = 1 << 20 };

struct engine_options store_options(int slots, size_t host_bytes)
{
    struct engine_options o = store_roomy;

    o.slots = slots;
    o.host_bytes = host_bytes;
    o.state_dir = folder;
    o.store_bytes = 1 << 28;
    o.durability = DISK_ALWAYS;
    return o;
}

struct command *store_turn(const char *session, int at, int max_tokens)
{
    struct command *c =
        rig_turn(session, store_prompt + at % STORE_PROMPT, STORE_PROMPT, max_tokens);

    c->turn.sampling.repetition = 1.3f;
    c->turn.sampling.presence = 0.4f;
    return c;
}

void store_both(struct rig *a, struct rig *b, const char *session, int at, int max_tokens)
{
    struct outcome *x = rig_run_turn(a, store_turn(session, at, max_tokens));
    struct outcome *y = rig_run_turn(b, store_turn(session, at, max_tokens));

    assert_int_equal(x->problem.what, PROBLEM_NONE);
    assert_int_equal(y->problem.what, PROBLEM_NONE);
    assert_int_equal(x->version, y->version);
    assert_int_equal(x->position, y->position);
    assert_memory_equal(x->choice[0].id, y->choice[0].id,
                        (size_t)max_tokens * sizeof(x->choice[0].id[0]));
    free(x);
    free(y);
}

struct session_info *store_describe(struct rig *r, const char *session)
{
    static struct session_info info;
    struct command *c = rig_command(COMMAND_SESSION_GET, session, NULL);

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    free(info.metadata);
    info = c->sessions[0];
    c->sessions[0].metadata = NULL;
    command_free(c);
    return &info;
}

enum problem_code store_ask(struct rig *r, enum command_kind kind, const char *session,
                            const char *snapshot)
{
    struct command *c = rig_command(kind, session, snapshot);
    enum problem_code what = rig_ask(r, c);

    command_free(c);
    return what;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool held;
static int waiting; /* fsyncs that do */

static int held_fsync(int fd)
{
    pthread_mutex_lock(&mutex);
    waiting++;
    pthread_cond_broadcast(&changed);
    while (held)
        pthread_cond_wait(&changed, &mutex);
    waiting--;
    pthread_mutex_unlock(&mutex);
    return fsync(fd);
}

const struct disk_io *store_held_io(void)
{
    static struct disk_io io;

    io = disk_io_system;
    io.fsync = held_fsync;
    return &io;
}

static void set_held(bool to)
{
    pthread_mutex_lock(&mutex);
    held = to;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

void store_hold(void)
{
    set_held(true);
}

void store_let_go(void)
{
    set_held(false);
}

void store_wait_held(void)
{
    pthread_mutex_lock(&mutex);
    while (!held || !waiting)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

int store_setup(void **unused)
{
    store_let_go();
    return folder_make(unused);
}

void store_nap(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

void store_wait_waiting(struct rig *r, int ops)
{
    while (engine_counters(r->engine).store_waiting < ops)
        store_nap();
}
