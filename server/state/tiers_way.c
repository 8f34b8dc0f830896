/* tiers_way.c - what makes way, for a slot or for host memory, and the lists that say in what
 * order: spares first, then what the store has, what a snapshot keeps last. */
#include "server/state/tiers_internal.h"

bool tiers_has_bytes(const struct checkpoint *c)
{
    return c->slot >= 0 || c->record;
}

int tiers_device_of(const struct tiers *t, int slot)
{
    return slots_place(t->slots, slot).device;
}

void tiers_unlist(struct tiers *t, struct checkpoint *c)
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
        return c->memories && tiers_has_bytes(c) ? SPARE : UNLISTED;
    if (!c->record || !c->stored)
        return UNLISTED;
    return c->pins ? PINNED : STORED;
}

void tiers_relist(struct tiers *t, struct checkpoint *c)
{
    enum listed to = list_of(c);
    struct list *l = &t->list[to];

    tiers_unlist(t, c);
    if (to == UNLISTED)
        return;
    c->listed = (unsigned char)to;
    c->before = l->last;
    *(l->last ? &l->last->next : &l->first) = c;
    l->last = c;
    l->count++;
}

int tiers_take_slot(struct tiers *t, struct checkpoint *c)
{
    int slot = c->slot;

    t->resident[slot] = NULL;
    t->residents[tiers_device_of(t, slot)]--;
    c->slot = -1;
    return slot;
}

static void leave_slot(struct tiers *t, struct checkpoint *c)
{
    slots_release(t->slots, tiers_take_slot(t, c));
}

void tiers_drop_record(struct tiers *t, struct checkpoint *c)
{
    tiers_unlist(t, c);
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
    tiers_drop_record(t, c);
    t->dropped++;
    if (t->options.lost)
        t->options.lost(t->options.arg, c);
}

void tiers_bound_spares(struct tiers *t)
{
    size_t most = t->options.spare_bytes / t->options.record_bytes;

    while (t->list[SPARE].count > most)
        drop_spare(t, t->list[SPARE].first);
}

/* The oldest spare in host memory (HOST), or on a device; NULL: none. */
static struct checkpoint *find_spare(const struct tiers *t, int where)
{
    struct checkpoint *c = t->list[SPARE].first;

    while (c && (c->slot < 0 ? HOST : tiers_device_of(t, c->slot)) != where)
        c = c->next;
    return c;
}

bool tiers_make_host_room(struct tiers *t)
{
    while (t->host_bytes + t->options.record_bytes > t->options.host_bytes) {
        struct checkpoint *spare = find_spare(t, HOST), *c = t->list[STORED].first
                                                                 ? t->list[STORED].first
                                                                 : t->list[PINNED].first;

        if (spare) {
            drop_spare(t, spare);
        } else if (c) {
            tiers_drop_record(t, c);
            t->moves.host_store++;
        } else {
            return false;
        }
    }
    return true;
}

void *tiers_fetch(struct tiers *t, int slot)
{
    void *record = tiers_make_host_room(t) ? record_take(t->pool) : NULL;

    if (!record)
        return NULL;
    slots_fetch(t->slots, slot, record);
    t->host_bytes += t->options.record_bytes;
    t->moves.device_host++;
    return record;
}

static bool park(struct tiers *t, struct checkpoint *c)
{
    c->record = tiers_fetch(t, c->slot);
    if (!c->record && !c->stored)
        return false;
    t->moves.device_store += !c->record;
    leave_slot(t, c);
    if (c->refs)
        tiers_relist(t, c);
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

    if (coldest->stored || tiers_make_host_room(t))
        return coldest;
    return find_spare(t, device) ? NULL : find_coldest(t, device, true);
}

/* Of what nobody keeps but whoever starts from it, the slot is worked in when there is no other. */
static int take_over(struct tiers *t, struct checkpoint *from, int device)
{
    if (!from || from->slot < 0 || tiers_device_of(t, from->slot) != device || from->refs > 1)
        return -1;
    t->checkpoints -= !from->stored;
    t->dropped += from->memories > 0;
    return tiers_take_slot(t, from);
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
        return tiers_take_slot(t, from);
    }
    if (!leaver || !park(t, leaver)) {
        spare = find_spare(t, device);
        if (!spare)
            return take_over(t, from, device);
        drop_spare(t, spare);
    }
    return slots_acquire(t->slots, device);
}

void tiers_count_slots(const struct tiers *t, struct placement device[DEVICES_MAX])
{
    for (int i = 0; i < t->devices; i++) {
        struct placement *d = &device[i];

        d->free = slots_free(t->slots, i);
        d->resident = t->residents[i];
        d->worked = t->options.slots - d->free - d->resident;
    }
}

int tiers_acquire(struct tiers *t, struct checkpoint *from)
{
    const int home = from && from->slot >= 0 ? tiers_device_of(t, from->slot) : -1;
    struct placement device[DEVICES_MAX];
    unsigned tried = 0;
    int slot = -1, best;

    tiers_count_slots(t, device);
    while (slot < 0 &&
           (best = placement_choose(device, t->devices, t->options.at_once, home, tried)) >= 0) {
        slot = acquire_on(t, best, from);
        tried |= 1u << best;
    }
    return slot;
}
