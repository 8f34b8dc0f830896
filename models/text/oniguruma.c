/* oniguruma.c - one pass over the expression, one item at a time.
 *
 * Checked against libonig 6.9.8, every class for every code point. What is not obvious:
 * - A quantifier behind a quantifier repeats the quantified: {n,m}+ is not possessive, {n}?
 *   not lazy. {,n} is {0,n}.
 * - When a repetition ends whose body matched nothing differs, so such a body is refused.
 * - (?m) lets the dot match a newline. An option of its own, (?i), lasts to the end of the
 *   group and takes the alternatives there with it: a(?i)b|c is a(?i:b|c).
 * - Where case is ignored, only letters and sets are without case, and some letters side by
 *   side are one character, too (st is U+FB06). Sets of more than ASCII may match two
 *   characters then. So PCRE2's caseless is put around ASCII letters and sets alone.
 * - \w has the fractions and superscripts of Latin-1, [\w] has not.
 * - \p{Han} is the script; PCRE2's is the script with its extensions. */
#include "models/text/oniguruma.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "config/error.h"
#include "models/text/text_buffer.h"
#include "models/text/utf8.h"

#define WORD         "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD_OUTSIDE WORD "\\xB2\\xB3\\xB9\\xBC-\\xBE"
#define IN_WORD      "[" WORD_OUTSIDE "]"
#define DIGITS       "0123456789"
#define HEX_DIGITS   DIGITS "abcdefABCDEF"
#define LETTERS      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

enum { DEPTH_MAX = 64, NAME_MAX_LEN = 40, CODE_MAX = 0x10ffff };

struct group {
    size_t begin;     /* in the output */
    bool after_empty; /* what precedes it in its alternative may match nothing */
    bool empty;       /* one of its own alternatives may */
    int closing;      /* parentheses to write at its end: options inside it have opened some */
    bool assertion;
    bool fold, dot_all; /* what holds outside of it */
};

struct rewriter {
    const char *text, *at;
    struct text_buffer *out;
    struct error *err;
    size_t item;               /* where the item that a quantifier repeats begins in out */
    bool repeatable, repeated; /* whether there is one, and whether it has a quantifier */
    bool item_empty;           /* it may match nothing */
    bool after_empty, empty;   /* so may its alternative up to it, and including it */
    bool fold, dot_all;        /* the options (?i) and (?m) */
    char folded;               /* the letter before, if case is ignored in it */
    int depth;
    struct group group[DEPTH_MAX];
};

static const struct {
    char letter;
    bool assertion;
    const char *outside, *inside; /* inside: of a set */
} classes[] = {
    { 's', false, "\\p{White_Space}", "\\p{White_Space}" },
    { 'S', false, "\\P{White_Space}", "\\P{White_Space}" },
    { 'd', false, "\\p{Nd}", "\\p{Nd}" },
    { 'D', false, "\\P{Nd}", "\\P{Nd}" },
    { 'w', false, IN_WORD, WORD },
    { 'W', false, "[^" WORD_OUTSIDE "]", NULL },
    { 'h', false, "[0-9a-fA-F]", "0-9a-fA-F" },
    { 'H', false, "[^0-9a-fA-F]", NULL },
    { 'b', true, "(?:(?<=" IN_WORD ")(?!" IN_WORD ")|(?<!" IN_WORD ")(?=" IN_WORD "))", NULL },
    { 'B', true, "(?:(?<=" IN_WORD ")(?=" IN_WORD ")|(?<!" IN_WORD ")(?!" IN_WORD "))", NULL },
    { 'A', true, "\\A", NULL },
    { 'z', true, "\\z", NULL },
    { 'Z', true, "\\Z", NULL },
};

