/* bench_state.c - how near the operations that keep a state come to what the device can do, at
 * the sizes of published models.
 *
 * Decode is compared with the time that a copy of the device takes to move the states once in
 * and once out, prefill of one sequence with the time that the same layer's products need at
 * FLOPS. Every layer has its own states, so that none comes from a cache. A figure is the
 * median of RUNS. Usage: bench_state [model]... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/error.h"
#include "kernels/backend.h"

enum { RUNS = 5, S_MAX = 512, LAYERS_MAX = 64 };

static const double FLOPS = 790e12; /* bf16, measured on H100 and H200 with random data */
static const double STATES_MAX = 8e9, RUN_SECONDS = 0.01;

enum kind { MAMBA, MAMBA2, RWKV7 };

static const struct model {
    const char *name;
    enum kind kind;
    int heads, value, key; /* MAMBA: channels, 1, states */
    int layers, mixed;     /* mixed: channels of the convolution or shift */
    double flop;           /* of the products, a token */
} models[] = {
    { "Mamba-130M", MAMBA, 1536, 1, 16, 24, 1536, 0.18e9 },
    { "Mamba-2.8B", MAMBA, 5120, 1, 16, 64, 5120, 5.26e9 },
    { "Mamba2-2.7B", MAMBA2, 80, 64, 128, 64, 5376, 5.14e9 },
    { "RWKV7-1.5B", RWKV7, 32, 64, 64, 24, 2048, 2.52e9 },
    { "RWKV7-7.2B", RWKV7, 64, 64, 64, 32, 4096, 13.32e9 },
};

static struct backend *be;
static double copy_rate; /* bytes a second, read and written both counted */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void wait(void)
{
    struct error err;

    if (!be->sync(be, &err))
        die(err.message);
}

/* n floats in [lo, hi): a random megabyte again and again. */
static float *floats(size_t n, double lo, double hi)
{
    enum { PIECE = 1 << 18 };
    static float host[PIECE];
    static uint32_t r = 1;
    float *x = be->alloc(be, n * sizeof(*x));

    if (!x)
        die("out of memory");
    for (int i = 0; i < PIECE; i++) {
        r = r * 1664525u + 1013904223u;
        host[i] = (float)(lo + (hi - lo) * (double)(r >> 8) * 0x1p-24);
    }
    for (size_t at = 0; at < n; at += PIECE)
        be->upload(be, x + at, host, (n - at < PIECE ? n - at : PIECE) * sizeof(*x));
    return x;
}

/* One operation on one layer's states. */
struct work {
    struct model m;
    bool mixing; /* the convolution or shift, not the state proper */
    int layers;
    size_t record; /* floats of a layer */
    float *state, *row[8], *weight;
    struct batch in;
};

static size_t row_floats(const struct work *w)
{
    const size_t state = (size_t)w->m.heads * (size_t)w->m.value;

    return w->mixing || w->m.kind == MAMBA ? (size_t)w->m.mixed : state;
}

static struct field layer_state(const struct work *w, int layer)
{
    return (struct field){ .base = w->state + (size_t)layer * w->record,
                           .stride = w->record * (size_t)w->layers };
}

static void run_mixing(const struct work *w, const struct batch *in, int layer)
{
    const size_t ld = row_floats(w);
    struct token_shift shift = {
        .n = 6, .x = w->row[0], .dim = w->m.mixed, .state = layer_state(w, layer)
    };

    for (int i = 0; i < shift.n; i++) {
        shift.y[i] = w->row[i + 1];
        shift.mu[i] = w->weight;
    }
    if (w->m.kind == RWKV7)
        be->ops->token_shift(be->stream, in, &shift);
    else
        be->ops->short_conv(be->stream, in,
                            &(struct short_conv){ .y = w->row[1],
                                                  .x = w->row[0],
                                                  .y_ld = ld,
                                                  .x_ld = ld,
                                                  .weight = w->weight,
                                                  .bias = w->weight,
                                                  .dim = w->m.mixed,
                                                  .W = 4,
                                                  .silu = true,
                                                  .state = layer_state(w, layer) });
}

