/* The commands that need no server, through the executable itself (in $EDDY). */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "models/model.h"
#include "weights/weights.h"

#define DEMO   "weights/demo"
#define PROMPT "Once upon a time"

enum { TEXT = 64 * 1024 };

/* What a run of the executable left. */
struct result {
    int status;
    char out[TEXT], err[TEXT];
};

extern char **environ;

static char folder[] = "/tmp/eddy-cli-XXXXXX";

static pid_t start(const char *const argv[], int in, int out, int err)
{
    posix_spawn_file_actions_t files;
    pid_t pid;

    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, err, STDERR_FILENO);
    assert_non_null(getenv("EDDY"));
    assert_int_equal(posix_spawn(&pid, getenv("EDDY"), &files, NULL, (char *const *)argv, environ),
                     0);
    posix_spawn_file_actions_destroy(&files);
    return pid;
}

static int finish(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* A file without a name that holds text and stands at its beginning. */
static FILE *scratch(const char *text)
{
    FILE *f = tmpfile();

    assert_non_null(f);
    fputs(text, f);
    rewind(f);
    return f;
}

static void slurp(FILE *f, char text[TEXT])
{
    rewind(f);
    text[fread(text, 1, TEXT - 1, f)] = 0;
    fclose(f);
}

static void run(struct result *r, const char *input, const char *const argv[])
{
    FILE *in = scratch(input), *out = scratch(""), *err = scratch("");

    r->status = finish(start(argv, fileno(in), fileno(out), fileno(err)));
    fclose(in);
    slurp(out, r->out);
    slurp(err, r->err);
}

#define RUN(r, input, ...) run(r, input, (const char *const[]){ "eddy", __VA_ARGS__, NULL })
/* Greedy turns of 24 tokens, a line each. */
#define TALK(r, input) RUN(r, input, "run", DEMO, "-n", "24", "--temperature", "0")

static void inspect_shows_sizes_every_tensor_and_the_state(void **state)
{
    static struct result r;
    static const char path[] = "tests/data/mamba2-tiny";
    struct model_info info;
    struct error err;
    struct weights *w = weights_open(path, &err);
    char line[128];

    (void)state;
    assert_non_null(w);
    assert_true(model_describe(path, &info, &err));
    RUN(&r, "", "inspect", path);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.err, "");
    assert_non_null(strstr(r.out, "architecture  mamba2\n"));
    assert_non_null(strstr(r.out, "tokenizer     bytes, 256 ids\n"));
    snprintf(line, sizeof(line), "parameters    %" PRIu64 " ", info.parameters);
    assert_non_null(strstr(r.out, line));
    for (size_t i = 0; i < weights_count(w); i++)
        assert_non_null(strstr(r.out, weights_at(w, i)->name));
    snprintf(line, sizeof(line), "one session: %zu bytes", info.layout.bytes);
    assert_non_null(strstr(r.out, line));
    weights_close(w);
}

static void inspect_refuses_what_is_no_model_in_one_line(void **state)
{
    static const char *const paths[] = { "tests/data/README.md", "/nowhere/at/all",
                                         "tests/data/tokenizer-neox" };
    static struct result r;

    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        RUN(&r, "", "inspect", paths[i]);
        assert_int_equal(r.status, 2);
        assert_string_equal(r.out, "");
        assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1);
    }
}

static void link_to_demo(const char *name)
{
    char demo[PATH_MAX], to[PATH_MAX + 32], from[128];

    assert_non_null(realpath(DEMO, demo));
    snprintf(to, sizeof(to), "%s/%s", demo, name);
    snprintf(from, sizeof(from), "%s/%s", folder, name);
    assert_int_equal(symlink(to, from), 0);
}

