// The inner loops of the indexes: counting sort of one slice, search through slices, flat scans of PDQ and TLSH.
//
// Rows lie in segments of 2^shift rows, so that growth copies nothing. A row is 32 bytes: a PDQ code, or the two bit
// planes of a TLSH body. Below the row count that a call is given, rows never change, and a tombstone only goes from
// 0 to 1. Whatever numbers the buffers hold, nothing outside of them is read or written.
//
// Every loop is written once and compiled for up to three levels of the processor (`_levels.h`), the highest for the
// flat scans. Long because all of them go through the same rows and gather the same hits.

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_levels.h"

#define COUNT(word) ((unsigned)__builtin_popcountll(word))
#define WORDS 4
#define HEAD 3
#define CHUNK 64    // probes whose buckets are fetched together
#define WINDOW 64   // candidates whose codes are under way at once; a power of two
#define AHEAD 128   // rows that a scan fetches ahead: the processor's own fetching ends with each page of 4 KiB
#define BLOCK 512   // rows that all queries of a call pass over before the next ones: 16 KiB, inside the first cache

enum { HAMMING, DIFFXLEN, DIFF };

typedef struct { uint32_t query, row, distance; } Hit;
typedef struct { Hit *at; size_t count, room; } Hits;

typedef struct {
    const uint32_t *starts, *rows, *masks;
    size_t buckets, count, probes;
    unsigned first, width;
    int radius;  // the largest weight of a mask
} Slice;

typedef struct {  // rows first to end - 1, all of them in each of the slices
    size_t first, end, limit, slices_count;
    Slice *slices;
} Layer;

typedef struct {
    const uint64_t **codes;
    const uint8_t **dead, **heads;
    unsigned shift;
    size_t rows, layers_count, queries_count;
    Layer *layers;
    const uint8_t *queries;
    unsigned radius;
    int measure;
    Hits hits;
} Search;

static int push(Hits *hits, size_t query, size_t row, unsigned distance) {
    if (hits->count == hits->room) {
        size_t room = hits->room ? 2 * hits->room : 64;
        Hit *more = realloc(hits->at, room * sizeof(Hit));
        if (!more) return -1;
        hits->at = more;
        hits->room = room;
    }
    hits->at[hits->count++] = (Hit){(uint32_t)query, (uint32_t)row, distance};
    return 0;
}

INLINE const uint64_t *code_at(const Search *s, size_t row) {
    return s->codes[row >> s->shift] + (row & (((size_t)1 << s->shift) - 1)) * WORDS;
}

INLINE int is_dead(const Search *s, size_t row) {
    return __atomic_load_n(s->dead[row >> s->shift] + (row & (((size_t)1 << s->shift) - 1)), __ATOMIC_RELAXED);
}

// Bits first to first + width - 1 of a code, as the number of a bucket; width is 1 to 28.
INLINE uint32_t key_of(const uint64_t *code, unsigned first, unsigned width) {
    unsigned word = first / 64, bit = first % 64;
    uint64_t bits = code[word] >> bit;
    if (bit + width > 64) bits |= code[word + 1] << (64 - bit);
    return (uint32_t)(bits & (((uint64_t)1 << width) - 1));
}

// ── the distances ──

INLINE unsigned hamming_within(const uint64_t *a, const uint64_t *b, unsigned radius) {
    unsigned far = COUNT(a[0] ^ b[0]) + COUNT(a[1] ^ b[1]);
    return far > radius ? far : far + COUNT(a[2] ^ b[2]) + COUNT(a[3] ^ b[3]);
}

// Buckets in Gray code: bits that differ count 1 or 2 as they should; 0 against 3 (high bits differ, both low bits
// are 0) costs 6 instead of 1.
INLINE unsigned body_distance(const uint64_t *a, const uint64_t *b) {
    unsigned far = 0;
    for (int half = 0; half < 2; half++) {
        uint64_t high = a[half] ^ b[half];
        far += COUNT(high) + COUNT(a[half + 2] ^ b[half + 2]) + 5 * COUNT(high & ~(a[half + 2] | b[half + 2]));
    }
    return far;
}

INLINE unsigned around(unsigned a, unsigned b, unsigned range) {
    unsigned apart = a > b ? a - b : b - a;
    return apart < range - apart ? apart : range - apart;
}

// TLSH writes the low digit of a byte first; of these three it matters to the length only.
INLINE unsigned length_of(const uint8_t *head) { return (head[2] & 15u) << 4 | head[2] >> 4; }

