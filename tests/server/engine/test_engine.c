/* The engine's promises, on every architecture's tiny model, and on one of bf16 weights with
 * activations as narrow: resume without replay is exact,
 * batching and chunking are invisible, a turn that does not finish leaves nothing behind. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "kernels/ops.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/state/checkpoint.h"
#include "tests/server/engine/rig.h"
#include "weights/weights.h"

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/mamba2-grouped",
                                      "tests/data/rwkv7-tiny-hf", "weights/demo" };
enum { MODELS = 4, ROUNDED = 3, PROMPT = 40 };

static const struct engine_options roomy = { .slots = 24,
                                             .max_batch = 20,
                                             .row_budget = 64,
                                             .max_queue = 64,
                                             .max_sessions = 64,
                                             .host_bytes = 1 << 26 };

static uint64_t state = 2862933555777941757u;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)(state >> 33) % n;
}

static void fill_prompt(int32_t *prompt, int n)
{
    for (int i = 0; i < n; i++)
        prompt[i] = (int32_t)(1 + below(255));
}

static void assert_same_tokens(const struct outcome *a, int from, const struct outcome *b, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(a->choice[0].id[from + i], b->choice[0].id[i]);
}

static void open_model(struct rig *r, int m, const struct engine_options *options, int threads)
{
    if (m == ROUNDED)
        rig_open_rounding(r, models[m], options, threads);
    else
        rig_open(r, models[m], options, threads);
}

/* Through the end of a text, if it comes. */
static struct command *long_turn(const char *session, const int32_t *prompt, size_t n,
                                 int max_tokens)
{
    struct command *c = rig_turn(session, prompt, n, max_tokens);

    c->turn.ignore_eos = true;
    return c;
}

static struct outcome *turn(struct rig *r, const char *session, const int32_t *prompt, size_t n,
                            int max_tokens)
{
    struct outcome *out = rig_run_turn(r, long_turn(session, prompt, n, max_tokens));

    assert_int_equal(out->problem.what, PROBLEM_NONE);
    return out;
}

/* One uninterrupted turn is the reference for each way of cutting it up. */
static void turns_of_any_size_equal_one_long_turn(void **unused)
{
    int32_t prompt[PROMPT];

    (void)unused;
    fill_prompt(prompt, PROMPT);
    for (int m = 0; m < MODELS; m++) {
        struct rig r;
        struct outcome *whole, *part;

        open_model(&r, m, &roomy, 2);
        rig_do(&r, COMMAND_SESSION_CREATE, "whole");
        rig_do(&r, COMMAND_SESSION_CREATE, "cut");
        whole = turn(&r, "whole", prompt, PROMPT, 30);
        free(turn(&r, "cut", prompt, 1, 0));
        free(turn(&r, "cut", prompt + 1, 2, 0));
        free(turn(&r, "cut", NULL, 0, 0));
        part = turn(&r, "cut", prompt + 3, PROMPT - 3, 7);
        assert_same_tokens(whole, 0, part, 7);
        assert_int_equal(part->cached_tokens, 3);
        free(part);
        part = turn(&r, "cut", NULL, 0, 1);
        assert_same_tokens(whole, 7, part, 1);
        free(part);
        part = turn(&r, "cut", NULL, 0, 22);
        assert_same_tokens(whole, 8, part, 22);
        assert_int_equal(part->position, PROMPT + 30);
        assert_int_equal(part->version, 6);
        rig_assert_same_state(&r, "whole", &r, "cut");
        free(part);
        free(whole);
        rig_close(&r);
    }
}

