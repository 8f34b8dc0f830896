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
    free(r->chunk.bytes);
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

/* The answer opens, and the choices in it. */
static void open_answer(const struct reply *r, const char *object, struct json_out *o)
{
    json_open(o, '{');
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
    json_key(o, "choices");
    json_open(o, '[');
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

static void put_session(const struct reply *r, struct json_out *o)
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

/* A turn that was cancelled is answered only with what was kept of it. */
static void close_choice(enum finish f, struct json_out *o)
{
    json_key(o, "finish_reason");
    json_string(o, f == FINISH_NONE ? NULL : f == FINISH_STOP ? "stop" : "length");
    json_close(o, '}');
}

static void put_totals(const struct reply *r, struct json_out *o)
{
    json_key(o, "usage");
    reply_usage(r, o);
    put_session(r, o);
}

void reply_whole(struct reply *r, struct json_out *o)
{
    open_answer(r, r->shape->object, o);
    for (int i = 0; i < r->prompts * r->n; i++) {
        json_open(o, '{');
        r->shape->choice(r, i, o);
        close_choice(r->choice[i].finish, o);
    }
    json_close(o, ']');
    put_totals(r, o);
    json_close(o, '}');
}

/* As open_answer(): what is the same in all chunks is written once. */
static void open_chunk(struct reply *r, struct json_out *o)
{
    struct json_out once;

    json_out_init(&once, &r->chunk);
    if (r->chunk.len == 0)
        open_answer(r, r->shape->chunk_object, &once);
    if (json_out_ok(&once)) {
        json_raw_open(o, r->chunk.bytes, r->chunk.len);
        return;
    }
    r->chunk.len = 0; /* the next one writes it anew */
    o->failed = true;
}

void reply_chunk(struct reply *r, const struct reply_piece *piece, struct json_out *o)
{
    open_chunk(r, o);
    json_open(o, '{');
    r->shape->piece(r, piece, o);
    close_choice(piece->finish, o);
    json_close(o, ']');
    if (r->include_usage) {
        json_key(o, "usage");
        json_null(o);
    }
    if (piece->finish != FINISH_NONE)
        put_session(r, o);
    json_close(o, '}');
}

void reply_usage_chunk(struct reply *r, struct json_out *o)
{
    open_chunk(r, o);
    json_close(o, ']');
    put_totals(r, o);
    json_close(o, '}');
}
