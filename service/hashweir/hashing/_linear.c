/*
 * PDQ's linear map: the luma of a picture, weighed by a banded matrix along its columns and another one along its rows.
 *
 * For each of 64 strips of rows, its luma is summed up with a row of weights (`weigh`). What comes out, a row as wide
 * as the picture, is at once summed up 64 times more, each time over a few neighbours (`sample`): so only the picture
 * itself is ever outside the nearest cache. A second row of weights for either sum gives the samples of the picture
 * turned. Sums are of single precision, in any order: what hangs on the last digits is decided elsewhere
 * (_reference.c).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

enum {
    BANDS = 64,
    LANES = 8,   /* numbers side by side */
    TILE = 1024, /* columns at a time, where there are no faster instructions */
    ROWS = 8,    /* rows of pixels read side by side: more would be too many for the processor to read ahead */
    RED = 299, GREEN = 587, BLUE = 114, /* ITU-R BT.601, times 1000 */
};

typedef struct {
    const int64_t *edges; /* 64 x (first, the one after the last) */
    const float *weights; /* for each band 2 x its length */
} Bands;

typedef struct {
    Py_ssize_t first, length; /* of a row; a multiple of LANES, so there may be some to spare */
} Part;

typedef struct {
    const uint8_t *levels; /* rows x columns x channels */
    Py_ssize_t rows, columns;
    int channels; /* 3: R, G, B in turn; 1: luma */
    Bands down, across;
    float *sums; /* 2 x `around`: a strip's rows summed up, as it is and for the picture upside down */
    Part parts[2][BANDS];
    float *weights[2]; /* of each part: `across` as it is and mirrored, for luma of 0 to 255 */
    float *out;        /* upside down x mirrored x 64 (down) x 64 (across). Turned samples come last first */
} Map;

static inline Py_ssize_t around(const Map *map) { return map->columns + LANES; } /* with zeros behind */

static inline Py_ssize_t length(const Bands *bands, int k)
{
    return (Py_ssize_t)(bands->edges[2 * k + 1] - bands->edges[2 * k]);
}

/* Adds `rows` rows of luma (of colours a thousand times as much, so never rounded), each weighed, to a strip's sums. */
typedef void Weigh(const Map *map, const uint8_t *row, int rows, const float *one, const float *other);
/* 64 sums over parts of a row. */
typedef void Sample(const float *row, const Part *part, const float *weights, float *out);

/* The columns from `left` on. */
static void weigh_rest(const Map *map, const uint8_t *row, int rows, const float *one, const float *other,
                       Py_ssize_t left)
{
    float luma[TILE];
    for (; left < map->columns; left += TILE) {
        Py_ssize_t n = map->columns - left < TILE ? map->columns - left : TILE;
        float *restrict first = map->sums + left, *restrict second = first + around(map);
        for (int r = 0; r < rows; r++) {
            const uint8_t *restrict at = row + (r * map->columns + left) * map->channels;
            if (map->channels == 1)
                for (Py_ssize_t x = 0; x < n; x++) luma[x] = at[x];
            else
                for (Py_ssize_t x = 0; x < n; x++)
                    luma[x] = (float)(RED * at[3 * x] + GREEN * at[3 * x + 1] + BLUE * at[3 * x + 2]);
            const float a = one[r], b = other[r];
            for (Py_ssize_t x = 0; x < n; x++) first[x] += a * luma[x];
            for (Py_ssize_t x = 0; x < n; x++) second[x] += b * luma[x];
        }
    }
}

static void weigh_portable(const Map *map, const uint8_t *row, int rows, const float *one, const float *other)
{
    weigh_rest(map, row, rows, one, other, 0);
}

