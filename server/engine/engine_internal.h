/* engine_internal.h - what the engine's own files share. Engine thread only, but for the
 * mailbox, the published counters and engine_decode().
 *
 * A turn is a job; a job runs one sequence per choice. A sequence works in a slot of its own
 * and feeds tokens: first its prompt in chunks, then what it samples, one a step. With more
 * than one choice a first sequence takes the prompt in and leaves a checkpoint behind, from
 * which the choices start; where there is no room for that, it is the first of them itself, and
 * at its end another one begins the same way. */
#ifndef SERVER_ENGINE_ENGINE_INTERNAL_H
#define SERVER_ENGINE_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/ops.h"
#include "models/text/detokenizer.h"
#include "server/engine/command.h"
#include "server/engine/engine.h"
#include "server/engine/journal.h"
#include "server/engine/lineage.h"
#include "server/engine/mailbox.h"
#include "server/engine/penalties.h"
#include "server/engine/stop_match.h"
#include "server/state/checkpoint.h"
#include "server/state/id_map.h"
#include "server/state/past.h"

struct prefix;
struct tiers;
struct recall;

struct session {
    struct id id;
    bool seeded; /* the client chose the seed: forks inherit it */
    uint64_t owner;
    struct checkpoint *head;  /* kept; never NULL, at position 0 before the first turn */
    struct past *past;        /* kept; behind the head. NULL at position 0, and when the head is
                               * cold and nobody needed it for a while: the store has it */
    struct lineage *snapshot; /* kept; the newest snapshot on the way to the head, or NULL */
    uint64_t version;
    double created, updated; /* updated: when the head moved */
    double touched, ttl;     /* it expires ttl after the newest turn's end; 0: never */
    uint64_t seed;
    char *metadata;        /* owned, may be NULL */
    struct job *job;       /* the running or queued turn; NULL: idle */
    struct entry *storing; /* a change that is being written; nothing else changes it then */
    struct command *mover; /* share.c's: it has the lease on this session; NULL: none has */
};

struct snapshot {
    struct id id, session;
    uint64_t owner;
    struct lineage *place;         /* kept */
    struct checkpoint *checkpoint; /* kept */
    struct past *past;             /* kept; NULL as a session's */
    uint64_t seed;                 /* the session's: its checkpoint may be older */
    char label[LIMIT_LABEL_BYTES + 1];
    double created;
    struct entry *storing;
    struct snapshot *along; /* the next one that is deleted by the same entry */
};

struct job {
    struct command *command;
    struct session *session; /* NULL: stateless, or deleted meanwhile */
    struct checkpoint *aim;  /* remembered; of a rollback, which takes in again what led there;
                              * NULL: a turn */
    int open;                /* sequences not finished, and the change that ends the turn */
    int32_t *bias_id;        /* the command's logit_bias, as the sampler wants it */
    float *bias;
    int32_t *stop_id;    /* the model's and the request's; then what may complete a stop string */
    int stop_ids, holds; /* how many are the former, and how many both: no step follows those */
    bool waits;          /* any token may complete one */
    uint64_t seed;
    bool failed;    /* command->problem says why; the other choices end too */
    size_t cached;  /* ids of the feed that its origin holds: a state that others left */
    bool reserved;  /* room for the checkpoint that it will leave behind */
    double arrived; /* monotonic seconds */
};

/* The anchors of one turn that its session may still go back to: a window and a half. */
enum { SEQUENCE_ANCHORS = 4 };

