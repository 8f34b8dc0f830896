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
    struct tiers_options options;
    size_t host_bytes;
    int checkpoints; /* that have a record and are kept */
    int on_device, reserved;
    struct checkpoint *spare, *newest_spare; /* oldest first, each with a record */
    int spares;
    uint64_t clock, parks, unparks, dropped;
};

struct tiers *tiers_create(struct backend *backend, const struct tiers_options *options,
                           struct error *err)
{
    struct tiers *t = calloc(1, sizeof(*t));

    if (!t || !(t->resident = calloc((size_t)options->slots, sizeof(*t->resident)))) {
        error_set(err, ERR_NOMEM, "no memory for %d slots", options->slots);
        tiers_destroy(t);
        return NULL;
    }
    t->options = *options;
    t->slots = slots_create(backend, options->record_bytes, options->slots, err);
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
    assert(t->checkpoints == 0 && t->spares == 0);
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

static bool has_bytes(const struct checkpoint *c)
{
    return c->slot >= 0 || c->record;
}

bool tiers_has_record(const struct checkpoint *c)
{
    return has_bytes(c) || c->position == 0;
}

static void drop_record(struct tiers *t, struct checkpoint *c)
{
    if (c->slot >= 0)
        leave_slot(t, c);
    if (c->record)
        t->host_bytes -= t->options.record_bytes;
    free(c->record);
    c->record = NULL;
}

static void add_spare(struct tiers *t, struct checkpoint *c)
{
    c->spare_next = NULL;
    c->spare_before = t->newest_spare;
    if (t->newest_spare)
        t->newest_spare->spare_next = c;
    else
        t->spare = c;
    t->newest_spare = c;
    t->spares++;
}

static void remove_spare(struct tiers *t, struct checkpoint *c)
{
    if (c->spare_before)
        c->spare_before->spare_next = c->spare_next;
    else
        t->spare = c->spare_next;
    if (c->spare_next)
        c->spare_next->spare_before = c->spare_before;
    else
        t->newest_spare = c->spare_before;
    t->spares--;
}

static void drop_spare(struct tiers *t, struct checkpoint *c)
{
    remove_spare(t, c);
    drop_record(t, c);
    t->dropped++;
}

static void bound_spares(struct tiers *t)
{
    size_t most = t->options.spare_bytes / t->options.record_bytes;

    while ((size_t)t->spares > most)
        drop_spare(t, t->spare);
}

/* The oldest spare in host memory, or on the device; NULL: none. */
static struct checkpoint *find_spare(const struct tiers *t, bool device)
{
    struct checkpoint *c = t->spare;

    while (c && (c->slot >= 0) != device)
        c = c->spare_next;
    return c;
}

static bool make_host_room(struct tiers *t)
{
    while (t->host_bytes + t->options.record_bytes > t->options.host_bytes) {
        struct checkpoint *spare = find_spare(t, false);

        if (!spare)
            return false;
        drop_spare(t, spare);
    }
    return true;
}

static bool park(struct tiers *t, struct checkpoint *c)
{
    void *record;

    if (!make_host_room(t) || !(record = malloc(t->options.record_bytes)))
        return false;
    c->record = record;
    slots_download(t->slots, c->slot, record);
    leave_slot(t, c);
    t->host_bytes += t->options.record_bytes;
    t->parks++;
    return true;
}

/* Frees a slot; false when every one is worked in, or what would be parked finds no room. */
static bool make_slot(struct tiers *t)
{
    struct checkpoint *coldest = find_coldest(t), *spare;

    if (!coldest)
        return false;
    if (park(t, coldest))
        return true;
    spare = find_spare(t, true);
    if (spare)
        drop_spare(t, spare);
    return spare != NULL;
}

int tiers_start(struct tiers *t, struct checkpoint *from)
{
    int slot = slots_acquire(t->slots);

    if (slot < 0) {
        if (!make_slot(t))
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
    if (!tiers_has_room(t) || !make_host_room(t))
        return false;
    t->host_bytes += t->options.record_bytes;
    t->checkpoints++;
    return true;
}

struct checkpoint *tiers_keep(struct checkpoint *c)
{
    assert(c->refs > 0);
    c->refs++;
    return c;
}

void tiers_release(struct tiers *t, struct checkpoint *c)
{
    if (!c || --c->refs > 0)
        return;
    t->checkpoints -= has_bytes(c);
    if (!c->memories) {
        drop_record(t, c);
        checkpoint_destroy(c);
    } else if (has_bytes(c)) {
        add_spare(t, c);
        bound_spares(t);
    }
}

struct checkpoint *tiers_remember(struct checkpoint *c)
{
    c->memories++;
    return c;
}

void tiers_forget(struct tiers *t, struct checkpoint *c)
{
    if (--c->memories > 0 || c->refs > 0)
        return;
    if (has_bytes(c))
        remove_spare(t, c);
    drop_record(t, c);
    checkpoint_destroy(c);
}

bool tiers_recall(struct tiers *t, struct checkpoint *c)
{
    if (c->refs == 0 && has_bytes(c)) {
        if (!tiers_has_room(t))
            return false;
        remove_spare(t, c);
        t->checkpoints++;
    }
    if (!tiers_has_record(c))
        return false;
    c->refs++;
    return true;
}

bool tiers_copy(struct tiers *t, struct checkpoint *c, int slot)
{
    int to;

    assert(c->refs == 0 && c->memories && !has_bytes(c));
    if (t->options.spare_bytes < t->options.record_bytes)
        return false;
    to = slots_acquire(t->slots);
    if (to >= 0) {
        slots_copy(t->slots, to, slot);
        c->slot = to;
        t->resident[to] = c;
        t->on_device++;
    } else {
        if (!make_host_room(t) || !(c->record = malloc(t->options.record_bytes)))
            return false;
        slots_download(t->slots, slot, c->record);
        t->host_bytes += t->options.record_bytes;
    }
    c->used = ++t->clock;
    add_spare(t, c);
    bound_spares(t);
    return true;
}

struct checkpoint *tiers_export(struct tiers *t, const struct checkpoint *c)
{
    struct checkpoint *copy = checkpoint_copy(c);

    if (!copy || (c->slot < 0 && !c->record))
        return copy;
    copy->record = malloc(t->options.record_bytes);
    if (!copy->record) {
        checkpoint_destroy(copy);
        return NULL;
    }
    if (c->slot >= 0)
        slots_download(t->slots, c->slot, copy->record);
    else
        memcpy(copy->record, c->record, t->options.record_bytes);
    return copy;
}

size_t tiers_room(const struct tiers *t)
{
    return t->options.host_bytes / t->options.record_bytes + (size_t)slots_count(t->slots) - 1;
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
        .spares = t->spares,
        .device_bytes = (size_t)t->on_device * t->options.record_bytes,
        .host_bytes = t->host_bytes,
        .parks = t->parks,
        .unparks = t->unparks,
        .zeroed = slots_zeroed(t->slots),
        .dropped = t->dropped,
    };
}
