/* serve.c - eddy serve: listen, load, say so, serve until told to stop. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/log.h"
#include "config/options.h"
#include "kernels/backend.h"
#include "server/cli/cli.h"
#include "server/cli/load.h"
#include "server/engine/engine.h"
#include "server/server.h"

static enum log_level level_of(const char *name)
{
    static const char *const names[] = {
        [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warn", [LOG_ERROR] = "error"
    };
    int i = LOG_ERROR;

    while (i > LOG_DEBUG && strcmp(name, names[i]) != 0)
        i--;
    return (enum log_level)i;
}

/* 1.7 M, 900 k: three digits and a unit of a thousand each. */
static void scaled(char *text, size_t size, double n)
{
    static const char *const unit[] = { "", "k", "M", "G", "T" };
    size_t i = 0;

    for (; n >= 999.5 && i + 1 < sizeof(unit) / sizeof(unit[0]); i++)
        n /= 1000;
    snprintf(text, size, n < 9.95 && i > 0 ? "%.1f %s" : "%.0f %s", n, unit[i]);
}

/* 1.7 MB; or, where there is a log behind the state, 1.7 MB and 0.2 MB of log. */
static void name_slot(char *text, size_t size, const struct model_info *m)
{
    char state[32], log[32];

    scaled(state, sizeof(state), (double)m->layout.bytes);
    scaled(log, sizeof(log), (double)m->log_bytes);
    if (m->log_bytes)
        snprintf(text, size, "%sB and %sB of log", state, log);
    else
        snprintf(text, size, "%sB", state);
}

/* Where a device's memory goes. */
static void announce_memory(const struct options *o, const struct devices *devices, int number)
{
    const struct device *d = &devices->at[number];
    const struct model_info *m = model_info(d->model);
    const size_t left = d->backend->room(d->backend);
    char of[32] = "", weights[32], slot[96], slots[32], work[32], room[32];

    if (devices->count > 1)
        snprintf(of, sizeof(of), " of device %d", number);
    scaled(weights, sizeof(weights), (double)m->weight_bytes);
    name_slot(slot, sizeof(slot), m);
    scaled(slots, sizeof(slots), (double)model_slot_bytes(d->model) * o->slots);
    scaled(work, sizeof(work), (double)m->scratch_bytes);
    scaled(room, sizeof(room), (double)left);
    if (o->log_json)
        log_line(LOG_INFO, "memory", "device", d->backend->detail, "weights", weights, "slots",
                 slots, "workspace", work, "free", left ? room : "unknown", NULL);
    else
        printf("memory%s: %sB of weights, %d slots of %s are %sB, %sB of workspace%s%s%s\n", of,
               weights, o->slots, slot, slots, work, left ? ", " : "", left ? room : "",
               left ? "B left" : "");
    fflush(stdout);
}

static void announce(const struct options *o, const struct loaded *l, int port)
{
    const struct model_info *m = model_info(l->model);
    bool v6 = strchr(o->host, ':') != NULL;
    char url[256], parameters[32], state[32], devices[DEVICES_TEXT];

    devices_describe(&l->devices, devices, sizeof(devices));
    snprintf(url, sizeof(url), "http://%s%s%s:%d", v6 ? "[" : "", o->host, v6 ? "]" : "", port);
    if (o->log_json) { /* a machine reads: one event, no page of examples */
        log_line(LOG_INFO, "ready", "url", url, "model", l->name, "architecture", m->architecture,
                 "backend", l->backend->name, "devices", devices, NULL);
        return;
    }
    scaled(parameters, sizeof(parameters), (double)m->parameters);
    scaled(state, sizeof(state), (double)m->layout.bytes);
    printf("eddy is ready on %s (%s, %s, %s parameters, %sB of state per session, %s %s)\n\n"
           "A completion, a stream, and a session of two turns:\n\n"
           "  curl %s/v1/completions -H 'Content-Type: application/json' \\\n"
           "    -d '{\"prompt\":\"Once upon a time\",\"max_tokens\":60}'\n\n"
           "  curl -N %s/v1/completions -H 'Content-Type: application/json' \\\n"
           "    -d '{\"prompt\":\"Once upon a time\",\"max_tokens\":60,\"stream\":true}'\n\n"
           "  curl %s/v1/sessions -H 'Content-Type: application/json' -d '{\"id\":\"tale\"}'; \\\n"
           "  for text in 'Once upon a time' ' The next day'; do \\\n"
           "    curl %s/v1/completions -H 'Content-Type: application/json' \\\n"
           "      -d \"{\\\"session_id\\\":\\\"tale\\\",\\\"prompt\\\":\\\"$text\\\","
           "\\\"max_tokens\\\":40}\"; done\n\n",
           url, l->name, m->architecture, parameters, state, l->backend->name, devices, url, url,
           url, url);
    fflush(stdout);
}

static int fail(const struct error *err)
{
    fprintf(stderr, "eddy: %s\n", err->message);
    return err->code == ERR_NOMEM ? EXIT_FAILURE : EXIT_USAGE;
}

struct want {
    const struct options *options;
    struct loaded *loaded;
};

static bool load(void *arg, struct server_parts *to, struct error *err)
{
    const struct want *w = arg;
    const struct options *o = w->options;
    const struct model_options sizes = { .max_rows = o->row_budget,
                                         .max_logits = o->max_batch + ENGINE_SCORE_ROWS,
                                         .logs = true };

    if (!loaded_init(w->loaded, o, &sizes, o->max_batch, err))
        return false;
    *to = (struct server_parts){ &w->loaded->devices, w->loaded->tokenizer, w->loaded->name };
    return true;
}

static int serve(const struct options *o, struct loaded *l)
{
    struct want want = { o, l };
    struct error err = { 0 };
    struct server *server = server_open(o, &err);
    bool served;

    if (!server)
        return fail(&err);
    if (!server_load(server, load, &want, &err)) {
        server_close(server);
        return fail(&err);
    }
    announce(o, l, server_port(server));
    for (int i = 0; i < l->devices.count; i++)
        announce_memory(o, &l->devices, i);
    served = server_run(server);
    server_close(server);
    log_line(LOG_INFO, "stopped", NULL);
    return served ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Their values may be secrets. */
static void warn_of_strays(void)
{
    size_t at = 0;

    for (const char *entry; (entry = options_find_stray(&at));)
        log_note(LOG_WARN, "options", "%.*s is no option: it is ignored", (int)strcspn(entry, "="),
                 entry);
}

int cli_serve(const struct options *o)
{
    struct loaded l = { 0 };
    int code;

    log_configure(level_of(o->log_level), o->log_json);
    warn_of_strays();
    code = serve(o, &l);
    loaded_finish(&l);
    return code;
}
