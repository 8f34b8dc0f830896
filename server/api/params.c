#include "server/api/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/json_scan.h"
#include "models/text/utf8.h"
#include "server/api/params_internal.h"

bool params_no_memory(struct problem *p)
{
    return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
}

cJSON *params_parse(const char *body, size_t len, struct problem *p)
{
    static const enum problem_code code[] = {
        [JSON_OK] = PROBLEM_NONE,
        [JSON_INVALID] = PROBLEM_INVALID_JSON,
        [JSON_INVALID_UTF8] = PROBLEM_INVALID_UTF8,
        [JSON_DUPLICATE_KEY] = PROBLEM_DUPLICATE_KEY,
        [JSON_TOO_DEEP] = PROBLEM_JSON_TOO_DEEP,
        [JSON_TOO_COMPLEX] = PROBLEM_JSON_TOO_COMPLEX,
    };
    const struct json_bounds bounds = { .max_depth = LIMIT_JSON_DEPTH,
                                        .max_values = LIMIT_JSON_VALUES };
    struct error err = { 0 };
    enum json_fault fault = json_scan(body, len, &bounds, &err);
    cJSON *json;

    if (fault != JSON_OK) {
        problem_set(p, err.code == ERR_NOMEM ? PROBLEM_OUT_OF_MEMORY : code[fault], NULL, "%s",
                    err.message);
        return NULL;
    }
    json = cJSON_ParseWithLength(body, len);
    if (!json) {
        params_no_memory(p); /* the text is proven: nothing else can fail */
        return NULL;
    }
    if (!cJSON_IsObject(json)) {
        cJSON_Delete(json);
        problem_set(p, PROBLEM_INVALID_JSON, NULL, "the body must be a JSON object");
        return NULL;
    }
    return json;
}

/* At the quote that ends the string. */
static const char *string_end(const char *at)
{
    for (at++; *at != '"'; at++)
        at += *at == '\\';
    return at;
}

/* Without the white space between its parts. */
static char *copy_text(const char *body, size_t len)
{
    char *text = malloc(len + 1), *to = text;
    const char *end;

    for (const char *at = body; text && at < body + len; at = end) {
        end = (*at == '"' ? string_end(at) : at) + 1;
        if (strchr(" \t\r\n", *at))
            continue;
        memcpy(to, at, (size_t)(end - at));
        to += end - at;
    }
    if (text)
        *to = '\0';
    return text;
}

/* Behind what begins here, a value or a member with its key, in a proven object's text without
 * white space. */
static const char *skip(const char *at)
{
    for (int depth = 0; depth || (*at != ',' && *at != '}'); at++) {
        if (*at == '"')
            at = string_end(at);
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
    }
    return at;
}

char *params_text(const cJSON *object, const cJSON *value, const char *body, size_t len)
{
    char *text = copy_text(body, len);
    const char *at;
    size_t n;

    if (!text)
        return NULL;
    at = text + 1;
    for (const cJSON *v = object->child; v != value; v = v->next)
        at = skip(at) + 1;
    at = string_end(at) + 2;
    n = (size_t)(skip(at) - at);
    memmove(text, at, n);
    text[n] = '\0';
    return text;
}

bool params_whole(const cJSON *v, const char *key, double lo, double hi, double *out,
                  struct problem *p)
{
    double x = v->valuedouble;

    if (!cJSON_IsNumber(v) || !isfinite(x) || x != floor(x) || x < lo || x > hi)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, key,
                           "%s must be a whole number from %.0f to %.0f", key, lo, hi);
    *out = x;
    return true;
}

static bool read_number(const cJSON *v, const struct param *row, double *out, struct problem *p)
{
    double x = v->valuedouble;

    if (!cJSON_IsNumber(v) || !isfinite(x) || x < row->lo || x > row->hi ||
        (row->above && x <= row->lo))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, row->key,
                           row->above ? "%s must be a number above %g and at most %g"
                                      : "%s must be a number from %g to %g",
                           row->key, row->lo, row->hi);
    *out = x;
    return true;
}

bool params_empty(const cJSON *v)
{
    return (cJSON_IsString(v) && !*v->valuestring) ||
           ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child) || cJSON_IsFalse(v);
}

static bool read_id(const cJSON *v, const char *key, struct id *out, struct problem *p)
{
    if (!cJSON_IsString(v) || !id_parse(out, v->valuestring))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, key,
                           "%s must be 1 to %d of the characters A-Z a-z 0-9 . _ - and must not "
                           "begin with a dot",
                           key, LIMIT_ID_BYTES);
    return true;
}

