/* flight.c - a step, from its rows to what it brings.
 *
 * Every decoding sequence gets one row. What is left of the row budget goes to prompts, half
 * of it to the oldest, half of the rest to the next and so on, but to each at least half of
 * what it would get if all got the same, and the remainder to the oldest again: a long prompt
 * is fast, and a short one behind it, or behind many, does not wait for its end. A step is
 * planned for each device by itself, of the sequences whose slots are there; it is enqueued on
 * all of them before any is waited for.
 *
 * Where devices let a batch follow draws, the next step is enqueued before the one on its way is
 * waited for: what the host does then, the devices do not wait for. A sequence whose draw ends it,
 * or may complete a stop string (holds.h), stays where it is, as the device sees that itself; where
 * the host alone can tell what its next row is, no step starts ahead. */
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "server/clock.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

/* A step with more rows of prompts than this takes long enough as it is: none starts behind it
 * before what has come meanwhile can have a part in that one. */
enum { AHEAD_ROWS = 256 };

static bool step_init(struct step *p, size_t batch, size_t rows, int max_logits)
{
    p->token = calloc(rows, sizeof(*p->token));
    p->begin = calloc(batch + 1, sizeof(*p->begin));
    p->slot = calloc(batch, sizeof(*p->slot));
    p->position = calloc(batch, sizeof(*p->position));
    p->follows = calloc(batch, sizeof(*p->follows));
    p->logged = calloc(batch, sizeof(*p->logged));
    p->logit_row = calloc((size_t)max_logits, sizeof(*p->logit_row));
    p->pick = calloc(batch, sizeof(*p->pick));
    p->row = calloc((size_t)max_logits, sizeof(*p->row));
    p->result = calloc((size_t)max_logits, sizeof(*p->result));
    return p->token && p->begin && p->slot && p->position && p->follows && p->logged &&
           p->logit_row && p->pick && p->row && p->result;
}

static void step_finish(struct step *p)
{
    free(p->token);
    free(p->begin);
    free(p->slot);
    free(p->position);
    free(p->follows);
    free(p->logged);
    free(p->logit_row);
    free(p->pick);
    free(p->row);
    free(p->result);
}

bool flights_init(struct engine *e, int max_logits)
{
    const size_t devices = (size_t)e->devices->count, batch = (size_t)e->options.max_batch;
    bool ok = true;

    for (int f = 0; f < FLIGHTS && ok; f++) {
        e->flight[f].step = calloc(devices, sizeof(struct step));
        ok = e->flight[f].step;
        for (size_t i = 0; ok && i < devices; i++)
            ok = step_init(&e->flight[f].step[i], batch, (size_t)e->options.row_budget, max_logits);
    }
    return ok;
}

void flights_finish(struct engine *e)
{
    for (int f = 0; f < FLIGHTS; f++) {
        for (int i = 0; e->flight[f].step && i < e->devices->count; i++)
            step_finish(&e->flight[f].step[i]);
        free(e->flight[f].step);
    }
}

static bool is_decoding(const struct sequence *s)
{
    return s->sampled + s->draws > 0;
}

/* Of the feed, what is taken in when all that is on its way has come. */
static size_t reach(const struct sequence *s)
{
    return s->fed + s->ahead;
}

static size_t left(const struct pick *p)
{
    const struct sequence *s = p->sequence;
    size_t goal = sequence_goal(s), cut = s->cut < s->anchor_at ? s->cut : s->anchor_at;

    return (goal < cut ? goal : cut) - reach(s) - p->rows;
}

/* A scored row needs logits of its own, of which a step has few. */
static size_t row_limit(const struct pick *p)
{
    size_t n = left(p);

    return sequence_scores(p->sequence) && n > ENGINE_SCORE_ROWS ? ENGINE_SCORE_ROWS : n;
}

/* What its slot is to hold is not there: it is read from the store, or on its way between host
 * memory and the slot. The others do not wait for it. */
static bool is_away(struct engine *e, struct sequence *s)
{
    if (s->recall || !tiers_ready(e->tiers, s->slot))
        return true;
    if (s->arriving)
        engine_observe(s->arriving, clock_seconds() - s->admitted);
    s->arriving = NULL;
    return false;
}

