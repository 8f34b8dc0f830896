#include "weights/zip.h"

#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "config/limits.h"
#include "weights/weights_internal.h"

/* Sizes of the records, and the mark of a field that has moved to its 64-bit twin. */
enum { LOCAL = 30, CENTRAL = 46, END = 22, END64 = 56, LOCATOR64 = 20, COMMENT_MAX = 65535 };
enum { FLAG_ENCRYPTED = 0x41 };
static const uint32_t MOVED = 0xffffffffu;

struct end {
    uint64_t count, size, offset; /* of the central directory */
    uint64_t at;                  /* of this record */
};

static uint64_t le(const void *at, int bytes)
{
    const unsigned char *p = at;
    uint64_t u = 0;

    while (bytes-- > 0)
        u = u << 8 | p[bytes];
    return u;
}

static bool refuse(const struct zip *z, const char *what, struct error *err)
{
    error_set(err, ERR_FORMAT, "%.200s: invalid zip archive: %s", z->source->path, what);
    return false;
}

/* The record stands LOCATOR64 bytes before the old one when there is one. */
static bool read_end64(const struct zip *z, struct end *end, bool *found, struct error *err)
{
    char locator[LOCATOR64], record[END64];
    uint64_t at;

    *found = false;
    if (end->at < LOCATOR64)
        return true;
    if (!source_read(z->source, locator, sizeof(locator), end->at - LOCATOR64, err))
        return false;
    if (memcmp(locator, "PK\6\7", 4) != 0)
        return true;
    at = le(locator + 8, 8);
    if (le(locator + 4, 4) != 0 || le(locator + 16, 4) > 1)
        return refuse(z, "expected one part, found several", err);
    if (end->at < LOCATOR64 + END64 || at > end->at - LOCATOR64 - END64)
        return refuse(z, "its 64-bit end record lies outside the file", err);
    if (!source_read(z->source, record, sizeof(record), at, err))
        return false;
    if (memcmp(record, "PK\6\6", 4) != 0)
        return refuse(z, "its 64-bit end record is missing", err);
    if (le(record + 16, 4) != 0 || le(record + 20, 4) != 0 ||
        le(record + 24, 8) != le(record + 32, 8))
        return refuse(z, "expected one part, found several", err);
    *end = (struct end){ .count = le(record + 32, 8),
                         .size = le(record + 40, 8),
                         .offset = le(record + 48, 8),
                         .at = at };
    *found = true;
    return true;
}

static bool read_end(const struct zip *z, struct end *end, struct error *err)
{
    char tail[COMMENT_MAX + END];
    uint64_t size = z->source->size;
    size_t n = size < sizeof(tail) ? (size_t)size : sizeof(tail), i;
    bool found64;

    if (n < END)
        return refuse(z, "too short", err);
    if (!source_read(z->source, tail, n, size - n, err))
        return false;
    for (i = n - END;; i--) {
        if (memcmp(tail + i, "PK\5\6", 4) == 0 && le(tail + i + 20, 2) == n - i - END)
            break;
        if (i == 0)
            return refuse(z, "no end record (PyTorch before 1.6 wrote another format)", err);
    }
    end->at = size - n + i;
    if (!read_end64(z, end, &found64, err))
        return false;
    if (!found64) {
        if (le(tail + i + 4, 2) != 0 || le(tail + i + 6, 2) != 0 ||
            le(tail + i + 8, 2) != le(tail + i + 10, 2))
            return refuse(z, "expected one part, found several", err);
        end->count = le(tail + i + 10, 2);
        end->size = le(tail + i + 12, 4);
        end->offset = le(tail + i + 16, 4);
    }
    if (end->size > end->at || end->offset > end->at - end->size)
        return refuse(z, "its directory lies outside the file", err);
    if (end->size > LIMIT_PTH_HEADER_BYTES || end->count > end->size / CENTRAL)
        return refuse(z, "its directory is too large", err);
    return true;
}

/* The 64-bit twins of the fields that are marked as moved, in this order. */
static bool take_extra64(const char *extra, size_t len, uint64_t *fields[3])
{
    while (len >= 4) {
        size_t n = le(extra + 2, 2), at = 4;

        if (n > len - 4)
            return false;
        if (le(extra, 2) == 1) {
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != MOVED)
                    continue;
                if (at + 8 > n + 4)
                    return false;
                *fields[i] = le(extra + at, 8);
                at += 8;
            }
            return true;
        }
        extra += n + 4;
        len -= n + 4;
    }
    return true;
}

