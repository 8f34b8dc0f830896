/* Random verbs on few slots and little memory, against the simplest model of a session: the
 * list of its token ids. Whatever happened to it, its state is the one of a fresh engine that
 * is fed those ids in one turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "server/state/checkpoint.h"
#include "tests/server/engine/rig.h"

enum { SESSIONS = 7, SNAPSHOTS = 5, PAST = 600, TURNS = 64, AT_ONCE = 4, CHECK_EVERY = 8 };

static int rounds = 500; /* of each world; an argument of the program */

static const struct engine_options tight = { .slots = 3,
                                             .max_batch = 3,
                                             .row_budget = 11,
                                             .max_queue = 64,
                                             .max_sessions = SESSIONS,
                                             .host_bytes = 0 };
static const struct engine_options roomy = { .slots = 4,
                                             .max_batch = 2,
                                             .row_budget = 64,
                                             .max_queue = 4,
                                             .max_sessions = 4,
                                             .host_bytes = 1 << 26 };

struct past {
    int32_t id[PAST];
    size_t n;
    size_t turn[TURNS]; /* where the newest turns began, oldest first */
    size_t turns;
};

struct model_session {
    bool alive;
    struct id id;
    struct past past;
    uint64_t version;
};

struct model_snapshot {
    bool alive;
    struct id id;
    struct past past;
};

struct world {
    struct rig rig, reference;
    struct model_session session[SESSIONS];
    struct model_snapshot snapshot[SNAPSHOTS];
    int done[COMMAND_SNAPSHOT_IMPORT + 1], refused, cancelled, hits; /* so that it can fail */
};

static uint64_t state;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

/* May be refused for want of room, and then nothing has changed. */
static bool did(struct world *w, enum command_kind kind, enum problem_code what)
{
    if (what == PROBLEM_NONE) {
        w->done[kind]++;
        return true;
    }
    assert_true(what == PROBLEM_NO_SLOT || what == PROBLEM_SNAPSHOT_QUOTA);
    w->refused++;
    return false;
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

static void check(struct world *w, const struct model_session *s)
{
    struct command *c = rig_command(COMMAND_SESSION_GET, s->id.text, NULL);
    struct checkpoint *got, *want;

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    assert_int_equal(c->sessions[0].position, s->past.n);
    assert_int_equal(c->sessions[0].version, s->version);
    assert_false(c->sessions[0].busy);
    command_free(c);
    rig_do(&w->reference, COMMAND_SESSION_CREATE, "r");
    free(rig_run_turn(&w->reference, rig_turn("r", s->past.id, s->past.n, 0)));
    got = export_head(&w->rig, s->id.text);
    want = export_head(&w->reference, "r");
    assert_int_equal(got->position, want->position);
    assert_int_equal(got->pending, want->pending);
    assert_int_equal(got->tokens, want->tokens);
    for (size_t i = 0; i < got->tokens; i++)
        assert_int_equal(got->token[i] & ~RECENT_SAMPLED, want->token[i]);
    assert_int_equal(!got->record, !want->record);
    if (got->record)
        assert_memory_equal(got->record, want->record, model_info(w->rig.model)->layout.bytes);
    checkpoint_destroy(got);
    checkpoint_destroy(want);
    rig_do(&w->reference, COMMAND_SESSION_DELETE, "r");
}

static void create(struct world *w, struct model_session *s, const struct model_snapshot *from)
{
    struct command *c = rig_command(COMMAND_SESSION_CREATE, NULL, from ? from->id.text : NULL);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    memset(s, 0, sizeof(*s));
    s->alive = true;
    s->id = c->sessions[0].id;
    if (from)
        s->past = from->past;
    command_free(c);
    w->done[COMMAND_SESSION_CREATE]++;
}

static void forget(struct world *w, struct model_session *s)
{
    rig_do(&w->rig, COMMAND_SESSION_DELETE, s->id.text);
    s->alive = false;
    w->done[COMMAND_SESSION_DELETE]++;
}

static void fork_session(struct world *w, const struct model_session *s, struct model_session *to)
{
    struct command *c = rig_command(COMMAND_SESSION_FORK, s->id.text, NULL);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    *to = *s;
    to->id = c->sessions[0].id;
    to->version = 0;
    command_free(c);
    w->done[COMMAND_SESSION_FORK]++;
}

static void take_snapshot(struct world *w, const struct model_session *s, struct model_snapshot *to)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_TAKE, s->id.text, NULL);

    if (did(w, c->kind, rig_ask(&w->rig, c))) {
        to->alive = true;
        to->id = c->snapshots[0].id;
        to->past = s->past;
    }
    command_free(c);
}

