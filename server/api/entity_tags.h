/* entity_tags.h - If-Match and If-None-Match (RFC 9110, 13.1) as the versions that they name.
 *
 * A session's entity tag is its version, "3"; the quotes may be left out. Another well-formed tag
 * is no session's, and names no version. Any thread. */
#ifndef SERVER_API_ENTITY_TAGS_H
#define SERVER_API_ENTITY_TAGS_H

#include <stdbool.h>

struct problem;
struct version_set;

/* value NULL: there is no such header. A weak tag, W/"3", never matches here. */
bool entity_tags_if_match(const char *value, struct version_set *to, struct problem *p);
/* A weak tag matches as a strong one does. */
bool entity_tags_if_none_match(const char *value, struct version_set *to, struct problem *p);

#endif
