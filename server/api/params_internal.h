/* params_internal.h - the table machine of params.c, for the request kinds beside it. */
#ifndef SERVER_API_PARAMS_INTERNAL_H
#define SERVER_API_PARAMS_INTERNAL_H

#include <cjson/cJSON.h>

#include "server/api/params.h"

enum param_type {
    PARAM_INT,    /* int */
    PARAM_U64,    /* uint64_t; a JSON number carries 53 bits, so hi is at most 2^53 */
    PARAM_FLOAT,  /* float */
    PARAM_DOUBLE, /* double */
    PARAM_BOOL,   /* bool */
    PARAM_ID,     /* struct id */
    PARAM_READ,   /* by its own function */
    PARAM_IGNORED,
    PARAM_REFUSED, /* would change the answer's meaning: only null or an empty value */
};

struct param {
    const char *key; /* a NULL key ends a table */
    enum param_type type;
    double lo, hi; /* inclusive */
    size_t offset; /* in the target */
    size_t has;    /* of a bool in the target that says "given"; 0: none */
    bool above;    /* lo is exclusive */
    bool (*read)(const cJSON *v, void *target, const struct params_context *c, struct problem *p);
};

#define PARAM_EXACT 9007199254740991.0 /* above it a double stands for several whole numbers */

/* Scans and parses an object. NULL and *p when it is not one. */
cJSON *params_parse(const char *body, size_t len, struct problem *p);

/* The text of one of the object's values in the body that it was parsed from, without the white
 * space between its parts; from malloc. NULL: no memory. */
char *params_text(const cJSON *object, const cJSON *value, const char *body, size_t len);

/* Reads every field of the object by the table into target. */
bool params_read(const cJSON *object, const struct param *table, void *target,
                 const struct params_context *c, struct problem *p);

/* "", [], {} or false: asks for nothing. */
bool params_empty(const cJSON *v);

/* One whole number in bounds; `key` stands in the message. */
bool params_whole(const cJSON *v, const char *key, double lo, double hi, double *out,
                  struct problem *p);

/* Plain decimal digits up to `max`, from `at` to `end`. */
bool params_decimal(const char *at, const char *end, uint64_t max, uint64_t *out);

/* A list of token ids below c->vocab; *id is from malloc. */
bool params_ids(const cJSON *list, const char *key, const struct params_context *c, int32_t **id,
                size_t *count, struct problem *p);

/* `model`, when given, is the served one. */
bool params_read_model(const cJSON *v, void *target, const struct params_context *c,
                       struct problem *p);

/* The `messages` of a chat into a struct generation_params. */
bool params_read_messages(const cJSON *v, void *target, const struct params_context *c,
                          struct problem *p);

bool params_no_memory(struct problem *p);

#endif
