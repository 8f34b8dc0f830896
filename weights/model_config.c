/* model_config.c - a cJSON tree behind typed getters that know bounds.
 *
 * json_scan() has the first word, so the tree is made of strict JSON with no key twice.
 * Python's bare Infinity and NaN are rewritten in place before cJSON sees them: the
 * infinities as numbers that overflow a double, NaN as an object, which no getter of a
 * number takes. */
#include "weights/model_config.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "config/limits.h"
#include "config/text_file.h"

enum { KEY_BYTES = 64, FOUND_BYTES = 64 };

struct model_config {
    cJSON *root;
    char name[]; /* stands in the messages */
};

struct found {
    const cJSON *item; /* NULL: absent */
    const char *key;   /* the spelling that was there; not terminated */
    int key_len;
};

static void rewrite(char *at, const char *token, const char *with)
{
    memset(at, ' ', strlen(token));
    memcpy(at, with, strlen(with));
}

/* The text has passed json_scan(): outside strings these letters begin nothing else. */
static void rewrite_infinities(char *text)
{
    bool string = false;

    for (char *p = text; *p; p++) {
        if (string && *p == '\\') {
            p++;
        } else if (*p == '"') {
            string = !string;
        } else if (!string && *p == 'I') {
            rewrite(p, "Infinity", "1e999");
        } else if (!string && *p == 'N') {
            rewrite(p, "NaN", "{}");
        }
    }
}

static cJSON *parse(const char *text, size_t len, const char *name, struct error *err)
{
    static const struct json_bounds bounds = {
        .max_depth = 64,
        .max_values = LIMIT_MODEL_JSON_BYTES / 64, /* the size of a cJSON node */
        .infinities = true,
    };
    struct error why;
    char *copy;
    cJSON *root;

    if (len > LIMIT_MODEL_JSON_BYTES) {
        error_set(err, ERR_FORMAT, "%.200s: expected at most %d bytes, found %zu", name,
                  LIMIT_MODEL_JSON_BYTES, len);
        return NULL;
    }
    if (json_scan(text, len, &bounds, &why) != JSON_OK) {
        error_set(err, why.code == ERR_NOMEM ? ERR_NOMEM : ERR_FORMAT, "%.200s: %s", name,
                  why.message);
        return NULL;
    }
    copy = malloc(len + 1);
    if (copy) {
        memcpy(copy, text, len);
        copy[len] = '\0';
        rewrite_infinities(copy);
    }
    root = copy ? cJSON_ParseWithLength(copy, len) : NULL;
    free(copy);
    if (!root) { /* the text is JSON: a bound of cJSON's own, on memory or a number's length */
        error_set(err, ERR_FORMAT, "%.200s: cJSON could not hold it", name);
    } else if (!cJSON_IsObject(root)) {
        error_set(err, ERR_FORMAT, "%.200s: expected an object, found another value", name);
        cJSON_Delete(root);
        root = NULL;
    }
    return root;
}

struct model_config *model_config_parse(const char *text, size_t len, const char *name,
                                        struct error *err)
{
    struct model_config *c;
    cJSON *root = parse(text, len, name, err);

    if (!root)
        return NULL;
    c = malloc(sizeof(*c) + strlen(name) + 1);
    if (!c) {
        cJSON_Delete(root);
        error_set(err, ERR_NOMEM, "%.200s: out of memory", name);
        return NULL;
    }
    c->root = root;
    memcpy(c->name, name, strlen(name) + 1);
    return c;
}

struct model_config *model_config_open(const char *file, struct error *err)
{
    size_t len;
    char *text = text_file_read(file, LIMIT_MODEL_JSON_BYTES, &len, err);
    struct model_config *c = text ? model_config_parse(text, len, file, err) : NULL;

    free(text);
    return c;
}

void model_config_close(struct model_config *c)
{
    if (!c)
        return;
    cJSON_Delete(c->root);
    free(c);
}

/* One spelling, "ssm_cfg.d_state", of len bytes. */
static const cJSON *find_path(const cJSON *item, const char *path, size_t len)
{
    const char *end = path + len;

    while (item && path < end) {
        size_t n = strcspn(path, ".|");
        char name[KEY_BYTES];

        assert(n < sizeof(name));
        memcpy(name, path, n);
        name[n] = '\0';
        item = cJSON_GetObjectItemCaseSensitive(item, name);
        path += n + 1;
    }
    return item && !cJSON_IsNull(item) ? item : NULL;
}

static struct found find(const struct model_config *c, const char *keys)
{
    for (;;) {
        size_t n = strcspn(keys, "|");
        const cJSON *item = find_path(c->root, keys, n);

        if (item || keys[n] == '\0')
            return (struct found){ .item = item, .key = keys, .key_len = (int)n };
        keys += n + 1;
    }
}

/* What stands there, for a message. */
static const char *describe(const cJSON *item, char text[FOUND_BYTES])
{
    if (cJSON_IsNumber(item))
        snprintf(text, FOUND_BYTES, "%.17g", item->valuedouble);
    else if (cJSON_IsString(item))
        snprintf(text, FOUND_BYTES, "\"%.40s\"", item->valuestring);
    else
        snprintf(text, FOUND_BYTES, "%s",
                 cJSON_IsBool(item)    ? "true or false"
                 : cJSON_IsArray(item) ? "a list"
                                       : "an object or NaN");
    return text;
}

