#include "server/state/format.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

#include "models/model.h"
#include "server/state/checkpoint.h"
#include "server/state/file_buffer.h"
#include "server/state/format_internal.h"
#include "server/state/record.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file form is written by copying little-endian numbers"
#endif

enum {
    VERSION = 2,
    VERSION_WITHOUT_MARKS = 1,
    CHECKSUM_AT = 112,
    FLAG_ANSWER_OPEN = 1,
    FLAG_ANCHOR = 2,
    FLAG_INSIDE = 4,
    DESCRIPTION_MAX = 1024,
};

static const char magic[8] = "EDDYSTAT";

/* A mark as it lies in the file. */
struct mark {
    uint64_t position;
    int32_t pending, stop;
    uint8_t flags, id_len;
    uint16_t tail_len;
    uint32_t zero;
};

_Static_assert(sizeof(struct mark) == 24, "no padding");
_Static_assert(LIMIT_HISTORY_MARKS *(sizeof(struct mark) + LIMIT_ID_BYTES + LIMIT_STOP_BYTES) <=
                   UINT16_MAX,
               "the marks' length fits");
_Static_assert(offsetof(struct header, checksum) == CHECKSUM_AT, "the checksum comes last");

static void checksum(const unsigned char *file, size_t len, uint8_t out[16])
{
    XXH3_state_t state;
    XXH128_canonical_t canonical;

    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, file, CHECKSUM_AT);
    XXH3_128bits_update(&state, file + HEADER_BYTES, len - HEADER_BYTES);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, sizeof(canonical.digest));
}

