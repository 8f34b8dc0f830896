/* bench_published_gpu.c - `--suite published` on a GPU: decode, prefill, both in one step, and
 * resume of models of published sizes, beside the floor of the card at hand.
 *
 * The floor of a decode step is phased: weights read once at the bandwidth of a stream that is
 * only read (or multiplied at the matrix units' rate, if that takes longer), then every state
 * read and written at the bandwidth of a copy. A step's logits are drawn from, greedily, and the
 * host waits for the tokens: where the backend `follows`, with the next step enqueued, as the
 * engine does. */
#include "server/cli/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "server/cli/cli.h"
#include "server/cli/random_model.h"
#include "server/clock.h"

#define RUN_SECONDS 0.15
enum { ROWS = 4096, STEPS_MIN = 8, STEPS_MAX = 400, PREFILL_RUNS = 3, MIXED_RUNS = 21 };

static const char batches[] = "1,8,64,256,512", engine_batches[] = "1,64,256",
                  mixed_batches[] = "8,64,256";
static const size_t prompts[] = { 512, 4096, 32768 };
static const int mixed_prompts[] = { 8, 64, 448 };

/* A step of n sequences and what it draws; there is room for a prompt behind them. */
struct step {
    struct batch in;
    int32_t token[ROWS];
    int begin[BENCH_SESSIONS_MAX + 2], place[BENCH_SESSIONS_MAX + 1];
    int logged[BENCH_SESSIONS_MAX + 1];
    struct sample_row row[BENCH_SESSIONS_MAX];
    struct sample_result result[2][BENCH_SESSIONS_MAX]; /* of steps in turns */
    uint64_t mark[2];
};

static struct step *make_step(int n)
{
    struct step *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->in = (struct batch){ .S = n,
                            .T = n,
                            .L = n,
                            .token = s->token,
                            .begin = s->begin,
                            .slot = s->place,
                            .logit_row = s->place,
                            .logged = s->logged };
    for (int i = 0; i < n; i++) {
        s->begin[i + 1] = i + 1;
        s->place[i] = i;
        s->row[i] = (struct sample_row){
            .top_p = 1, .typical_p = 1, .repetition = 1, .forced = -1 /* greedy */
        };
    }
    return s;
}

static bool wait(struct bench *b, uint64_t mark)
{
    struct backend *be = b->local.parts.backend;
    struct error err;

    if (be->wait(be, mark, &err))
        return true;
    fprintf(stderr, "eddy: %s\n", err.message);
    return false;
}

/* Waits for the tokens of step k. */
static bool take(struct bench *b, struct step *s, int k)
{
    if (!wait(b, s->mark[k % 2]))
        return false;
    for (int i = 0; i < s->in.S; i++) {
        const struct sample_result *result = &s->result[k % 2][i];

        if (!result->finite) {
            fprintf(stderr, "eddy: the logits of sequence %d are no numbers\n", i);
            return false;
        }
        s->token[i] = result->token;
    }
    return true;
}

/* Seconds of one of `count` steps, each of which goes on with the tokens of the one before; or
 * without draws, and waiting once at the end. -1: failed. */
static double time_steps(struct bench *b, void *records, struct step *s, int count, bool draws)
{
    struct backend *be = b->local.parts.backend;
    const int n = s->in.S, vocab = model_info(b->local.parts.model)->vocab;
    const int ahead = draws && be->follows;
    double began;

    bench_stagger(b, records, s->logged, n);
    if (!wait(b, be->mark(be)))
        return -1;
    began = clock_seconds();

    for (int k = 0; k < count; k++) {
        s->in.follows = ahead && k ? s->place : NULL;
        model_step(b->local.parts.model, records, &s->in);
        bench_logged(b, s->logged, n);
        if (!draws)
            continue;
        be->ops->sample(be->stream, &(struct sample){ .logits = model_logits(b->local.parts.model),
                                                      .ld = (size_t)vocab,
                                                      .rows = n,
                                                      .vocab = vocab,
                                                      .row = s->row,
                                                      .out = s->result[k % 2] });
        s->mark[k % 2] = be->mark(be);
        if (k >= ahead && !take(b, s, k - ahead))
            return -1;
    }
    if (ahead ? !take(b, s, count - 1) : !wait(b, be->mark(be)))
        return -1;
    return (clock_seconds() - began) / count;
}

