/* test_sample.c - sampling against a brute-force reading of the contract: sort everything,
 * cut, normalise. Frequencies are held to a chi-square bound. */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "kernels/cpu/philox.h"

enum { VOCAB = 48, DRAWS = 6000 };

static const struct sample_row neutral = {
    .temperature = 1.0f, .top_p = 1.0f, .typical_p = 1.0f, .repetition = 1.0f, .forced = -1
};

/* Rows of logits that are `ld` apart: 0 for one that all share. */
static void sample_rows(struct backend *be, const float *logits, size_t ld, int vocab, int rows,
                        const struct sample_row *row, struct sample_result *out)
{
    const size_t floats = (size_t)(rows - 1) * ld + (size_t)vocab;

    memset(out, 0x5a, (size_t)rows * sizeof(*out));
    be->ops->sample(be->stream,
                    &(struct sample){ .logits = check_show(be, logits, floats * sizeof(*logits)),
                                      .ld = ld,
                                      .rows = rows,
                                      .vocab = vocab,
                                      .row = row,
                                      .out = out });
    check_return(be);
}

static struct sample_result sample_one(struct backend *be, const float *logits, int vocab,
                                       const struct sample_row *row)
{
    struct sample_result out;

    sample_rows(be, logits, 0, vocab, 1, row, &out);
    return out;
}

struct choice {
    int id;
    double p, key;
};

static int by_key(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;

    return x->key != y->key ? (x->key > y->key ? -1 : 1) : x->id - y->id;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct choice *)a)->id - ((const struct choice *)b)->id;
}

static void normalise(struct choice *c, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += c[i].p;
    for (int i = 0; i < n; i++)
        c[i].p /= sum;
}

/* How many of the sorted choices it takes to reach the mass. */
static int reach(const struct choice *c, int n, double mass)
{
    double sum = 0;

    for (int i = 0; i < n; i++) {
        sum += c[i].p;
        if (sum >= mass)
            return i + 1;
    }
    return n;
}

/* The contract, step by step, by sorting: the choices left and their probabilities. */
static int brute_force(const float *logits, int vocab, const struct sample_row *row,
                       struct choice *c)
{
    double *z = check_memory((size_t)vocab * sizeof(*z)), max = -INFINITY, entropy = 0;
    int n = 0;

    for (int i = 0; i < vocab; i++)
        z[i] = (double)logits[i];
    for (int i = 0; i < row->biases; i++)
        z[row->bias_id[i]] += (double)row->bias[i];
    for (int i = 0; i < row->seen; i++) {
        double *x = &z[row->seen_id[i]], weight = (double)row->seen_weight[i];

        *x = *x > 0 ? *x / (double)row->repetition : *x * (double)row->repetition;
        if (weight > 0)
            *x -= (double)row->presence + (double)row->frequency * weight;
    }
    for (int i = 0; i < row->banned_count; i++)
        z[row->banned[i]] = -INFINITY;
    for (int i = 0; i < vocab; i++)
        max = z[i] > max ? z[i] : max;
    for (int i = 0; i < vocab; i++)
        if (z[i] > -INFINITY)
            c[n++] = (struct choice){ .id = i, .p = exp((z[i] - max) / (double)row->temperature) };
    normalise(c, n);
    for (int i = 0; i < n; i++)
        c[i].key = c[i].p;
    qsort(c, (size_t)n, sizeof(*c), by_key);
    if (row->top_k > 0 && row->top_k < n)
        n = row->top_k;
    normalise(c, n);
    if (row->typical_p < 1) {
        for (int i = 0; i < n; i++)
            entropy -= c[i].p * log(c[i].p);
        for (int i = 0; i < n; i++)
            c[i].key = -fabs(-log(c[i].p) - entropy);
        qsort(c, (size_t)n, sizeof(*c), by_key);
        n = reach(c, n, (double)row->typical_p);
        normalise(c, n);
        for (int i = 0; i < n; i++)
            c[i].key = c[i].p;
        qsort(c, (size_t)n, sizeof(*c), by_key);
    }
    if (row->top_p < 1) {
        n = reach(c, n, (double)row->top_p);
        normalise(c, n);
    }
    while (n > 1 && c[n - 1].p < (double)row->min_p * c[0].p)
        n--;
    normalise(c, n);
    qsort(c, (size_t)n, sizeof(*c), by_id);
    return n;
}

