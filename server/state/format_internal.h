/* format_internal.h - the header of a checkpoint's file and the number formats of its record,
 * for the files of server/state/ that read and write it. */
#ifndef SERVER_STATE_FORMAT_INTERNAL_H
#define SERVER_STATE_FORMAT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "models/model.h"
#include "server/state/format.h"

enum { HEADER_BYTES = FORMAT_FRONT_BYTES };

/* Exactly the bytes of the table in format.h: every member lies at its natural alignment. */
struct header {
    char magic[8];
    uint32_t version, header_len;
    uint64_t file_len, description_len, tokens_len, record_len;
    uint64_t layout;
    uint8_t fingerprint[16];
    uint64_t position, seed;
    int32_t pending, stop;
    uint32_t flags, tail_len;
    uint32_t numbers;
    uint16_t marks_len, anchors;
    uint8_t checksum[16];
};

_Static_assert(sizeof(struct header) == HEADER_BYTES, "no padding");

/* The lowest byte of `numbers`; in NUMBERS_MIXED the bytes of float32 at the record's front stand
 * above it, in units. */
enum { NUMBERS_F32 = 0, NUMBERS_BF16 = 1, NUMBERS_MIXED = 2, NUMBERS_UNIT = 64 };

/* Checksums and writes the header; everything behind it is there. */
void format_finish_header(struct header *h, unsigned char *file, size_t len);

/* As a server keeps them that has this layout. */
uint32_t format_numbers_of(const struct state_layout *layout);
const char *format_numbers_name(uint32_t numbers); /* "F32", for people */
/* Whether they are ones, and fit the record's length. */
bool format_numbers_fit(const struct header *h);
/* Of the record. They fit. */
uint64_t format_f32_bytes(const struct header *h);
/* The same fields with the large ones in the other format. */
struct state_layout format_other_layout(const struct state_layout *layout);

#endif
