/* ops.h - every tensor operation the models use, declared once.
 *
 * Each backend fills one `struct ops`; kernels/cpu/<op>.c is the definition of an operation
 * and every other implementation is its twin, held to it by tests/kernels. Pointers are the
 * backend's memory. Operations enqueue and return nothing: shapes are proved when a model is
 * loaded, and a device fault surfaces at backend_sync(). Activations are float32, row-major;
 * `ld` is the distance between rows in elements, so that a slice of a wider row can be read.
 *
 * What only products read need not be float32: an operation with a y_bf16 writes its rows there
 * too, rounded to nearest even, at the distances of y, and not to y if that is NULL; y_bf16 NULL
 * asks for nothing. A product takes such rows as x_bf16. Only the definitions and the backends
 * that say so (backend.h, bf16_rows) know these fields.
 *
 * What an operation computes for one row never depends on the rows beside it, nor on how
 * many there are, and state operations take the tokens of a sequence in order: on the CPU
 * that makes batching and chunking invisible to the last bit.
 *
 * A state of bf16 is widened, taken through the rows of its sequence in float32, and rounded once
 * (rounding.h), whatever their number: how a prompt is cut into steps can be seen then, by as much
 * as a rounding. Batching stays invisible on the CPU, and whoever goes on from a state, be it
 * restored, forked or cached, goes on alike.
 *
 * Called by the one thread that drives the backend's stream (the engine). */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/dtype.h"

struct stream; /* where a backend queues its work; opaque above kernels/ */

/* The slot of a sequence that only fills a batch up to a size: its rows are computed and mean
 * nothing, and no state moves. Only a backend's own begin() makes such sequences, and its
 * operations know them. */
enum { SLOT_NONE = -1 };

/* Which rows of a [T, *] activation belong to which resident state. Decode is T == S. */
struct batch {
    int S, T, L;
    const int32_t *token; /* [T]     token ids, every one below the model's vocabulary */
    const int *begin;     /* [S + 1] first row of each sequence; begin[S] == T */
    const int *slot;      /* [S]     state slot of each sequence, all distinct or SLOT_NONE */
    const int *logit_row; /* [L]     rows whose logits are wanted, ascending */
    /* [S] tokens in each state before this batch, modulo 2^32, or NULL: none. Read by the rounding
     * of bf16 states alone. */
    const uint32_t *position;
    /* [S], or NULL: none. Of a sequence of one row, the row of the last sample whose draw it takes
     * in, whatever its token says, or -1. A draw that is held (sample_row), or not finite, is not
     * taken in: that sequence is like one without a slot, and what is drawn for it means nothing.
     * Only where the backend `follows`. */
    const int *follows;
    /* [S] steps in the log of each slot (struct state_log), or NULL: none, and this batch leaves
     * none there. */
    const int *logged;
};

/* Whether each row's logits are wanted, as those of a decode step are. */
static inline bool batch_wants_all(const struct batch *in)
{
    if (in->L != in->T)
        return false;
    for (int i = 0; i < in->L; i++)
        if (in->logit_row[i] != i)
            return false;
    return true;
}

/* One field of every session's record: slot s has it at base + s * stride numbers. A large state
 * may be kept as bf16: then it is at bf16 + s * stride, and base is NULL. */
struct field {
    float *base;
    size_t stride;
    uint16_t *bf16;
    uint32_t place; /* of its first bf16 number in a record, a multiple of 4: rounding.h */
    float *log;     /* slot s has its log at log + s * stride, or NULL; with one, this, base and the
                     * stride are multiples of 16 bytes */
};

/* A weight [rows, cols] for y = W x, in a layout of the backend's own choosing. */
struct matrix {
    int rows, cols;
    enum dtype dtype; /* F32, F16 or BF16: what is stored; sums are float32 */
    bool round_x;     /* only with BF16: linear rounds x to that, too, to nearest even */
    void *data;       /* owned by whoever called backend_pack_matrix() */
    size_t bytes;
};

enum activation { ACT_NONE, ACT_SILU, ACT_SIGMOID, ACT_TANH, ACT_RELU2, ACT_SOFTPLUS };

/* y[t] = act(W x[t] + bias), or y[t] += that, with x[t] rounded first if W.round_x says so; then
 * numbers below the smallest normal one may count as zeros. Sums run over ascending columns in one
 * fixed order per output. ACT_SOFTPLUS is x itself above 20, as in torch. */
