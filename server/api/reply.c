#include "server/api/reply.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

bool reply_init(struct reply *r, const struct reply_shape *shape, int prompts, int n)
{
    *r = (struct reply){ .shape = shape, .prompts = prompts, .n = n };
    id_generate(&r->id, shape->id_prefix);
    r->created = (int64_t)time(NULL);
    r->prompt = calloc((size_t)prompts, sizeof(*r->prompt));
    r->choice = calloc((size_t)prompts * (size_t)n, sizeof(*r->choice));
    return r->prompt && r->choice;
}

void reply_finish(struct reply *r)
{
    for (int i = 0; r->prompt && i < r->prompts; i++) {
        free(r->prompt[i].text.bytes);
        free(r->prompt[i].scores.item);
    }
    for (int i = 0; r->choice && i < r->prompts * r->n; i++) {
        free(r->choice[i].text.bytes);
        free(r->choice[i].scores.item);
    }
    free(r->prompt);
    free(r->choice);
    *r = (struct reply){ 0 };
}

bool scores_add(struct scores *to, const struct token_score *from, size_t n)
{
    if (n > to->capacity - to->count) {
        size_t capacity = to->capacity * 2 > to->count + n ? to->capacity * 2 : to->count + n + 16;
        struct token_score *grown = realloc(to->item, capacity * sizeof(*grown));

        if (!grown)
            return false;
        to->item = grown;
        to->capacity = capacity;
    }
    if (n)
        memcpy(to->item + to->count, from, n * sizeof(*from));
    to->count += n;
    return true;
}

void reply_head(const struct reply *r, const char *object, struct json_out *o)
{
    json_key(o, "id");
    json_string(o, r->id.text);
    json_key(o, "object");
    json_string(o, object);
    json_key(o, "created");
    json_int(o, r->created);
    json_key(o, "model");
    json_string(o, r->model);
    json_key(o, "system_fingerprint");
    json_hex(o, r->fingerprint, 16);
}

void reply_usage(const struct reply *r, struct json_out *o)
{
    json_open(o, '{');
    json_key(o, "prompt_tokens");
    json_uint(o, r->prompt_tokens);
    json_key(o, "completion_tokens");
    json_uint(o, r->completion_tokens);
    json_key(o, "total_tokens");
    json_uint(o, r->prompt_tokens + r->completion_tokens);
    json_key(o, "prompt_tokens_details");
    json_open(o, '{');
    json_key(o, "cached_tokens");
    json_uint(o, r->cached_tokens);
    json_close(o, '}');
    json_close(o, '}');
}

void reply_session(const struct reply *r, struct json_out *o)
{
    if (!r->session)
        return;
    json_key(o, "session");
    json_open(o, '{');
    json_key(o, "id");
    json_string(o, r->session->id.text);
    json_key(o, "version");
    json_uint(o, r->session->version);
    json_key(o, "position");
    json_uint(o, r->session->position);
    json_close(o, '}');
}

const char *reply_finish_name(enum finish f)
{
    /* A turn that was cancelled is answered only with what was kept of it. */
    return f == FINISH_NONE ? NULL : f == FINISH_STOP ? "stop" : "length";
}
