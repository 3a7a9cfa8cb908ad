/* str.format with its fields, and "format % args". */
#include <math.h>
#include <string.h>

#include "core/text/jinja/jinja_help.h"

/* ---- str.format ---- */

struct formatting {
    const struct lb_jargs *args;
    int64_t next; /* the next {}; -1: fields are numbered */
    bool escape;  /* Markup's own format */
};

static bool all_digits(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] < '0' || text[i] > '9')
            return false;
    return n > 0 && n < 10;
}

static struct lb_jval index_or_name(struct lb_jrun *r, const char *text, size_t n)
{
    if (!all_digits(text, n))
        return lb_jtext_lend(r, text, n);
    int64_t i = 0;
    for (size_t k = 0; k < n; k++)
        i = i * 10 + (text[k] - '0');
    return lb_jint(i);
}

static struct lb_jval named_argument(struct lb_jrun *r, const struct lb_jargs *args, struct lb_jval key)
{
    if (key.kind == LB_J_INT) {
        if (key.u.i >= 0 && (uint64_t)key.u.i < args->n)
            return args->arg[key.u.i];
        return lb_jinja_fail(r, "Replacement index %lld out of range for positional args tuple", (long long)key.u.i);
    }
    for (size_t i = 0; i < args->n_kwarg; i++)
        if (lb_jtext_equal(args->kwarg[i].name, key))
            return args->kwarg[i].value;
    return r->failed ? key : lb_jinja_fail(r, "'%.*s'", (int)key.u.text->len, key.u.text->data);
}

/* "name.attribute[index]" */
static struct lb_jval find_field(struct lb_jrun *r, struct formatting *f, const char *name, size_t n)
{
    size_t at = 0, from;
    while (at < n && name[at] != '.' && name[at] != '[')
        at++;
    struct lb_jval v;
    if (n == 0) {
        if (f->next < 0)
            return lb_jinja_fail(r, "cannot switch from manual field specification to automatic field numbering");
        v = named_argument(r, f->args, lb_jint(f->next++));
    } else {
        if (all_digits(name, n) && f->next > 0)
            return lb_jinja_fail(r, "cannot switch from manual field specification to automatic field numbering");
        if (all_digits(name, n))
            f->next = -1;
        v = named_argument(r, f->args, index_or_name(r, name, at));
    }
    while (at < n && !r->failed) {
        char open = name[at++];
        if (open != '.' && open != '[')
            return lb_jinja_fail(r, "Only '.' or '[' may follow ']' in format field specifier");
        for (from = at; at < n && (open == '[' ? name[at] != ']' : name[at] != '.' && name[at] != '[');)
            at++;
        if (at == from)
            return lb_jinja_fail(r, "Empty attribute in format string");
        if (open == '[' && at == n)
            return lb_jinja_fail(r, "Missing ']' in format string");
        v = open == '.' ? lb_jgetattr(r, v, name + from, at - from)
                        : lb_jgetitem(r, v, index_or_name(r, name + from, at - from));
        at += open == '[';
    }
    return v;
}

