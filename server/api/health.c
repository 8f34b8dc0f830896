/* health.c - /health, /ready and /version.
 *
 * Health is about being alive: it fails when the engine's thread has stopped (engine_is_well()),
 * however well this thread still answers. Readiness is about taking new work: it fails while the
 * model is loaded and while the server drains. */
#include "models/model.h"
#include "server/api/api.h"
#include "server/clock.h"
#include "server/engine/engine.h"
#include "server/http/http.h"

static void answer_status(struct exchange *x, int status, const char *word)
{
    struct text_buffer body = { 0 };
    struct json_out out;

    json_out_init(&out, &body);
    json_open(&out, '{');
    json_key(&out, "status");
    json_string(&out, word);
    json_close(&out, '}');
    api_answer_json(x, status, &out);
}

void health_get(struct exchange *x, void *app)
{
    struct engine_counters counters;
    struct api *api = app;

    if (!api->engine) {
        answer_status(x, 200, "loading");
        return;
    }
    counters = engine_counters(api->engine);
    if (engine_is_well(&counters, clock_seconds()))
        answer_status(x, 200, "ok");
    else
        answer_status(x, 503, "stalled");
}

void ready_get(struct exchange *x, void *app)
{
    const struct api *api = app;

    if (!api->engine)
        answer_status(x, 503, "loading");
    else if (api->draining)
        answer_status(x, 503, "draining");
    else
        answer_status(x, 200, "ready");
}

void version_get(struct exchange *x, void *app)
{
    const struct api *api = app;
    struct text_buffer body = { 0 };
    struct json_out out;

    json_out_init(&out, &body);
    json_open(&out, '{');
    json_key(&out, "version");
    json_string(&out, EDDY_VERSION);
    if (api->engine) {
        json_key(&out, "model");
        json_string(&out, api->model_name);
        json_key(&out, "architecture");
        json_string(&out, api->model->architecture);
    }
    json_close(&out, '}');
    api_answer_json(x, 200, &out);
}
