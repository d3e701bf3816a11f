// bulk: both ends of a relay of bytes, in one spinning thread: clients that connect to the relay and a
// server behind it that sends.
//
//   bulk -t PORT -b PORT [-C CONNECTIONS] [-o] [-G GIGABYTES] [-W WARM-UP] [-d SECONDS] [-c CPU] [-p PID ...]
//
// -C connections to 127.0.0.1 port -t pull what the server on port -b sends without end; after the
// warm-up so many gigabytes (10^9 octets) are measured, or so many seconds, whichever is over first.
// With -o the server sends a kilobyte and closes, and each client then connects again; the latency is
// from the connect to the end of the stream. Prints one line of JSON; cpu_us is the CPU time of the
// processes -p for a gigabyte, or, with -o, for a connection.
//
// Both ends do next to nothing with the octets, so that the relay is what is measured: sendfile from
// memory on one side, MSG_TRUNC (counted and thrown away) on the other. That the octets arrive
// unchanged is for tests to show. `errors`: connections that failed or ended with too few octets.
#include "reflect.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

enum {
    CLIENT_ADDRESSES = 16, // each has some 28,000 ports
    PIDS_MAX = 64,
    EVENTS = 256,
    CONTENT = 1 << 20,
    SHORT = 1024,
    PIECES = 4, // sent to one connection before the others' turn
    ERRORS_MAX = 5000,
};

struct puller {
    struct endpoint at; // of kind CLIENT; the sending ends are SERVED
    uint64_t begun_ns, octets;
};

static int target_port = 5310, content;
static bool once, measuring;
static uint64_t octets, finished, errors;
static struct histogram latency;

static void pull(struct puller *p)
{
    static int address;
    int on = 1;
    struct sockaddr_in from = loopback(address++ % CLIENT_ADDRESSES, 0), to = loopback(0, target_port);
    p->at = (struct endpoint){CLIENT, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
    p->begun_ns = now_ns();
    p->octets = 0;
    setsockopt(p->at.fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (p->at.fd < 0 || bind(p->at.fd, (void *)&from, sizeof from) ||
        (connect(p->at.fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
        perror("bulk: connect");
        exit(1);
    }
    watch(EPOLL_CTL_ADD, &p->at, EPOLLIN);
}

static void discard(struct puller *p)
{
    ssize_t got = recv(p->at.fd, NULL, CONTENT, MSG_TRUNC);
    if (got > 0) {
        octets += (uint64_t)got;
        p->octets += (uint64_t)got;
    }
    if (got > 0 || (got < 0 && errno == EAGAIN))
        return;
    if (once && got == 0 && p->octets == SHORT) {
        finished++;
        if (measuring)
            histogram_add(&latency, now_ns() - p->begun_ns);
    } else if (++errors > ERRORS_MAX) {
        fprintf(stderr, "bulk: %d connections failed\n", ERRORS_MAX);
        exit(1);
    }
    close(p->at.fd);
    pull(p);
}

static void leave(struct endpoint *sender)
{
    close(sender->fd);
    free(sender);
}

static void deliver(struct endpoint *sender)
{
    for (int i = 0; i < PIECES; i++) {
        off_t from = 0;
        ssize_t put = sendfile(sender->fd, content, &from, CONTENT);
        if (put < 0 && errno == EAGAIN)
            return;
        if (put <= 0) {
            leave(sender);
            return;
        }
    }
}

static void accept_relay(struct endpoint *listener)
{
    static const char octets_sent[SHORT];
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0)
            return;
        struct endpoint *sender = malloc(sizeof *sender);
        if (!sender)
            exit(1);
        *sender = (struct endpoint){SERVED, fd};
        if (once) {
            (void)!write(fd, octets_sent, SHORT);
            leave(sender);
        } else {
            watch(EPOLL_CTL_ADD, sender, EPOLLOUT);
        }
    }
}

int main(int argc, char **argv)
{
    int cpu = 1, connections = 1, server_port = 5410, pid_count = 0, pids[PIDS_MAX];
    double gigabytes = 4, seconds = 3, warm_up = 0.5;
    for (int o; (o = getopt(argc, argv, "t:b:C:oG:W:d:c:p:")) > 0;) {
        switch (o) {
        case 't': target_port = atoi(optarg); break;
        case 'b': server_port = atoi(optarg); break;
        case 'C': connections = atoi(optarg); break;
        case 'o': once = true; break;
        case 'G': gigabytes = atof(optarg); break;
        case 'W': warm_up = atof(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'c': cpu = atoi(optarg); break;
        case 'p': if (pid_count < PIDS_MAX) pids[pid_count++] = atoi(optarg); break;
        default: return 2;
        }
    }
    if (connections < 1)
        return 2;
    if (cpu >= 0)
        pin_to_cpu(cpu);
    poller = epoll_create1(0);
    signal(SIGPIPE, SIG_IGN);
    content = memfd_create("content", 0);
    struct puller *pullers = calloc((size_t)connections, sizeof *pullers);
    if (content < 0 || ftruncate(content, CONTENT) || !pullers)
        return 1;
    open_backend_socket(LISTENER, server_port);
    for (int i = 0; i < connections; i++)
        pull(&pullers[i]);

    uint64_t start = now_ns() + (uint64_t)(warm_up * 1e9), end = 0, octets_0 = 0, finished_0 = 0, errors_0 = 0;
    struct reading before = {0};
    for (;;) {
        uint64_t now = now_ns();
        if (!measuring && now >= start) {
            measuring = true;
            octets_0 = octets, finished_0 = finished, errors_0 = errors;
            before = take_reading(pids, pid_count);
            end = before.at_ns + (uint64_t)(seconds * 1e9);
        } else if (measuring && (now >= end || (double)(octets - octets_0) >= gigabytes * 1e9)) {
            break;
        }
        struct epoll_event ready[EVENTS];
        int count = epoll_wait(poller, ready, EVENTS, 0);
        for (int i = 0; i < count; i++) {
            struct endpoint *at = ready[i].data.ptr;
            if (at->kind == CLIENT)
                discard((struct puller *)at);
            else if (at->kind == SERVED)
                deliver(at);
            else
                accept_relay(at);
        }
    }

    struct reading after = take_reading(pids, pid_count);
    double span = seconds_between(&before, &after), pulled = (double)(octets - octets_0) / 1e9;
    double streams = (double)(finished - finished_0);
    printf("{\"gb_per_s\":%.3f,\"gb\":%.3f,\"connections_per_s\":%.0f,\"errors\":%llu,", pulled / span, pulled,
           streams / span, (unsigned long long)(errors - errors_0));
    print_cost(&before, &after, once ? streams : pulled);
    printf(",");
    print_latency(&latency);
    printf("}\n");
    return 0;
}
