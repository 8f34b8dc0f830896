/* test_ops.c - the promises of every operation on rows and states, checked for every
 * backend over random sizes: it computes what is defined, and neither the rows
 * beside a row, nor the cut of a sequence into calls, nor the number of threads can be seen.
 *
 * An operation is described by a `struct spec` (op_specs.h): the ranges of its inputs, what it
 * writes and how it is called. The harness lays it out with odd row distances and slots out of
 * order, and compares whole arrays, so that gaps between rows and other slots count too. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "op_specs.h"

enum { T_MAX = 40, LONG_MAX = 600 };

/* An operation laid out in memory with a ragged batch. */
struct world {
    struct spec spec;
    struct batch in;
    int begin[6], slot[5], slots, longest;
    int32_t token[5]; /* none is read */
    struct call call; /* inputs, and outputs and state as they are before */
    size_t y_floats[ARRAYS], record, state_floats;
};

/* Floats between two rows of `width`: odd by itself, or so that every row begins at a multiple
 * of 16 bytes, as vectors need it and models lay it out. */
static size_t row_distance(int width, int gap, bool aligned)
{
    return aligned ? (size_t)(width + 3) / 4 * 4 + 4 : (size_t)(width + gap);
}

static uint16_t *rounded(const float *x, size_t n)
{
    uint16_t *y = check_memory(n * sizeof(*y));

    for (size_t i = 0; i < n; i++)
        y[i] = f32_to_bf16(x[i]);
    return y;
}

static struct world make_world(struct spec spec)
{
    const bool aligned = check_int(0, 1);
    /* Where a state is kept, long sequences may go another way. */
    const bool long_one = spec.state.width > 0 && check_int(0, 3) == 0;
    const int ones = check_int(0, 1) ? check_int(0, 4) : 0; /* as if they decoded, beside others */
    struct world w = { .spec = spec, .record = row_distance(spec.state.width, 7, aligned) };
    struct call *c = &w.call;
    int T;

    w.in.S = spec.decode ? 5 : check_int(1, 5);
    w.slots = w.in.S + 2;
    for (int s = 0; s < w.in.S; s++) {
        w.slot[s] = (s * 3 + 1) % w.slots; /* distinct, as 3 does not divide what follows */
        const int most = check_int(0, 1) ? 1 : s == ones && long_one ? LONG_MAX : T_MAX;
        const int rows = spec.decode || s < ones ? 1 : check_int(0, most);

        w.begin[s + 1] = w.begin[s] + rows;
        w.longest = rows > w.longest ? rows : w.longest;
    }
    if (w.slots % 3 == 0)
        for (int s = 0; s < w.in.S; s++)
            w.slot[s] = w.slots - 1 - s;
    w.begin[w.in.S] += w.begin[w.in.S] == 0;
    T = w.in.T = w.begin[w.in.S];
    for (int i = 0; i < ARRAYS; i++) {
        c->x_ld[i] = row_distance(spec.x[i].width, 3, aligned);
        c->y_ld[i] = row_distance(spec.y[i].width, 5, aligned);
        if (spec.tight_x)
            c->x_ld[i] = (size_t)spec.x[i].width;
        if (spec.tight_y)
            c->y_ld[i] = (size_t)spec.y[i].width;
        w.y_floats[i] = (size_t)T * c->y_ld[i];
        c->x[i] = check_floats((size_t)T * c->x_ld[i], (double)spec.x[i].lo, (double)spec.x[i].hi);
        c->y[i] = check_floats(w.y_floats[i], (double)spec.y[i].lo, (double)spec.y[i].hi);
        c->y_bf16[i] = rounded(c->y[i], w.y_floats[i]);
        c->c[i] = check_floats((size_t)spec.c[i].width, (double)spec.c[i].lo, (double)spec.c[i].hi);
    }
    w.state_floats = w.record * (size_t)w.slots;
    c->state.base = check_floats(w.state_floats, (double)spec.state.lo, (double)spec.state.hi);
    c->state.stride = w.record;
    return w;
}

/* Copies of what an operation writes. */
struct result {
    float *y[ARRAYS], *state;
    uint16_t *y_bf16[ARRAYS];
};

static float *copy_of(const float *x, size_t n)
{
    float *copy = check_memory(n * sizeof(*copy));

    memcpy(copy, x, n * sizeof(*copy));
    return copy;
}

static struct result fresh_result(const struct world *w)
{
    struct result r = { .state = copy_of(w->call.state.base, w->state_floats) };

    for (int i = 0; i < ARRAYS; i++) {
        r.y[i] = copy_of(w->call.y[i], w->y_floats[i]);
        r.y_bf16[i] = rounded(w->call.y[i], w->y_floats[i]);
    }
    return r;
}

