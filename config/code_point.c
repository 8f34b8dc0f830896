#include "config/code_point.h"

size_t code_point_read(const char *text, size_t n, uint32_t *code)
{
    static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
    const unsigned char *s = (const unsigned char *)text;
    size_t more;
    uint32_t u;

    if (n == 0 || (s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4)
        return 0;
    more = s[0] >= 0xf0 ? 3 : s[0] >= 0xe0 ? 2 : s[0] >= 0x80 ? 1 : 0;
    u = more ? s[0] & (0x3fu >> more) : s[0];
    if (n <= more)
        return 0;
    for (size_t i = 1; i <= more; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        u = u << 6 | (s[i] & 0x3f);
    }
    if (u < least[more] || u > 0x10ffff || (u >= 0xd800 && u <= 0xdfff))
        return 0;
    *code = u;
    return more + 1;
}
