/* Chat formats of models whose older checkpoints carry no template, written from their publishers' descriptions: Llama
 * 2 (Meta's prompt format), ChatGLM3 (its PROMPT.md) and glm-4-9b-chat (models.md 5.3). */
#include <string.h>

#include "core/text/chat_impl.h"

/* The system text stands inside the first user turn; each pair of turns is a text of its own with BOS and EOS. */
static const char llama2[] =
    "{%- set system = '' -%}{%- set turns = messages -%}\n"
    "{%- if messages and messages[0]['role'] == 'system' -%}\n"
    "{%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}{%- set turns = messages[1:] -%}\n"
    "{%- endif -%}\n"
    "{%- for turn in turns -%}\n"
    "{%- if turn['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}\n"
    "{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}\n"
    "{%- endif -%}\n"
    "{%- if turn['role'] == 'user' -%}\n"
    "{{- bos_token + '[INST] ' + ((system if loop.first else '') + turn['content']).strip() + ' [/INST]' -}}\n"
    "{%- else -%}\n"
    "{{- ' ' + turn['content'].strip() + ' ' + eos_token -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n";

/* A role is a token, then metadata, a line feed and the content; each piece between tokens begins with a space, as its
 * SentencePiece tokenizer writes the beginning of a text. */
static const char chatglm3[] =
    "{{- '[gMASK]sop' -}}\n"
    "{%- for turn in messages -%}\n"
    "{{- '<|' + turn['role'] + '|>' + (turn['metadata'] or '') + '\\n ' + turn['content'] -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}\n";

/* Tools stand in the message that has them, as a system turn before its content. */
static const char glm4[] =
    "{{- '[gMASK]<sop>' -}}\n"
    "{%- for turn in messages -%}\n"
    "{%- if turn['tools'] is defined -%}\n"
    "{{- '<|system|>\\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 "
    "模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\\n\\n# 可用工具' -}}\n"
    "{%- for tool in turn['tools'] -%}\n"
    "{%- if tool['type'] != 'function' -%}\n"
    "{{- raise_exception('the built-in template of glm-4-9b-chat knows tools of type function alone') -}}\n"
    "{%- endif -%}\n"
    "{{- '\\n\\n## ' + tool['function']['name'] + '\\n\\n' + (tool['function'] | tojson(indent=4)) + "
    "'\\n在调用上述函数时，请使用 Json 格式表示调用的参数。' -}}\n"
    "{%- endfor -%}\n"
    "{%- endif -%}\n"
    "{%- if turn['content'] -%}\n"
    "{{- '<|' ~ turn['role'] ~ '|>' ~ turn['metadata'] ~ '\\n' ~ turn['content'] -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}\n";

static const struct lb_chat_builtin of_llama2 = {"Llama 2", llama2, true};
static const struct lb_chat_builtin of_chatglm3 = {"ChatGLM3", chatglm3, true}; /* ChatGLM2's files look the same */
static const struct lb_chat_builtin of_glm4 = {"glm-4-9b-chat", glm4, false};

/* Llama 2's vocabulary: as large as Mistral's, with other tokens. */
static bool is_llama2(const struct lb_tok *tok)
{
    struct lb_bytes hello =
        lb_tok_missing(tok) || lb_tok_size(tok) != 32000 ? (struct lb_bytes){"", 0} : lb_tok_piece(tok, 15043);
    return hello.len >= 5 && memcmp(hello.data + hello.len - 5, "Hello", 5) == 0;
}

const struct lb_chat_builtin *lb_chat_builtin_find(const json_t *config, const struct lb_tok *tok)
{
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    if (class && strcmp(class, "ChatGLM4Tokenizer") == 0)
        return &of_glm4;
    if (class && strcmp(class, "ChatGLMTokenizer") == 0)
        return &of_chatglm3;
    bool llama = !config || (class && strncmp(class, "LlamaTokenizer", 14) == 0);
    return llama && is_llama2(tok) ? &of_llama2 : NULL;
}
