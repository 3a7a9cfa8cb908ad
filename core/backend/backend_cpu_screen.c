/* The CPU backend's LM head of rows that want their largest logit and no more. Products in int8, which cost half as
 * much, say within bounds what each logit is (args_int8.h); the few that can be the largest are computed by the set's
 * own product from the rows of the file, which gives the bits that the whole head would give. So the answer does not
 * depend on whether a head is screened: only when it pays is a matter of speed.
 *
 * The head in int8 is made when it would have paid by then, or is likely to pay for the rows that run, so that short
 * runs do not wait for it. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "core/backend/backend_cpu.h"

#define SAVES 0.4        /* of what a head takes that screening saves, or nearly so, where it is of use */
#define LIKELY 0.5       /* of the outputs that rows are expected to want yet: they may end before */
#define LEAST_PRICE 2e-9 /* seconds that a weight takes at least until the head is there in int8, about */
#define MANY 4096        /* columns of a row that may be the largest one at most */
#define READ_MANY 8192   /* rows of the file, each of which maps some 64 KiB around it, before they are given back */
#define BLOCKS 4         /* of a thread at least */
#define Y_NUMBERS 32768  /* of approximate logits of a block, which stay in the second cache */

/* A thread's. */
struct room {
    _Atomic bool taken;
    float *x;         /* [n_col] of a row */
    void *act;        /* the row as activations of its own */
    float *number;    /* [panel_cols, n_col] weights that lie nowhere as the set's numbers */
    const void **row; /* [panel_cols] */
    void *w;          /* a panel of them */
    float *y;         /* [panel_cols] */
    int32_t *id;      /* [panel_cols] */
};

struct lb_cpu_screen {
    const struct lb_matrix *of;
    const struct lb_rows *rows; /* of the matrix, lent for the backend's life */
    struct lk_cols cols;        /* K cut for int8 */
    int64_t panel_bytes;
    void *w; /* the head in int8, and its columns' norms: touched when they are made */
    float *whole, *error;
    float most;      /* the largest of their sums */
    size_t bytes;    /* of w */
    double price;    /* seconds that it takes to make w, about */
    double spent;    /* seconds in which the head was computed that might have been screened, before it is made */
    int64_t n_spent; /* in so many steps */
    int64_t n_read;  /* rows of the file since its pages were given back */
    bool made;
    struct lb_tunes tunes;
    struct room *room; /* [threads] */

    /* of a step's rows, as many as a block takes at most */
    void *q;
    struct lk_int8_norms *norms;
    _Atomic float *least; /* the largest logit is no smaller */
    _Atomic int64_t *n_may;
    struct lk_may *may; /* [rows, MANY] */
};

/* A step's work. */
struct job {
    struct lb_cpu *c;
    struct lb_cpu_screen *s;
    struct lk_act a;
    int64_t width;           /* vocabulary columns of a block */
    _Atomic int64_t n_exact; /* logits computed */
};

/* A matrix that may be an LM head whose rows are screened is remembered where it is. */
enum lb_status lb_cpu_screen_offer(struct lb_cpu *c, const struct lb_matrix_spec *spec, const struct lb_matrix *m,
                                   double pack_s, struct lb_err *err)
{
    int64_t begin[LK_MAX_SEG + 1] = {0}, n_col = spec->cols->n_col;
    int64_t n_seg = (n_col + LK_NORM_COLS - 1) / LK_NORM_COLS;
    if (!spec->head || c->screens < 0 || !c->lk.int8.screen || m->packed || m->next || m->int8 || m->n_head > 1 ||
        spec->cols->n_seg > 1 || n_seg > LK_MAX_SEG)
        return LB_OK;
    struct lb_cpu_screen *s = lb_cpu_take(c, 1, sizeof *s, spec->name, err);
    if (!s)
        return LB_E_DEVICE;
    s->of = m;
    s->rows = spec->rows;
    s->price = LEAST_PRICE * (double)(m->n_out * n_col);
    s->price = pack_s > s->price ? pack_s : s->price;
    int64_t n_block = (n_col + LK_INT8_BLOCK - 1) / LK_INT8_BLOCK;
    for (int64_t i = 1; i < n_seg; i++)
        begin[i] = n_block * i / n_seg * LK_INT8_BLOCK;
    begin[n_seg] = n_col;
    lb_cols_init(&s->cols, (int)n_seg, begin);
    s->panel_bytes = (int64_t)c->lk.int8.weight_bytes(c->lk.panel_cols, &s->cols);
    c->screen = s;
    return LB_OK;
}