static double floor_with(const struct bench *b, int n, double state_bytes)
{
    const double read = b->cost.weight_bytes / b->read_bandwidth;
    const double multiply = n * (b->cost.body_flops + b->cost.head_flops) / b->bf16_rate;

    return (read > multiply ? read : multiply) + n * state_bytes / b->copy_bandwidth;
}

static double decode_floor(const struct bench *b, int n)
{
    return floor_with(b, n, b->cost.state_bytes);
}

static double log_floor(const struct bench *b, int n)
{
    return floor_with(b, n, b->cost.moved_bytes);
}

/* *step: seconds of one, or 0. */
static bool decode(struct bench *b, int n, double *step)
{
    struct backend *be = b->local.parts.backend;
    void *records = be->alloc(be, model_slot_bytes(b->local.parts.model) * (size_t)n);
    struct step *s = make_step(n);
    struct samples drawn = { 0 }, alone = { 0 };
    const double floor = decode_floor(b, n);
    bool ok = records && s && time_steps(b, records, s, 4, true) > 0;

    for (int i = 0; ok && i < REPETITIONS; i++) {
        const double wanted = RUN_SECONDS / floor;
        const int count = wanted < STEPS_MIN   ? STEPS_MIN
                          : wanted > STEPS_MAX ? STEPS_MAX
                                               : (int)wanted;
        const double with = time_steps(b, records, s, count, true);
        const double without = time_steps(b, records, s, count, false);

        ok = with > 0 && without > 0;
        samples_add(&drawn, with);
        samples_add(&alone, without);
    }
    if (ok)
        printf("| %d | %.0f (%.0f to %.0f) | %.0f | %.0f | %.0f %% | %.0f %% |\n", n,
               n / samples_median(&drawn), n / samples_most(&drawn), n / samples_least(&drawn),
               samples_median(&drawn) * 1e6, floor * 1e6, 100 * floor / samples_median(&drawn),
               100 * floor / samples_median(&alone));
    fflush(stdout);
    *step = ok ? samples_median(&drawn) : 0;
    free(s);
    be->free(be, records);
    return ok;
}

static bool fits(const struct bench *b, int slots)
{
    struct backend *be = b->local.parts.backend;
    const size_t reserve = (size_t)1 << 30, room = be->room(be);

    return room > reserve &&
           (room - reserve) / model_slot_bytes(b->local.parts.model) >= (size_t)slots;
}

/* The next number of a list like "1,8", which moves behind it; 0: there is none. */
static int next_batch(const char **list)
{
    int n = 0;

    while (**list >= '0' && **list <= '9' && n <= BENCH_SESSIONS_MAX)
        n = 10 * n + *(*list)++ - '0';
    *list += **list == ',';
    return n <= BENCH_SESSIONS_MAX ? n : 0;
}

static bool is_batches(const char *list)
{
    while (next_batch(&list) > 0)
        if (!*list)
            return true;
    return false;
}

static bool decode_all(struct bench *b)
{
    const char *list = b->options->sessions ? b->options->sessions : batches;
    const int log_steps = model_info(b->local.parts.model)->log_steps;
    char shares[256] = "";
    size_t at = 0;

    printf("\n| decode: sessions | tokens/s | us a step | floor, us | of the floor | without draws "
           "and waits |\n|---|---|---|---|---|---|\n");
    for (int n = next_batch(&list); n; n = next_batch(&list)) {
        double step = 0;

        if (!fits(b, n))
            printf("| %d | does not fit | | %.0f | | |\n", n, decode_floor(b, n) * 1e6);
        else if (!decode(b, n, &step))
            return false;
        if (step > 0 && at < sizeof(shares))
            at += (size_t)snprintf(shares + at, sizeof(shares) - at, "%s%.0f %% (%d)",
                                   at ? ", " : "", 100 * log_floor(b, n) / step, n);
    }
    if (log_steps > 1)
        printf(
            "\nA state is written by one step of %d, by way of a log. Of a floor with those bytes "
            "alone, and none of\nthe log: %s.\n",
            log_steps, shares);
    return true;
}

