/* What a snapshot file may and may not be. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "config/error.h"
#include "models/model.h"
#include "server/state/checkpoint.h"
#include "server/state/file_buffer.h"
#include "server/state/format.h"
#include "server/state/record.h"

enum { RECORD = 256, VOCAB = 1000, TOKENS = 5, HEADER = 128, SUM_AT = 112 };

static struct model_info model = {
    .name = "tiny \"model\"\n",
    .architecture = "mamba2",
    .vocab = VOCAB,
    .fingerprint = { 1, 2, 3 },
    .layout = { .bytes = RECORD, .id = 42 },
};

static struct checkpoint *make(uint64_t position)
{
    struct checkpoint *c = checkpoint_create();
    float *record;

    assert_non_null(c);
    c->position = position;
    c->seed = 7777777777777777777u;
    c->layout = model.layout.id;
    memcpy(c->fingerprint, model.fingerprint, sizeof(c->fingerprint));
    if (!position)
        return c;
    record = record_create(RECORD);
    for (int i = 0; i < RECORD / 4; i++)
        record[i] = (float)i * 0.37f - 3;
    c->record = record;
    c->pending = 17;
    c->answer_open = true;
    assert_true(checkpoint_set_tail(c, "\n\nUser:", 7));
    assert_true(checkpoint_set_parent(c, "ckpt_before"));
    c->tokens = position < TOKENS ? (size_t)position : TOKENS;
    c->token = malloc(c->tokens * sizeof(*c->token));
    for (uint32_t i = 0; i < c->tokens; i++)
        c->token[i] = i * 11 | (i & 1 ? RECENT_SAMPLED : 0);
    return c;
}

static unsigned char *encode(const struct checkpoint *c, size_t *len)
{
    struct problem p = { 0 };
    void *file;

    assert_true(format_encode(c, &model, &file, len, &p));
    return file;
}

static enum problem_code refusal(const void *file, size_t len)
{
    struct problem p = { 0 };
    struct checkpoint *c = format_decode(file, len, &model, VOCAB, &p);

    if (c) {
        checkpoint_destroy(c);
        return PROBLEM_NONE;
    }
    assert_true(p.message[0]);
    return p.what;
}

/* Makes the checksum right again, as an attacker would. */
static void reseal(unsigned char *file, size_t len)
{
    XXH3_state_t state;
    XXH128_canonical_t sum;

    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, file, SUM_AT);
    XXH3_128bits_update(&state, file + HEADER, len - HEADER);
    XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(&state));
    memcpy(file + SUM_AT, sum.digest, sizeof(sum.digest));
}

static void a_file_brings_every_field_back(void **unused)
{
    struct checkpoint *c = make(123456789012), *back;
    struct problem p = { 0 };
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    assert_true(len <= format_max_bytes(&model));
    back = format_decode(file, len, &model, VOCAB, &p);
    assert_non_null(back);
    assert_memory_equal(back->record, c->record, RECORD);
    assert_int_equal(back->position, c->position);
    assert_int_equal(back->pending, 17);
    assert_int_equal(back->stop, -1);
    assert_true(back->seed == c->seed);
    assert_true(back->answer_open);
    assert_string_equal(back->tail, c->tail);
    assert_int_equal(back->tokens, TOKENS);
    assert_memory_equal(back->token, c->token, TOKENS * sizeof(uint32_t));
    assert_memory_equal(back->fingerprint, c->fingerprint, 16);
    assert_true(back->layout == 42);
    assert_string_equal(back->parent, "ckpt_before");
    checkpoint_destroy(back);
    checkpoint_destroy(c);
    free(file);
}

