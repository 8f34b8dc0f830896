/* test_ops.c - the promises of every operation on rows and states, checked for every
 * backend over random sizes: it computes what is defined, and neither the rows
 * beside a row, nor the cut of a sequence into calls, nor the number of threads can be seen.
 *
 * An operation is described by a `struct spec`: the ranges of its inputs, what it writes and
 * how it is called. The harness lays it out with odd row distances and slots out of order,
 * and compares whole arrays, so that gaps between rows and other slots count too. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ARRAYS = 8, T_MAX = 40, LONG_MAX = 600 };

/* Rows or constants of `width` floats in [lo, hi). For outputs it is what they hold before;
 * magnitude bounds the absolute values that add up to one of them. */
struct array {
    int width;
    float lo, hi;
    double magnitude;
};

struct call;

struct spec {
    char name[64];
    struct array x[ARRAYS], y[ARRAYS], c[ARRAYS]; /* row inputs, row outputs, constants */
    struct array state;
    double terms; /* of the longest sum; a state adds its steps */
    bool tight_x, tight_y;
    bool decode; /* all five sequences have one row */
    int d[6];    /* sizes for run() */
    void (*run)(const struct call *c);
};

struct call {
    const struct spec *spec;
    const struct ops *ops;
    struct stream *q;
    const struct batch *in;
    const float *x[ARRAYS], *c[ARRAYS];
    float *y[ARRAYS];
    size_t x_ld[ARRAYS], y_ld[ARRAYS];
    struct field state;
};

static void run_norm(const struct call *c)
{
    const int *d = c->spec->d;
    const bool in_place = d[3];
    const struct norm p = { .kind = (enum norm_kind)d[0],
                            .y = c->y[0],
                            .x = in_place ? c->y[0] : c->x[0],
                            .y_ld = c->y_ld[0],
                            .x_ld = in_place ? c->y_ld[0] : c->x_ld[0],
                            .weight = d[4] ? c->c[0] : NULL,
                            .bias = d[5] ? c->c[1] : NULL,
                            .T = c->in->T,
                            .dim = d[1],
                            .groups = d[2],
                            .eps = 1e-5f };

    c->ops->norm(c->q, &p);
}

/* A value is at most 6 deviations from the mean here; the scale carries the sum's error. */
static struct spec any_norm(void)
{
    const int groups = check_int(1, 4), n = check_int(8, 200), in_place = check_int(0, 1);
    const int dim = groups * n;

    return (struct spec){ .name = "norm",
                          .x = { { dim, -2, 2, 0 } },
                          .y = { { dim, -2, 2, 8 } },
                          .c = { { dim, -1, 1, 0 }, { dim, -1, 1, 0 } },
                          .terms = n,
                          .d = { check_int(0, 1), dim, groups, in_place, check_int(0, 1),
                                 check_int(0, 1) },
                          .run = run_norm };
}

static void run_gated_norm(const struct call *c)
{
    const int *d = c->spec->d;
    const struct gated_norm p = { .y = c->y[0],
                                  .x = c->x[0],
                                  .z = c->x[1],
                                  .y_ld = c->y_ld[0],
                                  .x_ld = c->x_ld[0],
                                  .z_ld = c->x_ld[1],
                                  .weight = d[2] ? c->c[0] : NULL,
                                  .T = c->in->T,
                                  .dim = d[0],
                                  .groups = d[1],
                                  .eps = 1e-5f };

    c->ops->gated_norm(c->q, &p);
}

static struct spec any_gated_norm(void)
{
    const int groups = check_int(1, 4), n = check_int(8, 200), dim = groups * n;

    return (struct spec){ .name = "gated_norm",
                          .x = { { dim, -2, 2, 0 }, { dim, -4, 4, 0 } },
                          .y = { { dim, 0, 1, 8 } },
                          .c = { { dim, -1, 1, 0 } },
                          .terms = n,
                          .d = { dim, groups, check_int(0, 2) > 0 },
                          .run = run_gated_norm };
}

static void run_lerp(const struct call *c)
{
    const struct lerp p = { .y = c->y[0],
                            .target = c->x[0],
                            .mix = c->x[1],
                            .n = (size_t)c->in->T * (size_t)c->spec->d[0] };

    c->ops->lerp(c->q, &p);
}

static struct spec any_lerp(void)
{
    const int dim = check_int(1, 70);

    return (struct spec){ .name = "lerp",
                          .x = { { dim, -1, 1, 0 }, { dim, 0, 1, 0 } },
                          .y = { { dim, -1, 1, 3 } },
                          .terms = 2,
                          .tight_x = true,
                          .tight_y = true,
                          .d = { dim },
                          .run = run_lerp };
}

