#include "tests/server/engine/rig.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/state/checkpoint.h"
#include "server/state/format.h"
#include "tests/server/state/late.h"
#include "tests/server/state/logging.h"

static pthread_mutex_t cutting = PTHREAD_MUTEX_INITIALIZER;

/* In the engine's thread, between two steps. */
static void wake(void *arg)
{
    struct rig *r = arg;

    pthread_mutex_lock(&cutting);
    if (r->cut) {
        atomic_store(&r->cut->cancelled, true);
        engine_nudge(r->engine);
        r->cut = NULL; /* a rig without one may be copied */
    }
    pthread_mutex_unlock(&cutting);
}

static atomic_bool is_broken, is_lost;
static bool (*wait_for_device)(struct backend *be, uint64_t mark, struct error *err);

static bool wait_or_break(struct backend *be, uint64_t mark, struct error *err)
{
    if (!atomic_load(&is_broken))
        return wait_for_device(be, mark, err);
    be->lost = atomic_load(&is_lost);
    return error_set(err, ERR_DEVICE, "pulled out");
}

void rig_may_break(struct rig *r)
{
    struct backend *be = r->devices.at[0].backend;

    wait_for_device = be->wait;
    be->wait = wait_or_break;
}

void rig_break(bool broken, bool lost)
{
    atomic_store(&is_lost, lost);
    atomic_store(&is_broken, broken);
}

static void set_cut(struct rig *r, struct command *c)
{
    pthread_mutex_lock(&cutting);
    r->cut = c;
    pthread_mutex_unlock(&cutting);
}

static void start_engine(struct rig *r, const struct engine_options *options)
{
    struct error err = { 0 };

    r->cut = NULL;
    r->engine = engine_create(&r->devices, r->tokenizer, options, wake, r, &err);
    if (!r->engine)
        fail_msg("%s", err.message);
}

static void open_devices(struct rig *r, const char *devices, const struct backend_options *with)
{
    struct error err = { 0 };

    if (!devices_open(&r->devices, devices, with, &err))
        fail_msg("%s", err.message);
}

static void load(struct rig *r, const char *model, const struct engine_options *options,
                 enum dtype state)
{
    const struct model_options sizes = { .max_rows = options->row_budget,
                                         .max_logits = engine_max_logits(options),
                                         .state_dtype = state,
                                         .logs = true };
    struct error err = { 0 };

    if (!devices_load(&r->devices, model, &sizes, &err))
        fail_msg("%s", err.message);
    r->model = r->devices.at[0].model;
    r->tokenizer = tokenizer_open(model, model_info(r->model)->vocab, &err);
    if (!r->tokenizer)
        fail_msg("%s", err.message);
    start_engine(r, options);
}

static void change_cpus(struct rig *r, const struct rig_cpus *to)
{
    for (int i = 0; i < r->devices.count; i++) {
        if (to->log_steps)
            logging_make(r->devices.at[i].backend, to->log_steps);
        if (to->late)
            late_make(r->devices.at[i].backend, (uint64_t)i + 1);
    }
}

static void open_with(struct rig *r, const char *devices, const char *model,
                      const struct engine_options *options, const struct backend_options *with,
                      enum dtype state)
{
    const char *log_steps = getenv("EDDY_TEST_LOG_STEPS");

    open_devices(r, devices, with);
    change_cpus(r, &(struct rig_cpus){ .log_steps = log_steps ? atoi(log_steps) : 0 });
    load(r, model, options, state);
}

void rig_open_on(struct rig *r, const char *devices, const char *model,
                 const struct engine_options *options, int threads)
{
    open_with(r, devices, model, options,
              &(struct backend_options){ .threads = threads, .isa = "auto" }, DTYPE_F32);
}

void rig_open_as(struct rig *r, const char *devices, const char *model,
                 const struct engine_options *options, int threads, const struct rig_cpus *cpus)
{
    open_devices(r, devices, &(struct backend_options){ .threads = threads, .isa = "auto" });
    change_cpus(r, cpus);
    load(r, model, options, DTYPE_F32);
}

void rig_open_late(struct rig *r, const char *devices, const char *model,
                   const struct engine_options *options, int threads)
{
    rig_open_as(r, devices, model, options, threads,
                &(struct rig_cpus){ .late = true, .log_steps = 4 });
}

