/* test_no_memory.c - an allocation that fails anywhere gives an error, and nothing leaks.
 *
 * Linked with --wrap: the allocation number `left` of this library fails. cJSON and PCRE2
 * allocate behind their own doors. */
#include "tests/models/text/case_file.h"

#include "models/text/tokenizer_internal.h"

static long left = -1; /* allocations until one fails; below 0: none does */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static bool fails(void)
{
    return left >= 0 && left-- == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

static size_t read_file(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "rb");
    size_t len;

    assert_non_null(f);
    len = fread(text, 1, size, f);
    fclose(f);
    return len;
}

/* Opens, encodes and decodes; false when something said that memory ran out. */
static bool use(const char *file, size_t len, const char *text)
{
    struct error err = { 0 };
    struct tokenizer *t = tokenizer_parse(file, len, 1024, &err);
    struct token_list ids = { 0 };
    struct text_buffer out = { 0 };
    struct detokenizer d;
    bool ok;

    if (!t) {
        if (err.code != ERR_NOMEM)
            fail_msg("%s", err.message);
        return false;
    }
    ok = tokenizer_encode(t, text, strlen(text), true, &ids, NULL, &err);
    assert_true(ok || err.code == ERR_NOMEM);
    assert_true(ok || ids.count == 0);
    detokenizer_init(&d, t, true);
    for (size_t i = 0; i < ids.count && ok; i++)
        ok = detokenizer_add(&d, ids.id[i], &out);
    ok = ok && detokenizer_finish(&d, &out);
    free(ids.id);
    free(out.bytes);
    tokenizer_close(t);
    return ok;
}

static void every_allocation_may_fail(void **state)
{
    static const char *const files[] = { "small", "bytelevel", "split", "world" };
    char path[128], file[8192];
    (void)state;

    for (int f = 0; f < 4; f++) {
        size_t len;
        long n = 0;

        snprintf(path, sizeof(path), "tests/fuzz/corpus/fuzz_tokenizer/%s", files[f]);
        len = read_file(path, file, sizeof(file) - 1);
        file[len] = 0;
        len = strlen(file); /* the corpus has a text after a NUL */
        assert_true(use(file, len, "ab word 12 e\xcc\x81 q!"));
        for (bool done = false; !done; n++) {
            left = n;
            done = use(file, len, "ab word 12 e\xcc\x81 q!");
            assert_true(done == (left >= 0));
        }
        left = -1;
        assert_true(n > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
