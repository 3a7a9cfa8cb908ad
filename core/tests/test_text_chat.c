#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/text/chat.h"

/* Which template is taken, what it sees, and what transformers 5.23.0 makes of the same conversation (its
 * apply_chat_template; values recorded from it, or read from ../shared/templates/golden.jsonl). */

#define SHARED LB_SOURCE_DIR "/../shared"

struct place {
    char dir[32];
    struct lb_chat *chat;
    struct lb_jinja_ctx *ctx;
};

static void write_file(const struct place *p, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", p->dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Files of the folder by name and text, NULL behind the last. */
static void place_init(struct place *p, const char *const (*files)[2])
{
    char path[128];
    *p = (struct place){.dir = "/tmp/lb-chat-XXXXXX"};
    assert_non_null(mkdtemp(p->dir));
    snprintf(path, sizeof path, "%s/additional_chat_templates", p->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    for (; (*files)[0]; files++)
        write_file(p, (*files)[0], (*files)[1]);
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(lb_jinja_ctx_new(&p->ctx, &err), LB_OK);
}

static void place_release(struct place *p)
{
    char command[64];
    lb_chat_free(p->chat);
    lb_jinja_ctx_free(p->ctx);
    snprintf(command, sizeof command, "rm -r %s", p->dir);
    assert_int_equal(system(command), 0);
}

static void open_chat(struct place *p, struct lb_chat_spec spec)
{
    struct lb_err err = LB_ERR_INIT;
    lb_chat_free(p->chat);
    if (!spec.dir && !spec.v)
        spec.dir = p->dir;
    if (lb_chat_open(&p->chat, &spec, &err) != LB_OK)
        fail_msg("%s", err.text);
}

static json_t *load(const char *text)
{
    json_error_t why;
    json_t *v = text ? json_loads(text, JSON_DECODE_ANY, &why) : NULL;
    if (text && !v)
        fail_msg("%s: %s", text, why.text);
    return v;
}

/* The rendered text, or "ERROR: ..."; owned by the caller. A row as its members: messages, tools, documents,
 * chat_template_kwargs, add_generation_prompt, continue_final_message. */
static char *render(const struct place *p, const char *row_json)
{
    struct lb_str out = {0};
    struct lb_err err = LB_ERR_INIT;
    json_t *row = load(row_json);
    struct lb_chat_row r = {.messages = json_object_get(row, "messages"),
                            .tools = json_object_get(row, "tools"),
                            .documents = json_object_get(row, "documents"),
                            .kwargs = json_object_get(row, "chat_template_kwargs"),
                            .add_generation_prompt = !json_is_false(json_object_get(row, "add_generation_prompt")),
                            .continue_final_message = json_is_true(json_object_get(row, "continue_final_message")),
                            .api = json_is_true(json_object_get(row, "openai"))};
    lb_str_puts(&out, "<<");
    enum lb_status status = lb_chat_render(p->chat, p->ctx, &r, &out, &err);
    json_decref(row);
    assert_false(out.failed);
    assert_memory_equal(out.data, "<<", 2);
    if (status != LB_OK) {
        assert_int_equal(out.len, 2);
        assert_int_equal(status, LB_E_INPUT);
        lb_str_puts(&out, "ERROR: ");
        lb_str_puts(&out, err.text);
    }
    char *text = strdup(out.data + 2);
    lb_str_release(&out);
    return text;
}

static void expect(const struct place *p, const char *row, const char *want)
{
    char *got = render(p, row);
    assert_string_equal(got, want);
    free(got);
}

static void expect_error(const struct place *p, const char *row, const char *holds)
{
    char *got = render(p, row);
    if (strncmp(got, "ERROR: ", 7) != 0 || !strstr(got, holds))
        fail_msg("'%s' does not fail with '%s'", got, holds);
    free(got);
}

#define HI "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}"
#define TOOLS "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"tools\":[{\"name\":\"f\"}]}"

static void test_sources(void **state)
{
    (void)state;
    static const char config[] = "{\"model_max_length\":1000000000000000019884624838656,\"chat_template\":\"config\"}";
    static const char list[] =
        "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"tools {{ tools[0].name }}\"},"
        "{\"name\":\"default\",\"template\":\"default\"},{\"name\":\"rag\",\"template\":\"{% bad\"}]}";
    static const char *const all[][2] = {{"chat_template.jinja", "file\n"},
                                         {"tokenizer_config.json", config},
                                         {"additional_chat_templates/tool_use.jinja", "extra"},
                                         {"own.jinja", "\xEF\xBB\xBFown"},
                                         {NULL, NULL}};
    static const char *const listed[][2] = {{"tokenizer_config.json", list}, {NULL, NULL}};
    static const char *const none[][2] = {{NULL, NULL}};
    char own[64];
    struct place p;
    place_init(&p, all);
    open_chat(&p, (struct lb_chat_spec){0});
    assert_string_equal(lb_chat_source(p.chat), "chat_template.jinja");
    expect(&p, HI, "file");
    expect(&p, TOOLS, "extra");
    snprintf(own, sizeof own, "%s/own.jinja", p.dir);
    open_chat(&p, (struct lb_chat_spec){.file = own});
    assert_string_equal(lb_chat_source(p.chat), own);
    expect(&p, HI, "own");
    expect(&p, TOOLS, "own");
    unlink(strcat(strcpy(own, p.dir), "/chat_template.jinja"));
    open_chat(&p, (struct lb_chat_spec){0});
    assert_string_equal(lb_chat_source(p.chat), "tokenizer_config.json");
    expect(&p, TOOLS, "config");
    place_release(&p);

    place_init(&p, listed);
    open_chat(&p, (struct lb_chat_spec){0});
    expect(&p, HI, "default");
    expect(&p, TOOLS, "tools f");
    place_release(&p);

    place_init(&p, none);
    open_chat(&p, (struct lb_chat_spec){0});
    assert_null(lb_chat_source(p.chat));
    expect_error(&p, HI, "--chat-template FILE");
    struct lb_bytes token[] = {{"<unk>", 5}, {"<s>", 3}};
    struct lb_vocab v = {.n_token = 2, .token = token, .bos = 1, .eos = 7, .eot = -1, .eom = -1, .unk = 0, .pad = -1};
    static const char gguf[] = "{{ bos_token }}{{ unk_token }}{{ eos_token is defined }}{{ pad_token is defined }}";
    v.chat_template = (struct lb_bytes){gguf, sizeof gguf - 1};
    open_chat(&p, (struct lb_chat_spec){.v = &v});
    assert_string_equal(lb_chat_source(p.chat), "GGUF metadata");
    expect(&p, HI, "<s><unk>FalseFalse");
    place_release(&p);
}

/* A broken template is the rows' trouble, unless it was asked for. */
static void test_broken(void **state)
{
    (void)state;
    static const char *const broken[][2] = {{"chat_template.jinja", "{% for %}"}, {NULL, NULL}};
    static const char *const unnamed[][2] = {
        {"tokenizer_config.json", "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"x\"}]}"}, {NULL, NULL}};
    static const char *const odd[][2] = {
        {"tokenizer_config.json",
         "{\"chat_template\":[1,{\"name\":2},null,{\"name\":\"default\",\"template\":3}],\"bos_token\":5,\"eos_token\":"
         "{},"
         "\"additional_special_tokens\":[1,{},null],\"extra_special_tokens\":{\"x\":1},\"tokenizer_class\":[]}"},
        {"special_tokens_map.json", "{\"bos_token\":[],\"pad_token\":{\"content\":1}}"},
        {NULL, NULL}};
    static const char *const no_json[][2] = {{"tokenizer_config.json", "{\"chat_template\":"}, {NULL, NULL}};
    char file[64];
    struct place p;
    place_init(&p, broken);
    open_chat(&p, (struct lb_chat_spec){0});
    expect_error(&p, HI, "chat_template.jinja");
    snprintf(file, sizeof file, "%s/chat_template.jinja", p.dir);
    struct lb_chat *c;
    struct lb_err err = LB_ERR_INIT;
    struct lb_chat_spec spec = {.file = file};
    assert_int_equal(lb_chat_open(&c, &spec, &err), LB_E_USAGE);
    assert_non_null(strstr(err.text, "--chat-template"));
    static const char *const kwargs[] = {"{\"a\":", "[1]", "3", ""};
    for (size_t i = 0; i < sizeof kwargs / sizeof *kwargs; i++) {
        spec = (struct lb_chat_spec){.dir = p.dir, .kwargs = kwargs[i]};
        err = (struct lb_err)LB_ERR_INIT;
        assert_int_equal(lb_chat_open(&c, &spec, &err), LB_E_USAGE);
        assert_non_null(strstr(err.text, "--chat-template-kwargs"));
    }
    place_release(&p);
    place_init(&p, unnamed);
    open_chat(&p, (struct lb_chat_spec){0});
    expect_error(&p, HI, "none is named default");
    place_release(&p);
    place_init(&p, odd);
    open_chat(&p, (struct lb_chat_spec){0});
    expect_error(&p, HI, "none is named default");
    place_release(&p);
    place_init(&p, no_json);
    spec = (struct lb_chat_spec){.dir = p.dir};
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_chat_open(&c, &spec, &err), LB_E_INPUT);
    place_release(&p);
}

static void test_variables(void **state)
{
    (void)state;
    static const char *const files[][2] = {
        {"chat_template.jinja",
         "{{ bos_token }} {{ eos_token }} {{ pad_token is defined }} {{ mask_token }} {{ image_token }} "
         "{{ additional_special_tokens }} {{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} "
         "{{ a }} {{ b }} {{ messages | length }}{{ content }}"},
        {"tokenizer_config.json",
         "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\",\"lstrip\":false},\"pad_token\":null,"
         "\"additional_special_tokens\":[\"<x>\",{\"content\":\"<y>\"}],\"extra_special_tokens\":{\"image_token\":\"<i>"
         "\"}}"},
        {"special_tokens_map.json", "{\"bos_token\":\"<other>\",\"mask_token\":\"<m>\"}"},
        {NULL, NULL}};
    struct place p;
    place_init(&p, files);
    open_chat(&p, (struct lb_chat_spec){0});
    expect(&p, HI, "<s> </s> False <m> <i> ['<x>', '<y>'] True True True   1");
    open_chat(&p, (struct lb_chat_spec){.kwargs = "{\"a\":1,\"b\":[true,null],\"eos_token\":\"E\",\"messages\":3}"});
    expect(&p, HI, "<s> E False <m> <i> ['<x>', '<y>'] True True True 1 [True, None] 1");
    expect(&p,
           "{\"messages\":[{\"role\":\"user\"}],\"add_generation_prompt\":false,\"tools\":[],\"documents\":[{}],"
           "\"chat_template_kwargs\":{\"a\":2.5,\"bos_token\":\"B\"}}",
           "B E False <m> <i> ['<x>', '<y>'] False False False 2.5 [True, None] 1");
    place_release(&p);
}

static void test_clock(void **state)
{
    (void)state;
    static const char *const files[][2] = {{"chat_template.jinja", "{{ strftime_now('%d %b %Y') }}"}, {NULL, NULL}};
    struct place p;
    place_init(&p, files);
    open_chat(&p, (struct lb_chat_spec){.now = {.tm_mday = 2, .tm_mon = 0, .tm_year = 125}});
    expect(&p, HI, "02 Jan 2025");
    place_release(&p);
}

/* Recorded from transformers 5.23.0. */
static void test_messages(void **state)
{
    (void)state;
    static const char *const files[][2] = {
        {"chat_template.jinja",
         "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}|{% endfor %}"},
        {NULL, NULL}};
    struct place p;
    place_init(&p, files);
    open_chat(&p, (struct lb_chat_spec){0});
    expect(&p, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"reasoning\":\"r\"}]}",
           "thinking=r;role=assistant;content=x;reasoning=r;reasoning_content=r;|");
    expect(&p, "{\"messages\":[{\"role\":\"assistant\",\"thinking\":\"t\",\"content\":null}]}",
           "thinking=t;role=assistant;reasoning_content=t;|");
    expect(&p,
           "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"reasoning_content\":\"c\",\"thinking\":\"t\","
           "\"name\":null}]}",
           "thinking=t;role=assistant;content=x;reasoning_content=c;|");
    /* vLLM: arguments of the API are objects for templates */
    static const char calls[] =
        "{\"openai\":%s,\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":"
        "\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}},{\"function\":{\"arguments\":\"\"}}]}]}";
    char row[256];
    snprintf(row, sizeof row, calls, "true");
    expect(&p, row,
           "role=assistant;tool_calls=[{'function': {'name': 'f', 'arguments': {'a': 1}}}, {'function': {'arguments': "
           "{}}}];|");
    snprintf(row, sizeof row, calls, "false");
    expect(&p, row,
           "role=assistant;tool_calls=[{'function': {'name': 'f', 'arguments': '{\"a\": 1}'}}, {'function': "
           "{'arguments': ''}}];|");
    expect_error(&p, "{\"messages\":[\"x\"]}", "message 0");
    place_release(&p);
}

/* A template that knows parts gets them. One that does not prints them as Python does, which is what transformers
 * gives; in requests of the API their texts are joined (vLLM). */
static void test_parts(void **state)
{
    (void)state;
    static const char parts[] =
        "{\"openai\":true,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"One\"},"
        "{\"type\":\"text\",\"text\":\"two\"}]}],\"add_generation_prompt\":false}";
    static const struct {
        const char *text, *want;
    } templates[] = {
        {"{% for m in messages %}{{ m.content }}{% endfor %}", "One\ntwo"},
        {"{% for m in messages %}{{ m['content'] | trim }}.{% endfor %}", "One\ntwo."},
        {"{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}", "[One\ntwo]"},
        {"{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
         "<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}",
         "<One><two>"},
        {"{{ messages | tojson }}", "[{\"role\": \"user\", \"content\": \"One\\ntwo\"}]"},
    };
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        const char *const files[][2] = {{"chat_template.jinja", templates[i].text}, {NULL, NULL}};
        struct place p;
        place_init(&p, files);
        open_chat(&p, (struct lb_chat_spec){0});
        expect(&p, parts, templates[i].want);
        if (i == 0)
            expect(&p, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"One\"}]}]}",
                   "[{'type': 'text', 'text': 'One'}]");
        place_release(&p);
    }
}