/* A step scores for one sequence: for the one whose newest scores are the oldest. */
static const struct sequence *choose_scorer(const struct engine *e, const struct pick *pick, int n)
{
    struct sequence *chosen = NULL;

    for (int i = 0; i < n; i++) {
        struct sequence *s = pick[i].sequence;

        if (sequence_scores(s) && (!chosen || s->scored < chosen->scored))
            chosen = s;
    }
    if (chosen)
        chosen->scored = e->counters.steps + (uint64_t)e->aloft;
    return chosen;
}

static bool takes_in(const struct pick *p, const struct sequence *scorer)
{
    return !is_decoding(p->sequence) && (!sequence_scores(p->sequence) || p->sequence == scorer);
}

/* There is a row for each prompt, as the budget is above the sequences of a step. */
static void share_out(struct pick *pick, int n, size_t budget, const struct sequence *scorer)
{
    size_t prompts = 0, least;

    for (int i = 0; i < n; i++)
        prompts += takes_in(&pick[i], scorer);
    least = budget / (2 * prompts + 1) + 1;
    for (int i = 0; i < n; i++) {
        size_t share, most = row_limit(&pick[i]);

        if (!takes_in(&pick[i], scorer))
            continue;
        share = (budget - --prompts * least + 1) / 2;
        share = share < least ? least : share;
        pick[i].rows = most < share ? most : share;
        budget -= pick[i].rows;
    }
    for (int i = 0; i < n && budget; i++) {
        size_t more = left(&pick[i]);

        if (!takes_in(&pick[i], NULL))
            continue;
        more = more < budget ? more : budget;
        pick[i].rows += more;
        budget -= more;
    }
}

bool flights_overlap(const struct engine *e)
{
    return e->devices->at[0].backend->follows; /* they are alike */
}

/* Whether a sequence has a part in the step behind the one that it is in, if a draw does not end
 * it. */
static bool goes_on(const struct sequence *s)
{
    const struct turn *turn = &s->job->command->turn;

    if (s->job->failed || s->finish != FINISH_NONE)
        return false;
    return !s->draws || s->sampled + s->draws < turn->max_tokens;
}

/* A state is kept there when the step has come. The sequence is left out of the one behind: to hold
 * that back for all would cost more. */
static bool is_at_cut(const struct sequence *s)
{
    return reach(s) == s->cut || reach(s) == s->anchor_at;
}

/* Whether a draw that is not held says how it goes on: what the host has to see before is the
 * tokens that penalties are for. */
static bool can_follow(const struct sequence *s)
{
    return !s->job->waits && !s->penalties;
}

/* Whether a step can be planned now: none is on its way, or it can start behind that. */
static bool may_plan(const struct engine *e)
{
    const struct flight *f = &e->flight[e->oldest];

    if (!e->aloft)
        return true;
    for (int i = 0; i < e->devices->count; i++)
        if (f->step[i].batch.T - f->step[i].batch.S > AHEAD_ROWS)
            return false;
    for (int i = 0; i < e->running_count; i++) {
        const struct sequence *s = e->running[i];

        if (s->draws && goes_on(s) && !can_follow(s))
            return false;
    }
    return flights_overlap(e);
}

/* Those that decode come first: a device may take the sequences of one row that a step begins with
 * by themselves. */
static int plan(struct engine *e, struct step *step, int device)
{
    struct pick *pick = step->pick;
    size_t budget = (size_t)e->options.row_budget;
    const int running = e->running_count;
    int n = 0;

    for (int i = 0; i < 2 * running; i++) {
        struct sequence *s = e->running[i % running];

        if (is_decoding(s) != (i < running) || tiers_place(e->tiers, s->slot).device != device ||
            is_away(e, s) || (s->ahead && (!goes_on(s) || is_at_cut(s))))
            continue;
        pick[n++] = (struct pick){ .sequence = s, .rows = is_decoding(s) };
        budget -= is_decoding(s);
    }
    share_out(pick, n, budget, choose_scorer(e, pick, n));
    return n;
}

