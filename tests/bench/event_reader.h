/* event_reader.h - the bytes of one HTTP answer that is an event stream, to its lines. */
#ifndef TESTS_BENCH_EVENT_READER_H
#define TESTS_BENCH_EVENT_READER_H

#include <stdbool.h>
#include <stddef.h>

enum { READER_HEAD_BYTES = 8192, READER_LINE_BYTES = 4096 };

enum reading { READING, READ_WHOLE, READ_WRONG };

struct event_reader {
    void (*take)(void *arg, const char *line); /* each line of the body, without its end */
    void *arg;
    char head[READER_HEAD_BYTES + 1];
    size_t head_len;
    enum { BODY_HEAD, BODY_RAW, BODY_SIZE, BODY_DATA, BODY_DATA_END, BODY_TRAILER, BODY_OVER } at;
    size_t left;                      /* of the chunk */
    bool extension, midline;          /* of a chunk's size; of a trailer */
    char line[READER_LINE_BYTES + 1]; /* longer ones are cut */
    size_t line_len;
};

void event_reader_init(struct event_reader *r, void (*take)(void *arg, const char *line),
                       void *arg);

/* READ_WHOLE: the last chunk was read. READ_WRONG: not a 200, or a head without end. */
enum reading event_reader_add(struct event_reader *r, const char *bytes, size_t n);

/* The connection can carry another request. */
bool event_reader_keeps(const struct event_reader *r);

#endif