/* The world's call on the backend's memory, which check_return() ends. */
static struct call lend_call(const struct world *w, struct backend *be, struct result *r)
{
    struct call c = w->call;
    const size_t T = (size_t)w->in.T, size = sizeof(float);

    c.spec = &w->spec;
    c.ops = be->ops;
    c.q = be->stream;
    c.state.base = check_lend(be, r->state, w->state_floats * size);
    for (int i = 0; i < ARRAYS; i++) {
        c.x[i] = check_show(be, c.x[i], T * c.x_ld[i] * size);
        c.c[i] = check_show(be, c.c[i], (size_t)w->spec.c[i].width * size);
        c.y[i] = check_lend(be, r->y[i], w->y_floats[i] * size);
        c.y_bf16[i] = check_lend(be, r->y_bf16[i], w->y_floats[i] * sizeof(*c.y_bf16[i]));
    }
    return c;
}

/* The rows of the batch `in`, whose row 0 is the world's row `first`. */
static void run_part(struct call c, struct backend *be, int first, const struct batch *in)
{
    for (int i = 0; i < ARRAYS; i++) {
        c.x[i] += (size_t)first * c.x_ld[i];
        c.y[i] += (size_t)first * c.y_ld[i];
        c.y_bf16[i] += (size_t)first * c.y_ld[i];
    }
    c.in = check_begin(be, in);
    c.spec->run(&c);
    check_end(be);
}

static struct result run_whole(const struct world *w, struct backend *be)
{
    struct result r = fresh_result(w);
    struct batch in = w->in;

    in.begin = w->begin;
    in.slot = w->slot;
    run_part(lend_call(w, be, &r), be, 0, &in);
    check_return(be);
    return r;
}

/* Each sequence by itself, in pieces of at most `piece` rows. */
static struct result run_pieces(const struct world *w, struct backend *be, int piece)
{
    struct result r = fresh_result(w);
    const struct call c = lend_call(w, be, &r);

    for (int s = 0; s < w->in.S; s++) {
        for (int t = w->begin[s]; t < w->begin[s + 1]; t += piece) {
            const int n = w->begin[s + 1] - t < piece ? w->begin[s + 1] - t : piece;
            const int begin[2] = { 0, n };
            const struct batch in = { .S = 1, .T = n, .begin = begin, .slot = &w->slot[s] };

            run_part(c, be, t, &in);
        }
    }
    check_return(be);
    return r;
}

static void check_near(const struct world *w, const struct result *a, const struct result *b)
{
    const double terms =
        w->spec.terms + (w->spec.state.magnitude > 0 ? 8.0 * (w->longest + T_MAX) : 0);

    for (int y = 0; y < ARRAYS; y++)
        check_close(w->spec.name, a->y[y], b->y[y], w->y_floats[y],
                    check_tolerance(terms, w->spec.y[y].magnitude));
    check_close(w->spec.name, a->state, b->state, w->state_floats,
                check_tolerance(terms, w->spec.state.magnitude));
}

static void check_same(const struct world *w, const char *what, const struct result *a,
                       const struct result *b)
{
    char name[160];

    snprintf(name, sizeof(name), "%s: %s", w->spec.name, what);
    for (int i = 0; i < ARRAYS; i++)
        check_equal(name, a->y[i], b->y[i], w->y_floats[i]);
    check_equal(name, a->state, b->state, w->state_floats);
}

static void every_operation_computes_what_is_defined(void **state)
{
    (void)state;
    for (int i = 1; check_backends[i]; i++) {
        for (int k = 0; k < 40 * any_specs; k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);

            struct spec spec = any_spec[k % any_specs]();

            spec.decode = check_int(0, 2) == 0;
            if (be) {
                const struct world w = make_world(spec);
                const struct result a = run_whole(&w, be), b = run_whole(&w, plain);

                check_near(&w, &a, &b);
            }
            check_release(NULL);
        }
    }
}

/* What one output holds after rows of bf16 were asked for, `want` being the same as float32.
 * Rounding moves a number by at most 2^-8 of it. */
static void check_rounded(const struct world *w, int y, const struct result *got,
                          const struct result *want)
{
    const struct array *a = &w->spec.y[y];
    const double terms =
        w->spec.terms + (w->spec.state.magnitude > 0 ? 8.0 * (w->longest + T_MAX) : 0);
    const double tolerance = check_tolerance(terms, a->magnitude);

    for (size_t i = 0; i < w->y_floats[y]; i++) {
        const float x = bf16_to_f32(got->y_bf16[y][i]), exact = want->y[y][i];
        const bool gap = i % w->call.y_ld[y] >= (size_t)a->width;

        if (gap ? got->y_bf16[y][i] != w->call.y_bf16[y][i]
                : !(fabs((double)(x - exact)) <= 0x1p-8 * fabs((double)exact) + 2 * tolerance))
            fail_msg("%s: bf16 [%d][%zu] is %.9g, as float32 %.9g, tolerance %.3g", w->spec.name, y,
                     i, (double)x, (double)exact, tolerance);
    }
    if (w->call.rows[y] == ROWS_BF16 && !w->spec.bf16_alone)
        check_equal(w->spec.name, got->y[y], w->call.y[y], w->y_floats[y]);
    else if (w->call.rows[y] == ROWS_BOTH)
        check_close(w->spec.name, got->y[y], want->y[y], w->y_floats[y], tolerance);
}

