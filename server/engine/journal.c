#include "server/engine/journal.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/engine/heads.h"
#include "server/engine/journal_internal.h"
#include "server/engine/share.h"
#include "server/state/checkpoint.h"
#include "server/state/disk.h"
#include "server/state/format.h"
#include "server/state/reader.h"
#include "server/state/record.h"
#include "server/state/redis.h"
#include "server/state/tiers.h"

struct entry *entry_create(void (*done)(struct engine *e, struct entry *x), struct command *command)
{
    struct entry *x = calloc(1, sizeof(*x));

    if (!x)
        return NULL;
    x->done = done;
    x->write_end = &x->write;
    x->command = command;
    x->when = checkpoint_clock();
    return x;
}

static struct file_buffer take_buffer(struct journal *j)
{
    struct file_buffer taken = { 0 };

    for (int i = 0; i < BUFFERS_KEPT && !taken.room; i++) {
        taken = j->buffer[i];
        j->buffer[i] = (struct file_buffer){ 0 };
    }
    return taken;
}

static void give_buffer(struct journal *j, struct file_buffer *b)
{
    for (int i = 0; i < BUFFERS_KEPT && b->room; i++) {
        if (j->buffer[i].room)
            continue;
        j->buffer[i] = *b;
        *b = (struct file_buffer){ 0 };
    }
    file_buffer_finish(b);
}

static void free_buffers(struct journal *j)
{
    for (int i = 0; i < BUFFERS_KEPT; i++)
        file_buffer_finish(&j->buffer[i]);
}

static void write_free(struct engine *e, struct write *w)
{
    disk_op_free(w->op);
    record_release(w->record);
    give_buffer(e->journal, &w->file);
    tiers_release(e->tiers, w->checkpoint);
    past_release(e->tiers, w->past);
    free(w);
}

void entry_free(struct engine *e, struct entry *x)
{
    if (!x)
        return;
    for (struct write *w; (w = x->write);) {
        x->write = w->next;
        write_free(e, w);
    }
    tiers_release(e->tiers, x->head);
    past_release(e->tiers, x->past);
    lineage_release(e, x->parent);
    if (x->anchor)
        tiers_forget(e->tiers, x->anchor);
    if (x->reserved)
        tiers_unreserve(e->tiers);
    free(x);
}

void entry_defer(struct entry *x, struct command *c)
{
    struct command **end = &x->deferred;

    while (*end)
        end = &(*end)->next;
    c->next = NULL;
    *end = c;
}

/* Where the file's record goes, which is its end. */
static unsigned char *record_of(const struct write *w)
{
    return w->file.bytes + w->file.len - model_info(w->engine->model)->layout.bytes;
}

/* The store's thread has the buffer to itself until the operation is received. */
static void finish_file(struct write *w)
{
    if (w->record)
        memcpy(record_of(w), w->record, model_info(w->engine->model)->layout.bytes);
    format_finish(&w->file);
}

static void encode(struct disk_op *op)
{
    struct write *w = op->owner;

    finish_file(w);
    op->file = w->file.bytes;
    op->file_len = w->file.len;
}

static void encode_shared(struct redis_op *op)
{
    struct write *w = op->owner;

    finish_file(w);
    op->file = w->file.bytes;
    op->file_len = w->file.len;
}

static struct write *add_write(struct engine *e, struct entry *x, enum disk_kind kind)
{
    struct write *w = calloc(1, sizeof(*w));

    if (!w || !(w->op = disk_op_create(kind, w))) {
        free(w);
        return NULL;
    }
    w->engine = e;
    w->entry = x;
    *x->write_end = w;
    x->write_end = &w->next;
    x->open++;
    return w;
}

/* The checkpoint's file goes along unless it is there; it stays while the engine has the
 * checkpoint, whatever happens to the session. */
static void bring(struct write *w, struct checkpoint *c, struct past *past)
{
    if (!c->position)
        return;
    w->checkpoint = tiers_keep(c);
    w->op->keep = true;
    if (c->stored)
        return;
    w->past = past_keep(past);
    w->op->encode = encode;
    w->op->file_len = format_max_bytes(model_info(w->engine->model));
}

