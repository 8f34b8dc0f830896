/* bench.c - `eddy bench`: what the engine reaches, beside what the machine could do. */
#include "server/cli/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/error.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "models/text/tokenizer.h"
#include "server/cli/cli.h"
#include "server/clock.h"
#include "server/state/checkpoint.h"
#include "weights/weights.h"

enum { SLOT_BYTES_GIB = 2 };

void samples_add(struct samples *s, double value)
{
    if (s->n < SAMPLES_MAX)
        s->value[s->n++] = value;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void sort(struct samples *s)
{
    qsort(s->value, (size_t)s->n, sizeof(s->value[0]), ascending);
}

double samples_median(struct samples *s)
{
    sort(s);
    return s->n ? (s->value[(s->n - 1) / 2] + s->value[s->n / 2]) / 2 : 0;
}

double samples_least(struct samples *s)
{
    sort(s);
    return s->n ? s->value[0] : 0;
}

double samples_most(struct samples *s)
{
    sort(s);
    return s->n ? s->value[s->n - 1] : 0;
}

double bench_ceiling(const struct bench *b, enum ceiling which)
{
    struct backend *be = b->local.parts.backend;

    return be->ceiling(be, which);
}

size_t bench_resident(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    size_t pages = 0;

    if (!f)
        return 0;
    if (fscanf(f, "%*u %zu", &pages) != 1)
        pages = 0;
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

int32_t bench_token(const struct bench *b, size_t i)
{
    uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u;
    int size = tokenizer_size(b->local.parts.tokenizer),
        vocab = model_info(b->local.parts.model)->vocab;

    return (int32_t)((x >> 33) % (uint64_t)(size < vocab ? size : vocab));
}

static void name_session(struct id *id, const char *prefix, int i)
{
    snprintf(id->text, sizeof(id->text), "%s%d", prefix, i);
}

static struct command *compose(const struct bench *b, const struct turns *t, int i)
{
    struct command *c = command_create(COMMAND_TURN, NULL);

    if (!c || !(c->turn.prompt = malloc((t->prompt + 1) * sizeof(*c->turn.prompt)))) {
        command_free(c);
        return NULL;
    }
    if (t->prefix)
        name_session(&c->session, t->prefix, t->first + i);
    for (size_t k = 0; k < t->prompt; k++)
        c->turn.prompt[k] = bench_token(b, k + (size_t)(t->first + i) * 7919);
    c->turn.prompt_len = t->prompt;
    c->turn.max_tokens = t->tokens;
    c->turn.ignore_eos = true;
    c->turn.sampling.temperature = 0;
    return c;
}

bool bench_collect(struct bench *b, int sent)
{
    bool ok = true;

    while (sent) {
        struct event *e = local_wait(&b->local);

        if (e && e->kind == EVENT_ANSWER) {
            if (e->command->problem.what != PROBLEM_NONE) {
                fprintf(stderr, "eddy: %s\n", e->command->problem.message);
                ok = false;
            }
            command_free(e->command);
            sent--;
        }
        event_free(e);
    }
    return ok;
}

int bench_send(struct bench *b, const struct turns *t)
{
    struct command *c[BENCH_SESSIONS_MAX] = { 0 };
    int made = 0, sent = 0;

    while (made < t->n && (c[made] = compose(b, t, made)))
        made++;
    while (sent < made && made == t->n && engine_send(b->local.engine, c[sent]))
        sent++;
    for (int i = sent; i < made; i++)
        command_free(c[i]);
    return sent;
}

double bench_turns(struct bench *b, const struct turns *t)
{
    const double began = clock_seconds();
    const int sent = bench_send(b, t);

    if (!bench_collect(b, sent))
        return -1;
    if (sent < t->n) {
        fprintf(stderr, "eddy: no room for %d turns\n", t->n);
        return -1;
    }
    return clock_seconds() - began;
}

struct command *bench_ask(struct bench *b, enum command_kind kind, const char *prefix, int i,
                          struct checkpoint *import)
{
    struct command *c = command_create(kind, NULL);

    if (!c) {
        checkpoint_destroy(import);
        fprintf(stderr, "eddy: out of memory\n");
        return NULL;
    }
    name_session(&c->session, prefix, i);
    c->checkpoint = import;
    if (local_ask(&b->local, c))
        return c;
    fprintf(stderr, "eddy: %s\n", c->problem.message);
    command_free(c);
    return NULL;
}

bool bench_sessions(struct bench *b, enum command_kind kind, const char *prefix, int n)
{
    for (int i = 0; i < n; i++) {
        struct command *c = bench_ask(b, kind, prefix, i, NULL);

        if (!c)
            return false;
        command_free(c);
    }
    return true;
}

/* One row each of the slots that are not where they should be. */
static bool stagger_once(const struct bench *b, void *records, int *logged, int n)
{
    const int log_steps = model_info(b->local.parts.model)->log_steps;
    int32_t token[BENCH_SESSIONS_MAX] = { 0 };
    int begin[BENCH_SESSIONS_MAX + 1] = { 0 }, slot[BENCH_SESSIONS_MAX], steps[BENCH_SESSIONS_MAX];
    struct batch in = { .token = token, .begin = begin, .slot = slot, .logged = steps };

    for (int i = 0; i < n; i++) {
        if (logged[i] == i % log_steps)
            continue;
        slot[in.S] = i;
        steps[in.S++] = logged[i];
        begin[in.S] = in.S;
        logged[i] = (logged[i] + 1) % log_steps;
    }
    in.T = in.S;
    if (in.S)
        model_step(b->local.parts.model, records, &in);
    return in.S > 0;
}

void bench_stagger(const struct bench *b, void *records, int *logged, int n)
{
    while (stagger_once(b, records, logged, n))
        ;
}

void bench_logged(const struct bench *b, int *logged, int n)
{
    for (int i = 0; i < n; i++)
        logged[i] = (logged[i] + 1) % model_info(b->local.parts.model)->log_steps;
}

/* A matrix that a step multiplies with has two sizable sides; A_log and r_k have not. */
static bool is_matrix(const struct tensor *t)
{
    return t->rank == 2 && t->shape[0] >= 32 && t->shape[1] >= 32 && !strstr(t->name, "r_k");
}

static bool read_cost(struct bench *b, const char *path, struct error *err)
{
    const struct model_info *info = model_info(b->local.parts.model);
    struct weights *w = weights_open(path, err);
    double body = 0, ends = 0, all = 0;
    const double table = (double)info->vocab * info->hidden;

    if (!w)
        return false;
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        double elements = (double)(t->bytes / dtype_size(t->dtype));

        all += elements;
        if (t->rank == 2 && t->shape[0] == info->vocab && t->shape[1] == info->hidden)
            ends++;
        else if (is_matrix(t))
            body += elements;
    }
    weights_close(w);
    const struct state_field *last = &info->layout.field[info->layout.fields - 1];
    const double large = (double)last->layer_bytes * last->layers;
    /* A stored head that the model does not use is not among its parameters. */
    const bool untied = ends > 1 && all - (double)info->parameters < table / 2;
    b->cost = (struct cost){
        .weight_bytes =
            (double)info->weight_bytes - (untied ? table * (double)dtype_size(info->dtype) : 0),
        .state_bytes = 2 * (double)info->layout.bytes,
        .moved_bytes = 2 * (double)info->layout.bytes - large * (1 - 1.0 / info->log_steps),
        .body_flops = 2 * body,
        .head_flops = 2 * table,
    };
    return true;
}

/* Two a session, one to work in; not for states that would not fit. */
static int choose_slots(const struct bench *b, int sessions)
{
    const size_t slots = ((size_t)SLOT_BYTES_GIB << 30) / model_slot_bytes(b->local.parts.model);
    const size_t most = 2 * (size_t)sessions + 2;

    return (int)(slots > most ? most : slots < 4 ? 4 : slots);
}

bool bench_open(struct bench *b, const struct options *o, struct error *err)
{
    const int sessions = b->sessions ? b->sessions : 64;
    struct engine_options limits = { .max_batch = sessions,
                                     .row_budget = b->rows ? b->rows : o->row_budget,
                                     .max_queue = sessions,
                                     .max_sessions = 1 << 20,
                                     .host_bytes = o->host_memory };

    b->options = o;
    b->local.engine = NULL;
    if (strchr(o->device, ','))
        return error_set(err, ERR_INPUT, "one device is measured at a time, not \"%s\"", o->device);
    if (!local_open(&b->local, o, &limits, err) || !read_cost(b, model_path(o), err)) {
        local_close(&b->local);
        return false;
    }
    b->local.limits.slots = choose_slots(b, sessions);
    if (b->read_bandwidth == 0) {
        b->read_bandwidth = bench_ceiling(b, CEILING_READ);
        b->copy_bandwidth = bench_ceiling(b, CEILING_COPY);
        b->fma_rate = bench_ceiling(b, CEILING_FMA);
        b->bf16_rate = bench_ceiling(b, CEILING_BF16);
    }
    return true;
}

void bench_close(struct bench *b)
{
    local_close(&b->local);
}

void bench_print_machine(const struct bench *b)
{
    const struct backend *be = b->local.parts.backend;

    printf("%s: %s. Medians, least and most in brackets.\n\n", be->name, be->detail);
    printf("| ceiling | measured |\n|---|---|\n");
    printf("| memory read | %.1f GB/s |\n", b->read_bandwidth / 1e9);
    if (b->copy_bandwidth > 0)
        printf("| memory copy, read and written | %.1f GB/s |\n", b->copy_bandwidth / 1e9);
    printf("| float32 multiply-add | %.0f Gflop/s |\n", b->fma_rate / 1e9);
    if (b->bf16_rate > 0)
        printf("| bf16 product | %.0f Gflop/s |\n", b->bf16_rate / 1e9);
}

static bool run_suites(struct bench *b, const char *suite)
{
    struct decode_row decode[] = {
        { .sessions = 1 }, { .sessions = 4 }, { .sessions = 16 }, { .sessions = 64 }
    };
    struct prefill_row prefill[] = { { .tokens = 64 }, { .tokens = 512 }, { .tokens = 4096 } };
    bool all = strcmp(suite, "all") == 0, ok = true;

    if (all || strcmp(suite, "decode") == 0)
        ok = bench_decode(b, decode, sizeof(decode) / sizeof(decode[0])) && ok;
    if (all || strcmp(suite, "prefill") == 0)
        ok = bench_prefill(b, prefill, sizeof(prefill) / sizeof(prefill[0])) && ok;
    if (all || strcmp(suite, "resume") == 0)
        ok = bench_resume(b, (const size_t[]){ 1 << 10, 1 << 14, 1 << 18 }) && ok;
    if (all || strcmp(suite, "memory") == 0)
        ok = bench_memory(b) && ok;
    if (all || strcmp(suite, "verbs") == 0)
        ok = bench_verbs(b) && ok;
    return ok;
}

/* Whether the options lead to a GPU. A named one that does not work fails when it is used. */
static bool is_gpu(const struct options *o)
{
    struct loaded probe = { 0 };
    struct error err;
    bool gpu = strncmp(o->device, "cuda", 4) == 0;

    if (strcmp(o->device, "auto") == 0 && loaded_device(&probe, o, &err))
        gpu = strcmp(probe.backend->name, "cuda") == 0;
    loaded_finish(&probe);
    return gpu;
}

int cli_bench(const struct options *o)
{
    struct bench b = { 0 };
    struct error err;
    bool ok;

    if (strcmp(o->suite, "published") == 0) {
        if (is_gpu(o))
            return bench_published_gpu(o);
        if (strcmp(o->part, "all") == 0 && !o->sessions)
            return bench_published(o);
        fprintf(stderr, "eddy: --part and --sessions are of a GPU, and none is used\n");
        return EXIT_USAGE;
    }
    if (o->only || o->layers || o->sessions || strcmp(o->part, "all") != 0) {
        fprintf(stderr, "eddy: --only, --part, --layers and --sessions are of --suite published\n");
        return EXIT_USAGE;
    }
    if (!bench_open(&b, o, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return EXIT_USAGE;
    }
    const struct model_info *info = model_info(b.local.parts.model);

    printf("%s: %s, %.1f million parameters, %.1f MB of %s weights. ", b.local.parts.name,
           info->architecture, (double)info->parameters / 1e6, (double)info->weight_bytes / 1e6,
           dtype_name(info->dtype));
    bench_print_machine(&b);
    ok = run_suites(&b, o->suite);
    bench_close(&b);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
