/* sample.c - the definition of sampling: how a row of logits becomes a token.
 *
 * The adjusted logits are turned into weights, and those that the first filter may keep into
 * candidates in ascending id. Each filter finds the smallest set of best candidates that reaches
 * its limit (a count, or a mass of probability) by partial selection, and keeps it in ascending id.
 * The draw walks the cumulative sum of what is left. Among equals the lower id always comes first,
 * so a token is a function of (logits, row) and nothing else. Sums are float64. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/philox.h"
#include "kernels/cpu/pool.h"

enum {
    PIECE = 1024, /* weights whose mass is added by itself */
    LANES = 8,
    BUNCH = 32 /* weights of which the largest is looked at */
};

struct candidate {
    double p;   /* probability, not yet normalised */
    double key; /* what a filter orders by; the largest is the best */
    int32_t id;
};

/* Largest logit, and log(sum(exp)) over the vocabulary. */
struct norm_terms {
    float max;
    double log_sum;
};

static float largest(const float *x, int n)
{
    float max = -INFINITY;

    for (int i = 0; i < n; i++) {
        if (!(x[i] < INFINITY))
            return NAN;
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

static double sum_exp(const float *x, int n, float max)
{
    double sum = 0.0;

    for (int i = 0; i < n; i++)
        sum += (double)expf(x[i] - max);
    return sum;
}

static void weigh(float *w, const float *z, int n, float best, float temperature)
{
    for (int i = 0; i < n; i++)
        w[i] = expf((z[i] - best) / temperature);
}

/* Whether the logits are a distribution: no NaN, nothing infinite above, something finite. */
static bool measure(const struct sample_loops *loops, const float *x, int n,
                    struct norm_terms *terms)
{
    terms->max = loops->largest(x, n);
    if (!isfinite(terms->max))
        return false;
    terms->log_sum = log(loops->sum_exp(x, n, terms->max));
    return true;
}

static float logprob_of(const struct norm_terms *terms, float logit)
{
    return (float)((double)logit - (double)terms->max - terms->log_sum);
}

static void report_top(const struct sample_row *row, const float *x, int n,
                       const struct norm_terms *terms, struct sample_result *out)
{
    int count = 0;

    for (int i = 0; i < n && row->top > 0; i++) {
        if (count == row->top && x[i] <= x[out->top_id[count - 1]])
            continue;
        count += count < row->top;

        int at = count - 1;

        for (; at > 0 && x[out->top_id[at - 1]] < x[i]; at--)
            out->top_id[at] = out->top_id[at - 1];
        out->top_id[at] = i;
    }
    for (int i = 0; i < row->top; i++) {
        out->top_logprob[i] = i < count ? logprob_of(terms, x[out->top_id[i]]) : -INFINITY;
        if (i >= count)
            out->top_id[i] = -1;
    }
}

static bool is_adjusted(const struct sample_row *row)
{
    return row->biases > 0 || row->banned_count > 0 ||
           (row->seen > 0 &&
            (row->repetition != 1.0f || row->presence != 0.0f || row->frequency != 0.0f));
}

static void adjust(const struct sample_row *row, float *z, int n)
{
    for (int i = 0; i < row->biases; i++)
        if (row->bias_id[i] < n)
            z[row->bias_id[i]] += row->bias[i];
    for (int i = 0; i < row->seen; i++) {
        if (row->seen_id[i] >= n)
            continue;

        float *x = &z[row->seen_id[i]];

        *x = *x > 0.0f ? *x / row->repetition : *x * row->repetition;
        if (row->seen_weight[i] > 0.0f)
            *x -= row->presence + row->frequency * row->seen_weight[i];
    }
    for (int i = 0; i < row->banned_count; i++)
        if (row->banned[i] < n)
            z[row->banned[i]] = -INFINITY;
}

/* The lowest id of the largest logit, or -1 if none is left. */
static int32_t best_of(const struct sample_loops *loops, const float *z, int n)
{
    const float max = loops->largest(z, n);
    int32_t best = 0;

    if (!isfinite(max))
        return -1;
    while (z[best] != max)
        best++;
    return best;
}

static bool is_better(const struct candidate *a, const struct candidate *b)
{
    return a->key > b->key || (a->key == b->key && a->id < b->id);
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate c = *a;

    *a = *b;
    *b = c;
}

/* Moves what is better than the pivot to the front and the pivot behind it; returns where
 * the pivot went. The middle of three as pivot keeps sorted input fast. */
static int partition(struct candidate *c, int n)
{
    struct candidate *mid = &c[n / 2], *last = &c[n - 1];
    int front = 0;

    if (is_better(mid, &c[0]))
        swap(mid, &c[0]);
    if (is_better(last, &c[0]))
        swap(last, &c[0]);
    if (is_better(mid, last))
        swap(mid, last);
    for (int i = 0; i < n - 1; i++)
        if (is_better(&c[i], last))
            swap(&c[i], &c[front++]);
    swap(&c[front], last);
    return front;
}

/* The last member of the smallest set of best candidates whose sizes add up to `limit`: each
 * counts 1, or its probability if by_mass. Reorders c. */
static struct candidate worst_kept(struct candidate *c, int n, double limit, bool by_mass)
{
    double before = 0.0;

    while (n > 1) {
        int pivot = partition(c, n);
        double front = 0.0;

        for (int i = 0; i < pivot; i++)
            front += by_mass ? c[i].p : 1.0;
        if (pivot > 0 && before + front >= limit) {
            n = pivot;
            continue;
        }
        before += front + (by_mass ? c[pivot].p : 1.0);
        if (before >= limit || pivot == n - 1)
            return c[pivot];
        c += pivot + 1;
        n -= pivot + 1;
    }
    return c[0];
}

/* Keeps the candidates down to the worst that belongs, in the order they had. */
static int keep_best(struct candidate *c, int n, struct candidate *copy, double limit, bool by_mass)
{
    int kept = 0;

    memcpy(copy, c, (size_t)n * sizeof(*c));

    const struct candidate worst = worst_kept(copy, n, limit, by_mass);

    for (int i = 0; i < n; i++)
        if (!is_better(&worst, &c[i]))
            c[kept++] = c[i];
    return kept;
}

static double mass_of(const struct candidate *c, int n)
{
    double sum = 0.0;

    for (int i = 0; i < n; i++)
        sum += c[i].p;
    return sum;
}

/* Locally typical sampling (arXiv 2202.00666): the candidates whose surprise is nearest to
 * the entropy come first. */
static int keep_typical(struct candidate *c, int n, struct candidate *copy, float mass)
{
    const double sum = mass_of(c, n);
    double entropy = 0.0;

    for (int i = 0; i < n; i++)
        entropy -= c[i].p / sum * log(c[i].p / sum);
    for (int i = 0; i < n; i++)
        c[i].key = -fabs(-log(c[i].p / sum) - entropy);
    n = keep_best(c, n, copy, (double)mass * sum, true);
    for (int i = 0; i < n; i++)
        c[i].key = c[i].p;
    return n;
}

static int keep_min_p(struct candidate *c, int n, float min_p)
{
    double max = 0.0;
    int kept = 0;

    for (int i = 0; i < n; i++)
        max = c[i].p > max ? c[i].p : max;
    for (int i = 0; i < n; i++)
        if (c[i].p >= (double)min_p * max)
            c[kept++] = c[i];
    return kept;
}

/* All weights of a row, with the mass of each piece and of all. */
struct weights {
    float *w;
    double *piece;
    double mass;
    int n;
};

static double sum_of(const float *w, int n)
{
    double lane[LANES] = { 0 }, sum = 0.0;
    int i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += (double)w[i + k];
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    for (; i < n; i++)
        sum += (double)w[i];
    return sum;
}

static void add_up(struct weights *s)
{
    s->mass = 0.0;
    for (int i = 0; i * PIECE < s->n; i++) {
        const int left = s->n - i * PIECE;

        s->piece[i] = sum_of(s->w + i * PIECE, left < PIECE ? left : PIECE);
        s->mass += s->piece[i];
    }
}

/* Where the draw falls of all tokens. */
static int32_t pick_of_all(const struct weights *s, double target)
{
    double before = 0.0;
    int last = s->n - 1;

    for (int i = 0; i * PIECE < s->n; before += s->piece[i++]) {
        double sum = before;

        for (int k = i * PIECE; before + s->piece[i] > target && k < (i + 1) * PIECE && k < s->n;
             k++) {
            sum += (double)s->w[k];
            if (sum > target)
                return k;
        }
    }
    while (s->w[last] <= 0.0f) /* a sum in another order may not come so far */
        last--;
    return last;
}

/* What at least k weights reach, one of each of k bunches, and so the best k do. 0: there are too
 * few bunches. */
static float bound_of_count(const struct weights *s, int k, struct candidate *c)
{
    const int bunches = s->n / BUNCH;

    if (k > bunches / 2)
        return 0.0f;
    for (int i = 0; i < bunches; i += LANES) {
        const int lanes = bunches - i < LANES ? bunches - i : LANES;
        const float *w = s->w + (size_t)i * BUNCH;
        float most[LANES] = { 0 };

        for (int j = 0; j < BUNCH; j++)
            for (int l = 0; l < lanes; l++)
                most[l] = w[j * lanes + l] > most[l] ? w[j * lanes + l] : most[l];
        for (int l = 0; l < lanes; l++)
            c[i + l] = (struct candidate){ .p = 1, .key = (double)most[l], .id = i + l };
    }
    return (float)worst_kept(c, bunches, k, false).key;
}

/* Weights below it are not kept by the first filter: top_p's best reach its mass without them, as
 * they have no more than the rest of it. */
static float bound_of(const struct sample_row *row, const struct weights *s, float max,
                      struct candidate *c)
{
    const double almost = 1 - 0x1p-10; /* sums are rounded */

    if (row->top_k > 0)
        return row->top_k < s->n ? bound_of_count(s, row->top_k, c) : 0.0f;
    if (row->typical_p < 1.0f)
        return 0.0f;
    if (row->top_p < 1.0f)
        return (float)((1 - (double)row->top_p) * s->mass / s->n * almost);
    return row->min_p * max * (float)almost;
}

static int gather(const struct weights *s, float least, struct candidate *c)
{
    int n = 0;

    for (int i = 0; i < s->n; i++)
        if (s->w[i] >= least && s->w[i] > 0.0f)
            c[n++] = (struct candidate){ .p = (double)s->w[i], .key = (double)s->w[i], .id = i };
    return n;
}

static int32_t draw(const struct sample_loops *loops, const struct sample_row *row, const float *z,
                    struct weights *s, int32_t best, struct candidate *c)
{
    const double where = philox_uniform(row->seed, row->position);
    struct candidate *copy = c + s->n;
    double mass;
    int n;

    loops->weigh(s->w, z, s->n, z[best], row->temperature);
    add_up(s);
    if (row->top_k <= 0 && row->typical_p >= 1.0f && row->top_p >= 1.0f && row->min_p <= 0.0f)
        return pick_of_all(s, where * s->mass);
    n = gather(s, bound_of(row, s, s->w[best], c), c);
    mass = s->mass;
    if (row->top_k > 0 && row->top_k < n)
        n = keep_best(c, n, copy, row->top_k, false);
    if (row->typical_p < 1.0f)
        n = keep_typical(c, n, copy, row->typical_p);
    if (row->top_k > 0 || row->typical_p < 1.0f)
        mass = mass_of(c, n);
    if (row->top_p < 1.0f)
        n = keep_best(c, n, copy, (double)row->top_p * mass, true);
    if (row->min_p > 0.0f)
        n = keep_min_p(c, n, row->min_p);

    const double target = where * mass_of(c, n);
    double sum = 0.0;

    for (int i = 0; i < n - 1; i++) {
        sum += c[i].p;
        if (sum > target)
            return c[i].id;
    }
    return c[n - 1].id;
}

/* Candidates and their copy, the pieces' masses, adjusted logits, weights. */
static size_t scratch_bytes(int vocab)
{
    return (size_t)vocab * (2 * sizeof(struct candidate) + 2 * sizeof(float)) +
           ((size_t)vocab / PIECE + 1) * sizeof(double);
}

static int32_t choose(const struct sample_loops *loops, const struct sample_row *row,
                      const float *x, int vocab, struct candidate *scratch)
{
    double *const piece = (double *)(void *)(scratch + 2 * (size_t)vocab);
    float *const own = (float *)(void *)(piece + vocab / PIECE + 1);
    struct weights weights = { .w = own + vocab, .piece = piece, .n = vocab };
    const float *z = x;

    if (row->forced >= 0)
        return row->forced;
    if (is_adjusted(row)) {
        memcpy(own, x, (size_t)vocab * sizeof(*own));
        adjust(row, own, vocab);
        z = own;
    }

    const int32_t best = best_of(loops, z, vocab);

    if (best < 0 || row->temperature <= 0.0f)
        return best;
    return draw(loops, row, z, &weights, best, scratch);
}

struct sample_job {
    const struct sample *p;
    const struct sample_loops *loops;
    struct stream *q;
};

static void sample_one(const void *arg, int i, int thread)
{
    const struct sample_job *job = arg;
    const struct sample *p = job->p;
    const float *x = p->logits + (size_t)i * p->ld;
    struct sample_result *out = &p->out[i];
    struct candidate *scratch = pool_scratch(job->q, thread, scratch_bytes(p->vocab));
    struct norm_terms terms;

    out->token = -1;
    out->finite = scratch && measure(job->loops, x, p->vocab, &terms);
    if (!out->finite)
        return;
    out->token = choose(job->loops, &p->row[i], x, p->vocab, scratch);
    out->finite = out->token >= 0;
    if (out->finite)
        out->logprob = logprob_of(&terms, x[out->token]);
    report_top(&p->row[i], x, p->vocab, &terms, out);
}

void sample_with(struct stream *q, const struct sample *p, const struct sample_loops *loops)
{
    const struct sample_job job = { p, loops, q };

    pool_run(q, p->rows, (size_t)p->rows * (size_t)p->vocab * 8, sample_one, &job);
}

void sample_plain(struct stream *q, const struct sample *p)
{
    static const struct sample_loops loops = { .largest = largest,
                                               .sum_exp = sum_exp,
                                               .weigh = weigh };

    sample_with(q, p, &loops);
}
