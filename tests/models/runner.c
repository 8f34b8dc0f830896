#include "tests/models/runner.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/error.h"
#include "kernels/backend.h"

const char *const isa_names[ISAS] = { "plain", "avx2", "avx512", "avx512bf16", "cuda" };

static void init_on(struct runner *r, const char *path, struct backend *be, enum dtype state,
                    bool logs)
{
    const struct model_options options = {
        .max_rows = RUNNER_ROWS, .max_logits = RUNNER_ROWS, .state_dtype = state, .logs = logs
    };
    struct error err = { 0 };

    *r = (struct runner){ .be = be, .m = model_open(path, be, &options, &err) };
    if (!r->m)
        fail_msg("%s", err.message);
    r->info = model_info(r->m);
    r->rounds = r->info->dtype == DTYPE_BF16 && (be->bf16_rows || !runner_is_exact(r));
    r->records = r->be->alloc(r->be, RUNNER_SLOTS * model_slot_bytes(r->m));
    assert_non_null(r->records);
}

void runner_init_on(struct runner *r, const char *path, struct backend *be, enum dtype state)
{
    init_on(r, path, be, state, false);
}

void runner_init_logs(struct runner *r, const char *path, struct backend *be)
{
    init_on(r, path, be, DTYPE_F32, true);
}

static bool open_runner(struct runner *r, const char *path, const char *isa, bool round_x,
                        enum dtype state)
{
    const struct backend_options with = { .threads = 2, .isa = isa, .round_x = round_x };
    struct error err = { 0 };
    struct backend *be =
        strcmp(isa, "cuda") == 0 ? backend_open_cuda(&with, &err) : backend_open_cpu(&with, &err);

    if (!be) {
        assert_int_equal(err.code, ERR_INPUT);
        return false;
    }
    runner_init_on(r, path, be, state);
    r->rounds = r->rounds || (r->info->dtype == DTYPE_BF16 && round_x);
    return true;
}

bool runner_init_with(struct runner *r, const char *path, const char *isa, bool round_x)
{
    return open_runner(r, path, isa, round_x, DTYPE_F32);
}

bool runner_init(struct runner *r, const char *path, const char *isa)
{
    return runner_init_with(r, path, isa, false);
}

bool runner_init_narrow(struct runner *r, const char *path, const char *isa)
{
    return open_runner(r, path, isa, false, DTYPE_BF16);
}

void runner_finish(struct runner *r)
{
    if (r->be)
        r->be->free(r->be, r->records);
    model_close(r->m);
    backend_close(r->be);
}

bool runner_is_exact(const struct runner *r)
{
    return strcmp(r->be->name, "cpu") == 0;
}

void runner_assert_alike(const struct runner *r, const void *a, const void *b, size_t bytes,
                         float tolerance)
{
    const float *x = a, *y = b;

    if (runner_is_exact(r)) {
        assert_memory_equal(a, b, bytes);
        return;
    }
    for (size_t i = 0; i < bytes / sizeof(*x); i++)
        if (!(fabsf(x[i] - y[i]) <= tolerance))
            fail_msg("[%zu] is %.9g and %.9g", i, (double)x[i], (double)y[i]);
}

void runner_logits(const struct runner *r, int row, float *out)
{
    const size_t n = (size_t)r->info->vocab;
    struct error err = { 0 };

    if (!r->be->sync(r->be, &err))
        fail_msg("%s", err.message);
    r->be->download(r->be, out, model_logits(r->m) + (size_t)row * n, n * sizeof(*out));
}

int32_t runner_greedy(const struct runner *r, const float *logits)
{
    int32_t best = 0;

    for (int32_t i = 1; i < r->info->vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

struct trace runner_trace(struct runner *r, const int32_t *token, int T, const int *chunk)
{
    const size_t bytes = r->info->layout.bytes, row = (size_t)r->info->vocab * sizeof(float);
    struct trace t = { .logit_bytes = (size_t)T * row, .state_bytes = bytes };
    int slot = 3, rows[RUNNER_ROWS];
    struct error err = { 0 };

    for (int i = 0; i < RUNNER_ROWS; i++)
        rows[i] = i;
    t.logits = malloc(t.logit_bytes);
    t.state = malloc(bytes);
    assert_true(t.logits && t.state);
    r->be->zero(r->be, r->records + 3 * bytes, bytes);
    for (int at = 0, i = 0; at < T; i = chunk[i + 1] ? i + 1 : 0) {
        int n = chunk[i] < T - at ? chunk[i] : T - at, begin[] = { 0, n };
        const uint32_t position = (uint32_t)at;
        struct batch in = { .S = 1,
                            .T = n,
                            .L = n,
                            .token = token + at,
                            .begin = begin,
                            .slot = &slot,
                            .logit_row = rows,
                            .position = &position };

        model_step(r->m, r->records, &in);
        r->be->download(r->be, (char *)t.logits + (size_t)at * row, model_logits(r->m),
                        (size_t)n * row);
        at += n;
    }
    r->be->download(r->be, t.state, r->records + 3 * bytes, bytes);
    assert_true(r->be->sync(r->be, &err));
    return t;
}

void trace_finish(struct trace *t)
{
    free(t->logits);
    free(t->state);
}

void assert_traces_equal(const struct trace *a, const struct trace *b)
{
    assert_int_equal(a->logit_bytes, b->logit_bytes);
    assert_int_equal(a->state_bytes, b->state_bytes);
    assert_memory_equal(a->logits, b->logits, a->logit_bytes);
    assert_memory_equal(a->state, b->state, a->state_bytes);
}

struct trace trace_of(const char *path, const int32_t *token, int T)
{
    const int whole[] = { RUNNER_ROWS, 0 };
    struct runner r;

    assert_true(runner_init(&r, path, "plain"));
    struct trace t = runner_trace(&r, token, T, whole);
    runner_finish(&r);
    return t;
}

void assert_refused(const char *path, const char *const *words)
{
    const struct model_options options = { .max_rows = 1, .max_logits = 1 };
    struct error err = { 0 };
    struct backend *be =
        backend_open_cpu(&(struct backend_options){ .threads = 1, .isa = "plain" }, &err);

    assert_non_null(be);
    assert_null(model_open(path, be, &options, &err));
    backend_close(be);
    assert_int_equal(err.code, ERR_FORMAT);
    for (; *words; words++)
        if (!strstr(err.message, *words))
            fail_msg("\"%s\" is not in: %s", *words, err.message);
}
