/* Ordinary requests, as many as will go: CONNECTIONS clients in one thread, each asks again when it has its answer.
 *
 * ask PORT PATH CONNECTIONS SECONDS     prints {"answers": n, "errors": n, "seconds": s}
 *
 * A connection is used again when the server keeps it (no "Connection: close"), as a proxy in front would do.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct client {
    int fd;
    size_t used;
    char answer[4096];
};

static char request[512];
static int port, epoll;
static long answers, errors;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void ask(struct client *c) {
    c->used = 0;
    if (send(c->fd, request, strlen(request), MSG_NOSIGNAL) < 0)
        errors++;
}

static void reconnect(struct client *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    to.sin_addr.s_addr = htonl(0x7f000001);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = socket(AF_INET, SOCK_STREAM, 0); /* connecting over loopback takes no time */
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0)
        errors++;
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
    ask(c);
}

/* The head is here, and so is the body: 1 complete, 0 not yet, -1 not a 200. */
static int complete(struct client *c) {
    c->answer[c->used] = 0;
    char *end = strstr(c->answer, "\r\n\r\n"), *length = strcasestr(c->answer, "content-length:");
    if (!end)
        return 0;
    if (strncmp(c->answer + 8, " 200", 4) || !length || length > end)
        return -1;
    return c->used >= (size_t)(end + 4 - c->answer) + (size_t)atol(length + 15);
}

int main(int argc, char **argv) {
    if (argc < 5)
        return 2;
    int n = atoi(argv[3]);
    struct client *clients = calloc((size_t)n, sizeof *clients);
    struct epoll_event events[64];
    port = atoi(argv[1]);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", argv[2], port);
    epoll = epoll_create1(0);
    double begin = now(), until = begin + atof(argv[4]);
    for (int i = 0; i < n; i++) {
        clients[i].fd = -1;
        reconnect(&clients[i]);
    }
    while (now() < until && errors < 100) {
        int ready = epoll_wait(epoll, events, 64, 100);
        for (int i = 0; i < ready; i++) {
            struct client *c = events[i].data.ptr;
            ssize_t size = recv(c->fd, c->answer + c->used, sizeof c->answer - 1 - c->used, 0);
            if (size <= 0) {
                errors += c->used > 0; /* else it was only not kept */
                reconnect(c);
                continue;
            }
            c->used += (size_t)size;
            int done = complete(c);
            if (done < 0)
                errors++;
            if (done) {
                answers += done > 0;
                if (strcasestr(c->answer, "connection: close"))
                    reconnect(c);
                else
                    ask(c);
            }
        }
    }
    printf("{\"answers\": %ld, \"errors\": %ld, \"seconds\": %.4f}\n", answers, errors, now() - begin);
    return 0;
}
