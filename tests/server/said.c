#include "tests/server/said.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

struct said said_begin(void)
{
    struct said s = { .to = tmpfile() };

    assert_non_null(s.to);
    fflush(stderr);
    s.before = dup(STDERR_FILENO);
    assert_true(s.before >= 0);
    assert_true(dup2(fileno(s.to), STDERR_FILENO) >= 0);
    return s;
}

void said_end(struct said *s, char *text, size_t size)
{
    fflush(stderr);
    assert_true(dup2(s->before, STDERR_FILENO) >= 0);
    close(s->before);
    rewind(s->to);
    text[fread(text, 1, size - 1, s->to)] = '\0';
    fclose(s->to);
}
