/* router.h - which route answers a path. */
#ifndef SERVER_HTTP_ROUTER_H
#define SERVER_HTTP_ROUTER_H

#include <stdbool.h>

#include "server/http/http.h"
#include "server/http/request.h"

enum { ALLOW_BYTES = 48 };

/* Sets *route (borrowed) where the path is known with that method, and the methods that the
 * path has, as the value of an Allow header, in allow. HEAD finds the GET route, OPTIONS
 * none. false, with NOT_FOUND or METHOD_NOT_ALLOWED, when nothing can answer. */
bool router_find(const struct route *routes, const struct request *r, const struct route **route,
                 char allow[ALLOW_BYTES], struct problem *p);
/* What the part "{name}" or "{name*}" of the pattern matched; NULL when it has no such part. */
const char *router_param(const struct route *route, const struct request *r, const char *name);

#endif