static void put_ascii(struct lb_jrun *r, struct lb_jval v)
{
    size_t mark = lb_jscratch_begin(r);
    lb_jput_repr(r, &r->scratch, v);
    struct lb_jval repr = lb_jscratch_end(r, mark);
    if (r->failed)
        return;
    int bytes;
    for (size_t i = 0; i < repr.u.text->len; i += (size_t)bytes) {
        uint32_t c = lb_utf8_decode(repr.u.text->data + i, repr.u.text->len - i, &bytes);
        if (c < 0x80)
            lb_str_putc(&r->scratch, (char)c);
        else
            lb_str_putf(&r->scratch, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    }
}

static struct lb_jval converted(struct lb_jrun *r, struct lb_jval v, char how)
{
    if (!how)
        return v;
    if (how != 'r' && how != 's' && how != 'a')
        return lb_jinja_fail(r, "Unknown conversion specifier %c", how);
    if (how == 's')
        return lb_jstr(r, v);
    size_t mark = lb_jscratch_begin(r);
    if (how == 'a')
        put_ascii(r, v);
    else
        lb_jput_repr(r, &r->scratch, v);
    return lb_jscratch_end(r, mark);
}

struct field {
    size_t name, name_end, spec, spec_end, end; /* end: past the brace */
    char conversion;
};

/* Reads the field whose brace is before `at`. */
static bool read_field(struct lb_jrun *r, const char *text, size_t n, size_t at, struct field *f)
{
    bool bracket = false;
    *f = (struct field){.name = at};
    for (; at < n; at++) {
        char c = text[at];
        if (c == '{') {
            lb_jinja_fail(r, "unexpected '{' in field name");
            return false;
        }
        bracket = c == '[' || (bracket && c != ']');
        if (!bracket && (c == '}' || c == ':' || c == '!'))
            break;
    }
    f->name_end = f->spec = f->spec_end = at;
    if (at < n && text[at] == '!') {
        f->conversion = at + 1 < n ? text[at + 1] : '}';
        at += 2;
        if (f->conversion == '}' || (at < n && text[at] != ':' && text[at] != '}')) {
            lb_jinja_fail(r, f->conversion == '}' ? "end of string while looking for conversion specifier"
                                                  : "expected ':' after conversion specifier");
            return false;
        }
    }
    if (at < n && text[at] == ':') {
        f->spec = ++at;
        for (int depth = 1; at < n; at++) {
            depth += text[at] == '{' ? 1 : text[at] == '}' ? -1 : 0;
            if (depth == 0)
                break;
        }
        f->spec_end = at;
    }
    f->end = at + 1;
    if (at >= n)
        lb_jinja_fail(r,
                      f->name == n ? "Single '{' encountered in format string" : "expected '}' before end of string");
    return !r->failed;
}

static void put_format(struct lb_jrun *r, struct formatting *f, const char *text, size_t n, int depth);

static void put_field(struct lb_jrun *r, struct formatting *f, const char *text, const struct field *field, int depth)
{
    struct lb_jval v = find_field(r, f, text + field->name, field->name_end - field->name);
    v = converted(r, v, field->conversion);
    size_t mark = lb_jscratch_begin(r);
    if (field->spec_end > field->spec)
        put_format(r, f, text + field->spec, field->spec_end - field->spec, depth - 1);
    struct lb_jval spec = lb_jscratch_end(r, mark);
    if (r->failed)
        return;
    if (!f->escape) {
        lb_jformat_value(r, &r->scratch, v, spec.u.text->data, spec.u.text->len);
        return;
    }
    bool safe = v.kind == LB_J_STR && v.u.text->safe;
    lb_jformat_value(r, &r->scratch, v, spec.u.text->data, spec.u.text->len);
    struct lb_jval out = lb_jescape(r, lb_jmark_safe(r, lb_jscratch_end(r, mark), safe));
    if (!r->failed)
        lb_str_put(&r->scratch, out.u.text->data, out.u.text->len);
}

static void put_format(struct lb_jrun *r, struct formatting *f, const char *text, size_t n, int depth)
{
    if (depth < 0)
        lb_jinja_fail(r, "Max string recursion exceeded");
    for (size_t at = 0; at < n && lb_jroom(r, 0);) {
        size_t from = at;
        while (at < n && text[at] != '{' && text[at] != '}')
            at++;
        lb_str_put(&r->scratch, text + from, at - from);
        if (at == n)
            break;
        if (at + 1 < n && text[at + 1] == text[at]) {
            lb_str_putc(&r->scratch, text[at]);
            at += 2;
            continue;
        }
        struct field field;
        if (text[at] == '}')
            lb_jinja_fail(r, "Single '}' encountered in format string");
        else if (read_field(r, text, n, at + 1, &field)) {
            put_field(r, f, text, &field, depth);
            at = field.end;
        }
    }
}

struct lb_jval lb_jformat(struct lb_jrun *r, struct lb_jval format, const struct lb_jargs *args)
{
    struct formatting f = {.args = args, .escape = format.u.text->safe};
    size_t mark = lb_jscratch_begin(r);
    if (lb_jroom(r, format.u.text->len))
        put_format(r, &f, format.u.text->data, format.u.text->len, 2);
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), f.escape);
}

/* ---- format % args ---- */

struct percent {
    const char *text;
    size_t n, at;
    struct lb_jval args, single;
    const struct lb_jval *arg; /* [n_arg] */
    size_t n_arg, used;
    bool escape;
};

struct conversion {
    bool left, zero;
    int64_t width;
    struct lb_jnumspec num;
    struct lb_jval value; /* of %(name)s */
};

static struct lb_jval next_argument(struct lb_jrun *r, struct percent *p)
{
    if (p->used < p->n_arg)
        return p->arg[p->used++];
    return lb_jinja_fail(r, "not enough arguments for format string");
}

