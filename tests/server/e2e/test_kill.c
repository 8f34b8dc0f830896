/* kill -9 at random moments under load: what was answered is there, and goes on as if nothing
 * had been.
 *
 * Workers, a process each, lead a session of their own through a script of turns, snapshots,
 * restores and deletions, again and again, on a server with few slots and little memory, so
 * that states are parked all the time. Before the first kill the script is run once on a
 * server that nobody kills: that is what every step has to answer and to leave behind. After a
 * kill the session has to stand where its last answered step left it, or one step further.
 *
 * EDDY_KILL_ROUNDS sets how many kills there are for each durability, TMPDIR where the folder
 * is, and an argument which tests run. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/live.h"

enum { WORKERS = 6, TEXT = 256, REPLY = 64 * 1024 };

enum step_kind { CREATE, TURN, SNAPSHOT, RESTORE, FORGET, DELETE };

static const struct {
    enum step_kind kind;
    const char *prompt;
} script[] = {
    { CREATE, NULL },          { TURN, "Once upon a time" },
    { TURN, " there was" },    { SNAPSHOT, NULL },
    { TURN, " The next day" }, { RESTORE, NULL },
    { TURN, " But" },          { TURN, " and then" },
    { FORGET, NULL },          { TURN, " In the end" },
    { DELETE, NULL },
};

enum { STEPS = sizeof(script) / sizeof(script[0]) };

/* What the session is after a step, and what a turn answered. */
struct expected {
    bool exists;
    int version, position, snapshots;
    char text[TEXT];
};

/* Shared by the workers and the test. */
struct shared {
    struct worker {
        int cycle, step; /* the next step of this cycle */
        bool unsure;     /* the step was asked for and not answered */
        long answered;   /* steps */
        char snapshot[80];
        char error[512]; /* what went wrong; "": nothing */
    } worker[WORKERS];
};

static struct shared *shared;
static struct expected expected[WORKERS][STEPS];

struct reply {
    int status; /* 0: none came */
    cJSON *json;
};

/* One request on a connection of its own. Fails nothing: the server may be killed. */
static struct reply request(int port, const char *method, const char *path, const char *body)
{
    static char bytes[REPLY];
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    struct reply r = { 0 };
    size_t len = 0;
    ssize_t n = 0;
    const char *start;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(bytes, sizeof(bytes),
             "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             method, path, body ? strlen(body) : 0, body ? body : "");
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
        send(fd, bytes, strlen(bytes), MSG_NOSIGNAL) == (ssize_t)strlen(bytes))
        while (len + 1 < sizeof(bytes) && (n = read(fd, bytes + len, sizeof(bytes) - 1 - len)) > 0)
            len += (size_t)n;
    close(fd);
    bytes[len] = 0;
    start = strstr(bytes, "\r\n\r\n");
    if (!start || sscanf(bytes, "HTTP/1.1 %d", &r.status) != 1)
        return (struct reply){ 0 };
    r.json = cJSON_Parse(start + 4);
    if (!r.json)
        r.status = 0; /* cut off */
    return r;
}

static void put_name(char name[32], int worker, int cycle)
{
    snprintf(name, 32, "w%d-%d", worker, cycle);
}

static struct reply ask_step(int port, int worker, int cycle, int step, const char *snapshot)
{
    char name[32], path[128], body[256];

    put_name(name, worker, cycle);
    snprintf(path, sizeof(path), "/v1/sessions/%s", name);
    switch (script[step].kind) {
    case CREATE:
        snprintf(body, sizeof(body), "{\"id\":\"%s\",\"seed\":%d}", name, worker);
        return request(port, "POST", "/v1/sessions", body);
    case TURN:
        snprintf(body, sizeof(body),
                 "{\"session_id\":\"%s\",\"prompt\":\"%s\",\"max_tokens\":%d,\"ignore_eos\":true}",
                 name, script[step].prompt, 3 + (worker + step) % 5);
        return request(port, "POST", "/v1/completions", body);
    case SNAPSHOT:
        strcat(path, "/snapshots");
        return request(port, "POST", path, "{}");
    case RESTORE:
        strcat(path, "/restore");
        snprintf(body, sizeof(body), "{\"snapshot\":\"%s\"}", snapshot);
        return request(port, "POST", path, body);
    case FORGET:
        snprintf(path, sizeof(path), "/v1/snapshots/%s", snapshot);
        return request(port, "DELETE", path, NULL);
    default:
        return request(port, "DELETE", path, NULL);
    }
}

