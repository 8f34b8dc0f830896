/* Random verbs on few slots, little memory and little disk, against the model of world.h.
 *
 * EDDY_RANDOM_STEPS sets how many forks and rollbacks all worlds do together, in which a share
 * of every other verb comes along; an argument which tests run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/server/engine/world.h"
#include "tests/server/state/late.h"
#include "tests/server/state/logging.h"

enum { AT_ONCE = 4, EXTRAS = 4, CHECK_EVERY = 200, STEPS = 1000, PATIENCE = 10 };

static int forks, rollbacks, hits, subtrees, partial, verbs; /* of all worlds */
static uint64_t crossed;

static int steps(void)
{
    const char *given = getenv("EDDY_RANDOM_STEPS");

    return given ? (int)strtol(given, NULL, 10) : STEPS;
}

/* A turn may end before a verb that was sent after it is obeyed, or not: where the fork or the
 * snapshot stands says which. */
struct meanwhile {
    struct command *fork, *snapshot, *forget;
    struct world_session *of, before, *child;
    struct world_snapshot *kept;
};

static struct world_session *find_dead(struct world *w)
{
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (!w->session[i].alive)
            return &w->session[i];
    return NULL;
}

static void plan_meanwhile(struct world *w, struct world_session *of, struct meanwhile *m)
{
    struct world_snapshot *kept = &w->snapshot[world_below(w, WORLD_SNAPSHOTS)];

    *m = (struct meanwhile){ .of = of, .before = *of, .child = find_dead(w), .kept = kept };
    if (m->child && world_below(w, 2))
        m->fork = world_command(COMMAND_SESSION_FORK, of->owner, &of->id, NULL);
    /* With a disk a fork may wait for it, and then be below the snapshot or not. */
    if (!kept->alive && !(m->fork && w->plan.on_disk) && world_below(w, 2))
        m->snapshot = world_command(COMMAND_SNAPSHOT_TAKE, of->owner, &of->id, NULL);
    if (!world_below(w, 4))
        m->forget = world_command(COMMAND_SESSION_DELETE, of->owner, &of->id, NULL);
}

static const struct world_past *past_at(const struct meanwhile *m, const struct world_session *then,
                                        uint64_t position)
{
    assert_true(position == m->before.past.n || position == then->past.n);
    return position == m->before.past.n ? &m->before.past : &then->past;
}

/* then: the session as it is after its turn, even if it was deleted meanwhile. */
static void take_meanwhile(struct world *w, struct meanwhile *m, struct world_session *then)
{
    struct command *c = m->fork;

    if (c && world_did(w, c->kind, c->problem.what)) {
        const struct world_past *past = past_at(m, then, c->sessions[0].position);

        *m->child = (struct world_session){ .alive = true,
                                            .owner = m->before.owner,
                                            .id = c->sessions[0].id,
                                            .past = *past,
                                            .below = m->before.below };
    }
    c = m->snapshot;
    if (c && world_did(w, c->kind, c->problem.what))
        world_taken(then, m->kept, c, past_at(m, then, c->snapshots[0].position));
    if (m->forget)
        assert_int_equal(m->forget->problem.what, PROBLEM_NONE);
}

/* The turn of a session that is deleted meanwhile ends before that, or fails by it. */
static void take_first_turn(struct world *w, struct meanwhile *m, struct command *c,
                            const struct outcome *out)
{
    struct world_session then = *m->of;

    if (m->forget && c->problem.what == PROBLEM_SESSION_NOT_FOUND)
        m->of->alive = false;
    else
        world_turned(w, &then, c, out);
    take_meanwhile(w, m, &then);
    then.alive = !m->forget;
    *m->of = then;
}

static int gather_turns(struct world *w, struct command **c, struct world_session **of)
{
    int n = 0, first = (int)world_below(w, WORLD_SESSIONS);

    for (int i = 0; i < WORLD_SESSIONS && n < AT_ONCE; i++) {
        struct world_session *s = &w->session[(first + i) % WORLD_SESSIONS];

        if (!s->alive || s->past.n > WORLD_PAST - WORLD_ROOM)
            continue;
        of[n] = s;
        c[n] = world_turn(w, s);
        if (!world_below(w, 6))
            atomic_store(&c[n]->cancelled, true);
        n++;
    }
    return n;
}