/* Pearson's statistic has mean df and variance 2 df; six deviations and some are beyond
 * chance. Cells below 5 expected are put together. */
static void check_frequencies(const int *count, const struct choice *c, int n)
{
    double chi = 0, rest = 0, rest_seen = 0;
    int seen = 0, cells = 0;

    for (int i = 0; i < n; i++) {
        const double expected = c[i].p * DRAWS;

        seen += count[c[i].id];
        if (expected < 5) {
            rest += expected;
            rest_seen += count[c[i].id];
            continue;
        }
        chi += pow(count[c[i].id] - expected, 2) / expected;
        cells++;
    }
    assert_int_equal(seen, DRAWS); /* nothing was drawn that the filters exclude */
    if (rest >= 5) {
        chi += pow(rest_seen - rest, 2) / rest;
        cells++;
    }
    if (chi > cells + 7 * sqrt(2.0 * cells) + 10)
        fail_msg("chi-square %.1f over %d cells of %d choices", chi, cells, n);
}

static void check_row(struct backend *be, const float *logits, const struct sample_row *row)
{
    struct choice c[VOCAB];
    const int n = brute_force(logits, VOCAB, row, c);
    struct sample_row *rows = check_memory(DRAWS * sizeof(*rows));
    struct sample_result *out = check_memory(DRAWS * sizeof(*out));
    int count[VOCAB] = { 0 };

    for (int i = 0; i < DRAWS; i++) {
        rows[i] = *row;
        rows[i].position = (uint64_t)i;
    }
    sample_rows(be, logits, 0, VOCAB, DRAWS, rows, out);
    for (int i = 0; i < DRAWS; i++) {
        assert_true(out[i].finite);
        assert_in_range(out[i].token, 0, VOCAB - 1);
        count[out[i].token]++;
    }
    check_frequencies(count, c, n);
}

static void draws_follow_the_filtered_distribution(void **state)
{
    struct backend *be = check_backend_of(state);

    if (!be)
        return;
    for (int k = 0; k < 40; k++) {
        const float *logits = check_floats(VOCAB + 3, -4, 4);
        struct sample_row row = neutral;

        row.seed = (uint64_t)k * 0x123456789abcdefu;
        row.temperature = (float)check_uniform(0.4, 1.8);
        if (k & 1)
            row.top_k = check_int(1, VOCAB + 5);
        if (k & 2)
            row.top_p = (float)check_uniform(0.05, 0.99);
        if (k & 4)
            row.min_p = (float)check_uniform(0.01, 0.5);
        if (k & 8)
            row.typical_p = (float)check_uniform(0.1, 0.95);
        check_row(be, logits, &row);
    }
}

static void biases_penalties_and_bans_shape_the_distribution(void **state)
{
    struct backend *be = check_backend_of(state);

    if (!be)
        return;
    for (int k = 0; k < 12; k++) {
        const float *logits = check_floats(VOCAB + 3, -2, 2), *bias = check_floats(3, -3, 3);
        const float *weight = check_floats(4, -1, 3);
        const int32_t bias_id[] = { 7, 20, 21 }, seen[] = { 3, 7, 11, 40 }, banned[] = { 5, 20 };
        struct sample_row row = neutral;

        row.bias_id = bias_id;
        row.bias = bias;
        row.biases = 3;
        row.seen_id = seen;
        row.seen_weight = weight;
        row.seen = 4;
        row.banned = banned;
        row.banned_count = 2;
        row.repetition = (float)check_uniform(0.7, 1.6);
        row.presence = (float)check_uniform(-1, 1);
        row.frequency = (float)check_uniform(-1, 1);
        check_row(be, logits, &row);
    }
}

static void equal_candidates_are_cut_at_the_higher_ids(void **state)
{
    struct backend *be = check_backend_of(state);
    float logits[VOCAB + 3] = { 0 };
    struct sample_row row = neutral;

    if (!be)
        return;
    row.top_k = 5;
    for (row.position = 0; row.position < 200; row.position++)
        assert_in_range(sample_one(be, logits, VOCAB, &row).token, 0, 4);
    row.top_k = 0;
    row.top_p = 0.249f; /* of 48 equals: 12 */
    for (row.position = 0; row.position < 200; row.position++)
        assert_in_range(sample_one(be, logits, VOCAB, &row).token, 0, 11);
    row.top = 7;
    for (int i = 0; i < row.top; i++)
        assert_int_equal(sample_one(be, logits, VOCAB, &row).top_id[i], i);
}

