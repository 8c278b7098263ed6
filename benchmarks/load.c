/* The load generator: N viewers of one event stream, in one thread and little CPU.
 *
 * load PORT PATH N [WINDOW [STALLED [SOURCES]]]
 *
 * Connects N viewers to 127.0.0.1:PORT, at most WINDOW of them on their way at any time (0: all at once), from SOURCES
 * addresses of 127.0.0.0/8. A viewer is ready when it has the response head and one block. The first STALLED of them
 * read no more after that. One line of JSON is printed when all are ready or 60 s have gone, and then one for each
 * line on stdin:
 *
 *     mark      forget what was counted          report    print it
 *     quit      end (as does the end of stdin)
 *
 * Blocks are counted by their blank lines, whatever the line ends, chunked or not. A published value carries
 * "@NANOSECONDS:NUMBER@", written by the publisher with the same monotonic clock: a token. It gives the time from
 * publish to receipt and tells which value a viewer is on.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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

enum { NEW, CONNECTING, HEAD, READY, DEAD };

struct viewer {
    int fd, state, stalled;
    int newlines;      /* line ends in a row */
    int token;         /* 0 outside, 1 in its time, 2 in its number */
    uint64_t time, number, last, behind; /* behind: how old its last value was when it came */
    uint32_t blocks, tokens, closed;
};

#define BUCKETS 100000 /* of 20 us: two seconds */
static uint32_t histogram[BUCKETS + 1];
static struct viewer *viewers;
static int n, window, stalled, sources, port, epoll, pending, started, ready;
static uint64_t errors, closed, bytes, slowest;
static char request[512], error_text[128];
static char buffer[1 << 18];

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void lost(struct viewer *v, const char *why) {
    snprintf(error_text, sizeof error_text, "%s: %s", why, errno ? strerror(errno) : "closed by the server");
    if (v->state == CONNECTING || v->state == HEAD) {
        pending--;
        errors++;
    } else {
        closed++;
        ready--;
    }
    v->state = DEAD;
    close(v->fd);
}

static void open_viewer(struct viewer *v, int i) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    struct linger reset = {1, 0};
    int one = 1;
    to.sin_addr.s_addr = htonl(0x7f000001);
    from.sin_addr.s_addr = htonl(0x7f000001u + (uint32_t)(i % sources));
    v->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    v->state = CONNECTING;
    v->stalled = i < stalled;
    pending++;
    if (v->fd < 0) {
        lost(v, "socket");
        return;
    }
    setsockopt(v->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset); /* leave no TIME_WAIT behind */
    setsockopt(v->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (v->stalled) {
        int small = 4096;
        setsockopt(v->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    if (bind(v->fd, (struct sockaddr *)&from, sizeof from) < 0 ||
        (connect(v->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)) {
        lost(v, "connect");
        return;
    }
    struct epoll_event e = {.events = EPOLLOUT, .data.ptr = v};
    epoll_ctl(epoll, EPOLL_CTL_ADD, v->fd, &e);
}

static void connected(struct viewer *v) {
    int failure = 0;
    socklen_t size = sizeof failure;
    getsockopt(v->fd, SOL_SOCKET, SO_ERROR, &failure, &size);
    if (failure) {
        errno = failure;
        lost(v, "connect");
        return;
    }
    if (send(v->fd, request, strlen(request), MSG_NOSIGNAL) < 0) {
        lost(v, "request");
        return;
    }
    v->state = HEAD;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = v};
    epoll_ctl(epoll, EPOLL_CTL_MOD, v->fd, &e);
}

static void token(struct viewer *v, uint64_t at) {
    uint64_t took = at > v->time ? at - v->time : 0, bucket = took / 20000;
    histogram[bucket < BUCKETS ? bucket : BUCKETS]++;
    if (took > slowest)
        slowest = took;
    v->tokens++;
    if (v->number != v->last) {
        v->last = v->number;
        v->behind = took;
    }
}

static void parse(struct viewer *v, const char *data, ssize_t size, uint64_t at) {
    for (ssize_t i = 0; i < size; i++) {
        char c = data[i];
        if (c == '\n') {
            v->newlines++;
            if (v->newlines == 2)
                v->blocks++; /* the first is the response head */
        } else if (c != '\r') {
            v->newlines = 0;
            if (c == '@') {
                if (v->token == 2) {
                    token(v, at);
                    v->token = 0;
                } else {
                    v->token = 1;
                    v->time = v->number = 0;
                }
            } else if (v->token) {
                if (c >= '0' && c <= '9') {
                    uint64_t *to = v->token == 1 ? &v->time : &v->number;
                    *to = *to * 10 + (uint64_t)(c - '0');
                } else {
                    v->token = c == ':' && v->token == 1 ? 2 : 0;
                }
            }
        }
    }
}

static void receive(struct viewer *v) {
    ssize_t size = recv(v->fd, buffer, sizeof buffer, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        if (!size)
            errno = 0;
        lost(v, "receive");
        return;
    }
    bytes += (uint64_t)size;
    if (v->state == HEAD && v->blocks == 0 && size >= 12 && memcmp(buffer + 8, " 200", 4)) {
        snprintf(error_text, sizeof error_text, "answered %.12s", buffer);
        for (char *c = error_text; *c; c++)
            if (*c < ' ' || *c == '"' || *c == '\\')
                *c = '?'; /* it goes into JSON */
        errors++;
        pending--;
        v->state = DEAD;
        close(v->fd);
        return;
    }
    parse(v, buffer, size, now());
    if (v->state == HEAD && v->blocks >= 2) {
        v->state = READY;
        pending--;
        ready++;
        if (v->stalled) {
            struct epoll_event e = {.events = 0, .data.ptr = v};
            epoll_ctl(epoll, EPOLL_CTL_MOD, v->fd, &e);
        }
    }
}

static double quantile(double q) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i <= BUCKETS; i++)
        total += histogram[i];
    for (int i = 0; i <= BUCKETS; i++) {
        seen += histogram[i];
        if (total && (double)seen >= q * (double)total)
            return (i + 1) * 0.02;
    }
    return 0;
}

