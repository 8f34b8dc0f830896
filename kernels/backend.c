/* backend.c - what is the same for every device. */
#include "kernels/backend.h"

void backend_close(struct backend *be)
{
    if (be)
        be->destroy(be);
}
