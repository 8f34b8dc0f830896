/* completions.c - POST /v1/completions. */
#include "server/api/api.h"
#include "server/api/generation.h"
#include "server/http/http.h"

void completions_post(struct exchange *x, void *app)
{
    struct api *api = app;
    struct params_context context = api_params(api, x);
    struct generation *g = generation_create(api, x);
    struct problem problem;
    size_t len;
    const char *body = exchange_body(x, &len);

    if (!g)
        return;
    if (!params_completion(body, len, &context, &g->params, &problem))
        generation_refuse(g, &problem);
    else if (generation_begin(g))
        generation_start(g, &reply_completion);
}