// Checksum, two quartile ratios, length: constants 1, 12 and 12 of TLSH's tlsh_impl.cpp.
INLINE unsigned head_distance(const uint8_t *a, const uint8_t *b, int length_counts) {
    unsigned far = a[0] != b[0], low = around(a[1] & 15, b[1] & 15, 16), high = around(a[1] >> 4, b[1] >> 4, 16);
    far += (low <= 1 ? low : 12 * (low - 1)) + (high <= 1 ? high : 12 * (high - 1));
    if (length_counts) {
        unsigned length = around(length_of(a), length_of(b), 256);
        far += length <= 1 ? length : 12 * length;
    }
    return far;
}

// ── flat scans ──

INLINE int scan_row(Search *s, size_t number, const uint64_t *query, const uint8_t *head, size_t row) {
    unsigned far = s->measure ? body_distance(code_at(s, row), query) : hamming_within(code_at(s, row), query, s->radius);
    if (far > s->radius) return 0;
    if (s->measure) {
        size_t within = row & (((size_t)1 << s->shift) - 1);
        far += head_distance(s->heads[row >> s->shift] + within * HEAD, head, s->measure == DIFF);
    }
    return far > s->radius || is_dead(s, row) ? 0 : push(&s->hits, number, row, far);
}

#if X86
// Which of eight rows in a run are within the radius by their body; not in the rows' order.
WIDE static inline __mmask8 wide_near(const uint64_t *code, __m512i query, __m512i radius, int tlsh) {
    __m512i sums[4];
    for (int pair = 0; pair < 4; pair++) {
        __m512i bits = _mm512_loadu_si512(code + pair * 2 * WORDS), apart = _mm512_xor_si512(bits, query);
        sums[pair] = _mm512_popcnt_epi64(apart);
        if (tlsh) {  // lanes 0, 1 of each row are high planes, lanes 2, 3 are low ones
            __m512i low = _mm512_permutex_epi64(_mm512_or_si512(bits, query), 0xEE);
            __m512i extreme = _mm512_popcnt_epi64(_mm512_maskz_andnot_epi64(0x33, low, apart));
            sums[pair] = _mm512_add_epi64(sums[pair], _mm512_add_epi64(extreme, _mm512_slli_epi64(extreme, 2)));
        }
    }
    __m512i a = _mm512_add_epi64(_mm512_unpacklo_epi64(sums[0], sums[1]), _mm512_unpackhi_epi64(sums[0], sums[1]));
    __m512i b = _mm512_add_epi64(_mm512_unpacklo_epi64(sums[2], sums[3]), _mm512_unpackhi_epi64(sums[2], sums[3]));
    __m512i far = _mm512_add_epi64(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xDD));
    return _mm512_cmple_epu64_mask(far, radius);
}

WIDE static int wide_scan(Search *s, size_t number, const uint64_t *query, const uint8_t *head, size_t from, size_t to,
                          int tlsh) {
    __m512i wanted = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)query));
    __m512i radius = _mm512_set1_epi64(s->radius);
    const uint64_t *code = code_at(s, from);
    for (; from + 8 <= to; from += 8, code += 8 * WORDS) {
        for (int line = 0; line < 4; line++) __builtin_prefetch(code + (AHEAD + 2 * line) * WORDS);
        if (!wide_near(code, wanted, radius, tlsh)) continue;
        for (size_t row = from; row < from + 8; row++)
            if (scan_row(s, number, query, head, row)) return -1;
    }
    for (; from < to; from++)
        if (scan_row(s, number, query, head, from)) return -1;
    return 0;
}
#endif

INLINE int scan_rows(Search *s, size_t number, const uint64_t *query, const uint8_t *head, size_t from, size_t to) {
    for (; from < to; from++) {
        __builtin_prefetch(code_at(s, from) + AHEAD * WORDS);
        if (scan_row(s, number, query, head, from)) return -1;
    }
    return 0;
}

