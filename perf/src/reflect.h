// The reflecting backends of the stream meters: on each port they answer over TCP, any number of
// queries a connection, and over UDP (a balancer may choose how it asks them).
#pragma once
#include "measure.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dns.h"

enum {
    LENGTH = 2, // the two octets before each message (RFC 1035, 4.2.2)
    ACCEPT_BATCH = 64,
    DATAGRAM_BATCH = 32,
    BACKLOG = 4096,
    SERVED_IN = 1 << 14,
    SERVED_OUT = 2 * SERVED_IN, // an answer is less than twice its query
};

// What an epoll event points at; the first member of each such thing.
enum kind { LISTENER, DATAGRAMS, SERVED, CLIENT };
struct endpoint {
    enum kind kind;
    int fd;
};

// A connection that a balancer has opened to a backend.
struct served {
    struct endpoint at;
    size_t in_len, out_len, out_done;
    uint8_t in[SERVED_IN], out[SERVED_OUT];
};

static int poller;

static inline struct sockaddr_in loopback(int host, int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)host)};
}

static inline void watch(int operation, struct endpoint *at, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = at};
    epoll_ctl(poller, operation, at->fd, &event);
}

static inline void no_delay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// A socket bound to a loopback port and watched; ends the program on failure.
static inline void open_backend_socket(enum kind kind, int port)
{
    struct endpoint *at = calloc(1, sizeof *at);
    struct sockaddr_in a = loopback(0, port);
    int on = 1, type = kind == LISTENER ? SOCK_STREAM : SOCK_DGRAM;
    if (!at)
        exit(1);
    *at = (struct endpoint){kind, socket(AF_INET, type | SOCK_NONBLOCK, 0)};
    if (kind == LISTENER)
        setsockopt(at->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(at->fd, (void *)&a, sizeof a) || (kind == LISTENER && listen(at->fd, BACKLOG))) {
        perror("backend: bind");
        exit(1);
    }
    watch(EPOLL_CTL_ADD, at, EPOLLIN);
}

static inline void accept_balancer(struct endpoint *listener)
{
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0)
            return;
        struct served *s = malloc(sizeof *s);
        if (!s) {
            close(fd);
            return;
        }
        no_delay(fd);
        s->at = (struct endpoint){SERVED, fd};
        s->in_len = s->out_len = s->out_done = 0;
        watch(EPOLL_CTL_ADD, &s->at, EPOLLIN);
    }
}

static inline void answer_datagrams(struct endpoint *at)
{
    uint8_t m[1500];
    struct sockaddr_in peer;
    for (int i = 0; i < DATAGRAM_BATCH; i++) {
        socklen_t peer_len = sizeof peer;
        ssize_t len = recvfrom(at->fd, m, sizeof m - RECORD, 0, (void *)&peer, &peer_len);
        if (len <= 0)
            return;
        int answer = answer_query(m, (int)len, sizeof m, 3600);
        if (answer)
            (void)!sendto(at->fd, m, (size_t)answer, 0, (void *)&peer, peer_len);
    }
}

// Answers the whole queries that have come into the output; the rest stays. False: no DNS.
static inline bool answer_whole(struct served *s)
{
    size_t at = 0;
    while (s->in_len - at >= LENGTH) {
        size_t len = message_id(s->in + at); // the length is written as an id is
        if (s->in_len - at - LENGTH < len)
            break;
        uint8_t *out = s->out + s->out_len;
        size_t room = SERVED_OUT - s->out_len - LENGTH;
        if (len > SERVED_IN - LENGTH || len + RECORD > room)
            return false;
        memcpy(out + LENGTH, s->in + at + LENGTH, len);
        int answer = answer_query(out + LENGTH, (int)len, (int)room, 3600);
        if (!answer)
            return false;
        set_message_id(out, (uint16_t)answer);
        s->out_len += LENGTH + (size_t)answer;
        at += LENGTH + len;
    }
    memmove(s->in, s->in + at, s->in_len - at);
    s->in_len -= at;
    return true;
}

// Reads, answers and writes one balancer's connection; reads no more while it cannot write.
static inline void serve(struct served *s)
{
    bool pending = s->out_done < s->out_len, open = true;
    if (!pending) {
        ssize_t got = read(s->at.fd, s->in + s->in_len, SERVED_IN - s->in_len);
        if (got < 0 && errno == EAGAIN)
            return;
        s->in_len += got > 0 ? (size_t)got : 0;
        open = got > 0 && answer_whole(s);
    }
    if (open && s->out_done < s->out_len) {
        ssize_t put = write(s->at.fd, s->out + s->out_done, s->out_len - s->out_done);
        open = put >= 0 || errno == EAGAIN;
        s->out_done += put > 0 ? (size_t)put : 0;
    }
    if (!open) {
        close(s->at.fd);
        free(s);
        return;
    }
    if (s->out_done == s->out_len)
        s->out_done = s->out_len = 0;
    if (pending != (s->out_len > 0))
        watch(EPOLL_CTL_MOD, &s->at, s->out_len ? EPOLLOUT : EPOLLIN);
}

// What an event means for anything that is not a client.
static inline void reflect(struct endpoint *at)
{
    switch (at->kind) {
    case LISTENER: accept_balancer(at); break;
    case DATAGRAMS: answer_datagrams(at); break;
    case SERVED: serve((struct served *)at); break;
    case CLIENT: break;
    }
}
