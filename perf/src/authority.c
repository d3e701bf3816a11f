// authority: a name server that is far away. Answers every query with one A record, after a set
// delay, with a lifetime of 10 to 30 s that depends on the name alone.
//
//   authority -l PORT [-d MILLISECONDS]
//
// Listens on 127.0.0.1. All answers wait equally long, so they wait in a queue; when it is full, a
// query is dropped. On SIGUSR1 it prints how many it had, on SIGTERM it ends as well.
#include "measure.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dns.h"

enum { WAITING = 1 << 16, MESSAGE = 512, SOCKET_BUFFER = 8 << 20, TTL_MIN = 10, TTL_SPAN = 21 };

struct answer {
    uint64_t due_ns;
    struct sockaddr_in peer;
    int length;
    uint8_t message[MESSAGE];
};

static struct answer queue[WAITING];
static uint32_t head, tail; // counted on; an answer's place is its number modulo WAITING
static volatile sig_atomic_t stopping, asked;

static void stop(int signal)
{
    (void)signal;
    stopping = 1;
}

static void ask(int signal)
{
    (void)signal;
    asked = 1;
}

static void print_counts(uint64_t queries, uint64_t dropped)
{
    printf("{\"queries\":%llu,\"dropped\":%llu}\n", (unsigned long long)queries, (unsigned long long)dropped);
    fflush(stdout);
}

// FNV-1a over the question without regard to case: the same name always lives equally long.
static uint32_t lifetime(const uint8_t *message, int end)
{
    uint32_t hash = 2166136261u;
    for (int i = HEADER; i < end; i++)
        hash = (hash ^ (message[i] | 0x20)) * 16777619u;
    return TTL_MIN + hash % TTL_SPAN;
}

int main(int argc, char **argv)
{
    int port = 5500, delay_ms = 20, size = SOCKET_BUFFER;
    for (int o; (o = getopt(argc, argv, "l:d:")) > 0;) {
        switch (o) {
        case 'l': port = atoi(optarg); break;
        case 'd': delay_ms = atoi(optarg); break;
        default: return 2;
        }
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    struct sigaction report = {.sa_handler = ask};
    sigaction(SIGUSR1, &report, NULL);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (void *)&address, sizeof address)) {
        perror("authority: bind");
        return 1;
    }
    uint64_t queries = 0, dropped = 0;
    while (!stopping) {
        if (asked) {
            asked = 0;
            print_counts(queries, dropped);
        }
        uint64_t now = now_ns();
        for (; head != tail && queue[head % WAITING].due_ns <= now; head++) {
            struct answer *a = &queue[head % WAITING];
            sendto(fd, a->message, (size_t)a->length, 0, (void *)&a->peer, sizeof a->peer);
        }
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, head == tail ? 100 : 1);
        now = now_ns();
        for (;;) {
            struct answer *a = &queue[tail % WAITING];
            socklen_t peer_length = sizeof a->peer;
            ssize_t got = recvfrom(fd, a->message, MESSAGE - RECORD, 0, (void *)&a->peer, &peer_length);
            if (got <= 0)
                break;
            queries++;
            int end = question_end(a->message, (int)got);
            a->length = end ? answer_query(a->message, (int)got, MESSAGE, lifetime(a->message, end)) : 0;
            a->due_ns = now + (uint64_t)delay_ms * 1000000;
            if (a->length && tail - head < WAITING - 1)
                tail++;
            else
                dropped++;
        }
    }
    print_counts(queries, dropped);
    return 0;
}
