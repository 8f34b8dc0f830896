/* test_tokenizer.c - ids and texts are those of the published libraries. */
#include "tests/models/text/case_file.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NEOX  "tests/data/tokenizer-neox"
#define WORLD "tests/data/tokenizer-world"
#define DEMO  "weights/demo"

static struct tokenizer *open_or_fail(const char *path, int vocab)
{
    struct error err = { 0 };
    struct tokenizer *t = tokenizer_open(path, vocab, &err);

    if (!t)
        fail_msg("%s", err.message);
    return t;
}

static struct token_list encode(const struct tokenizer *t, const char *text, size_t len,
                                bool special)
{
    struct token_list ids = { 0 };
    struct error err = { 0 };

    if (!tokenizer_encode(t, text, len, special, &ids, NULL, &err))
        fail_msg("%s", err.message);
    return ids;
}

static void check_case(const struct tokenizer *t, const cJSON *item)
{
    const char *text = cJSON_GetObjectItem(item, "text")->valuestring;
    const cJSON *want = cJSON_GetObjectItem(item, "ids"), *id;
    const cJSON *decoded = cJSON_GetObjectItem(item, "decoded");
    struct token_list ids = encode(t, text, strlen(text), true);
    struct text_buffer out = decode(t, &ids, true);
    size_t i = 0;

    assert_int_equal(ids.count, cJSON_GetArraySize(want));
    cJSON_ArrayForEach(id, want)
    {
        if (ids.id[i] != id->valueint)
            fail_msg("id %zu of \"%s\" is %d, not %d", i, text, ids.id[i], id->valueint);
        i++;
    }
    text = decoded ? decoded->valuestring : text;
    assert_int_equal(out.len, strlen(text));
    if (out.len)
        assert_memory_equal(out.bytes, text, out.len);
    free(ids.id);
    free(out.bytes);
}

static void check_cases(const char *tokenizer, const char *path, int at_least)
{
    struct tokenizer *t = open_or_fail(tokenizer, 65536);
    cJSON *tree = read_json(path);
    const cJSON *list = cJSON_IsArray(tree) ? tree : cJSON_GetObjectItem(tree, "cases"), *item;

    assert_true(cJSON_GetArraySize(list) >= at_least);
    cJSON_ArrayForEach(item, list) check_case(t, item);
    cJSON_Delete(tree);
    tokenizer_close(t);
}

static void neox_agrees_with_the_published_library(void **state)
{
    (void)state;
    check_cases(NEOX, NEOX "/cases.json", 22);
    check_cases(NEOX, NEOX "/more-cases.json", 300);
}

static void demo_agrees_with_the_published_library(void **state)
{
    (void)state;
    check_cases(DEMO, "tests/data/demo/tokenizer-cases.json", 150);
}

static void world_agrees_with_greedy_matching(void **state)
{
    (void)state;
    check_cases(WORLD, WORLD "/cases.json", 22);
}

/* A random valid text of mixed scripts. */
static size_t random_text(uint64_t *seed, char *text, size_t size)
{
    static const char *const part[] = {
        "the",  " of",         "\n\n", "   ",          " don't", "42", "\xc3\xa9",
        "\t",   "e\xcc\x81",   "<|",   "\xe4\xb8\xad", "x=y;",   " A", "\xf0\x9f\x98\x80",
        "\xe2", "\xef\xbf\xbd"
    };
    size_t len = 0, n = draw(seed, 60);
    char any[4] = "\xe2"; /* a character of three bytes, from U+2000 on */

    for (size_t i = 0; i < n; i++) {
        const char *p = part[draw(seed, sizeof(part) / sizeof(*part))];

        if (strcmp(p, "\xe2") == 0) {
            any[1] = (char)(0x80 + draw(seed, 64));
            any[2] = (char)(0x80 + draw(seed, 64));
            p = any;
        }
        if (len + strlen(p) > size)
            break;
        memcpy(text + len, p, strlen(p));
        len += strlen(p);
    }
    return len;
}

