/* models.c - GET /v1/models and /v1/models/{id}: the one model that is served. */
#include <string.h>

#include "kernels/backend.h"
#include "models/model.h"
#include "models/text/tokenizer.h"
#include "server/api/api.h"
#include "server/devices.h"
#include "server/http/http.h"

static void put_model(const struct api *api, struct json_out *o)
{
    const struct model_info *m = api->model;
    char devices[DEVICES_TEXT];

    json_open(o, '{');
    json_key(o, "id");
    json_string(o, api->model_name);
    json_key(o, "object");
    json_string(o, "model");
    json_key(o, "created");
    json_int(o, api->started);
    json_key(o, "owned_by");
    json_string(o, "eddy");
    json_key(o, "architecture");
    json_string(o, m->architecture);
    json_key(o, "parameters");
    json_uint(o, m->parameters);
    json_key(o, "weight_bytes");
    json_uint(o, m->weight_bytes);
    json_key(o, "dtype");
    json_string(o, dtype_name(m->dtype));
    json_key(o, "vocab");
    json_int(o, tokenizer_size(api->tokenizer));
    json_key(o, "tokenizer");
    json_string(o, tokenizer_kind(api->tokenizer));
    json_key(o, "context");
    json_string(o, "unbounded");
    json_key(o, "state_bytes");
    json_uint(o, m->layout.bytes);
    json_key(o, "backend");
    json_string(o, api->devices->at[0].backend->name);
    json_key(o, "backend_detail");
    devices_describe(api->devices, devices, sizeof(devices));
    json_string(o, devices);
    json_key(o, "devices");
    json_int(o, api->devices->count);
    json_key(o, "fingerprint");
    json_hex(o, m->fingerprint, sizeof(m->fingerprint));
    json_close(o, '}');
}

void models_list(struct exchange *x, void *app)
{
    struct text_buffer body = { 0 };
    struct json_out out;

    json_out_init(&out, &body);
    json_open(&out, '{');
    json_key(&out, "object");
    json_string(&out, "list");
    json_key(&out, "data");
    json_open(&out, '[');
    put_model(app, &out);
    json_close(&out, ']');
    json_close(&out, '}');
    api_answer_json(x, 200, &out);
}

void model_get(struct exchange *x, void *app)
{
    const struct api *api = app;
    struct text_buffer body = { 0 };
    struct json_out out;
    struct problem problem;

    if (strcmp(exchange_param(x, "id"), api->model_name) != 0) {
        problem_set(&problem, PROBLEM_MODEL_NOT_FOUND, NULL,
                    "there is no such model here; this server serves \"%s\"", api->model_name);
        exchange_refuse(x, &problem);
        return;
    }
    json_out_init(&out, &body);
    put_model(api, &out);
    api_answer_json(x, 200, &out);
}
