/* wordwrap and pprint: Python's textwrap.wrap and pprint.pformat. */
#include <string.h>

#include "core/text/jinja_help.h"

struct lb_jval lb_jfilter_wordwrap(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
{
    (void)v;
    (void)args;
    return lb_jinja_fail(r, "the filter wordwrap is not supported yet");
}

struct lb_jval lb_jfilter_pprint(struct lb_jrun *r, struct lb_jval v, const struct lb_jargs *args)
{
    if (!lb_jargs_bind(r, "pprint", args, "", NULL))
        return lb_jnone();
    size_t mark = lb_jscratch_begin(r);
    lb_jput_repr(r, &r->scratch, v);
    return lb_jscratch_end(r, mark);
}