/* Seconds to take in a prompt in steps of ROWS tokens and draw the first token, or -1. */
static double time_prompt(struct bench *b, void *records, struct step *s, size_t tokens)
{
    struct backend *be = b->local.parts.backend;
    const double began = clock_seconds();

    for (size_t at = 0, n; at < tokens; at += n) {
        n = tokens - at < ROWS ? tokens - at : ROWS;
        for (size_t i = 0; i < n; i++)
            s->token[i] = bench_token(b, at + i);
        s->begin[1] = (int)n;
        s->place[0] = 0;

        const int last = (int)n - 1, slot = 0;
        struct batch in = { .S = 1,
                            .T = (int)n,
                            .L = at + n == tokens,
                            .token = s->token,
                            .begin = s->begin,
                            .slot = &slot,
                            .logit_row = &last };

        model_step(b->local.parts.model, records, &in);
    }
    return wait(b, be->mark(be)) ? clock_seconds() - began : -1;
}

static bool prefill(struct bench *b, void *records, struct step *s, size_t tokens)
{
    const double flops = b->cost.body_flops * (double)tokens + b->cost.head_flops;
    struct samples seconds = { 0 };

    for (int i = 0; i < PREFILL_RUNS; i++) {
        double one = time_prompt(b, records, s, tokens);

        if (one < 0)
            return false;
        samples_add(&seconds, one);
    }

    const double median = samples_median(&seconds), n = (double)tokens;

    printf("| %zu | %.0f (%.0f to %.0f) | %.1f | %.0f %% |\n", tokens, n / median,
           n / samples_most(&seconds), n / samples_least(&seconds), median * 1e3,
           100 * flops / median / b->bf16_rate);
    fflush(stdout);
    return true;
}

static bool prefill_all(struct bench *b)
{
    struct backend *be = b->local.parts.backend;
    void *records = be->alloc(be, model_slot_bytes(b->local.parts.model));
    struct step *s = make_step(1);
    bool ok = records && s;

    printf("\n| prefill: tokens | tokens/s | ms | of the bf16 rate |\n|---|---|---|---|\n");
    for (size_t i = 0; ok && i < sizeof(prompts) / sizeof(prompts[0]); i++)
        ok = time_prompt(b, records, s, prompts[i]) > 0 && prefill(b, records, s, prompts[i]);
    free(s);
    be->free(be, records);
    return ok;
}

/* Median seconds of a step of n sessions with a row each, and of so many rows of a prompt that goes
 * on behind it; each is waited for. -1: failed. */
static double time_mixed(struct bench *b, void *records, struct step *s, int n, int rows)
{
    struct backend *be = b->local.parts.backend;
    struct samples seconds = { 0 };

    s->in.S = n + (rows > 0);
    s->in.T = n + rows;
    s->in.L = n;
    s->in.follows = NULL;
    for (int i = 0; i <= n; i++) {
        s->begin[i] = s->place[i] = i;
        s->logged[i] = 0;
    }
    s->begin[s->in.S] = s->in.T;
    for (int i = 0; i < s->in.T; i++)
        s->token[i] = bench_token(b, (size_t)i);
    bench_stagger(b, records, s->logged, n);
    for (int i = 0; i < MIXED_RUNS; i++) {
        const double began = clock_seconds();

        model_step(b->local.parts.model, records, &s->in);
        if (!wait(b, be->mark(be)))
            return -1;
        if (i > 1) /* the first ones are not recorded yet */
            samples_add(&seconds, clock_seconds() - began);
        bench_logged(b, s->logged, n);
    }
    return samples_median(&seconds);
}

static bool mixed(struct bench *b, int n)
{
    struct backend *be = b->local.parts.backend;
    void *records = be->alloc(be, model_slot_bytes(b->local.parts.model) * (size_t)(n + 1));
    struct step *s = make_step(n);
    const double decode = records && s ? time_mixed(b, records, s, n, 0) : -1;
    bool ok = decode > 0;

    for (size_t i = 0; ok && i < sizeof(mixed_prompts) / sizeof(mixed_prompts[0]); i++) {
        const double prompt = time_mixed(b, records, s, 0, mixed_prompts[i]);
        const double both = prompt > 0 ? time_mixed(b, records, s, n, mixed_prompts[i]) : -1;

        ok = both > 0;
        if (ok)
            printf("| %d | %.0f | %d | %.0f | %.0f | %.0f %% |\n", n, decode * 1e6,
                   mixed_prompts[i], prompt * 1e6, both * 1e6, 100 * both / (decode + prompt));
        fflush(stdout);
    }
    free(s);
    be->free(be, records);
    return ok;
}