#define PLAIN "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
#define TRIM "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
#define PARTS                                                                                                          \
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content " \
    "%}{{ p.text }}{% endfor %}{% endif %}</s>{% endfor %}"

/* Recorded from transformers 5.23.0's render_jinja_template. */
static void test_continue(void **state)
{
    (void)state;
    static const struct {
        const char *text, *content, *want; /* want NULL: it fails */
    } cases[] = {
        {PLAIN, "\"Sure\"", "<user>Hi</s><assistant>Sure"},
        {PLAIN, "\"Sure \"", "<user>Hi</s><assistant>Sure "},
        {PLAIN, "\"Sure\\n\"", "<user>Hi</s><assistant>Sure\n"},
        {TRIM, "\"Sure\"", "<user>Hi</s><assistant>Sure"},
        {TRIM, "\"  Sure: \"", "<user>Hi</s><assistant>Sure:"},
        {TRIM, "\" Sure\\u3000\"", "<user>Hi</s><assistant>Sure"},
        {PLAIN, "\"\"", "<user>Hi</s><assistant>"},
        {TRIM, "\"\"", "<user>Hi</s><assistant>"},
        {PLAIN, "\"\\u00e9\\u00a0\"", "<user>Hi</s><assistant>\u00e9\u00a0"},
        {TRIM, "\"\\u00e9\\u00a0\"", "<user>Hi</s><assistant>\u00e9"},
        {PARTS, "[{\"type\":\"text\",\"text\":\"One\"},{\"type\":\"text\",\"text\":\"two \"}]",
         "<user>Hi</s><assistant>Onetwo "},
        {PARTS, "[]", NULL},
        {PLAIN, "null", NULL},
        {"{% for m in messages %}{{ m.content.split('\\n')[0] }}{% endfor %}", "\"a\\nb\"", NULL},
        {"{% for m in messages %}{{ m.content[:3] }}{% endfor %}", "\"Sure\"", NULL},
        {"{% for m in messages %}{{ m.role }}{% endfor %}", "\"Sure\"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const files[][2] = {{"chat_template.jinja", cases[i].text}, {NULL, NULL}};
        char row[300];
        struct place p;
        place_init(&p, files);
        open_chat(&p, (struct lb_chat_spec){0});
        snprintf(row, sizeof row,
                 "{\"continue_final_message\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":"
                 "\"assistant\",\"content\":%s}]}",
                 cases[i].content);
        if (cases[i].want)
            expect(&p, row, cases[i].want);
        else
            expect_error(&p, row, "continue_final_message");
        place_release(&p);
    }
}

/* What is built in against the published templates, in every case of golden.jsonl. */
static int compare_built_in(struct place *p, const char *template)
{
    static char line[1 << 16];
    FILE *f = fopen(SHARED "/templates/golden.jsonl", "r");
    int n = 0;
    if (!f)
        return -1;
    while (fgets(line, sizeof line, f)) {
        json_t *g = load(line), *context = json_object_get(g, "context");
        const json_t *output = json_object_get(g, "output");
        if (strcmp(json_string_value(json_object_get(g, "template")), template) == 0) {
            char *row = json_dumps(context, 0), *got = NULL;
            json_t *kwargs = json_deep_copy(context);
            static const char *const own[] = {"messages", "tools", "documents", "add_generation_prompt"};
            for (size_t i = 0; i < 4; i++)
                json_object_del(kwargs, own[i]);
            json_object_set_new(context, "chat_template_kwargs", kwargs);
            if (json_is_null(json_object_get(context, "tools")))
                json_object_del(context, "tools");
            json_object_del(context, "documents");
            free(row);
            row = json_dumps(context, 0);
            got = render(p, row);
            const char *name = json_string_value(json_object_get(g, "case"));
            if (output && strcmp(got, json_string_value(output)) != 0)
                fail_msg("%s %s: '%s' is not '%s'", template, name, got, json_string_value(output));
            if (!output && strncmp(got, "ERROR: ", 7) != 0)
                fail_msg("%s %s: '%s' is no error", template, name, got);
            free(got);
            free(row);
            n++;
        }
        json_decref(g);
    }
    fclose(f);
    return n;
}

static void test_built_in(void **state)
{
    (void)state;
    static const struct {
        const char *dir, *template, *source;
        bool guess;
    } models[] = {{SHARED "/tokenizers/glm-4-9b-chat", "ollama-glm4-9b-chat.jinja", "built in: glm-4-9b-chat", false},
                  {SHARED "/tokenizers/llama2", "ollama-llama2-7b-chat.jinja", "built in: Llama 2", true}};
    static const char *const none[][2] = {{NULL, NULL}};
    for (size_t i = 0; i < 2; i++) {
        struct place p;
        struct lb_tok *tok;
        struct lb_err err = LB_ERR_INIT;
        if (access(models[i].dir, R_OK) != 0)
            skip();
        place_init(&p, none);
        assert_int_equal(lb_tok_open_dir(&tok, models[i].dir, &err), LB_OK);
        open_chat(&p, (struct lb_chat_spec){.dir = models[i].dir, .tok = tok});
        assert_non_null(lb_chat_source(p.chat));
        assert_string_equal(lb_chat_source(p.chat), models[i].source);
        assert_int_equal(lb_chat_is_guess(p.chat), models[i].guess);
        assert_int_equal(compare_built_in(&p, models[i].template), 12);
        lb_tok_free(tok);
        place_release(&p);
    }
}

/* ChatGLM3's PROMPT.md: roles are tokens, metadata stands behind them. */
static void test_built_in_chatglm3(void **state)
{
    (void)state;
    static const char *const files[][2] = {{"tokenizer_config.json", "{\"tokenizer_class\":\"ChatGLMTokenizer\"}"},
                                           {NULL, NULL}};
    struct place p;
    struct lb_tok *tok;
    struct lb_err err = LB_ERR_INIT;
    place_init(&p, files);
    assert_int_equal(lb_tok_open_dir(&tok, p.dir, &err), LB_OK);
    open_chat(&p, (struct lb_chat_spec){.tok = tok});
    assert_string_equal(lb_chat_source(p.chat), "built in: ChatGLM3");
    expect(&p,
           "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"Hi\"},"
           "{\"role\":\"assistant\",\"metadata\":\"get_weather\",\"content\":\"x\"}]}",
           "[gMASK]sop<|system|>\n Be brief.<|user|>\n Hi<|assistant|>get_weather\n x<|assistant|>");
    lb_tok_free(tok);
    place_release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sources),  cmocka_unit_test(test_broken),   cmocka_unit_test(test_variables),
        cmocka_unit_test(test_clock),    cmocka_unit_test(test_messages), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_continue), cmocka_unit_test(test_built_in), cmocka_unit_test(test_built_in_chatglm3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
