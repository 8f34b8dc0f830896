/* test_safetensors.c - each rule of the format has a file that breaks it and nothing else. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/limits.h"
#include "tests/weights/fixture.h"

#define TENSOR(name, dtype, shape, offsets)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* A file with one well-formed float and one tensor of this description after it. */
#define SECOND(dtype, shape, offsets)                                                              \
    "{" TENSOR("first", "F32", "[1]", "[0,4]") "," TENSOR("x", dtype, shape, offsets) "}"

static void refuse_header(const char *header, size_t data, const char *what)
{
    expect_refused(safetensors_write("bad.safetensors", header, data), ERR_FORMAT,
                   "bad.safetensors", what, NULL);
}

static void a_file_without_a_whole_header_is_refused(void **state)
{
    static const char length_ff[] = "\xff\xff\xff\xff\xff\xff\xff\xff{}";
    static const char length_3[] = "\3\0\0\0\0\0\0\0{}";

    (void)state;
    for (size_t n = 0; n < 8; n++)
        expect_refused(fixture_write("bad.safetensors", length_ff, n), ERR_FORMAT, "invalid header",
                       "expected at least 8", "found", NULL);
    expect_refused(fixture_write("bad.safetensors", length_ff, 10), ERR_FORMAT, "invalid header",
                   "expected at most 100000000", "found 18446744073709551615", NULL);
    expect_refused(fixture_write("bad.safetensors", length_3, 10), ERR_FORMAT, "invalid header",
                   "expected 3", "found 2", NULL);
}

static void a_header_that_is_not_strict_json_is_refused(void **state)
{
    static const char *const headers[] = {
        "",     "{",   "\xff", "[]",         " {}", "\xef\xbb\xbf{}", "{}{}", "{\"\\ud800\":1}",
        "null", "{,}", "{} x", "{\"a\":01}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++)
        refuse_header(headers[i], 0, "invalid header");
}

static void a_header_may_be_padded_and_may_be_empty(void **state)
{
    struct weights *w = expect_open(safetensors_write("good.safetensors", "{}      ", 0));

    (void)state;
    assert_int_equal(weights_count(w), 0);
    assert_null(weights_find(w, "x"));
    weights_close(w);
}

static void metadata_holds_strings_only(void **state)
{
    struct weights *w = expect_open(safetensors_write(
        "good.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\",\"a\":\"\"}," TENSOR("x", "F32", "[1]", "[0,4]") "}",
        4));

    (void)state;
    assert_int_equal(weights_count(w), 1);
    weights_close(w);
    refuse_header("{\"__metadata__\":{\"n\":1}}", 0, "__metadata__");
    refuse_header("{\"__metadata__\":[]}", 0, "__metadata__");
    refuse_header("{\"__metadata__\":\"x\"}", 0, "__metadata__");
}

static void tensors_must_tile_the_buffer(void **state)
{
    (void)state;
    refuse_header(SECOND("F32", "[1]", "[2,6]"), 8, "invalid offset");   /* overlap */
    refuse_header(SECOND("F32", "[1]", "[0,4]"), 8, "invalid offset");   /* the same bytes */
    refuse_header(SECOND("F32", "[1]", "[5,9]"), 9, "invalid offset");   /* hole */
    refuse_header(SECOND("F32", "[1]", "[8,4]"), 8, "invalid offset");   /* end < begin */
    refuse_header(SECOND("F32", "[1]", "[4,8]"), 7, "invalid offset");   /* beyond the file */
    refuse_header(SECOND("F32", "[1]", "[4,8]"), 9, "invalid offset");   /* trailing byte */
    refuse_header(SECOND("F32", "[1]", "[4,12]"), 12, "invalid offset"); /* size */
    refuse_header("{" TENSOR("x", "F32", "[1]", "[4,8]") "}", 8, "invalid offset");
    refuse_header("{}", 1, "invalid offset");
    refuse_header("{" TENSOR("x", "F32", "[0]", "[1,1]") "}", 1, "invalid offset");
}

static void offsets_are_two_whole_numbers(void **state)
{
    static const char *const offsets[] = {
        "[-4,8]",   "[4.0,8]", "[4,8e0]",  "[4,18446744073709551616]",
        "[4]",      "[4,8,8]", "[]",       "{}",
        "\"4,8\"",  "null",    "[null,8]", "[\"4\",\"8\"]",
        "[true,8]",
    };
    char header[512];

    (void)state;
    for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
        snprintf(header, sizeof(header),
                 "{" TENSOR("first", "F32", "[1]", "[0,4]") "," TENSOR("x", "F32", "[1]", "%s") "}",
                 offsets[i]);
        refuse_header(header, 8, "tensor x: invalid offset");
    }
    refuse_header(SECOND("F32", "[1]", "[4,18446744073709551615]"), 8, "invalid offset");
}

