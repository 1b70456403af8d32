/* Sums of chunks: over all slots the first 52 bits of SHA-1(slot number u32, slot 64 bytes, side record 40 bytes),
 * big-endian, added mod 2^52 (`layout.slot_sum`). SHA-1 as in FIPS 180-4, section 6.1.2.
 *
 * The 108 bytes of a slot are always two blocks of 64, so the padding is written once. Only immutable `bytes` are
 * read, their lengths are checked first, and the interpreter lock is released meanwhile.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define SLOT 64
#define SIDE 40
#define BLOCKS 2
#define MODULUS_MASK ((UINT64_C(1) << 52) - 1)

typedef void (*compress_fn)(uint32_t state[5], const uint8_t *blocks, int count);

static uint32_t rotl(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void compress_portable(uint32_t state[5], const uint8_t *p, int count) {
    for (; count > 0; count--, p += 64) {
        uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
        for (int t = 0; t < 16; t++)
            w[t] = (uint32_t)p[4 * t] << 24 | (uint32_t)p[4 * t + 1] << 16 | (uint32_t)p[4 * t + 2] << 8 | p[4 * t + 3];
        for (int t = 16; t < 80; t++) w[t] = rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
        for (int t = 0; t < 80; t++) {
            uint32_t f, k;
            if (t < 20) f = d ^ (b & (c ^ d)), k = 0x5a827999;
            else if (t < 40) f = b ^ c ^ d, k = 0x6ed9eba1;
            else if (t < 60) f = (b & c) | (d & (b | c)), k = 0x8f1bbcdc;
            else f = b ^ c ^ d, k = 0xca62c1d6;
            uint32_t next = rotl(a, 5) + f + e + k + w[t];
            e = d, d = c, c = rotl(b, 30), b = a, a = next;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define HAVE_SHA_NI 1

static int has_sha_ni(void) {
    unsigned a, b = 0, c, d; /* leaf 7: SHA is bit 29 of EBX; older compilers do not know its name */
    return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3") && __get_cpuid_count(7, 0, &a, &b, &c, &d)
           && b >> 29 & 1;
}

/* Four rounds take one vector of four words; `m` holds the last sixteen. The round function's number must be a
 * constant, hence the macro. */
#define FOUR_ROUNDS(t, f)                                                                  \
    do {                                                                                   \
        __m128i word = m[(t) % 4];                                                         \
        e1 = (t) == 0 ? _mm_add_epi32(e0, word) : _mm_sha1nexte_epu32(e0, word);           \
        e0 = abcd;                                                                         \
        abcd = _mm_sha1rnds4_epu32(abcd, e1, f);                                           \
        if ((t) < 16) {                                                                    \
            __m128i x = _mm_xor_si128(_mm_sha1msg1_epu32(word, m[((t) + 1) % 4]), m[((t) + 2) % 4]); \
            m[(t) % 4] = _mm_sha1msg2_epu32(x, m[((t) + 3) % 4]);                          \
        }                                                                                  \
    } while (0)

__attribute__((target("sha,sse4.1,ssse3"))) static void compress_sha_ni(uint32_t state[5], const uint8_t *p, int count) {
    const __m128i swap = _mm_set_epi64x(0x0001020304050607LL, 0x08090a0b0c0d0e0fLL);
    __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0x1b);
    __m128i e0 = _mm_set_epi32((int)state[4], 0, 0, 0), e1, m[4];
    for (; count > 0; count--, p += 64) {
        const __m128i abcd_before = abcd, e_before = e0;
        for (int i = 0; i < 4; i++) m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
        FOUR_ROUNDS(0, 0); FOUR_ROUNDS(1, 0); FOUR_ROUNDS(2, 0); FOUR_ROUNDS(3, 0); FOUR_ROUNDS(4, 0);
        FOUR_ROUNDS(5, 1); FOUR_ROUNDS(6, 1); FOUR_ROUNDS(7, 1); FOUR_ROUNDS(8, 1); FOUR_ROUNDS(9, 1);
        FOUR_ROUNDS(10, 2); FOUR_ROUNDS(11, 2); FOUR_ROUNDS(12, 2); FOUR_ROUNDS(13, 2); FOUR_ROUNDS(14, 2);
        FOUR_ROUNDS(15, 3); FOUR_ROUNDS(16, 3); FOUR_ROUNDS(17, 3); FOUR_ROUNDS(18, 3); FOUR_ROUNDS(19, 3);
        e0 = _mm_sha1nexte_epu32(e0, e_before);
        abcd = _mm_add_epi32(abcd, abcd_before);
    }
    _mm_storeu_si128((__m128i *)state, _mm_shuffle_epi32(abcd, 0x1b));
    state[4] = (uint32_t)_mm_extract_epi32(e0, 3);
}
#else
static int has_sha_ni(void) { return 0; }
#define compress_sha_ni compress_portable
#endif

static compress_fn compress = compress_portable;

