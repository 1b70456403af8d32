/*
 * PDQ's coefficients and quality, rounded as the reference rounds them: bit for bit those of `pdqhash`.
 *
 * The reference slides windows over single-precision luma, and keeps each sum with all the rounding errors of the
 * pixels before. So every sum here adds and subtracts the same numbers in the same order; `out[i]` of a pass over n
 * numbers with a window of w, of which h = (w + 2) / 2 begin at i itself, is
 *
 *     sum += in[i + h - 1];  sum -= in[i + h - 1 - w];  out[i] = sum / (how many of the window are inside)
 *
 * Beside the edges there are zeros, which change no sum. The passes are: rows, columns, rows, columns; then 64 x 64
 * samples are taken. What makes it quick: a sum waits for the one before it, so eight rows, or all columns, are summed
 * side by side; rows go through all passes while they are in the cache; the last two passes only divide, or only sum,
 * where a sample is taken.
 *
 * No instruction here may fuse or reorder (setup.py forbids it to the compiler), or a bit of 2^23 would differ.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 64, WAVES = 16, ROWS = 8, LEAST_SIDE = 5, MOST_SIDE = 1 << 20 };

static float waves[WAVES][SAMPLES];

typedef struct {
    Py_ssize_t side, window, ahead; /* ahead: how far the window reaches beyond its place */
    float *inside;                  /* how many of each window are inside */
    Py_ssize_t at[SAMPLES];
} Axis;

typedef struct {
    const uint8_t *rgb;
    Axis across, down;
    Py_ssize_t stride;  /* of a row of luma with zeros around */
    Py_ssize_t held;    /* rows in `once` */
    float *luma;        /* ROWS rows with zeros around */
    float *once;        /* rows after the first pass, held in turn */
    float *nothing;     /* a row of zeros */
    float *sums;        /* of every column */
    float *twice;       /* ROWS rows after the second pass, with zeros around */
    float *sampled;     /* rows + zeros around, x 64, after the third */
    float samples[SAMPLES][SAMPLES];
} Work;

static inline Py_ssize_t zeros(const Axis *axis) { return axis->window + 1; }

static inline int axis_of(Axis *axis, Py_ssize_t side)
{
    axis->side = side;
    axis->window = (side + 127) / 128;
    axis->ahead = (axis->window + 2) / 2 - 1;
    axis->inside = malloc(sizeof(float) * side);
    if (!axis->inside) return 0;
    for (Py_ssize_t i = 0; i < side; i++) {
        Py_ssize_t last = i + axis->ahead, first = last - axis->window + 1;
        axis->inside[i] = (float)((last < side ? last + 1 : side) - (first > 0 ? first : 0));
    }
    for (Py_ssize_t k = 0; k < SAMPLES; k++) axis->at[k] = (2 * k + 1) * side / 128;
    return 1;
}

/*
 * Luma in single precision. The reference sums 0.299 R + 0.587 G + 0.114 B in double precision and rounds; the whole
 * number 299 R + 587 G + 114 B, divided by 1000 with one rounding, is the same for all 2^24 colours.
 */
static inline void luma_row(const uint8_t *restrict rgb, float *restrict out, Py_ssize_t width)
{
    for (Py_ssize_t x = 0; x < width; x++) {
        int32_t sum = 299 * rgb[3 * x] + 587 * rgb[3 * x + 1] + 114 * rgb[3 * x + 2];
        out[x] = (float)sum / 1000.0f;
    }
}

/* First pass: ROWS rows of `in`, side by side; sums go to rows of `out`, which are then divided. */
static inline void blur_rows(const Axis *axis, const float *restrict in, Py_ssize_t stride, float *const out[ROWS])
{
    float sums[ROWS] = {0};
    for (Py_ssize_t i = 0; i < axis->ahead; i++)
        for (int r = 0; r < ROWS; r++) sums[r] += in[r * stride + i];
    const float *added = in + axis->ahead, *dropped = added - axis->window;
    float *o0 = out[0], *o1 = out[1], *o2 = out[2], *o3 = out[3], *o4 = out[4], *o5 = out[5], *o6 = out[6], *o7 = out[7];
    for (Py_ssize_t i = 0; i < axis->side; i++) {
        for (int r = 0; r < ROWS; r++) {
            sums[r] += added[r * stride + i];
            sums[r] -= dropped[r * stride + i];
        }
        o0[i] = sums[0], o1[i] = sums[1], o2[i] = sums[2], o3[i] = sums[3];
        o4[i] = sums[4], o5[i] = sums[5], o6[i] = sums[6], o7[i] = sums[7];
    }
    for (int r = 0; r < ROWS; r++) {
        float *restrict row = out[r];
        const float *restrict inside = axis->inside;
        for (Py_ssize_t i = 0; i < axis->side; i++) row[i] /= inside[i];
    }
}