void rig_open(struct rig *r, const char *model, const struct engine_options *options, int threads)
{
    rig_open_on(r, "cpu", model, options, threads);
}

void rig_open_rounding(struct rig *r, const char *model, const struct engine_options *options,
                       int threads)
{
    open_with(r, "cpu", model, options,
              &(struct backend_options){ .threads = threads, .isa = "auto", .round_x = true },
              DTYPE_F32);
}

void rig_open_narrow(struct rig *r, const char *model, const struct engine_options *options,
                     int threads)
{
    open_with(r, "cpu", model, options,
              &(struct backend_options){ .threads = threads, .isa = "auto" }, DTYPE_BF16);
}

void rig_restart(struct rig *r, const struct engine_options *options)
{
    engine_destroy(r->engine);
    start_engine(r, options);
}

void rig_close(struct rig *r)
{
    engine_destroy(r->engine);
    tokenizer_close(r->tokenizer);
    devices_close(&r->devices);
}

struct command *rig_command(enum command_kind kind, const char *session, const char *snapshot)
{
    struct command *c = command_create(kind, NULL);

    assert_non_null(c);
    if (session)
        strcpy(c->session.text, session);
    if (snapshot)
        strcpy(c->snapshot.text, snapshot);
    c->count = 1;
    return c;
}

struct command *rig_turn(const char *session, const int32_t *prompt, size_t n, int max_tokens)
{
    struct command *c = rig_command(COMMAND_TURN, NULL, NULL);

    strcpy(c->session.text, session);
    c->turn.prompt = malloc((n + 1) * sizeof(*prompt));
    if (n)
        memcpy(c->turn.prompt, prompt, n * sizeof(*prompt));
    c->turn.prompt_len = n;
    c->turn.max_tokens = max_tokens;
    c->turn.logprobs = 0;
    c->turn.sampling.temperature = 0;
    return c;
}

static void take_text(struct outcome *out, const struct event *e)
{
    struct token_score *s = e->score;

    if (s && e->prompt) {
        int i = out->choice[e->choice].scored++;

        out->choice[e->choice].scored_id[i] = s->id;
        out->choice[e->choice].scored_logprob[i] = s->logprob;
    } else if (s) {
        int i = out->choice[e->choice].tokens++;

        out->choice[e->choice].id[i] = s->id;
        out->choice[e->choice].logprob[i] = s->logprob;
    }
    if (e->text.len)
        memcpy(out->choice[e->choice].text + out->choice[e->choice].len, e->text.bytes,
               e->text.len);
    out->choice[e->choice].len += e->text.len;
}

static void take_answer(struct outcome *out, const struct command *c)
{
    out->problem = c->problem;
    out->prompt_tokens = c->turn.prompt_tokens;
    out->cached_tokens = c->turn.cached_tokens;
    out->completion_tokens = c->turn.completion_tokens;
    out->position = c->turn.info.position;
    out->version = c->turn.info.version;
}

/* The next event; those that are waited for come within the test's own time limit. */
static struct event *next_event(struct rig *r)
{
    struct event *e;

    while (!(e = engine_receive(r->engine)))
        nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
    return e;
}

/* Whether it was the last of its command. */
static bool take_event(struct event *e)
{
    struct outcome *to = e->command->waiter;
    bool last = e->kind == EVENT_ANSWER;

    if (e->kind == EVENT_TEXT && to)
        take_text(to, e);
    if (e->kind == EVENT_FINISH && to) {
        to->choice[e->choice].finish = e->finish;
        to->choice[e->choice].stop = e->stop;
    }
    if (last && to)
        take_answer(to, e->command);
    event_free(e);
    return last;
}

static void send(struct rig *r, struct command *c, struct outcome *out)
{
    c->waiter = out;
    if (out)
        memset(out, 0, sizeof(*out));
    assert_true(engine_send(r->engine, c));
}

void rig_run(struct rig *r, struct command **c, int n, struct outcome *out)
{
    for (int i = 0; i < n; i++)
        send(r, c[i], out ? &out[i] : NULL);
    for (int open = n; open;)
        open -= take_event(next_event(r));
}

