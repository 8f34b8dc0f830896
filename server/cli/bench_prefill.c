/* bench_prefill.c - how fast a prompt is taken in: turns of one sampled token, no session. */
#include "server/cli/bench.h"

#include <stdio.h>

#include "config/error.h"

static double flops(const struct bench *b, const struct prefill_row *row)
{
    return b->cost.body_flops * (double)row->tokens + b->cost.head_flops;
}

static bool time_rows(struct bench *b, struct prefill_row *row, int rows)
{
    const double rate = bench_ceiling(b, CEILING_FMA); /* no engine is running */
    struct turns turns = { .n = 1, .prompt = 64, .tokens = 1 };
    struct error err;

    if (!local_start(&b->local, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return false;
    }
    if (bench_turns(b, &turns) < 0)
        return false;
    for (int i = 0; i < rows; i++) {
        double seconds;

        turns.prompt = row[i].tokens;
        seconds = bench_turns(b, &turns);
        if (seconds < 0)
            return false;
        samples_add(&row[i].seconds, seconds);
        samples_add(&row[i].share, flops(b, &row[i]) / seconds / rate);
    }
    return true;
}

static void print(struct bench *b, struct prefill_row *row, int rows)
{
    printf("\n| prefill: tokens | tokens/s | ms | of the float32 rate |%s\n|---|---|---|---|%s\n",
           b->bf16_rate > 0 ? " of the bf16 rate |" : "", b->bf16_rate > 0 ? "---|" : "");
    for (int i = 0; i < rows; i++) {
        struct samples *s = &row[i].seconds;
        double n = (double)row[i].tokens, seconds = samples_median(s);

        printf("| %zu | %.0f (%.0f to %.0f) | %.1f | %.0f %% |", row[i].tokens, n / seconds,
               n / samples_most(s), n / samples_least(s), seconds * 1e3,
               100 * samples_median(&row[i].share));
        if (b->bf16_rate > 0)
            printf(" %.0f %% |", 100 * flops(b, &row[i]) / seconds / b->bf16_rate);
        putchar('\n');
    }
    printf("\nCounted: %.2f Mflop a token in the layers' matrices, %.2f once for the head.\n",
           b->cost.body_flops / 1e6, b->cost.head_flops / 1e6);
}

bool bench_prefill(struct bench *b, struct prefill_row *row, int rows)
{
    bool ok = true;

    for (int k = 0; k < REPETITIONS && ok; k++) {
        ok = time_rows(b, row, rows);
        local_stop(&b->local);
    }
    if (ok)
        print(b, row, rows);
    fflush(stdout);
    return ok;
}