/* It is no model that can be served, but there is much to see of it. */
static void inspect_shows_a_model_without_a_tokenizer_and_says_so(void **state)
{
    static const char *const names[] = { "config.json", "model.safetensors", "tokenizer.json" };
    static struct result r;
    char path[128];

    (void)state;
    link_to_demo(names[0]);
    link_to_demo(names[1]);
    RUN(&r, "", "inspect", folder);
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.out, "\ntensors\n"));
    assert_null(strstr(r.out, "tokenizer "));
    assert_non_null(strstr(r.err, "no tokenizer.json"));
    link_to_demo(names[2]);
    snprintf(path, sizeof(path), "%s/%s", folder, names[1]);
    RUN(&r, "", "inspect", path); /* it stands beside the file */
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "tokenizer     bpe, "));
    assert_string_equal(r.err, "");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        assert_int_equal(unlink(path), 0);
    }
}

/* Nobody writes into it: reading it as a file would wait for ever. */
static void inspect_does_not_wait_for_a_fifo(void **state)
{
    static struct result r;
    char path[64];
    int writer;

    (void)state;
    snprintf(path, sizeof(path), "%s/fifo", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    writer = open(path, O_RDWR | O_CLOEXEC); /* goes with this process, and what waits with it */
    assert_true(writer >= 0);
    alarm(10);
    RUN(&r, "", "inspect", path);
    alarm(0);
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, path));
    close(writer);
    assert_int_equal(unlink(path), 0);
}

static void a_prompt_gives_its_continuation_and_nothing_else(void **state)
{
    static struct result shorter, longer;

    (void)state;
    RUN(&shorter, "", "run", DEMO, "-p", PROMPT, "-n", "12", "--temperature", "0");
    RUN(&longer, "", "run", DEMO, "-p", PROMPT, "-n", "24", "--temperature", "0");
    assert_int_equal(shorter.status, 0);
    assert_string_equal(shorter.err, "");
    assert_true(strlen(shorter.out) > 12);
    assert_true(strlen(longer.out) > strlen(shorter.out));
    assert_memory_equal(longer.out, shorter.out, strlen(shorter.out));
}

/* The environment is a server's. */
static void a_terminal_has_a_batch_of_its_own(void **state)
{
    static struct result r, usual;

    (void)state;
    RUN(&usual, "", "run", DEMO, "-p", PROMPT, "-n", "4", "--temperature", "0");
    setenv("EDDY_ROW_BUDGET", "1", 1);
    RUN(&r, "", "run", DEMO, "-p", PROMPT, "-n", "4", "--temperature", "0");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, usual.out);
    unsetenv("EDDY_ROW_BUDGET");
    setenv("EDDY_MAX_BATCH", "65536", 1);
    RUN(&r, "", "run", DEMO, "-p", PROMPT, "-n", "4", "--temperature", "0");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, usual.out);
    unsetenv("EDDY_MAX_BATCH");
}

static void a_seed_repeats_its_text_and_another_does_not(void **state)
{
    static const char *const seeds[] = { "7", "7", "8" };
    static struct result r[3];

    (void)state;
    for (int i = 0; i < 3; i++)
        RUN(&r[i], "", "run", DEMO, "-p", PROMPT, "-n", "40", "--temperature", "1", "--seed",
            seeds[i]);
    assert_string_equal(r[0].out, r[1].out);
    assert_string_not_equal(r[0].out, r[2].out);
}

static void text_that_cannot_be_written_is_a_failure(void **state)
{
    static const char *const argv[] = { "eddy", "run", DEMO, "-p", PROMPT, "-n", "4", NULL };
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    (void)state;
    assert_true(full >= 0);
    assert_int_equal(finish(start(argv, full, full, full)), 1);
    close(full);
}

static void what_cannot_be_printed_is_a_failure(void **state)
{
    static const char *const options[] = { "--help", "--version", "--print-options",
                                           "--print-limits", "--print-config" };
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    FILE *nothing = scratch("");

    (void)state;
    assert_true(full >= 0);
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        const char *const argv[] = { "eddy", options[i], NULL };

        assert_int_equal(finish(start(argv, fileno(nothing), full, fileno(nothing))), 1);
    }
    fclose(nothing);
    close(full);
}