static void rows_in_bf16_are_the_defined_ones_rounded(void **state)
{
    const char *const knowing[] = { "plain", "cuda" };

    (void)state;
    for (int k = 0; k < 60 * any_specs; k++) {
        struct spec spec = any_spec[k / 2 % any_specs]();
        struct backend *plain = check_backend("plain", 1), *be = check_backend(knowing[k % 2], 1);

        spec.decode = check_int(0, 1);
        if (be && spec.bf16) {
            struct world w = make_world(spec);
            const struct result want = run_whole(&w, plain);

            for (int y = 0; y < spec.bf16; y++)
                w.call.rows[y] = (enum rows)check_int(ROWS_BF16, ROWS_BOTH - spec.bf16_alone);

            const struct result got = run_whole(&w, be);

            for (int y = 0; y < spec.bf16; y++)
                check_rounded(&w, y, &got, &want);
        }
        check_release(NULL);
    }
}

/* Enough of it for a device that takes several rows a thread, or several sequences a block, only
 * when it is full. */
static void a_wide_decode_step_computes_what_is_defined(void **state)
{
    (void)state;
    for (int i = 1; check_backends[i]; i++) {
        for (int k = 0; k < 7; k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);
            struct spec spec = k == 0   ? diagonal_scan_of(1 << 17, 16)
                               : k == 5 ? delta_state_of(270, 64)
                               : k == 6 ? norm_shift_of(4096, 6)
                                        : matrix_state_of(72, k < 3 ? 72 : 1, 64, k % 2 ? 64 : 128);

            spec.decode = true;
            if (be) {
                const struct world w = make_world(spec);
                const struct result a = run_whole(&w, be), b = run_whole(&w, plain);

                check_near(&w, &a, &b);
            }
            check_release(NULL);
        }
    }
}

/* Three sequences, filled up to four where a backend does that: the fourth row lies where a row
 * of the world does, but no state may move for it. */
static void rows_that_fill_a_batch_up_move_no_state(void **state)
{
    static const char keys[60];
    const int begin[] = { 0, 1, 2, 3 }, logit_row[] = { 0, 1, 2 };

    (void)state;
    for (int k = 0; k < 60; k++) {
        struct backend *plain = check_backend("plain", 1), *be = check_backend("cuda", 1);
        struct spec spec = any_spec[k % any_specs]();

        spec.decode = true;
        if (be) {
            struct world w = make_world(spec);
            const struct step_key key = { .model = &keys[k], .rows = 4 };
            const struct batch in = { .S = 3,
                                      .T = 3,
                                      .L = 3,
                                      .token = w.token,
                                      .begin = begin,
                                      .slot = w.slot,
                                      .logit_row = logit_row };
            struct result got = fresh_result(&w), want = fresh_result(&w);
            struct call c = lend_call(&w, be, &got);

            c.in = be->begin(be, &key, &in);
            assert_int_equal(c.in->T, 4);
            spec.run(&c);
            check_end(be);
            check_return(be);
            run_part(lend_call(&w, plain, &want), plain, 0, &in);
            check_return(plain);
            for (int i = 0; i < ARRAYS; i++)
                w.y_floats[i] = 3 * w.call.y_ld[i];
            check_near(&w, &got, &want);
        }
        check_release(NULL);
    }
}

static void batching_and_chunking_are_invisible(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 15 * any_specs; k++) {
            struct backend *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct world w = make_world(any_spec[k % any_specs]());
                const struct result whole = run_whole(&w, be);
                const struct result rows = run_pieces(&w, be, 1);
                const struct result pieces = run_pieces(&w, be, check_int(2, 7));

                if (check_is_exact(be)) {
                    check_same(&w, "row by row", &whole, &rows);
                    check_same(&w, "in pieces", &whole, &pieces);
                } else {
                    check_near(&w, &whole, &rows);
                    check_near(&w, &whole, &pieces);
                }
            }
            check_release(NULL);
        }
    }
}