static void greedy_takes_the_lowest_id_among_the_largest(void **state)
{
    struct backend *be = check_backend_of(state);
    float logits[VOCAB + 3] = { 0 };
    const int32_t banned[] = { 9 }, bias_id[] = { 30 };
    const float bias[] = { 3.0f };
    struct sample_row row = neutral;

    if (!be)
        return;
    row.temperature = 0.0f;
    logits[9] = logits[17] = logits[40] = 2.0f;
    assert_int_equal(sample_one(be, logits, VOCAB, &row).token, 9);
    row.banned = banned;
    row.banned_count = 1;
    assert_int_equal(sample_one(be, logits, VOCAB, &row).token, 17);
    row.bias_id = bias_id;
    row.bias = bias;
    row.biases = 1;
    assert_int_equal(sample_one(be, logits, VOCAB, &row).token, 30);
}

static void log_probabilities_are_those_of_the_raw_logits(void **state)
{
    struct backend *be = check_backend_of(state);

    if (!be)
        return;
    for (int k = 0; k < 50; k++) {
        const int vocab = check_int(1, 3000);
        float *logits = check_floats((size_t)vocab + 3, -20, 20);
        const int32_t banned[] = { vocab - 1, vocab, vocab + 2 };
        struct sample_row row = neutral;
        double sum = 0;

        row.top = check_int(0, SAMPLE_TOP_MAX);
        row.temperature = 0.7f;
        row.top_k = 3;
        row.banned = banned;
        row.banned_count = vocab > 1 ? 3 : 0;
        row.position = (uint64_t)k;
        logits[vocab] = 1000.0f; /* beyond the vocabulary: never looked at */
        logits[vocab / 2] = logits[vocab / 3];
        for (int i = 0; i < vocab; i++)
            sum += exp((double)logits[i]);

        const struct sample_result out = sample_one(be, logits, vocab, &row);

        /* An exp and a rounding to float32 of values up to 45. */
        assert_float_equal(out.logprob, (double)logits[out.token] - log(sum), 8 * 45 * 0x1p-24);
        for (int i = 0; i < row.top; i++) {
            if (i >= vocab) {
                assert_int_equal(out.top_id[i], -1);
                continue;
            }
            assert_float_equal(out.top_logprob[i], (double)logits[out.top_id[i]] - log(sum),
                               8 * 45 * 0x1p-24);
            if (i > 0) /* descending, equals by id */
                assert_true(logits[out.top_id[i - 1]] > logits[out.top_id[i]] ||
                            (logits[out.top_id[i - 1]] == logits[out.top_id[i]] &&
                             out.top_id[i - 1] < out.top_id[i]));
        }
        for (int i = 0; i < vocab && row.top > 0 && row.top <= vocab; i++) {
            const float least = logits[out.top_id[row.top - 1]];
            bool listed = false;

            for (int j = 0; j < row.top; j++)
                listed |= out.top_id[j] == i;
            assert_true(listed || logits[i] <= least);
        }
    }
}

static void a_forced_token_is_scored_and_not_drawn(void **state)
{
    struct backend *be = check_backend_of(state);
    const float *logits = check_floats(VOCAB + 3, -4, 4);
    struct sample_row row = neutral;
    double sum = 0;

    if (!be)
        return;
    row.temperature = 0.0f;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i]);
    for (row.forced = 0; row.forced < VOCAB; row.forced++) {
        const struct sample_result out = sample_one(be, logits, VOCAB, &row);

        assert_int_equal(out.token, row.forced);
        assert_float_equal(out.logprob, (double)logits[row.forced] - log(sum), 0x1p-18);
    }
}