struct linear {
    float *y;               /* [T, W.rows] */
    uint16_t *y_bf16;       /* not with `add` */
    const float *x;         /* [T, W.cols] */
    const uint16_t *x_bf16; /* or NULL: instead of x, and only with BF16 weights */
    size_t y_ld, x_ld;
    const struct matrix *w;
    const float *bias; /* [W.rows] or NULL */
    enum activation act;
    bool add; /* y += instead of y = */
    int T;
};

enum norm_kind { NORM_RMS, NORM_LAYER };

/* Each of `groups` equal parts of a row is normalised by itself: RMS x / sqrt(mean(x^2) +
 * eps), or LAYER (x - mean) / sqrt(var + eps); then times weight, plus bias. A product can come
 * first that completes x: a device may leave its sums in pieces, which the norm adds to x. */
struct norm {
    enum norm_kind kind;
    const struct linear *added; /* or NULL; [T, dim], with `add`, its y is x, and the norm's not */
    float *y;                   /* [T, dim]; may be x */
    uint16_t *y_bf16;
    const float *x; /* [T, dim] */
    size_t y_ld, x_ld;
    const float *weight; /* [dim] or NULL for ones */
    const float *bias;   /* [dim] or NULL for zeros */
    int T, dim, groups;
    float eps;
};

/* y[t] = rms_norm(x[t] * silu(z[t])) * weight per group (Mamba-2, arXiv 2405.21060: gate
 * first, then norm). weight NULL: no norm, only the gate. */
struct gated_norm {
    float *y; /* [T, dim] */
    uint16_t *y_bf16;
    const float *x; /* [T, dim] */
    const float *z; /* [T, dim] */
    size_t y_ld, x_ld, z_ld;
    const float *weight; /* [dim] or NULL */
    int T, dim, groups;
    float eps;
};

enum { SHIFT_MAX = 8 };

/* Token shift (RWKV): y_i[t] = x[t] + (x[t-1] - x[t]) * mu_i, for n mixes at once. x[-1] is
 * the state, which afterwards holds the sequence's last x. */
struct token_shift {
    float *y[SHIFT_MAX]; /* n of [T, dim], none of them x */
    uint16_t *y_bf16[SHIFT_MAX];
    const float *mu[SHIFT_MAX]; /* n of [dim] */
    int n;
    const float *x; /* [T, dim] */
    int dim;
    struct field state; /* [dim] */
};

/* Depthwise causal convolution of width W, then bias, then SiLU if asked (Mamba). The state
 * is the last W - 1 inputs, oldest first: [W - 1, dim]. */
struct short_conv {
    float *y; /* [T, dim] */
    uint16_t *y_bf16;
    const float *x; /* [T, dim]; not y */
    size_t y_ld, x_ld;
    const float *weight; /* [dim, W], the last column meets the newest input */
    const float *bias;   /* [dim] or NULL */
    int dim, W;
    bool silu;
    struct field state;
};

/* Selective scan with a diagonal state (Mamba, arXiv 2312.00752):
 *   h[c,n] = exp(dt[c] * A[c,n]) * h[c,n] + dt[c] * B[n] * x[c]
 *   y[c]   = (sum_n h[c,n] * C[n] + D[c] * x[c]) * silu(z[c])      (z NULL: no gate) */
struct diagonal_scan {
    float *y; /* [T, dim] */
    uint16_t *y_bf16;
    const float *x, *dt, *z;
    const float *B, *C; /* [T, N] */
    size_t y_ld, x_ld, dt_ld, z_ld, bc_ld;
    const float *A; /* [dim, N], negative */
    const float *D; /* [dim] */
    int dim, N;
    struct field state; /* [dim, N], of either format */
};

/* The matrix state, per head a [V, K] matrix S whose row i belongs to value channel i
 * (reference: arXiv 2405.21060 for Mamba-2, 2503.14456 for RWKV-7):
 *   u[i]   = sum_j S[i,j] * b[j]                     before this token; only with a and b
 *   S[i,j] = S[i,j] * w[j] + v[i] * k[j] + u[i] * a[j]
 *   y[i]   = sum_j S[i,j] * q[j] + skip * v_raw[i]
 * where v[i] = v_raw[i] * v_scale. Heads share k and q in groups of H / k_heads. */
