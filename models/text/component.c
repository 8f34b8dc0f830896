/* component.c - see component.h. */
#include "models/text/component.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/error.h"
#include "models/text/utf8.h"

const cJSON *component_member(const cJSON *component, const char *name)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(component, name);

    return member && !cJSON_IsNull(member) ? member : NULL;
}

const char *component_type(const cJSON *component)
{
    const char *type = cJSON_GetStringValue(component_member(component, "type"));

    return type ? type : "";
}

bool component_is(const cJSON *component, const char *type)
{
    return strcmp(component_type(component), type) == 0;
}

static bool wrong(const cJSON *component, const char *name, const char *want, struct error *err)
{
    const char *type = component_type(component);

    return error_set(err, ERR_FORMAT, "%s%s\"%s\" is not %s", type, *type ? ": " : "", name, want);
}

bool component_bool(const cJSON *component, const char *name, bool *out, struct error *err)
{
    const cJSON *member = component_member(component, name);

    if (!member)
        return true;
    if (!cJSON_IsBool(member))
        return wrong(component, name, "true or false", err);
    *out = cJSON_IsTrue(member);
    return true;
}

bool component_string(const cJSON *component, const char *name, const char **out, struct error *err)
{
    const cJSON *member = component_member(component, name);

    if (!member)
        return true;
    if (!cJSON_IsString(member))
        return wrong(component, name, "a string", err);
    *out = member->valuestring;
    return true;
}

bool component_int(const cJSON *component, const char *name, int64_t lo, int64_t hi, int64_t *out,
                   struct error *err)
{
    const cJSON *member = component_member(component, name);

    if (!member)
        return true;
    if (!cJSON_IsNumber(member) || member->valuedouble != floor(member->valuedouble) ||
        member->valuedouble < (double)lo || member->valuedouble > (double)hi)
        return wrong(component, name, "a whole number within its bounds", err);
    *out = (int64_t)member->valuedouble;
    return true;
}

bool component_array(const cJSON *component, const char *name, const cJSON **out, struct error *err)
{
    const cJSON *member = component_member(component, name);

    if (!cJSON_IsArray(member))
        return wrong(component, name, "an array", err);
    *out = member;
    return true;
}

bool component_pattern(const cJSON *component, const char *name, const char **text, bool *regex,
                       struct error *err)
{
    const cJSON *member = component_member(component, name);
    const char *literal = cJSON_GetStringValue(component_member(member, "String"));
    const char *expression = cJSON_GetStringValue(component_member(member, "Regex"));

    if (!literal == !expression)
        return wrong(component, name, "{\"String\": ...} or {\"Regex\": ...}", err);
    *text = literal ? literal : expression;
    *regex = expression != NULL;
    return true;
}

bool component_metaspace(const cJSON *component, struct metaspace *space,
                         enum metaspace_prepend *prepend, struct error *err)
{
    static const char *const schemes[] = { "never", "first", "always" };
    const char *text = "\xe2\x96\x81", *scheme;
    bool add = true;
    size_t len;

    if (!component_string(component, "replacement", &text, err) ||
        !component_bool(component, "add_prefix_space", &add, err))
        return false;
    scheme = add ? "always" : "never";
    if (!component_string(component, "prepend_scheme", &scheme, err))
        return false;
    len = strlen(text);
    if (len == 0 || len > 4 || (utf8_decode(text, &len), text[len]))
        return wrong(component, "replacement", "one character", err);
    for (int i = PREPEND_NEVER; i <= PREPEND_ALWAYS; i++) {
        if (strcmp(scheme, schemes[i]) == 0) {
            snprintf(space->text, sizeof(space->text), "%s", text);
            *prepend = (enum metaspace_prepend)i;
            return true;
        }
    }
    return wrong(component, "prepend_scheme", "never, first or always", err);
}

bool component_refuse(const cJSON *component, const char *what, struct error *err)
{
    const char *type = component_type(component);

    if (!*type)
        return error_set(err, ERR_FORMAT, "a %s without a type, or none", what);
    return error_set(err, ERR_FORMAT, "the %s '%.64s' is not supported", what, type);
}
