#include "server/state/tiers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "server/state/checkpoint.h"
#include "server/state/placement.h"
#include "server/state/record.h"

/* What may lose its record, each list coldest first. */
enum listed {
    UNLISTED,
    SPARE,  /* with a record anywhere in memory, and not kept */
    STORED, /* kept, in host memory and also in the store */
    PINNED, /* the same, under a snapshot */
    LISTS,
};

enum { HOST = -1 }; /* where others are on a device, by number */

struct list {
    struct checkpoint *first, *last;
    size_t count;
};

struct tiers {
    struct tiers_options options;
    struct slots *slots;
    int devices;
    struct checkpoint **resident; /* [all slots] whose record it holds; NULL: free or worked in */
    int residents[DEVICES_MAX];
    struct list list[LISTS];
    struct record_pool *pool; /* of the records in host memory */
    void *crossing;           /* one by which states go from device to device; NULL with one */
    size_t host_bytes;
    uint64_t store_bytes;       /* of the files of those that are kept */
    int64_t claimed;            /* what files on their way will add to that */
    size_t checkpoints, stored; /* kept ones that have a record; of them, in the store */
    size_t reserved, lifted;
    uint64_t clock, dropped;
    struct tiers_moves moves;
};

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

static int device_of(const struct tiers *t, int slot)
{
    return slots_place(t->slots, slot).device;
}

static bool has_bytes(const struct checkpoint *c)
{
    return c->slot >= 0 || c->record;
}

bool tiers_has_record(const struct checkpoint *c)
{
    return has_bytes(c) || (c->stored && !c->damaged) || c->position == 0;
}

static void unlist(struct tiers *t, struct checkpoint *c)
{
    struct list *l = &t->list[c->listed];

    if (c->listed == UNLISTED)
        return;
    *(c->before ? &c->before->next : &l->first) = c->next;
    *(c->next ? &c->next->before : &l->last) = c->before;
    c->before = c->next = NULL;
    c->listed = UNLISTED;
    l->count--;
}

static enum listed list_of(const struct checkpoint *c)
{
    if (c->refs == 0)
        return c->memories && has_bytes(c) ? SPARE : UNLISTED;
    if (!c->record || !c->stored)
        return UNLISTED;
    return c->pins ? PINNED : STORED;
}

/* Puts it at the end of the list where it belongs now. */
static void relist(struct tiers *t, struct checkpoint *c)
{
    enum listed to = list_of(c);
    struct list *l = &t->list[to];

    unlist(t, c);
    if (to == UNLISTED)
        return;
    c->listed = (unsigned char)to;
    c->before = l->last;
    *(l->last ? &l->last->next : &l->first) = c;
    l->last = c;
    l->count++;
}

/* Its slot, which is nobody's record any more. */
static int take_slot(struct tiers *t, struct checkpoint *c)
{
    int slot = c->slot;

    t->resident[slot] = NULL;
    t->residents[device_of(t, slot)]--;
    c->slot = -1;
    return slot;
}

static void leave_slot(struct tiers *t, struct checkpoint *c)
{
    slots_release(t->slots, take_slot(t, c));
}

static void drop_record(struct tiers *t, struct checkpoint *c)
{
    unlist(t, c);
    if (c->slot >= 0)
        leave_slot(t, c);
    if (!c->record)
        return;
    slots_arrival(t->slots, c->record, false); /* so that it is known for still, if it is */
    t->host_bytes -= t->options.record_bytes;
    record_release(c->record);
    c->record = NULL;
}

static void drop_spare(struct tiers *t, struct checkpoint *c)
{
    drop_record(t, c);
    t->dropped++;
    if (t->options.lost)
        t->options.lost(t->options.arg, c);
}

static void bound_spares(struct tiers *t)
{
    size_t most = t->options.spare_bytes / t->options.record_bytes;

    while (t->list[SPARE].count > most)
        drop_spare(t, t->list[SPARE].first);
}

/* The oldest spare in host memory (HOST), or on a device; NULL: none. */
static struct checkpoint *find_spare(const struct tiers *t, int where)
{
    struct checkpoint *c = t->list[SPARE].first;

    while (c && (c->slot < 0 ? HOST : device_of(t, c->slot)) != where)
        c = c->next;
    return c;
}

static bool make_host_room(struct tiers *t)
{
    while (t->host_bytes + t->options.record_bytes > t->options.host_bytes) {
        struct checkpoint *spare = find_spare(t, HOST), *c = t->list[STORED].first
                                                                 ? t->list[STORED].first
                                                                 : t->list[PINNED].first;

        if (spare) {
            drop_spare(t, spare);
        } else if (c) {
            drop_record(t, c);
            t->moves.host_store++;
        } else {
            return false;
        }
    }
    return true;
}

