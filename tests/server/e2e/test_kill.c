/* kill -9 at random moments under load: what was answered is there, and goes on as if nothing
 * had been.
 *
 * Workers, a process each, lead a session and two forks of it through a script of turns,
 * snapshots, rollbacks and deletions, again and again, on a server with few slots and little
 * memory, so that states are parked and woken all the time. Before the first kill the script is
 * run once on a server that nobody kills: that is what every step has to answer and to leave
 * behind. After a kill everything has to be as the last answered step left it, or one step
 * further: the sessions with the bytes of their states, and the tree of snapshots.
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
#include "tests/server/e2e/state.h"

enum { WORKERS = 6, TEXT = 256, ID = 80, REPLY = 4 * 1024 * 1024 };

enum { TRUNK, FIRST, SECOND, SESSIONS }; /* the forks are made of the trunk */
enum { ROOT, ASIDE, ALONG, APART, SNAPSHOTS };

enum step_kind {
    CREATE,
    TURN,
    SNAPSHOT,
    FORK,
    RESTORE,
    ROLLBACK,
    TURNS_BACK,
    TOKENS_BACK,
    FORGET,
    FORGET_ALL, /* the snapshot and those below it */
    DELETE,
};

static const struct {
    enum step_kind kind;
    int session;
    int other; /* a snapshot; of FORK the new session; of the last two ways back how far */
    const char *prompt;
} script[] = {
    { CREATE, TRUNK, 0, NULL },          { TURN, TRUNK, 0, "Once upon a time" },
    { TURN, TRUNK, 0, " there was" },    { SNAPSHOT, TRUNK, ROOT, NULL },
    { TURN, TRUNK, 0, " The next day" }, { FORK, TRUNK, FIRST, NULL },
    { TURN, FIRST, 0, " But" },          { SNAPSHOT, FIRST, ASIDE, NULL },
    { ROLLBACK, TRUNK, ROOT, NULL },     { TURN, TRUNK, 0, " and then" },
    { SNAPSHOT, TRUNK, ALONG, NULL },    { FORK, TRUNK, SECOND, NULL },
    { TURNS_BACK, TRUNK, 2, NULL }, /* behind ROOT */
    { TURN, TRUNK, 0, " In the end" },   { SNAPSHOT, TRUNK, APART, NULL },
    { TOKENS_BACK, FIRST, 3, NULL },     { TURN, FIRST, 0, " suddenly" },
    { RESTORE, SECOND, ASIDE, NULL },    { TURN, SECOND, 0, " so" },
    { FORGET_ALL, TRUNK, ROOT, NULL },   { TURN, SECOND, 0, " or" },
    { TOKENS_BACK, SECOND, 2, NULL },    { DELETE, FIRST, 0, NULL },
    { RESTORE, TRUNK, APART, NULL },     { TURN, SECOND, 0, " not" },
    { FORGET, TRUNK, APART, NULL },      { TURN, TRUNK, 0, " at all" },
    { DELETE, SECOND, 0, NULL },         { DELETE, TRUNK, 0, NULL },
};

enum { STEPS = sizeof(script) / sizeof(script[0]) };

/* What there is after a step. All zeros: nothing. It is compared by its bytes. */
struct picture {
    struct {
        long there, version, position;
        uint64_t state; /* its digest; 0 of the empty one */
    } session[SESSIONS];
    struct {
        int there, position;
        int parent; /* which, plus one */
    } snapshot[SNAPSHOTS];
};

struct expected {
    struct picture left;
    char text[TEXT]; /* what a turn answered */
};

/* Shared by the workers and the test. */
struct shared {
    struct worker {
        int cycle, step; /* the next step of this cycle */
        bool unsure;     /* the step was asked for and not answered */
        long answered;   /* steps */
        char session[SESSIONS][ID], snapshot[SNAPSHOTS][ID]; /* "": none yet */
        char error[1024];                                    /* what went wrong; "": nothing */
    } worker[WORKERS];
};

static struct shared *shared;
static struct expected expected[WORKERS][STEPS];

/* Before the first step there is nothing. */
static const struct picture *left_by(int worker, int step)
{
    static const struct picture nothing;

    return step < 0 ? &nothing : &expected[worker][step].left;
}

struct reply {
    int status;  /* 0: none came */
    cJSON *json; /* NULL: it is a state */
    uint64_t state;
};

/* What came of an answer, cut off or whole. */
static struct reply read_reply(char *bytes, size_t len)
{
    struct reply r = { 0 };
    char *body = strstr(bytes, "\r\n\r\n");

