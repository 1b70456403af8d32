/*
 * PDQ's linear map: a banded matrix times a picture, another one times the result transposed, the cosine transform of
 * that, and what is read off its 16 x 16 coefficients.
 *
 * `down` turns pixels into luma and weighs each strip of rows with two rows of weights, in tiles of columns. It writes
 * its result transposed, so that the second product again finds whole rows to weigh. Sums are of single precision, in any order: what hangs on the last
 * digits is decided elsewhere (_reference.c).
 *
 * Long because the second product, the transform and what is read off them are one job on the same small arrays.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

enum {
    BANDS = 64,
    WIDE = 2 * BANDS,
    WAVES = 16,
    BITS = WAVES * WAVES,
    TILE = 1024,     /* columns at a time */
    ROW = TILE + 16, /* no power of two: else all rows of a column would compete for the same lines of cache */
    BLOCK = 8,
    RED = 299, GREEN = 587, BLUE = 114, /* ITU-R BT.601, times 1000 */
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
    float (*mixed)[ROW]; /* room for a tile's result before it is transposed: 2 x 64 rows */
    float *out;          /* columns / channels x 2 x 64 */
} Down;

typedef struct {
    const float *strips; /* rows x 2 x 64 */
    Py_ssize_t rows;
    Bands bands;
    const float *waves; /* 16 x 64 */
    float *samples;     /* 64 (across) x 64 (down); NULL: all views are wanted */
    float views[BANDS][2][2][BANDS]; /* across, mirrored, upside down, down. Mirrored samples come last first */
    float found[2][2][BITS];         /* coefficients of the views: waves across x waves down */
} Across;

#define INLINE static inline __attribute__((always_inline))
#define MUL_ADD(a, b, c) (fused ? __builtin_fmaf(a, b, c) : (a) * (b) + (c))

typedef void LumaRow(const uint8_t *row, int channels, Py_ssize_t n, float *out);

/* A thousand times the luma of n pixels; of bytes that are luma already, the bytes. Exact: whole numbers below 2^24. */
static void luma_plain(const uint8_t *restrict row, int channels, Py_ssize_t n, float *restrict out)
{
    if (channels == 1)
        for (Py_ssize_t x = 0; x < n; x++) out[x] = row[x];
    else
        for (Py_ssize_t x = 0; x < n; x++)
            out[x] = (float)(RED * row[3 * x] + GREEN * row[3 * x + 1] + BLUE * row[3 * x + 2]);
}

INLINE void add_rows(float (*luma)[ROW], int rows, const float *one, const float *other, Py_ssize_t n,
                     float *restrict first, float *restrict second, const int fused)
{
    if (rows == 4) {
        const float a0 = one[0], a1 = one[1], a2 = one[2], a3 = one[3];
        const float b0 = other[0], b1 = other[1], b2 = other[2], b3 = other[3];
        for (Py_ssize_t x = 0; x < n; x++) {
            float l0 = luma[0][x], l1 = luma[1][x], l2 = luma[2][x], l3 = luma[3][x];
            first[x] = MUL_ADD(a0, l0, MUL_ADD(a1, l1, MUL_ADD(a2, l2, MUL_ADD(a3, l3, first[x]))));
            second[x] = MUL_ADD(b0, l0, MUL_ADD(b1, l1, MUL_ADD(b2, l2, MUL_ADD(b3, l3, second[x]))));
        }
        return;
    }
    for (int r = 0; r < rows; r++)
        for (Py_ssize_t x = 0; x < n; x++) {
            first[x] = MUL_ADD(one[r], luma[r][x], first[x]);
            second[x] = MUL_ADD(other[r], luma[r][x], second[x]);
        }
}

