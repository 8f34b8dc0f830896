/* test_state_log.c - a backend that keeps the last steps of a state in a log computes what it would
 * without, to the last bit: rows of sequences that decode, prompts among them, and states once
 * their logs have come into them. */
#include "check.h"

#include <string.h>

#include "config/dtype.h"
#include "config/error.h"

enum { SLOTS = 48, LAYERS = 2, STEPS = 14, INPUTS = 7, OUTPUTS = 6, LONG = 150, ROWS_MAX = 600 };

enum op { MATRIX, SCALAR, DELTA, SCAN, DT_SCAN, OPS };

/* An operation and its sizes. */
struct kind {
    enum op op;
    struct state_log log; /* its sizes */
    bool wide;            /* as a model is: on a GPU a block has several sequences then */
    int width;            /* of a row of outputs */
    size_t numbers;       /* of a state */
    float *c[5];          /* constants of each column */
    float *A;             /* [LAYERS, dim, N], rates of diagonal states */
    int rank;             /* of the step sizes */
    uint16_t *W;          /* [width, rank], bf16 */
};

/* A batch, and the rows that it brings. */
struct turn {
    struct batch in;
    int begin[SLOTS + 1], slot[SLOTS], logged[SLOTS];
    float *x[INPUTS], *y[OUTPUTS];
    size_t row; /* numbers of one in each array */
};

/* Slots with a state and a log of each layer, and how many steps are in the logs of each. */
struct pool {
    float *memory;
    const float *A, **rates; /* of diagonal states, and the list of its layers */
    bool logs;
    int logged[SLOTS];
};

/* From one layer to the next, and from one slot to the next. */
static size_t state_distance(const struct kind *k)
{
    return (k->numbers + 15) / 16 * 16;
}

static size_t slot_distance(const struct kind *k)
{
    return LAYERS * (state_distance(k) + k->log.log_distance);
}

static struct field field_of(const struct kind *k, const struct pool *p, int layer)
{
    float *const logs = p->memory + LAYERS * state_distance(k);

    return (struct field){
        .base = p->memory + (size_t)layer * state_distance(k),
        .stride = slot_distance(k),
        .log = p->logs ? logs + (size_t)layer * k->log.log_distance : NULL,
    };
}

static struct kind any_scan(enum op op, bool wide)
{
    const int dim = wide ? 4096 : 32 * check_int(1, 6), rank = 8 * check_int(1, 20);
    struct kind k = { .op = op,
                      .log = { .dim = dim, .N = 16, .layers = LAYERS },
                      .wide = wide,
                      .width = dim,
                      .numbers = (size_t)dim * 16,
                      .A = check_floats((size_t)dim * 16 * LAYERS, -3, -0.1),
                      .rank = rank,
                      .W = check_memory((size_t)(dim * rank) * sizeof(*k.W)) };

    for (int i = 0; i < dim * rank; i++)
        k.W[i] = f32_to_bf16((float)check_uniform(-0.5, 0.5));
    k.c[0] = check_floats((size_t)dim, -1, 1);
    return k;
}

static struct kind any_matrix(enum op op, bool wide)
{
    const int k_heads = check_int(1, 2), H = wide ? 32 : k_heads * check_int(1, 3);
    const int V[] = { 64, 128, 60, 4 };
    struct kind k = { .op = op,
                      .wide = wide,
                      .log = { .H = H,
                               .V = op == MATRIX ? V[check_int(0, 3)] : 64,
                               .K = op == DELTA || check_int(0, 1) ? 64 : 128,
                               .k_heads = op == DELTA ? H : k_heads,
                               .layers = LAYERS } };

    k.log.delta = op == DELTA || (op == MATRIX && check_int(0, 1));
    k.log.w_per_head = !k.log.delta;
    k.width = H * k.log.V;
    k.numbers = (size_t)(H * k.log.V * k.log.K);
    for (int i = 0; i < 5; i++)
        k.c[i] = check_floats((size_t)(H * 128), i == 1 ? -0.9 : 0.1, i == 1 ? -0.1 : 0.9);
    return k;
}

