/* turns.c - the life of a turn: begun, committed or dropped.
 *
 * A session's head moves only in commit(): a turn that fails or is cancelled has touched
 * nothing but its working slot. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "server/engine/engine_internal.h"
#include "server/state/reader.h"
#include "server/state/tiers.h"

static bool check_queue(const struct engine *e, struct command *c)
{
    return e->queued + e->running_count < engine_max_turns(e) ||
           problem_set(&c->problem, PROBLEM_QUEUE_FULL, NULL, "%d turns are waiting already",
                       e->queued);
}

/* What the feed added to recent comes after what was read. */
static void remember(struct engine *e, struct sequence *s, struct checkpoint *c)
{
    struct recent added = s->recent;
    struct session *of = s->job->session;

    if (!of || !s->forgetful)
        return;
    if (!of->past && !past_read_back(e, &of->past, c)) {
        job_fail_no_memory(e, s->job);
        return;
    }
    past_recent(of->past, &s->recent);
    for (int i = 0; i < added.count; i++)
        recent_add(&s->recent, (int32_t)(added.token[i] & ~RECENT_SAMPLED), false);
}

void sequence_recalled(struct engine *e, struct recall *r)
{
    struct sequence *s = NULL;

    for (int i = 0; i < e->running_count && !s; i++)
        if (e->running[i]->recall == r)
            s = e->running[i];
    if (!s)
        return; /* its turn ended meanwhile */
    s->recall = NULL;
    if (!r->checkpoint && s->job->cached) {
        cache_failed(e, s);
        return;
    }
    if (!r->checkpoint) {
        job_fail(e, s->job, r->problem.what, r->problem.message);
        return;
    }
    tiers_fill(e->tiers, s->slot, r->record, r->landing);
    s->arriving = &e->counters.from_store;
    remember(e, s, r->checkpoint);
}

static bool check_turn(struct engine *e, struct command *c, struct session **session)
{
    *session = NULL;
    if (!check_queue(e, c))
        return false;
    if (!c->session.text[0])
        return true;
    if (!session_claim(e, c, session, &c->problem))
        return false;
    if ((*session)->head->damaged && checkpoint_is_cold((*session)->head))
        return recall_refuse(&c->problem);
    if ((*session)->metadata && !(c->turn.info.metadata = strdup((*session)->metadata)))
        return problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the turn");
    return true;
}

static void cancel(struct engine *e, struct sequence *s)
{
    s->finish = FINISH_CANCELLED;
    job_fail(e, s->job, PROBLEM_CANCELLED,
             s->job->aim ? "the rollback was cancelled" : "the turn was cancelled");
}

/* Of a prompt, what others may have taken in: a session that has to go back over the rest
 * needs anchors of its own there. */
static size_t cache_most(const struct engine *e, const struct job *job)
{
    size_t n = job->command->turn.prompt_len, window = e->options.history_tokens;
    size_t reach = window + window / 2;

    return job->session && n > reach ? n - reach : n;
}

/* The sequence that takes the prompt in: from the session's head, or in a context that begins
 * here from what others have left of it. NULL: no memory, or the job has failed. */
static struct sequence *begin_prompt(struct engine *e, struct job *job)
{
    const struct turn *turn = &job->command->turn;
    struct checkpoint *head = job->session ? job->session->head : NULL, *known = NULL;
    bool begins = !head || !head->position, whole = begins && !turn->no_cache && !turn->score;
    size_t lead = begins ? 0 : turn->lead;
    struct sequence *s;

    if (job->session && !job_reserve_room(e, job, 1))
        return NULL;
    if (whole)
        known = cache_find(e, job->command->owner, turn->prompt, cache_most(e, job), &job->cached);
    s = sequence_create(e, job, 0, turn->max_tokens > 0 && turn->choices == 1, known ? known : head,
                        turn->prompt + lead, turn->prompt_len - lead);
    tiers_release(e->tiers, known);
    if (s && whole) {
        s->whole = true;
        cache_plan(e, s);
    }
    if (s && job->session)
        anchor_plan(e, s);
    return s;
}

bool obey_turn(struct engine *e, struct command *c)
{
    struct turn *turn = &c->turn;
    struct session *session;
    struct sequence *s;
    struct job *job;

    if (!check_turn(e, c, &session))
        return false;
    job = job_create(e, c, session);
    s = job ? begin_prompt(e, job) : NULL;
    if (!s) {
        if (!job || !job->failed)
            problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the turn");
        if (job)
            job_free(e, job);
        return false;
    }
    turn->prompt_tokens = s->position;
    turn->cached_tokens = job->cached ? job->cached : session ? session->head->position : 0;
    e->counters.prompt_tokens += s->position - turn->cached_tokens;
    e->counters.cached_tokens += turn->cached_tokens;
    e->counters.turns_started++;
    if (session)
        session->job = job;
    scheduler_enqueue(e, s, false);
    if (atomic_load(&c->cancelled)) /* on its way here */
        cancel(e, s);
    c->later = true;
    return true;
}

