#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/backend/step.h"
#include "core/base/mem.h"

static const struct lb_step_limits limit = {.n_tok = 24, .n_seq = 7, .n_page = 40};

static void fill(int32_t *table, int32_t n, int32_t first)
{
    for (int32_t i = 0; i < n; i++)
        table[i] = first + 3 * i;
}

static void fill_step(struct lb_step *s, const int32_t n[6])
{
    s->n_tok = n[0];
    s->n_seq = n[1];
    s->n_page = n[2];
    s->n_out = n[3];
    s->n_new = n[4];
    s->n_copy = n[5];
    s->n_later = 7 * n[1];
    fill(s->tok, n[0], -40);
    fill(s->pos, n[0], 1000);
    fill(s->tok_page, n[0], 2000);
    fill(s->rope_len, n[0], 3000);
    fill(s->seq_start, n[1] + 1, 4000);
    fill(s->page_start, n[1] + 1, 5000);
    fill(s->page, n[2], 6000);
    fill(s->new_page, n[4], 7000);
    fill(s->out_tok, n[3], 8000);
    fill(s->out_flags, n[3], 9000);
    fill(s->copy_from, n[5], 10000);
    fill(s->copy_to, n[5], 11000);
}

static void assert_same(const struct lb_step *a, const struct lb_step *b)
{
    const struct {
        const int32_t *a, *b;
        int32_t n;
    } t[] = {{a->tok, b->tok, a->n_tok},
             {a->pos, b->pos, a->n_tok},
             {a->tok_page, b->tok_page, a->n_tok},
             {a->rope_len, b->rope_len, a->n_tok},
             {a->seq_start, b->seq_start, a->n_seq + 1},
             {a->page_start, b->page_start, a->n_seq + 1},
             {a->page, b->page, a->n_page},
             {a->new_page, b->new_page, a->n_new},
             {a->out_tok, b->out_tok, a->n_out},
             {a->out_flags, b->out_flags, a->n_out},
             {a->copy_from, b->copy_from, a->n_copy},
             {a->copy_to, b->copy_to, a->n_copy}};
    assert_int_equal(a->number, b->number);
    assert_int_equal(a->n_tok, b->n_tok);
    assert_int_equal(a->n_seq, b->n_seq);
    assert_int_equal(a->n_page, b->n_page);
    assert_int_equal(a->n_out, b->n_out);
    assert_int_equal(a->n_new, b->n_new);
    assert_int_equal(a->n_copy, b->n_copy);
    assert_int_equal(a->n_later, b->n_later);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        assert_memory_equal(t[i].a, t[i].b, (size_t)t[i].n * sizeof *t[i].a);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const int32_t shape[][6] = {
        {0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 0, 0}, {24, 7, 40, 24, 40, 7}, {13, 4, 9, 3, 2, 1}};
    struct lb_err err = LB_ERR_INIT;
    struct lb_step a, b;
    assert_int_equal(lb_step_init(&a, limit, &err), LB_OK);
    assert_int_equal(lb_step_init(&b, limit, &err), LB_OK);
    size_t max = lb_step_pack_max(&a);
    int32_t *ints = lb_mem_new(max, sizeof *ints), sent[24], got[24];
    fill(sent, 24, 77);
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        for (int32_t n_slot = 0; n_slot <= 24; n_slot += 12) {
            struct lb_step_head head;
            a.number = ((int64_t)1 << 40) + (int64_t)i;
            fill_step(&a, shape[i]);
            lb_step_pack(&a, sent, n_slot, &head, ints);
            assert_true(head.n_int >= 0 && (size_t)head.n_int <= max);
            /* numbers beyond those that are sent are not looked at */
            for (size_t k = (size_t)head.n_int; k < max; k++)
                ints[k] = -1;
            memset(got, 0, sizeof got);
            memset(b.block, 0, b.block_bytes);
            assert_int_equal(lb_step_head_check(&b, &head, &err), LB_OK);
            lb_step_unpack(&b, got, &head, ints);
            assert_same(&a, &b);
            assert_memory_equal(got, sent, (size_t)n_slot * sizeof *got);
            if (n_slot < 24)
                assert_int_equal(got[n_slot], 0);
        }
    }
    lb_mem_free(ints);
    lb_step_release(&a);
    lb_step_release(&b);
}

/* A head that would write beyond the tables is refused, member by member. */
static void test_bounds(void **state)
{
    (void)state;
    struct lb_err err = LB_ERR_INIT;
    struct lb_step s;
    assert_int_equal(lb_step_init(&s, limit, &err), LB_OK);
    int32_t *ints = lb_mem_new(lb_step_pack_max(&s), sizeof *ints), slot[24] = {0};
    struct lb_step_head good;
    fill_step(&s, (const int32_t[]){24, 7, 40, 24, 40, 7});
    lb_step_pack(&s, slot, 24, &good, ints);
    assert_int_equal(lb_step_head_check(&s, &good, &err), LB_OK);
    for (int i = 0; i < 16; i++) {
        struct lb_step_head bad = good;
        int32_t *const member[] = {&bad.n_tok, &bad.n_seq,  &bad.n_page, &bad.n_out,
                                   &bad.n_new, &bad.n_slot, &bad.n_copy};
        int32_t times[] = {4, 2, 1, 2, 1, 1, 2};
        if (i < 14) {
            int32_t by = i < 7 ? 1 : -1000;
            *member[i % 7] += by;
            bad.n_int += (int64_t)by * times[i % 7]; /* a head that agrees with itself */
        } else {
            bad.n_int += i == 14 ? 1 : -1;
        }
        struct lb_err why = LB_ERR_INIT;
        assert_int_equal(lb_step_head_check(&s, &bad, &why), LB_E_DEVICE);
        assert_non_null(strstr(why.text, "does not fit"));
    }
    lb_mem_free(ints);
    lb_step_release(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
