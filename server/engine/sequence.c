/* sequence.c - what a turn runs: made, asked how far it is, and freed.
 *
 * Its feed is what the state that it starts from left pending, then what the turn brings. Where
 * it runs is scheduler.c's, and what becomes of its state turns.c's. */
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

static void fill_recent(struct sequence *s, const struct checkpoint *from, const struct past *past)
{
    size_t newest = s->feed_len > LIMIT_PENALTY_WINDOW ? s->feed_len - LIMIT_PENALTY_WINDOW : 0;

    s->forgetful = from && !past && checkpoint_is_cold(from);
    past_recent(past, &s->recent);
    for (size_t i = newest > s->prompt_at ? newest : s->prompt_at; i < s->feed_len; i++)
        recent_add(&s->recent, s->feed[i], false);
}

/* The feed is what was left pending, then the prompt. A turn that brings nothing starts from
 * the begin-of-text token, or goes on through the stop id that ended the turn before. */
static bool fill_feed(struct engine *e, struct sequence *s, const struct checkpoint *from,
                      const int32_t *prompt, size_t n)
{
    const struct model_info *info = model_info(e->model);

    s->feed_capacity = n + 16;
    s->feed = malloc(s->feed_capacity * sizeof(*s->feed));
    if (!s->feed)
        return false;
    if (from && from->pending >= 0)
        s->feed[s->feed_len++] = from->pending;
    s->prompt_at = s->feed_len;
    if (n)
        memcpy(s->feed + s->feed_len, prompt, n * sizeof(*prompt));
    s->feed_len += n;
    if (!s->feed_len && s->job->command->turn.max_tokens > 0)
        s->feed[s->feed_len++] = from && from->stop >= 0 ? from->stop
                                 : info->bos > 0         ? info->bos
                                                         : 0;
    s->sampled_at = s->feed_len;
    s->position = from ? from->position : 0;
    s->position += s->feed_len - s->prompt_at;
    fill_recent(s, from, s->job->session ? s->job->session->past : NULL);
    s->stop = from && !s->feed_len ? from->stop : -1;
    return true;
}

static bool wants_penalties(const struct sampling *how)
{
    return how->repetition != 1 || how->presence != 0 || how->frequency != 0;
}

void sequence_free(struct engine *e, struct sequence *s)
{
    if (s->lifted)
        tiers_discard(e->tiers, s->lifted);
    tiers_release(e->tiers, s->origin);
    anchors_finish(e, s);
    stop_match_finish(&s->match);
    free(s->penalties);
    free(s->feed);
    free(s);
}

struct sequence *sequence_create(struct engine *e, struct job *job, int choice, bool samples,
                                 struct checkpoint *origin, const int32_t *prompt, size_t n)
{
    const struct turn *turn = &job->command->turn;
    struct sequence *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->job = job;
    s->choice = choice;
    s->choices = samples ? 1 : turn->choices - choice;
    s->samples = samples;
    s->slot = -1;
    s->origin = origin ? tiers_keep(origin) : NULL;
    detokenizer_init(&s->detokenizer, e->tokenizer, turn->special);
    stop_match_init(&s->match, (const char(*)[LIMIT_STOP_BYTES + 1]) turn->stop, turn->stops);
    s->cut = s->anchor_at = SIZE_MAX;
    if (!fill_feed(e, s, job->cached ? NULL : origin, prompt, n))
        goto no_memory;
    s->fed = job->cached;
    if ((samples || s->choices > 1) && wants_penalties(&turn->sampling) &&
        !(s->penalties = malloc(sizeof(*s->penalties))))
        goto no_memory;
    job->open++;
    return s;

no_memory:
    sequence_free(e, s);
    return NULL;
}

bool sequence_scores(const struct sequence *s)
{
    return s->job->command->turn.score && !s->choice && !s->sampled && !s->draws;
}

uint64_t sequence_covers(const struct sequence *s)
{
    return s->position - (s->feed_len - s->fed);
}

size_t sequence_goal(const struct sequence *s)
{
    return s->samples || s->job->aim || !s->feed_len ? s->feed_len : s->feed_len - 1;
}