/* Third pass: the same, but only the samples are divided and kept: ROWS x 64. */
static inline void sample_rows(const Axis *axis, const float *restrict in, Py_ssize_t stride, float *restrict out)
{
    float sums[ROWS] = {0};
    for (Py_ssize_t i = 0; i < axis->ahead; i++)
        for (int r = 0; r < ROWS; r++) sums[r] += in[r * stride + i];
    const float *added = in + axis->ahead, *dropped = added - axis->window;
    Py_ssize_t i = 0;
    for (int k = 0; k < SAMPLES; k++) {
        for (; i <= axis->at[k]; i++)
            for (int r = 0; r < ROWS; r++) {
                sums[r] += added[r * stride + i];
                sums[r] -= dropped[r * stride + i];
            }
        for (int r = 0; r < ROWS; r++) out[r * SAMPLES + k] = sums[r] / axis->inside[axis->at[k]];
    }
}

/* Second and fourth pass, one row: what comes into the windows of all columns and what goes out. */
static inline void slide(float *restrict sums, const float *restrict added, const float *restrict dropped, Py_ssize_t n)
{
    for (Py_ssize_t x = 0; x < n; x++) sums[x] = (sums[x] + added[x]) - dropped[x];
}

static inline void blur(Work *work)
{
    const Axis *across = &work->across, *down = &work->down;
    Py_ssize_t width = across->side, height = down->side, ready = 0, around = zeros(across);
    float *luma = work->luma + around, *twice = work->twice + around;
    for (Py_ssize_t y = -down->ahead; y < height; y++) {
        Py_ssize_t last = y + down->ahead, gone = last - down->window;
        if (last < height && last % ROWS == 0) {
            float *rows[ROWS];
            for (Py_ssize_t r = 0; r < ROWS; r++) {
                if (last + r < height) luma_row(work->rgb + (last + r) * width * 3, luma + r * work->stride, width);
                rows[r] = work->once + (last + r) % work->held * width; /* beyond the picture: never read */
            }
            blur_rows(across, luma, work->stride, rows);
        }
        const float *added = last < height ? work->once + last % work->held * width : work->nothing;
        const float *dropped = gone >= 0 ? work->once + gone % work->held * width : work->nothing;
        slide(work->sums, added, dropped, width);
        if (y < 0) continue;
        float *restrict row = twice + ready * work->stride;
        const float *restrict sums = work->sums;
        float inside = down->inside[y];
        for (Py_ssize_t x = 0; x < width; x++) row[x] = sums[x] / inside;
        if (++ready < ROWS && y + 1 < height) continue;
        sample_rows(across, twice, work->stride, work->sampled + (zeros(down) + y + 1 - ready) * SAMPLES);
        ready = 0;
    }
    float sums[SAMPLES] = {0};
    const float *sampled = work->sampled + zeros(down) * SAMPLES;
    Py_ssize_t y = -down->ahead;
    for (int k = 0; k < SAMPLES; k++) {
        for (; y <= down->at[k]; y++) {
            const float *added = sampled + (y + down->ahead) * SAMPLES;
            slide(sums, added, added - down->window * SAMPLES, SAMPLES);
        }
        for (int x = 0; x < SAMPLES; x++) work->samples[k][x] = sums[x] / down->inside[down->at[k]];
    }
}

static inline void luma_only(Work *work)
{
    for (Py_ssize_t y = 0; y < SAMPLES; y++) luma_row(work->rgb + y * SAMPLES * 3, work->samples[y], SAMPLES);
}

/* Steps of brightness in whole per cent of the range, rounded towards zero. */
static int quality_of(float samples[SAMPLES][SAMPLES])
{
    int sum = 0;
    for (int y = 0; y < SAMPLES; y++)
        for (int x = 0; x < SAMPLES; x++) {
            if (y + 1 < SAMPLES) sum += abs((int)((samples[y][x] - samples[y + 1][x]) * 100.0f / 255.0f));
            if (x + 1 < SAMPLES) sum += abs((int)((samples[y][x] - samples[y][x + 1]) * 100.0f / 255.0f));
        }
    return sum / 90 < 100 ? sum / 90 : 100;
}