/* Sequences that all have one row, or prompts among them. */
static struct turn any_turn(const struct kind *k, bool decode)
{
    const int last = SLOTS - 1, first = check_int(0, last), step = check_int(0, 1) ? 5 : 7;
    const bool all = decode && (k->wide || check_int(0, 1));
    const int ones = check_int(0, 1) ? check_int(0, 12) : 0;
    struct turn t = { .in = { .S = k->wide && all ? SLOTS : check_int(1, all ? SLOTS : 12) },
                      .row = (size_t)(k->log.dim ? k->log.dim + 160 : k->log.H * 128) };

    for (int s = 0; s < t.in.S; s++) {
        const int most = k->wide || check_int(0, 3) ? 9 : LONG;
        const int left = ROWS_MAX - t.begin[s] - (t.in.S - s), several = check_int(0, most);
        const int rows = decode || s < ones || check_int(0, 1) ? 1
                         : several < left                      ? several
                                                               : left;

        t.slot[s] = (first + s * step) % SLOTS;
        t.begin[s + 1] = t.begin[s] + rows;
    }
    t.in.T = t.begin[t.in.S];
    for (int i = 0; i < INPUTS; i++)
        t.x[i] = check_floats((size_t)t.in.T * t.row, i == 0 ? 0.4 : -0.15, i == 0 ? 0.7 : 0.15);
    for (int i = 0; i < OUTPUTS; i++)
        t.y[i] = check_floats((size_t)t.in.T * t.row, -0.15, 0.15);
    return t;
}

static struct matrix_state matrix_state_of(const struct kind *k, const float *x[INPUTS],
                                           float *y[OUTPUTS], struct field state)
{
    const struct state_log *l = &k->log;

    return (struct matrix_state){ .y = y[0],
                                  .w = x[0],
                                  .a = l->delta ? x[1] : NULL,
                                  .b = l->delta ? x[2] : NULL,
                                  .k = x[3],
                                  .q = x[4],
                                  .v = x[5],
                                  .y_ld = (size_t)(l->H * l->V),
                                  .w_ld = (size_t)(l->w_per_head ? l->H : l->H * l->K),
                                  .ab_ld = (size_t)(l->H * l->K),
                                  .kq_ld = (size_t)(l->k_heads * l->K),
                                  .v_ld = (size_t)(l->H * l->V),
                                  .v_scale = l->w_per_head ? x[6] : NULL,
                                  .w_per_head = l->w_per_head,
                                  .H = l->H,
                                  .V = l->V,
                                  .K = l->K,
                                  .k_heads = l->k_heads,
                                  .state = state };
}

static void run_scalar(const struct kind *k, struct backend *be, const struct batch *in,
                       struct matrix_state p, float *const *y, const float *const *c)
{
    const struct decay_gates gates = { .dt = y[1],
                                       .decay = y[2],
                                       .raw = p.w,
                                       .raw_ld = p.w_ld,
                                       .bias = c[0],
                                       .A = c[1],
                                       .T = in->T,
                                       .H = k->log.H,
                                       .lo = 0,
                                       .hi = 10 };

    p.w = gates.decay;
    p.v_scale = gates.dt;
    p.skip = c[2];
    be->ops->scalar_state(be->stream, in, &(struct scalar_state){ .gates = gates, .state = p });
}

static void run_delta(const struct kind *k, struct backend *be, const struct batch *in,
                      struct matrix_state p, float *const *y, const float *const *c)
{
    const int H = k->log.H, K = k->log.K;
    const struct delta_gates gates = { .decay = y[3],
                                       .a_out = y[4],
                                       .b = y[5],
                                       .k = y[1],
                                       .w = p.w,
                                       .a = p.a,
                                       .k_k = c[0],
                                       .k_a = c[1],
                                       .T = in->T,
                                       .H = H,
                                       .K = K };
    const struct lerp blend = { .y = y[2], .target = p.k, .mix = p.b, .n = (size_t)in->T * p.v_ld };

    const float *const g = p.v;