static void hex(char *out, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* Names and numbers only: none of them needs JSON's escapes but the model's name, which is a
 * file's; its odd bytes become '?'. */
static int describe(char *out, const struct checkpoint *c, const struct model_info *model)
{
    char name[sizeof(model->name)], print[33];
    size_t i;

    for (i = 0; model->name[i] && i < sizeof(name) - 1; i++) {
        unsigned char b = (unsigned char)model->name[i];
        name[i] = b < 0x20 || b >= 0x7f || b == '"' || b == '\\' ? '?' : (char)b;
    }
    name[i] = '\0';
    hex(print, model->fingerprint, 16);
    return snprintf(out, DESCRIPTION_MAX,
                    "{\"model\":\"%s\",\"architecture\":\"%s\",\"fingerprint\":\"%s\","
                    "\"position\":%llu,\"checkpoint\":\"%s\","
                    "\"parent\":\"%s\",\"created\":%.3f}",
                    name, model->architecture, print, (unsigned long long)c->position, c->id.text,
                    c->parent ? c->parent : "", c->created);
}

static struct mark head_of_mark(const struct checkpoint *c)
{
    return (struct mark){ .position = c->position,
                          .pending = c->pending,
                          .stop = c->stop,
                          .flags = (uint8_t)((c->answer_open ? FLAG_ANSWER_OPEN : 0) |
                                             (c->anchor ? FLAG_ANCHOR : 0) |
                                             (c->inside ? FLAG_INSIDE : 0)),
                          .id_len = c->anchor ? (uint8_t)strlen(c->id.text) : 0,
                          .tail_len = c->tail ? (uint16_t)strlen(c->tail) : 0 };
}

static size_t mark_bytes(const struct mark *m)
{
    return sizeof(*m) + m->id_len + m->tail_len;
}

static void measure_marks(const struct checkpoint *c, struct header *h)
{
    assert(c->marks <= LIMIT_HISTORY_MARKS);
    for (size_t i = 0; i < c->marks; i++) {
        struct mark m = head_of_mark(c->mark[i]);

        h->marks_len = (uint16_t)(h->marks_len + mark_bytes(&m));
        h->anchors = (uint16_t)(h->anchors + c->mark[i]->anchor);
    }
}

static unsigned char *put(unsigned char *at, const void *bytes, size_t len)
{
    if (len)
        memcpy(at, bytes, len);
    return at + len;
}

static unsigned char *put_marks(unsigned char *at, const struct checkpoint *c)
{
    for (size_t i = 0; i < c->marks; i++) {
        struct mark m = head_of_mark(c->mark[i]);

        at = put(at, &m, sizeof(m));
        at = put(at, c->mark[i]->id.text, m.id_len);
        at = put(at, c->mark[i]->tail, m.tail_len);
    }
    return at;
}

void format_finish_header(struct header *h, unsigned char *file, size_t len)
{
    h->file_len = len;
    memcpy(file, h, sizeof(*h));
    checksum(file, len, h->checksum);
    memcpy(file + CHECKSUM_AT, h->checksum, sizeof(h->checksum));
}

/* The header, but for the checksum, and the description. */
static struct header plan(const struct checkpoint *c, const struct model_info *model,
                          char description[DESCRIPTION_MAX])
{
    struct header h = {
        .version = VERSION,
        .header_len = HEADER_BYTES,
        .description_len = (uint64_t)describe(description, c, model),
        .tokens_len = (uint64_t)c->tokens * sizeof(c->token[0]),
        .record_len = c->position ? model->layout.bytes : 0,
        .layout = c->layout,
        .position = c->position,
        .seed = c->seed,
        .pending = c->pending,
        .stop = c->stop,
        .flags = c->answer_open ? FLAG_ANSWER_OPEN : 0,
        .tail_len = c->tail ? (uint32_t)strlen(c->tail) : 0,
        .numbers = format_numbers_of(&model->layout),
    };

    memcpy(h.magic, magic, sizeof(magic));
    memcpy(h.fingerprint, c->fingerprint, sizeof(h.fingerprint));
    measure_marks(c, &h);
    h.file_len =
        HEADER_BYTES + h.description_len + h.marks_len + h.tail_len + h.tokens_len + h.record_len;
    return h;
}

/* Returns where the record goes. */
static unsigned char *write_front(const struct header *h, const char *description,
                                  const struct checkpoint *c, unsigned char *out)
{
    unsigned char *at = put(out, h, sizeof(*h));

    at = put(at, description, h->description_len);
    at = put_marks(at, c);
    at = put(at, c->tail, h->tail_len);
    return put(at, c->token, h->tokens_len);
}

bool format_encode(const struct checkpoint *c, const struct model_info *model, void **file,
                   size_t *len, struct problem *p)
{
    char description[DESCRIPTION_MAX];
    struct header h = plan(c, model, description);
    unsigned char *out = malloc(h.file_len), *record;

    if (!out)
        return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for a snapshot of %llu bytes",
                           (unsigned long long)h.file_len);
    record = write_front(&h, description, c, out);
    if (h.record_len)
        memcpy(record, c->record, h.record_len);
    format_finish_header(&h, out, h.file_len);
    *file = out;
    *len = h.file_len;
    return true;
}

bool format_begin(const struct checkpoint *c, const struct model_info *model,
                  struct file_buffer *out, struct error *err)
{
    char description[DESCRIPTION_MAX];
    struct header h = plan(c, model, description);

    if (!file_buffer_begin(out, h.file_len, err))
        return false;
    write_front(&h, description, c, out->bytes);
    return true;
}

void format_finish(struct file_buffer *file)
{
    struct header h;

    memcpy(&h, file->bytes, sizeof(h));
    format_finish_header(&h, file->bytes, file->len);
}

/* Number i of a record, of which so many bytes are float32. */
static float number_at(const unsigned char *record, uint64_t f32_bytes, uint64_t i)
{
    const uint64_t wide = f32_bytes / sizeof(float);
    uint16_t half;
    float f;

    if (i >= wide) {
        memcpy(&half, record + f32_bytes + (i - wide) * sizeof(half), sizeof(half));
        return bf16_to_f32(half);
    }
    memcpy(&f, record + i * sizeof(f), sizeof(f));
    return f;
}

/* Everything that the header says of the file. Each length is bounded before the sum. */
static bool check_frame(const struct header *h, const unsigned char *file, size_t len,
                        struct problem *p)
{
    uint8_t sum[16];
    uint64_t parts;