/* Whoever wrote the file: what cannot be a parent's id is none. */
static void a_parent_is_an_id_or_none(void **unused)
{
    static const char *const odd[] = { "..ckpt_befo", "ckpt\\before", "ckpt befor\xff",
                                       "\"kpt_before", "ckpt_before" };
    struct checkpoint *c = make(9), *back;
    struct problem p = { 0 };
    size_t len;
    unsigned char *file = encode(c, &len);
    char *at = memmem(file, len, "ckpt_before", 11);

    (void)unused;
    assert_non_null(at);
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        memcpy(at, odd[i], 11);
        reseal(file, len);
        back = format_decode(file, len, &model, VOCAB, &p);
        assert_non_null(back);
        if (i < 4)
            assert_null(back->parent);
        else
            assert_string_equal(back->parent, "ckpt_before");
        checkpoint_destroy(back);
    }
    checkpoint_destroy(c);
    free(file);
}

static void the_empty_state_has_a_file_too(void **unused)
{
    struct checkpoint *c = make(0), *back;
    struct problem p = { 0 };
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    back = format_decode(file, len, &model, VOCAB, &p);
    assert_non_null(back);
    assert_null(back->record);
    assert_int_equal(back->position, 0);
    checkpoint_destroy(back);
    checkpoint_destroy(c);
    free(file);
}

/* In a buffer that held a longer one before, and read back where it lies. */
static void a_file_made_in_two_parts_is_the_same(void **unused)
{
    static const uint64_t position[] = { 123456789012, 3, 0 };
    struct file_buffer buffer = { 0 };
    struct error err;

    (void)unused;
    assert_true(file_buffer_begin(&buffer, 100000, &err));
    memset(buffer.bytes, 0xee, buffer.len);
    for (int i = 0; i < 3; i++) {
        struct checkpoint *c = make(position[i]), *back;
        const void *record, *kept = buffer.bytes;
        struct problem p = { 0 };
        size_t len;
        unsigned char *file = encode(c, &len);

        assert_true(format_begin(c, &model, &buffer, &err));
        if (c->record)
            memcpy(buffer.bytes + buffer.len - RECORD, c->record, RECORD);
        format_finish(&buffer);
        assert_ptr_equal(buffer.bytes, kept);
        assert_int_equal(buffer.len, len);
        assert_memory_equal(buffer.bytes, file, len);
        back = format_open(buffer.bytes, buffer.len, &model, VOCAB, &record, &p);
        assert_non_null(back);
        assert_null(back->record);
        assert_int_equal(back->position, position[i]);
        if (c->record)
            assert_memory_equal(record, c->record, RECORD);
        else
            assert_null(record);
        checkpoint_destroy(back);
        checkpoint_destroy(c);
        free(file);
    }
    file_buffer_finish(&buffer);
    assert_null(buffer.bytes);
}

static void every_truncation_and_any_surplus_is_refused(void **unused)
{
    struct checkpoint *c = make(9);
    size_t len;
    unsigned char *file = encode(c, &len), *copy;

    (void)unused;
    for (size_t n = 0; n < len; n++) {
        copy = malloc(n + 1); /* exact, so that a sanitizer sees an over-read */
        memcpy(copy, file, n);
        copy = realloc(copy, n ? n : 1);
        assert_int_equal(refusal(copy, n), PROBLEM_SNAPSHOT_INVALID);
        free(copy);
    }
    copy = calloc(1, len + 1);
    memcpy(copy, file, len);
    assert_int_equal(refusal(copy, len + 1), PROBLEM_SNAPSHOT_INVALID);
    free(copy);
    checkpoint_destroy(c);
    free(file);
}

