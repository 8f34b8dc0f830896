/* reply_chat.c - OpenAI's chat.completion and chat.completion.chunk. */
#include <math.h>

#include "models/text/tokenizer.h"
#include "server/api/reply.h"

/* token, logprob and bytes of one id; the caller closes the object. */
static void open_token(const struct reply *r, int32_t id, float logprob, struct json_out *o)
{
    size_t len;
    const char *bytes = tokenizer_token_bytes(r->tokenizer, id, &len);

    json_open(o, '{');
    json_key(o, "token");
    json_text(o, len ? bytes : "", len);
    json_key(o, "logprob");
    json_float(o, logprob);
    json_key(o, "bytes");
    json_open(o, '[');
    for (size_t i = 0; i < len; i++)
        json_uint(o, (unsigned char)bytes[i]);
    json_close(o, ']');
}

static void put_logprobs(const struct reply *r, const struct token_score *score, size_t n,
                         struct json_out *o)
{
    json_key(o, "logprobs");
    if (!r->logprobs || n == 0) {
        json_null(o);
        return;
    }
    json_open(o, '{');
    json_key(o, "content");
    json_open(o, '[');
    for (size_t i = 0; i < n; i++) {
        open_token(r, score[i].id, score[i].logprob, o);
        json_key(o, "top_logprobs");
        json_open(o, '[');
        for (int k = 0; k < score[i].tops; k++) {
            open_token(r, score[i].top_id[k], score[i].top_logprob[k], o);
            json_close(o, '}');
        }
        json_close(o, ']');
        json_close(o, '}');
    }
    json_close(o, ']');
    json_key(o, "refusal");
    json_null(o);
    json_close(o, '}');
}

static void put_choice(struct reply *r, int index, struct json_out *o)
{
    const struct reply_choice *c = &r->choice[index];

    json_key(o, "index");
    json_int(o, index);
    json_key(o, "message");
    json_open(o, '{');
    json_key(o, "role");
    json_string(o, "assistant");
    json_key(o, "content");
    json_text(o, c->text.len ? c->text.bytes : "", c->text.len);
    json_key(o, "refusal");
    json_null(o);
    json_close(o, '}');
    put_logprobs(r, c->scores.item, c->scores.count, o);
}

static void put_piece(struct reply *r, const struct reply_piece *piece, struct json_out *o)
{
    json_key(o, "index");
    json_int(o, piece->choice);
    json_key(o, "delta");
    json_open(o, '{');
    if (piece->opening) {
        json_key(o, "role");
        json_string(o, "assistant");
    }
    if (piece->opening || piece->len > 0) {
        json_key(o, "content");
        json_text(o, piece->text, piece->len);
    }
    json_close(o, '}');
    put_logprobs(r, piece->score, piece->scores, o);
}

const struct reply_shape reply_chat = { "chatcmpl",        reply_whole,
                                        "chat.completion", "chat.completion.chunk",
                                        put_choice,        put_piece };