static int64_t read_number(struct lb_jrun *r, struct percent *p)
{
    int64_t value = 0;
    if (p->at < p->n && p->text[p->at] == '*') {
        p->at++;
        struct lb_jval v = next_argument(r, p);
        if (!r->failed && !lb_jis_int(v))
            lb_jinja_fail(r, "* wants int");
        return r->failed ? 0 : lb_jint_of(v);
    }
    for (; p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9' && !r->failed; p->at++) {
        value = value * 10 + (p->text[p->at] - '0');
        if (value > INT32_MAX)
            lb_jinja_fail(r, "width too big");
    }
    return value;
}

static void read_key(struct lb_jrun *r, struct percent *p, struct conversion *c)
{
    if (p->at >= p->n || p->text[p->at] != '(')
        return;
    size_t from = ++p->at;
    int depth = 1;
    for (; p->at < p->n; p->at++) {
        depth += p->text[p->at] == '(' ? 1 : p->text[p->at] == ')' ? -1 : 0;
        if (depth == 0)
            break;
    }
    if (p->at >= p->n)
        lb_jinja_fail(r, "incomplete format key");
    else if (p->args.kind != LB_J_DICT)
        lb_jinja_fail(r, p->args.kind == LB_J_LIST ? "list indices must be integers or slices, not str"
                                                   : "format requires a mapping");
    else {
        struct lb_jval key = lb_jtext_lend(r, p->text + from, p->at - from);
        if (!lb_jdict_get(r, p->args, key, &c->value))
            lb_jinja_fail(r, "'%.*s'", (int)(p->at - from), p->text + from);
    }
    p->at++;
    p->used = p->n_arg; /* the mapping is no argument of its own any more */
}

static void read_conversion(struct lb_jrun *r, struct percent *p, struct conversion *c)
{
    *c = (struct conversion){.num = {.precision = -1}, .value = lb_jabsent()};
    read_key(r, p, c);
    for (; p->at < p->n && strchr("-+ #0", p->text[p->at]) && p->text[p->at]; p->at++) {
        char flag = p->text[p->at];
        c->left = c->left || flag == '-';
        c->zero = c->zero || flag == '0';
        c->num.alternate = c->num.alternate || flag == '#';
        if (flag == '+' || (flag == ' ' && c->num.sign != '+'))
            c->num.sign = flag;
    }
    c->width = read_number(r, p);
    if (c->width < 0) {
        c->left = true;
        c->width = c->width < -INT32_MAX ? INT32_MAX : -c->width;
    }
    if (p->at < p->n && p->text[p->at] == '.') {
        p->at++;
        int64_t precision = read_number(r, p);
        c->num.precision = precision < 0 ? 0 : precision > INT32_MAX ? INT32_MAX : (int)precision;
    }
    if (p->at < p->n && (p->text[p->at] == 'h' || p->text[p->at] == 'l' || p->text[p->at] == 'L'))
        p->at++;
    if (p->at >= p->n)
        lb_jinja_fail(r, "incomplete format");
    else
        c->num.type = p->text[p->at++];
}

static void put_wide(struct lb_jrun *r, const struct conversion *c, const char *head, struct lb_jval body, bool number)
{
    if (r->failed)
        return;
    int64_t more = c->width - lb_jtext_chars(body.u.text) - (int64_t)strlen(head);
    if (more < 0)
        more = 0;
    if (!lb_jroom(r, (uint64_t)more + body.u.text->len))
        return;
    bool zeros = number && c->zero && !c->left;
    if (zeros)
        lb_str_puts(&r->scratch, head);
    for (int64_t i = 0; i < more && !c->left; i++)
        lb_str_putc(&r->scratch, zeros ? '0' : ' ');
    if (!zeros)
        lb_str_puts(&r->scratch, head);
    lb_str_put(&r->scratch, body.u.text->data, body.u.text->len);
    for (int64_t i = 0; i < more && c->left; i++)
        lb_str_putc(&r->scratch, ' ');
}