/* 2^53 + 1 is no double: a reader that passes through one sees 2^53. */
static void numbers_are_read_whole(void **state)
{
    (void)state;
    refuse_header("{" TENSOR("x", "F32", "[9007199254740993]", "[0,4]") "}", 4,
                  "expected 36028797018963972 bytes");
    refuse_header("{" TENSOR("x", "F32", "[1]", "[9007199254740993,9007199254740997]") "}", 4,
                  "found 9007199254740993");
}

static void shapes_that_overflow_are_refused(void **state)
{
    static const char *const shapes[] = {
        "[2,18446744073709551614]",
        "[2,9223372036854775807]",
        "[9223372036854775808]",
        "[18446744073709551616]",
        "[4611686018427387904]",
        "[4294967296,4294967296]",
        "[-1]",
        "[1.0]",
        "[null]",
        "[[1]]",
    };
    char header[512];

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        snprintf(header, sizeof(header), "{" TENSOR("x", "F32", "%s", "[0,4]") "}", shapes[i]);
        refuse_header(header, 4, "tensor x: shape overflow");
    }
    refuse_header("{" TENSOR("x", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4,
                  "expected at most 8 dimensions");
    refuse_header("{" TENSOR("x", "F32", "4", "[0,4]") "}", 4, "expected a list as shape");
}

static void a_hundred_dimensions_are_refused(void **state)
{
    char header[512] = "{\"x\":{\"dtype\":\"F32\",\"shape\":[1";

    (void)state;
    for (int i = 1; i < 100; i++)
        strcat(header, ",1");
    strcat(header, "],\"data_offsets\":[0,4]}}");
    refuse_header(header, 4, "expected at most 8 dimensions");
}

static void scalars_and_empty_tensors_are_tensors(void **state)
{
    struct weights *w = expect_open(safetensors_write(
        "good.safetensors",
        "{" TENSOR("end", "F32", "[0]", "[4,4]") "," TENSOR(
            "scalar", "F32", "[]", "[0,4]") "," TENSOR("begin", "F32", "[3,0,9223372036854775807]",
                                                       "[0,0]") "}",
        4));
    const struct tensor *t = weights_find(w, "scalar");
    unsigned char *bytes = read_tensor(w, "scalar");

    (void)state;
    assert_int_equal(weights_count(w), 3);
    assert_int_equal(t->rank, 0);
    assert_int_equal(t->bytes, 4);
    assert_memory_equal(bytes, "\0\1\2\3", 4);
    free(bytes);
    assert_int_equal(weights_find(w, "begin")->bytes, 0);
    assert_int_equal(weights_find(w, "begin")->rank, 3);
    free(read_tensor(w, "end"));
    weights_close(w);
}

static void tensors_come_in_the_order_of_their_bytes(void **state)
{
    struct weights *w = expect_open(safetensors_write(
        "good.safetensors",
        "{" TENSOR("c", "F32", "[1]", "[4,8]") "," TENSOR("a", "BF16", "[1]", "[8,10]") "," TENSOR(
            "b", "F32", "[1,1]", "[0,4]") "}",
        10));

    (void)state;
    assert_string_equal(weights_at(w, 0)->name, "b");
    assert_string_equal(weights_at(w, 1)->name, "c");
    assert_string_equal(weights_at(w, 2)->name, "a");
    assert_int_equal(weights_at(w, 2)->dtype, DTYPE_BF16);
    weights_close(w);
}