static void run_token_shift(const struct call *c)
{
    struct token_shift p = {
        .n = c->spec->d[1], .x = c->x[0], .dim = c->spec->d[0], .state = c->state
    };

    for (int i = 0; i < p.n; i++) {
        p.y[i] = c->y[i];
        p.mu[i] = c->c[i];
    }
    c->ops->token_shift(c->q, c->in, &p);
}

static struct spec any_token_shift(void)
{
    const int dim = check_int(1, 100), n = check_int(1, SHIFT_MAX);
    struct spec s = { .name = "token_shift",
                      .x = { { dim, -1, 1, 0 } },
                      .state = { dim, -1, 1, 0 },
                      .terms = 2,
                      .tight_x = true,
                      .tight_y = true,
                      .d = { dim, n },
                      .run = run_token_shift };

    for (int i = 0; i < n; i++) {
        s.y[i] = (struct array){ dim, 0, 1, 3 };
        s.c[i] = (struct array){ dim, 0, 1, 0 };
    }
    return s;
}

static void run_short_conv(const struct call *c)
{
    const int *d = c->spec->d;
    const struct short_conv p = { .y = c->y[0],
                                  .x = c->x[0],
                                  .y_ld = c->y_ld[0],
                                  .x_ld = c->x_ld[0],
                                  .weight = c->c[0],
                                  .bias = d[2] ? c->c[1] : NULL,
                                  .dim = d[0],
                                  .W = d[1],
                                  .silu = d[3],
                                  .state = c->state };

    c->ops->short_conv(c->q, c->in, &p);
}

static struct spec any_short_conv(void)
{
    const int dim = check_int(1, 150), W = check_int(2, 9);

    return (struct spec){ .name = "short_conv",
                          .x = { { dim, -1, 1, 0 } },
                          .y = { { dim, 0, 1, W + 1 } },
                          .c = { { dim * W, -1, 1, 0 }, { dim, -1, 1, 0 } },
                          .state = { dim * (W - 1), -1, 1, 0 },
                          .terms = W,
                          .d = { dim, W, check_int(0, 1), check_int(0, 1) },
                          .run = run_short_conv };
}

static void run_diagonal_scan(const struct call *c)
{
    const struct diagonal_scan p = { .y = c->y[0],
                                     .x = c->x[0],
                                     .dt = c->x[1],
                                     .z = c->spec->d[2] ? c->x[2] : NULL,
                                     .B = c->x[3],
                                     .C = c->x[4],
                                     .y_ld = c->y_ld[0],
                                     .x_ld = c->x_ld[0],
                                     .dt_ld = c->x_ld[1],
                                     .z_ld = c->x_ld[2],
                                     .bc_ld = c->x_ld[3],
                                     .A = c->c[0],
                                     .D = c->c[1],
                                     .dim = c->spec->d[0],
                                     .N = c->spec->d[1],
                                     .state = c->state };

    c->ops->diagonal_scan(c->q, c->in, &p);
}

/* |h| settles below |B x / A|, 1 on average, and the gate is below 3. */
static struct spec diagonal_scan_of(int dim, int N)
{
    return (struct spec){ .name = "diagonal_scan",
                          .x = { { dim, -1, 1, 0 },
                                 { dim, 0.001f, 0.5f, 0 },
                                 { dim, -3, 3, 0 },
                                 { N, -1, 1, 0 },
                                 { N, -1, 1, 0 } },
                          .y = { { dim, 0, 1, 3.0 * N } },
                          .c = { { dim * N, -1.5f, -0.1f, 0 }, { dim, -1, 1, 0 } },
                          .state = { dim * N, -1, 1, 10 },
                          .terms = N,
                          .d = { dim, N, check_int(0, 1) },
                          .run = run_diagonal_scan };
}

static struct spec any_diagonal_scan(void)
{
    const int sizes[] = { 16, 16, 8, 5, 32, 37 };

    return diagonal_scan_of(check_int(1, 100), sizes[check_int(0, 5)]);
}

static void run_decay_gates(const struct call *c)
{
    const struct decay_gates p = { .dt = c->y[0],
                                   .decay = c->y[1],
                                   .raw = c->x[0],
                                   .raw_ld = c->x_ld[0],
                                   .bias = c->c[0],
                                   .A = c->c[1],
                                   .T = c->in->T,
                                   .H = c->spec->d[0],
                                   .lo = 0.001f,
                                   .hi = 22.0f };

    c->ops->decay_gates(c->q, &p);
}

/* exp(-z) moves by at most z exp(-z) < 1/2 times the relative error of z. */
static struct spec any_decay_gates(void)
{
    const int H = check_int(1, 50);

