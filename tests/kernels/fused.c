/* fused.c - see fused.h. */
#include "fused.h"

#include <math.h>
#include <string.h>

#include "check.h"
#include "config/error.h"

struct layout make_layout(int S, enum shape shape)
{
    struct layout l = { .slots = S + EXTRA, .in = { .S = S } };
    const int one = check_int(0, S - 1), ones = check_int(1, S);

    for (int s = 0; s < S; s++) {
        const int rows = shape == ONE_EACH ? 1
                         : shape == RAGGED ? check_int(0, 3)
                         : shape == LONG   ? check_int(0, s ? 3 : LONG_MAX)
                         : shape == BESIDE ? s < ones     ? 1
                                             : s == S - 1 ? check_int(2, LONG_MAX)
                                                          : check_int(0, 3)
                         : s == one ? S
                                           : 0;

        l.slot[s] = S + EXTRA - 1 - s;
        l.begin[s + 1] = l.begin[s] + rows;
        l.longest = rows > l.longest ? rows : l.longest;
    }
    for (int s = S - 1; s > 0; s--) {
        const int other = check_int(0, s), slot = l.slot[s];

        l.slot[s] = l.slot[other];
        l.slot[other] = slot;
    }
    l.begin[S] += l.begin[S] == 0;
    l.in.T = l.begin[S];
    return l;
}

/* The batch with one more sequence of one row and no slot. */
static struct batch padded(const struct layout *l, struct layout *with)
{
    *with = *l;
    with->in.begin = with->begin;
    with->in.slot = with->slot;
    with->slot[l->in.S] = SLOT_NONE;
    with->begin[l->in.S + 1] = l->in.T + 1;
    with->in.S++;
    with->in.T++;
    return with->in;
}

struct rows make_rows(int T, int width, bool aligned, double lo, double hi)
{
    struct rows r = { .ld = aligned ? (size_t)(width + 7) / 8 * 8 + 8 : (size_t)width + 3 };

    r.n = (size_t)(T + 1) * r.ld;
    r.x = check_floats(r.n, lo, hi);
    return r;
}

const float *show(struct backend *be, const struct rows *r)
{
    return check_show(be, r->x, r->n * sizeof(float));
}

float *copy_of(const float *x, size_t n)
{
    float *copy = check_memory(n * sizeof(*copy));

    memcpy(copy, x, n * sizeof(*copy));
    return copy;
}

struct states make_states(size_t record, int slots, bool narrow)
{
    struct states s = { .n = record * (size_t)slots, .record = record };

    s.x = check_floats(s.n, -1, 1);
    if (!narrow)
        return s;
    s.narrow = check_memory(s.n * sizeof(*s.narrow));
    for (size_t i = 0; i < s.n; i++)
        s.x[i] = bf16_to_f32(s.narrow[i] = f32_to_bf16(s.x[i]));
    return s;
}

struct states copy_of_states(const struct states *s)
{
    struct states copy = { .x = copy_of(s->x, s->n), .n = s->n, .record = s->record };

    if (s->narrow)
        copy.narrow =
            memcpy(check_memory(s->n * sizeof(*s->narrow)), s->narrow, s->n * sizeof(*s->narrow));
    return copy;
}

struct field lend_states(struct backend *be, const struct states *s)
{
    struct field f = { .stride = s->record, .place = 4096 };

    if (s->narrow)
        f.bf16 = check_lend(be, s->narrow, s->n * sizeof(*s->narrow));
    else
        f.base = check_lend(be, s->x, s->n * sizeof(*s->x));
    return f;
}

void check_states(const char *what, const struct states *got, const struct states *want,
                  double tolerance)
{
    size_t other = 0;

    for (size_t i = 0; i < got->n; i++) {
        const double a = (double)(got->narrow ? bf16_to_f32(got->narrow[i]) : got->x[i]);
        const double b = (double)(got->narrow ? bf16_to_f32(want->narrow[i]) : want->x[i]);
        const double step = got->narrow ? 0x1p-7 * fabs(b) : 0;

        if (!(fabs(a - b) <= tolerance + step))
            fail_msg("%s: [%zu] is %.9g and %.9g, tolerance %.3g", what, i, a, b, tolerance + step);
        other += a != b;
    }
    if (got->narrow && other > 20 + got->n / 20)
        fail_msg("%s: %zu of %zu numbers are other neighbours", what, other, got->n);
}

void run_on(struct backend *be, const struct layout *l,
            void (*run)(struct backend *be, const struct batch *in, void *arg), void *arg)
{
    struct layout with;
    struct batch in = l->in;

    in.begin = l->begin;
    in.slot = l->slot;
    if (strcmp(be->name, "cuda") == 0 && check_int(0, 1))
        in = padded(l, &with);
    run(be, check_begin(be, &in), arg);
    check_end(be);
    check_return(be);
}

struct matrix pack(struct backend *be, enum dtype dtype, int rows, int cols, const float *w)
{
    const size_t n = (size_t)rows * (size_t)cols;
    uint16_t *half = check_memory(n * sizeof(*half));
    struct matrix m;
    struct error err;

    for (size_t i = 0; i < n; i++)
        half[i] = f32_to_bf16(w[i]);
    assert_true(be->pack_matrix(be, &m, dtype, rows, cols,
                                dtype == DTYPE_F32 ? (const void *)w : half, &err));
    return m;
}

float *make_weights(int rows, int cols)
{
    const size_t n = (size_t)rows * (size_t)cols;
    float *w = check_floats(n, -0.1, 0.1);

    for (size_t i = 0; i < n; i++)
        w[i] = bf16_to_f32(f32_to_bf16(w[i]));
    return w;
}