bool lb_cpu_screen_reads(const struct lb_cpu *c, const struct lb_table *table)
{
    const struct lb_cpu_screen *s = c->screen;
    return s && s->made && s->rows->at && s->rows->at(s->rows, 0) == table->data;
}

static enum lb_status reserve_room(struct lb_cpu *c, const struct lb_cpu_screen *s, struct room *room,
                                   struct lb_err *err)
{
    static const char *what = "logits that may be the largest";
    const size_t n_col = (size_t)s->cols.n_col, panel = (size_t)c->lk.panel_cols;
    const struct lk_cols *cols = &s->of->cols;
    if ((room->x = lb_cpu_take(c, n_col, sizeof *room->x, what, err)) == NULL ||
        (room->act = lb_cpu_take(c, (size_t)cols->packed[1], c->lk.act_bytes, what, err)) == NULL ||
        (room->number = lb_cpu_take(c, panel * n_col, sizeof *room->number, what, err)) == NULL ||
        (room->row = lb_cpu_take(c, panel, sizeof *room->row, what, err)) == NULL ||
        (room->w = lb_cpu_take(c, 1, c->lk.weight_bytes(c->lk.panel_cols, cols), what, err)) == NULL ||
        (room->y = lb_cpu_take(c, panel, sizeof *room->y, what, err)) == NULL ||
        (room->id = lb_cpu_take(c, panel, sizeof *room->id, what, err)) == NULL)
        return LB_E_DEVICE;
    return LB_OK;
}

static enum lb_status reserve(struct lb_cpu *c, struct lb_cpu_screen *s, struct lb_err *err)
{
    static const char *what = "the LM head in int8";
    const size_t n = (size_t)s->of->n_out, n_thread = (size_t)c->base.n_thread;
    const int64_t most = Y_NUMBERS / c->lk.panel_cols;
    const size_t n_row = (size_t)(c->max_out < most ? c->max_out : most);
    s->bytes = c->lk.int8.weight_bytes(s->of->n_out, &s->cols);
    if ((s->w = lb_cpu_take(c, 1, s->bytes, what, err)) == NULL ||
        (s->whole = lb_cpu_take(c, n, sizeof *s->whole, what, err)) == NULL ||
        (s->error = lb_cpu_take(c, n, sizeof *s->error, what, err)) == NULL ||
        (s->q = lb_cpu_take(c, n_row, c->lk.int8.act_bytes(1, &s->cols), what, err)) == NULL ||
        (s->norms = lb_cpu_take(c, n_row, sizeof *s->norms, what, err)) == NULL ||
        (s->least = lb_cpu_take(c, n_row, sizeof *s->least, what, err)) == NULL ||
        (s->n_may = lb_cpu_take(c, n_row, sizeof *s->n_may, what, err)) == NULL ||
        (s->may = lb_cpu_take(c, n_row * MANY, sizeof *s->may, what, err)) == NULL ||
        (s->room = lb_cpu_take(c, n_thread, sizeof *s->room, what, err)) == NULL)
        return LB_E_DEVICE;
    for (size_t i = 0; i < n_thread; i++)
        LB_TRY(reserve_room(c, s, &s->room[i], err));
    return LB_OK;
}

void lb_cpu_screen_reserve(struct lb_cpu *c)
{
    struct lb_err unnamed = LB_ERR_INIT;
    if (c->screen && reserve(c, c->screen, &unnamed) != LB_OK)
        c->screen = NULL;
}

/* There is one for each thread. */
static struct room *room_of(const struct lb_cpu_screen *s)
{
    struct room *room = s->room;
    while (atomic_exchange_explicit(&room->taken, true, memory_order_acquire))
        room++;
    return room;
}

static void room_back(struct room *room)
{
    atomic_store_explicit(&room->taken, false, memory_order_release);
}

