/* Preloaded into a process: counts its file operations below given folders, writes them down, and at a chosen one
   ends the process by SIGKILL or lets it and all later ones fail, as a full, broken or read-only disk does.

   glibc's stdio calls its own write, which cannot be replaced: there fwrite is what is counted. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READS = 1, ONCE = 2, HALF = 4 };       /* flags of an armed process */
enum { WRITING, FREEING, READING };           /* what an operation does; FREEING needs no space */
enum { PASS, FAIL, SHORT };                   /* what becomes of it */
enum { ROOTS = 8 };

static struct {
    volatile pid_t process; /* 0: nothing is counted */
    long at, count;
    int error, flags, log, roots;
    char root[ROOTS][PATH_MAX];
} armed;

/* Count from 1 below `roots` (one a line); at operation `at` (0: none) fail with `error`, or be killed if it is 0.
   `log`: a descriptor that gets a line for each operation, or -1. */
void file_faults_arm(const char *roots, long at, int error, int flags, int log) {
    armed.process = 0;
    armed.roots = 0;
    for (const char *from = roots; *from && armed.roots < ROOTS;) {
        size_t length = strcspn(from, "\n");
        memcpy(armed.root[armed.roots], from, length);
        armed.root[armed.roots++][length] = 0;
        from += length + (from[length] == '\n');
    }
    armed.at = at, armed.count = 0, armed.error = error, armed.flags = flags, armed.log = log;
    armed.process = getpid();
}

void file_faults_disarm(void) { armed.process = 0; }

long file_faults_count(void) { return armed.count; }

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int below(const char *path) {
    for (int i = 0; i < armed.roots; i++) {
        size_t length = strlen(armed.root[i]);
        if (!strncmp(path, armed.root[i], length) && (path[length] == '/' || path[length] == 0)) return 1;
    }
    return 0;
}

static void path_of(int descriptor, char *path) {
    char link[32];
    snprintf(link, sizeof link, descriptor == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, (size_t)PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
}

static void path_at(int folder, const char *name, char *path) {
    size_t length = 0;
    path[0] = 0;
    if (name[0] != '/') {
        path_of(folder, path);
        length = strlen(path);
        path[length++] = '/';
    }
    snprintf(path + length, PATH_MAX - length, "%s", name);
}

/* What becomes of an operation on `path`; errno is set if it fails. */
static int judge(const char *operation, const char *path, int kind, size_t bytes) {
    if ((kind == READING) != !!(armed.flags & READS) || !below(path)) return PASS;
    long number = __atomic_add_fetch(&armed.count, 1, __ATOMIC_SEQ_CST);
    if (armed.log >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %zu %s\n", number, operation, bytes, path);
        syscall(SYS_write, armed.log, line, (size_t)length);
    }
    if (!armed.at || number < armed.at || (number > armed.at && armed.flags & ONCE)) return PASS;
    if (number == armed.at && armed.flags & HALF && bytes > 1) return SHORT;
    if (!armed.error) kill(getpid(), SIGKILL);
    if (kind == FREEING && (armed.error == ENOSPC || armed.error == EDQUOT)) return PASS;
    errno = armed.error;
    return FAIL;
}

static int judge_path(const char *operation, int folder, const char *name, int kind) {
    char path[PATH_MAX];
    if (armed.process != getpid()) return PASS;
    path_at(folder, name, path);
    return judge(operation, path, kind, 0);
}

static int judge_descriptor(const char *operation, int descriptor, int kind, size_t bytes) {
    char path[PATH_MAX];
    if (armed.process != getpid()) return PASS;
    path_of(descriptor, path);
    return judge(operation, path, kind, bytes);
}

/* The half of an operation is done: a process that is to be killed gets no further. */
static void half_done(void) {
    if (!armed.error) kill(getpid(), SIGKILL);
}

#define WRITES(operation, name, type, parameters, size, whole, half) \
    type name parameters { \
        REAL(name); \
        int verdict = judge_descriptor(operation, descriptor, WRITING, size); \
        if (verdict == FAIL) return (type)-1; \
        if (verdict == PASS) return real whole; \
        type done = real half; \
        half_done(); \
        return done; \
    }

WRITES("write", write, ssize_t, (int descriptor, const void *data, size_t n), n, (descriptor, data, n),
       (descriptor, data, n / 2))
WRITES("write", pwrite, ssize_t, (int descriptor, const void *data, size_t n, off_t at), n, (descriptor, data, n, at),
       (descriptor, data, n / 2, at))
WRITES("write", pwrite64, ssize_t, (int descriptor, const void *data, size_t n, off64_t at), n,
       (descriptor, data, n, at), (descriptor, data, n / 2, at))
WRITES("write", writev, ssize_t, (int descriptor, const struct iovec *parts, int n), n > 1 ? (size_t)n : 0,
       (descriptor, parts, n), (descriptor, parts, n / 2))
WRITES("copy", sendfile, ssize_t, (int descriptor, int from, off_t *at, size_t n), n, (descriptor, from, at, n),
       (descriptor, from, at, 1))
WRITES("copy", sendfile64, ssize_t, (int descriptor, int from, off64_t *at, size_t n), n, (descriptor, from, at, n),
       (descriptor, from, at, 1))
WRITES("copy", copy_file_range, ssize_t,
       (int from, off64_t *at, int descriptor, off64_t *to, size_t n, unsigned flags), n,
       (from, at, descriptor, to, n, flags), (from, at, descriptor, to, 1, flags))

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(fwrite);
    int verdict = judge_descriptor("write", fileno(file), WRITING, size * n);
    if (verdict == FAIL) return 0;
    if (verdict == PASS) return real(data, size, n, file);
    size_t done = real(data, size, n / 2, file);
    fflush(file);
    half_done();
    return done;
}

