/* cli.h - the commands of `eddy`; each returns the process's exit code.
 *
 * 0: done. 1: it did not work out. 2: the command line or the model is wrong. */
#ifndef SERVER_CLI_CLI_H
#define SERVER_CLI_CLI_H

struct options;

enum { EXIT_USAGE = 2 };

int cli_serve(const struct options *o);
int cli_run(const struct options *o);
int cli_inspect(const struct options *o);
int cli_bench(const struct options *o);
int cli_show_state(const char *path); /* what inspect does with a saved state */
int cli_state(const struct options *o);
int cli_health(const struct options *o);

#endif
