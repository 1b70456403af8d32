// Which of many codes are near one: a scan of their first halves, that looks at the whole of what is left.
//
// A scan of more than the caches hold waits for memory, so half of the bytes are half of the time. Two unrelated codes
// differ in 64 of their first 128 bits, give or take 6: at radius 31 next to none pass, and none that is near fails.
// Whatever numbers the buffers hold, nothing outside of them is read.

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_levels.h"

#define WORDS 4
#define FRONT 2
#define AHEAD 256  // rows fetched ahead: the processor's own fetching ends with each page of 4 KiB

typedef struct {
    const uint64_t *fronts, *codes;
    uint64_t query[WORDS];
    size_t rows, count, room;
    unsigned radius;
    int64_t *found;
} Scan;

INLINE unsigned apart(const uint64_t *code, const uint64_t *query, int words) {
    unsigned bits = 0;
    for (int word = 0; word < words; word++) bits += (unsigned)__builtin_popcountll(code[word] ^ query[word]);
    return bits;
}

// Rows [from, to), in order. Not 0 where memory ran out.
INLINE int look(Scan *s, size_t from, size_t to) {
    for (; from < to; from++) {
        __builtin_prefetch(s->fronts + (from + AHEAD) * FRONT);
        if (apart(s->fronts + from * FRONT, s->query, FRONT) > s->radius) continue;
        if (apart(s->codes + from * WORDS, s->query, WORDS) > s->radius) continue;
        if (s->count == s->room) {
            size_t room = s->room ? 2 * s->room : 64;
            int64_t *wider = realloc(s->found, room * sizeof *wider);
            if (!wider) return -1;
            s->found = wider;
            s->room = room;
        }
        s->found[s->count++] = (int64_t)from;
    }
    return 0;
}

static int run_portable(Scan *s) { return look(s, 0, s->rows); }

#if X86
POPCNT static int run_popcnt(Scan *s) { return look(s, 0, s->rows); }

WIDE static int run_wide(Scan *s) {
    __m512i wanted = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)s->query));
    __m512i radius = _mm512_set1_epi64(s->radius);
    size_t row = 0;
    for (; row + 8 <= s->rows; row += 8) {
        const uint64_t *at = s->fronts + row * FRONT;
        __builtin_prefetch(at + AHEAD * FRONT);
        __builtin_prefetch(at + AHEAD * FRONT + 8);
        __m512i a = _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(at), wanted));
        __m512i b = _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(at + 8), wanted));
        __m512i far = _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        if (_mm512_cmple_epu64_mask(far, radius) && look(s, row, row + 8)) return -1;
    }
    return look(s, row, s->rows);
}
#endif

static int run(Scan *s, int level) {
    if (level > processor_level()) level = processor_level();
#if X86
    if (level >= 2) return run_wide(s);
    if (level == 1) return run_popcnt(s);
#endif
    return run_portable(s);
}

static PyObject *near(PyObject *self, PyObject *args) {
    Py_buffer fronts, codes, query;
    Scan s = {0};
    int level;
    if (!PyArg_ParseTuple(args, "y*y*y*Ii", &fronts, &codes, &query, &s.radius, &level)) return NULL;
    PyObject *result = NULL;
    s.rows = (size_t)codes.len / (8 * WORDS);
    if ((size_t)codes.len != s.rows * 8 * WORDS || (size_t)fronts.len != s.rows * 8 * FRONT || query.len != 8 * WORDS ||
        (uintptr_t)fronts.buf % 8 || (uintptr_t)codes.buf % 8) {
        PyErr_SetString(PyExc_ValueError, "codes and the query are 32 bytes, fronts 16, as many of each, and aligned");
    } else {
        int failed;
        s.fronts = fronts.buf;
        s.codes = codes.buf;
        memcpy(s.query, query.buf, sizeof s.query);
        Py_BEGIN_ALLOW_THREADS
        failed = run(&s, level);
        Py_END_ALLOW_THREADS
        result = failed ? PyErr_NoMemory()
                        : PyBytes_FromStringAndSize((const char *)s.found, (Py_ssize_t)(s.count * sizeof *s.found));
    }
    free(s.found);
    PyBuffer_Release(&fronts);
    PyBuffer_Release(&codes);
    PyBuffer_Release(&query);
    return result;
}

static PyMethodDef methods[] = {
    {"near", near, METH_VARARGS, "Rows near one code; see _near.pyi."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "hashweir.index._near", "A scan for one code.", 0, methods, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__near(void) { return PyModuleDef_Init(&module); }
