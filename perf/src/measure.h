// What the meters share: clock, random numbers, latency histogram, CPU time of processes.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// xorshift64: fast and good enough to choose names; always the same sequence, so that two
// programs under test are asked the same questions.
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline void pin_to_cpu(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

// A log-linear histogram of nanoseconds: 64 buckets per octave, so a bucket is at most 1.6 % wide.
enum { SUB_BITS = 6, SUB = 1 << SUB_BITS, BUCKETS = 60 * SUB };

struct histogram {
    uint64_t count[BUCKETS];
    uint64_t total;
    double sum_ns;
};

static inline int bucket_of(uint64_t ns)
{
    if (ns < SUB)
        return (int)ns;
    int octave = 63 - __builtin_clzll(ns);
    return (octave - SUB_BITS + 1) * SUB + (int)((ns >> (octave - SUB_BITS)) & (SUB - 1));
}

static inline double bucket_middle_ns(int bucket)
{
    if (bucket < SUB)
        return bucket;
    int octave = bucket / SUB + SUB_BITS - 1;
    double width = (double)(1ull << (octave - SUB_BITS));
    return (double)(1ull << octave) + (bucket % SUB) * width + width / 2;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
    int bucket = bucket_of(ns);
    h->count[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    h->total++;
    h->sum_ns += (double)ns;
}

// The latency that a share of all (0 to 1) does not exceed, microseconds.
static inline double percentile_us(const struct histogram *h, double share)
{
    uint64_t wanted = (uint64_t)((double)h->total * share), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += h->count[i];
        if (seen > wanted)
            return bucket_middle_ns(i) / 1000;
    }
    return 0;
}

// CPU time of all threads of the processes so far, from schedstat: nanoseconds, system calls and
// softirq work in their context included. Also counts how often they were given the CPU.
static inline uint64_t cpu_ns_of(const int *pids, int count, uint64_t *turns)
{
    uint64_t total = 0;
    *turns = 0;
    for (int i = 0; i < count; i++) {
        char path[320];
        snprintf(path, sizeof path, "/proc/%d/task", pids[i]);
        DIR *tasks = opendir(path);
        if (!tasks)
            continue;
        for (struct dirent *entry; (entry = readdir(tasks));) {
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pids[i], entry->d_name);
            FILE *f = fopen(path, "r");
            unsigned long long run = 0, wait = 0, slices = 0;
            if (f && fscanf(f, "%llu %llu %llu", &run, &wait, &slices) == 3) {
                total += run;
                *turns += slices;
            }
            if (f)
                fclose(f);
        }
        closedir(tasks);
    }
    return total;
}

// /proc/stat: hundredths of a second that two CPUs have spent, by kind.
enum { USER, NICE, SYSTEM, IDLE, IOWAIT, IRQ, SOFTIRQ, STEAL, CPU_KINDS };

struct cpu_times {
    unsigned long long kind[2][CPU_KINDS];
};

static inline void read_cpu_times(struct cpu_times *out)
{
    memset(out, 0, sizeof *out);
    FILE *f = fopen("/proc/stat", "r");
    if (!f)
        return;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        int cpu;
        unsigned long long v[CPU_KINDS];
        if (sscanf(line, "cpu%d %llu %llu %llu %llu %llu %llu %llu %llu", &cpu, &v[0], &v[1], &v[2],
                   &v[3], &v[4], &v[5], &v[6], &v[7]) == 9 && cpu >= 0 && cpu < 2)
            memcpy(out->kind[cpu], v, sizeof v);
    }
    fclose(f);
}

// Share of CPU 0's time between two readings that was used by anybody.
static inline double cpu0_busy(const struct cpu_times *a, const struct cpu_times *b, double seconds)
{
    unsigned long long used = 0;
    for (int k = 0; k < CPU_KINDS; k++)
        if (k != IDLE && k != IOWAIT && k != STEAL)
            used += b->kind[0][k] - a->kind[0][k];
    return (double)used / 100 / seconds;
}

// Percent of one CPU that went to one kind on both CPUs.
static inline double cpu_percent(const struct cpu_times *a, const struct cpu_times *b, int kind,
                                 double seconds)
{
    return (double)(b->kind[0][kind] - a->kind[0][kind] + b->kind[1][kind] - a->kind[1][kind]) / seconds;
}

// What was used up to one moment by the programs under test and by the machine: one reading when
// measuring begins, one when it ends.
struct reading {
    uint64_t at_ns, cpu_ns, turns;
    struct cpu_times cpus;
};

static inline struct reading take_reading(const int *pids, int count)
{
    struct reading r;
    r.cpu_ns = cpu_ns_of(pids, count, &r.turns);
    read_cpu_times(&r.cpus);
    r.at_ns = now_ns();
    return r;
}

static inline double seconds_between(const struct reading *a, const struct reading *b)
{
    return (double)(b->at_ns - a->at_ns) * 1e-9;
}

// The members of a line of JSON that all meters have in common. `events` (answers, connections,
// gigabytes) are what the CPU time is divided by.
static inline void print_cost(const struct reading *a, const struct reading *b, double events)
{
    double seconds = seconds_between(a, b), cpu_ns = (double)(b->cpu_ns - a->cpu_ns);
    printf("\"cpu_us\":%.3f,\"cpu_share\":%.3f,\"turns_per_query\":%.3f,\"cpu0_busy\":%.3f,"
           "\"nice_percent\":%.2f,\"steal_percent\":%.2f",
           events > 0 ? cpu_ns / 1000 / events : 0, cpu_ns * 1e-9 / seconds,
           events > 0 ? (double)(b->turns - a->turns) / events : 0, cpu0_busy(&a->cpus, &b->cpus, seconds),
           cpu_percent(&a->cpus, &b->cpus, NICE, seconds), cpu_percent(&a->cpus, &b->cpus, STEAL, seconds));
}

static inline void print_latency(const struct histogram *h)
{
    printf("\"mean_us\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f",
           h->total ? h->sum_ns / 1000 / (double)h->total : 0, percentile_us(h, 0.5), percentile_us(h, 0.9),
           percentile_us(h, 0.99), percentile_us(h, 0.999));
}
