#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "server/state/checkpoint.h"
#include "server/state/format.h"
#include "tests/server/engine/reference.h"
#include "tests/server/engine/world.h"

enum { NEAR = 24 }; /* tokens that are gone back over more often than others */

static void stand_on(struct world_session *s, struct world_snapshot *from)
{
    s->past = from->past;
    s->below = from;
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

/* Sometimes by a name that the other owner may have given to a session, too. */
void world_create(struct world *w, struct world_session *s, struct world_snapshot *from)
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
            stand_on(s, from);
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

void world_fork(struct world *w, const struct world_session *s, struct world_snapshot *from,
                struct world_session *to)
{
    struct command *c =
        world_command(COMMAND_SESSION_FORK, s->owner, &s->id, from ? &from->id : NULL);

    if (world_did(w, c->kind, rig_ask(&w->rig, c))) {
        *to = *s;
        if (from)
            stand_on(to, from);
        to->id = c->sessions[0].id;
        to->version = 0;
    }
    command_free(c);
}

void world_taken(struct world_session *s, struct world_snapshot *to, const struct command *c,
                 const struct world_past *past)
{
    assert_string_equal(c->snapshots[0].parent.text, s->below ? s->below->id.text : "");
    *to = (struct world_snapshot){ .alive = true,
                                   .owner = s->owner,
                                   .id = c->snapshots[0].id,
                                   .past = *past,
                                   .parent = s->below };
    s->below = to;
}

void world_take_snapshot(struct world *w, struct world_session *s, struct world_snapshot *to)
{
    struct command *c = world_command(COMMAND_SNAPSHOT_TAKE, s->owner, &s->id, NULL);

    if (world_did(w, c->kind, rig_ask(&w->rig, c)))
        world_taken(s, to, c, &s->past);
    command_free(c);
}

static bool is_below(const struct world_snapshot *s, const struct world_snapshot *root)
{
    while (s && s != root)
        s = s->parent;
    return s == root;
}

/* What was below it moves up. */
static void take_out(struct world *w, struct world_snapshot *s)
{
    for (int i = 0; i < WORLD_SNAPSHOTS; i++)
        if (w->snapshot[i].alive && w->snapshot[i].parent == s)
            w->snapshot[i].parent = s->parent;
    for (int i = 0; i < WORLD_SESSIONS; i++)
        if (w->session[i].below == s)
            w->session[i].below = s->parent;
    s->alive = false;
}

void world_delete_snapshot(struct world *w, struct world_snapshot *s, bool whole)
{
    struct command *c = world_command(COMMAND_SNAPSHOT_DELETE, s->owner, NULL, &s->id);
    int n = 1;

    c->whole = whole;
    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    for (int i = 0; whole && i < WORLD_SNAPSHOTS; i++) {
        struct world_snapshot *at = &w->snapshot[i];

        if (at == s || !at->alive || !is_below(at, s))
            continue;
        take_out(w, at);
        n++;
    }
    take_out(w, s);
    assert_int_equal(c->count, n);
    command_free(c);
    w->subtrees += n > 1;
    w->done[COMMAND_SNAPSHOT_DELETE] += n;
}

void world_restore(struct world *w, struct world_session *s, struct world_snapshot *from)
{
    struct command *c = world_command(COMMAND_SESSION_RESTORE, s->owner, &s->id, &from->id);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    command_free(c);
    stand_on(s, from);
    s->version++;
    w->done[COMMAND_SESSION_RESTORE]++;
}

/* The start of a turn, or a token; as often as not one of the newest. */
static void aim(struct world *w, const struct world_past *p, struct command *c)
{
    size_t newest = p->n < NEAR ? p->n : NEAR;

    if (world_below(w, 2))
        c->turns = p->turns ? 1 + world_below(w, (unsigned)p->turns) : 1;
    else if (world_below(w, 2))
        c->position = world_below(w, (unsigned)p->n + 1);
    else
        c->position = p->n - world_below(w, (unsigned)newest + 1);
}

/* To a position is to the newest turn that started there; where it stands, nothing is taken back.
 */
static void rolled_back(struct world_session *s, const struct command *c)
{
    struct world_past *p = &s->past;
    bool stays = !c->turns && c->position == p->n;

    p->n = c->turns ? p->turn[p->turns - c->turns] : c->position;
    p->turns -= c->turns;
    while (!c->turns && p->turns && p->turn[p->turns - 1] > p->n)
        p->turns--;
    if (!c->turns && !stays && p->turns && p->turn[p->turns - 1] == p->n)
        p->turns--;
    while (s->below && s->below->past.n > p->n)
        s->below = s->below->parent;
    s->version++;
}

/* The whole of a context can be gone back over, and the starts of its turns, wherever it was. */
void world_roll_back(struct world *w, struct world_session *s)
{
    struct command *c = world_command(COMMAND_SESSION_ROLLBACK, s->owner, &s->id, NULL);

    aim(w, &s->past, c);
    if (c->turns && !s->past.turns) {
        assert_int_equal(rig_ask(&w->rig, c), PROBLEM_HISTORY);
    } else if (world_did(w, c->kind, rig_ask(&w->rig, c))) {
        rolled_back(s, c);
        assert_int_equal(c->sessions[0].position, s->past.n);
        assert_int_equal(c->sessions[0].version, s->version);
    }
    command_free(c);
}

void world_carry_over(struct world *w, const struct world_session *from, struct world_session *to)
{
    struct checkpoint *head = world_export(w, from);
    struct command *c = world_command(COMMAND_SESSION_IMPORT, to->owner, &to->id, NULL);
    const struct model_info *model = model_info(w->rig.model);
    struct problem p = { 0 };
    void *file;
    size_t len;

    assert_true(format_encode(head, model, &file, &len, &p));
    checkpoint_destroy(head);
    c->checkpoint = engine_decode(w->rig.engine, file, len, &p);
    assert_non_null(c->checkpoint);
    if (world_did(w, c->kind, rig_ask(&w->rig, c))) {
        to->past = from->past;
        to->below = NULL;
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

/* The beginning of what some session or snapshot has, whoever's it is. */
static size_t repeat(struct world *w, int32_t *prompt)
{
    unsigned i = world_below(w, WORLD_SESSIONS + WORLD_SNAPSHOTS);
    const struct world_past *p =
        i < WORLD_SESSIONS ? &w->session[i].past : &w->snapshot[i - WORLD_SESSIONS].past;
    size_t n = p->n < WORLD_PAST - WORLD_ROOM ? p->n : WORLD_PAST - WORLD_ROOM;

    if (!world_below(w, 3))
        n = world_below(w, (unsigned)n + 1);
    memcpy(prompt, p->id, n * sizeof(*prompt));
    return n;
}

static size_t make_prompt(struct world *w, bool begins, int32_t *prompt)
{
    size_t n = begins && world_below(w, 4) ? repeat(w, prompt) : 0;

    if (!n && !world_below(w, 3)) /* others begin like that, too */
        while (n < 36) {
            prompt[n] = (int32_t)(1 + n * 7 % 255);
            n++;
        }
    else
        for (size_t more = world_below(w, 5) ? world_below(w, n ? 8 : 40) : 0; more; more--)
            prompt[n++] = (int32_t)(1 + world_below(w, 255));
    return n;
}

struct command *world_turn(struct world *w, const struct world_session *s)
{
    int32_t prompt[WORLD_PAST];
    size_t n = make_prompt(w, !s || !s->past.n, prompt);
    struct command *c = rig_turn(s ? s->id.text : "", prompt, n, (int)world_below(w, 12));

    c->owner = s ? s->owner : w->plan.owners ? 1 + world_below(w, WORLD_OWNERS) : 0;
    c->turn.ignore_eos = true;
    c->turn.sampling.temperature = world_below(w, 3) ? 1.5f : 0;
    c->turn.sampling.seeded = world_below(w, 4);
    c->turn.sampling.seed = world_below(w, 1000);
    c->turn.no_cache = !world_below(w, 6);
    if (!s)
        c->turn.choices = 1 + (int)world_below(w, 3);
    if (s && !world_below(w, 4))
        c->expected = version_set_of(s->version + !world_below(w, 4));
    return c;
}

/* Whether the session has moved. */
static bool moved(struct world *w, const struct world_session *s, const struct command *c,
                  const struct outcome *out)
{
    const struct turn *t = &c->turn;

    if (c->expected.given && !version_set_has(&c->expected, s->version)) {
        assert_int_equal(c->problem.what, PROBLEM_VERSION_MISMATCH);
        return false;
    }
    if (c->problem.what != PROBLEM_CANCELLED)
        return world_did(w, COMMAND_TURN, c->problem.what);
    w->cancelled++;
    if (!t->commit_partial || !out->choice[0].tokens)
        assert_false(t->committed);
    else if (!t->committed) /* for want of room; the answer is that it was cancelled */
        w->refused++;
    w->partial += t->committed;
    return t->committed;
}

/* What the model goes on from: the context, and the prompt. A turn of neither begins with the
 * begin-of-text token. */
static size_t gather(const struct world *w, const struct world_past *p, const struct turn *t,
                     int32_t *id)
{
    int bos = reference_info(w->reference)->bos;
    size_t n = p ? p->n : 0;

    assert_true(n + t->prompt_len < WORLD_PAST);
    if (n)
        memcpy(id, p->id, n * sizeof(*id));
    if (!n && !t->prompt_len && t->max_tokens)
        id[n++] = bos > 0 ? bos : 0;
    memcpy(id + n, t->prompt, t->prompt_len * sizeof(*id));
    return n + t->prompt_len;
}

/* n: of the ids before the draws of this choice, which are added. What was drawn with a seed of
 * the session's own is known by its probability alone. */
static size_t check_draws(struct world *w, const struct turn *t, const struct outcome *out,
                          int choice, int32_t *id, size_t n)
{
    const struct sampling *how = &t->sampling;

    assert_true(n + (size_t)out->choice[choice].tokens <= WORLD_PAST);
    for (int i = 0; i < out->choice[choice].tokens; i++) {
        int32_t drawn = out->choice[choice].id[i];
        bool known = how->seeded || how->temperature <= 0;
        struct sample_row row = { .temperature = how->temperature,
                                  .top_p = how->top_p,
                                  .min_p = how->min_p,
                                  .typical_p = how->typical_p,
                                  .repetition = 1,
                                  .seed = how->seed + (uint64_t)choice,
                                  .position = n,
                                  .forced = known ? -1 : drawn };
        struct sample_result is = reference_draw(w->reference, id, n, &row);

        assert_int_equal(drawn, is.token);
        assert_memory_equal(&out->choice[choice].logprob[i], &is.logprob, sizeof(is.logprob));
        id[n++] = drawn;
        w->draws++;
    }
    return n;
}

/* What was drawn is right, whatever became of it. */
void world_turned(struct world *w, struct world_session *s, const struct command *c,
                  const struct outcome *out)
{
    const struct turn *t = &c->turn;
    struct world_past *p = s ? &s->past : NULL;
    size_t from = p ? p->n : 0, n;
    int32_t id[WORLD_PAST];

    n = gather(w, p, t, id);
    for (int i = t->choices; i-- > 1;)
        check_draws(w, t, out, i, id, n);
    n = check_draws(w, t, out, 0, id, n);
    if (s ? !s->alive || !moved(w, s, c, out) : !world_did(w, c->kind, c->problem.what))
        return;
    assert_true(t->cached_tokens >= from && t->cached_tokens <= from + t->prompt_len);
    w->hits += t->cached_tokens > from;
    if (!s)
        return;
    if (p->turns == WORLD_TURNS)
        memmove(p->turn, p->turn + 1, --p->turns * sizeof(p->turn[0]));
    if (n) /* one that leaves a context empty is none to go back over */
        p->turn[p->turns++] = p->n;
    memcpy(p->id, id, n * sizeof(*id));
    p->n = n;
    s->version++;
    assert_int_equal(out->version, s->version);
}
