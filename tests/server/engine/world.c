#include "tests/server/engine/world.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "models/model.h"
#include "server/state/checkpoint.h"
#include "server/state/format.h"

/* Beside its record a file has ids and a description. The engine asks for the room of a record,
 * before it knows how long the file will be. */
enum { SETTLE_SECONDS = 60, BESIDE_RECORD = 4096 };

static const struct engine_options roomy = { .slots = 4,
                                             .max_batch = 2,
                                             .row_budget = 64,
                                             .max_queue = 4,
                                             .max_sessions = 4,
                                             .host_bytes = 1 << 26 };

unsigned world_below(struct world *w, unsigned n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (unsigned)(w->random >> 33) % n;
}

static void set_options(struct world *w)
{
    const struct world_plan *p = &w->plan;

    w->options = (struct engine_options){ .slots = p->slots,
                                          .max_batch = 3,
                                          .row_budget = 11,
                                          .max_queue = 64,
                                          .max_sessions = WORLD_SESSIONS,
                                          .host_bytes = (size_t)p->parked * w->record_bytes,
                                          .spare_bytes = (size_t)p->spares * w->record_bytes,
                                          .owner_bytes = (size_t)p->owner_states * w->record_bytes,
                                          .quantum = p->quantum };
    if (!p->on_disk)
        return;
    /* Memory, where there is such a folder: what is tested is order, not the device. */
    snprintf(w->dir, sizeof(w->dir), "%s/eddy-world-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(w->dir));
    w->options.state_dir = w->dir;
    w->options.store_bytes = (uint64_t)p->on_disk * (w->record_bytes + BESIDE_RECORD);
    w->options.durability = p->durability;
    w->options.interval_ms = 10;
    w->options.io = p->io;
}

void world_open(struct world *w, const struct world_plan *plan)
{
    memset(w, 0, sizeof(*w));
    w->plan = *plan;
    w->random = plan->seed;
    rig_open(&w->reference, plan->model, &roomy, 1);
    w->record_bytes = model_info(w->reference.model)->layout.bytes;
    set_options(w);
    rig_open(&w->rig, plan->model, &w->options, 2);
}

/* Bytes of the checkpoints' files; what else there is counts as strange. */
static uint64_t file_bytes;
static int files, strange;

static int see_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    if (type != FTW_F || ftw->level != 3)
        return 0;
    files++;
    file_bytes += (uint64_t)st->st_size;
    strange += strchr(path + ftw->base, '.') != NULL;
    return 0;
}

static void see_files(const struct world *w)
{
    files = strange = 0;
    file_bytes = 0;
    nftw(w->dir, see_file, 16, FTW_PHYS);
}

/* The engine counts the files that there are, once the disk's thread has done what it was told. */
static void check_files(const struct world *w)
{
    time_t until = time(NULL) + SETTLE_SECONDS;
    struct engine_counters c;

    if (!w->dir[0])
        return;
    do {
        see_files(w);
        c = engine_counters(w->rig.engine);
        if (!c.store_waiting && file_bytes == c.store_bytes && !strange)
            return;
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    } while (time(NULL) < until);
    fail_msg("%d files of %llu bytes, %d strange; the engine counts %llu bytes", files,
             (unsigned long long)file_bytes, strange, (unsigned long long)c.store_bytes);
}

static void count_alive(const struct world *w, int *sessions, int *snapshots)
{
    *sessions = *snapshots = 0;
    for (int i = 0; i < WORLD_SESSIONS; i++)
        *sessions += w->session[i].alive;
    for (int i = 0; i < WORLD_SNAPSHOTS; i++)
        *snapshots += w->snapshot[i].alive;
}

void world_check_bounds(struct world *w)
{
    struct engine_counters c = engine_counters(w->rig.engine);
    int sessions, snapshots;

    count_alive(w, &sessions, &snapshots);
    assert_int_equal(c.sessions, sessions);
    assert_int_equal(c.snapshots, snapshots);
    assert_int_equal(c.running + c.queued, 0);
    assert_true(c.slots_used <= c.slots);
    assert_int_equal(c.slots_used * w->record_bytes, c.device_bytes);
    assert_true(c.host_bytes <= w->options.host_bytes);
    assert_true(c.spares * w->record_bytes <= w->options.spare_bytes);
    assert_true(c.store_bytes <= w->options.store_bytes + WORLD_SESSIONS * BESIDE_RECORD);
    assert_int_equal(c.store_reports + c.store_failed, 0);
    check_files(w);
}