struct matrix_state {
    float *y;           /* [T, H * V] */
    const float *w;     /* [T, H] if w_per_head, else [T, H * K] */
    const float *a, *b; /* [T, H * K], or both NULL */
    const float *k, *q; /* [T, k_heads * K] */
    const float *v;     /* [T, H * V] */
    size_t y_ld, w_ld, ab_ld, kq_ld, v_ld;
    const float *v_scale; /* [T, H] (distance w_ld), or NULL for 1 */
    const float *skip;    /* [H], or NULL for 0 */
    bool w_per_head;
    int H, V, K, k_heads;
    struct field state; /* [H, V, K], of either format */
};

/* The logs of a model's large states, where a backend keeps such (backend.h): what the last steps
 * did to a state, at most log_steps - 1 of them, waits there until it is written with theirs. A
 * state is read by every step of a session, but written by one of log_steps.
 *
 * A sequence of one row of a batch with `logged` = n, where n steps are in its log, has n + 1 there
 * afterwards, or, if that is log_steps, none, and its state is written. One of several rows has
 * none afterwards, and one of no rows what it had. All that is computed, and a state with all of
 * its log, is to the last bit what it would be without logs. A state that has a log is known only
 * to the operations. */
struct state_log {
    int H, V, K, k_heads; /* of matrix states, as in matrix_state */
    bool w_per_head, delta;
    int dim, N;            /* of diagonal ones, as in diagonal_scan; else 0 */
    const float *const *A; /* [layers], backend memory, as is what they point to */
    int layers;
    struct field state;                  /* of layer 0 */
    size_t state_distance, log_distance; /* from layer to layer, in float32 numbers */
};

/* Step sizes of a scalar-decay state (Mamba-2): dt = clamp(softplus(raw + bias), lo, hi),
 * decay = exp(dt * A). A is negative. */
struct decay_gates {
    float *dt, *decay; /* [T, H] */
    const float *raw;  /* [T, H] */
    size_t raw_ld;
    const float *bias, *A; /* [H] */
    int T, H;
    float lo, hi;
};

/* The inputs of a vector-decay state with a delta term (RWKV-7, arXiv 2503.14456):
 *   decay  = exp(-exp(-1/2) * sigmoid(w))
 *   kk     = k * k_k, divided per head by max(||kk||, 1e-12)
 *   b      = -kk        a_out = kk * a        k = k * (1 + (a - 1) * k_a)
 * where a already went through its sigmoid. k is updated in place. */
struct delta_gates {
    float *decay, *a_out, *b; /* [T, H * K] */
    float *k;                 /* [T, H * K] in and out */
    const float *w, *a;       /* [T, H * K] */
    const float *k_k, *k_a;   /* [H * K] */
    int T, H, K;
};

/* RWKV-7's way out of the state: per-head layer norm of y, the bonus of the current token,
 * the gate:  y = (norm(y) * weight + bias + (sum_j r * k * r_k) * v) * g */
struct head_output {
    float *y;                   /* [T, H * V] in and, without y_bf16, out */
    uint16_t *y_bf16;           /* if not NULL, out */
    const float *r, *k, *v, *g; /* [T, H * V]; here K == V */
    const float *r_k;           /* [H * V] */
    const float *weight, *bias; /* [H * V] */
    int T, H, V;
    float eps;
};

/* y += (target - y) * mix, elementwise over n floats. */
struct lerp {
    float *y;
    const float *target, *mix;
    size_t n;
};

/* Fused operations: what its parts do, one after another, as few phases of a device. The rows
 * that one part writes for the next are scratch memory, and mean nothing afterwards. */

/* A norm, then the token shift of its rows; x of shift is y of norm. */
struct norm_shift {
    struct norm norm;
    struct token_shift shift;
};

/* What the scan of Mamba takes in: two products of the same rows, c and z, c convolved, and a
 * product of what comes of that. y of in[0] is x of conv; y of conv, which is no scratch memory, is
 * x of product, or its y_bf16 is x_bf16. As for linear_split(), z may not be there before join().
 */
struct scan_inputs {
    struct linear in[2]; /* c, z */
    struct short_conv conv;
    struct linear product;
};

/* A step size of each channel, and the scan that takes it; dt of scan is y of dt. */
struct dt_scan {
    struct linear dt;
    struct diagonal_scan scan;
};

/* The matrix state with its scalar decays (Mamba-2). */
struct scalar_state {
    struct decay_gates gates;
    struct matrix_state state;
};

