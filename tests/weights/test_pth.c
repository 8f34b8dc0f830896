/* test_pth.c - PyTorch archives: equal to the same weights elsewhere, and never a program.
 *
 * The files are made here: `archive` packs entries into a stored zip, and pickles are
 * written out opcode by opcode. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/weights/fixture.h"

struct archive {
    unsigned char bytes[8192], directory[2048];
    size_t len, directory_len, count;
    int method, flags;
    bool wide; /* sizes and offsets in their 64-bit places */
};

static void put(unsigned char *to, size_t *len, uint64_t value, int bytes)
{
    for (; bytes > 0; bytes--, value >>= 8)
        to[(*len)++] = (unsigned char)value;
}

static void add_entry(struct archive *a, const char *name, const void *data, size_t n)
{
    size_t at = a->len, name_len = strlen(name);

    put(a->bytes, &a->len, 0x04034b50, 4);
    put(a->bytes, &a->len, 0, 22); /* sizes too: only the directory's count */
    put(a->bytes, &a->len, name_len, 2);
    put(a->bytes, &a->len, 6, 2);
    memcpy(a->bytes + a->len, name, name_len);
    a->len += name_len;
    put(a->bytes, &a->len, 0x46420002, 6); /* the padding field that PyTorch writes */
    memcpy(a->bytes + a->len, data, n);
    a->len += n;

    put(a->directory, &a->directory_len, 0x02014b50, 4);
    put(a->directory, &a->directory_len, 0, 4);
    put(a->directory, &a->directory_len, (uint64_t)a->flags, 2);
    put(a->directory, &a->directory_len, (uint64_t)a->method, 2);
    put(a->directory, &a->directory_len, 0, 8);
    put(a->directory, &a->directory_len, a->wide ? UINT32_MAX : n, 4);
    put(a->directory, &a->directory_len, a->wide ? UINT32_MAX : n, 4);
    put(a->directory, &a->directory_len, name_len, 2);
    put(a->directory, &a->directory_len, a->wide ? 5 + 28 : 0, 2);
    put(a->directory, &a->directory_len, 0, 10);
    put(a->directory, &a->directory_len, a->wide ? UINT32_MAX : at, 4);
    memcpy(a->directory + a->directory_len, name, name_len);
    a->directory_len += name_len;
    if (a->wide) {
        put(a->directory, &a->directory_len, 0x00014643, 5); /* a field of another kind first */
        put(a->directory, &a->directory_len, 1, 2);
        put(a->directory, &a->directory_len, 24, 2);
        put(a->directory, &a->directory_len, n, 8);
        put(a->directory, &a->directory_len, n, 8);
        put(a->directory, &a->directory_len, at, 8);
    }
    a->count++;
}

static void finish(struct archive *a)
{
    size_t directory = a->len, end64;

    memcpy(a->bytes + a->len, a->directory, a->directory_len);
    a->len += a->directory_len;
    end64 = a->len;
    if (a->wide) {
        put(a->bytes, &a->len, 0x06064b50, 4);
        put(a->bytes, &a->len, 44, 8);
        put(a->bytes, &a->len, 0, 12);
        put(a->bytes, &a->len, a->count, 8);
        put(a->bytes, &a->len, a->count, 8);
        put(a->bytes, &a->len, a->directory_len, 8);
        put(a->bytes, &a->len, directory, 8);
        put(a->bytes, &a->len, 0x07064b50, 4);
        put(a->bytes, &a->len, 0, 4);
        put(a->bytes, &a->len, end64, 8);
        put(a->bytes, &a->len, 1, 4);
    }
    put(a->bytes, &a->len, 0x06054b50, 4);
    put(a->bytes, &a->len, 0, 4);
    put(a->bytes, &a->len, a->wide ? 0xffff : a->count, 2);
    put(a->bytes, &a->len, a->wide ? 0xffff : a->count, 2);
    put(a->bytes, &a->len, a->wide ? 0xffffffff : a->directory_len, 4);
    put(a->bytes, &a->len, a->wide ? 0xffffffff : directory, 4);
    put(a->bytes, &a->len, 0, 2);
}

