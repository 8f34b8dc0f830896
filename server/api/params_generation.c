/* params_generation.c - what /v1/completions, /v1/chat/completions and append take.
 *
 * Two tables share the rows of SHARED_ROWS; what one field alone cannot tell is checked
 * afterwards, in check_turn() and its callers. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/entity_tags.h"
#include "server/api/params.h"
#include "server/api/params_internal.h"

static bool refuse(struct problem *p, const char *param, const char *message)
{
    return problem_set(p, PROBLEM_INVALID_PARAMETER, param, "%s", message);
}

static bool add_stop(struct turn *t, const cJSON *v, struct problem *p)
{
    size_t len = cJSON_IsString(v) ? strlen(v->valuestring) : 0;

    if (len < 1 || len > LIMIT_STOP_BYTES)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "stop",
                           "a stop string must have 1 to %d bytes", LIMIT_STOP_BYTES);
    memcpy(t->stop[t->stops++], v->valuestring, len + 1);
    return true;
}

static bool read_stop(const cJSON *v, void *target, const struct params_context *c,
                      struct problem *p)
{
    struct generation_params *g = target;
    int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : 1;
    const cJSON *item;

    (void)c;
    if (!cJSON_IsString(v) && !cJSON_IsArray(v))
        return refuse(p, "stop", "stop must be a string or a list of strings");
    if (n > LIMIT_STOP_STRINGS)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "stop",
                           "stop must not have more than %d strings", LIMIT_STOP_STRINGS);
    g->turn.stop = calloc((size_t)n + 1, sizeof(*g->turn.stop));
    if (!g->turn.stop)
        return params_no_memory(p);
    if (cJSON_IsString(v))
        return add_stop(&g->turn, v, p);
    cJSON_ArrayForEach(item, v)
    {
        if (!add_stop(&g->turn, item, p))
            return false;
    }
    return true;
}

static bool read_stop_ids(const cJSON *v, void *target, const struct params_context *c,
                          struct problem *p)
{
    struct generation_params *g = target;
    size_t n;

    if (!params_ids(v, "stop_token_ids", c, &g->turn.stop_id, &n, p))
        return false;
    if (n > LIMIT_STOP_IDS)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "stop_token_ids",
                           "stop_token_ids must not have more than %d ids", LIMIT_STOP_IDS);
    g->turn.stop_ids = (int)n;
    return true;
}

/* Plain decimal digits: "0x1", "-1", " 1" and "01" are nobody's token. */
static bool read_bias_id(const char *key, int vocab, int32_t *id)
{
    int64_t n = 0;

    if (!*key || (key[0] == '0' && key[1]))
        return false;
    for (const char *d = key; *d; d++) {
        if (*d < '0' || *d > '9' || n >= vocab)
            return false;
        n = n * 10 + (*d - '0');
    }
    *id = (int32_t)n;
    return n < vocab;
}

static bool read_logit_bias(const cJSON *v, void *target, const struct params_context *c,
                            struct problem *p)
{
    struct generation_params *g = target;
    struct sampling *s = &g->turn.sampling;
    const cJSON *item;

    if (!cJSON_IsObject(v) || cJSON_GetArraySize(v) > LIMIT_LOGIT_BIASES)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "logit_bias",
                           "logit_bias must be an object of at most %d entries",
                           LIMIT_LOGIT_BIASES);
    s->bias = calloc((size_t)cJSON_GetArraySize(v) + 1, sizeof(*s->bias));
    if (!s->bias)
        return params_no_memory(p);
    cJSON_ArrayForEach(item, v)
    {
        struct bias *b = &s->bias[s->biases];

        if (!read_bias_id(item->string, c->vocab, &b->id))
            return problem_set(p, PROBLEM_INVALID_PARAMETER, "logit_bias",
                               "a key of logit_bias must be a token id below %d", c->vocab);
        if (!cJSON_IsNumber(item) || !(fabs(item->valuedouble) <= 100))
            return refuse(p, "logit_bias", "a value of logit_bias must be from -100 to 100");
        b->value = (float)item->valuedouble;
        s->biases++;
    }
    return true;
}

