/* States that others left spare work and change nothing: every turn is run with and without
 * them, and tokens, probabilities and states are equal, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "tests/models/made_model.h"
#include "tests/server/engine/rig.h"

enum { CONTEXT = 4096, EVERY = 64, LAYERS = 1 };

/* Their first layers: what is tested is where states go, not what is in them. */
enum { RWKV, MAMBA, MAMBA2, MODELS };

static struct made_model *thin[MODELS];
static const char *path[MODELS];

static int make_models(void **unused)
{
    static const char *const from[MODELS] = { [RWKV] = "tests/data/rwkv7-tiny-hf",
                                              [MAMBA] = "tests/data/mamba-tiny",
                                              [MAMBA2] = "tests/data/mamba2-tiny" };

    (void)unused;
    for (int i = 0; i < MODELS; i++) {
        thin[i] = made_create();
        path[i] = made_first_layers(thin[i], from[i], LAYERS);
    }
    return 0;
}

static int remove_models(void **unused)
{
    (void)unused;
    for (int i = 0; i < MODELS; i++)
        made_destroy(thin[i]);
    return 0;
}

static const struct engine_options plain = { .slots = 6,
                                             .max_batch = 4,
                                             .row_budget = 64,
                                             .max_queue = 16,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

struct pair {
    struct rig with, without;
};

static void open_pair(struct pair *p, const char *of, size_t spares)
{
    struct engine_options options = plain;

    rig_open(&p->without, of, &plain, 1);
    options.spare_bytes = spares * model_info(p->without.model)->layout.bytes;
    options.cache_every = EVERY;
    rig_open(&p->with, of, &options, 2);
}

static void close_pair(struct pair *p)
{
    rig_close(&p->with);
    rig_close(&p->without);
}

static uint64_t state = 88172645463325252u;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

static void assert_same(const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->problem.what, PROBLEM_NONE);
    assert_int_equal(b->problem.what, PROBLEM_NONE);
    for (int i = 0; i < RIG_CHOICES_MAX; i++) {
        int n = a->choice[i].tokens;

        assert_int_equal(n, b->choice[i].tokens);
        assert_memory_equal(a->choice[i].id, b->choice[i].id, (size_t)n * sizeof(int32_t));
        assert_memory_equal(a->choice[i].logprob, b->choice[i].logprob, (size_t)n * sizeof(float));
        assert_int_equal(a->choice[i].finish, b->choice[i].finish);
    }
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
}

static struct command *turn(const int32_t *id, size_t n, int tokens)
{
    struct command *c = rig_turn("", id, n, tokens);

    c->turn.ignore_eos = true;
    c->turn.sampling.temperature = 1.2f;
    c->turn.sampling.seeded = true;
    c->turn.sampling.seed = 7;
    c->turn.sampling.repetition = 1.1f;
    c->turn.sampling.frequency = 0.2f;
    return c;
}

/* The same turn on both; the one with the cache says how much it was spared. */
static struct outcome *run_both(struct pair *p, const int32_t *id, size_t n, int tokens,
                                int choices)
{
    struct command *a = turn(id, n, tokens), *b = turn(id, n, tokens);
    struct outcome *with, *without;

    a->turn.choices = b->turn.choices = choices;
    with = rig_run_turn(&p->with, a);
    without = rig_run_turn(&p->without, b);
    assert_same(with, without);
    assert_int_equal(without->cached_tokens, 0);
    free(without);
    return with;
}

static void a_client_that_sends_all_again_gets_the_same_and_waits_for_the_new_only(void **unused)
{
    enum { TURNS = 50, NEW = 9, ANSWER = 20 };
    int32_t context[CONTEXT];
    struct outcome *out;
    struct pair p;
    size_t n = 0;

    (void)unused;
    open_pair(&p, path[RWKV], 8);
    for (int i = 0; i < TURNS; i++) {
        size_t known = n ? n - 1 : 0; /* the answer's last token was never taken in */

        for (int k = 0; k < NEW; k++)
            context[n++] = (int32_t)(1 + below(250));
        out = run_both(&p, context, n, ANSWER, 1);
        assert_int_equal(out->cached_tokens, known);
        memcpy(context + n, out->choice[0].id, ANSWER * sizeof(context[0]));
        n += ANSWER;
        free(out);
    }
    close_pair(&p);
}

