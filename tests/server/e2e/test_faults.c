/* A disk that is full, fails or writes less than it was asked to, under a live server: what is
 * refused says why and did not happen, the session goes on as if it had not been asked, and after
 * kill -9 nothing half-written is found.
 *
 * A session and its twin do the same; each step of the first is tried while calls of the C
 * library fail (faults.c is preloaded), and done again without that if it was refused. A kill
 * between the parts of a record cuts the log there, and what only that record might have named
 * is set aside. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"
#include "tests/server/e2e/faults.h"
#include "tests/server/e2e/live.h"
#include "tests/server/e2e/state.h"
#include "tests/server/folder.h"
#include "tests/server/said.h"

enum { ALL = 1 << 20 };

struct fault {
    const char *name;
    enum fault_call call;
    enum fault_kind kind;
    int code;
};

static const struct fault faulty[] = {
    { "full while writing", FAULT_WRITE, FAULT_PART, ENOSPC },
    { "full before writing", FAULT_WRITE, FAULT_FAILS, ENOSPC },
    { "full when space is reserved", FAULT_RESERVE, FAULT_FAILS, ENOSPC },
    { "write fails", FAULT_WRITE, FAULT_PART, EIO },
    { "fsync fails", FAULT_SYNC, FAULT_FAILS, EIO },
    { "rename fails", FAULT_RENAME, FAULT_FAILS, EIO },
    { "rename finds no space", FAULT_RENAME, FAULT_FAILS, ENOSPC },
    { "short write", FAULT_WRITE, FAULT_SHORT, 0 },
};

enum { FAULTS = sizeof(faulty) / sizeof(faulty[0]) };

static struct faults *faults;
static const char *log_level = "error";
static struct live live;
static char control[64];
static int refusals[FAULTS], hits[FAULTS]; /* so that the test can fail */

enum step { TURN, SNAPSHOT, FORK, TURN_AGAIN, ROLL_BACK, RESTORE, FORGET, STEPS };

/* Of the session and of its twin. */
struct one {
    const char *name;
    char snapshot[80];
    char text[256];
};

static void arm(const struct fault *f, int from, int count)
{
    atomic_store(&faults->kind, f->kind);
    atomic_store(&faults->code, f->code);
    atomic_store(&faults->from, from);
    atomic_store(&faults->count, count);
    atomic_store(&faults->seen, 0);
    atomic_store(&faults->hits, 0);
    atomic_store(&faults->call, f->call);
}

static void disarm(const struct fault *f)
{
    atomic_store(&faults->call, FAULT_NOWHERE);
    hits[f - faulty] += atomic_load(&faults->hits);
}

static void start(const char *durability, bool with_faults)
{
    const char *sanitizer = getenv("ASAN_OPTIONS");
    char kept[256], wanted[320];

    snprintf(kept, sizeof(kept), "%s", sanitizer ? sanitizer : "");
    snprintf(wanted, sizeof(wanted), "%s:verify_asan_link_order=0", kept);
    if (with_faults) {
        assert_non_null(getenv("EDDY_TEST_FAULTS_LIBRARY"));
        setenv("LD_PRELOAD", getenv("EDDY_TEST_FAULTS_LIBRARY"), 1);
        setenv("EDDY_TEST_FAULTS", control, 1);
        setenv("ASAN_OPTIONS", wanted, 1);
    }
    live_start(&live, MAMBA, "--state-dir", folder, "--durability", durability, "--slots", "2",
               "--host-memory", "1M", "--log-level", log_level, NULL);
    unsetenv("LD_PRELOAD");
    setenv("ASAN_OPTIONS", kept, 1);
}

static struct response ask_turn(const struct one *o, int n)
{
    return call(live.port, "POST", "/v1/completions",
                "{\"session_id\":\"%s\",\"prompt\":\"step %d\",\"max_tokens\":5,"
                "\"temperature\":0,\"ignore_eos\":true}",
                o->name, n);
}

static struct response ask_step(const struct one *o, enum step step)
{
    char path[160];

    snprintf(path, sizeof(path), "/v1/sessions/%s/%s", o->name,
             step == SNAPSHOT    ? "snapshots"
             : step == FORK      ? "fork"
             : step == ROLL_BACK ? "rollback"
                                 : "restore");
    switch (step) {
    case SNAPSHOT:
    case FORK:
        return call(live.port, "POST", path, "{}");
    case ROLL_BACK:
        return call(live.port, "POST", path, "{\"turns\":1}");
    case RESTORE:
        return call(live.port, "POST", path, "{\"snapshot\":\"%s\"}", o->snapshot);
    case FORGET:
        snprintf(path, sizeof(path), "/v1/snapshots/%s", o->snapshot);
        return call(live.port, "DELETE", path, NULL);
    default:
        return ask_turn(o, (int)step);
    }
}

