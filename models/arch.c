#include "models/arch.h"

struct field arch_state(const struct arch_step *a, int i, int layer)
{
    const struct state_field *f = &a->layout->field[i];

    return (struct field){
        .base = a->records + (f->offset + (size_t)layer * f->layer_bytes) / sizeof(float),
        .stride = a->layout->bytes / sizeof(float),
    };
}

void arch_norm(const struct arch_step *a, float *y, const float *x, const float *weight,
               const float *bias)
{
    const int hidden = a->hyper->dim[HIDDEN];

    a->ops->norm(a->stream, &(struct norm){
                                .kind = a->norm,
                                .y = y,
                                .x = x,
                                .y_ld = (size_t)hidden,
                                .x_ld = (size_t)hidden,
                                .weight = weight,
                                .bias = bias,
                                .T = a->in->T,
                                .dim = hidden,
                                .groups = 1,
                                .eps = a->hyper->number[EPS],
                            });
}

struct linear arch_linear(const struct arch_step *a, float *y, const float *x,
                          const struct matrix *w, const float *bias, enum activation act)
{
    return (struct linear){
        .y = y,
        .x = x,
        .y_ld = (size_t)w->rows,
        .x_ld = (size_t)w->cols,
        .w = w,
        .bias = bias,
        .act = act,
        .T = a->in->T,
    };
}

void arch_product(const struct arch_step *a, float *y, const float *x, const struct matrix *w,
                  const float *bias)
{
    const struct linear p = arch_linear(a, y, x, w, bias, ACT_NONE);

    a->ops->linear(a->stream, &p, 1);
}

void arch_add_product(const struct arch_step *a, const float *y, const struct matrix *w,
                      const float *bias)
{
    struct linear p = arch_linear(a, a->x, y, w, bias, ACT_NONE);

    p.add = true;
    a->ops->linear(a->stream, &p, 1);
}