static void neighbours_threads_and_chunks_are_invisible(void **unused)
{
    enum { CROWD = 16 };
    int32_t prompt[CROWD][3 * PROMPT];
    int length[CROWD];
    struct command *c[CROWD];
    char name[16];

    (void)unused;
    for (int i = 0; i < CROWD; i++) {
        length[i] = 1 + (int)below(3 * PROMPT);
        fill_prompt(prompt[i], length[i]);
    }
    for (int m = 0; m < MODELS; m++) {
        struct engine_options tight = roomy;
        struct rig alone, crowd;
        struct outcome *many = malloc(CROWD * sizeof(*many)), *one;

        tight.row_budget = 21; /* chunks of other sizes */
        open_model(&alone, m, &roomy, 1);
        open_model(&crowd, m, &tight, 2);
        for (int i = 0; i < CROWD; i++) {
            snprintf(name, sizeof(name), "s%d", i);
            rig_do(&crowd, COMMAND_SESSION_CREATE, name);
            c[i] = long_turn(name, prompt[i], (size_t)length[i], 20 + i % 5);
        }
        rig_run(&crowd, c, CROWD, many);
        for (int i = 0; i < CROWD; i++) {
            command_free(c[i]);
            snprintf(name, sizeof(name), "s%d", i);
            rig_do(&alone, COMMAND_SESSION_CREATE, name);
            one = turn(&alone, name, prompt[i], (size_t)length[i], 20 + i % 5);
            assert_int_equal(many[i].problem.what, PROBLEM_NONE);
            assert_int_equal(many[i].choice[0].tokens, one->choice[0].tokens);
            assert_same_tokens(&many[i], 0, one, one->choice[0].tokens);
            rig_assert_same_state(&alone, name, &crowd, name);
            free(one);
        }
        free(many);
        rig_close(&alone);
        rig_close(&crowd);
    }
}

static struct command *drawn(const char *session, const int32_t *prompt, size_t n, int max_tokens)
{
    struct command *c = rig_turn(session, prompt, n, max_tokens);

    c->turn.sampling.temperature = 1.3f;
    c->turn.sampling.top_p = 0.9f;
    c->turn.sampling.repetition = 1.2f;
    c->turn.sampling.frequency = 0.3f;
    c->turn.sampling.penalty_decay = 0.97f;
    return c;
}

/* Sampled, with penalties: the seed and the window travel with the state. */
static void a_restored_file_goes_on_as_if_it_had_never_stopped(void **unused)
{
    int32_t prompt[PROMPT];

    (void)unused;
    fill_prompt(prompt, PROMPT);
    for (int m = 0; m < MODELS; m++) {
        struct rig first, second;
        struct outcome *whole, *rest;
        unsigned char *file;
        size_t len;

        open_model(&first, m, &roomy, 2);
        rig_do(&first, COMMAND_SESSION_CREATE, "a");
        free(rig_run_turn(&first, drawn("a", prompt, PROMPT, 13)));
        file = rig_export(&first, "a", &len);
        whole = rig_run_turn(&first, drawn("a", prompt, 3, 25));
        open_model(&second, m, &roomy, 1);
        assert_int_equal(rig_import(&second, "b", file, len), PROBLEM_NONE);
        rest = rig_run_turn(&second, drawn("b", prompt, 3, 25));
        assert_int_equal(rest->choice[0].tokens, whole->choice[0].tokens);
        assert_same_tokens(whole, 0, rest, rest->choice[0].tokens);
        rig_assert_same_state(&first, "a", &second, "b");
        free(file);
        free(whole);
        free(rest);
        rig_close(&first);
        rig_close(&second);
    }
}

static void forks_and_restored_snapshots_share_a_past_and_nothing_else(void **unused)
{
    int32_t prompt[PROMPT];
    struct outcome *a, *b;
    struct rig r;
    struct id child, snapshot;

    (void)unused;
    fill_prompt(prompt, PROMPT);
    rig_open(&r, models[2], &roomy, 2);
    rig_do(&r, COMMAND_SESSION_CREATE, "trunk");
    free(turn(&r, "trunk", prompt, PROMPT, 5));
    snapshot = rig_snapshot(&r, "trunk");
    child = rig_fork(&r, "trunk");
    rig_assert_same_state(&r, "trunk", &r, child.text);
    a = turn(&r, "trunk", prompt, 4, 20);
    free(turn(&r, child.text, prompt + 9, 4, 20)); /* another way */
    rig_restore(&r, child.text, &snapshot);
    b = turn(&r, child.text, prompt, 4, 20);
    assert_same_tokens(a, 0, b, 20);
    rig_assert_same_state(&r, "trunk", &r, child.text);
    free(a);
    free(b);
    rig_close(&r);
}

