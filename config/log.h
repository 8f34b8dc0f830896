/* log.h - lines on stderr; only server/ calls it.
 *
 * One line an event: a short name, then key=value pairs that the caller formats, as text or
 * as a JSON object. Everything is escaped: no byte of a client reaches the terminal raw. What is
 * no UTF-8 becomes U+FFFD. A value is cut at 128 bytes, for it may be a client's; a note, which is
 * a message of ours, at 512; and a line at 4,096. All three end in a whole character. Prompts are
 * never logged. Any thread. */
#ifndef CONFIG_LOG_H
#define CONFIG_LOG_H

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_configure(enum log_level least, bool json);

/* log_line(LOG_INFO, "listening", "host", "127.0.0.1", "port", "8080", NULL): pairs of
 * strings, ended by NULL. */
void log_line(enum log_level level, const char *event, ...) __attribute__((sentinel));

/* log_note(LOG_WARN, "snapshot", "%s is damaged", id): one formatted message. */
void log_note(enum log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
