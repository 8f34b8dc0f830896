/* verbs.h - from a request on sessions or snapshots to its command. Loop thread only. */
#ifndef SERVER_API_VERBS_H
#define SERVER_API_VERBS_H

#include "server/api/params.h"
#include "server/engine/command.h"

struct api;
struct exchange;

/* Each gives a command for api_ask(), or NULL when the exchange is refused already. */

/* Of the client as its owner. */
struct command *verb_create(struct exchange *x, enum command_kind kind);
/* Of the session, or the snapshot, that the path names; If-Match is the expected versions, and
 * If-None-Match the unwanted ones of what changes a session. */
struct command *verb_of_session(struct exchange *x, enum command_kind kind);
struct command *verb_of_snapshot(struct exchange *x, enum command_kind kind);
/* The body's fields; the session is the path's unless the verb creates one. */
struct command *verb_with_body(struct exchange *x, struct api *api, enum session_verb verb,
                               enum command_kind kind);
/* What ?name= is: one of the two words, or nothing, which is the first. false: *p. */
bool verb_choose(struct exchange *x, const char *name, const char *no, const char *yes,
                 bool *chosen, struct problem *p);
/* A page: ?limit= and ?after=. */
struct command *verb_list(struct exchange *x, enum command_kind kind);
/* The same of snapshots: ?session= and ?subtree= too. */
struct command *verb_list_snapshots(struct exchange *x);
/* With ?subtree=true it is of what is below the snapshot too. */
struct command *verb_delete_snapshot(struct exchange *x);

#endif
