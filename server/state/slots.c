#include "server/state/slots.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/error.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "server/devices.h"
#include "server/state/record.h"

/* Of a device whose room is known, for what grows with use: scratch of products and draws. */
enum { RESERVE_BYTES = 1 << 30 };

struct pool {
    struct backend *backend;   /* borrowed */
    const struct model *model; /* the same; NULL: there are no logs */
    unsigned char *records;
    uint64_t *move;  /* [count] the newest that touches it and may not be done; 0: none, or what
                      * is enqueued from now on comes behind it */
    int *logged;     /* [count] steps in its log, those on their way included */
    int *free_index; /* a stack */
    int available;
};

struct slots {
    struct pool pool[DEVICES_MAX];
    int devices, count; /* count: of each pool */
    int log_steps;
    size_t bytes;  /* of a record */
    size_t stride; /* from one to the next */
    bool late;     /* moves are not done when they return */
    uint64_t zeroed;
};

/* What operations may still want to allocate when the slots are there. */
static size_t room_for_slots(struct backend *backend)
{
    size_t room = backend->room(backend);

    return room > RESERVE_BYTES ? room - RESERVE_BYTES : 0;
}

static bool refuse(const struct slots *s, struct backend *backend, struct error *err)
{
    char log[48] = "";

    if (s->stride > s->bytes)
        snprintf(log, sizeof(log), " and logs of %zu", s->stride - s->bytes);
    if (backend->room(backend))
        return error_set(err, ERR_NOMEM,
                         "%d state slots of %zu bytes%s do not fit into the memory of %s: %zu do",
                         s->count, s->bytes, log, backend->detail,
                         room_for_slots(backend) / s->stride);
    return error_set(err, ERR_NOMEM, "%d state slots of %zu bytes%s do not fit into %s memory",
                     s->count, s->bytes, log, backend->name);
}

static bool fill(const struct slots *s, struct pool *p, const struct device *device,
                 struct error *err)
{
    struct backend *backend = device->backend;
    const size_t count = (size_t)s->count;

    p->backend = backend;
    p->model = device->model;
    p->free_index = calloc(count, sizeof(*p->free_index));
    p->move = calloc(count, sizeof(*p->move));
    p->logged = calloc(count, sizeof(*p->logged));
    if (backend->room(backend) && room_for_slots(backend) / s->stride < count)
        return refuse(s, backend, err);
    p->records = backend->alloc(backend, s->stride * count);
    if (!p->free_index || !p->move || !p->logged || !p->records)
        return refuse(s, backend, err);
    for (int i = s->count - 1; i >= 0; i--)
        p->free_index[p->available++] = i;
    return true;
}

/* A move of nothing tells. */
static bool moves_take_time(struct backend *backend)
{
    char nothing = 0;

    return backend->move_out(backend, &nothing, &nothing, 0) != 0;
}

struct slots *slots_create(const struct devices *devices, const struct slots_options *options,
                           struct error *err)
{
    struct slots *s = calloc(1, sizeof(*s));

    if (!s) {
        error_set(err, ERR_NOMEM, "no memory for the state slots");
        return NULL;
    }
    s->bytes = options->record_bytes;
    s->stride = options->record_bytes + options->log_bytes;
    s->log_steps = options->log_steps;
    s->count = options->count;
    s->late = moves_take_time(devices->at[0].backend);
    for (; s->devices < devices->count; s->devices++)
        if (!fill(s, &s->pool[s->devices], &devices->at[s->devices], err))
            goto fail;
    return s;

fail:
    slots_destroy(s);
    return NULL;
}

void slots_destroy(struct slots *s)
{
    if (!s)
        return;
    for (struct pool *p = s->pool; p < s->pool + DEVICES_MAX && p->backend; p++) {
        p->backend->free(p->backend, p->records);
        free(p->free_index);
        free(p->move);
        free(p->logged);
    }
    free(s);
}

struct slot_place slots_place(const struct slots *s, int slot)
{
    assert(slot >= 0 && slot < slots_count(s));
    return (struct slot_place){ .device = slot / s->count, .index = slot % s->count };
}

static unsigned char *record(struct slots *s, struct slot_place at)
{
    return s->pool[at.device].records + (size_t)at.index * s->stride;
}

int slots_acquire(struct slots *s, int device)
{
    struct pool *p = &s->pool[device];

    if (!p->available)
        return -1;
    return device * s->count + p->free_index[--p->available];
}

/* What is enqueued from now on comes behind the moves that touch the slot. */
static void follow(struct slots *s, struct slot_place at)
{
    struct pool *p = &s->pool[at.device];

    if (p->move[at.index])
        p->backend->follow(p->backend, p->move[at.index]);
    p->move[at.index] = 0;
}

/* The record is complete for the moves that come, and for whoever follows them. */
static void settle(struct slots *s, struct slot_place at)
{
    struct pool *p = &s->pool[at.device];
    int *logged = &p->logged[at.index];

    if (*logged)
        p->move[at.index] = model_settle(p->model, p->records, at.index, *logged);
    *logged = 0;
}

