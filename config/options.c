/* options.c - fills struct options from the four places that a value may come from.
 *
 * Every value, defaults included, is text that goes through set(): one parser and one check
 * of bounds whatever its source. Sources are read from the strongest to the weakest; a value
 * that a stronger one set is not touched again. The config file is a flat JSON object, given
 * to cJSON once json_scan() accepted it. */
#include "config/options.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "config/limits.h"
#include "config/options_internal.h"

enum { NUMBER_BYTES = 32 };

/* "row_budget" as --row-budget or EDDY_ROW_BUDGET. */
const char *option_spell(char out[SPELLING_BYTES], const char *prefix, const char *name)
{
    const bool upper = isupper((unsigned char)prefix[0]);
    const size_t lead = strlen(prefix);

    assert(lead + strlen(name) < SPELLING_BYTES);
    memcpy(out, prefix, lead + 1);
    for (size_t i = 0; i <= strlen(name); i++) {
        if (upper)
            out[lead + i] = (char)toupper((unsigned char)name[i]);
        else
            out[lead + i] = name[i] == '_' ? '-' : name[i];
    }
    return out;
}

static const struct option_notice *find_notice(const char *arg)
{
    for (const struct option_notice *n = option_notices; n->name; n++)
        if (!strcmp(arg, n->name))
            return n;
    return !strcmp(arg, "-h") ? find_notice("--help") : NULL;
}

static bool is_choice(const char *choices, const char *text)
{
    const size_t len = strlen(text);

    for (const char *c = choices; *c; c += *c == '|') {
        const size_t word = strcspn(c, "|");

        if (word == len && !memcmp(c, text, len))
            return true;
        c += word;
    }
    return false;
}

/* The whole text as an integer in decimal, with a suffix for sizes. */
static bool parse_integer(const struct option *row, const char *text, long long *out)
{
    static const char suffixes[] = "KMGT";
    const char *suffix;
    char *end;
    long long value;
    int shift = 0;

    if (!isdigit((unsigned char)text[text[0] == '-']))
        return false;
    errno = 0;
    value = strtoll(text, &end, 10);
    if (row->type == SIZE && *end && (suffix = strchr(suffixes, *end))) {
        shift = 10 * (int)(suffix - suffixes + 1);
        end++;
    }
    if (errno || *end || value < row->min || value > row->max >> shift)
        return false;
    *out = value * (1LL << shift);
    return true;
}

static bool parse_double(const struct option *row, const char *text, double *out)
{
    char *end;
    double value;

    if (!*text || strspn(text, "0123456789.eE+-") != strlen(text))
        return false;
    value = strtod(text, &end);
    if (*end || !(value >= (double)row->min && value <= (double)row->max))
        return false;
    *out = value;
    return true;
}

static bool parse_bool(const char *text, bool *out)
{
    const bool yes = !strcmp(text, "true") || !strcmp(text, "1");

    if (!yes && strcmp(text, "false") != 0 && strcmp(text, "0") != 0)
        return false;
    *out = yes;
    return true;
}

static bool set_string(char **field, const struct option *row, const char *where, const char *text,
                       struct error *err)
{
    char *copy;

    if (!*text || strlen(text) > LIMIT_OPTION_BYTES)
        return error_set(err, ERR_INPUT, "%s: %s", where, *text ? "too long" : "empty");
    if (row->choices && !is_choice(row->choices, text))
        return error_set(err, ERR_INPUT, "%s: \"%.64s\" is not one of %s", where, text,
                         row->choices);
    copy = strdup(text);
    if (!copy)
        return error_set(err, ERR_NOMEM, "%s: out of memory", where);
    free(*field);
    *field = copy;
    return true;
}

/* Parses text into the row's field. where names the option as its source spells it. */
static bool parse(struct options *o, const struct option *row, const char *where, const char *text,
                  struct error *err)
{
    void *to = option_field(o, row);
    long long integer;