    return (struct spec){ .name = "decay_gates",
                          .x = { { H, -12, 24, 0 } },
                          .y = { { H, 0, 1, 24 }, { H, 0, 1, 2 } },
                          .c = { { H, -1, 1, 0 }, { H, -4, -0.1f, 0 } },
                          .terms = 2,
                          .tight_y = true,
                          .d = { H },
                          .run = run_decay_gates };
}

static void run_delta_gates(const struct call *c)
{
    const struct delta_gates p = { .decay = c->y[0],
                                   .a_out = c->y[1],
                                   .b = c->y[2],
                                   .k = c->y[3],
                                   .w = c->x[0],
                                   .a = c->x[1],
                                   .k_k = c->c[0],
                                   .k_a = c->c[1],
                                   .T = c->in->T,
                                   .H = c->spec->d[0],
                                   .K = c->spec->d[1] };

    c->ops->delta_gates(c->q, &p);
}

static struct spec any_delta_gates(void)
{
    const int H = check_int(1, 5), K = check_int(0, 1) ? 64 : check_int(1, 70), D = H * K;

    return (struct spec){ .name = "delta_gates",
                          .x = { { D, -6, 6, 0 }, { D, 0, 1, 0 } },
                          .y = { { D, 0, 1, 2 }, { D, 0, 1, 2 }, { D, 0, 1, 2 }, { D, -1, 1, 2 } },
                          .c = { { D, 0.5f, 1.5f, 0 }, { D, 0, 1, 0 } },
                          .terms = K,
                          .tight_x = true,
                          .tight_y = true,
                          .d = { H, K },
                          .run = run_delta_gates };
}

static void run_matrix_state(const struct call *c)
{
    const int *d = c->spec->d;
    const bool delta = d[4], scale = d[5];
    const struct matrix_state p = { .y = c->y[0],
                                    .w = c->x[0],
                                    .a = delta ? c->x[1] : NULL,
                                    .b = delta ? c->x[2] : NULL,
                                    .k = c->x[3],
                                    .q = c->x[4],
                                    .v = c->x[5],
                                    .y_ld = c->y_ld[0],
                                    .w_ld = c->x_ld[0],
                                    .ab_ld = c->x_ld[1],
                                    .kq_ld = c->x_ld[3],
                                    .v_ld = c->x_ld[5],
                                    .v_scale = scale ? c->x[6] : NULL,
                                    .skip = scale ? c->c[0] : NULL,
                                    .w_per_head = c->spec->x[0].width == d[0],
                                    .H = d[0],
                                    .V = d[1],
                                    .K = d[2],
                                    .k_heads = d[3],
                                    .state = c->state };

    c->ops->matrix_state(c->q, c->in, &p);
}

/* The decay and the delta term (K |a| |b| <= 1/4) together contract, so that |S| stays below
 * about 1 / (1 - 0.95) of a step's |v k|, and far below on average. */
static struct spec matrix_state_of(int H, int k_heads, int V, int K)
{
    const int delta = check_int(0, 1), per_head = check_int(0, 1);
    const float small = 0.5f / (float)(K > 64 ? 12 : K > 16 ? 8 : K > 8 ? 4 : 3);

    return (struct spec){ .name = "matrix_state",
                          .x = { { per_head ? H : H * K, 0.5f, 0.7f, 0 },
                                 { H * K, -small, small, 0 },
                                 { H * K, -small, small, 0 },
                                 { k_heads * K, -1, 1, 0 },
                                 { k_heads * K, -1, 1, 0 },
                                 { H * V, -1, 1, 0 },
                                 { per_head ? H : H * K, 0, 1, 0 } },
                          .y = { { H * V, 0, 1, 1.0 * K } },
                          .c = { { H, -1, 1, 0 } },
                          .state = { H * V * K, -1, 1, 4 },
                          .terms = K,
                          .d = { H, V, K, k_heads, delta, check_int(0, 1) },
                          .run = run_matrix_state };
}

static struct spec any_matrix_state(void)
{
    const int sizes[][2] = { { 64, 64 }, { 64, 128 }, { 24, 32 }, { 7, 64 },
                             { 16, 16 }, { 20, 8 },   { 7, 5 },   { 64, 40 } };
    const int *VK = sizes[check_int(0, 7)], k_heads = check_int(1, 2);

    return matrix_state_of(k_heads * check_int(1, 3), k_heads, VK[0], VK[1]);
}

static void run_head_output(const struct call *c)
{
    const struct head_output p = { .y = c->y[0],
                                   .r = c->x[0],
                                   .k = c->x[1],
                                   .v = c->x[2],
                                   .g = c->x[3],
                                   .r_k = c->c[0],
                                   .weight = c->c[1],
                                   .bias = c->c[2],
                                   .T = c->in->T,
                                   .H = c->spec->d[0],
                                   .V = c->spec->d[1],
                                   .eps = 64e-5f };

    c->ops->head_output(c->q, &p);
}

