#define _GNU_SOURCE
#include "core/io/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/mem.h"
#include "core/base/str.h"
#include "core/io/target.h"

#define BUFFER (256 << 10)
#define MAX_ARGS 256
#define MAX_EVENT 640 /* with args and the longest numbers */

struct lb_trace {
    pthread_mutex_t mutex;
    struct lb_target target;
    char *tmp; /* NULL: a stream */
    int fd;
    struct lb_err err; /* what failed first */
    bool any;          /* an event was put */
    size_t n;
    char buffer[BUFFER];
};

static enum lb_status open_file(struct lb_trace *t, const char *path, struct lb_err *err)
{
    LB_TRY(lb_target_resolve(&t->target, path, err));
    if (!t->target.regular)
        return lb_target_open(&t->target, &t->fd, err);
    t->tmp = lb_target_beside(t->target.path, ".tmp");
    if (!t->tmp)
        return lb_err_memory(err, "a path", strlen(path));
    return lb_target_create(t->target.path, t->tmp, &t->fd, err);
}

static void trace_free(struct lb_trace *t)
{
    if (t->fd >= 0)
        close(t->fd);
    lb_mem_free(t->tmp);
    lb_target_release(&t->target);
    pthread_mutex_destroy(&t->mutex);
    lb_mem_free(t);
}

static void flush(struct lb_trace *t)
{
    if (t->err.status == LB_OK)
        (void)lb_file_write_all(t->fd, t->buffer, t->n, lb_target_name(&t->target), &t->err);
    t->n = 0;
}

static void put(struct lb_trace *t, const char *text, size_t n)
{
    if (t->n + n > BUFFER)
        flush(t);
    if (n > BUFFER) /* nothing that is put is */
        return;
    memcpy(t->buffer + t->n, text, n);
    t->n += n;
}

/* Puts an event, a whole JSON object. */
static void put_event(struct lb_trace *t, const char *text, size_t n)
{
    pthread_mutex_lock(&t->mutex);
    put(t, t->any ? ",\n" : "\n", t->any ? 2 : 1);
    t->any = true;
    put(t, text, n);
    pthread_mutex_unlock(&t->mutex);
}

enum lb_status lb_trace_open(struct lb_trace **out, const char *path, struct lb_err *err)
{
    static const char head[] = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
    *out = NULL;
    struct lb_trace *t = lb_mem_new(1, sizeof *t);
    if (!t)
        return lb_err_memory(err, "a trace", sizeof *t);
    t->fd = -1;
    t->err = (struct lb_err)LB_ERR_INIT;
    if (pthread_mutex_init(&t->mutex, NULL) != 0) {
        lb_mem_free(t);
        return lb_err_memory(err, "a mutex", sizeof t->mutex);
    }
    enum lb_status status = open_file(t, path, err);
    if (status != LB_OK) {
        trace_free(t);
        return status;
    }
    put(t, head, sizeof head - 1);
    *out = t;
    return LB_OK;
}