// Rows from firsts[query] on, for every query, in blocks that never cross a segment.
INLINE int scan(Search *s, const size_t *firsts, int level) {
    size_t size = WORDS * 8 + (s->measure ? HEAD : 0), low = s->rows;
    for (size_t q = 0; q < s->queries_count; q++)
        if (firsts[q] < low) low = firsts[q];
    for (size_t end; low < s->rows; low = end) {
        end = low / BLOCK * BLOCK + BLOCK;
        if (end > s->rows) end = s->rows;
        for (size_t q = 0; q < s->queries_count; q++) {
            size_t from = firsts[q] > low ? firsts[q] : low;
            if (from >= end) continue;
            uint64_t query[WORDS];
            memcpy(query, s->queries + q * size, sizeof query);
            const uint8_t *head = s->queries + q * size + sizeof query;
#if X86
            if (level == 2 ? wide_scan(s, q, query, head, from, end, s->measure)
                           : scan_rows(s, q, query, head, from, end)) return -1;
#else
            if (scan_rows(s, q, query, head, from, end)) return -1;
#endif
        }
    }
    return 0;
}

// ── slices ──

typedef struct { uint32_t from, to; } Span;
typedef struct { uint32_t row, slice; } Candidate;

static int by_row(const void *a, const void *b) {
    uint32_t x = ((const Hit *)a)->row, y = ((const Hit *)b)->row;
    return (x > y) - (x < y);
}

// A row is reported only by the first of its layer's slices that match it, so it is reported once.
INLINE int check(Search *s, const Layer *layer, size_t number, const uint64_t *query, Candidate one) {
    const uint64_t *code = code_at(s, one.row);
    unsigned far = hamming_within(code, query, s->radius);
    if (far > s->radius || is_dead(s, one.row)) return 0;
    for (size_t earlier = 0; earlier < one.slice; earlier++) {
        const Slice *slice = &layer->slices[earlier];
        uint32_t apart = key_of(code, slice->first, slice->width) ^ key_of(query, slice->first, slice->width);
        if ((int)COUNT(apart) <= slice->radius) return 0;
    }
    return push(&s->hits, number, one.row, far);
}

INLINE void touch(const Slice *slice, uint32_t key, size_t from, size_t to) {
    for (size_t probe = from; probe < to; probe++)
        __builtin_prefetch(slice->starts + ((key ^ slice->masks[probe]) & (slice->buckets - 1)));
}

// All rows of a layer for one query. 1: there are more candidates than a scan would cost, and nothing was done.
INLINE int probe_slices(Search *s, const Layer *layer, size_t number, Span *spans, size_t *ends) {
    uint64_t query[WORDS];
    memcpy(query, s->queries + number * sizeof query, sizeof query);
    size_t count = 0, candidates = 0, begun = s->hits.count;
    for (const Slice *slice = layer->slices; slice < layer->slices + layer->slices_count; slice++)
        touch(slice, key_of(query, slice->first, slice->width), 0, slice->probes < CHUNK ? slice->probes : CHUNK);
    for (size_t index = 0; index < layer->slices_count; index++) {
        const Slice *slice = &layer->slices[index];
        uint32_t key = key_of(query, slice->first, slice->width);
        for (size_t from = 0, to; from < slice->probes; from = to) {
            to = slice->probes - from < CHUNK ? slice->probes : from + CHUNK;
            touch(slice, key, to, slice->probes - to < CHUNK ? slice->probes : to + CHUNK);
            for (size_t probe = from; probe < to; probe++) {
                size_t bucket = (key ^ slice->masks[probe]) & (slice->buckets - 1);
                Span span = {slice->starts[bucket], slice->starts[bucket + 1]};
                int some = span.from < span.to && span.to <= slice->count;
                spans[count] = span;
                count += some;
                candidates += some ? span.to - span.from : 0;
                __builtin_prefetch(slice->rows + span.from);
            }
        }
        ends[index] = count;
    }
    if (candidates > layer->limit) return 1;
    Candidate ring[WINDOW];
    size_t seen = 0, at = 0;
    for (uint32_t index = 0; index < layer->slices_count; index++)
        for (; at < ends[index]; at++)
            for (size_t place = spans[at].from; place < spans[at].to; place++) {
                uint32_t row = layer->slices[index].rows[place];
                if (row < layer->first || row >= layer->end) continue;  // a younger layer's, or the scan's
                __builtin_prefetch(code_at(s, row));
                Candidate *slot = &ring[seen % WINDOW];
                if (seen++ >= WINDOW && check(s, layer, number, query, *slot)) return -1;
                *slot = (Candidate){row, index};
            }
    for (size_t rest = seen < WINDOW ? 0 : seen - WINDOW; rest < seen; rest++)
        if (check(s, layer, number, query, ring[rest % WINDOW])) return -1;
    if (s->hits.count > begun + 1) qsort(s->hits.at + begun, s->hits.count - begun, sizeof(Hit), by_row);
    return 0;
}