static void a_cancelled_turn_leaves_the_session_where_it_was(void **unused)
{
    int32_t prompt[PROMPT];
    struct outcome out;
    struct command *c;
    unsigned char *before, *after;
    size_t len, len_after;
    struct rig r;

    (void)unused;
    fill_prompt(prompt, PROMPT);
    rig_open(&r, models[0], &roomy, 2);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    free(turn(&r, "a", prompt, PROMPT, 3));
    before = rig_state(&r, "a", &len);
    c = rig_turn("a", prompt, PROMPT, 1000000);
    c->turn.logprobs = -1;
    c->turn.ignore_eos = true;
    assert_true(engine_send(r.engine, c));
    for (struct event *e = NULL; !e; event_free(e)) /* it began */
        e = engine_receive(r.engine);
    atomic_store(&c->cancelled, true);
    engine_nudge(r.engine);
    for (bool over = false; !over;) {
        struct event *e = engine_receive(r.engine);

        if (!e)
            continue;
        over = e->kind == EVENT_ANSWER;
        if (e->kind == EVENT_FINISH)
            assert_int_equal(e->finish, FINISH_CANCELLED);
        event_free(e);
    }
    assert_int_equal(c->problem.what, PROBLEM_CANCELLED);
    assert_int_equal(c->turn.info.version, 1);
    command_free(c);
    after = rig_state(&r, "a", &len_after);
    assert_int_equal(len, len_after);
    assert_memory_equal(before, after, len);
    free(before);
    free(after);
    c = rig_turn("a", prompt, 1, 2);
    rig_run(&r, &c, 1, &out); /* it is not busy any more */
    assert_int_equal(out.problem.what, PROBLEM_NONE);
    command_free(c);
    assert_int_equal(engine_counters(r.engine).slots_used, 1);
    rig_close(&r);
}

static void choices_are_separate_draws_from_one_prompt(void **unused)
{
    int32_t prompt[PROMPT];
    struct outcome *four = malloc(sizeof(*four)), *one;
    struct command *c;
    struct rig r;

    (void)unused;
    fill_prompt(prompt, PROMPT);
    rig_open(&r, models[1], &roomy, 2);
    c = drawn("", prompt, PROMPT, 24);
    c->turn.choices = 4;
    c->turn.sampling.seeded = true;
    c->turn.sampling.seed = 100;
    rig_run(&r, &c, 1, four);
    assert_int_equal(four->problem.what, PROBLEM_NONE);
    assert_int_equal(four->prompt_tokens, PROMPT);
    command_free(c);
    for (int i = 0; i < 4; i++) {
        c = drawn("", prompt, PROMPT, 24);
        c->turn.sampling.seeded = true;
        c->turn.sampling.seed = 100 + (uint64_t)i;
        one = rig_run_turn(&r, c);
        assert_int_equal(one->choice[0].tokens, four->choice[i].tokens);
        for (int t = 0; t < one->choice[0].tokens; t++)
            assert_int_equal(one->choice[0].id[t], four->choice[i].id[t]);
        free(one);
    }
    assert_int_equal(engine_counters(r.engine).slots_used, 0);
    free(four);
    rig_close(&r);
}

/* 12 sessions in 3 slots: every turn of one parks another. */
static void parked_sessions_go_on_exactly(void **unused)
{
    enum { SESSIONS = 12 };
    struct engine_options small = roomy;
    int32_t prompt[PROMPT];
    struct rig few, many;
    char name[16];

    (void)unused;
    fill_prompt(prompt, PROMPT);
    small.slots = 3;
    small.max_batch = 2;
    rig_open(&few, models[2], &small, 1);
    rig_open(&many, models[2], &roomy, 1);
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        rig_do(&few, COMMAND_SESSION_CREATE, name);
        rig_do(&many, COMMAND_SESSION_CREATE, name);
    }
    for (int round = 0; round < 3; round++) {
        struct command *c[SESSIONS];

        for (int i = 0; i < SESSIONS; i++) {
            snprintf(name, sizeof(name), "s%d", i);
            free(turn(&many, name, prompt + i, 5, 4));
            c[i] = rig_turn(name, prompt + i, 5, 4);
        }
        rig_run(&few, c, SESSIONS, NULL);
        for (int i = 0; i < SESSIONS; i++) {
            assert_int_equal(c[i]->problem.what, PROBLEM_NONE);
            command_free(c[i]);
        }
    }
    assert_true(engine_counters(few.engine).moves.device_host > 0);
    for (int i = 0; i < SESSIONS; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        rig_assert_same_state(&few, name, &many, name);
    }
    rig_close(&few);
    rig_close(&many);
}

