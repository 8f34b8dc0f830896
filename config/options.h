/* options.h - what an operator can set, in one table.
 *
 * The table in options.c drives the command line, the EDDY_* environment, the JSON config
 * file (--config FILE), --help and the README's table. Later ones lose: command line,
 * environment, file, default. An option is spelled --row-budget on the command line,
 * EDDY_ROW_BUDGET in the environment and "row_budget" in the file and in struct options.
 * The struct is filled once at start and read-only afterwards: any thread. Only this module
 * calls getenv(). */
#ifndef CONFIG_OPTIONS_H
#define CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct error;

enum options_command {
    OPTIONS_SERVE,
    OPTIONS_RUN,
    OPTIONS_INSPECT,
    OPTIONS_BENCH,
    OPTIONS_STATE,  /* a saved state, without a server */
    OPTIONS_HEALTH, /* asks a running server, for container health checks */
    OPTIONS_HELP,
    OPTIONS_VERSION,
    OPTIONS_PRINT_LIMITS,
    OPTIONS_PRINT_CONFIG,  /* the effective options and where each comes from */
    OPTIONS_PRINT_OPTIONS, /* the README's table */
};

enum { OPTIONS_MAX = 64 };

struct options {
    enum options_command command;
    char *model; /* folder or file; NULL: the embedded demonstration model */

    /* serve */
    char *host;
    int port;
    int max_connections;
    char *model_name;    /* as /v1/models shows it; NULL: the folder's name */
    char *chat_template; /* a built-in one, "none", or "auto": by the model */
    int drain_seconds;   /* SIGTERM: running turns may finish for so long */
    int request_seconds; /* a turn's wall-clock limit; finish_reason "length" */
    int max_tokens;      /* cap of a request's max_tokens */
    int max_prompt;      /* tokens of one prompt */
    char *api_keys;      /* file of keys; NULL: whoever reaches the port may call */
    char *allow_origin;  /* of web pages that may call, with commas between, or "*"; NULL: none */
    char *state_key;     /* file of the secret that seals states; NULL: none are sealed */
    bool allow_unsealed; /* and take states that are not */
    char *log_level;     /* debug, info, warn, error */
    bool log_json;

    /* engine */
    int slots;
    int max_batch;
    int row_budget;
    int max_queue;
    int max_sessions;
    int owner_sessions;     /* of one key; 0: max_sessions */
    size_t owner_memory;    /* bytes of the states of one key, wherever they are; 0: no bound */
    size_t host_memory;     /* bytes of checkpoints in host memory */
    size_t cache_memory;    /* bytes of checkpoints that nobody needs but that may spare work */
    size_t transfer_memory; /* bytes of states on their way from and to clients */
    int cache_every;        /* tokens of a long prompt from one kept state to the next; 0: none */
    int history_tokens;     /* of a session that it can go back over */
    int session_ttl;        /* seconds; 0: for ever */
    int time_slice;         /* steps; 0: a turn keeps its slot to its end */
    char *state_dir;        /* NULL: states live in memory alone */
    char *durability;       /* none, interval:MS, always */
    size_t disk_space;      /* bytes of states in state_dir */
    char *state_redis;      /* a URL; NULL: sessions are this server's alone */
    int state_lease;        /* ms */

    /* backend */
    char *device;      /* auto, cpu, cuda, cuda:N; load.c reads it */
    int threads;       /* 0: one per core */
    char *isa;         /* auto, plain, avx2, avx512, avx512bf16 */
    char *activations; /* f32, bf16; the CPU's */
    char *state_dtype; /* f32, bf16 */

    /* run */
    char *prompt;
    double temperature; /* run's sampling; requests bring their own */
    int top_k;
    double top_p;
    long seed; /* -1: random */
    int tokens;

    /* state */
    char *state_action; /* info, verify, convert */
    char *state_file, *state_output;
    char *dtype; /* to convert to: f32, bf16 */

    /* bench */
    char *suite;    /* all, decode, prefill, resume, memory, verbs, published */
    char *only;     /* of the published models: a part of the title; NULL: all of them */
    char *part;     /* of what a GPU is measured by: all, decode, prefill, mixed, engine, resume */
    int layers;     /* of each published model, the first ones; 0: all */
    char *sessions; /* of decode and engine on a GPU: "8,64"; NULL: the usual numbers */

    char *config;                      /* the file; NULL: none */
    unsigned char origin[OPTIONS_MAX]; /* options.c's, for --print-config */
};

/* argv[1] is the command; "serve" when it is missing. ERR_INPUT: one sentence that names the
 * option, its source and its bounds. Free the strings with options_finish() in both cases.
 * The commands that only print (but PRINT_CONFIG) look at nothing else, so that they work
 * whatever the environment says. */
bool options_init(struct options *o, int argc, char **argv, struct error *err);
void options_finish(struct options *o);
/* The next variable of the environment, as NAME=VALUE, whose name begins as an option's and is
 * none's; NULL: no other. *at is 0 at first. */
const char *options_find_stray(size_t *at);

void options_print_help(FILE *out);
void options_print_table(FILE *out); /* Markdown, the README's table */
void options_print_config(const struct options *o, FILE *out);

#endif