    if (row->type == STRING)
        return set_string(to, row, where, text, err);
    if (row->type == BOOL)
        return parse_bool(text, to) ||
               error_set(err, ERR_INPUT, "%s: \"%.64s\" is neither true nor false", where, text);
    if (row->type == DOUBLE)
        return parse_double(row, text, to) ||
               error_set(err, ERR_INPUT, "%s: \"%.64s\" is not a number from %lld to %lld", where,
                         text, row->min, row->max);

    if (!parse_integer(row, text, &integer))
        return error_set(err, ERR_INPUT, "%s: \"%.64s\" is not %s from %lld to %lld", where, text,
                         row->type == SIZE ? "a size (like 4096, 512M or 4G)" : "an integer",
                         row->min, row->max);
    if (row->type == INT)
        *(int *)to = (int)integer;
    else if (row->type == LONG)
        *(long *)to = (long)integer;
    else
        *(size_t *)to = (size_t)integer;
    return true;
}

/* Sets the field unless a stronger source did. Within one source the last value counts. */
static bool set(struct options *o, const struct option *row, enum option_origin origin,
                const char *where, const char *text, struct error *err)
{
    unsigned char *set_by = &o->origin[row - option_table];

    if (*set_by != UNSET && *set_by < origin)
        return true;
    if (!parse(o, row, where, text, err))
        return false;
    *set_by = (unsigned char)origin;
    return true;
}

static const struct option *find_named(const char *name)
{
    for (const struct option *row = option_table; row->name; row++)
        if (!strcmp(row->name, name))
            return row;
    return NULL;
}

static const struct option *find_spelled(const char *prefix, const char *name, size_t len)
{
    char spelled[SPELLING_BYTES];

    for (const struct option *row = option_table; row->name; row++) {
        option_spell(spelled, prefix, row->name);
        if (strlen(spelled) == len && !memcmp(spelled, name, len))
            return row;
    }
    return NULL;
}

static const struct option *find_brief(const char *arg)
{
    for (const struct option *row = option_table; row->name; row++)
        if (row->brief && arg[1] == row->brief && arg[2] == '\0')
            return row;
    return NULL;
}

/* One option of the command line, at argv[*at]; moves *at onto its value. */
static bool read_option(struct options *o, int argc, char **argv, int *at, struct error *err)
{
    const char *arg = argv[*at], *equals = strchr(arg, '=');
    const size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
    const struct option *row = find_spelled("--", arg, len);
    const char *value = equals ? equals + 1 : NULL;
    char where[SPELLING_BYTES];

    if (!row)
        row = find_brief(arg);
    if (!row && !value && (row = find_spelled("--no-", arg, len))) {
        row = row->type == BOOL ? row : NULL;
        value = "false";
    }
    if (!row)
        return error_set(err, ERR_INPUT, "unknown option %.64s; see eddy --help", arg);
    if (!(row->commands & 1u << o->command))
        return error_set(err, ERR_INPUT, "%.*s is not an option of eddy %s", (int)len, arg,
                         option_commands[o->command].name);
    if (!value && row->type == BOOL)
        value = "true";
    if (!value && *at + 1 == argc)
        return error_set(err, ERR_INPUT, "%s needs a value: %s", arg, row->value);
    if (!value)
        value = argv[++*at];
    return set(o, row, COMMAND_LINE, option_spell(where, "--", row->name), value, err);
}

static bool read_arguments(struct options *o, int argc, char **argv, int at, struct error *err)
{
    const char *const *place = option_commands[o->command].place;
    bool literal = false;

    for (; at < argc; at++) {
        if (!literal && !strcmp(argv[at], "--")) {
            literal = true;
        } else if (!literal && argv[at][0] == '-' && argv[at][1]) {
            if (find_notice(argv[at]))
                continue;
            if (!read_option(o, argc, argv, &at, err))
                return false;
        } else if (!*place) {
            return error_set(err, ERR_INPUT, "eddy %s: unexpected argument \"%.64s\"",
                             option_commands[o->command].name, argv[at]);
        } else {
            const struct option *row = find_named(*place++);

            if (!set(o, row, COMMAND_LINE, row->value, argv[at], err))
                return false;
        }
    }
    return true;
}