    if (h->version != VERSION && h->version != VERSION_WITHOUT_MARKS)
        return problem_set(p, PROBLEM_SNAPSHOT_VERSION, NULL,
                           "the snapshot has format %u; %d is the newest that can be read",
                           h->version, VERSION);
    if (h->header_len != HEADER_BYTES || h->file_len != len)
        return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                           "the snapshot says it has %llu bytes, %zu came",
                           (unsigned long long)h->file_len, len);
    if (h->description_len > LIMIT_SNAPSHOT_HEADER_BYTES || h->tail_len > LIMIT_STOP_BYTES ||
        h->tokens_len > LIMIT_HISTORY_IDS * sizeof(uint32_t) || h->tokens_len % sizeof(uint32_t) ||
        h->record_len > len || !format_numbers_fit(h) ||
        (h->version == VERSION_WITHOUT_MARKS && (h->marks_len || h->anchors)))
        return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                           "a length in the snapshot's header is out of range");
    parts = HEADER_BYTES + h->description_len + h->marks_len + h->tail_len + h->tokens_len +
            h->record_len;
    if (parts != len)
        return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                           "the snapshot's parts have %llu bytes, the file has %zu",
                           (unsigned long long)parts, len);
    checksum(file, len, sum);
    if (memcmp(sum, h->checksum, sizeof(sum)) != 0)
        return problem_set(p, PROBLEM_SNAPSHOT_CHECKSUM, NULL,
                           "the snapshot's checksum does not match its bytes");
    return true;
}

/* Of the model, in either number format. */
static bool check_layout(const uint8_t fingerprint[16], uint64_t layout,
                         const struct model_info *model, const struct state_layout *other,
                         struct problem *p)
{
    char theirs[33], ours[33];

    if (memcmp(fingerprint, model->fingerprint, sizeof(model->fingerprint)) != 0) {
        hex(theirs, fingerprint, 16);
        hex(ours, model->fingerprint, 16);
        return problem_set(p, PROBLEM_MODEL_MISMATCH, NULL,
                           "the snapshot is of the model with fingerprint %s; this is %s (%s)",
                           theirs, ours, model->name);
    }
    if (layout != model->layout.id && layout != other->id)
        return problem_set(p, PROBLEM_MODEL_MISMATCH, NULL,
                           "the snapshot has state layout %016llx; this model's is %016llx",
                           (unsigned long long)layout, (unsigned long long)model->layout.id);
    return true;
}

static bool refuse_numbers(uint32_t numbers, const struct model_info *model, struct problem *p)
{
    return problem_set(p, PROBLEM_NUMBERS_MISMATCH, NULL,
                       "the state's numbers are %s; here they are %s", format_numbers_name(numbers),
                       format_numbers_name(format_numbers_of(&model->layout)));
}

bool format_is_of(const struct checkpoint *c, const struct model_info *model)
{
    return c->layout == model->layout.id &&
           memcmp(c->fingerprint, model->fingerprint, sizeof(model->fingerprint)) == 0;
}

bool format_fits(const struct checkpoint *c, const struct model_info *model, struct problem *p)
{
    struct state_layout other;

    if (c->damaged || format_is_of(c, model)) /* damaged: then this may be, too */
        return true;
    other = format_other_layout(&model->layout);
    return check_layout(c->fingerprint, c->layout, model, &other, p) &&
           refuse_numbers(format_numbers_of(&other), model, p);
}

static bool check_model(const struct header *h, const struct model_info *model, struct problem *p)
{
    const struct state_layout other = format_other_layout(&model->layout);

    if (!check_layout(h->fingerprint, h->layout, model, &other, p))
        return false;
    if (h->layout != model->layout.id || h->numbers != format_numbers_of(&model->layout))
        return refuse_numbers(h->numbers, model, p);
    if (h->record_len != (h->position ? model->layout.bytes : 0))
        return problem_set(p, PROBLEM_SNAPSHOT_SHAPE, NULL,
                           "the snapshot's state has %llu bytes; at position %llu this model's "
                           "has %zu",
                           (unsigned long long)h->record_len, (unsigned long long)h->position,
                           h->position ? model->layout.bytes : 0);
    return true;
}

/* Without a branch for each, which matters where a state is woken up: infinity and NaN have all
 * of the exponent set. */