static void ask(const struct sequence *s, int32_t forced, struct sample_row *row)
{
    const struct turn *turn = &s->job->command->turn;
    const struct sampling *how = &turn->sampling;

    *row = (struct sample_row){
        .temperature = how->temperature,
        .top_p = how->top_p,
        .min_p = how->min_p,
        .typical_p = how->typical_p,
        .top_k = how->top_k,
        .repetition = 1,
        .bias_id = s->job->bias_id,
        .bias = s->job->bias,
        .biases = how->biases,
        .seed = s->job->seed + (uint64_t)s->choice,
        .position = s->position + (uint64_t)s->draws,
        .hold = s->job->stop_id,
        .holds = s->job->holds,
        .top = turn->logprobs > 0 ? turn->logprobs : 0,
        .forced = forced,
    };
    if (forced < 0 && s->sampled + s->draws < turn->min_tokens) {
        row->banned = s->job->stop_id;
        row->banned_count = s->job->stop_ids;
    }
    if (!s->penalties)
        return;
    penalties_compute(s->penalties, &s->recent, how->penalty_decay);
    row->repetition = how->repetition;
    row->presence = how->presence;
    row->frequency = how->frequency;
    row->seen_id = s->penalties->id;
    row->seen_weight = s->penalties->weight;
    row->seen = s->penalties->count;
}

/* The logits this sequence wants of its rows: scores of prompt tokens, and the draw. */
static void want_logits(struct step *step, struct pick *p, int first_row)
{
    struct sequence *s = p->sequence;
    bool scored = sequence_scores(s);

    p->first_logit = step->batch.L;
    for (size_t i = 0; i < p->rows; i++) {
        size_t next = reach(s) + i + 1; /* in the feed: the token that this row predicts */
        bool draw = next == s->feed_len + (size_t)s->draws;

        if (!(draw && s->samples) && !(scored && !draw && next >= s->prompt_at))
            continue;
        p->draws = draw;
        step->logit_row[step->batch.L] = first_row + (int)i;
        ask(s, draw ? -1 : s->feed[next], &step->row[step->batch.L++]);
    }
    p->logits = step->batch.L - p->first_logit;
}

/* The tokens of its rows, or the draw of the step on its way that its row takes in; -1: none. */
static int feed_rows(struct step *step, const struct pick *p)
{
    const struct sequence *s = p->sequence;

    if (s->draws) {
        step->token[step->batch.T] = 0;
        return s->newest->first_logit + s->newest->logits - 1;
    }
    memcpy(step->token + step->batch.T, s->feed + reach(s), p->rows * sizeof(*step->token));
    return -1;
}

static void build(const struct engine *e, struct step *step, int n)
{
    struct batch *in = &step->batch;
    int used = 0;

    *in = (struct batch){ .token = step->token,
                          .begin = step->begin,
                          .slot = step->slot,
                          .logit_row = step->logit_row,
                          .position = step->position,
                          .logged = step->logged };
    for (int i = 0; i < n; i++) {
        struct pick *p = &step->pick[used];
        struct sequence *s;

        *p = step->pick[i];
        if (!p->rows)
            continue;
        s = p->sequence;
        step->begin[used] = in->T;
        step->slot[used] = tiers_place(e->tiers, s->slot).index;
        step->position[used] = (uint32_t)(sequence_covers(s) + s->ahead);
        step->logged[used] = tiers_advance(e->tiers, s->slot, (int)p->rows);
        step->follows[used] = feed_rows(step, p);
        if (step->follows[used] >= 0)
            in->follows = step->follows;
        want_logits(step, p, in->T);
        in->T += (int)p->rows;
        s->ahead += p->rows;
        s->draws += p->draws;
        s->newest = p;
        used++;
    }
    step->begin[used] = in->T;
    in->S = used;
}

/* The devices saw that the draw is held, and left it where it was in the step behind. */
static void withdraw(const struct engine *e, struct sequence *s)
{
    s->newest->sequence = NULL;
    tiers_withdraw(e->tiers, s->slot);
    s->ahead = 0;
    s->draws = 0;
}

