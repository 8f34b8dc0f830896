/* test_options.c - the option table through its public face: struct options, help, Markdown.
 *
 * The names of the options are read from the header's struct, so that a field without a row
 * (or a row that help forgets) fails here. Environment variables are set and unset around
 * each case; config files are written to a folder of the case's own. */
#include "config/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "config/limits.h"

enum { ARGS = 16, FIELDS = 64, NAME = 32 };

struct fixture {
    struct options o;
    struct error err;
    char folder[32], file[64];
};

static const char *const variables[] = { "EDDY_PORT",     "EDDY_HOST",        "EDDY_CONFIG",
                                         "EDDY_LOG_JSON", "EDDY_HOST_MEMORY", "EDDY_MAX_BATCH" };

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
        unsetenv(variables[i]);
    snprintf(f->folder, sizeof(f->folder), "/tmp/eddy-options-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->file, sizeof(f->file), "%s/eddy.json", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    options_finish(&f->o);
    unlink(f->file);
    rmdir(f->folder);
    free(f);
    return 0;
}

/* Parses a command line written with single spaces. */
static bool init(struct fixture *f, const char *line)
{
    char copy[512], *argv[ARGS + 1] = { 0 }, *save = NULL;
    int argc = 0;

    assert_true(strlen(line) < sizeof(copy));
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        assert_true(argc < ARGS);
        argv[argc++] = word;
    }
    options_finish(&f->o);
    return options_init(&f->o, argc, argv, &f->err);
}

/* The line is refused as bad input, with a message that holds every word of the list. */
static void refuses(struct fixture *f, const char *line, const char *const words[])
{
    assert_false(init(f, line));
    assert_int_equal(f->err.code, ERR_INPUT);
    for (int i = 0; words[i]; i++)
        if (!strstr(f->err.message, words[i]))
            fail_msg("\"%s\" does not say %s", f->err.message, words[i]);
}