/* For all of a record to be overwritten: with it goes what is in the log. */
static unsigned char *anew(struct slots *s, struct slot_place at)
{
    s->pool[at.device].logged[at.index] = 0;
    return record(s, at);
}

void slots_clear(struct slots *s, int slot)
{
    struct slot_place at = slots_place(s, slot);
    struct backend *backend = s->pool[at.device].backend;

    follow(s, at);
    backend->zero(backend, anew(s, at), s->bytes);
    s->zeroed++;
}

void slots_settle(struct slots *s, int slot)
{
    settle(s, slots_place(s, slot));
}

bool slots_ready(struct slots *s, int slot)
{
    struct slot_place at = slots_place(s, slot);
    struct pool *p = &s->pool[at.device];
    uint64_t *move = &p->move[at.index];

    if (*move && p->backend->moved(p->backend, *move, false))
        *move = 0;
    return !*move;
}

int slots_advance(struct slots *s, int slot, int rows)
{
    struct slot_place at = slots_place(s, slot);
    int *logged = &s->pool[at.device].logged[at.index], before = *logged;

    assert(rows > 0);
    *logged = rows == 1 && before + 1 < s->log_steps ? before + 1 : 0;
    return before;
}

void slots_withdraw(struct slots *s, int slot)
{
    struct slot_place at = slots_place(s, slot);
    int *logged = &s->pool[at.device].logged[at.index];

    if (s->log_steps > 1)
        *logged = (*logged ? *logged : s->log_steps) - 1;
}

void slots_release(struct slots *s, int slot)
{
    struct slot_place at = slots_place(s, slot);
    struct pool *p = &s->pool[at.device];

    assert(p->available < s->count);
    p->free_index[p->available++] = at.index;
}

void *slots_records(struct slots *s, int device)
{
    return s->pool[device].records;
}

bool slots_copy(struct slots *s, int to, int from, void *by)
{
    struct slot_place a = slots_place(s, to), b = slots_place(s, from);
    struct backend *backend = s->pool[a.device].backend;

    if (a.device == b.device) {
        settle(s, b);
        follow(s, a);
        follow(s, b);
        backend->copy(backend, anew(s, a), record(s, b), s->bytes);
        return true;
    }
    slots_fetch(s, from, by);
    return slots_bring(s, to, by);
}

bool slots_are_late(const struct slots *s)
{
    return s->late;
}

/* Devices know nothing of each other's moves. false: the other one failed. */
static bool wait_for_others(struct slots *s, const struct record_move *newest, int device)
{
    struct backend *other = s->pool[newest->device].backend;

    if (!newest->number || newest->device == device)
        return true;
    other->moved(other, newest->number, true);
    return !other->lost;
}

bool slots_bring(struct slots *s, int to, void *host)
{
    struct slot_place at = slots_place(s, to);
    struct pool *p = &s->pool[at.device];
    struct record_move *newest = record_newest_move(host);

    if (!wait_for_others(s, newest, at.device))
        return false;
    p->move[at.index] = p->backend->move_in(p->backend, anew(s, at), host, s->bytes);
    *newest = (struct record_move){ p->move[at.index], at.device };
    return true;
}

void slots_fetch(struct slots *s, int from, void *host)
{
    struct slot_place at = slots_place(s, from);
    struct pool *p = &s->pool[at.device];
    struct record_move *newest = record_newest_move(host);

    wait_for_others(s, newest, at.device);
    settle(s, at);
    p->move[at.index] = p->backend->move_out(p->backend, host, record(s, at), s->bytes);
    *newest = (struct record_move){ p->move[at.index], at.device };
}

enum arrival slots_arrival(struct slots *s, void *record, bool wait)
{
    struct record_move *newest = record_newest_move(record);
    struct backend *backend = s->pool[newest->device].backend;

    if (newest->number && !backend->moved(backend, newest->number, wait))
        return ARRIVAL_AWAITED;
    if (backend->lost)
        return ARRIVAL_FAILED;
    newest->number = 0;
    return ARRIVAL_HERE;
}

void slots_upload(struct slots *s, int to, const void *host)
{
    struct slot_place at = slots_place(s, to);
    struct backend *backend = s->pool[at.device].backend;

    backend->moved(backend, backend->move_in(backend, anew(s, at), host, s->bytes), true);
}

bool slots_download(struct slots *s, int from, void *host)
{
    struct slot_place at = slots_place(s, from);
    struct backend *backend = s->pool[at.device].backend;

    settle(s, at);
    backend->moved(backend, backend->move_out(backend, host, record(s, at), s->bytes), true);
    return !backend->lost;
}

int slots_count(const struct slots *s)
{
    return s->devices * s->count;
}

int slots_free(const struct slots *s, int device)
{
    return s->pool[device].available;
}

uint64_t slots_zeroed(const struct slots *s)
{
    return s->zeroed;
}
