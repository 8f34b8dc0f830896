/* test_detokenizer.c - a stream of ids never shows a broken character. */
#include "tests/models/text/case_file.h"

#include "models/text/utf8.h"

enum { IDS = 40 };

static struct tokenizer *open_bytes(void)
{
    char folder[] = "/tmp/eddy-bytes-XXXXXX";
    struct error err = { 0 };
    struct tokenizer *t;

    assert_non_null(mkdtemp(folder));
    t = tokenizer_open(folder, 256, &err);
    rmdir(folder);
    assert_non_null(t);
    return t;
}

/* The bytes of all ids, each maximal subpart that is not UTF-8 replaced: the definition. */
static struct text_buffer decode_whole(const struct tokenizer *t, const int32_t *ids, int n)
{
    struct text_buffer out = { 0 };
    char all[8192];
    size_t len = 0, step;

    for (int i = 0; i < n; i++) {
        size_t part;
        const char *bytes = tokenizer_token_bytes(t, ids[i], &part);

        assert_true(len + part <= sizeof(all));
        memcpy(all + len, bytes, part);
        len += part;
    }
    out.bytes = malloc(3 * len + 1);
    assert_non_null(out.bytes);
    for (size_t at = 0; at < len; at += step) {
        if (utf8_next(all + at, len - at, &step) == UTF8_CHARACTER) {
            memcpy(out.bytes + out.len, all + at, step);
            out.len += step;
        } else {
            memcpy(out.bytes + out.len, "\xef\xbf\xbd", 3);
            out.len += 3;
        }
    }
    return out;
}

static void check_stream(const struct tokenizer *t, const int32_t *ids, int n)
{
    struct text_buffer whole = decode_whole(t, ids, n), out = { 0 };
    struct detokenizer d;

    detokenizer_init(&d, t, true);
    for (int i = 0; i < n; i++) {
        struct detokenizer copy = d;

        assert_true(detokenizer_add(&copy, ids[i], &out));
        assert_int_equal(utf8_valid_prefix(out.bytes ? out.bytes : "", out.len), out.len);
        d = copy;
    }
    assert_true(detokenizer_finish(&d, &out));
    assert_int_equal(out.len, whole.len);
    if (out.len)
        assert_memory_equal(out.bytes, whole.bytes, out.len);
    free(out.bytes);
    free(whole.bytes);
}

static void a_stream_equals_the_whole_and_is_always_valid(void **state)
{
    static const char *const paths[] = { "tests/data/tokenizer-neox", "tests/data/tokenizer-world",
                                         "weights/demo" };
    struct tokenizer *tokenizers[4] = { open_bytes() };
    struct error err = { 0 };
    int32_t ids[IDS];
    uint64_t seed = 3;
    (void)state;

    for (int k = 1; k < 4; k++) {
        tokenizers[k] = tokenizer_open(paths[k - 1], 65536, &err);
        assert_non_null(tokenizers[k]);
    }
    for (int k = 0; k < 4; k++) {
        int size = tokenizer_size(tokenizers[k]);

        for (int round = 0; round < 3000; round++) {
            int below = round % 3 == 0 ? size + 5 : size < 400 ? size : 400;

            for (int i = 0; i < IDS; i++)
                ids[i] = (int32_t)draw(&seed, (uint32_t)below);
            check_stream(tokenizers[k], ids, IDS);
        }
        tokenizer_close(tokenizers[k]);
    }
}

/* The sequences of the Unicode standard's table 3-8 and its neighbours. */
static void each_maximal_subpart_becomes_one_replacement(void **state)
{
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        { "\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41",
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
          "\xef\xbf\xbd\x41" },
        { "\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41",
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
          "\xef\xbf\xbd\x41" },
        { "\xf4\x91\x92\x93\xff\x41\x80\xbf\x42",
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x41\xef\xbf\xbd\xef\xbf\xbd"
          "\x42" },
        { "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\x41" },
        { "\xf0\x9f\x98", "\xef\xbf\xbd" },
    };
    struct tokenizer *t = open_bytes();
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct token_list ids = { 0 };
        struct error err = { 0 };
        struct text_buffer out;

        assert_true(
            tokenizer_encode(t, cases[i].bytes, strlen(cases[i].bytes), false, &ids, NULL, &err));
        out = decode(t, &ids, false);
        assert_int_equal(out.len, strlen(cases[i].text));
        assert_memory_equal(out.bytes, cases[i].text, out.len);
        free(out.bytes);
        free(ids.id);
    }
    tokenizer_close(t);
}

static void a_character_appears_with_its_last_byte(void **state)
{
    static const unsigned char emoji[] = { 0xf0, 0x9f, 0x98, 0x80 };
    struct tokenizer *t = open_bytes();
    struct text_buffer out = { 0 };
    struct detokenizer d;
    (void)state;

    detokenizer_init(&d, t, false);
    for (int i = 0; i < 4; i++) {
        assert_true(detokenizer_add(&d, emoji[i], &out));
        assert_int_equal(out.len, i == 3 ? 4 : 0);
    }
    assert_true(detokenizer_finish(&d, &out));
    assert_int_equal(out.len, 4);
    free(out.bytes);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_equals_the_whole_and_is_always_valid),
        cmocka_unit_test(each_maximal_subpart_becomes_one_replacement),
        cmocka_unit_test(a_character_appears_with_its_last_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