static void a_row_without_a_distribution_says_so(void **state)
{
    struct backend *be = check_backend_of(state);
    float logits[VOCAB + 3] = { 0 };
    struct sample_row row = neutral;
    int32_t all[VOCAB];

    if (!be)
        return;
    logits[13] = NAN;
    assert_false(sample_one(be, logits, VOCAB, &row).finite);
    assert_int_equal(sample_one(be, logits, VOCAB, &row).token, -1);
    row.temperature = 0.0f;
    assert_false(sample_one(be, logits, VOCAB, &row).finite);
    logits[13] = INFINITY;
    assert_false(sample_one(be, logits, VOCAB, &row).finite);
    logits[13] = -INFINITY; /* one token ruled out by the model itself */
    assert_true(sample_one(be, logits, VOCAB, &row).finite);
    for (int i = 0; i < VOCAB; i++)
        logits[i] = -INFINITY;
    assert_false(sample_one(be, logits, VOCAB, &row).finite);
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = 0.0f;
        all[i] = i;
    }
    row.banned = all;
    row.banned_count = VOCAB; /* nothing may be drawn */
    assert_false(sample_one(be, logits, VOCAB, &row).finite);
}

/* Any of the filters, alone or with others. */
static struct sample_row random_filters(void)
{
    struct sample_row row = neutral;

    row.temperature = (float)check_uniform(0.5, 2);
    row.top_k = check_int(0, 1) ? 0 : check_int(1, check_int(0, 1) ? 40 : 2000);
    row.top_p = check_int(0, 1) ? 1.0f : (float)check_uniform(0.01, 0.999);
    row.min_p = check_int(0, 1) ? 0.0f : (float)check_uniform(0, 0.3);
    row.typical_p = check_int(0, 3) ? 1.0f : (float)check_uniform(0.1, 0.99);
    row.seed = (uint64_t)check_int(0, 1 << 30);
    return row;
}

/* Rows of every kind in one company: free, filtered, greedy and forced ones. */
static void a_draw_depends_on_seed_and_position_only(void **state)
{
    enum { ROWS = 40, LARGE = 5000 };
    struct sample_row row[ROWS];
    struct sample_result one[ROWS], many[ROWS];
    const float *logits = check_floats((size_t)ROWS * (LARGE + 3), -3, 3);
    int different = 0;

    (void)state;
    for (int i = 0; i < ROWS; i++) {
        row[i] = i % 4 ? random_filters() : neutral;
        row[i].seed = (uint64_t)check_int(0, 1 << 30);
        row[i].position = (uint64_t)check_int(0, 1 << 30);
    }
    row[1].temperature = 0.0f;
    row[2].forced = 7;
    row[3].top = 5;
    for (int isa = 0; check_backends[isa]; isa++) {
        struct backend *be = check_backend(check_backends[isa], 3);

        if (!be)
            continue;
        sample_rows(be, logits, LARGE + 3, LARGE, ROWS, row, many);
        for (int i = 0; i < ROWS; i++) {
            one[i] = sample_one(be, logits + (size_t)i * (LARGE + 3), LARGE, &row[i]);
            assert_int_equal(one[i].token, many[i].token);
            row[i].position++;
            different += sample_one(be, logits + (size_t)i * (LARGE + 3), LARGE, &row[i]).token !=
                         one[i].token;
            row[i].position--;
        }
        assert_true(different > ROWS / 2);
    }
}

/* The draw is where the sum over ascending ids passes the uniform number, but for roundings of
 * float32 exponentials. */
static void check_token(const struct choice *c, int n, int token, double uniform)
{
    double before = 0;
    int i = 0;

    for (; i < n && c[i].id != token; i++)
        before += c[i].p;
    assert_true(i < n);
    assert_true(before - 1e-5 <= uniform && uniform <= before + c[i].p + 1e-5);
}

/* Some are of all that a vocabulary has. */
static void a_long_row_is_cut_as_the_contract_says(void **state)
{
    enum { LONG = 6000, WHOLE = 100000, TIMES = 20 };
    struct choice *c = malloc(WHOLE * sizeof(*c));

    (void)state;
    for (int isa = 0; check_backends[isa]; isa++) {
        for (int k = 0; k < 40; k++) {
            struct backend *be = check_backend(check_backends[isa], 1);
            const bool whole = k % 8 == 7;
            const int vocab = whole ? check_int(WHOLE / 4, WHOLE) : check_int(1, LONG);
            const float *logits = check_floats((size_t)vocab, -20, check_int(0, 1) ? 0 : 8);
            struct sample_row row = whole ? neutral : random_filters();
            const int n = be ? brute_force(logits, vocab, &row, c) : 0;

            for (int i = 0; i < TIMES && be; i++) {
                row.position = (uint64_t)i;
                check_token(c, n, sample_one(be, logits, vocab, &row).token,
                            philox_uniform(row.seed, row.position));
            }
            check_release(NULL);
        }
    }
    free(c);
}