void rig_run_cancelled(struct rig *r, struct command *c, int tokens, struct outcome *out)
{
    set_cut(r, tokens == 1 ? c : NULL);
    send(r, c, out);
    while (!take_event(next_event(r))) {
        if (out->choice[0].tokens < tokens || atomic_load(&c->cancelled))
            continue;
        atomic_store(&c->cancelled, true);
        engine_nudge(r->engine);
    }
    set_cut(r, NULL);
}

struct outcome *rig_run_turn(struct rig *r, struct command *c)
{
    struct outcome *out = malloc(sizeof(*out));

    rig_run(r, &c, 1, out);
    command_free(c);
    return out;
}

enum problem_code rig_ask(struct rig *r, struct command *c)
{
    rig_run(r, &c, 1, NULL);
    return c->problem.what;
}

void rig_do(struct rig *r, enum command_kind kind, const char *session)
{
    struct command *c = rig_command(kind, session, NULL);

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    command_free(c);
}

static struct checkpoint *export_head(struct rig *r, const char *session)
{
    struct command *c = rig_command(COMMAND_SESSION_EXPORT, session, NULL);
    struct checkpoint *head;

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    head = c->checkpoint;
    c->checkpoint = NULL;
    command_free(c);
    return head;
}

enum problem_code rig_roll_back(struct rig *r, const char *session, size_t turns, uint64_t position)
{
    struct command *c = rig_command(COMMAND_SESSION_ROLLBACK, session, NULL);
    enum problem_code what;

    c->turns = turns;
    c->position = position;
    what = rig_ask(r, c);
    if (what == PROBLEM_NONE && !turns)
        assert_int_equal(c->sessions[0].position, position);
    command_free(c);
    return what;
}

struct id rig_fork(struct rig *r, const char *session)
{
    struct command *c = rig_command(COMMAND_SESSION_FORK, session, NULL);
    struct id child;

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    child = c->sessions[0].id;
    command_free(c);
    return child;
}

struct id rig_snapshot(struct rig *r, const char *session)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_TAKE, session, NULL);
    struct id snapshot;

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    snapshot = c->snapshots[0].id;
    command_free(c);
    return snapshot;
}

void rig_restore(struct rig *r, const char *session, const struct id *snapshot)
{
    struct command *c = rig_command(COMMAND_SESSION_RESTORE, session, snapshot->text);

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    command_free(c);
}

unsigned char *rig_export(struct rig *r, const char *session, size_t *len)
{
    struct checkpoint *head = export_head(r, session);
    struct problem p;
    void *file;

    assert_true(format_encode(head, model_info(r->model), &file, len, &p));
    checkpoint_destroy(head);
    return file;
}

enum problem_code rig_import(struct rig *r, const char *session, const void *file, size_t len)
{
    struct command *c = rig_command(COMMAND_SESSION_IMPORT, session, NULL);
    struct problem p = { 0 };
    enum problem_code what;

    c->checkpoint = engine_decode(r->engine, file, len, &p);
    what = c->checkpoint ? rig_ask(r, c) : p.what;
    command_free(c);
    return what;
}

unsigned char *rig_state(struct rig *r, const char *session, size_t *len)
{
    struct checkpoint *head = export_head(r, session);
    size_t record = head->record ? model_info(r->model)->layout.bytes : 0;
    struct {
        uint64_t position, tokens;
        int32_t pending, stop;
    } rest = { head->position, head->tokens, head->pending, head->stop };
    size_t tokens = head->tokens * sizeof(head->token[0]);
    unsigned char *bytes = malloc(record + tokens + sizeof(rest));

    memcpy(bytes, &rest, sizeof(rest));
    if (tokens)
        memcpy(bytes + sizeof(rest), head->token, tokens);
    if (record)
        memcpy(bytes + sizeof(rest) + tokens, head->record, record);
    *len = sizeof(rest) + tokens + record;
    checkpoint_destroy(head);
    return bytes;
}

void rig_assert_same_state(struct rig *a, const char *session_a, struct rig *b,
                           const char *session_b)
{
    size_t len_a, len_b;
    unsigned char *x = rig_state(a, session_a, &len_a), *y = rig_state(b, session_b, &len_b);

    assert_int_equal(len_a, len_b);
    assert_memory_equal(x, y, len_a);
    free(x);
    free(y);
}
