#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/complete.h"

enum lb_opt_kind {
    LB_OPT_FLAG,
    LB_OPT_TEXT,
    LB_OPT_INT,
    LB_OPT_SIZE,
    LB_OPT_DURATION,
    LB_OPT_AUTO,
    LB_OPT_REAL,
    LB_OPT_CHOICE,
    LB_OPT_NAME,
    LB_OPT_FILES,
    LB_OPT_STRINGS,
    LB_OPT_IDS,
    LB_OPT_NAMES,
};

struct lb_choice {
    const char *typed; /* NULL ends a set */
    const char *means; /* the name that the library knows; differs from typed for other spellings */
    int value;
};

static const struct lb_choice lb_devices[] = {
    {"auto", "auto", 0}, {"cpu", "cpu", 0}, {"cuda", "cuda", 0}, {"null", "null", 0}, {0}};
static const struct lb_choice lb_dtypes[] = {{"auto", "auto", 0},   {"f32", "f32", 0},       {"bf16", "bf16", 0},
                                             {"float32", "f32", 0}, {"bfloat16", "bf16", 0}, {0}};
static const struct lb_choice lb_quantizations[] = {{"none", "none", 0}, {"int8", "int8", 0}, {"w4a8", "w4a8", 0}, {0}};
static const struct lb_choice lb_orders[] = {
    {"input", "input", LB_ORDER_INPUT}, {"completion", "completion", LB_ORDER_COMPLETION}, {0}};
static const struct lb_choice lb_add_bos_values[] = {
    {"auto", "auto", LB_BOS_AUTO}, {"yes", "yes", LB_BOS_YES}, {"no", "no", LB_BOS_NO}, {0}};
static const struct lb_choice lb_overflows[] = {{"error", "error", LB_OVERFLOW_ERROR},
                                                {"cut-left", "cut-left", LB_OVERFLOW_CUT_LEFT},
                                                {"cut-middle", "cut-middle", LB_OVERFLOW_CUT_MIDDLE},
                                                {"shorten", "shorten", LB_OVERFLOW_SHORTEN},
                                                {0}};
static const struct lb_choice lb_audit_values[] = {
    {"warn", "warn", LB_AUDIT_WARN}, {"error", "error", LB_AUDIT_ERROR}, {"off", "off", LB_AUDIT_OFF}, {0}};
static const struct lb_choice lb_formats[] = {{"auto", "auto", LB_FORMAT_AUTO},
                                              {"native", "native", LB_FORMAT_NATIVE},
                                              {"openai", "openai", LB_FORMAT_OPENAI},
                                              {0}};
static const struct lb_choice lb_progress_values[] = {
    {"auto", "auto", LB_PROGRESS_AUTO}, {"on", "on", LB_PROGRESS_ON}, {"off", "off", LB_PROGRESS_OFF}, {0}};
static const struct lb_choice lb_log_levels[] = {{"error", "error", LB_LOG_ERROR},
                                                 {"warn", "warn", LB_LOG_WARN},
                                                 {"info", "info", LB_LOG_INFO},
                                                 {"debug", "debug", LB_LOG_DEBUG},
                                                 {0}};

static const struct lb_choice lb_shells[] = {
    {"bash", "bash", LB_SHELL_BASH}, {"zsh", "zsh", LB_SHELL_ZSH}, {"fish", "fish", LB_SHELL_FISH}, {0}};

enum lb_opt_group { FILES, PLACE, BATCH, PROMPT, GENERATE, ROWS, RUN };

static const char *const lb_groups[] = {
    [FILES] = "Files",         [PLACE] = "Placement",  [BATCH] = "Batching", [PROMPT] = "Prompts",
    [GENERATE] = "Generation", [ROWS] = "Output rows", [RUN] = "Run",
};

struct lb_opt {
    const char *name;
    char letter;
    enum lb_opt_group group;
    enum lb_opt_kind kind;
    size_t at; /* offset in struct lb_cli */
    struct {
        bool above;     /* lo itself is excluded */
        int64_t lo, hi; /* REAL: hi INT64_MAX is no limit */
        const struct lb_choice *choice;
        uint32_t gen_bit;
    } limit;
    const char *metavar, *help;
};