    if (!body || sscanf(bytes, "HTTP/1.1 %d", &r.status) != 1)
        return (struct reply){ 0 };
    body += 4;
    *(body - 1) = 0;
    if (strstr(bytes, "application/octet-stream"))
        r.state =
            state_digest(&(struct state){ (unsigned char *)body, len - (size_t)(body - bytes) });
    else
        r.json = cJSON_Parse(body);
    if (!r.json && !r.state)
        r.status = 0; /* cut off */
    return r;
}

/* One request on a connection of its own. Fails nothing: the server may be killed. */
static struct reply request(int port, const char *method, const char *path, const char *body)
{
    static char bytes[REPLY];
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    size_t len = 0;
    ssize_t n = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(bytes, sizeof(bytes),
             "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
             "Content-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             method, path, body ? strlen(body) : 0, body ? body : "");
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0 &&
        send(fd, bytes, strlen(bytes), MSG_NOSIGNAL) == (ssize_t)strlen(bytes))
        while (len + 1 < sizeof(bytes) && (n = read(fd, bytes + len, sizeof(bytes) - 1 - len)) > 0)
            len += (size_t)n;
    close(fd);
    bytes[len] = 0;
    return read_reply(bytes, len);
}

/* A call of the step's session. */
static struct reply ask_session(int port, const char *method, const char *session, const char *verb,
                                const char *body)
{
    char path[128];

    snprintf(path, sizeof(path), "/v1/sessions/%s%s", session, verb);
    return request(port, method, path, body);
}

static struct reply ask_way_back(int port, int worker, int step, const char *session)
{
    const int other = script[step].other;
    char body[160];

    if (script[step].kind == TURNS_BACK)
        snprintf(body, sizeof(body), "{\"turns\":%d}", other);
    else if (script[step].kind == TOKENS_BACK)
        snprintf(body, sizeof(body), "{\"position\":%ld}",
                 left_by(worker, step - 1)->session[script[step].session].position - other);
    else
        snprintf(body, sizeof(body), "{\"snapshot\":\"%s\"}",
                 shared->worker[worker].snapshot[other]);
    return ask_session(port, "POST", session,
                       script[step].kind == RESTORE ? "/restore" : "/rollback", body);
}

static struct reply ask_step(int port, int worker, int step)
{
    const struct worker *w = &shared->worker[worker];
    const char *session = w->session[script[step].session];
    const bool all = script[step].kind == FORGET_ALL;
    char path[160], body[256];

    switch (script[step].kind) {
    case CREATE:
        snprintf(body, sizeof(body), "{\"id\":\"%s\",\"seed\":%d}", session, worker);
        return request(port, "POST", "/v1/sessions", body);
    case TURN:
        snprintf(body, sizeof(body),
                 "{\"session_id\":\"%s\",\"prompt\":\"%s\",\"max_tokens\":%d,\"ignore_eos\":true}",
                 session, script[step].prompt, 3 + (worker + step) % 5);
        return request(port, "POST", "/v1/completions", body);
    case SNAPSHOT:
        return ask_session(port, "POST", session, "/snapshots", "{}");
    case FORK:
        return ask_session(port, "POST", session, "/fork", "{}");
    case FORGET:
    case FORGET_ALL:
        snprintf(path, sizeof(path), "/v1/snapshots/%s%s", w->snapshot[script[step].other],
                 all ? "?subtree=true" : "");
        return request(port, "DELETE", path, NULL);
    case DELETE:
        return ask_session(port, "DELETE", session, "", NULL);
    default:
        return ask_way_back(port, worker, step, session);
    }
}

static const char *string_in(const cJSON *object, const char *key)
{
    const cJSON *s = cJSON_GetObjectItemCaseSensitive(object, key);

    return cJSON_IsString(s) ? s->valuestring : "";
}

static int number_in(const cJSON *object, const char *key)
{
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(object, key);

    return cJSON_IsNumber(n) ? n->valueint : -1;
}

static const cJSON *data_in(const struct reply *r)
{
    return cJSON_GetObjectItemCaseSensitive(r->json, "data");
}

static const char *text_in(const struct reply *r)
{
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(r->json, "choices");

    return string_in(cJSON_GetArrayItem(choices, 0), "text");
}

/* Whether the step, the next one, makes what is looked for here. */
static bool makes(const struct worker *w, enum step_kind kind, int session)
{
    return script[w->step].kind == kind && script[w->step].session == session;
}

/* Which snapshot it is, plus one; 0 without an id. One that is not known yet is what the step
 * has made. -1: it should not be there. */
