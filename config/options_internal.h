/* options_internal.h - the shape of the option table, for the files options*.c only.
 *
 * options_table.c holds the rows, options.c fills struct options from the four sources,
 * options_print.c writes help, Markdown and the values in force. */
#ifndef CONFIG_OPTIONS_INTERNAL_H
#define CONFIG_OPTIONS_INTERNAL_H

#include <stddef.h>

#include "config/options.h"

enum option_type { STRING, BOOL, INT, LONG, SIZE, DOUBLE };

/* Strongest first. */
enum option_origin { UNSET, COMMAND_LINE, ENVIRONMENT, CONFIG_FILE, DEFAULT };

struct option {
    const char *name; /* as struct options spells it */
    enum option_type type;
    size_t offset;
    char brief;          /* 'p' for -p, or 0 */
    const char *def;     /* text, or NULL: not set */
    long long min, max;  /* of a number */
    const char *choices; /* of a string, "a|b|c"; NULL: any */
    unsigned commands;   /* that take it on the command line */
    bool secret;         /* what is before its @ is not for a screen */
    const char *value;   /* what --help calls the value */
    const char *help;
};

/* Ended by a row without a name; at most OPTIONS_MAX rows. */
extern const struct option option_table[];

/* What argv[1] may be. */
struct option_command {
    const char *name, *arguments, *help;
    const char *place[4]; /* the options that bare arguments are, in order; ended by NULL */
};

enum { OPTION_COMMANDS = OPTIONS_HEALTH + 1 };
extern const struct option_command option_commands[OPTION_COMMANDS];

/* What is printed instead of doing the command. Ended by a row without a name. */
struct option_notice {
    const char *name;
    enum options_command command;
    const char *help;
};

extern const struct option_notice option_notices[];

enum { SPELLING_BYTES = 64 };

/* "row_budget" as --row-budget (prefix "--") or EDDY_ROW_BUDGET (prefix "EDDY_"). */
const char *option_spell(char out[SPELLING_BYTES], const char *prefix, const char *name);

static inline void *option_field(const struct options *o, const struct option *row)
{
    return (char *)o + row->offset;
}

#endif