/* The field's type for each kind: a row that names a field of another type does not compile. */
#define LB_TYPE_FLAG bool
#define LB_TYPE_TEXT const char *
#define LB_TYPE_INT int64_t
#define LB_TYPE_SIZE int64_t
#define LB_TYPE_DURATION int64_t
#define LB_TYPE_AUTO int64_t
#define LB_TYPE_REAL double
#define LB_TYPE_CHOICE int
#define LB_TYPE_NAME const char *
#define LB_TYPE_FILES struct lb_texts
#define LB_TYPE_STRINGS struct lb_texts
#define LB_TYPE_IDS struct lb_ids
#define LB_TYPE_NAMES struct lb_texts
#define LB_AT(field, type) (offsetof(struct lb_cli, field) + 0 * sizeof(&((struct lb_cli *)0)->field == (type *)0))

#define ANY .above = false
#define RANGE(from, to) .lo = (from), .hi = (to)
#define ABOVE(from, to) RANGE(from, to), .above = true
#define ONE_OF(set) .choice = (set)
#define GEN(bit) , .gen_bit = (bit)

#define LB_OPTION(in_group, long_name, short_name, of_kind, field, limits, meta, text) \
    {.name = (long_name),                                                              \
     .letter = (short_name),                                                           \
     .group = (in_group),                                                              \
     .kind = LB_OPT_##of_kind,                                                         \
     .at = LB_AT(field, LB_TYPE_##of_kind),                                            \
     .limit = {limits},                                                                \
     .metavar = (meta),                                                                \
     .help = (text)},
#define LB_ALIAS(other, long_name)
static const struct lb_opt lb_opts[] = {
#include "cli/options.def"
};
#undef LB_OPTION
#undef LB_ALIAS

static const struct {
    const char *other, *name;
} lb_aliases[] = {
#define LB_OPTION(in_group, long_name, short_name, of_kind, field, limits, meta, text)
#define LB_ALIAS(with, long_name) {(with), (long_name)},
#include "cli/options.def"
#undef LB_OPTION
#undef LB_ALIAS
};

#define LB_RANK_TIMEOUT_S 300

#define LB_COUNT(array) (sizeof(array) / sizeof *(array))

static const struct lb_opt *find_long(const char *name, size_t n)
{
    for (size_t i = 0; i < LB_COUNT(lb_aliases); i++)
        if (strlen(lb_aliases[i].other) == n && memcmp(lb_aliases[i].other, name, n) == 0)
            return find_long(lb_aliases[i].name, strlen(lb_aliases[i].name));
    for (size_t i = 0; i < LB_COUNT(lb_opts); i++)
        if (strlen(lb_opts[i].name) == n && memcmp(lb_opts[i].name, name, n) == 0)
            return &lb_opts[i];
    return NULL;
}

static const struct lb_opt *find_letter(char letter)
{
    for (size_t i = 0; i < LB_COUNT(lb_opts); i++)
        if (letter && lb_opts[i].letter == letter)
            return &lb_opts[i];
    return NULL;
}

/* The known name nearest to an unknown one, NULL when none is near: a few letters apart, or the one that it begins. */
static const char *nearest(const char *name)
{
    const char *best = NULL;
    size_t n = strlen(name);
    int best_distance = n > 8 ? 4 : n > 3 ? 3 : 2; /* exclusive */
    for (size_t i = 0; i < LB_COUNT(lb_opts) + LB_COUNT(lb_aliases); i++) {
        const char *known = i < LB_COUNT(lb_opts) ? lb_opts[i].name : lb_aliases[i - LB_COUNT(lb_opts)].other;
        int distance = lb_edit_distance(name, known);
        if (n >= 4 && strncmp(known, name, n) == 0)
            distance = 1;
        if (distance < best_distance) {
            best = known;
            best_distance = distance;
        }
    }
    return best;
}

static enum lb_status unknown_option(const char *name, size_t n, struct lb_err *err)
{
    char text[64];
    if (n < sizeof text) {
        memcpy(text, name, n);
        text[n] = 0;
        const char *near = nearest(text);
        if (near)
            return lb_err_set(err, LB_E_USAGE, "unknown option '--%s'; did you mean --%s?", text, near);
    }
    return lb_err_set(err, LB_E_USAGE, "unknown option '--%.*s'; --help lists the options", (int)(n < 80 ? n : 80),
                      name);
}

/* A longer copy of a list; the old one is freed. */
static void *grown(void *list, size_t n, size_t size, struct lb_err *err)
{
    void *more = realloc(list, (n + 1) * size);
    if (!more)
        lb_err_memory(err, "the command line", (n + 1) * size);
    return more;
}

static enum lb_status add_text(struct lb_texts *list, char *text, struct lb_err *err)
{
    char **item = grown(list->item, list->n, sizeof *item, err);
    if (!item)
        return LB_E_DEVICE;
    item[list->n++] = text;
    list->item = item;
    return LB_OK;
}

static enum lb_status add_id(struct lb_ids *list, int32_t id, struct lb_err *err)
{
    int32_t *item = grown(list->item, list->n, sizeof *item, err);
    if (!item)
        return LB_E_DEVICE;
    item[list->n++] = id;
    list->item = item;
    return LB_OK;
}

static enum lb_status bad_number(const struct lb_opt *o, const char *what, const char *value, struct lb_err *err)
{
    char range[96] = "";
    long long lo = o->limit.lo, hi = o->limit.hi;
    if (o->limit.above && hi == INT64_MAX)
        snprintf(range, sizeof range, " above %lld", lo);
    else if (o->limit.above)
        snprintf(range, sizeof range, " above %lld and at most %lld", lo, hi);
    else if (hi == INT64_MAX && lo > INT64_MIN)
        snprintf(range, sizeof range, ", %lld or more", lo);
    else
        snprintf(range, sizeof range, " from %lld to %lld", lo, hi);
    return lb_err_set(err, LB_E_USAGE, "option --%s: '%s' is not allowed; it takes %s%s", o->name, value, what, range);
}

/* A whole number in decimal, nothing around it. */
static bool parse_int(const char *text, size_t n, int64_t *out)
{
    char copy[32];
    if (n == 0 || n >= sizeof copy || !strchr("-+0123456789", text[0]))
        return false;
    memcpy(copy, text, n);
    copy[n] = 0;
    char *end;
    errno = 0;
    long long value = strtoll(copy, &end, 10);
    *out = value;
    return !*end && end != copy && errno == 0 && strpbrk(copy, "0123456789");
}

static enum lb_status take_int(const struct lb_opt *o, const char *value, int64_t *out, struct lb_err *err)
{
    int64_t v;
    if (!parse_int(value, strlen(value), &v) || v < o->limit.lo || v > o->limit.hi)
        return bad_number(o, "a whole number", value, err);
    *out = v;
    return LB_OK;
}

/* Bytes, or `auto` where that is said, which is 0. */
static enum lb_status take_size(const struct lb_opt *o, const char *value, int64_t *out, struct lb_err *err)
{
    size_t bytes;
    *out = 0;
    if (strcmp(value, "auto") == 0 && strstr(o->metavar, "auto"))
        return LB_OK;
    if (value[strspn(value, "0123456789.KMGkmg")] || !lb_parse_size(value, &bytes) || bytes == 0 || bytes > INT64_MAX)
        return lb_err_set(err, LB_E_USAGE,
                          "option --%s: '%s' is not allowed; it takes bytes above 0, with K, M or G for 1024, 1024^2 "
                          "or 1024^3",
                          o->name, value);
    *out = (int64_t)bytes;
    return LB_OK;
}

/* A whole number, or `auto`, which is 0. */
static enum lb_status take_auto(const struct lb_opt *o, const char *value, int64_t *out, struct lb_err *err)
{
    *out = 0;
    return strcmp(value, "auto") == 0 ? LB_OK : take_int(o, value, out, err);
}

static enum lb_status take_duration(const struct lb_opt *o, const char *value, int64_t *out, struct lb_err *err)
{
    int64_t seconds;
    if (!lb_parse_duration(value, &seconds) || seconds == 0)
        return lb_err_set(
            err, LB_E_USAGE,
            "option --%s: '%s' is not allowed; it takes a time with its units, such as 90s, 15m, 1h30m or "
            "HH:MM:SS",
            o->name, value);
    *out = seconds;
    return LB_OK;
}

static enum lb_status take_real(const struct lb_opt *o, const char *value, double *out, struct lb_err *err)
{
    char *end = NULL;
    double v = 0;
    bool ok = value[0] && !value[strspn(value, "0123456789.eE+-")];
    if (ok)
        v = strtod(value, &end);
    ok = ok && !*end && isfinite(v) && (o->limit.above ? v > (double)o->limit.lo : v >= (double)o->limit.lo) &&
         (o->limit.hi == INT64_MAX || v <= (double)o->limit.hi);
    if (!ok)
        return bad_number(o, "a number", value, err);
    *out = v;
    return LB_OK;
}

static const struct lb_choice *take_choice(const struct lb_opt *o, const char *value, struct lb_err *err)
{
    char list[96] = "";
    for (const struct lb_choice *c = o->limit.choice; c->typed; c++)
        if (strcmp(c->typed, value) == 0)
            return c;
    for (const char *m = o->metavar; *m && strlen(list) + 3 < sizeof list; m++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, *m == '|' ? (strchr(m + 1, '|') ? ", " : " or ") : "%c", *m);
    }
    lb_err_set(err, LB_E_USAGE, "option --%s: '%s' is not %s; it takes %s", o->name, value,
               o->limit.choice == lb_devices ? "built in" : "allowed", list);
    return NULL;
}