static void sample_portable(const float *row, const Part *part, const float *weights, float *out)
{
    for (int j = 0; j < BANDS; j++, weights += part++->length) {
        const float *at = row + part->first;
        float sums[LANES] = {0};
        for (Py_ssize_t x = 0; x < part->length; x += LANES)
            for (int i = 0; i < LANES; i++) sums[i] += weights[x + i] * at[x + i];
        out[j] = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE AVX2 static inline __attribute__((always_inline))
#define QUICK() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))

/* Eight pixels: red and green side by side, and blue, as numbers of 16 bits; then their weighted sums. */
INLINE __m256 luma_of(const uint8_t *at, const int channels)
{
    if (channels == 1) return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at)));
    /* The last four pixels are the last twelve of the sixteen bytes from the ninth on: nothing beyond them is read. */
    const __m256i pairs = _mm256_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1,
                                           4, -1, 5, -1, 7, -1, 8, -1, 10, -1, 11, -1, 13, -1, 14, -1);
    const __m256i rest = _mm256_setr_epi8(2, -1, -1, -1, 5, -1, -1, -1, 8, -1, -1, -1, 11, -1, -1, -1,
                                          6, -1, -1, -1, 9, -1, -1, -1, 12, -1, -1, -1, 15, -1, -1, -1);
    const __m256i of_pairs = _mm256_set1_epi32(GREEN << 16 | RED), of_rest = _mm256_set1_epi32(BLUE);
    __m128i low = _mm_loadu_si128((const __m128i *)at), high = _mm_loadu_si128((const __m128i *)(at + 8));
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    return _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(_mm256_shuffle_epi8(both, pairs), of_pairs),
                                               _mm256_madd_epi16(_mm256_shuffle_epi8(both, rest), of_rest)));
}

INLINE void weigh_by(const Map *map, const uint8_t *row, int rows, const float *one, const float *other,
                     const int channels)
{
    Py_ssize_t x = 0;
    for (; x + 2 * LANES <= map->columns; x += 2 * LANES) {
        float *first = map->sums + x, *second = first + around(map);
        __m256 first0 = _mm256_loadu_ps(first), first1 = _mm256_loadu_ps(first + LANES);
        __m256 second0 = _mm256_loadu_ps(second), second1 = _mm256_loadu_ps(second + LANES);
        const uint8_t *at = row + x * channels;
        for (int r = 0; r < rows; r++, at += map->columns * channels) {
            const __m256 luma0 = luma_of(at, channels), luma1 = luma_of(at + LANES * channels, channels);
            const __m256 a = _mm256_broadcast_ss(one + r), b = _mm256_broadcast_ss(other + r);
            first0 = _mm256_fmadd_ps(a, luma0, first0), first1 = _mm256_fmadd_ps(a, luma1, first1);
            second0 = _mm256_fmadd_ps(b, luma0, second0), second1 = _mm256_fmadd_ps(b, luma1, second1);
        }
        _mm256_storeu_ps(first, first0), _mm256_storeu_ps(first + LANES, first1);
        _mm256_storeu_ps(second, second0), _mm256_storeu_ps(second + LANES, second1);
    }
    weigh_rest(map, row, rows, one, other, x);
}

AVX2 static void weigh_avx2(const Map *map, const uint8_t *row, int rows, const float *one, const float *other)
{
    if (map->channels == 1) weigh_by(map, row, rows, one, other, 1);
    else weigh_by(map, row, rows, one, other, 3);
}

AVX2 static void sample_avx2(const float *row, const Part *part, const float *weights, float *out)
{
    for (int j = 0; j < BANDS; j += LANES) {
        __m256 sums[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES; i++, weights += part++->length) {
            const float *at = row + part->first;
            sums[i] = _mm256_setzero_ps();
            for (Py_ssize_t x = 0; x < part->length; x += LANES)
                sums[i] = _mm256_fmadd_ps(_mm256_loadu_ps(weights + x), _mm256_loadu_ps(at + x), sums[i]);
        }
        /* Eight sums of eight numbers: neighbours are added up, three times. */
        const __m256 fours0 = _mm256_hadd_ps(_mm256_hadd_ps(sums[0], sums[1]), _mm256_hadd_ps(sums[2], sums[3]));
        const __m256 fours1 = _mm256_hadd_ps(_mm256_hadd_ps(sums[4], sums[5]), _mm256_hadd_ps(sums[6], sums[7]));
        _mm256_storeu_ps(out + j, _mm256_add_ps(_mm256_permute2f128_ps(fours0, fours1, 0x20),
                                                _mm256_permute2f128_ps(fours0, fours1, 0x31)));
    }
}
#else
#define QUICK() 0
#define weigh_avx2 weigh_portable
#define sample_avx2 sample_portable
#endif

static void apply(const Map *map, Weigh *weigh, Sample *sample)
{
    const float *weights = map->down.weights;
    for (int k = 0; k < BANDS; k++) {
        const Py_ssize_t row = map->down.edges[2 * k], rows = length(&map->down, k);
        memset(map->sums, 0, sizeof(float) * 2 * around(map));
        for (Py_ssize_t r = 0; r < rows; r += ROWS)
            weigh(map, map->levels + (row + r) * map->columns * map->channels, rows - r < ROWS ? (int)(rows - r) : ROWS,
                  weights + r, weights + rows + r);
        weights += 2 * rows;
        for (int view = 0; view < 4; view++)
            sample(map->sums + view / 2 * around(map), map->parts[view % 2], map->weights[view % 2],
                   map->out + (view * BANDS + k) * BANDS);
    }
}

