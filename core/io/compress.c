#include "core/io/compress.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "core/base/mem.h"

enum format { PLAIN, GZIP, ZSTD };

#define BLOCK_BYTES ((size_t)128 << 10)
#define GZIP_WINDOW (15 + 16) /* zlib: largest window, gzip header */

struct lb_source {
    int fd, wake; /* wake: -1 when nobody stops a wait */
    const char *name;
    enum format format;
    bool eof;       /* the file has ended */
    bool inside;    /* in a gzip member or a zstd frame: the file must not end here */
    size_t at, end; /* unread part of block */
    z_stream z;
    ZSTD_DStream *zstd;
    uint8_t block[BLOCK_BYTES];
};

/* Waits until a read would not, or somebody wants the wait to end. */
static enum lb_status wait_for_bytes(const struct lb_source *s, struct lb_err *err)
{
    struct pollfd wait[] = {{s->fd, POLLIN, 0}, {s->wake, POLLIN, 0}};
    while (poll(wait, 2, -1) < 0)
        if (errno != EINTR)
            return lb_err_set(err, LB_E_INPUT, "%s: cannot wait for input: %s", s->name, strerror(errno));
    return wait[1].revents ? lb_err_set(err, LB_E_INTERRUPTED, "%s: reading was stopped", s->name) : LB_OK;
}

/* Reads more into the block behind what is unread; sets eof. */
static enum lb_status fill(struct lb_source *s, struct lb_err *err)
{
    if (s->at > 0) {
        memmove(s->block, s->block + s->at, s->end - s->at);
        s->end -= s->at;
        s->at = 0;
    }
    if (s->eof || s->end == BLOCK_BYTES)
        return LB_OK;
    for (;;) {
        if (s->wake >= 0)
            LB_TRY(wait_for_bytes(s, err));
        ssize_t n = read(s->fd, s->block + s->end, BLOCK_BYTES - s->end);
        if (n >= 0) {
            s->eof = n == 0;
            s->end += (size_t)n;
            return LB_OK;
        }
        struct pollfd wait = {s->fd, POLLIN, 0};
        if (errno == EAGAIN)
            (void)poll(&wait, 1, -1);
        else if (errno != EINTR)
            return lb_err_set(err, LB_E_INPUT, "%s: cannot read: %s", s->name, strerror(errno));
    }
}

static bool is_gzip(const uint8_t *p, size_t n)
{
    return n >= 2 && p[0] == 0x1F && p[1] == 0x8B;
}

/* A frame, or a skippable frame, which parallel compressors put first. */
static bool is_zstd(const uint8_t *p, size_t n)
{
    return n >= 4 && ((p[0] == 0x28 && p[1] == 0xB5 && p[2] == 0x2F && p[3] == 0xFD) ||
                      ((p[0] & 0xF0) == 0x50 && p[1] == 0x2A && p[2] == 0x4D && p[3] == 0x18));
}

static enum lb_status recognize(struct lb_source *s, struct lb_err *err)
{
    while (!s->eof && s->end < 4)
        LB_TRY(fill(s, err));
    if (is_gzip(s->block, s->end)) {
        if (inflateInit2(&s->z, GZIP_WINDOW) != Z_OK)
            return lb_err_memory(err, "reading gzip", 1 << 15);
        s->format = GZIP;
        s->inside = true;
    } else if (is_zstd(s->block, s->end)) {
        s->zstd = ZSTD_createDStream();
        if (!s->zstd)
            return lb_err_memory(err, "reading zstd", 1 << 17);
        s->format = ZSTD;
    }
    return LB_OK;
}

enum lb_status lb_source_open(struct lb_source **out, int fd, const char *name, struct lb_err *err)
{
    return lb_source_open_until(out, fd, name, -1, err);
}

enum lb_status lb_source_open_until(struct lb_source **out, int fd, const char *name, int wake, struct lb_err *err)
{
    *out = NULL;
    struct lb_source *s = lb_mem_new(1, sizeof *s);
    if (!s) {
        close(fd);
        return lb_err_memory(err, "an input buffer", sizeof *s);
    }
    s->fd = fd;
    s->wake = wake;
    s->name = name;
    enum lb_status status = recognize(s, err);
    if (status != LB_OK)
        lb_source_close(s);
    else
        *out = s;
    return status;
}

/* After a member: zero padding is dropped, another member is begun, anything else is an error. */
static enum lb_status next_member(struct lb_source *s, struct lb_err *err)
{
    while (!s->eof && s->end - s->at < 2)
        LB_TRY(fill(s, err));
    if (is_gzip(s->block + s->at, s->end - s->at)) {
        inflateReset(&s->z);
        s->inside = true;
        return LB_OK;
    }
    while (s->at < s->end && s->block[s->at] == 0)
        s->at++;
    if (s->at < s->end)
        return lb_err_set(err, LB_E_INPUT, "%s: bytes after the compressed data that are no gzip member", s->name);
    return LB_OK;
}