static void forget_child(const cJSON *json)
{
    const cJSON *first = cJSON_GetArrayItem(item_of(json, "data"), 0);
    char path[128];

    snprintf(path, sizeof(path), "/v1/sessions/%s", text_of(first, "id"));
    cJSON_Delete(ask(live.port, "DELETE", path, NULL));
}

static void take_answer(struct one *o, enum step step, const struct response *r)
{
    char *text;

    assert_int_equal(r->status, 200);
    if (step == SNAPSHOT)
        snprintf(o->snapshot, sizeof(o->snapshot), "%s", text_of(r->json, "id"));
    if (step == FORK)
        forget_child(r->json);
    if (step != TURN && step != TURN_AGAIN)
        return;
    text = answer_text(r->json);
    snprintf(o->text, sizeof(o->text), "%s", text);
    free(text);
}

static void look(const struct one *o, int *version, int *position)
{
    char path[128];
    cJSON *json;

    snprintf(path, sizeof(path), "/v1/sessions/%s", o->name);
    json = ask(live.port, "GET", path, NULL);
    *version = (int)number_of(json, "version");
    *position = (int)number_of(json, "position");
    assert_false(flag_of(json, "busy"));
    cJSON_Delete(json);
}

/* A clear refusal that changed nothing. */
static void check_refusal(const struct fault *f, const struct one *o, const struct response *r,
                          int version, int position)
{
    int version_now, position_now;

    if (f->code == ENOSPC)
        assert_refusal(r, 507, "insufficient_storage", f->name);
    else
        assert_refusal(r, 500, "storage_error", f->name);
    look(o, &version_now, &position_now);
    assert_int_equal(version_now, version);
    assert_int_equal(position_now, position);
    refusals[f - faulty]++;
}

static void compare(const struct one *a, const struct one *b, const char *what)
{
    int version[2], position[2];
    struct state x, y;

    look(a, &version[0], &position[0]);
    look(b, &version[1], &position[1]);
    assert_int_equal(version[0], version[1]);
    assert_int_equal(position[0], position[1]);
    assert_string_equal(a->text, b->text);
    x = state_of(live.port, a->name);
    y = state_of(live.port, b->name);
    assert_same_state(&x, &y, what);
    state_free(&x);
    state_free(&y);
}

/* One step under the fault, then without if need be, and the twin's. */
static void try_step(struct one *a, struct one *b, enum step step, const struct fault *f, int from,
                     int count)
{
    int version, position;
    struct response r;

    look(a, &version, &position);
    arm(f, from, count);
    r = ask_step(a, step);
    if (count == ALL) { /* who needs no disk is served all the same */
        live_is_well(&live);
        cJSON_Delete(
            ask(live.port, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":2}"));
    }
    disarm(f);
    if (r.status != 200) {
        check_refusal(f, a, &r, version, position);
        response_finish(&r);
        r = ask_step(a, step);
    }
    take_answer(a, step, &r);
    response_finish(&r);
    r = ask_step(b, step);
    take_answer(b, step, &r);
    response_finish(&r);
    compare(a, b, f->name);
}

static struct one create(const char *name)
{
    struct one o = { .name = name };

    cJSON_Delete(ask(live.port, "POST", "/v1/sessions", "{\"id\":\"%s\",\"seed\":1}", name));
    return o;
}

static char strange[256]; /* the name of one that is no checkpoint and not to be there */
static bool torn;         /* the kill may have come between two parts of a record of the log */

static int see_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    const char *end = strchr(path + ftw->base, '.');

    (void)st;
    if (type == FTW_F && end && !(torn && strcmp(end, ".orphan") == 0))
        snprintf(strange, sizeof(strange), "%s", path + ftw->base);
    return 0;
}

static void check_folder(const char *what)
{
    strange[0] = '\0';
    nftw(folder, see_file, 16, FTW_PHYS);
    if (strange[0])
        fail_msg("%s: %s is half-written or set aside", what, strange);
}

/* Every call fails when the server is killed. What was refused may turn out to be written after
 * all where only the fsync failed: the whole of it, and never a part. */