/* Prompts are made of a few beginnings, cut anywhere and gone on with in a few ways. */
static void run_tree(const char *of, size_t spares)
{
    enum { ROUNDS = 100, TRUNK = 256, MORE = 40 };
    int32_t trunk[3][TRUNK], prompt[TRUNK + MORE];
    struct engine_counters counters;
    struct outcome *out;
    struct pair p;

    open_pair(&p, of, spares);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < TRUNK; k++)
            trunk[i][k] = k < 100 ? k : (int32_t)below(256);
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = 1 + below(TRUNK), more = below(MORE);
        const int32_t *from = trunk[below(3)];

        memcpy(prompt, from, n * sizeof(prompt[0]));
        for (size_t k = 0; k < more; k++)
            prompt[n++] = (int32_t)(1 + below(2));
        out = run_both(&p, prompt, n, (int)below(6), 1 + (int)below(3));
        assert_true(out->cached_tokens < n);
        free(out);
        rig_do(&p.with, COMMAND_SESSION_LIST, NULL);
        counters = engine_counters(p.with.engine);
        assert_true((size_t)counters.spares <= spares);
        assert_int_equal((size_t)counters.spares * counters.state_bytes,
                         counters.device_bytes + counters.host_bytes);
    }
    assert_true(counters.prefix_hits > ROUNDS / 4 && counters.prefix_hits < ROUNDS);
    assert_true(counters.spares_dropped > 0);
    close_pair(&p);
}

static void whatever_was_asked_before_an_answer_is_the_same(void **unused)
{
    (void)unused;
    run_tree(path[RWKV], 3);
    run_tree(path[RWKV], 40);
    run_tree(path[MAMBA], 7);
    run_tree(path[MAMBA2], 7);
}

static void a_session_that_begins_with_a_known_context_has_the_state_of_a_cold_one(void **unused)
{
    int32_t prompt[300];
    struct outcome *out;
    struct pair p;

    (void)unused;
    open_pair(&p, path[RWKV], 16);
    for (int i = 0; i < 300; i++)
        prompt[i] = (int32_t)(1 + below(250));
    for (int i = 0; i < 3; i++) {
        char name[2] = { (char)('a' + i), 0 };

        rig_do(&p.with, COMMAND_SESSION_CREATE, name);
        rig_do(&p.without, COMMAND_SESSION_CREATE, name);
        out = rig_run_turn(&p.with, rig_turn(name, prompt, 300 - (size_t)i * 20, i * 5));
        assert_true(i ? out->cached_tokens >= EVERY * 3 : !out->cached_tokens);
        free(out);
        free(rig_run_turn(&p.without, rig_turn(name, prompt, 300 - (size_t)i * 20, i * 5)));
        rig_assert_same_state(&p.with, name, &p.without, name);
    }
    close_pair(&p);
}

static size_t cached(struct rig *r, const int32_t *id, size_t n, uint64_t owner, bool no_cache)
{
    struct command *c = turn(id, n, 4);
    struct outcome *out;
    size_t tokens;

    c->owner = owner;
    c->turn.no_cache = no_cache;
    out = rig_run_turn(r, c);
    tokens = out->cached_tokens;
    free(out);
    return tokens;
}

static void states_are_kept_on_the_way_through_a_long_prompt_and_near_its_end(void **unused)
{
    int32_t prompt[400];
    struct pair p;

    (void)unused;
    open_pair(&p, path[RWKV], 16);
    for (int i = 0; i < 400; i++)
        prompt[i] = (int32_t)(1 + below(250));
    assert_int_equal(cached(&p.with, prompt, 300, 0, false), 0);
    assert_int_equal(cached(&p.with, prompt, 300, 0, false), 292);
    assert_int_equal(cached(&p.with, prompt, 299, 0, false), 292);
    assert_int_equal(cached(&p.with, prompt, 290, 0, false), 256);
    assert_int_equal(cached(&p.with, prompt, 200, 0, false), 192);
    assert_int_equal(cached(&p.with, prompt, 64, 0, false), 0);
    assert_int_equal(cached(&p.with, prompt, 400, 0, false), 292);
    close_pair(&p);
}

