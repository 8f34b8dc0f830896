#include "server/api/generation.h"

#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/options.h"
#include "models/model.h"
#include "models/text/text_buffer.h"
#include "server/api/api.h"
#include "server/api/repeats.h"
#include "server/api/stream.h"
#include "server/clock.h"
#include "server/engine/engine.h"
#include "server/http/http.h"

enum {
    INLINE_BYTES = 16 * 1024, /* longer texts are tokenized in the pool */
    INLINE_SCORES = 4096,     /* with more logprobs an answer is written there, too */
};

static void cancel(struct pending *p);

struct generation *generation_create(struct api *api, struct exchange *x)
{
    struct generation *g = calloc(1, sizeof(*g));

    if (!g) {
        api_no_memory(x);
        return NULL;
    }
    g->base.take = generation_take;
    g->base.cancel = cancel;
    g->base.drained = stream_drained;
    pending_init(&g->base, api, x);
    return g;
}

void generation_destroy(struct generation *g)
{
    int prompts = g->reply.prompts;

    for (int i = 0; g->tokens && i < prompts; i++)
        free(g->tokens[i].id);
    for (int i = 0; g->command && i < prompts; i++)
        command_free(g->command[i]);
    free(g->tokens);
    free(g->command);
    free(g->rendered.bytes);
    free(g->held.bytes);
    free(g->chunk.bytes);
    reply_finish(&g->reply);
    generation_params_finish(&g->params);
    pending_finish(&g->base);
    free(g);
}

void generation_refuse(struct generation *g, const struct problem *problem)
{
    pending_refuse(&g->base, problem);
    generation_destroy(g);
}

bool generation_begin(struct generation *g)
{
    if (repeats_begin(&g->base, g->params.session.text[0] != '\0', &g->params.session))
        return true;
    generation_destroy(g);
    return false;
}

static bool in_flight(const struct generation *g)
{
    return g->base.working || g->asking || g->answered < g->sent;
}

static void cancel_turns(struct generation *g)
{
    for (int i = 0; i < g->sent; i++) {
        if (g->late)
            atomic_store(&g->command[i]->cut, true);
        atomic_store(&g->command[i]->cancelled, true);
    }
    if (g->sent > g->answered)
        engine_nudge(g->base.api->engine);
}

static void cancel(struct pending *p)
{
    struct generation *g = (struct generation *)p;

    g->late = pending_heard(p) && !g->lost;
    cancel_turns(g);
    if (p->gone && !in_flight(g) && (g->ended || g->sent == 0))
        generation_destroy(g);
}

static bool remember_problem(struct generation *g, const struct problem *problem)
{
    if (g->problem.what == PROBLEM_NONE)
        g->problem = *problem;
    return false;
}

