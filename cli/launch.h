/* What a launcher (mpirun, srun and their like) says to the tasks that it starts, as environment variables. */
#ifndef CLI_LAUNCH_H
#define CLI_LAUNCH_H

#include <stdbool.h>

struct lb_launched {
    bool by_launcher; /* one of several tasks */
    int n_task;       /* 0: not said */
    int rank;         /* -1: not said */
};

struct lb_launched lb_launched(void);

#endif
