/* engine.h - the engine thread, as the loop thread sees it.
 *
 * The engine owns the scheduler, the sessions, their checkpoints and the state slots, and
 * drives the model step by step: drain commands, admit, one token for every decoding turn,
 * then prefill chunks up to the row budget, forward, sample, publish. With several devices a
 * step is one batch on each. Two bounded mailboxes join it to the loop; nothing else is shared
 * but the counters, and the pool of host memory that states lie in. */
#ifndef SERVER_ENGINE_ENGINE_H
#define SERVER_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/devices.h"
#include "server/state/disk.h"
#include "server/state/redis.h"
#include "server/state/tiers.h"

struct checkpoint;
struct command;
struct engine;
struct error;
struct event;
struct problem;
struct redis_url;
struct tokenizer;

struct engine_options {
    /* Of each device. */
    int slots;      /* for states: turns at once, plus sessions kept there */
    int max_batch;  /* sequences in one step */
    int row_budget; /* rows of one step, decode and prefill together; above max_batch */

    int max_queue; /* turns waiting beside those that can run; beyond it queue_full */
    int max_sessions;
    size_t host_bytes;     /* checkpoints held in host memory; beyond it no_slot, snapshot_quota */
    size_t spare_bytes;    /* of states that nobody needs but that spare work; 0: none */
    int owner_sessions;    /* of one owner; 0: max_sessions */
    size_t owner_bytes;    /* of one owner's states, each head counted whole; 0: no bound */
    size_t history_tokens; /* the newest of a session that it can go back over; at most, and 0:
                            * LIMIT_HISTORY_TOKENS */
    size_t cache_every;    /* tokens of a prompt from one spare to the next; 0: one near its end */
    double session_ttl;    /* seconds a session lives untouched; 0: for ever */
    int quantum; /* steps of a turn before it makes room for one that waits; 0: all it needs */

    /* The store, which outlives the process. */
    const char *state_dir; /* a folder, borrowed; NULL: there is none */
    uint64_t store_bytes;  /* of files there; beyond it insufficient_storage */
    enum disk_mode durability;
    int interval_ms;          /* of DISK_INTERVAL */
    const struct disk_io *io; /* borrowed; NULL: the system's */

    /* Or one that servers share. */
    const struct redis_url *redis; /* borrowed; NULL: there is none */
    int lease_ms;                  /* a session is another server's so long after this one died */
};

/* Logits of a step for scoring prompts, beside one per sequence: a model that is given to
 * engine_create() has max_rows of row_budget and max_logits of max_batch + this. row_budget
 * is above max_batch. */
enum { ENGINE_SCORE_ROWS = 64 };

enum { ENGINE_BUCKETS = 16 };

/* Upper bounds in seconds, 0.0005 to 60. */
extern const double engine_bucket_bound[ENGINE_BUCKETS];

struct engine_histogram {
    uint64_t bucket[ENGINE_BUCKETS + 1]; /* not cumulative; the last is above every bound */
    double sum;
    uint64_t count;
};

/* A copy of the counters; see engine_counters(). */
struct engine_counters {
    uint64_t turns_started, turns_finished, turns_failed, turns_cancelled;
    uint64_t prompt_tokens, cached_tokens, completion_tokens, steps, rows;
    uint64_t slots_zeroed, slices; /* slices: turns that made room in between */
    uint64_t rollbacks, replayed_tokens, prefix_lookups, prefix_hits, spares_dropped;
    struct tiers_moves moves;
    uint64_t store_ops, store_failed, store_commits;
    uint64_t store_reports;     /* what an operator should know; each is in the log */
    bool shared;                /* there is a shared store */
    struct redis_counts redis;  /* of the shared store */
    int store_waiting;          /* operations on their way */
    int queued, running, batch; /* batch: sequences in the newest step */
    int sessions, slots, slots_used, snapshots;
    int devices;
    struct tiers_device device[DEVICES_MAX];
    size_t spares;       /* states that nobody needs but that may spare work */
    size_t prefix_bytes; /* of the index of contexts */
    int sessions_device, sessions_host, sessions_store, sessions_empty; /* of a second ago */
    size_t device_bytes, host_bytes, state_bytes; /* state_bytes: of one record */
    uint64_t store_bytes;
    size_t anchors; /* files of states that are only there to go back to them */
    uint64_t anchor_bytes, anchors_dropped;
    struct engine_histogram first_token, between_tokens, step;  /* seconds */
    struct engine_histogram from_device, from_host, from_store; /* a state to its working slot */
    const char *lost; /* the device that failed, of its backend: every command is refused, so end
                       * and start again; NULL: none */
    double heartbeat; /* monotonic seconds when the engine last turned its loop */
    bool computing;   /* since then it has done nothing but its part of one step */
};

/* What model_options.max_logits has to be for these options; max_rows is row_budget. */
int engine_max_logits(const struct engine_options *options);

/* Starts the thread. The devices, which have their models, and the tokenizer are borrowed and
 * must outlive the engine; they belong to the engine's thread until engine_destroy(). wake(arg)
 * is called from the engine's thread when events come to wait and none did: at most twice per step,
 * and once for the answers to commands that came during one. ERR_NOMEM names what did not fit. */
struct engine *engine_create(const struct devices *devices, const struct tokenizer *tokenizer,
                             const struct engine_options *options, void (*wake)(void *arg),
                             void *arg, struct error *err);
/* Ends the thread; running turns are dropped, undelivered commands and events are freed. */
void engine_destroy(struct engine *e); /* takes NULL */

/* Proves every byte of a state's file and makes what an import brings down: a checkpoint whose
 * record lies where it can be copied to a device beside its steps. The engine has nothing to do but
 * to adopt it. Any thread: to hash and to copy hundreds of megabytes takes a while. Refuses as
 * format_decode(). */
struct checkpoint *engine_decode(struct engine *e, const void *file, size_t len, struct problem *p);

/* Moves the command down. false when the mailbox is full: it stays the caller's, who answers
 * queue_full. */
bool engine_send(struct engine *e, struct command *c);
/* The same of several, all or none: they are obeyed before any of them runs. */
bool engine_send_all(struct engine *e, struct command *const *c, int n);
/* That run and wait; always the same. Any thread. */
int engine_max_turns(const struct engine *e);
/* Tells the engine to look at its commands' `cancelled` flags. */
void engine_nudge(struct engine *e);
/* The next event, moved to the caller; NULL when there is none now. */
struct event *engine_receive(struct engine *e);
/* Every command that was sent has been answered, and the answer received. */
bool engine_idle(struct engine *e);

struct engine_counters engine_counters(struct engine *e);
/* Whether it turned its loop of late, or computes one step, which on a slow machine may take
 * minutes. now: monotonic seconds. Any thread. */
bool engine_is_well(const struct engine_counters *c, double now);

#endif
