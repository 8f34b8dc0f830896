/* plain.c - the table of the definitions: every operation in baseline C. It runs on any
 * machine and is what each other table is held to. */
#include "kernels/cpu/cpu.h"

const struct ops ops_cpu_plain = {
    .embed = embed_plain,
    .gather = gather_plain,
    .linear = linear_plain,
    .linear_split = linear_split_cpu,
    .join = join_cpu,
    .norm = norm_plain,
    .gated_norm = gated_norm_plain,
    .lerp = lerp_plain,
    .token_shift = token_shift_plain,
    .short_conv = short_conv_plain,
    .diagonal_scan = diagonal_scan_plain,
    .decay_gates = decay_gates_plain,
    .delta_gates = delta_gates_plain,
    .matrix_state = matrix_state_plain,
    .head_output = head_output_plain,
    .norm_shift = norm_shift_cpu,
    .scan_inputs = scan_inputs_cpu,
    .dt_scan = dt_scan_cpu,
    .scalar_state = scalar_state_cpu,
    .delta_state = delta_state_cpu,
    .sample = sample_plain,
};
