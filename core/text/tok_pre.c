/* Names of GGUF pre-tokenizers whose patterns are known: the file names its pre-tokenizer only (models.md 2.2.5, 3.5;
 * llama.cpp src/llama-vocab.cpp for names and patterns; where that adapts a pattern of tokenizer.json, the original).
 */
#include <string.h>

#include "core/text/tok_kind.h"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(end) "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" end "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" end
#define MARKS " ?[^\\s\\p{L}\\p{N}]+"
#define DEEPSEEK_WORDS                                                                                   \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
/* letters that have case, as DeepSeek's files list them */
#define DEEPSEEK_CASED                                                                                        \
    "\\s?[\\x{41}-\\x{5A}\\x{61}-\\x{7A}\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}"                \
    "\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}"   \
    "\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}"            \
    "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}"             \
    "\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}"         \
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}"         \
    "\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}"           \
    "\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}"         \
    "\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}" \
    "\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}"           \
    "\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}" \
    "\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"          \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}"         \
    "\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}" \
    "\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+"
#define DEEPSEEK_CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define SENTENCE_MARKS " ?[^(\\s|.,!?…。，、।۔،)]+"

#define LLAMA3            \
    {                     \
        lb_pattern_llama3 \
    }
#define QWEN2            \
    {                    \
        lb_pattern_qwen2 \
    }
#define GPT2            \
    {                   \
        lb_pattern_gpt2 \
    }
#define DIGITS_GPT2               \
    {                             \
        "\\p{N}", lb_pattern_gpt2 \
    }
#define DEEPSEEK3                                                 \
    {                                                             \
        "\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_WORDS \
    }
#define DEEPSEEK_LLM                                                                                              \
    {                                                                                                             \
        "[\\r\\n]", DEEPSEEK_CASED,                                                                               \
            "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+", "\\s+$", \
            DEEPSEEK_CJK, "\\p{N}+"                                                                               \
    }
#define DEEPSEEK_CODER                                                   \
    {                                                                    \
        "[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}" \
    }
#define FALCON                                                           \
    {                                                                    \
        "[\\p{P}\\$\\+<=>\\^~\\|`]+", lb_pattern_gpt2, "[0-9][0-9][0-9]" \
    }
#define TEKKEN                                          \
    {                                                   \
        CASED("") "|\\p{N}|" MARKS "[\\r\\n/]*|" SPACES \
    }
#define GPT4O                                                             \
    {                                                                     \
        CASED(CONTRACTION "?") "|\\p{N}{1,3}|" MARKS "[\\r\\n/]*|" SPACES \
    }
#define SEED                                                                                       \
    {                                                                                              \
        CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES \
    }
#define BAILING                                                                                        \
    {                                                                                                  \
        "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" \
        "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"                                                                \
    }
/* what llama.cpp takes for "default" and for a file without the name: cuts one after another */
#define DEFAULT                                                                    \
    {                                                                              \
        "[\\p{P}\\$\\+<=>\\^~\\|]+", lb_pattern_gpt2, "\\p{N}+", "[0-9][0-9][0-9]" \
    }

static const struct lb_pre_kind kinds[] = {
    {"llama-bpe", true, true, false, LLAMA3},
    {"llama3", true, true, false, LLAMA3},
    {"llama-v3", true, true, false, LLAMA3},
    {"falcon3", true, true, false, LLAMA3},
    {"falcon-h1", true, true, false, LLAMA3},
    {"pixtral", true, true, false, LLAMA3},
    {"midm-2.0", true, true, false, LLAMA3},
    {"lfm2", true, true, false, LLAMA3},
    {"glm4", true, false, false, LLAMA3},
    {"chatglm-bpe", true, false, false, LLAMA3},
    {"dbrx", false, false, false, LLAMA3},
    {"smaug-bpe", false, false, false, LLAMA3},
    {"qwen2", false, false, true, QWEN2},
    {"deepseek-r1-qwen", false, false, false, QWEN2},
    {"stablelm2", false, false, false, QWEN2},
    {"megrez", false, false, false, QWEN2},
    {"hunyuan", false, false, false, QWEN2},
    {"solar-open", false, false, false, QWEN2},
    {"grok-2", false, false, false, QWEN2},
    {"qwen35", false, false, true, {lb_pattern_qwen35}},
    {"deepseek-llm", false, false, false, DEEPSEEK_LLM},
    {"deepseek-coder", false, false, false, DEEPSEEK_CODER},
    {"deepseek-v3", false, false, false, DEEPSEEK3},
    {"hunyuan-dense", false, false, false, DEEPSEEK3},
    {"joyai-llm", false, false, false, DEEPSEEK3},
    {"tekken", true, true, false, TEKKEN},
    {"gpt-4o", false, false, false, GPT4O},
    {"llama4", false, false, false, GPT4O},
    {"minimax-m2", false, false, false, GPT4O},
    {"seed-coder", false, false, false, SEED},
    {"bailingmoe", false, false, false, BAILING},
    {"bailingmoe2", false, false, false, BAILING},
    {"gpt-2", false, false, false, GPT2},
    {"phi-2", false, false, false, GPT2},
    {"mpt", false, false, false, GPT2},
    {"olmo", false, false, false, GPT2},
    {"jais", false, false, false, GPT2},
    {"exaone4", false, false, false, GPT2},
    {"smollm", false, false, false, DIGITS_GPT2},
    {"starcoder", false, false, false, DIGITS_GPT2},
    {"refact", false, false, false, DIGITS_GPT2},
    {"command-r", false, false, false, DIGITS_GPT2},
    {"codeshell", false, false, false, DIGITS_GPT2},
    {"exaone", false, false, false, DIGITS_GPT2},
    {"minerva-7b", false, false, false, DIGITS_GPT2},
    {"falcon", false, false, false, FALCON},
    {"bloom", false, false, false, {SENTENCE_MARKS}},
    {"poro-chat", false, false, false, {SENTENCE_MARKS}},
    {"viking", false, false, false, {SENTENCE_MARKS, "\\p{N}"}},
    {"default", false, false, false, DEFAULT},
    {"", false, false, false, DEFAULT},
};

const struct lb_pre_kind *lb_pre_find(struct lb_bytes name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (name.len == strlen(kinds[i].name) && (name.len == 0 || memcmp(name.data, kinds[i].name, name.len) == 0))
            return &kinds[i];
    return NULL;
}
