/* run.c - `eddy run`: the server's engine in a terminal.
 *
 * With -p one completion; without, a line of standard input is a turn of one session, and a
 * line that begins with a slash is a command. stdout gets the model's text and nothing else.
 * Ctrl-C cancels the running turn, which leaves the session where it was; Ctrl-D ends. Where no
 * terminal is at both ends, the exit status says whether any line failed; the others are obeyed. */
#include "server/cli/cli.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/error.h"
#include "config/options.h"
#include "models/text/chat_template.h"
#include "models/text/tokenizer.h"
#include "server/api/api.h"
#include "server/cli/branches.h"
#include "server/cli/local.h"

struct terminal {
    struct local local;
    const struct options *options;
    const struct chat_template *template; /* NULL: lines are continued as they are */
    struct branches branches;
    bool talking; /* somebody sits at both ends */
    bool failed;  /* a line */
};

static volatile sig_atomic_t interrupted;
static sem_t *interrupt_news; /* of the one terminal there is */

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
    if (interrupt_news)
        sem_post(interrupt_news);
}

/* Blocked while threads are started: the signal is for the thread that reads the lines. */
static void block_interrupts(int how)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    pthread_sigmask(how, &set, NULL);
}

static void complain(struct terminal *t, const char *message)
{
    fprintf(stderr, "eddy: %s\n", message);
    t->failed = true;
}

static bool add_stops(struct turn *t, const struct chat_template *template)
{
    enum { STOPS = sizeof(template->stop) / sizeof(template->stop[0]) };

    t->stop = calloc(STOPS, sizeof(*t->stop));
    for (int i = 0; t->stop && i < STOPS && template->stop[i]; i++)
        snprintf(t->stop[t->stops++], sizeof(*t->stop), "%s", template->stop[i]);
    return t->stop != NULL;
}

/* What the model is to take in for a line, after a context that ended as `at` says. */
static bool render(const struct terminal *t, const char *line, size_t len,
                   const struct session_info *at, struct text_buffer *out)
{
    const struct chat_message message = { CHAT_USER, line, len };
    size_t seen = strlen(at->tail);

    if (!t->template->render(&message, 1, at->answer_open, true, out))
        return false;
    if (seen && seen <= out->len && !memcmp(out->bytes, at->tail, seen)) {
        out->len -= seen; /* the stop string is part of the context already */
        memmove(out->bytes, out->bytes + seen, out->len);
    }
    return true;
}

/* A turn with the line as its prompt; an empty line lets the model go on. NULL: said why. */
static struct command *compose(struct terminal *t, const char *line, size_t len,
                               const struct session_info *at)
{
    const struct options *o = t->options;
    struct command *c = command_create(COMMAND_TURN, NULL);
    struct text_buffer text = { 0 };
    struct token_list tokens = { 0 };
    struct error err = { ERR_NOMEM, "no memory for the prompt" };
    bool ok = c != NULL, chat = t->template && len > 0;

    if (ok && t->template)
        ok = add_stops(&c->turn, t->template);
    if (ok && chat)
        ok = render(t, line, len, at, &text);
    if (ok)
        ok = tokenizer_encode(t->local.parts.tokenizer, chat ? text.bytes : line,
                              chat ? text.len : len, true, &tokens, &c->turn.lead, &err);
    free(text.bytes);
    if (!ok) {
        complain(t, err.message);
        free(tokens.id);
        command_free(c);
        return NULL;
    }
    c->session = at->id;
    c->turn.prompt = tokens.id;
    c->turn.prompt_len = tokens.count;
    c->turn.max_tokens = o->tokens;
    c->turn.chat = t->template != NULL;
    c->turn.sampling.temperature = (float)o->temperature;
    c->turn.sampling.top_k = o->top_k;
    c->turn.sampling.top_p = (float)o->top_p;
    c->turn.sampling.seeded = true; /* or a turn taken back would come again word for word */
    c->turn.sampling.seed = o->seed >= 0 ? (uint64_t)o->seed : id_random();
    return c;
}

/* Prints the turn's text as it comes. false: it failed or was cancelled, and said so. */
static bool stream(struct terminal *t, struct command *c)
{
    struct local *l = &t->local;
    bool answered = false, ended_line = true;

    if (!engine_send(l->engine, c))
        answered = !problem_set(&c->problem, PROBLEM_QUEUE_FULL, NULL, "the queue is full");
    while (!answered) {
        struct event *e = local_wait(l);

        if (interrupted && !atomic_exchange(&c->cancelled, true))
            engine_nudge(l->engine);
        if (e && e->kind == EVENT_TEXT && e->text.len) {
            fwrite(e->text.bytes, 1, e->text.len, stdout);
            fflush(stdout);
            ended_line = e->text.bytes[e->text.len - 1] == '\n';
        }
        answered = e && e->kind == EVENT_ANSWER;
        event_free(e);
    }
    if (!ended_line && isatty(STDOUT_FILENO))
        putchar('\n');
    fflush(stdout);
    if (c->problem.what == PROBLEM_NONE)
        return true;
    if (c->problem.what == PROBLEM_CANCELLED)
        fprintf(stderr, "(cancelled: the session is where it was)\n");
    else
        complain(t, c->problem.message);
    return false;
}

