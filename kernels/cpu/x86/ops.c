/* ops.c - the table of this instruction set. What only moves rows has no twin. */
#include "kernels/cpu/x86/x86.h"

const struct ops ISA_BF16(ops_cpu) = {
    .embed = embed_plain,
    .gather = gather_plain,
    .linear = ISA_BF16(linear),
    .linear_split = linear_split_cpu,
    .join = join_cpu,
    .norm = ISA(norm),
    .gated_norm = ISA(gated_norm),
    .lerp = ISA(lerp),
    .token_shift = ISA(token_shift),
    .short_conv = ISA(short_conv),
    .diagonal_scan = ISA(diagonal_scan),
    .decay_gates = ISA(decay_gates),
    .delta_gates = ISA(delta_gates),
    .matrix_state = ISA(matrix_state),
    .head_output = ISA(head_output),
    .norm_shift = norm_shift_cpu,
    .scan_inputs = scan_inputs_cpu,
    .dt_scan = dt_scan_cpu,
    .scalar_state = scalar_state_cpu,
    .delta_state = delta_state_cpu,
    .sample = ISA(sample),
};