/* Turns of several sessions at once, one without a session among them, and verbs on the first
 * of them. */
static void several_turns(struct world *w, struct outcome *out)
{
    struct command *c[AT_ONCE + EXTRAS];
    struct world_session *of[AT_ONCE];
    int n = gather_turns(w, c, of), all = n;
    struct meanwhile m;

    if (!n)
        return;
    c[0]->turn.max_tokens++; /* past_at() could not tell it from one that moves nothing */
    c[all++] = world_turn(w, NULL);
    plan_meanwhile(w, of[0], &m);
    if (m.fork)
        c[all++] = m.fork;
    if (m.snapshot)
        c[all++] = m.snapshot;
    if (m.forget)
        c[all++] = m.forget;
    rig_run(&w->rig, c, all, out);
    take_first_turn(w, &m, c[0], &out[0]);
    for (int i = 1; i < n; i++)
        world_turned(w, of[i], c[i], &out[i]);
    world_turned(w, NULL, c[n], &out[n]);
    for (int i = 0; i < all; i++)
        command_free(c[i]);
}

static void cancel_midway(struct world *w, struct world_session *s, struct outcome *out)
{
    struct command *c = world_turn(w, s);

    c->turn.max_tokens = 40;
    c->turn.commit_partial = world_below(w, 2);
    rig_run_cancelled(&w->rig, c, world_below(w, 2) ? 1 : 2 + (int)world_below(w, 20), out);
    world_turned(w, s, c, out);
    command_free(c);
}

/* Into a free place, or into one that is made free. */
static void fork_somewhere(struct world *w, struct world_session *s)
{
    struct world_session *to = find_dead(w);
    struct world_snapshot *from = &w->snapshot[world_below(w, WORLD_SNAPSHOTS)];

    while (!to || to == s) {
        to = &w->session[world_below(w, WORLD_SESSIONS)];
        if (to != s && to->alive)
            world_delete(w, to);
    }
    world_fork(w, s, from->alive && from->owner == s->owner && !world_below(w, 3) ? from : NULL,
               to);
}

static void on_snapshots(struct world *w, struct world_session *s, struct world_snapshot *p)
{
    if (!p->alive) {
        if (s->alive)
            world_take_snapshot(w, s, p);
    } else if (!world_below(w, 3)) {
        world_delete_snapshot(w, p, world_below(w, 3));
    } else if (s->alive && s->owner == p->owner) {
        world_restore(w, s, p);
    }
}

static void on_one(struct world *w, struct world_session *s, struct outcome *out)
{
    struct world_session *t = &w->session[world_below(w, WORLD_SESSIONS)];

    switch (world_below(w, 16)) {
    case 0:
        if (!world_below(w, 3) || s->past.n > WORLD_PAST - WORLD_ROOM)
            world_delete(w, s);
        break;
    case 1:
    case 2:
        if (t->alive)
            world_carry_over(w, s, t);
        break;
    case 3:
        if (s->past.n <= WORLD_PAST - WORLD_ROOM)
            cancel_midway(w, s, out);
        break;
    case 4:
        world_ask_as_another(w, s);
        break;
    case 5:
    case 6:
    case 7:
    case 8:
    case 9:
        fork_somewhere(w, s);
        break;
    default:
        world_roll_back(w, s);
        if (world_below(w, 2))
            world_check(w, s);
    }
}

static void step(struct world *w, struct outcome *out)
{
    struct world_session *s = &w->session[world_below(w, WORLD_SESSIONS)];
    struct world_snapshot *p = &w->snapshot[world_below(w, WORLD_SNAPSHOTS)];
    unsigned dice = world_below(w, 16);

    if (dice < 3)
        on_snapshots(w, s, p);
    else if (dice < 6)
        several_turns(w, out);
    else if (s->alive)
        on_one(w, s, out);
    else
        world_create(w, s, p->alive && world_below(w, 2) ? p : NULL);
}

static void check_all(struct world *w)
{
    world_check_bounds(w);
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (w->session[i].alive)
            world_check(w, &w->session[i]);
}

static int counted(const struct world *w)
{
    return w->done[COMMAND_SESSION_FORK] + w->done[COMMAND_SESSION_ROLLBACK];
}

