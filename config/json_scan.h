/* json_scan.h - the strict look at a JSON text before any parser builds a tree from it.
 *
 * One pass, no recursion: UTF-8, grammar (RFC 8259), no NUL raw or escaped, lone surrogates
 * refused, no bytes after the value, depth, number of values, and duplicate keys of one
 * object. cJSON accepts or mangles all of these, so nothing is given to it that did
 * not pass here. Any thread. */
#ifndef CONFIG_JSON_SCAN_H
#define CONFIG_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

struct error;

enum json_fault {
    JSON_OK,
    JSON_INVALID, /* grammar, trailing bytes, NUL */
    JSON_INVALID_UTF8,
    JSON_DUPLICATE_KEY, /* compared after unescaping, within one object */
    JSON_TOO_DEEP,
    JSON_TOO_COMPLEX, /* more values than allowed */
};

struct json_bounds {
    size_t max_depth;  /* containers inside containers; at most JSON_SCAN_DEPTH */
    size_t max_values; /* scalars, containers and keys together */
    bool infinities;   /* also accept the tokens Infinity, -Infinity and NaN, as Python writes */
};

enum { JSON_SCAN_DEPTH = 256 };

/* JSON_OK, or what is wrong, with err->message naming the byte (or the key). err->code is
 * ERR_INPUT, or ERR_NOMEM when the table of keys could not grow (reported as
 * JSON_TOO_COMPLEX). */
enum json_fault json_scan(const char *text, size_t len, const struct json_bounds *bounds,
                          struct error *err);

#endif