/* An empty variable is an absent one: that is how compose files leave them out. */
static bool read_environment(struct options *o, struct error *err)
{
    char name[SPELLING_BYTES];
    const char *value;

    for (const struct option *row = option_table; row->name; row++) {
        value = getenv(option_spell(name, "EDDY_", row->name));
        if (value && *value && !set(o, row, ENVIRONMENT, name, value, err))
            return false;
    }
    return true;
}

const char *options_find_stray(size_t *at)
{
    while (environ[*at]) {
        const char *entry = environ[(*at)++];

        if (!strncmp(entry, "EDDY_", 5) && !find_spelled("EDDY_", entry, strcspn(entry, "=")))
            return entry;
    }
    return NULL;
}

/* *text is from malloc, for the caller to free, also on failure. */
static bool read_file(const char *path, char **text, size_t *len, struct error *err)
{
    FILE *file = fopen(path, "rbe");
    bool ok = true;

    if (!file)
        return error_set(err, ERR_INPUT, "%s: %s", path, strerror(errno));
    *text = malloc(LIMIT_CONFIG_BYTES + 1);
    if (!*text)
        ok = error_set(err, ERR_NOMEM, "%s: out of memory", path);
    else
        *len = fread(*text, 1, LIMIT_CONFIG_BYTES + 1, file);
    if (ok && ferror(file))
        ok = error_set(err, ERR_INPUT, "%s: %s", path, strerror(errno));
    if (ok && *len > LIMIT_CONFIG_BYTES)
        ok = error_set(err, ERR_INPUT, "%s: longer than %d bytes", path, LIMIT_CONFIG_BYTES);
    fclose(file);
    return ok;
}

/* Strings for strings, booleans for booleans, numbers for numbers; a size may be either. */
static bool fits(const struct option *row, const cJSON *item)
{
    if (row->type == BOOL)
        return cJSON_IsBool(item);
    if (row->type == STRING)
        return cJSON_IsString(item);
    return cJSON_IsNumber(item) || (row->type == SIZE && cJSON_IsString(item));
}

/* Whole numbers of up to 17 digits with all of them, where cJSON keeps 15; others as people write
 * them, unless that would not be the number. */
static void print_number(char text[NUMBER_BYTES], double value)
{
    const bool whole = value > -1e17 && value < 1e17 && value == (double)(long long)value;

    snprintf(text, NUMBER_BYTES, "%.15g", value);
    if (whole || strtod(text, NULL) != value)
        snprintf(text, NUMBER_BYTES, "%.17g", value);
}

static bool set_from_json(struct options *o, const cJSON *item, struct error *err)
{
    const struct option *row = find_named(item->string);
    char where[256], text[NUMBER_BYTES];

    if (!row || row->offset == offsetof(struct options, config))
        return error_set(err, ERR_INPUT, "%s: unknown option \"%.64s\"", o->config, item->string);
    if (!fits(row, item))
        return error_set(err, ERR_INPUT, "%s: %s is not a %s", o->config, row->name,
                         row->type == BOOL     ? "boolean"
                         : row->type == STRING ? "string"
                                               : "number");
    snprintf(where, sizeof(where), "%s: %s", o->config, row->name);
    if (cJSON_IsString(item))
        return set(o, row, CONFIG_FILE, where, item->valuestring, err);
    if (cJSON_IsNumber(item))
        print_number(text, item->valuedouble);
    else
        snprintf(text, sizeof(text), "%s", cJSON_IsTrue(item) ? "true" : "false");
    return set(o, row, CONFIG_FILE, where, text, err);
}