static void write_file(const struct fixture *f, const char *text)
{
    FILE *file = fopen(f->file, "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* "eddy serve --config FILE" and more. */
static bool init_with_file(struct fixture *f, const char *text, const char *more)
{
    char line[256];

    write_file(f, text);
    snprintf(line, sizeof(line), "eddy serve --config %s %s", f->file, more);
    return init(f, line);
}

static void without_a_source_the_defaults_hold(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy"));
    assert_int_equal(f->o.command, OPTIONS_SERVE);
    assert_null(f->o.model);
    assert_null(f->o.config);
    assert_string_equal(f->o.host, "127.0.0.1");
    assert_int_equal(f->o.port, 8080);
    assert_int_equal(f->o.host_memory, (size_t)4 << 30);
    assert_false(f->o.log_json);
    assert_string_equal(f->o.chat_template, "auto");
    assert_int_equal(f->o.session_ttl, 0);
    assert_int_equal(f->o.seed, -1);
    assert_true(f->o.temperature == 0.8);
}

static void the_command_line_wins_over_environment_file_and_default(void **state)
{
    struct fixture *f = *state;
    const char *const text = "{\"port\": 3, \"host\": \"::1\", \"slots\": 9}";

    setenv("EDDY_PORT", "2", 1);
    assert_true(init_with_file(f, text, "--port 1"));
    assert_int_equal(f->o.port, 1);
    assert_true(init_with_file(f, text, ""));
    assert_int_equal(f->o.port, 2);
    unsetenv("EDDY_PORT");
    assert_true(init_with_file(f, text, ""));
    assert_int_equal(f->o.port, 3);
    assert_string_equal(f->o.host, "::1");
    assert_int_equal(f->o.slots, 9);
    assert_true(init_with_file(f, "{}", ""));
    assert_int_equal(f->o.port, 8080);
}

static void the_last_value_on_the_command_line_counts(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy serve --port 1 --host a --port=2 --host=b"));
    assert_int_equal(f->o.port, 2);
    assert_string_equal(f->o.host, "b");
}

static void the_environment_names_the_config_file_too(void **state)
{
    struct fixture *f = *state;

    write_file(f, "{\"port\": 77}");
    setenv("EDDY_CONFIG", f->file, 1);
    assert_true(init(f, "eddy serve"));
    assert_int_equal(f->o.port, 77);
}

static void an_empty_variable_is_an_absent_one(void **state)
{
    struct fixture *f = *state;

    setenv("EDDY_PORT", "", 1);
    setenv("EDDY_HOST", "", 1);
    assert_true(init(f, "eddy serve"));
    assert_int_equal(f->o.port, 8080);
    assert_string_equal(f->o.host, "127.0.0.1");
}

static void booleans_take_a_bare_name_its_negation_and_words(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy serve --log-json"));
    assert_true(f->o.log_json);
    assert_true(init(f, "eddy serve --log-json=false"));
    assert_false(f->o.log_json);
    setenv("EDDY_LOG_JSON", "1", 1);
    assert_true(init(f, "eddy serve"));
    assert_true(f->o.log_json);
    assert_true(init(f, "eddy serve --no-log-json"));
    assert_false(f->o.log_json);
    assert_true(init_with_file(f, "{\"log_json\": false}", ""));
    assert_true(f->o.log_json);
    refuses(f, "eddy serve --no-port", (const char *[]){ "--no-port", NULL });
    refuses(f, "eddy serve --log-json=yes", (const char *[]){ "--log-json", "yes", NULL });
}

static void the_first_free_word_is_the_model(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy run some/folder -p hello"));
    assert_int_equal(f->o.command, OPTIONS_RUN);
    assert_string_equal(f->o.model, "some/folder");
    assert_string_equal(f->o.prompt, "hello");
    assert_true(init(f, "eddy serve --port 1 -- --odd"));
    assert_string_equal(f->o.model, "--odd");
    assert_true(init(f, "eddy inspect x"));
    assert_int_equal(f->o.command, OPTIONS_INSPECT);
    refuses(f, "eddy serve a b", (const char *[]){ "\"b\"", NULL });
    refuses(f, "eddy health a", (const char *[]){ "\"a\"", NULL });
    refuses(f, "eddy inspect", (const char *[]){ "PATH", NULL });
}

static void an_unknown_word_is_named(void **state)
{
    struct fixture *f = *state;

    refuses(f, "eddy sevre", (const char *[]){ "sevre", "--help", NULL });
    refuses(f, "eddy serve --prot 1", (const char *[]){ "--prot", "--help", NULL });
    refuses(f, "eddy serve --por 1", (const char *[]){ "--por", NULL });
    refuses(f, "eddy serve --ports 1", (const char *[]){ "--ports", NULL });
    refuses(f, "eddy serve -x", (const char *[]){ "-x", NULL });
    refuses(f, "eddy serve --port", (const char *[]){ "--port", "value", NULL });
}

static void an_option_of_another_command_is_refused(void **state)
{
    struct fixture *f = *state;

    refuses(f, "eddy run --slots 3", (const char *[]){ "--slots", "run", NULL });
    refuses(f, "eddy serve -p hello", (const char *[]){ "-p", "serve", NULL });
    refuses(f, "eddy health --isa=avx2", (const char *[]){ "--isa ", "health", NULL });
    setenv("EDDY_HOST_MEMORY", "1G", 1);
    assert_true(init(f, "eddy run"));
}

static void numbers_keep_their_bounds_and_leave_nothing_over(void **state)
{
    static const char *const bad[] = { "65536", "-1",   "80x", "x", "0x50",
                                       "1e3",   "80.0", "+80", "-", "99999999999999999999" };
    struct fixture *f = *state;
    char line[64];

    assert_true(init(f, "eddy serve --port 0"));
    assert_int_equal(f->o.port, 0);
    assert_true(init(f, "eddy serve --port 65535"));
    assert_int_equal(f->o.port, 65535);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(line, sizeof(line), "eddy serve --port=%s", bad[i]);
        refuses(f, line, (const char *[]){ "--port", bad[i], "0 to 65535", NULL });
    }
    refuses(f, "eddy serve --port=", (const char *[]){ "--port", NULL });
    refuses(f, "eddy serve --slots 0", (const char *[]){ "--slots", "1 to 65536", NULL });
}

static void fractions_keep_their_bounds_and_leave_nothing_over(void **state)
{
    static const char *const bad[] = { "1.5", "-0.1", "nan", "inf", "0x1", "1e", "0.5x", "." };
    struct fixture *f = *state;
    char line[64];

    assert_true(init(f, "eddy run --top-p 0.25 --temperature 1e-1"));
    assert_true(f->o.top_p == 0.25 && f->o.temperature == 0.1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(line, sizeof(line), "eddy run --top-p %s", bad[i]);
        refuses(f, line, (const char *[]){ "--top-p", bad[i], "0 to 1", NULL });
    }
}

static void the_seed_reaches_as_far_as_a_json_number(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy run --seed 9007199254740991"));
    assert_int_equal(f->o.seed, 9007199254740991);
    refuses(f, "eddy run --seed 9007199254740992", (const char *[]){ "--seed", NULL });
    refuses(f, "eddy run --seed -2", (const char *[]){ "--seed", NULL });
}

static void sizes_take_binary_suffixes(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
    } good[] = { { "0", 0 },        { "4096", 4096 },          { "3K", 3 << 10 },
                 { "5M", 5 << 20 }, { "6G", (size_t)6 << 30 }, { "1024T", (size_t)1 << 50 } };
    static const char *const bad[] = { "1025T", "G", "4GB", "-1K", "1.5G", "9223372036854775807G" };
    struct fixture *f = *state;
    char line[64];

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        snprintf(line, sizeof(line), "eddy serve --host-memory %s", good[i].text);
        assert_true(init(f, line));
        assert_int_equal(f->o.host_memory, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(line, sizeof(line), "eddy serve --host-memory %s", bad[i]);
        refuses(f, line, (const char *[]){ "--host-memory", bad[i], NULL });
    }
    assert_true(init_with_file(f, "{\"host_memory\": 8589934592}", ""));
    assert_int_equal(f->o.host_memory, (size_t)8 << 30);
    assert_true(init_with_file(f, "{\"host_memory\": \"2M\"}", ""));
    assert_int_equal(f->o.host_memory, 2 << 20);
}

