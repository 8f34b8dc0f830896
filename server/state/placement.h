/* placement.h - on which device a turn works.
 *
 * Every device waits for the one whose step takes the longest, so turns go where the fewest
 * run. But a state that lies on another device has to be copied through host memory: its bytes
 * cross a bus twice, at about 50 GB/s, where each step of a turn crosses the device's memory with
 * them twice, at about 3 TB/s. So a copy costs what 64 steps of one more turn cost, whatever the
 * model; for turns of 16 tokens, that is a lead of 4 turns. Where no slot is free another state
 * goes down and comes up again when it is wanted, which costs the same. Among equals the one
 * with the most free slots is taken. */
#ifndef SERVER_STATE_PLACEMENT_H
#define SERVER_STATE_PLACEMENT_H

/* The slots of one device, by what they are used for now. */
struct placement {
    int worked;   /* a turn works in it */
    int resident; /* a checkpoint's, which can make room */
    int free;
};

/* most: turns that may work on one device. home: the device that has the state to start from; -1:
 * none has. skip: a bit for each device that is not asked. -1: no device has a slot. */
int placement_choose(const struct placement *device, int devices, int most, int home,
                     unsigned skip);

#endif
