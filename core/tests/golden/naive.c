#include "core/tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Written from the formulas alone (RMSNorm, RoPE, grouped-query attention in a window, norms of heads and of outputs,
 * SwiGLU, experts that a router chooses), in double, with no code of the engine. Weights are float32 so that the file
 * holds exactly what is computed with. */

struct matrix {
    char name[96];
    int64_t rows, cols; /* cols 0: a vector of `rows` */
    float *w;
    int64_t stack; /* matrices of rows / stack rows each, one tensor of three dimensions; 0: one matrix */
};

enum {
    T_NORM1,
    T_NORM2,
    T_QN, /* of heads */
    T_KN,
    T_AN, /* of outputs */
    T_FN,
    T_QAN, /* of latents */
    T_KVAN,
    T_Q,
    T_K,
    T_V,
    T_O,
    T_GATE,
    T_UP,
    T_GATE_UP, /* gate rows, then up rows */
    T_DOWN,
    T_QB,
    T_KB,
    T_VB,
    T_OB,
    T_GB,
    T_UB,
    T_DB,
    T_ROUTER,
    T_RB,
    T_EXPERTS_IN, /* of each expert gate rows, then up rows */
    T_EXPERTS_OUT,
    T_SHARED_GATE,
    T_SHARED_UP,
    T_SHARED_DOWN,
    T_QA, /* latent attention */
    T_QA_B,
    T_Q_OF,
    T_KVA,
    T_KVA_B,
    T_KV_OF, /* of each head key rows, then value rows */
    N_T
};

struct naive_model {
    struct naive_shape s;
    struct matrix embed, norm, head;
    struct matrix *layer; /* [n_layer][N_T] */
    uint64_t state;
};

static double next_gauss(struct naive_model *m)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) { /* sum of uniforms is normal enough here */
        m->state = m->state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(m->state >> 40) / (double)(1 << 24);
    }
    return sum - 6.0;
}

/* Fills x, whose name and shape are set. */
static void draw(struct naive_model *m, struct matrix *x, double mean, double sd)
{
    int64_t n = x->rows * (x->cols ? x->cols : 1);
    x->w = malloc((size_t)n * sizeof *x->w);
    for (int64_t i = 0; i < n; i++)
        x->w[i] = (float)(mean + sd * next_gauss(m));
}

static bool is_glm(const struct naive_shape *s)
{
    return s->family == NAIVE_GLM || s->family == NAIVE_GLM4;
}

