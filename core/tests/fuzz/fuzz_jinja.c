#include <jansson.h>

#include "core/tests/fuzz/fuzz.h"
#include "core/text/jinja/jinja.h"

/* Any template over a context with a value of each kind; after a zero byte, a JSON object whose members are variables
 * too. */

static const char fixed[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\","
    " \"content\": [{\"type\": \"text\", \"text\": \"h\\u00e9 \\ud83d\\ude00\"}]}],"
    " \"tools\": null, \"s\": \"Some Text, a b\\n c<&>'\\\"\", \"i\": -7, \"f\": 2.5, \"b\": true,"
    " \"e\": \"\", \"l\": [3, 1, 2, 1], \"d\": {\"k\": 1, \"a\": [1, {\"x\": null}]},"
    " \"bos_token\": \"<s>\", \"add_generation_prompt\": true}";

static size_t add_vars(struct lb_jinja_var *var, size_t n, size_t room, json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        if (n < room)
            var[n++] = (struct lb_jinja_var){name, value};
    }
    return n;
}

/* A rendering is the same each time, in a new context and in one that was used; one that fails leaves no text. */
static void render(const struct lb_jinja *t, const struct lb_jinja_input *in)
{
    struct lb_jinja_ctx *c = NULL;
    struct lb_str out[2] = {{0}};
    struct lb_err err[2] = {LB_ERR_INIT, LB_ERR_INIT};
    FUZZ_REQUIRE(lb_jinja_ctx_new(&c, &err[0]) == LB_OK);
    lb_jinja_ctx_limit(c, FUZZ_STEPS);
    for (int i = 0; i < 2; i++) {
        lb_str_puts(&out[i], "[");
        if (!fuzz_ok(lb_jinja_render(t, c, in, &out[i], &err[i]), &err[i]))
            FUZZ_REQUIRE(out[i].len == 1);
        FUZZ_REQUIRE(!out[i].failed && lb_utf8_valid_prefix(out[i].data, out[i].len) == out[i].len);
        if (out[i].len > 1 << 20)
            break; /* a second time would only take time */
    }
    if (out[1].data)
        FUZZ_REQUIRE(out[0].len == out[1].len && memcmp(out[0].data, out[1].data, out[0].len) == 0 &&
                     strcmp(err[0].text, err[1].text) == 0);
    lb_str_release(&out[0]);
    lb_str_release(&out[1]);
    lb_jinja_ctx_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *context;
    static const struct tm now = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5, .tm_yday = 207};
    struct lb_jinja_var var[64];
    const char *part;
    struct lb_err err = LB_ERR_INIT;
    struct lb_jinja *t = NULL;
    struct lb_str source = {0};
    size_t n_part = fuzz_part(&data, &size, &part);
    lb_str_put_utf8_lossy(&source, part, n_part);
    if (!context)
        context = json_loads(fixed, 0, NULL);
    json_t *more = json_loadb((const char *)data, size, 0, NULL);
    size_t n = add_vars(var, add_vars(var, 0, 64, context), 64, more);
    if (fuzz_ok(lb_jinja_compile(&t, source.data ? source.data : "", source.len, &err), &err)) {
        lb_jinja_names(t, "messages");
        render(t, &(struct lb_jinja_input){.var = var, .n_var = n, .now = &now});
    }
    lb_jinja_free(t);
    json_decref(more);
    lb_str_release(&source);
    return 0;
}
