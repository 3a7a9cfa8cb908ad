/* Weights of a mixture of experts. A rank holds its segments' experts, whole, and its segments of the shared expert. */
#include "core/base/mem.h"
#include "core/model/quant.h"
#include "core/model/weights_impl.h"

/* A cut of a matrix that stands in a tensor alone or, in order of experts, behind others. */
struct cut {
    int il;
    int64_t expert;           /* of EXPERT and EXPERTS roles */
    int64_t n_row, n_col;     /* the whole matrix */
    int64_t row, n_take, col; /* n_take rows from `row` on, columns from `col` on */
};

static bool is_stacked(enum lb_role role)
{
    return role == LB_R_EXPERTS_GATE || role == LB_R_EXPERTS_UP || role == LB_R_EXPERTS_GATE_UP ||
           role == LB_R_EXPERTS_DOWN;
}

static enum lb_status add_cut(struct lb_loader *ld, struct lb_fused *f, enum lb_role role, const struct cut *cut,
                              struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    bool stacked = is_stacked(role);
    struct lb_tensor_name name = stacked ? lb_family_tensor(c->family, c->gguf, role, cut->il, "")
                                         : lb_family_expert_tensor(c->family, c->gguf, role, cut->il, (int)cut->expert);
    const struct lb_wtensor *t = lb_load_find_name(ld, name.text);
    if (!t)
        return lb_err_set(err, LB_E_INPUT, "the model has no tensor '%s'", name.text);
    const int64_t want[3] = {c->moe.n_expert, cut->n_row, cut->n_col};
    LB_TRY(lb_load_check_shape(ld, t, stacked ? want : want + 1, stacked ? 3 : 2, err));
    int64_t row = cut->row + (stacked ? cut->expert * cut->n_row : 0);
    const struct lb_span span = {.row = row, .n_take = cut->n_take};
    lb_fused_add(ld, f, t, &span, cut->n_col, cut->col);
    return LB_OK;
}

/* The matrix of one or two cuts; the second is an up matrix behind its gate. out NULL: another rank's, which is looked
 * at all the same. */
static enum lb_status load_cuts(struct lb_loader *ld, const enum lb_role role[2], const struct cut *cut,
                                const struct lk_cols *cols, struct lb_matrix **out, struct lb_err *err)
{
    struct lb_fused f;
    lb_fused_init(&f, cols->n_col);
    for (int i = 0; i < 2 && role[i] != LB_N_ROLE; i++)
        LB_TRY(add_cut(ld, &f, role[i], cut, err));
    if (!out)
        return LB_OK;
    bool gate_up = role[1] != LB_N_ROLE || role[0] == LB_R_EXPERTS_GATE_UP;
    bool router = role[0] == LB_R_ROUTER;
    struct lb_matrix_spec spec = {
        .cols = cols, .gate_up = gate_up, .f32 = router, .int8 = ld->s->backend->int8 && !router};
    return lb_fused_pack(ld, &f, spec, out, err);
}

static enum lb_status load_experts(struct lb_loader *ld, int il, struct lb_matrix **gate_up, struct lb_matrix **down,
                                   struct lb_err *err)
{
    static const enum lb_role each[] = {LB_R_EXPERT_GATE, LB_R_EXPERT_UP}, each_down[] = {LB_R_EXPERT_DOWN, LB_N_ROLE};
    static const enum lb_role all[] = {LB_R_EXPERTS_GATE, LB_R_EXPERTS_UP}, all_down[] = {LB_R_EXPERTS_DOWN, LB_N_ROLE};
    static const enum lb_role merged[] = {LB_R_EXPERTS_GATE_UP, LB_N_ROLE};
    const struct lb_config *c = ld->s->config;
    const struct lb_slice *s = &ld->s->cols->slice;
    int64_t dim = c->dim, ffn = c->moe.ffn_dim, one[2] = {0, ffn};
    bool fused = lb_load_has(ld, LB_R_EXPERTS_GATE_UP, il);
    const enum lb_role *in = fused ? merged : lb_load_has(ld, LB_R_EXPERTS_GATE, il) ? all : each;
    const enum lb_role *out = lb_load_has(ld, LB_R_EXPERTS_DOWN, il) ? all_down : each_down;
    int64_t n_row = fused ? 2 * ffn : ffn;
    struct lk_cols cols;
    lb_cols_init(&cols, 1, one);
    for (int64_t e = 0; e < c->moe.n_expert; e++) {
        const struct cut up = {il, e, n_row, dim, 0, n_row, 0}, back = {il, e, dim, ffn, 0, dim, 0};
        bool here = e >= s->expert_begin && e < s->expert_end;
        LB_TRY(load_cuts(ld, in, &up, &ld->s->cols->dim, here ? &gate_up[e] : NULL, err));
        LB_TRY(load_cuts(ld, out, &back, &cols, here ? &down[e] : NULL, err));
        ld->w->n_param += 3 * dim * ffn;
    }
    return LB_OK;
}

