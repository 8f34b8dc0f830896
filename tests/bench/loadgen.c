/* loadgen - concurrent streaming completions against a running server, in a closed loop.
 *
 * Every stream sends a request, reads its events until [DONE], and sends the next one while
 * the time lasts. Reported are what a client sees: errors, time to the first event, gaps
 * between events, tokens a second (by the server's own usage numbers). --idle holds further
 * connections open that say nothing, and reports what they cost the server, whose process is
 * named with --pid. One thread on epoll; times are taken when bytes are read. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/event_reader.h"

enum { REQUEST_BYTES = 2048, EVENTS = 256, STALL_SECONDS = 60 };

struct plan {
    const char *host, *port, *prompt;
    int streams, tokens, idle, pid;
    double seconds, temperature;
};

struct list {
    float *value;
    size_t n, capacity;
};

struct totals {
    size_t done, errors;
    unsigned long long tokens, events;
    struct list first, gap;
    char problem[256]; /* the first one */
};

struct stream {
    struct load *load;
    int fd; /* -1: none */
    bool connecting;
    size_t sent; /* bytes of the request */
    double began, newest;
    size_t events;
    struct event_reader reader;
    bool done; /* [DONE] was read */
    unsigned long long tokens;
};

struct load {
    const struct plan *plan;
    struct addrinfo *address;
    char request[REQUEST_BYTES];
    size_t request_len;
    struct totals totals;
    struct stream *stream;
    int epoll, open;
    double until; /* no request begins after this */
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void list_add(struct list *l, double value)
{
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 1024;
        float *grown = realloc(l->value, capacity * sizeof(*grown));

        if (!grown)
            return;
        l->value = grown;
        l->capacity = capacity;
    }
    l->value[l->n++] = (float)value;
}

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static void print_list(const char *name, struct list *l)
{
    static const double part[] = { 0.5, 0.9, 0.99, 1 };

    printf("| %s |", name);
    if (l->n)
        qsort(l->value, l->n, sizeof(*l->value), ascending);
    for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++)
        printf(" %.2f |", l->n ? 1e3 * l->value[(size_t)(part[i] * (double)(l->n - 1))] : 0.0);
    putchar('\n');
}

/* Kilobytes of a process in memory, 0 if nobody knows. */
static long resident(int pid)
{
    char path[64], line[256];
    long kb = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmRSS: %ld", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb;
}

static void close_stream(struct load *l, struct stream *s)
{
    if (s->fd < 0)
        return;
    close(s->fd);
    s->fd = -1;
    l->open--;
}

static void fail(struct load *l, struct stream *s, const char *why)
{
    if (!l->totals.errors++)
        snprintf(l->totals.problem, sizeof(l->totals.problem), "%s: %.160s", why, s->reader.head);
    close_stream(l, s);
}

static bool watch(const struct load *l, struct stream *s, int operation, unsigned events)
{
    struct epoll_event e = { .events = events, .data.ptr = s };

    return epoll_ctl(l->epoll, operation, s->fd, &e) == 0;
}