static enum lb_status make_durable(struct lb_trace *t, struct lb_err *err)
{
    const char *path = t->target.path;
    if (fsync(t->fd) != 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot write '%s': %s", path, strerror(errno));
    if (rename(t->tmp, path) != 0)
        return lb_err_set(err, LB_E_DEVICE, "cannot make '%s': %s", path, strerror(errno));
    return lb_target_sync_dir(path, err);
}

enum lb_status lb_trace_finish(struct lb_trace *t, bool complete, struct lb_err *err)
{
    enum lb_status status = LB_OK;
    if (!t)
        return LB_OK;
    if (complete) {
        put(t, "\n]}\n", 4);
        flush(t);
        status = t->err.status == LB_OK ? LB_OK : lb_err_set(err, t->err.status, "%s", t->err.text);
        if (status == LB_OK && t->tmp)
            status = make_durable(t, err);
    }
    if (t->tmp && (!complete || status != LB_OK))
        (void)unlink(t->tmp);
    trace_free(t);
    return status;
}

static void put_name(struct lb_trace *t, const char *what, int rank, int thread, const char *name)
{
    struct lb_str s = {0};
    lb_str_putf(&s, "{\"ph\":\"M\",\"name\":\"%s_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":", what, rank, thread);
    lb_str_put_json(&s, name, strlen(name));
    lb_str_putf(&s, "}},\n{\"ph\":\"M\",\"name\":\"%s_sort_index\",\"pid\":%d,\"tid\":%d,\"args\":{\"sort_index\":%d}}",
                what, rank, thread, thread ? thread : rank);
    if (!s.failed) {
        put_event(t, s.data, s.len);
    } else {
        pthread_mutex_lock(&t->mutex);
        lb_err_memory(&t->err, "a trace", s.len);
        pthread_mutex_unlock(&t->mutex);
    }
    lb_str_release(&s);
}

void lb_trace_process(struct lb_trace *t, int rank, const char *name)
{
    put_name(t, "process", rank, 0, name);
}

void lb_trace_thread(struct lb_trace *t, int rank, int thread, const char *name)
{
    put_name(t, "thread", rank, thread, name);
}

/* Microseconds as text. Rounded in one place, so that what ends with its parent in seconds does so in the file. */
struct stamp {
    char text[32];
};

static int64_t to_ns(double seconds)
{
    return seconds > 0 && seconds < 1e9 ? (int64_t)(1e9 * seconds + 0.5) : 0;
}

static struct stamp stamp_of(int64_t ns)
{
    struct stamp s;
    snprintf(s.text, sizeof s.text, "%" PRId64 ".%03d", ns / 1000, (int)(ns % 1000));
    return s;
}

static struct stamp length_of(struct lb_trace_at at)
{
    int64_t ns = to_ns(at.end) - to_ns(at.begin);
    return stamp_of(ns > 0 ? ns : 0);
}

void lb_trace_span(struct lb_trace *t, struct lb_trace_at at, const char *name, const char *args, ...)
{
    char text[MAX_EVENT], more[MAX_ARGS];
    va_list ap;
    va_start(ap, args);
    vsnprintf(more, sizeof more, args, ap);
    va_end(ap);
    int n = snprintf(text, sizeof text,
                     "{\"ph\":\"X\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"dur\":%s,\"args\":{%s}}", name,
                     at.rank, at.thread, stamp_of(to_ns(at.begin)).text, length_of(at).text, more);
    put_event(t, text, (size_t)n);
}

void lb_trace_value(struct lb_trace *t, struct lb_trace_at at, const char *name, int64_t value)
{
    char text[MAX_EVENT];
    int n = snprintf(text, sizeof text,
                     "{\"ph\":\"C\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"args\":{\"value\":%" PRId64 "}}",
                     name, at.rank, at.thread, stamp_of(to_ns(at.begin)).text, value);
    put_event(t, text, (size_t)n);
}

void lb_trace_life(struct lb_trace *t, struct lb_trace_at at, int64_t id, const char *name, const char *args, ...)
{
    static const char fmt[] = "{\"ph\":\"%c\",\"cat\":\"row\",\"name\":\"%s\",\"id\":\"%" PRId64
                              "\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"args\":{%s}}";
    char text[2 * MAX_EVENT], more[MAX_ARGS];
    va_list ap;
    va_start(ap, args);
    vsnprintf(more, sizeof more, args, ap);
    va_end(ap);
    double end = at.end > at.begin ? at.end : at.begin;
    size_t n =
        (size_t)snprintf(text, MAX_EVENT, fmt, 'b', name, id, at.rank, at.thread, stamp_of(to_ns(at.begin)).text, more);
    memcpy(text + n, ",\n", 2);
    n += 2;
    n += (size_t)snprintf(text + n, MAX_EVENT - 2, fmt, 'e', name, id, at.rank, at.thread, stamp_of(to_ns(end)).text,
                          "");
    put_event(t, text, n);
}
