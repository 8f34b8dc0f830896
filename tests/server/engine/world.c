#include "tests/server/engine/world.h"

#include <dirent.h>
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
#include "tests/models/made_model.h"
#include "tests/server/engine/reference.h"

/* Beside its record a file has ids and a description. The engine asks for the room of a record,
 * before it knows how long the file will be. */
enum { SETTLE_SECONDS = 60, BESIDE_RECORD = 4096 };

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
                                          .cache_every = (size_t)p->cache_every,
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

static int count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

void world_open(struct world *w, const struct world_plan *plan)
{
    const char *model;

    memset(w, 0, sizeof(*w));
    w->plan = *plan;
    w->random = plan->seed;
    w->descriptors = count_descriptors();
    w->model = made_create();
    model = made_first_layers(w->model, plan->model, 1);
    w->reference = reference_open(model);
    w->record_bytes = reference_info(w->reference)->layout.bytes;
    set_options(w);
    rig_open_as(&w->rig, plan->devices ? plan->devices : "cpu", model, &w->options,
                plan->threads ? plan->threads : 1, &plan->cpus);
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
    assert_true(c.store_bytes <= w->options.store_bytes);
    assert_int_equal(c.store_reports + c.store_failed, 0);
    check_files(w);
}

struct checkpoint *world_export(struct world *w, const struct world_session *s)
{
    struct command *c = world_command(COMMAND_SESSION_EXPORT, s->owner, &s->id, NULL);
    struct checkpoint *head;

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    head = c->checkpoint;
    c->checkpoint = NULL;
    command_free(c);
    return head;
}

/* The newest token of a context is pending. */
static void assert_is_of(struct world *w, const struct checkpoint *head, const struct world_past *p)
{
    assert_int_equal(head->position, p->n);
    assert_int_equal(head->tokens, p->n);
    for (size_t i = 0; i < p->n; i++)
        assert_int_equal(head->token[i] & ~RECENT_SAMPLED, p->id[i]);
    assert_int_equal(head->pending, p->n ? p->id[p->n - 1] : -1);
    assert_int_equal(head->record != NULL, p->n > 0);
    if (p->n)
        assert_memory_equal(head->record, reference_state(w->reference, p->id, p->n - 1),
                            w->record_bytes);
}

void world_check(struct world *w, const struct world_session *s)
{
    struct command *c = world_command(COMMAND_SESSION_GET, s->owner, &s->id, NULL);
    struct checkpoint *head;

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    assert_int_equal(c->sessions[0].position, s->past.n);
    assert_int_equal(c->sessions[0].version, s->version);
    assert_false(c->sessions[0].busy);
    command_free(c);
    head = world_export(w, s);
    assert_is_of(w, head, &s->past);
    checkpoint_destroy(head);
}

void world_restart(struct world *w)
{
    w->crossed += engine_counters(w->rig.engine).moves.device_device;
    rig_restart(&w->rig, &w->options);
    w->restarts++;
    world_check_bounds(w);
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (w->session[i].alive)
            world_check(w, &w->session[i]);
}

static void assert_nothing_is_left(struct world *w)
{
    struct engine_counters c;

    world_check_bounds(w);
    c = engine_counters(w->rig.engine);
    assert_int_equal(c.sessions + c.snapshots + c.queued + c.running, 0);
    assert_int_equal(c.slots_used * w->record_bytes, c.device_bytes);
    assert_int_equal(c.spares * w->record_bytes, c.device_bytes + c.host_bytes);
    assert_int_equal(c.store_bytes + c.anchor_bytes, 0);
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
    reference_close(w->reference);
    made_destroy(w->model);
    assert_int_equal(count_descriptors(), w->descriptors);
    if (!w->dir[0])
        return;
    snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
}

void world_clear(struct world *w)
{
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (w->session[i].alive)
            world_delete(w, &w->session[i]);
    for (int i = 0; i < WORLD_SNAPSHOTS; i++)
        if (w->snapshot[i].alive)
            world_delete_snapshot(w, &w->snapshot[i], world_below(w, 2));
    assert_nothing_is_left(w);
}

/* The engine itself asserts at its end that no checkpoint is kept. */
void world_close(struct world *w)
{
    world_clear(w);
    if (w->dir[0]) {
        world_restart(w);
        assert_nothing_is_left(w);
    }
    world_abandon(w);
}
