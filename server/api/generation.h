/* generation.h - a request that makes the model run: completions, chats, appends.
 *
 * One turn per prompt goes to the engine once every prompt is tokenized; what comes back is
 * collected into one answer or streamed as it comes. A client that leaves cancels its turns,
 * a deadline ends them with what they have drawn, a slow reader first fills a bounded buffer.
 * What is answered as a session's turn is in the session. Loop thread only. */
#ifndef SERVER_API_GENERATION_H
#define SERVER_API_GENERATION_H

#include "models/text/tokenizer.h"
#include "server/api/params.h"
#include "server/api/pending.h"
#include "server/api/reply.h"

struct generation {
    struct pending base;
    struct generation_params params;
    struct reply reply;
    struct text_buffer rendered; /* a chat's prompt */
    struct token_list *tokens;   /* [prompts] */
    struct command **command;    /* [prompts], ours again when answered */
    int sent, answered;
    struct problem problem;   /* the first thing that went wrong */
    struct error error;       /* the tokenizer's */
    bool asking;              /* a chat asks for its session first */
    bool seen_version;        /* `expected` is what we saw, not what the client said */
    bool streaming, ended;    /* the stream's head is written; its end is due */
    bool lost;                /* the stream is cut, */
    bool slow;                /* for its reader was too slow */
    bool late;                /* over its time, or the server drains */
    struct text_buffer held;  /* framed events that wait for a slow reader */
    size_t echoed;            /* bytes of these that repeat prompts */
    struct text_buffer chunk; /* scratch; or the whole answer */
    bool written;             /* the answer: there was memory for all of it */
};

/* Joins the exchange; NULL: refused for want of memory. */
struct generation *generation_create(struct api *api, struct exchange *x);

/* The params are read. false: the request is a repeat, and g is gone. */
bool generation_begin(struct generation *g);
/* Checks that nothing is missing, tokenizes, runs the turns, answers
 * and frees itself. */
void generation_start(struct generation *g, const struct reply_shape *shape);

/* The events of its turns. */
void generation_take(struct pending *p, struct event *e);

/* Answers with the problem and frees. Nothing of it may be on its way. */
void generation_refuse(struct generation *g, const struct problem *problem);
void generation_destroy(struct generation *g);

#endif