#define ON_DESCRIPTOR(operation, name, kind, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        return judge_descriptor(operation, descriptor, kind, 0) == FAIL ? -1 : real arguments; \
    }

ON_DESCRIPTOR("fsync", fsync, WRITING, (int descriptor), (descriptor))
ON_DESCRIPTOR("fsync", fdatasync, WRITING, (int descriptor), (descriptor))
ON_DESCRIPTOR("truncate", ftruncate, WRITING, (int descriptor, off_t size), (descriptor, size))
ON_DESCRIPTOR("truncate", ftruncate64, WRITING, (int descriptor, off64_t size), (descriptor, size))
ON_DESCRIPTOR("allocate", fallocate, WRITING, (int descriptor, int mode, off_t at, off_t n), (descriptor, mode, at, n))
ON_DESCRIPTOR("allocate", fallocate64, WRITING, (int descriptor, int mode, off64_t at, off64_t n),
              (descriptor, mode, at, n))
ON_DESCRIPTOR("attributes", futimens, FREEING, (int descriptor, const struct timespec times[2]), (descriptor, times))
ON_DESCRIPTOR("attributes", fchmod, FREEING, (int descriptor, mode_t mode), (descriptor, mode))

#define ON_PATH(operation, name, kind, folder, path, parameters, arguments) \
    int name parameters { \
        REAL(name); \
        return judge_path(operation, folder, path, kind) == FAIL ? -1 : real arguments; \
    }

