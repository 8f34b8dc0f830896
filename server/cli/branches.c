#include "server/cli/branches.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/error.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/cli/local.h"
#include "server/cli/state_file.h"
#include "server/state/checkpoint.h"
#include "server/state/format.h"
#include "server/state/seal.h"

static struct id *talking(struct branches *b)
{
    return &b->session[b->depth];
}

/* Sends a command on the talking session. NULL: *p says why. */
static struct command *ask(struct branches *b, enum command_kind kind, struct checkpoint *import,
                           struct problem *p)
{
    struct command *c = command_create(kind, NULL);

    if (!c) {
        checkpoint_destroy(import);
        problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for a command");
        return NULL;
    }
    c->session = *talking(b);
    c->checkpoint = import;
    c->count = c->turns = 1;
    if (local_ask(b->local, c))
        return c;
    *p = c->problem;
    command_free(c);
    return NULL;
}

static bool done(struct branches *b, const char *what, struct command *c)
{
    uint64_t position = c->items && c->sessions ? c->sessions[0].position : 0;

    snprintf(b->note, sizeof(b->note), "%s; %" PRIu64 " tokens", what, position);
    command_free(c);
    return true;
}

const char *branches_note(const struct branches *b)
{
    return b->note;
}

bool branches_init(struct branches *b, struct local *local, struct problem *p)
{
    struct command *c;

    *b = (struct branches){ .local = local };
    c = ask(b, COMMAND_SESSION_CREATE, NULL, p);
    if (!c)
        return false;
    *talking(b) = c->sessions[0].id;
    command_free(c);
    return true;
}

bool branches_look(struct branches *b, struct session_info *at, struct problem *p)
{
    struct command *c = ask(b, COMMAND_SESSION_GET, NULL, p);

    if (!c)
        return false;
    *at = c->sessions[0];
    at->metadata = NULL;
    command_free(c);
    return true;
}

bool branches_undo(struct branches *b, const char *unused, struct problem *p)
{
    struct command *c = ask(b, COMMAND_SESSION_ROLLBACK, NULL, p);

    (void)unused;
    if (!c && p->what == PROBLEM_HISTORY)
        problem_set(p, PROBLEM_HISTORY, NULL, "there is no turn to take back");
    return c && done(b, "back to before the last turn", c);
}

bool branches_fork(struct branches *b, const char *unused, struct problem *p)
{
    struct command *c;

    (void)unused;
    if (b->depth + 1 == BRANCHES_MAX)
        return problem_set(p, PROBLEM_SESSION_QUOTA, NULL, "forks go %d deep at most",
                           BRANCHES_MAX - 1);
    c = ask(b, COMMAND_SESSION_FORK, NULL, p);
    if (!c)
        return false;
    b->session[++b->depth] = c->sessions[0].id;
    return done(b, "in a fork", c);
}

bool branches_back(struct branches *b, const char *unused, struct problem *p)
{
    struct command *c;

    (void)unused;
    if (b->depth == 0)
        return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "this is no fork");
    command_free(ask(b, COMMAND_SESSION_DELETE, NULL, p));
    b->depth--;
    c = ask(b, COMMAND_SESSION_GET, NULL, p);
    return c && done(b, "back from the fork", c);
}

bool branches_save(struct branches *b, const char *path, struct problem *p)
{
    struct command *c = ask(b, COMMAND_SESSION_EXPORT, NULL, p);
    struct error err;
    void *file = NULL;
    size_t len;
    bool ok;

    if (!c)
        return false;
    ok = format_encode(c->checkpoint, model_info(b->local->parts.model), &file, &len, p);
    if (ok && !state_file_write(path, file, len, &err))
        ok = problem_from_error(p, &err);
    free(file);
    if (ok)
        return done(b, "saved", c);
    command_free(c);
    return false;
}

bool branches_load(struct branches *b, const char *path, struct problem *p)
{
    const struct model_info *info = model_info(b->local->parts.model);
    struct checkpoint *checkpoint;
    struct command *c;
    struct error err;
    uint64_t owner;
    void *file;
    size_t len;

    if (!state_file_read(path, format_max_bytes(info) + SEAL_BYTES, &file, &len, &err))
        return problem_from_error(p, &err);
    if (seal_find(file, len, &owner)) /* whoever may read the file may go on from it */
        len -= SEAL_BYTES;
    checkpoint = engine_decode(b->local->engine, file, len, p);
    free(file);
    if (!checkpoint)
        return false;
    c = ask(b, COMMAND_SESSION_IMPORT, checkpoint, p);
    return c && done(b, "loaded", c);
}
