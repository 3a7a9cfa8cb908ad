#include "core/model/rope.h"

#include <math.h>

#include "core/base/mem.h"

#define PI 3.14159265358979323846

static const char *const type_names[] = {"default", "linear", "dynamic", "llama3", "yarn"};

const char *lb_rope_type_name(enum lb_rope_type type)
{
    return type_names[type];
}

/* Llama 3.1: long waves are stretched by factor, short ones kept, those between mixed. Written with the reciprocals
 * that torch takes when a number is divided by a tensor. */
static void scale_llama3(struct lb_rope *r)
{
    float *inv = r->inv_freq, factor = (float)r->factor, original = (float)r->original_max;
    float low = (float)r->low_freq, range = (float)(r->high_freq - r->low_freq);
    float long_wave = (float)((double)r->original_max / r->low_freq);
    float short_wave = (float)((double)r->original_max / r->high_freq);
    for (int64_t i = 0; i < r->n_rot / 2; i++) {
        float wave = (1.0f / inv[i]) * (float)(2 * PI);
        if (wave > long_wave) {
            inv[i] = inv[i] / factor;
        } else if (!(wave < short_wave)) {
            float s = ((1.0f / wave) * original - low) / range;
            inv[i] = (1.0f - s) * inv[i] / factor + s * inv[i];
        }
    }
}

/* YaRN (arXiv 2309.00071): the dimension that turns n times over the original length. */
static double correction_dim(const struct lb_rope *r, double n)
{
    return (double)r->n_rot * log((double)r->original_max / (n * 2 * PI)) / (2 * log(r->theta));
}

static double mscale(double factor, double m)
{
    return factor <= 1 ? 1.0 : 0.1 * m * log(factor) + 1.0;
}

float lb_rope_score_scale(const struct lb_rope *r)
{
    if (r->type == LB_ROPE_DEFAULT || r->mscale_all_dim == 0)
        return 1;
    double m = mscale(r->factor, r->mscale_all_dim);
    return (float)(m * m);
}

static void scale_yarn(struct lb_rope *r, const float *power)
{
    double low = correction_dim(r, r->beta_fast), high = correction_dim(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)(r->n_rot - 1)); /* n_rot - 1, not n_rot / 2 - 1: as the reference does */
    if (low == high)
        high += 0.001;
    for (int64_t i = 0; i < r->n_rot / 2; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1.0f - fminf(fmaxf(ramp, 0.0f), 1.0f);
        float stretched = 1.0f / ((float)r->factor * power[i]);
        r->inv_freq[i] = stretched * (1.0f - keep) + (1.0f / power[i]) * keep;
    }
    double scale = r->attention_factor;
    if (!(scale > 0))
        scale = r->mscale != 0 && r->mscale_all_dim != 0
                    ? mscale(r->factor, r->mscale) / mscale(r->factor, r->mscale_all_dim)
                    : mscale(r->factor, 1);
    r->scale = (float)scale;
}

static enum lb_status check(const struct lb_rope *r, const char *where, struct lb_err *err)
{
    for (int64_t i = 0; i < r->n_rot / 2; i++)
        if (!isfinite(r->inv_freq[i]) || !(r->inv_freq[i] > 0))
            return lb_err_set(err, LB_E_INPUT, "%s: the rope settings give frequency %lld the value %g", where,
                              (long long)i, (double)r->inv_freq[i]);
    if (!isfinite(r->scale) || !(r->scale > 0))
        return lb_err_set(err, LB_E_INPUT, "%s: the rope settings give the attention factor %g", where,
                          (double)r->scale);
    return LB_OK;
}

enum lb_status lb_rope_fill(struct lb_rope *r, const char *where, struct lb_err *err)
{
    int64_t n = r->n_rot / 2;
    float *power = lb_mem_new((size_t)n, sizeof *power); /* theta^(2i / n_rot) */
    r->inv_freq = lb_mem_new((size_t)n, sizeof *r->inv_freq);
    if (!power || !r->inv_freq) {
        lb_mem_free(power);
        return lb_err_memory(err, "rope frequencies", (unsigned long long)n * sizeof *power);
    }
    for (int64_t i = 0; i < n; i++) {
        power[i] = powf((float)r->theta, (float)(2 * i) / (float)r->n_rot);
        r->inv_freq[i] = 1.0f / power[i];
        if (r->type == LB_ROPE_LINEAR)
            r->inv_freq[i] /= (float)r->factor;
    }
    r->scale = 1.0f;
    if (r->type == LB_ROPE_LLAMA3)
        scale_llama3(r);
    else if (r->type == LB_ROPE_YARN)
        scale_yarn(r, power);
    lb_mem_free(power);
    return check(r, where, err);
}

enum lb_status lb_rope_divide(struct lb_rope *r, const float *divisor, const char *where, struct lb_err *err)
{
    for (int64_t i = 0; i < r->n_rot / 2; i++) {
        if (!isfinite(divisor[i]) || !(divisor[i] > 0))
            return lb_err_set(err, LB_E_INPUT, "%s: tensor 'rope_freqs.weight': element %lld is %g", where,
                              (long long)i, (double)divisor[i]);
        r->inv_freq[i] /= divisor[i];
    }
    r->divided = true;
    return check(r, where, err);
}