void world_restart(struct world *w)
{
    rig_restart(&w->rig, &w->options);
    w->restarts++;
    world_check_bounds(w);
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (w->session[i].alive)
            world_check(w, &w->session[i]);
}

struct command *world_command(enum command_kind kind, uint64_t owner, const struct id *session,
                              const struct id *snapshot)
{
    struct command *c =
        rig_command(kind, session ? session->text : NULL, snapshot ? snapshot->text : NULL);

    c->owner = owner;
    return c;
}

/* Quotas are for the owners' worlds, a full store for those that have one. */
static bool may_be_refused(const struct world_plan *p, enum problem_code what)
{
    return what == PROBLEM_NO_SLOT || what == PROBLEM_SNAPSHOT_QUOTA ||
           (p->on_disk && what == PROBLEM_STORAGE_FULL) ||
           (p->owner_states && what == PROBLEM_STATE_QUOTA);
}

bool world_did(struct world *w, enum command_kind kind, enum problem_code what)
{
    if (what == PROBLEM_NONE) {
        w->done[kind]++;
        return true;
    }
    if (!may_be_refused(&w->plan, what))
        fail_msg("command %d was refused with problem %d", (int)kind, (int)what);
    w->refused++;
    return false;
}

static struct checkpoint *export_head(struct rig *r, uint64_t owner, const struct id *session)
{
    struct command *c = world_command(COMMAND_SESSION_EXPORT, owner, session, NULL);
    struct checkpoint *head;

    assert_int_equal(rig_ask(r, c), PROBLEM_NONE);
    head = c->checkpoint;
    c->checkpoint = NULL;
    command_free(c);
    return head;
}

static void assert_same(const struct world *w, const struct checkpoint *got,
                        const struct checkpoint *want)
{
    assert_int_equal(got->position, want->position);
    assert_int_equal(got->pending, want->pending);
    assert_int_equal(got->tokens, want->tokens);
    for (size_t i = 0; i < got->tokens; i++)
        assert_int_equal(got->token[i] & ~RECENT_SAMPLED, want->token[i]);
    assert_int_equal(!got->record, !want->record);
    if (got->record)
        assert_memory_equal(got->record, want->record, w->record_bytes);
}

void world_check(struct world *w, const struct world_session *s)
{
    static const struct id reference = { "r" };
    struct command *c = world_command(COMMAND_SESSION_GET, s->owner, &s->id, NULL);
    struct checkpoint *got, *want;

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    assert_int_equal(c->sessions[0].position, s->past.n);
    assert_int_equal(c->sessions[0].version, s->version);
    assert_false(c->sessions[0].busy);
    command_free(c);
    rig_do(&w->reference, COMMAND_SESSION_CREATE, "r");
    free(rig_run_turn(&w->reference, rig_turn("r", s->past.id, s->past.n, 0)));
    got = export_head(&w->rig, s->owner, &s->id);
    want = export_head(&w->reference, 0, &reference);
    assert_same(w, got, want);
    checkpoint_destroy(got);
    checkpoint_destroy(want);
    rig_do(&w->reference, COMMAND_SESSION_DELETE, "r");
}

/* Sometimes by a name that the other owner may have given to a session, too. */
void world_create(struct world *w, struct world_session *s, const struct world_snapshot *from)
{
    uint64_t owner = from ? from->owner : w->plan.owners ? 1 + world_below(w, WORLD_OWNERS) : 0;
    struct command *c = world_command(COMMAND_SESSION_CREATE, owner, NULL, from ? &from->id : NULL);
    bool taken = false;

    if (!world_below(w, 3))
        snprintf(c->session.text, sizeof(c->session.text), "named-%u", world_below(w, 3));
    for (int i = 0; i < WORLD_SESSIONS && c->session.text[0]; i++)
        taken |= w->session[i].alive && w->session[i].owner == owner &&
                 id_equal(&w->session[i].id, &c->session);
    if (taken) {
        assert_int_equal(rig_ask(&w->rig, c), PROBLEM_SESSION_EXISTS);
    } else if (world_did(w, c->kind, rig_ask(&w->rig, c))) {
        memset(s, 0, sizeof(*s));
        s->alive = true;
        s->owner = owner;
        s->id = c->sessions[0].id;
        if (from)
            s->past = from->past;
    }
    command_free(c);
}