static void a_step_has_room_beside_its_batch(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy serve --row-budget 9 --max-batch 8"));
    refuses(f, "eddy serve --row-budget 8 --max-batch 8",
            (const char *[]){ "row_budget (8)", "max_batch (8)", NULL });
}

/* The environment is that of the server, also where another command looks after it. */
static void only_serve_has_a_batch(void **state)
{
    static const char *const others[] = { "eddy health", "eddy run", "eddy bench", "eddy inspect m",
                                          "eddy state info s" };
    struct fixture *f = *state;

    setenv("EDDY_MAX_BATCH", "600", 1);
    setenv("EDDY_ROW_BUDGET", "512", 1);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (!init(f, others[i]))
            fail_msg("%s: %s", others[i], f->err.message);
    refuses(f, "eddy", (const char *[]){ "row_budget (512)", "max_batch (600)", NULL });
    refuses(f, "eddy --print-config", (const char *[]){ "max_batch (600)", NULL });
    unsetenv("EDDY_ROW_BUDGET");
    assert_true(init(f, "eddy")); /* a device finds room */
    unsetenv("EDDY_MAX_BATCH");
}

static void a_choice_is_one_of_its_words(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy serve --isa avx2 --log-level warn"));
    assert_string_equal(f->o.isa, "avx2");
    assert_string_equal(f->o.activations, "f32");
    for (int i = 0; i < 3; i++) {
        const char *const line[] = { "eddy serve --activations bf16", "eddy run --activations bf16",
                                     "eddy bench --activations bf16" };

        assert_true(init(f, line[i]));
        assert_string_equal(f->o.activations, "bf16");
    }
    assert_string_equal(f->o.state_dtype, "f32");
    assert_true(init(f, "eddy serve --state-dtype bf16"));
    assert_string_equal(f->o.state_dtype, "bf16");
    refuses(f, "eddy serve --state-dtype f16", (const char *[]){ "--state-dtype", "bf16", NULL });
    refuses(f, "eddy serve --activations f16", (const char *[]){ "--activations", "bf16", NULL });
    refuses(f, "eddy serve --isa avx", (const char *[]){ "--isa", "avx512", NULL });
    refuses(f, "eddy serve --isa avx2|avx512", (const char *[]){ "--isa", NULL });
    refuses(f, "eddy serve --log-level WARN", (const char *[]){ "--log-level", NULL });
}

