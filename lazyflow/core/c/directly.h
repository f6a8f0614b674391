/* Products by kernels of our own: included once for each type and instruction set. See products.c. */

#include "multiply.h"

/* Sums in one precision that are added one after the other have so many terms at the most. */
#define STRETCH 512

/* out = a b, of which no vector is read beyond the columns. */
static void N(by_stretches)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t rows,
                            ptrdiff_t columns, ptrdiff_t inner) {
    for (ptrdiff_t k = 0; k < inner || !k; k += STRETCH) {
        N(matrix) from = {a.at + k * a.right, a.down, a.right};
        ptrdiff_t some = inner - k < STRETCH ? inner - k : STRETCH;
        N(multiplied)(out, pitch, from, b + k * b_pitch, b_pitch, rows, columns, some, k > 0, 0);
    }
}

/* All products, of matrices that have their rows (`PLAIN`) or columns (`UPRIGHT`) of b one element behind the other. */
static void N(multiply_directly)(const lf_product *p, int how) {
    const ptrdiff_t size = sizeof(REAL), *steps = p->steps;
    for (ptrdiff_t k = 0; k < p->sizes[0]; k++) {
        N(matrix) a = {(const REAL *)(p->a + k * steps[0]), steps[3] / size, steps[4] / size};
        const REAL *b = (const REAL *)(p->b + k * steps[1]);
        REAL *out = (REAL *)(p->out + k * steps[2]);
        if (how == PLAIN)
            N(by_stretches)(out, steps[7] / size, a, b, steps[5] / size, p->sizes[1], p->sizes[3], p->sizes[2]);
        else
            N(dots)(out, steps[7] / size, a, (N(matrix)){b, steps[6] / size, 1}, p->sizes[1], p->sizes[3], p->sizes[2]);
    }
}

#undef STRETCH
#undef TALL
#undef BROAD
#undef DOTS
#undef NEAR
#undef MOST_LANES
#undef PER_LANE
#undef UNROLLED
#undef SUM
