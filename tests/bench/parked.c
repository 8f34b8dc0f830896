/* parked - what sessions cost that nobody talks to: start-up, memory, and waking one up.
 *
 *   parked DIR MODEL SESSIONS ORIGINS TURNS
 *
 * Leads ORIGINS sessions through a turn each, forks them until there are SESSIONS, and stops
 * the server; forks share the file of their origin's state. A folder that is there already is
 * taken as it is. Then new servers take the folder
 * over: as after a crash, when each file is looked at, and after one that closed it in order,
 * with nothing in the page cache (where this process may empty it) and with all of it. Reported
 * are the time until each is ready, the memory of the last, both beside those of one with an
 * empty folder, and what a client waits for the first token of TURNS random sessions, once with
 * the files in the page cache and once without. $EDDY is the server. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"

enum { FORKS = 256 };

struct plan {
    const char *dir, *model;
    int sessions, origins, turns;
};

static struct plan plan;
static uint64_t random_state = 88172645463325252u;

static uint64_t below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static void start(struct live *l, const char *dir, const char *durability)
{
    char most[32];

    snprintf(most, sizeof(most), "%d", plan.sessions + FORKS);
    live_start(l, plan.model, "--state-dir", dir, "--durability", durability, "--slots", "4",
               "--host-memory", "16M", "--disk-space", "1T", "--max-sessions", most, NULL);
}

static cJSON *post(struct client *c, const char *path, const char *body)
{
    struct response r;

    assert_true(client_ask(c, "POST", path, NULL, body, strlen(body)));
    assert_true(client_read(c, &r));
    if (r.status != 200)
        fail_msg("%s: %d %.200s", path, r.status, r.body);
    free(r.body);
    return r.json;
}

/* Of all sessions; the second part chooses from them. */
static char (*name)[72];

static void lead(struct client *c, int i)
{
    char body[256];

    snprintf(body, sizeof(body), "{\"id\":\"o%d\",\"seed\":%d}", i, i);
    cJSON_Delete(post(c, "/v1/sessions", body));
    snprintf(body, sizeof(body),
             "{\"session_id\":\"o%d\",\"prompt\":[%d,%d,%d,%d],\"max_tokens\":4,"
             "\"ignore_eos\":true}",
             i, 1 + i % 250, 1 + i / 250 % 250, 5, 6);
    cJSON_Delete(post(c, "/v1/completions", body));
}

static void spread(struct client *c, int origin, int n)
{
    char path[64], body[32];

    snprintf(path, sizeof(path), "/v1/sessions/o%d/fork", origin);
    snprintf(body, sizeof(body), "{\"n\":%d}", n);
    cJSON_Delete(post(c, path, body));
}

static void build(void)
{
    double began = seconds_now();
    struct client c;
    struct live l;

    start(&l, plan.dir, "none");
    c = client_dial(l.port);
    for (int i = 0; i < plan.origins; i++)
        lead(&c, i);
    for (int i = 0, left = plan.sessions - plan.origins; left > 0; i = (i + 1) % plan.origins) {
        spread(&c, i, left < FORKS ? left : FORKS);
        left -= FORKS;
    }
    client_close(&c);
    printf("made %d sessions on %d states in %.1f s; %.2f GB of files\n", plan.sessions,
           plan.origins, seconds_now() - began,
           live_metric(&l, "eddy_state_bytes{tier=\"disk\"}") / 1e9);
    assert_int_equal(live_stop(&l), 0);
}

