/* Vectors as long as a register: included for each type and instruction set, behind set.h. */

#define MOST_LANES (VECTOR_BYTES / 4)
#define PER_LANE ((ptrdiff_t)(VECTOR_BYTES / sizeof(REAL)))
typedef REAL N(lane) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INT N(ints) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* Loops of constant length around sums that are to stay in registers: GCC has them in memory where it finds out too late. */
#if defined(__clang__)
#define UNROLLED
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

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

/* Of each two lanes that are `far` apart the sum, in the first one that of a, in the second that of b. */
ALWAYS N(lane) N(folded)(N(lane) a, N(lane) b, const INT far) {
#if defined(__clang__) /* which finds the shuffles in this */
    N(lane) found;
    for (INT r = 0; r < PER_LANE; r++) found[r] = r & far ? b[r] + b[r ^ far] : a[r] + a[r ^ far];
    return found;
#else
    N(ints) own, other, swapped;
    for (INT r = 0; r < PER_LANE; r++) {
        own[r] = r & far ? r + PER_LANE : r;
        other[r] = r & far ? r : r + PER_LANE;
        swapped[r] = r ^ far;
    }
    return __builtin_shuffle(a, b, own) + __builtin_shuffle(__builtin_shuffle(a, b, other), swapped);
#endif
}

/* The sums of the lanes of as many vectors as have lanes, which are spoilt. */
ALWAYS N(lane) N(summed)(N(lane) *v) {
#define FOLD(far) \
    for (int k = 0; k < PER_LANE / (2 * far); k++) v[k] = N(folded)(v[2 * k], v[2 * k + 1], far)
    FOLD(1);
    if (PER_LANE > 2) FOLD(2);
    if (PER_LANE > 4) FOLD(4);
    if (PER_LANE > 8) FOLD(8);
#undef FOLD
    return v[0];
}