INLINE int run(Search *s, int level) {
    size_t probes = 1, slices = 1;
    for (const Layer *layer = s->layers; layer < s->layers + s->layers_count; layer++) {
        size_t here = 1;
        for (size_t index = 0; index < layer->slices_count; index++) here += layer->slices[index].probes;
        if (here > probes) probes = here;
        if (layer->slices_count > slices) slices = layer->slices_count;
    }
    Span *spans = malloc(probes * sizeof *spans);
    size_t *ends = malloc(slices * sizeof *ends);
    size_t *firsts = calloc(s->queries_count + 1, sizeof *firsts);
    int failed = !spans || !ends || !firsts;
    for (size_t q = 0; q < s->queries_count && !failed; q++)
        for (const Layer *layer = s->layers; layer < s->layers + s->layers_count; layer++) {
            int scan_it = probe_slices(s, layer, q, spans, ends);
            failed = scan_it < 0;
            if (scan_it) break;
            firsts[q] = layer->end;
        }
    failed = failed || scan(s, firsts, level);
    free(spans);
    free(ends);
    free(firsts);
    return failed;
}

static int run_portable(Search *s) { return run(s, 0); }
#if X86
POPCNT static int run_popcnt(Search *s) { return run(s, 1); }
WIDE static int run_wide(Search *s) { return run(s, 2); }
#endif

static int run_at(Search *s, int level) {
    if (level > processor_level()) level = processor_level();
#if X86
    if (level == 2) return run_wide(s);
    if (level == 1) return run_popcnt(s);
#endif
    return run_portable(s);
}

// ── the way in and out of Python ──

typedef struct { Py_buffer *at; Py_ssize_t count; } Held;

static const void *hold(Held *held, PyObject *owner, size_t least, size_t align, int writable) {
    Py_buffer *view = &held->at[held->count];
    if (PyObject_GetBuffer(owner, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)) return NULL;
    held->count++;
    if ((size_t)view->len < least || (uintptr_t)view->buf % align) {
        PyErr_SetString(PyExc_ValueError, "a buffer is too short or not aligned");
        return NULL;
    }
    return view->buf;
}

static void let_go(Held *held) {
    while (held->count) PyBuffer_Release(&held->at[--held->count]);
    PyMem_Free(held->at);
}

// Pointers to the segments of `rows` rows of `width` bytes. NULL with an error set.
static const void **hold_segments(Held *held, PyObject *segments, size_t rows, unsigned shift, size_t width,
                                  size_t align) {
    size_t each = (size_t)1 << shift, count = (rows + each - 1) >> shift;
    if ((size_t)PyTuple_GET_SIZE(segments) < count) {
        PyErr_SetString(PyExc_ValueError, "fewer segments than rows need");
        return NULL;
    }
    const void **at = PyMem_Calloc(count + 1, sizeof *at);
    if (!at) return (const void **)PyErr_NoMemory();
    for (size_t index = 0; index < count; index++) {
        size_t here = index + 1 < count ? each : rows - index * each;
        at[index] = hold(held, PyTuple_GET_ITEM(segments, index), here * width, align, 0);
        if (!at[index]) {
            PyMem_Free(at);
            return NULL;
        }
    }
    return at;
}