static bool no_memory(struct generation *g)
{
    struct problem problem;

    problem_set(&problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
    return remember_problem(g, &problem);
}

/* Pool or loop. On failure g->error says why. */
static void tokenize(struct pending *p)
{
    struct generation *g = (struct generation *)p;

    for (int i = 0; i < g->params.prompts; i++) {
        const struct prompt *prompt = &g->params.prompt[i];

        if (prompt->text && !tokenizer_encode(p->api->tokenizer, prompt->text, prompt->len, true,
                                              &g->tokens[i], &g->reply.prompt[i].lead, &g->error))
            return;
    }
}

/* A turn is the pattern of the params with a prompt of its own. */
static bool fill_turn(struct turn *to, const struct turn *pattern)
{
    const struct sampling *s = &pattern->sampling;

    *to = *pattern;
    to->stop = calloc((size_t)pattern->stops + 1, sizeof(*to->stop));
    to->stop_id = calloc((size_t)pattern->stop_ids + 1, sizeof(*to->stop_id));
    to->sampling.bias = calloc((size_t)s->biases + 1, sizeof(*s->bias));
    if (!to->stop || !to->stop_id || !to->sampling.bias)
        return false; /* command_free() takes it half-built */
    if (pattern->stops)
        memcpy(to->stop, pattern->stop, (size_t)pattern->stops * sizeof(*to->stop));
    if (pattern->stop_ids)
        memcpy(to->stop_id, pattern->stop_id, (size_t)pattern->stop_ids * sizeof(*to->stop_id));
    if (s->biases)
        memcpy(to->sampling.bias, s->bias, (size_t)s->biases * sizeof(*s->bias));
    return true;
}

/* The text of a prompt as the answer repeats it. */
static bool fill_echo(struct generation *g, int i)
{
    const struct prompt *prompt = &g->params.prompt[i];
    struct text_buffer *to = &g->reply.prompt[i].text;
    struct detokenizer d;

    if (prompt->text)
        return text_buffer_append(to, prompt->text, prompt->len);
    detokenizer_init(&d, g->base.api->tokenizer, g->params.turn.special);
    for (size_t k = 0; k < g->tokens[i].count; k++)
        if (!detokenizer_add(&d, g->tokens[i].id[k], to))
            return false;
    return detokenizer_finish(&d, to);
}

/* One prompt's turn, ready to go. */
static bool build_command(struct generation *g, int i)
{
    int max_prompt = g->base.api->options->max_prompt;
    struct token_list *tokens = &g->tokens[i];
    struct command *c;
    struct problem problem;

    if (tokens->count > (size_t)max_prompt) {
        problem_set(&problem, PROBLEM_PROMPT_TOO_LONG, "prompt",
                    "the prompt has %zu tokens; this server takes at most %d", tokens->count,
                    max_prompt);
        return remember_problem(g, &problem);
    }
    if (g->params.echo && !fill_echo(g, i))
        return no_memory(g);
    c = g->command[i] = command_create(COMMAND_TURN, &g->base);
    if (!c || !fill_turn(&c->turn, &g->params.turn))
        return no_memory(g);
    c->owner = exchange_client(g->base.exchange);
    c->session = g->params.session;
    c->expected = g->params.expected;
    c->unwanted = g->params.unwanted;
    c->turn.lead = g->reply.prompt[i].lead;
    c->turn.prompt = tokens->id;
    c->turn.prompt_len = tokens->count;
    *tokens = (struct token_list){ 0 };
    return true;
}

/* Each choice repeats those of its prompt: the answer is as long as all of them. */
static bool check_scores(struct generation *g)
{
    const struct turn *turn = &g->params.turn;
    struct problem problem;
    size_t scores = 0;

    for (int i = 0; i < g->params.prompts && turn->score; i++)
        scores += g->tokens[i].count;
    scores *= (size_t)turn->choices * (size_t)(1 + turn->logprobs);
    if (scores <= LIMIT_SCORES)
        return true;
    problem_set(&problem, PROBLEM_PROMPT_TOO_LONG, "logprobs",
                "the prompts would have %zu logprobs in the answer, with alternatives and in each "
                "choice; this server gives at most %d",
                scores, LIMIT_SCORES);
    return remember_problem(g, &problem);
}

static bool build_commands(struct generation *g)
{
    const int most = engine_max_turns(g->base.api->engine), n = g->params.prompts;
    struct problem problem;

    if (n > most) {
        problem_set(&problem, PROBLEM_INVALID_PARAMETER, "prompt",
                    "there are %d prompts; this server takes at most %d at a time", n, most);
        return remember_problem(g, &problem);
    }
    if (!check_scores(g))
        return false;
    for (int i = 0; i < n; i++)
        if (!build_command(g, i))
            return false;
    return true;
}

/* The tokens are there: every prompt's turn goes down, or none. */
static void send_turns(struct pending *p)
{
    struct generation *g = (struct generation *)p;
    struct problem problem;

    if (g->error.code != ERR_NONE) {
        problem_from_error(&problem, &g->error);
        generation_refuse(g, &problem);
        return;
    }
    if (!pending_heard(p) || g->late) {
        pending_late(p, &problem);
        generation_refuse(g, &problem);
        return;
    }
    if (!build_commands(g)) {
        generation_refuse(g, &g->problem);
        return;
    }
    if (!engine_send_all(p->api->engine, g->command, g->params.prompts)) {
        problem_set(&problem, PROBLEM_QUEUE_FULL, NULL, "the queue is full");
        generation_refuse(g, &problem);
        return;
    }
    g->sent = g->params.prompts;
}

void generation_start(struct generation *g, const struct reply_shape *shape)
{
    struct api *api = g->base.api;
    struct generation_params *params = &g->params;
    size_t bytes = 0;
    bool room = reply_init(&g->reply, shape, params->prompts, params->turn.choices);

    g->reply.tokenizer = api->tokenizer;
    g->reply.model = api->model_name;
    g->reply.fingerprint = api->model->fingerprint;
    g->reply.logprobs = params->turn.logprobs >= 0;
    g->reply.include_usage = params->include_usage;
    g->reply.special = params->turn.special;
    g->tokens = calloc((size_t)params->prompts, sizeof(*g->tokens));
    g->command = calloc((size_t)params->prompts, sizeof(struct command *));
    if (!room || !g->tokens || !g->command) {
        no_memory(g);
        generation_refuse(g, &g->problem);
        return;
    }
    for (int i = 0; i < params->prompts; i++) {
        struct prompt *prompt = &params->prompt[i];

        bytes += prompt->len;
        g->tokens[i] = (struct token_list){ prompt->id, prompt->ids, prompt->ids };
        prompt->id = NULL;
    }
    if (api->options->request_seconds > 0)
        g->base.deadline = clock_seconds() + api->options->request_seconds;
    if (bytes > INLINE_BYTES) {
        pending_work(&g->base, tokenize, send_turns);
    } else {
        tokenize(&g->base);
        send_turns(&g->base);
    }
}

/* Every turn is back. The answers' numbers are added up, what never finished was cut. */
static void sum_up(struct generation *g)
{
    struct reply *r = &g->reply;

    for (int i = 0; i < g->sent; i++) {
        const struct turn *t = &g->command[i]->turn;

        r->prompt_tokens += t->prompt_tokens;
        r->cached_tokens += t->cached_tokens;
        r->completion_tokens += t->completion_tokens;
        if (t->info.id.text[0])
            r->session = &t->info;
    }
    for (int i = 0; i < r->prompts * r->n; i++)
        if (r->choice[i].finish == FINISH_NONE)
            r->choice[i].finish = FINISH_LENGTH;
}

/* A choice that had drawn nothing when its turn was ended is cancelled. */
static bool all_have_drawn(const struct generation *g)
{
    for (int i = 0; i < g->reply.prompts * g->reply.n; i++)
        if (g->reply.choice[i].finish == FINISH_CANCELLED)
            return false;
    return true;
}

/* What turns drew before they were ended is an answer when it is in the session, or when there
 * is none: then all of it, or nothing. */
static void judge_cancelled(struct generation *g)
{
    bool stands = !g->params.session.text[0] && all_have_drawn(g);

    if (g->problem.what != PROBLEM_CANCELLED)
        return;
    if (g->command[0]->turn.committed || (g->late && stands))
        g->problem.what = PROBLEM_NONE;
    else if (g->late)
        pending_late(&g->base, &g->problem);
}

/* Pool or loop. */
static void write_answer(struct pending *p)
{
    struct generation *g = (struct generation *)p;
    struct json_out out;

    g->chunk.len = 0;
    json_out_init(&out, &g->chunk);
    g->reply.shape->whole(&g->reply, &out);
    g->written = json_out_ok(&out);
}

static void give_answer(struct pending *p)
{
    struct generation *g = (struct generation *)p;
    struct json_out out;

    json_out_init(&out, &g->chunk);
    out.failed = !g->written;
    api_reply_json(p, &out);
    g->chunk = (struct text_buffer){ 0 };
    generation_destroy(g);
}

/* Of the answer. */
static size_t count_scores(const struct generation *g)
{
    const struct reply *r = &g->reply;
    size_t scores = 0;

    for (int i = 0; i < r->prompts; i++)
        scores += r->prompt[i].scores.count * (size_t)r->n;
    for (int i = 0; i < r->prompts * r->n; i++)
        scores += r->choice[i].scores.count;
    return scores * (size_t)(1 + g->params.turn.logprobs);
}

static void complete(struct generation *g)
{
    if (g->base.gone && !g->base.repeat) {
        generation_destroy(g);
        return;
    }
    sum_up(g);
    judge_cancelled(g);
    if (g->streaming || (g->params.stream && g->problem.what == PROBLEM_NONE)) {
        stream_complete(g);
    } else if (g->problem.what != PROBLEM_NONE) {
        generation_refuse(g, &g->problem);
    } else if (count_scores(g) > INLINE_SCORES) {
        pending_work(&g->base, write_answer, give_answer);
    } else {
        write_answer(&g->base);
        give_answer(&g->base);
    }
}

static void take_answer(struct generation *g, struct command *c)
{
    g->answered++;
    if (c->problem.what != PROBLEM_NONE) {
        /* The client did not name it alone: for it somebody else's turn was in the way. */
        if (c->problem.what == PROBLEM_VERSION_MISMATCH && g->seen_version)
            problem_set(&c->problem, PROBLEM_SESSION_BUSY, NULL,
                        "another turn of session %s came in between", c->session.text);
        remember_problem(g, &c->problem);
        if (!g->late)
            cancel_turns(g);
    }
    if (g->answered == g->sent)
        complete(g);
}

/* One of its turns failed before anything was streamed: the answer is the refusal. A turn that was
 * late may have an answer all the same. */
static bool is_refused(const struct generation *g)
{
    return g->problem.what != PROBLEM_NONE && !g->streaming && !g->late;
}

void generation_take(struct pending *p, struct event *e)
{
    struct generation *g = (struct generation *)p;
    struct reply_choice *choice;
    int i = 0;

    if (e->kind == EVENT_ANSWER) {
        take_answer(g, e->command);
        return;
    }
    if (((p->gone || g->lost) && !p->repeat) || is_refused(g))
        return;
    while (g->command[i] != e->command)
        i++;
    choice = &g->reply.choice[i * g->reply.n + e->choice];
    if (e->kind == EVENT_FINISH) {
        choice->finish = e->finish;
        if (g->params.stream && e->finish != FINISH_FAILED)
            stream_finish_choice(g, i * g->reply.n + e->choice);
        return;
    }
    if (e->prompt) {
        /* All choices share the prompt: its scores count once. */
        if (e->choice == 0 && g->params.turn.score &&
            !scores_add(&g->reply.prompt[i].scores, e->score, 1))
            no_memory(g);
        return;
    }
    if (g->params.stream)
        stream_add_text(g, i * g->reply.n + e->choice, e);
    else if (!text_buffer_append(&choice->text, e->text.bytes, e->text.len) ||
             (e->score && !scores_add(&choice->scores, e->score, 1)))
        no_memory(g);
}
