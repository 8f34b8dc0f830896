/* test_states.c - states that are kept as bf16: a backend of the CPU rounds what it computes in
 * float32, to the last bit as rounding.h says; a GPU does so wherever its sums are as good. */
#include "check.h"

#include <math.h>
#include <string.h>

#include "config/dtype.h"
#include "kernels/rounding.h"
#include "op_specs.h"

enum { S_MAX = 5, SLOTS = 8, T_MAX = 24, LONG = 300 };

/* One operation and a ragged batch; `at` are the states, numbers of bf16. */
struct world {
    struct spec spec;
    struct call call;
    struct batch in;
    int begin[S_MAX + 1], slot[S_MAX];
    uint32_t position[S_MAX], place;
    int32_t token[S_MAX];
    uint16_t *at;
    size_t record, y_floats[ARRAYS];
};

struct result {
    float *y[ARRAYS], *f32; /* f32: the states, kept so or widened */
    uint16_t *bf16;
};

static void *copy_of(const void *x, size_t bytes)
{
    return memcpy(check_memory(bytes), x, bytes);
}

static float *widened(const uint16_t *x, size_t n)
{
    float *y = check_memory(n * sizeof(*y));

    for (size_t i = 0; i < n; i++)
        y[i] = bf16_to_f32(x[i]);
    return y;
}

static struct spec any_state(int k)
{
    const int sizes[] = { 16, 16, 16, 8, 5, 37 };

    switch (k % 4) {
    case 0:
        return diagonal_scan_of(check_int(1, 100), sizes[check_int(0, 5)]);
    case 1:
        return delta_state_of(check_int(1, 5), check_int(0, 3) ? 64 : check_int(32, 70));
    case 2:
        return matrix_state_of(check_int(1, 3), 1, check_int(1, 70), check_int(0, 1) ? 64 : 128);
    default:
        return matrix_state_of(2, 2, check_int(1, 70), check_int(1, 70));
    }
}

static size_t row_distance(int width, bool tight, bool aligned)
{
    return (size_t)(tight ? width : aligned ? (width + 3) / 4 * 4 : width + 3);
}

static struct world make_world(struct spec spec)
{
    const bool aligned = check_int(0, 3) > 0, long_one = check_int(0, 3) == 0 && !spec.decode;
    const int ones = check_int(0, 1) ? check_int(0, S_MAX - 1) : 0; /* as if they decoded */
    struct world w = { .spec = spec, .in = { .S = spec.decode ? S_MAX : check_int(1, S_MAX) } };
    struct call *c = &w.call;

    w.record = ((size_t)spec.state.width + 7) / 8 * 8 + (aligned ? 8 : 3);
    w.place = 4 * (uint32_t)check_int(0, 1 << 29);
    for (int s = 0; s < w.in.S; s++) {
        const int rows =
            spec.decode || s < ones ? 1 : check_int(s == 0, s == ones && long_one ? LONG : T_MAX);

        w.slot[s] = (3 * s + 1) % SLOTS;
        w.position[s] = (uint32_t)check_int(0, 1 << 30) * 4u;
        w.begin[s + 1] = w.begin[s] + rows;
    }
    w.in.T = w.begin[w.in.S];
    for (int i = 0; i < ARRAYS; i++) {
        const size_t T = (size_t)w.in.T;

        c->x_ld[i] = row_distance(spec.x[i].width, spec.tight_x, aligned);
        c->y_ld[i] = row_distance(spec.y[i].width, spec.tight_y, aligned);
        w.y_floats[i] = T * c->y_ld[i];
        c->x[i] = check_floats(T * c->x_ld[i], (double)spec.x[i].lo, (double)spec.x[i].hi);
        c->y[i] = check_floats(w.y_floats[i], (double)spec.y[i].lo, (double)spec.y[i].hi);
        c->c[i] = check_floats((size_t)spec.c[i].width, (double)spec.c[i].lo, (double)spec.c[i].hi);
    }
    w.at = check_memory(SLOTS * w.record * sizeof(*w.at));
    for (size_t i = 0; i < SLOTS * w.record; i++)
        w.at[i] = f32_to_bf16((float)check_uniform(-1, 1));
    return w;
}

