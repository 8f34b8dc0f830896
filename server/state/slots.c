#include "server/state/slots.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "config/error.h"
#include "kernels/backend.h"

/* Of a device whose room is known, for what grows with use: scratch of products and draws. */
enum { RESERVE_BYTES = 512 << 20 };

struct slots {
    struct backend *backend; /* borrowed */
    unsigned char *records;
    size_t bytes;
    int *free_slot; /* a stack */
    int count, available;
    uint64_t zeroed;
};

/* What operations may still want to allocate when the slots are there. */
static size_t room_for_slots(struct backend *backend)
{
    size_t room = backend->room(backend);

    return room > RESERVE_BYTES ? room - RESERVE_BYTES : 0;
}

static void refuse(struct backend *backend, size_t record_bytes, int count, struct error *err)
{
    if (backend->room(backend))
        error_set(err, ERR_NOMEM,
                  "%d state slots of %zu bytes do not fit into the memory of %s: %zu do", count,
                  record_bytes, backend->detail, room_for_slots(backend) / record_bytes);
    else
        error_set(err, ERR_NOMEM, "%d state slots of %zu bytes do not fit into %s memory", count,
                  record_bytes, backend->name);
}

struct slots *slots_create(struct backend *backend, size_t record_bytes, int count,
                           struct error *err)
{
    struct slots *s = calloc(1, sizeof(*s));

    if (!s)
        goto no_memory;
    s->backend = backend;
    s->bytes = record_bytes;
    s->count = count;
    s->free_slot = calloc((size_t)count, sizeof(*s->free_slot));
    if (backend->room(backend) && room_for_slots(backend) / record_bytes < (size_t)count)
        goto no_memory;
    s->records = backend->alloc(backend, record_bytes * (size_t)count);
    if (!s->free_slot || !s->records)
        goto no_memory;
    for (int i = count - 1; i >= 0; i--)
        s->free_slot[s->available++] = i;
    return s;

no_memory:
    refuse(backend, record_bytes, count, err);
    slots_destroy(s);
    return NULL;
}

void slots_destroy(struct slots *s)
{
    if (!s)
        return;
    s->backend->free(s->backend, s->records);
    free(s->free_slot);
    free(s);
}

static unsigned char *record(struct slots *s, int slot)
{
    assert(slot >= 0 && slot < s->count);
    return s->records + (size_t)slot * s->bytes;
}

int slots_acquire(struct slots *s)
{
    int slot;

    if (!s->available)
        return -1;
    slot = s->free_slot[--s->available];
    s->backend->zero(s->backend, record(s, slot), s->bytes);
    s->zeroed++;
    return slot;
}

void slots_release(struct slots *s, int slot)
{
    assert(slot >= 0 && slot < s->count && s->available < s->count);
    s->free_slot[s->available++] = slot;
}

void *slots_records(struct slots *s)
{
    return s->records;
}

void slots_copy(struct slots *s, int to, int from)
{
    s->backend->copy(s->backend, record(s, to), record(s, from), s->bytes);
}

void slots_upload(struct slots *s, int to, const void *host)
{
    s->backend->upload(s->backend, record(s, to), host, s->bytes);
}

bool slots_download(struct slots *s, int from, void *host)
{
    struct error err;

    s->backend->download(s->backend, host, record(s, from), s->bytes);
    return s->backend->sync(s->backend, &err);
}

int slots_count(const struct slots *s)
{
    return s->count;
}

int slots_used(const struct slots *s)
{
    return s->count - s->available;
}

uint64_t slots_zeroed(const struct slots *s)
{
    return s->zeroed;
}
