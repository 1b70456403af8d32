/*
 * The products of PDQ's linear map: a banded matrix with a picture, and another one with the transposed result.
 *
 * `down` weighs each strip of rows with two rows of weights while its bytes become floats, in tiles of columns that
 * stay in the first cache, and turns only what comes out into luma. It writes its result transposed, so that `across`
 * again finds whole rows to weigh. Sums are of single precision, in any order: what hangs on the last digits is
 * decided elsewhere (_reference.c).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    BANDS = 64,
    WIDE = 2 * BANDS,
    TILE = 3072,         /* columns of bytes at a time, a multiple of 3. Measured: 1536 is as good, 768 is not */
    ROW = TILE / 3 + 16, /* no power of two: else all rows of a column would compete for the same lines of cache */
};

typedef struct {
    const int64_t *edges; /* 64 x (first row, row after the last) */
    const float *weights; /* for each band 2 x its rows */
} Bands;

typedef struct {
    const uint8_t *levels; /* rows x columns */
    Py_ssize_t rows, columns;
    int channels; /* 3: columns are R, G, B in turn, and become luma; 1: they are luma */
    Bands bands;
    const float *luma; /* three weights */
    float (*mixed)[ROW]; /* room for a tile's result before it is transposed: 2 x 64 rows */
    float *out;          /* columns / channels x 2 x 64 */
} Down;

typedef struct {
    const float *strips; /* rows x 2 x 64 */
    Py_ssize_t rows;
    Bands bands;
    int turning;
    float *out; /* 64 x 64 or, where it is to be turned, 64 x 2 x 2 x 64 */
} Across;

#define INLINE static inline __attribute__((always_inline))
#define MUL_ADD(a, b, c) (fused ? __builtin_fmaf(a, b, c) : (a) * (b) + (c))

INLINE void add_rows(const uint8_t *restrict row, Py_ssize_t stride, int rows, const float *one, const float *other,
                     Py_ssize_t n, float *restrict first, float *restrict second, const int fused)
{
    if (rows == 4) {
        const float a0 = one[0], a1 = one[1], a2 = one[2], a3 = one[3];
        const float b0 = other[0], b1 = other[1], b2 = other[2], b3 = other[3];
        const uint8_t *r1 = row + stride, *r2 = r1 + stride, *r3 = r2 + stride;
        for (Py_ssize_t x = 0; x < n; x++) {
            float l0 = row[x], l1 = r1[x], l2 = r2[x], l3 = r3[x];
            first[x] = MUL_ADD(a0, l0, MUL_ADD(a1, l1, MUL_ADD(a2, l2, MUL_ADD(a3, l3, first[x]))));
            second[x] = MUL_ADD(b0, l0, MUL_ADD(b1, l1, MUL_ADD(b2, l2, MUL_ADD(b3, l3, second[x]))));
        }
        return;
    }
    for (int r = 0; r < rows; r++)
        for (Py_ssize_t x = 0; x < n; x++) {
            float level = row[r * stride + x];
            first[x] = MUL_ADD(one[r], level, first[x]);
            second[x] = MUL_ADD(other[r], level, second[x]);
        }
}

INLINE void down_by(const Down *of, const int fused)
{
    float sums[2][TILE], (*mixed)[ROW] = of->mixed;
    const float red = of->luma[0], green = of->luma[1], blue = of->luma[2];
    const Py_ssize_t tile = of->channels == 3 ? TILE : TILE / 3;
    for (Py_ssize_t left = 0; left < of->columns; left += tile) {
        Py_ssize_t n = of->columns - left < tile ? of->columns - left : tile, made = n / of->channels;
        const float *weights = of->bands.weights;
        for (int k = 0; k < BANDS; k++) {
            Py_ssize_t row = of->bands.edges[2 * k], rows = of->bands.edges[2 * k + 1] - row;
            memset(sums[0], 0, sizeof(float) * n);
            memset(sums[1], 0, sizeof(float) * n);
            for (Py_ssize_t r = 0; r < rows; r += 4)
                add_rows(of->levels + (row + r) * of->columns + left, of->columns, rows - r < 4 ? (int)(rows - r) : 4,
                         weights + r, weights + rows + r, n, sums[0], sums[1], fused);
            weights += 2 * rows;
            for (int side = 0; side < 2; side++) {
                const float *restrict sum = sums[side];
                float *restrict into = mixed[side * BANDS + k];
                if (of->channels == 1) memcpy(into, sum, sizeof(float) * n);
                else
                    for (Py_ssize_t x = 0; x < made; x++)
                        into[x] = red * sum[3 * x] + green * sum[3 * x + 1] + blue * sum[3 * x + 2];
            }
        }
        for (Py_ssize_t x = 0; x < made; x++) {
            float *restrict out = of->out + (left / of->channels + x) * WIDE;
            for (int k = 0; k < WIDE; k++) out[k] = mixed[k][x];
        }
    }
}

