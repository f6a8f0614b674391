/* One instruction set: the file OF_A_TYPE for both types. SET is its name, HAS_FMA whether it multiplies and adds in one
 * rounding, VECTOR_BYTES the size of its registers. */

#define JOIN_(a, b, c) a##b##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define D(name) JOIN(name, _double_, SET)

#define IS_FLOAT 0
#define REAL double
#define INT int64_t
#define UINT uint64_t
#define N(name) JOIN(name, _double_, SET)
#if HAS_FMA
#define FMA(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#include OF_A_TYPE
#undef IS_FLOAT
#undef REAL
#undef INT
#undef UINT
#undef N
#undef FMA

#define IS_FLOAT 1
#define REAL float
#define INT int32_t
#define UINT uint32_t
#define N(name) JOIN(name, _float_, SET)
#if HAS_FMA
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#include OF_A_TYPE
#undef IS_FLOAT
#undef REAL
#undef INT
#undef UINT
#undef N
#undef FMA

#undef D
#undef SET
#undef HAS_FMA
#undef VECTOR_BYTES
