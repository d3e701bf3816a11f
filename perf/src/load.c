// load: load generator and reflecting backends in one spinning thread, on a core of their own.
//
//   load -t PORT -b PORT [-b PORT ...] (-w OUTSTANDING | -q RATE) [-W WARM-UP] [-d SECONDS]
//        [-c CPU] [-n NAMES] [-p PID ...] [-z] [-y] [-l MILLISECONDS] [-s SEED]
//
// Asks 127.0.0.1 port -t from 16 sockets and answers, as the backends, on the ports -b. Closed
// loop (-w: so many queries outstanding) or open loop (-q: queries a second, evenly paced, whether
// answered or not). Over the -d seconds after the warm-up it also reads the CPU time of the
// processes -p, the programs under test. Prints one line of JSON; latencies in microseconds.
//
// Every answer is held against its query (id, QR, RCODE, name); one that does not fit is `bad`.
// A query unanswered after 400 ms (-l) is lost. Names are chosen evenly, or, with -z, by Zipf's law
// with exponent 1: the k-th name k times as seldom as the first. -y waits a quarter of a millisecond
// when there is nothing to do, where a spinning core would be taken from the programs under test. -s: another sequence of names.
#include "measure.h"

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

enum {
    SOCKETS = 16,
    SEND_BATCH = 16,
    RECEIVE_BATCH = 64,
    MESSAGE = 1500,
    RING = 8192, // queries outstanding on one socket, a power of two
    BACKENDS_MAX = 128,
    PIDS_MAX = 64,
    SOCKET_BUFFER = 4 << 20,
    ARREARS_MAX = 1000, // an open loop that is further behind than this skips, and does not burst
};
static const uint64_t REAP_EVERY_NS = 20000000;
static uint64_t lost_after_ns = 400000000;

struct query {
    uint64_t sent_ns;
    uint32_t name;
    uint16_t id;
    bool live;
};

// One client socket. Its ids count up, so the ring is ordered by age: [oldest, next).
struct client {
    int fd;
    uint16_t next, oldest;
    struct query ring[RING];
};

static struct client clients[SOCKETS];
static int backends[BACKENDS_MAX];
static uint8_t *questions; // all of them, written beforehand
static uint32_t names = 100000;
static double *popularity; // with -z: share of all queries that the names up to this one get
static uint64_t random_state = 88172645463325252ull;

static uint64_t sent, answered, lost, bad, send_errors;
static int outstanding;
static bool measuring;
static struct histogram latency;

static uint8_t messages[RECEIVE_BATCH][MESSAGE];
static struct sockaddr_in peers[RECEIVE_BATCH];
static struct iovec iovecs[RECEIVE_BATCH];
static struct mmsghdr batch[RECEIVE_BATCH];

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

// Sends `size` octets as messages of `each`, in one system call.
static void send_segments(int fd, uint8_t *octets, size_t size, size_t each, struct sockaddr_in *to)
{
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec whole = {octets, size};
    struct msghdr m = {.msg_iov = &whole, .msg_iovlen = 1, .msg_name = to,
                       .msg_namelen = to ? sizeof *to : 0};
    if (size > each) {
        uint16_t length = (uint16_t)each;
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof length);
        memcpy(CMSG_DATA(c), &length, sizeof length);
    }
    if (sendmsg(fd, &m, 0) < 0)
        send_errors++;
}

static int receive(int fd)
{
    for (int i = 0; i < RECEIVE_BATCH; i++) {
        iovecs[i] = (struct iovec){messages[i], MESSAGE - RECORD};
        batch[i].msg_hdr = (struct msghdr){.msg_iov = &iovecs[i], .msg_iovlen = 1,
                                           .msg_name = &peers[i], .msg_namelen = sizeof peers[i]};
    }
    int count = recvmmsg(fd, batch, RECEIVE_BATCH, MSG_DONTWAIT, NULL);
    return count < 0 ? 0 : count;
}

static bool same_peer(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
    return a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
}

