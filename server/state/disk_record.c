#include "server/state/disk_record.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the log is written by copying little-endian numbers"
#endif

enum { MAGIC = 0x4c4445fe, SUM_FROM = 16 };

/* Exactly the bytes of the table in disk_record.h. */
struct head {
    uint32_t magic, len;
    uint64_t sum;
    uint64_t version, position, seed, bytes;
    double created, updated, ttl;
    uint32_t flags;
    uint8_t kind, id_len, checkpoint_len, anchors;
    uint8_t session_len, parent_len;
    uint16_t note_len;
    uint32_t unsettled;
    uint64_t owner;
};

_Static_assert(sizeof(struct head) == DISK_HEAD_BYTES, "no padding");
_Static_assert(DISK_RECORD_BYTES % 8 == 0, "the longest record needs no zeros");
_Static_assert(DISK_NOTE_BYTES <= UINT16_MAX && LIMIT_ID_BYTES <= UINT8_MAX, "lengths fit");

static uint64_t checksum(const unsigned char *record, size_t len)
{
    uint64_t seed;

    memcpy(&seed, record, sizeof(seed));
    return XXH3_64bits_withSeed(record + SUM_FROM, len - SUM_FROM, seed);
}

static unsigned char *put(unsigned char *at, const void *bytes, size_t len)
{
    if (len)
        memcpy(at, bytes, len);
    return at + len;
}

size_t disk_record_encode(const struct disk_record *r, unsigned char *out)
{
    struct head h = {
        .magic = MAGIC,
        .owner = r->owner,
        .version = r->version,
        .position = r->position,
        .seed = r->seed,
        .bytes = r->bytes,
        .anchors = (uint8_t)r->anchors,
        .created = r->created,
        .updated = r->updated,
        .ttl = r->ttl,
        .flags = r->flags,
        .kind = (uint8_t)r->kind,
        .id_len = (uint8_t)strlen(r->id.text),
        .checkpoint_len = (uint8_t)strlen(r->checkpoint.text),
        .unsettled = r->unsettled,
        .session_len = (uint8_t)strlen(r->session.text),
        .parent_len = (uint8_t)strlen(r->parent.text),
        .note_len = (uint16_t)r->note_len,
    };
    unsigned char *at = out + sizeof(h);

    assert(r->note_len <= DISK_NOTE_BYTES);
    at = put(at, r->id.text, h.id_len);
    at = put(at, r->checkpoint.text, h.checkpoint_len);
    at = put(at, r->session.text, h.session_len);
    at = put(at, r->parent.text, h.parent_len);
    at = put(at, r->note, r->note_len);
    while ((at - out) % 8)
        *at++ = 0;
    h.len = (uint32_t)(at - out);
    memcpy(out, &h, sizeof(h));
    h.sum = checksum(out, h.len);
    memcpy(out, &h, sizeof(h));
    return h.len;
}

static bool take_id(struct id *id, const unsigned char **at, size_t len)
{
    char text[LIMIT_ID_BYTES + 1];

    *id = (struct id){ "" };
    if (len > LIMIT_ID_BYTES)
        return false;
    memcpy(text, *at, len);
    text[len] = '\0';
    *at += len;
    return len == 0 || (strlen(text) == len && id_parse(id, text));
}

static bool is_logged(unsigned kind)
{
    return (kind >= DISK_SESSION_SET && kind <= DISK_SNAPSHOT_DELETED) || kind == DISK_SETTLED;
}

size_t disk_record_decode(const unsigned char *bytes, size_t len, struct disk_record *r)
{
    const unsigned char *at = bytes + sizeof(struct head);
    struct disk_record found;
    struct head h;
    size_t parts;

    if (len < sizeof(h))
        return 0;
    memcpy(&h, bytes, sizeof(h));
    if (h.magic != MAGIC || h.len < sizeof(h) || h.len > DISK_RECORD_BYTES || h.len % 8 ||
        h.len > len || checksum(bytes, h.len) != h.sum)
        return 0;
    parts = sizeof(h) + h.id_len + h.checkpoint_len + h.session_len + h.parent_len + h.note_len;
    if (h.len != (parts + 7) / 8 * 8 || !is_logged(h.kind))
        return 0;
    found = (struct disk_record){
        .kind = h.kind,
        .owner = h.owner,
        .version = h.version,
        .position = h.position,
        .seed = h.seed,
        .bytes = h.bytes,
        .anchors = h.anchors,
        .created = h.created,
        .updated = h.updated,
        .ttl = h.ttl,
        .flags = h.flags,
        .unsettled = h.unsettled,
        .note_len = h.note_len,
    };
    if (!take_id(&found.id, &at, h.id_len) || !take_id(&found.checkpoint, &at, h.checkpoint_len) ||
        !take_id(&found.session, &at, h.session_len) ||
        !take_id(&found.parent, &at, h.parent_len) || !found.id.text[0] != (h.kind == DISK_SETTLED))
        return 0;
    found.note = (void *)at;
    if (r)
        *r = found;
    return h.len;
}

size_t disk_record_find_last(const unsigned char *bytes, size_t len, enum disk_kind kind,
                             struct disk_record *r)
{
    struct head h;
    uint32_t magic;

    if (len < sizeof(h))
        return 0;
    for (size_t at = (len - sizeof(h)) / 8 * 8; at; at -= 8) {
        memcpy(&magic, bytes + at, sizeof(magic));
        if (magic != MAGIC)
            continue;
        memcpy(&h, bytes + at, sizeof(h));
        if (h.kind == kind && disk_record_decode(bytes + at, len - at, r))
            return at;
    }
    return 0;
}
