/* bench.h - what the suites of `eddy bench` share: the machine's ceilings, a model's costs, a
 * way to run turns against the clock, and numbers with their spread.
 *
 * Every suite prints one Markdown table on stdout. Rates are the medians of several runs
 * that alternate with those they are compared with, so that a ratio is of one time. */
#ifndef SERVER_CLI_BENCH_H
#define SERVER_CLI_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "server/cli/local.h"

struct error;
struct random_model;

enum { REPETITIONS = 5, SAMPLES_MAX = 32, BENCH_SESSIONS_MAX = 512 };

/* Measured values, least first once samples_median() looked at them. */
struct samples {
    double value[SAMPLES_MAX];
    int n;
};

void samples_add(struct samples *s, double value);
double samples_median(struct samples *s);
double samples_least(struct samples *s);
double samples_most(struct samples *s);

/* What a token costs at least, from the checkpoint's tensors. */
struct cost {
    double weight_bytes; /* read for one token: all of them, but for a table of embeddings
                          * that is not the head too */
    double state_bytes;  /* of a session, read and written: twice the record */
    double moved_bytes;  /* the same, with large states that one step of log_steps writes; of logs
                          * nothing */
    double body_flops;   /* of one row: 2 for each element of a matrix of the layers */
    double head_flops;   /* of one row of logits */
};

struct bench {
    const struct options *options;
    int sessions, rows; /* most at once, and rows of a step; 0: 64, and the option's */
    struct local local;
    struct cost cost;
    double read_bandwidth;      /* bytes a second */
    double copy_bandwidth;      /* the same, read and written; 0: not measured */
    double fma_rate, bf16_rate; /* operations a second; bf16_rate 0: no such instruction */
};

/* Measured anew; nothing else may use the backend meanwhile. */
double bench_ceiling(const struct bench *b, enum ceiling which);

/* Bytes of this process in memory. */
size_t bench_resident(void);

/* Token i of every prompt: any id that the tokenizer has. */
int32_t bench_token(const struct bench *b, size_t i);

/* One turn each for n sessions at once, greedy and through end-of-text. */
struct turns {
    const char *prefix; /* the sessions are "PREFIXi"; NULL: turns without a session */
    int first, n;       /* i begins at first; n <= BENCH_SESSIONS_MAX */
    size_t prompt;      /* tokens of each */
    int tokens;         /* to generate */
};

/* Of steps that a suite takes by itself, on records of its own, each of model_slot_bytes(): n slots
 * are brought to different places in their logs (batch.logged), as those of sessions are that came
 * at different times, so that steps are alike. logged: [n], at first 0. Both may be done again, and
 * do nothing where there are no logs. */
void bench_stagger(const struct bench *b, void *records, int *logged, int n);
void bench_logged(const struct bench *b, int *logged, int n); /* a step of a row each was taken */

/* Sends the turns and does not wait: how many went. */
int bench_send(struct bench *b, const struct turns *t);
/* Takes the answers of `sent` turns; false when one of them failed, with the problem printed. */
bool bench_collect(struct bench *b, int sent);

/* Seconds until the last is answered, or -1 with the problem printed. */
double bench_turns(struct bench *b, const struct turns *t);

/* Sends a command on session "PREFIXi". NULL: the problem is printed. */
struct command *bench_ask(struct bench *b, enum command_kind kind, const char *prefix, int i,
                          struct checkpoint *import);

/* Creates or deletes n sessions. */
bool bench_sessions(struct bench *b, enum command_kind kind, const char *prefix, int n);

/* The suites; each needs the engine stopped and leaves it so. false: said why on stderr. */

struct decode_row {
    int sessions;
    struct samples engine; /* seconds a step, through the engine */
    struct samples step;   /* seconds of model_step() alone */
    struct samples gain;   /* tokens a second against the first row's of the same round */
    /* Of the first row: the read bandwidth around each round, and the shares of it. */
    struct samples bandwidth, engine_share, step_share;
};

/* The first row is of one session. */
bool bench_decode(struct bench *b, struct decode_row *row, int rows);

struct prefill_row {
    size_t tokens;
    struct samples seconds;
    struct samples fma_share, bf16_share; /* of the rates around each run; bf16: may be empty */
};

bool bench_prefill(struct bench *b, struct prefill_row *row, int rows);

/* At contexts of three lengths, ascending. */
bool bench_resume(struct bench *b, const size_t length[3]);
bool bench_memory(struct bench *b);
bool bench_verbs(struct bench *b);

/* Opens the model of o and reads its costs; the ceilings are measured if they are 0. */
bool bench_open(struct bench *b, const struct options *o, struct error *err);
void bench_close(struct bench *b);
void bench_print_machine(const struct bench *b);

/* Models of published sizes with random weights: two small ones against the goals for a CPU, or
 * five against the floors of a GPU; of those the ones that --only names. An exit status. */
int bench_published(const struct options *o);
int bench_published_gpu(const struct options *o);
/* Whether --layers leaves some of the model out. */
bool bench_cuts(const struct options *o, const struct random_model *m);
/* Whether --only names one of that title. */
bool bench_wants(const struct options *o, const char *title);
/* What to do if it names none: says so, and returns the status. */
int bench_none(const struct options *o);

/* Writes the model into a temporary folder and opens it from there. */
bool bench_open_random(struct bench *b, const struct options *o, const struct random_model *m);

#endif
