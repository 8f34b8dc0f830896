/* test_shards.c - an index and its files agree both ways, or nothing is opened. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/weights/fixture.h"

static const char shard_1[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                              "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[4,8]}}";
static const char shard_2[] = "{\"c\":{\"dtype\":\"F16\",\"shape\":[3,1],\"data_offsets\":[0,6]}}";
static const char a_again[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";

static char folder[256];

static int make_shards(void **state)
{
    if (fixture_create(state) != 0)
        return -1;
    strcpy(folder, fixture_path(""));
    folder[strlen(folder) - 1] = '\0';
    safetensors_write("one.safetensors", shard_1, 8);
    safetensors_write("two.safetensors", shard_2, 6);
    safetensors_write("again.safetensors", a_again, 4);
    fixture_write("config.json", "{}", 2);
    return 0;
}

static const char *write_index(const char *text)
{
    return fixture_write("model.safetensors.index.json", text, strlen(text));
}

static void refuse_map(const char *map, const char *what, const char *found)
{
    char text[1024];

    snprintf(text, sizeof(text), "{\"metadata\":{\"total_size\":14},\"weight_map\":%s}", map);
    write_index(text);
    expect_refused(folder, ERR_FORMAT, what, found, NULL);
}

static void a_model_in_shards_reads_as_one(void **state)
{
    struct weights *w;
    unsigned char *bytes;

    (void)state;
    write_index("{\"metadata\":{\"total_size\":14,\"other\":[1,{\"a\":\"]\"}]},\"weight_map\":"
                "{\"c\":\"two.safetensors\",\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}");
    w = expect_open(folder);
    assert_int_equal(weights_count(w), 3);
    assert_string_equal(weights_folder(w), folder);
    bytes = read_tensor(w, "b");
    assert_memory_equal(bytes, "\4\5\6\7", 4);
    free(bytes);
    bytes = read_tensor(w, "c");
    assert_memory_equal(bytes, "\0\1\2\3\4\5", 6);
    free(bytes);
    assert_int_equal(weights_find(w, "c")->shape[0], 3);
    weights_close(w);
    weights_close(expect_open(fixture_path("model.safetensors.index.json")));
}

static void a_model_cut_into_shards_keeps_every_byte(void **state)
{
    enum { SHARDS = 3 };
    struct weights *whole = expect_open("tests/data/mamba-tiny"), *cut;
    size_t count = weights_count(whole), room = 256 * count;
    char *index = malloc(room), *at = index, sub[300];

    (void)state;
    strcpy(sub, fixture_path("cut"));
    assert_int_equal(mkdir(sub, 0700), 0);
    at += sprintf(at, "{\"weight_map\":{");
    for (size_t s = 0; s < SHARDS; s++) {
        char name[32], *header = malloc(room), *to = header + sprintf(header, "{");
        size_t bytes = 0, len;
        unsigned char *file;
        struct error err;

        sprintf(name, "model-%zu.safetensors", s);
        for (size_t i = s; i < count; i += SHARDS) {
            const struct tensor *t = weights_at(whole, i);

            to += sprintf(to, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i > s ? "," : "", t->name,
                          dtype_name(t->dtype));
            for (int d = 0; d < t->rank; d++)
                to += sprintf(to, "%s%lld", d ? "," : "", (long long)t->shape[d]);
            to += sprintf(to, "],\"data_offsets\":[%zu,%zu]}", bytes, bytes + t->bytes);
            at += sprintf(at, "%s\"%s\":\"%s\"", i ? "," : "", t->name, name);
            bytes += t->bytes;
        }
        strcpy(to, "}");
        if (s + 1 < SHARDS)
            at += sprintf(at, ",");
        file = safetensors_make(header, bytes, &len);
        bytes = len - bytes;
        for (size_t i = s; i < count; i += SHARDS) {
            const struct tensor *t = weights_at(whole, i);

            assert_true(weights_read(whole, t, file + bytes, &err));
            bytes += t->bytes;
        }
        snprintf(sub, sizeof(sub), "cut/%s", name);
        fixture_write(sub, file, len);
        free(file);
        free(header);
    }
    strcpy(at, "}}");
    for (char *p = strstr(index, ",,"); p; p = strstr(index, ",,"))
        memmove(p, p + 1, strlen(p));
    fixture_write("cut/model.safetensors.index.json", index, strlen(index));
    cut = expect_open(fixture_path("cut"));
    assert_int_equal(weights_count(cut), count);
    for (size_t i = 0; i < count; i++) {
        const struct tensor *t = weights_at(whole, i), *u = weights_find(cut, t->name);
        void *a = read_tensor(whole, t->name), *b = read_tensor(cut, t->name);

        assert_int_equal(t->rank, u->rank);
        assert_int_equal(t->bytes, u->bytes);
        assert_memory_equal(t->shape, u->shape, sizeof(t->shape));
        assert_memory_equal(a, b, t->bytes);
        free(a);
        free(b);
    }
    weights_close(cut);
    weights_close(whole);
    free(index);
}

static void a_shard_is_named_not_pathed(void **state)
{
    static const char *const names[] = { "../one.safetensors", "/etc/passwd",
                                         "a/b.safetensors",    "..",
                                         "one..safetensors",   "" };
    char map[256];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        snprintf(map, sizeof(map), "{\"a\":\"%s\"}", names[i]);
        refuse_map(map, "tensor a: expected a file name in this folder", "found \"");
    }
    refuse_map("{\"a\":1}", "tensor a: expected a file name", "found");
    refuse_map("{\"a\":\"..\\/one.safetensors\"}", "expected a file name", "found");
}

static void index_and_files_must_agree(void **state)
{
    (void)state;
    refuse_map("{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"c\":\"one.safetensors\"}",
               "tensor c: expected in one.safetensors", "found nowhere");
    refuse_map("{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\",\"c\":\"two.safetensors\"}",
               "tensor b: expected in two.safetensors", "found one.safetensors");
    refuse_map("{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}", "expected 2 tensors",
               "found 3");
    refuse_map("{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\",\"x\":\"again.safetensors\"}",
               "tensor a: expected once", "again.safetensors");
    refuse_map("{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}", "invalid index", "twice");
}

static void a_missing_shard_is_an_io_error(void **state)
{
    (void)state;
    write_index("{\"weight_map\":{\"a\":\"three.safetensors\"}}");
    expect_refused(folder, ERR_IO, "three.safetensors", "No such file", NULL);
}

static void an_index_without_a_map_is_refused(void **state)
{
    static const char *const texts[] = { "",
                                         "{",
                                         "[]",
                                         "{}",
                                         "{\"weight_map\":[]}",
                                         "{\"weight_map\":null}",
                                         "{\"weight_map\":{}} x",
                                         "1" };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        write_index(texts[i]);
        expect_refused(folder, ERR_FORMAT, "model.safetensors.index.json", "expected", NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_in_shards_reads_as_one),
        cmocka_unit_test(a_model_cut_into_shards_keeps_every_byte),
        cmocka_unit_test(a_shard_is_named_not_pathed),
        cmocka_unit_test(index_and_files_must_agree),
        cmocka_unit_test(a_missing_shard_is_an_io_error),
        cmocka_unit_test(an_index_without_a_map_is_refused),
    };

    return cmocka_run_group_tests(tests, make_shards, fixture_destroy);
}
