/* reply.h - a generated answer as data, and its two OpenAI shapes as JSON.
 *
 * A reply holds what turns have produced so far. Its shape (completions or chat) writes the
 * whole answer, or one chunk of a stream at a time; nothing here knows a socket. Loop
 * thread. */
#ifndef SERVER_API_REPLY_H
#define SERVER_API_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/api/json_out.h"
#include "server/engine/command.h"

struct tokenizer;

/* A run of tokens with their probabilities. */
struct scores {
    struct token_score *item; /* owned */
    size_t count, capacity;
};

/* One prompt of the request: what `echo` repeats. */
struct reply_prompt {
    struct text_buffer text; /* owned; empty without echo */
    struct scores scores;    /* of its tokens, when they were asked for */
    size_t lead;             /* leading tokens that have no text */
};

/* How far text reaches: characters, and bytes behind them that begin one. What is no UTF-8 is as
 * many as there are of U+FFFD in its place. */
struct text_extent {
    size_t chars;
    char part[4];
    int held;
};

struct reply_choice {
    struct text_buffer text; /* owned; a stream does not collect it */
    struct scores scores;
    enum finish finish;
    bool begun, finished;    /* the stream has its first chunk, its last */
    struct text_extent sent; /* for text_offset */
};

struct reply_shape;

struct reply {
    const struct reply_shape *shape;
    const struct tokenizer *tokenizer; /* borrowed */
    const char *model;                 /* borrowed */
    const uint8_t *fingerprint;        /* 16 bytes, borrowed */
    struct id id;
    int64_t created;
    struct text_buffer chunk; /* what all chunks begin with, owned; empty until the first */
    bool logprobs, include_usage, special; /* special: their text is part of the answer */
    struct reply_prompt *prompt;           /* [prompts], owned */
    struct reply_choice *choice;           /* [prompts * n], owned */
    int prompts, n;
    size_t prompt_tokens, cached_tokens, completion_tokens;
    const struct session_info *session; /* after the turn, borrowed; NULL without one */
};

/* One piece of a stream; text and scores are borrowed. */
struct reply_piece {
    int choice;
    const char *text;
    size_t len;
    const struct token_score *score;
    size_t scores;
    bool opening;       /* the first piece of its choice */
    bool prompt;        /* an echo: the scores are of the prompt */
    enum finish finish; /* FINISH_NONE until the last piece */
};

struct reply_shape {
    const char *id_prefix;
    void (*whole)(struct reply *r, struct json_out *o);
    /* What reply_whole() and the chunks of a stream call the answer and its chunks, and the fields
     * of a choice, but for finish_reason. */
    const char *object, *chunk_object;
    void (*choice)(struct reply *r, int index, struct json_out *o);
    void (*piece)(struct reply *r, const struct reply_piece *piece, struct json_out *o);
};

extern const struct reply_shape reply_completion, reply_chat;

/* Prepares r for `prompts` prompts of n choices, with a fresh id. false: no memory. */
bool reply_init(struct reply *r, const struct reply_shape *shape, int prompts, int n);
void reply_finish(struct reply *r);

bool scores_add(struct scores *to, const struct token_score *from, size_t n);

/* The answer as a list of choices; one chunk of it; the extra chunk of include_usage. */
void reply_whole(struct reply *r, struct json_out *o);
void reply_chunk(struct reply *r, const struct reply_piece *piece, struct json_out *o);
void reply_usage_chunk(struct reply *r, struct json_out *o);
void reply_usage(const struct reply *r, struct json_out *o); /* the value of "usage" */

#endif