static int hold_slice(Held *held, PyObject *fields, Slice *slice) {
    PyObject *starts, *rows, *masks;
    if (!PyTuple_Check(fields)) {
        PyErr_SetString(PyExc_TypeError, "a slice is a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(fields, "IIiOOO", &slice->first, &slice->width, &slice->radius, &masks, &starts, &rows))
        return -1;
    if (slice->width < 1 || slice->width > 28 || slice->first > 256 - slice->width) {
        PyErr_SetString(PyExc_ValueError, "a slice has 1 to 28 of 256 bits");
        return -1;
    }
    slice->buckets = (size_t)1 << slice->width;
    if (!(slice->masks = hold(held, masks, 0, 4, 0))) return -1;
    slice->probes = (size_t)held->at[held->count - 1].len / 4;
    if (!(slice->starts = hold(held, starts, (slice->buckets + 1) * 4, 4, 0))) return -1;
    if (!(slice->rows = hold(held, rows, 0, 4, 0))) return -1;
    slice->count = (size_t)held->at[held->count - 1].len / 4;
    return 0;
}

// Layers follow each other from row 0 on. Their slices lie one after the other in `slices`.
static int hold_layer(Held *held, PyObject *fields, size_t begin, size_t rows, Layer *layer, Slice *slices) {
    Py_ssize_t first, end, limit;
    PyObject *ways;
    if (!PyArg_ParseTuple(fields, "nnnO!", &first, &end, &limit, &PyTuple_Type, &ways)) return -1;
    if (first < 0 || (size_t)first != begin || end < first || (size_t)end > rows || limit < 0) {
        PyErr_SetString(PyExc_ValueError, "a layer's number is out of its range");
        return -1;
    }
    *layer = (Layer){(size_t)first, (size_t)end, (size_t)limit, (size_t)PyTuple_GET_SIZE(ways), slices};
    for (size_t index = 0; index < layer->slices_count; index++)
        if (hold_slice(held, PyTuple_GET_ITEM(ways, (Py_ssize_t)index), &slices[index])) return -1;
    return 0;
}

// How many slices there are in layers; -1 with an error set where one is no layer.
static Py_ssize_t slices_of(PyObject *layers) {
    Py_ssize_t count = 0;
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(layers); index++) {
        PyObject *fields = PyTuple_GET_ITEM(layers, index);
        if (!PyTuple_Check(fields) || PyTuple_GET_SIZE(fields) != 4 || !PyTuple_Check(PyTuple_GET_ITEM(fields, 3))) {
            PyErr_SetString(PyExc_TypeError, "a layer is a tuple of three numbers and its slices");
            return -1;
        }
        count += PyTuple_GET_SIZE(PyTuple_GET_ITEM(fields, 3));
    }
    return count;
}

// Three runs of int64: query, row, distance; ordered by query, then row. Within a query, hits lie in order of rows.
static PyObject *columns(const Hits *hits, size_t queries) {
    PyObject *found = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(hits->count * 3 * sizeof(int64_t)));
    size_t *next = PyMem_Calloc(queries + 1, sizeof *next);
    if (!found || !next) {
        Py_XDECREF(found);
        PyMem_Free(next);
        return PyErr_NoMemory();
    }
    int64_t *query = (int64_t *)PyByteArray_AS_STRING(found), *row = query + hits->count, *far = row + hits->count;
    for (size_t at = 0; at < hits->count; at++) next[hits->at[at].query + 1]++;
    for (size_t q = 1; q <= queries; q++) next[q] += next[q - 1];
    for (size_t at = 0; at < hits->count; at++) {
        size_t place = next[hits->at[at].query]++;
        query[place] = hits->at[at].query;
        row[place] = hits->at[at].row;
        far[place] = hits->at[at].distance;
    }
    PyMem_Free(next);
    return found;
}

static PyObject *search(PyObject *self, PyObject *args) {
    PyObject *codes, *heads, *dead, *layers, *queries, *found = NULL;
    Py_ssize_t rows, slices_count;
    unsigned radius;
    int level;
    Search s = {0};
    if (!PyArg_ParseTuple(args, "O!O!O!InO!OIii", &PyTuple_Type, &codes, &PyTuple_Type, &heads, &PyTuple_Type, &dead,
                          &s.shift, &rows, &PyTuple_Type, &layers, &queries, &radius, &s.measure, &level))
        return NULL;
    if (s.shift < 9 || s.shift > 31 || rows < 0 || (size_t)rows > UINT32_MAX || radius > 1u << 20 ||
        s.measure < HAMMING || s.measure > DIFF || (s.measure && PyTuple_GET_SIZE(layers))) {
        PyErr_SetString(PyExc_ValueError, "a number is out of its range");
        return NULL;
    }
    if ((slices_count = slices_of(layers)) < 0) return NULL;
    Py_ssize_t views = PyTuple_GET_SIZE(codes) + PyTuple_GET_SIZE(heads) + PyTuple_GET_SIZE(dead) +
                       3 * slices_count + 1;
    Held held = {PyMem_Calloc((size_t)views, sizeof(Py_buffer)), 0};
    Slice *slices = PyMem_Calloc((size_t)slices_count + 1, sizeof(Slice));
    s.layers_count = (size_t)PyTuple_GET_SIZE(layers);
    s.layers = PyMem_Calloc(s.layers_count + 1, sizeof(Layer));
    if (!held.at || !slices || !s.layers) {
        PyErr_NoMemory();
        goto done;
    }
    s.rows = (size_t)rows, s.radius = radius;
    size_t size = WORDS * 8 + (s.measure ? HEAD : 0);
    if (!(s.queries = hold(&held, queries, 0, 1, 0))) goto done;
    s.queries_count = (size_t)held.at[0].len / size;
    if ((size_t)held.at[0].len % size || s.queries_count > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "queries are 32 bytes each, with heads 35");
        goto done;
    }
    if (!(s.codes = (const uint64_t **)hold_segments(&held, codes, s.rows, s.shift, WORDS * 8, 8))) goto done;
    if (!(s.dead = (const uint8_t **)hold_segments(&held, dead, s.rows, s.shift, 1, 1))) goto done;
    if (s.measure && !(s.heads = (const uint8_t **)hold_segments(&held, heads, s.rows, s.shift, HEAD, 1))) goto done;
    size_t begin = 0;
    Slice *next = slices;
    for (size_t index = 0; index < s.layers_count; index++) {
        Layer *layer = &s.layers[index];
        if (hold_layer(&held, PyTuple_GET_ITEM(layers, (Py_ssize_t)index), begin, s.rows, layer, next)) goto done;
        begin = layer->end;
        next += layer->slices_count;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = run_at(&s, level);
    Py_END_ALLOW_THREADS
    found = failed ? PyErr_NoMemory() : columns(&s.hits, s.queries_count);
done:
    free(s.hits.at);
    PyMem_Free(slices);
    PyMem_Free(s.layers);
    PyMem_Free((void *)s.codes);
    PyMem_Free((void *)s.dead);
    PyMem_Free((void *)s.heads);
    let_go(&held);
    return found;
}

