#include "config/limits.h"

void limits_print(FILE *out)
{
#define LIMIT_PRINT(name, value, about) fprintf(out, "%-25s %9d  %s\n", #name, (value), about);
    LIMITS_TABLE(LIMIT_PRINT)
#undef LIMIT_PRINT
}