static void run_scan(const struct work *w, const struct batch *in, int layer)
{
    const size_t ld = row_floats(w);

    be->ops->diagonal_scan(be->stream, in,
                           &(struct diagonal_scan){ .y = w->row[0],
                                                    .x = w->row[1],
                                                    .dt = w->row[2],
                                                    .z = w->row[3],
                                                    .B = w->row[4],
                                                    .C = w->row[4] + 16,
                                                    .y_ld = ld,
                                                    .x_ld = ld,
                                                    .dt_ld = ld,
                                                    .z_ld = ld,
                                                    .bc_ld = ld,
                                                    .A = w->weight,
                                                    .D = w->row[1],
                                                    .dim = w->m.heads,
                                                    .N = w->m.key,
                                                    .state = layer_state(w, layer) });
}

static void run_matrix(const struct work *w, const struct batch *in, int layer)
{
    const bool delta = w->m.kind == RWKV7;
    const size_t ld = row_floats(w);

    be->ops->matrix_state(be->stream, in,
                          &(struct matrix_state){ .y = w->row[0],
                                                  .w = w->row[5],
                                                  .a = delta ? w->row[2] : NULL,
                                                  .b = delta ? w->row[3] : NULL,
                                                  .k = w->row[1],
                                                  .q = w->row[4],
                                                  .v = w->row[6],
                                                  .y_ld = ld,
                                                  .w_ld = delta ? ld : (size_t)w->m.heads,
                                                  .ab_ld = ld,
                                                  .kq_ld = ld,
                                                  .v_ld = ld,
                                                  .v_scale = delta ? NULL : w->row[5],
                                                  .skip = delta ? NULL : w->weight,
                                                  .w_per_head = !delta,
                                                  .H = w->m.heads,
                                                  .V = w->m.value,
                                                  .K = w->m.key,
                                                  .k_heads = delta ? w->m.heads : 1,
                                                  .state = layer_state(w, layer) });
}