static void an_empty_line_goes_on_as_one_longer_turn_would(void **state)
{
    static struct result once, twice;

    (void)state;
    RUN(&once, PROMPT "\n", "run", DEMO, "-n", "48", "--temperature", "0");
    TALK(&twice, PROMPT "\n\n");
    assert_int_equal(twice.status, 0);
    assert_string_equal(once.out, twice.out);
}

static void undo_leads_back_to_before_the_turn(void **state)
{
    static struct result once, again;
    char twice[2 * TEXT];

    (void)state;
    TALK(&once, PROMPT "\n");
    TALK(&again, PROMPT "\n/undo\n" PROMPT "\n");
    snprintf(twice, sizeof(twice), "%s%s", once.out, once.out);
    assert_string_equal(again.out, twice);
    TALK(&again, PROMPT "\n\n/undo\n/undo\n" PROMPT "\n\n");
    TALK(&once, PROMPT "\n\n");
    snprintf(twice, sizeof(twice), "%s%s", once.out, once.out);
    assert_string_equal(again.out, twice);
    TALK(&again, PROMPT "\n/undo\n/undo\n");
    assert_non_null(strstr(again.err, "no turn to take back"));
}

static void what_happens_in_a_fork_stays_there(void **state)
{
    static struct result whole, first, forked;
    const char *rest;

    (void)state;
    TALK(&first, PROMPT "\n");
    TALK(&whole, PROMPT "\n\n");
    TALK(&forked, PROMPT "\n/fork\n Suddenly a dog\n/back\n\n");
    rest = whole.out + strlen(first.out);
    assert_true(strlen(forked.out) > strlen(whole.out));
    assert_memory_equal(forked.out, first.out, strlen(first.out));
    assert_string_equal(forked.out + strlen(forked.out) - strlen(rest), rest);
}

static void a_saved_session_goes_on_in_another_process(void **state)
{
    static struct result saved, loaded, first;
    char input[256];

    (void)state;
    TALK(&first, PROMPT "\n");
    snprintf(input, sizeof(input), PROMPT "\n/save %s/state\n\n", folder);
    TALK(&saved, input);
    snprintf(input, sizeof(input), "/load %s/state\n\n", folder);
    TALK(&loaded, input);
    assert_int_equal(loaded.status, 0);
    assert_true(strlen(loaded.out) > 0);
    assert_string_equal(loaded.out, saved.out + strlen(first.out));
}

/* As a server without a secret would: its download may come from one that has one. */
static void a_seal_is_no_hindrance_to_go_on(void **state)
{
    static const char seal[48] = "EDDYSEAL";
    static struct result plain, sealed;
    char input[256], path[128];
    FILE *f;

    (void)state;
    snprintf(path, sizeof(path), "%s/state", folder);
    snprintf(input, sizeof(input), PROMPT "\n/save %s\n", path);
    TALK(&plain, input);
    snprintf(input, sizeof(input), "/load %s\n\n", path);
    TALK(&plain, input);
    f = fopen(path, "ae");
    assert_non_null(f);
    assert_int_equal(fwrite(seal, 1, sizeof(seal), f), sizeof(seal));
    fclose(f);
    TALK(&sealed, input);
    assert_non_null(strstr(sealed.err, "(loaded; "));
    assert_string_equal(sealed.out, plain.out);
}

static void inspect_tells_a_saved_state_from_a_model(void **state)
{
    static struct result r;
    char path[128], input[256];

    (void)state;
    snprintf(path, sizeof(path), "%s/state", folder);
    snprintf(input, sizeof(input), PROMPT "\n/save %s\n", path);
    TALK(&r, input);
    RUN(&r, "", "inspect", path);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "saved state of "));
    assert_non_null(strstr(r.out, "\"architecture\":\"mamba2\""));
    assert_null(strstr(r.out, "position      0 "));
    assert_int_equal(truncate(path, 140), 0);
    RUN(&r, "", "inspect", path);
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "140 came"));
}