// The backend: answers what has come, all of one length to one peer together.
static void reflect(int fd)
{
    static uint8_t joined[RECEIVE_BATCH * MESSAGE];
    int count = receive(fd), length[RECEIVE_BATCH];
    for (int i = 0; i < count; i++)
        length[i] = answer_query(messages[i], (int)batch[i].msg_len, MESSAGE, 3600);
    for (int i = 0; i < count; i++) {
        if (!length[i])
            continue;
        size_t each = (size_t)length[i], size = 0;
        for (int j = i; j < count; j++) {
            if (length[j] == (int)each && same_peer(&peers[j], &peers[i])) {
                memcpy(joined + size, messages[j], each);
                size += each;
                length[j] = 0;
            }
        }
        send_segments(fd, joined, size, each, &peers[i]);
    }
}

static void count_popularity(void)
{
    popularity = malloc(names * sizeof *popularity);
    if (!popularity)
        exit(1);
    double sum = 0;
    for (uint32_t i = 0; i < names; i++)
        popularity[i] = sum += 1.0 / (i + 1);
    for (uint32_t i = 0; i < names; i++)
        popularity[i] /= sum;
}

static uint32_t choose_name(void)
{
    uint64_t random = random_next(&random_state) >> 11; // 53 bits
    if (!popularity)
        return (uint32_t)(random % names);
    double share = (double)random / (double)(1ull << 53);
    uint32_t low = 0, high = names - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (popularity[middle] <= share)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void ask(struct client *c, int count)
{
    static uint8_t joined[SEND_BATCH * QUERY_LEN];
    if ((uint16_t)(c->next - c->oldest) + count >= RING)
        return;
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        uint32_t name = choose_name();
        uint8_t *q = joined + i * QUERY_LEN;
        memcpy(q, questions + (size_t)name * QUERY_LEN, QUERY_LEN);
        set_message_id(q, c->next);
        c->ring[c->next % RING] = (struct query){now, name, c->next, true};
        c->next++;
    }
    send_segments(c->fd, joined, (size_t)count * QUERY_LEN, QUERY_LEN, NULL);
    outstanding += count;
    sent += (uint64_t)count;
}

static bool fits(const struct query *q, const uint8_t *m, unsigned len)
{
    enum { QR = 0x80, RCODE = 0x0f };
    return q->live && q->id == message_id(m) && len >= QUERY_LEN && m[2] & QR && !(m[3] & RCODE) &&
           !memcmp(m + HEADER, questions + (size_t)q->name * QUERY_LEN + HEADER, QUERY_LEN - HEADER);
}

static void hear(struct client *c)
{
    int count = receive(c->fd);
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        struct query *q = &c->ring[message_id(messages[i]) % RING];
        if (!fits(q, messages[i], batch[i].msg_len)) {
            bad++;
            continue;
        }
        q->live = false;
        outstanding--;
        answered++;
        if (measuring)
            histogram_add(&latency, now - q->sent_ns);
    }
}

static void reap(struct client *c, uint64_t now)
{
    for (; c->oldest != c->next; c->oldest++) {
        struct query *q = &c->ring[c->oldest % RING];
        if (!q->live)
            continue;
        if (q->sent_ns + lost_after_ns > now)
            break;
        q->live = false;
        outstanding--;
        lost++;
    }
}

