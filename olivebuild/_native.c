/* Loops that are too slow in Python: arithmetic on weights that numpy has no single call for, with the same bits as ml/kernels/blockwise.py gives
   without it, and the stats of many files, as snapshot.py takes them without it.

   Knows buffers, not tensors: every function takes contiguous arrays and checks their sizes. Built where there is a compiler that speaks
   GNU C; everything works without it. Compile with -ffp-contract=off: a multiplication and an addition are two roundings here, except
   in `product`, which asks for fused ones. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum format { BF16, F16, F32 };
static const size_t SIZE[] = {2, 2, 4};
#define MAX_BLOCK 256
#define LANES 16

/* Number formats */

INLINE uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
INLINE float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

INLINE float widen(const void *data, size_t i, enum format format) {
    if (format == F32) return ((const float *)data)[i];
    if (format == F16) return (float)((const _Float16 *)data)[i];
    return float_of((uint32_t)((const uint16_t *)data)[i] << 16);
}

/* To nearest, ties to even; NaN stays NaN. */
INLINE void narrow(void *data, size_t i, enum format format, float x) {
    if (format == F32) { ((float *)data)[i] = x; return; }
    if (format == F16) { ((_Float16 *)data)[i] = (_Float16)x; return; }
    uint32_t u = bits_of(x), rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
    ((uint16_t *)data)[i] = (u & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : (uint16_t)rounded;
}

/* Blocks of `block` values in `bits` bits. */

struct options { int block, bits, symmetric; enum format scales; };

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t masks __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint16_t pairs __attribute__((vector_size(LANES)));
typedef uint8_t halves __attribute__((vector_size(LANES / 2)));

/* Macros, since vectors are not passed to functions alike on all processors. */
#define WHERE(condition, a, b) ((lanes)(((condition) & (masks)(a)) | (~(condition) & (masks)(b))))
#define MAX(a, b) WHERE((b) > (a), b, a)
#define MIN(a, b) WHERE((b) < (a), b, a)
#define TURNED(x, by) __builtin_shufflevector(x, x, TURN(0, by), TURN(1, by), TURN(2, by), TURN(3, by), TURN(4, by), TURN(5, by), TURN(6, by), \
    TURN(7, by), TURN(8, by), TURN(9, by), TURN(10, by), TURN(11, by), TURN(12, by), TURN(13, by), TURN(14, by), TURN(15, by))
#define TURN(lane, by) (((lane) + (by)) % LANES)

/* Products: out[n, k] = b[n, r] a[r, k], each element a chain of fused multiply-adds from the first term to the last. */

#define MR 4
#define NR 32

#define PRODUCT(NAME, TARGET, VECTOR, WIDTH, LOAD, STORE, SET, ZERO, FMA)                                                        \
    __attribute__((target(TARGET))) static void NAME(const float *const b[MR], const float *panel, size_t r, float out[MR][NR]) { \
        enum { N = NR / WIDTH };                                                                                                 \
        VECTOR sum[MR][N];                                                                                                       \
        for (int i = 0; i < MR; i++)                                                                                             \
            for (int j = 0; j < N; j++) sum[i][j] = ZERO();                                                                      \
        for (size_t t = 0; t < r; t++) {                                                                                         \
            VECTOR row[N];                                                                                                       \
            for (int j = 0; j < N; j++) row[j] = LOAD(panel + t * NR + j * WIDTH);                                               \
            for (int i = 0; i < MR; i++) {                                                                                       \
                VECTOR factor = SET(b[i][t]);                                                                                    \
                for (int j = 0; j < N; j++) sum[i][j] = FMA(factor, row[j], sum[i][j]);                                          \
            }                                                                                                                    \
        }                                                                                                                        \
        for (int i = 0; i < MR; i++)                                                                                             \
            for (int j = 0; j < N; j++) STORE(&out[i][j * WIDTH], sum[i][j]);                                                    \
    }

typedef void tile(const float *const b[MR], const float *panel, size_t r, float out[MR][NR]);

#if defined(__x86_64__)
PRODUCT(tile_512, "avx512f", __m512, 16, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_fmadd_ps)
PRODUCT(tile_256, "avx2,fma", __m256, 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_fmadd_ps)

static tile *best_tile(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return tile_512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? tile_256 : NULL;
}
#else
static tile *best_tile(void) { return NULL; }
#endif