INLINE void across_by(const Across *of, const int fused)
{
    const float *weights = of->bands.weights;
    float *out = of->out;
    for (int k = 0; k < BANDS; k++) {
        Py_ssize_t row = of->bands.edges[2 * k], rows = of->bands.edges[2 * k + 1] - row;
        float first[WIDE] = {0}, second[WIDE] = {0};
        for (Py_ssize_t r = 0; r < rows; r++) {
            const float *restrict strip = of->strips + (row + r) * WIDE;
            const float one = weights[r], other = weights[rows + r];
            if (of->turning)
                for (int x = 0; x < WIDE; x++) {
                    first[x] = MUL_ADD(one, strip[x], first[x]);
                    second[x] = MUL_ADD(other, strip[x], second[x]);
                }
            else
                for (int x = 0; x < BANDS; x++) first[x] = MUL_ADD(one, strip[x], first[x]);
        }
        weights += 2 * rows;
        int wide = of->turning ? WIDE : BANDS;
        memcpy(out, first, sizeof(float) * wide);
        if (of->turning) memcpy(out + wide, second, sizeof(float) * wide);
        out += of->turning ? 2 * wide : wide;
    }
}

static void down_portable(const Down *of) { down_by(of, 0); }
static void across_portable(const Across *of) { across_by(of, 0); }

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2,fma"))) static void down_avx2(const Down *of) { down_by(of, 1); }
__attribute__((target("avx2,fma"))) static void across_avx2(const Across *of) { across_by(of, 1); }
#define QUICK() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#else
#define down_avx2 down_portable
#define across_avx2 across_portable
#define QUICK() 0
#endif

/* Whether the bands lie within so many rows, and have all of the weights. */
static int bands_of(Bands *bands, const Py_buffer *edges, const Py_buffer *weights, Py_ssize_t rows)
{
    if (edges->len != 2 * BANDS * sizeof(int64_t)) return 0;
    bands->edges = edges->buf;
    bands->weights = weights->buf;
    Py_ssize_t used = 0;
    for (int k = 0; k < BANDS; k++) {
        int64_t first = bands->edges[2 * k], end = bands->edges[2 * k + 1];
        if (first < 0 || first > end || end > rows) return 0;
        used += 2 * (Py_ssize_t)(end - first);
    }
    return weights->len == used * (Py_ssize_t)sizeof(float);
}

static PyObject *answer(int fits)
{
    if (fits) Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "the sizes of a picture, its bands and their product do not fit");
    return NULL;
}

static PyObject *down(PyObject *module, PyObject *args)
{
    Py_buffer levels, edges, weights, luma, out;
    Down of;
    int plain = 0;
    if (!PyArg_ParseTuple(args, "y*niy*y*y*w*|p:down", &levels, &of.rows, &of.channels, &edges, &weights, &luma, &out,
                          &plain))
        return NULL;
    int fits = of.rows > 0 && (of.channels == 1 || of.channels == 3) && levels.len % (of.rows * of.channels) == 0 &&
               luma.len == 3 * sizeof(float) && bands_of(&of.bands, &edges, &weights, of.rows);
    if (fits) {
        of.columns = levels.len / of.rows;
        fits = out.len % (WIDE * sizeof(float)) == 0 &&
               out.len / (Py_ssize_t)(WIDE * sizeof(float)) == of.columns / of.channels;
    }
    if (fits) of.mixed = malloc(sizeof(float) * WIDE * ROW);
    if (fits && of.mixed) {
        of.levels = levels.buf, of.luma = luma.buf, of.out = out.buf;
        Py_BEGIN_ALLOW_THREADS
        if (QUICK() && !plain) down_avx2(&of);
        else down_portable(&of);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&levels);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&luma);
    PyBuffer_Release(&out);
    if (fits && !of.mixed) return PyErr_NoMemory();
    if (fits) free(of.mixed);
    return answer(fits);
}

static PyObject *across(PyObject *module, PyObject *args)
{
    Py_buffer strips, edges, weights, out;
    Across of;
    int plain = 0;
    if (!PyArg_ParseTuple(args, "y*y*y*w*p|p:across", &strips, &edges, &weights, &out, &of.turning, &plain)) return NULL;
    of.rows = strips.len / (Py_ssize_t)(WIDE * sizeof(float));
    int fits = strips.len % (WIDE * sizeof(float)) == 0 && bands_of(&of.bands, &edges, &weights, of.rows) &&
               out.len == (of.turning ? 4 : 1) * BANDS * BANDS * (Py_ssize_t)sizeof(float);
    if (fits) {
        of.strips = strips.buf, of.out = out.buf;
        Py_BEGIN_ALLOW_THREADS
        if (QUICK() && !plain) across_avx2(&of);
        else across_portable(&of);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&strips);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&out);
    return answer(fits);
}

static PyMethodDef methods[] = {
    {"down", down, METH_VARARGS, NULL}, {"across", across, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_strips", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__strips(void) { return PyModuleDef_Init(&module); }