static bool read_stream_options(const cJSON *v, void *target, const struct params_context *c,
                                struct problem *p)
{
    static const struct param table[] = { { "include_usage", PARAM_BOOL,
                                            .offset =
                                                offsetof(struct generation_params, include_usage) },
                                          { "include_obfuscation", PARAM_IGNORED, .offset = 0 },
                                          { 0 } };

    if (!cJSON_IsObject(v))
        return refuse(p, "stream_options", "stream_options must be an object");
    return params_read(v, table, target, c, p);
}

static bool read_cache(const cJSON *v, void *target, const struct params_context *c,
                       struct problem *p)
{
    struct generation_params *g = target;

    (void)c;
    if (!cJSON_IsBool(v))
        return refuse(p, "cache", "cache must be true or false");
    g->turn.no_cache = cJSON_IsFalse(v);
    return true;
}

static bool read_skip_special(const cJSON *v, void *target, const struct params_context *c,
                              struct problem *p)
{
    struct generation_params *g = target;

    (void)c;
    if (!cJSON_IsBool(v))
        return refuse(p, "skip_special_tokens", "skip_special_tokens must be true or false");
    g->turn.special = cJSON_IsFalse(v);
    return true;
}

static bool read_response_format(const cJSON *v, void *target, const struct params_context *c,
                                 struct problem *p)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(v, "type");

    (void)target;
    (void)c;
    if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0)
        return refuse(p, "response_format", "only a response_format of type \"text\" is supported");
    return true;
}

static bool read_modalities(const cJSON *v, void *target, const struct params_context *c,
                            struct problem *p)
{
    const cJSON *only = cJSON_IsArray(v) ? v->child : NULL;

    (void)target;
    (void)c;
    if (!only || only->next || !cJSON_IsString(only) || strcmp(only->valuestring, "text") != 0)
        return refuse(p, "modalities", "the only modality is \"text\"");
    return true;
}

static bool read_tool_choice(const cJSON *v, void *target, const struct params_context *c,
                             struct problem *p)
{
    (void)target;
    (void)c;
    if (!cJSON_IsString(v) || strcmp(v->valuestring, "none") != 0)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, v->string,
                           "%s must be \"none\": tools are not supported", v->string);
    return true;
}

static struct prompt text_prompt(const cJSON *v)
{
    return (struct prompt){ .text = v->valuestring, .len = strlen(v->valuestring) };
}

static bool read_ids_prompt(const cJSON *v, struct generation_params *g,
                            const struct params_context *c, struct problem *p)
{
    struct prompt *to = &g->prompt[g->prompts];

    if (!params_ids(v, "prompt", c, &to->id, &to->ids, p))
        return false;
    g->prompts++;
    return true;
}

/* A string, a list of strings, a list of ids, or a list of lists of ids. */
static bool read_prompt(const cJSON *v, void *target, const struct params_context *c,
                        struct problem *p)
{
    struct generation_params *g = target;
    bool many = cJSON_IsArray(v) && v->child && !cJSON_IsNumber(v->child);
    int n = many ? cJSON_GetArraySize(v) : 1;
    const cJSON *item;

    if (!cJSON_IsString(v) && !(cJSON_IsArray(v) && v->child))
        return refuse(p, "prompt",
                      "prompt must be a string, or a list of strings, of token ids "
                      "or of lists of token ids, and not an empty list");
    if (n > LIMIT_PROMPTS)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "prompt",
                           "prompt must not have more than %d items", LIMIT_PROMPTS);
    g->prompt = calloc((size_t)n, sizeof(*g->prompt));
    if (!g->prompt)
        return params_no_memory(p);
    if (!many) {
        if (cJSON_IsArray(v))
            return read_ids_prompt(v, g, c, p);
        g->prompt[g->prompts++] = text_prompt(v);
        return true;
    }
    cJSON_ArrayForEach(item, v)
    {
        if (item->type != v->child->type)
            return refuse(p, "prompt", "the items of prompt must be of one kind");
        if (cJSON_IsString(item))
            g->prompt[g->prompts++] = text_prompt(item);
        else if (!read_ids_prompt(item, g, c, p))
            return false;
    }
    return true;
}