static void draw_layer(struct naive_model *m, struct matrix *t, int il)
{
    const struct naive_shape *s = &m->s;
    const int64_t q = s->n_head * s->head_dim, kv = s->n_kv_head * s->head_dim;
    const bool qkv_bias = s->attn_bias || s->family == NAIVE_QWEN2;
    const bool o_bias = s->attn_bias && (s->family < NAIVE_GLM || s->family == NAIVE_LITE);
    const bool lat = s->kv_rank > 0, q_lat = lat && s->q_rank > 0, heads_of_x = !lat;
    const bool moe = s->n_expert > 0 && il > 0, shared = moe && s->n_shared > 0;
    const int64_t e = s->n_expert, wide = s->n_shared * s->moe_dim;
    const bool fused = is_glm(s), sandwich = s->family == NAIVE_GLM4, heads = s->family == NAIVE_QWEN3;
    const struct {
        const char *name;
        int64_t rows, cols;
        bool there;
    } list[N_T] = {
        [T_NORM1] = {"input_layernorm.weight", s->dim, 0, true},
        [T_NORM2] = {"post_attention_layernorm.weight", s->dim, 0, true},
        [T_QN] = {"self_attn.q_norm.weight", s->head_dim, 0, heads},
        [T_KN] = {"self_attn.k_norm.weight", s->head_dim, 0, heads},
        [T_AN] = {"post_self_attn_layernorm.weight", s->dim, 0, sandwich},
        [T_FN] = {"post_mlp_layernorm.weight", s->dim, 0, sandwich},
        [T_Q] = {"self_attn.q_proj.weight", q, s->dim, !q_lat},
        [T_K] = {"self_attn.k_proj.weight", kv, s->dim, heads_of_x},
        [T_V] = {"self_attn.v_proj.weight", kv, s->dim, heads_of_x},
        [T_O] = {"self_attn.o_proj.weight", s->dim, q, true},
        [T_GATE] = {"mlp.gate_proj.weight", s->ffn_dim, s->dim, !fused && !moe},
        [T_UP] = {"mlp.up_proj.weight", s->ffn_dim, s->dim, !fused && !moe},
        [T_GATE_UP] = {"mlp.gate_up_proj.weight", 2 * s->ffn_dim, s->dim, fused},
        [T_DOWN] = {"mlp.down_proj.weight", s->dim, s->ffn_dim, !moe},
        [T_QB] = {"self_attn.q_proj.bias", q, 0, qkv_bias && !lat},
        [T_KB] = {"self_attn.k_proj.bias", kv, 0, qkv_bias && !lat},
        [T_VB] = {"self_attn.v_proj.bias", kv, 0, qkv_bias && !lat},
        [T_OB] = {"self_attn.o_proj.bias", s->dim, 0, o_bias},
        [T_GB] = {"mlp.gate_proj.bias", s->ffn_dim, 0, s->mlp_bias},
        [T_UB] = {"mlp.up_proj.bias", s->ffn_dim, 0, s->mlp_bias},
        [T_DB] = {"mlp.down_proj.bias", s->dim, 0, s->mlp_bias},
        [T_ROUTER] = {"mlp.gate.weight", e, s->dim, moe},
        [T_RB] = {"mlp.gate.e_score_correction_bias", e, 0, moe},
        [T_EXPERTS_IN] = {"mlp.experts.gate_up_proj", e * 2 * s->moe_dim, s->dim, moe},
        [T_EXPERTS_OUT] = {"mlp.experts.down_proj", e * s->dim, s->moe_dim, moe},
        [T_SHARED_GATE] = {"mlp.shared_experts.gate_proj.weight", wide, s->dim, shared},
        [T_SHARED_UP] = {"mlp.shared_experts.up_proj.weight", wide, s->dim, shared},
        [T_SHARED_DOWN] = {"mlp.shared_experts.down_proj.weight", s->dim, wide, shared},
        [T_QAN] = {"self_attn.q_a_layernorm.weight", s->q_rank, 0, q_lat},
        [T_KVAN] = {"self_attn.kv_a_layernorm.weight", s->kv_rank, 0, lat},
        [T_QA] = {"self_attn.q_a_proj.weight", s->q_rank, s->dim, q_lat},
        [T_QA_B] = {"self_attn.q_a_proj.bias", s->q_rank, 0, q_lat && s->attn_bias},
        [T_Q_OF] = {"self_attn.q_b_proj.weight", q, s->q_rank, q_lat},
        [T_KVA] = {"self_attn.kv_a_proj_with_mqa.weight", s->kv_rank + s->n_rot, s->dim, lat},
        [T_KVA_B] = {"self_attn.kv_a_proj_with_mqa.bias", s->kv_rank + s->n_rot, 0, lat && s->attn_bias},
        [T_KV_OF] = {"self_attn.kv_b_proj.weight", 2 * q - s->n_head * s->n_rot, s->kv_rank, lat},
    };
    for (int i = 0; i < N_T; i++) {
        if (!list[i].there)
            continue;
        t[i] = (struct matrix){.rows = list[i].rows, .cols = list[i].cols};
        t[i].stack = i == T_EXPERTS_IN || i == T_EXPERTS_OUT ? e : 0;
        snprintf(t[i].name, sizeof t[i].name, "model.layers.%d.%s", il, list[i].name);
        bool norm = i <= T_KVAN;
        double sd = list[i].cols ? 1.2 / sqrt((double)list[i].cols) : 0.2;
        draw(m, &t[i], norm ? 1.0 : 0.0, sd);
    }
}

