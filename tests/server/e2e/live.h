/* live.h - the real server as a child process: `eddy serve` on a free port.
 *
 * The executable's path comes in $EDDY. What a test starts it ends; a child whose
 * test died is killed by the system. */
#ifndef TESTS_SERVER_E2E_LIVE_H
#define TESTS_SERVER_E2E_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define DEMO   "weights/demo"
#define MAMBA  "tests/data/mamba-tiny"
#define MAMBA2 "tests/data/mamba2-tiny"
#define RWKV7  "tests/data/rwkv7-tiny-hf"

struct live {
    pid_t pid;
    int port;
    int out; /* its standard output */
};

/* Options end with NULL. Waits until it is ready. */
void live_start(struct live *l, const char *model, ...) __attribute__((sentinel));
/* Sends SIGTERM and returns the exit code; it must end within 30 s. */
int live_stop(struct live *l);
void live_kill(struct live *l);
void live_signal(const struct live *l, int number);
int live_wait(struct live *l); /* the exit code */

long live_rss(const struct live *l); /* bytes */
int live_fds(const struct live *l);
/* The value of a line of /metrics that begins with this name, labels included. */
double live_metric(const struct live *l, const char *name);
/* Waits until a metric is `value`; false after so many seconds. */
bool live_reaches(const struct live *l, const char *name, double value, double seconds);
void live_is_well(const struct live *l); /* /health answers 200 */

/* Counts are scaled down, and memory is not measured, in a sanitizer's build. */
bool live_sanitized(void);
double seconds_now(void);

#endif
