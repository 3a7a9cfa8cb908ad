#include "core/tests/fuzz/fuzz_model.h"

/* config.json and, behind a zero byte, generation_config.json of a model's folder: the configuration, its tensors'
 * names and the plan. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *config, *generation;
    size_t n_config = fuzz_part(&data, &size, &config), n_generation = fuzz_part(&data, &size, &generation);
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    int n_line = 0;
    const struct lb_log log = {.level = LB_LOG_DEBUG, .emit = fuzz_count_line, .ctx = &n_line};
    fuzz_file("config.json", config, n_config);
    fuzz_file("generation_config.json", n_generation ? generation : NULL, n_generation);
    if (fuzz_ok(lb_config_read_dir(&c, fuzz_files(), &log, &err), &err))
        fuzz_config_check(&c);
    lb_config_release(&c);
    return 0;
}