static int find_snapshot(struct worker *w, int session, const char *id)
{
    int i;

    if (!id[0])
        return 0;
    for (i = 0; i < SNAPSHOTS; i++)
        if (strcmp(w->snapshot[i], id) == 0)
            return i + 1;
    i = script[w->step].other;
    if (!makes(w, SNAPSHOT, session) || w->snapshot[i][0])
        return -1;
    snprintf(w->snapshot[i], ID, "%s", id);
    return i + 1;
}

/* false: no answer, or a snapshot that should not be there. */
static bool look_at_snapshots(int port, struct worker *w, int session, struct picture *now)
{
    char path[160];
    struct reply r;
    const cJSON *s;
    bool ok;

    snprintf(path, sizeof(path), "/v1/snapshots?session=%s", w->session[session]);
    r = request(port, "GET", path, NULL);
    ok = r.status == 200;
    cJSON_ArrayForEach(s, data_in(&r))
    {
        int i = find_snapshot(w, session, string_in(s, "id"));

        if (i <= 0) {
            snprintf(w->error, sizeof(w->error), "a snapshot %s too many", string_in(s, "id"));
            ok = false;
            break;
        }
        now->snapshot[i - 1].there = 1;
        now->snapshot[i - 1].position = number_in(s, "position");
        now->snapshot[i - 1].parent = find_snapshot(w, session, string_in(s, "parent"));
    }
    cJSON_Delete(r.json);
    return ok;
}

/* head: of the session, "" when there is none. false: no answer. */
static bool look_at_session(int port, struct worker *w, int session, struct picture *now,
                            char head[ID])
{
    struct reply r = ask_session(port, "GET", w->session[session], "", NULL);
    const int status = r.status;

    head[0] = 0;
    if (status == 200) {
        now->session[session].there = 1;
        now->session[session].version = number_in(r.json, "version");
        now->session[session].position = number_in(r.json, "position");
        snprintf(head, ID, "%s", string_in(r.json, "head"));
    }
    cJSON_Delete(r.json);
    if (head[0]) {
        r = ask_session(port, "GET", w->session[session], "/state", NULL);
        now->session[session].state = r.state;
        cJSON_Delete(r.json);
        return r.status != 0;
    }
    return status == 200 || status == 404;
}

/* The fork that the step made, if it did: it stands where the trunk does. */
static bool look_for_fork(int port, struct worker *w, const char *head)
{
    char *fork = w->session[script[w->step].other];
    struct reply r;
    const cJSON *s;

    if (!makes(w, FORK, TRUNK) || fork[0])
        return true;
    r = request(port, "GET", "/v1/sessions?limit=100", NULL);
    cJSON_ArrayForEach(s, data_in(&r)) if (strcmp(string_in(s, "head"), head) == 0 &&
                                           strcmp(string_in(s, "id"), w->session[TRUNK]) != 0)
        snprintf(fork, ID, "%s", string_in(s, "id"));
    cJSON_Delete(r.json);
    return r.status == 200;
}

/* What there is of the worker now; finds the names of what its step has made. */
static bool look(int port, struct worker *w, struct picture *now)
{
    char head[ID];

    memset(now, 0, sizeof(*now));
    for (int i = 0; i < SESSIONS; i++) {
        if (!w->session[i][0])
            continue;
        if (!look_at_session(port, w, i, now, head) || !look_at_snapshots(port, w, i, now) ||
            (i == TRUNK && !look_for_fork(port, w, head)))
            return false;
    }
    return true;
}

static bool is_left_by(const struct picture *now, int worker, int step)
{
    return memcmp(now, left_by(worker, step), sizeof(*now)) == 0;
}

static void begin_cycle(int worker)
{
    struct worker *w = &shared->worker[worker];

    w->step = 0;
    memset(w->session, 0, sizeof(w->session));
    memset(w->snapshot, 0, sizeof(w->snapshot));
    snprintf(w->session[TRUNK], ID, "w%d-%d", worker, w->cycle);
}

static void step_done(int worker)
{
    struct worker *w = &shared->worker[worker];

    w->unsure = false;
    w->answered++;
    if (++w->step < STEPS)
        return;
    w->cycle++;
    begin_cycle(worker);
}

static void describe(const struct picture *p, char *out, size_t room)
{
    size_t at = 0;

    for (int i = 0; i < SESSIONS; i++)
        at += (size_t)snprintf(out + at, room - at, " %ld:v%ld@%ld#%08x", p->session[i].there,
                               p->session[i].version, p->session[i].position,
                               (unsigned)p->session[i].state);
    for (int i = 0; i < SNAPSHOTS; i++)
        at += (size_t)snprintf(out + at, room - at, " %d:@%d^%d", p->snapshot[i].there,
                               p->snapshot[i].position, p->snapshot[i].parent);
}