/* Each segment of the shared expert is an expert of its own: its sum is a leaf of the contract's tree. */
static enum lb_status load_shared(struct lb_loader *ld, int il, struct lb_matrix **gate_up, struct lb_matrix **down,
                                  struct lb_err *err)
{
    static const enum lb_role in[] = {LB_R_SHARED_GATE, LB_R_SHARED_UP}, out[] = {LB_R_SHARED_DOWN, LB_N_ROLE};
    const struct lb_config *c = ld->s->config;
    int64_t dim = c->dim, ffn = c->moe.shared_dim;
    const struct lk_cols *shared = &ld->s->cols->shared;
    if (ffn == 0)
        return LB_OK;
    const struct cut all_up = {il, 0, ffn, dim, 0, 0, 0}, all_back = {il, 0, dim, ffn, 0, 0, 0};
    LB_TRY(load_cuts(ld, in, &all_up, &ld->s->cols->dim, NULL, err)); /* a rank may have no segment of it */
    LB_TRY(load_cuts(ld, out, &all_back, shared, NULL, err));
    ld->w->n_param += 3 * dim * ffn;
    for (int r = 0; r < shared->n_seg; r++) {
        int64_t begin = ld->s->cols->shared_col + shared->begin[r];
        int64_t one[2] = {0, shared->begin[r + 1] - shared->begin[r]};
        if (one[1] == 0)
            continue;
        struct lk_cols cols;
        lb_cols_init(&cols, 1, one);
        const struct cut up = {il, 0, ffn, dim, begin, one[1], 0}, back = {il, 0, dim, ffn, 0, dim, begin};
        LB_TRY(load_cuts(ld, in, &up, &ld->s->cols->dim, &gate_up[r], err));
        LB_TRY(load_cuts(ld, out, &back, &cols, &down[r], err));
    }
    return LB_OK;
}

/* The correction bias and the router stay in f32, whatever the backend's type. */
static enum lb_status load_router(struct lb_loader *ld, int il, struct lb_moe_weights *w, struct lb_err *err)
{
    static const enum lb_role router[] = {LB_R_ROUTER, LB_N_ROLE};
    const struct lb_config *c = ld->s->config;
    int64_t n = c->moe.n_expert;
    const struct cut all = {il, 0, n, c->dim, 0, n, 0};
    struct lb_matrix *m;
    LB_TRY(load_cuts(ld, router, &all, &ld->s->cols->dim, &m, err));
    w->router = m;
    ld->w->n_param += n * c->dim;
    const struct lb_wtensor *t = lb_load_need(ld, LB_R_ROUTER_BIAS, il, "", err);
    if (!t)
        return err->status;
    LB_TRY(lb_load_check(ld, t, n, 0, err));
    lb_quant_read(t->type, t->data, n, ld->vector);
    return ld->s->backend->ops->vector_new(ld->s->backend, ld->vector, n, &w->bias, err);
}

enum lb_status lb_load_moe(struct lb_loader *ld, int il, struct lb_layer *l, struct lb_err *err)
{
    const struct lb_config *c = ld->s->config;
    const struct lb_moe_shape *m = &c->moe;
    size_t n = 2 * (size_t)m->n_expert, n_leaf = (size_t)ld->s->cols->shared.n_seg;
    l->expert = lb_mem_new(n + 2 * n_leaf, sizeof *l->expert);
    if (!l->expert)
        return lb_err_memory(err, "the experts' directory", (n + 2 * n_leaf) * sizeof *l->expert);
    struct lb_matrix **gate_up = l->expert, **down = gate_up + m->n_expert, **shared = gate_up + n;
    l->moe.gate_up = gate_up;
    l->moe.down = down;
    l->moe.shared_gate_up = shared;
    l->moe.shared_down = shared + n_leaf;
    LB_TRY(lb_load_norm(ld, il, LB_R_FFN_NORM, c->dim, &l->ffn_norm, err));
    LB_TRY(load_router(ld, il, &l->moe, err));
    LB_TRY(load_experts(ld, il, gate_up, down, err));
    LB_TRY(load_shared(ld, il, shared, shared + n_leaf, err));
    ld->w->n_layer_product += c->dim * (3 * (m->n_used * m->ffn_dim + m->shared_dim) + m->n_expert);
    return LB_OK;
}
