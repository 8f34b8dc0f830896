/* fuzz_json_scan.c - what the scan lets through, cJSON must be able to hold; what it lets
 * through under narrow bounds, it lets through under wide ones. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "config/error.h"
#include "config/json_scan.h"
#include "weights/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* cJSON has a bound of its own on the length of a number. */
static int holds_long_number(const char *text, size_t len)
{
    size_t run = 0;

    for (size_t i = 0; i < len; i++) {
        run = text[i] && strchr("0123456789+-.eE", text[i]) ? run + 1 : 0;
        if (run >= 60)
            return 1;
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct json_bounds narrow = { .max_depth = 32, .max_values = 1000 };
    static const struct json_bounds wide = { .max_depth = JSON_SCAN_DEPTH, .max_values = SIZE_MAX };
    const char *text = (const char *)data;
    struct error err = { 0 };
    bool ok = json_scan(text, size, &wide, &err) == JSON_OK;

    if (json_scan(text, size, &narrow, &err) == JSON_OK && !ok)
        abort();
    if (ok) {
        cJSON *tree = cJSON_ParseWithLength(text, size);

        if (!tree && !holds_long_number(text, size))
            abort();
        cJSON_Delete(tree);
    }
    model_config_close(model_config_parse(text, size, "input", &err));
    return 0;
}