static enum lb_status take_ids(const struct lb_opt *o, const char *value, struct lb_ids *list, struct lb_err *err)
{
    list->n = 0;
    for (const char *at = value;; at++) {
        size_t n = strcspn(at, ",");
        int64_t id;
        if (!parse_int(at, n, &id) || id < o->limit.lo || id > o->limit.hi)
            return bad_number(o, "token ids with commas between them, each", value, err);
        LB_TRY(add_id(list, (int32_t)id, err));
        at += n;
        if (!*at)
            return LB_OK;
    }
}

static enum lb_status take_names(struct lb_cli *c, const struct lb_opt *o, const char *value, struct lb_texts *list,
                                 struct lb_err *err)
{
    list->n = 0;
    c->run.keep_all = strcmp(value, "all") == 0;
    if (c->run.keep_all)
        return LB_OK;
    free(c->keep_text);
    c->keep_text = strdup(value);
    if (!c->keep_text)
        return lb_err_memory(err, "the command line", strlen(value));
    for (char *at = c->keep_text;; at++) {
        size_t n = strcspn(at, ",");
        if (n == 0)
            return lb_err_set(err, LB_E_USAGE,
                              "option --%s: '%s' has an empty name; it takes member names with commas between them, or "
                              "all",
                              o->name, value);
        LB_TRY(add_text(list, at, err));
        at += n;
        if (!*at)
            return LB_OK;
        *at = 0;
    }
}