static void the_number_of_threads_is_invisible(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 6 * any_specs; k++) {
            struct backend *one = check_backend(check_backends[i], 1);
            struct backend *three = check_backend(check_backends[i], 3);

            if (one && check_is_exact(one)) {
                const struct world w = make_world(any_spec[k % any_specs]());
                const struct result a = run_whole(&w, one), b = run_whole(&w, three);

                check_same(&w, "threads", &a, &b);
            }
            check_release(NULL);
        }
    }
}

static void other_slots_and_the_gaps_between_rows_are_untouched(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 6 * any_specs; k++) {
            struct backend *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct world w = make_world(any_spec[k % any_specs]());
                const struct result r = run_whole(&w, be);
                bool used[8] = { false };

                for (int s = 0; s < w.in.S; s++)
                    used[w.slot[s]] = true;
                for (int slot = 0; slot < w.slots; slot++) {
                    const size_t at = (size_t)slot * w.record;
                    const size_t own = used[slot] ? (size_t)w.spec.state.width : 0;

                    check_equal(w.spec.name, r.state + at + own, w.call.state.base + at + own,
                                w.record - own);
                }
                for (int y = 0; y < ARRAYS; y++)
                    for (size_t t = 0; t < (size_t)w.in.T; t++)
                        check_equal(w.spec.name, r.y[y] + t * w.call.y_ld[y] + w.spec.y[y].width,
                                    w.call.y[y] + t * w.call.y_ld[y] + w.spec.y[y].width,
                                    w.call.y_ld[y] - (size_t)w.spec.y[y].width);
            }
            check_release(NULL);
        }
    }
}

/* With dt held at 1 the decay is exp(A). */
static void exponentials_err_by_at_most_two_units_in_the_last_place(void **state)
{
    enum { N = 4096, BYTES = N * sizeof(float) };
    const float *zero = check_floats(N, 0, 0), *A = check_floats(N, -87, 0);
    float *dt = check_floats(N, 0, 0), *decay = check_floats(N, 0, 0);

    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *be = check_backend(check_backends[i], 1);

        if (!be)
            continue;
        be->ops->decay_gates(be->stream,
                             &(struct decay_gates){ .dt = check_lend(be, dt, BYTES),
                                                    .decay = check_lend(be, decay, BYTES),
                                                    .raw = check_show(be, zero, BYTES),
                                                    .raw_ld = N,
                                                    .bias = check_show(be, zero, BYTES),
                                                    .A = check_show(be, A, BYTES),
                                                    .T = 1,
                                                    .H = N,
                                                    .lo = 1.0f,
                                                    .hi = 1.0f });
        check_return(be);
        for (int k = 0; k < N; k++) {
            const double want = exp((double)A[k]), unit = ldexp(1.0, ilogb(want) - 23);

            if (!(fabs((double)decay[k] - want) <= 2 * unit))
                fail_msg("%s: exp(%.9g) is %.9g", be->detail, (double)A[k], (double)decay[k]);
        }
    }
}

static void gathering_copies_the_wanted_rows(void **state)
{
    enum { ROWS = 50 };

    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        struct backend *be = check_backend(check_backends[i], 2);
        const int dim = check_int(1, 300), n = check_int(1, 40);
        const size_t row = (size_t)dim * sizeof(float);
        const float *x = check_floats(ROWS * (size_t)dim, -1, 1);
        float *y = check_floats((size_t)(n * dim), 0, 1);
        int rows[40];
        const struct batch in = { .T = ROWS, .L = n, .logit_row = rows };

        for (int k = 0; k < n; k++)
            rows[k] = check_int(0, ROWS - 1);
        if (!be)
            continue;
        be->ops->gather(be->stream, check_begin(be, &in), check_lend(be, y, (size_t)n * row),
                        check_show(be, x, ROWS * row), dim);
        check_end(be);
        check_return(be);
        for (int k = 0; k < n; k++)
            check_equal("gather", y + (size_t)(k * dim), x + (size_t)(rows[k] * dim), (size_t)dim);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_operation_computes_what_is_defined, check_release),
        cmocka_unit_test_teardown(rows_in_bf16_are_the_defined_ones_rounded, check_release),
        cmocka_unit_test_teardown(a_wide_decode_step_computes_what_is_defined, check_release),
        cmocka_unit_test_teardown(rows_that_fill_a_batch_up_move_no_state, check_release),
        cmocka_unit_test_teardown(batching_and_chunking_are_invisible, check_release),
        cmocka_unit_test_teardown(the_number_of_threads_is_invisible, check_release),
        cmocka_unit_test_teardown(other_slots_and_the_gaps_between_rows_are_untouched,
                                  check_release),
        cmocka_unit_test_teardown(exponentials_err_by_at_most_two_units_in_the_last_place,
                                  check_release),
        cmocka_unit_test_teardown(gathering_copies_the_wanted_rows, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