static void tensors_need_not_be_aligned(void **state)
{
    struct weights *w = expect_open(safetensors_write(
        "good.safetensors",
        "{" TENSOR("h", "F16", "[1]", "[0,2]") "," TENSOR("x", "I64", "[2]", "[2,18]") "}", 18));
    unsigned char *bytes = read_tensor(w, "x");

    (void)state;
    for (int i = 0; i < 16; i++)
        assert_int_equal(bytes[i], 2 + i);
    free(bytes);
    weights_close(w);
}

static void a_name_that_is_there_twice_is_refused(void **state)
{
    (void)state;
    refuse_header("{" TENSOR("x", "F32", "[1]", "[0,4]") "," TENSOR("x", "F32", "[1]", "[4,8]") "}",
                  8, "\"x\" is there twice");
    refuse_header(
        "{" TENSOR("x", "F32", "[1]", "[0,4]") "," TENSOR("\\u0078", "F32", "[1]", "[4,8]") "}", 8,
        "is there twice");
    refuse_header("{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],"
                  "\"data_offsets\":[0,4]}}",
                  4, "\"dtype\" is there twice");
}

static void names_are_unescaped(void **state)
{
    struct weights *w = expect_open(safetensors_write(
        "good.safetensors",
        "{" TENSOR("a\\u00e9\\u20ac\\ud83d\\ude00\\\\\\\"\\/", "F32", "[1]", "[0,4]") "}", 4));

    (void)state;
    assert_non_null(weights_find(w, "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\\\"/"));
    weights_close(w);
}

static void a_dtype_that_no_model_uses_is_refused_by_name(void **state)
{
    static const char *const dtypes[] = { "F64", "I32", "F8_E4M3", "BOOL", "F4", "f32", "", "X" };
    char header[512], text[128];

    (void)state;
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(*dtypes); i++) {
        snprintf(header, sizeof(header), "{" TENSOR("x", "%s", "[1]", "[0,4]") "}", dtypes[i]);
        snprintf(text, sizeof(text), "tensor x: dtype %s is not supported; F32, F16, BF16",
                 dtypes[i]);
        refuse_header(header, 4, text);
    }
    refuse_header("{\"x\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
                  "expected a string as dtype");
}