static enum lb_status take_stop(const struct lb_opt *o, char *value, struct lb_texts *list, struct lb_err *err)
{
    size_t n = strlen(value);
    if (n == 0 || lb_utf8_valid_prefix(value, n) < n)
        return lb_err_set(err, LB_E_USAGE, "option --%s: the text %s", o->name,
                          n == 0 ? "is empty; give what shall end a row" : "is not valid UTF-8");
    if (list->n == LB_MAX_STOP)
        return lb_err_set(err, LB_E_USAGE, "option --%s: more than %d stop texts; '%s' is one too many", o->name,
                          LB_MAX_STOP, value);
    return add_text(list, value, err);
}

static enum lb_status take_value(struct lb_cli *c, const struct lb_opt *o, char *value, struct lb_err *err)
{
    void *field = (char *)c + o->at;
    const struct lb_choice *choice;
    c->run.gen.set |= o->limit.gen_bit;
    switch (o->kind) {
    case LB_OPT_FLAG:
        *(bool *)field = true;
        return LB_OK;
    case LB_OPT_TEXT:
        if (!*value && o->letter != 'p')
            return lb_err_set(err, LB_E_USAGE, "option --%s: the value is empty; it takes %s", o->name, o->metavar);
        *(const char **)field = value;
        return LB_OK;
    case LB_OPT_INT:
        return take_int(o, value, field, err);
    case LB_OPT_SIZE:
        return take_size(o, value, field, err);
    case LB_OPT_AUTO:
        return take_auto(o, value, field, err);
    case LB_OPT_DURATION:
        return take_duration(o, value, field, err);
    case LB_OPT_REAL:
        return take_real(o, value, field, err);
    case LB_OPT_CHOICE:
    case LB_OPT_NAME:
        choice = take_choice(o, value, err);
        if (!choice)
            return LB_E_USAGE;
        if (o->kind == LB_OPT_CHOICE)
            *(int *)field = choice->value;
        else
            *(const char **)field = choice->means;
        return LB_OK;
    case LB_OPT_FILES:
        return add_text(field, value, err);
    case LB_OPT_STRINGS:
        return take_stop(o, value, field, err);
    case LB_OPT_IDS:
        return take_ids(o, value, field, err);
    case LB_OPT_NAMES:
        return take_names(c, o, value, field, err);
    }
    return LB_OK;
}

