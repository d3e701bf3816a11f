// floor: the least that a forwarder of DNS over kernel UDP sockets can do, as the yardstick's
// zero. One thread: recvmmsg, put our id in, sendmmsg; and the same back. No policy, no checks.
//
//   floor -l PORT -u PORT [-n BACKENDS] [-g]
//   floor -l PORT -e
//
// -e answers every query itself, with nothing but QR set: the zero of whatever answers from memory.
// Listens on 127.0.0.1:PORT and spreads over BACKENDS ports from -u on; -g sends a batch to a
// backend as one UDP_SEGMENT datagram. Ids count up: 65536 outstanding, the oldest is overwritten.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dns.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { BATCH = 64, MESSAGE = 1500, BACKENDS_MAX = 16, SOCKET_BUFFER = 4 << 20 };

struct slot {
    struct sockaddr_in client;
    uint16_t id;
    bool used;
};

static struct slot slots[65536];
static uint8_t messages[BATCH][MESSAGE];
static struct sockaddr_in peers[BATCH];
static struct iovec iovecs[BATCH];
static struct mmsghdr batch[BATCH];
static int backends[BACKENDS_MAX], backend_count = 1;
static bool segment, echo;

static int open_socket(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = SOCKET_BUFFER;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void put(int at, uint8_t *message, size_t len, struct sockaddr_in *to)
{
    iovecs[at] = (struct iovec){message, len};
    batch[at].msg_hdr = (struct msghdr){.msg_iov = &iovecs[at], .msg_iovlen = 1, .msg_name = to,
                                        .msg_namelen = to ? sizeof *to : 0};
}

static void send_each(int fd, struct mmsghdr *from, int count)
{
    while (count > 0) {
        int sent = sendmmsg(fd, from, (unsigned)count, 0);
        int done = sent > 0 ? sent : 1; // one that the kernel refuses is lost
        from += done;
        count -= done;
    }
}

// Sends runs of equal length as one datagram each, which the kernel cuts into messages.
static void send_segments(int fd, int count)
{
    static uint8_t joined[BATCH * MESSAGE];
    for (int i = 0; i < count;) {
        size_t len = iovecs[i].iov_len, size = 0;
        int run = i;
        for (; run < count && iovecs[run].iov_len == len; run++, size += len)
            memcpy(joined + size, iovecs[run].iov_base, len);
        char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
        struct iovec whole = {joined, size};
        struct msghdr m = {.msg_iov = &whole, .msg_iovlen = 1, .msg_control = control,
                           .msg_controllen = sizeof control};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        uint16_t each = (uint16_t)len;
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof each);
        memcpy(CMSG_DATA(c), &each, sizeof each);
        (void)!sendmsg(fd, &m, 0);
        i = run;
    }
}

static void forward(int received)
{
    static uint16_t next_id;
    static unsigned turn;
    int count = 0;
    for (int i = 0; i < received; i++) {
        if (batch[i].msg_len < HEADER)
            continue;
        struct slot *slot = &slots[next_id];
        *slot = (struct slot){peers[i], message_id(messages[i]), true};
        set_message_id(messages[i], next_id++);
        put(count++, messages[i], batch[i].msg_len, NULL);
    }
    if (segment && count) {
        send_segments(backends[turn++ % (unsigned)backend_count], count);
        return;
    }
    // Each backend gets an equal part of the batch.
    for (int left = backend_count, at = 0; left > 0; left--) {
        int share = (count - at) / left;
        if (share)
            send_each(backends[turn++ % (unsigned)backend_count], batch + at, share);
        at += share;
    }
}

static void answer(int client_socket, int received)
{
    int count = 0;
    for (int i = 0; i < received; i++) {
        if (batch[i].msg_len < HEADER)
            continue;
        messages[i][2] |= 0x80;
        peers[count] = peers[i];
        put(count, messages[i], batch[i].msg_len, &peers[count]);
        count++;
    }
    send_each(client_socket, batch, count);
}

static void give_back(int client_socket, int received)
{
    int count = 0;
    for (int i = 0; i < received; i++) {
        if (batch[i].msg_len < HEADER)
            continue;
        struct slot *slot = &slots[message_id(messages[i])];
        if (!slot->used)
            continue;
        slot->used = false;
        set_message_id(messages[i], slot->id);
        peers[count] = slot->client; // count <= i: an earlier peer is not needed any more
        put(count, messages[i], batch[i].msg_len, &peers[count]);
        count++;
    }
    send_each(client_socket, batch, count);
}

int main(int argc, char **argv)
{
    int listen_port = 5302, backend_port = 5402;
    for (int o; (o = getopt(argc, argv, "l:u:n:ge")) > 0;) {
        switch (o) {
        case 'l': listen_port = atoi(optarg); break;
        case 'u': backend_port = atoi(optarg); break;
        case 'n': backend_count = atoi(optarg); break;
        case 'g': segment = true; break;
        case 'e': echo = true; break;
        default: return 2;
        }
    }
    if (backend_count < 1 || backend_count > BACKENDS_MAX)
        return 2;
    int epoll = epoll_create1(0), client_socket = open_socket();
    struct sockaddr_in address = loopback(listen_port);
    if (bind(client_socket, (void *)&address, sizeof address)) {
        perror("floor: bind");
        return 1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = client_socket};
    epoll_ctl(epoll, EPOLL_CTL_ADD, client_socket, &event);
    for (int i = 0; i < backend_count; i++) {
        backends[i] = open_socket();
        address = loopback(backend_port + i);
        if (connect(backends[i], (void *)&address, sizeof address)) {
            perror("floor: connect");
            return 1;
        }
        event.data.fd = backends[i];
        epoll_ctl(epoll, EPOLL_CTL_ADD, backends[i], &event);
    }
    for (;;) {
        struct epoll_event ready[BACKENDS_MAX + 1];
        int count = epoll_wait(epoll, ready, BACKENDS_MAX + 1, -1);
        for (int k = 0; k < count; k++) {
            int fd = ready[k].data.fd;
            bool from_client = fd == client_socket;
            for (int i = 0; i < BATCH; i++)
                put(i, messages[i], MESSAGE, from_client ? &peers[i] : NULL);
            int received = recvmmsg(fd, batch, BATCH, MSG_DONTWAIT, NULL);
            if (received <= 0)
                continue;
            if (from_client && echo)
                answer(client_socket, received);
            else if (from_client)
                forward(received);
            else
                give_back(client_socket, received);
        }
    }
}