/* The archive of a pickle and of a storage "0" of 24 bytes 0, 1, 2, .. */
static void pack(struct archive *a, const void *pickle, size_t len)
{
    unsigned char data[24];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)i;
    add_entry(a, "m/data.pkl", pickle, len);
    add_entry(a, "m/data/0", data, sizeof(data));
    finish(a);
}

static const char *write_pickle(const void *pickle, size_t len)
{
    struct archive a = { 0 };

    pack(&a, pickle, len);
    return fixture_write("m.pth", a.bytes, a.len);
}

/* Pieces of a pickle. Literals are split where an escape would swallow a digit. */
#define STORAGE(type, elements)                                                                    \
    "(X\7\0\0\0storagectorch\n" type "Storage\nX\1\0\0\0"                                          \
    "0X\3\0\0\0cpuK" elements "tQ"
#define HOOKS                                                                                      \
    "\x89"                                                                                         \
    "ccollections\nOrderedDict\n)R"
#define REBUILD                                "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR(storage, offset, shape, stride) REBUILD "(" storage offset shape stride HOOKS "tR"
#define FLOATS                                 STORAGE("Float", "\6")
#define DICT(value)                            "\x80\2}X\1\0\0\0x" value "s."
#define GOOD                                   TENSOR(FLOATS, "K\1", "K\2K\2\x86", "K\2K\1\x86")

#define REFUSE(pickle, ...)                                                                        \
    expect_refused(write_pickle(pickle, sizeof(pickle) - 1), ERR_FORMAT, "m.pth", "expected",      \
                   __VA_ARGS__, NULL)

static void expect_good(const char *path)
{
    struct weights *w = expect_open(path);
    const struct tensor *t = weights_find(w, "x");
    unsigned char *bytes = read_tensor(w, "x");

    assert_int_equal(weights_count(w), 1);
    assert_int_equal(t->dtype, DTYPE_F32);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 2);
    for (int i = 0; i < 16; i++)
        assert_int_equal(bytes[i], 4 + i); /* one element into the storage */
    free(bytes);
    weights_close(w);
}

static void a_small_archive_opens(void **state)
{
    (void)state;
    expect_good(write_pickle(DICT(GOOD), sizeof(DICT(GOOD)) - 1));
}

