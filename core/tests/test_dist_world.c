/* A world of one rank, which every program without a launcher is, and the division of processors among ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/dist/chan.h"
#include "core/dist/cpuset.h"
#include "core/dist/share.h"
#include "core/dist/world.h"

static struct lb_world *alone(void)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_world *w;
    assert_int_equal(lb_world_open(&w, &(struct lb_world_spec){0}, &err), LB_OK);
    return w;
}

static void one_rank_agrees_with_itself(void **state)
{
    (void)state;
    struct lb_world *w = alone();
    struct lb_err err = LB_ERR_INIT;
    assert_int_equal(w->size, 1);
    assert_int_equal(w->host_size, 1);
    assert_string_equal(lb_world_host(w, 0), w->host);
    lb_err_set(&err, LB_E_INPUT, "cannot read it");
    assert_int_equal(lb_world_agree(w, LB_E_INPUT, &err), LB_E_INPUT);
    assert_string_equal(err.text, "cannot read it"); /* no rank is named where there is one */
    err = (struct lb_err)LB_ERR_INIT;
    int mine = 7, all = 0;
    assert_int_equal(lb_world_gather(w, &mine, sizeof mine, &all, &err), LB_OK);
    assert_int_equal(all, 7);
    struct lb_str s = {0};
    lb_str_puts(&s, "text");
    assert_int_equal(lb_world_bcast_str(w, &s, &err), LB_OK);
    assert_string_equal(s.data, "text");
    lb_str_release(&s);
    struct lb_comm *c;
    assert_int_equal(lb_world_group(w, 1, &c, &err), LB_OK);
    assert_int_equal(c->size, 1);
    c->ops->close(c);
    assert_int_equal(lb_world_group(w, 2, &c, &err), LB_E_USAGE);
    lb_world_beat(w, "step", 1);
    lb_world_idle(w);
    assert_false(lb_world_tells(w));
    lb_world_close(w);
}

static void its_channel_leads_back(void **state)
{
    (void)state;
    struct lb_world *w = alone();
    struct lb_err err = LB_ERR_INIT;
    struct lb_chan *c;
    struct lb_msg msg;
    assert_int_equal(lb_chan_open(&c, w, &err), LB_OK);
    assert_int_equal(lb_chan_recv(c, &msg, 0, &err), LB_OK);
    assert_int_equal(msg.from, -1);
    for (int round = 0; round < 3; round++) { /* the queue is empty in between */
        for (int i = 0; i < 5; i++)
            assert_int_equal(lb_chan_send(c, 0, i, "abcde", (size_t)i, &err), LB_OK);
        for (int i = 0; i < 5; i++) {
            assert_int_equal(lb_chan_recv(c, &msg, 0, &err), LB_OK);
            assert_int_equal(msg.from, 0);
            assert_int_equal(msg.tag, i);
            assert_int_equal(msg.bytes, i);
            assert_memory_equal(msg.data, "abcde", (size_t)i);
        }
    }
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_int_equal(lb_chan_recv(c, &msg, 0.05, &err), LB_OK);
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_int_equal(msg.from, -1);
    assert_true((double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec) >= 0.049);
    assert_int_equal(lb_chan_send(c, 1, 0, "", 0, &err), LB_E_DEVICE);
    err = (struct lb_err)LB_ERR_INIT;
    assert_int_equal(lb_chan_send(c, 0, 3, "left behind", 11, &err), LB_OK);
    lb_chan_close(c);
    lb_world_close(w);
}

static void its_memory_is_its_own(void **state)
{
    (void)state;
    struct lb_world *w = alone();
    struct lb_err err = LB_ERR_INIT;
    struct lb_shared mem;
    assert_int_equal(lb_world_share(w, 5, 100000, &mem, &err), LB_OK);
    assert_true(mem.owner && mem.is_alone);
    memset(mem.data, 1, mem.bytes);
    lb_shared_ready(w, &mem, true);
    assert_int_equal(lb_shared_wait(w, &mem, &err), LB_OK);
    lb_shared_release(&mem);
    assert_int_equal(lb_world_share(w, 5, SIZE_MAX - 4096, &mem, &err), LB_E_DEVICE);
    lb_world_close(w);
}

static struct lb_cpuset range(int from, int to)
{
    struct lb_cpuset s = {0};
    for (int cpu = from; cpu < to; cpu++)
        s.bits[cpu / 64] |= UINT64_C(1) << (cpu % 64);
    return s;
}

static void assert_range(struct lb_cpuset s, int from, int to)
{
    struct lb_cpuset want = range(from, to);
    assert_memory_equal(&s, &want, sizeof s);
}

static void masks_are_divided(void **state)
{
    (void)state;
    int order[LB_CPUSET_MAX];
    for (int i = 0; i < LB_CPUSET_MAX; i++)
        order[i] = i;
    /* equal masks: runs of neighbors, one more for the first ranks */
    struct lb_cpuset m[4] = {range(60, 71), range(60, 71), range(60, 71), range(0, 4)};
    assert_int_equal(lb_cpuset_divide(m, 4, order), 0);
    assert_range(m[0], 60, 64);
    assert_range(m[1], 64, 68);
    assert_range(m[2], 68, 71);
    assert_range(m[3], 0, 4); /* nobody else has those */
    /* more ranks than processors */
    for (int i = 0; i < 4; i++)
        m[i] = range(2, 4);
    assert_int_not_equal(lb_cpuset_divide(m, 4, order), 0);
    for (int i = 0; i < 4; i++)
        assert_range(m[i], 2 + i % 2, 3 + i % 2);
    /* masks that overlap in part: nobody shares, nothing is lost, nobody gets what it may not have */
    struct lb_cpuset old[3] = {range(0, 8), range(4, 12), range(10, 14)}, any = {0};
    memcpy(m, old, sizeof old);
    assert_int_equal(lb_cpuset_divide(m, 3, order), 0);
    int sum = 0;
    for (int i = 0; i < 3; i++) {
        sum += lb_cpuset_count(&m[i]);
        assert_true(lb_cpuset_count(&m[i]) >= 4);
        assert_int_equal(m[i].bits[0] & ~old[i].bits[0], 0);
        any.bits[0] |= m[i].bits[0];
    }
    assert_int_equal(sum, 14);
    assert_range(any, 0, 14);
    /* siblings of a core stay together */
    for (int i = 0; i < 8; i++)
        order[i] = i / 2 + i % 2 * 4;
    m[0] = m[1] = range(0, 8);
    assert_int_equal(lb_cpuset_divide(m, 2, order), 0);
    assert_int_equal(m[0].bits[0], 0x33);
    assert_int_equal(m[1].bits[0], 0xcc);
}

static void masks_of_this_machine(void **state)
{
    (void)state;
    struct lb_cpuset mine = lb_cpuset_mine();
    int order[LB_CPUSET_MAX];
    bool seen[LB_CPUSET_MAX] = {false};
    assert_true(lb_cpuset_count(&mine) > 0);
    lb_cpuset_order(&mine, order);
    for (int i = 0; i < LB_CPUSET_MAX; i++)
        seen[order[i]] = true;
    for (int i = 0; i < LB_CPUSET_MAX; i++)
        assert_true(seen[i]);
    assert_true(lb_cpuset_node() >= -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_agrees_with_itself), cmocka_unit_test(its_channel_leads_back),
        cmocka_unit_test(its_memory_is_its_own),       cmocka_unit_test(masks_are_divided),
        cmocka_unit_test(masks_of_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