static struct spec any_head_output(void)
{
    const int H = check_int(1, 4), V = check_int(0, 1) ? 64 : check_int(8, 70), D = H * V;

    return (
        struct spec){ .name = "head_output",
                      .x = { { D, -1, 1, 0 }, { D, -1, 1, 0 }, { D, -1, 1, 0 }, { D, -1, 1, 0 } },
                      .y = { { D, -2, 2, 8 + V / 4.0 } },
                      .c = { { D, -1, 1, 0 }, { D, -1, 1, 0 }, { D, -1, 1, 0 } },
                      .terms = V,
                      .tight_x = true,
                      .tight_y = true,
                      .d = { H, V },
                      .run = run_head_output };
}

static struct spec (*const any[])(void) = {
    any_norm,          any_gated_norm,  any_lerp,        any_token_shift,  any_short_conv,
    any_diagonal_scan, any_decay_gates, any_delta_gates, any_matrix_state, any_head_output,
};

enum { OPS = sizeof(any) / sizeof(any[0]) };

/* An operation laid out in memory with a ragged batch. */
struct world {
    struct spec spec;
    struct batch in;
    int begin[6], slot[5], slots, longest;
    struct call call; /* inputs, and outputs and state as they are before */
    size_t y_floats[ARRAYS], record, state_floats;
};

/* Floats between two rows of `width`: odd by itself, or so that every row begins at a multiple
 * of 16 bytes, as vectors need it and models lay it out. */
static size_t row_distance(int width, int gap, bool aligned)
{
    return aligned ? (size_t)(width + 3) / 4 * 4 + 4 : (size_t)(width + gap);
}

static struct world make_world(struct spec spec)
{
    const bool aligned = check_int(0, 1);
    /* Where a state is kept, long sequences may go another way. */
    const bool long_one = spec.state.width > 0 && check_int(0, 3) == 0;
    struct world w = { .spec = spec, .record = row_distance(spec.state.width, 7, aligned) };
    struct call *c = &w.call;
    int T;

    w.in.S = spec.decode ? 5 : check_int(1, 5);
    w.slots = w.in.S + 2;
    for (int s = 0; s < w.in.S; s++) {
        w.slot[s] = (s * 3 + 1) % w.slots; /* distinct, as 3 does not divide what follows */
        const int most = check_int(0, 1) ? 1 : s == 0 && long_one ? LONG_MAX : T_MAX;
        const int rows = spec.decode ? 1 : check_int(0, most);

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

    for (int i = 0; i < ARRAYS; i++)
        r.y[i] = copy_of(w->call.y[i], w->y_floats[i]);
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
    }
    return c;
}

/* The rows of the batch `in`, whose row 0 is the world's row `first`. */
static void run_part(struct call c, struct backend *be, int first, const struct batch *in)
{
    for (int i = 0; i < ARRAYS; i++) {
        c.x[i] += (size_t)first * c.x_ld[i];
        c.y[i] += (size_t)first * c.y_ld[i];
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
        for (int k = 0; k < 40 * OPS; k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct world w = make_world(any[k % OPS]());
                const struct result a = run_whole(&w, be), b = run_whole(&w, plain);

                check_near(&w, &a, &b);
            }
            check_release(NULL);
        }
    }
}

/* Enough of it for a device that takes several rows a thread only when it is full. */
static void a_wide_decode_step_computes_what_is_defined(void **state)
{
    (void)state;
    for (int i = 1; check_backends[i]; i++) {
        for (int k = 0; k < 5; k++) {
            struct backend *plain = check_backend("plain", 1),
                           *be = check_backend(check_backends[i], 1);
            struct spec spec = k == 0 ? diagonal_scan_of(1 << 17, 16)
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

static void batching_and_chunking_are_invisible(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 15 * OPS; k++) {
            struct backend *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct world w = make_world(any[k % OPS]());
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
        for (int k = 0; k < 6 * OPS; k++) {
            struct backend *one = check_backend(check_backends[i], 1);
            struct backend *three = check_backend(check_backends[i], 3);

            if (one && check_is_exact(one)) {
                const struct world w = make_world(any[k % OPS]());
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
        for (int k = 0; k < 6 * OPS; k++) {
            struct backend *be = check_backend(check_backends[i], 1);

            if (be) {
                const struct world w = make_world(any[k % OPS]());
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
        cmocka_unit_test_teardown(a_wide_decode_step_computes_what_is_defined, check_release),
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
