/* What NCCL's stand-in needs where ranks are processes of one host (STANDIN_PROCESSES): a piece of shared memory with
 * an area for what each rank gives, and how far each is. */
#ifndef KERNELS_TESTS_STANDIN_BETWEEN_H
#define KERNELS_TESTS_STANDIN_BETWEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct standin_between;

/* NULL: no memory. id is the same on all ranks. */
struct standin_between *standin_between_open(const uint64_t id[2], int n_rank, int rank);
/* gone: the others are told that this one has given up. */
void standin_between_close(struct standin_between *b, bool gone);
bool standin_between_all_came(const struct standin_between *b);
bool standin_between_has_gone(const struct standin_between *b);

/* Collective n (from 0): gives data[bytes] once the areas are free. True when all have given; then the areas can be
 * read until this rank leaves. */
bool standin_between_meet(struct standin_between *b, long n, const void *data, size_t bytes);
char *standin_between_area(const struct standin_between *b, int rank);
void standin_between_leave(struct standin_between *b, long n);

#endif