static void a_tensor_needs_its_three_members(void **state)
{
    (void)state;
    refuse_header("{\"x\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "found no dtype");
    refuse_header("{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "found no shape");
    refuse_header("{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "found no data_offsets");
    refuse_header("{\"x\":[]}", 4, "expected an object");
    refuse_header("{\"x\":null}", 4, "expected an object");
}

/* As in the reference reader: what it does not know of a tensor, it passes over. */
static void other_members_of_a_tensor_are_passed_over(void **state)
{
    (void)state;
    weights_close(expect_open(safetensors_write(
        "good.safetensors",
        "{\"x\":{\"note\":{\"a\":[1,\"]}\",{}],\"b\":-1.5e3},\"dtype\":\"F32\",\"shape\":[1],"
        "\"n\":null,\"data_offsets\":[0,4]}}",
        4)));
}

/* A second in a release build; a quadratic search would take hours in any. */
static void more_tensors_than_the_limit_are_refused_at_once(void **state)
{
    size_t room = (size_t)(LIMIT_TENSORS + 1) * 64 + 16;
    char *header = malloc(room), *p = header;
    clock_t start;

    (void)state;
    assert_non_null(header);
    for (int i = 0; i <= LIMIT_TENSORS; i++)
        p += sprintf(p, "%c\"%d\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[0,0]}",
                     i ? ',' : '{', i);
    memcpy(p, "}", 2);
    safetensors_write("bad.safetensors", header, 0);
    free(header);
    start = clock();
    expect_refused(fixture_path("bad.safetensors"), ERR_FORMAT, "expected at most 1000000", NULL);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 60.0);
    fixture_remove("bad.safetensors");
}

static const char two_tensors[] = "{\"__metadata__\":{\"format\":\"pt\"}," TENSOR(
    "a\\n", "F32", "[2,1]", "[0,8]") "," TENSOR("b", "BF16", "[3]", "[8,14]") "}";

static void every_beginning_of_a_file_is_refused(void **state)
{
    size_t len;
    char *bytes = safetensors_make(two_tensors, 14, &len);

    (void)state;
    for (size_t n = 0; n < len; n++)
        expect_refused(fixture_write("bad.safetensors", bytes, n), ERR_FORMAT, "expected", NULL);
    weights_close(expect_open(fixture_write("bad.safetensors", bytes, len)));
    free(bytes);
}

static void no_changed_byte_of_a_header_does_harm(void **state)
{
    static const unsigned char with[] = { 0x00, 0x01, 0x7f, 0xff, '"', '9', '}', ']', ',', '\\' };
    size_t len;
    char *bytes = safetensors_make(two_tensors, 14, &len);

    (void)state;
    for (size_t i = 0; i < len; i++) {
        char was = bytes[i];

        for (size_t k = 0; k < sizeof(with); k++) {
            bytes[i] = (char)with[k];
            open_and_read(fixture_write("bad.safetensors", bytes, len));
        }
        bytes[i] = was;
    }
    free(bytes);
}

static void a_file_that_changes_after_it_was_opened_is_an_io_error(void **state)
{
    static const off_t sizes[] = { 0, 8, 100, 200 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        const char *path = safetensors_write("good.safetensors", two_tensors, 14);
        struct weights *w = expect_open(path);
        char bytes[16] = "untouched";
        struct error err;

        assert_int_equal(truncate(path, sizes[i]), 0);
        assert_false(weights_read(w, weights_find(w, "b"), bytes, &err));
        assert_int_equal(err.code, ERR_IO);
        assert_non_null(strstr(err.message, "expected"));
        assert_non_null(strstr(err.message, "found"));
        weights_close(w);
    }
}

/* Times that lie back, so that the next write shows however coarse the clock is. */
static int open_aged(const char *path)
{
    static const struct timespec long_ago[2] = { { .tv_sec = 1000000000 },
                                                 { .tv_sec = 1000000000 } };
    int fd = open(path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(futimens(fd, long_ago), 0);
    return fd;
}

static void assert_changed(const struct weights *w)
{
    struct error err = { 0 };
    char bytes[16];

    assert_false(weights_read(w, weights_find(w, "b"), bytes, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.message, "changed since it was opened"));
    err = (struct error){ 0 };
    assert_false(weights_unchanged(w, &err));
    assert_int_equal(err.code, ERR_IO);
    assert_non_null(strstr(err.message, "changed since it was opened"));
}

/* Of two models of one size half of each would be read. */
static void a_file_that_is_rewritten_in_place_is_an_io_error(void **state)
{
    const char *path = safetensors_write("good.safetensors", two_tensors, 14);
    int fd = open_aged(path);
    struct weights *w = expect_open(path);
    struct error err;

    (void)state;
    free(read_tensor(w, "b"));
    assert_true(weights_unchanged(w, &err));
    assert_int_equal(pwrite(fd, "other", 5, 100), 5);
    assert_changed(w);
    weights_close(w);
    close(fd);
}

/* As rsync --inplace --times does: only the time that nobody can set tells. */
static void setting_a_files_time_back_does_not_hide_a_write(void **state)
{
    const char *path = safetensors_write("good.safetensors", two_tensors, 14);
    struct stat before, now;
    struct weights *w;
    int fd = open_aged(path), other;

    (void)state;
    assert_int_equal(fstat(fd, &before), 0);
    w = expect_open(path);
    do {
        assert_int_equal(pwrite(fd, "other", 5, 100), 5);
        other = open_aged(path);
        assert_int_equal(fstat(fd, &now), 0);
        close(other);
    } while (memcmp(&now.st_ctim, &before.st_ctim, sizeof(now.st_ctim)) == 0);
    assert_memory_equal(&now.st_mtim, &before.st_mtim, sizeof(now.st_mtim));
    assert_changed(w);
    weights_close(w);
    close(fd);
}

/* Downloads are replaced by rename: the opened file goes on to exist. */
static void a_file_that_is_replaced_is_read_as_it_was(void **state)
{
    const char *path = safetensors_write("good.safetensors", two_tensors, 14);
    struct weights *w = expect_open(path);
    struct error err;
    unsigned char *bytes;

    (void)state;
    assert_int_equal(rename(fixture_write("other", "", 0), path), 0);
    bytes = read_tensor(w, "b");
    assert_memory_equal(bytes, "\x8\x9\xa\xb\xc\xd", 6);
    assert_true(weights_unchanged(w, &err));
    free(bytes);
    weights_close(w);
}

static void what_is_no_regular_file_is_refused(void **state)
{
    const char *fifo = fixture_path("fifo.safetensors");

    (void)state;
    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_refused(fifo, ERR_FORMAT, "not a regular file", NULL);
    fixture_remove("fifo.safetensors");
    expect_refused(fixture_path("absent.safetensors"), ERR_IO, "No such file", NULL);
    expect_refused(fixture_write("model.bin", "", 0), ERR_FORMAT, "expected a folder", "found",
                   NULL);
    fixture_remove("model.bin");
}

static void a_folder_is_opened_through_the_file_it_is_known_by(void **state)
{
    const char *one = "{" TENSOR("one", "F32", "[1]", "[0,4]") "}";
    const char *two = "{" TENSOR("two", "F32", "[1]", "[0,4]") "}";
    char folder[256];
    struct weights *w;

    (void)state;
    strcpy(folder, fixture_path("folder"));
    assert_int_equal(mkdir(folder, 0700), 0);
    expect_refused(folder, ERR_IO, "expected a *.safetensors or a *.pth file, found none", NULL);

    safetensors_write("folder/a.safetensors", one, 4);
    w = expect_open(folder);
    assert_non_null(weights_find(w, "one"));
    assert_string_equal(weights_folder(w), folder);
    weights_close(w);

    fixture_write("folder/x.pth", "", 0);
    expect_refused(folder, ERR_FORMAT, "x.pth", NULL); /* no config.json: an author's folder */
    fixture_write("folder/config.json", "{}", 2);
    weights_close(expect_open(folder));

    safetensors_write("folder/b.safetensors", two, 4);
    expect_refused(folder, ERR_FORMAT, "expected one *.safetensors file, found 2", NULL);
    safetensors_write("folder/model.safetensors", two, 4);
    w = expect_open(folder);
    assert_non_null(weights_find(w, "two"));
    weights_close(w);

    fixture_remove("folder/b.safetensors");
    fixture_remove("folder/model.safetensors");
    weights_close(expect_open(folder)); /* a.safetensors is the only one */
    assert_int_equal(symlink("../blobs/gone", fixture_path("folder/model.safetensors")), 0);
    expect_refused(folder, ERR_IO, "model.safetensors", "No such file", NULL);
}

struct golden {
    const char *path;
    size_t count;
    const char *name;
    enum dtype dtype;
    int rank;
    int64_t shape[2];
    float first;
};

static const struct golden goldens[] = {
    { "tests/data/mamba-tiny",
      32,
      "backbone.embeddings.weight",
      DTYPE_F32,
      2,
      { 256, 64 },
      -0.0766196f },
    { "tests/data/mamba2-tiny",
      47,
      "backbone.layers.0.mixer.A_log",
      DTYPE_F32,
      1,
      { 6 },
      -0.00755983f },
    { "tests/data/mamba2-grouped",
      29,
      "backbone.layers.0.mixer.A_log",
      DTYPE_F32,
      1,
      { 8 },
      0.307535f },
    { "tests/data/rwkv7-tiny-hf", 399, "lm_head.weight", DTYPE_F32, 2, { 256, 64 }, 0.0375977f },
    { "tests/data/rwkv7-tiny-pth", 399, "emb.weight", DTYPE_F32, 2, { 256, 64 }, 0.00421143f },
    { "weights/demo", 92, "backbone.embeddings.weight", DTYPE_BF16, 2, { 4096, 320 }, 0.0f },
    { "tests/data/mamba-tiny/expected.safetensors", 4, "case0.tokens", DTYPE_I64, 1, { 96 }, 0.0f },
    { "tests/data/mamba2-tiny/expected.safetensors",
      4,
      "case0.tokens",
      DTYPE_I64,
      1,
      { 96 },
      0.0f },
    { "tests/data/mamba2-grouped/expected.safetensors",
      4,
      "case0.logits",
      DTYPE_F32,
      2,
      { 96, 256 },
      -1.06258f },
    { "tests/data/rwkv7-tiny-hf/expected.safetensors",
      5,
      "case0.logits",
      DTYPE_F32,
      2,
      { 163, 256 },
      0.283344f },
    { "tests/data/rwkv7-tiny-pth/expected.safetensors",
      5,
      "case0.logits",
      DTYPE_F32,
      2,
      { 163, 256 },
      0.283344f },
    { "tests/data/demo/expected.safetensors", 6, "case0.greedy", DTYPE_I64, 1, { 48 }, 0.0f },
};

static void the_models_of_the_tests_open_and_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(goldens) / sizeof(*goldens); i++) {
        const struct golden *g = &goldens[i];
        struct weights *w = expect_open(g->path);
        const struct tensor *t = weights_find(w, g->name);
        float *values = read_tensor(w, g->name);

        assert_int_equal(weights_count(w), g->count);
        assert_int_equal(t->dtype, g->dtype);
        assert_int_equal(t->rank, g->rank);
        assert_memory_equal(t->shape, g->shape, (size_t)g->rank * sizeof(*g->shape));
        if (t->dtype == DTYPE_F32) /* at least five decimals were written down */
            assert_true(fabsf(values[0] - g->first) <= 5e-6f);
        free(values);
        weights_close(w);
        open_and_read(g->path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_without_a_whole_header_is_refused),
        cmocka_unit_test(a_header_that_is_not_strict_json_is_refused),
        cmocka_unit_test(a_header_may_be_padded_and_may_be_empty),
        cmocka_unit_test(metadata_holds_strings_only),
        cmocka_unit_test(tensors_must_tile_the_buffer),
        cmocka_unit_test(offsets_are_two_whole_numbers),
        cmocka_unit_test(numbers_are_read_whole),
        cmocka_unit_test(shapes_that_overflow_are_refused),
        cmocka_unit_test(a_hundred_dimensions_are_refused),
        cmocka_unit_test(scalars_and_empty_tensors_are_tensors),
        cmocka_unit_test(tensors_come_in_the_order_of_their_bytes),
        cmocka_unit_test(tensors_need_not_be_aligned),
        cmocka_unit_test(a_name_that_is_there_twice_is_refused),
        cmocka_unit_test(names_are_unescaped),
        cmocka_unit_test(a_dtype_that_no_model_uses_is_refused_by_name),
        cmocka_unit_test(a_tensor_needs_its_three_members),
        cmocka_unit_test(other_members_of_a_tensor_are_passed_over),
        cmocka_unit_test(more_tensors_than_the_limit_are_refused_at_once),
        cmocka_unit_test(every_beginning_of_a_file_is_refused),
        cmocka_unit_test(no_changed_byte_of_a_header_does_harm),
        cmocka_unit_test(a_file_that_changes_after_it_was_opened_is_an_io_error),
        cmocka_unit_test(a_file_that_is_rewritten_in_place_is_an_io_error),
        cmocka_unit_test(setting_a_files_time_back_does_not_hide_a_write),
        cmocka_unit_test(a_file_that_is_replaced_is_read_as_it_was),
        cmocka_unit_test(what_is_no_regular_file_is_refused),
        cmocka_unit_test(a_folder_is_opened_through_the_file_it_is_known_by),
        cmocka_unit_test(the_models_of_the_tests_open_and_read),
    };

    return cmocka_run_group_tests(tests, fixture_create, fixture_destroy);
}