/* A verb that was never done; -1: there is none. */
static int find_undone(const struct world *w)
{
    static const enum command_kind tried[] = {
        COMMAND_TURN,          COMMAND_SESSION_CREATE,  COMMAND_SESSION_DELETE,
        COMMAND_SESSION_FORK,  COMMAND_SESSION_IMPORT,  COMMAND_SESSION_RESTORE,
        COMMAND_SNAPSHOT_TAKE, COMMAND_SNAPSHOT_DELETE, COMMAND_SESSION_ROLLBACK
    };

    for (size_t i = 0; i < sizeof(tried) / sizeof(tried[0]); i++)
        if (!w->done[tried[i]] && w->plan.parked)
            return (int)tried[i];
    return -1;
}

/* By chance a small world has no prefix hit for a while, or lacks a verb. */
static bool is_done(const struct world *w, int steps)
{
    const bool whole = find_undone(w) < 0 && (w->hits || !w->plan.spares);
    const int n = counted(w);

    return n >= steps && (whole || n >= PATIENCE * steps);
}

/* Nothing that a world is about may be missing from it. */
static void assert_it_was_a_world(const struct world *w)
{
    if (find_undone(w) >= 0)
        fail_msg("%s: command %d was never taken", w->plan.model, find_undone(w));
    assert_true(w->cancelled && w->draws);
    assert_true(w->hits || !w->plan.spares);
}

static void print_world(const struct world *w, const struct engine_counters *c)
{
    print_message("# %d forks, %d rollbacks, %d turns (%d cancelled), %d draws, %d prefix hits, "
                  "%d subtrees, %d refused, %d restarts, %llu slices, %llu from the store, "
                  "%llu from device to device\n",
                  w->done[COMMAND_SESSION_FORK], w->done[COMMAND_SESSION_ROLLBACK],
                  w->done[COMMAND_TURN], w->cancelled, w->draws, w->hits, w->subtrees, w->refused,
                  w->restarts, (unsigned long long)c->slices,
                  (unsigned long long)c->moves.store_device, (unsigned long long)w->crossed);
    forks += w->done[COMMAND_SESSION_FORK];
    rollbacks += w->done[COMMAND_SESSION_ROLLBACK];
    hits += w->hits;
    subtrees += w->subtrees;
    partial += w->partial;
    for (int i = 0; i <= COMMAND_SNAPSHOT_IMPORT; i++)
        verbs += w->done[i];
}

static const char mamba[] = "tests/data/mamba-tiny", mamba2[] = "tests/data/mamba2-grouped",
                  rwkv[] = "tests/data/rwkv7-tiny-hf";

