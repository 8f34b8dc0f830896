/* job.c - what a turn or a session's way back is to the engine.
 *
 * It is made of its command, promised room for the state that it leaves, failed, and answered
 * when nothing of it is left to do. What it runs is sequence.c's, and how that ends turns.c's. */
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/clock.h"
#include "server/engine/engine_internal.h"
#include "server/engine/holds.h"
#include "server/state/tiers.h"

void job_fail(struct engine *e, struct job *job, enum problem_code what, const char *message)
{
    if (!job->failed)
        problem_set(&job->command->problem, what, NULL, "%s", message);
    job->failed = e->any_over = true;
}

void job_fail_no_memory(struct engine *e, struct job *job)
{
    job_fail(e, job, PROBLEM_OUT_OF_MEMORY, "no memory to go on with the turn");
}

void job_fail_no_room(struct engine *e, struct job *job)
{
    struct problem p;

    state_refuse(e, PROBLEM_NO_SLOT, &p);
    job_fail(e, job, p.what, p.message);
}

void job_free(struct engine *e, struct job *job)
{
    if (job->reserved)
        tiers_unreserve(e->tiers);
    if (job->aim)
        tiers_forget(e->tiers, job->aim);
    free(job->bias_id);
    free(job->bias);
    free(job->stop_id);
    free(job);
}

static bool split_biases(struct job *job, const struct sampling *how)
{
    size_t n = (size_t)how->biases;

    job->bias_id = malloc((n + 1) * sizeof(*job->bias_id));
    job->bias = malloc((n + 1) * sizeof(*job->bias));
    if (!job->bias_id || !job->bias)
        return false;
    for (size_t i = 0; i < n; i++) {
        job->bias_id[i] = how->bias[i].id;
        job->bias[i] = how->bias[i].value;
    }
    return true;
}

static bool gather_stops(struct engine *e, struct job *job, const struct turn *turn)
{
    const struct model_info *info = model_info(e->model);
    const int32_t *hold = NULL;
    int holds = 0;

    job->waits =
        turn->stops && !holds_find(e->holds, (const char(*)[LIMIT_STOP_BYTES + 1]) turn->stop,
                                   turn->stops, &hold, &holds);
    if (job->waits)
        holds = 0;
    job->stop_id =
        malloc((size_t)(turn->stop_ids + info->stops + holds + 1) * sizeof(*job->stop_id));
    if (!job->stop_id)
        return false;
    for (int i = 0; i < info->stops && !turn->ignore_eos; i++)
        job->stop_id[job->stop_ids++] = info->stop[i];
    for (int i = 0; i < turn->stop_ids; i++)
        job->stop_id[job->stop_ids++] = turn->stop_id[i];
    if (holds)
        memcpy(job->stop_id + job->stop_ids, hold, (size_t)holds * sizeof(*hold));
    job->holds = job->stop_ids + holds;
    return true;
}

struct job *job_create(struct engine *e, struct command *c, struct session *session)
{
    const struct sampling *how = &c->turn.sampling;
    struct job *job = calloc(1, sizeof(*job));

    if (!job)
        return NULL;
    *job = (struct job){ .command = c, .session = session, .arrived = clock_seconds() };
    job->seed = how->seeded ? how->seed : session ? session->seed : id_random();
    if (!split_biases(job, how) || !gather_stops(e, job, &c->turn)) {
        job_free(e, job);
        return NULL;
    }
    return job;
}

bool job_reserve_room(struct engine *e, struct job *job, int keepers)
{
    const struct checkpoint *head = job->session->head;

    if (job->reserved || (head->position && head->refs <= keepers))
        return true;
    job->reserved = anchors_leave_room(e) && tiers_reserve(e->tiers);
    if (!job->reserved)
        job_fail_no_room(e, job);
    return job->reserved;
}

static void count_turn(struct engine *e, const struct job *job)
{
    if (job->command->problem.what == PROBLEM_CANCELLED)
        e->counters.turns_cancelled++;
    else if (job->failed)
        e->counters.turns_failed++;
    else
        e->counters.turns_finished++;
}

void job_end(struct engine *e, struct job *job)
{
    struct command *c = job->command;

    if (job->session) {
        job->session->job = NULL;
        job->session->touched = checkpoint_clock();
        session_describe(e, job->session, job->aim ? &c->sessions[0] : &c->turn.info);
    }
    if (!job->aim)
        count_turn(e, job);
    engine_answer(e, c);
    job_free(e, job);
}
