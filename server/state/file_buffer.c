#include "server/state/file_buffer.h"

#include <stdint.h>
#include <sys/mman.h>

#include "config/error.h"

/* From half a huge page on a buffer is made of whole ones, where the system lends them. */
enum { PAGE_BYTES = 4096, HUGE_BYTES = 2 * 1024 * 1024 };

static size_t round_up(size_t len)
{
    const size_t unit = len < HUGE_BYTES / 2 ? PAGE_BYTES : HUGE_BYTES;

    return (len + unit - 1) / unit * unit;
}

bool file_buffer_begin(struct file_buffer *b, size_t len, struct error *err)
{
    size_t room = round_up(len);
    void *bytes;

    if (len > SIZE_MAX - HUGE_BYTES)
        return error_set(err, ERR_NOMEM, "no memory for a file of %zu bytes", len);
    if (room > b->room) {
        bytes = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (bytes == MAP_FAILED)
            return error_set(err, ERR_NOMEM, "no memory for a file of %zu bytes", len);
        madvise(bytes, room, MADV_HUGEPAGE); /* without it there are small pages */
        file_buffer_finish(b);
        b->bytes = bytes;
        b->room = room;
    }
    b->len = len;
    return true;
}

void file_buffer_finish(struct file_buffer *b)
{
    if (b->room)
        munmap(b->bytes, b->room);
    *b = (struct file_buffer){ 0 };
}
