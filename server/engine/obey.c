/* obey.c - every command by its kind: what it does, and which change it has to wait for. */
#include <stdlib.h>

#include "server/engine/engine_internal.h"
#include "server/engine/share.h"

/* What becomes of the snapshot that it names. */
enum snapshot_use {
    SNAPSHOT_LOOKS, /* it is looked at, or there is none */
    SNAPSHOT_USED,  /* something goes there, or it goes: not while it is changed itself */
    SNAPSHOT_ADDED, /* a new one, below the newest on the way to the session's head */
};

struct rule {
    bool (*obey)(struct engine *e, struct command *c);
    enum session_use session;
    enum snapshot_use snapshot;
    bool exports;
};

static const struct rule rules[] = {
    [COMMAND_TURN] = { .obey = obey_turn, .session = USE_MOVES },
    [COMMAND_SESSION_CREATE] = { .obey = obey_session_create,
                                 .session = USE_CHANGES,
                                 .snapshot = SNAPSHOT_USED },
    [COMMAND_SESSION_GET] = { .obey = obey_session_get },
    [COMMAND_SESSION_LIST] = { .obey = obey_session_list },
    [COMMAND_SESSION_DELETE] = { .obey = obey_session_delete, .session = USE_CHANGES },
    [COMMAND_SESSION_FORK] = { .obey = obey_session_fork,
                               .session = USE_CHANGES,
                               .snapshot = SNAPSHOT_USED },
    [COMMAND_SESSION_RESTORE] = { .obey = obey_session_restore,
                                  .session = USE_MOVES,
                                  .snapshot = SNAPSHOT_USED },
    [COMMAND_SESSION_ROLLBACK] = { .obey = obey_session_rollback,
                                   .session = USE_MOVES,
                                   .snapshot = SNAPSHOT_USED },
    [COMMAND_SESSION_EXPORT] = { .obey = obey_session_export, .exports = true },
    [COMMAND_SESSION_IMPORT] = { .obey = obey_session_import, .session = USE_MOVES },
    [COMMAND_SLOT_LIST] = { .obey = obey_slot_list },
    [COMMAND_SNAPSHOT_TAKE] = { .obey = obey_snapshot_take,
                                .session = USE_CHANGES,
                                .snapshot = SNAPSHOT_ADDED },
    [COMMAND_SNAPSHOT_LIST] = { .obey = obey_snapshot_list },
    [COMMAND_SNAPSHOT_GET] = { .obey = obey_snapshot_get },
    [COMMAND_SNAPSHOT_DELETE] = { .obey = obey_snapshot_delete,
                                  .session = USE_LOOKS,
                                  .snapshot = SNAPSHOT_USED },
    [COMMAND_SNAPSHOT_EXPORT] = { .obey = obey_snapshot_export, .exports = true },
    [COMMAND_SNAPSHOT_IMPORT] = { .obey = obey_snapshot_import },
};

_Static_assert(sizeof(rules) / sizeof(rules[0]) == COMMAND_SNAPSHOT_IMPORT + 1,
               "every kind has its rule");

enum session_use command_use(const struct command *c)
{
    return rules[c->kind].session;
}

bool command_exports(const struct command *c)
{
    return rules[c->kind].exports;
}

bool command_imports(const struct command *c)
{
    return c->kind == COMMAND_SESSION_IMPORT || c->kind == COMMAND_SNAPSHOT_IMPORT;
}

bool command_no_memory(struct command *c)
{
    return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the answer");
}

void command_take_back(struct command *c)
{
    free(c->sessions->metadata);
    free(c->sessions);
    c->sessions = NULL;
    c->items = 0;
}

bool command_page(struct command *c, const struct id_map *of, struct id_page *page)
{
    page->owner = c->owner;
    page->after = &c->after;
    page->room = (size_t)c->count + 1;
    page->entry = malloc(page->room * sizeof(struct id_entry *));
    if (!page->entry)
        return command_no_memory(c);
    id_map_page(of, page);
    c->more = page->count == page->room;
    page->count -= c->more;
    return true;
}

/* What changes the snapshot at this place; whole: or one below it. */
static struct entry *find_storing(struct lineage *place, bool whole)
{
    struct lineage *at = place;

    while (at && !(at->snapshot && at->snapshot->storing))
        at = whole ? lineage_next(place, at) : NULL;
    return at ? at->snapshot->storing : NULL;
}

static struct entry *find_way_of_snapshot(const struct engine *e, const struct command *c,
                                          const struct session *s)
{
    const struct snapshot *named = id_map_find(&e->snapshots, c->owner, &c->snapshot);

    switch (rules[c->kind].snapshot) {
    case SNAPSHOT_USED:
        return named ? find_storing(named->place, c->whole) : NULL;
    case SNAPSHOT_ADDED:
        return s ? find_storing(lineage_nearest(s->snapshot), false) : NULL;
    default:
        return NULL;
    }
}

/* The change that has to be kept before this command can be looked at. */
static struct entry *find_way(const struct engine *e, const struct command *c)
{
    const struct session *s = id_map_find(&e->sessions, c->owner, &c->session);
    struct entry *x = find_way_of_snapshot(e, c, s);
    enum session_use use = command_use(c);

    if (x)
        return x;
    if (!s || use == USE_LOOKS || (use == USE_MOVES && s->job)) /* with a job it is busy */
        return NULL;
    return s->storing;
}

void engine_obey(struct engine *e, struct command *c)
{
    const bool refused = e->closing || e->lost;
    struct entry *x = refused ? NULL : find_way(e, c);

    c->later = false; /* it may have been put off before */
    if (x) {
        entry_defer(x, c);
        return;
    }
    if (!refused && share_asks(e, c))
        return;
    if (e->closing)
        problem_set(&c->problem, PROBLEM_SHUTTING_DOWN, NULL, "the server is stopping");
    else if (e->lost)
        problem_set(&c->problem, PROBLEM_DEVICE_ERROR, NULL, "the device failed");
    else
        rules[c->kind].obey(e, c);
    if (!c->later)
        engine_answer(e, c);
}