static void put_number(struct lb_jrun *r, struct conversion *c, struct lb_jval v)
{
    char type = c->num.type, head[4] = "";
    bool whole = strchr("diuoxX", type) != NULL;
    if (!lb_jis_number(v) || (strchr("oxX", type) && !lb_jis_int(v))) {
        if (v.kind == LB_J_UNDEFINED)
            lb_jinja_fail_undefined(r, v);
        else if (!whole)
            lb_jinja_fail(r, "must be real number, not %s", lb_jtype_name(v));
        else
            lb_jinja_fail(r, "%%%c format: %s is required, not %s", type,
                          strchr("oxX", type) ? "an integer" : "a real number", lb_jtype_name(v));
        return;
    }
    if (whole && v.kind == LB_J_FLOAT) {
        if (!(fabs(v.u.f) < 0x1p63)) {
            lb_jinja_fail(r, isfinite(v.u.f) ? "an integer leaves 64 bits, which are all that is supported"
                                             : "cannot convert float infinity or NaN to integer");
            return;
        }
        v = lb_jint((int64_t)v.u.f);
    }
    if (strchr("iu", type))
        c->num.type = 'd';
    size_t mark = lb_jscratch_begin(r);
    int least = whole ? c->num.precision : -1;
    lb_jput_digits(r, head, v, c->num);
    struct lb_jval body = lb_jscratch_end(r, mark);
    int64_t more = r->failed ? 0 : least - (int64_t)body.u.text->len;
    if (more > 0 && lb_jroom(r, (uint64_t)more)) {
        for (; more > 0; more--)
            lb_str_putc(&r->scratch, '0');
        lb_str_put(&r->scratch, body.u.text->data, body.u.text->len);
        body = lb_jscratch_end(r, mark);
    }
    put_wide(r, c, head, body, true);
}

static struct lb_jval one_char(struct lb_jrun *r, struct lb_jval v)
{
    if (v.kind == LB_J_STR && lb_jtext_chars(v.u.text) == 1)
        return v;
    if (!lb_jis_int(v))
        return lb_jinja_fail(r, "%%c requires int or char");
    if (lb_jint_of(v) < 0 || lb_jint_of(v) > 0x10ffff)
        return lb_jinja_fail(r, "%%c arg not in range(0x110000)");
    size_t mark = lb_jscratch_begin(r);
    lb_str_put_codepoint(&r->scratch, (uint32_t)lb_jint_of(v));
    return lb_jscratch_end(r, mark);
}

static void put_conversion(struct lb_jrun *r, struct percent *p)
{
    struct conversion c;
    if (p->at < p->n && p->text[p->at] == '%') {
        lb_str_putc(&r->scratch, '%');
        p->at++;
        return;
    }
    read_conversion(r, p, &c);
    if (r->failed)
        return;
    char type = c.num.type;
    struct lb_jval v = lb_jgiven(c.value) ? c.value : next_argument(r, p);
    if (!r->failed && (!type || !strchr("diuoxXeEfFgGcrsa", type)))
        lb_jinja_fail(r, "unsupported format character '%c' (0x%x) at index %zu", type, (unsigned char)type, p->at - 1);
    if (r->failed)
        return;
    if (!strchr("crsa", type)) {
        put_number(r, &c, v);
        return;
    }
    if (type == 'c')
        v = one_char(r, v);
    else if (p->escape)
        v = lb_jescape(r, converted(r, v, type == 's' ? 0 : type));
    else
        v = converted(r, v, type);
    if (!r->failed && c.num.precision >= 0 && type != 'c')
        v = lb_jtext_part(r, v.u.text, 0, lb_jtext_offset(v.u.text, c.num.precision));
    put_wide(r, &c, "", v, false);
}

struct lb_jval lb_jpercent(struct lb_jrun *r, struct lb_jval format, struct lb_jval args)
{
    struct percent p = {.text = format.u.text->data,
                        .n = format.u.text->len,
                        .args = args,
                        .single = args,
                        .arg = &p.single,
                        .n_arg = 1,
                        .escape = format.u.text->safe};
    if (args.kind == LB_J_TUPLE) {
        p.arg = args.u.list->item;
        p.n_arg = args.u.list->n;
    }
    size_t mark = lb_jscratch_begin(r);
    while (p.at < p.n && lb_jroom(r, 0)) {
        size_t from = p.at;
        while (p.at < p.n && p.text[p.at] != '%')
            p.at++;
        lb_str_put(&r->scratch, p.text + from, p.at - from);
        if (p.at < p.n) {
            p.at++;
            put_conversion(r, &p);
        }
    }
    bool mapping = args.kind == LB_J_DICT || args.kind == LB_J_LIST || args.kind == LB_J_RANGE ||
                   args.kind == LB_J_UNDEFINED; /* what can be indexed may be left over */
    if (p.used < p.n_arg && !mapping)
        lb_jinja_fail(r, "not all arguments converted during string formatting");
    return lb_jmark_safe(r, lb_jscratch_end(r, mark), p.escape);
}
