#include "server/problem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct problem_row rows[PROBLEM_COUNT] = {
#define PROBLEM_ROW(name, status, type, code, retry)                                               \
    [PROBLEM_##name] = { status, type, code, retry },
    PROBLEM_TABLE(PROBLEM_ROW)
#undef PROBLEM_ROW
};

const struct problem_row *problem_row(enum problem_code what)
{
    assert(what > PROBLEM_NONE && what < PROBLEM_COUNT);
    return &rows[what];
}

bool problem_set(struct problem *p, enum problem_code what, const char *param, const char *fmt, ...)
{
    va_list args;

    p->what = what;
    snprintf(p->param, sizeof(p->param), "%s", param ? param : "");
    va_start(args, fmt);
    vsnprintf(p->message, sizeof(p->message), fmt, args);
    va_end(args);
    return false;
}

void problem_add(struct problem *p, const char *fmt, ...)
{
    const size_t len = strlen(p->message);
    va_list args;

    va_start(args, fmt);
    vsnprintf(p->message + len, sizeof(p->message) - len, fmt, args);
    va_end(args);
}

bool problem_from_error(struct problem *p, const struct error *err)
{
    static const enum problem_code of[] = {
        [ERR_NONE] = PROBLEM_INTERNAL,       [ERR_INPUT] = PROBLEM_BAD_REQUEST,
        [ERR_LIMIT] = PROBLEM_QUEUE_FULL,    [ERR_NOMEM] = PROBLEM_OUT_OF_MEMORY,
        [ERR_IO] = PROBLEM_INTERNAL,         [ERR_FORMAT] = PROBLEM_SNAPSHOT_INVALID,
        [ERR_DEVICE] = PROBLEM_DEVICE_ERROR, [ERR_SPACE] = PROBLEM_STORAGE_FULL,
        [ERR_AWAY] = PROBLEM_STORE_AWAY,
    };
    return problem_set(p, of[err->code], NULL, "%s", err->message);
}
