/* params_session.c - the bodies of the session verbs and of the tokenizer's two calls. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/params.h"
#include "server/api/params_internal.h"

static bool read_metadata(const cJSON *v, void *target, const struct params_context *c,
                          struct problem *p)
{
    (void)target;
    (void)c;
    return cJSON_IsObject(v) ||
           problem_set(p, PROBLEM_INVALID_PARAMETER, "metadata", "metadata must be an object");
}

/* As the client wrote it: a tree's numbers are doubles. */
static bool keep_metadata(const cJSON *json, const char *body, size_t len, struct session_params *s,
                          struct problem *p)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(json, "metadata");

    if (!v || cJSON_IsNull(v))
        return true;
    s->metadata = params_text(json, v, body, len);
    if (!s->metadata)
        return params_no_memory(p);
    return strlen(s->metadata) <= LIMIT_METADATA_BYTES ||
           problem_set(p, PROBLEM_INVALID_PARAMETER, "metadata",
                       "metadata must not be longer than %d bytes", LIMIT_METADATA_BYTES);
}

static bool read_label(const cJSON *v, void *target, const struct params_context *c,
                       struct problem *p)
{
    struct session_params *s = target;

    (void)c;
    if (!cJSON_IsString(v) || strlen(v->valuestring) > LIMIT_LABEL_BYTES)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, v->string,
                           "%s must be a string of at most %d bytes", v->string, LIMIT_LABEL_BYTES);
    memcpy(s->label, v->valuestring, strlen(v->valuestring) + 1);
    return true;
}

#define AT(field) offsetof(struct session_params, field)

static const struct param create_table[] = {
    { "id", PARAM_ID, .offset = AT(id) },
    { "model", PARAM_READ, .read = params_read_model },
    { "snapshot", PARAM_ID, .offset = AT(snapshot) },
    { "seed", PARAM_U64, 0, PARAM_EXACT, .offset = AT(seed), .has = AT(has_seed) },
    { "ttl", PARAM_DOUBLE, 0, 1e9, .offset = AT(ttl), .has = AT(has_ttl), .above = true },
    { "metadata", PARAM_READ, .read = read_metadata },
    { 0 }
};

static const struct param fork_table[] = { { "n", PARAM_INT, 1, LIMIT_FORKS, .offset = AT(n) },
                                           { "snapshot", PARAM_ID, .offset = AT(snapshot) },
                                           { 0 } };

static const struct param restore_table[] = { { "snapshot", PARAM_ID, .offset = AT(snapshot) },
                                              { 0 } };

static const struct param rollback_table[] = {
    { "snapshot", PARAM_ID, .offset = AT(snapshot) },
    { "position", PARAM_U64, 0, PARAM_EXACT, .offset = AT(position), .has = AT(has_position) },
    { "turns", PARAM_INT, 1, LIMIT_HISTORY_TURNS, .offset = AT(turns) },
    { 0 }
};

static const struct param snapshot_table[] = { { "label", PARAM_READ, .read = read_label },
                                               { "pin", PARAM_BOOL, .offset = AT(pin) },
                                               { 0 } };

static const struct param file_table[] = { { "filename", PARAM_READ, .read = read_label }, { 0 } };

#undef AT

bool params_session(enum session_verb verb, const char *body, size_t len,
                    const struct params_context *c, struct session_params *s, struct problem *p)
{
    static const struct param *const table[] = {
        [SESSION_CREATE] = create_table,     [SESSION_FORK] = fork_table,
        [SESSION_RESTORE] = restore_table,   [SESSION_ROLLBACK] = rollback_table,
        [SESSION_SNAPSHOT] = snapshot_table, [SLOT_FILE] = file_table,
    };
    cJSON *json;
    bool ok;

    *s = (struct session_params){ .n = 1, .pin = true };
    json = len ? params_parse(body, len, p) : params_parse("{}", 2, p);
    if (!json)
        return false;
    ok = params_read(json, table[verb], s, c, p) &&
         (verb != SESSION_CREATE || keep_metadata(json, body, len, s, p));
    cJSON_Delete(json);
    if (!ok)
        return false;
    if (verb == SESSION_RESTORE && !s->snapshot.text[0])
        return problem_set(p, PROBLEM_MISSING_PARAMETER, "snapshot", "snapshot is required");
    if (verb == SESSION_ROLLBACK && !!s->snapshot.text[0] + s->has_position + !!s->turns != 1)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "position",
                           "a rollback goes to one of snapshot, position and turns");
    if (!s->pin) /* what is not kept would be gone before it could be named */
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "pin",
                           "a snapshot is kept until it is deleted: pin cannot be false");
    return true;
}

void session_params_finish(struct session_params *s)
{
    free(s->metadata);
    s->metadata = NULL;
}

static bool read_text(const cJSON *v, void *target, const struct params_context *c,
                      struct problem *p)
{
    struct text_params *t = target;

    (void)c;
    if (!cJSON_IsString(v))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, v->string, "%s must be a string",
                           v->string);
    if (t->prompt.text)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, v->string,
                           "either text or content, not both");
    t->prompt.text = v->valuestring;
    t->prompt.len = strlen(v->valuestring);
    return true;
}

static bool read_tokens(const cJSON *v, void *target, const struct params_context *c,
                        struct problem *p)
{
    struct text_params *t = target;

    return params_ids(v, "tokens", c, &t->prompt.id, &t->prompt.ids, p);
}

static const struct param tokenize_table[] = {
    { "model", PARAM_READ, .read = params_read_model },
    { "text", PARAM_READ, .read = read_text },
    { "content", PARAM_READ, .read = read_text },
    { "add_special", PARAM_BOOL, .offset = offsetof(struct text_params, special) },
    { "parse_special", PARAM_BOOL, .offset = offsetof(struct text_params, parses_special),
      .has = offsetof(struct text_params, has_parses) },
    { 0 }
};

static const struct param detokenize_table[] = { { "model", PARAM_READ, .read = params_read_model },
                                                 { "tokens", PARAM_READ, .read = read_tokens },
                                                 { 0 } };

bool params_tokenize(const char *body, size_t len, const struct params_context *c,
                     struct text_params *t, struct problem *p)
{
    *t = (struct text_params){ 0 };
    t->json = params_parse(body, len, p);
    if (!t->json || !params_read(t->json, tokenize_table, t, c, p))
        return false;
    if (!t->prompt.text)
        return problem_set(p, PROBLEM_MISSING_PARAMETER, "text", "text is required");
    if (!t->has_parses)
        t->parses_special = t->special;
    return true;
}

bool params_detokenize(const char *body, size_t len, const struct params_context *c,
                       struct text_params *t, struct problem *p)
{
    *t = (struct text_params){ 0 };
    t->json = params_parse(body, len, p);
    if (!t->json || !params_read(t->json, detokenize_table, t, c, p))
        return false;
    if (!t->prompt.id)
        return problem_set(p, PROBLEM_MISSING_PARAMETER, "tokens", "tokens is required");
    return true;
}

void text_params_finish(struct text_params *t)
{
    cJSON_Delete(t->json);
    free(t->prompt.id);
}