/* What the slot holds now is on its way to host memory. NULL: no room. */
static void *fetch(struct tiers *t, int slot)
{
    void *record = make_host_room(t) ? record_take(t->pool) : NULL;

    if (!record)
        return NULL;
    slots_fetch(t->slots, slot, record);
    t->host_bytes += t->options.record_bytes;
    t->moves.device_host++;
    return record;
}

static bool park(struct tiers *t, struct checkpoint *c)
{
    c->record = fetch(t, c->slot);
    if (!c->record && !c->stored)
        return false;
    t->moves.device_store += !c->record;
    leave_slot(t, c);
    if (c->refs)
        relist(t, c);
    return true;
}

static bool is_colder(const struct checkpoint *a, const struct checkpoint *b)
{
    return !b || (!a->pins == !b->pins ? a->used < b->used : !a->pins);
}

static struct checkpoint *find_coldest(const struct tiers *t, int device, bool stored)
{
    const int first = device * t->options.slots;
    struct checkpoint *coldest = NULL;

    for (int i = first; i < first + t->options.slots; i++) {
        struct checkpoint *c = t->resident[i];

        if (c && (c->stored || !stored) && is_colder(c, coldest))
            coldest = c;
    }
    return coldest;
}

/* Without room in host memory only what is stored can leave, after the spares. NULL: they are
 * first, or nothing can. */
static struct checkpoint *find_leaver(struct tiers *t, int device)
{
    struct checkpoint *coldest = find_coldest(t, device, false);

    if (coldest->stored || make_host_room(t))
        return coldest;
    return find_spare(t, device) ? NULL : find_coldest(t, device, true);
}

/* Of what nobody keeps but whoever starts from it, the slot is worked in when there is no other. */
static int take_over(struct tiers *t, struct checkpoint *from, int device)
{
    if (!from || from->slot < 0 || device_of(t, from->slot) != device || from->refs > 1)
        return -1;
    t->checkpoints -= !from->stored;
    t->dropped += from->memories > 0;
    return take_slot(t, from);
}

/* -1 when what would make room has none itself. */
static int acquire_on(struct tiers *t, int device, struct checkpoint *from)
{
    int slot = slots_acquire(t->slots, device);
    struct checkpoint *leaver, *spare;

    if (slot >= 0)
        return slot;
    leaver = find_leaver(t, device);
    if (leaver && leaver == from && from->stored) { /* its slot is worked in */
        t->moves.device_store++;
        return take_slot(t, from);
    }
    if (!leaver || !park(t, leaver)) {
        spare = find_spare(t, device);
        if (!spare)
            return take_over(t, from, device);
        drop_spare(t, spare);
    }
    return slots_acquire(t->slots, device);
}

static void count_slots(const struct tiers *t, struct placement device[DEVICES_MAX])
{
    for (int i = 0; i < t->devices; i++) {
        struct placement *d = &device[i];

        d->free = slots_free(t->slots, i);
        d->resident = t->residents[i];
        d->worked = t->options.slots - d->free - d->resident;
    }
}

/* from: may be NULL. */
static int acquire(struct tiers *t, struct checkpoint *from)
{
    const int home = from && from->slot >= 0 ? device_of(t, from->slot) : -1;
    struct placement device[DEVICES_MAX];
    unsigned tried = 0;
    int slot = -1, best;

    count_slots(t, device);
    while (slot < 0 &&
           (best = placement_choose(device, t->devices, t->options.at_once, home, tried)) >= 0) {
        slot = acquire_on(t, best, from);
        tried |= 1u << best;
    }
    return slot;
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
    t->moves.device_device += device_of(t, slot) != device_of(t, from->slot);
    return slots_copy(t->slots, slot, from->slot, t->crossing);
}

static int start_empty(struct tiers *t, struct checkpoint *from)
{
    int slot = acquire(t, from);

    if (slot >= 0)
        slots_clear(t->slots, slot);
    return slot;
}

static int start_from(struct tiers *t, struct checkpoint *from)
{
    int slot;

    from->used = ++t->clock;
    if (!has_bytes(from))
        return start_empty(t, from);
    slot = acquire(t, from);
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
    unlist(t, from); /* it is not what makes way */
    slot = start_from(t, from);
    relist(t, from);
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
    assert(!has_bytes(c) && !t->resident[slot]);
    c->slot = slot;
    c->used = ++t->clock;
    t->resident[slot] = c;
    t->residents[device_of(t, slot)]++;
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
    drop_record(t, c);
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
        return make_host_room(t) || t->host_bytes == 0;
    return tiers_has_room(t) && make_host_room(t);
}