static void every_backend_chooses_and_scores_alike(void **state)
{
    enum { LARGE = 2500 };
    struct backend *plain = check_backend("plain", 1);

    (void)state;
    for (int isa = 1; check_backends[isa]; isa++) {
        struct backend *be = check_backend(check_backends[isa], 1);

        for (int k = 0; k < 60 && be; k++) {
            const int vocab = check_int(1, LARGE);
            float *logits = check_floats((size_t)vocab + 3, -9, 9);
            struct sample_row row = neutral;

            row.temperature = (float)check_int(0, 1);
            row.seed = (uint64_t)k;
            logits[check_int(0, vocab - 1)] = -INFINITY;
            logits[check_int(0, vocab - 1)] = logits[check_int(0, vocab - 1)] = 9.0f;

            const struct sample_result a = sample_one(be, logits, vocab, &row);
            const struct sample_result b = sample_one(plain, logits, vocab, &row);

            assert_true(a.finite && b.finite);
            assert_int_equal(a.token, b.token);
            assert_float_equal(a.logprob, b.logprob, 0x1p-17);
            logits[check_int(0, vocab - 1)] = check_int(0, 1) ? NAN : INFINITY;
            assert_false(sample_one(be, logits, vocab, &row).finite);
            for (int i = 0; i < vocab; i++)
                logits[i] = -INFINITY;
            assert_false(sample_one(be, logits, vocab, &row).finite);
        }
    }
}

static void enqueue_rows(struct backend *be, const float *logits, int vocab, int rows,
                         const struct sample_row *row, struct sample_result *out)
{
    memset(out, 0x5a, (size_t)rows * sizeof(*out));
    be->ops->sample(be->stream, &(struct sample){ .logits = logits,
                                                  .ld = (size_t)vocab,
                                                  .rows = rows,
                                                  .vocab = vocab,
                                                  .row = row,
                                                  .out = out });
}

static void check_alike(const struct sample_result *a, const struct sample_result *b, int rows)
{
    for (int i = 0; i < rows; i++) {
        assert_true(a[i].finite && b[i].finite);
        assert_int_equal(a[i].token, b[i].token);
        assert_memory_equal(&a[i].logprob, &b[i].logprob, sizeof(a[i].logprob));
    }
}

/* Rows of every kind, or none but greedy and forced ones. */
static void make_rows(struct sample_row *row, int rows, bool plain)
{
    for (int i = 0; i < rows; i++) {
        row[i] = plain || i % 3 == 0 ? neutral : random_filters();
        row[i].temperature = plain ? 0.0f : row[i].temperature;
        row[i].forced = i % 7 == 6 ? i % VOCAB : -1;
        row[i].seed = (uint64_t)i;
        row[i].position = (uint64_t)check_int(0, 1 << 30);
    }
}

/* Not even where the draw is one of them, and beside lists of other kinds. */
static void stop_ids_change_no_draw(void **state)
{
    enum { ROWS = 40, STOPS = 70 };
    struct backend *be = check_backend_of(state);
    const float *logits = check_floats((size_t)ROWS * VOCAB, -3, 3);
    const int32_t banned[] = { 3, 4 }, seen[] = { 1, 2, 40 };
    const float weight[] = { 1, 0, 2 };
    struct sample_row row[ROWS];
    struct sample_result without[ROWS], with[ROWS];
    int32_t stop[STOPS];

    if (!be)
        return;
    for (int i = 0; i < STOPS; i++)
        stop[i] = (i * 5) % VOCAB;
    for (int plain = 0; plain <= 1; plain++) {
        make_rows(row, ROWS, plain);
        for (int i = 0; i < ROWS && !plain; i += 5) {
            row[i].banned = banned;
            row[i].banned_count = 2;
            row[i].seen_id = seen;
            row[i].seen_weight = weight;
            row[i].seen = 3;
            row[i].presence = 0.5f;
        }
        sample_rows(be, logits, VOCAB, VOCAB, ROWS, row, without);
        for (int i = 0; i < ROWS; i++) {
            row[i].hold = stop;
            row[i].holds = i % 9 == 8 ? STOPS : i % 9;
        }
        sample_rows(be, logits, VOCAB, VOCAB, ROWS, row, with);
        check_alike(with, without, ROWS);
    }
}