static void kill_under_fault(struct one *a, struct one *b, const char *durability,
                             const struct fault *f)
{
    int version, position, version_now, position_now;
    struct response r;

    look(a, &version, &position);
    arm(f, 1, ALL);
    r = ask_turn(a, 100);
    live_kill(&live);
    disarm(f);
    start(durability, true);
    torn = f->kind == FAULT_SHORT;
    check_folder(f->name);
    assert_true(torn || live_metric(&live, "eddy_disk_reports_total") == 0);
    look(a, &version_now, &position_now);
    if (r.status == 200 || (f->call == FAULT_SYNC && version_now > version)) {
        assert_int_equal(version_now, version + 1);
    } else {
        assert_int_equal(version_now, version);
        assert_int_equal(position_now, position);
        response_finish(&r);
        r = ask_turn(a, 100);
        assert_int_equal(r.status, 200);
    }
    response_finish(&r);
    r = ask_turn(b, 100);
    assert_int_equal(r.status, 200);
    response_finish(&r);
    compare(a, b, f->name);
}

static int make_world(void **unused)
{
    int fd;

    (void)unused;
    if (folder_make(NULL) != 0)
        return -1;
    strcpy(control, "/tmp/eddy-control-XXXXXX");
    fd = mkstemp(control);
    if (fd < 0 || ftruncate(fd, sizeof(*faults)) < 0)
        return -1;
    faults = mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    memset(refusals, 0, sizeof(refusals));
    memset(hits, 0, sizeof(hits));
    return faults == MAP_FAILED ? -1 : 0;
}

static int remove_world(void **unused)
{
    (void)unused;
    munmap(faults, sizeof(*faults));
    return unlink(control) | folder_remove(NULL);
}

static void run(const char *durability)
{
    const bool always = strcmp(durability, "always") == 0;
    struct one a, b;
    double reports;

    start(durability, true);
    a = create("a");
    b = create("twin");
    for (int f = 0; f < FAULTS; f++) {
        for (int from = 1; from <= 4; from++)
            for (enum step step = TURN; step < STEPS; step++)
                try_step(&a, &b, step, &faulty[f], from, from % 2 ? 1 : ALL);
        reports = live_metric(&live, "eddy_disk_reports_total");
        if (always)
            assert_true(reports == 0);
        kill_under_fault(&a, &b, durability, &faulty[f]);
        /* An fsync that nobody waits for may come when the fault has gone. */
        assert_true(hits[f] > 0 || (!always && faulty[f].call == FAULT_SYNC));
    }
    cJSON_Delete(ask(live.port, "DELETE", "/v1/sessions/a", NULL));
    cJSON_Delete(ask(live.port, "DELETE", "/v1/sessions/twin", NULL));
    assert_int_equal(live_stop(&live), 0);
    check_folder("at the end");
}

static void a_disk_that_fails_refuses_and_keeps_the_session(void **unused)
{
    (void)unused;
    run("always");
    for (int f = 0; f < FAULTS; f++)
        if (!refusals[f] != (faulty[f].kind == FAULT_SHORT))
            fail_msg("%s: %d refusals", faulty[f].name, refusals[f]);
}

/* Nothing waits for an fsync: one that fails is in the log and refuses nothing. */
static void so_does_one_that_is_not_waited_for(void **unused)
{
    (void)unused;
    run("interval:20");
    for (int f = 0; f < FAULTS; f++)
        if (faulty[f].call != FAULT_SYNC && !refusals[f] != (faulty[f].kind == FAULT_SHORT))
            fail_msg("%s: %d refusals", faulty[f].name, refusals[f]);
}

/* Its status is that of its beginning. */
static void a_stream_that_fails_is_logged(void **unused)
{
    const struct fault *full = &faulty[1];
    struct said said = said_begin();
    char log[4096], *line;
    struct response r;

    (void)unused;
    log_level = "warn";
    start("always", true);
    log_level = "error";
    create("a");
    arm(full, 1, ALL);
    r = call(live.port, "POST", "/v1/completions",
             "{\"session_id\":\"a\",\"prompt\":\"b\",\"max_tokens\":2,\"stream\":true}");
    disarm(full);
    assert_int_equal(live_stop(&live), 0);
    said_end(&said, log, sizeof(log));
    assert_int_equal(r.status, 200);
    response_finish(&r);
    line = strstr(log, " warn request ");
    assert_non_null(line);
    assert_non_null(strstr(line, " status=\"200\""));
    assert_non_null(strstr(line, " code=\"insufficient_storage\""));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_disk_that_fails_refuses_and_keeps_the_session, make_world,
                                        remove_world),
        cmocka_unit_test_setup_teardown(so_does_one_that_is_not_waited_for, make_world,
                                        remove_world),
        cmocka_unit_test_setup_teardown(a_stream_that_fails_is_logged, make_world, remove_world),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
