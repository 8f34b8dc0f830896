#include "server/state/tiers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "server/state/tiers_internal.h"

struct tiers *tiers_create(const struct devices *devices, const struct tiers_options *options,
                           struct error *err)
{
    const size_t slots = (size_t)devices->count * (size_t)options->slots;
    struct tiers *t = calloc(1, sizeof(*t));

    if (!t || !(t->resident = calloc(slots, sizeof(struct checkpoint *)))) {
        error_set(err, ERR_NOMEM, "no memory for %zu slots", slots);
        tiers_destroy(t);
        return NULL;
    }
    t->options = *options;
    t->devices = devices->count;
    t->slots = slots_create(devices,
                            &(struct slots_options){ .record_bytes = options->record_bytes,
                                                     .log_bytes = options->log_bytes,
                                                     .log_steps = options->log_steps,
                                                     .count = options->slots },
                            err);
    if (!t->slots) {
        tiers_destroy(t);
        return NULL;
    }
    t->pool = record_pool_create(devices->at[0].backend, options->record_bytes,
                                 options->host_bytes + (t->devices > 1) * options->record_bytes);
    if (!t->pool || (t->devices > 1 && !(t->crossing = record_take(t->pool)))) {
        error_set(err, ERR_NOMEM, "no memory for states in host memory");
        tiers_destroy(t);
        return NULL;
    }
    return t;
}

void tiers_destroy(struct tiers *t)
{
    if (!t)
        return;
    assert(t->checkpoints == 0 && t->lifted == 0 && t->list[SPARE].count == 0);
    assert(t->reserved == 0 && t->claimed == 0);
    slots_destroy(t->slots);
    record_release(t->crossing);
    record_pool_close(t->pool);
    free(t->resident);
    free(t);
}

void *tiers_records(struct tiers *t, int device)
{
    return slots_records(t->slots, device);
}

struct slot_place tiers_place(const struct tiers *t, int slot)
{
    return slots_place(t->slots, slot);
}

bool tiers_has_record(const struct checkpoint *c)
{
    return tiers_has_bytes(c) || (c->stored && !c->damaged) || c->position == 0;
}

/* From wherever it is; in its own slot there is nothing to do. false: the device that it is on, or
 * was to come from, failed. */
static bool copy_in(struct tiers *t, int slot, const struct checkpoint *from)
{
    if (from->record) {
        t->moves.host_device++;
        return slots_bring(t->slots, slot, from->record);
    }
    if (from->slot < 0)
        return true;
    t->moves.device_device += tiers_device_of(t, slot) != tiers_device_of(t, from->slot);
    return slots_copy(t->slots, slot, from->slot, t->crossing);
}

static int start_empty(struct tiers *t, struct checkpoint *from)
{
    int slot = tiers_acquire(t, from);

    if (slot >= 0)
        slots_clear(t->slots, slot);
    return slot;
}

static int start_from(struct tiers *t, struct checkpoint *from)
{
    int slot;

    from->used = ++t->clock;
    if (!tiers_has_bytes(from))
        return start_empty(t, from);
    slot = tiers_acquire(t, from);
    if (slot < 0)
        return -1;
    if (copy_in(t, slot, from))
        return slot;
    slots_release(t->slots, slot);
    return -1;
}

int tiers_start(struct tiers *t, struct checkpoint *from)
{
    int slot;

    if (!from)
        return start_empty(t, NULL);
    tiers_unlist(t, from); /* it is not what makes way */
    slot = start_from(t, from);
    tiers_relist(t, from);
    return slot;
}

bool tiers_ready(struct tiers *t, int slot)
{
    return slots_ready(t->slots, slot);
}

int tiers_advance(struct tiers *t, int slot, int rows)
{
    return slots_advance(t->slots, slot, rows);
}

void tiers_withdraw(struct tiers *t, int slot)
{
    slots_withdraw(t->slots, slot);
}

void *tiers_take_landing(struct tiers *t)
{
    void *record = slots_are_late(t->slots) ? record_take(t->pool) : NULL;

    /* Whoever had it may have left while it moved. */
    if (!record || slots_arrival(t->slots, record, false) == ARRIVAL_HERE)
        return record;
    record_release(record);
    return NULL;
}

void tiers_fill(struct tiers *t, int slot, const void *record, void *landing)
{
    if (!landing || !slots_bring(t->slots, slot, landing))
        slots_upload(t->slots, slot, record);
    t->moves.store_device++;
}

void tiers_drop(struct tiers *t, int slot)
{
    slots_release(t->slots, slot);
}

static void reside(struct tiers *t, struct checkpoint *c, int slot)
{
    assert(!tiers_has_bytes(c) && !t->resident[slot]);
    c->slot = slot;
    c->used = ++t->clock;
    t->resident[slot] = c;
    t->residents[tiers_device_of(t, slot)]++;
}

void tiers_commit(struct tiers *t, struct checkpoint *c, int slot)
{
    assert(c->refs);
    slots_settle(t->slots, slot);
    reside(t, c, slot);
    t->checkpoints++;
}