static const char *text_in(const struct reply *r)
{
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(r->json, "choices");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(choices, 0), "text");

    return cJSON_IsString(text) ? text->valuestring : "";
}

static const char *id_in(const cJSON *object)
{
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(object, "id");

    return cJSON_IsString(id) ? id->valuestring : "";
}

static int number_in(const cJSON *object, const char *key)
{
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(object, key);

    return cJSON_IsNumber(n) ? n->valueint : -1;
}

/* What there is of the session now; snapshot: the newest one of it. false: no answer. */
static bool look(int port, int worker, int cycle, struct expected *now, char snapshot[80])
{
    char name[32], path[128];
    struct reply r;
    const cJSON *data;

    *now = (struct expected){ 0 };
    put_name(name, worker, cycle);
    snprintf(path, sizeof(path), "/v1/sessions/%s", name);
    r = request(port, "GET", path, NULL);
    now->exists = r.status == 200;
    now->version = number_in(r.json, "version");
    now->position = number_in(r.json, "position");
    cJSON_Delete(r.json);
    if (!now->exists)
        return r.status == 404;
    strcat(path, "/snapshots");
    r = request(port, "GET", path, NULL);
    data = cJSON_GetObjectItemCaseSensitive(r.json, "data");
    now->snapshots = cJSON_GetArraySize(data);
    if (now->snapshots > 0)
        snprintf(snapshot, 80, "%s", id_in(cJSON_GetArrayItem(data, now->snapshots - 1)));
    cJSON_Delete(r.json);
    return r.status == 200;
}

static bool matches(const struct expected *now, const struct expected *want)
{
    return now->exists == want->exists &&
           (!now->exists || (now->version == want->version && now->position == want->position &&
                             now->snapshots == want->snapshots));
}

/* Before the first step there is nothing. */
static const struct expected *after(int worker, int step)
{
    static const struct expected nothing;

    return step < 0 ? &nothing : &expected[worker][step];
}

static void step_done(struct worker *w)
{
    w->unsure = false;
    w->answered++;
    if (++w->step == STEPS) {
        w->step = 0;
        w->cycle++;
    }
}

/* After a kill: the session stands before or after the step that was not answered. */
static bool find_place(int port, int worker)
{
    struct worker *w = &shared->worker[worker];
    struct expected now;

    if (!look(port, worker, w->cycle, &now, w->snapshot))
        return false;
    if (matches(&now, after(worker, w->step - 1))) {
        w->unsure = false;
        return true;
    }
    if (w->unsure && matches(&now, after(worker, w->step))) {
        step_done(w);
        return true;
    }
    snprintf(w->error, sizeof(w->error),
             "session w%d-%d, step %d (%s): exists %d, version %d, position %d, %d snapshots",
             worker, w->cycle, w->step, w->unsure ? "asked" : "not asked", now.exists, now.version,
             now.position, now.snapshots);
    return false;
}

static bool check_reply(int worker, const struct reply *r)
{
    struct worker *w = &shared->worker[worker];
    const char *text = text_in(r), *want = expected[worker][w->step].text;
    char *json = NULL;

    if (r->status == 200 && strcmp(text, want) == 0)
        return true;
    if (r->status != 200)
        json = cJSON_PrintUnformatted(r->json);
    snprintf(w->error, sizeof(w->error), "w%d-%d, step %d: %d %.200s '%s', not '%s'", worker,
             w->cycle, w->step, r->status, json ? json : "", text, want);
    cJSON_free(json);
    return false;
}

static void work(int port, int worker)
{
    struct worker *w = &shared->worker[worker];

    if (!find_place(port, worker))
        return;
    for (;;) {
        struct reply r;

        w->unsure = true;
        r = ask_step(port, worker, w->cycle, w->step, w->snapshot);
        if (!r.status)
            return; /* killed */
        if (!check_reply(worker, &r))
            return;
        if (script[w->step].kind == SNAPSHOT)
            snprintf(w->snapshot, sizeof(w->snapshot), "%s", id_in(r.json));
        cJSON_Delete(r.json);
        step_done(w);
    }
}