static bool read_config_text(struct options *o, const char *text, size_t len, struct error *err)
{
    const struct json_bounds bounds = { .max_depth = 1, .max_values = 4 * OPTIONS_MAX };
    struct error fault;
    const cJSON *item;
    cJSON *root;
    bool ok = true;

    if (json_scan(text, len, &bounds, &fault) != JSON_OK)
        return error_set(err, fault.code, "%s: %s", o->config, fault.message);
    root = cJSON_ParseWithLength(text, len);
    if (!root)
        return error_set(err, ERR_NOMEM, "%s: out of memory", o->config);
    if (!cJSON_IsObject(root))
        ok = error_set(err, ERR_INPUT, "%s: not a JSON object", o->config);
    for (item = root->child; item && ok; item = item->next)
        ok = set_from_json(o, item, err);
    cJSON_Delete(root);
    return ok;
}

static bool read_config(struct options *o, struct error *err)
{
    char *text = NULL;
    size_t len = 0;
    bool ok;

    if (!o->config)
        return true;
    ok = read_file(o->config, &text, &len, err) && read_config_text(o, text, len, err);
    free(text);
    return ok;
}

static bool read_defaults(struct options *o, struct error *err)
{
    for (const struct option *row = option_table; row->name; row++)
        if (row->def && !set(o, row, DEFAULT, row->name, row->def, err))
            return false;
    return true;
}

/* What one row cannot say. */
static bool agree(const struct options *o, struct error *err)
{
    if (o->command == OPTIONS_INSPECT && !o->model)
        return error_set(err, ERR_INPUT, "eddy inspect needs a PATH");
    if (o->command == OPTIONS_STATE && (!o->state_action || !o->state_file))
        return error_set(err, ERR_INPUT, "eddy state needs info, verify or convert, and a FILE");
    if (o->command == OPTIONS_STATE && strcmp(o->state_action, "convert") == 0 && !o->state_output)
        return error_set(err, ERR_INPUT, "eddy state convert needs a place to write: OUT");
    if (o->command == OPTIONS_SERVE && o->row_budget && o->row_budget <= o->max_batch)
        return error_set(err, ERR_INPUT, "row_budget (%d) is not greater than max_batch (%d)",
                         o->row_budget, o->max_batch);
    return true;
}

/* Returns where the options begin, or -1: argv[1] is no command. */
static int read_command(struct options *o, int argc, char **argv)
{
    o->command = OPTIONS_SERVE;
    if (argc < 2 || argv[1][0] == '-')
        return 1;
    for (int i = 0; i < OPTION_COMMANDS; i++) {
        if (!strcmp(argv[1], option_commands[i].name)) {
            o->command = (enum options_command)i;
            return 2;
        }
    }
    return -1;
}

bool options_init(struct options *o, int argc, char **argv, struct error *err)
{
    const struct option_notice *notice = NULL;
    int at;

    memset(o, 0, sizeof(*o));
    at = read_command(o, argc, argv);
    if (at < 0)
        return error_set(err, ERR_INPUT, "unknown command \"%.64s\"; see eddy --help", argv[1]);
    for (int i = at; i < argc && !notice && strcmp(argv[i], "--") != 0; i++)
        notice = find_notice(argv[i]);
    if (notice && notice->command != OPTIONS_PRINT_CONFIG) {
        o->command = notice->command;
        return true;
    }
    if (!read_arguments(o, argc, argv, at, err) || !read_environment(o, err) ||
        !read_config(o, err) || !read_defaults(o, err) || !agree(o, err))
        return false;
    if (notice)
        o->command = notice->command;
    return true;
}

void options_finish(struct options *o)
{
    for (const struct option *row = option_table; row->name; row++) {
        if (row->type == STRING) {
            free(*(char **)option_field(o, row));
            *(char **)option_field(o, row) = NULL;
        }
    }
}
