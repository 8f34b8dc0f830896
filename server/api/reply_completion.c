/* reply_completion.c - OpenAI's text_completion, legacy logprobs included.
 *
 * The legacy form names a token by its text. Bytes that are no UTF-8 by themselves are
 * written "bytes:\xe2\x80", as OpenAI does, so that such tokens stay apart. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/text/text_buffer.h"
#include "models/text/tokenizer.h"
#include "models/text/utf8.h"
#include "server/api/reply.h"

/* Goes on by some bytes; returns how many characters lie before the one that the first of them is
 * of. Characters, not bytes: a client's strings are indexed by them. */
static size_t extend(struct text_extent *e, const char *bytes, size_t len)
{
    size_t before = e->chars;

    for (size_t i = 0; i < len; i++) {
        size_t n;

        e->part[e->held++] = bytes[i];
        while (e->held && utf8_next(e->part, (size_t)e->held, &n) != UTF8_PARTIAL) {
            e->chars++;
            e->held -= (int)n;
            memmove(e->part, e->part + n, (size_t)e->held);
            if (i == 0 && e->held)
                before = e->chars; /* what was held did not become a character */
        }
    }
    return before;
}

/* The token's name to `put`, which is json_text() or json_key_text(). */
static void put_token(const struct reply *r, int32_t id, struct json_out *o,
                      void (*put)(struct json_out *o, const char *bytes, size_t len))
{
    size_t len;
    const char *bytes = tokenizer_token_bytes(r->tokenizer, id, &len);
    struct text_buffer name = { 0 };
    char hex[8];

    if (utf8_valid_prefix(bytes, len) == len) {
        put(o, len ? bytes : "", len);
        return;
    }
    if (!text_buffer_append(&name, "bytes:", 6))
        o->failed = true;
    for (size_t i = 0; i < len; i++) {
        snprintf(hex, sizeof(hex), "\\x%02x", (unsigned char)bytes[i]);
        if (!text_buffer_append(&name, hex, 4))
            o->failed = true;
    }
    put(o, name.bytes, name.len);
    free(name.bytes);
}

static bool same_text(const struct reply *r, int32_t a, int32_t b)
{
    size_t la, lb;
    const char *ta = tokenizer_token_bytes(r->tokenizer, a, &la);
    const char *tb = tokenizer_token_bytes(r->tokenizer, b, &lb);

    return a == b || (la == lb && (la == 0 || memcmp(ta, tb, la) == 0));
}

/* {token: logprob}: the alternatives and the token itself. Of several ids with one text the
 * likeliest keeps it: an object has each key once. */
static void put_tops(const struct reply *r, const struct token_score *s, struct json_out *o)
{
    bool itself = false;

    if (isnan(s->logprob)) {
        json_null(o);
        return;
    }
    json_open(o, '{');
    for (int i = 0; i < s->tops; i++) {
        bool again = false;

        for (int j = 0; j < i && !again; j++)
            again = same_text(r, s->top_id[i], s->top_id[j]);
        itself = itself || same_text(r, s->top_id[i], s->id);
        if (again)
            continue;
        put_token(r, s->top_id[i], o, json_key_text);
        json_float(o, s->top_logprob[i]);
    }
    if (!itself) {
        put_token(r, s->id, o, json_key_text);
        json_float(o, s->logprob);
    }
    json_close(o, '}');
}

/* Runs of tokens, one after another, make the four parallel arrays. */
struct run {
    const struct token_score *score;
    size_t count;
    bool prompt;
    size_t lead; /* leading tokens that are not in the text */
};

/* Goes on by what the i-th token of a run adds to the text. */
static size_t extend_by_token(struct text_extent *e, const struct reply *r, const struct run *run,
                              size_t i)
{
    int32_t id = run->score[i].id;
    size_t len;
    const char *bytes = tokenizer_token_bytes(r->tokenizer, id, &len);

    if (i < run->lead || (!run->prompt && !r->special && tokenizer_is_special(r->tokenizer, id)))
        len = 0;
    return extend(e, bytes, len);
}

/* e: of the text before the first token; goes on by all of them. */
static void put_logprobs(const struct reply *r, const struct run *run, int runs,
                         struct text_extent *e, struct json_out *o)
{
    json_key(o, "logprobs");
    if (!r->logprobs || runs == 0) {
        json_null(o);
        return;
    }
    json_open(o, '{');
    json_key(o, "tokens");
    json_open(o, '[');
    for (int k = 0; k < runs; k++)
        for (size_t i = 0; i < run[k].count; i++)
            put_token(r, run[k].score[i].id, o, json_text);
    json_close(o, ']');
    json_key(o, "token_logprobs");
    json_open(o, '[');
    for (int k = 0; k < runs; k++)
        for (size_t i = 0; i < run[k].count; i++)
            json_float(o, run[k].score[i].logprob);
    json_close(o, ']');
    json_key(o, "top_logprobs");
    json_open(o, '[');
    for (int k = 0; k < runs; k++)
        for (size_t i = 0; i < run[k].count; i++)
            put_tops(r, &run[k].score[i], o);
    json_close(o, ']');
    json_key(o, "text_offset");
    json_open(o, '[');
    for (int k = 0; k < runs; k++)
        for (size_t i = 0; i < run[k].count; i++)
            json_uint(o, extend_by_token(e, r, &run[k], i));
    json_close(o, ']');
    json_close(o, '}');
}

static void put_choice(struct reply *r, int index, struct json_out *o)
{
    const struct reply_choice *c = &r->choice[index];
    const struct reply_prompt *p = &r->prompt[index / r->n];
    const struct run runs[] = {
        { p->scores.item, p->scores.count, true, p->lead },
        { c->scores.item, c->scores.count, false, 0 },
    };
    struct text_buffer whole = { 0 };
    struct text_extent e = { 0 };

    if (!text_buffer_append(&whole, p->text.bytes, p->text.len) ||
        !text_buffer_append(&whole, c->text.bytes, c->text.len))
        o->failed = true;
    json_key(o, "text");
    json_text(o, whole.len ? whole.bytes : "", whole.len);
    json_key(o, "index");
    json_int(o, index);
    /* Prompt tokens count their own characters; without scores of the prompt an echo still
     * moves the answer's. */
    if (!p->scores.count)
        extend(&e, p->text.bytes, p->text.len);
    put_logprobs(r, runs, 2, &e, o);
    free(whole.bytes);
}

static void put_piece(struct reply *r, const struct reply_piece *piece, struct json_out *o)
{
    struct reply_choice *c = &r->choice[piece->choice];
    const struct run run = { piece->score, piece->scores, piece->prompt,
                             piece->prompt ? r->prompt[piece->choice / r->n].lead : 0 };

    json_key(o, "text");
    json_text(o, piece->text, piece->len);
    json_key(o, "index");
    json_int(o, piece->choice);
    put_logprobs(r, &run, piece->scores > 0, &c->sent, o);
    if (piece->prompt && !piece->scores)
        extend(&c->sent, piece->text, piece->len);
}

const struct reply_shape reply_completion = {
    "cmpl", reply_whole, "text_completion", "text_completion", put_choice, put_piece
};