static bool mixed_all(struct bench *b)
{
    const char *list = b->options->sessions ? b->options->sessions : mixed_batches;

    printf(
        "\n| sessions | a step, us | tokens of a prompt | a step, us | both in one | of the sum |"
        "\n|---|---|---|---|---|---|\n");
    for (int n = next_batch(&list); n; n = next_batch(&list))
        if (fits(b, n + 1) && !mixed(b, n))
            return false;
    return true;
}

/* Through the engine: sessions, draws, text, events. */
static bool engine(struct bench *b, int n)
{
    struct turns turns = { .prefix = "gpu", .n = n, .prompt = 1, .tokens = 1 };
    struct samples seconds = { 0 };
    struct error err;
    bool ok;

    b->local.limits.slots = 2 * n + 2;
    b->local.limits.max_batch = n;
    if (!local_start(&b->local, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return false;
    }
    ok = bench_sessions(b, COMMAND_SESSION_CREATE, turns.prefix, n) &&
         bench_turns(b, &turns) >= 0 && bench_turns(b, &turns) >= 0;
    turns.prompt = 0;
    turns.tokens = (int)(2 * RUN_SECONDS / decode_floor(b, n));
    turns.tokens = turns.tokens < STEPS_MIN ? STEPS_MIN : turns.tokens;
    for (int i = 0; ok && i < PREFILL_RUNS; i++) {
        double one = bench_turns(b, &turns) / turns.tokens;

        ok = one > 0;
        samples_add(&seconds, one);
    }
    local_stop(&b->local);
    if (ok)
        printf("| %d | %.0f (%.0f to %.0f) | %.0f %% |\n", n, n / samples_median(&seconds),
               n / samples_most(&seconds), n / samples_least(&seconds),
               100 * decode_floor(b, n) / samples_median(&seconds));
    fflush(stdout);
    return ok;
}

static bool engine_all(struct bench *b)
{
    const char *list = b->options->sessions ? b->options->sessions : engine_batches;

    printf("\n| engine: sessions | tokens/s | of the floor |\n|---|---|---|\n");
    for (int n = next_batch(&list); n; n = next_batch(&list))
        if (fits(b, 2 * n + 2) && !engine(b, n))
            return false;
    return true;
}

static bool wants(const struct options *o, const char *part)
{
    return strcmp(o->part, "all") == 0 || strcmp(o->part, part) == 0;
}

static bool measure(struct bench *b, const struct options *o, const struct random_model *m,
                    bool resume)
{
    static const size_t contexts[] = { 1 << 12, 1 << 15, 1 << 17 };
    const struct model_info *info = model_info(b->local.parts.model);

    printf("\n%s, random%s: %.1f million parameters, %.1f MB of %s weights, %.2f MB of state. ",
           m->title, bench_cuts(o, m) ? ", its first layers" : "", (double)info->parameters / 1e6,
           (double)info->weight_bytes / 1e6, dtype_name(info->dtype),
           (double)info->layout.bytes / 1e6);
    bench_print_machine(b);
    if ((wants(o, "decode") && !decode_all(b)) || (wants(o, "prefill") && !prefill_all(b)) ||
        (wants(o, "mixed") && !mixed_all(b)) || (wants(o, "engine") && !engine_all(b)))
        return false;
    b->local.limits.slots = 8;
    b->local.limits.max_batch = 2;
    return !resume || !wants(o, "resume") || (bench_resume(b, contexts) && bench_verbs(b));
}

int bench_published_gpu(const struct options *o)
{
    static const struct {
        const struct random_model *model;
        bool resume;
    } list[] = {
        { &random_mamba_130m, false }, { &random_mamba_2_8b, true },  { &random_mamba2_2_7b, true },
        { &random_rwkv7_1_5b, true },  { &random_rwkv7_7_2b, false },
    };
    struct bench b = { .sessions = BENCH_SESSIONS_MAX, .rows = ROWS };
    bool none = true;

    if (o->sessions && !is_batches(o->sessions)) {
        fprintf(stderr, "eddy: --sessions takes numbers from 1 to %d, not \"%s\"\n",
                BENCH_SESSIONS_MAX, o->sessions);
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        const struct random_model *m = list[i].model;

        if (!bench_wants(o, m->title))
            continue;

        bool ok = bench_open_random(&b, o, m) && measure(&b, o, m, list[i].resume);

        bench_close(&b);
        if (!ok)
            return EXIT_FAILURE;
        none = false;
    }
    if (none)
        return bench_none(o);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