#define AT(field) offsetof(struct generation_params, field)
#define IGNORED(key)                                                                               \
    {                                                                                              \
        key, PARAM_IGNORED, .offset = 0                                                            \
    }
#define REFUSED(key)                                                                               \
    {                                                                                              \
        key, PARAM_REFUSED, .offset = 0                                                            \
    }
#define READ(key, function)                                                                        \
    {                                                                                              \
        key, PARAM_READ, .read = (function)                                                        \
    }

#define SHARED_ROWS                                                                                \
    READ("model", params_read_model), { "session_id", PARAM_ID, .offset = AT(session) },           \
        { "expected_version",                                                                      \
          PARAM_U64,                                                                               \
          0,                                                                                       \
          PARAM_EXACT,                                                                             \
          .offset = AT(expected_version),                                                          \
          .has = AT(has_expected_version) },                                                       \
        { "max_tokens",                                                                            \
          PARAM_INT,                                                                               \
          0,                                                                                       \
          INT32_MAX,                                                                               \
          .offset = AT(turn.max_tokens),                                                           \
          .has = AT(has_max_tokens) },                                                             \
        { "n", PARAM_INT, 1, LIMIT_CHOICES, .offset = AT(turn.choices) },                          \
        { "stream", PARAM_BOOL, .offset = AT(stream) },                                            \
        READ("stream_options", read_stream_options),                                               \
        { "min_tokens", PARAM_INT, 0, INT32_MAX, .offset = AT(turn.min_tokens) },                  \
        { "temperature", PARAM_FLOAT, 0, 10, .offset = AT(turn.sampling.temperature) },            \
        { "top_k", PARAM_INT, -1, INT32_MAX, .offset = AT(turn.sampling.top_k) },                  \
        { "top_p", PARAM_FLOAT, 0, 1, .offset = AT(turn.sampling.top_p), .above = true },          \
        { "min_p", PARAM_FLOAT, 0, 1, .offset = AT(turn.sampling.min_p) },                         \
        { "typical_p", PARAM_FLOAT, 0, 1, .offset = AT(turn.sampling.typical_p), .above = true },  \
        { "repetition_penalty", PARAM_FLOAT, 0, 10, .offset = AT(turn.sampling.repetition),        \
          .above = true },                                                                         \
        { "presence_penalty", PARAM_FLOAT, -2, 2, .offset = AT(turn.sampling.presence) },          \
        { "frequency_penalty", PARAM_FLOAT, -2, 2, .offset = AT(turn.sampling.frequency) },        \
        { "penalty_decay", PARAM_FLOAT, 0, 1, .offset = AT(turn.sampling.penalty_decay) },         \
        { "seed",                                                                                  \
          PARAM_U64,                                                                               \
          0,                                                                                       \
          PARAM_EXACT,                                                                             \
          .offset = AT(turn.sampling.seed),                                                        \
          .has = AT(turn.sampling.seeded) },                                                       \
        READ("logit_bias", read_logit_bias), READ("stop", read_stop),                              \
        READ("stop_token_ids", read_stop_ids),                                                     \
        { "ignore_eos", PARAM_BOOL, .offset = AT(turn.ignore_eos) },                               \
        { "commit_partial", PARAM_BOOL, .offset = AT(turn.commit_partial) },                       \
        READ("cache", read_cache), READ("skip_special_tokens", read_skip_special),                 \
        READ("response_format", read_response_format), IGNORED("user"), IGNORED("store"),          \
        IGNORED("metadata"), IGNORED("service_tier"), IGNORED("prompt_cache_key"),                 \
        IGNORED("prompt_cache_retention"), IGNORED("safety_identifier")