// A UDP socket, bound (a backend's) or connected (a client's) to a loopback port; ends on failure.
static int open_socket(int port, bool backend)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = SOCKET_BUFFER;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    struct sockaddr_in a = loopback(port);
    if (backend ? bind(fd, (void *)&a, sizeof a) : connect(fd, (void *)&a, sizeof a)) {
        perror(backend ? "load: bind" : "load: connect");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    int port = 5302, window = 0, cpu = 1, backend_count = 0, pid_count = 0;
    int ports[BACKENDS_MAX], pids[PIDS_MAX];
    double rate = 0, seconds = 2, warm_up = 1;
    bool zipf = false, yield = false;
    for (int o; (o = getopt(argc, argv, "t:b:w:q:W:d:c:n:p:l:s:zy")) > 0;) {
        switch (o) {
        case 't': port = atoi(optarg); break;
        case 'b': if (backend_count < BACKENDS_MAX) ports[backend_count++] = atoi(optarg); break;
        case 'w': window = atoi(optarg); break;
        case 'q': rate = atof(optarg); break;
        case 'W': warm_up = atof(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'c': cpu = atoi(optarg); break;
        case 'n': names = (uint32_t)atoi(optarg); break;
        case 'l': lost_after_ns = (uint64_t)atoi(optarg) * 1000000; break;
        case 's': random_state ^= (uint64_t)atoll(optarg) << 32; break;
        case 'z': zipf = true; break;
        case 'y': yield = true; break;
        case 'p': if (pid_count < PIDS_MAX) pids[pid_count++] = atoi(optarg); break;
        default: return 2;
        }
    }
    if (!names || !(window > 0 || rate > 0)) {
        fprintf(stderr, "load: -w or -q is needed, and -n of at least 1\n");
        return 2;
    }
    if (cpu >= 0)
        pin_to_cpu(cpu);
    if (zipf)
        count_popularity();
    questions = malloc((size_t)names * QUERY_LEN);
    if (!questions)
        return 1;
    for (uint32_t i = 0; i < names; i++)
        write_query(questions + (size_t)i * QUERY_LEN, i);

    // A descriptor's place in the set: clients first, backends behind them.
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    for (int i = 0; i < backend_count; i++) {
        backends[i] = open_socket(ports[i], true);
        event.data.u32 = (uint32_t)(SOCKETS + i);
        epoll_ctl(epoll, EPOLL_CTL_ADD, backends[i], &event);
    }
    for (int i = 0; i < SOCKETS; i++) {
        struct client *c = &clients[i];
        c->fd = open_socket(port, false);
        c->next = c->oldest = (uint16_t)(random_next(&random_state) >> 20);
        event.data.u32 = (uint32_t)i;
        epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    }

    uint64_t begun = now_ns(), start = begun + (uint64_t)(warm_up * 1e9), end = 0, reaped = begun, now;
    uint64_t paced = 0, turn = 0, sent_0 = 0, answered_0 = 0, lost_0 = 0, bad_0 = 0;
    struct reading before = {0};
    for (;;) {
        now = now_ns();
        if (!measuring && now >= start) {
            measuring = true;
            sent_0 = sent, answered_0 = answered, lost_0 = lost, bad_0 = bad;
            before = take_reading(pids, pid_count);
            now = before.at_ns;
            end = now + (uint64_t)(seconds * 1e9);
        }
        if (measuring && now >= end)
            break;
        struct epoll_event ready[SOCKETS + BACKENDS_MAX];
        int count = epoll_wait(epoll, ready, SOCKETS + BACKENDS_MAX, 0);
        for (int i = 0; i < count; i++) {
            uint32_t who = ready[i].data.u32;
            if (who < SOCKETS)
                hear(&clients[who]);
            else
                reflect(backends[who - SOCKETS]);
        }
        if (window) {
            int free = window - outstanding;
            if (free >= SEND_BATCH || (free > 0 && !count))
                ask(&clients[turn++ % SOCKETS], free < SEND_BATCH ? free : SEND_BATCH);
        } else {
            uint64_t due = (uint64_t)((double)(now_ns() - begun) * 1e-9 * rate);
            if (due > paced + ARREARS_MAX)
                paced = due - 1;
            while (paced < due) {
                uint64_t k = due - paced < SEND_BATCH ? due - paced : SEND_BATCH;
                ask(&clients[turn++ % SOCKETS], (int)k);
                paced += k;
            }
        }
        if (yield && !count)
            nanosleep(&(struct timespec){.tv_nsec = 250000}, NULL);
        if (now - reaped > REAP_EVERY_NS) {
            reaped = now;
            for (int i = 0; i < SOCKETS; i++)
                reap(&clients[i], now);
        }
    }

    struct reading after = take_reading(pids, pid_count);
    double span = seconds_between(&before, &after);
    double queries = (double)(sent - sent_0), answers = (double)(answered - answered_0);
    printf("{\"answers_per_s\":%.0f,\"sent_per_s\":%.0f,\"lost_percent\":%.4f,\"bad\":%llu,\"send_errors\":%llu,",
           answers / span, queries / span, queries > 0 ? 100 * (double)(lost - lost_0) / queries : 0,
           (unsigned long long)(bad - bad_0), (unsigned long long)send_errors);
    print_cost(&before, &after, answers);
    printf(",");
    print_latency(&latency);
    printf("}\n");
    return 0;
}