INLINE void down_by(const Down *of, LumaRow *luma_row, const int fused)
{
    float luma[4][ROW], (*mixed)[ROW] = of->mixed;
    const Py_ssize_t columns = of->columns / of->channels;
    for (Py_ssize_t left = 0; left < columns; left += TILE) {
        Py_ssize_t n = columns - left < TILE ? columns - left : TILE;
        const float *weights = of->bands.weights;
        for (int k = 0; k < BANDS; k++) {
            Py_ssize_t row = of->bands.edges[2 * k], rows = of->bands.edges[2 * k + 1] - row;
            float *first = mixed[k], *second = mixed[BANDS + k];
            memset(first, 0, sizeof(float) * n);
            memset(second, 0, sizeof(float) * n);
            for (Py_ssize_t r = 0; r < rows; r += 4) {
                int some = rows - r < 4 ? (int)(rows - r) : 4;
                for (int i = 0; i < some; i++)
                    luma_row(of->levels + (row + r + i) * of->columns + left * of->channels, of->channels, n, luma[i]);
                add_rows(luma, some, weights + r, weights + rows + r, n, first, second, fused);
            }
            weights += 2 * rows;
        }
        const float scale = of->channels == 3 ? 1.0f / (RED + GREEN + BLUE) : 1.0f;
        /* Transposed block by block: else every number would come from another page. */
        for (Py_ssize_t x = 0; x < n; x += BLOCK)
            for (int k = 0; k < WIDE; k += BLOCK)
                for (Py_ssize_t i = x; i < n && i < x + BLOCK; i++) {
                    float *restrict out = of->out + (left + i) * WIDE;
                    for (int j = k; j < k + BLOCK; j++) out[j] = mixed[j][i] * scale;
                }
    }
}

INLINE void add(float weight, const float *restrict in, float *restrict sums, int n, const int fused)
{
    for (int x = 0; x < n; x++) sums[x] = MUL_ADD(weight, in[x], sums[x]);
}

INLINE void sample_by(Across *of, const int fused)
{
    const float *weights = of->bands.weights;
    const int all = !of->samples;
    for (int k = 0; k < BANDS; k++) {
        Py_ssize_t row = of->bands.edges[2 * k], rows = of->bands.edges[2 * k + 1] - row;
        float first[WIDE] = {0}, second[WIDE] = {0};
        for (Py_ssize_t r = 0; r < rows; r++) {
            const float *restrict strip = of->strips + (row + r) * WIDE;
            const float one = weights[r], other = weights[rows + r];
            add(one, strip, first, all ? WIDE : BANDS, fused);
            if (all) add(other, strip, second, WIDE, fused);
        }
        weights += 2 * rows;
        memcpy(of->views[k][0], first, sizeof(first));
        memcpy(of->views[k][1], second, sizeof(second));
        if (!all) memcpy(of->samples + k * BANDS, first, sizeof(float) * BANDS);
    }
}

/* Waves 1 to 16 of a view, 2 x mirrored + upside down. `turned`: the waves, sample by sample. */
INLINE void transform_by(Across *of, int view, const float *restrict turned, const int fused)
{
    float *restrict out = of->found[view / 2][view % 2];
    const float *samples = &of->views[0][view / 2][view % 2][0];
    float half[WAVES * BANDS] = {0};
    /* Waves of even number are the same from either end, those of odd number upside down: half of the products do. */
    for (int j = 0; j < BANDS / 2; j++) {
        const float *one = samples + j * 4 * BANDS, *other = samples + (BANDS - 1 - j) * 4 * BANDS;
        float folded[2][BANDS];
        for (int k = 0; k < BANDS; k++) folded[0][k] = one[k] - other[k], folded[1][k] = one[k] + other[k];
        for (int i = 0; i < WAVES; i++) add(of->waves[i * BANDS + j], folded[i % 2], half + i * BANDS, BANDS, fused);
    }
    memset(out, 0, sizeof(float) * BITS);
    for (int i = 0; i < WAVES; i++)
        for (int k = 0; k < BANDS; k++) add(half[i * BANDS + k], turned + k * WAVES, out + i * WAVES, WAVES, fused);
    /* Of samples that came last first, waves of odd number are upside down. */
    for (int i = 0; i < BITS; i++)
        if (((i / WAVES % 2 == 0) & (view / 2)) != ((i % 2 == 0) & (view % 2))) out[i] = -out[i];
}

INLINE void across_by(Across *of, const int fused)
{
    sample_by(of, fused);
    float turned[BANDS * WAVES];
    for (int i = 0; i < WAVES; i++)
        for (int k = 0; k < BANDS; k++) turned[k * WAVES + i] = of->waves[i * BANDS + k];
    for (int view = 0; view < (of->samples ? 1 : 4); view++) transform_by(of, view, turned, fused);
}