/* [:name:], and \p{name}. */
static const struct {
    const char *name, *members;
} posix[] = {
    { "alnum", "\\p{Alphabetic}\\p{Nd}" },
    { "alpha", "\\p{Alphabetic}" },
    { "blank", "\\p{Zs}\\t" },
    { "cntrl", "\\p{Cc}" },
    { "digit", "\\p{Nd}" },
    { "lower", "\\p{Lowercase}" },
    { "punct", "\\p{P}" },
    { "space", "\\p{White_Space}" },
    { "upper", "\\p{Uppercase}" },
    { "word", WORD },
    { "xdigit", "0-9a-fA-F" },
};

static const char categories[] = " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po"
                                 " S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Cn Co ";

/* The next n bytes of the expression are what is wrong. */
static bool refuse(const struct rewriter *r, size_t n, const char *why)
{
    return error_set(r->err, ERR_FORMAT, "'%.100s': %.*s%s%s", r->text, (int)n, r->at, n ? " " : "",
                     why);
}

static bool put(struct rewriter *r, const char *text)
{
    return text_buffer_append(r->out, text, strlen(text)) ||
           error_set(r->err, ERR_NOMEM, "expression: out of memory");
}

static void begin_item(struct rewriter *r)
{
    r->item = r->out->len;
    r->repeatable = true;
    r->repeated = false;
    r->item_empty = false;
    r->after_empty = r->empty;
    r->empty = false;
}

static bool is_ascii(int32_t code, const char *among)
{
    return code > 0 && code < 0x80 && strchr(among, code);
}

static bool put_code(struct rewriter *r, int32_t code)
{
    char as[16];

    snprintf(as, sizeof(as), is_ascii(code, LETTERS DIGITS) ? "%c" : "\\x{%x}", (unsigned)code);
    return put(r, as);
}

/* \p{name}, \p{^name}, \P{name}. */
static bool rewrite_property(struct rewriter *r, bool in_set)
{
    bool negated = r->at[1] == 'P', caret = r->at[2] == '{' && r->at[3] == '^';
    const char *name = r->at + 3 + caret, *members = NULL;
    size_t len = r->at[2] == '{' ? strspn(name, LETTERS DIGITS "_ -") : 0;
    char as[NAME_MAX_LEN + 16], padded[NAME_MAX_LEN + 3];

    if (len == 0 || len > NAME_MAX_LEN || name[len] != '}')
        return refuse(r, 2, "is supported with a {name} only");
    negated ^= caret;
    for (size_t i = 0; i < sizeof(posix) / sizeof(*posix); i++) {
        if (strncasecmp(name, posix[i].name, len) == 0 && posix[i].name[len] == 0)
            members = posix[i].members;
    }
    snprintf(padded, sizeof(padded), " %.*s ", (int)len, name);
    if (members && in_set && negated)
        return refuse(r, (size_t)(name + len + 1 - r->at), "inside a set is not supported");
    if (members)
        snprintf(as, sizeof(as), in_set ? "%s%s" : "[%s%s]", negated ? "^" : "", members);
    else
        snprintf(as, sizeof(as), "\\%c{%s%.*s}", negated ? 'P' : 'p',
                 strstr(categories, padded) ? "" : "sc:", (int)len, name);
    r->at = name + len + 1;
    return put(r, as);
}

/* The hexadecimal digits of \uHHHH, \x{H...} and \xHH, where that is a character and no byte. */
static bool read_code(struct rewriter *r, int32_t *code)
{
    bool braces = r->at[1] == 'x' && r->at[2] == '{';
    const char *digits = r->at + 2 + braces;
    size_t n = strspn(digits, HEX_DIGITS), most = r->at[1] == 'u' ? 4 : braces ? 6 : 2;

    n = n > most ? most : n;
    *code = 0;
    for (size_t i = 0; i < n; i++)
        *code = *code * 16 + (digits[i] <= '9' ? digits[i] - '0' : (digits[i] | 0x20) - 'a' + 10);
    if (n == 0 || (r->at[1] == 'u' && n < 4) || (braces && digits[n] != '}') || *code > CODE_MAX ||
        (*code >= 0xd800 && *code < 0xe000) || (most == 2 && *code >= 0x80))
        return refuse(r, 2 + braces + n, "is no character");
    r->at = digits + n + braces;
    return true;
}

