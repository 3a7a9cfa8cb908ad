/* A model of the real one's shapes with made-up weights, and as many of its first layers as are needed to time it: for
 * --plan, which reads no weights. */
#ifndef CORE_RUN_STANDIN_H
#define CORE_RUN_STANDIN_H

#include "core/backend/backend.h"
#include "core/base/err.h"
#include "core/io/wfile.h"
#include "core/model/config.h"
#include "core/model/decoder.h"

/* Layers of one kind stand together: a pass over first .. end - 1 is timed, `share` times that is what all layers of
 * the kind in the model take. */
struct lb_standin_kind {
    int first, end;
    double share;
};

#define LB_STANDIN_KINDS 4

struct lb_standin {
    struct lb_config config; /* the real one's, with fewer layers and less vocabulary; its pointers are lent */
    double head_share;       /* of the vocabulary: what the head's time is to be multiplied by */
    struct lb_standin_kind kind[LB_STANDIN_KINDS];
    int n_kind;
    struct lb_model *model;
    struct lb_wfile weights; /* made up */
};

/* The layers and vocabulary that stand for the model; nothing is made. */
void lb_standin_cut(struct lb_standin *s, const struct lb_config *config, double layer_bytes);

/* Bytes of a tensor of layers are made up from `header`, the real file's directory, whose data is not read. s was cut.
 */
enum lb_status lb_standin_open(struct lb_standin *s, const struct lb_wfile *header, struct lb_backend *backend,
                               struct lb_err *err);
void lb_standin_close(struct lb_standin *s); /* of a zeroed struct too */

#endif