static void delete_snapshot(struct world *w, struct model_snapshot *s)
{
    struct command *c = rig_command(COMMAND_SNAPSHOT_DELETE, NULL, s->id.text);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    command_free(c);
    s->alive = false;
    w->done[COMMAND_SNAPSHOT_DELETE]++;
}

static void restore(struct world *w, struct model_session *s, const struct model_snapshot *from)
{
    struct command *c = rig_command(COMMAND_SESSION_RESTORE, s->id.text, from->id.text);

    assert_int_equal(rig_ask(&w->rig, c), PROBLEM_NONE);
    command_free(c);
    s->past = from->past;
    s->version++;
    w->done[COMMAND_SESSION_RESTORE]++;
}

/* To any token, or to the start of a turn. */
static void roll_back(struct world *w, struct model_session *s)
{
    struct command *c = rig_command(COMMAND_SESSION_ROLLBACK, s->id.text, NULL);
    size_t turns = s->past.turns - (s->past.turns ? below((unsigned)s->past.turns) : 0);

    if (below(2))
        c->turns = turns + (turns == 0);
    else
        c->position = below((unsigned)s->past.n + 1);
    if (c->turns && !s->past.turns) {
        assert_int_equal(rig_ask(&w->rig, c), PROBLEM_HISTORY);
    } else if (did(w, COMMAND_SESSION_ROLLBACK, rig_ask(&w->rig, c))) {
        s->past.n = c->turns ? s->past.turn[s->past.turns - turns] : c->position;
        while (s->past.turns && s->past.turn[s->past.turns - 1] >= s->past.n)
            s->past.turns--;
        s->version++;
        assert_int_equal(c->sessions[0].position, s->past.n);
        assert_int_equal(c->sessions[0].version, s->version);
    }
    command_free(c);
}

static void carry_over(struct world *w, const struct model_session *from, struct model_session *to)
{
    size_t len;
    unsigned char *file = rig_export(&w->rig, from->id.text, &len);

    if (did(w, COMMAND_SESSION_IMPORT, rig_import(&w->rig, to->id.text, file, len))) {
        to->past = from->past;
        to->version++;
    }
    free(file);
}

static struct command *random_turn(const struct model_session *s)
{
    int32_t prompt[40];
    size_t n = below(5) ? below(40) : 0;
    struct command *c;

    for (size_t i = 0; i < n; i++)
        prompt[i] = (int32_t)(1 + below(255));
    c = rig_turn(s ? s->id.text : "", prompt, n, (int)below(12));
    c->turn.ignore_eos = true;
    c->turn.sampling.temperature = 1.5f;
    if (!s)
        c->turn.choices = 1 + (int)below(3);
    return c;
}

/* The ids are those of the prompt and those that were sampled; a turn of neither, on nothing,
 * begins with the begin-of-text token. */