static void full_memory_is_refused_and_given_back(void **unused)
{
    struct engine_options small = roomy;
    int32_t prompt[4] = { 1, 2, 3, 4 };
    struct outcome *out;
    struct rig r;
    char name[16];
    int held = 0;

    (void)unused;
    small.slots = 2;
    small.max_batch = 1;
    small.host_bytes = 0;
    rig_open(&r, models[0], &small, 1);
    for (enum problem_code what = PROBLEM_NONE; what == PROBLEM_NONE; held++) {
        snprintf(name, sizeof(name), "s%d", held);
        rig_do(&r, COMMAND_SESSION_CREATE, name);
        out = rig_run_turn(&r, rig_turn(name, prompt, 4, 2));
        what = out->problem.what;
        free(out);
        assert_true(held < 4);
        if (what != PROBLEM_NONE)
            assert_int_equal(what, PROBLEM_NO_SLOT);
    }
    rig_do(&r, COMMAND_SESSION_DELETE, "s0");
    free(turn(&r, name, prompt, 4, 2)); /* there is room again */
    rig_close(&r);
}

/* What a turn on the prompt says, two bytes of it, and where it says them first. */
static size_t choose_stop(struct rig *r, int32_t prompt[PROMPT], struct outcome **said,
                          char stop[3])
{
    struct outcome *out;

    for (int i = 0; i < PROMPT; i++)
        prompt[i] = "int main(void)\n{\n    printf(\"hello\\n\");\n}\n"[i];
    *said = out = turn(r, "", prompt, PROMPT, 40);
    assert_true(out->choice[0].len >= 12);
    memcpy(stop, out->choice[0].text + 10, 2);
    stop[2] = '\0';
    out->choice[0].text[out->choice[0].len] = '\0';
    return (size_t)(strstr(out->choice[0].text, stop) - out->choice[0].text);
}

static void stop_strings_end_a_turn_and_never_leak(void **unused)
{
    int32_t prompt[PROMPT];
    struct outcome *free_run, *out;
    struct command *c;
    struct rig r;
    char stop[3];
    size_t at;

    (void)unused;
    rig_open(&r, models[2], &roomy, 1);
    at = choose_stop(&r, prompt, &free_run, stop);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    c = rig_turn("a", prompt, PROMPT, 40);
    c->turn.stop = calloc(1, sizeof(*c->turn.stop));
    c->turn.stops = 1;
    memcpy(c->turn.stop[0], stop, 3);
    out = rig_run_turn(&r, c);
    assert_int_equal(out->choice[0].finish, FINISH_STOP);
    assert_int_equal(out->choice[0].len, at);
    assert_memory_equal(out->choice[0].text, free_run->choice[0].text, at);
    c = rig_command(COMMAND_SESSION_GET, "a", NULL);
    assert_int_equal(rig_ask(&r, c), PROBLEM_NONE);
    assert_string_equal(c->sessions[0].tail, stop);
    assert_int_equal(c->sessions[0].position, PROMPT + (int)at + 2); /* one byte a token */
    command_free(c);
    free(out);
    free(free_run);
    rig_close(&r);
}

/* One byte a token: the stop string is complete in token at + 2, the first that may end a turn
 * of at least at + 1. */
static void a_stop_string_within_min_tokens_ends_nothing(void **unused)
{
    int32_t prompt[PROMPT];
    struct outcome *free_run, *out;
    struct rig r;
    char stop[3];
    int at;

    (void)unused;
    rig_open(&r, models[2], &roomy, 1);
    at = (int)choose_stop(&r, prompt, &free_run, stop);
    for (int least = at + 1; least <= at + 2; least++) {
        struct command *c = rig_turn("", prompt, PROMPT, at + 2);

        c->turn.stop = calloc(1, sizeof(*c->turn.stop));
        c->turn.stops = 1;
        c->turn.min_tokens = least;
        memcpy(c->turn.stop[0], stop, 3);
        out = rig_run_turn(&r, c);
        assert_int_equal(out->choice[0].finish, least == at + 1 ? FINISH_STOP : FINISH_LENGTH);
        assert_int_equal(out->choice[0].len, least == at + 1 ? at : at + 2);
        assert_memory_equal(out->choice[0].text, free_run->choice[0].text, out->choice[0].len);
        free(out);
    }
    free(free_run);
    rig_close(&r);
}

