/* snapshots.c - taking, listing, describing and deleting snapshots. */
#include "server/api/api.h"
#include "server/api/objects.h"
#include "server/api/pending.h"
#include "server/api/verbs.h"

static void answer_snapshot(struct api *api, const struct command *c, struct json_out *o)
{
    (void)api;
    put_snapshot(o, &c->snapshots[0]);
}

static void answer_list(struct api *api, const struct command *c, struct json_out *o)
{
    (void)api;
    put_snapshot_list(o, c);
}

static void answer_deleted(struct api *api, const struct command *c, struct json_out *o)
{
    (void)api;
    json_open(o, '{');
    put_deleted_fields(o, c->snapshot.text, "snapshot.deleted");
    json_key(o, "snapshots");
    json_int(o, c->count);
    json_close(o, '}');
}

void session_snapshot(struct exchange *x, void *app)
{
    struct command *c = verb_with_body(x, app, SESSION_SNAPSHOT, COMMAND_SNAPSHOT_TAKE);

    if (c)
        api_ask(app, x, c, answer_snapshot);
}

void session_snapshots(struct exchange *x, void *app)
{
    struct command *page = verb_list(x, COMMAND_SNAPSHOT_LIST), *c;

    if (!page)
        return;
    c = verb_of_session(x, COMMAND_SNAPSHOT_LIST);
    if (c) {
        c->count = page->count;
        c->after = page->after;
        api_ask(app, x, c, answer_list);
    }
    command_free(page);
}

void snapshots_list(struct exchange *x, void *app)
{
    struct command *c = verb_list_snapshots(x);

    if (c)
        api_ask(app, x, c, answer_list);
}

void snapshot_get(struct exchange *x, void *app)
{
    struct command *c = verb_of_snapshot(x, COMMAND_SNAPSHOT_GET);

    if (c)
        api_ask(app, x, c, answer_snapshot);
}

void snapshot_delete(struct exchange *x, void *app)
{
    struct command *c = verb_delete_snapshot(x);

    if (c)
        api_ask(app, x, c, answer_deleted);
}
