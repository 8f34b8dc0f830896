/* api.h - the calls of the server, and what they share.
 *
 * One file per family of calls, each a set of route handlers. A handler reads its request
 * with params.h and either answers at once or becomes a struct pending that waits for the
 * engine. Loop thread only. */
#ifndef SERVER_API_API_H
#define SERVER_API_API_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "server/api/json_out.h"
#include "server/api/metrics.h"
#include "server/api/params.h"

struct api;
struct chat_template;
struct devices;
struct engine;
struct exchange;
struct http_server;
struct keys;
struct model_info;
struct options;
struct pending;
struct repeats;
struct secret;
struct tokenizer;

struct api {
    uv_loop_t *loop; /* everything is borrowed */
    /* NULL while the model is loaded, as are model, devices, tokenizer and model_name. */
    struct engine *engine;
    struct http_server *http;
    const struct options *options;
    const struct model_info *model;
    const struct devices *devices;
    const struct secret *state_key; /* NULL: states are not sealed */
    const struct keys *keys;        /* NULL: everybody may call */
    const struct tokenizer *tokenizer;
    const struct chat_template *template; /* NULL: chats are refused */
    const char *model_name;
    int64_t started; /* seconds since 1970 */
    bool draining;
    struct repeats *repeats;
    struct pending *pending; /* every request that waits, newest first */
    struct metrics metrics;
};

/* Chooses api->template by the option's name, "auto" by the tokenizer. ERR_INPUT: no such
 * template. */
bool api_choose_template(struct api *api, struct error *err);

/* Hands out every event of the engine, then flushes the streams that it moved. */
void api_pump(struct api *api);
/* Ends requests that are over their time. */
void api_check_deadlines(struct api *api, double now);
/* Ends every request that runs. */
void api_cancel_all(struct api *api);

/* What x's parameters are held against. */
struct params_context api_params(const struct api *api, const struct exchange *x);
void api_no_memory(struct exchange *x);
/* Sends what out wrote, or out_of_memory. */
void api_reply_json(struct pending *p, struct json_out *out);
void api_answer_json(struct exchange *x, int status, struct json_out *out);

/* Route handlers; app is the struct api. */
void completions_post(struct exchange *x, void *app);
void chat_post(struct exchange *x, void *app);

void sessions_post(struct exchange *x, void *app);
void sessions_list(struct exchange *x, void *app);
void session_get(struct exchange *x, void *app);
void session_delete(struct exchange *x, void *app);
void session_append(struct exchange *x, void *app);
void session_fork(struct exchange *x, void *app);
void session_restore(struct exchange *x, void *app);
void session_rollback(struct exchange *x, void *app);

void session_snapshot(struct exchange *x, void *app);
void session_snapshots(struct exchange *x, void *app);
void snapshots_list(struct exchange *x, void *app);
void snapshot_get(struct exchange *x, void *app);
void snapshot_delete(struct exchange *x, void *app);

void session_state_get(struct exchange *x, void *app);
void session_state_put(struct exchange *x, void *app);
void snapshot_data(struct exchange *x, void *app);
void snapshots_post(struct exchange *x, void *app);
/* The most bytes that they hold at once; an upload's beside its body. */
size_t download_weigh(const struct exchange *x, const void *app);
size_t upload_weigh(const struct exchange *x, const void *app);

void slots_list(struct exchange *x, void *app);
void slot_post(struct exchange *x, void *app);

void models_list(struct exchange *x, void *app);
void model_get(struct exchange *x, void *app);
void tokenize_post(struct exchange *x, void *app);
void detokenize_post(struct exchange *x, void *app);

void health_get(struct exchange *x, void *app);
void ready_get(struct exchange *x, void *app);
void version_get(struct exchange *x, void *app);
void metrics_get(struct exchange *x, void *app);

#endif
