/* reader.h - threads that read checkpoints back from the store.
 *
 * Reading, hashing and proving a state takes as long as many steps of a model, so the engine
 * asks and goes on. A file that turns out damaged is set aside, out of everyone's way. Files
 * are read into a few buffers that are used again, and a record can be used where it lies.
 * Engine thread only. */
#ifndef SERVER_STATE_READER_H
#define SERVER_STATE_READER_H

#include <stdbool.h>
#include <stddef.h>

#include "config/error.h"
#include "server/problem.h"
#include "server/state/id.h"

struct checkpoint;
struct file_buffer;
struct model_info;
struct reader;

struct reader_options {
    void *store; /* borrowed; of the two below */
    /* The file's bytes. ERR_INPUT: it is not there any more. A reader's thread. */
    bool (*read)(void *store, const struct id *checkpoint, struct file_buffer *out,
                 struct error *err);
    /* Moves a damaged file out of everyone's way; NULL: the store cannot. */
    bool (*set_aside)(void *store, const struct id *checkpoint, struct error *err);
    const struct model_info *model; /* borrowed */
    int vocab;
    void (*wake)(void *arg);                     /* something can be taken; a reader's thread */
    void (*report)(void *arg, const char *what); /* for an operator; a reader's thread */
    void *arg;
};

/* One question, and its answer. */
struct recall {
    struct id id;                  /* the checkpoint's */
    void *owner;                   /* the asker's */
    struct checkpoint *of;         /* the asker's */
    bool whole;                    /* the checkpoint is to have its record in host memory */
    struct checkpoint *checkpoint; /* owned; NULL: problem says why */
    const void *record;            /* unless whole: where its record lies, or NULL */
    void *landing;                 /* owned, record.h's: the record is copied to it; may be NULL */
    struct problem problem;        /* state_damaged, model_mismatch, storage_error, out_of_memory */
    struct read_buffer *buffer;    /* the reader's */
    struct recall *next;           /* the reader's */
};

/* What is said of a checkpoint whose file was set aside; false. */
bool recall_refuse(struct problem *p);

struct recall *recall_create(const struct id *id, void *owner); /* NULL: no memory */

/* ERR_NOMEM. */
struct reader *reader_create(const struct reader_options *options, struct error *err);
/* Ends the threads; what was asked and not taken is freed. Takes NULL. */
void reader_destroy(struct reader *r);

void reader_ask(struct reader *r, struct recall *question);   /* moves it in */
struct recall *reader_take(struct reader *r);                 /* answered; NULL: none now */
void reader_release(struct reader *r, struct recall *answer); /* ends one that was taken */
int reader_waiting(struct reader *r);                         /* asked and not taken */

/* Frees the buffers that wait for files. */
void reader_trim(struct reader *r);

#endif
