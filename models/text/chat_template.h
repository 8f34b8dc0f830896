/* chat_template.h - the built-in chat formats, chosen by name.
 *
 * chatml, rwkv-world and plain. Each renders a list of messages so that the rendering of
 * messages[0..n] is a prefix of that of messages[0..n+1]: a session can be fed the new
 * messages alone. Any thread. */
#ifndef MODELS_TEXT_CHAT_TEMPLATE_H
#define MODELS_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "models/text/detokenizer.h"

struct error;

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };

struct chat_message {
    enum chat_role role;
    const char *text; /* borrowed, UTF-8 */
    size_t len;
};

struct chat_template {
    const char *name;
    const char *about;   /* one line for --help */
    const char *stop[3]; /* stop strings that end an assistant's turn, NULL-terminated */
    /* Appends n messages. closing: an assistant's answer is open, end it first. opening: also
     * write what starts the next answer. rendering(a, then b) equals rendering(a + b) when
     * the answer between is a message of b or stands open. false when memory ran out. */
    bool (*render)(const struct chat_message *messages, size_t n, bool closing, bool opening,
                   struct text_buffer *out);
};

/* NULL when there is no such template. */
const struct chat_template *chat_template_find(const char *name);
/* The i-th template, NULL past the end. */
const struct chat_template *chat_template_at(size_t i);

#endif
