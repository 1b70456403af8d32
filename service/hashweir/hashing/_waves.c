/*
 * What PDQ reads off 64 x 64 samples: the signs of 16 x 16 coefficients of their cosine transform against their median,
 * and quality. Of the picture as it is, with how sure each is; or the signs of all eight turns, each by samples of its
 * own or, as the reference turns them, by the coefficients of the picture as it is.
 *
 * Single precision, in any order: what hangs on the last digits is decided elsewhere (_reference.c).
 * Long because everything here is read off the same coefficients, by portable and by faster instructions.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

enum {
    SIDE = 64,
    HALF = SIDE / 2,
    WAVES = 16,
    BITS = WAVES * WAVES,
    VALUE = BITS / 8, /* bytes */
    LANES = 8,
};

typedef float View[SIDE][SIDE];         /* samples: down x across */
typedef float Coefficients[WAVES][WAVES]; /* waves down x waves across */

typedef struct {
    uint8_t value[VALUE];
    float gap;           /* of the 128th and the 129th coefficient */
    int close;           /* coefficients near the former */
    int32_t least, most; /* quality */
    Coefficients coefficients;
} Found;

typedef uint8_t Turned[2][2][2][VALUE]; /* upside down x mirrored x then transposed */

#define INLINE static inline __attribute__((always_inline))

/* out[r][x] = sum over k of weights[r][k] * in[k][x], for 8 x 8 of them. Strides are of rows. */
typedef void Product(const float *weights, int weights_stride, const float *in, int in_stride, float *out, int stride);

static void product_portable(const float *weights, int weights_stride, const float *in, int in_stride, float *out,
                             int stride)
{
    float sums[LANES][LANES] = {{0}};
    for (int k = 0; k < HALF; k++)
        for (int r = 0; r < LANES; r++)
            for (int x = 0; x < LANES; x++) sums[r][x] += weights[r * weights_stride + k] * in[k * in_stride + x];
    for (int r = 0; r < LANES; r++) memcpy(out + r * stride, sums[r], sizeof(sums[r]));
}

/*
 * Waves 1 to 16 of a view. Those of even number are the same from either end, those of odd number upside down: sums and
 * differences of two samples are weighed, half as many. Where samples come last first, differences change signs.
 */
INLINE void coefficients_of(const View view, const float *waves, int upside_down, int mirrored, Product *product,
                            Coefficients out)
{
    float folded[2][HALF][SIDE], half[WAVES][SIDE], by_sample[2][HALF][LANES], folded_across[2][WAVES][HALF];
    for (int k = 0; k < HALF; k++) {
        const float *one = view[upside_down ? SIDE - 1 - k : k], *other = view[upside_down ? k : SIDE - 1 - k];
        for (int x = 0; x < SIDE; x++) folded[0][k][x] = one[x] - other[x], folded[1][k][x] = one[x] + other[x];
    }
    for (int parity = 0; parity < 2; parity++)
        for (int x = 0; x < SIDE; x += LANES)
            product(waves + parity * SIDE, 2 * SIDE, &folded[parity][0][x], SIDE, &half[parity][x], 2 * SIDE);
    const float sign = mirrored ? -1 : 1;
    for (int i = 0; i < WAVES; i++)
        for (int k = 0; k < HALF; k++) {
            folded_across[0][i][k] = sign * (half[i][k] - half[i][SIDE - 1 - k]);
            folded_across[1][i][k] = half[i][k] + half[i][SIDE - 1 - k];
            by_sample[i % 2][k][i / 2] = waves[i * SIDE + k];
        }
    float found[WAVES][LANES];
    for (int parity = 0; parity < 2; parity++) {
        for (int i = 0; i < WAVES; i += LANES)
            product(folded_across[parity][i], HALF, by_sample[parity][0], LANES, found[i], LANES);
        for (int i = 0; i < WAVES; i++)
            for (int j = 0; j < LANES; j++) out[i][2 * j + parity] = found[i][j];
    }
}

/* The 128th smallest. A limit is built from its highest bit on, as great as not more than 127 numbers are below it; or
   128, for then their greatest is the one. */
INLINE float median_of(const Coefficients found)
{
    int32_t keys[BITS], median = INT32_MIN;
    uint32_t built = 0;
    memcpy(keys, found, sizeof(keys));
    for (int i = 0; i < BITS; i++) keys[i] ^= (int32_t)((uint32_t)(keys[i] >> 31) >> 1); /* in the order of floats */
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        const int32_t limit = (int32_t)((built | bit) ^ 1u << 31);
        int below = 0;
        for (int i = 0; i < BITS; i++) below += keys[i] < limit;
        if (below < BITS / 2) built |= bit;
        if (below != BITS / 2) continue;
        for (int i = 0; i < BITS; i++) median = keys[i] < limit && keys[i] > median ? keys[i] : median;
        break;
    }
    if (median == INT32_MIN) median = (int32_t)(built ^ 1u << 31);
    median ^= (int32_t)((uint32_t)(median >> 31) >> 1);
    float value;
    memcpy(&value, &median, sizeof(value));
    return value;
}

