/* A look at a row that is not parsed yet: how its prompt begins and what id it has, at the speed of reading. What a
 * line that is no good row looks like does not matter: it is found out when the row is parsed. */
#ifndef CORE_IO_ROW_SCAN_H
#define CORE_IO_ROW_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/io/row.h"

#define LB_ROW_START_BYTES 256

struct lb_row_look {
    uint64_t start; /* hash of the first LB_ROW_START_BYTES of the prompt, as the line writes it */
    size_t n;       /* bytes of the prompt likewise; the line's where there is none */
    bool has_id;    /* it seems to have an id of its own, ... */
    bool plain_id;  /* ... with this key; else the key can be had by lb_row_parse alone */
    uint64_t key;
};

/* Any line, of any length. */
void lb_row_scan(struct lb_row_look *look, const struct lb_row_spec *spec, const char *line, size_t n);

#endif