/* A socket that is on its way, or -1. */
static int dial(const struct addrinfo *to)
{
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0 || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

/* Writes what the socket takes; the rest when epoll says so. */
static void push(struct load *l, struct stream *s)
{
    while (s->sent < l->request_len) {
        ssize_t n = write(s->fd, l->request + s->sent, l->request_len - s->sent);

        if (n < 0 && errno == EAGAIN) {
            if (!watch(l, s, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT))
                fail(l, s, "epoll");
            return;
        }
        if (n <= 0) {
            fail(l, s, strerror(errno));
            return;
        }
        s->sent += (size_t)n;
    }
    if (!watch(l, s, EPOLL_CTL_MOD, EPOLLIN))
        fail(l, s, "epoll");
}

/* A line of the stream's events. */
static void take_line(void *arg, const char *line)
{
    static const char usage[] = "\"completion_tokens\":";
    struct stream *s = arg;
    struct totals *to = &s->load->totals;
    const double time = now();
    const char *at;

    if (strcmp(line, "data: [DONE]") == 0)
        s->done = true;
    at = strstr(line, usage);
    if (at)
        s->tokens = strtoull(at + sizeof(usage) - 1, NULL, 10);
    else if (strstr(line, "\"finish_reason\":null")) { /* the last event brings no token */
        list_add(s->events ? &to->gap : &to->first, time - (s->events ? s->newest : s->began));
        s->newest = time;
        s->events++;
    }
}

/* The next request, on the connection there is or a new one. */
static void begin(struct load *l, struct stream *s)
{
    const int fd = s->fd;
    const bool fresh = fd < 0;

    *s = (struct stream){ .load = l, .fd = fd, .began = now() };
    event_reader_init(&s->reader, take_line, s);
    if (fresh) {
        s->fd = dial(l->address);
        s->connecting = true;
        if (s->fd >= 0)
            l->open++;
        if (s->fd < 0 || !watch(l, s, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT))
            fail(l, s, strerror(errno));
        return;
    }
    push(l, s);
}

/* The answer is over: counted, and the next one asked for. */
static void complete(struct load *l, struct stream *s)
{
    if (!s->done || !s->tokens) {
        fail(l, s, s->done ? "no usage before [DONE]" : "ended without [DONE]");
    } else {
        l->totals.done++;
        l->totals.tokens += s->tokens;
        l->totals.events += s->events;
        if (!event_reader_keeps(&s->reader))
            close_stream(l, s);
    }
    if (now() < l->until)
        begin(l, s);
    else
        close_stream(l, s);
}

static void pull(struct load *l, struct stream *s)
{
    char bytes[65536];
    ssize_t n = read(s->fd, bytes, sizeof(bytes));
    enum reading reading;

    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0) {
        fail(l, s, strerror(errno));
        return;
    }
    reading = event_reader_add(&s->reader, bytes, (size_t)n);
    if (reading == READ_WRONG)
        fail(l, s, "not the answer hoped for");
    else if (n == 0 || reading == READ_WHOLE)
        complete(l, s);
}

static void ready(struct load *l, struct stream *s, unsigned events)
{
    if (s->connecting) {
        int error = 0;
        socklen_t len = sizeof(error);

        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error) {
            fail(l, s, strerror(error));
            return;
        }
        s->connecting = false;
    }
    if (events & EPOLLOUT)
        push(l, s);
    if (s->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        pull(l, s);
}

static void run_streams(struct load *l)
{
    struct epoll_event e[EVENTS];
    double heard = now();

    for (int i = 0; i < l->plan->streams; i++) {
        l->stream[i].fd = -1;
        begin(l, &l->stream[i]);
    }
    while (l->open && now() - heard < STALL_SECONDS) {
        int n = epoll_wait(l->epoll, e, EVENTS, 1000);

        if (n > 0)
            heard = now();
        for (int i = 0; i < n; i++)
            ready(l, e[i].data.ptr, e[i].events);
    }
    for (int i = 0; i < l->plan->streams; i++)
        if (l->stream[i].fd >= 0)
            fail(l, &l->stream[i], "silent for a minute");
}