/* A backslash and what belongs to it. A class or an assertion is written and *code is -1; of
 * a character it is the code point, which is left to write. */
static bool rewrite_escape(struct rewriter *r, bool in_set, int32_t *code)
{
    static const char letters[] = "tnrfvae", codes[] = "\t\n\r\f\v\a\x1b";
    const char letter = r->at[1], *known = letter ? strchr(letters, letter) : NULL;
    size_t len;

    *code = -1;
    if (letter == 'p' || letter == 'P')
        return rewrite_property(r, in_set);
    if (letter == 'u' || letter == 'x')
        return read_code(r, code);
    for (size_t i = 0; i < sizeof(classes) / sizeof(*classes); i++) {
        if (classes[i].letter != letter)
            continue;
        if (in_set && !classes[i].inside)
            return refuse(r, 2, "inside a set is not supported");
        if (classes[i].assertion) {
            r->repeatable = false;
            r->empty = r->after_empty;
        }
        r->at += 2;
        return put(r, in_set ? classes[i].inside : classes[i].outside);
    }
    if (!known && (!letter || strchr(LETTERS DIGITS, letter)))
        return refuse(r, 1 + (letter != 0), "is not supported");
    r->at++;
    *code = known ? codes[known - letters] : utf8_decode(r->at, &len);
    r->at += known ? 1 : len;
    return true;
}

/* Whether one character may stand for these two where case is ignored. */
static bool fold_together(char a, char b)
{
    static const char pairs[] = "ss ff fi fl st";
    const char pair[3] = { a, b };

    return a && b && strstr(pairs, pair);
}

static bool rewrite_literal(struct rewriter *r, const char *from, int32_t code)
{
    bool folded = r->fold && is_ascii(code, LETTERS);
    char before = r->folded, now = folded ? (char)(code | 0x20) : 0;

    r->folded = now;
    if ((r->fold && code >= 0x80) || fold_together(before, now)) {
        size_t len = (size_t)(r->at - from);

        r->at = from;
        return refuse(r, len, "is not supported where case is ignored");
    }
    if (!folded)
        return put_code(r, code);
    return put(r, "(?i:") && put_code(r, code) && put(r, ")");
}

static bool rewrite_posix(struct rewriter *r)
{
    const char *name = r->at + 2;
    size_t len = strspn(name, LETTERS "^");

    for (size_t i = 0; i < sizeof(posix) / sizeof(*posix); i++) {
        if (strncmp(name, posix[i].name, len) == 0 && posix[i].name[len] == 0 &&
            strncmp(name + len, ":]", 2) == 0) {
            r->at = name + len + 2;
            return put(r, posix[i].members);
        }
    }
    return refuse(r, len + (strncmp(name + len, ":]", 2) == 0 ? 4 : 2), "is not supported");
}

/* One member of a set, as rewrite_escape(). */
static bool rewrite_member(struct rewriter *r, int32_t *code)
{
    const char *from = r->at;
    size_t len;
    bool ok = true;

    *code = -1;
    if (r->at[0] == '[' && r->at[1] == ':') {
        ok = rewrite_posix(r);
    } else if (r->at[0] == '[' || (r->at[0] == '&' && r->at[1] == '&')) {
        return refuse(r, 1, "is a set inside a set, which is not supported");
    } else if (r->at[0] == '\\') {
        ok = rewrite_escape(r, true, code);
    } else if (r->at[0]) {
        *code = utf8_decode(r->at, &len);
        r->at += len;
    } else {
        return refuse(r, 0, "has an unfinished set");
    }
    if (ok && r->fold && (*code < 0 || *code >= 0x80)) {
        len = (size_t)(r->at - from);
        r->at = from;
        return refuse(r, len, "in a set is not supported where case is ignored");
    }
    return ok;
}

