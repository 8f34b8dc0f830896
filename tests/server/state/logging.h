/* logging.h - a CPU that keeps logs of steps, as a GPU does.
 *
 * The log of a slot holds the whole state, and how many steps are in it; in the record there is
 * nothing then but NaNs. So whoever copies, fetches or steps on a record whose log is not empty is
 * found out, by what is in it or because this asserts that both sides count alike. All that is
 * computed is what the CPU computes. */
#ifndef TESTS_SERVER_STATE_LOGGING_H
#define TESTS_SERVER_STATE_LOGGING_H

#include <stdint.h>

struct backend;

/* Changes a CPU's backend, until it is closed, and before late_make() does; at most LOGGING_MAX at
 * a time. log_steps: as in backend.h, above 1. */
enum { LOGGING_MAX = 8 };
void logging_make(struct backend *be, int log_steps);
/* Since the program began: rows that went into a log, once for each layer, and logs that were
 * settled. */
uint64_t logging_rows(void);
uint64_t logging_settled(void);

#endif