static void down_portable(const Down *of) { down_by(of, luma_plain, 0); }
static void across_portable(Across *of) { across_by(of, 0); }

#if defined(__x86_64__) && defined(__GNUC__)
/* Eight pixels at a time: red and green side by side, and blue, as numbers of 16 bits; then their weighted sums. */
__attribute__((target("avx2"))) static void luma_avx2(const uint8_t *row, int channels, Py_ssize_t n, float *out)
{
    Py_ssize_t x = 0;
    if (channels == 3) {
        const __m256i pairs = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1));
        const __m256i rest = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(2, -1, -1, -1, 5, -1, -1, -1, 8, -1, -1, -1, 11, -1, -1, -1));
        const __m256i of_pairs = _mm256_set1_epi32(GREEN << 16 | RED), of_rest = _mm256_set1_epi32(BLUE);
        for (; 3 * x + 28 <= 3 * n; x += 8) { /* sixteen bytes are read for four pixels, that is four too many */
            __m128i low = _mm_loadu_si128((const __m128i *)(row + 3 * x));
            __m128i high = _mm_loadu_si128((const __m128i *)(row + 3 * x + 12));
            __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
            __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(_mm256_shuffle_epi8(both, pairs), of_pairs),
                                           _mm256_madd_epi16(_mm256_shuffle_epi8(both, rest), of_rest));
            _mm256_storeu_ps(out + x, _mm256_cvtepi32_ps(sum));
        }
    }
    luma_plain(row + channels * x, channels, n - x, out + x);
}

__attribute__((target("avx2,fma"))) static void down_avx2(const Down *of) { down_by(of, luma_avx2, 1); }
__attribute__((target("avx2,fma"))) static void across_avx2(Across *of) { across_by(of, 1); }
#define QUICK() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#else
#define down_avx2 down_portable
#define across_avx2 across_portable
#define QUICK() 0
#endif

/* The n-th smallest, counted from 0. Brings `numbers` into another order: none after it is smaller. */
static float nth(float *numbers, int n)
{
    int low = 0, high = BITS - 1;
    while (low < high) {
        float pivot = numbers[(low + high) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (numbers[i] < pivot) i++;
            while (numbers[j] > pivot) j--;
            if (i <= j) {
                float other = numbers[i];
                numbers[i++] = numbers[j];
                numbers[j--] = other;
            }
        }
        if (n <= j) high = j;
        else if (n >= i) low = i;
        else break;
    }
    return numbers[n];
}

/* Most significant bit first, which is that of the last coefficient. `along`: steps from one wave down to the next. */
static void bits_of(const float *found, float median, int along, uint8_t *bits)
{
    memset(bits, 0, BITS / 8);
    for (int down = 0; down < WAVES; down++)
        for (int across = 0; across < WAVES; across++) {
            int at = BITS - 1 - (down * WAVES + across);
            float one = found[along == 1 ? across * WAVES + down : down * WAVES + across];
            bits[at / 8] |= (uint8_t)(one > median) << (7 - at % 8);
        }
}

/* A step of brightness in whole per cent of the range, if it were `off` larger. Not-a-number and such are many. */
static inline int32_t step_of(float one, float other, float off)
{
    float step = fabsf(one - other) * (float)(100.0 / 255) + off;
    return (int32_t)(step < 1e5f ? step : 1e5f);
}

/* Quality, if all steps between neighbours were so much larger. */
static int quality_of(const float *samples, float off)
{
    int32_t sum = 0;
    for (int j = 0; j < BANDS; j++) {
        const float *row = samples + j * BANDS;
        for (int k = 0; k + 1 < BANDS; k++) sum += step_of(row[k], row[k + 1], off);
        for (int k = 0; j + 1 < BANDS && k < BANDS; k++) sum += step_of(row[k], row[BANDS + k], off);
    }
    return sum / 90 < 100 ? sum / 90 : 100;
}

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
    Py_buffer levels, edges, weights, out;
    Down of;
    int plain = 0;
    if (!PyArg_ParseTuple(args, "y*niy*y*w*|p:down", &levels, &of.rows, &of.channels, &edges, &weights, &out, &plain))
        return NULL;
    int fits = of.rows > 0 && (of.channels == 1 || of.channels == 3) && levels.len % (of.rows * of.channels) == 0 &&
               bands_of(&of.bands, &edges, &weights, of.rows);
    if (fits) {
        of.columns = levels.len / of.rows;
        fits = out.len % (WIDE * sizeof(float)) == 0 &&
               out.len / (Py_ssize_t)(WIDE * sizeof(float)) == of.columns / of.channels;
    }
    if (fits) of.mixed = malloc(sizeof(float) * WIDE * ROW);
    if (fits && of.mixed) {
        of.levels = levels.buf, of.out = out.buf;
        Py_BEGIN_ALLOW_THREADS
        if (QUICK() && !plain) down_avx2(&of);
        else down_portable(&of);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&levels);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&out);
    if (fits && !of.mixed) return PyErr_NoMemory();
    if (fits) free(of.mixed);
    return answer(fits);
}

