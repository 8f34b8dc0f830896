/* format.h - the file form of a checkpoint (DESIGN section 3).
 *
 *   offset size
 *        0    8  magic "EDDYSTAT"
 *        8    4  format version, 2; 1 is read, too
 *       12    4  header length: the bytes before the description, 128
 *       16    8  length of the file
 *       24    8  length of the description (JSON), at most LIMIT_SNAPSHOT_HEADER_BYTES
 *       32    8  length of the tokens: 4 * the number of known ids, the newest ones of the
 *                  context, at most LIMIT_HISTORY_IDS
 *       40    8  length of the record: a constant of the model, 0 at position 0
 *       48    8  layout id
 *       56   16  model fingerprint
 *       72    8  position
 *       80    8  seed
 *       88    4  pending token, -1 for none
 *       92    4  stop token, -1 for none
 *       96    4  flags: 1 the answer is open
 *      100    4  length of the tail, at most LIMIT_STOP_BYTES
 *      104    4  number format of the record: 0 float32, 1 bfloat16; 2 + 256 n: float32 in its
 *                  first 64 n bytes, bfloat16 behind
 *      108    2  length of the marks: places of the context that can be gone back to
 *      110    2  how many of them are anchors: states of which the store has a file
 *      112   16  XXH3-128 of everything before and after these 16 bytes, as one stream
 *      128       description, marks, tail, tokens (uint32, bit 31: sampled), record
 *
 * A mark, the oldest first, at most LIMIT_HISTORY_MARKS:
 *        0    8  position
 *        8    8  pending and stop token, as above
 *       16    1  flags: 1 the answer is open, 2 an anchor, 4 no turn starts here
 *       17    1  length of the id, 0 unless it is an anchor
 *       18    2  length of the tail
 *       20    4  zero
 *       24       id, tail
 *
 * In version 1 there are no marks: the four bytes are zero.
 *
 * All numbers are little-endian. The lengths must add up to the file's own, and the record's
 * must equal the model's before anything is allocated from it: nothing is ever computed from
 * a size in the file. The description is for people; only the parent's id is read back from it.
 *
 * A server writes what it keeps: float32, or with --state-dtype bf16 the large fields of the
 * record, which come last, as bfloat16. A record that is bfloat16 throughout is half as long, and
 * no server's own. Another format is another state: converting is asked for, never done silently.
 * Any thread. */
#ifndef SERVER_STATE_FORMAT_H
#define SERVER_STATE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/dtype.h"
#include "server/problem.h"

struct checkpoint;
struct error;
struct file_buffer;
struct id;
struct model_info;
struct state_layout;

/* The checkpoint must have its record in host memory, and its newest ids and marks. *file is from
 * malloc. PROBLEM_OUT_OF_MEMORY. */
bool format_encode(const struct checkpoint *c, const struct model_info *model, void **file,
                   size_t *len, struct problem *p);

/* The same in two parts, so that neither a copy of the record nor a wait for its checksum is
 * needed. First everything but these two: the record is to be put into the last
 * model->layout.bytes of the buffer, unless the position is 0. ERR_NOMEM. */
bool format_begin(const struct checkpoint *c, const struct model_info *model,
                  struct file_buffer *out, struct error *err);
void format_finish(struct file_buffer *file); /* the record is there */

/* Proves every byte and gives a checkpoint with its record in host memory, its newest ids and
 * marks, its parent, and an id of its own. A mark that is no anchor has none. vocab: token ids
 * are below it. Refused with snapshot_invalid (magic, lengths, numbers out of range),
 * unsupported_version, snapshot_checksum, snapshot_shape (a record of another length),
 * model_mismatch (fingerprint, layout or number format, both named; the last is
 * PROBLEM_NUMBERS_MISMATCH, about which the caller can say more) or state_not_finite. */
struct checkpoint *format_decode(const void *file, size_t len, const struct model_info *model,
                                 int vocab, struct problem *p);

/* The same with the record in memory that take(from) gives, a record's (record.h). NULL there:
 * PROBLEM_OUT_OF_MEMORY. */
struct checkpoint *format_decode_to(const void *file, size_t len, const struct model_info *model,
                                    int vocab, void *(*take)(void *from), void *from,
                                    struct problem *p);

/* The same without the record, which stays in the file: *record, or NULL at position 0. */
struct checkpoint *format_open(const void *file, size_t len, const struct model_info *model,
                               int vocab, const void **record, struct problem *p);

/* Whether a checkpoint is of this model and number format. */
bool format_is_of(const struct checkpoint *c, const struct model_info *model);
/* Whether format_decode() would take the file of a checkpoint for one of this model and number
 * format: model_mismatch as there, and nothing is read for it. A damaged one is for its reader. */
bool format_fits(const struct checkpoint *c, const struct model_info *model, struct problem *p);

/* What a file says of itself. */
struct format_info {
    uint64_t bytes, position, tokens, turns, record_bytes, layout;
    uint8_t fingerprint[16];
    const char *numbers;     /* their format, for people */
    const char *description; /* in the file; not ended by a NUL */
    size_t description_len;
};

enum { FORMAT_FRONT_BYTES = 128 };

/* Where a file names the states that its head may go back to, which the store then keeps. */
struct format_marks {
    uint64_t at; /* in the file */
    size_t len;
    unsigned anchors;
};
/* Looks into the first FORMAT_FRONT_BYTES of a file. false: it names none. */
bool format_find_marks(const void *front, struct format_marks *marks);
/* Calls seen() for each anchor of the marks' bytes. false: they are damaged. */
bool format_walk_anchors(const void *marks, size_t len,
                         void (*seen)(void *arg, const struct id *id), void *arg);

/* Everything that can be said without the model: lengths, checksum, finite numbers. Refused as
 * by format_decode(). */
bool format_check(const void *file, size_t len, struct format_info *info, struct problem *p);

/* The same state with all its numbers as DTYPE_F32 or DTYPE_BF16, rounded to nearest even: a file
 * of its own, from malloc. The file was checked. layout: its model's, of either format, or NULL:
 * not known. PROBLEM_SNAPSHOT_NOT_FINITE: a number is out of bfloat16's range.
 * PROBLEM_MODEL_MISMATCH: a mixed record is not of this layout. PROBLEM_OUT_OF_MEMORY. */
bool format_convert(const void *file, size_t len, const struct state_layout *layout, enum dtype to,
                    void **out, size_t *out_len, struct problem *p);

/* The same as a server with this layout keeps it, if it is of the layout's model; what is not
 * stays as it is, for format_decode() to refuse. */
bool format_adopt(const void *file, size_t len, const struct state_layout *layout, void **out,
                  size_t *out_len, struct problem *p);

/* The length of a checkpoint's file is at most this. */
size_t format_max_bytes(const struct model_info *model);
/* And that of one that format_adopt() can make the model's. */
size_t format_max_upload_bytes(const struct model_info *model);

#endif