static bool wrong(const struct model_config *c, const struct found *f, const cJSON *item,
                  const char *expected, struct error *err)
{
    char text[FOUND_BYTES];

    return error_set(err, ERR_FORMAT, "%.200s: %.*s: expected %s, found %s", c->name, f->key_len,
                     f->key, expected, describe(item, text));
}

/* A number, also as {"__float__": "Infinity"}. Never NaN. */
static bool number_of(const cJSON *item, double *out)
{
    const cJSON *text;

    if (cJSON_IsNumber(item)) {
        *out = item->valuedouble;
        return true;
    }
    text = cJSON_IsObject(item) ? cJSON_GetObjectItemCaseSensitive(item, "__float__") : NULL;
    if (!cJSON_IsString(text))
        return false;
    if (strcmp(text->valuestring, "Infinity") == 0)
        *out = INFINITY;
    else if (strcmp(text->valuestring, "-Infinity") == 0)
        *out = -INFINITY;
    else
        return false;
    return true;
}

static bool int_of(const struct model_config *c, const struct found *f, const cJSON *item,
                   int64_t lo, int64_t hi, int64_t *out, struct error *err)
{
    double x = cJSON_IsNumber(item) ? item->valuedouble : 0.5;
    char expected[96];

    if (fabs(x) <= 0x1p53 && x == floor(x) && (int64_t)x >= lo && (int64_t)x <= hi) {
        *out = (int64_t)x;
        return true;
    }
    snprintf(expected, sizeof(expected), "a whole number from %lld to %lld", (long long)lo,
             (long long)hi);
    return wrong(c, f, item, expected, err);
}

bool model_config_has(const struct model_config *c, const char *keys)
{
    return find(c, keys).item != NULL;
}

bool model_config_int(const struct model_config *c, const char *keys, int64_t lo, int64_t hi,
                      int64_t *out, struct error *err)
{
    struct found f = find(c, keys);

    return !f.item || int_of(c, &f, f.item, lo, hi, out, err);
}

bool model_config_number(const struct model_config *c, const char *keys, double lo, double hi,
                         double *out, struct error *err)
{
    struct found f = find(c, keys);
    char expected[96];
    double x;

    if (!f.item)
        return true;
    if (number_of(f.item, &x) && x >= lo && x <= hi) {
        *out = x;
        return true;
    }
    snprintf(expected, sizeof(expected), "a number from %g to %g", lo, hi);
    return wrong(c, &f, f.item, expected, err);
}

bool model_config_numbers(const struct model_config *c, const char *keys, int n, double *out,
                          struct error *err)
{
    struct found f = find(c, keys);
    const cJSON *item;
    char expected[96];
    double x;
    int i = 0;

    if (!f.item)
        return true;
    snprintf(expected, sizeof(expected), "a list of %d numbers", n);
    if (!cJSON_IsArray(f.item))
        return wrong(c, &f, f.item, expected, err);
    if (cJSON_GetArraySize(f.item) != n)
        return error_set(err, ERR_FORMAT, "%.200s: %.*s: expected %s, found %d", c->name, f.key_len,
                         f.key, expected, cJSON_GetArraySize(f.item));
    for (item = f.item->child; item; item = item->next)
        if (!number_of(item, &x))
            return wrong(c, &f, item, expected, err);
    for (item = f.item->child; item; item = item->next)
        number_of(item, &out[i++]);
    return true;
}

bool model_config_bool(const struct model_config *c, const char *keys, bool *out, struct error *err)
{
    struct found f = find(c, keys);

    if (!f.item)
        return true;
    if (!cJSON_IsBool(f.item))
        return wrong(c, &f, f.item, "true or false", err);
    *out = cJSON_IsTrue(f.item);
    return true;
}

bool model_config_string(const struct model_config *c, const char *keys, const char **out,
                         struct error *err)
{
    struct found f = find(c, keys);

    if (!f.item)
        return true;
    if (!cJSON_IsString(f.item))
        return wrong(c, &f, f.item, "a string", err);
    *out = f.item->valuestring;
    return true;
}

bool model_config_ints(const struct model_config *c, const char *keys, int64_t lo, int64_t hi,
                       int max, int64_t *out, int *count, struct error *err)
{
    struct found f = find(c, keys);
    const cJSON *first, *item;
    int64_t x;
    int n = 0;

    if (!f.item)
        return true;
    first = cJSON_IsArray(f.item) ? f.item->child : f.item;
    for (item = first; item; item = item == f.item ? NULL : item->next) {
        if (n++ == max)
            return error_set(err, ERR_FORMAT, "%.200s: %.*s: expected at most %d, found more",
                             c->name, f.key_len, f.key, max);
        if (!int_of(c, &f, item, lo, hi, &x, err))
            return false;
    }
    *count = n;
    n = 0;
    for (item = first; item; item = item == f.item ? NULL : item->next)
        out[n++] = (int64_t)item->valuedouble;
    return true;
}
