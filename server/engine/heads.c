#include "server/engine/heads.h"

#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "server/engine/engine_internal.h"
#include "server/state/disk_record.h"
#include "server/state/format.h"
#include "server/state/tiers.h"

/* FLAG_GONE: the mark of a deleted snapshot; FLAG_FELLED: and of all below it. */
enum { FLAG_SEEDED = 1, FLAG_ANSWER_OPEN = 2, FLAG_GONE = 4, FLAG_FELLED = 8 };

/* At the front of a note; then the tail, then the label or metadata. */
struct note {
    uint8_t fingerprint[16];
    uint64_t layout;
    double born; /* when the checkpoint was made */
    int32_t pending, stop;
    uint16_t tail_len, text_len;
    uint32_t zero;
};

_Static_assert(sizeof(struct note) == 48, "no padding");
_Static_assert(sizeof(struct note) + LIMIT_STOP_BYTES + LIMIT_METADATA_BYTES <= DISK_NOTE_BYTES,
               "what a client may give fits");

struct heads {
    struct id_map checkpoints; /* owner 0; borrowed */
    size_t foreign;
};

static bool set_note(struct disk_record *r, const struct checkpoint *c, const char *text)
{
    struct note n = {
        .layout = c->layout,
        .born = c->created,
        .pending = c->pending,
        .stop = c->stop,
        .tail_len = c->tail ? (uint16_t)strlen(c->tail) : 0,
        .text_len = text ? (uint16_t)strlen(text) : 0,
    };
    char *at;

    memcpy(n.fingerprint, c->fingerprint, sizeof(n.fingerprint));
    r->note_len = sizeof(n) + n.tail_len + n.text_len;
    at = r->note = malloc(r->note_len);
    if (!at)
        return false;
    memcpy(at, &n, sizeof(n));
    if (n.tail_len)
        memcpy(at + sizeof(n), c->tail, n.tail_len);
    if (n.text_len)
        memcpy(at + sizeof(n) + n.tail_len, text, n.text_len);
    return true;
}

static void set_parent(struct disk_record *r, const struct lineage *parent)
{
    if (parent)
        r->parent = parent->id;
}

static void set_checkpoint(struct disk_record *r, const struct checkpoint *c)
{
    r->position = c->position;
    r->flags = c->answer_open ? FLAG_ANSWER_OPEN : 0;
    if (c->position)
        r->checkpoint = c->id;
}

bool heads_of_session(const struct session *s, struct disk_record *r)
{
    set_checkpoint(r, s->head);
    r->owner = s->owner;
    r->id = s->id;
    set_parent(r, s->snapshot);
    r->version = s->version;
    r->seed = s->seed;
    r->flags |= s->seeded ? FLAG_SEEDED : 0;
    r->created = s->created;
    r->updated = s->updated;
    r->ttl = s->ttl;
    return set_note(r, s->head, s->metadata);
}

bool heads_of_snapshot(const struct snapshot *s, struct disk_record *r)
{
    set_checkpoint(r, s->checkpoint);
    r->owner = s->owner;
    r->id = s->id;
    r->session = s->session;
    set_parent(r, s->place->parent);
    r->seed = s->seed;
    r->created = r->updated = s->created;
    return set_note(r, s->checkpoint, s->label);
}

void heads_of_place(const struct lineage *place, bool whole, struct disk_record *r)
{
    r->owner = place->owner;
    r->id = place->id;
    set_parent(r, lineage_nearest(place->parent));
    r->flags = FLAG_GONE | (whole ? FLAG_FELLED : 0);
}

struct heads *heads_create(void)
{
    struct heads *h = calloc(1, sizeof(*h));

    if (h)
        id_map_init(&h->checkpoints);
    return h;
}

void heads_destroy(struct heads *h)
{
    if (!h)
        return;
    id_map_finish(&h->checkpoints);
    free(h);
}

/* false: it is another version's. What it says of the state is not known then. */
static bool read_note(const struct disk_record *r, struct note *n, const char **tail,
                      const char **text)
{
    const char *bytes = r->note;

    *n = (struct note){ .pending = -1, .stop = -1 };

    *tail = *text = "";
    if (r->note_len < sizeof(*n))
        return false;
    memcpy(n, bytes, sizeof(*n));
    if (sizeof(*n) + n->tail_len + n->text_len != r->note_len || n->tail_len > LIMIT_STOP_BYTES) {
        *n = (struct note){ .pending = -1, .stop = -1 };
        return false;
    }
    *tail = bytes + sizeof(*n);
    *text = *tail + n->tail_len;
    return true;
}

