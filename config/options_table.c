/* options_table.c - every option: adding one is a field in options.h and a row here.
 *
 * The field gives a row its type, so that the two cannot disagree. Rows that the same
 * commands take stand together: --help makes a paragraph of them. */
#include <assert.h>

#include "config/limits.h"
#include "config/options_internal.h"

/* Sets of commands. */
enum {
    SERVE = 1 << OPTIONS_SERVE,
    RUN = 1 << OPTIONS_RUN,
    INSPECT = 1 << OPTIONS_INSPECT,
    BENCH = 1 << OPTIONS_BENCH,
    STATE = 1 << OPTIONS_STATE,
    HEALTH = 1 << OPTIONS_HEALTH,
    COMPUTE = SERVE | RUN | BENCH,
    EVERY = COMPUTE | INSPECT | STATE | HEALTH,
};

#define OPTION(field)                                                                              \
    .name = #field, .offset = offsetof(struct options, field),                                     \
    .type = _Generic(((struct options *)0)->field,                                                 \
                     char *: STRING, bool: BOOL, int: INT, long: LONG, size_t: SIZE,               \
                     double: DOUBLE)

const struct option option_table[] = {
    { OPTION(config), .commands = EVERY, .value = "FILE", .help = "JSON file with options" },
    { OPTION(log_level), .def = "info", .choices = "debug|info|warn|error", .commands = EVERY,
      .value = "LEVEL", .help = "least important lines to log" },
    { OPTION(log_json), .def = "false", .commands = EVERY, .help = "log JSON objects" },

    { OPTION(model), .brief = 'm', .commands = COMPUTE | INSPECT | STATE, .value = "PATH",
      .help = "model folder or file, also given without --model; without one, the embedded "
              "demonstration model" },

    { OPTION(device), .def = "auto", .commands = COMPUTE, .value = "NAME",
      .help =
          "cpu, cuda, cuda:N for the machine's GPU N, or auto: the first GPU if there is one; or "
          "several of a kind, as in cuda:0,cuda:1" },
    { OPTION(threads), .def = "0", .max = 1024, .commands = COMPUTE, .value = "N",
      .help = "compute threads of the CPU, shared by its devices; 0: one per core" },
    { OPTION(isa), .def = "auto", .choices = "auto|plain|avx2|avx512|avx512bf16",
      .commands = COMPUTE, .value = "SET", .help = "CPU instructions to use" },
    { OPTION(activations), .def = "f32", .choices = "f32|bf16", .commands = COMPUTE,
      .value = "FORMAT",
      .help = "what the CPU multiplies bf16 weights with; bf16 rounds, and is faster on CPUs with "
              "avx512bf16; a GPU rounds if every matrix is bf16" },
    { OPTION(state_dtype), .def = "f32", .choices = "f32|bf16", .commands = COMPUTE | STATE,
      .value = "FORMAT",
      .help = "what a session's matrices are kept as; bf16 rounds them stochastically once a step, "
              "and takes half the memory and its bandwidth" },

    { OPTION(host), .def = "127.0.0.1", .commands = SERVE | HEALTH, .value = "ADDRESS",
      .help = "address to listen on, or to ask" },
    { OPTION(port), .def = "8080", .max = 65535, .commands = SERVE | HEALTH, .value = "N",
      .help = "port; 0: any free one" },

    { OPTION(api_keys), .commands = SERVE, .value = "FILE",
      .help = "keys that may call, one a line; without it, whoever reaches the port may" },
    { OPTION(allow_origin), .commands = SERVE, .value = "ORIGINS",
      .help = "web pages that may call, like https://chat.example,http://localhost:3000, or *; "
              "without keys their hosts may stand in Host" },
    { OPTION(state_key), .commands = SERVE | STATE, .value = "FILE",
      .help = "secret that seals states; uploads without its seal are refused" },
    { OPTION(allow_unsealed), .def = "false", .commands = SERVE,
      .help = "take states without a seal all the same" },
    { OPTION(model_name), .commands = SERVE, .value = "NAME",
      .help = "the model's name in the API; without it, the name of its folder" },
    { OPTION(chat_template), .def = "auto", .commands = SERVE, .value = "NAME",
      .help = "chatml, rwkv-world, plain (the texts alone), none, or auto: by the model" },
    { OPTION(slots), .def = "64", .min = 1, .max = 65536, .commands = SERVE, .value = "N",
      .help = "sessions whose state is on a device at once" },
    { OPTION(max_batch), .def = "64", .min = 1, .max = 65536, .commands = SERVE, .value = "N",
      .help = "sequences in one step of a device" },
    { OPTION(row_budget), .def = "0", .max = 65536, .commands = SERVE, .value = "N",
      .help = "tokens in one step of a device, prompts' and answers' together, above max_batch; "
              "0: 512 on a CPU, 2048 on a GPU, or twice max_batch if that is more" },
    { OPTION(max_queue), .def = "1024", .min = 1, .max = 1000000, .commands = SERVE, .value = "N",
      .help = "turns that may wait for a slot; 429" },
    { OPTION(max_sessions), .def = "100000", .min = 1, .max = 100000000, .commands = SERVE,
      .value = "N", .help = "sessions; 429" },
    { OPTION(owner_sessions), .def = "0", .max = 100000000, .commands = SERVE, .value = "N",
      .help = "sessions of one key; 429; 0: max_sessions" },
    { OPTION(owner_memory), .def = "0", .max = 1LL << 50, .commands = SERVE, .value = "SIZE",
      .help = "states of one key's sessions and snapshots, each counted whole; 507; 0: no bound" },
    { OPTION(session_ttl), .def = "0", .max = 315360000, .commands = SERVE, .value = "SECONDS",
      .help = "life of a session that nobody touches; 0: for ever" },
    { OPTION(host_memory), .def = "4G", .max = 1LL << 50, .commands = SERVE, .value = "SIZE",
      .help = "memory for the states of parked sessions and snapshots" },
    { OPTION(cache_memory), .def = "1G", .max = 1LL << 50, .commands = SERVE, .value = "SIZE",
      .help = "states that are kept to spare work, of prompts that may come again and of turns "
              "that may be taken back; 0: none" },
    { OPTION(transfer_memory), .def = "2G", .max = 1LL << 50, .commands = SERVE, .value = "SIZE",
      .help = "states that clients download and upload, while they do; 503; one that is alone is "
              "always taken" },
    { OPTION(cache_every), .def = "2048", .max = 1 << 24, .commands = SERVE, .value = "N",
      .help = "tokens of a long prompt between such states; 0: only one near its end" },
    { OPTION(history_tokens), .def = "32768", .min = 2048, .max = LIMIT_HISTORY_TOKENS,
      .commands = SERVE, .value = "N",
      .help = "newest tokens of a session that it can go back over; a state is kept for every "
              "half as many" },
    { OPTION(time_slice), .def = "64", .max = 1 << 24, .commands = SERVE, .value = "STEPS",
      .help = "steps that a turn runs before it makes room for one that waits for a slot; 0: to "
              "its end" },
    { OPTION(state_dir), .commands = SERVE, .value = "DIR",
      .help =
          "folder that keeps sessions and snapshots through restarts and crashes; made if it is "
          "missing" },
    { OPTION(state_redis), .commands = SERVE, .secret = true, .value = "URL",
      .help =
          "Redis to share sessions and snapshots in: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB] "
          "or unix://[:PASSWORD@]/SOCKET; instead of state_dir" },
    { OPTION(state_lease), .def = "10000", .min = 100, .max = 3600000, .commands = SERVE,
      .value = "MS", .help = "time after which another server takes over from one that died" },
    { OPTION(durability), .def = "always", .commands = SERVE, .value = "MODE",
      .help = "what an answer in state_dir has outlived: always: a power cut; interval:MS: a kill, "
              "and MS later a power cut; none: a kill" },
    { OPTION(disk_space), .def = "64G", .max = 1LL << 50, .commands = SERVE, .value = "SIZE",
      .help = "space for states in state_dir; 507" },
    { OPTION(max_prompt), .def = "1048576", .min = 1, .max = 1 << 24, .commands = SERVE,
      .value = "N", .help = "tokens of one prompt; 400" },
    { OPTION(max_tokens), .def = "65536", .min = 1, .max = 1 << 24, .commands = SERVE, .value = "N",
      .help = "tokens of one answer, whatever a request asks for" },
    { OPTION(max_connections), .def = "16384", .min = 1, .max = 1000000, .commands = SERVE,
      .value = "N", .help = "open connections; 503" },
    { OPTION(request_seconds), .def = "600", .min = 1, .max = 86400, .commands = SERVE,
      .value = "SECONDS", .help = "time limit of a turn, which then ends with \"length\"" },
    { OPTION(drain_seconds), .def = "20", .max = 86400, .commands = SERVE, .value = "SECONDS",
      .help = "time that running turns have after SIGTERM" },

    { OPTION(prompt), .brief = 'p', .commands = RUN, .value = "TEXT",
      .help = "text to continue; without it, standard input" },
    { OPTION(tokens), .brief = 'n', .def = "256", .min = 1, .max = 1 << 24, .commands = RUN,
      .value = "N", .help = "tokens to generate" },
    { OPTION(temperature), .def = "0.8", .max = 100, .commands = RUN, .value = "X",
      .help = "0: always the likeliest token" },
    { OPTION(top_k), .def = "40", .max = 1 << 24, .commands = RUN, .value = "N",
      .help = "draw from the N likeliest tokens; 0: from all" },
    { OPTION(top_p), .def = "1", .max = 1, .commands = RUN, .value = "X",
      .help = "draw from the likeliest tokens that together have probability X" },
    /* JSON numbers carry integers exactly up to this bound. */
    { OPTION(seed), .def = "-1", .min = -1, .max = (1LL << 53) - 1, .commands = RUN, .value = "N",
      .help = "of the random numbers; -1: another one each time" },

    { OPTION(state_action), .choices = "info|verify|convert", .commands = STATE, .value = "ACTION",
      .help = "what to do with the state, also given without --state-action" },
    { OPTION(state_file), .commands = STATE, .value = "FILE",
      .help = "the saved state, also given without --state-file" },
    { OPTION(state_output), .commands = STATE, .value = "OUT",
      .help = "where convert writes, also given without --state-output" },
    { OPTION(dtype), .def = "f32", .choices = "f32|bf16", .commands = STATE, .value = "FORMAT",
      .help = "numbers that convert writes" },

    { OPTION(suite), .def = "all", .choices = "all|decode|prefill|resume|memory|verbs|published",
      .commands = BENCH, .value = "NAME", .help = "measurements to take" },
    { OPTION(only), .commands = BENCH, .value = "TITLE",
      .help = "published models whose titles have this in them, as 2.8b has" },
    { OPTION(part), .def = "all", .choices = "all|decode|prefill|mixed|engine|resume",
      .commands = BENCH, .value = "NAME",
      .help = "of the published models' measurements on a GPU" },
    { OPTION(layers), .def = "0", .max = 1024, .commands = BENCH, .value = "N",
      .help = "of the published models, for a quick look; 0: all" },
    { OPTION(sessions), .commands = BENCH, .value = "N[,N]",
      .help = "that published models decode at once on a GPU; without it 1, 8, 64, 256 and 512" },
    { 0 },
};

