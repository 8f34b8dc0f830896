/* sample.c - what sampling does with every logit of a row, with a vector along the row. */
#include "kernels/cpu/x86/x86.h"

#include <math.h>

enum { RUN = 64 }; /* vectors whose exponentials are summed in float32 */

static float largest(const float *x, int n)
{
    const int whole = n - n % VW;
    vf max = v_set(-INFINITY), refused = v_zero();
    float lane[VW], best = -INFINITY;

    for (int i = 0; i < whole; i += VW) {
        const vf v = v_load(x + i);

        max = v_max(max, v);
        refused = v_add(refused, v_where_greater(v_set(INFINITY), v, v_zero(), v_set(1.0f)));
    }
    if (v_sum(refused) > 0.0f)
        return NAN;
    v_store(lane, max);
    for (int i = 0; i < VW; i++)
        best = lane[i] > best ? lane[i] : best;
    for (int i = whole; i < n; i++) {
        if (!(x[i] < INFINITY))
            return NAN;
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

static double sum_exp(const float *x, int n, float max)
{
    double sum = 0.0;

    for (int first = 0; first < n; first += RUN * VW) {
        const int end = n - first < RUN * VW ? n : first + RUN * VW;
        vf part = v_zero();
        int i = first;

        for (; i + VW <= end; i += VW)
            part = v_add(part, v_exp(v_sub(v_load(x + i), v_set(max))));
        if (i < end) {
            float rest[VW];

            for (int k = 0; k < VW; k++)
                rest[k] = i + k < end ? x[i + k] : -INFINITY;
            part = v_add(part, v_exp(v_sub(v_load(rest), v_set(max))));
        }
        sum += (double)v_sum(part);
    }
    return sum;
}

static vf weight_of(vf z, float best, float temperature)
{
    return v_exp(v_div(v_sub(z, v_set(best)), v_set(temperature)));
}

static void weigh(float *w, const float *z, int n, float best, float temperature)
{
    const int whole = n - n % VW;
    float rest[VW];

    for (int i = 0; i < whole; i += VW)
        v_store(w + i, weight_of(v_load(z + i), best, temperature));
    for (int k = 0; k < VW; k++)
        rest[k] = whole + k < n ? z[whole + k] : best;
    v_store(rest, weight_of(v_load(rest), best, temperature));
    for (int i = whole; i < n; i++)
        w[i] = rest[i - whole];
}

void ISA(sample)(struct stream *q, const struct sample *p)
{
    static const struct sample_loops loops = { .largest = largest,
                                               .sum_exp = sum_exp,
                                               .weigh = weigh };

    sample_with(q, p, &loops);
}
