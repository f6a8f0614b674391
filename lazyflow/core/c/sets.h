/* The file OF_A_TYPE once for each type and instruction set: see set.h. */

#define ALWAYS static inline __attribute__((always_inline))

#define SET baseline
#define HAS_FMA 0
#define VECTOR_BYTES 16
#include "set.h"

#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SET avx2
#define HAS_FMA 1
#define VECTOR_BYTES 32
#include "set.h"
#if defined(__clang__)
#pragma clang attribute pop
/* It knows no preference here, and would leave all of the attribute out for it. */
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")
#endif
#define SET avx512
#define HAS_FMA 1
#define VECTOR_BYTES 64
#include "set.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
