/* scheduler.c - which rows the next step has, and the step itself.
 *
 * Every decoding sequence gets one row. What is left of the row budget goes to prompts, half
 * of it to the oldest, half of the rest to the next and so on, but to each at least half of
 * what it would get if all got the same, and the remainder to the oldest again: a long prompt
 * is fast, and a short one behind it, or behind many, does not wait for its end. A step is
 * planned for each device by itself, of the sequences whose slots are there; it is enqueued on
 * all of them before any is waited for. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/tiers.h"

static bool step_init(struct step *p, size_t batch, size_t rows, int max_logits)
{
    p->token = calloc(rows, sizeof(*p->token));
    p->begin = calloc(batch + 1, sizeof(*p->begin));
    p->slot = calloc(batch, sizeof(*p->slot));
    p->position = calloc(batch, sizeof(*p->position));
    p->logit_row = calloc((size_t)max_logits, sizeof(*p->logit_row));
    p->pick = calloc(batch, sizeof(*p->pick));
    p->row = calloc((size_t)max_logits, sizeof(*p->row));
    p->result = calloc((size_t)max_logits, sizeof(*p->result));
    return p->token && p->begin && p->slot && p->position && p->logit_row && p->pick && p->row &&
           p->result;
}

static void step_finish(struct step *p)
{
    free(p->token);
    free(p->begin);
    free(p->slot);
    free(p->position);
    free(p->logit_row);
    free(p->pick);
    free(p->row);
    free(p->result);
}

bool scheduler_init(struct engine *e, int max_logits)
{
    const size_t devices = (size_t)e->devices->count, batch = (size_t)e->options.max_batch;
    bool ok;

    e->queue_end = &e->queue;
    e->running = calloc(devices * batch, sizeof(struct sequence *));
    e->step = calloc(devices, sizeof(*e->step));
    ok = e->running && e->step;
    for (size_t i = 0; ok && i < devices; i++)
        ok = step_init(&e->step[i], batch, (size_t)e->options.row_budget, max_logits);
    return ok;
}

void scheduler_finish(struct engine *e)
{
    free(e->running);
    for (int i = 0; e->step && i < e->devices->count; i++)
        step_finish(&e->step[i]);
    free(e->step);
}

void scheduler_enqueue(struct engine *e, struct sequence *s, bool front)
{
    if (front) {
        s->next = e->queue;
        e->queue = s;
        if (!s->next)
            e->queue_end = &s->next;
    } else {
        s->next = NULL;
        *e->queue_end = s;
        e->queue_end = &s->next;
    }
    e->queued++;
}

static struct sequence *dequeue(struct engine *e)
{
    struct sequence *s = e->queue;

    e->queue = s->next;
    if (!e->queue)
        e->queue_end = &e->queue;
    e->queued--;
    return s;
}

/* Queued sequences end without a slot when their job has failed, or when time is up for what
 * they have drawn. The queue may be long: it is searched only when there may be such ones. */
static void drop_over(struct engine *e)
{
    struct sequence *kept = e->queue;
    int n = e->queued;

    if (!e->any_over)
        return;
    e->any_over = false;
    e->queue = NULL;
    e->queue_end = &e->queue;
    e->queued = 0;
    for (struct sequence *s = kept, *next; n-- > 0; s = next) {
        next = s->next;
        if (s->job->failed || s->finish != FINISH_NONE)
            sequence_end(e, s);
        else
            scheduler_enqueue(e, s, false);
    }
}

/* The others keep their order. */
static void leave_running(struct engine *e, int i)
{
    e->running_count--;
    memmove(e->running + i, e->running + i + 1,
            (size_t)(e->running_count - i) * sizeof(struct sequence *));
}

/* One that ends is among the running ones until then: its anchors may have to go. */
static void retire(struct engine *e)
{
    for (int i = 0; i < e->running_count;) {
        struct sequence *s = e->running[i];
        bool fed = !s->samples && !s->recall && s->fed == sequence_goal(s);
        bool over = s->finish != FINISH_NONE || s->job->failed || (fed && !sequence_go_on(e, s));

        if (over) {
            sequence_end(e, s);
            leave_running(e, i);
        } else {
            i++;
        }
    }
}

/* The turn that has had its slot for the longest, if that is long enough. */
static int find_eldest(const struct engine *e)
{
    int eldest = -1, most = e->options.quantum - 1;

    for (int i = 0; i < e->running_count && e->options.quantum; i++) {
        const struct sequence *s = e->running[i];

        if (s->slice <= most || s->recall || s->job->failed || s->finish != FINISH_NONE)
            continue;
        most = s->slice;
        eldest = i;
    }
    return eldest;
}

