/* test_oniguruma.c - what expressions match is what libonig 6.9.8 matches.
 *
 * The expected values were written down from that library (its default syntax), one match
 * behind another, as Hugging Face's library asks for them. */
#include "tests/models/text/case_file.h"

#include "models/text/pattern.h"

struct match_case {
    const char *expression, *text;
    const char *want; /* the matches, each in angle brackets */
};

static void check(const struct match_case *c)
{
    struct pattern_matcher m = { 0 };
    struct error err = { 0 };
    struct pattern *p = pattern_create(c->expression, true, &err);
    size_t len = strlen(c->text), from = 0, begin, end;
    char got[512] = "";

    if (!p)
        fail_msg("%s", err.message);
    while (pattern_find(p, &m, c->text, len, from, &begin, &end, &err) == PATTERN_MATCH) {
        strcat(got, "<");
        strncat(got, c->text + begin, end - begin);
        strcat(got, ">");
        from = end;
    }
    if (strcmp(got, c->want) != 0)
        fail_msg("%s on \"%s\": %s, not %s", c->expression, c->text, got, c->want);
    pattern_matcher_finish(&m);
    pattern_destroy(p);
}

static void a_quantifier_behind_another_repeats_the_quantified(void **state)
{
    static const struct match_case cases[] = {
        { "\\p{N}{1,3}+", "12345678 9", "<12345678><9>" },
        { "\\p{N}{2}+", "12345 67", "<1234><67>" },
        { "\\p{N}{,3}x", "1234x x", "<234x><x>" },
        { "a{,2}?b", "aab", "<aab>" },
        { "a{2}?b", "ab aab b", "<b><aab><b>" },
        { "a{1,2}?", "aaa", "<a><a><a>" },
        { "a{,}", "a{,}", "<a{,}>" },
        { "a{1", "a{1", "<a{1>" },
        { "a{2}{2}", "aaaaa", "<aaaa>" },
        { "a++a|b", "aab", "<b>" },
        { "a?+a|b", "aab", "<aa><b>" },
        { "a*+b", "aab", "<aab>" },
        { "(?:ab|a){1,2}+b", "abab", "<abab>" },
        { "\\p{N}{1,3}+?", "123", "<123>" },
        { "x+++", "xx", "<xx>" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

static void classes_have_the_members_they_have_in_oniguruma(void **state)
{
    /* U+180E is no space, a mark is a word character and need not be alphabetic. */
    static const struct match_case cases[] = {
        { "\\w+", "a\u0301x\u00b2 \u2460 \u00bd \u216b \u24d0 \u0903_1",
          "<a\u0301x\u00b2><\u00bd><\u216b><\u24d0><\u0903_1>" },
        { "[\\w]+", "x\u00b2\u00bd", "<x>" },
        { "\\W+", "a\u00b2 \u2460b", "< \u2460>" },
        { "\\s", "a\u180eb\302\205c\u200bd\u3000", "<\302\205><\u3000>" },
        { "[^\\s]+", "a  b", "<a><b>" },
        { "\\v", "a\n\v\f\302\205\u2028", "<\v>" },
        { "[\\v]", "\n\v", "<\v>" },
        { "\\h+", "09afg", "<09af>" },
        { "\\d", "1\u0663\u00b2", "<1><\u0663>" },
        { "[[:alpha:]]+", "e\u0301 \u0903 \u216b 1", "<e><\u0903><\u216b>" },
        { "[[:alnum:]]+", "a1\u00b2 \u00bd", "<a1>" },
        { "[[:word:]]+", "e\u0301_\u00b2", "<e\u0301_>" },
        { "[[:punct:]]+", "+-$!^", "<-><!>" },
        { "[[:space:]]+", " \u180e\302\205", "< ><\302\205>" },
        { "[[:blank:]]+", " \t\n", "< \t>" },
        { "[[:upper:]]+", "A\u216b\u24b6a", "<A\u216b\u24b6>" },
        { "[[:lower:]]+", "a\u217bA", "<a\u217b>" },
        { "[[:cntrl:]x]", "\t\u200dx", "<\t><x>" },
        { "[[:digit:]]", "1\u0663", "<1><\u0663>" },
        { "[[:xdigit:]]+", "09afg", "<09af>" },
        { "\\p{Alnum}+", "a1_", "<a1>" },
        { "\\P{Space}+", "a b", "<a><b>" },
        { "\\p{^Lu}+", "aBc", "<a><c>" },
        { "\\P{^Lu}+", "aBc", "<B>" },
        { "\\p{Han}+", "\u4e00\u3001\u30fc", "<\u4e00>" },
        { "\\p{Hiragana}", "\u3042\u30fc", "<\u3042>" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

static void lines_and_words_begin_and_end_where_they_do_in_oniguruma(void **state)
{
    static const struct match_case cases[] = {
        { "\\b.", "e\u0301 x\u00b2", "<e>< ><x>" },
        { "\\B.", "e\u0301 x\u00b2y", "<\u0301><\u00b2><y>" },
        { "^a|b$", "ab\nab\n", "<a><b><a><b>" },
        { "\\Aa|a\\z", "a\na", "<a><a>" },
        { "b\\Z", "b\nb\n", "<b>" },
        { "a.", "a\na\r", "<a\r>" },
        { "(?m:a.)", "a\nab", "<a\n><ab>" },
        { "(?m).b", "\nb", "<\nb>" },
        { "(?m-m:a.)", "a\n", "" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

/* PCRE2 10.42 gives up \P{Lu}+ too early, and its JIT an atomic group. */
static void optimisations_change_no_match(void **state)
{
    static const struct match_case cases[] = {
        { "\\P{Lu}+\\P{Nd}", "abc", "<abc>" },
        { "s\\D{1,3}\\P{Lu}", "s Cx", "<s Cx>" },
        { "(?>\\w+|\\h){2,}", "\ufb0601 1", "" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

static void an_option_lasts_to_the_end_of_its_group(void **state)
{
    static const struct match_case cases[] = {
        { "a(?i)B|C", "ab aB c C a", "<ab><aB>" },
        { "(?:a(?i)b|c)d", "aBd Cd aCd abD", "<aBd><aCd>" },
        { "(?i:'s|'LL)", "'S 'll 'Ll '\u017f", "<'S><'ll><'Ll><'\u017f>" },
        { "(?i)k", "kK\u212a", "<k><K><\u212a>" },
        { "(?i)[a-z]", "S\u017f\u00e9", "<S><\u017f>" },
        { "(?i)[^k]", "K\u212al", "<l>" },
        { "(?i:s)s", "ss SS Ss", "<ss><Ss>" },
        { "(?i)\\p{Lu}", "aA", "<A>" },
        { "(?i)s(?-i)t", "St sT", "<St>" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

static void a_set_has_its_members_whatever_they_mean_elsewhere(void **state)
{
    static const struct match_case cases[] = {
        { "[]a]+", "]a[", "<]a>" },
        { "[^]a]+", "]ab", "<b>" },
        { "[a-]+", "a-b", "<a->" },
        { "[-a]+", "a-b", "<a->" },
        { "[a-c-e]+", "abc-de", "<abc-><e>" },
        { "[+--]+", "+,-.", "<+,->" },
        { "[\\x41-\\x{43}\\u00e9]+", "AC\u00e9D", "<AC\u00e9>" },
        { "[.$|(){}*+?^#]+", "a.$|(){}*+?^#b", "<.$|(){}*+?^#>" },
        { "[\\]\\[\\\\]+", "a[]\\b", "<[]\\>" },
        { "[:alpha:]+", "alx:", "<al><:>" },
        { "[&|~]+", "a&|~", "<&|~>" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

static void an_escape_may_be_a_character(void **state)
{
    static const struct match_case cases[] = {
        { "\\.\\-\\/\\_", ".-/_", "<.-/_>" },
        { "\\x41\\x{42}\\u0043", "ABC", "<ABC>" },
        { "\\t\\n\\r\\f\\v\\a\\e", "\t\n\r\f\v\a\033", "<\t\n\r\f\v\a\033>" },
        { "\\\u00e9", "\u00e9", "<\u00e9>" },
        { "}]", "}]", "<}]>" },
        { "#a b", "#a b", "<#a b>" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

static void published_expressions_cut_alike(void **state)
{
    /* GPT-2, cl100k and its later form, o200k, Qwen 2, Tekken, four of DeepSeek, Falcon, and
     * groups of digits from the right. */
    static const char text[] = "I'LL go 12345!!\r\n\n  caf\u00e9 \u4f60\u597d7 /x\t";
    static const struct match_case cases[] = {
        { "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+"
          "(?!\\S)|\\s+",
          text, "<I><'><LL>< go>< 12345><!!><\r\n\n >< caf\u00e9>< \u4f60\u597d><7>< /><x><\t>" },
        { "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
          text, "<I><'LL>< go>< ><123><45><!!\r\n\n>< >< caf\u00e9>< \u4f60\u597d><7>< /><x><\t>" },
        { "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+|"
          " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s",
          text, "<I><'LL>< go>< ><12345><!!\r\n\n>< >< caf\u00e9>< \u4f60\u597d><7>< /><x><\t>" },
        { "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
          "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
          "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
          "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}|"
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
          text, "<I'LL>< go>< ><123><45><!!\r\n\n>< >< caf\u00e9>< \u4f60\u597d><7>< /><x><\t>" },
        { "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
          text,
          "<I><'LL>< go>< ><1><2><3><4><5><!!\r\n\n>< >< caf\u00e9>< \u4f60\u597d><7>< /><x><\t>" },
        { "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
          "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
          "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
          "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*"
          "[\\r\\n]+|\\s+(?!\\S)|\\s+",
          text,
          "<I><'LL>< go>< ><1><2><3><4><5><!!\r\n\n>< >< caf\u00e9>< \u4f60\u597d><7>< /><x><\t>" },
        { "[!\\\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
          "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|"
          "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
          text, "<I><'LL>< go>< ><!!\r\n\n>< >< caf\u00e9>< \u4f60\u597d>< /><x><\t>" },
        { "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", text,
          "<I'LL>< go><!!>< caf>< /x>" },
        { "\\s+$", text, "<\r\n><\t>" },
        { "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", text, "<\u4f60\u597d>" },
        { "[0-9][0-9][0-9]", text, "<123>" },
        { "\\d{1,3}(?=(?:\\d{3})*\\b)", text, "<12><345><7>" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        check(&cases[i]);
}

static void what_has_no_faithful_spelling_is_refused_by_name(void **state)
{
    static const struct {
        const char *expression, *why;
    } cases[] = {
        { "[a[b]]", "set inside a set" },
        { "[a&&b]", "set inside a set" },
        { "[\\W]", "\\W inside a set" },
        { "[\\p{^Alnum}]", "\\p{^Alnum} inside a set" },
        { "[\\b]", "\\b inside a set" },
        { "[[:print:]]", "[:print:]" },
        { "[[:^alpha:]]", "[:^alpha:]" },
        { "[a", "unfinished set" },
        { "[b-a]", "ends before it begins" },
        { "a\\R", "\\R" },
        { "\\X", "\\X" },
        { "a\\K", "\\K" },
        { "\\Ga", "\\G" },
        { "\\Q.\\E", "\\Q" },
        { "(a)\\1", "\\1" },
        { "\\012", "\\0" },
        { "\\cA", "\\c" },
        { "\\N", "\\N" },
        { "\\O", "\\O" },
        { "\\y.", "\\y" },
        { "a\\", "\\" },
        { "\\xE3\\x81\\x82", "\\xE3 is no character" },
        { "\\uD83D", "\\uD83D is no character" },
        { "\\x{110000}", "is no character" },
        { "\\u12", "is no character" },
        { "\\pL", "\\p is supported" },
        { "\\p{Emoji}", "unknown property" },
        { "(?<n>a)", "(?<" },
        { "(?~a)", "(?~" },
        { "(?#a)b", "(?#" },
        { "(?x) a", "(?x" },
        { "(*FAIL)", "(*F" },
        { "(*i)a", "(*i" },
        { "(?'n'a)", "(?'" },
        { "(?i)\u00e9", "where case is ignored" },
        { "(?i)ss", "s is not supported where" },
        { "(?i)f{1}(?:I)", "I is not supported where" },
        { "(?i)[\\p{L}]", "\\p{L} in a set" },
        { "(?i)[\u00e9]", "where case is ignored" },
        { "a*", "may match nothing" },
        { "(?<=\\d)(?=\\d)", "may match nothing" },
        { "\\b", "may match nothing" },
        { "(?:a|b?)+c", "+ repeats what may match nothing" },
        { "a**b", "* repeats what may match nothing" },
        { "*a", "* has nothing to repeat" },
        { "^*a", "* has nothing to repeat" },
        { "(?=a)+a", "+ has nothing to repeat" },
        { "a{2,1}", "out of order" },
        { "(a", "parenthesis" },
        { "a)", "parenthesis" },
        { "\xff", "UTF-8" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err = { 0 };

        assert_null(pattern_create(cases[i].expression, true, &err));
        assert_int_equal(err.code, ERR_FORMAT);
        if (!strstr(err.message, cases[i].why))
            fail_msg("%s: %s", cases[i].expression, err.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quantifier_behind_another_repeats_the_quantified),
        cmocka_unit_test(classes_have_the_members_they_have_in_oniguruma),
        cmocka_unit_test(lines_and_words_begin_and_end_where_they_do_in_oniguruma),
        cmocka_unit_test(optimisations_change_no_match),
        cmocka_unit_test(an_option_lasts_to_the_end_of_its_group),
        cmocka_unit_test(a_set_has_its_members_whatever_they_mean_elsewhere),
        cmocka_unit_test(an_escape_may_be_a_character),
        cmocka_unit_test(published_expressions_cut_alike),
        cmocka_unit_test(what_has_no_faithful_spelling_is_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
