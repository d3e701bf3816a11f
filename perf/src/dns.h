// The few octets of DNS (RFC 1035, 4.1) that the meters write and read.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { HEADER = 12, NAME_LABEL = 8, RECORD = 16 };

// Length of every query: header, "n0123456.bench.example.", type, class.
enum { QUERY_LEN = HEADER + (1 + NAME_LABEL) + (1 + 5) + (1 + 7) + 1 + 4 };

// Writes the query for name number `name` (A, IN, RD set) with id 0; QUERY_LEN octets.
static inline void write_query(uint8_t *q, uint32_t name)
{
    static const uint8_t suffix[] = "\5bench\7example\0\0\1\0"; // and the literal's own last NUL
    memset(q, 0, HEADER);
    q[2] = 1; // RD
    q[5] = 1; // one question
    char label[NAME_LABEL + 8];
    snprintf(label, sizeof label, "n%07u", (unsigned)(name % 10000000));
    q[HEADER] = NAME_LABEL;
    memcpy(q + HEADER + 1, label, NAME_LABEL);
    memcpy(q + HEADER + 1 + NAME_LABEL, suffix, sizeof suffix - 1);
    q[QUERY_LEN - 1] = 1; // class IN
}

static inline uint16_t message_id(const uint8_t *m)
{
    return (uint16_t)(m[0] << 8 | m[1]);
}

static inline void set_message_id(uint8_t *m, uint16_t id)
{
    m[0] = (uint8_t)(id >> 8);
    m[1] = (uint8_t)id;
}

// Where the first question ends, or 0 if the message is too short for one.
static inline int question_end(const uint8_t *m, int len)
{
    int at = HEADER;
    while (at < len && m[at])
        at += m[at] + 1;
    at += 5;
    return at <= len ? at : 0;
}

// Turns a query into its answer: one A record behind the question, whatever followed (an OPT)
// moved behind it. Gives the new length, or 0 if it is no query or does not fit into `room`.
static inline int answer_query(uint8_t *m, int len, int room, uint32_t ttl)
{
    int end = question_end(m, len);
    if (!end || len + RECORD > room)
        return 0;
    const uint8_t record[RECORD] = {0xc0, HEADER, 0, 1, 0, 1, (uint8_t)(ttl >> 24), (uint8_t)(ttl >> 16),
                                    (uint8_t)(ttl >> 8), (uint8_t)ttl, 0, 4, 192, 0, 2, 1};
    m[2] |= 0x80; // QR
    m[3] |= 0x80; // RA
    m[7] = 1;     // one answer
    memmove(m + end + RECORD, m + end, (size_t)(len - end));
    memcpy(m + end, record, RECORD);
    return len + RECORD;
}
