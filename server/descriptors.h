/* descriptors.h - the files that the system lets this process have open: connections, and the
 * others.
 *
 * A connection that took the last one would be one too many: a session whose state is on the disk
 * could not be read. Start-up only. */
#ifndef SERVER_DESCRIPTORS_H
#define SERVER_DESCRIPTORS_H

enum { DESCRIPTORS_OTHERS = 512 }; /* the store's, devices', of connections that are turned away */

/* Raises the limit of this process, as far as it may, to so many connections beside the others.
 * Returns how many there may be: at most so many, and at least one. */
int descriptors_provide(int connections);

#endif
