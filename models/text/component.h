/* component.h - reading the members of a tokenizer.json component.
 *
 * A component is a JSON object with a "type". What is absent or null leaves *out as it is; a
 * wrong type is ERR_FORMAT and names the member. Strings are borrowed from the tree. One
 * thread at a time. */
#ifndef MODELS_TEXT_COMPONENT_H
#define MODELS_TEXT_COMPONENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

struct error;

/* NULL when absent or null. */
const cJSON *component_member(const cJSON *component, const char *name);
/* "" when there is none. */
const char *component_type(const cJSON *component);
bool component_is(const cJSON *component, const char *type);

bool component_bool(const cJSON *component, const char *name, bool *out, struct error *err);
bool component_string(const cJSON *component, const char *name, const char **out,
                      struct error *err);
/* A whole number in [lo, hi]. */
bool component_int(const cJSON *component, const char *name, int64_t lo, int64_t hi, int64_t *out,
                   struct error *err);
/* A required array. */
bool component_array(const cJSON *component, const char *name, const cJSON **out,
                     struct error *err);
/* A required {"String": ...} or {"Regex": ...}. */
bool component_pattern(const cJSON *component, const char *name, const char **text, bool *regex,
                       struct error *err);

/* The character that stands for a space, and where one is put in front of a text. */
struct metaspace {
    char text[5];
};
enum metaspace_prepend { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

/* A Metaspace's replacement, prepend_scheme and (older files) add_prefix_space. */
bool component_metaspace(const cJSON *component, struct metaspace *space,
                         enum metaspace_prepend *prepend, struct error *err);

/* ERR_FORMAT: what ("normalizer") names a component that is not built. */
bool component_refuse(const cJSON *component, const char *what, struct error *err);

#endif
