/* transfers.c - state files up and down: heads of sessions, and snapshots.
 *
 * A download is sealed when the server has a secret, and an upload must then be, for the same
 * owner. A download is as this server keeps the state, or with ?dtype= all float32 or bfloat16;
 * ?convert=true lets an upload of another number format in.
 *
 * The file form is written and proven in the libuv pool, for a state can have hundreds of
 * megabytes and each byte is hashed. */
#include <stdlib.h>
#include <string.h>

#include "config/options.h"
#include "models/model.h"
#include "server/api/api.h"
#include "server/api/objects.h"
#include "server/api/pending.h"
#include "server/api/repeats.h"
#include "server/api/verbs.h"
#include "server/engine/engine.h"
#include "server/http/http.h"
#include "server/state/format.h"
#include "server/state/seal.h"

struct transfer {
    struct pending base;
    struct command *command; /* ours, unless it is on its way */
    struct problem problem;
    void *file; /* a download's, owned */
    size_t len;
    const char *body; /* an upload's, the exchange's */
    uint64_t owner;
    bool convert;     /* to dtype, or an upload to what this server keeps */
    enum dtype dtype; /* of a download */
    bool encoded;
};

static void finish(struct transfer *t)
{
    command_free(t->command);
    free(t->file);
    pending_finish(&t->base);
    free(t);
}

static struct transfer *create(struct api *api, struct exchange *x, struct command *c)
{
    struct transfer *t = calloc(1, sizeof(*t));

    if (!t) {
        command_free(c);
        api_no_memory(x);
        return NULL;
    }
    t->command = c;
    t->owner = c->owner;
    pending_init(&t->base, api, x);
    return t;
}

static void submit(struct transfer *t, void (*take)(struct pending *p, struct event *e))
{
    struct command *c = t->command;

    t->command = NULL;
    t->base.take = take;
    if (pending_send(&t->base, c, &t->problem))
        return;
    pending_refuse(&t->base, &t->problem);
    finish(t);
}

/* A copy of the state, its file, and that file with other numbers. */
size_t download_weigh(const struct exchange *x, const void *app)
{
    const struct api *api = app;
    const size_t converted = exchange_query(x, "dtype") ? format_max_upload_bytes(api->model) : 0;

    return 2 * format_max_bytes(api->model) + converted + SEAL_BYTES;
}

/* The state that is made of the body, and between them a file with our numbers. */
size_t upload_weigh(const struct exchange *x, const void *app)
{
    const struct api *api = app;

    return format_max_bytes(api->model) * (exchange_query(x, "convert") ? 2 : 1);
}

static bool convert_download(struct transfer *t, const struct api *api)
{
    void *out;

    if (!t->convert)
        return true;
    if (!format_convert(t->file, t->len, &api->model->layout, t->dtype, &out, &t->len, &t->problem))
        return false;
    free(t->file);
    t->file = out;
    return true;
}

static void encode(struct pending *p)
{
    struct transfer *t = (struct transfer *)p;
    const struct secret *secret = p->api->state_key;

    t->encoded =
        format_encode(t->command->checkpoint, p->api->model, &t->file, &t->len, &t->problem) &&
        convert_download(t, p->api) &&
        (!secret || seal_add(secret, t->owner, &t->file, &t->len, &t->problem));
}

static void encoded(struct pending *p)
{
    struct transfer *t = (struct transfer *)p;
    struct text_buffer body = { t->file, t->len, t->len };

    t->file = NULL;
    if (t->encoded)
        pending_reply(p, "application/octet-stream", &body);
    else
        pending_refuse(p, &t->problem);
    free(body.bytes);
    finish(t);
}

static void take_exported(struct pending *p, struct event *e)
{
    struct transfer *t = (struct transfer *)p;

    if (e->kind != EVENT_ANSWER)
        return;
    t->command = e->command;
    if (!p->gone && t->command->problem.what == PROBLEM_NONE) {
        pending_work(p, encode, encoded);
        return;
    }
    pending_refuse(p, &t->command->problem);
    finish(t);
}