static struct checkpoint *make_checkpoint(struct engine *e, const struct disk_record *r,
                                          const struct note *n, const char *tail)
{
    const struct model_info *info = model_info(e->model);
    bool named = r->checkpoint.text[0], empty = !r->position; /* the empty state is of any model */
    struct checkpoint *c = named ? checkpoint_create_as(&r->checkpoint) : checkpoint_create();

    if (!c || !checkpoint_set_tail(c, tail, n->tail_len)) {
        checkpoint_destroy(c);
        return NULL;
    }
    c->owner = r->owner;
    c->position = r->position;
    c->pending = n->pending;
    c->stop = n->stop;
    c->answer_open = r->flags & FLAG_ANSWER_OPEN;
    c->layout = empty ? info->layout.id : n->layout;
    c->created = n->born;
    memcpy(c->fingerprint, empty ? info->fingerprint : n->fingerprint, sizeof(c->fingerprint));
    c->damaged = r->damaged;
    tiers_adopt(e->tiers, c); /* a cold one always has room */
    if (c->position)
        tiers_stored(e->tiers, c, r->bytes);
    return c;
}

/* One reference more. NULL: no memory. */
static struct checkpoint *find_checkpoint(struct engine *e, struct heads *h,
                                          const struct disk_record *r, const struct note *n,
                                          const char *tail)
{
    struct checkpoint *c = r->position ? id_map_find(&h->checkpoints, 0, &r->checkpoint) : NULL;

    if (c)
        return tiers_keep(c);
    c = make_checkpoint(e, r, n, tail);
    if (c && r->position && !id_map_put(&h->checkpoints, 0, c->id.text, c)) {
        tiers_release(e->tiers, c);
        return NULL;
    }
    return c;
}

/* A note ends without a NUL. */
static bool copy_text(char **copy, const char *text, size_t len)
{
    if (!len)
        return true;
    *copy = malloc(len + 1);
    if (!*copy)
        return false;
    memcpy(*copy, text, len);
    (*copy)[len] = '\0';
    return true;
}

static bool add_session(struct engine *e, const struct disk_record *r, struct checkpoint *head,
                        const struct note *n, const char *text)
{
    struct session *s = calloc(1, sizeof(*s));

    if (!s || !copy_text(&s->metadata, text, n->text_len)) {
        free(s);
        return false;
    }
    s->id = r->id;
    s->owner = r->owner;
    s->head = head;
    s->version = r->version;
    s->created = r->created;
    s->updated = s->touched = r->updated;
    s->ttl = r->ttl;
    s->seed = r->seed;
    s->seeded = r->flags & FLAG_SEEDED;
    if (lineage_find(e, s->owner, &r->parent, &s->snapshot) &&
        id_map_put(&e->sessions, s->owner, s->id.text, s))
        return true;
    lineage_release(e, s->snapshot);
    free(s->metadata);
    free(s);
    return false;
}

/* The place of a snapshot or of a mark, where its record says it is; kept. false: no memory. */
static bool find_place(struct engine *e, const struct disk_record *r, struct lineage **place)
{
    struct lineage *n, *parent;

    if (!lineage_find(e, r->owner, &r->id, &n))
        return false;
    if (!lineage_find(e, r->owner, &r->parent, &parent)) {
        lineage_release(e, n);
        return false;
    }
    lineage_hang(e, n, parent);
    lineage_release(e, parent);
    *place = n;
    return true;
}

/* lineage_settle() lets go of the place again. */
static bool add_mark(struct engine *e, const struct disk_record *r)
{
    struct lineage *n;

    if (!find_place(e, r, &n))
        return false;
    n->gone = n->marked = true;
    n->felled = r->flags & FLAG_FELLED;
    return true;
}

static bool add_snapshot(struct engine *e, const struct disk_record *r,
                         struct checkpoint *checkpoint, const struct note *n, const char *text)
{
    struct snapshot *s = calloc(1, sizeof(*s));

    if (!s)
        return false;
    s->id = r->id;
    s->owner = r->owner;
    s->session = r->session;
    s->checkpoint = checkpoint;
    s->seed = r->seed;
    s->created = r->created;
    if (n->text_len <= LIMIT_LABEL_BYTES)
        memcpy(s->label, text, n->text_len);
    if (!find_place(e, r, &s->place) || !id_map_put(&e->snapshots, s->owner, s->id.text, s)) {
        lineage_release(e, s->place);
        free(s);
        return false;
    }
    s->place->snapshot = s;
    s->place->gone = false;
    tiers_pin(e->tiers, checkpoint);
    return true;
}

bool heads_found(struct engine *e, struct heads *h, const struct disk_record *r)
{
    const char *tail, *text;
    struct note n;
    bool known = read_note(r, &n, &tail, &text);
    struct checkpoint *c;

    if (r->flags & FLAG_GONE)
        return add_mark(e, r);
    c = find_checkpoint(e, h, r, &n, tail);
    if (!c)
        return false;
    c->damaged |= !known && c->position;
    h->foreign += known && !format_is_of(c, model_info(e->model));
    if (r->kind == DISK_SESSION_SET ? add_session(e, r, c, &n, text)
                                    : add_snapshot(e, r, c, &n, text))
        return true;
    tiers_release(e->tiers, c);
    return false;
}

size_t heads_foreign(const struct heads *h)
{
    return h->foreign;
}
