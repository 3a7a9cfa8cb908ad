/* The adapters that a run names, `DIR` or `NAME=DIR`, and what rows call them by. */
#ifndef CORE_RUN_ADAPTER_H
#define CORE_RUN_ADAPTER_H

#include "core/model/lora.h"

/* Zeros: none. */
struct lb_adapters {
    struct lb_lora_source *item; /* [n], in the order of the command line */
    char **text;                 /* [n] what names lie in, owned */
    int32_t n;
    int32_t all; /* the one of rows that name none, from 1; 0: they run without */
};

/* text: [n] lent. A text is NAME=DIR where no '/' stands before its first '='. LB_E_USAGE: a name is empty, no UTF-8 or
 * given twice, or two have none. */
enum lb_status lb_adapters_init(struct lb_adapters *a, const char *const *text, size_t n, struct lb_err *err);
void lb_adapters_release(struct lb_adapters *a);

/* The adapter of that name, from 1; 0: there is none. */
int32_t lb_adapters_find(const struct lb_adapters *a, const char *name);

#endif