/* A running turn goes to the end of the queue, with all that its slot held: when it is its
 * turn again, it goes on as if nothing had been. */
static bool make_way(struct engine *e)
{
    int i = find_eldest(e);
    struct sequence *s = i < 0 ? NULL : e->running[i];

    if (!s || !(s->lifted = tiers_lift(e->tiers, s->slot)))
        return false;
    s->slot = -1;
    leave_running(e, i);
    scheduler_enqueue(e, s, false);
    e->counters.slices++;
    return true;
}

static void begin_reading(struct engine *e, struct sequence *s)
{
    s->recall = journal_recall(e, s->origin, NULL);
    if (!s->recall)
        job_fail(e, s->job, PROBLEM_OUT_OF_MEMORY, "no memory to read the state back");
}

/* A slot that holds, or will hold, what the sequence goes on from. -1: none now. */
static int find_slot(struct engine *e, struct sequence *s)
{
    struct checkpoint *from = s->origin;
    bool cold = from && checkpoint_is_cold(from), resident = from && from->slot >= 0;
    double began = engine_clock();
    int slot = s->lifted ? tiers_resume(e->tiers, s->lifted) : tiers_start(e->tiers, from);

    if (slot < 0)
        return -1;
    s->slice = 0;
    s->admitted = began;
    s->arriving =
        !s->lifted && !cold && !resident && from && from->position ? &e->counters.from_host : NULL;
    if (s->lifted)
        s->lifted = NULL;
    else if (cold)
        begin_reading(e, s);
    else if (resident)
        engine_observe(&e->counters.from_device, engine_clock() - began);
    if (!cold && !s->job->session) { /* the slot is all that it needs */
        tiers_release(e->tiers, from);
        s->origin = NULL;
    }
    return slot;
}

/* In a step, or while a state was copied from it. NULL: none. */
static const char *find_lost(const struct engine *e)
{
    for (int i = 0; i < e->devices->count; i++)
        if (e->devices->at[i].backend->lost)
            return e->devices->at[i].backend->detail;
    return NULL;
}

static void admit(struct engine *e)
{
    int ways = e->queued;   /* more would turn out those that have just come */
    int others = e->queued; /* each is tried before one is refused */

    while (e->queue) {
        int slot = find_slot(e, e->queue);
        struct sequence *s;

        if (slot < 0 && find_lost(e))
            return; /* no room would help: the step fails all */
        if (slot < 0 && ways-- > 0 && make_way(e))
            continue;
        if (slot < 0 && (e->running_count || journal_busy(e)))
            return; /* a running one will give its slot back */
        if (slot < 0 && others <= 0 && cache_yield(e))
            others = e->queued;
        s = dequeue(e);
        if (slot < 0 && others-- > 0) { /* what is in the slots may wait for one behind it */
            scheduler_enqueue(e, s, false);
            continue;
        }
        if (slot < 0) {
            job_fail(e, s->job, PROBLEM_NO_SLOT, "no state slot is free, and none can be parked");
            sequence_end(e, s);
            continue;
        }
        s->slot = slot;
        s->scored = e->counters.steps;
        if (!s->fed)
            sequence_score_first(e, s);
        e->running[e->running_count++] = s;
    }
}

static bool is_decoding(const struct sequence *s)
{
    return s->sampled > 0;
}