struct naive_model *naive_new(const struct naive_shape *shape, uint64_t seed)
{
    struct naive_model *m = calloc(1, sizeof *m);
    m->s = *shape;
    m->state = seed * 2654435761u + 12345;
    m->embed = (struct matrix){"model.embed_tokens.weight", shape->n_vocab, shape->dim, NULL, 0};
    draw(m, &m->embed, 0.0, 0.3);
    m->norm = (struct matrix){"model.norm.weight", shape->dim, 0, NULL, 0};
    draw(m, &m->norm, 1.0, 0.2);
    m->head = (struct matrix){"lm_head.weight", shape->n_vocab, shape->dim, NULL, 0};
    if (!shape->tied)
        draw(m, &m->head, 0.0, 2.0 / sqrt((double)shape->dim));
    m->layer = calloc((size_t)shape->n_layer * N_T, sizeof *m->layer);
    for (int il = 0; il < shape->n_layer; il++)
        draw_layer(m, m->layer + il * N_T, il);
    return m;
}

void naive_free(struct naive_model *m)
{
    free(m->embed.w);
    free(m->norm.w);
    free(m->head.w);
    for (int64_t i = 0; i < m->s.n_layer * N_T; i++)
        free(m->layer[i].w);
    free(m->layer);
    free(m);
}

/* Sums of every eighth product side by side, which a processor adds at once. */
static double dot(const float *w, const double *x, int64_t n)
{
    double part[8] = {0}, sum = 0;
    int64_t c = 0;
    for (; c + 8 <= n; c += 8)
        for (int i = 0; i < 8; i++)
            part[i] += (double)w[c + i] * x[c + i];
    for (; c < n; c++)
        sum += (double)w[c] * x[c];
    for (int i = 0; i < 8; i++)
        sum += part[i];
    return sum;
}

/* y[rows] = W x + b */
static void product(double *y, const struct matrix *w, const double *x, const struct matrix *bias)
{
    for (int64_t r = 0; r < w->rows; r++)
        y[r] = (bias && bias->w ? (double)bias->w[r] : 0.0) + dot(w->w + r * w->cols, x, w->cols);
}

static void norm_by(double *y, const double *x, const struct matrix *w, int64_t n, double eps)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    double scale = 1.0 / sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * scale * (double)w->w[i];
}

static void rms_norm(double *y, const double *x, const struct matrix *w, int64_t n)
{
    norm_by(y, x, w, n, 1e-5);
}

/* One head or a part of it: `half` pairs of neighbors or of halves. */
static void turn(const struct naive_shape *s, double *v, int64_t half, int64_t pos, bool neighbors)
{
    for (int64_t i = 0; i < half; i++) {
        float freq = 1.0f / powf((float)s->theta, (float)(2 * i) / (float)(2 * half));
        double a = (double)(freq * (float)pos);
        double *lo = neighbors ? v + 2 * i : v + i, *hi = neighbors ? v + 2 * i + 1 : v + i + half;
        double x0 = *lo, x1 = *hi;
        *lo = x0 * cos(a) - x1 * sin(a);
        *hi = x1 * cos(a) + x0 * sin(a);
    }
}

/* Each of n_head heads: normalized where there is a weight, then rotated; GLM turns pairs of neighbors. */
static void head_rope(const struct naive_shape *s, double *x, int64_t n_head, int64_t pos, const struct matrix *norm)
{
    const int64_t d = s->head_dim, half = (s->n_rot > 0 ? s->n_rot : d) / 2;
    for (int64_t h = 0; h < n_head; h++) {
        double *v = x + h * d;
        if (norm->w)
            rms_norm(v, v, norm, d);
        turn(s, v, half, pos, is_glm(s));
    }
}