/* The file's bytes, from malloc. */
static char *contents(const char *path, size_t *len)
{
    FILE *f = fopen(path, "re");
    char *bytes = malloc(1 << 23);

    assert_non_null(f);
    assert_non_null(bytes);
    *len = fread(bytes, 1, 1 << 23, f);
    fclose(f);
    return bytes;
}

static void a_saved_state_is_verified_and_converted(void **state)
{
    static struct result r, wide, again;
    char path[128], narrow[128], back[128], input[256], *bytes, *twin;
    size_t len, narrow_len;

    (void)state;
    snprintf(path, sizeof(path), "%s/state", folder);
    snprintf(narrow, sizeof(narrow), "%s/narrow", folder);
    snprintf(back, sizeof(back), "%s/back", folder);
    snprintf(input, sizeof(input), PROMPT "\n/save %s\n", path);
    TALK(&r, input);
    RUN(&r, "", "state", "info", path);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "F32\n"));
    assert_non_null(strstr(r.out, "sealed        no\n"));
    RUN(&r, "", "state", "verify", path, "--model", DEMO);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "of this model"));
    RUN(&r, "", "state", "verify", path, "--model", "tests/data/mamba2-tiny");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "fingerprint"));

    RUN(&r, "", "state", "convert", path, narrow, "--dtype", "bf16");
    assert_int_equal(r.status, 0);
    RUN(&r, "", "state", "info", narrow);
    assert_non_null(strstr(r.out, "BF16\n"));
    RUN(&r, "", "state", "verify", narrow, "--model", DEMO);
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "the state's numbers are BF16; here they are F32"));
    assert_null(strstr(r.err, "server")); /* there is none */
    RUN(&r, "", "state", "convert", narrow, back);
    assert_int_equal(r.status, 0);
    RUN(&r, "", "state", "convert", back, path, "--dtype", "bf16");
    bytes = contents(narrow, &narrow_len);
    twin = contents(path, &len);
    assert_int_equal(len, narrow_len);
    assert_memory_equal(bytes, twin, len); /* rounded once */
    free(bytes);
    free(twin);
    snprintf(input, sizeof(input), "/load %s\n\n", back);
    TALK(&wide, input);
    TALK(&again, input);
    assert_true(strlen(wide.out) > 0);
    assert_string_equal(wide.out, again.out);
}

static void what_state_cannot_do_it_says(void **state)
{
    static const char *const wrong[][4] = {
        { NULL },
        { "info" },
        { "look", "x" },
        { "info", "/nowhere/at/all" },
        { "verify", "README.md" },
        { "convert", "README.md" },
        { "info", "README.md", "x", "y" },
    };
    static struct result r;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        RUN(&r, "", "state", wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3]);
        assert_int_equal(r.status, 2);
        assert_string_equal(r.out, "");
        assert_memory_equal(r.err, "eddy: ", 6);
    }
}

static void a_damaged_file_is_refused_and_changes_nothing(void **state)
{
    static struct result first, r;
    char path[128], input[256];
    FILE *f;
    int byte;

    (void)state;
    snprintf(path, sizeof(path), "%s/damaged", folder);
    snprintf(input, sizeof(input), PROMPT "\n/save %s\n", path);
    TALK(&first, input);
    f = fopen(path, "r+e");
    assert_non_null(f);
    assert_int_equal(fseek(f, -1000, SEEK_END), 0);
    byte = fgetc(f);
    assert_int_equal(fseek(f, -1000, SEEK_END), 0);
    fputc(byte ^ 1, f);
    fclose(f);
    snprintf(input, sizeof(input), "/load %s\n/load /nowhere\n" PROMPT "\n", path);
    TALK(&r, input);
    assert_int_equal(r.status, 1);
    assert_null(strstr(r.err, "loaded"));
    assert_non_null(strstr(r.err, "/nowhere"));
    assert_string_equal(r.out, first.out);
    TALK(&r, "/help\n");
    assert_int_equal(r.status, 0);
    TALK(&r, "/hlep\n/save\n");
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err, "no such command"));
    assert_non_null(strstr(r.err, "name of a file"));
}

