/* --completions: scripts that let a shell complete the command line, made of options.def. */
#ifndef CLI_COMPLETE_H
#define CLI_COMPLETE_H

#include "core/llmbatch.h"

enum lb_shell { LB_SHELL_NONE, LB_SHELL_BASH, LB_SHELL_ZSH, LB_SHELL_FISH };

/* Appends the script; memory failures stick in out. */
void lb_complete_script(enum lb_shell shell, struct lb_str *out);

#endif
