/* What is said and how the processes end when one of them is killed, stopped, or stays in one place:
 * RANKS RANKS_PER_HOST WHAT VICTIM. The parent of the job (mpi_fault.py) looks at the processes; this program dies in
 * the way that it is told to, inside a step that the others wait in. */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <time.h>

#include "core/tests/mpi/mpi_check.h"

#define TIMEOUT_S 4

static void say_late(void *ctx, const char *text)
{
    fprintf(stderr, "late: rank %d was told: %s\n", *(int *)ctx, text);
}

static void suffer(const char *what)
{
    if (strcmp(what, "kill") == 0) {
        nanosleep(&(struct timespec){1, 0}, NULL); /* the connection between hosts has come about */
        raise(SIGKILL);
    }
    if (strcmp(what, "stop") == 0)
        raise(SIGSTOP);
    if (strcmp(what, "hang") == 0) /* its watchdog lives */
        for (;;)
            nanosleep(&(struct timespec){1, 0}, NULL);
}

int main(int argc, char **argv)
{
    struct lb_err err = LB_ERR_INIT;
    struct lb_world *w;
    struct lb_comm *c;
    CHECK(argc == 5);
    static int rank;
    struct lb_world_spec spec = {.use_mpi = true,
                                 .n_task = atoi(argv[1]),
                                 .timeout_s = strcmp(argv[3], "kill") == 0 ? 60 : TIMEOUT_S, /* silence tells nothing */
                                 .late = say_late,
                                 .ctx = &rank,
                                 .ranks_per_host = atoi(argv[2])};
    int victim = atoi(argv[4]);
    CHECK_OK(lb_world_open(&w, &spec, &err), &err);
    rank = w->rank;
    CHECK_OK(lb_world_group(w, w->size, &c, &err), &err);
    float part[1000] = {0};
    for (int step = 0; step < 100; step++) {
        lb_world_beat(w, "step", step);
        for (int layer = 0; layer < 3; layer++) {
            c->ops->beat(c, "layer", layer);
            if (step == 5 && layer == 2 && w->rank == victim)
                suffer(argv[3]);
            c->ops->reduce(c, part, 1000);
        }
        if (c->ops->status(c, &err) != LB_OK)
            break;
        if (strcmp(argv[3], "idle") == 0 && step == 5 && w->rank == 0) { /* longer than the timeout, and no fault */
            lb_world_idle(w);
            nanosleep(&(struct timespec){TIMEOUT_S + 2, 0}, NULL);
        }
        char more = 1;
        c->ops->bcast(c, &more, 1);
    }
    if (c->ops->status(c, &err) == LB_OK) {
        c->ops->close(c);
        lb_world_close(w);
        return 0;
    }
    if (lb_world_tells(w))
        fprintf(stderr, "error: %s\n", err.text);
    lb_world_abort(w, err.status);
}