static void a_stop_id_is_not_taken_in_but_passed_through_without_a_prompt(void **unused)
{
    int32_t prompt[PROMPT];
    struct outcome *whole, *out;
    struct command *c;
    struct rig r;

    (void)unused;
    fill_prompt(prompt, PROMPT);
    rig_open(&r, models[1], &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    whole = turn(&r, "", prompt, PROMPT, 30);
    c = rig_turn("a", prompt, PROMPT, 30);
    c->turn.stop_id = malloc(sizeof(int32_t));
    c->turn.stop_id[0] = whole->choice[0].id[9];
    c->turn.stop_ids = 1;
    out = rig_run_turn(&r, c);
    assert_int_equal(out->choice[0].finish, FINISH_STOP);
    assert_true(out->choice[0].tokens <= 9);
    assert_int_equal(out->position, PROMPT + out->choice[0].tokens);
    for (int i = 0; i < out->choice[0].tokens; i++)
        assert_int_not_equal(out->choice[0].id[i], whole->choice[0].id[9]);
    c = rig_turn("a", NULL, 0, 5);
    free(out);
    out = rig_run_turn(&r, c); /* as if it had not stopped */
    for (int i = 0, skip = (int)(out->position) - PROMPT - 5; i < 5; i++)
        assert_int_equal(out->choice[0].id[i], whole->choice[0].id[skip + i]);
    free(out);
    c = rig_turn("", prompt, PROMPT, 30);
    c->turn.stop_id = malloc(sizeof(int32_t));
    c->turn.stop_id[0] = whole->choice[0].id[0];
    c->turn.stop_ids = 1;
    c->turn.min_tokens = 3;
    out = rig_run_turn(&r, c);
    assert_true(out->choice[0].tokens >= 3);
    for (int i = 0; i < 3; i++)
        assert_int_not_equal(out->choice[0].id[i], whole->choice[0].id[0]);
    free(out);
    free(whole);
    rig_close(&r);
}

static void sessions_refuse_what_they_must(void **unused)
{
    int32_t prompt[4] = { 1, 2, 3, 4 };
    struct command *c, *two[2];
    struct outcome out[2];
    struct rig r;

    (void)unused;
    rig_open(&r, models[0], &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    c = rig_command(COMMAND_SESSION_CREATE, "a", NULL);
    assert_int_equal(rig_ask(&r, c), PROBLEM_SESSION_EXISTS);
    command_free(c);
    c = rig_command(COMMAND_SESSION_GET, "b", NULL);
    assert_int_equal(rig_ask(&r, c), PROBLEM_SESSION_NOT_FOUND);
    command_free(c);
    c = rig_command(COMMAND_SESSION_RESTORE, "a", "nothing");
    assert_int_equal(rig_ask(&r, c), PROBLEM_SNAPSHOT_NOT_FOUND);
    command_free(c);
    two[0] = rig_turn("a", prompt, 4, 2000);
    two[0]->turn.ignore_eos = true;
    two[1] = rig_turn("a", prompt, 4, 50);
    rig_run(&r, two, 2, out);
    assert_int_equal(out[0].problem.what, PROBLEM_NONE);
    assert_int_equal(out[1].problem.what, PROBLEM_SESSION_BUSY);
    command_free(two[0]);
    command_free(two[1]);
    c = rig_turn("a", prompt, 4, 1);
    c->expected = version_set_of(0);
    rig_run(&r, &c, 1, out);
    assert_int_equal(out[0].problem.what, PROBLEM_VERSION_MISMATCH);
    c->problem.what = PROBLEM_NONE;
    command_free(c);
    c = rig_turn("a", prompt, 4, 1);
    c->expected = version_set_of(1);
    rig_run(&r, &c, 1, out);
    assert_int_equal(out[0].problem.what, PROBLEM_NONE);
    command_free(c);
    rig_close(&r);
}

static void a_deleted_session_ends_its_turn_and_frees_its_slots(void **unused)
{
    int32_t prompt[4] = { 1, 2, 3, 4 };
    struct command *c[2];
    struct rig r;

    (void)unused;
    rig_open(&r, models[0], &roomy, 1);
    rig_do(&r, COMMAND_SESSION_CREATE, "a");
    c[0] = rig_turn("a", prompt, 4, 1000000);
    c[0]->turn.logprobs = -1;
    c[0]->turn.ignore_eos = true;
    c[1] = rig_command(COMMAND_SESSION_DELETE, "a", NULL);
    rig_run(&r, c, 2, NULL);
    assert_int_equal(c[0]->problem.what, PROBLEM_SESSION_NOT_FOUND);
    assert_int_equal(c[1]->problem.what, PROBLEM_NONE);
    command_free(c[0]);
    command_free(c[1]);
    while (engine_counters(r.engine).slots_used)
        ;
    rig_close(&r);
}

/* Against the model's own published logits. */
static void scores_of_a_prompt_are_the_reference_s(void **unused)
{
    struct error err;
    struct outcome *out;
    struct command *c;
    struct rig r;

    (void)unused;
    for (int m = 0; m < ROUNDED; m++) {
        char path[128];
        struct weights *w;
        const struct tensor *tokens, *logits;
        int64_t *id;
        int32_t *prompt;
        float *row;
        int n;

        snprintf(path, sizeof(path), "%s/expected.safetensors", models[m]);
        w = weights_open(path, &err);
        assert_non_null(w);
        tokens = weights_find(w, "case0.tokens");
        logits = weights_find(w, "case0.logits");
        n = (int)tokens->shape[0];
        id = malloc(tokens->bytes);
        row = malloc(logits->bytes);
        prompt = malloc((size_t)n * sizeof(*prompt));
        assert_true(weights_read(w, tokens, id, &err) && weights_read(w, logits, row, &err));
        for (int i = 0; i < n; i++)
            prompt[i] = (int32_t)id[i];
        open_model(&r, m, &roomy, 2);
        c = rig_turn("", prompt, (size_t)n, 0);
        c->turn.score = true;
        out = rig_run_turn(&r, c);
        assert_int_equal(out->choice[0].scored, n);
        assert_true(isnan(out->choice[0].scored_logprob[0]));
        for (int i = 1; i < n; i++) {
            const float *l = row + (size_t)(i - 1) * 256;
            double sum = 0;

            for (int v = 0; v < 256; v++)
                sum += exp(l[v]);
            assert_int_equal(out->choice[0].scored_id[i], prompt[i]);
            assert_true(fabs(out->choice[0].scored_logprob[i] - (l[prompt[i]] - log(sum))) < 5e-4);
        }
        free(out);
        free(id);
        free(row);
        free(prompt);
        weights_close(w);
        rig_close(&r);
    }
}

static const struct ops *usual;
static atomic_bool held, seen;

static void held_sample(struct stream *q, const struct sample *p)
{
    atomic_store(&seen, true);
    while (atomic_load(&held))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    usual->sample(q, p);
}

/* On a slow machine a long prompt is one step of minutes. */
static void a_step_may_take_long_and_an_engine_between_steps_may_not(void **unused)
{
    const int32_t prompt[] = { 1, 2, 3 };
    struct engine_counters during, after;
    struct backend *be;
    struct command *c;
    struct event *e;
    struct ops ops;
    struct rig r;

    (void)unused;
    rig_open(&r, models[0], &roomy, 1);
    be = r.devices.at[0].backend;
    usual = be->ops;
    ops = *usual;
    ops.sample = held_sample;
    be->ops = &ops;
    atomic_store(&held, true);
    c = rig_turn("", prompt, 3, 1);
    assert_true(engine_send(r.engine, c));
    while (!atomic_load(&seen))
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    during = engine_counters(r.engine);
    atomic_store(&held, false);
    for (bool over = false; !over; event_free(e)) {
        while (!(e = engine_receive(r.engine)))
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        over = e->kind == EVENT_ANSWER;
    }
    after = engine_counters(r.engine);
    assert_true(engine_is_well(&during, during.heartbeat + 500));
    assert_false(engine_is_well(&during, during.heartbeat + 1000));
    assert_true(engine_is_well(&after, after.heartbeat + 5));
    assert_false(engine_is_well(&after, after.heartbeat + 20));
    command_free(c);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_of_any_size_equal_one_long_turn),
        cmocka_unit_test(neighbours_threads_and_chunks_are_invisible),
        cmocka_unit_test(a_restored_file_goes_on_as_if_it_had_never_stopped),
        cmocka_unit_test(forks_and_restored_snapshots_share_a_past_and_nothing_else),
        cmocka_unit_test(a_cancelled_turn_leaves_the_session_where_it_was),
        cmocka_unit_test(choices_are_separate_draws_from_one_prompt),
        cmocka_unit_test(parked_sessions_go_on_exactly),
        cmocka_unit_test(full_memory_is_refused_and_given_back),
        cmocka_unit_test(stop_strings_end_a_turn_and_never_leak),
        cmocka_unit_test(a_stop_string_within_min_tokens_ends_nothing),
        cmocka_unit_test(a_stop_id_is_not_taken_in_but_passed_through_without_a_prompt),
        cmocka_unit_test(sessions_refuse_what_they_must),
        cmocka_unit_test(a_deleted_session_ends_its_turn_and_frees_its_slots),
        cmocka_unit_test(scores_of_a_prompt_are_the_reference_s),
        cmocka_unit_test(a_step_may_take_long_and_an_engine_between_steps_may_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
