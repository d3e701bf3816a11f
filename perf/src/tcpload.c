// tcpload: DNS over TCP, load generator and reflecting backends in one spinning thread. Its options
// and what it prints stand in streams.h.
#include "streams.h"

static int greet_tcp(struct client *c)
{
    (void)c;
    return 1;
}

static ssize_t receive_tcp(struct client *c, uint8_t *into, size_t room)
{
    ssize_t got = read(c->at.fd, into, room);
    if (got > 0)
        return got;
    return got < 0 && errno == EAGAIN ? 0 : -1;
}

// A window is some kilobytes: a socket that does not take them at once is broken.
static bool send_tcp(struct client *c, const uint8_t *octets, size_t len)
{
    return write(c->at.fd, octets, len) == (ssize_t)len;
}

static void leave_tcp(struct client *c, bool finished)
{
    (void)c, (void)finished;
}

static void print_tcp(void)
{
}

int main(int argc, char **argv)
{
    static const struct carrier tcp = {greet_tcp, receive_tcp, send_tcp, leave_tcp, print_tcp};
    return run_streams(argc, argv, &tcp, "", NULL);
}
