/* command.h - what the loop thread asks of the engine, and what comes back.
 *
 * A command is one heap object. engine_send() moves it down; every command but a turn comes
 * back up exactly once, answered, as an EVENT_ANSWER. A turn sends EVENT_TEXT any number of
 * times per choice, EVENT_FINISH once per choice (unless memory ran out even for that, which
 * the answer says), and at last comes back itself as an EVENT_ANSWER. The loop frees it with
 * command_free(). Between send and answer only the engine touches it, except `cancelled`
 * and `cut`. */
#ifndef SERVER_ENGINE_COMMAND_H
#define SERVER_ENGINE_COMMAND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/limits.h"
#include "kernels/ops.h"
#include "models/text/detokenizer.h"
#include "server/problem.h"
#include "server/state/id.h"

struct checkpoint;
struct redis_op;

enum command_kind {
    COMMAND_TURN,
    COMMAND_SESSION_CREATE,
    COMMAND_SESSION_GET,
    COMMAND_SESSION_LIST,
    COMMAND_SESSION_DELETE,
    COMMAND_SESSION_FORK,
    COMMAND_SESSION_RESTORE,
    COMMAND_SESSION_ROLLBACK, /* to a snapshot, by turns or to a position */
    COMMAND_SESSION_EXPORT,   /* the head as a checkpoint in host memory */
    COMMAND_SESSION_IMPORT,   /* replaces the head */
    COMMAND_SLOT_LIST,        /* the sessions slot-0 to slot-(count - 1); no id: there is none */
    COMMAND_SNAPSHOT_TAKE,
    COMMAND_SNAPSHOT_LIST, /* of the snapshot, if one is named: it and what is below it */
    COMMAND_SNAPSHOT_GET,
    COMMAND_SNAPSHOT_DELETE, /* answers how many in count */
    COMMAND_SNAPSHOT_EXPORT,
    COMMAND_SNAPSHOT_IMPORT, /* the last one */
};

/* A session as the API shows it; a copy. */
struct session_info {
    struct id id, head; /* head: the checkpoint it stands on, "" before the first turn */
    double created, updated, expires; /* seconds since 1970; expires 0: never */
    uint64_t position, version;
    /* "device", "host", "disk", "empty", or of what is on the disk and cannot be had: "foreign",
     * another model's or kept as other numbers, or "damaged" */
    const char *residency;
    size_t state_bytes; /* of no meaning where it is foreign or damaged */
    bool busy;
    bool answer_open;                /* the context ends in an unfinished assistant's answer */
    char tail[LIMIT_STOP_BYTES + 1]; /* text in the context that the client never saw: the
                                      * stop string that ended the last turn */
    char *metadata;                  /* JSON text or NULL; from malloc, belongs to this info */
};

struct snapshot_info {
    struct id id, session, parent;
    uint64_t position;
    size_t bytes;
    uint8_t fingerprint[16];
    char label[LIMIT_LABEL_BYTES + 1];
    const char *tier; /* as residency */
    bool pinned;
    double created;
};

struct bias {
    int32_t id;
    float value;
};

/* How a turn draws its tokens; meanings as in kernels/ops.h. */
struct sampling {
    float temperature, top_p, min_p, typical_p;
    int top_k;
    float repetition, presence, frequency, penalty_decay;
    struct bias *bias; /* owned, from malloc */
    int biases;
    bool seeded;
    uint64_t seed; /* without `seeded` the session's own, or a random one */
};

enum finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_FAILED };

struct turn {
    int32_t *prompt; /* owned, from malloc; ids below the tokenizer's size */
    size_t prompt_len;
    size_t lead; /* leading special tokens (BOS), dropped when the session has a context */
    int choices; /* n; 1 with a session */
    int max_tokens, min_tokens; /* max_tokens 0: take the prompt in and sample nothing */
    struct sampling sampling;
    char (*stop)[LIMIT_STOP_BYTES + 1]; /* owned; stop strings, text bytes */
    int stops;
    int32_t *stop_id; /* owned; beside the model's own unless ignore_eos */
    int stop_ids;
    bool ignore_eos;
    bool no_cache;       /* neither use nor leave states of other turns */
    bool commit_partial; /* a cancelled turn that has sampled keeps what it has */
    bool special;        /* emit the text of special tokens */
    bool chat;           /* the answer stays open when the turn is over */
    int logprobs;        /* alternatives per token, -1: no logprobs at all */
    bool score;          /* logprobs of the prompt's tokens too, as EVENT_TEXT with `prompt` */