ON_PATH("rename", rename, WRITING, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH("rename", renameat, WRITING, folder, to, (int old, const char *from, int folder, const char *to),
        (old, from, folder, to))
ON_PATH("rename", renameat2, WRITING, folder, to,
        (int old, const char *from, int folder, const char *to, unsigned flags), (old, from, folder, to, flags))
ON_PATH("link", link, WRITING, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH("link", linkat, WRITING, folder, to, (int old, const char *from, int folder, const char *to, int flags),
        (old, from, folder, to, flags))
ON_PATH("link", symlink, WRITING, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH("link", symlinkat, WRITING, folder, to, (const char *from, int folder, const char *to), (from, folder, to))
ON_PATH("unlink", unlink, FREEING, AT_FDCWD, path, (const char *path), (path))
ON_PATH("unlink", unlinkat, FREEING, folder, path, (int folder, const char *path, int flags), (folder, path, flags))
ON_PATH("unlink", remove, FREEING, AT_FDCWD, path, (const char *path), (path))
ON_PATH("rmdir", rmdir, FREEING, AT_FDCWD, path, (const char *path), (path))
ON_PATH("mkdir", mkdir, WRITING, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
ON_PATH("mkdir", mkdirat, WRITING, folder, path, (int folder, const char *path, mode_t mode), (folder, path, mode))
ON_PATH("truncate", truncate, WRITING, AT_FDCWD, path, (const char *path, off_t size), (path, size))
ON_PATH("truncate", truncate64, WRITING, AT_FDCWD, path, (const char *path, off64_t size), (path, size))
ON_PATH("attributes", utimensat, FREEING, folder, path,
        (int folder, const char *path, const struct timespec times[2], int flags), (folder, path, times, flags))
ON_PATH("attributes", chmod, FREEING, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))

/* Opening an existing file takes no space. */
static int judge_open(int folder, const char *name, int flags) {
    struct stat found;
    if (armed.process != getpid()) return PASS;
    if ((flags & O_ACCMODE) == O_RDONLY) return judge_path("open", folder, name, READING);
    return judge_path("open", folder, name, fstatat(folder, name, &found, 0) ? WRITING : FREEING);
}

#define OPENS(name, folder, parameters, last, arguments) \
    int name parameters { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
            va_list rest; \
            va_start(rest, last); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        return judge_open(folder, path, flags) == FAIL ? -1 : real arguments; \
    }

OPENS(open, AT_FDCWD, (const char *path, int flags, ...), flags, (path, flags, mode))
OPENS(open64, AT_FDCWD, (const char *path, int flags, ...), flags, (path, flags, mode))
OPENS(openat, folder, (int folder, const char *path, int flags, ...), flags, (folder, path, flags, mode))
OPENS(openat64, folder, (int folder, const char *path, int flags, ...), flags, (folder, path, flags, mode))

/* What _FORTIFY_SOURCE makes of an open without a mode. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int folder, const char *path, int flags) { return openat(folder, path, flags); }
int __openat64_2(int folder, const char *path, int flags) { return openat64(folder, path, flags); }
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

#define OPENS_STREAM(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(name); \
        int flags = strpbrk(mode, "wa+") ? O_WRONLY : O_RDONLY; \
        return judge_open(AT_FDCWD, path, flags) == FAIL ? NULL : real(path, mode); \
    }

OPENS_STREAM(fopen)
OPENS_STREAM(fopen64)

DIR *opendir(const char *path) {
    REAL(opendir);
    return judge_path("open", AT_FDCWD, path, READING) == FAIL ? NULL : real(path);
}

#define READS_DESCRIPTOR(name, parameters, arguments) \
    ssize_t name parameters { \
        REAL(name); \
        return judge_descriptor("read", descriptor, READING, 0) == FAIL ? -1 : real arguments; \
    }

READS_DESCRIPTOR(read, (int descriptor, void *data, size_t n), (descriptor, data, n))
READS_DESCRIPTOR(pread, (int descriptor, void *data, size_t n, off_t at), (descriptor, data, n, at))
READS_DESCRIPTOR(pread64, (int descriptor, void *data, size_t n, off64_t at), (descriptor, data, n, at))
READS_DESCRIPTOR(readv, (int descriptor, const struct iovec *parts, int n), (descriptor, parts, n))

size_t fread(void *data, size_t size, size_t n, FILE *file) {
    REAL(fread);
    return judge_descriptor("read", fileno(file), READING, 0) == FAIL ? 0 : real(data, size, n, file);
}