static_assert(sizeof(option_table) / sizeof(option_table[0]) <= OPTIONS_MAX + 1,
              "struct options has no origin for every row");

const struct option_command option_commands[OPTION_COMMANDS] = {
    [OPTIONS_SERVE] = { "serve",
                        "[MODEL]",
                        "serve the HTTP API; what eddy does without a command",
                        { "model" } },
    [OPTIONS_RUN] = { "run", "[MODEL] [-p TEXT]", "continue a text", { "model" } },
    [OPTIONS_INSPECT] = { "inspect", "PATH", "show a model's or a snapshot's parts", { "model" } },
    [OPTIONS_BENCH] = { "bench", "[MODEL]", "measure this machine", { "model" } },
    [OPTIONS_STATE] = { "state",
                        "info|verify|convert FILE [OUT]",
                        "show, prove or convert a saved state",
                        { "state_action", "state_file", "state_output" } },
    [OPTIONS_HEALTH] = { "health", "", "ask a running server; exit code 0: it is well", { NULL } },
};

const struct option_notice option_notices[] = {
    { "--help", OPTIONS_HELP, "print this" },
    { "--version", OPTIONS_VERSION, "print the version" },
    { "--print-limits", OPTIONS_PRINT_LIMITS, "print the bounds that are not options" },
    { "--print-config", OPTIONS_PRINT_CONFIG, "print the options in force and where each is from" },
    { "--print-options", OPTIONS_PRINT_OPTIONS, "print the options as a Markdown table" },
    { 0 },
};
