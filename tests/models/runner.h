/* runner.h - a model on one CPU instruction set or on the GPU, and runs of one sequence. */
#ifndef TESTS_MODELS_RUNNER_H
#define TESTS_MODELS_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/model.h"

struct backend;

enum { RUNNER_ROWS = 256, RUNNER_SLOTS = 24, ISAS = 5 };

/* The CPU's instruction sets, then "cuda". */
extern const char *const isa_names[ISAS];

struct runner {
    struct backend *be;
    struct model *m;
    const struct model_info *info;
    bool rounds;   /* activations, to the format of its weights */
    char *records; /* RUNNER_SLOTS of them, zeroed */
};

/* What a sequence left behind. */
struct trace {
    float *logits; /* [T, vocab] */
    char *state;   /* one record */
    size_t logit_bytes, state_bytes;
};

/* false when the machine lacks the instruction set or the GPU; any other failure fails the test. */
bool runner_init(struct runner *r, const char *path, const char *isa);
/* The same with activations that the CPU rounds to bf16, or not. */
bool runner_init_with(struct runner *r, const char *path, const char *isa, bool round_x);
/* The same with large states that are kept as bf16. */
bool runner_init_narrow(struct runner *r, const char *path, const char *isa);
/* The same on a backend that the caller opened and the runner closes. */
void runner_init_on(struct runner *r, const char *path, struct backend *be, enum dtype state);
/* The same with logs of steps (model.h), if the backend keeps such: slots of model_slot_bytes(). */
void runner_init_logs(struct runner *r, const char *path, struct backend *be);
void runner_finish(struct runner *r);

/* Whether results are promised to the last bit, however tokens share steps. A GPU's are close,
 * by `tolerance` for logits and states of weights in float32. */
bool runner_is_exact(const struct runner *r);
void runner_assert_alike(const struct runner *r, const void *a, const void *b, size_t bytes,
                         float tolerance);

/* Waits for the step and copies one row of its logits. */
void runner_logits(const struct runner *r, int row, float *out);
/* The lowest id among those of the largest logit. */
int32_t runner_greedy(const struct runner *r, const float *logits);

/* Runs T tokens from an empty state in slot 3, in chunks of the sizes of `chunk`, which ends
 * with 0 and is repeated as often as needed. */
struct trace runner_trace(struct runner *r, const int32_t *token, int T, const int *chunk);
void trace_finish(struct trace *t);
void assert_traces_equal(const struct trace *a, const struct trace *b);

/* The model at path on the plain instruction set, T tokens in one piece. */
struct trace trace_of(const char *path, const int32_t *token, int T);

/* Why the model at path is refused; fails the test when it is not. */
void assert_refused(const char *path, const char *const *words);

#endif
