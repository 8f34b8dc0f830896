/* bench_prefill.c - how fast a prompt is taken in: turns of one sampled token, no session. */
#include "server/cli/bench.h"

#include <assert.h>
#include <stdio.h>

#include "config/error.h"

enum { ROUNDS = 9, ROWS_MAX = 4 };

static double flops(const struct bench *b, const struct prefill_row *row)
{
    return b->cost.body_flops * (double)row->tokens + b->cost.head_flops;
}

/* Operations a second, in float32 and in bf16 products (0: no such instruction). */
struct rates {
    double fma, bf16;
};

static struct rates measure_rates(const struct bench *b) /* no engine is running */
{
    return (struct rates){ .fma = bench_ceiling(b, CEILING_FMA),
                           .bf16 = bench_ceiling(b, CEILING_BF16) };
}

static bool time_turns(struct bench *b, const struct prefill_row *row, int rows, double *seconds)
{
    struct turns turns = { .n = 1, .prompt = 64, .tokens = 1 };

    if (bench_turns(b, &turns) < 0)
        return false;
    for (int i = 0; i < rows; i++) {
        turns.prompt = row[i].tokens;
        seconds[i] = bench_turns(b, &turns);
        if (seconds[i] < 0)
            return false;
    }
    return true;
}

static bool time_engine(struct bench *b, const struct prefill_row *row, int rows, double *seconds)
{
    struct error err;
    bool ok = local_start(&b->local, &err);

    if (!ok)
        fprintf(stderr, "eddy: %s\n", err.message);
    ok = ok && time_turns(b, row, rows, seconds);
    local_stop(&b->local);
    return ok;
}

/* As in bench_decode.c: short rounds, each between two measurements of the machine. */
static bool measure(struct bench *b, struct prefill_row *row, int rows)
{
    double seconds[ROWS_MAX];
    struct rates before, after = measure_rates(b);

    assert(rows <= ROWS_MAX);
    for (int k = 0; k < ROUNDS; k++) {
        before = after;
        if (!time_engine(b, row, rows, seconds))
            return false;
        after = measure_rates(b);
        for (int i = 0; i < rows; i++) {
            const double rate = 2 * flops(b, &row[i]) / seconds[i];

            samples_add(&row[i].seconds, seconds[i]);
            samples_add(&row[i].fma_share, rate / (before.fma + after.fma));
            if (after.bf16 > 0)
                samples_add(&row[i].bf16_share, rate / (before.bf16 + after.bf16));
        }
    }
    return true;
}

static void print_share(struct samples *s)
{
    if (s->n)
        printf(" %.0f %% (%.0f to %.0f) |", 100 * samples_median(s), 100 * samples_least(s),
               100 * samples_most(s));
}

static void print(struct bench *b, struct prefill_row *row, int rows)
{
    printf("\n| prefill: tokens | tokens/s | ms | of the float32 rate |%s\n|---|---|---|---|%s\n",
           row->bf16_share.n ? " of the bf16 rate |" : "", row->bf16_share.n ? "---|" : "");
    for (int i = 0; i < rows; i++) {
        struct samples *s = &row[i].seconds;
        double n = (double)row[i].tokens, seconds = samples_median(s);

        printf("| %zu | %.0f (%.0f to %.0f) | %.1f |", row[i].tokens, n / seconds,
               n / samples_most(s), n / samples_least(s), seconds * 1e3);
        print_share(&row[i].fma_share);
        print_share(&row[i].bf16_share);
        putchar('\n');
    }
    printf(
        "\n%d rounds, each between two measurements of the rates. Counted: %.2f Mflop a token in "
        "the layers'\nmatrices, %.2f once for the head.\n",
        ROUNDS, b->cost.body_flops / 1e6, b->cost.head_flops / 1e6);
}

bool bench_prefill(struct bench *b, struct prefill_row *row, int rows)
{
    const bool ok = measure(b, row, rows);

    if (ok)
        print(b, row, rows);
    fflush(stdout);
    return ok;
}
