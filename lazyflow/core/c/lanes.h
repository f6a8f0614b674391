/* Vectors as long as a register: included for each type and instruction set, behind set.h. */

#define MOST_LANES (VECTOR_BYTES / 4)
typedef REAL N(lane) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* a * b + c in one rounding, where the set has that. */
#if VECTOR_BYTES == 64 && IS_FLOAT
#define SUM(a, b, c) (N(lane))_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#elif VECTOR_BYTES == 64
#define SUM(a, b, c) (N(lane))_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#elif VECTOR_BYTES == 32 && IS_FLOAT
#define SUM(a, b, c) (N(lane))_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#elif VECTOR_BYTES == 32
#define SUM(a, b, c) (N(lane))_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#else
#define SUM(a, b, c) ((a) * (b) + (c))
#endif
