#include "tests/server/e2e/live.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/server/e2e/client.h"

enum { OPTIONS = 32 };

/* As many files as may be, for the child too. */
static void raise_files(void)
{
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static pid_t spawn(char *const argv[], int out)
{
    const char *binary = getenv("EDDY");
    pid_t pid;

    assert_non_null(binary);
    raise_files();
    pid = fork();
    assert_true(pid >= 0);
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(out, STDOUT_FILENO);
    execv(binary, argv);
    _exit(127);
}

/* "eddy is ready on http://127.0.0.1:PORT (..." */
static int read_port(int out)
{
    char line[512];
    const char *colon;
    size_t len = 0;

    while (len + 1 < sizeof(line) && read(out, line + len, 1) == 1 && line[len] != '\n')
        len++;
    line[len] = 0;
    colon = strstr(line, "http://127.0.0.1:");
    if (!colon)
        fail_msg("the server is not ready: \"%s\"", line);
    return (int)strtol(colon + strlen("http://127.0.0.1:"), NULL, 10);
}

void live_start(struct live *l, const char *model, ...)
{
    const char *argv[OPTIONS] = {
        "eddy",        "serve", model, "--port", "0", "--threads", live_sanitized() ? "1" : "2",
        "--log-level", "error"
    };
    int n = 9, out[2];
    va_list options;

    va_start(options, model);
    while ((argv[n] = va_arg(options, const char *)))
        assert_true(++n < OPTIONS);
    va_end(options);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    l->pid = spawn((char *const *)argv, out[1]);
    close(out[1]);
    l->out = out[0];
    l->port = read_port(l->out);
}

void live_signal(const struct live *l, int number)
{
    assert_int_equal(kill(l->pid, number), 0);
}

static int reap(struct live *l)
{
    double until = seconds_now() + 30;
    int status;
    pid_t pid;

    while ((pid = waitpid(l->pid, &status, WNOHANG)) == 0 && seconds_now() < until)
        usleep(1000);
    if (pid == 0) {
        kill(l->pid, SIGKILL);
        waitpid(l->pid, &status, 0);
        fail_msg("the server did not end within 30 s");
    }
    close(l->out);
    return status;
}

int live_wait(struct live *l)
{
    int status = reap(l);

    if (!WIFEXITED(status))
        fail_msg("the server was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

int live_stop(struct live *l)
{
    live_signal(l, SIGTERM);
    return live_wait(l);
}

void live_kill(struct live *l)
{
    live_signal(l, SIGKILL);
    reap(l);
}

long live_rss(const struct live *l)
{
    char path[64];
    long pages = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)l->pid);
    f = fopen(path, "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d %ld", &pages), 1);
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static int count_fds(const struct live *l)
{
    char path[64];
    int n = 0;

    for (int fd = 0; fd < 4096; fd++) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)l->pid, fd);
        n += faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    }
    return n;
}

/* The fewest of some moments: our own last connection may still be closing. */
int live_fds(const struct live *l)
{
    int fewest = count_fds(l);

    for (int i = 0; i < 10; i++) {
        int n;

        usleep(10000);
        n = count_fds(l);
        fewest = n < fewest ? n : fewest;
    }
    return fewest;
}

double live_metric(const struct live *l, const char *name)
{
    struct response r = call(l->port, "GET", "/metrics", NULL);
    char mark[128];
    const char *at;
    double value;

    snprintf(mark, sizeof(mark), "\n%s ", name);
    at = strstr(r.body, mark);
    if (!at)
        fail_msg("there is no metric %s", name);
    value = strtod(at + strlen(mark), NULL);
    response_finish(&r);
    return value;
}

bool live_reaches(const struct live *l, const char *name, double value, double seconds)
{
    double until = seconds_now() + seconds;

    while (live_metric(l, name) != value) {
        if (seconds_now() > until)
            return false;
        usleep(5000);
    }
    return true;
}

void live_is_well(const struct live *l)
{
    cJSON *json = ask(l->port, "GET", "/health", NULL);

    assert_string_equal(text_of(json, "status"), "ok");
    cJSON_Delete(json);
}

bool live_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return true;
#endif
#endif
    return false;
}

double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
