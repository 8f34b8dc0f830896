/* The power goes while the engine works on a state folder: what a new engine finds is what was
 * at one moment, sessions and snapshots together. With `always` no answer was given for what is
 * missing; with an interval nothing is missing that was done before the disk last came to rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "tests/server/engine/world.h"
#include "tests/server/state/power.h"

enum { BEFORE = 16, AFTER = 24, ROUNDS = 40, SETTLE_SECONDS = 60 };

/* What there was after one of the verbs. */
struct moment {
    struct world_session session[WORLD_SESSIONS];
    struct world_snapshot snapshot[WORLD_SNAPSHOTS];
};

static struct moment moment[BEFORE + AFTER + 1];
static int moments, least; /* least: the oldest one that may be found */

static struct world_session *pick(struct world *w, bool alive)
{
    int first = (int)world_below(w, WORLD_SESSIONS);

    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (w->session[(first + i) % WORLD_SESSIONS].alive == alive)
            return &w->session[(first + i) % WORLD_SESSIONS];
    return NULL;
}

static void take_turn(struct world *w, struct world_session *s, struct outcome *out)
{
    struct command *c = world_turn(w, s);

    c->expected = (struct version_set){ 0 };
    rig_run(&w->rig, &c, 1, out);
    world_turned(w, s, c, out);
    command_free(c);
}

static void one_verb(struct world *w, struct outcome *out)
{
    struct world_session *s = pick(w, true), *empty = pick(w, false);
    struct world_snapshot *p = &w->snapshot[world_below(w, WORLD_SNAPSHOTS)];
    unsigned dice = world_below(w, 12);

    if (!s)
        world_create(w, empty, NULL);
    else if (s->past.n > WORLD_PAST - WORLD_ROOM)
        world_delete(w, s);
    else if (dice < 4)
        take_turn(w, s, out);
    else if (dice < 6 && empty)
        world_fork(w, s, NULL, empty);
    else if (dice < 8)
        world_roll_back(w, s);
    else if (dice == 8)
        world_delete(w, s);
    else if (!p->alive)
        world_take_snapshot(w, s, p);
    else if (dice == 9)
        world_delete_snapshot(w, p, world_below(w, 2));
    else
        world_restore(w, s, p);
}

static void verbs(struct world *w, int n, struct outcome *out)
{
    for (int i = 0; i < n; i++) {
        one_verb(w, out);
        memcpy(moment[moments].session, w->session, sizeof(w->session));
        memcpy(moment[moments].snapshot, w->snapshot, sizeof(w->snapshot));
        if (w->plan.durability == DISK_ALWAYS && power_is_on())
            least = moments;
        moments++;
    }
}

static void wait_until_settled(void)
{
    time_t until = time(NULL) + SETTLE_SECONDS;

    while (!power_is_settled() && time(NULL) < until)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    assert_true(power_is_settled());
}

static bool session_is(struct world *w, const struct world_session *s)
{
    struct command *c = world_command(COMMAND_SESSION_GET, s->owner, &s->id, NULL);
    bool is = rig_ask(&w->rig, c) == PROBLEM_NONE && c->sessions[0].version == s->version &&
              c->sessions[0].position == s->past.n;

    command_free(c);
    return is;
}

static bool snapshot_is(struct world *w, const struct world_snapshot *s)
{
    struct command *c = world_command(COMMAND_SNAPSHOT_GET, s->owner, NULL, &s->id);
    bool is = rig_ask(&w->rig, c) == PROBLEM_NONE && c->snapshots[0].position == s->past.n;

    command_free(c);
    return is;
}

/* Nothing else is there either. */
static bool was_then(struct world *w, const struct moment *m)
{
    struct engine_counters c = engine_counters(w->rig.engine);
    bool is = true;

    for (int i = 0; i < WORLD_SESSIONS; i++) {
        c.sessions -= m->session[i].alive;
        is = is && (!m->session[i].alive || session_is(w, &m->session[i]));
    }
    for (int i = 0; i < WORLD_SNAPSHOTS; i++) {
        c.snapshots -= m->snapshot[i].alive;
        is = is && (!m->snapshot[i].alive || snapshot_is(w, &m->snapshot[i]));
    }
    return is && !c.sessions && !c.snapshots;
}

static void check_snapshot(struct world *w, const struct world_snapshot *p)
{
    struct command *c = world_command(COMMAND_SESSION_CREATE, p->owner, NULL, &p->id);
    struct world_session s = { .alive = true, .owner = p->owner, .past = p->past };

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    s.id = c->sessions[0].id;
    command_free(c);
    world_check(w, &s);
    world_delete(w, &s);
}

/* Every state is whole, and its ids'. */
static void check_states(struct world *w, const struct moment *m)
{
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (m->session[i].alive)
            world_check(w, &m->session[i]);
    for (int i = 0; i < WORLD_SNAPSHOTS; i++)
        if (m->snapshot[i].alive)
            check_snapshot(w, &m->snapshot[i]);
}

/* Returns how many verbs are missing. */
static int look(struct world *w, uint64_t seed)
{
    char image[96];
    int i = moments - 1;

    snprintf(image, sizeof(image), "%s/image", w->dir);
    assert_int_equal(mkdir(image, 0700), 0);
    power_make_image(image, seed);
    w->options.state_dir = image;
    w->options.io = NULL;
    w->options.max_sessions++; /* to look at snapshots with */
    rig_restart(&w->rig, &w->options);
    while (i >= least && !was_then(w, &moment[i]))
        i--;
    if (i < least)
        fail_msg("seed %d: what is there was at no moment from %d to %d", (int)seed, least,
                 moments - 1);
    check_states(w, &moment[i]);
    return moments - 1 - i;
}

static int cut_once(enum disk_mode durability, uint64_t seed)
{
    const struct disk_io io = power_io();
    const struct world_plan plan = { .model = "tests/data/rwkv7-tiny-hf",
                                     .cpus = { .log_steps = seed % 2 ? 4 : 0 },
                                     .slots = 2,
                                     .parked = 1 + (int)(seed % 3),
                                     .on_disk = 60,
                                     .durability = durability,
                                     .io = &io,
                                     .seed = seed * 88172645463325252u + 1 };
    struct world *w = malloc(sizeof(*w));
    struct outcome *out = malloc(sizeof(*out));
    int missing;

    world_open(w, &plan);
    moments = least = 0;
    memset(moment, 0, sizeof(moment));
    moments = 1; /* nothing, at first */
    verbs(w, BEFORE, out);
    if (durability == DISK_INTERVAL) {
        wait_until_settled();
        least = moments - 1;
    }
    power_cut_after(1 + (int)world_below(w, 150), false);
    verbs(w, AFTER, out);
    missing = look(w, seed);
    world_abandon(w);
    power_forget();
    free(out);
    free(w);
    return missing;
}

static void cut(enum disk_mode durability)
{
    int missing = 0;

    for (uint64_t seed = 1; seed <= ROUNDS; seed++)
        missing += cut_once(durability, seed);
    print_message("# %d of %d verbs missing\n", missing, ROUNDS * (BEFORE + AFTER));
    assert_in_range(missing, ROUNDS, ROUNDS * AFTER);
}

static void always_keeps_what_was_answered(void **unused)
{
    (void)unused;
    cut(DISK_ALWAYS);
}

static void an_interval_is_cut_at_one_moment(void **unused)
{
    (void)unused;
    cut(DISK_INTERVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(always_keeps_what_was_answered),
        cmocka_unit_test(an_interval_is_cut_at_one_moment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