static void nothing_is_kept_or_used_for_who_does_not_want_it(void **unused)
{
    int32_t prompt[100];
    struct pair p;

    (void)unused;
    open_pair(&p, path[RWKV], 16);
    for (int i = 0; i < 100; i++)
        prompt[i] = i;
    assert_int_equal(cached(&p.with, prompt, 100, 0, true), 0);
    rig_do(&p.with, COMMAND_SESSION_LIST, NULL);
    assert_int_equal(engine_counters(p.with.engine).spares, 0);
    assert_int_equal(cached(&p.with, prompt, 100, 0, false), 0);
    assert_int_equal(cached(&p.with, prompt, 100, 0, true), 0);
    assert_int_equal(cached(&p.with, prompt, 100, 0, false), 92);
    close_pair(&p);
}

static void one_owner_s_states_are_nobody_else_s(void **unused)
{
    int32_t prompt[100];
    struct pair p;

    (void)unused;
    open_pair(&p, path[RWKV], 16);
    for (int i = 0; i < 100; i++)
        prompt[i] = i;
    assert_int_equal(cached(&p.with, prompt, 100, 1, false), 0);
    assert_int_equal(cached(&p.with, prompt, 100, 2, false), 0);
    assert_int_equal(cached(&p.with, prompt, 100, 0, false), 0);
    assert_int_equal(cached(&p.with, prompt, 100, 1, false), 92);
    assert_int_equal(cached(&p.with, prompt, 100, 2, false), 92);
    close_pair(&p);
}

/* Sessions and snapshots come first: what is spare goes, what they need stays. */
static void no_session_is_refused_or_lost_for_the_sake_of_spares(void **unused)
{
    enum { SESSIONS = 8 };
    struct engine_options options = plain;
    int32_t prompt[64];
    struct rig r;

    (void)unused;
    rig_open(&r, path[RWKV], &plain, 1);
    options.slots = 2;
    options.max_batch = 2;
    options.spare_bytes = 1 << 24;
    options.host_bytes = (SESSIONS - 1) * model_info(r.model)->layout.bytes;
    rig_close(&r);
    rig_open(&r, path[RWKV], &options, 1);
    for (int i = 0; i < SESSIONS; i++) {
        char name[2] = { (char)('a' + i), 0 };

        for (int k = 0; k < 64; k++)
            prompt[k] = (int32_t)(1 + below(250));
        for (int k = 0; k < 4; k++) {
            cached(&r, prompt, 64, 0, false);
            prompt[k * 16]++;
        }
        rig_do(&r, COMMAND_SESSION_CREATE, name);
        free(rig_run_turn(&r, rig_turn(name, prompt, 40, 1)));
    }
    for (int i = 0; i < SESSIONS; i++) {
        char name[2] = { (char)('a' + i), 0 };
        struct outcome *out = rig_run_turn(&r, rig_turn(name, prompt, 4, 4));

        assert_int_equal(out->problem.what, PROBLEM_NONE);
        assert_int_equal(out->position, 49);
        free(out);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_that_sends_all_again_gets_the_same_and_waits_for_the_new_only),
        cmocka_unit_test(whatever_was_asked_before_an_answer_is_the_same),
        cmocka_unit_test(a_session_that_begins_with_a_known_context_has_the_state_of_a_cold_one),
        cmocka_unit_test(states_are_kept_on_the_way_through_a_long_prompt_and_near_its_end),
        cmocka_unit_test(nothing_is_kept_or_used_for_who_does_not_want_it),
        cmocka_unit_test(one_owner_s_states_are_nobody_else_s),
        cmocka_unit_test(no_session_is_refused_or_lost_for_the_sake_of_spares),
    };
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