static void a_64_bit_archive_opens(void **state)
{
    struct archive a = { .wide = true };

    (void)state;
    pack(&a, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    expect_good(fixture_write("m.pth", a.bytes, a.len));
}

static void ordered_dictionaries_parameters_and_shared_tensors_open(void **state)
{
    static const char ordered[] = "\x80\2ccollections\nOrderedDict\n)Rq\0(X\1\0\0\0x" GOOD
                                  "u}X\x9\0\0\0_metadata}X\0\0\0\0}X\7"
                                  "\0\0\0versionK\1sssb.";
    static const char parameter[] = DICT("ctorch._utils\n_rebuild_parameter\n" GOOD "\x88"
                                         "ccollections\nOrderedDict\n)R\x87R");
    static const char memo[] = "\x80\2}(X\1\0\0\0"
                               "aq\0" GOOD "r\1\0\0\0X\1\0\0\0bj\1\0\0\0u.";
    struct weights *w;

    (void)state;
    expect_good(write_pickle(ordered, sizeof(ordered) - 1));
    expect_good(write_pickle(parameter, sizeof(parameter) - 1));
    w = expect_open(write_pickle(memo, sizeof(memo) - 1));
    assert_int_equal(weights_count(w), 2);
    assert_non_null(weights_find(w, "b"));
    weights_close(w);
}

static void tensors_of_each_dtype_and_views_of_one_storage_open(void **state)
{
    static const char halves[] = "\x80\2}(X\1\0\0\0a" TENSOR(
        STORAGE("BFloat16", "\x0c"), "K\4", "K\2\x85",
        "K\1\x85") "X\1\0\0\0b" TENSOR(STORAGE("Half", "\x0c"), "K\5", "K\7K\1\x86",
                                       "K\1K\1\x86") "X\1\0\0\0c" TENSOR(STORAGE("Long", "\3"),
                                                                         "K\2", ")", ")") "u.";
    struct weights *w = expect_open(write_pickle(halves, sizeof(halves) - 1));
    unsigned char *a = read_tensor(w, "a"), *b = read_tensor(w, "b"), *c = read_tensor(w, "c");

    (void)state;
    assert_int_equal(weights_find(w, "a")->dtype, DTYPE_BF16);
    assert_int_equal(weights_find(w, "b")->dtype, DTYPE_F16);
    assert_int_equal(weights_find(w, "c")->dtype, DTYPE_I64);
    assert_int_equal(weights_find(w, "b")->bytes, 14);
    assert_int_equal(weights_find(w, "c")->rank, 0);
    assert_true(a[0] == 8 && b[0] == 10 && c[0] == 16);
    assert_string_equal(weights_at(w, 2)->name, "c");
    free(a);
    free(b);
    free(c);
    weights_close(w);
}

static void protocol_4_opens(void **state)
{
    static const char pickle[] =
        "\x80\4\x95\0\0\0\0\0\0\0\0}\x94\x8c\1x\x94\x8c\x0ctorch._utils\x94\x8c\x12"
        "_rebuild_tensor_v2\x94\x93\x94((\x8c\7storage\x94\x8c\5torch\x94\x8c\x0c"
        "FloatStorage\x94\x93\x94\x8c\1"
        "0\x94\x8c\3cpu\x94\x8a\1\6t\x94QJ\1\0\0\0M\2\0K\2\x86\x94"
        "K\2K\1\x86\x94\x89\x8c\x0b"
        "collections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94t\x94R\x94s.";

    (void)state;
    expect_good(write_pickle(pickle, sizeof(pickle) - 1));
}

static void a_global_that_is_not_of_a_tensor_is_refused_by_name(void **state)
{
    (void)state;
    REFUSE("\x80\2cos\nsystem\n(X\4\0\0\0truetR.", "os.system is not allowed");
    REFUSE(DICT("c__builtin__\neval\n"), "__builtin__.eval is not allowed");
    REFUSE("\x80\4\x8c\2os\x8c\6system\x93.", "os.system is not allowed");
    REFUSE(DICT(TENSOR(STORAGE("Double", "\6"), "K\0", "K\1\x85", "K\1\x85")),
           "torch.DoubleStorage is not allowed", "F32, F16, BF16");
}

static void an_opcode_beyond_a_dictionary_is_refused_by_name(void **state)
{
    (void)state;
    REFUSE("\x80\2(ios\nsystem\n.", "opcode 0x69 (INST) is not allowed");
    REFUSE("\x80\2(o.", "(OBJ)");
    REFUSE("\x80\2}}\x81.", "(NEWOBJ)");
    REFUSE("\x80\2}}\x92.", "(NEWOBJ_EX)");
    REFUSE("\x80\2\x82\1.", "(EXT1)");
    REFUSE("\x80\2].", "(EMPTY_LIST)");
    REFUSE("\x80\2G\0\0\0\0\0\0\0\0.", "(BINFLOAT)");
    REFUSE("\x80\2\xfe.", "opcode 0xfe (unknown)");
    REFUSE("\x80\1}.", "protocol 2 to 5");
}

static void a_dictionary_holds_tensors_under_strings(void **state)
{
    (void)state;
    REFUSE(DICT("K\1"), "x: expected a tensor, found another value");
    REFUSE(DICT("}"), "x: expected a tensor");
    REFUSE("\x80\2}K\1" GOOD "s.", "a key is no string");
    REFUSE("\x80\2" GOOD ".", "expected one dictionary of tensors");
    REFUSE("\x80\2}}.", "expected one dictionary of tensors");
    REFUSE("\x80\2.", "expected one dictionary of tensors");
    REFUSE("\x80\2}(X\1\0\0\0x" GOOD "X\1\0\0\0x" GOOD "u.", "tensor x: expected once");
    REFUSE(DICT(GOOD "\0"), "opcode 0x00");
}

static void a_tensor_lies_in_its_storage(void **state)
{
    (void)state;
    REFUSE(DICT(TENSOR(FLOATS, "K\3", "K\2K\2\x86", "K\2K\1\x86")), "beyond its end");
    REFUSE(DICT(TENSOR(FLOATS, "K\7", "K\0\x85", "K\1\x85")), "beyond its end");
    REFUSE(DICT(TENSOR(FLOATS, "J\xff\xff\xff\xff", "K\1\x85", "K\1\x85")), "an offset");
    REFUSE(DICT(TENSOR(FLOATS, "\x8a\x8\xff\xff\xff\xff\xff\xff\xff\x7f", "K\1\x85", "K\1\x85")),
           "beyond its end");
    REFUSE(DICT(TENSOR(FLOATS, "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85")), "a dimension");
    REFUSE(DICT(TENSOR(FLOATS, "K\0", "\x8a\x8\0\0\0\0\0\0\0\x40\x85", "K\1\x85")),
           "shape overflow");
    REFUSE(DICT(TENSOR(FLOATS, "K\0", "K\2K\2\x86", "K\1\x85")), "as many strides");
    REFUSE(DICT(TENSOR(FLOATS, "K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "K\1\x85")),
           "at most 8 dimensions");
    REFUSE(DICT(TENSOR(STORAGE("Float", "\7"), "K\0", "K\1\x85", "K\1\x85")),
           "tensor x: expected 7 F32 elements", "found 24 bytes");
    REFUSE(DICT(TENSOR(STORAGE("Half", "\6"), "K\0", "K\1\x85", "K\1\x85")),
           "tensor x: expected 6 F16 elements", "found 24 bytes");
    REFUSE(DICT(TENSOR("K\0", "K\0", "K\1\x85", "K\1\x85")), "a storage and an offset");
    REFUSE(DICT(TENSOR("(K\0tQ", "K\0", "K\1\x85", "K\1\x85")), "as persistent id");
}

static void only_row_major_tensors_are_read(void **state)
{
    (void)state;
    REFUSE(DICT(TENSOR(FLOATS, "K\0", "K\2K\2\x86", "K\1K\2\x86")), "row-major");
    REFUSE(DICT(TENSOR(FLOATS, "K\0", "K\2\x85", "K\2\x85")), "row-major");
    REFUSE(DICT(TENSOR(FLOATS, "K\0", "K\2\x85", "K\0\x85")), "row-major");
    weights_close(
        expect_open(/* the stride of a dimension of one element says nothing */
                    write_pickle(DICT(TENSOR(FLOATS, "K\0", "K\1K\3\x86", "K\x63K\1\x86")),
                                 sizeof(DICT(TENSOR(FLOATS, "K\0", "K\1K\3\x86", "K\x63K\1\x86"))) -
                                     1)));
}

static void a_stack_that_does_not_add_up_is_refused(void **state)
{
    (void)state;
    REFUSE("\x80\2s.", "found none");
    REFUSE("\x80\2t.", "expected a mark");
    REFUSE("\x80\2u.", "expected a mark");
    REFUSE("\x80\2(s.", "found none");
    REFUSE("\x80\2}(K\1u.", "odd number");
    REFUSE("\x80\2K\1K\1K\1s.", "expected a dictionary");
    REFUSE("\x80\2R.", "found none");
    REFUSE("\x80\2K\1)R.", "expected a global");
    REFUSE("\x80\2ctorch\nFloatStorage\n)R.", "storage type");
    REFUSE("\x80\2" REBUILD ")R.", "6 or 7 arguments");
    REFUSE("\x80\2ctorch._utils\n_rebuild_parameter\n)R.", "expected a tensor as parameter");
    REFUSE("\x80\2ccollections\nOrderedDict\nK\1\x85R.", "empty OrderedDict");
    REFUSE("\x80\2}K\1b.", "attributes");
    REFUSE("\x80\2h\0.", "expected a memo");
    REFUSE("\x80\2}q\1.", "next memo number");
    REFUSE("\x80\2}r\xff\xff\xff\xff.", "next memo number");
    REFUSE("\x80\2q\0.", "found none");
    REFUSE("\x80\2X\xff\xff\xff\xff.", "found its end");
    REFUSE("\x80\2X\1\0\0\0\0.", "without NUL");
    REFUSE("\x80\2cos", "found its end");
    REFUSE("\x80\2\x8a\x9\0\0\0\0\0\0\0\0\0.", "at most 64 bits");
    REFUSE("\x80\2}", "found its end");
}

static void expect_archive_refused(struct archive *a, const char *what)
{
    expect_refused(fixture_write("m.pth", a->bytes, a->len), ERR_FORMAT, "m.pth", what, NULL);
}

static void what_pytorch_does_not_write_is_refused(void **state)
{
    struct archive compressed = { .method = 8 }, encrypted = { .flags = 1 }, twice = { 0 };
    struct archive none = { 0 }, two = { 0 }, big = { 0 };

    (void)state;
    pack(&compressed, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    expect_archive_refused(&compressed, "expected stored entries, found a compressed one");
    pack(&encrypted, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    expect_archive_refused(&encrypted, "expected plain entries, found an encrypted one");
    add_entry(&twice, "m/data.pkl", "", 0);
    pack(&twice, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    expect_archive_refused(&twice, "two entries have one name");
    add_entry(&two, "n/data.pkl", "", 0);
    pack(&two, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    expect_archive_refused(&two, "expected one data.pkl, found several");
    add_entry(&none, "m/other", "", 0);
    finish(&none);
    expect_archive_refused(&none, "expected a data.pkl, found none");
    add_entry(&big, "m/byteorder", "big", 3);
    pack(&big, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    expect_archive_refused(&big, "expected byte order little");
    expect_refused(fixture_write("m.pth", "\x80\2\x8a\nl\xfc\x9c", 7), ERR_FORMAT, "too short",
                   NULL);
}

static void a_storage_must_be_in_the_archive(void **state)
{
    struct archive a = { 0 };

    (void)state;
    add_entry(&a, "m/data.pkl", DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    finish(&a);
    expect_archive_refused(&a, "tensor x: expected an entry data/0, found none");
}

static void every_beginning_of_a_file_is_refused(void **state)
{
    struct archive a = { .wide = true };

    (void)state;
    pack(&a, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    for (size_t n = 0; n < a.len; n++)
        expect_refused(fixture_write("m.pth", a.bytes, n), ERR_FORMAT, "m.pth", NULL);
}

static void no_changed_byte_does_harm(void **state)
{
    static const unsigned char with[] = { 0x00, 0x01, 0x7f, 0x80, 0xff, 'R', '(', 'Q' };
    struct archive a = { 0 };

    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        a = (struct archive){ .wide = wide };
        pack(&a, DICT(GOOD), sizeof(DICT(GOOD)) - 1);
        for (size_t i = 0; i < a.len; i++) {
            unsigned char was = a.bytes[i];

            for (size_t k = 0; k < sizeof(with); k++) {
                a.bytes[i] = with[k];
                open_and_read(fixture_write("m.pth", a.bytes, a.len));
            }
            a.bytes[i] = was;
        }
    }
}

static void a_file_cut_after_it_was_opened_is_an_io_error(void **state)
{
    const char *path = write_pickle(DICT(GOOD), sizeof(DICT(GOOD)) - 1);
    struct weights *w = expect_open(path);
    struct error err;
    char bytes[16];

    (void)state;
    assert_int_equal(truncate(path, 10), 0);
    assert_false(weights_read(w, weights_find(w, "x"), bytes, &err));
    assert_int_equal(err.code, ERR_IO);
    weights_close(w);
}

/* The author's name of a tensor of layer %d, and the one of the Hub's layout. Others are
 * stored transposed there, or do not exist. */
static const struct {
    const char *pth, *hub;
} same[] = {
    { "emb.weight", "model.embeddings.weight" },
    { "head.weight", "lm_head.weight" },
    { "ln_out.weight", "model.norm.weight" },
    { "ln_out.bias", "model.norm.bias" },
    { "blocks.%d.ln1.weight", "model.layers.%d.attn_norm.weight" },
    { "blocks.%d.ln2.bias", "model.layers.%d.ffn_norm.bias" },
    { "blocks.%d.att.x_r", "model.layers.%d.attn.x_r" },
    { "blocks.%d.att.x_g", "model.layers.%d.attn.x_g" },
    { "blocks.%d.att.k_k", "model.layers.%d.attn.k_k" },
    { "blocks.%d.att.r_k", "model.layers.%d.attn.r_k" },
    { "blocks.%d.att.w0", "model.layers.%d.attn.w_lora.lora.2.bias" },
    { "blocks.%d.att.receptance.weight", "model.layers.%d.attn.r_proj.weight" },
    { "blocks.%d.att.key.weight", "model.layers.%d.attn.k_proj.weight" },
    { "blocks.%d.att.value.weight", "model.layers.%d.attn.v_proj.weight" },
    { "blocks.%d.att.output.weight", "model.layers.%d.attn.o_proj.weight" },
    { "blocks.%d.att.ln_x.weight", "model.layers.%d.attn.g_norm.weight" },
    { "blocks.%d.ffn.x_k", "model.layers.%d.ffn.x_k" },
    { "blocks.%d.ffn.key.weight", "model.layers.%d.ffn.key.weight" },
    { "blocks.%d.ffn.value.weight", "model.layers.%d.ffn.value.weight" },
};

static void name_layer(char name[128], const char *pattern, int layer)
{
    const char *hole = strstr(pattern, "%d");

    if (hole)
        snprintf(name, 128, "%.*s%d%s", (int)(hole - pattern), pattern, layer, hole + 2);
    else
        snprintf(name, 128, "%s", pattern);
}

static void the_same_weights_are_the_same_in_both_formats(void **state)
{
    enum { LAYERS = 12 };
    struct weights *pth = expect_open("tests/data/rwkv7-tiny-pth/rwkv7-tiny.pth");
    struct weights *hub = expect_open("tests/data/rwkv7-tiny-hf");

    (void)state;
    assert_string_equal(weights_folder(pth), "tests/data/rwkv7-tiny-pth");
    for (int layer = 0; layer < LAYERS; layer++) {
        for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
            char a[128], b[128];
            void *x, *y;

            name_layer(a, same[i].pth, layer);
            name_layer(b, same[i].hub, layer);
            x = read_tensor(pth, a);
            y = read_tensor(hub, b);
            assert_int_equal(weights_find(pth, a)->bytes, weights_find(hub, b)->bytes);
            assert_memory_equal(x, y, weights_find(pth, a)->bytes);
            free(x);
            free(y);
        }
    }
    weights_close(pth);
    weights_close(hub);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_archive_opens),
        cmocka_unit_test(a_64_bit_archive_opens),
        cmocka_unit_test(ordered_dictionaries_parameters_and_shared_tensors_open),
        cmocka_unit_test(tensors_of_each_dtype_and_views_of_one_storage_open),
        cmocka_unit_test(protocol_4_opens),
        cmocka_unit_test(a_global_that_is_not_of_a_tensor_is_refused_by_name),
        cmocka_unit_test(an_opcode_beyond_a_dictionary_is_refused_by_name),
        cmocka_unit_test(a_dictionary_holds_tensors_under_strings),
        cmocka_unit_test(a_tensor_lies_in_its_storage),
        cmocka_unit_test(only_row_major_tensors_are_read),
        cmocka_unit_test(a_stack_that_does_not_add_up_is_refused),
        cmocka_unit_test(what_pytorch_does_not_write_is_refused),
        cmocka_unit_test(a_storage_must_be_in_the_archive),
        cmocka_unit_test(every_beginning_of_a_file_is_refused),
        cmocka_unit_test(no_changed_byte_does_harm),
        cmocka_unit_test(a_file_cut_after_it_was_opened_is_an_io_error),
        cmocka_unit_test(the_same_weights_are_the_same_in_both_formats),
    };

    return cmocka_run_group_tests(tests, fixture_create, fixture_destroy);
}