void tiers_revive(struct tiers *t, struct checkpoint *c, int slot)
{
    assert(!c->refs && c->memories);
    tiers_drop_record(t, c);
    c->refs = 1;
    tiers_commit(t, c, slot);
}

void *tiers_take_record(struct tiers *t)
{
    return record_take_still(t->pool);
}

/* Where there is a store, one can be on its way to it, however little host memory there is. */
bool tiers_has_place(struct tiers *t, const struct checkpoint *c)
{
    if (!c->record)
        return true;
    if (t->options.store)
        return tiers_make_host_room(t) || t->host_bytes == 0;
    return tiers_has_room(t) && tiers_make_host_room(t);
}

bool tiers_adopt(struct tiers *t, struct checkpoint *c)
{
    c->used = ++t->clock;
    if (!c->position)
        return true; /* the empty state takes no room */
    if (!tiers_has_place(t, c))
        return false;
    if (c->record)
        t->host_bytes += t->options.record_bytes;
    t->checkpoints++;
    return true;
}

bool tiers_replace(struct tiers *t, struct checkpoint *c, struct checkpoint *from)
{
    int slot = from->slot;

    if (t->options.store || from->refs > 1 || !tiers_has_bytes(from))
        return false;
    if (slot < 0) {
        tiers_drop_record(t, from);
        c->used = ++t->clock;
        t->host_bytes += t->options.record_bytes;
        return true;
    }
    tiers_take_slot(t, from);
    slots_upload(t->slots, slot, c->record);
    record_release(c->record);
    c->record = NULL;
    reside(t, c, slot);
    return true;
}

void tiers_stored(struct tiers *t, struct checkpoint *c, uint64_t bytes)
{
    assert(!c->stored && c->refs);
    c->stored = bytes;
    t->store_bytes += bytes;
    t->stored++;
    tiers_relist(t, c);
}

void tiers_lost(struct tiers *t, struct checkpoint *c)
{
    if (!tiers_has_bytes(c)) {
        c->damaged = true;
        return;
    }
    t->stored -= c->stored > 0;
    t->store_bytes -= c->stored;
    c->stored = 0;
    tiers_relist(t, c);
}

void *tiers_lift(struct tiers *t, int slot)
{
    void *record = t->options.store || tiers_has_room(t) ? tiers_fetch(t, slot) : NULL;

    if (!record)
        return NULL;
    slots_release(t->slots, slot);
    t->lifted++;
    return record;
}

int tiers_resume(struct tiers *t, void *lifted)
{
    int slot = tiers_acquire(t, NULL);

    if (slot < 0)
        return -1;
    if (!slots_bring(t->slots, slot, lifted)) {
        slots_release(t->slots, slot);
        return -1;
    }
    t->moves.host_device++;
    tiers_discard(t, lifted);
    return slot;
}

void tiers_commit_lifted(struct tiers *t, struct checkpoint *c, void *lifted)
{
    assert(c->refs && !tiers_has_bytes(c));
    c->record = lifted;
    c->used = ++t->clock;
    t->lifted--;
    t->checkpoints++;
}

void tiers_discard(struct tiers *t, void *lifted)
{
    record_release(lifted);
    t->lifted--;
    t->host_bytes -= t->options.record_bytes;
}

struct checkpoint *tiers_keep(struct checkpoint *c)
{
    assert(c->refs > 0);
    c->refs++;
    return c;
}

static void leave_store(struct tiers *t, struct checkpoint *c)
{
    if (!c->stored)
        return;
    t->stored--;
    t->store_bytes -= c->stored;
    c->stored = 0;
    t->options.dropped(t->options.arg, c);
}

void tiers_release(struct tiers *t, struct checkpoint *c)
{
    if (!c || --c->refs > 0)
        return;
    t->checkpoints -= tiers_has_bytes(c) || c->stored;
    leave_store(t, c);
    tiers_relist(t, c);
    if (c->memories) {
        if (tiers_has_bytes(c))
            tiers_bound_spares(t);
        else if (t->options.lost) /* its record was in the store alone */
            t->options.lost(t->options.arg, c);
        return;
    }
    tiers_drop_record(t, c);
    checkpoint_destroy(c);
}

void tiers_pin(struct tiers *t, struct checkpoint *c)
{
    c->pins++;
    tiers_relist(t, c);
}

void tiers_unpin(struct tiers *t, struct checkpoint *c)
{
    assert(c->pins > 0);
    c->pins--;
    tiers_relist(t, c);
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
    tiers_drop_record(t, c);
    checkpoint_destroy(c);
}

bool tiers_recall(struct tiers *t, struct checkpoint *c)
{
    if (!tiers_has_record(c))
        return false;
    if (c->refs == 0 && tiers_has_bytes(c)) {
        if (!t->options.store && !tiers_has_room(t))
            return false;
        t->checkpoints++;
    }
    c->refs++;
    tiers_relist(t, c);
    return true;
}

