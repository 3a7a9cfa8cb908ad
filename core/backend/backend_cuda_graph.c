/* The CUDA backend's graphs: the layers of decode steps, recorded and queued again with one call.
 *
 * What launches take is the same in two steps where the step's tables and plans of attention lie at the same addresses
 * and have the same counts: that is the key, so a graph holds exactly so many rows, and nothing of it is computed for
 * rows that are not there. What differs between such steps, ids, positions, pages, is read from the tables. Uploads,
 * pages, rotary angles and the LM head stand outside. A key that comes for the second time is recorded: short runs pay
 * nothing. So many graphs as asked for are kept, those that were used last. */
#include <string.h>

#include "core/backend/backend_cuda_parts.h"
#include "core/base/mem.h"

struct graph {
    cudaGraphExec_t exec;             /* NULL: seen once */
    int64_t used;                     /* the last step */
    int64_t product_rows, token_rows; /* what a replay counts */
    /* the key */
    int32_t n_tok, n_seq, n_out;
    int n_plan;
    struct lb_cuda_tables t;
    struct lb_cuda_lora lora;
    struct lb_cuda_plan plan[LB_CUDA_PLANS];
};

struct lb_cuda_graphs {
    struct graph *graph; /* [most] */
    int n, most;
    struct graph *recording;          /* NULL: none is */
    struct lb_backend_counts counts;  /* when its recording began */
    bool off;                         /* the device would not have them */
    int64_t n_step, n_replay, n_made; /* of decode steps; queued from graphs; graphs that were made */
};

enum lb_status lb_cuda_graphs_init(struct lb_cuda *c, int most, struct lb_err *err)
{
    if (most <= 0)
        return LB_OK;
    struct lb_cuda_graphs *g = lb_cuda_take(c, LB_CUDA_HOST, 1, sizeof *g, "graphs", err);
    if (!g || (g->graph = lb_cuda_take(c, LB_CUDA_HOST, (size_t)most, sizeof *g->graph, "graphs", err)) == NULL)
        return LB_E_DEVICE;
    g->most = most;
    c->graphs = g;
    return LB_OK;
}

void lb_cuda_graphs_stop(struct lb_cuda *c)
{
    if (c->graphs)
        c->graphs->off = true;
}

void lb_cuda_layers_forget(struct lb_backend *be)
{
    struct lb_cuda *c = lb_cuda_of(be);
    struct lb_cuda_graphs *g = c->graphs;
    if (!g)
        return;
    if (g->n > 0) /* a step whose wait failed may still be under way */
        cudaStreamSynchronize(c->stream);
    for (int i = 0; i < g->n; i++)
        if (g->graph[i].exec)
            cudaGraphExecDestroy(g->graph[i].exec);
    g->n = 0;
    if (g->n_step > 0)
        lb_log_put(c->log, LB_LOG_DEBUG, "graphs: %lld of %lld decode steps were queued from %lld graphs",
                   (long long)g->n_replay, (long long)g->n_step, (long long)g->n_made);
    g->n_step = g->n_replay = g->n_made = 0;
}

/* Each sequence has one token, and no layer asks the host for anything in between. */
static bool is_alike(const struct lb_cuda *c)
{
    const struct lb_step *s = c->step;
    bool host_decides = c->kv->index || (c->moe && c->base.dtype == LB_F32);
    return s->n_tok == s->n_seq && !host_decides;
}

static bool same_plan(const struct lb_cuda_plan *a, const struct lb_cuda_plan *b)
{
    return memcmp(&a->plan, &b->plan, sizeof a->plan) == 0 && a->window == b->window && a->seq == b->seq;
}

/* Rows of adapters are counted in tiles; which rows and adapters they are stands in the tables. */
static bool same_adapters(const struct lb_cuda_lora *a, const struct lb_cuda_lora *b)
{
    return a->n_tile == b->n_tile && (a->n_tile == 0 || (a->row == b->row && a->tile == b->tile));
}

static bool is_key(const struct lb_cuda *c, const struct graph *g)
{
    const struct lb_step *s = c->step;
    if (g->n_tok != s->n_tok || g->n_seq != s->n_seq || g->n_out != s->n_out || g->n_plan != c->n_plan ||
        memcmp(&g->t, &c->t, sizeof g->t) != 0 || !same_adapters(&g->lora, &c->lora))
        return false;
    for (int i = 0; i < g->n_plan; i++)
        if (!same_plan(&g->plan[i], &c->plan[i]))
            return false;
    return true;
}

static struct graph *find(struct lb_cuda *c)
{
    for (int i = 0; i < c->graphs->n; i++)
        if (is_key(c, &c->graphs->graph[i]))
            return &c->graphs->graph[i];
    return NULL;
}

/* Notes the key, in place of the one that was used longest ago where there are as many as are kept. Its graph may be
 * the older step's, which is through then. */