static bool rewrite_range(struct rewriter *r)
{
    bool hyphen = r->at[0] == '-' && r->at[-1] != '[' && r->at[-1] != '^';
    int32_t low, high;

    if (!rewrite_member(r, &low))
        return false;
    high = low;
    if (low >= 0 && r->at[0] == '-' && r->at[1] != ']') {
        if (hyphen)
            return refuse(r, 1, "behind a hyphen in a set is not supported");
        r->at++;
        if (!rewrite_member(r, &high))
            return false;
        if (high < low)
            return refuse(r, 0, "has a range that ends before it begins");
    }
    return low < 0 || (put_code(r, low) && (low == high || (put(r, "-") && put_code(r, high))));
}

static bool rewrite_set(struct rewriter *r)
{
    begin_item(r);
    r->folded = 0;
    r->at++;
    if (!put(r, r->fold ? "(?i:[" : "["))
        return false;
    if (*r->at == '^') {
        r->at++;
        if (!put(r, "^"))
            return false;
    }
    do { /* a bracket that comes first is a member */
        if (!rewrite_range(r))
            return false;
    } while (*r->at != ']');
    r->at++;
    return put(r, r->fold ? "])" : "]");
}

/* The length of {n}, {n,}, {n,m} or {,m}; 0 when the brace is a character like others. */
static size_t interval(const char *text)
{
    size_t low = strspn(text + 1, DIGITS), comma = text[1 + low] == ',';
    size_t high = comma ? strspn(text + 2 + low, DIGITS) : 0, end = 1 + low + comma + high;

    return low + high > 0 && text[end] == '}' ? end + 1 : 0;
}

static bool wrap_item(struct rewriter *r)
{
    char *item;

    if (!put(r, "(?:)"))
        return false;
    item = r->out->bytes + r->item;
    memmove(item + 3, item, r->out->len - 4 - r->item);
    memcpy(item, "(?:", 3);
    return true;
}

static bool rewrite_quantifier(struct rewriter *r)
{
    size_t braces = *r->at == '{' ? interval(r->at) : 0, len = braces ? braces : 1;
    bool fixed = braces && !memchr(r->at, ',', braces), ok = true;

    if (!r->repeatable)
        return refuse(r, len, "has nothing to repeat");
    if (r->item_empty && *r->at != '?')
        return refuse(r, len, "repeats what may match nothing, which is not supported");
    if (r->repeated && !wrap_item(r))
        return false;
    if (*r->at == '*' || *r->at == '?' ||
        (braces && strchr(",}", r->at[1 + strspn(r->at + 1, "0")])))
        r->item_empty = true;
    r->empty = r->after_empty && r->item_empty;
    if (braces && r->at[1] == ',') {
        ok = put(r, "{0");
        r->at++;
        len--;
    }
    if ((r->at[len] == '?' && !fixed) || (r->at[len] == '+' && !braces))
        len++;
    if (!ok || !text_buffer_append(r->out, r->at, len))
        return error_set(r->err, ERR_NOMEM, "expression: out of memory");
    r->at += len;
    r->repeated = true;
    return true;
}

static void enter_group(struct rewriter *r, const struct group *g)
{
    r->group[++r->depth] = *g;
    r->repeatable = false;
    r->empty = true;
}

/* The options of (?im-im:...) and of (?im-im), which lasts to the end of the group. */
static bool rewrite_options(struct rewriter *r, struct group *inside)
{
    bool fold = r->fold, dot_all = r->dot_all, on = true;
    const char *p = r->at + 2;

    for (; *p && strchr("im-", *p); p++) {
        if (*p == '-')
            on = false;
        else if (*p == 'i')
            fold = on;
        else
            dot_all = on;
    }
    if (r->at[1] != '?' || p == r->at + 2 || (*p != ':' && *p != ')'))
        return refuse(r, strnlen(r->at, 3), "is a group that is not supported");
    if (*p == ')')
        r->group[r->depth].closing++;
    else
        enter_group(r, inside);
    r->at = p + 1;
    r->fold = fold;
    r->dot_all = dot_all;
    r->repeatable = false;
    return put(r, "(?:");
}