static bool fill_replay(struct sequence *s, const struct past *past, uint64_t from, size_t n)
{
    free(s->feed);
    s->feed_capacity = n + 1;
    s->feed = malloc(s->feed_capacity * sizeof(*s->feed));
    if (!s->feed)
        return false;
    past_read_ids(past, from, n, s->feed);
    s->feed_len = n;
    s->position = from + n;
    return true;
}

bool turn_replay(struct engine *e, struct command *c, struct session *session,
                 struct checkpoint *base, uint64_t from, struct checkpoint *aim)
{
    uint64_t until = checkpoint_covers(aim);
    struct job *job = check_queue(e, c) ? job_create(e, c, session) : NULL;
    struct sequence *s = NULL;

    assert(from <= until);
    if (job)
        job->aim = tiers_remember(aim);
    if (job && job_reserve_room(e, job, 1))
        s = sequence_create(e, job, 0, false, base, NULL, 0);
    if (s && fill_replay(s, session->past, from, (size_t)(until - from))) {
        session->job = job;
        scheduler_enqueue(e, s, false);
        if (atomic_load(&c->cancelled))
            cancel(e, s);
        return true;
    }
    if (s)
        sequence_free(e, s);
    if (job)
        job_free(e, job);
    if (c->problem.what == PROBLEM_NONE)
        problem_set(&c->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory to go back");
    return false;
}

/* A client that wants it keeps what a turn sampled before it was cancelled. */
static bool keeps_part(const struct sequence *s)
{
    const struct command *c = s->job->command;

    return c->turn.commit_partial && s->sampled && c->problem.what == PROBLEM_CANCELLED;
}

/* What the sequence's slot holds, or held before it made way, becomes the record of c. */
static void leave_record(struct engine *e, struct sequence *s, struct checkpoint *c)
{
    if (s->lifted)
        tiers_commit_lifted(e->tiers, c, s->lifted);
    else
        tiers_commit(e->tiers, c, s->slot);
    s->lifted = NULL;
    s->slot = -1;
}

/* The sequence's state becomes a checkpoint; the empty state needs no record. NULL: no
 * memory. */
static struct checkpoint *harvest(struct engine *e, struct sequence *s)
{
    const struct command *of = s->job->command;
    struct checkpoint *c = checkpoint_at(e, of->owner, s->position);
    bool hides = (s->hit || keeps_part(s)) && s->match.held.len <= LIMIT_STOP_BYTES;

