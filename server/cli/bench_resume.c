/* bench_resume.c - the time to the next token of a session, against how long it is.
 *
 * One session is led through ever longer contexts. At each, a turn of one token in and one
 * token out is timed while its state is resident, and after it was parked in host memory
 * (where an imported state is). Replay is the time that taking the context in took. */
#include "server/cli/bench.h"

#include <stdio.h>
#include <string.h>

#include "config/error.h"

#define BUILD_SECONDS 75.0 /* for the contexts; a slow model stops at a shorter one */
enum { TURNS = 15, PIECE = 4096 };

static const char *const session = "long", *const parked = "parked";

struct context {
    size_t tokens; /* wanted */
    size_t reached;
    double replay; /* seconds */
    struct samples resident, host;
};

static double turn(struct bench *b, const char *prefix, size_t prompt, int tokens)
{
    return bench_turns(
        b, &(struct turns){ .prefix = prefix, .n = 1, .prompt = prompt, .tokens = tokens });
}

static bool grow(struct bench *b, struct context *c, size_t *position, double *seconds)
{
    while (*position < c->tokens && *seconds < BUILD_SECONDS) {
        size_t left = c->tokens - *position, n = left < PIECE ? left : PIECE;
        double piece = turn(b, session, n, 0);

        if (piece < 0)
            return false;
        *position += n;
        *seconds += piece;
    }
    c->reached = *position;
    c->replay = *seconds;
    return true;
}

/* The newest state of the session as another one, whose record is in host memory. */
static bool park(struct bench *b)
{
    struct command *c = bench_ask(b, COMMAND_SESSION_EXPORT, session, 0, NULL);
    struct checkpoint *copy;
    bool on_host;

    if (!c)
        return false;
    copy = c->checkpoint;
    c->checkpoint = NULL;
    command_free(c);
    c = bench_ask(b, COMMAND_SESSION_IMPORT, parked, 0, copy);
    if (!c)
        return false;
    on_host = strcmp(c->sessions[0].residency, "host") == 0;
    if (!on_host)
        fprintf(stderr, "eddy: an imported state is not in host memory\n");
    command_free(c);
    return on_host;
}

static bool measure(struct bench *b, struct context *c)
{
    for (int i = 0; i < TURNS; i++) {
        double resident = turn(b, session, 1, 1), host;

        if (resident < 0 || !park(b) || (host = turn(b, parked, 1, 1)) < 0)
            return false;
        samples_add(&c->resident, resident);
        samples_add(&c->host, host);
    }
    return true;
}

static void print(struct context *c)
{
    printf("| %zu | %.2f (%.2f to %.2f) | %.2f (%.2f to %.2f) | %.0f | %.0f x |\n", c->reached,
           samples_median(&c->resident) * 1e3, samples_least(&c->resident) * 1e3,
           samples_most(&c->resident) * 1e3, samples_median(&c->host) * 1e3,
           samples_least(&c->host) * 1e3, samples_most(&c->host) * 1e3, c->replay * 1e3,
           c->replay / samples_median(&c->resident));
}

static bool measure_contexts(struct bench *b, const size_t length[3])
{
    size_t position = 0;
    double seconds = 0;

    printf("\n| resume: tokens of context | resident, ms | parked, ms | replay, ms | resident "
           "against replay |\n|---|---|---|---|---|\n");
    for (int i = 0; i < 3; i++) {
        struct context c = { .tokens = length[i] };

        if (seconds >= BUILD_SECONDS)
            break;
        if (!grow(b, &c, &position, &seconds) || !measure(b, &c))
            return false;
        print(&c);
    }
    printf("\nMilliseconds from one new token to the next one's answer, medians of %d turns; "
           "replay is\nmeasured once, as the context is built%s.\n",
           TURNS, position < length[2] ? ", which was stopped early to save time" : "");
    return true;
}

bool bench_resume(struct bench *b, const size_t length[3])
{
    struct error err;
    bool ok;

    if (!local_start(&b->local, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
        return false;
    }
    ok = bench_sessions(b, COMMAND_SESSION_CREATE, session, 1) &&
         turn(b, NULL, PIECE / 8, 1) >= 0 && measure_contexts(b, length);
    local_stop(&b->local);
    fflush(stdout);
    return ok;
}