/* The matrix state with what leads into it and out of it (RWKV-7). */
struct delta_state {
    struct lerp v; /* n 0: none */
    struct delta_gates gates;
    struct matrix_state state;
    struct head_output out;
};

enum { SAMPLE_TOP_MAX = 20 };

/* How one row of logits becomes a token. The order is the field's common one: bias,
 * penalties, temperature, top_k, typical_p, top_p, min_p, draw. temperature 0 is greedy: the
 * largest adjusted logit, the lowest id among equals. The draw is a function of (seed,
 * position) only: Philox 4x32-10, Salmon et al. 2011. */
struct sample_row {
    float temperature, top_p, min_p, typical_p; /* off: 1, 1, 0, 1 */
    int top_k;                                  /* off: 0 */
    /* Penalties, on the `seen` distinct ids of the row's history. repetition divides a
     * positive logit and multiplies a negative one (arXiv 1909.05858); then
     * presence + frequency * weight is taken off where weight (the decayed count of the
     * generated occurrences) is above 0. */
    float repetition, presence, frequency; /* off: 1, 0, 0 */
    const int32_t *seen_id;
    const float *seen_weight;
    int seen;
    const int32_t *bias_id; /* logit_bias */
    const float *bias;
    int biases;
    const int32_t *banned; /* never drawn at this position (stop ids before min_tokens) */
    int banned_count;
    uint64_t seed, position;
    const int32_t *hold; /* ids that a batch which follows the draw does not take in: the host has
                          * to see them before, as they end the sequence, or may */
    int holds;
    int top;    /* how many alternatives to report, 0 to SAMPLE_TOP_MAX */
    int forced; /* a token id to score instead of drawing one, or -1 */
};

struct sample_result {
    int32_t token;
    float logprob; /* of token, under the model's own distribution: raw logits, no penalties */
    int32_t top_id[SAMPLE_TOP_MAX];
    float top_logprob[SAMPLE_TOP_MAX]; /* descending, of the model's own distribution */
    bool finite; /* false: the logits held a NaN or no finite value; token is -1 */
};

struct sample {
    const float *logits; /* [rows, ld] */
    size_t ld;
    int rows;
    int vocab; /* ids from here on exist in the matrix but not in the tokenizer: never drawn */
    const struct sample_row *row; /* [rows], host memory */
    struct sample_result *out;    /* [rows], host memory, valid when it was waited for */
};

struct ops {
    /* x[t] = row token[t] of the table, [T, table->cols]. */
    void (*embed)(struct stream *q, const struct batch *in, float *x, const struct matrix *table);
    /* y[i] = x[logit_row[i]], L rows of dim floats, tight. */
    void (*gather)(struct stream *q, const struct batch *in, float *y, const float *x, int dim);
    /* n products that do not depend on each other, as one phase. */
    void (*linear)(struct stream *q, const struct linear *p, int n);
    /* The same of now + later, but what follows may run beside the later ones: until join() it
     * neither reads what they write nor writes what they read. */
    void (*linear_split)(struct stream *q, const struct linear *p, int now, int later);
    void (*join)(struct stream *q);
    void (*norm)(struct stream *q, const struct norm *p);
    void (*gated_norm)(struct stream *q, const struct gated_norm *p);
    void (*lerp)(struct stream *q, const struct lerp *p);
    void (*token_shift)(struct stream *q, const struct batch *in, const struct token_shift *p);
    void (*short_conv)(struct stream *q, const struct batch *in, const struct short_conv *p);
    void (*diagonal_scan)(struct stream *q, const struct batch *in, const struct diagonal_scan *p);
    void (*decay_gates)(struct stream *q, const struct decay_gates *p);
    void (*delta_gates)(struct stream *q, const struct delta_gates *p);
    void (*matrix_state)(struct stream *q, const struct batch *in, const struct matrix_state *p);
    void (*head_output)(struct stream *q, const struct head_output *p);
    void (*norm_shift)(struct stream *q, const struct batch *in, const struct norm_shift *p);
    void (*scan_inputs)(struct stream *q, const struct batch *in, const struct scan_inputs *p);
    void (*dt_scan)(struct stream *q, const struct batch *in, const struct dt_scan *p);
    void (*scalar_state)(struct stream *q, const struct batch *in, const struct scalar_state *p);
    void (*delta_state)(struct stream *q, const struct batch *in, const struct delta_state *p);
    void (*sample)(struct stream *q, const struct sample *p);
};

#endif