/* Of other sizes, each larger than what the one before found room in, and of both kinds. */
static void many_samples_may_be_on_their_way(void **state)
{
    enum { MANY = 7, MOST = 300 };
    const int rows_of[MANY] = { 1, 40, 7, 300, 40, 299, 2 };
    struct backend *be = check_backend_of(state);
    const float *logits = check_floats((size_t)MOST * VOCAB, -3, 3), *there;
    struct sample_row *row = check_memory(MANY * MOST * sizeof(*row));
    struct sample_result *out = check_memory(MANY * MOST * sizeof(*out));
    struct sample_result *alone = check_memory(MOST * sizeof(*alone));

    if (!be)
        return;
    there = check_show(be, logits, (size_t)MOST * VOCAB * sizeof(*logits));
    for (int k = 0; k < MANY; k++) {
        make_rows(row + (size_t)k * MOST, MOST, k % 2);
        enqueue_rows(be, there, VOCAB, rows_of[k], row + (size_t)k * MOST, out + (size_t)k * MOST);
    }
    check_return(be);
    for (int k = 0; k < MANY; k++) {
        sample_rows(be, logits, VOCAB, VOCAB, rows_of[k], row + (size_t)k * MOST, alone);
        check_alike(out + (size_t)k * MOST, alone, rows_of[k]);
    }
}

static void results_are_there_when_a_mark_behind_them_was_waited_for(void **state)
{
    enum { ROUNDS = 12 };
    struct backend *be = check_backend_of(state);
    const float *logits = check_floats(VOCAB, -3, 3), *there;
    struct sample_result out[2], alone;
    uint64_t mark[2], last = 0;
    struct error err;

    if (!be)
        return;
    alone = sample_one(be, logits, VOCAB, &neutral);
    there = check_show(be, logits, VOCAB * sizeof(*logits));
    for (int k = 0; k < ROUNDS; k++) {
        const uint64_t before = be->mark(be);

        for (int i = 0; i < 2; i++) {
            enqueue_rows(be, there, VOCAB, 1, &neutral, &out[i]);
            mark[i] = be->mark(be);
            assert_true(mark[i] >= last);
            last = mark[i];
        }
        assert_true(be->wait(be, before, &err));
        if (be->follows)
            assert_int_equal(out[0].token, 0x5a5a5a5a);
        assert_true(be->wait(be, mark[0], &err));
        assert_false(be->busy(be, mark[0]));
        check_alike(&out[0], &alone, 1);
        if (be->follows)
            assert_int_equal(out[1].token, 0x5a5a5a5a);
        assert_true(be->wait(be, mark[1], &err));
        check_alike(&out[1], &alone, 1);
    }
    check_return(be);
}

/* Embeddings that are the tokens themselves. */
static struct matrix numbers_of_tokens(struct backend *be)
{
    float table[VOCAB];
    struct matrix m;
    struct error err;

    for (int i = 0; i < VOCAB; i++)
        table[i] = (float)i;
    assert_true(be->pack_matrix(be, &m, DTYPE_F32, VOCAB, 1, table, &err));
    return m;
}

/* Seen in the embeddings. A draw of a stop id is not taken in, and
 * the token 0 stands for it. */
static void a_batch_takes_in_what_was_drawn(void **state)
{
    enum { ROWS = 5 };
    struct backend *be = check_backend_of(state);
    const int begin[] = { 0, 1, 4, 5 }, slot[] = { 2, 0, 1 }, follows[] = { 3, -1, 1 };
    const int32_t token[ROWS] = { 1 << 30, 7, 8, 9, 1 << 30 }, stop[] = { 40, 31 };
    const struct batch in = {
        .S = 3, .T = ROWS, .token = token, .begin = begin, .slot = slot, .follows = follows
    };
    struct sample_row row[4] = { neutral, neutral, neutral, neutral };
    struct sample_result out[4];
    float *logits = check_floats(4 * VOCAB, -1, 1), x[ROWS];
    struct matrix m;

    if (!be || !be->follows)
        return;
    m = numbers_of_tokens(be);
    for (int i = 0; i < 4; i++) {
        logits[i * VOCAB + 30 + i] = 5;
        row[i].temperature = 0;
        row[i].hold = stop;
        row[i].holds = 2;
    }
    enqueue_rows(be, check_show(be, logits, 4 * VOCAB * sizeof(*logits)), VOCAB, 4, row, out);
    be->ops->embed(be->stream, check_begin(be, &in), check_lend(be, x, sizeof(x)), &m);
    check_end(be);
    check_return(be);
    for (int i = 0; i < 4; i++)
        assert_int_equal(out[i].token, 30 + i);
    check_equal("followed", x, (const float[]){ 33, 7, 8, 9, 0 }, ROWS);
    be->free(be, m.data);
}