static int across_of(Across *of, Py_buffer *strips, Py_buffer *edges, Py_buffer *weights, Py_buffer *waves)
{
    of->rows = strips->len / (Py_ssize_t)(WIDE * sizeof(float));
    of->strips = strips->buf, of->waves = waves->buf;
    return strips->len % (WIDE * sizeof(float)) == 0 && bands_of(&of->bands, edges, weights, of->rows) &&
           waves->len == WAVES * BANDS * sizeof(float);
}

static PyObject *across(PyObject *module, PyObject *args)
{
    Py_buffer strips, edges, weights, waves, samples;
    Across of;
    float tie, near, gap = 0;
    int plain = 0, close = 0, least = 0, most = 0;
    uint8_t bits[BITS / 8];
    if (!PyArg_ParseTuple(args, "y*y*y*y*w*ff|p:across", &strips, &edges, &weights, &waves, &samples, &tie, &near, &plain))
        return NULL;
    int fits = across_of(&of, &strips, &edges, &weights, &waves) && samples.len == BANDS * BANDS * sizeof(float);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        of.samples = samples.buf;
        if (QUICK() && !plain) across_avx2(&of);
        else across_portable(&of);
        const float *found = of.found[0][0];
        float ordered[BITS], above = INFINITY;
        memcpy(ordered, found, sizeof(ordered));
        float median = nth(ordered, BITS / 2 - 1);
        for (int i = BITS / 2; i < BITS; i++) above = ordered[i] < above ? ordered[i] : above;
        for (int i = 0; i < BITS; i++) close += fabsf(found[i] - median) < near;
        gap = above - median;
        bits_of(found, median, 1, bits);
        least = quality_of(of.samples, -tie);
        most = quality_of(of.samples, tie);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&strips);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&waves);
    PyBuffer_Release(&samples);
    if (!fits) return answer(0);
    return Py_BuildValue("(y#fiii)", (const char *)bits, (Py_ssize_t)sizeof(bits), gap, close, least, most);
}

static PyObject *turned(PyObject *module, PyObject *args)
{
    Py_buffer strips, edges, weights, waves;
    Across of;
    int plain = 0;
    uint8_t bits[2][2][2][BITS / 8];
    if (!PyArg_ParseTuple(args, "y*y*y*y*|p:turned", &strips, &edges, &weights, &waves, &plain)) return NULL;
    int fits = across_of(&of, &strips, &edges, &weights, &waves);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        of.samples = NULL;
        if (QUICK() && !plain) across_avx2(&of);
        else across_portable(&of);
        for (int view = 0; view < 4; view++) {
            int mirrored = view / 2, upside_down = view % 2;
            const float *found = of.found[mirrored][upside_down];
            float ordered[BITS];
            memcpy(ordered, found, sizeof(ordered));
            float median = nth(ordered, BITS / 2 - 1);
            for (int transposed = 0; transposed < 2; transposed++)
                bits_of(found, median, transposed ? WAVES : 1, bits[upside_down][mirrored][transposed]);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&strips);
    PyBuffer_Release(&edges);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&waves);
    if (!fits) return answer(0);
    return PyBytes_FromStringAndSize((const char *)bits, sizeof(bits));
}

static PyMethodDef methods[] = {{"down", down, METH_VARARGS, NULL},
                                {"across", across, METH_VARARGS, NULL},
                                {"turned", turned, METH_VARARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_linear", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__linear(void) { return PyModuleDef_Init(&module); }