static enum lb_status read_gzip(struct lb_source *s, uint8_t *buf, size_t n, size_t *got, struct lb_err *err)
{
    while (*got == 0) {
        if (!s->inside) {
            LB_TRY(next_member(s, err));
            if (!s->inside && s->eof && s->at == s->end)
                return LB_OK;
            if (!s->inside)
                continue;
        }
        if (s->at == s->end)
            LB_TRY(fill(s, err));
        bool dry = s->at == s->end;
        s->z.next_in = s->block + s->at;
        s->z.avail_in = (uInt)(s->end - s->at);
        s->z.next_out = buf;
        s->z.avail_out = (uInt)n;
        int rc = inflate(&s->z, Z_NO_FLUSH);
        s->at = s->end - s->z.avail_in;
        *got = n - s->z.avail_out;
        if (rc == Z_STREAM_END)
            s->inside = false;
        else if (rc == Z_MEM_ERROR)
            return lb_err_memory(err, "reading gzip", 1 << 15);
        else if (rc != Z_OK && rc != Z_BUF_ERROR && *got == 0)
            return lb_err_set(err, LB_E_INPUT, "%s: compressed data is damaged (%s)", s->name,
                              s->z.msg ? s->z.msg : "zlib");
        else if (dry && *got == 0)
            return lb_err_set(err, LB_E_INPUT, "%s: compressed data ends early", s->name);
    }
    return LB_OK;
}

static enum lb_status read_zstd(struct lb_source *s, uint8_t *buf, size_t n, size_t *got, struct lb_err *err)
{
    while (*got == 0) {
        /* Inside a frame the decoder may hold output back, so it is asked before more is read; between frames a call
         * without input would begin one. */
        if (s->at == s->end && !s->inside) {
            LB_TRY(fill(s, err));
            if (s->at == s->end)
                return LB_OK;
        }
        ZSTD_inBuffer in = {s->block, s->end, s->at};
        ZSTD_outBuffer out = {buf, n, 0};
        size_t rc = ZSTD_decompressStream(s->zstd, &out, &in);
        bool moved = in.pos > s->at || out.pos > 0;
        s->at = in.pos;
        *got = out.pos;
        if (ZSTD_isError(rc))
            return lb_err_set(err, LB_E_INPUT, "%s: compressed data is damaged (%s)", s->name, ZSTD_getErrorName(rc));
        s->inside = rc != 0;
        if (*got == 0 && !moved) {
            LB_TRY(fill(s, err));
            if (s->at == s->end)
                return lb_err_set(err, LB_E_INPUT, "%s: compressed data ends early", s->name);
        }
    }
    return LB_OK;
}

enum lb_status lb_source_read(struct lb_source *s, void *buf, size_t n, size_t *got, struct lb_err *err)
{
    *got = 0;
    if (n > BLOCK_BYTES * 8)
        n = BLOCK_BYTES * 8; /* zlib counts in 32 bits */
    if (s->format == GZIP)
        return read_gzip(s, buf, n, got, err);
    if (s->format == ZSTD)
        return read_zstd(s, buf, n, got, err);
    if (s->at == s->end)
        LB_TRY(fill(s, err));
    *got = s->end - s->at < n ? s->end - s->at : n;
    memcpy(buf, s->block + s->at, *got);
    s->at += *got;
    return LB_OK;
}

void lb_source_close(struct lb_source *s)
{
    if (!s)
        return;
    if (s->format == GZIP)
        inflateEnd(&s->z);
    ZSTD_freeDStream(s->zstd);
    close(s->fd);
    lb_mem_free(s);
}

struct lb_sink {
    int fd, error;
    const char *path;
    enum format format;
    z_stream z;
    ZSTD_CStream *zstd;
    size_t n;                   /* bytes gathered in block, of a plain stream */
    uint8_t block[BLOCK_BYTES]; /* gathered (plain) or coded (others) bytes */
};

static bool ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n > m && strcmp(text + n - m, suffix) == 0;
}

