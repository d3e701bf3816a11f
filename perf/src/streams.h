// What the stream meters tcpload and dotload share: clients that ask over connections, backends that
// reflect (reflect.h), one epoll loop that spins on a core of its own, and the figures at the end.
// A program gives the carrier, what lies between the queries and the socket, and calls run_streams.
//
//   PROGRAM -t PORT [-b PORT ...] [-C CONNECTIONS] [-w IN-FLIGHT | -o] [-q RATE] [-i IDLE]
//           [-W WARM-UP] [-d SECONDS] [-c CPU] [-n NAMES] [-p PID ...] [-u] [-y] and its own
//
// Connects to 127.0.0.1 port -t from sixteen addresses and answers, as the backends, on the ports -b
// (over TCP only with -u). Either -C connections are kept with -w queries in flight on each, or, with
// -o, each connection asks once and is closed; a latency is then counted from the connect. With -q all
// kept connections together ask so many queries a second, but never more than -w each. -i opens so many
// more connections, at most 64 at a time, that ask once and then keep silent; when they all have, the
// program prints {"idle":COUNT} and only then begins the rest. Ends after -W and -d seconds or at
// SIGTERM and prints one line of JSON: latencies in microseconds, CPU time of the processes -p.
//
// Every answer is held against its query (id, QR, RCODE, name); one that does not fit is `bad`. `lost`
// is a query whose connection ended first, or that had no answer for two seconds; `errors` counts connections
// that failed, that the target closed, or that were not open after two seconds. A busy one is opened
// again, an idle one is not. These three are of the whole run, warm-up included.
#pragma once
#include "reflect.h"

#include <signal.h>

enum {
    CLIENT_ADDRESSES = 16, // each has some 28,000 ports
    WINDOW_MAX = 256,
    RING = 4096, // queries of one busy connection; ids count up, and few are out of order by so many
    BACKENDS_MAX = 16,
    PIDS_MAX = 64,
    EVENTS = 256,
    READ_ROOM = 1 << 16,
    ANSWER_MAX = 512,
    OPENING_MAX = 64,
    ERRORS_MAX = 5000, // so many without an answer between: the target does not work
};
static const uint64_t LOST_AFTER_NS = 2000000000, REAP_EVERY_NS = 250000000;

struct query {
    uint64_t sent_ns;
    uint32_t name;
    uint16_t id;
    bool live;
};

enum state { CLOSED, CONNECTING, GREETING, OPEN };

struct client {
    struct endpoint at;
    enum state state;
    bool idle; // asks once and then keeps silent
    uint16_t next;
    int outstanding;
    uint64_t begun_ns;
    struct query *ring; // ring_of(c) of them
    void *carried;      // the carrier's own state of this connection
    size_t in_len;
    uint8_t in[ANSWER_MAX]; // the beginning of an answer
};

// What lies between queries and socket.
struct carrier {
    // The TCP connection is up: 1 when queries may be sent, 0 to be called at the next event, -1 failed.
    int (*greet)(struct client *c);
    // Octets read, all that there are unless `room` is full; 0: none now; -1: the connection is over.
    ssize_t (*receive)(struct client *c, uint8_t *into, size_t room);
    // Sends all or fails.
    bool (*send)(struct client *c, const uint8_t *octets, size_t len);
    // Before the socket is closed; `finished` if it is of our own accord.
    void (*leave)(struct client *c, bool finished);
    // Prints members of the JSON line, each followed by a comma.
    void (*print)(void);
};

static const struct carrier *carrier;
static int target_port = 5302, window = 1;
static bool once, closed_loop;
static uint8_t *questions; // all of them, written beforehand
static uint32_t names = 100000;
static uint64_t random_state = 88172645463325252ull;

static uint64_t sent, answered, lost, bad, errors, errors_since_answer;
static int idle_answered, opening;
static bool measuring;
static volatile sig_atomic_t stopped;
static struct histogram latency;

static inline void open_client(struct client *c);

static inline int ring_of(const struct client *c)
{
    return once || c->idle ? 1 : RING;
}