static int product(tile *compute, const float *b, const float *a, float *out, size_t n, size_t r, size_t k) {
    float *panel = malloc((r * NR + 1) * sizeof(float)), made[MR][NR];
    if (!panel) return 0;
    for (size_t column = 0; column < k; column += NR) {
        size_t wide = k - column < NR ? k - column : NR;
        for (size_t t = 0; t < r; t++) {
            memcpy(panel + t * NR, a + t * k + column, wide * sizeof(float));
            memset(panel + t * NR + wide, 0, (NR - wide) * sizeof(float));
        }
        for (size_t row = 0; row < n; row += MR) {
            const float *rows[MR];
            for (size_t i = 0; i < MR; i++) rows[i] = b + (row + i < n ? row + i : n - 1) * r;
            compute(rows, panel, r, made);
            for (size_t i = 0; i < MR && row + i < n; i++) memcpy(out + (row + i) * k + column, made[i], wide * sizeof(float));
        }
    }
    free(panel);
    return 1;
}

/* The best of what this processor has, chosen once. GCC alone compiles a part of a file for other instructions. */

#define CONCAT(a, b) a##_##b
#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define NAMED(name) CONCAT(name, v4)
#include "_native_kernels.h"
#undef NAMED
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define NAMED(name) CONCAT(name, v3)
#include "_native_kernels.h"
#undef NAMED
#pragma GCC pop_options
#endif
#define NAMED(name) CONCAT(name, plain)
#include "_native_kernels.h"

typedef int quantiser(const void *, size_t, struct options, uint8_t *, void *, uint8_t *, enum format);

static struct {
    void (*add)(const void *, const float *, float, void *, size_t, enum format);
    void (*residual)(const char *, const char *, const float *, size_t, size_t, double *, double *, enum format);
    quantiser *quantise, *k_quantise;
} best = {add_plain, residual_plain, quantise_plain, k_quantise_plain};

static void choose_kernels(void) {
#if defined(__x86_64__) && !defined(__clang__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) {
        best.add = add_v4; best.residual = residual_v4; best.quantise = quantise_v4; best.k_quantise = k_quantise_v4;
    } else if (__builtin_cpu_supports("x86-64-v3")) {
        best.add = add_v3; best.residual = residual_v3; best.quantise = quantise_v3; best.k_quantise = k_quantise_v3;
    }
#endif
}

/* Python */