    if (!c || !checkpoint_set_tail(c, s->match.held.bytes, hides ? s->match.held.len : 0) ||
        !checkpoint_set_parent(c, s->origin && s->origin->position ? s->origin->id.text : "")) {
        checkpoint_destroy(c);
        return NULL;
    }
    c->pending = s->fed < s->feed_len ? s->feed[s->feed_len - 1] : -1;
    c->stop = s->stop;
    c->answer_open = of->turn.chat || (s->origin && s->origin->answer_open && !of->turn.prompt_len);
    if (s->position)
        leave_record(e, s, c);
    return c;
}

/* Nobody is told of a turn's end before its state is kept. */
static void committed(struct engine *e, struct entry *x)
{
    struct job *job = x->job;

    if (x->problem.what == PROBLEM_NONE) {
        session_moved(e, x);
        job->command->turn.committed = true;
        if (!job->command->turn.no_cache)
            cache_take_head(e, x->session);
    } else {
        job_fail(e, job, x->problem.what, x->problem.message);
        if (x->event)
            x->event->finish = FINISH_FAILED;
    }
    if (x->event)
        engine_post(e, x->event);
    if (--job->open == 0)
        job_end(e, job);
}

bool job_commit(struct engine *e, struct job *job, const struct session *next, struct event *event)
{
    struct entry *x = session_moving(e, entry_create(committed, NULL), job->session, next);

    if (!x) {
        job_fail_no_memory(e, job);
        return false;
    }
    x->job = job;
    x->reserved = job->reserved; /* until the file is on its way */
    job->reserved = false;
    x->event = event;
    job->open++;
    journal_submit(e, x);
    return true;
}

/* false: the job failed, and nothing has changed. */
static bool commit(struct engine *e, struct sequence *s, struct event *event)
{
    struct job *job = s->job;
    struct session next = *job->session;
    struct past_turn turn = { .from = next.head,
                              .anchor = s->anchor,
                              .id = s->feed + s->prompt_at,
                              .n = s->feed_len - s->prompt_at,
                              .sampled = s->sampled_at - s->prompt_at,
                              .window = e->options.history_tokens };

    if (!job_reserve_room(e, job, 2))
        return false;
    turn.anchors = s->anchors; /* some may have left room */
    next.past = past_keep(next.past);
    next.head = past_take_turn(e->tiers, &next.past, &turn) ? harvest(e, s) : NULL;
    if (next.head)
        return job_commit(e, job, &next, event);
    past_release(e->tiers, next.past);
    job_fail_no_memory(e, job);
    return false;
}

/* The event comes first: once the head has moved, nothing may fail any more. */
static void end_choice(struct engine *e, struct sequence *s, int choice)
{
    struct job *job = s->job;
    struct event *event = engine_event(EVENT_FINISH, job->command);

    if (!event) {
        job_fail_no_memory(e, job);
        return;
    }
    event->choice = choice;
    event->finish = s->finish;
    event->stop = s->hit;
    if (job->session && (!job->failed || keeps_part(s)) && commit(e, s, event))
        return;
    if (job->failed && s->finish != FINISH_CANCELLED)
        event->finish = FINISH_FAILED;
    engine_post(e, event);
}

/* Without room for the state that the choices would begin from, the first of them goes on in its
 * place, and the others take the prompt in again when that has ended. */
bool sequence_go_on(struct engine *e, struct sequence *s)
{
    const struct job *job = s->job;

    if (job->aim || !job->command->turn.max_tokens || tiers_has_memory(e->tiers))
        return false;
    s->samples = true;
    return true;
}

/* Whether those from that choice on begin, each where a turn would. */
static bool begin_again(struct engine *e, struct job *job, int choice)
{
    const struct turn *turn = &job->command->turn;
    struct sequence *s;

    if (job->failed)
        return false;
    job->cached = 0; /* nothing of what others have left */
    s = sequence_create(e, job, choice, choice + 1 == turn->choices, NULL, turn->prompt,
                        turn->prompt_len);
    if (!s) {
        job_fail_no_memory(e, job);
        return false;
    }
    e->counters.prompt_tokens += s->position;
    scheduler_enqueue(e, s, false);
    if (atomic_load(&job->command->cancelled))
        cancel(e, s);
    return true;
}

/* The prompt of several choices is in: each of them starts from there. */
static void spread(struct engine *e, struct sequence *prompt)
{
    struct job *job = prompt->job;
    struct checkpoint *c = harvest(e, prompt);
    int left = prompt->choices;

    job->cached = 0; /* they begin from c, not from what others have left */
    for (struct sequence *s; c && left; left--) {
        s = sequence_create(e, job, prompt->choice + left - 1, true, c, NULL, 0);
        if (!s)
            break;
        s->recent = prompt->recent;
        scheduler_enqueue(e, s, true);
    }
    if (left)
        job_fail_no_memory(e, job);
    for (int i = 0; i < left; i++)
        end_choice(e, prompt, prompt->choice + i);
    tiers_release(e->tiers, c);
}

void sequence_end(struct engine *e, struct sequence *s)
{
    struct job *job = s->job;
    const struct turn *turn = &job->command->turn;
    int choice = s->choice;

    assert(!s->ahead);
    if (job->aim) {
        if (!job->failed && job->session && job_reserve_room(e, job, 1))
            rollback_end(e, s);
    } else if (!s->samples && turn->max_tokens > 0 && !job->failed) {
        spread(e, s);
    } else {
        if (s->finish == FINISH_NONE)
            s->finish = FINISH_LENGTH; /* nothing was to be sampled */
        /* It stands for those that have not begun, and do not now. */
        do
            end_choice(e, s, choice++);
        while (choice < s->choice + s->choices && !(s->samples && begin_again(e, job, choice)));
    }
    if (!job->failed)
        cache_take_slot(e, s);
    if (s->slot >= 0)
        tiers_drop(e->tiers, s->slot);
    sequence_free(e, s);
    if (--job->open == 0)
        job_end(e, job);
}

static bool is_marked(const struct sequence *s)
{
    return atomic_load(&s->job->command->cancelled) && s->finish == FINISH_NONE;
}

static void end_marked(struct engine *e, struct sequence *s)
{
    const struct command *c = s->job->command;

    if (!is_marked(s) || s->ahead) /* marked just now: the nudge for it is still to come */
        return;
    if (!atomic_load(&c->cut) || !s->sampled) {
        cancel(e, s);
        return;
    }
    s->finish = FINISH_LENGTH;
    sequence_finish_text(e, s);
    e->any_over = true;
}

void turn_cancel_marked(struct engine *e)
{
    bool flies = false;

    for (int i = 0; i < e->running_count; i++)
        flies |= e->running[i]->ahead && is_marked(e->running[i]);
    if (flies) /* what is kept of it has all that its state took in */
        scheduler_settle(e);
    for (struct sequence *s = e->queue; s; s = s->next)
        end_marked(e, s);
    for (int i = 0; i < e->running_count; i++)
        end_marked(e, e->running[i]);
}