static void text_survives_the_round_trip(void **state)
{
    static const char *const paths[] = { WORLD, DEMO };
    char text[256];
    uint64_t seed = 1;
    (void)state;

    for (int p = 0; p < 2; p++) {
        struct tokenizer *t = open_or_fail(paths[p], 65536);

        for (int i = 0; i < 2000; i++) {
            size_t len = random_text(&seed, text, sizeof(text));
            struct token_list ids = encode(t, text, len, i & 1);
            struct text_buffer out = decode(t, &ids, true);

            assert_int_equal(out.len, len);
            if (len)
                assert_memory_equal(out.bytes, text, len);
            free(ids.id);
            free(out.bytes);
        }
        tokenizer_close(t);
    }
}

static void special_text_becomes_an_id_only_when_asked(void **state)
{
    static const struct {
        const char *path, *text;
    } kinds[] = { { NEOX, "<|endoftext|>" },
                  { DEMO, "<|endoftext|>" },
                  { WORLD, "<|rwkv_tokenizer_end_of_text|>" } };
    (void)state;

    for (int k = 0; k < 3; k++) {
        struct tokenizer *t = open_or_fail(kinds[k].path, 65536);
        size_t len = strlen(kinds[k].text);
        struct token_list ids = encode(t, kinds[k].text, len, true);
        struct text_buffer out;

        assert_int_equal(ids.count, 1);
        assert_int_equal(ids.id[0], 0);
        assert_true(tokenizer_is_special(t, 0));
        assert_int_equal(tokenizer_find(t, kinds[k].text, len), 0);
        out = decode(t, &ids, false);
        assert_int_equal(out.len, 0);
        free(ids.id);
        free(out.bytes);

        ids = encode(t, kinds[k].text, len, false);
        assert_true(ids.count > 1);
        for (size_t i = 0; i < ids.count; i++)
            assert_false(tokenizer_is_special(t, ids.id[i]));
        out = decode(t, &ids, false);
        assert_int_equal(out.len, len);
        assert_memory_equal(out.bytes, kinds[k].text, len);
        free(ids.id);
        free(out.bytes);
        tokenizer_close(t);
    }
}

static void every_id_is_below_the_size_and_below_the_models_vocabulary(void **state)
{
    struct tokenizer *t = open_or_fail(NEOX, 50277);
    struct error err = { 0 };
    size_t len;
    (void)state;

    assert_int_equal(tokenizer_size(t), 50277);
    assert_string_equal(tokenizer_kind(t), "bpe");
    tokenizer_token_bytes(t, 50276, &len);
    assert_int_equal(len, 2);
    tokenizer_token_bytes(t, 50277, &len);
    assert_int_equal(len, 0);
    tokenizer_token_bytes(t, -1, &len);
    assert_int_equal(len, 0);
    assert_false(tokenizer_is_special(t, 50277));
    assert_false(tokenizer_is_special(t, -1));
    assert_int_equal(tokenizer_find(t, "no such token", 13), -1);
    tokenizer_close(t);

    assert_null(tokenizer_open(NEOX, 50276, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.message, "50276"));
}

static void invalid_utf8_is_refused_and_the_list_left_alone(void **state)
{
    static const char *const bad[] = { "ab\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                       "abcdefgh\xe2\x82" };
    struct tokenizer *t = open_or_fail(DEMO, 4096);
    struct token_list ids = encode(t, "abc", 3, false);
    size_t count = ids.count, lead = 77;
    (void)state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct error err = { 0 };

        assert_false(tokenizer_encode(t, bad[i], strlen(bad[i]), false, &ids, &lead, &err));
        assert_int_equal(err.code, ERR_INPUT);
        assert_int_equal(ids.count, count);
        assert_int_equal(lead, 77);
    }
    free(ids.id);
    tokenizer_close(t);
}