struct sequence {
    struct job *job;
    int choice, choices;       /* its own, or the first of those that begin when it ends */
    bool samples;              /* false: takes its feed in and leaves a checkpoint */
    struct checkpoint *origin; /* kept; NULL: the empty context, or it has begun and needs none */
    int slot;                  /* -1: queued */
    int32_t *feed;             /* what the turn brings, then what it samples; owned */
    size_t feed_len, fed, feed_capacity;
    void *lifted;          /* queued again: what its slot held; tiers.h's */
    struct recall *recall; /* its state is being read into the slot; the reader's */
    bool forgetful;        /* it was made while its origin was cold: recent is the feed's */
    int slice;             /* steps since it has the slot */
    uint64_t scored;       /* the step in which it was last scored for, or got the slot */
    double admitted;       /* monotonic seconds: when it began to wait for its state */
    size_t prompt_at;      /* where the prompt begins in the feed, behind what was pending */
    size_t cut;            /* cache.c: where in the feed a state is to be kept; SIZE_MAX: nowhere */
    size_t anchor_at;      /* anchors.c: the same */
    struct checkpoint *anchor[SEQUENCE_ANCHORS]; /* remembered; oldest first */
    size_t anchors;
    bool whole;        /* the feed is a whole context, and its states may serve others */
    size_t sampled_at; /* where the model's own tokens begin in the feed */
    uint64_t position; /* of the context, everything in the feed included */
    int32_t stop;      /* the stop id that ended it, or -1 */
    struct recent recent;
    struct penalties *penalties; /* NULL: none asked for */
    struct detokenizer detokenizer;
    struct stop_match match;
    int sampled;         /* tokens drawn so far */
    size_t ahead;        /* rows in steps that are on their way: nobody else touches its slot */
    int draws;           /* which they make */
    struct pick *newest; /* its part in the last of them; NULL before any */
    double newest_token; /* monotonic seconds */
    /* Its state is on its way to the slot, and is counted here when it comes; NULL: it is not. */
    struct engine_histogram *arriving;
    enum finish finish;
    const char *hit;       /* the stop string that ended it */
    struct sequence *next; /* in the queue */
};

/* Sessions by where their state is. */
struct tally {
    int device, host, store, empty;
};

/* What one sequence does in a step. */
struct pick {
    struct sequence *sequence; /* NULL: it ended with the step before */
    size_t rows;
    int first_logit, logits;
    bool draws; /* the last of its logits is for its next token */
};

/* One device's part of a step. */
struct step {
    struct batch batch;
    int32_t *token;               /* [row_budget] */
    int *begin;                   /* [max_batch + 1] */
    int *slot;                    /* [max_batch] */
    uint32_t *position;           /* [max_batch] */
    int *logged;                  /* [max_batch] */
    int *follows;                 /* [max_batch] */
    int *logit_row;               /* [max_logits] */
    struct pick *pick;            /* [max_batch] */
    struct sample_row *row;       /* [max_logits] */
    struct sample_result *result; /* [max_logits] */
    uint64_t mark;                /* of its end */
};

/* A step. */
struct flight {
    struct step *step; /* [devices] */
    int rows;
    double began; /* monotonic seconds: when it was planned */
};

enum { FLIGHTS = 2 };

struct engine {
    const struct devices *devices;     /* borrowed */
    const struct model *model;         /* the first device's; the others' say the same */
    const struct tokenizer *tokenizer; /* borrowed */
    struct engine_options options;
    void (*wake)(void *arg);
    void *wake_arg;
    int vocab; /* ids that may be drawn are below */

    struct mailbox mailbox;
    struct event_list events; /* not yet published */
    pthread_t thread;
    bool started;
    atomic_bool stopping;

    struct tiers *tiers;
    struct holds *holds;
    struct prefix *prefix;   /* NULL: no state is kept to spare work */
    struct journal *journal; /* NULL: no store */
    const char *lost; /* the device that failed: commands are refused, nothing runs any more */
    bool closing;     /* commands are refused, and nothing is deleted any more */
    struct id_map sessions, snapshots;
    struct id_map lineage;               /* the places of snapshots, and of some that are gone */
    uint64_t subtrees;                   /* numbers given (lineage.h) */
    struct sequence *queue, **queue_end; /* waiting for a slot, oldest first */
    int queued;
    bool any_over;             /* queued ones, since the queue was last searched for them */
    struct sequence **running; /* [max_batch of every device], oldest first */
    int running_count;
    struct flight flight[FLIGHTS]; /* a ring: `aloft` from `oldest` on are on their way */
    int oldest, aloft;
    double landed;                          /* monotonic: when the last one came */
    struct command *leaving, **leaving_end; /* exports that are not in host memory yet */

    struct engine_counters counters;  /* the engine's */
    struct engine_counters published; /* a copy under the lock */
    pthread_mutex_t counters_lock;
    double next_sweep; /* monotonic: when expired sessions are looked for again */
    size_t most_held;  /* bytes of states in host memory, since the heap was last trimmed */
    double worked;     /* monotonic: when a step was last due, or memory let go */
    size_t sweep;      /* the place in the map that it looks at next */
    size_t session_look, snapshot_look; /* the same of share_looks() */
    int looks;                          /* of these, what Redis has not answered */
    struct tally tally;                 /* of this sweep so far */
};

void engine_observe(struct engine_histogram *h, double seconds);