bool entry_put_session(struct engine *e, struct entry *x, const struct session *s)
{
    struct write *w;

    if (!e->journal)
        return true;
    w = add_write(e, x, DISK_SESSION_SET);
    if (!w || !heads_of_session(s, &w->op->record))
        return false;
    bring(w, s->head, s->past);
    return true;
}

bool entry_put_snapshot(struct engine *e, struct entry *x, const struct snapshot *s)
{
    struct write *w;

    if (!e->journal)
        return true;
    w = add_write(e, x, DISK_SNAPSHOT_SET);
    if (!w || !heads_of_snapshot(s, &w->op->record))
        return false;
    bring(w, s->checkpoint, s->past);
    return true;
}

/* NULL: no memory, or no store. */
static struct write *drop(struct engine *e, struct entry *x, enum disk_kind kind, uint64_t owner,
                          const struct id *id)
{
    struct write *w = e->journal ? add_write(e, x, kind) : NULL;

    if (!w)
        return NULL;
    w->op->record.id = *id;
    w->op->record.owner = owner;
    return w;
}

/* Another server may move it before Redis hears of this: what was asked for a version holds
 * there, too. */
bool entry_drop_session(struct engine *e, struct entry *x, const struct session *s)
{
    struct write *w = drop(e, x, DISK_SESSION_DELETED, s->owner, &s->id);

    if (w && x->command && (x->command->expected.count > 0 || x->command->unwanted.count > 0)) {
        w->op->record.version = s->version;
        w->op->record.created = s->created;
    }
    return w || !e->journal;
}

bool entry_drop_snapshot(struct engine *e, struct entry *x, const struct lineage *place)
{
    return drop(e, x, DISK_SNAPSHOT_DELETED, place->owner, &place->id) || !e->journal;
}

bool entry_mark_snapshot(struct engine *e, struct entry *x, const struct lineage *place, bool whole)
{
    struct write *w;

    if (!e->journal || e->journal->redis)
        return true;
    w = add_write(e, x, DISK_SNAPSHOT_SET);
    if (!w)
        return false;
    heads_of_place(place, whole, &w->op->record);
    w->op->deletes = true;
    return true;
}

static void set_storing(struct entry *x, struct entry *to)
{
    if (x->session)
        x->session->storing = to;
    for (struct snapshot *s = x->snapshot; s; s = s->along)
        s->storing = to;
}

bool entry_keep_anchor(struct engine *e, struct entry *x, struct checkpoint *anchor)
{
    struct write *w = add_write(e, x, DISK_KEEP);

    if (!w)
        return false;
    x->anchor = tiers_remember(anchor);
    w->op->record.checkpoint = anchor->id;
    return true;
}

bool journal_defer_upload(struct engine *e, struct command *c)
{
    if (!e->journal || !e->journal->upload || tiers_has_place(e->tiers, c->checkpoint))
        return false;
    c->later = true;
    entry_defer(e->journal->upload, c);
    return true;
}

bool journal_has_anchors(const struct engine *e)
{
    return e->journal && e->journal->disk;
}

static void finish_entry(struct engine *e, struct entry *x)
{
    struct command *waiting;

    if (e->journal && e->journal->upload == x)
        e->journal->upload = NULL;
    set_storing(x, NULL);
    if (x->done)
        x->done(e, x);
    while ((waiting = x->deferred)) {
        x->deferred = waiting->next;
        engine_obey(e, waiting);
    }
    entry_free(e, x);
}

/* The operation came back, or could not be submitted. */
static void finish_write(struct engine *e, struct write *w)
{
    struct disk_op *op = w->op;
    struct entry *x = w->entry;

    if (op->error.code == ERR_NONE && op->encode && w->checkpoint && !w->checkpoint->stored)
        tiers_stored(e->tiers, w->checkpoint, op->file_len);
    if (x)
        x->bytes = op->file_len;
    if (x && op->error.code != ERR_NONE && x->problem.what == PROBLEM_NONE) {
        problem_from_error(&x->problem, &op->error);
        if (op->error.code == ERR_IO || op->error.code == ERR_INPUT)
            x->problem.what = PROBLEM_STORAGE_ERROR;
    }
    write_free(e, w);
    if (x && --x->open == 0) {
        e->journal->entries--;
        finish_entry(e, x);
    }
}