/* Keys and values [last + 1, n_kv_head * head_dim] that one token sees: first .. last. */
struct seen {
    const double *k, *v;
    int64_t first, last;
};

static void attend(const struct naive_shape *s, double *out, const double *q, const struct seen *see)
{
    const int64_t d = s->head_dim, kv_dim = s->n_kv_head * d, first = see->first, pos = see->last;
    const double *k = see->k, *v = see->v;
    double *p = malloc((size_t)(pos + 1) * sizeof *p);
    for (int64_t h = 0; h < s->n_head; h++) {
        const int64_t at = h / (s->n_head / s->n_kv_head) * d;
        double sum = 0, best = -INFINITY;
        for (int64_t j = first; j <= pos; j++) {
            double dot = 0;
            for (int64_t i = 0; i < d; i++)
                dot += q[h * d + i] * k[j * kv_dim + at + i];
            p[j] = dot / sqrt((double)d);
            best = fmax(best, p[j]);
        }
        for (int64_t j = first; j <= pos; j++)
            sum += p[j] = exp(p[j] - best);
        for (int64_t i = 0; i < d; i++) {
            double o = 0;
            for (int64_t j = first; j <= pos; j++)
                o += p[j] * v[j * kv_dim + at + i];
            out[h * d + i] = o / sum;
        }
    }
    free(p);
}

/* Keys and values made of one latent a token, as the heads' own: DeepSeek-V2 without any absorption. */
static void latent(const struct naive_shape *s, const double *h, const struct matrix *l, double *const qkv[3],
                   int64_t pos)
{
    const int64_t d = s->head_dim, nope = d - s->n_rot;
    double *c = calloc((size_t)(s->kv_rank + s->n_rot + s->q_rank + s->n_head * (nope + d)), sizeof *c);
    double *turning = c + s->kv_rank, *a = turning + s->n_rot, *kv = a + s->q_rank;
    if (s->q_rank > 0) {
        product(a, &l[T_QA], h, &l[T_QA_B]);
        norm_by(a, a, &l[T_QAN], s->q_rank, 1e-6);
    }
    product(qkv[0], s->q_rank > 0 ? &l[T_Q_OF] : &l[T_Q], s->q_rank > 0 ? a : h, NULL);
    product(c, &l[T_KVA], h, &l[T_KVA_B]);
    norm_by(c, c, &l[T_KVAN], s->kv_rank, 1e-6);
    product(kv, &l[T_KV_OF], c, NULL);
    turn(s, turning, s->n_rot / 2, pos, !s->half_split);
    for (int64_t ih = 0; ih < s->n_head; ih++) {
        turn(s, qkv[0] + ih * d + nope, s->n_rot / 2, pos, !s->half_split);
        for (int64_t i = 0; i < d; i++) {
            qkv[1][ih * d + i] = i < nope ? kv[ih * (nope + d) + i] : turning[i - nope];
            qkv[2][ih * d + i] = kv[ih * (nope + d) + nope + i];
        }
    }
    free(c);
}

struct scratch {
    double *x, *h, *q, *a, *gate, *up, *down, *k, *v;
};

/* x += down, normalized where there is a weight */
static void add(struct scratch *t, const struct matrix *norm, int64_t dim)
{
    if (norm->w)
        rms_norm(t->down, t->down, norm, dim);
    for (int64_t i = 0; i < dim; i++)
        t->x[i] += t->down[i];
}

static void mlp(const struct naive_shape *s, struct scratch *t, const struct matrix *l)
{
    if (l[T_GATE_UP].w) {
        struct matrix half = {.rows = s->ffn_dim, .cols = s->dim, .w = l[T_GATE_UP].w};
        product(t->gate, &half, t->h, NULL);
        half.w += s->ffn_dim * s->dim;
        product(t->up, &half, t->h, NULL);
    } else {
        product(t->gate, &l[T_GATE], t->h, &l[T_GB]);
        product(t->up, &l[T_UP], t->h, &l[T_UB]);
    }
    for (int64_t i = 0; i < s->ffn_dim; i++)
        t->gate[i] = t->gate[i] / (1 + exp(-t->gate[i])) * t->up[i];
    product(t->down, &l[T_DOWN], t->gate, &l[T_DB]);
}

