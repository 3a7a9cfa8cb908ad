#include "kernels/tests/simt/simt_switch.h"

#include <stdint.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

static const void *main_stack;
static size_t main_bytes;
static void *main_fake;
static bool from_main; /* the last switch */

static void leave(void **fake, const void *stack, size_t bytes)
{
    __sanitizer_start_switch_fiber(fake, stack, bytes);
}

static void arrive(void *fake, bool in_fiber)
{
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fake, &stack, &bytes);
    if (in_fiber && from_main) {
        main_stack = stack;
        main_bytes = bytes;
    }
}

static void forget(void *stack, size_t bytes)
{
    __asan_unpoison_memory_region(stack, bytes);
}
#else
static const void *main_stack;
static size_t main_bytes;
static void *main_fake;
static bool from_main;

static void leave(void **, const void *, size_t)
{
}

static void arrive(void *, bool)
{
}

static void forget(void *, size_t)
{
}
#endif

#ifdef __x86_64__
extern "C" void simt_swap(void **from, void *to);

/* What a call must leave as it was (System V ABI, AMD64) lies on the stack that is left. */
__asm__(".text\n"
        ".globl simt_swap\n"
        ".hidden simt_swap\n"
        ".type simt_swap, @function\n"
        "simt_swap:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size simt_swap, . - simt_swap\n");

void *simt_fresh(void *stack, size_t bytes, void (*main)(void))
{
    forget(stack, bytes);
    uintptr_t *top = (uintptr_t *)((char *)stack + bytes);
    *--top = 0;
    *--top = (uintptr_t)main;
    for (int i = 0; i < 6; i++)
        *--top = 0;
    return top;
}
#else
#include <stdlib.h>
#include <ucontext.h>

/* A place is a context; fresh ones are kept in the stack itself. */
struct place {
    ucontext_t context;
};

static void simt_swap(void **from, void *to)
{
    place here;
    *from = &here;
    swapcontext(&here.context, &((place *)to)->context);
}

void *simt_fresh(void *stack, size_t bytes, void (*main)(void))
{
    forget(stack, bytes);
    place *p = (place *)stack;
    size_t kept = (sizeof *p + 63) / 64 * 64;
    if (getcontext(&p->context) != 0)
        abort();
    p->context.uc_stack.ss_sp = (char *)stack + kept;
    p->context.uc_stack.ss_size = bytes - kept;
    p->context.uc_link = NULL;
    makecontext(&p->context, main, 0);
    return p;
}
#endif

void simt_enter(void **from, void *to, void *stack, size_t bytes)
{
    leave(&main_fake, stack, bytes);
    from_main = true;
    simt_swap(from, to);
    arrive(main_fake, false);
}

void simt_pass(void **from, void *to, void *stack, size_t bytes)
{
    void *fake = NULL;
    leave(&fake, stack, bytes);
    from_main = false;
    simt_swap(from, to);
    arrive(fake, true);
}

void simt_switch(void **from, void *to)
{
    void *fake = NULL;
    leave(&fake, main_stack, main_bytes);
    simt_swap(from, to);
    arrive(fake, true);
}

void simt_switch_last(void **from, void *to)
{
    leave(NULL, main_stack, main_bytes);
    simt_swap(from, to);
}

void simt_switched(void)
{
    arrive(NULL, true);
}
