#include "server/api/objects.h"

#include <math.h>
#include <string.h>

static void put_seconds(struct json_out *o, const char *key, double seconds)
{
    json_key(o, key);
    json_int(o, (int64_t)floor(seconds));
}

/* Of another state nothing is known but that it is there. */
static bool can_be_had(const char *tier)
{
    return strcmp(tier, "foreign") != 0 && strcmp(tier, "damaged") != 0;
}

static void put_bytes(struct json_out *o, const char *key, size_t bytes, const char *tier)
{
    json_key(o, key);
    if (can_be_had(tier))
        json_uint(o, bytes);
    else
        json_null(o);
}

static void put_id(struct json_out *o, const char *key, const struct id *id)
{
    json_key(o, key);
    json_string(o, id->text[0] ? id->text : NULL);
}

void put_session_fields(struct json_out *o, const struct session_info *s, const char *model)
{
    put_id(o, "id", &s->id);
    json_key(o, "object");
    json_string(o, "session");
    json_key(o, "model");
    json_string(o, can_be_had(s->residency) ? model : NULL);
    put_seconds(o, "created", s->created);
    put_seconds(o, "updated", s->updated);
    json_key(o, "position");
    json_uint(o, s->position);
    json_key(o, "version");
    json_uint(o, s->version);
    put_id(o, "head", &s->head);
    json_key(o, "residency");
    json_string(o, s->residency);
    put_bytes(o, "state_bytes", s->state_bytes, s->residency);
    json_key(o, "busy");
    json_bool(o, s->busy);
    json_key(o, "expires_at");
    if (s->expires > 0)
        json_int(o, (int64_t)floor(s->expires));
    else
        json_null(o);
    json_key(o, "metadata");
    if (s->metadata)
        json_raw(o, s->metadata, strlen(s->metadata));
    else
        json_raw(o, "{}", 2);
}

void put_session(struct json_out *o, const struct session_info *s, const char *model)
{
    json_open(o, '{');
    put_session_fields(o, s, model);
    json_close(o, '}');
}

void put_snapshot(struct json_out *o, const struct snapshot_info *s)
{
    json_open(o, '{');
    put_id(o, "id", &s->id);
    json_key(o, "object");
    json_string(o, "snapshot");
    put_id(o, "session", &s->session);
    put_id(o, "parent", &s->parent);
    json_key(o, "position");
    json_uint(o, s->position);
    put_bytes(o, "bytes", s->bytes, s->tier);
    json_key(o, "fingerprint");
    json_hex(o, s->fingerprint, sizeof(s->fingerprint));
    json_key(o, "label");
    json_string(o, s->label[0] ? s->label : NULL);
    json_key(o, "tier");
    json_string(o, s->tier);
    json_key(o, "pinned");
    json_bool(o, s->pinned);
    put_seconds(o, "created", s->created);
    json_close(o, '}');
}

static void open_list(struct json_out *o)
{
    json_open(o, '{');
    json_key(o, "object");
    json_string(o, "list");
    json_key(o, "data");
    json_open(o, '[');
}

static void close_list(struct json_out *o, const struct id *first, const struct id *last, bool more)
{
    json_close(o, ']');
    json_key(o, "first_id");
    json_string(o, first ? first->text : NULL);
    json_key(o, "last_id");
    json_string(o, last ? last->text : NULL);
    json_key(o, "has_more");
    json_bool(o, more);
    json_close(o, '}');
}

void put_session_list(struct json_out *o, const struct command *c, const char *model)
{
    open_list(o);
    for (int i = 0; i < c->items; i++)
        put_session(o, &c->sessions[i], model);
    close_list(o, c->items ? &c->sessions[0].id : NULL,
               c->items ? &c->sessions[c->items - 1].id : NULL, c->more);
}

void put_snapshot_list(struct json_out *o, const struct command *c)
{
    open_list(o);
    for (int i = 0; i < c->items; i++)
        put_snapshot(o, &c->snapshots[i]);
    close_list(o, c->items ? &c->snapshots[0].id : NULL,
               c->items ? &c->snapshots[c->items - 1].id : NULL, c->more);
}

void put_deleted_fields(struct json_out *o, const char *id, const char *object)
{
    json_key(o, "id");
    json_string(o, id);
    json_key(o, "object");
    json_string(o, object);
    json_key(o, "deleted");
    json_bool(o, true);
}

void put_deleted(struct json_out *o, const char *id, const char *object)
{
    json_open(o, '{');
    put_deleted_fields(o, id, object);
    json_close(o, '}');
}