static void prepare(uint8_t block[64 * BLOCKS]) {
    memset(block, 0, 64 * BLOCKS);
    block[4 + SLOT + SIDE] = 0x80;
    block[64 * BLOCKS - 2] = (4 + SLOT + SIDE) * 8 >> 8;
    block[64 * BLOCKS - 1] = (4 + SLOT + SIDE) * 8 & 255;
}

static uint64_t share(compress_fn with, uint8_t block[64 * BLOCKS], uint32_t slot, const uint8_t *image, const uint8_t *side) {
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    for (int b = 0; b < 4; b++) block[b] = (uint8_t)(slot >> (24 - 8 * b));
    memcpy(block + 4, image, SLOT);
    memcpy(block + 4 + SLOT, side, SIDE);
    with(state, block, BLOCKS);
    return (uint64_t)state[0] << 20 | state[1] >> 12;
}

static uint64_t sum_of(compress_fn with, uint32_t first, const uint8_t *slots, const uint8_t *sides, Py_ssize_t count) {
    uint8_t block[64 * BLOCKS];
    prepare(block);
    uint64_t sum = 0;
    for (Py_ssize_t i = 0; i < count; i++) /* wraps mod 2^64, of which 2^52 is a divisor */
        sum += share(with, block, first + (uint32_t)i, slots + i * SLOT, sides + i * SIDE);
    return sum & MODULUS_MASK;
}

static PyObject *chunk_sum_with(compress_fn with, PyObject *args) {
    unsigned long long first;
    PyObject *number, *slots, *sides;
    if (!PyArg_ParseTuple(args, "OSS", &number, &slots, &sides)) return NULL;
    first = PyLong_AsUnsignedLongLong(number);
    if (first == (unsigned long long)-1 && PyErr_Occurred()) return NULL;
    Py_ssize_t length = PyBytes_GET_SIZE(slots), count = length / SLOT;
    if (length % SLOT || PyBytes_GET_SIZE(sides) % SIDE || PyBytes_GET_SIZE(sides) / SIDE != count) {
        PyErr_SetString(PyExc_ValueError, "slots are 64 bytes and side records 40 bytes, as many of the one as of the other");
        return NULL;
    }
    if (first > UINT32_MAX || (unsigned long long)count > UINT32_MAX - first) {
        PyErr_SetString(PyExc_ValueError, "slot numbers are below 2^32");
        return NULL;
    }
    const uint8_t *a = (const uint8_t *)PyBytes_AS_STRING(slots), *b = (const uint8_t *)PyBytes_AS_STRING(sides);
    uint64_t sum;
    Py_BEGIN_ALLOW_THREADS sum = sum_of(with, (uint32_t)first, a, b, count);
    Py_END_ALLOW_THREADS return PyLong_FromUnsignedLongLong(sum);
}

static PyObject *chunk_sum(PyObject *self, PyObject *args) { return chunk_sum_with(compress, args); }

static PyObject *chunk_sum_portable(PyObject *self, PyObject *args) { return chunk_sum_with(compress_portable, args); }

/* The shares of slots by themselves: numbers as uint32, results as uint64, both in the machine's order. */
static PyObject *slot_sums(PyObject *self, PyObject *args) {
    PyObject *numbers, *slots, *sides;
    if (!PyArg_ParseTuple(args, "SSS", &numbers, &slots, &sides)) return NULL;
    Py_ssize_t count = PyBytes_GET_SIZE(numbers) / 4;
    if (PyBytes_GET_SIZE(numbers) % 4 || PyBytes_GET_SIZE(slots) % SLOT || PyBytes_GET_SIZE(slots) / SLOT != count ||
        PyBytes_GET_SIZE(sides) % SIDE || PyBytes_GET_SIZE(sides) / SIDE != count) {
        PyErr_SetString(PyExc_ValueError, "numbers are 4 bytes, slots 64 and side records 40, as many of each");
        return NULL;
    }
    PyObject *found = PyBytes_FromStringAndSize(NULL, count * 8);
    if (!found) return NULL;
    const char *n = PyBytes_AS_STRING(numbers);
    const uint8_t *a = (const uint8_t *)PyBytes_AS_STRING(slots), *b = (const uint8_t *)PyBytes_AS_STRING(sides);
    char *to = PyBytes_AS_STRING(found);
    Py_BEGIN_ALLOW_THREADS uint8_t block[64 * BLOCKS];
    prepare(block);
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t slot;
        memcpy(&slot, n + 4 * i, 4);
        uint64_t sum = share(compress, block, slot, a + i * SLOT, b + i * SIDE);
        memcpy(to + 8 * i, &sum, 8);
    }
    Py_END_ALLOW_THREADS return found;
}

static PyObject *accelerated(PyObject *self, PyObject *args) { return PyBool_FromLong(compress != compress_portable); }

static PyMethodDef methods[] = {
    {"chunk_sum", chunk_sum, METH_VARARGS, NULL},
    {"chunk_sum_portable", chunk_sum_portable, METH_VARARGS, NULL},
    {"slot_sums", slot_sums, METH_VARARGS, NULL},
    {"accelerated", accelerated, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sums", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sums(void) {
    if (has_sha_ni()) compress = compress_sha_ni;
    return PyModule_Create(&module);
}
