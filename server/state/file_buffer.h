/* file_buffer.h - memory that files are read into, one after the other.
 *
 * Fresh memory costs more than reading a cached file does: a page fault for every 4 KiB. So
 * whoever reads states keeps a buffer and uses it again. Zeroed storage is an empty one. One
 * thread at a time. */
#ifndef SERVER_STATE_FILE_BUFFER_H
#define SERVER_STATE_FILE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct error;

struct file_buffer {
    unsigned char *bytes; /* page-aligned */
    size_t len;           /* of the file in it */
    size_t room;          /* a multiple of the page size */
};

/* Room for a file of len bytes, which is then the buffer's; what was in it is lost. ERR_NOMEM. */
bool file_buffer_begin(struct file_buffer *b, size_t len, struct error *err);
void file_buffer_finish(struct file_buffer *b); /* empty again */

#endif