/* A view's coefficients, and which are greater than the median, which is returned: 16 bits for each wave down, those of
   the first wave across lowest. */
typedef float Transform(const View view, const float *waves, int upside_down, int mirrored, Coefficients coefficients,
                        uint16_t signs[WAVES]);

INLINE float signs_of(const Coefficients coefficients, uint16_t signs[WAVES])
{
    const float median = median_of(coefficients);
    for (int i = 0; i < WAVES; i++) {
        int32_t row = 0;
        for (int j = 0; j < WAVES; j++) row |= (int32_t)(coefficients[i][j] > median) << j;
        signs[i] = (uint16_t)row;
    }
    return median;
}

INLINE float transform_by(const View view, const float *waves, int upside_down, int mirrored, Product *product,
                          Coefficients coefficients, uint16_t signs[WAVES])
{
    coefficients_of(view, waves, upside_down, mirrored, product, coefficients);
    return signs_of(coefficients, signs);
}

/* Rows become columns: blocks of 8 x 8 bits change places, in each of them those of 4 x 4, and so on. */
static void transpose(uint16_t signs[WAVES])
{
    for (int size = WAVES / 2, mask = 0xff; size; size /= 2, mask ^= mask << size)
        for (int i = 0; i < WAVES; i++) {
            if (i & size) continue;
            int other = (signs[i] >> size ^ signs[i + size]) & mask;
            signs[i + size] ^= (uint16_t)other, signs[i] ^= (uint16_t)(other << size);
        }
}

/* Most significant bit first, which is that of the last coefficient. */
static void spell(const uint16_t signs[WAVES], uint8_t *value)
{
    for (int i = 0; i < WAVES; i++)
        value[VALUE - 1 - 2 * i] = (uint8_t)signs[i], value[VALUE - 2 - 2 * i] = (uint8_t)(signs[i] >> 8);
}

/* Steps of brightness in whole per cent of the range, if all were `tie` smaller or larger. Absurd ones are many. */
INLINE void add_steps(const float *one, const float *other, int n, float tie, int32_t *least, int32_t *most)
{
    int32_t low = 0, high = 0;
    for (int i = 0; i < n; i++) {
        float step = fabsf(one[i] - other[i]) * (float)(100.0 / 255);
        step = step < 1e5f ? step : 1e5f; /* not-a-number, too */
        low += (int32_t)(step - tie), high += (int32_t)(step + tie);
    }
    *least += low, *most += high;
}

/* The gap of the 128th, which is the median, and the 129th; and how many lie near the former. */
INLINE void look_beside(const Coefficients coefficients, float median, float near, float *gap, int *close)
{
    const float *all = coefficients[0];
    float above = INFINITY;
    int greater = 0, count = 0;
    for (int i = 0; i < BITS; i++) {
        count += fabsf(all[i] - median) < near;
        greater += all[i] > median;
        float one = all[i] > median ? all[i] : INFINITY;
        above = one < above ? one : above;
    }
    *gap = greater < BITS / 2 ? 0 : above - median; /* fewer: the 129th is the same as the 128th */
    *close = count;
}

INLINE void read_by(const View view, const float *waves, float tie, float near, Transform *transform, Found *found)
{
    uint16_t signs[WAVES];
    const float median = transform(view, waves, 0, 0, found->coefficients, signs);
    look_beside(found->coefficients, median, near, &found->gap, &found->close);
    spell(signs, found->value);
    found->least = found->most = 0;
    for (int k = 0; k < SIDE; k++) {
        add_steps(view[k], view[k] + 1, SIDE - 1, tie, &found->least, &found->most);
        if (k + 1 < SIDE) add_steps(view[k], view[k + 1], SIDE, tie, &found->least, &found->most);
    }
    found->least = found->least / 90 < 100 ? found->least / 90 : 100;
    found->most = found->most / 90 < 100 ? found->most / 90 : 100;
}

/* Of the picture as it is, the value is known: only the other three views are transformed. */
static void turn(const View views[4], const float *waves, const uint8_t *value, Transform *transform, Turned out)
{
    for (int view = 0; view < 4; view++) {
        Coefficients coefficients;
        uint16_t signs[WAVES];
        if (view == 0)
            for (int i = 0; i < WAVES; i++)
                signs[i] = (uint16_t)(value[VALUE - 2 - 2 * i] << 8 | value[VALUE - 1 - 2 * i]);
        else transform(views[view], waves, view / 2, view % 2, coefficients, signs);
        spell(signs, out[view / 2][view % 2][0]);
        transpose(signs);
        spell(signs, out[view / 2][view % 2][1]);
    }
}

/* Waves of odd number, of which the first is one, change signs in a picture that is turned over. */
static void change_signs(const Coefficients given, float near, Turned out, float *gap, int *close)
{
    *gap = INFINITY, *close = 0;
    for (int view = 0; view < 4; view++) {
        Coefficients turned;
        uint16_t signs[WAVES];
        float beside;
        int count;
        for (int i = 0; i < WAVES; i++)
            for (int j = 0; j < WAVES; j++)
                turned[i][j] = (view / 2 & ~i) ^ (view % 2 & ~j) ? -given[i][j] : given[i][j];
        look_beside(turned, signs_of(turned, signs), near, &beside, &count);
        *gap = beside < *gap ? beside : *gap, *close = count > *close ? count : *close;
        spell(signs, out[view / 2][view % 2][0]);
        transpose(signs);
        spell(signs, out[view / 2][view % 2][1]);
    }
}

