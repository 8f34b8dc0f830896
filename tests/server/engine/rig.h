/* rig.h - an engine with a model for tests, driven from the test's own thread. */
#ifndef TESTS_SERVER_ENGINE_RIG_H
#define TESTS_SERVER_ENGINE_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/devices.h"
#include "server/engine/command.h"
#include "server/engine/engine.h"

struct model;
struct tokenizer;

struct rig {
    struct devices devices;
    struct model *model; /* the first device's */
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct command *cut; /* to be cancelled when its first events come */
};

/* Asserts on failure. threads: of the CPU. Where EDDY_TEST_LOG_STEPS says 4, its CPUs and those of
 * rig_open_on() keep logs of fewer (logging.h). */
void rig_open(struct rig *r, const char *model, const struct engine_options *options, int threads);
/* On these devices in place of one CPU, as devices_open() takes them. */
void rig_open_on(struct rig *r, const char *devices, const char *model,
                 const struct engine_options *options, int threads);
/* The same with CPUs that do as GPUs do. */
struct rig_cpus {
    bool late;     /* their moves and draws are (late.h) */
    int log_steps; /* they keep logs of fewer (logging.h); 0: none */
};
void rig_open_as(struct rig *r, const char *devices, const char *model,
                 const struct engine_options *options, int threads, const struct rig_cpus *cpus);
/* Both. */
void rig_open_late(struct rig *r, const char *devices, const char *model,
                   const struct engine_options *options, int threads);
/* With activations that the CPU rounds to bf16. */
void rig_open_rounding(struct rig *r, const char *model, const struct engine_options *options,
                       int threads);
/* With large states that are kept as bf16. */
void rig_open_narrow(struct rig *r, const char *model, const struct engine_options *options,
                     int threads);
void rig_close(struct rig *r);

/* The first device of this rig, which has nothing to do yet, does what rig_break() says: it works,
 * or every step ends in a fault, which loses it or not. */
void rig_may_break(struct rig *r);
void rig_break(bool broken, bool lost);
/* The engine ends, and another one starts with these options. */
void rig_restart(struct rig *r, const struct engine_options *options);

enum { RIG_TOKENS_MAX = 4096, RIG_CHOICES_MAX = 8 };

/* What came of a turn. */
struct outcome {
    struct problem problem;
    size_t prompt_tokens, cached_tokens, completion_tokens;
    uint64_t position, version;
    struct {
        int32_t id[RIG_TOKENS_MAX];
        float logprob[RIG_TOKENS_MAX];
        int tokens;
        char text[RIG_TOKENS_MAX * 4];
        size_t len;
        enum finish finish;
        const char *stop;
        int scored; /* prompt tokens */
        int32_t scored_id[RIG_TOKENS_MAX];
        float scored_logprob[RIG_TOKENS_MAX];
    } choice[RIG_CHOICES_MAX];
};

/* A greedy turn of `prompt` for max_tokens, on a session or "" for none; change it, then run
 * it. Ids are reported (logprobs is 0). */
struct command *rig_turn(const char *session, const int32_t *prompt, size_t n, int max_tokens);

/* Sends n commands at once and waits for all. out: n outcomes or NULL for commands that are no
 * turns; the commands come back, to be freed. */
void rig_run(struct rig *r, struct command **c, int n, struct outcome *out);
/* One turn; freed. out is from malloc. */
struct outcome *rig_run_turn(struct rig *r, struct command *c);
/* One turn that is cancelled when it has sampled so many tokens, if it gets there, and if it is
 * still running when that is seen here. One that is to be cancelled at its first token always is.
 */
void rig_run_cancelled(struct rig *r, struct command *c, int tokens, struct outcome *out);
/* One command of another kind: its problem; the command stays the caller's. */
enum problem_code rig_ask(struct rig *r, struct command *c);

struct command *rig_command(enum command_kind kind, const char *session, const char *snapshot);
/* Asserts success, and frees. */
void rig_do(struct rig *r, enum command_kind kind, const char *session);
/* By so many turns, or to the position when turns is 0. */
enum problem_code rig_roll_back(struct rig *r, const char *session, size_t turns,
                                uint64_t position);
/* These assert success. The ids are the child's and the snapshot's. */
struct id rig_fork(struct rig *r, const char *session);
struct id rig_snapshot(struct rig *r, const char *session);
void rig_restore(struct rig *r, const char *session, const struct id *snapshot);
/* The session's head as a file, from malloc. */
unsigned char *rig_export(struct rig *r, const char *session, size_t *len);
enum problem_code rig_import(struct rig *r, const char *session, const void *file, size_t len);
/* The head's record, position, pending and stop ids, known tokens: equal for equal states,
 * whatever the checkpoint's name. From malloc. */
unsigned char *rig_state(struct rig *r, const char *session, size_t *len);
void rig_assert_same_state(struct rig *a, const char *session_a, struct rig *b,
                           const char *session_b);

#endif
