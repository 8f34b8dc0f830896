#include "server/state/reader.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/state/checkpoint.h"
#include "server/state/file_buffer.h"
#include "server/state/format.h"
#include "server/state/record.h"

/* Buffers that wait for files: one for each thread, and one for each answer on its way to the
 * engine. */
enum { THREADS = 2, BUFFERS_KEPT = 2 * THREADS };

struct read_buffer {
    struct file_buffer file;
    struct read_buffer *next; /* that waits */
};

struct reader {
    struct reader_options options;
    pthread_t thread[THREADS];
    int threads;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t asked;
    struct recall *question, **question_end, *answer, **answer_end;
    int waiting;
    struct read_buffer *buffer; /* that wait */
    int buffers;
    bool stopping;
};

bool recall_refuse(struct problem *p)
{
    return problem_set(p, PROBLEM_STATE_DAMAGED, NULL,
                       "the stored state is damaged and not used; what stands on it can only "
                       "be deleted or replaced");
}

struct recall *recall_create(const struct id *id, void *owner)
{
    struct recall *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->id = *id;
    r->owner = owner;
    return r;
}

static void buffer_free(struct read_buffer *b)
{
    file_buffer_finish(&b->file);
    free(b);
}

/* NULL: no memory. */
static struct read_buffer *take_buffer(struct reader *r)
{
    struct read_buffer *b;

    pthread_mutex_lock(&r->mutex);
    if ((b = r->buffer)) {
        r->buffer = b->next;
        r->buffers--;
    }
    pthread_mutex_unlock(&r->mutex);
    return b ? b : calloc(1, sizeof(*b));
}

static void give_buffer(struct reader *r, struct read_buffer *b)
{
    bool keep;

    pthread_mutex_lock(&r->mutex);
    if ((keep = r->buffers < BUFFERS_KEPT)) {
        b->next = r->buffer;
        r->buffer = b;
        r->buffers++;
    }
    pthread_mutex_unlock(&r->mutex);
    if (!keep)
        buffer_free(b);
}

void reader_release(struct reader *r, struct recall *answer)
{
    if (answer->buffer)
        give_buffer(r, answer->buffer);
    checkpoint_destroy(answer->checkpoint);
    record_release(answer->landing);
    free(answer);
}

void reader_trim(struct reader *r)
{
    struct read_buffer *b, *next;

    pthread_mutex_lock(&r->mutex);
    b = r->buffer;
    r->buffer = NULL;
    r->buffers = 0;
    pthread_mutex_unlock(&r->mutex);
    for (; b; b = next) {
        next = b->next;
        buffer_free(b);
    }
}

static void set_aside(struct reader *r, struct recall *q)
{
    char what[sizeof(q->problem.message) + LIMIT_ID_BYTES + 64];
    const struct reader_options *o = &r->options;
    struct error err;
    int n = snprintf(what, sizeof(what), "state %s: %s", q->id.text, q->problem.message);
    bool moved = !o->set_aside || o->set_aside(o->store, &q->id, &err);

    if (o->set_aside)
        snprintf(what + n, sizeof(what) - (size_t)n, "; set aside as %s.corrupt", q->id.text);
    o->report(o->arg, moved ? what : err.message);
    recall_refuse(&q->problem);
}

/* It waits in the store for a server that keeps such numbers. */
static void explain_numbers(const struct reader *r, struct recall *q)
{
    problem_add(&q->problem,
                "; a server with --state-dtype %s goes on with it, here it can only be deleted or "
                "replaced",
                r->options.model->layout.bf16_bytes ? "f32" : "bf16");
}

static bool is_damage(enum problem_code what)
{
    return what == PROBLEM_SNAPSHOT_INVALID || what == PROBLEM_SNAPSHOT_CHECKSUM ||
           what == PROBLEM_SNAPSHOT_SHAPE;
}

