/* test_chat_template.c - a session can be fed the new messages alone. */
#include "tests/models/text/case_file.h"

#include "models/text/chat_template.h"

static struct chat_message message(enum chat_role role, const char *text)
{
    return (struct chat_message){ role, text, strlen(text) };
}

static void expect(const struct text_buffer *out, const char *want)
{
    assert_int_equal(out->len, strlen(want));
    if (out->len)
        assert_memory_equal(out->bytes, want, out->len);
}

static void check(const char *name, const char *want)
{
    const struct chat_message list[] = { message(CHAT_SYSTEM, " Be brief. "),
                                         message(CHAT_USER, "Hi\r\n\n\nthere\n"),
                                         message(CHAT_ASSISTANT, "Hello.\n\nWhat?"),
                                         message(CHAT_USER, "") };
    const struct chat_template *t = chat_template_find(name);
    struct text_buffer out = { 0 };

    assert_non_null(t);
    assert_true(t->render(list, 4, false, true, &out));
    expect(&out, want);
    free(out.bytes);
}

static void each_format_is_as_its_models_were_trained(void **state)
{
    (void)state;
    check("chatml", "<|im_start|>system\n Be brief. <|im_end|>\n"
                    "<|im_start|>user\nHi\r\n\n\nthere\n<|im_end|>\n"
                    "<|im_start|>assistant\nHello.\n\nWhat?<|im_end|>\n"
                    "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
    check("rwkv-world", "System: Be brief.\n\nUser: Hi\nthere\n\n"
                        "Assistant: Hello.\n\nWhat?\n\nUser:\n\nAssistant:");
    check("plain", " Be brief. \nHi\r\n\n\nthere\n\nHello.\n\nWhat?\n\n");
}

/* What is rendered up to any message begins what is rendered up to a later one. */
static void a_rendering_is_the_rendering_of_its_parts(void **state)
{
    static const char *const texts[] = { "a", "", "\n\nx\n\n", " y ", "User:", "<|im_end|>" };
    struct chat_message list[6];
    uint64_t seed = 5;
    (void)state;

    for (size_t k = 0; chat_template_at(k); k++) {
        const struct chat_template *t = chat_template_at(k);

        for (int round = 0; round < 200; round++) {
            struct text_buffer whole = { 0 }, parts = { 0 };
            size_t cut = draw(&seed, 7);

            for (int i = 0; i < 6; i++)
                list[i] = message((enum chat_role)draw(&seed, 3), texts[draw(&seed, 6)]);
            assert_true(t->render(list, 6, false, true, &whole));
            assert_true(t->render(list, cut, false, false, &parts));
            assert_true(t->render(list + cut, 6 - cut, false, true, &parts));
            assert_int_equal(whole.len, parts.len);
            assert_true(whole.len == 0 || memcmp(whole.bytes, parts.bytes, whole.len) == 0);
            free(whole.bytes);
            free(parts.bytes);
        }
    }
}

/* The state after an answer was sampled is the state after it was read as history. */
static void an_open_answer_becomes_its_message_when_closed(void **state)
{
    const struct chat_message list[] = { message(CHAT_USER, "Hi"),
                                         message(CHAT_ASSISTANT, "Hello."),
                                         message(CHAT_USER, "Bye") };
    (void)state;

    for (size_t k = 0; chat_template_at(k); k++) {
        const struct chat_template *t = chat_template_at(k);
        bool spaced = strcmp(t->name, "rwkv-world") == 0;
        struct text_buffer whole = { 0 }, open = { 0 };

        assert_true(t->render(list, 3, false, true, &whole));
        assert_true(t->render(list, 1, false, true, &open));
        open.bytes = realloc(open.bytes, open.len + 64);
        assert_non_null(open.bytes);
        open.capacity = open.len + 64;
        open.len += (size_t)sprintf(open.bytes + open.len, "%sHello.", spaced ? " " : "");
        assert_true(t->render(list + 2, 1, true, true, &open));
        assert_int_equal(whole.len, open.len);
        assert_memory_equal(whole.bytes, open.bytes, whole.len);
        free(whole.bytes);
        free(open.bytes);
    }
}

static void templates_are_found_by_name(void **state)
{
    size_t n = 0;
    (void)state;

    for (; chat_template_at(n); n++) {
        assert_ptr_equal(chat_template_find(chat_template_at(n)->name), chat_template_at(n));
        assert_true(strlen(chat_template_at(n)->about) > 0);
    }
    assert_int_equal(n, 3);
    assert_null(chat_template_find("jinja"));
    assert_string_equal(chat_template_find("chatml")->stop[0], "<|im_end|>");
    assert_string_equal(chat_template_find("rwkv-world")->stop[0], "\n\nUser:");
    assert_null(chat_template_find("plain")->stop[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_format_is_as_its_models_were_trained),
        cmocka_unit_test(a_rendering_is_the_rendering_of_its_parts),
        cmocka_unit_test(an_open_answer_becomes_its_message_when_closed),
        cmocka_unit_test(templates_are_found_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
