/* case_file.h - what the tests of the tokenizers share: files, and tokenizers from memory. */
#ifndef TESTS_CASE_FILE_H
#define TESTS_CASE_FILE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <cjson/cJSON.h>

#include "config/error.h"
#include "models/text/detokenizer.h"
#include "models/text/tokenizer.h"

/* A file's JSON. */
static inline cJSON *read_json(const char *path)
{
    FILE *f = fopen(path, "rb");
    cJSON *tree;
    char *text;
    long size;

    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    size = ftell(f);
    rewind(f);
    text = malloc((size_t)size + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)size, f), size);
    fclose(f);
    tree = cJSON_ParseWithLength(text, (size_t)size);
    free(text);
    assert_non_null(tree);
    return tree;
}

/* Opens a text as if it were a file; NULL and *err as tokenizer_open(). */
static inline struct tokenizer *open_text(const char *text, size_t len, int vocab,
                                          struct error *err)
{
    int fd = memfd_create("tokenizer", MFD_CLOEXEC);
    struct tokenizer *t;
    char path[64];

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    t = tokenizer_open(path, vocab, err);
    close(fd);
    return t;
}

/* All the text of some ids. */
static inline struct text_buffer decode(const struct tokenizer *t, const struct token_list *ids,
                                        bool special)
{
    struct text_buffer out = { 0 };
    struct detokenizer d;

    detokenizer_init(&d, t, special);
    for (size_t i = 0; i < ids->count; i++)
        assert_true(detokenizer_add(&d, ids->id[i], &out));
    assert_true(detokenizer_finish(&d, &out));
    return out;
}

static inline uint32_t draw(uint64_t *seed, uint32_t below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*seed >> 33) % below);
}

#endif
