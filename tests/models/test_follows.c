/* A host that enqueues each step before it knows what the one in front drew gets the tokens and
 * leaves the states of one that waits, to the last bit. Where no backend follows draws there is
 * nothing to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "tests/models/runner.h"

enum { MOST = 17, STEPS = 24, PROMPT = 5, STOPS_AT = 12 };

static const char *const models[] = { "tests/data/mamba-tiny", "tests/data/mamba2-grouped",
                                      "tests/data/rwkv7-tiny-hf" };

struct run {
    struct runner *r;
    int n;
    bool changing;      /* sequences come with prompts, pause and go on */
    bool ahead;         /* by one step */
    int32_t stop[MOST]; /* ends the sequence; -1: nothing does */
    int over[MOST];     /* the step that drew it, or STEPS */
    char *left[MOST];   /* the record at its end, of a run that waits */
    char *records;      /* all, after the last step */
    int32_t drawn[MOST][STEPS], last[MOST];
    uint32_t taken[MOST]; /* tokens in its state */
    /* Of steps in turns. */
    int seq[2][MOST], count[2];
    struct sample_result result[2][MOST];
    uint64_t mark[2];
};

static int slot_of(int i)
{
    return (i * 7 + 5) % 23;
}

static int first_step(const struct run *u, int i)
{
    return u->changing ? i % 4 * 3 : 0;
}

/* In the step behind its end, too: whoever is ahead does not know of it yet. */
static bool takes_part(const struct run *u, int i, int k)
{
    const bool pauses = u->changing && i % 2 && k % 7 == 3;

    return k >= first_step(u, i) && k <= u->over[i] + 1 && (k == first_step(u, i) || !pauses);
}

/* Its row in the step in front of step k, or -1. */
static int place_before(const struct run *u, int i, int k)
{
    const int before = (k + 1) % 2;

    for (int p = 0; k > 0 && p < u->count[before]; p++)
        if (u->seq[before][p] == i)
            return p;
    return -1;
}

static struct sample_row ask(const struct run *u, int i, int k)
{
    return (struct sample_row){ .temperature = i % 3 ? 0.9f : 0.0f,
                                .top_p = 1,
                                .typical_p = 1,
                                .repetition = 1,
                                .seed = (uint64_t)i,
                                .position = (uint64_t)k,
                                .hold = &u->stop[i],
                                .holds = u->stop[i] >= 0,
                                .forced = -1 };
}

static void enqueue(struct run *u, int k)
{
    const struct runner *r = u->r;
    int32_t token[MOST * PROMPT];
    int begin[MOST + 1] = { 0 }, slot[MOST], last[MOST], follows[MOST], S = 0;
    uint32_t position[MOST];
    struct sample_row row[MOST];

    for (int i = 0; i < u->n; i++) {
        if (!takes_part(u, i, k))
            continue;

        const bool first = k == first_step(u, i), over = k > u->over[i];
        const int rows = first && u->changing ? i % PROMPT + 1 : 1;

        follows[S] = u->ahead && !first ? place_before(u, i, k) : -1;
        for (int t = 0; t < rows; t++)
            token[begin[S] + t] = first             ? (i * 37 + t * 11 + 5) % 256
                                  : follows[S] >= 0 ? 1 << 30
                                  : over            ? 0
                                                    : u->last[i];
        slot[S] = over && !u->ahead ? (int)SLOT_NONE : slot_of(i);
        begin[S + 1] = begin[S] + rows;
        last[S] = begin[S + 1] - 1;
        position[S] = u->taken[i];
        u->taken[i] += (uint32_t)rows;
        row[S] = ask(u, i, k);
        u->seq[k % 2][S++] = i;
    }
    u->count[k % 2] = S;
    model_step(r->m, r->records,
               &(struct batch){ .S = S,
                                .T = begin[S],
                                .L = S,
                                .token = token,
                                .begin = begin,
                                .slot = slot,
                                .logit_row = last,
                                .position = position,
                                .follows = u->ahead ? follows : NULL });
    r->be->ops->sample(r->be->stream, &(struct sample){ .logits = model_logits(r->m),
                                                        .ld = (size_t)r->info->vocab,
                                                        .rows = S,
                                                        .vocab = r->info->vocab,
                                                        .row = row,
                                                        .out = u->result[k % 2] });
    u->mark[k % 2] = r->be->mark(r->be);
}