// After the second pass, starts[b] has moved to the end of bucket b, which is where bucket b + 1 starts.
static void sort_rows(const Search *s, size_t from, unsigned first, unsigned width, uint32_t *starts,
                      uint32_t *rows) {
    size_t buckets = (size_t)1 << width;
    uint32_t before = 0;
    memset(starts, 0, (buckets + 1) * 4);
    for (size_t row = from; row < s->rows; row++) starts[key_of(code_at(s, row), first, width)]++;
    for (size_t bucket = 0; bucket < buckets; bucket++) {
        uint32_t here = starts[bucket];
        starts[bucket] = before;
        before += here;
    }
    for (size_t row = from; row < s->rows; row++) rows[starts[key_of(code_at(s, row), first, width)]++] = (uint32_t)row;
    memmove(starts + 1, starts, buckets * 4);
    starts[0] = 0;
}

static PyObject *build(PyObject *self, PyObject *args) {
    PyObject *codes, *starts_at, *rows_at, *result = NULL;
    Py_ssize_t from, end;
    unsigned first, width;
    Search s = {0};
    if (!PyArg_ParseTuple(args, "O!InnIIOO", &PyTuple_Type, &codes, &s.shift, &from, &end, &first, &width, &starts_at,
                          &rows_at))
        return NULL;
    if (s.shift < 9 || s.shift > 31 || from < 0 || end < from || (size_t)end > UINT32_MAX || width < 1 || width > 28 ||
        first > 256 - width) {
        PyErr_SetString(PyExc_ValueError, "a number is out of its range");
        return NULL;
    }
    Held held = {PyMem_Calloc((size_t)PyTuple_GET_SIZE(codes) + 2, sizeof(Py_buffer)), 0};
    if (!held.at) return PyErr_NoMemory();
    s.rows = (size_t)end;
    uint32_t *starts = (uint32_t *)hold(&held, starts_at, (((size_t)1 << width) + 1) * 4, 4, 1), *rows = NULL;
    if (starts) rows = (uint32_t *)hold(&held, rows_at, (size_t)(end - from) * 4, 4, 1);
    if (rows) s.codes = (const uint64_t **)hold_segments(&held, codes, s.rows, s.shift, WORDS * 8, 8);
    if (s.codes) {
        Py_BEGIN_ALLOW_THREADS
        sort_rows(&s, (size_t)from, first, width, starts, rows);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    PyMem_Free((void *)s.codes);
    let_go(&held);
    return result;
}

static PyMethodDef methods[] = {
    {"search", search, METH_VARARGS, "Rows within a radius; see _native.pyi."},
    {"build", build, METH_VARARGS, "Sort rows by one slice; see _native.pyi."},
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module) {
    return PyModule_AddIntConstant(module, "LEVEL", processor_level()) ||
           PyModule_AddIntConstant(module, "HAMMING", HAMMING) ||
           PyModule_AddIntConstant(module, "DIFFXLEN", DIFFXLEN) || PyModule_AddIntConstant(module, "DIFF", DIFF);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "hashweir.index._native", "The inner loops of the indexes.", 0, methods, module_slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module); }