static bool open_group(struct rewriter *r)
{
    static const struct {
        const char *text;
        bool assertion;
    } kinds[] = {
        { "(?:", false }, { "(?>", false }, { "(?=", true },
        { "(?!", true },  { "(?<=", true }, { "(?<!", true },
    };
    struct group inside = { .begin = r->out->len,
                            .closing = 1,
                            .after_empty = r->empty,
                            .fold = r->fold,
                            .dot_all = r->dot_all };
    const char *as = r->at[1] != '?' && r->at[1] != '*' ? "(?:" : NULL;
    size_t used = 1;

    if (r->depth + 1 == DEPTH_MAX)
        return refuse(r, 1, "is nested too deeply");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        if (strncmp(r->at, kinds[i].text, strlen(kinds[i].text)) == 0) {
            as = kinds[i].text;
            used = strlen(as);
            inside.assertion = kinds[i].assertion;
        }
    }
    if (!as)
        return rewrite_options(r, &inside);
    r->at += used;
    enter_group(r, &inside);
    return put(r, as);
}

static bool close_group(struct rewriter *r)
{
    const struct group *g = &r->group[r->depth];

    for (int i = 0; i < g->closing; i++) {
        if (!put(r, ")"))
            return false;
    }
    r->fold = g->fold;
    r->dot_all = g->dot_all;
    r->item = g->begin;
    r->repeatable = !g->assertion;
    r->repeated = false;
    r->item_empty = g->empty || r->empty || g->assertion;
    r->after_empty = g->after_empty;
    r->empty = r->after_empty && r->item_empty;
    r->depth--;
    return true;
}

static bool rewrite_character(struct rewriter *r)
{
    const char *from = r->at;
    int32_t code = -1;
    size_t len;

    begin_item(r);
    if (*r->at == '\\') {
        if (!rewrite_escape(r, false, &code))
            return false;
    } else {
        code = utf8_decode(r->at, &len);
        r->at += len;
    }
    if (code >= 0)
        return rewrite_literal(r, from, code);
    r->folded = 0;
    return true;
}

static bool rewrite_item(struct rewriter *r)
{
    switch (*r->at) {
    case '(':
        return open_group(r);
    case ')':
        r->at++;
        return r->depth > 0 ? close_group(r) : put(r, ")");
    case '[':
        return rewrite_set(r);
    case '*':
    case '+':
    case '?':
        return rewrite_quantifier(r);
    case '{':
        return interval(r->at) ? rewrite_quantifier(r) : rewrite_character(r);
    case '|':
        r->group[r->depth].empty |= r->empty;
        r->empty = true;
        /* fallthrough */
    case '^':
    case '$': {
        const char as[2] = { *r->at++ };

        r->folded = 0;
        r->repeatable = false;
        return put(r, as);
    }
    case '.':
        r->at++;
        r->folded = 0;
        begin_item(r);
        return put(r, r->dot_all ? "(?s:.)" : ".");
    default:
        return rewrite_character(r);
    }
}

bool oniguruma_rewrite(const char *text, struct text_buffer *out, struct error *err)
{
    struct rewriter r = { .text = text, .at = text, .out = out, .err = err, .empty = true };
    size_t len = strlen(text), valid = utf8_valid_prefix(text, len);

    if (valid != len)
        return error_set(err, ERR_FORMAT, "an expression is not UTF-8 at byte %zu", valid);
    while (*r.at) {
        if (!rewrite_item(&r))
            return false;
    }
    for (int i = 0; i < r.group[0].closing; i++) {
        if (!put(&r, ")"))
            return false;
    }
    return true; /* PCRE2 finds a group that is not closed */
}