static void an_interrupt_ends_the_turn_and_not_the_session(void **state)
{
    static const char *const argv[] = { "eddy", "run", DEMO, "-n", "1000000", NULL };
    static char err[TEXT];
    char input[128], byte;
    FILE *in, *notes = scratch("");
    int out[2];
    pid_t pid;

    (void)state;
    snprintf(input, sizeof(input), PROMPT "\n/save %s/cancelled\n", folder);
    in = scratch(input);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid = start(argv, fileno(in), out[1], fileno(notes));
    close(out[1]);
    assert_int_equal(read(out[0], &byte, 1), 1); /* the turn runs */
    assert_int_equal(kill(pid, SIGINT), 0);
    while (read(out[0], &byte, 1) == 1)
        ;
    assert_int_equal(finish(pid), 0);
    close(out[0]);
    fclose(in);
    slurp(notes, err);
    assert_non_null(strstr(err, "cancelled"));
    assert_non_null(strstr(err, "saved; 0 tokens"));
}

/* The limit is said, not taken for one of memory. A loop begins with more than the four that are
 * left to it beside what this process and run() have open. */
static void a_server_without_files_to_open_says_so(void **state)
{
    enum { SCRATCHES = 3, LEFT = 4 };
    const int next = dup(STDIN_FILENO);
    struct rlimit before, few;
    static struct result r;

    (void)state;
    assert_true(next >= 0);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = (struct rlimit){ (rlim_t)next + SCRATCHES + LEFT, before.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    RUN(&r, "", "serve", DEMO, "--device", "cpu", "--port", "0");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_not_equal(r.status, 0);
    if (!strstr(r.err, "too many open files") || strstr(r.err, "memory"))
        fail_msg("%s", r.err);
}

/* A server whose keys are missing must not come up open. */
static void serve_does_not_start_without_the_keys_it_was_told_of(void **state)
{
    static const char *const argv[] = { "eddy", "serve",      "--port",          "0",
                                        DEMO,   "--api-keys", "/nowhere/at/all", NULL };
    static struct result r;

    (void)state;
    run(&r, "", argv);
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "/nowhere/at/all"));
}

static void a_model_is_its_folder_or_its_file(void **state)
{
    static struct result folder_run, file_run;

    (void)state;
    RUN(&folder_run, "", "run", DEMO, "-p", PROMPT, "-n", "12", "--temperature", "0");
    RUN(&file_run, "", "run", DEMO "/model.safetensors", "-p", PROMPT, "-n", "12", "--temperature",
        "0");
    assert_int_equal(file_run.status, 0);
    assert_string_equal(file_run.out, folder_run.out);
}

/* Machines differ in their GPUs; none has one of these names. */
static void a_device_that_is_not_there_is_refused_in_one_line(void **state)
{
    static const char *const names[] = { "gpu",         "cuda:",    "cuda:x",          "cuda:12345",
                                         "cpu,cuda:0",  "cpu,auto", "cuda:0,cuda,cpu", "cpu,",
                                         "cuda,cuda:0", "cuda:4096" };
    const size_t last = sizeof(names) / sizeof(names[0]) - 1;
    static struct result r;

    (void)state;
    for (size_t i = 0; i <= last; i++) {
        RUN(&r, "", "run", DEMO, "-p", PROMPT, "-n", "1", "--device", names[i]);
        assert_int_equal(r.status, 2);
        assert_string_equal(r.out, "");
        assert_non_null(strstr(r.err, i < last ? names[i] : "cuda"));
        assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1);
    }
    RUN(&r, "", "run", DEMO, "-p", PROMPT, "-n", "1", "--device", "cpu");
    assert_int_equal(r.status, 0);
    RUN(&r, "", "run", DEMO, "-p", PROMPT, "-n", "1", "--device", "cpu,cpu");
    assert_int_equal(r.status, 0);
    RUN(&r, "", "bench", DEMO, "--device", "cpu,cpu");
    assert_int_equal(r.status, 2);
}

