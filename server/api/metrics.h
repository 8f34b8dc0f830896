/* metrics.h - counts of answered requests by route and status, for GET /metrics.
 *
 * The engine keeps its own counters (engine.h); the two are printed together in Prometheus'
 * text form. Sessions, clients and paths never become labels. Loop thread only. */
#ifndef SERVER_API_METRICS_H
#define SERVER_API_METRICS_H

#include <stdint.h>

enum { METRICS_ROWS = 512 }; /* routes times the statuses that a route gives in practice */

struct metrics_row {
    const char *route; /* a pattern of the route table, borrowed; "" for none */
    int status;
    uint64_t count;
};

struct metrics {
    struct metrics_row row[METRICS_ROWS];
    int rows;
    uint64_t requests, response_bytes;
    double request_seconds;
};

/* One answered request; a pair beyond METRICS_ROWS only counts in the totals. */
void metrics_count(struct metrics *m, const char *route, int status, double seconds,
                   uint64_t bytes);

#endif