static bool all_finite(const unsigned char *record, uint64_t bytes, uint64_t f32_bytes)
{
    const uint32_t exponent = 0x7f800000;
    uint32_t odd = 0;
    uint16_t odd_half = 0;

    for (uint64_t at = 0; at < f32_bytes; at += sizeof(uint32_t)) {
        uint32_t bits;

        memcpy(&bits, record + at, sizeof(bits));
        odd |= (bits & exponent) == exponent;
    }
    for (uint64_t at = f32_bytes; at < bytes; at += sizeof(uint16_t)) {
        uint16_t bits;

        memcpy(&bits, record + at, sizeof(bits));
        odd_half |= (bits & exponent >> 16) == exponent >> 16;
    }
    return !odd && !odd_half;
}

/* The mark at the front of len bytes. false: damaged. */
static bool take_mark(const unsigned char *at, size_t len, struct mark *m, struct id *id)
{
    char text[LIMIT_ID_BYTES + 1] = "";

    if (len < sizeof(*m))
        return false;
    memcpy(m, at, sizeof(*m));
    if (m->id_len > LIMIT_ID_BYTES || m->tail_len > LIMIT_STOP_BYTES || mark_bytes(m) > len ||
        m->flags > (FLAG_ANSWER_OPEN | FLAG_ANCHOR | FLAG_INSIDE) || m->zero ||
        !(m->flags & FLAG_ANCHOR) != !m->id_len)
        return false;
    memcpy(text, at + sizeof(*m), m->id_len);
    *id = (struct id){ "" };
    return !m->id_len || id_parse(id, text);
}

static bool are_tokens_in_order(const struct mark *m, int vocab)
{
    return m->pending >= -1 && m->pending < vocab && m->stop >= -1 && m->stop < vocab &&
           (m->pending < 0 || (m->stop < 0 && m->position));
}

static bool check_marks(const struct header *h, const unsigned char *marks, int vocab,
                        struct problem *p)
{
    uint64_t newest = 0;
    unsigned n = 0, anchors = 0;
    struct mark m;
    struct id id;

    for (size_t at = 0; at < h->marks_len; at += mark_bytes(&m), n++) {
        if (!take_mark(marks + at, h->marks_len - at, &m, &id) || m.position < newest ||
            m.position > h->position || !are_tokens_in_order(&m, vocab) || n == LIMIT_HISTORY_MARKS)
            return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                               "mark %u of the snapshot's history is out of range", n);
        newest = m.position;
        anchors += (m.flags & FLAG_ANCHOR) != 0;
    }
    return anchors == h->anchors ||
           problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                       "the snapshot says it has %u anchors, it has %u", h->anchors, anchors);
}

static bool check_numbers(const struct header *h, const unsigned char *tokens,
                          const unsigned char *record, int vocab, struct problem *p)
{
    const uint64_t f32_bytes = format_f32_bytes(h);

    if (h->pending < -1 || h->pending >= vocab || h->stop < -1 || h->stop >= vocab ||
        (h->pending >= 0 && h->stop >= 0) || (h->position == 0 && h->pending >= 0) ||
        h->position > INT64_MAX || h->flags > FLAG_ANSWER_OPEN ||
        h->tokens_len / sizeof(uint32_t) > h->position)
        return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                           "a token or counter in the snapshot is out of range");
    for (uint64_t i = 0; i < h->tokens_len / sizeof(uint32_t); i++) {
        uint32_t token;

        memcpy(&token, tokens + i * sizeof(token), sizeof(token));
        if ((token & ~RECENT_SAMPLED) >= (uint32_t)vocab)
            return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                               "token %u of the snapshot's history is outside the vocabulary",
                               token & ~RECENT_SAMPLED);
    }
    if (all_finite(record, h->record_len, f32_bytes))
        return true;
    for (uint64_t i = 0;; i++)
        if (!isfinite(number_at(record, f32_bytes, i)))
            return problem_set(p, PROBLEM_SNAPSHOT_NOT_FINITE, NULL,
                               "number %llu of the snapshot's state is not finite",
                               (unsigned long long)i);
}

