/* Writes down every change that a process asks of the files below $POWERLOSS_ROOT, in order, into $POWERLOSS_LOG.
 *
 * Preloaded (LD_PRELOAD), it stands between the process and the C library, so that Python's and SQLite's own calls are seen
 * alike. A record is a header, one or two paths, and data; record.py reads them. For one thread, as the drives are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, MARK };
enum { HANDLES = 4096 };

struct header {
    uint32_t kind, handle, first, second; /* what, on which opening, lengths of the paths */
    uint64_t offset, length;              /* of the data; for OPEN the flags; for MARK the number */
};

static char root[PATH_MAX];
static size_t root_length;
static int log_handle = -1;
static uint32_t opening[HANDLES], openings; /* 0: not ours */

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("POWERLOSS_ROOT"), *log = getenv("POWERLOSS_LOG");
    if (!folder || !log || !realpath(folder, root)) return;
    root_length = strlen(root);
    log_handle = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

static void record(struct header h, const char *first, const char *second, const void *data, size_t length) {
    const void *parts[] = {&h, first, second, data};
    size_t sizes[] = {sizeof h, h.first, h.second, length};
    int saved = errno;
    for (int i = 0; i < 4; i++)
        for (size_t done = 0; done < sizes[i];) {
            ssize_t n = syscall(SYS_write, log_handle, (const char *)parts[i] + done, sizes[i] - done);
            if (n <= 0) _exit(99);
            done += n;
        }
    errno = saved;
}

/* The absolute path, its folder resolved; 0 where it does not lie below the root. */
static int ours(const char *path, char *whole) {
    char copy[PATH_MAX], *slash;
    if (log_handle < 0) return 0;
    snprintf(copy, sizeof copy, "%s", path);
    slash = strrchr(copy, '/');
    if (slash == copy || !slash || !slash[1]) {
        if (!realpath(path, whole)) return 0;
    } else {
        *slash = 0;
        if (!realpath(copy, whole)) return 0;
        strncat(whole, "/", PATH_MAX - strlen(whole) - 1);
        strncat(whole, slash + 1, PATH_MAX - strlen(whole) - 1);
    }
    return !strncmp(whole, root, root_length) && (whole[root_length] == '/' || !whole[root_length]);
}

static int opened(int handle, const char *path, int flags) {
    char whole[PATH_MAX];
    if (handle >= 0 && handle < HANDLES) {
        opening[handle] = 0;
        if (ours(path, whole)) {
            opening[handle] = ++openings;
            record((struct header){OPEN, openings, strlen(whole), 0, flags, 0}, whole, "", "", 0);
        }
    }
    return handle;
}

#define REAL(result, name, ...) static result (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)
#define MODE(flags, mode) mode_t mode = 0; if ((flags) & O_CREAT) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }

int open(const char *path, int flags, ...) {
    MODE(flags, mode) REAL(int, open, const char *, int, ...);
    return opened(real(path, flags, mode), path, flags);
}
int open64(const char *path, int flags, ...) {
    MODE(flags, mode) REAL(int, open64, const char *, int, ...);
    return opened(real(path, flags, mode), path, flags);
}
int close(int handle) {
    REAL(int, close, int);
    if (handle >= 0 && handle < HANDLES) opening[handle] = 0;
    return real(handle);
}

static uint32_t tracked(int handle) { return handle >= 0 && handle < HANDLES ? opening[handle] : 0; }

static ssize_t wrote(int handle, const void *data, ssize_t n, off_t at) {
    if (n > 0 && tracked(handle)) record((struct header){WRITE, tracked(handle), 0, 0, at, n}, "", "", data, n);
    return n;
}
ssize_t write(int handle, const void *data, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t);
    off_t at = tracked(handle) ? lseek(handle, 0, SEEK_CUR) : 0;
    return wrote(handle, data, real(handle, data, n), at);
}
ssize_t pwrite(int handle, const void *data, size_t n, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    return wrote(handle, data, real(handle, data, n, at), at);
}
ssize_t pwrite64(int handle, const void *data, size_t n, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return wrote(handle, data, real(handle, data, n, at), at);
}

static int truncated(int handle, int result, off_t length) {
    if (!result && tracked(handle)) record((struct header){TRUNCATE, tracked(handle), 0, 0, length, 0}, "", "", "", 0);
    return result;
}
int ftruncate(int handle, off_t length) {
    REAL(int, ftruncate, int, off_t);
    return truncated(handle, real(handle, length), length);
}
int ftruncate64(int handle, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    return truncated(handle, real(handle, length), length);
}

static int synced(int handle, int result) {
    if (!result && tracked(handle)) record((struct header){SYNC, tracked(handle), 0, 0, 0, 0}, "", "", "", 0);
    return result;
}
int fsync(int handle) {
    REAL(int, fsync, int);
    return synced(handle, real(handle));
}
int fdatasync(int handle) {
    REAL(int, fdatasync, int);
    return synced(handle, real(handle));
}

static int named(uint32_t kind, const char *path, int result) {
    char whole[PATH_MAX];
    if (!result && ours(path, whole)) record((struct header){kind, 0, strlen(whole), 0, 0, 0}, whole, "", "", 0);
    return result;
}
int unlink(const char *path) {
    REAL(int, unlink, const char *);
    return named(UNLINK, path, real(path));
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return named(MKDIR, path, real(path, mode));
}
int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    return named(RMDIR, path, real(path));
}
int rename(const char *from, const char *to) {
    char first[PATH_MAX], second[PATH_MAX];
    REAL(int, rename, const char *, const char *);
    int result = real(from, to);
    if (!result && ours(from, first) && ours(to, second))
        record((struct header){RENAME, 0, strlen(first), strlen(second), 0, 0}, first, second, "", 0);
    return result;
}

/* The drive calls this: everything before it is claimed to be safe. */
void powerloss_mark(uint64_t number) { record((struct header){MARK, 0, 0, 0, number, 0}, "", "", "", 0); }
