#include "server/state/tiers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "server/state/checkpoint.h"
#include "server/state/slots.h"

struct tiers {
    struct slots *slots;
    struct checkpoint **resident; /* [slots] whose record a slot holds; NULL: free or worked in */
    size_t record_bytes, host_limit, host_bytes;
    int checkpoints; /* that have a record */
    int on_device, reserved;
    uint64_t clock, parks, unparks;
};

struct tiers *tiers_create(struct backend *backend, size_t record_bytes, int slots,
                           size_t host_bytes, struct error *err)
{
    struct tiers *t = calloc(1, sizeof(*t));

    if (!t || !(t->resident = calloc((size_t)slots, sizeof(*t->resident)))) {
        error_set(err, ERR_NOMEM, "no memory for %d slots", slots);
        tiers_destroy(t);
        return NULL;
    }
    t->record_bytes = record_bytes;
    t->host_limit = host_bytes;
    t->slots = slots_create(backend, record_bytes, slots, err);
    if (!t->slots) {
        tiers_destroy(t);
        return NULL;
    }
    return t;
}

void tiers_destroy(struct tiers *t)
{
    if (!t)
        return;
    assert(t->checkpoints == 0);
    slots_destroy(t->slots);
    free(t->resident);
    free(t);
}

void *tiers_records(struct tiers *t)
{
    return slots_records(t->slots);
}

static struct checkpoint *find_coldest(const struct tiers *t)
{
    struct checkpoint *coldest = NULL;

    for (int i = 0; i < slots_count(t->slots); i++) {
        struct checkpoint *c = t->resident[i];

        if (c && (!coldest || c->used < coldest->used))
            coldest = c;
    }
    return coldest;
}

static void leave_slot(struct tiers *t, struct checkpoint *c)
{
    t->resident[c->slot] = NULL;
    slots_release(t->slots, c->slot);
    c->slot = -1;
    t->on_device--;
}

static bool park(struct tiers *t, struct checkpoint *c)
{
    if (t->host_bytes + t->record_bytes > t->host_limit)
        return false;
    c->record = malloc(t->record_bytes);
    if (!c->record)
        return false;
    slots_download(t->slots, c->slot, c->record);
    leave_slot(t, c);
    t->host_bytes += t->record_bytes;
    t->parks++;
    return true;
}

int tiers_start(struct tiers *t, struct checkpoint *from)
{
    int slot = slots_acquire(t->slots);

    if (slot < 0) {
        struct checkpoint *coldest = find_coldest(t);

        if (!coldest || !park(t, coldest))
            return -1;
        slot = slots_acquire(t->slots);
    }
    if (!from)
        return slot;
    from->used = ++t->clock;
    if (from->slot >= 0)
        slots_copy(t->slots, slot, from->slot);
    else if (from->record) {
        slots_upload(t->slots, slot, from->record);
        t->unparks++;
    }
    return slot;
}

void tiers_drop(struct tiers *t, int slot)
{
    slots_release(t->slots, slot);
}

void tiers_commit(struct tiers *t, struct checkpoint *c, int slot)
{
    assert(c->slot < 0 && !c->record && !t->resident[slot]);
    c->slot = slot;
    c->used = ++t->clock;
    t->resident[slot] = c;
    t->on_device++;
    t->checkpoints++;
}

bool tiers_adopt(struct tiers *t, struct checkpoint *c)
{
    c->used = ++t->clock;
    if (!c->record)
        return true; /* the empty state takes no room */
    if (!tiers_has_room(t) || t->host_bytes + t->record_bytes > t->host_limit)
        return false;
    t->host_bytes += t->record_bytes;
    t->checkpoints++;
    return true;
}

struct checkpoint *tiers_keep(struct checkpoint *c)
{
    c->refs++;
    return c;
}

void tiers_release(struct tiers *t, struct checkpoint *c)
{
    if (!c || --c->refs > 0)
        return;
    t->checkpoints -= c->slot >= 0 || c->record;
    if (c->slot >= 0)
        leave_slot(t, c);
    if (c->record)
        t->host_bytes -= t->record_bytes;
    checkpoint_destroy(c);
}

struct checkpoint *tiers_export(struct tiers *t, const struct checkpoint *c)
{
    struct checkpoint *copy = checkpoint_copy(c);

    if (!copy || (c->slot < 0 && !c->record))
        return copy;
    copy->record = malloc(t->record_bytes);
    if (!copy->record) {
        checkpoint_destroy(copy);
        return NULL;
    }
    if (c->slot >= 0)
        slots_download(t->slots, c->slot, copy->record);
    else
        memcpy(copy->record, c->record, t->record_bytes);
    return copy;
}

size_t tiers_room(const struct tiers *t)
{
    return t->host_limit / t->record_bytes + (size_t)slots_count(t->slots) - 1;
}

bool tiers_has_room(const struct tiers *t)
{
    return (size_t)t->checkpoints + (size_t)t->reserved < tiers_room(t);
}

bool tiers_reserve(struct tiers *t)
{
    bool room = tiers_has_room(t);

    t->reserved += room;
    return room;
}

void tiers_unreserve(struct tiers *t)
{
    assert(t->reserved > 0);
    t->reserved--;
}

struct tiers_counts tiers_counts(const struct tiers *t)
{
    return (struct tiers_counts){
        .slots = slots_count(t->slots),
        .slots_used = slots_used(t->slots),
        .checkpoints = t->checkpoints,
        .device_bytes = (size_t)t->on_device * t->record_bytes,
        .host_bytes = t->host_bytes,
        .parks = t->parks,
        .unparks = t->unparks,
        .zeroed = slots_zeroed(t->slots),
    };
}
