#include "tests/server/state/logging.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"

enum { FRONT = 16 }; /* numbers before the state of a log: the first is its count */

/* What is added to a backend. */
struct logging {
    struct backend *be, was;
    struct ops ops;
};

static struct logging all[LOGGING_MAX];
static atomic_uint_fast64_t rows, settled;

static struct logging *of(const struct stream *q)
{
    for (int i = 0; i < LOGGING_MAX; i++)
        if (all[i].be && all[i].was.stream == q)
            return &all[i];
    fail_msg("this backend keeps no logs");
    return NULL;
}

static void poison(float *state, size_t n)
{
    memset(state, 0xff, n * sizeof(*state));
}

/* By its ends. */
static bool is_poison(const float *state, size_t n)
{
    uint32_t first, last;

    memcpy(&first, state, sizeof(first));
    memcpy(&last, state + n - 1, sizeof(last));
    return first == UINT32_MAX && last == UINT32_MAX;
}

/* The log of one layer of one slot: what is there, and how many steps it says. The record's state
 * is good, and the log is empty, when this returns. */
static void open_log(float *log, float *state, size_t n, int logged)
{
    assert_true(is_poison(state, n) == (logged > 0));
    if (logged > 0) {
        assert_int_equal((int)log[0], logged);
        memcpy(state, log + FRONT, n * sizeof(*state));
    }
    log[0] = 0; /* what was overwritten with the record is gone, too */
    poison(log + FRONT, n);
}

static void close_log(float *log, float *state, size_t n, int logged)
{
    memcpy(log + FRONT, state, n * sizeof(*state));
    log[0] = (float)logged;
    poison(state, n);
    rows++;
}

static void open_all(const struct batch *in, const struct field *f, size_t n)
{
    for (int s = 0; f->log && s < in->S; s++) {
        const size_t at = (size_t)in->slot[s] * f->stride;

        if (in->begin[s + 1] > in->begin[s])
            open_log(f->log + at, f->base + at, n, in->logged ? in->logged[s] : 0);
    }
}

static void close_all(const struct logging *l, const struct batch *in, const struct field *f,
                      size_t n)
{
    for (int s = 0; f->log && in->logged && s < in->S; s++) {
        const size_t at = (size_t)in->slot[s] * f->stride;

        if (in->begin[s + 1] - in->begin[s] == 1 && in->logged[s] + 1 < l->be->log_steps)
            close_log(f->log + at, f->base + at, n, in->logged[s] + 1);
    }
}

static size_t matrix_size(const struct matrix_state *p)
{
    return (size_t)p->H * (size_t)p->V * (size_t)p->K;
}

static size_t diagonal_size(const struct diagonal_scan *p)
{
    return (size_t)p->dim * (size_t)p->N;
}

static void diagonal_scan(struct stream *q, const struct batch *in, const struct diagonal_scan *p)
{
    const struct logging *l = of(q);

    open_all(in, &p->state, diagonal_size(p));
    l->was.ops->diagonal_scan(q, in, p);
    close_all(l, in, &p->state, diagonal_size(p));
}

static void dt_scan(struct stream *q, const struct batch *in, const struct dt_scan *p)
{
    const struct logging *l = of(q);

    open_all(in, &p->scan.state, diagonal_size(&p->scan));
    l->was.ops->dt_scan(q, in, p);
    close_all(l, in, &p->scan.state, diagonal_size(&p->scan));
}

static void matrix_state(struct stream *q, const struct batch *in, const struct matrix_state *p)
{
    const struct logging *l = of(q);

    open_all(in, &p->state, matrix_size(p));
    l->was.ops->matrix_state(q, in, p);
    close_all(l, in, &p->state, matrix_size(p));
}

static void scalar_state(struct stream *q, const struct batch *in, const struct scalar_state *p)
{
    const struct logging *l = of(q);

    open_all(in, &p->state.state, matrix_size(&p->state));
    l->was.ops->scalar_state(q, in, p);
    close_all(l, in, &p->state.state, matrix_size(&p->state));
}

static void delta_state(struct stream *q, const struct batch *in, const struct delta_state *p)
{
    const struct logging *l = of(q);

    open_all(in, &p->state.state, matrix_size(&p->state));
    l->was.ops->delta_state(q, in, p);
    close_all(l, in, &p->state.state, matrix_size(&p->state));
}

static size_t size_of(const struct state_log *log)
{
    return (size_t)log->H * (size_t)log->V * (size_t)log->K + (size_t)log->dim * (size_t)log->N;
}

static size_t log_numbers(struct backend *be, const struct state_log *log)
{
    (void)be;
    return FRONT + (size_of(log) + 15) / 16 * 16;
}

static uint64_t settle(struct backend *be, const struct state_log *log, int slot, int logged)
{
    const size_t n = size_of(log);
    const size_t at = (size_t)slot * log->state.stride;

    (void)be;
    assert_in_range(logged, 1, be->log_steps - 1);
    for (int i = 0; i < log->layers; i++)
        open_log(log->state.log + at + (size_t)i * log->log_distance,
                 log->state.base + at + (size_t)i * log->state_distance, n, logged);
    settled++;
    return 0;
}

static void destroy(struct backend *be)
{
    struct logging *l = of(be->stream);

    l->be = NULL;
    l->was.destroy(be);
}

void logging_make(struct backend *be, int log_steps)
{
    struct logging *l = all;

    while (l->be) {
        l++;
        assert_true(l < all + LOGGING_MAX);
    }
    assert_true(log_steps > 1);
    *l = (struct logging){ .be = be, .was = *be, .ops = *be->ops };
    l->ops.diagonal_scan = diagonal_scan;
    l->ops.dt_scan = dt_scan;
    l->ops.matrix_state = matrix_state;
    l->ops.scalar_state = scalar_state;
    l->ops.delta_state = delta_state;
    be->ops = &l->ops;
    be->log_steps = log_steps;
    be->log_numbers = log_numbers;
    be->settle = settle;
    be->destroy = destroy;
}

uint64_t logging_rows(void)
{
    return rows;
}

uint64_t logging_settled(void)
{
    return settled;
}