static size_t left(const struct pick *p)
{
    const struct sequence *s = p->sequence;
    size_t goal = sequence_goal(s), cut = s->cut < s->anchor_at ? s->cut : s->anchor_at;

    return (goal < cut ? goal : cut) - s->fed - p->rows;
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
        engine_observe(s->arriving, engine_clock() - s->admitted);
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
        chosen->scored = e->counters.steps;
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

static int plan(struct engine *e, int device)
{
    struct pick *pick = e->step[device].pick;
    size_t budget = (size_t)e->options.row_budget;
    int n = 0;

    for (int i = 0; i < e->running_count; i++) {
        struct sequence *s = e->running[i];

        if (tiers_place(e->tiers, s->slot).device != device || is_away(e, s))
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
        .position = s->position,
        .top = turn->logprobs > 0 ? turn->logprobs : 0,
        .forced = forced,
    };
    if (forced < 0 && s->sampled < turn->min_tokens) {
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
        size_t next = s->fed + i + 1; /* in the feed: the token that this row predicts */
        bool draw = next == s->feed_len;

        if (!(draw && s->samples) && !(scored && !draw && next >= s->prompt_at))
            continue;
        step->logit_row[step->batch.L] = first_row + (int)i;
        ask(s, draw ? -1 : s->feed[next], &step->row[step->batch.L++]);
    }
    p->logits = step->batch.L - p->first_logit;
}

static void build(const struct engine *e, struct step *step, int n)
{
    struct batch *in = &step->batch;
    int used = 0;

    *in = (struct batch){ .token = step->token,
                          .begin = step->begin,
                          .slot = step->slot,
                          .logit_row = step->logit_row,
                          .position = step->position };
    for (int i = 0; i < n; i++) {
        struct pick p = step->pick[i];

        if (!p.rows)
            continue;
        step->begin[used] = in->T;
        step->slot[used] = tiers_place(e->tiers, p.sequence->slot).index;
        step->position[used] = (uint32_t)sequence_covers(p.sequence);
        memcpy(step->token + in->T, p.sequence->feed + p.sequence->fed,
               p.rows * sizeof(*step->token));
        want_logits(step, &p, in->T);
        in->T += (int)p.rows;
        step->pick[used++] = p;
    }
    step->begin[used] = in->T;
    in->S = used;
}

static void handle(struct engine *e, const struct step *step, const struct pick *p)
{
    struct sequence *s = p->sequence;

    s->fed += p->rows;
    s->slice++;
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

static void enqueue(struct engine *e, int device)
{
    const struct device *d = &e->devices->at[device];
    const struct step *step = &e->step[device];

    model_step(d->model, tiers_records(e->tiers, device), &step->batch);
    if (step->batch.L)
        d->backend->ops->sample(d->backend->stream,
                                &(struct sample){ .logits = model_logits(d->model),
                                                  .ld = (size_t)model_info(d->model)->vocab,
                                                  .rows = step->batch.L,
                                                  .vocab = e->vocab,
                                                  .row = step->row,
                                                  .out = step->result });
}

static bool computes(const struct engine *e)
{
    for (int i = 0; i < e->devices->count; i++) {
        struct backend *backend = e->devices->at[i].backend;

        if (e->step[i].batch.T && backend->busy(backend, 0))
            return true;
    }
    return false;
}

/* *err: of the first that failed; nothing runs on the others either when this returns. */
static bool forward(struct engine *e, struct error *err)
{
    struct error other;
    bool ok = true;

    for (int i = 0; i < e->devices->count; i++)
        if (e->step[i].batch.T)
            enqueue(e, i);
    while (computes(e))
        engine_attend(e);
    for (int i = 0; i < e->devices->count; i++) {
        struct backend *backend = e->devices->at[i].backend;

        if (e->step[i].batch.T && !backend->sync(backend, ok ? err : &other))
            ok = false;
    }
    return ok;
}

void scheduler_fail_all(struct engine *e, enum problem_code what, const char *message)
{
    for (struct sequence *s = e->queue; s; s = s->next)
        job_fail(e, s->job, what, message);
    for (int i = 0; i < e->running_count; i++)
        job_fail(e, e->running[i]->job, what, message);
    drop_over(e);
    retire(e);
}

static int plan_all(struct engine *e)
{
    int rows = 0;

    for (int i = 0; i < e->devices->count; i++) {
        build(e, &e->step[i], plan(e, i));
        rows += e->step[i].batch.T;
    }
    return rows;
}

static void handle_all(struct engine *e)
{
    e->counters.batch = 0;
    for (int i = 0; i < e->devices->count; i++) {
        const struct step *step = &e->step[i];

        e->counters.batch += step->batch.S;
        for (int k = 0; k < step->batch.S; k++)
            handle(e, step, &step->pick[k]);
    }
}

static bool fail_step(struct engine *e, const char *message)
{
    e->lost = find_lost(e);
    scheduler_fail_all(e, PROBLEM_DEVICE_ERROR, message);
    return true;
}

/* Of those that run when none has anything to take in. */
static bool any_moves(const struct engine *e)
{
    for (int i = 0; i < e->running_count; i++)
        if (!e->running[i]->recall)
            return true;
    return false;
}

bool scheduler_step(struct engine *e)
{
    struct error err;
    double began;
    int rows;

    drop_over(e);
    retire(e);
    admit(e);
    retire(e); /* an admitted one may have nothing to take in */
    if (find_lost(e))
        return fail_step(e, "the device failed");
    rows = plan_all(e);
    if (!rows) /* all that run wait: for a move, or for the store, which wakes this thread */
        return any_moves(e) || (!e->running_count && e->queue && !journal_busy(e));
    began = engine_clock();
    if (!forward(e, &err))
        return fail_step(e, err.message);
    engine_observe(&e->counters.step, engine_clock() - began);
    e->counters.steps++;
    e->counters.rows += (uint64_t)rows;
    handle_all(e);
    retire(e);
    return true;
}