static struct checkpoint *build_mark(const struct header *h, const struct mark *m,
                                     const struct id *id, const unsigned char *tail)
{
    struct checkpoint *c = checkpoint_create_as(id);

    if (!c || !checkpoint_set_tail(c, (const char *)tail, m->tail_len)) {
        checkpoint_destroy(c);
        return NULL;
    }
    c->position = m->position;
    c->pending = m->pending;
    c->stop = m->stop;
    c->answer_open = m->flags & FLAG_ANSWER_OPEN;
    c->anchor = m->flags & FLAG_ANCHOR;
    c->inside = m->flags & FLAG_INSIDE;
    c->layout = h->layout;
    memcpy(c->fingerprint, h->fingerprint, sizeof(c->fingerprint));
    return c;
}

/* They were checked. */
static bool build_marks(const struct header *h, const unsigned char *marks, struct checkpoint *c)
{
    struct mark m;
    struct id id;

    if (!h->marks_len)
        return true;
    c->mark = malloc(LIMIT_HISTORY_MARKS * sizeof(struct checkpoint *));
    if (!c->mark)
        return false;
    for (size_t at = 0; at < h->marks_len; at += mark_bytes(&m)) {
        take_mark(marks + at, h->marks_len - at, &m, &id);
        c->mark[c->marks] = build_mark(h, &m, &id, marks + at + sizeof(m) + m.id_len);
        if (!c->mark[c->marks])
            return false;
        c->marks++;
    }
    return true;
}

/* What describe() wrote of it. Whoever else wrote the file: what is no id says nothing. */
static bool build_parent(const char *description, size_t len, struct checkpoint *c)
{
    static const char key[] = "\"parent\":\"";
    const char *at = memmem(description, len, key, strlen(key)), *end;
    char text[LIMIT_ID_BYTES + 1] = "";
    struct id id;

    if (!at)
        return true;
    at += strlen(key);
    end = memchr(at, '"', len - (size_t)(at - description));
    if (end && end - at <= LIMIT_ID_BYTES)
        memcpy(text, at, (size_t)(end - at));
    return !id_parse(&id, text) || checkpoint_set_parent(c, id.text);
}

/* All but the record. NULL: no memory. */
static struct checkpoint *build(const struct header *h, const unsigned char *description)
{
    const unsigned char *marks = description + h->description_len, *tail = marks + h->marks_len,
                        *tokens = tail + h->tail_len;
    struct checkpoint *c = checkpoint_create();

    if (!c || !build_parent((const char *)description, h->description_len, c) ||
        !build_marks(h, marks, c) || !checkpoint_set_tail(c, (const char *)tail, h->tail_len) ||
        (h->tokens_len && !(c->token = malloc(h->tokens_len)))) {
        checkpoint_destroy(c);
        return NULL;
    }
    if (h->tokens_len)
        memcpy(c->token, tokens, h->tokens_len);
    c->tokens = (uint32_t)(h->tokens_len / sizeof(uint32_t));
    c->position = h->position;
    c->pending = h->pending;
    c->stop = h->stop;
    c->seed = h->seed;
    c->answer_open = h->flags & FLAG_ANSWER_OPEN;
    c->layout = h->layout;
    memcpy(c->fingerprint, h->fingerprint, sizeof(c->fingerprint));
    return c;
}

static bool read_header(const void *file, size_t len, struct header *h, struct problem *p)
{
    if (len < sizeof(magic) || memcmp(file, magic, sizeof(magic)) != 0)
        return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                           "not a snapshot: a file of %zu bytes that does not begin with EDDYSTAT",
                           len);
    if (len < HEADER_BYTES)
        return problem_set(p, PROBLEM_SNAPSHOT_INVALID, NULL,
                           "the snapshot has %zu bytes, fewer than its header", len);
    memcpy(h, file, sizeof(*h));
    return check_frame(h, file, len, p);
}

static bool check_parts(const struct header *h, const unsigned char *file, int vocab,
                        struct problem *p)
{
    const unsigned char *marks = file + HEADER_BYTES + h->description_len,
                        *tokens = marks + h->marks_len + h->tail_len;

    return check_marks(h, marks, vocab, p) &&
           check_numbers(h, tokens, tokens + h->tokens_len, vocab, p);
}

static void no_memory(struct problem *p)
{
    problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the snapshot's state");
}