static void every_flipped_bit_is_found(void **unused)
{
    struct checkpoint *c = make(9);
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    for (size_t bit = 0; bit < len * 8; bit++) {
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
        assert_int_not_equal(refusal(file, len), PROBLEM_NONE);
        file[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_int_equal(refusal(file, len), PROBLEM_NONE);
    checkpoint_destroy(c);
    free(file);
}

/* A valid checksum says nothing about a header's numbers. */
static void lengths_are_never_believed(void **unused)
{
    static const uint64_t value[] = {
        0, 1, 3, 4, 255, 1u << 31, UINT32_MAX, 1ull << 63, UINT64_MAX
    };
    static const size_t at[] = { 16, 24, 32, 40, 104 };
    struct checkpoint *c = make(9);
    size_t len;
    unsigned char *file = encode(c, &len), *copy = malloc(len);

    (void)unused;
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++)
        for (size_t j = 0; j < sizeof(value) / sizeof(value[0]); j++) {
            memcpy(copy, file, len);
            memcpy(copy + at[i], &value[j], 8);
            if (memcmp(copy, file, len) == 0)
                continue;
            reseal(copy, len);
            assert_int_not_equal(refusal(copy, len), PROBLEM_NONE);
        }
    free(copy);
    checkpoint_destroy(c);
    free(file);
}

static enum problem_code with(size_t at, const void *bytes, size_t n)
{
    struct checkpoint *c = make(9);
    size_t len;
    unsigned char *file = encode(c, &len);
    enum problem_code what;

    memcpy(file + (at == SIZE_MAX ? len - 4 : at), bytes, n);
    reseal(file, len);
    what = refusal(file, len);
    free(file);
    checkpoint_destroy(c);
    return what;
}

/* What is cut in its header and what is no snapshot at all are told apart. */
static void a_refusal_says_what_the_file_lacks(void **unused)
{
    struct checkpoint *c = make(9);
    struct problem p = { 0 };
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    assert_null(format_decode(file, 100, &model, VOCAB, &p));
    assert_string_equal(p.message, "the snapshot has 100 bytes, fewer than its header");
    file[0] ^= 1;
    assert_null(format_decode(file, len, &model, VOCAB, &p));
    assert_non_null(strstr(p.message, "does not begin with EDDYSTAT"));
    assert_null(format_decode("EDDY", 4, &model, VOCAB, &p));
    assert_non_null(strstr(p.message, "does not begin with EDDYSTAT"));
    free(file);
    checkpoint_destroy(c);
}

static void each_mismatch_has_its_own_refusal(void **unused)
{
    const float nan_value = NAN, infinity = INFINITY;
    const int32_t outside = VOCAB, negative = -2;
    const uint32_t version = 3;
    const uint64_t layout = 43, position = 0;

    (void)unused;
    assert_int_equal(with(8, &version, 4), PROBLEM_SNAPSHOT_VERSION);
    assert_int_equal(with(48, &layout, 8), PROBLEM_MODEL_MISMATCH);
    assert_int_equal(with(56, &layout, 8), PROBLEM_MODEL_MISMATCH);
    assert_int_equal(with(72, &position, 8), PROBLEM_SNAPSHOT_SHAPE);
    assert_int_equal(with(88, &outside, 4), PROBLEM_SNAPSHOT_INVALID);
    assert_int_equal(with(88, &negative, 4), PROBLEM_SNAPSHOT_INVALID);
    assert_int_equal(with(92, &outside, 4), PROBLEM_SNAPSHOT_INVALID);
    assert_int_equal(with(SIZE_MAX, &nan_value, 4), PROBLEM_SNAPSHOT_NOT_FINITE);
    assert_int_equal(with(SIZE_MAX, &infinity, 4), PROBLEM_SNAPSHOT_NOT_FINITE);
}

static void add_mark(struct checkpoint *c, uint64_t position, const char *anchor)
{
    struct checkpoint *m = checkpoint_create();

    if (!c->mark)
        c->mark = malloc(LIMIT_HISTORY_MARKS * sizeof(struct checkpoint *));
    m->position = position;
    m->anchor = anchor != NULL;
    if (anchor)
        strcpy(m->id.text, anchor);
    c->mark[c->marks++] = m;
}

static struct checkpoint *make_marked(void)
{
    struct checkpoint *c = make(5000);

    add_mark(c, 0, NULL);
    add_mark(c, 100, "ckpt_of-the-store");
    c->mark[1]->pending = 44;
    c->mark[1]->answer_open = true;
    add_mark(c, 200, "ckpt_inside");
    c->mark[2]->inside = true;
    add_mark(c, 200, NULL);
    c->mark[3]->stop = 55;
    checkpoint_set_tail(c->mark[3], "stop here", 9);
    return c;
}

static void marks_come_back_with_every_field(void **unused)
{
    struct checkpoint *c = make_marked(), *back;
    struct problem p = { 0 };
    struct format_info info;
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    back = format_decode(file, len, &model, VOCAB, &p);
    assert_non_null(back);
    assert_int_equal(back->marks, c->marks);
    for (size_t i = 0; i < c->marks; i++) {
        const struct checkpoint *a = c->mark[i], *b = back->mark[i];

        assert_int_equal(a->position, b->position);
        assert_int_equal(a->pending, b->pending);
        assert_int_equal(a->stop, b->stop);
        assert_int_equal(a->answer_open, b->answer_open);
        assert_int_equal(a->anchor, b->anchor);
        assert_int_equal(a->inside, b->inside);
        assert_int_equal(id_equal(&a->id, &b->id), a->anchor);
        assert_string_equal(a->tail ? a->tail : "", b->tail ? b->tail : "");
    }
    assert_memory_equal(back->record, c->record, RECORD);
    assert_true(format_check(file, len, &info, &p));
    assert_int_equal(info.turns, 3);
    checkpoint_forget_anchors(back); /* as for a file that goes out, or comes in */
    assert_int_equal(back->marks, 3);
    for (size_t i = 0; i < back->marks; i++)
        assert_true(!back->mark[i]->anchor && !back->mark[i]->inside &&
                    !id_equal(&back->mark[i]->id, &c->mark[1]->id));
    checkpoint_destroy(back);
    checkpoint_destroy(c);
    free(file);
}

static void note_id(void *arg, const struct id *id)
{
    strcat(arg, id->text);
    strcat(arg, " ");
}

/* What the store looks for: it has the front, then the marks' bytes. */
static void a_file_names_its_anchors(void **unused)
{
    struct checkpoint *c = make_marked(), *without = make(9);
    struct format_marks marks;
    char named[200] = "";
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    assert_true(format_find_marks(file, &marks));
    assert_int_equal(marks.anchors, 2);
    assert_true(format_walk_anchors(file + marks.at, marks.len, note_id, named));
    assert_string_equal(named, "ckpt_of-the-store ckpt_inside ");
    for (size_t n = 1; n < 24; n++)
        assert_false(format_walk_anchors(file + marks.at, n, note_id, named));
    free(file);
    file = encode(without, &len);
    assert_false(format_find_marks(file, &marks));
    free(file);
    checkpoint_destroy(c);
    checkpoint_destroy(without);
}

/* Whatever the marks' bytes are: refused, or read without a fault. */
static void odd_marks_are_refused(void **unused)
{
    static const unsigned char value[] = { 0, 1, 2, 4, 8, 127, 128, 255 };
    struct checkpoint *c = make_marked();
    struct format_marks marks;
    size_t len, refused = 0;
    unsigned char *file = encode(c, &len), *copy = malloc(len);

    (void)unused;
    assert_true(format_find_marks(file, &marks));
    for (size_t at = 108; at < marks.at + marks.len; at++)
        for (size_t v = 0; v < sizeof(value) && (at < 112 || at >= marks.at); v++) {
            memcpy(copy, file, len);
            copy[at] = value[v];
            reseal(copy, len);
            refused += refusal(copy, len) != PROBLEM_NONE;
        }
    assert_true(refused > 500);
    free(copy);
    free(file);
    checkpoint_destroy(c);
}

static void a_file_of_the_first_version_is_read(void **unused)
{
    const uint32_t version = 1;
    struct checkpoint *c = make(9), *marked = make_marked();
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    memcpy(file + 8, &version, sizeof(version));
    reseal(file, len);
    assert_int_equal(refusal(file, len), PROBLEM_NONE);
    free(file);
    file = encode(marked, &len);
    memcpy(file + 8, &version, sizeof(version));
    reseal(file, len);
    assert_int_equal(refusal(file, len), PROBLEM_SNAPSHOT_INVALID);
    free(file);
    checkpoint_destroy(c);
    checkpoint_destroy(marked);
}

static void a_record_of_another_model_s_length_is_a_shape_error(void **unused)
{
    struct checkpoint *c = make(9);
    size_t len;
    unsigned char *file = encode(c, &len);

    (void)unused;
    model.layout.bytes = 2 * RECORD;
    assert_int_equal(refusal(file, len), PROBLEM_SNAPSHOT_SHAPE);
    model.layout.bytes = RECORD;
    checkpoint_destroy(c);
    free(file);
}

static unsigned char *convert(const void *file, size_t len, enum dtype to, size_t *out_len)
{
    struct problem p = { 0 };
    void *out;

    if (!format_convert(file, len, &model.layout, to, &out, out_len, &p))
        fail_msg("%s", p.message);
    return out;
}

/* Half as long, another state: only who asks for it gets one for the other. */
static void a_narrow_file_is_another_state(void **unused)
{
    struct problem p = { 0 };
    struct format_info info;
    struct checkpoint *c = make(9);
    size_t len, narrow_len;
    unsigned char *file = encode(c, &len), *narrow = convert(file, len, DTYPE_BF16, &narrow_len);

    (void)unused;
    assert_int_equal(narrow_len, len - RECORD / 2);
    assert_true(format_check(narrow, narrow_len, &info, &p));
    assert_string_equal(info.numbers, "BF16");
    assert_int_equal(info.position, 9);
    assert_int_equal(info.tokens, TOKENS);
    assert_int_equal(info.record_bytes, RECORD / 2);
    assert_null(format_decode(narrow, narrow_len, &model, VOCAB, &p));
    assert_int_equal(p.what, PROBLEM_NUMBERS_MISMATCH);
    assert_non_null(strstr(p.message, "BF16"));
    assert_non_null(strstr(p.message, "F32"));
    checkpoint_destroy(c);
    free(narrow);
    free(file);
}

/* A model with a small and a large field, and a session of it whose record is of the layout. */
static void make_layered(enum dtype large)
{
    model.layout = (struct state_layout){
        .fields = 2,
        .field = { { .name = "conv", .layers = 3, .rank = 2, .shape = { 3, 7 } },
                   { .name = "ssm", .layers = 3, .rank = 2, .shape = { 7, 5 }, .large = true } }
    };
    state_layout_pack(&model.layout, large);
}

/* Place of number i of layer l of a field, from the record's beginning. */
static void *number_of(void *record, int field, int layer, int i)
{
    const struct state_field *f = &model.layout.field[field];

    return (char *)record + f->offset + (size_t)layer * f->layer_bytes +
           (size_t)i * dtype_size(f->dtype);
}

/* Numbers that bf16 has, so that it does not matter which format they are in. */
static struct checkpoint *make_of_layout(void)
{
    struct checkpoint *c = make(9);

    record_release(c->record);
    c->record = record_create(model.layout.bytes);
    assert_non_null(c->record);
    memset(c->record, 0, model.layout.bytes);
    c->layout = model.layout.id;
    for (int l = 0; l < 3; l++) {
        for (int i = 0; i < 21; i++)
            *(float *)number_of(c->record, 0, l, i) = (float)(i - 3 * l);
        for (int i = 0; i < 35; i++) {
            void *at = number_of(c->record, 1, l, i);

            if (model.layout.bf16_bytes)
                *(uint16_t *)at = f32_to_bf16((float)(i * l - 7));
            else
                *(float *)at = (float)(i * l - 7);
        }
    }
    return c;
}

static unsigned char *adopt(const void *file, size_t len, size_t *out_len)
{
    struct problem p = { 0 };
    void *out;

    if (!format_adopt(file, len, &model.layout, &out, out_len, &p))
        fail_msg("%s", p.message);
    return out;
}

/* What a server keeps comes back as it is; what the other one keeps is refused by name, and
 * becomes the own when that is asked for: every number in its place. */
static void large_fields_of_another_format_are_refused_or_adopted(void **unused)
{
    static const enum dtype format[] = { DTYPE_F32, DTYPE_BF16 };
    const struct state_layout before = model.layout;

    (void)unused;
    for (int i = 0; i < 2; i++) {
        struct problem p = { 0 };
        struct format_info info;
        struct checkpoint *theirs, *ours, *back;
        size_t len, own_len, adopted_len, wide_len, narrow_len, again_len;
        unsigned char *file, *own, *adopted, *wide, *narrow, *again;

        make_layered(format[!i]);
        theirs = make_of_layout();
        file = encode(theirs, &len);
        assert_true(format_check(file, len, &info, &p));
        assert_string_equal(info.numbers, i ? "F32" : "F32 and BF16");
        back = format_decode(file, len, &model, VOCAB, &p);
        assert_non_null(back);
        assert_memory_equal(back->record, theirs->record, model.layout.bytes);
        checkpoint_destroy(back);

        make_layered(format[i]);
        ours = make_of_layout();
        own = encode(ours, &own_len);
        assert_true((own_len < len) == i);
        assert_null(format_decode(file, len, &model, VOCAB, &p));
        assert_int_equal(p.what, PROBLEM_NUMBERS_MISMATCH);
        assert_non_null(strstr(p.message, i ? "F32; here they are F32 and BF16"
                                            : "F32 and BF16; here they are F32"));
        adopted = adopt(file, len, &adopted_len);
        back = format_decode(adopted, adopted_len, &model, VOCAB, &p);
        assert_non_null(back);
        assert_memory_equal(back->record, ours->record, model.layout.bytes);
        checkpoint_destroy(back);

        wide = convert(own, own_len, DTYPE_F32, &wide_len);
        narrow = convert(own, own_len, DTYPE_BF16, &narrow_len);
        assert_true(narrow_len < wide_len);
        again = adopt(narrow, narrow_len, &again_len);
        back = format_decode(again, again_len, &model, VOCAB, &p);
        assert_non_null(back);
        assert_memory_equal(back->record, ours->record, model.layout.bytes);
        checkpoint_destroy(back);
        free(again);
        again = adopt(own, own_len, &again_len);
        assert_int_equal(again_len, own_len);
        assert_memory_equal(again, own, own_len);

        checkpoint_destroy(theirs);
        checkpoint_destroy(ours);
        free(file);
        free(own);
        free(adopted);
        free(wide);
        free(narrow);
        free(again);
    }
    model.layout = before;
}

static void a_mixed_record_is_measured_and_finite(void **unused)
{
    const struct state_layout before = model.layout;
    struct checkpoint *c;
    uint32_t numbers;
    unsigned char *file;
    size_t len;
    void *out;
    struct problem p = { 0 };

    (void)unused;
    make_layered(DTYPE_BF16);
    c = make_of_layout();
    file = encode(c, &len);
    assert_false(format_convert(file, len, NULL, DTYPE_F32, &out, &len, &p));
    assert_int_equal(p.what, PROBLEM_MODEL_MISMATCH);
    memcpy(&numbers, file + 104, sizeof(numbers));
    numbers += 256; /* one unit of float32 more than there is */
    memcpy(file + 104, &numbers, sizeof(numbers));
    reseal(file, len);
    assert_int_equal(refusal(file, len), PROBLEM_NUMBERS_MISMATCH);
    numbers |= 0xffffff00u;
    memcpy(file + 104, &numbers, sizeof(numbers));
    reseal(file, len);
    assert_int_equal(refusal(file, len), PROBLEM_SNAPSHOT_INVALID);
    numbers = 3;
    memcpy(file + 104, &numbers, sizeof(numbers));
    reseal(file, len);
    assert_int_equal(refusal(file, len), PROBLEM_SNAPSHOT_INVALID);
    free(file);
    *(uint16_t *)number_of(c->record, 1, 2, 34) = 0x7f80; /* infinity */
    file = encode(c, &len);
    assert_int_equal(refusal(file, len), PROBLEM_SNAPSHOT_NOT_FINITE);
    *(uint16_t *)number_of(c->record, 1, 2, 34) = 0x7f7f; /* the largest there is */
    free(file);
    file = encode(c, &len);
    assert_int_equal(refusal(file, len), PROBLEM_NONE);
    *(float *)number_of(c->record, 0, 0, 1) = NAN;
    free(file);
    file = encode(c, &len);
    assert_int_equal(refusal(file, len), PROBLEM_SNAPSHOT_NOT_FINITE);
    checkpoint_destroy(c);
    free(file);
    model.layout = before;
}

/* Narrow and wide again is each number rounded once; nothing else changes. */
static void conversion_rounds_once_and_touches_nothing_else(void **unused)
{
    struct problem p = { 0 };
    struct checkpoint *c = make(9), *back;
    size_t len, narrow_len, wide_len, again_len;
    unsigned char *file = encode(c, &len), *narrow = convert(file, len, DTYPE_BF16, &narrow_len);
    unsigned char *wide = convert(narrow, narrow_len, DTYPE_F32, &wide_len);
    unsigned char *again = convert(wide, wide_len, DTYPE_BF16, &again_len);

    (void)unused;
    assert_int_equal(wide_len, len);
    assert_memory_equal(wide, file, SUM_AT);
    assert_memory_equal(wide + HEADER, file + HEADER, len - RECORD - HEADER);
    back = format_decode(wide, wide_len, &model, VOCAB, &p);
    assert_non_null(back);
    for (int i = 0; i < RECORD / 4; i++)
        assert_true(((float *)back->record)[i] ==
                    bf16_to_f32(f32_to_bf16(((float *)c->record)[i])));
    assert_int_equal(again_len, narrow_len);
    assert_memory_equal(again, narrow, narrow_len);
    checkpoint_destroy(back);
    checkpoint_destroy(c);
    free(file);
    free(narrow);
    free(wide);
    free(again);
}

static void a_number_beyond_the_narrow_range_is_refused(void **unused)
{
    struct problem p = { 0 };
    struct checkpoint *c = make(9);
    unsigned char *file;
    size_t len;
    void *out;

    (void)unused;
    ((float *)c->record)[3] = 3.4e38f; /* finite, and rounds to infinity */
    file = encode(c, &len);
    assert_false(format_convert(file, len, NULL, DTYPE_BF16, &out, &len, &p));
    assert_int_equal(p.what, PROBLEM_SNAPSHOT_NOT_FINITE);
    checkpoint_destroy(c);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_brings_every_field_back),
        cmocka_unit_test(a_parent_is_an_id_or_none),
        cmocka_unit_test(the_empty_state_has_a_file_too),
        cmocka_unit_test(a_file_made_in_two_parts_is_the_same),
        cmocka_unit_test(every_truncation_and_any_surplus_is_refused),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(lengths_are_never_believed),
        cmocka_unit_test(a_refusal_says_what_the_file_lacks),
        cmocka_unit_test(each_mismatch_has_its_own_refusal),
        cmocka_unit_test(a_record_of_another_model_s_length_is_a_shape_error),
        cmocka_unit_test(a_narrow_file_is_another_state),
        cmocka_unit_test(marks_come_back_with_every_field),
        cmocka_unit_test(a_file_names_its_anchors),
        cmocka_unit_test(odd_marks_are_refused),
        cmocka_unit_test(a_file_of_the_first_version_is_read),
        cmocka_unit_test(conversion_rounds_once_and_touches_nothing_else),
        cmocka_unit_test(a_number_beyond_the_narrow_range_is_refused),
        cmocka_unit_test(large_fields_of_another_format_are_refused_or_adopted),
        cmocka_unit_test(a_mixed_record_is_measured_and_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
