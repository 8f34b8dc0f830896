#include "tests/models/made_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/error.h"
#include "weights/weights.h"

struct made_model *made_create(void)
{
    struct made_model *m = calloc(1, sizeof(*m));

    assert_non_null(m);
    strcpy(m->folder, "/tmp/eddy-models-XXXXXX");
    assert_non_null(mkdtemp(m->folder));
    return m;
}

void made_destroy(struct made_model *m)
{
    const char *file[] = { "model.safetensors", "config.json", "generation_config.json" };
    char path[128];

    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", m->folder, file[i]);
        unlink(path);
    }
    rmdir(m->folder);
    for (int i = 0; i < m->tensors; i++)
        free(m->tensor[i].data);
    free(m);
}

static struct made_tensor *append(struct made_model *m, const char *name, size_t bytes)
{
    assert_true(m->tensors < MADE_TENSORS);
    struct made_tensor *t = &m->tensor[m->tensors++];

    snprintf(t->name, sizeof(t->name), "%s", name);
    t->bytes = bytes;
    t->data = malloc(bytes);
    assert_non_null(t->data);
    return t;
}

void made_copy(struct made_model *m, const char *path)
{
    struct error err = { 0 };
    struct weights *w = weights_open(path, &err);

    if (!w)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < weights_count(w); i++) {
        const struct tensor *from = weights_at(w, i);
        struct made_tensor *t = append(m, from->name, from->bytes);

        t->dtype = from->dtype;
        t->rank = from->rank;
        assert_true(t->rank <= 4);
        memcpy(t->shape, from->shape, (size_t)t->rank * sizeof(*t->shape));
        assert_true(weights_read(w, from, t->data, &err));
    }
    weights_close(w);
}

struct made_tensor *made_random(struct made_model *m, const char *name, int rows, int cols,
                                float center, float scale)
{
    size_t n = (size_t)rows * (size_t)(cols ? cols : 1);
    struct made_tensor *t = append(m, name, n * sizeof(float));
    uint32_t seed = (uint32_t)m->tensors * 2654435761u;

    t->dtype = DTYPE_F32;
    t->rank = cols ? 2 : 1;
    t->shape[0] = rows;
    t->shape[1] = cols;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        ((float *)t->data)[i] = center + scale * ((float)(seed >> 8) * 0x1p-23f - 1.0f);
    }
    return t;
}

struct made_tensor *made_find(struct made_model *m, const char *name)
{
    for (int i = 0; i < m->tensors; i++)
        if (strcmp(m->tensor[i].name, name) == 0)
            return &m->tensor[i];
    fail_msg("the test has no tensor %s", name);
    return NULL;
}

void made_drop(struct made_model *m, const char *name)
{
    struct made_tensor *t = made_find(m, name);

    free(t->data);
    *t = m->tensor[--m->tensors];
}

void made_rename(struct made_model *m, const char *from, const char *to)
{
    for (int i = 0; i < m->tensors; i++) {
        char *name = m->tensor[i].name, *at = strstr(name, from), old[sizeof(m->tensor[i].name)];

        if (!at)
            continue;
        strcpy(old, name);
        snprintf(name, sizeof(old), "%.*s%s%s", (int)(at - name), old, to,
                 old + (at - name) + strlen(from));
    }
}

void made_transpose(struct made_tensor *t)
{
    size_t rows = (size_t)t->shape[0], cols = (size_t)t->shape[1], size = dtype_size(t->dtype);
    char *turned = malloc(t->bytes);

    assert_non_null(turned);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            memcpy(turned + (j * rows + i) * size, (char *)t->data + (i * cols + j) * size, size);
    free(t->data);
    t->data = turned;
    t->shape[0] = (int64_t)cols;
    t->shape[1] = (int64_t)rows;
}

void made_narrow(struct made_model *m, const char *but)
{
    for (int i = 0; i < m->tensors; i++) {
        struct made_tensor *t = &m->tensor[i];

        if (t->dtype != DTYPE_F32 || (but && strstr(t->name, but)))
            continue;
        t->dtype = DTYPE_BF16;
        t->bytes /= 2;
        uint16_t *narrow = malloc(t->bytes);
        assert_non_null(narrow);
        for (size_t j = 0; j < t->bytes / sizeof(*narrow); j++)
            narrow[j] = f32_to_bf16(((const float *)t->data)[j]);
        free(t->data);
        t->data = narrow;
    }
}

static FILE *create_file(const struct made_model *m, const char *name)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", m->folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    return f;
}

const char *made_write(const struct made_model *m, const char *config)
{
    char *header = NULL;
    size_t len = 0, at = 0;
    FILE *h = open_memstream(&header, &len);

    fputc('{', h);
    for (int i = 0; i < m->tensors; i++) {
        const struct made_tensor *t = &m->tensor[i];

        fprintf(h, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name,
                dtype_name(t->dtype));
        for (int j = 0; j < t->rank; j++)
            fprintf(h, "%s%lld", j ? "," : "", (long long)t->shape[j]);
        fprintf(h, "],\"data_offsets\":[%zu,%zu]}", at, at + t->bytes);
        at += t->bytes;
    }
    fputc('}', h);
    fclose(h);

    FILE *f = create_file(m, "model.safetensors");
    uint64_t padded = (len + 7) / 8 * 8;
    fwrite(&padded, sizeof(padded), 1, f);
    fprintf(f, "%-*s", (int)padded, header);
    for (int i = 0; i < m->tensors; i++)
        fwrite(m->tensor[i].data, 1, m->tensor[i].bytes, f);
    assert_int_equal(fclose(f), 0);
    free(header);
    if (config)
        made_put(m, "config.json", config);
    return m->folder;
}

static bool is_of_layer_from(const char *name, int layers)
{
    const char *at = strstr(name, "layers.");

    return at && strtol(at + strlen("layers."), NULL, 10) >= layers;
}

static char *read_config(const char *path, char *text, size_t size)
{
    char name[256];
    FILE *f;

    snprintf(name, sizeof(name), "%s/config.json", path);
    f = fopen(name, "r");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = '\0';
    fclose(f);
    return text;
}

const char *made_first_layers(struct made_model *m, const char *path, int layers)
{
    static const char name[] = "\"num_hidden_layers\":";
    char text[4096], *at = strstr(read_config(path, text, sizeof(text)), name);

    assert_true(at && layers > 0 && layers < 10);
    at += strlen(name);
    memset(at, ' ', strcspn(at, ",\n}"));
    *at = (char)('0' + layers);
    made_copy(m, path);
    for (int i = m->tensors; i-- > 0;)
        if (is_of_layer_from(m->tensor[i].name, layers))
            made_drop(m, m->tensor[i].name);
    return made_write(m, text);
}

void made_put(const struct made_model *m, const char *name, const char *text)
{
    FILE *f = create_file(m, name);

    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}
