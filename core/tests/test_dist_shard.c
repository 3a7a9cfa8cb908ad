/* Slices against the contract counted out head by head: every segment, head, expert and column is one rank's, and a
 * query head's KV head is the one that the whole model gives it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/dist/shard.h"

static void check_slices(const struct lb_shard_shape *shape, int tp)
{
    struct lb_err err = LB_ERR_INIT;
    int64_t head = 0, expert = 0;
    int seg = 0;
    for (int rank = 0; rank < tp; rank++) {
        struct lb_slice s;
        assert_int_equal(lb_slice_init(&s, shape, rank, tp, &err), LB_OK);
        assert_int_equal(s.seg_begin, seg);
        assert_int_equal(s.head_begin, head);
        assert_int_equal(s.expert_begin, expert);
        seg = s.seg_end;
        head += s.n_head;
        expert = s.expert_end;
        /* a segment's heads and experts are with the segment */
        assert_int_equal(s.head_begin * shape->n_seg, s.seg_begin * shape->n_head);
        for (int64_t e = s.expert_begin; e < s.expert_end; e++) {
            int group = 0; /* of n_seg groups, the first that ends behind e */
            while ((group + 1) * shape->n_expert / shape->n_seg <= e)
                group++;
            assert_true(group >= s.seg_begin && group < s.seg_end);
        }
        /* what attention does: query head q reads KV head q / (n_head / n_kv_head) of those that are here */
        int64_t here = s.n_head / s.n_kv_head;
        assert_int_equal(here * s.n_kv_head, s.n_head);
        for (int64_t q = 0; q < s.n_head; q++)
            assert_int_equal(lb_slice_kv_head(&s, q / here), (s.head_begin + q) / (shape->n_head / shape->n_kv_head));
    }
    assert_int_equal(seg, shape->n_seg);
    assert_int_equal(head, shape->n_head);
    assert_int_equal(expert, shape->n_expert);
}

static void slices_cover_the_model(void **state)
{
    (void)state;
    static const struct lb_shard_shape shapes[] = {
        {8, 32, 8, 0},  {8, 8, 1, 10},   {16, 64, 8, 160}, {16, 128, 1, 256}, {3, 3, 1, 0},   {3, 9, 3, 7},
        {2, 6, 3, 0},   {2, 6, 2, 0},    {5, 5, 5, 3},     {1, 1, 1, 4},      {13, 13, 1, 0}, {4, 12, 4, 0},
        {8, 96, 96, 9}, {16, 96, 2, 17}, {4, 28, 4, 0},    {8, 40, 10, 1},    {4, 4, 2, 3},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int tp = 1; tp <= shapes[i].n_seg; tp++)
            if (shapes[i].n_seg % tp == 0)
                check_slices(&shapes[i], tp);
}

/* Each KV head is held once where the cut goes between them, and no more than the query heads ask for elsewhere. */
static void kv_heads_are_few(void **state)
{
    (void)state;
    static const struct {
        struct lb_shard_shape shape;
        int tp;
        int64_t n_kv_head;
    } cases[] = {{{8, 32, 8, 0}, 4, 2},  {{8, 32, 8, 0}, 8, 1},    {{8, 8, 1, 0}, 2, 1}, {{2, 6, 3, 0}, 2, 3},
                 {{2, 6, 2, 0}, 2, 1},   {{16, 128, 1, 0}, 16, 1}, {{3, 3, 1, 0}, 3, 1}, {{4, 12, 4, 0}, 4, 1},
                 {{8, 40, 10, 0}, 4, 5}, {{8, 40, 8, 0}, 4, 2},    {{4, 4, 4, 0}, 2, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_err err = LB_ERR_INIT;
        for (int rank = 0; rank < cases[i].tp; rank++) {
            struct lb_slice s;
            assert_int_equal(lb_slice_init(&s, &cases[i].shape, rank, cases[i].tp, &err), LB_OK);
            assert_int_equal(s.n_kv_head, cases[i].n_kv_head);
        }
    }
}

static void columns_are_cut(void **state)
{
    (void)state;
    const struct lb_shard_shape shape = {8, 8, 8, 0};
    struct lk_cols whole, own;
    lb_cols_init(&whole, 8, (int64_t[]){0, 0, 32, 32, 64, 64, 96, 96, 100});
    for (int tp = 1; tp <= 8; tp *= 2) {
        for (int rank = 0; rank < tp; rank++) {
            struct lb_err err = LB_ERR_INIT;
            struct lb_slice s;
            assert_int_equal(lb_slice_init(&s, &shape, rank, tp, &err), LB_OK);
            lb_slice_cols(&s, &whole, &own);
            assert_int_equal(own.n_seg, 8 / tp);
            assert_int_equal(own.n_col, whole.begin[s.seg_end] - whole.begin[s.seg_begin]);
            for (int is = 0; is < own.n_seg; is++) {
                int at = s.seg_begin + is;
                assert_int_equal(own.begin[is + 1] - own.begin[is], whole.begin[at + 1] - whole.begin[at]);
                assert_int_equal(own.packed[is + 1] - own.packed[is], whole.packed[at + 1] - whole.packed[at]);
            }
        }
    }
}

static void says_what_would_work(void **state)
{
    (void)state;
    static const struct {
        int n_seg, tp;
        const char *text;
    } cases[] = {
        {3, 4, "tp 4 does not divide the model's 3 segments: 1 or 3 would work"},
        {16, 3, "tp 3 does not divide the model's 16 segments: 1, 2, 4, 8 or 16 would work"},
        {1, 2, "tp 2 does not divide the model's 1 segments: 1 would work"},
        {8, 0, "tp 0 does not divide the model's 8 segments: 1, 2, 4 or 8 would work"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lb_shard_shape shape = {cases[i].n_seg, cases[i].n_seg, 1, 0};
        struct lb_err err = LB_ERR_INIT;
        struct lb_slice s;
        assert_int_equal(lb_slice_init(&s, &shape, 0, cases[i].tp, &err), LB_E_USAGE);
        assert_string_equal(err.text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_cover_the_model),
        cmocka_unit_test(kv_heads_are_few),
        cmocka_unit_test(columns_are_cut),
        cmocka_unit_test(says_what_would_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