/* After a kill: all is as before or after the step that was not answered. */
static bool find_place(int port, int worker)
{
    struct worker *w = &shared->worker[worker];
    char is[256], was[256];
    struct picture now;

    if (!look(port, w, &now))
        return false;
    if (is_left_by(&now, worker, w->step - 1)) {
        w->unsure = false;
        return true;
    }
    if (w->unsure && is_left_by(&now, worker, w->step)) {
        step_done(worker);
        return true;
    }
    describe(&now, is, sizeof(is));
    describe(left_by(worker, w->step - 1), was, sizeof(was));
    snprintf(w->error, sizeof(w->error), "w%d-%d, step %d (%s):%s\nbefore it:%s", worker, w->cycle,
             w->step, w->unsure ? "asked" : "not asked", is, was);
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

/* The names of what the step made. */
static void take_names(struct worker *w, const struct reply *r)
{
    const int other = script[w->step].other;

    if (script[w->step].kind == SNAPSHOT)
        snprintf(w->snapshot[other], ID, "%s", string_in(r->json, "id"));
    if (script[w->step].kind == FORK)
        snprintf(w->session[other], ID, "%s", string_in(cJSON_GetArrayItem(data_in(r), 0), "id"));
}

static void work(int port, int worker)
{
    struct worker *w = &shared->worker[worker];

    if (!find_place(port, worker))
        return;
    for (;;) {
        struct reply r;

        w->unsure = true;
        r = ask_step(port, worker, w->step);
        if (!r.status)
            return; /* killed */
        if (!check_reply(worker, &r))
            return;
        take_names(w, &r);
        cJSON_Delete(r.json);
        step_done(worker);
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

/* Everybody at the beginning of the script. */
static void begin(void)
{
    memset(shared, 0, sizeof(*shared));
    for (int i = 0; i < WORKERS; i++)
        begin_cycle(i);
}

/* The script once for each worker, on a server that nobody kills. */
static void run_undisturbed(void)
{
    struct live l;

    begin();
    live_start(&l, DEMO, NULL);
    for (int worker = 0; worker < WORKERS; worker++) {
        struct worker *w = &shared->worker[worker];

        for (; w->step < STEPS; w->step++) {
            struct reply r = ask_step(l.port, worker, w->step);
            struct expected *e = &expected[worker][w->step];

            if (r.status != 200)
                fail_msg("step %d: %d", w->step, r.status);
            snprintf(e->text, sizeof(e->text), "%s", text_in(&r));
            take_names(w, &r);
            cJSON_Delete(r.json);
            assert_true(look(l.port, w, &e->left));
        }
    }
    assert_int_equal(live_stop(&l), 0);
}

/* States that were parked and are on a slot again. */
static double woken(const struct live *l)
{
    return live_metric(l, "eddy_state_moves_total{from=\"disk\",to=\"device\"}") +
           live_metric(l, "eddy_state_moves_total{from=\"host\",to=\"device\"}");
}

/* Returns how many states were woken. */
static double run_round(const char *dir, const char *durability, bool last, uint64_t *random)
{
    double wakes;
    struct live l;
    pid_t pid[WORKERS];

    live_start(&l, DEMO, "--state-dir", dir, "--durability", durability, "--slots", "3",
               "--host-memory", "4M", "--time-slice", "2", "--max-batch", "8", NULL);
    for (int i = 0; i < WORKERS; i++)
        pid[i] = start_worker(l.port, i);
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    usleep((useconds_t)((*random >> 33) % 1200000));
    /* The last round is as long as it takes on a slow machine, too. */
    for (double until = seconds_now() + 60; last && !woken(&l) && seconds_now() < until;)
        usleep(20000);
    wakes = woken(&l);
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
    return wakes;
}

static int rounds(void)
{
    const char *given = getenv("EDDY_KILL_ROUNDS");

    return given ? (int)strtol(given, NULL, 10) : live_sanitized() ? 3 : 6;
}

static void kill_and_look(const char *durability)
{
    const char *tmp = getenv("TMPDIR");
    char dir[256], remove[300];
    uint64_t random = (uint64_t)getpid() * 2654435761u + (uint64_t)(unsigned char)durability[0];
    double wakes = 0;
    long answered = 0;
    struct live l;

    snprintf(dir, sizeof(dir), "%s/eddy-kill-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    begin();
    for (int i = 0; i < rounds(); i++)
        wakes += run_round(dir, durability, false, &random);
    wakes += run_round(dir, durability, true, &random);
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
    fprintf(stderr, "# %s: %d kills, %ld steps answered, %.0f states woken\n", durability, rounds(),
            answered, wakes);
    assert_true(answered > rounds() && wakes > 0);
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