static void an_error_names_its_source(void **state)
{
    struct fixture *f = *state;

    setenv("EDDY_PORT", "tcp://10.0.0.1:80", 1);
    refuses(f, "eddy serve", (const char *[]){ "EDDY_PORT", "tcp://", "65535", NULL });
    unsetenv("EDDY_PORT");
    assert_false(init_with_file(f, "{\"port\": 70000}", ""));
    assert_non_null(strstr(f->err.message, f->file));
    assert_non_null(strstr(f->err.message, "port"));
    assert_non_null(strstr(f->err.message, "65535"));
}

/* Their digits do not go through a printer that rounds. */
static void a_config_file_gives_numbers_whole(void **state)
{
    struct fixture *f = *state;

    assert_true(init_with_file(
        f, "{\"seed\": 9007199254740991, \"temperature\": 0.30000000000000004}", ""));
    assert_int_equal(f->o.seed, 9007199254740991);
    assert_true(f->o.temperature == 0.30000000000000004);
    assert_true(init_with_file(f, "{\"host_memory\": 1125899906842623, \"port\": 1e3}", ""));
    assert_int_equal(f->o.host_memory, 1125899906842623);
    assert_int_equal(f->o.port, 1000);
    assert_true(init_with_file(f, "{\"host_memory\": 1000000000000000}", ""));
    assert_int_equal(f->o.host_memory, 1000000000000000);
    assert_false(init_with_file(f, "{\"seed\": 9007199254740992}", ""));
    assert_non_null(strstr(f->err.message, "\"9007199254740992\""));
    assert_false(init_with_file(f, "{\"temperature\": 100.1}", ""));
    assert_non_null(strstr(f->err.message, "\"100.1\""));
}

static void a_config_file_that_is_not_one_is_refused(void **state)
{
    static const char *const bad[] = { "",
                                       "[]",
                                       "7",
                                       "{\"port\": 1",
                                       "{\"port\": 1} x",
                                       "{\"prot\": 1}",
                                       "{\"log-json\": true}",
                                       "{\"config\": \"other.json\"}",
                                       "{\"port\": 1, \"port\": 2}",
                                       "{\"port\": \"1\"}",
                                       "{\"port\": 1.5}",
                                       "{\"port\": null}",
                                       "{\"port\": [1]}",
                                       "{\"host\": 1}",
                                       "{\"host\": \"\"}",
                                       "{\"log_json\": 1}" };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (init_with_file(f, bad[i], ""))
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(f->err.code, ERR_INPUT);
        assert_non_null(strstr(f->err.message, f->file));
    }
    refuses(f, "eddy serve --config /nonexistent/x.json",
            (const char *[]){ "/nonexistent/x.json", NULL });
    refuses(f, "eddy serve --config /tmp", (const char *[]){ "/tmp", NULL });
}

static void a_config_file_may_be_as_long_as_its_limit(void **state)
{
    struct fixture *f = *state;
    char *text = malloc(LIMIT_CONFIG_BYTES + 2);

    assert_non_null(text);
    memset(text, ' ', LIMIT_CONFIG_BYTES + 1);
    memcpy(text, "{}", 2);
    text[LIMIT_CONFIG_BYTES] = '\0';
    assert_true(init_with_file(f, text, ""));
    text[LIMIT_CONFIG_BYTES] = ' ';
    text[LIMIT_CONFIG_BYTES + 1] = '\0';
    assert_false(init_with_file(f, text, ""));
    assert_non_null(strstr(f->err.message, "65536"));
    free(text);
}