static struct call lend(const struct world *w, struct backend *be, struct result *r, bool narrow)
{
    const size_t T = (size_t)w->in.T, size = sizeof(float), numbers = SLOTS * w->record;
    struct call c = w->call;

    r->f32 = widened(w->at, numbers);
    r->bf16 = copy_of(w->at, numbers * sizeof(*w->at));
    c.spec = &w->spec;
    c.ops = be->ops;
    c.q = be->stream;
    c.state = (struct field){ .stride = w->record, .place = w->place };
    if (narrow)
        c.state.bf16 = check_lend(be, r->bf16, numbers * sizeof(*r->bf16));
    else
        c.state.base = check_lend(be, r->f32, numbers * size);
    for (int i = 0; i < ARRAYS; i++) {
        r->y[i] = copy_of(w->call.y[i], w->y_floats[i] * size);
        c.x[i] = check_show(be, c.x[i], T * c.x_ld[i] * size);
        c.c[i] = check_show(be, c.c[i], (size_t)w->spec.c[i].width * size);
        c.y[i] = check_lend(be, r->y[i], w->y_floats[i] * size);
    }
    return c;
}

static void call_rows(struct call c, struct backend *be, int first, const struct batch *in)
{
    for (int i = 0; i < ARRAYS; i++) {
        c.x[i] += (size_t)first * c.x_ld[i];
        c.y[i] += (size_t)first * c.y_ld[i];
    }
    c.in = check_begin(be, in);
    c.spec->run(&c);
    check_end(be);
}

static struct batch batch_of(const struct world *w)
{
    struct batch in = w->in;

    in.begin = w->begin;
    in.slot = w->slot;
    in.position = w->position;
    return in;
}

static struct result run(const struct world *w, struct backend *be, bool narrow)
{
    const struct batch in = batch_of(w);
    struct result r;

    call_rows(lend(w, be, &r, narrow), be, 0, &in);
    check_return(be);
    if (narrow)
        r.f32 = widened(r.bf16, SLOTS * w->record);
    return r;
}

/* The slot's sequence, or -1. */
static int sequence_of(const struct world *w, int slot)
{
    for (int s = 0; s < w->in.S; s++)
        if (w->slot[s] == slot && w->begin[s + 1] > w->begin[s])
            return s;
    return -1;
}

static uint16_t rounded(const struct world *w, int s, size_t i, float x)
{
    const uint32_t rows = (uint32_t)(w->begin[s + 1] - w->begin[s]);
    const uint32_t place = w->place + (uint32_t)i;
    const uint32_t bits = rounding_bits(rounding_key(w->position[s] + rows), place / 2);

    return round_to_bf16(x, place % 2 ? bits >> 16 : bits & 0xffffu);
}

/* What is defined, of the state that the same call leaves in float32. */
static void round_states(const struct world *w, struct result *r)
{
    for (int slot = 0; slot < SLOTS; slot++) {
        const int s = sequence_of(w, slot);
        const size_t at = (size_t)slot * w->record;

        memcpy(r->bf16 + at, w->at + at, w->record * sizeof(*w->at));
        for (int i = 0; s >= 0 && i < w->spec.state.width; i++)
            r->bf16[at + (size_t)i] = rounded(w, s, (size_t)i, r->f32[at + (size_t)i]);
    }
}

static void a_cpu_rounds_what_it_computes_in_float32(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 160; k++) {
            struct backend *be = check_backend(check_backends[i], check_int(1, 3));
            struct spec spec = any_state(k);

            spec.decode = check_int(0, 1);
            if (be && check_is_exact(be)) {
                const struct world w = make_world(spec);
                struct result want = run(&w, be, false), got = run(&w, be, true);

                round_states(&w, &want);
                for (int y = 0; y < ARRAYS; y++)
                    check_equal(spec.name, got.y[y], want.y[y], w.y_floats[y]);
                assert_memory_equal(got.bf16, want.bf16, SLOTS * w.record * sizeof(*got.bf16));
            }
            check_release(NULL);
        }
    }
}

/* Sums in another order move a number by the tolerance, and that may be enough to round it to the
 * other neighbour, 2^-7 of it away at most: but rarely, if the random bits are the same. */
