#include "cli/complete.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum kind { FLAG, TEXT, INT, SIZE, DURATION, AUTO, REAL, CHOICE, NAME, FILES, STRINGS, IDS, NAMES };

/* What a shell can know of an option: its value is one of some words, a file, or anything. */
static const struct option {
    const char *name;
    char letter;
    enum kind kind;
    const char *metavar, *help;
} options[] = {
#define LB_OPTION(group, name, letter, kind, field, limits, metavar, help) {(name), (letter), kind, (metavar), (help)},
#define LB_ALIAS(other, name)
#include "cli/options.def"
#undef LB_OPTION
#undef LB_ALIAS
};

#define N_OPTION (sizeof options / sizeof *options)

static bool has_words(const struct option *o)
{
    return o->kind == CHOICE || o->kind == NAME;
}

static bool has_file(const struct option *o)
{
    static const char *const names[] = {"FILE", "MODEL", "OUT", "DIR"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(o->metavar, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static bool repeats(const struct option *o)
{
    return o->kind == FILES || o->kind == STRINGS;
}

/* "a|b" as "a b" */
static void put_words(struct lb_str *out, const struct option *o)
{
    for (const char *c = o->metavar; *c; c++)
        lb_str_putc(out, *c == '|' ? ' ' : *c);
}

/* Text inside single quotes, with a backslash before what the shell's own syntax there would take. */
static void put_quoted(struct lb_str *out, const char *text, const char *special, const char *quote)
{
    for (; *text; text++) {
        if (*text == '\'') {
            lb_str_puts(out, quote);
            continue;
        }
        if (strchr(special, *text))
            lb_str_putc(out, '\\');
        lb_str_putc(out, *text);
    }
}

/* ---- bash ---- */

static void put_names(struct lb_str *out, const struct option *o)
{
    if (o->letter)
        lb_str_putf(out, "-%c|", o->letter);
    lb_str_putf(out, "--%s", o->name);
}

/* A branch for all options of a sort. */
static void put_branch(struct lb_str *out, bool (*wanted)(const struct option *o), const char *body)
{
    bool any = false;
    for (size_t i = 0; i < N_OPTION; i++) {
        if (!wanted(&options[i]))
            continue;
        lb_str_puts(out, any ? "|" : "    ");
        put_names(out, &options[i]);
        any = true;
    }
    if (any)
        lb_str_putf(out, ")\n        %s ;;\n", body);
}

static bool has_anything(const struct option *o)
{
    return o->kind != FLAG && !has_words(o) && !has_file(o);
}

static void put_bash(struct lb_str *out)
{
    lb_str_puts(out, "# bash completion of llmbatch, made by llmbatch --completions bash\n"
                     "_llmbatch() {\n"
                     "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} IFS=$'\\n'\n"
                     "    if [[ $cur == = ]]; then\n"
                     "        cur=\n"
                     "    elif [[ $prev == = ]]; then\n"
                     "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
                     "    fi\n"
                     "    COMPREPLY=()\n"
                     "    case $prev in\n");
    for (size_t i = 0; i < N_OPTION; i++) {
        if (!has_words(&options[i]))
            continue;
        lb_str_puts(out, "    ");
        put_names(out, &options[i]);
        lb_str_puts(out, ")\n        IFS=$' \\n'\n        COMPREPLY=($(compgen -W '");
        put_words(out, &options[i]);
        lb_str_puts(out, "' -- \"$cur\"))\n        return ;;\n");
    }
    put_branch(out, has_file, "compopt -o filenames\n        COMPREPLY=($(compgen -f -- \"$cur\"))\n        return");
    put_branch(out, has_anything, "return");
    lb_str_puts(out, "    esac\n    if [[ $cur == -* ]]; then\n        IFS=$' \\n'\n        COMPREPLY=($(compgen -W '");
    for (size_t i = 0; i < N_OPTION; i++)
        lb_str_putf(out, "%s--%s", i ? " " : "", options[i].name);
    lb_str_puts(out, "' -- \"$cur\"))\n"
                     "    else\n"
                     "        compopt -o filenames\n"
                     "        COMPREPLY=($(compgen -f -- \"$cur\"))\n"
                     "    fi\n"
                     "}\n"
                     "complete -F _llmbatch llmbatch\n");
}

/* ---- zsh ---- */

static void put_zsh_option(struct lb_str *out, const struct option *o)
{
    const char *value = o->kind == FLAG ? "" : "=";
    lb_str_puts(out, "    ");
    if (repeats(o))
        lb_str_puts(out, o->letter ? "\\*" : "'*");
    else if (o->letter)
        lb_str_putf(out, "'(-%c --%s)'", o->letter, o->name);
    else
        lb_str_putc(out, '\'');
    if (o->letter)
        lb_str_putf(out, "{-%c%s,--%s%s}'", o->letter, *value ? "+" : "", o->name, value);
    else
        lb_str_putf(out, "--%s%s", o->name, value);
    lb_str_putc(out, '[');
    put_quoted(out, o->help, "[]\\:", "'\\''");
    lb_str_putc(out, ']');
    if (o->kind != FLAG) {
        lb_str_puts(out, ":");
        put_quoted(out, o->name, ":", "'\\''");
        lb_str_puts(out, ":");
        if (has_words(o)) {
            lb_str_putc(out, '(');
            put_words(out, o);
            lb_str_putc(out, ')');
        } else if (has_file(o)) {
            lb_str_puts(out, "_files");
        }
    }
    lb_str_puts(out, "' \\\n");
}

static void put_zsh(struct lb_str *out)
{
    lb_str_puts(out, "#compdef llmbatch\n"
                     "# zsh completion of llmbatch, made by llmbatch --completions zsh\n"
                     "_arguments -s \\\n");
    for (size_t i = 0; i < N_OPTION; i++)
        put_zsh_option(out, &options[i]);
    lb_str_puts(out, "    '*:input:_files'\n");
}

/* ---- fish ---- */

static void put_fish(struct lb_str *out)
{
    lb_str_puts(out, "# fish completion of llmbatch, made by llmbatch --completions fish\n");
    for (size_t i = 0; i < N_OPTION; i++) {
        const struct option *o = &options[i];
        lb_str_puts(out, "complete -c llmbatch");
        if (o->letter)
            lb_str_putf(out, " -s %c", o->letter);
        lb_str_putf(out, " -l %s", o->name);
        if (has_words(o)) {
            lb_str_puts(out, " -x -a '");
            put_words(out, o);
            lb_str_putc(out, '\'');
        } else if (has_file(o)) {
            lb_str_puts(out, " -r -F");
        } else if (o->kind != FLAG) {
            lb_str_puts(out, " -x");
        }
        lb_str_puts(out, " -d '");
        put_quoted(out, o->help, "\\", "\\'");
        lb_str_puts(out, "'\n");
    }
}

void lb_complete_script(enum lb_shell shell, struct lb_str *out)
{
    if (shell == LB_SHELL_BASH)
        put_bash(out);
    else if (shell == LB_SHELL_ZSH)
        put_zsh(out);
    else if (shell == LB_SHELL_FISH)
        put_fish(out);
}