static void the_example_files_are_accepted(void **state)
{
    struct fixture *f = *state;

    assert_true(init(f, "eddy serve --config config/examples/server.json"));
    assert_int_equal(f->o.host_memory, (size_t)16 << 30);
    assert_true(init(f, "eddy serve --config config/examples/laptop.json"));
    assert_int_equal(f->o.slots, 8);
}

static void printing_commands_work_in_a_broken_environment(void **state)
{
    struct fixture *f = *state;

    setenv("EDDY_PORT", "broken", 1);
    assert_true(init(f, "eddy --help"));
    assert_int_equal(f->o.command, OPTIONS_HELP);
    assert_true(init(f, "eddy run -h"));
    assert_int_equal(f->o.command, OPTIONS_HELP);
    assert_true(init(f, "eddy --version"));
    assert_int_equal(f->o.command, OPTIONS_VERSION);
    assert_true(init(f, "eddy --print-limits"));
    assert_int_equal(f->o.command, OPTIONS_PRINT_LIMITS);
    assert_true(init(f, "eddy --print-options"));
    assert_int_equal(f->o.command, OPTIONS_PRINT_OPTIONS);
    assert_false(init(f, "eddy --print-config"));
}

/* What print writes, as text of the caller's. */
static char *printed(void (*print)(FILE *), const struct options *config)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    assert_non_null(out);
    if (config)
        options_print_config(config, out);
    else
        print(out);
    assert_int_equal(fclose(out), 0);
    return text;
}

/* The line of text that begins with what and a space. */
static const char *find_line(const char *text, const char *what)
{
    const size_t len = strlen(what);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, what, len) && line[len] == ' ')
            return line;
    }
    return NULL;
}

static void print_config_tells_each_origin(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *name, *value, *origin;
    } expected[] = { { "port", "2", "EDDY_PORT" },       { "host", "::1", "eddy.json" },
                     { "slots", "5", "command line" },   { "host_memory", "4294967296", "default" },
                     { "log_json", "false", "default" }, { "temperature", "0.8", "default" },
                     { "seed", "-1", "default" },        { "model", "-", "default" } };
    char *text;

    setenv("EDDY_PORT", "2", 1);
    assert_true(init_with_file(f, "{\"host\": \"::1\"}", "--slots 5 --print-config"));
    assert_int_equal(f->o.command, OPTIONS_PRINT_CONFIG);
    text = printed(NULL, &f->o);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        char line[256];
        const char *found = find_line(text, expected[i].name);

        assert_non_null(found);
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(found, "\n"), found);
        if (!strstr(line, expected[i].value) || !strstr(line, expected[i].origin))
            fail_msg("%s", line);
    }
    free(text);
}

/* Wherever it comes from, and also when it is misspelled: that is when one looks. */
static void print_config_hides_who_may_connect(void **state)
{
    static const struct {
        const char *given, *shown;
    } url[] = {
        { "redis://eddy:sekret@db.example:6379/2", "redis://***@db.example:6379/2" },
        { "redis://:sekret@db.example", "redis://***@db.example" },
        { "redis://:se@sekret@db.example", "redis://***@db.example" },
        { "redis://:se%40sekret/x@[::1]", "redis://***@[::1]" },
        { "unix://:sekret@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1" },
        { "redis:/eddy:sekret@db.example", "***@db.example" },
        { "redis://db.example:6379", "redis://db.example:6379" },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < 3 * sizeof(url) / sizeof(url[0]); i++) {
        const char *given = url[i / 3].given;
        char line[256], wanted[256], file[256], words[256] = "--print-config";
        char *text;

        snprintf(file, sizeof(file), i % 3 == 0 ? "{\"state_redis\": \"%s\"}" : "{}", given);
        if (i % 3 == 1)
            setenv("EDDY_STATE_REDIS", given, 1);
        if (i % 3 == 2)
            snprintf(words, sizeof(words), "--print-config --state-redis %s", given);
        assert_true(init_with_file(f, file, words));
        unsetenv("EDDY_STATE_REDIS");
        text = printed(NULL, &f->o);
        assert_null(strstr(text, "sekret"));
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(find_line(text, "state_redis"), "\n"),
                 find_line(text, "state_redis"));
        snprintf(wanted, sizeof(wanted), " %s ", url[i / 3].shown);
        if (!strstr(line, wanted))
            fail_msg("%s: %s", given, line);
        free(text);
    }
}