void world_delete(struct world *w, struct world_session *s)
{
    struct command *c = world_command(COMMAND_SESSION_DELETE, s->owner, &s->id, NULL);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    command_free(c);
    s->alive = false;
    w->done[COMMAND_SESSION_DELETE]++;
}

void world_fork(struct world *w, const struct world_session *s, const struct world_snapshot *from,
                struct world_session *to)
{
    struct command *c =
        world_command(COMMAND_SESSION_FORK, s->owner, &s->id, from ? &from->id : NULL);

    if (world_did(w, c->kind, rig_ask(&w->rig, c))) {
        *to = *s;
        if (from)
            to->past = from->past;
        to->id = c->sessions[0].id;
        to->version = 0;
    }
    command_free(c);
}

void world_take_snapshot(struct world *w, const struct world_session *s, struct world_snapshot *to)
{
    struct command *c = world_command(COMMAND_SNAPSHOT_TAKE, s->owner, &s->id, NULL);

    if (world_did(w, c->kind, rig_ask(&w->rig, c))) {
        to->alive = true;
        to->owner = s->owner;
        to->id = c->snapshots[0].id;
        to->past = s->past;
    }
    command_free(c);
}

void world_delete_snapshot(struct world *w, struct world_snapshot *s)
{
    struct command *c = world_command(COMMAND_SNAPSHOT_DELETE, s->owner, NULL, &s->id);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    command_free(c);
    s->alive = false;
    w->done[COMMAND_SNAPSHOT_DELETE]++;
}

void world_restore(struct world *w, struct world_session *s, const struct world_snapshot *from)
{
    struct command *c = world_command(COMMAND_SESSION_RESTORE, s->owner, &s->id, &from->id);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    command_free(c);
    s->past = from->past;
    s->version++;
    w->done[COMMAND_SESSION_RESTORE]++;
}

/* Turns that have been in the store alone may have lost their starts; never the ids. */
static bool is_forgotten(const struct world *w, const struct world_session *s,
                         const struct command *c)
{
    return c->problem.what == PROBLEM_HISTORY && c->turns && (!s->past.turns || w->plan.on_disk);
}

void world_roll_back(struct world *w, struct world_session *s)
{
    struct command *c = world_command(COMMAND_SESSION_ROLLBACK, s->owner, &s->id, NULL);
    struct world_past *p = &s->past;
    size_t turns = p->turns - (p->turns ? world_below(w, (unsigned)p->turns) : 0);

    if (world_below(w, 2))
        c->turns = turns + (turns == 0);
    else
        c->position = world_below(w, (unsigned)p->n + 1);
    rig_ask(&w->rig, c);
    if (!is_forgotten(w, s, c) && world_did(w, c->kind, c->problem.what)) {
        p->n = c->turns ? p->turn[p->turns - turns] : c->position;
        while (p->turns && p->turn[p->turns - 1] >= p->n)
            p->turns--;
        s->version++;
        assert_int_equal(c->sessions[0].position, p->n);
        assert_int_equal(c->sessions[0].version, s->version);
    }
    command_free(c);
}

void world_carry_over(struct world *w, const struct world_session *from, struct world_session *to)
{
    struct checkpoint *head = export_head(&w->rig, from->owner, &from->id);
    struct command *c = world_command(COMMAND_SESSION_IMPORT, to->owner, &to->id, NULL);
    const struct model_info *model = model_info(w->rig.model);
    struct problem p = { 0 };
    void *file;
    size_t len;

    assert_true(format_encode(head, model, &file, &len, &p));
    checkpoint_destroy(head);
    c->checkpoint = format_decode(file, len, model, model->vocab, &p);
    assert_non_null(c->checkpoint);
    if (world_did(w, c->kind, rig_ask(&w->rig, c))) {
        to->past = from->past;
        to->version++;
    }
    command_free(c);
    free(file);
}

void world_ask_as_another(struct world *w, const struct world_session *s)
{
    static const enum command_kind kinds[] = { COMMAND_SESSION_GET,   COMMAND_SESSION_DELETE,
                                               COMMAND_SESSION_FORK,  COMMAND_SESSION_EXPORT,
                                               COMMAND_SNAPSHOT_TAKE, COMMAND_SESSION_ROLLBACK };
    enum command_kind kind = kinds[world_below(w, sizeof(kinds) / sizeof(kinds[0]))];
    struct command *c;

    if (!w->plan.owners || strncmp(s->id.text, "named", 5) == 0)
        return;
    c = world_command(kind, s->owner % WORLD_OWNERS + 1, &s->id, NULL);
    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_SESSION_NOT_FOUND);
    command_free(c);
}

