/* params_messages.c - the messages of a chat: roles, and text whole or in parts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/params.h"
#include "server/api/params_internal.h"

static bool refuse(struct problem *p, const char *where, const char *message)
{
    return problem_set(p, PROBLEM_INVALID_PARAMETER, where, "%s", message);
}

/* The text of one message: a string, or parts of type "text" put together. */
static bool read_content(const cJSON *v, const char *where, struct generation_params *g,
                         struct chat_message *m, struct problem *p)
{
    const cJSON *part;
    size_t from = g->joined_len;

    if (cJSON_IsString(v)) {
        m->text = v->valuestring;
        m->len = strlen(v->valuestring);
        return true;
    }
    if (!cJSON_IsArray(v))
        return refuse(p, where, "content must be a string or a list of text parts");
    if (!g->joined) /* all parts together are shorter than the body they came in */
        g->joined = malloc(g->body_len + 1);
    if (!g->joined)
        return params_no_memory(p);
    cJSON_ArrayForEach(part, v)
    {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");

        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0 ||
            !cJSON_IsString(text))
            return refuse(p, where, "a part of content must be {\"type\":\"text\",\"text\":...}");
        memcpy(g->joined + g->joined_len, text->valuestring, strlen(text->valuestring));
        g->joined_len += strlen(text->valuestring);
    }
    m->text = g->joined + from;
    m->len = g->joined_len - from;
    return true;
}

static bool read_role(const cJSON *v, const char *where, struct chat_message *m, struct problem *p)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = { { "system", CHAT_SYSTEM },
                  { "developer", CHAT_SYSTEM },
                  { "user", CHAT_USER },
                  { "assistant", CHAT_ASSISTANT } };

    for (size_t i = 0; cJSON_IsString(v) && i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(roles[i].name, v->valuestring) != 0)
            continue;
        m->role = roles[i].role;
        return true;
    }
    return refuse(p, where, "role must be system, developer, user or assistant");
}

static bool read_message(const cJSON *v, struct generation_params *g, struct problem *p)
{
    struct chat_message *m = &g->message[g->messages];
    const cJSON *field, *role = NULL, *content = NULL;
    char where[48];

    snprintf(where, sizeof(where), "messages[%d]", g->messages);
    if (!cJSON_IsObject(v))
        return refuse(p, where, "a message must be an object");
    cJSON_ArrayForEach(field, v)
    {
        if (strcmp(field->string, "role") == 0)
            role = field;
        else if (strcmp(field->string, "content") == 0)
            content = field;
        else if (strcmp(field->string, "name") != 0 && !cJSON_IsNull(field) && !params_empty(field))
            return problem_set(p, PROBLEM_UNKNOWN_FIELD, where,
                               "a message has role, content and name, nothing else");
    }
    if (!role || !content)
        return problem_set(p, PROBLEM_MISSING_PARAMETER, where,
                           "a message needs a role and a content");
    if (!read_role(role, where, m, p) || !read_content(content, where, g, m, p))
        return false;
    g->messages++;
    return true;
}

bool params_read_messages(const cJSON *v, void *target, const struct params_context *c,
                          struct problem *p)
{
    struct generation_params *g = target;
    const cJSON *item;

    (void)c;
    if (!cJSON_IsArray(v) || !v->child || cJSON_GetArraySize(v) > LIMIT_MESSAGES)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "messages",
                           "messages must be a list of 1 to %d messages", LIMIT_MESSAGES);
    g->message = calloc((size_t)cJSON_GetArraySize(v), sizeof(*g->message));
    if (!g->message)
        return params_no_memory(p);
    cJSON_ArrayForEach(item, v)
    {
        if (!read_message(item, g, p))
            return false;
    }
    return true;
}
