/* utf8.c - strict UTF-8 and the few character classes that tokenizers ask for. */
#include "models/text/utf8.h"

#include <string.h>
#include <utf8proc.h>

/* The range of a second byte depends on the first: that excludes overlong forms,
 * surrogates and what lies above U+10FFFF. */
static int expected_length(unsigned char lead, unsigned char *lo, unsigned char *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    if (lead < 0xe0)
        return 2;
    if (lead < 0xf0) {
        if (lead == 0xe0)
            *lo = 0xa0;
        else if (lead == 0xed)
            *hi = 0x9f;
        return 3;
    }
    if (lead == 0xf0)
        *lo = 0x90;
    else if (lead == 0xf4)
        *hi = 0x8f;
    return 4;
}

enum utf8_step utf8_next(const char *text, size_t n, size_t *len)
{
    const unsigned char *p = (const unsigned char *)text;
    unsigned char lo, hi;
    int want = expected_length(p[0], &lo, &hi);

    if (want == 0) {
        *len = 1;
        return UTF8_BROKEN;
    }
    for (int i = 1; i < want; i++) {
        *len = (size_t)i;
        if ((size_t)i == n)
            return UTF8_PARTIAL;
        if (p[i] < lo || p[i] > hi)
            return UTF8_BROKEN;
        lo = 0x80;
        hi = 0xbf;
    }
    *len = (size_t)want;
    return UTF8_CHARACTER;
}

size_t utf8_valid_prefix(const char *text, size_t n)
{
    size_t at = 0, len;
    uint64_t word;

    while (at < n) {
        if (n - at >= sizeof(word)) {
            memcpy(&word, text + at, sizeof(word));
            if (!(word & 0x8080808080808080u)) {
                at += sizeof(word);
                continue;
            }
        }
        if (utf8_next(text + at, n - at, &len) != UTF8_CHARACTER)
            return at;
        at += len;
    }
    return n;
}

int32_t utf8_decode(const char *text, size_t *len)
{
    const unsigned char *p = (const unsigned char *)text;

    if (p[0] < 0x80) {
        *len = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *len = 2;
        return (p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    }
    if (p[0] < 0xf0) {
        *len = 3;
        return (p[0] & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    }
    *len = 4;
    return (p[0] & 0x07) << 18 | (p[1] & 0x3f) << 12 | (p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

bool utf8_is_space(int32_t code)
{
    return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool utf8_is_numeric(int32_t code)
{
    utf8proc_category_t c = utf8proc_category(code);

    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool utf8_is_punctuation(int32_t code)
{
    utf8proc_category_t c;

    if (code < 0x80)
        return code > ' ' && code < 0x7f && !(code >= '0' && code <= '9') &&
               !((code | 0x20) >= 'a' && (code | 0x20) <= 'z');
    c = utf8proc_category(code);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool utf8_is_word(int32_t code)
{
    utf8proc_category_t c = utf8proc_category(code);

    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_ND) || c == UTF8PROC_CATEGORY_PC;
}