static void list(const struct live *l)
{
    char path[160];
    int n = 0;

    while (n < plan.sessions) {
        cJSON *page;

        snprintf(path, sizeof(path), "/v1/sessions?limit=1000%s%s", n ? "&after=" : "",
                 n ? name[n - 1] : "");
        page = ask(l->port, "GET", path, NULL);
        assert_non_null(item_of(page, "data")->child);
        for (const cJSON *s = item_of(page, "data")->child; s && n < plan.sessions; s = s->next)
            snprintf(name[n++], sizeof(name[0]), "%s", text_of(s, "id"));
        cJSON_Delete(page);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Pages that are clean leave the cache, and names and inodes with them where that is allowed. */
static void leave_cache(void)
{
    int all = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    char path[600];

    sync();
    if (all >= 0 && write(all, "3", 1) == 1) {
        close(all);
        return;
    }
    for (int i = 0; i < 256; i++) {
        struct dirent *e;
        DIR *folder;

        snprintf(path, sizeof(path), "%s/states/%02x", plan.dir, i);
        folder = opendir(path);
        assert_non_null(folder);
        while ((e = readdir(folder))) {
            int fd = openat(dirfd(folder), e->d_name, O_RDONLY | O_CLOEXEC);

            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            close(fd);
        }
        closedir(folder);
    }
}

/* Seconds to the first event of a stream; the rest is read, too. */
static double time_first(struct client *c, const char *body)
{
    double began = seconds_now(), first = 0;
    struct response r;
    char *event;

    assert_true(client_ask(c, "POST", "/v1/completions", NULL, body, strlen(body)));
    assert_true(client_read_head(c, &r));
    assert_int_equal(r.status, 200);
    while ((event = client_event(c))) {
        if (!first)
            first = seconds_now() - began;
        free(event);
    }
    return first;
}

static void wake(const struct live *l, const char *how)
{
    struct client c = client_dial(l->port);
    double *took = calloc((size_t)plan.turns, sizeof(*took));
    char body[256];

    for (int i = 0; i < plan.turns; i++) {
        snprintf(body, sizeof(body),
                 "{\"session_id\":\"%s\",\"prompt\":[7],\"max_tokens\":1,\"ignore_eos\":true,"
                 "\"stream\":true}",
                 name[below((uint64_t)plan.sessions)]);
        took[i] = time_first(&c, body);
    }
    qsort(took, (size_t)plan.turns, sizeof(*took), compare);
    printf("first token, %s: p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", how,
           1e3 * took[plan.turns / 2], 1e3 * took[plan.turns * 99 / 100],
           1e3 * took[plan.turns - 1]);
    free(took);
    client_close(&c);
}

/* Seconds until it is ready. */
static double start_timed(struct live *l, const char *dir, const char *durability)
{
    double began = seconds_now();

    start(l, dir, durability);
    return seconds_now() - began;
}

/* Only a mode that makes files durable leaves a mark that they need not be looked at. */
static void close_in_order(void)
{
    struct live l;

    start(&l, plan.dir, "always");
    assert_int_equal(live_stop(&l), 0);
}

static void time_starts(struct live *l)
{
    double crashed, cold;
    char mark[512];

    snprintf(mark, sizeof(mark), "%s/closed", plan.dir);
    unlink(mark);
    crashed = start_timed(l, plan.dir, "none");
    assert_int_equal(live_stop(l), 0);
    close_in_order();
    leave_cache();
    cold = start_timed(l, plan.dir, "none");
    assert_int_equal(live_stop(l), 0);
    close_in_order();
    printf("ready after %.2f s as after a crash, %.2f s with nothing in the cache\n", crashed,
           cold);
}

static void sessions_that_are_parked(void **state)
{
    char log[512], empty[512];
    double bare_seconds, seconds;
    long bare, rss;
    struct live l;

    (void)state;
    snprintf(log, sizeof(log), "%s/log", plan.dir);
    if (access(log, F_OK) != 0)
        build();
    snprintf(empty, sizeof(empty), "%s.empty", plan.dir);
    bare_seconds = start_timed(&l, empty, "none");
    bare = live_rss(&l);
    assert_int_equal(live_stop(&l), 0);
    time_starts(&l);
    seconds = start_timed(&l, plan.dir, "none");
    rss = live_rss(&l);
    printf("ready after %.2f s in order (%.2f s with an empty folder)\n"
           "memory %.1f MB (%.1f MB): %.0f bytes a session\n",
           seconds, bare_seconds, (double)rss / 1e6, (double)bare / 1e6,
           (double)(rss - bare) / plan.sessions);
    assert_int_equal((int)live_metric(&l, "eddy_sessions"), plan.sessions);
    list(&l);
    wake(&l, "cached");
    leave_cache();
    wake(&l, "from the disk");
    printf("memory %.1f MB after that\n", (double)live_rss(&l) / 1e6);
    assert_int_equal(live_stop(&l), 0);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = { cmocka_unit_test(sessions_that_are_parked) };

    if (argc != 6) {
        fprintf(stderr, "usage: parked DIR MODEL SESSIONS ORIGINS TURNS\n");
        return 2;
    }
    plan = (struct plan){ argv[1], argv[2], (int)strtol(argv[3], NULL, 10),
                          (int)strtol(argv[4], NULL, 10), (int)strtol(argv[5], NULL, 10) };
    setvbuf(stdout, NULL, _IOLBF, 0);
    name = calloc((size_t)plan.sessions + FORKS, sizeof(*name));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
