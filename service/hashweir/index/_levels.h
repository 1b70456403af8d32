// Faster instructions of x86-64, by levels: 0 portable, 1 with POPCNT, 2 with AVX-512 VPOPCNTDQ as well.

#ifndef HASHWEIR_LEVELS_H
#define HASHWEIR_LEVELS_H

#define INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#define POPCNT __attribute__((target("popcnt")))
#define WIDE __attribute__((target("popcnt,avx512f,avx512vpopcntdq")))
#else
#define X86 0
#endif

// The highest level of this processor.
static inline int processor_level(void) {
#if X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("popcnt")) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vpopcntdq") ? 2 : 1;
#else
    return 0;
#endif
}

#endif
