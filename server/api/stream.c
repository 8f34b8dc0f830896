#include "server/api/stream.h"

#include <stdlib.h>
#include <string.h>

#include "config/limits.h"
#include "models/text/text_buffer.h"
#include "server/api/generation.h"
#include "server/api/repeats.h"
#include "server/http/http.h"

/* Framed, until the reader has taken what was sent. false: too much, or no memory. */
static bool hold(struct generation *g, const char *data, size_t len)
{
    return g->held.len + len <= LIMIT_STREAM_BYTES + g->echoed &&
           text_buffer_append(&g->held, "data: ", 6) && text_buffer_append(&g->held, data, len) &&
           text_buffer_append(&g->held, "\n\n", 2);
}

/* echo: it repeats a prompt, which is as long as the request made it. */
static void emit(struct generation *g, const char *data, size_t len, bool echo)
{
    struct exchange *x = g->base.exchange;

    repeats_add(&g->base, "data: ", 6);
    repeats_add(&g->base, data, len);
    repeats_add(&g->base, "\n\n", 2);
    if (g->base.gone || g->lost)
        return;
    if (!g->streaming) {
        exchange_stream(x, 200, "text/event-stream");
        g->streaming = true;
    }
    if (g->held.len == 0 && exchange_backlog(x) <= LIMIT_WRITE_QUEUE_BYTES) {
        exchange_event(x, data, len);
        g->base.dirty = true;
        return;
    }
    g->echoed += echo ? len : 0;
    if (hold(g, data, len))
        return;
    g->lost = g->slow = true;
    g->held.len = 0;
    g->base.cancel(&g->base);
}

/* What was written to the chunk. A gap must not look like an answer. */
static void emit_json(struct generation *g, const struct json_out *out, bool echo)
{
    if (json_out_ok(out)) {
        emit(g, g->chunk.bytes, g->chunk.len, echo);
        return;
    }
    repeats_spoil(&g->base);
    g->lost = true;
    g->base.cancel(&g->base);
}

static struct json_out write_chunk(struct generation *g)
{
    struct json_out out;

    g->chunk.len = 0;
    json_out_init(&out, &g->chunk);
    return out;
}

static void emit_chunk(struct generation *g, const struct reply_piece *piece)
{
    struct json_out out = write_chunk(g);

    reply_chunk(&g->reply, piece, &out);
    emit_json(g, &out, piece->prompt);
}

/* The first piece of a choice: the role of a chat, the echo of a completion. */
static void begin_choice(struct generation *g, int index)
{
    const struct reply_prompt *p = &g->reply.prompt[index / g->reply.n];
    struct reply_choice *c = &g->reply.choice[index];

    if (c->begun)
        return;
    c->begun = true;
    if (g->params.turn.chat || g->params.echo)
        emit_chunk(g, &(struct reply_piece){ .choice = index,
                                             .text = p->text.len ? p->text.bytes : "",
                                             .len = p->text.len,
                                             .score = p->scores.item,
                                             .scores = p->scores.count,
                                             .opening = true,
                                             .prompt = true });
}

void stream_add_text(struct generation *g, int choice, const struct event *e)
{
    begin_choice(g, choice);
    if (e->text.len == 0 && !e->score)
        return;
    emit_chunk(g, &(struct reply_piece){ .choice = choice,
                                         .text = e->text.len ? e->text.bytes : "",
                                         .len = e->text.len,
                                         .score = e->score,
                                         .scores = e->score != NULL });
}

static void last_chunk(struct generation *g, int choice)
{
    begin_choice(g, choice);
    emit_chunk(g, &(struct reply_piece){
                      .choice = choice, .text = "", .finish = g->reply.choice[choice].finish });
}

/* A session's turn is not done before it is committed: its last chunk waits for the answer,
 * and so does that of a turn that was cut, whose reason is not known yet. */
void stream_finish_choice(struct generation *g, int choice)
{
    enum finish f = g->reply.choice[choice].finish;

    if (g->params.session.text[0] || (f != FINISH_STOP && f != FINISH_LENGTH))
        return;
    last_chunk(g, choice);
    g->reply.choice[choice].finished = true;
}

static struct json_out write_problem(struct generation *g, const struct problem *p)
{
    const struct problem_row *row = problem_row(p->what);
    struct json_out out = write_chunk(g);

    json_open(&out, '{');
    json_key(&out, "error");
    json_open(&out, '{');
    json_key(&out, "message");
    json_string(&out, p->message);
    json_key(&out, "type");
    json_string(&out, row->type);
    json_key(&out, "param");
    json_string(&out, p->param[0] ? p->param : NULL);
    json_key(&out, "code");
    json_string(&out, row->code);
    json_close(&out, '}');
    json_close(&out, '}');
    return out;
}

/* Behind what is on its way already, for a reader that comes to it. What was held would be the
 * answer up to any place. */
static void tell_slow_reader(struct generation *g)
{
    struct exchange *x = g->base.exchange;
    struct problem p;
    struct json_out out;

    problem_set(&p, PROBLEM_SLOW_READER, NULL,
                "the stream was read too slowly: more than %d bytes of it were waiting",
                LIMIT_STREAM_BYTES);
    exchange_fail(x, &p);
    out = write_problem(g, &p);
    if (json_out_ok(&out) && hold(g, g->chunk.bytes, g->chunk.len))
        exchange_write(x, g->held.bytes, g->held.len);
}

static void end(struct generation *g)
{
    struct exchange *x = g->base.exchange;

    if (g->slow)
        tell_slow_reader(g);
    exchange_watch(x, NULL, NULL, NULL);
    g->base.exchange = NULL;
    exchange_end(x, !g->lost);
    generation_destroy(g);
}

void stream_complete(struct generation *g)
{
    struct json_out out;

    if (g->problem.what != PROBLEM_NONE) {
        repeats_drop(&g->base); /* who waits for the answer does not wait for a slow reader, too */
        if (!g->base.gone)
            exchange_fail(g->base.exchange, &g->problem);
        out = write_problem(g, &g->problem);
        emit_json(g, &out, false);
    } else {
        for (int i = 0; i < g->reply.prompts * g->reply.n; i++)
            if (!g->reply.choice[i].finished)
                last_chunk(g, i);
        if (g->params.include_usage) {
            out = write_chunk(g);
            reply_usage_chunk(&g->reply, &out);
            emit_json(g, &out, false);
        }
        emit(g, "[DONE]", 6, false);
        repeats_keep(&g->base, "text/event-stream");
    }
    if (g->base.gone) {
        generation_destroy(g);
        return;
    }
    g->ended = true;
    if (g->held.len == 0 || g->lost)
        end(g);
}

void stream_drained(struct pending *p)
{
    struct generation *g = (struct generation *)p;

    if (g->held.len == 0 || g->lost)
        return;
    exchange_write(p->exchange, g->held.bytes, g->held.len);
    g->held.len = g->echoed = 0;
    if (g->ended)
        end(g);
    else
        exchange_flush(p->exchange);
}