/* The names of struct options' fields that are options, read from the header. */
static int read_fields(char names[FIELDS][NAME])
{
    FILE *file = fopen("config/options.h", "r");
    char line[256], name[NAME];
    bool inside = false;
    int n = 0;

    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        if (!strncmp(line, "struct options {", 16))
            inside = true;
        else if (line[0] == '}')
            inside = false;
        else if (inside && (sscanf(line, " char *%31[a-z_];", name) == 1 ||
                            sscanf(line, " bool %31[a-z_];", name) == 1 ||
                            sscanf(line, " int %31[a-z_];", name) == 1 ||
                            sscanf(line, " long %31[a-z_];", name) == 1 ||
                            sscanf(line, " size_t %31[a-z_];", name) == 1 ||
                            sscanf(line, " double %31[a-z_];", name) == 1)) {
            assert_true(n < FIELDS);
            snprintf(names[n++], NAME, "%s", name);
        }
    }
    fclose(file);
    assert_true(n > 20);
    return n;
}

static void every_field_is_in_help_and_in_both_tables(void **state)
{
    struct fixture *f = *state;
    char names[FIELDS][NAME], word[2 * NAME], negated[2 * NAME];
    char *help = printed(options_print_help, NULL), *table = printed(options_print_table, NULL);
    char *config;
    const int n = read_fields(names);

    assert_true(init(f, "eddy serve"));
    config = printed(NULL, &f->o);
    for (int i = 0; i < n; i++) {
        assert_non_null(find_line(config, names[i]));
        for (char *c = names[i]; *c; c++)
            *c = *c == '_' ? '-' : *c;
        snprintf(word, sizeof(word), "--%.31s ", names[i]);
        snprintf(negated, sizeof(negated), "--[no-]%.31s ", names[i]);
        if (!strstr(help, word) && !strstr(help, negated))
            fail_msg("--help lacks %s", word);
        snprintf(word, sizeof(word), "| `--%.31s`", names[i]);
        if (!strstr(table, word))
            fail_msg("the table lacks %s", word);
    }
    free(help);
    free(table);
    free(config);
}

static void help_fits_a_terminal(void **state)
{
    char *help = printed(options_print_help, NULL);

    (void)state;
    for (char *line = help; *line; line += strcspn(line, "\n") + 1)
        if (strcspn(line, "\n") > 100)
            fail_msg("%.*s", (int)strcspn(line, "\n"), line);
    free(help);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(without_a_source_the_defaults_hold),
        CASE(the_command_line_wins_over_environment_file_and_default),
        CASE(the_last_value_on_the_command_line_counts),
        CASE(the_environment_names_the_config_file_too),
        CASE(an_empty_variable_is_an_absent_one),
        CASE(booleans_take_a_bare_name_its_negation_and_words),
        CASE(the_first_free_word_is_the_model),
        CASE(an_unknown_word_is_named),
        CASE(an_option_of_another_command_is_refused),
        CASE(numbers_keep_their_bounds_and_leave_nothing_over),
        CASE(fractions_keep_their_bounds_and_leave_nothing_over),
        CASE(the_seed_reaches_as_far_as_a_json_number),
        CASE(sizes_take_binary_suffixes),
        CASE(a_step_has_room_beside_its_batch),
        CASE(only_serve_has_a_batch),
        CASE(a_choice_is_one_of_its_words),
        CASE(an_error_names_its_source),
        CASE(a_config_file_gives_numbers_whole),
        CASE(a_config_file_that_is_not_one_is_refused),
        CASE(a_config_file_may_be_as_long_as_its_limit),
        CASE(the_example_files_are_accepted),
        CASE(printing_commands_work_in_a_broken_environment),
        CASE(print_config_tells_each_origin),
        CASE(print_config_hides_who_may_connect),
        CASE(every_field_is_in_help_and_in_both_tables),
        CASE(help_fits_a_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