static bool read_file(struct reader *r, struct recall *q)
{
    const struct reader_options *o = &r->options;
    struct error err = { .code = ERR_NOMEM, .message = "no memory to read the state back" };

    q->buffer = take_buffer(r);
    if (q->buffer && o->read(o->store, &q->id, &q->buffer->file, &err))
        return true;
    problem_from_error(&q->problem, &err);
    if (err.code == ERR_IO)
        q->problem.what = PROBLEM_STORAGE_ERROR;
    if (err.code == ERR_INPUT)
        q->problem.what = PROBLEM_SESSION_MOVED;
    return false;
}

static void answer(struct reader *r, struct recall *q)
{
    const struct reader_options *o = &r->options;

    if (read_file(r, q)) {
        const struct file_buffer *file = &q->buffer->file;

        q->checkpoint =
            q->whole
                ? format_decode(file->bytes, file->len, o->model, o->vocab, &q->problem)
                : format_open(file->bytes, file->len, o->model, o->vocab, &q->record, &q->problem);
    }
    if (q->record && q->landing)
        memcpy(q->landing, q->record, o->model->layout.bytes);
    if (q->problem.what == PROBLEM_NUMBERS_MISMATCH)
        explain_numbers(r, q);
    if (!q->checkpoint && is_damage(q->problem.what))
        set_aside(r, q);
}

static struct recall *next_question(struct reader *r)
{
    struct recall *q = r->question;

    if (!q)
        return NULL;
    r->question = q->next;
    if (!r->question)
        r->question_end = &r->question;
    q->next = NULL;
    return q;
}

static void *run(void *arg)
{
    struct reader *r = arg;
    struct recall *q;

    pthread_mutex_lock(&r->mutex);
    while (!r->stopping) {
        if (!(q = next_question(r))) {
            pthread_cond_wait(&r->asked, &r->mutex);
            continue;
        }
        pthread_mutex_unlock(&r->mutex);
        answer(r, q);
        pthread_mutex_lock(&r->mutex);
        *r->answer_end = q;
        r->answer_end = &q->next;
        r->options.wake(r->options.arg);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

struct reader *reader_create(const struct reader_options *options, struct error *err)
{
    struct reader *r = calloc(1, sizeof(*r));

    if (!r) {
        error_set(err, ERR_NOMEM, "no memory for the readers of states");
        return NULL;
    }
    r->options = *options;
    r->question_end = &r->question;
    r->answer_end = &r->answer;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->asked, NULL);
    while (r->threads < THREADS && pthread_create(&r->thread[r->threads], NULL, run, r) == 0)
        r->threads++;
    if (r->threads < THREADS) {
        error_set(err, ERR_NOMEM, "no thread to read states");
        reader_destroy(r);
        return NULL;
    }
    return r;
}

static void release_all(struct reader *r, struct recall *q)
{
    for (struct recall *next; q; q = next) {
        next = q->next;
        reader_release(r, q);
    }
}

void reader_destroy(struct reader *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->mutex);
    r->stopping = true;
    pthread_cond_broadcast(&r->asked);
    pthread_mutex_unlock(&r->mutex);
    for (int i = 0; i < r->threads; i++)
        pthread_join(r->thread[i], NULL);
    release_all(r, r->question);
    release_all(r, r->answer);
    reader_trim(r);
    pthread_cond_destroy(&r->asked);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}

void reader_ask(struct reader *r, struct recall *question)
{
    question->next = NULL;
    pthread_mutex_lock(&r->mutex);
    *r->question_end = question;
    r->question_end = &question->next;
    r->waiting++;
    pthread_cond_signal(&r->asked);
    pthread_mutex_unlock(&r->mutex);
}

struct recall *reader_take(struct reader *r)
{
    struct recall *q;

    pthread_mutex_lock(&r->mutex);
    q = r->answer;
    if (q) {
        r->answer = q->next;
        if (!r->answer)
            r->answer_end = &r->answer;
        r->waiting--;
    }
    pthread_mutex_unlock(&r->mutex);
    return q;
}

int reader_waiting(struct reader *r)
{
    int n;

    pthread_mutex_lock(&r->mutex);
    n = r->waiting;
    pthread_mutex_unlock(&r->mutex);
    return n;
}