/* out += weight * one expert of t->h: gate, up, down. */
static void add_expert(struct scratch *t, const struct matrix w[3], double weight, double *out)
{
    double *y = malloc((size_t)w[2].rows * sizeof *y);
    product(t->gate, &w[0], t->h, NULL);
    product(t->up, &w[1], t->h, NULL);
    for (int64_t i = 0; i < w[0].rows; i++)
        t->gate[i] = t->gate[i] / (1 + exp(-t->gate[i])) * t->up[i];
    product(y, &w[2], t->gate, NULL);
    for (int64_t i = 0; i < w[2].rows; i++)
        out[i] += weight * y[i];
    free(y);
}

/* Whether fewer than n of all numbers are larger than x[i] (none are equal, drawn at random). */
static bool among(const double *x, int64_t i, int64_t n_all, int64_t n)
{
    int64_t larger = 0;
    for (int64_t j = 0; j < n_all; j++)
        larger += x[j] > x[i];
    return larger < n;
}

static void moe(const struct naive_shape *s, struct scratch *t, const struct matrix *l)
{
    enum { MAX = 64 };
    const int64_t n = s->n_expert, size = n / s->n_group, width = s->moe_dim;
    double weight[MAX], c[MAX], group[MAX], sum = 0;
    product(weight, &l[T_ROUTER], t->h, NULL);
    for (int64_t e = 0; e < n; e++) {
        weight[e] = 1 / (1 + exp(-weight[e]));
        c[e] = weight[e] + (double)l[T_RB].w[e];
    }
    for (int64_t g = 0; g < s->n_group; g++) {
        group[g] = 0;
        for (int64_t e = g * size; e < (g + 1) * size; e++)
            group[g] += among(c + g * size, e - g * size, size, 2) ? c[e] : 0;
    }
    for (int64_t e = 0; e < n; e++)
        c[e] = among(group, e / size, s->n_group, s->n_group_used) ? c[e] : -INFINITY;
    for (int64_t e = 0; e < n; e++)
        sum += among(c, e, n, s->n_used) ? weight[e] : 0;
    for (int64_t i = 0; i < s->dim; i++)
        t->down[i] = 0;
    for (int64_t e = 0; e < n; e++) {
        float *in = l[T_EXPERTS_IN].w + e * 2 * width * s->dim;
        struct matrix w[3] = {{.rows = width, .cols = s->dim, .w = in},
                              {.rows = width, .cols = s->dim, .w = in + width * s->dim},
                              {.rows = s->dim, .cols = width, .w = l[T_EXPERTS_OUT].w + e * s->dim * width}};
        if (among(c, e, n, s->n_used))
            add_expert(t, w, 1.5 * weight[e] / sum, t->down);
    }
    struct matrix shared[3] = {l[T_SHARED_GATE], l[T_SHARED_UP], l[T_SHARED_DOWN]};
    if (s->n_shared > 0)
        add_expert(t, shared, 1, t->down);
}

