/* Between the stand-ins (C, the real headers of CUDA) and the model of a block (C++, its own words for the same). */
#ifndef KERNELS_TESTS_STANDIN_BRIDGE_H
#define KERNELS_TESTS_STANDIN_BRIDGE_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void standin_bridge_add(void *begin, size_t bytes);
void standin_bridge_remove(void *begin);

/* Runs a launch as it was queued: 0 or the model's fault, with its words. */
int standin_bridge_run(void *call);
const char *standin_bridge_message(void);

/* Called by lk_launch: a copy of the launch, call[bytes], goes to the stream. 0 or an error code. */
int standin_bridge_queue(const char *name, void *stream, const void *call, size_t bytes);
/* Called for each access of a kernel. */
void standin_bridge_saw(const void *at, size_t bytes, bool store);

#ifdef __cplusplus
}
#endif

#endif
