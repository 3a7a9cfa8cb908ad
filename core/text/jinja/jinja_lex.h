/* Tokens of a template. */
#ifndef CORE_TEXT_JINJA_LEX_H
#define CORE_TEXT_JINJA_LEX_H

#include "core/text/jinja/jinja_impl.h"

enum lb_jtok {
    LB_JT_END,
    LB_JT_DATA,
    LB_JT_PRINT_BEGIN,
    LB_JT_PRINT_END,
    LB_JT_TAG_BEGIN,
    LB_JT_TAG_END,
    LB_JT_NAME,
    LB_JT_STRING, /* value */
    LB_JT_NUMBER, /* value */
    /* operators */
    LB_JT_ADD,
    LB_JT_SUB,
    LB_JT_MUL,
    LB_JT_DIV,
    LB_JT_FLOORDIV,
    LB_JT_MOD,
    LB_JT_POW,
    LB_JT_TILDE,
    LB_JT_LBRACKET,
    LB_JT_RBRACKET,
    LB_JT_LPAREN,
    LB_JT_RPAREN,
    LB_JT_LBRACE,
    LB_JT_RBRACE,
    LB_JT_EQ,
    LB_JT_NE,
    LB_JT_GT,
    LB_JT_GE,
    LB_JT_LT,
    LB_JT_LE,
    LB_JT_ASSIGN,
    LB_JT_DOT,
    LB_JT_COLON,
    LB_JT_PIPE,
    LB_JT_COMMA,
    LB_JT_SEMICOLON,
};

struct lb_jtoken {
    uint8_t type; /* enum lb_jtok */
    int line;
    const char *text; /* [n] as in the source */
    size_t n;
    struct lb_jval value;
};

/* Tokens end with LB_JT_END. They lie in memory of their own (lb_mem_free). */
enum lb_status lb_jinja_lex(struct lb_jinja *t, struct lb_jtoken **tokens, size_t *n_tokens, struct lb_err *err);

#endif