static const struct param completion_table[] = {
    SHARED_ROWS,
    READ("prompt", read_prompt),
    { "echo", PARAM_BOOL, .offset = AT(echo) },
    { "logprobs", PARAM_INT, 0, LIMIT_LOGPROBS, .offset = AT(turn.logprobs) },
    { "best_of", PARAM_INT, 0, LIMIT_CHOICES, .offset = AT(best_of), .has = AT(has_best_of) },
    REFUSED("suffix"),
    { 0 }
};

static const struct param chat_table[] = {
    SHARED_ROWS,
    READ("messages", params_read_messages),
    { "max_completion_tokens", PARAM_INT, 0, INT32_MAX, .offset = AT(chat_max_tokens) },
    { "logprobs", PARAM_BOOL, .offset = AT(chat_logprobs) },
    { "top_logprobs", PARAM_INT, 0, LIMIT_LOGPROBS, .offset = AT(top_logprobs) },
    READ("modalities", read_modalities),
    READ("tool_choice", read_tool_choice),
    READ("function_call", read_tool_choice),
    IGNORED("parallel_tool_calls"),
    REFUSED("tools"),
    REFUSED("functions"),
    REFUSED("audio"),
    REFUSED("prediction"),
    REFUSED("web_search_options"),
    { 0 }
};

/* X-Session-Id and If-Match, which may stand in for body fields but not contradict them, and
 * If-None-Match. */
static bool read_headers(struct generation_params *g, const struct params_context *c,
                         struct problem *p)
{
    struct id id;

    if (c->session_header) {
        if (!id_parse(&id, c->session_header))
            return refuse(p, "X-Session-Id", "X-Session-Id is not a session id");
        if (g->session.text[0] && !id_equal(&id, &g->session))
            return refuse(p, "session_id", "session_id and X-Session-Id differ");
        g->session = id;
    }
    if (!entity_tags_if_match(c->match_header, &g->expected, p) ||
        !entity_tags_if_none_match(c->none_header, &g->unwanted, p))
        return false;
    if (!g->has_expected_version)
        return true;
    if (g->expected.given && !version_set_has(&g->expected, g->expected_version))
        return refuse(p, "expected_version", "expected_version and If-Match differ");
    g->expected = version_set_of(g->expected_version);
    return true;
}

/* What no field can tell alone. */
static bool check_turn(struct generation_params *g, const struct params_context *c,
                       struct problem *p)
{
    struct turn *t = &g->turn;

    if (!read_headers(g, c, p))
        return false;
    if (t->max_tokens > c->max_tokens)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "max_tokens",
                           "max_tokens must not be above this server's limit of %d", c->max_tokens);
    if (t->min_tokens > t->max_tokens)
        return refuse(p, "min_tokens", "min_tokens must not be above max_tokens");
    if (t->sampling.top_k < 0) /* vLLM's way to say off */
        t->sampling.top_k = 0;
    if (!g->session.text[0] && g->expected.given && !g->expected.all)
        return refuse(p, "expected_version", "expected_version needs a session_id");
    if (!g->session.text[0] && t->commit_partial)
        return refuse(p, "commit_partial", "commit_partial needs a session_id");
    if (g->session.text[0] && t->choices != 1)
        return refuse(p, "n", "a session has one future: n must be 1 (fork it first)");
    if (g->session.text[0] && g->prompts > 1)
        return refuse(p, "prompt", "a session takes one prompt at a time");
    if (g->prompts * t->choices > LIMIT_CHOICES)
        return problem_set(p, PROBLEM_INVALID_PARAMETER, "n",
                           "prompts times n must not be above %d", LIMIT_CHOICES);
    return true;
}

static bool begin(const char *body, size_t len, const struct param *table, int max_tokens,
                  const struct params_context *c, struct generation_params *g, struct problem *p)
{
    *g = (struct generation_params){ .body_len = len, .chat_max_tokens = -1 };
    g->turn.choices = 1;
    g->turn.max_tokens = max_tokens;
    g->turn.logprobs = -1;
    g->turn.sampling = (struct sampling){
        .temperature = 1, .top_p = 1, .typical_p = 1, .repetition = 1, .penalty_decay = 1
    };
    g->json = params_parse(body, len, p);
    return g->json && params_read(g->json, table, g, c, p);
}