/* The store has more room than the journal asks of it. false: no memory. */
static bool submit(struct engine *e, struct write *w)
{
    struct journal *j = e->journal;
    struct redis_op *change;
    bool taken;

    if (j->disk) {
        taken = disk_submit(j->disk, w->op);
        assert(taken);
        return true;
    }
    change = share_change(w->op, w->entry ? w->entry->session : NULL, w);
    if (!change)
        return error_set(&w->op->error, ERR_NOMEM, "no memory for a change");
    change->encode = w->op->encode ? encode_shared : NULL;
    if (!change->encode && w->checkpoint)
        change->record.bytes = w->checkpoint->stored;
    change->file_len = w->op->file_len;
    taken = redis_submit(j->redis, change);
    assert(taken);
    return true;
}

/* It is not on its way to the store any more. */
static void take_back(struct engine *e, const struct write *w)
{
    e->journal->submitted--;
    e->journal->bytes -= w->op->queued;
    tiers_unclaim(e->tiers, w->growth);
}

/* Lays the file out, and gets hold of the record: a later turn may move the checkpoint, or let go
 * of it. false: no memory. */
static bool begin_file(struct engine *e, struct write *w)
{
    struct checkpoint *copy = checkpoint_copy(w->checkpoint);
    struct error err;
    bool ok;

    w->file = take_buffer(e->journal);
    ok = copy && past_describe(w->past, copy) &&
         format_begin(copy, model_info(e->model), &w->file, &err);
    if (ok)
        w->record = tiers_hold(e->tiers, w->checkpoint);
    ok = ok && (w->record || tiers_read(e->tiers, w->checkpoint, record_of(w)));
    checkpoint_destroy(copy);
    if (ok)
        e->journal->fileless--;
    else
        give_buffer(e->journal, &w->file);
    return ok;
}

static bool is_fileless(const struct write *w)
{
    return w->op->encode && !w->file.len;
}

/* What a write that is queued brings to the store, unless an earlier one has brought it. */
static size_t bytes_of(const struct write *w)
{
    return w->op->encode && !(w->checkpoint && w->checkpoint->stored) ? w->op->file_len : 0;
}

/* The records of those that wait come side by side, as far as they may be on their way together.
 * The queue may be long: it is searched only when there are such ones. */
static void begin_files(struct engine *e)
{
    struct journal *j = e->journal;
    size_t bytes = j->bytes;

    for (struct write *w = j->queue; w && j->fileless; w = w->next) {
        bytes += bytes_of(w);
        if (bytes > MAX_BYTES)
            return;
        if (bytes_of(w) && is_fileless(w) && !begin_file(e, w))
            return;
    }
}

/* Whether the store has room for the entry's file. What it takes the place of makes way for it,
 * and so do anchors. */
static bool claim_room(struct engine *e, struct write *w)
{
    struct entry *x = w->entry;
    int64_t growth = (int64_t)w->file.len - (int64_t)x->leaving;
    bool promised = x->reserved || x->leaving;

    if (x->reserved)
        tiers_unreserve(e->tiers); /* for this is what it was for */
    x->reserved = false;
    while (!tiers_claim(e->tiers, growth, promised))
        if (!anchors_yield(e))
            return error_set(&w->op->error, ERR_SPACE,
                             "no room for a state of %zu bytes: delete sessions or snapshots",
                             w->file.len);
    w->growth = growth;
    return true;
}

static bool awaits_record(struct engine *e, const struct write *w)
{
    return w->record && tiers_arrival(e->tiers, w->record) == ARRIVAL_AWAITED;
}

static bool has_record(struct engine *e, struct write *w)
{
    return !w->record || tiers_arrival(e->tiers, w->record) == ARRIVAL_HERE ||
           error_set(&w->op->error, ERR_DEVICE, "the device failed");
}

/* Whether it is no longer in the queue's way. */
static bool pass_on(struct engine *e, struct write *w)
{
    struct journal *j = e->journal;
    size_t bytes = bytes_of(w);
    bool ok = true;

    if (j->submitted >= MAX_OPS || (j->submitted && j->bytes + bytes > MAX_BYTES))
        return false;
    if (!bytes) {
        j->fileless -= is_fileless(w);
        w->op->encode = NULL;
    }
    if (w->op->encode) {
        ok = w->file.len || begin_file(e, w);
        if (!ok && j->submitted)
            return false; /* what is done gives memory back */
        j->fileless -= !ok;
        if (!ok)
            error_set(&w->op->error, ERR_NOMEM, "no memory for a copy of the state");
        if (ok && awaits_record(e, w))
            return false;
        ok = ok && has_record(e, w) && (!w->checkpoint || claim_room(e, w));
    }
    w->op->file_len = bytes;
    w->op->queued = bytes;
    j->submitted++;
    j->bytes += bytes;
    if (ok && submit(e, w))
        return true;
    take_back(e, w);
    finish_write(e, w);
    return true;
}