    /* Filled by the engine for the answer. */
    size_t prompt_tokens, cached_tokens, completion_tokens;
    bool committed;           /* the session has moved: a cancelled turn's may, too */
    struct session_info info; /* of the session after the turn */
};

/* Versions that a call wants a session to be at, or not to be at. */
struct version_set {
    bool given; /* false: it says nothing about them */
    bool all;
    int count;
    uint64_t version[LIMIT_VERSION_TAGS];
};

/* The set of one. */
struct version_set version_set_of(uint64_t version);
bool version_set_has(const struct version_set *s, uint64_t version);

struct command {
    enum command_kind kind;
    atomic_bool cancelled;  /* set by the loop; the engine ends the turn, or the way back, at its
                             * next step */
    atomic_bool cut;        /* set before that: the turn ends well, with what it has drawn */
    void *waiter;           /* the loop's; the engine never looks at it */
    uint64_t owner;         /* whose sessions and snapshots it names; 0 without keys */
    struct problem problem; /* PROBLEM_NONE: done */
    struct command *next;   /* the engine's: in a list of those that wait */
    bool later;             /* the engine's: whoever has it now answers it */
    bool asked_session, asked_snapshot; /* share.c's: Redis has been asked for it */
    bool again;             /* the engine's: it was obeyed anew, for it met a state that is lost */
    struct redis_op *lease; /* share.c's: gives its lease on the session back; NULL: none, used */
    struct event *answer;   /* the engine's: allocated with the command, so that an answer
                             * never fails for want of memory */

    /* Arguments; what a kind does not name is ignored. */
    struct id session, snapshot; /* a turn without a session leaves nothing behind */
    struct turn turn;
    bool has_seed, has_ttl;
    uint64_t seed;
    struct version_set expected; /* at one of these; all: it is there, as all but IMPORT want */
    struct version_set unwanted; /* at none of these; all: it is not there, for IMPORT alone */
    double ttl;                  /* seconds */
    char *metadata;              /* JSON text, owned; SESSION_CREATE */
    char label[LIMIT_LABEL_BYTES + 1];
    size_t turns;                  /* rollback: so many back; 0: to the position */
    uint64_t position;             /* rollback */
    int count;                     /* children of a fork; items of a list page */
    struct id after;               /* list: the last id of the page before */
    struct id taken_of;            /* SNAPSHOT_LIST: of this session alone, which may be gone */
    bool whole;                    /* SNAPSHOT_DELETE: with everything below it */
    struct checkpoint *checkpoint; /* IMPORT: moves down; EXPORT: moves up, in host memory */

    /* Answers: n items, from malloc, owned by the command. */
    struct session_info *sessions;
    struct snapshot_info *snapshots;
    int items;
    bool more; /* the list goes on */
};

struct command *command_create(enum command_kind kind, void *waiter); /* NULL: no memory */
void command_free(struct command *c);                                 /* takes NULL */

/* One token with its probabilities, for clients that asked. */
struct token_score {
    int32_t id;
    float logprob; /* NAN for the first token of a context, which nothing predicts */
    size_t bytes;  /* how much of the event's text this token brought */
    int tops;
    int32_t top_id[SAMPLE_TOP_MAX];
    float top_logprob[SAMPLE_TOP_MAX];
};

enum event_kind { EVENT_TEXT, EVENT_FINISH, EVENT_ANSWER };

/* One heap object, freed by event_free(). */
struct event {
    enum event_kind kind;
    struct command *command; /* the loop's again only with EVENT_ANSWER */
    struct event *next;      /* the mailbox's */
    int choice;
    bool prompt;               /* the scores are of prompt tokens, text is empty */
    struct text_buffer text;   /* whole characters only */
    struct token_score *score; /* owned; one per token when logprobs were asked for */
    enum finish finish;        /* EVENT_FINISH */
    const char *stop;          /* the stop string that matched, or NULL; the command's */
};

void event_free(struct event *e);

#endif