static void mark(void) {
    memset(histogram, 0, sizeof histogram);
    slowest = bytes = 0;
    for (int i = 0; i < n; i++)
        viewers[i].blocks = viewers[i].tokens = 0;
}

static void report(double seconds) {
    uint64_t blocks = 0, tokens = 0, behind = 0, last = UINT64_MAX;
    uint32_t least = UINT32_MAX, most = 0;
    for (int i = 0; i < n; i++) {
        struct viewer *v = &viewers[i];
        if (v->state != READY || v->stalled)
            continue;
        blocks += v->blocks;
        tokens += v->tokens;
        least = v->blocks < least ? v->blocks : least;
        most = v->blocks > most ? v->blocks : most;
        last = v->last < last ? v->last : last;
        behind = v->behind > behind ? v->behind : behind;
    }
    printf("{\"ready\": %d, \"errors\": %llu, \"error\": \"%s\", \"closed\": %llu, \"seconds\": %.4f, "
           "\"blocks\": %llu, \"tokens\": %llu, \"bytes\": %llu, \"least\": %u, \"most\": %u, "
           "\"last\": %llu, \"behind\": %.2f, \"p50\": %.2f, \"p99\": %.2f, \"max\": %.2f}\n",
           ready, (unsigned long long)errors, error_text, (unsigned long long)closed, seconds,
           (unsigned long long)blocks, (unsigned long long)tokens, (unsigned long long)bytes,
           least == UINT32_MAX ? 0 : least, most, (unsigned long long)(last == UINT64_MAX ? 0 : last),
           (double)behind / 1e6, quantile(.5), quantile(.99), (double)slowest / 1e6);
    fflush(stdout);
}

static int command(void) {
    char line[64];
    if (!fgets(line, sizeof line, stdin) || !strncmp(line, "quit", 4))
        return 0;
    if (!strncmp(line, "mark", 4)) {
        mark();
        printf("{}\n");
        fflush(stdout);
    } else {
        report(0);
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: load PORT PATH N [WINDOW [STALLED [SOURCES]]]\n");
        return 2;
    }
    port = atoi(argv[1]);
    n = atoi(argv[3]);
    window = argc > 4 ? atoi(argv[4]) : 200;
    stalled = argc > 5 ? atoi(argv[5]) : 0;
    sources = argc > 6 ? atoi(argv[6]) : 50;
    window = window ? window : n;
    snprintf(request, sizeof request,
             "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n", argv[2], port);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdin, NULL, _IONBF, 0); /* what is waiting must be seen by epoll, not in a buffer */
    viewers = calloc((size_t)n, sizeof *viewers);
    epoll = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &e);
    uint64_t begin = now();
    int told = 0;
    for (;;) {
        while (started < n && pending < window) {
            open_viewer(&viewers[started], started);
            started++;
        }
        if (!told && ((started == n && !pending) || now() - begin > 60000000000u)) {
            told = 1;
            report((double)(now() - begin) / 1e9);
        }
        int count = epoll_wait(epoll, events, 512, told ? -1 : 100);
        if (told && count < 512) {
            /* Let some more arrive. A wait after each block would have the sender wake this process for each, which
             * no network does, and it is the slower sender that would pay more. */
            struct timespec pause = {0, 1000000};
            nanosleep(&pause, NULL);
        }
        for (int i = 0; i < count; i++) {
            struct viewer *v = events[i].data.ptr;
            if (!v) {
                if (!command())
                    return 0;
            } else if (v->state == CONNECTING) {
                connected(v);
            } else if (v->state == HEAD || v->state == READY) {
                receive(v);
            }
        }
    }
}
