/* objects.h - sessions and snapshots as JSON. Any thread. */
#ifndef SERVER_API_OBJECTS_H
#define SERVER_API_OBJECTS_H

#include "server/api/json_out.h"
#include "server/engine/command.h"

/* The fields without the braces, so that an answer can add its own. */
void put_session_fields(struct json_out *o, const struct session_info *s, const char *model);
void put_session(struct json_out *o, const struct session_info *s, const char *model);
void put_snapshot(struct json_out *o, const struct snapshot_info *s);

/* A page, in OpenAI's list shape. */
void put_session_list(struct json_out *o, const struct command *c, const char *model);
void put_snapshot_list(struct json_out *o, const struct command *c);

/* {id, object, deleted: true} */
void put_deleted_fields(struct json_out *o, const char *id, const char *object);
void put_deleted(struct json_out *o, const char *id, const char *object);

#endif