static void a_folder_without_a_tokenizer_is_plain_bytes_of_256(void **state)
{
    char folder[] = "/tmp/eddy-tokenizer-XXXXXX", any[256];
    struct error err = { 0 };
    struct token_list ids;
    struct tokenizer *t;
    (void)state;

    assert_non_null(mkdtemp(folder));
    assert_null(tokenizer_open(folder, 257, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    t = open_or_fail(folder, 256);
    assert_int_equal(rmdir(folder), 0);
    assert_string_equal(tokenizer_kind(t), "bytes");
    assert_int_equal(tokenizer_size(t), 256);
    for (int i = 0; i < 256; i++)
        any[i] = (char)(255 - i);
    ids = encode(t, any, 256, true);
    assert_int_equal(ids.count, 256);
    for (int i = 0; i < 256; i++)
        assert_int_equal(ids.id[i], 255 - i);
    free(ids.id);
    tokenizer_close(t);

    assert_null(tokenizer_open("tests/data/no-such-folder", 256, &err));
    assert_int_equal(err.code, ERR_IO);
}

/* A download that lost its blobs, as the Hub's cache lays them out: a model that would be served
 * with other ids than it has is not served. */
static void a_link_to_nowhere_is_no_folder_without_a_tokenizer(void **state)
{
    static const char *const names[] = { "tokenizer.json", "rwkv_vocab_v20230424.txt" };
    char folder[] = "/tmp/eddy-tokenizer-XXXXXX", path[64];
    struct error err = { 0 };
    (void)state;

    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        assert_int_equal(symlink("../blobs/gone", path), 0);
        assert_null(tokenizer_open(folder, 256, &err));
        assert_int_equal(err.code, ERR_IO);
        assert_non_null(strstr(err.message, names[i]));
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(folder), 0);
}

/* Nobody writes into it: opening it as a file would wait for ever. */
static void a_fifo_is_no_tokenizer(void **state)
{
    char folder[] = "/tmp/eddy-tokenizer-XXXXXX", path[64];
    struct error err = { 0 };
    (void)state;

    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(10);
    assert_null(tokenizer_open(folder, 256, &err));
    alarm(0);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.message, "regular file"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* A quadratic step would take minutes where this takes a fraction of a second; the bound
 * leaves room for sanitizers. */
static void a_megabyte_of_one_thing_is_no_burden(void **state)
{
    static const char *const units[] = { "a",
                                         " ",
                                         "\n",
                                         "1",
                                         "!",
                                         "ab",
                                         "a ",
                                         "\xe4\xb8\xad",
                                         "\xf0\x9f\x98\x80",
                                         "\xcc\x81\xcc\x96",
                                         "<|",
                                         "<|endoftext|>" };
    static const char *const paths[] = { NEOX, WORLD, DEMO };
    const size_t size = 1 << 20;
    char *text = malloc(size);
    (void)state;

    assert_non_null(text);
    for (int p = 0; p < 3; p++) {
        struct tokenizer *t = open_or_fail(paths[p], 65536);

        for (size_t u = 0; u < sizeof(units) / sizeof(*units); u++) {
            size_t n = strlen(units[u]), len = 0;
            clock_t begin = clock();
            struct token_list ids;

            for (; len + n <= size; len += n)
                memcpy(text + len, units[u], n);
            ids = encode(t, text, len, true);
            assert_true(ids.count > 0);
            assert_true(clock() - begin < 10 * CLOCKS_PER_SEC);
            free(ids.id);
        }
        tokenizer_close(t);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neox_agrees_with_the_published_library),
        cmocka_unit_test(demo_agrees_with_the_published_library),
        cmocka_unit_test(world_agrees_with_greedy_matching),
        cmocka_unit_test(text_survives_the_round_trip),
        cmocka_unit_test(special_text_becomes_an_id_only_when_asked),
        cmocka_unit_test(every_id_is_below_the_size_and_below_the_models_vocabulary),
        cmocka_unit_test(invalid_utf8_is_refused_and_the_list_left_alone),
        cmocka_unit_test(a_folder_without_a_tokenizer_is_plain_bytes_of_256),
        cmocka_unit_test(a_link_to_nowhere_is_no_folder_without_a_tokenizer),
        cmocka_unit_test(a_fifo_is_no_tokenizer),
        cmocka_unit_test(a_megabyte_of_one_thing_is_no_burden),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
