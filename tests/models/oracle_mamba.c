#include "tests/models/oracle_mamba.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { WIDEST = 512 };

static const char *layer_name(char *out, int l, const char *name)
{
    snprintf(out, 96, "backbone.layers.%d.%s", l, name);
    return out;
}

void oracle_mamba_make(struct made_model *m, const struct oracle_mamba *o)
{
    char n[96];
    const int di = o->inner, D = o->hidden, R = o->rank, N = o->state;

    made_random(m, "backbone.embeddings.weight", o->vocab, D, 0.0f, 1.0f);
    for (int l = 0; l < o->layers; l++) {
        made_random(m, layer_name(n, l, "norm.weight"), D, 0, 1.0f, 0.3f);
        made_random(m, layer_name(n, l, "mixer.in_proj.weight"), 2 * di, D, 0.0f, 0.3f);
        made_random(m, layer_name(n, l, "mixer.in_proj.bias"), 2 * di, 0, 0.0f, 0.2f);
        made_random(m, layer_name(n, l, "mixer.conv1d.weight"), di, o->conv, 0.0f, 0.6f);
        made_random(m, layer_name(n, l, "mixer.conv1d.bias"), di, 0, 0.0f, 0.2f);
        made_random(m, layer_name(n, l, "mixer.x_proj.weight"), R + 2 * N, di, 0.0f, 0.4f);
        made_random(m, layer_name(n, l, "mixer.dt_proj.weight"), di, R, 0.0f, 0.5f);
        made_random(m, layer_name(n, l, "mixer.dt_proj.bias"), di, 0, -2.0f, 1.0f);
        made_random(m, layer_name(n, l, "mixer.A_log"), di, N, 0.5f, 1.0f);
        made_random(m, layer_name(n, l, "mixer.D"), di, 0, 1.0f, 0.5f);
        made_random(m, layer_name(n, l, "mixer.out_proj.weight"), D, di, 0.0f, 0.2f);
        made_random(m, layer_name(n, l, "mixer.out_proj.bias"), D, 0, 0.0f, 0.2f);
    }
    made_random(m, "backbone.norm_f.weight", D, 0, 1.0f, 0.3f);
    made_random(m, "lm_head.weight", o->vocab, D, 0.0f, 0.3f);
}

static const float *weight(struct made_model *m, int l, const char *name)
{
    char n[96];

    return made_find(m, l < 0 ? name : layer_name(n, l, name))->data;
}

static double silu(double x)
{
    return x / (1.0 + exp(-x));
}

/* y = W x + b; b may be NULL. */
static void multiply(double *y, const float *W, const float *b, const double *x, int rows, int cols)
{
    for (int i = 0; i < rows; i++) {
        y[i] = b ? (double)b[i] : 0.0;
        for (int j = 0; j < cols; j++)
            y[i] += (double)W[i * cols + j] * x[j];
    }
}

static void rms_norm(double *y, const double *x, const float *weight, int n, double eps)
{
    double sum = 0.0;

    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (int i = 0; i < n; i++)
        y[i] = x[i] / sqrt(sum / n + eps) * (weight ? (double)weight[i] : 1.0);
}

/* One layer, one token: x is the residual, past the conv inputs (newest last), h the state. */
static void layer(struct made_model *m, const struct oracle_mamba *o, int l, double *x,
                  double *past, double *h)
{
    const int di = o->inner, R = o->rank, N = o->state, W = o->conv;
    const float *conv = weight(m, l, "mixer.conv1d.weight");
    const float *conv_bias = weight(m, l, "mixer.conv1d.bias");
    const float *A_log = weight(m, l, "mixer.A_log"), *D = weight(m, l, "mixer.D");
    double u[WIDEST], in[WIDEST], c[WIDEST], rbc[WIDEST], dt[WIDEST], y[WIDEST], out[WIDEST];

    rms_norm(u, x, weight(m, l, "norm.weight"), o->hidden, 1e-5);
    multiply(in, weight(m, l, "mixer.in_proj.weight"), weight(m, l, "mixer.in_proj.bias"), u,
             2 * di, o->hidden);
    for (int i = 0; i < di; i++) {
        double sum = conv_bias[i];

        for (int j = 0; j < W - 1; j++)
            past[i * W + j] = past[i * W + j + 1];
        past[i * W + W - 1] = in[i];
        for (int j = 0; j < W; j++)
            sum += (double)conv[i * W + j] * past[i * W + j];
        c[i] = silu(sum);
    }
    multiply(rbc, weight(m, l, "mixer.x_proj.weight"), NULL, c, R + 2 * N, di);
    if (o->mixer_norms) {
        rms_norm(rbc, rbc, NULL, R, o->mixer_eps);
        rms_norm(rbc + R, rbc + R, NULL, N, o->mixer_eps);
        rms_norm(rbc + R + N, rbc + R + N, NULL, N, o->mixer_eps);
    }
    multiply(dt, weight(m, l, "mixer.dt_proj.weight"), weight(m, l, "mixer.dt_proj.bias"), rbc, di,
             R);
    for (int i = 0; i < di; i++) {
        dt[i] = log1p(exp(dt[i]));
        y[i] = (double)D[i] * c[i];
        for (int n = 0; n < N; n++) {
            double *s = &h[i * N + n];

            *s = exp(dt[i] * -exp((double)A_log[i * N + n])) * *s + dt[i] * rbc[R + n] * c[i];
            y[i] += *s * rbc[R + N + n];
        }
        y[i] *= silu(in[di + i]);
    }
    multiply(out, weight(m, l, "mixer.out_proj.weight"), weight(m, l, "mixer.out_proj.bias"), y,
             o->hidden, di);
    for (int i = 0; i < o->hidden; i++)
        x[i] += out[i];
}

void oracle_mamba_run(struct made_model *m, const struct oracle_mamba *o, const int32_t *token,
                      int T, double *logits)
{
    const size_t conv = (size_t)o->inner * (size_t)o->conv;
    const size_t ssm = (size_t)o->inner * (size_t)o->state;
    double *past = calloc((size_t)o->layers * conv, sizeof(*past));
    double *h = calloc((size_t)o->layers * ssm, sizeof(*h)), x[WIDEST];
    const float *embed = weight(m, -1, "backbone.embeddings.weight");

    assert_true(past && h && 2 * o->inner <= WIDEST && o->hidden <= WIDEST);
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < o->hidden; i++)
            x[i] = embed[token[t] * o->hidden + i];
        for (int l = 0; l < o->layers; l++)
            layer(m, o, l, x, past + (size_t)l * conv, h + (size_t)l * ssm);
        rms_norm(x, x, weight(m, -1, "backbone.norm_f.weight"), o->hidden, 1e-5);
        multiply(logits + (size_t)t * (size_t)o->vocab, weight(m, -1, "lm_head.weight"), NULL, x,
                 o->vocab, o->hidden);
    }
    free(past);
    free(h);
}