/* Reads the option at argv[*i] and moves *i to the last argument that belongs to it. */
static enum lb_status take_option(struct lb_cli *c, char **argv, int *i, struct lb_err *err)
{
    char *arg = argv[*i], *value = NULL;
    const struct lb_opt *o;
    if (arg[1] == '-') {
        size_t n = strcspn(arg + 2, "=");
        o = find_long(arg + 2, n);
        if (!o)
            return unknown_option(arg + 2, n, err);
        if (arg[2 + n] == '=')
            value = arg + 2 + n + 1;
        if (value && o->kind == LB_OPT_FLAG)
            return lb_err_set(err, LB_E_USAGE, "option --%s takes no value, but '%s' was given", o->name, value);
    } else {
        o = find_letter(arg[1]);
        if (!o)
            return lb_err_set(err, LB_E_USAGE, "unknown option '%s'; --help lists the options", arg);
        if (arg[2])
            value = arg + 2;
        if (value && o->kind == LB_OPT_FLAG)
            return lb_err_set(err, LB_E_USAGE, "option -%c takes no value, but '%s' was given", o->letter, value);
    }
    if (o->kind != LB_OPT_FLAG && !value) {
        value = argv[*i + 1];
        if (!value)
            return lb_err_set(err, LB_E_USAGE, "option --%s needs a value (%s)", o->name, o->metavar);
        ++*i;
    }
    return take_value(c, o, value, err);
}

/* The command line as a shell would read it. */
static enum lb_status put_command(struct lb_str *out, int argc, char **argv, struct lb_err *err)
{
    for (int i = 0; i < argc; i++) {
        if (i)
            lb_str_putc(out, ' ');
        if (*argv[i] && !strpbrk(argv[i], " \t\n\"'\\$`*?[]{}()<>|&;~#!")) {
            lb_str_puts(out, argv[i]);
            continue;
        }
        lb_str_putc(out, '\'');
        for (const char *p = argv[i]; *p; p++) {
            if (*p == '\'')
                lb_str_puts(out, "'\\''");
            else
                lb_str_putc(out, *p);
        }
        lb_str_putc(out, '\'');
    }
    return out->failed ? lb_err_memory(err, "the command line", out->len) : LB_OK;
}

/* "I/N" */
static enum lb_status read_shard(struct lb_cli *c, struct lb_err *err)
{
    if (!c->shard)
        return LB_OK;
    size_t n = strcspn(c->shard, "/");
    int64_t of = 0, i = -1;
    if (!c->shard[n] || !parse_int(c->shard, n, &i) || !parse_int(c->shard + n + 1, strlen(c->shard + n + 1), &of) ||
        i < 0 || i >= of)
        return lb_err_set(
            err, LB_E_USAGE,
            "option --shard: '%s' is not allowed; it takes I/N, with I from 0 to one less than N, e.g. 0/3", c->shard);
    c->run.shard_index = i;
    c->run.n_shard = of;
    return LB_OK;
}