static float transform_portable(const View view, const float *waves, int upside_down, int mirrored,
                                Coefficients coefficients, uint16_t signs[WAVES])
{
    return transform_by(view, waves, upside_down, mirrored, product_portable, coefficients, signs);
}

static void read_portable(const View view, const float *waves, float tie, float near, Found *found)
{
    read_by(view, waves, tie, near, transform_portable, found);
}

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2 __attribute__((target("avx2,fma")))
#define QUICK() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))

AVX2 static void product_avx2(const float *weights, int weights_stride, const float *in, int in_stride, float *out,
                              int stride)
{
    __m256 sums[LANES];
#pragma GCC unroll 8
    for (int r = 0; r < LANES; r++) sums[r] = _mm256_setzero_ps();
    for (int k = 0; k < HALF; k++) {
        const __m256 row = _mm256_loadu_ps(in + k * in_stride);
#pragma GCC unroll 8
        for (int r = 0; r < LANES; r++)
            sums[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + r * weights_stride + k), row, sums[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < LANES; r++) _mm256_storeu_ps(out + r * stride, sums[r]);
}

/* Not inlined, so that what `read_view` brought into the cache serves `turned` too. */
AVX2 __attribute__((noinline)) static float transform_avx2(const View view, const float *waves, int upside_down,
                                                           int mirrored, Coefficients coefficients,
                                                           uint16_t signs[WAVES])
{
    return transform_by(view, waves, upside_down, mirrored, product_avx2, coefficients, signs);
}

AVX2 static void read_avx2(const View view, const float *waves, float tie, float near, Found *found)
{
    read_by(view, waves, tie, near, transform_avx2, found);
}
#else
#define QUICK() 0
#define transform_avx2 transform_portable
#define read_avx2 read_portable
#endif

/* Whether these are so many views, at least, and the waves. */
static int fit(const Py_buffer *views, const Py_buffer *waves, int least)
{
    return views->len % (Py_ssize_t)sizeof(View) == 0 && views->len / (Py_ssize_t)sizeof(View) >= least &&
           waves->len == WAVES * SIDE * (Py_ssize_t)sizeof(float);
}

static PyObject *read_view(PyObject *module, PyObject *args)
{
    Py_buffer views, waves;
    Found found;
    float tie, near;
    int plain = 0;
    if (!PyArg_ParseTuple(args, "y*y*ff|p:read", &views, &waves, &tie, &near, &plain)) return NULL;
    const int fits = fit(&views, &waves, 1);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        if (QUICK() && !plain) read_avx2(views.buf, waves.buf, tie, near, &found);
        else read_portable(views.buf, waves.buf, tie, near, &found);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&views);
    PyBuffer_Release(&waves);
    if (!fits) return PyErr_Format(PyExc_ValueError, "the sizes of samples and waves do not fit");
    return Py_BuildValue("(y#fiiiy#)", (const char *)found.value, (Py_ssize_t)VALUE, found.gap, found.close, found.least,
                         found.most, (const char *)found.coefficients, (Py_ssize_t)sizeof(found.coefficients));
}

static PyObject *turned(PyObject *module, PyObject *args)
{
    Py_buffer views, waves, value;
    Turned out;
    int plain = 0;
    if (!PyArg_ParseTuple(args, "y*y*y*|p:turned", &views, &waves, &value, &plain)) return NULL;
    const int fits = fit(&views, &waves, 4) && value.len == VALUE;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        turn(views.buf, waves.buf, value.buf, QUICK() && !plain ? transform_avx2 : transform_portable, out);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&views);
    PyBuffer_Release(&waves);
    PyBuffer_Release(&value);
    if (!fits) return PyErr_Format(PyExc_ValueError, "the sizes of samples, waves and value do not fit");
    return PyBytes_FromStringAndSize((const char *)out, sizeof(out));
}

static PyObject *dihedral(PyObject *module, PyObject *args)
{
    Py_buffer given;
    Turned out;
    float near, gap;
    int close;
    if (!PyArg_ParseTuple(args, "y*f:dihedral", &given, &near)) return NULL;
    const int fits = given.len == (Py_ssize_t)sizeof(Coefficients);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        change_signs(given.buf, near, out, &gap, &close);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&given);
    if (!fits) return PyErr_Format(PyExc_ValueError, "the size of coefficients does not fit");
    return Py_BuildValue("(y#fi)", (const char *)out, (Py_ssize_t)sizeof(out), gap, close);
}

static PyMethodDef methods[] = {{"read", read_view, METH_VARARGS, NULL},
                                {"turned", turned, METH_VARARGS, NULL},
                                {"dihedral", dihedral, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_waves", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__waves(void) { return PyModuleDef_Init(&module); }
