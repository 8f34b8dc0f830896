/* pattern.c - PCRE2 in the role of Oniguruma.
 *
 * The expression is rewritten first (oniguruma.h). The subject is always valid UTF-8 (the
 * tokenizer checks its input once), because PCRE2_MATCH_INVALID_UTF makes repeated matching
 * quadratic. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "models/text/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "config/error.h"
#include "models/text/oniguruma.h"
#include "models/text/text_buffer.h"

enum { EXPRESSION_MAX = 16 * 1024, MATCH_STEPS = 10 * 1000 * 1000, HEAP_KIB = 256 * 1024 };

struct pattern {
    char *literal; /* NULL: an expression */
    size_t len;
    pcre2_code *code;
    pcre2_match_context *limits;
};

static bool compile(struct pattern *p, const char *text, struct error *err)
{
    /* PCRE2 10.42 takes \P{Nd}+\P{Lu} for \P{Nd}++\P{Lu} otherwise. */
    uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_POSSESS;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    struct text_buffer as = { 0 };
    PCRE2_UCHAR reason[128];
    PCRE2_SIZE at;
    uint32_t empty;
    bool ok = false;
    int code;

    p->limits = pcre2_match_context_create(NULL);
    if (!context || !p->limits) {
        error_set(err, ERR_NOMEM, "expression: out of memory");
        goto done;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 256);
    pcre2_set_match_limit(p->limits, MATCH_STEPS);
    pcre2_set_heap_limit(p->limits, HEAP_KIB);
    if (!oniguruma_rewrite(text, &as, err))
        goto done;
    /* Its JIT does not try \w+ where it failed before, not even where an atomic group would
     * have to choose it: (?>\w+|\h){2,} found "01" in "a01". */
    if (memmem(as.bytes, as.len, "(?>", 3))
        flags |= PCRE2_NO_START_OPTIMIZE;
    p->code = pcre2_compile((PCRE2_SPTR)as.bytes, as.len, flags, &code, &at, context);
    if (!p->code) {
        pcre2_get_error_message(code, reason, sizeof(reason));
        error_set(err, ERR_FORMAT, "'%.100s': %s", text, (const char *)reason);
        goto done;
    }
    /* Where Hugging Face's library finds the empty string, it cuts, or puts text in. */
    pcre2_pattern_info(p->code, PCRE2_INFO_MATCHEMPTY, &empty);
    if (empty) {
        error_set(err, ERR_FORMAT, "'%.100s': may match nothing, which is not supported", text);
        goto done;
    }
    ok = true;
    /* Where there is no JIT, pcre2_match() interprets: slower, the same result. */
    pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
done:
    pcre2_compile_context_free(context);
    free(as.bytes);
    return ok;
}

struct pattern *pattern_create(const char *text, bool regex, struct error *err)
{
    struct pattern *p = calloc(1, sizeof(*p));

    if (!p) {
        error_set(err, ERR_NOMEM, "expression: out of memory");
        return NULL;
    }
    p->len = strlen(text);
    if (p->len == 0 || p->len > EXPRESSION_MAX) {
        error_set(err, ERR_FORMAT, "a pattern of %zu bytes; it must have 1 to %d", p->len,
                  EXPRESSION_MAX);
        goto fail;
    }
    if (regex) {
        if (!compile(p, text, err))
            goto fail;
    } else {
        p->literal = strdup(text);
        if (!p->literal) {
            error_set(err, ERR_NOMEM, "pattern: out of memory");
            goto fail;
        }
    }
    return p;

fail:
    pattern_destroy(p);
    return NULL;
}

void pattern_destroy(struct pattern *p)
{
    if (!p)
        return;
    pcre2_code_free(p->code);
    pcre2_match_context_free(p->limits);
    free(p->literal);
    free(p);
}

void pattern_matcher_finish(struct pattern_matcher *m)
{
    pcre2_match_data_free(m->data);
    m->data = NULL;
}

static enum pattern_result find_literal(const struct pattern *p, const char *text, size_t len,
                                        size_t from, size_t *begin, size_t *end)
{
    const char *at = from < len ? memmem(text + from, len - from, p->literal, p->len) : NULL;

    if (!at)
        return PATTERN_NONE;
    *begin = (size_t)(at - text);
    *end = *begin + p->len;
    return PATTERN_MATCH;
}

enum pattern_result pattern_find(const struct pattern *p, struct pattern_matcher *m,
                                 const char *text, size_t len, size_t from, size_t *begin,
                                 size_t *end, struct error *err)
{
    const uint32_t flags = PCRE2_NO_UTF_CHECK;
    const PCRE2_SIZE *at;
    int rc;

    if (p->literal)
        return find_literal(p, text, len, from, begin, end);
    if (!m->data)
        m->data = pcre2_match_data_create(1, NULL);
    if (!m->data) {
        error_set(err, ERR_NOMEM, "expression: out of memory");
        return PATTERN_FAILED;
    }
    rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, from, flags, m->data, p->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter works on the heap */
        rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, from, flags | PCRE2_NO_JIT, m->data,
                         p->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return PATTERN_NONE;
    at = pcre2_get_ovector_pointer(m->data);
    if (rc == PCRE2_ERROR_NOMEMORY || rc < 0 || at[0] < from || at[1] <= at[0]) {
        error_set(err, rc == PCRE2_ERROR_NOMEMORY ? ERR_NOMEM : ERR_INPUT,
                  "the text takes too many steps to split (%d)", rc);
        return PATTERN_FAILED;
    }
    *begin = at[0];
    *end = at[1];
    return PATTERN_MATCH;
}
