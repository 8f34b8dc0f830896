/* main.c - the command line's first word decides. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/error.h"
#include "config/limits.h"
#include "config/options.h"
#include "server/cli/cli.h"

/* Opens what is closed of the standard descriptors, so that no other file gets such a number:
 * what is printed would go there, and libuv aborts rather than close one. They still fail when
 * they are read or written. */
static bool hold_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd) /* the lowest */
            return false;
    return true;
}

static int dispatch(const struct options *o)
{
    switch (o->command) {
    case OPTIONS_SERVE:
        return cli_serve(o);
    case OPTIONS_RUN:
        return cli_run(o);
    case OPTIONS_INSPECT:
        return cli_inspect(o);
    case OPTIONS_BENCH:
        return cli_bench(o);
    case OPTIONS_STATE:
        return cli_state(o);
    case OPTIONS_HEALTH:
        return cli_health(o);
    case OPTIONS_HELP:
        options_print_help(stdout);
        break;
    case OPTIONS_VERSION:
        printf("eddy %s\n", EDDY_VERSION);
        break;
    case OPTIONS_PRINT_LIMITS:
        limits_print(stdout);
        break;
    case OPTIONS_PRINT_CONFIG:
        options_print_config(o, stdout);
        break;
    case OPTIONS_PRINT_OPTIONS:
        options_print_table(stdout);
        break;
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct options options;
    struct error err = { 0 };
    int code = EXIT_USAGE;

    if (!hold_standard())
        return EXIT_FAILURE;
    if (options_init(&options, argc, argv, &err))
        code = dispatch(&options);
    else
        fprintf(stderr, "eddy: %s\n", err.message);
    options_finish(&options);
    return code;
}