static void push(struct engine *e)
{
    struct journal *j = e->journal;

    begin_files(e);
    for (struct write *w; (w = j->queue);) {
        struct write *next = w->next;

        j->queue = next; /* first, for what it finishes may add to the queue */
        if (!next)
            j->queue_end = &j->queue;
        if (pass_on(e, w))
            continue;
        w->next = j->queue;
        j->queue = w;
        if (!w->next)
            j->queue_end = &w->next;
        return;
    }
    assert(!j->fileless);
}

/* Bytes of the head that the session leaves, if only it, and the turn that began there, keep it. */
static uint64_t bytes_left(const struct entry *x)
{
    const struct checkpoint *from = x->session && x->head ? x->session->head : NULL;
    int keepers = x->job && !x->job->aim ? 2 : 1;

    return from && from->refs <= keepers ? from->stored : 0;
}

void journal_submit(struct engine *e, struct entry *x)
{
    struct journal *j = e->journal;

    if (x->command)
        x->command->later = true;
    assert(!x->session || !x->session->storing);
    set_storing(x, x);
    if (!x->write) {
        finish_entry(e, x);
        return;
    }
    x->leaving = bytes_left(x);
    j->entries++;
    if (x->command && command_imports(x->command))
        j->upload = x;
    *j->queue_end = x->write;
    j->queue_end = x->write_end;
    for (struct write *w = x->write; w; w = w->next)
        j->fileless += is_fileless(w);
    x->write = NULL;
    push(e);
}

uint64_t journal_put_anchor(struct engine *e, const struct checkpoint *c, int slot)
{
    const struct model_info *model = model_info(e->model);
    struct journal *j = e->journal;
    struct write *w = j->queue ? NULL : calloc(1, sizeof(*w));
    uint64_t bytes;
    struct error err;

    if (!w || !(w->op = disk_op_create(DISK_KEEP, w))) {
        free(w);
        return 0;
    }
    w->engine = e;
    w->file = take_buffer(j);
    if (!format_begin(c, model, &w->file, &err) ||
        (!(w->record = tiers_hold_slot(e->tiers, slot)) &&
         !tiers_read_slot(e->tiers, slot, record_of(w))) ||
        !tiers_claim(e->tiers, (int64_t)w->file.len, false)) {
        write_free(e, w);
        return 0;
    }
    w->op->record.checkpoint = c->id;
    w->op->encode = encode;
    w->op->file_len = bytes = w->file.len;
    tiers_unclaim(e->tiers, (int64_t)bytes); /* it counts as stored from now on */
    *j->queue_end = w;
    j->queue_end = &w->next;
    push(e);
    return bytes;
}

/* What was read is the checkpoint that was asked for. */
static void identify(struct recall *r)
{
    const struct checkpoint *of = r->of;
    struct checkpoint *c = r->checkpoint;

    if (!c)
        return;
    c->id = of->id;
    c->owner = of->owner;
    c->created = of->created;
}

static void take_recall(struct engine *e, struct recall *r)
{
    struct checkpoint *of = r->of;

    of->damaged |= r->problem.what == PROBLEM_STATE_DAMAGED;
    of->anchor &= r->checkpoint != NULL;
    identify(r);
    if (r->owner)
        recalled(e, r->owner, r);
    else
        sequence_recalled(e, r);
    reader_release(e->journal->reader, r);
    tiers_release(e->tiers, of);
}

static void take_change(struct engine *e, const struct redis_op *change)
{
    struct write *w = change->owner;
    struct entry *x = w->entry;

    take_back(e, w);
    w->op->file_len = change->file_len;
    w->op->error = change->error;
    /* Deleting what is not there is done. */
    if (change->kind == REDIS_DELETE && change->verdict == REDIS_ABSENT)
        w->op->error.code = ERR_NONE;
    else if (change->verdict != REDIS_DONE && x && x->problem.what == PROBLEM_NONE)
        share_refused(change, &x->problem);
    if (change->verdict == REDIS_MISSING && w->checkpoint && !w->op->encode) {
        tiers_lost(e->tiers, w->checkpoint);
        x->lost = true;
    }
    finish_write(e, w);
}

