/* parked - what sessions cost that nobody talks to: start-up, memory, and waking one up.
 *
 *   parked DIR MODEL SESSIONS ORIGINS TURNS
 *
 * Leads ORIGINS sessions through a turn each, forks them until there are SESSIONS, and stops
 * the server; forks share the file of their origin's state. Then a new server takes the
 * folder over: reported are the time until it is ready and its memory, both beside those of
 * one with an empty folder, and what a client waits for the first token of TURNS random
 * sessions, once with the files in the page cache and once without. $EDDY_BINARY is the
 * server. */
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

/* The names of all sessions, which the second part chooses from. */
static char (*name)[72];
static int names;

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
    snprintf(name[names++], sizeof(name[0]), "o%d", i);
}

static void spread(struct client *c, int origin, int n)
{
    char path[64], body[32];
    cJSON *list;

    snprintf(path, sizeof(path), "/v1/sessions/o%d/fork", origin);
    snprintf(body, sizeof(body), "{\"n\":%d}", n);
    list = post(c, path, body);
    for (const cJSON *child = item_of(list, "data")->child; child; child = child->next)
        snprintf(name[names++], sizeof(name[0]), "%s", text_of(child, "id"));
    cJSON_Delete(list);
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
    for (int i = 0; names < plan.sessions; i = (i + 1) % plan.origins) {
        int left = plan.sessions - names;

        spread(&c, i, left < FORKS ? left : FORKS);
    }
    client_close(&c);
    printf("made %d sessions on %d states in %.1f s; %.2f GB of files\n", names, plan.origins,
           seconds_now() - began, live_metric(&l, "eddy_state_bytes{tier=\"disk\"}") / 1e9);
    assert_int_equal(live_stop(&l), 0);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Pages that are clean leave the cache. */
static void leave_cache(void)
{
    char path[600];

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
                 name[below((uint64_t)names)]);
        took[i] = time_first(&c, body);
    }
    qsort(took, (size_t)plan.turns, sizeof(*took), compare);
    printf("first token, %s: p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", how,
           1e3 * took[plan.turns / 2], 1e3 * took[plan.turns * 99 / 100],
           1e3 * took[plan.turns - 1]);
    free(took);
    client_close(&c);
}

static double start_timed(struct live *l, const char *dir)
{
    double began = seconds_now();

    start(l, dir, "none");
    return seconds_now() - began;
}

static void sessions_that_are_parked(void **state)
{
    char empty[512];
    double bare_seconds, seconds;
    long bare, rss;
    struct live l;

    (void)state;
    build();
    snprintf(empty, sizeof(empty), "%s.empty", plan.dir);
    bare_seconds = start_timed(&l, empty);
    bare = live_rss(&l);
    assert_int_equal(live_stop(&l), 0);
    seconds = start_timed(&l, plan.dir);
    rss = live_rss(&l);
    printf("ready after %.2f s (%.2f s with an empty folder)\n"
           "memory %.1f MB (%.1f MB): %.0f bytes a session\n",
           seconds, bare_seconds, (double)rss / 1e6, (double)bare / 1e6,
           (double)(rss - bare) / names);
    assert_int_equal((int)live_metric(&l, "eddy_sessions"), names);
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