static int open_files(int pid)
{
    char path[64];
    int n = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *dir = pid > 0 ? opendir(path) : NULL;

    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* Connections that say nothing; how many there are. */
static int open_idle(const struct load *l, int *fd)
{
    int n = 0;

    for (int i = 0; i < l->plan->idle; i++) {
        fd[i] = dial(l->address);
        n += fd[i] >= 0;
        if (i % 128 == 127) /* no more at once than a backlog holds */
            nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    }
    /* The kernel accepts before the server does. */
    for (int i = 0; i < 100 && l->plan->pid > 0 && open_files(l->plan->pid) < n; i++)
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    return n;
}

/* Those that the server has not closed. */
static int count_open(const int *fd, int n)
{
    int open = 0;
    char byte;

    for (int i = 0; i < n; i++)
        open += fd[i] >= 0 && recv(fd[i], &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
    return open;
}

static bool read_plan(struct plan *p, int argc, char **argv)
{
    double seconds = 0, streams = p->streams, tokens = p->tokens, idle = 0, pid = 0;
    const struct {
        const char *name, **text;
        double *number;
    } option[] = {
        { "--host", &p->host, NULL },
        { "--port", &p->port, NULL },
        { "--text", &p->prompt, NULL },
        { "--streams", NULL, &streams },
        { "--tokens", NULL, &tokens },
        { "--idle", NULL, &idle },
        { "--seconds", NULL, &seconds },
        { "--pid", NULL, &pid },
        { "--temperature", NULL, &p->temperature },
    };
    const int options = sizeof(option) / sizeof(option[0]);

    for (int i = 1; i < argc; i += 2) {
        char *end = "";
        int k = 0;

        while (k < options && strcmp(argv[i], option[k].name) != 0)
            k++;
        if (k == options || i + 1 == argc)
            return false;
        if (option[k].text)
            *option[k].text = argv[i + 1];
        else
            *option[k].number = strtod(argv[i + 1], &end);
        if (*end)
            return false;
    }
    p->seconds = seconds;
    p->streams = (int)streams;
    p->tokens = (int)tokens;
    p->idle = (int)idle;
    p->pid = (int)pid;
    return streams >= 0 && streams < 1e6 && tokens > 0 && idle >= 0 && idle < 1e6;
}

static bool prepare(struct load *l)
{
    const struct plan *p = l->plan;
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    const struct rlimit files = { 1 << 20, 1 << 20 };
    struct rlimit most;
    char body[REQUEST_BYTES / 2];
    int len;

    if (setrlimit(RLIMIT_NOFILE, &files) < 0 && getrlimit(RLIMIT_NOFILE, &most) == 0) {
        most.rlim_cur = most.rlim_max;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    if (getaddrinfo(p->host, p->port, &hints, &l->address) != 0)
        return false;
    len = snprintf(body, sizeof(body),
                   "{\"prompt\":\"%s\",\"max_tokens\":%d,\"stream\":true,\"ignore_eos\":true,"
                   "\"temperature\":%g,\"stream_options\":{\"include_usage\":true}}",
                   p->prompt, p->tokens, p->temperature);
    if (len >= (int)sizeof(body))
        return false;
    l->request_len = (size_t)snprintf(l->request, sizeof(l->request),
                                      "POST /v1/completions HTTP/1.1\r\nHost: %s:%s\r\n"
                                      "Content-Type: application/json\r\n"
                                      "Content-Length: %d\r\n\r\n%s",
                                      p->host, p->port, len, body);
    l->stream = calloc((size_t)p->streams + 1, sizeof(*l->stream));
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    return l->request_len < sizeof(l->request) && l->stream && l->epoll >= 0;
}

static void print_totals(struct totals *t, double seconds)
{
    printf("%zu completions, %zu errors, %llu tokens in %.2f s: %.0f tokens/s, %.2f tokens an "
           "event\n",
           t->done, t->errors, t->tokens, seconds, (double)t->tokens / seconds,
           t->events ? (double)t->tokens / (double)t->events : 0.0);
    if (t->errors)
        printf("first error: %s\n", t->problem);
    printf("\n| ms | p50 | p90 | p99 | max |\n|---|---|---|---|---|\n");
    print_list("to the first event", &t->first);
    print_list("between events", &t->gap);
}

int main(int argc, char **argv)
{
    struct plan plan = { .host = "127.0.0.1",
                         .port = "8080",
                         .prompt = "Once upon a time",
                         .streams = 16,
                         .tokens = 64,
                         .temperature = 1 };
    struct load load = { .plan = &plan, .epoll = -1 };
    long before, after;
    double began;
    int *idle, idle_open;

    if (!read_plan(&plan, argc, argv)) {
        fprintf(stderr, "usage: loadgen [--host H] [--port P] [--streams N] [--tokens N] "
                        "[--seconds S] [--temperature T] [--text PROMPT] [--idle N] [--pid PID]\n");
        return 2;
    }
    idle = calloc((size_t)plan.idle + 1, sizeof(*idle));
    if (!idle || !prepare(&load)) {
        fprintf(stderr, "loadgen: cannot prepare for %s:%s\n", plan.host, plan.port);
        return 1;
    }
    before = resident(plan.pid);
    idle_open = open_idle(&load, idle);
    after = resident(plan.pid);
    if (plan.idle)
        printf("%d of %d idle connections: %ld kB before, %ld kB with them, %.2f kB each\n",
               idle_open, plan.idle, before, after,
               idle_open ? (double)(after - before) / idle_open : 0.0);
    began = now();
    load.until = began + plan.seconds;
    run_streams(&load);
    print_totals(&load.totals, now() - began);
    if (plan.idle)
        printf("\n%d idle connections are still open; the server holds %ld kB\n",
               count_open(idle, plan.idle), resident(plan.pid));
    for (int i = 0; i < plan.idle; i++)
        if (idle[i] >= 0)
            close(idle[i]);
    freeaddrinfo(load.address);
    close(load.epoll);
    free(load.totals.first.value);
    free(load.totals.gap.value);
    free(load.stream);
    free(idle);
    return load.totals.errors ? 1 : 0;
}
