/* health.c - eddy health: asks a running server whether it is well, for container checks. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "config/options.h"
#include "server/cli/cli.h"

enum { TIMEOUT_SECONDS = 5 };

static int connect_to(const char *host, int port)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
    const struct timeval timeout = { .tv_sec = TIMEOUT_SECONDS };
    struct addrinfo *found;
    char service[16];
    int fd;

    snprintf(service, sizeof(service), "%d", port);
    if (getaddrinfo(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, service, &hints, &found))
        return -1;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)); /* connect's too */
        if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd;
}

int cli_health(const struct options *o)
{
    static const char request[] =
        "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    static const char fine[] = "HTTP/1.1 200 ";
    char answer[sizeof(fine)];
    size_t got = 0;
    ssize_t n = 1;
    int fd = connect_to(o->host, o->port);

    if (fd < 0) {
        fprintf(stderr, "eddy: nothing answers on %s port %d\n", o->host, o->port);
        return EXIT_FAILURE;
    }
    if (write(fd, request, sizeof(request) - 1) != (ssize_t)sizeof(request) - 1)
        n = 0;
    while (n > 0 && got < sizeof(fine) - 1) {
        n = read(fd, answer + got, sizeof(fine) - 1 - got);
        got += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    if (got == sizeof(fine) - 1 && memcmp(answer, fine, got) == 0)
        return EXIT_SUCCESS;
    fprintf(stderr, "eddy: the server on %s port %d is not well\n", o->host, o->port);
    return EXIT_FAILURE;
}