static void release(Py_buffer *views, int count) {
    for (int i = 0; i < count; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
}

/* Raises ValueError, releases all and gives 0, unless each view has the size that is expected of it. */
static int sizes_are(Py_buffer *views, int count, const size_t *expected) {
    for (int i = 0; i < count; i++)
        if ((size_t)views[i].len != expected[i]) {
            PyErr_Format(PyExc_ValueError, "array %d has %zd bytes instead of %zu", i, views[i].len, expected[i]);
            release(views, count);
            return 0;
        }
    return 1;
}

static int is_format(int format) {
    if (format >= BF16 && format <= F32) return 1;
    PyErr_SetString(PyExc_ValueError, "an unknown number format");
    return 0;
}

static PyObject *py_add_delta(PyObject *self, PyObject *args) {
    Py_buffer v[3] = {0};
    int format;
    float scale;
    if (!PyArg_ParseTuple(args, "y*iy*fw*", &v[0], &format, &v[1], &scale, &v[2])) { release(v, 3); return NULL; }
    size_t count = (size_t)v[1].len / sizeof(float);
    if (!is_format(format)) { release(v, 3); return NULL; }
    if (!sizes_are(v, 3, (size_t[]){count * SIZE[format], count * sizeof(float), count * SIZE[format]})) return NULL;
    Py_BEGIN_ALLOW_THREADS
    best.add(v[0].buf, v[1].buf, scale, v[2].buf, count, format);
    Py_END_ALLOW_THREADS
    release(v, 3);
    Py_RETURN_NONE;
}

static PyObject *py_residual(PyObject *self, PyObject *args) {
    Py_buffer v[5] = {0};
    int format;
    if (!PyArg_ParseTuple(args, "y*y*iy*w*w*", &v[0], &v[1], &format, &v[2], &v[3], &v[4])) { release(v, 5); return NULL; }
    size_t rows = (size_t)v[3].len / sizeof(double), columns = (size_t)v[2].len / sizeof(float);
    if (!is_format(format)) { release(v, 5); return NULL; }
    size_t weight = rows * columns * SIZE[format];
    if (!sizes_are(v, 5, (size_t[]){weight, weight, columns * sizeof(float), rows * sizeof(double), rows * sizeof(double)})) return NULL;
    Py_BEGIN_ALLOW_THREADS
    best.residual(v[0].buf, v[1].buf, v[2].buf, rows, columns, v[3].buf, v[4].buf, format);
    Py_END_ALLOW_THREADS
    release(v, 5);
    Py_RETURN_NONE;
}

static PyObject *py_product(PyObject *self, PyObject *args) {
    Py_buffer v[3] = {0};
    Py_ssize_t n, r, k;
    tile *compute = best_tile();
    if (!PyArg_ParseTuple(args, "y*y*w*nnn", &v[0], &v[1], &v[2], &n, &r, &k)) { release(v, 3); return NULL; }
    if (!compute || n < 0 || r < 0 || k < 0) {
        PyErr_SetString(PyExc_ValueError, compute ? "a negative size" : "this processor has no fused multiply-add");
        release(v, 3);
        return NULL;
    }
    if (!sizes_are(v, 3, (size_t[]){n * r * sizeof(float), r * k * sizeof(float), n * k * sizeof(float)})) return NULL;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = product(compute, v[0].buf, v[1].buf, v[2].buf, n, r, k);
    Py_END_ALLOW_THREADS
    release(v, 3);
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *quantised(quantiser *quantise, Py_buffer v[4], int format, int scales, struct options o) {
    if (!is_format(format) || !is_format(scales)) { release(v, 4); return NULL; }
    if (o.block < LANES || o.block > MAX_BLOCK || o.block & (o.block - 1) || (o.bits != 4 && o.bits != 8)) {
        PyErr_SetString(PyExc_ValueError, "blocks of this size or bits of this number are not known");
        release(v, 4);
        return NULL;
    }
    o.scales = scales;
    size_t blocks = (size_t)v[0].len / SIZE[format] / o.block;
    size_t expected[] = {blocks * o.block * SIZE[format], blocks * o.block * o.bits / 8, blocks * SIZE[scales], o.symmetric ? 0 : blocks};
    if (!sizes_are(v, 4, expected)) return NULL;
    int finite;
    Py_BEGIN_ALLOW_THREADS
    finite = quantise(v[0].buf, blocks, o, v[1].buf, v[2].buf, v[3].buf, format);
    Py_END_ALLOW_THREADS
    release(v, 4);
    return PyBool_FromLong(finite);
}

static PyObject *py_quantise(PyObject *self, PyObject *args) {
    Py_buffer v[4] = {0};
    int format, scales;
    struct options o;
    if (!PyArg_ParseTuple(args, "y*iiiiiw*w*w*", &v[0], &format, &o.block, &o.bits, &o.symmetric, &scales, &v[1], &v[2], &v[3])) {
        release(v, 4);
        return NULL;
    }
    return quantised(best.quantise, v, format, scales, o);
}

static PyObject *py_k_quantise(PyObject *self, PyObject *args) {
    Py_buffer v[4] = {0};
    int format, scales;
    struct options o = {0};
    if (!PyArg_ParseTuple(args, "y*iiiiw*w*w*", &v[0], &format, &o.block, &o.bits, &scales, &v[1], &v[2], &v[3])) {
        release(v, 4);
        return NULL;
    }
    return quantised(best.k_quantise, v, format, scales, o);
}

#include "_native_stats.h"

static PyMethodDef METHODS[] = {
#if !defined(_WIN32)
    {"differing", py_differing, METH_VARARGS, "differing(paths, stats, threads, base): a byte for each path, 1 where its stat differs"},
#endif
    {"add_delta", py_add_delta, METH_VARARGS, "add_delta(base, format, delta, scale, out): base + delta * scale, rounded once"},
    {"residual", py_residual, METH_VARARGS, "residual(before, after, format, probe, wrong, squares): for each row (after - before) . probe, after . after"},
    {"product", py_product, METH_VARARGS, "product(b, a, out, n, r, k): b [n, r] a [r, k] in float32, one chain of fused multiply-adds an element"},
    {"quantise", py_quantise, METH_VARARGS,
     "quantise(values, format, block, bits, symmetric, scales, packed, scales_out, zeros): whether all values are finite"},
    {"k_quantise", py_k_quantise, METH_VARARGS, "k_quantise(values, format, block, bits, scales, packed, scales_out, zeros): False where numpy must do it"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_native", "See ml/kernels/blockwise.py and snapshot.py.", -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
    choose_kernels();
    PyObject *module = PyModule_Create(&MODULE);
    if (module) PyModule_AddIntConstant(module, "HAS_PRODUCT", best_tile() != NULL);
    return module;
}