static void take_turn(struct world *w, struct model_session *s, const struct command *c,
                      const struct outcome *out)
{
    const struct turn *t = &c->turn;
    struct past *p = &s->past;
    int bos = model_info(w->rig.model)->bos;

    if (!s->alive || c->problem.what == PROBLEM_CANCELLED ||
        !did(w, COMMAND_TURN, c->problem.what)) {
        w->cancelled += c->problem.what == PROBLEM_CANCELLED;
        return;
    }
    assert_true(p->n + t->prompt_len + 13 < PAST);
    assert_true(t->cached_tokens >= p->n && t->cached_tokens <= p->n + t->prompt_len);
    w->hits += t->cached_tokens > p->n;
    if (p->turns == TURNS)
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

/* Turns of several sessions at once, one without a session among them; some are cancelled
 * before they begin, one session may be deleted meanwhile. */
static void several_turns(struct world *w, struct outcome *out)
{
    struct command *c[AT_ONCE + 2];
    struct model_session *of[AT_ONCE];
    int n = 0, all, first = (int)below(SESSIONS);
    bool deletes;

    for (int i = 0; i < SESSIONS && n < AT_ONCE; i++) {
        struct model_session *s = &w->session[(first + i) % SESSIONS];

        if (!s->alive || s->past.n > PAST - 100)
            continue;
        of[n] = s;
        c[n] = random_turn(s);
        if (!below(6))
            atomic_store(&c[n]->cancelled, true);
        n++;
    }
    if (!n)
        return;
    all = n;
    c[all++] = random_turn(NULL);
    deletes = !below(6);
    if (deletes)
        c[all++] = rig_command(COMMAND_SESSION_DELETE, of[0]->id.text, NULL);
    rig_run(&w->rig, c, all, out);
    if (deletes)
        of[0]->alive = false;
    for (int i = 0; i < n; i++)
        take_turn(w, of[i], c[i], &out[i]);
    for (int i = 0; i < all; i++)
        command_free(c[i]);
}

static void step(struct world *w, struct outcome *out)
{
    struct model_session *s = &w->session[below(SESSIONS)], *t = &w->session[below(SESSIONS)];
    struct model_snapshot *p = &w->snapshot[below(SNAPSHOTS)];

    switch (below(12)) {
    case 0:
        if (!s->alive)
            create(w, s, p->alive ? p : NULL);
        break;
    case 1:
        if (s->alive && (s->past.n > PAST - 100 || !below(3)))
            forget(w, s);
        break;
    case 2:
        if (s->alive && !t->alive)
            fork_session(w, s, t);
        break;
    case 3:
        if (s->alive && !p->alive)
            take_snapshot(w, s, p);
        break;
    case 4:
        if (p->alive && !below(2))
            delete_snapshot(w, p);
        break;
    case 5:
        if (s->alive && p->alive)
            restore(w, s, p);
        break;
    case 6:
        if (s->alive && t->alive)
            carry_over(w, s, t);
        break;
    case 7:
    case 8:
        if (s->alive)
            roll_back(w, s);
        break;
    default:
        several_turns(w, out);
    }
}

static void assert_all_given_back(struct world *w)
{
    size_t record = model_info(w->rig.model)->layout.bytes;
    struct engine_counters c;

    for (int i = 0; i < SESSIONS; i++)
        if (w->session[i].alive)
            forget(w, &w->session[i]);
    for (int i = 0; i < SNAPSHOTS; i++)
        if (w->snapshot[i].alive)
            delete_snapshot(w, &w->snapshot[i]);
    c = engine_counters(w->rig.engine);
    assert_int_equal(c.sessions + c.snapshots + c.queued + c.running, 0);
    assert_int_equal(c.slots_used * record, c.device_bytes);
    assert_int_equal(c.spares * record, c.device_bytes + c.host_bytes);
    assert_true(engine_idle(w->rig.engine));
}

/* parked: how many states fit into host memory; spares: how many of those that nobody needs. */
static void run_world(const char *model, int parked, int spares, uint64_t seed)
{
    static const enum command_kind tried[] = { COMMAND_SESSION_CREATE,  COMMAND_SESSION_DELETE,
                                               COMMAND_SESSION_FORK,    COMMAND_SESSION_RESTORE,
                                               COMMAND_SNAPSHOT_TAKE,   COMMAND_SNAPSHOT_DELETE,
                                               COMMAND_SESSION_ROLLBACK };
    struct world *w = calloc(1, sizeof(*w));
    struct outcome *out = malloc((AT_ONCE + 2) * sizeof(*out));
    struct engine_options options = tight;

    state = seed;
    rig_open(&w->reference, model, &roomy, 1);
    options.host_bytes = (size_t)parked * model_info(w->reference.model)->layout.bytes;
    options.spare_bytes = (size_t)spares * model_info(w->reference.model)->layout.bytes;
    rig_open(&w->rig, model, &options, 2);
    for (int i = 0; i < rounds; i++) {
        step(w, out);
        for (int k = 0; k < SESSIONS && i % CHECK_EVERY == 0; k++)
            if (w->session[k].alive)
                check(w, &w->session[k]);
    }
    assert_true(w->done[COMMAND_TURN] > rounds / 20 && w->cancelled && w->refused);
    for (size_t i = 0; i < sizeof(tried) / sizeof(tried[0]); i++)
        if (!w->done[tried[i]])
            fail_msg("%s: command %d was never taken", model, tried[i]);
    assert_true(w->done[COMMAND_SESSION_IMPORT] || !parked);
    assert_all_given_back(w);
    rig_close(&w->rig);
    rig_close(&w->reference);
    free(out);
    free(w);
}

static void a_session_is_the_list_of_its_tokens(void **unused)
{
    (void)unused;
    run_world("tests/data/mamba-tiny", 3, 0, 88172645463325252u);
    run_world("tests/data/mamba2-grouped", 2, 2, 1181783497276652981u);
    run_world("tests/data/rwkv7-tiny-hf", 2, 3, 2685821657736338717u);
    run_world("tests/data/rwkv7-tiny-hf", 4, 100, 4101842887655102017u);
}

/* How many rounds each world has, when it is not to be the usual. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_is_the_list_of_its_tokens),
    };
    if (argc > 1)
        rounds = atoi(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
