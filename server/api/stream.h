/* stream.h - a generation's answer as server-sent events.
 *
 * The stream begins with its first event, so that what fails before has a status of its own.
 * Bytes are flushed once per wake-up (api_pump()). A reader that falls behind fills the
 * connection's queue, then `held`; when that is full the turn is cancelled, and the stream ends
 * behind the queue with an event that says so. Loop thread only. */
#ifndef SERVER_API_STREAM_H
#define SERVER_API_STREAM_H

struct event;
struct generation;
struct pending;

void stream_add_text(struct generation *g, int choice, const struct event *e);
void stream_finish_choice(struct generation *g, int choice);
/* Every turn is back: the last chunks and the end. g is gone when the reader took it all. */
void stream_complete(struct generation *g);
void stream_drained(struct pending *p);

#endif
