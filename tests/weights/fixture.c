#include "tests/weights/fixture.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/eddy-weights-XXXXXX";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

int fixture_create(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

int fixture_destroy(void **state)
{
    (void)state;
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *fixture_path(const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

const char *fixture_write(const char *name, const void *bytes, size_t len)
{
    const char *path = fixture_path(name);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    return path;
}

void fixture_remove(const char *name)
{
    assert_int_equal(remove(fixture_path(name)), 0);
}

void *safetensors_make(const char *header, size_t data, size_t *len)
{
    size_t n = strlen(header);
    unsigned char *bytes = malloc(8 + n + data);

    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(n >> 8 * i);
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < data; i++)
        bytes[8 + n + i] = (unsigned char)i;
    *len = 8 + n + data;
    return bytes;
}

const char *safetensors_write(const char *name, const char *header, size_t data)
{
    size_t len;
    void *bytes = safetensors_make(header, data, &len);
    const char *path = fixture_write(name, bytes, len);

    free(bytes);
    return path;
}

void expect_refused(const char *path, enum error_code code, ...)
{
    struct error err = { 0 };
    struct weights *w = weights_open(path, &err);
    const char *text;
    va_list texts;

    if (w)
        fail_msg("%s was opened", path);
    if (err.code != code)
        fail_msg("expected code %d, found %d: %s", code, err.code, err.message);
    va_start(texts, code);
    while ((text = va_arg(texts, const char *)))
        if (!strstr(err.message, text))
            fail_msg("expected a message with \"%s\", found: %s", text, err.message);
    va_end(texts);
}

struct weights *expect_open(const char *path)
{
    struct error err = { 0 };
    struct weights *w = weights_open(path, &err);

    if (!w)
        fail_msg("%s", err.message);
    return w;
}

void open_and_read(const char *path)
{
    struct error err = { 0 };
    struct weights *w = weights_open(path, &err);

    if (!w) {
        assert_int_not_equal(err.code, ERR_NONE);
        return;
    }
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *t = weights_at(w, i);
        void *bytes = malloc(t->bytes + 1);

        assert_non_null(bytes);
        assert_ptr_equal(weights_find(w, t->name), t);
        assert_true(weights_read(w, t, bytes, &err));
        free(bytes);
    }
    weights_close(w);
}

void *read_tensor(const struct weights *w, const char *name)
{
    const struct tensor *t = weights_find(w, name);
    struct error err = { 0 };
    void *bytes;

    if (!t)
        fail_msg("no tensor %s", name);
    bytes = malloc(t->bytes + 1);
    assert_non_null(bytes);
    if (!weights_read(w, t, bytes, &err))
        fail_msg("%s", err.message);
    return bytes;
}