bool tiers_adopt(struct tiers *t, struct checkpoint *c)
{
    c->used = ++t->clock;
    if (!c->position)
        return true; /* the empty state takes no room */
    if (c->record) {
        if (!tiers_has_place(t, c))
            return false;
        t->host_bytes += t->options.record_bytes;
    }
    t->checkpoints++;
    return true;
}

bool tiers_replace(struct tiers *t, struct checkpoint *c, struct checkpoint *from)
{
    int slot = from->slot;

    if (t->options.store || from->refs > 1 || !has_bytes(from))
        return false;
    if (slot < 0) {
        drop_record(t, from);
        c->used = ++t->clock;
        t->host_bytes += t->options.record_bytes;
        return true;
    }
    take_slot(t, from);
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
    relist(t, c);
}

void tiers_lost(struct tiers *t, struct checkpoint *c)
{
    if (!has_bytes(c)) {
        c->damaged = true;
        return;
    }
    t->stored -= c->stored > 0;
    t->store_bytes -= c->stored;
    c->stored = 0;
    relist(t, c);
}

void *tiers_lift(struct tiers *t, int slot)
{
    void *record = t->options.store || tiers_has_room(t) ? fetch(t, slot) : NULL;

    if (!record)
        return NULL;
    slots_release(t->slots, slot);
    t->lifted++;
    return record;
}

int tiers_resume(struct tiers *t, void *lifted)
{
    int slot = acquire(t, NULL);

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
    assert(c->refs && !has_bytes(c));
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
    t->checkpoints -= has_bytes(c) || c->stored;
    leave_store(t, c);
    relist(t, c);
    if (c->memories) {
        if (has_bytes(c))
            bound_spares(t);
        else if (t->options.lost) /* its record was in the store alone */
            t->options.lost(t->options.arg, c);
        return;
    }
    drop_record(t, c);
    checkpoint_destroy(c);
}

void tiers_pin(struct tiers *t, struct checkpoint *c)
{
    c->pins++;
    relist(t, c);
}

void tiers_unpin(struct tiers *t, struct checkpoint *c)
{
    assert(c->pins > 0);
    c->pins--;
    relist(t, c);
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
    drop_record(t, c);
    checkpoint_destroy(c);
}

bool tiers_recall(struct tiers *t, struct checkpoint *c)
{
    if (!tiers_has_record(c))
        return false;
    if (c->refs == 0 && has_bytes(c)) {
        if (!t->options.store && !tiers_has_room(t))
            return false;
        t->checkpoints++;
    }
    c->refs++;
    relist(t, c);
    return true;
}

void tiers_find(struct tiers *t, struct checkpoint *c, uint64_t bytes)
{
    assert(c->memories || c->refs);
    if (c->refs++ == 0)
        t->checkpoints++;
    if (c->stored)
        relist(t, c);
    else
        tiers_stored(t, c, bytes);
}

/* On the same device or in host memory: another device would take one copy more. */
bool tiers_copy(struct tiers *t, struct checkpoint *c, int slot)
{
    int to;

    assert(c->refs == 0 && c->memories && !has_bytes(c));
    if (t->options.spare_bytes < t->options.record_bytes)
        return false;
    to = slots_acquire(t->slots, device_of(t, slot));
    if (to >= 0) {
        slots_copy(t->slots, to, slot, t->crossing);
        reside(t, c, to);
    } else if ((c->record = fetch(t, slot))) {
        c->used = ++t->clock;
    } else {
        return false;
    }
    relist(t, c);
    bound_spares(t);
    return true;
}

bool tiers_read(struct tiers *t, const struct checkpoint *c, void *record)
{
    assert(has_bytes(c));
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
    assert(has_bytes(c));
    return c->record ? record_keep(c->record) : tiers_hold_slot(t, c->slot);
}

struct checkpoint *tiers_export(struct tiers *t, const struct checkpoint *c)
{
    struct checkpoint *copy = checkpoint_copy(c);

    assert(!checkpoint_is_cold(c));
    if (!copy || !has_bytes(c))
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

    count_slots(t, device);
    for (int i = 0; i < t->devices; i++) {
        n.device[i] = (struct tiers_device){ device[i].worked, device[i].resident };
        n.slots_used += device[i].worked + device[i].resident;
        n.device_bytes += (size_t)device[i].resident * t->options.record_bytes;
    }
    return n;
}