struct command *world_turn(struct world *w, const struct world_session *s)
{
    int32_t prompt[40];
    size_t n = world_below(w, 5) ? world_below(w, 40) : 0;
    struct command *c;

    for (size_t i = 0; i < n; i++)
        prompt[i] = (int32_t)(1 + world_below(w, 255));
    if (!world_below(w, 3)) /* others begin like that, too */
        for (n = 0; n < 36; n++)
            prompt[n] = (int32_t)(1 + n * 7 % 255);
    c = rig_turn(s ? s->id.text : "", prompt, n, (int)world_below(w, 12));
    c->owner = s ? s->owner : w->plan.owners ? 1 : 0;
    c->turn.ignore_eos = true;
    c->turn.sampling.temperature = 1.5f;
    c->turn.no_cache = !world_below(w, 4);
    if (!s)
        c->turn.choices = 1 + (int)world_below(w, 3);
    if (s && !world_below(w, 4)) {
        c->has_expected_version = true;
        c->expected_version = s->version + !world_below(w, 4);
    }
    return c;
}

/* Whether the session has moved. */
static bool moved(struct world *w, const struct world_session *s, const struct command *c,
                  const struct outcome *out)
{
    const struct turn *t = &c->turn;

    if (c->has_expected_version && c->expected_version != s->version) {
        assert_int_equal(c->problem.what, PROBLEM_VERSION_MISMATCH);
        return false;
    }
    if (c->problem.what != PROBLEM_CANCELLED)
        return world_did(w, COMMAND_TURN, c->problem.what);
    w->cancelled++;
    if (!t->commit_partial || !out->choice[0].tokens)
        return false;
    w->partial++;
    return true;
}

/* The ids are those of the prompt and those that were sampled; a turn of neither, on nothing,
 * begins with the begin-of-text token. */
void world_turned(struct world *w, struct world_session *s, const struct command *c,
                  const struct outcome *out)
{
    const struct turn *t = &c->turn;
    struct world_past *p = &s->past;
    int bos = model_info(w->rig.model)->bos;

    if (!s->alive || !moved(w, s, c, out))
        return;
    assert_true(p->n + WORLD_ROOM <= WORLD_PAST);
    assert_true(t->cached_tokens >= p->n && t->cached_tokens <= p->n + t->prompt_len);
    w->hits += t->cached_tokens > p->n;
    if (p->turns == WORLD_TURNS)
        memmove(p->turn, p->turn + 1, --p->turns * sizeof(p->turn[0]));
    p->turn[p->turns++] = p->n;
    if (!p->n && !t->prompt_len && t->max_tokens)
        p->id[p->n++] = bos > 0 ? bos : 0;
    memcpy(p->id + p->n, t->prompt, t->prompt_len * sizeof(*p->id));
    p->n += t->prompt_len;
    memcpy(p->id + p->n, out->choice[0].id, (size_t)out->choice[0].tokens * sizeof(*p->id));
    p->n += (size_t)out->choice[0].tokens;
    s->version++;
    assert_int_equal(out->version, s->version);
}

static void assert_nothing_is_left(struct world *w)
{
    struct engine_counters c;

    world_check_bounds(w);
    c = engine_counters(w->rig.engine);
    assert_int_equal(c.sessions + c.snapshots + c.queued + c.running, 0);
    assert_int_equal(c.slots_used * w->record_bytes, c.device_bytes);
    assert_int_equal(c.spares * w->record_bytes, c.device_bytes + c.host_bytes);
    assert_int_equal(c.store_bytes, 0);
    assert_true(engine_idle(w->rig.engine));
    if (!w->dir[0])
        return;
    see_files(w);
    assert_int_equal(files, 0);
}

void world_abandon(struct world *w)
{
    char command[96];

    rig_close(&w->rig);
    rig_close(&w->reference);
    if (!w->dir[0])
        return;
    snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
}

void world_close(struct world *w)
{
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (w->session[i].alive)
            world_delete(w, &w->session[i]);
    for (int i = 0; i < WORLD_SNAPSHOTS; i++)
        if (w->snapshot[i].alive)
            world_delete_snapshot(w, &w->snapshot[i]);
    assert_nothing_is_left(w);
    if (w->dir[0]) {
        world_restart(w);
        assert_nothing_is_left(w);
    }
    world_abandon(w);
}