static bool read_row(const cJSON *v, const struct param *row, void *target,
                     const struct params_context *c, struct problem *p)
{
    char *at = (char *)target + row->offset;
    double x;

    switch (row->type) {
    case PARAM_INT:
        if (!params_whole(v, row->key, row->lo, row->hi, &x, p))
            return false;
        *(int *)(void *)at = (int)x;
        break;
    case PARAM_U64:
        if (!params_whole(v, row->key, row->lo, row->hi, &x, p))
            return false;
        *(uint64_t *)(void *)at = (uint64_t)x;
        break;
    case PARAM_FLOAT:
        if (!read_number(v, row, &x, p))
            return false;
        *(float *)(void *)at = (float)x;
        break;
    case PARAM_DOUBLE:
        if (!read_number(v, row, &x, p))
            return false;
        *(double *)(void *)at = x;
        break;
    case PARAM_BOOL:
        if (!cJSON_IsBool(v))
            return problem_set(p, PROBLEM_INVALID_PARAMETER, row->key, "%s must be true or false",
                               row->key);
        *(bool *)at = cJSON_IsTrue(v);
        break;
    case PARAM_ID:
        if (!read_id(v, row->key, (struct id *)at, p))
            return false;
        break;
    case PARAM_READ:
        if (!row->read(v, target, c, p))
            return false;
        break;
    case PARAM_IGNORED:
        break;
    case PARAM_REFUSED:
        if (!params_empty(v))
            return problem_set(p, PROBLEM_INVALID_PARAMETER, row->key,
                               "%s is not supported by this server", row->key);
        break;
    }
    if (row->has)
        *((bool *)target + row->has) = true;
    return true;
}

/* The key cut to what a message holds, never inside a character. */
static bool unknown_field(const char *key, struct problem *p)
{
    int len = (int)utf8_valid_prefix(key, strnlen(key, sizeof(p->param) - 1));

    problem_set(p, PROBLEM_UNKNOWN_FIELD, NULL, "unknown field \"%.*s\"", len, key);
    snprintf(p->param, sizeof(p->param), "%.*s", len, key);
    return false;
}

bool params_read(const cJSON *object, const struct param *table, void *target,
                 const struct params_context *c, struct problem *p)
{
    const cJSON *v;

    cJSON_ArrayForEach(v, object)
    {
        const struct param *row = table;

        while (row->key && strcmp(row->key, v->string) != 0)
            row++;
        if (!row->key)
            return unknown_field(v->string, p);
        if (cJSON_IsNull(v))
            continue;
        if (!read_row(v, row, target, c, p))
            return false;
    }
    return true;
}

bool params_ids(const cJSON *list, const char *key, const struct params_context *c, int32_t **id,
                size_t *count, struct problem *p)
{
    size_t n = 0;
    const cJSON *v;
    char item[64];
    int32_t *out;
    double x;

    if (!cJSON_IsArray(list))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, key, "%s must be a list of token ids",
                           key);
    out = malloc(((size_t)cJSON_GetArraySize(list) + 1) * sizeof(*out));
    if (!out)
        return params_no_memory(p);
    snprintf(item, sizeof(item), "a token id in %s", key);
    cJSON_ArrayForEach(v, list)
    {
        if (!params_whole(v, item, 0, c->vocab - 1, &x, p)) {
            snprintf(p->param, sizeof(p->param), "%s", key);
            free(out);
            return false;
        }
        out[n++] = (int32_t)x;
    }
    *id = out;
    *count = n;
    return true;
}

bool params_read_model(const cJSON *v, void *target, const struct params_context *c,
                       struct problem *p)
{
    (void)target;
    if (!cJSON_IsString(v))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "model", "model must be a string");
    if (strcmp(v->valuestring, c->model) != 0)
        return problem_set(p, PROBLEM_MODEL_NOT_FOUND, "model",
                           "there is no such model here; this server serves \"%s\"", c->model);
    return true;
}

bool params_decimal(const char *at, const char *end, uint64_t max, uint64_t *out)
{
    uint64_t n = 0;

    if (at == end)
        return false;
    for (; at != end; at++) {
        if (*at < '0' || *at > '9' || n > (max - (uint64_t)(*at - '0')) / 10)
            return false;
        n = n * 10 + (uint64_t)(*at - '0');
    }
    *out = n;
    return true;
}

bool params_page(const char *limit, const char *after, int *count, struct id *id, struct problem *p)
{
    uint64_t n = 20;

    if (limit && (!params_decimal(limit, limit + strlen(limit), LIMIT_LIST_ITEMS, &n) || n < 1))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "limit",
                           "limit must be a whole number from 1 to %d", LIMIT_LIST_ITEMS);
    id->text[0] = 0;
    if (after && !id_parse(id, after))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "after", "after must be an id");
    *count = (int)n;
    return true;
}
