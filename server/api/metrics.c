#include "server/api/metrics.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/text/text_buffer.h"
#include "server/api/api.h"
#include "server/engine/engine.h"
#include "server/http/http.h"

void metrics_count(struct metrics *m, const char *route, int status, double seconds, uint64_t bytes)
{
    int i = 0;

    m->requests++;
    m->request_seconds += seconds;
    m->response_bytes += bytes;
    while (i < m->rows && (m->row[i].status != status || strcmp(m->row[i].route, route) != 0))
        i++;
    if (i == METRICS_ROWS)
        return;
    if (i == m->rows)
        m->row[m->rows++] = (struct metrics_row){ .route = route, .status = status };
    m->row[i].count++;
}

struct page {
    struct text_buffer text;
    bool failed;
};

__attribute__((format(printf, 2, 3))) static void put(struct page *p, const char *fmt, ...)
{
    char line[512];
    va_list args;
    int len;

    va_start(args, fmt);
    len = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof(line) || !text_buffer_append(&p->text, line, (size_t)len))
        p->failed = true;
}

static void head(struct page *p, const char *name, const char *type, const char *help)
{
    put(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_count(struct page *p, const char *name, const char *help, uint64_t value)
{
    head(p, name, "counter", help);
    put(p, "%s %llu\n", name, (unsigned long long)value);
}

static void put_gauge(struct page *p, const char *name, const char *help, double value)
{
    head(p, name, "gauge", help);
    put(p, "%s %.15g\n", name, value);
}

/* label: `key="value"`, or "". */
static void put_buckets(struct page *p, const char *name, const char *label,
                        const struct engine_histogram *h)
{
    const char *comma = label[0] ? "," : "", *open = label[0] ? "{" : "",
               *close = label[0] ? "}" : "";
    uint64_t below = 0;

    for (int i = 0; i < ENGINE_BUCKETS; i++) {
        below += h->bucket[i];
        put(p, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, label, comma, engine_bucket_bound[i],
            (unsigned long long)below);
    }
    put(p, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, label, comma, (unsigned long long)h->count);
    put(p, "%s_sum%s%s%s %.9g\n", name, open, label, close, h->sum);
    put(p, "%s_count%s%s%s %llu\n", name, open, label, close, (unsigned long long)h->count);
}

static void put_histogram(struct page *p, const char *name, const char *help,
                          const struct engine_histogram *h)
{
    head(p, name, "histogram", help);
    put_buckets(p, name, "", h);
}

static void put_move(struct page *p, const char *from, const char *to, uint64_t n)
{
    put(p, "eddy_state_moves_total{from=\"%s\",to=\"%s\"} %llu\n", from, to, (unsigned long long)n);
}

static void put_tiers(struct page *p, const struct engine_counters *c)
{
    static const char restore[] = "eddy_restore_seconds";

    head(p, "eddy_tier_sessions", "gauge", "Sessions by where their state is, of a moment ago.");
    put(p, "eddy_tier_sessions{tier=\"device\"} %d\n", c->sessions_device);
    put(p, "eddy_tier_sessions{tier=\"host\"} %d\n", c->sessions_host);
    put(p, "eddy_tier_sessions{tier=\"disk\"} %d\n", c->sessions_store);
    put(p, "eddy_tier_sessions{tier=\"empty\"} %d\n", c->sessions_empty);
    head(p, "eddy_state_moves_total", "counter", "States moved between tiers.");
    put_move(p, "device", "device", c->moves.device_device);
    put_move(p, "device", "host", c->moves.device_host);
    put_move(p, "device", "disk", c->moves.device_store);
    put_move(p, "host", "disk", c->moves.host_store);
    put_move(p, "host", "device", c->moves.host_device);
    put_move(p, "disk", "device", c->moves.store_device);
    head(p, restore, "histogram", "From a free slot to a state in it, by the tier it came from.");
    put_buckets(p, restore, "tier=\"device\"", &c->from_device);
    put_buckets(p, restore, "tier=\"host\"", &c->from_host);
    put_buckets(p, restore, "tier=\"disk\"", &c->from_store);
    put_count(p, "eddy_turn_slices_total", "Times that a turn made room for one that waited.",
              c->slices);
}

static void put_store(struct page *p, const struct engine_counters *c)
{
    put_count(p, "eddy_disk_operations_total", "Changes written to the state folder.",
              c->store_ops);
    put_count(p, "eddy_disk_failures_total", "Changes that could not be.", c->store_failed);
    put_count(p, "eddy_disk_commits_total", "Batches in which they were written.",
              c->store_commits);
    put_count(p, "eddy_disk_reports_total",
              "Damaged, lost, foreign or unsynced states that the log tells of.", c->store_reports);
    put_gauge(p, "eddy_disk_waiting", "Changes on their way to the state folder.",
              c->store_waiting);
}

static void put_redis(struct page *p, const struct redis_counts *c)
{
    put_count(p, "eddy_redis_operations_total", "Questions and changes that Redis answered.",
              c->ops);
    put_count(p, "eddy_redis_failures_total", "Those that it could not do, or not in time.",
              c->failed);
    put_count(p, "eddy_redis_busy_total", "Turns refused for another server's on the session.",
              c->busy);
    put_count(p, "eddy_redis_lost_total", "Leases that another server took over.", c->lost);
    put_count(p, "eddy_redis_connections_total", "Connections made.", c->connects);
    put_count(p, "eddy_redis_sent_bytes_total", "Bytes of states sent.", c->sent);
    put_count(p, "eddy_redis_received_bytes_total", "Bytes of states fetched.", c->received);
    put_gauge(p, "eddy_redis_leases", "Sessions that this server may move now.", c->leases);
    put_gauge(p, "eddy_redis_waiting", "Questions and changes on their way.", c->waiting);
    put_gauge(p, "eddy_redis_up", "Redis serves.", !c->away);
}

static void put_devices(struct page *p, const struct engine_counters *c)
{
    head(p, "eddy_device_slots_used", "gauge",
         "State slots in use on each device of --device, by turns and by states that wait.");
    for (int i = 0; i < c->devices; i++) {
        put(p, "eddy_device_slots_used{device=\"%d\",by=\"turn\"} %d\n", i, c->device[i].worked);
        put(p, "eddy_device_slots_used{device=\"%d\",by=\"state\"} %d\n", i, c->device[i].resident);
    }
}

static void put_engine(struct page *p, const struct engine_counters *c)
{
    put_gauge(p, "eddy_turns_running", "Sequences that are being computed.", c->running);
    put_gauge(p, "eddy_turns_queued", "Turns that wait for a state slot.", c->queued);
    put_gauge(p, "eddy_batch_sequences", "Sequences in the newest step.", c->batch);
    put_gauge(p, "eddy_sessions", "Sessions alive.", c->sessions);
    put_gauge(p, "eddy_snapshots", "Snapshots kept.", c->snapshots);
    put_gauge(p, "eddy_slots", "State slots on all devices.", c->slots);
    put_gauge(p, "eddy_slots_used", "State slots in use.", c->slots_used);
    put_devices(p, c);
    head(p, "eddy_state_bytes", "gauge", "Bytes of states by tier.");
    put(p, "eddy_state_bytes{tier=\"device\"} %zu\n", c->device_bytes);
    put(p, "eddy_state_bytes{tier=\"host\"} %zu\n", c->host_bytes);
    put(p, "eddy_state_bytes{tier=\"disk\"} %llu\n", (unsigned long long)c->store_bytes);
    put_gauge(p, "eddy_anchor_states", "States on disk that only serve to go back to them.",
              (double)c->anchors);
    put_gauge(p, "eddy_anchor_bytes", "Bytes of those.", (double)c->anchor_bytes);
    put_count(p, "eddy_anchor_states_dropped_total", "Those that made way for others.",
              c->anchors_dropped);
    put_tiers(p, c);
    put_gauge(p, "eddy_session_state_bytes", "Bytes of one session's state.",
              (double)c->state_bytes);
    put_count(p, "eddy_prompt_tokens_total", "Prompt tokens taken in.", c->prompt_tokens);
    put_count(p, "eddy_cached_tokens_total", "Context tokens that a state spared.",
              c->cached_tokens);
    put_count(p, "eddy_prefix_lookups_total", "Turns that began a context and asked for states.",
              c->prefix_lookups);
    put_count(p, "eddy_prefix_hits_total", "Of those, the ones that found one.", c->prefix_hits);
    put_gauge(p, "eddy_prefix_index_bytes", "Bytes of the index of contexts.",
              (double)c->prefix_bytes);
    put_gauge(p, "eddy_spare_states", "States kept only to spare work.", c->spares);
    put_count(p, "eddy_spare_states_dropped_total", "Spare states dropped for want of room.",
              c->spares_dropped);
    put_count(p, "eddy_rollbacks_total", "Sessions that went back.", c->rollbacks);
    put_count(p, "eddy_replayed_tokens_total", "Tokens taken in again to go back.",
              c->replayed_tokens);
    put_count(p, "eddy_completion_tokens_total", "Tokens drawn.", c->completion_tokens);
    put_count(p, "eddy_steps_total", "Forward steps.", c->steps);
    put_count(p, "eddy_rows_total", "Tokens that went through a forward step.", c->rows);
    put_store(p, c);
    if (c->shared)
        put_redis(p, &c->redis);
    put_count(p, "eddy_slots_zeroed_total", "Slots cleared for a new state.", c->slots_zeroed);
    head(p, "eddy_turns_total", "counter", "Turns by their end.");
    put(p, "eddy_turns_total{end=\"finished\"} %llu\n", (unsigned long long)c->turns_finished);
    put(p, "eddy_turns_total{end=\"failed\"} %llu\n", (unsigned long long)c->turns_failed);
    put(p, "eddy_turns_total{end=\"cancelled\"} %llu\n", (unsigned long long)c->turns_cancelled);
    put_histogram(p, "eddy_first_token_seconds", "From a turn's arrival to its first token.",
                  &c->first_token);
    put_histogram(p, "eddy_between_tokens_seconds", "From one token of a turn to the next.",
                  &c->between_tokens);
    put_histogram(p, "eddy_step_seconds", "A forward step.", &c->step);
}

static void put_requests(struct page *p, const struct metrics *m)
{
    head(p, "eddy_requests_total", "counter", "Requests answered; status 499: the client left.");
    for (int i = 0; i < m->rows; i++)
        put(p, "eddy_requests_total{route=\"%s\",status=\"%d\"} %llu\n", m->row[i].route,
            m->row[i].status, (unsigned long long)m->row[i].count);
    head(p, "eddy_request_seconds", "summary", "From a request's first byte to its answer.");
    put(p, "eddy_request_seconds_sum %.9g\neddy_request_seconds_count %llu\n", m->request_seconds,
        (unsigned long long)m->requests);
    put_count(p, "eddy_response_bytes_total", "Bytes of answers.", m->response_bytes);
}

static void put_connections(struct page *p, const struct http_counts *c)
{
    put_gauge(p, "eddy_connections", "Connections open.", (double)c->connections);
    put_count(p, "eddy_connections_accepted_total", "Connections accepted.", c->accepted);
    put_count(p, "eddy_connections_refused_total", "Connections over the limit.", c->refused);
    put_gauge(p, "eddy_transfer_bytes", "Bytes set aside for states on their way.",
              (double)c->transfer_bytes);
    put_count(p, "eddy_transfers_refused_total", "Downloads and uploads of states over the limit.",
              c->transfers_refused);
}

void metrics_get(struct exchange *x, void *app)
{
    struct api *api = app;
    struct http_counts counts = http_server_counts(api->http);
    struct page page = { 0 };

    head(&page, "eddy_build_info", "gauge", "What is running.");
    put(&page, "eddy_build_info{version=\"%s\"} 1\n", EDDY_VERSION);
    put_requests(&page, &api->metrics);
    put_connections(&page, &counts);
    if (api->engine) {
        const struct engine_counters counters = engine_counters(api->engine);

        put_engine(&page, &counters);
    }
    if (page.failed) {
        free(page.text.bytes);
        api_no_memory(x);
        return;
    }
    exchange_reply_take(x, 200, "text/plain; version=0.0.4; charset=utf-8", page.text.bytes,
                        page.text.len);
}