static void download(struct exchange *x, struct api *api, struct command *c)
{
    struct transfer *t = c ? create(api, x, c) : NULL;
    bool narrow;

    if (!t)
        return;
    if (!verb_choose(x, "dtype", "f32", "bf16", &narrow, &t->problem)) {
        pending_refuse(&t->base, &t->problem);
        finish(t);
        return;
    }
    t->convert = exchange_query(x, "dtype") != NULL;
    t->dtype = narrow ? DTYPE_BF16 : DTYPE_F32;
    submit(t, take_exported);
}

void session_state_get(struct exchange *x, void *app)
{
    download(x, app, verb_of_session(x, COMMAND_SESSION_EXPORT));
}

void snapshot_data(struct exchange *x, void *app)
{
    download(x, app, verb_of_snapshot(x, COMMAND_SNAPSHOT_EXPORT));
}

static void take_imported(struct pending *p, struct event *e)
{
    struct transfer *t = (struct transfer *)p;
    struct text_buffer body = { 0 };
    struct json_out out;

    if (e->kind != EVENT_ANSWER)
        return;
    t->command = e->command;
    if (t->command->problem.what != PROBLEM_NONE) {
        pending_refuse(p, &t->command->problem);
    } else {
        json_out_init(&out, &body);
        if (t->command->kind == COMMAND_SESSION_IMPORT)
            put_session(&out, &t->command->sessions[0], p->api->model_name);
        else
            put_snapshot(&out, &t->command->snapshots[0]);
        api_reply_json(p, &out);
    }
    finish(t);
}

/* Leaves the file without its seal. */
static bool break_seal(struct transfer *t)
{
    const struct api *api = t->base.api;
    uint64_t owner;
    bool sealed = seal_find(t->body, t->len, &owner);

    if (api->state_key && !sealed && !api->options->allow_unsealed)
        return problem_set(&t->problem, PROBLEM_SNAPSHOT_UNSEALED, NULL,
                           "the snapshot has no seal, and this server takes no other");
    if (api->state_key && sealed) {
        if (!seal_check(api->state_key, t->body, t->len, &t->problem))
            return false;
        if (owner != t->owner)
            return problem_set(&t->problem, PROBLEM_SNAPSHOT_OWNER, NULL,
                               "the snapshot was sealed for another owner");
    }
    t->len -= sealed ? SEAL_BYTES : 0;
    return true;
}

static void decode(struct pending *p)
{
    struct transfer *t = (struct transfer *)p;
    const void *file = t->body;
    struct format_info info;

    if (!break_seal(t))
        return;
    if (t->convert) {
        if (!format_check(file, t->len, &info, &t->problem) ||
            !format_adopt(file, t->len, &p->api->model->layout, &t->file, &t->len, &t->problem))
            return;
        file = t->file;
    }
    t->command->checkpoint = engine_decode(p->api->engine, file, t->len, &t->problem);
    if (t->problem.what == PROBLEM_NUMBERS_MISMATCH)
        problem_add(&t->problem, " (ask for ?convert=true)");
}

static void decoded(struct pending *p)
{
    struct transfer *t = (struct transfer *)p;

    if (pending_heard(p) && t->command->checkpoint) {
        submit(t, take_imported);
        return;
    }
    pending_refuse(p, &t->problem);
    finish(t);
}

/* The body stays where it is: an exchange that waits keeps it, even when its client left. */
static void upload(struct exchange *x, struct api *api, struct command *c)
{
    struct transfer *t = c ? create(api, x, c) : NULL;

    if (!t)
        return;
    if (!verb_choose(x, "convert", "false", "true", &t->convert, &t->problem)) {
        pending_refuse(&t->base, &t->problem);
        finish(t);
        return;
    }
    if (!repeats_begin(&t->base, true, &c->session)) {
        finish(t);
        return;
    }
    t->body = exchange_body(x, &t->len);
    pending_work(&t->base, decode, decoded);
}

void session_state_put(struct exchange *x, void *app)
{
    upload(x, app, verb_of_session(x, COMMAND_SESSION_IMPORT));
}

void snapshots_post(struct exchange *x, void *app)
{
    upload(x, app, verb_create(x, COMMAND_SNAPSHOT_IMPORT));
}