/* A session goes on where it is. */
static bool go_on_without(struct generation_params *g, const struct params_context *c,
                          struct problem *p)
{
    if (!g->session.text[0] && !c->session_header)
        return problem_set(p, PROBLEM_MISSING_PARAMETER, "prompt", "prompt is required");
    g->prompt = calloc(1, sizeof(*g->prompt));
    if (!g->prompt)
        return params_no_memory(p);
    g->prompt[g->prompts++] = (struct prompt){ .text = "" };
    return true;
}

bool params_completion(const char *body, size_t len, const struct params_context *c,
                       struct generation_params *g, struct problem *p)
{
    if (!begin(body, len, completion_table, 16, c, g, p))
        return false;
    if (!g->has_max_tokens && c->max_tokens < g->turn.max_tokens)
        g->turn.max_tokens = c->max_tokens;
    if (!g->prompt && !go_on_without(g, c, p))
        return false;
    if (g->has_best_of && g->best_of != g->turn.choices)
        return refuse(p, "best_of", "best_of must equal n: nothing is drawn and thrown away");
    g->turn.score = g->echo && g->turn.logprobs >= 0;
    return check_turn(g, c, p);
}

bool params_chat(const char *body, size_t len, const struct params_context *c,
                 struct generation_params *g, struct problem *p)
{
    int usual = c->max_tokens < 1024 ? c->max_tokens : 1024;

    if (!begin(body, len, chat_table, usual, c, g, p))
        return false;
    if (g->chat_max_tokens >= 0)
        g->turn.max_tokens = g->chat_max_tokens;
    if (!g->message)
        return problem_set(p, PROBLEM_MISSING_PARAMETER, "messages", "messages is required");
    if (g->top_logprobs > 0 && !g->chat_logprobs)
        return refuse(p, "top_logprobs", "top_logprobs needs logprobs to be true");
    if (g->chat_logprobs)
        g->turn.logprobs = g->top_logprobs;
    g->turn.chat = true;
    return check_turn(g, c, p);
}

static bool read_append_ids(const cJSON *v, void *target, const struct params_context *c,
                            struct problem *p)
{
    struct generation_params *g = target;

    if (g->prompt)
        return refuse(p, "ids", "either text or ids, not both");
    g->prompt = calloc(1, sizeof(*g->prompt));
    if (!g->prompt)
        return params_no_memory(p);
    g->prompts = 1;
    return params_ids(v, "ids", c, &g->prompt->id, &g->prompt->ids, p);
}

static bool read_append_text(const cJSON *v, void *target, const struct params_context *c,
                             struct problem *p)
{
    struct generation_params *g = target;

    if (!cJSON_IsString(v))
        return refuse(p, "text", "text must be a string");
    if (g->prompt)
        return refuse(p, "text", "either text or ids, not both");
    return read_prompt(v, target, c, p);
}

static const struct param append_table[] = { READ("text", read_append_text),
                                             READ("ids", read_append_ids),
                                             READ("cache", read_cache),
                                             { "expected_version", PARAM_U64, 0, PARAM_EXACT,
                                               .offset = AT(expected_version),
                                               .has = AT(has_expected_version) },
                                             { 0 } };

bool params_append(const char *body, size_t len, const struct params_context *c,
                   struct generation_params *g, struct problem *p)
{
    if (!begin(body, len, append_table, 0, c, g, p))
        return false;
    if (!g->prompt)
        return problem_set(p, PROBLEM_MISSING_PARAMETER, "text", "text or ids is required");
    return read_headers(g, c, p);
}

void generation_params_finish(struct generation_params *g)
{
    for (int i = 0; i < g->prompts; i++)
        free(g->prompt[i].id);
    free(g->prompt);
    free(g->message);
    free(g->joined);
    free(g->turn.sampling.bias);
    free(g->turn.stop);
    free(g->turn.stop_id);
    cJSON_Delete(g->json);
    *g = (struct generation_params){ 0 };
}
