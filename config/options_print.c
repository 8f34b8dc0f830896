/* options_print.c - the option table for people: --help, the README's table, --print-config. */
#include "config/options.h"

#include <string.h>

#include "config/options_internal.h"

/* "serve, run": the commands of a mask. */
static void print_commands(unsigned mask, FILE *out)
{
    const char *separator = "";

    for (int i = 0; i < OPTION_COMMANDS; i++) {
        if (mask & 1u << i) {
            fprintf(out, "%s%s", separator, option_commands[i].name);
            separator = ", ";
        }
    }
}

enum { HELP_COLUMN = 32, HELP_WIDTH = 96 };

/* Words from the help column on, broken at the page's width. */
static void print_words(const char *text, int *column, FILE *out)
{
    while (*text) {
        int len = (int)strcspn(text, " ");

        if (*column + 1 + len > HELP_WIDTH) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            *column = HELP_COLUMN;
        }
        *column += fprintf(out, " %.*s", len, text);
        text += len;
        text += strspn(text, " ");
    }
}

static void print_option_help(const struct option *row, FILE *out)
{
    char left[2 * SPELLING_BYTES], spelled[SPELLING_BYTES], brief[] = "-?,", note[256];
    int column;

    brief[1] = row->brief;
    option_spell(spelled, row->type == BOOL ? "--[no-]" : "--", row->name);
    snprintf(left, sizeof(left), "  %3s %s %s", row->brief ? brief : "", spelled,
             row->value ? row->value : "");
    column = fprintf(out, "%-*s", HELP_COLUMN, left);
    print_words(row->help, &column, out);
    if (row->choices) {
        snprintf(note, sizeof(note), "(%s)", row->choices);
        print_words(note, &column, out);
    }
    if (row->def) {
        snprintf(note, sizeof(note), "[%s]", row->def);
        print_words(note, &column, out);
    }
    fputc('\n', out);
}

void options_print_help(FILE *out)
{
    unsigned mask = 0;
    int column;

    fputs("eddy - serve language models whose memory is a recurrent state\n\nUsage:\n", out);
    for (int i = 0; i < OPTION_COMMANDS; i++) {
        column =
            fprintf(out, "  eddy %s %s", option_commands[i].name, option_commands[i].arguments);
        fprintf(out, "%*s %s\n", HELP_COLUMN + 4 - column, "", option_commands[i].help);
    }
    for (const struct option *row = option_table; row->name; row++) {
        if (row->commands != mask) {
            mask = row->commands;
            fputs("\nOptions of ", out);
            print_commands(mask, out);
            fputs(":\n", out);
        }
        print_option_help(row, out);
    }
    fputs("\nInstead of doing it:\n", out);
    for (const struct option_notice *n = option_notices; n->name; n++)
        fprintf(out, "      %-*s %s\n", HELP_COLUMN - 6, n->name, n->help);
    fputs("\nAn option is also read from the environment (--row-budget: EDDY_ROW_BUDGET) and from\n"
          "the config file ({\"row_budget\": 512}). The command line wins over the environment,\n"
          "and that over the file. Defaults are in brackets; sizes take K, M, G or T.\n",
          out);
}

/* What the table's column says of the values that an option takes. */
static void print_range(const struct option *row, FILE *out)
{
    const char *c = row->choices;

    if (row->type == BOOL) {
        fputs("true, false", out);
    } else if (c) {
        for (; *c; c++)
            fputs(*c == '|' ? ", " : (char[]){ *c, '\0' }, out);
    } else if (row->type == STRING) {
        fputs("text", out);
    } else if (row->type == SIZE) {
        fprintf(out, "%lld to %lldT", row->min, row->max >> 40);
    } else {
        fprintf(out, "%lld to %lld", row->min, row->max);
    }
}

void options_print_table(FILE *out)
{
    char option[SPELLING_BYTES], variable[SPELLING_BYTES];

    fputs("| option | environment | default | values | commands | meaning |\n"
          "|---|---|---|---|---|---|\n",
          out);
    for (const struct option *row = option_table; row->name; row++) {
        fprintf(out, "| `%s`", option_spell(option, "--", row->name));
        if (row->brief)
            fprintf(out, ", `-%c`", row->brief);
        fprintf(out, " | `%s` | %s%s%s | ", option_spell(variable, "EDDY_", row->name),
                row->def ? "`" : "", row->def ? row->def : "", row->def ? "`" : "");
        print_range(row, out);
        fputs(" | ", out);
        print_commands(row->commands, out);
        fprintf(out, " | %s |\n", row->help);
    }
}

static void print_value(const struct options *o, const struct option *row, FILE *out)
{
    char text[64];
    const void *at = option_field(o, row);
    const char *shown = text, *scheme, *at_sign;

    if (row->type == STRING)
        shown = *(char *const *)at ? *(char *const *)at : "-";
    else if (row->type == BOOL)
        shown = *(const bool *)at ? "true" : "false";
    else if (row->type == INT)
        snprintf(text, sizeof(text), "%d", *(const int *)at);
    else if (row->type == LONG)
        snprintf(text, sizeof(text), "%ld", *(const long *)at);
    else if (row->type == SIZE)
        snprintf(text, sizeof(text), "%zu", *(const size_t *)at);
    else
        snprintf(text, sizeof(text), "%.15g", *(const double *)at);
    scheme = strstr(shown, "://");
    at_sign = row->secret ? strrchr(shown, '@') : NULL;
    if (at_sign)
        fprintf(out, "%-16s %.*s***%s ", row->name,
                scheme && scheme < at_sign ? (int)(scheme + 3 - shown) : 0, shown, at_sign);
    else
        fprintf(out, "%-16s %-24s ", row->name, shown);
}

void options_print_config(const struct options *o, FILE *out)
{
    char variable[SPELLING_BYTES];

    for (const struct option *row = option_table; row->name; row++) {
        print_value(o, row, out);
        switch ((enum option_origin)o->origin[row - option_table]) {
        case COMMAND_LINE:
            fputs("command line\n", out);
            break;
        case ENVIRONMENT:
            fprintf(out, "%s\n", option_spell(variable, "EDDY_", row->name));
            break;
        case CONFIG_FILE:
            fprintf(out, "%s\n", o->config);
            break;
        case UNSET:
        case DEFAULT:
            fputs("default\n", out);
            break;
        }
    }
}