/* Weights of vocabulary id `id` as row j of the room, as the set's type has them: returns their type. */
static enum lk_type fetch(const struct lb_cpu *c, const struct lb_cpu_screen *s, struct room *room, int64_t id,
                          int64_t j)
{
    const struct lb_rows *r = s->rows;
    const int64_t n_col = s->cols.n_col;
    if (r->at && (r->data_type == c->base.dtype || c->base.dtype == LB_F32)) {
        room->row[j] = r->at(r, id);
        return (enum lk_type)r->data_type;
    }
    float *x = room->number + j * n_col;
    r->get(r, id, 1, x);
    lb_dtype_round(c->base.dtype, x, n_col);
    room->row[j] = x;
    return LK_F32;
}

static void make_panels(void *ctx, int64_t begin, int64_t end)
{
    const struct job *job = ctx;
    const struct lb_cpu *c = job->c;
    const struct lb_cpu_screen *s = job->s;
    struct room *room = room_of(s);
    const int64_t width = c->lk.panel_cols;
    for (int64_t p = begin; p < end; p++) {
        enum lk_type type = LK_F32;
        for (int64_t j = 0, id = p * width; j < width; j++, id++) {
            room->row[j] = NULL;
            if (id >= s->of->n_out)
                continue;
            type = fetch(c, s, room, id, j);
            struct lk_int8_norms norms;
            c->lk.int8.norms(room->row[j], type, &s->cols, &norms);
            s->whole[id] = norms.whole;
            s->error[id] = norms.error;
        }
        const struct lk_pack pack = {s->w, p, room->row, type, &s->cols};
        c->lk.int8.pack(&pack);
    }
    room_back(room);
}

static void make(struct job *job)
{
    struct lb_cpu_screen *s = job->s;
    int64_t n_panel = (s->of->n_out + job->c->lk.panel_cols - 1) / job->c->lk.panel_cols;
    lb_team_run_even(job->c->team, make_panels, job, n_panel, lb_cpu_grain(job->c, n_panel, LB_CPU_CLAIMS));
    for (int64_t i = 0; i < s->of->n_out; i++) {
        float sum = s->whole[i] + s->error[i];
        s->most = sum <= s->most ? s->most : sum;
    }
    if (s->rows->forget)
        s->rows->forget(s->rows);
    s->made = true;
}

/* Seconds that screening would save until the rows that run have ended, with those that it would have saved. */
static double worth(const struct lb_cpu_screen *s, const struct lb_step *step)
{
    const double each = s->n_spent > 0 ? s->spent / (double)s->n_spent : 0;
    return SAVES * (s->spent + LIKELY * each * step->n_later);
}

/* Whether the head is there in int8, made now where it is worth its price. Nothing is screened from then on where
 * memory is so short that others could want what it takes, or weights are not finite. */
static bool is_ready(struct job *job)
{
    struct lb_cpu *c = job->c;
    struct lb_cpu_screen *s = job->s;
    if (s->made || (c->screens == 0 && worth(s, c->step) < s->price))
        return s->made;
    const bool fits = lb_mem_available() >= 2 * s->bytes;
    if (fits)
        make(job);
    if (!fits || !(s->most < 0x1p100f))
        c->screen = NULL;
    return c->screen;
}

static void quantize_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct job *job = ctx;
    const struct lk_quantize args = {job->s->q, {job->a.data, job->a.n_row, &job->s->cols}};
    job->c->lk.int8.quantize(&args, begin, end);
}

static void begin_rows(void *ctx, int64_t begin, int64_t end)
{
    const struct job *job = ctx;
    struct lb_cpu_screen *s = job->s;
    struct room *room = room_of(s);
    for (int64_t i = begin; i < end; i++) {
        job->c->lk.act_row(&job->a, i, room->x);
        job->c->lk.int8.norms(room->x, LK_F32, &s->cols, &s->norms[i]);
        atomic_store_explicit(&s->least[i], -INFINITY, memory_order_relaxed);
        atomic_store_explicit(&s->n_may[i], 0, memory_order_relaxed);
    }
    room_back(room);
}

/* What a block's approximate logits say of row i. */
static void pick(struct lb_cpu_screen *s, int64_t i, struct lk_screen *a)
{
    struct lk_may may[LK_SCREEN_COLS];
    float old = atomic_load_explicit(&s->least[i], memory_order_relaxed), least = old;
    a->row = s->norms[i];
    int64_t n = s->of->lk->int8.screen(a, &least, may);
    while (least > old && !atomic_compare_exchange_weak_explicit(&s->least[i], &old, least, memory_order_relaxed,
                                                                 memory_order_relaxed)) {
    }
    if (n == 0)
        return;
    int64_t at = atomic_fetch_add_explicit(&s->n_may[i], n, memory_order_relaxed);
    if (at + n <= MANY)
        memcpy(s->may + i * MANY + at, may, (size_t)n * sizeof *may);
}