static void take_shared(struct engine *e)
{
    struct journal *j = e->journal;

    for (struct redis_op *op; (op = redis_receive(j->redis));) {
        if (op->kind == REDIS_LOOK || op->kind == REDIS_TAKE || op->kind == REDIS_LEAVE) {
            j->asked--;
            share_answered(e, op);
        } else {
            take_change(e, op);
            redis_op_free(op);
        }
    }
}

void journal_poll(struct engine *e)
{
    struct journal *j = e->journal;
    struct recall *r;
    struct disk_op *op;

    if (!j)
        return;
    while (j->disk && (op = disk_receive(j->disk))) {
        take_back(e, op->owner);
        finish_write(e, op->owner);
    }
    if (j->redis)
        take_shared(e);
    push(e);
    while ((r = reader_take(j->reader)))
        take_recall(e, r);
}

void journal_go_on(struct engine *e)
{
    if (e->journal && e->journal->queue)
        push(e);
}

bool journal_awaits_move(struct engine *e)
{
    return e->journal && e->journal->queue && awaits_record(e, e->journal->queue);
}

bool journal_shares(const struct engine *e)
{
    return e->journal && e->journal->redis;
}

bool journal_ask(struct engine *e, struct redis_op *op)
{
    struct journal *j = e->journal;

    if ((op->kind != REDIS_LEAVE && j->asked >= MAX_OPS) || !redis_submit(j->redis, op))
        return false;
    j->asked++;
    return true;
}

bool journal_busy(const struct engine *e)
{
    const struct journal *j = e->journal;

    return j && (j->asked || j->entries || j->submitted || j->queue || reader_waiting(j->reader));
}

bool journal_lags(const struct engine *e)
{
    const struct journal *j = e->journal;

    return j && (j->submitted >= ENOUGH_OPS || j->queue);
}

void journal_rest(struct engine *e)
{
    if (!e->journal)
        return;
    reader_trim(e->journal->reader);
    free_buffers(e->journal);
}

struct recall *journal_recall(struct engine *e, struct checkpoint *c, struct command *command)
{
    struct recall *r = recall_create(&c->id, command);

    if (!r)
        return NULL;
    r->of = tiers_keep(c);
    r->whole = command && command_exports(command);
    if (command)
        command->later = true;
    else
        r->landing = tiers_take_landing(e->tiers);
    reader_ask(e->journal->reader, r);
    return r;
}

/* When there is no memory even for this, the file goes at the next start. */
void journal_dropped(void *engine, const struct checkpoint *c)
{
    struct engine *e = engine;
    struct journal *j = e->journal;
    struct write *w = calloc(1, sizeof(*w));

    if (e->closing || j->redis || !w || !(w->op = disk_op_create(DISK_RELEASE, w))) {
        free(w);
        return;
    }
    w->engine = e;
    w->op->record.checkpoint = c->id;
    *j->queue_end = w;
    j->queue_end = &w->next;
}

void journal_close(struct engine *e)
{
    struct journal *j = e->journal;

    if (!j)
        return;
    for (struct write *w; (w = j->queue);) {
        j->queue = w->next;
        write_free(e, w);
    }
    reader_destroy(j->reader);
    disk_close(j->disk);
    redis_close(j->redis);
    free_buffers(j);
    free(j);
    e->journal = NULL;
}

struct journal_counts journal_counts(const struct engine *e)
{
    struct journal *j = e->journal;
    struct journal_counts n = { 0 };
    struct disk_counts c;

    if (!j)
        return n;
    n.reports = atomic_load(&j->reports);
    if (j->redis) {
        n.shared = true;
        n.redis = redis_counts(j->redis);
        return n;
    }
    c = disk_counts(j->disk);
    n.ops = c.ops;
    n.failed = c.failed;
    n.commits = c.commits;
    n.waiting = c.waiting;
    n.anchors = c.anchors;
    n.anchor_bytes = c.anchor_bytes;
    n.anchors_dropped = c.anchors_dropped;
    return n;
}
