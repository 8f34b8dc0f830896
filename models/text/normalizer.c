/* normalizer.c - a tokenizer.json normalizer as a flat list of steps.
 *
 * Unicode normal forms are utf8proc's, except that runs of combining marks are sorted here:
 * utf8proc sorts them by insertion, which takes minutes for a megabyte of marks in the wrong
 * order. */
#include "models/text/normalizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "config/error.h"
#include "models/text/component.h"
#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

enum { STEPS_MAX = 32 };

enum step_kind { STEP_UNICODE, STEP_REPLACE, STEP_PREPEND, STEP_STRIP, STEP_LOWERCASE };

struct normalizer {
    int steps;
    struct step {
        enum step_kind kind;
        int form;                /* unicode: options of utf8proc */
        struct pattern *pattern; /* replace */
        char *content;           /* replace, prepend */
        bool left, right;        /* strip */
    } step[STEPS_MAX];
};

/* STABLE makes utf8proc respect the composition exclusions. */
enum {
    NFC = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
    NFD = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
    NFKC = NFC | UTF8PROC_COMPAT,
    NFKD = NFD | UTF8PROC_COMPAT,
};

static const struct {
    const char *type;
    int form;
} unicode_forms[] = { { "NFC", NFC }, { "NFD", NFD }, { "NFKC", NFKC }, { "NFKD", NFKD } };

static bool read_replace(struct step *s, const cJSON *component, struct error *err)
{
    const char *text, *content = NULL;
    bool regex;

    s->kind = STEP_REPLACE;
    if (!component_pattern(component, "pattern", &text, &regex, err) ||
        !component_string(component, "content", &content, err))
        return false;
    s->pattern = pattern_create(text, regex, err);
    if (!s->pattern)
        return false;
    s->content = strdup(content ? content : "");
    return s->content || error_set(err, ERR_NOMEM, "normalizer: out of memory");
}

static bool read_step(struct step *s, const cJSON *component, struct error *err)
{
    const char *text = "";

    for (size_t i = 0; i < sizeof(unicode_forms) / sizeof(*unicode_forms); i++) {
        if (component_is(component, unicode_forms[i].type)) {
            s->kind = STEP_UNICODE;
            s->form = unicode_forms[i].form;
            return true;
        }
    }
    if (component_is(component, "Replace"))
        return read_replace(s, component, err);
    if (component_is(component, "Prepend")) {
        s->kind = STEP_PREPEND;
        if (!component_string(component, "prepend", &text, err))
            return false;
        s->content = strdup(text);
        return s->content || error_set(err, ERR_NOMEM, "normalizer: out of memory");
    }
    if (component_is(component, "Strip")) {
        s->kind = STEP_STRIP;
        s->left = s->right = true;
        return component_bool(component, "strip_left", &s->left, err) &&
               component_bool(component, "strip_right", &s->right, err);
    }
    if (component_is(component, "Lowercase")) {
        s->kind = STEP_LOWERCASE;
        return true;
    }
    return component_refuse(component, "normalizer", err);
}

/* Recursion is bounded by the depth the JSON text was scanned with. */
static bool read_component(struct normalizer *n, const cJSON *component, struct error *err)
{
    const cJSON *list, *item;

    if (!component_is(component, "Sequence")) {
        if (n->steps == STEPS_MAX)
            return error_set(err, ERR_FORMAT, "more than %d normalizers", STEPS_MAX);
        return read_step(&n->step[n->steps++], component, err);
    }
    if (!component_array(component, "normalizers", &list, err))
        return false;
    cJSON_ArrayForEach(item, list)
    {
        if (!read_component(n, item, err))
            return false;
    }
    return true;
}

struct normalizer *normalizer_create(const cJSON *component, struct error *err)
{
    struct normalizer *n = calloc(1, sizeof(*n));

    if (!n) {
        error_set(err, ERR_NOMEM, "normalizer: out of memory");
        return NULL;
    }
    if (component && !read_component(n, component, err)) {
        normalizer_destroy(n);
        return NULL;
    }
    return n;
}

void normalizer_destroy(struct normalizer *n)
{
    if (!n)
        return;
    for (int i = 0; i < n->steps; i++) {
        pattern_destroy(n->step[i].pattern);
        free(n->step[i].content);
    }
    free(n);
}

/* Below U+0300 every text is its own NFC; below U+0080 it is every form of itself. */
static bool is_normal(const struct text_buffer *text, int form)
{
    unsigned char limit = form == NFC ? 0xcc : 0x80; /* U+0300 begins with the byte 0xcc */

    for (size_t i = 0; i < text->len; i++) {
        if ((unsigned char)text->bytes[i] >= limit)
            return false;
    }
    return true;
}

/* A stable counting sort by combining class; spare has room for n. */
static void sort_marks(int32_t *mark, int32_t *spare, size_t n)
{
    size_t at[257] = { 0 };

    for (size_t i = 0; i < n; i++)
        at[utf8proc_get_property(mark[i])->combining_class + 1]++;
    for (int c = 1; c < 257; c++)
        at[c] += at[c - 1];
    for (size_t i = 0; i < n; i++)
        spare[at[utf8proc_get_property(mark[i])->combining_class]++] = mark[i];
    memcpy(mark, spare, n * sizeof(*mark));
}