// Ends a connection; a busy one is opened again.
static inline void end_client(struct client *c, bool finished)
{
    carrier->leave(c, finished);
    close(c->at.fd);
    opening -= c->idle && (c->state != OPEN || c->outstanding);
    lost += (uint64_t)c->outstanding;
    c->state = CLOSED;
    if (!finished && (errors++, ++errors_since_answer > ERRORS_MAX)) {
        fprintf(stderr, "streams: %d connections failed without an answer between\n", ERRORS_MAX);
        exit(1);
    }
    if (!c->idle)
        open_client(c);
}

static inline void open_client(struct client *c)
{
    static int address;
    int on = 1;
    struct sockaddr_in from = loopback(address++ % CLIENT_ADDRESSES, 0), to = loopback(0, target_port);
    c->at = (struct endpoint){CLIENT, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
    if (c->at.fd < 0) {
        perror("streams: socket");
        exit(1);
    }
    no_delay(c->at.fd);
    setsockopt(c->at.fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    c->state = CONNECTING;
    c->outstanding = 0;
    c->in_len = 0;
    c->begun_ns = now_ns();
    for (int i = 0; i < ring_of(c); i++)
        c->ring[i].live = false;
    if (bind(c->at.fd, (void *)&from, sizeof from) ||
        (connect(c->at.fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
        perror("streams: connect");
        exit(1);
    }
    watch(EPOLL_CTL_ADD, &c->at, EPOLLIN | EPOLLOUT);
}

static inline struct query *query_of(struct client *c, uint16_t id)
{
    return &c->ring[id % ring_of(c)];
}

static inline void ask(struct client *c, int count)
{
    static uint8_t joined[WINDOW_MAX * (LENGTH + QUERY_LEN)];
    uint64_t now = once ? c->begun_ns : now_ns();
    uint8_t *at = joined;
    for (int i = 0; i < count; i++, at += LENGTH + QUERY_LEN) {
        uint32_t name = (uint32_t)(random_next(&random_state) % names);
        set_message_id(at, QUERY_LEN);
        memcpy(at + LENGTH, questions + (size_t)name * QUERY_LEN, QUERY_LEN);
        set_message_id(at + LENGTH, c->next);
        struct query *q = query_of(c, c->next);
        lost += q->live;
        c->outstanding += !q->live;
        *q = (struct query){now, name, c->next++, true};
    }
    sent += (uint64_t)count;
    if (!carrier->send(c, joined, (size_t)(at - joined)))
        end_client(c, false);
}

static inline bool fits(const struct query *q, const uint8_t *m, size_t len)
{
    enum { QR = 0x80, RCODE = 0x0f };
    return len >= QUERY_LEN && q->live && q->id == message_id(m) && m[2] & QR && !(m[3] & RCODE) &&
           !memcmp(m + HEADER, questions + (size_t)q->name * QUERY_LEN + HEADER, QUERY_LEN - HEADER);
}

static inline void take_answer(struct client *c, const uint8_t *m, size_t len, uint64_t now)
{
    struct query *q = len >= HEADER ? query_of(c, message_id(m)) : NULL;
    if (!q || !fits(q, m, len)) {
        bad++;
        return;
    }
    q->live = false;
    c->outstanding--;
    answered++;
    errors_since_answer = 0;
    if (c->idle) {
        idle_answered++;
        opening--;
    } else if (measuring) {
        histogram_add(&latency, now - q->sent_ns);
    }
}

// Reads answers until there are none; false if the connection is over.
static inline bool hear(struct client *c)
{
    static uint8_t octets[ANSWER_MAX + READ_ROOM];
    ssize_t got;
    do {
        memcpy(octets, c->in, c->in_len);
        got = carrier->receive(c, octets + c->in_len, READ_ROOM);
        if (got < 0)
            return false;
        size_t end = c->in_len + (size_t)got, at = 0;
        uint64_t now = now_ns();
        while (end - at >= LENGTH) {
            size_t len = message_id(octets + at); // the length is written as an id is
            if (end - at - LENGTH < len)
                break;
            take_answer(c, octets + at + LENGTH, len, now);
            at += LENGTH + len;
        }
        c->in_len = end - at;
        if (c->in_len > ANSWER_MAX)
            return false;
        memcpy(c->in, octets + at, c->in_len);
    } while (got == READ_ROOM);
    return true;
}

static inline void greet(struct client *c)
{
    int done = carrier->greet(c);
    if (done < 0) {
        end_client(c, false);
    } else if (done > 0) {
        c->state = OPEN;
        if (once || c->idle)
            ask(c, 1);
    }
}

static inline void advance(struct client *c, uint32_t events)
{
    if (c->state == CONNECTING && events & EPOLLOUT && !(events & (EPOLLERR | EPOLLHUP))) {
        watch(EPOLL_CTL_MOD, &c->at, EPOLLIN);
        c->state = GREETING;
    }
    if (c->state == CONNECTING) {
        end_client(c, false);
    } else if (c->state == GREETING) {
        greet(c);
    } else if (c->state == OPEN) {
        uint64_t before = answered;
        if (!hear(c))
            end_client(c, false);
        else if (once && !c->idle && answered != before)
            end_client(c, true);
    }
}

// Fills a kept connection's window when half of it is free.
static inline void refill(struct client *c)
{
    int free = window - c->outstanding;
    if (c->state == OPEN && !c->idle && free >= (window + 1) / 2)
        ask(c, free);
}

static inline struct client *make_clients(int count, bool idle)
{
    struct client *clients = calloc((size_t)count + 1, sizeof *clients);
    if (!clients)
        exit(1);
    for (int i = 0; i < count; i++) {
        clients[i].idle = idle;
        clients[i].ring = calloc((size_t)ring_of(&clients[i]), sizeof(struct query));
        if (!clients[i].ring)
            exit(1);
    }
    return clients;
}

static inline void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static inline int turn_loop(int timeout_ms)
{
    struct epoll_event ready[EVENTS];
    int count = epoll_wait(poller, ready, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++) {
        struct endpoint *at = ready[i].data.ptr;
        if (at->kind != CLIENT) {
            reflect(at);
            continue;
        }
        advance((struct client *)at, ready[i].events);
        if (closed_loop)
            refill((struct client *)at);
    }
    return count;
}

// Gives up what has waited too long: queries, and connections that do not open or that had only one.
static inline void reap(struct client *clients, int count)
{
    static uint64_t reaped;
    uint64_t now = now_ns();
    if (now - reaped < REAP_EVERY_NS)
        return;
    reaped = now;
    for (int i = 0; i < count; i++) {
        struct client *c = &clients[i];
        int before = c->outstanding;
        for (int k = 0; before && k < ring_of(c); k++) {
            struct query *q = &c->ring[k];
            if (q->live && q->sent_ns + LOST_AFTER_NS < now) {
                q->live = false;
                c->outstanding--;
                lost++;
            }
        }
        bool only = ring_of(c) == 1 && c->outstanding < before;
        bool opens = c->state == CONNECTING || c->state == GREETING;
        if (only || (opens && c->begun_ns + LOST_AFTER_NS < now)) {
            opening -= only && c->idle; // end_client takes it for one that had its answer
            end_client(c, false);
        } else if (c->outstanding < before && closed_loop) {
            refill(c);
        }
    }
}

// Opens the idle connections, a few at a time, and waits until each has had its answer or has failed.
static inline void open_idle(struct client *clients, int count, int timeout_ms)
{
    for (int begun = 0; !stopped && (begun < count || opening > 0);) {
        for (; begun < count && opening < OPENING_MAX; begun++, opening++)
            open_client(&clients[begun]);
        turn_loop(timeout_ms);
        reap(clients, begun);
    }
    printf("{\"idle\":%d}\n", idle_answered);
    fflush(stdout);
}

// `own` are the program's own options in getopt's letters, for which `option` is called.
static inline int run_streams(int argc, char **argv, const struct carrier *given, const char *own,
                              bool (*option)(int letter, const char *value))
{
    int cpu = 1, backend_count = 0, pid_count = 0, connections = 32, idle = 0;
    int ports[BACKENDS_MAX], pids[PIDS_MAX];
    double rate = 0, seconds = 2, warm_up = 1;
    bool datagrams = true, yield = false;
    char letters[64];
    snprintf(letters, sizeof letters, "t:b:C:w:q:i:W:d:c:n:p:ouy%s", own);
    for (int o; (o = getopt(argc, argv, letters)) > 0;) {
        switch (o) {
        case 't': target_port = atoi(optarg); break;
        case 'b': if (backend_count < BACKENDS_MAX) ports[backend_count++] = atoi(optarg); break;
        case 'C': connections = atoi(optarg); break;
        case 'w': window = atoi(optarg); break;
        case 'o': once = true; break;
        case 'q': rate = atof(optarg); break;
        case 'i': idle = atoi(optarg); break;
        case 'W': warm_up = atof(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'c': cpu = atoi(optarg); break;
        case 'n': names = (uint32_t)atoi(optarg); break;
        case 'p': if (pid_count < PIDS_MAX) pids[pid_count++] = atoi(optarg); break;
        case 'u': datagrams = false; break;
        case 'y': yield = true; break;
        default: if (!option || !option(o, optarg)) return 2;
        }
    }
    if (!names || window < 1 || window > WINDOW_MAX || connections < 0 || idle < 0 || (once && rate > 0)) {
        fprintf(stderr, "streams: -n of at least 1, -w of 1 to %d, and not both -o and -q\n", WINDOW_MAX);
        return 2;
    }
    if (cpu >= 0)
        pin_to_cpu(cpu);
    carrier = given;
    closed_loop = !once && rate <= 0;
    poller = epoll_create1(0);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    questions = malloc((size_t)names * QUERY_LEN);
    if (!questions)
        return 1;
    for (uint32_t i = 0; i < names; i++)
        write_query(questions + (size_t)i * QUERY_LEN, i);
    for (int i = 0; i < backend_count; i++) {
        open_backend_socket(LISTENER, ports[i]);
        if (datagrams)
            open_backend_socket(DATAGRAMS, ports[i]);
    }

    int timeout_ms = yield ? 1 : 0;
    struct client *silent = make_clients(idle, true), *clients = make_clients(connections, false);
    if (idle)
        open_idle(silent, idle, timeout_ms);
    for (int i = 0; i < connections; i++)
        open_client(&clients[i]);

    uint64_t begun = now_ns(), start = begun + (uint64_t)(warm_up * 1e9), end = 0, paced = 0, turn = 0;
    uint64_t sent_0 = 0, answered_0 = 0, now = begun;
    struct reading before = {.at_ns = begun};
    for (; !stopped; now = now_ns()) {
        if (!measuring && now >= start) {
            measuring = true;
            sent_0 = sent, answered_0 = answered;
            before = take_reading(pids, pid_count);
            end = before.at_ns + (uint64_t)(seconds * 1e9);
        } else if (measuring && now >= end) {
            break;
        }
        turn_loop(timeout_ms);
        reap(clients, connections);
        uint64_t due = (uint64_t)((double)(now - begun) * 1e-9 * rate);
        if (due > paced + (uint64_t)connections) // what could not be sent in time is left out, not sent in a burst
            paced = due - (uint64_t)connections;
        for (; paced < due && connections; paced++) {
            struct client *c = &clients[turn++ % (uint64_t)connections];
            if (c->state == OPEN && c->outstanding < window)
                ask(c, 1);
        }
    }

    struct reading after = take_reading(pids, pid_count);
    double span = seconds_between(&before, &after), answers = (double)(answered - answered_0);
    printf("{\"answers_per_s\":%.0f,\"sent_per_s\":%.0f,\"lost_percent\":%.4f,\"bad\":%llu,\"errors\":%llu,",
           answers / span, (double)(sent - sent_0) / span, sent ? 100 * (double)lost / (double)sent : 0,
           (unsigned long long)bad, (unsigned long long)errors);
    carrier->print();
    print_cost(&before, &after, answers);
    printf(",");
    print_latency(&latency);
    printf("}\n");
    return 0;
}