/* engine.c */
void engine_post(struct engine *e, struct event *event);
void engine_answer(struct engine *e, struct command *c);
struct event *engine_event(enum event_kind kind, struct command *c); /* NULL: no memory */
/* The thread is about to do nothing but compute, for as long as it takes, or has done so. */
void engine_computes(struct engine *e, bool begins);
/* What can be done while devices compute: obeys the commands that came, and answers. */
void engine_attend(struct engine *e);

/* obey.c */
/* Does what the command says and answers it, now or later. */
void engine_obey(struct engine *e, struct command *c);
/* What a command does with the session that it names. */
enum session_use {
    USE_LOOKS,   /* at what was kept last, or it names none */
    USE_CHANGES, /* it comes, goes, or somebody else gets its head: in the middle of a turn, too */
    USE_MOVES,   /* it gets another head: one at a time, and not in the middle of a turn */
};
enum session_use command_use(const struct command *c);
/* Its answer is a copy of a checkpoint, with the record. */
bool command_exports(const struct command *c);
bool command_imports(const struct command *c);
bool command_no_memory(struct command *c); /* PROBLEM_OUT_OF_MEMORY; false */
void command_take_back(struct command *c); /* the session's description, to be made again */
/* Fills all of a list's page but what it wants; page->entry is from malloc. false: no memory. */
bool command_page(struct command *c, const struct id_map *of, struct id_page *page);

/* What engine_obey() calls for each kind. false: c->problem says why not. The command is to be
 * answered unless c->later: whoever set that does. */
bool obey_turn(struct engine *e, struct command *c); /* turns.c */
bool obey_session_create(struct engine *e, struct command *c);
bool obey_session_get(struct engine *e, struct command *c);
bool obey_session_list(struct engine *e, struct command *c);
bool obey_session_delete(struct engine *e, struct command *c);
bool obey_session_fork(struct engine *e, struct command *c);
bool obey_session_restore(struct engine *e, struct command *c);
bool obey_session_rollback(struct engine *e, struct command *c); /* rollback.c */
bool obey_session_export(struct engine *e, struct command *c);
bool obey_session_import(struct engine *e, struct command *c);
bool obey_slot_list(struct engine *e, struct command *c);
bool obey_snapshot_take(struct engine *e, struct command *c);
bool obey_snapshot_list(struct engine *e, struct command *c);
bool obey_snapshot_get(struct engine *e, struct command *c);
bool obey_snapshot_delete(struct engine *e, struct command *c);
bool obey_snapshot_export(struct engine *e, struct command *c);
bool obey_snapshot_import(struct engine *e, struct command *c);

/* job.c */
/* Of a command that job_end() answers. NULL: no memory. */
struct job *job_create(struct engine *e, struct command *c, struct session *session);
void job_free(struct engine *e, struct job *job); /* without an answer */
/* When the turn commits there is one checkpoint more, unless nobody but the session (and the
 * turn that started from it) keeps the head that it leaves. Room for it is reserved, so that
 * turns that end together never take the last slot there is to work in. false: there is none,
 * and the job has failed. */
bool job_reserve_room(struct engine *e, struct job *job, int keepers);
void job_fail(struct engine *e, struct job *job, enum problem_code what, const char *message);
void job_fail_no_memory(struct engine *e, struct job *job);
void job_fail_no_room(struct engine *e, struct job *job);
/* Nothing of it is open: its command is answered, and it is freed. */
void job_end(struct engine *e, struct job *job);

/* turns.c: what jobs run, from its beginning to its end. */
void turn_cancel_marked(struct engine *e);
/* A job for a rollback: the ids of the session's past from position `from`, where the base's
 * record ends, to the aim. The command is answered at its end. false: refused. */
bool turn_replay(struct engine *e, struct command *c, struct session *session,
                 struct checkpoint *base, uint64_t from, struct checkpoint *aim);
/* Its feed is in. true: it draws what comes next where it is, from now on. */
bool sequence_go_on(struct engine *e, struct sequence *s);
/* Everything it had to do is done, or its job failed: leaves the slot, publishes, commits. */
void sequence_end(struct engine *e, struct sequence *s);
/* The job's session moves to what *next says; the job ends, and the event goes out (or NULL),
 * when that is kept. false: the job failed, and nothing has changed. */
bool job_commit(struct engine *e, struct job *job, const struct session *next, struct event *event);

/* Its state came from the store, or did not. */
void sequence_recalled(struct engine *e, struct recall *r);