static void take_blocks(void *ctx, int64_t begin, int64_t end)
{
    const struct job *job = ctx;
    const struct lb_cpu *c = job->c;
    struct lb_cpu_screen *s = job->s;
    _Alignas(64) float y[Y_NUMBERS];
    for (int64_t b = begin; b < end; b++) {
        const int64_t id = b * job->width, left = s->of->n_out - id;
        const struct lk_linear args = {.a = {s->q, job->a.n_row, &s->cols},
                                       .w = (const char *)s->w + id / c->lk.panel_cols * s->panel_bytes,
                                       .n_out = left < job->width ? left : job->width,
                                       .epilogue = LK_EP_STORE,
                                       .y = y,
                                       .y_ld = job->width,
                                       .l2_bytes = c->l2_bytes};
        c->lk.int8.linear(&args, 0, c->lk.int8.linear_items(&args));
        for (int64_t i = 0; i < job->a.n_row; i++) {
            struct lk_screen p = {y + i * job->width, s->whole + id, s->error + id, .n = args.n_out, .id = (int32_t)id};
            pick(s, i, &p);
        }
    }
}

/* The exact logits of n columns, in the room. */
static void take_best(const struct job *job, struct room *room, enum lk_type type, int64_t n, struct lk_best *best)
{
    const struct lb_cpu *c = job->c;
    for (int64_t j = n; j < c->lk.panel_cols; j++)
        room->row[j] = NULL;
    const struct lk_pack pack = {room->w, 0, room->row, type, job->a.cols};
    c->lk.pack(&pack);
    const struct lk_linear args = {.a = {room->act, 1, job->a.cols},
                                   .w = room->w,
                                   .n_out = n,
                                   .epilogue = LK_EP_STORE,
                                   .y = room->y,
                                   .y_ld = n,
                                   .l2_bytes = c->l2_bytes};
    c->lk.linear(&args, 0, c->lk.linear_items(&args));
    for (int64_t j = 0; j < n; j++)
        if (best->id < 0 || room->y[j] > best->value || (room->y[j] == best->value && room->id[j] < best->id))
            *best = (struct lk_best){room->y[j], room->id[j], true};
}

/* Puts the likeliest first: what it turns out to be leaves fewer of the others, whose bounds are wide. */
static void likeliest_first(struct lk_may *may, int64_t n)
{
    for (int64_t k = 1; k < n; k++)
        if (may[k].most > may[0].most) {
            const struct lk_may first = may[0];
            may[0] = may[k];
            may[k] = first;
        }
}

/* Of row i, from the logits that can be its largest; returns how many they were. */
static int64_t finish_row(const struct job *job, struct room *room, int64_t i, struct lk_best *best)
{
    const struct lb_cpu *c = job->c;
    const struct lb_cpu_screen *s = job->s;
    const float least = atomic_load_explicit(&s->least[i], memory_order_relaxed);
    const int64_t n_may = atomic_load_explicit(&s->n_may[i], memory_order_relaxed);
    const struct lk_round round = {{room->act, 1, job->a.cols}, room->x, s->cols.n_col};
    enum lk_type type = LK_F32;
    c->lk.act_row(&job->a, i, room->x);
    c->lk.round(&round, 0, 1);
    int64_t n = 0, n_exact = 0;
    likeliest_first(s->may + i * MANY, n_may);
    for (const struct lk_may *may = s->may + i * MANY, *last = may + n_may; may < last; may++) {
        if (!(may->most >= least) || may->most < best->value)
            continue;
        n_exact++;
        room->id[n] = may->id;
        type = fetch(c, s, room, may->id, n++);
        if (n == c->lk.panel_cols) {
            take_best(job, room, type, n, best);
            n = 0;
        }
    }
    if (n > 0)
        take_best(job, room, type, n, best);
    return n_exact;
}