void tiers_find(struct tiers *t, struct checkpoint *c, uint64_t bytes)
{
    assert(c->memories || c->refs);
    if (c->refs++ == 0)
        t->checkpoints++;
    if (c->stored)
        tiers_relist(t, c);
    else
        tiers_stored(t, c, bytes);
}

/* On the same device or in host memory: another device would take one copy more. */
bool tiers_copy(struct tiers *t, struct checkpoint *c, int slot)
{
    int to;

    assert(c->refs == 0 && c->memories && !tiers_has_bytes(c));
    if (t->options.spare_bytes < t->options.record_bytes)
        return false;
    to = slots_acquire(t->slots, tiers_device_of(t, slot));
    if (to >= 0) {
        slots_copy(t->slots, to, slot, t->crossing);
        reside(t, c, to);
    } else if ((c->record = tiers_fetch(t, slot))) {
        c->used = ++t->clock;
    } else {
        return false;
    }
    tiers_relist(t, c);
    tiers_bound_spares(t);
    return true;
}

bool tiers_read(struct tiers *t, const struct checkpoint *c, void *record)
{
    assert(tiers_has_bytes(c));
    if (c->slot >= 0)
        return slots_download(t->slots, c->slot, record);
    if (slots_arrival(t->slots, c->record, true) != ARRIVAL_HERE)
        return false;
    memcpy(record, c->record, t->options.record_bytes);
    return true;
}

void *tiers_hold_slot(struct tiers *t, int slot)
{
    void *record = slots_are_late(t->slots) ? record_take(t->pool) : NULL;

    if (record)
        slots_fetch(t->slots, slot, record);
    return record;
}

void *tiers_hold(struct tiers *t, const struct checkpoint *c)
{
    assert(tiers_has_bytes(c));
    return c->record ? record_keep(c->record) : tiers_hold_slot(t, c->slot);
}

struct checkpoint *tiers_export(struct tiers *t, const struct checkpoint *c)
{
    struct checkpoint *copy = checkpoint_copy(c);

    assert(!checkpoint_is_cold(c));
    if (!copy || !tiers_has_bytes(c))
        return copy;
    copy->record = c->record ? record_keep(c->record) : record_take(t->pool);
    if (copy->record) {
        if (!c->record)
            slots_fetch(t->slots, c->slot, copy->record);
        return copy;
    }
    checkpoint_destroy(copy);
    return NULL;
}

enum arrival tiers_arrival(struct tiers *t, void *record)
{
    return slots_arrival(t->slots, record, false);
}

bool tiers_read_slot(struct tiers *t, int slot, void *record)
{
    return slots_download(t->slots, slot, record);
}

/* One slot is left to work in. */
static size_t memory_room(const struct tiers *t)
{
    return t->options.host_bytes / t->options.record_bytes + (size_t)slots_count(t->slots) - 1;
}

size_t tiers_room(const struct tiers *t)
{
    const struct tiers_options *o = &t->options;

    return o->store ? o->store_bytes / o->record_bytes : memory_room(t);
}

bool tiers_has_memory(const struct tiers *t)
{
    const size_t reserved = t->options.store ? 0 : t->reserved;

    return t->checkpoints - t->stored + reserved + t->lifted < memory_room(t);
}

/* Whether so many bytes fit into the store beside what is there, on its way, and reserved. */
static bool fits(const struct tiers *t, uint64_t bytes, size_t reserved)
{
    return t->store_bytes + (uint64_t)t->claimed + reserved * t->options.record_bytes + bytes <=
           t->options.store_bytes;
}

bool tiers_has_room(const struct tiers *t)
{
    if (t->options.store)
        return fits(t, t->options.record_bytes, t->reserved);
    return tiers_has_memory(t);
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

bool tiers_claim(struct tiers *t, int64_t growth, bool promised)
{
    if (growth > 0 && !fits(t, (uint64_t)growth, promised ? 0 : t->reserved))
        return false;
    t->claimed += growth;
    return true;
}

void tiers_unclaim(struct tiers *t, int64_t growth)
{
    t->claimed -= growth;
}

void tiers_rest(struct tiers *t)
{
    record_pool_rest(t->pool);
}

struct tiers_counts tiers_counts(const struct tiers *t)
{
    struct placement device[DEVICES_MAX];
    struct tiers_counts n = {
        .slots = slots_count(t->slots),
        .checkpoints = t->checkpoints,
        .stored = t->stored,
        .spares = t->list[SPARE].count,
        .host_bytes = t->host_bytes,
        .store_bytes = t->store_bytes,
        .moves = t->moves,
        .zeroed = slots_zeroed(t->slots),
        .dropped = t->dropped,
    };

    tiers_count_slots(t, device);
    for (int i = 0; i < t->devices; i++) {
        n.device[i] = (struct tiers_device){ device[i].worked, device[i].resident };
        n.slots_used += device[i].worked + device[i].resident;
        n.device_bytes += (size_t)device[i].resident * t->options.record_bytes;
    }
    return n;
}
