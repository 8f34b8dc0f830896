/* limits.h - every bound of the server that is not an option, in one table.
 *
 * `eddy --print-limits` prints it, the tests read it. A bound that an operator should be
 * able to move is an option instead (config/options.c). Any thread. */
#ifndef CONFIG_LIMITS_H
#define CONFIG_LIMITS_H

#include <stdio.h>

/* name, value, what it bounds */
#define LIMITS_TABLE(X)                                                                            \
    X(HEADER_BYTES, 16 * 1024, "bytes of a request line and its headers; 431")                     \
    X(HEADER_COUNT, 64, "header fields of a request; 431")                                         \
    X(URI_BYTES, 2 * 1024, "bytes of a request target; 414")                                       \
    X(BODY_BYTES, 1024 * 1024, "bytes of a JSON request body; 413")                                \
    X(CHUNK_EXTENSION_BYTES, 4 * 1024, "bytes of chunk extensions of a request; 413")              \
    X(CHUNK_COUNT, 65536, "chunks of a request body; 413")                                         \
    X(TRAILER_BYTES, 2 * 1024, "bytes of trailers, which are ignored; 431")                        \
    X(HEADER_SECONDS, 10, "seconds for a request's headers to arrive; 408")                        \
    X(BODY_GRACE_SECONDS, 5, "seconds before a body's rate is looked at")                          \
    X(BODY_RATE, 1024, "bytes a second that a body must keep after that; 408")                     \
    X(IDLE_SECONDS, 60, "seconds a kept connection may be silent")                                 \
    X(STALL_SECONDS, 30, "seconds a client may take none of what waits for it")                    \
    X(TRANSFER_RATE, 64 * 1024,                                                                    \
      "bytes a second that a transfer must keep while others are refused")                         \
    X(WRITE_QUEUE_BYTES, 256 * 1024, "bytes of a stream on their way to a slow reader")            \
    X(STREAM_BYTES, 1024 * 1024, "bytes of events that wait behind those; then the stream ends")   \
    X(PIPELINE_BYTES, 64 * 1024, "bytes read ahead of the request being answered")                 \
    X(JSON_DEPTH, 32, "containers inside containers in a request; 400")                            \
    X(JSON_VALUES, 65536, "values in a request's JSON; 400")                                       \
    X(PROMPTS, 128, "prompts in one completion request; 400")                                      \
    X(CHOICES, 128, "prompts times n in one completion request; 400")                              \
    X(MESSAGES, 1024, "messages in one chat request; 400")                                         \
    X(STOP_STRINGS, 16, "stop strings of a request; 400")                                          \
    X(STOP_BYTES, 256, "bytes of one stop string; 400")                                            \
    X(STOP_IDS, 32, "stop token ids of a request; 400")                                            \
    X(LOGIT_BIASES, 1024, "entries of logit_bias; 400")                                            \
    X(LOGPROBS, 20, "alternatives reported for a token; 400")                                      \
    X(SCORES, 1024 * 1024,                                                                         \
      "logprobs of prompts in one answer, alternatives and choices counted; 400")                  \
    X(FORKS, 256, "children made by one fork request; 400")                                        \
    X(PENALTY_WINDOW, 1024, "newest tokens that penalties look at")                                \
    X(API_KEYS, 1024, "keys in a key file")                                                        \
    X(API_KEY_BYTES, 256, "bytes of one API key")                                                  \
    X(KEY_FILE_BYTES, 1024 * 1024, "bytes of a key file")                                          \
    X(SECRET_BYTES, 4096, "bytes of a file with a secret")                                         \
    X(HISTORY_TOKENS, 32768, "newest tokens of a session that it can go back over")                \
    X(HISTORY_IDS, 49152, "newest tokens of a session that are known: half as many again")         \
    X(HISTORY_TURNS, 64, "newest turns of a session whose starts are remembered")                  \
    X(HISTORY_MARKS, 80, "places that a state's file says can be gone back to; 400")               \
    X(REPEATS, 1024, "answers kept for one owner to give them again")                              \
    X(REPEAT_BYTES, 8 * 1024 * 1024, "bytes of them")                                              \
    X(REPEAT_SECONDS, 3600, "seconds an answer is kept")                                           \
    X(REPEAT_KEY_BYTES, 255, "bytes of an Idempotency-Key; 400")                                   \
    X(REPEAT_WAITERS, 16, "repeats that wait for a request that runs; 409")                        \
    X(ID_BYTES, 64, "bytes of a session or snapshot id; 400")                                      \
    X(LABEL_BYTES, 256, "bytes of a snapshot's label; 400")                                        \
    X(METADATA_BYTES, 4096, "bytes of a session's metadata; 400")                                  \
    X(VERSION_TAGS, 16, "versions in an If-Match or If-None-Match; 400")                           \
    X(LIST_ITEMS, 1000, "items in one page of a list; 400")                                        \
    X(SNAPSHOT_HEADER_BYTES, 64 * 1024, "bytes of a snapshot file before its state; 422")          \
    X(SAFETENSORS_HEADER_BYTES, 100 * 1000 * 1000, "bytes of a safetensors header")                \
    X(PTH_HEADER_BYTES, 16 * 1024 * 1024, "bytes of a .pth file's directory, and of its pickle")   \
    X(TENSORS, 1000000, "tensors in a model")                                                      \
    X(MODEL_JSON_BYTES, 64 * 1024 * 1024, "bytes of a model's JSON file")                          \
    X(CONFIG_BYTES, 64 * 1024, "bytes of a config file")                                           \
    X(OPTION_BYTES, 1024 * 1024, "bytes of an option's text")

enum limits {
#define LIMIT_ENUM(name, value, about) LIMIT_##name = (value),
    LIMITS_TABLE(LIMIT_ENUM)
#undef LIMIT_ENUM
};

/* One line a limit: NAME VALUE what it bounds. */
void limits_print(FILE *out);

#endif
