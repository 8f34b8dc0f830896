/* answer.c - what a turn says: its tokens as text and scores, up to the one that ends it.
 *
 * A token that was drawn joins the context and is reported as soon as its text is certain; a stop
 * id, a stop string or the last token that was asked for ends the sequence. What becomes of its
 * state then is turns.c's. */
#include <math.h>
#include <stdlib.h>

#include "server/clock.h"
#include "server/engine/engine_internal.h"

/* Text and scores of one token, or of none. */
static void report(struct engine *e, struct sequence *s, struct text_buffer *text,
                   const struct token_score *score, bool prompt)
{
    struct event *event;

    if (!text->len && !score) {
        free(text->bytes);
        return;
    }
    event = engine_event(EVENT_TEXT, s->job->command);
    if (!event || (score && !(event->score = malloc(sizeof(*score))))) {
        event_free(event);
        free(text->bytes);
        job_fail_no_memory(e, s->job);
        return;
    }
    if (score)
        *event->score = *score;
    event->choice = s->choice;
    event->prompt = prompt;
    event->text = *text;
    engine_post(e, event);
}

static struct token_score score_of(const struct turn *turn, const struct sample_result *r)
{
    struct token_score score = { .id = r->token,
                                 .logprob = r->logprob,
                                 .tops = turn->logprobs > 0 ? turn->logprobs : 0 };

    for (int i = 0; i < score.tops; i++) {
        score.top_id[i] = r->top_id[i];
        score.top_logprob[i] = r->top_logprob[i];
    }
    return score;
}

void sequence_score_first(struct engine *e, struct sequence *s)
{
    struct token_score score = { .logprob = NAN };
    struct text_buffer none = { 0 };

    if (!sequence_scores(s) || s->fed || s->prompt_at || !s->feed_len)
        return;
    score.id = s->feed[0];
    report(e, s, &none, &score, true);
}

void sequence_scored(struct engine *e, struct sequence *s, const struct sample_result *r)
{
    struct token_score score = score_of(&s->job->command->turn, r);
    struct text_buffer none = { 0 };

    if (!r->finite)
        job_fail(e, s->job, PROBLEM_STATE_NOT_FINITE, "the model's output is not finite");
    else
        report(e, s, &none, &score, true);
}

/* One more token of the context. */
static bool feed_add(struct sequence *s, int32_t id)
{
    if (s->feed_len == s->feed_capacity) {
        size_t capacity = s->feed_capacity * 2;
        int32_t *grown = realloc(s->feed, capacity * sizeof(*grown));

        if (!grown)
            return false;
        s->feed = grown;
        s->feed_capacity = capacity;
    }
    s->feed[s->feed_len++] = id;
    return true;
}

static bool is_among(const int32_t *ids, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

bool sequence_is_held(const struct sequence *s, const struct sample_result *r)
{
    return !r->finite || is_among(s->job->stop_id, s->job->holds, r->token);
}

static void count_token(struct engine *e, struct sequence *s)
{
    double now = clock_seconds(), since = s->sampled ? s->newest_token : s->job->arrived;

    engine_observe(s->sampled ? &e->counters.between_tokens : &e->counters.first_token,
                   now - since);
    s->newest_token = now;
    e->counters.completion_tokens++;
    s->job->command->turn.completion_tokens++;
    s->sampled++;
}

/* New text of the newest token: within min_tokens it ends no turn, as stop ids are not drawn. */
static bool match_stop(struct sequence *s, const struct text_buffer *raw, struct text_buffer *text,
                       const char **hit)
{
    *hit = NULL;
    if (s->sampled <= s->job->command->turn.min_tokens)
        return stop_match_pass(&s->match, raw->bytes, raw->len, text);
    return stop_match_add(&s->match, raw->bytes, raw->len, text, hit);
}

/* The token becomes text; false when that completed a stop string. */
static bool emit_token(struct engine *e, struct sequence *s, int32_t id, struct token_score *score)
{
    struct text_buffer raw = { 0 }, text = { 0 };
    const char *hit = NULL;

    if (!detokenizer_add(&s->detokenizer, id, &raw) || !match_stop(s, &raw, &text, &hit))
        job_fail_no_memory(e, s->job);
    if (score)
        score->bytes = raw.len;
    free(raw.bytes);
    report(e, s, &text, score, false);
    s->hit = hit;
    return hit == NULL;
}

void sequence_finish_text(struct engine *e, struct sequence *s)
{
    struct text_buffer raw = { 0 }, text = { 0 };
    const char *hit = NULL;

    if (!detokenizer_finish(&s->detokenizer, &raw) || !match_stop(s, &raw, &text, &hit) ||
        (!hit && !stop_match_flush(&s->match, &text)))
        job_fail_no_memory(e, s->job);
    if (hit) {
        s->hit = hit;
        s->finish = FINISH_STOP;
    }
    free(raw.bytes);
    report(e, s, &text, NULL, false);
}

void sequence_sampled(struct engine *e, struct sequence *s, const struct sample_result *r)
{
    const struct turn *turn = &s->job->command->turn;
    struct token_score score = score_of(turn, r);

    if (!r->finite) {
        job_fail(e, s->job, PROBLEM_STATE_NOT_FINITE, "the model's output is not finite");
        return;
    }
    if (is_among(s->job->stop_id, s->job->stop_ids, r->token)) { /* not part of the context */
        s->stop = r->token;
        s->finish = FINISH_STOP;
        sequence_finish_text(e, s);
        return;
    }
    count_token(e, s);
    if (!feed_add(s, r->token)) {
        job_fail_no_memory(e, s->job);
        return;
    }
    s->position++;
    recent_add(&s->recent, r->token, true);
    if (!emit_token(e, s, r->token, turn->logprobs >= 0 ? &score : NULL)) {
        s->finish = FINISH_STOP;
    } else if (s->sampled >= turn->max_tokens) {
        s->finish = FINISH_LENGTH;
        sequence_finish_text(e, s);
    }
}