enum lb_status lb_sink_open(struct lb_sink **out, int fd, const char *path, struct lb_err *err)
{
    *out = NULL;
    struct lb_sink *s = lb_mem_new(1, sizeof *s);
    if (!s) {
        close(fd);
        return lb_err_memory(err, "an output buffer", sizeof *s);
    }
    s->fd = fd;
    s->path = path;
    bool ok = true;
    if (ends_with(path, ".gz")) {
        ok = deflateInit2(&s->z, 6, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) == Z_OK;
        s->format = ok ? GZIP : PLAIN;
    } else if (ends_with(path, ".zst")) {
        s->format = ZSTD;
        s->zstd = ZSTD_createCStream();
        ok = s->zstd && !ZSTD_isError(ZSTD_CCtx_setParameter(s->zstd, ZSTD_c_compressionLevel, 3)) &&
             !ZSTD_isError(ZSTD_CCtx_setParameter(s->zstd, ZSTD_c_checksumFlag, 1));
    }
    if (!ok) {
        (void)lb_err_memory(err, "compressing the output", 1 << 18);
        struct lb_err none = LB_ERR_INIT;
        s->error = ENOMEM;
        (void)lb_sink_close(s, 0, &none);
        return err->status;
    }
    *out = s;
    return LB_OK;
}

static enum lb_status fail(struct lb_sink *s, int error, struct lb_err *err)
{
    s->error = error;
    return lb_err_set(err, LB_E_DEVICE, "cannot write '%s': %s", s->path, strerror(error));
}

static enum lb_status emit(struct lb_sink *s, const uint8_t *p, size_t n, struct lb_err *err)
{
    while (n > 0) {
        ssize_t w = write(s->fd, p, n);
        if (w >= 0) {
            p += w;
            n -= (size_t)w;
            continue;
        }
        struct pollfd wait = {s->fd, POLLOUT, 0};
        if (errno == EAGAIN)
            (void)poll(&wait, 1, -1); /* another process made a shared pipe non-blocking */
        else if (errno != EINTR)
            return fail(s, errno, err);
    }
    return LB_OK;
}

static enum lb_status write_gzip(struct lb_sink *s, const uint8_t *p, size_t n, bool end, struct lb_err *err)
{
    do {
        size_t part = n < BLOCK_BYTES ? n : BLOCK_BYTES;
        s->z.next_in = (Bytef *)(uintptr_t)p; /* zlib only reads it */
        s->z.avail_in = (uInt)part;
        do {
            s->z.next_out = s->block;
            s->z.avail_out = (uInt)BLOCK_BYTES;
            if (deflate(&s->z, end && part == n ? Z_FINISH : Z_NO_FLUSH) == Z_STREAM_ERROR)
                return fail(s, EIO, err);
            LB_TRY(emit(s, s->block, BLOCK_BYTES - s->z.avail_out, err));
        } while (s->z.avail_out == 0);
        p += part;
        n -= part;
    } while (n > 0);
    return LB_OK;
}

static enum lb_status write_zstd(struct lb_sink *s, const void *data, size_t n, bool end, struct lb_err *err)
{
    ZSTD_inBuffer in = {data, n, 0};
    size_t left;
    do {
        ZSTD_outBuffer out = {s->block, BLOCK_BYTES, 0};
        left = ZSTD_compressStream2(s->zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left))
            return fail(s, ENOMEM, err);
        LB_TRY(emit(s, s->block, out.pos, err));
    } while (in.pos < in.size || (end && left > 0));
    return LB_OK;
}

enum lb_status lb_sink_flush(struct lb_sink *s, struct lb_err *err)
{
    if (s->error)
        return fail(s, s->error, err);
    if (s->format != PLAIN)
        return LB_OK;
    size_t n = s->n;
    s->n = 0;
    return emit(s, s->block, n, err);
}

enum lb_status lb_sink_write(struct lb_sink *s, const void *data, size_t n, struct lb_err *err)
{
    if (s->error)
        return fail(s, s->error, err);
    if (s->format == GZIP)
        return write_gzip(s, data, n, false, err);
    if (s->format == ZSTD)
        return write_zstd(s, data, n, false, err);
    if (n > BLOCK_BYTES - s->n)
        LB_TRY(lb_sink_flush(s, err));
    if (n >= BLOCK_BYTES)
        return emit(s, data, n, err);
    if (n)
        memcpy(s->block + s->n, data, n);
    s->n += n;
    return LB_OK;
}

int lb_sink_errno(const struct lb_sink *s)
{
    return s->error;
}

enum lb_status lb_sink_close(struct lb_sink *s, int sync, struct lb_err *err)
{
    if (!s)
        return LB_OK;
    enum lb_status status = lb_sink_flush(s, err);
    if (status == LB_OK && s->format == GZIP)
        status = write_gzip(s, s->block, 0, true, err);
    if (status == LB_OK && s->format == ZSTD)
        status = write_zstd(s, NULL, 0, true, err);
    if (status == LB_OK && sync && fsync(s->fd) != 0)
        status = fail(s, errno, err);
    if (close(s->fd) != 0 && status == LB_OK && errno != EINTR)
        status = fail(s, errno, err);
    if (s->format == GZIP)
        deflateEnd(&s->z);
    ZSTD_freeCStream(s->zstd);
    int error = s->error;
    lb_mem_free(s);
    if (status != LB_OK)
        errno = error;
    return status;
}