static void note(struct lb_cuda *c)
{
    struct lb_cuda_graphs *g = c->graphs;
    struct graph *to = &g->graph[0];
    if (g->n < g->most)
        to = &g->graph[g->n++];
    else
        for (int i = 1; i < g->n; i++)
            to = g->graph[i].used < to->used ? &g->graph[i] : to;
    if (to->exec && c->other.step && !lb_cuda_wait(c, "a decode step"))
        return;
    if (to->exec && !lb_cuda_ok(c, cudaGraphExecDestroy(to->exec), "cudaGraphExecDestroy", "a decode step"))
        return;
    *to = (struct graph){.used = c->step->number,
                         .n_tok = c->step->n_tok,
                         .n_seq = c->step->n_seq,
                         .n_out = c->step->n_out,
                         .n_plan = c->n_plan,
                         .t = c->t,
                         .lora = c->lora};
    memcpy(to->plan, c->plan, (size_t)c->n_plan * sizeof *to->plan);
}

static bool launch(struct lb_cuda *c, const struct graph *g)
{
    return lb_cuda_ok(c, cudaGraphLaunch(g->exec, c->stream), "cudaGraphLaunch", "a decode step");
}

bool lb_cuda_layers_begin(struct lb_backend *be)
{
    struct lb_cuda *c = lb_cuda_of(be);
    struct lb_cuda_graphs *g = c->graphs;
    if (!g || lb_cuda_idle(c) || !is_alike(c))
        return false;
    g->recording = NULL;
    g->n_step++;
    if (g->off || (c->base.dtype == LB_BF16 && !lb_cuda_plan_all(c)))
        return false;
    struct graph *one = find(c);
    if (!one) {
        note(c);
        return false;
    }
    one->used = c->step->number;
    if (one->exec) {
        if (!launch(c, one))
            return false;
        g->n_replay++;
        be->counts.product_rows += one->product_rows;
        be->counts.token_rows += one->token_rows;
        return true;
    }
    g->counts = be->counts;
    if (lb_cuda_ok(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture",
                   "a decode step"))
        g->recording = one;
    return false;
}

/* What says that steps cannot be recorded here, or that there is no memory for it, and nothing else. */
static bool is_refusal(cudaError_t code)
{
    return code == cudaErrorMemoryAllocation || code == cudaErrorNotSupported ||
           (code >= cudaErrorStreamCaptureUnsupported && code <= cudaErrorCapturedEvent) ||
           code == cudaErrorStreamCaptureWrongThread;
}

static void refused(struct lb_cuda *c, cudaError_t code)
{
    struct lb_cuda_graphs *g = c->graphs;
    cudaGetLastError();
    lb_log_put(c->log, LB_LOG_INFO, "decode steps are not recorded as graphs: %s", cudaGetErrorString(code));
    c->err = (struct lb_err)LB_ERR_INIT; /* what was recorded has not run: if more is wrong, the layers find it again */
    g->off = true;
}

/* Makes a graph of what was recorded and launches it. Where a rank that its collectives would meet is gone, or this
 * one's communicator with it, it is not launched. */
static bool finish(struct lb_cuda *c, struct graph *one)
{
    struct lb_cuda_graphs *g = c->graphs;
    cudaGraph_t graph = NULL;
    cudaError_t code = cudaStreamEndCapture(c->stream, &graph);
    if (is_refusal(code)) {
        refused(c, code);
        return false;
    }
    if (!lb_cuda_ok(c, code, "cudaStreamEndCapture", "a decode step"))
        return false;
    bool alive = !c->base.alive || c->base.alive(c->base.alive_ctx, false, &c->err);
    bool ok = alive && c->err.status == LB_OK;
    if (ok && is_refusal(code = cudaGraphInstantiate(&one->exec, graph, 0))) {
        refused(c, code);
        one->exec = NULL;
        ok = false;
    } else if (ok) {
        ok = lb_cuda_ok(c, code, "cudaGraphInstantiate", "a decode step");
    }
    ok = lb_cuda_ok(c, cudaGraphDestroy(graph), "cudaGraphDestroy", "a decode step") && ok;
    one->product_rows = c->base.counts.product_rows - g->counts.product_rows;
    one->token_rows = c->base.counts.token_rows - g->counts.token_rows;
    return ok && launch(c, one);
}

bool lb_cuda_layers_end(struct lb_backend *be)
{
    struct lb_cuda *c = lb_cuda_of(be);
    struct lb_cuda_graphs *g = c->graphs;
    struct graph *one = g ? g->recording : NULL;
    if (!one)
        return false;
    g->recording = NULL;
    if (!finish(c, one)) {
        be->counts = g->counts;
        return true;
    }
    g->n_made++;
    return false;
}