/* sequence.c */
/* Of a job: it draws one choice, or takes the prompt in for those from that one on. NULL: no
 * memory. */
struct sequence *sequence_create(struct engine *e, struct job *job, int choice, bool samples,
                                 struct checkpoint *origin, const int32_t *prompt, size_t n);
void sequence_free(struct engine *e, struct sequence *s);
size_t sequence_goal(const struct sequence *s);     /* feed tokens to take in */
bool sequence_scores(const struct sequence *s);     /* its prompt's tokens, once for all choices */
uint64_t sequence_covers(const struct sequence *s); /* tokens in the state of its slot */

/* answer.c: the tokens of a sequence. */
/* The first token of a scored context has no probability: says so once. */
void sequence_score_first(struct engine *e, struct sequence *s);
void sequence_scored(struct engine *e, struct sequence *s, const struct sample_result *r);
void sequence_sampled(struct engine *e, struct sequence *s, const struct sample_result *r);
/* A step that follows the draw does not take it in: it ends the sequence, or may. */
bool sequence_is_held(const struct sequence *s, const struct sample_result *r);
/* No token comes after this: what was held back is text. */
void sequence_finish_text(struct engine *e, struct sequence *s);

/* cache.c: states that may spare others the work. */
bool cache_create(struct engine *e); /* false: no memory */
void cache_lost(struct engine *e, struct checkpoint *c);
/* The state of the longest known prefix, shorter than n, kept; NULL: none. */
struct checkpoint *cache_find(struct engine *e, uint64_t owner, const int32_t *id, size_t n,
                              size_t *len);
/* The state that it was to go on from cannot be read: it is forgotten, and the sequence takes
 * the whole context in. */
void cache_failed(struct engine *e, struct sequence *s);
/* A queued turn that was to go on from such a state takes the whole context in: then that may make
 * way. false: there is none. */
bool cache_yield(struct engine *e);
/* The sequence is about to take its prompt in, or has come to its cut. */
void cache_plan(struct engine *e, struct sequence *s);
void cache_cut(struct engine *e, struct sequence *s);
/* A turn without a session is over: its slot may become a spare. */
void cache_take_slot(struct engine *e, struct sequence *s);
/* A session has moved there. */
void cache_take_head(struct engine *e, const struct session *s);

/* anchors.c: states that let sessions go back over their window. */
/* The sequence goes on for a session; it has come to anchor_at; it is over. */
void anchor_plan(struct engine *e, struct sequence *s);
void anchor_cut(struct engine *e, struct sequence *s);
void anchors_finish(struct engine *e, struct sequence *s);
void anchor_lost(struct engine *e, struct checkpoint *c);
/* The oldest anchor that a turn keeps in the store goes. false: there is none. */
bool anchors_yield(struct engine *e);
/* Whether there is room for one more state (tiers.h), for which such anchors go. */
bool anchors_leave_room(struct engine *e);
/* The command, which moves the session, is obeyed again when it is known whether the anchor, which
 * has no record here, is kept. false: c->problem. */
bool anchor_ask(struct engine *e, struct command *c, struct session *s, struct checkpoint *anchor);

/* rollback.c: the job's ids are in. */
void rollback_end(struct engine *e, struct sequence *q);

/* flight.c */
bool flights_init(struct engine *e, int max_logits);
void flights_finish(struct engine *e);
/* A step may start while another is on its way. */
bool flights_overlap(const struct engine *e);
/* Plans a step and enqueues it. false: no sequence has a row for one that could start now. */
bool flight_start(struct engine *e);
/* Waits for the oldest on its way, and hands out what it brings. false: *err. */
bool flight_land(struct engine *e, struct error *err);
/* A device failed: nothing runs on any when this returns, and what was on its way is lost. */
void flights_abandon(struct engine *e);

/* scheduler.c */
bool scheduler_init(struct engine *e, int max_logits);
void scheduler_finish(struct engine *e);
void scheduler_enqueue(struct engine *e, struct sequence *s, bool front);
/* Admits, runs one step and handles its results. false: there was nothing to run. */
bool scheduler_step(struct engine *e);
/* No step is on its way when it returns. */
void scheduler_settle(struct engine *e);
void scheduler_fail_all(struct engine *e, enum problem_code what, const char *message);

/* copies.c */
/* The command's answer is a copy with its record in host memory, the ids of its past and the seed;
 * later, if it has to come from the device or the store. false: c->problem. */