static void a_server_does_not_start_with_pages_that_it_would_never_know(void **state)
{
    static struct result r;

    (void)state;
    RUN(&r, "", "serve", DEMO, "--port", "0", "--allow-origin", "http://a.example,b.example");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "\"b.example\""));
    assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1);
}

/* A misspelled variable would otherwise leave a server without the keys that it was to have. */
static void a_server_says_what_may_leave_it_open(void **state)
{
    static struct result r;

    (void)state;
    setenv("EDDY_API_KEY", "of-nobodys-business", 1);
    RUN(&r, "", "serve", DEMO, "--port", "0", "--host", "0.0.0.0", "--durability", "now");
    unsetenv("EDDY_API_KEY");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "EDDY_API_KEY is no option"));
    assert_null(strstr(r.err, "of-nobodys-business"));
    assert_non_null(strstr(r.err, "without api_keys whoever reaches 0.0.0.0 "));
    RUN(&r, "", "serve", DEMO, "--port", "0", "--host", "localhost", "--durability", "now");
    assert_null(strstr(r.err, "api_keys"));
}

static void bench_says_what_it_cannot_pick(void **state)
{
    static struct result r;

    (void)state;
    RUN(&r, "", "bench", "--suite", "published", "--device", "cpu", "--only", "9000B");
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "9000B"));
    RUN(&r, "", "bench", "--suite", "published", "--device", "cpu", "--part", "decode");
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "--part"));
    RUN(&r, "", "bench", DEMO, "--suite", "decode", "--device", "cpu", "--only", "2.8B");
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "--only"));
    RUN(&r, "", "bench", "--suite", "published", "--device", "cpu", "--sessions", "8");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "--sessions"));
    RUN(&r, "", "bench", "--suite", "published", "--device", "cuda", "--sessions", "8,no");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "\"8,no\""));
    RUN(&r, "", "bench", DEMO, "--suite", "decode", "--device", "cpu", "--layers", "8");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "--layers"));
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    static const char *const names[] = { "state", "damaged", "cancelled", "narrow", "back" };
    char path[128];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inspect_shows_sizes_every_tensor_and_the_state),
        cmocka_unit_test(inspect_refuses_what_is_no_model_in_one_line),
        cmocka_unit_test(inspect_shows_a_model_without_a_tokenizer_and_says_so),
        cmocka_unit_test(inspect_does_not_wait_for_a_fifo),
        cmocka_unit_test(a_prompt_gives_its_continuation_and_nothing_else),
        cmocka_unit_test(a_terminal_has_a_batch_of_its_own),
        cmocka_unit_test(a_seed_repeats_its_text_and_another_does_not),
        cmocka_unit_test(text_that_cannot_be_written_is_a_failure),
        cmocka_unit_test(what_cannot_be_printed_is_a_failure),
        cmocka_unit_test(an_empty_line_goes_on_as_one_longer_turn_would),
        cmocka_unit_test(undo_leads_back_to_before_the_turn),
        cmocka_unit_test(what_happens_in_a_fork_stays_there),
        cmocka_unit_test(a_saved_session_goes_on_in_another_process),
        cmocka_unit_test(inspect_tells_a_saved_state_from_a_model),
        cmocka_unit_test(a_seal_is_no_hindrance_to_go_on),
        cmocka_unit_test(a_saved_state_is_verified_and_converted),
        cmocka_unit_test(what_state_cannot_do_it_says),
        cmocka_unit_test(a_damaged_file_is_refused_and_changes_nothing),
        cmocka_unit_test(a_server_without_files_to_open_says_so),
        cmocka_unit_test(serve_does_not_start_without_the_keys_it_was_told_of),
        cmocka_unit_test(a_model_is_its_folder_or_its_file),
        cmocka_unit_test(a_device_that_is_not_there_is_refused_in_one_line),
        cmocka_unit_test(a_server_does_not_start_with_pages_that_it_would_never_know),
        cmocka_unit_test(a_server_says_what_may_leave_it_open),
        cmocka_unit_test(bench_says_what_it_cannot_pick),
        cmocka_unit_test(an_interrupt_ends_the_turn_and_not_the_session),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