static void handle(struct engine *e, const struct step *step, const struct pick *p)
{
    struct sequence *s = p->sequence;

    if (!s)
        return;
    s->fed += p->rows;
    s->ahead -= p->rows;
    s->draws -= p->draws;
    s->slice++;
    if (p->draws && s->ahead && sequence_is_held(s, &step->result[p->first_logit + p->logits - 1]))
        withdraw(e, s);
    if (s->job->failed)
        return;
    if (s->fed == s->cut)
        cache_cut(e, s);
    if (s->fed == s->anchor_at)
        anchor_cut(e, s);
    for (int i = 0; i < p->logits && !s->job->failed; i++) {
        const struct sample_row *row = &step->row[p->first_logit + i];
        const struct sample_result *result = &step->result[p->first_logit + i];

        if (row->forced >= 0)
            sequence_scored(e, s, result);
        else
            sequence_sampled(e, s, result);
    }
}

static void enqueue(struct engine *e, struct step *step, int device)
{
    const struct device *d = &e->devices->at[device];

    model_step(d->model, tiers_records(e->tiers, device), &step->batch);
    if (step->batch.L)
        d->backend->ops->sample(d->backend->stream,
                                &(struct sample){ .logits = model_logits(d->model),
                                                  .ld = (size_t)model_info(d->model)->vocab,
                                                  .rows = step->batch.L,
                                                  .vocab = e->vocab,
                                                  .row = step->row,
                                                  .out = step->result });
    step->mark = d->backend->mark(d->backend);
}

bool flight_start(struct engine *e)
{
    struct flight *f = &e->flight[(e->oldest + e->aloft) % FLIGHTS];

    if (!may_plan(e))
        return false;
    f->began = clock_seconds();
    f->rows = 0;
    for (int i = 0; i < e->devices->count; i++) {
        build(e, &f->step[i], plan(e, &f->step[i], i));
        f->rows += f->step[i].batch.T;
    }
    if (!f->rows)
        return false;
    if (!flights_overlap(e))
        engine_computes(e, true); /* what is no device of its own does so here */
    for (int i = 0; i < e->devices->count; i++)
        if (f->step[i].batch.T)
            enqueue(e, &f->step[i], i);
    if (!flights_overlap(e))
        engine_computes(e, false);
    e->aloft++;
    return true;
}

static bool computes(const struct engine *e, const struct flight *f)
{
    for (int i = 0; i < e->devices->count; i++) {
        struct backend *backend = e->devices->at[i].backend;

        if (f->step[i].batch.T && backend->busy(backend, f->step[i].mark))
            return true;
    }
    return false;
}

/* *err: of the first that failed. */
static bool wait(struct engine *e, const struct flight *f, struct error *err)
{
    struct error other;
    bool ok = true;

    while (computes(e, f))
        engine_attend(e);
    for (int i = 0; i < e->devices->count; i++) {
        struct backend *backend = e->devices->at[i].backend;

        if (f->step[i].batch.T && !backend->wait(backend, f->step[i].mark, ok ? err : &other))
            ok = false;
    }
    return ok;
}

static void count_step(struct engine *e, const struct flight *f)
{
    double now = clock_seconds(), began = f->began > e->landed ? f->began : e->landed;

    engine_observe(&e->counters.step, now - began);
    e->landed = now;
    e->counters.steps++;
    e->counters.rows += (uint64_t)f->rows;
    e->counters.batch = 0;
    for (int i = 0; i < e->devices->count; i++)
        e->counters.batch += f->step[i].batch.S;
}

bool flight_land(struct engine *e, struct error *err)
{
    struct flight *f = &e->flight[e->oldest];

    if (!wait(e, f, err))
        return false;
    e->oldest = (e->oldest + 1) % FLIGHTS;
    e->aloft--;
    count_step(e, f);
    for (int i = 0; i < e->devices->count; i++)
        for (int k = 0; k < f->step[i].batch.S; k++)
            handle(e, &f->step[i], &f->step[i].pick[k]);
    return true;
}

void flights_abandon(struct engine *e)
{
    struct error err;

    for (int i = 0; i < e->devices->count; i++)
        e->devices->at[i].backend->sync(e->devices->at[i].backend, &err);
    for (int i = 0; i < e->running_count; i++) {
        e->running[i]->ahead = 0;
        e->running[i]->draws = 0;
    }
    e->aloft = 0;
}
