/* slots.c - llama.cpp's calls on slots, for clients that are moving.
 *
 * Slot N is the session "slot-N", made when it is first restored or by POST /v1/sessions; a
 * file is a snapshot whose label is the file's name, of which the newest counts. Nothing is
 * written where a client says: a name is a name. Each call is a chain of the commands that
 * the session calls use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"
#include "server/api/api.h"
#include "server/api/objects.h"
#include "server/api/params.h"
#include "server/api/pending.h"
#include "server/api/repeats.h"
#include "server/api/verbs.h"
#include "server/clock.h"
#include "server/devices.h"
#include "server/http/http.h"

enum { SLOTS_MAX = 1000, DIGITS = 4 };

struct slot_call {
    struct pending base;
    uint64_t owner;
    double started; /* monotonic seconds */
    int number;
    struct id session;
    char filename[LIMIT_LABEL_BYTES + 1];
    struct id *old; /* owned: snapshots that the new one takes the place of */
    int olds;
    uint64_t tokens;
    size_t bytes;
    void (*next)(struct slot_call *s, struct command *c); /* what is done with the answer */
};

static void finish(struct slot_call *s)
{
    free(s->old);
    pending_finish(&s->base);
    free(s);
}

static void refuse(struct slot_call *s, const struct problem *problem)
{
    pending_refuse(&s->base, problem);
    finish(s);
}

static void take(struct pending *p, struct event *e)
{
    struct slot_call *s = (struct slot_call *)p;

    if (e->kind == EVENT_ANSWER)
        s->next(s, e->command);
}

/* The next link of the chain; s is gone if it cannot be sent. */
static void request(struct slot_call *s, enum command_kind kind, const struct id *snapshot,
                    void (*next)(struct slot_call *s, struct command *c))
{
    struct command *c = command_create(kind, NULL);
    struct problem problem;

    if (!c) {
        problem_set(&problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
        refuse(s, &problem);
        return;
    }
    c->owner = s->owner;
    c->session = s->session;
    if (kind == COMMAND_SNAPSHOT_LIST)
        c->session.text[0] = '\0';
    if (snapshot)
        c->snapshot = *snapshot;
    memcpy(c->label, s->filename, sizeof(c->label));
    c->count = LIMIT_LIST_ITEMS;
    s->next = next;
    if (!pending_send(&s->base, c, &problem))
        refuse(s, &problem);
}

static void answer(struct slot_call *s, const char *tokens, const char *bytes, const char *time)
{
    struct text_buffer body = { 0 };
    struct json_out o;

    json_out_init(&o, &body);
    json_open(&o, '{');
    json_key(&o, "id_slot");
    json_int(&o, s->number);
    if (bytes) {
        json_key(&o, "filename");
        json_string(&o, s->filename);
    }
    json_key(&o, tokens);
    json_uint(&o, s->tokens);
    if (bytes) {
        json_key(&o, bytes);
        json_uint(&o, s->bytes);
        json_key(&o, "timings");
        json_open(&o, '{');
        json_key(&o, time);
        json_double(&o, (clock_seconds() - s->started) * 1e3);
        json_close(&o, '}');
    }
    json_close(&o, '}');
    api_reply_json(&s->base, &o);
    finish(s);
}

/* false: refused, s and c are gone. */
static bool went_well(struct slot_call *s, struct command *c)
{
    if (c->problem.what == PROBLEM_NONE)
        return true;
    refuse(s, &c->problem);
    command_free(c);
    return false;
}

static void drop_old(struct slot_call *s, struct command *c)
{
    command_free(c); /* one that is gone already is as good */
    if (s->olds)
        request(s, COMMAND_SNAPSHOT_DELETE, &s->old[--s->olds], drop_old);
    else
        answer(s, "n_saved", "n_written", "save_ms");
}

static void saved(struct slot_call *s, struct command *c)
{
    if (!went_well(s, c))
        return;
    s->tokens = c->snapshots[0].position;
    s->bytes = c->snapshots[0].bytes;
    drop_old(s, c);
}

static void save(struct slot_call *s, struct command *c)
{
    struct problem problem;

    if (!went_well(s, c))
        return;
    s->old = calloc((size_t)c->items + 1, sizeof(*s->old));
    for (int i = 0; s->old && i < c->items; i++)
        s->old[s->olds++] = c->snapshots[i].id;
    command_free(c);
    if (s->old) {
        request(s, COMMAND_SNAPSHOT_TAKE, NULL, saved);
        return;
    }
    problem_set(&problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
    refuse(s, &problem);
}

static void restored(struct slot_call *s, struct command *c)
{
    const struct id snapshot = c->snapshot;

    if (c->kind == COMMAND_SESSION_RESTORE && c->problem.what == PROBLEM_SESSION_NOT_FOUND) {
        command_free(c);
        request(s, COMMAND_SESSION_CREATE, &snapshot, restored);
        return;
    }
    if (!went_well(s, c))
        return;
    command_free(c);
    answer(s, "n_restored", "n_read", "restore_ms");
}

static void restore(struct slot_call *s, struct command *c)
{
    struct snapshot_info *newest;
    struct problem problem;

    if (!went_well(s, c))
        return;
    if (c->items == 0) {
        problem_set(&problem, PROBLEM_SNAPSHOT_NOT_FOUND, "filename", "there is no file '%s'",
                    s->filename);
        command_free(c);
        refuse(s, &problem);
        return;
    }
    newest = &c->snapshots[c->items - 1];
    s->tokens = newest->position;
    s->bytes = newest->bytes;
    request(s, COMMAND_SESSION_RESTORE, &newest->id, restored);
    command_free(c);
}

static void erased(struct slot_call *s, struct command *c)
{
    if (!went_well(s, c))
        return;
    command_free(c);
    answer(s, "n_erased", NULL, NULL);
}

static void erase(struct slot_call *s, struct command *c)
{
    if (c->problem.what == PROBLEM_SESSION_NOT_FOUND) { /* an empty slot, to llama.cpp */
        command_free(c);
        answer(s, "n_erased", NULL, NULL);
        return;
    }
    if (!went_well(s, c))
        return;
    s->tokens = c->sessions[0].position;
    command_free(c);
    request(s, COMMAND_SESSION_DELETE, NULL, erased);
}

static int slots_of(const struct api *api)
{
    const int slots = api->options->slots * api->devices->count;

    return slots < SLOTS_MAX ? slots : SLOTS_MAX;
}

static bool read_number(const struct api *api, const char *text, int *number, struct problem *p)
{
    size_t n = strspn(text, "0123456789");

    *number = 0;
    for (size_t i = 0; i < n && n <= DIGITS; i++)
        *number = *number * 10 + text[i] - '0';
    if (n == 0 || n > DIGITS || text[n] || *number >= slots_of(api))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "id_slot",
                           "slots have numbers from 0 to %d", slots_of(api) - 1);
    return true;
}

/* No path on any system, as llama.cpp demands it too. */
static bool check_filename(const char *name, struct problem *p)
{
    bool ok = name[0] && name[0] != '.';

    for (const char *at = name; *at && ok; at++)
        ok = (unsigned char)*at >= ' ' && *at != 0x7f && !strchr("/\\:", *at);
    return ok || problem_set(p, PROBLEM_INVALID_PARAMETER, "filename",
                             "filename must be a plain name, without a path");
}

static bool read_filename(struct slot_call *s, const struct exchange *x, struct problem *p)
{
    const struct params_context context = api_params(s->base.api, x);
    struct session_params params;
    const char *body;
    size_t len;
    bool ok;

    body = exchange_body(x, &len);
    ok = params_session(SLOT_FILE, body, len, &context, &params, p) &&
         check_filename(params.label, p);
    memcpy(s->filename, params.label, sizeof(s->filename));
    session_params_finish(&params);
    return ok;
}

static bool begin(struct slot_call *s, const struct exchange *x, const char *action,
                  struct problem *p)
{
    bool files = action && (!strcmp(action, "save") || !strcmp(action, "restore"));

    if (!read_number(s->base.api, exchange_param(x, "id"), &s->number, p))
        return false;
    snprintf(s->session.text, sizeof(s->session.text), "slot-%d", s->number);
    if (!files && (!action || strcmp(action, "erase") != 0))
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "action",
                           "action must be save, restore or erase");
    return !files || read_filename(s, x, p);
}

