/* Faults on purpose: the n-th call of a kind fails. The linker's --wrap sends the calls of the program's own objects
 * here (faults.c); jansson's allocations are among them (lb_json_use_memory). */
#ifndef CORE_TESTS_FAULT_FAULTS_H
#define CORE_TESTS_FAULT_FAULTS_H

#include <stdbool.h>

enum fault {
    F_MEMORY,
    F_WRITE,  /* one write fails; every second of them after half of its bytes */
    F_FULL,   /* all writes from this one on fail */
    F_SYNC,   /* fsync, fdatasync */
    F_RENAME, /* rename, unlink, ftruncate */
    F_READ,   /* read, pread, fread */
    F_MAP,
    F_OPEN, /* open, fopen */
    F_THREAD,
    N_FAULT,
};

const char *fault_name(enum fault f);

/* From now on the n-th call of the kind fails (1 is the next). */
void fault_arm(enum fault f, long n);

/* No call fails any more. true: one did. */
bool fault_disarm(void);

#endif