/* "%s" in a path becomes "I-of-N"; *own is the new text. */
static enum lb_status name_shard(const struct lb_cli *c, const char **path, char **own, struct lb_err *err)
{
    struct lb_str s = {0};
    if (!c->shard || !*path)
        return LB_OK;
    for (const char *at = *path; *at; at++) {
        if (at[0] == '%' && at[1] == 's') {
            lb_str_putf(&s, "%lld-of-%lld", (long long)c->run.shard_index, (long long)c->run.n_shard);
            at++;
        } else {
            lb_str_putc(&s, *at);
        }
    }
    *own = s.failed || !s.data ? NULL : strdup(s.data);
    lb_str_release(&s);
    if (!*own)
        return lb_err_memory(err, "a path", strlen(*path));
    *path = *own;
    return LB_OK;
}

static enum lb_status check_merge(const struct lb_cli *c, struct lb_err *err)
{
    const char *other = c->run.prompt   ? "--prompt"
                        : c->shard      ? "--shard"
                        : c->run.plan   ? "--plan"
                        : c->run.render ? "--render"
                        : c->run.report ? "--report"
                        : c->run.trace  ? "--trace"
                                        : NULL;
    if (other)
        return lb_err_set(err, LB_E_USAGE, "--merge puts finished files together: it excludes %s", other);
    if (!c->inputs.n)
        return lb_err_set(err, LB_E_USAGE, "--merge takes the outputs of all shards, in the order of their numbers");
    return LB_OK;
}

/* What one option cannot tell. */
static enum lb_status check_together(const struct lb_cli *c, struct lb_err *err)
{
    size_t n_stdin = 0;
    if (c->merge)
        LB_TRY(check_merge(c, err));
    if (!c->run.model && !c->merge)
        return lb_err_set(err, LB_E_USAGE,
                          "no model: give -m MODEL, a Hugging Face folder or a .gguf file (--help lists the options)");
    for (size_t i = 0; i < c->inputs.n; i++) {
        n_stdin += strcmp(c->inputs.item[i], "-") == 0;
        if (!*c->inputs.item[i])
            return lb_err_set(err, LB_E_USAGE, "the name of input %zu is empty", i + 1);
    }
    if (n_stdin > 1)
        return lb_err_set(err, LB_E_USAGE, "standard input ('-') is named %zu times; it can be read once", n_stdin);
    if (c->run.prompt && c->inputs.n)
        return lb_err_set(err, LB_E_USAGE, "--prompt and the input '%s' exclude each other", c->inputs.item[0]);
    return LB_OK;
}

enum lb_status lb_cli_parse(struct lb_cli *c, int argc, char **argv, struct lb_err *err)
{
    memset(c, 0, sizeof *c);
    lb_options_init(&c->run);
    c->order = (int)c->run.order;
    c->add_bos = (int)c->run.add_bos;
    c->overflow = (int)c->run.overflow;
    c->format = (int)c->run.format;
    c->log_level = LB_LOG_WARN;
    c->rank_timeout_s = LB_RANK_TIMEOUT_S;
    bool operands_only = false;
    for (int i = 1; i < argc; i++) {
        if (operands_only || argv[i][0] != '-' || !argv[i][1])
            LB_TRY(add_text(&c->inputs, argv[i], err));
        else if (strcmp(argv[i], "--") == 0)
            operands_only = true;
        else
            LB_TRY(take_option(c, argv, &i, err));
    }
    LB_TRY(put_command(&c->command, argc, argv, err));
    c->run.command = c->command.data;
    c->run.order = (enum lb_order)c->order;
    c->run.add_bos = (enum lb_add_bos)c->add_bos;
    c->run.overflow = (enum lb_overflow)c->overflow;
    c->run.audit = (enum lb_audit_mode)c->audit;
    c->run.format = (enum lb_row_format)c->format;
    c->run.inputs = (const char *const *)c->inputs.item;
    c->run.n_input = c->inputs.n;
    c->run.lora = (const char *const *)c->lora.item;
    c->run.n_lora = c->lora.n;
    c->run.keep = c->keep.item;
    c->run.n_keep = c->run.keep_all ? 0 : c->keep.n;
    c->run.gen.stop = c->stop.item;
    c->run.gen.n_stop = c->stop.n;
    c->run.gen.stop_ids = c->stop_ids.item;
    c->run.gen.n_stop_ids = c->stop_ids.n;
    LB_TRY(read_shard(c, err));
    LB_TRY(name_shard(c, &c->run.output, &c->output_text, err));
    LB_TRY(name_shard(c, &c->run.stats, &c->stats_text, err));
    LB_TRY(name_shard(c, &c->run.report, &c->report_text, err));
    LB_TRY(name_shard(c, &c->run.trace, &c->trace_text, err));
    if (c->help || c->version || c->completions)
        return LB_OK;
    return check_together(c, err);
}

