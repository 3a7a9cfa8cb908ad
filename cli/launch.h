/* What a launcher (mpirun, srun and their like) says to the tasks that it starts, as environment variables. */
#ifndef CLI_LAUNCH_H
#define CLI_LAUNCH_H

#include <stdbool.h>

struct lb_launched {
    bool by_launcher; /* one of several tasks */
    int n_task;       /* 0: not said */
    int rank;         /* -1: not said */
    bool strangers;   /* a Slurm step whose tasks were given nothing to find each other by */
};

struct lb_launched lb_launched(void);

/* Before MPI begins: settings of Open MPI for what started this task, where the user has made none. One thread. */
void lb_launch_prepare(void);

#endif
