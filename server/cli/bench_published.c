/* bench_published.c - `--suite published`: two models of sizes that others publish numbers
 * for, with random weights, against the goals for a CPU. The folders are temporary. */
#include "server/cli/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/options.h"
#include "server/cli/cli.h"
#include "server/cli/random_model.h"

struct reading {
    const char *title;
    double bandwidth, batch, prefill;
    bool bf16; /* prefill is the share of that rate, not of float32's */
};

static bool measure(struct bench *b, const struct random_model *m, struct reading *r)
{
    struct decode_row decode[] = { { .sessions = 1 }, { .sessions = 16 } };
    struct prefill_row prefill[] = { { .tokens = 512 } };
    const struct model_info *info = model_info(b->local.parts.model);

    printf("\n%s, random%s: %.1f million parameters, %.1f MB of %s weights. ", m->title,
           bench_cuts(b->options, m) ? ", its first layers" : "", (double)info->parameters / 1e6,
           (double)info->weight_bytes / 1e6, dtype_name(info->dtype));
    bench_print_machine(b);
    if (!bench_decode(b, decode, 2) || !bench_prefill(b, prefill, 1))
        return false;

    const bool bf16 = prefill[0].bf16_share.n > 0;

    *r = (struct reading){ .title = m->title,
                           .bandwidth = samples_median(&decode[0].engine_share),
                           .batch = samples_median(&decode[1].gain),
                           .prefill = samples_median(bf16 ? &prefill[0].bf16_share
                                                          : &prefill[0].fma_share),
                           .bf16 = bf16 };
    return true;
}

bool bench_cuts(const struct options *o, const struct random_model *m)
{
    return o->layers && o->layers < m->layers;
}

bool bench_wants(const struct options *o, const char *title)
{
    return !o->only || strcasestr(title, o->only);
}

int bench_none(const struct options *o)
{
    fprintf(stderr, "eddy: no published model that is measured here has \"%s\" in its title\n",
            o->only);
    return EXIT_USAGE;
}

bool bench_open_random(struct bench *b, const struct options *o, const struct random_model *m)
{
    char folder[] = "/tmp/eddy-bench-XXXXXX";
    struct options with = *o; /* borrows the strings */
    struct random_model cut = *m;
    struct error err;
    bool ok;

    if (!mkdtemp(folder)) {
        fprintf(stderr, "eddy: %s: %s\n", folder, strerror(errno));
        return false;
    }
    with.model = folder;
    if (bench_cuts(o, m))
        cut.layers = o->layers;
    ok = random_model_write(&cut, folder, &err) && bench_open(b, &with, &err);
    b->options = o;
    random_model_remove(folder); /* a loaded model needs its files no more */
    if (!ok)
        fprintf(stderr, "eddy: %s\n", err.message);
    return ok;
}

static bool write_and_measure(const struct options *o, const struct random_model *m,
                              struct reading *r)
{
    struct bench b = { 0 }; /* ceilings of its own: a machine may be busier a minute later */
    bool ok = bench_open_random(&b, o, m);

    if (!ok)
        return false;
    ok = measure(&b, m, r);
    bench_close(&b);
    return ok;
}

int bench_published(const struct options *o)
{
    static const struct random_model *const models[] = { &random_mamba_130m, &random_rwkv7_0_1b };
    enum { MODELS = sizeof(models) / sizeof(models[0]) };
    struct reading r[MODELS];
    int n = 0;

    for (int i = 0; i < MODELS; i++)
        if (bench_wants(o, models[i]->title) && !write_and_measure(o, models[i], &r[n++]))
            return EXIT_FAILURE;
    if (n == 0)
        return bench_none(o);
    printf(
        "\n| | one session: of the read bandwidth | 16 sessions against one | prefill of 512: of "
        "the %s rate |\n|---|---|---|---|\n| goal | 75 %% | 6 x | 40 %% |\n",
        r[0].bf16 ? "bf16" : "float32");
    for (int i = 0; i < n; i++)
        printf("| %s | %.0f %% | %.1f x | %.0f %% |\n", r[i].title, 100 * r[i].bandwidth,
               r[i].batch, 100 * r[i].prefill);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