    p.w = gates.decay;
    p.a = gates.a_out;
    p.b = gates.b;
    p.k = gates.k;
    p.v = blend.y;
    be->ops->delta_state(be->stream, in,
                         &(struct delta_state){ .v = blend,
                                                .gates = gates,
                                                .state = p,
                                                .out = { .y = p.y,
                                                         .r = p.q,
                                                         .k = p.k,
                                                         .v = p.v,
                                                         .g = g,
                                                         .r_k = c[2],
                                                         .weight = c[3],
                                                         .bias = c[4],
                                                         .T = in->T,
                                                         .H = H,
                                                         .V = K,
                                                         .eps = 64e-5f } });
}

static struct diagonal_scan scan_of(const struct kind *k, struct backend *be,
                                    const float *x[INPUTS], float *y[OUTPUTS], struct field state,
                                    int layer)
{
    const size_t dim = (size_t)k->log.dim;

    return (struct diagonal_scan){
        .y = y[0],
        .x = x[1],
        .dt = x[0],
        .z = x[2],
        .B = x[3],
        .C = x[4],
        .y_ld = dim,
        .x_ld = dim,
        .dt_ld = dim,
        .z_ld = dim,
        .bc_ld = 16,
        .A = check_show(be, k->A + (size_t)layer * dim * 16, dim * 16 * sizeof(float)),
        .D = check_show(be, k->c[0], dim * sizeof(float)),
        .dim = k->log.dim,
        .N = 16,
        .state = state,
    };
}

static void run_dt_scan(const struct kind *k, struct backend *be, const struct batch *in,
                        struct diagonal_scan scan, const float *r, float *dt)
{
    struct matrix W;
    struct error err;

    assert_true(be->pack_matrix(be, &W, DTYPE_BF16, k->log.dim, k->rank, k->W, &err));
    scan.dt = dt;
    be->ops->dt_scan(be->stream, in,
                     &(struct dt_scan){ .dt = { .y = dt,
                                                .x = r,
                                                .y_ld = scan.dt_ld,
                                                .x_ld = (size_t)k->rank,
                                                .w = &W,
                                                .act = ACT_SOFTPLUS,
                                                .T = in->T },
                                        .scan = scan });
    assert_true(be->sync(be, &err));
    be->free(be, W.data);
}

/* The operation on a layer of a pool; returns its outputs. */
static float *run(const struct kind *k, struct backend *be, const struct turn *t,
                  const struct pool *pool, int layer)
{
    const size_t bytes = (size_t)t->in.T * t->row * sizeof(float);
    const struct field state = field_of(k, pool, layer);
    struct batch in = t->in;
    const float *x[INPUTS], *c[5];
    float *own[OUTPUTS], *y[OUTPUTS];
    struct matrix_state p;
    struct diagonal_scan scan;
    const struct batch *at;

    for (int i = 0; i < INPUTS; i++)
        x[i] = check_show(be, t->x[i], bytes);
    for (int i = 0; i < 5; i++)
        c[i] =
            k->log.dim ? NULL : check_show(be, k->c[i], (size_t)(k->log.H * 128) * sizeof(float));
    for (int i = 0; i < OUTPUTS; i++) {
        own[i] = memcpy(check_memory(bytes), t->y[i], bytes);
        y[i] = check_lend(be, own[i], bytes);
    }
    in.begin = t->begin;
    in.slot = t->slot;
    in.logged = pool->logs ? t->logged : NULL;
    if (k->log.dim)
        scan = scan_of(k, be, x, y, state, layer);
    at = check_begin(be, &in);
    p = matrix_state_of(k, x, y, state);
    if (k->op == MATRIX)
        be->ops->matrix_state(be->stream, at, &p);
    else if (k->op == SCALAR)
        run_scalar(k, be, at, p, y, c);
    else if (k->op == DELTA)
        run_delta(k, be, at, p, y, c);
    else if (k->op == SCAN)
        be->ops->diagonal_scan(be->stream, at, &scan);
    else
        run_dt_scan(k, be, at, scan, x[5], y[1]);
    check_end(be);
    check_return(be);
    return own[0];
}

