/* model_config.h - typed, bounded reading of a model folder's JSON files.
 *
 * config.json as it is found in the wild: a key may have several spellings ("hidden_size"
 * and "d_model"), numbers may be written Infinity (Python) or {"__float__":"Infinity"}
 * (newer transformers). Also used for generation_config.json and tokenizer_config.json.
 *
 * `keys` is a list of spellings separated by '|', the first one present wins; a key with
 * dots goes into objects ("ssm_cfg.d_state"). A key that is absent or null leaves *out as it
 * is and is no error: set the default first, and ask model_config_has() where a key is
 * required. A present key of a wrong type or outside [lo, hi] is ERR_FORMAT and names the
 * key, the file and the bounds. Any one thread at a time. */
#ifndef WEIGHTS_MODEL_CONFIG_H
#define WEIGHTS_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct model_config;

/* NULL and ERR_IO when the file is missing, ERR_FORMAT when it is not strict JSON (the
 * infinities aside) or not an object. */
struct model_config *model_config_open(const char *file, struct error *err);
/* The same from memory; `name` stands in the messages. */
struct model_config *model_config_parse(const char *text, size_t len, const char *name,
                                        struct error *err);
void model_config_close(struct model_config *c);

bool model_config_has(const struct model_config *c, const char *keys);
bool model_config_int(const struct model_config *c, const char *keys, int64_t lo, int64_t hi,
                      int64_t *out, struct error *err);
bool model_config_number(const struct model_config *c, const char *keys, double lo, double hi,
                         double *out, struct error *err);
/* Exactly n numbers, infinities allowed. */
bool model_config_numbers(const struct model_config *c, const char *keys, int n, double *out,
                          struct error *err);
bool model_config_bool(const struct model_config *c, const char *keys, bool *out,
                       struct error *err);
/* Borrowed until close. */
bool model_config_string(const struct model_config *c, const char *keys, const char **out,
                         struct error *err);
/* A whole number or a list of them (eos_token_id has both forms in the wild). Writes at most
 * max; *count is the number written; more than max is ERR_FORMAT. */
bool model_config_ints(const struct model_config *c, const char *keys, int64_t lo, int64_t hi,
                       int max, int64_t *out, int *count, struct error *err);

#endif
