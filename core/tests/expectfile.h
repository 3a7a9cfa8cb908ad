/* What lies in a file, for tests of the output. */
#ifndef CORE_TESTS_EXPECTFILE_H
#define CORE_TESTS_EXPECTFILE_H

#include "core/base/file.h"
#include "core/base/str.h"

/* Fails the test unless the file holds exactly this text. cmocka.h is included before. */
static inline void expect_file(const char *path, const char *want)
{
    struct lb_str s = {0};
    struct lb_err err = LB_ERR_INIT;
    lb_str_puts(&s, "");
    if (lb_file_read(path, 1 << 24, &s, &err) != LB_OK)
        fail_msg("%s", err.text);
    assert_string_equal(s.data, want);
    lb_str_release(&s);
}

#endif