void slot_post(struct exchange *x, void *app)
{
    struct slot_call *s = calloc(1, sizeof(*s));
    const char *action = exchange_query(x, "action");
    struct problem problem;

    if (!s) {
        api_no_memory(x);
        return;
    }
    s->base.take = take;
    s->owner = exchange_client(x);
    s->started = clock_seconds();
    pending_init(&s->base, app, x);
    if (!begin(s, x, action, &problem))
        refuse(s, &problem);
    else if (!repeats_begin(&s->base, true, &s->session))
        finish(s);
    else if (action[0] == 'e')
        request(s, COMMAND_SESSION_GET, NULL, erase);
    else
        request(s, COMMAND_SNAPSHOT_LIST, NULL, action[0] == 's' ? save : restore);
}

static void answer_slots(struct api *api, const struct command *c, struct json_out *o)
{
    json_open(o, '[');
    for (int i = 0; i < c->items; i++) {
        json_open(o, '{');
        json_key(o, "id");
        json_int(o, i);
        json_key(o, "n_ctx");
        json_int(o, api->options->max_prompt);
        json_key(o, "is_processing");
        json_bool(o, c->sessions[i].busy);
        json_key(o, "n_past");
        json_uint(o, c->sessions[i].position);
        json_key(o, "session");
        json_string(o, c->sessions[i].id.text[0] ? c->sessions[i].id.text : NULL);
        json_close(o, '}');
    }
    json_close(o, ']');
}

void slots_list(struct exchange *x, void *app)
{
    struct command *c = verb_create(x, COMMAND_SLOT_LIST);

    if (!c)
        return;
    c->count = slots_of(app);
    api_ask(app, x, c, answer_slots);
}