static void sort_all_marks(int32_t *code, int32_t *spare, size_t n)
{
    for (size_t i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && utf8proc_get_property(code[end])->combining_class; end++)
            ;
        if (end - i > 1)
            sort_marks(code + i, spare, end - i);
    }
}

static bool normal_form(struct text_buffer *text, int form, struct error *err)
{
    enum { LONGEST = 18 }; /* code points one decomposes to, U+FDFA */
    int32_t *code = NULL, *spare, *grown;
    size_t n = 0, capacity = 0, step;
    utf8proc_ssize_t got;
    char bytes[4];
    int boundary = 0;
    bool ok = false;

    for (size_t at = 0; at < text->len; at += step) {
        if (capacity - n < LONGEST) {
            capacity = capacity ? capacity * 2 : text->len + LONGEST;
            grown = realloc(code, capacity * sizeof(*code));
            if (!grown)
                goto done;
            code = grown;
        }
        got = utf8proc_decompose_char(utf8_decode(text->bytes + at, &step), code + n,
                                      (utf8proc_ssize_t)(capacity - n), (utf8proc_option_t)form,
                                      &boundary);
        if (got < 0 || (size_t)got > capacity - n)
            goto done;
        n += (size_t)got;
    }
    spare = malloc((n + 1) * sizeof(*spare));
    if (!spare)
        goto done;
    sort_all_marks(code, spare, n);
    free(spare);
    if (n > 0)
        n = (size_t)utf8proc_normalize_utf32(code, (utf8proc_ssize_t)n, (utf8proc_option_t)form);
    text->len = 0;
    ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        got = utf8proc_encode_char(code[i], (utf8proc_uint8_t *)bytes);
        ok = text_buffer_append(text, bytes, (size_t)got);
    }
done:
    free(code);
    return ok || error_set(err, ERR_NOMEM, "normalizer: out of memory");
}

static bool replace(const struct step *s, struct pattern_matcher *m, struct text_buffer *text,
                    struct error *err)
{
    size_t from = 0, begin, end, len = strlen(s->content);
    struct text_buffer out = { 0 };
    enum pattern_result r;

    while ((r = pattern_find(s->pattern, m, text->bytes, text->len, from, &begin, &end, err)) ==
           PATTERN_MATCH) {
        if (!text_buffer_append(&out, text->bytes + from, begin - from) ||
            !text_buffer_append(&out, s->content, len))
            goto no_memory;
        from = end;
    }
    if (r == PATTERN_FAILED) {
        free(out.bytes);
        return false;
    }
    if (from == 0)
        return true;
    if (!text_buffer_append(&out, text->bytes + from, text->len - from))
        goto no_memory;
    free(text->bytes);
    *text = out;
    return true;

no_memory:
    free(out.bytes);
    return error_set(err, ERR_NOMEM, "normalizer: out of memory");
}

static bool prepend(const char *content, struct text_buffer *text, struct error *err)
{
    size_t len = strlen(content);

    if (text->len == 0)
        return true;
    if (!text_buffer_reserve(text, len))
        return error_set(err, ERR_NOMEM, "normalizer: out of memory");
    memmove(text->bytes + len, text->bytes, text->len);
    memcpy(text->bytes, content, len);
    text->len += len;
    return true;
}

static void strip(const struct step *s, struct text_buffer *text)
{
    size_t begin = 0, end = text->len, step, at;

    while (s->left && begin < end && utf8_is_space(utf8_decode(text->bytes + begin, &step)))
        begin += step;
    while (s->right && end > begin) {
        for (at = end - 1; ((unsigned char)text->bytes[at] & 0xc0) == 0x80; at--)
            ;
        if (!utf8_is_space(utf8_decode(text->bytes + at, &step)))
            break;
        end = at;
    }
    if (end > begin)
        memmove(text->bytes, text->bytes + begin, end - begin);
    text->len = end - begin;
}

static bool lowercase(struct text_buffer *text, struct error *err)
{
    struct text_buffer out = { 0 };
    size_t step, len;
    char bytes[4];

    for (size_t at = 0; at < text->len; at += step) {
        int32_t code = utf8_decode(text->bytes + at, &step);
        bool dotted = code == 0x130; /* the one character whose lower case is two */

        len = (size_t)utf8proc_encode_char(dotted ? 'i' : utf8proc_tolower(code),
                                           (utf8proc_uint8_t *)bytes);
        if (!text_buffer_append(&out, bytes, len) ||
            (dotted && !text_buffer_append(&out, "\xcc\x87", 2))) {
            free(out.bytes);
            return error_set(err, ERR_NOMEM, "normalizer: out of memory");
        }
    }
    free(text->bytes);
    *text = out;
    return true;
}

static bool apply_step(const struct step *s, struct pattern_matcher *m, struct text_buffer *text,
                       struct error *err)
{
    switch (s->kind) {
    case STEP_UNICODE:
        return is_normal(text, s->form) || normal_form(text, s->form, err);
    case STEP_REPLACE:
        return replace(s, m, text, err);
    case STEP_PREPEND:
        return prepend(s->content, text, err);
    case STEP_STRIP:
        strip(s, text);
        return true;
    case STEP_LOWERCASE:
        return lowercase(text, err);
    }
    return true;
}

bool normalizer_apply(const struct normalizer *n, struct pattern_matcher *m,
                      struct text_buffer *text, struct error *err)
{
    for (int i = 0; i < n->steps; i++) {
        if (!apply_step(&n->step[i], m, text, err))
            return false;
    }
    return true;
}
