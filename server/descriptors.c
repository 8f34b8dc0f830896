#include "server/descriptors.h"

#include <sys/resource.h>

/* Beside the others; where there are few in all, half of them. */
static rlim_t room(rlim_t files)
{
    return files > 2 * DESCRIPTORS_OTHERS ? files - DESCRIPTORS_OTHERS : files / 2;
}

int descriptors_provide(int connections)
{
    const rlim_t wanted = (rlim_t)connections + DESCRIPTORS_OTHERS;
    struct rlimit files, raised;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return connections;
    raised = files;
    raised.rlim_cur = wanted < files.rlim_max ? wanted : files.rlim_max;
    if (files.rlim_cur < raised.rlim_cur && setrlimit(RLIMIT_NOFILE, &raised) == 0)
        files = raised;
    if (files.rlim_cur >= wanted)
        return connections;
    if (room(files.rlim_cur) < (rlim_t)connections)
        connections = (int)room(files.rlim_cur);
    return connections > 0 ? connections : 1;
}
