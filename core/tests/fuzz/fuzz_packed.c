#include "core/tests/fuzz/fuzz_model.h"

/* config.json and, behind a zero byte, model.safetensors of a model whose weights are packed: its parts are joined, and
 * every number that they make is read. */

#define MAX_NUMBERS (1 << 20) /* a file of 24 kB makes no more of its words */

static void read_all(const struct lb_wtensor *t)
{
    FUZZ_REQUIRE(t->pack && t->n_dim == 2 && t->dim[0] > 0 && t->dim[1] > 0 && t->dim[1] <= MAX_NUMBERS / t->dim[0]);
    float *row = malloc((size_t)t->dim[1] * sizeof *row);
    volatile float sum = 0;
    FUZZ_REQUIRE(row);
    for (int64_t i = 0; i < t->dim[0]; i++) {
        lb_pack_read(t->pack, i, 1, 0, t->dim[1], row);
        sum = sum + row[t->dim[1] - 1];
    }
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *config;
    size_t n_config = fuzz_part(&data, &size, &config);
    struct lb_wfile w = {0};
    struct lb_config c;
    struct lb_err err = LB_ERR_INIT;
    const struct lb_log log = {0};
    fuzz_file("config.json", config, n_config);
    fuzz_file("model.safetensors", data, size);
    if (fuzz_ok(lb_config_read_dir(&c, fuzz_files(), &log, &err), &err) &&
        fuzz_ok(lb_pack_open(&w, fuzz_files(), &c.pack, &err), &err)) {
        for (size_t i = 0; i < w.n_tensor; i++) {
            FUZZ_REQUIRE(lb_wfile_find(&w, w.tensor[i].name) == &w.tensor[i]);
            FUZZ_REQUIRE((w.tensor[i].type == LB_W_PACKED) == (w.tensor[i].pack != NULL));
            if (w.tensor[i].pack)
                read_all(&w.tensor[i]);
        }
        fuzz_weights(&c, &w);
    }
    lb_wfile_close(&w);
    lb_config_release(&c);
    return 0;
}
