/* tokenize.c - POST /tokenize and /detokenize. */
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/text/detokenizer.h"
#include "models/text/tokenizer.h"
#include "server/api/api.h"
#include "server/api/pending.h"
#include "server/http/http.h"

struct tokenizing {
    struct pending base;
    struct text_params params;
    struct token_list tokens;
    struct error error;
};

enum { INLINE_BYTES = 16 * 1024 }; /* longer texts go to the pool */

/* The tokenizer has one switch for leading ids and special tokens: one of them without the other
 * is put together, or cut off. */
static void encode(struct pending *p)
{
    struct tokenizing *t = (struct tokenizing *)p;
    const struct text_params *of = &t->params;
    size_t lead = 0;

    if (of->special && !of->parses_special &&
        !tokenizer_encode(p->api->tokenizer, "", 0, true, &t->tokens, NULL, &t->error))
        return;
    if (!tokenizer_encode(p->api->tokenizer, of->prompt.text, of->prompt.len, of->parses_special,
                          &t->tokens, &lead, &t->error) ||
        of->special || !lead)
        return;
    t->tokens.count -= lead;
    memmove(t->tokens.id, t->tokens.id + lead, t->tokens.count * sizeof(*t->tokens.id));
}

static void finish(struct tokenizing *t)
{
    free(t->tokens.id);
    text_params_finish(&t->params);
    pending_finish(&t->base);
    free(t);
}

static void encoded(struct pending *p)
{
    struct tokenizing *t = (struct tokenizing *)p;
    struct text_buffer body = { 0 };
    struct json_out out;
    struct problem problem;

    if (t->error.code != ERR_NONE) {
        problem_from_error(&problem, &t->error);
        pending_refuse(p, &problem);
        finish(t);
        return;
    }
    json_out_init(&out, &body);
    json_open(&out, '{');
    json_key(&out, "tokens");
    json_open(&out, '[');
    for (size_t i = 0; i < t->tokens.count; i++)
        json_int(&out, t->tokens.id[i]);
    json_close(&out, ']');
    json_key(&out, "count");
    json_uint(&out, t->tokens.count);
    json_close(&out, '}');
    api_reply_json(p, &out);
    finish(t);
}

void tokenize_post(struct exchange *x, void *app)
{
    struct api *api = app;
    struct params_context context = api_params(api, x);
    struct tokenizing *t = calloc(1, sizeof(*t));
    struct problem problem;
    size_t len;
    const char *body = exchange_body(x, &len);

    if (!t) {
        api_no_memory(x);
        return;
    }
    pending_init(&t->base, api, x);
    if (!params_tokenize(body, len, &context, &t->params, &problem)) {
        pending_refuse(&t->base, &problem);
        finish(t);
    } else if (t->params.prompt.len > INLINE_BYTES) {
        pending_work(&t->base, encode, encoded);
    } else {
        encode(&t->base);
        encoded(&t->base);
    }
}

static bool decode(const struct api *api, const struct prompt *prompt, struct text_buffer *to)
{
    struct detokenizer d;

    detokenizer_init(&d, api->tokenizer, true);
    for (size_t i = 0; i < prompt->ids; i++)
        if (!detokenizer_add(&d, prompt->id[i], to))
            return false;
    return detokenizer_finish(&d, to);
}

void detokenize_post(struct exchange *x, void *app)
{
    struct api *api = app;
    struct params_context context = api_params(api, x);
    struct text_params params;
    struct text_buffer text = { 0 }, body = { 0 };
    struct json_out out;
    struct problem problem;
    size_t len;
    const char *json = exchange_body(x, &len);

    if (!params_detokenize(json, len, &context, &params, &problem)) {
        exchange_refuse(x, &problem);
    } else if (!decode(api, &params.prompt, &text)) {
        api_no_memory(x);
    } else {
        json_out_init(&out, &body);
        json_open(&out, '{');
        json_key(&out, "text");
        json_text(&out, text.len ? text.bytes : "", text.len);
        json_close(&out, '}');
        api_answer_json(x, 200, &out);
    }
    free(text.bytes);
    text_params_finish(&params);
}
