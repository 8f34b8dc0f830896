/* code_point.h - one character of UTF-8, as the Unicode standard (3.9, table 3-7) defines it. Any
 * thread. */
#ifndef CONFIG_CODE_POINT_H
#define CONFIG_CODE_POINT_H

#include <stddef.h>
#include <stdint.h>

/* The length of the character that n bytes begin with, and its code point; 0: none does. */
size_t code_point_read(const char *text, size_t n, uint32_t *code);

#endif