/* However a backend brings batches: few numbers and many, in turns. */
static void batches_of_any_size_follow_draws(void **state)
{
    enum { MOST = 300 };
    static const int sizes[] = { MOST, 3, 100, 20, 260, 1, MOST };
    struct backend *be = check_backend_of(state);
    float x[MOST], want[MOST];
    int32_t token[MOST] = { 0 };
    int begin[MOST + 1], slot[MOST], follows[MOST];
    struct sample_row row[MOST];
    struct sample_result out[MOST];
    struct matrix m;

    if (!be || !be->follows)
        return;
    m = numbers_of_tokens(be);
    for (int i = 0; i < MOST; i++) {
        begin[i] = slot[i] = i;
        row[i] = neutral;
        row[i].temperature = 0;
    }
    begin[MOST] = MOST;
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        const int n = sizes[k];
        const size_t bytes = (size_t)(n * VOCAB) * sizeof(float);
        float *logits = check_floats((size_t)(n * VOCAB), -1, 1);
        const struct batch in = {
            .S = n, .T = n, .token = token, .begin = begin, .slot = slot, .follows = follows
        };

        for (int i = 0; i < n; i++) {
            logits[i * VOCAB + (i * 7 + (int)k) % VOCAB] = 5;
            follows[i] = n - 1 - i;
            want[n - 1 - i] = (float)((i * 7 + (int)k) % VOCAB);
        }
        enqueue_rows(be, check_show(be, logits, bytes), VOCAB, n, row, out);
        be->ops->embed(be->stream, check_begin(be, &in), check_lend(be, x, (size_t)n * sizeof(*x)),
                       &m);
        check_end(be);
        check_return(be);
        check_equal("followed", x, want, (size_t)n);
    }
    be->free(be, m.data);
}

/* The known answers of the reference implementation (Random123, kat_vectors). */
static void philox_gives_the_published_numbers(void **state)
{
    uint32_t a[4] = { 0, 0, 0, 0 };
    uint32_t b[4] = { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 };
    const uint32_t want_a[4] = { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 };
    const uint32_t want_b[4] = { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 };

    (void)state;
    philox4x32(a, 0, 0);
    philox4x32(b, 0xa4093822, 0x299f31d0);
    assert_memory_equal(a, want_a, sizeof(a));
    assert_memory_equal(b, want_b, sizeof(b));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(draws_follow_the_filtered_distribution),
        ON_BOTH(biases_penalties_and_bans_shape_the_distribution),
        ON_BOTH(equal_candidates_are_cut_at_the_higher_ids),
        ON_BOTH(greedy_takes_the_lowest_id_among_the_largest),
        ON_BOTH(log_probabilities_are_those_of_the_raw_logits),
        ON_BOTH(a_forced_token_is_scored_and_not_drawn),
        ON_BOTH(a_row_without_a_distribution_says_so),
        cmocka_unit_test_teardown(a_draw_depends_on_seed_and_position_only, check_release),
        cmocka_unit_test_teardown(a_long_row_is_cut_as_the_contract_says, check_release),
        cmocka_unit_test_teardown(every_backend_chooses_and_scores_alike, check_release),
        ON_BOTH(stop_ids_change_no_draw),
        ON_BOTH(many_samples_may_be_on_their_way),
        ON_BOTH(results_are_there_when_a_mark_behind_them_was_waited_for),
        ON_BOTH(a_batch_takes_in_what_was_drawn),
        ON_BOTH(batches_of_any_size_follow_draws),
        cmocka_unit_test(philox_gives_the_published_numbers),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