/* Weights of a band without those that are zero at either end. */
static Part part_of(const float *weights, Py_ssize_t first, Py_ssize_t n)
{
    while (n > 0 && weights[n - 1] == 0) n--;
    while (n > 0 && *weights == 0) weights++, first++, n--;
    return (Part){first, (n + LANES - 1) / LANES * LANES};
}

static int make_room(Map *map)
{
    const float scale = map->channels == 3 ? 1.0f / (RED + GREEN + BLUE) : 1.0f;
    Py_ssize_t used[2] = {0};
    const float *weights = map->across.weights;
    for (int k = 0; k < BANDS; k++)
        for (int mirrored = 0; mirrored < 2; mirrored++) {
            const Py_ssize_t n = length(&map->across, k);
            map->parts[mirrored][k] = part_of(weights, map->across.edges[2 * k], n);
            used[mirrored] += map->parts[mirrored][k].length;
            weights += n;
        }
    map->sums = malloc(sizeof(float) * 2 * around(map));
    map->weights[0] = calloc(used[0] + used[1] + 1, sizeof(float));
    if (!map->sums || !map->weights[0]) return 0;
    map->weights[1] = map->weights[0] + used[0];
    float *out[2] = {map->weights[0], map->weights[1]};
    weights = map->across.weights;
    for (int k = 0; k < BANDS; k++)
        for (int mirrored = 0; mirrored < 2; mirrored++) {
            const Part part = map->parts[mirrored][k];
            const Py_ssize_t n = length(&map->across, k), skipped = part.first - map->across.edges[2 * k];
            for (Py_ssize_t x = 0; x < part.length && skipped + x < n; x++)
                out[mirrored][x] = weights[skipped + x] * scale;
            out[mirrored] += part.length, weights += n;
        }
    return 1;
}

/* Whether the bands lie within so many rows or columns, and have all of the weights. */
static int bands_of(Bands *bands, const Py_buffer *edges, const Py_buffer *weights, Py_ssize_t side)
{
    if (edges->len != 2 * BANDS * sizeof(int64_t)) return 0;
    bands->edges = edges->buf;
    bands->weights = weights->buf;
    Py_ssize_t used = 0;
    for (int k = 0; k < BANDS; k++) {
        int64_t first = bands->edges[2 * k], end = bands->edges[2 * k + 1];
        if (first < 0 || first > end || end > side) return 0;
        used += 2 * (Py_ssize_t)(end - first);
    }
    return weights->len == used * (Py_ssize_t)sizeof(float);
}

static int map_of(Map *map, Py_buffer buffers[6])
{
    if (map->rows <= 0 || map->rows > buffers[0].len || (map->channels != 1 && map->channels != 3)) return 0;
    const Py_ssize_t row = map->rows * map->channels;
    if (buffers[0].len % row) return 0;
    map->levels = buffers[0].buf, map->out = buffers[5].buf;
    map->columns = buffers[0].len / row;
    return buffers[5].len == 4 * BANDS * BANDS * (Py_ssize_t)sizeof(float) &&
           bands_of(&map->down, &buffers[1], &buffers[2], map->rows) &&
           bands_of(&map->across, &buffers[3], &buffers[4], map->columns);
}

static PyObject *samples(PyObject *module, PyObject *args)
{
    Py_buffer of[6];
    Map map = {0};
    int plain = 0, ready = 0;
    if (!PyArg_ParseTuple(args, "y*niy*y*y*y*w*|p:samples", &of[0], &map.rows, &map.channels, &of[1], &of[2], &of[3],
                          &of[4], &of[5], &plain))
        return NULL;
    int fits = map_of(&map, of);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        ready = make_room(&map);
        if (ready && QUICK() && !plain) apply(&map, weigh_avx2, sample_avx2);
        else if (ready) apply(&map, weigh_portable, sample_portable);
        free(map.sums);
        free(map.weights[0]);
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < 6; i++) PyBuffer_Release(&of[i]);
    if (ready) Py_RETURN_NONE;
    if (fits) return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, "the sizes of a picture, its bands and its samples do not fit");
    return NULL;
}

static PyMethodDef methods[] = {{"samples", samples, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_linear", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__linear(void) { return PyModuleDef_Init(&module); }