static void step(const struct work *w)
{
    const struct step_key key = { .model = w->in.S == w->in.T ? w : NULL, .rows = w->in.T };
    const struct batch *in = be->begin(be, &key, &w->in);

    for (int layer = 0; in && layer < w->layers; layer++) {
        if (w->mixing)
            run_mixing(w, in, layer);
        else if (w->m.kind == MAMBA)
            run_scan(w, in, layer);
        else
            run_matrix(w, in, layer);
    }
    be->end(be);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Seconds of one layer: median, and the distance of the extremes as a share of it. */
static double time_layer(const struct work *w, double *spread)
{
    double took[RUNS];
    int steps = 1;

    for (int i = 0; i < 3; i++) /* once as it is, once recorded, once replayed */
        step(w);
    wait();
    for (int run = -1; run < RUNS; run++) {
        const double start = now();

        for (int i = 0; i < steps; i++)
            step(w);
        wait();

        const double each = (now() - start) / steps;

        if (run < 0)
            steps = each < RUN_SECONDS ? (int)(RUN_SECONDS / each) + 1 : 1;
        else
            took[run] = each / w->layers;
    }
    qsort(took, RUNS, sizeof(took[0]), by_size);
    *spread = (took[RUNS - 1] - took[0]) / took[RUNS / 2];
    return took[RUNS / 2];
}

static double row_low(const struct work *w, int i)
{
    return w->mixing ? -1.0 : i == 5 ? 0.9 : w->m.kind == MAMBA && i == 2 ? 0.01 : -0.1;
}

static double row_high(const struct work *w, int i)
{
    return w->mixing || i == 5 ? 1.0 : 0.1;
}

static void make(struct work *w, const struct model *m, bool mixing, int S, int T)
{
    static int begin[S_MAX + 1], slot[S_MAX], row[S_MAX];
    const double state =
        mixing ? (m->kind == RWKV7 ? 1.0 : 3.0) * m->mixed : (double)m->heads * m->value * m->key;
    const int fit = (int)(STATES_MAX / (state * S * (double)sizeof(float)));

    *w = (struct work){ .m = *m, .mixing = mixing, .record = (size_t)state };
    w->layers = S < T ? 4 : m->layers;
    w->layers = fit < w->layers ? fit : w->layers;
    w->state = floats((size_t)state * (size_t)w->layers * (size_t)S, -0.1, 0.1);
    w->weight = floats(16 * (size_t)m->mixed, -1.0, -0.1);
    for (int i = 0; i < (mixing && m->kind != RWKV7 ? 2 : 7); i++)
        w->row[i] = floats((size_t)T * row_floats(w), row_low(w, i), row_high(w, i));
    for (int s = 0; s <= S; s++)
        begin[s] = S == T ? s : s * T;
    for (int s = 0; s < S; s++) {
        slot[s] = S - 1 - s;
        row[s] = s;
    }
    w->in = (struct batch){
        .S = S, .T = T, .L = S < T ? 0 : S, .begin = begin, .slot = slot, .logit_row = row
    };
}

static void unmake(struct work *w)
{
    be->free(be, w->state);
    be->free(be, w->weight);
    for (int i = 0; i < 8; i++)
        be->free(be, w->row[i]);
}

static void measure(const struct model *m, bool mixing, int S, int T)
{
    const char *names[][2] = { { "diagonal_scan", "short_conv" },
                               { "matrix_state", "short_conv" },
                               { "matrix_state", "token_shift" } };
    struct work w;
    double spread;

    make(&w, m, mixing, S, T);

    const double took = time_layer(&w, &spread);
    const double moved = 8.0 * (double)w.record * S, floor = moved / copy_rate;
    const double products = m->flop / m->layers * T / FLOPS;

    printf("%-12s %-13s S=%-3d T=%-5d %9.2f us (spread %3.0f %%)", m->name, names[m->kind][mixing],
           S, T, took * 1e6, spread * 100);
    if (S == T)
        printf("  state at %6.0f GB/s, %3.0f %% of a copy\n", moved / took * 1e-9,
               floor / took * 100);
    else
        printf("  products %9.1f us: %3.0f %% of them\n", products * 1e6, took / products * 100);
    unmake(&w);
}

static double measure_copy(void)
{
    const size_t bytes = (size_t)1 << 31;
    void *from = floats(bytes / sizeof(float), -1.0, 1.0), *to = be->alloc(be, bytes);
    double best = 0.0;

    if (!to)
        die("out of memory");
    for (int i = 0; i < RUNS; i++) {
        const double start = now();

        be->copy(be, to, from, bytes);
        wait();

        const double rate = 2.0 * (double)bytes / (now() - start);

        best = rate > best ? rate : best;
    }
    be->free(be, from);
    be->free(be, to);
    return best;
}

static bool is_wanted(const struct model *m, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], m->name) == 0)
            return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    const int decode[] = { 1, 8, 64, 256 }, prefill[] = { 512, 4096, 32768 };
    struct error err;

    setvbuf(stdout, NULL, _IOLBF, 0);
    be = backend_open_cuda(&(struct backend_options){ .device = 0 }, &err);
    if (!be)
        die(err.message);
    copy_rate = measure_copy();
    printf("%s: copies at %.0f GB/s\n", be->detail, copy_rate * 1e-9);
    for (size_t k = 0; k < sizeof(models) / sizeof(models[0]); k++) {
        const struct model *m = &models[k];

        for (int mixing = 0; mixing < 2 && is_wanted(m, argc, argv); mixing++) {
            for (int i = 0; i < 4; i++)
                measure(m, mixing, decode[i], decode[i]);
            for (int i = 0; i < 3; i++)
                measure(m, mixing, 1, prefill[i]);
        }
    }
    backend_close(be);
    return 0;
}
