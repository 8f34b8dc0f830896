/* chat_template.c - chatml, rwkv-world and plain.
 *
 * A template writes each message by itself and never looks at its neighbours: that is what
 * makes a rendering a prefix of every longer one. */
#include "models/text/chat_template.h"

#include <string.h>

#include "models/text/text_buffer.h"

static bool append(struct text_buffer *out, const char *text)
{
    return text_buffer_append(out, text, strlen(text));
}

/* OpenAI's markers, as Qwen and many fine-tunes use them. */
static bool render_chatml(const struct chat_message *messages, size_t n, bool closing, bool opening,
                          struct text_buffer *out)
{
    static const char *const roles[] = {
        [CHAT_SYSTEM] = "system", [CHAT_USER] = "user", [CHAT_ASSISTANT] = "assistant"
    };
    bool ok = !closing || append(out, "<|im_end|>\n");

    for (size_t i = 0; i < n && ok; i++)
        ok = append(out, "<|im_start|>") && append(out, roles[messages[i].role]) &&
             append(out, "\n") && text_buffer_append(out, messages[i].text, messages[i].len) &&
             append(out, "<|im_end|>\n");
    return ok && (!opening || append(out, "<|im_start|>assistant\n"));
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A blank line would end the turn: line ends become \n and runs of them one, as RWKV's own
 * chat does with what a user writes. */
static bool append_folded(struct text_buffer *out, const char *text, size_t len)
{
    char last = 0, c;

    if (!text_buffer_reserve(out, len))
        return false;
    for (size_t i = 0; i < len; i++) {
        c = text[i];
        if (c == '\r' && i + 1 < len && text[i + 1] == '\n')
            continue;
        if (c != '\n' || last != '\n')
            out->bytes[out->len++] = c;
        last = c;
    }
    return true;
}

/* "User: text", a blank line. The model writes the space after "Assistant:" itself, so it is
 * part of the answer and not of what opens one. */
static bool render_rwkv_world(const struct chat_message *messages, size_t n, bool closing,
                              bool opening, struct text_buffer *out)
{
    static const char *const names[] = {
        [CHAT_SYSTEM] = "System:", [CHAT_USER] = "User:", [CHAT_ASSISTANT] = "Assistant:"
    };
    bool ok = !closing || append(out, "\n\n");

    for (size_t i = 0; i < n && ok; i++) {
        const char *text = messages[i].text;
        size_t len = messages[i].len;

        while (len > 0 && is_blank(*text))
            text++, len--;
        while (len > 0 && is_blank(text[len - 1]))
            len--;
        ok = append(out, names[messages[i].role]) && append(out, len ? " " : "") &&
             (messages[i].role == CHAT_ASSISTANT ? text_buffer_append(out, text, len)
                                                 : append_folded(out, text, len)) &&
             append(out, "\n\n");
    }
    return ok && (!opening || append(out, "Assistant:"));
}

static bool render_plain(const struct chat_message *messages, size_t n, bool closing, bool opening,
                         struct text_buffer *out)
{
    bool ok = !closing || append(out, "\n");

    (void)opening;
    for (size_t i = 0; i < n && ok; i++)
        ok = text_buffer_append(out, messages[i].text, messages[i].len) && append(out, "\n");
    return ok;
}

static const struct chat_template templates[] = {
    { .name = "chatml",
      .about = "<|im_start|>role, text, <|im_end|>",
      .stop = { "<|im_end|>" },
      .render = render_chatml },
    { .name = "rwkv-world",
      .about = "User: text and Assistant: text, a blank line between",
      .stop = { "\n\nUser:" },
      .render = render_rwkv_world },
    { .name = "plain",
      .about = "the texts one after the other, a line end after each; for base models",
      .render = render_plain },
};

const struct chat_template *chat_template_find(const char *name)
{
    for (size_t i = 0; i < sizeof(templates) / sizeof(*templates); i++) {
        if (strcmp(templates[i].name, name) == 0)
            return &templates[i];
    }
    return NULL;
}

const struct chat_template *chat_template_at(size_t i)
{
    return i < sizeof(templates) / sizeof(*templates) ? &templates[i] : NULL;
}
