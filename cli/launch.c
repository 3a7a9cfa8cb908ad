#include "cli/launch.h"

#include <limits.h>
#include <stdlib.h>

/* -1: not there, or no number. */
static int number_in(const char *name)
{
    const char *text = getenv(name);
    char *end = NULL;
    long value = text ? strtol(text, &end, 10) : -1;
    return text && *text && !*end && value >= 0 && value <= INT_MAX ? (int)value : -1;
}

static struct lb_launched find(void)
{
    static const struct {
        const char *size, *rank;
    } known[] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                 {"PMI_SIZE", "PMI_RANK"},
                 {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},
                 {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"}};
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++) {
        int n = number_in(known[i].size);
        if (n > 0 && number_in(known[i].rank) >= 0)
            return (struct lb_launched){.by_launcher = n > 1, .n_task = n, .rank = number_in(known[i].rank)};
    }
    /* A batch script has SLURM_PROCID and SLURM_NTASKS too, but is no step. */
    if (number_in("SLURM_PROCID") >= 0 && (getenv("SLURM_STEP_ID") || getenv("SLURM_STEPID"))) {
        int n = number_in("SLURM_NTASKS");
        return (struct lb_launched){.by_launcher = n > 1, .n_task = n > 0 ? n : 0, .rank = number_in("SLURM_PROCID")};
    }
    /* PMIx names no size: what it started may be alone, and asks. */
    int rank = number_in("PMIX_RANK");
    return (struct lb_launched){.by_launcher = rank >= 0, .rank = rank};
}

struct lb_launched lb_launched(void)
{
    struct lb_launched l = find();
    l.strangers = l.by_launcher && number_in("SLURM_PROCID") >= 0 && number_in("PMIX_RANK") < 0 &&
                  number_in("PMI_RANK") < 0 && number_in("OMPI_COMM_WORLD_RANK") < 0 &&
                  number_in("MV2_COMM_WORLD_RANK") < 0;
    return l;
}

/* The tree-based fence of some versions of Slurm lets tasks out of MPI_Init before those of other nodes are ready. What
 * they send crashes an Open MPI that looks for messages before it has receivers, and it looks while all addresses are
 * exchanged. So each address is asked for when it is needed; a fence that the user has chosen may be a better one. */
void lb_launch_prepare(void)
{
    bool by_srun =
        number_in("SLURM_PROCID") >= 0 && number_in("PMIX_RANK") >= 0 && number_in("OMPI_COMM_WORLD_RANK") < 0;
    if (!by_srun || number_in("SLURM_STEP_NUM_NODES") == 1 || getenv("SLURM_PMIX_FENCE"))
        return;
    setenv("OMPI_MCA_pmix_base_async_modex", "1", 0);
    setenv("OMPI_MCA_pmix_base_collect_data", "0", 0);
}