static pid_t start_worker(int port, int worker)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    work(port, worker);
    _exit(0);
}

/* The script once for each worker, on a server that nobody kills. */
static void run_undisturbed(void)
{
    struct live l;

    live_start(&l, DEMO, NULL);
    for (int worker = 0; worker < WORKERS; worker++) {
        char snapshot[80] = "";

        for (int step = 0; step < STEPS; step++) {
            struct reply r = ask_step(l.port, worker, 0, step, snapshot);
            struct expected *e = &expected[worker][step];
            char text[TEXT];

            assert_int_equal(r.status, 200);
            snprintf(text, sizeof(text), "%s", text_in(&r));
            cJSON_Delete(r.json);
            assert_true(look(l.port, worker, 0, e, snapshot));
            memcpy(e->text, text, sizeof(text));
        }
    }
    assert_int_equal(live_stop(&l), 0);
}

static void run_round(const char *dir, const char *durability, bool last, uint64_t *random)
{
    struct live l;
    pid_t pid[WORKERS];

    live_start(&l, DEMO, "--state-dir", dir, "--durability", durability, "--slots", "3",
               "--host-memory", "4M", "--time-slice", "2", "--max-batch", "8", NULL);
    for (int i = 0; i < WORKERS; i++)
        pid[i] = start_worker(l.port, i);
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    usleep((useconds_t)((*random >> 33) % 800000));
    if (last)
        assert_int_equal(live_stop(&l), 0);
    else
        live_kill(&l);
    for (int i = 0; i < WORKERS; i++) {
        assert_int_equal(waitpid(pid[i], NULL, 0), pid[i]);
        /* A drained server refuses what comes late. */
        if (shared->worker[i].error[0] && !(last && strstr(shared->worker[i].error, "503")))
            fail_msg("%s, round with seed %llu: %s", durability, (unsigned long long)*random,
                     shared->worker[i].error);
    }
}

static int rounds(void)
{
    const char *given = getenv("EDDY_KILL_ROUNDS");

    return given ? (int)strtol(given, NULL, 10) : live_sanitized() ? 3 : 8;
}

static void kill_and_look(const char *durability)
{
    const char *tmp = getenv("TMPDIR");
    char dir[256], remove[300];
    uint64_t random = (uint64_t)getpid() * 2654435761u + (uint64_t)(unsigned char)durability[0];
    long answered = 0;
    struct live l;

    snprintf(dir, sizeof(dir), "%s/eddy-kill-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    memset(shared, 0, sizeof(*shared));
    for (int i = 0; i < rounds(); i++)
        run_round(dir, durability, false, &random);
    run_round(dir, durability, true, &random);
    live_start(&l, DEMO, "--state-dir", dir, NULL);
    for (int i = 0; i < WORKERS; i++) {
        struct worker *w = &shared->worker[i];

        w->error[0] = 0;
        if (!find_place(l.port, i))
            fail_msg("after the drain: %s", w->error);
        answered += w->answered;
    }
    assert_true(live_metric(&l, "eddy_disk_reports_total") == 0);
    assert_int_equal(live_stop(&l), 0);
    fprintf(stderr, "# %s: %d kills, %ld steps answered\n", durability, rounds(), answered);
    assert_true(answered > rounds());
    snprintf(remove, sizeof(remove), "rm -rf %s", dir);
    assert_int_equal(system(remove), 0);
}

static void an_answer_outlives_a_kill_with_always(void **state)
{
    (void)state;
    kill_and_look("always");
}

static void an_answer_outlives_a_kill_with_interval(void **state)
{
    (void)state;
    kill_and_look("interval:1000");
}

static void an_answer_outlives_a_kill_with_none(void **state)
{
    (void)state;
    kill_and_look("none");
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_outlives_a_kill_with_always),
        cmocka_unit_test(an_answer_outlives_a_kill_with_interval),
        cmocka_unit_test(an_answer_outlives_a_kill_with_none),
    };

    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 1;
    run_undisturbed();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
