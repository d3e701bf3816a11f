// dotload: DNS over TLS (RFC 7858), load generator and reflecting backends in one spinning thread.
// Options and what it prints stand in streams.h; its own are
//
//   -V 2 | 3   TLS 1.2 or 1.3, and no other (default: the newest that both sides know)
//   -R         each connection resumes the session of the one before it, by its newest ticket
//
// Nothing is verified: what a client's verification costs is no business of the program under test.
// Prints besides: resumed_percent, the share of the handshakes that resumed a session.
#include "streams.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

// What outlives a connection: the session for the next one.
struct tls {
    SSL *ssl;
    SSL_SESSION *session;
};

static SSL_CTX *context;
static bool resume;
static uint64_t handshakes, resumed;

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct tls *tls = SSL_get_app_data(ssl);
    SSL_SESSION_free(tls->session);
    tls->session = session;
    return 1; // it is ours now
}

static struct tls *begin_tls(struct client *c)
{
    static const unsigned char alpn[] = "\3dot";
    struct tls *tls = c->carried ? c->carried : calloc(1, sizeof *tls);
    c->carried = tls;
    tls->ssl = tls ? SSL_new(context) : NULL;
    if (!tls || !tls->ssl || !SSL_set_fd(tls->ssl, c->at.fd))
        exit(1);
    SSL_set_app_data(tls->ssl, tls);
    SSL_set_tlsext_host_name(tls->ssl, "dot.bench.example");
    SSL_set_alpn_protos(tls->ssl, alpn, sizeof alpn - 1);
    // A copy: OpenSSL uses a session of TLS 1.3 once, and dnsdist gives no new ticket with a resumption.
    SSL_SESSION *session = resume && tls->session ? SSL_SESSION_dup(tls->session) : NULL;
    if (session)
        SSL_set_session(tls->ssl, session);
    SSL_SESSION_free(session);
    return tls;
}

static int greet_tls(struct client *c)
{
    struct tls *tls = c->carried;
    if (!tls || !tls->ssl)
        tls = begin_tls(c);
    ERR_clear_error();
    int done = SSL_connect(tls->ssl);
    if (done == 1) {
        if (measuring) {
            handshakes++;
            resumed += SSL_session_reused(tls->ssl) != 0;
        }
        return 1;
    }
    return SSL_get_error(tls->ssl, done) == SSL_ERROR_WANT_READ ? 0 : -1;
}

static ssize_t receive_tls(struct client *c, uint8_t *into, size_t room)
{
    struct tls *tls = c->carried;
    size_t have = 0;
    while (have < room) { // SSL_read gives one record at a time
        ERR_clear_error();
        int got = SSL_read(tls->ssl, into + have, (int)(room - have));
        if (got <= 0) {
            bool nothing = SSL_get_error(tls->ssl, got) == SSL_ERROR_WANT_READ;
            return have || nothing ? (ssize_t)have : -1;
        }
        have += (size_t)got;
    }
    return (ssize_t)have;
}

// A window is some kilobytes: a socket that does not take them at once is broken.
static bool send_tls(struct client *c, const uint8_t *octets, size_t len)
{
    struct tls *tls = c->carried;
    ERR_clear_error();
    return SSL_write(tls->ssl, octets, (int)len) == (int)len;
}

// With close_notify, as a client leaves; without, the session could not be resumed.
static void leave_tls(struct client *c, bool finished)
{
    struct tls *tls = c->carried;
    if (!tls || !tls->ssl)
        return;
    ERR_clear_error();
    if (finished)
        SSL_shutdown(tls->ssl);
    else
        SSL_set_quiet_shutdown(tls->ssl, 1);
    SSL_free(tls->ssl);
    tls->ssl = NULL;
}

static void print_tls(void)
{
    printf("\"handshakes\":%llu,\"resumed_percent\":%.2f,", (unsigned long long)handshakes,
           handshakes ? 100 * (double)resumed / (double)handshakes : 0);
}

static bool option(int letter, const char *value)
{
    switch (letter) {
    case 'V':
        SSL_CTX_set_min_proto_version(context, atoi(value) == 2 ? TLS1_2_VERSION : TLS1_3_VERSION);
        SSL_CTX_set_max_proto_version(context, atoi(value) == 2 ? TLS1_2_VERSION : TLS1_3_VERSION);
        return true;
    case 'R': resume = true; return true;
    default: return false;
    }
}

int main(int argc, char **argv)
{
    static const struct carrier dot = {greet_tls, receive_tls, send_tls, leave_tls, print_tls};
    context = SSL_CTX_new(TLS_client_method());
    if (!context)
        return 1;
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep_session);
    return run_streams(argc, argv, &dot, "V:R", option);
}