bool command_export(struct engine *e, struct command *c, struct checkpoint *from,
                    const struct past *past, uint64_t seed);
/* Answers those that came from the device meanwhile. */
void exports_answer(struct engine *e);
/* The past of a session. false: it is in the store; the command is obeyed again when it is
 * here, or c->problem says why it cannot be. */
bool session_has_past(struct engine *e, struct command *c, struct session *s);
/* What a command asked of a cold checkpoint was read, or was not; r stays the caller's. */
void recalled(struct engine *e, struct command *c, struct recall *r);
/* The past of what the store has. false: no memory. */
bool past_read_back(struct engine *e, struct past **past, struct checkpoint *from);
/* Lets go of a past that is in the store. */
void past_cool(struct engine *e, struct past **past, const struct checkpoint *c);
/* The ids that an imported checkpoint brought become a past. */
bool checkpoint_take_past(struct engine *e, struct command *c, struct past **past);

/* sessions.c */
/* The command's owner's; another one's are as unknown as any. */
struct session *session_find(struct engine *e, const struct command *c, struct problem *p);
/* The command names no version, or this one. PROBLEM_VERSION_MISMATCH. */
bool session_is_expected(const struct session *s, const struct command *c, struct problem *p);
bool session_claim(struct engine *e, const struct command *c, struct session **out,
                   struct problem *p);
/* Room for the answer, before anything changes: so that what is done is also answered. */
bool session_prepare(struct command *c, const char *metadata);
/* All but the metadata, which stays what it is. */
void session_describe(const struct engine *e, const struct session *s, struct session_info *info);
/* The new entry becomes one by which s is what *next says of head, past, snapshot and seed, one
 * version on. The references to head and past are taken over; the snapshot is borrowed. NULL: no
 * memory. That is so where x is NULL; of any other, which is freed then, with a store only. */
struct entry *session_moving(struct engine *e, struct entry *x, struct session *s,
                             const struct session *next);
/* It is kept. */
void session_moved(struct engine *e, struct entry *x);
/* One of this model at a place of a context, without its record; refs 1. NULL: no memory. */
struct checkpoint *checkpoint_at(const struct engine *e, uint64_t owner, uint64_t position);
/* The one at position 0, for which no room is needed. */
struct checkpoint *session_empty_head(struct engine *e, uint64_t owner);
/* What session_info says of it. */
const char *checkpoint_tier(const struct engine *e, const struct checkpoint *c);
/* Adds a session of the command's owner that stands on `head` (kept here, with its past), or
 * on nothing. No id: a new one. NULL: c->problem, also where the head is not of this model. */
struct session *session_add(struct engine *e, struct command *c, const struct id *id,
                            struct checkpoint *head, struct past *past);
/* Deletes it, here when it is in the store. c: who asked for it and is answered then, or NULL.
 * false: no memory. */
bool session_drop(struct engine *e, struct command *c, struct session *s);
/* Somebody else is about to keep the session's head: a turn that runs will then need room for the
 * one that it leaves behind, and gets it promised. false: there is none. */
bool session_lend_head(struct engine *e, struct session *s);
/* tiers_recall(), of what may be the head that such a turn leaves: it gets the same promise. */
bool state_recall(struct engine *e, struct checkpoint *c);
/* Whether the owner's budget has room for one more head. PROBLEM_STATE_QUOTA. */
bool owner_has_room(const struct engine *e, uint64_t owner, struct problem *p);
/* There is no room for one more state: PROBLEM_STORAGE_FULL, or, if it is not the store that
 * lacks it, `otherwise`. */
bool state_refuse(const struct engine *e, enum problem_code otherwise, struct problem *p);
/* Ends what has expired, among the next thousand sessions. true: those were the last. */
bool sessions_sweep(struct engine *e);
/* Without a word to the store. A running turn loses it and ends. */
void session_remove(struct engine *e, struct session *s);
void sessions_clear(struct engine *e);

/* session_verbs.c */
/* The command moves the session to what *next says, and is answered when that is kept. false:
 * no memory. Takes the references as session_moving(). */
bool session_move(struct engine *e, struct command *c, struct session *s,
                  const struct session *next);

/* snapshots.c */
struct snapshot *snapshot_find(struct engine *e, const struct command *c, struct problem *p);
/* Its place is gone; the store's records are the caller's. */
void snapshot_remove(struct engine *e, struct snapshot *s);
void snapshots_cool(struct engine *e);
void snapshots_clear(struct engine *e);

#endif