static int run_once(struct terminal *t)
{
    const struct session_info nowhere = { 0 };
    const char *text = t->options->prompt;
    struct command *c = compose(t, text, strlen(text), &nowhere);
    bool ok = c && stream(t, c);

    command_free(c);
    return ok && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void take_turn(struct terminal *t, const char *line, size_t len)
{
    struct session_info at;
    struct problem problem;
    struct command *c;

    if (!branches_look(&t->branches, &at, &problem)) {
        complain(t, problem.message);
        return;
    }
    c = compose(t, line, len, &at);
    if (c)
        stream(t, c);
    command_free(c);
}

static void print_help(void)
{
    fprintf(stderr,
            "  /save FILE  write the session's state\n"
            "  /load FILE  go on from a saved state\n"
            "  /undo       back to before the last turn, and again to before the one before\n"
            "  /fork       go on in a copy of the session\n"
            "  /back       leave the copy: back to where it was made\n"
            "  /help       this\n"
            "An empty line lets the model go on. Ctrl-C cancels a turn, Ctrl-D ends.\n");
}

static void obey(struct terminal *t, char *line)
{
    static const struct {
        const char *name;
        bool (*act)(struct branches *b, const char *argument, struct problem *p);
        bool argument;
    } verb[] = {
        { "/save", branches_save, true },  { "/load", branches_load, true },
        { "/undo", branches_undo, false }, { "/fork", branches_fork, false },
        { "/back", branches_back, false },
    };
    char *argument = line + strcspn(line, " ");
    struct problem problem;

    if (*argument)
        *argument++ = 0;
    for (size_t i = 0; i < sizeof(verb) / sizeof(verb[0]); i++) {
        if (strcmp(line, verb[i].name) != 0)
            continue;
        if (verb[i].argument && !*argument)
            complain(t, "the name of a file is missing");
        else if (!verb[i].act(&t->branches, argument, &problem))
            complain(t, problem.message);
        else
            fprintf(stderr, "(%s)\n", branches_note(&t->branches));
        return;
    }
    if (strcmp(line, "/help") != 0)
        complain(t, "there is no such command");
    print_help();
}

/* The next line without its end; false at the end of the input. */
static bool read_line(struct terminal *t, char **line, size_t *capacity, size_t *len)
{
    for (;;) {
        ssize_t n;

        interrupted = 0;
        if (t->talking)
            fputs("> ", stderr);
        n = getline(line, capacity, stdin);
        if (n < 0 && errno == EINTR && !feof(stdin)) {
            clearerr(stdin);
            fputc('\n', stderr);
            continue;
        }
        if (n < 0)
            return false;
        if (n > 0 && (*line)[n - 1] == '\n')
            (*line)[--n] = 0;
        *len = (size_t)n;
        return true;
    }
}

static int run_session(struct terminal *t)
{
    char *line = NULL;
    size_t capacity = 0, len;
    struct problem problem;

    if (!branches_init(&t->branches, &t->local, &problem)) {
        complain(t, problem.message);
        return EXIT_FAILURE;
    }
    t->talking = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    if (t->talking)
        fprintf(stderr, "%s, %s; /help lists the commands.\n", t->local.parts.name,
                t->template ? t->template->name : "plain completion");
    while (read_line(t, &line, &capacity, &len)) {
        if (line[0] == '/')
            obey(t, line);
        else
            take_turn(t, line, len);
    }
    if (t->talking)
        fputc('\n', stderr);
    free(line);
    return ferror(stdout) || (t->failed && !t->talking) ? EXIT_FAILURE : EXIT_SUCCESS;
}

static bool open_terminal(struct terminal *t, struct error *err)
{
    const struct options *o = t->options;
    const struct engine_options limits = { .slots = 4,
                                           .max_batch = 1,
                                           .row_budget = o->row_budget,
                                           .max_queue = 4,
                                           .max_sessions = BRANCHES_MAX + 1,
                                           .host_bytes = o->host_memory,
                                           .spare_bytes = o->cache_memory };
    struct api chooser = { .options = o };

    if (!local_open(&t->local, o, &limits, err))
        return false;
    chooser.tokenizer = t->local.parts.tokenizer;
    if (!api_choose_template(&chooser, err))
        return false;
    t->template = chooser.template;
    return local_start(&t->local, err);
}

int cli_run(const struct options *o)
{
    const struct sigaction action = { .sa_handler = on_interrupt }; /* calls are interrupted */
    struct terminal t = { .options = o };
    struct error err;
    int status = EXIT_USAGE;

    block_interrupts(SIG_BLOCK);
    if (!open_terminal(&t, &err)) {
        fprintf(stderr, "eddy: %s\n", err.message);
    } else {
        interrupt_news = &t.local.news;
        sigaction(SIGINT, &action, NULL);
        block_interrupts(SIG_UNBLOCK);
        status = o->prompt ? run_once(&t) : run_session(&t);
        block_interrupts(SIG_BLOCK);
        interrupt_news = NULL;
    }
    local_close(&t.local);
    return status;
}