void lb_cli_release(struct lb_cli *c)
{
    free(c->inputs.item);
    free(c->lora.item);
    free(c->stop.item);
    free(c->keep.item);
    free(c->keep_text);
    free(c->output_text);
    free(c->stats_text);
    free(c->report_text);
    free(c->trace_text);
    free(c->stop_ids.item);
    lb_str_release(&c->command);
    memset(c, 0, sizeof *c);
}

#define LB_HELP_COLUMN 30
#define LB_HELP_WIDTH 79

/* Words of text from column `at` on, wrapped to LB_HELP_COLUMN. */
static void put_wrapped(struct lb_str *out, size_t at, const char *text)
{
    if (at + 2 > LB_HELP_COLUMN) {
        lb_str_putc(out, '\n');
        at = 0;
    }
    for (bool first = true; *text; first = false) {
        size_t n = strcspn(text, " ");
        if (!first && at + 1 + n > LB_HELP_WIDTH) {
            lb_str_putc(out, '\n');
            at = 0;
        } else if (!first) {
            lb_str_putc(out, ' ');
            at++;
        }
        for (; at < LB_HELP_COLUMN; at++)
            lb_str_putc(out, ' ');
        lb_str_put(out, text, n);
        at += n;
        text += n;
        text += strspn(text, " ");
    }
    lb_str_putc(out, '\n');
}

void lb_cli_help(struct lb_str *out)
{
    lb_str_puts(out, "Usage: llmbatch -m MODEL [-i FILE]... [-o OUT] [options] [FILE]...\n"
                     "       llmbatch -m MODEL -p TEXT\n"
                     "       llmbatch --merge -o OUT FILE...\n"
                     "Completes prompts with a language model: a JSON object a line in, a line out.\n"
                     "Without FILE, rows are read from standard input.\n");
    for (size_t i = 0; i < LB_COUNT(lb_opts); i++) {
        const struct lb_opt *o = &lb_opts[i];
        if (i == 0 || o->group != o[-1].group)
            lb_str_putf(out, "\n%s:\n", lb_groups[o->group]);
        size_t start = out->len;
        if (o->letter)
            lb_str_putf(out, "  -%c, --%s", o->letter, o->name);
        else
            lb_str_putf(out, "      --%s", o->name);
        if (*o->metavar)
            lb_str_putf(out, " %s", o->metavar);
        put_wrapped(out, out->len - start, o->help);
    }
    lb_str_puts(out, "\nOther names:\n");
    for (size_t i = 0; i < LB_COUNT(lb_aliases); i++)
        lb_str_putf(out, "      --%s for --%s\n", lb_aliases[i].other, lb_aliases[i].name);
    lb_str_puts(out, "\nSizes take K, M, G (1024). Values in parentheses are the defaults. Exit codes:\n"
                     "0 all rows ok, 1 some rows failed, 2 usage, 3 input or model, 4 device, memory\n"
                     "or disk, 5 too many failed rows, 130 interrupted. More in llmbatch(1), rows in\n"
                     "llmbatch-jsonl(5).\n");
}
