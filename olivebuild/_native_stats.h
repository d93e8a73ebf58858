/* Which of many files are not as they were: five numbers each, as snapshot.py takes them. Included by _native.c. */

#if !defined(_WIN32)
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#if defined(__APPLE__)
#define NANOSECONDS(s, which) ((int64_t)(s).st_##which##timespec.tv_sec * 1000000000 + (s).st_##which##timespec.tv_nsec)
#else
#define NANOSECONDS(s, which) ((int64_t)(s).st_##which##tim.tv_sec * 1000000000 + (s).st_##which##tim.tv_nsec)
#endif

#define NUMBERS 5
#define STAT_SIZE (NUMBERS * sizeof(uint64_t))
#define MAX_THREADS 4
/* Fewer are looked at sooner than a thread has started. */
#define WORTH_A_THREAD 4096

/* A folder that is only begun at need not be one that can be listed. */
#ifdef O_PATH
#define A_FOLDER (O_PATH | O_DIRECTORY | O_CLOEXEC)
#else
#define A_FOLDER (O_RDONLY | O_DIRECTORY | O_CLOEXEC)
#endif

/* `differs` gets a byte for each path; a relative one begins at `folder`. */
struct look { int folder; const char *path; const uint8_t *wanted; uint8_t *differs; size_t count; };

static void *look_at(void *given) {
    const struct look *look = given;
    const char *path = look->path;
    for (size_t i = 0; i < look->count; i++, path += strlen(path) + 1) {
        struct stat s;
        uint64_t now[NUMBERS];
        memset(now, 0xFF, sizeof now);
        if (!fstatat(look->folder, path, &s, 0)) {
            now[0] = (uint64_t)s.st_dev;
            now[1] = (uint64_t)s.st_ino;
            now[2] = (uint64_t)s.st_size;
            now[3] = (uint64_t)NANOSECONDS(s, m);
            now[4] = (uint64_t)NANOSECONDS(s, c);
        }
        look->differs[i] = memcmp(now, look->wanted + i * sizeof now, sizeof now) != 0;
    }
    return NULL;
}

static void look_at_all(int folder, const char *path, const uint8_t *wanted, uint8_t *differs, size_t count, size_t threads) {
    pthread_t running[MAX_THREADS];
    struct look parts[MAX_THREADS];
    size_t started = 0, done = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1 + count / WORTH_A_THREAD) threads = 1 + count / WORTH_A_THREAD;
    for (; started + 1 < threads; started++) {
        size_t share = count / threads;
        parts[started] = (struct look){folder, path, wanted + done * STAT_SIZE, differs + done, share};
        if (pthread_create(&running[started], NULL, look_at, &parts[started])) break;
        for (size_t i = 0; i < share; i++) path += strlen(path) + 1;
        done += share;
    }
    look_at(&(struct look){folder, path, wanted + done * STAT_SIZE, differs + done, count - done});
    for (size_t i = 0; i < started; i++) pthread_join(running[i], NULL);
}

/* A byte for each path: 1 where it differs. */
static PyObject *py_differing(PyObject *self, PyObject *args) {
    Py_buffer v[2] = {0};
    const char *base = "";
    int threads, folder = AT_FDCWD;
    if (!PyArg_ParseTuple(args, "y*y*i|y", &v[0], &v[1], &threads, &base)) { release(v, 2); return NULL; }
    const char *paths = v[0].buf;
    size_t length = (size_t)v[0].len, count = 0;
    for (const char *at = paths; at < paths + length && (at = memchr(at, 0, paths + length - at)); at++) count++;
    if ((length && paths[length - 1]) || threads < 1 || (size_t)v[1].len != count * STAT_SIZE) {
        PyErr_SetString(PyExc_ValueError, "paths that end with a zero byte, five numbers each, and a thread are needed");
        release(v, 2);
        return NULL;
    }
    /* Below a folder that is gone, as when all of it was moved, nothing is found. */
    if (*base) folder = open(base, A_FOLDER);
    PyObject *found = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count);
    if (found) {
        uint8_t *differs = (uint8_t *)PyBytes_AsString(found);
        Py_BEGIN_ALLOW_THREADS
        look_at_all(folder, paths, v[1].buf, differs, count, (size_t)threads);
        Py_END_ALLOW_THREADS
    }
    if (folder >= 0) close(folder);
    release(v, 2);
    return found;
}
#endif