static void take(struct run *u, int k)
{
    const struct runner *r = u->r;
    const size_t bytes = r->info->layout.bytes;
    struct error err = { 0 };

    if (!r->be->wait(r->be, u->mark[k % 2], &err))
        fail_msg("%s", err.message);
    for (int p = 0; p < u->count[k % 2]; p++) {
        const int i = u->seq[k % 2][p];
        const struct sample_result *result = &u->result[k % 2][p];

        if (k > u->over[i])
            continue;
        assert_true(result->finite);
        u->drawn[i][k] = u->last[i] = result->token;
        if (result->token != u->stop[i])
            continue;
        u->over[i] = k;
        if (u->ahead)
            continue;
        u->left[i] = malloc(bytes);
        assert_non_null(u->left[i]);
        r->be->download(r->be, u->left[i], r->records + (size_t)slot_of(i) * bytes, bytes);
    }
}

static void run(struct run *u)
{
    const struct runner *r = u->r;
    const size_t bytes = RUNNER_SLOTS * r->info->layout.bytes;

    memset(u->drawn, 0xff, sizeof(u->drawn));
    for (int i = 0; i < MOST; i++)
        u->over[i] = STEPS;
    r->be->zero(r->be, r->records, bytes);
    for (int k = 0; k < STEPS; k++) {
        enqueue(u, k);
        if (k >= u->ahead)
            take(u, k - u->ahead);
    }
    if (u->ahead)
        take(u, STEPS - 1);
    u->records = malloc(bytes);
    assert_non_null(u->records);
    r->be->download(r->be, u->records, r->records, bytes);
}

static struct run *make_run(struct runner *r, int n, bool changing, bool ahead)
{
    struct run *u = calloc(1, sizeof(*u));

    assert_non_null(u);
    u->r = r;
    u->n = n;
    u->changing = changing;
    u->ahead = ahead;
    memset(u->stop, 0xff, sizeof(u->stop));
    return u;
}

static void destroy_run(struct run *u)
{
    for (int i = 0; i < MOST; i++)
        free(u->left[i]);
    free(u->records);
    free(u);
}

static void check_alike(const struct run *a, const struct run *b)
{
    const size_t bytes = a->r->info->layout.bytes;

    assert_memory_equal(a->drawn, b->drawn, sizeof(a->drawn));
    assert_memory_equal(a->over, b->over, sizeof(a->over));
    assert_memory_equal(a->records, b->records, RUNNER_SLOTS * bytes);
    for (int i = 0; i < a->n; i++)
        if (a->left[i])
            assert_memory_equal(a->left[i], b->records + (size_t)slot_of(i) * bytes, bytes);
}

/* Without an end first, so that some sequences can have one that they will draw. */
static void check_sequences(struct runner *r, int n, bool changing)
{
    struct run *endless = make_run(r, n, changing, false);
    struct run *endless_ahead = make_run(r, n, changing, true);
    struct run *waits = make_run(r, n, changing, false), *ahead = make_run(r, n, changing, true);

    run(endless);
    run(endless_ahead);
    check_alike(endless, endless_ahead);
    for (int i = 1; i < n; i += 4)
        waits->stop[i] = ahead->stop[i] = endless->drawn[i][STOPS_AT];
    run(waits);
    run(ahead);
    assert_true(n < 2 || waits->over[1] <= STOPS_AT);
    check_alike(waits, ahead);
    destroy_run(endless);
    destroy_run(endless_ahead);
    destroy_run(waits);
    destroy_run(ahead);
}

static void check_all(bool changing)
{
    static const int sizes[] = { 1, 3, 5, MOST };

    for (int m = 0; m < 3; m++) {
        for (int narrow = 0; narrow <= 1; narrow++) {
            struct error err = { 0 };
            struct runner r;

            if (!(narrow ? runner_init_narrow : runner_init)(&r, models[m], "cuda"))
                return;
            assert_true(r.be->follows);
            assert_true(model_prepare(r.m, r.records, MOST, &err));
            for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
                check_sequences(&r, sizes[i], changing);
            runner_finish(&r);
        }
    }
}

static void running_ahead_is_invisible(void **state)
{
    (void)state;
    check_all(false);
}

static void it_is_beside_prompts_and_when_sequences_come_and_go(void **state)
{
    (void)state;
    check_all(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(running_ahead_is_invisible),
        cmocka_unit_test(it_is_beside_prompts_and_when_sequences_come_and_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