static void token(const struct naive_model *m, struct scratch *t, int32_t id, int64_t pos, int64_t n)
{
    const struct naive_shape *s = &m->s;
    const int64_t kv_dim = s->n_kv_head * s->head_dim;
    for (int64_t i = 0; i < s->dim; i++)
        t->x[i] = (double)m->embed.w[id * s->dim + i];
    for (int il = 0; il < s->n_layer; il++) {
        const struct matrix *l = m->layer + il * N_T;
        double *k = t->k + il * n * kv_dim, *v = t->v + il * n * kv_dim;
        rms_norm(t->h, t->x, &l[T_NORM1], s->dim);
        if (s->kv_rank > 0) {
            latent(s, t->h, l, (double *[]){t->q, k + pos * kv_dim, v + pos * kv_dim}, pos);
        } else {
            product(t->q, &l[T_Q], t->h, &l[T_QB]);
            product(k + pos * kv_dim, &l[T_K], t->h, &l[T_KB]);
            product(v + pos * kv_dim, &l[T_V], t->h, &l[T_VB]);
            head_rope(s, t->q, s->n_head, pos, &l[T_QN]);
            head_rope(s, k + pos * kv_dim, s->n_kv_head, pos, &l[T_KN]);
        }
        struct seen see = {k, v, 0, pos};
        if (s->window > 0 && il >= s->n_full && pos >= s->window)
            see.first = pos - s->window + 1;
        attend(s, t->a, t->q, &see);
        product(t->down, &l[T_O], t->a, &l[T_OB]);
        add(t, &l[T_AN], s->dim);
        rms_norm(t->h, t->x, &l[T_NORM2], s->dim);
        if (l[T_ROUTER].w)
            moe(s, t, l);
        else
            mlp(s, t, l);
        add(t, &l[T_FN], s->dim);
    }
    rms_norm(t->h, t->x, &m->norm, s->dim);
}

void naive_forward(const struct naive_model *m, const int32_t *ids, int64_t first, int64_t n, double *logits)
{
    const struct naive_shape *s = &m->s;
    const size_t q = (size_t)(s->n_head * s->head_dim), kv = (size_t)(s->n_kv_head * s->head_dim);
    const size_t dim = (size_t)s->dim, ffn = (size_t)(s->ffn_dim + (s->n_shared + 1) * s->moe_dim),
                 cache = (size_t)(s->n_layer * n) * kv;
    double *block = calloc(3 * dim + 2 * q + 2 * ffn + 2 * cache, sizeof *block), *at = block;
    struct scratch t = {.x = at, .h = at + dim, .down = at + 2 * dim};
    at += 3 * dim;
    t.q = at;
    t.a = at + q;
    at += 2 * q;
    t.gate = at;
    t.up = at + ffn;
    at += 2 * ffn;
    t.k = at;
    t.v = at + cache;
    for (int64_t i = 0; i < n; i++) {
        token(m, &t, ids[i], i, n);
        if (i >= first)
            product(logits + i * s->n_vocab, s->tied ? &m->embed : &m->head, t.h, NULL);
    }
    free(block);
}

static void put_tensor(const struct matrix *x, json_t *header, FILE *data, size_t *at)
{
    if (!x->w)
        return;
    size_t n = (size_t)(x->rows * (x->cols ? x->cols : 1)) * sizeof *x->w;
    json_t *shape =
        x->stack  ? json_pack("[I,I,I]", (json_int_t)x->stack, (json_int_t)(x->rows / x->stack), (json_int_t)x->cols)
        : x->cols ? json_pack("[I,I]", (json_int_t)x->rows, (json_int_t)x->cols)
                  : json_pack("[I]", (json_int_t)x->rows);
    json_object_set_new(header, x->name,
                        json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F32", "shape", shape, "data_offsets", (json_int_t)*at,
                                  (json_int_t)(*at + n)));
    fwrite(x->w, 1, n, data);
    *at += n;
}

