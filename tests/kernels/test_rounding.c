/* What the rounding of bf16 states promises: it is unbiased, and depends on nothing but the
 * position and the place. */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/dtype.h"
#include "kernels/rounding.h"

static uint16_t round_at(float x, uint32_t position, uint32_t place)
{
    const uint32_t bits = rounding_bits(rounding_key(position), place / 2);

    return round_to_bf16(x, place % 2 ? bits >> 16 : bits & 0xffffu);
}

static float from_bits(uint32_t u)
{
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

/* A mean of n steps between two neighbours lies within 6 / (2 sqrt(n)) of a step of the number,
 * but for a chance of 1e-8; over positions of one place, and over places at one position. */
static void the_mean_over_many_roundings_is_the_number(void **state)
{
    enum { N = 1 << 16 };

    (void)state;
    for (int k = 0; k < 60; k++) {
        const float x = (float)(check_uniform(-1, 1) * pow(2, check_int(-60, 60)));
        const uint16_t down = round_to_bf16(x, 0);
        const double step =
            fabs((double)bf16_to_f32((uint16_t)(down + 1)) - (double)bf16_to_f32(down));
        const uint32_t fixed = (uint32_t)check_int(0, 1 << 30), first = (uint32_t)check_int(0, 1e6);
        double sum = 0;

        for (uint32_t i = 0; i < N; i++) {
            const uint16_t r =
                k % 2 ? round_at(x, first + i, fixed) : round_at(x, fixed, first + i);

            assert_true(r == down || r == down + 1);
            sum += (double)bf16_to_f32(r) - (double)x;
        }
        if (!(fabs(sum / N) <= 3 * step / sqrt(N)))
            fail_msg("%.9g is %.3g of a step too large on average", (double)x, sum / N / step);
    }
}

/* Of +-1 of the two neighbours: n products have a deviation of sqrt(n). */
static void roundings_of_neighbours_do_not_follow_one_another(void **state)
{
    enum { N = 1 << 16 };
    static const uint32_t apart[] = { 1, 2, 3, 16, 64, 128, 4096, 1 << 20 };
    const float x = 1.0f + 0x1p-8f; /* half way */

    (void)state;
    for (size_t k = 0; k < 2 * sizeof(apart) / sizeof(apart[0]); k++) {
        const uint32_t by = apart[k / 2], position = (uint32_t)check_int(0, 1 << 30);
        int sum = 0;

        for (uint32_t i = 0; i < N; i++) {
            const uint16_t a = round_at(x, position, i);
            const uint16_t b =
                k % 2 ? round_at(x, position + by, i) : round_at(x, position, i + by);

            sum += a == b ? 1 : -1;
        }
        if (abs(sum) > 6 * 256)
            fail_msg("%d of %d agree, %s %u apart", (N + sum) / 2, N,
                     k % 2 ? "positions" : "places", by);
    }
}

static void numbers_that_bf16_has_stay(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 1 << 16; half++) {
        const uint16_t r = round_at(from_bits(half << 16), (uint32_t)check_int(0, 1 << 30), half);
        const bool nan = (half & 0x7fff) > 0x7f80;

        assert_true(nan ? (r & 0x7fff) > 0x7f80 : r == half);
    }
}

static void nothing_finite_becomes_infinite(void **state)
{
    (void)state;
    for (uint32_t sign = 0; sign < 2; sign++) {
        for (uint32_t u = 0x7f7effff; u <= 0x7f800001; u += u < 0x7f7fff00 ? 0xff : 1) {
            const uint16_t r = round_to_bf16(from_bits(u | sign << 31), 0xffff);
            const uint32_t size = r & 0x7fffu;

            assert_int_equal(r >> 15, sign);
            assert_true(u < 0x7f800000    ? size <= 0x7f7f
                        : u == 0x7f800000 ? size == 0x7f80
                                          : size > 0x7f80);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_mean_over_many_roundings_is_the_number),
        cmocka_unit_test(roundings_of_neighbours_do_not_follow_one_another),
        cmocka_unit_test(numbers_that_bf16_has_stay),
        cmocka_unit_test(nothing_finite_becomes_infinite),
    };

    check_seed(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
