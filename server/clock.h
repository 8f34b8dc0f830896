/* clock.h - the monotonic clock of the server's deadlines, in seconds. Any thread. */
#ifndef SERVER_CLOCK_H
#define SERVER_CLOCK_H

double clock_seconds(void);

#endif