static void write_config(const struct naive_shape *s, const char *dir)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", dir);
    static const char *const names[][2] = {[NAIVE_LLAMA] = {"LlamaForCausalLM", "llama"},
                                           [NAIVE_MISTRAL] = {"MistralForCausalLM", "mistral"},
                                           [NAIVE_QWEN2] = {"Qwen2ForCausalLM", "qwen2"},
                                           [NAIVE_QWEN3] = {"Qwen3ForCausalLM", "qwen3"},
                                           [NAIVE_GLM] = {"GlmForCausalLM", "glm"},
                                           [NAIVE_GLM4] = {"Glm4ForCausalLM", "glm4"},
                                           [NAIVE_GLM4_MOE] = {"Glm4MoeForCausalLM", "glm4_moe"},
                                           [NAIVE_LITE] = {"Glm4MoeLiteForCausalLM", "glm4_moe_lite"}};
    json_t *c = json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:b,s:b,s:b,s:s,s:I,s:I}", "architectures",
                          names[s->family][0], "model_type", names[s->family][1], "vocab_size", (json_int_t)s->n_vocab,
                          "hidden_size", (json_int_t)s->dim, "intermediate_size", (json_int_t)s->ffn_dim,
                          "num_hidden_layers", (json_int_t)s->n_layer, "num_attention_heads", (json_int_t)s->n_head,
                          "num_key_value_heads", (json_int_t)s->n_kv_head, "head_dim", (json_int_t)s->head_dim,
                          "rms_norm_eps", 1e-5, "rope_theta", s->theta, "tie_word_embeddings", (int)s->tied,
                          "attention_bias", (int)s->attn_bias, "mlp_bias", (int)s->mlp_bias, "hidden_act", "silu",
                          "max_position_embeddings", (json_int_t)2048, "eos_token_id", (json_int_t)0);
    if (c && s->n_expert > 0)
        json_object_update_new(c, json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:n}", "n_routed_experts",
                                            (json_int_t)s->n_expert, "num_experts_per_tok", (json_int_t)s->n_used,
                                            "n_shared_experts", (json_int_t)s->n_shared, "moe_intermediate_size",
                                            (json_int_t)s->moe_dim, "n_group", (json_int_t)s->n_group, "topk_group",
                                            (json_int_t)s->n_group_used, "routed_scaling_factor", 1.5, "topk_method"));
    if (c && s->kv_rank > 0) {
        json_object_update_new(c, json_pack("{s:I,s:I,s:I,s:I,s:b}", "kv_lora_rank", (json_int_t)s->kv_rank,
                                            "qk_nope_head_dim", (json_int_t)(s->head_dim - s->n_rot),
                                            "qk_rope_head_dim", (json_int_t)s->n_rot, "v_head_dim",
                                            (json_int_t)s->head_dim, "rope_interleave", (int)!s->half_split));
        json_object_set_new(c, "q_lora_rank", s->q_rank > 0 ? json_integer(s->q_rank) : json_null());
        if (s->n_expert == 0)
            json_object_set_new(c, "first_k_dense_replace", json_integer(s->n_layer));
    } else if (c && s->n_rot > 0)
        json_object_set_new(c, "partial_rotary_factor", json_real((double)s->n_rot / (double)s->head_dim));
    if (c && s->window > 0) {
        json_object_set_new(c, "sliding_window", json_integer(s->window));
        json_object_set_new(c, "use_sliding_window", json_true());
        json_object_set_new(c, "max_window_layers", json_integer(s->n_full));
    }
    if (!c || json_dump_file(c, path, JSON_INDENT(1)) != 0)
        abort();
    json_decref(c);
}

void naive_write(const struct naive_model *m, const char *dir)
{
    char path[512];
    write_config(&m->s, dir);
    json_t *header = json_object();
    FILE *data = tmpfile();
    size_t at = 0;
    if (!data)
        abort();
    put_tensor(&m->embed, header, data, &at);
    put_tensor(&m->norm, header, data, &at);
    put_tensor(&m->head, header, data, &at);
    for (int64_t i = 0; i < m->s.n_layer * N_T; i++)
        put_tensor(&m->layer[i], header, data, &at);
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t n = strlen(text);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "wb");
    if (!f)
        abort();
    fwrite(&n, 8, 1, f);
    fwrite(text, 1, n, f);
    rewind(data);
    char block[65536];
    for (size_t got; (got = fread(block, 1, sizeof block, data)) > 0;)
        fwrite(block, 1, got, f);
    if (fclose(f) != 0)
        abort();
    fclose(data);
    free(text);
    json_decref(header);
}