static const struct world_plan plans[] = {
    { .name = "a_session_is_the_list_of_its_tokens",
      .model = mamba,
      .slots = 3,
      .parked = 3,
      .seed = 88172645463325252u },
    { .name = "and_with_spares",
      .cpus = { .log_steps = 4 },
      .model = mamba2,
      .slots = 3,
      .parked = 6,
      .spares = 5,
      .cache_every = 32,
      .threads = 2,
      .seed = 1181783497276652981u },
    { .name = "and_in_slices",
      .cpus = { .log_steps = 3 },
      .model = rwkv,
      .slots = 3,
      .parked = 4,
      .spares = 4,
      .quantum = 2,
      .seed = 2685821657736338717u },
    { .name = "and_of_several_owners",
      .model = rwkv,
      .slots = 2,
      .parked = 8,
      .spares = 100,
      .owners = 2,
      .owner_states = 5,
      .quantum = 3,
      .seed = 4101842887655102017u },
    { .name = "so_is_one_on_disk",
      .model = rwkv,
      .slots = 3,
      .parked = 4,
      .spares = 5,
      .cache_every = 32,
      .on_disk = 40,
      .durability = DISK_ALWAYS,
      .owners = 2,
      .seed = 6364136223846793005u },
    { .name = "and_on_a_small_disk",
      .model = mamba,
      .slots = 2,
      .parked = 1,
      .on_disk = 9,
      .durability = DISK_NONE,
      .quantum = 2,
      .seed = 1442695040888963407u },
    { .name = "and_on_a_disk_that_comes_later",
      .model = mamba2,
      .slots = 2,
      .parked = 3,
      .spares = 3,
      .on_disk = 14,
      .quantum = 3,
      .durability = DISK_INTERVAL,
      .owners = 2,
      .owner_states = 6,
      .seed = 3935559000370003845u },
    { .name = "and_with_one_slot_and_no_memory",
      .cpus = { .log_steps = 3 },
      .model = rwkv,
      .slots = 1,
      .spares = 2,
      .on_disk = 30,
      .durability = DISK_NONE,
      .seed = 2862933555777941757u },
    { .name = "and_on_two_devices",
      .cpus = { .log_steps = 4 },
      .model = mamba2,
      .devices = "cpu,cpu",
      .slots = 2,
      .parked = 3,
      .spares = 4,
      .cache_every = 32,
      .seed = 1442695040888963407u },
    { .name = "and_in_slices_on_three_devices",
      .model = rwkv,
      .devices = "cpu,cpu,cpu",
      .slots = 1,
      .parked = 5,
      .spares = 3,
      .quantum = 2,
      .owners = 2,
      .seed = 2685821657736338717u },
    { .name = "and_on_two_devices_with_a_disk",
      .model = mamba,
      .devices = "cpu,cpu",
      .slots = 2,
      .parked = 2,
      .spares = 3,
      .on_disk = 30,
      .durability = DISK_ALWAYS,
      .quantum = 3,
      .seed = 4101842887655102017u },
    { .name = "so_is_one_whose_moves_are_late",
      .model = mamba2,
      .cpus = { .late = true, .log_steps = 4 },
      .slots = 2,
      .parked = 9,
      .spares = 4,
      .cache_every = 32,
      .quantum = 2,
      .seed = 7046029254386353131u },
    { .name = "and_one_with_a_disk",
      .model = rwkv,
      .cpus = { .late = true, .log_steps = 3 },
      .slots = 3,
      .parked = 4,
      .spares = 3,
      .on_disk = 30,
      .durability = DISK_NONE,
      .quantum = 2,
      .owners = 2,
      .seed = 1181783497276652981u },
    { .name = "and_one_on_three_devices",
      .model = mamba,
      .cpus = { .late = true, .log_steps = 2 },
      .devices = "cpu,cpu,cpu",
      .slots = 1,
      .parked = 5,
      .spares = 3,
      .quantum = 2,
      .seed = 4354685564936845355u },
};

enum { WORLDS = sizeof(plans) / sizeof(plans[0]) };

static void run_world(void **state)
{
    const struct world_plan *plan = *state;
    struct world *w = malloc(sizeof(*w));
    struct outcome *out = malloc((AT_ONCE + EXTRAS) * sizeof(*out));
    struct engine_counters c;

    world_open(w, plan);
    for (int i = 1; !is_done(w, (steps() + WORLDS - 1) / WORLDS); i++) {
        step(w, out);
        if (i % CHECK_EVERY == 0)
            check_all(w);
        else if (i % 10 == 0 && w->session[i % WORLD_SESSIONS].alive)
            world_check(w, &w->session[i % WORLD_SESSIONS]);
        if (!world_below(w, 400))
            world_clear(w);
        if (plan->on_disk && !world_below(w, 100))
            world_restart(w);
    }
    c = engine_counters(w->rig.engine);
    w->crossed += c.moves.device_device;
    crossed += w->crossed;
    assert_it_was_a_world(w);
    world_close(w);
    print_world(w, &c);
    free(out);
    free(w);
}

static void nothing_was_missing(void **unused)
{
    (void)unused;
    assert_true(forks + rollbacks >= steps());
    assert_true(hits && subtrees && partial && crossed && late_moves() && late_followed());
    assert_true(logging_rows() && logging_settled());
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[WORLDS + 1] = { [WORLDS] = cmocka_unit_test(nothing_was_missing) };
    int failed;

    for (int i = 0; i < WORLDS; i++)
        tests[i] = (struct CMUnitTest){ .name = plans[i].name,
                                        .test_func = run_world,
                                        .initial_state = (void *)&plans[i] };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    print_message("# %d forks and %d rollbacks among %d verbs; %d prefix hits, %d subtrees\n",
                  forks, rollbacks, verbs, hits, subtrees);
    return failed;
}
