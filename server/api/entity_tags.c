#include "server/api/entity_tags.h"

#include <string.h>

#include "server/api/params_internal.h"

static const char *skip_blanks(const char *at)
{
    return at + strspn(at, " \t");
}

/* The bytes that may stand between a tag's quotes. */
static const char *end_of_opaque(const char *at)
{
    while ((unsigned char)*at > ' ' && *at != '"' && *at != 0x7f)
        at++;
    return at;
}

/* Tags are compared byte by byte: "03" is not "3". */
static bool read_version(const char *at, const char *end, uint64_t *version)
{
    return (*at != '0' || end == at + 1) && params_decimal(at, end, UINT64_MAX, version);
}

/* Adds the tag at *at, which is then behind it. */
static bool read_tag(const char **at, bool weak_too, struct version_set *to)
{
    const bool weak = strncmp(*at, "W/", 2) == 0;
    const char *from = *at + (weak ? 2 : 0);
    const bool quoted = *from == '"';
    const char *end = quoted ? end_of_opaque(++from) : from + strspn(from, "0123456789");
    uint64_t version;
    bool known;

    if (quoted ? *end != '"' : weak)
        return false;
    *at = end + quoted;
    known = read_version(from, end, &version);
    if (!known || (weak && !weak_too))
        return quoted;
    if (to->count == LIMIT_VERSION_TAGS)
        return false;
    to->version[to->count++] = version;
    return true;
}

/* "*", or tags with commas between them; an element that is left out counts for nothing (RFC 9110,
 * 5.6.1). */
static bool read_tags(const char *at, bool weak_too, struct version_set *to)
{
    bool some = false;

    to->all = strcmp(at, "*") == 0;
    if (to->all)
        return true;
    do {
        at = skip_blanks(at);
        if (*at == ',' || *at == 0)
            continue;
        if (!read_tag(&at, weak_too, to))
            return false;
        some = true;
        at = skip_blanks(at);
    } while (*at++ == ',');
    return some && at[-1] == 0;
}

static bool read_header(const char *value, const char *name, bool weak_too, struct version_set *to,
                        struct problem *p)
{
    *to = (struct version_set){ .given = value != NULL };
    return !value || read_tags(value, weak_too, to) ||
           problem_set(p, PROBLEM_INVALID_PARAMETER, name,
                       "%s must be * or at most %d versions of a session, as in \"3\", \"4\"", name,
                       LIMIT_VERSION_TAGS);
}

bool entity_tags_if_match(const char *value, struct version_set *to, struct problem *p)
{
    return read_header(value, "If-Match", false, to, p);
}

bool entity_tags_if_none_match(const char *value, struct version_set *to, struct problem *p)
{
    return read_header(value, "If-None-Match", true, to, p);
}
