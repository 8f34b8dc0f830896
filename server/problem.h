/* problem.h - every way in which a request is refused: one table, one object.
 *
 * The HTTP floor, the API and the engine all answer with a struct problem; only
 * server/http writes it to a socket, as
 * {"error":{"message","type","param","code"}}. Any thread; owned by its caller. */
#ifndef SERVER_PROBLEM_H
#define SERVER_PROBLEM_H

#include <stdbool.h>

#include "config/error.h"

/* name, HTTP status, OpenAI error type, code, may a client retry it by itself */
#define PROBLEM_TABLE(X)                                                                           \
    X(BAD_REQUEST, 400, "invalid_request_error", "bad_request", false)                             \
    X(MISSING_HOST, 400, "invalid_request_error", "missing_host", false)                           \
    X(DUPLICATE_HOST, 400, "invalid_request_error", "duplicate_host", false)                       \
    X(INCOMPLETE_BODY, 400, "invalid_request_error", "incomplete_body", false)                     \
    X(INVALID_JSON, 400, "invalid_request_error", "invalid_json", false)                           \
    X(INVALID_UTF8, 400, "invalid_request_error", "invalid_utf8", false)                           \
    X(DUPLICATE_KEY, 400, "invalid_request_error", "duplicate_key", false)                         \
    X(JSON_TOO_DEEP, 400, "invalid_request_error", "json_too_deep", false)                         \
    X(JSON_TOO_COMPLEX, 400, "invalid_request_error", "json_too_complex", false)                   \
    X(INVALID_PARAMETER, 400, "invalid_request_error", "invalid_parameter", false)                 \
    X(MISSING_PARAMETER, 400, "invalid_request_error", "missing_parameter", false)                 \
    X(UNKNOWN_FIELD, 400, "invalid_request_error", "unknown_field", false)                         \
    X(PROMPT_TOO_LONG, 400, "invalid_request_error", "prompt_too_long", false)                     \
    X(SNAPSHOT_INVALID, 400, "invalid_request_error", "snapshot_invalid", false)                   \
    X(SNAPSHOT_CHECKSUM, 400, "invalid_request_error", "snapshot_checksum", false)                 \
    X(SNAPSHOT_SHAPE, 400, "invalid_request_error", "snapshot_shape", false)                       \
    X(SNAPSHOT_NOT_FINITE, 400, "invalid_request_error", "state_not_finite", false)                \
    X(API_KEY, 401, "invalid_request_error", "invalid_api_key", false)                             \
    X(SNAPSHOT_SEAL, 403, "permission_error", "snapshot_seal", false)                              \
    X(SNAPSHOT_UNSEALED, 403, "permission_error", "snapshot_unsealed", false)                      \
    X(SNAPSHOT_OWNER, 403, "permission_error", "snapshot_wrong_owner", false)                      \
    X(ORIGIN, 403, "permission_error", "origin_not_allowed", false)                                \
    X(HOST, 403, "permission_error", "host_not_allowed", false)                                    \
    X(NOT_FOUND, 404, "invalid_request_error", "not_found", false)                                 \
    X(MODEL_NOT_FOUND, 404, "invalid_request_error", "model_not_found", false)                     \
    X(SESSION_NOT_FOUND, 404, "invalid_request_error", "session_not_found", false)                 \
    X(SNAPSHOT_NOT_FOUND, 404, "invalid_request_error", "snapshot_not_found", false)               \
    X(METHOD_NOT_ALLOWED, 405, "invalid_request_error", "method_not_allowed", false)               \
    X(REQUEST_TIMEOUT, 408, "invalid_request_error", "request_timeout", false)                     \
    X(SESSION_BUSY, 409, "conflict_error", "session_busy", false)                                  \
    X(SESSION_MOVED, 409, "conflict_error", "session_moved", true)                                 \
    X(SESSION_EXISTS, 409, "conflict_error", "session_exists", false)                              \
    X(REPEAT_RUNS, 409, "conflict_error", "idempotency_key_in_use", true)                          \
    X(ANSWER_GONE, 409, "conflict_error", "idempotency_answer_gone", false)                        \
    X(STATE_DAMAGED, 410, "server_error", "state_damaged", false)                                  \
    X(VERSION_MISMATCH, 412, "conflict_error", "version_mismatch", false)                          \
    X(PAYLOAD_TOO_LARGE, 413, "invalid_request_error", "payload_too_large", false)                 \
    X(CHUNK_EXTENSION, 413, "invalid_request_error", "chunk_extension_too_large", false)           \
    X(URI_TOO_LONG, 414, "invalid_request_error", "uri_too_long", false)                           \
    X(MEDIA_TYPE, 415, "invalid_request_error", "unsupported_media_type", false)                   \
    X(CONTENT_ENCODING, 415, "invalid_request_error", "unsupported_content_encoding", false)       \
    X(SNAPSHOT_VERSION, 422, "invalid_request_error", "unsupported_version", false)                \
    X(MODEL_MISMATCH, 422, "invalid_request_error", "model_mismatch", false)                       \
    X(NUMBERS_MISMATCH, 422, "invalid_request_error", "model_mismatch", false)                     \
    X(STATE_NOT_FINITE, 422, "invalid_request_error", "state_not_finite", false)                   \
    X(KEY_REUSED, 422, "invalid_request_error", "idempotency_key_reused", false)                   \
    X(HISTORY, 422, "invalid_request_error", "history_unreachable", false)                         \
    X(NO_CHAT_TEMPLATE, 422, "invalid_request_error", "no_chat_template", false)                   \
    X(HEADERS_TOO_LARGE, 431, "invalid_request_error", "header_fields_too_large", false)           \
    X(SLOW_READER, 499, "invalid_request_error", "slow_reader", false)                             \
    X(QUEUE_FULL, 429, "rate_limit_error", "queue_full", true)                                     \
    X(SESSION_QUOTA, 429, "rate_limit_error", "session_quota", false)                              \
    X(SNAPSHOT_QUOTA, 429, "rate_limit_error", "snapshot_quota", false)                            \
    X(INTERNAL, 500, "server_error", "internal_error", false)                                      \
    X(STORAGE_ERROR, 500, "server_error", "storage_error", false)                                  \
    X(DEVICE_ERROR, 500, "server_error", "device_error", false)                                    \
    X(CANCELLED, 500, "server_error", "cancelled", false)                                          \
    X(TRANSFER_ENCODING, 501, "invalid_request_error", "unsupported_transfer_encoding", false)     \
    X(OUT_OF_MEMORY, 503, "server_error", "out_of_memory", true)                                   \
    X(NO_SLOT, 503, "server_error", "no_slot", true)                                               \
    X(STORE_AWAY, 503, "server_error", "store_unavailable", true)                                  \
    X(LOADING, 503, "server_error", "loading", true)                                               \
    X(SHUTTING_DOWN, 503, "server_error", "shutting_down", true)                                   \
    X(TOO_MANY_CONNECTIONS, 503, "server_error", "too_many_connections", true)                     \
    X(TOO_MANY_TRANSFERS, 503, "server_error", "too_many_transfers", true)                         \
    X(DEADLINE, 504, "server_error", "deadline_exceeded", false)                                   \
    X(HTTP_VERSION, 505, "invalid_request_error", "http_version_not_supported", false)             \
    X(STATE_QUOTA, 507, "server_error", "state_quota", false)                                      \
    X(STORAGE_FULL, 507, "server_error", "insufficient_storage", false)

enum problem_code {
    PROBLEM_NONE,
#define PROBLEM_ENUM(name, status, type, code, retry) PROBLEM_##name,
    PROBLEM_TABLE(PROBLEM_ENUM)
#undef PROBLEM_ENUM
        PROBLEM_COUNT
};

struct problem {
    enum problem_code what;
    char param[64]; /* the field at fault, or "" for null */
    char message[320];
};

struct problem_row {
    int status;
    const char *type, *code;
    bool retry;
};

/* what is neither PROBLEM_NONE nor PROBLEM_COUNT. */
const struct problem_row *problem_row(enum problem_code what);

/* Fills *p and returns false. param may be NULL. */
bool problem_set(struct problem *p, enum problem_code what, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Says more at the end of the message: what can be done about it, where that is known. */
void problem_add(struct problem *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The consequence of a lower floor's error. */
bool problem_from_error(struct problem *p, const struct error *err);

#endif