static void check_states(const struct world *w, const struct result *got, const struct result *want,
                         double tolerance)
{
    size_t all = 0, other = 0;

    for (int slot = 0; slot < SLOTS; slot++) {
        for (size_t i = 0; i < w->record; i++) {
            const size_t at = (size_t)slot * w->record + i;
            const float a = bf16_to_f32(got->bf16[at]), b = bf16_to_f32(want->bf16[at]);
            const bool own = sequence_of(w, slot) >= 0 && i < (size_t)w->spec.state.width;

            if (own ? !(fabs((double)a - (double)b) <= 0x1p-7 * fabs((double)b) + tolerance)
                    : got->bf16[at] != w->at[at])
                fail_msg("%s: number %zu of slot %d is %.9g, defined as %.9g", w->spec.name, i,
                         slot, (double)a, (double)b);
            all += own;
            other += own && a != b;
        }
    }
    if (all > 1000 && other > all / 50)
        fail_msg("%s: %zu of %zu numbers are other neighbours", w->spec.name, other, all);
}

static void a_gpu_rounds_by_the_same_bits(void **state)
{
    (void)state;
    for (int k = 0; k < 200; k++) {
        struct backend *plain = check_backend("plain", 1), *be = check_backend("cuda", 1);
        const bool wide = k % 10 == 9;
        struct spec spec =
            wide ? k % 20 == 9 ? delta_state_of(72, 64) : matrix_state_of(72, 72, 64, 128)
                 : any_state(k);

        spec.decode = wide || check_int(0, 1);
        if (be) {
            const struct world w = make_world(spec);
            const struct result want = run(&w, plain, true), got = run(&w, be, true);
            const double terms = spec.terms + 8.0 * (LONG + T_MAX);

            for (int y = 0; y < ARRAYS; y++)
                check_close(spec.name, got.y[y], want.y[y], w.y_floats[y],
                            check_tolerance(terms, spec.y[y].magnitude));
            check_states(&w, &got, &want, check_tolerance(terms, spec.state.magnitude));
        }
        check_release(NULL);
    }
}

/* Each sequence alone leaves what all leave together, for the same cut. */
static void batching_is_invisible(void **state)
{
    (void)state;
    for (int i = 0; check_backends[i]; i++) {
        for (int k = 0; k < 60; k++) {
            struct backend *be = check_backend(check_backends[i], 2);

            if (be && check_is_exact(be)) {
                const struct world w = make_world(any_state(k));
                const struct result together = run(&w, be, true);
                struct result alone;
                const struct call c = lend(&w, be, &alone, true);

                for (int s = 0; s < w.in.S; s++) {
                    const int begin[2] = { 0, w.begin[s + 1] - w.begin[s] };
                    const struct batch in = { .S = 1,
                                              .T = begin[1],
                                              .begin = begin,
                                              .slot = &w.slot[s],
                                              .position = &w.position[s] };

                    if (in.T)
                        call_rows(c, be, w.begin[s], &in);
                }
                check_return(be);
                for (int y = 0; y < ARRAYS; y++)
                    check_equal(w.spec.name, alone.y[y], together.y[y], w.y_floats[y]);
                assert_memory_equal(alone.bf16, together.bf16,
                                    SLOTS * w.record * sizeof(*alone.bf16));
            }
            check_release(NULL);
        }
    }
}

/* A fork's next step, and a prompt met again, are those of the origin; another position rounds
 * otherwise. */
static void equal_positions_round_alike_and_others_do_not(void **state)
{
    struct backend *be = check_backend("plain", 1);
    struct spec spec = diagonal_scan_of(64, 16);

    (void)state;
    spec.decode = true;

    struct world w = make_world(spec);
    const struct result a = run(&w, be, true), b = run(&w, be, true);
    const size_t bytes = SLOTS * w.record * sizeof(*a.bf16);

    assert_memory_equal(a.bf16, b.bf16, bytes);
    for (int s = 0; s < w.in.S; s++)
        w.position[s]++;
    assert_memory_not_equal(run(&w, be, true).bf16, a.bf16, bytes);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_cpu_rounds_what_it_computes_in_float32, check_release),
        cmocka_unit_test_teardown(a_gpu_rounds_by_the_same_bits, check_release),
        cmocka_unit_test_teardown(batching_is_invisible, check_release),
        cmocka_unit_test_teardown(equal_positions_round_alike_and_others_do_not, check_release),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
