/* Going from one stack to another; a sanitizer is told. */
#ifndef KERNELS_TESTS_SIMT_SWITCH_H
#define KERNELS_TESTS_SIMT_SWITCH_H

#include <stddef.h>

/* Saves where this thread of execution stands in *from and goes on at `to`, which another switch saved or simt_fresh
 * made. simt_enter goes to a fiber, whose stack is given, and simt_pass from one to another; simt_switch goes back to
 * who entered the first; simt_switch_last does so for a fiber that is left for good. */
void simt_enter(void **from, void *to, void *stack, size_t bytes);
void simt_pass(void **from, void *to, void *stack, size_t bytes);
void simt_switch(void **from, void *to);
void simt_switch_last(void **from, void *to);

/* The first thing that a fresh fiber does. */
void simt_switched(void);

/* Where a fiber begins that runs `main` on this stack. */
void *simt_fresh(void *stack, size_t bytes, void (*main)(void));

#endif