struct checkpoint *format_open(const void *file, size_t len, const struct model_info *model,
                               int vocab, const void **record, struct problem *p)
{
    const unsigned char *bytes = file;
    struct checkpoint *c;
    struct header h;

    if (!read_header(file, len, &h, p) || !check_model(&h, model, p) ||
        !check_parts(&h, bytes, vocab, p))
        return NULL;
    c = build(&h, bytes + HEADER_BYTES);
    if (c)
        *record = h.record_len ? bytes + len - h.record_len : NULL;
    else
        no_memory(p);
    return c;
}

struct checkpoint *format_decode_to(const void *file, size_t len, const struct model_info *model,
                                    int vocab, void *(*take)(void *from), void *from,
                                    struct problem *p)
{
    const void *record;
    struct checkpoint *c = format_open(file, len, model, vocab, &record, p);

    if (!c || !record)
        return c;
    c->record = take(from);
    if (!c->record) {
        checkpoint_destroy(c);
        no_memory(p);
        return NULL;
    }
    memcpy(c->record, record, model->layout.bytes);
    return c;
}

static void *take_new(void *bytes)
{
    return record_create(*(size_t *)bytes);
}

struct checkpoint *format_decode(const void *file, size_t len, const struct model_info *model,
                                 int vocab, struct problem *p)
{
    size_t bytes = model->layout.bytes;

    return format_decode_to(file, len, model, vocab, take_new, &bytes, p);
}

bool format_find_marks(const void *front, struct format_marks *marks)
{
    struct header h;

    memcpy(&h, front, sizeof(h));
    if (memcmp(h.magic, magic, sizeof(magic)) != 0 || h.version != VERSION ||
        h.header_len != HEADER_BYTES || h.description_len > LIMIT_SNAPSHOT_HEADER_BYTES)
        return false;
    *marks = (struct format_marks){ .at = HEADER_BYTES + h.description_len,
                                    .len = h.marks_len,
                                    .anchors = h.anchors };
    return h.anchors && marks->at + marks->len <= h.file_len;
}

bool format_walk_anchors(const void *marks, size_t len,
                         void (*seen)(void *arg, const struct id *id), void *arg)
{
    const unsigned char *bytes = marks;
    struct mark m;
    struct id id;

    for (size_t at = 0; at < len; at += mark_bytes(&m)) {
        if (!take_mark(bytes + at, len - at, &m, &id))
            return false;
        if (m.flags & FLAG_ANCHOR)
            seen(arg, &id);
    }
    return true;
}

bool format_check(const void *file, size_t len, struct format_info *info, struct problem *p)
{
    const unsigned char *marks = file;
    uint64_t turns = 0;
    struct header h;
    struct mark m;
    struct id id;

    if (!read_header(file, len, &h, p) || !check_parts(&h, file, INT32_MAX, p))
        return false;
    marks += HEADER_BYTES + h.description_len;
    for (size_t at = 0; at < h.marks_len; at += mark_bytes(&m)) {
        take_mark(marks + at, h.marks_len - at, &m, &id);
        turns += !(m.flags & FLAG_INSIDE);
    }
    *info = (struct format_info){
        .bytes = len,
        .position = h.position,
        .tokens = h.tokens_len / sizeof(uint32_t),
        .turns = turns,
        .record_bytes = h.record_len,
        .layout = h.layout,
        .numbers = format_numbers_name(h.numbers),
        .description = (const char *)file + HEADER_BYTES,
        .description_len = h.description_len,
    };
    memcpy(info->fingerprint, h.fingerprint, sizeof(info->fingerprint));
    return true;
}

size_t format_max_bytes(const struct model_info *model)
{
    return HEADER_BYTES + LIMIT_SNAPSHOT_HEADER_BYTES + LIMIT_STOP_BYTES + UINT16_MAX +
           LIMIT_HISTORY_IDS * sizeof(uint32_t) + model->layout.bytes;
}

size_t format_max_upload_bytes(const struct model_info *model)
{
    struct model_info wide = *model;

    state_layout_pack(&wide.layout, DTYPE_F32);
    return format_max_bytes(&wide);
}
