/* params.h - the only reader of request JSON: bytes in, checked values out.
 *
 * A body is scanned (json_scan), parsed (cJSON) and read by one table per kind of request:
 * key, type, bounds, place. Every field is named in a table or refused as unknown_field;
 * lookups are case-sensitive; a number is finite, whole where it must be, and in bounds. A
 * null means "not given", as in OpenAI's schema. What is returned needs no further check.
 * Any thread. */
#ifndef SERVER_API_PARAMS_H
#define SERVER_API_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/text/chat_template.h"
#include "server/engine/command.h"

struct cJSON;

/* What requests are held against. */
struct params_context {
    const char *model;          /* the served name */
    int vocab;                  /* token ids are below it */
    int max_tokens;             /* the operator's cap */
    const char *session_header; /* X-Session-Id or NULL */
    const char *match_header;   /* If-Match or NULL */
    const char *none_header;    /* If-None-Match or NULL */
};

struct prompt {
    const char *text; /* borrowed from the JSON; NULL: ids are given */
    size_t len;
    int32_t *id; /* owned */
    size_t ids;
};

/* A completion, a chat or an append. */
struct generation_params {
    struct cJSON *json; /* owned: the texts point into it */
    size_t body_len;
    struct id session;         /* "": none */
    bool has_expected_version; /* the field, which goes into `expected` with If-Match */
    uint64_t expected_version;
    struct version_set expected, unwanted;
    struct turn turn; /* a pattern: all but the prompt; owns its lists */
    bool has_max_tokens;
    struct prompt *prompt; /* owned; completions and appends */
    int prompts;
    struct chat_message *message; /* owned; chats */
    int messages;
    char *joined; /* owned: text of messages that came in parts */
    size_t joined_len;
    bool stream, include_usage, echo;
    bool chat_logprobs;
    int top_logprobs, chat_max_tokens, best_of;
    bool has_best_of;
};

/* Fill *g, which generation_params_finish() frees in any case. */
bool params_completion(const char *body, size_t len, const struct params_context *c,
                       struct generation_params *g, struct problem *p);
bool params_chat(const char *body, size_t len, const struct params_context *c,
                 struct generation_params *g, struct problem *p);
bool params_append(const char *body, size_t len, const struct params_context *c,
                   struct generation_params *g, struct problem *p);
void generation_params_finish(struct generation_params *g);

/* The small bodies of the session verbs; an empty body is an empty object. */
struct session_params {
    struct id id, snapshot; /* "" when not given */
    bool has_seed, has_ttl, has_position;
    uint64_t position;
    int turns; /* 0: not given */
    uint64_t seed;
    double ttl;
    char *metadata; /* JSON text, owned, or NULL */
    int n;
    char label[LIMIT_LABEL_BYTES + 1];
    bool pin;
};

enum session_verb {
    SESSION_CREATE,
    SESSION_FORK,
    SESSION_RESTORE,
    SESSION_ROLLBACK,
    SESSION_SNAPSHOT,
    SLOT_FILE
};

bool params_session(enum session_verb verb, const char *body, size_t len,
                    const struct params_context *c, struct session_params *s, struct problem *p);
void session_params_finish(struct session_params *s);

/* POST /tokenize and /detokenize. */
struct text_params {
    struct cJSON *json; /* owned */
    struct prompt prompt;
    bool special;                    /* leading tokens come first */
    bool parses_special, has_parses; /* texts of special tokens are these; without: as `special` */
};

bool params_tokenize(const char *body, size_t len, const struct params_context *c,
                     struct text_params *t, struct problem *p);
bool params_detokenize(const char *body, size_t len, const struct params_context *c,
                       struct text_params *t, struct problem *p);
void text_params_finish(struct text_params *t);

/* `limit` and `after` of a list's query; NULL when absent. */
bool params_page(const char *limit, const char *after, int *count, struct id *id,
                 struct problem *p);

#endif