static void transform(float samples[SAMPLES][SAMPLES], float out[WAVES][WAVES])
{
    float half[WAVES][SAMPLES] = {{0}};
    for (int i = 0; i < WAVES; i++)
        for (int k = 0; k < SAMPLES; k++)
            for (int j = 0; j < SAMPLES; j++) half[i][j] += waves[i][k] * samples[k][j];
    for (int i = 0; i < WAVES; i++)
        for (int j = 0; j < WAVES; j++) {
            float sum = 0;
            for (int k = 0; k < SAMPLES; k++) sum += half[i][k] * waves[j][k];
            out[i][j] = sum;
        }
}

static void portable(Work *work) { blur(work); }

#if defined(__x86_64__) && defined(__GNUC__)
/* Without fused multiply-add, which would round once where the reference rounds twice. */
__attribute__((target("avx2"), flatten)) static void avx2(Work *work) { blur(work); }
#define QUICK() __builtin_cpu_supports("avx2")
#else
#define avx2 portable
#define QUICK() 0
#endif

static int make_room(Work *work)
{
    Py_ssize_t width = work->across.side, height = work->down.side;
    work->stride = width + 2 * zeros(&work->across);
    work->held = (work->down.window + 2 * ROWS) / ROWS * ROWS;
    work->luma = calloc(work->stride * ROWS, sizeof(float));
    work->twice = calloc(work->stride * ROWS, sizeof(float));
    work->once = malloc(sizeof(float) * work->held * width);
    work->nothing = calloc(width, sizeof(float));
    work->sums = calloc(width, sizeof(float));
    work->sampled = calloc((height + 2 * zeros(&work->down) + ROWS) * SAMPLES, sizeof(float));
    return work->luma && work->twice && work->once && work->nothing && work->sums && work->sampled;
}

static void give_back(Work *work)
{
    free(work->across.inside);
    free(work->down.inside);
    free(work->luma);
    free(work->twice);
    free(work->once);
    free(work->nothing);
    free(work->sums);
    free(work->sampled);
}

static PyObject *coefficients(PyObject *module, PyObject *args)
{
    Py_buffer rgb;
    PyObject *picture;
    int plain = 0;
    if (!PyArg_ParseTuple(args, "O|p:coefficients", &picture, &plain)) return NULL;
    if (PyObject_GetBuffer(picture, &rgb, PyBUF_ND | PyBUF_FORMAT)) return NULL;
    Py_ssize_t height = rgb.ndim == 3 ? rgb.shape[0] : 0, width = rgb.ndim == 3 ? rgb.shape[1] : 0;
    if (rgb.ndim != 3 || rgb.shape[2] != 3 || strcmp(rgb.format, "B") || height < LEAST_SIDE || width < LEAST_SIDE ||
        height > MOST_SIDE || width > MOST_SIDE) {
        PyBuffer_Release(&rgb);
        PyErr_SetString(PyExc_ValueError, "a picture is H x W x 3 bytes, with sides of 5 to 2^20");
        return NULL;
    }
    PyObject *result = NULL, *bytes = PyBytes_FromStringAndSize(NULL, sizeof(float) * WAVES * WAVES);
    Work *work = calloc(1, sizeof(Work));
    int quality = 0, ready = bytes && work;
    if (ready) {
        float found[WAVES][WAVES];
        Py_BEGIN_ALLOW_THREADS
        work->rgb = rgb.buf;
        ready = axis_of(&work->across, width) && axis_of(&work->down, height) && make_room(work);
        if (ready) {
            if (height == SAMPLES && width == SAMPLES) luma_only(work); /* the reference doesn't blur these */
            else if (QUICK() && !plain) avx2(work);
            else portable(work);
            quality = quality_of(work->samples);
            transform(work->samples, found);
            memcpy(PyBytes_AS_STRING(bytes), found, sizeof(found));
        }
        Py_END_ALLOW_THREADS
    }
    if (work) give_back(work);
    free(work);
    PyBuffer_Release(&rgb);
    if (ready) result = Py_BuildValue("(Oi)", bytes, quality);
    else PyErr_NoMemory();
    Py_XDECREF(bytes);
    return result;
}

static PyMethodDef methods[] = {{"coefficients", coefficients, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

static int start(PyObject *module)
{
    const double pi = 3.14159265358979323846;
    const float scale = (float)sqrt(2.0 / SAMPLES);
    for (int i = 0; i < WAVES; i++)
        for (int j = 0; j < SAMPLES; j++) waves[i][j] = (float)(scale * cos(pi / 2.0 / SAMPLES * (i + 1) * (2 * j + 1)));
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, start}, {0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_reference", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__reference(void) { return PyModuleDef_Init(&module); }
