/* Let one call that writes to a file or folder fail, as a disk or a network drive may do. Loaded with LD_PRELOAD.

   Calls are counted over all forks of a process. After ENOSPC every later call fails too, as on a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static long *calls; /* shared with forks; NULL: calls are not counted */
static long failing_call;
static int failing_error;

/* Count from 0; call `number` fails with `error`. Number 0: none does. */
void let_fail(long number, int error) {
    if (!calls) {
        void *shared = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        calls = shared == MAP_FAILED ? NULL : shared;
    }
    if (calls)
        *calls = 0;
    failing_call = number;
    failing_error = error;
}

long calls_made(void) { return calls ? *calls : 0; }

/* A process that a failing one starts inherits its environment, but not its memory. */
__attribute__((constructor)) static void read_environment(void) {
    const char *text = getenv("FAILING_CALL");
    long number;
    int error;
    if (text && sscanf(text, "%ld %d", &number, &error) == 2)
        let_fail(number, error);
}

static int fails(void) {
    if (!calls)
        return 0;
    long number = __atomic_add_fetch(calls, 1, __ATOMIC_SEQ_CST);
    if (!failing_call || number < failing_call || (number > failing_call && failing_error != ENOSPC))
        return 0;
    errno = failing_error;
    return 1;
}

static int fails_on(int file) {
    struct stat found;
    int before = errno;
    int is_file = file > 2 && !fstat(file, &found) && S_ISREG(found.st_mode);
    errno = before;
    return is_file && fails();
}

static int fails_to_open(const char *path, int flags) {
    int is_system = !strncmp(path, "/dev/", 5) || !strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5);
    return flags & O_CREAT && !is_system && fails();
}

#define NEXT(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define ON_FILE(type, name, parameters, arguments) \
    type name parameters { return fails_on(file) ? -1 : NEXT(name) arguments; }
#define ON_PATH(name, parameters, arguments) \
    int name parameters { return fails() ? -1 : NEXT(name) arguments; }
#define OPENING(name, parameters, arguments) \
    int name parameters { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return fails_to_open(path, flags) ? -1 : NEXT(name) arguments; \
    }

ON_FILE(ssize_t, write, (int file, const void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))
ON_FILE(ssize_t, writev, (int file, const struct iovec *parts, int count), (file, parts, count))
ON_FILE(int, fsync, (int file), (file))
ON_FILE(int, fdatasync, (int file), (file))
ON_FILE(int, ftruncate, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size))
ON_PATH(rename, (const char *from, const char *to), (from, to))
ON_PATH(renameat, (int in, const char *from, int into, const char *to), (in, from, into, to))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(mkdirat, (int in, const char *path, mode_t mode), (in, path, mode))
OPENING(open, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, (int in, const char *path, int flags, ...), (in, path, flags, mode))
OPENING(openat64, (int in, const char *path, int flags, ...), (in, path, flags, mode))