/* One record of the directory at p, with `left` bytes from there; *used is its length. */
static bool parse_record(const struct zip *z, char *p, size_t left, struct zip_entry *e,
                         size_t *used, struct error *err)
{
    uint64_t packed, size, header;
    size_t name, extra, comment;

    if (left < CENTRAL || memcmp(p, "PK\1\2", 4) != 0)
        return refuse(z, "its directory is cut short", err);
    name = le(p + 28, 2);
    extra = le(p + 30, 2);
    comment = le(p + 32, 2);
    packed = le(p + 20, 4);
    size = le(p + 24, 4);
    header = le(p + 42, 4);
    if (name + extra + comment > left - CENTRAL)
        return refuse(z, "its directory is cut short", err);
    if (!take_extra64(p + CENTRAL + name, extra, (uint64_t *[3]){ &size, &packed, &header }))
        return refuse(z, "an extra field is cut short", err);
    if (le(p + 8, 2) & FLAG_ENCRYPTED)
        return refuse(z, "expected plain entries, found an encrypted one", err);
    if (le(p + 10, 2) != 0 || packed != size)
        return refuse(z, "expected stored entries, found a compressed one", err);
    if (le(p + 34, 2) != 0)
        return refuse(z, "expected one part, found several", err);
    if (memchr(p + CENTRAL, '\0', name))
        return refuse(z, "a name holds a NUL", err);
    memmove(p + CENTRAL - 1, p + CENTRAL, name); /* all fields are read: room for a NUL */
    p[CENTRAL - 1 + name] = '\0';
    *e = (struct zip_entry){ .name = p + CENTRAL - 1, .header = header, .size = size };
    *used = CENTRAL + name + extra + comment;
    return true;
}

static int compare_entries(const void *left, const void *right)
{
    const struct zip_entry *a = left, *b = right;

    return strcmp(a->name, b->name);
}

bool zip_init(struct zip *z, const struct source *s, struct error *err)
{
    struct end end;
    size_t at = 0, used;

    *z = (struct zip){ .source = s };
    if (!read_end(z, &end, err))
        return false;
    z->directory_at = end.offset;
    z->directory = malloc(end.size + 1);
    z->entries = malloc((end.count + 1) * sizeof(*z->entries));
    if (!z->directory || !z->entries)
        return error_set(err, ERR_NOMEM, "%.200s: out of memory", s->path);
    if (!source_read(s, z->directory, end.size, end.offset, err))
        return false;
    for (; z->count < end.count; z->count++, at += used)
        if (!parse_record(z, z->directory + at, end.size - at, &z->entries[z->count], &used, err))
            return false;
    qsort(z->entries, z->count, sizeof(*z->entries), compare_entries);
    for (size_t i = 1; i < z->count; i++)
        if (compare_entries(&z->entries[i - 1], &z->entries[i]) == 0)
            return refuse(z, "two entries have one name", err);
    return true;
}

void zip_finish(struct zip *z)
{
    free(z->entries);
    free(z->directory);
}

const struct zip_entry *zip_find(const struct zip *z, const char *name)
{
    struct zip_entry key = { .name = name };

    return bsearch(&key, z->entries, z->count, sizeof(key), compare_entries);
}

bool zip_locate(const struct zip *z, const struct zip_entry *e, uint64_t *offset, struct error *err)
{
    char local[LOCAL];
    uint64_t data;

    if (z->directory_at < LOCAL || e->header > z->directory_at - LOCAL)
        return refuse(z, "an entry lies outside the file", err);
    if (!source_read(z->source, local, sizeof(local), e->header, err))
        return false;
    if (memcmp(local, "PK\3\4", 4) != 0)
        return refuse(z, "an entry has no local header", err);
    /* The local extra field is padding here and differs from the directory's. */
    data = e->header + LOCAL + le(local + 26, 2) + le(local + 28, 2);
    if (data > z->directory_at || e->size > z->directory_at - data)
        return refuse(z, "an entry lies outside the file", err);
    *offset = data;
    return true;
}
