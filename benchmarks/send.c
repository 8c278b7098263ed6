/* The reference: what the kernel asks for sending one block to N connections, and nothing else.
 *
 * send          prints the port it listens on, 127.0.0.1
 *
 * Answers whatever it is asked with the head of an event stream and one block, then holds the connection. For each
 * line "run MILLISECONDS COUNT SIZE" on stdin it sends COUNT blocks of SIZE bytes to all of them, one each
 * MILLISECONDS, with a plain send() for each connection, and prints "done NUMBER": of the last block, counted from its
 * start. The end of stdin ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 20000
static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                           "Connection: close\r\n\r\nevent: hello\ndata: {}\n\n";
static int viewers[MOST], count, epoll, listener;
static long number;

static void take(void) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
}

static void drop(int fd) {
    for (int i = 0; i < count; i++)
        if (viewers[i] == fd)
            viewers[i] = viewers[--count];
    close(fd);
}

static void asked(int fd) {
    char buffer[4096];
    ssize_t size = recv(fd, buffer, sizeof buffer, 0);
    if (size <= 0) {
        drop(fd);
    } else if (count < MOST) {
        send(fd, head, sizeof head - 1, MSG_NOSIGNAL);
        viewers[count++] = fd;
    }
}

static void run(long interval, long rounds, int size) {
    char block[4096];
    struct timespec next, t;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (long round = 0; round < rounds; round++) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        memset(block, 'x', sizeof block);
        int used = snprintf(block, sizeof block, "data: @%lld%09ld:%ld@", (long long)t.tv_sec, t.tv_nsec, ++number);
        block[used] = 'x';
        memcpy(block + size - 2, "\n\n", 2);
        for (int i = 0; i < count; i++)
            send(viewers[i], block, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
        next.tv_nsec += interval * 1000000;
        next.tv_sec += next.tv_nsec / 1000000000;
        next.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
    printf("done %ld\n", number);
    fflush(stdout);
}

int main(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t length = sizeof at;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 4096) < 0) {
        perror("send: listen");
        return 1;
    }
    getsockname(listener, (struct sockaddr *)&at, &length);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    setvbuf(stdin, NULL, _IONBF, 0);
    epoll = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = 0}, events[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &e);
    e.data.fd = listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                take();
            } else if (fd == 0) {
                char line[128];
                long interval, rounds;
                int size;
                if (!fgets(line, sizeof line, stdin))
                    return 0;
                if (sscanf(line, "run %ld %ld %d", &interval, &rounds, &size) == 3 && size > 64 && size < 4096)
                    run(interval, rounds, size);
            } else {
                asked(fd);
            }
        }
    }
}