static void finish_rows(void *ctx, int64_t begin, int64_t end)
{
    struct job *job = ctx;
    struct room *room = room_of(job->s);
    const int64_t n_block = lb_head_blocks(job->s->of->n_out);
    const struct lk_best none = {-INFINITY, -1, true};
    int64_t n_exact = 0;
    for (int64_t i = begin; i < end; i++) {
        struct lk_best *best = job->c->head.best + i * n_block; /* the row's is in the first block */
        for (int64_t b = 0; b < n_block; b++)
            best[b] = none;
        n_exact += finish_row(job, room, i, best);
    }
    atomic_fetch_add_explicit(&job->n_exact, n_exact, memory_order_relaxed);
    room_back(room);
}

/* Whether the bounds hold for all rows: nothing is infinite, and no exact logit can be. */
static bool is_bounded(const struct lb_cpu_screen *s, int64_t n_row)
{
    bool bounded = true;
    for (int64_t i = 0; i < n_row; i++)
        bounded = bounded && s->norms[i].exact * s->most < 0x1p100f;
    return bounded;
}

/* Columns of a block: as many as keep its numbers in the second cache, few enough that each thread has some blocks. */
static int64_t block_width(const struct lb_cpu *c, int64_t n_vocab, int64_t n_row)
{
    const int64_t panel = c->lk.panel_cols, fair = n_vocab / (BLOCKS * c->base.n_thread), most = Y_NUMBERS / n_row;
    int64_t width = fair < most ? fair : most;
    width = width < LK_SCREEN_COLS ? width / panel * panel : LK_SCREEN_COLS;
    return width > panel ? width : panel;
}

static bool screen_rows(struct job *job)
{
    struct lb_cpu *c = job->c;
    struct lb_cpu_screen *s = job->s;
    const int64_t n_row = job->a.n_row;
    const struct lk_quantize quantize = {s->q, {job->a.data, n_row, &s->cols}};
    lb_team_run_even(c->team, begin_rows, job, n_row, lb_cpu_grain(c, n_row, 4));
    if (!is_bounded(s, n_row))
        return false;
    lb_team_run_even(c->team, quantize_rows, job, c->lk.int8.quantize_items(&quantize), 1);
    lb_team_run_even(c->team, take_blocks, job, (s->of->n_out + job->width - 1) / job->width, 1);
    for (int64_t i = 0; i < n_row; i++)
        if (atomic_load_explicit(&s->n_may[i], memory_order_relaxed) > MANY)
            return false;
    lb_team_run_even(c->team, finish_rows, job, n_row, 1);
    return true;
}

static struct lb_tune *tune_of(struct lb_cpu_screen *s, int64_t n_row)
{
    return lb_tune_likely(&s->tunes, (const int64_t[4]){lb_tune_size(n_row)}, true);
}

bool lb_cpu_screens(const struct lb_cpu *c, const struct lb_matrix *w)
{
    if (!c->screen || c->screen->of != w)
        return false;
    for (int64_t j = 0; j < c->step->n_out; j++)
        if (c->step->out_flags[j] != 0)
            return false;
    return true;
}

bool lb_cpu_screen(struct lb_cpu *c, const struct lk_act *a)
{
    struct lb_cpu_screen *s = c->screen;
    struct job job = {c, s, *a, block_width(c, s->of->n_out, a->n_row), 0};
    if (a->n_row * job.width > Y_NUMBERS || !is_ready(&job))
        return false;
    if ((c->screens == 0 && !lb_tune_way(tune_of(s, a->n_row))) || !screen_rows(&job))
        return false;
    const int64_t n_exact = atomic_load_explicit(&job.n_exact, memory_order_relaxed);
    c->base.counts.screened_rows += a->n_row;
    c->base.counts.exact_logits += n_exact;
    s->n_read += n_exact + a->n_row; /* as an embedding, each is read once more */
    if (s->n_read >= READ_MANY && s->rows->forget) {
        s->rows->forget(s->rows);
        s->n_read = 0;
    }
    return true;
}

void lb_cpu_screen_took(struct lb_cpu *c, int64_t n_row, double seconds)
{
    struct lb_cpu_screen *s = c->screen;
    if (s && s->made)
        lb_tune_took(tune_of(s, n_row), seconds / (double)n_row);
    if (!s || s->made)
        return;
    s->spent += seconds;
    s->n_spent++;
}