static void settle(const struct kind *k, struct backend *be, struct pool *p, int slot)
{
    struct state_log log = k->log;

    log.state = field_of(k, p, 0);
    log.state_distance = state_distance(k);
    log.A = p->rates;
    if (p->logged[slot])
        assert_true(be->moved(be, be->settle(be, &log, slot, p->logged[slot]), true));
    p->logged[slot] = 0;
}

/* What the operation leaves in the logs. */
static void count(struct backend *be, struct pool *p, const struct turn *t)
{
    for (int s = 0; s < t->in.S; s++) {
        const int rows = t->begin[s + 1] - t->begin[s];
        int *n = &p->logged[t->slot[s]];

        *n = rows == 0 ? *n : rows == 1 ? (*n + 1) % be->log_steps : 0;
    }
}

static float *slots_of(const struct kind *k, struct backend *be, const struct pool *p)
{
    const size_t bytes = SLOTS * slot_distance(k) * sizeof(float);
    float *all = check_memory(bytes);

    be->download(be, all, p->memory, bytes);
    return all;
}

static void lend_rates(struct backend *be, const struct kind *k, struct pool *p)
{
    const size_t bytes = LAYERS * k->numbers * sizeof(float);
    const float *of[LAYERS];

    p->A = be->alloc(be, bytes);
    p->rates = be->alloc(be, sizeof(of));
    assert_true(p->A && p->rates);
    for (int l = 0; l < LAYERS; l++)
        of[l] = p->A + (size_t)l * k->numbers;
    be->upload(be, (void *)p->A, k->A, bytes);
    be->upload(be, p->rates, of, sizeof(of));
}

static struct pool make_pool(struct backend *be, const struct kind *k, const float *first,
                             bool logs)
{
    const size_t bytes = SLOTS * slot_distance(k) * sizeof(float);
    struct pool p = { .memory = be->alloc(be, bytes), .logs = logs };

    assert_non_null(p.memory);
    be->upload(be, p.memory, first, bytes);
    if (k->A)
        lend_rates(be, k, &p);
    return p;
}

static void free_pool(struct backend *be, struct pool *p)
{
    be->free(be, p->memory);
    be->free(be, (void *)p->A);
    be->free(be, p->rates);
}

static void check_turn(struct backend *be, const struct kind *k, const struct pool *plain,
                       struct pool *logs)
{
    struct turn t = any_turn(k, check_int(0, 3) > 0);

    for (int s = 0; s < t.in.S; s++)
        t.logged[s] = logs->logged[t.slot[s]];
    for (int l = 0; l < LAYERS; l++) {
        const float *want = run(k, be, &t, plain, l), *got = run(k, be, &t, logs, l);

        check_equal("the rows", got, want, (size_t)t.in.T * (size_t)k->width);
    }
    count(be, logs, &t);
    settle(k, be, logs, check_int(0, SLOTS - 1));
}

static void check_kind(struct backend *be, struct kind *k)
{
    k->log.log_distance = be->log_numbers(be, &k->log);
    assert_true(k->log.log_distance > 0);

    const size_t distance = slot_distance(k), states = LAYERS * state_distance(k);
    const float *first = check_floats(SLOTS * distance, -1, 1), *want, *got;
    struct pool plain = make_pool(be, k, first, false), logs = make_pool(be, k, first, true);

    for (int i = 0; i < (k->wide ? STEPS / 2 : STEPS); i++)
        check_turn(be, k, &plain, &logs);
    for (int slot = 0; slot < SLOTS; slot++)
        settle(k, be, &logs, slot);
    want = slots_of(k, be, &plain);
    got = slots_of(k, be, &logs);
    for (int slot = 0; slot < SLOTS; slot++)
        check_equal("the states", got + (size_t)slot * distance, want + (size_t)slot * distance,
                    states);
    free_pool(be, &plain);
    free_pool(be, &logs);
}

static void a_log_is_invisible(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int n = 0; n < 40; n++) {
            const enum op op = (enum op)(n % OPS);
            struct backend *be = check_backend(check_backends[i], 1);
            const bool wide = n >= 35;
            struct kind k = op < SCAN ? any_matrix(op, wide) : any_scan(op, wide);

            if (be && be->log_steps > 1)
                check_kind(be, &k);
            check_release(NULL);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_log_is_invisible, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
