/* error.h - how everything below server/ reports a failure.
 *
 * A function that can fail returns false (or NULL) and fills *err with a code and one
 * sentence for a person. Each code has one consequence; the ones an HTTP client sees are
 * mapped in server/problem.c. Any thread; a struct error belongs to its caller. */
#ifndef CONFIG_ERROR_H
#define CONFIG_ERROR_H

#include <stdbool.h>

enum error_code {
    ERR_NONE,
    ERR_INPUT,  /* the caller's data is wrong: 400 */
    ERR_LIMIT,  /* a bound of config/limits.h or of a pool was reached: 429 or 503 */
    ERR_NOMEM,  /* 503 */
    ERR_IO,     /* a file or socket failed; errno's text is in the message */
    ERR_SPACE,  /* the disk is full, or a quota of it: 507 */
    ERR_FORMAT, /* a file is not what it claims to be: refuse to start, or 422 for a snapshot */
    ERR_DEVICE, /* the accelerator failed: drain and exit */
    ERR_AWAY,   /* another server does not answer in time: 503 */
};

struct error {
    enum error_code code;
    char message[512];
};

/* Formats the message (cut at the buffer's end) and returns false. err may not be NULL. */
bool error_set(struct error *err, enum error_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
